/* SPDX-License-Identifier: Apache-2.0 */
/* virtio balloon: pages that go back to the host, and those that must not; requests that make no sense; statistics; the target. */
#include "virtio_guest.h"

#include "virtio/balloon.h"

#define PAGES 64u
#define LIST (48 * MiB)
#define PATTERN 0xa5
#define BIT(f) VIRTIO_BIT(VIRTIO_BALLOON_F_##f)

struct world {
	struct guest g;
	struct guest_queue *inflate, *deflate, *stats, *report;
	u64 pages, list;	  /* PAGES that hold a pattern, aligned to as much; where page numbers are written */
	u64 seen_first, seen_end; /* what the observer of guest memory was told of the pages: one range over all */
};

static void observe(void *opaque, gpa_t gpa, u64 len)
{
	struct world *w = opaque;

	if (gpa + len <= w->pages || gpa >= w->pages + PAGES * PAGE_SIZE)
		return;
	if (gpa < w->seen_first)
		w->seen_first = gpa;
	if (gpa + len > w->seen_end)
		w->seen_end = gpa + len;
}

static void refill(struct world *w)
{
	memset(g_ptr(&w->g, w->pages), PATTERN, PAGES * PAGE_SIZE);
	w->seen_first = ~0ull;
	w->seen_end = 0;
}

static struct world *start(const char *option)
{
	struct world *w = calloc(1, sizeof(*w));

	g_board(&w->g, 1);
	g_start(&w->g, "vballoon", option);
	w->g.heap = (w->g.heap + PAGES * PAGE_SIZE - 1) & ~(u64)(PAGES * PAGE_SIZE - 1);
	w->pages = g_alloc(&w->g, PAGES * PAGE_SIZE);
	w->list = LIST;
	memset(g_ptr(&w->g, LIST), 0, 2 * MiB);
	w->g.mem.written = observe;
	w->g.mem.written_opaque = w;
	refill(w);
	return w;
}

static int setup(void **state)
{
	*state = start("on");
	return 0;
}

static int setup_stats(void **state)
{
	*state = start("stats=1");
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	g_stop(&w->g);
	free(w);
	return 0;
}

static struct virtio_balloon *balloon(struct world *w)
{
	return container_of(w->g.dev, struct virtio_balloon, vd.dev);
}

static void driver(struct world *w, u64 features, u16 report)
{
	g_negotiate(&w->g, features);
	w->inflate = g_queue(&w->g, 0, 64);
	w->deflate = g_queue(&w->g, 1, 64);
	if (features & g_offered(&w->g) & BIT(STATS_VQ))
		w->stats = g_queue(&w->g, 2, 64);
	w->report = g_queue(&w->g, report, 64);
	g_driver_ok(&w->g);
}

static struct vring_used_elem request(struct world *w, struct guest_queue *q, const struct guest_buf *buf, u32 n)
{
	gq_add(&w->g, q, buf, n);
	gq_kick(&w->g, q);
	return gq_wait(&w->g, q);
}

/* Numbers relative to the first page. */
static void give(struct world *w, struct guest_queue *q, const u32 *page, u32 n)
{
	struct guest_buf buf = {w->list, 4 * n, false};
	u32 *list = g_ptr(&w->g, w->list);

	for (u32 i = 0; i < n; i++)
		list[i] = (u32)(w->pages / PAGE_SIZE) + page[i];
	assert_int_equal(request(w, q, &buf, 1).len, 0);
}

static void report_range(struct world *w, u64 off, u32 len)
{
	struct guest_buf buf = {w->pages + off, len, true};

	assert_int_equal(request(w, w->report, &buf, 1).len, 0);
}

/* Exactly the bytes of these ranges, of the first page to the last, are zeroes. */
static void check_zeroes(struct world *w, const u64 (*range)[2], u32 n)
{
	const u8 *p = g_ptr(&w->g, w->pages);

	for (u64 at = 0; at < PAGES * PAGE_SIZE; at++) {
		bool zero = false;

		for (u32 i = 0; i < n; i++)
			zero |= at >= range[i][0] && at < range[i][1];
		if (p[at] != (zero ? 0 : PATTERN))
			fail_msg("byte %#llx is %#x", (unsigned long long)at, p[at]);
	}
}

#define ZERO_PAGES(w_, ...)                                                                                                                \
	do {                                                                                                                               \
		static const u64 page_[][2] = {__VA_ARGS__};                                                                               \
		u64 range_[ARRAY_SIZE(page_)][2];                                                                                          \
		for (u32 i_ = 0; i_ < ARRAY_SIZE(page_); i_++) {                                                                           \
			range_[i_][0] = page_[i_][0] * PAGE_SIZE;                                                                          \
			range_[i_][1] = page_[i_][1] * PAGE_SIZE;                                                                          \
		}                                                                                                                          \
		check_zeroes(w_, (const u64(*)[2])range_, ARRAY_SIZE(page_));                                                              \
	} while (0)

