/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Split virtqueue, device side. See queue.h for the contract. The guest owns the rings and may change them at any moment from another
 * vCPU: every value is loaded once into a private copy, checked there, and never looked at again.
 */
#include "virtio/queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DESC_ALIGN 16
#define AVAIL_ALIGN 2
#define USED_ALIGN 4

/* Ring sizes with the event index at the end, which is there whether negotiated or not (virtio 1.1, 2.6.6 and 2.6.8). */
static u64 desc_bytes(u32 size)
{
	return 16ull * size;
}
static u64 avail_bytes(u32 size)
{
	return 6 + 2ull * size;
}
static u64 used_bytes(u32 size)
{
	return 6 + 8ull * size;
}

static u16 *avail_used_event(struct virtqueue *q)
{
	return &q->avail->ring[q->size];
}
static u16 *used_avail_event(struct virtqueue *q)
{
	return (u16 *)&q->used->ring[q->size];
}

static void vq_free_all(struct virtqueue *q)
{
	for (q->nfree = 0; q->nfree < q->max_size; q->nfree++)
		q->free_slots[q->nfree] = (u16)(q->max_size - 1 - q->nfree);
}

int vq_init(struct virtqueue *q, struct guest_memory *mem, u16 index, u16 max_size, const struct vq_owner *owner, struct err *e)
{
	*q = (struct virtqueue){.mem = mem, .owner = *owner, .index = index, .max_size = max_size};
	q->requests = calloc(max_size, sizeof(*q->requests));
	q->free_slots = calloc(max_size, sizeof(*q->free_slots));
	if (!q->requests || !q->free_slots) {
		free(q->requests);
		free(q->free_slots);
		q->requests = NULL;
		return err_set(e, ENOMEM, "virtio queue %u: out of memory for %u requests", index, max_size);
	}
	pthread_mutex_init(&q->lock, NULL);
	vq_reset(q);
	return 0;
}

void vq_destroy(struct virtqueue *q)
{
	if (!q->requests)
		return;
	pthread_mutex_destroy(&q->lock);
	free(q->requests);
	free(q->free_slots);
	q->requests = NULL;
}

/* Atomic because doorbells look at it without a lock. */
static void set_enabled(struct virtqueue *q, bool on)
{
	__atomic_store_n(&q->enabled, on, __ATOMIC_RELAXED);
}

void vq_reset(struct virtqueue *q)
{
	q->desc_gpa = q->avail_gpa = q->used_gpa = 0;
	q->size = q->max_size;
	q->vector = VQ_NO_VECTOR;
	set_enabled(q, false);
	q->broken = q->event_idx = q->indirect = false;
	q->last_avail = q->used_idx = q->flushed_idx = q->told_idx = 0;
	q->desc = NULL;
	q->avail = NULL;
	q->used = NULL;
	vq_free_all(q);
}

/* The host address of a ring that must be aligned and lie whole in one writable slot (the device writes some, the driver all). */
static void *ring_at(struct virtqueue *q, gpa_t gpa, u64 len, u32 align)
{
	struct iovec iov;

	if (gpa % align || gm_iov(q->mem, gpa, len, true, &iov, 1) != 1 || iov.iov_len != len)
		return NULL;
	return iov.iov_base;
}

static const char *vq_map_rings(struct virtqueue *q)
{
	if (!q->size || q->size > q->max_size || (q->size & (q->size - 1)))
		return "the queue size is zero, too large or not a power of two";
	q->desc = ring_at(q, q->desc_gpa, desc_bytes(q->size), DESC_ALIGN);
	q->avail = ring_at(q, q->avail_gpa, avail_bytes(q->size), AVAIL_ALIGN);
	q->used = ring_at(q, q->used_gpa, used_bytes(q->size), USED_ALIGN);
	if (!q->desc || !q->avail || !q->used)
		return "a ring is misaligned or not in RAM";
	return NULL;
}

const char *vq_enable(struct virtqueue *q, bool event_idx, bool indirect)
{
	const char *why = vq_map_rings(q);

	if (why)
		return why;
	q->event_idx = event_idx;
	q->indirect = indirect;
	q->last_avail = q->used_idx = q->flushed_idx = q->told_idx = 0;
	set_enabled(q, true);
	return NULL;
}

const char *vq_loaded(struct virtqueue *q)
{
	const char *why;

	vq_free_all(q);
	q->flushed_idx = q->used_idx;
	q->told_idx = (u16)(q->used_idx - q->size); /* not known: rather twice than never */
	if (!q->enabled)
		return NULL;
	why = vq_map_rings(q);
	if (why)
		set_enabled(q, false);
	return why;
}

