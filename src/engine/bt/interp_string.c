/* SPDX-License-Identifier: Apache-2.0 */
/*
 * String instructions with and without REP, in both directions.
 *
 * A repetition runs in chunks, so that interrupts are seen in between: rip then still points at the instruction and rCX holds what is left.
 * Forward MOVS and STOS over plain RAM go page by page.
 * Threading: the vCPU's thread.
 */
#include "engine/bt/interp_private.h"

#define CHUNK_STEPS 512u   /* single elements */
#define CHUNK_BYTES 65536u /* in bulk */

typedef bool string_step(struct interp *in, struct x86_cpu *c, const struct interp_insn *i);
/* Does up to n elements at once; returns how many, 0: not here. */
typedef u64 string_bulk(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, u64 n);

static u64 index_of(const struct x86_cpu *c, const struct interp_insn *i, u32 r)
{
	return interp_reg(c, r, i->asize);
}

static void advance(struct x86_cpu *c, const struct interp_insn *i, u32 r, u64 n)
{
	u64 d = n * i->row->arg;

	interp_set_reg(c, r, i->asize, c->gpr[r] + (c->rflags & FL_DF ? -d : d));
}

static bool step_movs(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 size = i->row->arg;
	u64 v;

	if (!interp_load(in, c, i->ea.seg, index_of(c, i, R_RSI), size, &v) || !interp_store(in, c, SEG_ES, index_of(c, i, R_RDI), size, v))
		return false;
	advance(c, i, R_RSI, 1);
	advance(c, i, R_RDI, 1);
	return true;
}

static bool step_stos(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	if (!interp_store(in, c, SEG_ES, index_of(c, i, R_RDI), i->row->arg, c->gpr[R_RAX]))
		return false;
	advance(c, i, R_RDI, 1);
	return true;
}

static bool step_lods(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 v;

	if (!interp_load(in, c, i->ea.seg, index_of(c, i, R_RSI), i->row->arg, &v))
		return false;
	interp_set_reg(c, R_RAX, i->row->arg, v);
	advance(c, i, R_RSI, 1);
	return true;
}

static void compare(struct x86_cpu *c, const struct interp_insn *i, u64 a, u64 b)
{
	struct interp_alu x = {.a = a, .b = b, .flags = c->rflags, .bits = i->row->arg * 8u};

	i->row->alu(&x);
	c->rflags = x.flags;
}

static bool load_rdi(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, u64 *v)
{
	return interp_load(in, c, SEG_ES, index_of(c, i, R_RDI), i->row->arg, v);
}

static bool step_cmps(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 a, b;

	/* The order shows when both fault; AMD's CPUs mostly take rDI first. */
	if (!load_rdi(in, c, i, &b) || !interp_load(in, c, i->ea.seg, index_of(c, i, R_RSI), i->row->arg, &a))
		return false;
	compare(c, i, a, b);
	advance(c, i, R_RSI, 1);
	advance(c, i, R_RDI, 1);
	return true;
}

static bool step_scas(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 b;

	if (!load_rdi(in, c, i, &b))
		return false;
	compare(c, i, interp_reg(c, R_RAX, i->row->arg), b);
	advance(c, i, R_RDI, 1);
	return true;
}

/* The port is read only when the store cannot fault any more: reading may change the device. */
static bool step_ins(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 size = i->row->arg, acc = x86_acc(c, ACC_WRITE), v;
	u16 port = (u16)c->gpr[R_RDX];
	gva_t lin;

	if (!interp_linear(c, SEG_ES, index_of(c, i, R_RDI), size, acc, &lin) || !interp_probe_write(c, lin, size))
		return false;
	x86_io_breakpoint(c, port, size);
	v = c->env->pio_read(c->env->opaque, port, size);
	if (!x86_write_val(c, lin, size, v, acc))
		return false;
	advance(c, i, R_RDI, 1);
	return true;
}

static bool step_outs(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 size = i->row->arg;
	u16 port = (u16)c->gpr[R_RDX];
	u64 v;

	if (!interp_load(in, c, i->ea.seg, index_of(c, i, R_RSI), size, &v))
		return false;
	x86_io_breakpoint(c, port, size);
	c->env->pio_write(c->env->opaque, port, size, (u32)v);
	advance(c, i, R_RSI, 1);
	return true;
}

/* A run of bytes inside one page at seg:r, as a host address. *bytes shrinks to what fits. */
static u8 *run_at(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, u32 seg, u32 r, u32 kind, u32 *bytes)
{
	u64 off = index_of(c, i, r), left = interp_mask(i->asize * 8u) - off;
	u32 acc = x86_acc(c, kind == TLB_WRITE ? ACC_WRITE : ACC_READ);
	gva_t lin;

	if (left < *bytes)
		*bytes = (u32)left;
	if (!*bytes || !interp_linear(c, seg, off, 1, acc, &lin)) {
		c->fault.pending = false;
		return NULL;
	}
	if (PAGE_SIZE - PAGE_OFFSET(lin) < *bytes)
		*bytes = (u32)(PAGE_SIZE - PAGE_OFFSET(lin));
	*bytes -= *bytes % i->row->arg;
	if (!*bytes || !interp_linear(c, seg, off, *bytes, acc, &lin)) {
		c->fault.pending = false;
		return NULL;
	}
	return interp_host(in, c, lin, *bytes, kind);
}

