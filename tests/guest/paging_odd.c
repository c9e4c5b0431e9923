/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Page tables in odd places: a table that is its own entry, one frame that serves as all four levels, a table that is written through the page it
 * maps, one that is the stack, one beyond the RAM, in the last page of RAM and in page 0; a table shared by two places.
 */
#include "lib.h"

#define SELF 0x1e0ul	    /* a free top-level entry */
#define BEYOND 0x70000000ul /* below the hole for devices, above the RAM */

static u8 *page[2];
static u64 *root;

static u64 canonical(u64 va)
{
	return va >> 47 & 1 ? va | 0xfffful << 48 : va;
}

static volatile u64 *address(u64 i4, u64 i3, u64 i2, u64 i1)
{
	return (volatile u64 *)canonical(i4 << 39 | i3 << 30 | i2 << 21 | i1 << 12);
}

/* ---- the root is its own entry, as some kernels do: all tables appear in an array ---- */

static volatile u64 *entry_by_array(u64 va)
{
	return (volatile u64 *)canonical(SELF << 39 | (va >> 12 & 0xffffffffful) << 3);
}

static void recursive(void)
{
	const u64 va = TEST_VA + 0x123000;

	paging_map(va, 0, 0); /* makes the tables */
	root[SELF] = (u64)root | P | W;
	CHECK_EQ(address(SELF, SELF, SELF, SELF)[SELF] & ADDR_MASK, (u64)root);
	for (u32 i = 0; i < 4; i++) {
		*(u64 *)page[i & 1] = 0x100 + i;
		*entry_by_array(va) = (u64)page[i & 1] | P | W;
		invlpg((void *)va);
		CHECK_EQ(*(volatile u64 *)va, 0x100 + i);
		CHECK_EQ(*entry_by_array(va) & (A | D), A);
		*(volatile u64 *)va = i;
		CHECK_EQ(*entry_by_array(va) & (A | D), A | D);
		CHECK_EQ(*(u64 *)page[i & 1], i);
	}
	*entry_by_array(va) = 0;
	invlpg((void *)va);
	trap_clear();
	__asm__ volatile(TRY("movq (%0), %%rax")::"r"(va) : "rax", "memory");
	TRIED(PF, 0);
	CHECK_EQ(*paging_entry((u64)root, va, 2) & (A | D), A | D); /* the last level of the walk to the array */
	root[SELF] = 0;
	write_cr3((u64)root);
}

/* ---- one frame as the table of all levels ---- */

static u64 *knot;

static void all_levels_in_one(void)
{
	volatile u64 *self;

	memset(knot, 0, PAGE);
	knot[1] = (u64)knot | P | W;
	knot[2] = (u64)page[0] | P | W;
	knot[0] = root[0]; /* where this code lies */
	write_cr3((u64)knot);
	self = address(1, 1, 1, 1);
	CHECK_EQ(self[2] & ADDR_MASK, (u64)page[0]);
	*(volatile u64 *)address(1, 1, 1, 2) = 0x77;
	CHECK_EQ(self[2] & (A | D), A | D);
	CHECK_EQ(self[1] & (A | D), A); /* read only so far */
	/* A store through the page changes the entry that it went through. */
	self[2] = (u64)page[1] | P | W;
	CHECK_EQ(knot[1] & (A | D), A | D);
	invlpg((void *)address(1, 1, 1, 2));
	*(volatile u64 *)address(1, 1, 1, 2) = 0x88;
	/* It takes itself away: the store is done, the next access faults. */
	self[1] = (u64)knot | P;
	invlpg((void *)self);
	trap_clear();
	__asm__ volatile(TRY("movq $0, (%0)")::"r"(self) : "memory");
	write_cr3((u64)root);
	TRIED(PF, PFE_P | PFE_W);
	CHECK_EQ(*(u64 *)page[0], 0x77);
	CHECK_EQ(*(u64 *)page[1], 0x88);
}

/* ---- the store that makes an entry is the one that its own walk dirties ---- */

static void store_into_its_own_entry(void)
{
	const u64 va = TEST_VA + 0x40000000;
	static u64 table[512] PAGE_ALIGNED;

	*paging_entry((u64)root, va, 2) = (u64)table | P | W;
	for (u64 i = 0; i < 4; i++) {
		memset(table, 0, PAGE);
		table[0] = (u64)table | P | W; /* the table maps itself at va */
		invlpg((void *)va);
		*(volatile u64 *)va = (u64)page[0] | P | W; /* entry 0 maps the page that this store went to */
		CHECK_EQ(table[0], (u64)page[0] | P | W);   /* what was stored wins over the dirty bit, which came before */
		table[0] = (u64)table | P | W;
		invlpg((void *)va);
		__asm__ volatile("lock addq $0x1000, (%0)" ::"r"(va) : "memory", "cc");
		if (!on_qemu_tcg())						   /* which reads before it sets them */
			CHECK_EQ(table[0], ((u64)table | P | W | A | D) + 0x1000); /* it read the bits that its own walk set */
	}
	*paging_entry((u64)root, va, 2) = 0;
	write_cr3((u64)root);
}

/* ---- where there is no RAM ---- */

