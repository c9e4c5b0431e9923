/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Byte emission: one function an instruction form, nothing clever. Registers are numbers 0-15 as the CPU encodes them.
 * `fs` operands are displacements from the thread pointer (struct bt_vcpu is thread-local).
 *
 * Contract: running out of room sets `full`; later calls write nothing. Callers check once, at the end.
 */
#pragma once

#include "base/types.h"

#include <string.h>

enum { H_RAX, H_RCX, H_RDX, H_RBX, H_RSP, H_RBP, H_RSI, H_RDI, H_R8, H_R9, H_R10, H_R11, H_R12, H_R13, H_R14, H_R15 };

struct emit {
	u8 *base; /* writable alias of the cache */
	u32 pos, limit;
	bool full;
};

/* The low n bytes, n <= 8, first one first: an instruction or a part of one, in one store. What lies behind them is written later. */
static inline void e_bytes(struct emit *e, u64 bytes, u32 n)
{
	if (unlikely(e->limit - e->pos < sizeof bytes)) {
		e->full = true;
		return;
	}
	memcpy(e->base + e->pos, &bytes, sizeof bytes);
	e->pos += n;
}

static inline void e8(struct emit *e, u32 b)
{
	e_bytes(e, b & 0xff, 1);
}

static inline void e32(struct emit *e, u32 v)
{
	e_bytes(e, v, 4);
}

static inline void e64(struct emit *e, u64 v)
{
	e_bytes(e, v, 8);
}

static inline void e_patch32(struct emit *e, u32 at, u32 v)
{
	if (!e->full)
		memcpy(e->base + at, &v, sizeof v);
}

/* Bytes that are put together before they are stored. */
struct e_part {
	u64 bytes;
	u32 n;
};

static inline struct e_part e_then(struct e_part p, u64 bytes, u32 n)
{
	return (struct e_part){p.bytes | bytes << (8 * p.n), p.n + n};
}

static inline struct e_part e_rex_part(struct e_part p, bool w, u32 reg, u32 index, u32 rm)
{
	u32 rex = 0x40u | (w ? 8u : 0) | (reg & 8) >> 1 | (index & 8) >> 2 | (rm & 8) >> 3;
	return rex != 0x40 ? e_then(p, rex, 1) : p;
}

static inline void e_put(struct emit *e, struct e_part p)
{
	e_bytes(e, p.bytes, p.n);
}

static inline void e_rex(struct emit *e, bool w, u32 reg, u32 index, u32 rm)
{
	e_put(e, e_rex_part((struct e_part){0}, w, reg, index, rm));
}

/* ModRM/SIB for fs:[disp32] or fs:[index*8 + disp32] */
static inline void e_abs(struct emit *e, u32 reg, i32 disp)
{
	e_bytes(e, (u64)(u32)disp << 16 | 0x2500 | (reg & 7) << 3 | 4, 6);
}

/* ModRM/SIB for [base + index*(1<<scale) + disp]; index 4 means none */
static inline void e_mem(struct emit *e, u32 reg, u32 base, u32 index, u32 scale, i32 disp)
{
	u32 r = (reg & 7) << 3;
	bool sib = index != H_RSP || (base & 7) == 4;
	u32 mod = disp == 0 && (base & 7) != 5 ? 0 : disp == (i8)disp ? 0x40 : 0x80;
	struct e_part p = {mod | r | (sib ? 4 : (base & 7)), 1};
	if (sib)
		p = e_then(p, scale << 6 | (index & 7) << 3 | (base & 7), 1);
	if (mod)
		p = e_then(p, (u32)disp, mod == 0x40 ? 1 : 4);
	e_put(e, p);
}

/* The same with a displacement of 32 bits always: EVEX scales short ones. */
static inline void e_mem32(struct emit *e, u32 reg, u32 base, u32 index, i32 disp)
{
	bool sib = index != H_RSP || (base & 7) == 4;
	struct e_part p = {0x80 | (reg & 7) << 3 | (sib ? 4 : (base & 7)), 1};
	if (sib)
		p = e_then(p, (index & 7) << 3 | (base & 7), 1);
	e_put(e, e_then(p, (u32)disp, 4));
}

static inline void e_op_fs(struct emit *e, bool w, u32 op, u32 reg, i32 disp)
{
	e_put(e, e_then(e_rex_part((struct e_part){0x64, 1}, w, reg, 0, 0), op, 1));
	e_abs(e, reg, disp);
}

