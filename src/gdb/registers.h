/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registers that a debugger sees, in the order of its packets, and their values in struct x86_cpu.
 *
 * Threading: none.
 */
#pragma once

#include "x86/rules.h"

/* Features of the target description; the first five names are GDB's own, which looks for them. */
enum gdb_feature { GDB_CORE, GDB_SSE, GDB_SEGMENTS, GDB_AVX, GDB_AVX512, GDB_CONTROL, GDB_FEATURES };

#define GDB_REGS_MAX 192
#define GDB_REG_BYTES 32 /* of the largest */

struct gdb_family;
struct gdb_reg {
	const struct gdb_family *family;
	u32 index; /* in its family */
	u32 bytes;
};
struct gdb_regs {
	bool has[GDB_FEATURES];
	u32 n;
	struct gdb_reg reg[GDB_REGS_MAX];
};

void gdb_regs_init(struct gdb_regs *r, const struct x86_cpuid *cpuid);

/* Name, type and group as the target description wants them. */
enum gdb_feature gdb_reg_feature(const struct gdb_reg *reg);
void gdb_reg_name(const struct gdb_reg *reg, char *name, size_t size);
const char *gdb_reg_type(const struct gdb_reg *reg);
const char *gdb_reg_group(const struct gdb_reg *reg); /* NULL: what GDB thinks */

/* `value` has reg->bytes bytes, least significant first. cr8 is not part of the CPU's state: its value comes with it. */
void gdb_reg_get(const struct gdb_reg *reg, const struct x86_cpu *c, u64 cr8, u8 *value);
/* False: a debugger cannot write this register (selectors would need the loads of their instructions), or not this value; then nothing is
 * changed. */
bool gdb_reg_set(const struct gdb_reg *reg, struct x86_cpu *c, u64 *cr8, const u8 *value);

/* ---- inside of this folder */

/* control.c: as MOV and WRMSR of ring 0 would write it. False: they would refuse, nothing is changed. */
enum gdb_control { GDB_CR0, GDB_CR2, GDB_CR3, GDB_CR4, GDB_CR8, GDB_EFER };
bool gdb_control_set(enum gdb_control which, struct x86_cpu *c, u64 *cr8, u64 v);

/* x87_tags.c: the whole tag word of an XSAVE image; the image's byte of a whole one. */
u32 gdb_x87_tags(const u8 *image);
u8 gdb_x87_abridged_tags(u64 full);
