/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jumps, calls, returns, loops, software interrupts.
 *
 * Near targets are checked before anything is pushed; far transfers are x86/rules.h's.
 * Threading: the vCPU's thread.
 */
#include "engine/bt/interp_private.h"

bool interp_check_target(struct x86_cpu *c, u64 target, u32 osize, u64 *out)
{
	*out = target & interp_mask(osize * 8);
	if (x86_code64(c)) {
		if (!x86_canonical(*out))
			return x86_raise_err(c, VEC_GP, 0);
	} else if (*out > c->seg[SEG_CS].limit) {
		return x86_raise_err(c, VEC_GP, 0);
	}
	return true;
}

static bool jump(struct interp *in, struct x86_cpu *c, u64 target, u32 osize)
{
	u64 rip;

	if (!interp_check_target(c, target, osize, &rip))
		return false;
	in->next_rip = rip;
	return true;
}

static bool jump_relative(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	return jump(in, c, in->next_rip + i->op[0].imm, i->osize);
}

static bool op_jcc(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	return !interp_cond(c->rflags, i->row->arg) || jump_relative(in, c, i);
}

/* JCXZ, JECXZ, JRCXZ and LOOP count in a register as wide as addresses are. */
static bool op_jcxz(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	return interp_reg(c, R_RCX, i->asize) != 0 || jump_relative(in, c, i);
}

/* arg: 0 LOOP, 1 LOOPE, 2 LOOPNE */
static bool op_loop(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 n = (c->gpr[R_RCX] - 1) & interp_mask(i->asize * 8u);
	bool zf = c->rflags & FL_ZF;

	if (n && !(i->row->arg == 1 && !zf) && !(i->row->arg == 2 && zf) && !jump_relative(in, c, i))
		return false;
	interp_set_reg(c, R_RCX, i->asize, n);
	return true;
}

/* The selector and offset of a far operand, immediate or in memory. AMD CPUs have no 64-bit offsets in memory. */
static bool far_target(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, u16 *sel, u64 *off, u32 *size)
{
	u64 ea, s;

	*size = i->osize;
	if (i->op[0].kind == IOP_PTR) {
		*sel = i->op[0].sel;
		*off = i->op[0].imm & interp_mask(*size * 8);
		return true;
	}
	if (*size == 8 && in->amd)
		*size = 4;
	ea = interp_ea(in, c, i);
	if (!interp_load(in, c, i->ea.seg, ea, *size, off) ||
	    !interp_load(in, c, i->ea.seg, (ea + *size) & interp_mask(i->asize * 8u), 2, &s))
		return false;
	*sel = (u16)s;
	return true;
}

static bool op_jmp(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 target;
	u32 size;
	u16 sel;

	if (i->far_branch) {
		if (!far_target(in, c, i, &sel, &target, &size) || !x86_far_jump(c, sel, target, size, in->next_rip))
			return false;
		in->next_rip = c->rip;
		return true;
	}
	if (i->op[0].kind == IOP_IMM)
		return jump_relative(in, c, i);
	return interp_get(in, c, i, 0, &target) && jump(in, c, target, i->osize);
}

static bool far_call(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 target;
	u32 size;
	u16 sel;

	if (!far_target(in, c, i, &sel, &target, &size) || !x86_far_call(c, sel, target, size, in->next_rip))
		return false;
	in->next_rip = c->rip;
	return true;
}

/* A bad target is reported only when the return address could be pushed. */
static bool stack_fault_first(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	struct x86_fault bad = c->fault;
	u64 sp = (c->gpr[R_RSP] - i->osize) & interp_stack_mask(c);
	gva_t lin;

	c->fault.pending = false;
	if (interp_linear(c, SEG_SS, sp, i->osize, x86_acc(c, ACC_WRITE), &lin) && interp_probe_write(c, lin, i->osize))
		c->fault = bad;
	return false;
}

static bool op_call(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 target, rip;

	if (i->far_branch)
		return far_call(in, c, i);
	if (i->op[0].kind == IOP_IMM)
		target = in->next_rip + i->op[0].imm;
	else if (!interp_get(in, c, i, 0, &target))
		return false;
	if (!interp_check_target(c, target, i->osize, &rip))
		return stack_fault_first(in, c, i);
	if (!interp_push(in, c, i->osize, in->next_rip))
		return false;
	in->next_rip = rip;
	return true;
}

