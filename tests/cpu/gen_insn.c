/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One instruction of a given form: prefixes in any order, any registers, any addressing mode, the effective address aimed at the data pages
 * where the registers' values are known. What comes out is decoded again; what Zydis does not accept is thrown away.
 */
#include "gen.h"
#include "isa.h"

#include <string.h>

#define TRIES 24u
#define R_CX 1
#define R_SP 4
#define R_SI 6
#define R_DI 7

u64 gen_target(struct gen *g)
{
	struct prng *r = &g->rnd;
	u32 kind = prng_below(r, 100);

	if (kind < 50)
		return CASE_DATA + (prng_below(r, CASE_DATA_SIZE - 64) & ~63u);
	if (kind < 72)
		return CASE_DATA + prng_below(r, CASE_DATA_SIZE - 64);
	if (kind < 84) /* across a page boundary */
		return CASE_DATA + 4096 * (1 + prng_below(r, CASE_DATA_PAGES - 1)) - prng_below(r, 65);
	if (kind < 88)
		return CASE_ROM - prng_below(r, 65);
	if (kind < 92)
		return CASE_ROM + prng_below(r, CASE_ROM_SIZE);
	if (kind < 95)
		return CASE_ROM + CASE_ROM_SIZE - prng_below(r, 65);
	if (kind < 97)
		return CASE_DATA - prng_below(r, 65);
	if (kind < 99)
		return case_base(g->c) + prng_below(r, CASE_CODE_SIZE);
	return 0x7ffffff0 - prng_below(r, 0x1000);
}

void gen_emit_branch(struct gen *g, const u8 *bytes, u32 len, u32 rel_len, u32 target)
{
	struct case_insn *in = &g->c->insn[g->c->n];

	memset(in, 0, sizeof(*in));
	memcpy(in->bytes, bytes, len);
	in->len = (u8)len;
	in->branch_len = (u8)rel_len;
	in->target = (u16)target;
	in->form = ~0u;
	g->c->n++;
}

void gen_emit(struct gen *g, const u8 *bytes, u32 len)
{
	gen_emit_branch(g, bytes, len, 0, 0);
}

void gen_mov_imm(struct gen *g, u32 reg, u64 value)
{
	u8 b[10] = {(u8)(0x48 | reg >> 3), (u8)(0xb8 | (reg & 7))};

	g->known |= 1u << reg;
	g->value[reg] = g->c->bits == 64 ? value : (u32)value;
	if (g->c->bits == 32) {
		memcpy(b + 2, &value, 4);
		gen_emit(g, b + 1, 5);
		return;
	}
	if (value >> 32) {
		memcpy(b + 2, &value, 8);
		gen_emit(g, b, 10);
		return;
	}
	b[0] = (u8)(0x40 | reg >> 3);
	memcpy(b + 2, &value, 4);
	gen_emit(g, b, 6);
}

/* ---- prefixes ---- */

struct prefixes {
	u8 byte[14];
	u32 n;
};

static void prefix_insert(struct gen *g, struct prefixes *p, u8 byte)
{
	u32 at = prng_below(&g->rnd, p->n + 1);

	if (p->n == sizeof(p->byte))
		return;
	memmove(p->byte + at + 1, p->byte + at, p->n - at);
	p->byte[at] = byte;
	p->n++;
}

