/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Excursions from 64-bit mode: protected mode without paging (32-bit, and 16-bit segments), virtual-8086 mode, 32-bit and PAE paging,
 * real mode.
 * Each routine leaves numbers in legacy_results, which legacy.c compares. Called as C functions; all callee-saved registers are kept.
 */
#define SEL32_CODE 0x18
#define SEL16_CODE 0x38
#define SEL_FLAT 0x10
#define SEL16_DATA 0x58		/* legacy.c puts a 64 KiB data segment at address 0 there */
#define SEL_TSS32 0x60
#define SEL_UCODE32 0x23
#define SEL_UDATA 0x2b

	.bss
	.balign 4096
	.globl legacy_page_directory, legacy_pdpt, legacy_pae_directory
legacy_page_directory:	.skip 4096
legacy_pdpt:	.skip 4096
legacy_pae_directory: .skip 4096
	.globl legacy_idt
	.balign 16
legacy_idt:	.skip 256 * 8
	.globl legacy_tss
legacy_tss:	.skip 8192 + 128
	.globl legacy_results
	.balign 16
legacy_results:	.skip 4 * 64
	.globl legacy_traps		/* count, last vector, error code, eip */
legacy_traps:	.skip 16
	.skip 4096
legacy_stack_top:
	.skip 4096
	.globl legacy_ring0_stack_top
legacy_ring0_stack_top:
saved_rsp:	.skip 8
saved_cr0:	.skip 8
saved_cr3:	.skip 8
saved_cr4:	.skip 8
routine:	.skip 4
	.globl legacy_resume_at, legacy_resume_esp
legacy_resume_at:	.skip 4		/* where the trap handler goes on; 0: behind the instruction is not known, stop */
legacy_resume_esp:	.skip 4
	.globl legacy_mode_cr3, legacy_mode_cr4
legacy_mode_cr3:	.skip 4		/* 0: without paging */
legacy_mode_cr4:	.skip 4

	.data
	.balign 8
idtr64:	.skip 10
	.balign 8
	.globl legacy_idtr
legacy_idtr:	.word 256 * 8 - 1
	.long legacy_idt
	.balign 8
real_idtr:	.word 0x3ff
	.long 0
to_32:	.long entered_32
	.word SEL32_CODE

	.text
	.code64
/* void legacy_call(u32 routine32): run a 32-bit routine in protected mode, with paging as legacy_mode_cr3 and cr4 say */
	.globl legacy_call
legacy_call:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, saved_rsp
	mov %cr0, %rax
	mov %rax, saved_cr0
	mov %cr3, %rax
	mov %rax, saved_cr3
	mov %cr4, %rax
	mov %rax, saved_cr4
	mov %edi, routine
	sidt idtr64
	ljmp *to_32

	.code32
entered_32:
	mov $SEL_FLAT, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov %eax, %fs
	mov %eax, %gs
	mov $legacy_stack_top, %esp
	mov %cr0, %eax
	and $0x7fffffff, %eax		/* PG off: leaves long mode */
	mov %eax, %cr0
	mov $0xc0000080, %ecx
	rdmsr
	and $~0x100, %eax		/* LME off */
	wrmsr
	lidt legacy_idtr
	cmpl $0, legacy_mode_cr3
	je 1f
	mov legacy_mode_cr4, %eax
	mov %eax, %cr4
	mov legacy_mode_cr3, %eax
	mov %eax, %cr3
	mov %cr0, %eax
	or $0x80000000, %eax
	mov %eax, %cr0
1:	call *routine

	.globl legacy_back
legacy_back:				/* 32-bit ring 0 again, whatever happened */
	mov $SEL_FLAT, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov %cr0, %eax
	and $0x7fffffff, %eax
	mov %eax, %cr0
	mov saved_cr4, %eax
	mov %eax, %cr4
	mov saved_cr3, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	rdmsr
	or $0x100, %eax
	wrmsr
	mov saved_cr0, %eax
	mov %eax, %cr0
	ljmp $8, $1f
	.code64
1:	xor %eax, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %fs
	mov %eax, %gs
	mov saved_rsp, %rsp
	lidt idtr64
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret

	.code32
/* 32-bit trap entry points: vectors 0 to 31 and 0x40; the handler records and goes on at legacy_resume_at with legacy_resume_esp */
	.globl legacy_trap_entries
	.balign 16
