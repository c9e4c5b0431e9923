/* SPDX-License-Identifier: Apache-2.0 */
/* The way of an application processor from its start-up IPI in real mode to smp_started(), on the stack of its APIC id. */
#define AT(label) (0x8000 + label - smp_trampoline)

	.section .rodata
	.globl smp_trampoline, smp_trampoline_end, smp_values
	.balign 16
smp_trampoline:
	.code16
	cli
	xor %ax, %ax
	mov %ax, %ds
	lgdtl AT(gdtr)
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	ljmpl $0x18, $AT(protected)

	.code32
protected:
	mov $0x10, %eax
	mov %eax, %ds
	mov AT(smp_values), %eax
	mov %eax, %cr4
	mov AT(smp_values) + 4, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	rdmsr
	mov AT(smp_values) + 8, %eax
	wrmsr
	mov AT(smp_values) + 12, %eax
	mov %eax, %cr0
	ljmp $8, $AT(long)

	.code64
long:
	mov $smp_start64, %rax
	jmp *%rax

	.balign 8
low_gdt:
	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
gdtr:
	.word . - low_gdt - 1
	.long AT(low_gdt)
	.balign 4
smp_values:	.long 0, 0, 0, 0	/* CR4, CR3, EFER, CR0 */
smp_trampoline_end:

	.text
	.code64
smp_start64:
	fninit
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	mov $1, %eax
	cpuid
	mov %ebx, %edi
	shr $24, %edi
	lea 1(%rdi), %eax
	shl $14, %eax
	lea smp_stacks(%rax), %rsp
	xor %ebp, %ebp
	call smp_started
	ud2

	.section .note.GNU-stack, "", @progbits
