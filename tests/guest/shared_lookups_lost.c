/* SPDX-License-Identifier: Apache-2.0 */
/* What was looked up is remapped, turns out to be code, or is taken away by a handler; strings and interrupts in between. */
#include "shared_lookups.h"

/* ---- what is mapped changes between two accesses */

BLOCK(invlpg_between, "mov (%rdi), %rax\n\t"
		      "mov %rax, 16(%rdi)\n\t"
		      "mov %rsi, (%rdx)\n\t"
		      "invlpg (%rdi)\n\t"
		      "mov 8(%rdi), %rcx\n\t"
		      "mov %rcx, 24(%rdi)\n\t"
		      "add %rcx, %rax");

static void remapped_by_invlpg(void)
{
	u64 *pte = paging_entry(paging_root(), va, 1);

	fill(frame, 10);
	fill(frame2, 20);
	paging_map(va, (u64)frame, P | W);
	CHECK_EQ(invlpg_between(va, (u64)frame2 | P | W, (u64)pte), frame[0] + frame2[1]);
	CHECK_EQ(frame[2], frame[0]);
	CHECK_EQ(frame[3], N(3) + 13);
	CHECK_EQ(frame2[2], N(2) + 22);
	CHECK_EQ(frame2[3], frame2[1]);
}

BLOCK(cr3_between, "mov (%rdi), %rax\n\t"
		   "mov %cr3, %r8\n\t"
		   "mov %rsi, %cr3\n\t"
		   "add 8(%rdi), %rax\n\t"
		   "mov %rax, 16(%rdi)\n\t"
		   "mov %r8, %cr3\n\t"
		   "add 24(%rdi), %rax\n\t"
		   "mov %rax, 32(%rdi)");
static u64 second_root;

static void remapped_by_cr3(void)
{
	fill(frame, 30);
	fill(frame2, 40);
	paging_map(va, (u64)frame, P | W);
	*paging_entry(second_root, va, 1) = (u64)frame2 | P | W;
	CHECK_EQ(cr3_between(va, second_root, 0), N(4) + 30 + 41 + 33);
	CHECK_EQ(frame2[2], N(1) + 30 + 41);
	CHECK_EQ(frame[2], N(2) + 32);
	CHECK_EQ(frame[4], N(4) + 30 + 41 + 33);
	CHECK_EQ(frame2[4], N(4) + 44);
}

BLOCK(wp_between, "mov %rsi, %cr0\n\t"
		  "mov (%rdi), %rax\n\t"
		  "mov %rax, 8(%rdi)\n\t"
		  "mov %rdx, %cr0\n\t"
		  "mov 16(%rdi), %rax\n\t" ENDS("mov %rax, 24(%rdi)") "mov %rax, 32(%rdi)");

static void rights_by_cr0(void)
{
	u64 cr0 = read_cr0();

	fill(frame, 50);
	paging_map(va, (u64)frame, P);
	trap_clear();
	wp_between(va, cr0 & ~(1ul << 16), cr0);
	TRIED(PF, PFE_P | PFE_W);
	CHECK_EQ(trap.cr2, va + 24);
	CHECK_EQ(frame[1], frame[0]);
	CHECK_EQ(frame[3], N(3) + 53);
}

BLOCK(smap_between, "stac\n\t"
		    "mov (%rdi), %rax\n\t"
		    "mov %rax, 8(%rdi)\n\t"
		    "clac\n\t" ENDS("mov 16(%rdi), %rax") "mov %rax, 24(%rdi)");
BLOCK(smap_opened, "clac\n\t"
		   "mov (%rsi), %rax\n\t"
		   "stac\n\t"
		   "add (%rdi), %rax\n\t"
		   "mov %rax, 8(%rdi)\n\t"
		   "mov %rax, 8(%rsi)\n\t"
		   "clac");

