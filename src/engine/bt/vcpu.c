/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One vCPU of the software engine: its creation, the run loop around translated and interpreted code, its end.
 *
 * struct bt_vcpu is thread-local so that translated code reaches it through the thread pointer at a fixed distance: one vCPU a thread,
 * created, run and destroyed there.
 *
 * Threading: the vCPU's thread; what others may ask of it is in requests.c.
 */
#include "engine/bt/bt.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define TSC_SLACK 100000 /* smaller differences are the error of the measurement */

__thread struct bt_vcpu bt_self __attribute__((aligned(64)));

static struct bt_vcpu *vcpu(struct engine_vcpu *v)
{
	return (struct bt_vcpu *)v;
}

i32 bt_fs_offset(void)
{
	return (i32)((char *)&bt_self - (char *)__builtin_thread_pointer());
}

void bt_self_unused(void)
{
	u64 start = PAGE_BASE((u64)&bt_self + PAGE_SIZE - 1), end = PAGE_BASE((u64)(&bt_self + 1));
	if (!bt_self.vm)
		madvise((void *)start, end - start, MADV_DONTNEED);
}

/* ---- creation and end */

static void set_constants(struct bt_vcpu *v)
{
	v->k_page = v->vm->page_mask;
	v->k_align[1] = 0xffffffff;
	v->k_align[2] = 0xffff;
	v->k_align[3] = 0xff;
	v->k_not_if = (u32)~FL_IF;
	v->k_not_ac = (u32)~FL_AC;
	v->k_sysflags = (u32) ~(FL_ARITH | FL_ONE | FL_RF | FL_VM);
	v->k_tsd = CR4_TSD;
	v->k_fff = 0xfff;
	v->k_not_fff = ~0xfffull;
	v->k_beyond = ~0ull << 47;
	v->k_1000 = 0x1000;
	v->k_63 = 63;
	v->k_31 = 31;
	for (u32 n = 0; n < BT_SHARE_LINES; n++)
		v->k_line[n] = (1ull << (63 - n)) - 1;
	for (u32 log = 0; log < ARRAY_SIZE(v->k_above); log++)
		v->k_above[log] = PAGE_SIZE - (64u << log);
	v->jc_mask[0] = v->jc_mask[1] = BT_JC_MASK;
	v->go = 1;
	v->irq_idle = 1;
	v->jc_mode[0] = v->jc_mode[1] = ~0u;
}

static void vcpu_release(struct bt_vcpu *v)
{
	bt_aspace_fini(v);
	bt_cache_fini(v);
	interp_free(v->interp);
	pthread_mutex_destroy(&v->inval_lock);
	memset(v, 0, sizeof *v);
}

static void vcpu_init(struct bt_vcpu *v, struct bt_vm *vm, u32 id, const struct engine_machine *m)
{
	memset(v, 0, sizeof *v);
	pthread_mutex_init(&v->inval_lock, NULL);
	v->vm = vm;
	v->id = id;
	v->machine = *m;
	v->env = bt_env;
	v->env.opaque = v;
	v->cpu.env = &v->env;
	v->cpu.cpuid = vm->cpuid;
	v->cpu.apic_id = id;
	v->cpu.traced = m->trace != NULL;
	v->xsave_mask = bt_host_xcr0() & 0xe7;
	v->fpu_saved = true;
	set_constants(v);
	if (GM_BOUNDS_CHECKS)
		bt_bounds_init(v);
}

/* Nobody looks at it with the world stopped, nor under the lock. */
static void enlist(struct bt_vcpu *v, struct bt_vcpu *as)
{
	struct bt_world w = bt_world_stop(v->vm);
	pthread_mutex_lock(&v->vm->lock);
	if (!as)
		bt_stats_keep(v);
	v->vm->vcpus[v->id] = as;
	pthread_mutex_unlock(&v->vm->lock);
	bt_world_start(&w);
}

