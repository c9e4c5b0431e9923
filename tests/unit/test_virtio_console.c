/* SPDX-License-Identifier: Apache-2.0 */
/* virtio console: output, input, and who gets the input while the UART shares the back end. */
#include "virtio_guest.h"

#include "char/char.h"

#include <linux/virtio_console.h>
#include <unistd.h>

struct world {
	struct guest g;
	struct guest_queue *rx, *tx;
	struct char_backend *chr;
	u64 mem;
	int reader_pipe[2], keep_stdin;
	u32 uart_bytes; /* atomic */
};

static void uart_input(void *opaque, const u8 *bytes, size_t n)
{
	__atomic_add_fetch(&((struct world *)opaque)->uart_bytes, (u32)n, __ATOMIC_SEQ_CST);
}

static size_t uart_can_input(void *opaque)
{
	return 16;
}

/* Standard input is a pipe that the test writes; output is the test's own. */
static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct char_events uart = {w, uart_input, uart_can_input, NULL};
	struct err e = {0};

	assert_int_equal(pipe(w->reader_pipe), 0);
	w->keep_stdin = dup(STDIN_FILENO);
	dup2(w->reader_pipe[0], STDIN_FILENO);
	g_board(&w->g, 1);
	if (char_open(&w->chr, w->g.env.loop, "stdio", NULL, NULL, &e))
		fail_msg("%s", e.msg);
	char_set_reader(w->chr, &uart);
	w->g.console = w->chr;
	g_start(&w->g, "vconsole", NULL);
	w->mem = g_alloc(&w->g, 64 * 1024);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	evloop_stop(w->g.env.loop);
	pthread_join(w->g.loop_thread, NULL);
	w->g.loop_thread = 0;
	w->g.dev->cls->destroy(w->g.dev);
	w->g.dev = NULL;
	char_close(w->chr);
	g_stop(&w->g);
	dup2(w->keep_stdin, STDIN_FILENO);
	close(w->keep_stdin);
	close(w->reader_pipe[0]);
	close(w->reader_pipe[1]);
	free(w);
	return 0;
}

static void driver(struct world *w)
{
	g_negotiate(&w->g, ~0ull);
	w->rx = g_queue(&w->g, 0, 16);
	w->tx = g_queue(&w->g, 1, 16);
	g_driver_ok(&w->g);
}

static void give_buffer(struct world *w, u32 len)
{
	struct guest_buf buf = {w->mem, len, true};

	gq_add(&w->g, w->rx, &buf, 1);
	gq_kick(&w->g, w->rx);
}

static void print(struct world *w, const char *text)
{
	struct guest_buf buf = {w->mem + 4096, (u32)strlen(text), false};

	memcpy(g_ptr(&w->g, w->mem + 4096), text, buf.len);
	gq_add(&w->g, w->tx, &buf, 1);
	gq_kick(&w->g, w->tx);
	gq_wait(&w->g, w->tx);
}

static void type(struct world *w, const char *text)
{
	assert_int_equal(write(w->reader_pipe[1], text, strlen(text)), strlen(text));
}

static void await_uart(struct world *w, u32 n)
{
	u64 end = host_now_ns() + G_WAIT_NS;

	while (__atomic_load_n(&w->uart_bytes, __ATOMIC_SEQ_CST) < n) {
		if (host_now_ns() > end)
			fail_msg("the UART got %u bytes of %u", w->uart_bytes, n);
		g_nap();
	}
}

static void set_flag(void *opaque)
{
	__atomic_store_n((bool *)opaque, true, __ATOMIC_SEQ_CST);
}

/* What was posted to the loop so far has run. */
static void settle(struct world *w)
{
	bool done = false;

	evloop_post(w->g.env.loop, set_flag, &done);
	while (!__atomic_load_n(&done, __ATOMIC_SEQ_CST))
		g_nap();
}

