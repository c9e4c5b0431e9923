/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IRET in every mode, and which flags POPF and IRET may change. From 64-bit code the frame is read in one piece: that is the way back from
 * every interrupt and page fault. The return from a nested task is task.c's. Source: SDM vol. 2, IRET and POPF; vol. 3, 6.14.3, 20.2.
 * Threading: the vCPU's thread.
 */
#include "x86/internal.h"

#define FLAGS_USER (FL_ARITH | FL_TF | FL_DF | FL_NT | FL_AC | FL_ID)
#define FLAGS_WIDTH(size) ((u32)x86_size_mask((size) < 4 ? 2 : 4))

/* Bits that code at CPL/IOPL may change by POPF and IRET; VIF and VIP need VME, which is not announced. */
static u32 changeable(const struct x86_cpu *c)
{
	u32 cpl = x86_cpl(c), iopl = (c->rflags & FL_IOPL) >> FL_IOPL_SHIFT;

	return FLAGS_USER | (cpl <= iopl ? FL_IF : 0) | (cpl == 0 ? FL_IOPL : 0);
}

static void merge_flags(struct x86_cpu *c, u64 val, u32 mask)
{
	c->rflags = ((c->rflags & ~(u64)mask) | (val & mask) | FL_ONE);
}

bool x86_set_flags(struct x86_cpu *c, u64 val, u32 size)
{
	if (x86_v86(c) && (c->rflags & FL_IOPL) != FL_IOPL)
		return x86_raise_err(c, VEC_GP, 0);
	/* In virtual-8086 mode x86_cpl is 3, so IOPL stays and IF may change. */
	merge_flags(c, val & ~(u64)FL_RF, (changeable(c) | FL_RF) & (FLAGS_WIDTH(size) | FL_RF));
	return true;
}

/* The slots of a frame. */
enum { F_RIP, F_CS, F_FLAGS, F_SP, F_SS, F_SLOTS };

static void iret_flags(struct x86_cpu *c, u64 flags, u32 size, u32 mask)
{
	merge_flags(c, flags, (mask | FL_RF) & FLAGS_WIDTH(size));
}

/* ---- real and virtual-8086 mode ---- */

static bool iret_real(struct x86_cpu *c, u32 size)
{
	struct x86_stack s;
	u64 f[F_SLOTS];

	if (x86_v86(c) && (c->rflags & FL_IOPL) != FL_IOPL)
		return x86_raise_err(c, VEC_GP, 0);
	x86_stack_current(&s, c, size);
	if (!x86_pop_frame(&s, f, F_SP))
		return false;
	if (f[F_RIP] > c->seg[SEG_CS].limit)
		return x86_raise_err(c, VEC_GP, 0);
	iret_flags(c, f[F_FLAGS], size, changeable(c));
	c->gpr[R_RSP] = s.sp;
	c->rip = f[F_RIP];
	c->seg[SEG_CS].sel = (u16)f[F_CS];
	c->seg[SEG_CS].base = (f[F_CS] & 0xffff) << 4;
	return true;
}

static bool iret_to_v86(struct x86_cpu *c, struct x86_stack *s, const u64 *f)
{
	static const u8 order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
	u64 sp, sel[ARRAY_SIZE(order)];

	if (f[F_RIP] > 0xffff)
		return x86_raise_err(c, VEC_GP, 0);
	if (!x86_pop(s, &sp))
		return false;
	for (u32 i = 0; i < ARRAY_SIZE(order); i++)
		if (!x86_pop(s, &sel[i]))
			return false;
	iret_flags(c, f[F_FLAGS], 4, FLAGS_USER | FL_IF | FL_IOPL | FL_VM);
	for (u32 i = 0; i < ARRAY_SIZE(order); i++)
		x86_seg_v86(&c->seg[order[i]], (u16)sel[i]);
	x86_seg_v86(&c->seg[SEG_CS], (u16)f[F_CS]);
	c->gpr[R_RSP] = (u32)sp;
	c->rip = f[F_RIP];
	x86_notify_mode(c);
	return true;
}

