/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linux bzImage: the 64-bit boot protocol, or the 32-bit one for kernels without a 64-bit entry. The kernel proper is entered at once where
 * payload.c can unpack it, else the image's decompressor.
 * Source: Linux Documentation/arch/x86/boot.rst and zero-page.rst. The header is judged once, on a private copy.
 *
 * Threading: main thread.
 */
#include "boot/loader.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#define HEADER_AT offsetof(struct boot_params, hdr)
#define HEADER_MAGIC 0x53726448u /* "HdrS" */
#define BOOT_FLAG 0xaa55u
#define OLDEST_VERSION 0x0206u /* cmdline_size; Linux 2.6.22 */
#define VERSION_PAYLOAD 0x0208u
#define VERSION_SETUP_DATA 0x0209u
#define VERSION_PREF_ADDRESS 0x020au
#define VERSION_XLOADFLAGS 0x020cu
#define VERSION_KERNEL_INFO 0x020fu
#define ENTRY_64 0x200u /* startup_64, from the start of the protected-mode part */
#define LOADER_UNDEFINED 0xffu
#define VIDEO_NORMAL 0xffffu
#define DEFAULT_LOAD 0x100000ull
#define SECTOR 512ull
#define PARAGRAPH 16ull /* the unit of syssize */

struct bzimage {
	struct setup_header h;
	u64 body_off; /* protected-mode part in the file */
	u64 body_size;
	gpa_t load;
	u64 run_size; /* what must be free from `load` on */
	gpa_t entry;
	bool long_mode;
};

bool bzimage_recognise(const u8 *head, u64 len)
{
	u16 flag;
	u32 magic;

	if (len < HEADER_AT + offsetof(struct setup_header, version))
		return false;
	memcpy(&flag, head + HEADER_AT + offsetof(struct setup_header, boot_flag), sizeof(flag));
	memcpy(&magic, head + HEADER_AT + offsetof(struct setup_header, header), sizeof(magic));
	return flag == BOOT_FLAG && magic == HEADER_MAGIC;
}

static int refuse(struct loader *ld, const char *field, u64 value, const char *why)
{
	return err_set(ld->err, EINVAL, "%s: bzImage header: %s is %#llx: %s; " ANOTHER_KERNEL, ld->kernel.path, field,
		       (unsigned long long)value, why);
}

/* The header ends where its jump instruction leads; fields beyond are not there and read as zero. */
static int read_header(struct loader *ld, struct bzimage *b)
{
	u8 raw[sizeof(struct setup_header)];
	u8 jump_distance;
	u64 len;
	int r = file_read(&ld->kernel, 0x201, &jump_distance, 1, "boot header", ld->err);

	if (r < 0)
		return r;
	len = 0x202 + (u64)jump_distance - HEADER_AT;
	if (len < offsetof(struct setup_header, hardware_subarch))
		return refuse(ld, "jump", jump_distance, "the header is too short for protocol 2.06");
	if (len > sizeof(raw))
		len = sizeof(raw);
	r = file_read(&ld->kernel, HEADER_AT, raw, len, "boot header", ld->err);
	if (r < 0)
		return r;
	memset(raw + len, 0, sizeof(raw) - len);
	memcpy(&b->h, raw, sizeof(raw));
	return 0;
}

/* Linux, which has a payload, pads its file to whole paragraphs. memtest86+, which has none, counts a last one that is not. */
static bool may_end_early(const struct setup_header *h)
{
	return h->version < VERSION_PAYLOAD || h->payload_length == 0;
}

static int check_sizes(struct loader *ld, struct bzimage *b)
{
	u64 sectors = b->h.setup_sects ? b->h.setup_sects : 4;
	u64 there;

	b->body_off = (sectors + 1) * SECTOR;
	b->body_size = (u64)b->h.syssize * PARAGRAPH;
	if (b->body_off >= ld->kernel.size)
		return refuse(ld, "setup_sects", b->h.setup_sects,
			      "the setup code is larger than the file; the file is cut short or damaged");
	there = ld->kernel.size - b->body_off;
	if (may_end_early(&b->h) && b->body_size > there && b->body_size - there < PARAGRAPH)
		b->body_size = there;
	if (b->body_size > there)
		return refuse(ld, "syssize", b->h.syssize, "the kernel is larger than the file; the file is cut short or damaged");
	if (b->body_size <= ENTRY_64)
		return refuse(ld, "syssize", b->h.syssize, "there is no kernel behind the header");
	return 0;
}

static int check_fields(struct loader *ld, const struct bzimage *b)
{
	const struct setup_header *h = &b->h;
	u64 end;

	if (h->version < OLDEST_VERSION)
		return refuse(ld, "version", h->version, "boot protocols before 2.06 (Linux 2.6.22) are not supported");
	if (!(h->loadflags & LOADED_HIGH))
		return refuse(ld, "loadflags", h->loadflags, "a zImage, which loads below 1 MiB, is not supported");
	if (strlen(ld->cfg->cmdline) > h->cmdline_size)
		return err_set(ld->err, EINVAL, "%s: the command line has %zu characters, this kernel takes at most %u; shorten --append",
			       ld->kernel.path, strlen(ld->cfg->cmdline), h->cmdline_size);
	if (h->version >= VERSION_PAYLOAD &&
	    (__builtin_add_overflow((u64)h->payload_offset, (u64)h->payload_length, &end) || end > b->body_size))
		return refuse(ld, "payload_offset", h->payload_offset, "the payload lies outside the kernel");
	if (h->version >= VERSION_SETUP_DATA && h->setup_data != 0)
		return refuse(ld, "setup_data", h->setup_data, "only a boot loader may set it");
	if (h->version >= VERSION_KERNEL_INFO && h->kernel_info_offset >= b->body_size)
		return refuse(ld, "kernel_info_offset", h->kernel_info_offset, "it lies outside the kernel");
	return 0;
}

