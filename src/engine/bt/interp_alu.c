/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arithmetic, logic, moves, exchanges, conditional moves and sets.
 *
 * Where the manuals leave a flag undefined (AF after logic instructions), it is cleared, as CPUs do.
 * Threading: the vCPU's thread.
 */
#include "engine/bt/interp_private.h"

/* CF, AF and OF from the vector of carries out of each bit. */
static u64 carry_flags(u64 cv, u32 bits)
{
	u64 cf = (cv >> (bits - 1)) & 1;
	u64 of = cf ^ ((cv >> (bits - 2)) & 1);
	u64 af = (cv >> 3) & 1;

	return cf | af << 4 | of << 11;
}

static u64 add_with(struct interp_alu *x, u64 carry)
{
	u64 r = x->a + x->b + carry;
	u64 cv = (x->a & x->b) | ((x->a | x->b) & ~r);

	x->flags = (x->flags & ~(u64)FL_ARITH) | carry_flags(cv, x->bits) | interp_flags_szp(r, x->bits);
	return r;
}

static u64 sub_with(struct interp_alu *x, u64 borrow)
{
	u64 r = x->a - x->b - borrow;
	u64 bv = (~x->a & x->b) | ((~x->a | x->b) & r);

	x->flags = (x->flags & ~(u64)FL_ARITH) | carry_flags(bv, x->bits) | interp_flags_szp(r, x->bits);
	return r;
}

static u64 logic(struct interp_alu *x, u64 r)
{
	x->flags = (x->flags & ~(u64)FL_ARITH) | interp_flags_szp(r, x->bits);
	return r;
}

static u64 alu_add(struct interp_alu *x)
{
	return add_with(x, 0);
}
static u64 alu_adc(struct interp_alu *x)
{
	return add_with(x, x->flags & FL_CF);
}
u64 interp_alu_sub(struct interp_alu *x)
{
	return sub_with(x, 0);
}
static u64 alu_sbb(struct interp_alu *x)
{
	return sub_with(x, x->flags & FL_CF);
}
static u64 alu_and(struct interp_alu *x)
{
	return logic(x, x->a & x->b);
}
static u64 alu_or(struct interp_alu *x)
{
	return logic(x, x->a | x->b);
}
static u64 alu_xor(struct interp_alu *x)
{
	return logic(x, x->a ^ x->b);
}
static u64 alu_not(struct interp_alu *x)
{
	return ~x->a;
}
static u64 alu_xchg(struct interp_alu *x)
{
	return x->b;
}

static u64 alu_inc(struct interp_alu *x)
{
	u64 cf = x->flags & FL_CF, r;

	x->b = 1;
	r = add_with(x, 0);
	x->flags = (x->flags & ~(u64)FL_CF) | cf;
	return r;
}

static u64 alu_dec(struct interp_alu *x)
{
	u64 cf = x->flags & FL_CF, r;

	x->b = 1;
	r = sub_with(x, 0);
	x->flags = (x->flags & ~(u64)FL_CF) | cf;
	return r;
}

static u64 alu_neg(struct interp_alu *x)
{
	u64 a = x->a, r;

	x->b = a;
	x->a = 0;
	r = sub_with(x, 0);
	x->a = a;
	return r;
}

/* a: memory, b: new value, c: accumulator. */
static u64 alu_cmpxchg(struct interp_alu *x)
{
	struct interp_alu cmp = {.a = x->c & interp_mask(x->bits), .b = x->a, .flags = x->flags, .bits = x->bits};

	sub_with(&cmp, 0);
	x->flags = cmp.flags;
	return (cmp.flags & FL_ZF) ? x->b : x->a;
}

static bool op_binary(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	struct interp_alu x;

	return interp_get(in, c, i, 1, &x.b) && (x.b &= interp_mask(i->op[0].size * 8u), true) &&
	       interp_modify(in, c, i, &x, i->row->alu, false);
}

static bool op_unary(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	struct interp_alu x = {0};

	return interp_modify(in, c, i, &x, i->row->alu, false);
}

