/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The I/O engine for hosts without io_uring: a few threads that take requests from one list and run them to the end with plain system
 * calls.
 */
#include "block/io.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define WORKERS 4

struct threads_engine {
	struct io_engine eng;
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct io_req *head, **tail;
	bool kicked, stop;
	u32 nworkers;
	pthread_t workers[WORKERS];
};

static struct threads_engine *of(struct io_engine *eng)
{
	return container_of(eng, struct threads_engine, eng);
}

static i64 run_once(const struct io_req *r)
{
	int mode = io_req_fallocate_mode(r);
	i64 n;

	if (mode)
		n = fallocate(r->fd, mode, (off_t)r->off, (off_t)r->len);
	else if (r->op == IO_FLUSH)
		n = fdatasync(r->fd);
	else if (r->op == IO_WRITE_OUT)
		n = sync_file_range(r->fd, (off_t)r->off, (off_t)r->len, SYNC_FILE_RANGE_WRITE);
	else if (r->op == IO_READ)
		n = preadv(r->fd, r->iov, (int)r->niov, (off_t)r->off);
	else
		n = pwritev2(r->fd, r->iov, (int)r->niov, (off_t)r->off, r->durable ? RWF_DSYNC : 0);
	return n < 0 ? -errno : n;
}

static void run(struct threads_engine *t, struct io_req *r)
{
	io_req_begin(r);
	while (!io_req_step(r, run_once(r)))
		;
	t->eng.client.done(t->eng.client.opaque, &r, 1);
}

/* Waits for work. NULL: the engine stops, or (kicked) the client wants to be called. */
static struct io_req *take(struct threads_engine *t, bool *kicked)
{
	struct io_req *r;

	pthread_mutex_lock(&t->lock);
	while (!t->head && !t->kicked && !t->stop)
		pthread_cond_wait(&t->work, &t->lock);
	*kicked = t->kicked;
	t->kicked = false;
	r = t->head;
	if (r)
		t->head = r->next;
	if (!t->head)
		t->tail = &t->head;
	pthread_mutex_unlock(&t->lock);
	return r;
}

static void *worker(void *opaque)
{
	struct threads_engine *t = opaque;
	struct io_req *r;
	bool kicked;

	while ((r = take(t, &kicked)) || kicked) {
		if (kicked)
			t->eng.client.kicked(t->eng.client.opaque);
		if (r)
			run(t, r);
	}
	return NULL;
}

static void threads_submit(struct io_engine *eng, struct io_req **reqs, u32 n)
{
	struct threads_engine *t = of(eng);

	pthread_mutex_lock(&t->lock);
	for (u32 i = 0; i < n; i++) {
		reqs[i]->next = NULL;
		*t->tail = reqs[i];
		t->tail = &reqs[i]->next;
	}
	if (n == 1)
		pthread_cond_signal(&t->work);
	else
		pthread_cond_broadcast(&t->work);
	pthread_mutex_unlock(&t->lock);
}

static void threads_kick(struct io_engine *eng)
{
	struct threads_engine *t = of(eng);

	pthread_mutex_lock(&t->lock);
	t->kicked = true;
	pthread_cond_signal(&t->work);
	pthread_mutex_unlock(&t->lock);
}

static void threads_free(struct io_engine *eng)
{
	struct threads_engine *t = of(eng);

	pthread_mutex_lock(&t->lock);
	t->stop = true;
	pthread_cond_broadcast(&t->work);
	pthread_mutex_unlock(&t->lock);
	for (u32 i = 0; i < t->nworkers; i++)
		pthread_join(t->workers[i], NULL);
	pthread_cond_destroy(&t->work);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static const struct io_engine_ops threads_ops = {"threads", false, threads_submit, threads_kick, threads_free};

/* Workers take no signals: those of the process are for the main thread and the vCPUs. */
static int start_workers(struct threads_engine *t)
{
	sigset_t all, old;
	int r = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (!r && t->nworkers < WORKERS) {
		r = pthread_create(&t->workers[t->nworkers], NULL, worker, t);
		if (!r)
			t->nworkers++;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return t->nworkers ? 0 : r;
}

int io_threads_engine_new(struct io_engine **out, u32 depth, const struct io_client *client, struct err *e)
{
	struct threads_engine *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return err_set(e, ENOMEM, "disk I/O: out of memory");
	t->eng.ops = &threads_ops;
	t->eng.client = *client;
	t->tail = &t->head;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->work, NULL);
	r = start_workers(t);
	if (r) {
		threads_free(&t->eng);
		return err_sys(e, r, "disk I/O: cannot start threads");
	}
	*out = &t->eng;
	return 0;
}
