/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 32-bit code in a cell. Any 64-bit process may jump to the host's 32-bit code segment, whether the host runs 32-bit programs or not; the signals raised
 * there arrive in 64-bit code as ever.
 *
 * 32-bit code cannot use FS and GS without a selector of a real segment. The host gives each thread three of its own, in the places where Linux gives
 * them to the guest's programs, so that the guest's selectors can stand in the registers as they are, and be loaded there.
 *
 * Threading: the vCPU's thread, while the cell waits.
 */
#include "engine/bt/cell.h"

#include <asm/ldt.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <ucontext.h>

#define FIRST_TLS_ENTRY (CELL_TLS_SELECTOR >> 3)
#define SET_THREAD_AREA 26 /* PTRACE_SET_THREAD_AREA, which the C library does not name */
#define TRAP_PAGE_FAULT 14

/* Nothing is mapped at address 0: there are no instructions there in whatever mode, but a host without 32-bit code does not come so far. */
bool bt_cell_try_compat(struct bt_cell *c)
{
	greg_t *g = ((ucontext_t *)(c->stack + c->frame))->uc_mcontext.gregs;
	greg_t was = g[REG_CSGSFS];
	g[REG_CSGSFS] = HOST_CS32 | (greg_t)HOST_DS << 48;
	g[REG_RIP] = 0;
	if (!bt_cell_run(c))
		return false;
	c->compat = c->shared->signal == SIGSEGV && g[REG_TRAPNO] == TRAP_PAGE_FAULT && (u16)g[REG_CSGSFS] == HOST_CS32;
	g[REG_CSGSFS] = was;
	return true;
}

struct area {
	u32 n;
	const struct cell_tls *tls;
};

static bool set_area(pid_t pid, const void *with)
{
	const struct area *a = with;
	struct user_desc d = {
		.entry_number = FIRST_TLS_ENTRY + a->n, .read_exec_only = 1, .seg_not_present = 1}; /* as Linux wants an empty one */
	if (a->tls->present) {
		d.seg_not_present = 0;
		d.read_exec_only = !a->tls->writable;
		d.base_addr = a->tls->base;
		d.limit = a->tls->limit;
		d.limit_in_pages = a->tls->pages;
		d.seg_32bit = d.useable = 1;
	}
	return ptrace(SET_THREAD_AREA, pid, FIRST_TLS_ENTRY + a->n, &d) == 0;
}

bool bt_cell_set_tls(struct bt_cell *c, u32 n, const struct cell_tls *tls)
{
	if (!bt_cell_stopped(c, set_area, &(struct area){n, tls}))
		return false;
	c->tls[n] = *tls;
	return true;
}
