/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI tables: RSDP, RSDT, XSDT, FADT, FACS, DSDT (from dsdt.asl), an SSDT with the processors, MADT, MCFG. Written into the firmware area
 * at creation and again at each reset, because a guest may have overwritten them.
 * Source: ACPI 6.4 chapter 5.
 *
 * Threading: main thread only.
 */
#include "hw/acpi_aml.h"
#include "hw/acpi_tables.h"
#include "hw/device.h"
#include "hw/layout.h"
#include "hw/pci.h"

#include "hw/dsdt.hex"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AREA_SIZE (LAYOUT_ACPI_END - LAYOUT_ACPI_BASE)
#define MAX_TABLES 8u

enum { GAS_IO = 1, ACCESS_BYTE = 1, ACCESS_WORD = 2, ACCESS_DWORD = 3 };

/* FADT */
#define FADT_WBINVD (1u << 0)
#define FADT_PROC_C1 (1u << 2)
#define FADT_NO_SLEEP_BUTTON (1u << 5)
#define FADT_RTC_NOT_FIXED (1u << 6)
#define FADT_TIMER_32 (1u << 8)
#define FADT_RESET_REG (1u << 10)
#define BOOT_LEGACY_DEVICES (1u << 0)
#define BOOT_NO_VGA (1u << 2)
#define BOOT_NO_ASPM (1u << 4)

/* MADT. No PC-AT compatibility flag: there is no 8259. */
#define MADT_ENABLED 1u
#define MADT_LEVEL_HIGH 0x000d
enum { MADT_LAPIC = 0, MADT_IOAPIC = 1, MADT_OVERRIDE = 2, MADT_LAPIC_NMI = 4 };

/* Tables are laid out one after the other in `area`, which is copied to LAYOUT_ACPI_BASE as a whole. */
struct acpi {
	struct device dev;
	u8 area[AREA_SIZE];
	u32 used;
	bool full;
	u32 ntables;
	u64 tables[MAX_TABLES]; /* what RSDT and XSDT list */
};

/* Room for `size` bytes, 64-byte aligned as the FACS wants. NULL when the area is full. */
static void *reserve(struct acpi *a, u32 size)
{
	u32 at = (a->used + 63) & ~63u;

	if (at > AREA_SIZE || size > AREA_SIZE - at) {
		a->full = true;
		return NULL;
	}
	a->used = at + size;
	return a->area + at;
}

static u64 address_of(const struct acpi *a, const void *p)
{
	return LAYOUT_ACPI_BASE + (u64)((const u8 *)p - a->area);
}

static u8 checksum(const void *p, u32 n)
{
	const u8 *b = p;
	u8 sum = 0;

	while (n--)
		sum += *b++;
	return (u8)-sum;
}

static void *begin(struct acpi *a, const char *signature, u8 revision, u32 size)
{
	struct acpi_header *h = reserve(a, size);

	if (!h)
		return NULL;
	memcpy(h->signature, signature, 4);
	h->length = size;
	h->revision = revision;
	memcpy(h->oem, "GUISE ", 6);
	memcpy(h->oem_table, "MACHINE ", 8);
	h->oem_revision = 1;
	memcpy(h->creator, "GUIS", 4);
	h->creator_revision = 1;
	return h;
}

static void finish(struct acpi_header *h)
{
	h->checksum = 0;
	h->checksum = checksum(h, h->length);
}

static void list(struct acpi *a, const void *table)
{
	if (a->ntables < MAX_TABLES)
		a->tables[a->ntables++] = address_of(a, table);
}

static struct acpi_gas port(u16 address, u8 bytes, u8 access)
{
	return (struct acpi_gas){.space = GAS_IO, .bit_width = (u8)(bytes * 8), .access_size = access, .address = address};
}

static void fadt_power(struct acpi_fadt *f)
{
	f->sci = LAYOUT_GSI_SCI;
	f->pm1a_evt = LAYOUT_PM1_EVT;
	f->pm1_evt_len = 4;
	f->x_pm1a_evt = port(LAYOUT_PM1_EVT, 4, ACCESS_WORD);
	f->pm1a_cnt = LAYOUT_PM1_CNT;
	f->pm1_cnt_len = 2;
	f->x_pm1a_cnt = port(LAYOUT_PM1_CNT, 2, ACCESS_WORD);
	f->pm_tmr = LAYOUT_PM_TIMER;
	f->pm_tmr_len = 4;
	f->x_pm_tmr = port(LAYOUT_PM_TIMER, 4, ACCESS_DWORD);
	f->gpe0 = LAYOUT_GPE0;
	f->gpe0_len = 4;
	f->x_gpe0 = port(LAYOUT_GPE0, 4, ACCESS_BYTE);
	f->lvl2_lat = f->lvl3_lat = 0xfff; /* C2 and C3: none */
	f->reset = port(LAYOUT_RESET_PORT, 1, ACCESS_BYTE);
	f->reset_value = 0x06;
}

