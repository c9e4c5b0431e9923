/* SPDX-License-Identifier: Apache-2.0 */
/* The interpreter's vector and x87 instructions: gates, faults, masks, the saved images, and that nothing of the host shows. */
#include "interp_machine.h"

#define XMM(t, r) ((t)->m.c.fpu.bytes + 160 + 16 * (r))
#define LEGACY16(t, off) (*(u16 *)((t)->m.c.fpu.bytes + (off)))
#define MXCSR(t) (*(u32 *)((t)->m.c.fpu.bytes + 24))
#define HAVE_AVX512(t) (((t)->m.cpuid.xcr0_supported & 0xe0) == 0xe0)

/* Power-on leaves all x87 registers full and all exceptions unmasked. */
static struct im *long_with_x87(void)
{
	struct im *t = im_long();

	RUN(t, "db e3"); /* fninit */
	return t;
}

static u64 low(struct im *t, u32 r)
{
	u64 v;

	memcpy(&v, XMM(t, r), 8);
	return v;
}

static void set_double(struct im *t, gpa_t at, double d)
{
	memcpy(t->m.ram + at, &d, 8);
}
static double get_double(struct im *t, gpa_t at)
{
	double d;

	memcpy(&d, t->m.ram + at, 8);
	return d;
}

static void gates(void **state)
{
	struct im *t = im_long();

	t->m.c.cr0 |= CR0_TS;
	FAULTS(t, "0f 58 c1", VEC_NM, 0); /* addps */
	FAULTS(t, "0f fc c1", VEC_NM, 0); /* paddb mm */
	FAULTS(t, "d9 e8", VEC_NM, 0);
	FAULTS(t, "0f ae 07", VEC_NM, 0);    /* fxsave */
	FAULTS(t, "0f ae 27", VEC_NM, 0);    /* xsave */
	FAULTS(t, "c5 f8 58 c1", VEC_NM, 0); /* vaddps */
	RUN(t, "9b");			     /* fwait: TS alone does not count */
	t->m.c.cr0 |= CR0_MP;
	FAULTS(t, "9b", VEC_NM, 0);
	t->m.c.cr0 = (t->m.c.cr0 & ~(u64)CR0_TS) | CR0_EM;
	FAULTS(t, "0f 58 c1", VEC_UD, 0);
	FAULTS(t, "0f fc c1", VEC_UD, 0);
	FAULTS(t, "d9 e8", VEC_NM, 0);
	RUN(t, "c5 f8 58 c1"); /* EM is not for VEX */
	t->m.c.cr0 &= ~(u64)CR0_EM;
	t->m.c.cr4 &= ~(u64)CR4_OSFXSR;
	FAULTS(t, "0f 58 c1", VEC_UD, 0);
	RUN(t, "f3 0f b8 c0"); /* popcnt is no SSE state's business */
	t->m.c.xcr0 = 3;
	FAULTS(t, "c5 f8 58 c1", VEC_UD, 0);
	RUN(t, "c4 e2 78 f2 c0"); /* andn */
	t->m.c.xcr0 = 7;
	FAULTS(t, "62 f1 7c 48 58 c1", VEC_UD, 0);
	FAULTS(t, "c5 f8 90 c1", VEC_UD, 0); /* kmovw */
	t->m.c.cr4 &= ~(u64)CR4_OSXSAVE;
	FAULTS(t, "c5 f8 58 c1", VEC_UD, 0);
	FAULTS(t, "0f ae 27", VEC_UD, 0);
	im_close(t);
}

static void arithmetic(void **state)
{
	struct im *t = long_with_x87();

	set_double(t, DATA, 1.5);
	set_double(t, DATA + 8, 2.25);
	REG(t, RDI) = DATA;
	RUN(t, "f2 0f 10 07");	  /* movsd xmm0, [rdi] */
	RUN(t, "f2 0f 58 47 08"); /* addsd xmm0, [rdi+8] */
	RUN(t, "f2 0f 11 47 10"); /* movsd [rdi+16], xmm0 */
	assert_true(get_double(t, DATA + 16) == 3.75);
	RUN(t, "dd 07");    /* fld qword [rdi] */
	RUN(t, "dc 4f 08"); /* fmul */
	RUN(t, "dd 5f 18"); /* fstp */
	assert_true(get_double(t, DATA + 24) == 3.375);
	REG(t, RSP) = 0x123456789;
	RUN(t, "f2 48 0f 2a cc"); /* cvtsi2sd xmm1, rsp */
	RUN(t, "f2 48 0f 2d e1"); /* cvtsd2si rsp, xmm1 */
	assert_int_equal(REG(t, RSP), 0x123456789);
	RUN(t, "66 0f 2e c8"); /* ucomisd xmm1, xmm0 */
	assert_int_equal(FLAGS(t), 0);
	RUN(t, "66 0f 3a 16 c0 01"); /* pextrd eax, xmm0, 1 */
	assert_int_equal(REG(t, RAX), 0x400e0000);
	im_close(t);
}

