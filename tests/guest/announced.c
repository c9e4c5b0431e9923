/* SPDX-License-Identifier: Apache-2.0 */
/* CPUID keeps its word, whatever CPU model it speaks of: what it announces works, and control bits, MSRs and register state of what it hides are refused. */
#include "lib.h"

enum { EAX, EBX, ECX, EDX };

struct feature {
	u32 leaf;
	u8 sub, reg, bit;
};

static bool announced(const struct feature *f)
{
	return cpuid_bit(f->leaf, f->sub, f->reg, f->bit);
}

/* ---- CR4 ---- */

static const struct {
	u8 bit;
	struct feature needs;
} cr4_bits[] = {
	{0, {1, 0, EDX, 1}},   {1, {1, 0, EDX, 1}},  {2, {1, 0, EDX, 4}},   {3, {1, 0, EDX, 2}},   {6, {1, 0, EDX, 7}},
	{7, {1, 0, EDX, 13}},  {9, {1, 0, EDX, 24}}, {10, {1, 0, EDX, 25}}, {11, {7, 0, ECX, 2}},  {13, {1, 0, ECX, 5}},
	{14, {1, 0, ECX, 6}},  {16, {7, 0, EBX, 0}}, {17, {1, 0, ECX, 17}}, {18, {1, 0, ECX, 26}}, {20, {7, 0, EBX, 7}},
	{21, {7, 0, EBX, 20}}, {22, {7, 0, ECX, 3}}, {23, {7, 0, ECX, 7}},  {24, {7, 0, ECX, 31}},
};

static void cr4(void)
{
	u64 old = read_cr4();

	for (u32 i = 0; i < ARRAY_SIZE(cr4_bits); i++) {
		bool ours = announced(&cr4_bits[i].needs);
		u64 with = old | 1ul << cr4_bits[i].bit, got;

		if (!ours && on_qemu_tcg()) /* which drops some bits instead of refusing them */
			continue;
		trap_clear();
		__asm__ volatile(TRY("mov %1, %%cr4; mov %%cr4, %0; mov %2, %%cr4") : "=&r"(got) : "r"(with), "r"(old) : "memory");
		TRIED(ours ? NO_TRAP : GP, 0);
		if (ours)
			CHECK_EQ(got, with);
		CHECK_EQ(read_cr4(), old);
	}
}

/* ---- MSRs ---- */

static const struct {
	u32 msr;
	struct feature needs;
} msrs[] = {
	{0x3b, {7, 0, EBX, 1}},	   /* TSC_ADJUST */
	{0x48, {7, 0, EDX, 26}},   /* SPEC_CTRL */
	{0x10a, {7, 0, EDX, 29}},  /* ARCH_CAPABILITIES */
	{0xda0, {0xd, 1, EAX, 3}}, /* XSS */
	{0xc0000103, {0x80000001, 0, EDX, 27}},
};

static void msr(void)
{
	for (u32 i = 0; i < ARRAY_SIZE(msrs); i++) {
		if (!announced(&msrs[i].needs) && on_qemu_tcg()) /* which knows them all */
			continue;
		trap_clear();
		__asm__ volatile(TRY("rdmsr")::"c"(msrs[i].msr) : "rax", "rdx");
		TRIED(announced(&msrs[i].needs) ? NO_TRAP : GP, 0);
	}
}

/* ---- instructions ---- */

static u8 memory[64] __attribute__((aligned(64)));

#define INSN(name, text)                                                                                                                   \
	static void name(void)                                                                                                             \
	{                                                                                                                                  \
		__asm__ volatile(TRY(text)::"D"(memory) : "rax", "rbx", "rcx", "rdx", "memory", "cc");                                     \
	}

INSN(cmov, "cmovc %%ecx, %%eax")
INSN(cx8, "cmpxchg8b (%%rdi)")
INSN(cx16, "cmpxchg16b (%%rdi)")
INSN(clflush, "clflush (%%rdi)")
INSN(mmx, "paddb %%mm0, %%mm1; emms")
INSN(sse, "addps %%xmm0, %%xmm1")
INSN(sse2, "addpd %%xmm0, %%xmm1")
INSN(sse3, "haddps %%xmm0, %%xmm1")
INSN(ssse3, "pshufb %%xmm0, %%xmm1")
INSN(sse4_1, "pmulld %%xmm0, %%xmm1")
INSN(sse4_2, "crc32 %%al, %%ecx; pcmpgtq %%xmm0, %%xmm1")
INSN(popcnt, "popcnt %%eax, %%ecx")
INSN(lahf, "lahf; sahf")
INSN(movbe, "movbe (%%rdi), %%eax")
INSN(lzcnt, "lzcnt %%eax, %%ecx")
INSN(bmi1, "andn %%eax, %%ecx, %%edx; tzcnt %%eax, %%ecx")
INSN(bmi2, "mulx %%eax, %%ecx, %%ebx; pext %%eax, %%ecx, %%edx")
INSN(avx, "vaddps %%ymm0, %%ymm1, %%ymm1")
INSN(avx2, "vpaddb %%ymm0, %%ymm1, %%ymm1")
INSN(fma, "vfmadd231ps %%ymm0, %%ymm1, %%ymm1")
INSN(f16c, "vcvtph2ps %%xmm0, %%ymm1")
INSN(avx512f, "vaddps %%zmm0, %%zmm1, %%zmm1")
INSN(avx512bw, "vpaddb %%zmm0, %%zmm1, %%zmm1")
INSN(aes, "aesenc %%xmm0, %%xmm1")
INSN(pclmulqdq, "pclmulqdq $0, %%xmm0, %%xmm1")
INSN(rdrand, "rdrand %%eax")
INSN(rdseed, "rdseed %%eax")
INSN(adx, "adcx %%eax, %%ecx; adox %%eax, %%ecx")
INSN(sha, "sha256msg1 %%xmm0, %%xmm1")
INSN(gfni, "gf2p8mulb %%xmm0, %%xmm1")
INSN(clflushopt, "clflushopt (%%rdi)")
INSN(clwb, "clwb (%%rdi)")
INSN(rdtscp, "rdtscp")
INSN(rdpid, "rdpid %%rax")
INSN(invpcid, "mov $2, %%eax; invpcid (%%rdi), %%rax") /* all contexts */
INSN(smap, "stac; clac")

