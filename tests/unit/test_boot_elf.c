/* SPDX-License-Identifier: Apache-2.0 */
/* PVH: ELF kernels of both classes with an entry note, and ELF files that lie. */
#include "boot_files.h"

#include <elf.h>

#define CODE_OFF 0x1000
#define CODE_SIZE 0x1000
#define SIZE (CODE_OFF + CODE_SIZE)
#define PADDR 0x200000

struct note {
	Elf32_Nhdr h;
	char name[4];
	u32 desc;
};

static const struct note entry_note = {{4, 4, 18}, "Xen", PADDR + 0x10};

struct image64 {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[3];
	struct note notes[2];
	u8 fill[CODE_OFF - sizeof(Elf64_Ehdr) - 3 * sizeof(Elf64_Phdr) - 2 * sizeof(struct note)];
	u8 code[CODE_SIZE];
};

struct image32 {
	Elf32_Ehdr eh;
	Elf32_Phdr ph[2];
	struct note note;
	u8 fill[CODE_OFF - sizeof(Elf32_Ehdr) - 2 * sizeof(Elf32_Phdr) - sizeof(struct note)];
	u8 code[CODE_SIZE];
};

static struct image64 good64(void)
{
	struct image64 im = {
		.eh = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		       .e_type = ET_EXEC,
		       .e_machine = EM_X86_64,
		       .e_entry = 0xffffffff80200000,
		       .e_phoff = sizeof(Elf64_Ehdr),
		       .e_phentsize = sizeof(Elf64_Phdr),
		       .e_phnum = 3},
		.ph = {{.p_type = PT_LOAD,
			.p_offset = CODE_OFF,
			.p_vaddr = 0xffffffff80200000,
			.p_paddr = PADDR,
			.p_filesz = CODE_SIZE,
			.p_memsz = 0x3000},
		       {.p_type = PT_LOAD, .p_offset = CODE_OFF, .p_paddr = 0x400000, .p_filesz = 0, .p_memsz = 0x1000},
		       {.p_type = PT_NOTE, .p_offset = offsetof(struct image64, notes), .p_filesz = 2 * sizeof(struct note)}},
		.notes = {{{4, 4, 17}, "Xen", 5}, entry_note},
	};

	memset(im.code, 0xf4, CODE_SIZE);
	return im;
}

static struct image32 good32(void)
{
	struct image32 im = {
		.eh = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
		       .e_type = ET_EXEC,
		       .e_machine = EM_386,
		       .e_entry = PADDR,
		       .e_phoff = sizeof(Elf32_Ehdr),
		       .e_phentsize = sizeof(Elf32_Phdr),
		       .e_phnum = 2},
		.ph = {{.p_type = PT_LOAD,
			.p_offset = CODE_OFF,
			.p_vaddr = PADDR,
			.p_paddr = PADDR,
			.p_filesz = CODE_SIZE,
			.p_memsz = CODE_SIZE},
		       {.p_type = PT_NOTE, .p_offset = offsetof(struct image32, note), .p_filesz = sizeof(struct note)}},
		.note = entry_note,
	};

	return im;
}

struct start_info {
	u32 magic, version, flags, nr_modules;
	u64 modlist, cmdline, rsdp, memmap;
	u32 memmap_entries, reserved;
};

static void enters_pvh(void **state)
{
	struct image64 im = good64();
	struct memory_file rd = file_with("initrd-bytes", 12);
	struct guest_memory gm;
	struct x86_cpu c;
	struct err e;
	struct start_info si;
	u64 mod[4], map[3];
	static const u8 zeros[0x2000];

	assert_int_equal(load_bytes(&im, sizeof(im), rd.path, "a b c", &gm, &c, &e), 0);
	assert_int_equal(c.rip, PADDR + 0x10);
	assert_true(x86_protected(&c) && !x86_paging(&c));
	assert_int_equal(c.seg[SEG_CS].limit, UINT32_MAX);
	assert_memory_equal(gm_ptr(&gm, PADDR, CODE_SIZE), im.code, CODE_SIZE);
	assert_memory_equal(gm_ptr(&gm, PADDR + CODE_SIZE, 0x2000), zeros, 0x2000);
	assert_true(gm_read(&gm, c.gpr[R_RBX], &si, sizeof(si)));
	assert_int_equal(si.magic, 0x336ec578);
	assert_int_equal(si.rsdp, 0xe0000);
	assert_string_equal(guest_string(&gm, si.cmdline), "a b c");
	assert_int_equal(si.nr_modules, 1);
	assert_true(gm_read(&gm, si.modlist, mod, sizeof(mod)));
	assert_int_equal(mod[1], 12);
	assert_memory_equal(gm_ptr(&gm, mod[0], 12), "initrd-bytes", 12);
	assert_int_equal(si.memmap_entries, 4);
	assert_true(gm_read(&gm, si.memmap, map, sizeof(map)));
	assert_int_equal(map[1], 0x9fc00);
	assert_int_equal((u32)map[2], 1);
	gm_destroy(&gm);
	close(rd.fd);
}

