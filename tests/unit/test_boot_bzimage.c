/* SPDX-License-Identifier: Apache-2.0 */
/* The Linux boot protocol, and bzImage headers that lie. */
#include "boot_files.h"

#include <asm/bootparam.h>

#define SETUP_SECTS 3
#define BODY_OFF ((SETUP_SECTS + 1) * 512)
#define BODY_SIZE 8192
#define SIZE (BODY_OFF + BODY_SIZE)
#define PREF 0x1000000ull

struct image {
	u8 bytes[SIZE];
};

static struct setup_header *header(struct image *im)
{
	return (struct setup_header *)(void *)(im->bytes + 0x1f1);
}

static struct image good(void)
{
	struct image im = {{0}};
	struct setup_header *h = header(&im);

	*h = (struct setup_header){
		.setup_sects = SETUP_SECTS,
		.syssize = BODY_SIZE / 16,
		.boot_flag = 0xaa55,
		.jump = 0x6aeb,
		.header = 0x53726448,
		.version = 0x020f,
		.loadflags = LOADED_HIGH,
		.code32_start = 0x100000,
		.initrd_addr_max = 0x7fffffff,
		.kernel_alignment = 0x200000,
		.relocatable_kernel = 1,
		.xloadflags = XLF_KERNEL_64,
		.cmdline_size = 2047,
		.payload_offset = 0x300,
		.payload_length = 0x100,
		.pref_address = PREF,
		.init_size = 0x100000,
	};
	for (u32 i = 0; i < BODY_SIZE; i++)
		im.bytes[BODY_OFF + i] = (u8)(i * 7);
	return im;
}

static struct boot_params *params(struct guest_memory *gm, struct x86_cpu *c)
{
	return (struct boot_params *)(void *)gm_ptr(gm, c->gpr[R_RSI], sizeof(struct boot_params));
}

static void enters_64_bit_protocol(void **state)
{
	struct image im = good();
	struct guest_memory gm;
	struct x86_cpu c;
	struct err e;
	struct boot_params *bp;
	u64 pml4;

	assert_int_equal(load_bytes(&im, sizeof(im), NULL, "console=ttyS0", &gm, &c, &e), 0);
	assert_int_equal(c.rip, PREF + 0x200);
	assert_true(x86_code64(&c) && x86_paging(&c));
	assert_int_equal(c.rflags & FL_IF, 0);
	assert_memory_equal(gm_ptr(&gm, PREF, BODY_SIZE), im.bytes + BODY_OFF, BODY_SIZE);
	bp = params(&gm, &c);
	assert_string_equal(guest_string(&gm, bp->hdr.cmd_line_ptr), "console=ttyS0");
	assert_int_equal(bp->acpi_rsdp_addr, 0xe0000);
	assert_int_equal(bp->sentinel, 0);
	assert_int_equal(bp->hdr.type_of_loader, 0xff);
	assert_int_equal(bp->hdr.ramdisk_size, 0);
	assert_int_equal(bp->e820_entries, 4);
	assert_int_equal(bp->e820_table[0].size, 0x9fc00);
	assert_int_equal(bp->e820_table[1].type, 2);
	assert_int_equal(bp->e820_table[2].addr + bp->e820_table[2].size, RAM_SIZE);
	assert_int_equal(bp->e820_table[3].addr, 0xe0000000);
	assert_true(gm_read(&gm, c.cr3, &pml4, 8));
	assert_int_equal(pml4 & 0xfff, 3);
	assert_true(c.gdt.limit >= 0x2f && c.gdt.base < 0x9fc00);
	gm_destroy(&gm);
}

static void enters_32_bit_protocol(void **state)
{
	struct image im = good();
	struct guest_memory gm;
	struct x86_cpu c;
	struct err e;

	header(&im)->xloadflags = 0;
	assert_int_equal(load_bytes(&im, sizeof(im), NULL, "", &gm, &c, &e), 0);
	assert_int_equal(c.rip, PREF);
	assert_true(x86_protected(&c) && !x86_paging(&c) && !x86_long_mode(&c));
	gm_destroy(&gm);
	header(&im)->relocatable_kernel = 0;
	assert_int_equal(load_bytes(&im, sizeof(im), NULL, "", &gm, &c, &e), 0);
	assert_int_equal(c.rip, 0x100000);
	gm_destroy(&gm);
}

