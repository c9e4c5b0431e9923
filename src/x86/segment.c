/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors, segment register loads, LDTR and TR, and the segment's part of every address.
 * Source: SDM vol. 3, 3.4 and 3.5, 5.3 to 5.6; vol. 2, MOV, LLDT, LTR.
 * Threading: the vCPU's thread.
 */
#include "x86/internal.h"

#define ACC_TABLE (ACC_READ | ACC_IMPLICIT)

/* Linear address of the descriptor's first byte when all `len` bytes are inside its table. */
static bool desc_address(const struct x86_cpu *c, u16 sel, u32 len, gva_t *addr)
{
	u32 off = sel & 0xfff8u;

	if (!(sel & SEL_TI)) {
		*addr = c->gdt.base + off;
		return off + len - 1 <= c->gdt.limit;
	}
	*addr = c->ldt.base + off;
	return !(c->ldt.attr & SEGA_UNUSABLE) && (u64)off + len - 1 <= c->ldt.limit;
}

bool x86_desc_read(struct x86_cpu *c, u16 sel, u64 *d, enum x86_vector v, u32 ext)
{
	gva_t addr;

	if (!desc_address(c, sel, 8, &addr))
		return x86_raise_err(c, v, SEL_ERR(sel) | ext);
	return x86_read_val(c, addr, 8, d, ACC_TABLE);
}

bool x86_desc_read_high(struct x86_cpu *c, u16 sel, u64 *high, enum x86_vector v, u32 ext)
{
	gva_t addr;

	*high = 0;
	if (!x86_long_mode(c))
		return true;
	if (!desc_address(c, sel, 16, &addr))
		return x86_raise_err(c, v, SEL_ERR(sel) | ext);
	if (!x86_read_val(c, addr + 8, 8, high, ACC_TABLE))
		return false;
	if (*high >> 40 & 0x1f)
		return x86_raise_err(c, v, SEL_ERR(sel) | ext);
	return true;
}

bool x86_desc_change_type(struct x86_cpu *c, u16 sel, u64 *d, u32 type, bool *done)
{
	u64 old, byte = *d >> 40 & 0xff, changed = (byte & ~(u64)SEGA_TYPE) | type;
	gva_t addr;

	*d ^= (byte ^ changed) << 40;
	desc_address(c, sel, 8, &addr);
	return x86_cmpxchg(c, addr + 5, 1, byte, changed, &old, done, ACC_IMPLICIT);
}

bool x86_desc_set_type_bit(struct x86_cpu *c, u16 sel, u64 *d, u32 bit)
{
	bool done;

	/* Not done: somebody rewrote the descriptor meanwhile; what was checked stays loaded. */
	return desc_type(*d) & bit || x86_desc_change_type(c, sel, d, desc_type(*d) | bit, &done);
}

static void load_real_seg(struct x86_cpu *c, struct x86_seg *s, u16 sel)
{
	if (x86_v86(c)) {
		x86_seg_v86(s, sel);
		return;
	}
	/* Limit and rights stay ("unreal mode"), unless protected mode left the register unusable. */
	if (s->attr & SEGA_UNUSABLE) {
		s->attr = SEGA_P | SEGA_S | TYPE_RW | TYPE_ACCESSED;
		s->limit = 0xffff;
	}
	s->sel = sel;
	s->base = (u64)sel << 4;
}

static bool check_stack_desc(struct x86_cpu *c, u16 sel, u64 d)
{
	u32 cpl = x86_cpl(c);

	if ((sel & SEL_RPL) != cpl || !desc_is_stack(d) || desc_dpl(d) != cpl)
		return x86_raise_err(c, VEC_GP, SEL_ERR(sel));
	if (!desc_present(d))
		return x86_raise_err(c, VEC_SS, SEL_ERR(sel));
	return true;
}

static bool check_data_desc(struct x86_cpu *c, u16 sel, u64 d)
{
	u32 rpl = sel & SEL_RPL, cpl = x86_cpl(c);
	bool readable = desc_is_data(d) || (desc_is_code(d) && d >> 40 & TYPE_RW);
	bool any_level = desc_is_code(d) && desc_conforming(d);

	if (!readable || (!any_level && desc_dpl(d) < (rpl > cpl ? rpl : cpl)))
		return x86_raise_err(c, VEC_GP, SEL_ERR(sel));
	if (!desc_present(d))
		return x86_raise_err(c, VEC_NP, SEL_ERR(sel));
	return true;
}

static bool load_null_seg(struct x86_cpu *c, u32 seg, u16 sel)
{
	u32 cpl = x86_cpl(c);

	if (seg == SEG_SS && (!x86_code64(c) || cpl == 3 || (sel & SEL_RPL) != cpl))
		return x86_raise_err(c, VEC_GP, 0);
	x86_seg_null(&c->seg[seg], sel, seg == SEG_SS ? cpl : 0);
	return true;
}

