/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzing the chips: the input is a program of accesses to ports, device memory, local APIC registers and MSRs on a machine with every
 * device that needs no option. Time is the input's own: timers fire only when it says so, so that a finding repeats.
 */
#include "../unit/hw_machine.h"
#include "char/char.h"
#include "hw/lapic.h"
#include "hw/pci.h"
#include "hw/pvclock.h"

#include "input.h"

#define OPS_MAX 512

u64 __wrap_host_now_ns(void);

static u64 now = NS_PER_SEC;

u64 __wrap_host_now_ns(void)
{
	return now;
}

struct chips {
	struct machine *m;
	struct char_backend *console;
	struct lapic_set *lapic;
	struct pvclock *pvclock;
};

/* Where something answers, and a little before and behind it. */
static const struct window {
	u64 base;
	u32 len;
	bool mmio;
} windows[] = {
	{LAYOUT_PIT_PORT - 2, 8, false},      {LAYOUT_I8042_DATA, 8, false},
	{LAYOUT_RTC_PORT - 2, 8, false},      {LAYOUT_PORT92 - 2, 4, false},
	{LAYOUT_UART_PORT - 2, 12, false},    {LAYOUT_PM1_EVT - 4, 0x30, false},
	{LAYOUT_PCI_CFG_PORT, 8, false},      {0, 0x10000, false},
	{LAYOUT_IOAPIC_BASE - 8, 0x60, true}, {LAYOUT_IOAPIC_BASE, 0x1000, true},
	{PCI_ECAM_BASE, 0x8000, true},	      {PCI_ECAM_BASE, 0x10000000, true},
	{PCI_MMIO32_BASE, 0x10000, true},     {LAYOUT_LAPIC_BASE - 8, 0x1008, true},
};

static void access_bus(struct chips *c, struct input *in, bool write)
{
	u8 where = (u8)take(in, 1);
	const struct window *w = &windows[where % ARRAY_SIZE(windows)];
	u64 at = w->base + take(in, w->len > 0x100 ? w->len > 0x10000 ? 4 : 2 : 1) % w->len;
	struct bus *bus = w->mmio ? c->m->env.mmio : c->m->env.pio;
	u32 size = access_size(where >> 6, w->mmio ? 8 : 4);

	if (write)
		bus_write(bus, at, size, take(in, size));
	else
		(void)bus_read(bus, at, size);
}

static void access_lapic(struct chips *c, struct input *in, bool write)
{
	u8 how = (u8)take(in, 1);
	u32 cpu = how % MACHINE_CPUS, size = access_size(how >> 2, 8), off = (u32)take(in, 2) & 0xfff;

	if (off + size > PAGE_SIZE)
		off = (u32)PAGE_SIZE - size;
	if (write)
		lapic_mmio_write(c->lapic, cpu, off, size, take(in, size));
	else
		(void)lapic_mmio_read(c->lapic, cpu, off, size);
}

static void access_msr(struct chips *c, struct input *in, bool write)
{
	static const u32 base[] = {0x800, 0x1b, 0x6e0, 0x4b564d00, 0x11};
	u8 how = (u8)take(in, 1);
	u32 cpu = how % MACHINE_CPUS, msr = base[(how >> 2) % ARRAY_SIZE(base)] + ((u32)take(in, 1) & 0x3f);
	u64 value = write ? take(in, 8) : 0;

	if (write && !lapic_msr_write(c->lapic, cpu, msr, value))
		(void)pvclock_msr_write(c->pvclock, cpu, msr, value);
	if (!write && !lapic_msr_read(c->lapic, cpu, msr, &value))
		(void)pvclock_msr_read(c->pvclock, cpu, msr, &value);
}

static void take_interrupt(struct chips *c, struct input *in)
{
	u32 cpu = (u32)take(in, 1) % MACHINE_CPUS;

	if (lapic_irq_pending(c->lapic, cpu))
		(void)lapic_irq_accept(c->lapic, cpu);
	lapic_set_tpr(c->lapic, cpu, take(in, 1));
	(void)lapic_get_tpr(c->lapic, cpu);
}

static void run_loop(struct chips *c)
{
	evloop_post(c->m->env.loop, machine_loop_tick, c->m->env.loop);
	evloop_run(c->m->env.loop);
}

/* Forward by a power of two of nanoseconds, up to two minutes. */
static void pass_time(struct chips *c, struct input *in)
{
	now += 1ull << (take(in, 1) % 38);
	machine_time(c->m, now);
	run_loop(c);
}

static void reset_all(struct chips *c)
{
	for (u32 i = 0; i < c->m->ndev; i++)
		c->m->dev[i]->cls->reset(c->m->dev[i]);
}

static void operate(struct chips *c, struct input *in)
{
	u8 op = (u8)take(in, 1);

	switch (op & 15) {
	case 0 ... 5:
		access_bus(c, in, true);
		break;
	case 6 ... 8:
		access_bus(c, in, false);
		break;
	case 9:
		access_lapic(c, in, true);
		break;
	case 10:
		access_lapic(c, in, false);
		break;
	case 11:
		access_msr(c, in, op & 0x10);
		break;
	case 12:
		take_interrupt(c, in);
		break;
	case 13:
		pass_time(c, in);
		break;
	case 14:
		irq_msi(c->m->env.irq, take(in, 4), (u32)take(in, 4));
		break;
	case 15:
		if (op == 0xff)
			reset_all(c);
		break;
	}
}

static void ignore_cpu(void *opaque, u32 cpu)
{
}
static void ignore_sipi(void *opaque, u32 cpu, u8 vector)
{
}
static u64 tsc(void *opaque, u32 cpu)
{
	return now * 5 / 2;
}

/* The UART's and the virtio console's other end. */
static void open_console(struct chips *c)
{
	struct err e = {0};

	if (char_open(&c->console, c->m->env.loop, "null", NULL, NULL, &e) < 0)
		fail_msg("%s", e.msg);
	machine_publish(c->m, "console", c->console);
}

static void plug_all(struct chips *c)
{
	static const struct lapic_vcpu_ops ops = {
		.irq = ignore_cpu, .nmi = ignore_cpu, .init = ignore_cpu, .sipi = ignore_sipi, .tsc = tsc};
	const struct device_class **classes;
	u32 n = device_classes(&classes);

	c->m = machine_new();
	open_console(c);
	for (u32 i = 0; i < n; i++)
		if (!classes[i]->option)
			machine_plug(c->m, classes[i]->name, NULL);
	c->lapic = machine_lookup(c->m, "lapic");
	c->pvclock = machine_lookup(c->m, "pvclock");
	if (!c->lapic || !c->pvclock)
		abort();
	lapic_set_vcpu_ops(c->lapic, &ops);
	reset_all(c);
}

/* As machine_free, which does not know that the console goes between the devices and the loop. */
static void unplug_all(struct chips *c)
{
	while (c->m->ndev) {
		struct device *d = c->m->dev[--c->m->ndev];

		d->cls->destroy(d);
	}
	char_close(c->console);
	machine_free(c->m);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	log_set_level(LOG_ERROR);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = input_of(data, size);
	struct chips c = {0};

	now = NS_PER_SEC;
	plug_all(&c);
	for (u32 n = 0; n < OPS_MAX && input_left(&in); n++)
		operate(&c, &in);
	unplug_all(&c);
	return 0;
}