static void places_the_initrd(void **state)
{
	struct image im = good();
	struct memory_file rd = file_with(&im, 5000);
	struct guest_memory gm;
	struct x86_cpu c;
	struct err e;
	struct boot_params *bp;

	header(&im)->initrd_addr_max = 0x2ffffff;
	assert_int_equal(load_bytes(&im, sizeof(im), rd.path, "", &gm, &c, &e), 0);
	bp = params(&gm, &c);
	assert_int_equal(bp->hdr.ramdisk_size, 5000);
	assert_int_equal(bp->hdr.ramdisk_image, 0x3000000 - 8192);
	assert_memory_equal(gm_ptr(&gm, bp->hdr.ramdisk_image, 5000), &im, 0x1f0);
	gm_destroy(&gm);

	/* Only below the kernel is there room: 1 MiB to 16 MiB. */
	header(&im)->initrd_addr_max = 0x1000fff;
	assert_int_equal(load_bytes(&im, sizeof(im), rd.path, "", &gm, &c, &e), 0);
	assert_int_equal(params(&gm, &c)->hdr.ramdisk_image, 0x1000000 - 8192);
	gm_destroy(&gm);
	header(&im)->initrd_addr_max = 0x100fff;
	assert_true(load_bytes(&im, sizeof(im), rd.path, "", &gm, &c, &e) < 0);
	assert_non_null(strstr(e.msg, "no room for the initrd"));
	assert_true(load_bytes(&im, sizeof(im), "/nonexistent/initrd", "", &gm, &c, &e) < 0);
	assert_non_null(strstr(e.msg, "cannot open the initrd /nonexistent/initrd"));
	close(rd.fd);
}

static void refuses_header_fields(void **state)
{
#define POKE(field_, value_, says_)                                                                                                        \
	do {                                                                                                                               \
		struct image im = good();                                                                                                  \
		header(&im)->field_ = value_;                                                                                              \
		refused(&im, sizeof(im), "hello", says_);                                                                                  \
	} while (0)
	POKE(setup_sects, 255, "setup_sects");
	POKE(syssize, 0, "syssize");
	POKE(syssize, BODY_SIZE / 16 + 1, "syssize");
	POKE(syssize, 0xffffffff, "syssize");
	POKE(version, 0x0205, "version");
	POKE(loadflags, 0, "zImage");
	POKE(cmdline_size, 4, "command line has 5 characters");
	POKE(payload_offset, 0xffffffff, "payload_offset");
	POKE(payload_length, 0xffffffff, "payload_offset");
	POKE(setup_data, 0x1000, "setup_data");
	POKE(kernel_info_offset, BODY_SIZE, "kernel_info_offset");
	POKE(kernel_alignment, 0, "kernel_alignment");
	POKE(kernel_alignment, 0x300000, "kernel_alignment");
	POKE(pref_address, 0x1000001, "pref_address");
	POKE(pref_address, 0, "pref_address");
	POKE(pref_address, ~0ull, "pref_address");
	POKE(pref_address, RAM_SIZE, "outside guest memory");
	POKE(init_size, 0xffffffff, "outside guest memory");
	POKE(init_size, RAM_SIZE - PREF + 1, "--memory");
	POKE(jump, 0x05eb, "jump");
	POKE(boot_flag, 0, "no known kind");
	POKE(header, 0, "no known kind");
#undef POKE
}

static void setup_sects_zero_means_four(void **state)
{
	struct image im = good();

	header(&im)->setup_sects = 0;
	refused(&im, sizeof(im), "", "syssize"); /* one sector less is left for the kernel */
	header(&im)->syssize = (SIZE - 5 * 512) / 16;
	load_either_way(&im, sizeof(im));
}

