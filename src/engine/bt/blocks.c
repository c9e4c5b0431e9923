/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What exists in the code cache: finding a block by host offset, linking direct jumps, the jump caches, and dropping blocks whose guest bytes
 * were written.
 *
 * Light code: general registers only, no libc. Threading: the vCPU's thread, or who has stopped the world.
 */
#include "engine/bt/bt.h"

static void put32(struct bt_vcpu *v, u32 at, u32 value)
{
	/* One aligned or unaligned 4-byte store; only this vCPU runs this cache, and it waits when another thread does this (bt_vcpu.patched). */
	*(volatile u32 *)(v->cache_rw + at) = value;
}

struct bt_block *bt_block_at(struct bt_vcpu *v, u32 off)
{
	u32 zone = off / v->vm->zone_size, lo = zone ? zone * BT_ZONE_BLOCKS : 1, hi = v->zones[zone].blocks, end = hi;
	while (lo + 1 < hi) {
		u32 mid = (lo + hi) / 2;
		if (v->blocks[mid].checked <= off)
			lo = mid;
		else
			hi = mid;
	}
	return lo < end && off >= v->blocks[lo].checked && off < v->blocks[lo].end ? &v->blocks[lo] : NULL;
}

const struct bt_insn_map *bt_insn_at(struct bt_vcpu *v, const struct bt_block *b, u32 off)
{
	const struct bt_insn_map *m = &v->maps[b->map];
	u32 lo = 0, hi = b->ninsns;
	while (lo + 1 < hi) {
		u32 mid = (lo + hi) / 2;
		if (b->checked + m[mid].host <= off)
			lo = mid;
		else
			hi = mid;
	}
	return &m[lo];
}

/* ---- direct jumps */

void bt_block_link(struct bt_vcpu *v, u32 exit, struct bt_block *to, bool checked)
{
	struct bt_exit *x = &v->exits[exit];
	x->target = (u32)(to - v->blocks);
	x->prev = 0;
	x->next = to->incoming;
	if (x->next)
		v->exits[x->next - 1].prev = exit + 1;
	to->incoming = exit + 1;
	put32(v, x->patch, (checked ? to->checked : to->entry) - (x->patch + 4));
}

void bt_exit_reset(struct bt_vcpu *v, struct bt_exit *x)
{
	put32(v, x->patch, x->stub - (x->patch + 4));
	x->target = x->next = x->prev = 0;
}

void bt_exit_unlink(struct bt_vcpu *v, u32 exit)
{
	struct bt_exit *x = &v->exits[exit];
	if (!x->target)
		return;
	if (x->next)
		v->exits[x->next - 1].prev = x->prev;
	if (x->prev)
		v->exits[x->prev - 1].next = x->next;
	else
		v->blocks[x->target].incoming = x->next;
	bt_exit_reset(v, x);
}

static void unlink_incoming(struct bt_vcpu *v, struct bt_block *b)
{
	for (u32 i = b->incoming; i;) {
		struct bt_exit *x = &v->exits[i - 1];
		i = x->next;
		bt_exit_reset(v, x);
	}
	b->incoming = 0;
}

/* ---- jump caches */

static void jc_empty(struct bt_vcpu *v, struct bt_jc_entry *e)
{
	e->neg_gva = 0 - BT_JC_NOWHERE;
	e->host = (u64)(v->cache_rx + v->jc_miss_off);
}

void bt_jc_clear(struct bt_vcpu *v)
{
	for (u32 u = 0; u < 2; u++)
		for (u32 i = 0; i < BT_JC_SIZE; i++)
			jc_empty(v, &v->jc[u][i]);
}

static void jc_drop(struct bt_vcpu *v, const struct bt_block *b)
{
	struct bt_jc_entry *e = &v->jc[b->mode & MODE_USER][bt_jc_index(b->gva)];
	if (e->neg_gva == 0 - b->gva)
		jc_empty(v, e);
}

/* ---- finding */

/* Most often none does, and the frame is in the host's cache, which the chain is not. */
static bool may_start(const struct bt_vcpu *v, gva_t gva, u64 gpfn)
{
	u32 bit = bt_start_hash(gva);
	return v->frames[gpfn].starts[bit / 64] >> bit % 64 & 1;
}

