/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel inside a bzImage, unpacked, placed and relocated by the loader; and whatever makes it leave that to the guest. */
#include "boot_payload.h"

struct loaded {
	struct guest_memory gm;
	struct x86_cpu c;
	struct boot_params *bp;
	bool kaslr;
};

static void load(struct image *im, const char *initrd, const char *cmdline, struct loaded *l)
{
	struct err e;

	if (load_bytes(im->bytes, im->size, initrd, cmdline, &l->gm, &l->c, &e) < 0)
		fail_msg("%s", e.msg);
	l->bp = (struct boot_params *)(void *)gm_ptr(&l->gm, l->c.gpr[R_RSI], sizeof(struct boot_params));
	l->kaslr = l->bp->hdr.loadflags & KASLR_FLAG;
}

static u64 read_at(const struct loaded *l, gpa_t gpa, u32 width)
{
	u64 v = 0;

	assert_true(gm_read(&l->gm, gpa, &v, width));
	return v;
}

static u64 original(const struct kernel *k, u32 off, u32 width)
{
	u64 v = 0;

	memcpy(&v, k->bytes + (off < FIRST_SIZE ? LEAD + off : SECOND_FROM + off - FIRST_SIZE), width);
	return v;
}

static void as_linked(const struct loaded *l, const struct kernel *k, gpa_t at)
{
	assert_int_equal(l->c.rip, at + ENTRY);
	assert_true(x86_code64(&l->c) && x86_paging(&l->c));
	assert_false(l->kaslr);
	assert_memory_equal(gm_ptr(&l->gm, at, FIRST_SIZE), k->bytes + LEAD, FIRST_SIZE);
	assert_memory_equal(gm_ptr(&l->gm, at + FIRST_SIZE, SECOND_SIZE), k->bytes + SECOND_FROM, SECOND_SIZE);
}

/* The guest's decompressor is entered, and its image is whole. */
static void left_to_the_guest(struct image *im, const char *cmdline)
{
	struct loaded l;

	load(im, NULL, cmdline, &l);
	assert_int_equal(l.c.rip, PREF + 0x200);
	assert_false(l.kaslr);
	assert_memory_equal(gm_ptr(&l.gm, PREF, im->size - BODY_OFF), im->bytes + BODY_OFF, im->size - BODY_OFF);
	gm_destroy(&l.gm);
}

static void unpacks_each_format(void **state)
{
	struct kernel k = good();
	struct loaded l;

	for (u32 i = 0; i < ARRAY_SIZE(packers); i++) {
		load(image_of(&k, &packers[i]), NULL, "quiet nokaslr", &l);
		as_linked(&l, &k, PREF);
		gm_destroy(&l.gm);
	}
}

/* Relocated by the same multiple of the alignment everywhere; returns it. */
static u64 relocated(const struct loaded *l, const struct kernel *k, bool inverse)
{
	gpa_t at = l->c.rip - ENTRY;
	u64 delta = read_at(l, at + AT_64, 8) - original(k, AT_64, 8);

	assert_true(l->kaslr);
	assert_true(at % ALIGN == 0 && at >= PREF && at + ROOM <= RAM_SIZE);
	assert_true(delta % ALIGN == 0 && PREF + delta + ROOM <= GiB);
	assert_int_equal(read_at(l, at + AT_LAST, 8), original(k, AT_LAST, 8) + delta);
	assert_int_equal((u32)read_at(l, at + AT_32, 4), (u32)(original(k, AT_32, 4) + delta));
	assert_int_equal((u32)read_at(l, at + AT_INVERSE, 4), (u32)(original(k, AT_INVERSE, 4) - (inverse ? delta : 0)));
	assert_int_equal(read_at(l, at + AT_64 + 8, 8), original(k, AT_64 + 8, 8));
	return delta;
}

static void randomises_both_addresses(void **state)
{
	struct kernel k = good();
	struct memory_file rd = file_with(k.bytes, INITRD_SIZE);
	u64 physical = 0, virtual = 0;

	for (u32 i = 0; i < 40; i++) {
		struct loaded l;

		load(image_of(&k, &packers[0]), rd.path, "quiet nokaslrs xnokaslr", &l);
		virtual |= relocated(&l, &k, true);
		physical |= l.c.rip - ENTRY;
		assert_memory_equal(gm_ptr(&l.gm, l.bp->hdr.ramdisk_image, INITRD_SIZE), k.bytes, INITRD_SIZE);
		assert_string_equal(guest_string(&l.gm, l.bp->hdr.cmd_line_ptr), "quiet nokaslrs xnokaslr");
		gm_destroy(&l.gm);
	}
	/* Of 24 places and 503: that 40 draws miss half of them is as good as impossible. */
	assert_true(physical & ~PREF & 0x3e00000);
	assert_true((virtual & 0x3e000000) && (virtual & 0x1e00000));
	close(rd.fd);
}

