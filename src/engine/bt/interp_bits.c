/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bit tests and scans, counts, byte swaps, CRC32, BMI1, BMI2, random numbers.
 *
 * Flags that the manuals leave undefined are as AMD's Zen CPUs have them.
 * PDEP, PEXT, CRC32 and RDRAND are the host's own instructions: the engine demands a host that has them, or they are not announced.
 * Threading: the vCPU's thread.
 */
#include "engine/bt/interp_private.h"

/* b: bit number. CF is the old bit; nothing else changes. */
static void test_bit(struct interp_alu *x)
{
	x->flags = (x->flags & ~(u64)FL_CF) | ((x->a >> (x->b & (x->bits - 1))) & 1);
}

static u64 bit_of(const struct interp_alu *x)
{
	return 1ull << (x->b & (x->bits - 1));
}

static u64 alu_bts(struct interp_alu *x)
{
	test_bit(x);
	return x->a | bit_of(x);
}

static u64 alu_btr(struct interp_alu *x)
{
	test_bit(x);
	return x->a & ~bit_of(x);
}

static u64 alu_btc(struct interp_alu *x)
{
	test_bit(x);
	return x->a ^ bit_of(x);
}

/* A bit number in a register reaches beyond the memory operand, both ways. */
static u64 bit_string_address(const struct interp *in, const struct x86_cpu *c, const struct interp_insn *i)
{
	u32 size = i->op[0].size;
	u64 ea = interp_ea(in, c, i);
	i64 bit;

	if (i->op[1].kind != IOP_GPR)
		return ea;
	bit = (i64)interp_sext(interp_get_gpr(c, &i->op[1]), size * 8);
	ea += (u64)((bit >> 3) & ~(i64)(size - 1));
	return ea & interp_mask(i->asize * 8u);
}

static bool op_bt(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	struct interp_alu x = {.bits = i->op[0].size * 8u, .flags = c->rflags};

	if (!interp_get(in, c, i, 1, &x.b))
		return false;
	if (i->op[0].kind == IOP_GPR)
		x.a = interp_get_gpr(c, &i->op[0]);
	else if (!interp_load(in, c, i->ea.seg, bit_string_address(in, c, i), i->op[0].size, &x.a))
		return false;
	test_bit(&x);
	c->rflags = x.flags;
	return true;
}

static bool op_bt_modify(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	struct interp_alu x = {0};

	if (!interp_get(in, c, i, 1, &x.b))
		return false;
	if (i->op[0].kind == IOP_GPR)
		return interp_modify(in, c, i, &x, i->row->alu, false);
	return interp_modify_at(in, c, i->ea.seg, bit_string_address(in, c, i), i->op[0].size, &x, i->row->alu, i->lock);
}

/* BSF, BSR: with a source of zero the destination keeps its value, all 64 bits of it. */
static bool op_bit_scan(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 v, r = 0;

	if (!interp_get(in, c, i, 1, &v))
		return false;
	if (v) {
		r = i->row->arg ? 63 - (u64)__builtin_clzll(v) : (u64)__builtin_ctzll(v);
		interp_set_gpr(c, &i->op[0], r);
	}
	c->rflags = (c->rflags & ~(u64)FL_ARITH) | (interp_flags_szp(r, 32) & FL_PF) | (v ? 0 : FL_ZF);
	return true;
}

static u64 count_leading(u64 v, u32 bits)
{
	return v ? (u64)__builtin_clzll(v) - (64 - bits) : bits;
}
static u64 count_trailing(u64 v, u32 bits)
{
	return v ? (u64)__builtin_ctzll(v) : bits;
}

/* LZCNT, TZCNT */
static bool op_count_zeros(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 bits = i->op[0].size * 8u;
	u64 v, r;

	if (!interp_get(in, c, i, 1, &v))
		return false;
	r = i->row->arg ? count_leading(v, bits) : count_trailing(v, bits);
	c->rflags = (c->rflags & ~(u64)(FL_ARITH & ~FL_OF)) | (v ? 0 : FL_CF) | (r ? 0 : FL_ZF);
	interp_set_gpr(c, &i->op[0], r);
	return true;
}

