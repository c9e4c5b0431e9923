/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory of decoded instructions. No instruction is the beginning of another one, so bytes that match are the instruction, whatever follows. How
 * long a thing to look for is what the bytes up to the ModRM byte were last time. A distance relative to rip hardly comes twice: such instructions are
 * remembered without it, and it is put into a copy. Not remembered is what takes more than eight bytes.
 *
 * A bucket is four keys, one line of the host's cache; what they are keys of is a line each, and touched only when the key fits.
 */
#include "engine/bt/decode.h"

#include "engine/bt/tr.h"

#include <string.h>
#include <sys/mman.h>

#define BUCKET_BITS 12
#define BUCKET 4u
#define REMEMBERED (BUCKET << BUCKET_BITS)
#define GUESS_BITS 14
#define LONGEST 8u

_Static_assert(TR_INSNS < BT_DECODED_AT_ONCE, "a block's instructions are held at once");

/* Length (0: not seen), and where in it the four bytes are that do not count (0: all do). */
struct shape {
	u8 length, distance;
};

struct key {
	u64 bytes;
	u32 used; /* in which call last; by this the oldest of a bucket goes */
	struct shape shape;
};

struct bt_decoder {
	ZydisDecoder zydis;
	u32 calls, passing;		      /* the next of those that are not remembered */
	struct shape shape[1u << GUESS_BITS]; /* by the first bytes */
	_Alignas(64) struct key key[REMEMBERED];
	struct bt_insn insn[REMEMBERED];
	struct bt_insn passed[BT_DECODED_AT_ONCE + 1];
};
_Static_assert(BUCKET * sizeof(struct key) == 64 && offsetof(struct bt_decoder, insn) % 64 == 0, "lines of the host's cache");