struct bt_block *bt_block_find(struct bt_vcpu *v, gva_t gva, u64 gpfn, u32 mode)
{
	if (!may_start(v, gva, gpfn))
		return NULL;
	for (u32 i = *bt_chain(v, gva, gpfn, mode); i; i = v->blocks[i].hash_next) {
		struct bt_block *b = &v->blocks[i];
		if (b->gva == gva && b->gpfn == gpfn && b->mode == mode && !b->dead)
			return b;
	}
	return NULL;
}

void bt_block_enter(struct bt_vcpu *v, u32 bi)
{
	struct bt_block *b = &v->blocks[bi];
	u32 *chain = bt_chain(v, b->gva, b->gpfn, b->mode);
	b->hash_next = *chain;
	*chain = bi;
	v->nhashed++;
}

void bt_blocks_make_room(struct bt_vcpu *v)
{
	if (v->nhashed < v->hash_mask || v->hash_mask + 1 == BT_HASH_SIZE)
		return;
	bt_zero(v->hash, sizeof *v->hash * (v->hash_mask + 1));
	v->hash_mask = v->hash_mask * 4 + 3;
	v->nhashed = 0;
	for (u32 i = bt_block_next(v, 0); i; i = bt_block_next(v, i))
		if (!v->blocks[i].dead)
			bt_block_enter(v, i);
}

void bt_block_publish(struct bt_vcpu *v, u32 bi)
{
	struct bt_block *b = &v->blocks[bi];
	bt_block_enter(v, bi);
	struct bt_vframe *f = &v->frames[b->gpfn];
	b->page_next = f->blocks;
	f->blocks = bi;
	b->listed = true;
	u32 bit = bt_start_hash(b->gva);
	f->starts[bit / 64] |= 1ull << bit % 64;
	if (b->gpfn2) {
		f = &v->frames[b->gpfn2];
		b->crossing_next = f->crossing;
		f->crossing = bi;
	}
}

static void unhash(struct bt_vcpu *v, u32 bi)
{
	const struct bt_block *b = &v->blocks[bi];
	u32 *link = bt_chain(v, b->gva, b->gpfn, b->mode);
	while (*link && *link != bi)
		link = &v->blocks[*link].hash_next;
	if (!*link)
		return;
	*link = b->hash_next;
	v->nhashed--;
}

void bt_block_retire(struct bt_vcpu *v, u32 bi)
{
	struct bt_block *b = &v->blocks[bi];
	unhash(v, bi);
	unlink_incoming(v, b);
	jc_drop(v, b);
	bt_cpage_put(v, b->cpage);
	if (b->gpfn2)
		bt_cpage_put(v, b->cpage2);
}

/* ---- invalidation */

void bt_block_kill(struct bt_vcpu *v, u32 bi)
{
	struct bt_block *b = &v->blocks[bi];
	if (b->dead)
		return;
	b->dead = true; /* its memory returns with its zone's */
	v->st.blocks_dropped++;
	bt_rebase_drop(v, bi);
	bt_block_retire(v, bi);
}

static u64 block_lines(const struct bt_block *b)
{
	u32 start = PAGE_OFFSET(b->gva), end = start + b->bytes;
	return bt_lines(start, end < PAGE_SIZE ? end : (u32)PAGE_SIZE);
}

/* The part of a crossing block that lies in its second page. */
static u64 crossing_lines(const struct bt_block *b)
{
	return bt_lines(0, (u32)PAGE_OFFSET(b->gva) + b->bytes - (u32)PAGE_SIZE);
}

static u64 kill_crossing(struct bt_vcpu *v, struct bt_vframe *f, u64 lines)
{
	u64 left = 0;
	u32 *link = &f->crossing;
	while (*link) {
		struct bt_block *b = &v->blocks[*link];
		u64 mine = crossing_lines(b);
		if (b->dead || (mine & lines)) {
			bt_block_kill(v, *link);
			*link = b->crossing_next;
		} else {
			left |= mine;
			link = &b->crossing_next;
		}
	}
	return left;
}

