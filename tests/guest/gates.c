/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gates of 64-bit mode: what interrupt and trap gates do to flags, who may use which gate by INT n, INT3, ICEBP and by an exception,
 * all seven IST stacks and their use while in use, conforming code, rings 1 and 2, call gates to them, IRET's and RET's way back and what they
 * refuse, NT. SDM vol. 3, 5.8, 6.12 and 6.14.
 */
#include "lib.h"

#define VEC 0x60
#define CONFORMING 0x80 /* 64-bit code, DPL 0, conforming */
#define RING1_CODE 0x88
#define RING1_DATA 0x90
#define RING2_CODE 0x98
#define RING2_DATA 0xa0
#define CALL_GATE 0xb0 /* two entries */
#define IF 0x200ul
#define NT 0x4000ul
#define RF 0x10000ul
#define AC 0x40000ul
#define DF_FLAG 0x400ul

/* ---- an entry that records what it finds and returns ---- */

struct {
	u64 rip, cs, rflags, rsp, ss, flags_inside, cs_inside, ss_inside, at;
} gate_seen;
extern const u8 gate_entry_64[], gate_call_entry[];
__asm__(".text\n"
	"gate_entry_64:\n"
	"	push %rax\n"
	"	pushfq\n"
	"	cld\n"
	"	pop %rax\n"
	"	mov %rax, gate_seen+40(%rip)\n"
	"	mov %cs, %eax\n"
	"	mov %rax, gate_seen+48(%rip)\n"
	"	mov %ss, %eax\n"
	"	mov %rax, gate_seen+56(%rip)\n"
	"	lea 8(%rsp), %rax\n"
	"	mov %rax, gate_seen+64(%rip)\n"
	"	mov 8(%rsp), %rax\n"
	"	mov %rax, gate_seen(%rip)\n"
	"	mov 16(%rsp), %rax\n"
	"	mov %rax, gate_seen+8(%rip)\n"
	"	mov 24(%rsp), %rax\n"
	"	mov %rax, gate_seen+16(%rip)\n"
	"	mov 32(%rsp), %rax\n"
	"	mov %rax, gate_seen+24(%rip)\n"
	"	mov 40(%rsp), %rax\n"
	"	mov %rax, gate_seen+32(%rip)\n"
	"	pop %rax\n"
	"	iretq\n");

static struct idt_gate saved[256];

static void gate(u32 vector, u32 type_dpl, u32 ist)
{
	saved[vector] = idt[vector];
	idt_set(vector, gate_entry_64, type_dpl, ist);
}

static void restore(u32 vector)
{
	idt[vector] = saved[vector];
}

/* ---- flags ---- */

#define ARITHMETIC 0x8d5ul

static void interrupt_with(u64 flags)
{
	__asm__ volatile("push %0; popfq; int %1\n\tpush $2; popfq" ::"r"(flags), "i"(VEC) : "memory", "cc");
}

/* Both clear TF, NT, RF; only the interrupt gate clears IF; nothing else changes, and IRET brings all back. */
static void interrupt_and_trap_gates(void)
{
	for (u32 n = 0; n < 8; n++) {
		u64 flags = 2 | (n & 1 ? IF : 0) | (n & 2 ? AC | DF_FLAG : 0) | (n & 4 ? ARITHMETIC : 0);

		gate(VEC, 0x8e, 0);
		interrupt_with(flags);
		CHECK_EQ(gate_seen.rflags & ~RF, flags);
		CHECK_EQ(gate_seen.flags_inside, flags & ~IF);
		restore(VEC);
		gate(VEC, 0x8f, 0);
		interrupt_with(flags | NT);
		CHECK_EQ(gate_seen.rflags & ~RF, flags | NT);
		CHECK_EQ(gate_seen.flags_inside, flags);
		restore(VEC);
	}
}

/* ---- IST ---- */

static u8 stacks[8][512] __attribute__((aligned(16)));

