/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The same code at another address. A guest maps its programs and libraries elsewhere for each process (ASLR), and blocks are made for one address:
 * without this each start of a program would translate its libraries anew. Instead the block that was made from the same bytes of the same frame is
 * copied, and whatever in it depends on the address, or on its place in the cache, is changed as the list says that its translation left.
 *
 * What the copy was made from is alive, so its lines are marked and nobody has written to them: what holds for one holds for the other, and both
 * go together. A copy uses the map and the list of what it was made from, so it goes with that one's zone, too.
 *
 * Processes end, and their blocks would fill the cache. So of the blocks that were made from one, once there are some, that of the page which no
 * address space knows any more moves: the host code stays where it is, in the host's caches too.
 *
 * Light code: general registers only, no libc. Threading: the vCPU's thread.
 */
#include "engine/bt/bt.h"

#define TWINS 8 /* as many as a guest with PCIDs has processes known at a time, and some */

/* How far things are from where they were. */
struct shift {
	u64 gva;
	u32 host, exits, cpage;
	u32 block; /* not a distance: the number of the new one */
};

/* What belongs to a frame stands together, so that few pages of the table are touched. */
static u32 *chain_of(const struct bt_vcpu *v, gva_t gva, u64 gpfn)
{
	const u32 offsets = 128; /* as many as bt_start_hash has values */
	u32 group = (u32)(gpfn * 0x9e3779b97f4a7c15ull >> 40) % (BT_ORIGINS / offsets);
	return &v->origin[group * offsets + bt_start_hash(gva)];
}

void bt_rebase_remember(struct bt_vcpu *v, u32 bi)
{
	struct bt_block *b = &v->blocks[bi];
	if (!b->nrelocs)
		return;
	u32 *chain = chain_of(v, b->gva, b->gpfn);
	b->origin = true;
	b->twin = b->newest_twin = bi;
	b->twins = 1;
	b->origin_next = *chain;
	*chain = bi;
}

void bt_rebase_drop(struct bt_vcpu *v, u32 bi)
{
	const struct bt_block *b = &v->blocks[bi];
	if (!b->origin)
		return;
	u32 *link = chain_of(v, b->gva, b->gpfn);
	while (*link && *link != bi)
		link = &v->blocks[*link].origin_next;
	if (*link)
		*link = b->origin_next;
}

static void copy(void *to, const void *from, u64 bytes)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

void bt_rebase_forget(struct bt_vcpu *v)
{
	bt_zero(v->origin, sizeof *v->origin * BT_ORIGINS);
}

static struct bt_block *find_origin(const struct bt_vcpu *v, gva_t gva, u64 gpfn, u32 mode)
{
	for (u32 i = *chain_of(v, gva, gpfn); i; i = v->blocks[i].origin_next) {
		struct bt_block *b = &v->blocks[i];
		if (b->gpfn == gpfn && b->mode == mode && PAGE_OFFSET(b->gva) == PAGE_OFFSET(gva))
			return b;
	}
	return NULL;
}

/* ---- the places in the code */

static void put32(u8 *at, u32 value)
{
	__builtin_memcpy(at, &value, sizeof value);
}

static void add32(u8 *at, u32 n)
{
	u32 value;
	__builtin_memcpy(&value, at, sizeof value);
	put32(at, value + n);
}

static void add64(u8 *at, u64 n)
{
	u64 value;
	__builtin_memcpy(&value, at, sizeof value);
	value += n;
	__builtin_memcpy(at, &value, sizeof value);
}

/* mov ecx, block; mov r11d, argument; jmp or call */
enum { EVENT_BLOCK = 1, EVENT_ARGUMENT = 7, EVENT_DISTANCE = 12 };

static void relocate_event(u8 *at, enum bt_reloc_kind kind, const struct shift *s)
{
	put32(at + EVENT_BLOCK, s->block);
	if (kind == RELOC_EVENT)
		add32(at + EVENT_ARGUMENT, s->host);
	else if (kind == RELOC_EVENT_EXIT)
		add32(at + EVENT_ARGUMENT, s->exits);
	else if (kind == RELOC_EVENT_SELF)
		put32(at + EVENT_ARGUMENT, s->block);
	add32(at + EVENT_DISTANCE, 0 - s->host);
}

static void relocate_one(u8 *at, enum bt_reloc_kind kind, const struct shift *s)
{
	switch (kind) {
	case RELOC_EVENT:
	case RELOC_EVENT_PLAIN:
	case RELOC_EVENT_EXIT:
	case RELOC_EVENT_SELF:
		relocate_event(at, kind, s);
		break;
	case RELOC_SITE:
		add32(at, s->host);
		break;
	case RELOC_OUT:
		add32(at, 0 - s->host);
		break;
	case RELOC_GVA:
		add64(at, s->gva);
		break;
	case RELOC_NEG_GVA:
		add64(at, 0 - s->gva);
		break;
	case RELOC_CPAGE:
		add32(at, s->cpage);
		break;
	}
}

static void relocate(struct bt_vcpu *v, const struct bt_block *b, const struct shift *s)
{
	for (u32 i = 0; i < b->nrelocs; i++) {
		const struct bt_reloc *r = &v->relocs[b->relocs + i];
		relocate_one(v->cache_rw + b->start + r->at, (enum bt_reloc_kind)r->kind, s);
	}
}

