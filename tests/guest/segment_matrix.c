/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every descriptor type with every DPL, present and not, at every RPL and from each of the four rings: loads of DS and SS, far jumps, LAR, LSL, VERR,
 * VERW. A model of SDM vol. 3, 5.5 to 5.8 and vol. 2's pages says which is allowed, which exception refuses it, and what LAR and LSL load.
 */
#include "lib.h"

#define SUBJECT 0x60		       /* two entries */
#define RING_CODE(r) (0x80 + 16 * (r)) /* for rings 1 and 2; the data segment follows */

enum { DATA_LOAD, STACK_LOAD, FAR_JUMP, LAR, LSL, VERR, VERW, QUESTIONS };

static struct {
	u32 type; /* 4 bits */
	bool system, present;
	u32 dpl;
} d;

static void describe(u32 n)
{
	d.type = n & 15;
	d.system = n >> 4 & 1;
	d.present = n >> 5 & 1;
	d.dpl = n >> 6 & 3;
	/* Flat, granular; code is 64-bit. A system descriptor's second half is zero. */
	gdt[SUBJECT / 8] = 0x008f00000000fffful | (u64)d.type << 40 | (d.system ? 0 : 1ul << 44) | (u64)d.dpl << 45 | (u64)d.present << 47 |
			   (!d.system && d.type & 8 ? 1ul << 53 : 0);
	gdt[SUBJECT / 8 + 1] = 0;
}

/* ---- the model: NO_TRAP or a vector for loads and jumps, 1 or 0 for questions ---- */

static bool is_code(void)
{
	return !d.system && d.type & 8;
}
static bool conforming(void)
{
	return is_code() && d.type & 4;
}
static bool readable(void)
{
	return !d.system && (!(d.type & 8) || d.type & 2);
}
static bool writable(void)
{
	return !d.system && !(d.type & 8) && d.type & 2;
}

static u32 loads_data(u32 cpl, u32 rpl)
{
	if (!readable() || (!conforming() && (d.dpl < rpl || d.dpl < cpl)))
		return GP;
	return d.present ? NO_TRAP : NP;
}

static u32 loads_stack(u32 cpl, u32 rpl)
{
	if (rpl != cpl || d.dpl != cpl || !writable())
		return GP;
	return d.present ? NO_TRAP : SS;
}

/* System descriptors: a call gate here has a null target, and everything else is refused by its type. */
static u32 jumps(u32 cpl, u32 rpl)
{
	if (d.system) {
		bool gate = d.type == 12 && d.dpl >= cpl && d.dpl >= rpl;

		return gate && !d.present ? NP : GP;
	}
	if (!is_code() || (conforming() ? d.dpl > cpl : rpl > cpl || d.dpl != cpl))
		return GP;
	return d.present ? NO_TRAP : NP;
}

static bool visible(u32 cpl, u32 rpl)
{
	return conforming() || (d.dpl >= cpl && d.dpl >= rpl);
}

/* System types that they accept; QEMU takes those of 16-bit systems for good in 64-bit mode, too. */
static u32 lar_types = 1u << 2 | 1u << 9 | 1u << 11 | 1u << 12, lsl_types = 1u << 2 | 1u << 9 | 1u << 11;

static u32 answer(u32 question, u32 cpl, u32 rpl)
{
	switch (question) {
	case DATA_LOAD:
		return loads_data(cpl, rpl);
	case STACK_LOAD:
		return loads_stack(cpl, rpl);
	case FAR_JUMP:
		return jumps(cpl, rpl);
	case LAR:
		return visible(cpl, rpl) && (!d.system || lar_types >> d.type & 1);
	case LSL:
		return visible(cpl, rpl) && (!d.system || lsl_types >> d.type & 1);
	case VERR:
		return visible(cpl, rpl) && readable();
	default:
		return visible(cpl, rpl) && writable();
	}
}

/* ---- asking: in any ring, on the user's pages ---- */

struct __attribute__((packed)) {
	u32 offset;
	u16 sel;
} matrix_far UDATA; /* known to the assembly below */

UTEXT static u64 ask_load(u64 sel)
{
	__asm__ volatile(TRY("mov %0, %%ds")::"r"(sel));
	__asm__ volatile("mov %0, %%ds" ::"r"(0));
	return sel;
}

