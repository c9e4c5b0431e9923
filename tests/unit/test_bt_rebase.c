/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A block that is made from one at another address is what a translation would have become, byte for byte; it is made only where it may be, and
 * goes when the code goes. What such blocks do when they run is the guest tests' affair (smc_moved).
 */
#include "bt_machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define RAM (1 * MiB)
#define FRAME 0x20u
#define MODE (MODE_USER | MODE_SSE | MODE_X87)
#define HERE 0x5555deadb000ull
#define THERE 0x7fff01234000ull
#define LOW 0x400000ull
#define KERNEL 0xffffffff81000000ull

static const struct code {
	const char *name;
	u8 bytes[40];
	bool moves;
} codes[] = {
	{"call and return", {0xe8, 0x10, 0, 0, 0, 0xc3}, true},
	{"return", {0xc3}, true},
	{"return and drop", {0xc2, 0x10, 0}, true},
	{"jump", {0xe9, 0, 1, 0, 0}, true},
	{"loop", {0xff, 0xc8, 0x75, 0xfc, 0xc3}, true},
	{"read next to rip", {0x48, 0x8b, 0x05, 0, 1, 0, 0, 0xc3}, true},
	{"read far from rip", {0x48, 0x8b, 0x05, 0, 0, 0, 0x80, 0xc3}, true},
	{"read twice next to rip", {0x48, 0x8b, 0x05, 0, 1, 0, 0, 0x48, 0x8b, 0x1d, 0, 1, 0, 0, 0xc3}, true},
	{"address next to rip", {0x48, 0x8d, 0x3d, 0, 1, 0, 0, 0xc3}, true},
	{"the same, cut to 32 bits", {0x67, 0x48, 0x8d, 0x3d, 0, 1, 0, 0, 0xc3}, false},
	{"a row of pushes", {0x55, 0x53, 0x41, 0x54, 0x48, 0x83, 0xec, 0x18, 0xe8, 0, 2, 0, 0}, true},
	{"call a register", {0xff, 0xd0}, true},
	{"call through a table", {0xff, 0x15, 0, 1, 0, 0}, true},
	{"jump to a register", {0xff, 0xe2}, true},
	{"push a constant", {0x6a, 0x80, 0x68, 0, 0, 0, 0x80, 0xc3}, true},
	{"system call", {0x0f, 0x05}, true},
	{"interpreted", {0x0f, 0xa2, 0x0f, 0x01, 0xf9, 0xc3}, true},
	{"vectors and strings", {0x0f, 0x28, 0x06, 0x0f, 0x11, 0x07, 0xf3, 0xa4, 0xc3}, true},
	{"no instruction", {0x0f, 0x0b}, true},
};

static struct bt_vcpu *vcpu(void)
{
	static struct bt_machine m;
	struct err e = {0};

	if (!m.vcpu && bt_machine_make(&m, RAM, 1, &e) < 0)
		fail_msg("%s", e.msg);
	return (struct bt_vcpu *)m.vcpu;
}

static void put(struct bt_vcpu *v, const struct code *c, u32 off)
{
	u8 *page = v->env.ram(v, FRAME << PAGE_SHIFT, false);

	memset(page, 0x90, PAGE_SIZE);
	memcpy(page + off, c->bytes, sizeof c->bytes);
}

static struct bt_block *begin(struct bt_vcpu *v, const struct code *c, gva_t at)
{
	put(v, c, PAGE_OFFSET(at));
	v->jc_mode[1] = MODE;
	bt_enter(v);
	return bt_translate(v, at, FRAME, 0, MODE);
}

static void end(struct bt_vcpu *v)
{
	bt_kill_lines(v, FRAME, ~0ull);
	bt_leave(v);
}

/* Ends the process when it is not. */
static void is_as_translated(struct bt_vcpu *v, struct bt_block *b)
{
	bt_rebase_check(v, b);
}

static void moves_rightly(void **state)
{
	struct bt_vcpu *v = vcpu();

	for (u32 i = 0; i < ARRAY_SIZE(codes); i++) {
		struct bt_block *here = begin(v, &codes[i], HERE + 0x123), *there = bt_rebase(v, THERE + 0x123, FRAME, MODE);

		assert_non_null(here);
		if (!codes[i].moves) {
			assert_null(there);
		} else {
			if (!there)
				fail_msg("%s: stays", codes[i].name);
			is_as_translated(v, there);
			assert_int_equal(there->gva, THERE + 0x123);
			assert_ptr_equal(bt_block_find(v, THERE + 0x123, FRAME, MODE), there);
			assert_ptr_equal(bt_block_at(v, there->entry), there);
			assert_ptr_equal(bt_block_at(v, here->entry), here);
		}
		end(v);
	}
}

static void only_the_same_code(void **state)
{
	struct bt_vcpu *v = vcpu();

	assert_non_null(begin(v, &codes[0], HERE));
	assert_null(bt_rebase(v, THERE + 1, FRAME, MODE));
	assert_null(bt_rebase(v, THERE, FRAME + 1, MODE));
	assert_null(bt_rebase(v, THERE, FRAME, MODE | MODE_CAREFUL));
	assert_null(bt_rebase(v, THERE, FRAME, MODE & ~(u32)MODE_USER));
	assert_null(bt_rebase(v, LOW, FRAME, MODE));
	assert_null(bt_rebase(v, KERNEL, FRAME, MODE));
	assert_non_null(bt_rebase(v, THERE, FRAME, MODE));
	end(v);
}

static void low_code_stays(void **state)
{
	struct bt_vcpu *v = vcpu();

	assert_non_null(begin(v, &codes[0], LOW));
	assert_null(bt_rebase(v, THERE, FRAME, MODE));
	end(v);
}

