/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An instruction as the translator knows it, in one line of the host's cache: of what Zydis says, what is asked for, and what follows from that
 * whatever stands around the instruction. Members that are called as Zydis's are hold its values. Operands that nobody looks at are not kept, what
 * they do to registers is.
 *
 * Threading: none; plain data.
 */
#pragma once

#include "engine/bt/table.h"

/* Where an encoding names a register. */
enum bt_field { F_REG, F_RM, F_VVVV, F_OPCODE, F_COUNT };

/* The general register that is named there. */
struct bt_named {
	bool any : 1;	  /* false: none, or not a general one */
	bool written : 1; /* perhaps */
	bool loaded : 1;  /* its old value matters */
	bool high : 1;	  /* AH-BH */
	u8 guest : 4;
};

struct bt_operand {
	u8 type, actions;
	u16 size; /* bits */
	union {
		struct {
			u16 value;
		} reg;
		struct {
			i32 value; /* of 64 bits, which nobody looks at, the lower half */
		} imm;
		struct {
			i32 disp; /* the same; 0 when there is none */
			u8 segment, base, index, scale;
		} mem;
	};
};

#define BT_OPERANDS 3u

struct bt_insn {
	bool valid : 1;	     /* false: no instruction, or it does not end within the bytes; nothing else counts then but the row */
	bool special : 1;    /* names a segment, control or debug register */
	bool native : 1;     /* may run natively, in a mode that has the bits of `needs` */
	bool copies : 1;     /* its operands are such that it can be copied (tr_copy.c) */
	bool rcx_in : 1;     /* uses rcx without naming it in a field */
	bool rcx_out : 1;    /* writes it so */
	bool names_rsp : 1;  /* as a register, not in an address */
	bool has_memory : 1; /* a visible operand is accessed in memory */
	bool has_modrm : 1;
	bool has_rex : 1;
	bool has_lock : 1;
	bool has_rep : 1; /* any of the three */
	bool has_operandsize : 1;
	bool has_fs_gs : 1;
	bool is_far : 1;    /* a branch */
	bool is_string : 1; /* with ports or without */
	struct bt_row row;
	u8 needs;    /* enum bt_mode bits */
	u8 memory;   /* the operand that is accessed in memory where ModRM says; BT_OPERANDS: there is none */
	u16 written; /* guest registers, one bit each */
	u16 mnemonic;
	u8 length, operand_width, address_width;
	u8 encoding, opcode_map, opcode;
	u8 prefixes;   /* legacy ones and REX: so many of the first bytes */
	u8 prefix;     /* which byte REX, VEX or EVEX begins at */
	u8 immediates; /* so many of the last bytes */
	struct {
		u8 reg, rm;
	} modrm;
	struct bt_named field[F_COUNT];
	struct bt_operand op[BT_OPERANDS]; /* the first two, and `memory` where it is another one; type 0: there is none */
};
_Static_assert(sizeof(struct bt_insn) == 64, "a line of the host's cache");

/* Of a valid instruction; op has all operands, visible or not. */
struct bt_insn bt_insn_of(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op);
/* The same instruction with another distance, from rip to the target of a branch or to the memory operand. */
void bt_insn_set_distance(struct bt_insn *i, i32 distance);
