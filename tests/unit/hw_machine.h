/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine without CPUs for the tests of chips: buses, memory, a clock that the test sets, an event loop, a registry of published
 * objects, and records of what the chips asked for. Included by each test program, one object per machine: several may live at once.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hw/bus.h"
#include "hw/device.h"
#include "hw/layout.h"

#define MACHINE_DEVICES 32
#define MACHINE_CPUS 4

struct machine {
	struct device_env env;
	struct guest_memory mem;
	struct vclock clock;
	struct device *dev[MACHINE_DEVICES];
	u32 ndev;
	struct {
		const char *name;
		void *object;
	} published[16];
	u32 npublished;
	u32 resets, poweroffs, exits;
	u32 exit_value;
	/* Lines and messages as the last sink saw them; unused once an IOAPIC has taken the router. */
	bool line[IRQ_GSIS];
	u32 edges[IRQ_GSIS], msis;
	u64 msi_address;
	u32 msi_data;
};

static inline void machine_request(void *opaque, enum vm_request req, u32 arg)
{
	struct machine *m = opaque;

	m->resets += req == VM_REQ_RESET;
	m->poweroffs += req == VM_REQ_POWEROFF;
	m->exits += req == VM_REQ_EXIT_CODE;
	m->exit_value = arg;
}

static inline void machine_publish(void *opaque, const char *name, void *object)
{
	struct machine *m = opaque;

	assert_true(m->npublished < ARRAY_SIZE(m->published));
	m->published[m->npublished].name = name;
	m->published[m->npublished++].object = object;
}

static inline void *machine_lookup(void *opaque, const char *name)
{
	struct machine *m = opaque;

	for (u32 i = 0; i < m->npublished; i++) {
		if (!strcmp(m->published[i].name, name))
			return m->published[i].object;
	}
	return NULL;
}

static inline void machine_line(void *opaque, u32 gsi, bool level)
{
	struct machine *m = opaque;

	m->edges[gsi] += level && !m->line[gsi];
	m->line[gsi] = level;
}

static inline void machine_msi(void *opaque, u64 address, u32 data)
{
	struct machine *m = opaque;

	m->msis++;
	m->msi_address = address;
	m->msi_data = data;
}

/* The clock stands at 1 s; machine_time moves it. */
static inline void machine_time(struct machine *m, u64 ns)
{
	m->clock.paused = true;
	m->clock.paused_at = ns;
}

static inline struct machine *machine_new(void)
{
	struct machine *m = calloc(1, sizeof(*m));
	struct device_env *env = &m->env;
	struct err e;

	assert_non_null(m);
	assert_int_equal(gm_create(&m->mem, 16 * MiB, &e), 0);
	assert_int_equal(bus_new(&env->pio, "ports", 0x10000, &e), 0);
	assert_int_equal(bus_new(&env->mmio, "mmio", 1ull << 46, &e), 0);
	assert_int_equal(evloop_new(&env->loop, &e), 0);
	env->irq = irq_router_new();
	irq_router_set_sink(env->irq, &(struct irq_sink){.opaque = m, .set_line = machine_line, .msi = machine_msi});
	vclock_init(&m->clock);
	machine_time(m, NS_PER_SEC);
	env->mem = &m->mem;
	env->clock = &m->clock;
	env->ncpus = MACHINE_CPUS;
	env->tsc_hz = 2500000000;
	env->vm_name = "test";
	env->request = machine_request;
	env->publish = machine_publish;
	env->lookup = machine_lookup;
	env->request_opaque = env->registry_opaque = m;
	return m;
}

static inline void machine_free(struct machine *m)
{
	while (m->ndev) {
		struct device *d = m->dev[--m->ndev];

		d->cls->destroy(d);
	}
	bus_free(m->env.pio);
	bus_free(m->env.mmio);
	evloop_free(m->env.loop);
	irq_router_free(m->env.irq);
	gm_destroy(&m->mem);
	free(m);
}

static inline const struct device_class *machine_class(const char *name)
{
	const struct device_class **classes;
	u32 n = device_classes(&classes);

	for (u32 i = 0; i < n; i++) {
		if (!strcmp(classes[i]->name, name))
			return classes[i];
	}
	fail_msg("no device class %s", name);
	return NULL;
}

static inline struct device *machine_plug(struct machine *m, const char *name, const struct opts *opts)
{
	const struct device_class *cls = machine_class(name);
	struct device *d = NULL;
	struct err e;

	if (cls->create(&m->env, opts, &d, &e))
		fail_msg("%s", e.msg);
	assert_true(m->ndev < MACHINE_DEVICES);
	m->dev[m->ndev++] = d;
	return d;
}

/* Let timers run until *flag is set, at most two seconds. The clock must be running: see machine_run_clock. */
static inline void machine_loop_tick(void *opaque)
{
	evloop_stop(opaque);
}

static inline void machine_loop(struct machine *m, u64 ns)
{
	struct evtimer t;

	timer_init(&t, m->env.loop, machine_loop_tick, m->env.loop);
	timer_arm(&t, host_now_ns() + ns);
	evloop_run(m->env.loop);
}

static inline void machine_run_clock(struct machine *m)
{
	vclock_init(&m->clock);
}

static inline u32 inb(struct machine *m, u16 port)
{
	return (u32)bus_read(m->env.pio, port, 1);
}
static inline u32 inw(struct machine *m, u16 port)
{
	return (u32)bus_read(m->env.pio, port, 2);
}
static inline u32 inl(struct machine *m, u16 port)
{
	return (u32)bus_read(m->env.pio, port, 4);
}
static inline void outb(struct machine *m, u16 port, u32 v)
{
	bus_write(m->env.pio, port, 1, v);
}
static inline void outw(struct machine *m, u16 port, u32 v)
{
	bus_write(m->env.pio, port, 2, v);
}
static inline void outl(struct machine *m, u16 port, u32 v)
{
	bus_write(m->env.pio, port, 4, v);
}