int bt_vcpu_create(struct engine_vcpu **out, struct engine_vm *engine_vm, u32 id, const struct engine_machine *m, struct err *e)
{
	struct bt_vcpu *v = &bt_self;
	if (v->vm)
		return err_set(e, EBUSY, "engine bt: this thread already runs a vCPU; create each on a thread of its own");
	vcpu_init(v, (struct bt_vm *)engine_vm, id, m);
	if (interp_new(&v->interp, e) || !bt_aspace_init(v, e) || !bt_cache_init(v, e) || !bt_thread_init(v)) {
		bt_thread_fini(v);
		vcpu_release(v);
		return e->code ? -e->code : err_sys(e, ENOMEM, "engine bt: signal stack");
	}
	interp_cache_translations(v->interp, &v->epoch);
	x86_reset(&v->cpu, id == 0, false);
	bt_direct_init(v);
	bt_mode_changed(v);
	enlist(v, v);
	*out = (struct engine_vcpu *)v;
	return 0;
}

void bt_vcpu_destroy(struct engine_vcpu *ev)
{
	struct bt_vcpu *v = vcpu(ev);
	if (!v)
		return;
	bt_flush_code(v);
	bt_direct_fini(v);
	enlist(v, NULL);
	bt_thread_fini(v);
	vcpu_release(v);
}

/* ---- the run loop */

static bool can_interrupt(const struct bt_vcpu *v)
{
	return (v->cpu.rflags & FL_IF) && !v->cpu.irq_shadow;
}

/* For a debugger who steps a halted CPU the step is the way into the handler, whose first instruction is still to come. */
static void wake(struct bt_vcpu *v)
{
	v->stepped |= v->halted;
	v->halted = false;
}

/* Deliver what may be delivered now. */
static void events(struct bt_vcpu *v)
{
	struct x86_cpu *c = &v->cpu;
	if (unlikely(c->dr6_pending & DR6_BT)) /* the trap on the task switch comes first */
		return;
	if (c->nmi_pending && !c->nmi_blocked && !c->irq_shadow) {
		c->nmi_pending = false;
		c->nmi_blocked = true;
		wake(v);
		x86_interrupt(c, VEC_NMI, INT_HARDWARE, false, 0);
		return;
	}
	if (__atomic_load_n(&v->irq_idle, __ATOMIC_SEQ_CST) || !can_interrupt(v))
		return;
	__atomic_store_n(&v->irq_idle, 1, __ATOMIC_SEQ_CST);
	if (!v->machine.irq_pending(v->machine.opaque))
		return;
	int vector = v->machine.irq_accept(v->machine.opaque);
	if (v->machine.irq_pending(v->machine.opaque))
		__atomic_store_n(&v->irq_idle, 0, __ATOMIC_SEQ_CST);
	if (vector < 0)
		return;
	wake(v);
	v->st.irqs++;
	if (x86_cpl(c) == 3)
		bt_direct_sample(v);
	x86_interrupt(c, (u8)vector, INT_HARDWARE, false, 0);
}

void bt_interpret_one(struct bt_vcpu *v)
{
	v->interpret_next = false;
	v->stepped = true;
	v->st.interp++;
	enum interp_result r = interp_step(v->interp, &v->cpu);
	bt_stores_done(v);
	switch (r) {
	case INTERP_OK:
		break;
	case INTERP_HALT:
		v->halted = true;
		break;
	case INTERP_FAULT:
		x86_deliver_fault(&v->cpu);
		break;
	}
}

static BT_UNCHECKED void run_translated(struct bt_vcpu *v)
{
	v->jump_to = (u64)bt_dispatch(v);
	if (v->jump_to && BT_ALL_HEAVY)
		bt_light(v);
	if (v->jump_to)
		((void (*)(void))(v->cache_rx + v->enter_off))();
	bt_heavy(v);
}

