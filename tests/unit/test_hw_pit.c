/* SPDX-License-Identifier: Apache-2.0 */
/* 8254: modes, byte order, latches, read-back, BCD, gates, port 0x61, and channel 0's interrupts. */
#include "hw_machine.h"

enum { CH0 = 0x40, CH2 = 0x42, CONTROL = 0x43, PORT61 = 0x61 };
#define START NS_PER_SEC

static int setup(void **state)
{
	struct machine *m = machine_new();

	machine_plug(m, "pit", NULL);
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	machine_free(*state);
	return 0;
}

/* Move the clock to `n` clocks of the PIT after START, `slack` ns past the edge. Something started with little slack has then seen whole
 * clocks when it is looked at with more. */
static void clocks_and(struct machine *m, u64 n, u64 slack)
{
	machine_time(m, START + n * 1000000000 / 1193182 + slack);
}
static void clocks(struct machine *m, u64 n)
{
	clocks_and(m, n, 10);
}

static void program(struct machine *m, u32 channel, u32 mode, u32 count)
{
	outb(m, CONTROL, channel << 6 | 3 << 4 | mode << 1);
	outb(m, (u16)(CH0 + channel), count & 0xff);
	outb(m, (u16)(CH0 + channel), count >> 8 & 0xff);
}

static u32 read_count(struct machine *m, u32 channel)
{
	u32 low;

	outb(m, CONTROL, channel << 6); /* latch */
	low = inb(m, (u16)(CH0 + channel));
	return low | inb(m, (u16)(CH0 + channel)) << 8;
}

static u32 status(struct machine *m, u32 channel)
{
	outb(m, CONTROL, 0xe0 | 2u << channel);
	return inb(m, (u16)(CH0 + channel));
}

static void mode0_counts_down_once(void **state)
{
	struct machine *m = *state;

	outb(m, CONTROL, 0x30);
	assert_int_equal(status(m, 0), 0x70); /* output low, no count yet */
	program(m, 0, 0, 1000);
	assert_int_equal(status(m, 0), 0x30);
	clocks(m, 400);
	assert_int_equal(read_count(m, 0), 600);
	assert_false(m->line[LAYOUT_GSI_PIT]);
	clocks(m, 1000);
	assert_int_equal(status(m, 0), 0xb0);
	clocks(m, 1010);
	assert_int_equal(read_count(m, 0), 65536 - 10); /* wraps */
	/* The first byte of a new count stops counting. */
	outb(m, CH0, 0x10);
	clocks(m, 2000);
	assert_int_equal(read_count(m, 0), 65536 - 10);
	outb(m, CH0, 0);
	assert_int_equal(read_count(m, 0), 16);
}

static void mode2_is_periodic(void **state)
{
	struct machine *m = *state;

	program(m, 0, 2, 100);
	assert_int_equal(read_count(m, 0), 100);
	clocks(m, 99);
	assert_int_equal(read_count(m, 0), 1);
	assert_int_equal(status(m, 0), 0x34); /* low for the last clock */
	clocks(m, 100);
	assert_int_equal(read_count(m, 0), 100);
	assert_int_equal(status(m, 0), 0xb4);
	/* A new count waits for the end of the period. */
	clocks(m, 150);
	outb(m, CH0, 10);
	outb(m, CH0, 0);
	assert_int_equal(status(m, 0), 0xf4);
	clocks(m, 180);
	assert_int_equal(read_count(m, 0), 20);
	clocks(m, 203);
	assert_int_equal(read_count(m, 0), 7);
	assert_int_equal(status(m, 0), 0xb4);
}

static void mode3_counts_by_two(void **state)
{
	struct machine *m = *state;

	program(m, 0, 3, 100);
	assert_int_equal(read_count(m, 0), 100);
	clocks(m, 10);
	assert_int_equal(read_count(m, 0), 80);
	assert_int_equal(status(m, 0), 0xb6);
	clocks(m, 50);
	assert_int_equal(read_count(m, 0), 100);
	assert_int_equal(status(m, 0), 0x36);
	program(m, 0, 7, 0); /* mode 3 by its other name, 65536 */
	clocks(m, 50);
	assert_int_equal(status(m, 0), 0xb6);
	/* odd counts stay in range */
	program(m, 0, 3, 5);
	for (u32 i = 0; i < 20; i++) {
		clocks(m, 50 + i);
		assert_in_range(read_count(m, 0), 0, 4);
	}
	program(m, 0, 3, 1);
	clocks(m, 1000);
	assert_int_equal(read_count(m, 0), 0);
}

static void one_shots_wait_for_the_gate(void **state)
{
	struct machine *m = *state;

	outb(m, PORT61, 0);
	program(m, 2, 1, 100);
	assert_int_equal(inb(m, PORT61) & 0x20, 0x20);
	clocks(m, 50);
	assert_int_equal(inb(m, PORT61) & 0x20, 0x20);
	outb(m, PORT61, 1);
	assert_int_equal(inb(m, PORT61) & 0x20, 0);
	clocks(m, 149);
	assert_int_equal(inb(m, PORT61) & 0x20, 0);
	clocks(m, 151);
	assert_int_equal(inb(m, PORT61) & 0x20, 0x20);

	program(m, 2, 5, 100); /* strobe */
	outb(m, PORT61, 0);
	outb(m, PORT61, 1);
	clocks_and(m, 251, 100);
	assert_int_equal(inb(m, PORT61) & 0x20, 0);
	clocks_and(m, 253, 100);
	assert_int_equal(inb(m, PORT61) & 0x20, 0x20);
}

