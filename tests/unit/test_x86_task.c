/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hardware task switches, as far as the bare-metal guests (tests/guest/tasks*.c) cannot see them: that a refused one changes nothing at all, what is flushed,
 * TSSs that overlap or wrap, flags between two instructions, and what the environment is told.
 */
#include "x86_machine.h"

#include "x86/internal.h"

#define S_NEW S_GATE /* the new task's TSS */
#define M_NEW 0x3800u
#define ENTRY 0x6000u
#define NEW_STACK 0x28000u
#define NEXT 0x5007u

static void poke32(struct machine *m, u32 at, u32 v)
{
	memcpy(m->ram + at, &v, 4);
}

static u32 peek32(const struct machine *m, u32 at)
{
	return (u32)m_peek(m, at);
}

static void tss_desc(struct machine *m, u32 sel, u32 base, u32 limit, u32 attr)
{
	m_desc(m, sel, limit | (u64)(base & 0xffffff) << 16 | (u64)attr << 40 | (u64)(base >> 24) << 56);
}

static u32 access(const struct machine *m, u32 sel)
{
	return m->ram[M_GDT + (sel & 0xfff8) + 5];
}

static void fill_tss(struct machine *m, u32 at)
{
	static const u32 segs[] = {S_DATA, S_CODE32, S_DATA, S_DATA, S_UDATA, 0};

	poke32(m, at + 0x1c, M_PML4);
	poke32(m, at + 0x20, ENTRY);
	poke32(m, at + 0x24, FL_ONE | FL_CF);
	for (u32 i = 0; i < 8; i++)
		poke32(m, at + 0x28 + i * 4, 0x1000 + i);
	poke32(m, at + 0x38, NEW_STACK);
	for (u32 i = 0; i < ARRAY_SIZE(segs); i++)
		poke32(m, at + 0x48 + i * 4, segs[i]);
}

/* In the old task, with a new one that is fine. */
static void start(struct machine *m)
{
	m_prot32(m);
	fill_tss(m, M_NEW);
	tss_desc(m, S_NEW, M_NEW, 0x67, 0x89);
	m->c.rflags = FL_ONE | FL_DF | FL_RF;
	for (u32 i = 0; i < 8; i++)
		m->c.gpr[i] = 0xa000 + i;
	m->c.gpr[R_RSP] = M_STACK;
}

/* 32-bit paging: the first 2 MiB, page by page, all of it used before. */
static void map_small_pages(struct machine *m)
{
	for (u32 k = 0; k < 512; k++)
		poke32(m, M_PT + k * 4, k << 12 | (u32)(P | W | A | D));
	memset(m->ram + M_PML4, 0, 4096);
	poke32(m, M_PML4, M_PT | (u32)(P | W | A));
	memset(m->ram + M_PT + 2048, 0, 2048);
	m->c.cr3 = M_PML4;
	m->c.cr0 |= CR0_PG | CR0_WP;
}

static void check_new(const struct machine *m)
{
	assert_true(m->c.task_switched);
	assert_int_equal(m->c.tr.sel, S_NEW);
	assert_int_equal(m->c.tr.base, M_NEW);
	assert_int_equal(m->c.tr.attr, 0x8b);
	assert_int_equal(m->c.rip, ENTRY);
	assert_int_equal(m->c.gpr[R_RDI], 0x1007);
	assert_int_equal(m->c.gpr[R_RSP], NEW_STACK);
	assert_int_equal(m->c.seg[SEG_CS].attr, 0xc09b);
	assert_int_equal(m->c.seg[SEG_FS].sel, S_UDATA);
	assert_true(m->c.seg[SEG_GS].attr & SEGA_UNUSABLE);
	assert_true(m->c.cr0 & CR0_TS);
	assert_true(m->modes > 0);
}

