/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Straight code that accesses memory around one value several times, as a structure or a stack frame is accessed. A translator may look the page
 * up once for all of them; nothing of that may show: not in accessed and dirty bits, not where a fault comes, not when the page is remapped, a
 * device, code, or taken away between two accesses.
 */
#pragma once

#include "lib.h"

/* A function of its own that is one straight run of code. Arguments in rdi, rsi, rdx; results in rax and through memory. */
#define BLOCK_IN(section, name, body)                                                                                                      \
	__asm__(".pushsection " section ", \"ax\"\n\t.balign 256\n" #name ":\n\t" body "\n9:\tret\n\t.popsection\n");                      \
	u64 name(u64, u64, u64)
#define BLOCK(name, body) BLOCK_IN(".text", name, body)
/* A fault of this instruction ends the block. */
#define ENDS(insn) "77: " insn "\n\t.pushsection .extable, \"a\"\n\t.quad 77b, 9f\n\t.popsection\n\t"

#define N(i) (0x1111111111111111ul * (i))

static const u64 va = TEST_VA + 0x500000, other_va = TEST_VA + 0x700000;
static u8 *code;
static u64 *frame, *frame2, *third, *fourth;

static inline void fill(u64 *page, u64 salt)
{
	for (u32 i = 0; i < PAGE / 8; i++)
		page[i] = N(i & 7) + salt + i;
}

static inline u64 bits(u64 at)
{
	return *(volatile u64 *)paging_entry(paging_root(), at, 1) & (A | D);
}

BLOCK(read_divide_write, "mov (%rdi), %rcx\n\t"
			 "xor %edx, %edx\n\t"
			 "mov $1, %eax\n\t" ENDS("div %esi") ENDS("mov %rcx, 8(%rdi)") "addq $1, 16(%rdi)");

static inline void prepare(void)
{
	frame2 = page_alloc(); /* not side by side in the order in which they are mapped: a wrong frame is to show */
	third = page_alloc();
	fourth = page_alloc();
	frame = page_alloc();
	code = page_alloc();
}
