/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ring 3 as a 64-bit kernel sets it up, where an engine may hand code to the host's CPU as it is: what the CPU tells about itself is still this
 * machine's, page tables rule at once, modified code counts, and all state crosses over and back.
 */
#include "lib.h"

#define MSR_TSC 0x10
#define MSR_TSC_AUX 0xc0000103
#define MSR_FS_BASE 0xc0000100
#define CODE_VA (TEST_VA + 0x200000)
#define DATA_VA (TEST_VA + 0x600000)

typedef u64 (*user_fn)(u64);

static u8 *code[2];
static u64 *data[2];

/* ---- instructions that tell about the CPU
 *
 * Few to a page, where breakpoints of the host may stop them, and many in one. */

extern const u8 telling_cpuid[], telling_rdtscp[], telling_rdpid[], telling_lsl[], telling_verr[], telling_sgdt[], telling_sldt[];
extern const u8 many[];

__asm__(".pushsection .utext, \"ax\"\n"
	".macro cpuid_ebx\n"
	"	mov %rdi, %rax\n	xor %ecx, %ecx\n	push %rbx\n	cpuid\n	mov %ebx, %eax\n	pop %rbx\n	ret\n"
	".endm\n"
	".balign 4096\n"
	"telling_cpuid:\n	cpuid_ebx\n"
	"telling_rdtscp:\n	rdtscp\n	mov %ecx, %eax\n	ret\n"
	".balign 4096\n"
	"telling_rdpid:\n	rdpid %rax\n	ret\n"
	".balign 4096\n"
	"telling_lsl:\n		xor %eax, %eax\n	lsl %edi, %eax\n	ret\n"
	"telling_verr:\n	xor %eax, %eax\n	verr %di\n	setz %al\n	ret\n"
	"telling_sgdt:\n	sgdt -16(%rsp)\n	ret\n"
	"telling_sldt:\n	sldt %eax\n	ret\n"
	".balign 4096\n"
	"many:\n"
	".rept 8\n	cpuid_ebx\n	.balign 32\n.endr\n"
	".balign 4096\n"
	".popsection\n");

static u64 ask(const u8 *fn, u64 arg)
{
	return user_call((user_fn)(u64)fn, arg);
}

static u32 ebx_of(u32 leaf)
{
	u32 r[4];

	cpuid(leaf, 0, r);
	return r[1];
}

static void cpuid_is_this_machines(void)
{
	static const u32 leaves[] = {0x40000000, 7, 0x80000002, 0};

	for (u32 i = 0; i < ARRAY_SIZE(leaves); i++) {
		CHECK_EQ(ask(telling_cpuid, leaves[i]), ebx_of(leaves[i]));
		for (u32 at = 0; at < 8; at += 3)
			CHECK_EQ(ask(many + 32 * at, leaves[i]), ebx_of(leaves[i]));
	}
}

static void processor_number(void)
{
	if (!cpuid_bit(0x80000001, 0, 3, 27))
		return;
	wrmsr(MSR_TSC_AUX, 0x1000 + loop_count);
	CHECK_EQ(ask(telling_rdtscp, 0), 0x1000 + loop_count);
	if (cpuid_bit(7, 0, 2, 22))
		CHECK_EQ(ask(telling_rdpid, 0), 0x1000 + loop_count);
}

/* Selectors that Linux has and this guest has not, and the other way round. */
static void descriptors(void)
{
	gdt[SEL_SPARE / 8] = 0x0000f2000000ffff ^ 0x1234; /* data, DPL 3, with a limit of its own */
	CHECK_EQ(ask(telling_lsl, SEL_SPARE | 3), 0xffff ^ 0x1234);
	CHECK_EQ(ask(telling_verr, SEL_SPARE | 3), 1);
	CHECK_EQ(ask(telling_lsl, 0x7b), 0);
	CHECK_EQ(ask(telling_verr, 0x7b), 0);
	if (!cpuid_bit(7, 0, 2, 2))
		return;
	ask(telling_sgdt, 0);
	TRIED(GP, 0);
	ask(telling_sldt, 0);
	TRIED(GP, 0);
}

/* ---- the clock */

UTEXT static u64 user_tsc(u64 unused)
{
	u32 lo, hi;

	(void)unused;
	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (u64)hi << 32 | lo;
}