/* ---- protected and long mode ---- */

/* The frame of 64-bit code at once. */
static bool read_whole_frame(struct x86_cpu *c, const struct x86_stack *s, u64 *f)
{
	const u32 size = F_SLOTS * sizeof(*f);

	if (x86_canonical(s->sp) && x86_canonical(s->sp + size - 1) && x86_read(c, s->sp, f, size, s->acc))
		return true;
	c->fault.pending = false; /* whoever goes slot by slot raises what is due first */
	return false;
}

static bool returns_to_v86(const struct x86_cpu *c, u32 size, const u64 *f)
{
	return !x86_long_mode(c) && size == 4 && f[F_FLAGS] & FL_VM && x86_cpl(c) == 0;
}

/* All of the frame that this return uses. `stack` tells whether it includes SS:RSP; *s is advanced behind it, unless it was read at once. */
static bool pop_iret_frame(struct x86_cpu *c, struct x86_stack *s, u64 *f, bool *stack)
{
	*stack = true;
	if (s->flat && s->size == 8 && read_whole_frame(c, s, f))
		return true;
	if (!x86_pop_frame(s, f, F_SP))
		return false;
	*stack = s->flat || (!returns_to_v86(c, s->size, f) && x86_pops_stack(c, f[F_CS]));
	return !*stack || x86_pop_frame(s, f + F_SP, 2);
}

static bool iret_return(struct x86_cpu *c, const struct x86_stack *s, const u64 *f, bool stack)
{
	u16 cs = (u16)f[F_CS], ss = (u16)f[F_SS];
	u32 cpl = x86_cpl(c), new_cpl = cs & SEL_RPL, mask = changeable(c);
	u32 old_cs = c->seg[SEG_CS].attr, old_ss = c->seg[SEG_SS].attr;
	u64 cs_desc, ss_desc = 0;

	if (!x86_check_return_cs(c, cs, f[F_RIP], &cs_desc))
		return false;
	if (stack && !x86_check_return_ss(c, ss, new_cpl, x86_long_mode(c) && desc_is_code64(cs_desc), &ss_desc))
		return false;
	if (!x86_desc_set_type_bit(c, cs, &cs_desc, TYPE_ACCESSED))
		return false;
	x86_seg_from_desc(&c->seg[SEG_CS], cs, cs_desc);
	c->rip = f[F_RIP];
	iret_flags(c, f[F_FLAGS], s->size, mask);
	if (!stack) {
		c->gpr[R_RSP] = s->sp;
	} else {
		if (sel_null(ss))
			x86_seg_null(&c->seg[SEG_SS], ss, new_cpl);
		else
			x86_seg_from_desc(&c->seg[SEG_SS], ss, ss_desc);
		x86_set_return_sp(c, f[F_SP]);
	}
	if (new_cpl != cpl)
		x86_drop_data_segs(c);
	if (old_cs != c->seg[SEG_CS].attr || old_ss != c->seg[SEG_SS].attr)
		x86_notify_mode(c);
	return true;
}

static bool iret_protected(struct x86_cpu *c, u32 size, u64 next_rip)
{
	struct x86_stack s;
	u64 f[F_SLOTS];
	bool stack;

	if (c->rflags & FL_NT)
		return x86_long_mode(c) ? x86_raise_err(c, VEC_GP, 0) : x86_task_return(c, next_rip);
	x86_stack_current(&s, c, size);
	if (!pop_iret_frame(c, &s, f, &stack))
		return false;
	if (returns_to_v86(c, size, f))
		return iret_to_v86(c, &s, f);
	return iret_return(c, &s, f, stack);
}

bool x86_iret(struct x86_cpu *c, u32 size, u64 next_rip)
{
	bool ok;

	x86_serialise();
	c->task_switched = false;
	ok = x86_real_or_v86(c) ? iret_real(c, size) : iret_protected(c, size, next_rip);
	if (ok || c->task_switched)
		c->nmi_blocked = false;
	return ok;
}
