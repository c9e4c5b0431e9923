/* SPDX-License-Identifier: Apache-2.0 */
/* Segment loads, far jumps, calls and returns, call gates, IRET's refusals, POPF, SYSCALL and SYSENTER, LAR and friends, I/O rights. */
#include "x86_machine.h"

static void test_segment_loads(void **state)
{
	static const struct {
		u32 seg;
		u16 sel;
		bool user;
		u32 vector; /* 0: fine */
		u32 error;
	} cases[] = {
		{SEG_DS, S_DATA, false, 0, 0},
		{SEG_DS, S_UDATA, false, 0, 0},
		{SEG_DS, S_UDATA, true, 0, 0},
		{SEG_DS, S_DATA, true, VEC_GP, S_DATA},
		{SEG_ES, S_DATA | 3, false, VEC_GP, S_DATA},
		{SEG_ES, S_UCODE32, true, 0, 0}, /* readable code */
		{SEG_ES, S_EXECONLY, true, VEC_GP, S_EXECONLY},
		{SEG_FS, S_NOT_PRESENT, false, VEC_NP, S_NOT_PRESENT},
		{SEG_FS, S_TSS, false, VEC_GP, S_TSS},
		{SEG_GS, 0x100, false, VEC_GP, 0x100},
		{SEG_GS, 0x1c, false, VEC_GP, 0x1c}, /* no LDT */
		{SEG_DS, 3, true, 0, 0},
		{SEG_SS, S_DATA, false, 0, 0},
		{SEG_SS, S_UDATA, false, VEC_GP, S_UDATA & ~3},
		{SEG_SS, S_UDATA, true, 0, 0},
		{SEG_SS, S_READONLY | 3, true, VEC_GP, S_READONLY},
		{SEG_SS, S_NOT_PRESENT, false, VEC_SS, S_NOT_PRESENT},
		{SEG_SS, 0, false, 0, 0}, /* 64-bit code below CPL 3 */
		{SEG_SS, 3, true, VEC_GP, 0},
	};

	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		struct machine m;
		bool ok;

		m_long(&m);
		if (cases[i].user)
			m_user64(&m);
		ok = x86_load_seg(&m.c, cases[i].seg, cases[i].sel);
		if (ok != !cases[i].vector)
			fail_msg("case %u: %s", i, ok ? "loaded" : "refused");
		if (ok) {
			assert_int_equal(m.c.seg[cases[i].seg].sel, cases[i].sel);
			assert_int_equal(x86_cpl(&m.c), cases[i].user ? 3 : 0);
		} else {
			assert_fault(&m, cases[i].vector, cases[i].error);
		}
		m_free(&m);
	}
}

static void test_loads_set_the_accessed_bit(void **state)
{
	struct machine m;

	m_long(&m);
	m_desc(&m, S_DATA, 0x12cf92345678abcd);
	assert_true(x86_load_seg(&m.c, SEG_DS, S_DATA));
	assert_int_equal(m_peek(&m, M_GDT + S_DATA), 0x12cf93345678abcd);
	assert_int_equal(m.c.seg[SEG_DS].base, 0x12345678);
	assert_int_equal(m.c.seg[SEG_DS].limit, 0xfabcdfff);
	assert_int_equal(m.c.seg[SEG_DS].attr, 0xc093);
	m_free(&m);
}

static void test_real_mode_load_keeps_the_limit(void **state)
{
	struct machine m;

	m_new(&m);
	m.c.seg[SEG_DS].limit = ~0u;
	assert_true(x86_load_seg(&m.c, SEG_DS, 0xb800));
	assert_int_equal(m.c.seg[SEG_DS].base, 0xb8000);
	assert_int_equal(m.c.seg[SEG_DS].limit, ~0u);
	m_free(&m);
}

