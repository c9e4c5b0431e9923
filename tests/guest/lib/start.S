/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiboot entry in 32-bit protected mode without paging; switches to 64-bit mode with the first 4 GiB identity-mapped and calls
 * lib_main.
 */
	.section .multiboot, "a"
	.balign 4
	.long 0x1badb002, 0, -0x1badb002

	.section .bss
	.balign 4096
	.globl boot_pml4
boot_pml4:	.skip 4096
boot_pdpt:	.skip 4096
boot_pd:	.skip 4 * 4096
	.globl main_stack_top, trap_stack_top, ist_stack_top, sysenter_stack_top
	.skip 16384
main_stack_top:
	.skip 16384
trap_stack_top:
	.skip 16384
ist_stack_top:
	.skip 4096
sysenter_stack_top:

	.section .data
	.balign 8
	.globl boot_info
boot_info:	.quad 0		/* the multiboot information structure */
boot_gdt:
	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
boot_gdtr:
	.word boot_gdtr - boot_gdt - 1
	.long boot_gdt

	.text
	.code32
	.globl start32
start32:
	cli
	cld
	mov $main_stack_top, %esp
	mov %ebx, boot_info
	mov $boot_pdpt + 7, %eax
	mov %eax, boot_pml4
	mov $boot_pd + 7, %eax
	mov $boot_pdpt, %edi
	mov $4, %ecx
1:	mov %eax, (%edi)
	add $4096, %eax
	add $8, %edi
	loop 1b
	mov $boot_pd, %edi
	mov $0x83, %eax			/* present, writable, 2 MiB */
	mov $2048, %ecx
2:	mov %eax, (%edi)
	add $0x200000, %eax
	add $8, %edi
	loop 2b
	mov %cr4, %eax
	or $0x620, %eax			/* PAE, OSFXSR, OSXMMEXCPT */
	mov %eax, %cr4
	mov $boot_pml4, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	rdmsr
	or $0x901, %eax			/* SCE, LME, NXE */
	wrmsr
	mov %cr0, %eax
	and $~0x6000000c, %eax		/* CD, NW, TS, EM off */
	or $0x80010022, %eax		/* PG, WP, NE, MP */
	mov %eax, %cr0
	lgdt boot_gdtr
	ljmp $8, $start64

	.code64
start64:
	fninit
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	mov $main_stack_top, %rsp
	xor %ebp, %ebp
	call lib_main
	ud2

	.section .note.GNU-stack, "", @progbits
