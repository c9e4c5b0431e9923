/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who gets which part of guest RAM at boot, and the memory map the guest is told.
 *
 * Threading: main thread.
 */
#include "boot/loader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOW_START 0x1000ull /* below: real-mode vectors and BIOS data */

static void add_mem(struct loader *ld, gpa_t start, gpa_t end, u32 type)
{
	if (start < end && ld->nmem < MAX_MEM_RANGES)
		ld->mem[ld->nmem++] = (struct mem_range){start, end - start, type};
}

static int by_address(const void *a, const void *b)
{
	const struct mem_range *x = a, *y = b;

	return x->gpa < y->gpa ? -1 : x->gpa > y->gpa;
}

static void build_memory_map(struct loader *ld)
{
	const struct gm_slot *s = ld->gm->slots;

	for (u32 i = 0; i < ld->gm->nslots; i++) {
		gpa_t start = s[i].gpa, end = start + s[i].size;

		if (start != 0) {
			add_mem(ld, start, end, s[i].readonly ? MEM_RESERVED : MEM_RAM);
			continue;
		}
		add_mem(ld, 0, FIRMWARE_START, MEM_RAM);
		add_mem(ld, FIRMWARE_START, FIRMWARE_END, MEM_RESERVED);
		add_mem(ld, FIRMWARE_END, end, MEM_RAM);
	}
	for (u32 i = 0; i < ld->cfg->nreserved; i++)
		add_mem(ld, ld->cfg->reserved[i].gpa, ld->cfg->reserved[i].gpa + ld->cfg->reserved[i].size, MEM_RESERVED);
	qsort(ld->mem, ld->nmem, sizeof(ld->mem[0]), by_address);
}

static void take(struct loader *ld, gpa_t gpa, u64 size, const char *what)
{
	ld->claim[ld->nclaims++] = (struct claim){gpa, size, what};
}

void layout_init(struct loader *ld)
{
	ld->nclaims = ld->nmem = 0;
	build_memory_map(ld);
	take(ld, 0, 0x500, "real-mode vectors and BIOS data area");
	take(ld, FIRMWARE_START, FIRMWARE_END - FIRMWARE_START, "firmware area");
}

static bool overlap(const struct claim *c, gpa_t gpa, u64 size)
{
	return gpa < c->gpa + c->size && c->gpa < gpa + size;
}

static const struct claim *overlapping(const struct loader *ld, gpa_t gpa, u64 size)
{
	for (u32 i = 0; i < ld->nclaims; i++)
		if (overlap(&ld->claim[i], gpa, size))
			return &ld->claim[i];
	return NULL;
}

bool layout_is_free(const struct loader *ld, gpa_t gpa, u64 size, gpa_t own)
{
	for (u32 i = 0; i < ld->nclaims; i++)
		if (ld->claim[i].gpa != own && overlap(&ld->claim[i], gpa, size))
			return false;
	return gm_ptr(ld->gm, gpa, size);
}

static int no_claim_left(struct loader *ld)
{
	return err_set(ld->err, E2BIG, "%s has too many parts: at most %u segments and modules can be loaded", ld->kernel.path, MAX_CLAIMS);
}

int layout_claim(struct loader *ld, gpa_t gpa, u64 size, const char *what)
{
	const struct claim *other;

	if (size == 0)
		return 0;
	if (!gm_ptr(ld->gm, gpa, size))
		return err_set(ld->err, ENOMEM,
			       "%s: the %s needs %llu KiB at %#llx, outside guest memory of %llu MiB; give the guest more with --memory",
			       ld->kernel.path, what, (unsigned long long)((size + 1023) / 1024), (unsigned long long)gpa,
			       (unsigned long long)(ld->gm->size / MiB));
	other = overlapping(ld, gpa, size);
	if (other)
		return err_set(ld->err, EINVAL, "%s: the %s at %#llx (%llu bytes) would lie over the %s at %#llx; " ANOTHER_KERNEL,
			       ld->kernel.path, what, (unsigned long long)gpa, (unsigned long long)size, other->what,
			       (unsigned long long)other->gpa);
	if (ld->nclaims == MAX_CLAIMS)
		return no_claim_left(ld);
	take(ld, gpa, size, what);
	return 0;
}

