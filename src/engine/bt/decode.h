/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoded instructions, remembered by their bytes: two thirds of what a kernel is made of has been seen before, and Zydis takes more than a quarter of
 * the time in which a block is translated. What is known of an instruction whatever stands around it is found out once, too.
 *
 * Threading: the vCPU's thread.
 */
#pragma once

#include "engine/bt/table.h"
#include "engine/engine.h"

struct bt_decoded {
	bool valid;   /* false: no instruction, or it does not end within the bytes; nothing else counts then */
	bool special; /* names a segment, control or debug register */
	struct bt_row row;
	u16 written; /* guest registers, one bit each */
	u32 needs;   /* bt_native_needs() */
	u64 bytes;   /* when remembered: its bytes, the rest 0 */
	u8 distance; /* where in them one from rip is left out; 0: nowhere */
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT]; /* those behind operand_count hold nothing */
};

struct bt_decoder;

struct bt_decoder *bt_decoder_new(struct err *e); /* NULL: out of memory */
void bt_decoder_free(struct bt_decoder *d);	  /* NULL is fine */
void bt_decoder_forget(struct bt_decoder *d);	  /* the host has the memory back; answers hold no longer */
void bt_decoder_memory(const struct bt_decoder *d, engine_memory_fn tell, void *opaque);

/* The 64-bit instruction that begins at `bytes`, of which `avail` count and 15 can be read. The answer holds for the next BT_DECODED_AT_ONCE calls. */
#define BT_DECODED_AT_ONCE 128
const struct bt_decoded *bt_decode(struct bt_decoder *d, const u8 *bytes, u32 avail);
