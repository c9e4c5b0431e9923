/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Console output. A line goes out at once from the writer's thread, the rest of one, and lines in quick succession, after a millisecond
 * or when enough has come together: neither a guest that prints byte by byte nor one that floods costs a system call for each. What the
 * reader does not take is kept up to a limit; then the writer waits a bounded time, once per stall; then bytes are dropped and counted.
 * That the reader of a pipe or socket has gone is noticed also while nothing is written.
 *
 * Threading: any thread.
 */
#include "base/clock.h"
#include "base/log.h"
#include "char/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define FLUSH_AT 4096u
#define FLUSH_AFTER_NS 1000000ull
#define STALL_WAIT_NS (2 * NS_PER_SEC)
#define CLOSE_WAIT_MS 10000 /* without a byte taken */
#define SAFE_CHUNK 64u	    /* what a terminal that says it has room takes without blocking */

int reopen_nonblocking(int fd, int flags)
{
	struct stat st;
	char path[32];

	if (fstat(fd, &st) < 0 || !(S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode)))
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

static ssize_t write_polled(int fd, const u8 *bytes, size_t n)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	if (poll(&p, 1, 0) <= 0) {
		errno = EAGAIN;
		return -1;
	}
	return write(fd, bytes, n < SAFE_CHUNK ? n : SAFE_CHUNK);
}

