/* SPDX-License-Identifier: Apache-2.0 */
/* The table behind undefined.h. */
#include "undefined.h"

#define CF 0x001u
#define PF 0x004u
#define AF 0x010u
#define ZF 0x040u
#define SF 0x080u
#define OF 0x800u
#define ARITH (CF | PF | AF | ZF | SF | OF)

enum rule {
	PLAIN,	      /* always */
	SHIFT,	      /* count 0: no flag changes; OF only defined for count 1; CF undefined when bits beyond the operand are asked for */
	ROTATE,	      /* OF only defined for count 1 */
	DOUBLE_SHIFT, /* as SHIFT; count above the operand size: everything */
};

struct undefined_row {
	u16 mnemonic;
	u16 flags;
	u8 rule;
};

#define M(name) ZYDIS_MNEMONIC_##name

static const struct undefined_row rows[] = {
	/* "AF is undefined": logic has no carry out of bit 3 */
	{M(AND), AF, PLAIN},
	{M(OR), AF, PLAIN},
	{M(XOR), AF, PLAIN},
	{M(TEST), AF, PLAIN},
	/* "AF undefined for non-zero counts; OF defined only for 1-bit shifts" */
	{M(SHL), AF, SHIFT},
	{M(SHR), AF, SHIFT},
	{M(SAR), AF, SHIFT},
	{M(SHLD), AF, DOUBLE_SHIFT},
	{M(SHRD), AF, DOUBLE_SHIFT},
	{M(ROL), 0, ROTATE},
	{M(ROR), 0, ROTATE},
	{M(RCL), 0, ROTATE},
	{M(RCR), 0, ROTATE},
	/* "SF, ZF, AF, PF undefined": only the significance of the upper half is reported, in CF and OF */
	{M(MUL), SF | ZF | AF | PF, PLAIN},
	{M(IMUL), SF | ZF | AF | PF, PLAIN},
	/* "all undefined" */
	{M(DIV), ARITH, PLAIN},
	{M(IDIV), ARITH, PLAIN},
	/* "CF, OF, SF, AF, PF undefined": only ZF tells about the source */
	{M(BSF), CF | OF | SF | AF | PF, PLAIN},
	{M(BSR), CF | OF | SF | AF | PF, PLAIN},
	/* "OF, SF, AF, PF undefined", ZF unaffected */
	{M(BT), OF | SF | AF | PF, PLAIN},
	{M(BTS), OF | SF | AF | PF, PLAIN},
	{M(BTR), OF | SF | AF | PF, PLAIN},
	{M(BTC), OF | SF | AF | PF, PLAIN},
	{M(LZCNT), OF | SF | AF | PF, PLAIN},
	{M(TZCNT), OF | SF | AF | PF, PLAIN},
	/* "OF, SF, ZF, PF undefined"; "OF undefined"; "OF, AF, CF undefined" */
	{M(AAA), OF | SF | ZF | PF, PLAIN},
	{M(AAS), OF | SF | ZF | PF, PLAIN},
	{M(DAA), OF, PLAIN},
	{M(DAS), OF, PLAIN},
	{M(AAM), OF | AF | CF, PLAIN},
	{M(AAD), OF | AF | CF, PLAIN},
	{M(BEXTR), AF | SF | PF, PLAIN},
	{M(BZHI), AF | PF, PLAIN},
	{M(ANDN), AF | PF, PLAIN},
	{M(BLSI), AF | PF, PLAIN},
	{M(BLSR), AF | PF, PLAIN},
	{M(BLSMSK), AF | PF, PLAIN},
};

static const struct undefined_row *row_of(const ZydisDecodedInstruction *in)
{
	for (u32 i = 0; i < ARRAY_SIZE(rows); i++)
		if (rows[i].mnemonic == (u16)in->mnemonic)
			return &rows[i];
	return NULL;
}

/* The shift count is the last visible operand: an immediate or CL. */
static u32 count_of(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op, const u64 gpr[16])
{
	u32 mask = in->operand_width == 64 ? 63 : 31;
	u64 count = gpr[1];

	for (u32 i = 1; i < in->operand_count; i++)
		if (op[i].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
			count = op[i].imm.value.u;
	return (u32)count & mask;
}

static u64 undefined_now(const struct undefined_row *row, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op,
			 const u64 gpr[16])
{
	u32 count = row->rule == PLAIN ? 1 : count_of(in, op, gpr);
	u64 flags = row->flags;

	if (!count)
		return 0;
	if (count != 1)
		flags |= OF;
	if (row->rule == SHIFT && count >= op[0].size)
		flags |= CF;
	if (row->rule == DOUBLE_SHIFT && count > op[0].size)
		flags |= ARITH;
	return flags;
}

static bool changes_nothing(const struct undefined_row *row, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op,
			    const u64 gpr[16])
{
	return row && row->rule != PLAIN && !count_of(in, op, gpr);
}

/* A string instruction with a repeat prefix and a count of 0 */
static bool repeats_nothing(const ZydisDecodedInstruction *in, const u64 gpr[16])
{
	const u64 rep = ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;
	u64 count = in->address_width == 64 ? gpr[1] : in->address_width == 32 ? (u32)gpr[1] : (u16)gpr[1];

	return in->meta.category == ZYDIS_CATEGORY_STRINGOP && (in->attributes & rep) && !count;
}

u64 undefined_flags_after(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op, const u64 gpr[16], u64 before)
{
	const struct undefined_row *row = row_of(in);
	u64 written = 0;

	if (changes_nothing(row, in, op, gpr) || repeats_nothing(in, gpr))
		return before;
	if (in->cpu_flags)
		written = in->cpu_flags->modified | in->cpu_flags->set_0 | in->cpu_flags->set_1;
	return (before & ~written) | (row ? undefined_now(row, in, op, gpr) : 0);
}

/* "Other use of repeat prefixes ... is reserved; such use may cause unpredictable behavior" (SDM vol. 2, 2.1.1): with F2h Zen 4 makes a LOOPNE of
 * LOOPE. */
static bool repeats_a_loop(const ZydisDecodedInstruction *in)
{
	if (in->mnemonic != ZYDIS_MNEMONIC_LOOP && in->mnemonic != ZYDIS_MNEMONIC_LOOPE && in->mnemonic != ZYDIS_MNEMONIC_LOOPNE)
		return false;
	for (u32 i = 0; i < in->raw.prefix_count; i++)
		if (in->raw.prefixes[i].value == 0xf2 || in->raw.prefixes[i].value == 0xf3)
			return true;
	return false;
}

bool undefined_result(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op, const u64 gpr[16])
{
	const struct undefined_row *row = row_of(in);

	if (repeats_a_loop(in))
		return true;
	/* BSWAP of a 16-bit register: "the result is undefined". */
	if (in->mnemonic == ZYDIS_MNEMONIC_BSWAP)
		return op[0].size == 16;
	return row && row->rule == DOUBLE_SHIFT && count_of(in, op, gpr) > op[0].size;
}
