/* SPDX-License-Identifier: Apache-2.0 */
/*
 * REP MOVS and STOS that run from RAM into a device, out of it, and into a fault in the middle: what was done is done once, the registers
 * say how much, and the instruction can go on. The device is the I/O APIC: a select register at 0, a window at 0x10.
 */
#include "lib.h"

#define IOAPIC 0xfec00000ul
#define SELECT (*(volatile u32 *)IOAPIC)
#define WINDOW (*(volatile u32 *)(IOAPIC + 0x10))
#define REDIR5 (0x10 + 2 * 5)
#define MASKED (1u << 16)
#define RAM_PART 11 /* dwords before the device */

static const u64 va = TEST_VA + 0x300000;
static u8 *ram, *source[2], *third;

/* A page of RAM, then the I/O APIC; the source runs over two pages. */
static void layout(void)
{
	paging_map(va, (u64)ram, P | W);
	paging_map(va + PAGE, IOAPIC, P | W | PCD);
	paging_map(va + 4 * PAGE, (u64)source[0], P | W);
	paging_map(va + 5 * PAGE, (u64)source[1], P | W);
	memset(ram, 0, PAGE);
	memset(source[0], 0, PAGE);
	memset(source[1], 0, PAGE);
	SELECT = REDIR5;
	WINDOW = MASKED;
}

static u32 *dword(u8 *page0, u8 *page1, u64 at)
{
	return (u32 *)((at < PAGE ? page0 : page1) + at % PAGE);
}

/* Numbers for RAM, then what selects and fills the redirection entry. `at` is the offset in the two pages. */
static void write_source(u64 at, u32 entry)
{
	static const u32 gap = 0x77;

	for (u32 i = 0; i < RAM_PART + 5; i++, at += 4)
		*dword(source[0], source[1], at) = i < RAM_PART ? 100 + i : i == RAM_PART ? REDIR5 : i == RAM_PART + 4 ? entry : gap;
}

static void check_ram(u32 first)
{
	for (u32 i = 0; i < RAM_PART; i++)
		CHECK_EQ(*(u32 *)(ram + PAGE - 4 * RAM_PART + 4 * i), first + (first == 100 ? i : 0));
	CHECK_EQ(*(u32 *)(ram + PAGE - 4 * RAM_PART - 4), 0);
}

static u32 entry5(void)
{
	SELECT = REDIR5;
	return WINDOW & (MASKED | 0xff);
}

static void movs_into_device(void)
{
	u64 di = va + PAGE - 4 * RAM_PART, si = va + 4 * PAGE + 64, cx = RAM_PART + 5;
	u32 entry = MASKED | (0x20 + (loop_count & 0x7f));

	layout();
	SELECT = 0;
	write_source(64, entry);
	__asm__ volatile("rep movsl" : "+D"(di), "+S"(si), "+c"(cx)::"memory");
	CHECK_EQ(cx, 0);
	CHECK_EQ(di, va + PAGE + 20);
	CHECK_EQ(si, va + 4 * PAGE + 64 + 4 * (RAM_PART + 5));
	check_ram(100);
	CHECK_EQ(entry5(), entry);
}

static void stos_into_device(void)
{
	u64 di = va + PAGE - 4 * RAM_PART, cx = RAM_PART + 4;

	layout();
	SELECT = 0;
	__asm__ volatile("rep stosl" : "+D"(di), "+c"(cx) : "a"(REDIR5) : "memory");
	CHECK_EQ(cx, 0);
	CHECK_EQ(di, va + PAGE + 16);
	check_ram(REDIR5);
	CHECK_EQ(SELECT & 0xff, REDIR5);
	CHECK_EQ(WINDOW & (MASKED | 0xff), MASKED); /* not reached */
}

static void movs_out_of_device(void)
{
	u64 di = (u64)source[0] + 4, si = va + PAGE - 8, cx = 3;

	layout();
	*(u64 *)(ram + PAGE - 8) = 0x1122334455667788ul;
	__asm__ volatile("rep movsl" : "+D"(di), "+S"(si), "+c"(cx)::"memory");
	CHECK_EQ(cx, 0);
	CHECK_EQ(((u32 *)source[0])[1], 0x55667788);
	CHECK_EQ(((u32 *)source[0])[2], 0x11223344);
	CHECK_EQ(((u32 *)source[0])[3] & 0xff, REDIR5);
	CHECK_EQ(((u32 *)source[0])[4], 0);
}