static void enters_pvh_32(void **state)
{
	struct image32 im = good32();
	struct guest_memory gm;
	struct x86_cpu c;
	struct err e;

	assert_int_equal(load_bytes(&im, sizeof(im), NULL, "", &gm, &c, &e), 0);
	assert_int_equal(c.rip, PADDR + 0x10);
	gm_destroy(&gm);
}

static void refuses_what_lies(void **state)
{
#define POKE(field_, value_, says_)                                                                                                        \
	do {                                                                                                                               \
		struct image64 im = good64();                                                                                              \
		im.field_ = value_;                                                                                                        \
		refused(&im, sizeof(im), "", says_);                                                                                       \
	} while (0)
	POKE(eh.e_ident[EI_CLASS], 3, "class");
	POKE(eh.e_ident[EI_DATA], ELFDATA2MSB, "little-endian");
	POKE(eh.e_ident[EI_VERSION], 0, "version");
	POKE(eh.e_machine, EM_AARCH64, "x86");
	POKE(eh.e_phnum, 0, "e_phnum");
	POKE(eh.e_phnum, 0xffff, "e_phnum");
	POKE(eh.e_phnum, 0xfffe, "program header");
	POKE(eh.e_phentsize, 0, "e_phentsize");
	POKE(eh.e_phoff, ~0ull, "program header");
	POKE(eh.e_phoff, ~0ull - 57, "program header");
	POKE(ph[0].p_filesz, 0x4000, "p_filesz");
	POKE(ph[0].p_offset, ~0ull, "outside the file");
	POKE(ph[0].p_offset, SIZE, "outside the file");
	POKE(ph[0].p_memsz, ~0ull, "outside guest memory");
	POKE(ph[0].p_memsz, RAM_SIZE, "outside guest memory");
	POKE(ph[0].p_paddr, ~0ull - 0x1000, "outside guest memory");
	POKE(ph[0].p_paddr, 0x9f000, "firmware area");
	POKE(ph[0].p_paddr, 0, "real-mode vectors");
	POKE(ph[1].p_paddr, PADDR + 0x2fff, "would lie over the ELF segment");
	POKE(ph[2].p_filesz, ~0ull, "note segment");
	POKE(ph[2].p_filesz, SIZE, "outside the file");
	POKE(ph[2].p_type, PT_NULL, "neither a PVH note nor a multiboot header");
	POKE(notes[1].desc, 0xe0000000, "entry point");
	POKE(notes[0].h.n_namesz, 0xffffffff, "neither a PVH note");
	POKE(notes[0].h.n_descsz, 0xffffffff, "neither a PVH note");
	POKE(notes[1].h.n_descsz, 5, "neither a PVH note");
#undef POKE
}

static void caps_the_number_of_segments(void **state)
{
	enum { COUNT = 500 };
	size_t size = sizeof(Elf64_Ehdr) + (COUNT + 1) * sizeof(Elf64_Phdr) + sizeof(struct note);
	u8 *file = calloc(1, size);
	Elf64_Ehdr eh = good64().eh;
	Elf64_Phdr ph = {.p_type = PT_NOTE, .p_offset = size - sizeof(struct note), .p_filesz = sizeof(struct note)};

	eh.e_phnum = COUNT + 1;
	memcpy(file, &eh, sizeof(eh));
	memcpy(file + sizeof(eh), &ph, sizeof(ph));
	for (u64 i = 0; i < COUNT; i++) {
		ph = (Elf64_Phdr){.p_type = PT_LOAD, .p_paddr = PADDR + i * 4096, .p_memsz = 16};
		memcpy(file + sizeof(eh) + (i + 1) * sizeof(ph), &ph, sizeof(ph));
	}
	memcpy(file + size - sizeof(struct note), &entry_note, sizeof(entry_note));
	refused(file, size, "", "too many parts");
	free(file);
}

static void survives_cuts_and_pokes(void **state)
{
	struct image64 im = good64();
	struct image32 im32 = good32();

	cut_and_poke((const u8 *)&im, sizeof(im), offsetof(struct image64, fill));
	cut_and_poke((const u8 *)&im32, sizeof(im32), offsetof(struct image32, fill));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(enters_pvh),
		cmocka_unit_test(enters_pvh_32),
		cmocka_unit_test(refuses_what_lies),
		cmocka_unit_test(caps_the_number_of_segments),
		cmocka_unit_test(survives_cuts_and_pokes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
