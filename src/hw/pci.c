/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI functions: slots, BAR addresses and their mapping into the buses, capabilities, reset.
 *
 * BARs get addresses when the function is added, and again at reset, so that a guest without PCI code of its own finds everything in place;
 * decoding is on after reset for the same reason. A guest may move them: one that would overlap another or leave the address space is not
 * mapped until there is room.
 */
#include "hw/pci_internal.h"

#include "hw/layout.h"

#include <errno.h>
#include <string.h>

#define MEM_BAR_MAX (256 * MiB)
#define IO_BAR_MAX 256ull

u32 pci_slot_gsi(u32 slot)
{
	return LAYOUT_GSI_PCI + (slot & 7);
}

u8 *pci_cfg(struct pci_func *f)
{
	return f->cfg;
}

bool pci_bus_master(const struct pci_func *f)
{
	return __atomic_load_n(&f->cfg[PCI_COMMAND], __ATOMIC_RELAXED) & PCI_CMD_MASTER;
}

static struct bus *bar_bus(const struct pci_func *f, const struct pci_bar *bar)
{
	return bar->io ? f->bus->dev.env->pio : f->bus->dev.env->mmio;
}

/* Where config space says that a BAR is now. */
static u64 bar_address(const struct pci_func *f, u32 i)
{
	u64 low = pci_get32(f, PCI_BAR0 + 4 * i);

	if (f->bar[i].io)
		return low & ~3ull;
	return (low & ~15ull) | (f->bar[i].is64 ? (u64)pci_get32(f, PCI_BAR0 + 4 * i + 4) << 32 : 0);
}

static bool bar_decoded(const struct pci_func *f, u32 i)
{
	bool d0 = !f->pm_cap || !(f->cfg[f->pm_cap + 4] & 3);

	return f->bar[i].size && d0 && pci_get16(f, PCI_COMMAND) & (f->bar[i].io ? PCI_CMD_IO : PCI_CMD_MEMORY);
}

static void bar_unmap_moved(struct pci_func *f, u32 i)
{
	struct pci_bar *bar = &f->bar[i];

	if (bar->region.mapped && (!bar_decoded(f, i) || bar->region.base != bar_address(f, i)))
		bus_remove(bar_bus(f, bar), &bar->region);
}

static void bar_map(struct pci_func *f, u32 i)
{
	struct pci_bar *bar = &f->bar[i];
	struct err ignored;

	if (bar->region.mapped || !bar_decoded(f, i))
		return;
	bar->region.base = bar_address(f, i);
	/* Refused: the guest has put it where it cannot be, or is only sizing it. It stays unmapped, as a BAR without decoder. */
	if (bus_add(bar_bus(f, bar), &bar->region, &ignored))
		return;
}

static void for_each_bar(struct pci_bus *b, void (*fn)(struct pci_func *f, u32 i))
{
	for (u32 s = 0; s < PCI_SLOTS; s++) {
		for (u32 i = 0; b->slot[s].used && i < PCI_BARS; i++)
			fn(&b->slot[s], i);
	}
}

void pci_map_bars(struct pci_bus *b)
{
	for_each_bar(b, bar_unmap_moved);
	for_each_bar(b, bar_map);
}

static bool ranges_overlap(u64 a, u64 alen, u64 b, u64 blen)
{
	return a < b + blen && b < a + alen;
}

/* The end of a placed BAR that overlaps [base, base + size); 0: the place is free. */
static u64 place_taken(const struct pci_bus *b, bool io, u64 base, u64 size)
{
	for (u32 s = 0; s < PCI_SLOTS; s++) {
		for (u32 i = 0; b->slot[s].used && i < PCI_BARS; i++) {
			const struct pci_bar *bar = &b->slot[s].bar[i];

			if (bar->size && bar->assigned && bar->io == io && ranges_overlap(base, size, bar->assigned, bar->size))
				return bar->assigned + bar->size;
		}
	}
	return 0;
}

/* First fit. Memory BARs do not share pages, so that a guest can map each on its own. */
static int bar_place(struct pci_func *f, struct pci_bar *bar, struct err *e)
{
	u64 end = bar->io ? LAYOUT_PCI_IO_END : PCI_MMIO32_END;
	u64 step = bar->io || bar->size > PAGE_SIZE ? bar->size : PAGE_SIZE;
	u64 at = bar->io ? LAYOUT_PCI_IO_BASE : PCI_MMIO32_BASE, next;

	for (; at + bar->size <= end; at = (next + step - 1) & ~(step - 1)) {
		next = place_taken(f->bus, bar->io, at, bar->size);
		if (!next) {
			bar->assigned = at;
			return 0;
		}
	}
	return err_set(e, ENOSPC, "pci function %s: no room for a BAR of 0x%llx bytes; use fewer devices", f->desc.name,
		       (unsigned long long)bar->size);
}

