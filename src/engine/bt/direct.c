/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who runs in a cell, and how the CPU's state gets there and back.
 *
 * A guest process is known by its page table (CR3). Timer interrupts that find user code running sample it; one that seldom calls the kernel or faults
 * moves to a cell, and comes back to translated code when its ways out of the cell turn out to cost more than the cell saves.
 *
 * In a cell all but user code's own instructions ends in a signal. Pages that are missing there but allowed by the guest are mapped and the cell goes on;
 * any other instruction that raised a signal is interpreted, which brings about exactly what the guest's CPU would have done.
 *
 * Threading: the vCPU's thread; bt_direct_unwrite and bt_direct_unexecute also by who has stopped the world.
 */
#include "engine/bt/direct.h"

#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>

#define FL_CELL (FL_ARITH | FL_DF | FL_ID) /* flags that come and go with user code */
#define SAMPLES 2			   /* in a row, that find a process computing */
#define LONG_NS 40000			   /* between two ways into the kernel, in translated code */
#define EXITS 64			   /* after so many, look whether the cell pays */
#define SHORT_NS 13000			   /* of CPU time on average between two exits: it does not */
#define AMPLE_NS 300000			   /* it does, however long it had to wait for a CPU */
#define MOSTLY_WAITING 3		   /* times as much went by as it ran */
#define EXIT_NS 10000			   /* what one costs; what is done for the cell meanwhile is counted in these */
#define HOLDOFF_MIN 20000000ull
#define HOLDOFF_MAX 200000000ull
#define HOLDOFF_LOOP 1000000000ull /* for a loop in a page that must not be executed directly */
#define IN_PAGE 400		   /* instructions to interpret in a page that must not be executed directly, */
#define IN_PAGE_COMPAT 4000	   /* and where all would be interpreted otherwise */
#define NEAR 400		   /* instructions of which the interpreter takes as long as a way into a cell and out */
#define NOT_NEAR 32
#define PINNED_NS 20000000ull
#define VSYSCALL 0xffffffffff600000ull

static u64 now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000000000ull + (u64)t.tv_nsec;
}

/* ---- processes */

static u16 pcid_of(const struct bt_vcpu *v)
{
	return v->cpu.cr4 & CR4_PCIDE ? v->cpu.cr3 & 0xfff : 0;
}

static void give_up_map(struct bt_direct *d, struct direct_process *p)
{
	if (!p->map)
		return;
	direct_map_free(p->map);
	p->map = NULL;
	d->ncells--;
}

static struct direct_process *add_process(struct bt_direct *d, u64 cr3)
{
	struct direct_process *oldest = &d->process[0];
	for (u32 i = 1; i < DIRECT_PROCESSES; i++)
		if (d->process[i].stamp < oldest->stamp)
			oldest = &d->process[i];
	struct direct_map *map = oldest->map;
	*oldest = (struct direct_process){.cr3 = cr3, .map = map, .stamp = ++d->stamp};
	if (map)
		map->stale = true;
	return oldest;
}

void bt_direct_fini(struct bt_vcpu *v)
{
	if (!v->direct)
		return;
	for (u32 i = 0; i < DIRECT_PROCESSES; i++)
		give_up_map(v->direct, &v->direct->process[i]);
	free(v->direct);
	v->direct = NULL;
	v->direct_on[0] = v->direct_on[1] = false;
}

/* ---- what the guest and others take back */

void bt_direct_unwrite(struct bt_vcpu *v, u64 gpfn)
{
	for (u32 i = 0; v->direct && i < DIRECT_PROCESSES; i++)
		if (v->direct->process[i].map)
			direct_map_unframe(v->direct->process[i].map, gpfn, HOW_WRITE);
	v->frames[gpfn].in_cells = false;
}

void bt_direct_unexecute(struct bt_vcpu *v, u64 gpfn)
{
	for (u32 i = 0; v->direct && i < DIRECT_PROCESSES; i++)
		if (v->direct->process[i].map)
			direct_map_unframe(v->direct->process[i].map, gpfn, HOW_EXEC);
	v->frames[gpfn].executed[0] = v->frames[gpfn].executed[1] = FRAME_UNKNOWN;
}

