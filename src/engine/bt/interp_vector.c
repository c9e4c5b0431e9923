/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vector and x87 instructions on the host's unit: their memory operand comes and goes through a bounce buffer, with the guest's faults.
 *
 * Alignment, masked elements and broadcasts are decided here, at decode time where possible; what may not be accessed is neither read nor
 * written. A store is known to succeed before the instruction runs, and what it changed in the x87 state is taken back if it fails all the
 * same. Threading: the vCPU's thread.
 */
#include "engine/bt/interp_fpu.h"

#define M(n) ZYDIS_MNEMONIC_##n

/* SSE instructions with 16-byte operands that need not be aligned. */
static const u16 unaligned[] = {M(MOVUPS), M(MOVUPD), M(MOVDQU), M(LDDQU), M(PCMPESTRI), M(PCMPESTRM), M(PCMPISTRI), M(PCMPISTRM)};

/* Those that must be aligned even with MXCSR.MM set, and the VEX and EVEX ones that must be at all. */
static const u16 aligned_move[] = {
	M(MOVAPS),  M(MOVAPD),	M(MOVDQA),   M(MOVNTPS),  M(MOVNTPD),  M(MOVNTDQ),   M(MOVNTDQA),  M(VMOVAPS),
	M(VMOVAPD), M(VMOVDQA), M(VMOVNTPS), M(VMOVNTPD), M(VMOVNTDQ), M(VMOVNTDQA), M(VMOVDQA32), M(VMOVDQA64),
};

static const u16 packed_memory[] = {
	M(VEXPANDPS),	M(VEXPANDPD),	M(VPEXPANDB),	M(VPEXPANDW),	M(VPEXPANDD),	M(VPEXPANDQ),
	M(VCOMPRESSPS), M(VCOMPRESSPD), M(VPCOMPRESSB), M(VPCOMPRESSW), M(VPCOMPRESSD), M(VPCOMPRESSQ),
};

static const u16 vector_mask[] = {M(VMASKMOVPS), M(VMASKMOVPD), M(VPMASKMOVD), M(VPMASKMOVQ)};

/* AMD CPUs do not ask for alignment here, Intel's do. */
static const u16 sha[] = {M(SHA1MSG1), M(SHA1MSG2), M(SHA1NEXTE), M(SHA1RNDS4), M(SHA256MSG1), M(SHA256MSG2), M(SHA256RNDS2)};

/* Their memory elements are not what the mask selects; Zydis 4.0 has them in other exception classes than E4NF. */
static const u16 whole_memory[] = {M(VGF2P8AFFINEQB), M(VGF2P8AFFINEINVQB), M(VPMULTISHIFTQB), M(VDBPSADBW), M(VCVTNE2PS2BF16)};

static bool in_list(const u16 *list, u32 n, u32 m)
{
	for (u32 k = 0; k < n; k++)
		if (list[k] == m)
			return true;
	return false;
}
#define IN_LIST(list, m) in_list(list, ARRAY_SIZE(list), m)

/* i->align: 0 none; 16 with bit 7: MXCSR.MM lifts it. */
#define ALIGN_MM 0x80u

static u8 alignment(const struct interp_insn *i, const ZydisDecodedInstruction *z)
{
	u32 size = i->op[i->mem].size;

	if (IN_LIST(aligned_move, z->mnemonic))
		return (u8)size;
	if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && (i->unit == UNIT_SSE || i->unit == UNIT_SSE_MMX) && size == 16 &&
	    !IN_LIST(unaligned, z->mnemonic))
		return 16 | ALIGN_MM;
	return 0;
}

/* Exception classes "NF": masks suppress no faults. */
static bool suppresses_faults(const ZydisDecodedInstruction *z)
{
	if (IN_LIST(whole_memory, z->mnemonic))
		return false;
	switch (z->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_E1NF:
	case ZYDIS_EXCEPTION_CLASS_E2NF:
	case ZYDIS_EXCEPTION_CLASS_E3NF:
	case ZYDIS_EXCEPTION_CLASS_E4NF:
	case ZYDIS_EXCEPTION_CLASS_E5NF:
	case ZYDIS_EXCEPTION_CLASS_E6NF:
	case ZYDIS_EXCEPTION_CLASS_E9NF:
	case ZYDIS_EXCEPTION_CLASS_E10NF:
	case ZYDIS_EXCEPTION_CLASS_E11NF:
		return false;
	default:
		return true;
	}
}

