/* SPDX-License-Identifier: Apache-2.0 */
/* The page walk and accesses over it: rights, error codes, A/D bits, page sizes, straddling, MMIO, exchanges. */
#include "x86_machine.h"

#define AT 0x50000ull /* the page under test */
#define AT_PTE (M_PT + (AT >> 12) * 8)
#define READ ACC_READ
#define WRITE ACC_WRITE
#define FETCH ACC_FETCH
#define USER ACC_USER
#define IMPL ACC_IMPLICIT

enum { NO_WP = 1, SMEP_ON = 2, SMAP_ON = 4, AC_ON = 8, NO_NXE = 16 };

struct rights_case {
	u64 pte;
	u32 acc, mode;
	int error; /* -1: allowed */
};

static const struct rights_case rights_cases[] = {
	{0, READ, 0, 0x0},
	{0, WRITE, 0, 0x2},
	{0, READ | USER, 0, 0x4},
	{0, FETCH, 0, 0x10},
	{0, FETCH | USER, 0, 0x14},
	{0, FETCH, NO_NXE, 0x0},
	{0, FETCH, NO_NXE | SMEP_ON, 0x10},
	{P, READ, 0, -1},
	{P, READ | USER, 0, 0x5},
	{P, WRITE, 0, 0x3},
	{P, WRITE, NO_WP, -1},
	{P | W, WRITE, 0, -1},
	{P | W, WRITE | USER, 0, 0x7},
	{P | W | U, WRITE | USER, 0, -1},
	{P | U, WRITE | USER, 0, 0x7},
	{P | U, WRITE | USER, NO_WP, 0x7},
	{P | U, READ | USER, 0, -1},
	{P | U, FETCH, 0, -1},
	{P | U, FETCH, SMEP_ON, 0x11},
	{P | U, FETCH | USER, SMEP_ON, -1},
	{P | NX, FETCH, 0, 0x11},
	{P | NX | U, FETCH | USER, 0, 0x15},
	{P | NX, READ, 0, -1},
	{P | NX, READ, NO_NXE, 0x9},
	{P | U, READ, SMAP_ON, 0x1},
	{P | U, READ, SMAP_ON | AC_ON, -1},
	{P | U, READ | IMPL, SMAP_ON | AC_ON, 0x1},
	{P | U, READ | USER, SMAP_ON, -1},
	{P | U | W, WRITE, SMAP_ON, 0x3},
	{P | U | W, WRITE, SMAP_ON | AC_ON, -1},
	{P, READ, SMAP_ON, -1},
	{P | 1ull << 46, READ, 0, 0x9},
	{P | 1ull << 51, WRITE | USER, 0, 0xf},
	{P | 1ull << 52, READ, 0, -1},
};

static void set_mode(struct machine *m, u32 mode)
{
	if (mode & NO_WP)
		m->c.cr0 &= ~(u64)CR0_WP;
	if (mode & SMEP_ON)
		m->c.cr4 |= CR4_SMEP;
	if (mode & SMAP_ON)
		m->c.cr4 |= CR4_SMAP;
	if (mode & AC_ON)
		m->c.rflags |= FL_AC;
	if (mode & NO_NXE)
		m->c.msr.efer &= ~(u64)EFER_NXE;
}

static void test_rights(void **state)
{
	for (u32 i = 0; i < ARRAY_SIZE(rights_cases); i++) {
		const struct rights_case *t = &rights_cases[i];
		struct machine m;
		struct x86_xlat x;
		bool ok;

		m_long(&m);
		set_mode(&m, t->mode);
		m_poke(&m, AT_PTE, AT | t->pte);
		ok = x86_translate(&m.c, AT + 0x123, t->acc, &x);
		if (ok != (t->error < 0))
			fail_msg("case %u: %s", i, ok ? "allowed" : "refused");
		if (ok) {
			assert_int_equal(x.gpa, AT + 0x123);
			assert_int_equal(x.page_shift, 12);
		} else {
			if (m.c.fault.error != (u32)t->error)
				fail_msg("case %u: error code %#x, not %#x", i, m.c.fault.error, t->error);
			assert_int_equal(m.c.fault.cr2, AT + 0x123);
			assert_int_equal(m_peek(&m, AT_PTE), AT | t->pte);
		}
		m_free(&m);
	}
}

