/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jumps, calls, returns and loops.
 *
 * Order inside each sequence: whatever may fault comes before the first change of guest-visible state.
 *
 * Threading: the vCPU's thread.
 */
#include "engine/bt/tr.h"

/* Before a jump backwards: a loop must notice a kick. Where the block has looked something up on the way here, it did. */
static void poll(struct tr *t)
{
	if (t->looked)
		return;
	tr_forget_delta(t);
	e_load_fs(&t->e, H_RCX, FS(go));
	tr_jrcxz(t, EV_POLL);
}

void tr_add_exit(struct tr *t, u32 rel32, gva_t gva, bool checked, bool careful)
{
	if (t->nexits == TR_EXITS)
		t->e.full = true;
	else
		t->exit[t->nexits++] = (struct tr_exit){.rel32 = rel32, .gva = gva, .checked = checked, .careful = careful};
}

void tr_exit_to(struct tr *t, int cc, gva_t gva)
{
	u32 rel32 = cc < 0 ? e_jmp(&t->e, t->e.pos) : e_jcc(&t->e, (u32)cc, t->e.pos);
	tr_add_exit(t, rel32, gva, false, false);
}

/* r11 = index of the jump cache's entry for the address in r10; anything but a hit leaves to C, which carries the whole instruction out. Nothing
 * visible has changed yet, so that a bad target faults at this instruction. False when there is no in-line look-up in this mode. */
static bool jump_cache(struct tr *t, u32 *after_event)
{
	struct emit *e = &t->e;
	u32 u = t->user;
	t->end = true;
	tr_forget_delta(t);
	tr_guard(t, 110);
	if (t->v->jc_mode[u] != t->mode) {
		e_store_fs(e, FS(target), H_R10);
		tr_to_event(t, EV_INDIRECT, t->site);
		return false;
	}
	e_pext_fs(e, true, H_RCX, H_R10, FS(jc_mask) + (i32)(8 * u));
	e_lea(e, false, H_R11, H_RCX, H_RCX, 0, 0);
	e_load_fs_index(e, H_RCX, H_R11, FS(jc) + (i32)(u * sizeof t->v->jc[0]));
	e_lea(e, true, H_RCX, H_RCX, H_R10, 0, 0);
	u32 hit = e_jrcxz(e);
	e_store_fs(e, FS(target), H_R10);
	if (after_event) { /* C does the guest's part of the call; the return stack must have its word all the same */
		tr_reloc(t, RELOC_EVENT, e->pos);
		e_mov_imm(e, H_RCX, t->bi);
		e_mov_imm(e, H_R11, t->site);
		e_call(e, t->v->ev_off[EV_INDIRECT]);
		*after_event = e_jmp(e, e->pos);
	} else {
		tr_to_event(t, EV_INDIRECT, t->site);
	}
	e_fix8(e, hit, e->pos);
	return true;
}

static i32 jump_cache_host(const struct tr *t)
{
	return FS(jc) + (i32)(t->user * sizeof t->v->jc[0]) + 8;
}

/* ---- the return stack (ras.c). It serves the mode that the jump cache serves. */

bool tr_uses_ras(const struct tr *t)
{
	return t->v->jc_mode[t->user] == t->mode;
}

/* Behind a call: where the host comes back to. The guest's return may want another address, and much may have happened to this page meanwhile. */
static void landing(struct tr *t)
{
	struct emit *e = &t->e;
	e_mov_imm(e, H_RCX, 0 - t->next);
	tr_reloc(t, RELOC_NEG_GVA, e->pos - 8);
	e_lea(e, true, H_RCX, H_RCX, H_R10, 0, 0);
	u32 same = e_jrcxz(e);
	tr_reloc(t, RELOC_OUT, e_jmp(e, t->v->ras_miss_off[t->user]));
	e_fix8(e, same, e->pos);
	tr_add_exit(t, e_jmp(e, e->pos), t->next, true, false);
}

static gva_t direct_target(const struct tr *t)
{
	return t->next + (u64)t->op[0].imm.value;
}

static bool is_direct(const struct tr *t)
{
	return t->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}

