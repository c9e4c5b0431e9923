/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel's local APICs: messages to them, their registers, and which messages of the I/O APIC have an end that it wants to know of.
 *
 * Threading: messages from any thread; registers as state.
 */
#include "engine/kvm/kvm.h"
#include "x86/apic_regs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MSR_TSC_DEADLINE 0x6e0u

/* Fields that are registers as they are. */
static const struct {
	u8 reg, n;
	u16 at;
} plain[] = {
	{REG_TPR, 1, offsetof(struct x86_apic, tpr)},
	{REG_DFR, 1, offsetof(struct x86_apic, dfr)},
	{REG_SVR, 1, offsetof(struct x86_apic, svr)},
	{REG_ISR, 8, offsetof(struct x86_apic, isr)},
	{REG_TMR, 8, offsetof(struct x86_apic, tmr)},
	{REG_IRR, 8, offsetof(struct x86_apic, irr)},
	{REG_ESR, 1, offsetof(struct x86_apic, esr)},
	{REG_ICR, 1, offsetof(struct x86_apic, icr)},
	{REG_ICR_HIGH, 1, offsetof(struct x86_apic, icr_high)},
	{REG_LVT, X86_APIC_LVTS, offsetof(struct x86_apic, lvt)},
	{REG_TIMER_INIT, 1, offsetof(struct x86_apic, timer_init)},
	{REG_TIMER_CURRENT, 1, offsetof(struct x86_apic, timer_current)},
	{REG_TIMER_DIVIDE, 1, offsetof(struct x86_apic, timer_divide)},
};

static void copy_plain(struct x86_apic *a, struct kvm_lapic_state *k, bool to_kernel)
{
	for (u32 i = 0; i < ARRAY_SIZE(plain); i++)
		for (u32 j = 0; j < plain[i].n; j++) {
			char *reg = &k->regs[(plain[i].reg + j) * 16], *field = (char *)a + plain[i].at + 4 * j;

			memcpy(to_kernel ? reg : field, to_kernel ? field : reg, 4);
		}
}

static void set_reg(struct kvm_lapic_state *k, u32 reg, u32 value)
{
	memcpy(&k->regs[reg * 16], &value, 4);
}

static u32 get_reg(const struct kvm_lapic_state *k, u32 reg)
{
	u32 value;

	memcpy(&value, &k->regs[reg * 16], 4);
	return value;
}

static int one_msr(struct kvm_vcpu *v, unsigned long request, u32 msr, u64 *value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = {.head.nmsrs = 1, .entry = {.index = msr, .data = *value}};
	int r = kvm_call(v->fd, request, &m);

	*value = m.entry.data;
	return r < 0 ? r : r == 1 ? 0 : -EINVAL;
}

/* An interrupt that was accepted and has not reached its handler is not accepted yet. */
static int give_back(struct kvm_vcpu *v, struct x86_apic *a)
{
	struct kvm_vcpu_events k = {0};
	int r = kvm_call(v->fd, KVM_GET_VCPU_EVENTS, &k);
	u32 bit = 1u << (k.interrupt.nr % 32), word = k.interrupt.nr / 32;

	if (r == 0 && k.interrupt.injected && !k.interrupt.soft) {
		a->isr[word] &= ~bit;
		a->irr[word] |= bit;
	}
	return r;
}

static int get(struct engine_vcpu *ev, struct x86_apic *out, struct err *e)
{
	struct kvm_vcpu *v = kvm_vcpu_of(ev);
	struct kvm_lapic_state k;
	struct kvm_sregs s;
	int r = kvm_call(v->fd, KVM_GET_LAPIC, &k);

	*out = (struct x86_apic){0};
	if (r == 0)
		r = kvm_call(v->fd, KVM_GET_SREGS, &s);
	if (r == 0)
		r = one_msr(v, KVM_GET_MSRS, MSR_TSC_DEADLINE, &out->tsc_deadline);
	if (r < 0)
		return err_sys(e, -r, "vCPU %u: KVM does not give its local APIC", v->id);
	copy_plain(out, &k, false);
	out->base = s.apic_base;
	out->ldr = s.apic_base & BASE_X2APIC ? 0 : get_reg(&k, REG_LDR);
	r = give_back(v, out);
	return r < 0 ? err_sys(e, -r, "vCPU %u: KVM does not give its events", v->id) : 0;
}

