/* SPDX-License-Identifier: Apache-2.0 */
/* The small chips: keyboard controller, port 0x92, exit port, power management, paravirtual clock. */
#include "hw_machine.h"

#include "hw/acpi_pm.h"
#include "hw/pvclock.h"

#include <errno.h>

static int setup(void **state)
{
	*state = machine_new();
	return 0;
}

static int teardown(void **state)
{
	machine_free(*state);
	return 0;
}

static void keyboard_controller(void **state)
{
	struct machine *m = *state;

	machine_plug(m, "i8042", NULL);
	assert_int_equal(inb(m, 0x64) & 0x03, 0);
	outb(m, 0x64, 0xaa);
	assert_int_equal(inb(m, 0x64) & 0x05, 0x05);
	assert_int_equal(inb(m, 0x60), 0x55);
	assert_int_equal(inb(m, 0x64) & 0x01, 0);
	outb(m, 0x64, 0x60);
	outb(m, 0x60, 0x47);
	outb(m, 0x64, 0x20);
	assert_int_equal(inb(m, 0x60), 0x47);
	outb(m, 0x60, 0xf4); /* no keyboard: time-out */
	assert_int_equal(inb(m, 0x64) & 0x61, 0x41);
	assert_int_equal(inb(m, 0x60), 0xfe);
	outb(m, 0x64, 0xd3);
	outb(m, 0x60, 0x5a);
	assert_int_equal(inb(m, 0x64) & 0x21, 0x21);
	assert_int_equal(inb(m, 0x60), 0x5a);
	outb(m, 0x64, 0xd0);
	assert_int_equal(inb(m, 0x60), 0x03);
	outb(m, 0x64, 0xdd);
	outb(m, 0x64, 0xd0);
	assert_int_equal(inb(m, 0x60), 0x01);
	outb(m, 0x64, 0xd1);
	outb(m, 0x60, 0x03);
	assert_int_equal(m->resets, 0);
	outb(m, 0x64, 0xff);
	assert_int_equal(m->resets, 0);
	outb(m, 0x64, 0xfe);
	assert_int_equal(m->resets, 1);
	outb(m, 0x64, 0xd1);
	outb(m, 0x60, 0x02);
	assert_int_equal(m->resets, 2);
	/* A command drops what another one was waiting for. */
	outb(m, 0x64, 0x60);
	outb(m, 0x64, 0xd1);
	outb(m, 0x60, 0x03);
	outb(m, 0x64, 0x20);
	assert_int_equal(inb(m, 0x60), 0x47);
	for (u32 i = 0; i < 256; i++) {
		outb(m, 0x64, i);
		outb(m, 0x60, i);
		inb(m, 0x60);
	}
}

static void port92(void **state)
{
	struct machine *m = *state;

	machine_plug(m, "port92", NULL);
	assert_int_equal(inb(m, 0x92), 2);
	outb(m, 0x92, 0xfe);
	assert_int_equal(inb(m, 0x92), 2);
	assert_int_equal(m->resets, 0);
	outb(m, 0x92, 3);
	outb(m, 0x92, 3); /* no second edge */
	assert_int_equal(m->resets, 1);
}

static void exit_port(void **state)
{
	struct machine *m = *state;
	const struct device_class *cls = machine_class("exitport");
	struct device *d;
	struct opts o;
	struct err e;

	assert_ptr_equal(device_class_by_option("exit-port"), cls);
	assert_int_equal(opts_parse(&o, "--exit-port", cls->keys, "0xf4", &e), 0);
	machine_plug(m, "exitport", &o);
	assert_int_equal(inb(m, 0xf4), 0);
	outb(m, 0xf4, 0x15);
	assert_int_equal(m->exit_value, 0x15);
	outl(m, 0xf4, 0x12345678);
	assert_int_equal(m->exit_value, 0x12345678);
	assert_int_equal(m->exits, 2);
	assert_int_equal(cls->create(&m->env, &o, &d, &e), -EBUSY); /* taken */
	opts_free(&o);
	assert_int_equal(opts_parse(&o, "--exit-port", cls->keys, "0xffff", &e), 0);
	assert_int_equal(cls->create(&m->env, &o, &d, &e), -EINVAL);
	opts_free(&o);
	assert_int_equal(opts_parse(&o, "--exit-port", cls->keys, "0xfffffffffffffffe", &e), 0);
	assert_int_equal(cls->create(&m->env, &o, &d, &e), -EINVAL);
	opts_free(&o);
	o = (struct opts){.keys = cls->keys};
	assert_int_equal(cls->create(&m->env, &o, &d, &e), -EINVAL);
}

