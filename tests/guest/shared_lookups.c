/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Straight code that accesses memory around one value several times, as a structure or a stack frame is accessed. A translator may look the page
 * up once for all of them; nothing of that may show: not in accessed and dirty bits, not where a fault comes, not when the page is remapped, a
 * device, code, or taken away between two accesses.
 */
#include "lib.h"

/* A function of its own that is one straight run of code. Arguments in rdi, rsi, rdx; results in rax and through memory. */
#define BLOCK_IN(section, name, body)                                                                                                      \
	__asm__(".pushsection " section ", \"ax\"\n\t.balign 256\n" #name ":\n\t" body "\n9:\tret\n\t.popsection\n");                      \
	u64 name(u64, u64, u64)
#define BLOCK(name, body) BLOCK_IN(".text", name, body)
/* A fault of this instruction ends the block. */
#define ENDS(insn) "77: " insn "\n\t.pushsection .extable, \"a\"\n\t.quad 77b, 9f\n\t.popsection\n\t"

#define N(i) (0x1111111111111111ul * (i))
#define LAPIC 0xfee00000ul

extern const u8 trap_entries[];
static const u64 va = TEST_VA + 0x500000, other_va = TEST_VA + 0x700000;
static u64 *frame, *frame2, *third, *fourth;
static volatile u64 out[8];

static void fill(u64 *page, u64 salt)
{
	for (u32 i = 0; i < PAGE / 8; i++)
		page[i] = N(i & 7) + salt + i;
}

static u64 bits(u64 at)
{
	return *(volatile u64 *)paging_entry(paging_root(), at, 1) & (A | D);
}

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

BLOCK(read_divide_write, "mov (%rdi), %rcx\n\t"
			 "xor %edx, %edx\n\t"
			 "mov $1, %eax\n\t" ENDS("div %esi") ENDS("mov %rcx, 8(%rdi)") "addq $1, 16(%rdi)");

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
		u64 version = n & 1 ? ram[12] : apic_read(0x30), shifted = n & 1 ? 3u << (n + 1) / 2 : 8u << n / 2;

		ram[32] = 3;
		apic_write(0x80, 8);
		CHECK_EQ(shifts_in_turns(va, va + PAGE, n), shifted << 32 | version);
		CHECK_EQ(ram[32], 3u << (n + 1) / 2);
		CHECK_EQ(apic_read(0x80), 8u << n / 2);
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
static u8 *code;

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
	while ((irq_count[TIMER] < 200 || n < 3000) && rdtsc() - start < 4000000000ul) {
		n++;
		CHECK_EQ(busy(va, 3, 0), n);
	}
	cli();
	apic_write(APIC_LVTT, TIMER | 1 << 16);
	apic_write(APIC_TMICT, 0);
	CHECK(irq_count[TIMER] > 10);
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

static void prepare(void)
{
	frame2 = page_alloc(); /* not side by side in the order in which they are mapped: a wrong frame is to show */
	third = page_alloc();
	fourth = page_alloc();
	frame = page_alloc();
	code = page_alloc();
	second_root = paging_clone();
	((u64 *)second_root)[va >> 39 & 511] = 0;
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
	LOOP(device_and_ram);
	LOOP(device_where_ram_was);
	LOOP(device_and_ram_in_turns);
	LOOP(shifts_of_device_and_ram_in_turns);
	LOOP(device_behind_ram);
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
