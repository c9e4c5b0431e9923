/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host memory before its first touch: a thread that asks the kernel for pages, from a short queue.
 *
 * Threading: the queue under its lock; the thread works without it.
 */
#include "base/prefault.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>

#define REQUESTS 32u
#define PIECE (32 * KiB) /* at a time, so that nobody waits long for it to stop */

/* Linux 5.14; older headers have no names for them. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

struct request {
	u8 *at;
	u64 bytes;
	bool write;
};

struct prefault {
	pthread_mutex_t lock;
	pthread_cond_t work, settled;
	pthread_t thread;
	struct request queue[REQUESTS];
	u32 first, count;
	bool busy, stop, useless;
};

static bool populate(const struct request *r)
{
	u64 bytes = r->bytes < PIECE ? r->bytes : PIECE;

	return madvise(r->at, bytes, r->write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) == 0 || errno != EINVAL;
}

/* Under the lock. One piece of the first request. */
static void take_piece(struct prefault *p, struct request *out)
{
	struct request *r = &p->queue[p->first];

	*out = *r;
	if (r->bytes > PIECE) {
		r->at += PIECE;
		r->bytes -= PIECE;
		return;
	}
	p->first = (p->first + 1) % REQUESTS;
	p->count--;
}

static void work(struct prefault *p)
{
	struct request r;
	bool known;

	take_piece(p, &r);
	p->busy = true;
	pthread_mutex_unlock(&p->lock);
	known = populate(&r);
	sched_yield(); /* a vCPU that has woken up on this processor would wait for the end of the slice, some milliseconds */
	pthread_mutex_lock(&p->lock);
	p->busy = false;
	if (!known) {
		p->useless = true;
		p->count = 0;
	}
	pthread_cond_broadcast(&p->settled); /* each vCPU that ends waits here */
}

static void *prefault_thread(void *opaque)
{
	struct prefault *p = opaque;

	pthread_setname_np(pthread_self(), "prefault");
	pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		if (p->count)
			work(p);
		else
			pthread_cond_wait(&p->work, &p->lock);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static bool has_second_processor(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 1;
}

/* Signals are for the main thread and the vCPUs. */
static int start(struct prefault *p)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&p->thread, NULL, prefault_thread, p);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

static void destroy(struct prefault *p)
{
	pthread_cond_destroy(&p->settled);
	pthread_cond_destroy(&p->work);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

struct prefault *prefault_new(void)
{
	struct prefault *p = has_second_processor() ? calloc(1, sizeof(*p)) : NULL;

	if (!p)
		return NULL;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->work, NULL);
	pthread_cond_init(&p->settled, NULL);
	if (start(p) != 0) {
		destroy(p);
		return NULL;
	}
	return p;
}

void prefault_free(struct prefault *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->thread, NULL);
	destroy(p);
}

static struct request whole_pages(const void *at, u64 bytes, bool write)
{
	u64 first = PAGE_BASE((u64)at), end = PAGE_BASE((u64)at + bytes + PAGE_SIZE - 1);

	return (struct request){(u8 *)first, end - first, write};
}

void prefault_ask(struct prefault *p, const void *at, u64 bytes, bool write)
{
	if (!p || bytes == 0)
		return;
	pthread_mutex_lock(&p->lock);
	if (p->count < REQUESTS && !p->useless)
		p->queue[(p->first + p->count++) % REQUESTS] = whole_pages(at, bytes, write);
	pthread_mutex_unlock(&p->lock);
	pthread_cond_signal(&p->work); /* it finds the lock free */
}

void prefault_settle(struct prefault *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->count = 0;
	while (p->busy)
		pthread_cond_wait(&p->settled, &p->lock);
	pthread_mutex_unlock(&p->lock);
}
