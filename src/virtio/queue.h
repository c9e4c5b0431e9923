/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The split virtqueue (virtio 1.1, 2.6), seen from the device: the only code that touches rings and descriptors. It copies every
 * descriptor once, checks it on the copy, and hands out a request with ready iovecs. A driver that breaks the protocol breaks its
 * queue: the owner is told, the queue stands still until the device is reset, and nothing else happens.
 *
 * Threading: every function marked "locked" needs q->lock held by the caller; a device may serve its queues from any threads.
 */
#pragma once

#include "base/guest_memory.h"
#include "virtio/iov.h"

#include <linux/virtio_ring.h>
#include <pthread.h>

#define VQ_MAX_SIZE 256
/* A chain has at most VQ_MAX_SIZE buffers; a few more pieces because a buffer may straddle two RAM slots. */
#define VQ_IOV_MAX (VQ_MAX_SIZE + GM_MAX_SLOTS)
#define VQ_NO_VECTOR 0xffff

struct virtqueue;

/* One descriptor chain. It belongs to the device from vq_pop to vq_push or vq_unpop; `slot` is unique among those. */
struct vq_request {
	struct virtqueue *q;
	u16 head;
	u16 slot;
	u32 nread, nwrite;	 /* pieces the device may read, may write */
	u32 read_len, write_len; /* their bytes */
	struct iovec *read, *write;
	struct iovec iov[VQ_IOV_MAX];
};

/* How a queue reaches its device. Called with q->lock held. */
struct vq_owner {
	void *opaque;
	void (*interrupt)(void *opaque, struct virtqueue *q);
	void (*breach)(void *opaque, struct virtqueue *q, const char *why);
};

struct virtqueue {
	pthread_mutex_t lock;
	struct guest_memory *mem;
	struct vq_owner owner;
	u16 index;
	u16 max_size;

	/* What the driver configured, and how far both sides have come: the saved state. */
	u64 desc_gpa, avail_gpa, used_gpa;
	u16 size;
	u16 vector;
	bool enabled;
	bool broken;
	bool event_idx, indirect;
	u16 last_avail; /* next entry of the available ring to take */
	u16 used_idx;	/* next entry of the used ring to fill */

	/* Derived. */
	u16 flushed_idx; /* what the driver has been shown of used_idx */
	u16 told_idx;	 /* and up to where it was told of that, if it asked */
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	struct vq_request *requests; /* max_size of them */
	u16 *free_slots;
	u32 nfree;
};

/* Prepares a disabled queue of at most `max_size` (a power of two up to VQ_MAX_SIZE) entries. -ENOMEM. */
int vq_init(struct virtqueue *q, struct guest_memory *mem, u16 index, u16 max_size, const struct vq_owner *owner, struct err *e) must_check;
void vq_destroy(struct virtqueue *q);

/* Locked. Back to the state after power-on. No request may be out. */
void vq_reset(struct virtqueue *q);

/* Locked. Checks size, alignment and place of the rings and enables the queue. NULL, or why the driver's set-up is refused. */
const char *vq_enable(struct virtqueue *q, bool event_idx, bool indirect) must_check;

/* Locked. After the saved fields were loaded: the same checks again. */
const char *vq_loaded(struct virtqueue *q) must_check;

/* Locked. The next request, or NULL when there is none or the queue does not run. */
struct vq_request *vq_pop(struct virtqueue *q);
/* Locked. Gives back the request popped last, as if it had not been taken. */
void vq_unpop(struct vq_request *r);
/* Locked. How many requests the driver has ready; bounded by the queue's size. */
u16 vq_ready(const struct virtqueue *q);

/* Locked. Completes a request whose first `written` device-writable bytes were written, and frees it. The driver sees it at vq_flush. */
void vq_push(struct vq_request *r, u32 written);
/* Locked. Frees a request without completing it, because the device is being reset. */
void vq_forget(struct vq_request *r);
/* Locked. Shows the driver what was pushed, and interrupts it if it asked for that. */
void vq_flush(struct virtqueue *q);
/* Locked. The two halves of vq_flush, for who lets the driver look by itself first. vq_show returns whether it asks to be told by now; when it has
 * looked meanwhile, it asks no more (with EVENT_IDX), and vq_tell is silent. */
bool vq_show(struct virtqueue *q);
void vq_tell(struct virtqueue *q);

/* Locked. Asks the driver not to notify (a hint), or to notify again. The latter returns true when requests came in between: then the
 * caller must look again, no notification will come for them. */
void vq_notify_off(struct virtqueue *q);
bool vq_notify_on(struct virtqueue *q);
/* Locked. As vq_notify_on for a device to which the `seen` requests that are ready are not enough: a notification comes, or true is
 * returned, when there are more. */
bool vq_notify_beyond(struct virtqueue *q, u16 seen);

/* Locked. The driver broke the protocol in a way only the device can see. */
void vq_breach(struct virtqueue *q, const char *why);