static void add_fadt(struct acpi *a, u64 dsdt, u64 facs)
{
	struct acpi_fadt *f = begin(a, "FACP", 6, sizeof(*f));

	if (!f)
		return;
	f->facs = (u32)facs;
	f->dsdt = (u32)dsdt;
	f->x_dsdt = dsdt;
	fadt_power(f);
	f->century = 0x32;
	f->boot_arch = BOOT_LEGACY_DEVICES | BOOT_NO_VGA | BOOT_NO_ASPM; /* and no 8042 */
	f->flags = FADT_WBINVD | FADT_PROC_C1 | FADT_NO_SLEEP_BUTTON | FADT_RTC_NOT_FIXED | FADT_TIMER_32 | FADT_RESET_REG;
	f->minor = 4;
	memcpy(&f->hypervisor, "Guise\0\0", 8);
	finish(&f->h);
	list(a, f);
}

static u64 add_facs(struct acpi *a)
{
	struct acpi_facs *f = reserve(a, sizeof(*f));

	if (!f)
		return 0;
	memcpy(f->signature, "FACS", 4);
	f->length = sizeof(*f);
	f->version = 2;
	return address_of(a, f);
}

static u64 add_dsdt(struct acpi *a)
{
	u8 *p = reserve(a, sizeof(dsdt_aml_code));

	if (!p)
		return 0;
	memcpy(p, dsdt_aml_code, sizeof(dsdt_aml_code));
	return address_of(a, p);
}

/* One device for each processor; its _UID is the one in MADT. */
static void add_ssdt(struct acpi *a, u32 ncpus)
{
	u32 room = 256 + 32 * ncpus, scope;
	struct acpi_header *h = begin(a, "SSDT", 2, room);
	struct aml code;

	if (!h)
		return;
	code = (struct aml){.buf = (u8 *)(h + 1), .size = room - (u32)sizeof(*h)};
	scope = aml_scope(&code, "\\_SB_");
	for (u32 i = 0; i < ncpus; i++) {
		char name[8];
		u32 device;

		snprintf(name, sizeof(name), "C%03X", i & 0xfff);
		device = aml_device(&code, name);
		aml_name_string(&code, "_HID", "ACPI0007");
		aml_name_byte(&code, "_UID", (u8)i);
		aml_close(&code, device);
	}
	aml_close(&code, scope);
	a->full |= code.overflow;
	h->length = (u32)sizeof(*h) + code.len;
	finish(h);
	list(a, h);
}

static void madt_fill(u8 *p, u32 ncpus)
{
	for (u32 i = 0; i < ncpus; i++, p += sizeof(struct acpi_madt_lapic))
		*(struct acpi_madt_lapic *)p =
			(struct acpi_madt_lapic){MADT_LAPIC, sizeof(struct acpi_madt_lapic), (u8)i, (u8)i, MADT_ENABLED};
	*(struct acpi_madt_ioapic *)p =
		(struct acpi_madt_ioapic){MADT_IOAPIC, sizeof(struct acpi_madt_ioapic), 0, 0, (u32)LAYOUT_IOAPIC_BASE, 0};
	p += sizeof(struct acpi_madt_ioapic);
	*(struct acpi_madt_override *)p =
		(struct acpi_madt_override){MADT_OVERRIDE, sizeof(struct acpi_madt_override), 0, 0, LAYOUT_GSI_PIT, 0};
	p += sizeof(struct acpi_madt_override);
	*(struct acpi_madt_override *)p = (struct acpi_madt_override){
		MADT_OVERRIDE, sizeof(struct acpi_madt_override), 0, LAYOUT_GSI_SCI, LAYOUT_GSI_SCI, MADT_LEVEL_HIGH};
	p += sizeof(struct acpi_madt_override);
	*(struct acpi_madt_lapic_nmi *)p = (struct acpi_madt_lapic_nmi){MADT_LAPIC_NMI, sizeof(struct acpi_madt_lapic_nmi), 0xff, 0, 1};
}

