/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoded instructions, remembered or not, say what Zydis says, for the code of a whole program and for bytes that are hardly code, and what was handed
 * out stays as it was for as long as is promised.
 */
#include "engine/bt/bt.h"
#include "engine/bt/decode.h"

#include <elf.h>
#include <link.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HELD BT_DECODED_AT_ONCE

struct text {
	const u8 *bytes;
	u64 size;
};

struct held {
	const struct bt_insn *got;
	struct bt_insn then;
};

/* The largest executable segment of this process: a library's or the program's own. */
static int largest_text(struct dl_phdr_info *info, size_t size, void *opaque)
{
	struct text *t = opaque;

	for (u32 i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		if (p->p_type == PT_LOAD && (p->p_flags & PF_X) && (p->p_flags & PF_R) && p->p_filesz > t->size)
			*t = (struct text){(const u8 *)(info->dlpi_addr + p->p_vaddr), p->p_filesz};
	}
	return 0;
}

static bool has(const ZydisDecodedInstruction *in, ZydisInstructionAttributes any)
{
	return (in->attributes & any) != 0;
}

static void assert_same_bytes(const struct bt_insn *got, const ZydisDecodedInstruction *in, const u8 *bytes)
{
	u32 immediates = (in->raw.imm[0].size + in->raw.imm[1].size) / 8;

	assert_int_equal(got->length, in->length);
	assert_int_equal(got->encoding, in->encoding);
	assert_int_equal(got->opcode_map, in->opcode_map);
	assert_int_equal(got->opcode, in->opcode);
	assert_int_equal(got->modrm.reg, in->raw.modrm.reg);
	assert_int_equal(got->modrm.rm, in->raw.modrm.rm);
	assert_int_equal(got->immediates, immediates);
	if (immediates)
		assert_int_equal(got->length - got->immediates, in->raw.imm[0].offset);
	assert_int_equal(got->prefixes, in->raw.prefix_count);
	for (u32 i = 0; i < got->prefixes; i++)
		assert_int_equal(bytes[i], in->raw.prefixes[i].value);
	if (got->has_rex)
		assert_int_equal(got->prefix, in->raw.rex.offset);
	if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		assert_true(got->prefix == in->raw.vex.offset && (bytes[got->prefix] & 0xfe) == 0xc4);
	if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX)
		assert_true(got->prefix == in->raw.evex.offset && bytes[got->prefix] == 0x62);
}

static void assert_same_meaning(const struct bt_insn *got, const ZydisDecodedInstruction *in)
{
	u32 needs = bt_native_needs(in);

	assert_int_equal(got->mnemonic, in->mnemonic);
	assert_int_equal(got->operand_width, in->operand_width);
	assert_int_equal(got->address_width, in->address_width);
	assert_int_equal(got->has_modrm, has(in, ZYDIS_ATTRIB_HAS_MODRM));
	assert_int_equal(got->has_rex, has(in, ZYDIS_ATTRIB_HAS_REX));
	assert_int_equal(got->has_lock, has(in, ZYDIS_ATTRIB_HAS_LOCK));
	assert_int_equal(got->has_rep, has(in, ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE));
	assert_int_equal(got->has_operandsize, has(in, ZYDIS_ATTRIB_HAS_OPERANDSIZE));
	assert_int_equal(got->has_fs_gs, has(in, ZYDIS_ATTRIB_HAS_SEGMENT_FS | ZYDIS_ATTRIB_HAS_SEGMENT_GS));
	assert_int_equal(got->is_far, in->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR);
	assert_int_equal(got->native, needs != ~0u);
	if (got->native)
		assert_int_equal(got->needs, needs);
	else
		assert_int_equal(got->needs, 0);
}

/* Of a ModRM byte's SIB byte without a base Zydis says that r13 is the base when REX.B is set. */
static bool has_no_base(const ZydisDecodedInstruction *in)
{
	return in->raw.modrm.mod == 0 && in->raw.modrm.rm == 4 && in->raw.sib.base == 5;
}

static void assert_same_address(const struct bt_operand *got, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *o)
{
	bool no_base = o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM && has_no_base(in);

	assert_int_equal(got->mem.segment, o->mem.segment);
	assert_int_equal(got->mem.index, o->mem.index);
	assert_int_equal(got->mem.scale, o->mem.scale);
	assert_int_equal(got->mem.base, no_base ? ZYDIS_REGISTER_NONE : o->mem.base);
	if (no_base)
		assert_int_equal(got->mem.disp, in->raw.disp.value);
	else
		assert_int_equal(got->mem.disp, o->mem.disp.has_displacement ? (i32)o->mem.disp.value : 0);
}

