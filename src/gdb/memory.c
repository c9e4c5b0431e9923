/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commands about memory: m, M, X, whether their addresses are virtual or physical, and the points of Z and z, which are always virtual.
 *
 * The switch is QEMU's packet, "maintenance packet Qqemu.PhyMemMode:1" to a person, so that scripts made for QEMU work here. It lasts as long as the
 * debugger is connected.
 *
 * Contract and threading: session.h.
 */
#include "gdb/session.h"

#include <errno.h>
#include <string.h>

#define READ_MAX (GDB_PACKET_MAX / 2)
#define WATCH_MAX MiB

/* "address,length"; what follows is left in *text. */
static bool take_range(const char **text, gva_t *gva, u64 *len)
{
	u64 end;

	if (!gdb_take_hex(text, gva) || **text != ',')
		return false;
	++*text;
	return gdb_take_hex(text, len) && (*len == 0 || !__builtin_add_overflow(*gva, *len - 1, &end));
}

static bool read_some(struct gdb_session *s, gva_t gva, u8 *buf, u32 len)
{
	const struct gdb_target *t = s->target;

	return s->physical ? t->read_physical(t->opaque, gva, buf, len) : t->read(t->opaque, s->cpu, gva, buf, len);
}

/* As far as memory can be read; the protocol allows fewer bytes than were asked for, but not none. */
void gdb_read_memory(struct gdb_session *s, const char *args)
{
	u8 page[PAGE_SIZE];
	gva_t gva;
	u64 len;

	if (!take_range(&args, &gva, &len) || *args)
		return gdb_error(s, EINVAL);
	len = len < READ_MAX ? len : READ_MAX;
	while (len) {
		u64 room = PAGE_SIZE - PAGE_OFFSET(gva);
		u32 part = (u32)(len < room ? len : room);

		if (!read_some(s, gva, page, part))
			break;
		gdb_put_hex(s, page, part);
		gva += part;
		len -= part;
	}
	if (len && s->reply.len == 0)
		gdb_error(s, EFAULT);
}

static void write_bytes(struct gdb_session *s, gva_t gva, const void *bytes, u32 len)
{
	const struct gdb_target *t = s->target;

	if (!(s->physical ? t->write_physical(t->opaque, gva, bytes, len) : t->write(t->opaque, s->cpu, gva, bytes, len)))
		gdb_error(s, EFAULT);
	else
		gdb_ok(s);
}

void gdb_write_memory(struct gdb_session *s, const char *args)
{
	u8 bytes[GDB_PACKET_MAX / 2];
	gva_t gva;
	u64 len;

	if (!take_range(&args, &gva, &len) || *args++ != ':' || len > sizeof(bytes) || strlen(args) != 2 * len ||
	    !gdb_hex_decode(bytes, args, (u32)len))
		return gdb_error(s, EINVAL);
	write_bytes(s, gva, bytes, (u32)len);
}

void gdb_write_binary(struct gdb_session *s, const char *args)
{
	gva_t gva;
	u64 len;

	if (!take_range(&args, &gva, &len) || *args++ != ':' || len != s->in.len - (u64)(args - s->in.data))
		return gdb_error(s, EINVAL);
	write_bytes(s, gva, args, (u32)len);
}

/* ---- virtual or physical ---- */

void gdb_qemu_features(struct gdb_session *s, const char *args)
{
	gdb_put(s, "PhyMemMode");
}

void gdb_is_physical(struct gdb_session *s, const char *args)
{
	gdb_put(s, s->physical ? "1" : "0");
}

void gdb_set_physical(struct gdb_session *s, const char *args)
{
	u64 on;

	if (!gdb_take_hex(&args, &on) || *args)
		return gdb_error(s, EINVAL);
	s->physical = on != 0;
	gdb_ok(s);
}

/* ---- breakpoints and watchpoints ---- */

static bool take_point(const char *args, enum gdb_point *point, gva_t *gva, u64 *len)
{
	u32 digit = (u32)(u8)*args - '0';

	if (digit >= GDB_POINTS || args[1] != ',')
		return false;
	*point = (enum gdb_point)digit;
	args += 2;
	/* Behind a ';' stand conditions and commands, which were not announced. */
	if (!take_range(&args, gva, len) || *args)
		return false;
	return *point <= GDB_POINT_HARD || (*len >= 1 && *len <= WATCH_MAX);
}

static void change_point(struct gdb_session *s, const char *args, int (*change)(void *opaque, enum gdb_point point, gva_t gva, u64 len))
{
	enum gdb_point point;
	gva_t gva;
	u64 len;
	int r;

	if (!take_point(args, &point, &gva, &len))
		return gdb_error(s, EINVAL);
	r = change(s->target->opaque, point, gva, len);
	if (r < 0)
		gdb_error(s, -r);
	else
		gdb_ok(s);
}

void gdb_insert(struct gdb_session *s, const char *args)
{
	change_point(s, args, s->target->insert);
}

void gdb_remove(struct gdb_session *s, const char *args)
{
	change_point(s, args, s->target->remove);
}
