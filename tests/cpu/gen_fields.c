/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cases of class `fields`: what compiled code does with structures, arrays and stack frames. One to three registers (and rip) are bases, some with an
 * index; accesses of all sizes go to the surroundings of each, which lie inside a page, end with it, or cross into another one that may be read-only or absent. In
 * between bases move by constants, are copied, change in ways nobody can follow; there are pushes and pops, jumps not always taken, divisions.
 * See gen.h.
 */
#include "gen.h"

#include <string.h>

#define R_CX 1
#define R_SP 4
#define R_BP 5
#define FIELDS 4u
#define NO_BASE (~0u)

struct fields {
	struct gen *g;
	struct gen_field field[FIELDS];
	u32 n;
	bool used_div;
};

/* ---- where the fields are */

static u64 inside(struct gen *g, u64 page, u32 pages, u32 span)
{
	return page + prng_below(&g->rnd, pages) * 4096ull + prng_below(&g->rnd, 4096 - span);
}

static u64 window(struct gen *g, u32 span)
{
	struct prng *r = &g->rnd;
	u64 edge = CASE_DATA + 4096ull * (1 + prng_below(r, CASE_DATA_PAGES - 1));
	u32 kind = prng_below(r, 100), part = prng_below(r, span + 1);

	if (kind < 30)
		return inside(g, CASE_DATA, CASE_DATA_PAGES, span);
	if (kind < 45) /* its last byte is the page's */
		return edge - span;
	if (kind < 52)
		return edge;
	if (kind < 72)
		return edge - part;
	if (kind < 80) /* into the read-only page */
		return CASE_ROM - part;
	if (kind < 86)
		return inside(g, CASE_ROM, 1, span);
	if (kind < 92) /* into nothing */
		return CASE_ROM + CASE_ROM_SIZE - part;
	if (kind < 96)
		return CASE_DATA - part;
	return inside(g, case_base(g->c), CASE_CODE_PAGES, span);
}

static struct gen_field make_field(struct gen *g, int base)
{
	static const u16 spans[] = {64, 64, 128, 200, 256, 448, 512, 512, 513, 576, 1024};
	struct gen_field f = {.base = base, .index = -1, .span = spans[prng_below(&g->rnd, ARRAY_SIZE(spans))]};

	f.low = window(g, f.span);
	return f;
}

u64 gen_field_target(struct gen *g, u32 size)
{
	const struct gen_field *f = g->field;
	struct prng *r = &g->rnd;
	u64 edge = (f->low + f->span) & ~4095ull, at = f->low + prng_below(r, f->span);
	u32 kind = prng_below(r, 100);

	if (kind < 12 && edge >= f->low)
		return edge - size;
	if (kind < 16 && edge >= f->low)
		return edge - prng_below(r, size + 1);
	if (kind < 75 && size && !(size & (size - 1)))
		return at & ~(u64)(size - 1);
	return at;
}

static u64 index_part(const struct gen *g, const struct gen_field *f)
{
	return f->index < 0 ? 0 : g->value[f->index] << f->scale;
}

static u64 index_value(struct gen *g)
{
	u32 kind = prng_below(&g->rnd, 100);

	return kind < 60 ? prng_below(&g->rnd, 256) : kind < 85 ? -1ull - prng_below(&g->rnd, 256) : prng_next(&g->rnd) >> 24;
}

/* A start value from which a byte reaches most of the field, as a rule. */
static u64 base_value(struct gen *g, const struct gen_field *f)
{
	u64 v = f->low - index_part(g, f) + prng_below(&g->rnd, f->span) - (prng_chance(&g->rnd, 15) ? prng_below(&g->rnd, 0x3000) : 0);

	return f->base == R_SP && prng_chance(&g->rnd, 85) ? v & ~7ull : v;
}

static void add_index(struct gen *g, struct gen_field *f)
{
	u32 index = prng_below(&g->rnd, 16);

	if (index == R_SP || (g->bases >> index & 1))
		return;
	f->index = (int)index;
	f->scale = prng_below(&g->rnd, 4);
	g->bases |= 1u << index;
	g->value[index] = g->c->gpr[index] = index_value(g);
}