/* CMP and TEST: flags only. */
static bool op_compare(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	struct interp_alu x = {.bits = i->op[0].size * 8u, .flags = c->rflags};

	if (!interp_get(in, c, i, 0, &x.a) || !interp_get(in, c, i, 1, &x.b))
		return false;
	x.b &= interp_mask(x.bits);
	i->row->alu(&x);
	c->rflags = x.flags;
	return true;
}

static bool op_mov_cr(struct x86_cpu *c, const struct interp_insn *i)
{
	bool to_reg = i->op[1].kind == IOP_CR || i->op[1].kind == IOP_DR;
	const struct interp_opnd *sys = &i->op[to_reg], *reg = &i->op[!to_reg];
	bool cr = sys->kind == IOP_CR;
	u64 v;

	if (cr ? (sys->reg == 1 || (sys->reg > 4 && sys->reg != 8)) : sys->reg > 7)
		return x86_raise(c, VEC_UD);
	if (x86_cpl(c) != 0)
		return x86_raise_err(c, VEC_GP, 0);
	if (to_reg) {
		if (!(cr ? x86_read_cr(c, sys->reg, &v) : x86_read_dr(c, sys->reg, &v)))
			return false;
		interp_set_gpr(c, reg, v);
		return true;
	}
	v = interp_get_gpr(c, reg);
	return cr ? x86_write_cr(c, sys->reg, v) : x86_write_dr(c, sys->reg, v);
}

static bool op_mov_to_seg(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 sel;

	if (i->op[0].reg == SEG_CS)
		return x86_raise(c, VEC_UD);
	if (!interp_get(in, c, i, 1, &sel) || !x86_load_seg(c, i->op[0].reg, (u16)sel))
		return false;
	if (i->op[0].reg == SEG_SS)
		c->irq_shadow = c->debug_shadow = true;
	return true;
}

static bool op_mov(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	const struct interp_opnd *d = &i->op[0], *s = &i->op[1];
	u64 v;

	if (d->kind == IOP_CR || d->kind == IOP_DR || s->kind == IOP_CR || s->kind == IOP_DR)
		return op_mov_cr(c, i);
	if (d->kind == IOP_SEG)
		return op_mov_to_seg(in, c, i);
	if (d->kind == IOP_OTHER || s->kind == IOP_OTHER)
		return x86_raise(c, VEC_UD);
	return interp_get(in, c, i, 1, &v) && interp_put(in, c, i, 0, v);
}

static bool op_movsx(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 v;

	return interp_get(in, c, i, 1, &v) && interp_put(in, c, i, 0, interp_sext(v, i->op[1].size * 8u));
}

static bool op_lea(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	interp_set_gpr(c, &i->op[0], interp_ea(in, c, i));
	return true;
}

static bool op_xchg(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 mem = i->mem == 1, reg = !mem;
	struct interp_alu x;

	x.b = interp_get_gpr(c, &i->op[reg]);
	if (i->mem == 0xff) {
		x.a = interp_get_gpr(c, &i->op[mem]);
		interp_set_gpr(c, &i->op[mem], x.b);
	} else if (!interp_modify_at(in, c, i->ea.seg, interp_ea(in, c, i), i->op[mem].size, &x, alu_xchg, true)) {
		return false;
	}
	interp_set_gpr(c, &i->op[reg], x.a);
	return true;
}

static bool op_xadd(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	struct interp_alu x;

	x.b = interp_get_gpr(c, &i->op[1]);
	if (i->op[0].kind == IOP_GPR) {
		/* The sum goes last: XADD of a register with itself doubles it. */
		x.a = interp_get_gpr(c, &i->op[0]);
		x.bits = i->op[0].size * 8u;
		x.flags = c->rflags;
		interp_set_gpr(c, &i->op[1], x.a);
		interp_set_gpr(c, &i->op[0], alu_add(&x));
		c->rflags = x.flags;
		return true;
	}
	if (!interp_modify(in, c, i, &x, alu_add, false))
		return false;
	interp_set_gpr(c, &i->op[1], x.a);
	return true;
}

