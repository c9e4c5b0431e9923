/* SPDX-License-Identifier: Apache-2.0 */
/* Real-time clock: reading and setting the time in all formats, the three interrupts, RAM, reset. */
#include "hw_machine.h"

#include <time.h>

enum { SEC, SEC_ALARM, MIN, MIN_ALARM, HOUR, HOUR_ALARM, WDAY, MDAY, MONTH, YEAR, A, B, C, D, CENTURY = 0x32 };

static u32 rd(struct machine *m, u32 reg)
{
	outb(m, 0x70, reg);
	return inb(m, 0x71);
}

static void wr(struct machine *m, u32 reg, u32 v)
{
	outb(m, 0x70, reg);
	outb(m, 0x71, v);
}

static u32 bcd(u32 v)
{
	return (v >> 4) * 10 + (v & 15);
}

static int setup(void **state)
{
	struct machine *m = machine_new();

	machine_plug(m, "rtc", NULL);
	machine_run_clock(m);
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	machine_free(*state);
	return 0;
}

static void set_time(struct machine *m, u32 b, const u8 t[7] /* sec min hour mday month year century, encoded */)
{
	wr(m, B, b | 0x80);
	wr(m, SEC, t[0]);
	wr(m, MIN, t[1]);
	wr(m, HOUR, t[2]);
	wr(m, MDAY, t[3]);
	wr(m, MONTH, t[4]);
	wr(m, YEAR, t[5]);
	wr(m, CENTURY, t[6]);
	wr(m, B, b);
}

static void starts_with_the_hosts_time(void **state)
{
	struct machine *m = *state;
	struct tm tm = {0};
	i64 diff;

	assert_int_equal(rd(m, B), 0x02);
	assert_int_equal(rd(m, D), 0x80);
	assert_int_equal(rd(m, A) & 0x7f, 0x26);
	tm.tm_sec = (int)bcd(rd(m, SEC));
	tm.tm_min = (int)bcd(rd(m, MIN));
	tm.tm_hour = (int)bcd(rd(m, HOUR));
	tm.tm_mday = (int)bcd(rd(m, MDAY));
	tm.tm_mon = (int)bcd(rd(m, MONTH)) - 1;
	tm.tm_year = (int)(bcd(rd(m, CENTURY)) * 100 + bcd(rd(m, YEAR))) - 1900;
	diff = (i64)timegm(&tm) - (i64)time(NULL);
	assert_true(diff >= -2 && diff <= 1);
	assert_int_equal(inb(m, 0x70), 0xff);
}

static void setting_the_time(void **state)
{
	struct machine *m = *state;
	static const struct {
		u32 b;
		u8 t[7];
	} cases[] = {
		{0x02, {0x58, 0x59, 0x23, 0x31, 0x12, 0x99, 0x19}}, /* BCD, 24 hours */
		{0x06, {58, 59, 23, 31, 12, 99, 19}},		    /* binary, 24 hours */
		{0x00, {0x10, 0x20, 0x92, 0x29, 0x02, 0x24, 0x20}}, /* BCD, 12 PM = noon, leap day */
		{0x04, {10, 20, 12, 1, 3, 38, 20}},		    /* binary, 12 AM = midnight */
		{0x02, {0x00, 0x00, 0x00, 0x01, 0x01, 0x70, 0x21}},
	};

	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		const u8 *t = cases[i].t;

		set_time(m, cases[i].b, t);
		assert_int_equal(rd(m, B), cases[i].b);
		assert_int_equal(rd(m, SEC), t[0]);
		assert_int_equal(rd(m, MIN), t[1]);
		assert_int_equal(rd(m, HOUR), t[2]);
		assert_int_equal(rd(m, MDAY), t[3]);
		assert_int_equal(rd(m, MONTH), t[4]);
		assert_int_equal(rd(m, YEAR), t[5]);
		assert_int_equal(rd(m, CENTURY), t[6]);
	}
	set_time(m, 0x00, cases[2].t);
	wr(m, B, 0x02);
	assert_int_equal(rd(m, HOUR), 0x12);
	wr(m, SEC, 0x30);
	assert_int_equal(rd(m, SEC), 0x30);
	assert_int_equal(rd(m, MIN), 0x20); /* a running clock takes single fields */
	assert_int_equal(rd(m, WDAY), 5);   /* Thursday */
}

