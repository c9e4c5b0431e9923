/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio PCI transport, on the entropy device: negotiation, queue set-up, interrupts, the config window, and drivers that break the
 * rules. */
#include "virtio_guest.h"

#include <linux/virtio_rng.h>

static int setup(void **state)
{
	struct guest *g = calloc(1, sizeof(*g));

	g_board(g, 1);
	g_start(g, "rng", NULL);
	*state = g;
	return 0;
}

static int teardown(void **state)
{
	g_stop(*state);
	free(*state);
	return 0;
}

static void get_random(struct guest *g, struct guest_queue *q)
{
	struct guest_buf buf = {g_alloc(g, 64), 64, true};
	struct vring_used_elem e;
	u8 zero[64] = {0};

	gq_add(g, q, &buf, 1);
	gq_kick(g, q);
	e = gq_wait(g, q);
	assert_int_equal(e.len, 64);
	assert_memory_not_equal(g_ptr(g, buf.gpa), zero, 64);
}

static void it_works(void **state)
{
	struct guest *g = *state;
	struct guest_queue *q;

	assert_int_equal(g_cfg_read(g, PCI_DEVICE_ID, 2), 0x1040 + VIRTIO_ID_RNG);
	assert_true(g_cfg_read(g, PCI_REVISION_ID, 1) >= 1);
	g_negotiate(g, ~0ull);
	q = g_queue(g, 0, 8);
	g_driver_ok(g);
	for (u32 i = 0; i < 100; i++)
		get_random(g, q);
	assert_true(g_msis(g, 1) > 0);
}

static void intx_and_isr(void **state)
{
	struct guest *g = *state;
	struct guest_queue *q;
	u32 cap = g_find_cap(g, PCI_CAP_ID_MSIX, 0);

	g_cfg_write(g, cap + PCI_MSIX_FLAGS, 2, 0);
	g_negotiate(g, 0);
	q = g_queue(g, 0, 8);
	g_driver_ok(g);
	get_random(g, q);
	assert_true(g->line);
	assert_int_equal(g_read(g, G_ISR, 1), 1);
	assert_false(g->line);
	assert_int_equal(g_read(g, G_ISR, 1), 0);
	get_random(g, q);
	assert_true(g->line);
	g_reset(g);
	assert_false(g->line);
	assert_int_equal(g_msis(g, 1), 0);
}

