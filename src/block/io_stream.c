/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams of reads and writes. See io_stream.h. Advice may fail or come too late without harm; in particular, to send pages on their way (without
 * waiting for them) does not take a write error away from the next flush.
 */
#include "block/io_stream.h"

#define STEP (4 * MiB)	     /* advice is given for as much at once */
#define AHEAD_MAX (16 * MiB) /* and reads are never fetched further ahead, nor further than the stream is long */
#define COLD_REACH (64 * MiB)

static void run_init(struct io_run *run, enum io_op op, int fd)
{
	*run = (struct io_run){.advice = {.op = op, .fd = fd}};
	sem_init(&run->idle, 0, 1);
}

void io_stream_init(struct io_stream *s, struct io_engine *io, int fd, u64 size)
{
	*s = (struct io_stream){.io = io, .size = size};
	pthread_mutex_init(&s->lock, NULL);
	run_init(&s->read, IO_FETCH, fd);
	run_init(&s->write, IO_WRITE_OUT, fd);
}

static void run_destroy(struct io_run *run)
{
	while (sem_wait(&run->idle))
		;
	sem_destroy(&run->idle);
}

void io_stream_destroy(struct io_stream *s)
{
	run_destroy(&s->read);
	run_destroy(&s->write);
	pthread_mutex_destroy(&s->lock);
}

static u64 min_u64(u64 a, u64 b)
{
	return a < b ? a : b;
}

static void follow(struct io_run *run, u64 off, u64 len)
{
	if (off != run->end)
		run->begin = run->told = off;
	run->end = off + len;
}

/* Claims the advice for [run->told, end) if that is enough for one, and none is in flight. */
static bool claim(struct io_run *run, u64 end)
{
	if (end < run->told + STEP || sem_trywait(&run->idle))
		return false;
	run->advice.off = run->told;
	run->advice.len = end - run->told;
	run->told = end;
	return true;
}

static void give(struct io_stream *s, struct io_run *run)
{
	struct io_req *r = &run->advice;

	io_submit(s->io, &r, 1);
}

static bool claim_fetch(struct io_stream *s)
{
	struct io_run *run = &s->read;
	u64 ahead = min_u64(run->end - run->begin, AHEAD_MAX), from = run->told > run->end ? run->told : run->end;

	if (run->end > s->cold_end)
		return false;
	run->told = from;
	return claim(run, min_u64(run->end + ahead, s->size));
}

void io_stream_read(struct io_stream *s, u64 off, u64 len, bool cached)
{
	bool fetch;

	pthread_mutex_lock(&s->lock);
	if (off != s->read.end)
		s->cold_end = 0;
	follow(&s->read, off, len);
	if (!cached)
		s->cold_end = s->read.end + COLD_REACH;
	fetch = claim_fetch(s);
	pthread_mutex_unlock(&s->lock);
	if (fetch)
		give(s, &s->read);
}

void io_stream_written(struct io_stream *s, u64 off, u64 len)
{
	bool write_out;

	pthread_mutex_lock(&s->lock);
	follow(&s->write, off, len);
	write_out = claim(&s->write, s->write.end);
	pthread_mutex_unlock(&s->lock);
	if (write_out)
		give(s, &s->write);
}

bool io_stream_owns(struct io_stream *s, const struct io_req *r)
{
	struct io_run *run = r == &s->read.advice ? &s->read : r == &s->write.advice ? &s->write : NULL;

	if (run)
		sem_post(&run->idle);
	return run;
}
