/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code that a device writes: sectors of a disk are read over code that has just run. The first sectors of the disk hold a function each,
 * which returns the number of its sector (run.py makes the image).
 */
#include "pci.h"

#define QUEUE 8
#define SECTORS 64
#define BLK_ID 0x1042

struct desc {
	u64 addr;
	u32 len;
	u16 flags, next;
};
static struct desc table[QUEUE] PAGE_ALIGNED;
static volatile struct {
	u16 flags, idx, ring[QUEUE], event;
} avail PAGE_ALIGNED;
static volatile struct {
	u16 flags, idx;
	struct {
		u32 id, len;
	} ring[QUEUE];
} used PAGE_ALIGNED;
static struct {
	u32 type, reserved;
	u64 sector;
} request;
static volatile u8 status;
static u8 *code;
static struct virtio disk;

static void start(const struct virtio *v)
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
	V16(v, 22) = 0;
	V16(v, 24) = QUEUE;
	virtio_write64(v, 32, (u64)table);
	virtio_write64(v, 40, (u64)&avail);
	virtio_write64(v, 48, (u64)&used);
	V16(v, 28) = 1;
	V8(v, 20) = 15;
}

static void read_sector(u64 sector, void *to)
{
	u16 seen = used.idx;
	u64 begin = rdtsc();

	request.type = 0;
	request.sector = sector;
	status = 0xff;
	table[0] = (struct desc){(u64)&request, 16, 1, 1};
	table[1] = (struct desc){(u64)to, 512, 3, 2};
	table[2] = (struct desc){(u64)&status, 1, 2, 0};
	avail.ring[avail.idx % QUEUE] = 0;
	__asm__ volatile("" ::: "memory");
	avail.idx++;
	__asm__ volatile("mfence" ::: "memory");
	virtio_notify(&disk, 0);
	while (used.idx == seen)
		CHECK(rdtsc() - begin < 20000000000ul);
	CHECK_EQ(status, 0);
}

static void code_from_disk(void)
{
	u64 sector = loop_count % SECTORS;

	read_sector(sector, code);
	CHECK_EQ(((u64(*)(void))code)(), sector);
	read_sector((sector + 1) % SECTORS, code);
	CHECK_EQ(((u64(*)(void))code)(), (sector + 1) % SECTORS);
}

/* The transfer crosses from a data page into the page of the code. */
static void tail_of_a_transfer(void)
{
	u64 sector = loop_count % SECTORS;

	read_sector(sector, code + 4096 - 256);
	read_sector((sector + 5) % SECTORS, code + 4096);
	CHECK_EQ(((u64(*)(void))(code + 4096))(), (sector + 5) % SECTORS);
	read_sector((sector + 7) % SECTORS, code + 4096 - 500); /* its last 12 bytes are 0xc3 */
	((void (*)(void))(code + 4096))();
	CHECK_EQ(code[4096], 0xc3);
}

void guest_main(void)
{
	static u8 pages[3][4096] PAGE_ALIGNED;

	code = pages[0];
	for (u32 dev = 0; dev < 32 && disk.device_id != BLK_ID; dev++)
		if (!virtio_find(dev, &disk))
			disk.device_id = 0;
	if (disk.device_id != BLK_ID)
		guest_skip("no virtio disk");
	start(&disk);
	loop_check("code_from_disk", code_from_disk, 500);
	loop_check("tail_of_a_transfer", tail_of_a_transfer, 500);
}