static void all_seven(void)
{
	for (u32 n = 1; n <= 7; n++) {
		u64 kept = tss.ist[n - 1];

		for (u64 off = 0; off < 16; off += 5) {
			tss.ist[n - 1] = (u64)stacks[n] + 512 - off;
			gate(VEC, 0x8e, n);
			__asm__ volatile("int %0" ::"i"(VEC) : "memory");
			restore(VEC);
			CHECK_EQ(gate_seen.at, (((u64)stacks[n] + 512 - off) & ~15ul) - 40);
			CHECK_EQ(gate_seen.ss, SEL_DATA);
			if (!on_qemu_tcg()) /* whose SS is null then; SDM vol. 3, 6.14: if there is a change in CPL */
				CHECK_EQ(gate_seen.ss_inside, SEL_DATA);
		}
		tss.ist[n - 1] = kept;
	}
}

UTEXT static u64 user_int(u64 v)
{
	__asm__ volatile("int %0" ::"i"(VEC) : "memory");
	return v + 1;
}

/* From ring 3 the IST wins over RSP0, and SS becomes a null selector. */
static void ist_from_ring3(void)
{
	tss.ist[2] = (u64)stacks[3] + 512;
	gate(VEC, 0xee, 3);
	CHECK_EQ(user_call(user_int, 7), 8);
	restore(VEC);
	CHECK_EQ(gate_seen.at, (u64)stacks[3] + 512 - 40);
	CHECK_EQ(gate_seen.cs, SEL_UCODE64);
	CHECK_EQ(gate_seen.ss, SEL_UDATA);
	CHECK_EQ(gate_seen.ss_inside, 0);
	CHECK_EQ(gate_seen.cs_inside, SEL_CODE64);
}

/* An event on the same IST while its handler runs: the stack begins anew, over the first frame. */
extern const u8 ist_nested[];
u64 ist_first, ist_count;
__asm__(".text\n"
	"ist_nested:\n" /* the first time it interrupts itself, with its return address kept in a register */
	"	incq ist_count(%rip)\n"
	"	cmpq $1, ist_count(%rip)\n"
	"	jne 1f\n"
	"	mov %rsp, ist_first(%rip)\n"
	"	mov (%rsp), %r8\n"
	"	mov 24(%rsp), %r9\n"
	"	int $0x60\n"
	"	cmp %rsp, ist_first(%rip)\n"
	"	jne 2f\n"
	"	mov %r9, 24(%rsp)\n" /* the inner frame lay on this one: put back what it overwrote */
	"	mov %r8, (%rsp)\n"
	"1:	iretq\n"
	"2:	ud2\n");

static void ist_while_in_use(void)
{
	ist_count = 0;
	tss.ist[3] = (u64)stacks[4] + 512;
	saved[VEC] = idt[VEC];
	idt_set(VEC, ist_nested, 0x8e, 4);
	__asm__ volatile("int %0" ::"i"(VEC) : "r8", "r9", "memory");
	restore(VEC);
	CHECK_EQ(ist_count, 2);
	CHECK_EQ(ist_first, (u64)stacks[4] + 512 - 40);
}

/* ---- who may ---- */

UTEXT static u64 user_int3(u64 v)
{
	__asm__ volatile(TRY("int3"));
	return v;
}
UTEXT static u64 user_icebp(u64 v)
{
	__asm__ volatile(TRY(".byte 0xf1"));
	return v;
}
UTEXT static u64 user_int_60(u64 v)
{
	__asm__ volatile(TRY("int $0x60"));
	return v;
}
UTEXT static u64 user_div(u64 v)
{
	__asm__ volatile(TRY("div %0")::"r"(0ul) : "rax", "rdx");
	return v;
}

