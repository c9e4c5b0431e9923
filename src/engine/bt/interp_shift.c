/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shifts and rotates, also double-width and the flagless BMI2 forms.
 *
 * A masked count of zero leaves all flags alone. What the manuals leave undefined, AF after shifts and OF for counts above one, is as AMD's
 * Zen CPUs have it: AF set, OF by the formula for one.
 * Threading: the vCPU's thread.
 */
#include "engine/bt/interp_private.h"

static u32 masked_count(const struct interp_alu *x)
{
	return (u32)x->b & (x->bits == 64 ? 63 : 31);
}

static u64 set_shift_flags(struct interp_alu *x, u64 r, u64 cf, u64 of)
{
	x->flags = (x->flags & ~(u64)FL_ARITH) | interp_flags_szp(r, x->bits) | FL_AF | (cf & 1) | (of & 1) << 11;
	return r;
}

static u64 set_rotate_flags(struct interp_alu *x, u64 r, u64 cf, u64 of)
{
	x->flags = (x->flags & ~(u64)(FL_CF | FL_OF)) | (cf & 1) | (of & 1) << 11;
	return r;
}

static u64 msb(const struct interp_alu *x, u64 v)
{
	return (v >> (x->bits - 1)) & 1;
}

static u64 alu_shl(struct interp_alu *x)
{
	u32 n = masked_count(x);
	u64 r, cf;

	if (!n)
		return x->a;
	r = (x->a << n) & interp_mask(x->bits);
	cf = n <= x->bits ? x->a >> (x->bits - n) : 0;
	return set_shift_flags(x, r, cf, msb(x, r) ^ (cf & 1));
}

static u64 alu_shr(struct interp_alu *x)
{
	u32 n = masked_count(x);
	u64 r;

	if (!n)
		return x->a;
	r = x->a >> n;
	/* OF after one step: the old top bit; the same as top bit xor next one of the result. */
	return set_shift_flags(x, r, x->a >> (n - 1), n == 1 ? msb(x, x->a) : 0);
}

static u64 alu_sar(struct interp_alu *x)
{
	u32 n = masked_count(x);
	i64 a = (i64)interp_sext(x->a, x->bits);
	u64 r;

	if (!n)
		return x->a;
	r = (u64)(a >> n);
	return set_shift_flags(x, r & interp_mask(x->bits), (u64)(a >> (n - 1)), 0);
}

static u64 alu_rol(struct interp_alu *x)
{
	u32 n = masked_count(x), k = n % x->bits;
	u64 r = x->a;

	if (!n)
		return r;
	if (k)
		r = ((x->a << k) | (x->a >> (x->bits - k))) & interp_mask(x->bits);
	return set_rotate_flags(x, r, r, msb(x, r) ^ (r & 1));
}

static u64 alu_ror(struct interp_alu *x)
{
	u32 n = masked_count(x), k = n % x->bits;
	u64 r = x->a;

	if (!n)
		return r;
	if (k)
		r = ((x->a >> k) | (x->a << (x->bits - k))) & interp_mask(x->bits);
	return set_rotate_flags(x, r, msb(x, r), msb(x, r) ^ msb(x, r << 1));
}

/* Through carry: a rotation of bits + 1 bits. */
static u64 rotate_carry(struct interp_alu *x, bool left)
{
	u32 n = masked_count(x) % (x->bits + 1);
	unsigned __int128 wide = (unsigned __int128)(x->flags & FL_CF) << x->bits | x->a;
	unsigned __int128 mask = ((unsigned __int128)1 << (x->bits + 1)) - 1;
	u64 r, cf;

	if (!n)
		return x->a;
	if (!left)
		n = x->bits + 1 - n;
	wide = ((wide << n) | (wide >> (x->bits + 1 - n))) & mask;
	r = (u64)wide & interp_mask(x->bits);
	cf = (u64)(wide >> x->bits) & 1;
	return set_rotate_flags(x, r, cf, left ? msb(x, r) ^ cf : msb(x, r) ^ msb(x, r << 1));
}

