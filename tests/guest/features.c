/* SPDX-License-Identifier: Apache-2.0 */
/* Instructions with a switch of their own: UMIP, FSGSBASE, RDPID and RDTSCP, CR4.TSD and PCE, SWAPGS, the MSRs behind them; what CPUID
 * promises. */
#include "lib.h"

#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_TSC_AUX 0xc0000103

static u8 store[16] UDATA;

UTEXT static u64 user_store(u64 which)
{
	switch (which) {
	case 0:
		__asm__ volatile(TRY("sgdt %0") : "=m"(store));
		break;
	case 1:
		__asm__ volatile(TRY("sidt %0") : "=m"(store));
		break;
	case 2:
		__asm__ volatile(TRY("sldt %%eax")::: "rax");
		break;
	case 3:
		__asm__ volatile(TRY("str %%eax")::: "rax");
		break;
	default:
		__asm__ volatile(TRY("smsw %%eax")::: "rax");
	}
	return 0;
}

static void without_umip(void)
{
	write_cr4(read_cr4() & ~CR4_UMIP);
	for (u64 i = 0; i < 5; i++) {
		user_call(user_store, i);
		TRIED(NO_TRAP, 0);
	}
	user_call(user_store, 0);
	CHECK_EQ(*(u64 *)(store + 2), (u64)gdt);
	user_call(user_store, 1);
	CHECK_EQ(*(u64 *)(store + 2), (u64)idt);
	CHECK_EQ(*(u16 *)store, sizeof(idt) - 1);
}

static void umip(void)
{
	u64 v = 0;

	write_cr4(read_cr4() | CR4_UMIP);
	for (u64 i = 0; i < 5; i++) {
		user_call(user_store, i);
		TRIED(GP, 0);
	}
	__asm__ volatile("str %w0" : "+r"(v)); /* ring 0 may */
	CHECK_EQ(v, SEL_TSS);
	write_cr4(read_cr4() & ~CR4_UMIP);
}

static void store_forms(void)
{
	u64 v = ~0ul;

	__asm__ volatile("smsw %k0" : "+r"(v));
	CHECK_EQ((u32)v, (u32)read_cr0());
	v = ~0ul;
	__asm__ volatile("smsw %w0" : "+r"(v));
	CHECK_EQ(v & 0xffff, read_cr0() & 0xffff);
	CHECK_EQ(v >> 16, ~0ul >> 16);
	v = ~0ul;
	__asm__ volatile("str %k0" : "+r"(v));
	CHECK_EQ(v, SEL_TSS);
}

static void fsgsbase(void)
{
	u64 v = 0;

	write_cr4(read_cr4() & ~CR4_FSGSBASE);
	trap_clear();
	__asm__ volatile(TRY("rdfsbase %0") : "+r"(v));
	TRIED(UD, 0);
	write_cr4(read_cr4() | CR4_FSGSBASE);
	__asm__ volatile("wrfsbase %0" ::"r"(0x1234567890ul));
	CHECK_EQ(rdmsr(MSR_FS_BASE), 0x1234567890);
	wrmsr(MSR_GS_BASE, 0xffff800000001000);
	__asm__ volatile("rdgsbase %0" : "=r"(v));
	CHECK_EQ(v, 0xffff800000001000);
	__asm__ volatile("wrgsbase %k0" ::"r"(0xabcdef0123456789));
	CHECK_EQ(rdmsr(MSR_GS_BASE), 0x23456789);
	trap_clear();
	__asm__ volatile(TRY("wrfsbase %0")::"r"(0x800000000000ul));
	if (!on_qemu_tcg()) { /* which takes any address */
		TRIED(GP, 0);
		CHECK_EQ(rdmsr(MSR_FS_BASE), 0x1234567890);
	}
	wrmsr(MSR_FS_BASE, 0);
	wrmsr(MSR_GS_BASE, 0);
}

static u64 fs_word[4];

static void segment_bases_are_used(void)
{
	u64 v;

	fs_word[1] = 0x77 + loop_count;
	wrmsr(MSR_FS_BASE, (u64)fs_word);
	wrmsr(MSR_GS_BASE, (u64)fs_word - 0x1000);
	__asm__ volatile("mov %%fs:8, %0" : "=r"(v)::"memory");
	CHECK_EQ(v, 0x77 + loop_count);
	__asm__ volatile("mov %%gs:0x1008, %0" : "=r"(v)::"memory");
	CHECK_EQ(v, 0x77 + loop_count);
	__asm__ volatile("mov $0x1000, %%eax; movq $5, %%gs:16(%%rax)" ::: "rax", "memory");
	CHECK_EQ(fs_word[2], 5);
	/* loading a selector loads the base from the descriptor */
	__asm__ volatile("mov %0, %%fs" ::"r"(SEL_UDATA));
	CHECK_EQ(rdmsr(MSR_FS_BASE), 0);
	wrmsr(MSR_GS_BASE, 0);
}

static void swapgs(void)
{
	wrmsr(MSR_GS_BASE, 0x1111);
	wrmsr(MSR_KERNEL_GS_BASE, 0x2222);
	__asm__ volatile("swapgs");
	CHECK_EQ(rdmsr(MSR_GS_BASE), 0x2222);
	CHECK_EQ(rdmsr(MSR_KERNEL_GS_BASE), 0x1111);
	__asm__ volatile("swapgs; swapgs");
	CHECK_EQ(rdmsr(MSR_GS_BASE), 0x2222);
	wrmsr(MSR_GS_BASE, 0);
	trap_clear();
	__asm__ volatile(TRY("wrmsr")::"c"(MSR_KERNEL_GS_BASE), "a"(0), "d"(0x8000));
	if (!on_qemu_tcg()) /* which takes any address */
		TRIED(GP, 0);
	wrmsr(MSR_KERNEL_GS_BASE, 0);
}