static void test_there_and_back(void **state)
{
	struct machine m;

	start(&m);
	poke32(&m, M_TSS + 0x48, 0xffffffff);
	assert_true(x86_far_call(&m.c, S_NEW, 0x12345678, 4, NEXT));
	check_new(&m);
	assert_int_equal(m.c.rflags, FL_ONE | FL_CF | FL_NT);
	assert_int_equal(peek32(&m, M_TSS + 0x20), NEXT);
	assert_int_equal(peek32(&m, M_TSS + 0x24), FL_ONE | FL_DF); /* the instruction has completed: no RF */
	assert_int_equal(peek32(&m, M_TSS + 0x28), 0xa000);
	assert_int_equal(peek32(&m, M_TSS + 0x48), S_DATA); /* a slot is written whole, SDM vol. 3, 22.28.2 */
	assert_int_equal(m.ram[M_NEW], S_TSS);
	assert_int_equal(access(&m, S_TSS), 0x8b);
	assert_int_equal(access(&m, S_NEW), 0x8b);
	m.c.nmi_blocked = true;
	assert_true(x86_iret(&m.c, 4, ENTRY + 1));
	assert_int_equal(m.c.tr.sel, S_TSS);
	assert_int_equal(m.c.rip, NEXT);
	assert_int_equal(m.c.gpr[R_RDI], 0xa007);
	assert_int_equal(m.c.rflags, FL_ONE | FL_DF);
	assert_int_equal(peek32(&m, M_NEW + 0x20), ENTRY + 1);
	assert_int_equal(peek32(&m, M_NEW + 0x24), FL_ONE | FL_CF);
	assert_int_equal(access(&m, S_TSS), 0x8b);
	assert_int_equal(access(&m, S_NEW), 0x89);
	assert_false(m.c.nmi_blocked);
	m_free(&m);
}

static void test_reserved_flags_stay_out(void **state)
{
	struct machine m;

	start(&m);
	poke32(&m, M_NEW + 0x24, ~(u32)FL_VM);
	assert_true(x86_far_jump(&m.c, S_NEW, 0, 4, NEXT));
	assert_int_equal(m.c.rflags, FL_ONE | FL_ARITH | FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT | FL_RF | FL_AC | FL_ID);
	m_free(&m);
}

/* ---- refused: nothing at all has changed ---- */

struct wrong {
	u32 old_limit, gdt_limit;
	u32 new_base, new_limit, new_attr;
	u32 vector, error;
};

static void test_refusals_change_nothing(void **state)
{
	static const struct wrong cases[] = {
		{0x67, 0xff, M_NEW, 0x66, 0x89, VEC_TS, S_NEW},	 {0x67, 0xff, M_NEW, 0x2a, 0x81, VEC_TS, S_NEW},
		{0x67, 0xff, M_NEW, 0x67, 0x8b, VEC_GP, S_NEW},	 {0x67, 0xff, M_NEW, 0x67, 0x09, VEC_NP, S_NEW},
		{0x67, 0xff, M_NEW, 0x67, 0x82, VEC_GP, S_NEW},	 {0x5e, 0xff, M_NEW, 0x67, 0x89, VEC_TS, S_TSS},
		{0x67, S_NEW, M_NEW, 0x67, 0x89, VEC_GP, S_NEW}, {0x67, 0xff, 0x200000, 0x67, 0x89, VEC_PF, 0},
		{0x67, 0xff, 0x1fffa0, 0x67, 0x89, VEC_PF, 0},	 {0x67, 0xff, 0x1fffff, 0x67, 0x89, VEC_PF, 0},
		{0x67, 0xff, 0x201000, 0x67, 0x89, VEC_PF, 0},
	};
	static u8 before[M_RAM];

	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		struct machine m;
		struct x86_cpu cpu;

		start(&m);
		m.c.tr.limit = cases[i].old_limit;
		m.c.gdt.limit = (u16)cases[i].gdt_limit;
		map_small_pages(&m);
		tss_desc(&m, S_NEW, cases[i].new_base, cases[i].new_limit, cases[i].new_attr);
		cpu = m.c;
		memcpy(before, m.ram, M_RAM);
		if (x86_far_call(&m.c, S_NEW, 0, 4, NEXT))
			fail_msg("case %u went through", i);
		assert_fault(&m, cases[i].vector, cases[i].error);
		assert_memory_equal(before, m.ram, M_RAM);
		m.c.fault = cpu.fault;
		assert_memory_equal(&cpu, &m.c, sizeof(cpu));
		m_free(&m);
	}
}

