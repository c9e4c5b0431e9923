/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Data watchpoints and code breakpoints where control is lost and comes back: in the middle of REP, in the frame of an interrupt, in faults that are
 * repaired and repeated, in the kernel behind SYSCALL, behind MOV SS; several at once, across a page, of every length.
 */
#include "lib.h"

#define DR6_CLEAR 0xffff0ff0ul
#define DR6_BS (1ul << 14)
#define RF (1ul << 16)
#define TF (1ul << 8)

enum { EXECUTE, WRITE, IO, ACCESS };

static volatile struct {
	u64 count, rip, dr6, rcx, cs;
} hit;

static bool note(struct trap_frame *f)
{
	hit.count++;
	hit.rip = f->rip;
	hit.rcx = f->rcx;
	hit.cs = f->cs;
	hit.dr6 = read_dr6();
	write_dr6(DR6_CLEAR);
	f->rflags |= RF;
	f->rflags &= ~TF;
	return true;
}

static void write_dr(u32 n, u64 v)
{
	switch (n) {
	case 0:
		write_dr0(v);
		break;
	case 1:
		write_dr1(v);
		break;
	case 2:
		__asm__ volatile("mov %0, %%db2" ::"r"(v));
		break;
	default:
		__asm__ volatile("mov %0, %%db3" ::"r"(v));
	}
}

static u64 dr7;

static void start(void)
{
	memset((void *)&hit, 0, sizeof(hit));
	trap_set_handler(DB, note);
	write_dr6(DR6_CLEAR);
	dr7 = 0x400;
}

/* Armed at the next MOV to DR7, which is done here. Odd registers are enabled locally, even ones globally. */
static void arm(u32 n, const volatile void *at, u64 type, u64 length)
{
	static const u8 code[9] = {[1] = 0, [2] = 1, [4] = 3, [8] = 2};

	write_dr(n, (u64)at);
	dr7 |= (n & 1 ? 1ul : 2ul) << 2 * n | (type | (u64)code[length] << 2) << (16 + 4 * n);
	write_dr7(dr7);
}

static void disarm(void)
{
	write_dr7(0x400);
}

static u64 source[16], destination[16];

extern const u8 rep_insn[], rep_after[];

/* The trap comes behind the iteration, with RIP on the instruction and RCX telling how many are left. */
static void rep_stops_in_the_middle(void)
{
	u64 di = (u64)destination, si = (u64)source, cx = 16;

	start();
	for (u32 i = 0; i < 16; i++)
		source[i] = loop_count + i;
	arm(0, &destination[5], WRITE, 8);
	__asm__ volatile("rep_insn: rep movsq\nrep_after:" : "+D"(di), "+S"(si), "+c"(cx)::"memory");
	disarm();
	CHECK_EQ(hit.count, 1);
	CHECK_EQ(hit.dr6 & 15, 1);
	CHECK_EQ(hit.rip, rep_insn);
	CHECK_EQ(hit.rcx, 16 - 6);
	CHECK_EQ(memcmp(source, destination, sizeof(source)), 0);
}

extern const u8 rep2_insn[], rep2_after[];

/* The source is watched, and the last element of the destination: then RIP is behind. */
static void rep_reads_and_ends(void)
{
	u64 di = (u64)destination, si = (u64)source, cx = 16;

	start();
	arm(1, &source[3], ACCESS, 8);
	arm(2, &destination[15], WRITE, 4);
	__asm__ volatile("rep2_insn: rep movsq\nrep2_after:" : "+D"(di), "+S"(si), "+c"(cx)::"memory");
	disarm();
	CHECK_EQ(hit.count, 2);
	CHECK_EQ(hit.dr6 & 15, 4);
	if (!on_qemu_tcg()) /* which tells the instruction, though it is done */
		CHECK_EQ(hit.rip, rep2_after);
	CHECK_EQ(cx, 0);
}

/* REP SCAS and CMPS read. */
static void rep_compares(void)
{
	u64 di = (u64)destination, cx = 16;

	start();
	memset(destination, 0, sizeof(destination));
	arm(3, &destination[7], ACCESS, 8);
	__asm__ volatile("repe scasq" : "+D"(di), "+c"(cx) : "a"(0) : "memory", "cc");
	disarm();
	CHECK_EQ(hit.count, 1);
	CHECK_EQ(hit.dr6 & 15, 8);
	CHECK_EQ(hit.rcx, 16 - 8);
	CHECK_EQ(cx, 0);
}

/* ---- faults ---- */

static const u64 va = TEST_VA + 0x700000;
static u8 *page[2];
static u64 repaired;

static bool repair(struct trap_frame *f)
{
	repaired++;
	paging_map(read_cr2() & ~(PAGE - 1), (u64)page[1], P | W);
	return true;
}

