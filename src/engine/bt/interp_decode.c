/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From guest bytes to a decoded instruction: the fetch with its exact faults, the decode cache, Zydis.
 *
 * The cache is keyed by linear address and mode, and an entry counts only when its bytes are the ones in memory now, so code that changes
 * needs no notice. Nothing in an entry depends on the CPU's state but the mode and the CPUID policy.
 * Threading: the vCPU's thread.
 */
#include "engine/bt/interp_private.h"
#include "x86/internal.h"

#include <sys/mman.h>

#define MAX_LEN 15u

struct window {
	union {
		u8 b[16];
		u64 q[2];
	};
	u32 n;	   /* bytes there */
	u32 limit; /* bytes that the CS limit allows, at most 15 */
	gva_t lin;
};

#define DCACHE_BYTES (DCACHE_SIZE * sizeof(struct interp_insn))

static const ZydisMachineMode machine_mode[IMODE_COUNT] = {
	[IMODE_16] = ZYDIS_MACHINE_MODE_LEGACY_16,
	[IMODE_32] = ZYDIS_MACHINE_MODE_LEGACY_32,
	[IMODE_64] = ZYDIS_MACHINE_MODE_LONG_64,
	[IMODE_COMPAT16] = ZYDIS_MACHINE_MODE_LONG_COMPAT_16,
	[IMODE_COMPAT32] = ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
};

static const ZydisStackWidth stack_width[IMODE_COUNT] = {
	[IMODE_16] = ZYDIS_STACK_WIDTH_16,	 [IMODE_32] = ZYDIS_STACK_WIDTH_32,	  [IMODE_64] = ZYDIS_STACK_WIDTH_64,
	[IMODE_COMPAT16] = ZYDIS_STACK_WIDTH_16, [IMODE_COMPAT32] = ZYDIS_STACK_WIDTH_32,
};

/* Extensions that reuse encodings which are no-ops without them, and that no guest is offered. */
static const ZydisDecoderMode off[] = {ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET, ZYDIS_DECODER_MODE_KNC, ZYDIS_DECODER_MODE_CLDEMOTE};

static bool policy_is_amd(const struct x86_cpuid *p)
{
	u32 eax = 0, ebx = 0, ecx = 0, edx = 0;

	for (u32 k = 0; p && k < p->n; k++)
		if (p->leaf[k].leaf == 0)
			return p->leaf[k].ecx == 0x444d4163; /* "cAMD" */
	__asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
	return ecx == 0x444d4163;
}

static void use_policy(struct interp *in, const struct x86_cpuid *p)
{
	in->cpuid = p;
	in->amd = policy_is_amd(p);
	for (u32 m = IMODE_16; m < IMODE_COUNT; m++) {
		ZydisDecoder *d = &in->decoder[m];

		ZydisDecoderInit(d, machine_mode[m], stack_width[m]);
		for (u32 k = 0; k < ARRAY_SIZE(off); k++)
			ZydisDecoderEnableMode(d, off[k], ZYAN_FALSE);
		/* AMD CPUs obey an operand-size prefix on near branches in 64-bit code, Intel's ignore it. */
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_AMD_BRANCHES, in->amd);
		/* Without these extensions F3 0F BD / BC are BSR and BSF. */
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_LZCNT, !p || x86_cpuid_has(p, 0x80000001, 0, 2, 5));
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_TZCNT, !p || x86_cpuid_has(p, 7, 0, 1, 3));
	}
	interp_forget(in);
}

