/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Routines of gates32.c: ring 3 code that calls through gates, and what the gates lead to. Each leaves numbers in legacy_results, and ends at
 * legacy_resume_at by INT 40h or by an exception.
 */
#define SEL_FLAT 0x10
#define SEL_TSS32 0x60
#define SEL_UDATA 0x2b
#define SEL_UCODE32 0x23
#define GATE_386 0x73
#define GATE_286 0x7b
#define SEL_CONFORMING 0x80
#define SEL_UBASED 0xb3		/* code that begins at based_start */
#define SEL_LDT_CODE 0xf	/* LDT, ring 3 */
#define LOW_STACK 0x6e00

#define RESULT(n, reg)	mov reg, legacy_results + 4 * n

/* Into ring 3 at `code` with stack `esp`; behind: whatever ended it. */
.macro outward code, sel, esp
	mov $SEL_TSS32, %eax
	ltr %ax
	movl $1f, legacy_resume_at
	mov %esp, legacy_resume_esp
	push $SEL_UDATA
	push $\esp
	push $2
	push $\sel
	push $\code
	iret
1:	ret
.endm

	.text
	.code32
/* ---- 386 call gate, three parameters ---- */
	.globl gates_386, gate_386_entry, gates_386_return
gates_386:
	outward ring3_386, SEL_UCODE32, LOW_STACK
ring3_386:
	mov $SEL_UDATA, %eax
	mov %eax, %ds
	push $33
	push $22
	push $11
	lcall $GATE_386, $0x12345678	/* the offset is ignored */
gates_386_return:
	RESULT(10, %esp)
	mov %cs, %eax
	RESULT(11, %eax)
	mov %ss, %eax
	RESULT(12, %eax)
	int $0x40
gate_386_entry:
	RESULT(9, %esp)
	mov (%esp), %eax
	RESULT(0, %eax)
	mov 4(%esp), %eax
	RESULT(1, %eax)
	mov 8(%esp), %eax
	RESULT(2, %eax)
	mov 12(%esp), %eax
	RESULT(3, %eax)
	mov 16(%esp), %eax
	RESULT(4, %eax)
	mov 20(%esp), %eax
	RESULT(5, %eax)
	mov 24(%esp), %eax
	RESULT(6, %eax)
	mov %cs, %eax
	RESULT(7, %eax)
	mov %ss, %eax
	RESULT(8, %eax)
	lret $12

/* ---- the same gate from ring 0: no other stack, nothing copied ---- */
	.globl gates_inside, gate_inside_entry
gates_inside:
	mov %esp, %ebx
	lcall $0x70, $0
	sub %esp, %ebx
	RESULT(2, %ebx)
	ret
gate_inside_entry:
	mov %ebx, %eax
	sub %esp, %eax
	RESULT(0, %eax)
	mov 4(%esp), %eax
	RESULT(1, %eax)
	lret

/* ---- 286 call gate, two parameters, and a 286 interrupt gate: 16-bit offsets, so the code lies in segments of its own ---- */
	.globl gates_286, gate_286_entry, gates_286_return, based_start, gate_int16_entry, gates_int16, gates_int16_return
gates_286:
	outward (ring3_286-based_start), SEL_UBASED, LOW_STACK
gates_int16:
	outward (ring3_int16-based_start), SEL_UBASED, LOW_STACK
based_start:
ring3_286:
	mov $SEL_UDATA, %eax
	mov %eax, %ds
	pushw $22
	pushw $11
	lcall $GATE_286, $0
gates_286_return:
	RESULT(10, %esp)
	int $0x40
gate_286_entry:
	RESULT(9, %esp)
	movzwl (%esp), %eax
	RESULT(0, %eax)
	movzwl 2(%esp), %eax
	RESULT(1, %eax)
	movzwl 4(%esp), %eax
	RESULT(2, %eax)
	movzwl 6(%esp), %eax
	RESULT(3, %eax)
	movzwl 8(%esp), %eax
	RESULT(4, %eax)
	movzwl 10(%esp), %eax
	RESULT(5, %eax)
	lretw $4
ring3_int16:
	mov $SEL_UDATA, %eax
	mov %eax, %ds
	stc
	int $0x50
gates_int16_return:
	setc %bl
	movzbl %bl, %ebx
	RESULT(11, %ebx)
	RESULT(10, %esp)
	int $0x40
gate_int16_entry:
	RESULT(9, %esp)
	movzwl (%esp), %eax
	RESULT(0, %eax)
	movzwl 2(%esp), %eax
	RESULT(1, %eax)
	movzwl 4(%esp), %eax
	and $1, %eax
	RESULT(2, %eax)
	movzwl 6(%esp), %eax
	RESULT(3, %eax)
	movzwl 8(%esp), %eax
	RESULT(4, %eax)
	iretw

/* ---- conforming code keeps the caller's ring ---- */
	.globl gates_conforming
gates_conforming:
	outward ring3_conforming, SEL_UCODE32, LOW_STACK
ring3_conforming:
	mov $SEL_UDATA, %eax
	mov %eax, %ds
	lcall $SEL_CONFORMING, $1f
	mov %cs, %eax
	RESULT(2, %eax)
	int $0x40
1:	mov %cs, %eax
	RESULT(0, %eax)
	RESULT(1, %esp)
	lret

/* ---- a far call into the LDT and back ---- */
	.globl gates_ldt
gates_ldt:
	outward ring3_ldt, SEL_UCODE32, LOW_STACK
ring3_ldt:
	mov $SEL_UDATA, %eax
	mov %eax, %ds
	lcall $SEL_LDT_CODE, $1f
	mov %cs, %eax
	RESULT(1, %eax)
	int $0x40
1:	mov %cs, %eax
	RESULT(0, %eax)
	lret

/* ---- what IRET outward leaves in the data segments: DS, ES, FS, GS in a word each ---- */
	.globl gates_segments
gates_segments:
	mov $SEL_FLAT, %eax
	mov %eax, %ds
	mov $SEL_UDATA, %eax
	mov %eax, %es
	mov $SEL_CONFORMING, %eax
	mov %eax, %fs
	xor %eax, %eax
	mov %eax, %gs
	outward ring3_segments, SEL_UCODE32, LOW_STACK
ring3_segments:
	mov %ds, %eax
	mov %es, %ebx
	mov %fs, %ecx
	mov %gs, %edx
	mov $SEL_UDATA, %esi
	mov %esi, %ds
	RESULT(0, %eax)
	RESULT(1, %ebx)
	RESULT(2, %ecx)
	RESULT(3, %edx)
	int $0x40

/* ---- one call through the 386 gate, that is to fail ---- */
	.globl gates_refused
gates_refused:
	outward ring3_refused, SEL_UCODE32, LOW_STACK
ring3_refused:
	lcall $GATE_386, $0
	int $0x40

/* ---- 386 interrupt and trap gates from ring 0: IF inside ---- */
	.globl gates_flags, gate_flags_entry
gates_flags:
	pushl $0x202
	popf
	int $0x51
	RESULT(0, %ebx)
	int $0x52
	cli
	RESULT(1, %ebx)
	ret
gate_flags_entry:
	pushf
	pop %ebx
	and $0x200, %ebx
	iret

	.section .note.GNU-stack, "", @progbits
