/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RSP as the destination of instructions that seldom have it: what they put there need not be a multiple of 8, and a push behind them may
 * cross into a page that is elsewhere in memory. Each sits between pushes, where a translator may believe that it knows the stack pointer.
 */
#include "lib.h"

#define MSR_TSC_AUX 0xc0000103
#define VALUE 0x1122334455667788ul

static const u64 va = 0x80000000; /* below 4 GiB: RDPID gives 32 bits */
static u8 *first, *neighbour, *second;

/* r12 keeps the stack pointer, r13 tells where the push went. */
#define WITH_RSP(insn)                                                                                                                     \
	"mov %%rsp, %%r12\n\tpush %%rax\n\tpop %%rax\n\t" insn "\n\tpush %0\n\tmov %%rsp, %%r13\n\tmov %%r12, %%rsp\n\tmov %%r13, %0\n\t"

static void prepare(void)
{
	memset(first, 0, PAGE);
	memset(neighbour, 0, PAGE);
	memset(second, 0, PAGE);
}

/* The push crossed the two pages at va. */
static void crossed(u64 sp)
{
	CHECK_EQ(sp, va + PAGE - 4);
	CHECK_EQ(*(u32 *)(first + PAGE - 4), (u32)VALUE);
	CHECK_EQ(*(u32 *)second, VALUE >> 32);
	CHECK_EQ(*(u32 *)neighbour, 0);
}

static void from_fs_base(void)
{
	u64 v = VALUE;

	prepare();
	__asm__ volatile("wrfsbase %1\n\t" WITH_RSP("rdfsbase %%rsp") : "+r"(v) : "r"(va + PAGE + 4) : "r12", "r13", "memory");
	crossed(v);
}

static void from_gs_base(void)
{
	u64 v = VALUE;

	prepare();
	__asm__ volatile("wrgsbase %1\n\t" WITH_RSP("rdgsbase %%rsp") : "+r"(v) : "r"(va + PAGE + 4) : "r12", "r13", "memory");
	crossed(v);
}

static void from_fs_base_32(void)
{
	u64 v = VALUE;

	prepare();
	__asm__ volatile("wrfsbase %1\n\t" WITH_RSP("rdfsbase %%esp")
			 : "+r"(v)
			 : "r"((va + PAGE + 4) | 0x5500000000ul)
			 : "r12", "r13", "memory");
	crossed(v);
}

static void from_pid(void)
{
	u64 v = VALUE;

	prepare();
	wrmsr(MSR_TSC_AUX, va + PAGE + 4);
	__asm__ volatile(WITH_RSP("rdpid %%rsp") : "+r"(v)::"r12", "r13", "memory");
	crossed(v);
}

static void from_control_register(void)
{
	u64 v = VALUE;

	prepare();
	write_cr2(va + PAGE + 4);
	__asm__ volatile(WITH_RSP("mov %%cr2, %%rsp") : "+r"(v)::"r12", "r13", "memory");
	crossed(v);
}

/* A selector is a small number: the first page of the address space is the stack. */
static void from_segment(void)
{
	u64 v = VALUE;

	prepare();
	__asm__ volatile("mov %1, %%es\n\t" WITH_RSP("mov %%es, %%esp") : "+r"(v) : "r"(SEL_UDATA) : "r12", "r13", "memory");
	CHECK_EQ(v, SEL_UDATA - 8);
	CHECK_EQ(*(u64 *)(first + SEL_UDATA - 8), VALUE);
	prepare();
	v = VALUE;
	/* 16 bits: the rest of rsp stays, so the push goes near the old stack's place in the same 64 KiB */
	__asm__ volatile("mov %%rsp, %%r12\n\tmov %1, %%rsp\n\tmov %%es, %%sp\n\tpush %0\n\tmov %%rsp, %0\n\tmov %%r12, %%rsp"
			 : "+r"(v)
			 : "r"(va + 0x800)
			 : "r12", "memory");
	CHECK_EQ(v, va + SEL_UDATA - 8);
	CHECK_EQ(*(u64 *)(first + SEL_UDATA - 8), VALUE);
}

void guest_main(void)
{
	first = page_alloc();
	neighbour = page_alloc();
	second = page_alloc();
	paging_map(va, (u64)first, P | W);
	paging_map(va + PAGE, (u64)second, P | W);
	if (cpuid_bit(7, 0, 1, 0)) {
		write_cr4(read_cr4() | CR4_FSGSBASE);
		LOOP(from_fs_base);
		LOOP(from_gs_base);
		LOOP(from_fs_base_32);
	}
	if (cpuid_bit(7, 0, 2, 22))
		LOOP(from_pid);
	LOOP(from_control_register);
	paging_map(0, (u64)first, P | W);
	LOOP(from_segment);
}
