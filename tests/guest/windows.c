/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where an interrupt may come in between two instructions, when it arrives at any moment: not behind STI and MOV SS; an NMI not behind MOV SS, and not
 * before an IRET after another NMI, whichever IRET that is; but in HLT with IF clear. SDM vol. 3, 6.7.1, 6.8.1 and 6.8.3.
 */
#include "lib.h"

#define VEC 0x55
#define IOAPIC 0xfec00000ul
#define PIT_PIN 2
#define MODE_NMI (4u << 8)
#define MASKED (1u << 16)

static volatile u64 interrupts, nmis;
static u64 forbidden; /* no interrupt comes before the instruction there */

/* ---- sources: the local APIC's timer, and the PIT as NMI ---- */

static bool on_timer(struct trap_frame *f)
{
	interrupts++;
	CHECK(f->rip != forbidden);
	apic_write(APIC_EOI, 0);
	apic_write(APIC_TMICT, 3000 + (u32)(interrupts * 37 % 500));
	return true;
}

static void timer(bool on)
{
	trap_set_handler(VEC, on_timer);
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, on ? VEC : MASKED);
	apic_write(APIC_TMICT, on ? 3000 : 0);
}

static bool on_nmi(struct trap_frame *f)
{
	nmis++;
	CHECK(f->rip != forbidden);
	return true;
}

static void ioapic_entry(u32 pin, u32 low)
{
	*(volatile u32 *)IOAPIC = 0x11 + 2 * pin;
	*(volatile u32 *)(IOAPIC + 0x10) = apic_read(APIC_ID) & 0xff000000;
	*(volatile u32 *)IOAPIC = 0x10 + 2 * pin;
	*(volatile u32 *)(IOAPIC + 0x10) = low;
}

static void pit_nmi(bool on)
{
	trap_set_handler(NMI, on_nmi);
	outb(0x43, 0x34); /* channel 0, mode 2: 10 kHz */
	outb(0x40, 119);
	outb(0x40, 0);
	ioapic_entry(PIT_PIN, on ? MODE_NMI : MASKED);
}

/* ---- loops of instructions with a shadow ---- */

#define SHADOW(name, insn, next)                                                                                                           \
	extern const u8 name##_next[];                                                                                                     \
	__attribute__((noinline)) static void name(void)                                                                                   \
	{                                                                                                                                  \
		__asm__ volatile("mov $300, %%ecx\n\tmov %%ss, %%eax\n1:\t" insn "\n\t" #name "_next: " next                               \
				 "\n\tdec %%ecx\n\tjnz 1b" ::"m"(selector)                                                                 \
				 : "rax", "rcx", "memory", "cc");                                                                          \
	}

static u16 selector = SEL_DATA;
SHADOW(mov_ss, "mov %%eax, %%ss", "nop")
SHADOW(mov_ss_memory, "mov %0, %%ss", "nop")
SHADOW(cli_sti, "cli; sti", "nop")
SHADOW(cli_sti_load, "cli; sti", "cmpw $0, %0")

static void no_interrupt_before(const u8 *next, void (*loop)(void))
{
	u64 end = interrupts + 30;

	forbidden = (u64)next;
	timer(true);
	sti();
	while (interrupts < end)
		loop();
	cli();
	timer(false);
	forbidden = 0;
}

static void interrupts_at_any_moment(void)
{
	no_interrupt_before(mov_ss_next, mov_ss);
	no_interrupt_before(mov_ss_memory_next, mov_ss_memory);
	no_interrupt_before(cli_sti_next, cli_sti);
	no_interrupt_before(cli_sti_load_next, cli_sti_load);
}

static void nmi_at_any_moment(void)
{
	u64 end = nmis + 10;

	forbidden = (u64)mov_ss_next;
	pit_nmi(true);
	while (nmis < end)
		mov_ss();
	forbidden = 0;
	pit_nmi(false);
}

/* ---- HLT ---- */

extern const u8 halted_next[];
static volatile u64 woken_at;

static bool note_wake(struct trap_frame *f)
{
	woken_at = f->rip;
	nmis++;
	return true;
}

/* IF is clear, and a maskable interrupt waits, too: that does not wake it. */
static void nmi_ends_hlt(void)
{
	u64 before = interrupts;

	apic_write(APIC_ICR, 1u << 18 | VEC);
	trap_set_handler(VEC, on_timer);
	pit_nmi(true);
	trap_set_handler(NMI, note_wake);
	woken_at = 0;
	while (woken_at != (u64)halted_next)
		__asm__ volatile("hlt\nhalted_next: nop" ::: "memory");
	pit_nmi(false);
	CHECK_EQ(interrupts, before);
	sti();
	__asm__ volatile("nop; nop");
	cli();
	CHECK_EQ(interrupts, before + 1);
	apic_write(APIC_TMICT, 0);
}

