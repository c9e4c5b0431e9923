/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every virtio device on the PCI bus gets broken rings: descriptor loops, chains out of range, addresses outside RAM, lengths that wrap,
 * indirect tables of nonsense, indices that jump. The device may ask for a reset; it must stay resettable and the machine must live.
 */
#include "pci.h"

#define QUEUE 16
#define NEXT 1
#define WRITE 2
#define INDIRECT 4

struct desc {
	u64 addr;
	u32 len;
	u16 flags, next;
};
static struct desc table[QUEUE] PAGE_ALIGNED;
static struct desc indirect[QUEUE] PAGE_ALIGNED;
static struct {
	u16 flags, idx, ring[QUEUE], event;
} avail PAGE_ALIGNED;
static u8 used[4096] PAGE_ALIGNED, data[65536] PAGE_ALIGNED;

static u64 state = 362436069521288629ul;
static u64 rnd(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static void negotiate(const struct virtio *v)
{
	V8(v, 20) = 1;
	V8(v, 20) = 3;
	V32(v, 0) = 0;
	V32(v, 8) = 0;
	V32(v, 12) = V32(v, 4) & ~(1u << 29); /* all but event indices, so that every notification counts */
	V32(v, 8) = 1;
	V32(v, 12) = 1; /* VERSION_1 */
	V8(v, 20) = 11;
	CHECK(V8(v, 20) & 8);
}

static u64 random_address(void)
{
	switch (rnd() % 12) {
	case 0:
		return rnd();
	case 1:
		return 0xfec00000;
	case 2:
		return 0xfffffffffffff000ul + rnd() % 4096;
	case 3:
		return 0xc0000000 - 8;
	case 4:
		return 128ul << 20; /* the end of RAM */
	case 5:
		return (u64)used;
	case 6:
		return (u64)table;
	default:
		return (u64)data + rnd() % 1024;
	}
}

static u32 random_length(void)
{
	static const u32 edges[] = {0, 1, 16, 17, 512, 4096, 65536, 0x7fffffff, 0xffffffff, 0x80000000};

	return rnd() & 1 ? edges[rnd() % ARRAY_SIZE(edges)] : rnd() % 2048;
}

static void random_descriptors(struct desc *d)
{
	for (u32 i = 0; i < QUEUE; i++) {
		d[i].addr = random_address();
		d[i].len = random_length();
		d[i].flags = (u16)(rnd() & (rnd() % 4 ? 3 : 0xffff));
		d[i].next = (u16)(rnd() % 5 ? rnd() % QUEUE : rnd());
		if (rnd() % 8 == 0) {
			d[i].flags |= INDIRECT;
			d[i].addr = rnd() & 1 ? (u64)indirect : random_address();
			d[i].len = rnd() & 1 ? 16 * (u32)(rnd() % QUEUE) : random_length();
		}
	}
}

static u64 ring_address(const void *good)
{
	return rnd() % 6 ? (u64)good : random_address();
}

static void setup_queue(const struct virtio *v, u32 q)
{
	V16(v, 22) = (u16)q;
	if (!V16(v, 24))
		return;
	V16(v, 24) = (u16)(rnd() % 8 ? QUEUE : rnd());
	virtio_write64(v, 32, ring_address(table));
	virtio_write64(v, 40, ring_address(&avail));
	virtio_write64(v, 48, ring_address(used));
	V16(v, 28) = 1;
}

static void abuse(const struct virtio *v)
{
	u32 queues = V16(v, 18);

	virtio_reset(v);
	negotiate(v);
	memset(&avail, 0, sizeof(avail));
	for (u32 q = 0; q < queues && q < 4; q++)
		setup_queue(v, q);
	V8(v, 20) = 15;
	for (u32 i = 0; i < 8; i++) {
		random_descriptors(table);
		random_descriptors(indirect);
		for (u32 k = 0; k < QUEUE; k++)
			avail.ring[k] = (u16)(rnd() % 6 ? rnd() % QUEUE : rnd());
		avail.idx = (u16)(rnd() % 4 ? avail.idx + rnd() % QUEUE : rnd());
		__asm__ volatile("" ::: "memory");
		for (u32 q = 0; q < queues && q < 4; q++)
			virtio_notify(v, q);
		if (rnd() % 8 == 0)
			V32(v, (u32)(rnd() % 64) & ~3u) = (u32)rnd();
		(void)V8(v, 20);
	}
	virtio_reset(v);
}

void guest_main(void)
{
	struct virtio v;
	u32 found = 0;

	for (u32 dev = 0; dev < 32; dev++) {
		if (!virtio_find(dev, &v))
			continue;
		found++;
		loop_name = "abuse";
		for (loop_count = 0; loop_count < 300; loop_count++)
			abuse(&v);
		loop_name = NULL;
	}
	if (!found)
		guest_skip("no virtio device with memory-mapped registers below 4 GiB");
}