legacy_trap_entries:
	.set vector, 0
	.rept 65
	.balign 16
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
	push $0
	.endif
	push $vector
	jmp trap32
	.set vector, vector + 1
	.endr
trap32:
	push %eax
	mov $SEL_FLAT, %eax
	mov %eax, %ds
	mov %eax, %es
	incl legacy_traps
	mov 4(%esp), %eax
	mov %eax, legacy_traps + 4
	mov 8(%esp), %eax
	mov %eax, legacy_traps + 8
	mov 12(%esp), %eax
	mov %eax, legacy_traps + 12
	mov 16(%esp), %eax
	mov %eax, legacy_results + 4 * 60	/* cs */
	mov 20(%esp), %eax
	mov %eax, legacy_results + 4 * 61	/* eflags */
	mov 24(%esp), %eax
	mov %eax, legacy_results + 4 * 62	/* esp, from an outer ring */
	mov %esp, legacy_results + 4 * 63
	pop %eax
	mov legacy_resume_esp, %esp
	push $SEL_FLAT
	pop %ss
	jmp *legacy_resume_at

#define RESUME(label)			\
	movl $label, legacy_resume_at;		\
	mov %esp, legacy_resume_esp

#define RESULT(n, reg)	mov reg, legacy_results + 4 * n

/* ---- 32-bit instructions that 64-bit mode does not have ---- */
	.globl legacy_instructions
legacy_instructions:
	mov $0x0f, %eax
	aaa
	RESULT(0, %eax)
	mov $0x0200, %eax
	or $0, %eax
	sub $1, %al
	aas
	RESULT(1, %eax)
	mov $0x79, %eax
	add $0x35, %al
	daa
	RESULT(2, %eax)
	pushf
	pop %eax
	and $0xd5, %eax			/* OF is undefined */
	RESULT(3, %eax)
	mov $0x35, %eax
	sub $0x47, %al
	das
	RESULT(4, %eax)
	mov $123, %eax
	aam
	RESULT(5, %eax)
	mov $0x0907, %eax
	aad
	RESULT(6, %eax)
	mov $0x1111, %eax
	mov $0x2222, %ecx
	mov $0x3333, %edx
	mov $0x4444, %ebx
	mov $0x5555, %ebp
	mov $0x6666, %esi
	mov $0x7777, %edi
	pushal
	mov 28(%esp), %eax
	RESULT(7, %eax)
	mov (%esp), %eax
	RESULT(8, %eax)
	movl $0x8888, 16(%esp)		/* ebx's slot */
	popal
	RESULT(9, %ebx)
	RESULT(10, %ecx)
	mov $0x10, %eax
	.byte 0x40			/* inc eax */
	.byte 0x4b			/* dec ebx */
	RESULT(11, %eax)
	RESULT(12, %ebx)
	stc
	.byte 0xd6			/* salc */
	RESULT(13, %eax)
	mov $0x0003, %ecx
	mov $0x0010, %eax
	arpl %cx, %ax			/* RPL of ax raised to 3 */
	RESULT(14, %eax)
	push %es
	pop %eax
	RESULT(15, %eax)
	/* les: selector and offset */
	push $SEL_FLAT
	push $0x12345678
	les (%esp), %edx
	add $8, %esp
	RESULT(16, %edx)
	/* 16-bit addressing: [bx+si+2] at legacy_low */
	mov $0x11110600, %ebx
	mov $0x22220010, %esi
	movl $0xcafe, 0x612
	addr16 movl 2(%bx, %si), %eax
	RESULT(17, %eax)
	/* the 16-bit loop counter */
	mov $0x10003, %ecx
	xor %eax, %eax
1:	inc %eax
	addr16 loop 1b
	RESULT(18, %eax)
	RESULT(19, %ecx)
	/* 16-bit push and pop, pushfw */
	mov %esp, %ebx
	pushw $0x1234
	sub %esp, %ebx
	RESULT(20, %ebx)
	popw %ax
	RESULT(21, %eax)
	ret

/* ---- exceptions only 32-bit code has, and one of each common kind ---- */
	.globl legacy_exceptions
legacy_exceptions:
	RESUME(1f)
	mov $5, %eax
	bound %eax, bound_limits
	jmp fail
