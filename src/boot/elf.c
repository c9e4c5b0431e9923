/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ELF files as kernels come: 32 and 64 bit, x86. Both classes are read into one form first, so that each check exists once.
 * Source: System V ABI, chapters 4 and 5; Xen's elfnote.h for the entry note.
 *
 * Threading: main thread.
 */
#include "boot/loader.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NOTES_MAX MiB
#define XEN_ELFNOTE_PHYS32_ENTRY 18u

struct segment {
	u32 type;
	u64 offset, vaddr, paddr, filesz, memsz;
};

bool elf_recognise(const u8 *head, u64 len)
{
	return len >= SELFMAG && memcmp(head, ELFMAG, SELFMAG) == 0;
}

static int refuse(struct loader *ld, const char *why, u64 value)
{
	return err_set(ld->err, EINVAL, "%s: ELF header: %s (%#llx); " ANOTHER_KERNEL, ld->kernel.path, why, (unsigned long long)value);
}

static int open_64(struct loader *ld, struct elf_image *img, u16 *machine, u16 *phentsize)
{
	Elf64_Ehdr h;
	int r = file_read(&ld->kernel, 0, &h, sizeof(h), "ELF header", ld->err);

	*img = (struct elf_image){true, h.e_entry, h.e_phoff, h.e_phnum};
	*machine = h.e_machine;
	*phentsize = h.e_phentsize;
	return r;
}

static int open_32(struct loader *ld, struct elf_image *img, u16 *machine, u16 *phentsize)
{
	Elf32_Ehdr h;
	int r = file_read(&ld->kernel, 0, &h, sizeof(h), "ELF header", ld->err);

	*img = (struct elf_image){false, h.e_entry, h.e_phoff, h.e_phnum};
	*machine = h.e_machine;
	*phentsize = h.e_phentsize;
	return r;
}

