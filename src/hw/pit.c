/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 8254 programmable interval timer at ports 0x40-0x43, and port 0x61, which gates channel 2 and shows its output.
 * Source: Intel 8254 datasheet. Channel 0's output is GSI 2; channel 2's goes to a speaker that is not there.
 *
 * Counters are computed from the virtual clock when somebody looks; only channel 0's rising edges need a timer. The output of modes 2 and 3
 * on channel 0 interrupts at most every 20 us.
 *
 * Threading: one lock; the timer runs on the event loop's thread.
 */
#include "hw/device.h"
#include "hw/layout.h"
#include "hw/vtime.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define PIT_HZ 1193182ull
#define CHANNELS 3

enum { ACCESS_LATCH, ACCESS_LOW, ACCESS_HIGH, ACCESS_BOTH };

struct channel {
	u8 mode, access;
	bool bcd, gate;
	bool write_high, read_high; /* ACCESS_BOTH: the next byte is the upper one */
	u8 low_byte;		    /* written, waiting for the upper one */
	u16 latch;
	u8 latch_bytes; /* latched bytes still to be read */
	u8 status;
	bool status_latched;
	u32 count;	/* 1 to 65536 clocks; 0: no count was written since the mode */
	u32 next_count; /* modes 2 and 3: takes over at `switch_at` */
	u64 switch_at;
	bool running;
	u64 start;   /* running: virtual time of clock 0 */
	u64 elapsed; /* stopped: clocks so far */
};

struct pit {
	struct device dev;
	pthread_mutex_t lock;
	struct bus_region ports, port61;
	struct irq_line irq;
	struct evtimer timer;
	u64 due; /* virtual time of channel 0's next rising edge, 0: none */
	u8 control61;
	struct channel ch[CHANNELS];
};

static u64 pit_now(const struct pit *p)
{
	return vclock_now(p->dev.env->clock);
}

static u64 clocks_to_ns(u64 clocks)
{
	return vtime_muldiv(clocks, NS_PER_SEC, PIT_HZ) + 1; /* rounded up: at that time the clock has ticked */
}

static u64 clocks(const struct channel *c, u64 now)
{
	return c->running ? vtime_muldiv(now - c->start, PIT_HZ, NS_PER_SEC) : c->elapsed;
}

static bool periodic(const struct channel *c)
{
	return c->mode == 2 || c->mode == 3;
}

/* A new count of modes 2 and 3 waits for the end of the period. */
static void sync(struct channel *c, u64 now)
{
	if (!c->next_count || clocks(c, now) < c->switch_at)
		return;
	if (c->running)
		c->start += vtime_muldiv(c->switch_at, NS_PER_SEC, PIT_HZ);
	c->elapsed = 0;
	c->count = c->next_count;
	c->next_count = 0;
}

static void stop(struct channel *c, u64 now)
{
	c->elapsed = clocks(c, now);
	c->running = false;
}

static void resume(struct channel *c, u64 now)
{
	u64 ago = vtime_muldiv(c->elapsed, NS_PER_SEC, PIT_HZ);

	c->start = now > ago ? now - ago : 0;
	c->running = true;
}

static void restart(struct channel *c, u64 now)
{
	c->elapsed = 0;
	resume(c, now);
}

/* The level of OUT after `t` clocks. */
static bool out_level(const struct channel *c, u64 t)
{
	if (!c->count)
		return c->mode != 0;
	switch (c->mode) {
	case 0:
		return t >= c->count;
	case 1:
		return !c->running || t >= c->count;
	case 2:
		return !c->gate || t % c->count != c->count - 1;
	case 3:
		return !c->gate || t % c->count < (c->count + 1) / 2;
	default:
		return !c->running || t != c->count;
	}
}

/* The counting element, in plain binary. */
static u32 counter(const struct channel *c, u64 t)
{
	u32 wrap = c->bcd ? 10000 : 65536, half = (c->count + 1) / 2, phase;

	if (!c->count)
		return 0;
	switch (c->mode) {
	case 2:
		return c->count - (u32)(t % c->count);
	case 3: /* counts down by two, twice a period */
		phase = (u32)(t % c->count);
		return (c->count & ~1u) - 2 * (phase < half ? phase : phase - half);
	default:
		return (u32)((c->count + wrap - t % wrap) % wrap);
	}
}

