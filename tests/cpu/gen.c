/* SPDX-License-Identifier: Apache-2.0 */
/* The shape of a case: a theme, straight instructions, forward branches, bounded loops, calls through registers and memory. See gen.h. */
#include "gen.h"

#include <string.h>

#define FIELDS_PERCENT 15
#define WRITABLE_PERCENT 8

/* How often each class occurs in a case of a theme. */
struct theme {
	u8 weight;
	u8 cls[CLASS_COUNT];
};

static const struct theme themes[] = {
	/*	    gen str bit stk bra x87 mmx sse avx fma bmi cry gat 512 opm sys */
	{.weight = 30, {50, 4, 16, 14, 10, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 1}},
	{.weight = 8, {20, 60, 4, 8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
	{.weight = 8, {15, 0, 0, 5, 3, 65, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
	{.weight = 16, {12, 0, 0, 3, 3, 0, 4, 60, 8, 0, 0, 8, 0, 0, 0, 0}},
	{.weight = 14, {10, 0, 0, 2, 3, 0, 0, 5, 50, 12, 5, 6, 6, 0, 0, 0}},
	{.weight = 14, {10, 0, 0, 2, 3, 0, 0, 0, 4, 3, 0, 4, 8, 50, 16, 0}},
	{.weight = 10, {12, 3, 5, 5, 5, 8, 6, 10, 10, 3, 4, 4, 3, 14, 6, 2}},
};

static u32 weighted(struct gen *g, const u8 *weights, u32 n)
{
	u32 total = 0, pick, i;

	for (i = 0; i < n; i++)
		total += weights[i];
	pick = prng_below(&g->rnd, total);
	for (i = 0; pick >= weights[i]; i++)
		pick -= weights[i];
	return i;
}

static const struct theme *pick_theme(struct gen *g)
{
	u8 w[ARRAY_SIZE(themes)];

	for (u32 i = 0; i < ARRAY_SIZE(themes); i++)
		w[i] = themes[i].weight;
	return &themes[weighted(g, w, ARRAY_SIZE(themes))];
}

static bool random_of_class(struct gen *g, u32 cls)
{
	const struct forms *f = g->forms;
	const struct form_group *group;

	if (!f->class_n[cls])
		return false;
	group = &f->group[f->class_first[cls] + prng_below(&g->rnd, f->class_n[cls])];
	return gen_insn(g, group->first + prng_below(&g->rnd, group->n));
}

/* sub dword [counter], 1; jns back. Bounded by the counter, which lies in the data; returns false when all counters are in use. */
bool gen_close_loop(struct gen *g, u32 back)
{
	u8 sub[8] = {0x83, 0x2c, 0x25, 0, 0, 0, 0, 1};
	static const u8 jns[6] = {0x0f, 0x89};
	u32 which = prng_below(&g->rnd, ARRAY_SIZE(g->counter_used)), at = (u32)CASE_COUNTERS + 4 * which;

	if (g->counter_used[which] || gen_full(g))
		return false;
	g->counter_used[which] = true;
	memcpy(sub + 3, &at, 4);
	gen_emit(g, sub, 8);
	gen_emit_branch(g, jns, 6, 4, back);
	return true;
}

/* lea reg, [rip + label], then go there through the register, the stack or memory. */
static void indirect(struct gen *g)
{
	u32 reg = prng_below(&g->rnd, 16), slot = (u32)CASE_COUNTERS + 64, kind = prng_below(&g->rnd, 3);
	u32 target = g->c->n + (kind ? 3 : 2) + prng_below(&g->rnd, 4);
	u8 lea[7] = {(u8)(0x48 | (reg >> 3) << 2), 0x8d, (u8)(0x05 | (reg & 7) << 3)};
	u8 go[3] = {(u8)(0x40 | reg >> 3), 0xff, (u8)((prng_chance(&g->rnd, 50) ? 0xe0 : 0xd0) | (reg & 7))};
	u8 push[2] = {(u8)(0x40 | reg >> 3), (u8)(0x50 | (reg & 7))};
	u8 store[8] = {(u8)(0x48 | (reg >> 3) << 2), 0x89, (u8)(0x04 | (reg & 7) << 3), 0x25};
	u8 through[7] = {0xff, (u8)(prng_chance(&g->rnd, 50) ? 0x24 : 0x14), 0x25};
	u8 ret = 0xc3;

	g->known &= ~(1u << reg);
	gen_emit_branch(g, lea, 7, 4, target);
	if (kind == 0) {
		gen_emit(g, go, 3);
	} else if (kind == 1) {
		gen_emit(g, push, 2);
		gen_emit(g, &ret, 1);
	} else {
		memcpy(store + 4, &slot, 4);
		memcpy(through + 3, &slot, 4);
		gen_emit(g, store, 8);
		gen_emit(g, through, 7);
	}
}

/* mov ecx, n ... loop: the body so far must have left RCX alone. */
static void loop_by_rcx(struct gen *g, u32 back)
{
	static const u8 loops[] = {0xe2, 0xe1, 0xe0};
	u8 b[2] = {loops[prng_below(&g->rnd, 3)]};

	if ((g->known >> 1 & 1) && g->value[1] - 1 < 5 && !gen_full(g))
		gen_emit_branch(g, b, 2, 1, back);
}

void gen_special(struct gen *g)
{
	u32 back = prng_below(&g->rnd, g->c->n + 1);

	switch (prng_below(&g->rnd, 5)) {
	case 0:
	case 1:
		if (g->c->bits == 64) /* rip-relative LEA */
			indirect(g);
		break;
	case 2:
		loop_by_rcx(g, back);
		break;
	default:
		gen_close_loop(g, back);
	}
}

static void clamp_targets(struct cpu_case *c)
{
	for (u32 i = 0; i < c->n; i++)
		if (c->insn[i].branch_len && c->insn[i].target > c->n)
			c->insn[i].target = (u16)c->n;
}

static void pick_start(struct gen *g)
{
	u32 kind = prng_below(&g->rnd, 100);

	if (kind < 60)
		g->c->start = prng_below(&g->rnd, 0x800);
	else if (kind < 90) /* the sequence crosses a page boundary */
		g->c->start = 4096 - prng_below(&g->rnd, 100);
	else if (kind < 95)
		g->c->start = 0x1800;
	g->c->fall_off = kind >= 97;
}

static void gen_body(struct gen *g, const struct gen_options *o)
{
	const struct theme *t = pick_theme(g);
	u32 want = 1 + prng_below(&g->rnd, o->max_insns), made = 0, cls;

	for (u32 tries = 0; made < want && tries < 4 * want && !gen_full(g); tries++) {
		cls = o->only_class >= 0 && o->only_class < CLASS_COUNT ? (u32)o->only_class : weighted(g, t->cls, CLASS_COUNT);
		if (cls == CLASS_SYSTEM && !o->ring)
			continue;
		if (cls == CLASS_GATHER && !made)
			gen_state_vectors(g, true);
		if (g->c->writable && prng_chance(&g->rnd, 20))
			gen_smc(g);
		if (want > 3 && prng_chance(&g->rnd, 4))
			gen_special(g);
		else
			made += random_of_class(g, cls);
	}
	if (prng_chance(&g->rnd, 2) && !gen_full(g))
		gen_garbage(g);
}

void gen_case(const struct gen_options *o, u64 seed, struct cpu_case *c)
{
	struct gen g = {.forms = o->forms, .has = o->has, .c = c};

	memset(c, 0, sizeof(*c));
	c->seed = seed;
	c->ring = o->ring;
	c->bits = o->forms->bits;
	prng_seed(&g.rnd, seed);
	gen_state(&g);
	c->writable = o->only_class == CLASS_SMC ||
		      (o->only_class < 0 && c->bits == 64 && c->ring && prng_chance(&g.rnd, WRITABLE_PERCENT));
	pick_start(&g);
	if (o->only_class == CLASS_FIELDS || (o->only_class < 0 && c->bits == 64 && prng_chance(&g.rnd, FIELDS_PERCENT)))
		gen_fields(&g, 2 + prng_below(&g.rnd, 2 * o->max_insns));
	else
		gen_body(&g, o);
	clamp_targets(c);
	if (!case_layout(c)) { /* too long, or a short branch that does not reach */
		c->n = c->n > 4 ? 4 : c->n;
		clamp_targets(c);
		if (!case_layout(c)) {
			c->n = 0;
			(void)!case_layout(c);
		}
	}
}
