/* SPDX-License-Identifier: Apache-2.0 */
/* What is known of an instruction, found out once. See insn.h. Heavy code; threading: none. */
#include "engine/bt/insn.h"

#include "engine/bt/tr.h"

/* ---- operands */

static bool is_mem(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.type == ZYDIS_MEMOP_TYPE_MEM;
}

static bool is_modrm_mem(const ZydisDecodedOperand *o)
{
	return is_mem(o) && o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM;
}

static bool writes(const ZydisDecodedOperand *o)
{
	return (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
}

/* A SIB byte without a base, whatever REX.B says; Zydis 4.0 takes r13 for a base then. */
static bool has_no_base(const ZydisDecodedInstruction *in)
{
	return in->raw.modrm.mod == 0 && in->raw.modrm.rm == 4 && in->raw.sib.base == 5;
}

static void keep_memory(struct bt_operand *k, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *o)
{
	k->mem.segment = (u8)o->mem.segment;
	k->mem.base = (u8)o->mem.base;
	k->mem.index = (u8)o->mem.index;
	k->mem.scale = o->mem.scale;
	k->mem.disp = o->mem.disp.has_displacement ? (i32)o->mem.disp.value : 0;
	if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM && has_no_base(in)) {
		k->mem.base = ZYDIS_REGISTER_NONE;
		k->mem.disp = (i32)in->raw.disp.value;
	}
}
_Static_assert(ZYDIS_REGISTER_ZMM31 <= UINT8_MAX && ZYDIS_REGISTER_RIP <= UINT8_MAX && ZYDIS_REGISTER_GS <= UINT8_MAX, "of addresses");

static struct bt_operand kept(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *o)
{
	struct bt_operand k = {.type = (u8)o->type, .actions = o->actions, .size = o->size};

	switch (o->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		k.reg.value = (u16)o->reg.value;
		break;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		keep_memory(&k, in, o);
		break;
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		k.imm.value = (i32)o->imm.value.s;
		break;
	default:
		break;
	}
	return k;
}

static void keep_operands(struct bt_insn *i, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
	i->memory = BT_OPERANDS;
	for (u32 n = 0; n < in->operand_count; n++) {
		bool memory = i->memory == BT_OPERANDS && is_modrm_mem(&op[n]);
		u32 at = n < BT_OPERANDS - 1 ? n : BT_OPERANDS - 1;

		if (memory)
			i->memory = (u8)at;
		if (memory || n < BT_OPERANDS - 1)
			i->op[at] = kept(in, &op[n]);
	}
}

/* ---- registers and memory: what is done to them */

static bool is_special(ZydisRegister r)
{
	switch (ZydisRegisterGetClass(r)) {
	case ZYDIS_REGCLASS_SEGMENT:
	case ZYDIS_REGCLASS_CONTROL:
	case ZYDIS_REGCLASS_DEBUG:
		return true;
	default:
		return false;
	}
}

static void note_register(struct bt_insn *i, const ZydisDecodedOperand *o, bool visible)
{
	int g = tr_gpr(o->reg.value);

	if (g >= 0 && writes(o))
		i->written |= (u16)(1u << g);
	i->special |= visible && g < 0 && is_special(o->reg.value);
	i->names_rsp |= visible && g == R_RSP;
}

static void note_effects(struct bt_insn *i, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
	for (u32 n = 0; n < in->operand_count; n++) {
		bool visible = n < in->operand_count_visible;

		if (op[n].type == ZYDIS_OPERAND_TYPE_REGISTER)
			note_register(i, &op[n], visible);
		i->has_memory |= visible && is_mem(&op[n]);
	}
}

/* ---- can it be copied? */

static int field_of(const ZydisDecodedOperand *o)
{
	switch (o->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG:
		return F_REG;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM:
		return F_RM;
	case ZYDIS_OPERAND_ENCODING_NDSNDD:
		return F_VVVV;
	case ZYDIS_OPERAND_ENCODING_OPCODE:
		return F_OPCODE;
	default:
		return -1;
	}
}

/* The old value matters: read, conditionally written, or only a part of the register is replaced. */
static bool needs_old(const ZydisDecodedOperand *o)
{
	return (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ) || (o->actions & ZYDIS_OPERAND_ACTION_CONDWRITE) || o->size < 32;
}

/* No other register than rcx that is used without being named lives elsewhere in a copy. */
static bool copies_implicit(struct bt_insn *i, const ZydisDecodedOperand *o)
{
	int g = tr_gpr(o->reg.value);

	if (g < 0)
		return true;
	if (g == R_RCX) {
		i->rcx_in = true;
		i->rcx_out |= writes(o);
		return true;
	}
	return tr_host((u32)g) == g;
}