static void dpl_counts_for_software_only(void)
{
	for (u32 dpl = 0; dpl < 4; dpl++) {
		u8 type = (u8)(0x8e | dpl << 5);

		idt[BP].type = idt[DB].type = idt[DE].type = idt[VEC].type = type;
		user_call(user_int3, 0);
		TRIED(dpl == 3 ? BP : GP, dpl == 3 ? 0 : gate_error(BP));
		user_call(user_int_60, 0);
		TRIED(dpl == 3 ? VEC : GP, dpl == 3 ? 0 : gate_error(VEC));
		user_call(user_div, 0);
		TRIED(DE, 0);
		if (!on_qemu_tcg()) { /* which takes ICEBP for an invalid opcode */
			user_call(user_icebp, 0);
			TRIED(DB, 0);
		}
	}
	idt[BP].type = 0xee;
	idt[DB].type = idt[DE].type = idt[VEC].type = 0x8e;
}

/* ---- conforming code ---- */

static void conforming_handler(void)
{
	gate(VEC, 0xee, 0);
	idt[VEC].sel = CONFORMING;
	__asm__ volatile("int %0" ::"i"(VEC) : "memory");
	restore(VEC);
	CHECK_EQ(gate_seen.cs_inside, CONFORMING);
	/* From ring 3 it stays ring 3, on the same stack: where the first push of the kernel's text into its data faults. */
	gate(VEC, 0xee, 0);
	idt[VEC].sel = CONFORMING;
	user_call(user_int, 0);
	restore(VEC);
	CHECK_EQ(trap.vector, PF);
	CHECK_EQ(trap.error, PFE_P | PFE_U | PFE_I);
	CHECK_EQ(trap.frame.rip, gate_entry_64);
	CHECK_EQ(trap.frame.cs, CONFORMING | 3);
	CHECK_EQ(trap.frame.ss, SEL_UDATA);
}

/* ---- rings 1 and 2 ---- */

static u8 ring_stack[4096] UDATA;

UTEXT static u64 ring_nothing(u64 v)
{
	return v + 3;
}

static u64 in_ring(u32 ring, u64 (*fn)(u64), u64 arg)
{
	extern const u8 user_return[];
	u64 *sp = (u64 *)(ring_stack + sizeof(ring_stack)) - 2;
	struct user_context u = {.rip = (u64)fn,
				 .cs = (ring == 1 ? RING1_CODE : RING2_CODE) | ring,
				 .rflags = 2,
				 .rsp = (u64)sp,
				 .ss = (ring == 1 ? RING1_DATA : RING2_DATA) | ring,
				 .arg = arg};

	*sp = (u64)user_return;
	trap_clear();
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"(0));
	u64 r = user_enter(&u);
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"(SEL_DATA));
	return r;
}

UTEXT static u64 ring_load(u64 at)
{
	__asm__ volatile(TRY("mov (%0), %%rax")::"r"(at) : "rax");
	return 0;
}

UTEXT static u64 ring_privileged(u64 v)
{
	__asm__ volatile(TRY("mov %%cr0, %%rax")::: "rax");
	return v;
}

/* They are supervisor for paging, and may not do what only ring 0 may. */
static void rings_1_and_2(void)
{
	for (u32 ring = 1; ring <= 2; ring++) {
		CHECK_EQ(in_ring(ring, ring_nothing, 4), 7);
		TRIED(NO_TRAP, 0);
		in_ring(ring, ring_load, (u64)&gdt);
		TRIED(NO_TRAP, 0);
		in_ring(ring, ring_privileged, 0);
		TRIED(GP, 0);
		CHECK_EQ(trap.frame.cs & 3, ring);
	}
}

/* An interrupt from ring 3 to ring 1 takes RSP1 and a null SS with RPL 1; IRET leads back to ring 3. */
extern const u8 ring1_entry[];
u64 ring1_seen[3] UDATA;
__asm__(".pushsection .utext, \"ax\"\n"
	"ring1_entry:\n"
	"	push %rax\n"
	"	lea 8(%rsp), %rax\n"
	"	mov %rax, ring1_seen(%rip)\n"
	"	mov %cs, %eax\n"
	"	mov %rax, ring1_seen+8(%rip)\n"
	"	mov %ss, %eax\n"
	"	mov %rax, ring1_seen+16(%rip)\n"
	"	pop %rax\n"
	"	iretq\n"
	".popsection\n");

