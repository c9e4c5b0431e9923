/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code that changes itself, in 64-bit mode. A slot is eight bytes of small instructions; a patch is a store of any kind over a slot: the one that
 * comes next, one in a loop that comes by again, or whatever was generated before. Instructions may be cut in the middle. See gen.h.
 */
#include "gen.h"

#include <string.h>

#define SLOT 8u
#define ROOM 10u /* instructions that one call appends at most */
#define R_AX 0
#define R_CX 1
#define R_DX 2
#define R_DI 7
#define R_8 8

/* ---- slots: they write RAX, RDX and flags, and move RSP by little */

struct small {
	u8 len;
	u8 bytes[2];
	bool reg; /* RAX or RDX, in the low bits of the last of bytes */
};

/* What is longer than bytes is immediate. */
static const struct small smalls[] = {
	{1, {0x90}, false},	  {1, {0xf5}, false},	    {1, {0xf9}, false},	      {1, {0x50}, true},
	{1, {0x58}, true},	  {2, {0xff, 0xc0}, true},  {2, {0xff, 0xc8}, true},  {2, {0xd1, 0xe0}, true},
	{2, {0xeb, 0x00}, false}, {2, {0xeb, 0x01}, false}, {2, {0x75, 0x02}, false}, {2, {0x0f, 0x0b}, false},
	{3, {0x83, 0xc0}, true},  {3, {0x83, 0xf0}, true},  {5, {0xb8}, true},	      {5, {0x05}, false},
};

static void fill_slot(struct gen *g, u8 *out)
{
	const struct small *s;
	u32 at = 0, opcode;
	u64 noise;

	memset(out, 0x90, SLOT);
	while (at < SLOT) {
		s = &smalls[prng_below(&g->rnd, ARRAY_SIZE(smalls))];
		opcode = s->len == 5 || s->len == 1 ? 1 : 2;
		if (at + s->len > SLOT)
			continue;
		noise = prng_next(&g->rnd);
		memcpy(out + at, &noise, s->len);
		memcpy(out + at, s->bytes, opcode);
		if (s->reg && prng_chance(&g->rnd, 50))
			out[at + opcode - 1] |= R_DX;
		at += s->len;
	}
}

static u32 emit_slot(struct gen *g)
{
	u8 bytes[SLOT];

	fill_slot(g, bytes);
	gen_emit(g, bytes, SLOT);
	g->known &= ~(1u << R_AX | 1u << R_DX);
	return g->c->n - 1;
}

/* ---- patches: each returns the instruction that refers to the slot */

static u32 refer(struct gen *g, const u8 *opcode, u32 len)
{
	u8 bytes[8] = {0};

	memcpy(bytes, opcode, len);
	gen_emit_branch(g, bytes, len + 4, 4, 0);
	return g->c->n - 1;
}

static u32 patch_by_store(struct gen *g)
{
	static const struct {
		u8 len, bytes[4];
	} stores[] = {
		{3, {0x4c, 0x89, 0x05}},       /* mov [slot], r8 */
		{3, {0x44, 0x89, 0x05}},       /* r8d */
		{4, {0x66, 0x44, 0x89, 0x05}}, /* r8w */
		{3, {0x44, 0x88, 0x05}},       /* r8b */
		{3, {0x4c, 0x87, 0x05}},       /* xchg [slot], r8 */
		{4, {0xf0, 0x4c, 0x31, 0x05}}, /* lock xor [slot], r8 */
		{3, {0x0f, 0x11, 0x05}},       /* movups [slot], xmm0: over what follows, too */
		{2, {0x8f, 0x05}},	       /* pop [slot] */
	};
	u32 which = prng_below(&g->rnd, prng_chance(&g->rnd, 90) ? 6 : ARRAY_SIZE(stores));

	return refer(g, stores[which].bytes, stores[which].len);
}

static u32 patch_by_string(struct gen *g)
{
	static const u8 lea_rdi[] = {0x48, 0x8d, 0x3d};
	static const u8 rep_stosb[] = {0xf3, 0xaa};
	u32 at;

	gen_mov_imm(g, R_CX, 1 + prng_below(&g->rnd, SLOT));
	gen_mov_imm(g, R_AX, 0x90);
	at = refer(g, lea_rdi, sizeof(lea_rdi));
	gen_emit(g, rep_stosb, sizeof(rep_stosb));
	g->known &= ~(1u << R_CX | 1u << R_DI);
	return at;
}

static void load_value(struct gen *g)
{
	u8 bytes[SLOT];
	u64 value;

	fill_slot(g, bytes);
	memcpy(&value, bytes, SLOT);
	gen_mov_imm(g, R_8, value);
}

static u32 patch(struct gen *g)
{
	u32 at = prng_chance(&g->rnd, 12) ? patch_by_string(g) : patch_by_store(g);

	g->known &= ~(1u << R_8);
	return at;
}

/* ---- where they stand */

static void patch_ahead(struct gen *g)
{
	u32 at;

	load_value(g);
	at = patch(g);
	if (prng_chance(&g->rnd, 30)) /* something in between */
		emit_slot(g);
	g->c->insn[at].target = (u16)emit_slot(g);
}

/* A loop that finds its slot changed each time it comes by; XCHG changes it to and fro. */
static void patch_in_loop(struct gen *g)
{
	u32 slot, at;

	load_value(g);
	slot = emit_slot(g);
	at = patch(g);
	g->c->insn[at].target = (u16)slot;
	gen_close_loop(g, slot);
}

static void patch_anything(struct gen *g)
{
	u32 at;

	load_value(g);
	at = patch(g);
	g->c->insn[at].target = (u16)prng_below(&g->rnd, g->c->n);
	gen_close_loop(g, g->c->insn[at].target);
}

void gen_smc(struct gen *g)
{
	if (g->c->n + ROOM >= CASE_MAX_INSN - 8)
		return;
	switch (prng_below(&g->rnd, 5)) {
	case 0:
	case 1:
		patch_ahead(g);
		break;
	case 2:
	case 3:
		patch_in_loop(g);
		break;
	default:
		patch_anything(g);
	}
}