static void test_ldt(void **state)
{
	struct machine m;

	m_long(&m);
	m_desc(&m, S_LDT, 0x000082000000000f | 0x4000ull << 16);
	m_desc(&m, S_LDT + 8, 0);
	m_poke(&m, 0x4008, 0x00cf93000000ffff);
	assert_true(x86_lldt(&m.c, S_LDT));
	assert_true(x86_load_seg(&m.c, SEG_DS, 0xc));
	assert_false(x86_load_seg(&m.c, SEG_DS, 0x14));
	assert_fault(&m, VEC_GP, 0x14);
	m_desc(&m, S_LDT + 8, 0x8000); /* not canonical */
	assert_false(x86_lldt(&m.c, S_LDT));
	assert_fault(&m, VEC_GP, S_LDT);
	m_desc(&m, S_LDT + 8, 0x0000010000000000); /* type in the upper half */
	assert_false(x86_lldt(&m.c, S_LDT));
	assert_fault(&m, VEC_GP, S_LDT);
	assert_false(x86_ltr(&m.c, S_TSS)); /* busy */
	assert_fault(&m, VEC_GP, S_TSS);
	assert_false(x86_ltr(&m.c, 0));
	assert_fault(&m, VEC_GP, 0);
	assert_true(x86_lldt(&m.c, 0));
	assert_false(x86_load_seg(&m.c, SEG_DS, 0xc));
	assert_fault(&m, VEC_GP, 0xc);
	m_user64(&m);
	assert_false(x86_lldt(&m.c, 0));
	assert_fault(&m, VEC_GP, 0);
	m_free(&m);
}

static void test_linear_addresses(void **state)
{
	struct machine m;
	gva_t a;

	m_long(&m);
	m.c.seg[SEG_DS].base = 0x1000; /* ignored in 64-bit mode */
	m.c.seg[SEG_GS].base = 0xffff888000000000ull;
	assert_true(x86_linear(&m.c, SEG_DS, 0x10, 8, ACC_READ, &a));
	assert_int_equal(a, 0x10);
	assert_true(x86_linear(&m.c, SEG_GS, 0x10, 8, ACC_READ, &a));
	assert_int_equal(a, 0xffff888000000010ull);
	assert_false(x86_linear(&m.c, SEG_SS, 0x7ffffffffffcull, 8, ACC_READ, &a));
	assert_fault(&m, VEC_SS, 0);
	assert_false(x86_linear(&m.c, SEG_DS, 0x800000000000ull, 1, ACC_READ, &a));
	assert_fault(&m, VEC_GP, 0);
	m_free(&m);

	m_prot32(&m);
	m.c.seg[SEG_DS] = (struct x86_seg){.sel = S_DATA, .attr = 0x4093, .limit = 0xfff, .base = 0x1000};
	assert_true(x86_linear(&m.c, SEG_DS, 0xff8, 8, ACC_WRITE, &a));
	assert_int_equal(a, 0x1ff8);
	assert_false(x86_linear(&m.c, SEG_DS, 0xff9, 8, ACC_READ, &a));
	assert_fault(&m, VEC_GP, 0);
	m.c.seg[SEG_DS].attr = 0x4097; /* expand down */
	assert_true(x86_linear(&m.c, SEG_DS, 0x1000, 8, ACC_READ, &a));
	assert_false(x86_linear(&m.c, SEG_DS, 0xfff, 8, ACC_READ, &a));
	assert_fault(&m, VEC_GP, 0);
	m.c.seg[SEG_DS].attr = 0x4091; /* read only */
	assert_false(x86_linear(&m.c, SEG_DS, 0, 1, ACC_WRITE, &a));
	assert_fault(&m, VEC_GP, 0);
	assert_false(x86_linear(&m.c, SEG_CS, 0, 1, ACC_WRITE, &a));
	assert_fault(&m, VEC_GP, 0);
	m.c.seg[SEG_ES].attr = SEGA_UNUSABLE;
	assert_false(x86_linear(&m.c, SEG_ES, 0, 1, ACC_READ, &a));
	assert_fault(&m, VEC_GP, 0);
	m_free(&m);
}

