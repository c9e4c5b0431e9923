/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A task switch on its way: what task.c, which leaves the old task, and task_enter.c, which loads the new one, share.
 * Threading: the vCPU's thread.
 */
#pragma once

#include "x86/internal.h"

#define TSS_MAX 0x68u

/* What a switch saves is a row of slots of one width, in the order of the register numbers. A 16-bit TSS has no FS and GS. */
enum { SLOT_IP, SLOT_FLAGS, SLOT_REGS, SLOT_SEGS = SLOT_REGS + 8, SLOT_MAX = SLOT_SEGS + SEG_COUNT };

struct task_layout {
	u32 width; /* of a slot */
	u32 state; /* where they begin */
	u32 segs;  /* how many of them are segment registers */
	u32 ldt;
	u32 trap;  /* the byte of the T flag; 0: there is none */
	u32 limit; /* the least a TSS may have */
	u32 flags; /* that it holds */
};

/* One switch. The new TSS is copied once, when the old one has been written: they may overlap. */
struct task {
	enum x86_task_way way;
	u32 ext; /* EXT bit of error codes */
	u16 sel; /* the new task's TSS */
	u64 desc;
	const struct task_layout *from, *to;
	u64 rip, flags; /* to be saved */
	bool has_cr3;
	u64 cr3;
	u8 image[TSS_MAX];
};

static inline bool task_refuse(struct x86_cpu *c, const struct task *t, enum x86_vector v, u16 sel)
{
	return x86_raise_err(c, v, SEL_ERR(sel) | t->ext);
}

static inline bool task_is_system(u64 d, u32 type)
{
	return (d >> 40 & (SEGA_S | SEGA_TYPE)) == type;
}

/* All of the new task from t->image, and the error code on its stack. False: a fault of the new task is recorded. */
bool x86_task_enter(struct x86_cpu *c, const struct task *t, const u32 *error);