static void walk_fails(u64 va)
{
	trap_clear();
	__asm__ volatile(TRY("movq (%0), %%rax")::"r"(va) : "rax", "memory");
	CHECK_EQ(trap.vector, PF);
	CHECK_EQ(trap.error & ~(PFE_P | PFE_RSVD), 0); /* nothing answers: ones, whose reserved bits fault, or zeros */
	CHECK_EQ(trap.cr2, va);
	trap_clear();
	__asm__ volatile(TRY("lock incb (%0)")::"r"(va) : "memory");
	CHECK_EQ(trap.vector, PF);
}

static void beyond_the_ram(void)
{
	const u64 va = TEST_VA + 0x80000000;

	for (u32 level = 2; level <= 3; level++) {
		u64 *entry = paging_entry((u64)root, va + (u64)level * 0x40000000, level), keep = *entry;

		*entry = BEYOND | P | W;
		invlpg((void *)(va + (u64)level * 0x40000000));
		walk_fails(va + (u64)level * 0x40000000);
		*entry = keep;
	}
	root[0x180] = BEYOND | P | W;
	walk_fails(canonical(0x180ul << 39));
	root[0x180] = 0;
}

/* ---- the first and the last page of RAM ---- */

static void table_at(u64 frame)
{
	const u64 va = TEST_VA + 0xc0000000ul * 2;
	volatile u64 *table = (volatile u64 *)frame;
	u64 kept[2] = {table[0], table[511]};

	table[0] = (u64)page[0] | P | W;
	table[511] = (u64)page[1] | P | W;
	*paging_entry((u64)root, va, 2) = frame | P | W;
	invlpg((void *)va);
	invlpg((void *)(va + 511 * PAGE));
	*(volatile u64 *)va = loop_count;
	*(volatile u64 *)(va + 511 * PAGE) = ~loop_count;
	CHECK_EQ(*(u64 *)page[0], loop_count);
	CHECK_EQ(*(u64 *)page[1], ~loop_count);
	CHECK_EQ(table[0], (u64)page[0] | P | W | A | D);
	CHECK_EQ(table[511], (u64)page[1] | P | W | A | D);
	*paging_entry((u64)root, va, 2) = 0;
	write_cr3((u64)root);
	table[0] = kept[0];
	table[511] = kept[1];
}

#define LAST_PAGE ((128ul << 20) - 0x80000) /* the end itself may hold the firmware's tables */

static void first_and_last(void)
{
	table_at(0);
	table_at(LAST_PAGE);
}

/* ---- a table is the stack ---- */

static void table_is_the_stack(void)
{
	const u64 va = TEST_VA + 0x1c0000000ul;
	static u64 table[512] PAGE_ALIGNED;

	table[511] = table[510] = 0;
	*paging_entry((u64)root, va, 2) = (u64)table | P | W;
	/* An entry is pushed, and used at once. */
	__asm__ volatile(
		"mov %%rsp, %%rcx\n\tmov %0, %%rsp\n\tpush %1\n\tinvlpg (%2)\n\tmovq $0x1234, (%2)\n\tpop %%rax\n\tmov %%rcx, %%rsp" ::"r"(
			table + 512),
		"r"((u64)page[0] | P | W), "r"(va + 511 * PAGE)
		: "rax", "rcx", "memory");
	CHECK_EQ(*(u64 *)page[0], 0x1234);
	CHECK_EQ(table[511], (u64)page[0] | P | W | A | D);
	*paging_entry((u64)root, va, 2) = 0;
	write_cr3((u64)root);
}

/* ---- one table at two places: what is changed through one counts for both ---- */

static void shared_table(void)
{
	const u64 one = TEST_VA + 0x200000000ul, two = one + 0x200000;
	static u64 table[512] PAGE_ALIGNED;

	*paging_entry((u64)root, one, 2) = *paging_entry((u64)root, two, 2) = (u64)table | P | W;
	for (u32 i = 0; i < 4; i++) {
		table[5] = (u64)page[i & 1] | P | W;
		invlpg((void *)(one + 5 * PAGE));
		invlpg((void *)(two + 5 * PAGE));
		*(volatile u64 *)(one + 5 * PAGE) = i;
		CHECK_EQ(*(volatile u64 *)(two + 5 * PAGE), i);
		CHECK_EQ(*(u64 *)page[i & 1], i);
	}
	*paging_entry((u64)root, two, 2) &= ~W; /* the rights above differ */
	invlpg((void *)(two + 5 * PAGE));
	trap_clear();
	__asm__ volatile(TRY("movq $0, (%0)")::"r"(two + 5 * PAGE) : "memory");
	TRIED(PF, PFE_P | PFE_W);
	*(volatile u64 *)(one + 5 * PAGE) = 9;
	CHECK_EQ(*(volatile u64 *)(two + 5 * PAGE), 9);
}

void guest_main(void)
{
	root = (u64 *)paging_root();
	page[0] = page_alloc();
	page[1] = page_alloc();
	knot = page_alloc();
	LOOP(recursive);
	LOOP(all_levels_in_one);
	LOOP(store_into_its_own_entry);
	if (!on_kvm()) /* which takes the table's address for that of the data */
		LOOP(beyond_the_ram);
	LOOP(first_and_last);
	LOOP(table_is_the_stack);
	LOOP(shared_table);
}
