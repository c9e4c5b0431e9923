/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XSAVEC, XSAVES and their restores between c->fpu and guest memory.
 *
 * Nothing of the host gets into guest memory: instruction and data pointers are the guest's, and a component is "in use" when its bytes
 * differ from the initial state, whatever the host's unit thinks. XSAVEOPT leaves out what is not in use; it never skips unmodified
 * components. Source: SDM vol. 1 chapter 13, vol. 2 (FXSAVE, XSAVE*, XRSTOR*). Threading: the vCPU's thread.
 */
#include "engine/bt/interp_fpu.h"

#define COMPACTED (1ull << 63)

/* How much of a component a mode can see: outside 64-bit code only registers 0 to 7. */
static u32 visible_size(const struct interp_layout *l, const struct x86_cpu *c, u32 n)
{
	static const u8 halved = XF_SSE | XF_AVX | XF_ZMM_HI;

	if (x86_code64(c) || n > 7)
		return l->size[n];
	if (n == 7)
		return 0;
	return halved >> n & 1 ? l->size[n] / 2 : l->size[n];
}

/* The x87 part of the legacy region in the layout that operand size asks for. */
static void x87_head(const struct x86_cpu *c, bool wide, u8 out[24])
{
	memcpy(out, c->fpu.bytes, 24);
	if (!wide) {
		memset(out + FX_FIP + 4, 0, 4);
		memset(out + FX_FDP + 4, 0, 4);
	}
}

static void x87_head_in(struct x86_cpu *c, bool wide, const u8 *p)
{
	memcpy(c->fpu.bytes, p, 24);
	c->fpu.bytes[FX_FTW + 1] = 0;
	fx_set16(c, FX_FCW, (u16)((fx_get16(c, FX_FCW) & 0x1f3f) | 0x40));
	fx_set16(c, FX_FOP, fx_get16(c, FX_FOP) & 0x7ff);
	if (!wide) {
		fx_set32(c, FX_FIP + 4, 0);
		fx_set32(c, FX_FDP + 4, 0);
	}
	interp_fpu_update_es(c);
}

static void registers_in(struct x86_cpu *c, const u8 *p)
{
	for (u32 k = 0; k < 8; k++) {
		memcpy(c->fpu.bytes + FX_ST + 16 * k, p + 16 * k, 10);
		memset(c->fpu.bytes + FX_ST + 16 * k + 10, 0, 6);
	}
}

static bool probe_range(struct x86_cpu *c, gva_t lin, u32 len)
{
	for (gva_t a = lin; a < lin + len; a = PAGE_BASE(a) + PAGE_SIZE)
		if (!interp_probe_write(c, a, 1))
			return false;
	return true;
}

static bool put(struct x86_cpu *c, gva_t lin, const void *p, u32 len)
{
	return !len || x86_write(c, lin, p, len, x86_acc(c, ACC_WRITE));
}

static bool area(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, u32 len, u32 align, u32 acc, gva_t *lin)
{
	if (!interp_linear(c, i->ea.seg, interp_ea(in, c, i), len, x86_acc(c, acc), lin))
		return false;
	return !(*lin & (align - 1)) || x86_raise_err(c, VEC_GP, 0);
}

/* AMD's fast FXSAVE/FXRSTOR leaves the XMM registers out in ring 0. */
static bool fast_fx(const struct x86_cpu *c)
{
	return (c->msr.efer & EFER_FFXSR) && x86_code64(c) && x86_cpl(c) == 0;
}

static void fx_tail(const struct interp *in, const struct x86_cpu *c, u8 mxcsr[8])
{
	memcpy(mxcsr, c->fpu.bytes + FX_MXCSR, 4);
	memcpy(mxcsr + 4, &in->thunk->lay.mxcsr_mask, 4);
}

static bool fx_gate(struct x86_cpu *c)
{
	return !(c->cr0 & (CR0_EM | CR0_TS)) || x86_raise(c, VEC_NM);
}

