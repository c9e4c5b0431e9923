/* SPDX-License-Identifier: Apache-2.0 */
/* PCI root: both ways into config space, BARs, capabilities, MSI-X, INTx, reset. */
#include "hw_machine.h"

#include "hw/pci.h"

#include <errno.h>

struct card {
	struct machine *m;
	struct pci_func *f;
	u32 reads, writes;
	u64 last;
};

static u64 reg_read(void *opaque, u64 off, u32 size)
{
	((struct card *)opaque)->reads++;
	return 0x11223344;
}
static void reg_write(void *opaque, u64 off, u32 size, u64 value)
{
	((struct card *)opaque)->writes++;
	((struct card *)opaque)->last = value;
}
static const struct bus_ops reg_ops = {.read = reg_read, .write = reg_write, .min_size = 1, .max_size = 8};

static struct pci_func_desc describe(struct card *c)
{
	return (struct pci_func_desc){
		.name = "card",
		.vendor = 0x1af4,
		.device = 0x1042,
		.subsys_vendor = 0x1af4,
		.subsys_id = 0x40,
		.class_code = 1,
		.revision = 1,
		.bar = {[0] = {.size = 0x4000, .ops = &reg_ops, .opaque = c},
			[2] = {.size = 0x20, .io = true, .ops = &reg_ops, .opaque = c},
			[4] = {.size = 0x1000, .is64 = true, .prefetch = true, .ops = &reg_ops, .opaque = c}},
		.intx = true,
		.msix_vectors = 3,
		.msix_bar = 1,
	};
}

static int setup(void **state)
{
	struct card *c = calloc(1, sizeof(*c));
	struct pci_func_desc d;
	struct err e;

	c->m = machine_new();
	machine_plug(c->m, "pci", NULL);
	d = describe(c);
	assert_int_equal(pci_add(c->m->env.pci, &d, &c->f, &e), 0);
	*state = c;
	return 0;
}

static int teardown(void **state)
{
	struct card *c = *state;

	machine_free(c->m);
	free(c);
	return 0;
}

/* Slot 1 through ECAM */
#define CFG (PCI_ECAM_BASE + (1 << 15))

static u32 cfg_read(struct card *c, u32 off, u32 size)
{
	return (u32)bus_read(c->m->env.mmio, CFG + off, size);
}
static void cfg_write(struct card *c, u32 off, u32 size, u32 v)
{
	bus_write(c->m->env.mmio, CFG + off, size, v);
}
static u32 mem_read(struct card *c, u64 addr, u32 size)
{
	return (u32)bus_read(c->m->env.mmio, addr, size);
}
static void mem_write(struct card *c, u64 addr, u32 v)
{
	bus_write(c->m->env.mmio, addr, 4, v);
}

static u32 find_cap(struct card *c, u32 id)
{
	u32 at = cfg_read(c, 0x34, 1);

	for (u32 i = 0; at && i < 48; i++) {
		if (cfg_read(c, at, 1) == id)
			return at;
		at = cfg_read(c, at + 1, 1);
	}
	return 0;
}

