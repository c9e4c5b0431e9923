/* SPDX-License-Identifier: Apache-2.0 */
/*
 * x87's tag word: GDB has two bits a register, as FSTENV stores them, and the XSAVE image one. Source: SDM vol. 1, 8.1.7 and 10.5.1.
 *
 * Contract and threading: registers.h.
 */
#include "gdb/registers.h"

#include <string.h>

#define ST_OFFSET 32

/* Empty 3, zero 1, special 2, valid 0. The image keeps one bit a register, "not empty", and has the registers in the order of the stack. */
static u32 tag_of(const u8 *image, u32 reg)
{
	u32 top = image[3] >> 3 & 7;
	const u8 *st = image + ST_OFFSET + ((reg - top) & 7) * 16;
	u64 mantissa;
	u16 exponent;

	if (!(image[4] >> reg & 1))
		return 3;
	memcpy(&mantissa, st, 8);
	memcpy(&exponent, st + 8, 2);
	exponent &= 0x7fff;
	if (exponent == 0 && mantissa == 0)
		return 1;
	return exponent == 0 || exponent == 0x7fff || !(mantissa >> 63) ? 2 : 0;
}

u32 gdb_x87_tags(const u8 *image)
{
	u32 tags = 0;

	for (u32 reg = 0; reg < 8; reg++)
		tags |= tag_of(image, reg) << (2 * reg);
	return tags;
}

u8 gdb_x87_abridged_tags(u64 full)
{
	u8 tags = 0;

	for (u32 reg = 0; reg < 8; reg++)
		tags = (u8)(tags | ((full >> (2 * reg) & 3) != 3) << reg);
	return tags;
}
