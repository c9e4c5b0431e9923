/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPUID: the machine's policy, as this vCPU answers it. The kernel fills in what changes at run time (OSXSAVE, the size of XSAVE's area).
 *
 * Threading: the vCPU's thread.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>

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
