/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What CPUID returns: the announced leaf with the fields that depend on the CPU's own state and number filled in.
 * Threading: the vCPU's thread; the policy is constant.
 */
#include "x86/internal.h"

#define OSXSAVE (1u << 27)

static const struct x86_cpuid_leaf *find_leaf(const struct x86_cpuid *p, u32 leaf, u32 sub)
{
	bool subleaves = leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x8000001d;

	for (u32 i = 0; i < p->n; i++) {
		const struct x86_cpuid_leaf *l = &p->leaf[i];

		if (l->leaf == leaf && (!subleaves || l->sub == sub || l->any_sub))
			return l;
	}
	return NULL;
}

bool x86_cpuid_has(const struct x86_cpuid *p, u32 leaf, u32 sub, u32 reg, u32 bit)
{
	const struct x86_cpuid_leaf *l = find_leaf(p, leaf, sub);

	if (!l)
		return false;
	return (reg == 0 ? l->eax : reg == 1 ? l->ebx : reg == 2 ? l->ecx : l->edx) >> bit & 1;
}

/* Bytes that XSAVE (standard format) or XSAVEC (compacted) needs for the components in `mask`. */
static u32 xsave_size(const struct x86_cpu *c, u64 mask, bool compacted)
{
	u32 size = 576;

	for (u32 i = 2; i < 63; i++) {
		const struct x86_cpuid_leaf *l = mask >> i & 1 ? find_leaf(c->cpuid, 0xd, i) : NULL;

		if (!l)
			continue;
		if (compacted)
			size = (l->ecx & 2 ? (size + 63) & ~63u : size) + l->eax;
		else if (l->ebx + l->eax > size)
			size = l->ebx + l->eax;
	}
	return size;
}

static void fill_in(const struct x86_cpu *c, u32 apic_id, u32 leaf, u32 sub, u32 out[4])
{
	switch (leaf) {
	case 1:
		out[1] |= apic_id << 24;
		if (c->cr4 & CR4_OSXSAVE)
			out[2] |= OSXSAVE;
		break;
	case 0xb:
		out[2] = (out[2] & ~0xffu) | (sub & 0xff);
		out[3] = apic_id;
		break;
	case 0xd:
		if (sub == 0)
			out[1] = xsave_size(c, c->xcr0, false);
		else if (sub == 1)
			out[1] = xsave_size(c, c->xcr0, true);
		break;
	case 0x8000001e:
		out[0] = apic_id;
		out[1] = apic_id & 0xff; /* core id; one thread a core */
		out[2] = 0;		 /* node 0, one node */
		break;
	default:
		break;
	}
}

void x86_cpuid(const struct x86_cpu *c, u32 apic_id, u32 leaf, u32 sub, u32 out[4])
{
	const struct x86_cpuid_leaf *l = find_leaf(c->cpuid, leaf, sub);

	x86_serialise();
	out[0] = out[1] = out[2] = out[3] = 0;
	if (!l)
		return;
	out[0] = l->eax;
	out[1] = l->ebx;
	out[2] = l->ecx;
	out[3] = l->edx;
	fill_in(c, apic_id, leaf, sub, out);
}
