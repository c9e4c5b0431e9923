/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part of a virtio device that does not depend on transport or kind: status, features, queues, reset. See device.h.
 */
#include "virtio/device.h"

#include <errno.h>
#include <string.h>

#define FEATURES_COMMON (VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX) | VIRTIO_BIT(VIRTIO_RING_F_INDIRECT_DESC))
#define STATUS_DRIVER_BITS                                                                                                                 \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK |                  \
	 VIRTIO_CONFIG_S_FAILED)

static void set_running(struct virtio_device *vd, bool on)
{
	__atomic_store_n(&vd->running, on, __ATOMIC_RELEASE);
}

/* The driver broke the protocol: this device stands still until it is reset (virtio 1.1, 2.1.2); the VM goes on. */
static void virtio_breach(struct virtio_device *vd, const char *where, u32 index, const char *why)
{
	set_running(vd, false);
	__atomic_or_fetch(&vd->status, VIRTIO_CONFIG_S_NEEDS_RESET, __ATOMIC_SEQ_CST);
	log_limited(&vd->breach_log, LOG_WARN, "%s: %s %u: %s; the device needs a reset by the guest", vd->ops->name, where, index, why);
	if (virtio_get_status(vd) & VIRTIO_CONFIG_S_DRIVER_OK)
		virtio_pci_config_irq(vd);
}

static void queue_interrupt(void *opaque, struct virtqueue *q)
{
	virtio_pci_queue_irq(opaque, q);
}

static void queue_breach(void *opaque, struct virtqueue *q, const char *why)
{
	virtio_breach(opaque, "queue", q->index, why);
}

u8 virtio_get_status(const struct virtio_device *vd)
{
	return __atomic_load_n(&vd->status, __ATOMIC_ACQUIRE);
}

static bool features_acceptable(const struct virtio_device *vd)
{
	return !(vd->accepted & ~vd->offered) && virtio_has(vd, VIRTIO_F_VERSION_1);
}

void virtio_set_accepted(struct virtio_device *vd, u32 word, u32 bits)
{
	u64 mask = 0xffffffffull << (32 * word);

	if (virtio_get_status(vd) & VIRTIO_CONFIG_S_FEATURES_OK)
		return;
	vd->accepted = (vd->accepted & ~mask) | (u64)bits << (32 * word);
}

void virtio_enable_queue(struct virtio_device *vd, struct virtqueue *q)
{
	const char *why;

	if (q->enabled || !(virtio_get_status(vd) & VIRTIO_CONFIG_S_FEATURES_OK))
		return;
	pthread_mutex_lock(&q->lock);
	why = vq_enable(q, virtio_has(vd, VIRTIO_RING_F_EVENT_IDX), virtio_has(vd, VIRTIO_RING_F_INDIRECT_DESC));
	if (why)
		vq_breach(q, why);
	pthread_mutex_unlock(&q->lock);
}

/* The lock-free look at `enabled` is safe: it changes only in a reset, and the device looks again under the queue's lock. */
void virtio_doorbell(struct virtio_device *vd, u32 queue)
{
	if (queue >= vd->nqueues || !virtio_running(vd) || !__atomic_load_n(&vd->queue[queue].enabled, __ATOMIC_RELAXED))
		return;
	if (pci_bus_master(vd->pci.func))
		vd->ops->notify(vd, (u16)queue);
}

