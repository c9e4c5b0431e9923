/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code whose memory is given away: pages with code that has just run go into the balloon. What they hold from then on are zeroes, and those are
 * executed, through to the page behind them; then it is memory as before. In ring 0 and in ring 3.
 */
#include "pci.h"

#define BALLOON_ID 0x1045
#define AT(va, n) ((va) + (n)*PAGE)
#define USER_VA (TEST_VA + 0x600000)

static struct virtq queue;
static struct virtio balloon;
static u8 pages[4][PAGE] PAGE_ALIGNED;
static u8 scratch[PAGE] PAGE_ALIGNED;
static u32 numbers[2];

/* mov $value, %eax; ret */
static void put_function(u8 *at, u32 value)
{
	const u8 code[6] = {0xb8, (u8)value, (u8)(value >> 8), (u8)(value >> 16), (u8)(value >> 24), 0xc3};

	memcpy(at, code, sizeof(code));
}

/* With rax at `scratch`: a zeroed page is 2048 times ADD %al, (%rax). */
static u64 call_here(u64 at)
{
	u64 result = (u64)scratch;

	__asm__ volatile("call *%1" : "+a"(result) : "r"(at) : "memory", "cc");
	return result;
}

UTEXT static u64 call_in_ring_3(u64 at)
{
	u64 result = AT(USER_VA, 3);

	__asm__ volatile("call *%1" : "+a"(result) : "r"(at) : "memory", "cc");
	return result;
}

static u64 call_user(u64 at)
{
	u64 result = user_call(call_in_ring_3, at);

	CHECK_EQ(trap.vector, NO_TRAP);
	return result;
}

static void inflate(u32 n)
{
	for (u32 i = 0; i < n; i++)
		numbers[i] = (u32)((u64)pages[i] / PAGE);
	queue.table[0] = (struct virtq_desc){(u64)numbers, 4 * n, 0, 0};
	virtio_request(&balloon, &queue);
}

static void give_away(u64 (*call)(u64), u64 at)
{
	u32 value = 1 + (u32)loop_count;

	put_function(pages[0], value);
	put_function(pages[1] + 64, value + 1);
	put_function(pages[2], ~value);
	CHECK_EQ(call(at), value);
	CHECK_EQ(call(AT(at, 1) + 64), value + 1);
	inflate(1);
	CHECK_EQ(*(volatile u64 *)pages[0], 0);
	put_function(pages[1], value + 2);
	CHECK_EQ(call(at), value + 2);
	CHECK_EQ(call(AT(at, 1) + 64), value + 1);
	inflate(2);
	CHECK_EQ(call(AT(at, 1) + 64), ~value);
	CHECK_EQ(call(at), ~value);
}

static void in_ring_0(void)
{
	give_away(call_here, (u64)pages[0]);
}

static void in_ring_3(void)
{
	give_away(call_user, USER_VA);
}

void guest_main(void)
{
	if (virtio_find_id(BALLOON_ID, &balloon) == PCI_SLOTS)
		guest_skip("no virtio balloon");
	virtio_start(&balloon, &queue, VIRTIO_NO_VECTOR);
	for (u32 i = 0; i < 4; i++)
		paging_map(AT(USER_VA, i), (u64)pages[i], P | W | U);
	loop_check("in_ring_0", in_ring_0, 300);
	loop_check("in_ring_3", in_ring_3, 300);
}