static void test_far_jump_between_modes(void **state)
{
	struct machine m;

	m_long(&m);
	assert_true(x86_far_jump(&m.c, S_CODE32, 0x1234, 8, 0));
	assert_false(x86_code64(&m.c));
	assert_int_equal(m.c.rip, 0x1234);
	assert_true(x86_far_jump(&m.c, S_CODE64, 0x5678, 4, 0));
	assert_true(x86_code64(&m.c));
	assert_false(x86_far_jump(&m.c, S_UCODE64, 0, 4, 0));
	assert_fault(&m, VEC_GP, S_UCODE64 & ~3);
	assert_false(x86_far_jump(&m.c, S_CODE64, 0x800000000000ull, 8, 0));
	assert_fault(&m, VEC_GP, 0);
	assert_false(x86_far_jump(&m.c, 0, 0, 8, 0));
	assert_fault(&m, VEC_GP, 0);
	assert_false(x86_far_jump(&m.c, S_DATA, 0, 8, 0));
	assert_fault(&m, VEC_GP, S_DATA);
	m_desc(&m, S_CODE64, 0x00ef9b000000ffff); /* L and D */
	assert_false(x86_far_jump(&m.c, S_CODE64, 0, 8, 0));
	assert_fault(&m, VEC_GP, S_CODE64);
	m_free(&m);
}

static void test_from_real_to_protected_and_long(void **state)
{
	struct machine m;

	m_new(&m);
	m_tables(&m);
	assert_true(x86_far_jump(&m.c, 0x1000, 0x12, 2, 0));
	assert_int_equal(m.c.seg[SEG_CS].base, 0x10000);
	assert_true(x86_write_cr(&m.c, 0, CR0_PE | CR0_ET));
	assert_true(x86_far_jump(&m.c, S_CODE32, 0x100, 4, 0));
	assert_true(m.c.seg[SEG_CS].attr & SEGA_DB);
	assert_true(x86_write_cr(&m.c, 4, CR4_PAE));
	assert_true(x86_write_cr(&m.c, 3, M_PML4));
	assert_true(x86_wrmsr(&m.c, 0xc0000080, EFER_LME));
	assert_true(x86_write_cr(&m.c, 0, CR0_PE | CR0_PG | CR0_ET));
	assert_true(m.c.msr.efer & EFER_LMA);
	assert_true(x86_far_jump(&m.c, S_CODE64, 0x200, 4, 0));
	assert_true(x86_code64(&m.c));
	assert_false(x86_write_cr(&m.c, 0, CR0_PE)); /* not from 64-bit code */
	assert_fault(&m, VEC_GP, 0);
	m_free(&m);
}

static void test_far_call_and_return(void **state)
{
	struct machine m;

	m_long(&m);
	assert_true(x86_far_call(&m.c, S_CODE64, 0x9000, 8, 0x5010));
	assert_int_equal(m.c.rip, 0x9000);
	assert_int_equal(m.c.gpr[R_RSP], M_STACK - 16);
	assert_true(x86_far_ret(&m.c, 8, 0x20));
	assert_int_equal(m.c.rip, 0x5010);
	assert_int_equal(m.c.gpr[R_RSP], M_STACK + 0x20);
	/* to user code */
	m_poke(&m, M_STACK, 0x400000);
	m_poke(&m, M_STACK + 8, S_UCODE64);
	m_poke(&m, M_STACK + 0x18, 0x7000);
	m_poke(&m, M_STACK + 0x20, S_UDATA);
	m.c.gpr[R_RSP] = M_STACK;
	assert_true(x86_far_ret(&m.c, 8, 8));
	assert_int_equal(x86_cpl(&m.c), 3);
	assert_int_equal(m.c.rip, 0x400000);
	assert_int_equal(m.c.gpr[R_RSP], 0x7008);
	m_free(&m);
}

static void make_gate64(struct machine *m, u64 rip, u32 sel, u32 dpl)
{
	m_desc(m, S_GATE, (rip & 0xffff) | (u64)sel << 16 | (u64)(0x8c | dpl << 5) << 40 | (rip >> 16 & 0xffff) << 48);
	m_desc(m, S_GATE + 8, rip >> 32);
}

