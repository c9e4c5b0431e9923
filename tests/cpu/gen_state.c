/* SPDX-License-Identifier: Apache-2.0 */
/* Start states: registers that point into the data, edge values, rounding modes, x87 stacks in every shape. See gen.h. */
#include "gen.h"

#include <string.h>

static const u64 edge_values[] = {0,
				  1,
				  ~0ull,
				  0x7f,
				  0x80,
				  0xff,
				  0x7fff,
				  0x8000,
				  0xffff,
				  0x7fffffff,
				  0x80000000,
				  0xffffffff,
				  0x7fffffffffffffff,
				  0x8000000000000000,
				  0x0000800000000000,
				  0x00007fffffffffff,
				  0xffff800000000000,
				  0x100000000};

static u64 gpr_value(struct gen *g)
{
	u32 kind = prng_below(&g->rnd, 100);

	if (kind < 55)
		return CASE_DATA + prng_below(&g->rnd, CASE_DATA_SIZE);
	if (kind < 70)
		return prng_below(&g->rnd, 64);
	if (kind < 80)
		return edge_values[prng_below(&g->rnd, ARRAY_SIZE(edge_values))];
	if (kind < 84)
		return (u64) - (i64)prng_below(&g->rnd, 0x1000);
	if (kind < 87) /* the ends of the canonical addresses */
		return (prng_chance(&g->rnd, 70) ? 0x0000800000000000 : 0xffff800000000000) - 0x20 + prng_below(&g->rnd, 0x40);
	return prng_next(&g->rnd);
}

static u64 segment_base(struct gen *g)
{
	static const u64 bases[] = {0, CASE_DATA, CASE_DATA + 0x123, 0x1000, 0xfffffffffffff000ull, 0x7fffffff0000ull};

	return bases[prng_below(&g->rnd, ARRAY_SIZE(bases))];
}

static void put(struct case_xsave *x, u32 offset, u64 value, u32 size)
{
	memcpy(x->bytes + offset, &value, size);
}

static u32 exception_masks(struct gen *g)
{
	return prng_chance(&g->rnd, 90) ? 0x3f : prng_below(&g->rnd, 64);
}

static void x87_state(struct gen *g, struct case_xsave *x)
{
	static const u16 exponents[] = {0, 0, 1, 0x3fff, 0x3ffe, 0x4000, 0x403e, 0x7ffe, 0x7fff, 0xffff, 0xbfff, 0xc001, 0x4020};
	u32 control = exception_masks(g) | 0x40, status, flags = prng_chance(&g->rnd, 5) ? prng_below(&g->rnd, 64) : 0;

	control |= prng_chance(&g->rnd, 70) ? 0x300 : prng_below(&g->rnd, 4) << 8;
	control |= prng_chance(&g->rnd, 70) ? 0 : prng_below(&g->rnd, 4) << 10;
	put(x, 0, control, 2);
	status = prng_below(&g->rnd, 8) << 11 | prng_below(&g->rnd, 8) << 8 | flags;
	if (flags & ~control & 0x3f) /* ES and B follow from the flags; an image without them is not what a CPU would save */
		status |= 0x8080;
	put(x, 2, status, 2);
	put(x, 4, prng_chance(&g->rnd, 40) ? 0xff : prng_chance(&g->rnd, 30) ? 0 : prng_below(&g->rnd, 256), 1);
	for (u32 i = 0; i < 8; i++) {
		put(x, 32 + 16 * i, prng_chance(&g->rnd, 20) ? 0x8000000000000000ull : prng_next(&g->rnd) | 1ull << 63, 8);
		if (prng_chance(&g->rnd, 10))
			put(x, 32 + 16 * i, prng_next(&g->rnd), 8);
		put(x, 40 + 16 * i, exponents[prng_below(&g->rnd, ARRAY_SIZE(exponents))], 2);
	}
}

