/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs of pushes or pops. What a function saves and restores lies in one page nearly always: one check of the range and one look-up serve the whole
 * run. When the range may cross a page, the run's instructions are carried out one by one behind the block, each with a look-up of its own.
 *
 * Every instruction of a run makes the same kind of access to the same page, so that whatever is wrong with the page shows at the first.
 *
 * Threading: the vCPU's thread.
 */
#include "engine/bt/tr.h"

#define RUN_MAX 16 /* words; a range of 128 bytes begins in one of a page's first 62 lines */

static bool is_gpr64(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_GPR64;
}

static bool is_push(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
	return in->mnemonic == ZYDIS_MNEMONIC_PUSH && in->operand_width == 64 && (is_gpr64(&op[0]) || op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE);
}

static bool is_pop(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
	return in->mnemonic == ZYDIS_MNEMONIC_POP && in->operand_width == 64 && is_gpr64(&op[0]) && op[0].reg.value != ZYDIS_REGISTER_RSP;
}

/* Moves and sums between registers, at most one of which lives in memory: they leave rcx, the delta, alone. */
static bool is_neutral(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_TEST:
		break;
	default:
		return false;
	}
	u32 homed = 0;
	for (u32 i = 0; i < in->operand_count_visible; i++) {
		if (op[i].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
			continue;
		if (op[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
			return false;
		ZydisRegisterClass c = ZydisRegisterGetClass(op[i].reg.value);
		int g = tr_gpr(op[i].reg.value);
		if ((c != ZYDIS_REGCLASS_GPR64 && c != ZYDIS_REGCLASS_GPR32) || (i == 0 && g == R_RSP))
			return false;
		homed += tr_host((u32)g) < 0;
	}
	return homed <= 1;
}

struct scan {
	u32 words, insns;
};

/* How far does the run that begins with the current instruction reach? */
static struct scan scan(const struct tr *t, bool push)
{
	ZydisDecoder d;
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	struct scan s = {1, 1};
	u32 off = PAGE_OFFSET(t->b->gva) + (u32)(t->next - t->b->gva);
	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (u32 n = 2; n <= 2 * RUN_MAX && s.words < RUN_MAX && off < PAGE_SIZE && t->b->ninsns + n < BT_MAX_INSNS; n++) {
		u32 left = (u32)PAGE_SIZE - off;
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, t->page + off, left < 15 ? left : 15, &in, op)))
			break;
		off += in.length;
		bool ret = !push && in.mnemonic == ZYDIS_MNEMONIC_RET && in.raw.imm[0].size == 0 && in.operand_width == 64 &&
			   in.meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR && !(in.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE);
		if (ret || (push ? is_push(&in, op) : is_pop(&in, op)))
			s = (struct scan){s.words + 1, n};
		else if (!is_neutral(&in, op))
			break;
		if (ret)
			break;
	}
	return s;
}

void tr_run_begin(struct tr *t)
{
	bool push = is_push(&t->in, t->op);
	bool room = t->nstubs < TR_STUBS - 64; /* the block is not ended inside a run */
	if (!room || t->run_left || t->one_by_one || t->poll_after_next || t->b->gpfn2 || (!push && !is_pop(&t->in, t->op)))
		return;
	struct scan s = scan(t, push);
	if (s.words < 2)
		return;
	struct emit *e = &t->e;
	u32 low = push ? H_R10 : G_RSP;
	tr_guard(t, 120);
	if (push)
		e_lea(e, true, H_R10, G_RSP, H_RSP, 0, -8 * (i32)s.words);
	e_rorx(e, false, H_RCX, low, 6);
	e_shrx_fs(e, H_RCX, s.words <= 8 ? FS(k_line[0]) : FS(k_line[1]), H_RCX);
	t->run_stub = tr_run_jump(t, s.insns);
	tr_run_lookup(t, low, push);
	t->run_left = s.insns;
}

void tr_run_next(struct tr *t)
{
	if (t->run_left && --t->run_left == 0)
		t->stub[t->run_stub].back = t->e.pos;
}
