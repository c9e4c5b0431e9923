/* SPDX-License-Identifier: Apache-2.0 */
/* Accessed and dirty bits, rights, faults, devices. */
#include "shared_lookups.h"

#define LAPIC 0xfee00000ul

extern const u8 trap_entries[];
static volatile u64 out[8];

/* ---- accessed and dirty bits, and rights: a read never does what a write would */

BLOCK(read_maybe_write, "mov (%rdi), %rax\n\t"
			"add 16(%rdi), %rax\n\t"
			"test %esi, %esi\n\t"
			"jz 9f\n\t" ENDS("mov %rax, 8(%rdi)") "mov %rdx, 24(%rdi)");

static void dirty_only_when_written(void)
{
	fill(frame, 5);
	paging_map(va, (u64)frame, P | W);
	CHECK_EQ(read_maybe_write(va, 0, 1), frame[0] + frame[2]);
	CHECK_EQ(bits(va), A);
	CHECK_EQ(frame[1], N(1) + 6);
	CHECK_EQ(read_maybe_write(va, 1, 77), frame[0] + frame[2]);
	CHECK_EQ(bits(va), A | D);
	CHECK_EQ(frame[1], frame[0] + frame[2]);
	CHECK_EQ(frame[3], 77);
}

static void read_only_page_read(void)
{
	fill(frame, 6);
	paging_map(va, (u64)frame, P);
	trap_clear();
	CHECK_EQ(read_maybe_write(va, 0, 1), frame[0] + frame[2]);
	TRIED(NO_TRAP, 0);
	CHECK_EQ(bits(va), A);
	read_maybe_write(va, 1, 1);
	TRIED(PF, PFE_P | PFE_W);
	CHECK_EQ(trap.cr2, va + 8);
	CHECK_EQ(trap.frame.rax, frame[0] + frame[2]);
	CHECK_EQ(bits(va), A);
	CHECK_EQ(frame[1], N(1) + 7);
	CHECK_EQ(frame[3], N(3) + 9);
}

/* The write is sure to come, but for a fault in between. */
static void fault_before_the_write(void)
{
	fill(frame, 1);
	paging_map(va, (u64)frame, P | W);
	trap_clear();
	read_divide_write(va, 0, 0);
	TRIED(DE, 0);
	CHECK_EQ(trap.frame.rcx, N(0) + 1);
	CHECK_EQ(bits(va), A);
	CHECK_EQ(frame[1], N(1) + 2);
	trap_clear();
	read_divide_write(va, 1, 0);
	TRIED(NO_TRAP, 0);
	CHECK_EQ(bits(va), A | D);
	CHECK_EQ(frame[1], N(0) + 1);
	CHECK_EQ(frame[2], N(2) + 4);
	fill(frame, 1);
	paging_map(va, (u64)frame, P);
	read_divide_write(va, 0, 0);
	TRIED(DE, 0);
	read_divide_write(va, 1, 0);
	TRIED(PF, PFE_P | PFE_W);
	CHECK_EQ(trap.cr2, va + 8);
	CHECK_EQ(frame[1], N(1) + 2);
}

BLOCK(pop_maybe_push, "mov %rsp, %r8\n\t"
		      "mov %rdi, %rsp\n\t"
		      "pop %rax\n\t"
		      "pop %rcx\n\t"
		      "add 8(%rsp), %rax\n\t"
		      "test %esi, %esi\n\t"
		      "jz 9f\n\t" ENDS("push %rdx") "push %rcx\n"
						    "9:\tmov %r8, %rsp");

/* The page fault's own frame cannot go to that stack. */
static void fault_stack(u32 ist)
{
	idt_set(PF, trap_entries + 16 * PF, 0x8e, ist);
}

static void stack_page_only_read(void)
{
	fill(frame, 9);
	paging_map(va, (u64)frame, P | W);
	CHECK_EQ(pop_maybe_push(va + 64, 0, 0), frame[8] + frame[11]);
	CHECK_EQ(bits(va), A);
	CHECK_EQ(pop_maybe_push(va + 64, 1, 1234), N(3) + 17 + 20);
	CHECK_EQ(bits(va), A | D);
	CHECK_EQ(frame[9], 1234);
	CHECK_EQ(frame[8], N(1) + 18);
}

