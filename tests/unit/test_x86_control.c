/* SPDX-License-Identifier: Apache-2.0 */
/* Control registers, XCR0, INVPCID, MSRs, debug registers and breakpoints, reset. */
#include "x86_machine.h"

#define EFER 0xc0000080u

static void refused(struct machine *m, bool ok, u32 vector)
{
	assert_false(ok);
	assert_fault(m, vector, 0);
}

static void test_cr0_combinations(void **state)
{
	struct machine m;

	m_new(&m);
	refused(&m, x86_write_cr(&m.c, 0, CR0_PG), VEC_GP);
	refused(&m, x86_write_cr(&m.c, 0, CR0_NW), VEC_GP);
	refused(&m, x86_write_cr(&m.c, 0, 1ull << 32), VEC_GP);
	assert_true(x86_write_cr(&m.c, 0, CR0_PE | 1u << 28)); /* undefined bits are ignored, ET is fixed */
	assert_int_equal(m.c.cr0, CR0_PE | CR0_ET);
	m.c.msr.efer = EFER_LME;
	refused(&m, x86_write_cr(&m.c, 0, CR0_PE | CR0_PG), VEC_GP); /* no PAE */
	m.c.cr4 = CR4_PAE;
	m.c.seg[SEG_CS].attr |= SEGA_L;
	refused(&m, x86_write_cr(&m.c, 0, CR0_PE | CR0_PG), VEC_GP);
	m.c.seg[SEG_CS].attr &= ~SEGA_L;
	m.flush_all = m.modes = 0;
	assert_true(x86_write_cr(&m.c, 0, CR0_PE | CR0_PG));
	assert_true(x86_long_mode(&m.c));
	assert_int_equal(m.flush_all, 1);
	assert_int_equal(m.modes, 1);
	assert_true(x86_write_cr(&m.c, 0, CR0_PE | CR0_PG | CR0_TS));
	assert_int_equal(m.flush_all, 1);
	assert_int_equal(m.modes, 2);
	assert_true(x86_write_cr(&m.c, 0, CR0_PE)); /* from compatibility mode */
	assert_false(x86_long_mode(&m.c));
	m_free(&m);
}

static void test_cr_needs_cpl_0(void **state)
{
	struct machine m;
	u64 v;

	m_long(&m);
	refused(&m, x86_write_cr(&m.c, 1, 0), VEC_UD);
	m_user64(&m);
	refused(&m, x86_write_cr(&m.c, 0, 0), VEC_GP);
	refused(&m, x86_read_cr(&m.c, 3, &v), VEC_GP);
	refused(&m, x86_rdmsr(&m.c, 0x10, &v), VEC_GP);
	refused(&m, x86_write_dr(&m.c, 0, 0), VEC_GP);
	refused(&m, x86_invpcid(&m.c, 2, 0), VEC_GP);
	m_free(&m);
}

static void test_cr3_and_pcid(void **state)
{
	struct machine m;

	m_long(&m);
	assert_true(x86_write_cr(&m.c, 3, M_PML4 | 0x18));
	assert_int_equal(m.flush_pcid, 1);
	assert_int_equal(m.last_pcid, 0);
	refused(&m, x86_write_cr(&m.c, 3, 1ull << 46), VEC_GP);
	refused(&m, x86_write_cr(&m.c, 3, 1ull << 63), VEC_GP);
	refused(&m, x86_write_cr(&m.c, 4, m.c.cr4 | CR4_PCIDE), VEC_GP); /* CR3[11:0] is not 0 */
	assert_true(x86_write_cr(&m.c, 3, M_PML4));
	assert_true(x86_write_cr(&m.c, 4, m.c.cr4 | CR4_PCIDE));
	refused(&m, x86_write_cr(&m.c, 0, CR0_PE), VEC_GP);
	m.flush_pcid = 0;
	assert_true(x86_write_cr(&m.c, 3, M_PML4 | 5));
	assert_int_equal(m.flush_pcid, 1);
	assert_int_equal(m.last_pcid, 5);
	assert_true(x86_write_cr(&m.c, 3, 1ull << 63 | M_PML4 | 6));
	assert_int_equal(m.flush_pcid, 1);
	assert_int_equal(m.c.cr3, M_PML4 | 6);
	m_free(&m);
}

