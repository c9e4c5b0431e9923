/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of commands, and those about registers and the conversation itself. Source: the GDB manual, appendix E.2 to E.5.
 *
 * A command that is not in the table gets the empty reply, which is the protocol's "not supported".
 *
 * Contract and threading: session.h.
 */
#include "gdb/session.h"

#include <errno.h>
#include <string.h>

bool gdb_take_thread(struct gdb_session *s, const char **text, u32 *cpu)
{
	u64 id;

	if (strncmp(*text, "-1", 2) == 0) {
		*text += 2;
		*cpu = ~0u;
		return true;
	}
	if (!gdb_take_hex(text, &id) || id > s->target->ncpus)
		return false;
	*cpu = id ? (u32)id - 1 : s->cpu;
	return true;
}

/* ---- registers ---- */

static struct x86_cpu *current(struct gdb_session *s)
{
	return s->target->cpu(s->target->opaque, s->cpu);
}

static void put_register(struct gdb_session *s, const struct gdb_reg *reg)
{
	u8 value[GDB_REG_BYTES];

	gdb_reg_get(reg, current(s), s->target->cr8(s->target->opaque, s->cpu), value);
	gdb_put_hex(s, value, reg->bytes);
}

static void read_all(struct gdb_session *s, const char *args)
{
	for (u32 i = 0; i < s->regs.n; i++)
		put_register(s, &s->regs.reg[i]);
}

/* Writes are made to a copy, which becomes the CPU when all of them were possible. */
struct edit {
	struct x86_cpu cpu;
	u64 cr8;
};

static void begin_edit(struct gdb_session *s, struct edit *e)
{
	e->cpu = *current(s);
	e->cr8 = s->target->cr8(s->target->opaque, s->cpu);
}

/* What cannot be written can be left as it is: G brings all registers, changed or not. */
static bool edit_register(struct edit *e, const struct gdb_reg *reg, const u8 *value)
{
	u8 now[GDB_REG_BYTES];

	gdb_reg_get(reg, &e->cpu, e->cr8, now);
	return memcmp(now, value, reg->bytes) == 0 || gdb_reg_set(reg, &e->cpu, &e->cr8, value);
}

static void end_edit(struct gdb_session *s, const struct edit *e)
{
	*current(s) = e->cpu;
	if (e->cr8 != s->target->cr8(s->target->opaque, s->cpu))
		s->target->set_cr8(s->target->opaque, s->cpu, e->cr8);
	s->target->changed(s->target->opaque, s->cpu);
	gdb_ok(s);
}

static void write_all(struct gdb_session *s, const char *args)
{
	u8 value[GDB_REG_BYTES];
	struct edit e;

	begin_edit(s, &e);
	for (u32 i = 0; i < s->regs.n; i++) {
		const struct gdb_reg *reg = &s->regs.reg[i];

		if (!gdb_hex_decode(value, args, reg->bytes))
			break;
		if (!edit_register(&e, reg, value))
			return gdb_error(s, EPERM);
		args += 2 * reg->bytes;
	}
	end_edit(s, &e);
}

static void read_one(struct gdb_session *s, const char *args)
{
	u64 number;

	if (!gdb_take_hex(&args, &number) || number >= s->regs.n)
		return gdb_error(s, EINVAL);
	put_register(s, &s->regs.reg[number]);
}

static void write_one(struct gdb_session *s, const char *args)
{
	u8 value[GDB_REG_BYTES];
	const struct gdb_reg *reg;
	struct edit e;
	u64 number;

	if (!gdb_take_hex(&args, &number) || number >= s->regs.n || *args != '=')
		return gdb_error(s, EINVAL);
	reg = &s->regs.reg[number];
	if (strlen(args + 1) != 2 * reg->bytes || !gdb_hex_decode(value, args + 1, reg->bytes))
		return gdb_error(s, EINVAL);
	begin_edit(s, &e);
	if (!edit_register(&e, reg, value))
		return gdb_error(s, EPERM);
	end_edit(s, &e);
}