/* The source ends when two dwords have reached the device; the handler's work done, the instruction goes on there. */
static void source_faults_while_in_device(void)
{
	const u32 before = RAM_PART + 2;
	u64 di = va + PAGE - 4 * RAM_PART, si = va + 5 * PAGE - 4 * before, cx = RAM_PART + 5;
	u32 entry = MASKED | (0x20 + (loop_count & 0x7f));

	layout();
	SELECT = 0;
	write_source(PAGE - 4 * before, entry);
	paging_map(va + 5 * PAGE, 0, 0);
	trap_clear();
	__asm__ volatile(TRY("rep movsl") : "+D"(di), "+S"(si), "+c"(cx)::"memory");
	TRIED(PF, 0);
	CHECK_EQ(trap.cr2, va + 5 * PAGE);
	CHECK_EQ(cx, 3);
	CHECK_EQ(di, va + PAGE + 8);
	CHECK_EQ(si, va + 5 * PAGE);
	CHECK_EQ(SELECT & 0xff, REDIR5);
	CHECK_EQ(WINDOW & (MASKED | 0xff), MASKED);
	paging_map(va + 5 * PAGE, (u64)source[1], P | W);
	trap_clear();
	__asm__ volatile(TRY("rep movsl") : "+D"(di), "+S"(si), "+c"(cx)::"memory");
	TRIED(NO_TRAP, 0);
	CHECK_EQ(cx, 0);
	check_ram(100);
	CHECK_EQ(entry5(), entry);
}

/* Two pages take the bytes, the third refuses. */
static void stos_stops_at_the_third_page(void)
{
	u64 di = va + 8 * PAGE + 3, cx = 3 * PAGE;

	paging_map(va + 8 * PAGE, (u64)ram, P | W);
	paging_map(va + 9 * PAGE, (u64)source[0], P | W);
	paging_map(va + 10 * PAGE, (u64)third, P);
	memset(ram, 0, PAGE);
	memset(source[0], 0, PAGE);
	trap_clear();
	__asm__ volatile(TRY("rep stosb") : "+D"(di), "+c"(cx) : "a"(0x5a) : "memory");
	TRIED(PF, PFE_P | PFE_W);
	CHECK_EQ(trap.cr2, va + 10 * PAGE);
	CHECK_EQ(di, va + 10 * PAGE);
	CHECK_EQ(cx, PAGE + 3);
	CHECK(ram[2] == 0 && ram[3] == 0x5a && ram[PAGE - 1] == 0x5a);
	CHECK(source[0][0] == 0x5a && source[0][PAGE - 1] == 0x5a);
	CHECK_EQ(third[0], 0);
}

/* An element that crosses from a page that takes it into one that does not: none of it is stored. */
static void element_across_the_fault(void)
{
	u64 di = va + 9 * PAGE - 20, cx = 8;

	paging_map(va + 8 * PAGE, (u64)ram, P | W);
	paging_map(va + 9 * PAGE, (u64)third, P);
	memset(ram, 0, PAGE);
	trap_clear();
	__asm__ volatile(TRY("rep stosq") : "+D"(di), "+c"(cx) : "a"(~0ul) : "memory");
	TRIED(PF, PFE_P | PFE_W);
	CHECK_EQ(trap.cr2, va + 9 * PAGE);
	CHECK_EQ(cx, 6);
	CHECK_EQ(di, va + 9 * PAGE - 4);
	CHECK_EQ(*(u32 *)(ram + PAGE - 4), 0);
	CHECK_EQ(*(u64 *)(ram + PAGE - 12), ~0ul);
	CHECK_EQ(third[0], 0);
}

void guest_main(void)
{
	ram = page_alloc();
	source[0] = page_alloc();
	source[1] = page_alloc();
	third = page_alloc();
	LOOP(movs_into_device);
	LOOP(stos_into_device);
	LOOP(movs_out_of_device);
	LOOP(source_faults_while_in_device);
	LOOP(stos_stops_at_the_third_page);
	LOOP(element_across_the_fault);
}