static void stack_page_read_only(void)
{
	fill(frame, 9);
	fault_stack(1);
	paging_map(va, (u64)frame, P);
	trap_clear();
	CHECK_EQ(pop_maybe_push(va + 64, 0, 0), frame[8] + frame[11]);
	TRIED(NO_TRAP, 0);
	CHECK_EQ(pop_maybe_push(va + 64, 1, 1234), frame[8] + frame[11]);
	TRIED(PF, PFE_P | PFE_W);
	CHECK_EQ(trap.cr2, va + 72);
	CHECK_EQ(trap.frame.rsp, va + 80);
	CHECK_EQ(trap.frame.rcx, frame[9]);
	CHECK_EQ(bits(va), A);
	fault_stack(0);
}

BLOCK_IN(".utext", user_read_maybe_write,
	 "mov (%rdi), %rax\n\t"
	 "mov 8(%rdi), %ecx\n\t"
	 "test %ecx, %ecx\n\t"
	 "jz 1f\n\t" ENDS("mov %rax, 16(%rdi)") "incq 24(%rdi)\n"
						"1:");

static void in_ring_3(void)
{
	u64 (*fn)(u64) = (u64(*)(u64))(u64)user_read_maybe_write;

	fill(frame, 0);
	frame[1] = 0;
	paging_map(va, (u64)frame, P | W | U);
	CHECK_EQ(user_call(fn, va), frame[0]);
	CHECK_EQ(trap.vector, NO_TRAP);
	CHECK_EQ(bits(va), A);
	frame[1] = 1;
	CHECK_EQ(user_call(fn, va), frame[0]);
	CHECK_EQ(bits(va), A | D);
	CHECK_EQ(frame[2], frame[0]);
	CHECK_EQ(frame[3], N(3) + 4);
	paging_map(va, (u64)frame, P | U);
	user_call(fn, va);
	TRIED(PF, PFE_P | PFE_W | PFE_U);
	CHECK_EQ(trap.cr2, va + 16);
	paging_map(va, (u64)frame, P | W);
	user_call(fn, va);
	TRIED(PF, PFE_P | PFE_U);
	CHECK_EQ(trap.cr2, va);
}

/* ---- faults in the middle: what came before is done, what comes behind is not */

BLOCK(two_structures, "mov (%rdi), %rax\n\t"
		      "mov %rax, (%rsi)\n\t"
		      "addq $1, 8(%rsi)\n\t"
		      "xor %ecx, %ecx\n\t"
		      "stc\n\t" ENDS("adc %rdx, 24(%rdi)") "mov %rdx, 16(%rsi)\n\t"
							   "mov %rdx, 32(%rdi)");

static void write_protected(void)
{
	fill(frame, 2);
	memset(third, 0, 64);
	paging_map(va, (u64)frame, P | (loop_count & 1 ? W : 0));
	paging_map(other_va, (u64)third, P | W);
	trap_clear();
	two_structures(va, other_va + 8, 5);
	CHECK_EQ(third[1], frame[0]);
	CHECK_EQ(third[2], 1);
	if (loop_count & 1) {
		TRIED(NO_TRAP, 0);
		CHECK_EQ(frame[3], N(3) + 5 + 6);
		CHECK_EQ(frame[4], 5);
		CHECK_EQ(third[3], 5);
		return;
	}
	TRIED(PF, PFE_P | PFE_W);
	CHECK_EQ(trap.cr2, va + 24);
	CHECK_EQ(trap.frame.rcx, 0);
	CHECK_EQ(trap.frame.rflags & 0x45, 0x45); /* CF of STC, ZF and PF of XOR */
	CHECK_EQ(frame[3], N(3) + 5);
	CHECK_EQ(third[3], 0);
}

