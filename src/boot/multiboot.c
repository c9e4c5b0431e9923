/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiboot 1: ELF images and images that say where they load (the "a.out kludge"), with modules, memory map and command line.
 * Source: Multiboot Specification 0.6.96.
 *
 * Threading: main thread.
 */
#include "boot/loader.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MB_MAGIC 0x1badb002u
#define MB_ENTRY_MAGIC 0x2badb002u
#define MB_WANTS_VIDEO (1u << 2)
#define MB_HAS_ADDRESSES (1u << 16)
#define MB_UNKNOWN_MANDATORY 0xfff8u

#define MBI_MEMORY (1u << 0)
#define MBI_CMDLINE (1u << 2)
#define MBI_MODULES (1u << 3)
#define MBI_MEMORY_MAP (1u << 6)
#define MBI_LOADER_NAME (1u << 9)

#define MODULES_MAX 32

struct mb_header {
	u32 magic, flags, checksum;
	u32 header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

struct mb_info {
	u32 flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
	u32 syms[4];
	u32 mmap_length, mmap_addr, drives_length, drives_addr, config_table, boot_loader_name, apm_table;
	u32 vbe[4];
};

struct mb_module {
	u32 start, end, string, reserved;
};

struct mb_mmap {
	u32 size; /* of what follows */
	u64 base, len;
	u32 type;
} __attribute__((packed));

bool multiboot_recognise(const u8 *head, u64 len, u64 *off)
{
	u32 word[3];

	for (u64 at = 0; at + sizeof(word) <= len; at += 4) {
		memcpy(word, head + at, sizeof(word));
		if (word[0] == MB_MAGIC && word[0] + word[1] + word[2] == 0) {
			*off = at;
			return true;
		}
	}
	return false;
}

static int refuse(struct loader *ld, const char *field, u64 value, const char *why)
{
	return err_set(ld->err, EINVAL, "%s: multiboot header: %s is %#llx: %s; " ANOTHER_KERNEL, ld->kernel.path, field,
		       (unsigned long long)value, why);
}

static int check_flags(struct loader *ld, u32 flags)
{
	if (flags & MB_WANTS_VIDEO)
		return refuse(ld, "flags", flags, "the kernel asks for a video mode and this machine has no display");
	if (flags & MB_UNKNOWN_MANDATORY)
		return refuse(ld, "flags", flags, "the kernel asks for something that is not in the specification");
	return 0;
}

/* Sizes from the address fields: what lies in the file, and what is to be zeroed behind it. */
static int address_sizes(struct loader *ld, const struct mb_header *h, u64 from, u64 *in_file, u64 *in_ram)
{
	*in_file = h->load_end_addr ? (u64)h->load_end_addr - h->load_addr : ld->kernel.size - from;
	*in_ram = h->bss_end_addr ? (u64)h->bss_end_addr - h->load_addr : *in_file;
	if (h->load_end_addr && h->load_end_addr < h->load_addr)
		return refuse(ld, "load_end_addr", h->load_end_addr, "it lies before load_addr");
	if (*in_file == 0)
		return refuse(ld, "load_end_addr", h->load_end_addr, "there is nothing to load");
	if (h->bss_end_addr && (h->bss_end_addr < h->load_addr || *in_ram < *in_file))
		return refuse(ld, "bss_end_addr", h->bss_end_addr, "it lies before the end of what is loaded");
	return 0;
}

static int load_by_addresses(struct loader *ld, const struct mb_header *h, u64 off, gpa_t *entry)
{
	u64 skipped, from, in_file, in_ram;
	int r;

	if (h->header_addr < h->load_addr)
		return refuse(ld, "load_addr", h->load_addr, "it lies behind header_addr");
	skipped = h->header_addr - h->load_addr;
	if (skipped > off)
		return refuse(ld, "header_addr", h->header_addr, "the text would start before the file does");
	from = off - skipped;
	r = address_sizes(ld, h, from, &in_file, &in_ram);
	if (r == 0)
		r = layout_claim(ld, h->load_addr, in_ram, "kernel");
	if (r == 0)
		r = file_to_ram(&ld->kernel, from, in_file, ld->gm, h->load_addr, "kernel", ld->err);
	if (r < 0)
		return r;
	if (in_ram > in_file)
		memset(gm_ptr(ld->gm, h->load_addr, in_ram) + in_file, 0, in_ram - in_file);
	gm_written(ld->gm, h->load_addr, in_ram);
	if ((u64)h->entry_addr - h->load_addr >= in_ram)
		return refuse(ld, "entry_addr", h->entry_addr, "it lies outside the kernel");
	*entry = h->entry_addr;
	return 0;
}

static int load_elf(struct loader *ld, const u8 *head, u64 len, gpa_t *entry)
{
	struct elf_image img;
	int r;

	if (!elf_recognise(head, len))
		return refuse(ld, "flags", 0, "it gives no load addresses and the file is not ELF");
	r = elf_open(ld, &img);
	if (r == 0)
		r = elf_load(ld, &img);
	return r < 0 ? r : elf_entry_paddr(ld, &img, entry);
}

static int load_kernel(struct loader *ld, const u8 *head, u64 len, u64 off, gpa_t *entry)
{
	struct mb_header h = {0};
	u64 have = len - off < sizeof(h) ? len - off : sizeof(h);
	int r;

	memcpy(&h, head + off, have);
	r = check_flags(ld, h.flags);
	if (r < 0)
		return r;
	if (!(h.flags & MB_HAS_ADDRESSES))
		return load_elf(ld, head, len, entry);
	if (have < sizeof(h))
		return refuse(ld, "flags", h.flags, "the address fields lie outside the file");
	return load_by_addresses(ld, &h, off, entry);
}

static int put_string(struct loader *ld, const char *text, const char *what, u32 *out)
{
	gpa_t at;
	int r = layout_put_low(ld, text, strlen(text) + 1, 1, what, &at);

	*out = r == 0 ? (u32)at : 0;
	return r;
}

/* One "path args" */
static int put_module(struct loader *ld, char *text, struct mb_module *m)
{
	char *space = strchr(text, ' ');
	gpa_t gpa = 0;
	u64 size = 0;
	int r = put_string(ld, text, "module's arguments", &m->string);

	if (r < 0)
		return r;
	if (space)
		*space = '\0';
	r = layout_load_file(ld, text, GM_HOLE_START, "module", &gpa, &size);
	m->start = (u32)gpa;
	m->end = (u32)(gpa + size);
	return r;
}

/* Ends the text at the next single comma; ",," stands for a comma. Returns what follows, NULL at the end. */
static char *cut_module(char *text)
{
	char *to = text;

	for (; *text; text++) {
		if (*text == ',' && text[1] != ',')
			break;
		if (*text == ',')
			text++;
		*to++ = *text;
	}
	if (!*text) {
		*to = '\0';
		return NULL;
	}
	*to = '\0';
	return text + 1;
}

static int put_module_list(struct loader *ld, char *text, struct mb_info *mbi)
{
	struct mb_module mods[MODULES_MAX] = {0};
	gpa_t at = 0;
	u32 n = 0;
	int r = 0;

	while (text && r == 0) {
		char *next = cut_module(text);

		if (n == MODULES_MAX)
			return err_set(ld->err, E2BIG, "--initrd names more than %u modules", MODULES_MAX);
		r = put_module(ld, text, &mods[n++]);
		text = next;
	}
	if (r == 0)
		r = layout_put_low(ld, mods, n * sizeof(mods[0]), 4, "module list", &at);
	mbi->flags |= MBI_MODULES;
	mbi->mods_count = n;
	mbi->mods_addr = (u32)at;
	return r;
}

static int put_modules(struct loader *ld, struct mb_info *mbi)
{
	char *copy;
	int r;

	if (!ld->cfg->initrd)
		return 0;
	copy = strdup(ld->cfg->initrd);
	if (!copy)
		return err_sys(ld->err, ENOMEM, "--initrd");
	r = put_module_list(ld, copy, mbi);
	free(copy);
	return r;
}

static int put_memory_map(struct loader *ld, struct mb_info *mbi)
{
	struct mb_mmap map[MAX_MEM_RANGES];
	u64 low_end = layout_low_ram_end(ld);
	gpa_t at;
	int r;

	for (u32 i = 0; i < ld->nmem; i++)
		map[i] = (struct mb_mmap){sizeof(map[i]) - sizeof(map[i].size), ld->mem[i].gpa, ld->mem[i].size, ld->mem[i].type};
	r = layout_put_low(ld, map, ld->nmem * sizeof(map[0]), 4, "memory map", &at);
	if (r < 0)
		return r;
	mbi->flags |= MBI_MEMORY | MBI_MEMORY_MAP;
	mbi->mem_lower = (u32)(FIRMWARE_START / KiB);
	mbi->mem_upper = (u32)((low_end - FIRMWARE_END) / KiB);
	mbi->mmap_addr = (u32)at;
	mbi->mmap_length = (u32)(ld->nmem * sizeof(map[0]));
	return 0;
}

/* By custom the kernel's own name comes first. */
static int put_cmdline(struct loader *ld, struct mb_info *mbi)
{
	char *text = NULL;
	int r;

	if (asprintf(&text, "%s%s%s", ld->kernel.path, *ld->cfg->cmdline ? " " : "", ld->cfg->cmdline) < 0)
		return err_sys(ld->err, ENOMEM, "command line");
	r = put_string(ld, text, "command line", &mbi->cmdline);
	free(text);
	mbi->flags |= MBI_CMDLINE;
	return r;
}

static int put_info(struct loader *ld, gpa_t *at)
{
	struct mb_info mbi = {0};
	int r = put_cmdline(ld, &mbi);

	if (r == 0)
		r = put_modules(ld, &mbi);
	if (r == 0)
		r = put_memory_map(ld, &mbi);
	if (r == 0)
		r = put_string(ld, "guise", "boot loader name", &mbi.boot_loader_name);
	mbi.flags |= MBI_LOADER_NAME;
	return r < 0 ? r : layout_put_low(ld, &mbi, sizeof(mbi), 4, "multiboot information", at);
}

int multiboot_load(struct loader *ld, const u8 *head, u64 len, u64 off)
{
	gpa_t entry = 0, info = 0;
	int r = load_kernel(ld, head, len, off, &entry);

	if (r == 0)
		r = put_info(ld, &info);
	if (r == 0)
		r = entry_protected(ld, entry);
	if (r < 0)
		return r;
	ld->cpu->gpr[R_RAX] = MB_ENTRY_MAGIC;
	ld->cpu->gpr[R_RBX] = info;
	return 0;
}
