/* SPDX-License-Identifier: Apache-2.0 */
/* CPU models on hosts that are not this one: the levels are alike everywhere but for the vendor, and what they lack is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "x86/cpuid_basis.h"
#include "x86/internal.h"

#define BIT(n) (1u << (n))
#define TSC_HZ 2596148000ull

enum { EAX, EBX, ECX, EDX };

/* ---- hosts ---- */

struct fake_leaf {
	u32 leaf, sub, r[4];
};

struct fake {
	struct x86_cpuid_host host;
	const struct fake_leaf *leaf;
	u32 n;
};

static void fake_cpuid(const struct x86_cpuid_host *h, u32 leaf, u32 sub, u32 r[4])
{
	const struct fake *f = container_of(h, struct fake, host);

	memset(r, 0, 16);
	for (u32 i = 0; i < f->n; i++)
		if (f->leaf[i].leaf == leaf && f->leaf[i].sub == sub)
			memcpy(r, f->leaf[i].r, 16);
}

#define INTEL 0x756e6547, 0x6c65746e, 0x49656e69
#define AMD 0x68747541, 0x444d4163, 0x69746e65

/* As of a Haswell for desktops, with SMEP, FSGSBASE, PCID and all caches its own; 39 bits of address; no SMAP. */
static const struct fake_leaf haswell[] = {
	{0, 0, {0xd, INTEL}},
	{1, 0, {0x000306c3, 0x00100800, 0x7ffafbff, 0xbfebfbff}},
	{2, 0, {0x76036301, 0x00f0b5ff, 0, 0x00c10000}},
	{4, 0, {0x1c004121, 0x01c0003f, 63, 0}},
	{7, 0, {0, 0x000027ab, 0, 0x9c000000}},
	{0xd, 0, {7, 832, 832, 0}},
	{0xd, 1, {1, 0, 0, 0}},
	{0xd, 2, {256, 576, 0, 0}},
	{0x80000000, 0, {0x80000008, 0, 0, 0}},
	{0x80000001, 0, {0, 0, 0x21, 0x2c100800}},
	{0x80000002, 0, {0x65746e49, 0x2952286c, 0, 0}},
	{0x80000006, 0, {0, 0, 0x01006040, 0}},
	{0x80000007, 0, {0, 0, 0, 0x100}},
	{0x80000008, 0, {0x3027, 0, 0, 0}},
};

/* As of a CPU of the Zen 4 kind: AVX-512, SMAP, UMIP, TOPOEXT, 48 bits of address; no PCID, to be unlike. */
static const struct fake_leaf zen4[] = {
	{0, 0, {0x10, AMD}},
	{1, 0, {0x00a10f11, 0x00020800, 0x7ed8320b, 0x178bfbff}},
	{7, 0, {1, 0xf1bf07a9, 0x00405fde, 0x10000010}},
	{7, 1, {0x20, 0, 0, 0}},
	{0xd, 0, {0xe7, 2440, 2440, 0}},
	{0xd, 1, {0xf, 2440, 0, 0}},
	{0xd, 2, {256, 576, 0, 0}},
	{0xd, 5, {64, 832, 0, 0}},
	{0xd, 6, {512, 896, 0, 0}},
	{0xd, 7, {1024, 1408, 0, 0}},
	{0x80000000, 0, {0x80000028, AMD}},
	{0x80000001, 0, {0x00a10f11, 0x40000000, 0x75c237ff, 0x2fd3fbff}},
	{0x80000002, 0, {0x20444d41, 0x43595045, 0, 0}},
	{0x80000005, 0, {0xff48ff40, 0xff48ff40, 0x20080140, 0x20080140}},
	{0x80000007, 0, {0, 0, 0, 0x100}},
	{0x80000008, 0, {0x3030, 0x791ef257, 0x7, 0}},
	{0x8000001d, 0, {0x121, 0x01c0003f, 63, 0}},
	{0x80000021, 0, {0x00062fcf, 0, 0, 0}},
};

