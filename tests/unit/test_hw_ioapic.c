/* SPDX-License-Identifier: Apache-2.0 */
/* I/O APIC: the window, edge and level inputs, remote IRR, EOI by broadcast and by register. */
#include "hw_machine.h"

#include "hw/ioapic.h"
#include "hw/lapic.h"

struct board {
	struct machine *m;
	struct lapic_set *lapics;
	struct irq_line line[IRQ_GSIS];
};

static u32 io_read(struct board *b, u32 reg)
{
	bus_write(b->m->env.mmio, LAYOUT_IOAPIC_BASE, 4, reg);
	return (u32)bus_read(b->m->env.mmio, LAYOUT_IOAPIC_BASE + 0x10, 4);
}

static void io_write(struct board *b, u32 reg, u32 v)
{
	bus_write(b->m->env.mmio, LAYOUT_IOAPIC_BASE, 4, reg);
	bus_write(b->m->env.mmio, LAYOUT_IOAPIC_BASE + 0x10, 4, v);
}

static void entry(struct board *b, u32 pin, u32 low, u32 dest)
{
	io_write(b, 0x11 + 2 * pin, dest << 24);
	io_write(b, 0x10 + 2 * pin, low);
}

static int setup(void **state)
{
	struct board *b = calloc(1, sizeof(*b));

	b->m = machine_new();
	machine_plug(b->m, "lapic", NULL);
	machine_plug(b->m, "ioapic", NULL);
	b->lapics = machine_lookup(b->m, "lapic");
	for (u32 i = 0; i < MACHINE_CPUS; i++)
		lapic_mmio_write(b->lapics, i, 0xf0, 4, 0x1ff);
	for (u32 i = 0; i < IRQ_GSIS; i++)
		irq_line_init(&b->line[i], b->m->env.irq, i);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct board *b = *state;

	machine_free(b->m);
	free(b);
	return 0;
}

/* Accept on `cpu` and end it. */
static int take(struct board *b, u32 cpu)
{
	int v = lapic_irq_accept(b->lapics, cpu);

	if (v >= 0)
		lapic_mmio_write(b->lapics, cpu, 0xb0, 4, 0);
	return v;
}

static void registers(void **state)
{
	struct board *b = *state;

	assert_int_equal(io_read(b, 1), 0x00170020);
	assert_int_equal(io_read(b, 0), 0);
	io_write(b, 0, 0xffffffff);
	assert_int_equal(io_read(b, 0), 0x0f000000);
	assert_int_equal(io_read(b, 2), 0x0f000000);
	for (u32 i = 0; i < IRQ_GSIS; i++)
		assert_int_equal(io_read(b, 0x10 + 2 * i), 0x10000);
	io_write(b, 0x12, 0xffffffff);
	io_write(b, 0x13, 0xffffffff);
	assert_int_equal(io_read(b, 0x12), 0x1afff); /* status and remote IRR are read-only */
	assert_int_equal(io_read(b, 0x13), 0xff000000);
	io_write(b, 0x40, 0x12345678); /* no such entry */
	io_write(b, 0xff, 0x12345678);
	assert_int_equal(io_read(b, 0x40), 0);
	assert_int_equal(io_read(b, 0xff), 0);
	bus_write(b->m->env.mmio, LAYOUT_IOAPIC_BASE + 0xffc, 4, 5);
	assert_int_equal(bus_read(b->m->env.mmio, LAYOUT_IOAPIC_BASE + 0xffc, 4), 0);
}

static void edges(void **state)
{
	struct board *b = *state;

	irq_pulse(&b->line[4]); /* masked: lost */
	entry(b, 4, 0x34, 1);
	assert_int_equal(take(b, 1), -1);
	irq_set(&b->line[4], true);
	assert_int_equal(take(b, 1), 0x34);
	assert_int_equal(take(b, 1), -1);
	irq_set(&b->line[4], false);
	irq_pulse(&b->line[4]);
	assert_int_equal(take(b, 1), 0x34);
}

static void levels(void **state)
{
	struct board *b = *state;

	irq_set(&b->line[17], true);
	entry(b, 17, 0x1a051, 2); /* masked, level, low-active */
	assert_int_equal(take(b, 2), -1);
	entry(b, 17, 0xa051, 2);
	assert_int_equal(io_read(b, 0x10 + 2 * 17), 0xe051); /* remote IRR */
	assert_int_equal(lapic_irq_accept(b->lapics, 2), 0x51);
	assert_false(lapic_irq_pending(b->lapics, 2)); /* not again before the EOI */
	lapic_mmio_write(b->lapics, 2, 0xb0, 4, 0);
	assert_int_equal(lapic_irq_accept(b->lapics, 2), 0x51); /* still asserted */
	irq_set(&b->line[17], false);
	lapic_mmio_write(b->lapics, 2, 0xb0, 4, 0);
	assert_int_equal(io_read(b, 0x10 + 2 * 17), 0xa051);
	assert_int_equal(take(b, 2), -1);
}

