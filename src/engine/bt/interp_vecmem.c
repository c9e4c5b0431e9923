/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vector instructions whose memory accesses the host's unit cannot make for the guest: gathers, scatters, byte-masked stores.
 *
 * Gathers and scatters are restartable: an element that is done clears its mask bit, so after a fault the rest goes on from there.
 * Threading: the vCPU's thread.
 */
#include "engine/bt/interp_fpu.h"

/* arg: index size in bytes | element size in bytes << 4 */
#define GS(index, element) ((index) | (element) << 4)

struct vsib {
	u32 isize, esize, n; /* n elements */
	u8 index[64];
};

static void open_vsib(const struct interp *in, const struct x86_cpu *c, const struct interp_insn *i, struct vsib *v)
{
	u32 wide;

	v->isize = i->row->arg & 15;
	v->esize = i->row->arg >> 4;
	wide = v->isize > v->esize ? v->isize : v->esize;
	v->n = i->vec_len / wide;
	interp_vec_read(in, c, i->ea.index, v->n * v->isize < 16 ? 16 : v->n * v->isize, v->index);
}

static u64 element_address(const struct x86_cpu *c, const struct interp_insn *i, const struct vsib *v, u32 k)
{
	u64 idx = 0, a = (u64)i->ea.disp;

	memcpy(&idx, v->index + k * v->isize, v->isize);
	idx = interp_sext(idx, v->isize * 8);
	if (i->ea.base < 16)
		a += c->gpr[i->ea.base];
	return (a + idx * i->ea.scale) & interp_mask(i->asize * 8u);
}

static bool gather_element(struct x86_cpu *c, const struct interp_insn *i, const struct vsib *v, u32 k, u8 *dst)
{
	gva_t lin;
	u64 e;

	if (!interp_linear_any(c, i->ea.seg, element_address(c, i, v, k), v->esize, x86_acc(c, ACC_READ), &lin) ||
	    !x86_read_val(c, lin, v->esize, &e, x86_acc(c, ACC_READ)))
		return false;
	memcpy(dst + k * v->esize, &e, v->esize);
	return true;
}

/* A fault after some elements are done: a pending single-step trap goes first, the rest of the instruction comes after it. */
static bool stopped(struct interp *in, struct x86_cpu *c, u32 done)
{
	if (!done || !(c->rflags & FL_TF))
		return false;
	c->fault.pending = false;
	in->rep_unfinished = true;
	in->next_rip = c->rip;
	return true;
}

/* AVX2: the mask is a vector whose elements' sign bits count; it is zero afterwards. */
static bool gather_vex(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 d = i->op[0].reg, m = i->op[2].reg, done = 0, bytes;
	bool ok = true;
	u8 dst[64], mask[64];
	struct vsib v;

	if (d == m || d == i->ea.index || m == i->ea.index)
		return x86_raise(c, VEC_UD);
	open_vsib(in, c, i, &v);
	bytes = v.n * v.esize;
	interp_vec_read(in, c, d, 64, dst);
	interp_vec_read(in, c, m, 64, mask);
	for (u32 k = 0; k < v.n && ok; k++) {
		if (mask[(k + 1) * v.esize - 1] >> 7)
			done += ok = gather_element(c, i, &v, k, dst);
		if (ok)
			memset(mask + k * v.esize, 0, v.esize);
	}
	interp_vec_write(in, c, d, ok ? bytes : 64, dst);
	interp_vec_write(in, c, m, ok ? 0 : 64, mask);
	return ok || stopped(in, c, done);
}

static bool gather_evex(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 d = i->op[0].reg, kreg = i->evex_mask, done = 0;
	u64 mask;
	u8 dst[64];
	bool ok = true;
	struct vsib v;

	if (!kreg || d == i->ea.index)
		return x86_raise(c, VEC_UD);
	open_vsib(in, c, i, &v);
	mask = interp_mask_read(in, c, kreg);
	interp_vec_read(in, c, d, 64, dst);
	for (u32 k = 0; k < v.n && ok; k++) {
		if (mask >> k & 1)
			done += ok = gather_element(c, i, &v, k, dst);
		if (ok)
			mask &= ~(1ull << k);
	}
	interp_vec_write(in, c, d, ok ? v.n * v.esize : done ? i->vec_len : 64, dst);
	interp_mask_write(in, c, kreg, ok ? 0 : mask);
	return ok || stopped(in, c, done);
}

static bool op_gather(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	interp_fpu_own(in, c, interp_unit_components(in, (enum interp_unit)i->unit));
	return i->unit == UNIT_AVX512 ? gather_evex(in, c, i) : gather_vex(in, c, i);
}

static bool scatter_element(struct x86_cpu *c, const struct interp_insn *i, const struct vsib *v, u32 k, u64 e)
{
	u32 acc = x86_acc(c, ACC_WRITE);
	gva_t lin;

	return interp_linear_any(c, i->ea.seg, element_address(c, i, v, k), v->esize, acc, &lin) && x86_write_val(c, lin, v->esize, e, acc);
}

