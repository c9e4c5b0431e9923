/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Level and edge at an input of the I/O APIC: a level that stays comes again after each EOI and not before, remote IRR tells that it is in service,
 * masks hold back levels and lose edges. The serial port's interrupt (input 4) is the line: its transmitter is always empty.
 * 82093AA datasheet, 3.2.4 and 3.4.2.
 */
#include "lib.h"

#define IOAPIC 0xfec00000ul
#define PIN 4
#define VEC 0x53
#define LEVEL (1u << 15)
#define MASKED (1u << 16)
#define REMOTE_IRR (1u << 14)
#define LOGICAL (1u << 11)
#define MODE_NMI (4u << 8)
#define UART 0x3f8

static u32 ioapic_read(u32 reg)
{
	*(volatile u32 *)IOAPIC = reg;
	return *(volatile u32 *)(IOAPIC + 0x10);
}

static void ioapic_write(u32 reg, u32 v)
{
	*(volatile u32 *)IOAPIC = reg;
	*(volatile u32 *)(IOAPIC + 0x10) = v;
}

static void entry(u32 low)
{
	ioapic_write(0x11 + 2 * PIN, low & LOGICAL ? 1u << 24 : apic_read(APIC_ID) & 0xff000000);
	ioapic_write(0x10 + 2 * PIN, low);
}

static u32 entry_low(void)
{
	return ioapic_read(0x10 + 2 * PIN);
}

/* ---- the line ---- */

static void assert_line(void)
{
	outb(UART + 4, 8); /* OUT2: interrupts leave the chip */
	outb(UART + 1, 2); /* transmitter empty */
}

static void deassert_line(void)
{
	outb(UART + 1, 0);
	(void)inb(UART + 2);
}

/* ---- the handler: it lets the line be until it was called often enough ---- */

static volatile u32 calls, quiet_at, irr_seen;

static bool on_interrupt(struct trap_frame *f)
{
	calls++;
	irr_seen += (entry_low() & REMOTE_IRR) != 0;
	if (calls == quiet_at)
		deassert_line();
	if (f->vector != NMI)
		apic_write(APIC_EOI, 0);
	return true;
}

static void start(u32 low, u32 quiet)
{
	deassert_line();
	entry(MASKED);
	calls = irr_seen = 0;
	quiet_at = quiet;
	trap_set_handler(VEC, on_interrupt);
	trap_set_handler(NMI, on_interrupt);
	entry(low);
}

static void window(void)
{
	sti();
	for (volatile u32 i = 0; i < 30; i++)
		;
	cli();
}

static void stop(void)
{
	deassert_line();
	window();
	entry(MASKED);
}

/* ---- checks ---- */

static void comes_until_it_is_served(void)
{
	start(VEC | LEVEL, 5);
	assert_line();
	window();
	window();
	CHECK_EQ(calls, 5);
	CHECK_EQ(irr_seen, 5);
	CHECK_EQ(entry_low() & REMOTE_IRR, 0);
	stop();
}

/* Nothing new between acceptance and EOI, though the line goes up and down. */
static void in_service(void)
{
	start(VEC | LEVEL, 1);
	assert_line();
	CHECK_EQ(entry_low() & REMOTE_IRR, REMOTE_IRR); /* it waits in the local APIC, since IF is 0 */
	deassert_line();
	assert_line();
	CHECK_EQ(calls, 0);
	window();
	CHECK_EQ(calls, 1);
	stop();
	CHECK_EQ(calls, 1);
}

static void mask_holds_a_level(void)
{
	start(VEC | LEVEL | MASKED, 1);
	assert_line();
	window();
	CHECK_EQ(calls, 0);
	entry(VEC | LEVEL);
	window();
	CHECK_EQ(calls, 1);
	/* Gone again before the mask is: nothing comes. */
	entry(VEC | LEVEL | MASKED);
	assert_line();
	deassert_line();
	entry(VEC | LEVEL);
	window();
	CHECK_EQ(calls, 1);
	stop();
}

static void an_edge_comes_once(void)
{
	start(VEC, 100);
	assert_line();
	window();
	CHECK_EQ(calls, 1);
	CHECK_EQ(irr_seen, 0);
	window();
	CHECK_EQ(calls, 1);
	deassert_line();
	window();
	assert_line();
	window();
	CHECK_EQ(calls, 2);
	stop();
}

static void mask_loses_an_edge(void)
{
	start(VEC | MASKED, 100);
	assert_line();
	entry(VEC);
	window();
	CHECK_EQ(calls, 0);
	stop();
}

static void by_logical_destination(void)
{
	apic_write(0xe0, 0xffffffff); /* DFR: flat */
	apic_write(0xd0, 1u << 24);
	start(VEC | LEVEL | LOGICAL, 2);
	assert_line();
	window();
	CHECK_EQ(calls, 2);
	stop();
}

static void as_nmi(void)
{
	start(VEC | MODE_NMI, 100);
	assert_line();
	for (u32 i = 0; i < 100000 && !calls; i++)
		__asm__ volatile("pause");
	CHECK_EQ(calls, 1);
	stop();
}

/* NMIs have no EOI: a level that goes and comes is another one, and nothing is in service. */
static void as_nmi_by_level(void)
{
	start(VEC | MODE_NMI | LEVEL, 100);
	for (u32 n = 1; n <= 3; n++) {
		assert_line();
		for (u32 i = 0; i < 100000 && calls < n; i++)
			__asm__ volatile("pause");
		CHECK_EQ(calls, n);
		CHECK_EQ(entry_low() & REMOTE_IRR, 0);
		deassert_line();
	}
	stop();
}

/* The task priority keeps it waiting; remote IRR is set from acceptance on. */
static void under_task_priority(void)
{
	start(VEC | LEVEL, 1);
	write_cr8(15);
	assert_line();
	window();
	CHECK_EQ(calls, 0);
	CHECK_EQ(entry_low() & REMOTE_IRR, REMOTE_IRR);
	write_cr8(0);
	window();
	CHECK_EQ(calls, 1);
	stop();
}

void guest_main(void)
{
	apic_enable();
	LOOP(comes_until_it_is_served);
	LOOP(in_service);
	LOOP(mask_holds_a_level);
	LOOP(an_edge_comes_once);
	LOOP(mask_loses_an_edge);
	LOOP(by_logical_destination);
	LOOP(as_nmi);
	if (!in_qemu()) /* which sets remote IRR */
		LOOP(as_nmi_by_level);
	LOOP(under_task_priority);
}
