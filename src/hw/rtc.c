/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MC146818 real-time clock and its RAM at ports 0x70 and 0x71, GSI 8.
 * Source: Motorola MC146818A datasheet; the century byte is at 0x32, as FADT says.
 *
 * The clock is the host's real time (UTC) plus an offset that the guest changes by setting it. It runs on while the VM is paused, as a
 * battery-backed clock does; periodic interrupts follow the virtual clock. Flags are computed when somebody looks; timers exist only for
 * interrupts that are enabled and not yet pending. Reset acts as the chip's RESET pin: clock and RAM stay.
 *
 * Threading: one lock; the timer runs on the event loop's thread.
 */
#include "hw/device.h"
#include "hw/layout.h"
#include "hw/vtime.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	R_SEC,
	R_SEC_ALARM,
	R_MIN,
	R_MIN_ALARM,
	R_HOUR,
	R_HOUR_ALARM,
	R_WDAY,
	R_MDAY,
	R_MONTH,
	R_YEAR,
	R_A,
	R_B,
	R_C,
	R_D,
	R_CENTURY = 0x32
};
enum { A_UIP = 0x80, A_DIVIDER_RESET = 0x60 };
enum { B_SET = 0x80, B_PIE = 0x40, B_AIE = 0x20, B_UIE = 0x10, B_SQWE = 0x08, B_BINARY = 0x04, B_24H = 0x02 };
enum { C_IRQ = 0x80, C_PERIODIC = 0x40, C_ALARM = 0x20, C_UPDATE = 0x10 };
#define UPDATE_NS 244000 /* an update is announced so long before it happens */
#define DAY 86400

struct rtc {
	struct device dev;
	pthread_mutex_t lock;
	struct bus_region ports;
	struct irq_line irq;
	struct evtimer timer;
	u8 index;
	u8 ram[128];	       /* registers too; the time of day only while the clock is stopped */
	u64 offset;	       /* guest's clock - host's, ns, modulo 2^64 */
	u64 seen_ns, seen_vns; /* flags are up to date with this time of the clock, and of the virtual clock */
};

static u64 rtc_now(const struct rtc *r)
{
	return host_realtime_ns() + r->offset;
}

