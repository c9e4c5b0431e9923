/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw images: byte n of the disk is byte n of the file. What is a mere copy from or to the page cache the submitter does itself; an engine does the
 * rest.
 *
 * A flush that failed once fails ever after: the kernel reports a lost write only to the first fsync, and a later success must not be
 * taken by the guest for safety of data that is gone.
 */
#include "block/block.h"
#include "block/hostfile.h"
#include "block/io_inline.h"
#include "block/io_writeout.h"

#include <errno.h>
#include <stdlib.h>

struct raw_image {
	struct block_image img;
	struct hostfile file;
	struct io_engine *io;
	struct io_inline inline_io;
	struct io_writeout writeout;
	struct block_client client;
	bool unsafe, discard;
	bool flush_failed; /* atomic */
};

static struct raw_image *of(struct block_image *img)
{
	return container_of(img, struct raw_image, img);
}

static const enum io_op io_op_of[] = {
	[BLOCK_READ] = IO_READ,	      [BLOCK_WRITE] = IO_WRITE,	    [BLOCK_FLUSH] = IO_FLUSH,
	[BLOCK_DISCARD] = IO_DISCARD, [BLOCK_ZERO] = IO_ZERO_UNMAP, [BLOCK_ZERO_KEEP] = IO_ZERO,
};

/* Requests that need no I/O; true when the result is known at once. */
static bool settled(struct raw_image *raw, struct block_req *r)
{
	r->result = 0;
	if (r->op == BLOCK_FLUSH && !raw->unsafe && __atomic_load_n(&raw->flush_failed, __ATOMIC_ACQUIRE)) {
		r->result = -EIO;
		return true;
	}
	return (r->op == BLOCK_FLUSH && raw->unsafe) || (r->op == BLOCK_DISCARD && !raw->discard) || (r->op != BLOCK_FLUSH && !r->len);
}

/* May this go past the page cache? */
static bool goes_direct(const struct raw_image *raw, const struct block_req *r)
{
	u64 all = r->off | r->len;

	if (raw->file.direct_fd < 0 || (r->op != BLOCK_READ && r->op != BLOCK_WRITE))
		return false;
	for (u32 i = 0; i < r->niov; i++)
		all |= (u64)(uintptr_t)r->iov[i].iov_base | r->iov[i].iov_len;
	return !(all % raw->file.direct_align);
}

static void translate(struct raw_image *raw, struct block_req *r)
{
	r->io = (struct io_req){.op = io_op_of[r->op],
				.durable = r->durable && !raw->unsafe,
				.fd = raw->file.fd,
				.off = r->off,
				.len = r->len,
				.iov = r->iov,
				.niov = r->niov};
	if (r->op == BLOCK_ZERO && !raw->discard)
		r->io.op = IO_ZERO;
	if (goes_direct(raw, r)) {
		r->io.direct = true;
		r->io.fd = raw->file.direct_fd;
	}
}

static void finished(struct raw_image *raw, struct block_req *r)
{
	r->result = r->io.result;
	if (r->result && (r->op == BLOCK_FLUSH || r->durable))
		__atomic_store_n(&raw->flush_failed, true, __ATOMIC_RELEASE);
	if (!r->result && r->op == BLOCK_WRITE && !raw->unsafe && !r->io.direct)
		io_writeout_written(&raw->writeout, r->off, r->len);
}

static bool better_left_to_engine(const struct raw_image *raw, const struct block_req *r)
{
	return r->op == BLOCK_READ && r->len < IO_INLINE_READ_MIN && raw->io->ops->small_reads_at_once;
}

/* True when it is done, because it needs no I/O or none that has to be waited for. */
static bool done_at_once(struct raw_image *raw, struct block_req *r, u64 *budget)
{
	bool done;

	if (settled(raw, r))
		return true;
	translate(raw, r);
	done = !better_left_to_engine(raw, r) && io_inline_try(&raw->inline_io, &r->io, budget);
	if (done)
		finished(raw, r);
	return done;
}

static void raw_submit(struct block_image *img, struct block_req **reqs, u32 n)
{
	struct raw_image *raw = of(img);
	struct block_req *done[IO_BATCH];
	struct io_req *ios[IO_BATCH];
	u32 ndone = 0, nios = 0;
	u64 budget = IO_INLINE_BUDGET;

	for (u32 i = 0; i < n; i++) {
		if (done_at_once(raw, reqs[i], &budget))
			done[ndone++] = reqs[i];
		else
			ios[nios++] = &reqs[i]->io;
		if ((nios == IO_BATCH || i + 1 == n) && nios) {
			io_submit(raw->io, ios, nios);
			nios = 0;
		}
		if ((ndone == IO_BATCH || i + 1 == n) && ndone) {
			raw->client.done(raw->client.opaque, done, ndone);
			ndone = 0;
		}
	}
}

static void raw_done(void *opaque, struct io_req **ios, u32 n)
{
	struct raw_image *raw = opaque;
	struct block_req *reqs[IO_BATCH];
	u32 ndone = 0;

	for (u32 i = 0; i < n; i++) {
		if (io_writeout_owns(&raw->writeout, ios[i]))
			continue;
		reqs[ndone] = container_of(ios[i], struct block_req, io);
		finished(raw, reqs[ndone++]);
	}
	if (ndone)
		raw->client.done(raw->client.opaque, reqs, ndone);
}

static void raw_kicked(void *opaque)
{
	struct raw_image *raw = opaque;

	raw->client.kicked(raw->client.opaque);
}

static void raw_kick(struct block_image *img)
{
	io_kick(of(img)->io);
}

static void raw_close(struct block_image *img)
{
	struct raw_image *raw = of(img);

	io_writeout_destroy(&raw->writeout);
	io_engine_free(raw->io);
	hostfile_close(&raw->file);
	free(raw);
}

static int open_file(struct raw_image *raw, const struct block_options *o, struct err *e)
{
	int r = hostfile_open(&raw->file, o->path, o->readonly, e);

	if (r || !o->direct)
		return r;
	r = hostfile_open_direct(&raw->file, o->path, o->readonly, e);
	if (r)
		hostfile_close(&raw->file);
	return r;
}

static int raw_open(struct block_image **out, const struct block_options *o, const struct block_client *client, struct err *e)
{
	struct raw_image *raw = calloc(1, sizeof(*raw));
	struct io_client io_client = {raw, raw_done, raw_kicked};
	int r;

	if (!raw)
		return err_set(e, ENOMEM, "disk '%s': out of memory", o->path);
	r = open_file(raw, o, e);
	if (r) {
		free(raw);
		return r;
	}
	raw->client = *client;
	raw->unsafe = o->unsafe;
	raw->discard = o->discard;
	raw->img = (struct block_image){&block_raw, raw->file.size, raw->file.physical_block, o->readonly};
	r = io_engine_new(&raw->io, o->io, o->depth + IO_WRITEOUT_REQS, &io_client, e);
	if (r) {
		hostfile_close(&raw->file);
		free(raw);
		return r;
	}
	io_writeout_init(&raw->writeout, raw->io, raw->file.fd);
	*out = &raw->img;
	return 0;
}

const struct block_format block_raw = {"raw", raw_open, raw_submit, raw_kick, raw_close};