/* The guest's TSC is the host's plus one number, the same on all vCPUs to the tick: guests compare them. The machine's clock tells it with the
 * error of a call, so the first who asks decides, and again when the clock was stopped meanwhile. */
static i64 measured_offset(struct bt_vcpu *v)
{
	u64 before, now, after;
	u32 tries = 0;
	do {
		before = bt_host_tsc();
		now = v->machine.tsc(v->machine.opaque);
		after = bt_host_tsc();
	} while (after - before > TSC_SLACK / 4 && ++tries < 100);
	return (i64)(now - v->cpu.tsc_offset - after);
}

static void follow_tsc(struct bt_vcpu *v)
{
	struct bt_vm *vm = v->vm;
	if (v->machine.tsc_base) {
		v->tsc_offset = v->machine.tsc_base(v->machine.opaque);
		return;
	}
	pthread_mutex_lock(&vm->lock);
	i64 offset = measured_offset(v), drift = offset - vm->tsc_offset;
	if (drift > TSC_SLACK || drift < -TSC_SLACK)
		vm->tsc_offset = offset;
	v->tsc_offset = (u64)vm->tsc_offset;
	pthread_mutex_unlock(&vm->lock);
}

static enum exit_kind run(struct bt_vcpu *v, struct err *e)
{
	if (!v->cpu.halted)
		v->halted = false;
	bt_mode_changed(v);
	bt_debug_apply(v);
	for (;;) {
		bt_stores_done(v);
		bt_take_requests(v);
		bt_let_others(v); /* after the words were set: who comes later clears them again */
		if (atomic_exchange(&v->kicked, 0))
			return EXIT_KICKED;
		if (v->failed) {
			*e = v->err;
			return EXIT_ERROR;
		}
		if (v->cpu.triple_fault)
			return EXIT_SHUTDOWN;
		if (!bt_debug_steps(v) || v->halted)
			events(v);
		if (v->cpu.triple_fault)
			return EXIT_SHUTDOWN;
		v->cpu.halted = v->halted;
		if (unlikely(v->debug != NULL) && bt_debug_due(v))
			return EXIT_DEBUG;
		if (v->halted)
			return EXIT_HALTED;
		bt_update_mode(v);
		if ((v->mode & MODE_COMPAT) && !v->direct_on[1])
			bt_direct_compat(v);
		if (!v->cpu.irq_shadow && bt_direct_fits(v))
			bt_direct_run(v);
		else if (v->mode & MODE_INTERP || v->cpu.irq_shadow)
			bt_interpret_one(v);
		else {
			run_translated(v);
			if (v->interpret_next)
				bt_interpret_one(v);
		}
	}
}

enum exit_kind bt_vcpu_run(struct engine_vcpu *ev, struct err *e)
{
	struct bt_vcpu *v = vcpu(ev);
	follow_tsc(v);
	__atomic_store_n(&v->irq_idle, 0, __ATOMIC_SEQ_CST); /* look once, whatever was missed while nothing ran */
	bt_enter(v);
	enum exit_kind kind = run(v, e);
	bt_direct_rest(v);
	if (GM_BOUNDS_CHECKS)
		bt_canaries_check(v);
	bt_leave(v);
	return kind;
}

struct x86_cpu *bt_vcpu_state(struct engine_vcpu *ev)
{
	return &vcpu(ev)->cpu;
}

int bt_vcpu_sync_out(struct engine_vcpu *ev, struct err *e)
{
	struct bt_vcpu *v = vcpu(ev);
	(void)e;
	if (atomic_exchange(&v->nmi_req, 0))
		v->cpu.nmi_pending = true;
	return 0;
}

void bt_vcpu_sync_in(struct engine_vcpu *ev)
{
	struct bt_vcpu *v = vcpu(ev);
	bt_enter(v);
	v->halted = v->cpu.halted;
	bt_shadow_flush(v, -1, true); /* CR3 may be another one, which MOV CR3 would have flushed for */
	bt_mode_changed(v);
	bt_leave(v);
}
