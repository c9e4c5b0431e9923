/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Layouts of the ACPI tables that acpi.c writes (ACPI 6.4 chapter 5). Little-endian, as host and guest are.
 */
#pragma once

#include "base/types.h"

#define PACKED __attribute__((packed))

struct acpi_rsdp {
	char signature[8];
	u8 checksum;
	char oem[6];
	u8 revision;
	u32 rsdt;
	u32 length;
	u64 xsdt;
	u8 ext_checksum;
	u8 reserved[3];
} PACKED;

struct acpi_header {
	char signature[4];
	u32 length;
	u8 revision, checksum;
	char oem[6], oem_table[8];
	u32 oem_revision;
	char creator[4];
	u32 creator_revision;
} PACKED;

/* Generic address structure */
struct acpi_gas {
	u8 space, bit_width, bit_offset, access_size;
	u64 address;
} PACKED;

struct acpi_fadt {
	struct acpi_header h;
	u32 facs, dsdt;
	u8 reserved0, profile;
	u16 sci;
	u32 smi_cmd;
	u8 acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	u32 pm1a_evt, pm1b_evt, pm1a_cnt, pm1b_cnt, pm2_cnt, pm_tmr, gpe0, gpe1;
	u8 pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_len, gpe1_len, gpe1_base, cst_cnt;
	u16 lvl2_lat, lvl3_lat, flush_size, flush_stride;
	u8 duty_offset, duty_width, day_alarm, month_alarm, century;
	u16 boot_arch;
	u8 reserved1;
	u32 flags;
	struct acpi_gas reset;
	u8 reset_value;
	u16 arm_boot_arch;
	u8 minor;
	u64 x_facs, x_dsdt;
	struct acpi_gas x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt, x_pm_tmr, x_gpe0, x_gpe1, sleep_control, sleep_status;
	u64 hypervisor;
} PACKED;

struct acpi_facs {
	char signature[4];
	u32 length, hardware, waking_vector, global_lock, flags;
	u64 x_waking_vector;
	u8 version, reserved[31];
} PACKED;

struct acpi_madt {
	struct acpi_header h;
	u32 lapic_address, flags;
} PACKED;

struct acpi_madt_lapic {
	u8 type, length, uid, id;
	u32 flags;
} PACKED;

struct acpi_madt_ioapic {
	u8 type, length, id, reserved;
	u32 address, gsi_base;
} PACKED;

struct acpi_madt_override {
	u8 type, length, bus, source;
	u32 gsi;
	u16 flags;
} PACKED;

struct acpi_madt_lapic_nmi {
	u8 type, length, uid;
	u16 flags;
	u8 lint;
} PACKED;

struct acpi_mcfg {
	struct acpi_header h;
	u64 reserved;
	struct {
		u64 base;
		u16 segment;
		u8 first_bus, last_bus;
		u32 reserved;
	} PACKED ecam;
} PACKED;

_Static_assert(sizeof(struct acpi_rsdp) == 36, "RSDP");
_Static_assert(sizeof(struct acpi_header) == 36, "header");
_Static_assert(sizeof(struct acpi_fadt) == 276, "FADT");
_Static_assert(sizeof(struct acpi_facs) == 64, "FACS");
_Static_assert(sizeof(struct acpi_madt) == 44, "MADT");
_Static_assert(sizeof(struct acpi_mcfg) == 60, "MCFG");
