/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this engine needs of the kernel's KVM. All of it is in Linux 6.1.
 *
 * Threading: any; no state.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *name, *why;
	int cap;
	int at_least; /* of what the kernel answers */
} needed[] = {
	{"KVM_CAP_USER_MEMORY", "guest RAM is this process's memory", KVM_CAP_USER_MEMORY, 1},
	{"KVM_CAP_NR_MEMSLOTS", "RAM and ROM", KVM_CAP_NR_MEMSLOTS, GM_MAX_SLOTS},
	{"KVM_CAP_IMMEDIATE_EXIT", "a vCPU is stopped without a race", KVM_CAP_IMMEDIATE_EXIT, 1},
	{"KVM_CAP_SPLIT_IRQCHIP", "the kernel has the local APICs, Guise the I/O APIC", KVM_CAP_SPLIT_IRQCHIP, 1},
	{"KVM_CAP_SIGNAL_MSI", "interrupts are messages", KVM_CAP_SIGNAL_MSI, 1},
	{"KVM_CAP_X2APIC_API", "APIC ids of 32 bits", KVM_CAP_X2APIC_API, 1},
	{"KVM_CAP_MP_STATE", "halted and waiting vCPUs", KVM_CAP_MP_STATE, 1},
	{"KVM_CAP_VCPU_EVENTS", "events that are under way", KVM_CAP_VCPU_EVENTS, 1},
	{"KVM_CAP_DEBUGREGS", "debug registers", KVM_CAP_DEBUGREGS, 1},
	{"KVM_CAP_XSAVE", "vector registers", KVM_CAP_XSAVE, 1},
	{"KVM_CAP_TSC_DEADLINE_TIMER", "timers of the local APICs", KVM_CAP_TSC_DEADLINE_TIMER, 1},
	{"KVM_CAP_X86_USER_SPACE_MSR", "MSRs have the same rules in every engine", KVM_CAP_X86_USER_SPACE_MSR, 1},
	{"KVM_CAP_X86_MSR_FILTER", "MSRs have the same rules in every engine", KVM_CAP_X86_MSR_FILTER, 1},
	{"KVM_CAP_SYNC_REGS", "registers without a system call", KVM_CAP_SYNC_REGS, KVM_SYNC_X86_REGS},
	{"KVM_CAP_DISABLE_QUIRKS2", "a CPU that behaves like one", KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_LINT0_REENABLED},
};

int kvm_judge_caps(int (*answer)(void *opaque, int cap), void *opaque, struct err *e)
{
	char missing[ARRAY_SIZE(needed) * 96] = ""; /* room for all of them */
	size_t used = 0;

	for (u32 i = 0; i < ARRAY_SIZE(needed) && used < sizeof(missing); i++)
		if (answer(opaque, needed[i].cap) < needed[i].at_least)
			used += (size_t)snprintf(missing + used, sizeof(missing) - used, "%s%s (%s)", used ? ", " : "", needed[i].name,
						 needed[i].why);
	return used ? err_set(e, ENOTSUP, "the host's KVM lacks %s; Linux 6.1 or newer has all", missing) : 0;
}

static int ask_kernel(void *opaque, int cap)
{
	return kvm_call(*(const int *)opaque, KVM_CHECK_EXTENSION, (void *)(long)cap);
}

int kvm_check_caps(int kvm, struct err *e)
{
	return kvm_judge_caps(ask_kernel, &kvm, e);
}
