/* SPDX-License-Identifier: Apache-2.0 */
/* Layout of a case and the canonical form of vector state. See case.h. */
#include "case.h"
#include "prng.h"

#include <cpuid.h>
#include <string.h>

static const u8 end_marker_ring3[] = {0xf4};	   /* hlt */
static const u8 end_marker_ring0[] = {0x0f, 0x0b}; /* ud2 */

static bool branch_reaches(const struct cpu_case *c, u32 i)
{
	const struct case_insn *in = &c->insn[i];
	i64 rel = (i64)c->offset[in->target] - (i64)c->offset[i + 1];

	return in->branch_len != 1 || (rel >= -128 && rel <= 127);
}

static void branch_patch(struct cpu_case *c, u32 i)
{
	const struct case_insn *in = &c->insn[i];
	i32 rel = (i32)c->offset[in->target] - (i32)c->offset[i + 1];

	memcpy(c->code + c->offset[i + 1] - in->branch_len, &rel, in->branch_len);
}

static u32 append_end_marker(struct cpu_case *c, u32 at)
{
	const u8 *marker = c->ring ? end_marker_ring3 : end_marker_ring0;
	u32 len = c->ring ? sizeof(end_marker_ring3) : sizeof(end_marker_ring0);

	memcpy(c->code + at, marker, len);
	return at + len;
}

bool case_layout(struct cpu_case *c)
{
	u32 at = 0;

	for (u32 i = 0; i < c->n; i++) {
		c->offset[i] = at;
		if (at + c->insn[i].len + sizeof(end_marker_ring0) > CASE_MAX_CODE)
			return false;
		memcpy(c->code + at, c->insn[i].bytes, c->insn[i].len);
		at += c->insn[i].len;
	}
	c->offset[c->n] = at;
	for (u32 i = 0; i < c->n; i++) {
		if (!c->insn[i].branch_len)
			continue;
		if (c->insn[i].target > c->n || !branch_reaches(c, i))
			return false;
		branch_patch(c, i);
	}
	if (c->fall_off)
		c->start = CASE_CODE_SIZE - at;
	else
		at = append_end_marker(c, at);
	c->code_len = at;
	return c->start + at <= CASE_CODE_SIZE;
}

bool case_remove(struct cpu_case *c, u32 first, u32 count)
{
	memmove(&c->insn[first], &c->insn[first + count], (c->n - first - count) * sizeof(c->insn[0]));
	c->n -= count;
	for (u32 i = 0; i < c->n; i++) {
		u16 *t = &c->insn[i].target;

		if (*t >= first + count)
			*t = (u16)(*t - count);
		else if (*t > first)
			*t = (u16)first;
	}
	return case_layout(c);
}

/* Pointers into the data, small numbers, floating-point landmarks and noise, so that loaded values are worth using. */
static u64 data_word(struct prng *p)
{
	static const u64 landmarks[] = {0,
					1,
					~0ull,
					0x3ff0000000000000ull,
					0x7ff0000000000000ull,
					0x7ff8000000000001ull,
					0xfff0000000000001ull,
					0x8000000000000000ull,
					0x0000000000000001ull,
					0x3f8000007f800000ull,
					0xff80000180000001ull,
					0x7fffffffffffffffull,
					0x00000000ffffffffull,
					0x7fefffffffffffffull};
	u64 r = prng_next(p);

	switch (r & 7) {
	case 0:
		return CASE_DATA + ((r >> 8) % CASE_DATA_SIZE);
	case 1:
		return (r >> 8) & 0x3f;
	case 2:
		return landmarks[(r >> 8) % ARRAY_SIZE(landmarks)];
	default:
		return prng_next(p);
	}
}

/* Making the words of all pages costs more than running a case, so the cases of 65,536 neighbouring seeds take theirs from one pool, each from
 * another place. */
#define POOL_WORDS 0x20000u
#define POOL_SEEDS 16 /* bits of the seed that do not change the pool */

static const u64 *data_pool(u64 seed)
{
	static u64 pool[POOL_WORDS], made_for = ~0ull;
	struct prng p;

	if (made_for == seed >> POOL_SEEDS)
		return pool;
	made_for = seed >> POOL_SEEDS;
	prng_seed(&p, made_for);
	for (u32 i = 0; i < POOL_WORDS; i++)
		pool[i] = data_word(&p);
	return pool;
}

void case_fill_data(const struct cpu_case *c, u8 *data)
{
	memcpy(data, data_pool(c->seed) + c->data_seed % (POOL_WORDS - CASE_DATA_ALL / 8), CASE_DATA_ALL);
	memcpy(data + (CASE_COUNTERS - CASE_DATA), c->counters, sizeof(c->counters));
}

u64 case_digest(u64 digest, const u8 *bytes, u32 n)
{
	u64 word;

	for (u32 i = 0; i < n; i += 8) {
		memcpy(&word, bytes + i, 8);
		digest = (digest ^ word) * 0x9e3779b97f4a7c15ull;
		digest ^= digest >> 32;
	}
	return digest;
}

#define COMPONENTS 8u

struct component {
	u32 offset, size;
};

/* Vendors place components 2 to 7 differently; CPUID leaf 0xd tells. Asked once, because CPUID is slow under a hypervisor. */
static const struct component *components(void)
{
	static struct component table[COMPONENTS];
	u32 ecx, edx;

	if (table[2].size)
		return table;
	for (u32 i = 2; i < COMPONENTS; i++)
		if (CASE_XFEATURES & 1u << i)
			__cpuid_count(0xd, i, table[i].size, table[i].offset, ecx, edx);
	return table;
}

static u32 xsave_end(void)
{
	u32 end = 576;

	for (u32 i = 2; i < COMPONENTS; i++)
		if (components()[i].offset + components()[i].size > end)
			end = components()[i].offset + components()[i].size;
	return end;
}

#define X87_SIZE 32u
#define X87_REGS 32u
#define SSE_REGS 160u
#define FXSAVE_TAIL 416u

static u64 xsave_bv(const struct case_xsave *x)
{
	u64 bv;

	memcpy(&bv, x->bytes + 512, 8);
	return bv;
}

static void x87_init(struct case_xsave *x)
{
	u32 mxcsr;

	memcpy(&mxcsr, x->bytes + 24, 4);
	memset(x->bytes, 0, X87_SIZE);
	memset(x->bytes + X87_REGS, 0, SSE_REGS - X87_REGS);
	x->bytes[0] = 0x7f;
	x->bytes[1] = 0x03;
	memcpy(x->bytes + 24, &mxcsr, 4);
}

static void x87_drop_pointers(struct case_xsave *x)
{
	memset(x->bytes + 6, 0, 18); /* FOP, FIP, FDP */
	x->bytes[5] = 0;
	memset(x->bytes + 28, 0, 4); /* MXCSR_MASK */
	for (u32 i = 0; i < 8; i++)
		memset(x->bytes + X87_REGS + i * 16 + 10, 0, 6);
}

void case_xsave_normalise(struct case_xsave *x)
{
	u64 bv = xsave_bv(x);

	if (!(bv & 1))
		x87_init(x);
	if (!(bv & 2))
		memset(x->bytes + SSE_REGS, 0, FXSAVE_TAIL - SSE_REGS);
	for (u32 i = 2; i < COMPONENTS; i++)
		if (!(bv & 1ull << i))
			memset(x->bytes + components()[i].offset, 0, components()[i].size);
	x87_drop_pointers(x);
	memset(x->bytes + FXSAVE_TAIL, 0, 576 - FXSAVE_TAIL);
	memset(x->bytes + xsave_end(), 0, CASE_XSAVE_SIZE - xsave_end());
}
