/* SPDX-License-Identifier: Apache-2.0 */
/* PCI configuration space and the registers of modern virtio devices, for the guests that drive them. */
#pragma once

#include "lib.h"

struct virtio {
	volatile u8 *common, *notify, *device;
	u32 notify_step;
	u32 device_id;
};

static inline u32 pci_read(u32 dev, u32 reg)
{
	outl(0xcf8, 1u << 31 | dev << 11 | (reg & 0xfc));
	return inl(0xcfc);
}

static inline void pci_write(u32 dev, u32 reg, u32 v)
{
	outl(0xcf8, 1u << 31 | dev << 11 | (reg & 0xfc));
	outl(0xcfc, v);
}

static inline u64 pci_bar(u32 dev, u32 bar)
{
	u64 lo = pci_read(dev, 0x10 + 4 * bar);

	if ((lo & 6) == 4)
		lo |= (u64)pci_read(dev, 0x14 + 4 * bar) << 32;
	return lo & ~15ul;
}

/* The device in slot dev, with memory and bus mastering on; false when it is no virtio device whose registers lie below 4 GiB. */
static inline bool virtio_find(u32 dev, struct virtio *v)
{
	*v = (struct virtio){0};
	if ((pci_read(dev, 0) & 0xffff) != 0x1af4)
		return false;
	v->device_id = pci_read(dev, 0) >> 16;
	pci_write(dev, 4, pci_read(dev, 4) | 6);
	for (u32 cap = pci_read(dev, 0x34) & 0xfc; cap; cap = pci_read(dev, cap) >> 8 & 0xfc) {
		u32 head = pci_read(dev, cap), type = head >> 24;
		u64 at;

		if ((head & 0xff) != 9)
			continue;
		at = pci_bar(dev, pci_read(dev, cap + 4) & 0xff) + pci_read(dev, cap + 8);
		if (at < 0xc0000000 || at >> 32)
			continue;
		if (type == 1)
			v->common = (volatile u8 *)at;
		if (type == 4)
			v->device = (volatile u8 *)at;
		if (type == 2) {
			v->notify = (volatile u8 *)at;
			v->notify_step = pci_read(dev, cap + 16);
		}
	}
	return v->common && v->notify;
}

#define PCI_SLOTS 32

/* The slot of the first virtio device of this kind; PCI_SLOTS when there is none. */
static inline u32 virtio_find_id(u32 device_id, struct virtio *v)
{
	for (u32 dev = 0; dev < PCI_SLOTS; dev++)
		if (virtio_find(dev, v) && v->device_id == device_id)
			return dev;
	return PCI_SLOTS;
}

#define V8(v, off) (*((v)->common + (off)))
#define V16(v, off) (*(volatile u16 *)((v)->common + (off)))
#define V32(v, off) (*(volatile u32 *)((v)->common + (off)))

static inline void virtio_write64(const struct virtio *v, u32 off, u64 value)
{
	V32(v, off) = (u32)value;
	V32(v, off + 4) = (u32)(value >> 32);
}

static inline void virtio_reset(const struct virtio *v)
{
	u32 spins = 0;

	V8(v, 20) = 0;
	while (V8(v, 20)) {
		CHECK(++spins < 10000000);
		__asm__ volatile("pause");
	}
}

#define VIRTQ_SIZE 8
#define VIRTQ_NEXT 1 /* flags of a descriptor */
#define VIRTQ_WRITE 2
#define VIRTIO_NO_VECTOR 0xffff

struct virtq {
	struct virtq_desc {
		u64 addr;
		u32 len;
		u16 flags, next;
	} table[VIRTQ_SIZE] PAGE_ALIGNED;
	volatile struct {
		u16 flags, idx, ring[VIRTQ_SIZE], event;
	} avail PAGE_ALIGNED;
	volatile struct {
		u16 flags, idx;
		struct {
			u32 id, len;
		} ring[VIRTQ_SIZE];
	} used PAGE_ALIGNED;
};

/* The device anew, with no feature but VIRTIO_F_VERSION_1 and with queue 0, whose interrupt is this MSI-X vector. */
static inline void virtio_start(const struct virtio *v, struct virtq *q, u16 vector)
{
	virtio_reset(v);
	V8(v, 20) = 1;
	V8(v, 20) = 3;
	V32(v, 8) = 0;
	V32(v, 12) = 0;
	V32(v, 8) = 1;
	V32(v, 12) = 1;
	V8(v, 20) = 11;
	CHECK(V8(v, 20) & 8);
	V16(v, 16) = VIRTIO_NO_VECTOR; /* for changes of the configuration */
	V16(v, 22) = 0;
	V16(v, 24) = VIRTQ_SIZE;
	V16(v, 26) = vector;
	CHECK_EQ(V16(v, 26), vector);
	virtio_write64(v, 32, (u64)q->table);
	virtio_write64(v, 40, (u64)&q->avail);
	virtio_write64(v, 48, (u64)&q->used);
	V16(v, 28) = 1;
	q->avail.idx = q->used.idx = 0;
	V8(v, 20) = 15;
}

static inline void virtio_notify(const struct virtio *v, u32 q)
{
	V16(v, 22) = (u16)q;
	*(volatile u16 *)(v->notify + (u64)V16(v, 30) * v->notify_step) = (u16)q;
}

/* The chain of descriptors that begins with the first is handed to queue 0, and comes back used. */
static inline void virtio_request(const struct virtio *v, struct virtq *q)
{
	u16 seen = q->used.idx;
	u64 begin = rdtsc();

	q->avail.ring[q->avail.idx % VIRTQ_SIZE] = 0;
	__asm__ volatile("" ::: "memory");
	q->avail.idx++;
	__asm__ volatile("mfence" ::: "memory");
	virtio_notify(v, 0);
	while (q->used.idx == seen)
		CHECK(rdtsc() - begin < 20000000000ul);
}
