/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hardware task switches: every way into a task and back, what is saved and loaded, the busy bit, NT, the back link, and each condition that refuses a
 * switch, before it and behind it. SDM vol. 3, chapter 8, 6.15 (#TS, #DF) and 17.3.1.5; vol. 2, JMP, CALL, INT, IRET.
 */
#include "lib.h"

#define TSS_MAIN 0x60
#define TSS_WORKER 0x68
#define TSS_FAULT 0x70
#define TSS_16 0x78
#define GATE 0x80
#define LDT 0x88
#define SPARE 0x90
#define DATA_16 0x58
#define BASED 0xa8
#define BEYOND 0x100
#define BUSY 2u
#define LOW_STACK 0x6e00u
#define CR0_TS 8u
#define DR6_BT 0x8000u
#define DR6_BS 0x4000u
enum { CF = 1, TF = 0x100, IF = 0x200, DF_FLAG = 0x400, NT = 0x4000, RF = 0x10000, VM = 0x20000, IOPL3 = 0x3000 };

struct tss32 {
	u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi;
	u32 es, cs, ss, ds, fs, gs, ldt; /* upper halves are reserved */
	u16 trap, iomap;
};
struct tss16 {
	u16 link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss, ds, ldt;
};
struct seen {
	u32 eax, ecx, edx, ebx, esp, ebp, esi, edi, eflags, es, cs, ss, ds, fs, gs, tr, ldtr, cr0, cr3, dr6, dr7;
	u32 main, worker, fault, small; /* access bytes of the TSSs' descriptors */
	u32 top;			/* of the stack */
};

void legacy_call(void *routine);
extern volatile u32 legacy_results[64], legacy_traps[4];
extern u8 legacy_trap_entries[], legacy_ring0_stack_top[];
extern u64 legacy_idt[256];
extern u32 legacy_tss[], legacy_mode_cr3, legacy_mode_cr4, legacy_page_directory[1024];
extern u64 legacy_pdpt[512], legacy_pae_directory[512];
extern volatile struct seen tasks_seen, tasks_back, tasks_fault;
extern u32 tasks_do, tasks_then, tasks_fix, tasks_runs, tasks_flags, tasks_dr7;
extern u8 tasks_main[], tasks_worker[], tasks_worker_second[], tasks_worker_16[], tasks_stack[], tasks_based[], tasks_monitor[];
extern u8 tasks_then_iret[], tasks_then_error[], tasks_then_eoi[], tasks_then_jump[], tasks_then_call[], tasks_then_main[];
extern u8 tasks_fault_entry[], tasks_nested_entry[], tasks_bad_stack[], tasks_bad_stack_ud[];
extern u8 tasks_call_twice[], tasks_irq[], tasks_nmi[], tasks_v86[], tasks_from_16[], tasks_from_16_end[], tasks_iret[], tasks_iret_end[];
#define DOES(name) extern u8 tasks_##name[], tasks_##name##_end[]
DOES(call);
DOES(jump);
DOES(call_gate);
DOES(jump_gate);
DOES(call_ldt);
DOES(int);
DOES(ud);
DOES(gp);
DOES(call_16);
DOES(call_3);
DOES(call_gate_3);
DOES(int_3);

#define AT(x) ((u32)(u64)(x))
#define MAIN ((volatile struct tss32 *)legacy_tss)

/* Each within a page; the second page is for what is mapped elsewhere. */
static struct {
	volatile struct tss32 worker, fault;
	volatile struct tss16 small;
	u64 ldt[4];
} space PAGE_ALIGNED;
static volatile struct tss32 *const worker = &space.worker, *const fault_task = &space.fault;

static u8 fault_stack[1024] __attribute__((aligned(16)));

static u64 gate(u64 to, u32 sel, u32 type_dpl)
{
	return (to & 0xffff) | (u64)sel << 16 | (u64)type_dpl << 40 | (to >> 16 & 0xffff) << 48;
}

static u64 segment(u64 base, u64 limit, u64 attr)
{
	return (limit & 0xffff) | (base & 0xffffff) << 16 | (attr & 0xf0ff) << 40 | (limit >> 16 & 15) << 48 | (base >> 24 & 0xff) << 56;
}

static void set_tss(u32 sel, u64 base, u64 limit, u32 attr)
{
	gdt[sel / 8] = segment(base, limit, attr);
}

static void make_task(volatile struct tss32 *t, const void *entry, const void *stack)
{
	memset((void *)t, 0, sizeof(*t));
	t->eip = AT(entry);
	t->esp = AT(stack);
	t->cs = SEL_CODE32;
	t->ss = t->ds = t->es = t->fs = t->gs = SEL_DATA;
	t->esp0 = AT(legacy_ring0_stack_top);
	t->ss0 = SEL_DATA;
	t->iomap = sizeof(*t);
	t->cr3 = legacy_mode_cr3;
}

static void make_worker(void)
{
	make_task(worker, tasks_worker, tasks_stack);
	worker->eflags = CF | 2;
	worker->eax = 0x01010101;
	worker->ecx = 0x02020202;
	worker->edx = 0x03030303;
	worker->ebx = 0x04040404;
	worker->ebp = 0x05050505;
	worker->esi = 0x06060606;
	worker->edi = 0x07070707;
	worker->fs = SEL_UDATA;
	worker->gs = 0;
	worker->ldt = LDT;
}

static void build(void)
{
	for (u32 v = 0; v < 65; v++)
		legacy_idt[v] = gate((u64)legacy_trap_entries + 16 * v, SEL_CODE32, 0xee);
	legacy_idt[0x50] = gate(0, TSS_WORKER, 0xe5);
	legacy_idt[0x53] = gate((u64)tasks_monitor, SEL_CODE32, 0xee);
	legacy_idt[0x55] = gate(0, TSS_WORKER, 0x85);
	gdt[DATA_16 / 8] = segment(0, 0xffff, 0x93);
	gdt[GATE / 8] = gate(0, TSS_WORKER, 0xe5);
	gdt[LDT / 8] = segment((u64)space.ldt, sizeof(space.ldt) - 1, 0x82);
	gdt[SPARE / 8] = gdt[SPARE / 8 + 1] = gdt[SPARE / 8 + 2] = 0;
	gdt[BASED / 8] = segment((u64)tasks_based, 0xffff, 0x409b);
	set_tss(TSS_MAIN, (u64)legacy_tss, sizeof(struct tss32) - 1, 0x89);
	set_tss(TSS_WORKER, (u64)worker, sizeof(struct tss32) - 1, 0x89);
	set_tss(TSS_FAULT, (u64)fault_task, sizeof(struct tss32) - 1, 0x89);
	set_tss(TSS_16, (u64)&space.small, sizeof(space.small) - 1, 0x81);
	space.ldt[1] = gate(0, TSS_WORKER, 0xe5);
	space.ldt[2] = segment(0, 0xfffff, 0xc093);
}

/* As everything is before a run; what is particular to one comes between this and run(). */
static void begin(void)
{
	build();
	make_task(MAIN, NULL, NULL);
	MAIN->ldt = LDT;
	make_worker();
	make_task(fault_task, tasks_fault_entry, fault_stack + sizeof(fault_stack));
	fault_task->eflags = 2;
	tasks_then = AT(tasks_then_iret);
	tasks_flags = 2 | DF_FLAG;
	tasks_fix = tasks_dr7 = tasks_runs = 0;
	memset((void *)&tasks_seen, 0, sizeof(tasks_seen));
	memset((void *)&tasks_back, 0, sizeof(tasks_back));
	memset((void *)&tasks_fault, 0, sizeof(tasks_fault));
	memset((void *)legacy_results, 0, sizeof(legacy_results));
	memset((void *)legacy_traps, 0, sizeof(legacy_traps));
	__asm__ volatile("lldt %w0" ::"r"(LDT));
}

static void run(const u8 *what)
{
	tasks_do = AT(what);
	legacy_call(tasks_main);
	gdt[SEL_TSS / 8] &= ~(2ul << 40);
	__asm__ volatile("clts; ltr %w0" ::"r"(SEL_TSS) : "memory");
	gdt[LDT / 8] = segment((u64)space.ldt, sizeof(space.ldt) - 1, 0x82);
	write_dr6(0xffff0ff0);
}

static u32 access(u32 sel)
{
	return (u32)(gdt[sel / 8] >> 40) & 0xff;
}

static void trapped(u32 vector, u32 error)
{
	CHECK_EQ(legacy_traps[0], 1);
	CHECK_EQ(legacy_traps[1], vector);
	CHECK_EQ(legacy_traps[2], error);
}

/* ---- there and back ---- */

/* What the worker finds, whichever way led to it. */
static void check_worker(bool nested)
{
	CHECK_EQ(legacy_traps[0], 0);
	CHECK_EQ(tasks_runs, 1);
	CHECK_EQ(tasks_seen.eax, 0x01010101);
	CHECK_EQ(tasks_seen.ecx, 0x02020202);
	CHECK_EQ(tasks_seen.edx, 0x03030303);
	CHECK_EQ(tasks_seen.ebx, 0x04040404);
	CHECK_EQ(tasks_seen.ebp, 0x05050505);
	CHECK_EQ(tasks_seen.esi, 0x06060606);
	CHECK_EQ(tasks_seen.edi, 0x07070707);
	CHECK_EQ(tasks_seen.eflags, CF | 2 | (nested ? NT : 0));
	CHECK_EQ(tasks_seen.cs, SEL_CODE32);
	CHECK_EQ(tasks_seen.ss, SEL_DATA);
	CHECK_EQ(tasks_seen.ds, SEL_DATA);
	CHECK_EQ(tasks_seen.es, SEL_DATA);
	CHECK_EQ(tasks_seen.fs, SEL_UDATA);
	CHECK_EQ(tasks_seen.gs, 0);
	CHECK_EQ(tasks_seen.tr, TSS_WORKER);
	CHECK_EQ(tasks_seen.ldtr, LDT);
	CHECK_EQ(tasks_seen.cr0 & CR0_TS, CR0_TS);
	CHECK_EQ(tasks_seen.worker & BUSY, BUSY);
	CHECK_EQ(tasks_seen.main & BUSY, nested ? BUSY : 0);
	CHECK_EQ(worker->link, nested ? TSS_MAIN : 0);
}

/* What the main task left behind, and that it goes on with it. DF is set in it, and nobody else's. */
static void check_main(const void *eip)
{
	CHECK_EQ(MAIN->eip, AT(eip));
	CHECK_EQ(MAIN->eflags, 2 | DF_FLAG);
	CHECK_EQ(MAIN->eax, 0xa1a1a1a1);
	CHECK_EQ(MAIN->ecx, 0xc1c1c1c1);
	CHECK_EQ(MAIN->edx, 0xd1d1d1d1);
	CHECK_EQ(MAIN->ebx, 0xb1b1b1b1);
	CHECK_EQ(MAIN->ebp, 0xe5e5e5e5);
	CHECK_EQ(MAIN->esi, 0x51515151);
	CHECK_EQ(MAIN->edi, 0xd1d1d1d2);
	CHECK_EQ((u16)MAIN->cs, SEL_CODE32);
	CHECK_EQ((u16)MAIN->ss, SEL_DATA);
	CHECK_EQ((u16)MAIN->ds, SEL_DATA);
	CHECK_EQ((u16)MAIN->gs, SEL_DATA);
	CHECK_EQ(MAIN->ldt, LDT); /* what is not saved */
	CHECK_EQ(MAIN->ss0, SEL_DATA);
	CHECK_EQ(MAIN->link, 0);
	CHECK_EQ(tasks_back.eax, 0xa1a1a1a1);
	CHECK_EQ(tasks_back.edi, 0xd1d1d1d2);
	CHECK_EQ(tasks_back.esp, MAIN->esp + 4);
	CHECK_EQ(tasks_back.eflags, 2 | DF_FLAG);
	CHECK_EQ(tasks_back.tr, TSS_MAIN);
	CHECK_EQ(tasks_back.ldtr, LDT);
	CHECK_EQ(tasks_back.main & BUSY, BUSY);
	CHECK_EQ(tasks_back.worker & BUSY, 0);
	CHECK_EQ(tasks_back.cr0 & CR0_TS, CR0_TS);
}

static void there_and_back(const u8 *what, const u8 *end)
{
	begin();
	run(what);
	check_worker(true);
	check_main(end);
	CHECK_EQ(worker->eflags & (NT | CF), CF); /* IRET leaves without it */
	CHECK_EQ(worker->esp, AT(tasks_stack));
}

static void by_call(void)
{
	there_and_back(tasks_call, tasks_call_end);
	there_and_back(tasks_call_gate, tasks_call_gate_end);
	there_and_back(tasks_call_ldt, tasks_call_ldt_end);
	there_and_back(tasks_int, tasks_int_end);
}

/* Two tasks that jump to each other: none is nested, one is busy. */
static void by_jump(void)
{
	for (u32 i = 0; i < 2; i++) {
		begin();
		tasks_then = AT(tasks_then_jump);
		run(i ? tasks_jump : tasks_jump_gate);
		check_worker(false);
		check_main(i ? tasks_jump_end : tasks_jump_gate_end);
	}
}

/* NT of the TSS stays with JMP; what it leads to is the task's affair. */
static void jump_keeps_nt(void)
{
	begin();
	worker->eflags |= NT;
	worker->link = TSS_MAIN;
	tasks_then = AT(tasks_then_jump);
	run(tasks_jump);
	CHECK_EQ(tasks_seen.eflags & NT, NT);
	CHECK_EQ(worker->eflags & NT, NT);
	CHECK_EQ(worker->link, TSS_MAIN);
}

/* A task goes on behind the IRET that it left by. */
static void entered_again(void)
{
	begin();
	run(tasks_call_twice);
	CHECK_EQ(tasks_runs, 2);
	CHECK_EQ(tasks_seen.tr, TSS_WORKER);
	CHECK_EQ(tasks_back.tr, TSS_MAIN);
	CHECK_EQ(tasks_seen.eflags & NT, NT);
}

static void nested_twice(void)
{
	begin();
	make_task(fault_task, tasks_nested_entry, fault_stack + sizeof(fault_stack));
	tasks_then = AT(tasks_then_call);
	run(tasks_call);
	CHECK_EQ(tasks_runs, 2);
	CHECK_EQ(fault_task->link, TSS_WORKER);
	CHECK_EQ(worker->link, TSS_MAIN);
	CHECK_EQ(tasks_fault.main & tasks_fault.worker & tasks_fault.fault & BUSY, BUSY);
	CHECK_EQ(tasks_fault.tr, TSS_FAULT);
	CHECK_EQ(tasks_back.tr, TSS_MAIN);
	CHECK_EQ((tasks_back.worker | tasks_back.fault) & BUSY, 0);
}

/* The descriptors are found through the task's own LDT, and marked as accessed. */
static void own_ldt(void)
{
	begin();
	__asm__ volatile("lldt %w0" ::"r"(0));
	gdt[SPARE / 8] = segment(0, 0xfffff, 0xc092);
	space.ldt[2] = segment(0, 0xfffff, 0xc09a);
	space.ldt[3] = segment(0, 0xfffff, 0xc092);
	worker->cs = 0x14;
	worker->ss = SPARE;
	worker->es = 0x1c;
	run(tasks_call);
	CHECK_EQ(legacy_traps[0], 0);
	CHECK_EQ(tasks_runs, 1);
	CHECK_EQ(tasks_seen.cs, 0x14);
	CHECK_EQ(tasks_seen.ss, SPARE);
	CHECK_EQ(tasks_seen.es, 0x1c);
	CHECK_EQ(tasks_seen.ldtr, LDT);
	if (on_qemu_tcg()) /* which leaves the accessed bits */
		return;
	CHECK_EQ(access(SPARE), 0x93);
	CHECK_EQ(space.ldt[2] >> 40 & 0xff, 0x9b);
	CHECK_EQ(space.ldt[3] >> 40 & 0xff, 0x93);
}

/* Tasks are not re-entrant. */
static void to_a_busy_one(void)
{
	begin();
	tasks_then = AT(tasks_then_main);
	run(tasks_call);
	trapped(GP, TSS_MAIN);
	CHECK_EQ(legacy_results[0], TSS_WORKER);
}

/* ---- from other rings and modes ---- */

static void from_ring3(void)
{
	static const u8 *const what[][2] = {
		{tasks_call_3, tasks_call_3_end}, {tasks_call_gate_3, tasks_call_gate_3_end}, {tasks_int_3, tasks_int_3_end}};

	for (u32 i = 0; i < ARRAY_SIZE(what); i++) {
		begin();
		set_tss(TSS_WORKER, (u64)worker, sizeof(struct tss32) - 1, 0xe9);
		run(what[i][0]);
		trapped(0x40, 0);
		CHECK_EQ(tasks_runs, 1);
		CHECK_EQ((u16)MAIN->cs, SEL_UCODE32);
		CHECK_EQ((u16)MAIN->ss, SEL_UDATA);
		CHECK_EQ((u16)MAIN->ds, 0);
		CHECK_EQ(MAIN->eip, AT(what[i][1]));
		CHECK_EQ(MAIN->esp, LOW_STACK);
		CHECK_EQ(legacy_results[60], SEL_UCODE32);
	}
}

/* A task of ring 3: the exit by INT is through its own TSS's stack. */
static void to_ring3(void)
{
	begin();
	worker->cs = SEL_UCODE32;
	worker->ss = worker->ds = worker->es = SEL_UDATA;
	worker->eip = AT(tasks_int_3_end);
	run(tasks_jump);
	trapped(0x40, 0);
	CHECK_EQ(legacy_results[60], SEL_UCODE32);
	CHECK_EQ(legacy_results[62], AT(tasks_stack));
	CHECK_EQ(legacy_results[0], TSS_WORKER);
}

static void v86_code(const u8 *code, u32 length)
{
	memcpy((void *)0x7000, code, length);
}

static void from_v86(void)
{
	static const u8 code[] = {0xb8, 0x77, 0x66, 0xcd, 0x50, 0x90, 0xcd, 0x40}; /* mov $0x6677, %ax; int $0x50; nop; int $0x40 */

	begin();
	v86_code(code, sizeof(code));
	run(tasks_v86);
	trapped(0x40, 0);
	CHECK_EQ(legacy_traps[3], 8);
	CHECK_EQ(legacy_results[61] & VM, VM);
	CHECK_EQ(tasks_runs, 1);
	CHECK_EQ(tasks_seen.eflags & (VM | NT), NT);
	CHECK_EQ(tasks_seen.cs, SEL_CODE32);
	CHECK_EQ(MAIN->eip, 5);
	CHECK_EQ(MAIN->eflags & (VM | IOPL3), VM | IOPL3);
	CHECK_EQ(MAIN->eax & 0xffff, 0x6677);
	CHECK_EQ((u16)MAIN->cs, 0x700);
	CHECK_EQ((u16)MAIN->ss, 0x600);
	CHECK_EQ((u16)MAIN->ds, 0x500);
	CHECK_EQ((u16)MAIN->es, 0x200);
	CHECK_EQ((u16)MAIN->fs, 0x300);
	CHECK_EQ((u16)MAIN->gs, 0x400);
}

static void to_v86(void)
{
	static const u8 code[] = {0x8c, 0xd8, 0xa3, 0x10, 0x00, 0xcd, 0x53}; /* mov %ds, %ax; mov %ax, (0x10); int $0x53 */

	begin();
	v86_code(code, sizeof(code));
	*(volatile u16 *)0x5010 = 0;
	worker->eflags = VM | IOPL3 | 2;
	worker->eip = 0;
	worker->cs = 0x700;
	worker->ss = 0x600;
	worker->ds = 0x500;
	worker->es = worker->fs = worker->gs = 0x123;
	worker->esp = 0x800;
	run(tasks_call);
	CHECK_EQ(legacy_traps[0], 0);
	CHECK_EQ(tasks_runs, 1);
	CHECK_EQ(*(volatile u16 *)0x5010, 0x500);
	CHECK_EQ(tasks_seen.tr, TSS_WORKER);
	CHECK_EQ(worker->link, TSS_MAIN);
	CHECK_EQ(tasks_back.tr, TSS_MAIN);
	CHECK_EQ(tasks_back.eflags, 2 | DF_FLAG);
	CHECK_EQ(tasks_back.ds, SEL_DATA);
}

/* ---- 16 bits ---- */

static void make_small(void)
{
	memset((void *)&space.small, 0, sizeof(space.small));
	space.small = (struct tss16){.ip = (u16)(tasks_worker_16 - tasks_based),
				     .flags = CF | 2,
				     .ax = 0x1111,
				     .cx = 0x2222,
				     .bp = 0x3333,
				     .di = 0x4444,
				     .sp = LOW_STACK,
				     .cs = BASED,
				     .ss = DATA_16,
				     .ds = SEL_DATA,
				     .es = SEL_UDATA,
				     .ldt = LDT};
}

/* The upper halves of registers are not the task's. */
static void to_16_bits(void)
{
	begin();
	make_small();
	run(tasks_call_16);
	CHECK_EQ(legacy_traps[0], 0);
	CHECK_EQ(tasks_runs, 1);
	CHECK_EQ((u16)tasks_seen.eax, 0x1111);
	CHECK_EQ((u16)tasks_seen.ecx, 0x2222);
	CHECK_EQ((u16)tasks_seen.ebp, 0x3333);
	CHECK_EQ((u16)tasks_seen.edi, 0x4444);
	CHECK_EQ((u16)tasks_seen.esp, LOW_STACK);
	CHECK_EQ((u16)tasks_seen.eflags, CF | 2 | NT);
	CHECK_EQ(tasks_seen.cs, BASED);
	CHECK_EQ(tasks_seen.ss, DATA_16);
	CHECK_EQ(tasks_seen.es, SEL_UDATA);
	CHECK_EQ(tasks_seen.fs | tasks_seen.gs, 0);
	CHECK_EQ(tasks_seen.tr, TSS_16);
	CHECK_EQ(tasks_seen.ldtr, LDT);
	CHECK_EQ(tasks_seen.small & BUSY, BUSY);
	CHECK_EQ(tasks_seen.main & BUSY, BUSY);
	CHECK_EQ(space.small.link, TSS_MAIN);
	CHECK_EQ(space.small.flags & (NT | CF), CF & space.small.flags);
	CHECK_EQ(space.small.cx, 0x2222);
	CHECK_EQ(space.small.ss, DATA_16);
	CHECK_EQ(space.small.ldt, LDT);
	CHECK_EQ(tasks_back.small & BUSY, 0);
	check_main(tasks_call_16_end);
}

/* An exception's error code is as wide as the TSS. */
static void exception_in_16_bits(void)
{
	u64 gp = legacy_idt[GP];

	begin();
	make_small();
	legacy_idt[GP] = gate(0, TSS_16, 0x85);
	tasks_fix = (u32)(tasks_gp_end - tasks_gp);
	run(tasks_gp);
	legacy_idt[GP] = gp;
	CHECK_EQ(tasks_runs, 1);
	CHECK_EQ((u16)tasks_seen.esp, LOW_STACK - 2);
	CHECK_EQ(*(volatile u16 *)(u64)(LOW_STACK - 2), 0xa1a0);
	CHECK_EQ(tasks_back.tr, TSS_MAIN);
}

static void from_16_bits(void)
{
	begin();
	make_small();
	space.small.link = 0x5555;
	space.small.ss2 = 0x6666;
	run(tasks_from_16);
	CHECK_EQ(legacy_traps[0], 0);
	CHECK_EQ(tasks_runs, 1);
	CHECK_EQ(worker->link, TSS_16);
	CHECK_EQ(space.small.ip, (u16)(tasks_from_16_end - tasks_based));
	CHECK_EQ(space.small.bp, 0xeeee);
	CHECK_EQ(space.small.cx, 0xc1c1);
	CHECK_EQ(space.small.cs, BASED);
	CHECK_EQ(space.small.ss, DATA_16);
	CHECK_EQ(space.small.ds, SEL_DATA);
	CHECK_EQ(space.small.sp, LOW_STACK - 4);
	CHECK_EQ(space.small.link, 0x5555);
	CHECK_EQ(space.small.ss2, 0x6666);
	CHECK_EQ(space.small.ldt, LDT);
	CHECK_EQ(tasks_back.tr, TSS_16);
	CHECK_EQ((u16)tasks_back.ecx, 0xc1c1);
}

/* ---- interrupts and exceptions ---- */

static void by_exception(void)
{
	u64 ud = legacy_idt[UD], gp = legacy_idt[GP];

	begin();
	legacy_idt[UD] = gate(0, TSS_WORKER, 0x85);
	tasks_then = AT(tasks_then_error);
	tasks_fix = 2;
	run(tasks_ud);
	check_worker(true);
	CHECK_EQ(tasks_seen.esp, AT(tasks_stack));
	CHECK_EQ(MAIN->eip, AT(tasks_ud_end));				     /* moved by tasks_fix */
	CHECK_EQ(MAIN->eflags & RF, on_qemu_tcg() ? MAIN->eflags & RF : RF); /* which forgets it */
	CHECK_EQ(tasks_back.tr, TSS_MAIN);
	begin();
	legacy_idt[UD] = ud;
	legacy_idt[GP] = gate(0, TSS_WORKER, 0x85);
	tasks_then = AT(tasks_then_error);
	tasks_fix = (u32)(tasks_gp_end - tasks_gp);
	run(tasks_gp);
	legacy_idt[GP] = gp;
	check_worker(true);
	CHECK_EQ(tasks_seen.esp, AT(tasks_stack) - 4);
	CHECK_EQ(tasks_seen.top, 0xa1a0);
	CHECK_EQ(MAIN->eip, AT(tasks_gp_end));
	CHECK_EQ(tasks_back.tr, TSS_MAIN);
}

static void by_interrupt(void)
{
	begin();
	tasks_then = AT(tasks_then_eoi);
	run(tasks_irq);
	CHECK_EQ(legacy_traps[0], 0);
	CHECK_EQ(tasks_runs, 1);
	CHECK_EQ(tasks_seen.eflags & (NT | IF), NT);
	CHECK_EQ(MAIN->eflags & (NT | IF), IF);
	CHECK_EQ(tasks_back.tr, TSS_MAIN);
}

/* IRET allows the next one. */
static void by_nmi(void)
{
	begin();
	legacy_idt[NMI] = gate(0, TSS_WORKER, 0x85);
	run(tasks_nmi);
	CHECK_EQ(tasks_runs, 1);
	CHECK_EQ(worker->link, TSS_MAIN);
	CHECK_EQ(tasks_back.tr, TSS_MAIN);
}

/* The gate of #GP is absent: #NP while #GP is delivered. */
static void double_fault(void)
{
	begin();
	legacy_idt[GP] &= ~(0x80ul << 40);
	legacy_idt[DF] = gate(0, TSS_FAULT, 0x85);
	run(tasks_gp);
	CHECK_EQ(legacy_traps[0], 0);
	CHECK_EQ(tasks_fault.tr, TSS_FAULT);
	CHECK_EQ(tasks_fault.top, 0);
	CHECK_EQ(tasks_fault.esp, AT(fault_stack + sizeof(fault_stack)) - 4);
	CHECK_EQ(tasks_fault.eflags & NT, NT);
	CHECK_EQ(fault_task->link, TSS_MAIN);
	CHECK_EQ(MAIN->eip, AT(tasks_gp));
}

/* ---- refused, and the old task is as it was ---- */

struct refusal {
	const u8 *what;
	u32 vector, error;
	void (*spoil)(void);
};

static void limit_32(void)
{
	set_tss(TSS_WORKER, (u64)worker, 0x66, 0x89);
}
static void limit_16(void)
{
	set_tss(TSS_WORKER, (u64)worker, 0x2a, 0x81);
}
static void absent(void)
{
	set_tss(TSS_WORKER, (u64)worker, 0x67, 0x09);
}
static void busy(void)
{
	set_tss(TSS_WORKER, (u64)worker, 0x67, 0x8b);
}
static void busy_16(void)
{
	set_tss(TSS_WORKER, (u64)worker, 0x67, 0x83);
}
static void gate_dpl(void)
{
	gdt[GATE / 8] = gate(0, TSS_WORKER, 0x85);
}
static void gate_absent(void)
{
	gdt[GATE / 8] = gate(0, TSS_WORKER, 0x65);
}
static void gate_null(void)
{
	gdt[GATE / 8] = gate(0, 0, 0xe5);
}
static void gate_to_ldt(void)
{
	gdt[GATE / 8] = gate(0, 0x1c, 0xe5);
	space.ldt[3] = gdt[TSS_WORKER / 8];
}
static void gate_to_data(void)
{
	gdt[GATE / 8] = gate(0, SEL_DATA, 0xe5);
}
static void gate_beyond(void)
{
	gdt[GATE / 8] = gate(0, BEYOND, 0xe5);
}
static void int_dpl(void)
{
	legacy_idt[0x50] = gate(0, TSS_WORKER, 0x85);
}
static void int_absent(void)
{
	legacy_idt[0x50] = gate(0, TSS_WORKER, 0x65);
}
static void int_null(void)
{
	legacy_idt[0x50] = gate(0, 0, 0xe5);
}
static void int_to_data(void)
{
	legacy_idt[0x50] = gate(0, SEL_DATA, 0xe5);
}
static void fault_to_busy(void)
{
	legacy_idt[UD] = gate(0, TSS_WORKER, 0x85);
	busy();
}
static void fault_to_absent(void)
{
	legacy_idt[UD] = gate(0, TSS_WORKER, 0x85);
	absent();
}
static void fault_to_short(void)
{
	legacy_idt[UD] = gate(0, TSS_WORKER, 0x85);
	limit_32();
}
static void link_null(void)
{
	MAIN->link = 0;
}
static void link_in_ldt(void)
{
	MAIN->link = 0x1c;
	space.ldt[3] = gdt[TSS_WORKER / 8] | 2ul << 40;
}
static void link_idle(void)
{
	MAIN->link = TSS_WORKER;
}
static void link_data(void)
{
	MAIN->link = SEL_DATA;
}
static void link_beyond(void)
{
	MAIN->link = BEYOND;
}
static void link_absent(void)
{
	set_tss(TSS_WORKER, (u64)worker, 0x67, 0x0b);
	MAIN->link = TSS_WORKER;
}
static void link_short(void)
{
	set_tss(TSS_WORKER, (u64)worker, 0x66, 0x8b);
	MAIN->link = TSS_WORKER;
}
static void main_short(void)
{
	set_tss(TSS_MAIN, (u64)legacy_tss, 0x5e, 0x89); /* the last slot does not fit */
}
static void nothing(void)
{
}

static const struct refusal refusals[] = {
	{tasks_call, TS, TSS_WORKER, limit_32},
	{tasks_call, TS, TSS_WORKER, limit_16},
	{tasks_call, NP, TSS_WORKER, absent},
	{tasks_call, GP, TSS_WORKER, busy},
	{tasks_jump, GP, TSS_WORKER, busy_16},
	{tasks_jump_gate, GP, TSS_WORKER, busy},
	{tasks_call_gate, NP, TSS_WORKER, absent},
	{tasks_call_gate, TS, TSS_WORKER, limit_32},
	{tasks_call_gate, NP, GATE, gate_absent},
	{tasks_call_gate, GP, 0, gate_null},
	{tasks_jump_gate, GP, SEL_DATA, gate_to_data},
	{tasks_call_gate, GP, BEYOND, gate_beyond},
	{tasks_call_3, GP, TSS_WORKER, nothing}, /* DPL 0 */
	{tasks_call_gate_3, GP, GATE, gate_dpl},
	{tasks_int_3, GP, 0x50 * 8 + 2, int_dpl},
	{tasks_int, NP, 0x50 * 8 + 2, int_absent},
	{tasks_int, GP, 0, int_null},
	{tasks_int, GP, SEL_DATA, int_to_data},
	{tasks_int, GP, TSS_WORKER, busy},
	{tasks_int, NP, TSS_WORKER, absent},
	{tasks_int, TS, TSS_WORKER, limit_32},
	{tasks_iret, TS, 0, link_null},
	{tasks_iret, TS, 0x1c, link_in_ldt},
	{tasks_iret, TS, TSS_WORKER, link_idle},
	{tasks_iret, TS, SEL_DATA, link_data},
	{tasks_iret, TS, BEYOND, link_beyond},
	{tasks_iret, NP, TSS_WORKER, link_absent},
	{tasks_iret, TS, TSS_WORKER, link_short},
};

/* QEMU 7.2 raises #TS where a gate's selector names the LDT, forgets EXT and looks at no limit of the old TSS. */
static const struct refusal not_in_qemu[] = {
	{tasks_call_gate, GP, 0x1c, gate_to_ldt},	 {tasks_ud, GP, TSS_WORKER | 1, fault_to_busy},
	{tasks_ud, NP, TSS_WORKER | 1, fault_to_absent}, {tasks_ud, TS, TSS_WORKER | 1, fault_to_short},
	{tasks_call, TS, TSS_MAIN, main_short},
};

static void refuse_one(const struct refusal *r)
{
	u32 before;

	begin();
	r->spoil();
	before = access(TSS_WORKER);
	run(r->what);
	trapped(r->vector, r->error);
	CHECK_EQ(legacy_results[0], TSS_MAIN);
	CHECK_EQ(tasks_runs, 0);
	CHECK_EQ(access(TSS_WORKER), before);
	CHECK_EQ(access(TSS_MAIN) & BUSY, BUSY);
	CHECK_EQ(worker->link, 0);
	CHECK_EQ(MAIN->eip, 0);
}

static void refused(void)
{
	for (u32 i = 0; i < ARRAY_SIZE(refusals); i++)
		refuse_one(&refusals[i]);
	if (on_qemu_tcg())
		return;
	for (u32 i = 0; i < ARRAY_SIZE(not_in_qemu); i++)
		refuse_one(&not_in_qemu[i]);
}

/* ---- behind the switch: the fault is the new task's ---- */

#define FIELD(f) __builtin_offsetof(struct tss32, f)
static const struct late {
	u32 field, value;
	u64 desc; /* of SPARE */
	u32 vector, error;
} late[] = {
	{FIELD(ldt), 0xc, 0, TS, 0xc},
	{FIELD(ldt), SEL_DATA, 0, TS, SEL_DATA},
	{FIELD(ldt), BEYOND, 0, TS, BEYOND},
	{FIELD(ldt), SPARE, 0x0000020000000fff, TS, SPARE}, /* absent */
	{FIELD(cs), 0, 0, TS, 0},
	{FIELD(cs), SEL_DATA, 0, TS, SEL_DATA},
	{FIELD(cs), BEYOND, 0, TS, BEYOND},
	{FIELD(cs), SEL_CODE32 | 3, 0, TS, SEL_CODE32},
	{FIELD(cs), SPARE, 0x00cf1b000000ffff, NP, SPARE},
	{FIELD(cs), SPARE, 0x00cfff000000ffff, TS, SPARE}, /* conforming, DPL above RPL */
	{FIELD(ss), 0, 0, TS, 0},
	{FIELD(ss), SEL_CODE32, 0, TS, SEL_CODE32},
	{FIELD(ss), SEL_DATA | 1, 0, TS, SEL_DATA},
	{FIELD(ss), SEL_UDATA, 0, TS, SEL_UDATA & ~3u},
	{FIELD(ss), SPARE, 0x00cff3000000ffff, TS, SPARE}, /* DPL 3 */
	{FIELD(ss), SPARE, 0x00cf91000000ffff, TS, SPARE}, /* read-only */
	{FIELD(ss), SPARE, 0x00cf13000000ffff, SS, SPARE}, /* absent */
	{FIELD(ds), TSS_FAULT, 0, TS, TSS_FAULT},
	{FIELD(ds), BEYOND, 0, TS, BEYOND},
	{FIELD(es), SPARE, 0x00cf99000000ffff, TS, SPARE}, /* not readable */
	{FIELD(fs), SEL_DATA | 3, 0, TS, SEL_DATA},
	{FIELD(gs), SPARE, 0x00cf13000000ffff, NP, SPARE},
	{FIELD(eip), 0x10000, 0, GP, 0}, /* with CS below */
};

static bool left_out(const struct late *l)
{
	/* QEMU 7.2 raises #NP for an absent stack. */
	return on_qemu_tcg() && l->vector == SS;
}

static void behind_the_switch(void)
{
	static const u8 vectors[] = {TS, NP, SS, GP};

	for (u32 i = 0; i < ARRAY_SIZE(late); i++) {
		const struct late *l = &late[i];

		if (left_out(l))
			continue;
		begin();
		for (u32 v = 0; v < ARRAY_SIZE(vectors); v++)
			legacy_idt[vectors[v]] = gate(0, TSS_FAULT, 0x85);
		gdt[SPARE / 8] = l->desc;
		if (l->field == FIELD(eip))
			worker->cs = BASED;
		*(volatile u32 *)((u64)worker + l->field) = l->value;
		run(i & 1 ? tasks_int : tasks_call);
		CHECK_EQ(legacy_traps[0], 0);
		CHECK_EQ(tasks_runs, 0);
		CHECK_EQ(tasks_fault.tr, TSS_FAULT);
		CHECK_EQ(tasks_fault.top, l->error | (on_qemu_tcg() ? tasks_fault.top & 1 : 0));
		CHECK_EQ(fault_task->link, TSS_WORKER);
		CHECK_EQ(tasks_fault.main & tasks_fault.worker & tasks_fault.fault & BUSY, BUSY);
		CHECK_EQ(worker->link, TSS_MAIN);
		if (!on_qemu_tcg()) /* which saves the old task's EIP */
			CHECK_EQ(worker->eip, l->field == FIELD(eip) ? l->value : AT(tasks_worker));
		CHECK_EQ(worker->eflags & (NT | CF), NT | CF);
		CHECK_EQ(worker->ecx, 0x02020202);
		CHECK_EQ(worker->gs & 0xffff, l->field == FIELD(gs) ? SPARE : 0);
		CHECK_EQ(MAIN->eip, AT(i & 1 ? tasks_int_end : tasks_call_end));
	}
}

/* CS and SS are good by then, so that a procedure can handle it, on the new task's stack. EXT says that an exception led there. */
static void handled_in_the_new_task(void)
{
	begin();
	worker->fs = BEYOND;
	run(tasks_call);
	trapped(TS, BEYOND);
	CHECK_EQ(legacy_results[0], TSS_WORKER);
	CHECK_EQ(legacy_results[61] & NT, NT);
	if (on_qemu_tcg()) /* which pushes the old task's EIP and its carry flag, and forgets EXT */
		return;
	CHECK_EQ(legacy_traps[3], AT(tasks_worker));
	CHECK_EQ(legacy_results[61] & CF, CF);
	begin();
	worker->fs = BEYOND;
	legacy_idt[UD] = gate(0, TSS_WORKER, 0x85);
	run(tasks_ud);
	trapped(TS, BEYOND | 1);
	CHECK_EQ(legacy_results[0], TSS_WORKER);
	CHECK_EQ(legacy_results[61] & RF, RF);
	begin();
	worker->cs = BASED;
	worker->eip = 0x10000;
	legacy_idt[UD] = gate(0, TSS_WORKER, 0x85);
	run(tasks_ud);
	trapped(GP, 1);
	CHECK_EQ(legacy_results[0], TSS_WORKER);
}

/* An error code that does not fit on the new stack. */
static void no_room_for_the_error(void)
{
	begin();
	gdt[SPARE / 8] = segment(0, 0xfff, 0x4097); /* expand-down: from 1000h */
	worker->ss = SPARE;
	worker->esp = 0x1002;
	legacy_idt[GP] = gate(0, TSS_WORKER, 0x85);
	legacy_idt[DF] = gate(0, TSS_FAULT, 0x85);
	run(tasks_gp);
	CHECK_EQ(tasks_fault.tr, TSS_FAULT); /* #SS during #GP */
	CHECK_EQ(tasks_fault.top, 0);
	CHECK_EQ(fault_task->link, TSS_WORKER);
	CHECK_EQ(worker->esp, 0x1002);
}

/* ---- debugging ---- */

static void trap_bit(void)
{
	begin();
	worker->trap = 1;
	run(tasks_call);
	trapped(DB, 0);
	CHECK_EQ(legacy_traps[3], AT(tasks_worker));
	CHECK_EQ(legacy_results[0], TSS_WORKER);
	begin();
	worker->trap = 1;
	tasks_then = AT(tasks_then_eoi);
	run(tasks_irq); /* and where no instruction led there */
	trapped(DB, 0);
	CHECK_EQ(legacy_traps[3], AT(tasks_worker));
	CHECK_EQ(legacy_results[0], TSS_WORKER);
	apic_write(APIC_EOI, 0);
	begin();
	legacy_idt[DB] = gate(0, TSS_FAULT, 0x85);
	legacy_idt[UD] = gate(0, TSS_WORKER, 0x85);
	worker->trap = 1;
	run(tasks_ud);
	CHECK_EQ(tasks_fault.tr, TSS_FAULT);
	CHECK_EQ(tasks_fault.dr6 & (DR6_BT | DR6_BS), DR6_BT);
	CHECK_EQ(fault_task->link, TSS_WORKER);
	CHECK_EQ(worker->eip, AT(tasks_worker));
	CHECK_EQ(worker->eflags & RF, 0);
}

/* TF of the TSS: behind the first instruction. */
static void single_step(void)
{
	begin();
	worker->eflags |= TF;
	run(tasks_call);
	trapped(DB, 0);
	CHECK_EQ(legacy_traps[3], AT(tasks_worker_second));
}

static void local_breakpoints(void)
{
	begin();
	tasks_dr7 = 0x4c9; /* L0 and G1, L3 and G3 */
	__asm__ volatile("mov %0, %%dr0; mov %0, %%dr1; mov %0, %%dr3" ::"r"(0x1ul));
	run(tasks_call);
	CHECK_EQ(tasks_seen.dr7 & 0xff, 0x88);
	CHECK_EQ(tasks_back.dr7 & 0xff, 0x88);
}

/* RF of the TSS keeps a breakpoint on the task's first instruction quiet, once. */
static void resume_flag(void)
{
	for (u32 i = 0; i < 2; i++) {
		begin();
		tasks_dr7 = 0x402; /* G0 */
		__asm__ volatile("mov %0, %%dr0" ::"r"((u64)tasks_worker));
		worker->eflags |= i ? RF : 0;
		run(tasks_call);
		CHECK_EQ(legacy_traps[0], !i);
		CHECK_EQ(tasks_runs, i);
	}
	__asm__ volatile("mov %0, %%dr0" ::"r"(0ul));
}

/* ---- paging ---- */

#define HIGH 0x40400000u /* maps 4 MiB (PAE: 2 MiB) from 400000h */
#define HIGH_TSS (HIGH + 0x2000)
static u32 other_directory[1024] PAGE_ALIGNED;
static u64 other_pdpt[4] __attribute__((aligned(32))), other_pae[512] PAGE_ALIGNED;

static void map_32(u32 *dir, u32 high)
{
	memset(dir, 0, 4096);
	for (u32 i = 0; i < 2; i++)
		dir[i] = i * 0x400000 | P | W | PS;
	dir[HIGH >> 22] = high | P | W | PS;
}

static void map_pae(u64 *pdpt, u64 *dir, u64 high)
{
	memset(dir, 0, 4096);
	for (u64 i = 0; i < 4; i++)
		dir[i] = i * 0x200000 | P | W | PS;
	if (high)
		dir[2 + 4] = high | P | W | PS; /* 1 GiB and 12 MiB is 12 MiB of the same directory */
	pdpt[0] = pdpt[1] = (u64)dir | P;
	pdpt[2] = pdpt[3] = 0;
}

static void paging_on(u32 cr3, u32 cr4)
{
	legacy_mode_cr3 = cr3;
	legacy_mode_cr4 = cr4;
}

static void paging_off(void)
{
	paging_on(0, 0);
}

/* CR3 is the task's, and its stack with it. */
static void own_address_space(void)
{
	map_32(legacy_page_directory, 0x400000);
	map_32(other_directory, 0x400000);
	other_directory[0x3ff] = 0x400000 | P | W | PS; /* only there */
	paging_on(AT(legacy_page_directory), 0x610);
	begin();
	worker->cr3 = AT(other_directory);
	worker->esp = 0xffc02000;
	*(volatile u32 *)0x402000 = 0x12344321;
	run(tasks_call);
	paging_off();
	check_main(tasks_call_end);
	CHECK_EQ(tasks_seen.top, 0x12344321);
	CHECK_EQ(tasks_seen.cr3, AT(other_directory));
	CHECK_EQ(tasks_back.cr3, AT(legacy_page_directory));
	CHECK_EQ(MAIN->cr3, AT(legacy_page_directory)); /* CR3 is not saved, but read */
}

static void own_address_space_pae(void)
{
	map_pae(legacy_pdpt, legacy_pae_directory, 0);
	map_pae(other_pdpt, other_pae, 0x400000);
	paging_on(AT(legacy_pdpt), 0x620);
	begin();
	worker->cr3 = AT(other_pdpt);
	worker->esp = 0x40c02000;
	*(volatile u32 *)0x402000 = 0x43211234;
	run(tasks_call);
	check_main(tasks_call_end);
	CHECK_EQ(tasks_seen.top, 0x43211234);
	CHECK_EQ(tasks_seen.cr3, AT(other_pdpt));
	CHECK_EQ(tasks_back.cr3, AT(legacy_pdpt));
	if (!on_qemu_tcg()) { /* which checks no PDPTE */
		begin();
		other_pdpt[3] = 0x1e0 | P;
		worker->cr3 = AT(other_pdpt);
		run(tasks_call);
		trapped(GP, 0);
		CHECK_EQ(legacy_results[0], TSS_MAIN);
		CHECK_EQ(access(TSS_WORKER) & BUSY, 0);
	}
	paging_off();
}

/* A TSS that is not mapped: #PF in the old task, and nothing has happened. With the second page only, too. */
static void tss_not_mapped(void)
{
	u32 at[] = {0x80000000, 0x3ffff000 + 0xfc0};

	map_32(legacy_page_directory, 0x400000);
	legacy_page_directory[0xff] = 0x400000 | P | W | PS; /* up to HIGH - 400000h */
	legacy_page_directory[HIGH >> 22] = 0;
	at[1] = (0xffu << 22) + 0x3fffc0;
	for (u32 i = 0; i < 2; i++) {
		paging_on(AT(legacy_page_directory), 0x610);
		begin();
		set_tss(TSS_WORKER, at[i], 0x67, 0x89);
		run(i ? tasks_int : tasks_call);
		paging_off();
		trapped(PF, legacy_traps[2] & 2);				   /* as the order of accesses is: a read or a write */
		CHECK_EQ(read_cr2() / PAGE, (i ? 0x40000000 : 0x80000000) / PAGE); /* which field is looked at first is open, 22.28.3 */
		CHECK_EQ(legacy_results[0], TSS_MAIN);
		CHECK_EQ(access(TSS_WORKER) & BUSY, 0);
		CHECK_EQ(legacy_traps[3], AT(i ? tasks_int : tasks_call));
	}
}

/* The stack has run out: #PF, and again while it is delivered. What #DF's task gate is for. */
static void double_fault_without_a_stack(void)
{
	map_32(legacy_page_directory, 0x400000);
	paging_on(AT(legacy_page_directory), 0x610);
	begin();
	legacy_idt[DF] = gate(0, TSS_FAULT, 0x85);
	run(tasks_bad_stack);
	paging_off();
	CHECK_EQ(tasks_fault.tr, TSS_FAULT);
	CHECK_EQ(tasks_fault.top, 0);
	CHECK_EQ(fault_task->link, TSS_MAIN);
	CHECK_EQ(MAIN->eip, AT(tasks_bad_stack_ud));
	CHECK_EQ(MAIN->esp, 0x80000010);
	CHECK_EQ(read_cr2(), 0x8000000c);
}

void guest_main(void)
{
	apic_enable();
	loop_check("by_call", by_call, 100);
	loop_check("by_jump", by_jump, 100);
	loop_check("jump_keeps_nt", jump_keeps_nt, 50);
	loop_check("entered_again", entered_again, 50);
	loop_check("nested_twice", nested_twice, 50);
	loop_check("own_ldt", own_ldt, 50);
	loop_check("to_a_busy_one", to_a_busy_one, 50);
	loop_check("from_ring3", from_ring3, 50);
	loop_check("to_ring3", to_ring3, 50);
	loop_check("from_v86", from_v86, 50);
	loop_check("to_v86", to_v86, 50);
	loop_check("to_16_bits", to_16_bits, 50);
	loop_check("exception_in_16_bits", exception_in_16_bits, 50);
	loop_check("from_16_bits", from_16_bits, 50);
	loop_check("by_exception", by_exception, 50);
	loop_check("by_interrupt", by_interrupt, 50);
	loop_check("by_nmi", by_nmi, 50);
	loop_check("double_fault", double_fault, 50);
	loop_check("refused", refused, 30);
	loop_check("behind_the_switch", behind_the_switch, 30);
	loop_check("handled_in_the_new_task", handled_in_the_new_task, 50);
	if (!on_qemu_tcg()) /* which checks no limits */
		loop_check("no_room_for_the_error", no_room_for_the_error, 50);
	if (!on_qemu_tcg()) /* which has no T bit */
		loop_check("trap_bit", trap_bit, 50);
	loop_check("single_step", single_step, 50);
	loop_check("local_breakpoints", local_breakpoints, 50);
	loop_check("resume_flag", resume_flag, 50);
	loop_check("own_address_space", own_address_space, 50);
	loop_check("own_address_space_pae", own_address_space_pae, 50);
	loop_check("tss_not_mapped", tss_not_mapped, 50);
	loop_check("double_fault_without_a_stack", double_fault_without_a_stack, 50);
}