1:	mov legacy_traps + 4, %eax
	RESULT(0, %eax)
	RESUME(1f)
	mov $0x7fffffff, %eax
	inc %eax
	into
	jmp fail
1:	mov legacy_traps + 4, %eax
	RESULT(1, %eax)
	RESUME(1f)
2:	ud2
1:	mov legacy_traps + 4, %eax
	RESULT(2, %eax)
	mov legacy_traps + 12, %eax
	sub $2b, %eax
	RESULT(3, %eax)
	RESUME(1f)
	mov $0x77, %eax
	mov %eax, %ds			/* LDT selector */
	jmp fail
1:	mov legacy_traps + 4, %eax
	RESULT(4, %eax)
	mov legacy_traps + 8, %eax
	RESULT(5, %eax)
	RESUME(1f)
	int $0x40
1:	mov legacy_traps + 4, %eax
	RESULT(6, %eax)
	mov $3, %eax
	bound %eax, bound_limits	/* inside: no trap */
	mov $1, %eax
	RESULT(7, %eax)
	ret
fail:	movl $0xdead, legacy_results + 4 * 59
	ret
	.data
	.balign 4
bound_limits:	.long 1, 4
	.text

/* ---- limits: only where segments are checked ---- */
	.globl legacy_limits
legacy_limits:
	mov $SEL16_DATA, %eax
	mov %eax, %fs
	RESUME(1f)
	mov %fs:0xfffc, %eax		/* the last double word */
	RESULT(2, %eax)
	mov %fs:0xfffd, %eax		/* across the limit */
	jmp fail
1:	mov legacy_traps + 4, %eax
	RESULT(0, %eax)
	mov legacy_traps + 8, %eax
	RESULT(1, %eax)
	ret

/* ---- ring 3 and back through the 32-bit TSS ---- */
	.globl legacy_ring3
legacy_ring3:
	mov $SEL_TSS32, %eax
	ltr %ax
	RESUME(1f)
	push $SEL_UDATA
	push $legacy_stack_top - 2048
	push $2
	push $SEL_UCODE32
	push $ring3_code
	iret
1:	RESULT(0, %ebx)
	mov legacy_traps + 4, %eax
	RESULT(1, %eax)
	/* IRET to a outer ring with a bad SS */
	RESUME(1f)
	push $SEL_FLAT
	push $legacy_stack_top - 2048
	push $2
	push $SEL_UCODE32
	push $ring3_code
	iret
1:	mov legacy_traps + 4, %eax
	RESULT(2, %eax)
	mov legacy_traps + 8, %eax
	RESULT(3, %eax)
	ret
ring3_code:
	mov $0x3333, %ebx
	mov %cs, %eax
	push %eax
	pop %ecx
	int $0x40

/* ---- virtual-8086 mode: 16-bit code at 0x7000 ---- */
	.globl legacy_v86
legacy_v86:
	mov $SEL_TSS32, %eax
	ltr %ax
	mov $v86_code, %esi
	mov $0x7000, %edi
	mov $v86_end - v86_code, %ecx
	rep movsb
	RESUME(1f)
	push $0				/* gs */
	push $0				/* fs */
	push $0x123			/* ds */
	push $0				/* es */
	push $0x700			/* ss */
	push $0xff0			/* esp */
	push $0x23002			/* VM, IOPL 3 */
	push $0x700			/* cs */
	push $0				/* eip */
	iret
1:	RESULT(0, %ebx)			/* what the code computed */
	RESULT(1, %ecx)
	mov legacy_traps + 4, %eax
	RESULT(2, %eax)
	mov legacy_results + 4 * 61, %eax
	and $0x20000, %eax
	RESULT(3, %eax)			/* VM in the pushed flags */
	ret
	.code16
v86_code:
	mov %ds, %bx			/* 0x123 */
	mov $0x800, %ax
	mov %ax, %es
	movw $0x5678, %es:0x10		/* linear 0x8010 */
	mov $0x801, %ax
	mov %ax, %es
	mov %es:0, %cx
	push %cx
	pop %dx
	int $0x40			/* IOPL 3: through the IDT */
v86_end:
	.code32

/* ---- paging other than long mode's: the mode is set by legacy_mode_cr3 ---- */
	.globl legacy_paging
