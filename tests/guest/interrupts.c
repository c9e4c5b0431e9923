/* SPDX-License-Identifier: Apache-2.0 */
/* When interrupts come: IF, the shadows of STI and MOV SS, TPR, priorities, NMI blocked until IRET, HLT. */
#include "lib.h"

#define SELF (1u << 18)
#define NMI_MODE (4u << 8)
#define LOW 0x51
#define HIGH 0x91

static volatile u64 order[8], norder, int_rip;

static bool note(struct trap_frame *f)
{
	if (norder < ARRAY_SIZE(order))
		order[norder] = f->vector;
	norder++;
	int_rip = f->rip;
	if (f->vector != NMI)
		apic_write(APIC_EOI, 0);
	return true;
}

static void send_self(u32 vector)
{
	apic_write(APIC_ICR, SELF | vector);
}

static void start(void)
{
	norder = 0;
	trap_set_handler(LOW, note);
	trap_set_handler(HIGH, note);
	trap_set_handler(NMI, note);
}

static void if_holds_back(void)
{
	start();
	send_self(LOW);
	for (volatile u32 i = 0; i < 20; i++)
		;
	CHECK_EQ(norder, 0);
	sti();
	__asm__ volatile("nop; nop");
	cli();
	CHECK_EQ(norder, 1);
	CHECK_EQ(order[0], LOW);
}

extern const u8 sti_here[], sti_next[];
static void sti_shadow(void)
{
	start();
	send_self(LOW);
	__asm__ volatile("sti; sti_here: nop\nsti_next: nop; nop; cli" ::: "memory");
	CHECK_EQ(norder, 1);
	CHECK_EQ(int_rip, (u64)sti_next); /* not before the instruction behind STI has run */
	/* STI, CLI: no interrupt gets in between */
	start();
	send_self(LOW);
	for (u32 i = 0; i < 10; i++)
		__asm__ volatile("sti; cli" ::: "memory");
	CHECK_EQ(norder, 0);
	sti();
	__asm__ volatile("nop; nop");
	cli();
	CHECK_EQ(norder, 1);
}

/* As functions end that enable interrupts: with one waiting, and without. */
extern const u8 sti_ret_back[];
__attribute__((noinline)) static void call_sti_ret(void)
{
	__asm__ volatile("call 2f\nsti_ret_back: nop; cli; jmp 3f\n2: sti; ret\n3:" ::: "memory");
}

static void sti_ret(void)
{
	for (u32 i = 0; i < 4; i++) {
		start();
		if (i & 1)
			send_self(LOW);
		call_sti_ret();
		CHECK_EQ(norder, i & 1);
		if (norder)
			CHECK_EQ(int_rip, (u64)sti_ret_back); /* RET has run */
	}
}

static void popf_has_no_shadow(void)
{
	start();
	send_self(LOW);
	flags_set(flags_get() | 0x200);
	cli();
	CHECK_EQ(norder, 1);
}

static void higher_first(void)
{
	start();
	send_self(LOW);
	send_self(HIGH);
	sti();
	__asm__ volatile("nop; nop; nop");
	cli();
	CHECK_EQ(norder, 2);
	CHECK_EQ(order[0], HIGH);
	CHECK_EQ(order[1], LOW);
}

static void task_priority(void)
{
	start();
	write_cr8(9);
	send_self(LOW);
	send_self(HIGH);
	sti();
	__asm__ volatile("nop; nop; nop");
	CHECK_EQ(norder, 0);
	write_cr8(8);
	__asm__ volatile("nop; nop; nop");
	CHECK_EQ(norder, 1);
	CHECK_EQ(order[0], HIGH);
	write_cr8(0);
	__asm__ volatile("nop; nop; nop");
	cli();
	CHECK_EQ(norder, 2);
	CHECK_EQ(read_cr8(), 0);
	apic_write(0x80, 0x30);
	CHECK_EQ(read_cr8(), 3);
	apic_write(0x80, 0);
}

