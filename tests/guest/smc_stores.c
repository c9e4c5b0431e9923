/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every kind of store may hit the instruction that comes next: moves, pushes, calls, string, locked, vector and x87 instructions, the frame of
 * an interrupt, accessed and dirty bits of a page table that is code at the same time. That instruction has run before, in the same block; what
 * is executed is what the store left. From ring 0 and ring 3, through the address of the code and another one, within a page and across two.
 */
#include "lib.h"

typedef u64 (*function)(u64 value, u8 *target);

static u8 *code; /* two pages */
static const u64 va = TEST_VA + 0x500000, alias = TEST_VA + 0x510000;

/* A routine makes `value` (rdi) the immediate of the MOV at `target` (rsi), which follows and tells what it loads. The immediate is aligned. */
#define ROUTINE(name, body)                                                                                                                \
	extern const u8 name[], name##_target[], name##_end[];                                                                             \
	__asm__(".pushsection .rodata\n.balign 64\n" #name ":\n" body "\n.balign 16, 0x90\n.nops 6\n" #name                                \
		"_target: .byte 0x48, 0xb8\n.quad 0\n ret\n" #name "_end:\n.popsection\n")

ROUTINE(by_mov, "mov %rdi, 2(%rsi)");
ROUTINE(by_movnti, "movnti %rdi, 2(%rsi)\n sfence");
ROUTINE(by_bytes, "mov $8, %ecx\n lea 2(%rsi), %rdx\n1: mov %dil, (%rdx)\n inc %rdx\n shr $8, %rdi\n loop 1b");
ROUTINE(by_push, "mov %rsp, %rdx\n lea 10(%rsi), %rsp\n push %rdi\n mov %rdx, %rsp");
ROUTINE(by_pop, "push %rdi\n popq 2(%rsi)");
ROUTINE(by_xchg, "xchg %rdi, 2(%rsi)");
ROUTINE(by_add, "movq $0, 2(%rsi)\n add %rdi, 2(%rsi)");
ROUTINE(by_lock_add, "movq $0, 2(%rsi)\n lock add %rdi, 2(%rsi)");
ROUTINE(by_xadd, "movq $0, 2(%rsi)\n lock xadd %rdi, 2(%rsi)");
ROUTINE(by_cmpxchg, "mov 2(%rsi), %rax\n lock cmpxchg %rdi, 2(%rsi)");
ROUTINE(by_cmpxchg8b, "push %rbx\n mov 2(%rsi), %eax\n mov 6(%rsi), %edx\n mov %edi, %ebx\n mov %rdi, %rcx\n shr $32, %rcx\n"
		      "lock cmpxchg8b 2(%rsi)\n pop %rbx");
ROUTINE(by_not, "not %rdi\n mov %rdi, 2(%rsi)\n notq 2(%rsi)");
ROUTINE(by_bts, "movq $0, 2(%rsi)\n xor %ecx, %ecx\n1: bt %rcx, %rdi\n jnc 2f\n btsq %rcx, 2(%rsi)\n2: inc %ecx\n cmp $64, %ecx\n jb 1b");
ROUTINE(by_stos, "mov %rdi, %rax\n lea 2(%rsi), %rdi\n stosq");
ROUTINE(by_rep_stos, "mov %rdi, %rax\n lea 2(%rsi), %rdi\n mov $1, %ecx\n rep stosq");
ROUTINE(by_rep_movs, "push %rdi\n lea 2(%rsi), %rdi\n mov %rsp, %rsi\n mov $8, %ecx\n rep movsb\n pop %rdi");
ROUTINE(backwards, "push %rdi\n lea 9(%rsi), %rdi\n lea 7(%rsp), %rsi\n mov $8, %ecx\n std\n rep movsb\n cld\n pop %rdi");
ROUTINE(by_movq, "movq %rdi, %xmm0\n movq %xmm0, 2(%rsi)");
ROUTINE(by_movhps, "movq %rdi, %xmm0\n movlhps %xmm0, %xmm0\n movhps %xmm0, 2(%rsi)");
ROUTINE(by_movups, "movups -6(%rsi), %xmm1\n movq %rdi, %xmm0\n movlhps %xmm0, %xmm1\n movups %xmm1, -6(%rsi)");
ROUTINE(by_maskmov, "mov %rdi, %rdx\n lea 2(%rsi), %rdi\n movq %rdx, %xmm0\n pcmpeqb %xmm1, %xmm1\n movq %xmm1, %xmm1\n maskmovdqu %xmm1, "
		    "%xmm0\n sfence");
ROUTINE(by_fistp, "push %rdi\n fildll (%rsp)\n fistpll 2(%rsi)\n pop %rdi");
ROUTINE(by_movbe, "bswap %rdi\n movbe %rdi, 2(%rsi)");
ROUTINE(by_sgdt, "sgdt (%rsi)\n movw $0xb848, (%rsi)\n mov %rdi, 2(%rsi)");

#define ROW(name)                                                                                                                          \
	{                                                                                                                                  \
		name, name##_target, name##_end                                                                                            \
	}
static const struct routine {
	const u8 *start, *target, *end;
} routines[] = {
	ROW(by_mov),	ROW(by_movnti),	  ROW(by_bytes),    ROW(by_push),     ROW(by_pop),	 ROW(by_xchg),
	ROW(by_add),	ROW(by_lock_add), ROW(by_xadd),	    ROW(by_cmpxchg),  ROW(by_cmpxchg8b), ROW(by_not),
	ROW(by_bts),	ROW(by_stos),	  ROW(by_rep_stos), ROW(by_rep_movs), ROW(backwards),	 ROW(by_movq),
	ROW(by_movhps), ROW(by_movups),	  ROW(by_fistp),    ROW(by_maskmov),  ROW(by_movbe),	 ROW(by_sgdt),
};

/* Where it is put: with its immediate in one page, or across both. */
static u8 *put(const struct routine *r, bool across)
{
	u8 *at = code + (across ? PAGE - (u64)(r->target - r->start) - 5 : 0);

	memcpy(at, r->start, (u64)(r->end - r->start));
	return at;
}

static u64 value_of(u32 i)
{
	return (loop_count + 1) * 0x0102040810204081 + i;
}

#define TIMES 4

static void run(const struct routine *r, bool across, u64 through)
{
	u8 *at = put(r, across), *target = at + (r->target - r->start);

	for (u32 i = 0; i < TIMES; i++)
		CHECK_EQ(((function)at)(value_of(i), (u8 *)((u64)target - (u64)code + through)), value_of(i));
}

static void in_ring0(void)
{
	for (u32 i = 0; i < ARRAY_SIZE(routines); i++) {
		run(&routines[i], false, (u64)code);
		run(&routines[i], false, alias);
		run(&routines[i], true, (u64)code);
		run(&routines[i], true, alias);
	}
}

static struct {
	function fn;
	u64 value;
	u8 *target;
} call UDATA;

UTEXT static u64 user_run(u64 unused)
{
	return call.fn(call.value, call.target);
}

static void run_in_ring3(const struct routine *r, bool across)
{
	u8 *at = put(r, across) - (u64)code + va;

	for (u32 i = 0; i < TIMES; i++) {
		call.fn = (function)at;
		call.value = value_of(i);
		call.target = at + (r->target - r->start);
		CHECK_EQ(user_call(user_run, 0), value_of(i));
		TRIED(NO_TRAP, 0);
	}
}

/* SGDT is the kernel's, where UMIP is on. */
static void in_ring3(void)
{
	for (u32 i = 0; i < ARRAY_SIZE(routines); i++)
		if (routines[i].start != by_sgdt) {
			run_in_ring3(&routines[i], false);
			run_in_ring3(&routines[i], true);
		}
}

/* ---- stores that have no value of their own ---- */

ROUTINE(by_call, "mov %rsp, %rdx\n lea 10(%rsi), %rsp\n call 1f\n.globl by_call_return\nby_call_return: 1: mov %rdx, %rsp");
ROUTINE(by_accessed, "mov (%rdi), %rax");
ROUTINE(by_dirty, "lock orq $0, (%rdi)");
extern const u8 by_call_return[];

static void call_pushes(void)
{
	static const struct routine r = ROW(by_call);
	u8 *at = put(&r, false), *target = at + (r.target - r.start);

	for (u32 i = 0; i < TIMES; i++) {
		memset(target + 2, 0, 8);
		CHECK_EQ(((function)at)(0, target), at + (by_call_return - r.start));
	}
}

/* The store reaches only the second page of the instruction, the first one's bytes stay. */
ROUTINE(by_half, "shr $32, %rdi\n mov %edi, 6(%rsi)");

static void in_the_second_page(void)
{
	static const struct routine r = ROW(by_half);
	u8 *at = put(&r, true), *target = at + (r.target - r.start);

	for (u32 i = 1; i <= TIMES; i++)
		CHECK_EQ(((function)at)((u64)i << 32, target), (u64)i << 32);
}

/* Ring 3 has a stack segment whose selector is C3h: a RET, once the frame of an interrupt was pushed over what was a function. */
#define SEL_RET 0xc3
#define OVER_CODE 0x60

static bool handled(struct trap_frame *f)
{
	return true;
}

UTEXT static u64 user_nothing(u64 unused)
{
	__asm__ volatile("int %0; int %1" ::"i"(OVER_CODE), "i"(USER_EXIT));
	return unused;
}

static u64 call_with_rax(u8 *at, u64 rax)
{
	__asm__ volatile("call *%1" : "+a"(rax) : "r"(at) : "memory", "cc");
	return rax;
}

static const u8 five[] = {0xb8, 5, 0, 0, 0, 0xc3}; /* mov $5, %eax; ret */

static void interrupt_pushes(void)
{
	struct user_context u = {
		.rip = (u64)user_nothing, .cs = SEL_UCODE64, .rflags = 2, .rsp = (u64)(user_stack + 4096), .ss = SEL_RET, .arg = 0};
	u8 *slot = code + 2 * PAGE - 8;

	gdt[SEL_RET / 8] = gdt[SEL_UDATA / 8];
	idt[OVER_CODE].type = 0xee;
	idt[OVER_CODE].ist = 7;
	trap_set_handler(OVER_CODE, handled);
	tss.ist[6] = (u64)slot + 8;
	for (u32 i = 0; i < TIMES; i++) {
		memcpy(slot, five, sizeof(five));
		CHECK_EQ(call_with_rax(slot, 77), 5);
		user_enter(&u);
		CHECK_EQ(call_with_rax(slot, 77), 77);
	}
}

/* CALL to where no code was before: its return address ends in C3h, which is RET, too. */
extern const u8 call_ahead[], call_ahead_end[];
__asm__(".text\n.balign 256, 0x90\n.skip 0xbb, 0x90\n"
	"call_ahead: mov %rsp, %rdx\n mov %rdi, %rsp\n call *%rsi\n"
	"call_ahead_end:\n");

static void indirect_call_pushes(void)
{
	static const u8 leave[] = {0x48, 0x89, 0xd4, 0xc3}; /* mov %rdx, %rsp; ret */
	u8 *slot = code + 2 * PAGE - 8;

	CHECK_EQ((u64)call_ahead_end & 0xff, 0xc3);
	for (u32 i = 0; i < TIMES; i++) {
		memcpy(slot, five, sizeof(five));
		CHECK_EQ(call_with_rax(slot, 77), 5);
		memcpy(code, leave, sizeof(leave));
		((function)call_ahead)((u64)slot + 8, code);
		CHECK_EQ(call_with_rax(slot, 77), 77);
	}
}

/* The immediate is an entry of the page table that this page of code is too. */
static void page_walk(const struct routine *r, u64 bits)
{
	u8 *at = put(r, false), *target = at + (r->target - r->start);
	u64 entry = (u64)code + PAGE, index = (u64)(target + 2 - code) / 8, mapped = TEST_VA + 0x40000000 + index * PAGE;

	entry |= P | W | PCD;
	for (u32 i = 0; i < TIMES; i++) {
		memcpy(target + 2, &entry, 8);
		invlpg((void *)mapped);
		CHECK_EQ(((function)at)(mapped, target), entry | bits);
	}
}

static void page_walks(void)
{
	static const struct routine accessed = ROW(by_accessed), dirty = ROW(by_dirty);

	*paging_entry(paging_root(), TEST_VA + 0x40000000, 2) = (u64)code | P | W;
	page_walk(&accessed, A);
	page_walk(&dirty, A | D);
}

void guest_main(void)
{
	code = page_alloc();
	CHECK_EQ(page_alloc(), code + PAGE);
	for (u64 i = 0; i < 2; i++) {
		paging_map(va + i * PAGE, (u64)code + i * PAGE, P | W | U);
		paging_map(alias + i * PAGE, (u64)code + i * PAGE, P | W);
	}
	__asm__ volatile("fninit");
	loop_check("in_ring0", in_ring0, 100);
	loop_check("in_ring3", in_ring3, 40);
	LOOP(in_the_second_page);
	LOOP(call_pushes);
	LOOP(interrupt_pushes);
	LOOP(indirect_call_pushes);
	if (!on_qemu_tcg()) /* whose walk sets the bits and keeps what it has translated */
		LOOP(page_walks);
}
