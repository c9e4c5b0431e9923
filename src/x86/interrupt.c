/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupt and exception delivery: long mode (a short path of its own: page faults and timer ticks go this way), 16- and 32-bit protected
 * mode, real and virtual-8086 mode; double and triple faults. Source: SDM vol. 3, chapter 6; 20.1.4 and 20.3 for the 8086 modes.
 * Task gates lead to task.c.
 *
 * Threading: the vCPU's thread. Nothing of the CPU changes until the whole frame is on the stack; behind a task switch a fault is the new task's.
 */
#include "x86/internal.h"

struct event {
	u32 vector;
	enum x86_int_kind kind;
	bool has_error;
	u32 error;
	u32 ext; /* EXT bit of error codes that delivery itself raises */
};

/* What the gate and the code segment behind it amount to. */
struct target {
	u16 sel;
	u64 cs; /* descriptor */
	u64 rip;
	bool keep_if; /* trap gate */
	u32 ist;
	u32 cpl;  /* after delivery */
	u32 size; /* of a frame slot */
};

static u32 idt_error(const struct event *ev)
{
	return ev->vector << 3 | 2 | ev->ext;
}

static bool gate_refused(struct x86_cpu *c, const struct event *ev)
{
	return x86_raise_err(c, VEC_GP, idt_error(ev));
}

static bool check_gate(struct x86_cpu *c, const struct event *ev, u64 gate)
{
	if (ev->kind == INT_SOFTWARE && desc_dpl(gate) < x86_cpl(c))
		return gate_refused(c, ev);
	return desc_present(gate) || x86_raise_err(c, VEC_NP, idt_error(ev));
}

/* The code segment a gate names: its privilege decides whether the stack changes. */
static bool check_target(struct x86_cpu *c, const struct event *ev, struct target *t)
{
	u32 cpl = x86_cpl(c);

	if (sel_null(t->sel))
		return x86_raise_err(c, VEC_GP, ev->ext);
	if (!x86_desc_read(c, t->sel, &t->cs, VEC_GP, ev->ext))
		return false;
	if (!desc_is_code(t->cs) || desc_dpl(t->cs) > cpl)
		return x86_raise_err(c, VEC_GP, SEL_ERR(t->sel) | ev->ext);
	if (!desc_present(t->cs))
		return x86_raise_err(c, VEC_NP, SEL_ERR(t->sel) | ev->ext);
	t->cpl = desc_conforming(t->cs) ? cpl : desc_dpl(t->cs);
	return true;
}

static void enter(struct x86_cpu *c, const struct target *t)
{
	x86_seg_from_desc(&c->seg[SEG_CS], (u16)((t->sel & ~SEL_RPL) | t->cpl), t->cs);
	c->rip = t->rip;
	c->rflags &= ~(u64)(FL_TF | FL_NT | FL_RF | FL_VM);
	if (!t->keep_if)
		c->rflags &= ~(u64)FL_IF;
}

/* ---- long mode ---- */

static bool long_target(struct x86_cpu *c, const struct event *ev, struct target *t)
{
	u64 gate[2];
	u32 type;

	if (ev->vector * 16 + 15 > c->idt.limit)
		return gate_refused(c, ev);
	if (!x86_read(c, c->idt.base + ev->vector * 16, gate, 16, ACC_READ | ACC_IMPLICIT))
		return false;
	type = (u32)(gate[0] >> 40) & 0x1f;
	if (type != SYS_INT && type != SYS_TRAP)
		return gate_refused(c, ev);
	if (!check_gate(c, ev, gate[0]))
		return false;
	t->sel = (u16)gate_sel(gate[0]);
	t->rip = gate_off32(gate[0]) | gate[1] << 32;
	t->keep_if = type == SYS_TRAP;
	t->ist = (u32)(gate[0] >> 32) & 7;
	if (!check_target(c, ev, t))
		return false;
	if (!desc_is_code64(t->cs) || desc_l_and_d(t->cs))
		return x86_raise_err(c, VEC_GP, SEL_ERR(t->sel) | ev->ext);
	return x86_canonical(t->rip) || x86_raise_err(c, VEC_GP, ev->ext);
}

