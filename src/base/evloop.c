/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop: epoll, one timerfd behind a binary heap, one eventfd for posted work.
 *
 * Threading: `lock` guards the heap, the list of posted work and `asleep`; callbacks run without it.
 *
 * Other threads make system calls for a loop that sleeps only. Under the lock the loop looks for work, sets the timerfd and declares
 * itself asleep, all at once; under the same lock a thread adds its work and sees whether the loop sleeps. So either the loop finds the
 * work before its wait, or the thread finds the loop asleep and ends the wait. The timerfd is only set to an earlier time than it
 * already holds: a deadline that moved away costs one idle wake-up instead of a system call on every change.
 */
#include "base/evloop.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define EVENTS_PER_WAIT 32
#define NEVER UINT64_MAX

struct watch {
	evloop_fd_fn fn; /* NULL: unused */
	void *opaque;
	u32 generation; /* events that epoll reported before a del and add of the same number are not delivered */
};

struct work {
	void (*fn)(void *opaque);
	void *opaque;
};

struct prepare {
	evloop_prepare_fn fn;
	void *opaque;
};

struct evloop {
	int epoll_fd, timer_fd, wake_fd;
	_Atomic bool stop;

	struct watch *watches; /* indexed by descriptor */
	u32 nwatches;
	struct prepare *prepares;
	u32 nprepares;

	pthread_mutex_t lock;
	struct evtimer **heap; /* from 1 */
	u32 nheap, heap_room;
	u64 late_ns; /* for late_fn, NULL: nobody wants to know */
	void (*late_fn)(void *opaque);
	void *late_opaque;
	u64 timer_set_to;	       /* what the timerfd holds, NEVER when idle */
	struct work *posted, *running; /* two arrays that change places; `running` is the loop's own */
	u32 nposted, posted_room, running_room;
	bool asleep; /* the loop waits, or goes to without looking at heap and posted work again, and nobody has begun to wake it */
};

/* Make room for one more of `size` bytes each. */
static bool grow(void *array, u32 *room, u32 used, size_t size)
{
	void **p = array;
	u32 more = *room ? *room * 2 : 16;
	void *bigger;

	if (used < *room)
		return true;
	bigger = realloc(*p, more * size);
	if (!bigger)
		return false;
	*p = bigger;
	*room = more;
	return true;
}

/* Both descriptors are edge-triggered, so that nobody has to read them: each write to the eventfd and each expiry is a new edge. */
static void woken(void *opaque, u32 events)
{
}

static int open_fds(struct evloop *l, struct err *e)
{
	int r;

	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll_fd < 0)
		return err_sys(e, errno, "event loop: cannot create an epoll descriptor");
	l->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (l->timer_fd < 0)
		return err_sys(e, errno, "event loop: cannot create a timer descriptor");
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->wake_fd < 0)
		return err_sys(e, errno, "event loop: cannot create an event descriptor");
	r = evloop_add_fd(l, l->timer_fd, EPOLLIN | EPOLLET, woken, l, e);
	return r < 0 ? r : evloop_add_fd(l, l->wake_fd, EPOLLIN | EPOLLET, woken, l, e);
}