static void alignment(void **state)
{
	struct im *t = im_long();

	REG(t, RDI) = DATA + 8;
	FAULTS(t, "0f 28 07", VEC_GP, 0); /* movaps */
	FAULTS(t, "0f 58 07", VEC_GP, 0); /* addps */
	RUN(t, "0f 10 07");		  /* movups */
	RUN(t, "c5 f8 58 07");		  /* vaddps */
	FAULTS(t, "c5 fc 28 07", VEC_GP, 0);
	FAULTS(t, "0f ae 07", VEC_GP, 0); /* fxsave */
	REG(t, RDI) = DATA + 0xff8;
	FAULTS(t, "0f 11 07", VEC_PF, 2); /* a store over the end: nothing of it */
	assert_int_equal(t->m.c.fault.cr2, DATA + 0x1000);
	im_close(t);
}

static void numeric_exceptions(void **state)
{
	struct im *t = im_long();

	MXCSR(t) = 0x1f80 & ~(1u << 9); /* divisions by zero trap */
	set_double(t, DATA, 1.0);
	set_double(t, DATA + 8, 0.0);
	REG(t, RDI) = DATA;
	RUN(t, "f2 0f 10 07");
	FAULTS(t, "f2 0f 5e 47 08", VEC_XM, 0); /* divsd */
	assert_true(MXCSR(t) & 4);
	assert_int_equal(low(t, 0), 0x3ff0000000000000);
	t->m.c.cr4 &= ~(u64)CR4_OSXMMEXCPT;
	FAULTS(t, "f2 0f 5e 47 08", VEC_UD, 0);
	/* x87: the next waiting instruction reports it. */
	RUN(t, "db e3"); /* fninit */
	m_poke(&t->m, DATA + 16, 0x37f & ~4u);
	RUN(t, "d9 6f 10"); /* fldcw */
	RUN(t, "dd 07");
	RUN(t, "dc 77 08"); /* fdiv */
	assert_true(LEGACY16(t, 2) & 0x80);
	FAULTS(t, "d9 e8", VEC_MF, 0);
	FAULTS(t, "9b", VEC_MF, 0);
	FAULTS(t, "0f fc c1", VEC_MF, 0);
	RUN(t, "df e0"); /* fnstsw ax does not wait */
	assert_true(REG(t, RAX) & 0x84);
	RUN(t, "db e2"); /* fnclex */
	RUN(t, "d9 e8");
	m_poke(&t->m, DATA + 0x30, 1u << 31);
	FAULTS(t, "0f ae 57 30", VEC_GP, 0); /* ldmxcsr with a reserved bit */
	im_close(t);
}

/* Where the host's code and buffers are must not be found in guest memory. */
static void pointers_are_the_guests(void **state)
{
	struct im *t = im_long();

	RUN(t, "db e3");
	REG(t, RDI) = DATA;
	REG(t, RSI) = DATA + 0x200;
	set_double(t, DATA, 3.0);
	RUN(t, "dd 07");       /* fld qword [rdi] */
	RUN(t, "48 0f ae 06"); /* fxsave64 [rsi] */
	assert_int_equal(m_peek(&t->m, DATA + 0x208), CODE + 2);
	assert_int_equal(m_peek(&t->m, DATA + 0x210), DATA);
	assert_int_equal(m_peek(&t->m, DATA + 0x206) & 0xffff, 0x507);
	RUN(t, "0f fc c1"); /* paddb leaves them */
	RUN(t, "d9 76 00"); /* fnstenv [rsi] */
	assert_int_equal((u32)m_peek(&t->m, DATA + 0x20c), CODE + 2);
	assert_int_equal((u32)m_peek(&t->m, DATA + 0x214), DATA);
	im_close(t);
}