/* An instruction that reads what is watched and then faults did nothing yet: it hits when it is repeated, once. */
static void a_fault_hits_nothing(void)
{
	u64 di = va + PAGE, si = va + 8;

	start();
	repaired = 0;
	paging_map(va, (u64)page[0], P | W);
	paging_map(va + PAGE, 0, 0);
	trap_set_handler(PF, repair);
	arm(0, (u8 *)va + 8, ACCESS, 8);
	__asm__ volatile("movsq" : "+D"(di), "+S"(si)::"memory");
	disarm();
	trap_set_handler(PF, NULL);
	CHECK_EQ(repaired, 1);
	CHECK_EQ(hit.count, 1);
}

/* REP that meets a watchpoint and then a fault, and the other way round: each once, whatever the order. */
static void fault_in_rep(void)
{
	u64 di = va + PAGE - 32, si = (u64)source, cx = 8;

	start();
	repaired = 0;
	paging_map(va, (u64)page[0], P | W);
	paging_map(va + PAGE, 0, 0);
	trap_set_handler(PF, repair);
	arm(0, (u8 *)va + PAGE - 8, WRITE, 8);
	arm(1, (u8 *)va + PAGE, WRITE, 8);
	arm(2, (u8 *)va + PAGE + 24, WRITE, 8);
	__asm__ volatile("rep movsq" : "+D"(di), "+S"(si), "+c"(cx)::"memory");
	disarm();
	trap_set_handler(PF, NULL);
	CHECK_EQ(repaired, 1);
	CHECK_EQ(hit.count, 3);
	CHECK_EQ(memcmp(page[0] + PAGE - 32, source, 32), 0);
	CHECK_EQ(memcmp(page[1], source + 4, 32), 0);
}

extern const u8 faulting[], faulting_next[];

/* A fault's frame has RF set, so that a breakpoint on the instruction does not hit again when it is repeated. */
static void breakpoint_on_a_faulting_instruction(void)
{
	u64 at = va + PAGE;

	start();
	repaired = 0;
	paging_map(at, 0, 0);
	trap_set_handler(PF, repair);
	arm(0, faulting, EXECUTE, 1);
	__asm__ volatile("faulting: mov (%0), %%rax\nfaulting_next: nop" ::"r"(at) : "rax", "memory");
	disarm();
	trap_set_handler(PF, NULL);
	CHECK_EQ(repaired, 1);
	CHECK_EQ(hit.count, 1);
	CHECK_EQ(hit.rip, faulting);
}

/* It is in the frame although it was not set before: a breakpoint that the handler sets on the instruction does not hit. */
extern const u8 late_breakpoint[];

static bool repair_and_arm(struct trap_frame *f)
{
	CHECK_EQ(f->rip, late_breakpoint);
	arm(0, late_breakpoint, EXECUTE, 1);
	return repair(f);
}

static void breakpoint_set_by_the_handler(void)
{
	u64 at = va + PAGE;

	start();
	paging_map(at, 0, 0);
	trap_set_handler(PF, repair_and_arm);
	__asm__ volatile("late_breakpoint: mov (%0), %%rax" ::"r"(at) : "rax", "memory");
	disarm();
	trap_set_handler(PF, NULL);
	CHECK_EQ(hit.count, 0);
}

/* ---- interrupts ---- */

#define VECTOR 0x60
static u64 frames[64] __attribute__((aligned(16)));

extern const u8 quiet_entry[], quiet_next[];
__asm__(".text\nquiet_entry: nop\nquiet_next: iretq\n");

/* The frame is pushed over a watched slot: the trap comes before the handler's first instruction. */
static void frame_of_an_interrupt(void)
{
	struct idt_gate gate = idt[VECTOR];

	start();
	idt_set(VECTOR, quiet_entry, 0x8e, 7);
	tss.ist[6] = (u64)(frames + ARRAY_SIZE(frames));
	arm(0, (void *)(tss.ist[6] - 8), WRITE, 8);
	__asm__ volatile("int %0" ::"i"(VECTOR) : "memory");
	disarm();
	idt[VECTOR] = gate;
	CHECK_EQ(hit.count, 1);
	CHECK_EQ(hit.rip, quiet_entry);
}

/* On the handler's first instruction, and on the one that IRET goes back to. */
static void breakpoints_at_both_ends(void)
{
	extern const u8 came_back[];
	struct idt_gate gate = idt[VECTOR];

	start();
	idt_set(VECTOR, quiet_entry, 0x8e, 0);
	arm(0, quiet_entry, EXECUTE, 1);
	arm(1, came_back, EXECUTE, 1);
	__asm__ volatile("int %0\ncame_back: nop" ::"i"(VECTOR) : "memory");
	disarm();
	idt[VECTOR] = gate;
	CHECK_EQ(hit.count, 2);
	CHECK_EQ(hit.rip, came_back);
}