static bool op_fxsave(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 xmm = fast_fx(c) ? 0 : visible_size(&in->thunk->lay, c, 1);
	u8 buf[FX_SIZE];
	gva_t lin;

	if (!fx_gate(c) || !area(in, c, i, FX_SIZE, 16, ACC_WRITE, &lin))
		return false;
	interp_fpu_own(in, c, XF_X87 | XF_SSE);
	memcpy(buf, c->fpu.bytes, FX_XMM + xmm);
	x87_head(c, i->row->arg, buf);
	fx_tail(in, c, buf + FX_MXCSR);
	return put(c, lin, buf, FX_XMM + xmm);
}

static bool op_fxrstor(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 xmm = fast_fx(c) ? 0 : visible_size(&in->thunk->lay, c, 1), mxcsr;
	u8 buf[FX_SIZE];
	gva_t lin;

	if (!fx_gate(c) || !area(in, c, i, FX_SIZE, 16, ACC_READ, &lin) || !x86_read(c, lin, buf, FX_SIZE, x86_acc(c, ACC_READ)))
		return false;
	memcpy(&mxcsr, buf + FX_MXCSR, 4);
	if (mxcsr & ~in->thunk->lay.mxcsr_mask)
		return x86_raise_err(c, VEC_GP, 0);
	interp_fpu_own(in, c, XF_X87 | XF_SSE);
	x87_head_in(c, i->row->arg, buf);
	registers_in(c, buf + FX_ST);
	fx_set32(c, FX_MXCSR, mxcsr);
	memcpy(c->fpu.bytes + FX_XMM, buf + FX_XMM, xmm);
	return true;
}

/* Where component n lies in an area of the compacted format that holds `have`. */
static u32 compact_offset(const struct interp_layout *l, u64 have, u32 n)
{
	u32 at = XS_HEADER + XS_HEADER_SIZE;

	for (u32 k = 2; k <= n; k++) {
		if (!(have >> k & 1))
			continue;
		if (l->align64[k])
			at = (at + 63) & ~63u;
		if (k == n)
			break;
		at += l->size[k];
	}
	return at;
}

struct xs {
	gva_t lin;
	u64 rfbm;
	u64 comp; /* components of the compacted format, 0: standard */
	u32 len;
	bool wide;
};

static u32 comp_offset(const struct interp_layout *l, const struct xs *x, u32 n)
{
	return n < 2 || !x->comp ? l->off[n] : compact_offset(l, x->comp, n);
}

static void area_length(const struct interp_layout *l, struct xs *x, u64 have)
{
	x->len = XS_HEADER + XS_HEADER_SIZE;
	for (u32 n = 2; n < XF_COUNT; n++) {
		u32 end = have >> n & 1 ? comp_offset(l, x, n) + l->size[n] : 0;

		if (end > x->len)
			x->len = end;
	}
}

static bool xs_gate(struct x86_cpu *c)
{
	if (!(c->cr4 & CR4_OSXSAVE))
		return x86_raise(c, VEC_UD);
	return !(c->cr0 & CR0_TS) || x86_raise(c, VEC_NM);
}

static u64 requested(const struct x86_cpu *c)
{
	return c->xcr0 & ((u32)c->gpr[R_RAX] | c->gpr[R_RDX] << 32);
}

static u64 in_use(const struct interp *in, const struct x86_cpu *c, u64 mask)
{
	u64 r = 0;

	for (u32 n = 0; n < XF_COUNT; n++)
		if ((mask >> n & 1) && interp_fpu_in_use(&in->thunk->lay, c, n))
			r |= 1ull << n;
	return r;
}

static bool save_x87(struct x86_cpu *c, const struct xs *x)
{
	u8 head[24];

	x87_head(c, x->wide, head);
	return put(c, x->lin, head, 24) && put(c, x->lin + FX_ST, c->fpu.bytes + FX_ST, 128);
}

static bool save_component(const struct interp_layout *l, struct x86_cpu *c, const struct xs *x, u32 n)
{
	if (n == 0)
		return save_x87(c, x);
	return put(c, x->lin + comp_offset(l, x, n), c->fpu.bytes + l->off[n], visible_size(l, c, n));
}

