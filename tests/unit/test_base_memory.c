/* SPDX-License-Identifier: Apache-2.0 */
/* Guest RAM: layout around the hole, accessors that refuse everything outside RAM, and pages that are there before they are touched. */
#include "base/guest_memory.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static struct guest_memory make(u64 size)
{
	struct guest_memory gm;
	struct err e = {0};

	if (gm_create(&gm, size, &e) < 0)
		fail_msg("%s", e.msg);
	return gm;
}

static void sizes_are_checked(void **state)
{
	static const u64 bad[] = {0, 4096, MiB - 4096, MiB + 1, UINT64_MAX, UINT64_MAX & ~4095ull, 32768 * GiB};
	struct guest_memory gm;

	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err e = {0};

		assert_int_equal(gm_create(&gm, bad[i], &e), -EINVAL);
		assert_true(e.msg[0]);
		assert_null(gm.map);
	}
}

static void layout_around_the_hole(void **state)
{
	struct guest_memory gm = make(GM_HOLE_START);

	assert_int_equal(gm.nslots, 1);
	gm_destroy(&gm);
	gm = make(GM_HOLE_START + 4096);
	assert_int_equal(gm.nslots, 2);
	assert_int_equal(gm.slots[1].gpa, GM_HOLE_END);
	assert_int_equal(gm.slots[1].size, 4096);
	assert_non_null(gm_ptr(&gm, GM_HOLE_START - 1, 1));
	assert_null(gm_ptr(&gm, GM_HOLE_START, 1));
	assert_null(gm_ptr(&gm, GM_HOLE_END - 1, 1));
	assert_non_null(gm_ptr(&gm, GM_HOLE_END + 4095, 1));
	assert_null(gm_ptr(&gm, GM_HOLE_END + 4096, 1));
	assert_int_equal(gm_gpa_of(&gm, gm_ptr(&gm, GM_HOLE_END + 5, 1)), GM_HOLE_END + 5);
	gm_destroy(&gm);
}

static void refuses_what_is_outside(void **state)
{
	static const struct {
		gpa_t gpa;
		u64 len;
	} bad[] = {
		{MiB, 1},   {MiB - 1, 2},	  {0, MiB + 1},	  {~0ull, 1},
		{~0ull, 2}, {MiB - 8, ~0ull - 4}, {8, ~0ull - 7}, {1ull << 63, 1ull << 63},
		{0, ~0ull},
	};
	struct guest_memory gm = make(MiB);
	struct iovec iov[2];
	char buf[8] = "untouch";

	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_null(gm_ptr(&gm, bad[i].gpa, bad[i].len));
		assert_false(gm_read(&gm, bad[i].gpa, buf, bad[i].len));
		assert_false(gm_write(&gm, bad[i].gpa, buf, bad[i].len));
		assert_int_equal(gm_iov(&gm, bad[i].gpa, bad[i].len, true, iov, 2), -1);
	}
	assert_string_equal(buf, "untouch");
	assert_int_equal(gm_gpa_of(&gm, buf), ~0ull);
	gm_destroy(&gm);
}

static void observe(void *opaque, gpa_t gpa, u64 len)
{
	u64 *seen = opaque;

	seen[0] = gpa;
	seen[1] += len;
}

static void copies_and_tells_the_observer(void **state)
{
	struct guest_memory gm = make(2 * MiB);
	u64 seen[2] = {0};
	char buf[6];

	gm.written = observe;
	gm.written_opaque = seen;
	assert_true(gm_write(&gm, 2 * MiB - 6, "hello", 6));
	assert_int_equal(seen[0], 2 * MiB - 6);
	assert_int_equal(seen[1], 6);
	assert_true(gm_read(&gm, 2 * MiB - 6, buf, 6));
	assert_string_equal(buf, "hello");
	assert_true(gm_write(&gm, 12, buf, 0));
	assert_int_equal(seen[1], 6);
	gm_destroy(&gm);
}

