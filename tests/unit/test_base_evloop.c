/* SPDX-License-Identifier: Apache-2.0 */
/* The event loop: descriptors, timers in order, work from other threads. */
#include "base/clock.h"
#include "base/evloop.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
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

/* How often the loop's eventfd was written. */
static unsigned long wakes(void)
{
	char path[64], line[128];
	unsigned long count = 0;

	for (int fd = 0; fd < 64; fd++) {
		FILE *f;

		snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
		f = fopen(path, "re");
		while (f && fgets(line, sizeof(line), f))
			if (!strncmp(line, "eventfd-count:", 14))
				count += strtoul(line + 14, NULL, 16);
		if (f)
			fclose(f);
	}
	return count;
}

struct chain {
	struct evloop *l;
	struct evtimer timer;
	u32 posts;
	unsigned long wakes;
};

static void *post_once(void *opaque)
{
	struct chain *c = opaque;

	evloop_post(c->l, stop, c->l);
	return NULL;
}

static void post_from_a_thread(void *opaque)
{
	struct chain *c = opaque;
	unsigned long before = wakes();
	pthread_t t;

	pthread_create(&t, NULL, post_once, c);
	pthread_join(t, NULL);
	c->wakes = wakes() - before;
}

static void an_awake_loop_is_not_woken(void **state)
{
	struct chain c = {.l = make(), .wakes = 1};

	evloop_post(c.l, post_from_a_thread, &c);
	assert_int_equal(wakes(), 0);
	alarm(10);
	evloop_run(c.l);
	alarm(0);
	assert_int_equal(c.wakes, 0);
	evloop_free(c.l);
}

/* A timer that is due must run though there is posted work at every turn. */
static void post_again(void *opaque)
{
	struct chain *c = opaque;

	if (!c->posts++)
		timer_arm(&c->timer, host_now_ns() + 1000000);
	evloop_post(c->l, post_again, c);
}

static void posted_work_does_not_starve_timers(void **state)
{
	struct chain c = {.l = make()};

	timer_init(&c.timer, c.l, stop, c.l);
	evloop_post(c.l, post_again, &c);
	alarm(10);
	evloop_run(c.l);
	alarm(0);
	assert_true(c.posts > 1);
	evloop_free(c.l);
}

#define TURNS 20000
struct turns {
	struct evloop *l;
	struct evtimer timer;
	_Atomic u32 answered;
};

static void answer(void *opaque)
{
	struct turns *t = opaque;

	t->answered++;
}

/* Asks when the loop has answered: just before, while or after it falls asleep. A lost wake-up is an answer that never comes. */
static void *ask(void *opaque)
{
	struct turns *t = opaque;

	for (u32 i = 0; i < TURNS; i++) {
		if (i % 4 == 3)
			timer_arm(&t->timer, host_now_ns() + i % 7 * 1000);
		else
			evloop_post(t->l, answer, t);
		while (t->answered == i)
			sched_yield();
		for (volatile u32 k = 0; k < i % 512; k++)
			;
	}
	evloop_stop(t->l);
	return NULL;
}

static void no_wake_up_is_lost(void **state)
{
	struct turns t = {.l = make()};
	pthread_t thread;

	timer_init(&t.timer, t.l, answer, &t);
	pthread_create(&thread, NULL, ask, &t);
	alarm(60);
	evloop_run(t.l);
	alarm(0);
	pthread_join(thread, NULL);
	assert_int_equal(t.answered, TURNS);
	evloop_free(t.l);
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

struct lateness {
	struct evloop *l;
	u32 told, fired;
};

static void on_late(void *opaque)
{
	struct lateness *s = opaque;

	assert_int_equal(s->fired, s->told ? 2 : 0); /* before any timer of this turn */
	s->told++;
}

static void on_fired(void *opaque)
{
	struct lateness *s = opaque;

	if (++s->fired == 3)
		evloop_stop(s->l);
}

static void a_standstill_is_told_before_timers(void **state)
{
	struct lateness s = {.l = make()};
	struct evtimer t[3];
	u64 now = host_now_ns();

	evloop_watch_late(s.l, NS_PER_SEC, on_late, &s);
	for (u32 i = 0; i < 3; i++)
		timer_init(&t[i], s.l, on_fired, &s);
	timer_arm(&t[0], now - 2 * NS_PER_SEC);
	timer_arm(&t[1], now - NS_PER_SEC);
	timer_arm(&t[2], now + 10000000);
	evloop_run(s.l);
	assert_int_equal(s.told, 1); /* not for the third, which is in time */
	evloop_free(s.l);
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
		cmocka_unit_test(timers_fire_in_order),
		cmocka_unit_test(a_busy_timer_does_not_starve_descriptors),
		cmocka_unit_test(posts_from_threads_all_arrive),
		cmocka_unit_test(an_awake_loop_is_not_woken),
		cmocka_unit_test(posted_work_does_not_starve_timers),
		cmocka_unit_test(no_wake_up_is_lost),
		cmocka_unit_test(a_timer_armed_elsewhere_wakes_the_loop),
		cmocka_unit_test(prepare_limits_the_wait),
		cmocka_unit_test(a_standstill_is_told_before_timers),
		cmocka_unit_test(bad_descriptors_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