/* ---- who */

static bool computes(const struct bt_vcpu *v, const struct direct_process *p, u64 now)
{
	u64 crossings = v->crossings - p->crossings + 1;
	return p->sampled_at && (now - p->sampled_at) / crossings > LONG_NS;
}

static bool give_map(struct bt_vcpu *v, struct direct_process *p)
{
	struct bt_direct *d = v->direct;
	struct direct_process *oldest = NULL;
	if (p->map)
		return true;
	for (u32 i = 0; i < DIRECT_PROCESSES; i++)
		if (d->process[i].map && (!oldest || d->process[i].stamp < oldest->stamp))
			oldest = &d->process[i];
	if (d->ncells == DIRECT_CELLS && oldest) {
		p->map = oldest->map;
		oldest->map = NULL;
		oldest->on[0] = oldest->on[1] = false;
		p->map->stale = true;
		return true;
	}
	struct err e = {0};
	struct bt_cell *c = bt_cell_new(v->vm->gm->fd, &e);
	p->map = c ? direct_map_new(c) : NULL;
	if (!p->map) {
		bt_cell_free(c);
		d->refused = true;
		return false;
	}
	d->ncells++;
	d->no_compat |= !c->compat;
	return true;
}

static void begin_trial(struct direct_process *p)
{
	p->exits = p->wall_ns = 0;
	p->cpu_at = bt_cell_cpu_ns(p->map->cell);
}

static void turn_on(struct bt_vcpu *v, struct direct_process *p, bool compat)
{
	p->on[compat] = v->direct_on[compat] = give_map(v, p);
	if (p->on[compat])
		begin_trial(p);
}

static void turn_off(struct bt_vcpu *v, struct direct_process *p, u64 ns)
{
	p->on[0] = p->on[1] = v->direct_on[0] = v->direct_on[1] = false;
	p->good = 0;
	p->sampled_at = 0;
	p->not_before = now_ns() + ns;
}

/* Longer each time. */
static u64 next_holdoff(struct direct_process *p, u64 max)
{
	p->holdoff = p->holdoff == 0 ? HOLDOFF_MIN : p->holdoff * 2 > max ? max : p->holdoff * 2;
	return p->holdoff;
}

/* 0 in the image stands for the bits that every CPU has (SDM vol. 1, 11.6.6). AMD's CPUs have MM besides. */
static u32 host_mxcsr_mask(void)
{
	u8 image[512] __attribute__((aligned(16))) = {0};
	u32 mask;
	__asm__ volatile("fxsave64 %0" : "+m"(image));
	memcpy(&mask, image + 28, sizeof mask);
	return mask ? mask : 0xffbf;
}

void bt_direct_init(struct bt_vcpu *v)
{
	struct bt_direct *d = v->vm->directly == DIRECTLY_NEVER ? NULL : calloc(1, sizeof *d);
	u32 a, b, c, dx;
	if (!d)
		return;
	__cpuid(0, a, b, c, dx);
	d->host.sysenter = b != signature_AMD_ebx;
	d->host.syscall32 = b != signature_INTEL_ebx;
	d->host.xcr0 = bt_host_xcr0();
	d->host.mxcsr_mask = host_mxcsr_mask();
	v->direct = d;
}

static struct direct_process *this_process(struct bt_vcpu *v)
{
	if (!v->direct->now)
		v->direct->now = add_process(v->direct, direct_table(v));
	return v->direct->now;
}

void bt_direct_sample(struct bt_vcpu *v)
{
	struct bt_direct *d = v->direct;
	if (!d || d->refused || !x86_code64(&v->cpu))
		return;
	struct direct_process *p = this_process(v);
	if (p->on[0])
		return;
	u64 now = now_ns();
	p->stamp = ++d->stamp;
	p->good = computes(v, p, now) ? p->good + 1 : 0;
	p->sampled_at = now;
	p->crossings = v->crossings;
	if (p->good >= SAMPLES && now >= p->not_before)
		turn_on(v, p, false);
}

