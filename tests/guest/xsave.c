/* SPDX-License-Identifier: Apache-2.0 */
/* XSAVE: what CPUID says of sizes, XCR0's rules, round trips of every component, XSAVEOPT, XSAVEC, INIT and refused images, CR0.TS,
 * CR4.OSXSAVE. */
#include "lib.h"

#define AREA 4096
static u8 area[AREA] PAGE_ALIGNED, other[AREA] PAGE_ALIGNED;
static u64 supported;

static u64 xgetbv(u32 n)
{
	u32 lo, hi;

	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(n));
	return (u64)hi << 32 | lo;
}

static void try_xsetbv(u32 n, u64 v)
{
	trap_clear();
	__asm__ volatile(TRY("xsetbv")::"c"(n), "a"((u32)v), "d"((u32)(v >> 32)));
}

#define XOP(name, insn)                                                                                                                    \
	static void name(void *p, u64 mask)                                                                                                \
	{                                                                                                                                  \
		__asm__ volatile(insn " (%0)" ::"r"(p), "a"((u32)mask), "d"((u32)(mask >> 32)) : "memory");                                \
	}
XOP(xsave, "xsave64")
XOP(xrstor, "xrstor64")
XOP(xsaveopt, "xsaveopt64")
XOP(xsavec, "xsavec64")

static void try_xrstor(void *p, u64 mask)
{
	trap_clear();
	__asm__ volatile(TRY("xrstor64 (%0)")::"r"(p), "a"((u32)mask), "d"((u32)(mask >> 32)) : "memory");
}

static u64 *bv(u8 *p)
{
	return (u64 *)(p + 512);
}

static void sizes(void)
{
	u32 r[4], c[4], end = 576;

	cpuid(0xd, 0, r);
	CHECK_EQ(r[0], (u32)supported);
	for (u32 i = 2; i < 63; i++) {
		if (!(supported >> i & 1))
			continue;
		cpuid(0xd, i, c);
		CHECK(c[0] != 0);
		if (c[1] + c[0] > end)
			end = c[1] + c[0];
	}
	CHECK(r[2] >= end);
	CHECK(r[2] <= AREA);
	/* EBX follows XCR0 */
	try_xsetbv(0, 3);
	cpuid(0xd, 0, r);
	CHECK_EQ(r[1], 576);
	try_xsetbv(0, supported);
	cpuid(0xd, 0, r);
	CHECK(r[1] >= end);
	CHECK(r[1] <= r[2]);
}

static void xcr0_rules(void)
{
	try_xsetbv(0, supported & ~1ul); /* x87 is always on */
	TRIED(GP, 0);
	if (supported & 4) {
		try_xsetbv(0, 5); /* AVX without SSE */
		TRIED(GP, 0);
	}
	if (supported & 0xe0) {
		try_xsetbv(0, 0x27); /* a part of AVX-512 */
		TRIED(GP, 0);
	}
	try_xsetbv(0, supported | 1ul << 62);
	TRIED(GP, 0);
	try_xsetbv(1, 1);
	TRIED(GP, 0);
	CHECK_EQ(xgetbv(0), supported);
	trap_clear();
	__asm__ volatile(TRY("xgetbv")::"c"(7) : "rax", "rdx");
	TRIED(GP, 0);
}

static void osxsave_follows_cr4(void)
{
	u32 r[4];

	cpuid(1, 0, r);
	CHECK_EQ(r[2] >> 27 & 1, 1);
	write_cr4(read_cr4() & ~CR4_OSXSAVE);
	cpuid(1, 0, r);
	CHECK_EQ(r[2] >> 27 & 1, 0);
	trap_clear();
	__asm__ volatile(TRY("xgetbv")::"c"(0) : "rax", "rdx");
	TRIED(UD, 0);
	trap_clear();
	__asm__ volatile(TRY("xsave64 (%0)")::"r"(area), "a"(3), "d"(0) : "memory");
	TRIED(UD, 0);
	if (supported & 4) {
		trap_clear();
		__asm__ volatile(TRY("vxorps %xmm0, %xmm0, %xmm0"));
		TRIED(UD, 0);
	}
	write_cr4(read_cr4() | CR4_OSXSAVE);
	CHECK_EQ(xgetbv(0), supported);
}