static void rights_by_smap(void)
{
	fill(frame, 60);
	fill(third, 70);
	paging_map(va, (u64)frame, P | W | U);
	paging_map(other_va, (u64)third, P | W);
	trap_clear();
	smap_between(va, 0, 0);
	TRIED(PF, PFE_P);
	CHECK_EQ(trap.cr2, va + 16);
	CHECK_EQ(trap.frame.rax, frame[0]);
	CHECK_EQ(frame[1], frame[0]);
	CHECK_EQ(frame[3], N(3) + 63);
	CHECK_EQ(smap_opened(va, other_va, 0), 130);
	CHECK_EQ(frame[1], 130);
	CHECK_EQ(third[1], 130);
}

/* ---- code in the page */

__asm__(".pushsection .text\n\t.balign 256\n"
	"patched:\n\t"
	"mov 0x100(%rdi), %rax\n\t"
	"mov %esi, patched_imm - patched(%rdi)\n\t"
	"mov $0x12345678, %ecx\n"
	"patched_imm = . - 4\n\t"
	"add %rcx, 0x108(%rdi)\n\t"
	"add 0x108(%rdi), %rax\n\t"
	"mov %rax, 0x110(%rdi)\n\t"
	"ret\n"
	"patched_end:\n\t.popsection\n");
extern const u8 patched[], patched_end[];

/* The store changes the very next instruction; what comes before and behind are data of the same page. */
static void next_instruction_changed(void)
{
	u64 *data = (u64 *)(code + 0x100);
	u64 (*fn)(u64, u64, u64) = (u64(*)(u64, u64, u64))(u64)code;

	memcpy(code, patched, (u64)(patched_end - patched));
	data[0] = 1000;
	data[1] = 0;
	for (u64 i = 1, sum = 0; i < 12; i++) {
		sum += i * 7;
		CHECK_EQ(fn((u64)code, i * 7, 0), 1000 + sum);
		CHECK_EQ(data[1], sum);
		CHECK_EQ(data[2], 1000 + sum);
	}
}

BLOCK(three_stores, "mov %rsi, (%rdi)\n\t"
		    "add %rdx, 8(%rdi)\n\t"
		    "mov 16(%rdi), %rax\n\t"
		    "incq 16(%rdi)");

BLOCK(three_stores_in_turns, "1:\tmov %rdx, (%rdi)\n\t"
			     "add %rdx, 8(%rdi)\n\t"
			     "incq 16(%rdi)\n\t"
			     "xchg %rdi, %rsi\n\t"
			     "dec %edx\n\t"
			     "jnz 1b");

/* A page of data and one with code, in turns. */
static void data_and_code_in_turns(void)
{
	static const u8 returns_43[] = {0xb8, 43, 0, 0, 0, 0xc3};
	u64 *data = (u64 *)(code + 0x800), *plain = fourth + 0x100;

	paging_map(va, (u64)fourth, P | W);
	paging_map(va + PAGE, (u64)code, P | W);
	memcpy(code + 0x600, returns_43, sizeof(returns_43));
	for (u64 i = 0; i < 10; i++) {
		memset(data, 0, 24);
		memset(plain, 0, 24);
		CHECK_EQ(((u64(*)(void))(u64)(code + 0x600))(), 43);
		three_stores_in_turns(va + 0x800, va + PAGE + 0x800, 6);
		CHECK(plain[0] == 2 && plain[1] == 6 + 4 + 2 && plain[2] == 3);
		CHECK(data[0] == 1 && data[1] == 5 + 3 + 1 && data[2] == 3);
	}
}

/* Data beside code, written over and over, while the code runs in between. */
static void data_beside_code(void)
{
	static const u8 returns_42[] = {0xb8, 42, 0, 0, 0, 0xc3};
	u64 *data = (u64 *)(code + 0x800);

	memcpy(code + 0x600, returns_42, sizeof(returns_42));
	data[1] = data[2] = 0;
	for (u64 i = 0; i < 30; i++) {
		fourth[2] = 7;
		CHECK_EQ(three_stores((u64)fourth, i, 1), 7); /* a page of no code, in between */
		CHECK_EQ(fourth[2], 8);
		CHECK_EQ(three_stores((u64)data, i, 3), i);
		CHECK_EQ(((u64(*)(void))(u64)(code + 0x600))(), 42);
		CHECK_EQ(data[0], i);
		CHECK_EQ(data[1], 3 * (i + 1));
	}
	CHECK_EQ(data[2], 30);
}