static void test_rights_are_those_of_all_levels(void **state)
{
	static const gpa_t upper[] = {M_PML4, M_PDPT, M_PD};
	struct machine m;
	struct x86_xlat x;

	m_long(&m);
	m_poke(&m, AT_PTE, AT | P | W | U);
	for (u32 i = 0; i < ARRAY_SIZE(upper); i++) {
		u64 e = m_peek(&m, upper[i]);

		m_poke(&m, upper[i], e & ~U);
		assert_false(x86_translate(&m.c, AT, READ | USER, &x));
		assert_fault(&m, VEC_PF, 5);
		m_poke(&m, upper[i], e & ~W);
		assert_false(x86_translate(&m.c, AT, WRITE, &x));
		assert_fault(&m, VEC_PF, 3);
		assert_true(x86_translate(&m.c, AT, READ, &x));
		assert_false(x.writable);
		m_poke(&m, upper[i], e | NX);
		assert_false(x86_translate(&m.c, AT, FETCH, &x));
		assert_fault(&m, VEC_PF, 0x11);
		assert_true(x86_translate(&m.c, AT, READ, &x));
		assert_true(x.nx);
		m_poke(&m, upper[i], e & ~P);
		assert_false(x86_translate(&m.c, AT, READ, &x));
		assert_fault(&m, VEC_PF, 0);
		m_poke(&m, upper[i], e | 1ull << 46);
		assert_false(x86_translate(&m.c, AT, READ, &x));
		assert_fault(&m, VEC_PF, 9);
		m_poke(&m, upper[i], e);
	}
	m_free(&m);
}

static void test_accessed_and_dirty(void **state)
{
	struct machine m;
	struct x86_xlat x;

	m_long(&m);
	m_poke(&m, M_PML4, M_PDPT | P | W | U);
	m_poke(&m, M_PDPT, M_PD | P | W | U);
	m_poke(&m, M_PD, M_PT | P | W | U);
	m_poke(&m, AT_PTE, AT | P | W);
	assert_true(x86_probe(&m.c, AT, READ, &x));
	assert_int_equal(m_peek(&m, AT_PTE), AT | P | W);
	m.will_write = 0;
	assert_true(x86_translate(&m.c, AT, READ, &x));
	assert_false(x.dirty);
	assert_int_equal(m_peek(&m, AT_PTE), AT | P | W | A);
	assert_int_equal(m_peek(&m, M_PD) & (A | D), A);
	assert_int_equal(m_peek(&m, M_PDPT) & (A | D), A);
	assert_int_equal(m_peek(&m, M_PML4) & (A | D), A);
	assert_int_equal(m.will_write, 4);
	assert_true(x86_translate(&m.c, AT, WRITE, &x));
	assert_true(x.dirty);
	assert_int_equal(m_peek(&m, AT_PTE), AT | P | W | A | D);
	assert_int_equal(m.will_write, 5);
	assert_true(x86_translate(&m.c, AT, WRITE, &x));
	assert_int_equal(m.will_write, 5);
	m_free(&m);
}

static void test_tables_in_rom_and_nowhere(void **state)
{
	struct machine m;
	struct x86_xlat x;

	m_long(&m);
	m_poke(&m, AT_PTE, AT | P | W);
	m.rom_page = M_PT;
	assert_true(x86_translate(&m.c, AT, WRITE, &x));
	assert_int_equal(m_peek(&m, AT_PTE), AT | P | W);
	m_poke(&m, M_PD, 0x20000000 | P | W); /* an empty bus reads as ones: reserved bits */
	assert_false(x86_translate(&m.c, AT, READ, &x));
	assert_fault(&m, VEC_PF, 9);
	assert_false(x86_probe(&m.c, AT, READ, &x));
	m_free(&m);
}

