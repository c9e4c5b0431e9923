/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A function's interrupts: MSI-X table and pending bits in a BAR of their own, INTx.
 * Source: PCI Local Bus 3.0 section 6.8.2.
 *
 * A message that may not go (masked, function masked, no bus master) leaves its pending bit and goes when the obstacle is gone.
 */
#include "hw/pci_internal.h"

#include <errno.h>
#include <string.h>

static u32 table_get(const struct pci_func *f, u32 off)
{
	u32 v;

	memcpy(&v, &f->table[off], 4);
	return v;
}

static u16 control(const struct pci_func *f)
{
	return (u16)(__atomic_load_n(&f->cfg[f->msix_cap + 3], __ATOMIC_RELAXED) << 8);
}

bool pci_msix_enabled(const struct pci_func *f)
{
	return f->msix_cap && control(f) & MSIX_ENABLE;
}

static bool vector_held(const struct pci_func *f, u32 vector)
{
	return control(f) & MSIX_MASK_ALL || !pci_bus_master(f) || table_get(f, vector * MSIX_ENTRY + 12) & 1;
}

static void vector_send(struct pci_func *f, u32 vector)
{
	u32 off = vector * MSIX_ENTRY;
	u64 address = table_get(f, off) | (u64)table_get(f, off + 4) << 32;

	irq_msi(f->bus->dev.env->irq, address, table_get(f, off + 8));
}

/* Send what became possible. */
static void vector_retry(struct pci_func *f, u32 vector)
{
	u8 bit = (u8)(1 << vector % 8);

	if (!(f->pba[vector / 8] & bit) || !pci_msix_enabled(f) || vector_held(f, vector))
		return;
	f->pba[vector / 8] &= (u8)~bit;
	vector_send(f, vector);
}

void pci_msix_notify(struct pci_func *f, u16 vector)
{
	if (vector >= f->desc.msix_vectors || !pci_msix_enabled(f))
		return;
	pthread_mutex_lock(&f->irq_lock);
	if (vector_held(f, vector))
		f->pba[vector / 8] |= (u8)(1 << vector % 8);
	else
		vector_send(f, vector);
	pthread_mutex_unlock(&f->irq_lock);
}

static void intx_update(struct pci_func *f)
{
	bool off = pci_get16(f, PCI_COMMAND) & PCI_CMD_INTX_OFF || pci_msix_enabled(f);
	u8 status = f->cfg[PCI_STATUS] & (u8)~PCI_STATUS_INTX;

	__atomic_store_n(&f->cfg[PCI_STATUS], (u8)(status | (f->intx ? PCI_STATUS_INTX : 0)), __ATOMIC_RELAXED);
	irq_set(&f->line, f->intx && !off);
}

void pci_intx(struct pci_func *f, bool level)
{
	if (!f->desc.intx)
		return;
	pthread_mutex_lock(&f->irq_lock);
	f->intx = level;
	intx_update(f);
	pthread_mutex_unlock(&f->irq_lock);
}

void pci_irq_update(struct pci_func *f)
{
	pthread_mutex_lock(&f->irq_lock);
	intx_update(f);
	for (u32 i = 0; i < f->desc.msix_vectors; i++)
		vector_retry(f, i);
	pthread_mutex_unlock(&f->irq_lock);
}

static u64 bar_read(void *opaque, u64 off, u32 size)
{
	struct pci_func *f = opaque;
	u64 v = 0;

	pthread_mutex_lock(&f->irq_lock);
	if (off < f->desc.msix_vectors * MSIX_ENTRY)
		memcpy(&v, &f->table[off], size);
	else if (off >= f->pba_offset && off - f->pba_offset < sizeof(f->pba))
		memcpy(&v, &f->pba[off - f->pba_offset], size);
	pthread_mutex_unlock(&f->irq_lock);
	return v;
}

/* The PBA is read-only. Of the vector control word, only the mask bit is there. */
static void bar_write(void *opaque, u64 off, u32 size, u64 value)
{
	struct pci_func *f = opaque;
	u32 vector = (u32)(off / MSIX_ENTRY);

	if (off >= f->desc.msix_vectors * MSIX_ENTRY)
		return;
	pthread_mutex_lock(&f->irq_lock);
	memcpy(&f->table[off], &value, size);
	f->table[vector * MSIX_ENTRY] &= 0xfc; /* addresses are aligned */
	f->table[vector * MSIX_ENTRY + 12] &= 1;
	memset(&f->table[vector * MSIX_ENTRY + 13], 0, 3);
	vector_retry(f, vector);
	pthread_mutex_unlock(&f->irq_lock);
}

static const struct bus_ops bar_ops = {.read = bar_read, .write = bar_write, .min_size = 4, .max_size = 8};

/* The table in the lower half of the BAR, the pending bits in the upper. */
int pci_msix_init(struct pci_func *f, struct err *e)
{
	struct pci_func_desc *d = &f->desc;
	u32 half = PAGE_SIZE / 2;

	if (d->msix_vectors > PCI_MSIX_MAX || d->msix_bar >= PCI_BARS || d->bar[d->msix_bar].size)
		return err_set(e, EINVAL, "pci function %s: %u MSI-X vectors in BAR %u; at most %u, in a BAR of their own", d->name,
			       d->msix_vectors, d->msix_bar, PCI_MSIX_MAX);
	while (half < d->msix_vectors * MSIX_ENTRY)
		half *= 2;
	f->pba_offset = half;
	d->bar[d->msix_bar] = (struct pci_bar_desc){.size = 2 * half, .ops = &bar_ops, .opaque = f};
	return 0;
}

bool pci_msix_add_cap(struct pci_func *f)
{
	u32 table = f->desc.msix_bar, pba = f->pba_offset | f->desc.msix_bar;
	u16 size = (u16)(f->desc.msix_vectors - 1);
	u8 body[10];

	memcpy(body, &size, 2);
	memcpy(body + 2, &table, 4);
	memcpy(body + 6, &pba, 4);
	f->msix_cap = pci_add_cap(f, PCI_CAP_MSIX, body, sizeof(body));
	if (f->msix_cap)
		f->writable[f->msix_cap + 3] = (MSIX_ENABLE | MSIX_MASK_ALL) >> 8;
	return f->msix_cap != 0;
}

void pci_msix_reset(struct pci_func *f)
{
	pthread_mutex_lock(&f->irq_lock);
	f->intx = false;
	memset(f->table, 0, sizeof(f->table));
	memset(f->pba, 0, sizeof(f->pba));
	for (u32 i = 0; i < f->desc.msix_vectors; i++)
		f->table[i * MSIX_ENTRY + 12] = 1; /* masked */
	pthread_mutex_unlock(&f->irq_lock);
}
