/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local APIC's registers by number, and the bits of IA32_APIC_BASE. Source: SDM vol. 3, table 11-1 and figure 11-5.
 *
 * Threading: constant.
 */
#pragma once

/* Register numbers: the xAPIC page's offset / 16, the x2APIC's MSR - 0x800. */
enum apic_reg {
	REG_ID = 0x02,
	REG_VERSION = 0x03,
	REG_TPR = 0x08,
	REG_APR = 0x09,
	REG_PPR = 0x0a,
	REG_EOI = 0x0b,
	REG_LDR = 0x0d,
	REG_DFR = 0x0e,
	REG_SVR = 0x0f,
	REG_ISR = 0x10,
	REG_TMR = 0x18,
	REG_IRR = 0x20,
	REG_ESR = 0x28,
	REG_ICR = 0x30,
	REG_ICR_HIGH = 0x31,
	REG_LVT = 0x32, /* timer, thermal, performance counter, LINT0, LINT1, error */
	REG_TIMER_INIT = 0x38,
	REG_TIMER_CURRENT = 0x39,
	REG_TIMER_DIVIDE = 0x3e,
	REG_SELF_IPI = 0x3f
};

#define BASE_BSP (1ull << 8)
#define BASE_X2APIC (1ull << 10)
#define BASE_ENABLE (1ull << 11)
