/* SPDX-License-Identifier: Apache-2.0 */
/* The virtqueue walker against well-behaved and hostile drivers. The rings are built by hand in guest RAM. */
#include "virtio/queue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define RAM (16 * MiB)
#define DESC 0x1000u
#define AVAIL 0x2000u
#define USED 0x3000u
#define TABLE 0x4000u
#define DATA 0x10000u
#define SIZE 16u

struct world {
	struct guest_memory gm;
	struct virtqueue q;
	u32 interrupts, breaches;
	const char *why;
	u64 marked;
};

static void on_interrupt(void *opaque, struct virtqueue *q)
{
	((struct world *)opaque)->interrupts++;
}

static void on_breach(void *opaque, struct virtqueue *q, const char *why)
{
	struct world *w = opaque;

	w->breaches++;
	w->why = why;
}

static void on_written(void *opaque, gpa_t gpa, u64 len)
{
	struct world *w = opaque;

	if (gpa >= DATA)
		w->marked += len;
}

static struct vring_desc *desc(struct world *w)
{
	return (void *)(w->gm.map + DESC);
}
static struct vring_desc *table(struct world *w)
{
	return (void *)(w->gm.map + TABLE);
}
static struct vring_avail *avail(struct world *w)
{
	return (void *)(w->gm.map + AVAIL);
}
static struct vring_used *used(struct world *w)
{
	return (void *)(w->gm.map + USED);
}
static u16 *avail_event(struct world *w)
{
	return (u16 *)&used(w)->ring[SIZE];
}

static void enable(struct world *w, bool event_idx)
{
	w->q.desc_gpa = DESC;
	w->q.avail_gpa = AVAIL;
	w->q.used_gpa = USED;
	w->q.size = SIZE;
	assert_null(vq_enable(&w->q, event_idx, true));
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct vq_owner owner = {w, on_interrupt, on_breach};
	struct err e = {0};

	if (gm_create(&w->gm, RAM, &e) || vq_init(&w->q, &w->gm, 0, 64, &owner, &e))
		fail_msg("%s", e.msg);
	w->gm.written = on_written;
	w->gm.written_opaque = w;
	enable(w, false);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	vq_destroy(&w->q);
	gm_destroy(&w->gm);
	free(w);
	return 0;
}

static void offer(struct world *w, u16 head)
{
	u16 idx = avail(w)->idx;

	avail(w)->ring[idx % SIZE] = head;
	avail(w)->idx = (u16)(idx + 1);
}

static void set(struct vring_desc *d, u64 addr, u32 len, u16 flags, u16 next)
{
	*d = (struct vring_desc){addr, len, flags, next};
}

#define NEXT VRING_DESC_F_NEXT
#define WRITE VRING_DESC_F_WRITE
#define INDIRECT VRING_DESC_F_INDIRECT

static void refused(struct world *w)
{
	assert_null(vq_pop(&w->q));
	assert_int_equal(w->breaches, 1);
	assert_true(w->q.broken);
	/* It stays refused, quietly, until reset; then it works again. */
	assert_null(vq_pop(&w->q));
	assert_false(vq_notify_on(&w->q));
	assert_int_equal(w->breaches, 1);
	vq_reset(&w->q);
	memset(avail(w), 0, 256);
	memset(used(w), 0, 256);
	enable(w, false);
	set(&desc(w)[0], DATA, 16, 0, 0);
	offer(w, 0);
	vq_push(vq_pop(&w->q), 0);
	vq_flush(&w->q);
	assert_int_equal(used(w)->idx, 1);
}

