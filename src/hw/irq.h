/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupt plumbing between devices and interrupt controllers: numbered lines (GSIs, level with a shared count of drivers) and
 * message-signalled interrupts. Devices know only this file; the IOAPIC and LAPICs, or an in-kernel chip, sit behind it.
 *
 * Threading: any thread.
 */
#pragma once

#include "base/types.h"

#define IRQ_GSIS 24

struct irq_sink {
	void *opaque;
	void (*set_line)(void *opaque, u32 gsi, bool level);
	void (*msi)(void *opaque, u64 address, u32 data);
};

/* One device's wire to a GSI. Several wires to one GSI are ORed. */
struct irq_line {
	struct irq_router *router;
	u32 gsi;
	bool level;
};

struct irq_router;
struct irq_router *irq_router_new(void); /* NULL: out of memory */
void irq_router_free(struct irq_router *r);
void irq_router_set_sink(struct irq_router *r, const struct irq_sink *sink);

void irq_line_init(struct irq_line *l, struct irq_router *r, u32 gsi);
void irq_set(struct irq_line *l, bool level);
static inline void irq_pulse(struct irq_line *l)
{
	irq_set(l, true);
	irq_set(l, false);
}
void irq_msi(struct irq_router *r, u64 address, u32 data);

/* Between the two, whoever sends an interrupt waits: nothing reaches the controllers, and nothing is lost. One thread. */
void irq_hold(struct irq_router *r);
void irq_release(struct irq_router *r);
