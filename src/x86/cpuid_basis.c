/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's CPU as the CPUID policy sees it, and the one place that decides whether a feature is announced.
 * Threading: any; host CPUID must not change while it runs.
 */
#include "x86/cpuid_basis.h"
#include "x86/internal.h"

#include <stdio.h>
#include <string.h>

#define XCR0_OFFERED 0xe7ull /* x87, SSE, AVX, three of AVX-512 */
#define XCR0_AVX512 0xe0ull
#define OSXSAVE 27

static void raw_cpuid(const struct x86_cpuid_basis *b, u32 leaf, u32 sub, u32 r[4])
{
	if (b->cfg->host)
		b->cfg->host->cpuid(b->cfg->host, leaf, sub, r);
	else
		__asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}

/* Intel CPUs return some other leaf for one that they do not have. */
static bool host_has_leaf(struct x86_cpuid_basis *b, u32 leaf, u32 sub)
{
	u32 r[4];

	if (leaf > b->basic && (!(leaf >> 31) || leaf > b->extended))
		return false;
	if (leaf != 7 || sub == 0)
		return true;
	x86_host_leaf(b, 7, 0, r);
	return sub <= r[0];
}

void x86_host_leaf(struct x86_cpuid_basis *b, u32 leaf, u32 sub, u32 r[4])
{
	if (!b->last.valid || b->last.leaf != leaf || b->last.sub != sub) {
		bool has = host_has_leaf(b, leaf, sub);

		b->last.valid = true;
		b->last.leaf = leaf;
		b->last.sub = sub;
		memset(b->last.r, 0, sizeof(b->last.r));
		if (has)
			raw_cpuid(b, leaf, sub, b->last.r);
	}
	memcpy(r, b->last.r, sizeof(b->last.r));
}

/* ---- extended state ---- */

/* Components 2 to 7; the area must fit struct x86_xsave. */
u32 x86_host_xsave_area(struct x86_cpuid_basis *b, u64 mask)
{
	u32 end = 576;

	for (u32 i = 2; i < 8; i++) {
		u32 r[4];

		if (!(mask >> i & 1))
			continue;
		x86_host_leaf(b, 0xd, i, r);
		if (r[0] + r[1] > end)
			end = r[0] + r[1];
	}
	return end;
}

static u64 host_xcr0(struct x86_cpuid_basis *b)
{
	u32 r[4], low, high;

	x86_host_leaf(b, 1, 0, r);
	if (!(r[2] >> OSXSAVE & 1))
		return 3;
	if (b->cfg->host)
		return b->cfg->host->xcr0;
	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return low | (u64)high << 32;
}

static u64 choose_xcr0(struct x86_cpuid_basis *b)
{
	u32 r[4];
	u64 mask;

	x86_host_leaf(b, 0xd, 0, r);
	mask = r[0] & host_xcr0(b) & XCR0_OFFERED & b->model->xcr0;
	if ((mask & XCR0_AVX512) != XCR0_AVX512 || x86_host_xsave_area(b, mask) > X86_XSAVE_SIZE)
		mask &= ~XCR0_AVX512;
	return mask | 3;
}

void x86_cpuid_survey(struct x86_cpuid_basis *b, const struct x86_cpuid_config *cfg)
{
	u32 r[4];

	*b = (struct x86_cpuid_basis){.cfg = cfg, .model = cfg->model ? cfg->model : x86_cpu_models};
	raw_cpuid(b, 0, 0, r);
	b->basic = r[0];
	b->amd = r[1] == X86_VENDOR_AMD || r[1] == X86_VENDOR_HYGON;
	raw_cpuid(b, 0x80000000, 0, r);
	b->extended = r[0];
	b->xcr0 = choose_xcr0(b);
}

/* ---- verdicts ---- */

static bool host_has(struct x86_cpuid_basis *b, const struct x86_feature *f)
{
	u32 r[4];

	x86_host_leaf(b, f->leaf, f->sub, r);
	return r[f->reg] >> f->bit & 1;
}

static bool in_model(const struct x86_cpu_model *m, const struct x86_feature *f)
{
	return m->level == X86_LEVEL_HOST || (f->level != X86_LEVEL_HOST && f->level <= m->level);
}

static enum x86_feature_verdict by_policy(struct x86_cpuid_basis *b, const struct x86_feature *f)
{
	bool bt = b->cfg->engine_bt;

	switch ((enum x86_feature_policy)f->policy) {
	case HIDE:
		return X86_NOT_IMPLEMENTED;
	case HOST:
		return host_has(b, f) ? X86_ANNOUNCED : X86_HOST_LACKS;
	case OURS:
		return bt || host_has(b, f) ? X86_ANNOUNCED : X86_HOST_LACKS;
	case ALWAYS:
		return X86_ANNOUNCED;
	case ON_KVM:
		return !host_has(b, f) ? X86_HOST_LACKS : bt ? X86_OTHER_ENGINE : X86_ANNOUNCED;
	case ON_BT:
		return bt ? X86_ANNOUNCED : X86_OTHER_ENGINE;
	case WHEN_SMP:
		return b->cfg->ncpus > 1 ? X86_ANNOUNCED : X86_ONE_CPU;
	}
	return X86_NOT_IMPLEMENTED;
}

enum x86_feature_verdict x86_feature_judge(struct x86_cpuid_basis *b, const struct x86_feature *f)
{
	if (f->policy == HIDE)
		return X86_NOT_IMPLEMENTED;
	if (f->vendor != X86_ANY_VENDOR && (f->vendor == X86_AMD_ONLY) != b->amd)
		return X86_OTHER_VENDOR;
	if (!in_model(b->model, f))
		return X86_NOT_IN_MODEL;
	if (f->needs & ~b->xcr0)
		return host_has(b, f) ? X86_STATE_HIDDEN : X86_HOST_LACKS;
	return by_policy(b, f);
}

/* ---- levels ---- */

static bool is_lacking(struct x86_cpuid_basis *b, const struct x86_feature *f)
{
	enum x86_feature_verdict v = x86_feature_judge(b, f);

	return v == X86_HOST_LACKS || v == X86_STATE_HIDDEN;
}

static void append(char *list, size_t size, const char *word)
{
	size_t len = strlen(list);

	snprintf(list + len, size - len, " %s", word);
}

/* Translated code's addresses are Guise's own; KVM's are the host's. */
static bool lacks_address_bits(struct x86_cpuid_basis *b)
{
	u32 r[4];

	x86_host_leaf(b, 0x80000008, 0, r);
	return !b->cfg->engine_bt && (r[0] & 0xff) < X86_LEVEL_PHYS_BITS;
}

u32 x86_cpuid_lacks(const struct x86_cpuid_config *cfg, char *list, size_t size)
{
	struct x86_cpuid_basis b;
	u32 n = 0;

	list[0] = '\0';
	x86_cpuid_survey(&b, cfg);
	if (b.model->level == X86_LEVEL_HOST)
		return 0;
	for (u32 i = 0; i < x86_feature_count; i++) {
		if (!is_lacking(&b, &x86_features[i]))
			continue;
		append(list, size, x86_features[i].name);
		n++;
	}
	if (lacks_address_bits(&b)) {
		append(list, size, "39 bits of address");
		n++;
	}
	return n;
}
