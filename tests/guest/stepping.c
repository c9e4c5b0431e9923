/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Single stepping over instructions that a monitor carries out itself: each is one step, with RIP behind it, and the next one is stepped too. And
 * through faults that are repaired, IRET, far transfers, SYSCALL with TF not masked, code that modifies itself.
 */
#include "lib.h"

#define DR6_BS (1ul << 14)
#define DR6_CLEAR 0xffff0ff0ul
#define MAX_STEPS 64

static volatile u64 steps[MAX_STEPS], nsteps;

static bool note(struct trap_frame *f)
{
	if (nsteps < MAX_STEPS)
		steps[nsteps] = f->rip;
	nsteps++;
	CHECK_EQ(read_dr6() & DR6_BS, DR6_BS);
	write_dr6(DR6_CLEAR);
	return true;
}

static void start(void)
{
	nsteps = 0;
	write_dr6(DR6_CLEAR);
	trap_set_handler(DB, note);
}

static void stepped_call(const void *fn)
{
	start();
	__asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq\n\tcall *%0\n\tpushfq; andq $~0x100, (%%rsp); popfq" ::"r"(fn)
			 : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
	CHECK(nsteps < MAX_STEPS);
}

/* ---- one instruction, with what comes before and after it */

#define SNIPPET(name, before, insn, after)                                                                                                 \
	extern const u8 name[], name##_at[], name##_next[];                                                                                \
	__asm__(".text\n" #name ": " before "\n" #name "_at: " insn "\n" #name "_next: nop\n" after "\nret\n")

u64 step_memory[64] __attribute__((aligned(64))); /* known to the assembly below */
struct dtr step_gdtr, step_idtr;
struct __attribute__((packed)) {
	u32 offset;
	u16 sel;
} step_ss;
u32 step_far[2];

SNIPPET(s_cpuid, "xor %eax, %eax", "cpuid", "");
SNIPPET(s_rdtsc, "", "rdtsc", "");
SNIPPET(s_rdmsr, "mov $0xc0000100, %ecx", "rdmsr", "");
SNIPPET(s_wrmsr, "mov $0xc0000102, %ecx\n rdmsr", "wrmsr", "");
SNIPPET(s_read_cr0, "", "mov %cr0, %rax", "");
SNIPPET(s_write_cr0, "mov %cr0, %rax", "mov %rax, %cr0", "");
SNIPPET(s_write_cr3, "mov %cr3, %rax", "mov %rax, %cr3", "");
SNIPPET(s_write_cr4, "mov %cr4, %rax", "mov %rax, %cr4", "");
SNIPPET(s_write_cr8, "xor %eax, %eax", "mov %rax, %cr8", "");
SNIPPET(s_read_dr7, "", "mov %db7, %rax", "");
SNIPPET(s_write_dr0, "xor %eax, %eax", "mov %rax, %db0", "");
SNIPPET(s_clts, "", "clts", "");
SNIPPET(s_smsw, "", "smsw %eax", "");
SNIPPET(s_lmsw, "smsw %eax", "lmsw %ax", "");
SNIPPET(s_invlpg, "", "invlpg step_memory", "");
SNIPPET(s_wbinvd, "", "wbinvd", "");
SNIPPET(s_sgdt, "", "sgdt step_gdtr", "");
SNIPPET(s_lgdt, "sgdt step_gdtr", "lgdt step_gdtr", "");
SNIPPET(s_lidt, "sidt step_idtr", "lidt step_idtr", "");
SNIPPET(s_sldt, "", "sldt %eax", "");
SNIPPET(s_str, "", "str %eax", "");
SNIPPET(s_lldt, "xor %eax, %eax", "lldt %ax", "");
SNIPPET(s_swapgs, "", "swapgs", "swapgs");
SNIPPET(s_cli, "", "cli", "");
SNIPPET(s_in, "", "in $0x80, %al", "");
SNIPPET(s_out, "", "out %al, $0x80", "");
SNIPPET(s_outs, "lea step_memory(%rip), %rsi\n mov $0x80, %edx", "outsb", "");
SNIPPET(s_rep_none, "lea step_memory(%rip), %rdi\n xor %ecx, %ecx", "rep stosq", "");
SNIPPET(s_load_fs, "xor %eax, %eax", "mov %eax, %fs", "");
SNIPPET(s_load_es, "mov $0x10, %eax", "mov %eax, %es", "");
SNIPPET(s_lss, "mov %esp, step_ss(%rip)", "lss step_ss(%rip), %esp", ""); /* no shadow, unlike MOV SS */
SNIPPET(s_popf, "pushfq", "popfq", "");
SNIPPET(s_mmio_read, "mov $0xfee00030, %edx", "mov (%rdx), %eax", "");
SNIPPET(s_mmio_write, "mov $0xfec00000, %edx", "movl $0, (%rdx)", "");
SNIPPET(s_lsl, "mov $0x10, %ecx", "lsl %ecx, %eax", "");
SNIPPET(s_locked, "", "lock incq step_memory(%rip)", "");
SNIPPET(s_straddling, "lea step_page+4093(%rip), %rdx", "mov %rax, (%rdx)", "");
SNIPPET(s_fxsave, "", "fxsave64 step_memory(%rip)", "");
SNIPPET(s_pause, "", "pause", "");
SNIPPET(s_far_jump, "lea s_far_jump_next(%rip), %eax\n mov %eax, step_far(%rip)\n movl $8, step_far+4(%rip)", "ljmp *step_far(%rip)", "");
SNIPPET(s_far_return, "push $8\n lea s_far_return_next(%rip), %rax\n push %rax", "lretq", "");
SNIPPET(s_iret, "mov %rsp, %rcx\n push $0x10\n push %rcx\n pushfq\n push $8\n lea s_iret_next(%rip), %rax\n push %rax", "iretq", "");
u8 step_page[8192] PAGE_ALIGNED;

#define ROW(name)                                                                                                                          \
	{                                                                                                                                  \
		name, name##_at, name##_next                                                                                               \
	}
static const struct {
	const u8 *start, *at, *next;
} snippets[] = {
	ROW(s_cpuid),	  ROW(s_rdtsc),	     ROW(s_rdmsr),    ROW(s_wrmsr),	ROW(s_read_cr0),  ROW(s_write_cr0),  ROW(s_write_cr3),
	ROW(s_write_cr4), ROW(s_write_cr8),  ROW(s_read_dr7), ROW(s_write_dr0), ROW(s_clts),	  ROW(s_smsw),	     ROW(s_lmsw),
	ROW(s_invlpg),	  ROW(s_wbinvd),     ROW(s_sgdt),     ROW(s_lgdt),	ROW(s_lidt),	  ROW(s_sldt),	     ROW(s_str),
	ROW(s_lldt),	  ROW(s_swapgs),     ROW(s_cli),      ROW(s_in),	ROW(s_out),	  ROW(s_outs),	     ROW(s_rep_none),
	ROW(s_load_fs),	  ROW(s_load_es),    ROW(s_lss),      ROW(s_popf),	ROW(s_mmio_read), ROW(s_mmio_write), ROW(s_lsl),
	ROW(s_locked),	  ROW(s_straddling), ROW(s_fxsave),   ROW(s_pause),	ROW(s_far_jump),  ROW(s_far_return), ROW(s_iret),
};

/* QEMU gives LSS the shadow of MOV SS and takes no step at PAUSE, KVM none at what it emulates and asks the machine to end. */
static bool left_out(const u8 *snippet)
{
	if (on_kvm() && (snippet == s_outs || snippet == s_mmio_write))
		return true;
	return on_qemu_tcg() && (snippet == s_lss || snippet == s_pause);
}

static void one_step_each(void)
{
	for (u32 n = 0; n < ARRAY_SIZE(snippets); n++) {
		u32 i = 0;

		if (left_out(snippets[n].start))
			continue;
		stepped_call(snippets[n].start);
		while (i < nsteps && steps[i] != (u64)snippets[n].at)
			i++;
		CHECK_EQ(steps[i], snippets[n].at);
		CHECK_EQ(steps[i + 1], snippets[n].next);
		CHECK_EQ(steps[i + 2], snippets[n].next + 1);
	}
}

/* ---- a fault that is repaired: the handler is not stepped, the instruction is, once */

static const u64 va = TEST_VA + 0x700000;
static void *page;
SNIPPET(s_touch, "mov $0x8000700000, %rdx", "mov (%rdx), %rax", "");

static bool repair(struct trap_frame *f)
{
	CHECK_EQ(flags_get() & 0x100, 0);
	paging_map(va, (u64)page, P | W);
	return true;
}

static void repaired_fault(void)
{
	paging_map(va, 0, 0);
	trap_set_handler(PF, repair);
	stepped_call(s_touch);
	trap_set_handler(PF, NULL);
	CHECK_EQ(steps[1], s_touch_at);
	CHECK_EQ(steps[2], s_touch_next);
	CHECK_EQ(steps[3], s_touch_next + 1);
}

/* ---- IRET that sets TF: the instruction it returns to is the first that is stepped */

extern const u8 ir_first[], ir_second[];

static void iret_sets_it(void)
{
	start();
	__asm__ volatile("mov %%rsp, %%rcx; push $0x10; push %%rcx; push $0x102; push $8; lea ir_first(%%rip), %%rax; push %%rax; iretq\n"
			 "ir_first: nop\nir_second: pushfq; andq $~0x100, (%%rsp); popfq" ::
				 : "rax", "rcx", "memory", "cc");
	CHECK_EQ(steps[0], ir_second);
	CHECK_EQ(nsteps, 4);
}

/* ---- code that modifies the next instruction, stepped through */

static u8 *code;

static void modifying(void)
{
	static const u8 body[] = {
		0x89, 0x3d, 1, 0, 0, 0, /* mov %edi, 1(%rip): the immediate below */
		0xb8, 0,    0, 0, 0,	/* mov $0, %eax */
		0xc3,
	};
	u32 got;

	memcpy(code, body, sizeof(body));
	for (u32 value = 1; value < 4; value++) {
		start();
		__asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq\n\tcall *%1\n\tpushfq; andq $~0x100, (%%rsp); popfq"
				 : "=&a"(got)
				 : "r"(code), "D"(value * 3)
				 : "memory", "cc");
		CHECK_EQ(got, value * 3);
		CHECK_EQ(steps[1], code + 6);
		CHECK_EQ(steps[2], code + 11);
	}
}

