/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio entropy source (virtio 1.1, 5.4): fills the driver's buffers from the host kernel's generator.
 *
 * Threading: served in line on the notifying vCPU's thread; a notification costs at most RNG_MAX_REQUEST bytes of generator time, what is
 * left over goes to the event loop so that no flood holds a vCPU.
 */
#include "virtio/device.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define RNG_QUEUE_SIZE 8
#define RNG_MAX_REQUEST 4096u /* a longer buffer is filled in part, which virtio 1.1, 5.4.6 allows */
#define RNG_BATCH RNG_QUEUE_SIZE

struct virtio_rng {
	struct virtio_device vd;
	struct virtio_work again;
};

/* Fill up to RNG_MAX_REQUEST bytes; returns how many. The generator does not block once the host is up. */
static u32 rng_fill(const struct vq_request *r)
{
	u8 buf[RNG_MAX_REQUEST];
	size_t want = r->write_len < sizeof(buf) ? r->write_len : sizeof(buf);
	ssize_t n = getrandom(buf, want, GRND_NONBLOCK);

	return n > 0 ? (u32)iov_write(r->write, r->nwrite, 0, buf, (size_t)n) : 0;
}

/* Serves a bounded number of requests; true when some may be left. */
static bool rng_serve(struct virtio_rng *rng)
{
	struct virtqueue *q = &rng->vd.queue[0];
	struct vq_request *r;
	u32 n = 0;
	bool more;

	pthread_mutex_lock(&q->lock);
	while (n++ < RNG_BATCH && (r = vq_pop(q)))
		vq_push(r, rng_fill(r));
	vq_flush(q);
	more = vq_notify_on(q);
	pthread_mutex_unlock(&q->lock);
	return more;
}

static void rng_again(struct virtio_device *vd)
{
	struct virtio_rng *rng = container_of(vd, struct virtio_rng, vd);

	if (rng_serve(rng))
		virtio_work_post(&rng->again);
}

static void rng_notify(struct virtio_device *vd, u16 queue)
{
	rng_again(vd);
}

static void rng_reset(struct virtio_device *vd)
{
	virtio_reset_done(vd);
}

static const struct virtio_ops rng_ops = {
	.name = "virtio-rng",
	.id = VIRTIO_ID_RNG,
	.pci_class = 0xff,
	.notify = rng_notify,
	.reset = rng_reset,
};

static const struct device_class rng_class;

static int rng_create(struct device_env *env, const struct opts *opts, struct device **out, struct err *e)
{
	struct virtio_setup setup = {.ops = &rng_ops, .cls = &rng_class, .nqueues = 1, .queue_size = RNG_QUEUE_SIZE};
	struct virtio_rng *rng = calloc(1, sizeof(*rng));
	int r;

	if (!rng)
		return err_set(e, ENOMEM, "virtio-rng: out of memory");
	virtio_work_init(&rng->again, &rng->vd, rng_again);
	r = virtio_init(&rng->vd, env, &setup, e);
	if (r) {
		free(rng);
		return r;
	}
	*out = &rng->vd.dev;
	return 0;
}

static void rng_destroy(struct device *d)
{
	struct virtio_rng *rng = container_of(d, struct virtio_rng, vd.dev);

	virtio_fini(&rng->vd);
	free(rng);
}

static const struct field rng_fields[] = {VIRTIO_FIELDS(struct virtio_rng)};

static const struct device_class rng_class = {
	.name = "rng",
	.stage = STAGE_PCI,
	.summary = "entropy from the host's generator",
	.version = 1,
	.create = rng_create,
	.reset = virtio_class_reset,
	.destroy = rng_destroy,
	.loaded = virtio_class_loaded,
	.fields = rng_fields,
	.nfields = ARRAY_SIZE(rng_fields),
};
DEVICE_REGISTER(rng_class);