static bool long_stack(struct x86_cpu *c, const struct event *ev, const struct target *t, u64 *rsp)
{
	*rsp = c->gpr[R_RSP];
	if (t->ist)
		return x86_tss_rsp(c, 0x1c + t->ist * 8, rsp, ev->ext);
	if (t->cpl != x86_cpl(c))
		return x86_tss_rsp(c, 4 + t->cpl * 8, rsp, ev->ext);
	return true;
}

/* At once, and where that faults slot by slot from the top, as the CPU pushes them: CR2 is the first slot's that cannot be written. */
static bool write_frame(struct x86_cpu *c, u64 sp, const u64 *frame, u32 len, u32 acc)
{
	if (likely(x86_write(c, sp, frame, len, acc)))
		return true;
	c->fault.pending = false;
	for (u32 i = len / 8; i-- > 0;)
		if (!x86_write(c, sp + i * 8, frame + i, 8, acc))
			return false;
	return true;
}

static bool long_frame(struct x86_cpu *c, const struct event *ev, const struct target *t, u64 *rsp)
{
	u64 frame[6] = {ev->error, c->rip, c->seg[SEG_CS].sel, c->rflags, c->gpr[R_RSP], c->seg[SEG_SS].sel};
	u32 skip = ev->has_error ? 0 : 1;
	u32 len = 48 - skip * 8;
	u64 sp = (*rsp & ~15ull) - len;

	if (!x86_canonical(sp) || !x86_canonical(sp + len - 1))
		return x86_raise_err(c, VEC_SS, ev->ext);
	*rsp = sp;
	return write_frame(c, sp, frame + skip, len, t->cpl == 3 ? ACC_USER : 0);
}

static bool deliver_long(struct x86_cpu *c, const struct event *ev)
{
	u32 cs_attr = c->seg[SEG_CS].attr, cpl = x86_cpl(c);
	struct target t;
	u64 rsp;

	if (!long_target(c, ev, &t) || !long_stack(c, ev, &t, &rsp) || !x86_desc_set_type_bit(c, t.sel, &t.cs, TYPE_ACCESSED) ||
	    !long_frame(c, ev, &t, &rsp))
		return false;
	if (t.cpl != cpl)
		x86_seg_null(&c->seg[SEG_SS], (u16)t.cpl, t.cpl);
	c->gpr[R_RSP] = rsp;
	enter(c, &t);
	if (t.cpl != cpl || cs_attr != c->seg[SEG_CS].attr)
		x86_notify_mode(c);
	return true;
}

/* ---- 16- and 32-bit protected mode, and virtual-8086 mode ---- */

static bool is_protected_gate(u64 gate)
{
	const u32 types = 1u << SYS_TASK_GATE | 1u << SYS_INT16 | 1u << SYS_TRAP16 | 1u << SYS_INT | 1u << SYS_TRAP;

	return types >> (gate >> 40 & (SEGA_S | SEGA_TYPE)) & 1;
}

static bool protected_gate(struct x86_cpu *c, const struct event *ev, u64 *gate)
{
	if (ev->vector * 8 + 7 > c->idt.limit)
		return gate_refused(c, ev);
	if (!x86_read_val(c, c->idt.base + ev->vector * 8, 8, gate, ACC_READ | ACC_IMPLICIT))
		return false;
	return is_protected_gate(*gate) ? check_gate(c, ev, *gate) : gate_refused(c, ev);
}

static bool protected_target(struct x86_cpu *c, const struct event *ev, u64 gate, struct target *t)
{
	u32 type = desc_type(gate);

	t->size = type >= SYS_INT ? 4 : 2;
	t->sel = (u16)gate_sel(gate);
	t->rip = t->size == 4 ? gate_off32(gate) : gate & 0xffff;
	t->keep_if = type & 1;
	t->ist = 0;
	if (!check_target(c, ev, t))
		return false;
	if (x86_v86(c) && t->cpl != 0)
		return x86_raise_err(c, VEC_GP, SEL_ERR(t->sel) | ev->ext);
	return t->rip <= desc_limit(t->cs) || x86_raise_err(c, VEC_GP, ev->ext);
}