/* x86-64-v2 and nothing above; its kernel has enabled XSAVE, and the address bus is 36 bits wide. */
static const struct fake_leaf nehalem[] = {
	{0, 0, {0xb, INTEL}},
	{1, 0, {0x000106a5, 0x00100800, 0x0c98e3bd, 0xbfebfbff}},
	{0x80000000, 0, {0x80000008, 0, 0, 0}},
	{0x80000001, 0, {0, 0, 1, 0x28100800}},
	{0x80000008, 0, {0x3024, 0, 0, 0}},
};

#define FAKE(table, xcr0)                                                                                                                  \
	{                                                                                                                                  \
		{fake_cpuid, xcr0}, table, ARRAY_SIZE(table)                                                                               \
	}
static const struct fake intel = FAKE(haswell, 7), amd = FAKE(zen4, 0xe7), old = FAKE(nehalem, 3), no_avx = FAKE(haswell, 3);

/* ---- what is built ---- */

static struct x86_cpuid_config config(const char *model, const struct fake *host, u32 ncpus, bool bt)
{
	return (struct x86_cpuid_config){
		.ncpus = ncpus, .tsc_hz = TSC_HZ, .engine_bt = bt, .model = x86_cpu_model_find(model), .host = host ? &host->host : NULL};
}

static void build(struct x86_cpuid *p, const char *model, const struct fake *host, u32 ncpus, bool bt)
{
	const struct x86_cpuid_config cfg = config(model, host, ncpus, bt);

	assert_non_null(cfg.model);
	memset(p, 0, sizeof(*p));
	x86_cpuid_build(p, &cfg);
}

static const struct x86_cpuid_leaf *find(const struct x86_cpuid *p, u32 leaf, u32 sub)
{
	static const struct x86_cpuid_leaf none;

	for (u32 i = 0; i < p->n; i++)
		if (p->leaf[i].leaf == leaf && p->leaf[i].sub == sub)
			return &p->leaf[i];
	return &none;
}

static u32 get(const struct x86_cpuid *p, u32 leaf, u32 sub, u32 reg)
{
	const struct x86_cpuid_leaf *l = find(p, leaf, sub);

	return reg == EAX ? l->eax : reg == EBX ? l->ebx : reg == ECX ? l->ecx : l->edx;
}

/* ---- the psABI, and what goes with it: written down here once more, from the manuals ---- */

#define ONE_ECX_V2 (BIT(0) | BIT(9) | BIT(13) | BIT(19) | BIT(20) | BIT(23))		 /* SSE3 SSSE3 CX16 SSE4.1 SSE4.2 POPCNT */
#define ONE_ECX_MACHINE (BIT(21) | BIT(24) | BIT(31))					 /* x2APIC, TSC deadline, hypervisor */
#define ONE_ECX_V3 (BIT(12) | BIT(22) | BIT(26) | BIT(28) | BIT(29))			 /* FMA MOVBE XSAVE AVX F16C */
#define ONE_EDX_BASE (BIT(0) | BIT(8) | BIT(15) | BIT(23) | BIT(24) | BIT(25) | BIT(26)) /* FPU CX8 CMOV MMX FXSR SSE SSE2 */
/* DE PSE TSC MSR PAE MCE APIC SEP MTRR PGE MCA PAT PSE36 CLFLUSH */
#define ONE_EDX_SYSTEM                                                                                                                     \
	(BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(9) | BIT(11) | BIT(12) | BIT(13) | BIT(14) | BIT(16) | BIT(17) | BIT(19))
#define HT BIT(28)
#define SEVEN_SYSTEM (BIT(0) | BIT(7))	    /* FSGSBASE SMEP */
#define SEVEN_V3 (BIT(3) | BIT(5) | BIT(8)) /* BMI1 AVX2 BMI2 */
#define EXT_ECX_V2 BIT(0)		    /* LAHF */
#define EXT_ECX_V3 BIT(5)		    /* LZCNT */
#define CMP_LEGACY BIT(1)
#define EXT_EDX (BIT(11) | BIT(20) | BIT(27) | BIT(29)) /* SYSCALL NX RDTSCP LM */
#define EXT_EDX_AMD 0x0183f3ffu				/* repeats leaf 1 */

