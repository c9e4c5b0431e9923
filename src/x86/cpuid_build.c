/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What vCPUs announce: identity and caches of the host, features by the policy table, topology of one package with one thread a core, the
 * TSC frequency, and KVM's paravirtual leaf.
 * Source: SDM vol. 2, CPUID; AMD APM vol. 3, appendix E; Linux Documentation/virt/kvm/x86/cpuid.rst.
 * Threading: any; host CPUID must not change while it runs.
 */
#include "x86/cpuid_basis.h"
#include "x86/internal.h"

#include <string.h>

#define MAX_BASIC 0x16u
#define MAX_EXTENDED_AMD 0x80000021u
#define MAX_EXTENDED 0x80000008u
#define KVM_BASE 0x40000000u
#define KVM_NOP_IO_DELAY (1u << 1)
#define KVM_CLOCKSOURCE2 (1u << 3)
#define KVM_PV_UNHALT (1u << 7)
#define KVM_PV_SEND_IPI (1u << 11)
#define KVM_CLOCKSOURCE_STABLE (1u << 24)
#define APIC_BUS_KHZ 1000000u /* of the LAPIC's timer, and the "crystal" of leaf 0x15 */
#define MAX_CACHES 4

struct build {
	struct x86_cpuid *p;
	const struct x86_cpuid_config *cfg;
	struct x86_cpuid_basis basis;
	const struct x86_cpu_model *level; /* NULL: the model follows the host */
	bool amd;
	u32 core_shift; /* APIC id bits of one package */
};

static void host_cpuid(struct build *b, u32 leaf, u32 sub, u32 r[4])
{
	x86_host_leaf(&b->basis, leaf, sub, r);
}

static void add(struct build *b, u32 leaf, u32 sub, const u32 r[4])
{
	struct x86_cpuid_leaf *l = &b->p->leaf[b->p->n];

	if (b->p->n == X86_CPUID_MAX || !(r[0] | r[1] | r[2] | r[3]))
		return; /* an absent leaf reads as zeros */
	l->leaf = leaf;
	l->sub = sub;
	l->any_sub = false;
	l->eax = r[0];
	l->ebx = r[1];
	l->ecx = r[2];
	l->edx = r[3];
	b->p->n++;
}

static void add4(struct build *b, u32 leaf, u32 sub, u32 eax, u32 ebx, u32 ecx, u32 edx)
{
	u32 r[4] = {eax, ebx, ecx, edx};

	add(b, leaf, sub, r);
}

static void add_host(struct build *b, u32 leaf)
{
	u32 r[4];

	host_cpuid(b, leaf, 0, r);
	add(b, leaf, 0, r);
}

/* Feature bits of one leaf, in the registers that `regs` names (bit i: r[i]). */
static void apply_policy(struct build *b, u32 leaf, u32 sub, u32 regs, u32 r[4])
{
	for (u32 i = 0; i < 4; i++)
		if (regs >> i & 1)
			r[i] = 0;
	for (u32 i = 0; i < x86_feature_count; i++) {
		const struct x86_feature *f = &x86_features[i];

		if (f->leaf == leaf && f->sub == sub && regs >> f->reg & 1 && x86_feature_judge(&b->basis, f) == X86_ANNOUNCED)
			r[f->reg] |= 1u << f->bit;
	}
}

#define IN_EAX 1u
#define IN_EBX 2u
#define IN_ECX 4u
#define IN_EDX 8u

/* ---- basic leaves ---- */

static void add_identity(struct build *b)
{
	u32 r[4];

	host_cpuid(b, 0, 0, r);
	r[0] = MAX_BASIC;
	add(b, 0, 0, r);
	host_cpuid(b, 1, 0, r);
	if (b->level) {
		r[0] = X86_LEVEL_SIGNATURE;
		r[1] = 8u << 8; /* CLFLUSH: 64 bytes */
	}
	apply_policy(b, 1, 0, IN_ECX | IN_EDX, r);
	r[1] = (r[1] & 0xff00) | (b->cfg->ncpus > 1 ? 1u << (b->core_shift + 16) : 1u << 16);
	add(b, 1, 0, r);
}

static void level_cache(u32 sub, u32 r[4])
{
	const struct x86_level_cache *c = &x86_level_caches[sub];

	memset(r, 0, 4 * sizeof(*r));
	if (sub >= x86_level_cache_count)
		return;
	r[0] = c->type | (u32)c->level << 5 | 1u << 8;
	r[1] = 63 | (c->ways - 1) << 22;
	r[2] = c->sets - 1;
}

