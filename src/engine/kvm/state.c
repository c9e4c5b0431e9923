/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel's state of a vCPU as struct x86_cpu, and back. What KVM keeps that struct x86_cpu does not have (an interrupt that is being delivered, the
 * local APIC) is left as it is, unless the APIC is put as well.
 *
 * Threading: the vCPU's thread, or any while it is not running.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define AR_SHIFT_S 4
#define AR_SHIFT_DPL 5

static int failed(const struct kvm_vcpu *v, const char *what, int r, struct err *e)
{
	return r < 0 ? err_sys(e, -r, "vCPU %u: KVM does not %s", v->id, what) : 0;
}

/* ---- general registers ---- */

/* In the order of struct x86_cpu's. */
static const size_t gprs[16] = {
	offsetof(struct kvm_regs, rax), offsetof(struct kvm_regs, rcx), offsetof(struct kvm_regs, rdx), offsetof(struct kvm_regs, rbx),
	offsetof(struct kvm_regs, rsp), offsetof(struct kvm_regs, rbp), offsetof(struct kvm_regs, rsi), offsetof(struct kvm_regs, rdi),
	offsetof(struct kvm_regs, r8),	offsetof(struct kvm_regs, r9),	offsetof(struct kvm_regs, r10), offsetof(struct kvm_regs, r11),
	offsetof(struct kvm_regs, r12), offsetof(struct kvm_regs, r13), offsetof(struct kvm_regs, r14), offsetof(struct kvm_regs, r15),
};

static int get_regs(struct kvm_vcpu *v, struct err *e)
{
	struct kvm_regs k;
	int r = failed(v, "give the registers", kvm_call(v->fd, KVM_GET_REGS, &k), e);

	if (r < 0)
		return r;
	for (u32 i = 0; i < 16; i++)
		v->cpu.gpr[i] = *(const u64 *)((const char *)&k + gprs[i]);
	v->cpu.rip = k.rip;
	v->cpu.rflags = k.rflags;
	return 0;
}

static int put_regs(struct kvm_vcpu *v, struct err *e)
{
	struct kvm_regs k = {.rip = v->cpu.rip, .rflags = v->cpu.rflags};

	for (u32 i = 0; i < 16; i++)
		*(u64 *)((char *)&k + gprs[i]) = v->cpu.gpr[i];
	return failed(v, "take the registers", kvm_call(v->fd, KVM_SET_REGS, &k), e);
}

/* ---- segments, control registers ---- */

static struct x86_seg seg_of(const struct kvm_segment *k)
{
	u32 attr = k->type | (u32)k->s << AR_SHIFT_S | (u32)k->dpl << AR_SHIFT_DPL;

	attr |= (k->present ? SEGA_P : 0) | (k->avl ? SEGA_AVL : 0) | (k->l ? SEGA_L : 0) | (k->db ? SEGA_DB : 0) | (k->g ? SEGA_G : 0);
	if (k->unusable)
		attr = (attr & SEGA_DPL) | SEGA_UNUSABLE;
	return (struct x86_seg){.sel = k->selector, .attr = attr, .limit = k->limit, .base = k->base};
}

static struct kvm_segment segment_of(const struct x86_seg *s)
{
	bool usable = !(s->attr & SEGA_UNUSABLE);

	return (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->sel,
		.type = s->attr & SEGA_TYPE,
		.s = (s->attr & SEGA_S) != 0,
		.dpl = (s->attr & SEGA_DPL) >> AR_SHIFT_DPL,
		.present = usable && (s->attr & SEGA_P),
		.avl = (s->attr & SEGA_AVL) != 0,
		.l = (s->attr & SEGA_L) != 0,
		.db = (s->attr & SEGA_DB) != 0,
		.g = (s->attr & SEGA_G) != 0,
		.unusable = !usable,
	};
}

static const struct {
	u32 seg;
	size_t at;
} segments[] = {
	{SEG_ES, offsetof(struct kvm_sregs, es)}, {SEG_CS, offsetof(struct kvm_sregs, cs)}, {SEG_SS, offsetof(struct kvm_sregs, ss)},
	{SEG_DS, offsetof(struct kvm_sregs, ds)}, {SEG_FS, offsetof(struct kvm_sregs, fs)}, {SEG_GS, offsetof(struct kvm_sregs, gs)},
};

static int get_sregs(struct kvm_vcpu *v, struct err *e)
{
	struct x86_cpu *c = &v->cpu;
	struct kvm_sregs k;
	int r = failed(v, "give the system registers", kvm_call(v->fd, KVM_GET_SREGS, &k), e);

	if (r < 0)
		return r;
	for (u32 i = 0; i < ARRAY_SIZE(segments); i++)
		c->seg[segments[i].seg] = seg_of((const struct kvm_segment *)((const char *)&k + segments[i].at));
	c->ldt = seg_of(&k.ldt);
	c->tr = seg_of(&k.tr);
	c->gdt = (struct x86_dtr){.base = k.gdt.base, .limit = k.gdt.limit};
	c->idt = (struct x86_dtr){.base = k.idt.base, .limit = k.idt.limit};
	c->cr0 = k.cr0;
	c->cr2 = c->fault.cr2 = k.cr2;
	c->cr3 = k.cr3;
	c->cr4 = k.cr4;
	c->msr.efer = k.efer;
	c->msr.apic_base = k.apic_base;
	return 0;
}

