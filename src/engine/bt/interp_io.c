/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IN and OUT. The string forms are in interp_string.c.
 * Threading: the vCPU's thread.
 */
#include "engine/bt/interp_private.h"

static u16 port_of(const struct x86_cpu *c, const struct interp_opnd *o)
{
	return o->kind == IOP_IMM ? (u8)o->imm : (u16)c->gpr[R_RDX];
}

static bool op_in(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 size = i->op[0].size;
	u16 port = port_of(c, &i->op[1]);

	if (!x86_io_allowed(c, port, size))
		return false;
	x86_io_breakpoint(c, port, size);
	interp_set_reg(c, R_RAX, size, c->env->pio_read(c->env->opaque, port, size));
	return true;
}

static bool op_out(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 size = i->op[1].size;
	u16 port = port_of(c, &i->op[0]);

	if (!x86_io_allowed(c, port, size))
		return false;
	x86_io_breakpoint(c, port, size);
	c->env->pio_write(c->env->opaque, port, size, (u32)interp_reg(c, R_RAX, size));
	return true;
}

static const struct interp_row rows[] = {
	{.mnemonic = ZYDIS_MNEMONIC_IN, .run = op_in},
	{.mnemonic = ZYDIS_MNEMONIC_OUT, .run = op_out},
};

const struct interp_rows interp_rows_io = {rows, ARRAY_SIZE(rows)};
