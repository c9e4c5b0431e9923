/* SPDX-License-Identifier: Apache-2.0 */
/* Modes that a 64-bit system leaves behind: protected mode without paging, 32-bit and PAE paging, virtual-8086 and real mode; and the way
 * back. */
#include "lib.h"

void legacy_call(void *routine);
extern u8 legacy_instructions[], legacy_exceptions[], legacy_limits[], legacy_ring3[], legacy_v86[], legacy_paging[], legacy_real[];
extern u8 legacy_trap_entries[], legacy_ring0_stack_top[];
extern u32 legacy_results[64], legacy_traps[4], legacy_mode_cr3, legacy_mode_cr4;
extern u64 legacy_idt[256];
extern u32 legacy_tss[];
extern u32 legacy_page_directory[1024];
extern u64 legacy_pdpt[512], legacy_pae_directory[512];

#define TSS32_SIZE 104

static void build(void)
{
	u64 tss_at = (u64)legacy_tss;

	__asm__ volatile("lldt %w0" ::"r"(0));
	for (u32 v = 0; v < 65; v++) {
		u64 at = (u64)legacy_trap_entries + 16 * v;

		legacy_idt[v] = (at & 0xffff) | SEL_CODE32 << 16 | 0xee00ul << 32 | (at >> 16) << 48;
	}
	gdt[0x58 / 8] = 0x000093000000ffff; /* 16-bit data, 64 KiB at 0 */
	gdt[0x60 / 8] = (TSS32_SIZE - 1) | (tss_at & 0xffffff) << 16 | 0x89ul << 40 | (tss_at >> 24 & 0xff) << 56;
	legacy_tss[1] = (u32)(u64)legacy_ring0_stack_top;
	legacy_tss[2] = SEL_DATA;
	legacy_tss[25] = TSS32_SIZE << 16;
}

static void run(void *routine)
{
	memset(legacy_results, 0, sizeof(legacy_results));
	memset(legacy_traps, 0, sizeof(legacy_traps));
	gdt[0x60 / 8] &= ~(2ul << 40); /* not busy */
	legacy_call(routine);
	gdt[SEL_TSS / 8] &= ~(2ul << 40);
	__asm__ volatile("ltr %w0" ::"r"(SEL_TSS) : "memory");
	CHECK_EQ(legacy_results[59], 0);
}

#define R(n, want) CHECK_EQ(((volatile u32 *)legacy_results)[n], want)

static void instructions(void)
{
	run(legacy_instructions);
	R(0, 0x0105);
	R(1, 0x0109); /* 0 - 1 = ff, low nibble above 9: al 9, ah less 1 */
	R(2, 0x14);   /* 79 + 35 = 114 decimal */
	R(3, 0x15);   /* CF, PF, AF */
	R(4, 0x88);
	R(5, 0x0c03);
	R(6, 97);
	R(7, 0x1111);
	R(8, 0x7777);
	R(9, 0x8888);
	R(10, 0x2222);
	R(11, 0x11);
	R(12, 0x8887);
	R(13, 0xff);
	R(14, 0x13);
	R(15, SEL_DATA);
	R(16, 0x12345678);
	R(17, 0xcafe);
	R(18, 3);
	R(19, 0x10000);
	R(20, 2);
	R(21, 0x1234);
}

static void exceptions(void)
{
	run(legacy_exceptions);
	R(0, BR);
	R(1, OF);
	R(2, UD);
	R(3, 0);
	R(4, GP);
	R(5, 0x74); /* RPL is not part of the error code */
	R(6, 0x40);
	R(7, 1);
}

static void limits(void)
{
	*(volatile u32 *)0xfffc = 0x11223344;
	run(legacy_limits);
	R(0, GP);
	R(1, 0);
	R(2, 0x11223344);
}

static void ring3(void)
{
	run(legacy_ring3);
	R(0, 0x3333);
	R(1, 0x40);
	R(2, GP);
	R(3, SEL_DATA);
	CHECK_EQ(legacy_traps[0], 2);
}