/* A relocatable kernel goes straight to its preferred address; one that is not moves itself there from 1 MiB. */
static int choose_place(struct loader *ld, struct bzimage *b)
{
	const struct setup_header *h = &b->h;
	u64 align = h->kernel_alignment;

	b->load = DEFAULT_LOAD;
	b->run_size = b->body_size;
	if (h->version < VERSION_PREF_ADDRESS)
		return layout_claim(ld, b->load, b->run_size, "kernel");
	if (h->relocatable_kernel && (align == 0 || (align & (align - 1)) != 0))
		return refuse(ld, "kernel_alignment", align, "not a power of two");
	if (h->pref_address < DEFAULT_LOAD || h->pref_address >= GM_HOLE_END)
		return refuse(ld, "pref_address", h->pref_address, "outside the memory from 1 MiB to 4 GiB");
	if (h->relocatable_kernel && h->pref_address & (align - 1))
		return refuse(ld, "pref_address", h->pref_address, "not aligned as kernel_alignment says");
	if (h->init_size > b->run_size)
		b->run_size = h->init_size;
	if (h->relocatable_kernel)
		b->load = h->pref_address;
	else
		b->run_size += h->pref_address - b->load;
	return layout_claim(ld, b->load, b->run_size, "kernel with its working space");
}

static int load_initrd(struct loader *ld, struct boot_params *bp)
{
	gpa_t gpa;
	u64 size;
	int r;

	if (!ld->cfg->initrd)
		return 0;
	r = layout_load_file(ld, ld->cfg->initrd, (u64)bp->hdr.initrd_addr_max + 1, "initrd", &gpa, &size);
	if (r < 0)
		return r;
	bp->hdr.ramdisk_image = (u32)gpa;
	bp->hdr.ramdisk_size = (u32)size;
	return 0;
}

static void fill_e820(const struct loader *ld, struct boot_params *bp)
{
	for (u32 i = 0; i < ld->nmem; i++)
		bp->e820_table[i] = (struct boot_e820_entry){ld->mem[i].gpa, ld->mem[i].size, ld->mem[i].type};
	bp->e820_entries = (u8)ld->nmem;
}

static int fill_boot_params(struct loader *ld, const struct bzimage *b, struct boot_params *bp)
{
	gpa_t cmdline;
	int r = layout_put_cmdline(ld, ld->cfg->cmdline, &cmdline);

	if (r < 0)
		return r;
	*bp = (struct boot_params){.hdr = b->h, .acpi_rsdp_addr = ld->cfg->acpi_rsdp};
	bp->hdr.type_of_loader = LOADER_UNDEFINED;
	bp->hdr.vid_mode = VIDEO_NORMAL;
	bp->hdr.code32_start = (u32)b->load;
	bp->hdr.cmd_line_ptr = (u32)cmdline;
	bp->hdr.ramdisk_image = bp->hdr.ramdisk_size = 0;
	bp->hdr.loadflags &= (u8)~KASLR_FLAG;
	fill_e820(ld, bp);
	return load_initrd(ld, bp);
}

static bool load_unpacked(struct loader *ld, struct bzimage *b, struct boot_params *bp)
{
	const struct setup_header *h = &b->h;
	const struct payload pl = {.off = b->body_off + h->payload_offset,
				   .len = h->payload_length,
				   .linked = h->pref_address,
				   .align = h->kernel_alignment,
				   .run_size = b->run_size,
				   .claimed = b->load,
				   .relocatable = h->relocatable_kernel};
	struct payload_result kernel;

	if (!b->long_mode || !payload_load(ld, &pl, &kernel))
		return false;
	b->entry = kernel.entry;
	if (kernel.kaslr)
		bp->hdr.loadflags |= KASLR_FLAG;
	return true;
}

/* After everything else, so that a random place is free of it. */
static int load_kernel(struct loader *ld, struct bzimage *b, struct boot_params *bp)
{
	b->long_mode = b->h.version >= VERSION_XLOADFLAGS && (b->h.xloadflags & XLF_KERNEL_64);
	if (load_unpacked(ld, b, bp))
		return 0;
	b->entry = b->long_mode ? b->load + ENTRY_64 : b->load;
	return file_to_ram(&ld->kernel, b->body_off, b->body_size, ld->gm, b->load, "kernel", ld->err);
}

static int enter(struct loader *ld, const struct bzimage *b, gpa_t boot_params)
{
	int r = b->long_mode ? entry_long(ld, b->entry) : entry_protected(ld, b->entry);

	ld->cpu->gpr[R_RSI] = boot_params;
	return r;
}

int bzimage_load(struct loader *ld)
{
	struct bzimage b = {0};
	struct boot_params bp;
	gpa_t at;
	int r = read_header(ld, &b);

	if (r == 0)
		r = check_sizes(ld, &b);
	if (r == 0)
		r = check_fields(ld, &b);
	if (r == 0)
		r = choose_place(ld, &b);
	if (r == 0)
		r = fill_boot_params(ld, &b, &bp);
	if (r == 0)
		r = load_kernel(ld, &b, &bp);
	if (r == 0)
		r = layout_put_low(ld, &bp, sizeof(bp), PAGE_SIZE, "zero page", &at);
	return r ? r : enter(ld, &b, at);
}