/* Whatever a way out of a cell costs: interpreted, a few hundred instructions cost as much. */
void bt_direct_compat(struct bt_vcpu *v)
{
	struct bt_direct *d = v->direct;
	if (!d || d->refused || !bt_direct_may(v))
		return;
	struct direct_process *p = this_process(v);
	if (p->not_before && now_ns() < p->not_before)
		return;
	p->not_before = 0;
	p->stamp = ++d->stamp;
	turn_on(v, p, true);
}

/* Between ways out, user code must have run long enough on the CPU. Where vCPUs are more than CPUs, thread and cell besides wait for one each time
 * they take turns: then it must have run for a good part of the time that went by, or so long that the turns do not matter. */
static bool pays(const struct direct_process *p)
{
	u64 ran = bt_cell_cpu_ns(p->map->cell) - p->cpu_at;
	return ran / p->exits >= SHORT_NS && (p->wall_ns <= MOSTLY_WAITING * ran || ran / p->exits >= AMPLE_NS);
}

/* Ways out that translated code would not have needed. */
static void count_exits(struct bt_vcpu *v, struct direct_process *p, u64 n)
{
	p->exits += n;
	if (p->exits < EXITS || p->map->compat)
		return;
	if (v->vm->directly == DIRECTLY_ALWAYS || pays(p)) {
		p->holdoff /= 2;
		begin_trial(p);
	} else
		turn_off(v, p, next_holdoff(p, HOLDOFF_MAX));
}

/* ---- the state, over and back */

static const int gregs[16] = {
	[R_RAX] = REG_RAX, [R_RCX] = REG_RCX, [R_RDX] = REG_RDX, [R_RBX] = REG_RBX, [R_RSP] = REG_RSP, [R_RBP] = REG_RBP,
	[R_RSI] = REG_RSI, [R_RDI] = REG_RDI, [R_R8] = REG_R8,	 [R_R9] = REG_R9,   [R_R10] = REG_R10, [R_R11] = REG_R11,
	[R_R12] = REG_R12, [R_R13] = REG_R13, [R_R14] = REG_R14, [R_R15] = REG_R15,
};

static const u8 data_segments[4] = {SEG_DS, SEG_ES, SEG_FS, SEG_GS};

static ucontext_t *frame_of(const struct bt_cell *c)
{
	return (ucontext_t *)(c->stack + c->frame);
}

static u32 fp_bytes(const struct bt_cell *c)
{
	return c->fp_size < X86_XSAVE_SIZE ? c->fp_size : X86_XSAVE_SIZE;
}

static void load_frame(const struct bt_vcpu *v, struct bt_cell *c)
{
	const struct x86_cpu *cpu = &v->cpu;
	const u64 mask = bt_cell_mask();
	greg_t *g = frame_of(c)->uc_mcontext.gregs;
	for (u32 i = 0; i < 16; i++)
		g[gregs[i]] = (greg_t)cpu->gpr[i];
	g[REG_RIP] = (greg_t)cpu->rip;
	g[REG_EFL] = (greg_t)((cpu->rflags & FL_CELL) | FL_IF | FL_ONE);
	g[REG_CSGSFS] = cpu->seg[SEG_CS].sel | (greg_t)cpu->seg[SEG_SS].sel << 48;
	memcpy(&frame_of(c)->uc_sigmask, &mask, sizeof mask); /* the C library's is longer */
	for (u32 i = 0; i < 4; i++)
		c->shared->sel[i] = cpu->seg[data_segments[i]].sel;
	c->shared->fs_base = cpu->seg[SEG_FS].base;
	c->shared->gs_base = cpu->seg[SEG_GS].base;
	u8 *fp = c->stack + c->fp;
	memcpy(fp, cpu->fpu.bytes, FP_SOFTWARE);
	memcpy(fp + FP_HEADER, cpu->fpu.bytes + FP_HEADER, fp_bytes(c) - FP_HEADER);
}