static u16 to_register(const struct channel *c, u32 v)
{
	if (!c->bcd)
		return (u16)v;
	return (u16)(v / 1000 % 10 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10);
}

static u32 from_register(const struct channel *c, u16 v)
{
	u32 n = v;

	if (c->bcd)
		n = (v >> 12) * 1000u + (v >> 8 & 15) * 100u + (v >> 4 & 15) * 10u + (v & 15);
	if (!n)
		return c->bcd ? 10000 : 65536;
	return n;
}

/* Clocks from the start to the next rising edge after t; 0: there is none. */
static u64 next_edge(const struct channel *c, u64 t)
{
	if (!c->count || !c->running)
		return 0;
	if (periodic(c))
		return (t / c->count + 1) * c->count;
	if (c->mode == 0)
		return t < c->count ? c->count : 0;
	return t <= c->count ? c->count + 1 : 0;
}

static void arm(struct pit *p, u64 now)
{
	struct channel *c = &p->ch[0];
	u64 edge = next_edge(c, clocks(c, now));

	p->due = edge ? vtime_add(c->start, clocks_to_ns(edge)) : 0;
	if (edge && periodic(c) && p->due < now + VTIME_MIN_PERIOD_NS)
		p->due = now + VTIME_MIN_PERIOD_NS;
	if (p->due)
		vtime_arm(&p->timer, p->dev.env->clock, p->due);
	else
		timer_disarm(&p->timer);
}

static void expire_locked(struct pit *p)
{
	u64 now = pit_now(p);

	if (!p->due)
		return;
	if (now < p->due) {
		vtime_arm(&p->timer, p->dev.env->clock, p->due);
		return;
	}
	sync(&p->ch[0], now);
	/* The output may have been high since an edge that was merged with this one; it is high after a rising edge. */
	irq_set(&p->irq, false);
	irq_set(&p->irq, true);
	arm(p, now);
}

static void expired(void *opaque)
{
	struct pit *p = opaque;

	pthread_mutex_lock(&p->lock);
	expire_locked(p);
	pthread_mutex_unlock(&p->lock);
}

/* Channel 0 was changed: its output may have moved, its next edge too. */
static void channel0_changed(struct pit *p, u64 now)
{
	irq_set(&p->irq, out_level(&p->ch[0], clocks(&p->ch[0], now)));
	arm(p, now);
}

static void set_gate(struct channel *c, bool gate, u64 now)
{
	bool rising = gate && !c->gate;

	if (gate == c->gate)
		return;
	sync(c, now);
	c->gate = gate;
	if (!c->count)
		return;
	switch (c->mode) {
	case 1:
	case 5: /* a trigger; falling does nothing */
		if (rising)
			restart(c, now);
		break;
	case 2:
	case 3:
		rising ? restart(c, now) : stop(c, now);
		break;
	default:
		rising ? resume(c, now) : stop(c, now);
	}
}

static void load_count(struct channel *c, u32 count, u64 now)
{
	sync(c, now);
	if (periodic(c) && c->count && c->running) {
		u64 t = clocks(c, now);

		c->next_count = count;
		c->switch_at = t - t % c->count + c->count;
		return;
	}
	c->count = count;
	if (c->mode == 1 || c->mode == 5)
		return; /* waits for a trigger; a running shot goes on */
	c->elapsed = 0;
	if (c->gate)
		restart(c, now);
}

static void write_count(struct channel *c, u8 v, u64 now)
{
	if (c->access == ACCESS_LOW) {
		load_count(c, from_register(c, v), now);
	} else if (c->access == ACCESS_HIGH) {
		load_count(c, from_register(c, (u16)(v << 8)), now);
	} else if (!c->write_high) {
		c->low_byte = v;
		c->write_high = true;
		if (c->mode == 0)
			stop(c, now); /* the first byte stops mode 0 */
	} else {
		c->write_high = false;
		load_count(c, from_register(c, (u16)(v << 8 | c->low_byte)), now);
	}
}

static void latch_count(struct channel *c, u64 now)
{
	if (c->latch_bytes)
		return; /* the first latch stands until it is read */
	sync(c, now);
	c->latch = to_register(c, counter(c, clocks(c, now)));
	c->latch_bytes = c->access == ACCESS_BOTH ? 2 : 1;
}

