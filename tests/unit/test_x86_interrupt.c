/* SPDX-License-Identifier: Apache-2.0 */
/* Interrupt and exception delivery in every mode, double and triple faults, and the way back by IRET. */
#include "x86_machine.h"

#define HANDLER 0xffffffff81234560ull

static void test_same_privilege(void **state)
{
	struct machine m;

	m_long(&m);
	m.c.gpr[R_RSP] = M_STACK + 8;
	m.c.rflags = FL_ONE | FL_IF | FL_TF | FL_NT | FL_AC | FL_CF;
	m.c.halted = true;
	m_gate(&m, 0x21, HANDLER, S_CODE64, 0xe, 0, 0);
	x86_interrupt(&m.c, 0x21, INT_HARDWARE, false, 0);
	assert_false(m.c.fault.pending || m.c.halted || m.c.triple_fault);
	assert_int_equal(m.c.rip, HANDLER);
	assert_int_equal(m.c.gpr[R_RSP], M_STACK - 40); /* aligned down to 16 first */
	assert_int_equal(m.c.rflags, FL_ONE | FL_AC | FL_CF);
	assert_int_equal(m_peek(&m, M_STACK - 40), 0x5000);
	assert_int_equal(m_peek(&m, M_STACK - 32), S_CODE64);
	assert_int_equal(m_peek(&m, M_STACK - 24), FL_ONE | FL_IF | FL_TF | FL_NT | FL_AC | FL_CF);
	assert_int_equal(m_peek(&m, M_STACK - 16), M_STACK + 8);
	assert_int_equal(m_peek(&m, M_STACK - 8), S_DATA);
	assert_int_equal(m.c.seg[SEG_SS].sel, S_DATA);
	m_free(&m);
}

static void test_trap_gate_keeps_if(void **state)
{
	struct machine m;

	m_long(&m);
	m.c.rflags |= FL_IF;
	m_gate(&m, 3, HANDLER, S_CODE64, 0xf, 3, 0);
	assert_true(x86_soft_interrupt(&m.c, 3, 0x5001));
	assert_true(m.c.rflags & FL_IF);
	assert_int_equal(m_peek(&m, M_STACK - 40), 0x5001);
	m_free(&m);
}

static void test_error_code_and_page_fault_from_user(void **state)
{
	struct machine m;

	m_long(&m);
	m_user64(&m);
	m.c.gpr[R_RSP] = 0x7fff1238;
	m_gate(&m, VEC_PF, HANDLER, S_CODE64, 0xe, 0, 0);
	assert_false(x86_raise_pf(&m.c, 0xdead000, 7));
	assert_false(x86_raise(&m.c, VEC_UD)); /* the first one wins */
	x86_deliver_fault(&m.c);
	assert_false(m.c.fault.pending);
	assert_int_equal(m.c.cr2, 0xdead000);
	assert_int_equal(x86_cpl(&m.c), 0);
	assert_int_equal(m.c.seg[SEG_SS].sel, 0);
	assert_int_equal(m.c.gpr[R_RSP], 0x30000 - 48);
	assert_int_equal(m_peek(&m, 0x30000 - 48), 7);
	assert_int_equal(m_peek(&m, 0x30000 - 40), 0x5000);
	assert_int_equal(m_peek(&m, 0x30000 - 32), S_UCODE64);
	assert_int_equal(m_peek(&m, 0x30000 - 24), FL_ONE | FL_RF);
	assert_int_equal(m_peek(&m, 0x30000 - 16), 0x7fff1238);
	assert_int_equal(m_peek(&m, 0x30000 - 8), S_UDATA);
	assert_true(m.modes > 0);
	m_free(&m);
}

static void test_ist(void **state)
{
	struct machine m;

	m_long(&m);
	m_gate(&m, VEC_NMI, HANDLER, S_CODE64, 0xe, 0, 1);
	x86_interrupt(&m.c, VEC_NMI, INT_HARDWARE, false, 0);
	assert_true(m.c.nmi_blocked);
	assert_int_equal(m.c.gpr[R_RSP], 0x38000 - 40);
	assert_int_equal(m_peek(&m, 0x38000 - 16), M_STACK);
	assert_true(x86_iret(&m.c, 8, m.c.rip + 1));
	assert_false(m.c.nmi_blocked);
	assert_int_equal(m.c.gpr[R_RSP], M_STACK);
	assert_int_equal(m.c.rip, 0x5000);
	m_free(&m);
}

struct refusal {
	const char *why;
	u32 type, dpl, sel;
	u64 rip;
	u32 clear; /* bits cleared in the gate's attribute byte */
	u32 vector, error;
};