static bool bulk_allowed(const struct x86_cpu *c)
{
	return !(c->rflags & (FL_DF | FL_AC));
}

static u64 bulk_movs(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, u64 n)
{
	u32 size = i->row->arg;
	u32 bytes = n > CHUNK_BYTES / size ? CHUNK_BYTES : (u32)n * size;
	const u8 *src;
	u8 *dst;

	if (!bulk_allowed(c) || !(src = run_at(in, c, i, i->ea.seg, R_RSI, TLB_READ, &bytes)) ||
	    !(dst = run_at(in, c, i, SEG_ES, R_RDI, TLB_WRITE, &bytes)))
		return 0;
	/* A destination just above the source repeats a pattern: element by element. */
	if (dst > src && dst < src + bytes)
		return 0;
	memmove(dst, src, bytes);
	advance(c, i, R_RSI, bytes / size);
	advance(c, i, R_RDI, bytes / size);
	return bytes / size;
}

static u64 bulk_stos(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, u64 n)
{
	u32 size = i->row->arg;
	u32 bytes = n > CHUNK_BYTES / size ? CHUNK_BYTES : (u32)n * size;
	u64 v = c->gpr[R_RAX];
	u8 *dst;

	if (!bulk_allowed(c) || !(dst = run_at(in, c, i, SEG_ES, R_RDI, TLB_WRITE, &bytes)))
		return 0;
	if (size == 1)
		memset(dst, (u8)v, bytes);
	else
		for (u32 k = 0; k < bytes; k += size)
			memcpy(dst + k, &v, size);
	advance(c, i, R_RDI, bytes / size);
	return bytes / size;
}

/* REPE and REPNE look at ZF after each element of CMPS and SCAS only. */
static bool ends_early(const struct x86_cpu *c, const struct interp_insn *i)
{
	bool zf = c->rflags & FL_ZF;

	return i->row->alu && zf == (i->rep == 0xf2);
}

static bool repeat(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, string_step *step, string_bulk *bulk)
{
	bool single = (c->rflags & FL_TF) || x86_watched(c);
	u32 steps = 0, bytes = 0;
	u64 n, done;

	while ((n = interp_reg(c, R_RCX, i->asize)) != 0) {
		if (steps >= CHUNK_STEPS || bytes >= CHUNK_BYTES || (single && steps)) {
			in->rep_unfinished = true;
			in->next_rip = c->rip;
			return true;
		}
		done = bulk && !single ? bulk(in, c, i, n) : 0;
		bytes += (u32)done * i->row->arg;
		if (!done) {
			if (!step(in, c, i))
				return false;
			done = 1;
			steps++;
		}
		interp_set_reg(c, R_RCX, i->asize, n - done);
		if (ends_early(c, i))
			break;
	}
	return true;
}

#define STRING_OP(name, bulk)                                                                                                              \
	static bool op_##name(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)                                           \
	{                                                                                                                                  \
		return i->rep ? repeat(in, c, i, step_##name, bulk) : step_##name(in, c, i);                                               \
	}
STRING_OP(movs, bulk_movs)
STRING_OP(stos, bulk_stos)
STRING_OP(lods, NULL)
STRING_OP(cmps, NULL)
STRING_OP(scas, NULL)

/* Permission is asked for even when the count is zero. */
static bool op_ins(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	if (!x86_io_allowed(c, (u16)c->gpr[R_RDX], i->row->arg))
		return false;
	return i->rep ? repeat(in, c, i, step_ins, NULL) : step_ins(in, c, i);
}

static bool op_outs(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	if (!x86_io_allowed(c, (u16)c->gpr[R_RDX], i->row->arg))
		return false;
	return i->rep ? repeat(in, c, i, step_outs, NULL) : step_outs(in, c, i);
}

#define M(n) ZYDIS_MNEMONIC_##n
#define SIZES(n, fn)                                                                                                                       \
	{.mnemonic = M(n##B), .run = fn, .arg = 1}, {.mnemonic = M(n##W), .run = fn, .arg = 2},                                            \
	{                                                                                                                                  \
		.mnemonic = M(n##D), .run = fn, .arg = 4                                                                                   \
	}
#define SIZES_CMP(n, fn)                                                                                                                   \
	{.mnemonic = M(n##B), .run = fn, .arg = 1, .alu = interp_alu_sub},                                                                 \
		{.mnemonic = M(n##W), .run = fn, .arg = 2, .alu = interp_alu_sub},                                                         \
		{.mnemonic = M(n##D), .run = fn, .arg = 4, .alu = interp_alu_sub},                                                         \
	{                                                                                                                                  \
		.mnemonic = M(n##Q), .run = fn, .arg = 8, .alu = interp_alu_sub                                                            \
	}
static const struct interp_row rows[] = {
	SIZES(MOVS, op_movs),	  {.mnemonic = M(MOVSQ), .run = op_movs, .arg = 8},
	SIZES(STOS, op_stos),	  {.mnemonic = M(STOSQ), .run = op_stos, .arg = 8},
	SIZES(LODS, op_lods),	  {.mnemonic = M(LODSQ), .run = op_lods, .arg = 8},
	SIZES_CMP(CMPS, op_cmps), SIZES_CMP(SCAS, op_scas),
	SIZES(INS, op_ins),	  SIZES(OUTS, op_outs),
};

const struct interp_rows interp_rows_string = {rows, ARRAY_SIZE(rows)};
