/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A running machine goes from one engine to another: CPU state and local APICs move, devices and RAM stay. The guest's clocks are not stopped, so to
 * it the way takes as long as it takes.
 *
 * While it lasts the vCPUs are parked, interrupts wait at the router, and who else would speak to the engine waits for engine_lock: nothing is lost between
 * the two. A vCPU's own part is done on its own thread, as engines want it.
 *
 * Threading: main thread.
 */
#include "vm/cpu_model.h"
#include "vm/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- on the vCPUs' threads ---- */

/* A kick that came before the guest's HLT is kept by us or by the kernel, which does not tell: one too many is harmless. */
static void carry_kicks(struct vcpu *v)
{
	if (v->kicked || (__atomic_load_n(&v->events, __ATOMIC_ACQUIRE) & EV_UNHALT))
		v->saved->halted = false;
	v->kicked = true;
}

static void leave(struct vcpu *v)
{
	*v->saved = *v->state;
	carry_kicks(v);
	v->vm->ops->vcpu_destroy(v->engine);
	v->engine = NULL;
	v->state = NULL;
}

/* What is no state but belongs to the engine stays the engine's. */
static void restore(struct x86_cpu *to, const struct x86_cpu *from)
{
	struct x86_env *env = to->env;
	const struct x86_cpuid *cpuid = to->cpuid;
	bool traced = to->traced;

	*to = *from;
	to->env = env;
	to->cpuid = cpuid;
	to->watch = NULL;
	to->traced = traced;
}

static void enter(struct vcpu *v)
{
	struct engine_machine m;

	v->errand_err = (struct err){0};
	vcpu_machine_fill(v, &m);
	if (v->vm->ops->vcpu_create(&v->engine, v->vm->engine, v->id, &m, &v->errand_err) < 0)
		return;
	v->state = v->vm->ops->vcpu_state(v->engine);
	restore(v->state, v->saved);
	v->vm->ops->vcpu_sync_in(v->engine);
	if (!apic_give(v, &v->errand_err)) {
		v->vm->ops->vcpu_destroy(v->engine);
		v->engine = NULL;
	}
}

static void leave_half_way(struct vcpu *v)
{
	if (v->errand_err.code)
		return;
	v->vm->ops->vcpu_destroy(v->engine);
	v->engine = NULL;
	v->state = NULL;
}

/* ---- on the main thread ---- */

static int room_for_state(struct vm *vm, struct err *e)
{
	for (u32 i = 0; i < vm->ncpus; i++) {
		struct vcpu *v = &vm->vcpus[i];

		if (!v->saved)
			v->saved = aligned_alloc(64, (sizeof(*v->saved) + 63) & ~63ull);
		if (!v->saved)
			return err_sys(e, ENOMEM, "state of vCPU %u", i);
	}
	return 0;
}

static int take_apics(struct vm *vm, struct err *e)
{
	for (u32 i = 0; i < vm->ncpus; i++)
		if (!apic_take(&vm->vcpus[i], e))
			return -e->code;
	return 0;
}

static int enter_all(struct vm *vm, struct err *e)
{
	gate_errand(vm, enter);
	for (u32 i = 0; i < vm->ncpus; i++)
		if (vm->vcpus[i].errand_err.code) {
			*e = vm->vcpus[i].errand_err;
			gate_errand(vm, leave_half_way);
			return -e->code;
		}
	return 0;
}

static void use(struct vm *vm, const struct engine_ops *ops, struct engine_vm *engine)
{
	vm->ops = ops;
	vm->engine = engine;
}

static void here_or_elsewhere(struct vm *vm)
{
	apic_elsewhere(vm);
	doorbells_elsewhere(vm);
	for (u32 i = 0; i < vm->ncpus && !vm->ops->apic; i++)
		lapic_here(vm->lapic, i);
}

/* Into a VM of its own: the kernel holds a vCPU's number until its VM ends. */
static int go_back(struct vm *vm, const struct engine_ops *ops, struct engine_vm *old, struct err *e)
{
	struct engine_vm *fresh;
	int r;

	use(vm, ops, old);
	r = ops->vm_create(&fresh, &vm->mem, &vm->cpuid, vm->ncpus, e);
	if (r < 0)
		return r;
	use(vm, ops, fresh);
	ops->vm_destroy(old);
	return enter_all(vm, e);
}

/* The new engine's vCPUs, or the old one's again. */
static int move(struct vm *vm, const struct engine_ops *to, struct engine_vm *engine, struct err *e)
{
	const struct engine_ops *old_ops = vm->ops;
	struct engine_vm *old = vm->engine;
	struct err again = {0};
	int r;

	gate_errand(vm, leave);
	use(vm, to, engine);
	r = enter_all(vm, e);
	if (r == 0) {
		old_ops->vm_destroy(old);
		return 0;
	}
	to->vm_destroy(engine);
	if (go_back(vm, old_ops, old, &again) < 0)
		lifecycle_fail(vm, &again);
	return r;
}

static int move_held(struct vm *vm, const struct engine_ops *to, struct err *e)
{
	struct engine_vm *engine = NULL;
	int r = room_for_state(vm, e);

	if (r == 0)
		r = take_apics(vm, e);
	if (r == 0)
		r = to->vm_create(&engine, &vm->mem, &vm->cpuid, vm->ncpus, e);
	if (r < 0)
		return r;
	r = move(vm, to, engine, e);
	here_or_elsewhere(vm);
	return r;
}

/* A guest does not look again at what CPUID told it. */
static int check_cpu(const struct vm *vm, const struct engine_ops *to, struct err *e)
{
	struct x86_cpuid there = {0};
	int r = vm_cpu_build(&there, vm->cpu_model, to, vm->ncpus, vm->tsc_hz, e);

	if (r < 0)
		return r;
	if (there.n != vm->cpuid.n || memcmp(there.leaf, vm->cpuid.leaf, there.n * sizeof(there.leaf[0])) != 0)
		return err_set(e, ENOTSUP,
			       "CPU model %s is not the same CPU with engine %s; start the machine with --cpu x86-64-v2 or x86-64-v3",
			       vm->cpu_model, to->name);
	return 0;
}

int handover(struct vm *vm, const struct engine_ops *to, struct err *e)
{
	bool closed = gate_is_closed(vm);
	int r;

	if (vm->debugger)
		return err_set(e, EBUSY, "a machine that a debugger may connect to stays with its engine");
	r = check_cpu(vm, to, e);
	if (r < 0)
		return r;
	gate_close(vm);
	irq_hold(vm->irq);
	pthread_rwlock_wrlock(&vm->engine_lock);
	r = move_held(vm, to, e);
	pthread_rwlock_unlock(&vm->engine_lock);
	irq_release(vm->irq);
	vm->handovers += r == 0;
	if (!closed && !vm->ended)
		gate_open(vm);
	return r < 0 ? err_prefix(e, "the machine stays with engine %s", vm->ops->name) : 0;
}