/* Cache leaves 4 and 0x8000001d: the host's caches, or the level's; the last level is shared by all, the others belong to one core. */
static void add_caches(struct build *b, u32 leaf)
{
	u32 cores = leaf == 4 ? ((1u << b->core_shift) - 1) & 0x3f : 0;

	for (u32 sub = 0; sub < MAX_CACHES; sub++) {
		u32 r[4], shared;

		if (b->level)
			level_cache(sub, r);
		else
			host_cpuid(b, leaf, sub, r);
		if (!(r[0] & 0x1f))
			return;
		shared = (r[0] >> 5 & 7) >= 3 ? b->cfg->ncpus - 1 : 0;
		r[0] = (r[0] & 0x3fff) | shared << 14 | cores << 26;
		add(b, leaf, sub, r);
	}
}

static void add_extended_features(struct build *b)
{
	u32 r[4] = {1};

	apply_policy(b, 7, 0, IN_EBX | IN_ECX | IN_EDX, r);
	add(b, 7, 0, r);
	apply_policy(b, 7, 1, 0xf, r);
	add(b, 7, 1, r);
}

static void add_topology(struct build *b)
{
	add4(b, 0xb, 0, 0, 1, 1u << 8 | 0, 0);
	add4(b, 0xb, 1, b->core_shift, b->cfg->ncpus, 2u << 8 | 1, 0);
	/* Further levels: type 0; ECX repeats the level, EDX the APIC id, both filled in when read. */
	add4(b, 0xb, 2, 0, 0, 2, 0);
	b->p->leaf[b->p->n - 1].any_sub = true;
}

static void add_xsave(struct build *b)
{
	u64 mask = b->p->xcr0_supported;
	u32 r[4];

	if (!x86_cpuid_has(b->p, 1, 0, 2, 26))
		return;
	add4(b, 0xd, 0, (u32)mask, 576, x86_host_xsave_area(&b->basis, mask), 0);
	apply_policy(b, 0xd, 1, 0xf, r);
	add(b, 0xd, 1, r);
	for (u32 i = 2; i < 8; i++) {
		if (!(mask >> i & 1))
			continue;
		host_cpuid(b, 0xd, i, r);
		add(b, 0xd, i, r);
	}
}

static void add_frequencies(struct build *b)
{
	u32 khz = (u32)(b->cfg->tsc_hz / 1000), mhz = (khz + 500) / 1000;

	add4(b, 0x15, 0, 1000000, khz, APIC_BUS_KHZ * 1000u, 0);
	add4(b, 0x16, 0, mhz, mhz, 100, 0);
}

/* ---- hypervisor leaves ---- */

#define KVM_FEATURES (KVM_NOP_IO_DELAY | KVM_CLOCKSOURCE2 | KVM_PV_UNHALT | KVM_PV_SEND_IPI | KVM_CLOCKSOURCE_STABLE)

static void add_hypervisor(struct build *b)
{
	add4(b, KVM_BASE, 0, KVM_BASE + 0x10, 0x4b4d564b, 0x564b4d56, 0x0000004d); /* "KVMKVMKVM\0\0\0" */
	add4(b, KVM_BASE + 1, 0, KVM_FEATURES, 0, 0, 0);
	add4(b, KVM_BASE + 0x10, 0, (u32)(b->cfg->tsc_hz / 1000), APIC_BUS_KHZ, 0, 0);
}

/* ---- extended leaves ---- */

/* AMD repeats leaf 1's EDX in 0x80000001. */
#define AMD_SHARED_EDX 0x0183f3ffu

static void add_extended_identity(struct build *b)
{
	const struct x86_cpuid_leaf *one = &b->p->leaf[1];
	u32 r[4];

	host_cpuid(b, 0x80000000, 0, r);
	r[0] = b->amd && !b->level ? MAX_EXTENDED_AMD : MAX_EXTENDED;
	if (b->level && !b->amd)
		r[1] = r[2] = r[3] = 0; /* only AMD's CPUs repeat the vendor */
	add(b, 0x80000000, 0, r);
	host_cpuid(b, 0x80000001, 0, r);
	if (b->level) {
		r[0] = b->amd ? X86_LEVEL_SIGNATURE : 0;
		r[1] = 0;
	}
	apply_policy(b, 0x80000001, 0, IN_ECX | IN_EDX, r);
	if (b->amd)
		r[3] |= one->edx & AMD_SHARED_EDX;
	add(b, 0x80000001, 0, r);
}

static u32 phys_bits(struct build *b)
{
	u32 r[4], bits;

	if (b->level)
		return X86_LEVEL_PHYS_BITS;
	host_cpuid(b, 0x80000008, 0, r);
	bits = r[0] & 0xff;
	return bits < 36 || bits > 52 ? 40 : bits;
}

