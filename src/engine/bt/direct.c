/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cell's turn: user code runs there until a signal ends it, and what the signal meant is found out.
 *
 * In a cell all but user code's own instructions ends in a signal. Pages that are missing there but allowed by the guest are mapped and the cell goes on;
 * any other instruction that raised a signal is interpreted, which brings about exactly what the guest's CPU would have done.
 *
 * Threading: the vCPU's thread.
 */
#include "engine/bt/direct.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define EXIT_NS 10000		   /* what one costs; what is done for the cell meanwhile is counted in these */
#define HOLDOFF_LOOP 1000000000ull /* for a loop in a page that must not be executed directly */
#define IN_PAGE 400		   /* instructions to interpret in a page that must not be executed directly, */
#define IN_PAGE_COMPAT 4000	   /* and where all would be interpreted otherwise */
#define NEAR 400		   /* instructions of which the interpreter takes as long as a way into a cell and out */
#define NOT_NEAR 32
#define PINNED_NS 20000000ull
#define VSYSCALL 0xffffffffff600000ull

/* ---- one CPU for both
 *
 * The vCPU's thread and the cell take turns, and waking somebody on another, idle CPU takes far longer than switching on this one. So both are
 * kept on the CPU where the thread happens to be, and let go every so often for the host's scheduler to move them. */

static void unpin(struct bt_direct *d)
{
	if (d->pinned)
		sched_setaffinity(0, sizeof d->allowed, &d->allowed);
	d->pinned = false;
}

static void pin(struct bt_direct *d)
{
	cpu_set_t one;
	if (sched_getaffinity(0, sizeof d->allowed, &d->allowed) < 0)
		return;
	d->cpu = sched_getcpu();
	CPU_ZERO(&one);
	CPU_SET(d->cpu, &one);
	d->pinned = sched_setaffinity(0, sizeof one, &one) == 0;
}

static void stay_together(struct bt_direct *d, struct bt_cell *c, u64 now)
{
	if (d->pinned && now - d->pinned_at > PINNED_NS)
		unpin(d);
	if (!d->pinned) {
		pin(d);
		d->pinned_at = now;
	}
	if (d->pinned)
		bt_cell_pin(c, d->cpu);
}

void bt_direct_rest(struct bt_vcpu *v)
{
	if (v->direct)
		unpin(v->direct);
}

/* ---- running */

static bool asked_to_leave(const struct bt_vcpu *v)
{
	return !__atomic_load_n(&v->go, __ATOMIC_SEQ_CST) || !__atomic_load_n(&v->k_page, __ATOMIC_SEQ_CST) ||
	       !__atomic_load_n(&v->irq_idle, __ATOMIC_SEQ_CST) || (v->cpu.nmi_pending && !v->cpu.nmi_blocked);
}

static void fail(struct bt_vcpu *v, const char *why, const struct bt_cell *c)
{
	char end[64] = "";
	if (c)
		bt_cell_end(c, end, sizeof end);
	err_set(&v->err, EIO,
		"engine bt: %s a process that executes guest code directly%s%s%s; the guest cannot go on: start it again, with "
		"--engine translate if this repeats",
		why, c ? " (" : "", end, c ? ")" : "");
	v->failed = true;
}

enum outcome { LEFT_ALONE, AT_SIGNAL, BROKEN };

/* What the cell says is the guest's word. */
static bool timed_run(struct direct_process *p)
{
	struct bt_cell *c = p->map->cell;
	u64 since = direct_now(), begin = bt_host_tsc();
	bool ok = bt_cell_run(c);
	u64 ticks = bt_host_tsc() - begin, guest = c->shared->came - c->shared->went;
	p->trial.runs++;
	p->trial.guest_ticks += guest < ticks ? guest : ticks;
	p->trial.wall_ticks += ticks;
	p->trial.wall_ns += direct_now() - since;
	return ok;
}

/* Whoever nudges this vCPU sets its words before it looks for a cell. */
static enum outcome go(struct bt_vcpu *v, struct direct_process *p)
{
	struct bt_cell *c = p->map->cell;
	bool ran = false, ok = true;
	atomic_store(&v->in_cell, c->pid);
	if (!asked_to_leave(v)) {
		ran = true;
		ok = timed_run(p);
	}
	atomic_store(&v->in_cell, 0);
	return !ok ? BROKEN : ran ? AT_SIGNAL : LEFT_ALONE;
}

