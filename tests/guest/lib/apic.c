/* SPDX-License-Identifier: Apache-2.0 */
/* Local APIC in xAPIC mode. See lib.h. */
#include "lib.h"

#define APIC_BASE 0xfee00000ul

volatile u32 irq_count[256];

u32 apic_read(u32 reg)
{
	return *(volatile u32 *)(APIC_BASE + reg);
}
void apic_write(u32 reg, u32 v)
{
	*(volatile u32 *)(APIC_BASE + reg) = v;
}

void apic_enable(void)
{
	wrmsr(0x1b, rdmsr(0x1b) | 0x800);
	apic_write(APIC_SPIV, 0x1ff);
}

static bool count_and_eoi(struct trap_frame *f)
{
	irq_count[f->vector]++;
	apic_write(APIC_EOI, 0);
	return true;
}

void irq_catch(u32 vector)
{
	trap_set_handler(vector, count_and_eoi);
}

bool wait_until(volatile u32 *counter, u32 at_least, u64 tsc_limit)
{
	u64 start = rdtsc();

	sti();
	while (*counter < at_least && rdtsc() - start < tsc_limit)
		__asm__ volatile("pause");
	cli();
	return *counter >= at_least;
}