static void gate_pauses_mode0(void **state)
{
	struct machine *m = *state;

	/* The way operating systems calibrate: channel 2, mode 0, gate on, wait for the output. */
	outb(m, PORT61, (inb(m, PORT61) & ~2u) | 1);
	outb(m, CONTROL, 0xb0);
	outb(m, CH2, 0xe8);
	outb(m, CH2, 0x03);
	clocks(m, 500);
	outb(m, PORT61, 0);
	clocks(m, 5000);
	assert_int_equal(read_count(m, 2), 500);
	assert_int_equal(inb(m, PORT61) & 0x20, 0);
	outb(m, PORT61, 1);
	clocks(m, 5501);
	assert_int_equal(inb(m, PORT61) & 0x20, 0x20);
	assert_int_equal(inb(m, PORT61) & 0x0f, 1);
}

static void mode4_strobes(void **state)
{
	struct machine *m = *state;

	program(m, 0, 4, 50);
	assert_int_equal(status(m, 0), 0xb8);
	clocks(m, 50);
	assert_int_equal(status(m, 0), 0x38);
	clocks(m, 51);
	assert_int_equal(status(m, 0), 0xb8);
}

static void access_modes(void **state)
{
	struct machine *m = *state;

	outb(m, CONTROL, 0x10); /* low byte only, mode 0 */
	outb(m, CH0, 0x80);
	assert_int_equal(inb(m, CH0), 0x80);
	assert_int_equal(inb(m, CH0), 0x80);
	outb(m, CONTROL, 0x20); /* high byte only */
	outb(m, CH0, 0x12);
	assert_int_equal(inb(m, CH0), 0x12);
	assert_int_equal(status(m, 0), 0x20);
	/* A latch holds while the counter goes on, and a second latch does not replace it. */
	program(m, 0, 0, 1000);
	outb(m, CONTROL, 0x00);
	clocks(m, 100);
	outb(m, CONTROL, 0xd2); /* read-back of the count */
	assert_int_equal(inb(m, CH0), 1000 & 0xff);
	assert_int_equal(inb(m, CH0), 1000 >> 8);
	assert_int_equal(inb(m, CH0), 900 & 0xff);
	assert_int_equal(inb(m, CH0), 900 >> 8);
	/* Status comes before the count when both are latched. */
	outb(m, CONTROL, 0xc2);
	assert_int_equal(inb(m, CH0), 0x30);
	assert_int_equal(inb(m, CH0), 900 & 0xff);
	assert_int_equal(inb(m, CH0), 900 >> 8);
	assert_int_equal(inb(m, CONTROL), 0xff);
}

static void bcd(void **state)
{
	struct machine *m = *state;

	outb(m, CONTROL, 0x31);
	outb(m, CH0, 0x00);
	outb(m, CH0, 0x12); /* 1200 */
	clocks(m, 1);
	assert_int_equal(read_count(m, 0), 0x1199);
	clocks(m, 1201);
	assert_int_equal(read_count(m, 0), 0x9999);
	outb(m, CH0, 0);
	outb(m, CH0, 0); /* 10000 */
	clocks_and(m, 1202, 100);
	assert_int_equal(read_count(m, 0), 0x9999);
	outb(m, CH0, 0xff); /* no such digits: no harm */
	outb(m, CH0, 0xff);
	clocks(m, 50000);
	read_count(m, 0);
}

static void interrupts(void **state)
{
	struct machine *m = *state;

	machine_run_clock(m);
	program(m, 0, 0, 1193); /* 1 ms */
	machine_loop(m, 30000000);
	assert_int_equal(m->edges[LAYOUT_GSI_PIT], 1);
	assert_true(m->line[LAYOUT_GSI_PIT]); /* stays high */
	program(m, 0, 2, 11932);	      /* 10 ms */
	m->edges[LAYOUT_GSI_PIT] = 0;
	machine_loop(m, 105000000);
	assert_in_range(m->edges[LAYOUT_GSI_PIT], 3, 11);
	program(m, 0, 2, 1);
	m->edges[LAYOUT_GSI_PIT] = 0;
	machine_loop(m, 20000000);
	assert_in_range(m->edges[LAYOUT_GSI_PIT], 1, 1001);
	outb(m, CONTROL, 0x30); /* mode 0 without a count: silence */
	m->edges[LAYOUT_GSI_PIT] = 0;
	machine_loop(m, 5000000);
	assert_int_equal(m->edges[LAYOUT_GSI_PIT], 0);
}

static void refresh_bit_toggles(void **state)
{
	struct machine *m = *state;
	u32 a, b;

	machine_time(m, 15085 * 10);
	a = inb(m, PORT61) & 0x10;
	machine_time(m, 15085 * 11);
	b = inb(m, PORT61) & 0x10;
	assert_int_not_equal(a, b);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(mode0_counts_down_once),
		T(mode2_is_periodic),
		T(mode3_counts_by_two),
		T(one_shots_wait_for_the_gate),
		T(gate_pauses_mode0),
		T(mode4_strobes),
		T(access_modes),
		T(bcd),
		T(interrupts),
		T(refresh_bit_toggles),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