static void chain_becomes_request(void **state)
{
	struct world *w = *state;
	struct vq_request *r;

	set(&desc(w)[3], DATA, 16, NEXT, 5);
	set(&desc(w)[5], DATA + 0x1000, 512, NEXT | WRITE, 1);
	set(&desc(w)[1], DATA + 0x2000, 1, WRITE, 0);
	offer(w, 3);
	r = vq_pop(&w->q);
	assert_non_null(r);
	assert_int_equal(r->nread, 1);
	assert_int_equal(r->nwrite, 2);
	assert_int_equal(r->read_len, 16);
	assert_int_equal(r->write_len, 513);
	assert_ptr_equal(r->read[0].iov_base, w->gm.map + DATA);
	assert_ptr_equal(r->write[1].iov_base, w->gm.map + DATA + 0x2000);
	assert_null(vq_pop(&w->q));
	vq_push(r, 513);
	assert_int_equal(used(w)->idx, 0);
	vq_flush(&w->q);
	assert_int_equal(used(w)->idx, 1);
	assert_int_equal(used(w)->ring[0].id, 3);
	assert_int_equal(used(w)->ring[0].len, 513);
	assert_int_equal(w->interrupts, 1);
	assert_int_equal(w->marked, 513);
	assert_int_equal(w->breaches, 0);
}

static void ring_wraps_for_ever(void **state)
{
	struct world *w = *state;

	set(&desc(w)[7], DATA, 8, WRITE, 0);
	for (u32 i = 0; i < 200000; i++) {
		struct vq_request *r;

		offer(w, 7);
		r = vq_pop(&w->q);
		assert_non_null(r);
		vq_push(r, 8);
		vq_flush(&w->q);
	}
	assert_int_equal(used(w)->idx, (u16)200000);
	assert_int_equal(w->interrupts, 200000);
}

static void batch_interrupts_once(void **state)
{
	struct world *w = *state;

	for (u16 i = 0; i < SIZE; i++) {
		set(&desc(w)[i], DATA, 8, WRITE, 0);
		offer(w, i);
	}
	for (u16 i = 0; i < SIZE; i++)
		vq_push(vq_pop(&w->q), 8);
	vq_flush(&w->q);
	vq_flush(&w->q);
	assert_int_equal(w->interrupts, 1);
	avail(w)->flags = VRING_AVAIL_F_NO_INTERRUPT;
	offer(w, 0);
	vq_push(vq_pop(&w->q), 8);
	vq_flush(&w->q);
	assert_int_equal(w->interrupts, 1);
}

static void event_index_holds_back(void **state)
{
	struct world *w = *state;

	vq_reset(&w->q);
	enable(w, true);
	set(&desc(w)[0], DATA, 8, WRITE, 0);
	avail(w)->ring[SIZE] = 2; /* interrupt when entry 2 is used */
	for (u32 i = 0; i < 5; i++) {
		offer(w, 0);
		vq_push(vq_pop(&w->q), 8);
		vq_flush(&w->q);
		assert_int_equal(w->interrupts, i >= 2);
	}
	assert_false(vq_notify_on(&w->q));
	assert_int_equal(*avail_event(w), 5);
	offer(w, 0);
	assert_true(vq_notify_on(&w->q));
	/* One is not enough: tell me of the one after it. */
	assert_false(vq_notify_beyond(&w->q, 1));
	assert_int_equal(*avail_event(w), 6);
	offer(w, 0);
	assert_true(vq_notify_beyond(&w->q, 1));
}

static void notification_flag(void **state)
{
	struct world *w = *state;

	vq_notify_off(&w->q);
	assert_int_equal(used(w)->flags, VRING_USED_F_NO_NOTIFY);
	assert_false(vq_notify_on(&w->q));
	assert_int_equal(used(w)->flags, 0);
}

static void indirect_table(void **state)
{
	struct world *w = *state;
	struct vq_request *r;

	set(&desc(w)[0], DATA, 4, NEXT, 1);
	set(&desc(w)[1], TABLE, 3 * 16, INDIRECT, 0);
	set(&table(w)[0], DATA + 16, 8, NEXT, 2);
	set(&table(w)[2], DATA + 64, 9, NEXT | WRITE, 1);
	set(&table(w)[1], DATA + 128, 10, WRITE, 0);
	offer(w, 0);
	r = vq_pop(&w->q);
	assert_non_null(r);
	assert_int_equal(r->read_len, 12);
	assert_int_equal(r->write_len, 19);
	vq_push(r, 0);
}

