/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Re-encoding a vector instruction of any mode so that the host's unit can run it in 64-bit code: prefixes that only concern addressing go,
 * the memory operand becomes [base] with base a free register, RSP as an operand becomes another free register.
 *
 * The result is decoded again and must be the same operation; an instruction for which that fails counts as unknown.
 * Threading: none; works on its arguments.
 */
#include "engine/bt/interp_fpu.h"

struct encoder {
	const ZydisDecodedInstruction *z;
	const ZydisDecodedOperand *o;
	const u8 *bytes;
	bool mem, code64, drop_w, wide_kmov;
	u8 base, alias; /* host registers: memory operand, stand-in for RSP */
	u8 out[24];
	u32 n;
};

static bool is_gpr(const ZydisDecodedOperand *o)
{
	ZydisRegisterClass cl;

	if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return false;
	cl = ZydisRegisterGetClass(o->reg.value);
	return cl == ZYDIS_REGCLASS_GPR8 || cl == ZYDIS_REGCLASS_GPR16 || cl == ZYDIS_REGCLASS_GPR32 || cl == ZYDIS_REGCLASS_GPR64;
}

static u32 gpr_number(ZydisRegister r)
{
	return (u32)ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r));
}

/* Two low registers that the instruction does not name: one needs no REX bits and is neither RSP nor RBP. */
static void choose_registers(struct encoder *e)
{
	static const u8 candidates[] = {R_RBX, R_RSI, R_RDI, R_RDX, R_RCX, R_RAX};
	u8 found[2] = {R_RBX, R_RSI};
	u32 used = 0, n = 0;

	for (u32 k = 0; k < e->z->operand_count; k++)
		if (is_gpr(&e->o[k]))
			used |= 1u << gpr_number(e->o[k].reg.value);
	for (u32 k = 0; k < sizeof(candidates) && n < 2; k++)
		if (!(used >> candidates[k] & 1))
			found[n++] = candidates[k];
	e->base = found[0];
	e->alias = found[1];
}

static void emit(struct encoder *e, u32 byte)
{
	e->out[e->n++] = (u8)byte;
}

static void legacy_prefixes(struct encoder *e)
{
	const ZydisDecodedInstruction *z = e->z;

	for (u32 k = 0; k < z->raw.prefix_count; k++) {
		u8 v = z->raw.prefixes[k].value;

		if (v == 0x66 || v == 0xf2 || v == 0xf3)
			emit(e, v);
	}
	if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && (z->attributes & ZYDIS_ATTRIB_HAS_REX))
		emit(e, 0x40u | (u32)z->raw.rex.W << 3 | (u32)z->raw.rex.R << 2 | (e->mem ? 0u : (u32)z->raw.rex.B));
}

static void opcode_bytes(struct encoder *e, u32 from)
{
	u32 end = e->z->attributes & ZYDIS_ATTRIB_HAS_MODRM ? e->z->raw.modrm.offset : e->z->length;

	for (u32 k = from; k < end; k++)
		emit(e, e->bytes[k]);
}

/* Fields that 32-bit code ignores are set to what means "no extension". Extension bits are inverted. */
static void vex_prefix(struct encoder *e)
{
	u32 at = e->z->raw.vex.offset, b1 = e->bytes[at + 1], b2 = e->bytes[at + 2];

	emit(e, e->bytes[at]);
	if (e->bytes[at] == 0xc5) {
		emit(e, b1);
		opcode_bytes(e, at + 2);
		return;
	}
	if (e->mem)
		b1 |= 0x60;
	if (!e->code64) {
		b1 |= 0xe0;
		b2 |= 0x40;
	}
	if (e->drop_w)
		b2 &= 0x7f;
	emit(e, b1);
	emit(e, b2);
	opcode_bytes(e, at + 3);
}

static void evex_prefix(struct encoder *e)
{
	u32 at = e->z->raw.evex.offset, p0 = e->bytes[at + 1], p1 = e->bytes[at + 2], p2 = e->bytes[at + 3];

	if (e->mem)
		p0 |= 0x60;
	if (!e->code64) {
		p0 |= 0xf0;
		p1 |= 0x40;
		p2 |= 0x08;
	}
	if (e->drop_w)
		p1 &= 0x7f;
	emit(e, 0x62);
	emit(e, p0);
	emit(e, p1);
	emit(e, p2);
	opcode_bytes(e, at + 4);
}

