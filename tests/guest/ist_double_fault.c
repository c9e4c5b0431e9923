/* SPDX-License-Identifier: Apache-2.0 */
/* Stack switching by IST and by TSS.RSP0, alignment of the frame, faults while a fault is delivered: #DF with error code 0 on its IST
 * stack. */
#include "lib.h"

extern u8 ist_stack_top[], trap_stack_top[];
static u64 seen_rsp;

static bool note_stack(struct trap_frame *f)
{
	__asm__ volatile("mov %%rsp, %0" : "=r"(seen_rsp));
	return true;
}

static bool on_stack(u64 rsp, u8 *top, u64 size)
{
	return rsp <= (u64)top && rsp > (u64)top - size;
}

static void ist_is_used(void)
{
	trap_set_handler(0x60, note_stack);
	idt[0x60].ist = 0;
	__asm__ volatile("int $0x60");
	CHECK(!on_stack(seen_rsp, ist_stack_top, 16384));
	idt[0x60].ist = 1;
	__asm__ volatile("int $0x60");
	CHECK(on_stack(seen_rsp, ist_stack_top, 16384));
	idt[0x60].ist = 0;
}

UTEXT static u64 user_nothing(u64 arg)
{
	return arg;
}

static void ring3_switches_to_rsp0(void)
{
	trap_set_handler(USER_EXIT, NULL);
	CHECK_EQ(user_call(user_nothing, 5), 5);
}

/* The frame is aligned to 16 bytes, whatever rsp was. */
static bool note_frame(struct trap_frame *f)
{
	seen_rsp = (u64)(&f->ss + 1);
	return true;
}

static void frame_is_aligned(void)
{
	trap_set_handler(0x60, note_frame);
	for (u64 off = 0; off < 16; off++) {
		u64 before = 0, after = 0;

		__asm__ volatile("mov %%rsp, %%rcx; sub %2, %%rsp; mov %%rsp, %0; int $0x60; mov %%rsp, %1; mov %%rcx, %%rsp"
				 : "=&r"(before), "=&r"(after)
				 : "r"(256 + off)
				 : "rcx", "memory");
		CHECK_EQ(seen_rsp & 15, 0);
		CHECK_EQ(seen_rsp, before & ~15ul);
		CHECK_EQ(after, before);
	}
}

/* #PF whose gate is not present: contributory during a page fault. */
static void double_fault_by_missing_gate(void)
{
	idt[PF].type = 0;
	trap_clear();
	__asm__ volatile(TRY("mov %%rax, (%0)")::"r"(TEST_VA) : "memory");
	idt[PF].type = 0x8e;
	TRIED(DF, 0);
}

/* The stack that the frame must go to is not mapped. */
static void double_fault_by_bad_stack(void)
{
	trap_clear();
	__asm__ volatile("mov %%rsp, %%rcx; mov %0, %%rsp\n" TRY("push %%rax") "mov %%rcx, %%rsp" ::"r"(TEST_VA + 0x1000)
			 : "rcx", "memory");
	TRIED(DF, 0);
	CHECK_EQ(trap.frame.rsp, TEST_VA + 0x1000);
}

static void double_fault_from_ring3(void)
{
	u64 rsp0 = tss.rsp[0];

	tss.rsp[0] = TEST_VA + 0x2000;
	user_call(user_nothing, 5);
	tss.rsp[0] = rsp0;
	CHECK_EQ(trap.vector, DF);
	CHECK_EQ(trap.error, 0);
	CHECK_EQ(trap.frame.cs, SEL_UCODE64);
}

/* Benign after benign: a #GP while #UD is delivered is just a #GP. */
static void benign_then_contributory(void)
{
	idt[UD].type = 0x0e; /* not present: #NP with the gate's index, EXT set because the #UD was no INT n */
	trap_clear();
	__asm__ volatile(TRY("ud2"));
	idt[UD].type = 0x8e;
	TRIED(NP, on_qemu_tcg() ? gate_error(UD) : UD * 8 + 3); /* and QEMU forgets EXT */
}

static void gate_to_bad_selector(void)
{
	u16 sel = idt[0x61].sel;

	idt[0x61].sel = SEL_DATA;
	trap_clear();
	__asm__ volatile(TRY("int $0x61"));
	TRIED(GP, SEL_DATA);
	idt[0x61].sel = 0;
	trap_clear();
	__asm__ volatile(TRY("int $0x61"));
	TRIED(GP, 0);
	idt[0x61].sel = SEL_CODE32; /* not 64-bit */
	trap_clear();
	__asm__ volatile(TRY("int $0x61"));
	TRIED(GP, SEL_CODE32);
	idt[0x61].sel = sel;
	idt[0x61].type = 0x85; /* a task gate does not exist in 64-bit mode */
	trap_clear();
	__asm__ volatile(TRY("int $0x61"));
	TRIED(GP, gate_error(0x61));
	idt[0x61].type = 0x8e;
}

static void beyond_the_idt(void)
{
	struct dtr small = {16 * 32 - 1, (u64)idt}, full = {sizeof(idt) - 1, (u64)idt};

	__asm__ volatile("lidt %0" ::"m"(small));
	trap_clear();
	__asm__ volatile(TRY("int $0x20"));
	__asm__ volatile("lidt %0" ::"m"(full));
	TRIED(GP, gate_error(0x20));
}

void guest_main(void)
{
	LOOP(ist_is_used);
	LOOP(ring3_switches_to_rsp0);
	LOOP(frame_is_aligned);
	LOOP(double_fault_by_missing_gate);
	LOOP(double_fault_by_bad_stack);
	LOOP(double_fault_from_ring3);
	LOOP(benign_then_contributory);
	LOOP(gate_to_bad_selector);
	LOOP(beyond_the_idt);
}
