/* SPDX-License-Identifier: Apache-2.0 */
/* The bus: look-up, splitting and widening, overlap, and removal against running handlers. */
#include "hw_machine.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

struct probe {
	struct bus_region r;
	struct bus *bus;
	u32 reads, writes, last_size;
	u64 last_off, last_value;
	bool remove_self;
	atomic_uint inside;
	atomic_bool gone;
};

/* Each byte reads as its own offset. */
static u64 probe_read(void *opaque, u64 off, u32 size)
{
	struct probe *p = opaque;
	u64 v = 0;

	p->reads++;
	p->last_off = off;
	p->last_size = size;
	assert_true(off % size == 0);
	assert_true(off + size <= p->r.len);
	for (u32 i = 0; i < size; i++)
		v |= ((off + i) & 0xff) << (8 * i);
	if (p->remove_self)
		bus_remove(p->bus, &p->r);
	return v;
}

static void probe_write(void *opaque, u64 off, u32 size, u64 value)
{
	struct probe *p = opaque;

	p->writes++;
	p->last_off = off;
	p->last_size = size;
	p->last_value = value;
	assert_true(off % size == 0);
}

static const struct bus_ops narrow = {.read = probe_read, .write = probe_write};
static const struct bus_ops wide = {.read = probe_read, .write = probe_write, .min_size = 1, .max_size = 8};
static const struct bus_ops dwords = {.read = probe_read, .write = probe_write, .min_size = 4, .max_size = 4};
static const struct bus_ops silent = {0};

static struct bus *make_bus(void)
{
	struct bus *b;
	struct err e;

	assert_int_equal(bus_new(&b, "test", 0x10000, &e), 0);
	return b;
}

static struct probe *make_probe(struct bus *b, u64 base, u64 len, const struct bus_ops *ops)
{
	struct probe *p = calloc(1, sizeof(*p));
	struct err e;

	p->bus = b;
	p->r = (struct bus_region){.base = base, .len = len, .ops = ops, .opaque = p, .name = "probe"};
	assert_int_equal(bus_add(b, &p->r, &e), 0);
	return p;
}

static void unclaimed_reads_give_ones(void **state)
{
	struct bus *b = make_bus();

	assert_true(bus_read(b, 0x100, 1) == 0xff);
	assert_true(bus_read(b, 0x100, 4) == 0xffffffff);
	assert_true(bus_read(b, 0x100, 8) == ~0ull);
	assert_true(bus_read(b, ~0ull, 8) == ~0ull);
	assert_true(bus_read(b, ~0ull - 3, 8) == ~0ull);
	bus_write(b, ~0ull, 8, 1);
	bus_write(b, 0xffff, 4, 1);
	bus_free(b);
}

static void accesses_are_split_and_aligned(void **state)
{
	struct bus *b = make_bus();
	struct probe *p = make_probe(b, 0x100, 0x20, &narrow), *w = make_probe(b, 0x201, 0x20, &wide);

	assert_true(bus_read(b, 0x104, 8) == 0x0b0a090807060504);
	assert_int_equal(p->reads, 2);
	assert_true(bus_read(b, 0x103, 4) == 0x06050403);
	assert_true(bus_read(b, 0x105, 2) == 0x0605);
	/* Alignment counts inside the region, not on the bus. */
	assert_true(bus_read(b, 0x209, 8) == 0x0f0e0d0c0b0a0908);
	assert_int_equal(w->reads, 1);
	assert_int_equal(w->last_size, 8);
	bus_remove(b, &p->r);
	bus_remove(b, &w->r);
	free(p);
	free(w);
	bus_free(b);
}

static void accesses_across_edges(void **state)
{
	struct bus *b = make_bus();
	struct probe *p = make_probe(b, 0x100, 0x10, &wide), *q = make_probe(b, 0x114, 4, &wide);

	/* 4 bytes of p, 4 unclaimed */
	assert_true(bus_read(b, 0x10c, 8) == 0xffffffff0f0e0d0c);
	/* 2 unclaimed, 4 of q, 2 unclaimed */
	assert_true(bus_read(b, 0x112, 8) == 0xffff03020100ffff);
	bus_write(b, 0x112, 8, 0x8877665544332211);
	assert_int_equal(q->writes, 1);
	assert_true((q->last_value & 0xffffffff) == 0x66554433);
	/* before the first byte */
	assert_true(bus_read(b, 0xfc, 8) == 0x03020100ffffffff);
	bus_free(b);
	free(p);
	free(q);
}

static void narrow_accesses_are_widened(void **state)
{
	struct bus *b = make_bus();
	struct probe *p = make_probe(b, 0x100, 0x10, &dwords);

	assert_true(bus_read(b, 0x106, 1) == 0x06);
	assert_int_equal(p->last_off, 4);
	assert_int_equal(p->last_size, 4);
	bus_write(b, 0x106, 2, 0xabcd);
	assert_int_equal(p->last_off, 4);
	assert_true(p->last_value == 0xabcd0000);
	bus_free(b);
	free(p);
}

