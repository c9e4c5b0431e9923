/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the translator does with each instruction: one row a mnemonic that is not simply copied. Everything that has no row is copied when its
 * instruction-set extension is on the list of those that may run natively, and interpreted otherwise.
 */
#pragma once

#include "base/types.h"

#include <Zydis/Zydis.h>

enum bt_kind {
	K_AUTO,	  /* copy if the extension may, else interpret */
	K_INTERP, /* call the interpreter, go on behind it */
	K_STOP,	  /* call the interpreter; never falls through */
	K_NOP,
	K_PREFETCH,
	K_LEA,
	K_PUSH,
	K_POP,
	K_CALL,
	K_RET,
	K_JMP,
	K_JCC,
	K_JRCXZ,
	K_LOOP,
	K_LEAVE,
	K_BT, /* bit tests: a register offset reaches beyond the operand */
	K_PUSHF,
	K_CLI,
	K_STI,
	K_CLAC,
	K_STAC,
	K_FENCE, /* all stores before it are seen, the translator has seen to code that they change */
	K_LIGHT, /* a system instruction that leaves vector state alone: C, without saving that state; arg = enum bt_light_op */
	K_STRING,
	K_MOV_SEG, /* MOV with a segment or control register: looked at more closely */
};

enum bt_light_op {
	LIGHT_SYSCALL,
	LIGHT_SYSRET,
	LIGHT_IRET,
	LIGHT_SWAPGS,
	LIGHT_RDMSR,
	LIGHT_WRMSR,
	LIGHT_CPUID,
	LIGHT_RDTSC,
	LIGHT_RDTSCP,
	LIGHT_RDPID,
	LIGHT_CLTS,
	LIGHT_INVLPG,
	LIGHT_CLD,
	LIGHT_STD,
	LIGHT_RDFSBASE,
	LIGHT_RDGSBASE,
	LIGHT_WRFSBASE,
	LIGHT_WRGSBASE,
	LIGHT_MOV_FROM_SEG,
	LIGHT_MOV_TO_SEG,
	LIGHT_MOV_FROM_CR,
	LIGHT_MOV_TO_CR,
	LIGHT_STRING,
	LIGHT_PAUSE, /* of a VM with several vCPUs */
	LIGHT_COUNT
};

struct bt_row {
	u8 kind;
	u8 arg;
};

/* The row of a mnemonic. */
struct bt_row bt_row_of(ZydisMnemonic m);

/* enum bt_mode bits that the instruction needs to run natively; ~0u when it may not at all. */
u32 bt_native_needs(const ZydisDecodedInstruction *in);
