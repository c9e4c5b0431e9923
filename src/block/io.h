/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asynchronous file I/O on the host: io_uring where the kernel grants it, a pool of threads where it does not. Both finish what they are
 * given: short transfers are continued, EINTR repeated, missing fallocate modes replaced.
 *
 * Threading: io_submit from any thread; it never waits for a device (io_inline.h does, in rare cases and with a limit).
 * Completions arrive in batches on any thread, perhaps the submitter's
 * own before io_submit returns; so no lock that `done` takes may be held across io_submit.
 */
#pragma once

#include "base/err.h"

#include <sys/uio.h>

enum io_op {
	IO_READ,
	IO_WRITE,
	IO_FLUSH,
	IO_DISCARD,    /* advisory: success where the file cannot */
	IO_ZERO_UNMAP, /* zeroes, preferably without storage */
	IO_ZERO,       /* zeroes, storage stays */
	IO_ZERO_WRITE, /* zeroes by writing them; the last resort of the two above */
	IO_WRITE_OUT,  /* advice: what was written there may go to the disk */
};

struct io_req {
	/* Filled in by the submitter, who keeps the request alive until it is done. The vector is used up. */
	enum io_op op;
	bool durable; /* what changes data: on stable storage when done */
	bool direct;  /* `fd` is open for direct I/O */
	int fd;
	u64 off, len;
	struct iovec *iov;
	u32 niov;
	/* The outcome: 0 or a negative errno. */
	int result;
	/* The engine's own. */
	u32 retries;
	struct iovec zeroes;
	struct io_req *next;
};

struct io_client {
	void *opaque;
	void (*done)(void *opaque, struct io_req **reqs, u32 n);
	void (*kicked)(void *opaque); /* after io_kick, on the engine's own thread */
};

struct io_engine;
struct io_engine_ops {
	const char *name;
	bool small_reads_at_once; /* those that the page cache satisfies are done when submit returns, several at less than a system call each */
	void (*submit)(struct io_engine *eng, struct io_req **reqs, u32 n);
	void (*kick)(struct io_engine *eng);
	void (*free)(struct io_engine *eng);
};

struct io_engine {
	const struct io_engine_ops *ops;
	struct io_client client;
};

#define IO_BATCH 64

/* `kind`: "auto", "uring" or "threads"; `depth`: the most requests ever in flight. "auto" takes io_uring when the kernel grants it. */
int io_engine_new(struct io_engine **out, const char *kind, u32 depth, const struct io_client *client, struct err *e) must_check;
void io_engine_free(struct io_engine *eng); /* nothing may be in flight; NULL is allowed */

static inline void io_submit(struct io_engine *eng, struct io_req **reqs, u32 n)
{
	eng->ops->submit(eng, reqs, n);
}
static inline void io_kick(struct io_engine *eng)
{
	eng->ops->kick(eng);
}

/* For engines. One step of a request had the outcome `res` (bytes or a negative errno). True: it is done and has its result; false: issue
 * it again, it has been moved on. */
bool io_req_step(struct io_req *r, i64 res);
void io_req_begin(struct io_req *r);
/* The fallocate mode of an operation that is one; 0: it is not. */
int io_req_fallocate_mode(const struct io_req *r);

int io_uring_engine_new(struct io_engine **out, u32 depth, const struct io_client *client, struct err *e) must_check;
int io_threads_engine_new(struct io_engine **out, u32 depth, const struct io_client *client, struct err *e) must_check;
