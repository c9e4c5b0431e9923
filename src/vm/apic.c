/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engines that have the local APICs themselves: hw/lapic sends on to them what devices and the I/O APIC send, and has the registers while no vCPU runs and
 * somebody asked for them.
 *
 * Threading: messages from any thread; registers on the vCPU's, or on the main thread while it is parked.
 */
#include "hw/ioapic.h"
#include "vm/machine.h"

static void msi(void *opaque, u64 address, u32 data)
{
	struct vm *vm = opaque;

	vm->ops->apic->msi(vm->engine, &(struct x86_msi){address, data});
}

static void level_messages(void *opaque, const struct x86_msi *m, u32 n)
{
	struct vm *vm = opaque;

	vm->ops->apic->level_messages(vm->engine, m, n);
}

void apic_elsewhere(struct vm *vm)
{
	const struct lapic_elsewhere there = {.opaque = vm, .msi = msi, .level_messages = level_messages};

	lapic_set_elsewhere(vm->lapic, vm->ops->apic ? &there : NULL);
	ioapic_tell_level_messages(vm->ioapic);
}

bool apic_give(struct vcpu *v, struct err *e)
{
	struct x86_apic a;

	if (!v->vm->ops->apic)
		return true;
	lapic_take(v->vm->lapic, v->id, &a);
	return v->vm->ops->apic->put(v->engine, &a, e) == 0;
}

bool apic_take(struct vcpu *v, struct err *e)
{
	struct x86_apic a;

	if (!v->vm->ops->apic)
		return true;
	if (v->vm->ops->apic->get(v->engine, &a, e) < 0)
		return false;
	lapic_put(v->vm->lapic, v->id, &a);
	return true;
}