static void features_must_fit(void **state)
{
	struct guest *g = *state;
	u64 offered = g_offered(g);

	assert_true(offered & VIRTIO_BIT(VIRTIO_F_VERSION_1));
	g_write(g, VIRTIO_PCI_COMMON_DFSELECT, 4, 2);
	assert_int_equal(g_read(g, VIRTIO_PCI_COMMON_DF, 4), 0);
	g_write(g, VIRTIO_PCI_COMMON_DFSELECT, 4, 0xffffffff);
	assert_int_equal(g_read(g, VIRTIO_PCI_COMMON_DF, 4), 0);
	/* Without VERSION_1, and with a feature that is not offered: no FEATURES_OK, and no DRIVER_OK. */
	for (u32 i = 0; i < 2; i++) {
		g_reset(g);
		g_set_status(g, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
		g_accept(g, i ? offered | VIRTIO_BIT(40) : 0);
		g_set_status(g, VIRTIO_CONFIG_S_FEATURES_OK);
		assert_false(g_status(g) & VIRTIO_CONFIG_S_FEATURES_OK);
		g_set_status(g, VIRTIO_CONFIG_S_DRIVER_OK);
		assert_false(g_status(g) & VIRTIO_CONFIG_S_DRIVER_OK);
	}
}

static void features_are_frozen(void **state)
{
	struct guest *g = *state;
	u32 before;

	g_negotiate(g, 0);
	before = (u32)g_read(g, VIRTIO_PCI_COMMON_GF, 4);
	g_accept(g, ~0ull);
	assert_int_equal(g_read(g, VIRTIO_PCI_COMMON_GF, 4), before);
}

static void status_cannot_lose_bits(void **state)
{
	struct guest *g = *state;

	g_negotiate(g, 0);
	g_write(g, VIRTIO_PCI_COMMON_STATUS, 1, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	assert_true(g_status(g) & VIRTIO_CONFIG_S_FEATURES_OK);
	g_write(g, VIRTIO_PCI_COMMON_STATUS, 1, VIRTIO_CONFIG_S_NEEDS_RESET | 0x30);
	assert_false(g_status(g) & (VIRTIO_CONFIG_S_NEEDS_RESET | 0x30));
}

static void queue_select_out_of_range(void **state)
{
	static const u16 selects[] = {1, 7, 8, 9, 255, 0x8000, 0xffff};
	struct guest *g = *state;

	g_negotiate(g, 0);
	for (u32 i = 0; i < ARRAY_SIZE(selects); i++) {
		g_write(g, VIRTIO_PCI_COMMON_Q_SELECT, 2, selects[i]);
		assert_int_equal(g_read(g, VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
		for (u32 reg = VIRTIO_PCI_COMMON_Q_SIZE; reg < 0x40; reg += 2)
			g_write(g, reg, 2, 0xffff);
		for (u32 reg = VIRTIO_PCI_COMMON_Q_DESCLO; reg < 0x40; reg += 4)
			g_write(g, reg, 4, 0xffffffff);
		g_write(g, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
		assert_int_equal(g_read(g, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	}
}

static void try_queue(struct guest *g, u16 size, u64 desc, u64 avail, u64 used)
{
	g_negotiate(g, 0);
	g_write(g, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
	g_write(g, VIRTIO_PCI_COMMON_Q_SIZE, 2, size);
	g_set_address(g, VIRTIO_PCI_COMMON_Q_DESCLO, desc);
	g_set_address(g, VIRTIO_PCI_COMMON_Q_AVAILLO, avail);
	g_set_address(g, VIRTIO_PCI_COMMON_Q_USEDLO, used);
	g_write(g, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	g_set_status(g, VIRTIO_CONFIG_S_DRIVER_OK);
	g_write(g, G_NOTIFY, 2, 0);
}

static void bad_queue_set_up(void **state)
{
	static const struct {
		u16 size;
		u64 desc, avail, used;
	} bad[] = {
		{0, 0x1000, 0x2000, 0x3000},	  {5, 0x1000, 0x2000, 0x3000},	  {16, 0x1000, 0x2000, 0x3000},
		{0xffff, 0x1000, 0x2000, 0x3000}, {8, 0x1001, 0x2000, 0x3000},	  {8, G_RAM, 0x2000, 0x3000},
		{8, 0x1000, G_RAM - 4, 0x3000},	  {8, 0x1000, 0x2000, ~0ull - 3}, {8, 0x1000, 0x2000, 0x3002},
		{8, 0xfee00000, 0x2000, 0x3000},
	};
	struct guest *g = *state;

	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		try_queue(g, bad[i].size, bad[i].desc, bad[i].avail, bad[i].used);
		assert_true(g_status(g) & VIRTIO_CONFIG_S_NEEDS_RESET);
	}
	try_queue(g, 8, 0x1000, 0x2000, 0x3000);
	assert_false(g_status(g) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

static void rings_cannot_move_while_enabled(void **state)
{
	struct guest *g = *state;
	struct guest_queue *q;

	g_negotiate(g, 0);
	q = g_queue(g, 0, 8);
	g_driver_ok(g);
	g_write(g, VIRTIO_PCI_COMMON_Q_SIZE, 2, 4);
	g_set_address(g, VIRTIO_PCI_COMMON_Q_DESCLO, ~0ull);
	g_set_address(g, VIRTIO_PCI_COMMON_Q_AVAILLO, 0xfee00000);
	g_write(g, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
	g_write(g, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(g_read(g, VIRTIO_PCI_COMMON_Q_SIZE, 2), 8);
	assert_int_equal(g_read(g, VIRTIO_PCI_COMMON_Q_DESCLO, 4), (u32)q->desc);
	get_random(g, q);
}

static void early_notify_is_ignored(void **state)
{
	struct guest *g = *state;
	struct guest_buf buf = {0, 64, true};
	struct guest_queue *q;

	g_write(g, G_NOTIFY, 2, 0);
	g_negotiate(g, 0);
	g_write(g, G_NOTIFY, 2, 0);
	q = g_queue(g, 0, 8);
	buf.gpa = g_alloc(g, 64);
	gq_add(g, q, &buf, 1);
	gq_kick(g, q);
	g_nap();
	assert_false(gq_done(g, q));
	/* What was offered early is served at DRIVER_OK. */
	g_driver_ok(g);
	gq_wait(g, q);
	for (u32 off = 0; off < 0x1000; off += 2)
		g_write(g, G_NOTIFY + off, 2, 0xffff);
	get_random(g, q);
}

static void no_dma_without_bus_master(void **state)
{
	struct guest *g = *state;
	struct guest_buf buf = {0, 64, true};
	struct guest_queue *q;

	g_negotiate(g, 0);
	q = g_queue(g, 0, 8);
	g_driver_ok(g);
	g_cfg_write(g, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	buf.gpa = g_alloc(g, 64);
	gq_add(g, q, &buf, 1);
	gq_kick(g, q);
	g_nap();
	assert_false(gq_done(g, q));
	g_cfg_write(g, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	gq_force_kick(g, q);
	gq_wait(g, q);
}

static void breach_needs_reset(void **state)
{
	struct guest *g = *state;
	struct guest_queue *q;

	g_negotiate(g, ~0ull);
	q = g_queue(g, 0, 8);
	g_driver_ok(g);
	gq_avail(g, q)->idx = 1000;
	gq_force_kick(g, q);
	assert_true(g_status(g) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(g_msis(g, 0), 1);
	for (u32 i = 0; i < 1000; i++)
		gq_force_kick(g, q);
	assert_int_equal(g_msis(g, 0), 1);
	it_works(state);
}

static void bad_vectors(void **state)
{
	struct guest *g = *state;

	g_negotiate(g, 0);
	g_write(g, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
	g_write(g, VIRTIO_PCI_COMMON_Q_MSIX, 2, 2);
	assert_int_equal(g_read(g, VIRTIO_PCI_COMMON_Q_MSIX, 2), 0xffff);
	g_write(g, VIRTIO_PCI_COMMON_MSIX, 2, 0xfffe);
	assert_int_equal(g_read(g, VIRTIO_PCI_COMMON_MSIX, 2), 0xffff);
}

/* The way into the BAR for firmware that cannot map it (virtio 1.1, 4.1.4.8). */
static void config_window(void **state)
{
	static const struct {
		u32 bar, off, len;
	} bad[] = {{1, 0, 4}, {255, 0, 4}, {0, 0x4000, 4}, {0, 0xfffffffc, 4}, {0, 1, 4},
		   {0, 0, 0}, {0, 0, 3},   {0, 0, 8},	   {0, 0, 0xffffffff}};
	struct guest *g = *state;
	u32 cap = g_find_cap(g, PCI_CAP_ID_VNDR, VIRTIO_PCI_CAP_PCI_CFG);

	assert_true(cap);
	g_cfg_write(g, cap + 4, 1, 0);
	g_cfg_write(g, cap + 8, 4, VIRTIO_PCI_COMMON_NUMQ);
	g_cfg_write(g, cap + 12, 4, 2);
	assert_int_equal(g_cfg_read(g, cap + 16, 2), 1);
	g_cfg_write(g, cap + 8, 4, VIRTIO_PCI_COMMON_STATUS);
	g_cfg_write(g, cap + 12, 4, 1);
	g_cfg_write(g, cap + 16, 1, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	assert_int_equal(g_status(g), VIRTIO_CONFIG_S_ACKNOWLEDGE);
	assert_int_equal(g_cfg_read(g, cap + 16, 1), VIRTIO_CONFIG_S_ACKNOWLEDGE);
	g_cfg_write(g, cap + 8, 4, G_ISR);
	g_cfg_read(g, cap + 16, 1);
	g_cfg_write(g, cap + 8, 4, G_NOTIFY);
	g_cfg_write(g, cap + 16, 1, 0);
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		g_cfg_write(g, cap + 4, 1, bad[i].bar);
		g_cfg_write(g, cap + 8, 4, bad[i].off);
		g_cfg_write(g, cap + 12, 4, bad[i].len);
		assert_int_equal(g_cfg_read(g, cap + 8, 4), bad[i].off);
		g_cfg_write(g, cap + 16, 4, 0xffffffff);
		assert_int_equal(g_cfg_read(g, cap + 16, 4), 0);
	}
}

/* Every width at every place, with random values: nothing may break, and the device works after a reset. */
static void random_accesses(void **state)
{
	struct guest *g = *state;

	srand(1);
	for (u32 i = 0; i < 300000; i++) {
		u32 size = 1u << rand() % 4, off = (u32)rand() % (rand() % 2 ? 0x4000 : 0x40);
		u64 value = (u64)rand() << 33 ^ (u64)rand() << 11 ^ (u64)rand();

		if (rand() % 2)
			g_write(g, off, size, rand() % 4 ? value : value & 3);
		else
			g_read(g, off, size);
	}
	for (u32 i = 0; i < 100000; i++) {
		u32 size = 1u << rand() % 3, off = 0x40 + (u32)rand() % 0xc0;

		if (rand() % 2)
			g_cfg_write(g, off, size, (u32)rand());
		else
			g_cfg_read(g, off, size);
	}
	g->dev->cls->reset(g->dev);
	g_find_function(g);
	g_enable_msix(g);
	it_works(state);
}

/* Requests of every size; a longer one than the device gives is filled in part. */
static void entropy_sizes(void **state)
{
	static const u32 sizes[] = {1, 2, 63, 4095, 4096, 4097, 65536, 1u << 20};
	struct guest *g = *state;
	struct guest_buf buf = {g_alloc(g, 1 * MiB), 0, true};
	struct guest_queue *q;

	g_negotiate(g, ~0ull);
	q = g_queue(g, 0, 8);
	g_driver_ok(g);
	for (u32 i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct vring_used_elem e;

		buf.len = sizes[i];
		gq_add(g, q, &buf, 1);
		gq_kick(g, q);
		e = gq_wait(g, q);
		assert_true(e.len >= 1 && e.len <= sizes[i]);
	}
	buf.write = false;
	gq_add(g, q, &buf, 1);
	gq_kick(g, q);
	assert_int_equal(gq_wait(g, q).len, 0);
}

static void restored_state_is_checked(void **state)
{
	struct guest *g = *state;
	struct virtio_device *vd = container_of(g->dev, struct virtio_device, dev);
	struct guest_queue *q;

	g_negotiate(g, ~0ull);
	q = g_queue(g, 0, 8);
	g_driver_ok(g);
	get_random(g, q);
	/* As a save and load would leave it. */
	vd->running = false;
	vd->queue[0].desc = NULL;
	vd->dev.cls->loaded(&vd->dev);
	get_random(g, q);
	vd->running = false;
	vd->queue[0].used_gpa = G_RAM;
	vd->dev.cls->loaded(&vd->dev);
	assert_true(g_status(g) & VIRTIO_CONFIG_S_NEEDS_RESET);
	gq_kick(g, q);
	it_works(state);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(it_works),
		T(intx_and_isr),
		T(features_must_fit),
		T(features_are_frozen),
		T(status_cannot_lose_bits),
		T(queue_select_out_of_range),
		T(bad_queue_set_up),
		T(rings_cannot_move_while_enabled),
		T(early_notify_is_ignored),
		T(no_dma_without_bus_master),
		T(breach_needs_reset),
		T(bad_vectors),
		T(config_window),
		T(random_accesses),
		T(entropy_sizes),
		T(restored_state_is_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