static void full_chain_is_allowed(void **state)
{
	struct world *w = *state;
	struct vq_request *r;

	for (u16 i = 0; i < SIZE; i++)
		set(&desc(w)[i], DATA + 64ull * i, 64, i + 1u < SIZE ? NEXT : 0, (u16)(i + 1));
	offer(w, 0);
	r = vq_pop(&w->q);
	assert_non_null(r);
	assert_int_equal(r->read_len, 64 * SIZE);
	vq_unpop(r);
	assert_int_equal(vq_ready(&w->q), 1);
	r = vq_pop(&w->q);
	vq_push(r, 0);
}

static void zero_length_is_skipped(void **state)
{
	struct world *w = *state;
	struct vq_request *r;

	set(&desc(w)[0], ~0ull, 0, NEXT, 1);
	set(&desc(w)[1], DATA, 4, 0, 0);
	offer(w, 0);
	r = vq_pop(&w->q);
	assert_non_null(r);
	assert_int_equal(r->nread, 1);
	vq_push(r, 0);
}

static void loop_is_refused(void **state)
{
	struct world *w = *state;

	set(&desc(w)[0], DATA, 4, NEXT, 1);
	set(&desc(w)[1], DATA, 4, NEXT, 0);
	offer(w, 0);
	refused(w);
}

static void self_loop_is_refused(void **state)
{
	struct world *w = *state;

	set(&desc(w)[2], DATA, 4, NEXT, 2);
	offer(w, 2);
	refused(w);
}

static void bad_next_is_refused(void **state)
{
	struct world *w = *state;

	set(&desc(w)[0], DATA, 4, NEXT, SIZE);
	offer(w, 0);
	refused(w);
}

static void bad_head_is_refused(void **state)
{
	struct world *w = *state;

	offer(w, 0xffff);
	refused(w);
}

/* Address and length of one buffer, each outside RAM in its own way. */
static void bad_address_is_refused(void **state)
{
	static const struct {
		u64 addr;
		u32 len;
	} bad[] = {
		{RAM, 1},	    {RAM - 1, 2},    {~0ull, 1},      {~0ull - 3, 4},	  {~0ull - 3, 8},   {0xc0000000, 4},
		{0xfee00000, 4096}, {1ull << 52, 1}, {0, 0xffffffff}, {DATA, 0xffffffff}, {1ull << 63, 16}, {0x100000000, 0xfffff000},
	};

	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		for (u16 flags = 0; flags <= WRITE; flags = (u16)(flags + WRITE)) {
			struct world *w;

			teardown(state);
			setup(state);
			w = *state;
			set(&desc(w)[0], bad[i].addr, bad[i].len, flags, 0);
			offer(w, 0);
			refused(w);
		}
	}
}

static void write_to_rom_is_refused(void **state)
{
	struct world *w = *state;

	w->gm.slots[0].readonly = true;
	set(&desc(w)[0], DATA, 4, WRITE, 0);
	offer(w, 0);
	assert_null(vq_pop(&w->q));
	assert_int_equal(w->breaches, 1);
}

static void readable_after_writable_is_refused(void **state)
{
	struct world *w = *state;

	set(&desc(w)[0], DATA, 4, NEXT | WRITE, 1);
	set(&desc(w)[1], DATA, 4, 0, 0);
	offer(w, 0);
	refused(w);
}

static void sum_over_4g_is_refused(void **state)
{
	struct world *w = *state;

	/* 16 MiB of RAM: 256 times the whole of it and one byte more would be 4 GiB. */
	for (u16 i = 0; i < 64; i++)
		set(&table(w)[i], 0, RAM, NEXT, (u16)(i + 1));
	w->q.size = 64;
	w->q.used_gpa = 0x8000;
	assert_null(vq_enable(&w->q, false, true));
	set(&desc(w)[0], TABLE, 64 * 16, INDIRECT, 0);
	offer(w, 0);
	assert_null(vq_pop(&w->q)); /* the table's last entry leads out of it */
	assert_int_equal(w->breaches, 1);
}

