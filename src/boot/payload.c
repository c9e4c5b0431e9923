/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the decompressor in a bzImage does, done natively: unpack the kernel, choose its place, lay its segments out, relocate it.
 * It is unpacked to where its first segment, the largest, then lies right; others move down a little. Whatever is not as Linux builds it is
 * left to the guest's own decompressor, so nothing here is an error: at worst free RAM holds something else than before.
 * Source: Linux arch/x86/boot/compressed/misc.c and kaslr.c, Documentation/arch/x86/boot.rst.
 *
 * Threading: main thread.
 */
#include "boot/loader.h"

#include <elf.h>
#include <string.h>

#define HEAD_SIZE 4096u /* ELF header and program headers */
#define MAX_SEGMENTS 8u
#define KERNEL_MAP 0xffffffff80000000ull
#define KERNEL_IMAGE_SIZE GiB  /* of virtual addresses for a kernel that is moved */
#define KERNEL_ALIGN (2 * MiB) /* and in units of this it is mapped */

/* `from` counts from the unpacked file's start, `to` from the kernel's. */
struct segment {
	u64 from, to, size, room;
};

struct plan {
	u64 lead;  /* what the unpacked file has in front of the first segment */
	u64 entry; /* from the kernel's start */
	u64 table; /* relocations, from the file's start to its end */
	u64 size;  /* of the file */
	u32 n;
	struct segment segment[MAX_SEGMENTS];
};

static u64 image_filled(const struct plan *p)
{
	return p->segment[p->n - 1].to + p->segment[p->n - 1].size;
}

static u64 image_room(const struct plan *p)
{
	return p->segment[p->n - 1].to + p->segment[p->n - 1].room;
}

static bool header_fits(const Elf64_Ehdr *h)
{
	return memcmp(h->e_ident, ELFMAG, SELFMAG) == 0 && h->e_ident[EI_CLASS] == ELFCLASS64 && h->e_ident[EI_DATA] == ELFDATA2LSB &&
	       h->e_machine == EM_X86_64 && h->e_phentsize == sizeof(Elf64_Phdr) && h->e_phoff <= HEAD_SIZE &&
	       h->e_phnum <= (HEAD_SIZE - h->e_phoff) / sizeof(Elf64_Phdr) && h->e_shentsize == sizeof(Elf64_Shdr);
}

/* Section headers end the file that the linker and objcopy made; what follows was appended. */
static bool find_table(struct plan *p, const Elf64_Ehdr *h)
{
	return !__builtin_add_overflow(h->e_shoff, (u64)h->e_shnum * sizeof(Elf64_Shdr), &p->table) && p->table <= p->size;
}

/* The first begins the kernel. The others follow in the file as in memory and never move up: so moving one after the other, beginning with the
 * first, never overwrites what has yet to move, nor the relocations. */
static bool add_segment(struct plan *p, const Elf64_Phdr *ph, u64 linked)
{
	struct segment s = {ph->p_offset, ph->p_paddr - linked, ph->p_filesz, ph->p_memsz};
	const struct segment *before = p->n ? &p->segment[p->n - 1] : NULL;

	if (p->n == MAX_SEGMENTS || s.size > s.room || s.room > KERNEL_IMAGE_SIZE || s.to > KERNEL_IMAGE_SIZE)
		return false;
	if (s.from > p->table || s.size > p->table - s.from)
		return false;
	if (!before && (s.to != 0 || ph->p_vaddr != KERNEL_MAP + linked))
		return false;
	if (!before)
		p->lead = s.from;
	if (before && (s.from < before->from + before->size || s.to < before->to + before->room || s.to > s.from - p->lead))
		return false;
	p->segment[p->n++] = s;
	return true;
}

static bool make_plan(struct plan *p, const u8 *head, u64 size, u64 linked)
{
	Elf64_Ehdr h;
	Elf64_Phdr ph;

	*p = (struct plan){.size = size};
	memcpy(&h, head, sizeof(h));
	if (!header_fits(&h) || !find_table(p, &h))
		return false;
	for (u32 i = 0; i < h.e_phnum; i++) {
		memcpy(&ph, head + h.e_phoff + i * sizeof(ph), sizeof(ph));
		if (ph.p_type == PT_LOAD && !add_segment(p, &ph, linked))
			return false;
	}
	p->entry = h.e_entry - linked;
	return p->n > 0 && p->entry < image_filled(p);
}