static void knows_the_newer_relocations(void **state)
{
	struct kernel k = good();
	struct loaded l;

	TABLE_OF(&k, END, AT_64, AT_LAST, END, AT_32);
	for (u32 i = 0; i < 4; i++) {
		load(image_of(&k, &packers[1]), NULL, "", &l);
		relocated(&l, &k, false);
		gm_destroy(&l.gm);
	}
}

static void kernels_that_stay_where_they_were_linked(void **state)
{
	struct kernel k = good();
	struct image *im = image_of(&k, STORED);
	struct loaded l;

	header(im)->relocatable_kernel = 0;
	load(im, NULL, "", &l);
	as_linked(&l, &k, PREF);
	gm_destroy(&l.gm);
	k.size = TABLE; /* relocatable, but built without randomisation */
	load(image_of(&k, STORED), NULL, "", &l);
	as_linked(&l, &k, PREF);
	gm_destroy(&l.gm);
}

static void restricted_memory_keeps_the_place(void **state)
{
	static const char *const cmdlines[] = {"mem=60M", "quiet memmap=1M$40M", "hugepagesz=1G hugepages=1"};
	struct kernel k = good();
	struct loaded l;

	for (u32 i = 0; i < ARRAY_SIZE(cmdlines); i++) {
		load(image_of(&k, STORED), NULL, cmdlines[i], &l);
		relocated(&l, &k, true);
		assert_int_equal(l.c.rip, PREF + ENTRY);
		gm_destroy(&l.gm);
	}
}

static void needs_room(void **state)
{
	struct kernel k = good();
	struct image *im = image_of(&k, STORED);
	struct memory_file rd = file_with(k.bytes, INITRD_SIZE);
	struct loaded l;

	/* All that is free is where the image lies, and then not even that: the initrd ends where the unpacked file would begin. */
	header(im)->init_size = RAM_SIZE - PREF;
	load(im, NULL, "", &l);
	relocated(&l, &k, true);
	assert_int_equal(l.c.rip, PREF + ENTRY);
	gm_destroy(&l.gm);
	load(im, rd.path, "", &l);
	assert_int_equal(l.bp->hdr.ramdisk_image, PREF - 8192);
	assert_int_equal(l.c.rip, PREF + 0x200);
	assert_memory_equal(gm_ptr(&l.gm, l.bp->hdr.ramdisk_image, INITRD_SIZE), k.bytes, INITRD_SIZE);
	gm_destroy(&l.gm);
	close(rd.fd);
}

static void leaves_odd_headers_to_the_guest(void **state)
{
#define POKE(statement_)                                                                                                                   \
	do {                                                                                                                               \
		struct kernel k = good();                                                                                                  \
		statement_;                                                                                                                \
		left_to_the_guest(image_of(&k, STORED), "nokaslr");                                                                        \
		left_to_the_guest(image_of(&k, STORED), "");                                                                               \
	} while (0)
	POKE(k.ehdr.e_ident[EI_CLASS] = ELFCLASS32);
	POKE(k.ehdr.e_ident[EI_DATA] = ELFDATA2MSB);
	POKE(k.ehdr.e_machine = EM_386);
	POKE(k.ehdr.e_phnum = 0);
	POKE(k.ehdr.e_phnum = 0xffff);
	POKE(k.ehdr.e_phentsize = 32);
	POKE(k.ehdr.e_phoff = 4096);
	POKE(k.ehdr.e_phoff = ~0ull);
	POKE(k.ehdr.e_shoff = ~0ull);
	POKE(k.ehdr.e_shoff = k.size - 64);
	POKE(k.ehdr.e_shoff = 0);
	POKE(k.ehdr.e_shentsize = 40);
	POKE(k.ehdr.e_entry = PREF - 1);
	POKE(k.ehdr.e_entry = PREF + FILLED);
	POKE(k.phdr[0].p_type = PT_NULL);
	POKE(k.phdr[0].p_paddr = PREF + 4096);
	POKE(k.phdr[0].p_vaddr = 0);
	POKE(k.phdr[0].p_offset = ~0ull);
	POKE(k.phdr[0].p_filesz = FIRST_SIZE + 1);
	POKE(k.phdr[2].p_filesz = ~0ull);
	POKE(k.phdr[2].p_filesz = k.phdr[2].p_memsz = TABLE - SECOND_FROM + 1);
	POKE(k.phdr[2].p_memsz = ~0ull);
	POKE(k.phdr[2].p_memsz = SECOND_SIZE - 1);
	POKE(k.phdr[2].p_memsz = RAM_SIZE);
	POKE(k.phdr[2].p_paddr = 0);
	POKE(k.phdr[2].p_paddr = ~0ull);
	POKE(k.phdr[2].p_paddr = PREF + FIRST_SIZE - 1);
	POKE(k.phdr[2].p_paddr = PREF + SECOND_FROM);
	POKE(k.phdr[2].p_offset = LEAD);
	POKE(k.phdr[2].p_offset = k.size);
#undef POKE
}