int evloop_new(struct evloop **out, struct err *e)
{
	struct evloop *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return err_sys(e, ENOMEM, "event loop");
	l->epoll_fd = l->timer_fd = l->wake_fd = -1;
	l->timer_set_to = NEVER;
	pthread_mutex_init(&l->lock, NULL);
	r = open_fds(l, e);
	if (r < 0) {
		evloop_free(l);
		return r;
	}
	*out = l;
	return 0;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void evloop_free(struct evloop *l)
{
	if (!l)
		return;
	close_fd(l->epoll_fd);
	close_fd(l->timer_fd);
	close_fd(l->wake_fd);
	pthread_mutex_destroy(&l->lock);
	free(l->watches);
	free(l->prepares);
	free(l->heap);
	free(l->posted);
	free(l->running);
	free(l);
}

static void wake(struct evloop *l)
{
	u64 one = 1;
	/* It would take centuries to fill the counter. */
	ssize_t ignored = write(l->wake_fd, &one, sizeof(one));

	(void)ignored;
}

void evloop_stop(struct evloop *l)
{
	l->stop = true;
	wake(l);
}

/* ---- descriptors ---- */

static bool watch_room(struct evloop *l, int fd)
{
	u32 want = (u32)fd + 16;
	struct watch *w;

	if ((u32)fd < l->nwatches)
		return true;
	w = realloc(l->watches, want * sizeof(*w));
	if (!w)
		return false;
	memset(w + l->nwatches, 0, (want - l->nwatches) * sizeof(*w));
	l->watches = w;
	l->nwatches = want;
	return true;
}

static struct epoll_event event_of(const struct evloop *l, int fd, u32 events)
{
	return (struct epoll_event){.events = events, .data.u64 = (u64)l->watches[fd].generation << 32 | (u32)fd};
}

int evloop_add_fd(struct evloop *l, int fd, u32 events, evloop_fd_fn fn, void *opaque, struct err *e)
{
	struct epoll_event ev;

	if (fd < 0 || !watch_room(l, fd))
		return err_sys(e, fd < 0 ? EBADF : ENOMEM, "event loop: cannot watch descriptor %d", fd);
	l->watches[fd].generation++;
	ev = event_of(l, fd, events);
	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
		return err_sys(e, errno, "event loop: cannot watch descriptor %d", fd);
	l->watches[fd].fn = fn;
	l->watches[fd].opaque = opaque;
	return 0;
}

static bool watched(const struct evloop *l, int fd)
{
	return fd >= 0 && (u32)fd < l->nwatches && l->watches[fd].fn;
}

void evloop_mod_fd(struct evloop *l, int fd, u32 events)
{
	struct epoll_event ev;

	if (!watched(l, fd))
		return;
	ev = event_of(l, fd, events);
	epoll_ctl(l->epoll_fd, EPOLL_CTL_MOD, fd, &ev);
}

void evloop_del_fd(struct evloop *l, int fd)
{
	if (!watched(l, fd))
		return;
	epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
	l->watches[fd].fn = NULL;
}

static void dispatch(struct evloop *l, const struct epoll_event *ev)
{
	u32 fd = (u32)ev->data.u64;
	struct watch w = fd < l->nwatches ? l->watches[fd] : (struct watch){0};

	if (w.fn && w.generation == (u32)(ev->data.u64 >> 32))
		w.fn(w.opaque, ev->events);
}

/* ---- work from other threads ---- */

void evloop_post(struct evloop *l, void (*fn)(void *opaque), void *opaque)
{
	bool slept, ok;

	pthread_mutex_lock(&l->lock);
	ok = grow(&l->posted, &l->posted_room, l->nposted, sizeof(*l->posted));
	if (ok)
		l->posted[l->nposted++] = (struct work){fn, opaque};
	slept = l->asleep;
	l->asleep = false;
	pthread_mutex_unlock(&l->lock);
	if (!ok)
		log_msg(LOG_ERROR, "event loop: out of memory, work for the main thread is lost");
	if (slept)
		wake(l);
}

static void run_posted(struct evloop *l)
{
	struct work *list;
	u32 n, room;

	pthread_mutex_lock(&l->lock);
	list = l->posted;
	room = l->posted_room;
	n = l->nposted;
	l->posted = l->running;
	l->posted_room = l->running_room;
	l->nposted = 0;
	l->running = list;
	l->running_room = room;
	pthread_mutex_unlock(&l->lock);
	for (u32 i = 0; i < n; i++)
		list[i].fn(list[i].opaque);
}

/* ---- timers ---- */

static void heap_put(struct evloop *l, u32 at, struct evtimer *t)
{
	l->heap[at] = t;
	t->heap_index = at;
}

static void sift_up(struct evloop *l, u32 at, struct evtimer *t)
{
	for (; at > 1 && l->heap[at / 2]->deadline_ns > t->deadline_ns; at /= 2)
		heap_put(l, at, l->heap[at / 2]);
	heap_put(l, at, t);
}

static void sift_down(struct evloop *l, u32 at, struct evtimer *t)
{
	for (u32 child; (child = at * 2) <= l->nheap; at = child) {
		if (child < l->nheap && l->heap[child + 1]->deadline_ns < l->heap[child]->deadline_ns)
			child++;
		if (l->heap[child]->deadline_ns >= t->deadline_ns)
			break;
		heap_put(l, at, l->heap[child]);
	}
	heap_put(l, at, t);
}

static void heap_remove(struct evloop *l, struct evtimer *t)
{
	u32 at = t->heap_index;
	struct evtimer *last;

	if (!at)
		return;
	t->heap_index = 0;
	last = l->heap[l->nheap--];
	if (last == t)
		return;
	if (at > 1 && l->heap[at / 2]->deadline_ns > last->deadline_ns)
		sift_up(l, at, last);
	else
		sift_down(l, at, last);
}

static void set_timerfd(struct evloop *l, u64 deadline)
{
	struct itimerspec when = {.it_value = {(time_t)(deadline / NS_PER_SEC), (long)(deadline % NS_PER_SEC)}};

	if (deadline == 0)
		when.it_value.tv_nsec = 1; /* zero would disarm */
	l->timer_set_to = deadline;
	timerfd_settime(l->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* Locked. */
static void set_for_first(struct evloop *l)
{
	if (l->nheap && l->heap[1]->deadline_ns < l->timer_set_to)
		set_timerfd(l, l->heap[1]->deadline_ns);
}

void evloop_watch_late(struct evloop *l, u64 ns, void (*fn)(void *opaque), void *opaque)
{
	l->late_ns = ns;
	l->late_fn = fn;
	l->late_opaque = opaque;
}

void timer_init(struct evtimer *t, struct evloop *l, void (*fn)(void *opaque), void *opaque)
{
	*t = (struct evtimer){.loop = l, .fn = fn, .opaque = opaque};
}

void timer_arm(struct evtimer *t, u64 deadline_ns)
{
	struct evloop *l = t->loop;
	bool ok = true;

	/* The kernel takes at most INT64_MAX ns; such a timer is years away anyhow. */
	if (deadline_ns > INT64_MAX)
		deadline_ns = INT64_MAX;
	pthread_mutex_lock(&l->lock);
	heap_remove(l, t);
	t->deadline_ns = deadline_ns;
	if (l->nheap + 1 >= l->heap_room)
		ok = grow(&l->heap, &l->heap_room, l->heap_room, sizeof(struct evtimer *));
	if (ok) {
		l->nheap++;
		sift_up(l, l->nheap, t);
		if (l->asleep)
			set_for_first(l);
	}
	pthread_mutex_unlock(&l->lock);
	if (!ok)
		log_msg(LOG_ERROR, "event loop: out of memory, a timer is lost");
}

void timer_disarm(struct evtimer *t)
{
	struct evloop *l = t->loop;

	if (!l)
		return;
	pthread_mutex_lock(&l->lock);
	heap_remove(l, t);
	pthread_mutex_unlock(&l->lock);
}

/* Takes the first timer off the heap when it is due. */
static bool take_due(struct evloop *l, u64 now, struct evtimer *copy)
{
	struct evtimer *t;
	bool due;

	pthread_mutex_lock(&l->lock);
	t = l->nheap ? l->heap[1] : NULL;
	due = t && t->deadline_ns <= now;
	if (due) {
		heap_remove(l, t);
		*copy = *t;
	}
	pthread_mutex_unlock(&l->lock);
	return due;
}

/* The timerfd has fired, or holds what it held. Returns how many timers wait, 0 when none is due; *late is how late the first is. */
static u32 note_expiry(struct evloop *l, u64 now, u64 *late)
{
	u32 waiting;

	pthread_mutex_lock(&l->lock);
	if (l->timer_set_to <= now)
		l->timer_set_to = NEVER;
	waiting = l->nheap && l->heap[1]->deadline_ns <= now ? l->nheap : 0;
	*late = waiting ? now - l->heap[1]->deadline_ns : 0;
	pthread_mutex_unlock(&l->lock);
	return waiting;
}

/* No more callbacks than timers waited at the start: one that arms its timer in the past must not keep the loop from its descriptors. */
static void run_timers(struct evloop *l)
{
	u64 now = host_now_ns(), late;
	u32 budget = note_expiry(l, now, &late);
	struct evtimer t;

	if (unlikely(late >= l->late_ns) && l->late_fn)
		l->late_fn(l->late_opaque);

	for (; budget && !l->stop && take_due(l, now, &t); budget--)
		t.fn(t.opaque);
}

/* ---- the loop ---- */

void evloop_add_prepare(struct evloop *l, evloop_prepare_fn fn, void *opaque)
{
	struct prepare *p = realloc(l->prepares, (l->nprepares + 1) * sizeof(*p));

	if (!p) {
		log_msg(LOG_ERROR, "event loop: out of memory");
		return;
	}
	l->prepares = p;
	p[l->nprepares++] = (struct prepare){fn, opaque};
}

void evloop_del_prepare(struct evloop *l, void *opaque)
{
	u32 kept = 0;

	for (u32 i = 0; i < l->nprepares; i++)
		if (l->prepares[i].opaque != opaque)
			l->prepares[kept++] = l->prepares[i];
	l->nprepares = kept;
}

static int prepare_wait(struct evloop *l)
{
	int limit = -1;

	for (u32 i = 0; i < l->nprepares; i++) {
		int ms = l->prepares[i].fn(l->prepares[i].opaque);

		if (ms >= 0 && (limit < 0 || ms < limit))
			limit = ms;
	}
	return limit;
}

/* Wait for descriptors, at most `limit` ms; not at all when there is other work. */
static int wait_for_events(struct evloop *l, struct epoll_event *ev, int limit)
{
	int n;

	pthread_mutex_lock(&l->lock);
	set_for_first(l);
	l->asleep = !l->nposted;
	if (l->nposted)
		limit = 0;
	pthread_mutex_unlock(&l->lock);
	n = epoll_wait(l->epoll_fd, ev, EVENTS_PER_WAIT, limit);
	pthread_mutex_lock(&l->lock);
	l->asleep = false;
	pthread_mutex_unlock(&l->lock);
	return n;
}

void evloop_run(struct evloop *l)
{
	struct epoll_event ev[EVENTS_PER_WAIT];

	while (!l->stop) {
		int n = wait_for_events(l, ev, prepare_wait(l));

		for (int i = 0; i < n && !l->stop; i++)
			dispatch(l, &ev[i]);
		run_timers(l);
		run_posted(l);
	}
	l->stop = false;
}
