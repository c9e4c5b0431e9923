/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared look-ups. Within a block many accesses go to addresses that are one value plus constants: fields of a structure, slots of the stack, what a
 * function saves and restores, variables near rip, an element that is read and then written. They lie in one page nearly always: the first of them checks that for the whole range, and the
 * others use its delta, which stays in rcx or, when rcx is wanted otherwise, waits in memory (bt_vcpu.shared). tr_plan.c decides which go together.
 *
 * Three things can be other than hoped for; each goes on at the same instruction in a *careful* block, which shares nothing:
 *   - the range may cross a page;
 *   - a look-up for writing, made by an access that only reads, finds nothing: a page must not become dirty, nor fault, for a store that may not come;
 *   - the first access had to be interpreted (a device, a page with code), so that there is no delta to share (events.c).
 * Whatever makes entries of the shadow tables go between two accesses counts an epoch, and the block is left (events.c).
 *
 * Threading: the vCPU's thread.
 */
#include "engine/bt/tr.h"

bool tr_shared(const struct tr *t, enum tr_use use)
{
	return t->insn->group[use] != TR_ALONE;
}

bool tr_shares_behind(const struct tr *t, u32 insn)
{
	for (u32 i = 0; i < t->ngroups; i++)
		if (t->group[i].looked && t->group[i].last >= insn)
			return true;
	return false;
}

static u32 lines_of(const struct tr_group *g)
{
	return (u32)(g->high - g->low + TR_LINE - 1) / TR_LINE;
}

/* By its last byte, which must not lie in the page's first lines. */
static void check_range_from_above(struct tr *t, const struct tr_group *g, u32 low)
{
	u32 log = 0;
	while (1u << log < lines_of(g))
		log++;
	e_lea(&t->e, false, H_RCX, low, H_RSP, 0, (i32)(g->high - g->low - 1));
	e_pext_fs(&t->e, false, H_RCX, H_RCX, FS(k_above) + (i32)(8 * log));
	tr_jump_careful(t);
}

/* By its first byte, which must not lie in the page's last lines. */
static void check_range(struct tr *t, const struct tr_group *g, u32 low)
{
	u32 lines = lines_of(g);
	e_rorx(&t->e, false, H_RCX, low, 6);
	e_shrx_fs(&t->e, H_RCX, FS(k_line) + (i32)(8 * (lines - 1)), H_RCX);
	tr_jump_careful(t);
}

/* rcx = delta of the range, whose lowest address is in `low`. */
static void look(struct tr *t, const struct tr_group *g, u32 low, i64 from_low, bool write)
{
	e_pext_fs(&t->e, true, H_RCX, low, FS(k_page));
	t->looked = true;
	tr_load_delta(t, g->write);
	if (g->write && !write)
		tr_jump_careful(t);
	else
		tr_jump_miss(t, low, (i32)from_low, g->write);
}

static i32 slot_of(const struct tr *t, u32 group)
{
	return FS(shared) + (i32)(8 * group);
}

/* Not in r11, which the look-up or the instruction's other operand may want. */
static u32 read_base(struct tr *t, int base)
{
	u32 h = tr_read_guest(t, (u32)base, T_ADDR);
	if (h != H_R11)
		return h;
	e_mov(&t->e, T_ADDR, H_R11);
	return T_ADDR;
}

static void begin_first(struct tr *t, struct tr_group *g)
{
	tr_mark(t, INSN_FIRST);
	tr_guard(t, 110);
	tr_forget_delta(t); /* of the operand that is pushed */
	g->looked = true;
}

/* The range around an address, which is host register h plus disp: checked and looked up. Stacks end with a page, and a kernel's is used up to that end
 * in each system call; other things rather begin with one. */
static void look_around(struct tr *t, const struct tr_group *g, u32 h, i64 disp, i64 at, bool write)
{
	i64 from_low = at - g->low;
	u32 low = disp == from_low ? h : (u32)T_ADDR;
	if (disp != from_low)
		e_lea(&t->e, true, low, h, H_RSP, 0, (i32)(disp - from_low));
	if (h == G_RSP)
		check_range_from_above(t, g, low);
	else
		check_range(t, g, low);
	look(t, g, low, from_low, write);
}

static struct tr_place look_first(struct tr *t, struct tr_group *g, int base, i64 disp, i64 at, bool write)
{
	struct emit *e = &t->e;
	begin_first(t, g);
	if (base < 0) {
		tr_mov_gva(t, T_ADDR, PAGE_BASE((u64)at));
		look(t, g, T_ADDR, (i64)PAGE_OFFSET((u64)at), write);
		e_lea(e, true, H_RCX, H_RCX, T_ADDR, 0, 0);
		return (struct tr_place){-1, (i32)PAGE_OFFSET((u64)at)};
	}
	u32 h = read_base(t, base);
	look_around(t, g, h, disp, at, write);
	return h == T_ADDR ? (struct tr_place){T_ADDR, (i32)(at - g->low)} : (struct tr_place){(int)h, (i32)disp};
}

/* rcx = the group's delta. */
static void have_delta(struct tr *t, u32 group)
{
	if (t->delta_in == group)
		return;
	tr_forget_delta(t);
	e_load_fs(&t->e, H_RCX, slot_of(t, group));
}

static struct tr_place look_again(struct tr *t, u32 group, int base, i64 disp, i64 at)
{
	tr_guard(t, 30);
	have_delta(t, group);
	if (base < 0)
		return (struct tr_place){-1, (i32)PAGE_OFFSET((u64)at)};
	if (base == R_RSP)
		disp += t->rsp_due;
	return (struct tr_place){(int)read_base(t, base), (i32)disp};
}

static struct tr_place shared_now(struct tr *t, u32 group, struct tr_place p)
{
	tr_guard(t, 90); /* what is done with the place */
	t->delta = t->delta_in = (u8)group;
	return p;
}

