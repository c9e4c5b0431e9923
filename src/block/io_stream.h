/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that reads or writes on and on from one place: the host's kernel is told early, so that the disk works while the guest does. What is read
 * next is fetched into the page cache, and what was written is sent on its way instead of waiting for the flush.
 *
 * The advice goes through an I/O engine as requests of its own, at most one in flight for each direction; whoever sees the engine's completions
 * hands those back (io_stream_owns).
 *
 * Threading: any number of threads at once. No lock is held across io_submit.
 */
#pragma once

#include "block/io.h"

#include <pthread.h>
#include <semaphore.h>

#define IO_STREAM_REQS 2 /* what it adds to the requests in flight */

struct io_run {
	u64 begin, end; /* what was read or written without a gap */
	u64 told;	/* up to where the host knows */
	struct io_req advice;
	sem_t idle; /* taken while `advice` is in flight */
};

struct io_stream {
	struct io_engine *io;
	u64 size;
	pthread_mutex_t lock;
	struct io_run read, write;
	u64 cold_end; /* this run of reads found pages missing not long before this place: up to here it is worth fetching */
};

void io_stream_init(struct io_stream *s, struct io_engine *io, int fd, u64 size);
void io_stream_destroy(struct io_stream *s); /* waits for what is in flight */

/* A read is about to wait for the disk, or has been satisfied by the page cache. */
void io_stream_read(struct io_stream *s, u64 off, u64 len, bool cached);
/* A write is in the page cache. */
void io_stream_written(struct io_stream *s, u64 off, u64 len);

/* Is a completed request advice? Then it has been dealt with. */
bool io_stream_owns(struct io_stream *s, const struct io_req *r);