bool x86_load_seg(struct x86_cpu *c, u32 seg, u16 sel)
{
	struct x86_seg *s = &c->seg[seg];
	u32 old_attr = s->attr;
	u64 d;

	if (x86_real_or_v86(c)) {
		load_real_seg(c, s, sel);
	} else if (sel_null(sel)) {
		if (!load_null_seg(c, seg, sel))
			return false;
	} else {
		if (!x86_desc_read(c, sel, &d, VEC_GP, 0) || !(seg == SEG_SS ? check_stack_desc(c, sel, d) : check_data_desc(c, sel, d)) ||
		    !x86_desc_set_type_bit(c, sel, &d, TYPE_ACCESSED))
			return false;
		x86_seg_from_desc(s, sel, d);
	}
	if (seg == SEG_SS && s->attr != old_attr)
		x86_notify_mode(c);
	return true;
}

static bool may_load_system_segment(struct x86_cpu *c)
{
	if (x86_real_or_v86(c))
		return x86_raise(c, VEC_UD);
	return x86_cpl(c) == 0 || x86_raise_err(c, VEC_GP, 0);
}

/* A system descriptor of the GDT, with the upper half of its base. */
static bool read_system_desc(struct x86_cpu *c, u16 sel, u64 *d, u64 *high)
{
	if (sel & SEL_TI)
		return x86_raise_err(c, VEC_GP, SEL_ERR(sel));
	if (!x86_desc_read(c, sel, d, VEC_GP, 0) || !x86_desc_read_high(c, sel, high, VEC_GP, 0))
		return false;
	return true;
}

static bool load_system_seg(struct x86_cpu *c, struct x86_seg *s, u16 sel, u64 d, u64 high)
{
	u64 base = desc_base(d) | high << 32;

	if (!desc_present(d))
		return x86_raise_err(c, VEC_NP, SEL_ERR(sel));
	if (x86_long_mode(c) && !x86_canonical(base))
		return x86_raise_err(c, VEC_GP, SEL_ERR(sel));
	if (s == &c->tr && !x86_desc_set_type_bit(c, sel, &d, 2))
		return false;
	x86_seg_from_desc(s, sel, d);
	s->base = base;
	return true;
}

bool x86_lldt(struct x86_cpu *c, u16 sel)
{
	u64 d, high;

	if (!may_load_system_segment(c))
		return false;
	x86_serialise();
	if (sel_null(sel)) {
		x86_seg_null(&c->ldt, sel, 0);
		return true;
	}
	if (!read_system_desc(c, sel, &d, &high))
		return false;
	if (d >> 40 & SEGA_S || desc_type(d) != SYS_LDT)
		return x86_raise_err(c, VEC_GP, SEL_ERR(sel));
	return load_system_seg(c, &c->ldt, sel, d, high);
}

bool x86_ltr(struct x86_cpu *c, u16 sel)
{
	u64 d, high;

	if (!may_load_system_segment(c))
		return false;
	x86_serialise();
	if (sel_null(sel))
		return x86_raise_err(c, VEC_GP, 0);
	if (!read_system_desc(c, sel, &d, &high))
		return false;
	if (d >> 40 & SEGA_S || (desc_type(d) != SYS_TSS && (desc_type(d) != SYS_TSS16 || x86_long_mode(c))))
		return x86_raise_err(c, VEC_GP, SEL_ERR(sel));
	return load_system_seg(c, &c->tr, sel, d, high);
}

void x86_drop_data_segs(struct x86_cpu *c)
{
	static const u8 data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
	u32 cpl = x86_cpl(c);

	for (u32 i = 0; i < ARRAY_SIZE(data); i++) {
		struct x86_seg *s = &c->seg[data[i]];
		bool conforming = (s->attr & (TYPE_CODE | TYPE_DC)) == (TYPE_CODE | TYPE_DC);

		if (!(s->attr & SEGA_UNUSABLE) && (s->attr & SEGA_DPL) >> SEGA_DPL_SHIFT < cpl && !conforming) {
			u64 base = s->base;

			x86_seg_null(s, 0, 0);
			/* FS and GS bases of 64-bit code live apart from the selector. */
			if (x86_long_mode(c) && data[i] >= SEG_FS)
				s->base = base;
		}
	}
}

/* ---- addresses ---- */

static bool refuse(struct x86_cpu *c, u32 seg)
{
	return x86_raise_err(c, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
}

static bool linear64(struct x86_cpu *c, u32 seg, u64 off, u32 len, gva_t *out)
{
	u64 a = seg >= SEG_FS ? c->seg[seg].base + off : off;

	if (unlikely(!x86_canonical(a) || !x86_canonical(a + len - 1)))
		return refuse(c, seg);
	*out = a;
	return true;
}

static bool rights_allow(const struct x86_seg *s, u32 acc)
{
	u32 kind = s->attr & (TYPE_CODE | TYPE_RW);

	if (s->attr & SEGA_UNUSABLE)
		return false;
	return acc & ACC_WRITE ? kind == TYPE_RW : kind != TYPE_CODE;
}

bool x86_linear(struct x86_cpu *c, u32 seg, u64 off, u32 len, u32 acc, gva_t *out)
{
	const struct x86_seg *s = &c->seg[seg];

	if (x86_code64(c))
		return linear64(c, seg, off, len, out);
	if (!x86_real_or_v86(c) && !(acc & ACC_FETCH) && !rights_allow(s, acc))
		return s->attr & SEGA_UNUSABLE ? x86_raise_err(c, VEC_GP, 0) : refuse(c, seg);
	if (!x86_in_limit(s, off, len))
		return refuse(c, seg);
	*out = (u32)(s->base + off);
	return true;
}
