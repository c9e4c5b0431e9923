/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 32-bit code in ring 3 under a 64-bit kernel, where an engine may hand it to the host's CPU as it is: selectors mean what this machine's GDT says and
 * nothing else, every way out is exact, and code may change between 32 and 64 bits.
 */
#include "lib.h"

#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_CSTAR 0xc0000083
#define MSR_SFMASK 0xc0000084
#define TLS 0x60 /* three entries from here on, as Linux has them */
#define OF 4
#define BR 5

static u32 word[4] UDATA;
u32 far_target[2] UDATA;
u64 compat_rcx; /* known to the assembly below */

#define FN32(name, body)                                                                                                                   \
	extern const u8 name[], name##_insn[], name##_next[];                                                                              \
	__asm__(".pushsection .utext, \"ax\"\n.code32\n" #name ":\n" body "\n	int $0x80\n.code64\n.popsection\n")
#define AT(name, insn) #name "_insn: " insn "\n" #name "_next:\n"

static u64 call32_flags(const u8 *fn, u32 arg, u64 flags)
{
	struct user_context u = {.rip = (u64)fn,
				 .cs = SEL_UCODE32,
				 .rflags = flags | 0x202,
				 .rsp = (u64)(user_stack + sizeof(user_stack) - 64),
				 .ss = SEL_UDATA,
				 .arg = arg};

	trap_clear();
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"(SEL_UDATA));
	u64 r = user_enter(&u);
	__asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %1, %%fs; mov %1, %%gs" ::"r"(SEL_DATA), "r"(0));
	return (u32)r;
}

static u64 call32(const u8 *fn, u32 arg)
{
	return call32_flags(fn, arg, 0);
}

/* The instruction at name_insn ended the call with this exception. */
#define FAULTED(name, vec, err)                                                                                                            \
	do {                                                                                                                               \
		TRIED(vec, err);                                                                                                           \
		CHECK_EQ(trap.frame.rip, (u64)name##_insn);                                                                                \
		CHECK_EQ(trap.frame.cs, SEL_UCODE32);                                                                                      \
		CHECK_EQ(trap.frame.ss, SEL_UDATA);                                                                                        \
	} while (0)

#define FAULTS(name, arg, vec, err)                                                                                                        \
	do {                                                                                                                               \
		call32(name, arg);                                                                                                         \
		FAULTED(name, vec, err);                                                                                                   \
	} while (0)

static u64 segment(u32 base, u64 limit, u64 type_and_flags)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | type_and_flags << 40 | (limit >> 16 & 15) << 48 | (u64)(base >> 24) << 56;
}

/* ---- selectors */

FN32(read_selectors, "mov %cs, %eax\n mov %ds, %ecx\n shl $8, %eax\n or %ecx, %eax\n mov %es, %ecx\n shl $8, %eax\n or %ecx, %eax\n"
		     "mov %ss, %ecx\n shl $8, %eax\n or %ecx, %eax\n");
FN32(read_gs, "mov %gs, %eax\n");
FN32(load_gs, AT(load_gs, "mov %edi, %gs") "mov %gs:4, %eax\n");
FN32(use_gs, AT(use_gs, "mov %gs:4, %eax"));
FN32(push_gs, "push %gs\n pop %es\n mov %es:4, %eax\n");
FN32(use_at, AT(use_at, "mov %gs:(%edi), %eax"));
FN32(store_gs, AT(store_gs, "mov %eax, %gs:4"));
FN32(load_es, AT(load_es, "mov %edi, %es") "mov %es:4, %eax\n");

static void selectors(void)
{
	CHECK_EQ(call32(read_selectors, 0), (u64)SEL_UCODE32 << 24 | SEL_UDATA << 16 | SEL_UDATA << 8 | SEL_UDATA);
	CHECK_EQ(trap.vector, NO_TRAP);
}

/* Each descriptor and each of its changes counts when it is loaded, and not before. */
static void thread_local_segments(void)
{
	word[1] = 0x1000 + loop_count;
	word[3] = 0x2000 + loop_count;
	for (u32 n = 0; n < 3; n++) {
		u32 sel = (TLS + 8 * n) | 3, at = (n + loop_count) & 1 ? 2 : 0, other = 2 - at;

		gdt[TLS / 8 + n] = segment((u32)(u64)&word[at], 0xfffff, 0xc0f3);
		CHECK_EQ(call32(load_gs, sel), word[at + 1]);
		__asm__ volatile("mov %0, %%gs" ::"r"(sel));
		gdt[TLS / 8 + n] = segment((u32)(u64)&word[other], 0xfffff, 0xc0f3);
		CHECK_EQ(call32(use_gs, 0), word[at + 1]);
		__asm__ volatile("mov %0, %%gs" ::"r"(sel));
		CHECK_EQ(call32(read_gs, 0), sel);
		__asm__ volatile("mov %0, %%gs" ::"r"(sel));
		CHECK_EQ(call32(push_gs, 0), word[other + 1]);
	}
}

static void other_segments(void)
{
	gdt[SEL_SPARE / 8] = segment((u32)(u64)word, 0xffff, 0x40f3);
	CHECK_EQ(call32(load_es, SEL_SPARE | 3), word[1]);
	gdt[SEL_SPARE / 8] = 0;
	FAULTS(load_es, SEL_SPARE | 3, GP, SEL_SPARE);
	gdt[TLS / 8] = 0;
	FAULTS(load_gs, TLS | 3, GP, TLS);
	FAULTS(load_gs, SEL_CODE64, GP, SEL_CODE64);
	if (on_qemu_tcg()) /* which looks at no limits, rights or null selectors */
		return;
	FAULTS(use_gs, 0, GP, 0);
}

static void limits_and_rights(void)
{
	gdt[TLS / 8 + 1] = segment((u32)(u64)word, 7, 0x40f1); /* eight bytes, read-only */
	__asm__ volatile("mov %0, %%gs" ::"r"(TLS + 8 + 3));
	CHECK_EQ(call32(use_at, 4), word[1]);
	__asm__ volatile("mov %0, %%gs" ::"r"(TLS + 8 + 3));
	FAULTS(use_at, 5, GP, 0);
	__asm__ volatile("mov %0, %%gs" ::"r"(TLS + 8 + 3));
	FAULTS(store_gs, 0, GP, 0);
}

/* ---- ways out */

FN32(touch, AT(touch, "mov (%edi), %eax"));
FN32(overwrite, AT(overwrite, "mov %eax, (%edi)"));
FN32(undefined, AT(undefined, "ud2"));
FN32(divide, "xor %ecx, %ecx\n" AT(divide, "div %ecx"));
FN32(aam0, AT(aam0, "aam $0"));
FN32(interrupt, AT(interrupt, "int $0x81"));
FN32(overflow, "mov $0x7fffffff, %eax\n inc %eax\n" AT(overflow, "into"));
FN32(bounds, "mov $9, %eax\n push $8\n push $1\n" AT(bounds, "bound %eax, (%esp)"));
FN32(wait_in, AT(wait_in, "in $0x80, %al"));
FN32(to_nowhere, AT(to_nowhere, "ljmp $0x53, $0"));
FN32(ask_cpuid, "mov %edi, %eax\n xor %ecx, %ecx\n cpuid\n mov %ebx, %eax\n");
FN32(arithmetic, "mov %edi, %eax\n .byte 0x48, 0x48\n daa\n pusha\n popa\n"); /* no prefixes here */
FN32(aligned, "pushf\n pop %eax\n and $0x40000, %eax\n");

static void faults(void)
{
	FAULTS(touch, 0xc0000010, PF, PFE_U | PFE_P);
	CHECK_EQ(trap.cr2, 0xc0000010);
	FAULTS(overwrite, 0xc0000010, PF, PFE_U | PFE_W | PFE_P);
	FAULTS(undefined, 0, UD, 0);
	FAULTS(divide, 0, DE, 0);
	FAULTS(aam0, 0, DE, 0);
	FAULTS(interrupt, 0, GP, gate_error(0x81));
	FAULTS(bounds, 0, BR, 0);
	FAULTS(wait_in, 0, GP, 0);
	FAULTS(to_nowhere, 0, GP, 0x50);
}

/* INTO is a trap, through a gate that ring 3 may use. */
static void traps(void)
{
	u8 type = idt[OF].type;

	idt[OF].type = 0xee;
	call32(overflow, 0);
	TRIED(OF, 0);
	CHECK_EQ(trap.frame.rip, (u64)overflow_next);
	idt[OF].type = type;
}

static void results(void)
{
	u32 r[4];

	cpuid(0x40000000, 0, r);
	CHECK_EQ(call32(ask_cpuid, 0x40000000), r[1]);
	CHECK_EQ(call32(arithmetic, 0x14), 0x12);
	CHECK_EQ(call32_flags(aligned, 0, 1ul << 18), 1ul << 18);
}

/* ---- SYSCALL in 32-bit code, which AMD's CPUs have */

extern const u8 compat_entry[];
__asm__(".text\n"
	"compat_entry:\n"
	"	mov %rcx, compat_rcx(%rip)\n"
	"	mov $0x1234, %eax\n"
	"	sysretl\n");
FN32(fast_call, "mov $7, %eax\n" AT(fast_call, "syscall"));

static void system_call(void)
{
	u32 r[4];

	cpuid(0, 0, r);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
	wrmsr(MSR_STAR, (u64)SEL_UCODE32 << 48 | (u64)SEL_CODE64 << 32);
	wrmsr(MSR_CSTAR, (u64)compat_entry);
	wrmsr(MSR_SFMASK, 0x700);
	compat_rcx = 0;
	u64 got = call32(fast_call, 0);
	if (r[1] != 0x68747541) { /* "Auth" */
		FAULTED(fast_call, UD, 0);
		return;
	}
	CHECK_EQ(got, 0x1234);
	CHECK_EQ(compat_rcx, (u64)fast_call_next);
}

/* ---- 32 and 64 bits */

FN32(there_and_back, "ljmp $0x33, $1f\n"
		     ".code64\n1: mov $0x1122334455667788, %r8\n mov %r8, %rax\n shr $32, %rax\n ljmp *far_target(%rip)\n"
		     ".code32\n.globl back_again\nback_again: .byte 0x48\n"); /* dec %eax */
FN32(by_return, "push $0x33\n push $1f\n lret\n.code64\n1: mov $0x123456789, %rax\n shr $4, %rax\n int $0x80\n.code32\n");
extern const u8 back_again[];

static void far_jumps(void)
{
	far_target[0] = (u32)(u64)back_again;
	far_target[1] = SEL_UCODE32;
	CHECK_EQ(call32(there_and_back, 0), 0x11223343);
	CHECK_EQ(trap.vector, NO_TRAP);
	CHECK_EQ(call32(by_return, 0), 0x12345678);
}

void guest_main(void)
{
	LOOP(selectors);
	LOOP(thread_local_segments);
	LOOP(other_segments);
	if (!on_qemu_tcg())
		LOOP(limits_and_rights);
	LOOP(faults);
	LOOP(traps);
	LOOP(results);
	LOOP(system_call);
	LOOP(far_jumps);
}
