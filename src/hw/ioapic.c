/* SPDX-License-Identifier: Apache-2.0 */
/*
 * I/O APIC: redirection table, edge and level inputs, remote IRR.
 * Source: Intel 82093AA datasheet; the EOI register (offset 0x40) as in version 0x20 parts.
 *
 * Lines are asserted and deasserted, not high and low: polarity bits are kept for the guest and change nothing.
 */
#include "hw/ioapic.h"

#include "hw/lapic.h"
#include "hw/layout.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define RTE_REMOTE_IRR (1ull << 14)
#define RTE_STATUS (1ull << 12)
#define RTE_LEVEL (1ull << 15)
#define RTE_MASKED (1ull << 16)
#define RTE_LOGICAL (1ull << 11)
#define RTE_WRITABLE (0xff0000000001ffffull & ~(RTE_STATUS | RTE_REMOTE_IRR))

#define IOAPIC_VERSION 0x20u
enum { MODE_NMI = 4, MODE_INIT = 5 };
enum { WINDOW_INDEX = 0x00, WINDOW_DATA = 0x10, WINDOW_EOI = 0x40 };
enum { IOREG_ID, IOREG_VERSION, IOREG_ARB, IOREG_TABLE = 0x10 };

struct ioapic {
	struct device dev;
	pthread_mutex_t lock;
	struct lapic_set *lapics;
	struct bus_region window;
	u32 index, id;
	u32 lines; /* asserted inputs */
	u64 rte[IRQ_GSIS];
};

/* An entry as the message it sends: the two formats differ only in where the fields are. */
static struct x86_msi message_of(u64 rte)
{
	return (struct x86_msi){
		.address = 0xfee00000 | (rte >> 56) << 12 | (rte & RTE_LOGICAL ? 4 : 0),
		.data = (u32)rte & (0x7ff | (u32)RTE_LEVEL),
	};
}

static void send(struct ioapic *io, u64 rte)
{
	struct x86_msi m = message_of(rte);

	lapic_msi(io->lapics, m.address, m.data);
}

/* An entry that is masked may still be in service. */
static void tell_level_messages(struct ioapic *io)
{
	struct x86_msi m[IRQ_GSIS];
	u32 n = 0;

	for (u32 i = 0; i < IRQ_GSIS; i++)
		if ((io->rte[i] & RTE_LEVEL) && (!(io->rte[i] & RTE_MASKED) || (io->rte[i] & RTE_REMOTE_IRR)))
			m[n++] = message_of(io->rte[i]);
	lapic_level_messages(io->lapics, m, n);
}

/* A level input that is asserted, unmasked and not in service. */
static void service_level(struct ioapic *io, u32 pin)
{
	u64 rte = io->rte[pin];

	if (!(io->lines >> pin & 1) || !(rte & RTE_LEVEL) || rte & (RTE_MASKED | RTE_REMOTE_IRR))
		return;
	/* NMI, INIT and the like have no EOI that could end them. */
	if ((rte >> 8 & 7) <= 1)
		io->rte[pin] |= RTE_REMOTE_IRR;
	send(io, rte);
}

void ioapic_tell_level_messages(struct ioapic *io)
{
	pthread_mutex_lock(&io->lock);
	tell_level_messages(io);
	pthread_mutex_unlock(&io->lock);
}

void ioapic_set_line(struct ioapic *io, u32 gsi, bool level)
{
	u32 bit = 1u << gsi;
	bool rising;

	if (gsi >= IRQ_GSIS)
		return;
	pthread_mutex_lock(&io->lock);
	rising = level && !(io->lines & bit);
	io->lines = level ? io->lines | bit : io->lines & ~bit;
	/* Edges on a masked input are lost, says the datasheet. */
	if (io->rte[gsi] & RTE_LEVEL)
		service_level(io, gsi);
	else if (rising && !(io->rte[gsi] & RTE_MASKED))
		send(io, io->rte[gsi]);
	pthread_mutex_unlock(&io->lock);
}

void ioapic_eoi(struct ioapic *io, u8 vector)
{
	pthread_mutex_lock(&io->lock);
	for (u32 i = 0; i < IRQ_GSIS; i++) {
		if ((u8)io->rte[i] != vector || !(io->rte[i] & RTE_REMOTE_IRR))
			continue;
		io->rte[i] &= ~RTE_REMOTE_IRR;
		service_level(io, i);
	}
	pthread_mutex_unlock(&io->lock);
}

bool ioapic_may_send_nmi(struct ioapic *io)
{
	bool may = false;

	pthread_mutex_lock(&io->lock);
	for (u32 i = 0; i < IRQ_GSIS; i++) {
		u32 mode = io->rte[i] >> 8 & 7;

		may |= !(io->rte[i] & RTE_MASKED) && (mode == MODE_NMI || mode == MODE_INIT);
	}
	pthread_mutex_unlock(&io->lock);
	return may;
}

static u32 read_register(const struct ioapic *io)
{
	u32 i = io->index;

	if (i == IOREG_ID || i == IOREG_ARB)
		return io->id << 24;
	if (i == IOREG_VERSION)
		return IOAPIC_VERSION | (IRQ_GSIS - 1) << 16;
	if (i >= IOREG_TABLE && i < IOREG_TABLE + 2 * IRQ_GSIS)
		return (u32)(io->rte[(i - IOREG_TABLE) / 2] >> (i & 1 ? 32 : 0));
	return 0;
}

