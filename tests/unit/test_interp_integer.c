/* SPDX-License-Identifier: Apache-2.0 */
/* The interpreter's integer instructions: results, flags, and what a fault leaves behind. */
#include "interp_machine.h"
#include "x86/internal.h"

static void arithmetic_flags(void **state)
{
	struct im *t = im_long();

	REG(t, RAX) = 0x7fffffff;
	REG(t, RBX) = 1;
	RUN(t, "01 d8"); /* add eax, ebx */
	assert_int_equal(REG(t, RAX), 0x80000000);
	assert_int_equal(FLAGS(t), FL_OF | FL_SF | FL_AF | FL_PF);
	RUN(t, "48 29 c0"); /* sub rax, rax */
	assert_int_equal(FLAGS(t), FL_ZF | FL_PF);
	t->m.c.rflags |= FL_CF;
	RUN(t, "80 d4 ff"); /* adc ah, -1 */
	assert_int_equal(REG(t, RAX), 0);
	assert_int_equal(FLAGS(t), FL_CF | FL_ZF | FL_PF | FL_AF);
	RUN(t, "48 ff c8"); /* dec rax: CF stays */
	assert_int_equal(REG(t, RAX), ~0ull);
	assert_int_equal(FLAGS(t), FL_CF | FL_SF | FL_PF | FL_AF);
	RUN(t, "66 f7 d8"); /* neg ax */
	assert_int_equal(REG(t, RAX), 0xffffffffffff0001);
	im_close(t);
}

static void shifts(void **state)
{
	struct im *t = im_long();

	REG(t, RAX) = 0xaaaaaaaa80000001;
	REG(t, RCX) = 0x20;
	t->m.c.rflags |= FL_CF;
	RUN(t, "d3 e0"); /* shl eax, cl with a masked count of zero: flags stay, the upper half goes */
	assert_int_equal(REG(t, RAX), 0x80000001);
	assert_int_equal(FLAGS(t), FL_CF);
	RUN(t, "d1 d0"); /* rcl eax, 1 */
	assert_int_equal(REG(t, RAX), 3);
	assert_true(t->m.c.rflags & FL_CF);
	RUN(t, "c0 d8 09"); /* rcr al, 9: a whole turn */
	assert_int_equal(REG(t, RAX), 3);
	REG(t, RDX) = 0x80000000;
	RUN(t, "0f a4 d0 01"); /* shld eax, edx, 1 */
	assert_int_equal(REG(t, RAX), 7);
	im_close(t);
}

static void multiply_and_divide(void **state)
{
	struct im *t = im_long();

	REG(t, RAX) = ~0ull;
	REG(t, RBX) = ~0ull;
	RUN(t, "48 f7 e3"); /* mul rbx */
	assert_int_equal(REG(t, RAX), 1);
	assert_int_equal(REG(t, RDX), ~1ull);
	RUN(t, "48 f7 f3"); /* div rbx */
	assert_int_equal(REG(t, RAX), ~0ull);
	assert_int_equal(REG(t, RDX), 0);
	REG(t, RDX) = ~0ull;
	FAULTS(t, "48 f7 f3", VEC_DE, 0); /* quotient too large */
	REG(t, RDX) = 1ull << 63;
	REG(t, RAX) = 0;
	FAULTS(t, "48 f7 fb", VEC_DE, 0); /* idiv: -2^127 / -1 */
	REG(t, RAX) = 0x80;
	REG(t, RBX) = 0xff;
	RUN(t, "f6 fb"); /* idiv bl: 128 / -1 just fits */
	assert_int_equal(REG(t, RAX) & 0xffff, 0x80);
	REG(t, RAX) = 0x81;
	FAULTS(t, "f6 fb", VEC_DE, 0);
	im_close(t);
}

static void bits(void **state)
{
	struct im *t = im_long();

	REG(t, RDI) = DATA + 0x100;
	REG(t, RCX) = (u64)-9;
	m_poke(&t->m, DATA + 0xf8, 1ull << 55);
	RUN(t, "48 0f b3 0f"); /* btr [rdi], rcx: below the operand */
	assert_int_equal(m_peek(&t->m, DATA + 0xf8), 0);
	assert_true(t->m.c.rflags & FL_CF);
	REG(t, RAX) = 0x1234567800000000;
	RUN(t, "0f bc c0"); /* bsf eax, eax of zero: nothing is written */
	assert_int_equal(REG(t, RAX), 0x1234567800000000);
	RUN(t, "f3 0f bc c0"); /* tzcnt */
	assert_int_equal(REG(t, RAX), 32);
	REG(t, RAX) = 0;
	REG(t, RBX) = 0x11;
	RUN(t, "f2 48 0f 38 f1 c3"); /* crc32 rax, rbx */
	assert_int_equal(REG(t, RAX) >> 32, 0);
	im_close(t);
}