static void test_large_pages(void **state)
{
	struct machine m;
	struct x86_xlat x;

	m_long(&m);
	m_poke(&m, M_PD + 8, 0x200000 | P | W | PS | G);
	assert_true(x86_translate(&m.c, 0x2abcde, WRITE, &x));
	assert_int_equal(x.gpa, 0x2abcde);
	assert_int_equal(x.page_shift, 21);
	assert_true(x.global);
	assert_int_equal(m_peek(&m, M_PD + 8) & (A | D), A | D);
	m_poke(&m, M_PD + 8, 0x200000 | 1ull << 12 | P | W | PS); /* PAT: not an address bit */
	assert_true(x86_translate(&m.c, 0x2abcde, READ, &x));
	assert_int_equal(x.gpa, 0x2abcde);
	m_poke(&m, M_PD + 8, 0x202000 | P | W | PS);
	assert_false(x86_translate(&m.c, 0x2abcde, READ, &x));
	assert_fault(&m, VEC_PF, 9);

	m_poke(&m, M_PDPT + 8, 0x40000000ull | P | W | PS);
	assert_true(x86_translate(&m.c, 0x40123456, READ, &x));
	assert_int_equal(x.gpa, 0x40123456);
	assert_int_equal(x.page_shift, 30);
	m.cpuid.gbpages = false;
	assert_false(x86_translate(&m.c, 0x40123456, READ, &x));
	assert_fault(&m, VEC_PF, 9);
	m_poke(&m, M_PML4, M_PDPT | P | W | PS);
	assert_false(x86_translate(&m.c, AT, READ, &x));
	assert_fault(&m, VEC_PF, 9);
	m_free(&m);
}

static void test_canonical(void **state)
{
	struct machine m;
	struct x86_xlat x;

	m_long(&m);
	assert_false(x86_translate(&m.c, 0x800000000000ull, READ, &x));
	assert_fault(&m, VEC_GP, 0);
	assert_false(x86_translate(&m.c, 0xffff7fffffffffffull, READ, &x));
	assert_fault(&m, VEC_GP, 0);
	assert_false(x86_translate(&m.c, 0xffff800000000000ull, READ, &x));
	assert_fault(&m, VEC_PF, 0);
	assert_false(x86_probe(&m.c, 0x800000000000ull, READ, &x));
	m_free(&m);
}

static void test_pae(void **state)
{
	struct machine m;
	struct x86_xlat x;

	m_prot32(&m);
	m.c.cr0 |= CR0_PG | CR0_WP;
	m.c.cr4 = CR4_PAE;
	m.c.cr3 = 0x10020; /* 32-byte alignment is enough */
	m_poke(&m, 0x10020, M_PD | P);
	m_poke(&m, M_PD, M_PT | P | W | U);
	m_poke(&m, M_PD + 8, 0x200000 | P | W | PS);
	assert_true(x86_translate(&m.c, AT + 5, WRITE, &x));
	assert_int_equal(x.gpa, AT + 5);
	assert_true(x86_translate(&m.c, 0x212345, READ, &x));
	assert_int_equal(x.page_shift, 21);
	assert_int_equal(m_peek(&m, 0x10020), M_PD | P); /* no accessed bit there */
	assert_false(x86_translate(&m.c, 0x40000000, FETCH, &x));
	assert_fault(&m, VEC_PF, 0);
	m_poke(&m, AT_PTE, AT | P | 1ull << 52);
	assert_false(x86_translate(&m.c, AT, READ, &x));
	assert_fault(&m, VEC_PF, 9);
	assert_true(x86_translate(&m.c, 0x100000000ull + 0x60000, READ, &x)); /* linear addresses are 32 bits wide */
	assert_int_equal(x.gpa, 0x60000);
	m_free(&m);
}

static void poke32(struct machine *m, gpa_t a, u32 v)
{
	memcpy(m->ram + a, &v, 4);
}