static void two_ways_in(void **state)
{
	struct card *c = *state;
	struct machine *m = c->m;

	assert_int_equal(bus_read(m->env.mmio, PCI_ECAM_BASE, 4), 0x00081b36); /* host bridge */
	assert_int_equal(cfg_read(c, 0, 4), 0x10421af4);
	assert_int_equal(cfg_read(c, 2, 2), 0x1042);
	assert_int_equal(cfg_read(c, 3, 1), 0x10);
	outl(m, 0xcf8, 0x80000800);
	assert_int_equal(inl(m, 0xcf8), 0x80000800);
	assert_int_equal(inl(m, 0xcfc), 0x10421af4);
	assert_int_equal(inw(m, 0xcfe), 0x1042);
	assert_int_equal(inb(m, 0xcff), 0x10);
	outl(m, 0xcf8, 0x00000800); /* not enabled */
	assert_int_equal(inl(m, 0xcfc), 0xffffffff);
	outl(m, 0xcf8, 0x80010800); /* bus 1 */
	assert_int_equal(inl(m, 0xcfc), 0xffffffff);
	outl(m, 0xcf8, 0x80000900); /* function 1 */
	assert_int_equal(inl(m, 0xcfc), 0xffffffff);
	outl(m, 0xcfc, 0);
	outl(m, 0xcf8, 0x8000083c);
	outb(m, 0xcfc, 0x55);
	assert_int_equal(cfg_read(c, 0x3c, 1), 0x55);
	/* Narrow accesses do not reach CONFIG_ADDRESS. */
	outb(m, 0xcf8, 0);
	outw(m, 0xcfa, 0);
	assert_int_equal(inl(m, 0xcf8), 0x8000083c);
	assert_int_equal(bus_read(m->env.mmio, PCI_ECAM_BASE + PCI_ECAM_SIZE - 1, 1), 0xff);
	assert_int_equal(cfg_read(c, 0x100, 4), 0); /* no extended capabilities */
	cfg_write(c, 0x100, 4, ~0u);
	cfg_write(c, 0xffc, 4, ~0u);
	assert_int_equal(cfg_read(c, 0x100, 4), 0);
	cfg_write(c, 0, 4, 0);
	assert_int_equal(cfg_read(c, 0, 4), 0x10421af4);
}

static void reset_port(void **state)
{
	struct card *c = *state;

	outb(c->m, 0xcf9, 0x02);
	assert_int_equal(c->m->resets, 0);
	outb(c->m, 0xcf9, 0x06);
	assert_int_equal(c->m->resets, 1);
	outb(c->m, 0xcf9, 0x06);
	assert_int_equal(c->m->resets, 1);
	assert_int_equal(inb(c->m, 0xcf9), 0x06);
}

static void bars_are_assigned(void **state)
{
	struct card *c = *state;
	u32 bar0 = cfg_read(c, 0x10, 4), bar1 = cfg_read(c, 0x14, 4), io = cfg_read(c, 0x18, 4), bar4 = cfg_read(c, 0x20, 4);

	assert_in_range(bar0, PCI_MMIO32_BASE, PCI_MMIO32_END - 1);
	assert_int_equal(bar0 & 0x3fff, 0);
	assert_int_equal(bar1 & 0xfff, 0);
	assert_int_equal(io & 3, 1);
	assert_int_equal(bar4 & 15, 12);
	assert_int_equal(cfg_read(c, 0x24, 4), 0);
	assert_int_equal(mem_read(c, bar0 + 0x3ffc, 4), 0x11223344);
	assert_int_equal(mem_read(c, bar4 & ~15u, 4), 0x11223344);
	assert_int_equal(inl(c->m, (u16)(io & ~3u)), 0x11223344);
	assert_int_equal(cfg_read(c, 4, 2), 3);
	cfg_write(c, 4, 2, 0);
	assert_int_equal(mem_read(c, bar0, 4), 0xffffffff);
	assert_int_equal(inl(c->m, (u16)(io & ~3u)), 0xffffffff);
}