static void check_features(const struct x86_cpuid *p, bool v3, bool is_amd, u32 ncpus)
{
	u32 one_edx = ONE_EDX_BASE | ONE_EDX_SYSTEM | (ncpus > 1 ? HT : 0);

	assert_int_equal(get(p, 1, 0, ECX), ONE_ECX_V2 | ONE_ECX_MACHINE | (v3 ? ONE_ECX_V3 : 0));
	assert_int_equal(get(p, 1, 0, EDX), one_edx);
	assert_int_equal(get(p, 6, 0, EAX), BIT(2)); /* ARAT */
	assert_int_equal(get(p, 7, 0, EBX), SEVEN_SYSTEM | (v3 ? SEVEN_V3 : 0));
	assert_int_equal(get(p, 7, 0, ECX) | get(p, 7, 0, EDX), 0);
	assert_int_equal(get(p, 7, 1, EAX) | get(p, 7, 1, EDX), 0);
	assert_int_equal(get(p, 0xd, 1, EAX), 0);
	assert_int_equal(get(p, 0x80000001, 0, ECX), EXT_ECX_V2 | (v3 ? EXT_ECX_V3 : 0) | (is_amd && ncpus > 1 ? CMP_LEGACY : 0));
	assert_int_equal(get(p, 0x80000001, 0, EDX), EXT_EDX | (is_amd ? one_edx & EXT_EDX_AMD : 0));
	assert_int_equal(get(p, 0x80000007, 0, EDX), BIT(8));
	assert_int_equal(get(p, 0x80000008, 0, EBX), 0);
	assert_int_equal(get(p, 0x80000021, 0, EAX), 0);
}

static void levels_have_exactly_their_features(void **state)
{
	const struct fake *const hosts[] = {&intel, &amd};
	struct x86_cpuid p;

	for (u32 i = 0; i < 16; i++) {
		bool v3 = i & 1, bt = i & 2, is_amd = i & 4;
		u32 ncpus = i & 8 ? 4 : 1;

		build(&p, v3 ? "x86-64-v3" : "x86-64-v2", hosts[is_amd], ncpus, bt);
		check_features(&p, v3, is_amd, ncpus);
	}
}

/* The vendor, what AMD's CPUs repeat of leaf 1 and of the topology, and nothing else. */
static u32 may_differ(u32 leaf, u32 reg)
{
	switch (leaf) {
	case 0:
	case 0x80000000:
		return reg == EAX ? 0 : ~0u;
	case 0x80000001:
		return reg == EAX ? ~0u : reg == ECX ? CMP_LEGACY : reg == EDX ? EXT_EDX_AMD : 0;
	case 0x80000008:
		return reg == ECX ? ~0u : 0;
	default:
		return 0;
	}
}

static void assert_alike(const struct x86_cpuid *a, const struct x86_cpuid *b, bool same_vendor)
{
	assert_int_equal(a->n, b->n);
	for (u32 i = 0; i < a->n; i++) {
		u32 leaf = a->leaf[i].leaf, sub = a->leaf[i].sub;

		for (u32 reg = 0; reg < 4; reg++) {
			u32 mask = same_vendor ? ~0u : ~may_differ(leaf, reg);

			if ((get(a, leaf, sub, reg) & mask) != (get(b, leaf, sub, reg) & mask))
				fail_msg("leaf %#x.%u register %u: %#x and %#x", leaf, sub, reg, get(a, leaf, sub, reg),
					 get(b, leaf, sub, reg));
		}
	}
	assert_int_equal(a->phys_bits, b->phys_bits);
	assert_int_equal(a->gbpages, b->gbpages);
	assert_int_equal(a->xcr0_supported, b->xcr0_supported);
	assert_int_equal(a->cr4_reserved, b->cr4_reserved);
}

static void levels_are_alike_everywhere(void **state)
{
	static const char *const names[] = {"x86-64-v2", "x86-64-v3"};
	struct x86_cpuid a, b;

	for (u32 i = 0; i < 8; i++) {
		const char *name = names[i & 1];
		u32 ncpus = i & 2 ? 3 : 1;

		build(&a, name, &intel, ncpus, i & 4);
		build(&b, name, &amd, ncpus, i & 4);
		assert_alike(&a, &b, false);
		build(&b, name, &intel, ncpus, !(i & 4));
		assert_alike(&a, &b, true);
	}
}

