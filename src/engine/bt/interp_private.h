/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the interpreter share: the decoded instruction, the table row that runs it, operand access.
 *
 * Contract of a handler (interp_fn): it changes nothing the guest can see before its last step that can fault, and returns false with
 * c->fault set when it faults. c->rip is the instruction's until it returns true; the next rip is in->next_rip, which branches change.
 * Threading: one struct interp per vCPU, on its thread.
 */
#pragma once

#include "engine/bt/interp.h"

#include <Zydis/Zydis.h>
#include <string.h>

struct interp_insn;
struct interp_thunk;

typedef bool interp_fn(struct interp *in, struct x86_cpu *c, const struct interp_insn *i);

/* One integer operation on up to three values. `bits` is the width of a; flags holds RFLAGS before and after. */
struct interp_alu {
	u64 a, b, c;
	u64 flags;
	u32 bits;
};
typedef u64 interp_alu_fn(struct interp_alu *x);

/* What the CPU checks before an instruction does anything. */
enum {
	ROW_PRIV = 1 << 0,     /* CPL 0, else #GP(0) */
	ROW_PROT = 1 << 1,     /* #UD in real and virtual-8086 mode */
	ROW_TF_AFTER = 1 << 2, /* TF counts as it is after the instruction (SYSCALL, SYSRET) */
	ROW_FPU = 1 << 4,      /* an instruction of the vector units that C code runs; others go to the host's unit */
	ROW_UMIP = 1 << 5,     /* CPL 0 when CR4.UMIP is set */
	ROW_OWN_GATE = 1 << 6, /* the handler makes the #UD and #NM checks of the vector units itself */
	ROW_KEEP_RF = 1 << 7,  /* RF is what the instruction loaded */
	ROW_NOWAIT = 1 << 8,   /* an x87 instruction that does not look at pending exceptions */
};

/* One row an instruction: everything the interpreter knows about it. */
struct interp_row {
	u16 mnemonic; /* ZydisMnemonic */
	u16 attrs;
	u8 arg; /* condition code, element size, ...: the handler's affair */
	interp_fn *run;
	interp_alu_fn *alu;
};

/* The rows live with their handlers, one list a family. */
struct interp_rows {
	const struct interp_row *row;
	u32 n;
};
extern const struct interp_rows interp_rows_alu, interp_rows_bits, interp_rows_shift, interp_rows_muldiv, interp_rows_string,
	interp_rows_stack, interp_rows_branch, interp_rows_system, interp_rows_io, interp_rows_fpu, interp_rows_xsave, interp_rows_vecmem;
extern const struct interp_row interp_row_ud, interp_row_vector;

enum interp_opnd_kind {
	IOP_NONE,
	IOP_GPR,
	IOP_MEM,
	IOP_IMM,
	IOP_SEG,
	IOP_CR,
	IOP_DR,
	IOP_PTR, /* imm = offset, reg... = selector in `sel` */
	IOP_VEC, /* XMM, YMM, ZMM */
	IOP_MMX,
	IOP_ST,
	IOP_MASK,
	IOP_OTHER,
};

struct interp_opnd {
	u8 kind;
	u8 reg;	   /* register number; GPR: byte offset into c->gpr is reg * 8 + high */
	u8 high;   /* 1: AH, CH, DH, BH */
	u8 act;	   /* ZydisOperandActions */
	u16 size;  /* bytes */
	u16 sel;   /* IOP_PTR */
	u16 esize; /* element size in bits, for memory and vector operands */
	u16 ecount;
	u64 imm;
};

#define IBASE_NONE 0xff
#define IBASE_RIP 0xfe

struct interp_ea {
	u8 seg, base, index, scale;
	u8 index_vec; /* the index is a vector register (gather, scatter) */
	i64 disp;
};

/* Which unit an instruction belongs to: decides #UD and #NM and what state the host's unit needs. */
enum interp_unit { UNIT_INT, UNIT_X87, UNIT_MMX, UNIT_SSE, UNIT_SSE_MMX, UNIT_AVX, UNIT_AVX512, UNIT_VEX_INT, UNIT_X87_NOWAIT };

#define INTERP_OPNDS 5