static u32 access_of(const ucontext_t *uc)
{
	u64 error = (u64)uc->uc_mcontext.gregs[REG_ERR];
	return error & 16 ? ACC_FETCH : error & 2 ? ACC_WRITE : ACC_READ;
}

static bool is_page_fault(const struct bt_cell *c)
{
	return c->shared->signal == SIGSEGV && direct_frame(c)->uc_mcontext.gregs[REG_TRAPNO] == VEC_PF;
}

/* The first time a page is mapped is free; who writes code that it executes pays for mapping and searching it again and again. */
static bool map_page(struct bt_vcpu *v, struct direct_process *p, gva_t gva, u32 acc)
{
	u64 since = direct_now();
	if (!direct_map_page(v, p->map, gva, acc))
		return false;
	if (p->map->again)
		direct_count_exits(v, p, 1 + (direct_now() - since) / EXIT_NS);
	return true;
}

/* The guest's tables as they are would allow it. */
static bool map_missing(struct bt_vcpu *v, struct direct_process *p)
{
	const ucontext_t *uc = direct_frame(p->map->cell);
	return map_page(v, p, (u64)uc->uc_mcontext.gregs[REG_CR2], access_of(uc));
}

/* Ask the guest's tables as the CPU does: accessed and dirty bits are set, or there is a fault. 1, 0 or -1 as bt_fill. */
static int translate(struct bt_vcpu *v, gva_t gva, u32 acc)
{
	struct x86_xlat x;
	if (!x86_canonical(gva))
		return -1;
	if (!(acc & ACC_FETCH))
		return bt_fill(v, gva, acc & ACC_WRITE);
	return x86_translate(&v->cpu, gva, x86_acc(&v->cpu, ACC_FETCH), &x) ? 1 : 0;
}

/* This page is not to be executed directly: interpret until it is behind. False: that takes too long. */
static bool left_user(const struct bt_vcpu *v)
{
	return x86_cpl(&v->cpu) != 3 || asked_to_leave(v) || v->cpu.triple_fault || v->halted;
}

static bool interpret_page(struct bt_vcpu *v, u32 limit)
{
	gva_t page = PAGE_BASE(v->cpu.rip);
	for (u32 i = 0; i < limit; i++) {
		bt_interpret_one(v);
		if (left_user(v) || PAGE_BASE(v->cpu.rip) != page)
			return true;
	}
	return false;
}

/* Does the code come back to such a page before a way into the cell would have paid? */
static bool comes_back(struct bt_vcpu *v, struct direct_map *m)
{
	for (u32 i = 0; i < NEAR; i++) {
		if (direct_map_refuses(m, v->cpu.rip))
			return true;
		bt_interpret_one(v);
		if (left_user(v))
			return false;
	}
	m->not_near = NOT_NEAR;
	return false;
}

/* The page may hold something that everybody calls: 32-bit code is interpreted until it is behind for a while. */
static void interpret_around(struct bt_vcpu *v, struct direct_map *m)
{
	do
		interpret_page(v, IN_PAGE_COMPAT);
	while (!left_user(v) && (m->not_near ? (m->not_near--, false) : comes_back(v, m)));
}

/* A page fault that the guest's tables as they were did not explain. True: the cell may go on. */
static bool page_fault(struct bt_vcpu *v, struct direct_process *p)
{
	struct direct_map *m = p->map;
	gva_t gva = (u64)direct_frame(m->cell)->uc_mcontext.gregs[REG_CR2];
	u32 acc = access_of(direct_frame(m->cell));
	int r = translate(v, gva, acc);
	bt_stores_done(v);
	if (r > 0 && map_page(v, p, gva, acc))
		return p->on[m->compat];
	if (r == 0) {
		x86_deliver_fault(&v->cpu);
		m->awaited.gva = gva;
		m->awaited.acc = acc;
		m->awaited.some = true;
	} else if (!(acc & ACC_FETCH))
		bt_interpret_one(v);
	else if (m->compat)
		interpret_around(v, m);
	else if (!interpret_page(v, IN_PAGE) && v->vm->directly != DIRECTLY_ALWAYS)
		direct_turn_off(v, p, direct_holdoff(p, HOLDOFF_LOOP));
	return false;
}

