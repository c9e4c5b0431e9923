/* SPDX-License-Identifier: Apache-2.0 */
/* The event loop: descriptors, timers in order, work from other threads. */
#include "base/clock.h"
#include "base/evloop.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cmocka.h>

static struct evloop *make(void)
{
	struct evloop *l;
	struct err e = {0};

	if (evloop_new(&l, &e) < 0)
		fail_msg("%s", e.msg);
	return l;
}

static void stop(void *opaque)
{
	evloop_stop(opaque);
}

#define TIMERS 200
struct timers {
	struct evloop *l;
	struct evtimer t[TIMERS];
	u64 last;
	u32 fired;
};

struct one {
	struct timers *all;
	u64 deadline;
} ones[TIMERS];

static void on_timer(void *opaque)
{
	struct one *o = opaque;

	assert_true(o->deadline >= o->all->last);
	assert_true(host_now_ns() >= o->deadline);
	o->all->last = o->deadline;
	o->all->fired++;
}

static void timers_fire_in_order(void **state)
{
	struct timers s = {.l = make()};
	struct evtimer end;
	u64 now = host_now_ns();

	srand(1);
	for (u32 i = 0; i < TIMERS; i++) {
		ones[i] = (struct one){&s, now + (u64)(rand() % 20000) * 1000};
		timer_init(&s.t[i], s.l, on_timer, &ones[i]);
		timer_arm(&s.t[i], now + NS_PER_SEC);
		timer_arm(&s.t[i], ones[i].deadline);
	}
	for (u32 i = 0; i < TIMERS; i += 4)
		timer_disarm(&s.t[i]);
	timer_init(&end, s.l, stop, s.l);
	timer_arm(&end, now + 25000000);
	evloop_run(s.l);
	assert_int_equal(s.fired, TIMERS - TIMERS / 4);
	timer_disarm(&end);
	evloop_free(s.l);
}

struct again {
	struct evloop *l;
	struct evtimer t;
	u32 count;
	int fd;
};

static void rearm_in_the_past(void *opaque)
{
	struct again *a = opaque;

	a->count++;
	timer_arm(&a->t, 1);
}

static void on_readable(void *opaque, u32 events)
{
	struct again *a = opaque;

	assert_true(events & EPOLLIN);
	evloop_del_fd(a->l, a->fd);
	evloop_stop(a->l);
}

static void a_busy_timer_does_not_starve_descriptors(void **state)
{
	struct again a = {.l = make()};
	struct err e = {0};
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	a.fd = fds[0];
	assert_int_equal(evloop_add_fd(a.l, fds[0], EPOLLIN, on_readable, &a, &e), 0);
	timer_init(&a.t, a.l, rearm_in_the_past, &a);
	timer_arm(&a.t, 0);
	assert_int_equal(write(fds[1], "x", 1), 1);
	alarm(10);
	evloop_run(a.l);
	alarm(0);
	close(fds[0]);
	close(fds[1]);
	evloop_free(a.l);
}

#define POSTS 20000
struct posts {
	struct evloop *l;
	u32 seen;
};

static void on_post(void *opaque)
{
	struct posts *p = opaque;

	if (++p->seen == 2 * POSTS)
		evloop_stop(p->l);
}

static void *poster(void *opaque)
{
	struct posts *p = opaque;

	for (u32 i = 0; i < POSTS; i++)
		evloop_post(p->l, on_post, p);
	return NULL;
}

static void posts_from_threads_all_arrive(void **state)
{
	struct posts p = {.l = make()};
	pthread_t t[2];

	for (u32 i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, poster, &p);
	alarm(20);
	evloop_run(p.l);
	alarm(0);
	for (u32 i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(p.seen, 2 * POSTS);
	evloop_free(p.l);
}

static void *arm_early(void *opaque)
{
	usleep(5000);
	timer_arm(opaque, host_now_ns() + 1000000);
	return NULL;
}

static void a_timer_armed_elsewhere_wakes_the_loop(void **state)
{
	struct evloop *l = make();
	struct evtimer late, early;
	pthread_t t;
	u64 start = host_now_ns();

	timer_init(&late, l, stop, l);
	timer_init(&early, l, stop, l);
	timer_arm(&late, start + 10 * NS_PER_SEC);
	pthread_create(&t, NULL, arm_early, &early);
	evloop_run(l);
	pthread_join(t, NULL);
	assert_true(host_now_ns() - start < 5 * NS_PER_SEC);
	evloop_free(l);
}

static int count_waits(void *opaque)
{
	struct again *a = opaque;

	if (++a->count == 5)
		evloop_stop(a->l);
	return 1;
}

static void prepare_limits_the_wait(void **state)
{
	struct again a = {.l = make()};

	evloop_add_prepare(a.l, count_waits, &a);
	evloop_run(a.l);
	assert_int_equal(a.count, 5);
	evloop_del_prepare(a.l, &a);
	evloop_post(a.l, stop, a.l);
	evloop_run(a.l);
	assert_int_equal(a.count, 5);
	evloop_free(a.l);
}

static void bad_descriptors_are_refused(void **state)
{
	struct evloop *l = make();
	struct err e = {0};

	assert_true(evloop_add_fd(l, -1, EPOLLIN, on_readable, NULL, &e) < 0);
	assert_true(evloop_add_fd(l, 987, EPOLLIN, on_readable, NULL, &e) < 0);
	evloop_del_fd(l, 987);
	evloop_del_fd(l, -1);
	evloop_mod_fd(l, 100000, EPOLLIN);
	evloop_free(l);
	evloop_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(timers_fire_in_order),		 cmocka_unit_test(a_busy_timer_does_not_starve_descriptors),
		cmocka_unit_test(posts_from_threads_all_arrive), cmocka_unit_test(a_timer_armed_elsewhere_wakes_the_loop),
		cmocka_unit_test(prepare_limits_the_wait),	 cmocka_unit_test(bad_descriptors_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
