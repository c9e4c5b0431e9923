/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making the machine run, and saying why it stopped.
 *
 * Signals that GDB wants delivered (C, S) mean nothing to a machine and are left out.
 *
 * Contract and threading: session.h.
 */
#include "gdb/session.h"

#include <errno.h>
#include <string.h>

#define CPUS_MAX 256 /* more than a machine can have */

static void run(struct gdb_session *s, const u8 *actions)
{
	s->running = true;
	s->reply.none = true; /* the answer comes when it stops, perhaps before this returns */
	s->target->resume(s->target->opaque, actions);
}

/* ---- c and s ---- */

/* Behind c and s may stand where to go on. */
static bool take_address(struct gdb_session *s, const char *args, u32 cpu)
{
	u64 gva;

	if (!*args)
		return true;
	if (!gdb_take_hex(&args, &gva) || *args)
		return false;
	s->target->cpu(s->target->opaque, cpu)->rip = gva;
	s->target->changed(s->target->opaque, cpu);
	return true;
}

void gdb_continue(struct gdb_session *s, const char *args)
{
	u8 actions[CPUS_MAX];

	if (!take_address(s, args, s->cpu))
		return gdb_error(s, EINVAL);
	memset(actions, GDB_RUN, sizeof(actions));
	run(s, actions);
}

void gdb_step(struct gdb_session *s, const char *args)
{
	u8 actions[CPUS_MAX];

	if (!take_address(s, args, s->cpu_step))
		return gdb_error(s, EINVAL);
	memset(actions, GDB_RUN, sizeof(actions));
	actions[s->cpu_step] = GDB_STEP;
	run(s, actions);
}

/* "sig" or "sig;address" */
static const char *behind_signal(const char *args)
{
	u64 ignored;

	if (!gdb_take_hex(&args, &ignored) || (*args && *args != ';'))
		return NULL;
	return *args ? args + 1 : args;
}

void gdb_continue_signal(struct gdb_session *s, const char *args)
{
	args = behind_signal(args);
	if (args)
		gdb_continue(s, args);
	else
		gdb_error(s, EINVAL);
}

void gdb_step_signal(struct gdb_session *s, const char *args)
{
	args = behind_signal(args);
	if (args)
		gdb_step(s, args);
	else
		gdb_error(s, EINVAL);
}

/* ---- vCont ---- */

#define UNDECIDED 0xff

/* The first action that fits a CPU is its own. */
static void decide(struct gdb_session *s, u8 *actions, u32 cpu, u8 action)
{
	for (u32 i = 0; i < s->target->ncpus; i++)
		if ((cpu == ~0u || cpu == i) && actions[i] == UNDECIDED)
			actions[i] = action;
}

/* "c", "s", "C05" or "S05", each with ":thread" or for all that are left. */
static bool take_action(struct gdb_session *s, const char **text, u8 *actions)
{
	char kind = *(*text)++;
	u32 cpu = ~0u;
	u64 signal;

	if (!kind || !strchr("cCsS", kind))
		return false;
	if ((kind == 'C' || kind == 'S') && !gdb_take_hex(text, &signal))
		return false;
	if (**text == ':') {
		++*text;
		if (!gdb_take_thread(s, text, &cpu))
			return false;
	}
	decide(s, actions, cpu, kind == 'c' || kind == 'C' ? GDB_RUN : GDB_STEP);
	return true;
}

void gdb_vcont(struct gdb_session *s, const char *args)
{
	u8 actions[CPUS_MAX];
	bool any = false;

	if (strcmp(args, "?") == 0)
		return gdb_put(s, "vCont;c;C;s;S");
	memset(actions, UNDECIDED, sizeof(actions));
	do {
		if (*args++ != ';' || !take_action(s, &args, actions))
			return gdb_error(s, EINVAL);
	} while (*args);
	for (u32 i = 0; i < s->target->ncpus; i++) {
		any |= actions[i] != UNDECIDED;
		actions[i] = actions[i] == UNDECIDED ? GDB_HOLD : actions[i];
	}
	if (any)
		run(s, actions);
	else
		gdb_error(s, EINVAL);
}

/* ---- why it stopped ---- */

static void put_point(struct gdb_session *s)
{
	static const char *const watch[] = {[GDB_POINT_WRITE] = "watch", [GDB_POINT_READ] = "rwatch", [GDB_POINT_ACCESS] = "awatch"};

	if (s->stop.point == GDB_POINT_SOFT)
		gdb_put(s, s->knows_swbreak ? "swbreak:;" : "");
	else if (s->stop.point == GDB_POINT_HARD)
		gdb_put(s, s->knows_hwbreak ? "hwbreak:;" : "");
	else
		gdb_printf(s, "%s:%llx;", watch[s->stop.point], (unsigned long long)s->stop.gva);
}

void gdb_stop_reason(struct gdb_session *s, const char *args)
{
	gdb_printf(s, "T%02xthread:%x;", s->stop.signal, s->stop.cpu + 1);
	if (s->stop.at_point)
		put_point(s);
}
