/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Encodings that Intel's manual makes #UD, that Zydis therefore refuses, and that AMD's CPUs run because they do not look at a bit.
 *
 * Found with every register form of every EVEX and opmask instruction on Zen 4; what is not listed here raises #UD there, too:
 *   EVEX.b between registers, where the same instruction with a memory operand has a broadcast
 *   EVEX.V' outside 64-bit code
 *   VEX.R where it would extend the number of a mask register in ModRM.reg, VEX.vvvv[3] where it would in vvvv
 *
 * Threading: none; works on its arguments.
 */
#include "engine/bt/interp_private.h"

#define EVEX_BYTES 6u /* up to and with ModRM */

struct attempt {
	const ZydisDecoder *decoder;
	u8 *bytes;
	u32 n, at; /* at: the VEX or EVEX prefix */
	bool code64;
	ZydisDecodedInstruction *z;
	ZydisDecodedOperand *o;
};

/* Bytes that may stand before a VEX or EVEX prefix. */
static bool is_addressing_prefix(u8 byte)
{
	static const u8 legal[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x67};

	return memchr(legal, byte, sizeof(legal));
}

static ZyanStatus decode(const struct attempt *a, const u8 *bytes)
{
	return ZydisDecoderDecodeFull(a->decoder, bytes, a->n, a->z, a->o);
}

static bool decodes_or_wants_more(ZyanStatus s)
{
	return ZYAN_SUCCESS(s) || s == ZYDIS_STATUS_NO_MORE_DATA;
}

/* With a memory operand instead of the register, is b a broadcast? */
static bool memory_form_broadcasts(const struct attempt *a)
{
	u8 twin[16];

	memcpy(twin, a->bytes, sizeof(twin));
	twin[a->at + 5] &= 0x38;
	return ZYAN_SUCCESS(decode(a, twin));
}

static ZyanStatus decode_evex(const struct attempt *a)
{
	u8 *p2 = &a->bytes[a->at + 3];
	ZyanStatus s;

	if (a->n - a->at < EVEX_BYTES || (!a->code64 && a->bytes[a->at + 1] < 0xc0))
		return ZYDIS_STATUS_DECODING_ERROR;
	if (!a->code64)
		*p2 |= 0x08;
	s = decode(a, a->bytes); /* b may mean rounding */
	if (decodes_or_wants_more(s) || !(*p2 & 0x10) || a->bytes[a->at + 5] < 0xc0 || !memory_form_broadcasts(a))
		return s;
	*p2 &= (u8)~0x10;
	return decode(a, a->bytes);
}

static bool is_mask(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_MASK;
}

/* Are the bits that were set such as only number mask registers? */
static bool only_masks_meant(const struct attempt *a, bool r, bool vvvv)
{
	if (a->z->meta.isa_ext != ZYDIS_ISA_EXT_AVX512VEX)
		return false;
	return (!r || is_mask(&a->o[0])) && (!vvvv || (a->z->operand_count_visible == 3 && is_mask(&a->o[1]) && is_mask(&a->o[2])));
}

static ZyanStatus decode_vex(const struct attempt *a)
{
	u8 *b = &a->bytes[a->at], *last = b[0] == 0xc5 ? b + 1 : b + 2, was1 = b[1], was_last = *last;
	ZyanStatus s;

	for (u32 try = 1; try < 4; try++) {
		bool r = (try & 1) && a->code64, vvvv = try & 2;

		b[1] = was1;
		*last = b[0] == 0xc5 ? was1 : was_last;
		b[1] |= r ? 0x80 : 0;
		*last |= vvvv ? 0x40 : 0;
		s = decode(a, a->bytes);
		if (s == ZYDIS_STATUS_NO_MORE_DATA || (ZYAN_SUCCESS(s) && only_masks_meant(a, r, vvvv)))
			return s;
	}
	return ZYDIS_STATUS_DECODING_ERROR;
}

ZyanStatus interp_decode_ignoring(const ZydisDecoder *decoder, u8 bytes[16], u32 n, bool code64, ZydisDecodedInstruction *z,
				  ZydisDecodedOperand *o)
{
	struct attempt a = {decoder, bytes, n, 0, code64, z, o};
	ZyanStatus s = ZYDIS_STATUS_DECODING_ERROR;

	while (a.at < n && is_addressing_prefix(bytes[a.at]))
		a.at++;
	if (n - a.at < 4)
		return s;
	if (bytes[a.at] == 0x62)
		s = decode_evex(&a);
	else if ((bytes[a.at] == 0xc4 || bytes[a.at] == 0xc5) && (code64 || bytes[a.at + 1] >= 0xc0))
		s = decode_vex(&a);
	return decodes_or_wants_more(s) ? s : ZYDIS_STATUS_DECODING_ERROR;
}