/* Read-only pages: the old TSS, the new one's link, the descriptors. */
static void test_unwritable_pages_change_nothing(void **state)
{
	static const u32 pages[] = {M_TSS, M_NEW, M_GDT};
	static u8 before[M_RAM];

	for (u32 i = 0; i < ARRAY_SIZE(pages); i++) {
		struct machine m;

		start(&m);
		map_small_pages(&m);
		tss_desc(&m, S_NEW, 0x8000, 0x67, 0x89);
		fill_tss(&m, 0x8000);
		poke32(&m, M_PT + (pages[i] == M_NEW ? 8 : pages[i] >> 12) * 4, (pages[i] == M_NEW ? 0x8000 : pages[i]) | (u32)(P | A));
		memcpy(before, m.ram, M_RAM);
		assert_false(x86_far_call(&m.c, S_NEW, 0, 4, NEXT));
		assert_fault(&m, VEC_PF, 3);
		assert_memory_equal(before, m.ram, M_RAM);
		assert_int_equal(m.c.tr.sel, S_TSS);
		assert_int_equal(m.c.rip, 0x5000);
		m_free(&m);
	}
}

/* Beyond the GDT its own descriptor cannot be released, which JMP and IRET need and CALL does not. */
static void test_old_descriptor_beyond_the_table(void **state)
{
	struct machine m;

	start(&m);
	tss_desc(&m, 0x8, M_NEW, 0x67, 0x89);
	m.c.gdt.limit = S_TSS - 1;
	assert_false(x86_far_jump(&m.c, 0x8, 0, 4, NEXT));
	assert_fault(&m, VEC_TS, S_TSS);
	assert_int_equal(access(&m, 0x8), 0x89);
	assert_true(x86_far_call(&m.c, 0x8, 0, 4, NEXT));
	assert_int_equal(m.c.tr.sel, 0x8);
	m_free(&m);
}

/* ---- CR3 ---- */

static void test_cr3(void **state)
{
	struct machine m;

	start(&m);
	m.c.cr3 = 0x7000; /* without paging it stays */
	assert_true(x86_far_call(&m.c, S_NEW, 0, 4, NEXT));
	assert_int_equal(m.c.cr3, 0x7000);
	assert_int_equal(m.flush_pcid, 0);
	m_free(&m);

	for (u32 other = 0; other < 2; other++) {
		u32 root = other ? 0x15000 : 0x14000;

		start(&m);
		for (u32 at = 0x14000; at <= 0x15000; at += 0x1000)
			poke32(&m, at, 0 | (u32)(P | W | PS));
		m.c.cr4 = CR4_PSE;
		m.c.cr3 = 0x14000;
		m.c.cr0 |= CR0_PG;
		poke32(&m, M_NEW + 0x1c, root);
		assert_true(x86_far_call(&m.c, S_NEW, 0, 4, NEXT));
		assert_int_equal(m.c.cr3, root);
		assert_int_equal(m.flush_pcid, other); /* only where it changes: SDM vol. 3, 4.10.4.1 */
		m_free(&m);
	}
}

static void test_bad_pdptes_refuse(void **state)
{
	struct machine m;

	start(&m);
	m_poke(&m, 0x14000, 0x15000 | P);
	m_poke(&m, 0x15000, 0 | P | W | PS);
	m_poke(&m, 0x16000, 0x15000 | P | W); /* W is reserved there */
	m.c.cr4 = CR4_PAE;
	m.c.cr3 = 0x14000;
	m.c.cr0 |= CR0_PG;
	poke32(&m, M_NEW + 0x1c, 0x16000);
	assert_false(x86_far_call(&m.c, S_NEW, 0, 4, NEXT));
	assert_fault(&m, VEC_GP, 0);
	assert_int_equal(m.c.tr.sel, S_TSS);
	assert_int_equal(access(&m, S_NEW), 0x89);
	m_free(&m);
}

/* ---- odd TSSs ---- */

/* Two descriptors of one TSS: what was saved is what is loaded. */
static void test_one_tss_twice(void **state)
{
	struct machine m;

	start(&m);
	tss_desc(&m, S_NEW, M_TSS, 0x67, 0x89);
	assert_true(x86_far_jump(&m.c, S_NEW, 0, 4, NEXT));
	assert_int_equal(m.c.tr.sel, S_NEW);
	assert_int_equal(m.c.rip, NEXT);
	assert_int_equal(m.c.gpr[R_RSI], 0xa006);
	assert_int_equal(m.c.rflags, FL_ONE | FL_DF);
	assert_int_equal(access(&m, S_TSS), 0x89);
	m_free(&m);
}

