/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The second half of a task switch: the new task's state, out of the copy of its TSS. Its registers are all loaded before anything is checked; those segment
 * registers that a fault comes before hold their selectors and are unusable. Source: SDM vol. 3, 8.3 (steps 11 to 13), table 8-1, 17.3.1.5.
 *
 * Where the manuals leave the upper halves of registers open, behind a 16-bit TSS, they are zero, and FS and GS are null.
 * Threading: the vCPU's thread.
 */
#include "x86/task.h"

#define DR7_LOCAL 0x55u

static u64 slot(const struct task *t, u32 i)
{
	return x86_load_host(t->image + t->to->state + i * t->to->width, t->to->width);
}

static void load_cr3(struct x86_cpu *c, const struct task *t)
{
	if (!t->has_cr3 || t->cr3 == c->cr3)
		return;
	c->cr3 = t->cr3;
	x86_flush_pcid(c, 0);
}

static void load_registers(struct x86_cpu *c, const struct task *t)
{
	c->rip = slot(t, SLOT_IP);
	c->rflags = (slot(t, SLOT_FLAGS) & t->to->flags) | FL_ONE | (t->way == TASK_CALL ? FL_NT : 0);
	for (u32 i = 0; i < 8; i++)
		c->gpr[i] = slot(t, SLOT_REGS + i);
}

static u16 new_selector(const struct task *t, u32 seg)
{
	return seg < t->to->segs ? (u16)slot(t, SLOT_SEGS + seg) : 0;
}

/* Selectors alone, until their descriptors are loaded. CS says what the CPL is. */
static void load_selectors(struct x86_cpu *c, const struct task *t)
{
	u32 cpl = new_selector(t, SEG_CS) & SEL_RPL;

	for (u32 seg = 0; seg < SEG_COUNT; seg++)
		if (x86_v86(c))
			x86_seg_v86(&c->seg[seg], new_selector(t, seg));
		else
			x86_seg_null(&c->seg[seg], new_selector(t, seg), seg == SEG_SS ? cpl : 0);
}

static void become_new(struct x86_cpu *c, const struct task *t)
{
	x86_seg_from_desc(&c->tr, t->sel, t->desc);
	c->cr0 |= CR0_TS;
	c->dr[7] &= ~(u64)DR7_LOCAL;
	c->debug_shadow = false;
	c->task_switched = true;
	load_cr3(c, t);
	load_registers(c, t);
	load_selectors(c, t);
	x86_notify_mode(c);
}

static bool load_ldt(struct x86_cpu *c, const struct task *t)
{
	u16 sel = (u16)x86_load_host(t->image + t->to->ldt, 2);
	u64 d;

	x86_seg_null(&c->ldt, sel, 0);
	if (sel_null(sel))
		return true;
	if (sel & SEL_TI)
		return task_refuse(c, t, VEC_TS, sel);
	if (!x86_desc_read(c, sel, &d, VEC_TS, t->ext))
		return false;
	if (!task_is_system(d, SYS_LDT) || !desc_present(d))
		return task_refuse(c, t, VEC_TS, sel);
	x86_seg_from_desc(&c->ldt, sel, d);
	return true;
}

/* May the descriptor go into the register; and what says so that its segment is absent? */
struct seg_rule {
	bool (*fits)(u64 d, u32 rpl, u32 cpl);
	enum x86_vector absent;
	bool may_be_null;
};

static bool code_fits(u64 d, u32 rpl, u32 cpl)
{
	return desc_is_code(d) && (desc_conforming(d) ? desc_dpl(d) <= rpl : desc_dpl(d) == rpl);
}

static bool stack_fits(u64 d, u32 rpl, u32 cpl)
{
	return desc_is_stack(d) && desc_dpl(d) == cpl && rpl == cpl;
}

static bool data_fits(u64 d, u32 rpl, u32 cpl)
{
	if (desc_is_code(d) && desc_conforming(d))
		return d >> 40 & TYPE_RW;
	return (desc_is_data(d) || (desc_is_code(d) && d >> 40 & TYPE_RW)) && desc_dpl(d) >= (rpl > cpl ? rpl : cpl);
}

static const struct seg_rule code_rule = {code_fits, VEC_NP, false}, stack_rule = {stack_fits, VEC_SS, false},
			     data_rule = {data_fits, VEC_NP, true};

static bool load_seg(struct x86_cpu *c, const struct task *t, u32 seg, const struct seg_rule *r)
{
	u16 sel = c->seg[seg].sel;
	u64 d;

	if (sel_null(sel))
		return r->may_be_null || task_refuse(c, t, VEC_TS, sel);
	if (!x86_desc_read(c, sel, &d, VEC_TS, t->ext))
		return false;
	if (!r->fits(d, sel & SEL_RPL, x86_cpl(c)))
		return task_refuse(c, t, VEC_TS, sel);
	if (!desc_present(d))
		return task_refuse(c, t, r->absent, sel);
	if (!x86_desc_set_type_bit(c, sel, &d, TYPE_ACCESSED))
		return false;
	x86_seg_from_desc(&c->seg[seg], sel, d);
	return true;
}

static bool load_segs(struct x86_cpu *c, const struct task *t)
{
	static const u8 data[] = {SEG_DS, SEG_ES, SEG_FS, SEG_GS};

	if (!load_ldt(c, t))
		return false;
	if (x86_v86(c))
		return true;
	if (!load_seg(c, t, SEG_CS, &code_rule) || !load_seg(c, t, SEG_SS, &stack_rule))
		return false;
	for (u32 i = 0; i < ARRAY_SIZE(data); i++)
		if (!load_seg(c, t, data[i], &data_rule))
			return false;
	return true;
}

static bool push_error(struct x86_cpu *c, const struct task *t, u32 error)
{
	struct x86_stack s;

	x86_stack_current(&s, c, t->to->width);
	s.ext = t->ext;
	if (!x86_push(&s, error))
		return false;
	c->gpr[R_RSP] = s.sp;
	return true;
}

static bool traps(const struct task *t)
{
	return t->to->trap && t->image[t->to->trap] & 1;
}

/* What is due in the new task before its first instruction. */
static bool arrive(struct x86_cpu *c, const struct task *t, const u32 *error)
{
	if (!load_segs(c, t) || (error && !push_error(c, t, *error)))
		return false;
	if (c->rip > c->seg[SEG_CS].limit)
		return x86_raise_err(c, VEC_GP, t->ext);
	if (traps(t))
		c->dr6_pending |= DR6_BT;
	return true;
}

bool x86_task_enter(struct x86_cpu *c, const struct task *t, const u32 *error)
{
	bool ok;

	become_new(c, t);
	ok = arrive(c, t, error);
	if (!ok)
		c->rflags |= FL_RF; /* all of them are faults */
	x86_notify_mode(c);
	return ok;
}
