/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host memory that this vCPU will touch for the first time soon (base/prefault.h): the code cache and its tables, where blocks are put one behind the
 * other; and guest RAM, which a guest that begins to use a piece of it mostly goes on to use.
 *
 * Threading: bt_ahead_code on the vCPU's thread. bt_ahead_piece by any vCPU.
 */
#include "engine/bt/bt.h"

#define AHEAD (1u << 20)   /* bytes of code */
#define AHEAD_BLOCKS 2048u /* with what is known of them: more than half as much code holds */

static u32 at_most(u32 n, u32 end)
{
	return n < end ? n : end;
}

/* What follows in the zone where blocks are made. */
void bt_ahead_code(struct bt_vcpu *v)
{
	struct prefault *p = v->vm->gm->prefault;
	const struct bt_used *u = v->used;
	u32 zone = (u32)(u - v->zones) + 1;
	u32 code = at_most(AHEAD, zone * v->vm->zone_size - u->code), blocks = at_most(AHEAD_BLOCKS, zone * BT_ZONE_BLOCKS - u->blocks),
	    exits = at_most(AHEAD_BLOCKS * 2, zone * BT_ZONE_EXITS - u->exits),
	    maps = at_most(AHEAD_BLOCKS * 8, zone * BT_ZONE_MAPS - u->maps);

	v->ahead_at = u->code + AHEAD / 2;
	prefault_ask(p, v->cache_rw + u->code, code, true);
	prefault_ask(p, v->cache_rx + u->code, code, false);
	prefault_ask(p, &v->blocks[u->blocks], blocks * sizeof *v->blocks, true);
	prefault_ask(p, &v->exits[u->exits], exits * sizeof *v->exits, true);
	prefault_ask(p, &v->maps[u->maps], maps * sizeof *v->maps, true);
}

/* Nothing is ahead of the first code: there may not be much more. */
void bt_ahead_forget(struct bt_vcpu *v)
{
	v->ahead_at = v->cache_start + AHEAD / 2;
}

static gpa_t gpa_of(u64 piece)
{
	return piece << BT_PIECE_SHIFT;
}

/* From back to front: the guest is at its front. When the one before was in use too, a third will be. */
void bt_ahead_piece(struct bt_vm *vm, u64 piece)
{
	const u64 size = 1ull << BT_PIECE_SHIFT;
	bool goes_on = piece > 0 && __atomic_load_n(&vm->touched[piece - 1], __ATOMIC_RELAXED) >= BT_PIECE_IN_USE;

	gm_expect(vm->gm, gpa_of(piece) + size / 2, size / 2);
	gm_expect(vm->gm, gpa_of(piece), size / 2);
	if (goes_on)
		gm_expect(vm->gm, gpa_of(piece + 1), size);
}