static void latch_status(struct channel *c, u64 now)
{
	if (c->status_latched)
		return;
	sync(c, now);
	c->status = (u8)(out_level(c, clocks(c, now)) << 7 | (!c->count || c->next_count) << 6 | c->access << 4 | c->mode << 1 | c->bcd);
	c->status_latched = true;
}

static void read_back(struct pit *p, u8 v, u64 now)
{
	for (u32 i = 0; i < CHANNELS; i++) {
		if (!(v >> (i + 1) & 1))
			continue;
		if (!(v & 0x20))
			latch_count(&p->ch[i], now);
		if (!(v & 0x10))
			latch_status(&p->ch[i], now);
	}
}

static void write_control(struct pit *p, u8 v, u64 now)
{
	u32 i = v >> 6, mode = v >> 1 & 7;
	struct channel *c;

	if (i == 3) {
		read_back(p, v, now);
		return;
	}
	c = &p->ch[i];
	if (!(v >> 4 & 3)) {
		latch_count(c, now);
		return;
	}
	/* Modes 6 and 7 are 2 and 3 with a don't-care bit. */
	*c = (struct channel){.mode = (u8)(mode > 5 ? mode - 4 : mode), .access = v >> 4 & 3, .bcd = v & 1, .gate = c->gate};
	if (i == 0)
		channel0_changed(p, now);
}

static u8 read_byte(struct channel *c, u16 v, bool *high)
{
	if (c->access == ACCESS_HIGH)
		return (u8)(v >> 8);
	if (c->access != ACCESS_BOTH)
		return (u8)v;
	*high = !*high;
	return (u8)(*high ? v : v >> 8);
}

static u8 read_channel(struct channel *c, u64 now)
{
	if (c->status_latched) {
		c->status_latched = false;
		return c->status;
	}
	if (c->latch_bytes) {
		c->latch_bytes--;
		return read_byte(c, c->latch, &c->read_high);
	}
	sync(c, now);
	return read_byte(c, to_register(c, counter(c, clocks(c, now))), &c->read_high);
}

static u64 ports_read(void *opaque, u64 off, u32 size)
{
	struct pit *p = opaque;
	u8 v = 0xff;

	if (off >= CHANNELS)
		return v; /* the control word cannot be read */
	pthread_mutex_lock(&p->lock);
	v = read_channel(&p->ch[off], pit_now(p));
	pthread_mutex_unlock(&p->lock);
	return v;
}

static void ports_write(void *opaque, u64 off, u32 size, u64 value)
{
	struct pit *p = opaque;
	u64 now = pit_now(p);

	pthread_mutex_lock(&p->lock);
	if (off == 3)
		write_control(p, (u8)value, now);
	else
		write_count(&p->ch[off], (u8)value, now);
	if (off == 0)
		channel0_changed(p, now);
	pthread_mutex_unlock(&p->lock);
}

/* Bit 4 toggles with each memory refresh (15.085 us), bit 5 is channel 2's output. */
static u64 port61_read(void *opaque, u64 off, u32 size)
{
	struct pit *p = opaque;
	struct channel *c = &p->ch[2];
	u64 now = pit_now(p);
	u8 v;

	pthread_mutex_lock(&p->lock);
	sync(c, now);
	v = (u8)(p->control61 | (now / 15085 & 1) << 4 | out_level(c, clocks(c, now)) << 5);
	pthread_mutex_unlock(&p->lock);
	return v;
}

static void port61_write(void *opaque, u64 off, u32 size, u64 value)
{
	struct pit *p = opaque;

	pthread_mutex_lock(&p->lock);
	p->control61 = value & 0x0f;
	set_gate(&p->ch[2], value & 1, pit_now(p));
	pthread_mutex_unlock(&p->lock);
}

static const struct bus_ops ports_ops = {.read = ports_read, .write = ports_write, .min_size = 1, .max_size = 1};
static const struct bus_ops port61_ops = {.read = port61_read, .write = port61_write, .min_size = 1, .max_size = 1};