/* The new TSS lies over the GDT: what is written there meanwhile is what counts. */
static void test_no_table_is_trusted_twice(void **state)
{
	struct machine m;

	for (u32 at = 0; at < 0x100; at += 4) {
		start(&m);
		tss_desc(&m, S_NEW, M_GDT + at, 0x67, 0x89);
		m.c.tr.base = M_GDT + at / 2;
		x86_interrupt(&m.c, 3, INT_EXCEPTION, false, 0);
		m.c.triple_fault = false;
		if (!x86_far_call(&m.c, S_NEW, 0, 4, NEXT))
			assert_true(m.c.fault.pending);
		m_free(&m);
	}
}

static void test_tss_at_the_end_of_addresses(void **state)
{
	struct machine m;

	start(&m);
	tss_desc(&m, S_NEW, 0xffffffc0, 0x67, 0x89);
	if (!x86_far_call(&m.c, S_NEW, 0, 4, NEXT))
		assert_true(m.c.fault.pending);
	m_free(&m);
}

/* Another CPU takes the task between the check and the exchange. */
static void take_busy(void *opaque, gpa_t gpa, u32 len)
{
	struct machine *m = opaque;

	if (gpa == M_GDT + S_NEW + 5)
		m->ram[gpa] |= 2;
}

static void test_another_cpu_is_faster(void **state)
{
	struct machine m;

	start(&m);
	m.env.ram_will_write = take_busy;
	assert_false(x86_far_call(&m.c, S_NEW, 0, 4, NEXT));
	assert_fault(&m, VEC_TS, S_NEW);
	assert_int_equal(m.c.tr.sel, S_TSS);
	assert_int_equal(m.c.rip, 0x5000);
	assert_int_equal(peek32(&m, M_TSS + 0x20), 0);
	m_free(&m);
}

/* ---- interrupts ---- */

static void task_gate(struct machine *m, u32 vec, u32 sel, u32 dpl)
{
	m_gate32(m, vec, 0, sel, 5, dpl);
}

static void test_soft_interrupt(void **state)
{
	struct machine m;

	start(&m);
	task_gate(&m, 0x80, S_NEW, 3);
	assert_true(x86_soft_interrupt(&m.c, 0x80, NEXT));
	check_new(&m);
	assert_int_equal(peek32(&m, M_TSS + 0x20), NEXT);
	assert_int_equal(peek32(&m, M_TSS + 0x24), FL_ONE | FL_DF);
	m_free(&m);

	start(&m);
	task_gate(&m, 0x80, S_TSS, 3); /* busy */
	assert_false(x86_soft_interrupt(&m.c, 0x80, NEXT));
	assert_fault(&m, VEC_GP, S_TSS);
	assert_int_equal(m.c.rip, 0x5000);
	assert_int_equal(m.c.rflags, FL_ONE | FL_DF | FL_RF);
	m_free(&m);

	start(&m);
	task_gate(&m, 0x80, S_NEW, 3);
	poke32(&m, M_NEW + 0x54, 0x100); /* DS */
	assert_false(x86_soft_interrupt(&m.c, 0x80, NEXT));
	assert_fault(&m, VEC_TS, 0x100);
	assert_int_equal(m.c.rip, ENTRY);
	assert_int_equal(m.c.tr.sel, S_NEW);
	assert_int_equal(m.c.rflags, FL_ONE | FL_CF | FL_NT | FL_RF);
	m_free(&m);
}

/* A fault of the new task while an exception is delivered counts with that one: #TS during #GP is #DF. */
static void test_faults_behind_the_switch_combine(void **state)
{
	struct machine m;

	start(&m);
	task_gate(&m, VEC_GP, S_NEW, 0);
	m_gate32(&m, VEC_DF, 0x7000, S_CODE32, 0xe, 0);
	m_gate32(&m, VEC_TS, 0x7100, S_CODE32, 0xe, 0);
	poke32(&m, M_NEW + 0x54, 0x100);
	x86_interrupt(&m.c, VEC_GP, INT_EXCEPTION, true, 0);
	assert_false(m.c.triple_fault);
	assert_int_equal(m.c.rip, 0x7000);
	assert_int_equal(m.c.tr.sel, S_NEW);
	m_free(&m);

	start(&m);
	task_gate(&m, 0x30, S_NEW, 0); /* and with an interrupt it does not */
	m_gate32(&m, VEC_TS, 0x7100, S_CODE32, 0xe, 0);
	poke32(&m, M_NEW + 0x54, 0x100);
	x86_interrupt(&m.c, 0x30, INT_HARDWARE, false, 0);
	assert_int_equal(m.c.rip, 0x7100);
	assert_int_equal(peek32(&m, (u32)m.c.gpr[R_RSP]), 0x101);
	assert_int_equal(peek32(&m, (u32)m.c.gpr[R_RSP] + 4), ENTRY);
	assert_true(peek32(&m, (u32)m.c.gpr[R_RSP] + 12) & FL_RF);
	m_free(&m);
}