/* The same two registers, added up otherwise. */
static void add_twin(struct fields *c)
{
	struct gen *g = c->g;
	struct gen_field twin = c->field[c->n - 1];

	if (twin.index < 0 || c->n >= FIELDS - 1)
		return;
	if (prng_chance(&g->rnd, 50) && twin.base != R_SP) {
		twin.base = c->field[c->n - 1].index;
		twin.index = c->field[c->n - 1].base;
	}
	twin.scale = prng_below(&g->rnd, 4);
	twin.low = g->value[twin.base] + index_part(g, &twin) - prng_below(&g->rnd, twin.span);
	c->field[c->n++] = twin;
}

static void choose_fields(struct fields *c)
{
	static const u8 often[] = {R_SP, R_SP, R_SP, R_BP, R_BP, 10, 11, 12, 13, 14, 15, R_CX, R_CX, 3, 6, 7, 7};
	struct gen *g = c->g;
	u32 want = 1 + prng_below(&g->rnd, 3);

	for (u32 i = 0; i < want && c->n < FIELDS - 1; i++) {
		u32 base = prng_chance(&g->rnd, 80) ? often[prng_below(&g->rnd, ARRAY_SIZE(often))] : prng_below(&g->rnd, 16);

		if (g->bases >> base & 1)
			continue;
		g->bases |= 1u << base;
		c->field[c->n] = make_field(g, (int)base);
		if (c->n && prng_chance(&g->rnd, 25)) /* two registers, one place */
			c->field[c->n].low = c->field[c->n - 1].low;
		if (prng_chance(&g->rnd, 40))
			add_index(g, &c->field[c->n]);
		g->value[base] = g->c->gpr[base] = base_value(g, &c->field[c->n]);
		c->n++;
		if (prng_chance(&g->rnd, 40))
			add_twin(c);
	}
	if (prng_chance(&g->rnd, 35)) {
		c->field[c->n++] = make_field(g, -1);
		if (prng_chance(&g->rnd, 30)) /* beside the code */
			c->field[c->n - 1].low = case_base(g->c) + (g->c->start & ~63u);
	}
}

/* ---- small instructions */

static bool is_known(const struct gen *g, u32 reg)
{
	return g->known >> reg & 1;
}

static void op_imm32(struct gen *g, u32 extension, u32 reg, i32 value)
{
	u8 b[7] = {(u8)(0x48 | reg >> 3), 0x81, (u8)(0xc0 | extension << 3 | (reg & 7))};

	memcpy(b + 3, &value, 4);
	gen_emit(g, b, 7);
}

static void op_imm8(struct gen *g, u32 extension, u32 reg, i8 value)
{
	const u8 b[4] = {(u8)(0x48 | reg >> 3), 0x83, (u8)(0xc0 | extension << 3 | (reg & 7)), (u8)value};

	gen_emit(g, b, 4);
}

/* opcode reg, rm between registers */
static void op_registers(struct gen *g, bool wide, u32 opcode, u32 reg, u32 rm)
{
	const u8 b[3] = {(u8)((wide ? 0x48 : 0x40) | (reg >> 3) << 2 | rm >> 3), (u8)opcode, (u8)(0xc0 | (reg & 7) << 3 | (rm & 7))};

	gen_emit(g, b, 3);
}

static void op_registers_0f(struct gen *g, bool wide, u32 opcode, u32 reg, u32 rm)
{
	const u8 b[4] = {(u8)((wide ? 0x48 : 0x40) | (reg >> 3) << 2 | rm >> 3), 0x0f, (u8)opcode, (u8)(0xc0 | (reg & 7) << 3 | (rm & 7))};

	gen_emit(g, b, 4);
}

/* opcode reg, [base + disp32] */
static void op_memory(struct gen *g, u32 opcode, u32 reg, u32 base, i32 disp)
{
	u8 b[8] = {(u8)(0x48 | (reg >> 3) << 2 | base >> 3), (u8)opcode, (u8)(0x80 | (reg & 7) << 3 | (base & 7)), 0x24};
	u32 n = (base & 7) == 4 ? 4 : 3;

	memcpy(b + n, &disp, 4);
	gen_emit(g, b, n + 4);
}