static void test_call_gate_64(void **state)
{
	struct machine m;

	m_long(&m);
	m_user64(&m);
	m.c.gpr[R_RSP] = 0x40000;
	make_gate64(&m, 0xffffffff80001234ull, S_CODE64, 3);
	assert_true(x86_far_call(&m.c, S_GATE | 3, 0, 4, 0x5007));
	assert_int_equal(m.c.rip, 0xffffffff80001234ull);
	assert_int_equal(x86_cpl(&m.c), 0);
	assert_int_equal(m.c.gpr[R_RSP], 0x30000 - 32);
	assert_int_equal(m_peek(&m, 0x30000 - 32), 0x5007);
	assert_int_equal(m_peek(&m, 0x30000 - 24), S_UCODE64);
	assert_int_equal(m_peek(&m, 0x30000 - 16), 0x40000);
	assert_int_equal(m_peek(&m, 0x30000 - 8), S_UDATA);
	assert_true(x86_far_ret(&m.c, 8, 0));
	assert_int_equal(x86_cpl(&m.c), 3);
	assert_int_equal(m.c.gpr[R_RSP], 0x40000);
	assert_false(x86_far_jump(&m.c, S_GATE | 3, 0, 4, 0)); /* a jump does not raise privilege */
	assert_fault(&m, VEC_GP, S_CODE64);
	make_gate64(&m, 0, S_CODE64, 0);
	assert_false(x86_far_call(&m.c, S_GATE | 3, 0, 4, 0));
	assert_fault(&m, VEC_GP, S_GATE);
	make_gate64(&m, 0, S_CODE32, 3);
	assert_false(x86_far_call(&m.c, S_GATE | 3, 0, 4, 0));
	assert_fault(&m, VEC_GP, S_CODE32);
	m_free(&m);
}

static void test_call_gate_32_copies_parameters(void **state)
{
	struct machine m;
	u32 w[6];

	m_prot32(&m);
	m_cpl(&m, S_UCODE32, S_UDATA, 3, SEGA_DB);
	m.c.gpr[R_RSP] = 0x40000;
	m_poke(&m, 0x40000, 0x2222222211111111ull);
	m_desc(&m, S_GATE, 0x5678 | (u64)S_CODE32 << 16 | (u64)0xec02 << 32);
	assert_true(x86_far_call(&m.c, S_GATE | 3, 0, 4, 0x5007));
	assert_int_equal(m.c.gpr[R_RSP], 0x30000 - 24);
	memcpy(w, m.ram + 0x30000 - 24, sizeof(w));
	assert_int_equal(w[0], 0x5007);
	assert_int_equal(w[1], S_UCODE32);
	assert_int_equal(w[2], 0x11111111);
	assert_int_equal(w[3], 0x22222222);
	assert_int_equal(w[4], 0x40000);
	assert_int_equal(w[5], S_UDATA);
	assert_true(x86_far_ret(&m.c, 4, 8));
	assert_int_equal(m.c.gpr[R_RSP], 0x40008);
	m_free(&m);
}

/* What switches tasks elsewhere (test_x86_task.c). */
static void test_long_mode_refuses_task_switches(void **state)
{
	struct machine m;

	m_long(&m);
	m_desc(&m, S_GATE, (u64)S_TSS << 16 | 0x85ull << 40);
	m_desc(&m, S_TSS, 0x0000890000000067 | (u64)M_TSS << 16);
	for (u32 i = 0; i < 2; i++) {
		u16 sel = i ? S_GATE : S_TSS;

		assert_false(x86_far_jump(&m.c, sel, 0, 4, 0));
		assert_fault(&m, VEC_GP, sel);
		assert_false(x86_far_call(&m.c, sel, 0, 4, 0));
		assert_fault(&m, VEC_GP, sel);
	}
	m.c.rflags |= FL_NT;
	assert_false(x86_iret(&m.c, 8, 0));
	assert_fault(&m, VEC_GP, 0);
	m_free(&m);
}

static void frame64(struct machine *m, u64 rip, u64 cs, u64 flags, u64 rsp, u64 ss)
{
	u64 f[5] = {rip, cs, flags, rsp, ss};

	memcpy(m->ram + M_STACK, f, sizeof(f));
	m->c.gpr[R_RSP] = M_STACK;
}

