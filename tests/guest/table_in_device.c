/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A page table that lies in a device: the local APIC's registers, where the initial count serves as an entry. The walk reads it through the
 * bus, and the entry takes no dirty bit. Nobody does this on purpose; a monitor must neither hang nor store where the entry does not point.
 */
#include "lib.h"

#define APIC_PAGE 0xfee00000ul
#define ENTRY (APIC_TMICT / 8) /* which entry of the table the register is */

static const u64 va = TEST_VA + 0x40000000ul + ENTRY * PAGE;
static u8 *page[2];

static void point_at(u8 *to, u64 flags)
{
	apic_write(APIC_TMICT, (u32)(u64)to | (u32)flags);
	write_cr3(read_cr3());
}

static void loads_and_stores(void)
{
	for (u32 i = 0; i < 2; i++) {
		point_at(page[i], P | W | A);
		*(volatile u64 *)(va + 64) = loop_count * 2 + i;
		CHECK_EQ(*(volatile u64 *)(va + 64), loop_count * 2 + i);
		CHECK_EQ(*(volatile u64 *)(page[i] + 64), loop_count * 2 + i);
	}
	CHECK_EQ(*(volatile u64 *)(page[0] + 64), loop_count * 2);
}

static void strings(void)
{
	for (u32 i = 0; i < 2; i++) {
		u64 di = va + 16, cx = 40, si = va + 16;

		memset(page[i], 0, 256);
		point_at(page[i], P | W | A);
		__asm__ volatile("rep stosb" : "+D"(di), "+c"(cx) : "a"(0x5a + i) : "memory");
		CHECK_EQ(di, va + 56);
		di = va + 128;
		cx = 5;
		__asm__ volatile("rep movsq" : "+D"(di), "+S"(si), "+c"(cx)::"memory");
		for (u32 k = 0; k < 40; k++)
			CHECK(page[i][16 + k] == 0x5a + i && page[i][128 + k] == 0x5a + i);
		CHECK(page[i][15] == 0 && page[i][56] == 0 && page[i][168] == 0);
	}
}

static void rights_count(void)
{
	memset(page[0], 0x11, 64);
	point_at(page[0], P | A);
	CHECK_EQ(*(volatile u8 *)va, 0x11);
	trap_clear();
	__asm__ volatile(TRY("movb $0, (%0)")::"r"(va) : "memory");
	TRIED(PF, PFE_P | PFE_W);
	CHECK_EQ(page[0][0], 0x11);
	point_at(page[0], 0);
	trap_clear();
	__asm__ volatile(TRY("movb (%0), %%al")::"r"(va) : "rax", "memory");
	TRIED(PF, 0);
}

void guest_main(void)
{
	if (in_qemu())
		guest_skip("QEMU reads the APIC only in its own register size");
	page[0] = page_alloc();
	page[1] = page_alloc();
	apic_enable();
	apic_write(APIC_LVTT, 1u << 16);
	*paging_entry(paging_root(), va, 2) = APIC_PAGE | P | W | A | PCD;
	LOOP(loads_and_stores);
	LOOP(strings);
	LOOP(rights_count);
}
