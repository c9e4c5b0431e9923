/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory of decoded instructions. No instruction is the beginning of another one, so bytes that match are the instruction, whatever follows. How
 * long a thing to look for is what the first three bytes were last time.
 *
 * Not remembered: more than eight bytes, and distances relative to rip, which hardly come twice.
 */
#include "engine/bt/decode.h"

#include "engine/bt/tr.h"

#include <stdlib.h>
#include <string.h>

#define REMEMBERED 1024u /* 1.2 KiB each */
#define HASH_BITS 11
#define GUESS_BITS 12
#define LONGEST 8u
#define STEPS 7u

_Static_assert((BT_DECODED_AT_ONCE + 1) * STEPS < REMEMBERED, "what was handed out stays");
_Static_assert(TR_INSNS < BT_DECODED_AT_ONCE, "a block's instructions are held at once");

struct bt_decoder {
	ZydisDecoder zydis;
	u8 length[1u << GUESS_BITS]; /* by the first three bytes; 0: not seen */
	u16 number[1u << HASH_BITS]; /* by the bytes: of the entry */
	u32 hand, passing;	     /* where eviction stands; the next of those that are not remembered */
	struct bt_decoded entry[REMEMBERED];
	struct bt_decoded passed[BT_DECODED_AT_ONCE + 1];
};

struct bt_decoder *bt_decoder_new(void)
{
	struct bt_decoder *d = calloc(1, sizeof *d);

	if (d)
		ZydisDecoderInit(&d->zydis, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	return d;
}

void bt_decoder_free(struct bt_decoder *d)
{
	free(d);
}

static u32 hash(u64 bytes, u32 bits)
{
	return (u32)(bytes * 0x9e3779b97f4a7c15ull >> (64 - bits));
}

static u64 first(const u8 *bytes, u32 n)
{
	u64 all;

	memcpy(&all, bytes, sizeof all);
	return n < sizeof all ? all & ((1ull << (8 * n)) - 1) : all;
}

static struct bt_decoded *find(struct bt_decoder *d, const u8 *bytes, u32 avail)
{
	u32 length = d->length[hash(first(bytes, 3), GUESS_BITS)];
	u64 key = first(bytes, length);
	struct bt_decoded *e = &d->entry[d->number[hash(key, HASH_BITS)]];

	return length && length <= avail && e->valid && e->in.length == length && e->bytes == key ? e : NULL;
}

/* ---- what is known of an instruction */

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

static void note_register(struct bt_decoded *e, const ZydisDecodedOperand *o, bool visible)
{
	int g = tr_gpr(o->reg.value);

	if (g >= 0 && tr_writes(o))
		e->written |= (u16)(1u << g);
	e->special |= visible && g < 0 && is_special(o->reg.value);
}

static void decode(const struct bt_decoder *d, struct bt_decoded *e, const u8 *bytes, u32 avail)
{
	ZydisDecoderContext context;

	e->row = (struct bt_row){K_STOP, 0};
	e->needs = e->written = 0;
	e->special = false;
	e->valid = ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&d->zydis, &context, bytes, avail < 15 ? avail : 15, &e->in)) &&
		   ZYAN_SUCCESS(ZydisDecoderDecodeOperands(&d->zydis, &context, &e->in, e->op, e->in.operand_count));
	if (!e->valid)
		return;
	e->row = bt_row_of(e->in.mnemonic);
	if (e->in.mnemonic == ZYDIS_MNEMONIC_PAUSE && (e->in.raw.rex.B & 1))
		e->row.kind = K_INTERP; /* XCHG r8, rax: REX.B makes 90 an exchange whatever prefix precedes it */
	e->needs = bt_native_needs(&e->in);
	for (u32 i = 0; i < e->in.operand_count; i++)
		if (e->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER)
			note_register(e, &e->op[i], i < e->in.operand_count_visible);
}

/* ---- which are remembered */

static bool comes_again(const ZydisDecodedInstruction *in)
{
	bool near_rip = in->attributes & ZYDIS_ATTRIB_IS_RELATIVE && (in->raw.imm[0].size == 32 || in->raw.disp.size == 32);

	return in->length <= LONGEST && !near_rip;
}

/* One that was not used since the hand last came by; NULL: there is none nearby. Whatever was handed out is safe until the hand has gone all the way
 * round, for which it needs more than BT_DECODED_AT_ONCE calls. */
static struct bt_decoded *evict(struct bt_decoder *d)
{
	for (u32 i = 0; i < STEPS; i++) {
		struct bt_decoded *e = &d->entry[d->hand++ % REMEMBERED];
		if (!e->recent)
			return e;
		e->recent = false;
	}
	return NULL;
}

static struct bt_decoded *remember(struct bt_decoder *d, struct bt_decoded *from, const u8 *bytes)
{
	struct bt_decoded *e = evict(d);
	u32 length = from->in.length;

	if (!e)
		return from;
	memcpy(e, from, offsetof(struct bt_decoded, op[from->in.operand_count]));
	e->bytes = first(bytes, length);
	d->length[hash(first(bytes, 3), GUESS_BITS)] = (u8)length;
	d->number[hash(e->bytes, HASH_BITS)] = (u16)(e - d->entry);
	return e;
}

const struct bt_decoded *bt_decode(struct bt_decoder *d, const u8 *bytes, u32 avail)
{
	struct bt_decoded *e = find(d, bytes, avail);

	if (!e) {
		e = &d->passed[d->passing++ % ARRAY_SIZE(d->passed)];
		decode(d, e, bytes, avail);
		if (e->valid && comes_again(&e->in))
			e = remember(d, e, bytes);
	}
	e->recent = true;
	return e;
}