static void x87_environment(void **state)
{
	struct im *t = long_with_x87();

	REG(t, RDI) = DATA;
	RUN(t, "d9 eb"); /* fldpi */
	RUN(t, "d9 ee"); /* fldz */
	RUN(t, "dd 37"); /* fnsave [rdi] */
	assert_int_equal(m_peek(&t->m, DATA) & 0xffff, 0x37f);
	assert_int_equal(m_peek(&t->m, DATA + 4) >> 11 & 7, 6);
	assert_int_equal(m_peek(&t->m, DATA + 8) & 0xffff, 0x1fff); /* 7 valid, 6 zero, the rest empty */
	assert_int_equal(m_peek(&t->m, DATA + 38), 0xc90fdaa22168c235);
	assert_int_equal(LEGACY16(t, 2), 0);
	RUN(t, "dd 27"); /* frstor */
	RUN(t, "d9 ca"); /* fxch st2 with an empty register: invalid, masked */
	RUN(t, "dd d8");
	RUN(t, "dd 5f 80");
	im_close(t);
}

static void images(void **state)
{
	struct im *t = long_with_x87();
	u64 hi[2] = {0x1111, 0x2222};

	REG(t, RDI) = DATA;
	REG(t, RSI) = DATA + 0x800;
	memcpy(t->m.ram + DATA + 0x800, hi, 16);
	RUN(t, "c4 e2 7d 5a 0e"); /* vbroadcasti128 ymm1, [rsi] */
	REG(t, RAX) = 7;
	REG(t, RDX) = 0;
	RUN(t, "48 0f ae 27"); /* xsave64 */
	assert_int_equal(m_peek(&t->m, DATA + 512), 6);
	assert_int_equal(m_peek(&t->m, DATA + 160 + 16), 0x1111);
	assert_int_equal(m_peek(&t->m, DATA + 576 + 16 + 8), 0x2222);
	RUN(t, "c5 fc 77");    /* vzeroall */
	RUN(t, "48 0f ae 2f"); /* xrstor64 */
	assert_int_equal(low(t, 1), 0x1111);
	/* A component that is missing from the image is initialised. */
	m_poke(&t->m, DATA + 512, 4);
	RUN(t, "48 0f ae 2f");
	assert_int_equal(low(t, 1), 0);
	m_poke(&t->m, DATA + 520, 1);
	FAULTS(t, "48 0f ae 2f", VEC_GP, 0); /* XCOMP_BV in the standard format */
	m_poke(&t->m, DATA + 520, 0);
	m_poke(&t->m, DATA + 512, 1ull << 62);
	FAULTS(t, "48 0f ae 2f", VEC_GP, 0);
	m_poke(&t->m, DATA + 512, 2);
	t->m.ram[DATA + 27] = 0x80; /* a reserved bit of MXCSR */
	FAULTS(t, "48 0f ae 2f", VEC_GP, 0);
	REG(t, RDI) = DATA + 16;
	FAULTS(t, "48 0f ae 2f", VEC_GP, 0);
	im_close(t);
}

static void compacted_images(void **state)
{
	struct im *t = long_with_x87();
	u64 hi[2] = {0x3333, 0x4444};

	if (!x86_cpuid_has(&t->m.cpuid, 0xd, 1, 0, 1))
		skip();
	REG(t, RDI) = DATA;
	REG(t, RSI) = DATA + 0x800;
	memcpy(t->m.ram + DATA + 0x800, hi, 16);
	RUN(t, "c4 e2 7d 5a 0e");
	REG(t, RAX) = 4;
	REG(t, RDX) = 0;
	RUN(t, "48 0f c7 27"); /* xsavec64 */
	assert_int_equal(m_peek(&t->m, DATA + 512), 4);
	assert_int_equal(m_peek(&t->m, DATA + 520), 1ull << 63 | 4);
	assert_int_equal(m_peek(&t->m, DATA + 576 + 16), 0x3333);
	RUN(t, "c5 f8 77"); /* vzeroupper */
	RUN(t, "48 0f ae 2f");
	RUN(t, "c4 e3 7d 39 c8 01"); /* vextracti128 xmm0, ymm1, 1 */
	assert_int_equal(low(t, 0), 0x3333);
	m_poke(&t->m, DATA + 512, 2);
	FAULTS(t, "48 0f ae 2f", VEC_GP, 0); /* a component that XCOMP_BV does not have */
	im_close(t);
}