static void test_iret_refusals(void **state)
{
	static const struct {
		u64 rip, cs, ss;
		u32 vector, error;
	} cases[] = {
		{0x800000000000ull, S_UCODE64, S_UDATA, VEC_GP, 0},
		{0, 0, S_UDATA, VEC_GP, 0},
		{0, S_CODE64 | 3, S_UDATA, VEC_GP, S_CODE64},
		{0, S_UCODE64, 0, VEC_GP, 0},
		{0, S_UCODE64, S_DATA, VEC_GP, S_DATA},
		{0, S_UCODE64, S_UCODE32, VEC_GP, S_UCODE32 & ~3},
		{0, S_CODE64, S_UDATA, VEC_GP, S_UDATA & ~3},
		{0, 0x1003, S_UDATA, VEC_GP, 0x1000},
		{0, S_UDATA, S_UDATA, VEC_GP, S_UDATA & ~3},
		{0x100000000ull, S_UCODE32, S_UDATA, VEC_GP, 0},
	};
	struct machine m;

	m_long(&m);
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		frame64(&m, cases[i].rip, cases[i].cs, 0, 0, cases[i].ss);
		if (x86_iret(&m.c, 8, m.c.rip + 1))
			fail_msg("case %u went through", i);
		assert_fault(&m, cases[i].vector, cases[i].error);
		assert_int_equal(m.c.gpr[R_RSP], M_STACK);
		assert_int_equal(x86_cpl(&m.c), 0);
	}
	frame64(&m, 0x1000, S_CODE64, 0, 0xffff900000000000ull, 0); /* null SS is fine below CPL 3 */
	assert_true(x86_iret(&m.c, 8, m.c.rip + 1));
	assert_int_equal(m.c.gpr[R_RSP], 0xffff900000000000ull);
	m_free(&m);
}

static void test_iret_to_user_drops_kernel_segments(void **state)
{
	struct machine m;

	m_long(&m);
	assert_true(x86_load_seg(&m.c, SEG_DS, S_DATA));
	assert_true(x86_load_seg(&m.c, SEG_ES, S_UDATA));
	m.c.seg[SEG_GS] = (struct x86_seg){.sel = S_DATA, .attr = 0xc093, .limit = ~0u, .base = 0x1234};
	frame64(&m, 0x1000, S_UCODE64, FL_IF | FL_IOPL, 0x7000, S_UDATA);
	assert_true(x86_iret(&m.c, 8, m.c.rip + 1));
	assert_true(m.c.seg[SEG_DS].attr & SEGA_UNUSABLE);
	assert_int_equal(m.c.seg[SEG_ES].sel, S_UDATA);
	assert_true(m.c.seg[SEG_GS].attr & SEGA_UNUSABLE);
	assert_int_equal(m.c.seg[SEG_GS].base, 0x1234);
	assert_int_equal(m.c.rflags, FL_ONE | FL_IF | FL_IOPL);
	m_free(&m);
}

static void test_popf(void **state)
{
	struct machine m;

	m_long(&m);
	assert_true(x86_set_flags(&m.c, ~0ull, 8));
	assert_int_equal(m.c.rflags, FL_ONE | FL_ARITH | FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT | FL_AC | FL_ID);
	m_user64(&m);
	m.c.rflags = FL_ONE | FL_IF | FL_RF;
	assert_true(x86_set_flags(&m.c, FL_IOPL | FL_CF, 8)); /* IF and IOPL are not CPL 3's */
	assert_int_equal(m.c.rflags, FL_ONE | FL_IF | FL_CF);
	m.c.rflags = FL_ONE | FL_IOPL;
	assert_true(x86_set_flags(&m.c, FL_IF | FL_AC, 2));
	assert_int_equal(m.c.rflags, FL_ONE | FL_IF | FL_IOPL);
	m_free(&m);
}

