/* SPDX-License-Identifier: Apache-2.0 */
/* The way of v86.c into virtual-8086 mode: to 0700:0000 with the flags in v86_flags and the stack 0600:v86_sp; back at whatever exception ends it. */
	.bss
	.globl v86_flags, v86_sp
v86_flags:	.skip 4
v86_sp:	.skip 4

	.text
	.code32
	.globl v86_run
v86_run:
	mov $0x60, %eax
	ltr %ax
	movl $1f, legacy_resume_at
	mov %esp, legacy_resume_esp
	push $0				/* gs */
	push $0				/* fs */
	push $0x500			/* ds */
	push $0x500			/* es */
	push $0x600			/* ss */
	push v86_sp
	push v86_flags
	push $0x700			/* cs */
	push $0				/* eip */
	xor %eax, %eax
	mov $0x80, %edx
	mov $0xffff, %ebx
	iret
1:	ret

	.section .note.GNU-stack, "", @progbits
