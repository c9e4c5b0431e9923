/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registers of one local APIC, the same for every engine: what an engine that has the APIC itself gives away and takes back.
 *
 * Threading: a plain value.
 */
#pragma once

#include "base/types.h"

#define X86_APIC_LVTS 6 /* timer, thermal, performance counter, LINT0, LINT1, error */

struct x86_apic {
	u64 base;		     /* IA32_APIC_BASE */
	u32 tpr, ldr, dfr, svr, esr; /* ldr: of xAPIC mode */
	u32 icr, icr_high;
	u32 lvt[X86_APIC_LVTS];
	u32 irr[8], isr[8], tmr[8];
	u32 timer_init, timer_divide;
	u32 timer_current; /* one-shot and periodic: what is left; 0: stopped */
	u64 tsc_deadline;  /* 0: none */
};

/* A message on the interrupt bus, as MSIs and the I/O APIC send it. */
struct x86_msi {
	u64 address;
	u32 data;
};
