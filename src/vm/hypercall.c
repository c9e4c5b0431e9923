/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM hypercalls. Source: Linux Documentation/virt/kvm/x86/hypercalls.rst. A number that is not known here gets -KVM_ENOSYS, which is
 * what a guest must expect of any hypercall that CPUID does not announce.
 *
 * Announced (x86/cpuid_build.c): waiting for a spin lock in HLT until its holder kicks, and one call for an interrupt to many CPUs. Both spare a
 * host with fewer CPUs much of what it would do in vain. Not announced: yielding to a CPU that was preempted and flushing its TLB later, because a
 * process does not know which of its threads the host runs.
 *
 * Threading: the calling vCPU's thread.
 */
#include "vm/machine.h"

#define HC_KICK_CPU 5u
#define HC_SEND_IPI 10u

#define ICR_SHORTHAND (3u << 18)
#define ICR_LOGICAL (1u << 11)

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

/* The interrupt of an ICR to the CPUs whose APIC ids, counted from `first`, are bits of the map: how many got it. */
static u64 send_ipi(struct vcpu *v, const u64 map[2], u64 first, u64 icr)
{
	u64 sent = 0;
	if (icr & (ICR_SHORTHAND | ICR_LOGICAL))
		return (u64)-KVM_EINVAL;
	for (u64 i = 0; i < 128 && first < v->vm->ncpus && i < v->vm->ncpus - first; i++)
		if (map[i / 64] >> i % 64 & 1)
			sent += lapic_send_to(v->vm->lapic, (u32)(first + i), (u32)icr);
	return sent;
}

u64 hypercall(struct vcpu *v, struct x86_cpu *c)
{
	if (x86_cpl(c) != 0)
		return (u64)-KVM_EPERM;
	switch (c->gpr[R_RAX]) {
	case HC_KICK_CPU:
		return kick_cpu(v, c->gpr[R_RCX]);
	case HC_SEND_IPI:
		return send_ipi(v, (const u64[2]){c->gpr[R_RBX], c->gpr[R_RCX]}, c->gpr[R_RDX], c->gpr[R_RSI]);
	default:
		return (u64)-KVM_ENOSYS;
	}
}
