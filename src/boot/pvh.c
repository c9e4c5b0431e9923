/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PVH: an ELF kernel entered in 32-bit protected mode without paging, ebx pointing at struct hvm_start_info.
 * Source: Xen docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h.
 *
 * Threading: main thread.
 */
#include "boot/loader.h"

#include <errno.h>

#define START_INFO_MAGIC 0x336ec578u
#define MODULE_LIMIT 0x80000000ull /* where kernels have their early mappings */

struct hvm_start_info {
	u32 magic, version, flags, nr_modules;
	u64 modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
	u32 memmap_entries, reserved;
};

struct hvm_modlist_entry {
	u64 paddr, size, cmdline_paddr, reserved;
};

struct hvm_memmap_entry {
	u64 addr, size;
	u32 type, reserved;
};

static int put_module(struct loader *ld, struct hvm_start_info *si)
{
	struct hvm_modlist_entry m = {0};
	int r;

	if (!ld->cfg->initrd)
		return 0;
	r = layout_load_file(ld, ld->cfg->initrd, MODULE_LIMIT, "initrd", &m.paddr, &m.size);
	if (r < 0)
		return r;
	si->nr_modules = 1;
	return layout_put_low(ld, &m, sizeof(m), 8, "module list", &si->modlist_paddr);
}

static int put_memory_map(struct loader *ld, struct hvm_start_info *si)
{
	struct hvm_memmap_entry map[MAX_MEM_RANGES];

	for (u32 i = 0; i < ld->nmem; i++)
		map[i] = (struct hvm_memmap_entry){ld->mem[i].gpa, ld->mem[i].size, ld->mem[i].type, 0};
	si->memmap_entries = ld->nmem;
	return layout_put_low(ld, map, ld->nmem * sizeof(map[0]), 8, "memory map", &si->memmap_paddr);
}

int pvh_load(struct loader *ld, const struct elf_image *img, u64 entry)
{
	struct hvm_start_info si = {.magic = START_INFO_MAGIC, .version = 1, .rsdp_paddr = ld->cfg->acpi_rsdp};
	gpa_t at;
	int r = elf_load(ld, img);

	if (r < 0)
		return r;
	if (entry >= GM_HOLE_START || !gm_ptr(ld->gm, entry, 1))
		return err_set(ld->err, EINVAL, "%s: the PVH note's entry point %#llx lies outside guest memory", ld->kernel.path,
			       (unsigned long long)entry);
	r = layout_put_cmdline(ld, ld->cfg->cmdline, &si.cmdline_paddr);
	if (r == 0)
		r = put_module(ld, &si);
	if (r == 0)
		r = put_memory_map(ld, &si);
	if (r == 0)
		r = layout_put_low(ld, &si, sizeof(si), 8, "start info", &at);
	if (r == 0)
		r = entry_protected(ld, entry);
	ld->cpu->gpr[R_RBX] = r == 0 ? at : 0;
	return r;
}
