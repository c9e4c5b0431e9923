/* SPDX-License-Identifier: Apache-2.0 */
/* Multiboot 1: ELF and address-field images, modules, and headers that lie. */
#include "boot_files.h"

#include <elf.h>

#define MAGIC 0x1badb002u
#define HEADER_OFF 0x100
#define SIZE 0x2000
#define LOAD 0x100000u

struct mb {
	u32 magic, flags, checksum, header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

struct image {
	union {
		Elf32_Ehdr eh;
		u8 before[HEADER_OFF];
	};
	struct mb mb;
	Elf32_Phdr ph[1];
	u8 rest[SIZE - HEADER_OFF - sizeof(struct mb) - sizeof(Elf32_Phdr)];
};

static void sum(struct image *im)
{
	im->mb.checksum = 0u - im->mb.magic - im->mb.flags;
}

static struct image kludge(void)
{
	struct image im = {.mb = {MAGIC, 0x10003, 0, LOAD + HEADER_OFF, LOAD, LOAD + SIZE, LOAD + 0x4000, LOAD + 0x200}};

	sum(&im);
	memset(im.rest, 0xf4, sizeof(im.rest));
	return im;
}

static struct image elf(void)
{
	struct image im = {
		.eh = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
		       .e_type = ET_EXEC,
		       .e_machine = EM_386,
		       .e_entry = 0xc0000010,
		       .e_phoff = offsetof(struct image, ph),
		       .e_phentsize = sizeof(Elf32_Phdr),
		       .e_phnum = 1},
		.mb = {.magic = MAGIC, .flags = 3},
		.ph = {{.p_type = PT_LOAD,
			.p_offset = 0x1000,
			.p_vaddr = 0xc0000000,
			.p_paddr = LOAD,
			.p_filesz = 0x1000,
			.p_memsz = 0x1000}},
	};

	sum(&im);
	return im;
}

static void loads_by_address_fields(void **state)
{
	struct image im = kludge();
	struct guest_memory gm;
	struct x86_cpu c;
	struct err e;
	u32 mbi[16];
	static const u8 zeros[0x2000];
	const char *cmdline;

	assert_int_equal(load_bytes(&im, sizeof(im), NULL, "x=1", &gm, &c, &e), 0);
	assert_int_equal(c.rip, LOAD + 0x200);
	assert_int_equal(c.gpr[R_RAX], 0x2badb002);
	assert_memory_equal(gm_ptr(&gm, LOAD, SIZE), &im, SIZE);
	assert_memory_equal(gm_ptr(&gm, LOAD + SIZE, 0x2000), zeros, 0x2000);
	assert_true(gm_read(&gm, c.gpr[R_RBX], mbi, sizeof(mbi)));
	assert_int_equal(mbi[0], 1 | 1 << 2 | 1 << 6 | 1 << 9);
	assert_int_equal(mbi[1], 639);
	assert_int_equal(mbi[2], (RAM_SIZE - MiB) / 1024);
	cmdline = guest_string(&gm, mbi[4]);
	assert_string_equal(strchr(cmdline, ' '), " x=1");
	assert_int_equal(mbi[11], 4 * 24);
	gm_destroy(&gm);
}

static void loads_elf(void **state)
{
	struct image im = elf();
	struct guest_memory gm;
	struct x86_cpu c;
	struct err e;

	assert_int_equal(load_bytes(&im, sizeof(im), NULL, "", &gm, &c, &e), 0);
	assert_int_equal(c.rip, LOAD + 0x10);
	gm_destroy(&gm);
}

static void loads_modules(void **state)
{
	struct image im = kludge();
	struct memory_file a = file_with("first", 5), b = file_with("second", 6);
	struct guest_memory gm;
	struct x86_cpu c;
	struct err e;
	char initrd[256];
	u32 mbi[16], mod[8];

	snprintf(initrd, sizeof(initrd), "%s one,, two,%s", a.path, b.path);
	assert_int_equal(load_bytes(&im, sizeof(im), initrd, "", &gm, &c, &e), 0);
	assert_true(gm_read(&gm, c.gpr[R_RBX], mbi, sizeof(mbi)));
	assert_int_equal(mbi[5], 2);
	assert_true(gm_read(&gm, mbi[6], mod, sizeof(mod)));
	assert_int_equal(mod[1] - mod[0], 5);
	assert_memory_equal(gm_ptr(&gm, mod[0], 5), "first", 5);
	assert_int_equal(mod[0] & 4095, 0);
	assert_string_equal(strchr(guest_string(&gm, mod[2]), ' '), " one, two");
	assert_memory_equal(gm_ptr(&gm, mod[4], 6), "second", 6);
	gm_destroy(&gm);
	assert_true(load_bytes(&im, sizeof(im), "/nonexistent x", "", &gm, &c, &e) < 0);
	assert_non_null(strstr(e.msg, "cannot open the module /nonexistent:"));
	close(a.fd);
	close(b.fd);
}

static void refuses_what_lies(void **state)
{
#define POKE(field_, value_, says_)                                                                                                        \
	do {                                                                                                                               \
		struct image im = kludge();                                                                                                \
		im.mb.field_ = value_;                                                                                                     \
		sum(&im);                                                                                                                  \
		refused(&im, sizeof(im), "", says_);                                                                                       \
	} while (0)
	POKE(flags, 0x10004, "video");
	POKE(flags, 0x10010, "specification");
	POKE(flags, 0, "not ELF");
	POKE(load_addr, LOAD + HEADER_OFF + 1, "load_addr");
	POKE(header_addr, LOAD + HEADER_OFF + 1, "header_addr");
	POKE(header_addr, 0xffffffff, "header_addr");
	POKE(load_end_addr, LOAD - 1, "load_end_addr");
	POKE(load_end_addr, LOAD + SIZE + 1, "outside the file");
	POKE(bss_end_addr, LOAD + 1, "bss_end_addr");
	POKE(bss_end_addr, LOAD - 1, "bss_end_addr");
	POKE(bss_end_addr, 0xffffffff, "outside guest memory");
	POKE(entry_addr, LOAD - 1, "entry_addr");
	POKE(entry_addr, LOAD + 0x4000, "entry_addr");
#undef POKE
	struct image im = elf();

	im.ph[0].p_paddr = 0xf0000;
	refused(&im, sizeof(im), "", "firmware area");
	im = elf();
	im.ph[0].p_vaddr = 0;
	refused(&im, sizeof(im), "", "e_entry");
}

static void survives_cuts_and_pokes(void **state)
{
	struct image im = kludge(), im_elf = elf();

	cut_and_poke((const u8 *)&im, sizeof(im), HEADER_OFF + sizeof(struct mb));
	cut_and_poke((const u8 *)&im_elf, sizeof(im_elf), HEADER_OFF + sizeof(struct mb) + sizeof(Elf32_Phdr));
	/* The header's own bytes, with a checksum that stays right. */
	srand(3);
	for (int i = 0; i < 3000; i++) {
		im = kludge();
		((u32 *)&im.mb)[3 + rand() % 5] ^= 1u << rand() % 32;
		((u32 *)&im.mb)[3 + rand() % 5] ^= (u32)rand();
		load_either_way(&im, sizeof(im));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(loads_by_address_fields), cmocka_unit_test(loads_elf),
		cmocka_unit_test(loads_modules),	   cmocka_unit_test(refuses_what_lies),
		cmocka_unit_test(survives_cuts_and_pokes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
