/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JMP, CALL and RET far: same privilege, call gates of 16, 32 and 64 bits, returns to an outer level. What switches tasks is task.c's.
 * Source: SDM vol. 2, JMP, CALL, RET; vol. 3, 5.8.
 * Threading: the vCPU's thread.
 */
#include "x86/internal.h"

static u64 trim(u64 off, u32 size)
{
	return off & x86_size_mask(size);
}

static bool gp_sel(struct x86_cpu *c, u16 sel)
{
	return x86_raise_err(c, VEC_GP, SEL_ERR(sel));
}

/* Is `rip` an address that the code segment can run at? */
static bool check_rip(struct x86_cpu *c, u64 d, u64 rip)
{
	bool ok = x86_long_mode(c) && desc_is_code64(d) ? x86_canonical(rip) : rip <= desc_limit(d);

	return ok || x86_raise_err(c, VEC_GP, 0);
}

/* Rules of a direct transfer, without a gate (SDM vol. 3, 5.8.1). */
static bool check_direct(struct x86_cpu *c, u16 sel, u64 d)
{
	u32 cpl = x86_cpl(c), rpl = sel & SEL_RPL;

	if (desc_conforming(d) ? desc_dpl(d) > cpl : rpl > cpl || desc_dpl(d) != cpl)
		return gp_sel(c, sel);
	if (x86_long_mode(c) && desc_l_and_d(d))
		return gp_sel(c, sel);
	return desc_present(d) || x86_raise_err(c, VEC_NP, SEL_ERR(sel));
}

static bool set_cs(struct x86_cpu *c, u16 sel, u64 d, u32 cpl, u64 rip)
{
	if (!x86_desc_set_type_bit(c, sel, &d, TYPE_ACCESSED))
		return false;
	x86_seg_from_desc(&c->seg[SEG_CS], (u16)((sel & ~SEL_RPL) | cpl), d);
	c->rip = rip;
	x86_notify_mode(c);
	return true;
}

static void set_real_cs(struct x86_cpu *c, u16 sel, u64 rip)
{
	c->seg[SEG_CS].sel = sel;
	c->seg[SEG_CS].base = (u64)sel << 4;
	c->rip = rip;
}

/* ---- call gates ---- */

struct call_gate {
	u16 sel;
	u64 cs;
	u64 off;
	u32 size;   /* of a pushed slot */
	u32 params; /* slots to copy to an inner stack */
	u32 cpl;    /* after a call */
};

static bool is_call_gate(const struct x86_cpu *c, u64 d)
{
	u32 type = desc_type(d);

	return !(d >> 40 & SEGA_S) && (type == SYS_CALL || (type == SYS_CALL16 && !x86_long_mode(c)));
}

static bool check_gate_target(struct x86_cpu *c, struct call_gate *g, bool jump)
{
	u32 cpl = x86_cpl(c);

	if (sel_null(g->sel))
		return x86_raise_err(c, VEC_GP, 0);
	if (!x86_desc_read(c, g->sel, &g->cs, VEC_GP, 0))
		return false;
	if (!desc_is_code(g->cs) || desc_dpl(g->cs) > cpl || (jump && !desc_conforming(g->cs) && desc_dpl(g->cs) != cpl))
		return gp_sel(c, g->sel);
	if (x86_long_mode(c) && (!desc_is_code64(g->cs) || desc_l_and_d(g->cs)))
		return gp_sel(c, g->sel);
	if (!desc_present(g->cs))
		return x86_raise_err(c, VEC_NP, SEL_ERR(g->sel));
	g->cpl = desc_conforming(g->cs) ? cpl : desc_dpl(g->cs);
	return check_rip(c, g->cs, g->off);
}

static bool read_call_gate(struct x86_cpu *c, u16 sel, u64 d, struct call_gate *g, bool jump)
{
	u32 cpl = x86_cpl(c), rpl = sel & SEL_RPL;
	u64 high;

	if (!is_call_gate(c, d) || desc_dpl(d) < (cpl > rpl ? cpl : rpl))
		return gp_sel(c, sel);
	if (!desc_present(d))
		return x86_raise_err(c, VEC_NP, SEL_ERR(sel));
	if (!x86_desc_read_high(c, sel, &high, VEC_GP, 0))
		return false;
	g->sel = (u16)gate_sel(d);
	g->size = x86_long_mode(c) ? 8 : desc_type(d) == SYS_CALL ? 4 : 2;
	g->off = trim(gate_off32(d) | high << 32, g->size);
	g->params = x86_long_mode(c) ? 0 : (u32)(d >> 32) & 31;
	return check_gate_target(c, g, jump);
}

