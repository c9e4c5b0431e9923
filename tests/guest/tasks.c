/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hardware task switches: every way into a task and back, from each ring and mode, with TSSs of both sizes; what is saved and loaded, the busy bit, NT, the
 * back link. SDM vol. 3, chapter 8; vol. 2, JMP, CALL, INT, IRET.
 */
#include "tasks.h"

/* ---- there and back ---- */

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

void guest_main(void)
{
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
	loop_check("from_16_bits", from_16_bits, 50);
}
