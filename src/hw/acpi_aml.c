/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AML encoding. Package lengths always take three bytes, so that a block can be closed without moving it; longer encodings than needed are
 * valid.
 */
#include "hw/acpi_aml.h"

#include <string.h>

enum { OP_NAME = 0x08, OP_BYTE = 0x0a, OP_STRING = 0x0d, OP_SCOPE = 0x10, OP_EXT = 0x5b, OP_EXT_DEVICE = 0x82 };
#define LENGTH_BYTES 3u

static void put(struct aml *a, const void *bytes, u32 n)
{
	if (n > a->size - a->len) {
		a->overflow = true;
		return;
	}
	memcpy(a->buf + a->len, bytes, n);
	a->len += n;
}

static void put_byte(struct aml *a, u8 v)
{
	put(a, &v, 1);
}

static u32 open_block(struct aml *a, const char *name)
{
	u32 place = a->len;

	put(a, "\0\0", LENGTH_BYTES);
	put(a, name, (u32)strlen(name));
	return place;
}

u32 aml_scope(struct aml *a, const char *path)
{
	put_byte(a, OP_SCOPE);
	return open_block(a, path);
}

u32 aml_device(struct aml *a, const char *segment)
{
	put_byte(a, OP_EXT);
	put_byte(a, OP_EXT_DEVICE);
	return open_block(a, segment);
}

/* Lead byte: number of following bytes in bits 7-6, the length's lowest nibble in bits 3-0. */
void aml_close(struct aml *a, u32 place)
{
	u32 len = a->len - place;

	if (a->overflow)
		return;
	a->buf[place] = (u8)((LENGTH_BYTES - 1) << 6 | (len & 15));
	a->buf[place + 1] = (u8)(len >> 4);
	a->buf[place + 2] = (u8)(len >> 12);
}

void aml_name_string(struct aml *a, const char *segment, const char *value)
{
	put_byte(a, OP_NAME);
	put(a, segment, 4);
	put_byte(a, OP_STRING);
	put(a, value, (u32)strlen(value) + 1);
}

void aml_name_byte(struct aml *a, const char *segment, u8 value)
{
	put_byte(a, OP_NAME);
	put(a, segment, 4);
	put_byte(a, OP_BYTE);
	put_byte(a, value);
}