static void goes_with_the_code(void **state)
{
	struct bt_vcpu *v = vcpu();
	struct bt_block *here = begin(v, &codes[0], HERE), *there = bt_rebase(v, THERE, FRAME, MODE);

	assert_non_null(there);
	bt_kill_lines(v, FRAME, 1);
	assert_true(here->dead);
	assert_true(there->dead);
	assert_null(bt_rebase(v, THERE, FRAME, MODE));
	end(v);
}

static void a_flush_forgets(void **state)
{
	struct bt_vcpu *v = vcpu();

	assert_non_null(begin(v, &codes[0], HERE));
	bt_flush_code(v);
	assert_null(bt_rebase(v, THERE, FRAME, MODE));
	end(v);
}

/* Links of the one are not the other's. */
static void links_stay_behind(void **state)
{
	struct bt_vcpu *v = vcpu();
	struct bt_block *here = begin(v, &codes[0], HERE), *there;

	assert_non_null(here);
	assert_true(here->nexits > 0);
	bt_block_link(v, here->first_exit, here, false);
	there = bt_rebase(v, THERE, FRAME, MODE);
	assert_non_null(there);
	is_as_translated(v, there);
	assert_int_equal(v->exits[there->first_exit].target, 0);
	assert_int_equal(there->incoming, 0);
	end(v);
}

static gva_t other(u32 n)
{
	return 0x7e0000000000ull + n * 0x1234000ull;
}

/* Blocks that were made from each other become so many, then the oldest moves. */
static struct bt_block *crowd(struct bt_vcpu *v, const struct code *c, u32 *next)
{
	struct bt_block *here = begin(v, c, HERE), *b;
	u64 moved = v->st.moved;

	assert_non_null(here);
	for (*next = 0; *next < 100; (*next)++) {
		b = bt_rebase(v, other(*next), FRAME, MODE);
		assert_non_null(b);
		if (v->st.moved != moved)
			return b;
		is_as_translated(v, b);
	}
	fail_msg("%s: none of 100 has moved", c->name);
	return NULL;
}

static void the_oldest_moves(void **state)
{
	struct bt_vcpu *v = vcpu();

	for (u32 i = 0; i < ARRAY_SIZE(codes); i++) {
		struct bt_block *b;
		u32 last;

		if (!codes[i].moves)
			continue;
		b = crowd(v, &codes[i], &last);
		is_as_translated(v, b);
		assert_int_equal(b->gva, other(last));
		assert_ptr_equal(bt_block_find(v, other(last), FRAME, MODE), b);
		assert_null(bt_block_find(v, HERE, FRAME, MODE));
		b = bt_rebase(v, other(last + 1), FRAME, MODE);
		assert_int_equal(b->gva, other(last + 1));
		is_as_translated(v, b);
		assert_null(bt_block_find(v, other(0), FRAME, MODE));
		assert_non_null(bt_block_find(v, other(1), FRAME, MODE));
		end(v);
	}
}

/* What moves is unlinked on both sides, and takes nothing of its neighbours' lists with it. */
static void what_moves_is_unlinked(void **state)
{
	struct bt_vcpu *v = vcpu();
	struct bt_block *b, *target, *from;
	u32 last;

	b = crowd(v, &codes[0], &last);
	target = bt_block_find(v, other(last - 1), FRAME, MODE);
	from = bt_block_find(v, other(last - 2), FRAME, MODE);
	assert_non_null(target);
	assert_non_null(from);
	bt_block_link(v, b->first_exit, target, false);
	bt_block_link(v, from->first_exit, target, false);
	bt_block_link(v, target->first_exit, b, true);
	while (bt_block_find(v, other(last), FRAME, MODE) == b)
		assert_non_null(bt_rebase(v, other(200 + (u32)v->st.moved), FRAME, MODE));
	is_as_translated(v, b);
	assert_int_equal(b->incoming, 0);
	assert_int_equal(v->exits[target->first_exit].target, 0);
	bt_kill_lines(v, FRAME, ~0ull);
	assert_int_equal(v->exits[from->first_exit].target, 0);
	bt_leave(v);
}

/* While an address space knows the page, the block may be in use there. */
static void what_is_known_stays(void **state)
{
	struct bt_vcpu *v = vcpu();
	struct bt_block *here;
	u32 last;

	crowd(v, &codes[0], &last);
	end(v);
	here = begin(v, &codes[0], HERE);
	v->mode = MODE;
	v->itlb = &v->as->itlb;
	bt_itlb_know(v, here);
	for (u32 i = 0; i < 3 * last; i++)
		assert_non_null(bt_rebase(v, other(i), FRAME, MODE));
	assert_ptr_equal(bt_block_find(v, HERE, FRAME, MODE), here);
	end(v);
}

static void code_pages_come_back(void **state)
{
	struct bt_vcpu *v = vcpu();
	u32 last, before;

	crowd(v, &codes[0], &last);
	before = v->ncpages;
	for (u32 i = 0; i < 1000; i++)
		assert_non_null(bt_rebase(v, other(1000 + i), FRAME, MODE));
	assert_true(v->ncpages <= before + 1);
	end(v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(moves_rightly),	cmocka_unit_test(only_the_same_code),	  cmocka_unit_test(low_code_stays),
		cmocka_unit_test(goes_with_the_code),	cmocka_unit_test(a_flush_forgets),	  cmocka_unit_test(links_stay_behind),
		cmocka_unit_test(the_oldest_moves),	cmocka_unit_test(what_moves_is_unlinked), cmocka_unit_test(what_is_known_stays),
		cmocka_unit_test(code_pages_come_back),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
