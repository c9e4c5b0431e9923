/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio block device (virtio 1.1, 5.2) over a disk image.
 *
 * A request is assumed to fail until its I/O has succeeded; every way out goes through request_publish.
 *
 * Threading: the vCPU that rings the doorbell takes the requests off the ring and submits them itself; completions arrive on that thread or
 * on an I/O thread, and take the queue's lock. No lock is held across block_submit. Reset waits for what is in flight by reference
 * count: one reference for each request, one for the device's being in operation.
 */
#include "virtio/blk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BLK_SEG_MAX (BLK_QUEUE_SIZE - 2) /* a request also has a header and a status */
#define BLK_BATCH 32
#define BLK_ROUNDS 16 /* batches a doorbell serves before an I/O thread takes over */

static struct virtio_blk *of(struct virtio_device *vd)
{
	return container_of(vd, struct virtio_blk, vd);
}

static bool stopping(const struct virtio_blk *blk)
{
	return __atomic_load_n(&blk->stopping, __ATOMIC_SEQ_CST);
}

/* The status is the last device-writable byte; the length given to the driver must cover it. */
static void request_publish(struct vq_request *vq, u8 status)
{
	iov_write(vq->write, vq->nwrite, vq->write_len - 1, &status, 1);
	vq_push(vq, vq->write_len);
}

/* Takes over a request from the ring. True when `br->io` is to be submitted, false when it was answered. Queue locked. */
static bool request_begin(struct virtio_blk *blk, struct blk_request *br)
{
	u8 status;

	if (!br->vq->write_len) {
		vq_breach(br->vq->q, "a block request has no room for its status");
		vq_forget(br->vq);
		return false;
	}
	status = blk_request_prepare(blk, br);
	if (status == BLK_PENDING)
		return true;
	request_publish(br->vq, status);
	return false;
}

/* ---- taking requests off a queue ---- */

/* Fills `batch`; returns how many and tells whether to come again. */
static u32 take_batch(struct virtio_blk *blk, struct virtqueue *q, struct block_req **batch, bool *more)
{
	struct vq_request *vq;
	u32 n = 0, taken = 0;

	pthread_mutex_lock(&q->lock);
	*more = false;
	if (!stopping(blk)) {
		vq_notify_off(q);
		while (taken++ < BLK_BATCH && (vq = vq_pop(q))) {
			struct blk_request *br = &blk->requests[q->index][vq->slot];

			br->vq = vq;
			if (request_begin(blk, br))
				batch[n++] = &br->io;
		}
		__atomic_add_fetch(&blk->refs, n, __ATOMIC_SEQ_CST);
		*more = vq_notify_on(q);
		vq_flush(q);
	}
	pthread_mutex_unlock(&q->lock);
	return n;
}

/* Serve a queue until it is empty, but no longer than a few batches: other vCPUs may keep filling it. */
static void serve(struct virtio_blk *blk, u32 index)
{
	struct block_req *batch[BLK_BATCH];
	bool more = true;

	for (u32 round = 0; more && round < BLK_ROUNDS; round++) {
		u32 n = take_batch(blk, &blk->vd.queue[index], batch, &more);

		if (n)
			block_submit(blk->image, batch, n);
	}
	if (!more)
		return;
	__atomic_or_fetch(&blk->kick_mask, 1u << index, __ATOMIC_SEQ_CST);
	block_kick(blk->image);
}

static void blk_notify(struct virtio_device *vd, u16 queue)
{
	serve(of(vd), queue);
}

static void blk_kicked(void *opaque)
{
	struct virtio_blk *blk = opaque;
	u32 mask = __atomic_exchange_n(&blk->kick_mask, 0, __ATOMIC_SEQ_CST);

	for (u32 i = 0; i < blk->vd.nqueues; i++)
		if (mask & 1u << i && virtio_running(&blk->vd))
			serve(blk, i);
}

/* ---- completion and reset ---- */

static void reset_finish(struct virtio_blk *blk)
{
	pthread_mutex_lock(&blk->vd.lock);
	blk->config.wce = blk->default_wce;
	pthread_mutex_unlock(&blk->vd.lock);
	__atomic_store_n(&blk->refs, 1, __ATOMIC_SEQ_CST);
	__atomic_store_n(&blk->stopping, false, __ATOMIC_SEQ_CST);
	virtio_reset_done(&blk->vd);
}

static void put_refs(struct virtio_blk *blk, u32 n)
{
	if (!__atomic_sub_fetch(&blk->refs, n, __ATOMIC_SEQ_CST))
		reset_finish(blk);
}

