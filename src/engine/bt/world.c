/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one vCPU or device does to the translations of all: stopping the world, and keeping code and the bytes it was made from together.
 *
 * Stopping. Each vCPU has its own caches and tables and works on them without a lock while it is `running`. Whoever must change those of others
 * stops the world: it announces that, sends every vCPU to C by the words that a kick uses, and waits until none is running. A vCPU is not running
 * outside bt_vcpu_run (halted, at the gate), in a device's callback (env.c), while it waits here, and while it waits to stop the world itself.
 * So a device may hold its lock while it writes RAM: a vCPU that waits for that lock is in a callback, and nobody waits for it. Locks that a
 * *running* vCPU takes (the local APIC's, when it accepts an interrupt) must not be held.
 *
 * Code and bytes. Two rules, each with a store and a full barrier before its look at the other side, so one of both sides always sees:
 *   (1) the translator marks a line, then compares the bytes with those that it translated;
 *       a writer outside the tables (device, interpreter, rules) stores, then looks at the line, and has what was made from it dropped.
 *   (2) the translator marks a line, then looks who may write to the frame through its tables, and takes that away from all;
 *       a vCPU notes that it may write, then looks at the lines, and makes the write entry only when there are none.
 * No vCPU is stopped between such a look and what follows from it.
 *
 * Light code: general registers only; vector state is saved before a lock is taken. Threading: any thread.
 */
#include "engine/bt/bt.h"

#define SPINS 2000

/* IRET to the next instruction: the one serializing instruction that needs no rights and leaves no virtual machine. Code of this vCPU was patched
 * by another CPU, and what was prefetched of it must go (SDM vol. 3, 8.1.3). The space below rsp may hold data of ours. */
static void serialize(void)
{
	__asm__ volatile("movq %%rsp, %%rcx\n\t"
			 "leaq -128(%%rsp), %%rsp\n\t"
			 "movl %%ss, %%eax\n\t"
			 "pushq %%rax\n\t"
			 "pushq %%rcx\n\t"
			 "pushfq\n\t"
			 "movl %%cs, %%eax\n\t"
			 "pushq %%rax\n\t"
			 "leaq 1f(%%rip), %%rax\n\t"
			 "pushq %%rax\n\t"
			 "iretq\n"
			 "1:"
			 :
			 :
			 : "rax", "rcx", "cc", "memory");
}

/* ---- inside and outside */

static bool stop_wanted(const struct bt_vm *vm)
{
	return __atomic_load_n(&vm->stops, __ATOMIC_SEQ_CST) != 0;
}
static void set_running(struct bt_vcpu *v, bool on)
{
	__atomic_store_n(&v->running, on, __ATOMIC_SEQ_CST);
}

static bool any_running(struct bt_vm *vm)
{
	for (u32 i = 0; i < vm->max_vcpus; i++)
		if (vm->vcpus[i] && __atomic_load_n(&vm->vcpus[i]->running, __ATOMIC_SEQ_CST))
			return true;
	return false;
}

/* Who has the world waits for the last that runs. */
static void note_quiet(struct bt_vm *vm)
{
	if (!any_running(vm))
		pthread_cond_signal(&vm->quiet);
}

static void wait_for_go(struct bt_vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	while (stop_wanted(vm))
		pthread_cond_wait(&vm->go, &vm->lock);
	pthread_mutex_unlock(&vm->lock);
}

void bt_enter(struct bt_vcpu *v)
{
	set_running(v, true);
	while (stop_wanted(v->vm)) {
		bt_leave(v);
		wait_for_go(v->vm);
		set_running(v, true);
	}
	if (v->patched) {
		v->patched = false;
		serialize();
	}
}

void bt_leave(struct bt_vcpu *v)
{
	set_running(v, false);
	if (!stop_wanted(v->vm))
		return;
	pthread_mutex_lock(&v->vm->lock);
	note_quiet(v->vm);
	pthread_mutex_unlock(&v->vm->lock);
}

void bt_let_others(struct bt_vcpu *v)
{
	if (!stop_wanted(v->vm))
		return;
	bt_heavy(v);
	bt_leave(v);
	bt_enter(v);
}

/* ---- stopping */

static void nudge_all(struct bt_vm *vm)
{
	for (u32 i = 0; i < vm->max_vcpus; i++)
		if (vm->vcpus[i])
			bt_nudge(vm->vcpus[i]);
}

/* A running vCPU needs some hundred nanoseconds to its next look-up; one that the host has not scheduled needs longer. */
static void wait_until_quiet(struct bt_vm *vm)
{
	for (u32 i = 0; i < SPINS && any_running(vm); i++)
		__builtin_ia32_pause();
	while (any_running(vm))
		pthread_cond_wait(&vm->quiet, &vm->lock);
}

/* Here by chance: it comes often, everybody is at rest, and what a stray store has hit is not old yet. */
static void check_canaries(const struct bt_vm *vm)
{
	for (u32 i = 0; i < vm->max_vcpus; i++)
		if (vm->vcpus[i])
			bt_canaries_check(vm->vcpus[i]);
}

struct bt_world bt_world_stop(struct bt_vm *vm)
{
	struct bt_world w = {.vm = vm, .self = bt_self.vm == vm && bt_self.running ? &bt_self : NULL};
	w.alone = w.self && vm->max_vcpus == 1;
	if (w.alone)
		return w;
	if (w.self) {
		bt_heavy(w.self);
		set_running(w.self, false);
	}
	pthread_mutex_lock(&vm->lock);
	__atomic_add_fetch(&vm->stops, 1, __ATOMIC_SEQ_CST);
	note_quiet(vm);
	while (vm->stopped)
		pthread_cond_wait(&vm->go, &vm->lock);
	vm->stopped = true;
	nudge_all(vm);
	wait_until_quiet(vm);
	if (GM_BOUNDS_CHECKS)
		check_canaries(vm);
	pthread_mutex_unlock(&vm->lock);
	return w;
}

void bt_world_start(const struct bt_world *w)
{
	if (w->alone)
		return;
	pthread_mutex_lock(&w->vm->lock);
	w->vm->stopped = false;
	__atomic_sub_fetch(&w->vm->stops, 1, __ATOMIC_SEQ_CST);
	pthread_cond_broadcast(&w->vm->go);
	pthread_mutex_unlock(&w->vm->lock);
	if (w->self)
		bt_enter(w->self);
}

/* ---- dropping code */

static void kill_everywhere(struct bt_vm *vm, u64 gpfn, u64 lines)
{
	u64 left = 0;
	for (u32 i = 0; i < vm->max_vcpus; i++)
		if (vm->vcpus[i])
			left |= bt_kill_lines(vm->vcpus[i], gpfn, lines);
	__atomic_store_n(&vm->frames[gpfn].lines, left, __ATOMIC_SEQ_CST);
}

/* The lines that hold code now. A line that was marked before the caller's last barrier is seen. */
static u64 lines_of(const struct bt_vm *vm, u64 gpfn)
{
	u64 lines = __atomic_load_n(&vm->frames[gpfn].lines, __ATOMIC_SEQ_CST), now = 0;
	if (lines == 0 || vm->max_vcpus == 1)
		return lines;
	for (u32 i = 0; i < vm->max_vcpus; i++)
		if (vm->vcpus[i])
			now |= __atomic_load_n(&vm->vcpus[i]->frames[gpfn].lines, __ATOMIC_SEQ_CST);
	return now;
}

static void drop_lines(struct bt_vm *vm, u64 gpfn, u64 lines)
{
	struct bt_world w = bt_world_stop(vm);
	kill_everywhere(vm, gpfn, lines);
	bt_world_start(&w);
}

/* False: there is no room for another. */
static bool ask_to_drop(struct bt_vcpu *u, u64 gpfn, u64 lines)
{
	u32 i = 0;
	pthread_mutex_lock(&u->inval_lock);
	while (i < u->ninval && u->inval[i].gpfn != gpfn)
		i++;
	if (i < u->ninval)
		u->inval[i].lines |= lines;
	else if (i < BT_INVAL_MAX)
		u->inval[u->ninval++] = (struct bt_store){gpfn, lines};
	pthread_mutex_unlock(&u->inval_lock);
	bt_nudge(u);
	return i < BT_INVAL_MAX;
}

/* Others are not waited for: whatever this vCPU does next to make them run the new bytes (a store that they read, an interrupt), they look at their
 * words later, and at the latest at the serializing instruction that the architecture asks of them. */
void bt_code_drop(struct bt_vcpu *v, u64 gpfn, u64 lines)
{
	struct bt_vm *vm = v->vm;
	bt_heavy(v);
	if (vm->max_vcpus == 1) {
		drop_lines(vm, gpfn, lines);
		return;
	}
	bt_kill_lines(v, gpfn, lines);
	for (u32 i = 0; i < vm->max_vcpus; i++) {
		struct bt_vcpu *u = vm->vcpus[i];
		if (!u || u == v || !(__atomic_load_n(&u->frames[gpfn].lines, __ATOMIC_SEQ_CST) & lines))
			continue;
		if (!ask_to_drop(u, gpfn, lines)) {
			drop_lines(vm, gpfn, lines);
			return;
		}
	}
}

void bt_drop_asked(struct bt_vcpu *v)
{
	if (atomic_load(&v->ninval) == 0)
		return;
	pthread_mutex_lock(&v->inval_lock);
	for (u32 i = 0; i < v->ninval; i++)
		bt_kill_lines(v, v->inval[i].gpfn, v->inval[i].lines);
	v->ninval = 0;
	pthread_mutex_unlock(&v->inval_lock);
}

void bt_code_write(struct bt_vm *vm, gpa_t gpa, u32 len)
{
	u64 gpfn = gpa >> 12, lines;
	if (gpfn >= vm->nframes || len == 0 || lines_of(vm, gpfn) == 0)
		return;
	lines = bt_lines(PAGE_OFFSET(gpa), PAGE_OFFSET(gpa) + len);
	if (lines_of(vm, gpfn) & lines)
		drop_lines(vm, gpfn, lines);
}

bool bt_frame_has_code(const struct bt_vm *vm, gpa_t gpa)
{
	return gpa >> 12 < vm->nframes && lines_of(vm, gpa >> 12) != 0;
}

/* ---- stores by C code on a vCPU */

static struct bt_store *pending_for(struct bt_vcpu *v, u64 gpfn)
{
	for (u32 i = 0; i < v->npending; i++)
		if (v->pending[i].gpfn == gpfn)
			return &v->pending[i];
	if (v->npending == BT_PENDING) /* a long string instruction: its first stores have long been made */
		bt_settle_stores(v);
	v->pending[v->npending] = (struct bt_store){gpfn, 0};
	return &v->pending[v->npending++];
}

/* Alone, no translator can come between: the code may go at once. */
void bt_will_store(struct bt_vcpu *v, gpa_t gpa, u32 len)
{
	if (v->vm->max_vcpus == 1)
		bt_code_write(v->vm, gpa, len);
	else if (gpa >> 12 < v->vm->nframes && len)
		pending_for(v, gpa >> 12)->lines |= bt_lines(PAGE_OFFSET(gpa), PAGE_OFFSET(gpa) + len);
}

void bt_settle_stores(struct bt_vcpu *v)
{
	u32 n = v->npending;
	v->npending = 0;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (u32 i = 0; i < n; i++)
		if (lines_of(v->vm, v->pending[i].gpfn) & v->pending[i].lines)
			bt_code_drop(v, v->pending[i].gpfn, v->pending[i].lines);
}

/* ---- write entries */

bool bt_may_write(struct bt_vcpu *v, u64 gpfn)
{
	u64 *writers = &v->vm->frames[gpfn].writers, me = 1ull << v->id;
	if (lines_of(v->vm, gpfn))
		return false;
	if (!(__atomic_load_n(writers, __ATOMIC_RELAXED) & me))
		__atomic_fetch_or(writers, me, __ATOMIC_SEQ_CST);
	return lines_of(v->vm, gpfn) == 0;
}

static void unwrite_others(struct bt_vm *vm, u64 gpfn)
{
	struct bt_world w = bt_world_stop(vm);
	u64 writers = __atomic_exchange_n(&vm->frames[gpfn].writers, 0, __ATOMIC_SEQ_CST);
	for (u32 i = 0; i < vm->max_vcpus; i++)
		if ((writers & 1ull << i) && vm->vcpus[i])
			bt_shadow_unwrite(vm->vcpus[i], gpfn);
	bt_world_start(&w);
}

void bt_protect(struct bt_vcpu *v, u64 gpfn)
{
	u64 writers = __atomic_load_n(&v->vm->frames[gpfn].writers, __ATOMIC_SEQ_CST), me = 1ull << v->id;
	if (writers & ~me)
		unwrite_others(v->vm, gpfn);
	else if (writers) {
		bt_shadow_unwrite(v, gpfn);
		__atomic_fetch_and(&v->vm->frames[gpfn].writers, ~me, __ATOMIC_SEQ_CST);
	}
}