/* ---- a handler changes what the interrupted code had in use */

static u32 handled;
static u64 handler_maps, handler_flags;

static bool remap_both(struct trap_frame *f)
{
	u64 cr2 = read_cr2();

	if ((cr2 & ~(PAGE - 1)) != other_va)
		return false;
	handled++;
	paging_map(other_va, (u64)third, P | W);
	paging_map(va, handler_maps, handler_flags);
	return true;
}

BLOCK(fault_between, "mov (%rdi), %rax\n\t"
		     "mov %rax, 16(%rdi)\n\t"
		     "addq $1, 8(%rsi)\n\t" /* faults at first */
		     "add 8(%rdi), %rax\n\t" ENDS("mov %rax, 24(%rdi)") "mov %rax, 16(%rsi)");

static void handler_remaps(void)
{
	fill(frame, 80);
	fill(frame2, 90);
	memset(third, 0, 64);
	handled = 0;
	handler_maps = (u64)frame2;
	handler_flags = P | W;
	paging_map(va, (u64)frame, P | W);
	paging_map(other_va, 0, 0);
	trap_set_handler(PF, remap_both);
	CHECK_EQ(fault_between(va, other_va, 0), N(1) + 80 + 91);
	trap_set_handler(PF, NULL);
	CHECK_EQ(handled, 1);
	CHECK_EQ(third[1], 1);
	CHECK_EQ(third[2], N(1) + 80 + 91);
	CHECK_EQ(frame[2], 80);
	CHECK_EQ(frame[3], N(3) + 83);
	CHECK_EQ(frame2[2], N(2) + 92);
	CHECK_EQ(frame2[3], N(1) + 80 + 91);
}

static void handler_protects(void)
{
	fill(frame, 80);
	memset(third, 0, 64);
	handler_maps = (u64)frame;
	handler_flags = P;
	paging_map(va, (u64)frame, P | W);
	paging_map(other_va, 0, 0);
	trap_clear();
	trap_set_handler(PF, remap_both);
	fault_between(va, other_va, 0);
	trap_set_handler(PF, NULL);
	TRIED(PF, PFE_P | PFE_W);
	CHECK_EQ(trap.cr2, va + 24);
	CHECK_EQ(third[1], 1);
	CHECK_EQ(third[2], 0);
	CHECK_EQ(frame[3], N(3) + 83);
}

static bool remap_and_divide_again(struct trap_frame *f)
{
	handled++;
	f->rsi = 1;
	paging_map(va, handler_maps, handler_flags);
	return true;
}

static void handler_of_another_fault(void)
{
	fill(frame, 80);
	fill(frame2, 90);
	handled = 0;
	handler_maps = (u64)frame2;
	handler_flags = P | W;
	paging_map(va, (u64)frame, P | W);
	trap_set_handler(DE, remap_and_divide_again);
	read_divide_write(va, 0, 0);
	trap_set_handler(DE, NULL);
	CHECK_EQ(handled, 1);
	CHECK_EQ(frame[1], N(1) + 81);
	CHECK_EQ(frame2[1], 80);
	CHECK_EQ(frame2[2], N(2) + 93);
}

/* ---- interrupts in the middle of it all */

#define TIMER 0x51

static bool tick(struct trap_frame *f)
{
	u32 n = ++irq_count[TIMER];

	if (n % 3 == 0)
		invlpg((void *)va);
	if (n % 5 == 0) { /* elsewhere, the same content */
		u64 *from = n % 2 ? frame : frame2, *to = n % 2 ? frame2 : frame;
		u64 *pte = paging_entry(paging_root(), va, 1);

		if ((*pte & ADDR_MASK) == (u64)from) {
			memcpy(to, from, PAGE);
			paging_map(va, (u64)to, P | W);
		}
	}
	apic_write(APIC_EOI, 0);
	apic_write(APIC_TMICT, 2000 + (n * 7919) % 30000);
	return true;
}