/* Whole pages only, in both slots; their memory is free afterwards, and the observer knows. */
static void discarded_pages_read_as_zeroes(void **state)
{
	struct guest_memory gm = make(GM_HOLE_START + 64 * KiB);
	u64 seen[2] = {0}, before;
	struct err e = {0};

	memset(gm_ptr(&gm, 0, 64 * KiB), 0xee, 64 * KiB);
	memset(gm_ptr(&gm, GM_HOLE_END, 64 * KiB), 0xee, 64 * KiB);
	before = gm_resident(&gm);
	assert_int_equal(before, 128 * KiB);
	gm.written = observe;
	gm.written_opaque = seen;
	assert_int_equal(gm_discard(&gm, 4095, 2 * 4096, &e), 0);
	assert_int_equal(seen[0], 4096);
	assert_int_equal(seen[1], 4096);
	assert_int_equal(gm_discard(&gm, 1, 8190, &e), 0);
	assert_int_equal(gm_discard(&gm, 12288, 0, &e), 0);
	assert_int_equal(seen[1], 4096);
	assert_int_equal(gm_discard(&gm, GM_HOLE_END + 60 * KiB, 4096, &e), 0);
	assert_int_equal(gm_resident(&gm), before - 2 * 4096);
	assert_int_equal(*gm_ptr(&gm, 4095, 1), 0xee);
	assert_int_equal(*gm_ptr(&gm, 4096, 1), 0);
	assert_int_equal(*gm_ptr(&gm, 8191, 1), 0);
	assert_int_equal(*gm_ptr(&gm, 8192, 1), 0xee);
	assert_int_equal(*gm_ptr(&gm, GM_HOLE_END + 60 * KiB - 1, 1), 0xee);
	assert_int_equal(*gm_ptr(&gm, GM_HOLE_END + 60 * KiB, 1), 0);
	gm_destroy(&gm);
}

static void discards_nothing_but_ram(void **state)
{
	static const struct {
		gpa_t gpa;
		u64 len;
	} bad[] = {{2 * MiB, 4096}, {2 * MiB - 4096, 8192}, {0, ~0ull}, {~0ull, 2}, {MiB, 4096}, {MiB - 4096, 8192}};
	struct guest_memory gm = make(2 * MiB);
	u64 seen[2] = {0};

	gm.slots[0].size = MiB;
	gm.slots[1] = (struct gm_slot){.gpa = MiB, .size = MiB, .hva = gm.map + MiB, .readonly = true};
	gm.nslots = 2;
	memset(gm.map, 0xee, 2 * MiB);
	gm.written = observe;
	gm.written_opaque = seen;
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err e = {0};

		assert_int_equal(gm_discard(&gm, bad[i].gpa, bad[i].len, &e), -EINVAL);
		assert_true(e.msg[0]);
	}
	assert_int_equal(seen[1], 0);
	assert_int_equal(gm_resident(&gm), 2 * MiB);
	gm_destroy(&gm);
}

static void rom_is_not_written(void **state)
{
	struct guest_memory gm = make(2 * MiB);
	struct iovec iov[1];

	gm.slots[0].size = MiB;
	gm.slots[1] = (struct gm_slot){.gpa = MiB, .size = MiB, .hva = gm.map + MiB, .readonly = true};
	gm.nslots = 2;
	assert_false(gm_write(&gm, MiB - 1, "ab", 2));
	assert_int_equal(*gm_ptr(&gm, MiB - 1, 1), 0);
	assert_int_equal(gm_iov(&gm, MiB - 1, 2, false, iov, 1), -1);
	assert_int_equal(gm_iov(&gm, MiB, 2, false, iov, 1), 1);
	assert_int_equal(gm_iov(&gm, MiB, 2, true, iov, 1), -1);
	gm_destroy(&gm);
}

/* ---- what is fetched ahead */

enum { WAIT_STEPS = 10000 }; /* of a millisecond */

static void wait_for_resident(const struct guest_memory *gm, u64 bytes)
{
	for (u32 i = 0; i < WAIT_STEPS && gm_resident(gm) < bytes; i++)
		usleep(1000);
	assert_int_equal(gm_resident(gm), bytes);
}

static void make_prefault(struct guest_memory *gm)
{
	gm->prefault = prefault_new();
	if (!gm->prefault)
		skip();
}