static int put(struct engine_vcpu *ev, const struct x86_apic *a, struct err *e)
{
	struct kvm_vcpu *v = kvm_vcpu_of(ev);
	int r = kvm_vcpu_sync_out(ev, e);

	if (a) {
		v->apic = *a;
		v->apic_dirty = v->dirty = true;
	}
	return r == 0 ? kvm_bring_up_to_date(v, e) : r;
}

/* The id and, in x2APIC mode, the logical id are derived; APIC_BASE went with the system registers. */
int kvm_put_apic(struct kvm_vcpu *v, struct err *e)
{
	bool x2 = (v->apic.base & BASE_X2APIC) != 0;
	struct kvm_lapic_state k;
	int r;

	if (!v->apic_dirty)
		return 0;
	r = kvm_call(v->fd, KVM_GET_LAPIC, &k); /* the version is the kernel's */
	copy_plain(&v->apic, &k, true);
	set_reg(&k, REG_ID, x2 ? v->id : v->id << 24);
	if (!x2)
		set_reg(&k, REG_LDR, v->apic.ldr);
	if (r == 0)
		r = kvm_call(v->fd, KVM_SET_LAPIC, &k);
	if (r == 0)
		r = one_msr(v, KVM_SET_MSRS, MSR_TSC_DEADLINE, &v->apic.tsc_deadline);
	return r < 0 ? err_sys(e, -r, "vCPU %u: KVM does not take its local APIC", v->id) : 0;
}

/* The kernel has worked out when the deadline is, and does not do it again by itself. */
int kvm_rearm_deadline(struct kvm_vcpu *v, struct err *e)
{
	u64 deadline = 0;
	int r = one_msr(v, KVM_GET_MSRS, MSR_TSC_DEADLINE, &deadline);

	if (r == 0 && deadline)
		r = one_msr(v, KVM_SET_MSRS, MSR_TSC_DEADLINE, &deadline);
	return r < 0 ? err_sys(e, -r, "vCPU %u: KVM does not set its timer again", v->id) : 0;
}

/* ---- messages ---- */

static void msi(struct engine_vm *evm, const struct x86_msi *m)
{
	struct kvm_msi k = {.address_lo = (u32)m->address, .address_hi = (u32)(m->address >> 32), .data = m->data};

	/* Fails when nobody is meant: as on the bus, the message is lost. */
	(void)kvm_call(kvm_vm_of(evm)->fd, KVM_SIGNAL_MSI, &k);
}

static bool same_messages(const struct kvm_vm *vm, const struct x86_msi *m, u32 n)
{
	if (n != vm->nroutes)
		return false;
	for (u32 i = 0; i < n; i++)
		if (m[i].address != vm->routes[i].address || m[i].data != vm->routes[i].data)
			return false;
	return true;
}

static void put_routes(struct kvm_vm *vm)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entry[KVM_LEVEL_MESSAGES];
	} k = {.head.nr = vm->nroutes};

	for (u32 i = 0; i < vm->nroutes; i++)
		k.entry[i] = (struct kvm_irq_routing_entry){
			.gsi = i,
			.type = KVM_IRQ_ROUTING_MSI,
			.u.msi = {.address_lo = (u32)vm->routes[i].address,
				  .address_hi = (u32)(vm->routes[i].address >> 32),
				  .data = vm->routes[i].data},
		};
	(void)kvm_call(vm->fd, KVM_SET_GSI_ROUTING, &k);
}

/* Telling the kernel makes it wait for all its readers: only what has changed. */
static void level_messages(struct engine_vm *evm, const struct x86_msi *m, u32 n)
{
	struct kvm_vm *vm = kvm_vm_of(evm);

	if (n > KVM_LEVEL_MESSAGES)
		n = KVM_LEVEL_MESSAGES;
	pthread_mutex_lock(&vm->routes_lock);
	if (!same_messages(vm, m, n)) {
		memcpy(vm->routes, m, n * sizeof(*m));
		vm->nroutes = n;
		put_routes(vm);
	}
	pthread_mutex_unlock(&vm->routes_lock);
}

const struct engine_apic_ops kvm_apic = {.get = get, .put = put, .msi = msi, .level_messages = level_messages};
