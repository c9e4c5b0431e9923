/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that writes on and on from one place: what it wrote is sent on its way, so that the disk works while the guest does and a flush has little
 * left to wait for.
 *
 * The advice goes through an I/O engine as a request of its own, at most one in flight; whoever sees the engine's completions hands it back
 * (io_writeout_owns).
 *
 * Threading: any number of threads at once. No lock is held across io_submit.
 */
#pragma once

#include "block/io.h"

#include <pthread.h>
#include <semaphore.h>

#define IO_WRITEOUT_REQS 1 /* what it adds to the requests in flight */

struct io_writeout {
	struct io_engine *io;
	pthread_mutex_t lock;
	u64 end;  /* of what was written without a gap */
	u64 told; /* up to where the host knows */
	struct io_req advice;
	sem_t idle; /* taken while `advice` is in flight */
};

void io_writeout_init(struct io_writeout *w, struct io_engine *io, int fd);
void io_writeout_destroy(struct io_writeout *w); /* waits for what is in flight */

/* A write is in the page cache. */
void io_writeout_written(struct io_writeout *w, u64 off, u64 len);

/* Is a completed request advice? Then it has been dealt with. */
bool io_writeout_owns(struct io_writeout *w, const struct io_req *r);