void tr_insn_call(struct tr *t, u32 arg)
{
	if (t->in->is_far || tr_odd_width(t)) {
		tr_interp(t, true);
		return;
	}
	if (is_direct(t)) {
		tr_push_next(t); /* looks up its page, or the block did before: no poll */
		tr_settle_rsp(t);
		if (tr_uses_ras(t)) {
			tr_add_exit(t, e_call(&t->e, t->e.pos), direct_target(t), false, false);
			landing(t);
		} else {
			tr_exit_to(t, -1, direct_target(t));
		}
	} else {
		u32 h = tr_fetch64(t, &t->op[0], H_R10);
		if (h != H_R10)
			e_mov(&t->e, H_R10, h);
		tr_mark(t, INSN_CALL);
		u32 after_event;
		if (!jump_cache(t, &after_event))
			return;
		e_load_fs_index(&t->e, H_RCX, H_R11, jump_cache_host(t));
		e_store_fs(&t->e, FS(target), H_RCX);
		tr_push_next(t);
		tr_settle_rsp(t);
		e_load_fs(&t->e, H_RCX, FS(target));
		e8(&t->e, 0xff); /* call rcx: measured faster than a call through memory */
		e8(&t->e, 0xd1);
		e_patch32(&t->e, after_event, t->e.pos - (after_event + 4));
		landing(t);
	}
	t->end = true;
}

void tr_insn_ret(struct tr *t, u32 arg)
{
	if (t->in->is_far || tr_odd_width(t)) {
		tr_interp(t, true);
		return;
	}
	u32 extra = t->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? (u16)t->op[0].imm.value : 0;
	if (extra && !tr_uses_ras(t)) {
		tr_interp(t, true);
		return;
	}
	tr_load(t, H_R10, tr_prepare_pop(t));
	if (!tr_uses_ras(t)) {
		tr_mark(t, INSN_RET);
		jump_cache(t, NULL);
		return;
	}
	tr_add_to_rsp(t, 8 + (i32)extra);
	tr_reloc(t, RELOC_SITE, t->e.pos + 2); /* behind prefix and opcode, however long the constant is */
	e_mov_imm(&t->e, H_R11, t->site | (u64)extra << 32);
	e8(&t->e, 0xc3);
	t->end = true;
}

void tr_insn_jmp(struct tr *t, u32 arg)
{
	if (t->in->is_far || tr_odd_width(t)) {
		tr_interp(t, true);
	} else if (is_direct(t)) {
		if (direct_target(t) <= t->gva)
			poll(t);
		tr_exit_to(t, -1, direct_target(t));
	} else {
		u32 h = tr_fetch64(t, &t->op[0], H_R10);
		if (h != H_R10)
			e_mov(&t->e, H_R10, h);
		if (jump_cache(t, NULL))
			e_jmp_fs_index(&t->e, H_R11, jump_cache_host(t));
	}
	t->end = true;
}

void tr_insn_jcc(struct tr *t, u32 cc)
{
	if (tr_odd_width(t)) {
		tr_interp(t, true);
		return;
	}
	t->delta = t->delta_in;
	t->r11 = t->r11_in;
	if (direct_target(t) <= t->gva)
		poll(t);
	tr_exit_to(t, (int)cc, direct_target(t));
}

static void count(struct tr *t, bool loop)
{
	struct emit *e = &t->e;
	if (tr_odd_width(t) || t->in->address_width != 64) {
		tr_interp(t, true);
		return;
	}
	if (direct_target(t) <= t->gva)
		poll(t);
	if (loop)
		e_lea(e, true, G_RCX, G_RCX, H_RSP, 0, -1);
	e_mov(e, H_RCX, G_RCX);
	u32 zero = e_jrcxz(e);
	tr_exit_to(t, -1, loop ? direct_target(t) : t->next);
	e_fix8(e, zero, e->pos);
	tr_exit_to(t, -1, loop ? t->next : direct_target(t));
	t->end = true;
}

void tr_insn_jrcxz(struct tr *t, u32 arg)
{
	count(t, false);
}

void tr_insn_loop(struct tr *t, u32 arg)
{
	count(t, true);
}