/* XRSTOR refuses what is not as it should be, and the guest could have written it. */
static void save_vectors(struct bt_vcpu *v, const struct bt_cell *c)
{
	u8 *to = v->cpu.fpu.bytes;
	const u8 *fp = c->stack + c->fp;
	u64 bv;
	u32 mxcsr;
	memcpy(to, fp, FP_SOFTWARE);
	memset(to + FP_SOFTWARE, 0, FP_HEADER - FP_SOFTWARE);
	memcpy(&bv, fp + FP_HEADER, sizeof bv);
	memcpy(to + FP_STATE, fp + FP_STATE, fp_bytes(c) - FP_STATE);
	memset(to + FP_HEADER, 0, FP_STATE - FP_HEADER);
	bv &= v->xsave_mask;
	memcpy(to + FP_HEADER, &bv, sizeof bv);
	memcpy(&mxcsr, to + 24, sizeof mxcsr);
	mxcsr &= v->direct->host.mxcsr_mask;
	memcpy(to + 24, &mxcsr, sizeof mxcsr);
}

static void save_selector(struct x86_cpu *cpu, u32 seg, u16 sel)
{
	if (sel != cpu->seg[seg].sel && !x86_load_seg(cpu, seg, sel))
		cpu->fault.pending = false; /* the host has a descriptor there and the guest has not */
}

static void save_segments(struct bt_vcpu *v, const struct bt_cell *c)
{
	struct x86_cpu *cpu = &v->cpu;
	for (u32 i = 0; i < 4; i++)
		save_selector(cpu, data_segments[i], c->shared->sel[i]);
	save_selector(cpu, SEG_SS, (u16)(frame_of(c)->uc_mcontext.gregs[REG_CSGSFS] >> 48));
	u64 fs = c->shared->fs_base, gs = c->shared->gs_base;
	if (x86_canonical(fs))
		cpu->seg[SEG_FS].base = fs;
	if (x86_canonical(gs))
		cpu->seg[SEG_GS].base = gs;
}

static void save_frame(struct bt_vcpu *v, const struct bt_cell *c)
{
	struct x86_cpu *cpu = &v->cpu;
	const greg_t *g = frame_of(c)->uc_mcontext.gregs;
	const u64 mine = FL_CELL | FL_TF | FL_NT | FL_AC;
	for (u32 i = 0; i < 16; i++)
		cpu->gpr[i] = (u64)g[gregs[i]];
	cpu->rip = (u64)g[REG_RIP];
	cpu->rflags = (cpu->rflags & ~(mine | FL_RF)) | ((u64)g[REG_EFL] & mine);
	save_vectors(v, c);
	save_segments(v, c);
	u16 cs = (u16)g[REG_CSGSFS];
	if (cs != cpu->seg[SEG_CS].sel && !x86_far_jump(cpu, cs, cpu->rip, 8, cpu->rip))
		x86_deliver_fault(cpu);
}

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

