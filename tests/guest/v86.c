/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtual-8086 mode: what IOPL allows, what is refused and with which exception, the I/O bitmap, the limits of segments, gates that lead elsewhere
 * than to ring 0. SDM vol. 3, 20.2 to 20.2.8.
 */
#include "lib.h"

#define TSS32 0x60
#define BITMAP_AT 104
#define TSS32_SIZE (BITMAP_AT + 8192 + 1)
#define CONFORMING 0x80
#define VM 0x20000u
#define CODE ((u8 *)0x7000)

void legacy_call(void *routine);
extern u8 v86_run[], legacy_trap_entries[], legacy_ring0_stack_top[];
extern volatile u32 legacy_results[64], legacy_traps[4];
extern u64 legacy_idt[256];
extern u32 legacy_tss[], v86_flags, v86_sp;

static u64 gate(u64 to, u32 sel, u32 type_dpl)
{
	return (to & 0xffff) | (u64)sel << 16 | (u64)type_dpl << 40 | (to >> 16 & 0xffff) << 48;
}

static void build(void)
{
	u64 at = (u64)legacy_tss;

	for (u32 v = 0; v < 65; v++)
		legacy_idt[v] = gate((u64)legacy_trap_entries + 16 * v, SEL_CODE32, 0xee);
	gdt[TSS32 / 8] = (TSS32_SIZE - 1) | (at & 0xffffff) << 16 | 0x89ul << 40 | (at >> 24 & 0xff) << 56;
	gdt[CONFORMING / 8] = 0x00cf9f000000ffff;
	legacy_tss[1] = (u32)(u64)legacy_ring0_stack_top;
	legacy_tss[2] = SEL_DATA;
	legacy_tss[25] = BITMAP_AT << 16;
	memset((u8 *)legacy_tss + BITMAP_AT, 0xff, 8193);
	__asm__ volatile("lldt %w0" ::"r"(0));
}

/* The code, and UD2 behind it; with this IOPL. */
static void run(const u8 *insn, u32 length, u32 iopl)
{
	static const u8 ud2[] = {0x0f, 0x0b};

	memcpy(CODE, insn, length);
	memcpy(CODE + length, ud2, 2);
	v86_flags = VM | iopl << 12 | 2;
	gdt[TSS32 / 8] &= ~(2ul << 40);
	legacy_call(v86_run);
	gdt[SEL_TSS / 8] &= ~(2ul << 40);
	__asm__ volatile("ltr %w0" ::"r"(SEL_TSS) : "memory");
	CHECK_EQ(legacy_results[61] & VM, VM); /* the frame's flags */
	CHECK_EQ(legacy_results[60], 0x700);
}

static void ended(u32 vector, u32 error, u32 ip)
{
	CHECK_EQ(legacy_traps[1], vector);
	CHECK_EQ(legacy_traps[2], error);
	CHECK_EQ(legacy_traps[3], ip);
}

#define RUN(iopl, ...)                                                                                                                     \
	do {                                                                                                                               \
		static const u8 insn_[] = {__VA_ARGS__};                                                                                   \
		run(insn_, sizeof(insn_), iopl);                                                                                           \
	} while (0)

/* ---- by IOPL ---- */

static const struct {
	u8 code[4];
	u32 length;
} sensitive[] = {{{0xfa}, 1}, {{0x9c}, 1}, {{0x66, 0x9c}, 2}, {{0x9c, 0x9d}, 2}}; /* cli; pushf; pushfd; pushf and popf */

static void sensitive_to_iopl(void)
{
	for (u32 iopl = 0; iopl < 4; iopl++)
		for (u32 i = 0; i < ARRAY_SIZE(sensitive); i++) {
			run(sensitive[i].code, sensitive[i].length, iopl);
			if (iopl == 3)
				ended(UD, 0, sensitive[i].length);
			else
				ended(GP, 0, 0);
		}
}