static void lea(struct gen *g, u32 reg, u32 base, i32 disp)
{
	op_memory(g, 0x8d, reg, base, disp);
	g->value[reg] = g->value[base] + (u64)(i64)disp;
	g->known = is_known(g, base) ? g->known | 1u << reg : g->known & ~(1u << reg);
}

static void copy(struct gen *g, u32 to, u32 from)
{
	if (prng_chance(&g->rnd, 50))
		op_registers(g, true, 0x8b, to, from);
	else
		op_registers(g, true, 0x89, from, to);
	g->value[to] = g->value[from];
	g->known = is_known(g, from) ? g->known | 1u << to : g->known & ~(1u << to);
}

/* ---- bases change */

static u32 any_base(struct fields *c)
{
	const struct gen_field *f = &c->field[prng_below(&c->g->rnd, c->n)];

	if (f->index >= 0 && prng_chance(&c->g->rnd, 35))
		return (u32)f->index;
	return f->base < 0 ? NO_BASE : (u32)f->base;
}

static i32 step(struct gen *g, u32 base)
{
	i32 n = (i32)prng_below(&g->rnd, 257) - 128;

	if (prng_chance(&g->rnd, 8))
		n = (i32)prng_below(&g->rnd, 0x2000) - 0x1000;
	return base == R_SP && prng_chance(&g->rnd, 90) ? n & ~7 : n;
}

static void move_by_constant(struct gen *g, u32 base)
{
	i32 n = step(g, base);

	switch (prng_below(&g->rnd, 5)) {
	case 0:
		op_imm32(g, 0, base, n);
		g->value[base] += (u64)(i64)n;
		break;
	case 1:
		op_imm32(g, 5, base, n);
		g->value[base] -= (u64)(i64)n;
		break;
	case 2:
		op_imm8(g, 0, base, (i8)n);
		g->value[base] += (u64)(i64)(i8)n;
		break;
	case 3:
		op_registers(g, true, 0xff, n & 1, base); /* INC, DEC */
		g->value[base] += n & 1 ? ~0ull : 1;
		break;
	default:
		lea(g, base, base, n);
	}
}

/* The same, or nearly the same value, but none that is a root plus a constant. */
static void change_unknowably(struct gen *g, u32 base)
{
	u32 other = prng_below(&g->rnd, 16);

	switch (prng_below(&g->rnd, 8)) {
	case 0:
		op_imm8(g, 4, base, -16); /* AND */
		g->value[base] &= ~15ull;
		break;
	case 1: { /* XCHG: base, other */
		u64 v = g->value[base];
		u32 known = g->known;

		op_registers(g, true, 0x87, base, other);
		g->value[base] = g->value[other];
		g->value[other] = v;
		g->known &= ~(1u << base | 1u << other);
		g->known |= (known >> base & 1) << other | (known >> other & 1) << base;
		break;
	}
	case 2: /* CMOVcc between equal values */
		copy(g, other, base);
		op_registers_0f(g, prng_chance(&g->rnd, 70), 0x40 + prng_below(&g->rnd, 16), base, other);
		break;
	case 3: /* MOVZX, OR */
		op_registers_0f(g, false, 0xb7, base, base);
		op_imm32(g, 1, base, (i32)CASE_DATA);
		g->value[base] = (g->value[base] & 0xffff) | CASE_DATA;
		break;
	case 4: { /* IMUL by 1 */
		const u8 b[4] = {(u8)(0x48 | (base >> 3) << 2 | base >> 3), 0x6b, (u8)(0xc0 | (base & 7) << 3 | (base & 7)), 1};

		gen_emit(g, b, 4);
		break;
	}
	case 5: /* half a register */
		op_registers(g, false, 0x8b, base, base);
		g->value[base] = (u32)g->value[base];
		break;
	case 6: { /* the low byte alone */
		const u8 b[4] = {(u8)(0x40 | base >> 3), 0x80, (u8)(0xf0 | (base & 7)), 0x18};

		gen_emit(g, b, 4); /* XOR */
		g->value[base] ^= 0x18;
		break;
	}
	default: /* through memory */
		if (is_known(g, R_SP)) {
			const u8 push[2] = {(u8)(0x40 | base >> 3), (u8)(0x50 | (base & 7))};
			const u8 pop[2] = {(u8)(0x40 | base >> 3), (u8)(0x58 | (base & 7))};

			gen_emit(g, push, 2);
			gen_emit(g, pop, 2);
		}
	}
}