BLOCK(busy, "push %rbx\n\tpush %rbp\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n\t"
	    "mov %rsp, %rbp\n\t"
	    "sub $32, %rsp\n\t"
	    "mov (%rdi), %rbx\n\t"
	    "inc %rbx\n\t"
	    "mov %rbx, (%rdi)\n\t"
	    "mov %rbx, 8(%rsp)\n\t"
	    "add %rbx, 8(%rdi)\n\t"
	    "push %rbx\n\tpush %rsi\n\tpush 8(%rdi)\n\tpop %r12\n\tpop %r13\n\tpop %r14\n\t"
	    "mov %r12, 16(%rdi)\n\t"
	    "add %r13, 24(%rdi)\n\t"
	    "mov 8(%rsp), %r15\n\t"
	    "sub %r14, %r15\n\t"
	    "or %r15, 32(%rdi)\n\t"
	    "mov %rbp, %rsp\n\t"
	    "mov %rbx, %rax\n\t"
	    "pop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbp\n\tpop %rbx");

static void interrupted(void)
{
	volatile u64 *data = (u64 *)va;
	u64 start = rdtsc(), n = 0;

	memset(frame, 0, PAGE);
	paging_map(va, (u64)frame, P | W);
	irq_count[TIMER] = 0;
	trap_set_handler(TIMER, tick);
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, TIMER);
	apic_write(APIC_TMICT, 5000);
	sti();
	while (irq_count[TIMER] <= 10 || ((irq_count[TIMER] < 200 || n < 3000) && rdtsc() - start < 4000000000ul)) {
		n++;
		CHECK_EQ(busy(va, 3, 0), n);
	}
	cli();
	apic_write(APIC_LVTT, TIMER | 1 << 16);
	apic_write(APIC_TMICT, 0);
	CHECK_EQ(data[0], n);
	CHECK_EQ(data[1], n * (n + 1) / 2);
	CHECK_EQ(data[2], n * (n + 1) / 2);
	CHECK_EQ(data[3], 3 * n);
	CHECK_EQ(data[4], 0);
	wait_until(&irq_count[TIMER], ~0u, 100000); /* what is still on its way */
}

/* ---- string instructions in between */

BLOCK(string_between, "mov (%rdx), %rax\n\t"
		      "mov %rax, 64(%rdx)\n\t"
		      "mov $24, %ecx\n\t"
		      "cld\n\t"
		      "rep movsb\n\t" /* over 8(%rdx) ... 32(%rdx) */
		      "add 8(%rdx), %rax\n\t"
		      "add %rax, 16(%rdx)\n\t"
		      "mov -8(%rdi), %r8\n\t"
		      "mov $2, %ecx\n\t"
		      "rep stosq\n\t"
		      "mov %r8, -16(%rdi)\n\t"
		      "mov 32(%rdx), %rax\n\t"
		      "mov %rax, 72(%rdx)");

static void string_in_the_same_page(void)
{
	static const u64 source[3] = {5, 600, 70000};

	fill(frame, 0);
	paging_map(va, (u64)frame, P | W);
	CHECK_EQ(string_between(va + 8, (u64)source, va), 70000);
	CHECK_EQ(frame[8], 0);
	CHECK_EQ(frame[1], 5);
	CHECK_EQ(frame[2], 605);
	CHECK_EQ(frame[3], 70000);
	CHECK_EQ(frame[4], 70000);
	CHECK_EQ(frame[5], 5);
	CHECK_EQ(frame[6], N(6) + 6);
	CHECK_EQ(frame[9], 70000);
}