static bool push_v86_segments(struct x86_stack *s, const struct x86_cpu *c)
{
	return x86_push(s, c->seg[SEG_GS].sel) && x86_push(s, c->seg[SEG_FS].sel) && x86_push(s, c->seg[SEG_DS].sel) &&
	       x86_push(s, c->seg[SEG_ES].sel);
}

static bool protected_frame(struct x86_cpu *c, const struct event *ev, struct x86_stack *s, bool inner)
{
	if (x86_v86(c) && !push_v86_segments(s, c))
		return false;
	if (inner && !(x86_push(s, c->seg[SEG_SS].sel) && x86_push(s, c->gpr[R_RSP])))
		return false;
	if (!(x86_push(s, c->rflags) && x86_push(s, c->seg[SEG_CS].sel) && x86_push(s, c->rip)))
		return false;
	return !ev->has_error || x86_push(s, ev->error);
}

static void leave_v86(struct x86_cpu *c)
{
	static const u8 data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

	for (u32 i = 0; i < ARRAY_SIZE(data); i++)
		x86_seg_null(&c->seg[data[i]], 0, 0);
}

static bool deliver_procedure(struct x86_cpu *c, const struct event *ev, u64 gate)
{
	struct x86_stack s;
	struct x86_seg ss;
	struct target t;
	bool inner;
	u64 sp;

	if (!protected_target(c, ev, gate, &t))
		return false;
	inner = t.cpl != x86_cpl(c);
	if (inner) {
		if (!x86_tss_stack(c, t.cpl, &ss, &sp, ev->ext))
			return false;
		x86_stack_other(&s, c, &ss, sp, t.size, ev->ext);
	} else {
		x86_stack_current(&s, c, t.size);
		s.ext = ev->ext;
	}
	if (!protected_frame(c, ev, &s, inner) || !x86_desc_set_type_bit(c, t.sel, &t.cs, TYPE_ACCESSED))
		return false;
	if (x86_v86(c))
		leave_v86(c);
	if (inner)
		c->seg[SEG_SS] = ss;
	c->gpr[R_RSP] = s.sp;
	enter(c, &t);
	x86_notify_mode(c);
	return true;
}

static bool deliver_protected(struct x86_cpu *c, const struct event *ev)
{
	u64 gate;

	if (!protected_gate(c, ev, &gate))
		return false;
	if (desc_type(gate) != SYS_TASK_GATE)
		return deliver_procedure(c, ev, gate);
	return x86_task_interrupt(c, (u16)gate_sel(gate), ev->ext, ev->has_error ? &ev->error : NULL);
}

/* ---- real mode ---- */

static bool deliver_real(struct x86_cpu *c, const struct event *ev)
{
	struct x86_stack s;
	u64 entry;

	if (ev->vector * 4 + 3 > c->idt.limit)
		return x86_raise(c, VEC_GP);
	if (!x86_read_val(c, c->idt.base + ev->vector * 4, 4, &entry, ACC_READ | ACC_IMPLICIT))
		return false;
	x86_stack_current(&s, c, 2);
	if (!x86_push(&s, c->rflags) || !x86_push(&s, c->seg[SEG_CS].sel) || !x86_push(&s, c->rip))
		return false;
	c->gpr[R_RSP] = s.sp;
	c->seg[SEG_CS].sel = (u16)(entry >> 16);
	c->seg[SEG_CS].base = entry >> 16 << 4;
	c->rip = entry & 0xffff;
	c->rflags &= ~(u64)(FL_IF | FL_TF | FL_AC | FL_RF);
	return true;
}

/* ---- the whole ---- */

static bool deliver(struct x86_cpu *c, const struct event *ev)
{
	if (likely(x86_long_mode(c)))
		return deliver_long(c, ev);
	return x86_protected(c) ? deliver_protected(c, ev) : deliver_real(c, ev);
}

enum fault_class { BENIGN, CONTRIBUTORY, PAGE_FAULT };

