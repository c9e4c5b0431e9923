/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI and SMBIOS tables and the BIOS data area as a guest finds them in RAM, and that the DSDT agrees with layout.h and pci.h. */
#include "hw_machine.h"

#include "hw/acpi_tables.h"
#include "hw/pci.h"

static int setup(void **state)
{
	struct machine *m = machine_new();

	machine_plug(m, "acpi", NULL);
	machine_plug(m, "bios", NULL);
	machine_plug(m, "smbios", NULL);
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	machine_free(*state);
	return 0;
}

static u8 *ram(struct machine *m, gpa_t gpa, u64 len)
{
	u8 *p = gm_ptr(&m->mem, gpa, len);

	assert_non_null(p);
	return p;
}

static void assert_sum(const void *p, u32 n)
{
	u8 sum = 0;

	for (u32 i = 0; i < n; i++)
		sum = (u8)(sum + ((const u8 *)p)[i]);
	assert_int_equal(sum, 0);
}

/* The n-th table with this signature that the XSDT lists; every table's checksum is looked at on the way. */
static const void *find_table(struct machine *m, const char *signature)
{
	const struct acpi_rsdp *rsdp = (void *)ram(m, LAYOUT_RSDP, sizeof(*rsdp));
	const struct acpi_header *rsdt, *xsdt, *found = NULL;

	assert_memory_equal(rsdp->signature, "RSD PTR ", 8);
	assert_sum(rsdp, 20);
	assert_sum(rsdp, 36);
	xsdt = (void *)ram(m, rsdp->xsdt, sizeof(*xsdt));
	assert_memory_equal(xsdt->signature, "XSDT", 4);
	assert_sum(xsdt, xsdt->length);
	rsdt = (void *)ram(m, rsdp->rsdt, sizeof(*rsdt));
	assert_memory_equal(rsdt->signature, "RSDT", 4);
	assert_sum(rsdt, rsdt->length);
	assert_int_equal((rsdt->length - 36) * 2, xsdt->length - 36);
	for (u32 i = 0; i < (xsdt->length - 36) / 8; i++) {
		const struct acpi_header *h;
		u64 at;

		memcpy(&at, (const u8 *)(xsdt + 1) + 8 * i, 8);
		assert_memory_equal((const u8 *)(rsdt + 1) + 4 * i, &at, 4);
		assert_in_range(at, LAYOUT_ACPI_BASE, LAYOUT_ACPI_END - 1);
		h = (void *)ram(m, at, sizeof(*h));
		assert_in_range(at + h->length, LAYOUT_ACPI_BASE, LAYOUT_ACPI_END);
		assert_sum(h, h->length);
		if (!memcmp(h->signature, signature, 4))
			found = h;
	}
	return found;
}

static void fadt(void **state)
{
	struct machine *m = *state;
	const struct acpi_fadt *f = find_table(m, "FACP");
	const struct acpi_facs *facs;
	const struct acpi_header *dsdt;

	assert_non_null(f);
	assert_int_equal(f->sci, LAYOUT_GSI_SCI);
	assert_int_equal(f->smi_cmd, 0);
	assert_int_equal(f->x_pm1a_cnt.address, LAYOUT_PM1_CNT);
	assert_int_equal(f->pm_tmr, LAYOUT_PM_TIMER);
	assert_int_equal(f->reset.address, 0xcf9);
	assert_int_equal(f->boot_arch & 2, 0); /* no 8042 */
	assert_int_equal(f->x_dsdt, f->dsdt);
	facs = (void *)ram(m, f->facs, sizeof(*facs));
	assert_memory_equal(facs->signature, "FACS", 4);
	assert_int_equal(f->facs % 64, 0);
	dsdt = (void *)ram(m, f->dsdt, sizeof(*dsdt));
	assert_memory_equal(dsdt->signature, "DSDT", 4);
	assert_sum(dsdt, dsdt->length);
}

static void madt(void **state)
{
	struct machine *m = *state;
	const struct acpi_madt *t = find_table(m, "APIC");
	const u8 *p, *end;
	u32 count[8] = {0};

	assert_non_null(t);
	assert_int_equal(t->flags, 0); /* no 8259 */
	p = (const u8 *)(t + 1);
	end = (const u8 *)t + t->h.length;
	while (p < end) {
		assert_in_range(p[0], 0, 7);
		assert_true(p[1] >= 6 && p + p[1] <= end);
		count[p[0]]++;
		p += p[1];
	}
	assert_int_equal(count[0], MACHINE_CPUS);
	assert_int_equal(count[1], 1);
	assert_int_equal(count[2], 2);
	assert_int_equal(count[4], 1);
}

