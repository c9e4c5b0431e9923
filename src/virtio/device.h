/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every virtio device shares: feature negotiation, status, queues, configuration space, reset (virtio 1.1, 2 and 3). A device adds
 * an ops table and its own state; the transport (pci.h) turns register accesses into calls of the functions below.
 *
 * Reset is asynchronous, as the specification allows: the driver writes 0 to the status and polls until it reads 0. The device stops
 * touching the rings, waits for I/O in flight without blocking the vCPU, then calls virtio_reset_done.
 *
 * Locks, outer to inner: vd->lock (registers), a queue's lock, the transport's interrupt lock. `status` is atomic because a breach is found
 * under a queue's lock.
 */
#pragma once

#include "base/log.h"
#include "hw/device.h"
#include "virtio/pci.h"
#include "virtio/queue.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>

#define VIRTIO_BIT(n) (1ull << (n))

struct virtio_device;

struct virtio_ops {
	const char *name; /* for messages: "virtio-blk" */
	u16 id;		  /* VIRTIO_ID_* */
	u8 pci_class, pci_subclass;
	u32 posts; /* queues, as bits, whose notify may come later, on the event loop */
	/* The driver has set DRIVER_OK. vd->lock held; may be NULL. */
	void (*start)(struct virtio_device *vd);
	/* A doorbell: on the vCPU's thread or, of a queue in `posts`, perhaps on the event loop's; no lock held, the device running. Must not block. */
	void (*notify)(struct virtio_device *vd, u16 queue);
	/* The driver wrote [off, off+len) of the configuration; vd->config holds the new bytes, `old` the bytes before. Put back what
	 * is read-only. vd->lock held; NULL: all read-only. */
	void (*config_written)(struct virtio_device *vd, u32 off, u32 len, const u8 *old);
	/* Stop, then call virtio_reset_done exactly once, from any thread, perhaps before returning. No lock held. */
	void (*reset)(struct virtio_device *vd);
};

/* Work of a device that the event loop does: posted at most once at a time, not run while the device does not. */
struct virtio_work {
	struct virtio_device *vd;
	void (*fn)(struct virtio_device *vd);
	bool posted; /* atomic */
};

struct virtio_device {
	struct device dev;
	const struct virtio_ops *ops;
	pthread_mutex_t lock;
	pthread_cond_t reset_cond;
	u8 *config; /* the device's configuration space, little-endian, inside the device */
	u32 config_len;
	u32 nqueues;
	u64 offered;
	struct log_limit breach_log;

	/* Saved. */
	u64 accepted;
	u8 status;
	u8 generation;
	struct virtio_pci pci;
	struct virtqueue queue[VIRTIO_MAX_QUEUES];

	bool running;	/* DRIVER_OK, no breach, no reset under way; atomic */
	bool resetting; /* under lock */
};

struct virtio_setup {
	const struct virtio_ops *ops;
	const struct device_class *cls;
	u64 features; /* beyond those of the transport and the queues, which are added here */
	u32 nqueues;
	u16 queue_size;
	void *config;
	u32 config_len;
};

/* Initialises the common part and plugs the device into the PCI bus. On failure nothing is left behind. */
int virtio_init(struct virtio_device *vd, struct device_env *env, const struct virtio_setup *s, struct err *e) must_check;
/* Resets, unplugs and releases the common part. The object itself stays the caller's. */
void virtio_fini(struct virtio_device *vd);

/* For device_class: reset waits until I/O in flight has ended. */
void virtio_class_reset(struct device *d);
void virtio_class_loaded(struct device *d);

/* For ops->reset. */
void virtio_reset_done(struct virtio_device *vd);

/* Any thread. Have work->fn run soon on the event loop. */
void virtio_work_init(struct virtio_work *w, struct virtio_device *vd, void (*fn)(struct virtio_device *vd));
void virtio_work_post(struct virtio_work *w);

/* Any thread. The configuration space was changed (under vd->lock) by the device: tell the driver. */
void virtio_config_changed(struct virtio_device *vd);

static inline bool virtio_running(const struct virtio_device *vd)
{
	return __atomic_load_n(&vd->running, __ATOMIC_ACQUIRE);
}

static inline bool virtio_has(const struct virtio_device *vd, u32 bit)
{
	return vd->accepted & VIRTIO_BIT(bit);
}

/* For transports. */
void virtio_set_status(struct virtio_device *vd, u8 status);
u8 virtio_get_status(const struct virtio_device *vd);
void virtio_set_accepted(struct virtio_device *vd, u32 word, u32 bits);	 /* vd->lock held */
void virtio_enable_queue(struct virtio_device *vd, struct virtqueue *q); /* vd->lock held */
void virtio_doorbell(struct virtio_device *vd, u32 queue);

/* The saved fields of a virtio device whose object holds the common part as `vd`. */
#define VIRTIO_FIELDS(s_)                                                                                                                  \
	FIELD(s_, vd.accepted, FIELD_U64), FIELD(s_, vd.status, FIELD_U8), FIELD(s_, vd.generation, FIELD_U8),                             \
		FIELD(s_, vd.pci.feature_select, FIELD_U32), FIELD(s_, vd.pci.driver_feature_select, FIELD_U32),                           \
		FIELD(s_, vd.pci.queue_select, FIELD_U16), FIELD(s_, vd.pci.config_vector, FIELD_U16), FIELD(s_, vd.pci.isr, FIELD_U8),    \
		FIELD(s_, vd.pci.window_bar, FIELD_U8), FIELD(s_, vd.pci.window_off, FIELD_U32), FIELD(s_, vd.pci.window_len, FIELD_U32),  \
		VIRTIO_QUEUE_FIELDS(s_)
#define VIRTIO_QUEUE_FIELD(s_, m_, type_) FIELD_EACH(s_, vd.queue, VIRTIO_MAX_QUEUES, m_, type_, 1)
#define VIRTIO_QUEUE_FIELDS(s_)                                                                                                            \
	VIRTIO_QUEUE_FIELD(s_, desc_gpa, FIELD_U64), VIRTIO_QUEUE_FIELD(s_, avail_gpa, FIELD_U64),                                         \
		VIRTIO_QUEUE_FIELD(s_, used_gpa, FIELD_U64), VIRTIO_QUEUE_FIELD(s_, size, FIELD_U16),                                      \
		VIRTIO_QUEUE_FIELD(s_, vector, FIELD_U16), VIRTIO_QUEUE_FIELD(s_, enabled, FIELD_BOOL),                                    \
		VIRTIO_QUEUE_FIELD(s_, broken, FIELD_BOOL), VIRTIO_QUEUE_FIELD(s_, event_idx, FIELD_BOOL),                                 \
		VIRTIO_QUEUE_FIELD(s_, indirect, FIELD_BOOL), VIRTIO_QUEUE_FIELD(s_, last_avail, FIELD_U16),                               \
		VIRTIO_QUEUE_FIELD(s_, used_idx, FIELD_U16)