static void fill_registers(void)
{
	static const u64 pattern[8] = {0x1111, 0x2222, 0x3333, 0x4444, 0x5555, 0x6666, 0x7777, 0x8888};

	__asm__ volatile("fninit; fld1; fldpi");
	__asm__ volatile("movups (%0), %%xmm0; movups 16(%0), %%xmm15" ::"r"(pattern));
	if (supported & 4)
		__asm__ volatile("vmovups (%0), %%ymm3; vmovups 32(%0), %%ymm12" ::"r"(pattern));
	if (supported & 0xe0)
		__asm__ volatile("vmovups (%0), %%zmm5; vmovups (%0), %%zmm21; mov $0x1234, %%eax; kmovw %%eax, %%k3" ::"r"(pattern)
				 : "rax");
}

static void clear_registers(void)
{
	__asm__ volatile("fninit; xorps %xmm0, %xmm0; xorps %xmm15, %xmm15");
	if (supported & 4)
		__asm__ volatile("vzeroall");
	if (supported & 0xe0)
		__asm__ volatile("vpxord %zmm21, %zmm21, %zmm21; kxorw %k3, %k3, %k3");
}

static void save_clear_restore(void (*save)(void *, u64))
{
	memset(area, 0, AREA);
	memset(other, 0, AREA);
	fill_registers();
	save(area, supported);
	clear_registers();
	xrstor(area, supported);
	xsave(other, supported);
	/* compare through a second image in the standard format */
	clear_registers();
	fill_registers();
	memset(area, 0, AREA);
	xsave(area, supported);
	CHECK_EQ(memcmp(area, other, 416), 0); /* legacy area, without what is reserved */
	CHECK_EQ(*bv(area) & supported, *bv(other) & supported);
	CHECK_EQ(memcmp(area + 576, other + 576, AREA - 576), 0);
	clear_registers();
}

static void round_trip(void)
{
	save_clear_restore(xsave);
}
static void round_trip_opt(void)
{
	save_clear_restore(xsaveopt);
}
static void round_trip_compact(void)
{
	save_clear_restore(xsavec);
	fill_registers();
	memset(other, 0xff, AREA);
	xsavec(other, supported);
	CHECK_EQ(*(u64 *)(other + 520), 1ul << 63 | supported);
	CHECK_EQ(*bv(other) & ~supported, 0);
	clear_registers();
}

/* A clear bit in XSTATE_BV puts the component into its initial state. */
static void init_by_xstate_bv(void)
{
	fill_registers();
	memset(area, 0, AREA);
	xsave(area, supported);
	*bv(area) = 0;
	fill_registers();
	xrstor(area, supported);
	memset(other, 0, AREA);
	xsave(other, supported);
	CHECK_EQ(*(u16 *)other, 0x37f);
	CHECK_EQ(*(u16 *)(other + 2), 0);
	CHECK_EQ(other[4], 0);
	for (u32 i = 160; i < 416; i++)
		CHECK_EQ(other[i], 0);
}

/* A clear bit in the requested mask leaves the component alone. */
static void mask_selects(void)
{
	fill_registers();
	memset(area, 0, AREA);
	xsave(area, supported);
	__asm__ volatile("pcmpeqd %xmm0, %xmm0");
	xrstor(area, 1);
	memset(other, 0, AREA);
	xsave(other, 2);
	CHECK_EQ(*(u64 *)(other + 160), ~0ul);
	CHECK_EQ(*(u64 *)other, 0); /* x87 was not asked for */
	clear_registers();
}

static void bad_images(void)
{
	memset(area, 0, AREA);
	xsave(area, supported);
	*bv(area) |= 1ul << 62;
	try_xrstor(area, supported);
	TRIED(GP, 0);
	memset(area + 512, 0, 64);
	*(u32 *)(area + 24) = 0xffff0000; /* MXCSR */
	*bv(area) = 2;
	try_xrstor(area, supported);
	if (!on_qemu_tcg()) /* which ignores them */
		TRIED(GP, 0);
	*(u32 *)(area + 24) = 0x1f80;
	area[512 + 16] = 1; /* a reserved byte of the header */
	try_xrstor(area, supported);
	TRIED(GP, 0);
	area[512 + 16] = 0;
	try_xrstor(area + 8, supported); /* misaligned */
	TRIED(GP, 0);
	memset(area + 512, 0, 64);
	*(u64 *)(area + 520) = 4; /* compacted components without the bit that says so */
	try_xrstor(area, supported);
	TRIED(GP, 0);
	memset(area + 512, 0, 64);
	try_xrstor(area, supported);
	TRIED(NO_TRAP, 0);
}

