/* SPDX-License-Identifier: Apache-2.0 */
/* Segments where 64-bit mode still has them, and where compatibility mode has all of them: limits, expand-down, call gates, LDT, LAR, LSL,
 * VERR, VERW. */
#include "lib.h"

static u64 ldt[4] __attribute__((aligned(16)));

/* A descriptor. attr: access byte and the G, D, L, AVL nibble as in bytes 5 and 6. */
static u64 descriptor(u64 base, u64 limit, u64 attr)
{
	return (limit & 0xffff) | (base & 0xffffff) << 16 | (attr & 0xf0ff) << 40 | (limit >> 16 & 15) << 48 | (base >> 24 & 0xff) << 56;
}

#define DATA_RW 0x93
#define DATA_RO 0x91
#define DATA_DOWN 0x97
#define CODE_X 0x99
#define CODE_XR 0x9b
#define G_BIT 0x8000
#define D_BIT 0x4000

static bool query(const char which, u32 sel, u64 *out)
{
	u8 zf;
	u64 v = 0x5555;

	switch (which) {
	case 'a':
		__asm__ volatile("lar %2, %0; setz %1" : "+r"(v), "=q"(zf) : "r"((u64)sel) : "cc", "memory");
		break;
	case 'l':
		__asm__ volatile("lsl %2, %0; setz %1" : "+r"(v), "=q"(zf) : "r"((u64)sel) : "cc", "memory");
		break;
	case 'r':
		__asm__ volatile("verr %w1; setz %0" : "=q"(zf) : "r"(sel) : "cc", "memory");
		break;
	default:
		__asm__ volatile("verw %w1; setz %0" : "=q"(zf) : "r"(sel) : "cc", "memory");
	}
	*out = v;
	return zf;
}

static void lar_lsl_verify(void)
{
	u64 v;

	gdt[SEL_SPARE / 8] = descriptor(0, 0x12345, DATA_RO);
	gdt[SEL_SPARE / 8 + 1] = descriptor(0, 0x12345, DATA_RW | G_BIT);
	gdt[SEL_SPARE / 8 + 2] = descriptor(0, 0, CODE_X);
	CHECK(query('a', SEL_SPARE, &v));
	CHECK_EQ(v & 0xff00, DATA_RO << 8);
	CHECK(query('l', SEL_SPARE, &v));
	CHECK_EQ(v, 0x12345);
	CHECK(query('l', SEL_SPARE + 8, &v));
	CHECK_EQ(v, 0x12345fff);
	CHECK(query('r', SEL_SPARE, &v));
	CHECK(!query('w', SEL_SPARE, &v));
	CHECK(query('w', SEL_SPARE + 8, &v));
	CHECK(!query('r', SEL_SPARE + 16, &v)); /* execute-only */
	CHECK(!query('a', 0, &v));
	CHECK_EQ(v, 0x5555);
	CHECK(!query('l', 0xfff8, &v));
	CHECK(query('a', SEL_TSS, &v));
	CHECK_EQ(v >> 8 & 0xff, 0x8b);
	CHECK(!query('a', SEL_SPARE + 3, &v)); /* RPL 3 > DPL 0 */
	CHECK(!query('r', SEL_SPARE + 3, &v));
	gdt[SEL_SPARE / 8] = descriptor(0, 0, 0x8e); /* an interrupt gate's type: LAR and LSL refuse it */
	CHECK(!query('a', SEL_SPARE, &v));
	CHECK(!query('l', SEL_SPARE, &v));
}

