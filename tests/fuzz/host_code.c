/* SPDX-License-Identifier: Apache-2.0 */
#include "host_code.h"

#include "engine/bt/emit.h"

#include <Zydis/Zydis.h>
#include <string.h>

/* What a host register holds. */
enum holds {
	HOLDS_ANYTHING,
	HOLDS_TABLE, /* a shadow table */
	HOLDS_DELTA, /* from guest to host addresses of a page */
	HOLDS_HOST   /* the host address of guest memory */
};

struct insn {
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	u32 at;
};

struct judge {
	const struct bt_vcpu *v;
	const struct bt_block *b;
	u32 first;
	u8 holds[16];
	u8 before_check[16];	/* the same where a check of bounds begins, which leaves all registers as they were */
	u8 starts[0x11000 / 8]; /* bit n: an instruction starts n bytes behind the first */
};

static bool starts_at(const struct judge *j, u32 at)
{
	u32 n = at - j->first;

	return at >= j->first && at < j->b->end && (j->starts[n / 8] & 1u << n % 8);
}

static int gpr(ZydisRegister r)
{
	ZydisRegister full = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r);

	return ZydisRegisterGetClass(full) == ZYDIS_REGCLASS_GPR64 ? ZydisRegisterGetId(full) : -1;
}

static bool holds(const struct judge *j, ZydisRegister r, enum holds what)
{
	int n = gpr(r);

	return n >= 0 && j->holds[n] == what;
}

static bool writes(const ZydisDecodedOperand *o)
{
	return (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
}

/* ---- instructions */

static bool is_near(const struct insn *i)
{
	return i->in.meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR || i->in.meta.branch_type == ZYDIS_BRANCH_TYPE_SHORT;
}

static bool is_transfer(const struct insn *i)
{
	switch (i->in.meta.category) {
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_COND_BR:
		return true;
	default:
		return false;
	}
}

/* REP MOVS or STOS; where to is judged as with any access. */
static bool is_repeated_move(const struct insn *i)
{
	switch (i->in.mnemonic) {
	case ZYDIS_MNEMONIC_MOVSB:
	case ZYDIS_MNEMONIC_MOVSW:
	case ZYDIS_MNEMONIC_MOVSD:
	case ZYDIS_MNEMONIC_MOVSQ:
	case ZYDIS_MNEMONIC_STOSB:
	case ZYDIS_MNEMONIC_STOSW:
	case ZYDIS_MNEMONIC_STOSD:
	case ZYDIS_MNEMONIC_STOSQ:
		return i->in.address_width == 64 && (i->in.attributes & ZYDIS_ATTRIB_HAS_REP);
	default:
		return false;
	}
}

static const char *category_is_wrong(const struct insn *i)
{
	/* What RDTSC says is made the guest's before the guest sees it. */
	if (i->in.mnemonic == ZYDIS_MNEMONIC_RDTSC || is_repeated_move(i))
		return NULL;
	switch (i->in.meta.category) {
	case ZYDIS_CATEGORY_SYSTEM:
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_IO:
	case ZYDIS_CATEGORY_IOSTRINGOP:
	case ZYDIS_CATEGORY_SEGOP:
	case ZYDIS_CATEGORY_RDWRFSGS:
	case ZYDIS_CATEGORY_VTX:
	case ZYDIS_CATEGORY_SGX:
	case ZYDIS_CATEGORY_PKU:
	case ZYDIS_CATEGORY_PUSH:
	case ZYDIS_CATEGORY_POP:
	case ZYDIS_CATEGORY_STRINGOP:
		return "an instruction of a kind that is not to be carried out by the host";
	default:
		break;
	}
	if (i->in.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED)
		return "a privileged instruction";
	return is_transfer(i) && !is_near(i) ? "a far transfer" : NULL;
}

static const char *writes_are_wrong(const struct insn *i)
{
	for (u32 k = 0; k < i->in.operand_count; k++) {
		const ZydisDecodedOperand *o = &i->op[k];

		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER || !writes(o))
			continue;
		if (gpr(o->reg.value) == H_RSP && !is_transfer(i))
			return "a write to the host's rsp";
		if (ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_SEGMENT)
			return "a write to a segment register";
	}
	return NULL;
}

/* ---- where jumps go */

/* Among the trampolines: what lies before the first block. */
static bool is_in_engine(const struct bt_vcpu *v, u32 to)
{
	return to < v->cache_start;
}

static const char *target_is_wrong(const struct judge *j, const struct insn *i)
{
	const ZydisDecodedOperand *o = &i->op[0];
	u32 to;

	if (!is_transfer(i) || o->type != ZYDIS_OPERAND_TYPE_IMMEDIATE || i->in.meta.category == ZYDIS_CATEGORY_RET)
		return NULL;
	to = i->at + i->in.length + (u32)o->imm.value.s;
	return starts_at(j, to) || is_in_engine(j->v, to) ? NULL : "a jump to where nothing starts";
}