static void bars_are_sized_and_moved(void **state)
{
	struct card *c = *state;
	u32 bar0 = cfg_read(c, 0x10, 4), bar4 = cfg_read(c, 0x20, 4) & ~15u;

	cfg_write(c, 0x10, 4, ~0u); /* with decoding on, as some do it */
	assert_int_equal(cfg_read(c, 0x10, 4), 0xffffc000);
	cfg_write(c, 0x18, 4, ~0u);
	assert_int_equal(cfg_read(c, 0x18, 4), 0xffffffe1);
	cfg_write(c, 0x20, 4, ~0u);
	cfg_write(c, 0x24, 4, ~0u);
	assert_int_equal(cfg_read(c, 0x20, 4), 0xfffff00c);
	assert_int_equal(cfg_read(c, 0x24, 4), 0xffffffff);
	cfg_write(c, 0x0c, 4, 0);
	cfg_write(c, 0x1c, 4, ~0u); /* unused */
	assert_int_equal(cfg_read(c, 0x1c, 4), 0);

	cfg_write(c, 0x10, 4, 0xd0000000);
	assert_int_equal(mem_read(c, 0xd0000000, 4), 0x11223344);
	assert_int_equal(mem_read(c, bar0, 4), 0xffffffff);
	/* Above 4 GiB */
	cfg_write(c, 0x20, 4, 0);
	cfg_write(c, 0x24, 4, 0x10);
	assert_int_equal(mem_read(c, 0x1000000000, 4), 0x11223344);
	/* On top of another: the first keeps the place, the second appears when it leaves. */
	cfg_write(c, 0x24, 4, 0);
	cfg_write(c, 0x20, 4, 0xd0001000);
	c->reads = 0;
	mem_read(c, 0xd0001000, 4);
	assert_int_equal(c->reads, 1);
	cfg_write(c, 0x10, 4, bar0);
	assert_int_equal(mem_read(c, 0xd0001000, 4), 0x11223344);
	assert_int_equal(mem_read(c, bar4, 4), 0xffffffff);
	/* Over ECAM, which stays. */
	cfg_write(c, 0x20, 4, (u32)PCI_ECAM_BASE);
	assert_int_equal(cfg_read(c, 0, 4), 0x10421af4);
	cfg_write(c, 0x18, 4, 0xcf9);
	assert_int_equal(inb(c->m, 0xcf9), 0);
	/* By bytes, with addresses half written in between. */
	for (u32 i = 0; i < 4; i++)
		cfg_write(c, 0x10 + i, 1, 0xc8);
	assert_int_equal(mem_read(c, 0xc8c8c000, 4), 0x11223344);
}

static void any_config_write_is_survived(void **state)
{
	struct card *c = *state;
	u32 x = 1;

	for (u32 i = 0; i < 20000; i++) {
		x = x * 1664525 + 1013904223;
		bus_write(c->m->env.mmio, PCI_ECAM_BASE + (x >> 8 & 0xffff), 1u << (x >> 28 & 3), x * 2654435761u);
		bus_read(c->m->env.mmio, PCI_ECAM_BASE + (x >> 7 & 0xffff), 1u << (x >> 27 & 3));
	}
	c->m->dev[0]->cls->reset(c->m->dev[0]);
	assert_int_equal(cfg_read(c, 0, 4), 0x10421af4);
	assert_int_equal(mem_read(c, cfg_read(c, 0x10, 4), 4), 0x11223344);
}

static void capabilities(void **state)
{
	struct card *c = *state;
	static const u8 body[] = {1, 2, 3, 4, 5, 6};
	u32 pm, pcie, own;

	assert_true(cfg_read(c, 6, 2) & 0x10);
	pm = find_cap(c, 0x01);
	pcie = find_cap(c, 0x10);
	assert_true(pm && pcie && find_cap(c, 0x11));
	assert_int_equal(cfg_read(c, pcie + 2, 2), 0x0092);
	own = pci_add_cap(c->f, 0x09, body, sizeof(body));
	assert_int_equal(find_cap(c, 0x09), own);
	assert_int_equal(cfg_read(c, own + 4, 4), 0x06050403);
	cfg_write(c, own + 4, 4, 0);
	assert_int_equal(cfg_read(c, own + 4, 4), 0x06050403);
	for (u32 i = 0; i < 40; i++)
		pci_add_cap(c->f, 0x09, body, sizeof(body));
	assert_int_equal(pci_add_cap(c->f, 0x09, body, sizeof(body)), 0);
	assert_int_equal(find_cap(c, 0x55), 0); /* the list ends */

	/* D3hot stops decoding; D1 does not exist. */
	cfg_write(c, pm + 4, 2, 3);
	assert_int_equal(mem_read(c, cfg_read(c, 0x10, 4), 4), 0xffffffff);
	cfg_write(c, pm + 4, 2, 1);
	assert_int_equal(cfg_read(c, pm + 4, 2) & 3, 3);
	cfg_write(c, pm + 4, 2, 0);
	assert_int_equal(mem_read(c, cfg_read(c, 0x10, 4), 4), 0x11223344);
}

