/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Doorbells that the engine can take without leaving the guest. A trace is to show them, and does not leave them to it.
 *
 * Threading: any thread that may change what is mapped: no vCPU runs, or it is one of them.
 */
#include "vm/machine.h"

static void tell(void *opaque, u64 addr, int fd, bool on)
{
	const struct vm *vm = opaque;

	vm->ops->doorbell(vm->engine, addr, fd, on);
}

void doorbells_elsewhere(struct vm *vm)
{
	bus_tell_bells(vm->mmio, vm->ops->doorbell && !vm->trace ? tell : NULL, vm);
}