static void missing_handlers_are_ones(void **state)
{
	struct bus *b = make_bus();
	struct probe *p = make_probe(b, 0x100, 0x10, &silent);

	assert_true(bus_read(b, 0x100, 4) == 0xffffffff);
	bus_write(b, 0x100, 4, 0);
	bus_free(b);
	free(p);
}

static void bad_regions_are_refused(void **state)
{
	struct bus *b = make_bus();
	struct probe *p = make_probe(b, 0x100, 0x10, &wide);
	struct bus_region r = {.ops = &wide, .name = "bad"};
	struct err e;
	static const struct {
		u64 base, len;
		int err;
	} bad[] = {
		{0x200, 0, EINVAL}, {0x10000, 1, EINVAL}, {0xffff, 2, EINVAL}, {~0ull, 2, EINVAL},   {~0ull, 1, EINVAL},
		{0x100, 1, EBUSY},  {0x10f, 1, EBUSY},	  {0xff, 2, EBUSY},    {0x0, 0x1000, EBUSY},
	};

	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		r.base = bad[i].base;
		r.len = bad[i].len;
		assert_int_equal(bus_add(b, &r, &e), -bad[i].err);
		assert_false(r.mapped);
	}
	assert_int_equal(bus_add(b, &p->r, &e), -EBUSY);
	r.base = 0x200;
	r.len = 6;
	r.ops = &dwords;
	assert_int_equal(bus_add(b, &r, &e), -EINVAL);
	r.base = 0xff;
	r.len = 1;
	r.ops = &wide;
	assert_int_equal(bus_add(b, &r, &e), 0);
	bus_free(b);
	free(p);
}

static void many_regions_are_found(void **state)
{
	struct bus *b = make_bus();
	struct probe *p[300];

	/* In an order that is neither up nor down. */
	for (u32 i = 0; i < 300; i++) {
		u32 k = i * 7 % 300;

		p[k] = make_probe(b, 0x1000 + 0x20ull * k, 0x10, &wide);
	}
	for (u32 k = 0; k < 300; k++) {
		assert_true(bus_read(b, 0x1000 + 0x20ull * k + 5, 1) == 5);
		assert_int_equal(p[k]->reads, 1);
		assert_true(bus_read(b, 0x1010 + 0x20ull * k, 1) == 0xff);
	}
	for (u32 k = 0; k < 300; k += 2)
		bus_remove(b, &p[k]->r);
	for (u32 k = 0; k < 300; k++)
		assert_true(bus_read(b, 0x1000 + 0x20ull * k + 5, 1) == (k % 2 ? 5 : 0xff));
	bus_free(b);
	for (u32 k = 0; k < 300; k++)
		free(p[k]);
}

static void full_bus_is_an_error(void **state)
{
	struct bus *b = make_bus();
	static struct bus_region r[600];
	struct err e;
	u32 i;

	for (i = 0; i < 600; i++) {
		r[i] = (struct bus_region){.base = i * 4, .len = 4, .ops = &wide, .name = "r"};
		if (bus_add(b, &r[i], &e))
			break;
	}
	assert_int_equal(i, 512);
	assert_int_equal(e.code, ENOSPC);
	bus_remove(b, &r[7]);
	assert_int_equal(bus_add(b, &r[i], &e), 0);
	bus_free(b);
}

static void handler_removes_its_own_region(void **state)
{
	struct bus *b = make_bus();
	struct probe *p = make_probe(b, 0x100, 0x10, &wide);

	p->remove_self = true;
	assert_true(bus_read(b, 0x100, 1) == 0);
	assert_true(bus_read(b, 0x100, 1) == 0xff);
	bus_free(b);
	free(p);
}

static u64 slow_read(void *opaque, u64 off, u32 size)
{
	struct probe *p = opaque;

	atomic_fetch_add(&p->inside, 1);
	assert_false(atomic_load(&p->gone));
	for (volatile u32 i = 0; i < 200; i++)
		;
	assert_false(atomic_load(&p->gone));
	atomic_fetch_sub(&p->inside, 1);
	return 0;
}

static const struct bus_ops slow = {.read = slow_read, .min_size = 1, .max_size = 4};

struct race {
	struct bus *bus;
	atomic_bool stop;
	u64 hits;
};

static void *race_reader(void *opaque)
{
	struct race *r = opaque;

	while (!atomic_load(&r->stop))
		r->hits += bus_read(r->bus, 0x100, 4) == 0;
	return NULL;
}