/* Parameters are copied from the old stack in the order that keeps them in place. */
static bool copy_params(struct x86_stack *to, const struct x86_stack *from, u32 n)
{
	for (u32 i = n; i-- > 0;) {
		struct x86_stack at = *from;
		u64 v;

		x86_stack_skip(&at, i * from->size);
		if (!x86_pop(&at, &v) || !x86_push(to, v))
			return false;
	}
	return true;
}

static bool call_inner(struct x86_cpu *c, const struct call_gate *g, u64 next_rip)
{
	struct x86_stack from, to;
	struct x86_seg ss;
	u64 sp;

	if (!x86_tss_stack(c, g->cpl, &ss, &sp, 0))
		return false;
	x86_stack_current(&from, c, g->size);
	x86_stack_other(&to, c, &ss, sp, g->size, 0);
	if (!x86_push(&to, c->seg[SEG_SS].sel) || !x86_push(&to, c->gpr[R_RSP]) || !copy_params(&to, &from, g->params) ||
	    !x86_push(&to, c->seg[SEG_CS].sel) || !x86_push(&to, next_rip))
		return false;
	if (!set_cs(c, g->sel, g->cs, g->cpl, g->off))
		return false;
	c->seg[SEG_SS] = ss;
	c->gpr[R_RSP] = to.sp;
	x86_notify_mode(c);
	return true;
}

static bool call_gate(struct x86_cpu *c, u16 sel, u64 d, u64 next_rip)
{
	struct call_gate g;
	struct x86_stack s;

	if (!read_call_gate(c, sel, d, &g, false))
		return false;
	if (g.cpl != x86_cpl(c))
		return call_inner(c, &g, next_rip);
	x86_stack_current(&s, c, g.size);
	if (!x86_push(&s, c->seg[SEG_CS].sel) || !x86_push(&s, next_rip) || !set_cs(c, g.sel, g.cs, g.cpl, g.off))
		return false;
	c->gpr[R_RSP] = s.sp;
	return true;
}

/* ---- JMP and CALL ---- */

static bool far_jump_real(struct x86_cpu *c, u16 sel, u64 off)
{
	if (off > c->seg[SEG_CS].limit)
		return x86_raise_err(c, VEC_GP, 0);
	set_real_cs(c, sel, off);
	return true;
}

bool x86_far_jump(struct x86_cpu *c, u16 sel, u64 off, u32 size, u64 next_rip)
{
	struct call_gate g;
	u64 d;

	off = trim(off, size);
	if (x86_real_or_v86(c))
		return far_jump_real(c, sel, off);
	if (sel_null(sel))
		return x86_raise_err(c, VEC_GP, 0);
	if (!x86_desc_read(c, sel, &d, VEC_GP, 0))
		return false;
	if (desc_is_code(d))
		return check_direct(c, sel, d) && check_rip(c, d, off) && set_cs(c, sel, d, x86_cpl(c), off);
	if (x86_is_task(c, d))
		return x86_task_transfer(c, sel, d, TASK_JUMP, next_rip);
	return read_call_gate(c, sel, d, &g, true) && set_cs(c, g.sel, g.cs, x86_cpl(c), g.off);
}

static bool far_call_real(struct x86_cpu *c, u16 sel, u64 off, u32 size, u64 next_rip)
{
	struct x86_stack s;

	if (off > c->seg[SEG_CS].limit)
		return x86_raise_err(c, VEC_GP, 0);
	x86_stack_current(&s, c, size);
	if (!x86_push(&s, c->seg[SEG_CS].sel) || !x86_push(&s, next_rip))
		return false;
	c->gpr[R_RSP] = s.sp;
	set_real_cs(c, sel, off);
	return true;
}

static bool far_call_direct(struct x86_cpu *c, u16 sel, u64 d, u64 off, u32 size, u64 next_rip)
{
	struct x86_stack s;

	if (!check_direct(c, sel, d) || !check_rip(c, d, off))
		return false;
	x86_stack_current(&s, c, size);
	if (!x86_push(&s, c->seg[SEG_CS].sel) || !x86_push(&s, next_rip) || !set_cs(c, sel, d, x86_cpl(c), off))
		return false;
	c->gpr[R_RSP] = s.sp;
	return true;
}

bool x86_far_call(struct x86_cpu *c, u16 sel, u64 off, u32 size, u64 next_rip)
{
	u64 d;

	off = trim(off, size);
	if (x86_real_or_v86(c))
		return far_call_real(c, sel, off, size, next_rip);
	if (sel_null(sel))
		return x86_raise_err(c, VEC_GP, 0);
	if (!x86_desc_read(c, sel, &d, VEC_GP, 0))
		return false;
	if (desc_is_code(d))
		return far_call_direct(c, sel, d, off, size, next_rip);
	return x86_is_task(c, d) ? x86_task_transfer(c, sel, d, TASK_CALL, next_rip) : call_gate(c, sel, d, next_rip);
}