/* ---- memory */

static bool in_vcpu(const ZydisDecodedOperand *o)
{
	i64 off = o->mem.disp.value - bt_fs_offset();

	return o->mem.base == ZYDIS_REGISTER_NONE && off >= 0 && off + o->size / 8 <= (i64)sizeof(struct bt_vcpu) &&
	       (o->mem.index == ZYDIS_REGISTER_NONE || o->mem.index == ZYDIS_REGISTER_R11);
}

static bool is_table_entry(const struct judge *j, const ZydisDecodedOperand *o)
{
	if (writes(o) || o->mem.disp.value || o->mem.scale != 8 || o->size != 64)
		return false;
	return o->mem.segment == ZYDIS_REGISTER_GS ? o->mem.base == ZYDIS_REGISTER_NONE : holds(j, o->mem.base, HOLDS_TABLE);
}

static bool is_guest_memory(const struct judge *j, const ZydisDecodedOperand *o)
{
	const ZydisDecodedOperandMem *m = &o->mem;
	bool index = m->index != ZYDIS_REGISTER_NONE;

	if (m->segment == ZYDIS_REGISTER_FS || m->segment == ZYDIS_REGISTER_GS || m->base == ZYDIS_REGISTER_RIP)
		return false;
	if (holds(j, m->base, HOLDS_HOST))
		return !index;
	if (!index)
		return holds(j, m->base, HOLDS_DELTA);
	return m->scale == 1 && (holds(j, m->index, HOLDS_DELTA) || holds(j, m->base, HOLDS_DELTA));
}

/* The word of a near call or return. */
static bool is_return_stack(const struct insn *i, const ZydisDecodedOperand *o)
{
	return is_transfer(i) && o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN && o->mem.base == ZYDIS_REGISTER_RSP;
}

/* The byte that says whether a code page is known (emit_checked_entry): through a pointer from the vCPU. */
static bool is_known_page(const struct insn *i, const ZydisDecodedOperand *o)
{
	return i->in.mnemonic == ZYDIS_MNEMONIC_MOVZX && o->size == 8 && !writes(o) && o->mem.base == ZYDIS_REGISTER_RCX &&
	       o->mem.index == ZYDIS_REGISTER_NONE && o->mem.disp.value >= (i64)offsetof(struct bt_itlb, known) &&
	       o->mem.disp.value < (i64)sizeof(struct bt_itlb);
}

static const char *memory_is_wrong(const struct judge *j, const struct insn *i)
{
	for (u32 k = 0; k < i->in.operand_count; k++) {
		const ZydisDecodedOperand *o = &i->op[k];

		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
			continue;
		if (is_return_stack(i, o))
			continue;
		if (o->mem.segment == ZYDIS_REGISTER_FS ? in_vcpu(o) : is_table_entry(j, o) || is_guest_memory(j, o))
			continue;
		if (i->at < j->b->entry && is_known_page(i, o))
			continue;
		return "an access that is neither to the engine's structures nor through a delta";
	}
	return NULL;
}

/* ---- what registers hold behind an instruction */

static bool is_member(const ZydisDecodedOperand *o, size_t member, size_t size)
{
	i64 off = o->mem.disp.value - bt_fs_offset();

	return o->mem.segment == ZYDIS_REGISTER_FS && o->mem.index == ZYDIS_REGISTER_NONE && off >= (i64)member &&
	       off < (i64)(member + size);
}

static enum holds loaded(const struct judge *j, const ZydisDecodedOperand *o)
{
	if (o->size != 64)
		return HOLDS_ANYTHING;
	if (is_member(o, offsetof(struct bt_vcpu, super), sizeof j->v->super) ||
	    is_member(o, offsetof(struct bt_vcpu, view), sizeof j->v->view))
		return HOLDS_TABLE;
	if (is_member(o, offsetof(struct bt_vcpu, shared), sizeof j->v->shared) || is_table_entry(j, o))
		return HOLDS_DELTA;
	return HOLDS_ANYTHING;
}

static enum holds result_of(const struct judge *j, const struct insn *i)
{
	const ZydisDecodedOperand *o = &i->op[1];

	if (i->in.mnemonic == ZYDIS_MNEMONIC_MOV && o->type == ZYDIS_OPERAND_TYPE_MEMORY)
		return loaded(j, o);
	if (i->in.mnemonic == ZYDIS_MNEMONIC_MOV && o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->size == 64)
		return gpr(o->reg.value) >= 0 ? (enum holds)j->holds[gpr(o->reg.value)] : HOLDS_ANYTHING;
	if (i->in.mnemonic == ZYDIS_MNEMONIC_LEA && i->op[0].size == 64 && is_guest_memory(j, o))
		return HOLDS_HOST;
	return HOLDS_ANYTHING;
}