static u64 kill_starting(struct bt_vcpu *v, struct bt_vframe *f, u64 lines)
{
	u64 left = 0;
	u32 *link = &f->blocks;
	while (*link) {
		struct bt_block *b = &v->blocks[*link];
		u64 mine = block_lines(b);
		if (b->dead || (mine & lines)) {
			bt_block_kill(v, *link);
			*link = b->page_next;
			b->listed = false;
		} else {
			left |= mine;
			link = &b->page_next;
		}
	}
	return left;
}

/* Those that are dead already leave the lists in any case. */
static u64 kill_in_frame(struct bt_vcpu *v, struct bt_vframe *f, u64 lines)
{
	u64 left = kill_crossing(v, f, lines) | kill_starting(v, f, lines);
	if (!left)
		f->starts[0] = f->starts[1] = 0;
	return left;
}

u64 bt_kill_lines(struct bt_vcpu *v, u64 gpfn, u64 lines)
{
	struct bt_vframe *f = &v->frames[gpfn];
	if (!(f->lines & lines))
		return f->lines;
	u64 left = kill_in_frame(v, f, lines);
	if (f->executed[0] | f->executed[1])
		bt_direct_unexecute(v, gpfn);
	__atomic_store_n(&f->lines, left, __ATOMIC_SEQ_CST);
	v->patched |= v != &bt_self;
	v->st.smc++;
	return left;
}

/* ---- numbers that become another's */

void bt_block_erase(struct bt_vcpu *v, u32 bi)
{
	const struct bt_block *b = &v->blocks[bi];
	bt_rebase_leave(v, bi);
	bt_block_kill(v, bi);
	for (u32 i = 0; i < b->nexits; i++) /* also of one that has long been dead */
		bt_exit_unlink(v, b->first_exit + i);
}

/* The lines are those of blocks that are left, unless cells keep them. No world is stopped for that: marks only go where no code is. */
static void tidy_frame(struct bt_vcpu *v, u64 gpfn)
{
	struct bt_vframe *f = &v->frames[gpfn];
	u64 left = kill_in_frame(v, f, 0);
	if (f->executed[0] | f->executed[1])
		return;
	__atomic_store_n(&f->lines, left, __ATOMIC_SEQ_CST);
	if (v->vm->max_vcpus == 1)
		__atomic_store_n(&v->vm->frames[gpfn].lines, left, __ATOMIC_SEQ_CST);
}

void bt_block_unlist(struct bt_vcpu *v, u32 bi)
{
	const struct bt_block *b = &v->blocks[bi];
	if (b->listed)
		tidy_frame(v, b->gpfn);
	if (b->gpfn2)
		tidy_frame(v, b->gpfn2);
}

/* ---- modes */

static bool is_of_mode(const struct bt_block *b, u32 mode)
{
	return !b->dead && (b->mode & (MODE_USER | MODE_VECTOR)) == mode;
}

static bool would_be_same_in(const struct bt_block *b, u32 mode)
{
	return (b->uses & ~mode) == 0 && (b->lacks & mode) == 0;
}

static void change_mode(struct bt_vcpu *v, u32 bi, u32 to)
{
	struct bt_block *b = &v->blocks[bi];
	unhash(v, bi);
	b->mode = (b->mode & ~(u32)MODE_VECTOR) | (to & MODE_VECTOR);
	bt_block_enter(v, bi);
}

void bt_blocks_change_mode(struct bt_vcpu *v, u32 from, u32 to)
{
	/* Those of the new mode were translated while the jump caches served another, and go to C at each indirect jump. */
	for (u32 i = bt_block_next(v, 0); i; i = bt_block_next(v, i))
		if (is_of_mode(&v->blocks[i], to))
			bt_block_kill(v, i);
	for (u32 i = bt_block_next(v, 0); i; i = bt_block_next(v, i)) {
		if (!is_of_mode(&v->blocks[i], from))
			continue;
		if (would_be_same_in(&v->blocks[i], to))
			change_mode(v, i, to);
		else
			bt_block_kill(v, i);
	}
}
