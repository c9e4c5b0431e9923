/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who runs in a cell.
 *
 * A guest process is known by its page table (CR3). Timer interrupts that find user code running sample it; one that seldom calls the kernel or
 * faults moves to a cell, and comes back to translated code when its ways out of the cell turn out to cost more than the cell saves.
 *
 * Threading: the vCPU's thread; bt_direct_unwrite and bt_direct_unexecute also by who has stopped the world.
 */
#include "engine/bt/direct.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SAMPLES 6	 /* in a row that find a process computing, 4 ms each under Linux */
#define STEADY_SAMPLES 2 /* the same, when what it runs is not new */
#define NEW_BLOCKS 100	 /* between two samples: it still finds its way */
#define LONG_NS 40000	 /* between two ways into the kernel, in translated code */
#define EXITS 64	 /* after so many, look whether the cell pays */
#define SHORT_NS 5000	 /* of the guest's own time on average between two exits: it does not */
#define WAY_NS 3000	 /* what a way in and a signal take of that time */
#define AMPLE_NS 300000	 /* it does, however long it had to wait for a CPU */
#define MOSTLY_WAITING 3 /* times as much went by as it ran */
#define HOLDOFF_MIN 4000000ull
#define HOLDOFF_MAX 200000000ull

u64 direct_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000000000ull + (u64)t.tv_nsec;
}

/* ---- processes */

u16 direct_pcid(const struct bt_vcpu *v)
{
	return v->cpu.cr4 & CR4_PCIDE ? v->cpu.cr3 & 0xfff : 0;
}

void direct_give_up_map(struct bt_direct *d, struct direct_process *p)
{
	if (!p->map)
		return;
	direct_map_free(p->map);
	p->map = NULL;
	d->ncells--;
}

static struct direct_process *add_process(struct bt_direct *d, u64 cr3, u64 stack_entry)
{
	struct direct_process *oldest = &d->process[0];
	for (u32 i = 1; i < DIRECT_PROCESSES; i++)
		if (d->process[i].stamp < oldest->stamp)
			oldest = &d->process[i];
	struct direct_map *map = oldest->map;
	*oldest = (struct direct_process){.cr3 = cr3, .stack_entry = stack_entry, .map = map, .stamp = ++d->stamp};
	if (map)
		map->stale = true;
	return oldest;
}

void bt_direct_give_back(struct bt_vcpu *v)
{
	for (u32 i = 0; v->direct && i < DIRECT_PROCESSES; i++) {
		direct_give_up_map(v->direct, &v->direct->process[i]);
		v->direct->process[i].on[0] = v->direct->process[i].on[1] = false;
	}
	v->direct_on[0] = v->direct_on[1] = v->direct && v->vm->directly == DIRECTLY_ALWAYS;
}