/* ---- ring 3 and SYSCALL ---- */

static u64 shared[4] UDATA;
extern const u8 watch_syscall_entry[], watch_syscall_store[], watch_syscall_after[], user_store_insn[], user_store_after[];
__asm__(".text\nwatch_syscall_entry: nop\n"
	"watch_syscall_store: movq $7, shared_word(%rip)\n"
	"watch_syscall_after: sysretq\n"
	".set shared_word, shared\n");

UTEXT static u64 user_syscall(u64 unused)
{
	__asm__ volatile("syscall" ::: "rcx", "r11", "memory");
	return 5;
}

UTEXT static u64 user_store(u64 at)
{
	__asm__ volatile("user_store_insn: movq $3, (%0)\nuser_store_after: nop" ::"r"(at) : "memory");
	return 6;
}

UTEXT static u64 user_rep(u64 at)
{
	u64 cx = 4;

	__asm__ volatile("rep stosq" : "+D"(at), "+c"(cx) : "a"(0) : "memory");
	return cx;
}

static void setup_syscall(void)
{
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
	wrmsr(0xc0000081, (u64)SEL_UCODE32 << 48 | (u64)SEL_CODE64 << 32);
	wrmsr(0xc0000082, (u64)watch_syscall_entry);
	wrmsr(0xc0000084, 0x700);
}

/* #DB in the kernel that SYSCALL entered runs on a stack of its own, since RSP is the program's still. */
static void through_syscall(void)
{
	setup_syscall();
	start();
	idt[DB].ist = 1;
	arm(0, &shared[0], WRITE, 8);
	CHECK_EQ(user_call(user_syscall, 0), 5);
	CHECK_EQ(hit.count, 1);
	CHECK_EQ(hit.rip, watch_syscall_after);
	CHECK_EQ(hit.cs, SEL_CODE64);
	disarm();
	start();
	arm(2, watch_syscall_entry, EXECUTE, 1);
	CHECK_EQ(user_call(user_syscall, 0), 5);
	disarm();
	idt[DB].ist = 0;
	CHECK_EQ(hit.count, 1);
	CHECK_EQ(hit.rip, watch_syscall_entry);
	CHECK_EQ(hit.dr6 & 15, 4);
}

static void in_ring3(void)
{
	start();
	arm(0, &shared[2], WRITE, 8);
	CHECK_EQ(user_call(user_store, (u64)&shared[1]), 6);
	CHECK_EQ(hit.count, 0);
	CHECK_EQ(user_call(user_store, (u64)&shared[2]), 6);
	CHECK_EQ(hit.count, 1);
	CHECK_EQ(hit.rip, user_store_after);
	CHECK_EQ(hit.cs, SEL_UCODE64);
	CHECK_EQ(user_call(user_rep, (u64)shared), 0);
	CHECK_EQ(hit.count, 2);
	CHECK_EQ(hit.rcx, 1);
	disarm();
	start();
	arm(3, user_store_insn, EXECUTE, 1);
	CHECK_EQ(user_call(user_store, (u64)shared), 6);
	disarm();
	CHECK_EQ(hit.count, 1);
	CHECK_EQ(hit.rip, user_store_insn);
}

/* ---- several ---- */

extern const u8 both_after[];

/* A step and two watchpoints at one instruction are one trap that tells all three. */
static void all_at_once(void)
{
	start();
	arm(0, &source[1], ACCESS, 8);
	arm(3, &source[2], WRITE, 1);
	__asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq\n\tmovups %%xmm0, %0\nboth_after: nop"
			 : "=m"(*(u64(*)[2]) & source[1])::"memory", "cc");
	disarm();
	CHECK_EQ(hit.count, 1);
	CHECK_EQ(hit.rip, both_after);
	CHECK_EQ(hit.dr6 & (15 | DR6_BS), 9 | DR6_BS);
}

/* Every length at every address that an access of every size may touch. */
static void lengths(void)
{
	static const u8 length[] = {1, 2, 4, 8};
	volatile u8 *at = (u8 *)source;

	for (u32 i = 0; i < ARRAY_SIZE(length); i++)
		for (u32 offset = 0; offset < 24; offset++) {
			bool touched = offset + 4 > 8 && offset < 8u + length[i];

			start();
			arm(0, &source[1], WRITE, length[i]);
			__asm__ volatile("movl $0, (%0)" ::"r"(at + offset) : "memory");
			CHECK_EQ(hit.count, touched);
			__asm__ volatile("movl (%0), %%eax" ::"r"(at + offset) : "rax", "memory");
			CHECK_EQ(hit.count, touched);
			disarm();
		}
}