static bool begins_check(const struct insn *i)
{
	const ZydisDecodedOperand *o = &i->op[0];

	return i->in.mnemonic == ZYDIS_MNEMONIC_MOV && o->type == ZYDIS_OPERAND_TYPE_MEMORY &&
	       is_member(o, offsetof(struct bt_vcpu, bounds.rax), sizeof(u64));
}

static bool ends_check(const struct judge *j, const struct insn *i)
{
	u32 to = i->at + i->in.length + (u32)i->op[0].imm.value.s;

	return i->in.meta.category == ZYDIS_CATEGORY_CALL && i->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && GM_BOUNDS_CHECKS &&
	       (to == j->v->bounds_off[0] || to == j->v->bounds_off[1]);
}

static void note_writes(struct judge *j, const struct insn *i)
{
	enum holds first = result_of(j, i);

	for (u32 k = 0; k < i->in.operand_count; k++)
		if (i->op[k].type == ZYDIS_OPERAND_TYPE_REGISTER && writes(&i->op[k]) && gpr(i->op[k].reg.value) >= 0)
			j->holds[gpr(i->op[k].reg.value)] = (u8)(k ? HOLDS_ANYTHING : first);
	if (begins_check(i))
		memcpy(j->before_check, j->holds, sizeof(j->holds));
	if (ends_check(j, i))
		memcpy(j->holds, j->before_check, sizeof(j->holds));
	else if (i->in.meta.category == ZYDIS_CATEGORY_CALL)
		memset(j->holds, HOLDS_ANYTHING, sizeof(j->holds));
}

/* ---- the block's tables */

static const char *map_is_wrong(const struct judge *j, u32 *at)
{
	const struct bt_insn_map *m = &j->v->maps[j->b->map];

	for (u32 i = 0; i < j->b->ninsns; i++) {
		*at = j->b->checked + m[i].host;
		if (*at < j->b->entry || *at > j->b->end || m[i].guest > j->b->bytes)
			return "a map entry that leaves the block";
		if (*at < j->b->end && !starts_at(j, *at))
			return "a map entry inside an instruction";
		if (i && (m[i].host < m[i - 1].host || m[i].guest < m[i - 1].guest))
			return "a map that goes backwards";
	}
	return j->b->ninsns && m[j->b->ninsns - 1].flags & INSN_END ? NULL : "a map without an end";
}

static const char *exits_are_wrong(const struct judge *j, u32 *at)
{
	const struct bt_block *b = j->b;

	for (u32 i = 0; i < b->nexits; i++) {
		const struct bt_exit *x = &j->v->exits[b->first_exit + i];

		*at = x->patch;
		if (x->patch < j->first || x->patch + 4 > b->end || !starts_at(j, x->stub))
			return "an exit that leaves the block";
	}
	return NULL;
}

static bool decode(const struct judge *j, u32 at, struct insn *i)
{
	ZydisDecoder d;

	i->at = at;
	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, j->v->cache_rw + at, j->b->end - at, &i->in, i->op));
}

static const char *find_starts(struct judge *j, u32 *at)
{
	struct insn i;

	for (*at = j->first; *at < j->b->end; *at += i.in.length) {
		u32 n = *at - j->first;

		if (!decode(j, *at, &i))
			return "bytes that are no instruction";
		j->starts[n / 8] |= (u8)(1u << n % 8);
	}
	return starts_at(j, j->b->entry) ? NULL : "an entry inside an instruction";
}

static const char *insn_is_wrong(const struct judge *j, const struct insn *i)
{
	const char *wrong = category_is_wrong(i);

	if (!wrong)
		wrong = writes_are_wrong(i);
	if (!wrong)
		wrong = target_is_wrong(j, i);
	return wrong ? wrong : memory_is_wrong(j, i);
}

static const char *code_is_wrong(struct judge *j, u32 *at)
{
	struct insn i;

	for (*at = j->first; *at < j->b->end && decode(j, *at, &i); *at += i.in.length) {
		const char *wrong = insn_is_wrong(j, &i);

		if (wrong)
			return wrong;
		note_writes(j, &i);
	}
	return NULL;
}

const char *host_code_judge(const struct bt_vcpu *v, const struct bt_block *b, u32 first, u32 *at)
{
	struct judge j = {.v = v, .b = b, .first = first};
	const char *wrong = find_starts(&j, at);

	if (!wrong)
		wrong = code_is_wrong(&j, at);
	if (!wrong)
		wrong = map_is_wrong(&j, at);
	return wrong ? wrong : exits_are_wrong(&j, at);
}
