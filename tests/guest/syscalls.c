/* SPDX-License-Identifier: Apache-2.0 */
/* SYSCALL, SYSRET, SYSENTER, SYSEXIT: what they load, what they leave in rcx, r11 and flags, when they are refused. INT and IRET between
 * rings. */
#include "lib.h"

#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_SFMASK 0xc0000084
#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_EFER 0xc0000080

extern const u8 syscall_entry[], syscall_counting_entry[], syscall_sysret_rip[];
u64 sc_rcx, sc_r11, sc_cs, sc_ss, sc_flags, sc_rsp, sc_count, sc_user_rsp;
extern u8 trap_stack_top[];

/* One entry records everything and returns to ring 3; the other only counts. */
__asm__(".text\n"
	"syscall_entry:\n"
	"	mov %rcx, sc_rcx(%rip)\n"
	"	mov %r11, sc_r11(%rip)\n"
	"	mov %rsp, sc_user_rsp(%rip)\n"
	"	lea trap_stack_top(%rip), %rsp\n"
	"	pushfq\n"
	"	popq sc_flags(%rip)\n"
	"	mov %cs, %eax\n"
	"	mov %rax, sc_cs(%rip)\n"
	"	mov %ss, %eax\n"
	"	mov %rax, sc_ss(%rip)\n"
	"	incq sc_count(%rip)\n"
	"	mov $0x1234, %eax\n"
	"	mov sc_user_rsp(%rip), %rsp\n"
	"	sysretq\n"
	"syscall_counting_entry:\n"
	"	incq sc_count(%rip)\n"
	"	sysretq\n");

UTEXT static u64 user_syscall(u64 n)
{
	u64 r;

	__asm__ volatile("stc; syscall" : "=a"(r) : "a"(n) : "rcx", "r11", "memory");
	return r;
}

extern const u8 after_syscall[];
UTEXT static u64 user_syscall_flags(u64 n)
{
	u64 flags;

	__asm__ volatile("push $0x8d7; popfq; mov $1, %%eax; syscall\n"
			 ".globl after_syscall\nafter_syscall:\n"
			 "pushfq; pop %0; cld"
			 : "=r"(flags)
			 :
			 : "rax", "rcx", "r11", "memory", "cc");
	return flags;
}

static void setup(const u8 *entry)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
	wrmsr(MSR_STAR, (u64)(SEL_UCODE32 & ~3) << 48 | 3ul << 48 | (u64)SEL_CODE64 << 32);
	wrmsr(MSR_LSTAR, (u64)entry);
	wrmsr(MSR_SFMASK, 0x701);
}

static void syscall_loads_and_saves(void)
{
	u64 count = sc_count;

	setup(syscall_entry);
	CHECK_EQ(user_call(user_syscall, 1), 0x1234);
	CHECK_EQ(sc_count, count + 1);
	CHECK_EQ(sc_cs, SEL_CODE64);
	CHECK_EQ(sc_ss, SEL_CODE64 + 8);
	CHECK_EQ(sc_r11 & 1, 1);       /* the user's CF */
	CHECK_EQ(sc_flags & 0x701, 0); /* masked */
	CHECK(sc_user_rsp > (u64)user_stack && sc_user_rsp < (u64)user_stack + sizeof(user_stack));
}

static void sysret_restores_flags(void)
{
	u64 flags;

	setup(syscall_entry);
	flags = user_call(user_syscall_flags, 0);
	CHECK_EQ(flags & 0x8d5, 0x8d5);
	CHECK_EQ(sc_rcx, (u64)after_syscall);
	CHECK_EQ(sc_r11 & 0x8d5, 0x8d5);
}

UTEXT static u64 user_many_syscalls(u64 n)
{
	for (u64 i = 0; i < n; i++)
		__asm__ volatile("syscall" ::: "rax", "rcx", "r11", "memory");
	return n;
}

static void many(void)
{
	u64 before = sc_count;

	setup(syscall_counting_entry);
	CHECK_EQ(user_call(user_many_syscalls, 50), 50);
	CHECK_EQ(sc_count, before + 50);
}

UTEXT static u64 user_try_syscall(u64 n)
{
	__asm__ volatile(TRY("syscall")::: "rax", "rcx", "r11", "memory");
	return 3;
}

static void refused_without_sce(void)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ul);
	user_call(user_try_syscall, 0);
	TRIED(UD, 0);
	trap_clear();
	__asm__ volatile(TRY("sysretq")::"c"((u64)user_syscall));
	TRIED(UD, 0);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
}

static void bad_msr_values(void)
{
	static const u32 msrs[] = {MSR_LSTAR, MSR_CSTAR, MSR_SYSENTER_EIP, MSR_SYSENTER_ESP};

	for (u32 i = 0; i < ARRAY_SIZE(msrs); i++) {
		trap_clear();
		__asm__ volatile(TRY("wrmsr")::"c"(msrs[i]), "a"(0), "d"(0x8000));
		TRIED(GP, 0);
	}
}