static void assert_same_operand(const struct bt_operand *got, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *o)
{
	assert_int_equal(got->type, o->type);
	assert_int_equal(got->actions, o->actions);
	assert_int_equal(got->size, o->size);
	if (o->type == ZYDIS_OPERAND_TYPE_REGISTER)
		assert_int_equal(got->reg.value, o->reg.value);
	else if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
		assert_int_equal(got->imm.value, (i32)o->imm.value.s);
	else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
		assert_same_address(got, in, o);
}

static bool is_accessed(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.type == ZYDIS_MEMOP_TYPE_MEM;
}

static void assert_same_operands(const struct bt_insn *got, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
	u32 memories = 0;

	for (u32 i = 0; i < 2; i++) {
		if (i < in->operand_count)
			assert_same_operand(&got->op[i], in, &op[i]);
		else
			assert_int_equal(got->op[i].type, ZYDIS_OPERAND_TYPE_UNUSED);
	}
	for (u32 i = 0; i < in->operand_count; i++) {
		if (!is_accessed(&op[i]) || op[i].encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM)
			continue;
		assert_int_equal(got->memory, i < 2 ? i : 2);
		assert_same_operand(&got->op[got->memory], in, &op[i]);
		memories++;
	}
	assert_int_equal(memories, got->memory < BT_OPERANDS);
}

static u16 written(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
	u16 mask = 0;

	for (u32 i = 0; i < in->operand_count; i++) {
		ZydisRegister r = op[i].type == ZYDIS_OPERAND_TYPE_REGISTER ? op[i].reg.value : ZYDIS_REGISTER_NONE;
		ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r);
		if (ZydisRegisterGetClass(whole) == ZYDIS_REGCLASS_GPR64 && (op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			mask |= (u16)(1u << ZydisRegisterGetId(whole));
	}
	return mask;
}

/* Which register a field names is what the bits say. */
static void assert_same_fields(const struct bt_insn *got, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
	for (u32 i = 0; i < in->operand_count && got->copies; i++) {
		ZydisRegister r = op[i].type == ZYDIS_OPERAND_TYPE_REGISTER ? op[i].reg.value : ZYDIS_REGISTER_NONE;
		ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r);
		const struct bt_named *n = op[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG  ? &got->field[F_REG]
					   : op[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ? &got->field[F_RM]
					   : op[i].encoding == ZYDIS_OPERAND_ENCODING_NDSNDD   ? &got->field[F_VVVV]
					   : op[i].encoding == ZYDIS_OPERAND_ENCODING_OPCODE   ? &got->field[F_OPCODE]
											       : NULL;
		if (!n)
			continue;
		assert_int_equal(n->any, ZydisRegisterGetClass(whole) == ZYDIS_REGCLASS_GPR64);
		if (!n->any)
			continue;
		assert_int_equal(n->guest, ZydisRegisterGetId(whole));
		assert_int_equal(n->high, r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH);
		assert_true(n->written || !(op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE));
		assert_true(n->loaded || !(op[i].actions & ZYDIS_OPERAND_ACTION_MASK_READ));
	}
}

static void assert_same_facts(const struct bt_insn *got, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
	bool memory = false, rsp = false;

	for (u32 i = 0; i < in->operand_count_visible; i++) {
		memory |= is_accessed(&op[i]);
		rsp |= op[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		       ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, op[i].reg.value) == ZYDIS_REGISTER_RSP;
	}
	assert_int_equal(got->has_memory, memory);
	assert_int_equal(got->names_rsp, rsp);
	assert_int_equal(got->written, written(in, op));
	if (got->copies) {
		assert_int_equal(got->has_memory, got->memory < BT_OPERANDS);
		assert_false(got->special);
	}
}

static void assert_same(const struct bt_insn *got, const u8 *bytes, u32 avail)
{
	ZydisDecoder d;
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecoderContext context;

	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	assert_int_equal(ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&d, &context, bytes, avail < 15 ? avail : 15, &in)), got->valid);
	if (!got->valid)
		return;
	assert_true(ZYAN_SUCCESS(ZydisDecoderDecodeOperands(&d, &context, &in, op, in.operand_count)));
	assert_same_bytes(got, &in, bytes);
	assert_same_meaning(got, &in);
	assert_same_operands(got, &in, op);
	assert_same_fields(got, &in, op);
	assert_same_facts(got, &in, op);
}

