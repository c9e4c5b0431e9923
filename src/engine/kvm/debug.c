/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A debugger's breakpoints, watched data and steps. The kernel gives the guest other debug registers than it believes to have; what does not fit there
 * is found by stepping, which is right and very slow (debug_plan.c says which).
 *
 * What a guest and a debugger can notice of each other, all of it the kernel's or the CPU's doing:
 * - While breakpoints or watched data are in the registers, the guest's own breakpoints are not met.
 * - Steps are TF: PUSHF, INT and exceptions that arrive meanwhile show it to the guest. A single step holds interrupts back; stepping in search of
 *   what does not fit cannot, and handlers of interrupts and exceptions run through between two steps. SYSCALL is stepped by the rules of src/x86
 *   (debug_syscall.c), so the kernel's side of it is searched, too.
 * - Watched reads in registers are reads or writes. While stepping only writes are seen, by their effect (debug_watch.c).
 * - A CPU that is halted waits inside of a step for something to wake it and then executes the instruction behind HLT, the interrupt comes next.
 *
 * Threading: vcpu_debug from any thread while the vCPU does not run, the rest on its thread.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>

#define DR6_MET 0xfull

/* ---- what is armed ---- */

void kvm_vcpu_debug(struct engine_vcpu *ev, struct engine_debug *d)
{
	kvm_vcpu_of(ev)->debug = d;
}

static u32 control(const struct kvm_vcpu *v)
{
	const struct kvm_debug_plan *p = &v->plan;
	u32 steps = p->steps ? KVM_GUESTDBG_SINGLESTEP | (v->debug->step ? KVM_GUESTDBG_BLOCKIRQ : 0) : 0, all = steps;

	all |= p->used ? KVM_GUESTDBG_USE_HW_BP : 0;
	return all ? all | KVM_GUESTDBG_ENABLE : 0;
}

static int tell(struct kvm_vcpu *v, u32 more)
{
	struct kvm_guest_debug k = {.control = v->armed | more, .arch.debugreg[7] = v->plan.dr7};

	for (u32 i = 0; i < v->plan.used; i++)
		k.arch.debugreg[i] = v->plan.address[i];
	return kvm_call(v->fd, KVM_SET_GUEST_DEBUG, &k);
}

/* The guest's own TF, which the kernel hides and then forgets. */
static int turn_flag(struct kvm_vcpu *v, bool stepping_begins)
{
	struct kvm_regs k;
	int r = kvm_call(v->fd, KVM_GET_REGS, &k);

	if (stepping_begins) {
		v->guest_steps = r == 0 && (k.rflags & FL_TF);
		return r;
	}
	if (r < 0 || !v->guest_steps)
		return r;
	v->guest_steps = false;
	k.rflags |= FL_TF;
	return kvm_call(v->fd, KVM_SET_REGS, &k);
}

static int arm(struct kvm_vcpu *v)
{
	bool stepped = v->armed & KVM_GUESTDBG_SINGLESTEP;
	int r;

	if (v->plan.steps && !stepped)
		(void)turn_flag(v, true);
	v->armed = control(v);
	r = tell(v, 0);
	return r == 0 && stepped && !v->plan.steps ? turn_flag(v, false) : r;
}

/* Before each run: the kernel steps from where rip was when it was told. */
int kvm_put_debug(struct kvm_vcpu *v, struct err *e)
{
	int r;

	if (!v->debug && !v->armed)
		return 0;
	if (v->debug)
		kvm_debug_plan(v->debug, v->vm->debug_registers, &v->plan);
	else
		v->plan = (struct kvm_debug_plan){0};
	r = arm(v);
	if (r == 0 && v->plan.looks)
		r = kvm_watch_start(v);
	return r < 0 ? err_sys(e, -r, "vCPU %u: KVM does not take what the debugger asks for", v->id) : 0;
}

/* ---- what is met ---- */

static bool among(const struct engine_debug *d, gva_t gva)
{
	u32 lo = 0, hi = d->nbreaks;

	while (lo < hi) {
		u32 mid = lo + (hi - lo) / 2;

		if (d->breaks[mid] == gva)
			return true;
		*(d->breaks[mid] < gva ? &lo : &hi) = d->breaks[mid] < gva ? mid + 1 : mid;
	}
	return false;
}