static bool op_ret(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u16 extra = i->nops ? (u16)i->op[0].imm : 0;
	u64 target;

	if (i->far_branch) {
		if (!x86_far_ret(c, i->osize, extra))
			return false;
		in->next_rip = c->rip;
		return true;
	}
	if (!interp_peek(in, c, 0, i->osize, &target) || !jump(in, c, target, i->osize))
		return false;
	interp_set_sp(c, c->gpr[R_RSP] + i->osize + extra);
	return true;
}

static bool op_iret(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	if (!x86_iret(c, i->osize, in->next_rip))
		return false;
	in->next_rip = c->rip;
	return true;
}

static bool soft_interrupt(struct interp *in, struct x86_cpu *c, u8 vector)
{
	if (!x86_soft_interrupt(c, vector, in->next_rip))
		return false;
	in->next_rip = c->rip;
	in->event = true;
	return true;
}

static bool op_int(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	return soft_interrupt(in, c, (u8)i->op[0].imm);
}

static bool op_int3(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	return soft_interrupt(in, c, VEC_BP);
}

static bool op_into(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	return !(c->rflags & FL_OF) || soft_interrupt(in, c, VEC_OF);
}

static bool op_int1(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	c->rip = in->next_rip;
	x86_interrupt(c, VEC_DB, INT_ICEBP, false, 0);
	in->next_rip = c->rip;
	in->event = true;
	return true;
}

static bool op_bound(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 size = i->op[0].size;
	u64 ea = interp_ea(in, c, i), lo, hi;
	i64 v = (i64)interp_sext(interp_get_gpr(c, &i->op[0]), size * 8);

	if (!interp_load(in, c, i->ea.seg, ea, size, &lo) ||
	    !interp_load(in, c, i->ea.seg, (ea + size) & interp_mask(i->asize * 8u), size, &hi))
		return false;
	if (v < (i64)interp_sext(lo, size * 8) || v > (i64)interp_sext(hi, size * 8))
		return x86_raise(c, VEC_BR);
	return true;
}

#define M(n) ZYDIS_MNEMONIC_##n
static const struct interp_row rows[] = {
	{.mnemonic = M(JO), .run = op_jcc, .arg = 0},
	{.mnemonic = M(JNO), .run = op_jcc, .arg = 1},
	{.mnemonic = M(JB), .run = op_jcc, .arg = 2},
	{.mnemonic = M(JNB), .run = op_jcc, .arg = 3},
	{.mnemonic = M(JZ), .run = op_jcc, .arg = 4},
	{.mnemonic = M(JNZ), .run = op_jcc, .arg = 5},
	{.mnemonic = M(JBE), .run = op_jcc, .arg = 6},
	{.mnemonic = M(JNBE), .run = op_jcc, .arg = 7},
	{.mnemonic = M(JS), .run = op_jcc, .arg = 8},
	{.mnemonic = M(JNS), .run = op_jcc, .arg = 9},
	{.mnemonic = M(JP), .run = op_jcc, .arg = 10},
	{.mnemonic = M(JNP), .run = op_jcc, .arg = 11},
	{.mnemonic = M(JL), .run = op_jcc, .arg = 12},
	{.mnemonic = M(JNL), .run = op_jcc, .arg = 13},
	{.mnemonic = M(JLE), .run = op_jcc, .arg = 14},
	{.mnemonic = M(JNLE), .run = op_jcc, .arg = 15},
	{.mnemonic = M(JCXZ), .run = op_jcxz},
	{.mnemonic = M(JECXZ), .run = op_jcxz},
	{.mnemonic = M(JRCXZ), .run = op_jcxz},
	{.mnemonic = M(LOOP), .run = op_loop, .arg = 0},
	{.mnemonic = M(LOOPE), .run = op_loop, .arg = 1},
	{.mnemonic = M(LOOPNE), .run = op_loop, .arg = 2},
	{.mnemonic = M(JMP), .run = op_jmp},
	{.mnemonic = M(CALL), .run = op_call},
	{.mnemonic = M(RET), .run = op_ret},
	{.mnemonic = M(IRET), .run = op_iret, .attrs = ROW_KEEP_RF},
	{.mnemonic = M(IRETD), .run = op_iret, .attrs = ROW_KEEP_RF},
	{.mnemonic = M(IRETQ), .run = op_iret, .attrs = ROW_KEEP_RF},
	{.mnemonic = M(INT), .run = op_int},
	{.mnemonic = M(INT3), .run = op_int3},
	{.mnemonic = M(INTO), .run = op_into},
	{.mnemonic = M(INT1), .run = op_int1},
	{.mnemonic = M(BOUND), .run = op_bound},
};

const struct interp_rows interp_rows_branch = {rows, ARRAY_SIZE(rows)};