/* SS goes back to what it was, whatever was loaded. */
UTEXT static u64 ask_stack(u64 sel)
{
	__asm__ volatile("mov %%ss, %%ecx\n" TRY("mov %0, %%ss") "mov %%ecx, %%ss" ::"r"(sel) : "rcx", "memory");
	return sel;
}

UTEXT static u64 ask_jump(u64 sel)
{
	__asm__ volatile("mov %w0, matrix_far+4(%%rip)\n"
			 "mov %%cs, %%ecx\n"
			 "lea 1f(%%rip), %%eax\n"
			 "mov %%eax, matrix_far(%%rip)\n" TRY("ljmp *matrix_far(%%rip)") "1:\n"
											 "push %%rcx\n"
											 "lea 2f(%%rip), %%rax\n"
											 "push %%rax\n"
											 "lretq\n"
											 "2:" ::"r"(sel)
			 : "rax", "rcx", "memory");
	return sel;
}

#define UNTOLD 0x55555555u
static u32 told[2] UDATA; /* what LAR and LSL load */

UTEXT static u64 ask_questions(u64 sel)
{
	u32 rights = UNTOLD, limit = UNTOLD;
	u8 lar, lsl, verr, verw;

	__asm__ volatile("lar %6, %4; setz %0; lsl %6, %5; setz %1; verr %w6; setz %2; verw %w6; setz %3"
			 : "=&q"(lar), "=&q"(lsl), "=&q"(verr), "=&q"(verw), "+&r"(rights), "+&r"(limit)
			 : "r"((u32)sel)
			 : "cc");
	told[0] = rights;
	told[1] = limit;
	return lar | lsl << 1 | verr << 2 | verw << 3;
}

static u64 in_ring(u32 ring, u64 (*fn)(u64), u64 arg)
{
	u64 *sp = (u64 *)(user_stack + sizeof(user_stack)) - 2, r;
	struct user_context u = {.rip = (u64)fn, .rflags = 2, .rsp = (u64)sp, .arg = arg};
	extern const u8 user_return[];

	if (ring == 0)
		return fn(arg);
	u.cs = ring == 3 ? SEL_UCODE64 : RING_CODE(ring) | ring;
	u.ss = ring == 3 ? SEL_UDATA : (RING_CODE(ring) + 8) | ring;
	*sp = (u64)user_return;
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"(0));
	r = user_enter(&u);
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"(SEL_DATA));
	return r;
}

static void load(u32 question, u64 (*fn)(u64), u32 ring, u32 rpl)
{
	u32 want = answer(question, ring, rpl);

	trap_clear();
	in_ring(ring, fn, SUBJECT | rpl);
	TRIED(want,
	      d.system && want == GP && question == FAR_JUMP && d.type == 12 && d.present && d.dpl >= ring && d.dpl >= rpl ? 0 : SUBJECT);
	if (want != NO_TRAP)
		CHECK_EQ(trap.frame.cs & 3, ring);
}

#define LAR_UNDEFINED 0xf0000u

static void check(u32 ring, u32 rpl)
{
	u64 got;

	load(DATA_LOAD, ask_load, ring, rpl);
	load(STACK_LOAD, ask_stack, ring, rpl);
	load(FAR_JUMP, ask_jump, ring, rpl);
	trap_clear();
	got = in_ring(ring, ask_questions, SUBJECT | rpl);
	for (u32 q = LAR; q < QUESTIONS; q++)
		CHECK_EQ(got >> (q - LAR) & 1, answer(q, ring, rpl));
	CHECK_EQ(told[0] & ~LAR_UNDEFINED, got & 1 ? gdt[SUBJECT / 8] >> 32 & 0xf0ff00 : UNTOLD & ~LAR_UNDEFINED);
	CHECK_EQ(told[1], got & 2 ? 0xffffffff : UNTOLD);
}

static void matrix(void)
{
	for (u32 n = 0; n < 256; n++)
		for (u32 rings = 0; rings < 16; rings++) {
			describe(n);
			check(rings & 3, rings >> 2);
		}
}

void guest_main(void)
{
	for (u64 r = 1; r < 3; r++) {
		gdt[RING_CODE(r) / 8] = 0x00af9b000000ffff | r << 45;
		gdt[RING_CODE(r) / 8 + 1] = 0x00cf93000000ffff | r << 45;
	}
	if (on_qemu_tcg()) {
		lar_types |= 1u << 1 | 1u << 3 | 1u << 4 | 1u << 5;
		lsl_types |= 1u << 1 | 1u << 3;
	}
	loop_check("matrix", matrix, 10);
}