static u64 lane(struct gen *g)
{
	static const u64 lanes[] = {0,
				    ~0ull,
				    0x3ff0000000000000ull,
				    0x3f8000003f800000ull,
				    0x7ff0000000000000ull,
				    0x7f800000ff800000ull,
				    0x7fc000007f800001ull,
				    0x7ff0000000000001ull,
				    0x7ff8000000000000ull,
				    0x0000000100000001ull,
				    0x000fffffffffffffull,
				    0x8000000080000000ull,
				    0x7fefffffffffffffull,
				    0x41dfffffffc00000ull,
				    0x4f0000004effffffull};
	u32 kind = prng_below(&g->rnd, 100);

	if (kind < 35)
		return lanes[prng_below(&g->rnd, ARRAY_SIZE(lanes))];
	if (kind < 55) /* doubles of moderate size */
		return (prng_next(&g->rnd) & 0x800fffffffffffffull) | (u64)(0x3f0 + prng_below(&g->rnd, 0x20)) << 52;
	if (kind < 70) /* floats of moderate size */
		return (prng_next(&g->rnd) & 0x80ffffff80ffffffull) | 0x3f0000003f000000ull;
	return prng_next(&g->rnd);
}

static u64 small_lane(struct gen *g)
{
	return (u64)prng_below(&g->rnd, 0x800) << 32 | prng_below(&g->rnd, 0x800);
}

void gen_state_vectors(struct gen *g, bool small_lanes)
{
	struct case_xsave *x = &g->c->xsave;

	for (u32 i = 160; i < 416; i += 8)
		put(x, i, small_lanes && prng_chance(&g->rnd, 60) ? small_lane(g) : lane(g), 8);
	for (u32 i = 576; i < CASE_XSAVE_SIZE - 8; i += 8)
		put(x, i, small_lanes && prng_chance(&g->rnd, 60) ? small_lane(g) : lane(g), 8);
}

static void mxcsr_state(struct gen *g, struct case_xsave *x)
{
	u32 mxcsr = exception_masks(g) << 7;

	if (prng_chance(&g->rnd, 20))
		mxcsr |= prng_below(&g->rnd, 4) << 13;
	if (prng_chance(&g->rnd, 10))
		mxcsr |= 0x8000;
	if (prng_chance(&g->rnd, 10))
		mxcsr |= 0x40;
	if (prng_chance(&g->rnd, 30))
		mxcsr |= prng_below(&g->rnd, 64);
	put(x, 24, mxcsr, 4);
}

void gen_state(struct gen *g)
{
	struct cpu_case *c = g->c;
	u64 bv = CASE_XFEATURES;

	for (u32 i = 0; i < 16; i++)
		g->value[i] = c->gpr[i] = gpr_value(g);
	if (prng_chance(&g->rnd, 85))
		g->value[4] = c->gpr[4] = CASE_DATA + 0x800 + (prng_below(&g->rnd, 0x2000) & (prng_chance(&g->rnd, 80) ? ~7u : ~0u));
	g->known = 0xffff;
	for (u32 i = 0; i < 16 && c->bits == 32; i++)
		g->value[i] = c->gpr[i] = i < 8 ? (u32)c->gpr[i] : 0;
	c->rflags = 0x202 | (prng_next(&g->rnd) & 0x8d5) | (prng_chance(&g->rnd, 12) ? 0x400 : 0) | (prng_chance(&g->rnd, 4) ? 0x40000 : 0);
	if (!c->ring)
		c->rflags &= ~0x40000ull; /* alignment is checked in ring 3 only */
	c->fs_base = segment_base(g);
	c->gs_base = segment_base(g);
	c->data_seed = prng_next(&g->rnd);
	for (u32 i = 0; i < ARRAY_SIZE(c->counters); i++)
		c->counters[i] = prng_chance(&g->rnd, 10) ? prng_below(&g->rnd, 400) : prng_below(&g->rnd, 6);
	memset(&c->xsave, 0, sizeof(c->xsave));
	gen_state_vectors(g, prng_chance(&g->rnd, 30));
	x87_state(g, &c->xsave);
	mxcsr_state(g, &c->xsave);
	if (prng_chance(&g->rnd, 15))
		bv &= prng_next(&g->rnd) | 2;
	put(&c->xsave, 512, bv, 8);
}
