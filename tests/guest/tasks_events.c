/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tasks that interrupts and exceptions lead to, with their error codes, #DF among them; what switches have to do with debugging; address spaces of
 * tasks. SDM vol. 3, 8.3, 6.12.2, 17.3.1.5, 4.4.1.
 */
#include "tasks.h"

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

static u32 other_directory[1024] PAGE_ALIGNED;
static u64 other_pdpt[4] __attribute__((aligned(32))), other_pae[512] PAGE_ALIGNED;

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
	loop_check("exception_in_16_bits", exception_in_16_bits, 50);
	loop_check("by_exception", by_exception, 50);
	loop_check("by_interrupt", by_interrupt, 50);
	loop_check("by_nmi", by_nmi, 50);
	loop_check("double_fault", double_fault, 50);
	if (!on_qemu_tcg()) /* which has no T bit */
		loop_check("trap_bit", trap_bit, 50);
	loop_check("single_step", single_step, 50);
	loop_check("local_breakpoints", local_breakpoints, 50);
	loop_check("resume_flag", resume_flag, 50);
	loop_check("own_address_space", own_address_space, 50);
	loop_check("own_address_space_pae", own_address_space_pae, 50);
	loop_check("double_fault_without_a_stack", double_fault_without_a_stack, 50);
}