/* ADD to, index behind MOV to, base; or one LEA. What that added to the base. */
static u64 emit_sum(struct gen *g, u32 to, const struct gen_field *f)
{
	const u8 lea_sum[5] = {(u8)(0x48 | (to >> 3) << 2 | (u32)(f->index >> 3) << 1 | (u32)f->base >> 3), 0x8d,
			       (u8)(0x44 | (to & 7) << 3), (u8)(f->scale << 6 | (u32)(f->index & 7) << 3 | (u32)(f->base & 7)), 0x10};

	if (f->scale || prng_chance(&g->rnd, 50)) {
		gen_emit(g, lea_sum, sizeof(lea_sum));
		return index_part(g, f) + 0x10;
	}
	copy(g, to, (u32)f->base);
	op_registers(g, true, 0x01, (u32)f->index, to);
	return index_part(g, f);
}

/* What the index adds goes into the base's successor. */
static void add_up(struct gen *g, u32 to, struct gen_field *f)
{
	bool known = is_known(g, (u32)f->base) && is_known(g, (u32)f->index);
	u64 base = g->value[f->base];

	g->value[to] = base + emit_sum(g, to, f);
	g->known = known ? g->known | 1u << to : g->known & ~(1u << to);
	g->bases |= 1u << to;
	f->base = (int)to;
	f->index = -1;
}

/* Some other register takes over: what follows uses it for the base of that field. */
static void hand_over(struct fields *c)
{
	struct gen *g = c->g;
	struct gen_field *f = &c->field[prng_below(&g->rnd, c->n)];
	u32 to = prng_below(&g->rnd, 16);

	if (f->base < 0 || (g->bases >> to & 1) || __builtin_popcount(g->bases) > 10)
		return;
	if (f->index >= 0 && prng_chance(&g->rnd, 60)) {
		add_up(g, to, f);
		return;
	}
	if (prng_chance(&g->rnd, 50))
		copy(g, to, (u32)f->base);
	else
		lea(g, to, (u32)f->base, step(g, to));
	g->bases |= 1u << to;
	if (prng_chance(&g->rnd, 60))
		f->base = (int)to;
}

static void change(struct fields *c)
{
	struct gen *g = c->g;
	u32 base = any_base(c), kind = prng_below(&g->rnd, 100);

	if (base == NO_BASE)
		return;
	if (kind < 55)
		move_by_constant(g, base);
	else if (kind < 75)
		hand_over(c);
	else
		change_unknowably(g, base);
}

/* ---- accesses */

static bool random_form(struct gen *g, u32 cls, bool memory, u32 *form)
{
	const struct forms *f = g->forms;

	for (u32 try = 0; f->class_n[cls] && try < 40; try++) {
		const struct form_group *group = &f->group[f->class_first[cls] + prng_below(&g->rnd, f->class_n[cls])];

		*form = group->first + prng_below(&g->rnd, group->n);
		if (f->form[*form].mem == memory)
			return true;
	}
	return false;
}

/* One that loads or stores a vector register: among all others they would be rare, and stores rarer. */
static bool random_vector_move(struct gen *g, u32 *form)
{
	static const u8 classes[] = {CLASS_SSE, CLASS_AVX, CLASS_AVX512};
	u32 cls = classes[prng_below(&g->rnd, ARRAY_SIZE(classes))];

	for (u32 try = 0; try < 40; try++) {
		const char *name;

		if (!random_form(g, cls, true, form))
			return false;
		name = ZydisMnemonicGetString(g->forms->form[*form].mnemonic);
		if (!strncmp(name, "mov", 3) || !strncmp(name, "vmov", 4) || !strncmp(name, "vextract", 8))
			return true;
	}
	return false;
}

