/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiplication, division and the decimal adjustments.
 *
 * Flags that the manuals leave undefined are as AMD's Zen CPUs have them: unchanged after multiplications; AF set, PF, ZF and SF clear
 * after divisions. Threading: the vCPU's thread.
 */
#include "engine/bt/interp_private.h"

typedef unsigned __int128 u128;
typedef __int128 i128;

static void set_cf_of(struct x86_cpu *c, bool overflow)
{
	c->rflags &= ~(u64)(FL_CF | FL_OF);
	if (overflow)
		c->rflags |= FL_CF | FL_OF;
}

/* The double-width result of a multiplication: AX, or rDX:rAX. */
static void store_product(struct x86_cpu *c, u32 size, u64 lo, u64 hi)
{
	if (size == 1) {
		interp_set_reg(c, R_RAX, 2, (lo & 0xff) | hi << 8);
		return;
	}
	interp_set_reg(c, R_RAX, size, lo);
	interp_set_reg(c, R_RDX, size, hi);
}

static bool op_mul(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 size = i->op[0].size, bits = size * 8;
	u64 v, hi;
	u128 p;

	if (!interp_get(in, c, i, 0, &v))
		return false;
	p = (u128)interp_reg(c, R_RAX, size) * v;
	hi = (u64)(p >> bits);
	store_product(c, size, (u64)p, hi);
	set_cf_of(c, hi != 0);
	return true;
}

static bool imul_wide(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 size = i->op[0].size, bits = size * 8;
	u64 v;
	i128 p;

	if (!interp_get(in, c, i, 0, &v))
		return false;
	p = (i128)(i64)interp_sext(c->gpr[R_RAX], bits) * (i64)interp_sext(v, bits);
	store_product(c, size, (u64)p, (u64)(p >> bits));
	set_cf_of(c, p != (i64)interp_sext((u64)p, bits));
	return true;
}

/* One operand: wide; two: op0 *= op1; three: op0 = op1 * op2. */
static bool op_imul(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 bits = i->op[0].size * 8u;
	u64 a, b;
	i128 p;

	if (i->nops == 1)
		return imul_wide(in, c, i);
	if (!interp_get(in, c, i, i->nops - 2u, &a) || !interp_get(in, c, i, i->nops - 1u, &b))
		return false;
	p = (i128)(i64)interp_sext(a, bits) * (i64)interp_sext(b, bits);
	interp_set_gpr(c, &i->op[0], (u64)p);
	set_cf_of(c, p != (i64)interp_sext((u64)p, bits));
	return true;
}

/* MULX hi, lo, src: when both destinations are the same register it holds the high half. */
static bool op_mulx(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 size = i->op[0].size;
	u64 v;
	u128 p;

	if (!interp_get(in, c, i, 2, &v))
		return false;
	p = (u128)interp_reg(c, R_RDX, size) * v;
	interp_set_gpr(c, &i->op[1], (u64)p);
	interp_set_gpr(c, &i->op[0], (u64)(p >> (size * 8)));
	return true;
}

static void set_division_flags(struct x86_cpu *c)
{
	c->rflags = (c->rflags & ~(u64)(FL_PF | FL_ZF | FL_SF)) | FL_AF;
}

static u128 dividend(const struct x86_cpu *c, u32 size)
{
	if (size == 1)
		return (u16)c->gpr[R_RAX];
	return (u128)interp_reg(c, R_RDX, size) << (size * 8) | interp_reg(c, R_RAX, size);
}

static bool op_div(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 size = i->op[0].size;
	u128 n = dividend(c, size), q;
	u64 v;

	if (!interp_get(in, c, i, 0, &v))
		return false;
	if (!v)
		return x86_raise(c, VEC_DE);
	q = n / v;
	if (q > interp_mask(size * 8))
		return x86_raise(c, VEC_DE);
	store_product(c, size, (u64)q, (u64)(n % v));
	set_division_flags(c);
	return true;
}

