/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The same code under changing rules for x87, SSE and AVX: CR0.TS, CR0.EM, CR4.OSXSAVE and XCR0 change what an instruction does, long after it was
 * translated, and back again.
 */
#include "lib.h"

#define CALLS 3000u /* under each rule, of each function: past the point where a translator gets used to it */

static u64 xcr0_all;

static void xsetbv(u64 v)
{
	__asm__ volatile("xsetbv" ::"c"(0), "a"((u32)v), "d"((u32)(v >> 32)));
}

/* ---- what is called: each returns n + 1, or n when its instruction trapped */

typedef u64 (*body_fn)(u64 n);

static u64 plain(u64 n)
{
	__asm__ volatile("push %0; addq $1, (%%rsp); pop %0" : "+r"(n)::"cc", "memory");
	return n;
}

static u64 sse(u64 n)
{
	u64 one = 1;

	__asm__ volatile("1: jmp 2f; 2:\n" TRY("movq %0, %%xmm0\n\tmovq %1, %%xmm1\n\tpaddq %%xmm1, %%xmm0\n\tmovq %%xmm0, %0")
			 : "+r"(n)
			 : "r"(one));
	return n;
}

static u64 avx(u64 n)
{
	u64 one = 1;

	__asm__ volatile(TRY("vmovq %0, %%xmm2\n\tvmovq %1, %%xmm3\n\tvpaddq %%ymm3, %%ymm2, %%ymm4\n\tvmovq %%xmm4, %0")
			 : "+r"(n)
			 : "r"(one));
	return n;
}

static u64 x87(u64 n)
{
	u64 in = n, out = n;

	__asm__ volatile(TRY("fildll %1\n\tfld1\n\tfaddp\n\tfistpll %0") : "+m"(out) : "m"(in));
	return out;
}

enum { PLAIN, SSE, AVX, X87, BODIES };
static body_fn volatile bodies[BODIES] = {plain, sse, avx, x87};

/* ---- the rules */

static void all(void)
{
}
static void task_switched(void)
{
	write_cr0(read_cr0() | 8);
}
static void emulated(void)
{
	write_cr0(read_cr0() | 4);
}
static void without_avx(void)
{
	xsetbv(3);
}
static void x87_only(void)
{
	xsetbv(1);
}
static void without_xsave(void)
{
	write_cr4(read_cr4() & ~(1ul << 18));
}
static void undo(u64 cr0, u64 cr4)
{
	write_cr0(cr0);
	write_cr4(cr4);
	xsetbv(xcr0_all);
}

static const struct rule {
	void (*apply)(void);
	u16 trap[BODIES];
} rules[] = {
	{all, {NO_TRAP, NO_TRAP, NO_TRAP, NO_TRAP}}, {task_switched, {NO_TRAP, NM, NM, NM}},
	{all, {NO_TRAP, NO_TRAP, NO_TRAP, NO_TRAP}}, {without_avx, {NO_TRAP, NO_TRAP, UD, NO_TRAP}},
	{emulated, {NO_TRAP, UD, NO_TRAP, NM}},	     {without_xsave, {NO_TRAP, NO_TRAP, UD, NO_TRAP}},
	{x87_only, {NO_TRAP, NO_TRAP, UD, NO_TRAP}}, {task_switched, {NO_TRAP, NM, NM, NM}},
};

static void call_all(const struct rule *r)
{
	for (u32 b = 0; b < BODIES; b++) {
		u64 n;

		if (b == AVX && r->apply == emulated && on_qemu_tcg()) /* which refuses it then; CR0.EM is not for VEX: SDM vol. 2, 2.4 */
			continue;
		trap_clear();
		n = bodies[b](loop_count);
		CHECK_EQ(n, loop_count + (r->trap[b] == NO_TRAP));
		if (b != PLAIN)
			CHECK_EQ(trap.vector, r->trap[b]);
	}
}

static void under_each_rule(void)
{
	u64 cr0 = read_cr0(), cr4 = read_cr4();

	for (u32 i = 0; i < ARRAY_SIZE(rules); i++) {
		rules[i].apply();
		for (u32 n = 0; n < CALLS; n++)
			call_all(&rules[i]);
		undo(cr0, cr4);
	}
}

void guest_main(void)
{
	u32 r[4];

	if (!cpuid_bit(1, 0, 2, 28) || !cpuid_bit(7, 0, 1, 5))
		guest_skip("there is no AVX2");
	cpuid(0xd, 0, r);
	xcr0_all = r[0] | (u64)r[3] << 32;
	FEW(under_each_rule);
}
