/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `--engine relay`: engines take turns, every half second, so that every test of a guest is one of handing over state. bt and kvm where there is KVM, or
 * else bt and translate. Not where a debugger may connect, who would be in the way.
 *
 * Threading: main thread.
 */
#include "base/log.h"
#include "vm/machine.h"

#define TURN_NS (NS_PER_SEC / 2)

static const struct engine_ops *other(const struct vm *vm)
{
	struct err e = {0};

	if (vm->ops != &engine_bt)
		return &engine_bt;
	return engine_kvm.probe(&e) == 0 ? &engine_kvm : &engine_translate;
}

static void on_time(void *opaque)
{
	struct vm *vm = opaque;
	struct err e = {0};

	if (!gate_is_closed(vm) && handover(vm, other(vm), &e) < 0) {
		lifecycle_fail(vm, &e);
		return;
	}
	timer_arm(&vm->relay_timer, host_now_ns() + TURN_NS);
}

void relay_start(struct vm *vm)
{
	timer_init(&vm->relay_timer, vm->loop, on_time, vm);
	if (vm->relay && !vm->debugger)
		timer_arm(&vm->relay_timer, host_now_ns() + TURN_NS);
}

void relay_stop(struct vm *vm)
{
	timer_disarm(&vm->relay_timer);
}
