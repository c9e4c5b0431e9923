/* SPDX-License-Identifier: Apache-2.0 */
/* How each kind of instruction (table.h) is translated. Threading: the vCPU's thread. */
#include "engine/bt/tr.h"

void tr_interp(struct tr *t, bool stop)
{
	tr_forget_delta(t);
	tr_settle_rsp(t);
	tr_to_event(t, EV_INTERP, t->site);
	if (stop)
		t->end = true;
	t->rsp_ok = false;
}

static void interpret(struct tr *t, u32 arg)
{
	tr_interp(t, false);
}

static void interpret_and_stop(struct tr *t, u32 arg)
{
	tr_interp(t, true);
}

static void do_nothing(struct tr *t, u32 arg)
{
	t->delta = t->delta_in;
	t->r11 = t->r11_in;
}

/* May the instruction run natively? What is missing for that, or used, is noted. */
static bool runs_natively(struct tr *t)
{
	u8 needs = t->in->needs;
	if (!t->in->native)
		return false;
	if ((t->mode & needs) != needs) {
		t->b->lacks |= needs;
		return false;
	}
	t->b->uses |= needs;
	return true;
}

void tr_insn_copy(struct tr *t, u32 arg)
{
	if (!runs_natively(t) || !tr_copy(t))
		tr_interp(t, false);
}

void tr_emit(struct tr *t, struct bt_row row)
{
	static void (*const emitters[])(struct tr * t, u32 arg) = {
		[K_AUTO] = tr_insn_copy,   [K_INTERP] = interpret,	    [K_STOP] = interpret_and_stop,
		[K_NOP] = do_nothing,	   [K_PREFETCH] = tr_insn_prefetch, [K_LEA] = tr_insn_lea,
		[K_PUSH] = tr_insn_push,   [K_POP] = tr_insn_pop,	    [K_CALL] = tr_insn_call,
		[K_RET] = tr_insn_ret,	   [K_JMP] = tr_insn_jmp,	    [K_JCC] = tr_insn_jcc,
		[K_JRCXZ] = tr_insn_jrcxz, [K_LOOP] = tr_insn_loop,	    [K_LEAVE] = tr_insn_leave,
		[K_BT] = tr_insn_bt,	   [K_PUSHF] = tr_insn_pushf,	    [K_CLI] = tr_insn_cli,
		[K_STI] = tr_insn_sti,	   [K_CLAC] = tr_insn_clac,	    [K_STAC] = tr_insn_stac,
		[K_LIGHT] = tr_insn_light, [K_STRING] = tr_insn_string,	    [K_MOV_SEG] = tr_insn_mov_special,
		[K_FENCE] = tr_insn_fence,
	};
	emitters[row.kind](t, row.arg);
}
