/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams of reads and writes. See io_stream.h. Advice may fail or come too late without harm; in particular, to send pages on their way (without
 * waiting for them) does not take a write error away from the next flush.
 */
#include "block/io_stream.h"

#define STEP (4 * MiB)	     /* advice is given for as much at once */
#define AHEAD_MAX (16 * MiB) /* and reads are never fetched further ahead, nor further than the stream is long */
#define COLD_REACH (64 * MiB)
#define LONG (16 * MiB)	  /* reads are, from there on, */
#define LARGE (256 * KiB) /* where one of them is */

static void run_init(struct io_run *run, enum io_op op, int fd)
{
	*run = (struct io_run){.advice = {.op = op, .fd = fd}};
	sem_init(&run->idle, 0, 1);
}

void io_stream_init(struct io_stream *s, struct io_engine *io, int fd, u64 size, bool can_pass)
{
	*s = (struct io_stream){.io = io, .size = size, .can_pass = can_pass};
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
	if (off != run->end) {
		run->begin = run->told = off;
		run->largest = 0;
	}
	run->end = off + len;
	if (len > run->largest)
		run->largest = len;
}

static bool is_better_past(const struct io_stream *s)
{
	const struct io_run *run = &s->read;

	return __atomic_load_n(&s->can_pass, __ATOMIC_RELAXED) && run->largest >= LARGE && run->end - run->begin >= LONG;
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

	if (run->end > s->cold_end || is_better_past(s))
		return false;
	run->told = from;
	return claim(run, min_u64(run->end + ahead, s->size));
}

/* What has been fetched is taken from the cache first. At the end of what is thought to be cold one read looks again, by going there. */
bool io_stream_passes(struct io_stream *s, u64 off)
{
	bool passes;

	if (!__atomic_load_n(&s->can_pass, __ATOMIC_RELAXED))
		return false;
	pthread_mutex_lock(&s->lock);
	passes = off == s->read.end && off >= s->read.told && off < s->cold_end && is_better_past(s);
	pthread_mutex_unlock(&s->lock);
	return passes;
}

void io_stream_no_passing(struct io_stream *s)
{
	__atomic_store_n(&s->can_pass, false, __ATOMIC_RELAXED);
}

void io_stream_read(struct io_stream *s, u64 off, u64 len, enum io_found found)
{
	bool fetch;

	pthread_mutex_lock(&s->lock);
	if (off != s->read.end)
		s->cold_end = 0;
	follow(&s->read, off, len);
	if (found == IO_MISSED)
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
