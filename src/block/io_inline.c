/* SPDX-License-Identifier: Apache-2.0 */
/*
 * I/O by the submitter itself. See io_inline.h.
 *
 * Reads say RWF_NOWAIT and never wait. Many file systems, ext4 among them, know no such writes: theirs are tried without it, and their time is
 * taken. One may have to wait, for the journal or because the host has too many dirty pages (up to 200 ms); the next ones then go to threads, and
 * longer each time that it happens.
 */
#include "block/io_inline.h"

#include "base/clock.h"

#include <errno.h>

#define SLOW_NS (5 * 1000 * 1000ull)
#define PAUSE_MIN_NS (100 * 1000 * 1000ull)
#define PAUSE_MAX_NS (10 * 1000 * 1000 * 1000ull)

static bool get(const bool *flag)
{
	return __atomic_load_n(flag, __ATOMIC_RELAXED);
}

static i64 read_now(struct io_inline *il, const struct io_req *r)
{
	i64 n;

	if (get(&il->no_nowait_read))
		return -EAGAIN;
	n = preadv2(r->fd, r->iov, (int)r->niov, (off_t)r->off, RWF_NOWAIT);
	if (n < 0 && errno == EOPNOTSUPP)
		__atomic_store_n(&il->no_nowait_read, true, __ATOMIC_RELAXED);
	return n;
}

static void judge(struct io_inline *il, u64 began)
{
	u64 now = host_now_ns(), pause = __atomic_load_n(&il->pause, __ATOMIC_RELAXED);

	if (likely(now - began < SLOW_NS)) {
		/* One fast write proves little: the length of the last pause is forgotten only after as long a time without another. */
		if (unlikely(pause) && now > __atomic_load_n(&il->resume_at, __ATOMIC_RELAXED) + pause)
			__atomic_store_n(&il->pause, 0, __ATOMIC_RELAXED);
		return;
	}
	pause = pause ? pause * 2 : PAUSE_MIN_NS;
	if (pause > PAUSE_MAX_NS)
		pause = PAUSE_MAX_NS;
	__atomic_store_n(&il->pause, pause, __ATOMIC_RELAXED);
	__atomic_store_n(&il->resume_at, now + pause, __ATOMIC_RELAXED);
}

static i64 write_timed(struct io_inline *il, const struct io_req *r)
{
	u64 began = host_now_ns();
	i64 n;

	if (began < __atomic_load_n(&il->resume_at, __ATOMIC_RELAXED))
		return -1;
	n = pwritev(r->fd, r->iov, (int)r->niov, (off_t)r->off);
	judge(il, began);
	return n;
}

static i64 write_now(struct io_inline *il, const struct io_req *r)
{
	i64 n;

	if (get(&il->no_nowait_write))
		return write_timed(il, r);
	n = pwritev2(r->fd, r->iov, (int)r->niov, (off_t)r->off, RWF_NOWAIT);
	if (n >= 0 || errno != EOPNOTSUPP)
		return n;
	__atomic_store_n(&il->no_nowait_write, true, __ATOMIC_RELAXED);
	return write_timed(il, r);
}

bool io_inline_try(struct io_inline *il, struct io_req *r, u64 *budget)
{
	i64 n = 0;

	if (r->len > *budget || r->durable || r->direct)
		return false;
	if (r->op == IO_READ)
		n = read_now(il, r);
	else if (r->op == IO_WRITE)
		n = write_now(il, r);
	if (n <= 0)
		return false; /* the engine will meet the same error, and knows what to do about it */
	*budget -= (u64)n;
	io_req_begin(r);
	return io_req_step(r, n);
}