static void local_table(void)
{
	u64 v = 0;

	gdt[SEL_SPARE / 8] = descriptor((u64)ldt, sizeof(ldt) - 1, 0x82);
	gdt[SEL_SPARE / 8 + 1] = (u64)ldt >> 32;
	ldt[1] = descriptor(0x11223344, 0xfffff, DATA_RW | G_BIT);
	__asm__ volatile("lldt %w0" ::"r"(SEL_SPARE) : "memory");
	__asm__ volatile("sldt %k0" : "=r"(v));
	CHECK_EQ(v, SEL_SPARE);
	__asm__ volatile("mov %0, %%fs" ::"r"(8 | 4) : "memory");
	CHECK_EQ(rdmsr(0xc0000100), 0x11223344);
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%fs")::"r"(32 | 4) : "memory"); /* beyond its limit */
	TRIED(GP, 32 | 4);
	__asm__ volatile("lldt %w0" ::"r"(0));
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%fs")::"r"(8 | 4) : "memory");
	TRIED(GP, 8 | 4);
	trap_clear();
	__asm__ volatile(TRY("lldt %w0")::"r"(SEL_DATA));
	TRIED(GP, SEL_DATA);
	__asm__ volatile("mov %0, %%fs" ::"r"(0) : "memory");
}

static void accessed_bit(void)
{
	gdt[SEL_SPARE / 8] = descriptor(0, 0xfffff, 0x92 | G_BIT | D_BIT);
	__asm__ volatile("mov %0, %%fs" ::"r"(SEL_SPARE) : "memory");
	CHECK_EQ(gdt[SEL_SPARE / 8] >> 40 & 0xff, 0x93);
	__asm__ volatile("mov %0, %%fs" ::"r"(0) : "memory");
}

/* 32-bit ring 0 code that does one access through DS and comes back: u64 compat_access(u32 offset, u32 selector). -1 when it faulted. */
__asm__(".text\n"
	".globl compat_access\n"
	"compat_access:\n"
	"	push %rbx\n"
	"	mov %edi, %ebx\n"
	"	mov %esi, %ecx\n"
	"	ljmp *compat_access_target(%rip)\n"
	"	.code32\n"
	"compat_access_32:\n"
	"	mov %ecx, %ds\n"
	"	mov $-1, %eax\n"
	"	.globl compat_access_insn\n"
	"compat_access_insn:\n"
	"	mov (%ebx), %eax\n"
	"compat_access_next:\n"
	"	mov $0x10, %ecx\n"
	"	mov %ecx, %ds\n"
	"	ljmp $8, $compat_access_back\n"
	"	.code64\n"
	"compat_access_back:\n"
	"	mov %eax, %eax\n"
	"	pop %rbx\n"
	"	ret\n"
	"	.pushsection .extable, \"a\"\n"
	"	.quad compat_access_insn, compat_access_next\n"
	"	.popsection\n"
	"	.data\n"
	"compat_access_target:\n"
	"	.long compat_access_32\n"
	"	.word 0x18\n"
	"	.text\n");
u64 compat_access(u64 offset, u64 selector);
static u32 words[8] = {0x100, 0x101, 0x102, 0x103, 0x104};

static void compat_limits(void)
{
	u64 base = (u64)words;

	gdt[SEL_SPARE / 8] = descriptor(base, 11, DATA_RW | D_BIT); /* three words */
	trap_clear();
	CHECK_EQ(compat_access(8, SEL_SPARE), 0x102);
	TRIED(NO_TRAP, 0);
	compat_access(9, SEL_SPARE);
	TRIED(GP, 0);
	CHECK_EQ(trap.frame.cs, SEL_CODE32);
	trap_clear();
	compat_access(0xfffffffe, SEL_SPARE); /* wraps */
	TRIED(GP, 0);
	/* expand-down: valid above the limit */
	gdt[SEL_SPARE / 8] = descriptor(base - 0x1000, 0xfff, DATA_DOWN | D_BIT);
	trap_clear();
	CHECK_EQ(compat_access(0x1004, SEL_SPARE), 0x101);
	TRIED(NO_TRAP, 0);
	compat_access(0xffe, SEL_SPARE);
	TRIED(GP, 0);
	/* a null selector */
	trap_clear();
	compat_access(0, 0);
	TRIED(GP, 0);
	/* execute-only code cannot be loaded into DS at all; readable code can */
	gdt[SEL_SPARE / 8] = descriptor(base, 0xfffff, CODE_XR | D_BIT | G_BIT);
	trap_clear();
	CHECK_EQ(compat_access(4, SEL_SPARE), 0x101);
	TRIED(NO_TRAP, 0);
}

