/* SPDX-License-Identifier: Apache-2.0 */
/* See tasks.h. */
#include "tasks.h"

struct tasks_space space PAGE_ALIGNED;
u8 fault_stack[1024] __attribute__((aligned(16)));

u64 gate(u64 to, u32 sel, u32 type_dpl)
{
	return (to & 0xffff) | (u64)sel << 16 | (u64)type_dpl << 40 | (to >> 16 & 0xffff) << 48;
}

u64 segment(u64 base, u64 limit, u64 attr)
{
	return (limit & 0xffff) | (base & 0xffffff) << 16 | (attr & 0xf0ff) << 40 | (limit >> 16 & 15) << 48 | (base >> 24 & 0xff) << 56;
}

void set_tss(u32 sel, u64 base, u64 limit, u32 attr)
{
	gdt[sel / 8] = segment(base, limit, attr);
}

void make_task(volatile struct tss32 *t, const void *entry, const void *stack)
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

void begin(void)
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

void run(const u8 *what)
{
	tasks_do = AT(what);
	legacy_call(tasks_main);
	gdt[SEL_TSS / 8] &= ~(2ul << 40);
	__asm__ volatile("clts; ltr %w0" ::"r"(SEL_TSS) : "memory");
	gdt[LDT / 8] = segment((u64)space.ldt, sizeof(space.ldt) - 1, 0x82);
	write_dr6(0xffff0ff0);
}

u32 access(u32 sel)
{
	return (u32)(gdt[sel / 8] >> 40) & 0xff;
}

void trapped(u32 vector, u32 error)
{
	CHECK_EQ(legacy_traps[0], 1);
	CHECK_EQ(legacy_traps[1], vector);
	CHECK_EQ(legacy_traps[2], error);
}

void check_worker(bool nested)
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

/* DF is set in it, and nobody else's. */
void check_main(const void *eip)
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

void make_small(void)
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

void map_32(u32 *dir, u32 high)
{
	memset(dir, 0, 4096);
	for (u32 i = 0; i < 2; i++)
		dir[i] = i * 0x400000 | P | W | PS;
	dir[HIGH >> 22] = high | P | W | PS;
}

void paging_on(u32 cr3, u32 cr4)
{
	legacy_mode_cr3 = cr3;
	legacy_mode_cr4 = cr4;
}

void paging_off(void)
{
	paging_on(0, 0);
}