static void levels_have_an_identity(void **state)
{
	struct x86_cpuid p;

	build(&p, "x86-64-v3", &intel, 1, true);
	assert_int_equal(get(&p, 0, 0, EBX), 0x756e6547); /* the vendor is the host's */
	assert_int_equal(get(&p, 1, 0, EAX), X86_LEVEL_SIGNATURE);
	assert_memory_equal(&find(&p, 0x80000002, 0)->eax, "Guise virtual CP", 16);
	assert_memory_equal(&find(&p, 0x80000003, 0)->eax, "U (x86-64-v3)\0\0\0", 16);
	assert_int_equal(p.phys_bits, 39);
	assert_int_equal(get(&p, 0x80000008, 0, EAX), 39 | 48 << 8);
	assert_false(p.gbpages);
	/* 32 KiB, 8 ways of 64 sets; 16 MiB, 16 ways of 16384 */
	assert_int_equal(get(&p, 4, 0, EAX) & 0x3fff, 0x121);
	assert_int_equal(get(&p, 4, 0, EBX), 0x01c0003f);
	assert_int_equal(get(&p, 4, 3, ECX), 16383);
	assert_int_equal(get(&p, 0x80000005, 0, ECX), 0x20080140);
	assert_int_equal(get(&p, 0x80000006, 0, ECX), 0x02006140);
	assert_int_equal(get(&p, 0x80000006, 0, EDX), 0x00808140);
	build(&p, "x86-64-v2", &amd, 1, true);
	assert_int_equal(get(&p, 0, 0, EBX), 0x68747541);
	assert_int_equal(get(&p, 0x80000000, 0, EAX), 0x80000008);
	assert_memory_equal(&find(&p, 0x80000003, 0)->eax, "U (x86-64-v2)\0\0\0", 16);
}

static void levels_have_their_state(void **state)
{
	const u64 hidden = CR4_PCIDE | CR4_SMAP | CR4_UMIP | CR4_VME;
	struct x86_cpuid p;

	build(&p, "x86-64-v3", &amd, 2, true);
	assert_int_equal(p.xcr0_supported, 7);
	assert_int_equal(get(&p, 0xd, 0, EAX), 7);
	assert_int_equal(get(&p, 0xd, 0, ECX), 832);
	assert_int_equal(get(&p, 0xd, 2, EAX), 256);
	assert_int_equal(get(&p, 0xd, 2, EBX), 576);
	assert_int_equal(get(&p, 0xd, 5, EAX) | get(&p, 0xd, 7, EAX), 0);
	assert_int_equal(p.cr4_reserved & (CR4_OSXSAVE | CR4_SMEP | CR4_FSGSBASE | CR4_PGE), 0);
	assert_int_equal(p.cr4_reserved & hidden, hidden);
	build(&p, "x86-64-v2", &amd, 2, true);
	assert_int_equal(p.xcr0_supported, 3);
	assert_int_equal(get(&p, 0xd, 0, EAX) | get(&p, 0xd, 2, EAX), 0);
	assert_int_equal(p.cr4_reserved & (hidden | CR4_OSXSAVE), hidden | CR4_OSXSAVE);
}

/* ---- the table ---- */

static void levels_take_nothing_that_depends_on_the_engine(void **state)
{
	for (u32 i = 0; i < x86_feature_count; i++) {
		const struct x86_feature *f = &x86_features[i];

		if (f->level != X86_LEVEL_HOST && (f->policy == HIDE || f->policy == ON_KVM || f->policy == ON_BT))
			fail_msg("%s is in a level", f->name);
	}
}

/* ---- refusals ---- */

static void assert_lacks(const char *model, const struct fake *host, bool bt, const char *wanted)
{
	const struct x86_cpuid_config cfg = config(model, host, 1, bt);
	char list[256];
	u32 n = x86_cpuid_lacks(&cfg, list, sizeof(list)), words = 0;

	assert_string_equal(list, wanted);
	for (const char *c = list; *c; c++)
		words += *c == ' ';
	assert_true(n <= words && (n == 0) == (words == 0));
}

