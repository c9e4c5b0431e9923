/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hardware task switches of protected mode: JMP and CALL far, task gates, IRET with NT set; TSSs of the 286 and the 386.
 * Source: SDM vol. 3, chapter 8 (steps in 8.3, conditions in table 8-1), 6.15 (#TS), 22.28; vol. 2, JMP, CALL, INT, IRET.
 *
 * Whatever may fault is looked at before anything changes: descriptors and limits, access to both TSSs, the new CR3. Behind that point a fault is the
 * new task's (task_enter.c). Only when another CPU changes page tables between the look and the access, a switch ends half-way, in the old task
 * (step 12 in 8.3 allows that).
 * Threading: the vCPU's thread. The busy bit is taken by compare-and-exchange: of several CPUs one gets the task.
 */
#include "x86/task.h"

#define TYPE_BUSY 2u
#define TSS32_CR3 0x1cu
#define RELEASE_TRIES 64

/* VIF and VIP belong to VME, which is not announced. */
#define FLAGS16 (FL_ARITH | FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT)
static const struct task_layout tss16 = {.width = 2, .state = 0x0e, .segs = 4, .ldt = 0x2a, .limit = 0x2b, .flags = FLAGS16};
static const struct task_layout tss32 = {
	.width = 4, .state = 0x20, .segs = 6, .ldt = 0x60, .trap = 0x64, .limit = 0x67, .flags = FLAGS16 | FL_RF | FL_VM | FL_AC | FL_ID};

static const struct task_layout *layout_of(u32 type)
{
	return type & 8 ? &tss32 : &tss16;
}

static bool is_tss(u64 d)
{
	u64 free = d & ~((u64)TYPE_BUSY << 40);

	return task_is_system(free, SYS_TSS16) || task_is_system(free, SYS_TSS);
}

static u32 slots(const struct task_layout *l)
{
	return SLOT_SEGS + l->segs;
}

/* ---- before: what refuses a switch leaves the old task as it is ---- */

static bool check_tss(struct x86_cpu *c, struct task *t, u16 sel, u64 d, enum x86_vector v)
{
	u32 busy = t->way == TASK_RETURN ? TYPE_BUSY : 0;

	if (sel & SEL_TI || !is_tss(d) || (desc_type(d) & TYPE_BUSY) != busy)
		return task_refuse(c, t, v, sel);
	if (!desc_present(d))
		return task_refuse(c, t, VEC_NP, sel);
	t->sel = sel;
	t->desc = d;
	t->to = layout_of(desc_type(d));
	return desc_limit(d) >= t->to->limit || task_refuse(c, t, VEC_TS, sel);
}

/* The TSS that a task gate or a back link names; v is what a selector raises that names none. */
static bool find_tss(struct x86_cpu *c, struct task *t, u16 sel, enum x86_vector v)
{
	u64 d;

	if (sel_null(sel) || sel & SEL_TI)
		return task_refuse(c, t, v, sel);
	return x86_desc_read(c, sel, &d, v, t->ext) && check_tss(c, t, sel, d, v);
}

static bool reachable(struct x86_cpu *c, gva_t at, u32 len, u32 acc)
{
	gva_t last_page = PAGE_BASE(at + len - 1);
	struct x86_xlat x;

	return x86_translate(c, at, acc | ACC_IMPLICIT, &x) &&
	       (PAGE_BASE(at) == last_page || x86_translate(c, last_page, acc | ACC_IMPLICIT, &x));
}

static bool old_tss_takes_state(struct x86_cpu *c, const struct task *t)
{
	u32 len = slots(t->from) * t->from->width;

	if (t->from->state + len - 1 > c->tr.limit)
		return task_refuse(c, t, VEC_TS, c->tr.sel);
	return reachable(c, c->tr.base + t->from->state, len, ACC_WRITE);
}

static bool old_descriptor_is_writable(struct x86_cpu *c, const struct task *t)
{
	u64 d;

	if (t->way == TASK_CALL)
		return true;
	return x86_desc_read(c, c->tr.sel, &d, VEC_TS, t->ext) && reachable(c, c->gdt.base + (c->tr.sel & 0xfff8u) + 5, 1, ACC_WRITE);
}

static bool new_tss_is_there(struct x86_cpu *c, const struct task *t)
{
	u64 base = desc_base(t->desc);

	return reachable(c, base, t->to->limit + 1, ACC_READ) && (t->way != TASK_CALL || reachable(c, base, 2, ACC_WRITE));
}

static bool read_cr3(struct x86_cpu *c, struct task *t)
{
	t->has_cr3 = t->to == &tss32 && x86_paging(c);
	if (!t->has_cr3)
		return true;
	if (!x86_read_val(c, desc_base(t->desc) + TSS32_CR3, 4, &t->cr3, ACC_READ | ACC_IMPLICIT))
		return false;
	return !(c->cr4 & CR4_PAE) || x86_pdptes_valid(c, t->cr3) || x86_raise_err(c, VEC_GP, t->ext);
}

static bool check_all(struct x86_cpu *c, struct task *t)
{
	t->from = layout_of(c->tr.attr & SEGA_TYPE);
	return old_tss_takes_state(c, t) && old_descriptor_is_writable(c, t) && new_tss_is_there(c, t) && read_cr3(c, t);
}

/* ---- out of the old task ---- */

/* Another CPU may have been faster. */
static bool take_new(struct x86_cpu *c, struct task *t)
{
	bool done;

	if (t->way == TASK_RETURN)
		return true;
	if (!x86_desc_change_type(c, t->sel, &t->desc, desc_type(t->desc) | TYPE_BUSY, &done))
		return false;
	return done || task_refuse(c, t, VEC_TS, t->sel);
}

static bool release_old(struct x86_cpu *c, const struct task *t)
{
	bool done = t->way == TASK_CALL;
	u64 d;

	for (u32 i = 0; !done && i < RELEASE_TRIES; i++)
		if (!x86_desc_read(c, c->tr.sel, &d, VEC_TS, t->ext) ||
		    !x86_desc_change_type(c, c->tr.sel, &d, desc_type(d) & ~TYPE_BUSY, &done))
			return false;
	return true;
}

static u64 saved_value(const struct x86_cpu *c, const struct task *t, u32 i)
{
	if (i == SLOT_IP)
		return t->rip;
	if (i == SLOT_FLAGS)
		return t->flags;
	return i < SLOT_SEGS ? c->gpr[i - SLOT_REGS] : c->seg[i - SLOT_SEGS].sel;
}

/* Selectors fill their slots, as they do since the Pentium. */
static bool save(struct x86_cpu *c, const struct task *t)
{
	u32 width = t->from->width;
	u8 row[SLOT_MAX * 4];

	for (u32 i = 0; i < slots(t->from); i++)
		x86_store_host(row + i * width, width, saved_value(c, t, i));
	return x86_write(c, c->tr.base + t->from->state, row, slots(t->from) * width, ACC_IMPLICIT);
}

static bool link_back(struct x86_cpu *c, const struct task *t)
{
	return t->way != TASK_CALL || x86_write_val(c, desc_base(t->desc), 2, c->tr.sel, ACC_IMPLICIT);
}

static bool leave_old(struct x86_cpu *c, struct task *t)
{
	return take_new(c, t) && release_old(c, t) && save(c, t) && link_back(c, t) &&
	       x86_read(c, desc_base(t->desc), t->image, t->to->limit + 1, ACC_READ | ACC_IMPLICIT);
}

static bool switch_to(struct x86_cpu *c, struct task *t, const u32 *error)
{
	return check_all(c, t) && leave_old(c, t) && x86_task_enter(c, t, error);
}

/* ---- the ways ---- */

/* Field by field: an initialiser would clear the image too, by a call of libc. */
static void start(struct task *t, enum x86_task_way way, u32 ext, u64 rip, u64 flags)
{
	t->way = way;
	t->ext = ext;
	t->rip = rip;
	t->flags = flags;
}

bool x86_is_task(const struct x86_cpu *c, u64 d)
{
	return !x86_long_mode(c) && (is_tss(d) || task_is_system(d, SYS_TASK_GATE));
}

static bool check_rights(struct x86_cpu *c, const struct task *t, u16 sel, u64 d)
{
	u32 cpl = x86_cpl(c), rpl = sel & SEL_RPL;

	return desc_dpl(d) >= (cpl > rpl ? cpl : rpl) || task_refuse(c, t, VEC_GP, sel);
}

static bool through_gate(struct x86_cpu *c, struct task *t, u16 sel, u64 d)
{
	if (!desc_present(d))
		return task_refuse(c, t, VEC_NP, sel);
	return find_tss(c, t, (u16)gate_sel(d), VEC_GP);
}

bool x86_task_transfer(struct x86_cpu *c, u16 sel, u64 d, enum x86_task_way way, u64 next_rip)
{
	struct task t;

	start(&t, way, 0, next_rip, c->rflags & ~(u64)FL_RF);
	if (!check_rights(c, &t, sel, d))
		return false;
	if (!(is_tss(d) ? check_tss(c, &t, sel, d, VEC_GP) : through_gate(c, &t, sel, d)))
		return false;
	return switch_to(c, &t, NULL);
}

bool x86_task_interrupt(struct x86_cpu *c, u16 sel, u32 ext, const u32 *error)
{
	struct task t;

	start(&t, TASK_CALL, ext, c->rip, c->rflags);
	return find_tss(c, &t, sel, VEC_GP) && switch_to(c, &t, error);
}

bool x86_task_return(struct x86_cpu *c, u64 next_rip)
{
	struct task t;
	u64 link;

	start(&t, TASK_RETURN, 0, next_rip, c->rflags & ~(u64)(FL_NT | FL_RF));
	return x86_tss_read(c, 0, 2, &link, 0) && find_tss(c, &t, (u16)link, VEC_TS) && switch_to(c, &t, NULL);
}