static void test_cr4(void **state)
{
	struct machine m;

	m_long(&m);
	refused(&m, x86_write_cr(&m.c, 4, m.c.cr4 | CR4_LA57), VEC_GP);
	refused(&m, x86_write_cr(&m.c, 4, m.c.cr4 | CR4_VME), VEC_GP);
	refused(&m, x86_write_cr(&m.c, 4, m.c.cr4 | 1ull << 40), VEC_GP);
	refused(&m, x86_write_cr(&m.c, 4, m.c.cr4 & ~(u64)CR4_PAE), VEC_GP);
	m.flush_all = 0;
	assert_true(x86_write_cr(&m.c, 4, m.c.cr4 ^ CR4_PGE));
	assert_true(x86_write_cr(&m.c, 4, m.c.cr4 | CR4_SMEP));
	assert_int_equal(m.flush_all, 2);
	assert_true(x86_write_cr(&m.c, 4, m.c.cr4 | CR4_OSFXSR));
	assert_int_equal(m.flush_all, 2);
	m_free(&m);
}

static void test_pae_refuses_bad_pdptes(void **state)
{
	struct machine m;

	m_prot32(&m);
	assert_true(x86_write_cr(&m.c, 4, CR4_PAE));
	m_poke(&m, M_PML4, M_PD | P | W); /* W is reserved there */
	assert_true(x86_write_cr(&m.c, 3, M_PML4));
	refused(&m, x86_write_cr(&m.c, 0, CR0_PE | CR0_PG), VEC_GP);
	m_poke(&m, M_PML4, M_PD | P);
	assert_true(x86_write_cr(&m.c, 0, CR0_PE | CR0_PG));
	m_poke(&m, 0x14000, 1ull << 50 | P);
	refused(&m, x86_write_cr(&m.c, 3, 0x14000), VEC_GP);
	m_free(&m);
}

static void test_cr8(void **state)
{
	struct machine m;
	u64 v;

	m_long(&m);
	assert_true(x86_write_cr(&m.c, 8, 15));
	assert_true(x86_read_cr(&m.c, 8, &v));
	assert_int_equal(v, 15);
	refused(&m, x86_write_cr(&m.c, 8, 16), VEC_GP);
	m_free(&m);
}

static void test_xcr0(void **state)
{
	struct machine m;

	m_long(&m);
	m.cpuid.xcr0_supported = 0xe7;
	refused(&m, x86_xsetbv(&m.c, 0, 7), VEC_UD);
	m.c.cr4 |= CR4_OSXSAVE;
	assert_true(x86_xsetbv(&m.c, 0, 0xe7));
	assert_int_equal(m.c.xcr0, 0xe7);
	refused(&m, x86_xsetbv(&m.c, 1, 7), VEC_GP);
	refused(&m, x86_xsetbv(&m.c, 0, 6), VEC_GP);
	refused(&m, x86_xsetbv(&m.c, 0, 5), VEC_GP);
	refused(&m, x86_xsetbv(&m.c, 0, 0x27), VEC_GP);
	refused(&m, x86_xsetbv(&m.c, 0, 0xe3), VEC_GP);
	refused(&m, x86_xsetbv(&m.c, 0, 0x207), VEC_GP);
	m_free(&m);
}

