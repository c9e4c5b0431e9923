/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When the code cache is full, the blocks of one zone go: those of the others stay, may be found and keep their links among each other, and nothing
 * knows of those that went. Which zone goes is left to chance, the same in each run.
 */
#include "bt_machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define RAM (8 * MiB)
#define FIRST_FRAME 0x100u
#define FRAMES 0x400u
#define MODE (MODE_USER | MODE_SSE | MODE_X87)
#define HERE 0x5555deadb000ull
#define THERE 0x7fff01234000ull
#define MANY 8192u

static const u8 call_and_return[] = {0xe8, 0x10, 0, 0, 0, 0xc3};
static const u8 across[] = {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0xc3}; /* mov rax, n */

/* One vCPU a thread: it is made anew for each test. */
static struct bt_machine machine;

static int make(void **state)
{
	struct err e = {0};

	if (bt_machine_make_on(&machine, &engine_tiny, RAM, 1, &e) < 0)
		fail_msg("%s", e.msg);
	*state = machine.vcpu;
	bt_self.jc_mode[1] = MODE;
	bt_enter(&bt_self);
	for (u32 f = FIRST_FRAME; f < FIRST_FRAME + FRAMES; f++) {
		u8 *page = bt_self.env.ram(&bt_self, (u64)f << PAGE_SHIFT, false);

		memset(page, 0x90, PAGE_SIZE);
		for (u32 off = 0; off < PAGE_SIZE - 64; off += 64)
			memcpy(page + off, call_and_return, sizeof call_and_return);
		memcpy(page + PAGE_SIZE - 4, across, 4);
		memcpy(page, across + 4, sizeof across - 4);
	}
	return 0;
}

static int end(void **state)
{
	bt_leave(&bt_self);
	engine_tiny.vcpu_destroy(machine.vcpu);
	engine_tiny.vm_destroy(machine.vm);
	gm_destroy(&machine.gm);
	return 0;
}

static u32 number(const struct bt_vcpu *v, const struct bt_block *b)
{
	return (u32)(b - v->blocks);
}

static u32 zone_of(const struct bt_vcpu *v, const struct bt_block *b)
{
	return number(v, b) / BT_ZONE_BLOCKS;
}

static u32 zone_now(const struct bt_vcpu *v)
{
	return (u32)(v->used - v->zones);
}

/* The n-th of many places. */
static u64 frame(u32 n)
{
	return FIRST_FRAME + n / 32 % FRAMES;
}

static gva_t place(u32 n)
{
	return HERE + n / 32 * PAGE_SIZE + n % 32 * 64 + 64;
}

static struct bt_block *translate(struct bt_vcpu *v, u32 n)
{
	struct bt_block *b = bt_translate(v, place(n), frame(n), 0, MODE);

	assert_non_null(b);
	return b;
}

static struct bt_block *find(struct bt_vcpu *v, u32 n)
{
	return bt_block_find(v, place(n), frame(n), MODE);
}

/* Blocks are made from the n-th place on until a zone is dropped or, with `zone`, until that one is in use. */
static u32 fill_until(struct bt_vcpu *v, u32 n, u32 zone)
{
	u64 drops = v->st.zones_dropped;

	while (v->st.zones_dropped == drops && zone_now(v) != zone) {
		assert_true(n < MANY);
		translate(v, n++);
	}
	return n;
}

/* The one that goes next is known, as it is the same each time. Here it is the one that `b` is in. */
static void aim_at(struct bt_vcpu *v, const struct bt_block *b)
{
	for (u32 seed = 1;; seed++) {
		u32 x = seed;

		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		if ((u32)((u64)x * BT_ZONES >> 32) != zone_of(v, b))
			continue;
		v->random = seed;
		return;
	}
}

static void drop_zone_of(struct bt_vcpu *v, const struct bt_block *b, u32 *n)
{
	u32 zone = zone_of(v, b);

	aim_at(v, b);
	*n = fill_until(v, *n, BT_ZONES);
	assert_int_equal(zone_now(v), zone);
	bt_zones_check(v);
}

static u32 living(const struct bt_vcpu *v)
{
	u32 n = 0;

	for (u32 i = bt_block_next(v, 0); i; i = bt_block_next(v, i))
		n += !v->blocks[i].dead;
	return n;
}

/* Into a jump cache, as the dispatcher does. */
static struct bt_jc_entry *remember(struct bt_vcpu *v, const struct bt_block *b)
{
	struct bt_jc_entry *e = &v->jc[1][bt_jc_index(b->gva)];

	*e = (struct bt_jc_entry){0 - b->gva, (u64)(v->cache_rx + b->checked)};
	return e;
}