static u64 alu_rcl(struct interp_alu *x)
{
	return rotate_carry(x, true);
}
static u64 alu_rcr(struct interp_alu *x)
{
	return rotate_carry(x, false);
}

/* SHLD: a is shifted left, bits of c come in. Counts above a 16-bit operand's width are undefined; here, as on Zen, c comes in again, CF is
 * clear, and the OF of SHLD no longer sees the result. */
static u64 alu_shld(struct interp_alu *x)
{
	u32 n = masked_count(x);
	u64 r, cf;

	if (!n)
		return x->a;
	cf = n <= x->bits ? x->a >> (x->bits - n) & 1 : 0;
	if (x->bits == 16)
		r = (x->a << 32 | x->c << 16 | x->c) << n >> 32 & 0xffff;
	else
		r = ((x->a << n) | (x->c >> (x->bits - n))) & interp_mask(x->bits);
	return set_shift_flags(x, r, cf, cf ^ (n < x->bits ? msb(x, r) : 0));
}

static u64 alu_shrd(struct interp_alu *x)
{
	u32 n = masked_count(x);
	u64 r, cf;

	if (!n)
		return x->a;
	cf = n <= x->bits ? x->a >> (n - 1) & 1 : 0;
	if (x->bits == 16)
		r = (x->c << 32 | x->c << 16 | x->a) >> n & 0xffff;
	else
		r = ((x->a >> n) | (x->c << (x->bits - n))) & interp_mask(x->bits);
	return set_shift_flags(x, r, cf, msb(x, r) ^ msb(x, r << 1));
}

static bool op_shift(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	struct interp_alu x = {0};

	return interp_get(in, c, i, 1, &x.b) && interp_modify(in, c, i, &x, i->row->alu, false);
}

static bool op_double_shift(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	struct interp_alu x = {.c = interp_get_gpr(c, &i->op[1])};

	return interp_get(in, c, i, 2, &x.b) && interp_modify(in, c, i, &x, i->row->alu, false);
}

/* RORX, SARX, SHLX, SHRX: three operands, no flags. */
static bool op_shiftx(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	struct interp_alu x = {.bits = i->op[0].size * 8u};

	if (!interp_get(in, c, i, 1, &x.a) || !interp_get(in, c, i, 2, &x.b))
		return false;
	interp_set_gpr(c, &i->op[0], i->row->alu(&x));
	return true;
}

#define M(n) ZYDIS_MNEMONIC_##n
static const struct interp_row rows[] = {
	{.mnemonic = M(SHL), .run = op_shift, .alu = alu_shl},		{.mnemonic = M(SHR), .run = op_shift, .alu = alu_shr},
	{.mnemonic = M(SAR), .run = op_shift, .alu = alu_sar},		{.mnemonic = M(ROL), .run = op_shift, .alu = alu_rol},
	{.mnemonic = M(ROR), .run = op_shift, .alu = alu_ror},		{.mnemonic = M(RCL), .run = op_shift, .alu = alu_rcl},
	{.mnemonic = M(RCR), .run = op_shift, .alu = alu_rcr},		{.mnemonic = M(SHLD), .run = op_double_shift, .alu = alu_shld},
	{.mnemonic = M(SHRD), .run = op_double_shift, .alu = alu_shrd}, {.mnemonic = M(RORX), .run = op_shiftx, .alu = alu_ror},
	{.mnemonic = M(SARX), .run = op_shiftx, .alu = alu_sar},	{.mnemonic = M(SHLX), .run = op_shiftx, .alu = alu_shl},
	{.mnemonic = M(SHRX), .run = op_shiftx, .alu = alu_shr},
};

const struct interp_rows interp_rows_shift = {rows, ARRAY_SIZE(rows)};
