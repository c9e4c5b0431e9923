/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where to go on: the block for an address in the current mode, found or translated; the middle of the block that called; or back to vcpu_run, when
 * somebody wants the vCPU, an interrupt waits or the next instruction is none for translated code.
 *
 * Light code: guest vector state is still in the registers; bt_heavy() is called before anything that might touch it.
 * Threading: the vCPU's thread.
 */
#include "engine/bt/events.h"

struct bt_place bt_place_of(struct bt_vcpu *v, u32 site)
{
	struct bt_place p;
	p.b = &v->blocks[v->t3];
	p.m = bt_insn_at(v, p.b, site);
	p.epoch = v->epoch;
	v->cpu.rip = p.b->gva + p.m->guest;
	return p;
}

/* In the middle of a block, where host r11 may have to hold a guest register. */
static void *middle(struct bt_vcpu *v, const struct bt_block *b, const struct bt_insn_map *m)
{
	if (m->r11 != BT_NO_GPR)
		v->r11 = v->cpu.gpr[m->r11];
	return bt_host(v, b->checked + m->host);
}

void *bt_finish(struct bt_vcpu *v, void *to)
{
	if (to && v->fpu_saved && !BT_ALL_HEAVY)
		bt_light(v);
	return to;
}

/* Either word of a kick will do: the kicker may be between them. */
bool bt_kicked(const struct bt_vcpu *v)
{
	return __atomic_load_n(&v->go, __ATOMIC_ACQUIRE) == 0 || __atomic_load_n(&v->k_page, __ATOMIC_ACQUIRE) == 0;
}

static bool watch_hit(const struct bt_vcpu *v)
{
	return unlikely(v->cpu.watch != NULL) && v->cpu.watch->met;
}

bool bt_must_leave(const struct bt_vcpu *v)
{
	return bt_kicked(v) || v->cpu.triple_fault || v->halted || v->failed || watch_hit(v);
}

static bool fetch_frame(struct bt_vcpu *v, gva_t rip, u64 *gpfn)
{
	if (bt_itlb_find(v, rip, gpfn))
		return true;
	struct x86_xlat x;
	if (!x86_translate(&v->cpu, rip, x86_acc(&v->cpu, ACC_FETCH), &x))
		return false;
	*gpfn = x.gpa >> 12;
	if (*gpfn < v->vm->nframes && bt_itlb_can_hold(rip, *gpfn))
		bt_itlb_enter(v, rip, *gpfn);
	bt_shadow_note_fetch(v, rip, &x);
	return true;
}

static bool near_page_end(gva_t rip)
{
	return PAGE_OFFSET(rip) > PAGE_SIZE - 15;
}

/* The frame behind the one that holds rip; 0 when it cannot be fetched from (should that matter, the interpreter raises the fault). */
static u64 next_frame(struct bt_vcpu *v)
{
	u64 gpfn;
	if (fetch_frame(v, PAGE_BASE(v->cpu.rip) + PAGE_SIZE, &gpfn) && gpfn < v->vm->nframes && gpfn < 1u << 28)
		return gpfn;
	v->cpu.fault.pending = false;
	return 0;
}

/* The block for cpu.rip in the current mode; NULL: interpret, or a fault is pending. careful: MODE_CAREFUL or 0. */
static struct bt_block *block_here(struct bt_vcpu *v, u32 careful)
{
	u64 gpfn;
	if (!fetch_frame(v, v->cpu.rip, &gpfn))
		return NULL;
	if (gpfn >= v->vm->nframes || !bt_itlb_can_hold(v->cpu.rip, gpfn))
		return NULL;
	u64 gpfn2 = near_page_end(v->cpu.rip) ? next_frame(v) : 0;
	struct bt_block *b = bt_block_find(v, v->cpu.rip, gpfn, v->mode | careful);
	if (b && b->gpfn2 && b->gpfn2 != gpfn2) {
		bt_block_kill(v, (u32)(b - v->blocks)); /* the second page is mapped elsewhere now */
		b = NULL;
	}
	if (!b && !gpfn2)
		b = bt_rebase(v, v->cpu.rip, gpfn, v->mode | careful);
	if (!b) {
		bt_heavy(v);
		b = bt_translate(v, v->cpu.rip, gpfn, gpfn2, v->mode | careful);
	}
	if (b)
		bt_itlb_know(v, b);
	return b;
}

static bool interrupt_waits(const struct bt_vcpu *v)
{
	if (v->cpu.nmi_pending && !v->cpu.nmi_blocked)
		return true;
	return __atomic_load_n(&v->irq_idle, __ATOMIC_ACQUIRE) == 0 && (v->cpu.rflags & FL_IF);
}

/* Translated code runs: no shadow of STI, MOV SS or RF outlasts one instruction. */
static void past_shadows(struct bt_vcpu *v)
{
	v->cpu.irq_shadow = v->cpu.debug_shadow = false;
	v->cpu.rflags &= ~(u64)FL_RF;
}