static void interrupt_to_ring1(void)
{
	tss.rsp[1] = (u64)ring_stack + 2048;
	saved[VEC] = idt[VEC];
	idt_set(VEC, ring1_entry, 0xee, 0);
	idt[VEC].sel = RING1_CODE;
	CHECK_EQ(user_call(user_int, 9), 10);
	restore(VEC);
	TRIED(NO_TRAP, 0);
	CHECK_EQ(ring1_seen[0], (u64)ring_stack + 2048 - 40);
	CHECK_EQ(ring1_seen[1], RING1_CODE | 1);
	CHECK_EQ(ring1_seen[2], 1);
}

/* ---- call gates ---- */

struct __attribute__((packed)) {
	u32 offset;
	u16 sel;
} gate_far UDATA;

UTEXT static u64 user_call_gate(u64 v)
{
	__asm__ volatile(TRY("lcall *gate_far(%%rip)")::: "memory");
	return v;
}
UTEXT static u64 user_jump_gate(u64 v)
{
	__asm__ volatile(TRY("ljmp *gate_far(%%rip)")::: "memory");
	return v;
}
__asm__(".pushsection .utext, \"ax\"\ngate_call_entry: lretq\n.popsection\n");

static void call_gate(u64 target, u32 sel, u32 type_dpl)
{
	gdt[CALL_GATE / 8] = (target & 0xffff) | (u64)sel << 16 | (u64)type_dpl << 40 | (target >> 16 & 0xffff) << 48;
	gdt[CALL_GATE / 8 + 1] = target >> 32;
	gate_far.sel = CALL_GATE | 3;
}

static void call_gates(void)
{
	u64 entry = (u64)gate_call_entry;

	/* To every ring, and back by RET, whose CPL check and stack switch undo it. */
	call_gate(entry, SEL_CODE64, 0xec);
	CHECK_EQ(user_call(user_call_gate, 5), 5);
	TRIED(NO_TRAP, 0);
	tss.rsp[1] = (u64)ring_stack + 1024;
	call_gate(entry, RING1_CODE, 0xec);
	user_call(user_call_gate, 5);
	TRIED(NO_TRAP, 0);
	call_gate(entry, CONFORMING, 0xec);
	user_call(user_call_gate, 5);
	TRIED(NO_TRAP, 0);
	/* JMP goes inward only to conforming code. */
	call_gate(entry, SEL_CODE64, 0xec);
	user_call(user_jump_gate, 5);
	TRIED(GP, SEL_CODE64);
	/* Targets that are none */
	call_gate(entry, 0, 0xec);
	user_call(user_call_gate, 5);
	TRIED(GP, 0);
	call_gate(entry, SEL_DATA, 0xec);
	user_call(user_call_gate, 5);
	TRIED(GP, SEL_DATA);
	call_gate(entry, SEL_CODE32, 0xec); /* not 64-bit */
	user_call(user_call_gate, 5);
	TRIED(GP, SEL_CODE32);
	call_gate(entry, SEL_CODE64, 0xec);
	gdt[CALL_GATE / 8 + 1] |= 1ul << 40; /* a type in the second half */
	user_call(user_call_gate, 5);
	TRIED(GP, CALL_GATE);
	if (!on_qemu_tcg()) { /* which enters and faults there */
		call_gate(entry | 1ul << 47, SEL_CODE64, 0xec);
		user_call(user_call_gate, 5);
		TRIED(GP, 0);
	}
	call_gate(entry, SEL_CODE64, 0xe4); /* 16-bit gates do not exist here */
	user_call(user_call_gate, 5);
	TRIED(GP, CALL_GATE);
	/* The inner stack is not mapped: the fault is the caller's. */
	u64 rsp0 = tss.rsp[0];
	idt[PF].ist = 1;
	call_gate(entry, SEL_CODE64, 0xec);
	tss.rsp[0] = TEST_VA;
	user_call(user_call_gate, 5);
	tss.rsp[0] = rsp0;
	idt[PF].ist = 0;
	TRIED(PF, PFE_W);
	CHECK_EQ(trap.cr2, TEST_VA - 8);
	CHECK_EQ(trap.frame.cs, SEL_UCODE64);
}