static int bar_check(const struct pci_func *f, u32 i, struct err *e)
{
	const struct pci_bar_desc *d = &f->desc.bar[i];

	if (d->size & (d->size - 1) || d->size < 16 || d->size > (d->io ? IO_BAR_MAX : MEM_BAR_MAX) || !d->ops)
		return err_set(e, EINVAL, "pci function %s: BAR %u of 0x%llx bytes is no power of two from 16 to its maximum", f->desc.name,
			       i, (unsigned long long)d->size);
	if (d->is64 && (i + 1 == PCI_BARS || f->desc.bar[i + 1].size))
		return err_set(e, EINVAL, "pci function %s: 64-bit BAR %u needs the next one too", f->desc.name, i);
	return 0;
}

static int bar_add(struct pci_func *f, u32 i, struct err *e)
{
	const struct pci_bar_desc *d = &f->desc.bar[i];
	struct pci_bar *bar = &f->bar[i];
	u32 low_mask = d->io ? ~3u : ~15u, off = PCI_BAR0 + 4 * i;
	int ret;

	if (!d->size)
		return 0;
	ret = bar_check(f, i, e);
	if (ret)
		return ret;
	bar->region = (struct bus_region){
		.len = d->size, .ops = d->ops, .opaque = d->opaque, .name = f->desc.name, .bells = d->bells, .nbells = d->nbells};
	bar->size = d->size;
	bar->io = d->io;
	bar->is64 = d->is64;
	f->cfg[off] = (u8)(d->io ? 1 : (d->is64 ? 4 : 0) | (d->prefetch ? 8 : 0));
	low_mask &= (u32) ~(d->size - 1);
	memcpy(&f->writable[off], &low_mask, 4);
	if (d->is64)
		memset(&f->writable[off + 4], 0xff, 4);
	return bar_place(f, bar, e);
}

u8 pci_add_cap(struct pci_func *f, u8 id, const void *body, u8 body_len)
{
	u32 at = f->next_cap, end = at + ((2u + body_len + 3) & ~3u);

	if (end > 256)
		return 0;
	f->cfg[at] = id;
	f->cfg[at + 1] = 0;
	memcpy(&f->cfg[at + 2], body, body_len);
	f->cfg[f->last_cap ? f->last_cap + 1u : PCI_CAP_PTR] = (u8)at;
	f->cfg[PCI_STATUS] |= PCI_STATUS_CAPS;
	f->last_cap = (u8)at;
	f->next_cap = (u8)(end < 256 ? end : 255); /* 255: full */
	return (u8)at;
}

/* Power management: D0 and D3hot, and no reset in between. */
static bool add_pm_cap(struct pci_func *f)
{
	static const u8 body[6] = {0x03, 0x00, 0x08, 0x00, 0x00, 0x00};

	f->pm_cap = pci_add_cap(f, PCI_CAP_PM, body, sizeof(body));
	if (f->pm_cap)
		f->writable[f->pm_cap + 4] = 3;
	return f->pm_cap != 0;
}

/* PCI Express, version 2, root complex integrated endpoint: no link. Role-based error reporting is what the specification demands. */
static bool add_express_cap(struct pci_func *f)
{
	u8 body[0x3a] = {0x92, 0x00, 0x00, 0x80};
	u8 at = pci_add_cap(f, PCI_CAP_EXPRESS, body, sizeof(body));

	if (!at)
		return false;
	f->writable[at + 8] = 0xff; /* device control */
	f->writable[at + 9] = 0x7f;
	f->clear_on_1[at + 10] = 0x0f; /* device status: errors */
	return true;
}

static void describe(struct pci_func *f)
{
	const struct pci_func_desc *d = &f->desc;

	pci_put16(f, PCI_VENDOR, d->vendor);
	pci_put16(f, PCI_DEVICE, d->device);
	pci_put16(f, PCI_SUBSYS_VENDOR, d->subsys_vendor);
	pci_put16(f, PCI_SUBSYS_ID, d->subsys_id);
	f->cfg[PCI_REVISION] = d->revision;
	f->cfg[PCI_PROG_IF] = d->prog_if;
	f->cfg[PCI_SUBCLASS] = d->subclass;
	f->cfg[PCI_CLASS] = d->class_code;
	f->cfg[PCI_INT_PIN] = d->intx;
	f->writable[PCI_COMMAND] = PCI_CMD_IO | PCI_CMD_MEMORY | PCI_CMD_MASTER | PCI_CMD_PARITY;
	f->writable[PCI_COMMAND + 1] = (PCI_CMD_SERR | PCI_CMD_INTX_OFF) >> 8;
	f->clear_on_1[PCI_STATUS + 1] = PCI_STATUS_ERRORS >> 8;
	f->writable[PCI_CACHE_LINE] = 0xff;
	f->writable[PCI_INT_LINE] = 0xff;
	f->next_cap = PCI_CAPS;
}

