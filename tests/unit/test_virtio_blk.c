/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk from the guest's side: bytes reach the file, every request kind and status, resets with I/O in flight. */
#include "virtio_guest.h"

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <sys/stat.h>
#include <unistd.h>

#define DISK (8 * MiB)
#define ALL_FEATURES (~0ull)

struct world {
	struct guest g;
	struct guest_queue *q;
	char path[64];
	u64 head, data, status; /* gpa */
};

static void driver(struct world *w, u64 mask)
{
	g_negotiate(&w->g, mask);
	w->q = g_queue(&w->g, 0, 128);
	g_driver_ok(&w->g);
}

static int setup_with(void **state, const char *options)
{
	struct world *w = calloc(1, sizeof(*w));
	char text[128];
	int fd;

	strcpy(w->path, "/tmp/guise-test-disk-XXXXXX");
	fd = mkstemp(w->path);
	assert_int_equal(ftruncate(fd, DISK), 0);
	close(fd);
	snprintf(text, sizeof(text), "%s%s", w->path, options);
	g_board(&w->g, 2);
	g_start(&w->g, "blk", text);
	w->head = g_alloc(&w->g, 16);
	w->data = g_alloc(&w->g, 1 * MiB);
	w->status = g_alloc(&w->g, 1);
	driver(w, ALL_FEATURES);
	*state = w;
	return 0;
}

static int setup(void **state)
{
	return setup_with(state, "");
}
static int setup_threads(void **state)
{
	return setup_with(state, ",io=threads");
}
static int setup_readonly(void **state)
{
	return setup_with(state, ",readonly,serial=disk-1");
}

static int teardown(void **state)
{
	struct world *w = *state;

	g_stop(&w->g);
	unlink(w->path);
	free(w);
	return 0;
}

static void put_header(struct world *w, u32 type, u64 sector)
{
	*(struct virtio_blk_outhdr *)g_ptr(&w->g, w->head) = (struct virtio_blk_outhdr){.type = type, .sector = sector};
	*(u8 *)g_ptr(&w->g, w->status) = 0xee;
}

static u8 request(struct world *w, u32 type, u64 sector, u32 len, bool device_writes)
{
	struct guest_buf with_data[] = {{w->head, 16, false}, {w->data, len, device_writes}, {w->status, 1, true}};
	struct guest_buf without[] = {{w->head, 16, false}, {w->status, 1, true}};
	u16 head;

	put_header(w, type, sector);
	head = len ? gq_add(&w->g, w->q, with_data, 3) : gq_add(&w->g, w->q, without, 2);
	gq_kick(&w->g, w->q);
	assert_int_equal(gq_wait(&w->g, w->q).id, head);
	return *(u8 *)g_ptr(&w->g, w->status);
}

static void file_bytes(struct world *w, u64 off, void *buf, size_t len)
{
	int fd = open(w->path, O_RDONLY);

	assert_int_equal(pread(fd, buf, len, (off_t)off), len);
	close(fd);
}

static void write_flush_read(void **state)
{
	struct world *w = *state;
	u8 *data = g_ptr(&w->g, w->data), file[8192];
	u32 before = g_msis(&w->g, 1);

	for (u32 i = 0; i < sizeof(file); i++)
		data[i] = (u8)(i * 13 + i / 512);
	assert_int_equal(request(w, VIRTIO_BLK_T_OUT, 5, sizeof(file), false), VIRTIO_BLK_S_OK);
	assert_int_equal(request(w, VIRTIO_BLK_T_FLUSH, 0, 0, false), VIRTIO_BLK_S_OK);
	file_bytes(w, 5 * 512, file, sizeof(file));
	assert_memory_equal(file, data, sizeof(file));
	memset(data, 0, sizeof(file));
	assert_int_equal(request(w, VIRTIO_BLK_T_IN, 5, sizeof(file), true), VIRTIO_BLK_S_OK);
	assert_memory_equal(file, data, sizeof(file));
	assert_true(g_msis(&w->g, 1) > before);
	assert_int_equal(request(w, VIRTIO_BLK_T_IN, DISK / 512 - 1, 512, true), VIRTIO_BLK_S_OK);
}