static ssize_t write_some(struct out_queue *q, const u8 *bytes, size_t n)
{
	switch (q->how) {
	case OUT_SOCKET:
		return send(q->fd, bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	case OUT_POLL:
		return write_polled(q->fd, bytes, n);
	default:
		return write(q->fd, bytes, n);
	}
}

static void tell_gone(void *opaque)
{
	struct out_queue *q = opaque;

	if (q->gone)
		q->gone(q->gone_opaque);
}

/* Nothing can be written any more. Lock held. */
static void break_off(struct out_queue *q, int error)
{
	if (q->broken)
		return;
	q->broken = true;
	log_msg(LOG_ERROR, "console output cannot be written any more and is discarded: %s", strerror(error));
	if (error == EPIPE || error == ECONNRESET)
		evloop_post(q->loop, tell_gone, q);
}

/* Writes what can be written now. Lock held. */
static void drain(struct out_queue *q)
{
	while (q->len > 0 && !q->broken) {
		ssize_t n = write_some(q, q->buf + q->start, q->len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			break;
		if (n < 0) {
			break_off(q, errno);
			break;
		}
		q->start += (size_t)n;
		q->len -= (size_t)n;
		q->stalled = false;
	}
	if (q->broken)
		q->len = 0;
	if (q->len == 0)
		q->start = 0;
	pthread_cond_broadcast(&q->drained);
}

static void report_dropped(struct out_queue *q)
{
	if (!q->dropped || q->stalled)
		return;
	log_msg(LOG_WARN, "%llu bytes of console output were discarded: the reader was too slow", (unsigned long long)q->dropped);
	q->dropped = 0;
}

static void flush_later(struct out_queue *q)
{
	q->timer_armed = true;
	timer_arm(&q->flush_timer, host_now_ns() + FLUSH_AFTER_NS);
}

/* A pipe stays in the loop's set without wishes, for the news that its reader has gone; other files are taken out. */
static void unwatch(struct out_queue *q)
{
	if (q->pipe && !q->broken)
		evloop_mod_fd(q->loop, q->fd, 0);
	else
		evloop_del_fd(q->loop, q->fd);
	q->pipe = q->pipe && !q->broken;
	q->watching = false;
}

static void on_room(void *opaque, u32 events)
{
	struct out_queue *q = opaque;

	pthread_mutex_lock(&q->lock);
	/* The writing end of a pipe without readers shows an error, a socket whose peer has closed a hang-up. */
	if (q->pipe && events & (EPOLLERR | EPOLLHUP))
		break_off(q, EPIPE);
	drain(q);
	if (q->len == 0) {
		unwatch(q);
		report_dropped(q);
	}
	pthread_mutex_unlock(&q->lock);
}

/* On the loop's thread: be told when there is room. */
static void watch(void *opaque)
{
	struct out_queue *q = opaque;
	struct err e;

	pthread_mutex_lock(&q->lock);
	if (q->pipe) {
		evloop_mod_fd(q->loop, q->fd, EPOLLOUT);
	} else if (q->fd >= 0 && evloop_add_fd(q->loop, q->fd, EPOLLOUT, on_room, q, &e) < 0) {
		/* Not pollable, or watched already: the timer looks again. */
		q->watching = false;
		flush_later(q);
	}
	pthread_mutex_unlock(&q->lock);
}

/* Lock held. */
static void flush(struct out_queue *q)
{
	drain(q);
	if (q->len == 0 || q->watching)
		return;
	q->watching = true;
	evloop_post(q->loop, watch, q);
}

static void on_flush_timer(void *opaque)
{
	struct out_queue *q = opaque;

	pthread_mutex_lock(&q->lock);
	q->timer_armed = false;
	q->flushed_at = host_now_ns();
	flush(q);
	pthread_mutex_unlock(&q->lock);
}

/* Space at the end for `n` more bytes, as far as the limit allows. Lock held. */
static size_t make_room(struct out_queue *q, size_t n)
{
	size_t want = q->len + n < OUT_LIMIT ? q->len + n : OUT_LIMIT;

	if (q->start > 0 && q->start + want > q->room) {
		memmove(q->buf, q->buf + q->start, q->len);
		q->start = 0;
	}
	if (want > q->room) {
		size_t bigger = q->room ? q->room * 2 : 4096;
		u8 *p;

		while (bigger < want)
			bigger *= 2;
		p = realloc(q->buf, bigger);
		if (p) {
			q->buf = p;
			q->room = bigger;
		}
	}
	want = want < q->room ? want : q->room;
	return want - q->len < n ? want - q->len : n;
}

/* Give the reader time to make room, once per stall. Lock held; false when it did not. */
static bool wait_for_room(struct out_queue *q)
{
	u64 deadline = host_now_ns() + STALL_WAIT_NS;
	struct timespec until = {(time_t)(deadline / NS_PER_SEC), (long)(deadline % NS_PER_SEC)};
	size_t before = q->len;

	if (q->stalled)
		return false;
	flush(q);
	while (q->len == before && !q->broken && host_now_ns() < deadline) {
		/* The loop drains when there is room; a writer on the loop's own thread only sees the deadline. */
		pthread_cond_timedwait(&q->drained, &q->lock, &until);
		drain(q);
	}
	q->stalled = q->len == before && !q->broken;
	return !q->stalled;
}

/* The end of a line is shown at once, unless the last one was a moment ago: then the timer shows them together. Lock held. */
static bool is_due(struct out_queue *q, bool line)
{
	u64 now;

	if (q->len >= FLUSH_AT)
		return true;
	if (!line || q->timer_armed)
		return false;
	now = host_now_ns();
	if (now - q->flushed_at < FLUSH_AFTER_NS)
		return false;
	q->flushed_at = now;
	return true;
}

void out_write(struct out_queue *q, const u8 *bytes, size_t n)
{
	bool line = memchr(bytes, '\n', n) != NULL;

	if (q->fd < 0)
		return;
	pthread_mutex_lock(&q->lock);
	while (n > 0 && !q->broken) {
		size_t part = make_room(q, n);

		if (part == 0 && wait_for_room(q))
			continue;
		if (part == 0)
			break;
		memcpy(q->buf + q->start + q->len, bytes, part);
		q->len += part;
		bytes += part;
		n -= part;
	}
	if (n > 0 && !q->broken)
		q->dropped += n;
	if (is_due(q, line))
		flush(q);
	else if (q->len > 0 && !q->watching && !q->timer_armed)
		flush_later(q);
	pthread_mutex_unlock(&q->lock);
}

/* Terminals and pipes get a non-blocking descriptor of our own; regular files do not block; for the rest, ask before each write. */
static void choose_how(struct out_queue *q)
{
	struct stat st;
	int own;

	q->how = OUT_POLL;
	if (fstat(q->fd, &st) < 0)
		return;
	q->pipe = S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode);
	if (S_ISREG(st.st_mode)) {
		q->how = OUT_NONBLOCK;
	} else if (S_ISSOCK(st.st_mode)) {
		q->how = OUT_SOCKET;
	} else if ((own = reopen_nonblocking(q->fd, O_WRONLY)) >= 0) {
		if (q->fd_is_ours)
			close(q->fd);
		q->fd = own;
		q->fd_is_ours = true;
		q->how = OUT_NONBLOCK;
	}
}

int out_open(struct out_queue *q, struct evloop *l, int fd, bool fd_is_ours, struct err *e)
{
	pthread_condattr_t attr;

	*q = (struct out_queue){.loop = l, .fd = fd, .fd_is_ours = fd_is_ours};
	pthread_mutex_init(&q->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&q->drained, &attr);
	pthread_condattr_destroy(&attr);
	timer_init(&q->flush_timer, l, on_flush_timer, q);
	if (fd < 0)
		return 0;
	choose_how(q);
	return q->pipe ? evloop_add_fd(l, q->fd, 0, on_room, q, e) : 0;
}

/* The loop does not run any more: empty the queue here. */
static void drain_for_good(struct out_queue *q)
{
	size_t before;

	drain(q);
	do {
		struct pollfd p = {.fd = q->fd, .events = POLLOUT};

		before = q->len;
		if (q->len > 0 && !q->broken)
			poll(&p, 1, CLOSE_WAIT_MS);
		drain(q);
	} while (q->len > 0 && q->len < before && !q->broken);
	q->dropped += q->len;
	q->stalled = false;
	report_dropped(q);
}

void out_close(struct out_queue *q)
{
	timer_disarm(&q->flush_timer);
	pthread_mutex_lock(&q->lock);
	q->gone = NULL;
	if (q->fd >= 0)
		drain_for_good(q);
	if (q->watching || q->pipe)
		evloop_del_fd(q->loop, q->fd);
	pthread_mutex_unlock(&q->lock);
	if (q->fd_is_ours && q->fd >= 0)
		close(q->fd);
	free(q->buf);
	pthread_cond_destroy(&q->drained);
	pthread_mutex_destroy(&q->lock);
}