static void bars_reset(struct pci_func *f)
{
	for (u32 i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &f->bar[i];
		u32 off = PCI_BAR0 + 4 * i;

		if (!bar->size)
			continue;
		pci_put32(f, off, (pci_get32(f, off) & 15) | (u32)bar->assigned);
		if (bar->is64)
			pci_put32(f, off + 4, (u32)(bar->assigned >> 32));
	}
}

void pci_func_reset_locked(struct pci_func *f)
{
	u16 decode = 0;

	for (u32 i = 0; i < 256; i++)
		f->cfg[i] &= (u8) ~(f->writable[i] | f->clear_on_1[i]);
	for (u32 i = 0; i < PCI_BARS; i++)
		decode |= f->bar[i].size ? (f->bar[i].io ? PCI_CMD_IO : PCI_CMD_MEMORY) : 0;
	pci_put16(f, PCI_COMMAND, decode);
	if (f->desc.intx)
		f->cfg[PCI_INT_LINE] = (u8)pci_slot_gsi(f->slot);
	bars_reset(f);
	pci_msix_reset(f);
	pci_irq_update(f);
}

void pci_func_reset(struct pci_func *f)
{
	struct pci_bus *b = f->bus;

	pthread_mutex_lock(&b->lock);
	pci_func_reset_locked(f);
	pci_map_bars(b);
	pthread_mutex_unlock(&b->lock);
}

static struct pci_func *free_slot(struct pci_bus *b)
{
	for (u32 i = 0; i < PCI_SLOTS; i++) {
		if (!b->slot[i].used)
			return &b->slot[i];
	}
	return NULL;
}

static void func_clear(struct pci_func *f)
{
	struct pci_bus *b = f->bus;
	u32 slot = f->slot;

	pthread_mutex_destroy(&f->irq_lock);
	*f = (struct pci_func){.bus = b, .slot = slot};
}

static int func_build(struct pci_func *f, struct err *e)
{
	bool caps = true;
	int ret = f->desc.msix_vectors ? pci_msix_init(f, e) : 0;

	describe(f);
	for (u32 i = 0; !ret && i < PCI_BARS; i++)
		ret = bar_add(f, i, e);
	if (ret)
		return ret;
	/* Host bridges have no such capabilities. */
	if (f->desc.class_code != 6)
		caps = add_pm_cap(f) && add_express_cap(f);
	if (f->desc.msix_vectors)
		caps = caps && pci_msix_add_cap(f);
	return caps ? 0 : err_set(e, ENOSPC, "pci function %s: too many capabilities", f->desc.name);
}

int pci_add(struct pci_bus *b, const struct pci_func_desc *d, struct pci_func **out, struct err *e)
{
	struct pci_func *f;
	int ret;

	pthread_mutex_lock(&b->lock);
	f = free_slot(b);
	if (!f) {
		pthread_mutex_unlock(&b->lock);
		return err_set(e, ENOSPC, "pci function %s: all %u slots are taken; use fewer devices", d->name, PCI_SLOTS);
	}
	f->desc = *d;
	f->used = true;
	pthread_mutex_init(&f->irq_lock, NULL);
	irq_line_init(&f->line, b->dev.env->irq, pci_slot_gsi(f->slot));
	ret = func_build(f, e);
	if (ret) {
		func_clear(f);
	} else {
		pci_func_reset_locked(f);
		pci_map_bars(b);
		*out = f;
	}
	pthread_mutex_unlock(&b->lock);
	return ret;
}

void pci_del(struct pci_func *f)
{
	struct pci_bus *b = f->bus;

	pthread_mutex_lock(&b->lock);
	for (u32 i = 0; i < PCI_BARS; i++) {
		if (f->bar[i].size)
			bus_remove(bar_bus(f, &f->bar[i]), &f->bar[i].region);
	}
	irq_set(&f->line, false);
	func_clear(f);
	pci_map_bars(b);
	pthread_mutex_unlock(&b->lock);
}
