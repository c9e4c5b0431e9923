/* SPDX-License-Identifier: Apache-2.0 */
/* GDT, IDT, TSS. See lib.h. */
#include "lib.h"

u64 gdt[GDT_ENTRIES] __attribute__((aligned(16))) = {
	[SEL_CODE64 / 8] = 0x00af9b000000ffff,	/* 64-bit code, DPL 0 */
	[SEL_DATA / 8] = 0x00cf93000000ffff,	/* data, DPL 0 */
	[SEL_UCODE32 / 8] = 0x00cffb000000ffff, /* 32-bit code, DPL 3 */
	[SEL_UDATA / 8] = 0x00cff3000000ffff,	/* data, DPL 3 */
	[SEL_UCODE64 / 8] = 0x00affb000000ffff, /* 64-bit code, DPL 3 */
	[SEL_CODE32 / 8] = 0x00cf9b000000ffff,	/* 32-bit code, DPL 0 */
	[SEL_CODE16 / 8] = 0x000f9b000000ffff,	/* 16-bit code, DPL 0 */
};
struct idt_gate idt[256] __attribute__((aligned(16)));
struct tss tss __attribute__((aligned(16)));
extern u8 trap_stack_top[], ist_stack_top[];

void idt_set(u32 vector, const void *handler, u32 type_dpl, u32 ist)
{
	u64 at = (u64)handler;

	idt[vector] = (struct idt_gate){
		.off0 = (u16)at, .sel = SEL_CODE64, .ist = (u8)ist, .type = (u8)type_dpl, .off1 = (u16)(at >> 16), .off2 = (u32)(at >> 32)};
}

static void tss_describe(void)
{
	u64 base = (u64)&tss, limit = sizeof(tss) - 1;

	gdt[SEL_TSS / 8] = (limit & 0xffff) | (base & 0xffffff) << 16 | 0x89ul << 40 | (limit >> 16 & 15) << 48 | (base >> 24 & 0xff) << 56;
	gdt[SEL_TSS / 8 + 1] = base >> 32;
	tss.rsp[0] = (u64)trap_stack_top;
	tss.ist[0] = (u64)ist_stack_top;
	tss.iomap = __builtin_offsetof(struct tss, bitmap);
	memset(tss.bitmap, 0xff, sizeof(tss.bitmap));
}

void desc_load(void)
{
	const struct dtr gdtr = {sizeof(gdt) - 1, (u64)gdt}, idtr = {sizeof(idt) - 1, (u64)idt};

	tss_describe();
	__asm__ volatile("lgdt %0" ::"m"(gdtr));
	__asm__ volatile("lidt %0" ::"m"(idtr));
	__asm__ volatile("ltr %w0" ::"r"(SEL_TSS));
}

u64 gate_error(u32 vector)
{
	return on_qemu_tcg() ? vector * 16 + 2 : vector * 8 + 2;
} /* QEMU multiplies by the gate's size */