/* The structure lies across two pages; the second is away, read-only, or elsewhere in memory. */
static void across_two_pages(void)
{
	u64 at = va + PAGE - 16;

	fill(frame, 3);
	fill(frame2, 4);
	memset(third, 0, 64);
	paging_map(other_va, (u64)third, P | W);
	paging_map(va, (u64)frame, P | W);
	paging_map(va + PAGE, 0, 0);
	trap_clear();
	two_structures(at, other_va, 5);
	TRIED(PF, on_qemu_tcg() ? 0 : PFE_W); /* QEMU reads first */
	CHECK_EQ(trap.cr2, va + PAGE + 8);
	CHECK_EQ(third[0], frame[510]);
	CHECK_EQ(third[2], 0);
	paging_map(va + PAGE, (u64)frame2, P);
	two_structures(at, other_va, 5);
	TRIED(PF, PFE_P | PFE_W);
	CHECK_EQ(trap.cr2, va + PAGE + 8);
	paging_map(va + PAGE, (u64)frame2, P | W);
	trap_clear();
	two_structures(at, other_va, 5);
	TRIED(NO_TRAP, 0);
	CHECK_EQ(frame2[1], N(1) + 5 + 6);
	CHECK_EQ(frame2[2], 5);
	CHECK_EQ(third[1], 3);
}

/* Into one field across the edge, its neighbours on both sides. */
BLOCK(field_across, "mov -8(%rdi), %rax\n\t"
		    "mov %rsi, -4(%rdi)\n\t"
		    "mov 4(%rdi), %ecx\n\t"
		    "add %rcx, %rax\n\t"
		    "mov %edx, 4(%rdi)\n\t"
		    "push -4(%rdi)\n\t"
		    "pop -12(%rdi)");

static void field_across_the_edge(void)
{
	u64 value = 0xaabbccdd11223344ul + loop_count;

	fill(frame, 0);
	fill(frame2, 0);
	paging_map(va, (u64)frame, P | W);
	paging_map(va + PAGE, (u64)frame2, P | W);
	CHECK_EQ(field_across(va + PAGE, value, 99), N(7) + 511 + (N(0) >> 32));
	CHECK_EQ(*(u64 *)((u8 *)frame + PAGE - 12), value);
	CHECK_EQ(((u32 *)frame)[1023], (u32)value);
	CHECK_EQ(((u32 *)frame2)[0], value >> 32);
	CHECK_EQ(((u32 *)frame2)[1], 99);
}

BLOCK(push_from_memory, "mov %rsp, %r8\n\t"
			"mov %rsi, %rsp\n\t"
			"mov (%rdi), %rax\n\t"
			"push 8(%rdi)\n\t" /* nothing knows the stack's page yet */
			"push 16(%rdi)\n\t"
			"pop %rcx\n\t"
			"mov %rcx, 24(%rdi)\n\t"
			"add (%rsp), %rax\n\t"
			"mov %r8, %rsp");

static void memory_to_a_fresh_stack(void)
{
	fill(frame, 11);
	fill(frame2, 0);
	paging_map(va, (u64)frame, P | W);
	paging_map(other_va, (u64)frame2, P | W);
	CHECK_EQ(push_from_memory(va, other_va + 128, 0), 11 + N(1) + 12);
	CHECK_EQ(frame[3], N(2) + 13);
	CHECK_EQ(frame2[15], N(1) + 12);
	CHECK_EQ(frame2[14], N(2) + 13);
	CHECK_EQ(bits(other_va), A | D);
}

BLOCK(push_row, "mov %rsp, %r8\n\t"
		"mov %rdi, %rsp\n\t"
		".irp n, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12\n\t"
		"push $\\n\n\t"
		".endr\n\t"
		"mov %r8, %rsp");
BLOCK(pop_row, "mov %rsp, %r8\n\t"
	       "mov %rdi, %rsp\n\t"
	       "xor %eax, %eax\n\t"
	       ".rept 12\n\t"
	       "pop %rcx\n\t"
	       "lea (%rcx, %rax, 4), %rax\n\t"
	       ".endr\n\t"
	       "mov %r8, %rsp");

/* Up to the end of a page, over it, and from its first word on. */
static void stack_at_the_edge(void)
{
	u64 top = va + PAGE + 8 * (loop_count % 32) - 8 * 8, want = 0;

	fill(frame, 0);
	fill(frame2, 0);
	paging_map(va, (u64)frame2, P | W);
	paging_map(va + PAGE, (u64)frame, P | W);
	push_row(top, 0, 0);
	for (u64 n = 1; n <= 12; n++) {
		u64 at = top - 8 * n;

		CHECK_EQ((at < va + PAGE ? frame2 : frame)[at % PAGE / 8], n);
	}
	for (u64 n = 12; n; n--)
		want = 4 * want + n;
	CHECK_EQ(pop_row(top - 8 * 12, 0, 0), want);
}