static void pit_reset(struct device *d)
{
	struct pit *p = container_of(d, struct pit, dev);

	pthread_mutex_lock(&p->lock);
	for (u32 i = 0; i < CHANNELS; i++)
		p->ch[i] = (struct channel){.access = ACCESS_BOTH, .gate = i != 2};
	p->control61 = 0;
	channel0_changed(p, pit_now(p));
	pthread_mutex_unlock(&p->lock);
}

/* What a saved file may hold is brought back into the ranges that the code above keeps. */
static void channel_validate(struct channel *c, u64 now)
{
	c->mode = c->mode > 5 ? 0 : c->mode;
	c->access = c->access ? c->access & 3 : ACCESS_BOTH;
	c->latch_bytes = c->latch_bytes > 2 ? 2 : c->latch_bytes;
	c->count = c->count > 65536 ? 65536 : c->count;
	c->next_count = c->next_count > 65536 ? 65536 : c->next_count;
	c->start = c->start > now ? now : c->start;
}

static void pit_loaded(struct device *d)
{
	struct pit *p = container_of(d, struct pit, dev);
	u64 now = pit_now(p);

	pthread_mutex_lock(&p->lock);
	for (u32 i = 0; i < CHANNELS; i++)
		channel_validate(&p->ch[i], now);
	channel0_changed(p, now);
	pthread_mutex_unlock(&p->lock);
}

static void pit_destroy(struct device *d)
{
	struct pit *p = container_of(d, struct pit, dev);

	bus_remove(d->env->pio, &p->ports);
	bus_remove(d->env->pio, &p->port61);
	timer_disarm(&p->timer);
	irq_set(&p->irq, false);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

static const struct device_class pit_class;

static int pit_create(struct device_env *env, const struct opts *opts, struct device **out, struct err *e)
{
	struct pit *p = calloc(1, sizeof(*p));
	int ret;

	if (!p)
		return err_set(e, ENOMEM, "pit: out of memory; free memory on the host");
	p->dev.cls = &pit_class;
	p->dev.env = env;
	p->ports = (struct bus_region){.base = LAYOUT_PIT_PORT, .len = 4, .ops = &ports_ops, .opaque = p, .name = "pit"};
	p->port61 = (struct bus_region){.base = LAYOUT_PORT61, .len = 1, .ops = &port61_ops, .opaque = p, .name = "port61"};
	pthread_mutex_init(&p->lock, NULL);
	irq_line_init(&p->irq, env->irq, LAYOUT_GSI_PIT);
	timer_init(&p->timer, env->loop, expired, p);
	pit_reset(&p->dev);
	ret = bus_add(env->pio, &p->ports, e);
	if (!ret)
		ret = bus_add(env->pio, &p->port61, e);
	if (ret) {
		pit_destroy(&p->dev);
		return ret;
	}
	*out = &p->dev;
	return 0;
}

#define EACH(member_, type_) FIELD_EACH(struct pit, ch, CHANNELS, member_, type_, 1)

static const struct field pit_fields[] = {
	FIELD(struct pit, control61, FIELD_U8),
	EACH(mode, FIELD_U8),
	EACH(access, FIELD_U8),
	EACH(bcd, FIELD_BOOL),
	EACH(gate, FIELD_BOOL),
	EACH(write_high, FIELD_BOOL),
	EACH(read_high, FIELD_BOOL),
	EACH(low_byte, FIELD_U8),
	EACH(latch, FIELD_U16),
	EACH(latch_bytes, FIELD_U8),
	EACH(status, FIELD_U8),
	EACH(status_latched, FIELD_BOOL),
	EACH(count, FIELD_U32),
	EACH(next_count, FIELD_U32),
	EACH(switch_at, FIELD_U64),
	EACH(running, FIELD_BOOL),
	EACH(start, FIELD_U64),
	EACH(elapsed, FIELD_U64),
};

static const struct device_class pit_class = {
	.name = "pit",
	.stage = STAGE_CHIPSET,
	.summary = "8254 interval timer and port 0x61",
	.version = 1,
	.create = pit_create,
	.reset = pit_reset,
	.destroy = pit_destroy,
	.loaded = pit_loaded,
	.fields = pit_fields,
	.nfields = ARRAY_SIZE(pit_fields),
};
DEVICE_REGISTER(pit_class);