static void msix(void **state)
{
	struct card *c = *state;
	struct machine *m = c->m;
	u32 cap = find_cap(c, 0x11), bar = cfg_read(c, 0x14, 4), table, pba;

	assert_int_equal(cfg_read(c, cap + 2, 2), 2);
	table = cfg_read(c, cap + 4, 4);
	pba = cfg_read(c, cap + 8, 4);
	assert_int_equal(table & 7, 1);
	assert_int_equal(pba & 7, 1);
	table = bar + (table & ~7u);
	pba = bar + (pba & ~7u);
	assert_int_equal(mem_read(c, table + 12, 4), 1);
	mem_write(c, table + 16, 0xfee01003);
	mem_write(c, table + 20, 0);
	mem_write(c, table + 24, 0x4041);
	mem_write(c, table + 28, 0xfffffffe);
	assert_int_equal(mem_read(c, table + 16, 4), 0xfee01000);
	assert_int_equal(mem_read(c, table + 28, 4), 0);
	pci_msix_notify(c->f, 1); /* not enabled: lost */
	assert_false(pci_msix_enabled(c->f));
	cfg_write(c, cap + 2, 2, 0x8000);
	assert_true(pci_msix_enabled(c->f));
	pci_msix_notify(c->f, 1); /* no bus master: pending */
	assert_int_equal(m->msis, 0);
	assert_int_equal(mem_read(c, pba, 4), 2);
	assert_false(pci_bus_master(c->f));
	cfg_write(c, 4, 2, 7);
	assert_true(pci_bus_master(c->f));
	assert_int_equal(m->msis, 1);
	assert_true(m->msi_address == 0xfee01000 && m->msi_data == 0x4041);
	assert_int_equal(mem_read(c, pba, 4), 0);
	/* Masked by vector, then by function. */
	mem_write(c, table + 28, 1);
	pci_msix_notify(c->f, 1);
	pci_msix_notify(c->f, 1);
	assert_int_equal(m->msis, 1);
	mem_write(c, pba, 0); /* read-only */
	assert_int_equal(mem_read(c, pba, 4), 2);
	mem_write(c, table + 28, 0);
	assert_int_equal(m->msis, 2);
	cfg_write(c, cap + 2, 2, 0xc000);
	pci_msix_notify(c->f, 1);
	assert_int_equal(m->msis, 2);
	cfg_write(c, cap + 2, 2, 0x8000);
	assert_int_equal(m->msis, 3);
	/* No such vector; accesses beyond the table. */
	pci_msix_notify(c->f, 3);
	pci_msix_notify(c->f, 0xffff);
	mem_write(c, table + 48, ~0u);
	assert_int_equal(mem_read(c, table + 48, 4), 0);
	bus_write(m->env.mmio, table + 44, 8, ~0ull);
	for (u32 i = 0; i < 0x1000; i++) {
		bus_read(m->env.mmio, bar + i, 8);
		bus_write(m->env.mmio, bar + i, 8, ~0ull);
	}
	assert_int_equal(m->msis, 3);
}

