/* SPDX-License-Identifier: Apache-2.0 */
/*
 * I/O APIC with 24 inputs (82093AA, version 0x20: with an EOI register). Published as "ioapic"; it makes itself the sink of the VM's
 * interrupt router and the LAPICs' EOI handler.
 *
 * Threading: any thread; one lock. Lock order: router, IOAPIC, LAPIC.
 */
#pragma once

#include "hw/device.h"

struct ioapic;

void ioapic_set_line(struct ioapic *io, u32 gsi, bool level);
void ioapic_eoi(struct ioapic *io, u8 vector);
bool ioapic_may_send_nmi(struct ioapic *io); /* an unmasked input ends HLT whatever IF says: it sends NMI or INIT */

/* The local APICs are elsewhere now (lapic_set_elsewhere): they are told of the level-triggered messages again. */
void ioapic_tell_level_messages(struct ioapic *io);