static u32 access_class(struct gen *g)
{
	static const struct {
		u8 cls, percent;
	} often[] = {{CLASS_GENERAL, 44}, {CLASS_SSE, 13}, {CLASS_AVX, 10}, {CLASS_AVX512, 12}, {CLASS_BIT, 7},	  {CLASS_BMI, 3},
		     {CLASS_FMA, 2},	  {CLASS_MMX, 3},  {CLASS_X87, 2},  {CLASS_CRYPTO, 2},	{CLASS_OPMASK, 2}};
	u32 pick = prng_below(&g->rnd, 100), i = 0;

	for (; pick >= often[i].percent; i++)
		pick -= often[i].percent;
	return often[i].cls;
}

/* MOV, the most frequent of all, in all sizes and directions. */
static void plain_move(struct gen *g, const struct gen_field *f)
{
	static const u8 sizes[] = {8, 8, 8, 4, 4, 2, 1};
	u32 size = sizes[prng_below(&g->rnd, ARRAY_SIZE(sizes))], base = (u32)f->base, reg = prng_below(&g->rnd, 16), n = 0;
	i32 disp = (i32)(gen_field_target(g, size) - g->value[base] - index_part(g, f));
	bool small = disp == (i8)disp;
	u8 b[12];

	while (g->bases >> reg & 1)
		reg = prng_below(&g->rnd, 16);
	if (size == 2)
		b[n++] = 0x66;
	b[n++] = (u8)(0x40 | (size == 8) << 3 | (reg >> 3) << 2 | (f->index >= 8) << 1 | base >> 3);
	if (prng_chance(&g->rnd, 50)) {
		b[n++] = (u8)(0x88 | (size != 1));
	} else {
		b[n++] = (u8)(0x8a | (size != 1));
		g->known &= ~(1u << reg);
	}
	b[n++] = (u8)((small ? 0x40 : 0x80) | (reg & 7) << 3 | (f->index < 0 ? base & 7 : 4));
	if (f->index >= 0)
		b[n++] = (u8)(f->scale << 6 | (u32)(f->index & 7) << 3 | (base & 7));
	else if ((base & 7) == 4)
		b[n++] = 0x24;
	memcpy(b + n, &disp, 4);
	gen_emit(g, b, n + (small ? 1 : 4));
}

static void repoint(struct fields *c, const struct gen_field *f)
{
	struct gen *g = c->g;

	if (f->index >= 0 && !is_known(g, (u32)f->index))
		gen_mov_imm(g, (u32)f->index, index_value(g));
	if (f->base >= 0 && (!is_known(g, (u32)f->base) || g->value[f->base] + index_part(g, f) - f->low + 0x8000 > 0x10000))
		gen_mov_imm(g, (u32)f->base, base_value(g, f));
}

static void access(struct fields *c)
{
	struct gen *g = c->g;
	const struct gen_field *f = &c->field[prng_below(&g->rnd, c->n)];
	u32 form;

	repoint(c, f);
	g->field = f;
	if (f->base >= 0 && prng_chance(&g->rnd, 35))
		plain_move(g, f);
	else if (prng_chance(&g->rnd, 20) ? random_vector_move(g, &form) : random_form(g, access_class(g), true, &form))
		(void)gen_insn(g, form);
	g->field = NULL;
}

static bool stack_form_usable(u16 m)
{
	return m != ZYDIS_MNEMONIC_POPF && m != ZYDIS_MNEMONIC_POPFQ; /* whatever lies there would be taken for flags, TF among them */
}

/* The frame goes: what follows is relative to RBP. */
static void leave(struct gen *g)
{
	const u8 b = 0xc9;

	gen_emit(g, &b, 1);
	g->value[R_SP] = g->value[R_BP] + 8;
	g->known = (g->known | 1u << R_SP) & ~(1u << R_BP);
}