struct tr_place tr_share(struct tr *t, enum tr_use use, int base, i64 disp, bool write)
{
	u32 group = t->insn->group[use];
	struct tr_group *g = &t->group[group];
	i64 at = t->insn->at[use];
	return shared_now(t, group, g->looked ? look_again(t, group, base, disp, at) : look_first(t, g, base, disp, at, write));
}

/* ---- between instructions */

static void lose_delta(struct tr *t, bool wanted)
{
	if (t->delta_in != TR_ALONE && wanted && !t->group[t->delta_in].kept) {
		e_store_fs(&t->e, slot_of(t, t->delta_in), H_RCX);
		t->group[t->delta_in].kept = true;
	}
	t->delta = t->delta_in = TR_ALONE;
}

/* By this instruction's second access, or behind it. */
static bool wanted_again(const struct tr *t, u32 group)
{
	bool twice = t->insn->group[USE_OPERAND] == group && t->insn->group[USE_STACK] == group;
	return group != TR_ALONE && (twice || t->group[group].last > (u32)(t->insn - t->list));
}

void tr_forget_delta(struct tr *t)
{
	lose_delta(t, wanted_again(t, t->delta_in));
}

/* An index that lives in memory takes rcx from the delta, which this very access wants again. */
static void sum_address(struct tr *t, const struct bt_operand *m, u32 group)
{
	if (tr_host((u32)tr_gpr(m->mem.index)) < 0)
		lose_delta(t, t->delta_in == group || wanted_again(t, t->delta_in));
	tr_effective(t, m, T_ADDR);
	if (m->mem.base == ZYDIS_REGISTER_RSP && t->rsp_due)
		e_lea(&t->e, true, T_ADDR, T_ADDR, H_RSP, 0, t->rsp_due);
}

static struct tr_place share_sum(struct tr *t, const struct bt_operand *m, bool write)
{
	u32 group = t->insn->group[USE_OPERAND];
	struct tr_group *g = &t->group[group];
	i64 at = t->insn->at[USE_OPERAND];
	if (g->looked) {
		tr_guard(t, 50);
		sum_address(t, m, group);
		have_delta(t, group);
		return shared_now(t, group, (struct tr_place){T_ADDR, 0});
	}
	begin_first(t, g);
	sum_address(t, m, group);
	look_around(t, g, T_ADDR, 0, at, write);
	return shared_now(t, group, (struct tr_place){T_ADDR, (i32)(at - g->low)});
}

struct tr_place tr_share_operand(struct tr *t, const struct bt_operand *m, bool write)
{
	if (!tr_plain_base(t, m))
		return share_sum(t, m, write);
	return tr_share(t, USE_OPERAND, m->mem.base == ZYDIS_REGISTER_RIP ? -1 : tr_gpr(m->mem.base), m->mem.disp, write);
}

void tr_settle_rsp(struct tr *t)
{
	if (t->rsp_due)
		e_lea(&t->e, true, G_RSP, G_RSP, H_RSP, 0, t->rsp_due);
	t->rsp_due = 0;
}

/* An access of this kind by this instruction needs no look-up any more: the instruction does not begin again. */
static bool looked_before(const struct tr *t, enum tr_use use)
{
	return tr_shared(t, use) && t->group[t->insn->group[use]].looked;
}

/* Moves and sums that cannot fault: nobody sees rsp before the next instruction. */
static bool is_harmless(const struct tr *t)
{
	switch (t->in->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_NOP:
		break;
	default:
		return false;
	}
	if (t->in->special || t->in->has_lock)
		return false;
	return t->in->mnemonic == ZYDIS_MNEMONIC_NOP || !t->in->has_memory || looked_before(t, USE_OPERAND);
}

/* May rsp stay as it is, with rsp_due behind it, while this instruction runs? */
static bool can_owe_rsp(const struct tr *t)
{
	bool stack = tr_is_near64(t) && looked_before(t, USE_STACK) && !t->in->has_memory;
	switch ((enum bt_kind)t->insn->row.kind) {
	case K_PUSH:
	case K_POP:
		return stack && !t->in->names_rsp && !t->in->special;
	case K_RET:
		return stack && tr_uses_ras(t);
	case K_CALL:
		return stack && tr_uses_ras(t) && t->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	case K_AUTO:
	case K_MOV_SEG:
	case K_NOP:
		return is_harmless(t) && !t->in->names_rsp;
	default:
		return false;
	}
}

/* Does this instruction leave rcx alone, or say so before it takes it, and never begin again? */
static bool can_hold_delta(const struct tr *t)
{
	switch ((enum bt_kind)t->insn->row.kind) {
	case K_AUTO:
		return !t->in->has_memory || looked_before(t, USE_OPERAND);
	case K_MOV_SEG:
		return !t->in->special && (!t->in->has_memory || looked_before(t, USE_OPERAND));
	case K_LEA:
	case K_NOP:
		return true;
	case K_JCC:
		return t->looked;
	case K_PUSH:
	case K_POP:
	case K_RET:
	case K_CALL:
		return can_owe_rsp(t);
	default:
		return false;
	}
}

/* What an instruction is entered with must be in order before its first byte, because it may begin again there. */
void tr_between(struct tr *t, bool poll)
{
	t->delta_in = t->delta;
	t->r11_in = t->r11;
	t->r11 = BT_NO_GPR;
	tr_guard(t, 60);
	if (poll || !can_hold_delta(t))
		lose_delta(t, t->delta_in != TR_ALONE && t->group[t->delta_in].last >= (u32)(t->insn - t->list));
	t->delta = TR_ALONE;
	if (poll || !can_owe_rsp(t))
		tr_settle_rsp(t);
}