/* ---- the way back ---- */

static u64 run_context(u64 arg)
{
	return user_enter((struct user_context *)arg);
}

static void iret_refuses_nt(void)
{
	struct user_context u = {.rip = (u64)user_int, .cs = SEL_UCODE64, .rflags = 2, .rsp = (u64)user_stack + 4096, .ss = SEL_UDATA};

	trap_clear();
	flags_set(NT | 2);
	trap_guarded(run_context, (u64)&u);
	flags_set(2);
	TRIED(GP, 0);
}

/* Data segments that the outer ring may not have become null (SDM vol. 2, IRET); its own stay. */
UTEXT static u64 user_segments(u64 v)
{
	u64 es, fs;

	__asm__ volatile("mov %%es, %%eax; mov %%rax, %0; mov %%fs, %%eax; mov %%rax, %1" : "=r"(es), "=r"(fs)::"rax");
	return es | fs << 16;
}

static void iret_drops_segments(void)
{
	struct user_context u = {
		.rip = (u64)user_segments, .cs = SEL_UCODE64, .rflags = 2, .rsp = (u64)(user_stack + 4096), .ss = SEL_UDATA};
	extern const u8 user_return[];

	*(u64 *)(user_stack + 4096) = (u64)user_return;
	trap_clear();
	__asm__ volatile("mov %0, %%es; mov %1, %%fs" ::"r"(SEL_DATA), "r"(SEL_UDATA));
	CHECK_EQ(user_enter(&u), (u64)SEL_UDATA << 16);
	__asm__ volatile("mov %0, %%es; mov %1, %%fs" ::"r"(CONFORMING), "r"(SEL_DATA));
	CHECK_EQ(user_enter(&u), CONFORMING); /* conforming code may be read from everywhere */
	__asm__ volatile("mov %0, %%es; mov %1, %%fs" ::"r"(SEL_DATA), "r"(0));
}

/* A far return to ring 3 with bytes to pop on both stacks */
static u64 ret_outer(u64 sp)
{
	__asm__ volatile("pushq %0; pushq %1; pushq $0; pushq $0; pushq %2; pushq %3; lretq $16" ::"i"(SEL_UDATA), "r"(sp),
			 "i"(SEL_UCODE64), "r"(ring_nothing)
			 : "memory");
	return 0;
}

static void far_return_outward(void)
{
	extern const u8 user_return[];
	u64 *sp = (u64 *)(user_stack + 4096);

	sp[0] = sp[1] = 0; /* what is popped */
	sp[2] = (u64)user_return;
	trap_clear();
	trap_guarded(ret_outer, (u64)sp);
	TRIED(NO_TRAP, 0);
}

void guest_main(void)
{
	gdt[CONFORMING / 8] = 0x00af9f000000ffff;
	for (u64 r = 1; r <= 2; r++) {
		gdt[(r == 1 ? RING1_CODE : RING2_CODE) / 8] = 0x00af9b000000ffff | r << 45;
		gdt[(r == 1 ? RING1_DATA : RING2_DATA) / 8] = 0x00cf93000000ffff | r << 45;
	}
	LOOP(interrupt_and_trap_gates);
	LOOP(all_seven);
	LOOP(ist_from_ring3);
	LOOP(ist_while_in_use);
	loop_check("dpl_counts_for_software_only", dpl_counts_for_software_only, 300);
	LOOP(conforming_handler);
	LOOP(rings_1_and_2);
	LOOP(interrupt_to_ring1);
	loop_check("call_gates", call_gates, 500);
	LOOP(iret_refuses_nt);
	LOOP(iret_drops_segments);
	LOOP(far_return_outward);
}