static void test_two_level(void **state)
{
	struct machine m;
	struct x86_xlat x;

	m_prot32(&m);
	m.c.cr0 |= CR0_PG | CR0_WP;
	m.c.cr4 = CR4_PSE;
	m.c.cr3 = M_PML4;
	poke32(&m, M_PML4, M_PT | P | W | U);
	poke32(&m, M_PML4 + 4, 0x400000 | 3u << 13 | P | W | PS);
	poke32(&m, M_PT + 0x50 * 4, AT | P | W);
	poke32(&m, M_PT + 0x51 * 4, 0xdeadbeef & ~1u);
	assert_true(x86_translate(&m.c, AT + 7, WRITE, &x));
	assert_int_equal(x.gpa, AT + 7);
	assert_int_equal((u32)m_peek(&m, M_PT + 0x50 * 4), AT | P | W | A | D);
	assert_true(x86_translate(&m.c, 0x423456, READ, &x));
	assert_int_equal(x.gpa, 0x300423456ull); /* PSE-36 */
	assert_int_equal(x.page_shift, 22);
	poke32(&m, M_PML4 + 4, 0x400000 | 1u << 21 | P | W | PS);
	assert_false(x86_translate(&m.c, 0x423456, READ, &x));
	assert_fault(&m, VEC_PF, 9);
	assert_false(x86_translate(&m.c, AT, READ | USER, &x));
	assert_fault(&m, VEC_PF, 5);
	m_free(&m);
}

static void test_straddling_store_is_all_or_nothing(void **state)
{
	struct machine m;
	u64 v;

	m_long(&m);
	m_poke(&m, AT_PTE + 8, 0);
	m_poke(&m, AT + 0xff8, 0x1111111111111111ull);
	assert_false(x86_write_val(&m.c, AT + 0xffc, 8, ~0ull, WRITE));
	assert_fault(&m, VEC_PF, 2);
	assert_int_equal(m_peek(&m, AT + 0xff8), 0x1111111111111111ull);
	m_poke(&m, AT_PTE + 8, 0x70000 | P | W);
	assert_true(x86_write_val(&m.c, AT + 0xffc, 8, 0x8877665544332211ull, WRITE));
	assert_int_equal(m_peek(&m, AT + 0xff8), 0x4433221111111111ull);
	assert_int_equal((u32)m_peek(&m, 0x70000), 0x88776655);
	assert_true(x86_read_val(&m.c, AT + 0xffc, 8, &v, READ));
	assert_int_equal(v, 0x8877665544332211ull);
	m_free(&m);
}

static void test_block_copy(void **state)
{
	static u8 in[12000], out[12000];
	struct machine m;

	m_long(&m);
	for (u32 i = 0; i < sizeof(in); i++)
		in[i] = (u8)(i * 7);
	assert_true(x86_write(&m.c, AT + 0xfff, in, sizeof(in), WRITE));
	assert_true(x86_read(&m.c, AT + 0xfff, out, sizeof(out), READ));
	assert_memory_equal(in, out, sizeof(in));
	m_free(&m);
}

static void test_mmio_pieces(void **state)
{
	struct machine m;
	u64 v = 0;

	m_long(&m);
	m_poke(&m, AT_PTE, M_DEVICE | P | W);
	m.device_value = 0x1122334455667788ull;
	assert_true(x86_read_val(&m.c, AT + 8, 4, &v, READ));
	assert_int_equal(v, 0x55667788);
	assert_int_equal(m.device_size, 4);
	m.device_accesses = 0;
	assert_true(x86_read_val(&m.c, AT + 2, 8, &v, READ)); /* 2 + 4 + 2 */
	assert_int_equal(m.device_accesses, 3);
	assert_true(x86_write_val(&m.c, AT + 4, 4, 0xabcd, WRITE));
	assert_int_equal(m.device_value, 0xabcd);
	assert_int_equal(m.device_addr, M_DEVICE + 4);
	m_free(&m);
}

