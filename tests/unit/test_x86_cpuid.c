/* SPDX-License-Identifier: Apache-2.0 */
/* What the CPUID policy promises for every number of vCPUs and both kinds of engine. */
#include <cpuid.h>

#include "x86/cpuid_features.h"
#include "x86_machine.h"

static const u32 counts[] = {1, 2, 3, 4, 7, 8, 16, 33, 64};

static void build(struct machine *m, u32 ncpus, bool bt)
{
	struct x86_cpuid_config cfg = {.ncpus = ncpus, .tsc_hz = 2596148000ull, .engine_bt = bt};

	m_new(m);
	x86_cpuid_build(&m->cpuid, &cfg);
}

static void leaf(struct machine *m, u32 l, u32 sub, u32 r[4])
{
	x86_cpuid(&m->c, 5, l, sub, r);
}

static bool host_has(const struct x86_feature *f)
{
	u32 r[4];

	if (!__get_cpuid_count(f->leaf, f->sub, &r[0], &r[1], &r[2], &r[3]))
		return false;
	return r[f->reg] >> f->bit & 1;
}

static void test_table_is_well_formed(void **state)
{
	for (u32 i = 0; i < x86_feature_count; i++)
		for (u32 j = 0; j < i; j++)
			if (x86_features[i].leaf == x86_features[j].leaf && x86_features[i].sub == x86_features[j].sub &&
			    x86_features[i].reg == x86_features[j].reg && x86_features[i].bit == x86_features[j].bit)
				fail_msg("%s and %s are the same bit", x86_features[i].name, x86_features[j].name);
}

static void test_hidden_is_hidden_and_host_is_host(void **state)
{
	for (u32 bt = 0; bt < 2; bt++) {
		struct machine m;

		build(&m, 2, bt);
		for (u32 i = 0; i < x86_feature_count; i++) {
			const struct x86_feature *f = &x86_features[i];
			bool has = x86_cpuid_has(&m.cpuid, f->leaf, f->sub, f->reg, f->bit);

			if (has && (f->policy == HIDE || (f->policy == HOST && !host_has(f)) || (f->policy == ON_KVM && bt)))
				fail_msg("%s is announced", f->name);
			if (has && f->needs & ~m.cpuid.xcr0_supported)
				fail_msg("%s is announced without its state", f->name);
		}
		m_free(&m);
	}
}

static void test_what_linux_needs(void **state)
{
	static const struct {
		u32 leaf;
		u8 reg, bit;
	} must[] = {
		{1, 3, 0},	     {1, 3, 6},		  {1, 3, 13},	      {1, 3, 24},	   {1, 3, 25},		{1, 3, 26},
		{1, 2, 21},	     {1, 2, 24},	  {1, 2, 31},	      {7, 1, 7},	   {7, 1, 20},		{1, 2, 17},
		{7, 1, 10},	     {7, 1, 0},		  {7, 2, 2},	      {0x80000001, 3, 11}, {0x80000001, 3, 20}, {0x80000001, 3, 29},
		{0x80000001, 3, 26}, {0x80000001, 3, 27}, {0x80000007, 3, 8}, {6, 0, 2},
	};
	struct machine m;

	build(&m, 2, true);
	for (u32 i = 0; i < ARRAY_SIZE(must); i++)
		if (!x86_cpuid_has(&m.cpuid, must[i].leaf, 0, must[i].reg, must[i].bit))
			fail_msg("leaf %#x register %u bit %u is missing", must[i].leaf, must[i].reg, must[i].bit);
	assert_int_equal(m.cpuid.cr4_reserved & (CR4_SMEP | CR4_SMAP | CR4_PCIDE | CR4_FSGSBASE | CR4_UMIP | CR4_PGE), 0);
	assert_int_equal(m.cpuid.cr4_reserved & (CR4_LA57 | CR4_VME | CR4_PVI), CR4_LA57 | CR4_VME | CR4_PVI);
	assert_true(m.cpuid.gbpages);
	m_free(&m);
}