static void test_gates_that_refuse_int_n(void **state)
{
	static const struct refusal cases[] = {
		{"gate DPL", 0xe, 0, S_CODE64, HANDLER, 0, VEC_GP, 0x80 * 8 + 2},
		{"gate type", 0xc, 3, S_CODE64, HANDLER, 0, VEC_GP, 0x80 * 8 + 2},
		{"32-bit task gate", 0x5, 3, S_CODE64, HANDLER, 0, VEC_GP, 0x80 * 8 + 2},
		{"not present", 0xe, 3, S_CODE64, HANDLER, 0x80, VEC_NP, 0x80 * 8 + 2},
		{"null selector", 0xe, 3, 0, HANDLER, 0, VEC_GP, 0},
		{"not code", 0xe, 3, S_DATA, HANDLER, 0, VEC_GP, S_DATA},
		{"not 64-bit", 0xe, 3, S_CODE32, HANDLER, 0, VEC_GP, S_CODE32},
		{"outside the GDT", 0xe, 3, 0x100, HANDLER, 0, VEC_GP, 0x100},
		{"not canonical", 0xe, 3, S_CODE64, 0x800000000000ull, 0, VEC_GP, 0},
	};

	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct refusal *t = &cases[i];
		struct machine m;

		m_long(&m);
		m_user64(&m);
		m_gate(&m, 0x80, t->rip, t->sel, t->type, t->dpl, 0);
		m.ram[M_IDT + 0x80 * 16 + 5] &= (u8)~t->clear;
		if (x86_soft_interrupt(&m.c, 0x80, 0x5002))
			fail_msg("%s: delivered", t->why);
		assert_fault(&m, t->vector, t->error);
		assert_int_equal(m.c.rip, 0x5000);
		assert_int_equal(x86_cpl(&m.c), 3);
		m_free(&m);
	}
}

static void test_idt_limit(void **state)
{
	struct machine m;

	m_long(&m);
	m.c.idt.limit = 0x80 * 16 + 14;
	assert_false(x86_soft_interrupt(&m.c, 0x80, 0x5002));
	assert_fault(&m, VEC_GP, 0x80 * 8 + 2);
	m_gate(&m, VEC_GP, HANDLER, S_CODE64, 0xe, 0, 0);
	x86_interrupt(&m.c, 0xf0, INT_HARDWARE, false, 0); /* becomes #GP with EXT set */
	assert_int_equal(m.c.rip, HANDLER);
	assert_int_equal(m_peek(&m, M_STACK - 48), 0xf0 * 8 + 3);
	m_free(&m);
}

static void test_double_fault(void **state)
{
	struct machine m;

	m_long(&m);
	m_gate(&m, VEC_DF, HANDLER, S_CODE64, 0xe, 0, 1);
	m.c.gpr[R_RSP] = 0x900000; /* not mapped */
	m_gate(&m, VEC_PF, HANDLER + 16, S_CODE64, 0xe, 0, 0);
	x86_raise_pf(&m.c, 0x123000, 0);
	x86_deliver_fault(&m.c);
	assert_false(m.c.triple_fault);
	assert_int_equal(m.c.rip, HANDLER);
	assert_int_equal(m.c.cr2, 0x900000 - 8); /* SS is pushed first */
	assert_int_equal(m_peek(&m, 0x38000 - 48), 0);
	m_free(&m);
}

static void test_contributory_then_page_fault_is_serial(void **state)
{
	struct machine m;

	m_long(&m);
	m.c.gpr[R_RSP] = 0x900000;
	m_gate(&m, VEC_GP, HANDLER, S_CODE64, 0xe, 0, 0);
	m_gate(&m, VEC_PF, HANDLER + 16, S_CODE64, 0xe, 0, 1);
	x86_raise_err(&m.c, VEC_GP, 0x18);
	x86_deliver_fault(&m.c);
	assert_int_equal(m.c.rip, HANDLER + 16);
	assert_int_equal(m_peek(&m, 0x38000 - 48), 2);
	m_free(&m);
}

static void test_triple_fault(void **state)
{
	struct machine m;

	m_long(&m);
	m.c.idt.limit = 0;
	x86_raise(&m.c, VEC_UD);
	x86_deliver_fault(&m.c);
	assert_true(m.c.triple_fault);
	assert_false(m.c.fault.pending);
	m_free(&m);
}

static void test_tss_too_short_and_bad_stack(void **state)
{
	struct machine m;

	m_long(&m);
	m_user64(&m);
	m_gate(&m, 0x80, HANDLER, S_CODE64, 0xe, 3, 0);
	m.c.tr.limit = 10;
	assert_false(x86_soft_interrupt(&m.c, 0x80, 0x5002));
	assert_fault(&m, VEC_TS, S_TSS);
	m.c.tr.limit = 0x67;
	m_poke(&m, M_TSS + 4, 0x900000000000ull);
	assert_false(x86_soft_interrupt(&m.c, 0x80, 0x5002));
	assert_fault(&m, VEC_SS, 0);
	m_free(&m);
}