static void test_exchange(void **state)
{
	static const u64 expect[2] = {1, 2}, newval[2] = {3, 4};
	struct machine m;
	u64 old, pair[2];
	bool done;

	m_long(&m);
	for (u32 size = 1; size <= 8; size *= 2) {
		m_poke(&m, AT, 0x1122334455667788ull);
		u64 mask = size == 8 ? ~0ull : (1ull << size * 8) - 1;

		assert_true(x86_cmpxchg(&m.c, AT, size, 0x1122334455667788ull, 5, &old, &done, WRITE));
		assert_true(done);
		assert_int_equal(old, 0x1122334455667788ull & mask);
		assert_int_equal(m_peek(&m, AT) & mask, 5);
		assert_int_equal(m_peek(&m, AT) & ~mask, 0x1122334455667788ull & ~mask);
		assert_true(x86_cmpxchg(&m.c, AT, size, 6, 7, &old, &done, WRITE));
		assert_false(done);
		assert_int_equal(old, 5);
	}
	m_poke(&m, AT + 0xffc, 9); /* across two pages */
	assert_true(x86_cmpxchg(&m.c, AT + 0xffc, 8, 9, 0xaabbccddeeff0011ull, &old, &done, WRITE));
	assert_true(done);
	assert_int_equal(m_peek(&m, AT + 0xffc), 0xaabbccddeeff0011ull);
	m_poke(&m, AT, 1);
	m_poke(&m, AT + 8, 2);
	assert_true(x86_cmpxchg16(&m.c, AT, expect, newval, pair, &done, WRITE));
	assert_true(done);
	assert_int_equal(m_peek(&m, AT + 8), 4);
	assert_true(x86_cmpxchg16(&m.c, AT, expect, newval, pair, &done, WRITE));
	assert_false(done);
	assert_int_equal(pair[0], 3);
	assert_int_equal(pair[1], 4);
	assert_false(x86_cmpxchg16(&m.c, AT + 8, expect, newval, pair, &done, WRITE));
	assert_fault(&m, VEC_GP, 0);
	m_free(&m);
}

static void test_fetch_stops_at_a_fault(void **state)
{
	struct machine m;
	u8 buf[15];
	u32 got;

	m_long(&m);
	m_poke(&m, AT_PTE + 8, 0);
	assert_true(x86_fetch(&m.c, AT + 0xffa, buf, 15, &got));
	assert_int_equal(got, 6);
	assert_false(m.c.fault.pending);
	assert_false(x86_fetch(&m.c, AT + 0x1000, buf, 9, &got));
	assert_int_equal(m.c.fault.cr2, AT + 0x1000);
	assert_fault(&m, VEC_PF, 0x10);
	m_free(&m);
}

static u8 *cached(void *opaque, gva_t gva, u32 acc)
{
	struct machine *m = opaque;

	return PAGE_BASE(gva) == AT && !(acc & ACC_USER) ? m->ram + gva : NULL;
}

static void test_short_cut(void **state)
{
	struct machine m;
	u64 v;

	m_long(&m);
	m.env.cached = cached;
	m_poke(&m, AT_PTE, 0); /* a stale translation may be used until it is flushed */
	assert_true(x86_write_val(&m.c, AT, 8, 42, WRITE));
	assert_true(x86_read_val(&m.c, AT, 8, &v, READ));
	assert_int_equal(v, 42);
	assert_false(x86_read_val(&m.c, AT, 8, &v, READ | USER));
	assert_fault(&m, VEC_PF, 4);
	m_free(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rights),
		cmocka_unit_test(test_rights_are_those_of_all_levels),
		cmocka_unit_test(test_accessed_and_dirty),
		cmocka_unit_test(test_tables_in_rom_and_nowhere),
		cmocka_unit_test(test_large_pages),
		cmocka_unit_test(test_canonical),
		cmocka_unit_test(test_pae),
		cmocka_unit_test(test_two_level),
		cmocka_unit_test(test_straddling_store_is_all_or_nothing),
		cmocka_unit_test(test_block_copy),
		cmocka_unit_test(test_mmio_pieces),
		cmocka_unit_test(test_exchange),
		cmocka_unit_test(test_fetch_stops_at_a_fault),
		cmocka_unit_test(test_short_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
