/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What both I/O engines share: the steps of one request, and the choice of the engine. See io.h.
 */
#include "block/io.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>

#define ZERO_CHUNK 65536
#define MAX_RETRIES 1000

static const u8 zero_bytes[ZERO_CHUNK];

/* What an operation is to the host, and what replaces it where the file or file system does not know it. */
static const struct {
	bool transfer;
	int fallocate_mode;
	bool advisory;
	enum io_op instead;
} io_ops[] = {
	[IO_READ] = {.transfer = true},
	[IO_WRITE] = {.transfer = true},
	[IO_FLUSH] = {0},
	[IO_DISCARD] = {.fallocate_mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, .advisory = true},
	[IO_ZERO_UNMAP] = {.fallocate_mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, .instead = IO_ZERO},
	[IO_ZERO] = {.fallocate_mode = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, .instead = IO_ZERO_WRITE},
	[IO_ZERO_WRITE] = {.transfer = true},
	[IO_WRITE_OUT] = {0},
};

int io_req_fallocate_mode(const struct io_req *r)
{
	return io_ops[r->op].fallocate_mode;
}

static void zeroes_next(struct io_req *r)
{
	r->zeroes.iov_base = (void *)(uintptr_t)zero_bytes;
	r->zeroes.iov_len = r->len < ZERO_CHUNK ? r->len : ZERO_CHUNK;
	r->iov = &r->zeroes;
	r->niov = 1;
}

void io_req_begin(struct io_req *r)
{
	r->retries = 0;
	r->result = 0;
	if (r->op == IO_ZERO_WRITE)
		zeroes_next(r);
}

static bool finish(struct io_req *r, int result)
{
	r->result = result;
	return true;
}

static bool unsupported(int error)
{
	return error == -EOPNOTSUPP || error == -ENOSYS || error == -ENODEV || error == -EINVAL || error == -ENOTTY;
}

static bool step_failed(struct io_req *r, int error)
{
	if (error == -EINTR || error == -EAGAIN)
		return r->retries++ < MAX_RETRIES ? false : finish(r, -EIO);
	if (!io_ops[r->op].fallocate_mode || !unsupported(error))
		return finish(r, error);
	if (io_ops[r->op].advisory)
		return finish(r, 0);
	r->op = io_ops[r->op].instead;
	io_req_begin(r);
	return false;
}

static void iov_advance(struct io_req *r, u64 n)
{
	while (r->niov && n >= r->iov->iov_len) {
		n -= r->iov->iov_len;
		r->iov++;
		r->niov--;
	}
	if (r->niov) {
		r->iov->iov_base = (u8 *)r->iov->iov_base + n;
		r->iov->iov_len -= n;
	}
}

/* Success, unless what was done must still be made durable: only IO_WRITE can do both at once. */
static bool finish_ok(struct io_req *r)
{
	if (!r->durable || r->op == IO_WRITE || r->op == IO_FLUSH)
		return finish(r, 0);
	r->op = IO_FLUSH;
	return false;
}

bool io_req_step(struct io_req *r, i64 res)
{
	if (res < 0)
		return step_failed(r, (int)res);
	if (!io_ops[r->op].transfer)
		return finish_ok(r);
	/* No progress: the file ends before the disk does (it was cut under us), or the device takes no more. */
	if (res == 0 && r->len)
		return finish(r, r->op == IO_READ ? -EIO : -ENOSPC);
	r->off += (u64)res;
	r->len -= (u64)res;
	if (!r->len)
		return finish_ok(r);
	if (r->op == IO_ZERO_WRITE)
		zeroes_next(r);
	else
		iov_advance(r, (u64)res);
	return false;
}

int io_engine_new(struct io_engine **out, const char *kind, u32 depth, const struct io_client *client, struct err *e)
{
	int r;

	if (!strcmp(kind, "threads"))
		return io_threads_engine_new(out, depth, client, e);
	r = io_uring_engine_new(out, depth, client, e);
	if (!r || !strcmp(kind, "uring"))
		return r;
	/* Containers often forbid io_uring by seccomp; that is not worth a message to everybody. */
	log_msg(LOG_DEBUG, "%s; disks use threads instead", e->msg);
	return io_threads_engine_new(out, depth, client, e);
}

void io_engine_free(struct io_engine *eng)
{
	if (eng)
		eng->ops->free(eng);
}