/* A destination that does not match is not written, not even its upper half. */
static bool cmpxchg_register(struct x86_cpu *c, const struct interp_insn *i, struct interp_alu *x)
{
	x->bits = i->op[0].size * 8u;
	x->flags = c->rflags;
	x->a = interp_get_gpr(c, &i->op[0]);
	alu_cmpxchg(x);
	c->rflags = x->flags;
	if (c->rflags & FL_ZF)
		interp_set_gpr(c, &i->op[0], x->b);
	else
		interp_set_reg(c, R_RAX, i->op[0].size, x->a);
	return true;
}

static bool op_cmpxchg(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 size = i->op[0].size;
	struct interp_alu x = {.b = interp_get_gpr(c, &i->op[1]), .c = c->gpr[R_RAX]};

	if (i->op[0].kind == IOP_GPR)
		return cmpxchg_register(c, i, &x);
	if (!interp_modify(in, c, i, &x, alu_cmpxchg, false))
		return false;
	if (!(c->rflags & FL_ZF))
		interp_set_reg(c, R_RAX, size, x.a);
	return true;
}

static bool cmpxchg8b(struct x86_cpu *c, gva_t lin, bool *equal)
{
	u64 expect = (u32)c->gpr[R_RAX] | c->gpr[R_RDX] << 32;
	u64 newval = (u32)c->gpr[R_RBX] | c->gpr[R_RCX] << 32, old;

	if (!interp_aligned(c, lin, 8) || !x86_cmpxchg(c, lin, 8, expect, newval, &old, equal, x86_acc(c, ACC_WRITE)))
		return false;
	if (!*equal) {
		c->gpr[R_RAX] = (u32)old;
		c->gpr[R_RDX] = old >> 32;
	}
	return true;
}

static bool cmpxchg16b(struct x86_cpu *c, gva_t lin, bool *equal)
{
	u64 expect[2] = {c->gpr[R_RAX], c->gpr[R_RDX]}, newval[2] = {c->gpr[R_RBX], c->gpr[R_RCX]}, old[2];

	if (!x86_cmpxchg16(c, lin, expect, newval, old, equal, x86_acc(c, ACC_WRITE)))
		return false;
	if (!*equal) {
		c->gpr[R_RAX] = old[0];
		c->gpr[R_RDX] = old[1];
	}
	return true;
}

/* Always atomic: whether LOCK is there makes no difference that a guest could rely on. */
static bool op_cmpxchg_wide(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	bool equal = false;
	u64 ea = interp_ea(in, c, i);
	gva_t lin;

	/* Alignment comes before the segment's checks. The 16-byte form exists in 64-bit code only: other segments have no base. */
	if (i->row->arg == 16 && ((ea + (i->ea.seg >= SEG_FS ? c->seg[i->ea.seg].base : 0)) & 15))
		return x86_raise_err(c, VEC_GP, 0);
	if (!interp_linear_any(c, i->ea.seg, ea, i->row->arg, x86_acc(c, ACC_WRITE), &lin))
		return false;
	if (!(i->row->arg == 8 ? cmpxchg8b(c, lin, &equal) : cmpxchg16b(c, lin, &equal)))
		return false;
	c->rflags = (c->rflags & ~(u64)FL_ZF) | (equal ? FL_ZF : 0);
	return true;
}

static bool op_setcc(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	return interp_put(in, c, i, 0, interp_cond(c->rflags, i->row->arg));
}

/* The source is read, and may fault, whatever the condition. A 32-bit destination is zero-extended even when nothing moves. */
static bool op_cmovcc(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 v;

	if (!interp_get(in, c, i, 1, &v))
		return false;
	if (!interp_cond(c->rflags, i->row->arg))
		v = interp_get_gpr(c, &i->op[0]);
	interp_set_gpr(c, &i->op[0], v);
	return true;
}

/* CBW, CWDE, CDQE: arg is the size of the source. */
static bool op_cbw(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	interp_set_reg(c, R_RAX, i->row->arg * 2u, interp_sext(c->gpr[R_RAX], i->row->arg * 8u));
	return true;
}

