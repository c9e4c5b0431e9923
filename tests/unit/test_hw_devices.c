/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What holds for every chip: the registry's order, field tables that stay inside the object, reset as the power-on state, and that neither
 * a guest's accesses nor a hostile saved state do harm (run this under sanitizers).
 */
#include "hw_machine.h"

#include "hw/ioapic.h"
#include "hw/lapic.h"
#include "hw/pci.h"
#include "hw/pvclock.h"

#include <malloc.h>

static const u32 field_size[] = {
	[FIELD_U8] = 1, [FIELD_U16] = 2, [FIELD_U32] = 4, [FIELD_U64] = 8, [FIELD_BOOL] = sizeof(bool), [FIELD_BYTES] = 1,
};

/* All chips of src/hw, in the registry's order; not those that an option makes. */
static void plug_all(struct machine *m)
{
	const struct device_class **classes;
	u32 n = device_classes(&classes);

	for (u32 i = 0; i < n; i++) {
		if (!classes[i]->option && classes[i]->stage != STAGE_PCI)
			machine_plug(m, classes[i]->name, NULL);
	}
}

static void reset_all(struct machine *m)
{
	for (u32 i = 0; i < m->ndev; i++)
		m->dev[i]->cls->reset(m->dev[i]);
}

static int setup(void **state)
{
	struct machine *m = machine_new();

	plug_all(m);
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	machine_free(*state);
	return 0;
}

static void registry_is_sorted(void **state)
{
	const struct device_class **classes;
	u32 n = device_classes(&classes);

	assert_true(n >= 13);
	for (u32 i = 0; i < n; i++) {
		assert_non_null(classes[i]->name);
		assert_non_null(classes[i]->summary);
		assert_true(classes[i]->create && classes[i]->reset && classes[i]->destroy);
		assert_true(classes[i]->version > 0);
		assert_true(!classes[i]->keys == !classes[i]->option);
		for (u32 k = 0; k < classes[i]->ncounters; k++)
			assert_true(classes[i]->counters[k].name && classes[i]->counters[k].offset % sizeof(u64) == 0);
		if (!i)
			continue;
		assert_true(classes[i - 1]->stage <= classes[i]->stage);
		if (classes[i - 1]->stage == classes[i]->stage)
			assert_true(strcmp(classes[i - 1]->name, classes[i]->name) < 0);
	}
	assert_null(device_class_by_option("no-such-option"));
}

static void published_names(void **state)
{
	static const char *const names[] = {"lapic", "ioapic", "power", "pvclock", "pci"};

	for (u32 i = 0; i < ARRAY_SIZE(names); i++)
		assert_non_null(machine_lookup(*state, names[i]));
	assert_ptr_equal(((struct machine *)*state)->env.pci, machine_lookup(*state, "pci"));
}

/* Call fn for each element run of each field. */
static void for_fields(struct machine *m, void (*fn)(void *arg, struct device *d, const struct field *f, u8 *p, u32 bytes), void *arg)
{
	for (u32 i = 0; i < m->ndev; i++) {
		struct device *d = m->dev[i];

		for (u32 k = 0; k < d->cls->nfields; k++) {
			const struct field *f = &d->cls->fields[k];

			for (u32 r = 0; r < (f->repeat ? f->repeat : 1); r++)
				fn(arg, d, f, (u8 *)d + f->offset + (u64)r * f->stride, f->count * field_size[f->type]);
		}
	}
}

static void check_bounds(void *arg, struct device *d, const struct field *f, u8 *p, u32 bytes)
{
	u64 size = malloc_usable_size(d), at = (u64)(p - (u8 *)d);

	assert_true(bytes > 0);
	assert_true(at >= sizeof(struct device)); /* never the header */
	assert_true(at + bytes <= size);
	assert_true(at % (f->type == FIELD_BYTES ? 1 : field_size[f->type]) == 0);
	assert_true(f->since >= 1 && f->since <= d->cls->version);
	assert_true(!f->repeat || f->stride >= bytes);
}

