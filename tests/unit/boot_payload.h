/* SPDX-License-Identifier: Apache-2.0 */
/* bzImages with a small kernel inside, packed as Linux packs its own. Included once a test; an image is good until the next one is made. */
#pragma once

#include "boot_files.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#define SETUP_SECTS 1
#define BODY_OFF ((SETUP_SECTS + 1) * 512)
#define PAYLOAD_OFF 0x300u
#define PAYLOAD_MAX (64 * KiB)
#define PREF 0x1000000ull
#define ALIGN 0x200000ull
#define ROOM ALIGN /* what the kernel needs, in units of mapping */
#define LINKED 0xffffffff81000000ull
#define INITRD_SIZE 5000u

/* The unpacked file: ELF header, two segments of which the second moves down, section headers, relocations. */
#define LEAD 0x1000u
#define FIRST_SIZE 0x3000u
#define SECOND_FROM 0x5000u
#define SECOND_SIZE 0x1000u
#define FILLED (FIRST_SIZE + SECOND_SIZE)
#define SECTIONS 0x6000u
#define TABLE (SECTIONS + 2 * sizeof(Elf64_Shdr))
#define ENTRY 0x40u

enum { AT_64 = 0x100, AT_INVERSE = 0x203, AT_32 = 0x302, AT_LAST = FILLED - 8 };

struct kernel {
	union {
		u8 bytes[TABLE + 4096];
		struct {
			Elf64_Ehdr ehdr;
			Elf64_Phdr phdr[3];
		};
	};
	u32 size;
};

static inline void append(struct kernel *k, u64 off)
{
	u32 entry = off == ~0ull ? 0 : (u32)(LINKED + off);

	memcpy(k->bytes + k->size, &entry, 4);
	k->size += 4;
}

#define END ~0ull
static inline void set_table(struct kernel *k, const u64 *off, u32 n)
{
	k->size = TABLE;
	for (u32 i = 0; i < n; i++)
		append(k, off[i]);
}
#define TABLE_OF(k_, ...) set_table(k_, (const u64[]){__VA_ARGS__}, sizeof((u64[]){__VA_ARGS__}) / 8)

static inline struct kernel good(void)
{
	struct kernel k = {0};

	for (u32 i = LEAD; i < SECTIONS; i++)
		k.bytes[i] = (u8)(i * 7 + i / 256);
	k.ehdr = (Elf64_Ehdr){
		.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_entry = PREF + ENTRY,
		.e_phoff = offsetof(struct kernel, phdr),
		.e_shoff = SECTIONS,
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 3,
		.e_shentsize = sizeof(Elf64_Shdr),
		.e_shnum = 2,
	};
	k.phdr[0] = (Elf64_Phdr){PT_LOAD, PF_R | PF_X, LEAD, LINKED, PREF, FIRST_SIZE, FIRST_SIZE, ALIGN};
	k.phdr[1] = (Elf64_Phdr){PT_NOTE, PF_R, LEAD + 16, LINKED + 16, PREF + 16, 16, 16, 4};
	k.phdr[2] = (Elf64_Phdr){PT_LOAD, PF_R | PF_W, SECOND_FROM, 0, PREF + FIRST_SIZE, SECOND_SIZE, 2 * SECOND_SIZE, ALIGN};
	TABLE_OF(&k, END, AT_64, AT_LAST, END, AT_INVERSE, END, AT_32);
	return k;
}

static inline u64 pack_lz4(const struct kernel *k, u8 *out)
{
	const u32 magic = 0x184c2102;
	int n = LZ4_compress_default((const char *)k->bytes, (char *)out + 8, (int)k->size, PAYLOAD_MAX);

	memcpy(out, &magic, 4);
	memcpy(out + 4, &n, 4);
	return 8 + (u64)n;
}

static inline u64 pack_zstd(const struct kernel *k, u8 *out)
{
	return ZSTD_compress(out, PAYLOAD_MAX, k->bytes, k->size, 19);
}

static inline u64 pack_gzip(const struct kernel *k, u8 *out)
{
	z_stream z = {.next_in = (Bytef *)k->bytes, .avail_in = k->size, .next_out = out, .avail_out = PAYLOAD_MAX};

	assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 9, Z_DEFAULT_STRATEGY), Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return z.total_out;
}

static inline u64 pack_xz(const struct kernel *k, u8 *out)
{
	lzma_options_lzma options;
	lzma_filter filters[] = {{LZMA_FILTER_X86, NULL}, {LZMA_FILTER_LZMA2, &options}, {LZMA_VLI_UNKNOWN, NULL}};
	size_t n = 0;

	assert_false(lzma_lzma_preset(&options, 6));
	assert_int_equal(lzma_stream_buffer_encode(filters, LZMA_CHECK_CRC32, NULL, k->bytes, k->size, out, &n, PAYLOAD_MAX), LZMA_OK);
	return n;
}

static inline u64 pack_not(const struct kernel *k, u8 *out)
{
	memcpy(out, k->bytes, k->size);
	return k->size;
}

static const struct packer {
	u64 (*pack)(const struct kernel *k, u8 *out);
	bool size_appended;
} packers[] = {{pack_lz4, true}, {pack_zstd, true}, {pack_gzip, false}, {pack_xz, true}, {pack_not, true}};

#define STORED (&packers[4])

struct image {
	u8 bytes[BODY_OFF + PAYLOAD_OFF + PAYLOAD_MAX + 64];
	u32 size;
};

static inline struct setup_header *header(struct image *im)
{
	return (struct setup_header *)(void *)(im->bytes + 0x1f1);
}

static inline struct image *image_of(const struct kernel *k, const struct packer *p)
{
	static struct image im;
	u8 *payload = im.bytes + BODY_OFF + PAYLOAD_OFF;
	u64 len;

	memset(&im, 0, sizeof(im));
	len = p->pack(k, payload);
	if (p->size_appended) {
		memcpy(payload + len, &k->size, 4);
		len += 4;
	}
	*header(&im) = (struct setup_header){
		.setup_sects = SETUP_SECTS,
		.syssize = (u32)((PAYLOAD_OFF + len + 15) / 16),
		.boot_flag = 0xaa55,
		.jump = 0x6aeb,
		.header = 0x53726448,
		.version = 0x020f,
		.loadflags = LOADED_HIGH | KASLR_FLAG, /* which is not the file's to set */
		.initrd_addr_max = 0x7fffffff,
		.kernel_alignment = ALIGN,
		.relocatable_kernel = 1,
		.xloadflags = XLF_KERNEL_64,
		.cmdline_size = 2047,
		.payload_offset = PAYLOAD_OFF,
		.payload_length = (u32)len,
		.pref_address = PREF,
		.init_size = 0x100000,
	};
	im.size = BODY_OFF + header(&im)->syssize * 16;
	return &im;
}