struct interp_insn {
	u64 lo, hi, mask_lo, mask_hi; /* the bytes, and which of them count */
	u64 tag;		      /* linear address; with mode */
	const struct interp_row *row;
	u8 mode; /* enum interp_mode; IMODE_NONE: an empty entry */
	u8 len;
	u8 osize, asize; /* effective operand and address size in bytes */
	u8 nops;
	u8 rep; /* 0, 0xf2, 0xf3: the last of them */
	bool lock;
	bool far_branch;
	u8 unit;
	u8 mem; /* index of the memory operand, 0xff: none */
	u8 evex_mask;
	bool unknown;
	struct interp_ea ea;
	struct interp_opnd op[INTERP_OPNDS];
	/* vector instructions only */
	u8 align;   /* the memory operand must be aligned to this */
	u8 lanes;   /* elements that the EVEX mask governs */
	u8 vflags;  /* VF_* */
	u8 vec_len; /* bytes */
	u8 tlen;    /* the instruction as the host's unit gets it: length, bytes */
	u8 tbytes[16];
	u8 rsp_reg;	    /* host register that stands for the guest's RSP, 0xff: none */
	u8 base_reg;	    /* host register that points to the bounce buffer */
	u16 fop;	    /* x87 opcode */
	u32 slot_gen, slot; /* where the code cache holds it */
};

enum interp_mode { IMODE_NONE, IMODE_16, IMODE_32, IMODE_64, IMODE_COMPAT16, IMODE_COMPAT32, IMODE_COUNT };

#define DCACHE_SIZE 8192u
#define TLB_SIZE 256u

struct interp_tlb_entry {
	u64 page; /* linear page address | rights */
	u64 gen;
	u8 *host;
	gpa_t gpa;
};

enum { TLB_READ, TLB_WRITE, TLB_FETCH, TLB_KINDS };

struct interp {
	u64 next_rip;
	bool event;	     /* the handler delivered an interrupt or exception: no single-step trap after it */
	bool rep_unfinished; /* a REP instruction has iterations left: rip still points at it */
	bool amd;
	const u64 *epoch; /* NULL: no translations are kept */
	u64 tlb_gen;
	u64 seen_epoch, seen_cr0, seen_cr3, seen_cr4, seen_efer; /* what the translations were made under */
	u64 unknown;
	struct interp_tlb_entry tlb[TLB_KINDS][TLB_SIZE];
	ZydisDecoder decoder[IMODE_COUNT];
	const struct interp_row *row_of[ZYDIS_MNEMONIC_MAX_VALUE + 1];
	const struct x86_cpuid *cpuid; /* the policy that the decode cache was filled under */
	struct interp_insn *dcache;
	struct interp_thunk *thunk;
};

/* decode */
bool interp_decode_init(struct interp *in);
void interp_decode_fini(struct interp *in);
const struct interp_insn *interp_fetch(struct interp *in, struct x86_cpu *c);
/* Once more what Zydis refused, for AMD's CPUs: bits that these do not look at are taken out of `bytes`. */
ZyanStatus interp_decode_ignoring(const ZydisDecoder *decoder, u8 bytes[16], u32 n, bool code64, ZydisDecodedInstruction *z,
				  ZydisDecodedOperand *o);
void interp_fill_vector(struct interp_insn *i, const u8 *bytes, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o,
			const ZydisDecoder *d64, bool amd);
enum interp_unit interp_isa_unit(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o);
bool interp_isa_announced(const struct x86_cpuid *p, const ZydisDecodedInstruction *z);

/* thunk: the host's vector unit */
bool interp_thunk_init(struct interp *in, struct err *e);
void interp_thunk_free(struct interp *in);

/* Unit state checks: #UD, #NM, #MF as `unit` demands. */
bool interp_gate(struct x86_cpu *c, enum interp_unit unit);

/* memory */
u64 interp_ea(const struct interp *in, const struct x86_cpu *c, const struct interp_insn *i);
/* seg:off as a linear address, with the segment's checks and, for data of `len` bytes, #AC. */
bool interp_linear(struct x86_cpu *c, u32 seg, u64 off, u32 len, u32 acc, gva_t *lin);
/* The same without #AC, which interp_aligned then raises for the alignment given. */
bool interp_linear_any(struct x86_cpu *c, u32 seg, u64 off, u32 len, u32 acc, gva_t *lin);
u32 interp_natural_alignment(u32 len);
bool interp_aligned(struct x86_cpu *c, gva_t lin, u32 align);
/* The host address of `size` bytes of RAM in one page, ready for the access (translations there are dropped for a write). NULL: take the
 * slow way. */