void vq_breach(struct virtqueue *q, const char *why)
{
	if (q->broken)
		return;
	q->broken = true;
	q->owner.breach(q->owner.opaque, q, why);
}

static bool vq_refuse(struct virtqueue *q, const char *why)
{
	vq_breach(q, why);
	return false;
}

static struct vring_desc load_desc(const struct vring_desc *d)
{
	struct vring_desc copy;

	memcpy(&copy, d, sizeof(copy));
	/* The copy is what was checked: keep the compiler from reading guest memory again. */
	__asm__ volatile("" : "+m"(copy));
	return copy;
}

/* Append the memory of one descriptor to the request. Readable buffers come first (virtio 1.1, 2.6.4.2). */
static bool request_add(struct virtqueue *q, struct vq_request *r, const struct vring_desc *d)
{
	bool write = d->flags & VRING_DESC_F_WRITE;
	u32 *total = write ? &r->write_len : &r->read_len;
	u32 used = r->nread + r->nwrite;
	int n;

	if (!write && r->nwrite)
		return vq_refuse(q, "a device-readable buffer follows a device-writable one");
	if (!d->len)
		return true;
	if (__builtin_add_overflow(*total, d->len, total))
		return vq_refuse(q, "a request is longer than 4 GiB");
	n = gm_iov(q->mem, d->addr, d->len, write, &r->iov[used], (int)(VQ_IOV_MAX - used));
	if (n <= 0)
		return vq_refuse(q, "a buffer is not in RAM, or in too many pieces");
	*(write ? &r->nwrite : &r->nread) += (u32)n;
	return true;
}

struct desc_table {
	const struct vring_desc *at;
	u32 count;
	bool indirect;
};

static bool enter_indirect(struct virtqueue *q, struct desc_table *t, const struct vring_desc *d)
{
	if (!q->indirect)
		return vq_refuse(q, "an indirect descriptor was not negotiated");
	if (t->indirect)
		return vq_refuse(q, "an indirect table holds an indirect descriptor");
	if (d->flags & VRING_DESC_F_NEXT)
		return vq_refuse(q, "an indirect descriptor is chained");
	if (!d->len || d->len % sizeof(*d))
		return vq_refuse(q, "an indirect table's length is not a multiple of 16");
	t->at = (const struct vring_desc *)gm_ptr(q->mem, d->addr, d->len);
	t->count = d->len / (u32)sizeof(*d);
	t->indirect = true;
	return t->at || vq_refuse(q, "an indirect table is not in RAM");
}

/* Follow a chain. It ends after at most q->size steps in the ring and as many in one indirect table, whatever the guest does. */
static bool request_collect(struct virtqueue *q, struct vq_request *r, u32 i)
{
	struct desc_table table = {q->desc, q->size, false};

	for (u32 left = q->size; left; left--) {
		struct vring_desc d;

		if (i >= table.count)
			return vq_refuse(q, "a descriptor index is out of range");
		d = load_desc(&table.at[i]);
		if (d.flags & VRING_DESC_F_INDIRECT) {
			if (!enter_indirect(q, &table, &d))
				return false;
			i = 0;
			left = q->size + 1u;
			continue;
		}
		if (!request_add(q, r, &d))
			return false;
		if (!(d.flags & VRING_DESC_F_NEXT))
			return true;
		i = d.next;
	}
	return vq_refuse(q, "a descriptor chain loops or is longer than the queue");
}

static struct vq_request *request_new(struct virtqueue *q, u16 head)
{
	u16 slot = q->free_slots[--q->nfree];
	struct vq_request *r = &q->requests[slot];

	r->q = q;
	r->head = head;
	r->slot = slot;
	r->nread = r->nwrite = r->read_len = r->write_len = 0;
	return r;
}

static void request_free(struct vq_request *r)
{
	r->q->free_slots[r->q->nfree++] = r->slot;
}

u16 vq_ready(const struct virtqueue *q)
{
	u16 n;

	if (!q->enabled || q->broken)
		return 0;
	n = (u16)(__atomic_load_n(&q->avail->idx, __ATOMIC_ACQUIRE) - q->last_avail);
	return n < q->size ? n : q->size;
}

/* Requests waiting, after the checks that keep a wild index from being believed. */
static bool vq_has_next(struct virtqueue *q)
{
	u16 n;

	if (!q->enabled || q->broken)
		return false;
	/* Acquire: pairs with the driver's barrier between filling the ring and moving idx (virtio 1.1, 2.6.13.3.1). */
	n = (u16)(__atomic_load_n(&q->avail->idx, __ATOMIC_ACQUIRE) - q->last_avail);
	if (n > q->size)
		return vq_refuse(q, "the available index jumped by more than the queue's size");
	if (n && !q->nfree)
		return vq_refuse(q, "more requests are in flight than the queue holds");
	return n != 0;
}