static void bad_indirect_is_refused(void **state)
{
	static const struct {
		u64 addr;
		u32 len;
		u16 flags;
	} bad[] = {
		{TABLE, 0, INDIRECT},	       {TABLE, 15, INDIRECT},	     {TABLE, 17, INDIRECT},
		{TABLE, 0xfffffff0, INDIRECT}, {RAM, 16, INDIRECT},	     {~0ull - 15, 16, INDIRECT},
		{RAM - 16, 32, INDIRECT},      {TABLE, 32, INDIRECT | NEXT}, {0xfee00000, 4096, INDIRECT},
	};

	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		struct world *w;

		teardown(state);
		setup(state);
		w = *state;
		set(&desc(w)[0], bad[i].addr, bad[i].len, bad[i].flags, 1);
		set(&desc(w)[1], DATA, 4, 0, 0);
		offer(w, 0);
		refused(w);
	}
}

static void nested_indirect_is_refused(void **state)
{
	struct world *w = *state;

	set(&desc(w)[0], TABLE, 32, INDIRECT, 0);
	set(&table(w)[0], TABLE, 32, INDIRECT, 0);
	offer(w, 0);
	refused(w);
}

static void indirect_next_outside_table_is_refused(void **state)
{
	struct world *w = *state;

	set(&desc(w)[0], TABLE, 32, INDIRECT, 0);
	set(&table(w)[0], DATA, 4, NEXT, 2);
	set(&table(w)[2], DATA, 4, 0, 0);
	offer(w, 0);
	refused(w);
}

static void indirect_loop_is_refused(void **state)
{
	struct world *w = *state;

	set(&desc(w)[0], TABLE, 32, INDIRECT, 0);
	set(&table(w)[0], DATA, 4, NEXT, 1);
	set(&table(w)[1], DATA, 4, NEXT, 0);
	offer(w, 0);
	refused(w);
}

static void indirect_without_feature_is_refused(void **state)
{
	struct world *w = *state;

	w->q.indirect = false;
	set(&desc(w)[0], TABLE, 16, INDIRECT, 0);
	set(&table(w)[0], DATA, 4, 0, 0);
	offer(w, 0);
	refused(w);
}

static void index_jump_is_refused(void **state)
{
	struct world *w = *state;

	avail(w)->idx = SIZE + 1;
	refused(w);
}

static void index_backwards_is_refused(void **state)
{
	struct world *w = *state;

	avail(w)->idx = 0xffff;
	refused(w);
}

static void reuse_in_flight_is_bounded(void **state)
{
	struct world *w = *state;
	u32 got = 0;

	set(&desc(w)[0], DATA, 4, 0, 0);
	for (u32 i = 0; i < 1000 && !w->q.broken; i++) {
		offer(w, 0);
		if (vq_pop(&w->q))
			got++;
	}
	assert_int_equal(got, w->q.max_size);
	assert_int_equal(w->breaches, 1);
}

static void bad_setup_is_refused(void **state)
{
	static const struct {
		u16 size;
		u64 desc, avail, used;
	} bad[] = {
		{0, DESC, AVAIL, USED},	     {3, DESC, AVAIL, USED},	   {128, DESC, AVAIL, USED},	  {0x8000, DESC, AVAIL, USED},
		{16, DESC + 8, AVAIL, USED}, {16, DESC, AVAIL + 1, USED},  {16, DESC, AVAIL, USED + 2},	  {16, RAM, AVAIL, USED},
		{16, DESC, RAM - 2, USED},   {16, DESC, AVAIL, ~0ull - 3}, {16, ~0ull - 15, AVAIL, USED}, {16, DESC, 0xfee00000, USED},
	};
	struct world *w = *state;

	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		vq_reset(&w->q);
		w->q.size = bad[i].size;
		w->q.desc_gpa = bad[i].desc;
		w->q.avail_gpa = bad[i].avail;
		w->q.used_gpa = bad[i].used;
		assert_non_null(vq_enable(&w->q, false, false));
		assert_false(w->q.enabled);
		assert_null(vq_pop(&w->q));
		assert_int_equal(vq_ready(&w->q), 0);
	}
}

