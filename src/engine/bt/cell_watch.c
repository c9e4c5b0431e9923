/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Breakpoints in a cell: the debug registers of the host's CPU, set through ptrace while the cell waits. Code stays as it is, byte for byte, and raises a
 * signal where it would execute an instruction at one of a few addresses.
 *
 * Linux keeps them for the thread after the tracer has gone, and it has to go: every signal of a traced process stops it twice.
 *
 * Threading: the vCPU's thread, while the cell waits.
 */
#include "engine/bt/cell.h"

#include <errno.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>

#define TRIES 20000 /* of TRY_NS each: a second and more */
#define TRY_NS 20000

/* Not by a plain wait: a program around this library that waits for any child may be told of the stop instead. */
static bool wait_for_stop(pid_t pid)
{
	const struct timespec nap = {.tv_nsec = TRY_NS};
	for (u32 i = 0; i < TRIES; i++) {
		int status;
		pid_t r = waitpid(pid, &status, WNOHANG | __WALL);
		if (r == pid)
			return WIFSTOPPED(status);
		errno = 0;
		if (r < 0 || (ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, u_debugreg[7]), 0), errno == 0))
			return r >= 0;
		nanosleep(&nap, NULL);
	}
	return false;
}

static bool set_register(pid_t pid, u32 number, u64 value)
{
	return ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg) + number * sizeof(u64), value) == 0;
}

struct watches {
	const u64 *at;
	u32 n;
};

/* Linux checks an address when it is enabled, so all are disabled first. */
static bool set_registers(pid_t pid, const void *with)
{
	const struct watches *w = with;
	u64 enable = 0;
	bool ok = set_register(pid, 7, 0);
	for (u32 i = 0; i < w->n; i++) {
		ok = ok && set_register(pid, i, w->at[i]);
		enable |= 1ull << 2 * i; /* length and kind 0: execution */
	}
	return ok && set_register(pid, 7, enable);
}

bool bt_cell_stopped(struct bt_cell *c, bool (*act)(pid_t pid, const void *with), const void *with)
{
	if (c->broken || c->pid <= 0 || ptrace(PTRACE_SEIZE, c->pid, 0, 0) < 0)
		return false;
	bool ok = ptrace(PTRACE_INTERRUPT, c->pid, 0, 0) == 0 && wait_for_stop(c->pid);
	ok = ok && act(c->pid, with);
	return ptrace(PTRACE_DETACH, c->pid, 0, 0) == 0 && ok;
}

bool bt_cell_watch(struct bt_cell *c, const u64 *at, u32 n)
{
	return bt_cell_stopped(c, set_registers, &(struct watches){at, n});
}
