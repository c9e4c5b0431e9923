/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory of decoded instructions gives what Zydis gives, for the code of a whole program and for bytes that are hardly code, and what it handed out
 * stays as it was for as long as it promises.
 */
#include "engine/bt/decode.h"

#include <elf.h>
#include <link.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HELD BT_DECODED_AT_ONCE

struct text {
	const u8 *bytes;
	u64 size;
};

struct held {
	const struct bt_decoded *got;
	struct bt_decoded then;
};

/* The largest executable segment of this process: a library's or the program's own. */
static int largest_text(struct dl_phdr_info *info, size_t size, void *opaque)
{
	struct text *t = opaque;

	for (u32 i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		if (p->p_type == PT_LOAD && (p->p_flags & PF_X) && (p->p_flags & PF_R) && p->p_filesz > t->size)
			*t = (struct text){(const u8 *)(info->dlpi_addr + p->p_vaddr), p->p_filesz};
	}
	return 0;
}

static void assert_same(const struct bt_decoded *got, const u8 *bytes, u32 avail)
{
	ZydisDecoder d;
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];

	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	assert_int_equal(ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, bytes, avail < 15 ? avail : 15, &in, op)), got->valid);
	if (!got->valid)
		return;
	assert_memory_equal(&got->in, &in, sizeof in);
	assert_memory_equal(got->op, op, in.operand_count * sizeof op[0]);
	assert_int_equal(got->needs, bt_native_needs(&in));
}

static void assert_held(const struct held *h)
{
	if (!h->got)
		return;
	assert_int_equal(h->got->valid, h->then.valid);
	if (h->then.valid) {
		assert_memory_equal(&h->got->in, &h->then.in, sizeof h->then.in);
		assert_memory_equal(h->got->op, h->then.op, h->then.in.operand_count * sizeof h->then.op[0]);
	}
}

/* Instruction after instruction; `rounds` times, so that most have been seen. */
static void decode_all(const u8 *bytes, u64 size, u32 rounds)
{
	struct err e;
	struct bt_decoder *d = bt_decoder_new(&e);
	struct held *held = calloc(HELD, sizeof *held);
	u64 n = 0;

	assert_non_null(d);
	assert_non_null(held);
	while (rounds--) {
		for (u64 at = 0; at + 15 < size; n++) {
			u32 avail = n % 7 ? 15 : (u32)(n % 16);
			const struct bt_decoded *got = bt_decode(d, bytes + at, avail);
			struct held *h = &held[n % HELD];
			assert_same(got, bytes + at, avail);
			assert_held(h);
			*h = (struct held){got, *got};
			at += got->valid ? got->in.length : 1;
		}
	}
	free(held);
	bt_decoder_free(d);
}

static void programs(void **state)
{
	struct text t = {0};

	dl_iterate_phdr(largest_text, &t);
	assert_true(t.size > 64 * KiB);
	decode_all(t.bytes, t.size < MiB ? t.size : MiB, 1);
}

/* Few enough that all are remembered, and asked for again. */
static void little_code(void **state)
{
	struct text t = {0};

	dl_iterate_phdr(largest_text, &t);
	decode_all(t.bytes + t.size / 2, 1024, 100);
}

static void noise(void **state)
{
	u8 *bytes = malloc(MiB);
	u64 x = 88172645463325252ull;

	assert_non_null(bytes);
	for (u32 i = 0; i < MiB; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		bytes[i] = (u8)(x >> 32 & (i % 5 ? 0xff : 0x4f)); /* prefixes more often */
	}
	decode_all(bytes, MiB / 4, 1);
	free(bytes);
}

/* The same instructions at ever other distances from rip. */
static void distances(void **state)
{
	/* how many bytes stand before the distance, and they */
	static const u8 kinds[][4] = {
		{1, 0xe8},	 {1, 0xe9},
		{2, 0x0f, 0x84}, {3, 0x48, 0x8b, 0x05},
		{2, 0x8b, 0x0d}, {3, 0x67, 0x8b, 0x05},
		{2, 0x80, 0x3d}, {3, 0x48, 0x83, 0x3d},
		{2, 0x66, 0xe8}, {2, 0xff, 0x15},
	};
	struct err e;
	struct bt_decoder *d = bt_decoder_new(&e);

	assert_non_null(d);
	for (u32 i = 0; i < 2000; i++) {
		const u8 *k = kinds[i % ARRAY_SIZE(kinds)];
		u8 bytes[24] = {0};
		u32 distance = i * 0x9e3779b1u;
		memcpy(bytes, k + 1, k[0]);
		memcpy(bytes + k[0], &distance, sizeof distance);
		bytes[7] ^= (u8)(i >> 3); /* an immediate behind it */
		assert_same(bt_decode(d, bytes, 15), bytes, 15);
	}
	bt_decoder_free(d);
}

static void facts(void **state)
{
	static const u8 push_rbx[16] = {0x53}, mov_cr3[16] = {0x0f, 0x22, 0xd8}, xchg_r8[16] = {0xf3, 0x41, 0x90},
			mul[16] = {0x48, 0xf7, 0xe1};
	struct err e;
	struct bt_decoder *d = bt_decoder_new(&e);

	assert_non_null(d);
	assert_int_equal(bt_decode(d, push_rbx, 15)->written, 1u << 4);
	assert_true(bt_decode(d, mov_cr3, 15)->special);
	assert_false(bt_decode(d, push_rbx, 15)->special);
	assert_int_equal(bt_decode(d, xchg_r8, 15)->row.kind, K_INTERP);
	assert_int_equal(bt_decode(d, mul, 15)->written, 1u << 0 | 1u << 2);
	assert_false(bt_decode(d, mul, 2)->valid);
	assert_true(bt_decode(d, mul, 3)->valid);
	assert_false(bt_decode(d, mul, 0)->valid);
	bt_decoder_free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(programs),  cmocka_unit_test(little_code), cmocka_unit_test(noise),
		cmocka_unit_test(distances), cmocka_unit_test(facts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
