/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which accesses of a block share a look-up (tr_group.c), decided before anything is emitted. Values are followed through moves and sums: a register
 * is a root plus a constant, and anything else that is written to it makes a new root. The sum of two roots, as in a[i], is a root too. Accesses around
 * one root, close enough to lie in one page, form a group.
 *
 * A plan may be wrong about what is accessed (an instruction may be interpreted after all), never about values.
 *
 * Threading: the vCPU's thread.
 */
#include "engine/bt/tr.h"

#define SPAN_MAX (BT_SHARE_LINES * TR_LINE)
#define ACCESSES (2 * TR_INSNS)
#define CANDIDATES 64
#define PLUS_MAX (1ll << 40) /* scaled again and again, constants grow */
#define SUMS 32

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
	u8 group;  /* candidate, or TR_ALONE */
};

/* The root that stands for root a plus `scale` times root b. */
struct sum {
	u32 a, b, scale, root;
};

struct plan {
	struct tr *t;
	struct value reg[16];
	u32 roots, exits;
	u32 rip_root;	/* stands for 0: what is added to it is an address */
	u32 stack_root; /* what rsp is derived from */
	u32 n, ncandidates, nsums;
	struct access list[ACCESSES];
	struct tr_group candidate[CANDIDATES];
	struct sum sum[SUMS];
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

static struct value plus(struct value v, i64 n)
{
	v.plus = (i64)((u64)v.plus + (u64)n);
	return v;
}

static u32 root_of_sum(struct plan *p, u32 a, u32 b, u32 scale)
{
	if (scale == 1 && b < a)
		return root_of_sum(p, b, a, scale);
	for (u32 i = 0; i < p->nsums; i++)
		if (p->sum[i].a == a && p->sum[i].b == b && p->sum[i].scale == scale)
			return p->sum[i].root;
	if (p->nsums < SUMS)
		p->sum[p->nsums++] = (struct sum){a, b, scale, p->roots};
	return p->roots++;
}

static struct value sum(struct plan *p, struct value a, struct value b, u32 scale)
{
	return (struct value){root_of_sum(p, a.root, b.root, scale), (i64)((u64)a.plus + (u64)b.plus * scale)};
}

/* What the address of a memory operand with a base register, and perhaps an index, amounts to. */
static struct value address_of(struct plan *p, const struct bt_operand *m)
{
	struct value base = p->reg[tr_gpr(m->mem.base)];
	if (m->mem.index != ZYDIS_REGISTER_NONE)
		base = sum(p, base, p->reg[tr_gpr(m->mem.index)], m->mem.scale);
	return plus(base, m->mem.disp);
}

/* ---- what is accessed */

static void note_access(struct plan *p, u32 insn, enum tr_use use, struct value at, u32 size, bool write)
{
	bool far = at.root != p->rip_root && (at.plus > PLUS_MAX || at.plus < -PLUS_MAX);
	if (size == 0 || size > TR_LINE || p->n == ACCESSES || far)
		return;
	p->list[p->n++] = (struct access){.insn = (u16)insn,
					  .use = (u8)use,
					  .size = (u8)size,
					  .write = write,
					  .rip = at.root == p->rip_root,
					  .stack = at.root == p->stack_root,
					  .at = at,
					  .exits = p->exits,
					  .group = TR_ALONE};
}

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
	if (!accesses_operand(t) || t->in->memory == BT_OPERANDS)
		return;
	const struct bt_operand *m = &t->op[t->in->memory];
	if (!tr_plain_address(t, m))
		return;
	i64 disp = m->mem.disp;
	if (m->mem.base == ZYDIS_REGISTER_RIP)
		note_access(p, insn, USE_OPERAND, (struct value){p->rip_root, (i64)t->next + disp}, m->size / 8u, tr_writes(m));
	else if (disp < INT32_MAX - SPAN_MAX && disp > INT32_MIN + SPAN_MAX)
		note_access(p, insn, USE_OPERAND, address_of(p, m), m->size / 8u, tr_writes(m));
}

bool tr_is_near64(const struct tr *t)
{
	return t->in->operand_width == 64 && !t->in->is_far && !tr_odd_width(t);
}