/* ---- devices */

BLOCK(lapic_registers, "mov 0x20(%rdi), %eax\n\t"
		       "mov 0x30(%rdi), %ecx\n\t"
		       "movl $0x20, 0x80(%rdi)\n\t"
		       "mov 0x80(%rdi), %r8d\n\t"
		       "mov 0xf0(%rdi), %r9d\n\t"
		       "movl $0, 0x80(%rdi)\n\t"
		       "lea 0x80(%rdi), %r10\n\t"
		       "mov (%r10), %r10d\n\t"
		       "mov %rax, (%rsi)\n\t"
		       "mov %rcx, 8(%rsi)\n\t"
		       "mov %r8, 16(%rsi)\n\t"
		       "mov %r9, 24(%rsi)\n\t"
		       "mov %r10, 32(%rsi)");

/* The same code on a device and on RAM. */
static void device_and_ram(void)
{
	u32 *ram = (u32 *)frame;

	paging_map(va, LAPIC, P | W | PCD);
	lapic_registers(va, (u64)out, 0);
	CHECK_EQ(out[0], apic_read(APIC_ID));
	CHECK_EQ(out[1], apic_read(0x30));
	CHECK_EQ(out[2], 0x20);
	CHECK_EQ(out[3], apic_read(APIC_SPIV));
	CHECK_EQ(out[4], 0);
	fill(frame, 0);
	paging_map(va, (u64)frame, P | W);
	lapic_registers(va, (u64)out, 0);
	CHECK_EQ(out[0], ram[8]);
	CHECK_EQ(out[1], ram[12]);
	CHECK_EQ(out[2], 0x20);
	CHECK_EQ(out[3], ram[0x3c]);
	CHECK_EQ(out[4], 0);
	CHECK_EQ(ram[0x20], 0);
}

BLOCK(lapic_only_read, "mov 0x20(%rdi), %eax\n\t"
		       "mov 0x30(%rdi), %ecx\n\t"
		       "mov 0x80(%rdi), %r8d\n\t"
		       "shl $32, %rcx\n\t"
		       "or %rcx, %rax\n\t"
		       "add %r8, %rax");
BLOCK(lapic_write_first, "movl $0x50, 0x80(%rdi)\n\t"
			 "mov 0x80(%rdi), %eax\n\t"
			 "mov 0x30(%rdi), %ecx\n\t"
			 "movl $0, 0x80(%rdi)\n\t"
			 "shl $32, %rcx\n\t"
			 "or %rcx, %rax\n\t"
			 "add 0x80(%rdi), %eax");

/* RAM first, so that something is left from then. */
static void device_where_ram_was(void)
{
	u32 *ram = (u32 *)frame;

	fill(frame, 0);
	paging_map(va, (u64)frame, P | W);
	CHECK_EQ(lapic_only_read(va, 0, 0), ((u64)ram[12] << 32 | ram[8]) + ram[32]);
	CHECK_EQ(lapic_write_first(va, 0, 0), 0x50);
	CHECK_EQ(ram[32], 0);
	ram[32] = 0x1234;
	paging_map(va, LAPIC, P | W | PCD);
	CHECK_EQ(lapic_only_read(va, 0, 0), (u64)apic_read(0x30) << 32 | apic_read(APIC_ID));
	CHECK_EQ(lapic_write_first(va, 0, 0), 0x50);
	CHECK_EQ(ram[32], 0x1234);
}

/* Two structures in turns, by the same code without any other in between: what the one left must not serve the other. */
BLOCK(lapic_in_turns, "1:\tmov 0x20(%rdi), %eax\n\t"
		      "mov 0x30(%rdi), %ecx\n\t"
		      "mov 0x80(%rdi), %r8d\n\t"
		      "shl $32, %rcx\n\t"
		      "or %rcx, %rax\n\t"
		      "add %r8, %rax\n\t"
		      "xchg %rdi, %rsi\n\t"
		      "dec %edx\n\t"
		      "jnz 1b");
BLOCK(stores_in_turns, "1:\tmovl $0x50, 0x80(%rdi)\n\t"
		       "mov 0x80(%rdi), %eax\n\t"
		       "mov 0x30(%rdi), %ecx\n\t"
		       "shl $32, %rcx\n\t"
		       "movl $0, 0x80(%rdi)\n\t"
		       "or %rcx, %rax\n\t"
		       "xchg %rdi, %rsi\n\t"
		       "dec %edx\n\t"
		       "jnz 1b");