static void task_switched(void)
{
	write_cr0(read_cr0() | 8);
	try_xrstor(area, supported);
	TRIED(NM, 0);
	trap_clear();
	__asm__ volatile(TRY("xsave64 (%0)")::"r"(area), "a"(3), "d"(0) : "memory");
	TRIED(NM, 0);
	if (supported & 4) {
		trap_clear();
		__asm__ volatile(TRY("vxorps %xmm0, %xmm0, %xmm0"));
		TRIED(NM, 0);
	}
	trap_clear();
	__asm__ volatile(TRY("fxsave64 (%0)")::"r"(area) : "memory");
	TRIED(NM, 0);
	__asm__ volatile("clts");
}

static void faults_in_the_area(void)
{
	const u64 at = TEST_VA + 0x800000;

	paging_map(at, (u64)area, P | W);
	paging_map(at + PAGE, 0, 0);
	trap_clear();
	__asm__ volatile(TRY("xsave64 (%0)")::"r"(at + PAGE - 512), "a"((u32)supported), "d"(0) : "memory");
	CHECK_EQ(trap.vector, PF);
	CHECK_EQ(trap.cr2 & ~(PAGE - 1), at + PAGE);
	try_xrstor((void *)(at + PAGE - 512), supported);
	CHECK_EQ(trap.vector, PF);
	CHECK_EQ(trap.cr2 & ~(PAGE - 1), at + PAGE);
}

static void avx_off(void)
{
	try_xsetbv(0, 3);
	TRIED(NO_TRAP, 0);
	trap_clear();
	__asm__ volatile(TRY("vxorps %xmm0, %xmm0, %xmm0"));
	TRIED(UD, 0);
	trap_clear();
	__asm__ volatile(TRY("xorps %xmm0, %xmm0"));
	TRIED(NO_TRAP, 0);
	try_xsetbv(0, supported);
	trap_clear();
	__asm__ volatile(TRY("vxorps %xmm0, %xmm0, %xmm0"));
	TRIED(NO_TRAP, 0);
}

static void fxsave_round_trip(void)
{
	fill_registers();
	memset(area, 0, 512);
	__asm__ volatile("fxsave64 (%0)" ::"r"(area) : "memory");
	clear_registers();
	__asm__ volatile("fxrstor64 (%0)" ::"r"(area) : "memory");
	memset(other, 0, 512);
	__asm__ volatile("fxsave64 (%0)" ::"r"(other) : "memory");
	CHECK_EQ(memcmp(area, other, 416), 0);
	CHECK_EQ(*(u32 *)(area + 28) & 0xffbf, 0xffbf); /* MXCSR_MASK */
	clear_registers();
}

void guest_main(void)
{
	u32 r[4];

	if (!cpuid_bit(1, 0, 2, 26))
		guest_skip("no XSAVE");
	write_cr4(read_cr4() | CR4_OSXSAVE);
	cpuid(0xd, 0, r);
	supported = (u64)r[3] << 32 | r[0];
	supported &= 0xe7;
	try_xsetbv(0, supported);
	TRIED(NO_TRAP, 0);
	if (!in_qemu()) /* which also offers MPX and protection keys */
		LOOP(sizes);
	LOOP(xcr0_rules);
	LOOP(osxsave_follows_cr4);
	LOOP(round_trip);
	if (cpuid_bit(0xd, 1, 0, 0))
		LOOP(round_trip_opt);
	if (cpuid_bit(0xd, 1, 0, 1))
		LOOP(round_trip_compact);
	LOOP(init_by_xstate_bv);
	LOOP(mask_selects);
	LOOP(bad_images);
	if (!on_qemu_tcg()) /* whose XSAVE does not look at TS */
		LOOP(task_switched);
	LOOP(faults_in_the_area);
	if (supported & 4)
		LOOP(avx_off);
	LOOP(fxsave_round_trip);
}