static void check_untouched(struct world *w)
{
	check_zeroes(w, NULL, 0);
	assert_int_equal(w->seen_end, 0);
}

static void expect_breach(struct world *w)
{
	g_wait_status(&w->g, VIRTIO_CONFIG_S_NEEDS_RESET);
	check_untouched(w);
}

/* ---- */

static void inflated_pages_go_back(void **state)
{
	static const u32 up[] = {3, 4, 5, 6}, down[] = {20, 19, 18}, mixed[] = {40, 30, 31, 29, 63, 0, 40}, none[] = {0};
	struct world *w = *state;
	u64 before, inflated = balloon(w)->inflated;

	driver(w, ~0ull, 4);
	before = gm_resident(&w->g.mem);
	give(w, w->inflate, up, ARRAY_SIZE(up));
	assert_int_equal(gm_resident(&w->g.mem), before - 4 * PAGE_SIZE);
	ZERO_PAGES(w, {3, 7});
	assert_int_equal(w->seen_first, w->pages + 3 * PAGE_SIZE);
	assert_int_equal(w->seen_end, w->pages + 7 * PAGE_SIZE);
	give(w, w->inflate, down, ARRAY_SIZE(down));
	give(w, w->inflate, mixed, ARRAY_SIZE(mixed));
	give(w, w->inflate, none, 0);
	ZERO_PAGES(w, {0, 1}, {3, 7}, {18, 21}, {29, 32}, {40, 41}, {63, 64});
	assert_int_equal(balloon(w)->inflated, inflated + 14);
	refill(w);
	give(w, w->deflate, up, ARRAY_SIZE(up));
	check_untouched(w);
	assert_int_equal(balloon(w)->deflated, 4);
}

/* Buffers may be cut anywhere, also within a number. */
static void a_list_in_pieces(void **state)
{
	struct world *w = *state;
	u32 first = (u32)(w->pages / PAGE_SIZE), list[3] = {first + 1, first + 2, first + 3};
	struct guest_buf buf[] = {{w->list, 3, false}, {w->list + 100, 0, false}, {w->list + 200, 4, false}, {w->list + 300, 5, false}};

	driver(w, ~0ull, 4);
	memcpy(g_ptr(&w->g, w->list), list, 3);
	memcpy(g_ptr(&w->g, w->list + 200), (u8 *)list + 3, 4);
	memcpy(g_ptr(&w->g, w->list + 300), (u8 *)list + 7, 5);
	assert_int_equal(request(w, w->inflate, buf, ARRAY_SIZE(buf)).len, 0);
	ZERO_PAGES(w, {1, 4});
}

/* More than is done at once. */
static void long_requests(void **state)
{
	struct world *w = *state;
	struct guest_buf list = {w->list, 4 * 100000, false}, one = {w->list + 4 * 99999, 4, false},
			 large[] = {{4 * MiB, 5 * MiB, true}, {10 * MiB, 1 * MiB, true}, {12 * MiB, 3 * MiB - 5, true}};
	u32 *numbers = g_ptr(&w->g, w->list);

	driver(w, ~0ull & ~BIT(PAGE_POISON), 4);
	for (u32 i = 0; i < 100000; i++)
		numbers[i] = (u32)(w->pages / PAGE_SIZE) + (i < 99999 ? 1 : 2);
	assert_int_equal(request(w, w->inflate, &list, 1).len, 0);
	ZERO_PAGES(w, {1, 3});
	refill(w);
	for (u32 i = 0; i < 30; i++)
		gq_add(&w->g, w->inflate, &one, 1);
	gq_kick(&w->g, w->inflate);
	for (u32 i = 0; i < 30; i++)
		gq_wait(&w->g, w->inflate);
	ZERO_PAGES(w, {2, 3});
	memset(g_ptr(&w->g, 4 * MiB), PATTERN, 12 * MiB);
	assert_int_equal(request(w, w->report, large, ARRAY_SIZE(large)).len, 0);
	for (u64 at = 4 * MiB; at < 16 * MiB; at += PAGE_SIZE) {
		bool given = at < 9 * MiB || (at >= 10 * MiB && at < 11 * MiB) || (at >= 12 * MiB && at < 15 * MiB - PAGE_SIZE);

		assert_int_equal(*(u8 *)g_ptr(&w->g, at), given ? 0 : PATTERN);
	}
}