static void add_madt(struct acpi *a, u32 ncpus)
{
	u32 size = (u32)(sizeof(struct acpi_madt) + ncpus * sizeof(struct acpi_madt_lapic) + sizeof(struct acpi_madt_ioapic) +
			 2 * sizeof(struct acpi_madt_override) + sizeof(struct acpi_madt_lapic_nmi));
	struct acpi_madt *m = begin(a, "APIC", 5, size);

	if (!m)
		return;
	m->lapic_address = (u32)LAYOUT_LAPIC_BASE;
	madt_fill((u8 *)(m + 1), ncpus);
	finish(&m->h);
	list(a, m);
}

static void add_mcfg(struct acpi *a)
{
	struct acpi_mcfg *m = begin(a, "MCFG", 1, sizeof(*m));

	if (!m)
		return;
	m->ecam.base = PCI_ECAM_BASE;
	m->ecam.last_bus = 0;
	finish(&m->h);
	list(a, m);
}

/* RSDT (for old systems) or XSDT: the list of the others, with entries of 4 or 8 bytes. */
static u64 add_root(struct acpi *a, const char *signature, u32 entry_size)
{
	struct acpi_header *h = begin(a, signature, 1, (u32)sizeof(*h) + a->ntables * entry_size);

	if (!h)
		return 0;
	for (u32 i = 0; i < a->ntables; i++)
		memcpy((u8 *)(h + 1) + i * entry_size, &a->tables[i], entry_size);
	finish(h);
	return address_of(a, h);
}

/* Build everything in the host's copy. */
static void build(struct acpi *a, struct acpi_rsdp *rsdp)
{
	u32 ncpus = a->dev.env->ncpus;
	u64 facs, dsdt;

	memset(a->area, 0, sizeof(a->area));
	a->used = a->ntables = 0;
	a->full = false;
	facs = add_facs(a);
	dsdt = add_dsdt(a);
	add_fadt(a, dsdt, facs);
	add_ssdt(a, ncpus);
	add_madt(a, ncpus);
	add_mcfg(a);
	rsdp->rsdt = (u32)add_root(a, "RSDT", 4);
	rsdp->xsdt = add_root(a, "XSDT", 8);
}

static bool write_tables(struct acpi *a)
{
	struct acpi_rsdp rsdp = {.revision = 2, .length = sizeof(rsdp)};
	struct guest_memory *mem = a->dev.env->mem;

	build(a, &rsdp);
	memcpy(rsdp.signature, "RSD PTR ", 8);
	memcpy(rsdp.oem, "GUISE ", 6);
	rsdp.checksum = checksum(&rsdp, 20); /* the ACPI 1.0 part */
	rsdp.ext_checksum = checksum(&rsdp, sizeof(rsdp));
	return !a->full && gm_write(mem, LAYOUT_ACPI_BASE, a->area, a->used) && gm_write(mem, LAYOUT_RSDP, &rsdp, sizeof(rsdp));
}

static void acpi_reset(struct device *d)
{
	/* It went well at creation, and nothing that decides about it has changed. */
	if (!write_tables(container_of(d, struct acpi, dev)))
		return;
}

static void acpi_destroy(struct device *d)
{
	free(container_of(d, struct acpi, dev));
}

static const struct device_class acpi_class;

static int acpi_create(struct device_env *env, const struct opts *opts, struct device **out, struct err *e)
{
	struct acpi *a = calloc(1, sizeof(*a));

	if (!a)
		return err_set(e, ENOMEM, "ACPI tables: out of memory; free memory on the host");
	a->dev.cls = &acpi_class;
	a->dev.env = env;
	if (!write_tables(a)) {
		free(a);
		return err_set(e, ENOSPC, "ACPI tables for %u CPUs do not fit below 1 MiB; give fewer CPUs or more memory", env->ncpus);
	}
	*out = &a->dev;
	return 0;
}

static const struct device_class acpi_class = {
	.name = "acpi",
	.stage = STAGE_FIRMWARE,
	.summary = "ACPI tables",
	.version = 1,
	.create = acpi_create,
	.reset = acpi_reset,
	.destroy = acpi_destroy,
};
DEVICE_REGISTER(acpi_class);
