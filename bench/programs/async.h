/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Up to ASYNC_DEPTH reads in flight from one thread: by io_uring, or by Linux AIO where io_uring is forbidden. System calls only, so that the program
 * needs no library that a guest may lack. An error ends the program.
 */
#pragma once

#include "bench.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ASYNC_DEPTH 32

struct async {
	int uring; /* its descriptor, or -1: AIO */
	unsigned queued;
	unsigned *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
	aio_context_t context;
	struct iocb blocks[ASYNC_DEPTH], *batch[ASYNC_DEPTH];
	unsigned sizes[ASYNC_DEPTH];
};

static inline void *async_map(const struct async *a, size_t size, off_t what)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, a->uring, what);

	must("async-map", p != MAP_FAILED);
	return p;
}

static inline void async_map_rings(struct async *a, const struct io_uring_params *p)
{
	char *sq = async_map(a, p->sq_off.array + p->sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
	char *cq = async_map(a, p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);

	a->sqes = async_map(a, p->sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
	a->sq_tail = (unsigned *)(sq + p->sq_off.tail);
	a->sq_mask = (unsigned *)(sq + p->sq_off.ring_mask);
	a->sq_array = (unsigned *)(sq + p->sq_off.array);
	a->cq_head = (unsigned *)(cq + p->cq_off.head);
	a->cq_tail = (unsigned *)(cq + p->cq_off.tail);
	a->cq_mask = (unsigned *)(cq + p->cq_off.ring_mask);
	a->cqes = (struct io_uring_cqe *)(cq + p->cq_off.cqes);
}

static inline struct async *async_new(void)
{
	struct io_uring_params p = {0};
	struct async *a = calloc(1, sizeof(*a));

	must("async-memory", a != NULL);
	/* NO_IO_URING: to try the other way. */
	a->uring = getenv("NO_IO_URING") ? -1 : (int)syscall(SYS_io_uring_setup, ASYNC_DEPTH, &p);
	if (a->uring >= 0)
		async_map_rings(a, &p);
	else
		must("async-setup", !syscall(SYS_io_setup, ASYNC_DEPTH, &a->context));
	return a;
}

static inline int async_is_uring(const struct async *a)
{
	return a->uring >= 0;
}

/* Queues a read for slot `slot`, which must be free; the next async_wait submits it. */
static inline void async_read(struct async *a, unsigned slot, int fd, void *to, unsigned size, uint64_t offset)
{
	a->sizes[slot] = size;
	if (async_is_uring(a)) {
		unsigned tail = *a->sq_tail, i = tail & *a->sq_mask;

		a->sqes[i] = (struct io_uring_sqe){
			.opcode = IORING_OP_READ, .fd = fd, .addr = (uintptr_t)to, .len = size, .off = offset, .user_data = slot};
		a->sq_array[i] = i;
		__atomic_store_n(a->sq_tail, tail + 1, __ATOMIC_RELEASE);
	} else {
		a->blocks[slot] = (struct iocb){.aio_lio_opcode = IOCB_CMD_PREAD,
						.aio_fildes = (uint32_t)fd,
						.aio_buf = (uintptr_t)to,
						.aio_nbytes = size,
						.aio_offset = (int64_t)offset,
						.aio_data = slot};
		a->batch[a->queued] = &a->blocks[slot];
	}
	a->queued++;
}

static inline unsigned async_wait_uring(struct async *a, unsigned *slots)
{
	unsigned n = 0, head = *a->cq_head, tail;
	long r = syscall(SYS_io_uring_enter, a->uring, a->queued, 1, IORING_ENTER_GETEVENTS, NULL, 0);

	must("async-enter", r == (long)a->queued || (r < 0 && errno == EINTR));
	if (r >= 0)
		a->queued = 0;
	tail = __atomic_load_n(a->cq_tail, __ATOMIC_ACQUIRE);
	for (; head != tail; head++) {
		const struct io_uring_cqe *c = &a->cqes[head & *a->cq_mask];

		must("async-read", c->res == (int)a->sizes[c->user_data]);
		slots[n++] = (unsigned)c->user_data;
	}
	__atomic_store_n(a->cq_head, head, __ATOMIC_RELEASE);
	return n;
}

static inline unsigned async_wait_aio(struct async *a, unsigned *slots)
{
	struct io_event events[ASYNC_DEPTH];
	long n;

	if (a->queued)
		must("async-submit", syscall(SYS_io_submit, a->context, (long)a->queued, a->batch) == (long)a->queued);
	a->queued = 0;
	n = syscall(SYS_io_getevents, a->context, 1L, (long)ASYNC_DEPTH, events, NULL);
	must("async-events", n > 0);
	for (long i = 0; i < n; i++) {
		slots[i] = (unsigned)events[i].data;
		must("async-read", events[i].res == (int64_t)a->sizes[slots[i]]);
	}
	return (unsigned)n;
}

/* Submits what is queued, waits until at least one read is complete; returns how many are, their slots in `slots`. */
static inline unsigned async_wait(struct async *a, unsigned *slots)
{
	return async_is_uring(a) ? async_wait_uring(a, slots) : async_wait_aio(a, slots);
}
