/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where blocks are made when room runs out. The code cache is divided into zones, each with its own part of the tables of blocks, exits, maps and
 * relocations. Blocks are made in one zone until it is full, then in an empty one, and when there is none all blocks of some zone are dropped.
 *
 * Which one is left to chance. Code that is executed in turn and is a little larger than the cache defeats any rule that goes by age or use: what went
 * longest ago is what is wanted next. By chance most of it is still there.
 *
 * Dropping one zone is the vCPU's own affair: nobody else is stopped. Its blocks' numbers become others', so nothing may know them any more, and the
 * same goes for addresses in it. No translated code is running: we were called by it, and it goes on through a new look-up.
 *
 * Light code: general registers only, no libc. Threading: the vCPU's thread.
 */
#include "engine/bt/tr.h"

static struct bt_used start_of(const struct bt_vcpu *v, u32 zone)
{
	return (struct bt_used){
		.code = zone ? zone * v->vm->zone_size : v->cache_start,
		.blocks = zone ? zone * BT_ZONE_BLOCKS : 1, /* number 0 is nobody's */
		.exits = zone * BT_ZONE_EXITS,
		.maps = zone * BT_ZONE_MAPS,
		.relocs = zone * BT_ZONE_RELOCS,
	};
}

void bt_zones_init(struct bt_vcpu *v)
{
	for (u32 z = 0; z < BT_ZONES; z++)
		v->zones[z] = start_of(v, z);
	v->used = &v->zones[0];
	if (!v->random)
		v->random = 0x9e3779b9u * (v->id + 1); /* the same in each run */
}

u32 bt_cache_used(const struct bt_vcpu *v)
{
	u32 bytes = 0;
	for (u32 z = 0; z < BT_ZONES; z++)
		bytes += v->zones[z].code - start_of(v, z).code;
	return bytes;
}

/* ---- room */

static bool zone_has_room(const struct bt_vcpu *v)
{
	const struct bt_used *u = v->used;
	u32 zone = (u32)(u - v->zones);
	return u->code + 32 + BT_CACHE_RESERVE <= (zone + 1) * v->vm->zone_size && u->blocks < (zone + 1) * BT_ZONE_BLOCKS &&
	       u->exits + TR_EXITS < (zone + 1) * BT_ZONE_EXITS && u->maps + 4 * BT_MAX_INSNS < (zone + 1) * BT_ZONE_MAPS &&
	       u->relocs + TR_RELOCS < (zone + 1) * BT_ZONE_RELOCS;
}

static bool has_cpages(const struct bt_vcpu *v)
{
	return v->ncpages < BT_CPAGES - 2 || v->nfree_cpages >= 2;
}

bool bt_cache_has_room(const struct bt_vcpu *v)
{
	return zone_has_room(v) && has_cpages(v);
}

static void drop(struct bt_vcpu *v, u32 zone)
{
	u32 first = start_of(v, zone).blocks, end = v->zones[zone].blocks;
	for (u32 i = first; i < end; i++)
		bt_block_erase(v, i);
	for (u32 i = first; i < end; i++)
		bt_block_unlist(v, i);
	bt_ras_empty(v);
	v->zones[zone] = start_of(v, zone);
	v->st.zones_dropped++;
	if (GM_BOUNDS_CHECKS)
		bt_zones_check(v);
}

static u32 any_zone(struct bt_vcpu *v)
{
	v->random ^= v->random << 13;
	v->random ^= v->random >> 17;
	v->random ^= v->random << 5;
	return (u32)((u64)v->random * BT_ZONES >> 32);
}

static u32 drop_any(struct bt_vcpu *v)
{
	u32 zone = any_zone(v);
	drop(v, zone);
	return zone;
}

static u32 empty_zone(struct bt_vcpu *v)
{
	for (u32 z = 0; z < BT_ZONES; z++)
		if (v->zones[z].blocks == start_of(v, z).blocks)
			return z;
	return drop_any(v);
}

void bt_cache_make_room(struct bt_vcpu *v)
{
	if (!zone_has_room(v))
		v->used = &v->zones[empty_zone(v)];
	while (!has_cpages(v))
		drop_any(v);
}

/* ---- dropping everything */

static void forget_frame(struct bt_vcpu *v, u64 gpfn)
{
	u64 lines = 0;
	v->frames[gpfn].blocks = v->frames[gpfn].crossing = 0;
	v->frames[gpfn].starts[0] = v->frames[gpfn].starts[1] = 0;
	const u8 *executed = v->frames[gpfn].executed;
	v->frames[gpfn].lines = executed[0] | executed[1] ? ~0ull : 0; /* cells keep theirs */
	for (u32 i = 0; i < v->vm->max_vcpus; i++)
		if (v->vm->vcpus[i])
			lines |= v->vm->vcpus[i]->frames[gpfn].lines;
	__atomic_store_n(&v->vm->frames[gpfn].lines, lines, __ATOMIC_SEQ_CST);
}

void bt_flush_code(struct bt_vcpu *v)
{
	struct bt_world w = bt_world_stop(v->vm);
	for (u32 i = bt_block_next(v, 0); i; i = bt_block_next(v, i)) {
		forget_frame(v, v->blocks[i].gpfn);
		forget_frame(v, v->blocks[i].gpfn2);
	}
	bt_zero(v->hash, sizeof *v->hash * (v->hash_mask + 1));
	v->hash_mask = BT_HASH_FIRST - 1;
	v->nhashed = 0;
	bt_zones_init(v);
	bt_rebase_forget(v);
	v->st.flushes++;
	bt_cpages_reset(v);
	bt_jc_clear(v);
	bt_ras_empty(v);
	bt_world_start(&w);
}
