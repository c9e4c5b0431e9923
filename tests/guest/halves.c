/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages whose addresses differ in bit 47 and what it is extended to: the lower and the upper half of the canonical addresses have the same page
 * numbers otherwise. Accesses to both in turns, by every kind of instruction, each see their own page; what is unmapped or forbidden in one
 * half faults whatever the other half has there.
 */
#include "lib.h"

#define UPPER 0xffff800000000000ul
#define LOW_VA (TEST_VA + 0x40000000ul)
#define BARE 0x700000ul /* identity-mapped below; unmapped in the upper half */

struct fields {
	u64 a, b, c, d;
	u32 e, f;
};

static volatile struct fields *const low = (void *)LOW_VA, *const high = (void *)(UPPER + LOW_VA);
static u64 *low_frame, *high_frame;
static u64 turn;

static void map_both(u64 low_flags, u64 high_flags)
{
	paging_map((u64)low, (u64)low_frame, low_flags);
	paging_map((u64)high, (u64)high_frame, high_flags);
}

static void loads_and_stores(void)
{
	turn++;
	low->a = turn;
	high->a = ~turn;
	CHECK_EQ(low->a, turn);
	CHECK_EQ(high->a, ~turn);
	CHECK_EQ(low_frame[0], turn);
	CHECK_EQ(high_frame[0], ~turn);
}

static u64 sum(volatile struct fields *s)
{
	s->d = s->a + s->b + s->c;
	s->f = s->e + 1;
	return s->d + s->f;
}

/* What a translator may look up once for all of them */
static void whole_structures(void)
{
	low->a = low->b = low->c = turn;
	high->a = high->b = high->c = turn + 1;
	low->e = 5;
	high->e = 7;
	CHECK_EQ(sum(low), 3 * turn + 6);
	CHECK_EQ(sum(high), 3 * turn + 3 + 8);
	CHECK_EQ(sum(low), 3 * turn + 6);
	turn++;
}

/* Both by one instruction */
static void from_half_to_half(void)
{
	u64 from = (u64)&low->b, to = (u64)&high->b, n = 3;

	low->b = turn;
	low->c = turn + 1;
	low->d = turn + 2;
	__asm__ volatile("rep movsq" : "+S"(from), "+D"(to), "+c"(n)::"memory");
	CHECK_EQ(high->b, turn);
	CHECK_EQ(high->d, turn + 2);
	from = (u64)&high->d;
	to = (u64)&low->a;
	__asm__ volatile("movsq" : "+S"(from), "+D"(to)::"memory");
	CHECK_EQ(low->a, turn + 2);
	from = (u64)&low->a;
	to = (u64)&high->d;
	n = 1;
	__asm__ volatile("cmpsq; sete %b2" : "+S"(from), "+D"(to), "+q"(n)::"memory", "cc");
	CHECK_EQ(n & 0xff, 1);
	turn++;
}

/* The stack in one half, the operand in the other */
static void stack_and_operand(void)
{
	u64 got, kept;

	low->b = turn;
	high->b = turn * 3;
	__asm__ volatile("mov %%rsp, %1\n\t"
			 "mov %2, %%rsp\n\t"
			 "push %3\n\t"
			 "pop %0\n\t"
			 "push %0\n\t"
			 "pop %4\n\t"
			 "mov %1, %%rsp"
			 : "=&r"(got), "=&r"(kept)
			 : "r"((u64)low + PAGE), "m"(high->b), "m"(high->c)
			 : "memory");
	CHECK_EQ(got, turn * 3);
	CHECK_EQ(high->c, turn * 3);
	CHECK_EQ(low_frame[511], turn * 3);
	CHECK_EQ(low->b, turn);
}

static void locked(void)
{
	low->a = high->a = 0;
	for (u64 i = 0; i < 4; i++) {
		u64 n = 3;

		__asm__ volatile("lock addq $2, %0\n\tlock xaddq %2, %1" : "+m"(low->a), "+m"(high->a), "+r"(n)::"cc");
		CHECK_EQ(n, 3 * i);
		__asm__ volatile("lock btsq $40, %0" : "+m"(high->b)::"cc");
	}
	CHECK_EQ(low->a, 8);
	CHECK_EQ(high->a, 12);
}