static void test_syscall_and_back(void **state)
{
	struct machine m;

	m_long(&m);
	m_user64(&m);
	m.c.msr.star = (u64)S_UCODE32 << 48 | (u64)S_CODE64 << 32;
	m.c.msr.lstar = 0xffffffff81000000ull;
	m.c.msr.cstar = 0xffffffff82000000ull;
	m.c.msr.sfmask = FL_IF | FL_TF | FL_DF;
	m.c.rflags = FL_ONE | FL_IF | FL_DF | FL_CF | FL_RF;
	m.c.gpr[R_RSP] = 0x7000;
	assert_true(x86_syscall(&m.c, 0x400002));
	assert_int_equal(m.c.rip, 0xffffffff81000000ull);
	assert_int_equal(m.c.gpr[R_RCX], 0x400002);
	assert_int_equal(m.c.gpr[R_R11], FL_ONE | FL_IF | FL_DF | FL_CF);
	assert_int_equal(m.c.rflags, FL_ONE | FL_CF);
	assert_int_equal(m.c.gpr[R_RSP], 0x7000);
	assert_int_equal(m.c.seg[SEG_CS].sel, S_CODE64);
	assert_int_equal(m.c.seg[SEG_SS].sel, S_DATA);
	assert_int_equal(x86_cpl(&m.c), 0);
	assert_true(x86_sysret(&m.c, 8));
	assert_int_equal(m.c.rip, 0x400002);
	assert_int_equal(m.c.rflags, FL_ONE | FL_IF | FL_DF | FL_CF);
	assert_int_equal(m.c.seg[SEG_CS].sel, S_UCODE64);
	assert_int_equal(m.c.seg[SEG_SS].sel, S_UDATA);
	assert_int_equal(x86_cpl(&m.c), 3);
	assert_true(x86_code64(&m.c));
	assert_false(x86_sysret(&m.c, 8));
	assert_fault(&m, VEC_GP, 0);
	m.c.msr.efer &= ~(u64)EFER_SCE;
	assert_false(x86_syscall(&m.c, 0));
	assert_fault(&m, VEC_UD, 0);
	m_free(&m);
}

static void test_vendors_differ(void **state)
{
	struct machine m;

	m_long(&m);
	m.c.msr.star = (u64)S_UCODE32 << 48 | (u64)S_CODE64 << 32;
	m.c.msr.cstar = 0xffffffff82000000ull;
	m.c.msr.sysenter_cs = S_CODE64;
	m.c.gpr[R_RCX] = 0x800000000000ull;
	m_vendor(&m, false);
	assert_false(x86_sysret(&m.c, 8));
	assert_fault(&m, VEC_GP, 0);
	m_vendor(&m, true);
	assert_true(x86_sysret(&m.c, 8)); /* the fetch will fault, at CPL 3 */
	assert_int_equal(x86_cpl(&m.c), 3);
	m_cpl(&m, S_UCODE32, S_UDATA, 3, SEGA_DB);
	assert_false(x86_sysenter(&m.c, 0));
	assert_fault(&m, VEC_UD, 0);
	assert_true(x86_syscall(&m.c, 0x1002));
	assert_int_equal(m.c.rip, 0xffffffff82000000ull);
	m_cpl(&m, S_UCODE32, S_UDATA, 3, SEGA_DB);
	m_vendor(&m, false);
	assert_false(x86_syscall(&m.c, 0));
	assert_fault(&m, VEC_UD, 0);
	m.c.msr.sysenter_eip = 0xffffffff83000000ull;
	m.c.msr.sysenter_esp = 0xffff900000001000ull;
	assert_true(x86_sysenter(&m.c, 0));
	assert_int_equal(m.c.rip, 0xffffffff83000000ull);
	assert_int_equal(m.c.gpr[R_RSP], 0xffff900000001000ull);
	assert_true(x86_code64(&m.c));
	m.c.gpr[R_RDX] = 0x400000;
	m.c.gpr[R_RCX] = 0x7000;
	assert_true(x86_sysexit(&m.c, 4));
	assert_int_equal(m.c.seg[SEG_CS].sel, (S_CODE64 + 16) | 3);
	assert_int_equal(x86_cpl(&m.c), 3);
	m.c.msr.sysenter_cs = 0;
	assert_false(x86_sysenter(&m.c, 0));
	assert_fault(&m, VEC_GP, 0);
	m_free(&m);
}