static bool op_scatter(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 kreg = i->evex_mask, done = 0;
	u64 mask, e;
	u8 src[64];
	struct vsib v;
	bool ok = true;

	if (!kreg)
		return x86_raise(c, VEC_UD);
	interp_fpu_own(in, c, interp_unit_components(in, UNIT_AVX512));
	open_vsib(in, c, i, &v);
	mask = interp_mask_read(in, c, kreg);
	interp_vec_read(in, c, i->op[i->nops - 1].reg, 64, src);
	for (u32 k = 0; k < v.n && ok; k++) {
		if (mask >> k & 1) {
			e = 0;
			memcpy(&e, src + k * v.esize, v.esize);
			done += ok = scatter_element(c, i, &v, k, e);
		}
		if (ok)
			mask &= ~(1ull << k);
	}
	interp_mask_write(in, c, kreg, ok ? 0 : mask);
	return ok || stopped(in, c, done);
}

/* Eight bytes at a time: a missing page of the first half comes before what is wrong with the second half's address. */
static bool half_writable(struct x86_cpu *c, u32 seg, u64 off)
{
	gva_t lin;

	return interp_linear_any(c, seg, off, 8, x86_acc(c, ACC_WRITE), &lin) && interp_aligned(c, lin, 8) && interp_probe_write(c, lin, 8);
}

/* MASKMOVQ, MASKMOVDQU, VMASKMOVDQU: bytes whose mask byte has its sign bit set, to DS:[rDI]. All bytes must be writable, whatever the
 * mask: the manuals leave that to the implementation, and AMD's CPUs do it so. */
static bool op_maskmov(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 bytes = i->row->arg;
	u64 di = interp_reg(c, R_RDI, i->asize);
	u8 src[16], mask[16];
	u64 on = 0;

	interp_fpu_own(in, c, interp_unit_components(in, (enum interp_unit)i->unit));
	if (bytes == 8) {
		interp_mmx_read(c, i->op[i->nops - 2].reg, src);
		interp_mmx_read(c, i->op[i->nops - 1].reg, mask);
	} else {
		interp_vec_read(in, c, i->op[i->nops - 2].reg, 16, src);
		interp_vec_read(in, c, i->op[i->nops - 1].reg, 16, mask);
	}
	for (u32 k = 0; k < bytes; k++)
		on |= (u64)(mask[k] >> 7) << k;
	/* Like any MMX instruction; AMD's CPUs do it even if the store then faults. */
	if (bytes == 8)
		interp_enter_mmx(c);
	for (u32 k = 0; k < bytes; k += 8)
		if (!half_writable(c, i->ea.seg, (di + k) & interp_mask(i->asize * 8u)))
			return false;
	return interp_store_elements(c, i->ea.seg, di, 1, 1, on, src);
}

#define M(n) ZYDIS_MNEMONIC_##n
static const struct interp_row rows[] = {
	{.mnemonic = M(VGATHERDPS), .run = op_gather, .arg = GS(4, 4), .attrs = ROW_FPU},
	{.mnemonic = M(VGATHERDPD), .run = op_gather, .arg = GS(4, 8), .attrs = ROW_FPU},
	{.mnemonic = M(VGATHERQPS), .run = op_gather, .arg = GS(8, 4), .attrs = ROW_FPU},
	{.mnemonic = M(VGATHERQPD), .run = op_gather, .arg = GS(8, 8), .attrs = ROW_FPU},
	{.mnemonic = M(VPGATHERDD), .run = op_gather, .arg = GS(4, 4), .attrs = ROW_FPU},
	{.mnemonic = M(VPGATHERDQ), .run = op_gather, .arg = GS(4, 8), .attrs = ROW_FPU},
	{.mnemonic = M(VPGATHERQD), .run = op_gather, .arg = GS(8, 4), .attrs = ROW_FPU},
	{.mnemonic = M(VPGATHERQQ), .run = op_gather, .arg = GS(8, 8), .attrs = ROW_FPU},
	{.mnemonic = M(VSCATTERDPS), .run = op_scatter, .arg = GS(4, 4), .attrs = ROW_FPU},
	{.mnemonic = M(VSCATTERDPD), .run = op_scatter, .arg = GS(4, 8), .attrs = ROW_FPU},
	{.mnemonic = M(VSCATTERQPS), .run = op_scatter, .arg = GS(8, 4), .attrs = ROW_FPU},
	{.mnemonic = M(VSCATTERQPD), .run = op_scatter, .arg = GS(8, 8), .attrs = ROW_FPU},
	{.mnemonic = M(VPSCATTERDD), .run = op_scatter, .arg = GS(4, 4), .attrs = ROW_FPU},
	{.mnemonic = M(VPSCATTERDQ), .run = op_scatter, .arg = GS(4, 8), .attrs = ROW_FPU},
	{.mnemonic = M(VPSCATTERQD), .run = op_scatter, .arg = GS(8, 4), .attrs = ROW_FPU},
	{.mnemonic = M(VPSCATTERQQ), .run = op_scatter, .arg = GS(8, 8), .attrs = ROW_FPU},
	{.mnemonic = M(MASKMOVQ), .run = op_maskmov, .arg = 8, .attrs = ROW_FPU},
	{.mnemonic = M(MASKMOVDQU), .run = op_maskmov, .arg = 16, .attrs = ROW_FPU},
	{.mnemonic = M(VMASKMOVDQU), .run = op_maskmov, .arg = 16, .attrs = ROW_FPU},
};

const struct interp_rows interp_rows_vecmem = {rows, ARRAY_SIZE(rows)};