/* Random rings and descriptors: whatever happens, it ends, stays in RAM and leaves a queue that a reset repairs. */
static void random_rings_are_survived(void **state)
{
	struct world *w = *state;

	srand(1);
	for (u32 round = 0; round < 20000; round++) {
		struct vq_request *r;

		vq_reset(&w->q);
		enable(w, round & 1);
		for (u32 i = 0; i < SIZE; i++) {
			set(&desc(w)[i], (u64)rand() % (RAM + 4096), (u32)rand() % 8192, (u16)(rand() % 8), (u16)(rand() % (SIZE + 1)));
			set(&table(w)[i], (u64)rand() % (RAM + 4096), (u32)rand() % 8192, (u16)(rand() % 8), (u16)(rand() % (SIZE + 1)));
			if (rand() % 4 == 0)
				set(&desc(w)[i], TABLE, 16u * (1 + (u32)rand() % SIZE), INDIRECT, 0);
			avail(w)->ring[i] = (u16)(rand() % (SIZE + 1));
		}
		avail(w)->idx = (u16)(rand() % (SIZE + 2));
		while ((r = vq_pop(&w->q))) {
			for (u32 i = 0; i < r->nread + r->nwrite; i++) {
				u8 *base = r->iov[i].iov_base;

				assert_true(base >= w->gm.map && base + r->iov[i].iov_len <= w->gm.map + RAM);
			}
			vq_push(r, r->write_len);
		}
		/* The rings themselves may have been the target of nothing: only the used ring is written by the walker. */
		vq_flush(&w->q);
	}
}

static void pieces(void **state)
{
	char a[] = "abc", b[] = "defgh", out[16] = {0};
	struct iovec iov[] = {{a, 3}, {b, 5}}, slice[4];

	assert_int_equal(iov_read(iov, 2, 2, out, 4), 4);
	assert_memory_equal(out, "cdef", 4);
	assert_int_equal(iov_read(iov, 2, 6, out, 10), 2);
	assert_int_equal(iov_read(iov, 2, 9, out, 10), 0);
	assert_int_equal(iov_write(iov, 2, 1, "XYZ", 3), 3);
	assert_memory_equal(a, "aXY", 3);
	assert_memory_equal(b, "Zefgh", 5);
	assert_int_equal(iov_slice(iov, 2, 1, 4, slice), 2);
	assert_int_equal(slice[0].iov_len, 2);
	assert_int_equal(slice[1].iov_len, 2);
	assert_int_equal(iov_slice(iov, 2, 3, 5, slice), 1);
	assert_int_equal(iov_slice(iov, 2, 8, 5, slice), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(chain_becomes_request),
		T(ring_wraps_for_ever),
		T(batch_interrupts_once),
		T(event_index_holds_back),
		T(notification_flag),
		T(indirect_table),
		T(full_chain_is_allowed),
		T(zero_length_is_skipped),
		T(loop_is_refused),
		T(self_loop_is_refused),
		T(bad_next_is_refused),
		T(bad_head_is_refused),
		T(bad_address_is_refused),
		T(write_to_rom_is_refused),
		T(readable_after_writable_is_refused),
		T(sum_over_4g_is_refused),
		T(bad_indirect_is_refused),
		T(nested_indirect_is_refused),
		T(indirect_next_outside_table_is_refused),
		T(indirect_loop_is_refused),
		T(indirect_without_feature_is_refused),
		T(index_jump_is_refused),
		T(index_backwards_is_refused),
		T(reuse_in_flight_is_bounded),
		T(bad_setup_is_refused),
		T(random_rings_are_survived),
		cmocka_unit_test(pieces),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