/* A reset in the middle of a request: it is never answered, and the next driver's are. */
static void reset_within_a_request(void **state)
{
	struct world *w = *state;
	struct guest_buf list = {w->list, 2 * MiB, false};

	for (u32 i = 0; i < 20; i++) {
		driver(w, ~0ull, 4);
		for (u32 k = 0; k < 2 * MiB / 4; k++)
			((u32 *)g_ptr(&w->g, w->list))[k] = (u32)(w->pages / PAGE_SIZE) + k % PAGES;
		gq_add(&w->g, w->inflate, &list, 1);
		gq_kick(&w->g, w->inflate);
		for (u32 k = 0; k < i % 4; k++)
			g_nap();
		g_reset(&w->g);
		w->g.heap = LIST / 2; /* rings anew */
	}
	refill(w);
	inflated_pages_go_back(state);
}

static void hostile_lists(void **state)
{
	static const u32 bad[] = {(u32)(G_RAM / PAGE_SIZE), 0xc0000, 0xfffff, 0x100000, ~0u, ~0u - 1};
	struct world *w = *state;

	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		for (u16 queue = 0; queue < 2; queue++) {
			struct guest_buf buf = {w->list, 12, false};
			u32 *list = g_ptr(&w->g, w->list);

			driver(w, ~0ull, 4);
			list[0] = list[2] = (u32)(w->pages / PAGE_SIZE);
			list[1] = bad[i];
			gq_add(&w->g, queue ? w->deflate : w->inflate, &buf, 1);
			gq_kick(&w->g, queue ? w->deflate : w->inflate);
			expect_breach(w);
		}
	}
	driver(w, ~0ull, 4);
	gq_add(&w->g, w->inflate, &(struct guest_buf){w->list, 7, false}, 1);
	gq_kick(&w->g, w->inflate);
	expect_breach(w);
	inflated_pages_go_back(state);
}

/* Buffers for the other direction hold no list and are no pages. */
static void wrong_directions(void **state)
{
	struct world *w = *state;
	struct guest_buf buf = {w->pages, 4096, true};

	driver(w, ~0ull, 4);
	assert_int_equal(request(w, w->inflate, &buf, 1).len, 0);
	buf.write = false;
	assert_int_equal(request(w, w->report, &buf, 1).len, 0);
	check_untouched(w);
	assert_int_equal(balloon(w)->inflated, 0);
	assert_int_equal(balloon(w)->reported, 0);
}

static void reported_pages_go_back(void **state)
{
	struct world *w = *state;
	struct guest_buf several[] = {{w->pages + 10 * PAGE_SIZE, 2 * PAGE_SIZE, true},
				      {w->pages + 50 * PAGE_SIZE, PAGE_SIZE, true},
				      {w->pages + 11 * PAGE_SIZE, 3 * PAGE_SIZE, true}};
	u64 before;

	driver(w, ~0ull & ~BIT(PAGE_POISON), 4);
	before = gm_resident(&w->g.mem);
	assert_int_equal(request(w, w->report, several, ARRAY_SIZE(several)).len, 0);
	assert_int_equal(gm_resident(&w->g.mem), before - 5 * PAGE_SIZE);
	ZERO_PAGES(w, {10, 14}, {50, 51});
	assert_int_equal(balloon(w)->reported, 6 * PAGE_SIZE);
	assert_int_equal(balloon(w)->returned, 5 * PAGE_SIZE);
	assert_int_equal(w->seen_first, w->pages + 10 * PAGE_SIZE);
	assert_int_equal(w->seen_end, w->pages + 51 * PAGE_SIZE);
}

static void only_whole_pages_of_a_report(void **state)
{
	struct world *w = *state;

	driver(w, ~0ull & ~BIT(PAGE_POISON), 4);
	report_range(w, 0, 0);
	report_range(w, 0, 4095);
	report_range(w, 1, 4096);
	report_range(w, 100, 8000);
	check_untouched(w);
	report_range(w, 2 * PAGE_SIZE - 1, 3 * PAGE_SIZE);
	ZERO_PAGES(w, {2, 4});
	report_range(w, PAGES * PAGE_SIZE - PAGE_SIZE - 5, PAGE_SIZE + 5);
	ZERO_PAGES(w, {2, 4}, {63, 64});
}

static void set_poison(struct world *w, u32 value)
{
	g_write(&w->g, G_CONFIG + offsetof(struct virtio_balloon_config, poison_val), 4, value);
}

