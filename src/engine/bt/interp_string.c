/* SPDX-License-Identifier: Apache-2.0 */
/*
 * String instructions with and without REP, in both directions.
 *
 * A repetition runs in chunks, so that interrupts are seen in between: rip then still points at the instruction and rCX holds what is left.
 * MOVS and STOS over plain RAM go page by page.
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

/* A run of elements inside one page, in the direction that DF tells. */
struct run {
	u32 seg, reg, kind; /* TLB_READ or TLB_WRITE */
	u8 *host;	    /* of its lowest byte */
};

static bool backward(const struct x86_cpu *c)
{
	return c->rflags & FL_DF;
}

/* The offset of a run's lowest byte. */
static u64 run_offset(const struct x86_cpu *c, const struct interp_insn *i, const struct run *r, u32 bytes)
{
	return index_of(c, i, r->reg) - (backward(c) ? bytes - i->row->arg : 0);
}

/* How many of the bytes, in whole elements, lie neither in another page nor beyond the ends of the offsets. 0: none, or their address is refused. */
static u32 run_length(struct x86_cpu *c, const struct interp_insn *i, const struct run *r, u32 bytes)
{
	u32 size = i->row->arg, acc = x86_acc(c, r->kind == TLB_WRITE ? ACC_WRITE : ACC_READ);
	u64 off = index_of(c, i, r->reg), above = interp_mask(i->asize * 8u) - off, in_page;
	gva_t lin;

	if (above < size || !interp_linear(c, r->seg, off, size, acc, &lin))
		return 0;
	in_page = PAGE_SIZE - PAGE_OFFSET(lin);
	if (in_page < size)
		return 0;
	if (backward(c)) {
		in_page = PAGE_OFFSET(lin) + size;
		above = off + size;
	}
	if (above < in_page)
		in_page = above;
	if (in_page < bytes)
		bytes = (u32)in_page;
	return bytes - bytes % size;
}

static bool find_run(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, struct run *r, u32 bytes)
{
	u32 acc = x86_acc(c, r->kind == TLB_WRITE ? ACC_WRITE : ACC_READ);
	gva_t lin;

	if (!interp_linear(c, r->seg, run_offset(c, i, r, bytes), bytes, acc, &lin))
		return false;
	r->host = interp_host(in, c, lin, bytes, r->kind);
	return r->host;
}

/* Finds n runs of the same length, in bytes; 0: one element must go by itself. */
static u32 find_runs(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, struct run *r, u32 n, u64 elements)
{
	u32 bytes = elements > CHUNK_BYTES / i->row->arg ? CHUNK_BYTES : (u32)elements * i->row->arg;
	bool found = !(c->rflags & FL_AC);

	for (u32 k = 0; k < n && found; k++)
		found = (bytes = run_length(c, i, &r[k], bytes)) != 0;
	for (u32 k = 0; k < n && found; k++)
		found = find_run(in, c, i, &r[k], bytes);
	c->fault.pending = false;
	return found ? bytes : 0;
}

/* Elements that are read after they were written repeat a pattern. */
static bool repeats_pattern(const struct x86_cpu *c, const u8 *to, const u8 *from, u32 bytes)
{
	return backward(c) ? to < from && from < to + bytes : to > from && to < from + bytes;
}

static u64 bulk_movs(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, u64 n)
{
	struct run r[2] = {{.seg = i->ea.seg, .reg = R_RSI, .kind = TLB_READ}, {.seg = SEG_ES, .reg = R_RDI, .kind = TLB_WRITE}};
	u32 bytes = find_runs(in, c, i, r, 2, n);

	if (!bytes || repeats_pattern(c, r[1].host, r[0].host, bytes))
		return 0;
	memmove(r[1].host, r[0].host, bytes);
	advance(c, i, R_RSI, bytes / i->row->arg);
	advance(c, i, R_RDI, bytes / i->row->arg);
	return bytes / i->row->arg;
}

static u64 bulk_stos(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, u64 n)
{
	struct run r = {.seg = SEG_ES, .reg = R_RDI, .kind = TLB_WRITE};
	u32 size = i->row->arg, bytes = find_runs(in, c, i, &r, 1, n);

	if (!bytes)
		return 0;
	if (size == 1)
		memset(r.host, (u8)c->gpr[R_RAX], bytes);
	else
		for (u32 k = 0; k < bytes; k += size)
			memcpy(r.host + k, &c->gpr[R_RAX], size);
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
