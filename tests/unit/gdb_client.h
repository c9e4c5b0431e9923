/* SPDX-License-Identifier: Apache-2.0 */
/* A debugger's side of the remote protocol for tests: frames, their decoding with run lengths, and a target that notes what it is asked. */
#pragma once

#include "gdb/session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static inline u32 client_frame(char *out, const char *data, u32 len)
{
	u8 sum = 0;

	out[0] = '$';
	memcpy(out + 1, data, len);
	for (u32 i = 0; i < len; i++)
		sum = (u8)(sum + (u8)data[i]);
	snprintf(out + 1 + len, 4, "#%02x", sum);
	return len + 4;
}

/* The data of the first packet in [in, in+len), which must be well-formed; returns its length. */
static inline u32 client_decode(const char *in, u32 len, char *out)
{
	const char *p = memchr(in, '$', len), *hash;
	u32 n = 0, want;
	u8 sum = 0;

	assert_non_null(p);
	hash = memchr(p, '#', len - (u32)(p - in));
	assert_non_null(hash);
	for (p++; p < hash; p++) {
		sum = (u8)(sum + (u8)*p);
		if (*p == '*') {
			int repeats = *++p - 29;

			sum = (u8)(sum + (u8)*p);
			assert_in_range(repeats, 3, 97);
			assert_true(n > 0);
			for (char last = out[n - 1]; repeats--;)
				out[n++] = last;
		} else if (*p == '}') {
			out[n++] = (char)(*++p ^ 0x20);
			sum = (u8)(sum + (u8)*p);
		} else {
			assert_int_not_equal(*p, '$');
			out[n++] = *p;
		}
	}
	assert_int_equal(sscanf(hash + 1, "%2x", &want), 1);
	assert_int_equal(sum, want);
	out[n] = '\0';
	return n;
}

#define CLIENT_CPUS 3
#define CLIENT_RAM 0x3000u /* from virtual address 0x1000 on, physical ones from 0 */

struct client {
	struct gdb_session *session;
	struct x86_cpu cpu[CLIENT_CPUS];
	struct x86_cpuid cpuid;
	struct x86_env env;
	u64 cr8[CLIENT_CPUS];
	u8 ram[CLIENT_RAM];
	char sent[4 * GDB_FRAME_MAX];
	u32 nsent;
	char reply[2 * GDB_FRAME_MAX];
	u32 len;
	char log[512];
};

static inline void client_log(struct client *c, const char *fmt, ...)
{
	size_t at = strlen(c->log);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c->log + at, sizeof(c->log) - at, fmt, ap);
	va_end(ap);
}

