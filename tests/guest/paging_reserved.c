/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each bit of an entry of each level, for pages of 4 KiB, 2 MiB and 1 GiB: reserved ones fault with RSVD when the entry is present, whatever else it
 * forbids, ignored ones change nothing. SDM vol. 3, 4.5.4 and tables 4-15 to 4-20; AMD64 APM vol. 2, 5.3 (bit 8 of a PML4 entry is reserved
 * there, and ignored by Intel).
 */
#include "lib.h"

#define EFER 0xc0000080
#define NXE (1ul << 11)

static struct path {
	u64 va;
	u32 leaf;
	u64 *entry[5];
} path[3];
static u32 paths, phys_bits;
static bool amd, gbpages;

enum kind { IGNORED, RESERVED, MEANS_SOMETHING };

static enum kind address_bit(u32 bit, u32 level, bool leaf)
{
	if (bit >= phys_bits)
		return RESERVED;
	if (leaf && level > 1 && bit > 12 && bit < 12 + 9 * (level - 1))
		return RESERVED;
	return MEANS_SOMETHING;
}

static enum kind kind_of(u32 bit, u32 level, bool leaf)
{
	if (bit <= 6)
		return leaf || bit != 6 ? MEANS_SOMETHING : IGNORED;
	if (bit == 7)
		return level == 4 ? RESERVED : MEANS_SOMETHING; /* PS, PAT */
	if (bit == 8 && level == 4)
		return amd ? RESERVED : IGNORED;
	if (bit < 12)
		return IGNORED; /* G too, for what is seen here */
	if (bit < 52)
		return address_bit(bit, level, leaf);
	return bit == 63 ? MEANS_SOMETHING : IGNORED; /* protection keys are off */
}

static u64 loaded;

static void load(u64 va)
{
	trap_clear();
	__asm__ volatile(TRY("mov (%1), %0") : "=r"(loaded) : "r"(va) : "memory");
}

static void refused(const struct path *p, u64 error)
{
	TRIED(PF, (on_qemu_tcg() ? 0 : PFE_P) | PFE_RSVD | error); /* whose walk forgets P */
	CHECK_EQ(trap.cr2, p->va);
}

/* The entry is read-only or not for the user, too: that is not what the fault tells. */
static void reserved_wins(const struct path *p, u64 *entry)
{
	u64 set = *entry;

	*entry = set & ~(W | U);
	invlpg((void *)p->va);
	trap_clear();
	__asm__ volatile(TRY("movb $1, (%0)")::"r"(p->va) : "memory");
	refused(p, PFE_W);
	*entry = set & ~P; /* not present: nothing else counts */
	invlpg((void *)p->va);
	load(p->va);
	TRIED(PF, 0);
	*entry = set;
}

static void one_bit(const struct path *p, u32 level, u32 bit)
{
	u64 *entry = p->entry[level], good = *entry;
	enum kind kind = kind_of(bit, level, level == p->leaf);

	if (kind == MEANS_SOMETHING || good >> bit & 1)
		return;
	*entry = good | 1ul << bit;
	invlpg((void *)p->va);
	load(p->va);
	if (kind == RESERVED) {
		refused(p, 0);
		reserved_wins(p, entry);
	} else {
		TRIED(NO_TRAP, 0);
		CHECK_EQ(loaded, 0x600d);
	}
	*entry = good;
	invlpg((void *)p->va);
}

static void every_bit(void)
{
	for (u32 i = 0; i < paths; i++)
		for (u32 level = 4; level >= path[i].leaf; level--)
			for (u32 bit = 7; bit < 64; bit++)
				one_bit(&path[i], level, bit);
}

/* Bit 63 is reserved while EFER.NXE is off, at every level. */
static void nx_without_nxe(void)
{
	u64 efer = rdmsr(EFER);

	wrmsr(EFER, efer & ~NXE);
	for (u32 i = 0; i < paths; i++)
		for (u32 level = 4; level >= path[i].leaf; level--) {
			*path[i].entry[level] |= NX;
			invlpg((void *)path[i].va);
			load(path[i].va);
			refused(&path[i], 0);
			*path[i].entry[level] &= ~NX;
			invlpg((void *)path[i].va);
			load(path[i].va);
			TRIED(NO_TRAP, 0);
		}
	wrmsr(EFER, efer);
}

/* A 1 GiB page where there are none. */
static void no_huge_pages(void)
{
	static u64 table[512] PAGE_ALIGNED;
	u64 *entry = paging_entry(paging_root(), TEST_VA + (9ul << 30), 3);

	*entry = (u64)table | P | W | PS;
	load(TEST_VA + (9ul << 30));
	TRIED(PF, PFE_P | PFE_RSVD);
	*entry = 0;
}

static void prepare(u64 va, u32 leaf, u64 frame)
{
	struct path *p = &path[paths++];

	p->va = va;
	p->leaf = leaf;
	*paging_entry(paging_root(), va, leaf) = frame | (leaf > 1 ? PS : 0) | P | W | U;
	for (u32 l = 4; l >= leaf; l--)
		p->entry[l] = paging_entry(paging_root(), va, l);
	*(volatile u64 *)va = 0x600d;
}

void guest_main(void)
{
	u32 r[4];

	cpuid(0, 0, r);
	amd = r[1] == 0x68747541 && !on_qemu_tcg(); /* which says AMD and ignores the bit */
	cpuid(0x80000008, 0, r);
	phys_bits = r[0] & 0xff;
	gbpages = cpuid_bit(0x80000001, 0, 3, 26);
	prepare(TEST_VA + 0x123000, 1, (u64)page_alloc());
	prepare(2 * TEST_VA, 2, 0x600000);
	if (gbpages)
		prepare(3 * TEST_VA + 0x600000, 3, 0);
	loop_check("every_bit", every_bit, 500);
	LOOP(nx_without_nxe);
	if (!gbpages)
		LOOP(no_huge_pages);
}