void bt_direct_fini(struct bt_vcpu *v)
{
	bt_direct_give_back(v);
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

static u64 blocks_made(const struct bt_vcpu *v)
{
	return v->st.blocks + v->st.rebased + v->st.moved;
}

static bool computes(const struct bt_vcpu *v, const struct direct_process *p, u64 now)
{
	u64 crossings = v->crossings - p->crossings + 1;
	return p->sampled_at && (now - p->sampled_at) / crossings > LONG_NS;
}

/* A program that starts finds new code all the time, and may be over before a cell pays. One that has run all of it before is in a loop. */
static bool turns_in_place(const struct bt_vcpu *v, const struct direct_process *p)
{
	return blocks_made(v) - p->blocks <= NEW_BLOCKS;
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
	memset(&p->trial, 0, sizeof p->trial);
	p->trial.cpu_at = bt_cell_cpu_ns(p->map->cell);
}

void direct_turn_on(struct bt_vcpu *v, struct direct_process *p, bool compat)
{
	p->on[compat] = v->direct_on[compat] = give_map(v, p);
	if (p->on[compat])
		begin_trial(p);
}

static void take_sample(const struct bt_vcpu *v, struct direct_process *p, u64 now)
{
	p->sampled_at = now;
	p->crossings = v->crossings;
	p->blocks = blocks_made(v);
}

void direct_turn_off(struct bt_vcpu *v, struct direct_process *p, u64 ns)
{
	u64 now = direct_now();
	p->on[0] = p->on[1] = v->direct_on[0] = v->direct_on[1] = false;
	p->good = p->steady = 0;
	take_sample(v, p, now);
	p->not_before = now + ns;
}

/* Longer each time. */
u64 direct_holdoff(struct direct_process *p, u64 max)
{
	p->holdoff = p->holdoff < HOLDOFF_MIN / 2 ? HOLDOFF_MIN : p->holdoff * 2 > max ? max : p->holdoff * 2;
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

struct direct_process *direct_this_process(struct bt_vcpu *v)
{
	if (!v->direct->now)
		v->direct->now = add_process(v->direct, direct_table(v), direct_stack_entry(v));
	return v->direct->now;
}

static bool looks_good(const struct direct_process *p)
{
	return p->good >= SAMPLES || p->steady >= STEADY_SAMPLES || (p->good && p->paid);
}

void bt_direct_sample(struct bt_vcpu *v)
{
	struct bt_direct *d = v->direct;
	if (!d || d->refused || !x86_code64(&v->cpu))
		return;
	struct direct_process *p = direct_this_process(v);
	if (p->on[0])
		return;
	u64 now = direct_now();
	p->stamp = ++d->stamp;
	p->good = computes(v, p, now) ? p->good + 1 : 0;
	p->steady = p->good && turns_in_place(v, p) ? p->steady + 1 : 0;
	take_sample(v, p, now);
	if (looks_good(p) && now >= p->not_before)
		direct_turn_on(v, p, false);
}

/* Whatever a way out of a cell costs: interpreted, a few hundred instructions cost as much. */
void bt_direct_compat(struct bt_vcpu *v)
{
	struct bt_direct *d = v->direct;
	if (!d || d->refused || !bt_direct_may(v))
		return;
	struct direct_process *p = direct_this_process(v);
	if (p->not_before && direct_now() < p->not_before)
		return;
	p->not_before = 0;
	p->stamp = ++d->stamp;
	direct_turn_on(v, p, true);
}

/* What the guest's code itself has had of the CPU: neither the ways in and out, nor mapping pages, nor waiting while another had the CPU. */
static u64 guest_ns(const struct direct_process *p, u64 cpu_ns)
{
	double part = p->trial.wall_ticks ? (double)p->trial.guest_ticks / (double)p->trial.wall_ticks : 0;
	u64 ns = (u64)(part * (double)p->trial.wall_ns), ran = ns < cpu_ns ? ns : cpu_ns, ways = p->trial.runs * WAY_NS;
	return ran > ways ? ran - ways : 0;
}

/* Between ways out, user code must have run long enough on the CPU. Where vCPUs are more than CPUs, thread and cell besides wait for one each time
 * they take turns: then it must have run for a good part of the time that went by, or so long that the turns do not matter. */
static bool pays(const struct direct_process *p)
{
	u64 cpu_ns = bt_cell_cpu_ns(p->map->cell) - p->trial.cpu_at, ran = guest_ns(p, cpu_ns) / p->trial.exits;
	return ran >= SHORT_NS && (p->trial.wall_ns <= MOSTLY_WAITING * cpu_ns || ran >= AMPLE_NS);
}

/* Ways out that translated code would not have needed. */
void direct_count_exits(struct bt_vcpu *v, struct direct_process *p, u64 n)
{
	p->trial.exits += n;
	if (p->trial.exits < EXITS || p->map->compat)
		return;
	if (v->vm->directly == DIRECTLY_ALWAYS || pays(p)) {
		p->holdoff /= 2;
		p->paid = true;
		begin_trial(p);
	} else
		direct_turn_off(v, p, direct_holdoff(p, HOLDOFF_MAX));
}