static void what_is_expected_is_there(void **state)
{
	struct guest_memory gm = make(8 * MiB);

	make_prefault(&gm);
	gm_expect(&gm, 2 * MiB + 1, MiB - 2); /* whole pages */
	wait_for_resident(&gm, MiB);
	gm_expect(&gm, 0, 9 * MiB); /* not all of it is RAM */
	gm_expect(&gm, ~0ull, 2);
	gm_expect(&gm, MiB, 0);
	gm_expect(&gm, 4 * MiB, 4 * MiB);
	wait_for_resident(&gm, 5 * MiB);
	prefault_settle(gm.prefault);
	assert_int_equal(gm_resident(&gm), 5 * MiB);
	for (u64 i = 0; i < 8 * MiB; i++)
		assert_int_equal(gm.map[i], 0);
	prefault_free(gm.prefault);
	gm_destroy(&gm);
}

/* After settling nothing is asked of the host any more: the pages may be anything then. */
static void settled_is_settled(void **state)
{
	struct guest_memory gm = make(512 * MiB);
	u64 resident;

	make_prefault(&gm);
	for (u32 i = 0; i < 100; i++) /* more than are kept */
		gm_expect(&gm, i * 5 * MiB, 5 * MiB);
	prefault_settle(gm.prefault);
	resident = gm_resident(&gm);
	usleep(20000);
	assert_int_equal(gm_resident(&gm), resident);
	assert_true(resident < 500 * MiB);
	gm_expect(&gm, 511 * MiB, MiB);
	wait_for_resident(&gm, resident + MiB);
	prefault_free(gm.prefault);
	gm_destroy(&gm);
}

static void nobody_asks(void **state)
{
	struct guest_memory gm = make(2 * MiB);

	gm_expect(&gm, 0, MiB);
	prefault_settle(gm.prefault);
	prefault_free(gm.prefault);
	assert_int_equal(gm_resident(&gm), 0);
	gm_destroy(&gm);
}

static void mappings_may_go(void **state)
{
	struct prefault *p = prefault_new();
	void *at;

	if (!p)
		skip();
	for (u32 i = 0; i < 200; i++) {
		at = mmap(NULL, 4 * MiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		assert_true(at != MAP_FAILED);
		prefault_ask(p, at, 4 * MiB, i % 2);
		if (i % 3 == 0)
			usleep(i);
		prefault_settle(p);
		munmap(at, 4 * MiB);
	}
	prefault_free(p);
}

#define SETTLERS 4

struct settlers {
	struct prefault *p;
	u8 *at;
	pthread_barrier_t together;
};

static void *settle_often(void *opaque)
{
	struct settlers *s = opaque;

	for (u32 i = 0; i < 300; i++) {
		prefault_ask(s->p, s->at, 4 * MiB, true);
		pthread_barrier_wait(&s->together);
		prefault_settle(s->p);
		pthread_barrier_wait(&s->together);
	}
	return NULL;
}

/* As vCPUs do that end together: each of them goes on. */
static void several_may_wait(void **state)
{
	struct settlers s = {.p = prefault_new()};
	pthread_t thread[SETTLERS];

	if (!s.p)
		skip();
	s.at = mmap(NULL, 4 * MiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(s.at != MAP_FAILED);
	pthread_barrier_init(&s.together, NULL, SETTLERS);
	for (u32 i = 0; i < SETTLERS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, settle_often, &s), 0);
	for (u32 i = 0; i < SETTLERS; i++)
		pthread_join(thread[i], NULL);
	pthread_barrier_destroy(&s.together);
	prefault_free(s.p);
	munmap(s.at, 4 * MiB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_checked),
		cmocka_unit_test(layout_around_the_hole),
		cmocka_unit_test(refuses_what_is_outside),
		cmocka_unit_test(copies_and_tells_the_observer),
		cmocka_unit_test(discarded_pages_read_as_zeroes),
		cmocka_unit_test(discards_nothing_but_ram),
		cmocka_unit_test(rom_is_not_written),
		cmocka_unit_test(what_is_expected_is_there),
		cmocka_unit_test(settled_is_settled),
		cmocka_unit_test(nobody_asks),
		cmocka_unit_test(mappings_may_go),
		cmocka_unit_test(several_may_wait),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