UTEXT static u64 user_rdtsc(u64 arg)
{
	u32 lo, hi;

	__asm__ volatile(TRY("rdtsc") : "=a"(lo), "=d"(hi));
	return 1;
}

static void tsd(void)
{
	user_call(user_rdtsc, 0);
	TRIED(NO_TRAP, 0);
	write_cr4(read_cr4() | CR4_TSD);
	user_call(user_rdtsc, 0);
	TRIED(GP, 0);
	(void)rdtsc();
	write_cr4(read_cr4() & ~CR4_TSD);
}

UTEXT static u64 user_rdpmc(u64 arg)
{
	__asm__ volatile(TRY("rdpmc")::"c"(0) : "rax", "rdx");
	return 1;
}

static void rdpmc_in_ring3(void)
{
	user_call(user_rdpmc, 0);
	TRIED(GP, 0);
}

static void rdtscp_and_rdpid(void)
{
	u32 lo, hi, aux;
	u64 v;

	wrmsr(MSR_TSC_AUX, 0x1234 + loop_count);
	__asm__ volatile("rdtscp" : "=a"(lo), "=d"(hi), "=c"(aux));
	CHECK_EQ(aux, 0x1234 + loop_count);
	if (cpuid_bit(7, 0, 2, 22)) {
		__asm__ volatile("rdpid %0" : "=r"(v));
		CHECK_EQ(v, 0x1234 + loop_count);
	}
}

/* Code that is written is what runs behind SERIALIZE, as near as it may be. */
extern u8 serialize_here[];
static void serialize(void)
{
	u32 v;

	__asm__ volatile("movb %b1, serialize_here+1(%%rip)\n.byte 0x0f, 0x01, 0xe8\nserialize_here: mov $0x55, %0"
			 : "=a"(v)
			 : "q"((u8)loop_count)
			 : "memory");
	CHECK_EQ(v, (u8)loop_count);
}

static void serialize_is_not_there(void)
{
	trap_clear();
	__asm__ volatile(TRY(".byte 0x0f, 0x01, 0xe8"));
	TRIED(UD, 0);
}

static void tsc_can_be_written(void)
{
	u64 before = rdtsc(), now;

	wrmsr(0x10, before + (1ul << 40));
	now = rdtsc();
	CHECK(now >= before + (1ul << 40));
	CHECK(now < before + (1ul << 40) + (1ul << 38));
	wrmsr(0x10, before);
	CHECK(rdtsc() < before + (1ul << 38));
}

static void cpuid_basics(void)
{
	u32 r[4], max, i;

	cpuid(0, 0, r);
	max = r[0];
	CHECK(max >= 0xd);
	cpuid(max + 0x100, 0, r); /* beyond the maximum: no crash */
	cpuid(0x80000000, 0, r);
	CHECK(r[0] >= 0x80000008);
	CHECK(cpuid_bit(0x80000001, 0, 3, 29)); /* long mode */
	CHECK(cpuid_bit(1, 0, 2, 31));		/* a hypervisor is there */
	cpuid(0x80000008, 0, r);
	CHECK((r[0] & 0xff) >= 36);
	CHECK((r[0] >> 8 & 0xff) == 48 || on_qemu_tcg());
	for (i = 0; i < 0x40; i++) /* the upper halves of the outputs are clear */ {
		u64 a = ~0ul, c = ~0ul << 32, b, d;

		a = a << 32 | i;
		__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
		CHECK_EQ((a | b | c | d) >> 32, 0);
	}
}

static void efer(void)
{
	u64 v = rdmsr(0xc0000080);

	CHECK_EQ(v & 0xd01, 0xd01); /* SCE LME LMA NXE */
	if (on_qemu_tcg())	    /* which checks nothing */
		return;
	trap_clear();
	__asm__ volatile(TRY("wrmsr")::"c"(0xc0000080), "a"((u32)v | 2), "d"(0)); /* reserved */
	TRIED(GP, 0);
	trap_clear();
	__asm__ volatile(TRY("wrmsr")::"c"(0xc0000080), "a"((u32)v & ~0x100u), "d"(0)); /* LME off while paging */
	TRIED(GP, 0);
	CHECK_EQ(rdmsr(0xc0000080), v);
}

static void pat(void)
{
	u64 v = rdmsr(0x277);

	wrmsr(0x277, 0x0606060606060606);
	CHECK_EQ(rdmsr(0x277), 0x0606060606060606);
	if (!on_qemu_tcg()) { /* which takes any type */
		trap_clear();
		__asm__ volatile(TRY("wrmsr")::"c"(0x277), "a"(2), "d"(0));
		TRIED(GP, 0);
	}
	wrmsr(0x277, v);
}

void guest_main(void)
{
	LOOP(without_umip);
	if (cpuid_bit(7, 0, 2, 2))
		LOOP(umip);
	LOOP(store_forms);
	if (cpuid_bit(7, 0, 1, 0))
		LOOP(fsgsbase);
	LOOP(segment_bases_are_used);
	LOOP(swapgs);
	LOOP(tsd);
	LOOP(rdpmc_in_ring3);
	if (cpuid_bit(0x80000001, 0, 3, 27))
		LOOP(rdtscp_and_rdpid);
	if (cpuid_bit(7, 0, 3, 14))
		LOOP(serialize);
	else
		LOOP(serialize_is_not_there);
	if (!on_qemu_tcg()) /* whose TSC cannot be set */
		LOOP(tsc_can_be_written);
	loop_check("cpuid_basics", cpuid_basics, 100);
	LOOP(efer);
	LOOP(pat);
}