/* ---- SYSCALL: TF counts as it is afterwards, so with SFMASK 0 the kernel is stepped from its entry on */

extern const u8 step_kernel[], step_kernel_2[], step_kernel_end[], step_user_next[];
__asm__(".text\nstep_kernel: nop\nstep_kernel_2: nop\nstep_kernel_end: sysretq\n");

UTEXT static u64 user_stepped(u64 unused)
{
	__asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq\n\tsyscall\n\tstep_user_next: nop\n\tpushfq; andq $~0x100, (%%rsp); popfq" ::
				 : "rcx", "r11", "memory", "cc");
	return 3;
}

static bool stepped(const u8 *at)
{
	for (u32 i = 0; i < nsteps; i++)
		if (steps[i] == (u64)at)
			return true;
	return false;
}

static void syscall_unmasked(void)
{
	wrmsr(0xc0000081, (u64)SEL_UCODE32 << 48 | (u64)SEL_CODE64 << 32);
	wrmsr(0xc0000082, (u64)step_kernel);
	wrmsr(0xc0000084, 0);
	idt[DB].ist = 1;
	start();
	CHECK_EQ(user_call_flags(user_stepped, 0, 0), 3);
	idt[DB].ist = 0;
	CHECK(stepped(step_kernel_2));
	CHECK(stepped(step_kernel_end));
	CHECK(stepped(step_user_next) || stepped(step_user_next + 1));
}

void guest_main(void)
{
	page = page_alloc();
	code = page_alloc();
	step_ss.sel = SEL_DATA;
	__asm__ volatile("lldt %w0" ::"r"(0));
	loop_check("one_step_each", one_step_each, 500);
	LOOP(repaired_fault);
	LOOP(iret_sets_it);
	LOOP(modifying);
	LOOP(syscall_unmasked);
}