/* ---- RET ---- */

bool x86_check_return_cs(struct x86_cpu *c, u16 sel, u64 rip, u64 *d)
{
	u32 rpl = sel & SEL_RPL;

	if (sel_null(sel))
		return x86_raise_err(c, VEC_GP, 0);
	if (!x86_desc_read(c, sel, d, VEC_GP, 0))
		return false;
	if (!desc_is_code(*d) || rpl < x86_cpl(c) || (desc_conforming(*d) ? desc_dpl(*d) > rpl : desc_dpl(*d) != rpl))
		return gp_sel(c, sel);
	if (x86_long_mode(c) && desc_l_and_d(*d))
		return gp_sel(c, sel);
	if (!desc_present(*d))
		return x86_raise_err(c, VEC_NP, SEL_ERR(sel));
	return check_rip(c, *d, rip);
}

bool x86_check_return_ss(struct x86_cpu *c, u16 sel, u32 new_cpl, bool to64, u64 *d)
{
	if (sel_null(sel)) {
		*d = 0;
		if (!to64 || new_cpl == 3 || (sel & SEL_RPL) != new_cpl)
			return x86_raise_err(c, VEC_GP, 0);
		return true;
	}
	if (!x86_desc_read(c, sel, d, VEC_GP, 0))
		return false;
	if ((sel & SEL_RPL) != new_cpl || !desc_is_stack(*d) || desc_dpl(*d) != new_cpl)
		return gp_sel(c, sel);
	if (!desc_present(*d))
		return x86_raise_err(c, VEC_SS, SEL_ERR(sel));
	return x86_desc_set_type_bit(c, sel, d, TYPE_ACCESSED);
}

static bool far_ret_real(struct x86_cpu *c, const struct x86_stack *s, u64 rip, u64 cs)
{
	if (rip > c->seg[SEG_CS].limit)
		return x86_raise_err(c, VEC_GP, 0);
	c->gpr[R_RSP] = s->sp;
	set_real_cs(c, (u16)cs, rip);
	return true;
}

struct ret_frame {
	u64 code[2];  /* RIP, CS */
	u64 stack[2]; /* RSP, SS, behind the bytes to pop */
};

/* All of the frame that this return uses. *s is advanced behind it and the bytes to pop; *outer tells whether it includes the stack. */
static bool pop_ret_frame(struct x86_cpu *c, struct x86_stack *s, struct ret_frame *f, u16 pop_bytes, bool *outer)
{
	if (!x86_pop_frame(s, f->code, 2))
		return false;
	*outer = !x86_real_or_v86(c) && x86_pops_stack(c, f->code[1]);
	x86_stack_skip(s, pop_bytes);
	return !*outer || x86_pop_frame(s, f->stack, 2);
}

static bool far_ret_outer(struct x86_cpu *c, struct x86_stack *s, const struct ret_frame *f, u64 cs_desc, u16 pop_bytes)
{
	u16 cs = (u16)f->code[1], ss = (u16)f->stack[1];
	u32 new_cpl = cs & SEL_RPL;
	u64 d;

	if (!x86_check_return_ss(c, ss, new_cpl, x86_long_mode(c) && desc_is_code64(cs_desc), &d) ||
	    !set_cs(c, cs, cs_desc, new_cpl, f->code[0]))
		return false;
	if (sel_null(ss))
		x86_seg_null(&c->seg[SEG_SS], ss, new_cpl);
	else
		x86_seg_from_desc(&c->seg[SEG_SS], ss, d);
	x86_set_return_sp(c, f->stack[0]);
	x86_stack_current(s, c, s->size);
	x86_stack_skip(s, pop_bytes);
	c->gpr[R_RSP] = s->sp;
	x86_drop_data_segs(c);
	x86_notify_mode(c);
	return true;
}

bool x86_far_ret(struct x86_cpu *c, u32 size, u16 pop_bytes)
{
	struct ret_frame f;
	struct x86_stack s;
	bool outer;
	u64 d;

	x86_stack_current(&s, c, size);
	if (!pop_ret_frame(c, &s, &f, pop_bytes, &outer))
		return false;
	if (x86_real_or_v86(c))
		return far_ret_real(c, &s, f.code[0], f.code[1]);
	if (!x86_check_return_cs(c, (u16)f.code[1], f.code[0], &d))
		return false;
	if (outer)
		return far_ret_outer(c, &s, &f, d, pop_bytes);
	if (!set_cs(c, (u16)f.code[1], d, x86_cpl(c), f.code[0]))
		return false;
	c->gpr[R_RSP] = s.sp;
	return true;
}
