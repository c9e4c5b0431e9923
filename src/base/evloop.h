/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop of a VM's main thread: descriptors (epoll), timers (a heap behind one timerfd) and work posted from other threads.
 *
 * Threading: evloop_run and the callbacks run on one thread. evloop_post, evloop_stop and the timer_* functions may be called from any
 * thread; fd functions from the loop's thread only (or before it runs).
 */
#pragma once

#include "base/err.h"

struct evloop;

int evloop_new(struct evloop **out, struct err *e) must_check;
void evloop_free(struct evloop *l); /* NULL is allowed */
void evloop_run(struct evloop *l);  /* until evloop_stop; may be run again */
void evloop_stop(struct evloop *l);

/* Descriptors. `events` are EPOLLIN/EPOLLOUT bits. The loop never closes the fd. */
typedef void (*evloop_fd_fn)(void *opaque, u32 events);
int evloop_add_fd(struct evloop *l, int fd, u32 events, evloop_fd_fn fn, void *opaque, struct err *e) must_check;
void evloop_mod_fd(struct evloop *l, int fd, u32 events);
void evloop_del_fd(struct evloop *l, int fd);

/* Run fn(opaque) soon on the loop's thread. Never blocks, never runs in line. */
void evloop_post(struct evloop *l, void (*fn)(void *opaque), void *opaque);

/* Run before each wait of the loop, e.g. for libraries with their own poll set (libslirp). Returns the wait limit in ms (-1: none). */
typedef int (*evloop_prepare_fn)(void *opaque);
void evloop_add_prepare(struct evloop *l, evloop_prepare_fn fn, void *opaque);
void evloop_del_prepare(struct evloop *l, void *opaque);

/* Timers, embedded in their owner. Deadlines are host_now_ns() values; a timer fires once. Arm, disarm: any thread. After timer_disarm
 * has returned on the loop's thread the callback does not run; from another thread one late call is possible. */
struct evtimer {
	struct evloop *loop;
	void (*fn)(void *opaque);
	void *opaque;
	u64 deadline_ns;
	u32 heap_index; /* 0 = not armed */
};
/* fn is called before the timers that are due when the first of them is `ns` or more late: the process was stopped, or the host stood still.
 * NULL: nobody is. On the loop's thread, before it runs. */
void evloop_watch_late(struct evloop *l, u64 ns, void (*fn)(void *opaque), void *opaque);

void timer_init(struct evtimer *t, struct evloop *l, void (*fn)(void *opaque), void *opaque);
void timer_arm(struct evtimer *t, u64 deadline_ns);
void timer_disarm(struct evtimer *t);
