/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Questions about what this server can do and about threads, which are the CPUs.
 *
 * Contract and threading: session.h.
 */
#include "gdb/session.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static bool lists(const char *features, const char *name)
{
	size_t len = strlen(name);

	for (const char *f = features; f; f = strchr(f, ';')) {
		f += strspn(f, ":;");
		if (strncmp(f, name, len) == 0 && (f[len] == ';' || !f[len]))
			return true;
	}
	return false;
}

void gdb_supported(struct gdb_session *s, const char *args)
{
	s->knows_swbreak = lists(args, "swbreak+");
	s->knows_hwbreak = lists(args, "hwbreak+");
	gdb_printf(s, "PacketSize=%x;qXfer:features:read+;vContSupported+;swbreak+;hwbreak+;QStartNoAckMode+;PhyMemMode+", GDB_PACKET_MAX);
}

/* "target.xml:offset,length" */
void gdb_features(struct gdb_session *s, const char *args)
{
	static const char annex[] = "target.xml:";
	u64 offset, len, left;

	if (strncmp(args, annex, sizeof(annex) - 1) != 0)
		return gdb_error(s, 0);
	args += sizeof(annex) - 1;
	if (!gdb_take_hex(&args, &offset) || *args++ != ',' || !gdb_take_hex(&args, &len) || *args || offset > s->xml_len)
		return gdb_error(s, EINVAL);
	left = s->xml_len - offset;
	/* Escapes may double what is sent, which the length does not count; the frame has room for that. */
	len = len < GDB_PACKET_MAX - 1 ? len : GDB_PACKET_MAX - 1;
	gdb_put(s, len < left ? "m" : "l");
	gdb_put_bytes(s, s->xml + offset, (u32)(len < left ? len : left));
}

void gdb_threads_first(struct gdb_session *s, const char *args)
{
	gdb_put(s, "m");
	for (u32 i = 0; i < s->target->ncpus; i++)
		gdb_printf(s, "%s%x", i ? "," : "", i + 1);
}

void gdb_threads_more(struct gdb_session *s, const char *args)
{
	gdb_put(s, "l");
}

static const char *activity(const struct x86_cpu *c)
{
	if (c->wait_for_sipi)
		return "waits to be started";
	return c->halted ? "halted" : "running";
}

void gdb_thread_info(struct gdb_session *s, const char *args)
{
	char text[64];
	u32 cpu;
	int len;

	if (!gdb_take_thread(s, &args, &cpu) || cpu == ~0u)
		return gdb_error(s, EINVAL);
	len = snprintf(text, sizeof(text), "CPU %u, %s", cpu, activity(s->target->cpu(s->target->opaque, cpu)));
	gdb_put_hex(s, text, (u32)len);
}

void gdb_current_thread(struct gdb_session *s, const char *args)
{
	gdb_printf(s, "QC%x", s->cpu + 1);
}

void gdb_thread_alive(struct gdb_session *s, const char *args)
{
	u32 cpu;

	if (!gdb_take_thread(s, &args, &cpu) || cpu == ~0u)
		return gdb_error(s, EINVAL);
	gdb_ok(s);
}