static bool op_idiv(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 size = i->op[0].size, bits = size * 8;
	i128 n = (i128)(dividend(c, size) << (128 - 2 * bits)) >> (128 - 2 * bits), q, d;
	u64 v;

	if (!interp_get(in, c, i, 0, &v))
		return false;
	d = (i64)interp_sext(v, bits);
	/* -2^127 / -1 would trap on the host; it overflows the guest's quotient anyway. */
	if (!d || (d == -1 && n == (i128)((u128)1 << 127)))
		return x86_raise(c, VEC_DE);
	q = n / d;
	if (q != (i64)interp_sext((u64)q, bits))
		return x86_raise(c, VEC_DE);
	store_product(c, size, (u64)q, (u64)(n % d));
	set_division_flags(c);
	return true;
}

/* Decimal adjustments. What the manuals leave undefined is as AMD's CPUs have it (measured on Zen 4, all values of AX and flags). */
static void set_bcd_flags(struct x86_cpu *c, u64 szp, u64 others)
{
	c->rflags = (c->rflags & ~(u64)FL_ARITH) | szp | others;
}

/* OF of an 8-bit sum or difference that is r. */
static u64 bcd_of(u8 a, u8 b, u8 r, bool sub)
{
	return ((a ^ r) & (sub ? a ^ b : b ^ r)) & 0x80 ? FL_OF : 0;
}

/* DAA (arg 0), DAS */
static bool op_daa(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u8 old = (u8)c->gpr[R_RAX], al = old;
	u64 fl = 0;
	bool sub = i->row->arg;

	if ((old & 0xf) > 9 || (c->rflags & FL_AF)) {
		al = (u8)(sub ? al - 6 : al + 6);
		fl |= FL_AF;
		if (sub && old < 6)
			fl |= FL_CF;
	}
	if (old > 0x99 || (c->rflags & FL_CF)) {
		al = (u8)(sub ? al - 0x60 : al + 0x60);
		fl |= FL_CF;
	}
	fl |= bcd_of(old, (u8)(sub ? old - al : al - old), al, sub);
	interp_set_reg(c, R_RAX, 1, al);
	set_bcd_flags(c, interp_flags_szp(al, 8), fl);
	return true;
}

/* AAA (arg 0), AAS */
static bool op_aaa(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u16 ax = (u16)c->gpr[R_RAX];
	bool adjust = (ax & 0xf) > 9 || (c->rflags & FL_AF);

	if (adjust)
		ax = (u16)(i->row->arg ? ax - 0x106 : ax + 0x106);
	interp_set_reg(c, R_RAX, 2, ax & 0xff0f);
	set_bcd_flags(c, interp_flags_szp(ax, 16), adjust ? FL_CF | FL_AF : 0);
	return true;
}

static bool op_aam(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u8 al = (u8)c->gpr[R_RAX], d = (u8)i->op[0].imm;

	if (!d)
		return x86_raise(c, VEC_DE);
	interp_set_reg(c, R_RAX, 2, (u64)(al % d) | (u64)(al / d) << 8);
	set_bcd_flags(c, interp_flags_szp(al % d, 8), 0);
	return true;
}

static bool op_aad(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u16 ax = (u16)c->gpr[R_RAX];
	u8 old = (u8)ax, more = (u8)((ax >> 8) * (u8)i->op[0].imm), al = (u8)(old + more);

	interp_set_reg(c, R_RAX, 2, al);
	set_bcd_flags(c, interp_flags_szp(al, 8), bcd_of(old, more, al, false) | ((old ^ more ^ al) & FL_AF) | (al < old ? FL_CF : 0));
	return true;
}

#define M(n) ZYDIS_MNEMONIC_##n
static const struct interp_row rows[] = {
	{.mnemonic = M(MUL), .run = op_mul},
	{.mnemonic = M(IMUL), .run = op_imul},
	{.mnemonic = M(MULX), .run = op_mulx, .attrs = ROW_PROT},
	{.mnemonic = M(DIV), .run = op_div},
	{.mnemonic = M(IDIV), .run = op_idiv},
	{.mnemonic = M(DAA), .run = op_daa, .arg = 0},
	{.mnemonic = M(DAS), .run = op_daa, .arg = 1},
	{.mnemonic = M(AAA), .run = op_aaa, .arg = 0},
	{.mnemonic = M(AAS), .run = op_aaa, .arg = 1},
	{.mnemonic = M(AAM), .run = op_aam},
	{.mnemonic = M(AAD), .run = op_aad},
};

const struct interp_rows interp_rows_muldiv = {rows, ARRAY_SIZE(rows)};