static void init(struct bt_decoder *d)
{
	ZydisDecoderInit(&d->zydis, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	d->calls = BT_DECODED_AT_ONCE; /* keys that were never used are old enough to go */
}

struct bt_decoder *bt_decoder_new(struct err *e)
{
	struct bt_decoder *d = bt_sparse(sizeof *d, "decoded instructions", e);

	if (d)
		init(d);
	return d;
}

void bt_decoder_free(struct bt_decoder *d)
{
	bt_sparse_free(d, sizeof *d);
}

void bt_decoder_forget(struct bt_decoder *d)
{
	madvise(d, sizeof *d, MADV_DONTNEED); /* zeroes, as at first */
	init(d);
}

void bt_decoder_memory(const struct bt_decoder *d, engine_memory_fn tell, void *opaque)
{
	tell(opaque, "memory_decoder", d, sizeof *d);
}

static u32 hash(u64 bytes, u32 bits)
{
	return (u32)(bytes * 0x9e3779b97f4a7c15ull >> (64 - bits));
}

static u64 low_bytes(u32 n)
{
	return n < 8 ? (1ull << (8 * n)) - 1 : ~0ull;
}

static u64 first(const u8 *bytes, struct shape s)
{
	u64 all;

	memcpy(&all, bytes, sizeof all);
	return all & low_bytes(s.length) & (s.distance ? ~(0xffffffffull << (8 * s.distance)) : ~0ull);
}

static bool is_prefix(u8 b)
{
	return b >> 4 == 4 || b == 0x66 || b == 0xf3 || b == 0xf2 || b == 0x65 || b == 0x64 || b == 0xf0;
}

/* How many of the first bytes tell the length, nearly always: those up to the ModRM byte. */
static u32 telling(const u8 *bytes)
{
	/* One-byte opcodes that have one, a row for each high half. */
	static const u16 has_modrm[16] = {
		[0x0] = 0x0f0f, [0x1] = 0x0f0f, [0x2] = 0x0f0f, [0x3] = 0x0f0f, [0x6] = 0x0a0c,
		[0x8] = 0xffff, [0xc] = 0x00f3, [0xd] = 0xff0f, [0xf] = 0xc0c0,
	};
	u32 n = 0;

	while (n < 3 && is_prefix(bytes[n]))
		n++;
	if (bytes[n] == 0x0f)
		return n + (bytes[n + 1] >> 4 == 8 ? 2 : 3);
	return n + 1 + (has_modrm[bytes[n] >> 4] >> (bytes[n] & 15) & 1);
}

static struct shape *shape_at(struct bt_decoder *d, const u8 *bytes)
{
	return &d->shape[hash(first(bytes, (struct shape){.length = (u8)telling(bytes)}), GUESS_BITS)];
}

static struct key *bucket_of(struct bt_decoder *d, u64 bytes)
{
	return &d->key[BUCKET * hash(bytes, BUCKET_BITS)];
}

static struct key *find(struct bt_decoder *d, u64 bytes, struct shape s)
{
	struct key *k = bucket_of(d, bytes);
	u32 fits = 0; /* all are compared: which one it is cannot be predicted */

	for (u32 i = 0; i < BUCKET; i++)
		fits |= (u32)((k[i].bytes == bytes) & (k[i].shape.length == s.length) & (k[i].shape.distance == s.distance)) << i;
	return fits ? &k[__builtin_ctz(fits)] : NULL;
}

static struct bt_insn *insn_of(struct bt_decoder *d, const struct key *k)
{
	return &d->insn[k - d->key];
}

static struct bt_insn *passing(struct bt_decoder *d)
{
	return &d->passed[d->passing++ % ARRAY_SIZE(d->passed)];
}

/* A copy of what was remembered, with the distance that stands here. */
static struct bt_insn *at_this_distance(struct bt_decoder *d, const struct bt_insn *from, const u8 *distance)
{
	struct bt_insn *i = passing(d);
	i32 here;

	memcpy(&here, distance, sizeof here);
	*i = *from;
	bt_insn_set_distance(i, here);
	return i;
}

/* ---- which are remembered */

static struct shape shape_of(const ZydisDecodedInstruction *in)
{
	struct shape s = {.length = in->length};

	if (!(in->attributes & ZYDIS_ATTRIB_IS_RELATIVE))
		return s;
	if (in->raw.imm[0].is_relative && in->raw.imm[0].size == 32)
		s.distance = in->raw.imm[0].offset;
	else if (in->raw.disp.size == 32 && in->raw.imm[0].size < 32)
		s.distance = in->raw.disp.offset;
	return s;
}

/* The one that was not used for longest; NULL: the answer that was given then still has to hold. */
static struct key *oldest(const struct bt_decoder *d, struct key *bucket)
{
	struct key *k = bucket;

	for (u32 i = 1; i < BUCKET; i++)
		if (d->calls - bucket[i].used > d->calls - k->used)
			k = &bucket[i];
	return d->calls - k->used > BT_DECODED_AT_ONCE ? k : NULL;
}

static void remember(struct bt_decoder *d, const struct bt_insn *i, struct shape s, const u8 *bytes)
{
	u64 known = first(bytes, s);
	struct key *k;

	*shape_at(d, bytes) = s;
	if (find(d, known, s))
		return; /* and was not found as others begin alike */
	k = oldest(d, bucket_of(d, known));
	if (!k)
		return;
	*k = (struct key){.bytes = known, .used = d->calls, .shape = s};
	*insn_of(d, k) = *i;
}

static const struct bt_insn *decode(struct bt_decoder *d, const u8 *bytes, u32 avail)
{
	struct bt_insn *i = passing(d);
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecoderContext context;

	*i = (struct bt_insn){.row = {K_STOP, 0}};
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&d->zydis, &context, bytes, avail < 15 ? avail : 15, &in)) ||
	    !ZYAN_SUCCESS(ZydisDecoderDecodeOperands(&d->zydis, &context, &in, op, in.operand_count)))
		return i;
	*i = bt_insn_of(&in, op);
	if (i->length <= LONGEST)
		remember(d, i, shape_of(&in), bytes);
	return i;
}

struct bt_decoded bt_decode(struct bt_decoder *d, const u8 *bytes, u32 avail)
{
	struct shape s = *shape_at(d, bytes);
	struct key *k = s.length && s.length <= avail ? find(d, first(bytes, s), s) : NULL;
	const struct bt_insn *is;

	d->calls++;
	if (!k) {
		is = decode(d, bytes, avail);
		return (struct bt_decoded){is, is->length};
	}
	k->used = d->calls;
	is = s.distance ? at_this_distance(d, insn_of(d, k), bytes + s.distance) : insn_of(d, k);
	return (struct bt_decoded){is, s.length};
}