/* CWD, CDQ, CQO */
static bool op_cwd(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 bits = i->row->arg * 8u;

	interp_set_reg(c, R_RDX, i->row->arg, (c->gpr[R_RAX] >> (bits - 1)) & 1 ? ~0ull : 0);
	return true;
}

/* CLC, STC, CMC, CLD, STD: arg = 0 clear, 1 set, 2 toggle, |4: DF instead of CF */
static bool op_flag(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 bit = i->row->arg & 4 ? FL_DF : FL_CF;
	u32 how = i->row->arg & 3;

	if (how == 2)
		c->rflags ^= bit;
	else
		c->rflags = how ? c->rflags | bit : c->rflags & ~bit;
	return true;
}

#define FLAGS_AH (FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF)

static bool op_lahf(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	c->gpr[R_RAX] = (c->gpr[R_RAX] & ~0xff00ull) | ((c->rflags & FLAGS_AH) | FL_ONE) << 8;
	return true;
}

static bool op_sahf(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	c->rflags = (c->rflags & ~(u64)FLAGS_AH) | ((c->gpr[R_RAX] >> 8) & FLAGS_AH);
	return true;
}

static bool op_salc(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	interp_set_reg(c, R_RAX, 1, c->rflags & FL_CF ? 0xff : 0);
	return true;
}

static bool op_xlat(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 off = (c->gpr[R_RBX] + (u8)c->gpr[R_RAX]) & interp_mask(i->asize * 8u), v;

	if (!interp_load(in, c, i->ea.seg, off, 1, &v))
		return false;
	interp_set_reg(c, R_RAX, 1, v);
	return true;
}

/* MOVBE: the byte-swapped copy. */
static bool op_movbe(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 v;

	if (!interp_get(in, c, i, 1, &v))
		return false;
	return interp_put(in, c, i, 0, __builtin_bswap64(v) >> (64 - i->op[0].size * 8u));
}

