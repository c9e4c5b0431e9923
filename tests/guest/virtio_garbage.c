/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every virtio device on the PCI bus gets broken rings: descriptor loops, chains out of range, addresses outside RAM, lengths that wrap, indirect
 * tables of nonsense, indices that jump. The device may ask for a reset; it must stay resettable and the machine must live.
 */
#include "lib.h"

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

static u32 config_read(u32 dev, u32 reg)
{
	outl(0xcf8, 1u << 31 | dev << 11 | (reg & 0xfc));
	return inl(0xcfc);
}

static void config_write(u32 dev, u32 reg, u32 v)
{
	outl(0xcf8, 1u << 31 | dev << 11 | (reg & 0xfc));
	outl(0xcfc, v);
}

struct virtio {
	volatile u8 *common, *notify;
	u32 notify_step;
};

static u64 bar_address(u32 dev, u32 bar)
{
	u64 lo = config_read(dev, 0x10 + 4 * bar);

	if ((lo & 6) == 4)
		lo |= (u64)config_read(dev, 0x14 + 4 * bar) << 32;
	return lo & ~15ul;
}

/* QEMU leaves BARs to firmware that a -kernel boot of a multiboot guest has run; a machine without firmware has set them up itself. */
static bool find(u32 dev, struct virtio *v)
{
	*v = (struct virtio){0};
	if ((config_read(dev, 0) & 0xffff) != 0x1af4)
		return false;
	config_write(dev, 4, config_read(dev, 4) | 6);
	for (u32 cap = config_read(dev, 0x34) & 0xfc; cap; cap = config_read(dev, cap) >> 8 & 0xfc) {
		u32 head = config_read(dev, cap), type = head >> 24;
		u64 at;

		if ((head & 0xff) != 9)
			continue;
		at = bar_address(dev, config_read(dev, cap + 4) & 0xff) + config_read(dev, cap + 8);
		if (at < 0xc0000000 || at >> 32)
			continue;
		if (type == 1)
			v->common = (volatile u8 *)at;
		if (type == 2) {
			v->notify = (volatile u8 *)at;
			v->notify_step = config_read(dev, cap + 16);
		}
	}
	return v->common && v->notify;
}

#define R8(off) (*(v->common + (off)))
#define R16(off) (*(volatile u16 *)(v->common + (off)))
#define R32(off) (*(volatile u32 *)(v->common + (off)))

static void reset(const struct virtio *v)
{
	u32 spins = 0;

	R8(20) = 0;
	while (R8(20)) {
		CHECK(++spins < 10000000);
		__asm__ volatile("pause");
	}
}

static void negotiate(const struct virtio *v)
{
	R8(20) = 1;
	R8(20) = 3;
	R32(0) = 0;
	R32(8) = 0;
	R32(12) = R32(4) & ~(1u << 29); /* all but event indices, so that every notification counts */
	R32(8) = 1;
	R32(12) = 1; /* VERSION_1 */
	R8(20) = 11;
	CHECK(R8(20) & 8);
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

static u64 ring_address(const void *good) { return rnd() % 6 ? (u64)good : random_address(); }

static void write64(const struct virtio *v, u32 off, u64 value)
{
	R32(off) = (u32)value;
	R32(off + 4) = (u32)(value >> 32);
}

static void setup_queue(const struct virtio *v, u32 q)
{
	R16(22) = (u16)q;
	if (!R16(24))
		return;
	R16(24) = (u16)(rnd() % 8 ? QUEUE : rnd());
	write64(v, 32, ring_address(table));
	write64(v, 40, ring_address(&avail));
	write64(v, 48, ring_address(used));
	R16(28) = 1;
}

static void notify(const struct virtio *v, u32 q)
{
	R16(22) = (u16)q;
	*(volatile u16 *)(v->notify + (u64)R16(30) * v->notify_step) = (u16)q;
}

static void abuse(const struct virtio *v)
{
	u32 queues = R16(18);

	reset(v);
	negotiate(v);
	memset(&avail, 0, sizeof(avail));
	for (u32 q = 0; q < queues && q < 4; q++)
		setup_queue(v, q);
	R8(20) = 15;
	for (u32 i = 0; i < 8; i++) {
		random_descriptors(table);
		random_descriptors(indirect);
		for (u32 k = 0; k < QUEUE; k++)
			avail.ring[k] = (u16)(rnd() % 6 ? rnd() % QUEUE : rnd());
		avail.idx = (u16)(rnd() % 4 ? avail.idx + rnd() % QUEUE : rnd());
		__asm__ volatile("" ::: "memory");
		for (u32 q = 0; q < queues && q < 4; q++)
			notify(v, q);
		if (rnd() % 8 == 0)
			R32((u32)(rnd() % 64) & ~3u) = (u32)rnd();
		(void)R8(20);
	}
	reset(v);
}

void guest_main(void)
{
	struct virtio v;
	u32 found = 0;

	for (u32 dev = 0; dev < 32; dev++) {
		if (!find(dev, &v))
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