static void v86(void)
{
	*(volatile u16 *)0x8010 = 0;
	run(legacy_v86);
	CHECK_EQ(((volatile u32 *)legacy_results)[0] & 0xffff, 0x123);
	CHECK_EQ(((volatile u32 *)legacy_results)[1] & 0xffff, 0x5678);
	R(2, 0x40);
	R(3, 0x20000);
	CHECK_EQ(*(volatile u16 *)0x8010, 0x5678);
}

static void check_paging(void)
{
	run(legacy_paging);
	legacy_mode_cr3 = legacy_mode_cr4 = 0;
	R(0, 0x13579bdf);
	R(1, 0x2468ace0);
	R(2, PF);
	R(3, 0);
	R(4, 0x80000000);
	R(5, PF);
	R(6, PFE_P | PFE_W);
}

/* 4 MiB pages */
static void paging_32bit(void)
{
	memset(legacy_page_directory, 0, 4096);
	legacy_page_directory[0] = 0 | P | W | PS;
	legacy_page_directory[1] = 0x400000 | P | W | PS;
	legacy_page_directory[0x101] = 0x400000 | P | W | PS;
	legacy_page_directory[0x102] = 0x400000 | P | PS;
	legacy_mode_cr3 = (u32)(u64)legacy_page_directory;
	legacy_mode_cr4 = 0x610; /* PSE */
	check_paging();
}

/* 4 KiB pages */
static void paging_32bit_small(void)
{
	static u32 table[1024] PAGE_ALIGNED;

	memset(legacy_page_directory, 0, 4096);
	for (u32 i = 0; i < 1024; i++)
		table[i] = (0x400000 + i * 4096) | P | W;
	legacy_page_directory[0] = 0 | P | W | PS;
	legacy_page_directory[1] = 0x400000 | P | W | PS;
	legacy_page_directory[0x101] = (u32)(u64)table | P | W;
	legacy_page_directory[0x102] = (u32)(u64)table | P;
	legacy_mode_cr3 = (u32)(u64)legacy_page_directory;
	legacy_mode_cr4 = 0x610;
	check_paging();
}

/* PAE: 2 MiB pages */
static void paging_pae(void)
{
	memset(legacy_pdpt, 0, 4096);
	memset(legacy_pae_directory, 0, 4096);
	legacy_pdpt[0] = legacy_pdpt[1] = (u64)legacy_pae_directory | P; /* the same directory twice: 1 GiB is 0 again */
	for (u64 i = 0; i < 4; i++)
		legacy_pae_directory[i] = i * 0x200000 | P | W | PS;
	legacy_pae_directory[4] = 0x400000 | P | PS;
	legacy_mode_cr3 = (u32)(u64)legacy_pdpt;
	legacy_mode_cr4 = 0x620;
	check_paging();
}

static void real_mode(void)
{
	const volatile u16 *r = (u16 *)0x6000;

	run(legacy_real);
	CHECK_EQ(r[0], 0xabcd);
	CHECK_EQ(r[1], 7);
	CHECK_EQ(r[2], 1); /* IRET brought CF back */
	CHECK_EQ(r[3], 0);
	CHECK_EQ(r[4], 0x4242);
	CHECK_EQ(*(const volatile u32 *)0x600c, 0x34567812);
	CHECK_EQ(r[10], 0x7812);
	CHECK_EQ(*(const volatile u32 *)0x6018, 0x34567812);
	CHECK_EQ(r[14], 0x601c);
	CHECK_EQ(r[15], 0x700);
	CHECK_EQ(r[16], 16);
	CHECK_EQ(r[17], 0xfffe);
	CHECK_EQ(r[18], 639);
	CHECK_EQ(r[19] >> 8, 0x86);
	CHECK_EQ(r[20], 1);
}

void guest_main(void)
{
	build();
	loop_check("instructions", instructions, 200);
	loop_check("exceptions", exceptions, 200);
	if (!on_qemu_tcg()) /* which checks no limits */
		loop_check("limits", limits, 200);
	loop_check("ring3", ring3, 200);
	loop_check("v86", v86, 200);
	loop_check("paging_32bit", paging_32bit, 200);
	loop_check("paging_32bit_small", paging_32bit_small, 200);
	loop_check("paging_pae", paging_pae, 200);
	loop_check("real_mode", real_mode, 200);
}
