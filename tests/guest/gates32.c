/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gates of 32-bit protected mode: call gates of 386 and 286 kind with parameters and another stack, interrupt gates of both kinds, conforming code, code
 * in an LDT, what an outward return does to data segments, and what refuses a gate. SDM vol. 3, 5.8, 6.12; vol. 2, CALL and IRET.
 */
#include "lib.h"

#define TSS32 0x60
#define GATE_386 0x70
#define GATE_286 0x78
#define CONFORMING 0x80
#define BASED 0xa8
#define UBASED 0xb0
#define LDT 0xb8
#define STACK 0xc8 /* for what is wrong with an inner stack */
#define RING1 0xd0 /* code */
#define LOW_STACK 0x6e00u
#define TSS32_SIZE 104

void legacy_call(void *routine);
extern u8 gates_386[], gate_386_entry[], gates_386_return[], gates_inside[], gate_inside_entry[], gates_286[], gate_286_entry[];
extern u8 gates_286_return[], based_start[], gate_int16_entry[], gates_int16[], gates_int16_return[], gates_conforming[], gates_ldt[];
extern u8 gates_segments[], gates_refused[], gates_flags[], gate_flags_entry[];
extern u8 legacy_trap_entries[], legacy_ring0_stack_top[];
extern volatile u32 legacy_results[64], legacy_traps[4];
extern u64 legacy_idt[256];
extern u32 legacy_tss[];

static u64 ldt[4] __attribute__((aligned(16)));

/* Low half of a gate of every kind */
static u64 gate(u64 to, u32 sel, u32 type_dpl, u32 params)
{
	return (to & 0xffff) | (u64)sel << 16 | (u64)params << 32 | (u64)type_dpl << 40 | (to >> 16 & 0xffff) << 48;
}

static u64 segment(u64 base, u64 limit, u64 attr)
{
	return (limit & 0xffff) | (base & 0xffffff) << 16 | (attr & 0xf0ff) << 40 | (limit >> 16 & 15) << 48 | (base >> 24 & 0xff) << 56;
}

static void build(void)
{
	for (u32 v = 0; v < 65; v++)
		legacy_idt[v] = gate((u64)legacy_trap_entries + 16 * v, SEL_CODE32, 0xee, 0);
	legacy_idt[0x50] = gate((u64)(gate_int16_entry - based_start), BASED, 0xe6, 0);
	legacy_idt[0x51] = gate((u64)gate_flags_entry, SEL_CODE32, 0xee, 0);
	legacy_idt[0x52] = gate((u64)gate_flags_entry, SEL_CODE32, 0xef, 0);
	gdt[TSS32 / 8] = segment((u64)legacy_tss, TSS32_SIZE - 1, 0x89);
	gdt[CONFORMING / 8] = segment(0, 0xfffff, 0xc09f);
	gdt[BASED / 8] = segment((u64)based_start, 0xffff, 0x409b);
	gdt[UBASED / 8] = segment((u64)based_start, 0xffff, 0x40fb);
	gdt[LDT / 8] = segment((u64)ldt, sizeof(ldt) - 1, 0x82);
	gdt[LDT / 8 + 1] = 0;
	ldt[1] = segment(0, 0xfffff, 0xc0fb);
	gdt[RING1 / 8] = segment(0, 0xfffff, 0xc0bb);
	legacy_tss[1] = (u32)(u64)legacy_ring0_stack_top;
	legacy_tss[2] = SEL_DATA;
	legacy_tss[25] = TSS32_SIZE << 16;
	__asm__ volatile("lldt %w0" ::"r"(LDT));
}

/* Of ring 1: the exception itself needs ring 0's. */
static void inner_stack(u32 sel)
{
	legacy_tss[3] = (u32)(u64)legacy_ring0_stack_top;
	legacy_tss[4] = sel;
}

static void run(void *routine)
{
	memset((void *)legacy_results, 0, sizeof(legacy_results));
	memset((void *)legacy_traps, 0, sizeof(legacy_traps));
	gdt[TSS32 / 8] &= ~(2ul << 40); /* not busy */
	legacy_call(routine);
	gdt[SEL_TSS / 8] &= ~(2ul << 40);
	__asm__ volatile("ltr %w0" ::"r"(SEL_TSS) : "memory");
}

#define R(n, want) CHECK_EQ(legacy_results[n], (u32)(u64)(want))
#define ENDED(vector, error)                                                                                                               \
	do {                                                                                                                               \
		CHECK_EQ(legacy_traps[1], vector);                                                                                         \
		CHECK_EQ(legacy_traps[2], error);                                                                                          \
	} while (0)

static void with_parameters(void)
{
	gdt[GATE_386 / 8] = gate((u64)gate_386_entry, SEL_CODE32, 0xec, 3);
	run(gates_386);
	ENDED(0x40, 0);
	R(0, gates_386_return);
	R(1, SEL_UCODE32);
	R(2, 11);
	R(3, 22);
	R(4, 33);
	R(5, LOW_STACK - 12);
	R(6, SEL_UDATA);
	R(7, SEL_CODE32);
	R(8, SEL_DATA);
	R(9, (u64)legacy_ring0_stack_top - 28);
	R(10, LOW_STACK); /* RET took the parameters off both stacks */
	R(11, SEL_UCODE32);
	R(12, SEL_UDATA);
}

