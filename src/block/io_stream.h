/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that reads or writes on and on from one place: the host's kernel is told early, so that the disk works while the guest does. What is read
 * next is fetched into the page cache, and what was written is sent on its way instead of waiting for the flush.
 *
 * Large reads that go on for longer than that is worth, of what the page cache has not, are better read past it: through it, each page would have to be
 * found and copied, and would push out another one.
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
	u64 largest;	/* of its requests */
	struct io_req advice;
	sem_t idle; /* taken while `advice` is in flight */
};

struct io_stream {
	struct io_engine *io;
	u64 size;
	pthread_mutex_t lock;
	struct io_run read, write;
	bool can_pass; /* atomic: the file can be read past the page cache */
	u64 cold_end;  /* this run of reads found pages missing not long before this place: up to here it is worth fetching */
};

void io_stream_init(struct io_stream *s, struct io_engine *io, int fd, u64 size, bool can_pass);
void io_stream_destroy(struct io_stream *s); /* waits for what is in flight */

/* Is a read at this place, not told of yet, better done past the page cache? */
bool io_stream_passes(struct io_stream *s, u64 off);
void io_stream_no_passing(struct io_stream *s); /* it has been tried, and cannot be */

/* A read has been satisfied by the page cache, is about to wait for the disk, or goes past the cache. */
enum io_found { IO_CACHED, IO_MISSED, IO_PASSED };
void io_stream_read(struct io_stream *s, u64 off, u64 len, enum io_found found);
/* A write is in the page cache. */
void io_stream_written(struct io_stream *s, u64 off, u64 len);

/* Is a completed request advice? Then it has been dealt with. */
bool io_stream_owns(struct io_stream *s, const struct io_req *r);