static u32 broadcast_lanes(ZydisBroadcastMode m)
{
	static const u8 lanes[] = {
		[ZYDIS_BROADCAST_MODE_1_TO_2] = 2,   [ZYDIS_BROADCAST_MODE_1_TO_4] = 4,	  [ZYDIS_BROADCAST_MODE_1_TO_8] = 8,
		[ZYDIS_BROADCAST_MODE_1_TO_16] = 16, [ZYDIS_BROADCAST_MODE_1_TO_32] = 32, [ZYDIS_BROADCAST_MODE_1_TO_64] = 64,
		[ZYDIS_BROADCAST_MODE_2_TO_4] = 4,   [ZYDIS_BROADCAST_MODE_2_TO_8] = 8,	  [ZYDIS_BROADCAST_MODE_2_TO_16] = 16,
		[ZYDIS_BROADCAST_MODE_4_TO_8] = 8,   [ZYDIS_BROADCAST_MODE_4_TO_16] = 16, [ZYDIS_BROADCAST_MODE_8_TO_16] = 16,
	};

	return m < ARRAY_SIZE(lanes) ? lanes[m] : 0;
}

/* How many mask bits govern the instruction: elements of the vector operand that the mask selects from. */
static u32 mask_lanes(const struct interp_insn *i, const ZydisDecodedInstruction *z)
{
	const struct interp_opnd *mem = &i->op[i->mem], *v = &i->op[i->mem == 0 ? i->nops - 1 : 0];
	u32 lanes = broadcast_lanes(z->avx.broadcast.mode);

	if (lanes)
		return lanes;
	if (mem->ecount == 1)
		return 1;
	if (v->kind != IOP_VEC || i->mem == 0)
		return mem->ecount;
	/* Conversions to a narrower type leave destination elements without a source. */
	return v->ecount < mem->ecount || v->esize > mem->esize ? v->ecount : mem->ecount;
}