int elf_open(struct loader *ld, struct elf_image *img)
{
	u8 ident[EI_NIDENT];
	u16 machine = 0, phentsize = 0;
	int r = file_read(&ld->kernel, 0, ident, sizeof(ident), "ELF header", ld->err);

	if (r < 0)
		return r;
	if (ident[EI_CLASS] != ELFCLASS32 && ident[EI_CLASS] != ELFCLASS64)
		return refuse(ld, "unknown class", ident[EI_CLASS]);
	if (ident[EI_DATA] != ELFDATA2LSB)
		return refuse(ld, "not little-endian", ident[EI_DATA]);
	if (ident[EI_VERSION] != EV_CURRENT)
		return refuse(ld, "unknown version", ident[EI_VERSION]);
	r = ident[EI_CLASS] == ELFCLASS64 ? open_64(ld, img, &machine, &phentsize) : open_32(ld, img, &machine, &phentsize);
	if (r < 0)
		return r;
	if (machine != EM_X86_64 && machine != EM_386)
		return refuse(ld, "not an x86 program, e_machine", machine);
	if (img->phnum == 0 || img->phnum == PN_XNUM)
		return refuse(ld, "no usable program headers, e_phnum", img->phnum);
	if (phentsize != (img->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
		return refuse(ld, "odd size of program headers, e_phentsize", phentsize);
	return 0;
}

static int read_segment_64(struct loader *ld, u64 off, struct segment *s)
{
	Elf64_Phdr p;
	int r = file_read(&ld->kernel, off, &p, sizeof(p), "ELF program header", ld->err);

	if (r == 0)
		*s = (struct segment){p.p_type, p.p_offset, p.p_vaddr, p.p_paddr, p.p_filesz, p.p_memsz};
	return r;
}

static int read_segment_32(struct loader *ld, u64 off, struct segment *s)
{
	Elf32_Phdr p;
	int r = file_read(&ld->kernel, off, &p, sizeof(p), "ELF program header", ld->err);

	if (r == 0)
		*s = (struct segment){p.p_type, p.p_offset, p.p_vaddr, p.p_paddr, p.p_filesz, p.p_memsz};
	return r;
}

static int read_segment(struct loader *ld, const struct elf_image *img, u32 index, struct segment *s)
{
	u64 off, size = img->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);

	if (__builtin_add_overflow(img->phoff, index * size, &off))
		return refuse(ld, "program headers wrap around, e_phoff", img->phoff);
	return img->is64 ? read_segment_64(ld, off, s) : read_segment_32(ld, off, s);
}

static int load_segment(struct loader *ld, const struct segment *s)
{
	u8 *to;
	int r;

	if (s->filesz > s->memsz)
		return refuse(ld, "a segment's p_filesz is larger than its p_memsz", s->filesz);
	r = layout_claim(ld, s->paddr, s->memsz, "ELF segment");
	if (r == 0)
		r = file_to_ram(&ld->kernel, s->offset, s->filesz, ld->gm, s->paddr, "ELF segment", ld->err);
	if (r < 0)
		return r;
	to = gm_ptr(ld->gm, s->paddr, s->memsz);
	memset(to + s->filesz, 0, s->memsz - s->filesz);
	gm_written(ld->gm, s->paddr + s->filesz, s->memsz - s->filesz);
	return 0;
}

int elf_load(struct loader *ld, const struct elf_image *img)
{
	struct segment s;
	u32 loaded = 0;
	int r = 0;

	for (u32 i = 0; i < img->phnum && r == 0; i++) {
		r = read_segment(ld, img, i, &s);
		if (r || s.type != PT_LOAD || s.memsz == 0)
			continue;
		r = load_segment(ld, &s);
		loaded++;
	}
	if (r == 0 && loaded == 0)
		return refuse(ld, "nothing to load, e_phnum", img->phnum);
	return r;
}

int elf_entry_paddr(struct loader *ld, const struct elf_image *img, u64 *out)
{
	struct segment s;

	*out = img->entry;
	for (u32 i = 0; i < img->phnum; i++) {
		int r = read_segment(ld, img, i, &s);

		if (r)
			return r;
		if (s.type == PT_LOAD && img->entry - s.vaddr < s.memsz) {
			*out = img->entry - s.vaddr + s.paddr;
			break;
		}
	}
	if (*out >= GM_HOLE_START || !gm_ptr(ld->gm, *out, 1))
		return refuse(ld, "the entry point is outside guest memory, e_entry", img->entry);
	return 0;
}

/* The wanted note in a table of `len` bytes. Every note takes at least its header, so the walk ends. */
static bool find_note(const u8 *notes, u64 len, u64 *entry)
{
	const u64 head = sizeof(Elf32_Nhdr);

	for (u64 at = 0; len - at >= head;) {
		Elf32_Nhdr n;
		u64 name, desc, next;

		memcpy(&n, notes + at, head);
		name = at + head;
		desc = name + (((u64)n.n_namesz + 3) & ~3ull);
		next = desc + (((u64)n.n_descsz + 3) & ~3ull);
		if (desc + n.n_descsz > len)
			return false;
		if (n.n_type == XEN_ELFNOTE_PHYS32_ENTRY && n.n_namesz == 4 && memcmp(notes + name, "Xen", 4) == 0 &&
		    (n.n_descsz == 4 || n.n_descsz == 8)) {
			*entry = 0;
			memcpy(entry, notes + desc, n.n_descsz);
			return true;
		}
		if (next >= len)
			return false;
		at = next;
	}
	return false;
}

static int search_notes(struct loader *ld, const struct segment *s, bool *found, u64 *entry)
{
	u8 *notes;
	int r;

	if (s->filesz > NOTES_MAX)
		return refuse(ld, "a note segment is larger than 1 MiB", s->filesz);
	notes = malloc(s->filesz + 1);
	if (!notes)
		return err_sys(ld->err, ENOMEM, "%s: ELF notes", ld->kernel.path);
	r = file_read(&ld->kernel, s->offset, notes, s->filesz, "ELF notes", ld->err);
	if (r == 0)
		*found = find_note(notes, s->filesz, entry);
	free(notes);
	return r;
}

int elf_pvh_entry(struct loader *ld, const struct elf_image *img, bool *found, u64 *entry)
{
	struct segment s;
	int r = 0;

	*found = false;
	for (u32 i = 0; i < img->phnum && r == 0 && !*found; i++) {
		r = read_segment(ld, img, i, &s);
		if (r == 0 && s.type == PT_NOTE)
			r = search_notes(ld, &s, found, entry);
	}
	return r;
}
