/* SPDX-License-Identifier: Apache-2.0 */
/*
 * With bounds_checks, each time blocks were dropped with their zone: nothing leads to a block or an exit that is no more, and links are known at both
 * ends. Whoever forgot one would run, patch or unlink what has its number next, long after and far away.
 *
 * Heavy code. Threading: the vCPU's thread.
 */
#include "engine/bt/bt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(const struct bt_vcpu *v, bool right, const char *what, u64 where)
{
	if (right)
		return;
	fprintf(stderr, "guise: internal error: vCPU %u: after a zone was dropped, %s (0x%llx)\n", v->id, what, (unsigned long long)where);
	abort();
}

static bool exists(const struct bt_vcpu *v, u32 bi)
{
	return bi && bi < BT_MAX_BLOCKS && bi < v->zones[bi / BT_ZONE_BLOCKS].blocks;
}

static bool lives(const struct bt_vcpu *v, u32 bi)
{
	return exists(v, bi) && !v->blocks[bi].dead;
}

static bool exit_exists(const struct bt_vcpu *v, u32 exit)
{
	return exit < BT_ZONE_EXITS * BT_ZONES && exit < v->zones[exit / BT_ZONE_EXITS].exits;
}

/* ---- chains */

static void check_hash(const struct bt_vcpu *v)
{
	u32 n = 0;
	for (u32 h = 0; h <= v->hash_mask; h++)
		for (u32 i = v->hash[h]; i; i = v->blocks[i].hash_next, n++)
			must(v, lives(v, i), "one of its blocks can be found", i);
	must(v, n == v->nhashed, "blocks that can be found are not counted right", n);
}

static void check_origins(const struct bt_vcpu *v)
{
	for (u32 h = 0; h < BT_ORIGINS; h++)
		for (u32 i = v->origin[h]; i; i = v->blocks[i].origin_next)
			must(v, lives(v, i) && v->blocks[i].origin, "one of its blocks can be copied", i);
}

static void check_frames(const struct bt_vcpu *v)
{
	for (u64 f = 0; f < v->vm->nframes; f++) {
		for (u32 i = v->frames[f].blocks; i; i = v->blocks[i].page_next)
			must(v, exists(v, i) && v->blocks[i].gpfn == f && v->blocks[i].listed, "a frame knows one of its blocks", f);
		for (u32 i = v->frames[f].crossing; i; i = v->blocks[i].crossing_next)
			must(v, exists(v, i) && v->blocks[i].gpfn2 == f, "a frame knows one of its blocks that cross", f);
	}
}

static void check_jump_caches(struct bt_vcpu *v)
{
	u64 none = (u64)(v->cache_rx + v->jc_miss_off);
	for (u32 i = 0; i < 2 * BT_JC_SIZE; i++) {
		const struct bt_jc_entry *e = &v->jc[i / BT_JC_SIZE][i % BT_JC_SIZE];
		u32 off = (u32)(e->host - (u64)v->cache_rx);
		const struct bt_block *b = e->host == none ? NULL : bt_block_at(v, off);
		must(v, e->host == none || (b && !b->dead && b->checked == off && b->gva == 0 - e->neg_gva), "a jump cache leads there",
		     0 - e->neg_gva);
	}
}

/* ---- what a block knows */

static void check_exits(const struct bt_vcpu *v, const struct bt_block *b)
{
	for (u32 i = b->first_exit; i < b->first_exit + b->nexits; i++) {
		const struct bt_exit *x = &v->exits[i];
		const struct bt_block *to = &v->blocks[x->target];
		u32 leads_to;
		memcpy(&leads_to, v->cache_rw + x->patch, sizeof leads_to);
		leads_to += x->patch + 4;
		must(v, exit_exists(v, i), "a block has exits that are no more", i);
		if (!x->target) {
			must(v, leads_to == x->stub && !x->next && !x->prev, "an exit that is not linked leads somewhere", i);
			continue;
		}
		must(v, lives(v, x->target) && (leads_to == to->checked || leads_to == to->entry), "an exit leads there", i);
		must(v, x->prev ? v->exits[x->prev - 1].next == i + 1 : to->incoming == i + 1, "an exit is not in its list", i);
	}
}

static void check_incoming(const struct bt_vcpu *v, u32 bi)
{
	for (u32 i = v->blocks[bi].incoming; i; i = v->exits[i - 1].next)
		must(v, exit_exists(v, i - 1) && v->exits[i - 1].target == bi, "a block knows an exit of there", i - 1);
}

/* Who has a list has it in its own zone, or lives in a ring whose origin has it. */
static void check_ring(const struct bt_vcpu *v, u32 bi)
{
	const struct bt_block *b = &v->blocks[bi];
	u32 origins = 0, n = 0, i = bi;
	if (!b->twin) {
		must(v, b->dead || b->map / BT_ZONE_MAPS == bi / BT_ZONE_BLOCKS, "a copy has outlived what it was made from", bi);
		return;
	}
	do {
		must(v, exists(v, i), "one of its blocks is in a ring", bi);
		origins += v->blocks[i].origin;
		must(v, v->blocks[i].map == b->map, "a ring joins blocks of different code", bi);
		i = v->blocks[i].twin;
		n++;
	} while (i != bi && n <= BT_MAX_BLOCKS);
	must(v, origins == 1 && i == bi, "a ring has lost its origin", bi);
	must(v, !b->origin || (b->twins == n && exists(v, b->newest_twin)), "a ring is not counted right", bi);
}

static u32 check_blocks(const struct bt_vcpu *v)
{
	u32 cpages = 0;
	for (u32 i = bt_block_next(v, 0); i; i = bt_block_next(v, i)) {
		const struct bt_block *b = &v->blocks[i];
		check_exits(v, b);
		check_incoming(v, i);
		check_ring(v, i);
		must(v, !b->dead || !b->incoming, "a dead block is reached", i);
		cpages += b->dead ? 0 : 1 + (b->gpfn2 != 0);
	}
	return cpages;
}

static void check_cpages(const struct bt_vcpu *v, u32 expected)
{
	u32 n = 0;
	for (u32 h = 0; h < BT_CPAGE_HASH; h++)
		for (u32 i = v->cpage_hash[h]; i; i = v->cpages[i].next)
			n += v->cpages[i].blocks;
	must(v, n == expected, "code pages are not counted right", n);
}

static void check_return_stack(const struct bt_vcpu *v)
{
	must(v, v->ras == v->ras_top[v->ras_user] && v->ras_saved == v->ras_top[1], "a return may lead there", v->ras);
}

void bt_zones_check(struct bt_vcpu *v)
{
	check_hash(v);
	check_origins(v);
	check_frames(v);
	check_jump_caches(v);
	check_return_stack(v);
	check_cpages(v, check_blocks(v));
}