static enum fault_class class_of(u32 vector, enum x86_int_kind kind)
{
	if (kind != INT_EXCEPTION)
		return BENIGN;
	switch (vector) {
	case VEC_DE:
	case VEC_TS:
	case VEC_NP:
	case VEC_SS:
	case VEC_GP:
		return CONTRIBUTORY;
	case VEC_PF:
		return PAGE_FAULT;
	default:
		return BENIGN;
	}
}

static void tell_event(struct x86_cpu *c, const struct event *ev)
{
	const struct x86_env *env = c->env;

	if (ev->kind == INT_SOFTWARE)
		env->trace(env->opaque, TRACE_SOFT_INTERRUPT, c->rip, ev->vector, 0, 0);
	else if (ev->kind == INT_HARDWARE)
		env->trace(env->opaque, ev->vector == VEC_NMI ? TRACE_NMI : TRACE_INTERRUPT, c->rip, ev->vector, 0, 0);
	else if (ev->vector == VEC_PF)
		env->trace(env->opaque, TRACE_PAGE_FAULT, c->rip, ev->error, c->cr2, 0);
	else
		env->trace(env->opaque, ev->has_error ? TRACE_FAULT_ERROR : TRACE_FAULT, c->rip, ev->vector, ev->error, 0);
}

static bool traced_deliver(struct x86_cpu *c, const struct event *ev)
{
	if (unlikely(c->traced))
		tell_event(c, ev);
	return deliver(c, ev);
}

static void set_event(struct event *ev, u32 vector, enum x86_int_kind kind, bool has_error, u32 error)
{
	ev->vector = vector;
	ev->kind = kind;
	ev->has_error = has_error;
	ev->error = error;
	ev->ext = kind != INT_SOFTWARE;
}

/* Delivering *ev raised c->fault: what is to be delivered instead (SDM vol. 3, table 6-5)? False: nothing any more, shutdown. Each step
 * goes up in class, so this ends after at most four. */
static bool combine(struct x86_cpu *c, struct event *ev)
{
	enum fault_class first = class_of(ev->vector, ev->kind), second = class_of(c->fault.vector, INT_EXCEPTION);

	c->fault.pending = false;
	if (ev->vector == VEC_DF && ev->kind == INT_EXCEPTION)
		return false;
	if (c->fault.vector == VEC_PF)
		c->cr2 = c->fault.cr2;
	if (second != BENIGN && (first == PAGE_FAULT || (first == CONTRIBUTORY && second == CONTRIBUTORY)))
		set_event(ev, VEC_DF, INT_EXCEPTION, true, 0);
	else
		set_event(ev, c->fault.vector, INT_EXCEPTION, c->fault.has_error, c->fault.error);
	return true;
}

void x86_interrupt(struct x86_cpu *c, u8 vector, enum x86_int_kind kind, bool has_error, u32 error)
{
	struct event ev;

	c->halted = false;
	c->irq_shadow = false;
	if (vector == VEC_NMI && kind == INT_HARDWARE)
		c->nmi_blocked = true;
	set_event(&ev, vector, kind, has_error, error);
	while (unlikely(!traced_deliver(c, &ev))) {
		if (!combine(c, &ev)) {
			c->triple_fault = true;
			return;
		}
	}
}

bool x86_soft_interrupt(struct x86_cpu *c, u8 vector, u64 next_rip)
{
	u64 rip = c->rip, rflags = c->rflags;
	struct event ev;

	/* Virtual-8086 mode without VME (which is not announced): IOPL 3 or the monitor decides. INT3 and INTO go by the gate alone. */
	if (x86_v86(c) && vector != VEC_BP && vector != VEC_OF && (c->rflags & FL_IOPL) != FL_IOPL)
		return x86_raise_err(c, VEC_GP, 0);
	set_event(&ev, vector, INT_SOFTWARE, false, 0);
	c->rip = next_rip;
	c->rflags &= ~(u64)FL_RF; /* no matter of the handler's, SDM vol. 3, 17.3.1.1 */
	c->task_switched = false;
	if (traced_deliver(c, &ev))
		return true;
	if (c->task_switched)
		return false;
	c->rip = rip;
	c->rflags = rflags;
	return false;
}