/* The SSDT's one scope ends where the table ends, and holds a device for each CPU. */
static void ssdt(const struct acpi_header *h, u32 ncpus)
{
	const u8 *p = (const u8 *)(h + 1), *end = (const u8 *)h + h->length;
	u32 len, devices = 0;

	assert_int_equal(p[0], 0x10);
	assert_int_equal(p[1] >> 6, 2);
	len = (p[1] & 15) | (u32)p[2] << 4 | (u32)p[3] << 12;
	assert_ptr_equal(p + 1 + len, end);
	assert_memory_equal(p + 4, "\\_SB_", 5);
	p += 9;
	while (p < end) {
		char name[8];

		assert_true(p[0] == 0x5b && p[1] == 0x82);
		len = (p[2] & 15) | (u32)p[3] << 4 | (u32)p[4] << 12;
		snprintf(name, sizeof(name), "C%03X", devices);
		assert_memory_equal(p + 5, name, 4);
		assert_int_equal(p[2 + len - 1], devices); /* _UID */
		p += 2 + len;
		devices++;
	}
	assert_ptr_equal(p, end);
	assert_int_equal(devices, ncpus);
}

static void processors(void **state)
{
	ssdt(find_table(*state, "SSDT"), MACHINE_CPUS);
	for (u32 n = 1; n <= 64; n += 9) {
		struct machine *m = machine_new();

		m->env.ncpus = n;
		machine_plug(m, "acpi", NULL);
		ssdt(find_table(m, "SSDT"), n);
		machine_free(m);
	}
}

static void mcfg(void **state)
{
	const struct acpi_mcfg *t = find_table(*state, "MCFG");

	assert_non_null(t);
	assert_true(t->ecam.base == PCI_ECAM_BASE);
	assert_int_equal((t->ecam.last_bus + 1) * (1 << 20), PCI_ECAM_SIZE);
}

static bool dsdt_has(struct machine *m, const void *bytes, size_t n)
{
	const struct acpi_fadt *f = find_table(m, "FACP");
	const struct acpi_header *dsdt = (void *)ram(m, f->dsdt, sizeof(*dsdt));

	return memmem(dsdt, dsdt->length, bytes, n) != NULL;
}

/* Small resource descriptors: an I/O range, an interrupt. */
static void assert_io(struct machine *m, u16 port, u8 len)
{
	u8 d[8] = {0x47, 0x01, (u8)port, (u8)(port >> 8), (u8)port, (u8)(port >> 8), 0, len};

	if (dsdt_has(m, d, sizeof(d)))
		return;
	d[6] = 1; /* alignment */
	assert_true(dsdt_has(m, d, sizeof(d)));
}

static void assert_irq(struct machine *m, u32 gsi)
{
	u16 mask = (u16)(1u << gsi);
	u8 d[3] = {0x22, (u8)mask, (u8)(mask >> 8)};

	assert_true(dsdt_has(m, d, sizeof(d)));
}

static void dsdt_agrees_with_the_layout(void **state)
{
	struct machine *m = *state;
	u32 window[4] = {(u32)PCI_MMIO32_BASE, (u32)PCI_MMIO32_END - 1, 0, (u32)(PCI_MMIO32_END - PCI_MMIO32_BASE)};
	struct {
		u8 tag[4];
		u32 base, len;
	} __attribute__((packed)) ecam = {{0x86, 0x09, 0x00, 0x01}, (u32)PCI_ECAM_BASE, (u32)PCI_ECAM_SIZE};
	u8 s5[] = {'_', 'S', '5', '_', 0x12, 0x08, 0x04, 0x0a, LAYOUT_SLP_TYP_S5, 0x0a, LAYOUT_SLP_TYP_S5};

	assert_true(dsdt_has(m, window, sizeof(window)));
	assert_true(dsdt_has(m, &ecam, sizeof(ecam)));
	assert_true(dsdt_has(m, s5, sizeof(s5)));
	assert_io(m, LAYOUT_UART_PORT, 8);
	assert_irq(m, LAYOUT_GSI_UART);
	assert_io(m, LAYOUT_RTC_PORT, 2);
	assert_irq(m, LAYOUT_GSI_RTC);
	assert_io(m, LAYOUT_PORT92, 1);
	assert_io(m, LAYOUT_PM1_EVT, LAYOUT_PM_TIMER + 4 - LAYOUT_PM1_EVT);
	assert_io(m, LAYOUT_GPE0, 4);
	assert_io(m, LAYOUT_PCI_CFG_PORT, 8);
	/* _PRT: address, pin A, no link device, GSI */
	for (u32 slot = 0; slot < PCI_SLOTS; slot++) {
		u8 route[] = {0x04, 0x0c, 0xff, 0xff, (u8)slot, 0x00, 0x00, 0x00, 0x0a, (u8)pci_slot_gsi(slot)};
		u8 slot0[] = {0x04, 0x0b, 0xff, 0xff, 0x00, 0x00, 0x0a, (u8)pci_slot_gsi(0)}; /* fits a word */

		assert_true(slot ? dsdt_has(m, route, sizeof(route)) : dsdt_has(m, slot0, sizeof(slot0)));
	}
}