static void compare_exchange(void **state)
{
	struct im *t = im_long();

	REG(t, RDI) = DATA;
	REG(t, RAX) = 5;
	REG(t, RBX) = 9;
	m_poke(&t->m, DATA, 5);
	RUN(t, "f0 48 0f b1 1f"); /* lock cmpxchg [rdi], rbx */
	assert_int_equal(m_peek(&t->m, DATA), 9);
	assert_true(t->m.c.rflags & FL_ZF);
	RUN(t, "f0 48 0f b1 1f");
	assert_int_equal(REG(t, RAX), 9);
	assert_false(t->m.c.rflags & FL_ZF);
	RUN(t, "f0 48 0f c1 1f"); /* lock xadd */
	assert_int_equal(m_peek(&t->m, DATA), 18);
	assert_int_equal(REG(t, RBX), 9);
	REG(t, RAX) = 18;
	REG(t, RDX) = 0;
	REG(t, RCX) = 4;
	RUN(t, "f0 48 0f c7 0f"); /* lock cmpxchg16b */
	assert_int_equal(m_peek(&t->m, DATA), 9);
	assert_int_equal(m_peek(&t->m, DATA + 8), 4);
	REG(t, RDI) = DATA + 8;
	FAULTS(t, "48 0f c7 0f", VEC_GP, 0);
	REG(t, RAX) = 0x1111111122222222;
	REG(t, RDX) = 0xaaaaaaaabbbbbbbb;
	RUN(t, "0f b1 da"); /* cmpxchg edx, ebx that fails leaves all of rdx */
	assert_int_equal(REG(t, RDX), 0xaaaaaaaabbbbbbbb);
	assert_int_equal(REG(t, RAX), 0xbbbbbbbb);
	im_close(t);
}

static void a_fault_changes_nothing(void **state)
{
	struct im *t = im_long();

	REG(t, RSP) = DATA + 0x1004; /* the low half of the slot is in the page that is there */
	FAULTS(t, "50", VEC_PF, 2);
	REG(t, RSP) = 0x7008;
	FAULTS(t, "50", VEC_PF, 2);
	assert_int_equal(REG(t, RSP), 0x7008);
	FAULTS(t, "5b", VEC_PF, 0);	     /* pop */
	FAULTS(t, "c8 10 00 03", VEC_PF, 2); /* enter 16, 3 */
	assert_int_equal(REG(t, RSP), 0x7008);
	REG(t, RDI) = 0x7000;
	FAULTS(t, "48 83 07 01", VEC_PF, 2); /* add [rdi], 1 is a store to begin with */
	FAULTS(t, "ff 17", VEC_PF, 0);	     /* call [rdi] */
	REG(t, RDI) = 0x800000000000;
	FAULTS(t, "8b 07", VEC_GP, 0);
	REG(t, RBP) = 0x800000000000;
	FAULTS(t, "8b 45 00", VEC_SS, 0);
	im_close(t);
}

static void strings(void **state)
{
	struct im *t = im_long();

	for (u32 k = 0; k < 64; k++)
		t->m.ram[DATA + k] = (u8)k;
	REG(t, RSI) = DATA;
	REG(t, RDI) = DATA + 1;
	REG(t, RCX) = 16;
	RUN(t, "f3 a4"); /* overlapping by one: repeats the first byte */
	for (u32 k = 0; k < 17; k++)
		assert_int_equal(t->m.ram[DATA + k], 0);
	assert_int_equal(REG(t, RSI), DATA + 16);
	assert_int_equal(REG(t, RCX), 0);
	t->m.c.rflags |= FL_DF;
	REG(t, RSI) = DATA + 56;
	REG(t, RDI) = DATA + 0x108;
	REG(t, RCX) = 2;
	RUN(t, "f3 48 a5");
	assert_int_equal(m_peek(&t->m, DATA + 0x108), 0x3f3e3d3c3b3a3938);
	assert_int_equal(m_peek(&t->m, DATA + 0x100), 0x3736353433323130);
	assert_int_equal(REG(t, RDI), DATA + 0xf8);
	t->m.c.rflags &= ~(u64)FL_DF;
	REG(t, RDI) = DATA;
	REG(t, RAX) = 0x20;
	REG(t, RCX) = 100;
	RUN(t, "f2 ae"); /* repne scasb */
	assert_int_equal(REG(t, RDI), DATA + 0x21);
	assert_int_equal(REG(t, RCX), 100 - 0x21);
	assert_true(t->m.c.rflags & FL_ZF);
	im_close(t);
}