static void copy_exits(struct bt_vcpu *v, const struct bt_block *from, const struct bt_block *b, const struct shift *s)
{
	for (u32 i = 0; i < b->nexits; i++) {
		struct bt_exit *x = &v->exits[b->first_exit + i];
		*x = v->exits[from->first_exit + i];
		x->patch += s->host;
		x->stub += s->host;
		x->gva += s->gva;
		bt_exit_reset(v, x);
	}
}

/* ---- copying */

static struct bt_block *append_block(struct bt_vcpu *v, const struct bt_block *from, gva_t gva, struct shift *s)
{
	u32 start = (v->used->code + 31) & ~31u;
	*s = (struct shift){
		.gva = gva - from->gva,
		.host = start - from->start,
		.exits = v->used->exits - from->first_exit,
		.block = v->used->blocks,
	};
	struct bt_block *b = &v->blocks[v->used->blocks++];
	*b = *from;
	b->gva = gva;
	b->start += s->host;
	b->checked += s->host;
	b->entry += s->host;
	b->end += s->host;
	b->first_exit = v->used->exits;
	b->incoming = 0;
	b->origin = false;
	b->cpage = bt_cpage(v, gva, b->gpfn);
	s->cpage = b->cpage - from->cpage;
	v->used->exits += b->nexits;
	v->used->code = b->end;
	return b;
}

static void join_ring(struct bt_vcpu *v, struct bt_block *origin, struct bt_block *b)
{
	struct bt_block *newest = &v->blocks[origin->newest_twin];
	b->twin = newest->twin;
	newest->twin = origin->newest_twin = (u32)(b - v->blocks);
	origin->twins++;
}

static struct bt_block *copy_block(struct bt_vcpu *v, struct bt_block *origin, gva_t gva)
{
	struct shift s;
	struct bt_block *b = append_block(v, origin, gva, &s);
	copy(v->cache_rw + b->start, v->cache_rw + origin->start, b->end - b->start);
	relocate(v, b, &s);
	copy_exits(v, origin, b, &s);
	join_ring(v, origin, b);
	bt_block_publish(v, s.block);
	v->st.rebased++;
	return b;
}

/* ---- leaving */

/* Map and list are the origin's, and go with it. */
static void disband(struct bt_vcpu *v, struct bt_block *origin)
{
	for (struct bt_block *b = &v->blocks[origin->twin]; b != origin;) {
		u32 next = b->twin;
		bt_block_kill(v, (u32)(b - v->blocks));
		b->twin = 0;
		b = &v->blocks[next];
	}
}

static void leave_ring(struct bt_vcpu *v, u32 bi)
{
	struct bt_block *before = &v->blocks[bi], *origin = NULL;
	do {
		before = &v->blocks[before->twin];
		if (before->origin)
			origin = before;
	} while (before->twin != bi);
	before->twin = v->blocks[bi].twin;
	if (origin->newest_twin == bi)
		origin->newest_twin = (u32)(before - v->blocks);
	origin->twins--;
}

void bt_rebase_leave(struct bt_vcpu *v, u32 bi)
{
	struct bt_block *b = &v->blocks[bi];
	if (!b->twin)
		return;
	if (b->origin)
		disband(v, b);
	else
		leave_ring(v, bi);
	b->twin = 0;
}

/* ---- moving */

/* The one that was made or moved longest ago, when nobody can get to it but through the dispatcher. */
static struct bt_block *find_idle(const struct bt_vcpu *v, const struct bt_block *origin)
{
	if (origin->twins < TWINS)
		return NULL;
	struct bt_block *b = &v->blocks[v->blocks[origin->newest_twin].twin];
	return b->dead || bt_cpage_is_known(v, b->cpage) ? NULL : b;
}

static void move_exits(struct bt_vcpu *v, const struct bt_block *b, u64 by)
{
	for (u32 i = b->first_exit; i < b->first_exit + b->nexits; i++) {
		bt_exit_unlink(v, i);
		v->exits[i].gva += by;
	}
}

/* Whoever holds its address on the return stack finds there what its code is now: a return to the block's new address. */
static struct bt_block *move_block(struct bt_vcpu *v, struct bt_block *origin, struct bt_block *b, gva_t gva)
{
	u32 bi = (u32)(b - v->blocks), cpage = bt_cpage(v, gva, b->gpfn);
	struct shift s = {.gva = gva - b->gva, .block = bi, .cpage = cpage - b->cpage};
	bt_block_retire(v, bi);
	move_exits(v, b, s.gva);
	relocate(v, b, &s);
	b->gva = gva;
	b->cpage = cpage;
	bt_block_enter(v, bi);
	origin->newest_twin = bi;
	v->st.moved++;
	return b;
}

/* ---- */

static void look_at_it(struct bt_vcpu *v, struct bt_block *b)
{
	bt_heavy(v);
	if (GM_BOUNDS_CHECKS)
		bt_rebase_check(v, b);
	if (v->cpu.traced)
		bt_trace_block(v, b);
}

struct bt_block *bt_rebase(struct bt_vcpu *v, gva_t gva, u64 gpfn, u32 mode)
{
	/* Where there are breakpoints a block may have to end earlier. */
	if (!bt_rebases(gva, mode) || v->debug || !bt_cache_has_room(v))
		return NULL;
	struct bt_block *origin = find_origin(v, gva, gpfn, mode);
	if (!origin)
		return NULL;
	bt_blocks_make_room(v);
	struct bt_block *idle = find_idle(v, origin), *b = idle ? move_block(v, origin, idle, gva) : copy_block(v, origin, gva);
	if (GM_BOUNDS_CHECKS || unlikely(v->cpu.traced))
		look_at_it(v, b);
	return b;
}
