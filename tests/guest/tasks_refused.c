/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each condition that refuses a task switch: before it, when the old task is left as it was, and behind it, when the fault is the new task's.
 * SDM vol. 3, table 8-1, 6.15 (#TS); vol. 2, JMP, CALL, INT, IRET.
 */
#include "tasks.h"

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
static void tss_in_ldt(void)
{
	space.ldt[3] = gdt[TSS_WORKER / 8];
}
static void gate_to_ldt(void)
{
	gdt[GATE / 8] = gate(0, 0x1c, 0xe5);
	tss_in_ldt();
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

/* QEMU 7.2 raises #TS where a TSS's selector names the LDT, forgets EXT and looks at no limit of the old TSS. */
static const struct refusal not_in_qemu[] = {
	{tasks_call_tss_ldt, GP, 0x1c, tss_in_ldt},	{tasks_call_gate, GP, 0x1c, gate_to_ldt},
	{tasks_ud, GP, TSS_WORKER | 1, fault_to_busy},	{tasks_ud, NP, TSS_WORKER | 1, fault_to_absent},
	{tasks_ud, TS, TSS_WORKER | 1, fault_to_short}, {tasks_call, TS, TSS_MAIN, main_short},
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

void guest_main(void)
{
	loop_check("refused", refused, 30);
	loop_check("behind_the_switch", behind_the_switch, 30);
	loop_check("handled_in_the_new_task", handled_in_the_new_task, 50);
	if (!on_qemu_tcg()) /* which checks no limits */
		loop_check("no_room_for_the_error", no_room_for_the_error, 50);
	loop_check("tss_not_mapped", tss_not_mapped, 50);
}