static void leaves_odd_relocations_to_the_guest(void **state)
{
#define TRY(...)                                                                                                                           \
	do {                                                                                                                               \
		struct kernel k = good();                                                                                                  \
		TABLE_OF(&k, __VA_ARGS__);                                                                                                 \
		left_to_the_guest(image_of(&k, STORED), "");                                                                               \
	} while (0)
	TRY(END);
	TRY(END, AT_64);
	TRY(AT_64, END, END, AT_32);
	TRY(END, AT_64, END, END, AT_32, END);
	TRY(END, FILLED - 7, END, AT_32);
	TRY(END, AT_64, END, FILLED - 3, END, AT_32);
	TRY(END, AT_64, END, FILLED - 3);
	TRY(END, AT_64, END, -4ull);
	TRY(END, AT_64, END, 0x40000000);
#undef TRY
	struct kernel k = good();

	k.size += 2;
	left_to_the_guest(image_of(&k, STORED), "");
}

static void leaves_damaged_payloads_to_the_guest(void **state)
{
	struct kernel k = good();
	struct image *im;

	for (u32 i = 0; i < ARRAY_SIZE(packers); i++) {
		im = image_of(&k, &packers[i]);
		im->bytes[BODY_OFF + PAYLOAD_OFF] ^= 0x55;
		left_to_the_guest(im, "");
		for (u32 cut = 1; cut < 300; cut += 13) {
			im = image_of(&k, &packers[i]);
			header(im)->payload_length -= cut;
			left_to_the_guest(im, "");
		}
		for (int more = -1; more <= 1; more += 2) {
			im = image_of(&k, &packers[i]);
			im->bytes[BODY_OFF + PAYLOAD_OFF + header(im)->payload_length - 4] += (u8)more;
			left_to_the_guest(im, "");
		}
		im = image_of(&k, &packers[i]);
		memset(im->bytes + BODY_OFF + PAYLOAD_OFF + header(im)->payload_length - 4, 0xff, 4);
		left_to_the_guest(im, "");
		header(im)->payload_length = 4;
		left_to_the_guest(im, "");
		header(im)->payload_offset = header(im)->payload_length = 0;
		left_to_the_guest(im, "");
	}
	im = image_of(&k, STORED);
	header(im)->kernel_alignment = 4096;
	left_to_the_guest(im, "");
}

static void survives_pokes(void **state)
{
	struct kernel k = good();
	struct image *im;

	for (u32 i = 0; i < ARRAY_SIZE(packers); i++) {
		im = image_of(&k, &packers[i]);
		for (u32 round = 0; round < 400; round++) {
			u32 at = BODY_OFF + PAYLOAD_OFF + (u32)rand() % (round & 1 ? 400 : header(im)->payload_length);
			u8 was = im->bytes[at];

			im->bytes[at] = (u8)rand();
			load_either_way(im->bytes, im->size);
			im->bytes[at] = was;
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unpacks_each_format),
		cmocka_unit_test(randomises_both_addresses),
		cmocka_unit_test(knows_the_newer_relocations),
		cmocka_unit_test(kernels_that_stay_where_they_were_linked),
		cmocka_unit_test(restricted_memory_keeps_the_place),
		cmocka_unit_test(needs_room),
		cmocka_unit_test(leaves_odd_headers_to_the_guest),
		cmocka_unit_test(leaves_odd_relocations_to_the_guest),
		cmocka_unit_test(leaves_damaged_payloads_to_the_guest),
		cmocka_unit_test(survives_pokes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
