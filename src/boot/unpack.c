/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The payload of a bzImage, unpacked by libraries: LZ4 (legacy frames), zstd, gzip, xz, or an ELF file as it is.
 * Source: Linux Documentation/arch/x86/boot.rst (payload_offset); the size that its build appends: scripts/Makefile.lib.
 * A file that changes while it is read gives other bytes or a failure, nothing worse.
 *
 * Threading: main thread.
 */
#include "boot/loader.h"

#include <lz4.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#define CHUNK (64 * KiB)
#define SIZE_BYTES 4u
#define LZ4_LEGACY_MAGIC 0x184c2102u
#define LZ4_LEGACY_BLOCK (8 * MiB)
#define XZ_MEMORY (256 * MiB) /* Linux takes dictionaries of up to 128 MiB */

struct reader {
	const struct boot_file *file;
	u64 off, left;
};

struct unpack_format {
	const char *magic;
	u32 magic_len;
	bool size_appended; /* by Linux's build; gzip's own trailer ends with it */
	bool (*unpack)(struct reader *in, u8 *out, u64 len, bool whole);
};

static bool take(struct reader *in, void *buf, u64 len)
{
	struct err ignored;

	if (len > in->left || file_read(in->file, in->off, buf, len, "payload", &ignored) < 0)
		return false;
	in->off += len;
	in->left -= len;
	return true;
}

static u64 take_chunk(struct reader *in, u8 *buf)
{
	u64 len = in->left < CHUNK ? in->left : CHUNK;

	return take(in, buf, len) ? len : 0;
}

static bool unpack_stored(struct reader *in, u8 *out, u64 len, bool whole)
{
	return take(in, out, len) && (!whole || in->left == 0);
}

/* Of a block as much as so many bytes can have become. */
static u32 enough_for(int room, u32 size)
{
	u32 most = (u32)(LZ4_COMPRESSBOUND(room) + CHUNK);

	return size < most ? size : most;
}

/* One block, or the start of it, into [out, out+room); its length, or a negative number. */
static int lz4_block(struct reader *in, char *packed, u32 size, u8 *out, u64 room, bool whole)
{
	int max = (int)(room < LZ4_LEGACY_BLOCK ? room : LZ4_LEGACY_BLOCK);
	u32 taken = whole ? size : enough_for(max, size);
	int n;

	if (size > (u32)LZ4_COMPRESSBOUND(LZ4_LEGACY_BLOCK) || !take(in, packed, taken))
		return -1;
	if (whole)
		return LZ4_decompress_safe(packed, (char *)out, (int)size, max);
	n = LZ4_decompress_safe_partial(packed, (char *)out, (int)taken, max, max);
	return n == max || taken == size ? n : -1;
}

/* Block after block through one buffer: fewer pages are touched than with all of the payload in memory. */
static bool unpack_lz4(struct reader *in, u8 *out, u64 len, bool whole)
{
	char *packed = malloc(LZ4_COMPRESSBOUND(LZ4_LEGACY_BLOCK));
	u64 done = 0;
	u32 size;

	while (packed && done < len && take(in, &size, sizeof(size))) {
		int n = size == LZ4_LEGACY_MAGIC ? 0 : lz4_block(in, packed, size, out + done, len - done, whole);

		if (n < 0)
			break;
		done += (u64)n;
	}
	free(packed);
	return done == len && (!whole || in->left == 0);
}

/* In one go, because a stream is unpacked into a window of its own first, which may be as large as the kernel. */
static bool unpack_zstd_whole(struct reader *in, u8 *out, u64 len)
{
	u64 size = in->left;
	void *packed = malloc(size);
	bool ok = packed && take(in, packed, size) && ZSTD_decompress(out, len, packed, size) == len;

	free(packed);
	return ok;
}

static bool unpack_zstd_start(struct reader *in, u8 *out, u64 len)
{
	u8 chunk[CHUNK];
	ZSTD_DStream *z = ZSTD_createDStream();
	ZSTD_outBuffer to = {out, len, 0};
	ZSTD_inBuffer from = {chunk, 0, 0};

	while (z && to.pos < len) {
		if (from.pos == from.size)
			from = (ZSTD_inBuffer){chunk, take_chunk(in, chunk), 0};
		if (from.size == 0 || ZSTD_isError(ZSTD_decompressStream(z, &to, &from)))
			break;
	}
	ZSTD_freeDStream(z);
	return to.pos == len;
}

static bool unpack_zstd(struct reader *in, u8 *out, u64 len, bool whole)
{
	return whole ? unpack_zstd_whole(in, out, len) : unpack_zstd_start(in, out, len);
}

/* zlib and liblzma say OK only when they got on, so that these loops end. */
static bool unpack_gzip(struct reader *in, u8 *out, u64 len, bool whole)
{
	u8 chunk[CHUNK];
	z_stream z = {.next_out = out, .avail_out = (uInt)len};
	int r = inflateInit2(&z, 16 + MAX_WBITS);

	if (r != Z_OK)
		return false;
	while (r == Z_OK && (whole || z.avail_out > 0)) {
		if (z.avail_in == 0) {
			z.next_in = chunk;
			z.avail_in = (uInt)take_chunk(in, chunk);
		}
		r = inflate(&z, Z_NO_FLUSH);
	}
	inflateEnd(&z);
	return z.avail_out == 0 && (!whole || r == Z_STREAM_END);
}

static bool unpack_xz(struct reader *in, u8 *out, u64 len, bool whole)
{
	u8 chunk[CHUNK];
	lzma_stream z = LZMA_STREAM_INIT;
	lzma_ret r = lzma_stream_decoder(&z, XZ_MEMORY, 0);

	z.next_out = out;
	z.avail_out = len;
	while (r == LZMA_OK && (whole || z.avail_out > 0)) {
		if (z.avail_in == 0) {
			z.next_in = chunk;
			z.avail_in = take_chunk(in, chunk);
		}
		r = lzma_code(&z, LZMA_RUN);
	}
	lzma_end(&z);
	return z.avail_out == 0 && (!whole || r == LZMA_STREAM_END);
}

static const struct unpack_format formats[] = {
	{"\x02\x21\x4c\x18", 4, true, unpack_lz4},
	{"\x28\xb5\x2f\xfd", 4, true, unpack_zstd},
	{"\x1f\x8b\x08", 3, false, unpack_gzip},
	{"\xfd"
	 "7zXZ\0",
	 6, true, unpack_xz},
	{"\x7f"
	 "ELF",
	 4, true, unpack_stored},
};

bool unpack_open(struct packed *p, const struct boot_file *file, u64 off, u64 len)
{
	struct reader start = {file, off, len}, end = {file, off + len - SIZE_BYTES, SIZE_BYTES};
	u8 head[8];
	u32 size;

	if (len < sizeof(head) + SIZE_BYTES || !take(&start, head, sizeof(head)) || !take(&end, &size, SIZE_BYTES))
		return false;
	for (u32 i = 0; i < ARRAY_SIZE(formats); i++) {
		const struct unpack_format *f = &formats[i];

		if (memcmp(head, f->magic, f->magic_len) != 0)
			continue;
		*p = (struct packed){file, f, off, len - (f->size_appended ? SIZE_BYTES : 0), size};
		return true;
	}
	return false;
}

bool unpack(const struct packed *p, u8 *out, u64 len)
{
	struct reader in = {p->file, p->off, p->len};

	return len <= p->size && p->format->unpack(&in, out, len, len == p->size);
}