/* SYSRET to 32-bit code */
__asm__(".pushsection .utext, \"ax\"\n"
	".code32\n"
	".globl user32_code\n"
	"user32_code:\n"
	"	mov $0xffffffff, %eax\n"
	"	inc %eax\n" /* 40: a REX prefix in 64-bit mode */
	"	lea 5(%eax), %eax\n"
	"	push %cs\n"
	"	pop %edx\n"
	"	int $0x80\n"
	".code64\n"
	".popsection\n");
extern const u8 user32_code[];

static bool note_user_state(struct trap_frame *f)
{
	sc_cs = f->cs;
	sc_ss = f->ss;
	sc_rcx = f->rdx;
	sc_flags = f->rflags;
	sc_rsp = f->rsp;
	return false;
}

static u64 sysret_to_32(u64 arg)
{
	__asm__ volatile("mov %0, %%rsp; mov $0x202, %%r11d; sysretl" ::"r"(user_stack + 4096), "c"(user32_code) : "r11", "memory");
	return 0;
}

static void sysret_compat(void)
{
	u64 r;

	setup(syscall_entry);
	trap_set_handler(USER_EXIT, note_user_state);
	r = trap_guarded(sysret_to_32, 0);
	trap_set_handler(USER_EXIT, NULL);
	CHECK_EQ(r, 5);
	CHECK_EQ(sc_cs, SEL_UCODE32);
	CHECK_EQ(sc_ss, SEL_UDATA);
	CHECK_EQ(sc_rcx, SEL_UCODE32);
}

/* IRETQ to 32-bit code and back by an interrupt */
static void iret_compat(void)
{
	struct user_context u = {.rip = (u64)user32_code, .cs = SEL_UCODE32, .rflags = 2, .rsp = (u64)user_stack + 4096, .ss = SEL_UDATA};

	CHECK_EQ(user_enter(&u), 5);
}

static u64 run_context(u64 arg)
{
	return user_enter((struct user_context *)arg);
}

static void iret_refusals(void)
{
	struct user_context u = {.rip = (u64)user_syscall, .cs = SEL_UCODE64, .rflags = 2, .rsp = (u64)user_stack + 4096, .ss = SEL_UDATA};
	struct user_context bad;
	extern const u8 user_iretq[];

	bad = u;
	bad.ss = SEL_DATA; /* DPL 0 for ring 3 */
	trap_clear();
	run_context((u64)&bad);
	CHECK_EQ(trap.vector, GP);
	CHECK_EQ(trap.error, SEL_DATA);
	CHECK_EQ(trap.frame.rip, (u64)user_iretq);
	bad = u;
	bad.cs = SEL_UDATA;
	trap_clear();
	run_context((u64)&bad);
	CHECK_EQ(trap.vector, GP);
	CHECK_EQ(trap.error, SEL_UDATA & ~3);
	bad = u;
	bad.rip = 0x800000000000ul;
	trap_clear();
	run_context((u64)&bad);
	CHECK_EQ(trap.vector, GP);
	CHECK_EQ(trap.error, 0);
	bad = u;
	bad.cs = 0;
	trap_clear();
	run_context((u64)&bad);
	CHECK_EQ(trap.vector, GP);
	CHECK_EQ(trap.error, 0);
}

/* IRETQ inside ring 0 restores rsp and ss too. */
static void iret_same_ring(void)
{
	u64 rsp = 0, want = 0;

	__asm__ volatile(
		"mov %%rsp, %%rcx; lea -64(%%rsp), %1; sub $256, %%rsp; push $0x10; push %1; pushfq; push $8; lea 1f(%%rip), %%rax;"
		"push %%rax; iretq\n1: mov %%rsp, %0; mov %%rcx, %%rsp"
		: "=&r"(rsp), "=&r"(want)
		:
		: "rax", "rcx", "memory", "cc");
	CHECK_EQ(rsp, want);
	/* a null SS is fine in ring 0 */
	__asm__ volatile("mov %%rsp, %%rcx; push $0; push %%rcx; pushfq; push $8; lea 1f(%%rip), %%rax; push %%rax; iretq\n"
			 "1: mov %%ss, %0; mov $0x10, %%eax; mov %%eax, %%ss"
			 : "=r"(rsp)::"rax", "rcx", "memory", "cc");
	CHECK_EQ(rsp & 0xffff, 0);
}

