/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pushes and pops of far transfers, on the current stack or on one that a gate switches to, and the stacks a TSS offers.
 * Source: SDM vol. 3, 5.8.5, 7.2, 7.7.
 * Threading: the vCPU's thread. Nothing is committed: the caller writes sp back when all went well.
 */
#include "x86/internal.h"

static u64 stack_mask(const struct x86_stack *s)
{
	if (s->flat)
		return ~0ull;
	return s->ss.attr & SEGA_DB ? 0xffffffff : 0xffff;
}

void x86_stack_current(struct x86_stack *s, struct x86_cpu *c, u32 size)
{
	s->c = c;
	s->ss = c->seg[SEG_SS];
	s->sp = c->gpr[R_RSP];
	s->size = size;
	s->acc = x86_acc(c, 0);
	s->ext = 0;
	s->flat = x86_code64(c);
	s->mask = stack_mask(s);
}

void x86_stack_other(struct x86_stack *s, struct x86_cpu *c, const struct x86_seg *ss, u64 sp, u32 size, u32 ext)
{
	s->c = c;
	s->ss = *ss;
	s->sp = sp;
	s->size = size;
	s->acc = (ss->attr & SEGA_DPL) == SEGA_DPL ? ACC_USER : 0;
	s->ext = ext;
	s->flat = x86_long_mode(c);
	s->mask = stack_mask(s);
}

void x86_stack_skip(struct x86_stack *s, u64 bytes)
{
	u64 sp = (s->sp + bytes) & s->mask;

	/* A 16-bit stack pointer leaves the rest of ESP alone, a 32-bit one zero-extends. */
	s->sp = s->mask == 0xffff ? (s->sp & ~0xffffull) | sp : sp;
}

static bool slot_address(struct x86_stack *s, u64 sp, gva_t *a)
{
	bool fits = s->flat ? x86_canonical(sp) : !(s->ss.attr & SEGA_UNUSABLE) && x86_in_limit(&s->ss, sp, s->size);

	*a = s->flat ? sp : (u32)(s->ss.base + sp);
	return fits || x86_raise_err(s->c, VEC_SS, s->ext);
}

bool x86_push(struct x86_stack *s, u64 val)
{
	gva_t a;

	if (!slot_address(s, (s->sp - s->size) & s->mask, &a) || !x86_write_val(s->c, a, s->size, val, s->acc))
		return false;
	x86_stack_skip(s, -(u64)s->size);
	return true;
}

bool x86_pop(struct x86_stack *s, u64 *val)
{
	gva_t a;

	if (!slot_address(s, s->sp & s->mask, &a) || !x86_read_val(s->c, a, s->size, val, s->acc))
		return false;
	x86_stack_skip(s, s->size);
	return true;
}

/* The slot `at` slots above the top. */
static bool peek(const struct x86_stack *s, u32 at, u64 *val)
{
	struct x86_stack there = *s;

	x86_stack_skip(&there, (u64)at * s->size);
	return x86_pop(&there, val);
}

bool x86_pop_frame(struct x86_stack *s, u64 *to, u32 n)
{
	bool down = x86_is_amd(s->c);

	for (u32 i = 0; i < n; i++) {
		u32 at = down ? n - 1 - i : i;

		if (!peek(s, at, &to[at]))
			return false;
	}
	x86_stack_skip(s, (u64)n * s->size);
	return true;
}

bool x86_pops_stack(const struct x86_cpu *c, u64 cs)
{
	u32 rpl = cs & SEL_RPL, cpl = x86_cpl(c);

	return x86_is_amd(c) ? rpl != cpl : rpl > cpl;
}

void x86_set_return_sp(struct x86_cpu *c, u64 sp)
{
	if (!x86_code64(c))
		sp = c->seg[SEG_SS].attr & SEGA_DB ? (u32)sp : (c->gpr[R_RSP] & ~0xffffull) | (u16)sp;
	c->gpr[R_RSP] = sp;
}

bool x86_tss_read(struct x86_cpu *c, u32 off, u32 size, u64 *val, u32 ext)
{
	if (c->tr.attr & SEGA_UNUSABLE || off + size - 1 > c->tr.limit)
		return x86_raise_err(c, VEC_TS, SEL_ERR(c->tr.sel) | ext);
	return x86_read_val(c, c->tr.base + off, size, val, ACC_READ | ACC_IMPLICIT);
}

bool x86_tss_rsp(struct x86_cpu *c, u32 offset, u64 *rsp, u32 ext)
{
	if (!x86_tss_read(c, offset, 8, rsp, ext))
		return false;
	return x86_canonical(*rsp) || x86_raise_err(c, VEC_SS, ext);
}

static bool check_new_ss(struct x86_cpu *c, u16 sel, u32 dpl, struct x86_seg *ss, u32 ext)
{
	u64 d;

	if (sel_null(sel))
		return x86_raise_err(c, VEC_TS, ext);
	if (!x86_desc_read(c, sel, &d, VEC_TS, ext))
		return false;
	if ((sel & SEL_RPL) != dpl || desc_dpl(d) != dpl || !desc_is_stack(d))
		return x86_raise_err(c, VEC_TS, SEL_ERR(sel) | ext);
	if (!desc_present(d))
		return x86_raise_err(c, VEC_SS, SEL_ERR(sel) | ext);
	if (!x86_desc_set_type_bit(c, sel, &d, TYPE_ACCESSED))
		return false;
	x86_seg_from_desc(ss, sel, d);
	return true;
}

bool x86_tss_stack(struct x86_cpu *c, u32 dpl, struct x86_seg *ss, u64 *sp, u32 ext)
{
	bool wide = (c->tr.attr & SEGA_TYPE) >= SYS_TSS;
	u32 size = wide ? 4 : 2;
	u32 off = wide ? 4 + dpl * 8 : 2 + dpl * 4;
	u64 sel;

	if (x86_long_mode(c)) {
		x86_seg_null(ss, (u16)dpl, dpl);
		return x86_tss_rsp(c, 4 + dpl * 8, sp, ext);
	}
	return x86_tss_read(c, off, size, sp, ext) && x86_tss_read(c, off + size, 2, &sel, ext) && check_new_ss(c, (u16)sel, dpl, ss, ext);
}