/* A call gate from ring 3 to ring 0 switches to RSP0 and pushes ss, rsp, cs, rip. */
extern const u8 gate_entry[];
u64 gate_rsp, gate_frame[4];
__asm__(".text\n"
	"gate_entry:\n"
	"	mov %rsp, gate_rsp(%rip)\n"
	"	mov (%rsp), %rax\n"
	"	mov %rax, gate_frame(%rip)\n"
	"	mov 8(%rsp), %rax\n"
	"	mov %rax, gate_frame+8(%rip)\n"
	"	mov 16(%rsp), %rax\n"
	"	mov %rax, gate_frame+16(%rip)\n"
	"	mov 24(%rsp), %rax\n"
	"	mov %rax, gate_frame+24(%rip)\n"
	"	mov $0x4711, %eax\n"
	"	lretq\n");
extern u8 trap_stack_top[];

static struct __attribute__((packed)) {
	u32 offset;
	u16 sel;
} gate_pointer UDATA;

UTEXT static u64 user_far_call(u64 arg)
{
	u64 r = 0;

	__asm__ volatile(TRY("lcall *%1") : "+a"(r) : "m"(gate_pointer) : "memory");
	return r;
}

static void call_gate(void)
{
	u64 at = (u64)gate_entry;

	gdt[SEL_SPARE / 8] = (at & 0xffff) | SEL_CODE64 << 16 | 0xecul << 40 | (at >> 16 & 0xffff) << 48;
	gdt[SEL_SPARE / 8 + 1] = at >> 32;
	gate_pointer.sel = SEL_SPARE | 3;
	CHECK_EQ(user_call(user_far_call, 0), 0x4711);
	TRIED(NO_TRAP, 0);
	CHECK_EQ(gate_rsp, (u64)trap_stack_top - 32);
	CHECK_EQ(gate_frame[1], SEL_UCODE64);
	CHECK_EQ(gate_frame[3], SEL_UDATA);
	gdt[SEL_SPARE / 8] &= ~(0x60ul << 40); /* DPL 0 */
	user_call(user_far_call, 0);
	TRIED(GP, SEL_SPARE);
	gdt[SEL_SPARE / 8] |= 0x60ul << 40;
	gdt[SEL_SPARE / 8] &= ~(0x80ul << 40); /* not present */
	user_call(user_far_call, 0);
	TRIED(NP, SEL_SPARE);
	gate_pointer.sel = SEL_CODE64 | 3; /* no gate: a more privileged segment */
	user_call(user_far_call, 0);
	TRIED(GP, SEL_CODE64);
}

UTEXT static u64 user_load_segment(u64 sel)
{
	u64 v;

	__asm__ volatile(TRY("mov %1, %%fs") "mov %%fs, %0; xor %%eax, %%eax; mov %%eax, %%fs" : "=r"(v) : "r"(sel) : "rax");
	return v;
}

static void loads_in_ring3(void)
{
	CHECK_EQ(user_call(user_load_segment, SEL_UDATA), SEL_UDATA);
	TRIED(NO_TRAP, 0);
	user_call(user_load_segment, SEL_DATA);
	TRIED(GP, SEL_DATA);
	u64 null = user_call(user_load_segment, 3); /* with any RPL, until an interrupt's IRET clears it (SDM vol. 2, IRET) */
	CHECK(null == 3 || null == 0);
	TRIED(NO_TRAP, 0);
}

void guest_main(void)
{
	LOOP(lar_lsl_verify);
	LOOP(local_table);
	LOOP(accessed_bit);
	if (!on_qemu_tcg()) /* which checks no limits */
		LOOP(compat_limits);
	LOOP(call_gate);
	LOOP(loads_in_ring3);
}