static void test_compat_code_is_interrupted_into_long_mode(void **state)
{
	struct machine m;

	m_long(&m);
	m_cpl(&m, S_UCODE32, S_UDATA, 3, SEGA_DB);
	m.c.gpr[R_RSP] = 0xbffff000;
	m_gate(&m, 0x80, HANDLER, S_CODE64, 0xe, 3, 0);
	assert_true(x86_soft_interrupt(&m.c, 0x80, 0x5002));
	assert_true(x86_code64(&m.c));
	assert_true(x86_iret(&m.c, 8, m.c.rip + 1));
	assert_false(x86_code64(&m.c));
	assert_int_equal(x86_cpl(&m.c), 3);
	assert_int_equal(m.c.rip, 0x5002);
	assert_int_equal(m.c.gpr[R_RSP], 0xbffff000);
	assert_int_equal(m.c.seg[SEG_SS].sel, S_UDATA);
	m_free(&m);
}

static void test_round_trip_restores_everything(void **state)
{
	struct machine m;
	struct x86_cpu before;

	m_long(&m);
	m_user64(&m);
	m.c.gpr[R_RSP] = 0x7ffffff8;
	m.c.rflags = FL_ONE | FL_IF | FL_AC | FL_ARITH | FL_DF | FL_ID;
	before = m.c;
	m_gate(&m, 0x30, HANDLER, S_CODE64, 0xe, 0, 0);
	x86_interrupt(&m.c, 0x30, INT_HARDWARE, false, 0);
	assert_true(x86_iret(&m.c, 8, m.c.rip + 1));
	assert_memory_equal(m.c.gpr, before.gpr, sizeof(before.gpr));
	assert_int_equal(m.c.rip, before.rip);
	assert_int_equal(m.c.rflags, before.rflags);
	assert_int_equal(m.c.seg[SEG_CS].attr, 0xa0fb);
	assert_int_equal(m.c.seg[SEG_SS].attr, 0xc0f3);
	m_free(&m);
}

static void test_protected_mode_inner(void **state)
{
	struct machine m;
	u32 frame[6];

	m_prot32(&m);
	m_cpl(&m, S_UCODE32, S_UDATA, 3, SEGA_DB);
	m.c.gpr[R_RSP] = 0x40000;
	m_gate32(&m, VEC_GP, 0x12345678, S_CODE32, 0xe, 0);
	x86_raise_err(&m.c, VEC_GP, 0x1234);
	x86_deliver_fault(&m.c);
	assert_int_equal(m.c.rip, 0x12345678);
	assert_int_equal(x86_cpl(&m.c), 0);
	assert_int_equal(m.c.gpr[R_RSP], 0x30000 - 24);
	memcpy(frame, m.ram + 0x30000 - 24, sizeof(frame));
	assert_int_equal(frame[0], 0x1234);
	assert_int_equal(frame[1], 0x5000);
	assert_int_equal(frame[2], S_UCODE32);
	assert_int_equal(frame[4], 0x40000);
	assert_int_equal(frame[5], S_UDATA);
	m.c.gpr[R_RSP] += 4;
	assert_true(x86_iret(&m.c, 4, m.c.rip + 1));
	assert_int_equal(x86_cpl(&m.c), 3);
	assert_int_equal(m.c.gpr[R_RSP], 0x40000);
	assert_int_equal(m.c.seg[SEG_DS].attr, SEGA_UNUSABLE); /* DPL 0 data is not for CPL 3 */
	m_free(&m);
}

static void test_protected_mode_16_bit_gate_same_level(void **state)
{
	struct machine m;

	m_prot32(&m);
	m.c.rip = 0x1234;
	m_gate32(&m, 0x40, 0xffff4321, S_CODE32, 0x6, 0);
	x86_interrupt(&m.c, 0x40, INT_HARDWARE, false, 0);
	assert_int_equal(m.c.rip, 0x4321);
	assert_int_equal(m.c.gpr[R_RSP], M_STACK - 6);
	assert_true(x86_iret(&m.c, 2, m.c.rip + 1));
	assert_int_equal(m.c.rip, 0x1234);
	assert_int_equal(m.c.gpr[R_RSP], M_STACK);
	m_free(&m);
}