static const struct {
	void (*run)(void);
	struct feature needs;
} insns[] = {
	{cmov, {1, 0, EDX, 15}},	 {cx8, {1, 0, EDX, 8}},	      {cx16, {1, 0, ECX, 13}},
	{clflush, {1, 0, EDX, 19}},	 {mmx, {1, 0, EDX, 23}},      {sse, {1, 0, EDX, 25}},
	{sse2, {1, 0, EDX, 26}},	 {sse3, {1, 0, ECX, 0}},      {ssse3, {1, 0, ECX, 9}},
	{sse4_1, {1, 0, ECX, 19}},	 {sse4_2, {1, 0, ECX, 20}},   {popcnt, {1, 0, ECX, 23}},
	{lahf, {0x80000001, 0, ECX, 0}}, {movbe, {1, 0, ECX, 22}},    {lzcnt, {0x80000001, 0, ECX, 5}},
	{bmi1, {7, 0, EBX, 3}},		 {bmi2, {7, 0, EBX, 8}},      {avx, {1, 0, ECX, 28}},
	{avx2, {7, 0, EBX, 5}},		 {fma, {1, 0, ECX, 12}},      {f16c, {1, 0, ECX, 29}},
	{avx512f, {7, 0, EBX, 16}},	 {avx512bw, {7, 0, EBX, 30}}, {aes, {1, 0, ECX, 25}},
	{pclmulqdq, {1, 0, ECX, 1}},	 {rdrand, {1, 0, ECX, 30}},   {rdseed, {7, 0, EBX, 18}},
	{adx, {7, 0, EBX, 19}},		 {sha, {7, 0, EBX, 29}},      {gfni, {7, 0, ECX, 8}},
	{clflushopt, {7, 0, EBX, 23}},	 {clwb, {7, 0, EBX, 24}},     {rdtscp, {0x80000001, 0, EDX, 27}},
	{rdpid, {7, 0, ECX, 22}},	 {invpcid, {7, 0, EBX, 10}},  {smap, {7, 0, EBX, 20}},
};

static void instructions(void)
{
	for (u32 i = 0; i < ARRAY_SIZE(insns); i++) {
		if (!announced(&insns[i].needs))
			continue;
		trap_clear();
		insns[i].run();
		CHECK_EQ(trap.vector << 32 | i, (u64)NO_TRAP << 32 | i); /* which one, too */
	}
}

/* ---- register state ---- */

static const struct feature xsave = {1, 0, ECX, 26};
static u32 state; /* what leaf 0xd offers */

static void enable_state(void)
{
	u32 r[4];

	write_cr4(read_cr4() | 3ul << 9); /* OSFXSR, OSXMMEXCPT */
	if (!announced(&xsave))
		return;
	cpuid(0xd, 0, r);
	state = r[0];
	write_cr4(read_cr4() | CR4_OSXSAVE);
	__asm__ volatile("xsetbv" ::"c"(0), "a"(state), "d"(0));
}

/* Whatever the host's CPU could do: registers that are not offered cannot be enabled, and what works on them does not run. */
static void hidden_state(void)
{
	for (u32 i = 1; state && i < 32; i++) {
		if (state >> i & 1)
			continue;
		trap_clear();
		__asm__ volatile(TRY("xsetbv")::"c"(0), "a"(state | 1u << i), "d"(0));
		TRIED(GP, 0);
	}
	if (!(state & 4)) {
		trap_clear();
		avx();
		TRIED(UD, 0);
	}
	if (!(state & 0x20)) {
		trap_clear();
		avx512f();
		TRIED(UD, 0);
	}
}

void guest_main(void)
{
	LOOP(cr4);
	LOOP(msr);
	enable_state();
	LOOP(instructions);
	LOOP(hidden_state);
}