/* The watched word lies in the second page of an access that crosses. */
static void across_pages(void)
{
	paging_map(va, (u64)page[0], P | W);
	paging_map(va + PAGE, (u64)page[1], P | W);
	start();
	arm(0, (u8 *)va + PAGE, WRITE, 2);
	*(volatile u32 *)(va + PAGE - 4) = 1;
	CHECK_EQ(hit.count, 0);
	*(volatile u32 *)(va + PAGE - 3) = 1;
	CHECK_EQ(hit.count, 1);
	*(volatile u64 *)(va + PAGE - 1) = 1;
	CHECK_EQ(hit.count, 2);
	disarm();
}

/* It is the linear address that counts: another address of the same frame does not hit. */
static void aliases_do_not_hit(void)
{
	paging_map(va, (u64)page[0], P | W);
	start();
	arm(0, (u8 *)va + 64, WRITE, 8);
	*(volatile u64 *)(page[0] + 64) = 1;
	CHECK_EQ(hit.count, 0);
	*(volatile u64 *)(va + 64) = 2;
	CHECK_EQ(hit.count, 1);
	disarm();
}

/* ---- MOV SS and POP SS ---- */

static struct {
	u16 sel, pad[3];
	u64 more;
} ss_word __attribute__((aligned(16))) = {.sel = SEL_DATA};
extern const u8 ss_next[], ss_second[], ss_first[];

/* The watched operand of MOV SS itself is told behind the next instruction (SDM vol. 3, 6.8.3). */
static void mov_ss_delays(void)
{
	start();
	arm(0, &ss_word, ACCESS, 2);
	__asm__ volatile("mov %0, %%ss\nss_next: nop\nss_second: nop" ::"m"(ss_word.sel) : "memory");
	disarm();
	CHECK_EQ(hit.count, 1);
	CHECK_EQ(hit.rip, ss_second);
}

/* A breakpoint on the instruction behind is not seen. */
static void mov_ss_hides_a_breakpoint(void)
{
	start();
	arm(0, ss_first, EXECUTE, 1);
	__asm__ volatile("mov %0, %%ss\nss_first: nop; nop" ::"m"(ss_word.sel) : "memory");
	disarm();
	CHECK_EQ(hit.count, 0);
}

/* ---- I/O ---- */

#define CR4_DE_BIT CR4_DE
extern const u8 out_after[], ins_insn[];

static void ports(void)
{
	u64 di = (u64)destination, cx = 3;

	write_cr4(read_cr4() | CR4_DE_BIT);
	start();
	arm(1, (void *)0x80, IO, 2);
	__asm__ volatile("out %%al, $0x80\nout_after: nop" ::"a"(0));
	CHECK_EQ(hit.count, 1);
	CHECK_EQ(hit.rip, out_after);
	CHECK_EQ(hit.dr6 & 15, 2);
	outb(0x82, 0);
	CHECK_EQ(hit.count, 1);
	(void)inb(0x81);
	CHECK_EQ(hit.count, 2);
	__asm__ volatile("rep insb" : "+D"(di), "+c"(cx) : "d"(0x80) : "memory");
	CHECK(hit.count == 5 || on_qemu_tcg()); /* which traps once */
	disarm();
	write_cr4(read_cr4() & ~CR4_DE_BIT);
}

void guest_main(void)
{
	page[0] = page_alloc();
	page[1] = page_alloc();
	apic_enable();
	LOOP(rep_stops_in_the_middle);
	LOOP(rep_reads_and_ends);
	LOOP(rep_compares);
	if (!on_qemu_tcg()) { /* which hits at the access */
		LOOP(a_fault_hits_nothing);
		LOOP(fault_in_rep);
	}
	LOOP(breakpoint_on_a_faulting_instruction);
	if (!on_qemu_tcg()) /* which sets no RF */
		LOOP(breakpoint_set_by_the_handler);
	if (!on_qemu_tcg()) /* which dies of an assertion */
		LOOP(frame_of_an_interrupt);
	LOOP(breakpoints_at_both_ends);
	LOOP(through_syscall);
	LOOP(in_ring3);
	if (!on_qemu_tcg()) /* which tells them one by one */
		LOOP(all_at_once);
	if (!on_qemu_tcg()) /* which hits beside the watched bytes, too */
		loop_check("lengths", lengths, 200);
	LOOP(across_pages);
	LOOP(aliases_do_not_hit);
	if (!on_qemu_tcg()) { /* whose watchpoints and breakpoints know of no shadow */
		LOOP(mov_ss_delays);
		LOOP(mov_ss_hides_a_breakpoint);
	}
	LOOP(ports);
}