/* What the kernel says it needs, and what unpacking takes. */
static u64 room_needed(const struct payload *pl, const struct plan *p)
{
	u64 room = pl->run_size;

	if (room < image_room(p))
		room = image_room(p);
	if (room < p->size - p->lead)
		room = p->size - p->lead;
	return (room + KERNEL_ALIGN - 1) & ~(KERNEL_ALIGN - 1);
}

static bool fits_at(const struct loader *ld, const struct payload *pl, const struct plan *p, gpa_t gpa)
{
	return gpa >= p->lead && layout_is_free(ld, gpa - p->lead, p->lead + room_needed(pl, p), pl->claimed);
}

/* One of the places that have room, each as likely. */
static bool choose_physical(const struct loader *ld, const struct payload *pl, const struct plan *p, gpa_t *out)
{
	u64 places = 0, n;

	for (gpa_t at = pl->linked; at < layout_low_ram_end(ld); at += pl->align)
		places += fits_at(ld, pl, p, at);
	if (!kaslr_random(places, &n))
		return false;
	for (*out = pl->linked;; *out += pl->align)
		if (fits_at(ld, pl, p, *out) && n-- == 0)
			return true;
}

static bool choose_virtual(const struct payload *pl, const struct plan *p, u64 *delta)
{
	u64 end = pl->linked + room_needed(pl, p), n;

	if (end > KERNEL_IMAGE_SIZE || !kaslr_random((KERNEL_IMAGE_SIZE - end) / pl->align + 1, &n))
		return false;
	*delta = n * pl->align;
	return true;
}

/* With these the kernel's own choice of a place depends on their values; it keeps the one it was linked for. */
static bool place_is_restricted(const char *cmdline)
{
	return kaslr_has_word(cmdline, "mem=") || kaslr_has_word(cmdline, "memmap=") || kaslr_has_word(cmdline, "hugepagesz=");
}

static bool choose(const struct loader *ld, const struct payload *pl, const struct plan *p, struct payload_result *out, u64 *delta)
{
	const char *cmdline = ld->cfg->cmdline;

	*out = (struct payload_result){.gpa = pl->linked};
	*delta = 0;
	out->kaslr = pl->relocatable && p->table < p->size && !kaslr_has_word(cmdline, "nokaslr");
	if (out->kaslr && !choose_virtual(pl, p, delta))
		return false;
	if (out->kaslr && !place_is_restricted(cmdline))
		return choose_physical(ld, pl, p, &out->gpa);
	return fits_at(ld, pl, p, out->gpa);
}

static bool put_kernel(const struct packed *in, const struct plan *p, u8 *file, bool kaslr, u64 linked, u64 delta)
{
	u8 *image = file + p->lead;
	const struct relocation r = {image, image_filled(p), KERNEL_MAP + linked, delta};

	if (!unpack(in, file, p->size))
		return false;
	for (u32 i = 0; i < p->n; i++)
		memmove(image + p->segment[i].to, file + p->segment[i].from, p->segment[i].size);
	return !kaslr || relocate(&r, file + p->table, p->size - p->table);
}

static bool load(struct loader *ld, const struct payload *pl, const struct packed *in, const struct plan *p, struct payload_result *out)
{
	u64 delta;
	u8 *file;
	bool ok;

	if (!choose(ld, pl, p, out, &delta))
		return false;
	file = gm_ptr(ld->gm, out->gpa - p->lead, p->size);
	if (!file)
		return false;
	gm_expect(ld->gm, out->gpa - p->lead + p->size / 2, p->size / 2); /* until then the first half is there */
	ok = put_kernel(in, p, file, out->kaslr, pl->linked, delta);
	gm_written(ld->gm, out->gpa - p->lead, p->size);
	out->entry = out->gpa + p->entry;
	return ok;
}

bool payload_load(struct loader *ld, const struct payload *pl, struct payload_result *out)
{
	u8 head[HEAD_SIZE];
	struct packed in;
	struct plan plan;

	if (pl->align < KERNEL_ALIGN || pl->linked < KERNEL_ALIGN || pl->linked >= KERNEL_IMAGE_SIZE)
		return false;
	if (!unpack_open(&in, &ld->kernel, pl->off, pl->len) || in.size < HEAD_SIZE || !unpack(&in, head, HEAD_SIZE))
		return false;
	return make_plan(&plan, head, in.size, pl->linked) && load(ld, pl, &in, &plan, out);
}
