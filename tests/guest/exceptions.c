/* SPDX-License-Identifier: Apache-2.0 */
/* Every exception that an instruction can raise arrives at its vector with the right error code and rip, from ring 0 and ring 3. */
#include "lib.h"

static void divide_error(void)
{
	u64 a = 1, d = 0;

	trap_clear();
	__asm__ volatile(TRY("divq %2") : "+a"(a), "+d"(d) : "r"(0ul));
	TRIED(DE, 0);
	CHECK_EQ(a, 1);
	trap_clear();
	d = 5;
	__asm__ volatile(TRY("divq %2") : "+a"(a), "+d"(d) : "r"(5ul)); /* quotient too large */
	TRIED(DE, 0);
	CHECK_EQ(d, 5);
}

static void breakpoint_and_icebp(void)
{
	trap_clear();
	__asm__ volatile(TRY("int3"));
	TRIED(BP, 0);
	trap_clear();
	__asm__ volatile(TRY(".byte 0xcd, 3"));
	TRIED(BP, 0);
	trap_clear();
	if (!on_qemu_tcg()) { /* which takes ICEBP for an invalid opcode */
		__asm__ volatile(TRY(".byte 0xf1"));
		TRIED(DB, 0);
	}
	trap_clear();
	__asm__ volatile(TRY("int $4"));
	TRIED(OF, 0);
}

static void invalid_opcode(void)
{
	trap_clear();
	__asm__ volatile(TRY("ud2"));
	TRIED(UD, 0);
	trap_clear();
	__asm__ volatile(TRY(".byte 0xf0, 0x90")); /* lock nop */
	TRIED(UD, 0);
	trap_clear();
	__asm__ volatile(TRY(".byte 0x06")); /* push es */
	TRIED(UD, 0);
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%cs")::"r"(8));
	TRIED(UD, 0);
	trap_clear();
	__asm__ volatile(TRY(".byte 0x0f, 0x20, 0xc8")::: "rax"); /* mov cr1, rax */
	TRIED(UD, 0);
}

static void device_not_available(void)
{
	write_cr0(read_cr0() | 8);
	trap_clear();
	__asm__ volatile(TRY("fnop"));
	TRIED(NM, 0);
	trap_clear();
	__asm__ volatile(TRY("xorps %xmm0, %xmm0"));
	TRIED(NM, 0);
	trap_clear();
	__asm__ volatile(TRY("fwait")); /* MP and TS */
	TRIED(NM, 0);
	__asm__ volatile("clts");
	trap_clear();
	__asm__ volatile(TRY("xorps %xmm0, %xmm0"));
	TRIED(NO_TRAP, 0);
	write_cr0(read_cr0() | 4);
	trap_clear();
	__asm__ volatile(TRY("fnop"));
	TRIED(NM, 0);
	trap_clear();
	__asm__ volatile(TRY("xorps %xmm0, %xmm0"));
	TRIED(UD, 0);
	write_cr0(read_cr0() & ~4ul);
}

static void general_protection(void)
{
	volatile u64 *wild = (u64 *)0x800000000000ul;
	u64 v;

	trap_clear();
	__asm__ volatile(TRY("mov (%1), %0") : "=r"(v) : "r"(wild));
	TRIED(GP, 0);
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%ds")::"r"(SEL_CODE64 | 0x400)); /* beyond the table */
	TRIED(GP, SEL_CODE64 | 0x400);
	__asm__ volatile("lldt %w0" ::"r"(0));
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%ds")::"r"(0x14)); /* in the LDT, of which there is none */
	TRIED(GP, 0x14);
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%ss")::"r"(SEL_CODE64));
	TRIED(GP, SEL_CODE64);
	if (!on_qemu_tcg()) { /* which ignores writes to MSRs it does not know and to the upper half of CR4 */
		trap_clear();
		__asm__ volatile(TRY("wrmsr")::"c"(0xdeadbeef), "a"(0), "d"(0));
		TRIED(GP, 0);
		trap_clear();
		__asm__ volatile(TRY("mov %0, %%cr4")::"r"(read_cr4() | 1ul << 40));
		TRIED(GP, 0);
	}
	if (!on_qemu_tcg()) { /* which does not check it */
		trap_clear();
		__asm__ volatile(TRY("mov %0, %%cr0")::"r"(read_cr0() & ~1ul)); /* PG without PE */
		TRIED(GP, 0);
	}
	trap_clear();
	__asm__ volatile(TRY("movaps (%0), %%xmm0")::"r"((u64)&gdt + 1));
	TRIED(GP, 0);
}