static void test_invpcid(void **state)
{
	struct machine m;

	m_long(&m);
	m_poke(&m, 0x8000, 0);
	m_poke(&m, 0x8008, 0x1234000);
	assert_true(x86_invpcid(&m.c, 0, 0x8000));
	assert_int_equal(m.flush_page_pcid, 1);
	m_poke(&m, 0x8000, 7);
	refused(&m, x86_invpcid(&m.c, 0, 0x8000), VEC_GP); /* PCIDs are off */
	m.c.cr4 |= CR4_PCIDE;
	assert_true(x86_invpcid(&m.c, 1, 0x8000));
	assert_int_equal(m.last_pcid, 7);
	m_poke(&m, 0x8000, 0x1000);
	refused(&m, x86_invpcid(&m.c, 2, 0x8000), VEC_GP);
	m_poke(&m, 0x8000, 0);
	m.flush_all = 0;
	assert_true(x86_invpcid(&m.c, 2, 0x8000));
	assert_true(x86_invpcid(&m.c, 3, 0x8000));
	assert_int_equal(m.flush_all, 1);
	assert_int_equal(m.flush_nonglobal, 1);
	refused(&m, x86_invpcid(&m.c, 4, 0x8000), VEC_GP);
	m_poke(&m, 0x8008, 0x800000000000ull);
	refused(&m, x86_invpcid(&m.c, 0, 0x8000), VEC_GP);
	m_free(&m);
}

static void test_efer(void **state)
{
	struct machine m;

	m_long(&m);
	refused(&m, x86_wrmsr(&m.c, EFER, EFER_LMA), VEC_GP); /* LME while paging */
	refused(&m, x86_wrmsr(&m.c, EFER, m.c.msr.efer | EFER_SVME), VEC_GP);
	refused(&m, x86_wrmsr(&m.c, EFER, m.c.msr.efer | 1u << 1), VEC_GP);
	m.flush_all = 0;
	assert_true(x86_wrmsr(&m.c, EFER, EFER_LME));
	assert_int_equal(m.c.msr.efer, EFER_LME | EFER_LMA); /* LMA is not software's */
	assert_int_equal(m.flush_all, 1);
	m_free(&m);
}

static void test_msrs(void **state)
{
	static const struct {
		u32 msr;
		u64 good, bad;
	} cases[] = {
		{0xc0000082, 0xffffffff81000000ull, 0x800000000000ull},
		{0xc0000100, 0x7f0000000000ull, 0x800000000000ull},
		{0xc0000102, 0xffff888000000000ull, 1ull << 62},
		{0x277, 0x0007040600070406ull, 0x2},
		{0x2ff, 0xc06, 0x2},
		{0x200, 0x80000006, 0x80000002},
		{0x201, 0x3fff80000800ull, 0x80000900},
		{0x250, 0x0606060606060606ull, 0x0606060606060602ull},
		{0x1d9, 2, 1u << 6},
		{0x17a, 4, 8},
	};
	struct machine m;
	u64 v;

	m_long(&m);
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		if (!x86_wrmsr(&m.c, cases[i].msr, cases[i].good))
			fail_msg("MSR %#x refused a good value", cases[i].msr);
		assert_true(x86_rdmsr(&m.c, cases[i].msr, &v));
		assert_int_equal(v, cases[i].good);
		refused(&m, x86_wrmsr(&m.c, cases[i].msr, cases[i].bad), VEC_GP);
		assert_true(x86_rdmsr(&m.c, cases[i].msr, &v));
		assert_int_equal(v, cases[i].good);
	}
	refused(&m, x86_rdmsr(&m.c, 0x12345, &v), VEC_GP);
	refused(&m, x86_wrmsr(&m.c, 0x48, 0), VEC_GP); /* SPEC_CTRL is not announced to translated guests */
	refused(&m, x86_wrmsr(&m.c, 0x49, 1), VEC_GP);
	refused(&m, x86_wrmsr(&m.c, 0xfe, 0), VEC_GP); /* MTRRCAP is read-only */
	assert_true(x86_rdmsr(&m.c, 0xfe, &v));
	assert_int_equal(v, 0x508);
	assert_int_equal(m.c.seg[SEG_FS].base, 0x7f0000000000ull);
	assert_true(x86_rdmsr(&m.c, 0x802, &v)); /* outside */
	assert_int_equal(v, 0x802);
	refused(&m, x86_rdmsr(&m.c, 0x8ff, &v), VEC_GP);
	m_free(&m);
}

