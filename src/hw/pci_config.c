/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Accesses to config space: which bits change, and what follows from it. Both mechanisms (ports, ECAM) end here.
 */
#include "hw/pci_internal.h"

/* Bus 0 has one function in each slot; everything else is not there. */
static struct pci_func *find(struct pci_bus *b, u32 bdf)
{
	u32 slot = bdf >> 3;

	if (slot >= PCI_SLOTS || bdf & 7 || !b->slot[slot].used)
		return NULL;
	return &b->slot[slot];
}

static bool in_range(u32 off, u32 size)
{
	return (size == 1 || size == 2 || size == 4) && off < PCI_CFG_SIZE && off % size == 0;
}

u32 pci_config_read(struct pci_bus *b, u32 bdf, u32 off, u32 size)
{
	struct pci_func *f = find(b, bdf);
	u32 v = 0;

	if (!f || !in_range(off, size))
		return ~0u;
	if (f->desc.cfg_read && f->desc.cfg_read(f->desc.opaque, off, size, &v))
		return v;
	for (u32 i = 0; i < size; i++)
		v |= (u32)f->cfg[off + i] << (8 * i);
	return v;
}

/* D1 and D2 do not exist: a write of them is dropped, says the power management specification. */
static u8 power_state(const struct pci_func *f, u8 old, u8 new)
{
	u8 state = new & 3;

	return state == 1 || state == 2 ? old : new;
}

static void write_byte(struct pci_func *f, u32 off, u8 v)
{
	u8 old = f->cfg[off], new;

	/* Read-only bytes are not touched: another thread may be setting the INTx status bit. */
	if (off >= 256 || !(f->writable[off] | f->clear_on_1[off]))
		return;
	new = (u8)((old & ~f->writable[off]) | (v & f->writable[off]));
	new &= (u8) ~(v & f->clear_on_1[off]);
	if (f->pm_cap && off == f->pm_cap + 4u)
		new = power_state(f, old, new);
	__atomic_store_n(&f->cfg[off], new, __ATOMIC_RELAXED);
}

static bool touches(u32 off, u32 size, u32 reg, u32 len)
{
	return off < reg + len && reg < off + size;
}

void pci_config_write(struct pci_bus *b, u32 bdf, u32 off, u32 size, u32 value)
{
	struct pci_func *f = find(b, bdf);
	bool command, bars, power;

	if (!f || !in_range(off, size))
		return;
	if (f->desc.cfg_write && f->desc.cfg_write(f->desc.opaque, off, size, value))
		return;
	for (u32 i = 0; i < size; i++)
		write_byte(f, off + i, (u8)(value >> (8 * i)));

	command = touches(off, size, PCI_COMMAND, 2);
	bars = touches(off, size, PCI_BAR0, 4 * PCI_BARS);
	power = f->pm_cap && touches(off, size, f->pm_cap + 4u, 1);
	if (command || bars || power)
		pci_map_bars(b);
	if (command || (f->msix_cap && touches(off, size, f->msix_cap + 2u, 2)))
		pci_irq_update(f);
}