static void note_stack(struct plan *p, u32 insn)
{
	if (!tr_is_near64(p->t))
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

static bool is_reg64(const struct bt_operand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && tr_is_gpr64(o->reg.value);
}

static bool is_imm(const struct bt_operand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}

static i64 immediate(const struct bt_operand *o)
{
	return is_imm(o) ? o->imm.value : 0;
}

/* The value that a move, sum or LEA gives its first operand. */
static bool followed(struct plan *p, struct value *out)
{
	const struct tr *t = p->t;
	const struct bt_operand *o = t->op;
	if (!is_reg64(&o[0]))
		return false;
	struct value old = p->reg[tr_gpr(o[0].reg.value)];
	switch (t->in->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		if (!is_reg64(&o[1]))
			return false;
		*out = p->reg[tr_gpr(o[1].reg.value)];
		return true;
	case ZYDIS_MNEMONIC_ADD:
		if (is_reg64(&o[1]))
			*out = sum(p, old, p->reg[tr_gpr(o[1].reg.value)], 1);
		else
			*out = plus(old, immediate(&o[1]));
		return is_reg64(&o[1]) || is_imm(&o[1]);
	case ZYDIS_MNEMONIC_SUB:
		*out = plus(old, -immediate(&o[1]));
		return is_imm(&o[1]);
	case ZYDIS_MNEMONIC_INC:
		*out = plus(old, 1);
		return true;
	case ZYDIS_MNEMONIC_DEC:
		*out = plus(old, -1);
		return true;
	case ZYDIS_MNEMONIC_LEA:
		if (!tr_plain_address(t, &o[1]) || o[1].mem.base == ZYDIS_REGISTER_RIP)
			return false;
		*out = address_of(p, &o[1]);
		return true;
	default:
		return false;
	}
}

static void forget_written(struct plan *p)
{
	for (u32 left = p->t->in->written; left; left &= left - 1)
		new_root(p, (u32)__builtin_ctz(left));
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
	if (!rsp_too && tr_is_near64(p->t)) {
		p->reg[R_RSP] = plus(rsp, change);
		p->stack_root = rsp.root;
	}
}

static void follow_leave(struct plan *p)
{
	struct value frame = p->reg[R_RBP];
	forget_written(p);
	if (!tr_is_near64(p->t))
		return;
	p->reg[R_RSP] = plus(frame, 8);
	p->stack_root = frame.root;
}

/* Zydis does not say that all of them move the pointers. */
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
	if (t->in->is_string) {
		follow_string(p);
		return;
	}
	switch ((enum bt_kind)t->insn->row.kind) {
	case K_AUTO:
	case K_STRING: /* the SSE move of that name */
	case K_LEA:
	case K_BT:
	case K_NOP:
	case K_PREFETCH:
	case K_CLI:
	case K_STI:
		follow_plain(p);
		break;
	case K_MOV_SEG:
		if (t->in->special)
			forget_everything(p);
		else
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
static bool one_page(i64 low, i64 high)
{
	return (u64)low >> PAGE_SHIFT == (u64)(high - 1) >> PAGE_SHIFT;
}

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
	struct access *a = &p->list[first];
	u32 i = 0;
	while (i < p->ncandidates && !fits(&p->candidate[i], a))
		i++;
	if (i == CANDIDATES || (a->rip && !one_page(a->at.plus, a->at.plus + a->size)))
		return;
	struct tr_group *g = &p->candidate[i];
	if (i == p->ncandidates) {
		*g = (struct tr_group){
			.root = a->at.root, .low = a->at.plus, .high = a->at.plus + a->size, .write = written_soon(p, first)};
		p->ncandidates++;
	}
	if (a->at.plus < g->low)
		g->low = a->at.plus;
	if (a->at.plus + a->size > g->high)
		g->high = a->at.plus + a->size;
	g->uses++;
	g->last = a->insn;
	a->group = (u8)i;
}

/* Candidates with several accesses become groups of the block, as many as it may have. */
static void choose(struct plan *p)
{
	struct tr *t = p->t;
	u8 number[CANDIDATES];
	for (u32 i = 0; i < p->ncandidates; i++) {
		bool taken = p->candidate[i].uses >= 2 && t->ngroups < BT_SHARED;
		number[i] = taken ? (u8)t->ngroups : TR_ALONE;
		if (taken)
			t->group[t->ngroups++] = p->candidate[i];
	}
	for (u32 i = 0; i < p->n; i++) {
		const struct access *a = &p->list[i];
		if (a->group == TR_ALONE)
			continue;
		t->list[a->insn].group[a->use] = number[a->group];
		t->list[a->insn].at[a->use] = a->at.plus;
	}
}

void tr_plan(struct tr *t)
{
	struct plan p;
	p.t = t;
	p.roots = p.exits = p.n = p.ncandidates = p.nsums = 0;
	forget_everything(&p);
	for (u32 i = 0; i < t->ninsns && t->list[i].is->valid; i++) {
		tr_set_insn(t, i);
		note_operand(&p, i);
		note_stack(&p, i);
		follow(&p);
	}
	for (u32 i = 0; i < p.n; i++)
		join(&p, i);
	choose(&p);
}
