/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What flushes translations: INVLPG, CR3, global pages, PCID, INVPCID; large pages, aliases, reserved bits. Only what the architecture
 * promises is checked: that a change is seen after the flush, and that what needs no flush (not-present to present, more rights) is seen
 * without.
 */
#include "lib.h"

static u64 *frame[4];
static const u64 va = TEST_VA + 0x80000000;

static u64 load(u64 at)
{
	u64 v = ~0ul;

	trap_clear();
	__asm__ volatile(TRY("mov (%1), %0") : "+r"(v) : "r"(at) : "memory");
	return v;
}

static void remap_and_invlpg(void)
{
	for (u32 i = 0; i < 4; i++) {
		paging_map(va, (u64)frame[i], P | W);
		CHECK_EQ(load(va), i);
	}
}

static void remap_and_cr3(void)
{
	u64 *pte = paging_entry(paging_root(), va, 1);

	for (u32 i = 0; i < 4; i++) {
		*pte = (u64)frame[i] | P | W;
		write_cr3(read_cr3());
		CHECK_EQ(load(va), i);
	}
}

static void becoming_present_needs_no_flush(void)
{
	u64 *pte = paging_entry(paging_root(), va, 1);

	paging_map(va, 0, 0);
	load(va);
	TRIED(PF, 0);
	*pte = (u64)frame[1] | P;
	CHECK_EQ(load(va), 1);
	TRIED(NO_TRAP, 0);
}

/* More rights: a stale entry may fault once more, after which the walk sees the new ones. */
static void more_rights_need_no_flush(void)
{
	u64 *pte = paging_entry(paging_root(), va, 1);

	paging_map(va, (u64)frame[2], P);
	load(va);
	*pte = (u64)frame[2] | P | W;
	for (u32 i = 0; i < 2; i++) {
		trap_clear();
		__asm__ volatile(TRY("movq $2, (%0)")::"r"(va) : "memory");
	}
	TRIED(NO_TRAP, 0);
}

static void global_pages(void)
{
	u64 *pte = paging_entry(paging_root(), va, 1);

	write_cr4(read_cr4() | CR4_PGE);
	paging_map(va, (u64)frame[0], P | W | G);
	CHECK_EQ(load(va), 0);
	*pte = (u64)frame[1] | P | W | G;
	write_cr4(read_cr4() & ~CR4_PGE); /* flushes global ones too */
	CHECK_EQ(load(va), 1);
	write_cr4(read_cr4() | CR4_PGE);
	CHECK_EQ(load(va), 1);
	paging_map(va, (u64)frame[2], P | W | G);
	CHECK_EQ(load(va), 2);
	paging_map(va, 0, 0);
	write_cr4(read_cr4() & ~CR4_PGE);
}

static u64 other_root;

static void address_spaces(void)
{
	u64 here = read_cr3();

	*paging_entry(here, va, 1) = (u64)frame[0] | P | W;
	*paging_entry(other_root, va, 1) = (u64)frame[1] | P | W;
	write_cr3(other_root);
	CHECK_EQ(load(va), 1);
	write_cr3(here);
	CHECK_EQ(load(va), 0);
	*paging_entry(other_root, va, 1) = (u64)frame[3] | P | W; /* changed while not in use */
	write_cr3(other_root);
	CHECK_EQ(load(va), 3);
	write_cr3(here);
	*paging_entry(here, va, 1) = 0;
	write_cr3(here);
	load(va);
	TRIED(PF, 0);
}

struct invpcid_desc {
	u64 pcid, va;
};

static void invpcid(u64 type, u64 pcid, u64 at)
{
	struct invpcid_desc d = {pcid, at};

	trap_clear();
	__asm__ volatile(TRY("invpcid %1, %0")::"r"(type), "m"(d) : "memory");
}

static void pcids(void)
{
	u64 here = read_cr3() & ADDR_MASK;

	write_cr4(read_cr4() | CR4_PCIDE);
	*paging_entry(here, va, 1) = (u64)frame[0] | P | W;
	*paging_entry(other_root, va, 1) = (u64)frame[1] | P | W;
	write_cr3(here | 1);
	CHECK_EQ(load(va), 0);
	write_cr3(other_root | 2);
	CHECK_EQ(load(va), 1);
	write_cr3(here | 1 | 1ul << 63); /* no flush */
	CHECK_EQ(load(va), 0);
	write_cr3(other_root | 2 | 1ul << 63);
	CHECK_EQ(load(va), 1);
	*paging_entry(here, va, 1) = (u64)frame[2] | P | W; /* the other address space's */
	write_cr3(here | 1);				    /* flushes PCID 1 */
	CHECK_EQ(load(va), 2);
	write_cr3(here);
	write_cr4(read_cr4() & ~CR4_PCIDE);
}

static void invpcid_types(void)
{
	u64 here = read_cr3() & ADDR_MASK, *other_pte = paging_entry(other_root, va, 1);

	write_cr4(read_cr4() | CR4_PCIDE);
	*paging_entry(here, va, 1) = (u64)frame[0] | P | W;
	*other_pte = (u64)frame[1] | P | W;
	write_cr3(other_root | 2);
	CHECK_EQ(load(va), 1);
	for (u64 type = 0; type < 4; type++) {
		u64 which = 2 + type % 2;

		write_cr3(here | 1 | 1ul << 63);
		*other_pte = (u64)frame[which] | P | W;
		invpcid(type, 2, va);
		TRIED(NO_TRAP, 0);
		write_cr3(other_root | 2 | 1ul << 63);
		CHECK_EQ(load(va), which);
	}
	invpcid(4, 0, 0);
	TRIED(GP, 0);
	invpcid(0, 0x1000, 0);
	TRIED(GP, 0);
	invpcid(0, 1, 0x800000000000ul);
	TRIED(GP, 0);
	write_cr3(here);
	write_cr4(read_cr4() & ~CR4_PCIDE);
	invpcid(0, 1, 0); /* a PCID while they are off */
	TRIED(GP, 0);
}