static void without_a_change_of_ring(void)
{
	gdt[GATE_386 / 8] = gate((u64)gate_inside_entry, SEL_CODE32, 0x8c, 3);
	run(gates_inside);
	R(0, 8);
	R(1, SEL_CODE32);
	R(2, 0);
}

static void with_16_bits(void)
{
	gdt[GATE_286 / 8] = gate((u64)(gate_286_entry - based_start), BASED, 0xe4, 2);
	run(gates_286);
	ENDED(0x40, 0);
	R(0, (u64)gates_286_return - (u64)based_start);
	R(1, UBASED | 3);
	R(2, 11);
	R(3, 22);
	R(4, LOW_STACK - 4);
	R(5, SEL_UDATA);
	R(9, (u64)legacy_ring0_stack_top - 12);
	R(10, LOW_STACK);
}

static void interrupt_with_16_bits(void)
{
	run(gates_int16);
	ENDED(0x40, 0);
	R(0, (u64)gates_int16_return - (u64)based_start);
	R(1, UBASED | 3);
	R(2, 1); /* CF */
	R(3, LOW_STACK);
	R(4, SEL_UDATA);
	R(9, (u64)legacy_ring0_stack_top - 10);
	R(10, LOW_STACK);
	R(11, 1);
}

static void conforming(void)
{
	run(gates_conforming);
	ENDED(0x40, 0);
	R(0, CONFORMING | 3);
	R(1, LOW_STACK - 8);
	R(2, SEL_UCODE32);
}

static void in_the_ldt(void)
{
	run(gates_ldt);
	ENDED(0x40, 0);
	R(0, 0xf);
	R(1, SEL_UCODE32);
}

static void segments_behind_iret(void)
{
	run(gates_segments);
	ENDED(0x40, 0);
	R(0, 0);
	R(1, SEL_UDATA);
	R(2, CONFORMING);
	R(3, 0);
}

static void interrupt_flag(void)
{
	run(gates_flags);
	R(0, 0);
	R(1, 0x200);
}

static void refused(u64 g, u32 vector, u32 error)
{
	gdt[GATE_386 / 8] = g;
	run(gates_refused);
	ENDED(vector, error);
	CHECK_EQ(legacy_results[60], SEL_UCODE32); /* CS: it did not get in */
}

static void refusals(void)
{
	u64 entry = (u64)gate_386_entry, inward = gate(entry, RING1, 0xec, 0);

	refused(gate(entry, SEL_CODE32, 0x8c, 0), GP, GATE_386); /* DPL 0 */
	refused(gate(entry, SEL_CODE32, 0x6c, 0), NP, GATE_386);
	refused(gate(entry, 0, 0xec, 0), GP, 0);
	refused(gate(entry, SEL_DATA, 0xec, 0), GP, SEL_DATA);
	refused(gate(entry, 0xf8 | 4, 0xec, 0), GP, 0xf8 | 4); /* beyond the LDT */
	gdt[STACK / 8] = segment(0, 0xfffff, 0xc01b);	       /* code, not present */
	refused(gate(entry, STACK, 0xec, 0), NP, STACK);
	if (!on_qemu_tcg()) /* which checks no limits */
		refused(gate(0x10000 + (u64)(gate_286_entry - based_start), BASED, 0xec, 0), GP, 0);
	/* The stack that the TSS names */
	inner_stack(0);
	refused(inward, TS, 0);
	inner_stack(SEL_CODE32);
	refused(inward, TS, SEL_CODE32);
	inner_stack(SEL_DATA | 1);
	refused(inward, TS, SEL_DATA);
	gdt[STACK / 8] = segment(0, 0xfffff, 0xc033); /* data, DPL 1, not present */
	inner_stack(STACK | 1);
	if (!on_qemu_tcg()) /* which raises #TS */
		refused(inward, SS, STACK);
	gdt[STACK / 8] = segment(0, 0xfffff, 0xc0b1); /* read-only */
	refused(inward, TS, STACK);
	gdt[STACK / 8] = segment(0, 0xfffff, 0xc0b3); /* good, with another RPL */
	inner_stack(STACK);
	refused(inward, TS, STACK);
	/* A TSS that ends before it */
	inner_stack(STACK | 1);
	gdt[TSS32 / 8] = segment((u64)legacy_tss, 11, 0x89);
	refused(inward, TS, TSS32);
	gdt[TSS32 / 8] = segment((u64)legacy_tss, TSS32_SIZE - 1, 0x89);
}

void guest_main(void)
{
	build();
	loop_check("with_parameters", with_parameters, 300);
	loop_check("without_a_change_of_ring", without_a_change_of_ring, 300);
	loop_check("with_16_bits", with_16_bits, 300);
	loop_check("interrupt_with_16_bits", interrupt_with_16_bits, 300);
	loop_check("conforming", conforming, 300);
	loop_check("in_the_ldt", in_the_ldt, 300);
	loop_check("segments_behind_iret", segments_behind_iret, 300);
	loop_check("interrupt_flag", interrupt_flag, 300);
	loop_check("refusals", refusals, 100);
}