u8 *interp_host(struct interp *in, struct x86_cpu *c, gva_t lin, u32 size, u32 kind);
bool interp_load(struct interp *in, struct x86_cpu *c, u32 seg, u64 off, u32 size, u64 *v);
bool interp_store(struct interp *in, struct x86_cpu *c, u32 seg, u64 off, u32 size, u64 v);
bool interp_load_buf(struct x86_cpu *c, u32 seg, u64 off, u32 size, void *buf);
bool interp_store_buf(struct x86_cpu *c, u32 seg, u64 off, u32 size, const void *buf);
/* Would a store of `size` bytes succeed? Faults like the store. */
bool interp_probe_write(struct x86_cpu *c, gva_t lin, u32 size);
void interp_tlb_check(struct interp *in, const struct x86_cpu *c);

/* operands */
bool interp_get(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, u32 k, u64 *v);
bool interp_put(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, u32 k, u64 v);
/* CMP's flags, for who compares. */
u64 interp_alu_sub(struct interp_alu *x);
/* Operand 0 = f(operand 0, x->b, x->c), atomically with LOCK (or `locked`). x->a is the old value afterwards, flags are stored. */
bool interp_modify(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, struct interp_alu *x, interp_alu_fn *f, bool locked);
/* The same for a memory operand at an address of the caller's. */
bool interp_modify_at(struct interp *in, struct x86_cpu *c, u32 seg, u64 off, u32 size, struct interp_alu *x, interp_alu_fn *f,
		      bool locked);

/* stack */
u64 interp_stack_mask(const struct x86_cpu *c);
void interp_set_sp(struct x86_cpu *c, u64 sp);
bool interp_push(struct interp *in, struct x86_cpu *c, u32 size, u64 v);
/* Reads at the top of the stack without popping. */
bool interp_peek(struct interp *in, struct x86_cpu *c, u64 disp, u32 size, u64 *v);

/* branches */
bool interp_check_target(struct x86_cpu *c, u64 target, u32 osize, u64 *out);

static inline u64 interp_mask(u32 bits)
{
	return bits >= 64 ? ~0ull : (1ull << bits) - 1;
}
static inline u64 interp_sext(u64 v, u32 bits)
{
	return (u64)((i64)(v << (64 - bits)) >> (64 - bits));
}

static inline u64 interp_reg(const struct x86_cpu *c, u32 r, u32 size)
{
	return c->gpr[r] & interp_mask(size * 8);
}

static inline void interp_set_reg(struct x86_cpu *c, u32 r, u32 size, u64 v)
{
	if (size == 8)
		c->gpr[r] = v;
	else if (size == 4)
		c->gpr[r] = (u32)v;
	else
		memcpy(&c->gpr[r], &v, size);
}

static inline u64 interp_get_gpr(const struct x86_cpu *c, const struct interp_opnd *o)
{
	return (c->gpr[o->reg] >> (o->high * 8u)) & interp_mask(o->size * 8u);
}

static inline void interp_set_gpr(struct x86_cpu *c, const struct interp_opnd *o, u64 v)
{
	if (o->size == 8)
		c->gpr[o->reg] = v;
	else if (o->size == 4)
		c->gpr[o->reg] = (u32)v;
	else
		memcpy((u8 *)&c->gpr[o->reg] + o->high, &v, o->size);
}

/* PF, ZF and SF of a result. */
static inline u64 interp_flags_szp(u64 r, u32 bits)
{
	u64 f = 0;

	r &= interp_mask(bits);
	if (!(__builtin_popcount((u8)r) & 1))
		f |= FL_PF;
	if (!r)
		f |= FL_ZF;
	if (r >> (bits - 1))
		f |= FL_SF;
	return f;
}

/* An x86 condition code (0..15) on RFLAGS. */
static inline bool interp_cond(u64 fl, u32 cc)
{
	bool r;

	switch (cc >> 1) {
	case 0:
		r = fl & FL_OF;
		break;
	case 1:
		r = fl & FL_CF;
		break;
	case 2:
		r = fl & FL_ZF;
		break;
	case 3:
		r = fl & (FL_CF | FL_ZF);
		break;
	case 4:
		r = fl & FL_SF;
		break;
	case 5:
		r = fl & FL_PF;
		break;
	case 6:
		r = !(fl & FL_SF) != !(fl & FL_OF);
		break;
	default:
		r = (fl & FL_ZF) || !(fl & FL_SF) != !(fl & FL_OF);
		break;
	}
	return r != (cc & 1);
}