static void eoi_register(void **state)
{
	struct board *b = *state;

	lapic_mmio_write(b->lapics, 2, 0xf0, 4, 0x11ff); /* no broadcasts */
	entry(b, 17, 0x8051, 2);
	irq_set(&b->line[17], true);
	assert_int_equal(take(b, 2), 0x51);
	assert_int_equal(take(b, 2), -1);
	bus_write(b->m->env.mmio, LAYOUT_IOAPIC_BASE + 0x40, 4, 0x52);
	assert_int_equal(take(b, 2), -1);
	bus_write(b->m->env.mmio, LAYOUT_IOAPIC_BASE + 0x40, 4, 0x51);
	assert_int_equal(take(b, 2), 0x51);
	/* Edge mode and back clears remote IRR. */
	io_write(b, 0x10 + 2 * 17, 0x10051);
	assert_int_equal(io_read(b, 0x10 + 2 * 17), 0x10051);
}

static void delivery_modes(void **state)
{
	struct board *b = *state;

	for (u32 i = 0; i < MACHINE_CPUS; i++)
		lapic_mmio_write(b->lapics, i, 0xd0, 4, 1u << (24 + i));
	entry(b, 5, 0x935, 0xf); /* lowest priority, logical */
	irq_pulse(&b->line[5]);
	assert_int_equal(take(b, 0) + take(b, 1) + take(b, 2) + take(b, 3), 0x35 - 3);
	/* An NMI input that is level-triggered has no EOI: it must not stay in service for ever, nor repeat by itself. */
	entry(b, 6, 0x8400, 0);
	irq_set(&b->line[6], true);
	assert_int_equal(io_read(b, 0x10 + 2 * 6) & 0x4000, 0);
}

static void reset_masks_and_keeps_lines(void **state)
{
	struct board *b = *state;
	struct device *d = b->m->dev[1];

	entry(b, 17, 0x8051, 2);
	irq_set(&b->line[17], true);
	d->cls->reset(d);
	assert_int_equal(io_read(b, 0x10 + 2 * 17), 0x10000);
	b->m->dev[0]->cls->reset(b->m->dev[0]);
	lapic_mmio_write(b->lapics, 2, 0xf0, 4, 0x1ff);
	entry(b, 17, 0x8051, 2);
	assert_int_equal(take(b, 2), 0x51);
}

struct seen {
	u32 n, messages;
	struct x86_msi level, sent;
};

static void see_level(void *opaque, const struct x86_msi *m, u32 n)
{
	struct seen *s = opaque;

	s->n = n;
	s->level = n ? m[0] : (struct x86_msi){0};
}

static void see_message(void *opaque, u64 address, u32 data)
{
	struct seen *s = opaque;

	s->messages++;
	s->sent = (struct x86_msi){address, data};
}

/* Local APICs that are elsewhere get messages, and know which of them are level-triggered, also those of before. */
static void apics_elsewhere(void **state)
{
	struct board *b = *state;
	struct seen s = {0};

	entry(b, 9, 0x8061, 1);
	entry(b, 4, 0x0062, 0);
	lapic_set_elsewhere(b->lapics, &(struct lapic_elsewhere){&s, see_message, see_level});
	ioapic_tell_level_messages(machine_lookup(b->m, "ioapic"));
	assert_int_equal(s.n, 1);
	assert_int_equal(s.level.address, 0xfee01000);
	assert_int_equal(s.level.data, 0x8061);
	irq_set(&b->line[9], true);
	assert_int_equal(s.messages, 1);
	assert_int_equal(s.sent.data, 0x8061);
	assert_int_equal(take(b, 1), -1);
	entry(b, 9, 0x18061, 1); /* masked, but in service still */
	assert_int_equal(s.n, 1);
	ioapic_eoi(machine_lookup(b->m, "ioapic"), 0x61);
	entry(b, 9, 0x18061, 1);
	assert_int_equal(s.n, 0);
	lapic_set_elsewhere(b->lapics, NULL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(registers), T(edges), T(levels), T(eoi_register), T(delivery_modes), T(reset_masks_and_keeps_lines), T(apics_elsewhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