/* RSP as a register operand is renamed where ModRM names it. */
static void modrm_and_rest(struct encoder *e)
{
	const ZydisDecodedInstruction *z = e->z;
	u32 reg = z->raw.modrm.reg, rm = z->raw.modrm.rm, mod = z->raw.modrm.mod, rest;

	if (!(z->attributes & ZYDIS_ATTRIB_HAS_MODRM))
		return;
	for (u32 k = 0; k < z->operand_count_visible; k++) {
		if (!is_gpr(&e->o[k]) || gpr_number(e->o[k].reg.value) != R_RSP)
			continue;
		if (e->o[k].encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
			reg = e->alias;
		else if (e->o[k].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
			rm = e->alias;
	}
	rest = z->raw.modrm.offset + 1u + !!(z->attributes & ZYDIS_ATTRIB_HAS_SIB) + z->raw.disp.size / 8u;
	if (e->mem) {
		mod = 0;
		rm = e->base;
	}
	emit(e, mod << 6 | reg << 3 | rm);
	for (u32 k = rest; k < z->length; k++)
		emit(e, e->bytes[k]);
}

/* A register in the top half of an immediate: 32-bit code ignores its highest bit. */
static void fix_is4(struct encoder *e)
{
	for (u32 k = 0; k < e->z->operand_count_visible; k++)
		if (e->o[k].encoding == ZYDIS_OPERAND_ENCODING_IS4 && !e->code64)
			e->out[e->n - 1] &= 0x7f;
}

static void encode(struct encoder *e)
{
	e->n = 0;
	switch (e->z->encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_VEX:
		vex_prefix(e);
		break;
	case ZYDIS_INSTRUCTION_ENCODING_EVEX:
		evex_prefix(e);
		break;
	default:
		legacy_prefixes(e);
		opcode_bytes(e, e->z->raw.prefix_count);
		break;
	}
	modrm_and_rest(e);
	fix_is4(e);
}

static bool same_register(const struct encoder *e, const ZydisDecodedOperand *a, const ZydisDecodedOperand *b)
{
	if (!is_gpr(a))
		return a->reg.value == b->reg.value;
	if (gpr_number(a->reg.value) == R_RSP)
		return gpr_number(b->reg.value) == e->alias;
	return e->wide_kmov ? gpr_number(a->reg.value) == gpr_number(b->reg.value) : a->reg.value == b->reg.value;
}

static bool same_operand(const struct encoder *e, const ZydisDecodedOperand *a, const ZydisDecodedOperand *b)
{
	if (a->type != b->type || (a->size != b->size && !e->wide_kmov))
		return false;
	if (a->type == ZYDIS_OPERAND_TYPE_MEMORY)
		return gpr_number(b->mem.base) == e->base && b->mem.index == ZYDIS_REGISTER_NONE;
	if (a->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
		return a->imm.value.u == b->imm.value.u;
	return same_register(e, a, b);
}

static bool same_operation(const struct encoder *e, const ZydisDecoder *d64)
{
	ZydisDecodedInstruction z;
	ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];

	if (e->n > 15 || !ZYAN_SUCCESS(ZydisDecoderDecodeFull(d64, e->out, e->n, &z, o)))
		return false;
	if (z.mnemonic != (e->wide_kmov ? ZYDIS_MNEMONIC_KMOVQ : e->z->mnemonic) || z.length != e->n ||
	    z.operand_count_visible != e->z->operand_count_visible)
		return false;
	for (u32 k = 0; k < z.operand_count_visible; k++)
		if (!same_operand(e, &e->o[k], &o[k]))
			return false;
	return true;
}

static bool names_rsp(const struct encoder *e)
{
	for (u32 k = 0; k < e->z->operand_count_visible; k++)
		if (is_gpr(&e->o[k]) && gpr_number(e->o[k].reg.value) == R_RSP)
			return true;
	return false;
}

/* W makes these look at RAX and RDX, which no operand shows; 32-bit code ignores it. */
static bool has_wide_lengths(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_VPCMPESTRI || m == ZYDIS_MNEMONIC_VPCMPESTRM;
}

/* KMOVD between a mask and a general register, with W: AMD's CPUs move 64 bits in 32-bit code, too, as the next such KMOVD shows. */
static bool is_wide_kmov(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o)
{
	return z->mnemonic == ZYDIS_MNEMONIC_KMOVD && z->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 && z->raw.vex.W &&
	       (is_gpr(&o[0]) || is_gpr(&o[1]));
}

bool interp_encode(struct interp_insn *i, const u8 *bytes, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o,
		   const ZydisDecoder *d64, bool amd)
{
	struct encoder e = {.z = z, .o = o, .bytes = bytes, .code64 = z->machine_mode == ZYDIS_MACHINE_MODE_LONG_64};

	e.mem = i->mem != 0xff;
	e.wide_kmov = amd && is_wide_kmov(z, o);
	e.drop_w = !e.code64 && has_wide_lengths(z->mnemonic);
	choose_registers(&e);
	encode(&e);
	if (!same_operation(&e, d64)) {
		/* Outside 64-bit code some instructions with general registers ignore W. */
		e.drop_w = !e.code64;
		encode(&e);
		if (!e.drop_w || !same_operation(&e, d64))
			return false;
	}
	memset(i->tbytes, 0, sizeof(i->tbytes));
	memcpy(i->tbytes, e.out, e.n);
	i->tlen = (u8)e.n;
	i->base_reg = e.base;
	i->rsp_reg = names_rsp(&e) ? e.alias : 0xff;
	return true;
}
