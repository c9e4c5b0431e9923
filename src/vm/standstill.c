/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does anything ever wake this guest again? Where vCPUs sleep in the engine, with its own local APICs, none of them tells when it halts for good: so now and
 * then, when they have used no processor time since the last look, they are stopped for a moment and looked at.
 *
 * Threading: main thread.
 */
#include "hw/ioapic.h"
#include "vm/machine.h"

#include <time.h>

#define LOOK_NS NS_PER_SEC
#define NOTHING_NS 100000u /* less than this in that time is no work */

static u64 thread_time(pthread_t thread)
{
	struct timespec t;
	clockid_t clock;

	if (pthread_getcpuclockid(thread, &clock) != 0 || clock_gettime(clock, &t) != 0)
		return 0;
	return (u64)t.tv_sec * NS_PER_SEC + (u64)t.tv_nsec;
}

static u64 time_used(const struct vm *vm)
{
	u64 sum = 0;

	for (u32 i = 0; i < vm->ncpus; i++)
		sum += thread_time(vm->vcpus[i].thread);
	return sum;
}

/* As vcpu.c has it: interrupts are off, and no NMI is on its way. */
static bool sleeps_for_good(const struct vcpu *v)
{
	const struct x86_cpu *c = v->state;

	return !__atomic_load_n(&v->events, __ATOMIC_ACQUIRE) && !c->nmi_pending &&
	       (c->wait_for_sipi || (c->halted && !(c->rflags & FL_IF)));
}

static bool all_sleep_for_good(const struct vm *vm)
{
	for (u32 i = 0; i < vm->ncpus; i++)
		if (!sleeps_for_good(&vm->vcpus[i]))
			return false;
	return !ioapic_may_send_nmi(vm->ioapic);
}

/* True: the VM ends. */
static bool look(struct vm *vm)
{
	bool over;

	gate_close(vm);
	over = all_sleep_for_good(vm);
	if (over)
		lifecycle_halted(vm);
	else
		gate_open(vm);
	return over;
}

/* A look costs time itself, and is not to be taken for work. */
static void on_time(void *opaque)
{
	struct vm *vm = opaque;
	u64 used = time_used(vm);
	bool worked = used - vm->standstill_used > NOTHING_NS;

	if (worked)
		vm->standstill_looked = false;
	if (vm->ops->apic && !worked && !vm->standstill_looked && !gate_is_closed(vm)) {
		vm->standstill_looked = true;
		if (look(vm))
			return;
		used = time_used(vm);
	}
	vm->standstill_used = used;
	timer_arm(&vm->standstill_timer, host_now_ns() + LOOK_NS);
}

void standstill_watch(struct vm *vm)
{
	timer_init(&vm->standstill_timer, vm->loop, on_time, vm);
	if (vm->ops->apic || vm->relay)
		timer_arm(&vm->standstill_timer, host_now_ns() + LOOK_NS);
}

void standstill_unwatch(struct vm *vm)
{
	timer_disarm(&vm->standstill_timer);
}