static void the_clock_is_the_guests(void)
{
	u64 start = in_qemu() ? 0 : loop_count << 50, t; /* QEMU ignores what is written there */

	CHECK(user_call(user_tsc, 0) <= rdtsc());
	wrmsr(MSR_TSC, start);
	t = user_call(user_tsc, 0);
	CHECK(t >= start && t - start < 1ul << 49);
	write_cr4(read_cr4() | CR4_TSD);
	user_call(user_tsc, 0);
	TRIED(GP, 0);
	write_cr4(read_cr4() & ~CR4_TSD);
}

/* ---- page tables */

UTEXT static u64 user_load(u64 va)
{
	return *(volatile u64 *)va;
}

UTEXT static u64 user_store(u64 va)
{
	*(volatile u64 *)va = 0x77;
	return 0;
}

static u64 *pte_of(u64 va)
{
	return paging_entry(paging_root(), va, 1);
}

static u64 bits(u64 va)
{
	return *(volatile u64 *)pte_of(va) & (A | D);
}

static void accessed_and_dirty(void)
{
	paging_map(DATA_VA, (u64)data[0], P | W | U);
	paging_map(DATA_VA + PAGE, (u64)data[1], P | W | U);
	CHECK_EQ(bits(DATA_VA), 0);
	user_call(user_load, DATA_VA);
	CHECK_EQ(bits(DATA_VA), A);
	CHECK_EQ(bits(DATA_VA + PAGE), 0); /* its neighbour was not asked for */
	user_call(user_store, DATA_VA);
	CHECK_EQ(bits(DATA_VA), A | D);
	*pte_of(DATA_VA) &= ~(A | D);
	invlpg((void *)DATA_VA);
	user_call(user_load, DATA_VA);
	CHECK_EQ(bits(DATA_VA), A);
	*pte_of(DATA_VA) &= ~A;
	write_cr3(read_cr3());
	user_call(user_store, DATA_VA);
	CHECK_EQ(bits(DATA_VA), A | D);
}

static void another_frame(void)
{
	*data[0] = 1;
	*data[1] = 2;
	for (u32 i = 0; i < 4; i++) {
		paging_map(DATA_VA, (u64)data[i & 1], P | W | U | A | D);
		CHECK_EQ(user_call(user_load, DATA_VA), 1 + (i & 1));
	}
	for (u32 i = 0; i < 4; i++) {
		*pte_of(DATA_VA) = (u64)data[i & 1] | P | W | U | A | D;
		write_cr3(read_cr3());
		CHECK_EQ(user_call(user_load, DATA_VA), 1 + (i & 1));
	}
	*pte_of(DATA_VA) &= ~W;
	invlpg((void *)DATA_VA);
	user_call(user_store, DATA_VA);
	TRIED(PF, PFE_P | PFE_W | PFE_U);
	*pte_of(DATA_VA) &= ~U;
	write_cr3(read_cr3());
	user_call(user_load, DATA_VA);
	TRIED(PF, PFE_P | PFE_U);
}

/* Same addresses, other tables. */
static void another_address_space(void)
{
	static u64 other;
	u64 here = read_cr3();

	*data[0] = 11;
	*data[1] = 12;
	paging_map(DATA_VA, (u64)data[0], P | W | U);
	if (!other) {
		other = paging_clone();
		((u64 *)other)[DATA_VA >> 39 & 511] = 0;
		*paging_entry(other, DATA_VA, 1) = (u64)data[1] | P | W | U;
	}
	CHECK_EQ(user_call(user_load, DATA_VA), 11);
	write_cr3(other);
	CHECK_EQ(user_call(user_load, DATA_VA), 12);
	write_cr3(here);
	CHECK_EQ(user_call(user_load, DATA_VA), 11);
}

/* ---- modified code */

static void put(u8 *at, const u8 *bytes, u32 n)
{
	for (u32 i = 0; i < n; i++)
		((volatile u8 *)at)[i] = bytes[i];
}

