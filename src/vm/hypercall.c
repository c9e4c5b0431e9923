/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM hypercalls. Source: Linux Documentation/virt/kvm/x86/hypercalls.rst. A number that is not known here gets -KVM_ENOSYS, which is
 * what a guest must expect of any hypercall that CPUID does not announce.
 *
 * Threading: the calling vCPU's thread.
 */
#include "vm/machine.h"

#define HC_KICK_CPU 5u

#define KVM_ENOSYS 1000
#define KVM_EPERM 1
#define KVM_EINVAL 22

/* The CPU with this APIC id leaves HLT. APIC ids are vCPU numbers. */
static u64 kick_cpu(struct vcpu *v, u64 apic_id)
{
	if (apic_id >= v->vm->ncpus)
		return (u64)-KVM_EINVAL;
	vcpu_post(&v->vm->vcpus[apic_id], EV_UNHALT);
	return 0;
}

u64 hypercall(struct vcpu *v, struct x86_cpu *c)
{
	if (x86_cpl(c) != 0)
		return (u64)-KVM_EPERM;
	switch (c->gpr[R_RAX]) {
	case HC_KICK_CPU:
		return kick_cpu(v, c->gpr[R_RCX]);
	default:
		return (u64)-KVM_ENOSYS;
	}
}
