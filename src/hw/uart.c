/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 16550A serial port at 0x3f8, GSI 4, in front of the console ("console" in the environment; without one, output goes nowhere).
 * Source: National Semiconductor PC16550D datasheet.
 *
 * A byte written is sent at once: to a guest that looks, the transmitter is always empty. Its interrupt is held back for a moment where it
 * would be worth little, which on the chip the line's slowness does: after a few bytes, because a driver mostly asks by itself whether
 * there is more to do, and when the transmitter is started again and again for a few bytes, because a system that writes line by line
 * would take several interrupts a line. As on every PC, OUT2 gates the interrupt.
 *
 * Threading: one lock. The console is called without it, because it may call back for input.
 */
#include "char/char.h"
#include "hw/device.h"
#include "hw/layout.h"
#include "hw/vtime.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define FIFO_SIZE 16u
/* How long the transmitter's interrupt is held back: when it is started for little, and after a part of a FIFO. On the chip it is the time
 * of a character and of all of them, but throughput must not suffer from a slow rate. */
#define THRE_START_PAUSE_NS 100000ull
#define THRE_SENT_PAUSE_NS 1000000ull
#define THRE_WORTHWHILE 64u /* bytes for one start */

enum { IER_RDA = 1, IER_THRE = 2, IER_LINE = 4, IER_MODEM = 8 };
enum { IIR_NONE = 1, IIR_MODEM = 0, IIR_THRE = 2, IIR_RDA = 4, IIR_LINE = 6, IIR_TIMEOUT = 12 };
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2 };
enum { LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 16 };
enum { LSR_DR = 1, LSR_OE = 2, LSR_ERRORS = 0x1e, LSR_THRE = 0x20, LSR_TEMT = 0x40 };
enum { MSR_TERI = 4, MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80 };

struct uart {
	struct device dev;
	pthread_mutex_t lock;
	struct bus_region ports;
	struct irq_line irq;
	struct evtimer timeout, thre_timer;
	struct char_backend *console;
	u64 thre_timer_at; /* virtual time, 0: not armed */
	bool thre_held;	   /* the transmitter's interrupt waits for thre_timer */
	u64 thre_acked;	   /* virtual time when the guest last saw it, 0: never */
	u32 thre_sent;	   /* bytes since then */
	u32 start_sent;	   /* bytes since the interrupt was enabled */

	u8 ier, fcr, lcr, mcr, lsr, msr, scratch;
	u16 divisor;
	bool thre_pending, timeout_pending;
	u64 timeout_due; /* virtual time, 0: none */
	u32 rx_head, rx_count;
	u8 rx[FIFO_SIZE];
};

static u32 rx_room(const struct uart *u)
{
	return (u->fcr & FCR_ENABLE ? FIFO_SIZE : 1) - u->rx_count;
}

static u32 rx_trigger(const struct uart *u)
{
	static const u8 level[] = {1, 4, 8, 14};

	return u->fcr & FCR_ENABLE ? level[u->fcr >> 6] : 1;
}

/* The interrupt with the highest priority. */
static u8 interrupt_id(const struct uart *u)
{
	if (u->ier & IER_LINE && u->lsr & LSR_ERRORS)
		return IIR_LINE;
	if (u->ier & IER_RDA && u->rx_count >= rx_trigger(u))
		return IIR_RDA;
	if (u->ier & IER_RDA && u->timeout_pending)
		return IIR_TIMEOUT;
	if (u->ier & IER_THRE && u->thre_pending)
		return IIR_THRE;
	if (u->ier & IER_MODEM && u->msr & 0x0f)
		return IIR_MODEM;
	return IIR_NONE;
}