/* A REP that meets a missing page stops there, with what is done done. */
static void string_fault_in_the_middle(void **state)
{
	struct im *t = im_long();

	REG(t, RDI) = DATA + 0xff0;
	REG(t, RAX) = 0x1122334455667788;
	REG(t, RCX) = 4;
	FAULTS(t, "f3 48 ab", VEC_PF, 2);
	assert_int_equal(REG(t, RCX), 2);
	assert_int_equal(REG(t, RDI), DATA + 0x1000);
	assert_int_equal(m_peek(&t->m, DATA + 0xff8), 0x1122334455667788);
	im_close(t);
}

/* Long repetitions give interrupts a chance: rip stays. */
static void strings_are_interruptible(void **state)
{
	struct im *t = im_long();
	u64 rip = t->m.c.rip;
	u32 steps = 0;

	REG(t, RSI) = DATA;
	REG(t, RCX) = 4000;
	do {
		RUN(t, "f3 ac"); /* rep lodsb */
		steps++;
	} while (t->m.c.rip == rip);
	assert_true(steps > 2);
	assert_int_equal(REG(t, RCX), 0);
	im_close(t);
}

static void bulk_copies_match(void **state)
{
	struct im *t = im_long();
	const u64 epoch = 0;

	interp_cache_translations(t->in, &epoch);
	for (u32 k = 0; k < 0x3000; k++)
		t->m.ram[0x50000 + k] = (u8)(k * 7);
	REG(t, RSI) = 0x50003;
	REG(t, RDI) = 0x60ffd;
	REG(t, RCX) = 0x2ff0;
	for (u64 rip = t->m.c.rip; t->m.c.rip == rip;)
		RUN(t, "f3 a4");
	assert_memory_equal(t->m.ram + 0x60ffd, t->m.ram + 0x50003, 0x2ff0);
	assert_int_equal(t->m.ram[0x60ffd + 0x2ff0], 0);
	REG(t, RDI) = 0x70004;
	REG(t, RAX) = 0xdeadbeef;
	REG(t, RCX) = 0x800;
	for (u64 rip = t->m.c.rip; t->m.c.rip == rip;)
		RUN(t, "f3 ab");
	assert_int_equal(m_peek(&t->m, 0x71ffc), 0xdeadbeefdeadbeef);
	assert_int_equal(m_peek(&t->m, 0x72004), 0);
	im_close(t);
}

static void decoding_limits(void **state)
{
	struct im *t = im_long();

	FAULTS(t, "66 66 66 66 66 66 66 66 66 66 66 66 66 66 66 90", VEC_GP, 0); /* 16 bytes */
	FAULTS(t, "f0 89 c0", VEC_UD, 0);					 /* lock on a register */
	FAULTS(t, "f0 8b 07", VEC_UD, 0);					 /* lock mov */
	FAULTS(t, "06", VEC_UD, 0);						 /* push es in 64-bit code */
	FAULTS(t, "0f ff c0", VEC_UD, 0);
	assert_true(interp_unknown_count(t->in) >= 3);
	/* The page after DATA's is missing: what ends before it runs, what needs it faults there. */
	t->m.c.rip = DATA + 0xfff;
	RUN(t, "90");
	t->m.c.rip = DATA + 0xffe;
	t->m.ram[DATA + 0xffe] = 0x48;
	t->m.ram[DATA + 0xfff] = 0x01;
	assert_int_equal(interp_step(t->in, &t->m.c), INTERP_FAULT);
	assert_int_equal(t->m.c.fault.cr2, DATA + 0x1000);
	assert_fault(&t->m, VEC_PF, 0x10);
	im_close(t);
}

static void changed_code_is_seen(void **state)
{
	struct im *t = im_long();

	for (u32 k = 0; k < 3; k++) {
		t->m.c.rip = CODE;
		RUN(t, "b8 01 00 00 00");
		assert_int_equal(REG(t, RAX), 1);
		t->m.c.rip = CODE;
		RUN(t, "b8 02 00 00 00");
		assert_int_equal(REG(t, RAX), 2);
		t->m.c.rip = CODE;
		RUN(t, "48 ff c0 90 90");
		assert_int_equal(REG(t, RAX), 3);
	}
	im_close(t);
}

/* Zydis 4.0 has this form wrong. */
static void sib_without_base(void **state)
{
	struct im *t = im_long();

	REG(t, R13) = 0x123456;
	REG(t, RBX) = 2;
	m_poke(&t->m, DATA + 8, 42);
	RUN(t, "67 49 8b 04 9d 00 60 00 00"); /* mov rax, [ebx*4 + 0x6000] with REX.B */
	assert_int_equal(REG(t, RAX), 42);
	im_close(t);
}

