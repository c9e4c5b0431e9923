/* SPDX-License-Identifier: Apache-2.0 */
/* Accessed and dirty bits are set when they must be and never without a reason. */
#include "lib.h"

static u64 *page;
static const u64 va = TEST_VA + 0x201000;

static u64 bits(u64 *pte)
{
	return *(volatile u64 *)pte & (A | D);
}

static void read_sets_accessed(void)
{
	u64 *pte = paging_entry(paging_root(), va, 1);

	paging_map(va, (u64)page, P | W);
	CHECK_EQ(bits(pte), 0);
	(void)*(volatile u64 *)va;
	CHECK_EQ(bits(pte), A);
	*(volatile u64 *)va = 1;
	CHECK_EQ(bits(pte), A | D);
}

static void write_sets_both(void)
{
	u64 *pte = paging_entry(paging_root(), va, 1);

	paging_map(va, (u64)page, P | W);
	*(volatile u8 *)(va + 77) = 1;
	CHECK_EQ(bits(pte), A | D);
}

static void cleared_bits_are_set_again(void)
{
	u64 *pte = paging_entry(paging_root(), va, 1);

	paging_map(va, (u64)page, P | W | A | D);
	*(volatile u64 *)va = 1;
	*pte &= ~D;
	invlpg((void *)va);
	(void)*(volatile u64 *)va;
	CHECK_EQ(bits(pte), A);
	__asm__ volatile("lock incq (%0)" ::"r"(va) : "memory");
	CHECK_EQ(bits(pte), A | D);
	*pte &= ~A;
	invlpg((void *)va);
	(void)*(volatile u64 *)va;
	CHECK_EQ(bits(pte), A | D);
}

static void upper_levels_get_accessed_only(void)
{
	u64 *pde = paging_entry(paging_root(), va, 2), *pdpte = paging_entry(paging_root(), va, 3);

	paging_map(va, (u64)page, P | W);
	*pde &= ~(A | D);
	*pdpte &= ~(A | D);
	invlpg((void *)va);
	*(volatile u64 *)va = 1;
	CHECK_EQ(bits(pde) & A, A);
	CHECK_EQ(bits(pdpte) & A, A);
	CHECK_EQ(bits(pde) & D, 0);
}

static void faults_set_no_dirty(void)
{
	u64 *pte = paging_entry(paging_root(), va, 1);

	paging_map(va, (u64)page, P);
	trap_clear();
	__asm__ volatile(TRY("movq $1, (%0)")::"r"(va) : "memory");
	TRIED(PF, PFE_P | PFE_W);
	CHECK_EQ(bits(pte) & D, 0);
}

static void fetch_sets_accessed(void)
{
	u64 *pte = paging_entry(paging_root(), va, 1);

	*(u8 *)page = 0xc3;
	paging_map(va, (u64)page, P);
	((void (*)(void))va)();
	CHECK_EQ(bits(pte), A);
}

static void large_page(void)
{
	const u64 at = TEST_VA + 0x40000000;
	u64 *pde = paging_entry(paging_root(), at, 2);

	*pde = 0x600000 | P | W | PS;
	invlpg((void *)at);
	(void)*(volatile u64 *)(at + 0x12345 * 8);
	CHECK_EQ(bits(pde), A);
	*(volatile u64 *)(at + 0x100000) = 3;
	CHECK_EQ(bits(pde), A | D);
	*pde = 0;
	invlpg((void *)at);
}

void guest_main(void)
{
	page = page_alloc();
	LOOP(read_sets_accessed);
	LOOP(write_sets_both);
	LOOP(cleared_bits_are_set_again);
	LOOP(upper_levels_get_accessed_only);
	LOOP(faults_set_no_dirty);
	LOOP(fetch_sets_accessed);
	LOOP(large_page);
}