static void far_return_and_call(void)
{
	u64 r = 0;
	struct __attribute__((packed)) {
		u32 off;
		u16 sel;
	} far;

	__asm__ volatile("push $8; lea 1f(%%rip), %%rax; push %%rax; mov $7, %0; lretq\n1: inc %0" : "+r"(r)::"rax", "memory");
	CHECK_EQ(r, 8);
	far.sel = SEL_CODE64;
	__asm__ volatile("lea 1f(%%rip), %%rax; mov %%eax, %1; lcall *%1; jmp 2f\n1: mov $9, %0; lretl\n2:"
			 : "+r"(r), "+m"(far)::"rax", "memory");
	CHECK_EQ(r, 9);
	far.sel = 0;
	trap_clear();
	__asm__ volatile(TRY("ljmp *%0")::"m"(far));
	TRIED(GP, 0);
	far.sel = SEL_DATA;
	trap_clear();
	__asm__ volatile(TRY("ljmp *%0")::"m"(far));
	TRIED(GP, SEL_DATA);
}

/* 32-bit code in ring 0, through a far jump */
__asm__(".text\n"
	".globl compat_call\n"
	"compat_call:\n" /* (arg) */
	"	push %rbx\n"
	"	mov %edi, %ebx\n"
	"	ljmp *compat_target(%rip)\n"
	"	.code32\n"
	"compat_code:\n"
	"	mov %ebx, %eax\n"
	"	dec %eax\n" /* 48 */
	"	shl $1, %eax\n"
	"	ljmp $8, $compat_back\n"
	"	.code64\n"
	"compat_back:\n"
	"	pop %rbx\n"
	"	ret\n"
	"	.data\n"
	"compat_target:\n"
	"	.long compat_code\n"
	"	.word 0x18\n"
	"	.text\n");
u64 compat_call(u64 arg);

static void compat_in_ring0(void)
{
	CHECK_EQ(compat_call(loop_count + 100), (loop_count + 99) * 2);
}

extern const u8 sysenter_entry[], sysenter_done[];
__asm__(".text\n"
	"sysenter_entry:\n"
	"	mov %rsp, sc_rsp(%rip)\n"
	"	mov %cs, %eax\n"
	"	mov %rax, sc_cs(%rip)\n"
	"	pushfq\n"
	"	popq sc_flags(%rip)\n"
	"	incq sc_count(%rip)\n"
	"	mov $0x77, %eax\n"
	"	sysexitq\n");
extern u8 sysenter_stack_top[];

UTEXT static u64 user_sysenter(u64 arg)
{
	u64 r;

	__asm__ volatile("mov %%rsp, %%rcx; lea 1f(%%rip), %%rdx; sysenter\n1:" : "=a"(r)::"rcx", "rdx", "r11", "memory");
	return r;
}

UTEXT static u64 user_try_sysenter(u64 arg)
{
	__asm__ volatile(TRY("sysenter")::: "memory");
	return 0;
}

/* AMD's CPUs have no SYSENTER in 64-bit mode. */
static bool is_amd(void)
{
	u32 r[4];

	cpuid(0, 0, r);
	return r[1] == 0x68747541;
}

static void sysenter_intel(void)
{
	gdt[SEL_SPARE / 8] = gdt[SEL_CODE64 / 8];
	gdt[SEL_SPARE / 8 + 1] = gdt[SEL_DATA / 8];
	gdt[SEL_SPARE / 8 + 2] = gdt[SEL_UCODE32 / 8];
	gdt[SEL_SPARE / 8 + 3] = gdt[SEL_UDATA / 8];
	gdt[SEL_SPARE / 8 + 4] = gdt[SEL_UCODE64 / 8];
	gdt[SEL_SPARE / 8 + 5] = gdt[SEL_UDATA / 8];
	wrmsr(MSR_SYSENTER_CS, SEL_SPARE);
	wrmsr(MSR_SYSENTER_ESP, (u64)sysenter_stack_top);
	wrmsr(MSR_SYSENTER_EIP, (u64)sysenter_entry);
	CHECK_EQ(user_call(user_sysenter, 0), 0x77);
	CHECK_EQ(sc_cs, SEL_SPARE);
	CHECK_EQ(sc_rsp, sysenter_stack_top);
	wrmsr(MSR_SYSENTER_CS, 0);
	user_call(user_try_sysenter, 0);
	TRIED(GP, 0);
}

static void sysenter_amd(void)
{
	wrmsr(MSR_SYSENTER_CS, SEL_CODE64);
	user_call(user_try_sysenter, 0);
	TRIED(UD, 0);
}

void guest_main(void)
{
	LOOP(syscall_loads_and_saves);
	LOOP(sysret_restores_flags);
	LOOP(many);
	LOOP(refused_without_sce);
	if (!on_qemu_tcg()) /* which takes any address */
		LOOP(bad_msr_values);
	LOOP(sysret_compat);
	LOOP(iret_compat);
	LOOP(iret_refusals);
	LOOP(iret_same_ring);
	LOOP(far_return_and_call);
	LOOP(compat_in_ring0);
	if (is_amd())
		LOOP(sysenter_amd);
	else
		LOOP(sysenter_intel);
}