/* INT n needs IOPL 3; INT3 and INTO go by the gate alone. */
static void software_interrupts(void)
{
	for (u32 iopl = 0; iopl < 4; iopl++) {
		RUN(iopl, 0xcd, 0x40);
		if (iopl == 3)
			ended(0x40, 0, 2);
		else
			ended(GP, 0, 0);
		RUN(iopl, 0xcc);
		ended(BP, 0, 1);
		RUN(iopl, 0xb0, 0x7f, 0xfe, 0xc0, 0xce); /* mov $0x7f, %al; inc %al; into */
		ended(OF, 0, 5);
	}
	legacy_idt[BP] &= ~(0x60ul << 40); /* DPL 0 */
	RUN(3, 0xcc);
	legacy_idt[BP] |= 0x60ul << 40;
	ended(GP, BP * 8 + 2, 0);
}

/* A gate may lead to ring 0 only. */
static void gate_to_another_ring(void)
{
	u64 keep = legacy_idt[0x40];

	legacy_idt[0x40] = gate((u64)legacy_trap_entries + 16 * 0x40, CONFORMING, 0xee);
	RUN(3, 0xcd, 0x40);
	legacy_idt[0x40] = keep;
	ended(GP, CONFORMING, 0);
}

/* ---- never allowed ---- */

static void refused(void)
{
	RUN(3, 0xf4); /* hlt */
	ended(GP, 0, 0);
	RUN(3, 0x0f, 0x20, 0xc0); /* mov %cr0, %eax */
	ended(GP, 0, 0);
	RUN(3, 0x0f, 0x06); /* clts */
	ended(GP, 0, 0);
	RUN(3, 0x0f, 0x01, 0x16, 0, 0); /* lgdt */
	ended(GP, 0, 0);
	RUN(3, 0x0f, 0x00, 0xc0); /* sldt: unknown in this mode */
	ended(UD, 0, 0);
	RUN(3, 0x0f, 0x02, 0xc0); /* lar */
	ended(UD, 0, 0);
	RUN(3, 0x0f, 0x00, 0xe0); /* verr */
	ended(UD, 0, 0);
	RUN(3, 0x63, 0xc0); /* arpl */
	ended(UD, 0, 0);
}

/* ---- ports: the bitmap decides, whatever IOPL is ---- */

static void ports(void)
{
	u8 *bitmap = (u8 *)legacy_tss + BITMAP_AT;

	for (u32 iopl = 0; iopl < 4; iopl += 3) {
		RUN(iopl, 0xec); /* in %dx, %al: port 80h */
		ended(GP, 0, 0);
		bitmap[0x80 / 8] &= ~1;
		RUN(iopl, 0xec);
		ended(UD, 0, 1);
		RUN(iopl, 0xed); /* in %dx, %ax needs two */
		ended(GP, 0, 0);
		bitmap[0x80 / 8] |= 1;
	}
}

/* ---- limits ---- */

static void limits(void)
{
	RUN(3, 0x8a, 0x07); /* mov (%bx), %al at ffff */
	ended(UD, 0, 2);
	RUN(3, 0x8b, 0x07); /* mov (%bx), %ax */
	ended(GP, 0, 0);
	v86_sp = 1;
	RUN(3, 0x50); /* push %ax at 1: its two bytes would be at ffff */
	v86_sp = 0x800;
	ended(SS, 0, 0);
	RUN(3, 0x66, 0xea, 0, 0, 1, 0, 0, 7); /* jmp 0700:00010000 */
	ended(GP, 0, 0);
}

void guest_main(void)
{
	build();
	v86_sp = 0x800;
	loop_check("sensitive_to_iopl", sensitive_to_iopl, 100);
	loop_check("software_interrupts", software_interrupts, 100);
	loop_check("gate_to_another_ring", gate_to_another_ring, 200);
	loop_check("refused", refused, 100);
	loop_check("ports", ports, 100);
	if (!on_qemu_tcg()) /* which checks no limits */
		loop_check("limits", limits, 200);
}