/* Masked-off elements may lie in a page that is not there. */
static void masked_accesses(void **state)
{
	struct im *t = im_long();
	u32 mask[4] = {1u << 31, 1u << 31, 0, 0};

	memcpy(t->m.ram + DATA, mask, 16);
	REG(t, RSI) = DATA;
	REG(t, RDI) = DATA + 0xff8;
	m_poke(&t->m, DATA + 0xff8, 0x0000000200000001);
	RUN(t, "c5 f8 10 0e");	  /* vmovups xmm1, [rsi] */
	RUN(t, "c4 e2 71 2c 07"); /* vmaskmovps xmm0, xmm1, [rdi] */
	assert_int_equal(low(t, 0), 0x0000000200000001);
	RUN(t, "c4 e2 71 2e 07"); /* and back */
	m_poke(&t->m, DATA + 8, ~0ull);
	RUN(t, "c5 f8 10 0e");
	FAULTS(t, "c4 e2 71 2c 07", VEC_PF, 0);
	if (HAVE_AVX512(t)) {
		REG(t, RAX) = 3;
		RUN(t, "c5 f8 92 c8");	     /* kmovw k1, eax */
		RUN(t, "62 f1 7c c9 10 17"); /* vmovups zmm2{k1}{z}, [rdi] */
		assert_int_equal(low(t, 2), 0x0000000200000001);
		m_poke(&t->m, DATA + 0xff8, 0);
		RUN(t, "62 f1 7c 49 11 17"); /* vmovups [rdi]{k1}, zmm2 */
		assert_int_equal(m_peek(&t->m, DATA + 0xff8), 0x0000000200000001);
		REG(t, RAX) = 7;
		RUN(t, "c5 f8 92 c8");
		m_poke(&t->m, DATA + 0xff8, 0);
		FAULTS(t, "62 f1 7c 49 11 17", VEC_PF, 2);
		assert_int_equal(m_peek(&t->m, DATA + 0xff8), 0); /* all or nothing */
	}
	im_close(t);
}

static void gathers_restart(void **state)
{
	struct im *t = im_long();
	u32 index[4] = {0, 1, 1024, 2};

	memcpy(t->m.ram + DATA, index, 16);
	for (u32 k = 0; k < 4; k++)
		t->m.ram[DATA + 0x100 + k * 4] = (u8)(k + 1);
	REG(t, RSI) = DATA;
	REG(t, RDI) = DATA + 0x100;
	RUN(t, "c5 f8 10 16");			   /* vmovups xmm2, [rsi] */
	RUN(t, "c5 f1 76 c9");			   /* vpcmpeqd xmm1, xmm1, xmm1 */
	RUN(t, "c5 f8 57 c0");			   /* vxorps xmm0, xmm0, xmm0 */
	FAULTS(t, "c4 e2 71 90 04 97", VEC_PF, 0); /* vpgatherdd xmm0, [rdi+xmm2*4], xmm1 */
	assert_int_equal(low(t, 0), 0x0000000200000001);
	assert_int_equal(low(t, 1), 0); /* two elements are done */
	m_poke(&t->m, M_PT + (DATA / PAGE_SIZE + 1) * 8, (DATA + PAGE_SIZE) | P | W);
	t->m.ram[DATA + 0x1100] = 9;
	RUN(t, "c4 e2 71 90 04 97");
	assert_int_equal(XMM(t, 0)[8], 9);
	assert_int_equal(XMM(t, 0)[12], 3);
	FAULTS(t, "c4 e2 79 90 04 97", VEC_UD, 0); /* destination and mask are the same */
	im_close(t);
}