static void random_prefixes(struct gen *g, const struct form *fm, struct prefixes *p)
{
	static const u8 segments[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
	struct prng *r = &g->rnd;
	bool branch = fm->cls == CLASS_BRANCH;

	p->n = 0;
	if (prng_chance(r, branch ? 3 : 9))
		prefix_insert(g, p, segments[prng_below(r, g->c->bits == 64 ? 6 : 4)]); /* FS and GS are null: open in compatibility mode */
	if (prng_chance(r, 7))
		prefix_insert(g, p, 0x67);
	if (fm->encoding != ENC_LEGACY)
		return;
	if (fm->mem && prng_chance(r, 12))
		prefix_insert(g, p, 0xf0);
	if (prng_chance(r, fm->cls == CLASS_STRING ? 75 : branch ? 0 : 3))
		prefix_insert(g, p, prng_chance(r, 50) ? 0xf2 : 0xf3);
	if (!branch && prng_chance(r, 4)) /* with branches AMD and Intel CPUs disagree on 66h */
		prefix_insert(g, p, 0x66);
	while (prng_chance(r, 3))
		prefix_insert(g, p, segments[prng_below(r, 4)]);
	if (g->c->bits == 64 && p->n && prng_chance(r, 3)) /* a REX that other prefixes follow is ignored */
		prefix_insert(g, p, (u8)(0x40 | prng_below(r, 16)));
}

/* ---- operands ---- */

struct draft {
	const struct form *fm;
	u8 bytes[32];
	u32 len;     /* up to and with the last byte generated */
	u32 disp_at; /* offset of a displacement that may be chosen freely; 0: none */
	u32 disp_size;
	bool rip_relative;
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

static void random_immediate(struct gen *g, u8 *out, u32 n)
{
	static const u8 edges[] = {0, 1, 7, 8, 31, 32, 33, 63, 64, 0x7f, 0x80, 0xff};
	u64 v = prng_next(&g->rnd);

	memcpy(out, &v, n);
	if (prng_chance(&g->rnd, 50))
		memset(out, prng_chance(&g->rnd, 50) ? 0 : 0xff, n);
	if (prng_chance(&g->rnd, 60))
		out[0] = edges[prng_below(&g->rnd, ARRAY_SIZE(edges))];
}

/* The field's base and index, with displacements of all sizes. EVEX scales a byte: never that. */
static void draft_field(struct gen *g, struct draft *d, u8 reg)
{
	bool indexed = g->field->index >= 0;
	u8 base = (u8)(g->field->base & 7), rm = g->field->base < 0 ? 5 : indexed ? 4 : base;
	bool small = g->field->base >= 0 && d->fm->encoding != ENC_EVEX && prng_chance(&g->rnd, 45);
	bool none = small && base != 5 && prng_chance(&g->rnd, 20);

	d->rip_relative = g->field->base < 0;
	d->disp_size = none ? 0 : small ? 1 : 4;
	d->bytes[d->len++] = (u8)((none || d->rip_relative ? 0 : small ? 0x40 : 0x80) | reg << 3 | rm);
	if (rm == 4)
		d->bytes[d->len++] = (u8)(indexed ? g->field->scale << 6 | (u32)(g->field->index & 7) << 3 | base : 0x24);
	d->disp_at = none ? 0 : d->len;
	random_immediate(g, d->bytes + d->len, 8);
	d->len += d->disp_size;
}

static void draft_memory(struct gen *g, struct draft *d, u8 reg, bool vsib)
{
	struct prng *r = &g->rnd;
	u32 kind = prng_below(r, 100);
	u8 scale = (u8)(prng_below(r, 4) << 6);

	if (g->field) {
		draft_field(g, d, reg);
		return;
	}
	d->disp_size = 4;
	if (vsib || kind < 40) { /* base + index * scale + disp32 */
		d->bytes[d->len++] = (u8)(0x84 | reg << 3);
		d->bytes[d->len++] = (u8)(scale | prng_below(r, 64));
		d->disp_at = d->len;
	} else if (kind < 55) { /* base + disp32 */
		d->bytes[d->len++] = (u8)(0x80 | reg << 3 | prng_below(r, 8));
		if ((d->bytes[d->len - 1] & 7) == 4)
			d->bytes[d->len++] = (u8)(scale | prng_below(r, 64));
		d->disp_at = d->len;
	} else if (kind < 70) { /* rip-relative */
		d->bytes[d->len++] = (u8)(0x05 | reg << 3);
		d->disp_at = d->len;
		d->rip_relative = g->c->bits == 64;
	} else if (kind < 78) { /* absolute, or index * scale + disp32 */
		d->bytes[d->len++] = (u8)(0x04 | reg << 3);
		d->bytes[d->len++] = (u8)(scale | (prng_chance(r, 50) ? 4 : prng_below(r, 8)) << 3 | 5);
		d->disp_at = d->len;
	} else { /* base, base + disp8, with or without index */
		d->bytes[d->len++] = (u8)((prng_chance(r, 50) ? 0x40 : 0) | reg << 3 | prng_below(r, 8));
		if ((d->bytes[d->len - 1] & 7) == 4)
			d->bytes[d->len++] = (u8)(scale | prng_below(r, 64));
	}
	random_immediate(g, d->bytes + d->len, 8);
	random_immediate(g, d->bytes + d->len + 4, 8);
	if (d->disp_at)
		d->len += 4;
}

static void draft_modrm(struct gen *g, struct draft *d)
{
	const struct form *fm = d->fm;
	u8 reg = (u8)(fm->reg == FORM_ANY ? prng_below(&g->rnd, 8) : fm->reg);
	u8 rm = (u8)(fm->rm == FORM_ANY ? prng_below(&g->rnd, 8) : fm->rm);

	if (fm->mem)
		draft_memory(g, d, reg, fm->cls == CLASS_GATHER);
	else
		d->bytes[d->len++] = (u8)(0xc0 | reg << 3 | rm);
}

static struct form_fill random_fill(struct gen *g, const struct form *fm, const struct prefixes *p)
{
	struct prng *r = &g->rnd;
	struct form_fill f = {.prefixes = p->byte, .nprefixes = p->n, .l = fm->l};

	if (g->c->bits == 64) {
		f.rex = prng_chance(r, 30);
		f.r = prng_chance(r, 30);
		f.x = prng_chance(r, 30);
		f.b = prng_chance(r, 30);
		f.r2 = prng_chance(r, 30);
		f.v2 = prng_chance(r, 30);
	}
	if (g->field && fm->mem) {
		f.x = g->field->index >= 0 ? (u8)(g->field->index >> 3) : 0;
		f.b = g->field->base >= 0 ? (u8)(g->field->base >> 3) : f.b;
	}
	f.vvvv = (u8)(prng_chance(r, 60) ? prng_below(r, g->c->bits == 64 ? 16 : 8) : 0);
	if (fm->encoding != ENC_EVEX)
		return f;
	f.aaa = (u8)(fm->needs_mask || prng_chance(r, 50) ? 1 + prng_below(r, 7) : 0);
	f.z = f.aaa && prng_chance(r, 40);
	f.bcst = prng_chance(r, 25);
	if (f.bcst && !fm->mem)
		f.l = (u8)prng_below(r, 4);
	return f;
}

/* Operands are decoded when the rest is found to be of use: most drafts are not. */
static bool draft_decode(struct gen *g, struct draft *d)
{
	const ZydisDecoder *decoder = &g->forms->decoder;
	ZydisDecoderContext context;

	if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(decoder, &context, d->bytes, 15, &d->in)))
		return false;
	if (d->in.mnemonic != d->fm->mnemonic || !forms_allowed(&d->in, g->has) || (!g->c->ring && !isa_same_in_ring0(&d->in)))
		return false;
	return ZYAN_SUCCESS(ZydisDecoderDecodeOperands(decoder, &context, &d->in, d->op, d->in.operand_count));
}

