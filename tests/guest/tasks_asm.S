/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tasks of tasks.c. tasks_main is the one that every run begins in: it does what tasks_do says, and whatever comes back is recorded. The worker records
 * what it was started with and leaves by tasks_then. The fault task is where exceptions go that a task gate leads away; it ends the run.
 */
#define SEL_FLAT 0x10
#define SEL_UCODE32 0x23
#define SEL_UDATA 0x2b
#define TSS_MAIN 0x60
#define TSS_WORKER 0x68
#define TSS_FAULT 0x70
#define TSS_16 0x78
#define GATE 0x80
#define DATA_16 0x58
#define BASED 0xa8
#define GATE_IN_LDT 0x0c
#define TSS_IN_LDT 0x1c
#define LOW_STACK 0x6e00
#define NT 0x4000
#define ICR 0xfee00300
#define APIC_ID 0xfee00020

	.bss
	.balign 16
	.globl tasks_seen, tasks_back, tasks_fault, tasks_do, tasks_then, tasks_fix, tasks_runs, tasks_flags, tasks_dr7, tasks_stack
tasks_seen:	.skip 32 * 4
tasks_back:	.skip 32 * 4
tasks_fault:	.skip 32 * 4
tasks_do:	.skip 4
tasks_then:	.skip 4
tasks_fix:	.skip 4
tasks_runs:	.skip 4
tasks_flags:	.skip 4		/* of the main task before it does anything */
tasks_dr7:	.skip 4
	.skip 1024
tasks_stack:	.skip 64	/* the worker's, something above it */

/* struct seen of tasks.c. Nothing but the stack below its top is changed, and EAX. */
.macro RECORD at
	mov %eax, \at
	mov %ecx, \at + 4
	mov %edx, \at + 8
	mov %ebx, \at + 12
	mov %esp, \at + 16
	mov %ebp, \at + 20
	mov %esi, \at + 24
	mov %edi, \at + 28
	pushfl
	popl \at + 32
	.set where, 36
	.irp reg, %es, %cs, %ss, %ds, %fs, %gs
	mov \reg, %eax
	mov %eax, \at + where
	.set where, where + 4
	.endr
	str %eax
	mov %eax, \at + 60
	sldt %eax
	mov %eax, \at + 64
	mov %cr0, %eax
	mov %eax, \at + 68
	mov %cr3, %eax
	mov %eax, \at + 72
	mov %dr6, %eax
	mov %eax, \at + 76
	mov %dr7, %eax
	mov %eax, \at + 80
	movzbl gdt + TSS_MAIN + 5, %eax
	mov %eax, \at + 84
	movzbl gdt + TSS_WORKER + 5, %eax
	mov %eax, \at + 88
	movzbl gdt + TSS_FAULT + 5, %eax
	mov %eax, \at + 92
	movzbl gdt + TSS_16 + 5, %eax
	mov %eax, \at + 96
.endm

	.text
	.code32
	.globl tasks_main
tasks_main:
	mov $TSS_MAIN, %eax
	ltr %ax
	clts
	movl $1f, legacy_resume_at
	mov %esp, legacy_resume_esp
	mov tasks_dr7, %eax
	mov %eax, %dr7
	mov $0xa1a1a1a1, %eax
	mov $0xc1c1c1c1, %ecx
	mov $0xd1d1d1d1, %edx
	mov $0xb1b1b1b1, %ebx
	mov $0xe5e5e5e5, %ebp
	mov $0x51515151, %esi
	mov $0xd1d1d1d2, %edi
	push tasks_flags
	popf
	call *tasks_do
	RECORD tasks_back
1:	cld
	xor %eax, %eax
	mov %eax, %dr7
	str %eax
	mov %eax, legacy_results
	ret

/* ---- what it may do ---- */
.macro DO name, insn:vararg
	.globl tasks_\name, tasks_\name\()_end
tasks_\name:
	\insn
tasks_\name\()_end:
	ret
.endm
	DO call, lcall $TSS_WORKER, $0x12345678
	DO jump, ljmp $TSS_WORKER, $0x12345678
	DO call_gate, lcall $GATE, $0
	DO jump_gate, ljmp $GATE, $0
	DO call_ldt, lcall $GATE_IN_LDT, $0
	DO call_tss_ldt, lcall $TSS_IN_LDT, $0
	DO int, int $0x50
	DO ud, ud2
	DO gp, mov %ax, %fs
	DO call_16, lcall $TSS_16, $0

	.globl tasks_call_twice, tasks_irq, tasks_nmi, tasks_iret, tasks_iret_end, tasks_bad_stack, tasks_bad_stack_ud
tasks_call_twice:
	lcall $TSS_WORKER, $0
	lcall $TSS_WORKER, $0
	ret