static bool op_popcnt(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 v;

	if (!interp_get(in, c, i, 1, &v))
		return false;
	c->rflags = (c->rflags & ~(u64)FL_ARITH) | (v ? 0 : FL_ZF);
	interp_set_gpr(c, &i->op[0], (u64)__builtin_popcountll(v));
	return true;
}

/* A 16-bit BSWAP is undefined; CPUs clear the register's low half. */
static bool op_bswap(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 v = interp_get_gpr(c, &i->op[0]);

	if (i->op[0].size == 2)
		v = 0;
	else
		v = __builtin_bswap64(v) >> (64 - i->op[0].size * 8u);
	interp_set_gpr(c, &i->op[0], v);
	return true;
}

__attribute__((target("sse4.2"))) static u64 crc32_step(u64 crc, u64 v, u32 size)
{
	switch (size) {
	case 1:
		return __builtin_ia32_crc32qi((u32)crc, (u8)v);
	case 2:
		return __builtin_ia32_crc32hi((u32)crc, (u16)v);
	case 4:
		return __builtin_ia32_crc32si((u32)crc, (u32)v);
	default:
		return __builtin_ia32_crc32di((u32)crc, v);
	}
}

static bool op_crc32(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 v;

	if (!interp_get(in, c, i, 1, &v))
		return false;
	interp_set_gpr(c, &i->op[0], crc32_step(interp_get_gpr(c, &i->op[0]), v, i->op[1].size));
	return true;
}

/* Flags of BMI1/BMI2: SF and ZF of the result, the given CF, OF clear; PF and AF, which are undefined, as of a logic instruction. */
static u64 set_bmi_flags(struct interp_alu *x, u64 r, bool cf)
{
	x->flags = (x->flags & ~(u64)FL_ARITH) | interp_flags_szp(r, x->bits) | cf;
	return r;
}

static u64 alu_andn(struct interp_alu *x)
{
	return set_bmi_flags(x, ~x->a & x->b & interp_mask(x->bits), false);
}
static u64 alu_blsi(struct interp_alu *x)
{
	return set_bmi_flags(x, x->a & -x->a, x->a != 0);
}
static u64 alu_blsr(struct interp_alu *x)
{
	return set_bmi_flags(x, x->a & (x->a - 1), x->a == 0);
}

static u64 alu_blsmsk(struct interp_alu *x)
{
	return set_bmi_flags(x, (x->a ^ (x->a - 1)) & interp_mask(x->bits), x->a == 0);
}

static u64 alu_bzhi(struct interp_alu *x)
{
	u32 n = (u8)x->b;

	return set_bmi_flags(x, n < x->bits ? x->a & interp_mask(n) : x->a, n >= x->bits);
}

static u64 alu_bextr(struct interp_alu *x)
{
	u32 start = (u8)x->b, len = (u8)(x->b >> 8);
	u64 r = start < 64 ? x->a >> start : 0;

	if (len < 64)
		r &= interp_mask(len);
	r = set_bmi_flags(x, r, false);
	x->flags |= FL_AF; /* undefined; so on AMD */
	return r;
}

__attribute__((target("bmi2"))) static u64 alu_pdep(struct interp_alu *x)
{
	return __builtin_ia32_pdep_di(x->a, x->b);
}
__attribute__((target("bmi2"))) static u64 alu_pext(struct interp_alu *x)
{
	return __builtin_ia32_pext_di(x->a, x->b);
}

/* op0 = f(op1, op2) */
static bool op_bmi3(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	struct interp_alu x = {.bits = i->op[0].size * 8u, .flags = c->rflags};

	if (!interp_get(in, c, i, 1, &x.a) || !interp_get(in, c, i, 2, &x.b))
		return false;
	interp_set_gpr(c, &i->op[0], i->row->alu(&x));
	c->rflags = x.flags;
	return true;
}

/* op0 = f(op1) */
static bool op_bmi2(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	struct interp_alu x = {.bits = i->op[0].size * 8u, .flags = c->rflags};

	if (!interp_get(in, c, i, 1, &x.a))
		return false;
	interp_set_gpr(c, &i->op[0], i->row->alu(&x));
	c->rflags = x.flags;
	return true;
}

