/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Power-on, INIT and start-up IPI. Source: SDM vol. 3, table 9-1 (processor states), 8.4 (MP initialisation).
 * Threading: the vCPU's thread, or any while it does not run.
 */
#include "x86/internal.h"

static void real_segment(struct x86_seg *s, u16 sel, u64 base, u32 type)
{
	s->sel = sel;
	s->attr = type | SEGA_S | SEGA_P;
	s->limit = 0xffff;
	s->base = base;
}

static void system_segment(struct x86_seg *s, u32 type)
{
	s->sel = 0;
	s->attr = type | SEGA_P;
	s->limit = 0xffff;
	s->base = 0;
}

static void reset_segments(struct x86_cpu *c)
{
	for (u32 i = 0; i < SEG_COUNT; i++)
		real_segment(&c->seg[i], 0, 0, TYPE_RW | TYPE_ACCESSED);
	real_segment(&c->seg[SEG_CS], 0xf000, 0xffff0000, TYPE_CODE | TYPE_RW | TYPE_ACCESSED);
	system_segment(&c->ldt, SYS_LDT);
	system_segment(&c->tr, SYS_TSS_BUSY);
	c->gdt.base = c->idt.base = 0;
	c->gdt.limit = c->idt.limit = 0xffff;
}

static void reset_registers(struct x86_cpu *c)
{
	for (u32 i = 0; i < 16; i++)
		c->gpr[i] = 0;
	if (c->cpuid && c->cpuid->n > 1)
		c->gpr[R_RDX] = c->cpuid->leaf[1].eax;
	c->rip = 0xfff0;
	c->rflags = FL_ONE;
	c->cr2 = c->cr3 = c->cr4 = 0;
	for (u32 i = 0; i < 8; i++)
		c->dr[i] = 0;
	c->dr[6] = DR6_FIXED;
	c->dr[7] = DR7_FIXED;
}

static void reset_events(struct x86_cpu *c)
{
	c->fault.pending = false;
	c->dr6_pending = 0;
	c->nmi_pending = c->nmi_blocked = false;
	c->irq_shadow = c->debug_shadow = false;
	c->halted = c->triple_fault = false;
}

/* What power-on sets and INIT leaves alone. */
static void power_on(struct x86_cpu *c, bool bsp)
{
	x86_zero(&c->msr, sizeof(c->msr));
	c->msr.pat = 0x0007040600070406ull;
	c->msr.misc_enable = 1; /* fast strings */
	c->msr.apic_base = 0xfee00000 | 1u << 11 | (bsp ? 1u << 8 : 0);
	if (c->cpuid && x86_is_amd(c))
		c->msr.hwcr = 1u << 24; /* TscFreqSel: the TSC counts at P0's frequency */
	c->xcr0 = 1;
	x86_zero(&c->fpu, sizeof(c->fpu));
	c->fpu.bytes[0] = 0x40;	 /* FCW: reset, not FNINIT */
	c->fpu.bytes[24] = 0x80; /* MXCSR 0x1f80 */
	c->fpu.bytes[25] = 0x1f;
	c->fpu.bytes[4] = 0xff; /* abridged tag word: all valid (zero) */
	c->fpu.bytes[512] = 3;	/* XSTATE_BV: x87 and SSE come from this image */
	c->cr0 = CR0_ET | CR0_NW | CR0_CD;
}

void x86_reset(struct x86_cpu *c, bool bsp, bool init_only)
{
	reset_registers(c);
	reset_segments(c);
	reset_events(c);
	if (init_only)
		c->cr0 = (c->cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
	else
		power_on(c, bsp);
	c->msr.efer = 0;
	c->wait_for_sipi = !bsp;
	x86_flush_all(c);
	x86_notify_mode(c);
}

void x86_sipi(struct x86_cpu *c, u8 vector)
{
	if (!c->wait_for_sipi)
		return;
	c->wait_for_sipi = false;
	c->halted = false;
	c->seg[SEG_CS].sel = (u16)(vector << 8);
	c->seg[SEG_CS].base = (u64)vector << 12;
	c->rip = 0;
	x86_notify_mode(c);
}