static void stack(struct fields *c)
{
	static const u8 flags_and_back[] = {0x9c, 0x9d};
	struct gen *g = c->g;
	const struct gen_field *f = &c->field[prng_below(&g->rnd, c->n)];
	u32 form;

	if (!is_known(g, R_SP))
		gen_mov_imm(g, R_SP, (window(g, 64) + 32) & ~7ull);
	if (prng_chance(&g->rnd, 12) && is_known(g, R_BP) && g->value[R_BP] - CASE_DATA < CASE_DATA_SIZE) {
		leave(g);
		return;
	}
	if (prng_chance(&g->rnd, 5) && g->c->ring) {
		gen_emit(g, flags_and_back, 1);
		gen_emit(g, flags_and_back + 1, 1);
		return;
	}
	if (prng_chance(&g->rnd, 60)) { /* PUSH or POP of a register */
		u32 reg = prng_below(&g->rnd, 16);
		u8 b[2] = {(u8)(0x40 | reg >> 3), (u8)((prng_chance(&g->rnd, 55) ? 0x50 : 0x58) | (reg & 7))};
		bool pop = b[1] & 8;

		if (pop && (g->bases >> reg & 1) && prng_chance(&g->rnd, 80))
			return;
		gen_emit(g, b, 2);
		g->value[R_SP] += pop ? 8 : -8ull;
		if (pop)
			g->known &= ~(1u << reg);
		return;
	}
	repoint(c, f);
	g->field = f;
	if (random_form(g, CLASS_STACK, prng_chance(&g->rnd, 40), &form) && stack_form_usable(g->forms->form[form].mnemonic))
		(void)gen_insn(g, form);
	g->field = NULL;
}

/* ---- what comes in between */

static void jump(struct gen *g)
{
	const u8 b[2] = {(u8)(0x70 + prng_below(&g->rnd, 16))};

	gen_emit_branch(g, b, 2, 1, g->c->n + 1 + prng_below(&g->rnd, 8));
}

/* DIV and IDIV by whatever a register holds: #DE most of the time. */
static void divide(struct fields *c)
{
	struct gen *g = c->g;

	if (c->used_div || (g->bases & 5))
		return;
	c->used_div = true;
	op_registers(g, prng_chance(&g->rnd, 50), 0xf7, 6 + prng_below(&g->rnd, 2), prng_below(&g->rnd, 16));
	g->known &= ~5u; /* rax, rdx */
}

/* Through a field: the target goes there first. */
static void jump_through_field(struct fields *c)
{
	struct gen *g = c->g;
	u32 base = any_base(c), reg = prng_below(&g->rnd, 16);
	u8 lea_rip[7] = {(u8)(0x48 | (reg >> 3) << 2), 0x8d, (u8)(0x05 | (reg & 7) << 3)};
	i32 disp = (i32)prng_below(&g->rnd, 64) * 8 - 256;

	if (base == NO_BASE || (g->bases >> reg & 1) || !is_known(g, base))
		return;
	gen_emit_branch(g, lea_rip, 7, 4, g->c->n + 3 + prng_below(&g->rnd, 3));
	g->known &= ~(1u << reg);
	op_memory(g, 0x89, reg, base, disp);
	op_memory(g, 0xff, 4, base, disp);
}

static void in_between(struct fields *c)
{
	struct gen *g = c->g;
	u32 kind = prng_below(&g->rnd, 100), form;

	if (kind < 45)
		jump(g);
	else if (kind < 55)
		divide(c);
	else if (kind < 63)
		jump_through_field(c);
	else if (kind < 75)
		gen_special(g);
	else if (random_form(g, kind < 86 ? CLASS_STRING : kind < 93 ? CLASS_BIT : CLASS_GENERAL, false, &form))
		(void)gen_insn(g, form);
}

void gen_fields(struct gen *g, u32 want)
{
	struct fields c = {.g = g};

	choose_fields(&c);
	for (u32 i = 0; i < want && !gen_full(g); i++) {
		u32 kind = prng_below(&g->rnd, 100);

		if (kind < 60)
			access(&c);
		else if (kind < 75)
			stack(&c);
		else if (kind < 89)
			change(&c);
		else
			in_between(&c);
	}
}