/* The store changes the immediate of the very next instruction, in a page that is writable and executable. */
static void it_modifies_itself(void)
{
	static const u8 body[] = {
		0x89, 0x3d, 1, 0, 0, 0, /* mov %edi, 1(%rip): the immediate below */
		0xb8, 0,    0, 0, 0,	/* mov $0, %eax */
		0xc3,
	};

	put(code[0], body, sizeof(body));
	paging_map(CODE_VA, (u64)code[0], P | W | U);
	for (u32 i = 1; i < 4; i++)
		CHECK_EQ(ask((const u8 *)CODE_VA, i * 77), i * 77);
}

/* By the kernel, through another address; and what was harmless becomes a CPUID. */
static void it_is_modified(void)
{
	static const u8 harmless[] = {0x89, 0xf8, 0x89, 0xc3, 0x90,
				      0x90, 0x89, 0xd8, 0xc3}; /* mov %edi,%eax; mov %eax,%ebx; nop; nop; mov %ebx,%eax; ret */
	static const u8 cpuid_code[] = {0x0f, 0xa2};

	put(code[1], harmless, sizeof(harmless));
	paging_map(CODE_VA + PAGE, (u64)code[1], P | U);
	CHECK_EQ(ask((const u8 *)CODE_VA + PAGE, 0x40000000), 0x40000000);
	put(code[1] + 4, cpuid_code, sizeof(cpuid_code));
	CHECK_EQ(ask((const u8 *)CODE_VA + PAGE, 0x40000000), ebx_of(0x40000000));
}

/* ---- state */

static u64 slot UDATA;

UTEXT static u64 user_fill(u64 v)
{
	__asm__ volatile("movq %0, %%xmm5; wrfsbase %0; mov %0, %1; fildll %1" ::"r"(v), "m"(slot) : "memory");
	return 0;
}

UTEXT static u64 user_sum(u64 v)
{
	u64 x, fs;

	__asm__ volatile("movq %%xmm5, %0; rdfsbase %1; fistpll %2" : "=r"(x), "=r"(fs), "=m"(slot));
	return x + fs + slot + v;
}

static void registers_cross_over(void)
{
	u64 v = 0x100000000 + loop_count, x;

	if (!cpuid_bit(7, 0, 1, 0))
		return;
	__asm__ volatile("fninit");
	user_call(user_fill, v);
	TRIED(NO_TRAP, 0);
	CHECK_EQ(rdmsr(MSR_FS_BASE), v);
	__asm__ volatile("movq %%xmm5, %0" : "=r"(x));
	CHECK_EQ(x, v);
	__asm__ volatile("movq %0, %%xmm5" ::"r"(v + 1));
	wrmsr(MSR_FS_BASE, v + 2);
	CHECK_EQ(user_call(user_sum, 5), 3 * v + 8);
	wrmsr(MSR_FS_BASE, 0);
}

/* ---- INT1: a trap, whatever a hypervisor under the host's CPU makes of it */

extern const u8 icebp[];

__asm__(".pushsection .utext, \"ax\"\n"
	".balign 4096\n"
	"icebp:\n	.byte 0xf1, 0x90, 0xf1, 0xf1, 0xf1\n	ret\n"
	".balign 4096\n"
	".popsection\n");

static u64 icebp_seen; /* a hexadecimal digit each */

static bool note_icebp(struct trap_frame *f)
{
	icebp_seen = icebp_seen << 4 | (f->rip - (u64)icebp);
	return true;
}

static void icebp_is_behind(void)
{
	trap_set_handler(DB, note_icebp);
	icebp_seen = 0;
	ask(icebp, 0);
	CHECK_EQ(icebp_seen, 0x1345);
	trap_set_handler(DB, NULL);
}

void guest_main(void)
{
	static void (*const check[])(void) = {cpuid_is_this_machines, processor_number,	      descriptors,	  accessed_and_dirty,
					      another_frame,	      another_address_space,  it_modifies_itself, it_is_modified,
					      registers_cross_over,   the_clock_is_the_guests};

	for (u32 i = 0; i < 2; i++) {
		code[i] = page_alloc();
		data[i] = page_alloc();
	}
	for (u32 i = 0; i < ARRAY_SIZE(check); i++)
		loop_check("user_mode", check[i], 500);
	if (!on_qemu_tcg()) /* which takes it for an invalid opcode */
		LOOP(icebp_is_behind);
}
