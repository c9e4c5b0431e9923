/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A PCI Express root bus: config space through ports 0xcf8/0xcfc and through ECAM, BARs assigned by the machine and movable by the guest,
 * MSI-X. Devices register a function; slots, BAR addresses and INTx lines are given by the bus.
 * Source: PCI Local Bus 3.0, PCI Express Base 3.0 (config space, MSI-X capability).
 *
 * Threading: config accesses from any vCPU thread, serialised by the bus's lock. BAR handlers run without it, and moving a BAR waits for
 * them: a BAR handler must not call pci_add, pci_del or pci_func_reset.
 */
#pragma once

#include "hw/device.h"

/* Bus 0 alone, for there is no bridge: of buses that ACPI announces, Linux asks each slot whether there is something, 16,000 accesses to ports. */
#define PCI_ECAM_BASE 0xe0000000ull
#define PCI_ECAM_SIZE 0x100000ull
#define PCI_MMIO32_BASE 0xc0000000ull /* BARs below 4 GiB, up to ECAM */
#define PCI_MMIO32_END 0xe0000000ull
#define PCI_CFG_SIZE 4096
#define PCI_BARS 6
#define PCI_SLOTS 32
#define PCI_MSIX_MAX 256 /* vectors of a function */

struct pci_func;

struct pci_bar_desc {
	u64 size; /* power of two, >= 16, at most 256 MiB (memory) or 256 bytes (ports); 0: none */
	bool is64, prefetch, io;
	const struct bus_ops *ops;
	void *opaque;
	const struct bus_bell *bells; /* they stay the function's */
	u32 nbells;
};

struct pci_func_desc {
	const char *name;
	u16 vendor, device, subsys_vendor, subsys_id;
	u8 class_code, subclass, prog_if, revision;
	struct pci_bar_desc bar[PCI_BARS];
	bool intx;	  /* wants an INTA# line */
	u32 msix_vectors; /* 0: no MSI-X; table and PBA are in BAR msix_bar (its bar[] stays empty), which the bus handles itself */
	u8 msix_bar;
	void *opaque;
	/* Config space that the function itself handles, e.g. virtio's PCI configuration access capability; may be NULL. Return true when
	 * the access was handled. */
	bool (*cfg_read)(void *opaque, u32 off, u32 size, u32 *value);
	bool (*cfg_write)(void *opaque, u32 off, u32 size, u32 value);
};

/* Adds a function in the next free slot. The descriptor is copied. */
int pci_add(struct pci_bus *b, const struct pci_func_desc *d, struct pci_func **out, struct err *e) must_check;
void pci_del(struct pci_func *f);
void pci_func_reset(struct pci_func *f);

/* Append a capability (id, then body after the 2-byte header); returns its offset in config space, 0 when full. */
u8 pci_add_cap(struct pci_func *f, u8 id, const void *body, u8 body_len);
u8 *pci_cfg(struct pci_func *f); /* raw config bytes, for capabilities' own fields */

bool pci_bus_master(const struct pci_func *f); /* may it DMA and send MSIs now? */

/* INTx and MSI-X. pci_msix_notify honours masking (sets the pending bit). Any thread. */
void pci_intx(struct pci_func *f, bool level);
bool pci_msix_enabled(const struct pci_func *f);
void pci_msix_notify(struct pci_func *f, u16 vector);

/* For ACPI: which GSI slot s, pin INTA# is wired to. */
u32 pci_slot_gsi(u32 slot);
