/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a vCPU's engine reaches of the machine: buses, its local APIC, MSRs outside the CPU, time. And the way back: what the local APICs
 * ask of vCPUs.
 *
 * Threading: engine callbacks on the vCPU's thread; LAPIC callbacks on any.
 */
#include "hw/ioapic.h"
#include "hw/pvclock.h"
#include "vm/machine.h"

#define MSR_APIC_BASE 0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC_FIRST 0x800u
#define MSR_X2APIC_LAST 0x8ffu

static bool is_lapic_msr(u32 msr)
{
	return msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE || (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST);
}

/* Each CPU sees its own APIC page, at the address in its own APIC_BASE. */
static bool in_apic_page(const struct vcpu *v, gpa_t gpa, u32 *off)
{
	gpa_t page;

	if (!lapic_page(v->vm->lapic, v->id, &page) || gpa - page >= PAGE_SIZE)
		return false;
	*off = (u32)(gpa - page);
	return true;
}

static void trace(const struct vcpu *v, enum trace_event ev, u64 where, u32 size, u64 value)
{
	if (unlikely(v->vm->trace != NULL))
		trace_write(v->vm->trace, ev, v->id, v->state->rip, where, size, value);
}

static u64 mmio_read(void *opaque, gpa_t gpa, u32 size)
{
	struct vcpu *v = opaque;
	u32 off;
	u64 value;

	v->mmio++;
	if (in_apic_page(v, gpa, &off))
		value = lapic_mmio_read(v->vm->lapic, v->id, off, size);
	else
		value = bus_read(v->vm->mmio, gpa, size);
	trace(v, TRACE_MMIO_READ, gpa, size, value);
	return value;
}

static void mmio_write(void *opaque, gpa_t gpa, u32 size, u64 value)
{
	struct vcpu *v = opaque;
	u32 off;

	v->mmio++;
	trace(v, TRACE_MMIO_WRITE, gpa, size, value);
	if (in_apic_page(v, gpa, &off))
		lapic_mmio_write(v->vm->lapic, v->id, off, size, value);
	else
		bus_write(v->vm->mmio, gpa, size, value);
}

static u32 pio_read(void *opaque, u16 port, u32 size)
{
	struct vcpu *v = opaque;
	u32 value = (u32)bus_read(v->vm->pio, port, size);

	v->ports++;
	trace(v, TRACE_PIO_READ, port, size, value);
	return value;
}

static void pio_write(void *opaque, u16 port, u32 size, u32 value)
{
	struct vcpu *v = opaque;

	v->ports++;
	trace(v, TRACE_PIO_WRITE, port, size, value);
	bus_write(v->vm->pio, port, size, value);
}

static bool msr_read(void *opaque, u32 msr, u64 *value)
{
	struct vcpu *v = opaque;

	v->msrs++;
	if (is_lapic_msr(msr))
		return lapic_msr_read(v->vm->lapic, v->id, msr, value);
	return pvclock_msr_read(v->vm->pvclock, v->id, msr, value);
}

static bool msr_write(void *opaque, u32 msr, u64 value)
{
	struct vcpu *v = opaque;

	v->msrs++;
	if (is_lapic_msr(msr))
		return lapic_msr_write(v->vm->lapic, v->id, msr, value);
	pvclock_update(v->vm->pvclock, v->id, v->state->tsc_offset);
	return pvclock_msr_write(v->vm->pvclock, v->id, msr, value);
}

static u64 cr8_read(void *opaque)
{
	struct vcpu *v = opaque;

	return lapic_get_tpr(v->vm->lapic, v->id);
}

static void cr8_write(void *opaque, u64 value)
{
	struct vcpu *v = opaque;

	lapic_set_tpr(v->vm->lapic, v->id, value);
}

static u64 tsc(void *opaque)
{
	struct vcpu *v = opaque;

	return tsc_guest(v->vm, v->state);
}

static u64 tsc_base(void *opaque)
{
	const struct vcpu *v = opaque;

	return -__atomic_load_n(&v->vm->tsc_zero, __ATOMIC_RELAXED);
}

static void eoi(void *opaque, u8 vector)
{
	struct vcpu *v = opaque;

	ioapic_eoi(v->vm->ioapic, vector);
}

static u64 on_hypercall(void *opaque, struct x86_cpu *c)
{
	struct vcpu *v = opaque;

	v->hypercalls++;
	return hypercall(v, c);
}

static void on_trace(void *opaque, enum trace_event ev, u64 rip, u64 a, u64 b, u64 c)
{
	struct vcpu *v = opaque;

	trace_write(v->vm->trace, ev, v->id, rip, a, b, c);
}

static bool irq_pending(void *opaque)
{
	struct vcpu *v = opaque;

	return lapic_irq_pending(v->vm->lapic, v->id);
}

static int irq_accept(void *opaque)
{
	struct vcpu *v = opaque;

	return vcpu_stood_still(v) ? -1 : lapic_irq_accept(v->vm->lapic, v->id);
}

void vcpu_machine_fill(struct vcpu *v, struct engine_machine *m)
{
	*m = (struct engine_machine){
		.opaque = v,
		.mmio_read = mmio_read,
		.mmio_write = mmio_write,
		.pio_read = pio_read,
		.pio_write = pio_write,
		.msr_read = msr_read,
		.msr_write = msr_write,
		.cr8_read = cr8_read,
		.cr8_write = cr8_write,
		.tsc = tsc,
		.tsc_base = tsc_base,
		.eoi = eoi,
		.hypercall = on_hypercall,
		.irq_pending = irq_pending,
		.irq_accept = irq_accept,
		.trace = v->vm->trace ? on_trace : NULL,
	};
}

/* ---- from the local APICs ---- */

static struct vcpu *cpu_of(void *opaque, u32 cpu)
{
	struct vm *vm = opaque;

	return &vm->vcpus[cpu];
}

static void on_irq(void *opaque, u32 cpu)
{
	vcpu_irq_hint(cpu_of(opaque, cpu));
}

static void on_nmi(void *opaque, u32 cpu)
{
	vcpu_nmi(cpu_of(opaque, cpu));
}

static void on_init(void *opaque, u32 cpu)
{
	vcpu_post_init(cpu_of(opaque, cpu));
}

static void on_sipi(void *opaque, u32 cpu, u8 vector)
{
	struct vcpu *v = cpu_of(opaque, cpu);

	__atomic_store_n(&v->sipi_vector, vector, __ATOMIC_RELAXED);
	vcpu_post(v, EV_SIPI);
}

static u64 on_tsc(void *opaque, u32 cpu)
{
	return tsc_guest(opaque, cpu_of(opaque, cpu)->state);
}

void vcpu_lapic_ops(struct vm *vm)
{
	const struct lapic_vcpu_ops ops = {.opaque = vm, .irq = on_irq, .nmi = on_nmi, .init = on_init, .sipi = on_sipi, .tsc = on_tsc};

	lapic_set_vcpu_ops(vm->lapic, &ops);
}