/* A handler in service holds back its own class until EOI. */
static volatile u64 nested;
static bool nesting(struct trap_frame *f)
{
	norder++;
	send_self(LOW + 1);
	sti();
	__asm__ volatile("nop; nop; nop");
	cli();
	nested = norder;
	apic_write(APIC_EOI, 0);
	return true;
}

static void in_service(void)
{
	start();
	trap_set_handler(LOW, nesting);
	trap_set_handler(LOW + 1, note);
	send_self(LOW);
	sti();
	__asm__ volatile("nop; nop; nop");
	cli();
	CHECK_EQ(nested, 1);
	CHECK_EQ(norder, 2);
}

static volatile u64 nmis, nmis_inside;

/* By destination: the self shorthand is for fixed vectors. */
static void send_nmi(void)
{
	apic_write(APIC_ICR2, apic_read(APIC_ID) & 0xff000000);
	apic_write(APIC_ICR, NMI_MODE | 1u << 14);
}

static void wait_for(volatile u64 *counter, u64 at_least)
{
	for (u32 i = 0; i < 1000000 && *counter < at_least; i++)
		__asm__ volatile("pause");
	CHECK_EQ(*counter, at_least);
}

static bool nmi_again(struct trap_frame *f)
{
	nmis++;
	if (nmis == 1) {
		send_nmi();
		for (volatile u32 i = 0; i < 50; i++)
			;
		nmis_inside = nmis;
	}
	return true;
}

static void second_nmi_waits(void)
{
	nmis = nmis_inside = 0;
	trap_set_handler(NMI, nmi_again);
	send_nmi();
	wait_for(&nmis, 2);
	CHECK_EQ(nmis_inside, 1);
}

static void nmi_ignores_if(void)
{
	start();
	cli();
	send_nmi();
	wait_for(&norder, 1);
	CHECK_EQ(order[0], NMI);
}

static void hlt_wakes(void)
{
	extern const u8 hlt_next[];

	start();
	send_self(LOW);
	__asm__ volatile("sti; hlt\nhlt_next: cli" ::: "memory");
	CHECK_EQ(norder, 1);
	CHECK_EQ(int_rip, (u64)hlt_next);
}

UTEXT static u64 user_spin(u64 flag)
{
	while (!*(volatile u32 *)flag)
		;
	return 9;
}

static volatile u32 stop_spinning UDATA;
static bool stop_user(struct trap_frame *f)
{
	norder++;
	int_rip = f->cs;
	stop_spinning = 1;
	apic_write(APIC_EOI, 0);
	return true;
}

/* An interrupt that arrives while ring 3 runs a chained loop */
static void interrupts_a_user_loop(void)
{
	norder = 0;
	stop_spinning = 0;
	trap_set_handler(LOW, stop_user);
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, LOW);
	apic_write(APIC_TMICT, 20000);
	CHECK_EQ(user_call_flags(user_spin, (u64)&stop_spinning, 0x200), 9);
	CHECK_EQ(norder, 1);
	CHECK_EQ(int_rip, SEL_UCODE64);
}

static volatile u32 stop_kernel;
static bool stop_loop(struct trap_frame *f)
{
	stop_kernel = 1;
	apic_write(APIC_EOI, 0);
	return true;
}

static void interrupts_a_tight_loop(void)
{
	stop_kernel = 0;
	trap_set_handler(LOW, stop_loop);
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, LOW);
	apic_write(APIC_TMICT, 20000);
	sti();
	while (!stop_kernel)
		;
	cli();
}

void guest_main(void)
{
	apic_enable();
	LOOP(if_holds_back);
	if (!on_qemu_svm()) { /* which forgets the shadow at an exit */
		LOOP(sti_shadow);
		LOOP(sti_ret);
	}
	LOOP(popf_has_no_shadow);
	LOOP(higher_first);
	LOOP(task_priority);
	LOOP(in_service);
	LOOP(second_nmi_waits);
	LOOP(nmi_ignores_if);
	if (!on_qemu_svm()) /* the shadow between STI and HLT, too */
		LOOP(hlt_wakes);
	loop_check("interrupts_a_user_loop", interrupts_a_user_loop, 200);
	loop_check("interrupts_a_tight_loop", interrupts_a_tight_loop, 200);
}
