/* SPDX-License-Identifier: Apache-2.0 */
/*
 * I/O by the submitter itself, as long as that is a copy from or to the page cache: it spares waking a thread, the thread's waking a vCPU, and
 * the halt in between, which together take several times as long as copying a megabyte.
 *
 * Threading: any number of threads at once.
 */
#pragma once

#include "block/io.h"

/* One for each file. Zero is its initial state. */
struct io_inline {
	bool no_nowait_read, no_nowait_write; /* atomic: the file system does not know RWF_NOWAIT */
	u64 resume_at;			      /* atomic, ns: no write before that, */
	u64 pause;			      /* atomic, ns: because one took so long that the next are kept away for this */
};

/* What one call of a submitter may copy before it leaves the rest to others: about half a millisecond's worth. */
#define IO_INLINE_BUDGET (2 * MiB)

/* An engine that says so does smaller reads faster. */
#define IO_INLINE_READ_MIN (64 * KiB)

/* True: `r` is done and has its result. False: it is for an engine, perhaps with a first part done already. `budget` is what may still be copied. */
bool io_inline_try(struct io_inline *il, struct io_req *r, u64 *budget);