static void power_button_and_s5(void **state)
{
	struct machine *m = *state;
	struct acpi_pm *pm;

	machine_plug(m, "acpi-pm", NULL);
	pm = machine_lookup(m, "power");
	assert_int_equal(inw(m, 0x604), 1); /* ACPI mode */
	assert_int_equal(inb(m, 0x604), 1);
	assert_int_equal(inl(m, 0x600), 0);
	outw(m, 0x602, 0xffff);
	assert_int_equal(inw(m, 0x602), 0x0721);
	outw(m, 0x602, 0x0100);
	acpi_pm_press_power(pm);
	assert_true(m->line[LAYOUT_GSI_SCI]);
	assert_int_equal(inw(m, 0x600), 0x0100);
	assert_int_equal(inb(m, 0x601), 0x01);
	outb(m, 0x600, 0xff); /* the other byte: not acknowledged */
	assert_true(m->line[LAYOUT_GSI_SCI]);
	outb(m, 0x601, 0x01);
	assert_false(m->line[LAYOUT_GSI_SCI]);
	outb(m, 0x603, 0x00);
	acpi_pm_press_power(pm); /* not enabled: status only */
	assert_false(m->line[LAYOUT_GSI_SCI]);
	assert_int_equal(inw(m, 0x600), 0x0100);

	outw(m, 0x604, 1 << 13 | 3 << 10); /* no such sleep state */
	assert_int_equal(m->poweroffs, 0);
	outw(m, 0x604, 5 << 10);
	assert_int_equal(m->poweroffs, 0);
	assert_int_equal(inw(m, 0x604), 5 << 10 | 1);
	outw(m, 0x604, 1 << 13 | 5 << 10);
	assert_int_equal(m->poweroffs, 1);
	assert_int_equal(inw(m, 0x604) & 1 << 13, 0); /* write-only */
	outb(m, 0x605, 0x34);			      /* in the upper byte alone */
	assert_int_equal(m->poweroffs, 2);

	outl(m, 0x620, 0xffffffff);
	assert_int_equal(inl(m, 0x620), 0xffff0000);
	m->dev[0]->cls->reset(m->dev[0]);
	assert_int_equal(inl(m, 0x620), 0);
	assert_int_equal(inl(m, 0x600), 0);
}

static void pm_timer(void **state)
{
	struct machine *m = *state;

	machine_plug(m, "acpi-pm", NULL);
	machine_time(m, 2 * NS_PER_SEC);
	assert_int_equal(inl(m, 0x608), 2 * 3579545);
	outl(m, 0x608, 0);
	assert_int_equal(inl(m, 0x608), 2 * 3579545);
	outw(m, 0x602, 1);
	assert_false(m->line[LAYOUT_GSI_SCI]);
	machine_time(m, 600 * NS_PER_SEC); /* bit 31 has changed once */
	assert_int_equal(inw(m, 0x600), 1);
	assert_true(m->line[LAYOUT_GSI_SCI]);
	outw(m, 0x600, 1);
	assert_int_equal(inw(m, 0x600), 0);
	assert_false(m->line[LAYOUT_GSI_SCI]);
}

struct time_info {
	u32 version, pad;
	u64 tsc, system;
	u32 mul;
	i8 shift;
	u8 flags, pad2[2];
};

/* What a guest makes of the structure. */
static u64 guest_time(const struct machine *m, gpa_t gpa, u64 tsc, struct time_info *t)
{
	u64 delta;

	assert_true(gm_read(&m->mem, gpa, t, sizeof(*t)));
	assert_int_equal(t->version & 1, 0);
	delta = tsc - t->tsc;
	delta = t->shift < 0 ? delta >> -t->shift : delta << t->shift;
	return t->system + (u64)((unsigned __int128)delta * t->mul >> 32);
}