static bool save_components(const struct interp *in, struct x86_cpu *c, const struct xs *x, u64 write, u64 mxcsr_when)
{
	const struct interp_layout *l = &in->thunk->lay;
	u8 mx[8];

	for (u32 n = 0; n < XF_COUNT; n++)
		if ((write >> n & 1) && !save_component(l, c, x, n))
			return false;
	fx_tail(in, c, mx);
	return !(x->rfbm & mxcsr_when) || put(c, x->lin + FX_MXCSR, mx, 8);
}

enum { XSAVE_PLAIN = 0, XSAVE_OPT = 2, XSAVE_COMPACT = 4, XSAVE_WIDE = 1 };

static bool save_open(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, struct xs *x)
{
	bool compact = i->row->arg & XSAVE_COMPACT;

	x->rfbm = requested(c);
	x->comp = compact ? x->rfbm | COMPACTED : 0;
	x->wide = i->row->arg & XSAVE_WIDE;
	area_length(&in->thunk->lay, x, x->rfbm);
	if (!xs_gate(c) || !area(in, c, i, x->len, 64, ACC_WRITE, &x->lin) || !probe_range(c, x->lin, x->len))
		return false;
	interp_fpu_own(in, c, x->rfbm);
	return true;
}

static bool op_xsave(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 bv, used;
	struct xs x;

	if (!save_open(in, c, i, &x) || !x86_read_val(c, x.lin + XS_HEADER, 8, &bv, x86_acc(c, ACC_READ)))
		return false;
	used = in_use(in, c, x.rfbm);
	bv = (bv & ~x.rfbm) | used;
	return save_components(in, c, &x, i->row->arg & XSAVE_OPT ? used : x.rfbm, XF_SSE | XF_AVX) && put(c, x.lin + XS_HEADER, &bv, 8);
}

static bool op_xsavec(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 head[2], used;
	struct xs x;

	if (!save_open(in, c, i, &x))
		return false;
	used = in_use(in, c, x.rfbm);
	if ((x.rfbm & XF_SSE) && fx_get32(c, FX_MXCSR) != MXCSR_INIT)
		used |= XF_SSE;
	head[0] = used;
	head[1] = x.comp;
	return save_components(in, c, &x, used, used & XF_SSE) && put(c, x.lin + XS_HEADER, head, 16);
}

static bool header_valid(struct x86_cpu *c, const u64 head[8], bool need_compact)
{
	u64 bv = head[0], comp = head[1];

	if (comp & COMPACTED) {
		if (!x86_cpuid_has(c->cpuid, 0xd, 1, 0, 1) || (comp & ~COMPACTED & ~c->xcr0) || (bv & ~comp))
			return false;
		return interp_all_zero((const u8 *)(head + 2), 48);
	}
	return !need_compact && !(bv & ~c->xcr0) && !comp && !head[2];
}

static bool restore_component(const struct interp_layout *l, struct x86_cpu *c, const struct xs *x, u32 n, const u8 *buf)
{
	if (n == 0) {
		x87_head_in(c, x->wide, buf);
		registers_in(c, buf + FX_ST);
	} else {
		memcpy(c->fpu.bytes + l->off[n], buf + comp_offset(l, x, n), visible_size(l, c, n));
	}
	return true;
}

static void init_component(const struct interp_layout *l, struct x86_cpu *c, u32 n)
{
	if (n == 0)
		interp_fpu_reset(l, c, 0);
	else
		memset(c->fpu.bytes + l->off[n], 0, visible_size(l, c, n));
}

/* MXCSR belongs to SSE; in the standard format AVX loads it, too, whatever XSTATE_BV says. */
static bool new_mxcsr(const struct xs *x, u64 bv, const u8 *buf, u32 *mxcsr)
{
	if (x->comp) {
		if (!(x->rfbm & XF_SSE))
			return false;
		*mxcsr = MXCSR_INIT;
		if (bv & XF_SSE)
			memcpy(mxcsr, buf + FX_MXCSR, 4);
		return true;
	}
	if (!(x->rfbm & (XF_SSE | XF_AVX)))
		return false;
	memcpy(mxcsr, buf + FX_MXCSR, 4);
	return true;
}