/* TPR, APIC base and the interrupt under way are not ours here. */
static int put_sregs(struct kvm_vcpu *v, struct err *e)
{
	const struct x86_cpu *c = &v->cpu;
	struct kvm_sregs k;
	int r = failed(v, "give the system registers", kvm_call(v->fd, KVM_GET_SREGS, &k), e);

	if (r < 0)
		return r;
	for (u32 i = 0; i < ARRAY_SIZE(segments); i++)
		*(struct kvm_segment *)((char *)&k + segments[i].at) = segment_of(&c->seg[segments[i].seg]);
	k.ldt = segment_of(&c->ldt);
	k.tr = segment_of(&c->tr);
	k.gdt = (struct kvm_dtable){.base = c->gdt.base, .limit = c->gdt.limit};
	k.idt = (struct kvm_dtable){.base = c->idt.base, .limit = c->idt.limit};
	k.cr0 = c->cr0;
	k.cr2 = c->fault.pending && c->fault.vector == VEC_PF ? c->fault.cr2 : c->cr2; /* the kernel has one place for both */
	k.cr3 = c->cr3;
	k.cr4 = c->cr4;
	k.efer = c->msr.efer;
	if (v->apic_dirty) {
		k.apic_base = v->apic.base;
		k.cr8 = v->apic.tpr >> 4;
		memset(k.interrupt_bitmap, 0, sizeof(k.interrupt_bitmap));
	}
	return failed(v, "take the system registers", kvm_call(v->fd, KVM_SET_SREGS, &k), e);
}

/* ---- vector state ---- */

/* Bytes that belong to software: the host's kernel leaves a note of its own there. */
#define SOFTWARE_AT 464u
#define SOFTWARE_BYTES 48u

static int get_xsave(struct kvm_vcpu *v, struct err *e)
{
	u8 *image = calloc(1, v->vm->xsave_size);
	int r;

	if (!image)
		return err_sys(e, ENOMEM, "vCPU %u", v->id);
	r = failed(v, "give the vector registers",
		   kvm_call(v->fd, v->vm->xsave_size > sizeof(struct kvm_xsave) ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, image), e);
	memset(image + SOFTWARE_AT, 0, SOFTWARE_BYTES);
	if (r == 0)
		memcpy(v->cpu.fpu.bytes, image, X86_XSAVE_SIZE);
	free(image);
	return r;
}

static int put_xsave(struct kvm_vcpu *v, struct err *e)
{
	u8 *image = calloc(1, v->vm->xsave_size);
	int r;

	if (!image)
		return err_sys(e, ENOMEM, "vCPU %u", v->id);
	memcpy(image, v->cpu.fpu.bytes, X86_XSAVE_SIZE);
	r = failed(v, "take the vector registers", kvm_call(v->fd, KVM_SET_XSAVE, image), e);
	free(image);
	return r;
}

/* A host without XSAVE has no KVM_GET_XCRS. */
static bool has_xcr0(const struct kvm_vcpu *v)
{
	return x86_cpuid_has(v->vm->cpuid, 1, 0, 2, 26);
}

static int get_xcr0(struct kvm_vcpu *v, struct err *e)
{
	struct kvm_xcrs k = {0};
	int r = has_xcr0(v) ? failed(v, "give XCR0", kvm_call(v->fd, KVM_GET_XCRS, &k), e) : 0;

	if (r == 0 && k.nr_xcrs)
		v->cpu.xcr0 = k.xcrs[0].value;
	return r;
}

static int put_xcr0(struct kvm_vcpu *v, struct err *e)
{
	struct kvm_xcrs k = {.nr_xcrs = 1, .xcrs[0] = {.xcr = 0, .value = v->cpu.xcr0}};

	return has_xcr0(v) ? failed(v, "take XCR0", kvm_call(v->fd, KVM_SET_XCRS, &k), e) : 0;
}

/* ---- debug registers ---- */

static int get_debug_registers(struct kvm_vcpu *v, struct err *e)
{
	struct kvm_debugregs k;
	int r = failed(v, "give the debug registers", kvm_call(v->fd, KVM_GET_DEBUGREGS, &k), e);

	if (r < 0)
		return r;
	memcpy(v->cpu.dr, k.db, sizeof(k.db));
	v->cpu.dr[6] = k.dr6;
	v->cpu.dr[7] = k.dr7;
	return 0;
}

static int put_debug_registers(struct kvm_vcpu *v, struct err *e)
{
	struct kvm_debugregs k = {.dr6 = v->cpu.dr[6], .dr7 = v->cpu.dr[7]};

	memcpy(k.db, v->cpu.dr, sizeof(k.db));
	return failed(v, "take the debug registers", kvm_call(v->fd, KVM_SET_DEBUGREGS, &k), e);
}

/* ---- events ---- */