static inline struct x86_cpu *client_cpu(void *opaque, u32 cpu)
{
	return &((struct client *)opaque)->cpu[cpu];
}
static inline u64 client_cr8(void *opaque, u32 cpu)
{
	return ((struct client *)opaque)->cr8[cpu];
}
static inline void client_set_cr8(void *opaque, u32 cpu, u64 value)
{
	((struct client *)opaque)->cr8[cpu] = value;
}
static inline void client_changed(void *opaque, u32 cpu)
{
	client_log(opaque, "changed %u;", cpu);
}
static inline bool client_in_ram(gva_t gva, u32 len)
{
	return gva >= 0x1000 && gva - 0x1000 <= CLIENT_RAM && len <= CLIENT_RAM - (gva - 0x1000);
}
static inline bool client_read(void *opaque, u32 cpu, gva_t gva, void *buf, u32 len)
{
	if (client_in_ram(gva, len))
		memcpy(buf, ((struct client *)opaque)->ram + (gva - 0x1000), len);
	return client_in_ram(gva, len);
}
static inline bool client_write(void *opaque, u32 cpu, gva_t gva, const void *buf, u32 len)
{
	if (client_in_ram(gva, len))
		memcpy(((struct client *)opaque)->ram + (gva - 0x1000), buf, len);
	return client_in_ram(gva, len);
}
static inline bool client_read_physical(void *opaque, gpa_t gpa, void *buf, u32 len)
{
	return client_read(opaque, 0, gpa + 0x1000, buf, len);
}
static inline bool client_write_physical(void *opaque, gpa_t gpa, const void *buf, u32 len)
{
	return client_write(opaque, 0, gpa + 0x1000, buf, len);
}
static inline u8 *client_ram(void *opaque, gpa_t gpa, bool write)
{
	return gpa < CLIENT_RAM ? ((struct client *)opaque)->ram + gpa : NULL;
}
static inline int client_insert(void *opaque, enum gdb_point point, gva_t gva, u64 len)
{
	client_log(opaque, "+%u %llx %llu;", point, (unsigned long long)gva, (unsigned long long)len);
	return gva == 0xbad ? -28 : 0;
}
static inline int client_remove(void *opaque, enum gdb_point point, gva_t gva, u64 len)
{
	client_log(opaque, "-%u %llx %llu;", point, (unsigned long long)gva, (unsigned long long)len);
	return 0;
}
static inline void client_stop(void *opaque)
{
	client_log(opaque, "stop;");
}
static inline void client_resume(void *opaque, const u8 *actions)
{
	client_log(opaque, "resume %u%u%u;", actions[0], actions[1], actions[2]);
}
static inline void client_detach(void *opaque)
{
	client_log(opaque, "detach;");
}
static inline void client_quit(void *opaque)
{
	client_log(opaque, "quit;");
}
static inline void client_reset(void *opaque)
{
	client_log(opaque, "reset;");
}
static inline void client_info(void *opaque, char *text, size_t size)
{
	snprintf(text, size, "a fake\n");
}
static inline void client_on_sent(void *opaque, const char *bytes, u32 len)
{
	struct client *c = opaque;

	if (len > sizeof(c->sent) - c->nsent)
		c->nsent = 0;
	memcpy(c->sent + c->nsent, bytes, len);
	c->nsent += len;
}

static inline struct gdb_target client_target(struct client *c)
{
	return (struct gdb_target){.opaque = c,
				   .ncpus = CLIENT_CPUS,
				   .cpuid = &c->cpuid,
				   .cpu = client_cpu,
				   .cr8 = client_cr8,
				   .set_cr8 = client_set_cr8,
				   .changed = client_changed,
				   .read = client_read,
				   .write = client_write,
				   .read_physical = client_read_physical,
				   .write_physical = client_write_physical,
				   .insert = client_insert,
				   .remove = client_remove,
				   .resume = client_resume,
				   .reset = client_reset,
				   .info = client_info,
				   .stop = client_stop,
				   .detach = client_detach,
				   .quit = client_quit};
}

static inline void client_open(struct client *c, struct gdb_target *t)
{
	struct err e;

	memset(c, 0, sizeof(*c));
	x86_cpuid_build(&c->cpuid, &(struct x86_cpuid_config){.ncpus = CLIENT_CPUS, .tsc_hz = 1000000000, .engine_bt = true});
	c->env = (struct x86_env){.opaque = c, .ram = client_ram};
	for (u32 i = 0; i < CLIENT_CPUS; i++) {
		c->cpu[i].cpuid = &c->cpuid;
		c->cpu[i].env = &c->env;
		c->cr8[i] = i;
		c->cpu[i].fpu.bytes[512] = 3;
	}
	*t = client_target(c);
	assert_int_equal(gdb_session_new(&c->session, t, client_on_sent, c, &e), 0);
}

static inline void client_close(struct client *c)
{
	gdb_session_free(c->session);
}

static inline void client_feed(struct client *c, const void *bytes, u32 len)
{
	for (u32 at = 0; at < len;)
		at += gdb_session_feed(c->session, (const u8 *)bytes + at, len - at);
}

/* Sends a packet; c->reply is the answer's data, or empty when none came. */
static inline const char *client_ask_bytes(struct client *c, const char *data, u32 len)
{
	static char frame[GDB_PACKET_MAX + 8];

	c->nsent = c->len = 0;
	c->reply[0] = '\0';
	client_feed(c, frame, client_frame(frame, data, len));
	if (memchr(c->sent, '$', c->nsent))
		c->len = client_decode(c->sent, c->nsent, c->reply);
	return c->reply;
}

static inline const char *client_ask(struct client *c, const char *data)
{
	return client_ask_bytes(c, data, (u32)strlen(data));
}