void *bt_dispatch_block(struct bt_vcpu *v, u32 careful, struct bt_block **out)
{
	v->st.dispatches++;
	*out = NULL;
	for (int i = 0; i < 3; i++) {
		bt_stores_done(v);
		if (bt_must_leave(v))
			return NULL;
		bt_update_mode(v);
		if (v->mode & MODE_INTERP)
			return NULL;
		if (interrupt_waits(v) || v->cpu.irq_shadow || bt_direct_fits(v)) /* what stands in a shadow is interpreted */
			return NULL;
		if (bt_debug_at_break(v))
			return NULL;
		past_shadows(v);
		bt_adopt_mode(v, v->mode);
		struct bt_block *b = block_here(v, careful);
		bt_stores_done(v); /* accessed bits */
		if (b && b->dead)
			continue;
		if (b) {
			*out = b;
			return bt_host(v, b->entry);
		}
		if (!v->cpu.fault.pending) {
			v->interpret_next = true;
			return NULL;
		}
		x86_deliver_fault(&v->cpu);
	}
	return NULL;
}

static void *dispatch_careful(struct bt_vcpu *v)
{
	struct bt_block *b;
	return bt_finish(v, bt_dispatch_block(v, MODE_CAREFUL, &b));
}

/* The jump cache knows most targets; their checked entries make sure of the mapping. */
static void *cached_target(struct bt_vcpu *v)
{
	u32 user = v->mode & MODE_USER;
	const struct bt_jc_entry *e = &v->jc[user][bt_jc_index(v->cpu.rip)];
	if (v->mode != v->jc_mode[user] || e->neg_gva != 0 - v->cpu.rip || !x86_canonical(v->cpu.rip))
		return NULL;
	return (void *)e->host;
}

static void remember_target(struct bt_vcpu *v, const struct bt_block *b)
{
	u32 user = b->mode & MODE_USER;
	if (v->jc_mode[user] != b->mode || bt_jc_index(b->gva) == 0)
		return;
	struct bt_jc_entry *e = &v->jc[user][bt_jc_index(b->gva)];
	e->neg_gva = 0 - b->gva;
	e->host = (u64)bt_host(v, b->checked);
}

void *bt_dispatch_known(struct bt_vcpu *v)
{
	struct bt_block *b;
	void *h = bt_dispatch_block(v, 0, &b);
	if (b)
		remember_target(v, b);
	return bt_finish(v, h);
}

void *bt_dispatch(struct bt_vcpu *v)
{
	bt_stores_done(v);
	bt_update_mode(v);
	if (!bt_must_leave(v) && !interrupt_waits(v) && !v->cpu.irq_shadow && !bt_direct_fits(v)) {
		void *h = cached_target(v);
		if (h) {
			past_shadows(v);
			return bt_finish(v, h);
		}
	}
	return bt_dispatch_known(v);
}

/* Does the block go on with look-ups that were made before, and are they gone? */
static bool lost_look_ups(const struct bt_vcpu *v, const struct bt_place *p, const struct bt_insn_map *to)
{
	return (to->flags & INSN_SHARES) && (v->epoch != p->epoch || (to != p->m && (p->m->flags & INSN_FIRST)));
}

void *bt_again(struct bt_vcpu *v, const struct bt_place *p)
{
	if (lost_look_ups(v, p, p->m))
		return dispatch_careful(v);
	return p->b->dead ? bt_dispatch(v) : bt_finish(v, middle(v, p->b, p->m));
}

void *bt_resume(struct bt_vcpu *v, const struct bt_place *p)
{
	const struct bt_block *b = p->b;
	bt_stores_done(v);
	if (b->dead || bt_must_leave(v))
		return bt_dispatch(v);
	bt_update_mode(v);
	if (v->mode != (b->mode & ~(u32)MODE_CAREFUL) || v->cpu.rip != b->gva + p->m[1].guest || interrupt_waits(v))
		return bt_dispatch(v);
	if (lost_look_ups(v, p, &p->m[1]))
		return dispatch_careful(v);
	if (p->m[1].flags & (INSN_CLOSED | INSN_END))
		return bt_dispatch(v);
	past_shadows(v);
	return bt_finish(v, middle(v, b, &p->m[1]));
}

void *bt_deliver(struct bt_vcpu *v)
{
	x86_deliver_fault(&v->cpu);
	return bt_dispatch(v);
}

bool bt_interpret(struct bt_vcpu *v)
{
	bt_heavy(v);
	v->st.interp++;
	enum interp_result r = interp_step(v->interp, &v->cpu);
	bt_stores_done(v);
	switch (r) {
	case INTERP_OK:
		return true;
	case INTERP_HALT:
		v->halted = true;
		return false;
	case INTERP_FAULT:
		x86_deliver_fault(&v->cpu);
		return false;
	}
	return false;
}
