/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every way to reset the machine: each time this guest starts anew, with chips and registers as after power-on, whatever was done to them; only the
 * battery-backed RAM of the clock keeps count. Port CF9h, the keyboard controller, port 92h, a triple fault by each kind of double fault.
 */
#include "pci.h"

#define IOAPIC 0xfec00000ul
#define CMOS_ROUND 0x60 /* of the bytes that nobody uses; 5Ah beside it says that it is ours */
#define CMOS_OURS 0x61
#define MSR_LSTAR 0xc0000082
#define MSR_FS_BASE 0xc0000100
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_SYSENTER_CS 0x174
#define MSR_APIC_BASE 0x1b

static u8 cmos(u8 at)
{
	outb(0x70, at);
	return inb(0x71);
}

static void set_cmos(u8 at, u8 v)
{
	outb(0x70, at);
	outb(0x71, v);
}

/* ---- ways ---- */

static void by_cf9(void)
{
	outb(0xcf9, 2);
	outb(0xcf9, 6);
}

static void by_keyboard(void)
{
	outb(0x64, 0xfe);
}

static void by_port_92(void)
{
	outb(0x92, 0);
	outb(0x92, 1);
}

static void by_no_idt(void)
{
	struct dtr none = {0, 0};

	__asm__ volatile("lidt %0; ud2" ::"m"(none));
}

/* The stack of #DF is not there, nor is the one of the fault before it. */
static void by_bad_stacks(void)
{
	tss.ist[0] = TEST_VA;
	__asm__ volatile("mov %0, %%rsp; push %%rax" ::"r"(TEST_VA + 0x1000));
}

static void by_missing_gates(void)
{
	idt[GP].type = idt[DF].type = idt[NP].type = 0;
	__asm__ volatile("mov %0, %%ds" ::"r"(0x1000));
}

/* All page tables are gone. */
static void by_no_tables(void)
{
	static u64 nothing[512] PAGE_ALIGNED;

	write_cr3((u64)nothing);
}

static void (*const way[])(void) = {by_cf9, by_keyboard, by_port_92, by_no_idt, by_bad_stacks, by_missing_gates, by_no_tables};

/* ---- what is to be forgotten ---- */

static u32 ioapic_entry(u32 pin)
{
	*(volatile u32 *)IOAPIC = 0x10 + 2 * pin;
	return *(volatile u32 *)(IOAPIC + 0x10);
}

static void spoil(void)
{
	apic_enable();
	apic_write(APIC_LVTT, 0x20050);
	apic_write(APIC_TMICT, 1000000);
	apic_write(APIC_ICR, 1u << 18 | 0x51);
	*(volatile u32 *)IOAPIC = 0x10 + 2 * 4;
	*(volatile u32 *)(IOAPIC + 0x10) = 0x52;
	outb(0x3f9, 2);
	outb(0x3fc, 8);
	wrmsr(MSR_LSTAR, 0x1234);
	wrmsr(MSR_FS_BASE, 0x5678);
	wrmsr(MSR_KERNEL_GS_BASE, 0x9abc);
	wrmsr(MSR_SYSENTER_CS, 0x10);
	write_dr0(0x1000);
	write_dr7(0x400 | 0xd0002);
	write_cr8(3);
	flags_set(flags_get() | 0x43000); /* AC, IOPL */
}

static void forgotten(void)
{
	CHECK_EQ(rdmsr(MSR_APIC_BASE) & 0xfffff900, 0xfee00900); /* on, and this is the boot processor */
	CHECK_EQ(apic_read(APIC_SPIV) & 0xff, 0xff);
	CHECK_EQ(apic_read(0x80), 0);
	CHECK_EQ(apic_read(APIC_LVTT) & ~0x1ffu, 0x10000); /* masked */
	CHECK_EQ(apic_read(APIC_TMICT), 0);
	CHECK_EQ(apic_read(APIC_TMCCT), 0);
	for (u32 i = 0; i < 8; i++)
		CHECK_EQ(apic_read(0x200 + 16 * i), 0);
	CHECK_EQ(ioapic_entry(4) >> 16 & 1, 1);
	CHECK_EQ(inb(0x3f9), 0);
	CHECK_EQ(rdmsr(MSR_LSTAR), 0);
	CHECK_EQ(rdmsr(MSR_KERNEL_GS_BASE), 0);
	CHECK_EQ(rdmsr(MSR_SYSENTER_CS), 0);
	CHECK_EQ(read_dr0(), 0);
	CHECK_EQ(read_dr7(), 0x400);
	CHECK_EQ(flags_get() & 0x43300, 0);
	CHECK_EQ(read_cr2(), 0);
}

/* Three times round, so that what is left of one way meets each other. */
#define ROUNDS (3 * ARRAY_SIZE(way))

void guest_main(void)
{
	u8 round = cmos(CMOS_OURS) == 0x5a ? cmos(CMOS_ROUND) : 0;

	if (!in_qemu()) /* whose firmware runs before */
		forgotten();
	if (round == ROUNDS)
		return;
	set_cmos(CMOS_OURS, 0x5a);
	set_cmos(CMOS_ROUND, round + 1);
	spoil();
	loop_name = "way";
	loop_count = round % ARRAY_SIZE(way);
	way[round % ARRAY_SIZE(way)]();
	for (u64 begin = rdtsc(); rdtsc() - begin < 10000000000ul;) /* an instant may pass */
		;
	CHECK(!"reset");
}
