/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loaders: put a kernel and what it needs into guest RAM and set the boot CPU's state. The kind of kernel is recognised from the file.
 *
 * Contract: input files are hostile; every offset and length in them is checked before use. Nothing is loaded over the tables that the
 * firmware area holds (first MiB above 0x9fc00 is reserved for ACPI, SMBIOS and boot structures below it).
 * Threading: main thread, before vCPUs run; again after each reset.
 */
#pragma once

#include "base/err.h"
#include "base/guest_memory.h"
#include "x86/state.h"

/* Addresses that the memory map shown to the guest marks as reserved, besides the firmware area: ECAM and the like. */
struct boot_range {
	gpa_t gpa;
	u64 size;
};

struct boot_config {
	const char *kernel;  /* path */
	const char *initrd;  /* path or NULL; multiboot modules: "path args,path args" */
	const char *cmdline; /* never NULL */
	gpa_t acpi_rsdp;     /* where the firmware put it, 0: none */
	const struct boot_range *reserved;
	u32 nreserved;
};

/* Reads files, fills RAM, sets *c (already reset). The kernel file may be bzImage (64-bit boot protocol), ELF64/32 with a PVH note, or
 * multiboot 1. Errors name the file and the field. */
int boot_load(const struct boot_config *cfg, struct guest_memory *gm, struct x86_cpu *c, struct err *e) must_check;
