/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's x87/MMX/SSE/AVX/AVX-512 state as an XSAVE image in memory (c->fpu), for the interpreter's files that work on it.
 *
 * The image has the host's standard layout with 64-bit instruction and data pointers. A component whose XSTATE_BV bit is clear is in its
 * initial state whatever its bytes say; interp_fpu_own turns that into bytes. Threading: the vCPU's thread.
 */
#pragma once

#include "engine/bt/interp_private.h"

enum { XF_X87 = 1 << 0, XF_SSE = 1 << 1, XF_AVX = 1 << 2, XF_OPMASK = 1 << 5, XF_ZMM_HI = 1 << 6, XF_HI16 = 1 << 7, XF_PKRU = 1 << 9 };
#define XF_AVX512 (XF_OPMASK | XF_ZMM_HI | XF_HI16)
#define XF_COUNT 10

/* Legacy region */
#define FX_FCW 0
#define FX_FSW 2
#define FX_FTW 4
#define FX_FOP 6
#define FX_FIP 8
#define FX_FDP 16
#define FX_MXCSR 24
#define FX_MXCSR_MASK 28
#define FX_ST 32
#define FX_XMM 160
#define FX_SIZE 512
#define XS_HEADER 512
#define XS_HEADER_SIZE 64

#define FSW_ES 0x80u
#define FSW_B 0x8000u
#define FSW_TOP_SHIFT 11
#define MXCSR_INIT 0x1f80u
#define MXCSR_MM (1u << 17)
#define FCW_INIT 0x37fu

struct interp_layout {
	u32 off[XF_COUNT], size[XF_COUNT]; /* of components in the standard format; 0: the host has none */
	bool align64[XF_COUNT];		   /* in the compacted format */
	u64 host_xcr0;
	u32 mxcsr_mask;
};

/* What an instruction was doing when the host stopped it. */
struct interp_thunk {
	struct {
		u64 gpr[16];
		u64 flags;
		const void *slot;
		void *fpu;
		u64 rfbm;
		u32 host_mxcsr;
		u16 host_fcw;
	} ctx; /* the assembly in interp_thunk.c knows the offsets */
	bool active;
	int sig; /* the host's signal, 0: none */
	struct interp_layout lay;
	u8 *code_rw; /* two views of one memfd: writable, */
	u8 *code_rx; /* executable */
	u8 bounce[64] __attribute__((aligned(64)));
};

static inline u16 fx_get16(const struct x86_cpu *c, u32 off)
{
	u16 v;

	memcpy(&v, c->fpu.bytes + off, 2);
	return v;
}
static inline u32 fx_get32(const struct x86_cpu *c, u32 off)
{
	u32 v;

	memcpy(&v, c->fpu.bytes + off, 4);
	return v;
}
static inline u64 fx_get64(const struct x86_cpu *c, u32 off)
{
	u64 v;

	memcpy(&v, c->fpu.bytes + off, 8);
	return v;
}
static inline void fx_set16(struct x86_cpu *c, u32 off, u16 v)
{
	memcpy(c->fpu.bytes + off, &v, 2);
}
static inline void fx_set32(struct x86_cpu *c, u32 off, u32 v)
{
	memcpy(c->fpu.bytes + off, &v, 4);
}
static inline void fx_set64(struct x86_cpu *c, u32 off, u64 v)
{
	memcpy(c->fpu.bytes + off, &v, 8);
}

void interp_layout_init(struct interp_layout *l);
/* Make the bytes of the components in `mask` count. */
void interp_fpu_own(const struct interp *in, struct x86_cpu *c, u64 mask);
/* Put one component into its initial state; MXCSR is not part of any. */
void interp_fpu_reset(const struct interp_layout *l, struct x86_cpu *c, u32 n);
/* What every MMX instruction but EMMS does to the x87 state: TOP 0, all registers valid. */
void interp_mmx_read(const struct x86_cpu *c, u32 r, u8 buf[8]);
void interp_enter_mmx(struct x86_cpu *c);
bool interp_fpu_in_use(const struct interp_layout *l, const struct x86_cpu *c, u32 n);
bool interp_all_zero(const u8 *p, u32 n);
/* ES and B follow from the exception flags and the control word. */
void interp_fpu_update_es(struct x86_cpu *c);

/* Vector register r, its low `bytes` (16, 32, 64). Writing clears the rest of the register. */
void interp_vec_read(const struct interp *in, const struct x86_cpu *c, u32 r, u32 bytes, void *buf);
void interp_vec_write(const struct interp *in, struct x86_cpu *c, u32 r, u32 bytes, const void *buf);
u64 interp_mask_read(const struct interp *in, const struct x86_cpu *c, u32 k);
void interp_mask_write(const struct interp *in, struct x86_cpu *c, u32 k, u64 v);

/* The components that instructions of `unit` read or write. */
u64 interp_unit_components(const struct interp *in, enum interp_unit unit);

/* Fill i->tbytes: the instruction for the host's unit in 64-bit mode. False: it has no such form. */
bool interp_encode(struct interp_insn *i, const u8 *bytes, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o,
		   const ZydisDecoder *d64, bool amd);

/* Run i->tbytes on the host's unit with in->thunk->bounce as its memory operand. False: a fault is recorded. */
bool interp_thunk_run(struct interp *in, struct x86_cpu *c, const struct interp_insn *i);

/* The elements of i's memory operand that are accessed, as a mask by element of *esize bytes. */
u64 interp_enabled_elements(const struct interp *in, const struct x86_cpu *c, const struct interp_insn *i, u32 *esize);
/* Access only the elements whose bit is set; nothing is stored when one of them would fault. #AC asks for `align`. */
bool interp_load_elements(struct x86_cpu *c, u32 seg, u64 off, u32 esize, u32 align, u64 enabled, u8 *buf);
bool interp_store_elements(struct x86_cpu *c, u32 seg, u64 off, u32 esize, u32 align, u64 enabled, const u8 *buf);

enum { VF_MASKED = 1, VF_PACKED = 2, VF_VMASK = 4, VF_BCAST = 8, VF_WHOLE = 16, VF_VZERO = 32 };