static void update_irq(struct uart *u)
{
	/* In loopback mode the OUT2 pin is inactive. */
	bool gate = (u->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
	u8 id = gate ? interrupt_id(u) : IIR_NONE;
	bool level = id != IIR_NONE && !(id == IIR_THRE && u->thre_held);

	if (level != u->irq.level)
		irq_set(&u->irq, level);
}

/* The duration of `n` bits at the programmed rate. */
static u64 bits_ns(const struct uart *u, u32 n)
{
	return 16ull * (u->divisor ? u->divisor : 65536) * NS_PER_SEC / 1843200 * n;
}

/* Sooner than asked for is no harm: a timer that is armed already may be for an interrupt that was answered in between. */
static void thre_hold(struct uart *u, u64 until)
{
	u->thre_held = true;
	if (u->thre_timer_at && u->thre_timer_at <= until)
		return;
	u->thre_timer_at = until;
	vtime_arm(&u->thre_timer, u->dev.env->clock, until);
}

static void thre_timer_expired(void *opaque)
{
	struct uart *u = opaque;

	pthread_mutex_lock(&u->lock);
	u->thre_timer_at = 0;
	u->thre_held = false;
	update_irq(u);
	pthread_mutex_unlock(&u->lock);
}

/* Enabling the transmitter's interrupt while it is empty raises it. */
static void thre_start(struct uart *u)
{
	u64 character = bits_ns(u, 10), pause = character < THRE_START_PAUSE_NS ? character : THRE_START_PAUSE_NS;
	bool hold = u->start_sent < THRE_WORTHWHILE && u->thre_acked && vclock_now(u->dev.env->clock) < u->thre_acked + pause;

	u->thre_pending = true;
	u->thre_held = false;
	u->start_sent = 0;
	if (hold)
		thre_hold(u, u->thre_acked + pause);
}

static void thre_byte_sent(struct uart *u)
{
	bool first = !u->thre_pending;

	u->thre_pending = true;
	u->start_sent++;
	if (!(u->ier & IER_THRE))
		return;
	if (++u->thre_sent >= (u->fcr & FCR_ENABLE ? FIFO_SIZE : 1))
		u->thre_held = false;
	else if (first)
		thre_hold(u, vclock_now(u->dev.env->clock) + THRE_SENT_PAUSE_NS);
}

static void thre_ack(struct uart *u)
{
	u->thre_pending = u->thre_held = false;
	u->thre_sent = 0;
	u->thre_acked = vclock_now(u->dev.env->clock);
}

/* Four characters' time without a new byte or a read: what is in the FIFO is reported though it is below the trigger level. */
static void timeout_restart(struct uart *u)
{
	u64 wait;

	u->timeout_pending = false;
	u->timeout_due = 0;
	if (!(u->fcr & FCR_ENABLE) || !u->rx_count) {
		timer_disarm(&u->timeout);
		return;
	}
	wait = bits_ns(u, 4 * 10);
	u->timeout_due = vclock_now(u->dev.env->clock) + (wait < VTIME_MIN_PERIOD_NS ? VTIME_MIN_PERIOD_NS : wait);
	vtime_arm(&u->timeout, u->dev.env->clock, u->timeout_due);
}

static void timeout_expired(void *opaque)
{
	struct uart *u = opaque;

	pthread_mutex_lock(&u->lock);
	if (u->timeout_due && vclock_now(u->dev.env->clock) < u->timeout_due) {
		vtime_arm(&u->timeout, u->dev.env->clock, u->timeout_due);
	} else if (u->timeout_due) {
		u->timeout_due = 0;
		u->timeout_pending = u->rx_count != 0;
		update_irq(u);
	}
	pthread_mutex_unlock(&u->lock);
}

static void rx_push(struct uart *u, u8 byte)
{
	if (!rx_room(u)) {
		u->lsr |= LSR_OE;
		return;
	}
	u->rx[(u->rx_head + u->rx_count++) % FIFO_SIZE] = byte;
	u->lsr |= LSR_DR;
}

static void rx_clear(struct uart *u)
{
	u->rx_head = u->rx_count = 0;
	u->lsr &= ~LSR_DR;
	timeout_restart(u);
}

static u8 rx_pop(struct uart *u)
{
	u8 byte = u->rx[u->rx_head];

	if (!u->rx_count)
		return 0;
	u->rx_head = (u->rx_head + 1) % FIFO_SIZE;
	if (!--u->rx_count)
		u->lsr &= ~LSR_DR;
	timeout_restart(u);
	return byte;
}

static void console_input(void *opaque, const u8 *bytes, size_t n)
{
	struct uart *u = opaque;

	pthread_mutex_lock(&u->lock);
	/* A guest may have closed the room since can_input; while it tests itself in loopback mode, the line is cut. */
	for (size_t i = 0; i < n && !(u->mcr & MCR_LOOP); i++)
		rx_push(u, bytes[i]);
	timeout_restart(u);
	update_irq(u);
	pthread_mutex_unlock(&u->lock);
}

/* What the line may deliver: nothing in loopback mode. */
static u32 line_room(const struct uart *u)
{
	return u->mcr & MCR_LOOP ? 0 : rx_room(u);
}

static size_t console_can_input(void *opaque)
{
	struct uart *u = opaque;
	size_t room;

	pthread_mutex_lock(&u->lock);
	room = line_room(u);
	pthread_mutex_unlock(&u->lock);
	return room;
}

/* Modem inputs: a ready terminal, or in loopback mode the chip's own outputs. Changes set the delta bits. */
static void modem_update(struct uart *u)
{
	u8 lines = MSR_CTS | MSR_DSR | MSR_DCD, changed;

	if (u->mcr & MCR_LOOP)
		lines = (u8)((u->mcr & MCR_RTS ? MSR_CTS : 0) | (u->mcr & MCR_DTR ? MSR_DSR : 0) | (u->mcr & MCR_OUT1 ? MSR_RI : 0) |
			     (u->mcr & MCR_OUT2 ? MSR_DCD : 0));
	changed = (u8)((u->msr ^ lines) >> 4);
	if (lines & MSR_RI)
		changed &= ~MSR_TERI; /* only the trailing edge of RI counts */
	u->msr = (u8)(lines | (u->msr & 0x0f) | changed);
}

static void write_fcr(struct uart *u, u8 v)
{
	if ((v ^ u->fcr) & FCR_ENABLE || v & FCR_CLEAR_RX) {
		u->fcr = v & 0xc1;
		rx_clear(u);
	}
	u->fcr = v & FCR_ENABLE ? v & 0xc1 : 0;
	/* The transmit FIFO is always empty; clearing it shows nothing. */
}

static void write_ier(struct uart *u, u8 v)
{
	if (v & ~u->ier & IER_THRE)
		thre_start(u);
	u->ier = v & 0x0f;
}

/* Returns whether the byte must go to the console. */
static bool write_thr(struct uart *u, u8 v)
{
	thre_byte_sent(u);
	if (!(u->mcr & MCR_LOOP))
		return true;
	rx_push(u, v);
	timeout_restart(u);
	return false;
}

static void set_byte(u16 *word, bool high, u8 v)
{
	*word = (u16)(high ? (*word & 0xff) | v << 8 : (*word & 0xff00) | v);
}

static bool write_locked(struct uart *u, u32 reg, u8 v)
{
	bool dlab = (u->lcr & LCR_DLAB) != 0;

	switch (reg) {
	case 0:
	case 1:
		if (dlab)
			set_byte(&u->divisor, reg == 1, v);
		else if (reg == 0)
			return write_thr(u, v);
		else
			write_ier(u, v);
		break;
	case 2:
		write_fcr(u, v);
		break;
	case 3:
		u->lcr = v;
		break;
	case 4:
		u->mcr = v & 0x1f;
		modem_update(u);
		break;
	case 7:
		u->scratch = v;
		break;
	default: /* LSR and MSR are read-only */
		break;
	}
	return false;
}

static void ports_write(void *opaque, u64 off, u32 size, u64 value)
{
	struct uart *u = opaque;
	u8 byte = (u8)value;
	bool send, room;
	u32 before;

	pthread_mutex_lock(&u->lock);
	before = line_room(u);
	send = write_locked(u, (u32)off, byte);
	room = line_room(u) > before;
	update_irq(u);
	pthread_mutex_unlock(&u->lock);
	if (send && u->console)
		char_write(u->console, &byte, 1);
	if (room && u->console)
		char_can_input_changed(u->console);
}

static u8 read_iir(struct uart *u)
{
	u8 id = interrupt_id(u);

	if (id == IIR_THRE)
		thre_ack(u);
	return (u8)(id | (u->fcr & FCR_ENABLE ? 0xc0 : 0));
}

static u8 read_and_clear(u8 *reg, u8 clear)
{
	u8 v = *reg;

	*reg &= (u8)~clear;
	return v;
}

static u8 read_locked(struct uart *u, u32 reg)
{
	bool dlab = (u->lcr & LCR_DLAB) != 0;

	switch (reg) {
	case 0:
		return dlab ? (u8)u->divisor : rx_pop(u);
	case 1:
		return dlab ? (u8)(u->divisor >> 8) : u->ier;
	case 2:
		return read_iir(u);
	case 3:
		return u->lcr;
	case 4:
		return u->mcr;
	case 5:
		return read_and_clear(&u->lsr, LSR_ERRORS);
	case 6:
		return read_and_clear(&u->msr, 0x0f);
	default:
		return u->scratch;
	}
}

static u64 ports_read(void *opaque, u64 off, u32 size)
{
	struct uart *u = opaque;
	bool drained;
	u32 before;
	u8 v;

	pthread_mutex_lock(&u->lock);
	before = u->rx_count;
	v = read_locked(u, (u32)off);
	drained = u->rx_count < before && (!u->rx_count || before == FIFO_SIZE);
	update_irq(u);
	pthread_mutex_unlock(&u->lock);
	if (drained && u->console)
		char_can_input_changed(u->console);
	return v;
}

static const struct bus_ops ports_ops = {.read = ports_read, .write = ports_write, .min_size = 1, .max_size = 1};

static void uart_reset(struct device *d)
{
	struct uart *u = container_of(d, struct uart, dev);

	pthread_mutex_lock(&u->lock);
	u->ier = u->fcr = u->lcr = u->mcr = u->scratch = 0;
	u->divisor = 12; /* 9600 baud; the chip leaves it undefined */
	u->lsr = LSR_THRE | LSR_TEMT;
	u->msr = MSR_CTS | MSR_DSR | MSR_DCD;
	u->thre_pending = u->thre_held = false;
	u->thre_acked = u->thre_sent = u->start_sent = 0;
	memset(u->rx, 0, sizeof(u->rx));
	rx_clear(u);
	update_irq(u);
	pthread_mutex_unlock(&u->lock);
	if (u->console)
		char_can_input_changed(u->console);
}

static void uart_loaded(struct device *d)
{
	struct uart *u = container_of(d, struct uart, dev);

	pthread_mutex_lock(&u->lock);
	u->rx_head %= FIFO_SIZE;
	u->rx_count = u->rx_count > FIFO_SIZE ? FIFO_SIZE : u->rx_count;
	if (!(u->fcr & FCR_ENABLE) && u->rx_count > 1)
		u->rx_count = 1;
	if (u->timeout_due)
		vtime_arm(&u->timeout, u->dev.env->clock, u->timeout_due);
	update_irq(u);
	pthread_mutex_unlock(&u->lock);
	if (u->console)
		char_can_input_changed(u->console);
}

static void uart_destroy(struct device *d)
{
	struct uart *u = container_of(d, struct uart, dev);

	if (u->console)
		char_drop_reader(u->console, &(struct char_events){.opaque = u});
	bus_remove(d->env->pio, &u->ports);
	timer_disarm(&u->timeout);
	timer_disarm(&u->thre_timer);
	irq_set(&u->irq, false);
	pthread_mutex_destroy(&u->lock);
	free(u);
}

static const struct device_class uart_class;

static int uart_create(struct device_env *env, const struct opts *opts, struct device **out, struct err *e)
{
	struct uart *u = calloc(1, sizeof(*u));
	int ret;

	if (!u)
		return err_set(e, ENOMEM, "serial port: out of memory; free memory on the host");
	u->dev.cls = &uart_class;
	u->dev.env = env;
	u->ports = (struct bus_region){.base = LAYOUT_UART_PORT, .len = 8, .ops = &ports_ops, .opaque = u, .name = "uart"};
	pthread_mutex_init(&u->lock, NULL);
	irq_line_init(&u->irq, env->irq, LAYOUT_GSI_UART);
	timer_init(&u->timeout, env->loop, timeout_expired, u);
	timer_init(&u->thre_timer, env->loop, thre_timer_expired, u);
	uart_reset(&u->dev);
	ret = bus_add(env->pio, &u->ports, e);
	if (ret) {
		uart_destroy(&u->dev);
		return ret;
	}
	u->console = env->lookup(env->registry_opaque, "console");
	if (u->console)
		char_set_reader(u->console, &(struct char_events){.opaque = u, .input = console_input, .can_input = console_can_input});
	*out = &u->dev;
	return 0;
}

static const struct field uart_fields[] = {
	FIELD(struct uart, ier, FIELD_U8),
	FIELD(struct uart, fcr, FIELD_U8),
	FIELD(struct uart, lcr, FIELD_U8),
	FIELD(struct uart, mcr, FIELD_U8),
	FIELD(struct uart, lsr, FIELD_U8),
	FIELD(struct uart, msr, FIELD_U8),
	FIELD(struct uart, scratch, FIELD_U8),
	FIELD(struct uart, divisor, FIELD_U16),
	FIELD(struct uart, thre_pending, FIELD_BOOL),
	FIELD(struct uart, timeout_pending, FIELD_BOOL),
	FIELD(struct uart, timeout_due, FIELD_U64),
	FIELD(struct uart, rx_head, FIELD_U32),
	FIELD(struct uart, rx_count, FIELD_U32),
	FIELD_ARRAY(struct uart, rx, FIELD_BYTES, FIFO_SIZE),
};

static const struct device_class uart_class = {
	.name = "uart",
	.stage = STAGE_SERIAL,
	.summary = "16550A serial port",
	.version = 1,
	.create = uart_create,
	.reset = uart_reset,
	.destroy = uart_destroy,
	.loaded = uart_loaded,
	.fields = uart_fields,
	.nfields = ARRAY_SIZE(uart_fields),
};
DEVICE_REGISTER(uart_class);
