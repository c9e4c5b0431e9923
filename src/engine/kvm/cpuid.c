/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPUID: what the kernel can give to a vCPU, on which the machine's policy is built; and that policy, as one vCPU answers it. The kernel fills in what
 * changes at run time (OSXSAVE, the size of XSAVE's area).
 *
 * Threading: the vCPU's thread; kvm_host_cpu any.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>

/* ---- what the kernel can give ---- */

#define SUPPORTED_MAX 256u
#define LEAF_XSAVE 0xdu

struct supported {
	struct x86_cpuid_host host; /* first: the machine frees it by this address */
	struct kvm_cpuid2 table;
	struct kvm_cpuid_entry2 entry[SUPPORTED_MAX];
};

static void answer(const struct x86_cpuid_host *h, u32 leaf, u32 sub, u32 r[4])
{
	const struct supported *s = (const struct supported *)h;

	r[0] = r[1] = r[2] = r[3] = 0;
	for (u32 i = 0; i < s->table.nent; i++) {
		const struct kvm_cpuid_entry2 *k = &s->entry[i];

		if (k->function != leaf || ((k->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) && k->index != sub))
			continue;
		r[0] = k->eax;
		r[1] = k->ebx;
		r[2] = k->ecx;
		r[3] = k->edx;
		return;
	}
}

int kvm_supported_cpu(int kvm, struct x86_cpuid_host **out, struct err *e)
{
	struct supported *s = calloc(1, sizeof(*s));
	u32 r4[4];
	int r;

	if (!s)
		return err_sys(e, ENOMEM, "CPUID");
	s->table.nent = SUPPORTED_MAX;
	r = kvm_call(kvm, KVM_GET_SUPPORTED_CPUID, &s->table);
	if (r < 0) {
		free(s);
		return err_sys(e, -r, "KVM does not tell which CPU features it supports");
	}
	s->host.cpuid = answer;
	answer(&s->host, LEAF_XSAVE, 0, r4);
	s->host.xcr0 = r4[0] | (u64)r4[3] << 32;
	*out = &s->host;
	return 0;
}

/* ---- what a vCPU answers ---- */

static bool has_subleaves(const struct x86_cpuid *p, const struct x86_cpuid_leaf *l)
{
	for (u32 i = 0; i < p->n; i++)
		if (&p->leaf[i] != l && p->leaf[i].leaf == l->leaf)
			return true;
	return l->sub != 0 || l->leaf == 7 || l->leaf == 0xd || l->leaf == 0xb || l->leaf == 4;
}

static struct kvm_cpuid_entry2 entry(const struct kvm_vcpu *v, const struct x86_cpuid_leaf *l)
{
	u32 out[4];

	x86_cpuid(&v->cpu, v->id, l->leaf, l->sub, out);
	return (struct kvm_cpuid_entry2){
		.function = l->leaf,
		.index = l->sub,
		.flags = has_subleaves(v->vm->cpuid, l) ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
		.eax = out[0],
		.ebx = out[1],
		.ecx = out[2],
		.edx = out[3],
	};
}

int kvm_put_cpuid(struct kvm_vcpu *v, struct err *e)
{
	const struct x86_cpuid *p = v->vm->cpuid;
	struct kvm_cpuid2 *table = calloc(1, sizeof(*table) + p->n * sizeof(table->entries[0]));
	int r;

	if (!table)
		return err_sys(e, ENOMEM, "CPUID of vCPU %u", v->id);
	for (table->nent = 0; table->nent < p->n; table->nent++)
		table->entries[table->nent] = entry(v, &p->leaf[table->nent]);
	r = kvm_call(v->fd, KVM_SET_CPUID2, table);
	free(table);
	return r < 0 ? err_sys(e, -r, "KVM refuses the CPUID of vCPU %u", v->id) : 0;
}
