/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoded instructions (insn.h), remembered by their bytes: four fifths of what a kernel is made of has been seen before, and Zydis takes more than a
 * quarter of the time in which a block is translated.
 *
 * Threading: the vCPU's thread.
 */
#pragma once

#include "engine/bt/insn.h"
#include "engine/engine.h"

struct bt_decoder;

struct bt_decoder *bt_decoder_new(struct err *e); /* NULL: out of memory */
void bt_decoder_free(struct bt_decoder *d);	  /* NULL is fine */
void bt_decoder_forget(struct bt_decoder *d);	  /* the host has the memory back; answers hold no longer */
void bt_decoder_memory(const struct bt_decoder *d, engine_memory_fn tell, void *opaque);

/* An instruction, and where the next one begins: of a valid one, its length, known without a look at what may not be in the host's cache. */
struct bt_decoded {
	const struct bt_insn *is;
	u32 length;
};

/* The 64-bit instruction that begins at `bytes`, of which `avail` count and 15 can be read. The answer holds for the next BT_DECODED_AT_ONCE calls. */
#define BT_DECODED_AT_ONCE 128
struct bt_decoded bt_decode(struct bt_decoder *d, const u8 *bytes, u32 avail);