static void test_double_fault_task_that_fails(void **state)
{
	struct machine m;

	start(&m);
	task_gate(&m, VEC_DF, S_NEW, 0);
	poke32(&m, M_NEW + 0x4c, 0); /* CS */
	x86_interrupt(&m.c, VEC_DF, INT_EXCEPTION, true, 0);
	assert_true(m.c.triple_fault);
	m_free(&m);
}

/* ---- debugging ---- */

static void test_debug_state(void **state)
{
	struct machine m;

	start(&m);
	m.c.dr[7] = 0x7ff;
	m.c.debug_shadow = true;
	poke32(&m, M_NEW + 0x64, 1);
	assert_true(x86_far_jump(&m.c, S_NEW, 0, 4, NEXT));
	assert_int_equal(m.c.dr[7], 0x7aa);
	assert_int_equal(m.c.dr6_pending, DR6_BT);
	assert_true(x86_take_debug_trap(&m.c));
	assert_int_equal(m.c.fault.dr6_set, DR6_BT);
	m_free(&m);

	start(&m);
	poke32(&m, M_NEW + 0x64, 1);
	poke32(&m, M_NEW + 0x54, 0x100);
	assert_false(x86_far_jump(&m.c, S_NEW, 0, 4, NEXT));
	assert_int_equal(m.c.dr6_pending, 0); /* a fault comes first, and the trap not any more */
	m_free(&m);
}

/* From virtual-8086 mode into a 16-bit TSS, which has no VM. */
static void test_v86_to_16_bits(void **state)
{
	struct machine m;
	u16 t[22] = {0};

	start(&m);
	for (u32 i = 0; i < SEG_COUNT; i++)
		x86_seg_v86(&m.c.seg[i], 0x700);
	m.c.rflags = FL_ONE | FL_VM | FL_IOPL;
	m.c.rip = 0x10;
	t[7] = 0x1234;
	t[8] = FL_ONE | FL_CF;
	t[17] = t[20] = t[19] = S_DATA;
	t[18] = S_CODE16;
	memcpy(m.ram + M_NEW, t, sizeof(t));
	tss_desc(&m, S_NEW, M_NEW, 0x2b, 0x81);
	task_gate(&m, 0x80, S_NEW, 3);
	assert_true(x86_soft_interrupt(&m.c, 0x80, 0x12));
	assert_int_equal(m.c.rip, 0x1234);
	assert_int_equal(m.c.rflags, FL_ONE | FL_CF | FL_NT);
	assert_int_equal(x86_cpl(&m.c), 0);
	assert_int_equal(m.c.gpr[R_RAX], 0);
	assert_true(m.c.seg[SEG_FS].attr & SEGA_UNUSABLE);
	assert_int_equal(peek32(&m, M_TSS + 0x24), FL_ONE | FL_VM | FL_IOPL);
	m.c.rip = 0x1235;
	assert_true(x86_iret(&m.c, 2, 0x1236));
	assert_true(x86_v86(&m.c));
	assert_int_equal(x86_cpl(&m.c), 3);
	assert_int_equal(m.c.seg[SEG_SS].base, 0x7000);
	m_free(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_there_and_back),
		cmocka_unit_test(test_reserved_flags_stay_out),
		cmocka_unit_test(test_refusals_change_nothing),
		cmocka_unit_test(test_unwritable_pages_change_nothing),
		cmocka_unit_test(test_old_descriptor_beyond_the_table),
		cmocka_unit_test(test_cr3),
		cmocka_unit_test(test_bad_pdptes_refuse),
		cmocka_unit_test(test_one_tss_twice),
		cmocka_unit_test(test_no_table_is_trusted_twice),
		cmocka_unit_test(test_tss_at_the_end_of_addresses),
		cmocka_unit_test(test_another_cpu_is_faster),
		cmocka_unit_test(test_soft_interrupt),
		cmocka_unit_test(test_faults_behind_the_switch_combine),
		cmocka_unit_test(test_double_fault_task_that_fails),
		cmocka_unit_test(test_debug_state),
		cmocka_unit_test(test_v86_to_16_bits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