static void test_vendor_msrs(void **state)
{
	struct machine m;
	u64 v;

	m_long(&m);
	m_vendor(&m, true);
	assert_true(x86_rdmsr(&m.c, 0xc0010015, &v));
	assert_true(x86_rdmsr(&m.c, 0xc0011029, &v));
	assert_int_equal(v, 2);
	assert_true(x86_wrmsr(&m.c, 0xc0000103, 0x1ffffffffull));
	assert_int_equal(m.c.msr.tsc_aux, 0xffffffff);
	refused(&m, x86_rdmsr(&m.c, 0xce, &v), VEC_GP);
	m_vendor(&m, false);
	refused(&m, x86_rdmsr(&m.c, 0xc0010015, &v), VEC_GP);
	refused(&m, x86_wrmsr(&m.c, 0xc0000103, 0x1ffffffffull), VEC_GP);
	assert_true(x86_rdmsr(&m.c, 0xce, &v));
	assert_int_equal(v, 26 << 8);
	assert_true(x86_rdmsr(&m.c, 0x8b, &v));
	assert_int_equal(v, 0x100000000ull);
	m_free(&m);
}

static void test_tsc(void **state)
{
	struct machine m;
	u64 v;

	m_long(&m);
	m.tsc = 1000;
	assert_true(x86_wrmsr(&m.c, 0x10, 5000));
	assert_true(x86_rdmsr(&m.c, 0x10, &v));
	assert_int_equal(v, 5000);
	assert_true(x86_rdmsr(&m.c, 0x3b, &v));
	assert_int_equal(v, 4000);
	assert_true(x86_wrmsr(&m.c, 0x3b, 0));
	assert_true(x86_rdmsr(&m.c, 0x10, &v));
	assert_int_equal(v, 1000);
	m_free(&m);
}

static void test_debug_registers(void **state)
{
	struct machine m;
	u64 v;

	m_long(&m);
	assert_true(x86_write_dr(&m.c, 7, 0));
	assert_true(x86_read_dr(&m.c, 7, &v));
	assert_int_equal(v, 0x400);
	assert_true(x86_write_dr(&m.c, 7, 0xffffdfff));
	assert_int_equal(m.c.dr[7], 0xffff07ff);
	assert_true(x86_write_dr(&m.c, 5, 0)); /* alias of 7 without CR4.DE */
	assert_int_equal(m.c.dr[7], 0x400);
	assert_true(x86_write_dr(&m.c, 6, 0));
	assert_int_equal(m.c.dr[6], 0xffff0ff0);
	refused(&m, x86_write_dr(&m.c, 6, 1ull << 32), VEC_GP);
	m.c.cr4 |= CR4_DE;
	refused(&m, x86_read_dr(&m.c, 4, &v), VEC_UD);
	m.c.dr[7] |= DR7_GD;
	assert_false(x86_read_dr(&m.c, 0, &v));
	assert_int_equal(m.c.fault.dr6_set, DR6_BD);
	assert_fault(&m, VEC_DB, 0);
	m_free(&m);
}

static void test_breakpoints(void **state)
{
	static const struct {
		u32 kind, len; /* as in DR7 */
		u64 at, access;
		u32 size;
		bool write, hit;
	} cases[] = {
		{1, 0, 0x8000, 0x8000, 1, true, true},	{1, 0, 0x8000, 0x8000, 1, false, false}, {3, 0, 0x8000, 0x8000, 1, false, true},
		{3, 3, 0x8000, 0x8003, 1, false, true}, {3, 3, 0x8000, 0x8004, 1, false, false}, {3, 3, 0x8002, 0x8000, 1, false, true},
		{3, 2, 0x8000, 0x8007, 1, false, true}, {3, 2, 0x8000, 0x7ffc, 8, false, true},	 {3, 0, 0x8004, 0x8000, 8, true, true},
		{3, 0, 0x8004, 0x8000, 4, true, false}, {0, 0, 0x8000, 0x8000, 4, true, false},
	};

	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		struct machine m;
		u64 v = 0;

		m_long(&m);
		m.c.dr[2] = cases[i].at;
		m.c.dr[7] = DR7_FIXED | 1u << 4 | cases[i].kind << 24 | cases[i].len << 26;
		if (cases[i].write)
			assert_true(x86_write_val(&m.c, cases[i].access, cases[i].size, 0, ACC_WRITE));
		else
			assert_true(x86_read_val(&m.c, cases[i].access, cases[i].size, &v, ACC_READ));
		if ((m.c.dr6_pending == DR6_B(2)) != cases[i].hit)
			fail_msg("case %u: pending %#lx", i, m.c.dr6_pending);
		m_free(&m);
	}
}