/* The string runs into a fault whose handler moves the structure away. */
static void string_faults(void)
{
	static const u64 source[3] = {5, 600, 70000};

	fill(frame, 0);
	fill(frame2, 100);
	memset(third, 0, 64);
	handled = 0;
	handler_maps = (u64)frame2;
	handler_flags = P | W;
	paging_map(va, (u64)frame, P | W);
	paging_map(other_va - PAGE, (u64)code, P | W);
	paging_map(other_va, 0, 0);
	trap_set_handler(PF, remap_both);
	CHECK_EQ(string_between(other_va - 8, (u64)source, va), N(4) + 104);
	trap_set_handler(PF, NULL);
	CHECK_EQ(handled, 1);
	CHECK_EQ(*(u64 *)(code + PAGE - 8), 5);
	CHECK_EQ(third[0], 600);
	CHECK_EQ(third[1], 70000);
	CHECK_EQ(third[2], 70000);
	CHECK_EQ(third[3], N(1) + 101);
	CHECK_EQ(frame[8], 0);
	CHECK_EQ(frame[2], N(2) + 2);
	CHECK_EQ(frame2[2], N(2) + 102 + N(1) + 101);
	CHECK_EQ(frame2[8], 108);
	CHECK_EQ(frame2[9], N(4) + 104);
}

BLOCK(string_moves_base, "mov (%rdi), %rax\n\t"
			 "mov %rax, 16(%rdi)\n\t"
			 "mov %rsi, %rcx\n\t"
			 "rep stosb\n\t" /* rdi is in the next page now */
			 "mov 8(%rdi), %rax\n\t"
			 "mov %rax, 16(%rdi)");

static void string_into_another_page(void)
{
	fill(frame, 0);
	fill(frame2, 50);
	paging_map(va, (u64)frame, P | W);
	paging_map(va + PAGE, (u64)frame2, P | W);
	CHECK_EQ(string_moves_base(va + 64, PAGE, 0), N(1) + 50 + 9);
	CHECK_EQ(frame[7], N(7) + 7);
	CHECK_EQ(frame[10], 0x0808080808080808); /* the low byte of what was read at first */
	CHECK_EQ(frame2[7], 0x0808080808080808);
	CHECK_EQ(frame2[10], N(1) + 50 + 9);
}

/* Strings that only read move their registers too. The last access would lie in the page, but for that. */
BLOCK(scan_moves_base, "movzbl (%rdi), %ecx\n\t"
		       "scasq\n\t"
		       "mov 0x38(%rdi), %rax");
BLOCK(compare_moves_bases, "movzbl (%rdi), %ecx\n\t"
			   "movzbl (%rsi), %ecx\n\t"
			   "cmpsq\n\t"
			   "mov 0x38(%rdi), %rax\n\t"
			   "add 0x38(%rsi), %rax");
BLOCK(output_moves_base, "movzbl (%rsi), %ecx\n\t"
			 "outsl\n\t" /* to the port of diagnostic codes */
			 "mov 0x38(%rsi), %rax");

static void strings_that_read(void)
{
	const u64 at = va + PAGE - 0x41;

	memset(frame, 0, PAGE);
	memset(frame2, 0, PAGE);
	paging_map(va, (u64)frame, P | W);
	paging_map(va + PAGE, (u64)frame2, P | W);
	((u32 *)frame2)[0] = 0x123456;
	CHECK_EQ(scan_moves_base(at, 0, 0), 0x12345600);
	CHECK_EQ(compare_moves_bases(at, at, 0), 0x2468ac00);
	CHECK_EQ(output_moves_base(0, at, 0x80), 0x12345600ul << 32);
}

void guest_main(void)
{
	prepare();
	second_root = paging_clone();
	((u64 *)second_root)[va >> 39 & 511] = 0;
	apic_enable();
	LOOP(remapped_by_invlpg);
	LOOP(remapped_by_cr3);
	LOOP(rights_by_cr0);
	LOOP(next_instruction_changed);
	LOOP(data_beside_code);
	LOOP(data_and_code_in_turns);
	LOOP(handler_remaps);
	LOOP(handler_protects);
	LOOP(handler_of_another_fault);
	LOOP(string_in_the_same_page);
	LOOP(string_faults);
	LOOP(string_into_another_page);
	LOOP(strings_that_read);
	if (cpuid_bit(7, 0, 1, 20)) {
		write_cr4(read_cr4() | CR4_SMAP);
		LOOP(rights_by_smap);
		write_cr4(read_cr4() & ~CR4_SMAP);
	}
	loop_check("interrupted", interrupted, 10);
}