u64 layout_low_ram_end(const struct loader *ld)
{
	return ld->gm->slots[0].size;
}

/* More memory helps only where it is memory that ends the search, not the kernel's limit or the hole for devices. */
static int no_room(struct loader *ld, u64 size, u64 limit, const char *what)
{
	bool by_limit = limit < layout_low_ram_end(ld) || layout_low_ram_end(ld) == GM_HOLE_START;

	return err_set(ld->err, ENOMEM, "no room for the %s of %llu KiB below %#llx in guest memory of %llu MiB; %s", what,
		       (unsigned long long)((size + 1023) / 1024), (unsigned long long)limit, (unsigned long long)(ld->gm->size / MiB),
		       by_limit ? "make it smaller, or give a kernel that takes it higher" : "give the guest more with --memory");
}

int layout_place_high(struct loader *ld, u64 size, u64 limit, const char *what, gpa_t *out)
{
	u64 top = limit < layout_low_ram_end(ld) ? limit : layout_low_ram_end(ld);
	const struct claim *in_the_way;
	gpa_t at;

	if (ld->nclaims == MAX_CLAIMS)
		return no_claim_left(ld);
	/* Each step ends below one more claim, so the search is finite. */
	for (;; top = in_the_way->gpa) {
		if (size > top || PAGE_BASE(top - size) < FIRMWARE_END)
			return no_room(ld, size, limit, what);
		at = PAGE_BASE(top - size);
		in_the_way = overlapping(ld, at, size);
		if (!in_the_way)
			break;
	}
	take(ld, at, size, what);
	*out = at;
	return 0;
}

int layout_place_low(struct loader *ld, u64 size, u64 align, const char *what, gpa_t *out)
{
	const struct claim *in_the_way;
	gpa_t at = LOW_START;

	if (ld->nclaims == MAX_CLAIMS)
		return no_claim_left(ld);
	for (;; at = in_the_way->gpa + in_the_way->size) {
		at = (at + align - 1) & ~(align - 1);
		if (at >= FIRMWARE_START || size > FIRMWARE_START - at)
			return err_set(ld->err, ENOMEM, "%s: no room for the %s of %llu bytes below %#llx", ld->kernel.path, what,
				       (unsigned long long)size, FIRMWARE_START);
		in_the_way = overlapping(ld, at, size);
		if (!in_the_way)
			break;
	}
	take(ld, at, size, what);
	*out = at;
	return 0;
}

int layout_put_low(struct loader *ld, const void *data, u64 size, u64 align, const char *what, gpa_t *out)
{
	int r = layout_place_low(ld, size, align, what, out);

	if (r < 0)
		return r;
	if (!gm_write(ld->gm, *out, data, size))
		return err_set(ld->err, ENOMEM, "%s: the %s at %#llx lies outside guest memory", ld->kernel.path, what,
			       (unsigned long long)*out);
	return 0;
}

int layout_put_cmdline(struct loader *ld, const char *text, gpa_t *out)
{
	return layout_put_low(ld, text, strlen(text) + 1, 16, "command line", out);
}

int layout_load_file(struct loader *ld, const char *path, u64 limit, const char *what, gpa_t *gpa, u64 *size)
{
	struct boot_file f;
	int r = file_open(&f, path, what, ld->err);

	if (r < 0)
		return r;
	*size = f.size;
	r = layout_place_high(ld, f.size, limit, what, gpa);
	if (r < 0)
		err_prefix(ld->err, "%s", path);
	else
		r = file_to_ram(&f, 0, f.size, ld->gm, *gpa, what, ld->err);
	file_close(&f);
	return r;
}