/* Header, data and status may be cut up in any way (virtio 1.1, 2.6.4). */
static void any_layout(void **state)
{
	struct world *w = *state;
	struct guest_buf in[] = {{w->head, 3, false}, {w->head + 3, 13, false}, {w->data, 100, true}, {w->data + 5000, 413, true}};
	struct guest_buf out[] = {{w->head, 16, false}, {w->data, 412, false}, {w->data + 412, 100, false}, {w->status, 1, true}};
	u8 *data = g_ptr(&w->g, w->data);

	memset(data, 7, 512);
	put_header(w, VIRTIO_BLK_T_OUT, 1);
	gq_add(&w->g, w->q, out, 4);
	gq_kick(&w->g, w->q);
	gq_wait(&w->g, w->q);
	assert_int_equal(*(u8 *)g_ptr(&w->g, w->status), VIRTIO_BLK_S_OK);
	memset(data, 0, 8192);
	data[5412] = 0xee;
	put_header(w, VIRTIO_BLK_T_IN, 1);
	gq_add(&w->g, w->q, in, 4);
	gq_kick(&w->g, w->q);
	gq_wait(&w->g, w->q);
	assert_int_equal(data[5412], VIRTIO_BLK_S_OK);
	assert_int_equal(data[99], 7);
	assert_int_equal(data[100], 0);
	assert_int_equal(data[5411], 7);
}

static void outside_the_disk(void **state)
{
	static const struct {
		u64 sector;
		u32 len;
	} bad[] = {
		{DISK / 512, 512}, {DISK / 512 - 1, 1024}, {~0ull, 512}, {~0ull / 512, 512}, {1ull << 55, 512}, {0, 511}, {0, 513},
	};
	struct world *w = *state;

	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(request(w, VIRTIO_BLK_T_IN, bad[i].sector, bad[i].len, true), VIRTIO_BLK_S_IOERR);
		assert_int_equal(request(w, VIRTIO_BLK_T_OUT, bad[i].sector, bad[i].len, false), VIRTIO_BLK_S_IOERR);
	}
	assert_int_equal(request(w, VIRTIO_BLK_T_IN, 0, 512, true), VIRTIO_BLK_S_OK);
}