/* ---- blocked until IRET ---- */

static void send_nmi(void)
{
	apic_write(APIC_ICR2, apic_read(APIC_ID) & 0xff000000);
	apic_write(APIC_ICR, MODE_NMI | 1u << 14);
	for (volatile u32 i = 0; i < 30; i++)
		;
}

/* At least for a while, so that those come that should not; QEMU does not always look at once. */
static void wait_for_nmis(u64 n)
{
	for (volatile u32 i = 0; i < 30 || (nmis < n && i < 1000000); i++)
		;
}

static volatile u64 depth, seen_before_iret, seen_after_iret, awaited;
static void (*inside)(void);

static bool nested_nmi(struct trap_frame *f)
{
	nmis++;
	if (depth++)
		return true;
	send_nmi();
	seen_before_iret = nmis;
	inside();
	wait_for_nmis(awaited);
	seen_after_iret = nmis;
	return true;
}

static bool nothing(struct trap_frame *f)
{
	return true;
}

static void by_exception(void)
{
	__asm__ volatile("int3");
}

static void by_own_iret(void)
{
	__asm__ volatile("mov %%rsp, %%rcx; push $0x10; push %%rcx; pushfq; push $8; lea 1f(%%rip), %%rax; push %%rax; iretq\n1:" ::
				 : "rax", "rcx", "memory");
}

static void by_far_return(void)
{
	__asm__ volatile("push $8; lea 1f(%%rip), %%rax; push %%rax; lretq\n1:" ::: "rax", "memory");
}

static void by_sti(void)
{
	__asm__ volatile("sti; nop; cli");
}

/* The IRET of an exception inside the handler unblocks it as well as the handler's own; far returns, STI and time do not. */
static void until_an_iret(void)
{
	static const struct {
		void (*inside)(void);
		u64 unblocks;
	} way[] = {{by_exception, 1}, {by_own_iret, 1}, {by_far_return, 0}, {by_sti, 0}};

	trap_set_handler(NMI, nested_nmi);
	trap_set_handler(BP, nothing);
	for (u32 i = 0; i < ARRAY_SIZE(way); i++) {
		nmis = depth = 0;
		inside = way[i].inside;
		awaited = 1 + way[i].unblocks;
		send_nmi();
		wait_for_nmis(2);
		CHECK_EQ(seen_before_iret, 1);
		CHECK_EQ(seen_after_iret, awaited);
		CHECK_EQ(nmis, 2);
	}
	trap_set_handler(BP, NULL);
}

/* To ring 3: what waits comes there at once. */
UTEXT static u64 user_nothing(u64 v)
{
	__asm__ volatile("nop; nop; nop");
	return v;
}

static u64 user_rip;

static bool in_ring3(struct trap_frame *f)
{
	nmis++;
	if (f->cs == SEL_UCODE64) {
		user_rip = f->rip;
		return true;
	}
	send_nmi();
	CHECK_EQ(nmis, 1);
	user_call(user_nothing, 1);
	return true;
}

static void iret_to_ring3(void)
{
	u64 rsp0 = tss.rsp[0];
	static u64 stack[512] __attribute__((aligned(16)));

	nmis = user_rip = 0;
	tss.rsp[0] = (u64)(stack + ARRAY_SIZE(stack)); /* the one in use lies elsewhere */
	trap_set_handler(NMI, in_ring3);
	send_nmi();
	wait_for_nmis(2);
	tss.rsp[0] = rsp0;
	CHECK_EQ(nmis, 2);
	CHECK(user_rip != 0);
}

void guest_main(void)
{
	apic_enable();
	if (!on_qemu_svm()) /* which forgets shadows at an exit */
		loop_check("interrupts_at_any_moment", interrupts_at_any_moment, 20);
	if (!on_qemu_tcg()) /* whose NMI knows of no shadow */
		loop_check("nmi_at_any_moment", nmi_at_any_moment, 20);
	loop_check("nmi_ends_hlt", nmi_ends_hlt, 100);
	LOOP(until_an_iret);
	if (!on_qemu_tcg()) /* which lets an NMI into another's handler, once in some ten thousand times */
		LOOP(iret_to_ring3);
}