struct vq_request *vq_pop(struct virtqueue *q)
{
	struct vq_request *r;
	u16 head;

	if (!vq_has_next(q))
		return NULL;
	head = __atomic_load_n(&q->avail->ring[q->last_avail & (q->size - 1)], __ATOMIC_RELAXED);
	r = request_new(q, head);
	if (!request_collect(q, r, head)) {
		request_free(r);
		return NULL;
	}
	r->read = r->iov;
	r->write = r->iov + r->nread;
	q->last_avail++;
	return r;
}

void vq_unpop(struct vq_request *r)
{
	r->q->last_avail--;
	request_free(r);
}

/* Tell the observers of guest memory which buffers the device has filled. */
static void request_mark_written(struct vq_request *r, u32 written)
{
	for (u32 i = 0; i < r->nwrite && written; i++) {
		size_t n = r->write[i].iov_len < written ? r->write[i].iov_len : written;

		gm_written(r->q->mem, gm_gpa_of(r->q->mem, r->write[i].iov_base), n);
		written -= (u32)n;
	}
}

void vq_push(struct vq_request *r, u32 written)
{
	struct virtqueue *q = r->q;
	struct vring_used_elem *elem;

	if (q->enabled) {
		elem = &q->used->ring[q->used_idx & (q->size - 1)];
		request_mark_written(r, written);
		elem->id = r->head;
		elem->len = written;
		q->used_idx++;
	}
	request_free(r);
}

void vq_forget(struct vq_request *r)
{
	request_free(r);
}

/* Does the driver want to hear of the entries [told_idx, used_idx)? */
static bool vq_wants_interrupt(struct virtqueue *q)
{
	u16 event;

	/* Full barrier: our store of used->idx must be visible before we read what the driver asked for; it pairs with the driver's
	 * barrier between asking and looking at used->idx. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!q->event_idx)
		return q->used_idx != q->told_idx && !(__atomic_load_n(&q->avail->flags, __ATOMIC_RELAXED) & VRING_AVAIL_F_NO_INTERRUPT);
	event = __atomic_load_n(avail_used_event(q), __ATOMIC_RELAXED);
	return (u16)(q->used_idx - event - 1) < (u16)(q->used_idx - q->told_idx);
}

bool vq_show(struct virtqueue *q)
{
	if (!q->enabled)
		return false;
	if (q->flushed_idx != q->used_idx) {
		/* Release: buffers and ring entries before the index that covers them. */
		__atomic_store_n(&q->used->idx, q->used_idx, __ATOMIC_RELEASE);
		q->flushed_idx = q->used_idx;
		gm_written(q->mem, q->used_gpa, used_bytes(q->size));
	}
	return vq_wants_interrupt(q);
}

static void told(struct virtqueue *q, bool wanted)
{
	q->told_idx = q->used_idx;
	if (wanted)
		q->owner.interrupt(q->owner.opaque, q);
}

void vq_tell(struct virtqueue *q)
{
	told(q, q->enabled && vq_wants_interrupt(q));
}

void vq_flush(struct virtqueue *q)
{
	if (q->enabled && q->flushed_idx != q->used_idx)
		told(q, vq_show(q));
}

void vq_notify_off(struct virtqueue *q)
{
	/* With EVENT_IDX the event index simply stays behind: the driver crosses it at most once. */
	if (q->enabled && !q->event_idx)
		__atomic_store_n(&q->used->flags, VRING_USED_F_NO_NOTIFY, __ATOMIC_RELAXED);
}

bool vq_notify_beyond(struct virtqueue *q, u16 seen)
{
	if (!q->enabled || q->broken)
		return false;
	/* The driver notifies when it adds the entry with this index: not one that is there already, or no notification would come. */
	if (q->event_idx)
		__atomic_store_n(used_avail_event(q), (u16)(q->last_avail + seen), __ATOMIC_RELAXED);
	else
		__atomic_store_n(&q->used->flags, 0, __ATOMIC_RELAXED);
	gm_written(q->mem, q->used_gpa, used_bytes(q->size));
	/* Full barrier: our wish before our look at avail->idx; pairs with the driver's barrier between moving idx and reading our wish. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return vq_ready(q) > seen;
}

bool vq_notify_on(struct virtqueue *q)
{
	return vq_notify_beyond(q, 0);
}