static void paravirtual_clock(void **state)
{
	struct machine *m = *state;
	struct pvclock *p;
	struct time_info t;
	struct {
		u32 version, sec, nsec;
	} wall;
	u64 v, now = 1234567 * NS_PER_SEC / 10;

	machine_plug(m, "pvclock", NULL);
	p = machine_lookup(m, "pvclock");
	machine_time(m, now);
	assert_false(pvclock_msr_read(p, 0, 0x4b564d02, &v));
	assert_false(pvclock_msr_write(p, 0, 0x10, 1));
	assert_true(pvclock_msr_write(p, 1, 0x4b564d01, 0x2001));
	assert_true(pvclock_msr_read(p, 1, 0x12, &v) && v == 0x2001);
	v = guest_time(m, 0x2000, now / 10 * 25, &t);
	assert_in_range(v, now - 1000000, now + 1000000);
	assert_int_equal(t.flags, 1);
	/* The program was stopped: told once, and the clock goes on as it was. */
	pvclock_stood_still(p);
	assert_true(guest_time(m, 0x2000, now / 10 * 25, &t) == v);
	assert_int_equal(t.flags, 3);
	v = t.version;
	/* One CPU's TSC is moved: its parameters follow, and nobody's clock is stable any more. */
	assert_true(pvclock_msr_write(p, 0, 0x12, 0x3001));
	pvclock_update(p, 1, 777);
	assert_true(guest_time(m, 0x2000, now / 10 * 25 + 777, &t) - now + 1000000 < 2000000);
	assert_int_equal(t.tsc, 777);
	assert_int_equal(t.flags, 0);
	assert_true(t.version > v);
	guest_time(m, 0x3000, now / 10 * 25, &t);
	assert_int_equal(t.flags, 0);
	/* Disabled: left alone. */
	assert_true(pvclock_msr_write(p, 0, 0x12, 0));
	v = t.version;
	pvclock_update(p, 1, 0);
	guest_time(m, 0x3000, 0, &t);
	assert_int_equal(t.version, v);
	/* Outside RAM and across its end: nothing happens. */
	assert_true(pvclock_msr_write(p, 0, 0x12, ~0ull));
	assert_true(pvclock_msr_write(p, 0, 0x12, (16 * MiB - 8) | 1));
	assert_true(pvclock_msr_write(p, 0, 0x11, ~0ull));

	assert_true(pvclock_msr_write(p, 0, 0x4b564d00, 0x4000));
	assert_true(gm_read(&m->mem, 0x4000, &wall, sizeof(wall)));
	assert_int_equal(wall.version & 1, 0);
	v = host_realtime_ns() - now;
	assert_in_range(wall.sec, v / NS_PER_SEC - 2, v / NS_PER_SEC + 1);
	m->dev[0]->cls->reset(m->dev[0]);
	assert_true(pvclock_msr_read(p, 1, 0x12, &v) && v == 0);
}

/* For every frequency the scale is right within the precision of 32 bits. */
static void paravirtual_clock_scale(void **state)
{
	static const u64 hz[] = {1,	     1000,	 999999999,  1000000000, 1000000001, 1999999999,
				 2000000000, 2000000001, 3700000000, 6000000000, 40000000000};

	for (u32 i = 0; i < ARRAY_SIZE(hz); i++) {
		struct machine *m = machine_new();
		struct time_info t;
		struct device *d;
		u64 ns;

		m->env.tsc_hz = hz[i];
		d = machine_plug(m, "pvclock", NULL);
		pvclock_msr_write(machine_lookup(m, "pvclock"), 0, 0x12, 0x2001);
		ns = guest_time(m, 0x2000, hz[i] * 60, &t); /* a minute */
		assert_in_range(ns, 60 * NS_PER_SEC - 100, 60 * NS_PER_SEC + 100);
		assert_ptr_equal(d, m->dev[0]);
		machine_free(m);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(keyboard_controller),	    T(port92), T(exit_port), T(power_button_and_s5), T(pm_timer), T(paravirtual_clock),
		T(paravirtual_clock_scale),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