static void device_and_ram_in_turns(void)
{
	u32 *ram = (u32 *)frame;

	fill(frame, 0);
	paging_map(va, (u64)frame, P | W);
	paging_map(va + PAGE, LAPIC, P | W | PCD);
	for (u32 n = 1; n < 6; n++) {
		u64 version = n & 1 ? ram[12] : apic_read(0x30), low = n & 1 ? ram[8] : apic_read(APIC_ID), task = n & 1 ? ram[32] : 0;

		CHECK_EQ(lapic_in_turns(va, va + PAGE, n), (version << 32 | low) + task);
	}
	for (u32 n = 1; n < 6; n++) {
		u64 version = n & 1 ? ram[12] : apic_read(0x30);

		CHECK_EQ(stores_in_turns(va, va + PAGE, n), version << 32 | 0x50);
		CHECK_EQ(ram[32], 0);
		CHECK_EQ(apic_read(0x80), 0);
	}
}

/* The first access needs CL: whatever a translator keeps in registers from it is gone. */
BLOCK(shifts_in_turns, "mov $1, %ecx\n"
		       "1:\tshll %cl, 0x80(%rdi)\n\t"
		       "mov 0x30(%rdi), %eax\n\t"
		       "mov 0x80(%rdi), %r8d\n\t"
		       "shl $32, %r8\n\t"
		       "or %r8, %rax\n\t"
		       "xchg %rdi, %rsi\n\t"
		       "dec %edx\n\t"
		       "jnz 1b");

static void shifts_of_device_and_ram_in_turns(void)
{
	u32 *ram = (u32 *)frame;

	fill(frame, 0);
	paging_map(va, (u64)frame, P | W);
	paging_map(va + PAGE, LAPIC, P | W | PCD);
	for (u32 n = 1; n < 6; n++) {
		u64 version = n & 1 ? ram[12] : apic_read(0x30),
		    shifted = n & 1 ? 3u << (n + 1) / 2 : 16u << n / 2; /* not below: AMD's virtual TPR has its upper half only */

		ram[32] = 3;
		apic_write(0x80, 16);
		CHECK_EQ(shifts_in_turns(va, va + PAGE, n), shifted << 32 | version);
		CHECK_EQ(ram[32], 3u << (n + 1) / 2);
		CHECK_EQ(apic_read(0x80), 16u << n / 2);
	}
	apic_write(0x80, 0);
}

/* The first access goes to RAM, the others by the same register into the device behind it. */
BLOCK(ram_then_device, "mov -8(%rdi), %rax\n\t"
		       "mov 0x30(%rdi), %ecx\n\t"
		       "mov %rcx, -8(%rdi)\n\t"
		       "movl $0x40, 0x80(%rdi)\n\t"
		       "mov 0x80(%rdi), %edx\n\t"
		       "mov %rdx, -16(%rdi)\n\t"
		       "movl $0, 0x80(%rdi)");

static void device_behind_ram(void)
{
	fill(frame, 8);
	paging_map(va, (u64)frame, P | W);
	paging_map(va + PAGE, LAPIC, P | W | PCD);
	CHECK_EQ(ram_then_device(va + PAGE, 0, 0), N(7) + 8 + 511);
	CHECK_EQ(frame[511], apic_read(0x30));
	CHECK_EQ(frame[510], 0x40);
	CHECK_EQ(apic_read(0x80), 0);
}

void guest_main(void)
{
	prepare();
	apic_enable();
	LOOP(dirty_only_when_written);
	LOOP(read_only_page_read);
	LOOP(fault_before_the_write);
	LOOP(stack_page_only_read);
	LOOP(stack_page_read_only);
	LOOP(in_ring_3);
	LOOP(write_protected);
	LOOP(across_two_pages);
	LOOP(field_across_the_edge);
	LOOP(memory_to_a_fresh_stack);
	LOOP(stack_at_the_edge);
	LOOP(device_and_ram);
	LOOP(device_where_ram_was);
	LOOP(device_and_ram_in_turns);
	LOOP(shifts_of_device_and_ram_in_turns);
	LOOP(device_behind_ram);
}
