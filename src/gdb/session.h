/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One debugger's conversation, without its transport: bytes in, bytes out. Inside of this folder, and for tests.
 *
 * Threading: gdb.h.
 */
#pragma once

#include "gdb/gdb.h"
#include "gdb/packet.h"
#include "gdb/registers.h"

/* What will be sent as one packet. What does not fit is cut off. */
struct gdb_reply {
	u32 len;
	bool none; /* nothing is to be sent */
	char data[GDB_PACKET_MAX];
};

struct gdb_session {
	const struct gdb_target *target;
	void (*send)(void *opaque, const char *bytes, u32 len);
	void *send_opaque;

	struct gdb_parser in;
	struct gdb_reply reply;
	struct gdb_regs regs;
	char *xml; /* target description */
	u32 xml_len;
	bool running, no_ack;
	bool knows_swbreak, knows_hwbreak;
	bool physical; /* addresses of m, M and X */
	u32 cpu;       /* of g, m and the like */
	u32 cpu_step;  /* of s without vCont */
	struct gdb_stop stop;
	u32 frame_len; /* the last frame, for when it got damaged on its way */
	char frame[GDB_FRAME_MAX];
};

/* The machine is stopped. */
int gdb_session_new(struct gdb_session **out, const struct gdb_target *target, void (*send)(void *opaque, const char *bytes, u32 len),
		    void *opaque, struct err *e) must_check;
void gdb_session_free(struct gdb_session *s); /* NULL is allowed */

/* Takes bytes up to and with the first that makes a packet, and answers that; returns how many. */
u32 gdb_session_feed(struct gdb_session *s, const u8 *bytes, u32 len);
void gdb_session_stopped(struct gdb_session *s, const struct gdb_stop *stop);
void gdb_session_exited(struct gdb_session *s, u8 status);

/* ---- session.c: the reply at hand */
void gdb_put(struct gdb_session *s, const char *text);
void gdb_put_bytes(struct gdb_session *s, const void *bytes, u32 len); /* as they are */
void gdb_put_hex(struct gdb_session *s, const void *bytes, u32 len);   /* two digits each */
void gdb_printf(struct gdb_session *s, const char *fmt, ...) printf_like(2, 3);
void gdb_ok(struct gdb_session *s);
void gdb_error(struct gdb_session *s, int number); /* Enn */

/* ---- commands.c */
void gdb_command(struct gdb_session *s); /* the packet in s->in; leaves the reply in s->reply, or s->running */
/* A thread id: CPU number plus one. *cpu is ~0 for "all" (-1); "any" (0) is the current one. */
bool gdb_take_thread(struct gdb_session *s, const char **text, u32 *cpu);

/* What a handler gets: the text behind the command's name. */
typedef void gdb_handler(struct gdb_session *s, const char *args);

/* ---- memory.c */
gdb_handler gdb_read_memory, gdb_write_memory, gdb_write_binary, gdb_insert, gdb_remove;
gdb_handler gdb_qemu_features, gdb_is_physical, gdb_set_physical;
/* ---- query.c */
gdb_handler gdb_supported, gdb_features, gdb_threads_first, gdb_threads_more, gdb_thread_info, gdb_current_thread, gdb_thread_alive;
/* ---- monitor.c */
gdb_handler gdb_monitor;
/* ---- resume.c */
gdb_handler gdb_continue, gdb_continue_signal, gdb_step, gdb_step_signal, gdb_vcont, gdb_stop_reason;

/* ---- xml.c */
char *gdb_target_xml(const struct gdb_regs *regs); /* malloc'ed; NULL: no memory */