static void stopped_clock_stands(void **state)
{
	struct machine *m = *state;

	wr(m, B, 0x82);
	wr(m, SEC, 0x59);
	machine_loop(m, 1200000000);
	assert_int_equal(rd(m, SEC), 0x59);
	assert_int_equal(rd(m, A) & 0x80, 0);
	wr(m, B, 0x02);
	assert_int_equal(rd(m, SEC), 0x59); /* the first update is half a second away */
	machine_loop(m, 700000000);
	assert_int_equal(rd(m, SEC), 0x00);
}

static void garbage_is_survived(void **state)
{
	struct machine *m = *state;

	for (u32 b = 0; b < 256; b++) {
		wr(m, B, b & 0x0f);
		for (u32 i = 0; i < 10; i++)
			wr(m, i, b * 7 + i * 31);
		wr(m, CENTURY, b);
		wr(m, A, b);
		wr(m, B, b);
		for (u32 i = 0; i < 64; i++)
			rd(m, i);
	}
	for (u32 i = 0; i < 128; i++) {
		wr(m, i, 0xff);
		rd(m, i);
	}
	outb(m, 0x70, 0x8a); /* the NMI bit is no part of the index */
	assert_int_equal(inb(m, 0x71) & 0x7f, 0x7f);
}

static void periodic_interrupt(void **state)
{
	struct machine *m = *state;

	wr(m, A, 0x26); /* 1024 Hz */
	wr(m, B, 0x42);
	machine_loop(m, 20000000);
	assert_int_equal(m->edges[LAYOUT_GSI_RTC], 1); /* level until C is read */
	assert_true(m->line[LAYOUT_GSI_RTC]);
	assert_int_equal(rd(m, C) & 0xc0, 0xc0);
	assert_false(m->line[LAYOUT_GSI_RTC]);
	machine_loop(m, 20000000);
	assert_int_equal(m->edges[LAYOUT_GSI_RTC], 2);
	wr(m, B, 0x02);
	assert_false(m->line[LAYOUT_GSI_RTC]);
	assert_int_equal(rd(m, C) & 0x40, 0x40);
	/* Without its enable bit the flag is still there for pollers. */
	machine_loop(m, 5000000);
	assert_int_equal(rd(m, C) & 0xc0, 0x40);
	wr(m, A, 0x20);
	rd(m, C);
	machine_loop(m, 5000000);
	assert_int_equal(rd(m, C) & 0x40, 0);
}

static void update_and_alarm(void **state)
{
	struct machine *m = *state;
	static const u8 t[7] = {0x58, 0x59, 0x23, 0x31, 0x12, 0x24, 0x20};

	set_time(m, 0x02, t);
	wr(m, SEC_ALARM, 0x59);
	wr(m, MIN_ALARM, 0xff);
	wr(m, HOUR_ALARM, 0x23);
	rd(m, C);
	wr(m, B, 0x22); /* alarm */
	machine_loop(m, 700000000);
	assert_int_equal(m->edges[LAYOUT_GSI_RTC], 1);
	assert_int_equal(rd(m, C) & 0xb0, 0xb0);
	wr(m, B, 0x12); /* update */
	machine_loop(m, 1100000000);
	assert_int_equal(m->edges[LAYOUT_GSI_RTC], 2);
	assert_int_equal(rd(m, C) & 0xb0, 0x90); /* the alarm is past */
	assert_int_equal(rd(m, YEAR), 0x25);
	wr(m, B, 0x82); /* SET clears the enable */
	assert_int_equal(rd(m, B), 0x82);
	wr(m, B, 0x92);
	assert_int_equal(rd(m, B), 0x82);
}

static void ram_and_time_survive_reset(void **state)
{
	struct machine *m = *state;
	static const u8 t[7] = {0x00, 0x30, 0x11, 0x05, 0x06, 0x33, 0x20};

	set_time(m, 0x02, t);
	wr(m, 0x40, 0x5a);
	wr(m, 0x0f, 0x0a);
	wr(m, B, 0xf2);
	m->dev[0]->cls->reset(m->dev[0]);
	assert_int_equal(rd(m, 0x40), 0x5a);
	assert_int_equal(rd(m, 0x0f), 0x0a);
	assert_int_equal(rd(m, B), 0x02);
	assert_int_equal(rd(m, C), 0);
	assert_int_equal(rd(m, YEAR), 0x33);
	assert_int_equal(rd(m, MIN), 0x30);
	assert_false(m->line[LAYOUT_GSI_RTC]);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(starts_with_the_hosts_time), T(setting_the_time), T(stopped_clock_stands),	   T(garbage_is_survived),
		T(periodic_interrupt),	       T(update_and_alarm), T(ram_and_time_survive_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