static void intx(void **state)
{
	struct card *c = *state;
	struct machine *m = c->m;
	u32 gsi = pci_slot_gsi(1), cap = find_cap(c, 0x11);

	assert_int_equal(gsi, 17);
	assert_int_equal(cfg_read(c, 0x3d, 1), 1);
	assert_int_equal(cfg_read(c, 0x3c, 1), 17);
	pci_intx(c->f, true);
	assert_true(m->line[gsi]);
	assert_int_equal(cfg_read(c, 6, 2) & 8, 8);
	cfg_write(c, 4, 2, 0x403);
	assert_false(m->line[gsi]);
	assert_int_equal(cfg_read(c, 6, 2) & 8, 8);
	cfg_write(c, 4, 2, 3);
	assert_true(m->line[gsi]);
	cfg_write(c, cap + 2, 2, 0x8000);
	assert_false(m->line[gsi]);
	cfg_write(c, cap + 2, 2, 0);
	assert_true(m->line[gsi]);
	pci_func_reset(c->f);
	assert_false(m->line[gsi]);
	assert_int_equal(cfg_read(c, 6, 2) & 8, 0);
}

static void reset_brings_everything_back(void **state)
{
	struct card *c = *state;
	u8 before[PCI_CFG_SIZE];
	u32 bar0 = cfg_read(c, 0x10, 4);

	memcpy(before, pci_cfg(c->f), sizeof(before));
	for (u32 i = 0; i < 256; i++)
		cfg_write(c, i, 1, 0xff);
	c->m->dev[0]->cls->reset(c->m->dev[0]);
	assert_memory_equal(before, pci_cfg(c->f), sizeof(before));
	assert_int_equal(mem_read(c, bar0, 4), 0x11223344);
}

static void slots_run_out(void **state)
{
	struct card *c = *state;
	struct pci_func_desc d = describe(c);
	struct pci_func *f[40];
	struct err e;
	u32 n = 0;

	while (n < 40 && !pci_add(c->m->env.pci, &d, &f[n], &e))
		n++;
	assert_int_equal(n, 30);
	assert_int_equal(e.code, ENOSPC);
	pci_del(f[7]);
	assert_int_equal(pci_add(c->m->env.pci, &d, &f[7], &e), 0);
	for (u32 i = 0; i < n; i++)
		pci_del(f[i]);
	assert_int_equal(bus_read(c->m->env.mmio, PCI_ECAM_BASE + (2 << 15), 4), 0xffffffff);
}

static void bad_descriptions_are_refused(void **state)
{
	struct card *c = *state;
	struct pci_func_desc good = describe(c), d;
	struct pci_func *f;
	struct err e;

	d = good;
	d.bar[0].size = 0x3000;
	assert_int_equal(pci_add(c->m->env.pci, &d, &f, &e), -EINVAL);
	d = good;
	d.bar[0].size = 8;
	assert_int_equal(pci_add(c->m->env.pci, &d, &f, &e), -EINVAL);
	d = good;
	d.bar[0].size = 1ull << 40;
	assert_int_equal(pci_add(c->m->env.pci, &d, &f, &e), -EINVAL);
	d = good;
	d.bar[5] = d.bar[0]; /* the upper half of BAR 4 */
	assert_int_equal(pci_add(c->m->env.pci, &d, &f, &e), -EINVAL);
	d = good;
	d.msix_bar = 0;
	assert_int_equal(pci_add(c->m->env.pci, &d, &f, &e), -EINVAL);
	d = good;
	d.msix_vectors = PCI_MSIX_MAX + 1;
	assert_int_equal(pci_add(c->m->env.pci, &d, &f, &e), -EINVAL);
	d = good;
	d.bar[0].size = 256 * MiB;
	assert_int_equal(pci_add(c->m->env.pci, &d, &f, &e), 0); /* one fits beside the small ones */
	assert_int_equal(pci_add(c->m->env.pci, &d, &f, &e), -ENOSPC);
	d = good;
	d.msix_vectors = PCI_MSIX_MAX;
	assert_int_equal(pci_add(c->m->env.pci, &d, &f, &e), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(two_ways_in),
		T(reset_port),
		T(bars_are_assigned),
		T(bars_are_sized_and_moved),
		T(any_config_write_is_survived),
		T(capabilities),
		T(msix),
		T(intx),
		T(reset_brings_everything_back),
		T(slots_run_out),
		T(bad_descriptions_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