static void fields_are_inside(void **state)
{
	struct machine *m = *state;

	for_fields(m, check_bounds, NULL);
	for (u32 i = 0; i < m->ndev; i++) {
		const struct device_class *c = m->dev[i]->cls;

		for (u32 a = 0; a < c->nfields; a++) {
			for (u32 b = a + 1; b < c->nfields; b++)
				assert_string_not_equal(c->fields[a].name, c->fields[b].name);
		}
	}
}

struct image {
	u8 *bytes;
	u64 len, room;
};

static void save_one(void *arg, struct device *d, const struct field *f, u8 *p, u32 bytes)
{
	struct image *im = arg;

	/* The clock's battery: what reset leaves alone. */
	if (!strcmp(d->cls->name, "rtc"))
		return;
	if (im->len + bytes > im->room) {
		im->room = 2 * im->room + bytes;
		im->bytes = realloc(im->bytes, im->room);
	}
	memcpy(im->bytes + im->len, p, bytes);
	im->len += bytes;
}

static struct image save(struct machine *m)
{
	struct image im = {0};

	for_fields(m, save_one, &im);
	return im;
}

static u32 next(u32 *x)
{
	*x = *x * 1664525 + 1013904223;
	return *x >> 4;
}

/* Accesses of all widths to every port and every register window, from the same stream of numbers. */
static void poke(struct machine *m, u32 seed, u32 rounds)
{
	static const u64 windows[] = {LAYOUT_IOAPIC_BASE, PCI_ECAM_BASE, PCI_MMIO32_BASE, PCI_MMIO32_BASE + 0x1000};
	struct lapic_set *s = machine_lookup(m, "lapic");
	struct pvclock *pv = machine_lookup(m, "pvclock");
	u32 x = seed;
	u64 v;

	for (u32 i = 0; i < rounds; i++) {
		u32 size = 1u << next(&x) % 3, cpu = next(&x) % MACHINE_CPUS, port = next(&x) % 0xd00;

		bus_write(m->env.pio, port, size, next(&x));
		bus_read(m->env.pio, next(&x) % 0xd00, size);
		bus_write(m->env.mmio, windows[next(&x) % 4] + next(&x) % 0x1000, size * 2, (u64)next(&x) << 32 | next(&x));
		bus_read(m->env.mmio, windows[next(&x) % 4] + next(&x) % 0x1000, size * 2);
		lapic_mmio_write(s, cpu, next(&x) % 0x400 & ~15u, 4, next(&x));
		lapic_mmio_read(s, cpu, next(&x) % 0x1000, size);
		lapic_msr_write(s, cpu, 0x800 + next(&x) % 0x40, next(&x) & 0xff);
		lapic_msr_read(s, cpu, 0x800 + next(&x) % 0x40, &v);
		lapic_msr_write(s, cpu, 0x6e0, next(&x));
		if (next(&x) % 64 == 0)
			lapic_msr_write(s, cpu, 0x1b, 0xfee00000 | (next(&x) & 0xc00));
		lapic_irq_accept(s, cpu);
		pvclock_msr_write(pv, cpu, 0x11 + next(&x) % 2, next(&x));
		machine_time(m, m->clock.paused_at + next(&x) % 10000000);
	}
}

static void reset_is_power_on(void **state)
{
	struct machine *m = *state;
	u64 start = m->clock.paused_at;
	struct image fresh, again;

	reset_all(m);
	fresh = save(m);
	reset_all(m);
	again = save(m);
	assert_int_equal(fresh.len, again.len);
	assert_memory_equal(fresh.bytes, again.bytes, fresh.len); /* idempotent */
	free(again.bytes);
	for (u32 i = 0; i < 4; i++) {
		poke(m, 1000 + i, 5000);
		machine_time(m, start);
		reset_all(m);
		again = save(m);
		assert_memory_equal(fresh.bytes, again.bytes, fresh.len);
		free(again.bytes);
	}
	free(fresh.bytes);
}

