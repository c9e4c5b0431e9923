/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio memory balloon, shared by balloon.c (pages, life) and balloon_stats.c (what the guest tells of its memory).
 *
 * Threading: see balloon.c.
 */
#pragma once

#include "virtio/device.h"

#include <linux/virtio_balloon.h>

#define BALLOON_QUEUES 5
#define BALLOON_STATSQ 2

/* What a queue is at; under its lock. */
struct balloon_task {
	struct vq_request *r; /* NULL: nothing. A buffer with statistics stays here until the next ones are wanted */
	u32 done;	      /* bytes of it */
};

struct balloon_stats {
	u64 period_ns;
	struct evtimer timer;
	u64 values[VIRTIO_BALLOON_S_NR]; /* by tag; atomic */
};

struct virtio_balloon {
	struct virtio_device vd;
	struct virtio_balloon_config config;
	struct virtio_work work;
	struct balloon_task task[BALLOON_QUEUES];
	struct balloon_stats stats;
	struct log_limit log;
	bool poisoned; /* atomic: free pages hold a value that is not 0 */

	/* For --stats; written on the event loop only, atomic. */
	u64 inflated, deflated; /* pages */
	u64 reported, returned; /* bytes: that the guest said were free, that the host got */
};

/* Any thread. How much memory the guest is asked to give up from now on, in all: a multiple of 4 KiB, less than it has. */
void balloon_set_target(struct virtio_balloon *b, u64 bytes);

void balloon_stats_init(struct virtio_balloon *b, struct evloop *loop, u64 period_ns);
void balloon_stats_fini(struct virtio_balloon *b);
/* Locked. Takes what the guest has answered, if anything. NULL, or how the driver broke the protocol. */
const char *balloon_stats_step(struct virtio_balloon *b, struct virtqueue *q);