static void input_follows_the_guest(void **state)
{
	struct world *w = *state;

	driver(w);
	give_buffer(w, 64);
	type(w, "ab");
	await_uart(w, 2); /* nothing was written here yet */
	print(w, "\n");
	settle(w);
	type(w, "cde");
	assert_int_equal(gq_wait(&w->g, w->rx).len, 3);
	assert_memory_equal(g_ptr(&w->g, w->mem), "cde", 3);
	g_reset(&w->g);
	settle(w);
	type(w, "fg");
	await_uart(w, 4);
}

static void input_waits_for_buffers(void **state)
{
	struct world *w = *state;
	char got[9] = "";

	driver(w);
	give_buffer(w, 2);
	print(w, "\n");
	settle(w);
	type(w, "12345678");
	for (u32 n = 0; n < 8;) {
		struct vring_used_elem e = gq_wait(&w->g, w->rx);

		memcpy(got + n, g_ptr(&w->g, w->mem), e.len);
		n += e.len;
		assert_int_equal(e.len, 2);
		give_buffer(w, 2);
	}
	assert_string_equal(got, "12345678");
	assert_int_equal(w->uart_bytes, 0);
}

static void emergency_write(void **state)
{
	struct world *w = *state;

	g_write(&w->g, G_CONFIG + offsetof(struct virtio_console_config, emerg_wr), 4, '\n');
	g_write(&w->g, G_CONFIG, 4, 0x12345678);
	assert_int_equal(g_read(&w->g, G_CONFIG + offsetof(struct virtio_console_config, emerg_wr), 4), 0);
	assert_int_not_equal(g_read(&w->g, G_CONFIG, 4), 0x12345678);
}

static void resets_while_typing(void **state)
{
	struct world *w = *state;
	u64 heap = w->g.heap;

	for (u32 i = 0; i < 100; i++) {
		w->g.heap = heap;
		driver(w);
		give_buffer(w, 8);
		if (i % 2)
			print(w, "\n");
		type(w, "x");
	}
	driver(w);
	assert_false(g_status(&w->g) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

static void needs_a_console(void **state)
{
	struct err e = {0};
	struct guest g;

	g_board(&g, 1);
	assert_true(g_create(&g, "vconsole", NULL, &e) < 0);
	g.dev = NULL;
	g_stop(&g);
}

static u32 interrupts(struct world *w)
{
	return g_msis(&w->g, w->tx->index + 1u); /* vector 0 is of the configuration */
}

/* "Interrupt me when used->idx has passed this." */
static void ask_beyond(struct world *w, u16 index)
{
	struct vring_avail *avail = g_ptr(&w->g, w->tx->avail);

	__atomic_store_n(&avail->ring[w->tx->size], index, __ATOMIC_SEQ_CST);
}

/* As Linux does it: each write is waited for by looking. A host that is slow now and then makes some interrupts, not thousands. */
static void who_looks_is_not_interrupted(void **state)
{
	struct world *w = *state;

	driver(w);
	for (u32 i = 0; i < 2000; i++) {
		print(w, " ");
		ask_beyond(w, w->tx->seen);
	}
	print(w, "\n");
	assert_true(interrupts(w) < 1000);
}

static void who_waits_is_interrupted(void **state)
{
	struct world *w = *state;
	u64 end = host_now_ns() + G_WAIT_NS;

	driver(w);
	ask_beyond(w, 0);
	for (u32 i = 0; i < 20; i++) {
		print(w, "\n");
		while (interrupts(w) <= i) {
			if (host_now_ns() > end)
				fail_msg("%u interrupts for %u writes", interrupts(w), i + 1);
			g_nap();
		}
		assert_int_equal(interrupts(w), i + 1);
		ask_beyond(w, w->tx->seen);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(input_follows_the_guest),
		T(input_waits_for_buffers),
		T(emergency_write),
		T(resets_while_typing),
		T(who_looks_is_not_interrupted),
		T(who_waits_is_interrupted),
		cmocka_unit_test(needs_a_console),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
