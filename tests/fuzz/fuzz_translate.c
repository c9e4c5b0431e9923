/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzing the decoder and the translator: the input is what code is translated for, where it lies and its bytes, in a page and in the one behind
 * it. Whatever the bytes are, the block is well-formed and holds nothing that the host should not be given to run (host_code.h), and what it becomes at
 * another address is what would be translated there. It is not run: the guest tests' chaos does that. The code cache is tiny, so that zones of it are
 * dropped all the time.
 */
#include "host_code.h"

#include "bt_machine.h"
#include "input.h"

#include <stdio.h>

#define RAM (1 * MiB)
#define FRAME 0x10u
#define FRAME_BEHIND 0x20u

static const gva_t places[] = {0x400000, 0x7ffff7000000, 0xffffffff81000000, 0, 0xfffffffffffff000};

static struct bt_vcpu *make(void)
{
	static struct bt_machine m;
	struct err e = {0};

	if (bt_machine_make_on(&m, &engine_tiny, RAM, 2, &e) < 0) {
		fprintf(stderr, "fuzz_translate: %s\n", e.msg);
		abort();
	}
	return (struct bt_vcpu *)m.vcpu;
}

static u32 mode_of(u8 bits)
{
	u32 mode = bits & (MODE_USER | MODE_SSE | MODE_AVX | MODE_AVX512 | MODE_X87 | MODE_DF | MODE_CAREFUL);

	if (mode & MODE_AVX512)
		mode |= MODE_AVX;
	return mode & MODE_AVX ? mode | MODE_SSE : mode;
}

/* The rest of the input, from the offset on; none of the last one's bytes stay. */
static void put_code(struct bt_vcpu *v, struct input *in, u32 off)
{
	u8 *page = v->env.ram(v, FRAME << PAGE_SHIFT, false), *behind = v->env.ram(v, FRAME_BEHIND << PAGE_SHIFT, false);

	memset(page, 0, off);
	take_bytes(in, page + off, (u32)PAGE_SIZE - off);
	take_bytes(in, behind, PAGE_SIZE);
}

static void show(const struct bt_vcpu *v, const struct bt_block *b, const char *wrong, u32 at)
{
	fprintf(stderr, "fuzz_translate: %s, %u bytes into the %u of the block:", wrong, at - b->checked, b->end - b->checked);
	for (u32 i = at; i < b->end && i < at + 15; i++)
		fprintf(stderr, " %02x", v->cache_rw[i]);
	fprintf(stderr, "\n");
}

static void judge(const struct bt_vcpu *v, const struct bt_block *b)
{
	u32 at;
	const char *wrong = host_code_judge(v, b, b->start, &at);

	if (!wrong)
		return;
	show(v, b, wrong, at);
	abort();
}

#define ELSEWHERE 0x2345000ull /* from where it was */

static void judge_elsewhere(struct bt_vcpu *v, gva_t gva, u32 mode)
{
	struct bt_block *b = bt_rebase(v, gva, FRAME, mode);

	if (!b)
		return;
	judge(v, b);
	bt_rebase_check(v, b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct bt_vcpu *v;
	struct input in = input_of(data, size);
	u32 mode, off;
	gva_t page;
	bool behind;
	struct bt_block *b;
	u8 where;

	if (!v)
		v = make();
	mode = mode_of((u8)take(&in, 1));
	where = (u8)take(&in, 1);
	off = (u32)take(&in, 2) & 0xfff;
	page = places[where % ARRAY_SIZE(places)];
	behind = where & 0x80;
	v->jc_mode[mode & MODE_USER] = where & 0x40 ? ~0u : mode & ~(u32)MODE_CAREFUL; /* calls with and without the return stack */
	put_code(v, &in, off);
	bt_enter(v);
	b = bt_translate(v, page + off, FRAME, behind && off > PAGE_SIZE - 15 ? FRAME_BEHIND : 0, mode);
	if (b)
		judge(v, b);
	judge_elsewhere(v, page + ELSEWHERE + off, mode);
	bt_kill_lines(v, FRAME, ~0ull);
	bt_kill_lines(v, FRAME_BEHIND, ~0ull);
	bt_leave(v);
	return 0;
}
