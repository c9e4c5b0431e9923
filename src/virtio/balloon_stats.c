/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory statistics of a guest (virtio 1.2, 5.5.6.3). This queue works the other way round: the guest's buffer holds its answer and stays here, and
 * giving it back is the question for the next one.
 *
 * Threading: the event loop.
 */
#include "virtio/balloon.h"

#define ENTRIES_MAX 64 /* of one answer; ten kinds are known */

static void ask(void *opaque)
{
	struct virtio_balloon *b = opaque;
	struct virtqueue *q = &b->vd.queue[BALLOON_STATSQ];
	struct balloon_task *t = &b->task[BALLOON_STATSQ];

	pthread_mutex_lock(&q->lock);
	if (t->r && virtio_running(&b->vd)) {
		vq_push(t->r, 0);
		t->r = NULL;
		vq_flush(q);
	}
	pthread_mutex_unlock(&q->lock);
}

static void take_answer(struct balloon_stats *stats, const struct vq_request *r)
{
	struct virtio_balloon_stat s;
	u32 n = r->read_len / (u32)sizeof(s);

	for (u32 i = 0; i < n && i < ENTRIES_MAX; i++) {
		iov_read(r->read, r->nread, i * sizeof(s), &s, sizeof(s));
		if (s.tag < VIRTIO_BALLOON_S_NR)
			__atomic_store_n(&stats->values[s.tag], s.val, __ATOMIC_RELAXED);
	}
}

const char *balloon_stats_step(struct virtio_balloon *b, struct virtqueue *q)
{
	struct balloon_task *t = &b->task[BALLOON_STATSQ];

	if (t->r)
		return vq_ready(q) ? "a second buffer with statistics" : NULL;
	t->r = vq_pop(q);
	if (t->r) {
		take_answer(&b->stats, t->r);
		timer_arm(&b->stats.timer, host_now_ns() + b->stats.period_ns);
	}
	return NULL;
}

void balloon_stats_init(struct virtio_balloon *b, struct evloop *loop, u64 period_ns)
{
	b->stats.period_ns = period_ns;
	timer_init(&b->stats.timer, loop, ask, b);
}

void balloon_stats_fini(struct virtio_balloon *b)
{
	timer_disarm(&b->stats.timer);
}
