/* SPDX-License-Identifier: Apache-2.0 */
/* Accesses that cross a page: right value, all or nothing when the second (or first) page refuses, cr2 of the byte that could not be
 * reached. */
#include "lib.h"

static u8 *first, *second;
static const u64 va = TEST_VA + 0x300000;

static void both(u64 flags1, u64 flags2)
{
	paging_map(va, (u64)first, flags1);
	paging_map(va + PAGE, (u64)second, flags2);
}

static void fill(u8 v)
{
	memset(first, v, PAGE);
	memset(second, v, PAGE);
}

static void loads_and_stores(void)
{
	both(P | W, P | W);
	for (u32 cut = 1; cut < 8; cut++) {
		u64 at = va + PAGE - cut;

		fill(0);
		*(volatile u64 *)at = 0x1122334455667788;
		CHECK_EQ(*(volatile u64 *)at, 0x1122334455667788);
		for (u32 i = 0; i < 8; i++)
			CHECK_EQ(i < cut ? first[PAGE - cut + i] : second[i - cut], (0x1122334455667788ul >> 8 * i) & 0xff);
		*(volatile u32 *)(va + PAGE - 2) = 0xaabbccdd;
		CHECK_EQ(*(volatile u32 *)(va + PAGE - 2), 0xaabbccdd);
		*(volatile u16 *)(va + PAGE - 1) = 0xeeff;
		CHECK_EQ(*(volatile u16 *)(va + PAGE - 1), 0xeeff);
	}
}

static void store_is_all_or_nothing(void)
{
	both(P | W, P);
	for (u32 cut = 1; cut < 8; cut++) {
		fill(0x5a);
		trap_clear();
		__asm__ volatile(TRY("movq $0, (%0)")::"r"(va + PAGE - cut) : "memory");
		TRIED(PF, PFE_P | PFE_W);
		CHECK_EQ(trap.cr2, va + PAGE);
		for (u32 i = 1; i <= 8; i++)
			CHECK_EQ(first[PAGE - i], 0x5a);
		CHECK_EQ(second[0], 0x5a);
	}
	both(P | W, 0);
	trap_clear();
	__asm__ volatile(TRY("movups %%xmm0, (%0)")::"r"(va + PAGE - 5) : "memory");
	TRIED(PF, PFE_W);
	CHECK_EQ(trap.cr2, va + PAGE);
	CHECK_EQ(first[PAGE - 1], 0x5a);
}

static void first_page_refuses(void)
{
	both(P, P | W);
	fill(0x5a);
	trap_clear();
	__asm__ volatile(TRY("movq $0, (%0)")::"r"(va + PAGE - 3) : "memory");
	TRIED(PF, PFE_P | PFE_W);
	CHECK_EQ(trap.cr2, va + PAGE - 3);
	CHECK_EQ(second[0], 0x5a);
}

static void read_modify_write(void)
{
	u64 flags, a = 0x1111, r;

	both(P | W, P);
	fill(0x5a);
	trap_clear();
	__asm__ volatile("stc; pushfq; popq %0\n" TRY("adcq %2, (%1)") "pushfq; pop %0"
			 : "=&r"(flags)
			 : "r"(va + PAGE - 4), "r"(7ul)
			 : "memory", "cc");
	TRIED(PF, PFE_P | PFE_W);
	CHECK_EQ(trap.cr2, va + PAGE);
	CHECK_EQ(flags & 1, 1); /* flags are as before */
	CHECK_EQ(first[PAGE - 1], 0x5a);
	trap_clear();
	__asm__ volatile(TRY("lock cmpxchgq %2, (%1)") : "+a"(a) : "r"(va + PAGE - 4), "r"(7ul) : "memory", "cc");
	TRIED(PF, PFE_P | PFE_W); /* although the comparison fails */
	CHECK_EQ(a, 0x1111);
	both(P | W, P | W);
	r = 5;
	__asm__ volatile("lock xaddq %0, (%1)" : "+r"(r) : "r"(va + PAGE - 4) : "memory", "cc");
	CHECK_EQ(r, 0x5a5a5a5a5a5a5a5a);
	CHECK_EQ(*(volatile u64 *)(va + PAGE - 4), 0x5a5a5a5a5a5a5a5f);
}

static void push_and_call(void)
{
	u64 sp = 0;

	both(P | W, P | W);
	paging_map(va, 0, 0);
	fill(0x5a);
	trap_clear();
	idt[PF].ist = 1;
	__asm__ volatile("mov %%rsp, %%rcx; mov %1, %%rsp\n" TRY("push %%rax") "mov %%rsp, %0; mov %%rcx, %%rsp"
			 : "=&r"(sp)
			 : "r"(va + PAGE + 4)
			 : "rcx", "memory");
	idt[PF].ist = 0;
	TRIED(PF, PFE_W);
	CHECK_EQ(trap.cr2, va + PAGE - 4);
	CHECK_EQ(sp, va + PAGE + 4);
	CHECK_EQ(second[0], 0x5a);
}

static void string_stops_in_the_middle(void)
{
	u64 di = va + PAGE - 24, cx = 8, si = (u64)second + 64;

	both(P | W, P);
	fill(0x5a);
	memset(second + 64, 0x11, 64);
	trap_clear();
	__asm__ volatile(TRY("rep movsq") : "+D"(di), "+c"(cx), "+S"(si)::"memory");
	TRIED(PF, PFE_P | PFE_W);
	CHECK_EQ(trap.cr2, va + PAGE);
	CHECK_EQ(cx, 5);
	CHECK_EQ(di, va + PAGE);
	CHECK_EQ(si, (u64)second + 64 + 24);
	CHECK_EQ(first[PAGE - 24], 0x11);
	CHECK_EQ(first[PAGE - 25], 0x5a);
}

static void code_across_pages(void)
{
	static const u8 code[] = {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0xc3}; /* mov $imm64, %rax; ret */

	for (u32 cut = 1; cut < 10; cut++) {
		memcpy(first + PAGE - cut, code, cut);
		memcpy(second, code + cut, sizeof(code) - cut);
		both(P, P);
		CHECK_EQ(((u64(*)(void))(va + PAGE - cut))(), 0x0807060504030201);
		second[9 - cut] = 0x99;
		if (cut < 10)
			CHECK_EQ(((u64(*)(void))(va + PAGE - cut))() >> 56, 0x99);
	}
}

static void code_whose_second_page_is_missing(void)
{
	static const u8 code[] = {0x48, 0xb8, 1};

	memcpy(first + PAGE - 3, code, 3);
	both(P, 0);
	trap_clear();
	trap_guarded(call_address, va + PAGE - 3);
	CHECK_EQ(trap.vector, PF);
	CHECK_EQ(trap.error, PFE_I);
	CHECK_EQ(trap.cr2, va + PAGE);
	CHECK_EQ(trap.frame.rip, va + PAGE - 3);
	both(P, P | NX);
	trap_clear();
	trap_guarded(call_address, va + PAGE - 3);
	CHECK_EQ(trap.error, PFE_I | PFE_P);
	CHECK_EQ(trap.cr2, va + PAGE);
}

void guest_main(void)
{
	first = page_alloc();
	second = page_alloc();
	both(P | W, P | W);
	LOOP(loads_and_stores);
	LOOP(store_is_all_or_nothing);
	LOOP(first_page_refuses);
	LOOP(read_modify_write);
	LOOP(push_and_call);
	LOOP(string_stops_in_the_middle);
	LOOP(code_across_pages);
	LOOP(code_whose_second_page_is_missing);
}
