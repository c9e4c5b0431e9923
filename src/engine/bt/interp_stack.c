/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PUSH, POP and their kin: all registers, flags, ENTER and LEAVE.
 *
 * The stack pointer is written last, so that a fault leaves everything as it was.
 * Threading: the vCPU's thread.
 */
#include "engine/bt/interp_private.h"
#include "x86/internal.h"

u64 interp_stack_mask(const struct x86_cpu *c)
{
	if (x86_code64(c))
		return ~0ull;
	return c->seg[SEG_SS].attr & SEGA_DB ? 0xffffffff : 0xffff;
}

/* A 16-bit stack pointer leaves the rest of the register alone. */
static u64 with_sp(const struct x86_cpu *c, u64 reg, u64 sp)
{
	u64 mask = interp_stack_mask(c);

	return mask == 0xffff ? (reg & ~mask) | (sp & mask) : sp & mask;
}

void interp_set_sp(struct x86_cpu *c, u64 sp)
{
	c->gpr[R_RSP] = with_sp(c, c->gpr[R_RSP], sp);
}

/* Store at `below` bytes under the stack pointer without moving it. */
static bool store_below(struct interp *in, struct x86_cpu *c, u64 below, u32 size, u64 v)
{
	return interp_store(in, c, SEG_SS, (c->gpr[R_RSP] - below) & interp_stack_mask(c), size, v);
}

bool interp_push(struct interp *in, struct x86_cpu *c, u32 size, u64 v)
{
	if (!store_below(in, c, size, size, v))
		return false;
	interp_set_sp(c, c->gpr[R_RSP] - size);
	return true;
}

bool interp_peek(struct interp *in, struct x86_cpu *c, u64 disp, u32 size, u64 *v)
{
	return interp_load(in, c, SEG_SS, (c->gpr[R_RSP] + disp) & interp_stack_mask(c), size, v);
}

/* A segment register goes as 16 bits into a wider slot. In legacy modes the rest of the slot stays as it is on Intel's CPUs and is cleared on
 * AMD's; the manuals allow both. */
static bool push_seg(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 size = i->osize;
	u64 sel = c->seg[i->op[0].reg].sel;

	if (!store_below(in, c, size, size == 4 && !x86_is_amd(c) ? 2 : size, sel))
		return false;
	interp_set_sp(c, c->gpr[R_RSP] - size);
	return true;
}

static bool op_push(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 v;

	if (i->op[0].kind == IOP_SEG)
		return push_seg(in, c, i);
	return interp_get(in, c, i, 0, &v) && interp_push(in, c, i->osize, v);
}

static bool pop_seg(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 sp = c->gpr[R_RSP] + i->osize, sel;

	if (!interp_peek(in, c, 0, i->osize == 4 ? 2 : i->osize, &sel) || !x86_load_seg(c, i->op[0].reg, (u16)sel))
		return false;
	if (i->op[0].reg == SEG_SS)
		c->irq_shadow = c->debug_shadow = true;
	interp_set_sp(c, sp);
	return true;
}

/* A memory operand based on rSP is addressed with the stack pointer after the pop. */
static bool op_pop(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 old = c->gpr[R_RSP], v;

	if (i->op[0].kind == IOP_SEG)
		return pop_seg(in, c, i);
	if (!interp_peek(in, c, 0, i->osize, &v))
		return false;
	interp_set_sp(c, old + i->osize);
	if (interp_put(in, c, i, 0, v))
		return true;
	c->gpr[R_RSP] = old;
	return false;
}

static bool op_pusha(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 size = i->row->arg;

	for (u32 r = 0; r < 8; r++)
		if (!store_below(in, c, (u64)size * (r + 1), size, interp_reg(c, r, size)))
			return false;
	interp_set_sp(c, c->gpr[R_RSP] - size * 8);
	return true;
}

/* The slot of rSP is read and thrown away. After a fault AMD's CPUs show the registers that were popped before it; rSP is written last, so the
 * instruction can be restarted. */
