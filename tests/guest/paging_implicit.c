/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Accesses that the CPU makes itself, to descriptor tables and to the TSS: they are the supervisor's in every ring, SMAP refuses them user pages whatever
 * EFLAGS.AC says, they set accessed and dirty bits, and what refuses them is a page fault of the instruction. SDM vol. 3, 4.6.1.
 */
#include "lib.h"

#define AC (1ul << 18)
#define SELECTOR 0x1000u /* the first one in the second page of the table */
#define TABLE (TEST_VA + 0xb00000ul)
#define DESCRIPTOR (TABLE + SELECTOR)
#define DATA_NEW 0x00cff2000000fffful /* DPL 3, not accessed */
#define DATA_OLD 0x00cff3000000fffful

static u8 *page[2];

static void load_gdt(u64 base, u16 limit)
{
	const struct dtr gdtr = {limit, base};

	__asm__ volatile("lgdt %0" ::"m"(gdtr));
}

static u64 *entry(void)
{
	return paging_entry(paging_root(), DESCRIPTOR, 1);
}

/* The second page of the table: its rights, its one descriptor */
static void second_page(u64 flags, u64 descriptor)
{
	*(u64 *)page[1] = descriptor;
	paging_map(DESCRIPTOR, (u64)page[1], flags);
}

UTEXT static u64 user_load(u64 sel)
{
	__asm__ volatile(TRY("mov %0, %%fs")::"r"(sel));
	return 0;
}

UTEXT static u64 user_lar(u64 sel)
{
	u64 v = 0;

	__asm__ volatile(TRY("lar %1, %0") : "+r"(v) : "r"(sel) : "cc");
	return v;
}

UTEXT static u64 user_lsl(u64 sel)
{
	u64 v = 0;

	__asm__ volatile(TRY("lsl %1, %0") : "+r"(v) : "r"(sel) : "cc");
	return v;
}

UTEXT static u64 user_verr(u64 sel)
{
	__asm__ volatile(TRY("verr %w0")::"r"(sel) : "cc");
	return 0;
}

UTEXT static u64 user_verw(u64 sel)
{
	__asm__ volatile(TRY("verw %w0")::"r"(sel) : "cc");
	return 0;
}

UTEXT static u64 user_in(u64 port)
{
	__asm__ volatile(TRY("in %%dx, %%al")::"d"(port) : "rax");
	return 0;
}

static void refused(u64 error)
{
	TRIED(PF, error);
	CHECK_EQ(trap.cr2 & ~7ul, DESCRIPTOR);
}

static void bits_are_set(void)
{
	second_page(P | W, DATA_OLD);
	user_call(user_load, SELECTOR | 3);
	TRIED(NO_TRAP, 0);
	CHECK_EQ(*entry() & (A | D), A);
	second_page(P | W, DATA_NEW);
	user_call(user_load, SELECTOR | 3);
	TRIED(NO_TRAP, 0);
	CHECK_EQ(*entry() & (A | D), A | D); /* the descriptor's own accessed bit was stored */
	CHECK_EQ(*(u64 *)page[1], DATA_OLD);
}

/* A table that may not be written: only the accessed bit needs it. */
static void read_only_table(void)
{
	second_page(P, DATA_OLD);
	user_call(user_load, SELECTOR | 3);
	TRIED(NO_TRAP, 0);
	second_page(P, DATA_NEW);
	user_call(user_load, SELECTOR | 3);
	refused(PFE_P | PFE_W); /* the supervisor's access: U is clear */
	CHECK_EQ(trap.frame.cs, SEL_UCODE64);
	CHECK_EQ(*(u64 *)page[1], DATA_NEW);
	write_cr0(read_cr0() & ~(1ul << 16)); /* without WP it is */
	user_call(user_load, SELECTOR | 3);
	write_cr0(read_cr0() | 1ul << 16);
	TRIED(NO_TRAP, 0);
	CHECK_EQ(*(u64 *)page[1], DATA_OLD);
}

static void absent_table(void)
{
	static u64 (*const asks[])(u64) = {user_lar, user_lsl, user_verr, user_verw};

	second_page(0, 0);
	user_call(user_load, SELECTOR | 3);
	refused(0);
	for (u32 i = 0; i < ARRAY_SIZE(asks); i++) { /* which otherwise never fault for what they find */
		user_call(asks[i], SELECTOR | 3);
		refused(0);
	}
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%fs")::"r"(SELECTOR));
	refused(0);
}

static void user_page_under_smap(void)
{
	write_cr4(read_cr4() | CR4_SMAP);
	second_page(P | W | U, DATA_OLD);
	user_call(user_load, SELECTOR | 3);
	refused(PFE_P);
	user_call_flags(user_load, SELECTOR | 3, AC | 0x200);
	refused(PFE_P);
	if (!on_qemu_tcg()) { /* which asks AC in ring 0 */
		trap_clear();
		flags_set(AC | 2);
		__asm__ volatile(TRY("mov %0, %%fs")::"r"(SELECTOR));
		flags_set(2);
		refused(PFE_P);
	}
	write_cr4(read_cr4() & ~CR4_SMAP);
	user_call(user_load, SELECTOR | 3);
	TRIED(NO_TRAP, 0);
	/* NX and SMEP are about fetches. */
	second_page(P | W | NX, DATA_OLD);
	user_call(user_load, SELECTOR | 3);
	TRIED(NO_TRAP, 0);
}

/* The I/O bitmap's page is absent. */
static void absent_bitmap(void)
{
	u64 at = ((u64)tss.bitmap + 4096) & ~(PAGE - 1), *pte = paging_entry(paging_root(), at, 1), keep = *pte;
	u64 port = (at - (u64)tss.bitmap + 16) * 8;

	*pte = 0;
	invlpg((void *)at);
	user_call(user_in, port);
	*pte = keep;
	invlpg((void *)at);
	TRIED(PF, 0);
	CHECK_EQ(trap.cr2, at + 16);
	user_call(user_in, port);
	TRIED(GP, 0);
}

static bool handled(struct trap_frame *f)
{
	return true;
}

/* An interrupt reads its gate, nothing more. */
static void the_gate_is_read(void)
{
	u64 *pte = paging_entry(paging_root(), (u64)idt, 1);

	*pte &= ~(A | D | W);
	invlpg(idt);
	trap_set_handler(0x60, handled);
	__asm__ volatile("int $0x60");
	CHECK_EQ(*pte & (A | D), A);
	*pte |= W;
	invlpg(idt);
}

void guest_main(void)
{
	page[0] = page_alloc();
	page[1] = page_alloc();
	memcpy(page[0], gdt, sizeof(gdt));
	paging_map(TABLE, (u64)page[0], P | W);
	load_gdt(TABLE, 0x1fff);
	LOOP(bits_are_set);
	LOOP(read_only_table);
	LOOP(absent_table);
	if (cpuid_bit(7, 0, 1, 20))
		LOOP(user_page_under_smap);
	LOOP(absent_bitmap);
	LOOP(the_gate_is_read);
}