/* Up to the poison value, which comes before DRIVER_OK. */
static void poisoned_driver(struct world *w, u64 features, u32 value)
{
	g_negotiate(&w->g, features);
	w->inflate = g_queue(&w->g, 0, 64);
	w->report = g_queue(&w->g, 4, 64);
	set_poison(w, value);
	g_driver_ok(&w->g);
}

static void poison_stays(void **state)
{
	static const u32 page = 5;
	struct world *w = *state;

	for (u32 i = 0; i < 4; i++) {
		poisoned_driver(w, ~0ull, 1u << 8 * i);
		report_range(w, 0, 4 * PAGE_SIZE);
		check_untouched(w);
	}
	give(w, w->inflate, &page, 1);
	ZERO_PAGES(w, {5, 6});
	poisoned_driver(w, ~0ull, 0);
	report_range(w, 0, PAGE_SIZE);
	ZERO_PAGES(w, {0, 1}, {5, 6});
	poisoned_driver(w, ~0ull & ~BIT(PAGE_POISON), 0xaaaaaaaa); /* not negotiated: no promise was made */
	report_range(w, PAGE_SIZE, PAGE_SIZE);
	ZERO_PAGES(w, {0, 2}, {5, 6});
	poisoned_driver(w, ~0ull, 0xaaaaaaaa);
	driver(w, ~0ull, 4); /* the reset has forgotten it */
	report_range(w, 2 * PAGE_SIZE, PAGE_SIZE);
	ZERO_PAGES(w, {0, 3}, {5, 6});
}

/* Where Linux and the specification look for it. */
static void numbers_of_the_reporting_queue(void **state)
{
	struct world *w = *state;

	for (u16 i = 2; i < 5; i++) {
		driver(w, ~0ull & ~BIT(PAGE_POISON), i);
		report_range(w, i * PAGE_SIZE, PAGE_SIZE);
	}
	ZERO_PAGES(w, {2, 5});
	refill(w);
	for (u16 i = 2; i < 5; i++) {
		driver(w, ~0ull & ~BIT(REPORTING), i);
		gq_add(&w->g, w->report, &(struct guest_buf){w->pages, PAGE_SIZE, true}, 1);
		gq_kick(&w->g, w->report);
		expect_breach(w);
	}
}

static u32 config(struct world *w, u32 off)
{
	return (u32)g_read(&w->g, G_CONFIG + off, 4);
}

static void configuration(void **state)
{
	struct world *w = *state;

	driver(w, ~0ull, 4);
	assert_int_equal(g_offered(&w->g) & 0xff, BIT(DEFLATE_ON_OOM) | BIT(PAGE_POISON) | BIT(REPORTING));
	for (u32 off = 0; off < sizeof(struct virtio_balloon_config); off += 4)
		g_write(&w->g, G_CONFIG + off, 4, 0x11111111 + off);
	assert_int_equal(config(w, 0), 0);
	assert_int_equal(config(w, 4), 0x11111115);
	assert_int_equal(config(w, 8), 0);
	assert_int_equal(config(w, 12), 0x1111111d);
	g_write(&w->g, G_CONFIG + 5, 1, 0x22);
	assert_int_equal(config(w, 4), 0x11112215);
	g_reset(&w->g);
	assert_int_equal(config(w, 4), 0);
	assert_int_equal(config(w, 12), 0);
}

static void the_target_changes(void **state)
{
	struct world *w = *state;
	u8 generation;
	u32 msis;

	balloon_set_target(balloon(w), 4 * MiB);
	assert_int_equal(config(w, 0), 1024);
	driver(w, ~0ull, 4);
	generation = (u8)g_read(&w->g, VIRTIO_PCI_COMMON_CFGGENERATION, 1);
	msis = g_msis(&w->g, 0);
	balloon_set_target(balloon(w), 6 * MiB);
	assert_int_equal(config(w, 0), 1536);
	assert_int_equal(g_msis(&w->g, 0), msis + 1);
	assert_int_not_equal(g_read(&w->g, VIRTIO_PCI_COMMON_CFGGENERATION, 1), generation);
	w->g.dev->cls->reset(w->g.dev);
	assert_int_equal(balloon(w)->config.num_pages, 1536); /* the host's wish, not the guest's state */
}

/* ---- statistics */

static u32 put_stats(struct world *w, const struct virtio_balloon_stat *s, u32 n)
{
	memcpy(g_ptr(&w->g, w->list), s, n * sizeof(*s));
	return n * (u32)sizeof(*s);
}

static void answer(struct world *w, u32 len)
{
	gq_add(&w->g, w->stats, &(struct guest_buf){w->list, len, false}, 1);
	gq_kick(&w->g, w->stats);
}

