/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MSI-X of a virtio device: a masked vector, a masked function, or one that is no bus master, leaves a pending bit, and the message goes once when
 * the obstacle is gone; address and data count as they are then. PCI Local Bus 3.0, 6.8.2 and 6.8.3.
 */
#include "pci.h"

#define RNG_ID 0x1044
#define VEC 0x54
#define ENABLE (1u << 31)
#define MASK_ALL (1u << 30)
#define BUS_MASTER 4u

static struct virtq queue;
static u8 buffer[64];

static struct virtio rng;
static u32 slot, cap;
static volatile u32 *entries, *pending;

static void find_msix(void)
{
	for (cap = pci_read(slot, 0x34) & 0xfc; cap && (pci_read(slot, cap) & 0xff) != 0x11;)
		cap = pci_read(slot, cap) >> 8 & 0xfc;
	if (!cap)
		guest_skip("no MSI-X");
	entries = (volatile u32 *)(pci_bar(slot, pci_read(slot, cap + 4) & 7) + (pci_read(slot, cap + 4) & ~7u));
	pending = (volatile u32 *)(pci_bar(slot, pci_read(slot, cap + 8) & 7) + (pci_read(slot, cap + 8) & ~7u));
}

static void control(u32 bits)
{
	pci_write(slot, cap, (pci_read(slot, cap) & ~(ENABLE | MASK_ALL)) | bits);
}

static void vector(u32 n, u32 data, bool masked)
{
	entries[4 * n] = 0xfee00000 | (apic_read(APIC_ID) >> 24) << 12;
	entries[4 * n + 1] = 0;
	entries[4 * n + 2] = data;
	entries[4 * n + 3] = masked;
}

#define QUEUE_VECTOR 1

/* A request, done: its interrupt was sent or is pending. */
static void request(void)
{
	queue.table[0] = (struct virtq_desc){(u64)buffer, sizeof(buffer), VIRTQ_WRITE, 0};
	virtio_request(&rng, &queue);
}

static void expect(u32 vec, u32 count)
{
	wait_until(&irq_count[vec], count, 20000000000ul);
	wait_until(&irq_count[vec], count + 1, 20000);
	CHECK_EQ(irq_count[vec], count);
}

static bool is_pending(void)
{
	return pending[0] >> QUEUE_VECTOR & 1;
}

static void wait_pending(void)
{
	u64 begin = rdtsc();

	while (!is_pending())
		CHECK(rdtsc() - begin < 20000000000ul);
}

static void prepare(void)
{
	irq_count[VEC] = irq_count[VEC + 1] = 0;
	vector(QUEUE_VECTOR, VEC, false);
	control(ENABLE);
}

static void one_request_one_interrupt(void)
{
	prepare();
	for (u32 i = 1; i < 4; i++) {
		request();
		expect(VEC, i);
		CHECK(!is_pending());
	}
}

static void masked_vector(void)
{
	prepare();
	vector(QUEUE_VECTOR, VEC, true);
	request();
	wait_pending();
	request();
	request(); /* pending is one bit, however many there were */
	expect(VEC, 0);
	entries[4 * QUEUE_VECTOR + 3] = 0;
	CHECK(!is_pending());
	expect(VEC, 1);
}

static void masked_function(void)
{
	prepare();
	control(ENABLE | MASK_ALL);
	request();
	wait_pending();
	expect(VEC, 0);
	control(ENABLE);
	expect(VEC, 1);
	CHECK(!is_pending());
}

/* Both masks must be gone. */
static void both_masks(void)
{
	prepare();
	control(ENABLE | MASK_ALL);
	vector(QUEUE_VECTOR, VEC, true);
	request();
	wait_pending();
	control(ENABLE);
	expect(VEC, 0);
	control(ENABLE | MASK_ALL);
	entries[4 * QUEUE_VECTOR + 3] = 0;
	expect(VEC, 0);
	CHECK(is_pending());
	control(ENABLE);
	expect(VEC, 1);
}

/* What a function sends is a write to memory, which only a bus master may make. */
static void no_bus_master(void)
{
	u32 command = pci_read(slot, 4) & 0xffff;

	prepare();
	vector(QUEUE_VECTOR, VEC, true);
	request();
	wait_pending();
	pci_write(slot, 4, command & ~BUS_MASTER);
	entries[4 * QUEUE_VECTOR + 3] = 0;
	expect(VEC, 0);
	CHECK(is_pending());
	pci_write(slot, 4, command);
	expect(VEC, 1);
	CHECK(!is_pending());
}

/* Retargeted while it was masked. */
static void changed_while_masked(void)
{
	prepare();
	vector(QUEUE_VECTOR, VEC, true);
	request();
	wait_pending();
	entries[4 * QUEUE_VECTOR + 2] = VEC + 1;
	entries[4 * QUEUE_VECTOR + 3] = 0;
	expect(VEC + 1, 1);
	CHECK_EQ(irq_count[VEC], 0);
}

static void the_rest_of_the_table(void)
{
	prepare();
	vector(0, VEC + 1, true);
	for (u32 i = 0; i < 32; i++) {
		entries[1] = 1u << i;
		CHECK_EQ(entries[1], 1u << i);
		entries[2] = ~(1u << i);
		CHECK_EQ(entries[2], ~(1u << i));
	}
	entries[1] = 0;
	entries[3] = 0xffffffff; /* of the vector control word there is the mask bit */
	CHECK_EQ(entries[3] & 1, 1);
	request();
	expect(VEC, 1);
}

void guest_main(void)
{
	slot = virtio_find_id(RNG_ID, &rng);
	if (slot == PCI_SLOTS)
		guest_skip("no virtio random numbers");
	find_msix();
	apic_enable();
	irq_catch(VEC);
	irq_catch(VEC + 1);
	control(ENABLE);
	virtio_start(&rng, &queue, QUEUE_VECTOR);
	loop_check("one_request_one_interrupt", one_request_one_interrupt, 300);
	loop_check("masked_vector", masked_vector, 300);
	loop_check("masked_function", masked_function, 300);
	loop_check("both_masks", both_masks, 300);
	if (!on_qemu_tcg()) /* which loses the message */
		loop_check("no_bus_master", no_bus_master, 300);
	loop_check("changed_while_masked", changed_while_masked, 300);
	loop_check("the_rest_of_the_table", the_rest_of_the_table, 100);
}
