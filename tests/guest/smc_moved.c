/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The same user code at many addresses, as a kernel maps libraries: a page is executed here and there, wherever it is it knows where it is, reads what
 * lies next to it and returns to who called; it faults at its own address; and when its bytes change, they have changed everywhere.
 */
#include "lib.h"

#define PLACES 6
#define CODE 0
#define CONSTANT 0x40 /* in the code that the pieces below return together with their address */

static u8 *page[2]; /* code, and data behind it */

/* Each adds up what depends on where it lies. The page behind is data. */
extern const u8 piece_start[], piece_fault[], piece_end[];
__asm__(".pushsection .rodata\n.balign 64\n"
	"piece_start:\n"
	" lea piece_start(%rip), %rax\n"	/* where am I? */
	" add piece_start+0x1000(%rip), %rax\n" /* what lies behind me? */
	" call 1f\n"				/* near, and back */
	" jmp 2f\n"
	"1: mov (%rsp), %rcx\n" /* where do I return to? */
	" add %rcx, %rax\n"
	" ret\n"
	"2: push $0x40\n"
	" pop %rcx\n"
	" add %rcx, %rax\n"
	" lea 3f(%rip), %rdx\n"
	" call *%rdx\n" /* by way of a register */
	" lea 4f(%rip), %rdx\n"
	" jmp *%rdx\n"
	" ud2\n"
	"3: add piece_start+0x1008(%rip), %rax\n"
	" push %rbx\n mov $5, %ebx\n5: dec %ebx\n jnz 5b\n pop %rbx\n"
	" ret $0\n"
	"4: test %rdi, %rdi\n"
	" jz 6f\n"
	"piece_fault:\n"
	" mov %rax, piece_start+0x3000(%rip)\n" /* nothing is mapped there */
	"6: ret\n"
	"piece_end:\n.popsection\n");

static u64 place(u32 n)
{
	return TEST_VA + 0x700000 + n * 0x1230000000ul;
}

static u64 behind(u32 n)
{
	return 1000 * (n + 1);
}

/* What the pieces add up at a place, by hand: twice where they are, the return address's offset, and what lies behind. */
static u64 expected(u32 n)
{
	const u64 return_offset = 19;

	return place(n) + behind(n) + place(n) + return_offset + CONSTANT + (behind(n) + 1);
}

UTEXT static u64 run(u64 at)
{
	u64 (*fn)(u64) = (u64(*)(u64))at;

	return fn(0);
}

UTEXT static u64 run_into_fault(u64 at)
{
	u64 (*fn)(u64) = (u64(*)(u64))at;

	return fn(1);
}

static void put_data(u32 n)
{
	u64 *data = (u64 *)page[1];

	data[0] = behind(n);
	data[1] = behind(n) + 1;
}

static void runs_at(u32 n)
{
	put_data(n);
	CHECK_EQ(user_call(run, place(n)), expected(n));
	CHECK_EQ(trap.vector, NO_TRAP);
}

static void everywhere(void)
{
	for (u32 n = 0; n < PLACES; n++)
		runs_at(n);
	for (u32 n = PLACES; n-- > 0;)
		runs_at(n);
}

static void faults_where_it_is(void)
{
	for (u32 n = 0; n < PLACES; n++) {
		put_data(n);
		user_call(run_into_fault, place(n));
		CHECK_EQ(trap.vector, PF);
		CHECK_EQ(trap.frame.rip, place(n) + (u64)(piece_fault - piece_start));
		CHECK_EQ(trap.cr2, place(n) + 0x3000);
	}
}

/* PUSH's constant is one of the code's bytes. */
static void change(u8 constant)
{
	for (u32 i = 0; i < (u32)(piece_end - piece_start); i++)
		if (page[0][i] == 0x6a) {
			page[0][i + 1] = constant;
			return;
		}
}

static void changes_everywhere(void)
{
	for (u32 n = 0; n < PLACES; n++) {
		u8 constant = (u8)(1 + (loop_count + n) % 100);

		put_data(n);
		change(constant);
		CHECK_EQ(user_call(run, place(n)), expected(n) - CONSTANT + constant);
		change(CONSTANT);
		runs_at((n + 1) % PLACES);
		runs_at(n);
	}
}

static void moves_away(void)
{
	for (u32 n = 0; n < PLACES; n++) {
		runs_at(n);
		paging_map(place(n), (u64)page[0], 0);
		user_call(run, place(n));
		CHECK_EQ(trap.vector, PF);
		CHECK_EQ(trap.frame.rip, place(n));
		paging_map(place(n), (u64)page[0], P | U);
		runs_at(n);
	}
}

void guest_main(void)
{
	static u8 memory[2][PAGE] PAGE_ALIGNED;

	for (u32 i = 0; i < 2; i++)
		page[i] = memory[i];
	memcpy(page[0], piece_start, (u64)(piece_end - piece_start));
	for (u32 n = 0; n < PLACES; n++) {
		paging_map(place(n), (u64)page[0], P | U);
		paging_map(place(n) + PAGE, (u64)page[1], P | U);
	}
	loop_check("everywhere", everywhere, 200);
	loop_check("faults_where_it_is", faults_where_it_is, 50);
	loop_check("changes_everywhere", changes_everywhere, 100);
	loop_check("moves_away", moves_away, 50);
}