static void only_one_zone_goes(void **state)
{
	struct bt_vcpu *v = *state;
	u32 n = fill_until(v, 0, BT_ZONES), gone = 0, zone = zone_now(v);

	bt_zones_check(v);
	assert_int_equal(v->st.flushes, 0);
	for (u32 i = 0; i + 1 < n; i++) {
		struct bt_block *b = find(v, i);

		gone += !b;
		assert_true(!b || zone_of(v, b) != zone);
		assert_true(!b || bt_block_at(v, b->entry) == b);
	}
	assert_true(gone > n / BT_ZONES / 2 && gone < n / BT_ZONES * 2);
	assert_int_equal(living(v), n - gone);
	assert_int_equal(v->nhashed, n - gone);
	assert_non_null(find(v, n - 1));
}

static void chance_is_the_same_each_time(void **state)
{
	struct bt_vcpu *v = *state;
	u32 first[40], zones = 0;

	for (u32 round = 0; round < 2; round++) {
		u32 n = 0;

		if (round)
			bt_flush_code(v);
		v->random = 12345;
		for (u32 i = 0; i < ARRAY_SIZE(first); i++) {
			n = fill_until(v, n, BT_ZONES) % (MANY / 2);
			if (round)
				assert_int_equal(first[i], zone_now(v));
			first[i] = zone_now(v);
			zones |= 1u << first[i];
		}
	}
	assert_true(__builtin_popcount(zones) > 8);
}

/* Both ends in other zones, in both directions, and with a third between them in the list. */
static void links_go_at_both_ends(void **state)
{
	struct bt_vcpu *v = *state;
	struct bt_block *old = translate(v, 0), *other, *third;
	u32 n = fill_until(v, 1, 1), bytes;

	other = translate(v, n++);
	n = fill_until(v, n, 2);
	third = translate(v, n++);
	bt_block_link(v, third->first_exit, other, true);
	bt_block_link(v, old->first_exit, other, true);
	bt_block_link(v, other->first_exit, old, true);
	remember(v, old);
	drop_zone_of(v, old, &n);
	assert_int_equal(v->exits[other->first_exit].target, 0);
	memcpy(&bytes, v->cache_rw + v->exits[other->first_exit].patch, sizeof bytes);
	assert_int_equal(bytes + v->exits[other->first_exit].patch + 4, v->exits[other->first_exit].stub);
	assert_int_equal(other->incoming, third->first_exit + 1);
	assert_int_equal(v->exits[third->first_exit].next, 0);
	assert_int_equal(v->exits[third->first_exit].prev, 0);
}

/* What was dead before, but linked to what lives, is unlinked too. */
static void the_dead_are_unlinked(void **state)
{
	struct bt_vcpu *v = *state;
	struct bt_block *old = translate(v, 0), *other;
	u32 n = fill_until(v, 32, 1);

	other = translate(v, n++);
	bt_block_link(v, old->first_exit, other, true);
	bt_kill_lines(v, frame(0), ~0ull);
	assert_true(old->dead);
	assert_true(other->incoming != 0);
	drop_zone_of(v, old, &n);
	assert_int_equal(other->incoming, 0);
}

static void jump_caches_and_return_stack_forget(void **state)
{
	struct bt_vcpu *v = *state;
	struct bt_block *old = translate(v, 0);
	u32 n = fill_until(v, 1, BT_ZONES);

	old = find(v, n - 1);
	struct bt_jc_entry *e = remember(v, old);
	u32 cpage = old->cpage;

	bt_itlb_know(v, old);
	v->ras = v->ras_top[v->ras_user] - 64;
	v->ras_saved = v->ras_top[1] - 64;
	drop_zone_of(v, old, &n);
	assert_int_equal(e->host, (u64)(v->cache_rx + v->jc_miss_off));
	assert_int_equal(v->ras, v->ras_top[v->ras_user]);
	assert_int_equal(v->ras_saved, v->ras_top[1]);
	assert_false(bt_cpage_is_known(v, cpage));
}

/* A frame knows its blocks in other zones still; its lines are theirs. */
static void frames_know_what_is_left(void **state)
{
	struct bt_vcpu *v = *state;
	struct bt_block *old = translate(v, 0), *other;
	struct bt_vframe *f = &v->frames[frame(0)];
	u64 both, mine = f->lines;
	u32 n = fill_until(v, 32, 1);

	other = translate(v, 8);
	both = f->lines;
	assert_true(mine && (both & mine) == mine && both != mine);
	drop_zone_of(v, old, &n);
	assert_ptr_equal(find(v, 8), other);
	assert_int_equal(f->blocks, number(v, other));
	assert_int_equal(other->page_next, 0);
	assert_int_equal(f->lines, both & ~mine);
	assert_int_equal(v->vm->frames[frame(0)].lines, both & ~mine);
	bt_kill_lines(v, frame(0), both);
	assert_true(other->dead);
	assert_int_equal(f->lines, 0);
}