static void test_topology(void **state)
{
	for (u32 i = 0; i < ARRAY_SIZE(counts); i++) {
		struct machine m;
		u32 r[4], shift, n = counts[i];

		build(&m, n, true);
		assert_true(m.cpuid.n < X86_CPUID_MAX);
		leaf(&m, 1, 0, r);
		assert_int_equal(r[1] >> 24, 5);
		assert_true((r[1] >> 16 & 0xff) >= n);
		assert_int_equal(r[3] >> 28 & 1, n > 1);
		leaf(&m, 0xb, 0, r);
		assert_int_equal(r[0], 0);
		assert_int_equal(r[1], 1);
		assert_int_equal(r[2], 0x100);
		assert_int_equal(r[3], 5);
		leaf(&m, 0xb, 1, r);
		shift = r[0];
		assert_true(1u << shift >= n && (n == 1 || 1u << shift < 2 * n));
		assert_int_equal(r[1], n);
		assert_int_equal(r[2], 0x201);
		leaf(&m, 0xb, 7, r);
		assert_int_equal(r[0] | r[1], 0);
		assert_int_equal(r[2], 7);
		assert_int_equal(r[3], 5);
		leaf(&m, 0, 0, r);
		if (r[1] == 0x68747541) {
			leaf(&m, 0x80000008, 0, r);
			assert_int_equal(r[2] & 0xff, n - 1);
			assert_int_equal(r[2] >> 12 & 15, shift);
			leaf(&m, 0x8000001e, 0, r);
			assert_int_equal(r[0], 5);
			assert_int_equal(r[1], 5);
			leaf(&m, 0x8000001d, 3, r);
			if (r[0] & 0x1f)
				assert_int_equal(r[0] >> 14 & 0xfff, n - 1);
			leaf(&m, 0x8000001d, 0, r);
			if (r[0] & 0x1f)
				assert_int_equal(r[0] >> 14 & 0xfff, 0);
		}
		m_free(&m);
	}
}

static void test_xsave_sizes(void **state)
{
	struct machine m;
	u32 r[4], max;

	build(&m, 2, true);
	leaf(&m, 0xd, 0, r);
	assert_int_equal(r[0], m.cpuid.xcr0_supported);
	assert_int_equal(r[1], 576); /* XCR0 is 1 after reset */
	max = r[2];
	assert_true(max <= X86_XSAVE_SIZE);
	m.c.xcr0 = m.cpuid.xcr0_supported;
	leaf(&m, 0xd, 0, r);
	assert_int_equal(r[1], max);
	leaf(&m, 0xd, 1, r);
	assert_true(r[1] >= 576 && r[1] <= max);
	assert_int_equal(r[0] & 8, 0);
	leaf(&m, 0xd, 9, r);
	assert_int_equal(r[0], 0); /* PKRU */
	m.c.xcr0 = 3;
	leaf(&m, 0xd, 1, r);
	assert_int_equal(r[1], 576);
	m_free(&m);
}

static void test_dynamic_bits(void **state)
{
	struct machine m;
	u32 r[4];

	build(&m, 1, true);
	leaf(&m, 1, 0, r);
	assert_int_equal(r[2] >> 27 & 1, 0);
	m.c.cr4 |= CR4_OSXSAVE;
	leaf(&m, 1, 0, r);
	assert_int_equal(r[2] >> 27 & 1, 1);
	m_free(&m);
}

static void test_frequencies_and_hypervisor(void **state)
{
	struct machine m;
	u32 r[4];

	build(&m, 1, true);
	leaf(&m, 0x15, 0, r);
	assert_int_equal((u64)r[2] * r[1] / r[0], 2596148000ull);
	leaf(&m, 0x16, 0, r);
	assert_int_equal(r[0], 2596);
	leaf(&m, 0x40000000, 0, r);
	assert_memory_equal(&r[1], "KVMKVMKVM\0\0\0", 12);
	assert_true(r[0] >= 0x40000010);
	leaf(&m, 0x40000010, 0, r);
	assert_int_equal(r[0], 2596148);
	leaf(&m, 0x40000001, 0, r);
	assert_int_equal(r[0], 1u << 24 | 1u << 11 | 1u << 7 | 1u << 3 | 1u << 1);
	leaf(&m, 0xa, 0, r);
	assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
	leaf(&m, 0x7fffffff, 0, r);
	assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
	m_free(&m);
}

static void test_brand_is_the_hosts(void **state)
{
	struct machine m;
	u32 host[12], guest[12];

	build(&m, 1, true);
	for (u32 i = 0; i < 3; i++) {
		u32 *h = host + i * 4;

		__cpuid(0x80000002 + i, h[0], h[1], h[2], h[3]);
		leaf(&m, 0x80000002 + i, 0, guest + i * 4);
	}
	assert_memory_equal(host, guest, sizeof(host));
	m_free(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table_is_well_formed),
		cmocka_unit_test(test_hidden_is_hidden_and_host_is_host),
		cmocka_unit_test(test_what_linux_needs),
		cmocka_unit_test(test_topology),
		cmocka_unit_test(test_xsave_sizes),
		cmocka_unit_test(test_dynamic_bits),
		cmocka_unit_test(test_frequencies_and_hypervisor),
		cmocka_unit_test(test_brand_is_the_hosts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