static bool op_xrstor(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	const struct interp_layout *l = &in->thunk->lay;
	struct xs x = {.rfbm = requested(c), .wide = i->row->arg & XSAVE_WIDE};
	u8 buf[X86_XSAVE_SIZE];
	u64 head[8];
	u32 mxcsr;
	bool set_mxcsr;

	if (!xs_gate(c) || !area(in, c, i, XS_HEADER + XS_HEADER_SIZE, 64, ACC_READ, &x.lin) ||
	    !x86_read(c, x.lin + XS_HEADER, head, sizeof(head), x86_acc(c, ACC_READ)))
		return false;
	if (!header_valid(c, head, i->row->arg & XSAVE_COMPACT))
		return x86_raise_err(c, VEC_GP, 0);
	x.comp = head[1];
	area_length(l, &x, x.rfbm & head[0]); /* never above X86_XSAVE_SIZE: components that end there are not offered */
	if (!area(in, c, i, x.len, 64, ACC_READ, &x.lin) || !x86_read(c, x.lin, buf, x.len, x86_acc(c, ACC_READ)))
		return false;
	set_mxcsr = new_mxcsr(&x, head[0], buf, &mxcsr);
	if (set_mxcsr && (mxcsr & ~l->mxcsr_mask))
		return x86_raise_err(c, VEC_GP, 0);
	interp_fpu_own(in, c, x.rfbm);
	for (u32 n = 0; n < XF_COUNT; n++) {
		if (!(x.rfbm >> n & 1))
			continue;
		if (head[0] >> n & 1)
			restore_component(l, c, &x, n, buf);
		else
			init_component(l, c, n);
	}
	if (set_mxcsr)
		fx_set32(c, FX_MXCSR, mxcsr);
	return true;
}

#define M(n) ZYDIS_MNEMONIC_##n
#define OWN (ROW_FPU | ROW_OWN_GATE)
static const struct interp_row rows[] = {
	{.mnemonic = M(FXSAVE), .run = op_fxsave, .attrs = OWN},
	{.mnemonic = M(FXSAVE64), .run = op_fxsave, .arg = XSAVE_WIDE, .attrs = OWN},
	{.mnemonic = M(FXRSTOR), .run = op_fxrstor, .attrs = OWN},
	{.mnemonic = M(FXRSTOR64), .run = op_fxrstor, .arg = XSAVE_WIDE, .attrs = OWN},
	{.mnemonic = M(XSAVE), .run = op_xsave, .attrs = OWN},
	{.mnemonic = M(XSAVE64), .run = op_xsave, .arg = XSAVE_WIDE, .attrs = OWN},
	{.mnemonic = M(XSAVEOPT), .run = op_xsave, .arg = XSAVE_OPT, .attrs = OWN},
	{.mnemonic = M(XSAVEOPT64), .run = op_xsave, .arg = XSAVE_OPT | XSAVE_WIDE, .attrs = OWN},
	{.mnemonic = M(XSAVEC), .run = op_xsavec, .arg = XSAVE_COMPACT, .attrs = OWN},
	{.mnemonic = M(XSAVEC64), .run = op_xsavec, .arg = XSAVE_COMPACT | XSAVE_WIDE, .attrs = OWN},
	{.mnemonic = M(XSAVES), .run = op_xsavec, .arg = XSAVE_COMPACT, .attrs = OWN | ROW_PRIV},
	{.mnemonic = M(XSAVES64), .run = op_xsavec, .arg = XSAVE_COMPACT | XSAVE_WIDE, .attrs = OWN | ROW_PRIV},
	{.mnemonic = M(XRSTOR), .run = op_xrstor, .attrs = OWN},
	{.mnemonic = M(XRSTOR64), .run = op_xrstor, .arg = XSAVE_WIDE, .attrs = OWN},
	{.mnemonic = M(XRSTORS), .run = op_xrstor, .arg = XSAVE_COMPACT, .attrs = OWN | ROW_PRIV},
	{.mnemonic = M(XRSTORS64), .run = op_xrstor, .arg = XSAVE_COMPACT | XSAVE_WIDE, .attrs = OWN | ROW_PRIV},
};

const struct interp_rows interp_rows_xsave = {rows, ARRAY_SIZE(rows)};