/* The other half has a page there; this one has none. */
static void absent_in_one_half(void)
{
	u64 v = 1;

	*(volatile u64 *)BARE = turn;
	trap_clear();
	__asm__ volatile(TRY("mov (%1), %0") : "+r"(v) : "r"(UPPER + BARE) : "memory");
	TRIED(PF, 0);
	CHECK_EQ(trap.cr2, UPPER + BARE);
	trap_clear();
	__asm__ volatile(TRY("mov %0, 8(%1)")::"r"(v), "r"(UPPER + BARE) : "memory");
	TRIED(PF, PFE_W);
	CHECK_EQ(trap.cr2, UPPER + BARE + 8);
	CHECK_EQ(*(volatile u64 *)BARE, turn);
	trap_clear();
	__asm__ volatile(TRY("mov (%1), %0") : "+r"(v) : "r"(0x0000800000000000ul + BARE) : "memory");
	TRIED(GP, 0);
	__asm__ volatile("prefetcht0 %0" ::"m"(*(u8 *)(UPPER + BARE)));
}

static void read_only_in_one_half(void)
{
	map_both(P | W, P);
	low->a = turn;
	CHECK_EQ(high->a, high_frame[0]);
	trap_clear();
	__asm__ volatile(TRY("movq $0, %0") : "=m"(high->a));
	TRIED(PF, PFE_P | PFE_W);
	low->b = turn;
	CHECK_EQ(low_frame[1], turn);
	map_both(P | W, P | W);
}

static void remapped_in_one_half(void)
{
	low->a = 1;
	high->a = 2;
	paging_map((u64)low, (u64)high_frame, P | W);
	CHECK_EQ(high->a, 2);
	CHECK_EQ(low->a, 2);
	low->a = 3;
	CHECK_EQ(high->a, 3);
	paging_map((u64)low, (u64)low_frame, P | W);
	CHECK_EQ(low->a, 1);
	CHECK_EQ(high->a, 3);
}

UTEXT static u64 user_reads(u64 at)
{
	u64 v = *(volatile u64 *)at;

	*(volatile u64 *)(at + 8) = v + 1;
	return v + *(volatile u64 *)(at + 8);
}

/* Each half user's in turn, the other the supervisor's */
static void users_half(void)
{
	map_both(P | W | U, P | W);
	low->a = turn;
	high->a = ~0ul;
	CHECK_EQ(user_call(user_reads, (u64)low), 2 * turn + 1);
	CHECK_EQ(trap.vector, NO_TRAP);
	user_call(user_reads, (u64)high);
	TRIED(PF, PFE_P | PFE_U);
	map_both(P | W, P | W | U);
	high->a = turn;
	CHECK_EQ(user_call(user_reads, (u64)high), 2 * turn + 1);
	user_call(user_reads, (u64)low);
	TRIED(PF, PFE_P | PFE_U);
	CHECK_EQ(low->a, turn);
	map_both(P | W, P | W);
	turn++;
}

/* Code in one half, its data in the other, under the same page number */
static void code_and_data(void)
{
	u8 *code = (u8 *)high + 2048;
	u64 got;

	code[0] = 0x48; /* mov rax, [rdi]; ret */
	code[1] = 0x8b;
	code[2] = 0x07;
	code[3] = 0xc3;
	for (u64 i = 0; i < 3; i++) {
		low->a = turn + i;
		got = ((u64(*)(volatile void *))(u64)code)(low);
		CHECK_EQ(got, turn + i);
		high->a = turn - i;
		got = ((u64(*)(volatile void *))(u64)code)(high);
		CHECK_EQ(got, turn - i);
	}
}

void guest_main(void)
{
	low_frame = page_alloc();
	high_frame = page_alloc();
	map_both(P | W, P | W);
	LOOP(loads_and_stores);
	LOOP(whole_structures);
	LOOP(from_half_to_half);
	LOOP(stack_and_operand);
	LOOP(locked);
	LOOP(absent_in_one_half);
	LOOP(read_only_in_one_half);
	LOOP(remapped_in_one_half);
	LOOP(users_half);
	LOOP(code_and_data);
}