/* ---- the conversation ---- */

/* Hg: whose registers and memory; Hc: who steps. */
static void select_thread(struct gdb_session *s, const char *args)
{
	char what = *args;
	u32 cpu;

	if ((what != 'g' && what != 'c') || (args++, !gdb_take_thread(s, &args, &cpu)))
		return gdb_error(s, EINVAL);
	if (cpu != ~0u)
		*(what == 'g' ? &s->cpu : &s->cpu_step) = cpu;
	gdb_ok(s);
}

static void no_ack_mode(struct gdb_session *s, const char *args)
{
	s->no_ack = true;
	gdb_ok(s);
}

static void detach(struct gdb_session *s, const char *args)
{
	s->target->detach(s->target->opaque);
	s->running = true;
	gdb_ok(s);
}

static void kill_answered(struct gdb_session *s, const char *args)
{
	s->target->quit(s->target->opaque);
	gdb_ok(s);
}

/* There is no reply to k. */
static void kill_machine(struct gdb_session *s, const char *args)
{
	s->target->quit(s->target->opaque);
	s->reply.none = true;
}

static void attached(struct gdb_session *s, const char *args)
{
	gdb_put(s, "1"); /* the machine was there before: leaving is detaching */
}

static void symbols(struct gdb_session *s, const char *args)
{
	gdb_ok(s); /* none is asked for */
}

/* ---- the table ---- */

enum { EXACT = 1, RUNNING = 2 }; /* the whole packet; also while the machine runs */

static const struct {
	const char *name;
	u32 flags;
	gdb_handler *run;
} commands[] = {
	{"?", EXACT, gdb_stop_reason},
	{"g", EXACT, read_all},
	{"G", 0, write_all},
	{"p", 0, read_one},
	{"P", 0, write_one},
	{"m", 0, gdb_read_memory},
	{"M", 0, gdb_write_memory},
	{"X", 0, gdb_write_binary},
	{"Z", 0, gdb_insert},
	{"z", 0, gdb_remove},
	{"H", 0, select_thread},
	{"T", 0, gdb_thread_alive},
	{"c", 0, gdb_continue},
	{"C", 0, gdb_continue_signal},
	{"s", 0, gdb_step},
	{"S", 0, gdb_step_signal},
	{"vCont", 0, gdb_vcont},
	{"vKill;", RUNNING, kill_answered},
	{"k", EXACT | RUNNING, kill_machine},
	{"D", RUNNING, detach},
	{"qSupported", RUNNING, gdb_supported},
	{"qXfer:features:read:", 0, gdb_features},
	{"qfThreadInfo", EXACT, gdb_threads_first},
	{"qsThreadInfo", EXACT, gdb_threads_more},
	{"qThreadExtraInfo,", 0, gdb_thread_info},
	{"qC", EXACT, gdb_current_thread},
	{"qAttached", 0, attached},
	{"qSymbol:", 0, symbols},
	{"qRcmd,", 0, gdb_monitor},
	{"qqemu.Supported", EXACT, gdb_qemu_features},
	{"qqemu.PhyMemMode", EXACT, gdb_is_physical},
	{"Qqemu.PhyMemMode:", 0, gdb_set_physical},
	{"QStartNoAckMode", EXACT | RUNNING, no_ack_mode},
};

void gdb_command(struct gdb_session *s)
{
	const char *packet = s->in.data;

	for (u32 i = 0; i < ARRAY_SIZE(commands); i++) {
		size_t len = strlen(commands[i].name);

		if (strncmp(packet, commands[i].name, len) != 0 || (commands[i].flags & EXACT && s->in.len != len))
			continue;
		if (s->running && !(commands[i].flags & RUNNING))
			gdb_error(s, EBUSY);
		else
			commands[i].run(s, packet + len);
		return;
	}
}
