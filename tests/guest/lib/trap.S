/* SPDX-License-Identifier: Apache-2.0 */
/* 256 entry points that save everything and call trap_dispatch; calls that a trap may end; the way into ring 3. */
	.text
	.code64
	.globl trap_entries
	.balign 16
trap_entries:
	.set vector, 0
	.rept 256
	.balign 16
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
	push $0
	.endif
	push $vector
	jmp trap_common
	.set vector, vector + 1
	.endr

trap_common:
	push %rax
	push %rcx
	push %rdx
	push %rbx
	push %rbp
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	cld
	mov %rsp, %rdi
	mov %rsp, %rbx
	and $-16, %rsp
	call trap_dispatch
	mov %rbx, %rsp
	.globl trap_return
trap_return:
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rbp
	pop %rbx
	pop %rdx
	pop %rcx
	pop %rax
	add $16, %rsp
	iretq

/* u64 trap_guarded(u64 (*fn)(u64), u64 arg): call fn; a trap nobody handles comes back here, with trap_escaped set. */
	.globl trap_guarded
trap_guarded:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	sub $8, %rsp
	mov %rsp, trap_recover_rsp(%rip)
	mov %rdi, %rax
	mov %rsi, %rdi
	call *%rax
	.globl trap_recover
trap_recover:
	movq $0, trap_recover_rsp(%rip)
	add $8, %rsp
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret

/* u64 user_enter(const struct user_context *u): iretq with the frame in *u; the user program comes back through int $0x80 or a trap. */
	.globl user_enter
user_enter:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	sub $8, %rsp
	mov %rsp, trap_recover_rsp(%rip)
	pushq 32(%rdi)
	pushq 24(%rdi)
	pushq 16(%rdi)
	pushq 8(%rdi)
	pushq (%rdi)
	mov 40(%rdi), %rdi
	.globl user_iretq
user_iretq:
	iretq

	.section .note.GNU-stack, "", @progbits