static bool stopped(const struct rtc *r)
{
	return r->ram[R_B] & B_SET || (r->ram[R_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
}

/* Numbers as the guest has chosen: binary or BCD, 24 or 12 hours. */
static u8 encode(const struct rtc *r, u32 v)
{
	return (u8)(r->ram[R_B] & B_BINARY ? v : (v / 10 % 10) << 4 | v % 10);
}

static u32 decode(const struct rtc *r, u8 v)
{
	return r->ram[R_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 15);
}

static u8 encode_hour(const struct rtc *r, u32 h)
{
	if (r->ram[R_B] & B_24H)
		return encode(r, h);
	return (u8)(encode(r, h % 12 ? h % 12 : 12) | (h >= 12 ? 0x80 : 0));
}

static u32 decode_hour(const struct rtc *r, u8 v)
{
	if (r->ram[R_B] & B_24H)
		return decode(r, v);
	return decode(r, v & 0x7f) % 12 + (v & 0x80 ? 12 : 0);
}

/* The clock's time into the registers. */
static void time_to_ram(struct rtc *r, u64 ns)
{
	time_t s = (time_t)(ns / NS_PER_SEC);
	struct tm tm;

	if (!gmtime_r(&s, &tm))
		return;
	r->ram[R_SEC] = encode(r, (u32)tm.tm_sec);
	r->ram[R_MIN] = encode(r, (u32)tm.tm_min);
	r->ram[R_HOUR] = encode_hour(r, (u32)tm.tm_hour);
	r->ram[R_WDAY] = encode(r, (u32)tm.tm_wday + 1);
	r->ram[R_MDAY] = encode(r, (u32)tm.tm_mday);
	r->ram[R_MONTH] = encode(r, (u32)tm.tm_mon + 1);
	r->ram[R_YEAR] = encode(r, (u32)tm.tm_year % 100);
	r->ram[R_CENTURY] = encode(r, (u32)(tm.tm_year + 1900) / 100 % 100);
}

/* The registers into the clock. Values out of range carry over; times before 1970 count as 1970. */
static void time_from_ram(struct rtc *r, u64 sub_second_ns)
{
	struct tm tm = {
		.tm_sec = (int)decode(r, r->ram[R_SEC]),
		.tm_min = (int)decode(r, r->ram[R_MIN]),
		.tm_hour = (int)decode_hour(r, r->ram[R_HOUR]),
		.tm_mday = (int)decode(r, r->ram[R_MDAY]),
		.tm_mon = (int)decode(r, r->ram[R_MONTH]) - 1,
		.tm_year = (int)(decode(r, r->ram[R_CENTURY]) * 100 + decode(r, r->ram[R_YEAR])) - 1900,
	};
	i64 s = timegm(&tm);

	r->offset = (s > 0 ? (u64)s : 0) * NS_PER_SEC + sub_second_ns - host_realtime_ns();
	r->seen_ns = rtc_now(r);
}

static bool alarm_matches(u8 reg, u32 wanted, u32 have)
{
	return reg >= 0xc0 || wanted == have; /* 11xxxxxx: do not care */
}

/* Seconds from `s` (exclusive) to the next time that the alarm registers name; 0: there is none. Whole hours and minutes that do not
 * match are skipped: at most some 1,600 steps, whatever the guest has written. */
static u32 alarm_distance(const struct rtc *r, u64 s)
{
	const u8 *ram = r->ram;
	u32 hour = decode_hour(r, ram[R_HOUR_ALARM]), min = decode(r, ram[R_MIN_ALARM]), sec = decode(r, ram[R_SEC_ALARM]);
	u32 from = (u32)(s % DAY) + 1, t = from;

	while (t < from + DAY) {
		u32 day = t % DAY;

		if (!alarm_matches(ram[R_HOUR_ALARM], hour, day / 3600))
			t += 3600 - t % 3600;
		else if (!alarm_matches(ram[R_MIN_ALARM], min, day / 60 % 60))
			t += 60 - t % 60;
		else if (!alarm_matches(ram[R_SEC_ALARM], sec, day % 60))
			t++;
		else
			return t - from + 1;
		if (sec > 59 && ram[R_SEC_ALARM] < 0xc0)
			return 0; /* no such second: the search would look at each of the day */
	}
	return 0;
}

static u64 period_ns(const struct rtc *r)
{
	u32 rate = r->ram[R_A] & 15;

	if (!rate)
		return 0;
	/* 32768 Hz / 2^(rate - 1); rates 1 and 2 are 8 and 9 again. */
	return NS_PER_SEC * (1u << ((rate < 3 ? rate + 7 : rate) - 1)) / 32768;
}

/* Bring the flags up to date. */
static void flags_update(struct rtc *r)
{
	u64 now = rtc_now(r), vnow = vclock_now(r->dev.env->clock), period = period_ns(r);
	u64 s = now / NS_PER_SEC, seen = r->seen_ns / NS_PER_SEC;

	if (!stopped(r) && s > seen) {
		u32 distance = alarm_distance(r, seen);

		r->ram[R_C] |= C_UPDATE;
		if (distance && seen + distance <= s)
			r->ram[R_C] |= C_ALARM;
	}
	if (period && vnow / period > r->seen_vns / period)
		r->ram[R_C] |= C_PERIODIC;
	r->seen_ns = now; /* also when the host's clock was set back */
	r->seen_vns = vnow;
}

static void earliest(u64 *wait, u64 candidate)
{
	if (candidate < *wait)
		*wait = candidate;
}

/* Wake up for the next interrupt that is enabled and not pending already. */
static void arm(struct rtc *r)
{
	u64 wait = ~0ull, period = period_ns(r), sub = r->seen_ns % NS_PER_SEC;
	u8 want = r->ram[R_B] & ~r->ram[R_C];

	if (want & B_PIE && period)
		earliest(&wait, period - r->seen_vns % period);
	if (want & B_UIE && !stopped(r))
		earliest(&wait, NS_PER_SEC - sub);
	if (want & B_AIE && !stopped(r)) {
		u32 distance = alarm_distance(r, r->seen_ns / NS_PER_SEC);

		if (distance)
			earliest(&wait, distance * NS_PER_SEC - sub);
	}
	if (wait == ~0ull) {
		timer_disarm(&r->timer);
		return;
	}
	if (wait < VTIME_MIN_PERIOD_NS)
		wait = VTIME_MIN_PERIOD_NS;
	/* The host's real time may be set, and an alarm be far away: vtime_wait looks again every hour. */
	timer_arm(&r->timer, host_now_ns() + vtime_wait(r->dev.env->clock, wait));
}

static void update(struct rtc *r)
{
	flags_update(r);
	r->ram[R_C] &= ~C_IRQ;
	if (r->ram[R_C] & r->ram[R_B] & (C_PERIODIC | C_ALARM | C_UPDATE))
		r->ram[R_C] |= C_IRQ;
	irq_set(&r->irq, (r->ram[R_C] & C_IRQ) != 0);
	arm(r);
}

static void expired(void *opaque)
{
	struct rtc *r = opaque;

	pthread_mutex_lock(&r->lock);
	update(r);
	pthread_mutex_unlock(&r->lock);
}

static bool is_time(u32 i)
{
	return i == R_SEC || i == R_MIN || i == R_HOUR || (i >= R_WDAY && i <= R_YEAR) || i == R_CENTURY;
}

static void write_time(struct rtc *r, u32 i, u8 v)
{
	u64 now = rtc_now(r);

	if (stopped(r)) {
		r->ram[i] = v;
		return;
	}
	time_to_ram(r, now);
	r->ram[i] = v;
	time_from_ram(r, now % NS_PER_SEC);
}

/* Registers A and B can stop the clock, which then stands in the registers, and start it from there. */
static void write_control(struct rtc *r, u32 i, u8 v)
{
	bool was_stopped = stopped(r);

	if (!was_stopped)
		time_to_ram(r, rtc_now(r));
	if (i == R_A)
		r->ram[R_A] = v & ~A_UIP;
	else
		r->ram[R_B] = v & B_SET ? v & ~B_UIE : v; /* SET clears the update interrupt's enable */
	if (was_stopped && !stopped(r))
		time_from_ram(r, NS_PER_SEC / 2); /* the first update comes half a second after the divider starts */
}

static void write_register(struct rtc *r, u8 v)
{
	u32 i = r->index;

	flags_update(r);
	if (is_time(i))
		write_time(r, i, v);
	else if (i == R_A || i == R_B)
		write_control(r, i, v);
	else if (i != R_C && i != R_D)
		r->ram[i] = v;
	update(r);
}

static u8 read_register(struct rtc *r)
{
	u32 i = r->index;
	u64 now = rtc_now(r);
	u8 v;

	if (is_time(i) && !stopped(r))
		time_to_ram(r, now);
	v = r->ram[i];
	if (i == R_A && !stopped(r) && now % NS_PER_SEC >= NS_PER_SEC - UPDATE_NS)
		return v | A_UIP;
	if (i == R_C) {
		update(r);
		v = r->ram[R_C];
		r->ram[R_C] = 0;
		update(r);
	}
	return v;
}

/* Port 0x70 is write-only; its bit 7 masks NMI on real machines and nothing here. */
static u64 ports_read(void *opaque, u64 off, u32 size)
{
	struct rtc *r = opaque;
	u8 v;

	if (off == 0)
		return 0xff;
	pthread_mutex_lock(&r->lock);
	v = read_register(r);
	pthread_mutex_unlock(&r->lock);
	return v;
}

static void ports_write(void *opaque, u64 off, u32 size, u64 value)
{
	struct rtc *r = opaque;

	pthread_mutex_lock(&r->lock);
	if (off == 0)
		r->index = value & 0x7f;
	else
		write_register(r, (u8)value);
	pthread_mutex_unlock(&r->lock);
}

static const struct bus_ops ports_ops = {.read = ports_read, .write = ports_write, .min_size = 1, .max_size = 1};

static void rtc_reset(struct device *d)
{
	struct rtc *r = container_of(d, struct rtc, dev);

	pthread_mutex_lock(&r->lock);
	r->index = 0;
	flags_update(r);
	/* A guest that died while setting the clock must not leave it standing for the next. */
	if (stopped(r)) {
		r->ram[R_B] &= ~B_SET;
		time_from_ram(r, 0);
	}
	r->ram[R_A] = 0x26; /* 32768 Hz time base, 1024 Hz periodic rate */
	r->ram[R_B] &= ~(B_PIE | B_AIE | B_UIE | B_SQWE | B_SET);
	r->ram[R_C] = 0;
	update(r);
	pthread_mutex_unlock(&r->lock);
}

static void rtc_loaded(struct device *d)
{
	struct rtc *r = container_of(d, struct rtc, dev);

	pthread_mutex_lock(&r->lock);
	r->index &= 0x7f;
	r->ram[R_D] = 0x80;
	update(r);
	pthread_mutex_unlock(&r->lock);
}

static void rtc_destroy(struct device *d)
{
	struct rtc *r = container_of(d, struct rtc, dev);

	bus_remove(d->env->pio, &r->ports);
	timer_disarm(&r->timer);
	irq_set(&r->irq, false);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

static const struct device_class rtc_class;

static int rtc_create(struct device_env *env, const struct opts *opts, struct device **out, struct err *e)
{
	struct rtc *r = calloc(1, sizeof(*r));
	int ret;

	if (!r)
		return err_set(e, ENOMEM, "rtc: out of memory; free memory on the host");
	r->dev.cls = &rtc_class;
	r->dev.env = env;
	r->ports = (struct bus_region){.base = LAYOUT_RTC_PORT, .len = 2, .ops = &ports_ops, .opaque = r, .name = "rtc"};
	r->ram[R_B] = B_24H;
	r->ram[R_D] = 0x80; /* RAM and time are valid */
	r->seen_ns = rtc_now(r);
	pthread_mutex_init(&r->lock, NULL);
	irq_line_init(&r->irq, env->irq, LAYOUT_GSI_RTC);
	timer_init(&r->timer, env->loop, expired, r);
	rtc_reset(&r->dev);
	ret = bus_add(env->pio, &r->ports, e);
	if (ret) {
		rtc_destroy(&r->dev);
		return ret;
	}
	*out = &r->dev;
	return 0;
}

/* A row a line. */
/* clang-format off */
static const struct field rtc_fields[] = {
	FIELD(struct rtc, index, FIELD_U8),
	FIELD_ARRAY(struct rtc, ram, FIELD_BYTES, 128),
	FIELD(struct rtc, offset, FIELD_U64),
	FIELD(struct rtc, seen_ns, FIELD_U64),
	FIELD(struct rtc, seen_vns, FIELD_U64),
};
/* clang-format on */

static const struct device_class rtc_class = {
	.name = "rtc",
	.stage = STAGE_CHIPSET,
	.summary = "MC146818 real-time clock",
	.version = 1,
	.create = rtc_create,
	.reset = rtc_reset,
	.destroy = rtc_destroy,
	.loaded = rtc_loaded,
	.fields = rtc_fields,
	.nfields = ARRAY_SIZE(rtc_fields),
};
DEVICE_REGISTER(rtc_class);
