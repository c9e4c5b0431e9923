/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared look-ups. Within a block many accesses go to addresses that are one value plus constants: fields of a structure, slots of the stack, what a
 * function saves and restores, variables near rip. They lie in one page nearly always: the first of them checks that for the whole range and
 * keeps the delta in memory (bt_vcpu.shared), the others only load it.
 *
 * A plan is made for each block before anything is emitted. Values are followed through moves and sums: a register is a root plus a constant, and
 * anything else that is written to it makes a new root.
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

#define LINE 64
#define SPAN_MAX (BT_SHARE_LINES * LINE)
#define ACCESSES (2 * TR_INSNS)

struct value {
	u32 root;
	i64 plus;
};

struct access {
	u16 insn;
	u8 use;
	u8 size;
	bool write;
	bool rip, stack; /* derived from rip, from rsp */
	struct value at;
	u32 exits; /* conditional jumps that may leave the block before it */
};

struct plan {
	struct tr *t;
	struct value reg[16];
	u32 roots, exits;
	u32 rip_root; /* stands for 0: what is added to it is an address */
	u32 stack_root; /* what rsp is derived from */
	u32 n;
	struct access list[ACCESSES];
};

static void new_root(struct plan *p, u32 reg)
{
	p->reg[reg] = (struct value){p->roots++, 0};
	if (reg == R_RSP)
		p->stack_root = p->reg[reg].root;
}

static void forget_everything(struct plan *p)
{
	for (u32 i = 0; i < 16; i++)
		new_root(p, i);
	p->rip_root = p->roots++;
}

/* ---- what is accessed */

static void note_access(struct plan *p, u32 insn, enum tr_use use, struct value at, u32 size, bool write)
{
	if (size == 0 || size > LINE || p->n == ACCESSES)
		return;
	p->list[p->n++] = (struct access){.insn = (u16)insn,
					  .use = (u8)use,
					  .size = (u8)size,
					  .write = write,
					  .rip = at.root == p->rip_root,
					  .stack = at.root == p->stack_root,
					  .at = at,
					  .exits = p->exits};
}

static struct value plus(struct value v, i64 n)
{
	v.plus += n;
	return v;
}