static void scribble_one(void *arg, struct device *d, const struct field *f, u8 *p, u32 bytes)
{
	u32 *x = arg;

	/* A loader gives booleans as 0 or 1; everything else is as the file has it. */
	for (u32 i = 0; i < bytes; i++)
		p[i] = (u8)(f->type == FIELD_BOOL ? next(x) & 1 : next(x));
}

static void hostile_saved_state_is_survived(void **state)
{
	struct machine *m = *state;

	for (u32 seed = 1; seed < 40; seed++) {
		u32 x = seed * 7919;

		for_fields(m, scribble_one, &x);
		for (u32 i = 0; i < m->ndev; i++) {
			if (m->dev[i]->cls->loaded)
				m->dev[i]->cls->loaded(m->dev[i]);
		}
		poke(m, seed, 300);
		machine_run_clock(m); /* timers fire */
		machine_loop(m, 2000000);
		machine_time(m, NS_PER_SEC);
	}
	reset_all(m);
	poke(m, 1, 300);
}

static void two_machines_at_once(void **state)
{
	struct machine *a = *state, *b = machine_new();

	plug_all(b);
	outb(a, 0x3ff, 0x5a);
	outb(b, 0x3ff, 0xa5);
	assert_int_equal(inb(a, 0x3ff), 0x5a);
	assert_int_equal(inb(b, 0x3ff), 0xa5);
	machine_free(b);
	assert_int_equal(inb(a, 0x3ff), 0x5a);
}

/* A taken address makes creation fail with a message, and leaves nothing behind. */
static void creation_fails_cleanly(void **state)
{
	static const struct {
		const char *name;
		bool mmio;
		u64 at;
	} taken[] = {
		{"pit", false, 0x43},
		{"pit", false, 0x61},
		{"rtc", false, 0x71},
		{"i8042", false, 0x60},
		{"i8042", false, 0x64},
		{"port92", false, 0x92},
		{"uart", false, 0x3fd},
		{"acpi-pm", false, 0x600},
		{"acpi-pm", false, 0x608},
		{"acpi-pm", false, 0x622},
		{"pci", true, PCI_ECAM_BASE + 5},
		{"pci", false, 0xcfc},
	};
	static const struct bus_ops ops = {0};

	for (u32 i = 0; i < ARRAY_SIZE(taken); i++) {
		struct machine *m = machine_new();
		struct bus_region r = {.base = taken[i].at, .len = 1, .ops = &ops, .name = "squatter"};
		struct bus *bus = taken[i].mmio ? m->env.mmio : m->env.pio;
		struct device *d = NULL;
		struct err e = {0};

		assert_int_equal(bus_add(bus, &r, &e), 0);
		assert_true(machine_class(taken[i].name)->create(&m->env, NULL, &d, &e) < 0);
		assert_non_null(strstr(e.msg, "squatter"));
		bus_remove(bus, &r);
		assert_int_equal(machine_class(taken[i].name)->create(&m->env, NULL, &d, &e), 0);
		d->cls->destroy(d);
		machine_free(m);
	}
}

static void impossible_cpu_counts_are_refused(void **state)
{
	static const u32 counts[] = {0, 65, ~0u};
	static const char *const names[] = {"lapic", "pvclock"};

	for (u32 i = 0; i < ARRAY_SIZE(counts); i++) {
		for (u32 k = 0; k < ARRAY_SIZE(names); k++) {
			struct machine *m = machine_new();
			struct device *d;
			struct err e;

			m->env.ncpus = counts[i];
			assert_true(machine_class(names[k])->create(&m->env, NULL, &d, &e) < 0);
			machine_free(m);
		}
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(registry_is_sorted),
		T(published_names),
		T(fields_are_inside),
		T(reset_is_power_on),
		T(hostile_saved_state_is_survived),
		T(two_machines_at_once),
		cmocka_unit_test(creation_fails_cleanly),
		cmocka_unit_test(impossible_cpu_counts_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
