/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of a fuzzer's input, taken from the front; zeroes when they have run out. Input that is a program of operations ends with them.
 * Guest RAM needs nothing here: guest_memory has an inaccessible page on each side, so a device that leaves it is caught.
 *
 * Threading: none.
 */
#pragma once

#include "base/types.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const u8 *at, *end;
};

static inline struct input input_of(const u8 *data, size_t size)
{
	return (struct input){data, data + size};
}

static inline bool input_left(const struct input *in)
{
	return in->at < in->end;
}

static inline u32 take_bytes(struct input *in, void *buf, u32 want)
{
	size_t left = (size_t)(in->end - in->at);
	u32 n = want < left ? want : (u32)left;

	memcpy(buf, in->at, n);
	memset((u8 *)buf + n, 0, want - n);
	in->at += n;
	return n;
}

/* `size` bytes, little-endian. */
static inline u64 take(struct input *in, u32 size)
{
	u64 v = 0;

	take_bytes(in, &v, size);
	return v;
}

/* 1, 2, 4 or 8 by the low bits of `code`, at most `max`. */
static inline u32 access_size(u32 code, u32 max)
{
	u32 size = 1u << (code & 3);

	return size < max ? size : max;
}