static void test_v86_out_and_back(void **state)
{
	static const u16 sel[] = {0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000};
	struct machine m;

	m_prot32(&m);
	m.c.rflags |= FL_VM;
	for (u32 i = 0; i < SEG_COUNT; i++)
		m.c.seg[i] = (struct x86_seg){.sel = sel[i], .attr = 0xf3, .limit = 0xffff, .base = (u64)sel[i] << 4};
	m.c.gpr[R_RSP] = 0x800;
	m_gate32(&m, VEC_GP, 0x9000, S_CODE32, 0xe, 0);
	assert_int_equal(x86_cpl(&m.c), 3);
	assert_false(x86_soft_interrupt(&m.c, 0x10, 0x5002)); /* IOPL 0 */
	assert_true(m.c.fault.pending);
	x86_deliver_fault(&m.c);
	assert_int_equal(m.c.rip, 0x9000);
	assert_false(m.c.rflags & FL_VM);
	assert_int_equal(m.c.gpr[R_RSP], 0x30000 - 40);
	assert_true(m.c.seg[SEG_DS].attr & SEGA_UNUSABLE);
	m.c.gpr[R_RSP] += 4;
	assert_true(x86_iret(&m.c, 4, m.c.rip + 1));
	assert_true(m.c.rflags & FL_VM);
	for (u32 i = 0; i < SEG_COUNT; i++) {
		assert_int_equal(m.c.seg[i].sel, sel[i]);
		assert_int_equal(m.c.seg[i].base, (u64)sel[i] << 4);
	}
	assert_int_equal(m.c.gpr[R_RSP], 0x800);
	assert_int_equal(x86_cpl(&m.c), 3);
	m_free(&m);
}

static void test_real_mode(void **state)
{
	struct machine m;

	m_new(&m);
	m.c.seg[SEG_CS] = (struct x86_seg){.sel = 0x100, .attr = 0x9b, .limit = 0xffff, .base = 0x1000};
	m.c.rip = 0x20;
	m.c.gpr[R_RSP] = 0xabcd0002; /* wraps inside 64 KiB */
	m.c.rflags |= FL_IF;
	m_poke(&m, 0x21 * 4, 0x20005678);
	x86_interrupt(&m.c, 0x21, INT_HARDWARE, false, 0);
	assert_int_equal(m.c.rip, 0x5678);
	assert_int_equal(m.c.seg[SEG_CS].base, 0x20000);
	assert_int_equal(m.c.gpr[R_RSP], 0xabcdfffc);
	assert_false(m.c.rflags & FL_IF);
	assert_true(x86_iret(&m.c, 2, m.c.rip + 1));
	assert_int_equal(m.c.rip, 0x20);
	assert_int_equal(m.c.seg[SEG_CS].sel, 0x100);
	assert_int_equal(m.c.gpr[R_RSP], 0xabcd0002);
	assert_true(m.c.rflags & FL_IF);
	m.c.idt.limit = 3;
	x86_raise(&m.c, VEC_UD);
	x86_deliver_fault(&m.c);
	assert_true(m.c.triple_fault);
	m_free(&m);
}

static void test_debug_exception(void **state)
{
	struct machine m;

	m_long(&m);
	m_gate(&m, VEC_DB, HANDLER, S_CODE64, 0xe, 0, 0);
	m.c.dr[7] |= DR7_GD;
	m.c.dr6_pending = DR6_BS | DR6_B(1);
	m.c.debug_shadow = true;
	assert_false(x86_take_debug_trap(&m.c));
	m.c.debug_shadow = false;
	assert_true(x86_take_debug_trap(&m.c));
	x86_deliver_fault(&m.c);
	assert_int_equal(m.c.dr[6], DR6_FIXED | DR6_BS | DR6_B(1));
	assert_false(m.c.dr[7] & DR7_GD);
	assert_int_equal(m_peek(&m, M_STACK - 24), FL_ONE); /* no RF for #DB */
	assert_false(x86_take_debug_trap(&m.c));
	m_free(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_privilege),
		cmocka_unit_test(test_trap_gate_keeps_if),
		cmocka_unit_test(test_error_code_and_page_fault_from_user),
		cmocka_unit_test(test_ist),
		cmocka_unit_test(test_gates_that_refuse_int_n),
		cmocka_unit_test(test_idt_limit),
		cmocka_unit_test(test_double_fault),
		cmocka_unit_test(test_contributory_then_page_fault_is_serial),
		cmocka_unit_test(test_triple_fault),
		cmocka_unit_test(test_tss_too_short_and_bad_stack),
		cmocka_unit_test(test_compat_code_is_interrupted_into_long_mode),
		cmocka_unit_test(test_round_trip_restores_everything),
		cmocka_unit_test(test_protected_mode_inner),
		cmocka_unit_test(test_protected_mode_16_bit_gate_same_level),
		cmocka_unit_test(test_v86_out_and_back),
		cmocka_unit_test(test_real_mode),
		cmocka_unit_test(test_debug_exception),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