/* ADCX, ADOX: arg is the flag's bit number. */
static bool op_adx(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 bits = i->op[0].size * 8u, fl = i->row->arg;
	u64 b;
	unsigned __int128 sum;

	if (!interp_get(in, c, i, 1, &b))
		return false;
	sum = (unsigned __int128)interp_get_gpr(c, &i->op[0]) + b + ((c->rflags >> fl) & 1);
	interp_set_gpr(c, &i->op[0], (u64)sum);
	c->rflags = (c->rflags & ~(1ull << fl)) | (u64)((sum >> bits) & 1) << fl;
	return true;
}

/* By instruction: compilers disagree on the builtins' names. */
static bool host_rdrand(u64 *v)
{
	bool ok = false;

	for (u32 k = 0; k < 10 && !ok; k++)
		__asm__ volatile("rdrand %0" : "=r"(*v), "=@ccc"(ok));
	return ok;
}

static bool host_rdseed(u64 *v)
{
	bool ok = false;

	for (u32 k = 0; k < 10 && !ok; k++)
		__asm__ volatile("rdseed %0" : "=r"(*v), "=@ccc"(ok));
	return ok;
}

/* RDRAND (arg 0), RDSEED: CF tells whether there was a number; without one the destination is zero. */
static bool op_random(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 v;
	bool ok = i->row->arg ? host_rdseed(&v) : host_rdrand(&v);

	interp_set_gpr(c, &i->op[0], ok ? v : 0);
	c->rflags = (c->rflags & ~(u64)FL_ARITH) | ok;
	return true;
}

#define M(n) ZYDIS_MNEMONIC_##n
static const struct interp_row rows[] = {
	{.mnemonic = M(BT), .run = op_bt},
	{.mnemonic = M(BTS), .run = op_bt_modify, .alu = alu_bts},
	{.mnemonic = M(BTR), .run = op_bt_modify, .alu = alu_btr},
	{.mnemonic = M(BTC), .run = op_bt_modify, .alu = alu_btc},
	{.mnemonic = M(BSF), .run = op_bit_scan, .arg = 0},
	{.mnemonic = M(BSR), .run = op_bit_scan, .arg = 1},
	{.mnemonic = M(TZCNT), .run = op_count_zeros, .arg = 0},
	{.mnemonic = M(LZCNT), .run = op_count_zeros, .arg = 1},
	{.mnemonic = M(POPCNT), .run = op_popcnt},
	{.mnemonic = M(BSWAP), .run = op_bswap},
	{.mnemonic = M(CRC32), .run = op_crc32},
	{.mnemonic = M(ANDN), .run = op_bmi3, .attrs = ROW_PROT, .alu = alu_andn},
	{.mnemonic = M(BEXTR), .run = op_bmi3, .attrs = ROW_PROT, .alu = alu_bextr},
	{.mnemonic = M(BZHI), .run = op_bmi3, .attrs = ROW_PROT, .alu = alu_bzhi},
	{.mnemonic = M(PDEP), .run = op_bmi3, .attrs = ROW_PROT, .alu = alu_pdep},
	{.mnemonic = M(PEXT), .run = op_bmi3, .attrs = ROW_PROT, .alu = alu_pext},
	{.mnemonic = M(BLSI), .run = op_bmi2, .attrs = ROW_PROT, .alu = alu_blsi},
	{.mnemonic = M(BLSR), .run = op_bmi2, .attrs = ROW_PROT, .alu = alu_blsr},
	{.mnemonic = M(BLSMSK), .run = op_bmi2, .attrs = ROW_PROT, .alu = alu_blsmsk},
	{.mnemonic = M(ADCX), .run = op_adx, .arg = 0},
	{.mnemonic = M(ADOX), .run = op_adx, .arg = 11},
	{.mnemonic = M(RDRAND), .run = op_random, .arg = 0},
	{.mnemonic = M(RDSEED), .run = op_random, .arg = 1},
};

const struct interp_rows interp_rows_bits = {rows, ARRAY_SIZE(rows)};
