/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PCI root's state, shared by pci.c (functions, BARs), pci_config.c (config space), pci_msix.c (interrupts) and pci_host.c (the
 * device).
 *
 * Threading: `lock` of the bus guards config space and BAR mappings; `irq_lock` of a function its MSI-X table and INTx. Order: lock,
 * irq_lock, interrupt router. BAR handlers, the MSI-X table's among them, take irq_lock only.
 */
#pragma once

#include "hw/pci.h"

#include <pthread.h>

enum {
	PCI_VENDOR = 0x00,
	PCI_DEVICE = 0x02,
	PCI_COMMAND = 0x04,
	PCI_STATUS = 0x06,
	PCI_REVISION = 0x08,
	PCI_PROG_IF = 0x09,
	PCI_SUBCLASS = 0x0a,
	PCI_CLASS = 0x0b,
	PCI_CACHE_LINE = 0x0c,
	PCI_LATENCY = 0x0d,
	PCI_BAR0 = 0x10,
	PCI_SUBSYS_VENDOR = 0x2c,
	PCI_SUBSYS_ID = 0x2e,
	PCI_CAP_PTR = 0x34,
	PCI_INT_LINE = 0x3c,
	PCI_INT_PIN = 0x3d,
	PCI_CAPS = 0x40
};

#define PCI_CMD_IO 0x0001u
#define PCI_CMD_MEMORY 0x0002u
#define PCI_CMD_MASTER 0x0004u
#define PCI_CMD_PARITY 0x0040u
#define PCI_CMD_SERR 0x0100u
#define PCI_CMD_INTX_OFF 0x0400u
#define PCI_STATUS_INTX 0x0008u
#define PCI_STATUS_CAPS 0x0010u
#define PCI_STATUS_ERRORS 0xf900u /* write 1 to clear */

enum { PCI_CAP_PM = 0x01, PCI_CAP_EXPRESS = 0x10, PCI_CAP_MSIX = 0x11 };

#define MSIX_ENABLE 0x8000u
#define MSIX_MASK_ALL 0x4000u
#define MSIX_ENTRY 16u

struct pci_bar {
	struct bus_region region;
	u64 size;
	u64 assigned; /* the address after reset */
	bool io, is64;
};

struct pci_func {
	struct pci_bus *bus;
	u32 slot;
	bool used;
	struct pci_func_desc desc;
	u8 cfg[PCI_CFG_SIZE];
	u8 writable[256], clear_on_1[256]; /* by bit; beyond 0xff nothing is writable */
	u8 last_cap, next_cap;		   /* offset of the last capability's header; first free byte */
	u8 pm_cap, msix_cap;
	struct pci_bar bar[PCI_BARS];

	pthread_mutex_t irq_lock;
	struct irq_line line;
	bool intx;
	u32 pba_offset;
	u8 table[PCI_MSIX_MAX * MSIX_ENTRY];
	u8 pba[PCI_MSIX_MAX / 8];
};

struct pci_bus {
	struct device dev;
	pthread_mutex_t lock;
	struct bus_region ecam, ports;
	u32 address; /* CONFIG_ADDRESS, port 0xcf8 */
	u8 reset_control;
	struct pci_func slot[PCI_SLOTS];
};

static inline u16 pci_get16(const struct pci_func *f, u32 off)
{
	return (u16)(f->cfg[off] | f->cfg[off + 1] << 8);
}
static inline u32 pci_get32(const struct pci_func *f, u32 off)
{
	return pci_get16(f, off) | (u32)pci_get16(f, off + 2) << 16;
}
static inline void pci_put16(struct pci_func *f, u32 off, u16 v)
{
	f->cfg[off] = (u8)v;
	f->cfg[off + 1] = (u8)(v >> 8);
}
static inline void pci_put32(struct pci_func *f, u32 off, u32 v)
{
	pci_put16(f, off, (u16)v);
	pci_put16(f, off + 2, (u16)(v >> 16));
}

/* pci.c; with the bus's lock */
void pci_map_bars(struct pci_bus *b); /* after config space changed: unmap what moved, then map what fits */
void pci_func_reset_locked(struct pci_func *f);

/* pci_config.c; with the bus's lock */
u32 pci_config_read(struct pci_bus *b, u32 bdf, u32 off, u32 size);
void pci_config_write(struct pci_bus *b, u32 bdf, u32 off, u32 size, u32 value);

/* pci_msix.c */
int pci_msix_init(struct pci_func *f, struct err *e); /* describes the BAR; before BARs are placed */
bool pci_msix_add_cap(struct pci_func *f);
void pci_msix_reset(struct pci_func *f);
void pci_irq_update(struct pci_func *f); /* config changed: INTx level, messages that may go now */