/* VEX instructions of 32-bit code run in 64-bit code on the host. */
static void vectors_in_32_bit_code(void **state)
{
	struct im *t = im_prot32();
	float f[4] = {1, 2, 3, 4};

	memcpy(t->m.ram + DATA, f, 16);
	REG(t, RBX) = DATA - 0x10;
	REG(t, RSI) = 4;
	RUN(t, "c5 f8 10 4c 73 08"); /* vmovups xmm1, [ebx+esi*2+8] */
	RUN(t, "c4 c1 70 58 c9");    /* vaddps: VEX.B counts for nothing here */
	memcpy(f, XMM(t, 1), 16);
	assert_true(f[0] == 2 && f[3] == 8);
	RUN(t, "66 0f 7e cc"); /* movd esp, xmm1 */
	assert_int_equal(REG(t, RSP), 0x40000000);
	RUN(t, "67 f3 0f 10 07"); /* movss xmm0, [bx] with 16-bit addressing */
	RUN(t, "26 d9 03");	  /* fld dword es:[ebx] */
	im_close(t);
}

static void upper_halves(void **state)
{
	struct im *t = im_long();

	if (!HAVE_AVX512(t))
		skip();
	RUN(t, "62 f3 75 48 25 c9 ff"); /* vpternlogd zmm1, zmm1, zmm1, 0xff */
	RUN(t, "c5 f8 57 d2");
	RUN(t, "c5 f0 54 c9"); /* vandps xmm1, xmm1, xmm1 clears above 128 bits */
	RUN(t, "62 f1 7c 48 28 d1");
	REG(t, RDI) = DATA;
	RUN(t, "62 f1 7c 48 11 17"); /* vmovups [rdi], zmm2 */
	assert_int_equal(m_peek(&t->m, DATA + 8), ~0ull);
	assert_int_equal(m_peek(&t->m, DATA + 16), 0);
	assert_int_equal(m_peek(&t->m, DATA + 56), 0);
	im_close(t);
}

/* The same code twice and other code in the same slot of the host's code memory. */
static void slots_are_checked(void **state)
{
	struct im *t = im_long();

	for (u32 k = 0; k < 3000; k++) {
		char hex[40];

		snprintf(hex, sizeof(hex), "66 0f 70 c1 %02x", k & 0xff); /* pshufd xmm0, xmm1, k */
		t->m.c.rip = CODE;
		for (u32 n = 0; n < 4; n++)
			XMM(t, 1)[4 * n] = (u8)(n + 1);
		t->m.c.fpu.bytes[512] |= 2;
		RUN(t, hex);
		for (u32 n = 0; n < 4; n++)
			assert_int_equal(XMM(t, 0)[4 * n], (k >> (2 * n) & 3) + 1);
	}
	im_close(t);
}

/* AMD's CPUs do not look at bits that Intel's manual makes #UD. */
static void ignored_bits(void **state)
{
	struct im *t = im_long();

	if (!HAVE_AVX512(t)) {
		im_close(t);
		skip();
	}
	/* vpmaxud xmm1, xmm2, xmm3 has a broadcast, vaesenc has none */
	t->m.cpuid.leaf[0].ecx = 0x444d4163;
	XMM(t, 1)[0] = 1;
	XMM(t, 2)[0] = 2;
	XMM(t, 3)[0] = 3;
	t->m.c.fpu.bytes[512] |= 2;
	RUN(t, "62 f2 6d 18 3f cb");
	assert_int_equal(low(t, 1), 3);
	FAULTS(t, "62 f2 6d 18 dc cb", VEC_UD, 0);
	FAULTS(t, "62 f2 6d 78 3f cb", VEC_UD, 0); /* a vector length that is none */
	RUN(t, "c5 35 45 db");			   /* korb k3, k1, k3 with bits that would number it k11, k9, k3 */
	RUN(t, "c5 79 98 c0");			   /* kortestb k0, k0 as k8, k0 */
	FAULTS(t, "c5 b9 98 c0", VEC_UD, 0);	   /* it has no vvvv */
	im_close(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gates),
		cmocka_unit_test(arithmetic),
		cmocka_unit_test(alignment),
		cmocka_unit_test(numeric_exceptions),
		cmocka_unit_test(pointers_are_the_guests),
		cmocka_unit_test(x87_environment),
		cmocka_unit_test(images),
		cmocka_unit_test(compacted_images),
		cmocka_unit_test(masked_accesses),
		cmocka_unit_test(gathers_restart),
		cmocka_unit_test(vectors_in_32_bit_code),
		cmocka_unit_test(upper_halves),
		cmocka_unit_test(slots_are_checked),
		cmocka_unit_test(ignored_bits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