legacy_paging:
	movl $0x13579bdf, 0x500000
	mov 0x40500000, %eax		/* legacy.c maps 0x40400000 to 0x400000 */
	RESULT(0, %eax)
	movl $0x2468ace0, 0x40500004
	mov 0x500004, %eax
	RESULT(1, %eax)
	RESUME(1f)
	mov 0x80000000, %eax		/* not mapped */
	jmp fail
1:	mov legacy_traps + 4, %eax
	RESULT(2, %eax)
	mov legacy_traps + 8, %eax
	RESULT(3, %eax)
	mov %cr2, %eax
	RESULT(4, %eax)
	RESUME(1f)
	movl $1, 0x40800000		/* mapped read-only */
	jmp fail
1:	mov legacy_traps + 4, %eax
	RESULT(5, %eax)
	mov legacy_traps + 8, %eax
	RESULT(6, %eax)
	ret

/* ---- real mode: the code is copied below 64 KiB, where 16-bit segments reach it ---- */
	.globl legacy_real
legacy_real:
	mov $real_start, %esi
	mov $0x7000, %edi
	mov $real_end - real_start, %ecx
	rep movsb
	lidt real_idtr
	mov $SEL16_DATA, %eax
	ljmp $SEL16_CODE, $0x7000	/* base 0, 16-bit */
	.code16
real_start:
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %ss
	mov %ax, %fs
	mov %cr0, %eax
	and $~1, %al
	mov %eax, %cr0
	ljmp $0x700, $1f - real_start
1:	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %ss
	mov $0x6ff0, %sp
	mov $0x6000, %di		/* results, in real mode, at 0x6000 */
	/* segment arithmetic */
	mov $0x5ff, %ax
	mov %ax, %es
	movw $0xabcd, %es:0x20		/* linear 0x6010 */
	mov 0x6010, %ax
	mov %ax, 0x6000
	/* interrupt through the vector table */
	movw $real_int - real_start, 0x21 * 4
	movw $0x700, 0x21 * 4 + 2
	mov $5, %bx
	stc
	int $0x21
	mov %bx, 0x6002
	pushf
	pop %ax
	and $1, %ax
	mov %ax, 0x6004
	/* divide error: the saved ip is the instruction's */
	movw $real_divide - real_start, 0
	movw $0x700, 2
	xor %cl, %cl
	mov $0x1234, %ax
2:	div %cl
3:	mov %dx, 0x6006
	/* far call and return */
	lcall $0x700, $real_far - real_start
	mov %ax, 0x6008
	/* 32-bit operands and addresses */
	mov $0x12345678, %eax
	rol $8, %eax
	mov %eax, 0x600c
	mov $0x6000, %ebx
	mov 0xc(%ebx), %cx
	mov %cx, 0x6014
	/* string move with 16-bit indices */
	push %ds
	pop %es
	mov $0x600c, %si
	mov $0x6018, %di
	mov $2, %cx
	cld
	rep movsw
	mov %di, 0x601c
	/* push and pop of segment registers, pusha */
	push %cs
	pop %ax
	mov %ax, 0x601e
	mov %sp, %dx
	pusha
	mov %sp, %ax
	sub %ax, %dx
	mov %dx, 0x6020
	popa
	/* the stack pointer wraps in 16 bits */
	mov %sp, %bp
	mov $0xabab, %ax
	mov $0, %sp
	push %ax			/* at ss:fffe */
	mov %sp, %ax
	mov %bp, %sp
	mov %ax, 0x6022
	/* the firmware: memory size, and a service that nobody has */
	int $0x12
	mov %ax, 0x6024
	mov $0xfe00, %ax
	clc
	int $0x15
	mov %ax, 0x6026
	pushf
	pop %ax
	and $1, %ax
	mov %ax, 0x6028
	/* unreal: limits stay as they were loaded in protected mode (fs: 64 KiB), base follows the selector */
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	ljmpl $SEL32_CODE, $real_done
real_int:
	add $2, %bx
	iret
real_divide:
	pop %dx
	push $3b - real_start		/* go on behind */
	sub $2b - real_start, %dx
	iret
real_far:
	mov $0x4242, %ax
	lret
real_end:
	.code32
real_done:
	mov $SEL_FLAT, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov $legacy_stack_top - 4, %esp	/* the return address of the call is still there */
	lidt legacy_idtr
	ret

	.section .note.GNU-stack, "", @progbits