static void fill_masking(struct interp_insn *i, const ZydisDecodedInstruction *z)
{
	u32 k = z->avx.mask.reg == ZYDIS_REGISTER_NONE ? 0 : (u32)(z->avx.mask.reg - ZYDIS_REGISTER_K0);

	if (IN_LIST(vector_mask, z->mnemonic))
		i->vflags |= VF_VMASK;
	if (IN_LIST(packed_memory, z->mnemonic))
		i->vflags |= VF_PACKED;
	if (z->encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX || !k)
		return;
	i->evex_mask = (u8)k;
	if (!suppresses_faults(z)) {
		if (!(i->op[i->mem].act & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			return;
		i->vflags |= VF_WHOLE;
	}
	i->vflags |= VF_MASKED;
	if (z->avx.broadcast.mode != ZYDIS_BROADCAST_MODE_INVALID)
		i->vflags |= VF_BCAST;
	i->lanes = (u8)mask_lanes(i, z);
}

static u16 x87_opcode(const u8 *bytes, const ZydisDecodedInstruction *z)
{
	return (u16)((z->opcode & 7) << 8 | bytes[z->raw.modrm.offset]);
}

void interp_fill_vector(struct interp_insn *i, const u8 *bytes, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o,
			const ZydisDecoder *d64, bool amd)
{
	i->vec_len = (u8)(z->avx.vector_length / 8);
	if (z->mnemonic == ZYDIS_MNEMONIC_VZEROUPPER || z->mnemonic == ZYDIS_MNEMONIC_VZEROALL)
		i->vflags |= VF_VZERO;
	if (i->unit == UNIT_X87)
		i->fop = x87_opcode(bytes, z);
	if (i->mem != 0xff) {
		i->align = amd && IN_LIST(sha, z->mnemonic) ? 0 : alignment(i, z);
		fill_masking(i, z);
	}
	if (i->row == &interp_row_vector && !interp_encode(i, bytes, z, o, d64, amd)) {
		i->row = &interp_row_ud;
		i->unit = UNIT_INT;
		i->unknown = true;
	}
}

/* ---- elements ---- */

/* VMASKMOV: the sign bits of the mask operand's elements. */
static u64 sign_bits(const struct interp *in, const struct x86_cpu *c, const struct interp_insn *i, u32 esize)
{
	u32 bytes = i->op[1].size;
	u64 r = 0;
	u8 v[64];

	interp_vec_read(in, c, i->op[1].reg, bytes, v);
	for (u32 k = 0; k < bytes / esize; k++)
		r |= (u64)(v[(k + 1) * esize - 1] >> 7) << k;
	return r;
}

/* Which of `count` memory elements does a mask of `lanes` bits want? A broadcast element serves every count-th lane, another one a group of
 * neighbouring lanes, and several elements may share a lane. */
static u64 spread(u64 mask, u32 lanes, u32 count, bool broadcast)
{
	u32 steps = lanes > count ? lanes : count;
	u64 r = 0;

	for (u32 k = 0; k < steps; k++)
		if (mask >> (k * lanes / steps) & 1)
			r |= 1ull << (broadcast ? k % count : k * count / steps);
	return r;
}

u64 interp_enabled_elements(const struct interp *in, const struct x86_cpu *c, const struct interp_insn *i, u32 *esize)
{
	const struct interp_opnd *m = &i->op[i->mem];
	u64 mask;

	*esize = m->esize / 8u;
	if (i->vflags & VF_VMASK)
		return sign_bits(in, c, i, *esize);
	mask = interp_mask_read(in, c, i->evex_mask) & interp_mask(i->lanes);
	if (i->vflags & VF_PACKED)
		return interp_mask((u32)__builtin_popcountll(mask));
	return spread(mask, i->lanes, m->ecount, i->vflags & VF_BCAST);
}

/* The next run of set bits: [*at, *at + *n). */
static bool next_run(u64 enabled, u32 *at, u32 *n)
{
	u64 rest = *at < 64 ? enabled >> *at : 0;

	if (!rest)
		return false;
	*at += (u32)__builtin_ctzll(rest);
	rest = ~(enabled >> *at);
	*n = rest ? (u32)__builtin_ctzll(rest) : 64;
	return true;
}

/* A run that leaves the canonical addresses goes element by element: one before the end may have a page fault to raise. */
static u32 run_length(const struct x86_cpu *c, u32 seg, u64 off, u32 esize, u32 n)
{
	u64 lin = off + (seg >= SEG_FS ? c->seg[seg].base : 0);

	return x86_canonical(lin + n * esize - 1) ? n : 1;
}

bool interp_load_elements(struct x86_cpu *c, u32 seg, u64 off, u32 esize, u32 align, u64 enabled, u8 *buf)
{
	gva_t lin;
	u32 n;

	for (u32 at = 0; next_run(enabled, &at, &n); at += n) {
		n = run_length(c, seg, off + at * esize, esize, n);
		if (!interp_linear_any(c, seg, off + at * esize, n * esize, x86_acc(c, ACC_READ), &lin) || !interp_aligned(c, lin, align) ||
		    !x86_read(c, lin, buf + at * esize, n * esize, x86_acc(c, ACC_READ)))
			return false;
	}
	return true;
}

static bool probe_elements(struct x86_cpu *c, u32 seg, u64 off, u32 esize, u32 align, u64 enabled)
{
	gva_t lin;
	u32 n;

	for (u32 at = 0; next_run(enabled, &at, &n); at += n) {
		n = run_length(c, seg, off + at * esize, esize, n);
		if (!interp_linear_any(c, seg, off + at * esize, n * esize, x86_acc(c, ACC_WRITE), &lin) ||
		    !interp_aligned(c, lin, align) || !interp_probe_write(c, lin, n * esize))
			return false;
	}
	return true;
}

bool interp_store_elements(struct x86_cpu *c, u32 seg, u64 off, u32 esize, u32 align, u64 enabled, const u8 *buf)
{
	gva_t lin;
	u32 n;

	if (!probe_elements(c, seg, off, esize, align, enabled))
		return false;
	for (u32 at = 0; next_run(enabled, &at, &n); at += n)
		if (!interp_linear_any(c, seg, off + at * esize, n * esize, x86_acc(c, ACC_WRITE), &lin) ||
		    !x86_write(c, lin, buf + at * esize, n * esize, x86_acc(c, ACC_WRITE)))
			return false;
	return true;
}

/* ---- the instruction ---- */

/* Comes before the segment's checks: a misaligned address on the stack that is not canonical is #GP, not #SS. */
static bool check_alignment(struct x86_cpu *c, const struct interp_insn *i, u64 ea)
{
	bool flat = x86_code64(c) && i->ea.seg < SEG_FS;
	u64 lin = flat ? ea : ea + c->seg[i->ea.seg].base;
	u32 a = i->align & ~ALIGN_MM;

	if (!a || !(lin & (a - 1)) || ((i->align & ALIGN_MM) && (fx_get32(c, FX_MXCSR) & MXCSR_MM)))
		return true;
	return x86_raise_err(c, VEC_GP, 0);
}

static bool masked(const struct interp_insn *i)
{
	return i->vflags & (VF_MASKED | VF_VMASK);
}

/* What #AC asks of elements: nothing of VMASKMOV's. */
static u32 element_alignment(const struct interp_insn *i, u32 esize)
{
	return i->vflags & VF_VMASK ? 1 : esize;
}

/* Compression goes element by element even without a mask. */
static u32 operand_alignment(const struct interp_insn *i, const struct interp_opnd *m)
{
	if ((i->vflags & VF_PACKED) && i->mem == 0)
		return element_alignment(i, m->esize / 8u);
	return interp_natural_alignment(m->size);
}

static bool open_masked(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, u64 ea)
{
	const struct interp_opnd *m = &i->op[i->mem];
	u32 esize;
	gva_t lin;
	u64 on;

	interp_fpu_own(in, c, interp_unit_components(in, (enum interp_unit)i->unit));
	on = interp_enabled_elements(in, c, i, &esize);
	if (on && !check_alignment(c, i, ea))
		return false;
	if ((i->vflags & VF_WHOLE) &&
	    (!interp_linear(c, i->ea.seg, ea, m->size, x86_acc(c, ACC_WRITE), &lin) || !interp_probe_write(c, lin, m->size)))
		return false;
	memset(in->thunk->bounce, 0, sizeof(in->thunk->bounce));
	if ((m->act & ZYDIS_OPERAND_ACTION_MASK_READ) && i->mem != 0)
		return interp_load_elements(c, i->ea.seg, ea, esize, element_alignment(i, esize), on, in->thunk->bounce);
	return probe_elements(c, i->ea.seg, ea, esize, element_alignment(i, esize), on);
}

/* An x87 store with an unmasked exception may leave memory alone: it gets back what it held. */
static bool x87_may_not_store(const struct x86_cpu *c, const struct interp_insn *i)
{
	return i->unit == UNIT_X87 && (fx_get64(c, XS_HEADER) & XF_X87) && (fx_get16(c, FX_FCW) & 0x3f) != 0x3f;
}

static bool open_memory(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, u64 ea)
{
	const struct interp_opnd *m = &i->op[i->mem];
	u32 acc = x86_acc(c, m->act & ZYDIS_OPERAND_ACTION_MASK_WRITE ? ACC_WRITE : ACC_READ);
	gva_t lin;

	if (masked(i))
		return open_masked(in, c, i, ea);
	if (!check_alignment(c, i, ea) || !interp_linear_any(c, i->ea.seg, ea, m->size, acc, &lin) ||
	    !interp_aligned(c, lin, operand_alignment(i, m)))
		return false;
	if (m->act & ZYDIS_OPERAND_ACTION_MASK_WRITE && x87_may_not_store(c, i))
		return interp_probe_write(c, lin, m->size) && x86_read(c, lin, in->thunk->bounce, m->size, x86_acc(c, ACC_READ));
	if ((m->act & ZYDIS_OPERAND_ACTION_MASK_WRITE) && !interp_probe_write(c, lin, m->size))
		return false;
	return !(m->act & ZYDIS_OPERAND_ACTION_MASK_READ) || x86_read(c, lin, in->thunk->bounce, m->size, x86_acc(c, ACC_READ));
}

static bool close_memory(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, u64 ea)
{
	const struct interp_opnd *m = &i->op[i->mem];
	u32 esize, acc = x86_acc(c, ACC_WRITE);
	gva_t lin;
	u64 on;

	if (!(m->act & ZYDIS_OPERAND_ACTION_MASK_WRITE))
		return true;
	if (!masked(i))
		return interp_linear_any(c, i->ea.seg, ea, m->size, acc, &lin) && x86_write(c, lin, in->thunk->bounce, m->size, acc);
	on = interp_enabled_elements(in, c, i, &esize);
	return interp_store_elements(c, i->ea.seg, ea, esize, element_alignment(i, esize), on, in->thunk->bounce);
}

/* VZEROUPPER and VZEROALL run on the host's sixteen registers; outside 64-bit code there are eight. */
static bool is_vzero(const struct interp_insn *i)
{
	return i->vflags & VF_VZERO;
}

static void keep_high_registers(struct interp *in, struct x86_cpu *c, const struct x86_xsave *before)
{
	const struct interp_layout *l = &in->thunk->lay;
	static const u8 component[] = {2, 6}; /* upper halves of ymm and zmm0-15 */
	u64 bv;

	memcpy(c->fpu.bytes + FX_XMM + 8 * 16, before->bytes + FX_XMM + 8 * 16, 8 * 16);
	for (u32 k = 0; k < ARRAY_SIZE(component); k++) {
		u32 half = l->size[component[k]] / 2, off = l->off[component[k]] + half;

		memcpy(c->fpu.bytes + off, before->bytes + off, half);
	}
	memcpy(&bv, before->bytes + 512, 8);
	*(u64 *)(c->fpu.bytes + 512) |= bv;
}

/* The host's unit notes where the host's code and buffer are: replaced by the guest's addresses, or by what was there. */
static void set_pointers(struct x86_cpu *c, const struct interp_insn *i, const u8 *before, u64 ea)
{
	memcpy(c->fpu.bytes + FX_FOP, before + FX_FOP, FX_MXCSR - FX_FOP);
	if (i->unit != UNIT_X87)
		return;
	fx_set16(c, FX_FOP, i->fop);
	fx_set64(c, FX_FIP, c->rip);
	if (i->mem != 0xff)
		fx_set64(c, FX_FDP, ea);
}

static bool op_vector(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	bool x87 = interp_unit_components(in, (enum interp_unit)i->unit) & XF_X87;
	u8 before[FX_XMM];
	u64 ea = 0;

	if (i->mem != 0xff) {
		ea = interp_ea(in, c, i);
		if (i->op[i->mem].size > sizeof(in->thunk->bounce) || !open_memory(in, c, i, ea))
			return c->fault.pending ? false : x86_raise(c, VEC_UD);
	}
	interp_fpu_own(in, c, interp_unit_components(in, (enum interp_unit)i->unit));
	memcpy(before, c->fpu.bytes, sizeof(before));
	bool narrow = is_vzero(i) && !x86_code64(c);
	struct x86_xsave all;
	if (narrow)
		all = c->fpu;
	if (!interp_thunk_run(in, c, i))
		return false;
	if (narrow)
		keep_high_registers(in, c, &all);
	if (i->mem != 0xff && !close_memory(in, c, i, ea)) {
		memcpy(c->fpu.bytes, before, sizeof(before));
		return false;
	}
	if (x87)
		set_pointers(c, i, before, ea);
	return true;
}

const struct interp_row interp_row_vector = {.run = op_vector};