/* Whoever nudges this vCPU sets its words before it looks for a cell. */
static enum outcome go(struct bt_vcpu *v, struct direct_process *p)
{
	struct bt_cell *c = p->map->cell;
	bool ran = false, ok = true;
	atomic_store(&v->in_cell, c->pid);
	if (!asked_to_leave(v)) {
		u64 since = now_ns();
		ran = true;
		ok = bt_cell_run(c);
		p->wall_ns += now_ns() - since;
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
	return c->shared->signal == SIGSEGV && frame_of(c)->uc_mcontext.gregs[REG_TRAPNO] == VEC_PF;
}

/* The first time a page is mapped is free; who writes code that it executes pays for mapping and searching it again and again. */
static bool map_page(struct bt_vcpu *v, struct direct_process *p, gva_t gva, u32 acc)
{
	u64 since = now_ns();
	if (!direct_map_page(v, p->map, gva, acc))
		return false;
	if (p->map->again)
		count_exits(v, p, 1 + (now_ns() - since) / EXIT_NS);
	return true;
}

/* The guest's tables as they are would allow it. */
static bool map_missing(struct bt_vcpu *v, struct direct_process *p)
{
	const ucontext_t *uc = frame_of(p->map->cell);
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
	gva_t gva = (u64)frame_of(m->cell)->uc_mcontext.gregs[REG_CR2];
	u32 acc = access_of(frame_of(m->cell));
	int r = translate(v, gva, acc);
	bt_stores_done(v);
	if (r > 0 && map_page(v, p, gva, acc))
		return p->on[m->compat];
	if (r == 0)
		x86_deliver_fault(&v->cpu);
	else if (!(acc & ACC_FETCH))
		bt_interpret_one(v);
	else if (m->compat)
		interpret_around(v, m);
	else if (!interpret_page(v, IN_PAGE) && v->vm->directly != DIRECTLY_ALWAYS)
		turn_off(v, p, next_holdoff(p, HOLDOFF_LOOP));
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
	u64 number = (u64)frame_of(m->cell)->uc_mcontext.gregs[REG_TRAPNO];
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
	return ((u16)frame_of(m->cell)->uc_mcontext.gregs[REG_CSGSFS] == HOST_CS32) != m->compat;
}

/* The fault has set RF, and the instruction that was to be fetched may have a breakpoint by now. */
static bool go_on(struct direct_map *m)
{
	frame_of(m->cell)->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)FL_RF;
	return true;
}

/* False: the cell's registers are the guest's again and something is to be done outside. */
static bool serve(struct bt_vcpu *v, struct direct_process *p)
{
	struct direct_map *m = p->map;
	bool lost = m->cell->lost;
	direct_map_recover(m);
	if (lost && is_page_fault(m->cell)) { /* perhaps of what could not be mapped: not again at once */
		save_frame(v, m->cell);
		turn_off(v, p, HOLDOFF_LOOP);
		return false;
	}
	if (m->cell->shared->signal == SIGUSR1 || (is_page_fault(m->cell) && changed_mode(m))) {
		save_frame(v, m->cell);
		return false;
	}
	if (is_page_fault(m->cell) && map_missing(v, p) && p->on[m->compat])
		return go_on(m);
	save_frame(v, m->cell);
	if (!p->on[m->compat])
		return false;
	if (is_page_fault(m->cell) && page_fault(v, p))
		return go_on(m);
	count_exits(v, p, 1);
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
		give_up_map(v->direct, p);
		p->on[0] = p->on[1] = v->direct_on[0] = v->direct_on[1] = false;
		return false;
	}
	return !compat || direct_compat_same(v, c);
}

static void prepare_map(struct bt_vcpu *v, struct direct_process *p)
{
	struct direct_map *m = p->map;
	bool compat = !x86_code64(&v->cpu);
	m->stale |= p->pcid != pcid_of(v);
	p->pcid = pcid_of(v);
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
	struct direct_process *p = this_process(v);
	bool compat = !x86_code64(&v->cpu);
	if (!p->on[compat])
		turn_on(v, p, compat); /* DIRECTLY_ALWAYS */
	if (!p->on[compat] || (compat && v->direct->no_compat))
		return NULL;
	p->stamp = ++v->direct->stamp;
	prepare_map(v, p);
	return prepare_segments(v, p) ? p : NULL;
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
	struct direct_map *m = p->map;
	v->cpu.rflags &= ~(u64)FL_RF;
	v->cpu.debug_shadow = false;
	load_frame(v, m->cell);
	stay_together(v->direct, m->cell, now_ns());
	bool moved = false;
	for (;;) {
		enum outcome o = go(v, p);
		if (o == BROKEN)
			fail(v, "the host has ended", m->cell);
		if (o == LEFT_ALONE && moved)
			save_frame(v, m->cell);
		if (o != AT_SIGNAL)
			break;
		moved = true;
		v->st.direct_runs++;
		if (!serve(v, p))
			break;
	}
}