#define M(n) ZYDIS_MNEMONIC_##n
static const struct interp_row rows[] = {
	{.mnemonic = M(ADD), .run = op_binary, .alu = alu_add},
	{.mnemonic = M(ADC), .run = op_binary, .alu = alu_adc},
	{.mnemonic = M(SUB), .run = op_binary, .alu = interp_alu_sub},
	{.mnemonic = M(SBB), .run = op_binary, .alu = alu_sbb},
	{.mnemonic = M(AND), .run = op_binary, .alu = alu_and},
	{.mnemonic = M(OR), .run = op_binary, .alu = alu_or},
	{.mnemonic = M(XOR), .run = op_binary, .alu = alu_xor},
	{.mnemonic = M(CMP), .run = op_compare, .alu = interp_alu_sub},
	{.mnemonic = M(TEST), .run = op_compare, .alu = alu_and},
	{.mnemonic = M(INC), .run = op_unary, .alu = alu_inc},
	{.mnemonic = M(DEC), .run = op_unary, .alu = alu_dec},
	{.mnemonic = M(NEG), .run = op_unary, .alu = alu_neg},
	{.mnemonic = M(NOT), .run = op_unary, .alu = alu_not},
	{.mnemonic = M(MOV), .run = op_mov},
	{.mnemonic = M(MOVNTI), .run = op_mov},
	{.mnemonic = M(MOVDIRI), .run = op_mov},
	{.mnemonic = M(MOVZX), .run = op_mov},
	{.mnemonic = M(MOVSX), .run = op_movsx},
	{.mnemonic = M(MOVSXD), .run = op_movsx},
	{.mnemonic = M(MOVBE), .run = op_movbe},
	{.mnemonic = M(LEA), .run = op_lea},
	{.mnemonic = M(XCHG), .run = op_xchg},
	{.mnemonic = M(XADD), .run = op_xadd},
	{.mnemonic = M(CMPXCHG), .run = op_cmpxchg},
	{.mnemonic = M(CMPXCHG8B), .run = op_cmpxchg_wide, .arg = 8},
	{.mnemonic = M(CMPXCHG16B), .run = op_cmpxchg_wide, .arg = 16},
	{.mnemonic = M(SETO), .run = op_setcc, .arg = 0},
	{.mnemonic = M(SETNO), .run = op_setcc, .arg = 1},
	{.mnemonic = M(SETB), .run = op_setcc, .arg = 2},
	{.mnemonic = M(SETNB), .run = op_setcc, .arg = 3},
	{.mnemonic = M(SETZ), .run = op_setcc, .arg = 4},
	{.mnemonic = M(SETNZ), .run = op_setcc, .arg = 5},
	{.mnemonic = M(SETBE), .run = op_setcc, .arg = 6},
	{.mnemonic = M(SETNBE), .run = op_setcc, .arg = 7},
	{.mnemonic = M(SETS), .run = op_setcc, .arg = 8},
	{.mnemonic = M(SETNS), .run = op_setcc, .arg = 9},
	{.mnemonic = M(SETP), .run = op_setcc, .arg = 10},
	{.mnemonic = M(SETNP), .run = op_setcc, .arg = 11},
	{.mnemonic = M(SETL), .run = op_setcc, .arg = 12},
	{.mnemonic = M(SETNL), .run = op_setcc, .arg = 13},
	{.mnemonic = M(SETLE), .run = op_setcc, .arg = 14},
	{.mnemonic = M(SETNLE), .run = op_setcc, .arg = 15},
	{.mnemonic = M(CMOVO), .run = op_cmovcc, .arg = 0},
	{.mnemonic = M(CMOVNO), .run = op_cmovcc, .arg = 1},
	{.mnemonic = M(CMOVB), .run = op_cmovcc, .arg = 2},
	{.mnemonic = M(CMOVNB), .run = op_cmovcc, .arg = 3},
	{.mnemonic = M(CMOVZ), .run = op_cmovcc, .arg = 4},
	{.mnemonic = M(CMOVNZ), .run = op_cmovcc, .arg = 5},
	{.mnemonic = M(CMOVBE), .run = op_cmovcc, .arg = 6},
	{.mnemonic = M(CMOVNBE), .run = op_cmovcc, .arg = 7},
	{.mnemonic = M(CMOVS), .run = op_cmovcc, .arg = 8},
	{.mnemonic = M(CMOVNS), .run = op_cmovcc, .arg = 9},
	{.mnemonic = M(CMOVP), .run = op_cmovcc, .arg = 10},
	{.mnemonic = M(CMOVNP), .run = op_cmovcc, .arg = 11},
	{.mnemonic = M(CMOVL), .run = op_cmovcc, .arg = 12},
	{.mnemonic = M(CMOVNL), .run = op_cmovcc, .arg = 13},
	{.mnemonic = M(CMOVLE), .run = op_cmovcc, .arg = 14},
	{.mnemonic = M(CMOVNLE), .run = op_cmovcc, .arg = 15},
	{.mnemonic = M(CBW), .run = op_cbw, .arg = 1},
	{.mnemonic = M(CWDE), .run = op_cbw, .arg = 2},
	{.mnemonic = M(CDQE), .run = op_cbw, .arg = 4},
	{.mnemonic = M(CWD), .run = op_cwd, .arg = 2},
	{.mnemonic = M(CDQ), .run = op_cwd, .arg = 4},
	{.mnemonic = M(CQO), .run = op_cwd, .arg = 8},
	{.mnemonic = M(CLC), .run = op_flag, .arg = 0},
	{.mnemonic = M(STC), .run = op_flag, .arg = 1},
	{.mnemonic = M(CMC), .run = op_flag, .arg = 2},
	{.mnemonic = M(CLD), .run = op_flag, .arg = 4},
	{.mnemonic = M(STD), .run = op_flag, .arg = 5},
	{.mnemonic = M(LAHF), .run = op_lahf},
	{.mnemonic = M(SAHF), .run = op_sahf},
	{.mnemonic = M(SALC), .run = op_salc},
	{.mnemonic = M(XLAT), .run = op_xlat},
};

const struct interp_rows interp_rows_alu = {rows, ARRAY_SIZE(rows)};
