/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may use the vector units and when (#UD, #NM, #MF), and the control instructions of x87 and SSE, on the image in c->fpu.
 *
 * CR0.NE = 0 asks for the PC's IRQ 13 instead of #MF; #MF is raised then, too: no operating system of the last thirty years uses the other.
 * The image keeps no FCS and FDS: they read as zero, as CPUs that deprecate them do.
 * Source: SDM vol. 1 chapter 8, vol. 3 chapters 2.5 and 13.
 * Threading: the vCPU's thread.
 */
#include "engine/bt/interp_fpu.h"

static bool device_gate(struct x86_cpu *c, u64 bits)
{
	return !(c->cr0 & bits) || x86_raise(c, VEC_NM);
}

static bool pending_gate(struct x86_cpu *c)
{
	bool x87_live = fx_get64(c, XS_HEADER) & XF_X87;

	return !(x87_live && (fx_get16(c, FX_FSW) & FSW_ES)) || x86_raise(c, VEC_MF);
}

static bool sse_gate(struct x86_cpu *c)
{
	if ((c->cr0 & CR0_EM) || !(c->cr4 & CR4_OSFXSR))
		return x86_raise(c, VEC_UD);
	return device_gate(c, CR0_TS);
}

static bool mmx_gate(struct x86_cpu *c)
{
	if (c->cr0 & CR0_EM)
		return x86_raise(c, VEC_UD);
	return device_gate(c, CR0_TS) && pending_gate(c);
}

static bool avx_gate(struct x86_cpu *c, u64 need)
{
	if (x86_real_or_v86(c) || !(c->cr4 & CR4_OSXSAVE) || (c->xcr0 & need) != need)
		return x86_raise(c, VEC_UD);
	return device_gate(c, CR0_TS);
}

bool interp_gate(struct x86_cpu *c, enum interp_unit unit)
{
	switch (unit) {
	case UNIT_X87_NOWAIT:
		return device_gate(c, CR0_EM | CR0_TS);
	case UNIT_X87:
		return device_gate(c, CR0_EM | CR0_TS) && pending_gate(c);
	case UNIT_MMX:
		return mmx_gate(c);
	case UNIT_SSE:
		return sse_gate(c);
	case UNIT_SSE_MMX:
		return sse_gate(c) && pending_gate(c);
	case UNIT_AVX:
		return avx_gate(c, XF_SSE | XF_AVX);
	case UNIT_AVX512:
		return avx_gate(c, XF_SSE | XF_AVX | XF_AVX512);
	case UNIT_VEX_INT:
		return !x86_real_or_v86(c) || x86_raise(c, VEC_UD);
	default:
		return true;
	}
}

/* WAIT: TS counts only together with MP. */
static bool op_fwait(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	if ((c->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
		return x86_raise(c, VEC_NM);
	return pending_gate(c);
}

void interp_fpu_update_es(struct x86_cpu *c)
{
	u16 fsw = fx_get16(c, FX_FSW) & (u16) ~(FSW_ES | FSW_B);

	if (fsw & ~fx_get16(c, FX_FCW) & 0x3f)
		fsw |= FSW_ES | FSW_B;
	fx_set16(c, FX_FSW, fsw);
}

static u32 top_of(const struct x86_cpu *c)
{
	return (fx_get16(c, FX_FSW) >> FSW_TOP_SHIFT) & 7;
}

/* The image holds registers in stack order: a new TOP rotates them. */
static void set_fsw(struct x86_cpu *c, u16 fsw)
{
	u32 shift = ((u32)(fsw >> FSW_TOP_SHIFT) - top_of(c)) & 7;
	u8 old[128];

	memcpy(old, c->fpu.bytes + FX_ST, sizeof(old));
	for (u32 k = 0; k < 8; k++)
		memcpy(c->fpu.bytes + FX_ST + 16 * k, old + 16 * ((k + shift) & 7), 16);
	fx_set16(c, FX_FSW, fsw);
}

/* TOP becomes 0; register contents stay where they are. */
static void fninit(struct x86_cpu *c)
{
	set_fsw(c, 0);
	fx_set16(c, FX_FCW, FCW_INIT);
	fx_set16(c, FX_FTW, 0);
	fx_set16(c, FX_FOP, 0);
	fx_set64(c, FX_FIP, 0);
	fx_set64(c, FX_FDP, 0);
}

static bool op_fninit(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	interp_fpu_own(in, c, XF_X87);
	fninit(c);
	return true;
}

static bool op_fnclex(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	interp_fpu_own(in, c, XF_X87);
	fx_set16(c, FX_FSW, fx_get16(c, FX_FSW) & 0x7f00);
	return true;
}

/* FNSTCW (arg FX_FCW), FNSTSW (arg FX_FSW) */
static bool op_fnst(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	interp_fpu_own(in, c, XF_X87);
	return interp_put(in, c, i, 0, fx_get16(c, i->row->arg));
}

static void set_fcw(struct x86_cpu *c, u64 v)
{
	fx_set16(c, FX_FCW, (u16)((v & 0x1f3f) | 0x40));
	interp_fpu_update_es(c);
}

static bool op_fldcw(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 v;

	if (!interp_get(in, c, i, 0, &v))
		return false;
	interp_fpu_own(in, c, XF_X87);
	set_fcw(c, v);
	return true;
}

static bool op_fnop(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	return true;
}

/* MMX registers are physical ones, the image is in stack order. */
void interp_mmx_read(const struct x86_cpu *c, u32 r, u8 buf[8])
{
	memcpy(buf, c->fpu.bytes + FX_ST + 16 * ((r - top_of(c)) & 7), 8);
}

void interp_enter_mmx(struct x86_cpu *c)
{
	set_fsw(c, fx_get16(c, FX_FSW) & (u16) ~(7u << FSW_TOP_SHIFT));
	fx_set16(c, FX_FTW, 0xff);
}

/* EMMS: all registers empty, TOP 0. */
static bool op_emms(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	interp_fpu_own(in, c, XF_X87);
	set_fsw(c, fx_get16(c, FX_FSW) & (u16) ~(7u << FSW_TOP_SHIFT));
	fx_set16(c, FX_FTW, 0);
	return true;
}

/* 0 valid, 1 zero, 2 special, 3 empty */
static u32 full_tag(const struct x86_cpu *c, u32 physical)
{
	u32 st = FX_ST + 16 * ((physical - top_of(c)) & 7);
	u64 mantissa = fx_get64(c, st);
	u32 exponent = fx_get16(c, st + 8) & 0x7fff;

	if (!(fx_get16(c, FX_FTW) >> physical & 1))
		return 3;
	if (!exponent && !mantissa)
		return 1;
	return !exponent || exponent == 0x7fff || !(mantissa >> 63) ? 2 : 0;
}

static u32 full_tags(const struct x86_cpu *c)
{
	u32 t = 0;

	for (u32 k = 0; k < 8; k++)
		t |= full_tag(c, k) << (2 * k);
	return t;
}

static u16 short_tags(u32 full)
{
	u32 t = 0;

	for (u32 k = 0; k < 8; k++)
		t |= (u32)((full >> (2 * k) & 3) != 3) << k;
	return (u16)t;
}

/* The environment as seven 16- or 32-bit words (SDM vol. 1, figures 8-9 to 8-12). Returns its size. */
static u32 environment_out(const struct x86_cpu *c, u32 osize, u8 *out)
{
	u64 fip = fx_get64(c, FX_FIP), fdp = fx_get64(c, FX_FDP);
	u32 fop = fx_get16(c, FX_FOP) & 0x7ff, w = osize == 2 ? 2 : 4, high = w == 2 ? 0 : 0xffff0000;
	bool real = x86_real_or_v86(c);
	u32 v[7] = {high | fx_get16(c, FX_FCW), high | fx_get16(c, FX_FSW), high | full_tags(c)};

	if (real && w == 4) {
		v[3] = high | (u16)fip;
		v[4] = (u32)(fip >> 16 & 0xffff) << 12 | fop;
		v[5] = high | (u16)fdp;
		v[6] = (u32)(fdp >> 16 & 0xffff) << 12;
	} else if (real) {
		v[3] = (u16)fip;
		v[4] = (u32)(fip >> 16 & 0xf) << 12 | fop;
		v[5] = (u16)fdp;
		v[6] = (u32)(fdp >> 16 & 0xf) << 12;
	} else {
		v[3] = (u32)fip;
		v[4] = w == 4 ? fop << 16 : 0;
		v[5] = (u32)fdp;
		v[6] = high;
	}
	for (u32 k = 0; k < 7; k++)
		memcpy(out + k * w, &v[k], w);
	return 7 * w;
}

static void environment_in(struct x86_cpu *c, u32 osize, const u8 *p)
{
	u32 v[7] = {0}, w = osize == 2 ? 2 : 4;
	bool real = x86_real_or_v86(c);

	for (u32 k = 0; k < 7; k++)
		memcpy(&v[k], p + k * w, w);
	set_fsw(c, (u16)v[1]);
	fx_set16(c, FX_FTW, short_tags(v[2]));
	fx_set16(c, FX_FOP, (u16)(real ? v[4] & 0x7ff : w == 4 ? v[4] >> 16 & 0x7ff : 0));
	fx_set64(c, FX_FIP, real ? (u16)v[3] | (v[4] >> 12 & 0xffff) << 16 : v[3]);
	fx_set64(c, FX_FDP, real ? (u16)v[5] | (v[6] >> 12 & 0xffff) << 16 : v[5]);
	set_fcw(c, v[0]);
}

/* Storing the environment masks all exceptions. */
/* For #AC the environment is a run of words. */
static bool env_aligned(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, u32 acc)
{
	gva_t lin;

	return interp_linear_any(c, i->ea.seg, interp_ea(in, c, i), 1, x86_acc(c, acc), &lin) &&
	       interp_aligned(c, lin, i->osize == 2 ? 2 : 4);
}

static bool op_fnstenv(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u8 buf[28];
	u32 n;

	interp_fpu_own(in, c, XF_X87);
	n = environment_out(c, i->osize, buf);
	if (!env_aligned(in, c, i, ACC_WRITE) || !interp_store_buf(c, i->ea.seg, interp_ea(in, c, i), n, buf))
		return false;
	set_fcw(c, fx_get16(c, FX_FCW) | 0x3fu);
	return true;
}

/* CPUs read an image piece by piece: what is wrong with the first comes before what is wrong with the end, be it of another kind. */
static bool load_image(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, u32 n, u8 *buf)
{
	u64 ea = interp_ea(in, c, i);

	return env_aligned(in, c, i, ACC_READ) && interp_load_buf(c, i->ea.seg, ea, i->osize == 2 ? 2 : 4, buf) &&
	       interp_load_buf(c, i->ea.seg, ea, n, buf);
}

static bool op_fldenv(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u8 buf[28];

	if (!load_image(in, c, i, i->osize == 2 ? 14 : 28, buf))
		return false;
	interp_fpu_own(in, c, XF_X87);
	environment_in(c, i->osize, buf);
	return true;
}

static bool op_fnsave(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u8 buf[108];
	u32 n;

	interp_fpu_own(in, c, XF_X87);
	n = environment_out(c, i->osize, buf);
	for (u32 k = 0; k < 8; k++, n += 10)
		memcpy(buf + n, c->fpu.bytes + FX_ST + 16 * k, 10);
	if (!env_aligned(in, c, i, ACC_WRITE) || !interp_store_buf(c, i->ea.seg, interp_ea(in, c, i), n, buf))
		return false;
	fninit(c);
	return true;
}

static bool op_frstor(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 n = i->osize == 2 ? 14 : 28;
	u8 buf[108];

	if (!load_image(in, c, i, n + 80, buf))
		return false;
	interp_fpu_own(in, c, XF_X87);
	environment_in(c, i->osize, buf);
	for (u32 k = 0; k < 8; k++, n += 10) {
		memcpy(c->fpu.bytes + FX_ST + 16 * k, buf + n, 10);
		memset(c->fpu.bytes + FX_ST + 16 * k + 10, 0, 6);
	}
	return true;
}

static bool op_ldmxcsr(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 v;

	if (!interp_get(in, c, i, 0, &v))
		return false;
	if (v & ~(u64)in->thunk->lay.mxcsr_mask)
		return x86_raise_err(c, VEC_GP, 0);
	fx_set32(c, FX_MXCSR, (u32)v);
	return true;
}

static bool op_stmxcsr(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	return interp_put(in, c, i, 0, fx_get32(c, FX_MXCSR));
}

#define M(n) ZYDIS_MNEMONIC_##n
static const struct interp_row rows[] = {
	{.mnemonic = M(FWAIT), .run = op_fwait, .attrs = ROW_FPU | ROW_OWN_GATE},
	{.mnemonic = M(FNINIT), .run = op_fninit, .attrs = ROW_FPU | ROW_NOWAIT},
	{.mnemonic = M(FNCLEX), .run = op_fnclex, .attrs = ROW_FPU | ROW_NOWAIT},
	{.mnemonic = M(FNSTCW), .run = op_fnst, .arg = FX_FCW, .attrs = ROW_FPU | ROW_NOWAIT},
	{.mnemonic = M(FNSTSW), .run = op_fnst, .arg = FX_FSW, .attrs = ROW_FPU | ROW_NOWAIT},
	{.mnemonic = M(FNSTENV), .run = op_fnstenv, .attrs = ROW_FPU | ROW_NOWAIT},
	{.mnemonic = M(FNSAVE), .run = op_fnsave, .attrs = ROW_FPU | ROW_NOWAIT},
	{.mnemonic = M(FENI8087_NOP), .run = op_fnop, .attrs = ROW_FPU | ROW_NOWAIT},
	{.mnemonic = M(FDISI8087_NOP), .run = op_fnop, .attrs = ROW_FPU | ROW_NOWAIT},
	{.mnemonic = M(FSETPM287_NOP), .run = op_fnop, .attrs = ROW_FPU | ROW_NOWAIT},
	{.mnemonic = M(FLDCW), .run = op_fldcw, .attrs = ROW_FPU},
	{.mnemonic = M(FLDENV), .run = op_fldenv, .attrs = ROW_FPU},
	{.mnemonic = M(FRSTOR), .run = op_frstor, .attrs = ROW_FPU},
	{.mnemonic = M(EMMS), .run = op_emms, .attrs = ROW_FPU},
	{.mnemonic = M(LDMXCSR), .run = op_ldmxcsr, .attrs = ROW_FPU},
	{.mnemonic = M(VLDMXCSR), .run = op_ldmxcsr, .attrs = ROW_FPU},
	{.mnemonic = M(STMXCSR), .run = op_stmxcsr, .attrs = ROW_FPU},
	{.mnemonic = M(VSTMXCSR), .run = op_stmxcsr, .attrs = ROW_FPU},
};

const struct interp_rows interp_rows_fpu = {rows, ARRAY_SIZE(rows)};