static inline void e_load_fs(struct emit *e, u32 reg, i32 disp)
{
	e_op_fs(e, true, 0x8b, reg, disp);
}
static inline void e_load32_fs(struct emit *e, u32 reg, i32 disp)
{
	e_op_fs(e, false, 0x8b, reg, disp);
}
static inline void e_store_fs(struct emit *e, i32 disp, u32 reg)
{
	e_op_fs(e, true, 0x89, reg, disp);
}
static inline void e_store32_fs(struct emit *e, i32 disp, u32 reg)
{
	e_op_fs(e, false, 0x89, reg, disp);
}

/* A byte, zero-extended. */
static inline void e_load8_fs(struct emit *e, u32 reg, i32 disp)
{
	e8(e, 0x64);
	e_rex(e, false, reg, 0, 0);
	e8(e, 0x0f);
	e8(e, 0xb6);
	e_abs(e, reg, disp);
}

static inline void e_load8(struct emit *e, u32 reg, u32 base, i32 disp)
{
	e_rex(e, false, reg, 0, base);
	e8(e, 0x0f);
	e8(e, 0xb6);
	e_mem(e, reg, base, H_RSP, 0, disp);
}

static inline void e_mov(struct emit *e, u32 dst, u32 src)
{
	e_put(e, e_then(e_rex_part((struct e_part){0}, true, src, 0, dst), 0xc089 | (src & 7) << 11 | (dst & 7) << 8, 2));
}

static inline void e_mov32(struct emit *e, u32 dst, u32 src)
{
	e_put(e, e_then(e_rex_part((struct e_part){0}, false, src, 0, dst), 0xc089 | (src & 7) << 11 | (dst & 7) << 8, 2));
}

static inline void e_mov_imm(struct emit *e, u32 reg, u64 imm)
{
	struct e_part none = {0};
	if (imm == (u32)imm) {
		e_put(e, e_then(e_then(e_rex_part(none, false, 0, 0, reg), 0xb8 | (reg & 7), 1), imm, 4));
	} else if ((i64)imm == (i32)imm) {
		e_put(e, e_then(e_then(e_rex_part(none, true, 0, 0, reg), 0xc0c7 | (reg & 7) << 8, 2), (u32)imm, 4));
	} else {
		e_put(e, e_then(e_rex_part(none, true, 0, 0, reg), 0xb8 | (reg & 7), 1));
		e64(e, imm);
	}
}

static inline void e_lea(struct emit *e, bool w, u32 reg, u32 base, u32 index, u32 scale, i32 disp)
{
	e_put(e, e_then(e_rex_part((struct e_part){0}, w, reg, index == H_RSP ? 0 : index, base), 0x8d, 1));
	e_mem(e, reg, base, index, scale, disp);
}

/* lea reg, [index*(1<<scale) + disp32], no base */
static inline void e_lea_nobase(struct emit *e, bool w, u32 reg, u32 index, u32 scale, i32 disp)
{
	e_rex(e, w, reg, index, 0);
	e8(e, 0x8d);
	e8(e, (reg & 7) << 3 | 4);
	e8(e, scale << 6 | (index & 7) << 3 | 5);
	e32(e, (u32)disp);
}

static inline void e_load(struct emit *e, bool w, u32 reg, u32 base, u32 index, u32 scale, i32 disp)
{
	e_put(e, e_then(e_rex_part((struct e_part){0}, w, reg, index == H_RSP ? 0 : index, base), 0x8b, 1));
	e_mem(e, reg, base, index, scale, disp);
}

static inline void e_store(struct emit *e, bool w, u32 base, u32 index, u32 scale, i32 disp, u32 reg)
{
	e_put(e, e_then(e_rex_part((struct e_part){0}, w, reg, index == H_RSP ? 0 : index, base), 0x89, 1));
	e_mem(e, reg, base, index, scale, disp);
}

/* mov reg, gs:[index*8] */
static inline void e_load_gs_index(struct emit *e, u32 reg, u32 index)
{
	e8(e, 0x65);
	e_rex(e, true, reg, index, 0);
	e8(e, 0x8b);
	e8(e, (reg & 7) << 3 | 4);
	e8(e, 3 << 6 | (index & 7) << 3 | 5);
	e32(e, 0);
}

enum { VEX_NP, VEX_66, VEX_F3, VEX_F2 };