static void unknown_types(void **state)
{
	struct world *w = *state;

	assert_int_equal(request(w, 2, 0, 512, false), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(request(w, 0xffffffff, 0, 0, false), VIRTIO_BLK_S_UNSUPP);
}

static void short_header(void **state)
{
	struct world *w = *state;
	struct guest_buf buf[] = {{w->head, 15, false}, {w->status, 1, true}};

	put_header(w, VIRTIO_BLK_T_IN, 0);
	gq_add(&w->g, w->q, buf, 2);
	gq_kick(&w->g, w->q);
	gq_wait(&w->g, w->q);
	assert_int_equal(*(u8 *)g_ptr(&w->g, w->status), VIRTIO_BLK_S_IOERR);
}

static void put_range(struct world *w, u64 sector, u32 sectors, u32 flags)
{
	*(struct virtio_blk_discard_write_zeroes *)g_ptr(&w->g, w->data) =
		(struct virtio_blk_discard_write_zeroes){.sector = sector, .num_sectors = sectors, .flags = flags};
}

static u8 range_request(struct world *w, u32 type, u64 sector, u32 sectors, u32 flags, u32 len)
{
	put_range(w, sector, sectors, flags);
	return request(w, type, 0, len, false);
}

static void discard_and_zeroes(void **state)
{
	struct world *w = *state;
	u8 file[2048];

	memset(g_ptr(&w->g, w->data), 0x55, 64 * 1024);
	assert_int_equal(request(w, VIRTIO_BLK_T_OUT, 0, 64 * 1024, false), VIRTIO_BLK_S_OK);
	assert_int_equal(range_request(w, VIRTIO_BLK_T_WRITE_ZEROES, 1, 2, 0, 16), VIRTIO_BLK_S_OK);
	file_bytes(w, 0, file, sizeof(file));
	assert_int_equal(file[511], 0x55);
	assert_int_equal(file[512], 0);
	assert_int_equal(file[1535], 0);
	assert_int_equal(file[1536], 0x55);
	assert_int_equal(range_request(w, VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 1, 16), VIRTIO_BLK_S_OK);
	assert_int_equal(range_request(w, VIRTIO_BLK_T_DISCARD, 16, 32, 0, 16), VIRTIO_BLK_S_OK);
	assert_int_equal(range_request(w, VIRTIO_BLK_T_DISCARD, 0, 1, 1, 16), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range_request(w, VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 2, 16), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range_request(w, VIRTIO_BLK_T_DISCARD, DISK / 512, 1, 0, 16), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(w, VIRTIO_BLK_T_DISCARD, ~0ull, 1, 0, 16), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(w, VIRTIO_BLK_T_WRITE_ZEROES, 0, ~0u, 0, 16), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(w, VIRTIO_BLK_T_DISCARD, 0, 1, 0, 32), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(w, VIRTIO_BLK_T_DISCARD, 0, 1, 0, 8), VIRTIO_BLK_S_IOERR);
}

static void readonly_disk(void **state)
{
	struct world *w = *state;

	assert_true(g_offered(&w->g) & VIRTIO_BIT(VIRTIO_BLK_F_RO));
	assert_int_equal(request(w, VIRTIO_BLK_T_IN, 0, 512, true), VIRTIO_BLK_S_OK);
	assert_int_equal(request(w, VIRTIO_BLK_T_OUT, 0, 512, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(w, VIRTIO_BLK_T_DISCARD, 0, 1, 0, 16), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(w, VIRTIO_BLK_T_FLUSH, 0, 0, false), VIRTIO_BLK_S_OK);
	assert_int_equal(request(w, VIRTIO_BLK_T_GET_ID, 0, 20, true), VIRTIO_BLK_S_OK);
	assert_string_equal(g_ptr(&w->g, w->data), "disk-1");
}

static void cache_mode_is_writable(void **state)
{
	struct world *w = *state;
	u32 wce = G_CONFIG + offsetof(struct virtio_blk_config, wce);

	assert_int_equal(g_read(&w->g, wce, 1), 1);
	g_write(&w->g, wce, 1, 0);
	assert_int_equal(g_read(&w->g, wce, 1), 0);
	assert_int_equal(request(w, VIRTIO_BLK_T_OUT, 0, 512, false), VIRTIO_BLK_S_OK);
	g_write(&w->g, G_CONFIG, 4, 0);
	assert_int_equal(g_read(&w->g, G_CONFIG, 4), DISK / 512);
	g_reset(&w->g);
	assert_int_equal(g_read(&w->g, wce, 1), 1);
}

static void no_room_for_status(void **state)
{
	struct world *w = *state;
	struct guest_buf buf[] = {{w->head, 16, false}};

	put_header(w, VIRTIO_BLK_T_FLUSH, 0);
	gq_add(&w->g, w->q, buf, 1);
	gq_kick(&w->g, w->q);
	assert_true(g_status(&w->g) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(g_msis(&w->g, 0), 1);
	driver(w, ALL_FEATURES);
	assert_int_equal(request(w, VIRTIO_BLK_T_IN, 0, 512, true), VIRTIO_BLK_S_OK);
}

#define DEEP 32
static u32 fill_queue(struct world *w, u32 len)
{
	static const u32 types[] = {VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};
	struct guest_buf buf[DEEP][3];

	for (u32 i = 0; i < DEEP; i++) {
		u64 head = w->head + 64 + 32ull * i, status = w->status + 64 + i;
		u32 type = types[i % 2];

		*(struct virtio_blk_outhdr *)g_ptr(&w->g, head) = (struct virtio_blk_outhdr){.type = type, .sector = i * (len / 512)};
		buf[i][0] = (struct guest_buf){head, 16, false};
		buf[i][1] = (struct guest_buf){w->data + (u64)len * i, len, type == VIRTIO_BLK_T_IN};
		buf[i][2] = (struct guest_buf){status, 1, true};
		gq_add(&w->g, w->q, buf[i], 3);
	}
	gq_kick(&w->g, w->q);
	return DEEP;
}

static void many_in_flight(void **state)
{
	struct world *w = *state;

	for (u32 round = 0; round < 200; round++)
		for (u32 n = fill_queue(w, 4096); n; n--)
			gq_wait(&w->g, w->q);
	assert_false(g_status(&w->g) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

/* After the reset reads back, no byte of guest memory changes any more. */
static void reset_in_flight(void **state)
{
	struct world *w = *state;
	u8 *data = g_ptr(&w->g, w->data), *copy = malloc(DEEP * 32768);

	for (u32 round = 0; round < 100; round++) {
		fill_queue(w, 32768);
		g_reset(&w->g);
		memset(data, (int)round, DEEP * 32768);
		memset(copy, (int)round, DEEP * 32768);
		if (round % 10 == 0)
			g_nap();
		assert_memory_equal(data, copy, DEEP * 32768);
		w->g.heap = w->status + 4096;
		driver(w, ALL_FEATURES);
	}
	assert_int_equal(request(w, VIRTIO_BLK_T_IN, 0, 512, true), VIRTIO_BLK_S_OK);
	free(copy);
}

static void class_reset_in_flight(void **state)
{
	struct world *w = *state;

	for (u32 round = 0; round < 50; round++) {
		fill_queue(w, 32768);
		w->g.dev->cls->reset(w->g.dev);
		assert_int_equal(g_status(&w->g), 0);
		assert_int_equal(g_cfg_read(&w->g, PCI_COMMAND, 2) & PCI_COMMAND_MASTER, 0);
		g_find_function(&w->g);
		g_enable_msix(&w->g);
		w->g.heap = w->status + 4096;
		driver(w, ALL_FEATURES);
	}
	assert_int_equal(request(w, VIRTIO_BLK_T_IN, 0, 512, true), VIRTIO_BLK_S_OK);
}

struct racer {
	struct world *w;
	bool stop;
};

static void *ring_doorbells(void *opaque)
{
	struct racer *r = opaque;

	while (!__atomic_load_n(&r->stop, __ATOMIC_SEQ_CST)) {
		g_write(&r->w->g, G_NOTIFY, 2, 0);
		g_write(&r->w->g, G_NOTIFY + 4, 2, 1);
	}
	return NULL;
}

/* Another vCPU rings doorbells without end while this one resets and sets up. */
static void doorbell_storm(void **state)
{
	struct racer r = {*state, false};
	struct world *w = *state;
	pthread_t t;

	pthread_create(&t, NULL, ring_doorbells, &r);
	for (u32 round = 0; round < 50; round++) {
		fill_queue(w, 4096);
		w->g.heap = w->status + 4096;
		driver(w, ALL_FEATURES);
		assert_int_equal(request(w, VIRTIO_BLK_T_IN, 0, 512, true), VIRTIO_BLK_S_OK);
	}
	__atomic_store_n(&r.stop, true, __ATOMIC_SEQ_CST);
	pthread_join(t, NULL);
}

static void without_any_feature(void **state)
{
	struct world *w = *state;

	driver(w, 0);
	assert_int_equal(request(w, VIRTIO_BLK_T_OUT, 0, 4096, false), VIRTIO_BLK_S_OK);
	assert_int_equal(request(w, VIRTIO_BLK_T_IN, 0, 4096, true), VIRTIO_BLK_S_OK);
}

static void refused_options(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{"/nonexistent", "no such file"},
		{"/tmp", "directory"},
		{"/dev/null", "neither"},
		{"x,format=qcow2", "qcow2"},
		{"x,cache=never", "cache"},
		{"x,serial=123456789012345678901", "longer"},
		{"", "image"},
		{"x,readnly", "readonly"},
	};
	struct err e;
	struct guest g;

	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		e = (struct err){0};
		g_board(&g, 1);
		assert_true(g_create(&g, "blk", bad[i].text, &e) < 0);
		if (!strstr(e.msg, bad[i].says))
			fail_msg("\"%s\" does not say \"%s\"", e.msg, bad[i].says);
		g.dev = NULL;
		g_stop(&g);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define BOTH(f) T(f), cmocka_unit_test_setup_teardown(f, setup_threads, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(write_flush_read),
		T(any_layout),
		T(outside_the_disk),
		T(unknown_types),
		T(short_header),
		BOTH(discard_and_zeroes),
		cmocka_unit_test_setup_teardown(readonly_disk, setup_readonly, teardown),
		T(cache_mode_is_writable),
		T(no_room_for_status),
		BOTH(many_in_flight),
		BOTH(reset_in_flight),
		BOTH(class_reset_in_flight),
		BOTH(doorbell_storm),
		T(without_any_feature),
		cmocka_unit_test(refused_options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