tasks_irq:
	movl $0x40055, ICR
	sti
	nop
	nop
	cli
	ret
tasks_nmi:
	mov tasks_runs, %eax
	mov APIC_ID, %ecx
	mov %ecx, ICR + 0x10
	movl $0x4400, ICR
1:	pause
	cmp tasks_runs, %eax
	je 1b
	ret
tasks_iret:
	pushf
	orl $NT, (%esp)
	popf
	iret
tasks_iret_end:
	ret
tasks_bad_stack:
	mov $0x80000010, %esp
tasks_bad_stack_ud:
	ud2

/* From ring 3 */
.macro OUTWARD code
	movl $1f, legacy_resume_at
	mov %esp, legacy_resume_esp
	push $SEL_UDATA
	push $LOW_STACK
	push $2
	push $SEL_UCODE32
	push $\code
	iret
1:	ret
.endm
.macro DO3 name, insn:vararg
	.globl tasks_\name, tasks_\name\()_end
tasks_\name:
	OUTWARD 2f
2:	\insn
tasks_\name\()_end:
	int $0x40
.endm
	DO3 call_3, lcall $TSS_WORKER + 3, $0
	DO3 call_gate_3, lcall $GATE + 3, $0
	DO3 int_3, int $0x50

/* From virtual-8086 mode: 0700:0000 */
	.globl tasks_v86
tasks_v86:
	movl $1f, legacy_resume_at
	mov %esp, legacy_resume_esp
	push $0x400			/* gs */
	push $0x300			/* fs */
	push $0x500			/* ds */
	push $0x200			/* es */
	push $0x600			/* ss */
	push $0x800
	push $0x23002			/* VM, IOPL 3 */
	push $0x700
	push $0
	iret
1:	ret

/* From a 16-bit TSS: the code has 16-bit offsets, and so has the stack */
	.globl tasks_based, tasks_from_16, tasks_from_16_end
tasks_from_16:
	mov %esp, %edi
	movw $0xeeee, %bp
	mov $TSS_16, %eax
	ltr %ax
	mov $DATA_16, %eax
	mov %eax, %ss
	mov $LOW_STACK, %esp
	push %edi
	ljmp $BASED, $(1f - tasks_based)
tasks_based:
1:	lcall $TSS_WORKER, $0
tasks_from_16_end:
	pop %edi
	mov $SEL_FLAT, %eax
	mov %eax, %ss
	mov %edi, %esp
	ljmp $0x18, $1f
1:	ret

/* ---- the worker ---- */
	.globl tasks_worker, tasks_worker_second, tasks_then_iret, tasks_then_error, tasks_then_eoi, tasks_then_jump, tasks_then_call, tasks_then_main
	.globl tasks_then_reload
tasks_worker:
	mov %eax, tasks_seen
tasks_worker_second:
	RECORD tasks_seen
	mov (%esp), %eax
	mov %eax, tasks_seen + 100
	incl tasks_runs
	jmp *tasks_then
tasks_then_iret:
	iret
	jmp tasks_worker		/* when it is entered again */
tasks_then_error:			/* an exception's: behind the instruction */
	mov tasks_fix, %eax
	add %eax, legacy_tss + 0x20
	iret
tasks_then_eoi:
	movl $0, 0xfee000b0
	iret
tasks_then_jump:
	ljmp $TSS_MAIN, $0
	jmp tasks_worker
tasks_then_call:			/* one more */
	lcall $TSS_FAULT, $0
	iret
tasks_then_main:			/* whom it was called by */
	lcall $TSS_MAIN, $0
	iret

/* The same in 16 bits */
	.globl tasks_worker_16
tasks_worker_16:
	RECORD tasks_seen
	incl tasks_runs
	mov tasks_fix, %eax
	add %eax, legacy_tss + 0x20
	iret

/* The monitor of a task in virtual-8086 mode: back to whom called it. The interrupt gate has cleared NT. */
	.globl tasks_monitor
tasks_monitor:
	mov $SEL_FLAT, %eax
	mov %eax, %ds
	RECORD tasks_seen
	incl tasks_runs
	pushf
	orl $NT, (%esp)
	popf
	iret

/* ---- the fault task, entered from a gate with the error code on its stack, or by CALL ---- */
	.globl tasks_fault_entry, tasks_nested_entry
tasks_fault_entry:
	RECORD tasks_fault
	mov (%esp), %eax
	mov %eax, tasks_fault + 100
	mov legacy_resume_esp, %esp
	jmp *legacy_resume_at
tasks_nested_entry:
	RECORD tasks_fault
	incl tasks_runs
	iret

	.section .note.GNU-stack, "", @progbits