static void test_code_and_io_breakpoints(void **state)
{
	struct machine m;

	m_long(&m);
	m.c.dr[0] = 0x5000;
	m.c.dr[1] = 0x3f8;
	m.c.dr[7] = DR7_FIXED | 1u | 1u << 2 | 2u << 20;
	assert_false(x86_code_breakpoint(&m.c, 0x5001));
	m.c.rflags |= FL_RF;
	assert_false(x86_code_breakpoint(&m.c, 0x5000));
	m.c.rflags &= ~(u64)FL_RF;
	assert_true(x86_code_breakpoint(&m.c, 0x5000));
	assert_int_equal(m.c.fault.dr6_set, DR6_B(0));
	assert_fault(&m, VEC_DB, 0);
	x86_io_breakpoint(&m.c, 0x3f8, 1);
	assert_int_equal(m.c.dr6_pending, 0); /* needs CR4.DE */
	m.c.cr4 |= CR4_DE;
	x86_io_breakpoint(&m.c, 0x3f8, 1);
	assert_int_equal(m.c.dr6_pending, DR6_B(1));
	m_free(&m);
}

static void test_reset_and_init(void **state)
{
	struct machine m;

	m_long(&m);
	m.c.msr.lstar = 0x1234;
	m.c.fpu.bytes[100] = 7;
	m.c.xcr0 = 7;
	m.c.cr0 |= CR0_CD;
	x86_reset(&m.c, false, true);
	assert_int_equal(m.c.msr.lstar, 0x1234);
	assert_int_equal(m.c.fpu.bytes[100], 7);
	assert_int_equal(m.c.xcr0, 7);
	assert_int_equal(m.c.cr0, CR0_ET | CR0_CD);
	assert_int_equal(m.c.msr.efer, 0);
	assert_true(m.c.wait_for_sipi);
	x86_sipi(&m.c, 0x9a);
	assert_false(m.c.wait_for_sipi);
	assert_int_equal(m.c.seg[SEG_CS].base, 0x9a000);
	assert_int_equal(m.c.rip, 0);
	x86_sipi(&m.c, 0x10);
	assert_int_equal(m.c.seg[SEG_CS].base, 0x9a000);
	x86_reset(&m.c, true, false);
	assert_int_equal(m.c.msr.lstar, 0);
	assert_int_equal(m.c.fpu.bytes[100], 0);
	assert_int_equal(m.c.seg[SEG_CS].base + m.c.rip, 0xfffffff0);
	assert_int_equal(m.c.xcr0, 1);
	assert_int_equal(m.c.cr0, CR0_ET | CR0_NW | CR0_CD);
	assert_int_equal(m.c.gpr[R_RDX], m.cpuid.leaf[1].eax);
	assert_false(m.c.wait_for_sipi);
	m_free(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cr0_combinations),
		cmocka_unit_test(test_cr_needs_cpl_0),
		cmocka_unit_test(test_cr3_and_pcid),
		cmocka_unit_test(test_cr4),
		cmocka_unit_test(test_pae_refuses_bad_pdptes),
		cmocka_unit_test(test_cr8),
		cmocka_unit_test(test_xcr0),
		cmocka_unit_test(test_invpcid),
		cmocka_unit_test(test_efer),
		cmocka_unit_test(test_msrs),
		cmocka_unit_test(test_vendor_msrs),
		cmocka_unit_test(test_tsc),
		cmocka_unit_test(test_debug_registers),
		cmocka_unit_test(test_breakpoints),
		cmocka_unit_test(test_code_and_io_breakpoints),
		cmocka_unit_test(test_reset_and_init),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