/* Linux carries the call out at the fixed addresses by itself, return and all, where there is no filter to stop it. */
static void system_call(struct bt_vcpu *v, const struct cell_shared *s)
{
	if (!x86_code64(&v->cpu)) { /* INT 0x80; of the frame Linux may have made what interrupted calls leave behind */
		v->cpu.rip = (u32)(s->call_address - 2);
		v->cpu.gpr[R_RAX] = s->call_number;
		bt_interpret_one(v);
		return;
	}
	if (s->call_address - VSYSCALL < PAGE_SIZE) {
		v->cpu.rip = PAGE_BASE(s->call_address) + (s->call_number == 201 ? 0x400 : s->call_number == 309 ? 0x800 : 0);
		v->cpu.gpr[R_RSP] -= 8;
		return;
	}
	v->cpu.rip -= 2;
	bt_interpret_one(v);
}

static bool is_int1(struct bt_vcpu *v, gva_t gva)
{
	struct x86_xlat x;
	const u8 *byte = x86_probe(&v->cpu, gva, x86_acc(&v->cpu, ACC_FETCH), &x) ? v->env.ram(v, PAGE_BASE(x.gpa), false) : NULL;
	return byte && byte[PAGE_OFFSET(gva)] == 0xf1;
}

/* INT1 is a trap, but where the host is a guest itself, its hypervisor may report the instruction's own address. */
static bool int1_stays(struct bt_vcpu *v)
{
	bool here = is_int1(v, v->cpu.rip), before = is_int1(v, v->cpu.rip - 1);
	if (here != before)
		v->direct->int1_stays = here;
	return v->direct->int1_stays;
}

/* INT3 and INT1 are traps: rip is behind them. So it is after a single step. At a breakpoint of ours nothing has happened yet. */
static void trap(struct bt_vcpu *v, u64 number, u32 code)
{
	struct x86_cpu *c = &v->cpu;
	if (number == VEC_DB && code == TRAP_HWBKPT) {
		bt_interpret_one(v);
		return;
	}
	if (number == VEC_DB && code == TRAP_TRACE) { /* POPF may just have cleared TF */
		c->dr6_pending |= DR6_BS;
		if (x86_take_debug_trap(c))
			x86_deliver_fault(c);
		return;
	}
	if (number != VEC_DB || !int1_stays(v))
		c->rip -= 1;
	bt_interpret_one(v);
}

static void handle(struct bt_vcpu *v, struct direct_map *m)
{
	const struct cell_shared *s = m->cell->shared;
	u64 number = (u64)direct_frame(m->cell)->uc_mcontext.gregs[REG_TRAPNO];
	switch (s->signal) {
	case SIGSYS:
		system_call(v, s);
		break;
	case SIGTRAP:
		trap(v, number, s->code);
		break;
	case SIGBUS:
		if (number == VEC_PF)
			fail(v, "the host has no memory left for", NULL);
		else
			bt_interpret_one(v);
		break;
	default:
		if (number == VEC_OF && !x86_code64(&v->cpu)) /* INTO is a trap, as INT3 is */
			v->cpu.rip -= 1;
		bt_interpret_one(v);
	}
}

/* A far jump in the cell: what is mapped was not searched as this kind of code. */
static bool changed_mode(const struct direct_map *m)
{
	return ((u16)direct_frame(m->cell)->uc_mcontext.gregs[REG_CSGSFS] == HOST_CS32) != m->compat;
}

/* The fault has set RF, and the instruction that was to be fetched may have a breakpoint by now. */
static bool go_on(struct direct_map *m)
{
	direct_frame(m->cell)->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)FL_RF;
	return true;
}