static void test_sysret_to_32_bit_code(void **state)
{
	struct machine m;

	m_long(&m);
	m.c.msr.star = (u64)S_UCODE32 << 48;
	m.c.gpr[R_RCX] = 0xffffffff00001000ull;
	assert_true(x86_sysret(&m.c, 4));
	assert_int_equal(m.c.rip, 0x1000);
	assert_int_equal(m.c.seg[SEG_CS].sel, S_UCODE32);
	assert_false(x86_code64(&m.c));
	m_free(&m);
}

static void test_questions(void **state)
{
	struct machine m;
	u32 v;

	m_long(&m);
	assert_true(x86_lar(&m.c, S_UDATA, &v));
	assert_int_equal(v, 0x00cff300);
	assert_true(x86_lsl(&m.c, S_UDATA, &v));
	assert_int_equal(v, 0xffffffff);
	assert_true(x86_lar(&m.c, S_TSS, &v));
	make_gate64(&m, 0, S_CODE64, 3);
	assert_true(x86_lar(&m.c, S_GATE, &v));
	assert_false(x86_lsl(&m.c, S_GATE, &v));
	assert_true(x86_verify(&m.c, S_DATA, true));
	m_user64(&m);
	assert_false(x86_verify(&m.c, S_DATA, true));
	assert_true(x86_verify(&m.c, S_UDATA, true));
	assert_false(x86_verify(&m.c, S_READONLY | 3, true));
	assert_true(x86_verify(&m.c, S_READONLY | 3, false));
	assert_false(x86_verify(&m.c, S_EXECONLY | 3, false));
	assert_false(x86_verify(&m.c, 0, false));
	assert_false(x86_lar(&m.c, 0xfff0, &v));
	assert_false(m.c.fault.pending);
	m_free(&m);
}

static void test_io_permission(void **state)
{
	struct machine m;

	m_long(&m);
	m.c.tr.limit = 0x88 + 3;
	m.ram[M_TSS + 0x66] = 0x68;
	memset(m.ram + M_TSS + 0x68, 0xff, 0x24);
	m.ram[M_TSS + 0x68 + 10] = 0x0f; /* ports 0x54 to 0x57 */
	assert_true(x86_io_allowed(&m.c, 0x3f8, 1));
	m_user64(&m);
	assert_true(x86_io_allowed(&m.c, 0x54, 4));
	assert_false(x86_io_allowed(&m.c, 0x53, 2));
	assert_fault(&m, VEC_GP, 0);
	assert_false(x86_io_allowed(&m.c, 0x55, 4));
	assert_fault(&m, VEC_GP, 0);
	assert_false(x86_io_allowed(&m.c, 0xffff, 1)); /* beyond the TSS */
	assert_fault(&m, VEC_GP, 0);
	m.c.rflags |= FL_IOPL;
	assert_true(x86_io_allowed(&m.c, 0x3f8, 1));
	m_free(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_segment_loads),
		cmocka_unit_test(test_loads_set_the_accessed_bit),
		cmocka_unit_test(test_real_mode_load_keeps_the_limit),
		cmocka_unit_test(test_ldt),
		cmocka_unit_test(test_linear_addresses),
		cmocka_unit_test(test_far_jump_between_modes),
		cmocka_unit_test(test_from_real_to_protected_and_long),
		cmocka_unit_test(test_far_call_and_return),
		cmocka_unit_test(test_call_gate_64),
		cmocka_unit_test(test_call_gate_32_copies_parameters),
		cmocka_unit_test(test_long_mode_refuses_task_switches),
		cmocka_unit_test(test_iret_refusals),
		cmocka_unit_test(test_iret_to_user_drops_kernel_segments),
		cmocka_unit_test(test_popf),
		cmocka_unit_test(test_syscall_and_back),
		cmocka_unit_test(test_vendors_differ),
		cmocka_unit_test(test_sysret_to_32_bit_code),
		cmocka_unit_test(test_questions),
		cmocka_unit_test(test_io_permission),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
