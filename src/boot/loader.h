/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the loaders share: reading files exactly, claiming RAM so that nothing lands on anything else, the memory map, entry states.
 *
 * Contract: a function that returns int returns 0 or a negative errno with the message in ld->err.
 * Threading: main thread.
 */
#pragma once

#include "boot/boot.h"

#define FIRMWARE_START 0x9fc00ull /* to 1 MiB: ACPI, SMBIOS; never loaded over */
#define FIRMWARE_END 0x100000ull

/* The advice where a file's headers say what cannot be. */
#define ANOTHER_KERNEL "give another kernel, or build or copy this one again"

struct boot_file {
	const char *path;
	int fd;
	u64 size;
};

struct claim {
	gpa_t gpa;
	u64 size;
	const char *what;
};

enum { MEM_RAM = 1, MEM_RESERVED = 2 }; /* E820 types, which PVH and multiboot share */

struct mem_range {
	gpa_t gpa;
	u64 size;
	u32 type;
};

#define MAX_CLAIMS 128
#define MAX_MEM_RANGES 32

struct loader {
	const struct boot_config *cfg;
	struct guest_memory *gm;
	struct x86_cpu *cpu;
	struct err *err;
	struct boot_file kernel;
	struct claim claim[MAX_CLAIMS];
	u32 nclaims;
	struct mem_range mem[MAX_MEM_RANGES]; /* sorted */
	u32 nmem;
};

/* file.c: regular files only; a read that the file is too short for is an error naming `what`. */
int file_open(struct boot_file *f, const char *path, const char *role, struct err *e) must_check;
void file_close(struct boot_file *f);
int file_read(const struct boot_file *f, u64 off, void *buf, u64 len, const char *what, struct err *e) must_check;
int file_to_ram(const struct boot_file *f, u64 off, u64 len, struct guest_memory *gm, gpa_t gpa, const char *what,
		struct err *e) must_check;

/* layout.c */
void layout_init(struct loader *ld);
/* Take [gpa, gpa+size) for `what` (static text): refused when it leaves RAM or touches what is taken. */
int layout_claim(struct loader *ld, gpa_t gpa, u64 size, const char *what) must_check;
/* Is [gpa, gpa+size) RAM that nobody took, the claim that begins at `own` left out? */
bool layout_is_free(const struct loader *ld, gpa_t gpa, u64 size, gpa_t own);
/* The highest free place that ends at or below `limit` (exclusive), at 1 MiB or above, page-aligned. */
int layout_place_high(struct loader *ld, u64 size, u64 limit, const char *what, gpa_t *out) must_check;
/* The lowest free place below the firmware area, for what the kernel reads at its start. */
int layout_place_low(struct loader *ld, u64 size, u64 align, const char *what, gpa_t *out) must_check;
/* As layout_place_low, and copies `data` there. */
int layout_put_low(struct loader *ld, const void *data, u64 size, u64 align, const char *what, gpa_t *out) must_check;
u64 layout_low_ram_end(const struct loader *ld); /* end of RAM below 4 GiB */
int layout_put_cmdline(struct loader *ld, const char *text, gpa_t *out) must_check;
/* Load the file as a module or initrd below `limit`. */
int layout_load_file(struct loader *ld, const char *path, u64 limit, const char *what, gpa_t *gpa, u64 *size) must_check;

/* entry.c: flat segments, interrupts off. The 64-bit state has the first 4 GiB identity-mapped. */
int entry_protected(struct loader *ld, gpa_t rip) must_check;
int entry_long(struct loader *ld, gpa_t rip) must_check;

/* elf.c */
struct elf_image {
	bool is64;
	u64 entry;
	u64 phoff;
	u32 phnum;
};
bool elf_recognise(const u8 *head, u64 len);
int elf_open(struct loader *ld, struct elf_image *img) must_check;
/* Every PT_LOAD to its physical address, zeroed up to p_memsz. */
int elf_load(struct loader *ld, const struct elf_image *img) must_check;
/* The physical address of the entry point, as the segments map it. */
int elf_entry_paddr(struct loader *ld, const struct elf_image *img, u64 *out) must_check;
/* The PVH entry note. *found false when there is none. */
int elf_pvh_entry(struct loader *ld, const struct elf_image *img, bool *found, u64 *entry) must_check;

/* unpack.c: a packed file within another. Failures have no message: there is another way to boot. */
struct packed {
	const struct boot_file *file;
	const struct unpack_format *format;
	u64 off, len;
	u64 size; /* unpacked, as the file says */
};
bool unpack_open(struct packed *p, const struct boot_file *file, u64 off, u64 len) must_check;
/* The first `len` bytes. With p->size they must be all that there is. */
bool unpack(const struct packed *p, u8 *out, u64 len) must_check;

/* relocate.c */
struct relocation {
	u8 *image;
	u64 size;
	u64 linked; /* virtual address of the image's start that it was linked for */
	u64 delta;  /* what is added to that */
};
/* False when the table is not exactly as Linux has it; part of it may have been applied then. */
bool relocate(const struct relocation *r, const u8 *table, u64 table_size) must_check;
/* A word that ends with '=' is found with any value. */
bool kaslr_has_word(const char *cmdline, const char *word);
/* From 0 to count-1. False when count is 0 or the host has no random numbers. */
bool kaslr_random(u64 count, u64 *out) must_check;

/* payload.c: the kernel in a bzImage, unpacked and relocated. */
struct payload {
	u64 off, len; /* in the kernel file */
	u64 linked;   /* physical address that it was linked for */
	u64 align;    /* a power of two */
	u64 run_size;
	gpa_t claimed; /* the claim for the bzImage, over which it may lie */
	bool relocatable;
};
struct payload_result {
	gpa_t gpa, entry;
	bool kaslr; /* the kernel must be told */
};
/* False when it cannot be done here: then no claim has changed, and free RAM may hold anything. */
bool payload_load(struct loader *ld, const struct payload *pl, struct payload_result *out) must_check;

/* The kinds. recognise() looks at the first bytes of the file only. */
#define BOOT_HEAD 8192
bool bzimage_recognise(const u8 *head, u64 len);
int bzimage_load(struct loader *ld) must_check;
int pvh_load(struct loader *ld, const struct elf_image *img, u64 entry) must_check;
bool multiboot_recognise(const u8 *head, u64 len, u64 *off);
int multiboot_load(struct loader *ld, const u8 *head, u64 len, u64 off) must_check;