static void so_does_the_frame_behind(void **state)
{
	struct bt_vcpu *v = *state;
	struct bt_block *old = bt_translate(v, HERE + PAGE_SIZE - 4, FIRST_FRAME + 2, FIRST_FRAME + 1, MODE);
	u32 n = 3 * 32;

	assert_non_null(old);
	assert_int_equal(v->frames[FIRST_FRAME + 1].crossing, number(v, old));
	n = fill_until(v, n, BT_ZONES - 1);
	drop_zone_of(v, old, &n);
	assert_int_equal(v->frames[FIRST_FRAME + 1].crossing, 0);
	assert_int_equal(v->frames[FIRST_FRAME + 1].lines, 0);
	assert_int_equal(v->frames[FIRST_FRAME + 2].lines, 0);
}

/* ---- blocks that were made from each other */

static struct bt_block *copy(struct bt_vcpu *v, u32 n, u32 i)
{
	struct bt_block *b = bt_rebase(v, THERE + i * 0x1234000ull + PAGE_OFFSET(place(n)), frame(n), MODE);

	assert_non_null(b);
	return b;
}

/* One a zone, in the first four. */
static u32 make_ring(struct bt_vcpu *v, struct bt_block *ring[4])
{
	u32 n = 1;

	ring[0] = translate(v, 0);
	for (u32 i = 1; i < 4; i++) {
		n = fill_until(v, n, i);
		ring[i] = copy(v, 0, i);
		assert_int_equal(zone_of(v, ring[i]), i);
		assert_int_equal(ring[i]->map, ring[0]->map);
	}
	assert_int_equal(ring[0]->twins, 4);
	return n;
}

static void a_copy_leaves_its_ring(void **state)
{
	struct bt_vcpu *v = *state;
	struct bt_block *ring[4];
	u32 n = make_ring(v, ring);

	drop_zone_of(v, ring[2], &n);
	assert_int_equal(ring[0]->twins, 3);
	assert_int_equal(ring[0]->twin, number(v, ring[1]));
	assert_int_equal(ring[1]->twin, number(v, ring[3]));
	assert_int_equal(ring[3]->twin, number(v, ring[0]));
	assert_int_equal(ring[0]->newest_twin, number(v, ring[3]));
	drop_zone_of(v, ring[3], &n);
	assert_int_equal(ring[0]->newest_twin, number(v, ring[1]));
	assert_int_equal(ring[0]->twins, 2);
	assert_false(ring[0]->dead || ring[1]->dead);
	bt_rebase_check(v, ring[1]);
	bt_rebase_check(v, copy(v, 0, 9));
}

static void an_origin_takes_its_copies_with_it(void **state)
{
	struct bt_vcpu *v = *state;
	struct bt_block *ring[4];
	u32 n = make_ring(v, ring);

	drop_zone_of(v, ring[0], &n);
	for (u32 i = 1; i < 4; i++) {
		assert_true(ring[i]->dead);
		assert_int_equal(ring[i]->twin, 0);
	}
	assert_null(bt_rebase(v, THERE + PAGE_OFFSET(place(0)), frame(0), MODE));
	drop_zone_of(v, ring[2], &n);
	assert_int_equal(living(v), v->nhashed);
}

/* A block in a zone that is full moves, and is as it would be translated there. */
static void what_moves_stays_in_its_zone(void **state)
{
	struct bt_vcpu *v = *state;
	struct bt_block *ring[4], *b = NULL;
	u64 moved = v->st.moved;
	u32 n = make_ring(v, ring);

	for (u32 i = 10; v->st.moved == moved; i++) {
		assert_true(i < 100);
		b = copy(v, 0, i);
	}
	assert_ptr_equal(b, ring[0]);
	bt_rebase_check(v, b);
	drop_zone_of(v, ring[1], &n);
	assert_false(b->dead);
	bt_rebase_check(v, b);
}

/* ---- an exit that has its target translated */

static void start_state(struct bt_vcpu *v)
{
	struct x86_cpu *c = &v->cpu;

	c->seg[SEG_CS] = (struct x86_seg){.sel = 0x33, .attr = 0xbu | SEGA_S | 3 << 5 | SEGA_P | SEGA_L | SEGA_G, .limit = ~0u};
	c->seg[SEG_SS] = (struct x86_seg){.sel = 0x2b, .attr = 0x3u | SEGA_S | 3 << 5 | SEGA_P | SEGA_DB | SEGA_G, .limit = ~0u};
	c->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	c->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	c->msr.efer = EFER_LME | EFER_LMA;
	c->rflags = FL_ONE;
	bt_mode_changed(v);
	bt_update_mode(v);
	assert_int_equal(v->mode, MODE);
}

