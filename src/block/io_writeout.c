/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams of writes. See io_writeout.h. Advice may fail or come too late without harm; in particular, to send pages on their way (without waiting for
 * them) does not take a write error away from the next flush.
 */
#include "block/io_writeout.h"

#define STEP (4 * MiB) /* advice is given for as much at once */

void io_writeout_init(struct io_writeout *w, struct io_engine *io, int fd)
{
	*w = (struct io_writeout){.io = io, .advice = {.op = IO_WRITE_OUT, .fd = fd}};
	pthread_mutex_init(&w->lock, NULL);
	sem_init(&w->idle, 0, 1);
}

void io_writeout_destroy(struct io_writeout *w)
{
	while (sem_wait(&w->idle))
		;
	sem_destroy(&w->idle);
	pthread_mutex_destroy(&w->lock);
}

static void follow(struct io_writeout *w, u64 off, u64 len)
{
	if (off != w->end)
		w->told = off;
	w->end = off + len;
}

/* Claims the advice for what was written and not told, if that is enough for one and none is in flight. */
static bool claim(struct io_writeout *w)
{
	if (w->end < w->told + STEP || sem_trywait(&w->idle))
		return false;
	w->advice.off = w->told;
	w->advice.len = w->end - w->told;
	w->told = w->end;
	return true;
}

void io_writeout_written(struct io_writeout *w, u64 off, u64 len)
{
	struct io_req *advice = &w->advice;
	bool claimed;

	pthread_mutex_lock(&w->lock);
	follow(w, off, len);
	claimed = claim(w);
	pthread_mutex_unlock(&w->lock);
	if (claimed)
		io_submit(w->io, &advice, 1);
}

bool io_writeout_owns(struct io_writeout *w, const struct io_req *r)
{
	if (r != &w->advice)
		return false;
	sem_post(&w->idle);
	return true;
}
