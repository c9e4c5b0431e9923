/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code that a device writes: sectors of a disk are read over code that has just run. The first sectors of the disk hold a function each,
 * which returns the number of its sector (run.py makes the image).
 */
#include "pci.h"

#define SECTORS 64
#define BLK_ID 0x1042

static struct virtq queue;
static struct {
	u32 type, reserved;
	u64 sector;
} request;
static volatile u8 status;
static u8 *code;
static struct virtio disk;

static void read_sector(u64 sector, void *to)
{
	request.type = 0;
	request.sector = sector;
	status = 0xff;
	queue.table[0] = (struct virtq_desc){(u64)&request, 16, VIRTQ_NEXT, 1};
	queue.table[1] = (struct virtq_desc){(u64)to, 512, VIRTQ_NEXT | VIRTQ_WRITE, 2};
	queue.table[2] = (struct virtq_desc){(u64)&status, 1, VIRTQ_WRITE, 0};
	virtio_request(&disk, &queue);
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
	if (virtio_find_id(BLK_ID, &disk) == PCI_SLOTS)
		guest_skip("no virtio disk");
	virtio_start(&disk, &queue, VIRTIO_NO_VECTOR);
	loop_check("code_from_disk", code_from_disk, 500);
	loop_check("tail_of_a_transfer", tail_of_a_transfer, 500);
}
