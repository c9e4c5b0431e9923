/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MSRs. The kernel keeps those that the hardware switches with the CPU, or that its local APIC has, and passes on all others, which then have the rules
 * of src/x86, as in the software engine. The kernel answers x2APIC's itself and cannot be asked not to.
 *
 * Threading: the vCPU's thread; the filter is set before there is one.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <string.h>

#define READ KVM_MSR_FILTER_READ
#define WRITE KVM_MSR_FILTER_WRITE

/* What is the kernel's affair. At most 16 ranges of at most 16 MSRs: a bit each. */
static const struct {
	u32 base, n;
	u32 may;
} kept[] = {
	{0x00000010, 1, READ},	       /* TIME_STAMP_COUNTER; writes change tsc_offset */
	{0x0000001b, 1, READ | WRITE}, /* APIC_BASE */
	{0x00000048, 2, READ | WRITE}, /* SPEC_CTRL, PRED_CMD */
	{0x0000010b, 1, WRITE},	       /* FLUSH_CMD */
	{0x00000174, 3, READ | WRITE}, /* SYSENTER */
	{0x000001d9, 1, READ | WRITE}, /* DEBUGCTL */
	{0x00000277, 1, READ | WRITE}, /* PAT */
	{0x000006e0, 1, READ | WRITE}, /* TSC_DEADLINE */
	{0xc0000080, 5, READ | WRITE}, /* EFER, STAR, LSTAR, CSTAR, SFMASK */
	{0xc0000100, 4, READ | WRITE}, /* FS, GS, kernel GS base, TSC_AUX */
};

/* What the kernel refuses of its own MSRs is #GP, and not passed on: x86_msr_write would judge it by a state that is not up to date. */
int kvm_filter_msrs(struct kvm_vm *vm, struct err *e)
{
	struct kvm_enable_cap exits = {
		.cap = KVM_CAP_X86_USER_SPACE_MSR,
		.args[0] = KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_UNKNOWN,
	};
	struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_DENY};
	u8 bits[2] = {0xff, 0xff};
	int r = kvm_call(vm->fd, KVM_ENABLE_CAP, &exits);

	_Static_assert(ARRAY_SIZE(kept) <= KVM_MSR_FILTER_MAX_RANGES, "the kernel's limit");
	for (u32 i = 0; i < ARRAY_SIZE(kept); i++)
		filter.ranges[i] =
			(struct kvm_msr_filter_range){.flags = kept[i].may, .nmsrs = kept[i].n, .base = kept[i].base, .bitmap = bits};
	if (r == 0)
		r = kvm_call(vm->fd, KVM_X86_SET_MSR_FILTER, &filter);
	return r < 0 ? err_sys(e, -r, "KVM does not pass MSRs on") : 0;
}

/* ---- of those that the kernel keeps, what belongs to the CPU's state ---- */

#define AT(member) offsetof(struct x86_cpu, msr.member)

static const struct {
	u32 msr;
	u32 at;
	u32 leaf; /* there only when this bit of CPUID is announced */
	u8 reg, bit;
} saved[] = {
	{.msr = 0x174, .at = AT(sysenter_cs)},
	{.msr = 0x175, .at = AT(sysenter_esp)},
	{.msr = 0x176, .at = AT(sysenter_eip)},
	{.msr = 0x277, .at = AT(pat)},
	{.msr = 0xc0000081, .at = AT(star)},
	{.msr = 0xc0000082, .at = AT(lstar)},
	{.msr = 0xc0000083, .at = AT(cstar)},
	{.msr = 0xc0000084, .at = AT(sfmask)},
	{.msr = 0xc0000102, .at = AT(kernel_gs_base)},
	{.msr = 0xc0000103, .at = AT(tsc_aux), .leaf = 0x80000001, .reg = 3, .bit = 27},
	{.msr = 0x48, .at = AT(spec_ctrl), .leaf = 7, .reg = 3, .bit = 26},
};

struct msr_list {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[ARRAY_SIZE(saved)];
	u32 at[ARRAY_SIZE(saved)];
};

static u64 *field(struct kvm_vcpu *v, u32 at)
{
	return (u64 *)((char *)&v->cpu + at);
}

static void make_list(struct kvm_vcpu *v, struct msr_list *list)
{
	memset(list, 0, sizeof(*list));
	for (u32 i = 0; i < ARRAY_SIZE(saved); i++) {
		u32 n = list->head.nmsrs;

		if (saved[i].leaf && !x86_cpuid_has(v->vm->cpuid, saved[i].leaf, 0, saved[i].reg, saved[i].bit))
			continue;
		list->entry[n] = (struct kvm_msr_entry){.index = saved[i].msr, .data = *field(v, saved[i].at)};
		list->at[n] = saved[i].at;
		list->head.nmsrs = n + 1;
	}
}

/* The kernel stops at the first that it refuses, and says how many it has done. */
static int transfer(struct kvm_vcpu *v, unsigned long request, struct msr_list *list, struct err *e)
{
	int r = kvm_call(v->fd, request, list);

	if (r < 0)
		return err_sys(e, -r, "vCPU %u: KVM refuses MSRs", v->id);
	if ((u32)r < list->head.nmsrs)
		return err_set(e, EINVAL, "vCPU %u: KVM refuses MSR 0x%x with value 0x%llx", v->id, list->entry[r].index,
			       (unsigned long long)list->entry[r].data);
	return 0;
}

int kvm_get_msrs(struct kvm_vcpu *v, struct err *e)
{
	struct msr_list list;
	int r;

	make_list(v, &list);
	r = transfer(v, KVM_GET_MSRS, &list, e);
	for (u32 i = 0; i < list.head.nmsrs && r == 0; i++)
		*field(v, list.at[i]) = list.entry[i].data;
	return r;
}

int kvm_put_msrs(struct kvm_vcpu *v, struct err *e)
{
	struct msr_list list;

	make_list(v, &list);
	return transfer(v, KVM_SET_MSRS, &list, e);
}

/* ---- those that are passed on ---- */

void kvm_exit_rdmsr(struct kvm_vcpu *v)
{
	u64 value = 0;

	v->count.rdmsr++;
	v->run->msr.error = !x86_msr_read(&v->cpu, v->run->msr.index, &value);
	v->run->msr.data = value;
}

void kvm_exit_wrmsr(struct kvm_vcpu *v)
{
	u64 offset = v->cpu.tsc_offset;

	v->count.wrmsr++;
	v->run->msr.error = !x86_msr_write(&v->cpu, v->run->msr.index, v->run->msr.data);
	if (v->cpu.tsc_offset != offset) /* the machine wants to know, and the kernel */
		kvm_vcpu_kick((struct engine_vcpu *)v);
}