static void large_pages(void)
{
	const u64 at = TEST_VA + 0xc0000000;
	static u64 table[512] PAGE_ALIGNED;
	u64 *pde = paging_entry(paging_root(), at, 2), want;

	*(volatile u64 *)0x600008 = 0x600008;
	*(volatile u64 *)0x7ff000 = 0x7ff000;
	*(volatile u64 *)0x800008 = 0x800008;
	*pde = 0x600000 | P | W | PS;
	invlpg((void *)at);
	CHECK_EQ(load(at + 8), 0x600008);
	CHECK_EQ(load(at + 0x1ff000), 0x7ff000);
	*pde = 0x800000 | P | W | PS;
	invlpg((void *)(at + 0x123456)); /* any address in the page will do */
	CHECK_EQ(load(at + 8), 0x800008);
	*pde = 0;
	invlpg((void *)at);
	want = load(at + 8);
	TRIED(PF, 0);
	CHECK_EQ(want, ~0ul);
	/* A table in place of the large page */
	table[0] = (u64)frame[3] | P | W;
	*pde = (u64)table | P | W;
	invlpg((void *)at);
	CHECK_EQ(load(at), 3);
	load(at + 4096);
	TRIED(PF, 0);
	*pde = 0;
	invlpg((void *)at);
}

static void huge_pages(void)
{
	const u64 at = TEST_VA + (5ul << 30);
	u64 *pdpte = paging_entry(paging_root(), at, 3);

	*(volatile u64 *)0x600008 = 0x600008;
	*pdpte = 0 | P | W | PS;
	invlpg((void *)at);
	CHECK_EQ(load(at + 0x600008), 0x600008);
	*(volatile u64 *)(at + 0x600008) = 0x1234;
	CHECK_EQ(*(volatile u64 *)0x600008, 0x1234);
	*pdpte = 0;
	invlpg((void *)(at + 0x600008));
	load(at + 0x600008);
	TRIED(PF, 0);
}

static void aliases(void)
{
	paging_map(va, (u64)frame[0], P | W);
	paging_map(va + PAGE, (u64)frame[0], P | W);
	for (u64 i = 1; i < 10; i++) {
		*(volatile u64 *)(va + 64) = i;
		CHECK_EQ(*(volatile u64 *)(va + PAGE + 64), i);
		*(volatile u64 *)(va + PAGE + 64) = i * 7;
		CHECK_EQ(*(volatile u64 *)(va + 64), i * 7);
		CHECK_EQ(frame[0][8], i * 7);
	}
	/* One access over two virtual pages that are not neighbours in memory */
	paging_map(va + PAGE, (u64)frame[2], P | W);
	*(volatile u64 *)(va + PAGE - 4) = 0x1122334455667788;
	CHECK_EQ(((u32 *)frame[0])[1023], 0x55667788);
	CHECK_EQ(((u32 *)frame[2])[0], 0x11223344);
	CHECK_EQ(load(va + PAGE - 4), 0x1122334455667788);
	frame[2][0] = 2;
	paging_map(va + PAGE, 0, 0);
}

/* QEMU's software walk forgets P in the error code of reserved bits. */
static void denied_reserved(u64 error)
{
	TRIED(PF, (on_qemu_tcg() ? 0 : PFE_P) | PFE_RSVD | error);
}

static void reserved_bits(void)
{
	u32 r[4];
	u64 *pte = paging_entry(paging_root(), va, 1), *pde = paging_entry(paging_root(), TEST_VA + 0x90000000, 2);

	cpuid(0x80000008, 0, r);
	if ((r[0] & 0xff) < 52) {
		*pte = (u64)frame[0] | P | W | 1ul << 51;
		invlpg((void *)va);
		load(va);
		denied_reserved(0);
		CHECK_EQ(trap.cr2, va);
		trap_clear();
		__asm__ volatile(TRY("movq $2, (%0)")::"r"(va) : "memory");
		denied_reserved(PFE_W);
	}
	*pte = 0;
	*pde = 0x600000 | 0x2000 | P | W | PS; /* address bit 13 of a 2 MiB page is reserved */
	invlpg((void *)(TEST_VA + 0x90000000));
	load(TEST_VA + 0x90000000);
	denied_reserved(0);
	*pde = 0;
	invlpg((void *)(TEST_VA + 0x90000000));
}

void guest_main(void)
{
	for (u64 i = 0; i < 4; i++) {
		frame[i] = page_alloc();
		frame[i][0] = i;
	}
	*paging_entry(paging_root(), va, 1) = 0;
	other_root = paging_clone();
	((u64 *)other_root)[TEST_VA >> 39] = 0;
	LOOP(remap_and_invlpg);
	LOOP(remap_and_cr3);
	LOOP(becoming_present_needs_no_flush);
	LOOP(more_rights_need_no_flush);
	LOOP(global_pages);
	LOOP(address_spaces);
	if (cpuid_bit(1, 0, 2, 17))
		LOOP(pcids);
	if (cpuid_bit(1, 0, 2, 17) && cpuid_bit(7, 0, 1, 10))
		LOOP(invpcid_types);
	LOOP(large_pages);
	if (cpuid_bit(0x80000001, 0, 3, 26))
		LOOP(huge_pages);
	LOOP(aliases);
	LOOP(reserved_bits);
}