/* False: the cell's registers are the guest's again and something is to be done outside. */
static bool serve(struct bt_vcpu *v, struct direct_process *p)
{
	struct direct_map *m = p->map;
	bool lost = m->cell->lost;
	direct_map_recover(m);
	if (lost && is_page_fault(m->cell)) { /* perhaps of what could not be mapped: not again at once */
		direct_save(v, m->cell);
		direct_turn_off(v, p, HOLDOFF_LOOP);
		return false;
	}
	if (m->cell->shared->signal == SIGUSR1 || (is_page_fault(m->cell) && changed_mode(m))) {
		direct_save(v, m->cell);
		return false;
	}
	if (is_page_fault(m->cell) && map_missing(v, p) && p->on[m->compat])
		return go_on(m);
	direct_save(v, m->cell);
	if (!p->on[m->compat])
		return false;
	if (is_page_fault(m->cell) && page_fault(v, p))
		return go_on(m);
	direct_count_exits(v, p, 1);
	if (!is_page_fault(m->cell))
		handle(v, m);
	return false;
}

/* The guest's clock has been stopped or set. */
static void forbid_tsc(struct bt_direct *d)
{
	for (u32 i = 0; i < DIRECT_PROCESSES; i++)
		if (d->process[i].map)
			direct_map_unframe(d->process[i].map, ANY_FRAME, HOW_EXEC);
	d->tsc = false;
}

/* No selector means more in the cell than to the guest. 64-bit code finds there what 32-bit code has left. */
static bool prepare_segments(struct bt_vcpu *v, struct direct_process *p)
{
	struct bt_cell *c = p->map->cell;
	bool compat = p->map->compat;
	if ((compat || c->tls[0].present || c->tls[1].present || c->tls[2].present) && !direct_compat_mirror(v, c)) {
		direct_give_up_map(v->direct, p);
		p->on[0] = p->on[1] = v->direct_on[0] = v->direct_on[1] = false;
		return false;
	}
	return !compat || direct_compat_same(v, c);
}

static void prepare_map(struct bt_vcpu *v, struct direct_process *p)
{
	struct direct_map *m = p->map;
	bool compat = !x86_code64(&v->cpu);
	m->stale |= p->pcid != direct_pcid(v);
	p->pcid = direct_pcid(v);
	if (v->direct->tsc && !direct_tsc(v))
		forbid_tsc(v->direct);
	if (m->compat != compat)
		direct_map_unframe(m, ANY_FRAME, HOW_EXEC);
	m->compat = compat;
	direct_map_recover(m);
	direct_map_settle(v, m);
}

/* The process whose cell is ready for it; NULL: no cell is. */
static struct direct_process *prepare(struct bt_vcpu *v)
{
	struct direct_process *p = direct_this_process(v);
	bool compat = !x86_code64(&v->cpu);
	if (!p->on[compat])
		direct_turn_on(v, p, compat); /* DIRECTLY_ALWAYS */
	if (!p->on[compat] || (compat && v->direct->no_compat))
		return NULL;
	p->stamp = ++v->direct->stamp;
	prepare_map(v, p);
	return prepare_segments(v, p) ? p : NULL;
}

/* The guest's kernel has most likely brought the page of the last fault: it is mapped before the cell comes upon it again. False: no cell any more. */
static bool map_awaited(struct bt_vcpu *v, struct direct_process *p)
{
	struct direct_map *m = p->map;
	if (m->awaited.some)
		map_page(v, p, m->awaited.gva, m->awaited.acc);
	m->awaited.some = false;
	return p->on[m->compat];
}

void bt_direct_run(struct bt_vcpu *v)
{
	struct direct_process *p = prepare(v);
	if (!p) {
		bt_interpret_one(v);
		return;
	}
	if (p->map->compat && direct_map_refuses(p->map, v->cpu.rip)) { /* the way into the cell would end there */
		interpret_around(v, p->map);
		return;
	}
	if (!map_awaited(v, p))
		return;
	struct direct_map *m = p->map;
	v->cpu.rflags &= ~(u64)FL_RF;
	v->cpu.debug_shadow = false;
	direct_load(v, m->cell);
	stay_together(v->direct, m->cell, direct_now());
	bool moved = false;
	for (;;) {
		enum outcome o = go(v, p);
		if (o == BROKEN)
			fail(v, "the host has ended", m->cell);
		if (o == LEFT_ALONE && moved)
			direct_save(v, m->cell);
		if (o != AT_SIGNAL)
			break;
		moved = true;
		v->st.direct_runs++;
		if (!serve(v, p))
			break;
	}
}
