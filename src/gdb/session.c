/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One debugger's conversation: packets in, replies out, acknowledgements while they are wanted.
 *
 * Contract and threading: session.h.
 */
#include "gdb/session.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int gdb_session_new(struct gdb_session **out, const struct gdb_target *target, void (*send)(void *opaque, const char *bytes, u32 len),
		    void *opaque, struct err *e)
{
	struct gdb_session *s = calloc(1, sizeof(*s));

	if (!s)
		return err_sys(e, ENOMEM, "debugger's session");
	s->target = target;
	s->send = send;
	s->send_opaque = opaque;
	s->stop = (struct gdb_stop){.signal = GDB_SIGTRAP};
	gdb_regs_init(&s->regs, target->cpuid);
	s->xml = gdb_target_xml(&s->regs);
	if (!s->xml) {
		free(s);
		return err_sys(e, ENOMEM, "debugger's session");
	}
	s->xml_len = (u32)strlen(s->xml);
	*out = s;
	return 0;
}

void gdb_session_free(struct gdb_session *s)
{
	if (!s)
		return;
	free(s->xml);
	free(s);
}

/* ---- building a reply ---- */

void gdb_put_bytes(struct gdb_session *s, const void *bytes, u32 len)
{
	struct gdb_reply *r = &s->reply;
	u32 room = GDB_PACKET_MAX - r->len;

	len = len < room ? len : room;
	memcpy(r->data + r->len, bytes, len);
	r->len += len;
}

void gdb_put(struct gdb_session *s, const char *text)
{
	gdb_put_bytes(s, text, (u32)strlen(text));
}

void gdb_put_hex(struct gdb_session *s, const void *bytes, u32 len)
{
	static const char digits[] = "0123456789abcdef";
	const u8 *b = bytes;

	for (u32 i = 0; i < len; i++) {
		const char pair[2] = {digits[b[i] >> 4], digits[b[i] & 15]};

		gdb_put_bytes(s, pair, 2);
	}
}

void gdb_printf(struct gdb_session *s, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	gdb_put(s, text);
}

void gdb_ok(struct gdb_session *s)
{
	gdb_put(s, "OK");
}

void gdb_error(struct gdb_session *s, int number)
{
	s->reply.len = 0;
	gdb_printf(s, "E%02x", number & 0xff);
}

static void begin_reply(struct gdb_session *s)
{
	s->reply.len = 0;
	s->reply.none = false;
}

static void send_reply(struct gdb_session *s)
{
	if (s->reply.none)
		return;
	s->reply.none = true; /* once */
	s->frame_len = gdb_frame(s->frame, s->reply.data, s->reply.len);
	s->send(s->send_opaque, s->frame, s->frame_len);
}

/* ---- what arrives ---- */

static void acknowledge(struct gdb_session *s, const char *sign)
{
	if (!s->no_ack)
		s->send(s->send_opaque, sign, 1);
}

static void on_packet(struct gdb_session *s)
{
	acknowledge(s, "+");
	begin_reply(s);
	gdb_command(s);
	send_reply(s);
}

static void on_too_long(struct gdb_session *s)
{
	acknowledge(s, "+");
	begin_reply(s);
	gdb_error(s, E2BIG);
	send_reply(s);
}

static void on_interrupt(struct gdb_session *s)
{
	const struct gdb_stop stop = {.cpu = s->cpu, .signal = GDB_SIGINT};

	if (!s->running)
		return;
	s->target->stop(s->target->opaque);
	gdb_session_stopped(s, &stop);
}

static bool handle(struct gdb_session *s, enum gdb_event event)
{
	switch (event) {
	case GDB_NOTHING:
	case GDB_ACK:
		return false;
	case GDB_PACKET:
		on_packet(s);
		break;
	case GDB_DAMAGED:
		acknowledge(s, "-");
		break;
	case GDB_TOO_LONG:
		on_too_long(s);
		break;
	case GDB_INTERRUPT:
		on_interrupt(s);
		break;
	case GDB_NAK:
		if (!s->no_ack)
			s->send(s->send_opaque, s->frame, s->frame_len);
		break;
	}
	return true;
}

u32 gdb_session_feed(struct gdb_session *s, const u8 *bytes, u32 len)
{
	for (u32 i = 0; i < len; i++)
		if (handle(s, gdb_parse(&s->in, bytes[i])))
			return i + 1;
	return len;
}

/* ---- what the machine does ---- */

void gdb_session_stopped(struct gdb_session *s, const struct gdb_stop *stop)
{
	if (!s->running)
		return;
	s->running = false;
	s->stop = *stop;
	s->cpu = s->cpu_step = stop->cpu;
	begin_reply(s);
	gdb_stop_reason(s, "");
	send_reply(s);
}

void gdb_session_exited(struct gdb_session *s, u8 status)
{
	begin_reply(s);
	gdb_printf(s, "W%02x", status);
	send_reply(s);
}