static void decimal(void **state)
{
	struct im *t = im_prot32();

	REG(t, RAX) = 0x79;
	REG(t, RBX) = 0x35;
	RUN(t, "00 d8");
	RUN(t, "27"); /* daa */
	assert_int_equal(REG(t, RAX) & 0xff, 0x14);
	assert_true(t->m.c.rflags & FL_CF);
	REG(t, RAX) = 0x0205;
	RUN(t, "d5 0a"); /* aad */
	assert_int_equal(REG(t, RAX) & 0xffff, 25);
	RUN(t, "d4 0a"); /* aam */
	assert_int_equal(REG(t, RAX) & 0xffff, 0x0205);
	FAULTS(t, "d4 00", VEC_DE, 0);
	m_poke(&t->m, DATA, 5 | 9ull << 32);
	REG(t, RCX) = 4;
	REG(t, RDI) = DATA;
	FAULTS(t, "62 0f", VEC_BR, 0); /* bound ecx, [edi] */
	REG(t, RCX) = 9;
	RUN(t, "62 0f");
	im_close(t);
}

static void stack_frames(void **state)
{
	struct im *t = im_prot32();
	u32 slots[8];

	for (u32 r = 0; r < 8; r++)
		if (r != R_RSP)
			t->m.c.gpr[r] = 0x100 + r;
	RUN(t, "60"); /* pusha */
	memcpy(slots, t->m.ram + M_STACK - 32, 32);
	assert_int_equal(slots[7], 0x100 + R_RAX);
	assert_int_equal(slots[3], M_STACK);
	assert_int_equal(slots[0], 0x100 + R_RDI);
	REG(t, RSI) = 0;
	RUN(t, "61");
	assert_int_equal(REG(t, RSI), 0x100 + R_RSI);
	assert_int_equal(REG(t, RSP), M_STACK);
	t->m.c.seg[SEG_SS].limit = M_STACK - 1;
	REG(t, RSI) = REG(t, RDI) = 0;
	REG(t, RSP) = M_STACK - 4;
	FAULTS(t, "61", VEC_SS, 0);
	assert_int_equal(REG(t, RSI), 0); /* not reached */
	assert_int_equal(REG(t, RSP), M_STACK - 4);
	if (x86_is_amd(&t->m.c)) /* popped before the fault */
		assert_int_equal(REG(t, RDI), 0x100 + R_RAX);
	t->m.c.seg[SEG_SS].limit = ~0u;
	REG(t, RSP) = M_STACK;
	REG(t, RBP) = 0x30000;
	t->m.ram[0x30000 - 4] = 0x77;
	RUN(t, "c8 20 00 02"); /* enter 32, 2 */
	assert_int_equal(REG(t, RBP), M_STACK - 4);
	assert_int_equal(REG(t, RSP), M_STACK - 12 - 32);
	memcpy(slots, t->m.ram + M_STACK - 12, 12);
	assert_int_equal(slots[0], M_STACK - 4);
	assert_int_equal(slots[1], 0x77);
	assert_int_equal(slots[2], 0x30000);
	RUN(t, "c9");
	assert_int_equal(REG(t, RSP), M_STACK);
	assert_int_equal(REG(t, RBP), 0x30000);
	im_close(t);
}

/* AMD's CPUs look at the address before the base is added, Intel's only at the sum. */
static void canonical_before_the_base(void **state)
{
	struct im *t = im_long();

	t->m.c.seg[SEG_GS].base = DATA - 0x800000000000ull;
	REG(t, RDI) = 0x800000000000;
	if (x86_is_amd(&t->m.c))
		FAULTS(t, "65 8a 07", VEC_GP, 0); /* mov al, gs:[rdi] */
	else
		RUN(t, "65 8a 07");
	REG(t, RDI) = 0x7ffffffffff0;
	t->m.c.seg[SEG_GS].base = DATA - REG(t, RDI);
	RUN(t, "65 48 8b 07");
	im_close(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(arithmetic_flags),
		cmocka_unit_test(shifts),
		cmocka_unit_test(multiply_and_divide),
		cmocka_unit_test(bits),
		cmocka_unit_test(compare_exchange),
		cmocka_unit_test(a_fault_changes_nothing),
		cmocka_unit_test(strings),
		cmocka_unit_test(string_fault_in_the_middle),
		cmocka_unit_test(strings_are_interruptible),
		cmocka_unit_test(bulk_copies_match),
		cmocka_unit_test(decoding_limits),
		cmocka_unit_test(changed_code_is_seen),
		cmocka_unit_test(sib_without_base),
		cmocka_unit_test(decimal),
		cmocka_unit_test(stack_frames),
		cmocka_unit_test(canonical_before_the_base),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
