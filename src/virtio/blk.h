/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio block device, shared by blk.c (queues, completion, life) and blk_request.c (what one request asks for).
 *
 * Threading: see blk.c.
 */
#pragma once

#include "block/block.h"
#include "virtio/device.h"

#include <linux/virtio_blk.h>

#define BLK_QUEUE_SIZE 256
#define BLK_RANGE_MAX (1u << 22) /* sectors of one discard or write-zeroes: 2 GiB */
#define BLK_PENDING 0xff	 /* not a status: I/O was set up */

struct blk_request {
	struct block_req io;
	struct vq_request *vq;
	struct iovec iov[VQ_IOV_MAX];
};

struct virtio_blk {
	struct virtio_device vd;
	struct block_image *image;
	struct virtio_blk_config config;
	char serial[VIRTIO_BLK_ID_BYTES];
	bool default_wce;
	struct log_limit error_log;
	struct blk_request *requests[VIRTIO_MAX_QUEUES]; /* as many as the queue has slots */
	u32 refs;					 /* atomic */
	bool stopping;					 /* atomic; set with no queue's lock held, then each lock taken once */
	u32 kick_mask;					 /* atomic: queues that an I/O thread should serve */
};

/* What the request in br->vq asks for, checked: BLK_PENDING with br->io ready to be submitted, or its status. Queue locked. */
u8 blk_request_prepare(struct virtio_blk *blk, struct blk_request *br);