#define SHADOW_MOV_SS 1u /* as the kernel has them */
#define SHADOW_STI 2u

static int get_events(struct kvm_vcpu *v, struct err *e)
{
	struct x86_cpu *c = &v->cpu;
	struct kvm_vcpu_events k;
	int r = failed(v, "give the events", kvm_call(v->fd, KVM_GET_VCPU_EVENTS, &k), e);

	if (r < 0)
		return r;
	c->fault = (struct x86_fault){.pending = k.exception.injected || k.exception.pending,
				      .vector = k.exception.nr,
				      .has_error = k.exception.has_error_code,
				      .error = k.exception.error_code};
	c->nmi_pending = k.nmi.pending || k.nmi.injected;
	c->nmi_blocked = k.nmi.masked && !k.nmi.injected;
	c->irq_shadow = k.interrupt.shadow != 0;
	c->debug_shadow = (k.interrupt.shadow & SHADOW_MOV_SS) != 0;
	return 0;
}

static int put_events(struct kvm_vcpu *v, struct err *e)
{
	const struct x86_cpu *c = &v->cpu;
	struct kvm_vcpu_events k;
	int r = failed(v, "give the events", kvm_call(v->fd, KVM_GET_VCPU_EVENTS, &k), e);

	if (r < 0)
		return r;
	k.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
	k.exception.injected = c->fault.pending;
	k.exception.pending = 0;
	k.exception.nr = c->fault.vector;
	k.exception.has_error_code = c->fault.has_error;
	k.exception.error_code = c->fault.error;
	k.nmi.injected = 0;
	k.nmi.pending = c->nmi_pending;
	k.nmi.masked = c->nmi_blocked;
	k.interrupt.shadow = (u8)(c->debug_shadow ? SHADOW_MOV_SS : c->irq_shadow ? SHADOW_STI : 0);
	if (v->apic_dirty)
		k.interrupt.injected = k.interrupt.soft = 0;
	return failed(v, "take the events", kvm_call(v->fd, KVM_SET_VCPU_EVENTS, &k), e);
}

static int get_activity(struct kvm_vcpu *v, struct err *e)
{
	struct kvm_mp_state k;
	int r = failed(v, "tell whether it is halted", kvm_call(v->fd, KVM_GET_MP_STATE, &k), e);

	if (r < 0)
		return r;
	v->cpu.halted = k.mp_state == KVM_MP_STATE_HALTED;
	v->cpu.wait_for_sipi = k.mp_state == KVM_MP_STATE_UNINITIALIZED || k.mp_state == KVM_MP_STATE_INIT_RECEIVED;
	return 0;
}

/* A CPU that waits for a start-up IPI has had its INIT: power-on is one. */
static int put_activity(struct kvm_vcpu *v, struct err *e)
{
	struct kvm_mp_state k = {.mp_state = v->cpu.wait_for_sipi ? KVM_MP_STATE_INIT_RECEIVED
					     : v->cpu.halted	  ? KVM_MP_STATE_HALTED
								  : KVM_MP_STATE_RUNNABLE};

	return failed(v, "take whether it is halted", kvm_call(v->fd, KVM_SET_MP_STATE, &k), e);
}

/* ---- time ---- */

int kvm_put_tsc(struct kvm_vcpu *v, struct err *e)
{
	u64 shift = v->machine.tsc_base(v->machine.opaque) + v->cpu.tsc_offset;
	struct kvm_device_attr attr = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (u64)&shift};
	int r;

	if (v->tsc_told && shift == v->tsc_shift)
		return 0;
	r = failed(v, "take the offset of the time-stamp counter (Linux 5.16 or newer does)", kvm_call(v->fd, KVM_SET_DEVICE_ATTR, &attr),
		   e);
	v->tsc_told = r == 0;
	v->tsc_shift = shift;
	return r == 0 ? kvm_rearm_deadline(v, e) : r;
}

/* ---- all of it ---- */

typedef int (*part_fn)(struct kvm_vcpu *v, struct err *e);

static int each(struct kvm_vcpu *v, const part_fn *parts, u32 n, struct err *e)
{
	int r = 0;

	for (u32 i = 0; i < n && r == 0; i++)
		r = parts[i](v, e);
	return r;
}

/* Whether it is halted comes first: the kernel takes INIT and start-up IPIs then, which change the rest. So does asking for the events, with CR2 and DR6. */
int kvm_get_state(struct kvm_vcpu *v, struct err *e)
{
	static const part_fn parts[] = {get_activity, get_events,	   get_regs,	get_sregs, get_xcr0,
					get_xsave,    get_debug_registers, kvm_get_msrs};

	return each(v, parts, ARRAY_SIZE(parts), e);
}

/* Vector registers before XCR0's components can be in use; the APIC before events that depend on its mode. */
int kvm_put_state(struct kvm_vcpu *v, struct err *e)
{
	static const part_fn parts[] = {put_sregs,	     put_regs,	 put_xcr0,    put_xsave, kvm_put_msrs, kvm_put_tsc, kvm_put_apic,
					put_debug_registers, put_events, put_activity};

	return each(v, parts, ARRAY_SIZE(parts), e);
}
