/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An event whose delivery raises an exception: which of the two arrives, or #DF (SDM vol. 3, 6.15, table 6-5). Every class of a first event,
 * with every way in which its delivery can fail.
 */
#include "lib.h"

#define OTHER_TSS SEL_SPARE
#define NOWHERE (TEST_VA + 0x5000)
#define SOFT 0x61
#define HARD 0x71
#define BAD_IST 7

enum class { BENIGN, CONTRIBUTORY, PAGE_FAULT };

/* ---- the first event ---- */

static u64 divide(u64 unused)
{
	__asm__ volatile("div %0" ::"r"(0ul) : "rax", "rdx");
	return unused;
}

static u64 not_present_segment(u64 unused)
{
	__asm__ volatile("mov %0, %%fs" ::"r"(SEL_SPARE + 0x20));
	return unused;
}

static u64 stack_fault(u64 unused)
{
	__asm__ volatile("mov %%rbp, %%rcx; mov %0, %%rbp; mov (%%rbp), %%rax; mov %%rcx, %%rbp" ::"r"(1ul << 47) : "rcx", "rax", "memory");
	return unused;
}

static u64 protection(u64 unused)
{
	__asm__ volatile("mov %0, %%fs" ::"r"(SEL_CODE64 | 0x400));
	return unused;
}

static u64 page_fault(u64 unused)
{
	(void)*(volatile u64 *)(NOWHERE + 0x1000);
	return unused;
}

static u64 undefined(u64 unused)
{
	__asm__ volatile("ud2");
	return unused;
}

static u64 breakpoint(u64 unused)
{
	__asm__ volatile("int3");
	return unused;
}

static u64 software(u64 unused)
{
	__asm__ volatile("int %0" ::"i"(SOFT));
	return unused;
}

static u64 interrupt(u64 unused)
{
	apic_write(APIC_ICR, 1u << 18 | HARD);
	__asm__ volatile("sti; nop; nop; cli" ::: "memory");
	return unused;
}

static u64 nmi(u64 unused)
{
	apic_write(APIC_ICR2, apic_read(APIC_ID) & 0xff000000);
	apic_write(APIC_ICR, 1u << 14 | 4u << 8);
	for (u32 i = 0; i < 1000000 && trap.vector == NO_TRAP; i++)
		__asm__ volatile("pause");
	return unused;
}

static const struct first {
	u64 (*raise)(u64);
	u32 vector;
	enum class class;
	u32 ext; /* of error codes that its delivery raises */
} firsts[] = {
	{divide, DE, CONTRIBUTORY, 1},	    {not_present_segment, NP, CONTRIBUTORY, 1},
	{stack_fault, SS, CONTRIBUTORY, 1}, {protection, GP, CONTRIBUTORY, 1},
	{page_fault, PF, PAGE_FAULT, 1},    {undefined, UD, BENIGN, 1},
	{breakpoint, BP, BENIGN, 0},	    {software, SOFT, BENIGN, 0},
	{interrupt, HARD, BENIGN, 1},	    {nmi, NMI, BENIGN, 1},
};

/* ---- what is wrong with its gate ---- */

static void no_gate(struct idt_gate *g)
{
	g->type = 0x0e;
}
static void bad_type(struct idt_gate *g)
{
	g->type = 0x85;
}
static void null_selector(struct idt_gate *g)
{
	g->sel = 0;
}
static void data_selector(struct idt_gate *g)
{
	g->sel = SEL_DATA;
}
static void absent_code(struct idt_gate *g)
{
	g->sel = SEL_SPARE + 0x18;
}
static void wild_entry(struct idt_gate *g)
{
	g->off2 = 0x8000;
}
static void unmapped_stack(struct idt_gate *g)
{
	g->ist = BAD_IST;
	tss.ist[BAD_IST - 1] = NOWHERE;
}
static void wild_stack(struct idt_gate *g)
{
	g->ist = BAD_IST;
	tss.ist[BAD_IST - 1] = 1ul << 47;
}
static void short_tss(struct idt_gate *g)
{
	g->ist = BAD_IST;
}

#define ERR_GATE 0xf000 /* the gate's index; the others are error codes as they are */

static const struct second {
	void (*spoil)(struct idt_gate *g);
	u32 vector;
	enum class class;
	u32 error; /* EXT is added */
} seconds[] = {
	{no_gate, NP, CONTRIBUTORY, ERR_GATE},
	{bad_type, GP, CONTRIBUTORY, ERR_GATE},
	{null_selector, GP, CONTRIBUTORY, 0},
	{data_selector, GP, CONTRIBUTORY, SEL_DATA},
	{absent_code, NP, CONTRIBUTORY, SEL_SPARE + 0x18},
	{wild_entry, GP, CONTRIBUTORY, 0},
	{unmapped_stack, PF, PAGE_FAULT, PFE_W},
	{wild_stack, SS, CONTRIBUTORY, 0},
	{short_tss, TS, CONTRIBUTORY, OTHER_TSS},
};

