/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of the virtio block device (virtio 1.1, 5.2.6): header and ranges are copied out of guest memory, checked against the disk, and
 * turned into image requests. A table says which request types there are.
 *
 * Threading: the queue is locked.
 */
#include "virtio/blk.h"

#include <string.h>

static bool range_ok(const struct virtio_blk *blk, u64 sector, u64 bytes)
{
	u64 off, end;

	return !__builtin_mul_overflow(sector, (u64)BLOCK_SECTOR, &off) && !__builtin_add_overflow(off, bytes, &end) &&
	       end <= blk->image->size;
}

/* Writes must be durable at once unless the driver knows of a cache and can flush it (virtio 1.1, 5.2.5.1 and 5.2.6.2). */
static bool write_through(const struct virtio_blk *blk)
{
	return !virtio_has(&blk->vd, VIRTIO_BLK_F_FLUSH) || !__atomic_load_n(&blk->config.wce, __ATOMIC_RELAXED);
}

static u8 prepare_transfer(struct virtio_blk *blk, struct blk_request *br, enum block_op op, u64 sector, u64 skip, u64 len)
{
	const struct vq_request *vq = br->vq;
	bool write = op == BLOCK_WRITE;

	if (len % BLOCK_SECTOR || !range_ok(blk, sector, len))
		return VIRTIO_BLK_S_IOERR;
	br->io = (struct block_req){.op = op, .off = sector * BLOCK_SECTOR, .len = len, .iov = br->iov};
	br->io.durable = write && write_through(blk);
	br->io.niov = write ? iov_slice(vq->read, vq->nread, skip, len, br->iov) : iov_slice(vq->write, vq->nwrite, skip, len, br->iov);
	return BLK_PENDING;
}

static u8 prepare_read(struct virtio_blk *blk, struct blk_request *br, const struct virtio_blk_outhdr *h)
{
	return prepare_transfer(blk, br, BLOCK_READ, h->sector, 0, br->vq->write_len - 1);
}

static u8 prepare_write(struct virtio_blk *blk, struct blk_request *br, const struct virtio_blk_outhdr *h)
{
	if (blk->image->readonly)
		return VIRTIO_BLK_S_IOERR;
	return prepare_transfer(blk, br, BLOCK_WRITE, h->sector, sizeof(*h), br->vq->read_len - sizeof(*h));
}

static u8 prepare_flush(struct virtio_blk *blk, struct blk_request *br, const struct virtio_blk_outhdr *h)
{
	if (blk->image->readonly)
		return VIRTIO_BLK_S_OK;
	br->io = (struct block_req){.op = BLOCK_FLUSH};
	return BLK_PENDING;
}

/* Discard and write-zeroes name their range in the data: exactly one, as the configuration says. */
static u8 prepare_range(struct virtio_blk *blk, struct blk_request *br, u32 known_flags, enum block_op op, enum block_op op_unmap)
{
	struct virtio_blk_discard_write_zeroes range;
	u64 bytes;

	if (blk->image->readonly || br->vq->read_len != sizeof(struct virtio_blk_outhdr) + sizeof(range))
		return VIRTIO_BLK_S_IOERR;
	iov_read(br->vq->read, br->vq->nread, sizeof(struct virtio_blk_outhdr), &range, sizeof(range));
	bytes = (u64)range.num_sectors * BLOCK_SECTOR;
	if (range.flags & ~known_flags)
		return VIRTIO_BLK_S_UNSUPP;
	if (range.num_sectors > BLK_RANGE_MAX || !range_ok(blk, range.sector, bytes))
		return VIRTIO_BLK_S_IOERR;
	br->io = (struct block_req){.op = op, .off = range.sector * BLOCK_SECTOR, .len = bytes, .durable = write_through(blk)};
	if (range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)
		br->io.op = op_unmap;
	return BLK_PENDING;
}

static u8 prepare_discard(struct virtio_blk *blk, struct blk_request *br, const struct virtio_blk_outhdr *h)
{
	return prepare_range(blk, br, 0, BLOCK_DISCARD, BLOCK_DISCARD);
}

static u8 prepare_zeroes(struct virtio_blk *blk, struct blk_request *br, const struct virtio_blk_outhdr *h)
{
	return prepare_range(blk, br, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP, BLOCK_ZERO_KEEP, BLOCK_ZERO);
}

static u8 prepare_get_id(struct virtio_blk *blk, struct blk_request *br, const struct virtio_blk_outhdr *h)
{
	size_t room = br->vq->write_len - 1;

	iov_write(br->vq->write, br->vq->nwrite, 0, blk->serial, room < sizeof(blk->serial) ? room : sizeof(blk->serial));
	return VIRTIO_BLK_S_OK;
}

static const struct blk_type {
	u32 type;
	u8 (*prepare)(struct virtio_blk *blk, struct blk_request *br, const struct virtio_blk_outhdr *h);
} blk_types[] = {
	/* clang-format off */
	{VIRTIO_BLK_T_IN, prepare_read},
	{VIRTIO_BLK_T_OUT, prepare_write},
	{VIRTIO_BLK_T_FLUSH, prepare_flush},
	{VIRTIO_BLK_T_DISCARD, prepare_discard},
	{VIRTIO_BLK_T_WRITE_ZEROES, prepare_zeroes},
	{VIRTIO_BLK_T_GET_ID, prepare_get_id},
	/* clang-format on */
};

u8 blk_request_prepare(struct virtio_blk *blk, struct blk_request *br)
{
	struct virtio_blk_outhdr h;

	if (iov_read(br->vq->read, br->vq->nread, 0, &h, sizeof(h)) != sizeof(h))
		return VIRTIO_BLK_S_IOERR;
	for (u32 i = 0; i < ARRAY_SIZE(blk_types); i++)
		if (blk_types[i].type == h.type)
			return blk_types[i].prepare(blk, br, &h);
	return VIRTIO_BLK_S_UNSUPP;
}