/* After bus_remove no handler runs, while readers keep on coming. */
static void removal_waits_for_handlers(void **state)
{
	struct bus *b = make_bus();
	struct probe *p = make_probe(b, 0x100, 0x10, &slow), *other = make_probe(b, 0x80, 8, &wide);
	struct race race[2] = {{.bus = b}, {.bus = b}};
	pthread_t t[2];
	struct err e;

	for (u32 i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, race_reader, &race[i]);
	for (u32 i = 0; i < 3000; i++) {
		bus_remove(b, &p->r);
		atomic_store(&p->gone, true);
		assert_int_equal(atomic_load(&p->inside), 0);
		bus_remove(b, &other->r);
		assert_int_equal(bus_add(b, &other->r, &e), 0);
		atomic_store(&p->gone, false);
		assert_int_equal(bus_add(b, &p->r, &e), 0);
		if (i % 64 == 0)
			sched_yield();
	}
	for (u32 i = 0; i < 2; i++) {
		atomic_store(&race[i].stop, true);
		pthread_join(t[i], NULL);
	}
	bus_free(b);
	free(p);
	free(other);
}

static void lines_are_ored(void **state)
{
	struct machine *m = machine_new();
	struct irq_line a, b, bad;

	irq_line_init(&a, m->env.irq, 5);
	irq_line_init(&b, m->env.irq, 5);
	irq_line_init(&bad, m->env.irq, IRQ_GSIS);
	irq_set(&bad, true);
	irq_set(&a, true);
	irq_set(&a, true);
	irq_set(&b, true);
	assert_int_equal(m->edges[5], 1);
	irq_set(&a, false);
	assert_true(m->line[5]);
	irq_set(&b, false);
	assert_false(m->line[5]);
	irq_set(&b, false);
	irq_pulse(&a);
	assert_int_equal(m->edges[5], 2);
	irq_msi(m->env.irq, 0xfee01000, 0x41);
	assert_int_equal(m->msis, 1);
	irq_router_set_sink(m->env.irq, NULL);
	irq_pulse(&a);
	irq_msi(m->env.irq, 0xfee01000, 0x41);
	assert_int_equal(m->msis, 1);
	machine_free(m);
}

struct told {
	u32 n;
	struct {
		u64 addr;
		int fd;
		bool on;
	} call[8];
};

static void tell(void *opaque, u64 addr, int fd, bool on)
{
	struct told *t = opaque;

	assert_true(t->n < ARRAY_SIZE(t->call));
	t->call[t->n].addr = addr;
	t->call[t->n].fd = fd;
	t->call[t->n++].on = on;
}

static void expect_told(struct told *t, u32 i, u64 addr, int fd, bool on)
{
	assert_true(i < t->n);
	assert_true(t->call[i].addr == addr);
	assert_int_equal(t->call[i].fd, fd);
	assert_int_equal(t->call[i].on, on);
}

static void bells_are_told(void **state)
{
	static const struct bus_bell bells[] = {{0x10, 7}, {0x14, 8}};
	struct bus *b = make_bus();
	struct bus_region r = {.base = 0x100, .len = 0x20, .ops = &silent, .name = "bells", .bells = bells, .nbells = 2};
	struct told t = {0}, later = {0};
	struct probe *none;
	struct err e;

	bus_tell_bells(b, tell, &t);
	none = make_probe(b, 0x300, 0x10, &narrow);
	assert_int_equal(t.n, 0);
	assert_int_equal(bus_add(b, &r, &e), 0);
	assert_int_equal(t.n, 2);
	expect_told(&t, 0, 0x110, 7, true);
	expect_told(&t, 1, 0x114, 8, true);
	bus_remove(b, &r);
	assert_int_equal(t.n, 4);
	expect_told(&t, 2, 0x110, 7, false);
	expect_told(&t, 3, 0x114, 8, false);
	r.base = 0x200;
	assert_int_equal(bus_add(b, &r, &e), 0);
	expect_told(&t, 4, 0x210, 7, true);
	bus_tell_bells(b, tell, &later); /* of those that are there */
	assert_int_equal(t.n, 6);
	assert_int_equal(later.n, 2);
	expect_told(&later, 1, 0x214, 8, true);
	bus_tell_bells(b, NULL, NULL);
	bus_remove(b, &r);
	assert_int_equal(later.n, 2);
	bus_free(b);
	free(none);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unclaimed_reads_give_ones),
		cmocka_unit_test(accesses_are_split_and_aligned),
		cmocka_unit_test(accesses_across_edges),
		cmocka_unit_test(narrow_accesses_are_widened),
		cmocka_unit_test(missing_handlers_are_ones),
		cmocka_unit_test(bad_regions_are_refused),
		cmocka_unit_test(many_regions_are_found),
		cmocka_unit_test(full_bus_is_an_error),
		cmocka_unit_test(handler_removes_its_own_region),
		cmocka_unit_test(removal_waits_for_handlers),
		cmocka_unit_test(bells_are_told),
		cmocka_unit_test(lines_are_ored),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
