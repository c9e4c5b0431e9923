/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one test of user-mode instructions is: bytes of code, a start state, the data pages; and what came out of running it, the same for
 * the real CPU and for every engine.
 *
 * The address space of a case is fixed and identical natively and in the guest:
 *
 *     CASE_CODE  pages  read+execute, unmapped pages on both sides
 *     CASE_CODE_W       the same memory, where a case runs that changes its own code: for such a case it is writable, too
 *     CASE_DATA  pages  read+write, then CASE_ROM pages read-only, unmapped pages on both sides
 *
 * Everything else that a case can reach is unmapped. All addresses are below 2 GiB, so that absolute and 32-bit addresses reach them.
 */
#pragma once

#include "base/types.h"

#define CASE_CODE 0x10000000ull
#define CASE_CODE_PAGES 3u
#define CASE_CODE_SIZE (CASE_CODE_PAGES * 4096u)
#define CASE_CODE_W 0x10100000ull
#define CASE_DATA 0x20000000ull
#define CASE_DATA_PAGES 4u
#define CASE_DATA_SIZE (CASE_DATA_PAGES * 4096u)
#define CASE_ROM (CASE_DATA + CASE_DATA_SIZE)
#define CASE_ROM_PAGES 1u
#define CASE_ROM_SIZE (CASE_ROM_PAGES * 4096u)
#define CASE_DATA_ALL (CASE_DATA_SIZE + CASE_ROM_SIZE)

/* Counters of generated loops live at the end of the first data page's middle, away from where most pointers aim. */
#define CASE_COUNTERS (CASE_DATA + 0x1800u)

#define CASE_MAX_INSN 64u
#define CASE_MAX_CODE 1024u

/* The XSAVE image of the user state the kernel and Guise both use: x87, SSE, AVX, AVX-512 (standard format). */
#define CASE_XSAVE_SIZE 2696u
#define CASE_XFEATURES 0xe7ull

struct case_xsave {
	u8 bytes[CASE_XSAVE_SIZE];
} __attribute__((aligned(64)));

/* One instruction as the generator made it. A branch to another instruction of the case is patched when the case is laid out. */
struct case_insn {
	u8 bytes[16];
	u8 len;
	u8 branch_len; /* 0: no displacement to patch; else size of the displacement that ends the instruction, 1 or 4 */
	i8 pad;
	u16 target; /* index of the instruction branched to (may be the number of instructions: the end) */
	u32 form;   /* coverage: index into the table of forms, ~0 when none */
};

struct cpu_case {
	u64 seed;
	u32 n;
	struct case_insn insn[CASE_MAX_INSN];
	u32 start;     /* offset of the first instruction in the code area */
	u8 ring;       /* the guest's privilege level, 3 or 0; the real CPU is always in ring 3 */
	u8 bits;       /* 64, or 32: compatibility mode, in ring 3 only */
	bool writable; /* the code is at CASE_CODE_W */
	bool fall_off; /* no end marker: the code ends at the end of the code area and the next fetch faults */

	u64 gpr[16];
	u64 rflags;
	u64 fs_base, gs_base;
	struct case_xsave xsave;
	u64 data_seed; /* with the seed: what the data pages are filled with */
	u32 counters[4];

	/* derived by case_layout */
	u8 code[CASE_MAX_CODE];
	u32 code_len;
	u32 offset[CASE_MAX_INSN + 1];
};

enum case_end {
	END_FAULT,	 /* an exception; the end marker's #GP when rip is the marker's */
	END_TIMEOUT,	 /* did not come to an end */
	END_UNSUPPORTED, /* tried a system call: says nothing about instructions */
	END_LOST,	 /* the process died under the case */
	END_ENGINE,	 /* the engine reported an error or a shutdown */
};

struct cpu_result {
	enum case_end end;
	u64 gpr[16];
	u64 rip, rflags, fs_base, gs_base;
	u32 vector, error;
	u64 cr2;
	struct case_xsave xsave; /* normalised: see case_xsave_normalise */
	u8 data[CASE_DATA_ALL];
	u64 code; /* digest of the code area, when it is writable */
	char note[160];
};

/* Place the instructions, patch branches, append the end marker (in ring 3 HLT, which is #GP(0) there and cheap to catch; UD2 in ring 0).
 * False when it does not fit. */
bool case_layout(struct cpu_case *c);

/* Take instructions out, keep branches going to the same ones, lay out again. */
bool case_remove(struct cpu_case *c, u32 first, u32 count);

/* Where the code area is. */
static inline u64 case_base(const struct cpu_case *c)
{
	return c->writable ? CASE_CODE_W : CASE_CODE;
}

static inline u64 case_start_rip(const struct cpu_case *c)
{
	return case_base(c) + c->start;
}

/* Address of the end marker. */
static inline u64 case_end_rip(const struct cpu_case *c)
{
	return case_start_rip(c) + c->offset[c->n];
}

/* n, a multiple of 8, bytes more for a digest that begins with 0. */
u64 case_digest(u64 digest, const u8 *bytes, u32 n);

/* The data pages as they are before the run. */
void case_fill_data(const struct cpu_case *c, u8 *data);

/* Bring components in their initial configuration (XSTATE_BV bit clear) to explicit values and drop what is not compared: the x87
 * instruction and data pointers and opcode (they name host code when the engine runs x87 natively), reserved bytes, and the header. */
void case_xsave_normalise(struct case_xsave *x);