static void assert_held(const struct held *h)
{
	if (h->got)
		assert_memory_equal(h->got, &h->then, sizeof h->then);
}

/* Instruction after instruction; `rounds` times, so that most have been seen. */
static void decode_all(const u8 *bytes, u64 size, u32 rounds)
{
	struct err e;
	struct bt_decoder *d = bt_decoder_new(&e);
	struct held *held = calloc(HELD, sizeof *held);
	u64 n = 0;

	assert_non_null(d);
	assert_non_null(held);
	while (rounds--) {
		for (u64 at = 0; at + 15 < size; n++) {
			u32 avail = n % 7 ? 15 : (u32)(n % 16);
			const struct bt_insn *got = bt_decode(d, bytes + at, avail).is;
			struct held *h = &held[n % HELD];
			assert_same(got, bytes + at, avail);
			assert_held(h);
			*h = (struct held){got, *got};
			at += got->valid ? got->length : 1;
		}
	}
	free(held);
	bt_decoder_free(d);
}

static void programs(void **state)
{
	struct text t = {0};

	dl_iterate_phdr(largest_text, &t);
	assert_true(t.size > 64 * KiB);
	decode_all(t.bytes, t.size < MiB ? t.size : MiB, 1);
}

/* Few enough that all are remembered, and asked for again. */
static void little_code(void **state)
{
	struct text t = {0};

	dl_iterate_phdr(largest_text, &t);
	decode_all(t.bytes + t.size / 2, 1024, 100);
}

static void noise(void **state)
{
	u8 *bytes = malloc(MiB);
	u64 x = 88172645463325252ull;

	assert_non_null(bytes);
	for (u32 i = 0; i < MiB; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		bytes[i] = (u8)(x >> 32 & (i % 5 ? 0xff : 0x4f)); /* prefixes more often */
	}
	decode_all(bytes, MiB / 4, 1);
	free(bytes);
}

/* The same instructions at ever other distances from rip. */
static void distances(void **state)
{
	/* how many bytes stand before the distance, and they */
	static const u8 kinds[][4] = {
		{1, 0xe8},
		{1, 0xe9},
		{2, 0x0f, 0x84},
		{3, 0x48, 0x8b, 0x05},
		{2, 0x8b, 0x0d},
		{3, 0x67, 0x8b, 0x05},
		{2, 0x80, 0x3d},
		{3, 0x48, 0x83, 0x3d},
		{2, 0x66, 0xe8},
		{2, 0xff, 0x15},
		{3, 0xc5, 0xf0, 0x85},
	};
	struct err e;
	struct bt_decoder *d = bt_decoder_new(&e);

	assert_non_null(d);
	for (u32 i = 0; i < 2000; i++) {
		const u8 *k = kinds[i % ARRAY_SIZE(kinds)];
		u8 bytes[24] = {0};
		u32 distance = i * 0x9e3779b1u;
		memcpy(bytes, k + 1, k[0]);
		memcpy(bytes + k[0], &distance, sizeof distance);
		bytes[7] ^= (u8)(i >> 3); /* an immediate behind it */
		assert_same(bt_decode(d, bytes, 15).is, bytes, 15);
	}
	bt_decoder_free(d);
}

/* What is known of an instruction, decoded and remembered. */
static struct bt_insn known(const char *bytes, u32 n)
{
	struct err e;
	struct bt_decoder *d = bt_decoder_new(&e);
	u8 all[16] = {0};
	struct bt_insn i;

	assert_non_null(d);
	memcpy(all, bytes, n);
	i = *bt_decode(d, all, 15).is;
	assert_memory_equal(bt_decode(d, all, 15).is, &i, sizeof i);
	bt_decoder_free(d);
	assert_true(i.valid);
	assert_int_equal(i.length, n);
	return i;
}
#define KNOWN(bytes) known(bytes, sizeof bytes - 1)

static void facts(void **state)
{
	assert_int_equal(KNOWN("\x53").written, 1u << 4);		    /* push rbx */
	assert_int_equal(KNOWN("\x48\xf7\xe1").written, 1u << 0 | 1u << 2); /* mul rcx */
	assert_int_equal(KNOWN("\xf3\x41\x90").row.kind, K_INTERP);	    /* xchg r8, rax */
	assert_true(KNOWN("\x0f\x22\xd8").special);			    /* mov cr3, rax */
	assert_true(KNOWN("\x8e\x18").special);				    /* mov ds, [rax] */
	assert_false(KNOWN("\x53").special);
	assert_true(KNOWN("\xcb").is_far); /* retf */
	assert_false(KNOWN("\xc3").is_far);
	assert_true(KNOWN("\xa5").is_string);			     /* movsd */
	assert_true(KNOWN("\x6d").is_string);			     /* insd */
	assert_false(KNOWN("\xf2\x0f\x10\xc1").is_string);	     /* movsd xmm0, xmm1 */
	assert_true(KNOWN("\x48\x89\xc4").names_rsp);		     /* mov rsp, rax */
	assert_false(KNOWN("\x48\x89\x04\x24").names_rsp);	     /* mov [rsp], rax */
	assert_int_equal(KNOWN("\xf2\x0f\x10\xc1").needs, MODE_SSE); /* movsd xmm0, xmm1 */
	assert_false(KNOWN("\x0f\x05").native);			     /* syscall */
}

