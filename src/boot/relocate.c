/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linux's address space layout randomisation as far as its decompressor does it: who wants it, random numbers, and the relocations that the
 * build appends to the kernel.
 * Source: Linux arch/x86/boot/compressed/kaslr.c and misc.c, arch/x86/tools/relocs.c.
 *
 * Threading: main thread.
 */
#include "boot/loader.h"

#include <string.h>
#include <sys/random.h>

enum kind { ADD_64, SUBTRACT_32, ADD_32 };

/* A zero stands before each list. Linux 6.15 gave up the second of three. */
static const enum kind three_lists[] = {ADD_64, SUBTRACT_32, ADD_32}, two_lists[] = {ADD_64, ADD_32};

static i32 entry(const u8 *table, u64 index)
{
	i32 e;

	memcpy(&e, table + index * sizeof(e), sizeof(e));
	return e;
}

static const enum kind *kinds_of_lists(const u8 *table, u64 count)
{
	u64 lists = 0;

	if (count == 0 || entry(table, 0) != 0)
		return NULL;
	for (u64 i = 0; i < count; i++)
		lists += entry(table, i) == 0;
	return lists == ARRAY_SIZE(three_lists) ? three_lists : lists == ARRAY_SIZE(two_lists) ? two_lists : NULL;
}

static void relocate_64(u8 *at, u64 delta)
{
	u64 v;

	memcpy(&v, at, sizeof(v));
	v += delta;
	memcpy(at, &v, sizeof(v));
}

static void relocate_32(u8 *at, u64 delta)
{
	u32 v;

	memcpy(&v, at, sizeof(v));
	v += (u32)delta;
	memcpy(at, &v, sizeof(v));
}

static bool relocate_one(const struct relocation *r, enum kind kind, i32 address)
{
	u64 off = (u64)(i64)address - r->linked, width = kind == ADD_64 ? 8 : 4;

	if (width > r->size || off > r->size - width)
		return false;
	if (kind == ADD_64)
		relocate_64(r->image + off, r->delta);
	else
		relocate_32(r->image + off, kind == ADD_32 ? r->delta : -r->delta);
	return true;
}

bool relocate(const struct relocation *r, const u8 *table, u64 table_size)
{
	u64 count = table_size / sizeof(i32);
	const enum kind *kind = kinds_of_lists(table, count);

	if (!kind || table_size % sizeof(i32) != 0)
		return false;
	for (u64 i = 1; i < count; i++) {
		i32 address = entry(table, i);

		if (address == 0)
			kind++;
		else if (!relocate_one(r, *kind, address))
			return false;
	}
	return true;
}

/* The kernel's own rule: words end at anything up to a space, quotes mean nothing. */
bool kaslr_has_word(const char *cmdline, const char *word)
{
	size_t len = strlen(word);
	bool prefix = word[len - 1] == '=';

	for (const char *s = cmdline; *s; s++) {
		bool begins = s == cmdline || (u8)s[-1] <= ' ';

		if (begins && strncmp(s, word, len) == 0 && (prefix || (u8)s[len] <= ' '))
			return true;
	}
	return false;
}

bool kaslr_random(u64 count, u64 *out)
{
	u64 r;

	if (count == 0 || getrandom(&r, sizeof(r), 0) != sizeof(r))
		return false;
	*out = r % count;
	return true;
}
