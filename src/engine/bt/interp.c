/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One step of the interpreter: fetch, the checks that every instruction shares, the handler, the traps after it.
 *
 * Contract and threading: interp.h.
 */
#include "engine/bt/interp_private.h"

#include <errno.h>
#include <stdlib.h>

static const struct interp_rows *const families[] = {
	&interp_rows_alu,    &interp_rows_bits,	  &interp_rows_shift, &interp_rows_muldiv, &interp_rows_string, &interp_rows_stack,
	&interp_rows_branch, &interp_rows_system, &interp_rows_io,    &interp_rows_fpu,	   &interp_rows_xsave,	&interp_rows_vecmem,
};

static void fill_rows(struct interp *in)
{
	for (u32 f = 0; f < ARRAY_SIZE(families); f++)
		for (u32 k = 0; k < families[f]->n; k++)
			in->row_of[families[f]->row[k].mnemonic] = &families[f]->row[k];
}

int interp_new(struct interp **out, struct err *e)
{
	struct interp *in = calloc(1, sizeof(*in));

	*out = NULL;
	if (!in)
		return err_set(e, ENOMEM, "no memory for the instruction interpreter: give the process more memory");
	in->tlb_gen = 1;
	fill_rows(in);
	if (!interp_decode_init(in)) {
		interp_free(in);
		return err_set(e, ENOMEM, "no memory for the interpreter's decode cache: give the process more memory");
	}
	if (!interp_thunk_init(in, e)) {
		interp_free(in);
		return -e->code;
	}
	*out = in;
	return 0;
}

void interp_free(struct interp *in)
{
	if (!in)
		return;
	interp_thunk_free(in);
	interp_decode_fini(in);
	free(in);
}

u64 interp_unknown_count(const struct interp *in)
{
	return in->unknown;
}

void interp_cache_translations(struct interp *in, const u64 *epoch)
{
	in->epoch = epoch;
	in->tlb_gen++;
}

static bool op_ud(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	return x86_raise(c, VEC_UD);
}
const struct interp_row interp_row_ud = {.run = op_ud};

static bool check_row(struct x86_cpu *c, const struct interp_insn *i)
{
	u32 a = i->row->attrs;

	if ((a & ROW_PROT) && x86_real_or_v86(c))
		return x86_raise(c, VEC_UD);
	if ((a & ROW_PRIV) && x86_cpl(c) != 0)
		return x86_raise_err(c, VEC_GP, 0);
	if ((a & ROW_UMIP) && (c->cr4 & CR4_UMIP) && x86_cpl(c) != 0)
		return x86_raise_err(c, VEC_GP, 0);
	return true;
}

static bool execute(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	in->rep_unfinished = in->event = c->task_switched = false;
	in->next_rip = c->rip + i->len;
	if (i->mode != IMODE_64)
		in->next_rip = (u32)in->next_rip;
	if (i->row->attrs && !check_row(c, i))
		return false;
	if (i->unit != UNIT_INT && !(i->row->attrs & ROW_OWN_GATE) && !interp_gate(c, (enum interp_unit)i->unit))
		return false;
	return i->row->run(in, c, i);
}

static void finish(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, bool tf)
{
	u32 a = i->row->attrs;

	c->rip = in->next_rip;
	if (!in->rep_unfinished && !(a & ROW_KEEP_RF) && !c->task_switched)
		c->rflags &= ~(u64)FL_RF;
	if (a & ROW_TF_AFTER)
		tf = c->rflags & FL_TF;
	if (tf && !in->event && !c->task_switched)
		c->dr6_pending |= DR6_BS;
	if (unlikely(c->dr6_pending) && x86_take_debug_trap(c))
		x86_deliver_fault(c);
}

/* An event led to a task whose TSS has the T bit. Not taken where that is delivered: a #DB task with this bit goes round for ever, and is to be
 * interruptible. */
static bool task_trap(struct x86_cpu *c)
{
	return unlikely(c->dr6_pending & DR6_BT) && x86_take_debug_trap(c);
}

static bool code_breakpoint(struct x86_cpu *c)
{
	u64 base = x86_code64(c) ? 0 : c->seg[SEG_CS].base;

	return x86_code_breakpoint(c, base + c->rip);
}

enum interp_result interp_step(struct interp *in, struct x86_cpu *c)
{
	const struct interp_insn *i;
	bool tf = c->rflags & FL_TF;
	bool shadow = c->debug_shadow;

	c->irq_shadow = false;
	c->debug_shadow = false;
	interp_tlb_check(in, c);
	if (task_trap(c))
		return INTERP_FAULT;
	if (unlikely(c->dr[7] & DR7_ENABLED) && !shadow && code_breakpoint(c))
		return INTERP_FAULT;
	i = interp_fetch(in, c);
	if (unlikely(!i) || unlikely(!execute(in, c, i))) {
		if (i && i->unknown)
			in->unknown++;
		return INTERP_FAULT;
	}
	finish(in, c, i, tf);
	return c->halted ? INTERP_HALT : INTERP_OK;
}