static inline struct e_part e_vex(bool fs, u32 map, u32 pp, bool w, u32 reg, u32 vvvv, u32 rm, u32 op)
{
	u32 first = ((reg & 8) ? 0 : 0x80) | 0x40 | ((rm & 8) ? 0 : 0x20) | map;
	u32 second = (w ? 0x80u : 0) | (~vvvv & 15) << 3 | pp;
	return e_then(fs ? (struct e_part){0x64, 1} : (struct e_part){0}, 0xc4 | first << 8 | second << 16 | op << 24, 4);
}

static inline void e_vex_rr(struct emit *e, u32 map, u32 pp, bool w, u32 op, u32 reg, u32 vvvv, u32 rm)
{
	e_put(e, e_then(e_vex(false, map, pp, w, reg, vvvv, rm, op), 0xc0 | (reg & 7) << 3 | (rm & 7), 1));
}

static inline void e_vex_fs(struct emit *e, u32 map, u32 pp, bool w, u32 op, u32 reg, u32 vvvv, i32 disp)
{
	e_put(e, e_vex(true, map, pp, w, reg, vvvv, 0, op));
	e_abs(e, reg, disp);
}

/* dst = bits of src selected by the mask at fs:disp */
static inline void e_pext_fs(struct emit *e, bool w, u32 dst, u32 src, i32 disp)
{
	e_vex_fs(e, 2, VEX_F3, w, 0xf5, dst, src, disp);
}
static inline void e_pdep_fs(struct emit *e, bool w, u32 dst, u32 src, i32 disp)
{
	e_vex_fs(e, 2, VEX_F2, w, 0xf5, dst, src, disp);
}
/* dst = fs:disp >> (count & 63) */
static inline void e_shrx_fs(struct emit *e, u32 dst, i32 disp, u32 count)
{
	e_vex_fs(e, 2, VEX_F2, true, 0xf7, dst, count, disp);
}
static inline void e_sarx(struct emit *e, bool w, u32 dst, u32 src, u32 count)
{
	e_vex_rr(e, 2, VEX_F3, w, 0xf7, dst, count, src);
}

static inline void e_rorx(struct emit *e, bool w, u32 dst, u32 src, u32 n)
{
	e_vex_rr(e, 3, VEX_F2, w, 0xf0, dst, 0, src);
	e8(e, n);
}

/* Jumps. Targets are cache offsets. */
static inline u32 e_jmp(struct emit *e, u32 target) /* returns the offset of the rel32 */
{
	e_bytes(e, 0xe9 | (u64)(target - (e->pos + 5)) << 8, 5);
	return e->pos - 4;
}
static inline u32 e_jcc(struct emit *e, u32 cc, u32 target)
{
	e_bytes(e, 0x800f | cc << 8 | (u64)(target - (e->pos + 6)) << 16, 6);
	return e->pos - 4;
}
static inline void e_jmp_fs(struct emit *e, i32 disp)
{
	e8(e, 0x64);
	e8(e, 0xff);
	e_abs(e, 4, disp);
}
static inline u32 e_call(struct emit *e, u32 target) /* returns the offset of the rel32 */
{
	e_bytes(e, 0xe8 | (u64)(target - (e->pos + 5)) << 8, 5);
	return e->pos - 4;
}
/* jmp fs:[index*8 + disp] */
static inline void e_jmp_fs_index(struct emit *e, u32 index, i32 disp)
{
	e8(e, 0x64);
	e_rex(e, false, 0, index, 0);
	e8(e, 0xff);
	e8(e, 4 << 3 | 4);
	e8(e, 3 << 6 | (index & 7) << 3 | 5);
	e32(e, (u32)disp);
}
static inline void e_load_fs_index(struct emit *e, u32 reg, u32 index, i32 disp)
{
	e8(e, 0x64);
	e_rex(e, true, reg, index, 0);
	e8(e, 0x8b);
	e8(e, (reg & 7) << 3 | 4);
	e8(e, 3 << 6 | (index & 7) << 3 | 5);
	e32(e, (u32)disp);
}
/* jrcxz to a place not known yet; returns the offset of the rel8 */
static inline u32 e_jrcxz(struct emit *e)
{
	e_bytes(e, 0xe3, 2);
	return e->pos - 1;
}
static inline u32 e_jmp8(struct emit *e)
{
	e_bytes(e, 0xeb, 2);
	return e->pos - 1;
}
/* Point the rel8 at `at` to `target`. False: out of reach. */
static inline bool e_fix8(struct emit *e, u32 at, u32 target)
{
	i32 d = (i32)target - (i32)(at + 1);
	if (d != (i8)d)
		return false;
	if (!e->full)
		e->base[at] = (u8)d;
	return true;
}