static void request_end(struct virtio_blk *blk, struct block_req *io)
{
	struct blk_request *br = container_of(io, struct blk_request, io);

	if (stopping(blk)) {
		vq_forget(br->vq);
		return;
	}
	if (io->result)
		log_limited(&blk->error_log, LOG_WARN, "virtio-blk: I/O error at byte %llu of the disk: %s; reported to the guest",
			    (unsigned long long)io->off, strerror(-io->result));
	request_publish(br->vq, io->result ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
}

static struct virtqueue *queue_of(struct block_req *io)
{
	return container_of(io, struct blk_request, io)->vq->q;
}

/* Requests of one queue stand together: each queue is locked, and its driver interrupted, once. */
static void blk_done(void *opaque, struct block_req **ios, u32 n)
{
	struct virtio_blk *blk = opaque;

	for (u32 i = 0; i < n;) {
		struct virtqueue *q = queue_of(ios[i]);

		pthread_mutex_lock(&q->lock);
		for (; i < n && queue_of(ios[i]) == q; i++)
			request_end(blk, ios[i]);
		vq_flush(q);
		pthread_mutex_unlock(&q->lock);
	}
	put_refs(blk, n);
}

static void blk_reset(struct virtio_device *vd)
{
	struct virtio_blk *blk = of(vd);

	__atomic_store_n(&blk->stopping, true, __ATOMIC_SEQ_CST);
	/* Whoever did not see the flag has the lock, and has counted its requests when we get it. */
	for (u32 i = 0; i < vd->nqueues; i++) {
		pthread_mutex_lock(&vd->queue[i].lock);
		pthread_mutex_unlock(&vd->queue[i].lock);
	}
	put_refs(blk, 1);
}

/* Only the cache mode is writable (virtio 1.1, 5.2.5.2). */
static void blk_config_written(struct virtio_device *vd, u32 off, u32 len, const u8 *old)
{
	struct virtio_blk *blk = of(vd);
	u8 wce = blk->config.wce & 1;
	u32 at = offsetof(struct virtio_blk_config, wce);

	memcpy(vd->config + off, old, len);
	if (off <= at && at < off + len && virtio_has(vd, VIRTIO_BLK_F_CONFIG_WCE))
		__atomic_store_n(&blk->config.wce, wce, __ATOMIC_RELAXED);
}

static const struct virtio_ops blk_ops = {
	.name = "virtio-blk",
	.id = VIRTIO_ID_BLOCK,
	.pci_class = 0x01, /* mass storage, SCSI: what system software expects of this device */
	.pci_subclass = 0x00,
	.notify = blk_notify,
	.config_written = blk_config_written,
	.reset = blk_reset,
};

/* ---- creation ---- */

static const char *const cache_modes[] = {"writeback", "writethrough", "none", "unsafe", NULL};
static const char *const discard_modes[] = {"on", "off", NULL};
static const char *const io_modes[] = {"auto", "uring", "threads", NULL};

static const struct opt_key blk_keys[] = {
	{.name = "", .type = OPT_STRING, .help = "image file or block device"},
	{.name = "readonly", .type = OPT_FLAG, .help = "the guest cannot write; the image may be shared"},
	{.name = "format", .type = OPT_STRING, .help = "image format; never guessed from the content", .def = "raw"},
	{.name = "serial", .type = OPT_STRING, .help = "serial number shown to the guest, up to 20 characters"},
	{.name = "cache",
	 .type = OPT_CHOICE,
	 .help = "when writes are safe: after a flush, at once, after a flush (and the host caches nothing), or never",
	 .def = "writeback",
	 .choices = cache_modes},
	{.name = "discard",
	 .type = OPT_CHOICE,
	 .help = "give space the guest discards back to the host",
	 .def = "on",
	 .choices = discard_modes},
	{.name = "io", .type = OPT_CHOICE, .help = "how the host does the I/O", .def = "auto", .choices = io_modes},
	{0},
};

static void fill_config(struct virtio_blk *blk, u32 nqueues)
{
	struct virtio_blk_config *c = &blk->config;

	c->capacity = blk->image->size / BLOCK_SECTOR;
	c->seg_max = BLK_SEG_MAX;
	c->blk_size = BLOCK_SECTOR;
	c->physical_block_exp = (u8)__builtin_ctz(blk->image->physical_block / BLOCK_SECTOR);
	c->min_io_size = (u16)(blk->image->physical_block / BLOCK_SECTOR);
	c->wce = blk->default_wce;
	c->num_queues = (u16)nqueues;
	c->max_discard_sectors = c->max_write_zeroes_sectors = BLK_RANGE_MAX;
	c->max_discard_seg = c->max_write_zeroes_seg = 1;
	c->discard_sector_alignment = c->min_io_size;
	c->write_zeroes_may_unmap = 1;
}

static u64 features(const struct block_image *image)
{
	u64 f = VIRTIO_BIT(VIRTIO_BLK_F_SEG_MAX) | VIRTIO_BIT(VIRTIO_BLK_F_BLK_SIZE) | VIRTIO_BIT(VIRTIO_BLK_F_TOPOLOGY) |
		VIRTIO_BIT(VIRTIO_BLK_F_FLUSH) | VIRTIO_BIT(VIRTIO_BLK_F_CONFIG_WCE) | VIRTIO_BIT(VIRTIO_BLK_F_MQ);

	if (image->readonly)
		return f | VIRTIO_BIT(VIRTIO_BLK_F_RO);
	return f | VIRTIO_BIT(VIRTIO_BLK_F_DISCARD) | VIRTIO_BIT(VIRTIO_BLK_F_WRITE_ZEROES);
}

static int blk_check(const struct opts *opts, struct err *e)
{
	const char *path = opts_str(opts, ""), *serial = opts_str(opts, "serial");

	if (!path || !*path)
		return err_set(e, EINVAL, "--disk: which image? Give a file, as in '--disk FILE'");
	if (serial && strlen(serial) > sizeof(((struct virtio_blk *)0)->serial))
		return err_set(e, EINVAL, "--disk: serial '%s' is longer than %zu characters", serial,
			       sizeof(((struct virtio_blk *)0)->serial));
	return block_check_format(path, opts_str(opts, "format"), e) ? err_prefix(e, "--disk") : 0;
}

static void set_serial(struct virtio_blk *blk, const char *serial)
{
	if (serial)
		memcpy(blk->serial, serial, strlen(serial));
}

static int open_image(struct virtio_blk *blk, const struct opts *opts, u32 nqueues, struct err *e)
{
	struct block_client client = {blk, blk_done, blk_kicked};
	const char *cache = opts_str(opts, "cache");
	struct block_options o = {
		.path = opts_str(opts, ""),
		.format = opts_str(opts, "format"),
		.io = opts_str(opts, "io"),
		.readonly = opts_num(opts, "readonly"),
		.unsafe = !strcmp(cache, "unsafe"),
		.direct = !strcmp(cache, "none"),
		.discard = !strcmp(opts_str(opts, "discard"), "on"),
		.depth = nqueues * BLK_QUEUE_SIZE,
	};

	blk->default_wce = strcmp(cache, "writethrough") != 0;
	return block_open(&blk->image, &o, &client, e);
}

static int alloc_requests(struct virtio_blk *blk, u32 nqueues, struct err *e)
{
	for (u32 i = 0; i < nqueues; i++) {
		blk->requests[i] = calloc(BLK_QUEUE_SIZE, sizeof(struct blk_request));
		if (!blk->requests[i])
			return err_set(e, ENOMEM, "virtio-blk: out of memory");
	}
	return 0;
}

static void blk_free(struct virtio_blk *blk)
{
	block_close(blk->image);
	for (u32 i = 0; i < VIRTIO_MAX_QUEUES; i++)
		free(blk->requests[i]);
	free(blk);
}

static const struct device_class blk_class;

static int blk_assemble(struct virtio_blk *blk, struct device_env *env, const struct opts *opts, struct err *e)
{
	u32 nqueues = env->ncpus < VIRTIO_MAX_QUEUES ? env->ncpus : VIRTIO_MAX_QUEUES;
	struct virtio_setup setup = {.ops = &blk_ops,
				     .cls = &blk_class,
				     .nqueues = nqueues,
				     .queue_size = BLK_QUEUE_SIZE,
				     .config = &blk->config,
				     .config_len = sizeof(blk->config)};
	int r = blk_check(opts, e);

	if (r)
		return r;
	set_serial(blk, opts_str(opts, "serial"));
	r = alloc_requests(blk, nqueues, e);
	if (!r)
		r = open_image(blk, opts, nqueues, e);
	if (r)
		return r;
	fill_config(blk, nqueues);
	setup.features = features(blk->image);
	return virtio_init(&blk->vd, env, &setup, e);
}

static int blk_create(struct device_env *env, const struct opts *opts, struct device **out, struct err *e)
{
	struct virtio_blk *blk = calloc(1, sizeof(*blk));
	int r;

	if (!blk)
		return err_set(e, ENOMEM, "virtio-blk: out of memory");
	blk->refs = 1;
	r = blk_assemble(blk, env, opts, e);
	if (r) {
		blk_free(blk);
		return r;
	}
	*out = &blk->vd.dev;
	return 0;
}

static void blk_destroy(struct device *d)
{
	struct virtio_blk *blk = container_of(d, struct virtio_blk, vd.dev);

	/* In this order: nothing in flight, then no I/O thread that might serve a queue, then no queues. */
	virtio_class_reset(d);
	block_close(blk->image);
	blk->image = NULL;
	virtio_fini(&blk->vd);
	blk_free(blk);
}

static const struct field blk_fields[] = {
	VIRTIO_FIELDS(struct virtio_blk),
	FIELD(struct virtio_blk, config.wce, FIELD_U8),
};

static const struct device_class blk_class = {
	.name = "blk",
	.stage = STAGE_PCI,
	.option = "disk",
	.summary = "a disk",
	.keys = blk_keys,
	.version = 1,
	.check = blk_check,
	.create = blk_create,
	.reset = virtio_class_reset,
	.destroy = blk_destroy,
	.loaded = virtio_class_loaded,
	.fields = blk_fields,
	.nfields = ARRAY_SIZE(blk_fields),
};
DEVICE_REGISTER(blk_class);