static bool doubles(enum class first, enum class second)
{
	return second != BENIGN && (first == PAGE_FAULT || (first == CONTRIBUTORY && second == CONTRIBUTORY));
}

/* A TSS that ends before its last stack. Its stacks are the other's. */
static void load_tss(bool with_all_stacks)
{
	u64 limit = with_all_stacks ? 0x67 : 0x24 + 8 * (BAD_IST - 1) + 6, base = (u64)&tss;

	gdt[OTHER_TSS / 8] = limit | (base & 0xffffff) << 16 | 0x89ul << 40 | (base >> 24 & 0xff) << 56;
	gdt[OTHER_TSS / 8 + 1] = base >> 32;
	__asm__ volatile("ltr %w0" ::"r"(OTHER_TSS) : "memory");
}

/* QEMU forgets EXT and multiplies a gate's index by 16 (sometimes by 8). */
static void check_error(const struct first *f, const struct second *s)
{
	u64 error = s->error == ERR_GATE ? f->vector * 8 + 2 : s->error;

	if (s->class == PAGE_FAULT)
		CHECK_EQ(trap.cr2, NOWHERE - 8);
	else
		error |= f->ext;
	if (!on_qemu_tcg())
		CHECK_EQ(trap.error, error);
}

static void one(const struct first *f, const struct second *s)
{
	struct idt_gate *gate = &idt[f->vector], good = *gate;

	/* The second exception's gate would be as bad. */
	if (f->vector == s->vector)
		return;
	load_tss(s->spoil != short_tss);
	s->spoil(gate);
	trap_clear();
	trap_guarded(f->raise, 0);
	*gate = good;
	if (doubles(f->class, s->class)) {
		TRIED(DF, 0);
	} else {
		CHECK_EQ(trap.vector, s->vector);
		check_error(f, s);
	}
	CHECK_EQ(trap.count, 1);
	CHECK_EQ(trap.frame.cs, SEL_CODE64);
}

/* QEMU 7.2 raises #GP instead of #SS, and enters the handler before it looks at the address. */
static bool left_out(const struct first *f, const struct second *s)
{
	return on_qemu_tcg() && (f->raise == stack_fault || s->spoil == wild_stack || s->spoil == wild_entry);
}

/* An interrupt that could not be delivered is in service all the same. */
static void end_of_interrupt(void)
{
	apic_write(APIC_EOI, 0);
}

static void all_pairs(void)
{
	gdt[(SEL_SPARE + 0x18) / 8] = 0x00af1b000000ffff; /* 64-bit code, not present */
	gdt[(SEL_SPARE + 0x20) / 8] = 0x00cf13000000ffff; /* data, not present */
	for (u32 f = 0; f < ARRAY_SIZE(firsts); f++)
		for (u32 s = 0; s < ARRAY_SIZE(seconds); s++)
			if (!left_out(&firsts[f], &seconds[s])) {
				one(&firsts[f], &seconds[s]);
				end_of_interrupt();
			}
}

/* #DE whose gate leads to an unmapped stack: #PF. That one's gate is bad too: #DF, since a contributory one during #PF doubles. */
static void through_two_steps(void)
{
	struct idt_gate de = idt[DE], pf = idt[PF];

	load_tss(true);
	unmapped_stack(&idt[DE]);
	no_gate(&idt[PF]);
	trap_clear();
	trap_guarded(divide, 0);
	idt[DE] = de;
	idt[PF] = pf;
	TRIED(DF, 0);
	CHECK_EQ(trap.cr2, NOWHERE - 8);
}

/* #UD with a bad gate: #NP, whose gate is bad: contributory by now, so #DF. */
static void benign_to_double(void)
{
	struct idt_gate ud = idt[UD], np = idt[NP];

	no_gate(&idt[UD]);
	bad_type(&idt[NP]);
	trap_clear();
	trap_guarded(undefined, 0);
	idt[UD] = ud;
	idt[NP] = np;
	TRIED(DF, 0);
}

/* Inside a handler nothing doubles: the first one was delivered. */
static bool fault_in_handler(struct trap_frame *f)
{
	__asm__ volatile(TRY("div %0")::"r"(0ul) : "rax", "rdx");
	CHECK_EQ(trap.vector, DE);
	f->rip += 2;
	return true;
}

static void delivered_is_over(void)
{
	trap_clear();
	trap_set_handler(UD, fault_in_handler);
	__asm__ volatile("ud2");
	trap_set_handler(UD, NULL);
	CHECK_EQ(trap.count, 1);
}

void guest_main(void)
{
	apic_enable();
	loop_check("all_pairs", all_pairs, 300);
	LOOP(through_two_steps);
	LOOP(benign_to_double);
	LOOP(delivered_is_over);
}
