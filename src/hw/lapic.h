/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Local APICs of all vCPUs: xAPIC page and x2APIC MSRs, timer (one-shot, periodic, TSC deadline), IPIs, LINT, self-IPI, TPR/PPR.
 * Source: SDM vol. 3 chapter 11.
 *
 * Threading: every function from any thread; each LAPIC has its own lock. The deliver callbacks are called without it.
 */
#pragma once

#include "base/clock.h"
#include "base/evloop.h"
#include "hw/device.h"
#include "x86/apic.h"

struct lapic_set;

/* How a LAPIC reaches its vCPU. Called from any thread. */
struct lapic_vcpu_ops {
	void *opaque;
	void (*irq)(void *opaque, u32 cpu); /* lapic_irq_pending(cpu) may have become true */
	void (*nmi)(void *opaque, u32 cpu);
	void (*init)(void *opaque, u32 cpu);		/* INIT IPI */
	void (*sipi)(void *opaque, u32 cpu, u8 vector); /* start-up IPI */
	u64 (*tsc)(void *opaque, u32 cpu);		/* guest TSC of that CPU, for the deadline timer */
};

/* Published as "lapic" by the device class in lapic.c. */
void lapic_set_vcpu_ops(struct lapic_set *s, const struct lapic_vcpu_ops *ops);

bool lapic_irq_pending(struct lapic_set *s, u32 cpu); /* an interrupt above PPR waits, APIC enabled; lock-free and cheap */
int lapic_irq_accept(struct lapic_set *s, u32 cpu);   /* IRR -> ISR; the vector, or -1 */

/* MSRs 0x1b (APIC_BASE), 0x6e0 (TSC deadline), 0x800-0x83f. False: #GP. */
bool lapic_msr_read(struct lapic_set *s, u32 cpu, u32 msr, u64 *value);
bool lapic_msr_write(struct lapic_set *s, u32 cpu, u32 msr, u64 value);
u64 lapic_get_tpr(struct lapic_set *s, u32 cpu); /* CR8 */
void lapic_set_tpr(struct lapic_set *s, u32 cpu, u64 cr8);

/* The xAPIC page of `cpu` (0xfee00000 as seen by that CPU): the machine routes a vCPU's own accesses here. */
u64 lapic_mmio_read(struct lapic_set *s, u32 cpu, u32 off, u32 size);
void lapic_mmio_write(struct lapic_set *s, u32 cpu, u32 off, u32 size, u64 value);

/* Where `cpu` sees its xAPIC page; false in x2APIC mode or when the APIC is disabled. Lock-free. */
bool lapic_page(struct lapic_set *s, u32 cpu, gpa_t *gpa);

/* The guest wrote its TSC or TSC_ADJUST: a TSC deadline may be nearer or farther now. */
void lapic_tsc_changed(struct lapic_set *s, u32 cpu);

/* An interrupt to one CPU, with vector and delivery mode as in the ICR. False: its APIC is disabled. */
bool lapic_send_to(struct lapic_set *s, u32 cpu, u32 icr);

/* A message as MSIs and the IOAPIC send it. */
void lapic_msi(struct lapic_set *s, u64 address, u32 data);
/* Told of each EOI that must reach the IOAPIC (level-triggered, broadcast not suppressed). */
void lapic_set_eoi_handler(struct lapic_set *s, void (*fn)(void *opaque, u8 vector), void *opaque);

/* ---- local APICs that an engine has (lapic_elsewhere.c) ---- */

struct lapic_elsewhere {
	void *opaque;
	void (*msi)(void *opaque, u64 address, u32 data);
	void (*level_messages)(void *opaque, const struct x86_msi *m, u32 n);
};

/* Messages go there from now on, and no timer here expires; NULL: they are here. With no vCPU running. */
void lapic_set_elsewhere(struct lapic_set *s, const struct lapic_elsewhere *there);

/* The level-triggered messages that the I/O APIC may send now. */
void lapic_level_messages(struct lapic_set *s, const struct x86_msi *m, u32 n);

/* One APIC's registers, as they are here. Its timer does not expire here any more when they were taken, nor when they were put, before lapic_here: from
 * then on the APIC is used here. */
void lapic_take(struct lapic_set *s, u32 cpu, struct x86_apic *out);
void lapic_put(struct lapic_set *s, u32 cpu, const struct x86_apic *a);
void lapic_here(struct lapic_set *s, u32 cpu);