static bool op_popa(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 size = i->row->arg, done = 8;
	u64 v[8];

	while (done > 0 && interp_peek(in, c, (u64)size * (8 - done), size, &v[done - 1]))
		done--;
	if (done && !in->amd)
		return false;
	for (u32 r = done; r < 8; r++)
		if (r != R_RSP)
			interp_set_reg(c, r, size, v[r]);
	if (done)
		return false;
	interp_set_sp(c, c->gpr[R_RSP] + size * 8);
	return true;
}

/* Virtual-8086 mode lets PUSHF and POPF pass only with IOPL 3 (VME is not announced). */
static bool flags_allowed(struct x86_cpu *c)
{
	if ((c->rflags & FL_VM) && (c->rflags & FL_IOPL) != FL_IOPL)
		return x86_raise_err(c, VEC_GP, 0);
	return true;
}

static bool op_pushf(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	return flags_allowed(c) && interp_push(in, c, i->osize, c->rflags & ~(u64)(FL_RF | FL_VM));
}

static bool op_popf(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 v;

	if (!flags_allowed(c) || !interp_peek(in, c, 0, i->osize, &v) || !x86_set_flags(c, v, i->osize))
		return false;
	interp_set_sp(c, c->gpr[R_RSP] + i->osize);
	return true;
}

/* The frame pointers of the enclosing levels, from the frame that rBP points to. */
static bool copy_frame_pointers(struct interp *in, struct x86_cpu *c, u32 size, u32 level, u64 *depth)
{
	u64 v;

	for (u32 k = 1; k < level; k++) {
		if (!interp_load(in, c, SEG_SS, (c->gpr[R_RBP] - (u64)size * k) & interp_stack_mask(c), size, &v))
			return false;
		*depth += size;
		if (!store_below(in, c, *depth, size, v))
			return false;
	}
	return true;
}

static bool op_enter(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 size = i->osize, level = i->op[1].imm & 31;
	u64 frame = c->gpr[R_RSP] - size, depth = size, sp;
	gva_t lin;

	if (!store_below(in, c, size, size, c->gpr[R_RBP]))
		return false;
	if (level) {
		if (!copy_frame_pointers(in, c, size, level, &depth))
			return false;
		depth += size;
		if (!store_below(in, c, depth, size, with_sp(c, c->gpr[R_RSP], frame)))
			return false;
	}
	sp = c->gpr[R_RSP] - depth - (i->op[0].imm & 0xffff);
	/* The new top must be writable, or ENTER faults as if it had pushed there. */
	if (!interp_linear(c, SEG_SS, sp & interp_stack_mask(c), size, x86_acc(c, ACC_WRITE), &lin) || !interp_probe_write(c, lin, 1))
		return false;
	interp_set_reg(c, R_RBP, size, with_sp(c, c->gpr[R_RSP], frame));
	interp_set_sp(c, sp);
	return true;
}

static bool op_leave(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 bp = c->gpr[R_RBP], v;

	if (!interp_load(in, c, SEG_SS, bp & interp_stack_mask(c), i->osize, &v))
		return false;
	interp_set_sp(c, bp + i->osize);
	interp_set_reg(c, R_RBP, i->osize, v);
	return true;
}

#define M(n) ZYDIS_MNEMONIC_##n
static const struct interp_row rows[] = {
	{.mnemonic = M(PUSH), .run = op_push},
	{.mnemonic = M(POP), .run = op_pop},
	{.mnemonic = M(PUSHA), .run = op_pusha, .arg = 2},
	{.mnemonic = M(PUSHAD), .run = op_pusha, .arg = 4},
	{.mnemonic = M(POPA), .run = op_popa, .arg = 2},
	{.mnemonic = M(POPAD), .run = op_popa, .arg = 4},
	{.mnemonic = M(PUSHF), .run = op_pushf},
	{.mnemonic = M(PUSHFD), .run = op_pushf},
	{.mnemonic = M(PUSHFQ), .run = op_pushf},
	{.mnemonic = M(POPF), .run = op_popf},
	{.mnemonic = M(POPFD), .run = op_popf},
	{.mnemonic = M(POPFQ), .run = op_popf},
	{.mnemonic = M(ENTER), .run = op_enter},
	{.mnemonic = M(LEAVE), .run = op_leave},
};

const struct interp_rows interp_rows_stack = {rows, ARRAY_SIZE(rows)};