static bool writes(const ZydisDecodedOperand *o) { return (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0; }

/* Those whose operand goes through tr_access. */
static bool accesses_operand(const struct tr *t)
{
	switch ((enum bt_kind)t->insn->row.kind) {
	case K_AUTO:
	case K_MOV_SEG:
	case K_STRING: /* the SSE move of that name */
	case K_PUSH:
	case K_CALL:
	case K_JMP:
		return true;
	case K_BT:
		return t->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	default:
		return false;
	}
}

static void note_operand(struct plan *p, u32 insn)
{
	struct tr *t = p->t;
	if (!accesses_operand(t))
		return;
	for (u32 i = 0; i < t->in->operand_count; i++) {
		const ZydisDecodedOperand *m = &t->op[i];
		if (m->type != ZYDIS_OPERAND_TYPE_MEMORY || m->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM || m->mem.type != ZYDIS_MEMOP_TYPE_MEM ||
		    !tr_plain_base(t, m))
			continue;
		i64 disp = m->mem.disp.has_displacement ? m->mem.disp.value : 0;
		if (m->mem.base == ZYDIS_REGISTER_RIP)
			note_access(p, insn, USE_OPERAND, (struct value){p->rip_root, (i64)t->next + disp}, m->size / 8u, writes(m));
		else if (disp < INT32_MAX - SPAN_MAX && disp > INT32_MIN + SPAN_MAX)
			note_access(p, insn, USE_OPERAND, plus(p->reg[tr_gpr(m->mem.base)], disp), m->size / 8u, writes(m));
	}
}

static bool is_near64(const struct tr *t)
{
	return t->in->operand_width == 64 && t->in->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR &&
	       !(t->in->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE);
}

static void note_stack(struct plan *p, u32 insn)
{
	if (!is_near64(p->t))
		return;
	switch ((enum bt_kind)p->t->insn->row.kind) {
	case K_PUSH:
	case K_CALL:
	case K_PUSHF:
		note_access(p, insn, USE_STACK, plus(p->reg[R_RSP], -8), 8, true);
		break;
	case K_POP:
	case K_RET:
		note_access(p, insn, USE_STACK, p->reg[R_RSP], 8, false);
		break;
	case K_LEAVE:
		note_access(p, insn, USE_STACK, p->reg[R_RBP], 8, false);
		break;
	default:
		break;
	}
}

/* ---- what becomes of the registers */

static bool is_reg64(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_GPR64;
}

static bool is_imm(const ZydisDecodedOperand *o) { return o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE; }

/* The value that a move, sum or LEA gives its first operand. */
static bool followed(const struct plan *p, struct value *out)
{
	const struct tr *t = p->t;
	const ZydisDecodedOperand *o = t->op;
	if (t->in->operand_count_visible == 0 || !is_reg64(&o[0]))
		return false;
	struct value old = p->reg[tr_gpr(o[0].reg.value)];
	switch (t->in->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		if (!is_reg64(&o[1]))
			return false;
		*out = p->reg[tr_gpr(o[1].reg.value)];
		return true;
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
		*out = is_imm(&o[1]) ? plus(old, t->in->mnemonic == ZYDIS_MNEMONIC_ADD ? o[1].imm.value.s : -o[1].imm.value.s) : old;
		return is_imm(&o[1]);
	case ZYDIS_MNEMONIC_INC:
		*out = plus(old, 1);
		return true;
	case ZYDIS_MNEMONIC_DEC:
		*out = plus(old, -1);
		return true;
	case ZYDIS_MNEMONIC_LEA:
		if (!tr_plain_base(t, &o[1]) || o[1].mem.base == ZYDIS_REGISTER_RIP)
			return false;
		*out = plus(p->reg[tr_gpr(o[1].mem.base)], o[1].mem.disp.has_displacement ? o[1].mem.disp.value : 0);
		return true;
	default:
		return false;
	}
}

static void forget_written(struct plan *p)
{
	const struct tr *t = p->t;
	for (u32 i = 0; i < t->in->operand_count; i++) {
		int g = t->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER && writes(&t->op[i]) ? tr_gpr(t->op[i].reg.value) : -1;
		if (g >= 0)
			new_root(p, (u32)g);
	}
}

static void follow_plain(struct plan *p)
{
	struct value v;
	if (followed(p, &v))
		p->reg[tr_gpr(p->t->op[0].reg.value)] = v;
	else
		forget_written(p);
}

static void follow_stack(struct plan *p, i64 change)
{
	struct value rsp = p->reg[R_RSP];
	forget_written(p); /* rsp among them */
	bool rsp_too = p->t->insn->row.kind == K_POP && is_reg64(&p->t->op[0]) && p->t->op[0].reg.value == ZYDIS_REGISTER_RSP;
	if (!rsp_too && is_near64(p->t)) {
		p->reg[R_RSP] = plus(rsp, change);
		p->stack_root = rsp.root;
	}
}

static void follow_leave(struct plan *p)
{
	struct value frame = p->reg[R_RBP];
	forget_written(p);
	if (!is_near64(p->t))
		return;
	p->reg[R_RSP] = plus(frame, 8);
	p->stack_root = frame.root;
}

static bool names_special_register(const struct tr *t)
{
	for (u32 i = 0; i < t->in->operand_count_visible; i++) {
		ZydisRegisterClass c = t->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetClass(t->op[i].reg.value) : ZYDIS_REGCLASS_INVALID;
		if (c == ZYDIS_REGCLASS_SEGMENT || c == ZYDIS_REGCLASS_CONTROL || c == ZYDIS_REGCLASS_DEBUG)
			return true;
	}
	return false;
}

/* Zydis does not say that all of them move the pointers. */
static bool is_string(const struct tr *t)
{
	return t->in->meta.category == ZYDIS_CATEGORY_STRINGOP || t->in->meta.category == ZYDIS_CATEGORY_IOSTRINGOP;
}

static void follow_string(struct plan *p)
{
	forget_written(p);
	new_root(p, R_RCX);
	new_root(p, R_RSI);
	new_root(p, R_RDI);
}

static void follow(struct plan *p)
{
	struct tr *t = p->t;
	if (is_string(t)) {
		follow_string(p);
		return;
	}
	switch ((enum bt_kind)t->insn->row.kind) {
	case K_AUTO:
	case K_LEA:
	case K_BT:
	case K_NOP:
	case K_PREFETCH:
	case K_CLI:
	case K_STI:
		follow_plain(p);
		break;
	case K_MOV_SEG:
		if (names_special_register(t))
			forget_everything(p);
		else
			follow_plain(p);
		break;
	case K_STRING: /* the SSE move of that name */
		follow_plain(p);
		break;
	case K_PUSH:
	case K_PUSHF:
		follow_stack(p, -8);
		break;
	case K_POP:
		follow_stack(p, 8);
		break;
	case K_LEAVE:
		follow_leave(p);
		break;
	case K_JCC:
		p->exits++;
		break;
	default: /* ends the block, or does more than a plan should have to know */
		forget_everything(p);
		break;
	}
}

/* ---- which accesses go together */

/* The bits above the page's offset; nothing but rip-relative addresses is known so well. */
static bool one_page(i64 low, i64 high) { return (u64)low >> PAGE_SHIFT == (u64)(high - 1) >> PAGE_SHIFT; }

static bool fits(const struct tr_group *g, const struct access *a)
{
	i64 low = a->at.plus < g->low ? a->at.plus : g->low;
	i64 high = a->at.plus + a->size > g->high ? a->at.plus + a->size : g->high;
	return g->root == a->at.root && (g->write || !a->write) && (a->rip ? one_page(low, high) : high - low <= SPAN_MAX);
}

/* Will the same value's neighbourhood be written to, whatever the block does until then? The stack's will in any case, and its pages are. */
static bool written_soon(const struct plan *p, u32 first)
{
	const struct access *a = &p->list[first];
	for (u32 i = first; i < p->n; i++) {
		const struct access *b = &p->list[i];
		i64 apart = b->at.plus - a->at.plus;
		if (b->exits != a->exits && !a->stack)
			break;
		if (b->at.root == a->at.root && b->write && apart < SPAN_MAX / 2 && apart > -SPAN_MAX / 2)
			return true;
	}
	return false;
}

static void join(struct plan *p, u32 first)
{
	struct tr *t = p->t;
	const struct access *a = &p->list[first];
	u32 i = 0;
	while (i < t->ngroups && !fits(&t->group[i], a))
		i++;
	if (i == BT_SHARED || (a->rip && !one_page(a->at.plus, a->at.plus + a->size)))
		return;
	struct tr_group *g = &t->group[i];
	if (i == t->ngroups) {
		*g = (struct tr_group){.root = a->at.root, .low = a->at.plus, .high = a->at.plus + a->size, .write = written_soon(p, first)};
		t->ngroups++;
	}
	if (a->at.plus < g->low)
		g->low = a->at.plus;
	if (a->at.plus + a->size > g->high)
		g->high = a->at.plus + a->size;
	g->uses++;
	g->last = a->insn;
	t->list[a->insn].group[a->use] = (u8)i;
	t->list[a->insn].at[a->use] = a->at.plus;
}

static void leave_alone(struct tr *t)
{
	for (u32 i = 0; i < t->ninsns; i++)
		for (u32 use = 0; use < 2; use++) {
			u8 *g = &t->list[i].group[use];
			if (*g != TR_ALONE && t->group[*g].uses < 2)
				*g = TR_ALONE;
		}
}

void tr_plan(struct tr *t)
{
	struct plan p;
	p.t = t;
	p.roots = p.exits = p.n = 0;
	forget_everything(&p);
	for (u32 i = 0; i < t->ninsns && t->list[i].valid; i++) {
		tr_set_insn(t, i);
		note_operand(&p, i);
		note_stack(&p, i);
		follow(&p);
	}
	for (u32 i = 0; i < p.n; i++)
		join(&p, i);
	leave_alone(t);
}

/* ---- emission */

bool tr_shared(const struct tr *t, enum tr_use use) { return t->insn->group[use] != TR_ALONE; }

bool tr_shares_behind(const struct tr *t, u32 insn)
{
	for (u32 i = 0; i < t->ngroups; i++)
		if (t->group[i].looked && t->group[i].last >= insn)
			return true;
	return false;
}

static void check_range(struct tr *t, const struct tr_group *g, u32 low)
{
	u32 lines = (u32)(g->high - g->low + LINE - 1) / LINE;
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

static i32 slot_of(const struct tr *t, u32 group) { return FS(shared) + (i32)(8 * group); }

/* Not in r11, which the look-up or the instruction's other operand may want. */
static u32 read_base(struct tr *t, int base)
{
	u32 h = tr_read_guest(t, (u32)base, T_ADDR);
	if (h != H_R11)
		return h;
	e_mov(&t->e, T_ADDR, H_R11);
	return T_ADDR;
}

static struct tr_place look_first(struct tr *t, struct tr_group *g, int base, i64 disp, i64 at, bool write)
{
	struct emit *e = &t->e;
	tr_mark(t, INSN_FIRST);
	tr_guard(t, 90);
	tr_forget_delta(t); /* of the operand that is pushed */
	g->looked = true;
	if (base < 0) {
		e_mov_imm(e, T_ADDR, PAGE_BASE((u64)at));
		look(t, g, T_ADDR, (i64)PAGE_OFFSET((u64)at), write);
		e_lea(e, true, H_RCX, H_RCX, T_ADDR, 0, 0);
		return (struct tr_place){-1, (i32)PAGE_OFFSET((u64)at)};
	}
	i64 from_low = at - g->low;
	u32 h = read_base(t, base);
	u32 low = disp == from_low ? h : (u32)T_ADDR;
	if (disp != from_low)
		e_lea(e, true, low, h, H_RSP, 0, (i32)(disp - from_low));
	check_range(t, g, low);
	look(t, g, low, from_low, write);
	return h == T_ADDR ? (struct tr_place){T_ADDR, (i32)from_low} : (struct tr_place){(int)h, (i32)disp};
}

static struct tr_place look_again(struct tr *t, u32 group, int base, i64 disp, i64 at)
{
	tr_guard(t, 30);
	if (t->delta_in != group) {
		tr_forget_delta(t);
		e_load_fs(&t->e, H_RCX, slot_of(t, group));
	}
	if (base < 0)
		return (struct tr_place){-1, (i32)PAGE_OFFSET((u64)at)};
	if (base == R_RSP)
		disp += t->rsp_due;
	return (struct tr_place){(int)read_base(t, base), (i32)disp};
}

struct tr_place tr_share(struct tr *t, enum tr_use use, int base, i64 disp, bool write)
{
	u32 group = t->insn->group[use];
	struct tr_group *g = &t->group[group];
	i64 at = t->insn->at[use];
	struct tr_place p = g->looked ? look_again(t, group, base, disp, at) : look_first(t, g, base, disp, at, write);
	tr_guard(t, 90); /* what is done with the place */
	t->delta = t->delta_in = (u8)group;
	return p;
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

void tr_forget_delta(struct tr *t) { lose_delta(t, wanted_again(t, t->delta_in)); }

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

static const ZydisDecodedOperand *memory_operand(const struct tr *t)
{
	for (u32 i = 0; i < t->in->operand_count_visible; i++)
		if (t->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && t->op[i].mem.type == ZYDIS_MEMOP_TYPE_MEM)
			return &t->op[i];
	return NULL;
}

static bool names_rsp(const struct tr *t)
{
	for (u32 i = 0; i < t->in->operand_count_visible; i++)
		if (t->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER && tr_gpr(t->op[i].reg.value) == R_RSP)
			return true;
	return false;
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
	if (names_special_register(t) || (t->in->attributes & ZYDIS_ATTRIB_HAS_LOCK))
		return false;
	return t->in->mnemonic == ZYDIS_MNEMONIC_NOP || !memory_operand(t) || looked_before(t, USE_OPERAND);
}

/* May rsp stay as it is, with rsp_due behind it, while this instruction runs? */
static bool can_owe_rsp(const struct tr *t)
{
	bool stack = is_near64(t) && looked_before(t, USE_STACK) && !memory_operand(t);
	switch ((enum bt_kind)t->insn->row.kind) {
	case K_PUSH:
	case K_POP:
		return stack && !names_rsp(t) && !names_special_register(t);
	case K_RET:
		return stack && tr_uses_ras(t);
	case K_CALL:
		return stack && tr_uses_ras(t) && is_imm(&t->op[0]);
	case K_AUTO:
	case K_MOV_SEG:
	case K_NOP:
		return is_harmless(t) && !names_rsp(t);
	default:
		return false;
	}
}

/* Does this instruction leave rcx alone, or say so before it takes it, and never begin again? */
static bool can_hold_delta(const struct tr *t)
{
	switch ((enum bt_kind)t->insn->row.kind) {
	case K_AUTO:
		return !memory_operand(t) || looked_before(t, USE_OPERAND);
	case K_MOV_SEG:
		return !names_special_register(t) && (!memory_operand(t) || looked_before(t, USE_OPERAND));
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