static void what_a_copy_needs(void **state)
{
	struct bt_insn bsf = KNOWN("\x48\x0f\xbc\xc1"), shl = KNOWN("\xd3\xe3"), rdtscp = KNOWN("\x0f\x01\xf9"), mov_ah = KNOWN("\x88\xdc"),
		       bswap = KNOWN("\x41\x0f\xc9"), andn = KNOWN("\xc4\xe2\x60\xf2\xc1");

	assert_true(bsf.copies && bsf.field[F_REG].any && bsf.field[F_REG].written && bsf.field[F_REG].loaded);
	assert_true(shl.copies && shl.rcx_in && !shl.rcx_out && shl.field[F_RM].guest == R_RBX);
	assert_true(rdtscp.rcx_in && rdtscp.rcx_out);
	assert_true(mov_ah.field[F_RM].high && mov_ah.field[F_RM].guest == R_RAX && !mov_ah.field[F_REG].high);
	assert_true(bswap.field[F_OPCODE].guest == R_R9 && !bswap.field[F_RM].any);
	assert_true(andn.field[F_VVVV].guest == R_RBX && !andn.field[F_VVVV].written && andn.field[F_REG].written &&
		    !andn.field[F_REG].loaded);
	assert_true(KNOWN("\x48\x8d\x04\x0b").copies);		/* lea rax, [rbx+rcx] */
	assert_false(KNOWN("\xa4").copies);			/* movsb: where it goes is not named */
	assert_false(KNOWN("\x0f\xae\x00").copies);		/* fxsave [rax]: too large */
	assert_false(KNOWN("\x0f\x20\xc0").copies);		/* mov rax, cr0 */
	assert_false(KNOWN("\xc4\xe2\x71\x92\x04\x10").copies); /* vgatherdps: several addresses */
}

static void memory_operands(void **state)
{
	struct bt_insn no_base = KNOWN("\x41\x8b\x04\x25\x00\x10\x00\x80"), offset = KNOWN("\xa1\x00\x10\x00\x00\x00\x00\x00\x00"),
		       masked = KNOWN("\x62\xf1\x6c\x49\x58\x48\x01");

	assert_int_equal(no_base.memory, 1);
	assert_int_equal(no_base.op[1].mem.base, ZYDIS_REGISTER_NONE);
	assert_int_equal(no_base.op[1].mem.disp, INT32_MIN + 0x1000);
	assert_true(offset.has_memory && offset.memory == BT_OPERANDS && !offset.copies);
	assert_true(masked.copies && masked.memory == 2); /* vaddps zmm1{k1}, zmm2, [rax+64] */
	assert_int_equal(masked.op[2].size, 512);
	assert_int_equal(masked.op[2].mem.disp, 64);
	assert_int_equal(KNOWN("\x48\x8d\x04\x0b").memory, BT_OPERANDS); /* lea rax, [rbx+rcx] */
}

static void ends_too_early(void **state)
{
	static const u8 mul[16] = {0x48, 0xf7, 0xe1};
	struct err e;
	struct bt_decoder *d = bt_decoder_new(&e);

	assert_non_null(d);
	assert_false(bt_decode(d, mul, 2).is->valid);
	assert_int_equal(bt_decode(d, mul, 2).is->row.kind, K_STOP);
	assert_true(bt_decode(d, mul, 3).is->valid);
	assert_false(bt_decode(d, mul, 2).is->valid);
	assert_false(bt_decode(d, mul, 0).is->valid);
	bt_decoder_free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(programs),	   cmocka_unit_test(little_code),    cmocka_unit_test(noise),
		cmocka_unit_test(distances),	   cmocka_unit_test(facts),	     cmocka_unit_test(what_a_copy_needs),
		cmocka_unit_test(memory_operands), cmocka_unit_test(ends_too_early),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