/* memtest86+ ends within the paragraph that its header counts last. With a payload it would be a damaged Linux. */
static void last_paragraph_may_be_cut(void **state)
{
	struct image im = good();
	struct guest_memory gm;
	struct x86_cpu c;
	struct err e;

	header(&im)->payload_length = 0;
	refused(&im, SIZE - 16, "", "syssize");
	assert_int_equal(load_bytes(&im, SIZE - 15, NULL, "", &gm, &c, &e), 0);
	assert_memory_equal(gm_ptr(&gm, PREF, BODY_SIZE), im.bytes + BODY_OFF, BODY_SIZE - 15);
	assert_int_equal(*gm_ptr(&gm, PREF + BODY_SIZE - 15, 1), 0);
	gm_destroy(&gm);
}

static void survives_cuts_and_pokes(void **state)
{
	struct image im = good();

	refused(&im, 0x1f0, "", "no known kind");
	refused(&im, SIZE - 1, "", "syssize");
	cut_and_poke(im.bytes, SIZE, 0x280);
}

static void refuses_other_files_by_name(void **state)
{
	struct guest_memory gm;
	struct x86_cpu c = {0};
	struct err e = {0};
	struct boot_config cfg = {.cmdline = ""};
	static const struct {
		const char *bytes;
		u32 len;
		const char *says;
	} kind[] = {
		{"\x1f\x8b\x08", 3, "gunzip"},
		{"\x28\xb5\x2f\xfd", 4, "unzstd"},
		{"\xfd"
		 "7zXZ\0",
		 6, "unxz"},
		{"BZh9", 4, "bunzip2"},
		{"070701000", 9, "cpio"},
		{"MZ\0\0", 4, "EFI"},
		{"hello", 5, "no known kind"},
		{"x", 1, "no known kind"},
	};
	static const struct {
		const char *path, *says;
	} path[] = {{"/", "is a directory"}, {"/dev/null", "not a regular file"}, {"/nonexistent", "No such file"}};

	for (u32 i = 0; i < ARRAY_SIZE(kind); i++)
		refused(kind[i].bytes, kind[i].len, "", kind[i].says);
	refused("", 0, "", "is empty");
	assert_int_equal(gm_create(&gm, RAM_SIZE, &e), 0);
	for (u32 i = 0; i < ARRAY_SIZE(path); i++) {
		cfg.kernel = path[i].path;
		assert_true(boot_load(&cfg, &gm, &c, &e) < 0);
		assert_non_null(strstr(e.msg, path[i].says));
	}
	gm_destroy(&gm);
}

static void works_in_every_memory_size_or_says_why(void **state)
{
	static const u64 sizes[] = {MiB, 2 * MiB, 16 * MiB, 17 * MiB, GM_HOLE_START - 4096, GM_HOLE_START, GM_HOLE_START + 4096, 8 * GiB};
	struct image im = good();
	struct memory_file f = file_with(&im, sizeof(im)), rd = file_with(&im, sizeof(im));
	struct boot_config cfg = {.kernel = f.path, .initrd = rd.path, .cmdline = ""};

	for (u32 i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct guest_memory gm;
		struct x86_cpu c = {0};
		struct err e = {0};

		assert_int_equal(gm_create(&gm, sizes[i], &e), 0);
		if (sizes[i] >= 17 * MiB)
			assert_int_equal(boot_load(&cfg, &gm, &c, &e), 0);
		else
			assert_true(boot_load(&cfg, &gm, &c, &e) < 0 && strstr(e.msg, "--memory"));
		gm_destroy(&gm);
	}
	close(f.fd);
	close(rd.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(enters_64_bit_protocol),
		cmocka_unit_test(enters_32_bit_protocol),
		cmocka_unit_test(places_the_initrd),
		cmocka_unit_test(refuses_header_fields),
		cmocka_unit_test(setup_sects_zero_means_four),
		cmocka_unit_test(last_paragraph_may_be_cut),
		cmocka_unit_test(survives_cuts_and_pokes),
		cmocka_unit_test(refuses_other_files_by_name),
		cmocka_unit_test(works_in_every_memory_size_or_says_why),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