static void virtio_start(struct virtio_device *vd)
{
	if (virtio_running(vd) || virtio_get_status(vd) & VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	set_running(vd, true);
	if (vd->ops->start)
		vd->ops->start(vd);
	/* Work may already wait: a doorbell before DRIVER_OK was ignored, one before a save was lost with the saving process. */
	for (u32 i = 0; i < vd->nqueues; i++)
		virtio_doorbell(vd, i);
}

/* Bits are only ever added; those that depend on others wait for them (virtio 1.1, 2.1 and 3.1). */
static void status_add(struct virtio_device *vd, u8 bits)
{
	u8 add = bits & STATUS_DRIVER_BITS & ~virtio_get_status(vd);

	if (add & VIRTIO_CONFIG_S_FEATURES_OK && !features_acceptable(vd))
		add &= (u8)~VIRTIO_CONFIG_S_FEATURES_OK;
	if (add & VIRTIO_CONFIG_S_DRIVER_OK && !((virtio_get_status(vd) | add) & VIRTIO_CONFIG_S_FEATURES_OK))
		add &= (u8)~VIRTIO_CONFIG_S_DRIVER_OK;
	__atomic_or_fetch(&vd->status, add, __ATOMIC_SEQ_CST);
	if (add & VIRTIO_CONFIG_S_DRIVER_OK)
		virtio_start(vd);
}

static void virtio_begin_reset(struct virtio_device *vd)
{
	bool begin;

	pthread_mutex_lock(&vd->lock);
	begin = !vd->resetting;
	vd->resetting = true;
	set_running(vd, false);
	pthread_mutex_unlock(&vd->lock);
	if (begin)
		vd->ops->reset(vd);
}

void virtio_reset_done(struct virtio_device *vd)
{
	pthread_mutex_lock(&vd->lock);
	for (u32 i = 0; i < vd->nqueues; i++) {
		pthread_mutex_lock(&vd->queue[i].lock);
		vq_reset(&vd->queue[i]);
		pthread_mutex_unlock(&vd->queue[i].lock);
	}
	vd->accepted = 0;
	virtio_pci_reset(vd);
	vd->resetting = false;
	__atomic_store_n(&vd->status, 0, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&vd->reset_cond);
	pthread_mutex_unlock(&vd->lock);
}

void virtio_set_status(struct virtio_device *vd, u8 status)
{
	if (!status) {
		virtio_begin_reset(vd);
		return;
	}
	pthread_mutex_lock(&vd->lock);
	if (!vd->resetting)
		status_add(vd, status);
	pthread_mutex_unlock(&vd->lock);
}

void virtio_work_init(struct virtio_work *w, struct virtio_device *vd, void (*fn)(struct virtio_device *vd))
{
	*w = (struct virtio_work){vd, fn, false};
}

static void work_run(void *opaque)
{
	struct virtio_work *w = opaque;

	/* Cleared first: what is asked for from here on needs another run. */
	__atomic_store_n(&w->posted, false, __ATOMIC_SEQ_CST);
	if (virtio_running(w->vd))
		w->fn(w->vd);
}

void virtio_work_post(struct virtio_work *w)
{
	if (!__atomic_exchange_n(&w->posted, true, __ATOMIC_SEQ_CST))
		evloop_post(w->vd->dev.env->loop, work_run, w);
}

void virtio_config_changed(struct virtio_device *vd)
{
	pthread_mutex_lock(&vd->lock);
	vd->generation++;
	pthread_mutex_unlock(&vd->lock);
	if (virtio_running(vd))
		virtio_pci_config_irq(vd);
}

static void destroy_queues(struct virtio_device *vd)
{
	for (u32 i = 0; i < vd->nqueues; i++)
		vq_destroy(&vd->queue[i]);
	pthread_cond_destroy(&vd->reset_cond);
	pthread_mutex_destroy(&vd->lock);
}

int virtio_init(struct virtio_device *vd, struct device_env *env, const struct virtio_setup *s, struct err *e)
{
	struct vq_owner owner = {vd, queue_interrupt, queue_breach};
	int r = 0;

	vd->dev.cls = s->cls;
	vd->dev.env = env;
	vd->ops = s->ops;
	vd->offered = s->features | FEATURES_COMMON;
	vd->config = s->config;
	vd->config_len = s->config_len;
	pthread_mutex_init(&vd->lock, NULL);
	pthread_cond_init(&vd->reset_cond, NULL);
	for (vd->nqueues = 0; !r && vd->nqueues < s->nqueues; vd->nqueues++)
		r = vq_init(&vd->queue[vd->nqueues], env->mem, (u16)vd->nqueues, s->queue_size, &owner, e);
	if (!r)
		r = virtio_pci_plug(vd, e);
	if (r)
		destroy_queues(vd);
	return r;
}

static void virtio_reset_wait(struct virtio_device *vd)
{
	virtio_begin_reset(vd);
	pthread_mutex_lock(&vd->lock);
	while (vd->resetting)
		pthread_cond_wait(&vd->reset_cond, &vd->lock);
	pthread_mutex_unlock(&vd->lock);
}

void virtio_fini(struct virtio_device *vd)
{
	virtio_reset_wait(vd);
	virtio_pci_unplug(vd);
	destroy_queues(vd);
}

void virtio_class_reset(struct device *d)
{
	struct virtio_device *vd = container_of(d, struct virtio_device, dev);

	virtio_reset_wait(vd);
	vd->generation = 0;
	virtio_pci_power_on(vd);
}

/* Saved state is an input like any other: what does not pass the driver's checks leaves the device in need of a reset. */
void virtio_class_loaded(struct device *d)
{
	struct virtio_device *vd = container_of(d, struct virtio_device, dev);
	bool sane = !(vd->status & VIRTIO_CONFIG_S_FEATURES_OK) || features_acceptable(vd);
	const char *why;

	for (u32 i = 0; i < vd->nqueues; i++) {
		why = vq_loaded(&vd->queue[i]);
		if (why || !sane)
			vq_breach(&vd->queue[i], why ? why : "the saved features are not offered here");
	}
	if (vd->status & VIRTIO_CONFIG_S_DRIVER_OK)
		virtio_start(vd);
}
