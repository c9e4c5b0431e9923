/* SPDX-License-Identifier: Apache-2.0 */
/* Page tables. See lib.h. */
#include "lib.h"
#include "private.h"

#define POOL_PAGES 256

extern u8 user_start[], user_end[];
static u8 pool[POOL_PAGES][4096] PAGE_ALIGNED;
static u32 pool_used;

void *page_alloc(void)
{
	CHECK(pool_used < POOL_PAGES);
	return memset(pool[pool_used++], 0, 4096);
}

/* Replace a large page by a table of the next smaller ones with the same rights. */
static void split(u64 *entry, u32 level)
{
	u64 *table = page_alloc();
	u64 step = 1ul << (12 + 9 * (level - 2)), flags = *entry & ~(ADDR_MASK | PS), base = *entry & ADDR_MASK & ~(step * 512 - 1);

	for (u32 i = 0; i < 512; i++)
		table[i] = (base + i * step) | flags | (level > 2 ? PS : 0);
	*entry = (u64)table | P | W | U;
}

u64 *paging_entry(u64 root, u64 va, u32 level)
{
	u64 *table = (u64 *)root;

	for (u32 l = 4;; l--) {
		u64 *e = &table[va >> (12 + 9 * (l - 1)) & 511];

		if (l == level)
			return e;
		if (!(*e & P))
			*e = (u64)page_alloc() | P | W | U;
		else if (l < 4 && (*e & PS))
			split(e, l);
		table = (u64 *)(*e & ADDR_MASK);
	}
}

void paging_map(u64 va, u64 pa, u64 flags)
{
	*paging_entry(paging_root(), va, 1) = pa | flags;
	invlpg((void *)va);
}

u64 paging_clone(void)
{
	u64 *root = page_alloc();

	memcpy(root, (void *)paging_root(), 4096);
	return (u64)root;
}

void paging_init(void)
{
	for (u64 va = (u64)user_start; va < (u64)user_end; va += PAGE)
		*paging_entry(paging_root(), va, 1) |= U;
	for (u32 level = 2; level <= 4; level++)
		*paging_entry(paging_root(), (u64)user_start, level) |= U;
	write_cr3(read_cr3());
}