static void draft_random(struct gen *g, struct draft *d, const struct form *fm)
{
	struct prefixes p;
	struct form_fill fill;

	memset(d, 0, sizeof(*d));
	d->fm = fm;
	random_prefixes(g, fm, &p);
	fill = random_fill(g, fm, &p);
	d->len = form_encode(fm, &fill, d->bytes);
	if (fm->has_modrm)
		draft_modrm(g, d);
	random_immediate(g, d->bytes + d->len, 8);
}

/* ---- aiming ---- */

static const ZydisDecodedOperand *memory_operand(const struct draft *d)
{
	for (u32 i = 0; i < d->in.operand_count; i++)
		if (d->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && d->op[i].visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			return &d->op[i];
	return NULL;
}

static int gpr_index(ZydisRegister reg)
{
	ZydisRegister r = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);

	return r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15 ? (int)(r - ZYDIS_REGISTER_RAX) : -1;
}

static bool register_value(const struct gen *g, ZydisRegister reg, u64 *value)
{
	int i = gpr_index(reg);

	*value = 0;
	if (reg == ZYDIS_REGISTER_NONE || i < 0)
		return true;
	*value = g->value[i];
	return g->known >> i & 1;
}

static u64 segment_part(const struct gen *g, ZydisRegister seg)
{
	if (seg == ZYDIS_REGISTER_FS)
		return g->c->fs_base;
	return seg == ZYDIS_REGISTER_GS ? g->c->gs_base : 0;
}