bool interp_decode_init(struct interp *in)
{
	void *p = mmap(NULL, DCACHE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return false;
	in->dcache = p;
	use_policy(in, NULL);
	return true;
}

void interp_decode_fini(struct interp *in)
{
	if (in->dcache)
		munmap(in->dcache, DCACHE_BYTES);
}

/* Zeroes: every entry is empty. */
void interp_forget(struct interp *in)
{
	madvise(in->dcache, DCACHE_BYTES, MADV_DONTNEED);
}

void interp_memory(const struct interp *in, engine_memory_fn tell, void *opaque)
{
	tell(opaque, "memory_decoder", in->dcache, DCACHE_BYTES);
}

static enum interp_mode current_mode(const struct x86_cpu *c)
{
	bool big = c->seg[SEG_CS].attr & SEGA_DB;

	if (!x86_long_mode(c))
		return big ? IMODE_32 : IMODE_16;
	if (c->seg[SEG_CS].attr & SEGA_L)
		return IMODE_64;
	return big ? IMODE_COMPAT32 : IMODE_COMPAT16;
}

/* Read on from the window's end up to `want` bytes. False: not one more; the fault is recorded. */
static bool read_more(struct x86_cpu *c, struct window *w, u32 want)
{
	u32 got = 0;

	if (w->n >= w->limit)
		return x86_raise_err(c, VEC_GP, 0);
	if (want > w->limit)
		want = w->limit;
	if (!x86_fetch(c, w->lin + w->n, w->b + w->n, want - w->n, &got) || !got)
		return false;
	w->n += got;
	return true;
}

static bool open_window(struct interp *in, struct x86_cpu *c, struct window *w, enum interp_mode mode)
{
	u64 base = 0;
	u32 page_left;
	const u8 *host;

	w->limit = MAX_LEN;
	if (mode != IMODE_64) {
		u64 left = (u64)c->seg[SEG_CS].limit + 1 - (u32)c->rip;

		base = c->seg[SEG_CS].base;
		if ((u32)c->rip > c->seg[SEG_CS].limit)
			return x86_raise_err(c, VEC_GP, 0);
		if (left < MAX_LEN)
			w->limit = (u32)left;
	}
	w->lin = mode == IMODE_64 ? c->rip : (u32)(base + c->rip);
	w->n = 0;
	w->q[0] = w->q[1] = 0;
	page_left = (u32)(PAGE_SIZE - PAGE_OFFSET(w->lin));
	host = interp_host(in, c, w->lin, 1, TLB_FETCH);
	if (!host)
		return read_more(c, w, page_left < MAX_LEN ? page_left : MAX_LEN);
	x86_touch(c, host, page_left < sizeof(w->b) ? page_left : (u32)sizeof(w->b), false);
	w->n = page_left < w->limit ? page_left : w->limit;
	if (page_left >= sizeof(w->b))
		memcpy(w->b, host, sizeof(w->b));
	else
		memcpy(w->b, host, page_left);
	return true;
}

static void reg_operand(struct interp_opnd *d, ZydisRegister r)
{
	static const u8 kind_of[ZYDIS_REGCLASS_MAX_VALUE + 1] = {
		[ZYDIS_REGCLASS_GPR8] = IOP_GPR,    [ZYDIS_REGCLASS_GPR16] = IOP_GPR,  [ZYDIS_REGCLASS_GPR32] = IOP_GPR,
		[ZYDIS_REGCLASS_GPR64] = IOP_GPR,   [ZYDIS_REGCLASS_X87] = IOP_ST,     [ZYDIS_REGCLASS_MMX] = IOP_MMX,
		[ZYDIS_REGCLASS_XMM] = IOP_VEC,	    [ZYDIS_REGCLASS_YMM] = IOP_VEC,    [ZYDIS_REGCLASS_ZMM] = IOP_VEC,
		[ZYDIS_REGCLASS_SEGMENT] = IOP_SEG, [ZYDIS_REGCLASS_CONTROL] = IOP_CR, [ZYDIS_REGCLASS_DEBUG] = IOP_DR,
		[ZYDIS_REGCLASS_MASK] = IOP_MASK,
	};
	ZydisRegisterClass cl = ZydisRegisterGetClass(r);

	d->kind = kind_of[cl] ? kind_of[cl] : IOP_OTHER;
	if (cl == ZYDIS_REGCLASS_GPR8) {
		u32 k = (u32)(r - ZYDIS_REGISTER_AL); /* al cl dl bl ah ch dh bh spl bpl sil dil r8b.. */

		d->high = k >= 4 && k < 8;
		d->reg = (u8)(k < 8 ? k & 3 : k - 4);
	} else {
		d->reg = (u8)ZydisRegisterGetId(r);
	}
}

static u8 base_number(ZydisRegister r)
{
	if (r == ZYDIS_REGISTER_NONE)
		return IBASE_NONE;
	if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
		return IBASE_RIP;
	return (u8)ZydisRegisterGetId(r);
}

static u8 seg_number(ZydisRegister r)
{
	return r == ZYDIS_REGISTER_NONE ? SEG_DS : (u8)(r - ZYDIS_REGISTER_ES);
}

/* An SIB byte without base: Zydis 4.0 reports R13 and no displacement for it when REX.B is set and addresses are 32 bits wide. */
static bool sib_without_base(const ZydisDecodedInstruction *z)
{
	return (z->attributes & ZYDIS_ATTRIB_HAS_SIB) && z->raw.modrm.mod == 0 && z->raw.sib.base == 5;
}

static void mem_operand(struct interp_insn *i, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o)
{
	ZydisRegisterClass cl = ZydisRegisterGetClass(o->mem.index);

	i->ea.seg = seg_number(o->mem.segment);
	i->ea.base = base_number(o->mem.base);
	i->ea.index = o->mem.type == ZYDIS_MEMOP_TYPE_MIB ? IBASE_NONE : base_number(o->mem.index);
	i->ea.scale = o->mem.scale;
	i->ea.index_vec = cl == ZYDIS_REGCLASS_XMM || cl == ZYDIS_REGCLASS_YMM || cl == ZYDIS_REGCLASS_ZMM;
	i->ea.disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;
	if (sib_without_base(z)) {
		i->ea.base = IBASE_NONE;
		i->ea.disp = z->raw.disp.value;
	}
}

static void fill_operand(struct interp_insn *i, u32 k, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o)
{
	struct interp_opnd *d = &i->op[k];

	*d = (struct interp_opnd){
		.act = (u8)o->actions, .size = (u16)(o->size / 8), .esize = (u16)o->element_size, .ecount = o->element_count};
	switch (o->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		reg_operand(d, o->reg.value);
		break;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		d->kind = IOP_MEM;
		i->mem = (u8)k;
		mem_operand(i, z, o);
		break;
	case ZYDIS_OPERAND_TYPE_POINTER:
		d->kind = IOP_PTR;
		d->sel = o->ptr.segment;
		d->imm = o->ptr.offset;
		break;
	default:
		d->kind = IOP_IMM;
		d->imm = o->imm.value.u;
		break;
	}
}

/* String instructions and XLAT name their memory only implicitly: what matters is the segment of the source. */
static void fill_implicit_segment(struct interp_insn *i, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o)
{
	bool seen = false;

	for (u32 k = 0; k < z->operand_count; k++) {
		u8 base;

		if (o[k].type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		base = base_number(o[k].mem.base);
		if (base == R_RSI || base == R_RBX || base == R_RAX || (base == R_RDI && !seen)) {
			i->ea.seg = seg_number(o[k].mem.segment);
			seen = true;
		}
	}
}

static void fill_prefixes(struct interp_insn *i, const ZydisDecodedInstruction *z)
{
	for (u32 k = 0; k < z->raw.prefix_count; k++) {
		u8 v = z->raw.prefixes[k].value;

		if (v == 0xf2 || v == 0xf3)
			i->rep = v;
		if (v == 0xf0)
			i->lock = true;
	}
}

static void fill_bytes(struct interp_insn *i, const struct window *w, u32 len)
{
	i->mask_lo = len >= 8 ? ~0ull : interp_mask(len * 8);
	i->mask_hi = len <= 8 ? 0 : interp_mask((len - 8) * 8);
	i->lo = w->q[0] & i->mask_lo;
	i->hi = w->q[1] & i->mask_hi;
	i->len = (u8)len;
}

/* The row: an own one, the vector unit's, or #UD for what is unknown or not announced. */
static void choose_row(struct interp *in, struct interp_insn *i, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o)
{
	const struct interp_row *row = in->row_of[z->mnemonic];

	i->unit = (u8)interp_isa_unit(z, o);
	if (i->unit != UNIT_INT && i->unit != UNIT_VEX_INT && !(row && (row->attrs & ROW_FPU)))
		row = &interp_row_vector;
	if (row && (row->attrs & ROW_OWN_GATE))
		i->unit = UNIT_INT;
	if (row && (row->attrs & ROW_NOWAIT))
		i->unit = UNIT_X87_NOWAIT;
	if (!row || !interp_isa_announced(in->cpuid, z)) {
		row = &interp_row_ud;
		i->unit = UNIT_INT;
		i->unknown = true;
	}
	i->row = row;
}

/* F3 90 with REX.B is an exchange with r8 like without F3. */
static void fix_pause(struct interp *in, struct interp_insn *i, const ZydisDecodedInstruction *z)
{
	if (z->mnemonic != ZYDIS_MNEMONIC_PAUSE || !(z->attributes & ZYDIS_ATTRIB_HAS_REX) || !z->raw.rex.B)
		return;
	i->osize = z->raw.rex.W ? 8 : z->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE ? 2 : 4;
	i->op[0] = (struct interp_opnd){.kind = IOP_GPR, .reg = R_R8, .size = i->osize};
	i->op[1] = (struct interp_opnd){.kind = IOP_GPR, .reg = R_RAX, .size = i->osize};
	i->nops = 2;
	i->row = in->row_of[ZYDIS_MNEMONIC_XCHG];
}

static bool near_branch(const ZydisDecodedInstruction *z)
{
	return z->machine_mode == ZYDIS_MACHINE_MODE_LONG_64 &&
	       (z->meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR || z->meta.branch_type == ZYDIS_BRANCH_TYPE_SHORT);
}

/* AMD CPUs obey an operand-size prefix on every near branch in 64-bit code, unless REX.W is there; Zydis does so for relative ones. */
static void fix_branch_size(struct interp_insn *i, const ZydisDecodedInstruction *z)
{
	bool w = (z->attributes & ZYDIS_ATTRIB_HAS_REX) && z->raw.rex.W;

	if (w || !(z->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE))
		return;
	i->osize = 2;
	if (i->nops && (i->op[0].kind == IOP_GPR || i->op[0].kind == IOP_MEM))
		i->op[0].size = 2;
}

static void fill_insn(struct interp *in, struct interp_insn *i, const u8 *bytes, const ZydisDecodedInstruction *z,
		      const ZydisDecodedOperand *o)
{
	i->osize = (u8)(z->operand_width / 8);
	i->asize = (u8)(z->address_width / 8);
	i->far_branch = z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
	fill_prefixes(i, z);
	i->nops = z->operand_count_visible < INTERP_OPNDS ? z->operand_count_visible : INTERP_OPNDS;
	for (u32 k = 0; k < i->nops; k++)
		fill_operand(i, k, z, &o[k]);
	if (i->mem == 0xff)
		fill_implicit_segment(i, z, o);
	choose_row(in, i, z, o);
	fix_pause(in, i, z);
	if (in->amd && z->opcode_map == ZYDIS_OPCODE_MAP_0F && z->opcode == 0x0d && z->raw.modrm.mod == 3)
		i->row = &interp_row_ud; /* a no-op on Intel's CPUs */
	if (in->amd && near_branch(z))
		fix_branch_size(i, z);
	if (i->row == &interp_row_vector || (i->row->attrs & ROW_FPU))
		interp_fill_vector(i, bytes, z, o, &in->decoder[IMODE_64], in->amd);
}

static void reset_insn(struct interp_insn *i, const struct window *w, enum interp_mode mode)
{
	*i = (struct interp_insn){.tag = w->lin, .mode = (u8)mode, .mem = 0xff, .row = &interp_row_ud, .rsp_reg = 0xff};
}

/* `bytes` receives what was decoded: the window's bytes, without bits that the CPU ignores and Zydis does not. */
static ZyanStatus decode_window(const struct interp *in, const struct window *w, enum interp_mode mode, u8 bytes[16],
				ZydisDecodedInstruction *z, ZydisDecodedOperand *o)
{
	const ZydisDecoder *d = &in->decoder[mode];
	ZyanStatus s = ZydisDecoderDecodeFull(d, w->b, w->n, z, o);

	memcpy(bytes, w->b, 16);
	if (ZYAN_SUCCESS(s) || s == ZYDIS_STATUS_NO_MORE_DATA || s == ZYDIS_STATUS_INSTRUCTION_TOO_LONG || !in->amd)
		return s;
	return interp_decode_ignoring(d, bytes, w->n, mode == IMODE_64, z, o);
}

/* Decode into the cache entry. NULL: a fault of the fetch is recorded. */
static const struct interp_insn *decode(struct interp *in, struct x86_cpu *c, struct window *w, enum interp_mode mode,
					struct interp_insn *i)
{
	ZydisDecodedInstruction z;
	ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
	ZyanStatus s;
	u8 bytes[16];

	for (;;) {
		s = decode_window(in, w, mode, bytes, &z, o);
		if (s != ZYDIS_STATUS_NO_MORE_DATA)
			break;
		if (w->n >= MAX_LEN)
			s = ZYDIS_STATUS_INSTRUCTION_TOO_LONG;
		if (s == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
			break;
		if (!read_more(c, w, MAX_LEN))
			return NULL;
	}
	if (s == ZYDIS_STATUS_INSTRUCTION_TOO_LONG) {
		x86_raise_err(c, VEC_GP, 0);
		return NULL;
	}
	reset_insn(i, w, mode);
	if (ZYAN_SUCCESS(s)) {
		fill_bytes(i, w, z.length);
		fill_insn(in, i, bytes, &z, o);
	} else {
		fill_bytes(i, w, w->n); /* all that was looked at */
		i->unknown = true;
	}
	return i;
}

static bool same_bytes(const struct interp_insn *i, const struct window *w)
{
	return !(((w->q[0] ^ i->lo) & i->mask_lo) | ((w->q[1] ^ i->hi) & i->mask_hi));
}

const struct interp_insn *interp_fetch(struct interp *in, struct x86_cpu *c)
{
	enum interp_mode mode = current_mode(c);
	struct interp_insn *i;
	struct window w;

	if (unlikely(c->cpuid != in->cpuid))
		use_policy(in, c->cpuid);
	if (!open_window(in, c, &w, mode))
		return NULL;
	i = &in->dcache[(w.lin ^ (w.lin >> 13)) & (DCACHE_SIZE - 1)];
	if (i->tag == w.lin && i->mode == mode) {
		if (i->len > w.n && !memcmp(&i->lo, w.b, w.n < 8 ? w.n : 8) && (w.n <= 8 || !memcmp(&i->hi, w.b + 8, w.n - 8)) &&
		    !read_more(c, &w, i->len))
			return NULL;
		if (i->len <= w.n && same_bytes(i, &w))
			return i;
	}
	return decode(in, c, &w, mode, i);
}