static void what_a_host_lacks_is_named(void **state)
{
	assert_lacks("x86-64-v3", &intel, true, "");
	assert_lacks("x86-64-v3", &intel, false, "");
	assert_lacks("x86-64-v3", &amd, false, "");
	assert_lacks("x86-64-v2", &old, true, "");
	assert_lacks("x86-64-v2", &old, false, " fsgsbase smep 39 bits of address");
	assert_lacks("x86-64-v3", &old, true, " fma movbe avx f16c bmi1 avx2 bmi2 abm");
	/* The CPU has it and its kernel has not enabled the registers. */
	assert_lacks("x86-64-v3", &no_avx, true, " fma avx f16c avx2");
	assert_lacks("x86-64-v2", &no_avx, true, "");
	assert_lacks("host", &old, false, "");
	assert_lacks("max", &old, true, "");
}

/* A list that is too short for its words is cut, not overrun. */
static void the_list_is_cut(void **state)
{
	const struct x86_cpuid_config cfg = config("x86-64-v3", &old, 1, true);
	char list[10] = "xxxxxxxxx";

	assert_int_equal(x86_cpuid_lacks(&cfg, list, 6), 8);
	assert_string_equal(list, " fma ");
	assert_int_equal(list[7], 'x');
}

/* ---- models that follow the host ---- */

static void host_is_as_the_host(void **state)
{
	struct x86_cpuid p, max;

	build(&p, "host", &amd, 2, true);
	assert_int_equal(get(&p, 1, 0, EAX), 0x00a10f11);
	assert_int_equal(get(&p, 0x80000002, 0, EAX), 0x20444d41);
	assert_int_equal(p.phys_bits, 48);
	assert_int_equal(p.xcr0_supported, 0xe7);
	assert_int_equal(get(&p, 0xd, 0, ECX), 2432);
	assert_true(get(&p, 7, 0, EBX) & BIT(16));		 /* AVX512F */
	assert_true(get(&p, 0x80000021, 0, EAX) & BIT(29));	 /* SRSO_NO: translated */
	assert_int_equal(get(&p, 7, 0, EDX) & BIT(29), 0);	 /* ARCH_CAPABILITIES is Intel's */
	assert_int_equal(get(&p, 1, 0, ECX) & BIT(17), BIT(17)); /* PCID: ours */
	assert_int_equal(get(&p, 0x80000001, 0, ECX) & CMP_LEGACY, CMP_LEGACY);
	build(&max, "max", &amd, 2, true);
	assert_alike(&p, &max, true);
	build(&p, "host", &amd, 2, false);
	assert_int_equal(get(&p, 1, 0, ECX) & BIT(17), 0); /* KVM follows the CPU */
	build(&p, "host", &intel, 2, true);
	assert_int_equal(get(&p, 7, 0, EDX) & BIT(29), BIT(29));
	assert_int_equal(get(&p, 0x80000001, 0, ECX) & CMP_LEGACY, 0);
	assert_int_equal(get(&p, 2, 0, EAX), 0x76036301);
	assert_int_equal(p.xcr0_supported, 7);
}

static void models_are_found_by_name(void **state)
{
	assert_string_equal(x86_cpu_model_find(NULL)->name, "host");
	assert_string_equal(x86_cpu_model_find("x86-64-v3")->name, "x86-64-v3");
	assert_null(x86_cpu_model_find("x86-64-v4"));
	assert_null(x86_cpu_model_find(""));
	for (const struct x86_cpu_model *m = x86_cpu_models; m->name; m++)
		assert_true(m->level == X86_LEVEL_HOST || (m->brand && strlen(m->brand) < 48));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(levels_have_exactly_their_features),
		cmocka_unit_test(levels_are_alike_everywhere),
		cmocka_unit_test(levels_have_an_identity),
		cmocka_unit_test(levels_have_their_state),
		cmocka_unit_test(levels_take_nothing_that_depends_on_the_engine),
		cmocka_unit_test(what_a_host_lacks_is_named),
		cmocka_unit_test(the_list_is_cut),
		cmocka_unit_test(host_is_as_the_host),
		cmocka_unit_test(models_are_found_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
