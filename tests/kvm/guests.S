/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the vCPUs of smoke.c execute: position-independent pieces, copied to where guests.h says.
 */
#include "guests.h"

	.section .rodata
	.globl real_code, real_end, long_code, long_second, long_handler, xcr_code, trap_code, long_end

	.code16
real_code:
	mov $PORT, %dx
	mov $'R', %al
	out %al, %dx
	hlt
real_end:

	.code64
long_code:
	mov $PORT, %edx
long_second:
	mov $'L', %al
	out %al, %dx

	mov $HOLE, %ebx
	movl $STORED, (%rbx)

	mov $FILTERED, %ecx
	rdmsr
	mov %edx, %ebx
	out %eax, $DONE
	mov %ebx, %eax
	out %eax, $DONE

	mov $(LAPIC + 0xf0), %ebx
	movl $0x1ff, (%rbx) /* the spurious vector's register switches the APIC on */
	sti
	hlt

	mov $EXITS, %ecx
	mov $PORT, %edx
1:	out %al, %dx
	dec %ecx
	jnz 1b
	out %al, $DONE

long_handler:
	mov $PORT, %edx
	mov $'I', %al
	out %al, %dx
	mov $(LAPIC + 0xb0), %ebx
	movl $0, (%rbx) /* end of interrupt */
	iretq

	/* XCR0 as it was set, and as it is after an exit */
xcr_code:
	mov %cr4, %rax
	bts $18, %eax /* OSXSAVE */
	mov %rax, %cr4
	xor %ecx, %ecx
	xor %edx, %edx
	mov $7, %eax
	xsetbv
	out %eax, $DONE
	xgetbv
	out %eax, $DONE

trap_code:
	int3
long_end:

	.section .note.GNU-stack, "", @progbits