/* The address without displacement and segment; false when a register in it has an unknown value. */
static bool address_part(const struct gen *g, const struct draft *d, const ZydisDecodedOperand *m, u64 *out)
{
	u64 base, index;

	if (d->rip_relative) {
		*out = case_start_rip(g->c) + d->in.length; /* the layout so far is added by the caller */
		return true;
	}
	if (!register_value(g, m->mem.base, &base) || !register_value(g, m->mem.index, &index))
		return false;
	*out = base + index * m->mem.scale;
	return true;
}

static u32 code_so_far(const struct gen *g)
{
	u32 at = 0;

	for (u32 i = 0; i < g->c->n; i++)
		at += g->c->insn[i].len;
	return at;
}

static bool in_data(u64 a)
{
	return a >= CASE_DATA - 64 && a < CASE_ROM + CASE_ROM_SIZE;
}

/* Choose the displacement so that the operand lies where a test is worth while. True when it does. */
static bool draft_aim(struct gen *g, struct draft *d)
{
	const ZydisDecodedOperand *m = memory_operand(d);
	u64 part, want, have;
	i64 disp;

	if (!m || m->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
		return true;
	if (!address_part(g, d, m, &part))
		return false;
	if (d->rip_relative)
		part += code_so_far(g);
	if (!d->disp_at) {
		have = part + (u64)m->mem.disp.value;
		if (d->in.address_width == 32)
			have = (u32)have;
		return in_data(have + segment_part(g, m->mem.segment));
	}
	want = (g->field ? gen_field_target(g, m->size / 8) : gen_target(g)) - segment_part(g, m->mem.segment);
	disp = (i64)(want - part);
	if ((d->in.address_width == 64 && disp != (i32)disp) || (d->disp_size == 1 && disp != (i8)disp))
		return false;
	if (d->in.address_width == 32 && want >> 32)
		return false;
	if (d->in.address_width == 16) /* other ModRM bytes, and nothing is mapped that low */
		return false;
	memcpy(d->bytes + d->disp_at, &disp, d->disp_size);
	return true;
}

/* ---- what an instruction wants before it ---- */

static bool is_bit_test(u16 m)
{
	return m == ZYDIS_MNEMONIC_BT || m == ZYDIS_MNEMONIC_BTS || m == ZYDIS_MNEMONIC_BTR || m == ZYDIS_MNEMONIC_BTC;
}

/* A bit offset in a register reaches far: give it a value that stays inside the data. */
static void setup_bit_offset(struct gen *g, const struct draft *d)
{
	int reg = gpr_index(d->op[1].reg.value);
	i64 offset = (i64)prng_below(&g->rnd, 0x4000) - 0x2000;

	if (is_bit_test(d->fm->mnemonic) && d->fm->mem && d->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER && reg >= 0 &&
	    prng_chance(&g->rnd, 70))
		gen_mov_imm(g, (u32)reg, (u64)offset);
}

static void setup_string(struct gen *g)
{
	struct prng *r = &g->rnd;

	if (prng_chance(r, 75))
		gen_mov_imm(g, R_SI, gen_target(g));
	if (prng_chance(r, 75))
		gen_mov_imm(g, R_DI, gen_target(g));
	if (prng_chance(r, 75))
		gen_mov_imm(g, R_CX, prng_chance(r, 8) ? prng_below(r, 3000) : prng_below(r, 40));
}

static void setup(struct gen *g, const struct draft *d)
{
	if (d->fm->cls == CLASS_STRING)
		setup_string(g);
	if (d->fm->cls == CLASS_STACK && !g->field && !(g->known >> R_SP & 1) && prng_chance(&g->rnd, 60))
		gen_mov_imm(g, R_SP, CASE_DATA + 0x1000 + prng_below(&g->rnd, 0x2000));
	setup_bit_offset(g, d);
}

static void forget_written(struct gen *g, const struct draft *d)
{
	bool keeps_rsp = d->fm->cls == CLASS_STACK || d->fm->cls == CLASS_BRANCH;

	for (u32 i = 0; i < d->in.operand_count; i++) {
		int reg = d->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER ? gpr_index(d->op[i].reg.value) : -1;

		if (reg < 0 || !(d->op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		if (reg == R_SP && keeps_rsp && d->op[i].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			continue; /* off by a few bytes, still in the data */
		g->known &= ~(1u << reg);
	}
}

/* A relative branch goes to an instruction of the case, mostly forward. */
static u32 relative_size(const struct draft *d)
{
	if (!d->in.raw.imm[0].is_relative)
		return 0;
	return d->in.raw.imm[0].size == 8 ? 1 : d->in.raw.imm[0].size == 32 ? 4 : 0;
}

static void give_pointer(struct gen *g)
{
	gen_mov_imm(g, prng_below(&g->rnd, g->c->bits == 64 ? 16 : 8), CASE_DATA + 0x800 + prng_below(&g->rnd, 0x2000));
}

static bool draft_good(struct gen *g, struct draft *d, u32 try)
{
	bool aimed = draft_aim(g, d);

	/* After half of the tries take what comes, now and then: wild addresses are tests too. */
	return aimed || (try > TRIES / 2 && prng_chance(&g->rnd, 12));
}

/* Where accesses lie around registers, the stack pointer has to be known to the byte. */
static void follow_stack(struct gen *g, const struct draft *d)
{
	u64 word = d->in.operand_width / 8;
	bool given = d->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_index(d->op[0].reg.value) == R_SP;

	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_PUSHFQ:
		g->value[R_SP] -= word;
		break;
	case ZYDIS_MNEMONIC_POP:
		g->value[R_SP] += word;
		if (given)
			g->known &= ~(1u << R_SP);
		break;
	default: /* LEAVE, ENTER and whatever else */
		g->known &= ~(1u << R_SP);
	}
}

/* Some may: then the next access gets its base anew. */
static bool spoils_base(struct gen *g, const struct draft *d)
{
	for (u32 i = 0; i < d->in.operand_count && g->field; i++) {
		int reg = d->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER ? gpr_index(d->op[i].reg.value) : -1;

		if (reg < 0 || !(g->bases >> reg & 1) || !(d->op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) ||
		    d->op[i].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			continue;
		return prng_chance(&g->rnd, 90);
	}
	return false;
}

static void append(struct gen *g, struct draft *d, u32 form_index)
{
	u32 rel = relative_size(d);

	gen_emit_branch(g, d->bytes, d->in.length, rel, rel ? g->c->n + 1 + prng_below(&g->rnd, 4) : 0);
	g->c->insn[g->c->n - 1].form = form_index;
	forget_written(g, d);
	if (g->field && d->fm->cls == CLASS_STACK)
		follow_stack(g, d);
}

bool gen_insn(struct gen *g, u32 form_index)
{
	const struct form *fm = &g->forms->form[form_index];
	struct draft d;

	for (u32 try = 0; try < TRIES; try++) {
		draft_random(g, &d, fm);
		if (!draft_decode(g, &d) || spoils_base(g, &d))
			continue;
		if (!draft_good(g, &d, try)) {
			if (try % 6 == 5 && !g->field && !gen_full(g))
				give_pointer(g);
			continue;
		}
		setup(g, &d);
		if (d.fm->mem && !draft_aim(g, &d) && prng_chance(&g->rnd, 50))
			continue;
		append(g, &d, form_index);
		return true;
	}
	return false;
}

/* Bytes that Zydis refuses: what the CPU makes of them (#UD, #GP for more than 15 bytes) is the engines' business too. */
void gen_garbage(struct gen *g)
{
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	u8 b[16];
	u64 v;

	for (u32 try = 0; try < 200; try++) {
		for (u32 i = 0; i < 16; i += 8) {
			v = prng_next(&g->rnd);
			memcpy(b + i, &v, 8);
		}
		if (prng_chance(&g->rnd, 30))
			b[0] = 0x0f;
		else if (prng_chance(&g->rnd, 20))
			b[0] = 0x62;
		else if (prng_chance(&g->rnd, 20))
			b[0] = 0xc4;
		if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&g->forms->decoder, b, 15, &in, op)))
			continue;
		gen_emit(g, b, 15);
		return;
	}
}