static void add_address_sizes(struct build *b)
{
	u32 r[4];

	b->p->phys_bits = phys_bits(b);
	r[0] = b->p->phys_bits | 48u << 8;
	apply_policy(b, 0x80000008, 0, IN_EBX, r);
	r[2] = b->amd ? (b->cfg->ncpus - 1) | b->core_shift << 12 : 0;
	r[3] = 0;
	add(b, 0x80000008, 0, r);
}

static void add_amd_leaves(struct build *b)
{
	u32 r[4];

	add_host(b, 0x80000019); /* 1 GiB TLB */
	add_host(b, 0x8000001a); /* width of the vector units */
	add_caches(b, 0x8000001d);
	add4(b, 0x8000001e, 0, 0, 0, 0x1u << 31, 0); /* filled in when read; the bit keeps the leaf from being all zero */
	host_cpuid(b, 0x80000021, 0, r);
	apply_policy(b, 0x80000021, 0, 0xf, r);
	add(b, 0x80000021, 0, r);
}

static void add_level_brand(struct build *b)
{
	char brand[48] = "";
	u32 r[4];

	strncpy(brand, b->level->brand, sizeof(brand) - 1);
	for (u32 i = 0; i < 3; i++) {
		memcpy(r, brand + i * sizeof(r), sizeof(r));
		add(b, 0x80000002 + i, 0, r);
	}
}

/* Brand string, caches and TLBs. */
static void add_description(struct build *b)
{
	if (!b->level) {
		for (u32 leaf = 0x80000002; leaf <= 0x80000006; leaf++)
			add_host(b, leaf);
		return;
	}
	add_level_brand(b);
	add(b, 0x80000005, 0, x86_level_legacy_caches[0]);
	add(b, 0x80000006, 0, x86_level_legacy_caches[1]);
}

static void add_extended(struct build *b)
{
	u32 r[4] = {0};

	add_extended_identity(b);
	add_description(b);
	apply_policy(b, 0x80000007, 0, 0xf, r);
	add(b, 0x80000007, 0, r);
	add_address_sizes(b);
	if (b->amd && !b->level)
		add_amd_leaves(b);
}

/* ---- digests ---- */

static u64 cr4_reserved(const struct x86_cpuid *p)
{
	static const struct {
		u32 cr4, leaf;
		u8 reg, bit;
	} needs[] = {
		{CR4_TSD, 1, 3, 4},    {CR4_DE, 1, 3, 2},	{CR4_PSE, 1, 3, 3},	    {CR4_PAE, 1, 3, 6},	  {CR4_MCE, 1, 3, 7},
		{CR4_PGE, 1, 3, 13},   {CR4_OSFXSR, 1, 3, 24},	{CR4_OSXMMEXCPT, 1, 3, 25}, {CR4_UMIP, 7, 2, 2},  {CR4_FSGSBASE, 7, 1, 0},
		{CR4_PCIDE, 1, 2, 17}, {CR4_OSXSAVE, 1, 2, 26}, {CR4_SMEP, 7, 1, 7},	    {CR4_SMAP, 7, 1, 20},
	};
	u64 allowed = CR4_PCE;

	for (u32 i = 0; i < ARRAY_SIZE(needs); i++)
		if (x86_cpuid_has(p, needs[i].leaf, 0, needs[i].reg, needs[i].bit))
			allowed |= needs[i].cr4;
	return ~allowed;
}

static void start(struct build *b)
{
	x86_cpuid_survey(&b->basis, b->cfg);
	b->amd = b->basis.amd;
	b->level = b->basis.model->level == X86_LEVEL_HOST ? NULL : b->basis.model;
	for (b->core_shift = 0; 1u << b->core_shift < b->cfg->ncpus;)
		b->core_shift++;
	b->p->n = 0;
	b->p->xcr0_supported = b->basis.xcr0;
}

static void add_leaf2(struct build *b)
{
	if (b->level)
		add4(b, 2, 0, X86_LEVEL_LEAF2_EAX, 0, 0, 0);
	else
		add_host(b, 2);
}

void x86_cpuid_build(struct x86_cpuid *p, const struct x86_cpuid_config *cfg)
{
	struct build b = {.p = p, .cfg = cfg};
	u32 r[4] = {0};

	start(&b);
	add_identity(&b); /* leaves 0 and 1 come first: x86_is_amd and x86_reset look there */
	add_leaf2(&b);
	add_caches(&b, 4);
	apply_policy(&b, 6, 0, 0xf, r);
	add(&b, 6, 0, r);
	add_extended_features(&b);
	add_topology(&b);
	add_xsave(&b);
	add_frequencies(&b);
	add_hypervisor(&b);
	add_extended(&b);
	p->cr4_reserved = cr4_reserved(p);
	p->gbpages = x86_cpuid_has(p, 0x80000001, 0, 3, 26);
}