static void await(struct world *w, u32 tag, u64 value)
{
	u64 end = host_now_ns() + G_WAIT_NS, told;

	while ((told = __atomic_load_n(&balloon(w)->stats.values[tag], __ATOMIC_RELAXED)) != value) {
		if (host_now_ns() > end)
			fail_msg("statistic %u is %llu", tag, (unsigned long long)told);
		g_nap();
	}
}

static void statistics(void **state)
{
	static const struct virtio_balloon_stat first[] = {{VIRTIO_BALLOON_S_AVAIL, 5},
							   {77, 1},
							   {0xffff, 2},
							   {VIRTIO_BALLOON_S_MEMFREE, ~0ull}},
						second[] = {{VIRTIO_BALLOON_S_MEMFREE, 9}};
	struct world *w = *state;

	assert_true(g_offered(&w->g) & BIT(STATS_VQ));
	driver(w, ~0ull & ~BIT(PAGE_POISON), 3);
	answer(w, put_stats(w, first, ARRAY_SIZE(first)) + 9); /* and a part of an entry */
	await(w, VIRTIO_BALLOON_S_AVAIL, 5);
	await(w, VIRTIO_BALLOON_S_MEMFREE, ~0ull);
	assert_false(gq_done(&w->g, w->stats));
	assert_int_equal(gq_wait(&w->g, w->stats).len, 0); /* a second later: asked again */
	answer(w, put_stats(w, second, ARRAY_SIZE(second)));
	await(w, VIRTIO_BALLOON_S_MEMFREE, 9);
	report_range(w, 0, PAGE_SIZE); /* queue 3 still reports */
	ZERO_PAGES(w, {0, 1});
}

static void hostile_statistics(void **state)
{
	struct world *w = *state;

	driver(w, ~0ull, 4);
	answer(w, 0);
	answer(w, 10);
	expect_breach(w);
	driver(w, ~0ull, 4); /* while a buffer is held */
	answer(w, 5000);
	assert_int_equal(gq_wait(&w->g, w->stats).len, 0);
	assert_false(g_status(&w->g) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

/* A saved machine holds a buffer as one that was taken. Loading is the main thread's affair, which is the event loop's. */
static void save_and_load(void *opaque)
{
	struct world *w = opaque;

	__atomic_store_n(&balloon(w)->vd.running, false, __ATOMIC_SEQ_CST);
	balloon(w)->task[BALLOON_STATSQ].r = NULL;
	w->g.dev->cls->loaded(w->g.dev);
}

static void statistics_of_a_saved_machine(void **state)
{
	static const struct virtio_balloon_stat s = {VIRTIO_BALLOON_S_MEMTOT, 3};
	struct world *w = *state;

	driver(w, ~0ull, 4);
	answer(w, put_stats(w, &s, 1));
	await(w, VIRTIO_BALLOON_S_MEMTOT, 3);
	put_stats(w, &(struct virtio_balloon_stat){VIRTIO_BALLOON_S_MEMTOT, 4}, 1);
	evloop_post(w->g.env.loop, save_and_load, w);
	await(w, VIRTIO_BALLOON_S_MEMTOT, 4);
	assert_int_equal(gq_wait(&w->g, w->stats).len, 0);
}

/* ---- options */

static void options(void **state)
{
	static const char *const bad[] = {"target=64M",	   "target=65M",  "target=1T", "target=6K",
					  "off,target=4M", "off,stats=3", "stats=0",   "stats=86401"};
	struct err e;
	struct guest g;

	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		g_board(&g, 1);
		assert_int_equal(g_create(&g, "vballoon", bad[i], &e), -EINVAL);
		assert_non_null(strstr(e.msg, "--balloon"));
		g_stop(&g);
	}
	g_board(&g, 1);
	assert_int_equal(g_create(&g, "vballoon", "off", &e), 0);
	assert_null(g.dev);
	assert_int_equal(g_create(&g, "vballoon", "target=16M,stats=86400", &e), 0);
	assert_int_equal(container_of(g.dev, struct virtio_balloon, vd.dev)->config.num_pages, 4096);
	g_stop(&g);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define S(f) cmocka_unit_test_setup_teardown(f, setup_stats, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(inflated_pages_go_back),
		T(a_list_in_pieces),
		T(long_requests),
		T(reset_within_a_request),
		T(hostile_lists),
		T(wrong_directions),
		T(reported_pages_go_back),
		T(only_whole_pages_of_a_report),
		T(poison_stays),
		T(numbers_of_the_reporting_queue),
		T(configuration),
		T(the_target_changes),
		S(statistics),
		S(hostile_statistics),
		S(statistics_of_a_saved_machine),
		cmocka_unit_test(options),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