/* The block goes for the sake of its target, which then has its number; the exit is nobody's. */
static void an_exit_that_is_gone_is_not_linked(void **state)
{
	static const u8 two_exits[] = {0x75, 0x10, 0x75, 0x1c, 0xc3}, no_exit[] = {0xc3};
	struct bt_vcpu *v = *state;
	u8 *page = v->env.ram(v, (FIRST_FRAME + FRAMES - 1) << PAGE_SHIFT, false);
	struct bt_block *from, *to;
	u32 exit, n;

	memcpy(page, two_exits, sizeof two_exits);
	memcpy(page + 0x20, no_exit, sizeof no_exit);
	start_state(v);
	translate(v, 0);
	v->used->code = bt_zone_end(v->vm, v->used->code) - BT_CACHE_RESERVE;
	from = bt_translate(v, THERE, FIRST_FRAME + FRAMES - 1, 0, MODE);
	assert_int_equal(number(v, from), BT_ZONE_BLOCKS);
	assert_int_equal(from->nexits, 2);
	exit = from->first_exit + 1;
	assert_int_equal(v->exits[exit].gva, THERE + 0x20);
	n = fill_until(v, 1, BT_ZONES - 1);
	while (bt_cache_has_room(v))
		translate(v, n++);
	aim_at(v, from);
	bt_itlb_enter(v, THERE, FIRST_FRAME + FRAMES - 1);
	v->t3 = number(v, from);
	assert_non_null(bt_event_exit(v, exit));
	bt_heavy(v);
	to = bt_block_find(v, THERE + 0x20, FIRST_FRAME + FRAMES - 1, MODE);
	assert_int_equal(number(v, to), BT_ZONE_BLOCKS);
	assert_int_equal(to->incoming, 0);
	assert_int_equal(v->exits[exit].target, 0);
	bt_zones_check(v);
}

/* ---- room */

/* Numbers may run out before bytes do. */
static void any_table_fills_a_zone(void **state)
{
	struct bt_vcpu *v = *state;
	const struct bt_used ends = {0, BT_ZONE_BLOCKS, BT_ZONE_EXITS - 1, BT_ZONE_MAPS - 1, BT_ZONE_RELOCS - 1};
	struct bt_used *u = v->used, before = *u;
	u32 *const counts[] = {&u->blocks, &u->exits, &u->maps, &u->relocs};
	const u32 full[] = {ends.blocks, ends.exits, ends.maps, ends.relocs};

	assert_true(bt_cache_has_room(v));
	for (u32 i = 0; i < ARRAY_SIZE(counts); i++) {
		*counts[i] = full[i];
		assert_false(bt_cache_has_room(v));
		*u = before;
	}
	u->code = bt_zone_end(v->vm, before.code) - BT_CACHE_RESERVE;
	assert_false(bt_cache_has_room(v));
	*u = before;
}

static void numbers_of_code_pages_come_back(void **state)
{
	struct bt_vcpu *v = *state;

	for (u32 n = 0; n < 2 * BT_CPAGES; n++)
		assert_non_null(bt_translate(v, HERE + n * PAGE_SIZE, FIRST_FRAME + n % FRAMES, 0, MODE));
	assert_true(v->ncpages < BT_CPAGES / 4);
	v->ncpages = BT_CPAGES;
	assert_true(bt_cache_has_room(v));
	v->nfree_cpages = 1; /* as if blocks had the others */
	assert_false(bt_cache_has_room(v));
	bt_cache_make_room(v);
	assert_true(bt_cache_has_room(v));
	assert_true(v->nfree_cpages >= 2);
}

static void a_flush_empties_all(void **state)
{
	struct bt_vcpu *v = *state;

	fill_until(v, 0, BT_ZONES);
	assert_true(bt_cache_used(v) > 0);
	bt_flush_code(v);
	assert_int_equal(bt_cache_used(v), 0);
	assert_int_equal(bt_block_next(v, 0), 0);
	bt_zones_check(v);
	assert_non_null(translate(v, 0));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(only_one_zone_goes),
		TEST(chance_is_the_same_each_time),
		TEST(links_go_at_both_ends),
		TEST(the_dead_are_unlinked),
		TEST(jump_caches_and_return_stack_forget),
		TEST(frames_know_what_is_left),
		TEST(so_does_the_frame_behind),
		TEST(a_copy_leaves_its_ring),
		TEST(an_origin_takes_its_copies_with_it),
		TEST(what_moves_stays_in_its_zone),
		TEST(an_exit_that_is_gone_is_not_linked),
		TEST(any_table_fills_a_zone),
		TEST(numbers_of_code_pages_come_back),
		TEST(a_flush_empties_all),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