/* As the CPU is now. */
static bool at_break(const struct kvm_vcpu *v)
{
	struct kvm_regs r;
	struct kvm_sregs s;

	if (!v->debug->nbreaks || kvm_call(v->fd, KVM_GET_REGS, &r) < 0 || kvm_call(v->fd, KVM_GET_SREGS, &s) < 0)
		return false;
	return among(v->debug, (s.efer & EFER_LMA) && s.cs.l ? r.rip : (u32)(s.cs.base + r.rip));
}

static bool is_halted(const struct kvm_vcpu *v)
{
	struct kvm_mp_state k = {0};

	return kvm_call(v->fd, KVM_GET_MP_STATE, &k) < 0 || k.mp_state != KVM_MP_STATE_RUNNABLE;
}

static bool stands_at_break(const struct kvm_vcpu *v)
{
	return at_break(v) && !is_halted(v);
}

static bool watch_met(struct kvm_vcpu *v, u64 dr6, struct x86_watchpoint *which)
{
	for (u32 i = 0; i < v->plan.used; i++)
		if ((dr6 & DR6_B(i)) && v->plan.point[i]) {
			*which = *v->plan.point[i];
			return true;
		}
	return v->plan.looks && kvm_watch_changed(v, which);
}

static enum engine_hit what_is_met(struct kvm_vcpu *v, u64 dr6)
{
	struct engine_debug *d = v->debug;

	if (watch_met(v, dr6, &d->watch.hit)) {
		d->watch.met = true;
		return HIT_WATCH;
	}
	if (d->step)
		return dr6 & DR6_BS ? HIT_STEP : HIT_NONE;
	return stands_at_break(v) ? HIT_BREAK : HIT_NONE;
}

/* Before the CPU executes the next: what it would not stop behind is done for it. */
static enum engine_hit look_ahead(struct kvm_vcpu *v)
{
	if (!v->plan.steps || !kvm_step_syscall(v))
		return HIT_NONE;
	return v->debug->step ? HIT_STEP : stands_at_break(v) ? HIT_BREAK : HIT_NONE;
}

bool kvm_debug_due(struct kvm_vcpu *v)
{
	struct engine_debug *d = v->debug;

	if (!d)
		return false;
	d->hit = !d->step && stands_at_break(v) ? HIT_BREAK : look_ahead(v);
	if (d->hit == HIT_NONE && v->plan.steps)
		(void)tell(v, 0);
	return d->hit != HIT_NONE;
}

/* Bits of DR6 that the guest is to see: what its own registers, its TF and its tasks have led to. */
static u64 guests_part(const struct kvm_vcpu *v, u64 dr6)
{
	u64 part = dr6 & (DR6_BD | DR6_BT);

	if (!v->plan.used)
		part |= dr6 & DR6_MET;
	if (!v->plan.steps || v->guest_steps)
		part |= dr6 & DR6_BS;
	return part;
}

/* INT1 sets no bit at all. */
static bool is_guests(const struct kvm_vcpu *v, u64 dr6)
{
	return guests_part(v, dr6) || !(dr6 & (DR6_MET | DR6_BD | DR6_BS | DR6_BT));
}

static int pass_on(struct kvm_vcpu *v, u64 dr6)
{
	struct kvm_debugregs k;
	int r = kvm_call(v->fd, KVM_GET_DEBUGREGS, &k);

	if (r < 0)
		return r;
	k.dr6 = (k.dr6 & ~DR6_MET) | DR6_FIXED | guests_part(v, dr6);
	r = kvm_call(v->fd, KVM_SET_DEBUGREGS, &k);
	return r < 0 ? r : tell(v, KVM_GUESTDBG_INJECT_DB);
}

/* Stepping goes on from here. */
static int go_on(struct kvm_vcpu *v)
{
	return v->plan.steps ? tell(v, 0) : 0;
}

bool kvm_exit_debug(struct kvm_vcpu *v, enum exit_kind *kind, struct err *e)
{
	u64 dr6 = v->run->debug.arch.dr6;
	enum engine_hit hit = v->debug ? what_is_met(v, dr6) : HIT_NONE;
	int r;

	v->count.debug++;
	if (hit == HIT_NONE && v->debug && !is_guests(v, dr6))
		hit = look_ahead(v);
	r = is_guests(v, dr6) ? pass_on(v, dr6) : go_on(v);
	if (r < 0) {
		(void)err_sys(e, -r, "vCPU %u: KVM does not go on after a debug exception", v->id);
		*kind = EXIT_ERROR;
		return false;
	}
	if (hit == HIT_NONE)
		return true;
	v->debug->hit = hit;
	*kind = EXIT_DEBUG;
	return false;
}