static void stack_fault(void)
{
	idt[SS].ist = 1; /* the frame cannot be pushed on the stack that is the subject */
	trap_clear();
	__asm__ volatile("mov %%rsp, %%rcx; mov %0, %%rsp\n" TRY("push %%rax") "mov %%rcx, %%rsp" ::"r"(0x800000000100ul)
			 : "rcx", "memory");
	idt[SS].ist = 0;
	TRIED(SS, 0);
	trap_clear();
	__asm__ volatile("mov %%rbp, %%rcx; mov %0, %%rbp\n" TRY("mov 8(%%rbp), %%rax") "mov %%rcx, %%rbp" ::"r"(0x800000000000ul)
			 : "rcx", "rax", "memory");
	TRIED(SS, 0);
}

static void segment_not_present(void)
{
	gdt[SEL_SPARE / 8] = 0x00cf13000000ffff; /* data, not present */
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%ds")::"r"(SEL_SPARE));
	TRIED(NP, SEL_SPARE);
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%ss")::"r"(SEL_SPARE));
	TRIED(SS, SEL_SPARE);
	gdt[SEL_SPARE / 8] = 0;
	idt[0x55].type = 0x0e; /* gate not present */
	trap_clear();
	__asm__ volatile(TRY("int $0x55"));
	TRIED(NP, gate_error(0x55));
	idt[0x55].type = 0x8e;
}

static void task_register(void)
{
	trap_clear();
	__asm__ volatile(TRY("ltr %w0")::"r"(SEL_TSS)); /* busy */
	TRIED(GP, SEL_TSS);
	trap_clear();
	__asm__ volatile(TRY("ltr %w0")::"r"(0));
	TRIED(GP, 0);
}

static u32 control_word = 0x37b; /* divide by zero unmasked */

static void x87_error(void)
{
	trap_clear();
	__asm__ volatile("fninit; fldcw %0; fldz; fld1; fdivp\n" TRY("fwait") "fninit" ::"m"(control_word));
	TRIED(MF, 0);
}

static u32 mxcsr_unmasked = 0x1d80, mxcsr_default = 0x1f80;

static void simd_error(void)
{
	trap_clear();
	__asm__ volatile("ldmxcsr %0; xorps %%xmm1, %%xmm1; mov $0x3f800000, %%eax; movd %%eax, %%xmm0\n" TRY(
				 "divss %%xmm1, %%xmm0") "ldmxcsr %1" ::"m"(mxcsr_unmasked),
			 "m"(mxcsr_default)
			 : "rax");
	TRIED(XM, 0);
	write_cr4(read_cr4() & ~(1ul << 10));
	trap_clear();
	__asm__ volatile("ldmxcsr %0; xorps %%xmm1, %%xmm1; mov $0x3f800000, %%eax; movd %%eax, %%xmm0\n" TRY(
				 "divss %%xmm1, %%xmm0") "ldmxcsr %1" ::"m"(mxcsr_unmasked),
			 "m"(mxcsr_default)
			 : "rax");
	TRIED(UD, 0); /* without OSXMMEXCPT */
	write_cr4(read_cr4() | 1ul << 10);
}

static u64 user_words[4] UDATA;

UTEXT static u64 user_misaligned(u64 at)
{
	__asm__ volatile(TRY("mov (%0), %%rax")::"r"(at + 1) : "rax");
	return 7;
}