static void smbios(void **state)
{
	struct machine *m = *state;
	const u8 *ep = ram(m, LAYOUT_SMBIOS_ENTRY, 24), *p, *end;
	u32 size, seen = 0, n = 0;
	u64 at;
	bool uuid = false, ended = false;

	assert_memory_equal(ep, "_SM3_", 5);
	assert_sum(ep, 24);
	memcpy(&size, ep + 12, 4);
	memcpy(&at, ep + 16, 8);
	assert_in_range(at, LAYOUT_SMBIOS_BASE, LAYOUT_SMBIOS_END);
	assert_in_range(at + size, LAYOUT_SMBIOS_BASE, LAYOUT_SMBIOS_END);
	p = ram(m, at, size);
	end = p + size;
	while (!ended) {
		u32 strings = 0, highest = 0;
		const u8 *s;

		assert_true(p + 4 <= end && p[1] >= 4 && p + p[1] < end);
		ended = p[0] == 127;
		if (p[0] < 32)
			seen |= 1u << p[0];
		if (p[0] == 1) {
			assert_int_equal(p[8 + 7] >> 4, 8); /* UUID version and variant */
			assert_int_equal(p[8 + 8] >> 6, 2);
			uuid = true;
		}
		for (s = p + p[1]; *s; s += strlen((const char *)s) + 1)
			strings++;
		if (p[0] <= 4)
			highest = p[4];
		assert_true(highest <= strings);
		p = strings ? s + 1 : s + 2;
		assert_true(p <= end);
		n++;
	}
	assert_ptr_equal(p, end);
	assert_true(uuid);
	assert_int_equal(seen, 1u << 0 | 1u << 1 | 1u << 3 | 1u << 4 | 1u << 16 | 1u << 17 | 1u << 19);
	assert_int_equal(n, 9);
}

static u16 ram_u16(struct machine *m, gpa_t gpa)
{
	u16 v;

	memcpy(&v, ram(m, gpa, sizeof(v)), sizeof(v));
	return v;
}

/* Where Xen's trampoline and others look for the end of low memory. */
static void bios_data_area(void **state)
{
	struct machine *m = *state;

	assert_int_equal(ram_u16(m, 0x40e) << 4, LAYOUT_FW_BASE);
	assert_int_equal(ram_u16(m, 0x413) * KiB, LAYOUT_FW_BASE);
	assert_int_equal(ram_u16(m, 0x400), LAYOUT_UART_PORT);
	assert_int_equal(ram_u16(m, 0x402), 0);
	assert_int_equal(*ram(m, LAYOUT_FW_BASE, 1), 1);
}

static void vectors_lead_to_code(void **state)
{
	struct machine *m = *state;

	for (u32 v = 0; v < 256; v++) {
		gpa_t at = (gpa_t)ram_u16(m, v * 4 + 2) * 16 + ram_u16(m, v * 4);

		assert_in_range(at, LAYOUT_BIOS_CODE, LAYOUT_FW_END - 1);
		assert_non_null(memchr(ram(m, at, 16), 0xcf, 16));
	}
}

static void reset_writes_them_again(void **state)
{
	struct machine *m = *state;
	u8 *area = ram(m, LAYOUT_RSDP, LAYOUT_SMBIOS_END - LAYOUT_RSDP), *copy = malloc(LAYOUT_SMBIOS_END - LAYOUT_RSDP);

	memcpy(copy, area, LAYOUT_SMBIOS_END - LAYOUT_RSDP);
	memset(area, 0, LAYOUT_SMBIOS_END - LAYOUT_RSDP);
	for (u32 i = 0; i < m->ndev; i++)
		m->dev[i]->cls->reset(m->dev[i]);
	assert_memory_equal(area, copy, LAYOUT_SMBIOS_END - LAYOUT_RSDP);
	free(copy);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(fadt),
		T(madt),
		T(processors),
		T(mcfg),
		T(dsdt_agrees_with_the_layout),
		T(smbios),
		T(bios_data_area),
		T(vectors_lead_to_code),
		T(reset_writes_them_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