static bool copies_register(struct bt_insn *i, const ZydisDecodedOperand *o)
{
	int field = field_of(o), g = tr_gpr(o->reg.value);

	if (is_special(o->reg.value) || ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_TEST)
		return false;
	if (field < 0)
		return copies_implicit(i, o);
	if (g < 0)
		return true;
	i->field[field].any = true;
	i->field[field].guest = (u32)g & 15u;
	i->field[field].high = tr_is_high8(o->reg.value);
	i->field[field].written |= writes(o);
	i->field[field].loaded |= needs_old(o);
	return true;
}

/* One operand, where ModRM says, of a size that one look-up covers: what Zydis calls the access may exceed that. */
static bool copies_memory(const ZydisDecodedOperand *o, bool first)
{
	if (o->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
		return true;
	return first && is_modrm_mem(o) && o->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN && o->size >= 8 && o->size <= 512;
}

static bool copies(struct bt_insn *i, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
	bool first = true;

	for (u32 n = 0; n < in->operand_count; n++) {
		const ZydisDecodedOperand *o = &op[n];
		if (o->type == ZYDIS_OPERAND_TYPE_POINTER || (o->type == ZYDIS_OPERAND_TYPE_REGISTER && !copies_register(i, o)) ||
		    (o->type == ZYDIS_OPERAND_TYPE_MEMORY && !copies_memory(o, first)))
			return false;
		first &= !is_mem(o);
	}
	/* BSF and BSR leave the destination alone when the source is zero. */
	if (in->mnemonic == ZYDIS_MNEMONIC_BSF || in->mnemonic == ZYDIS_MNEMONIC_BSR)
		i->field[F_REG].loaded = true;
	return true;
}

/* ---- the instruction */

static struct bt_row row_of(const ZydisDecodedInstruction *in)
{
	if (in->mnemonic == ZYDIS_MNEMONIC_PAUSE && (in->raw.rex.B & 1))
		return (struct bt_row){K_INTERP, 0}; /* XCHG r8, rax: REX.B makes 90 an exchange whatever prefix precedes it */
	return bt_row_of(in->mnemonic);
}

static bool has(const ZydisDecodedInstruction *in, ZydisInstructionAttributes any)
{
	return (in->attributes & any) != 0;
}

static u8 prefix_of(const ZydisDecodedInstruction *in)
{
	switch (in->encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_VEX:
		return in->raw.vex.offset;
	case ZYDIS_INSTRUCTION_ENCODING_EVEX:
		return in->raw.evex.offset;
	default:
		return in->raw.rex.offset;
	}
}

static void note_encoding(struct bt_insn *i, const ZydisDecodedInstruction *in)
{
	i->length = in->length;
	i->encoding = (u8)in->encoding;
	i->opcode_map = (u8)in->opcode_map;
	i->opcode = in->opcode;
	i->prefixes = in->raw.prefix_count;
	i->prefix = prefix_of(in);
	i->immediates = (u8)((in->raw.imm[0].size + in->raw.imm[1].size) / 8);
	i->modrm.reg = in->raw.modrm.reg;
	i->modrm.rm = in->raw.modrm.rm;
	i->has_modrm = has(in, ZYDIS_ATTRIB_HAS_MODRM);
	i->has_rex = has(in, ZYDIS_ATTRIB_HAS_REX);
	i->has_lock = has(in, ZYDIS_ATTRIB_HAS_LOCK);
	i->has_rep = has(in, ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
	i->has_operandsize = has(in, ZYDIS_ATTRIB_HAS_OPERANDSIZE);
	i->has_fs_gs = has(in, ZYDIS_ATTRIB_HAS_SEGMENT_FS | ZYDIS_ATTRIB_HAS_SEGMENT_GS);
}

static void note_meaning(struct bt_insn *i, const ZydisDecodedInstruction *in)
{
	u32 needs = bt_native_needs(in);

	i->row = row_of(in);
	i->native = needs != ~0u;
	i->needs = i->native ? (u8)needs : 0;
	i->mnemonic = (u16)in->mnemonic;
	i->operand_width = in->operand_width;
	i->address_width = in->address_width;
	i->is_far = in->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
	i->is_string = in->meta.category == ZYDIS_CATEGORY_STRINGOP || in->meta.category == ZYDIS_CATEGORY_IOSTRINGOP;
}

struct bt_insn bt_insn_of(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
	struct bt_insn i = {.valid = true};

	note_encoding(&i, in);
	note_meaning(&i, in);
	keep_operands(&i, in, op);
	note_effects(&i, in, op);
	i.copies = copies(&i, in, op);
	return i;
}

static bool is_next_to_rip(const struct bt_operand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_MEMORY && (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP);
}

/* Before a memory operand next to rip there is no immediate one; a branch's is not always the first (JKZD). */
void bt_insn_set_distance(struct bt_insn *i, i32 distance)
{
	for (u32 n = 0; n < BT_OPERANDS; n++) {
		struct bt_operand *o = &i->op[n];
		if (is_next_to_rip(o))
			o->mem.disp = distance;
		else if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
			o->imm.value = distance;
		else
			continue;
		return;
	}
}