static void alignment_check(void)
{
	write_cr0(read_cr0() | 1ul << 18);
	CHECK_EQ(user_call_flags(user_misaligned, (u64)user_words, 1ul << 18), 7);
	TRIED(AC, 0);
	CHECK_EQ(trap.frame.cs, SEL_UCODE64);
	CHECK_EQ(user_call(user_misaligned, (u64)user_words), 7);
	TRIED(NO_TRAP, 0);
	write_cr0(read_cr0() & ~(1ul << 18));
	CHECK_EQ(user_call_flags(user_misaligned, (u64)user_words, 1ul << 18), 7);
	TRIED(NO_TRAP, 0);
}

UTEXT static u64 user_privileged(u64 which)
{
	switch (which) {
	case 0:
		__asm__ volatile(TRY("hlt"));
		break;
	case 1:
		__asm__ volatile(TRY("cli"));
		break;
	case 2:
		__asm__ volatile(TRY("mov %%cr0, %%rax")::: "rax");
		break;
	case 3:
		__asm__ volatile(TRY("wrmsr")::"c"(0x10), "a"(0), "d"(0));
		break;
	case 4:
		__asm__ volatile(TRY("in $0x80, %%al")::: "rax");
		break;
	case 5:
		__asm__ volatile(TRY("invlpg (%0)")::"r"(0ul));
		break;
	case 6:
		__asm__ volatile(TRY("lidt (%0)")::"r"(user_words));
		break;
	case 7:
		__asm__ volatile(TRY("clts"));
		break;
	case 8:
		__asm__ volatile(TRY("swapgs"));
		break;
	case 9:
		__asm__ volatile(TRY("wbinvd"));
		break;
	case 10:
		__asm__ volatile(TRY("ltr %w0")::"r"(SEL_TSS));
		break;
	case 11:
		__asm__ volatile(TRY("mov %%db7, %%rax")::: "rax");
		break;
	case 12:
		__asm__ volatile(TRY("mov %%cr8, %%rax")::: "rax");
		break;
	case 13:
		__asm__ volatile(TRY("sti"));
		break;
	case 14:
		__asm__ volatile(TRY("lmsw %w0")::"r"(0));
		break;
	default:
		__asm__ volatile(TRY("sysretq")::"c"(0x1000ul));
	}
	return 1;
}

static void privileged_in_ring3(void)
{
	for (u64 which = 0; which <= 15; which++) {
		user_call(user_privileged, which);
		TRIED(GP, 0);
		CHECK_EQ(trap.frame.cs, SEL_UCODE64);
		CHECK_EQ(trap.frame.ss, SEL_UDATA);
	}
}

UTEXT static u64 user_software_interrupt(u64 which)
{
	if (which == 0)
		__asm__ volatile(TRY("int $0x0d"));
	else if (which == 1)
		__asm__ volatile(TRY("int $0x20"));
	else
		__asm__ volatile(TRY("int3"));
	return 1;
}

static void software_interrupts_in_ring3(void)
{
	user_call(user_software_interrupt, 0);
	TRIED(GP, gate_error(0x0d));
	user_call(user_software_interrupt, 1);
	TRIED(GP, gate_error(0x20));
	user_call(user_software_interrupt, 2);
	TRIED(BP, 0);
}

void guest_main(void)
{
	LOOP(divide_error);
	LOOP(breakpoint_and_icebp);
	LOOP(invalid_opcode);
	LOOP(device_not_available);
	LOOP(general_protection);
	if (!on_qemu_tcg()) /* which raises #GP for these */
		LOOP(stack_fault);
	LOOP(segment_not_present);
	if (!on_qemu_tcg()) /* which loads a busy TSS */
		LOOP(task_register);
	LOOP(x87_error);
	if (!on_qemu_tcg()) /* whose SSE raises no exceptions */
		LOOP(simd_error);
	if (!on_qemu_tcg()) /* which has no #AC */
		LOOP(alignment_check);
	LOOP(privileged_in_ring3);
	LOOP(software_interrupts_in_ring3);
}