static void write_entry(struct ioapic *io, u32 pin, bool high, u32 v)
{
	u64 old = io->rte[pin], half = high ? 0xffffffff00000000ull : 0xffffffffull;
	u64 may = RTE_WRITABLE & half;

	io->rte[pin] = (old & ~may) | ((u64)v << (high ? 32 : 0) & may);
	/* Going to edge mode ends what is in service; systems rely on it where the EOI was lost. */
	if (!(io->rte[pin] & RTE_LEVEL))
		io->rte[pin] &= ~RTE_REMOTE_IRR;
	tell_level_messages(io);
	service_level(io, pin);
}

static void write_register(struct ioapic *io, u32 v)
{
	u32 i = io->index;

	if (i == IOREG_ID)
		io->id = v >> 24 & 15;
	else if (i >= IOREG_TABLE && i < IOREG_TABLE + 2 * IRQ_GSIS)
		write_entry(io, (i - IOREG_TABLE) / 2, i & 1, v);
}

static u64 window_read(void *opaque, u64 off, u32 size)
{
	struct ioapic *io = opaque;
	u32 v = 0;

	pthread_mutex_lock(&io->lock);
	if (off == WINDOW_INDEX)
		v = io->index;
	else if (off == WINDOW_DATA)
		v = read_register(io);
	pthread_mutex_unlock(&io->lock);
	return v;
}

static void window_write(void *opaque, u64 off, u32 size, u64 value)
{
	struct ioapic *io = opaque;

	if (off == WINDOW_EOI) {
		ioapic_eoi(io, (u8)value);
		return;
	}
	pthread_mutex_lock(&io->lock);
	if (off == WINDOW_INDEX)
		io->index = value & 0xff;
	else if (off == WINDOW_DATA)
		write_register(io, (u32)value);
	pthread_mutex_unlock(&io->lock);
}

static const struct bus_ops window_ops = {.read = window_read, .write = window_write, .min_size = 4, .max_size = 4};

static void sink_line(void *opaque, u32 gsi, bool level)
{
	ioapic_set_line(opaque, gsi, level);
}

static void sink_msi(void *opaque, u64 address, u32 data)
{
	lapic_msi(((struct ioapic *)opaque)->lapics, address, data);
}

static void lapic_eoi(void *opaque, u8 vector)
{
	ioapic_eoi(opaque, vector);
}

/* Lines keep their level: they belong to the devices, which are reset on their own. */
static void ioapic_reset(struct device *d)
{
	struct ioapic *io = container_of(d, struct ioapic, dev);

	pthread_mutex_lock(&io->lock);
	io->index = io->id = 0;
	for (u32 i = 0; i < IRQ_GSIS; i++)
		io->rte[i] = RTE_MASKED;
	tell_level_messages(io);
	pthread_mutex_unlock(&io->lock);
}

static void ioapic_loaded(struct device *d)
{
	struct ioapic *io = container_of(d, struct ioapic, dev);

	pthread_mutex_lock(&io->lock);
	io->index &= 0xff;
	io->id &= 15;
	for (u32 i = 0; i < IRQ_GSIS; i++)
		io->rte[i] &= RTE_WRITABLE | RTE_REMOTE_IRR;
	tell_level_messages(io);
	pthread_mutex_unlock(&io->lock);
}

static void ioapic_destroy(struct device *d)
{
	struct ioapic *io = container_of(d, struct ioapic, dev);

	irq_router_set_sink(d->env->irq, NULL);
	lapic_set_eoi_handler(io->lapics, NULL, NULL);
	bus_remove(d->env->mmio, &io->window);
	pthread_mutex_destroy(&io->lock);
	free(io);
}

static const struct device_class ioapic_class;

static int ioapic_create(struct device_env *env, const struct opts *opts, struct device **out, struct err *e)
{
	struct ioapic *io = calloc(1, sizeof(*io));
	int ret;

	if (!io)
		return err_set(e, ENOMEM, "ioapic: out of memory; free memory on the host");
	io->dev.cls = &ioapic_class;
	io->dev.env = env;
	io->lapics = env->lookup(env->registry_opaque, "lapic");
	io->window = (struct bus_region){
		.base = LAYOUT_IOAPIC_BASE, .len = LAYOUT_IOAPIC_SIZE, .ops = &window_ops, .opaque = io, .name = "ioapic"};
	pthread_mutex_init(&io->lock, NULL);
	ret = io->lapics ? bus_add(env->mmio, &io->window, e) : err_set(e, ENOENT, "ioapic: no local APICs; create them first");
	if (ret) {
		pthread_mutex_destroy(&io->lock);
		free(io);
		return ret;
	}
	ioapic_reset(&io->dev);
	lapic_set_eoi_handler(io->lapics, lapic_eoi, io);
	irq_router_set_sink(env->irq, &(struct irq_sink){.opaque = io, .set_line = sink_line, .msi = sink_msi});
	env->publish(env->registry_opaque, "ioapic", io);
	*out = &io->dev;
	return 0;
}

static const struct field ioapic_fields[] = {
	FIELD(struct ioapic, index, FIELD_U32),
	FIELD(struct ioapic, id, FIELD_U32),
	FIELD(struct ioapic, lines, FIELD_U32),
	FIELD_ARRAY(struct ioapic, rte, FIELD_U64, IRQ_GSIS),
};

static const struct device_class ioapic_class = {
	.name = "ioapic",
	.stage = STAGE_IRQCHIP,
	.summary = "I/O APIC with 24 inputs",
	.version = 1,
	.create = ioapic_create,
	.reset = ioapic_reset,
	.destroy = ioapic_destroy,
	.loaded = ioapic_loaded,
	.fields = ioapic_fields,
	.nfields = ARRAY_SIZE(ioapic_fields),
};
DEVICE_REGISTER(ioapic_class);
