/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where everything of the machine lives: guest-physical addresses, ports and interrupt numbers. The one place that knows them; the DSDT
 * (dsdt.asl) repeats those that ACPI announces, and a unit test compares the two.
 *
 * Contract: constants only. The firmware area [LAYOUT_FW_BASE, LAYOUT_FW_END) is RAM that the memory map announces as reserved.
 */
#pragma once

#include "base/types.h"

/* Chips in the hole below 4 GiB */
#define LAYOUT_IOAPIC_BASE 0xfec00000ull
#define LAYOUT_IOAPIC_SIZE 0x1000ull
#define LAYOUT_LAPIC_BASE 0xfee00000ull
#define LAYOUT_LAPIC_SIZE 0x1000ull

/* PCI windows; memory and ECAM are in pci.h */
#define LAYOUT_PCI_IO_BASE 0xc000u /* I/O BARs */
#define LAYOUT_PCI_IO_END 0x10000u

/* Firmware area: extended BIOS data area and below 1 MiB. SMBIOS must start in the last 64 KiB, where operating systems scan. */
#define LAYOUT_FW_BASE 0x9fc00ull
#define LAYOUT_FW_END 0x100000ull
#define LAYOUT_RSDP 0xe0000ull
#define LAYOUT_ACPI_BASE 0xe0040ull /* tables, 64-byte aligned */
#define LAYOUT_ACPI_END 0xf0000ull
#define LAYOUT_SMBIOS_ENTRY 0xf0000ull
#define LAYOUT_SMBIOS_BASE 0xf0020ull
#define LAYOUT_SMBIOS_END 0xf8000ull
#define LAYOUT_BIOS_CODE 0xff000ull

/* Ports */
#define LAYOUT_PIT_PORT 0x40
#define LAYOUT_PORT61 0x61
#define LAYOUT_I8042_DATA 0x60
#define LAYOUT_I8042_CMD 0x64
#define LAYOUT_RTC_PORT 0x70
#define LAYOUT_PORT92 0x92
#define LAYOUT_UART_PORT 0x3f8
#define LAYOUT_PM1_EVT 0x600
#define LAYOUT_PM1_CNT 0x604
#define LAYOUT_PM_TIMER 0x608
#define LAYOUT_GPE0 0x620
#define LAYOUT_PCI_CFG_PORT 0xcf8
#define LAYOUT_RESET_PORT 0xcf9

/* Interrupt lines (GSIs). The PIT's IRQ 0 arrives on 2, as MADT's override says; there is no 8259. */
#define LAYOUT_GSI_PIT 2
#define LAYOUT_GSI_UART 4
#define LAYOUT_GSI_RTC 8
#define LAYOUT_GSI_SCI 9
#define LAYOUT_GSI_PCI 16 /* to 23 */

/* ACPI S5: the sleep type that \_S5 announces */
#define LAYOUT_SLP_TYP_S5 5
