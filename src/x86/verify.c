/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Questions about rights that never fault by themselves: LAR, LSL, VERR, VERW; and the I/O permission check.
 * Source: SDM vol. 2, the instructions' pages; vol. 3, 5.10; vol. 1, 19.5.
 * Threading: the vCPU's thread.
 */
#include "x86/internal.h"

/* The descriptor, or false when the selector names none. A page fault on the table stays recorded: that one the instruction does raise. */
static bool descriptor(struct x86_cpu *c, u16 sel, u64 *d)
{
	if (sel_null(sel))
		return false;
	if (x86_desc_read(c, sel, d, VEC_GP, 0))
		return true;
	if (c->fault.vector != VEC_PF)
		c->fault.pending = false;
	return false;
}

static bool visible(const struct x86_cpu *c, u16 sel, u64 d)
{
	u32 cpl = x86_cpl(c), rpl = sel & SEL_RPL;

	if (desc_is_code(d) && desc_conforming(d))
		return true;
	return desc_dpl(d) >= (cpl > rpl ? cpl : rpl);
}

/* System types that LAR and LSL accept, as bit sets: SDM vol. 2, tables 3-53 and 3-56. */
#define LAR_LEGACY 0x1a3eu /* 1-5, 9, 11, 12 */
#define LAR_LONG 0x1a04u   /* 2, 9, 11, 12 */
#define LSL_LEGACY 0x0a0eu /* 1-3, 9, 11 */
#define LSL_LONG 0x0a04u   /* 2, 9, 11 */

static bool type_accepted(const struct x86_cpu *c, u64 d, u32 legacy, u32 in_long)
{
	if (d >> 40 & SEGA_S)
		return true;
	return (x86_long_mode(c) ? in_long : legacy) >> desc_type(d) & 1;
}

bool x86_lar(struct x86_cpu *c, u16 sel, u32 *out)
{
	u64 d;

	if (!descriptor(c, sel, &d) || !type_accepted(c, d, LAR_LEGACY, LAR_LONG) || !visible(c, sel, d))
		return false;
	*out = (u32)(d >> 32) & 0x00ffff00;
	return true;
}

bool x86_lsl(struct x86_cpu *c, u16 sel, u32 *out)
{
	u64 d;

	if (!descriptor(c, sel, &d) || !type_accepted(c, d, LSL_LEGACY, LSL_LONG) || !visible(c, sel, d))
		return false;
	*out = desc_limit(d);
	return true;
}

bool x86_verify(struct x86_cpu *c, u16 sel, bool write)
{
	u64 d;

	if (!descriptor(c, sel, &d) || !(d >> 40 & SEGA_S) || !visible(c, sel, d))
		return false;
	if (write)
		return desc_is_stack(d);
	return desc_is_data(d) || d >> 40 & TYPE_RW;
}

static bool bitmap_allows(struct x86_cpu *c, u16 port, u32 size)
{
	u64 base, bits;
	u32 off;

	if ((c->tr.attr & SEGA_TYPE) < SYS_TSS || c->tr.attr & SEGA_UNUSABLE || c->tr.limit < 0x67)
		return false;
	if (!x86_read_val(c, c->tr.base + 0x66, 2, &base, ACC_READ | ACC_IMPLICIT))
		return false;
	off = (u32)base + port / 8u;
	if (off + 1 > c->tr.limit || !x86_read_val(c, c->tr.base + off, 2, &bits, ACC_READ | ACC_IMPLICIT))
		return false;
	return !(bits >> (port & 7) & ((1u << size) - 1));
}

bool x86_io_allowed(struct x86_cpu *c, u16 port, u32 size)
{
	if (!x86_protected(c))
		return true;
	if (!x86_v86(c) && x86_cpl(c) <= (c->rflags & FL_IOPL) >> FL_IOPL_SHIFT)
		return true;
	return bitmap_allows(c, port, size) || x86_raise_err(c, VEC_GP, 0);
}
