/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SYSCALL and SYSRET as a kernel uses them all the time, and everything that makes one of them unlike the one before: masks and flags, entries and
 * selectors that change between calls, interrupts that wait for the return, code and rights that are others when it comes.
 */
#include "lib.h"

#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_SFMASK 0xc0000084

#define FL_ARITH 0x8d5ul
#define FL_TF (1ul << 8)
#define FL_IF (1ul << 9)
#define FL_DF (1ul << 10)
#define FL_IOPL (3ul << 12)
#define FL_NT (1ul << 14)
#define FL_RF (1ul << 16)
#define FL_VM (1ul << 17)
#define FL_AC (1ul << 18)
#define FL_ID (1ul << 21)
#define FL_RESTORED 0x3c7fd7ul

#define USUAL_MASK 0x257fd5ul /* as Linux has it */
#define CODE_VA (TEST_VA + 0x200000)
#define VEC_SELF 0x61

/* What the entry has saved; rcx and r11 are what SYSRET will take. */
struct frame {
	u64 gpr[16], flags;
};
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

extern const u8 entry[], other_entry[], after[], after_one[];
u64 x_user_rsp, x_cs, x_ss, x_others, x_calls;
static struct frame seen;
static void (*action)(struct frame *f);

/* Ring 3 reads and writes these. */
struct frame x_in UDATA, x_out UDATA;
u64 x_out_cs UDATA, x_out_ss UDATA;

#define EACH_BUT_RSP(m)                                                                                                                    \
	m(rax, 0) m(rcx, 1) m(rdx, 2) m(rbx, 3) m(rbp, 5) m(rsi, 6) m(rdi, 7) m(r8, 8) m(r9, 9) m(r10, 10) m(r11, 11) m(r12, 12)           \
		m(r13, 13) m(r14, 14) m(r15, 15)
#define SAVE(r, n) "	mov %" #r ", 8*" #n "(%rsp)\n"
#define LOAD(r, n) "	mov 8*" #n "(%rsp), %" #r "\n"
#define OUT(r, n) "	mov %" #r ", x_out+8*" #n "(%rip)\n"
#define IN(r, n) "	mov x_in+8*" #n "(%rip), %" #r "\n"

__asm__(".text\n"
	"other_entry:\n"
	"	mov %rsp, x_user_rsp(%rip)\n"
	"	lea x_stack_top(%rip), %rsp\n"
	"	pushfq\n"
	"	incq x_others(%rip)\n"
	"	jmp 1f\n"
	"entry:\n"
	"	mov %rsp, x_user_rsp(%rip)\n"
	"	lea x_stack_top(%rip), %rsp\n"
	"	pushfq\n"
	"1:	sub $128, %rsp\n" EACH_BUT_RSP(
		SAVE) "	cld\n"
		      "	mov %cs, %eax\n"
		      "	mov %rax, x_cs(%rip)\n"
		      "	mov %ss, %eax\n"
		      "	mov %rax, x_ss(%rip)\n"
		      "	mov %rsp, %rdi\n"
		      "	call x_kernel\n" EACH_BUT_RSP(
			      LOAD) "	mov x_user_rsp(%rip), %rsp\n"
				    "	sysretq\n"
				    ".bss\n"
				    ".balign 4096\n"
				    "	.skip 8192\n"
				    "x_stack_top:\n" /* the end of a page, as a kernel's stack has it */
				    "	.skip 4096\n"
				    ".pushsection .utext, \"ax\"\n"
				    ".balign 4096\n" /* apart from what is stored to, lest it be translated anew each time */
				    "x_user:\n"
				    "	push %rbx\n	push %rbp\n	push %r12\n	push %r13\n	push %r14\n	push %r15\n"
				    "	push x_in+128(%rip)\n"
				    "	popfq\n" EACH_BUT_RSP(IN) "	syscall\n"
								  "after:\n"
								  "	mov %rax, x_out(%rip)\n"
								  "after_one:\n"
								  "	pushfq\n"
								  "	popq x_out+128(%rip)\n" EACH_BUT_RSP(
									  OUT) "	mov %cs, %eax\n"
									       "	mov %rax, x_out_cs(%rip)\n"
									       "	mov %ss, %eax\n"
									       "	mov %rax, x_out_ss(%rip)\n"
									       "	push $2\n"
									       "	popfq\n"
									       "	pop %r15\n	pop %r14\n	pop "
									       "%r13\n	pop %r12\n	pop %rbp\n	pop %rbx\n"
									       "	ret\n"
									       ".balign 4096\n"
									       ".popsection\n"
									       ".text\n");
u64 x_user(u64 arg);
void x_kernel(struct frame *f);

void x_kernel(struct frame *f)
{
	x_calls++;
	seen = *f;
	if (action)
		action(f);
}

static u64 random_state = 88172645463325252ul;
static u64 random_word(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static void setup(u64 mask)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
	wrmsr(MSR_STAR, (u64)(SEL_UCODE32 & ~3) << 48 | 3ul << 48 | (u64)SEL_CODE64 << 32);
	wrmsr(MSR_LSTAR, (u64)entry);
	wrmsr(MSR_SFMASK, mask);
	action = NULL;
	for (u32 r = 0; r < 16; r++)
		x_in.gpr[r] = random_word();
	x_in.flags = 2;
}

static void call_user(void)
{
	memset(&x_out, 0, sizeof(x_out));
	user_call(x_user, 0);
}

/* Nothing that the CPU or the engine needs for itself has been left in a register. */
static void check_registers(void)
{
	for (u32 r = 0; r < 16; r++) {
		if (r == RSP)
			continue;
		if (r != RCX && r != R11) {
			CHECK_EQ(seen.gpr[r], x_in.gpr[r]);
			CHECK_EQ(x_out.gpr[r], x_in.gpr[r]);
		}
	}
	CHECK_EQ(seen.gpr[RCX], (u64)after);
	CHECK_EQ(x_out.gpr[RCX], (u64)after);
	CHECK(x_user_rsp > (u64)user_stack && x_user_rsp < (u64)user_stack + sizeof(user_stack));
}

static void flags_and_masks(void)
{
	static const u64 masks[] = {USUAL_MASK,		 0,    FL_ARITH, 0x47700, FL_DF, FL_AC | FL_NT, 1, 0x800, FL_IF | FL_ARITH,
				    ~0ul >> 32 & ~FL_TF, 0x701};
	u64 mask = masks[loop_count % ARRAY_SIZE(masks)];
	u64 flags = (random_word() & (FL_ARITH | FL_ID)) | 2;

	if (on_qemu_tcg()) /* which loses them */
		mask |= FL_ARITH | FL_DF;
	if (loop_count % 3 == 0)
		flags |= random_word() & (FL_DF | FL_AC | FL_NT);
	setup(mask);
	x_in.flags = flags;
	call_user();
	CHECK_EQ(trap.vector, NO_TRAP);
	check_registers();
	CHECK_EQ(seen.gpr[R11], flags | FL_IF);
	CHECK_EQ(seen.flags, ((flags | FL_IF) & ~mask) | 2);
	CHECK_EQ(x_out.flags, flags | FL_IF);
	CHECK_EQ(x_out.gpr[R11], flags | FL_IF);
}

static u64 new_r11;
static void replace_r11(struct frame *f)
{
	f->gpr[R11] = new_r11;
}

static void flags_by_sysret(void)
{
	static const u64 odd[] = {0,	 FL_RF,	    FL_VM,     FL_AC,  FL_NT,	   FL_IOPL,    FL_ID, FL_DF,
				  FL_IF, 1ul << 19, 1ul << 20, 0x8028, ~0ul << 22, ~0ul << 32, ~FL_TF};

	setup(USUAL_MASK);
	action = replace_r11;
	new_r11 = (random_word() & (FL_ARITH | FL_IF)) | odd[loop_count % ARRAY_SIZE(odd)];
	if (on_qemu_tcg()) /* which takes VM, and neither VIF nor VIP */
		new_r11 &= ~(FL_VM | 3ul << 19);
	call_user();
	CHECK_EQ(trap.vector, NO_TRAP);
	check_registers();
	CHECK_EQ(x_out.flags, (new_r11 & FL_RESTORED) | 2);
	CHECK_EQ(x_out.gpr[R11], new_r11);
}

static u64 stepped_at;
static bool note_step(struct trap_frame *f)
{
	stepped_at = f->rip;
	f->rflags &= ~FL_TF;
	return true;
}

/* CPUs trap at the first instruction or behind it. */
static void sysret_into_a_step(void)
{
	setup(USUAL_MASK);
	action = replace_r11;
	new_r11 = FL_TF | FL_IF | 2;
	stepped_at = 0;
	trap_set_handler(DB, note_step);
	call_user();
	trap_set_handler(DB, NULL);
	CHECK(stepped_at == (u64)after || stepped_at == (u64)after_one);
	check_registers();
}

static void entry_and_selectors_change(void)
{
	bool other = loop_count % 5 >= 3, others_gdt = loop_count % 2;
	u64 before = x_others;
	u64 user = SEL_UCODE32, kernel = SEL_CODE64;

	setup(USUAL_MASK);
	if (others_gdt) {
		gdt[SEL_SPARE / 8] = gdt[SEL_CODE64 / 8];
		gdt[SEL_SPARE / 8 + 1] = gdt[SEL_DATA / 8];
		gdt[SEL_SPARE / 8 + 2] = gdt[SEL_UCODE32 / 8];
		gdt[SEL_SPARE / 8 + 3] = gdt[SEL_UDATA / 8];
		gdt[SEL_SPARE / 8 + 4] = gdt[SEL_UCODE64 / 8];
		kernel = SEL_SPARE;
		user = (SEL_SPARE + 16) | 3;
	}
	wrmsr(MSR_STAR, user << 48 | (kernel | loop_count % 4) << 32);
	wrmsr(MSR_LSTAR, (u64)(other ? other_entry : entry));
	call_user();
	CHECK_EQ(trap.vector, NO_TRAP);
	check_registers();
	CHECK_EQ(x_others, before + other);
	CHECK_EQ(x_cs, kernel);
	CHECK_EQ(x_ss, kernel + 8);
	CHECK_EQ(x_out_cs, user + 16);
	CHECK_EQ(x_out_ss, user + 8);
}

static void disabled_now_and_then(void)
{
	u64 before = x_calls;

	setup(USUAL_MASK);
	if (loop_count % 3 == 2) {
		wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ul);
		call_user();
		CHECK_EQ(trap.vector, UD);
		CHECK_EQ(x_calls, before);
		wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
	} else {
		call_user();
		CHECK_EQ(x_calls, before + 1);
	}
}

static void disable(struct frame *f)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ul);
}

static void disabled_meanwhile(void)
{
	setup(USUAL_MASK);
	action = loop_count % 3 == 2 ? disable : NULL;
	call_user();
	CHECK_EQ(trap.vector, loop_count % 3 == 2 ? UD : NO_TRAP);
}

/* ---- interrupts */

static u64 interrupted_at, interrupted_cs, interrupts;
static bool note_interrupt(struct trap_frame *f)
{
	interrupts++;
	interrupted_at = f->rip;
	interrupted_cs = f->cs;
	apic_write(APIC_EOI, 0);
	return true;
}

static void interrupt_myself(struct frame *f)
{
	apic_write(APIC_ICR, 1u << 18 | 1u << 14 | VEC_SELF);
	while (!(apic_read(0x200 + VEC_SELF / 32 * 16) >> VEC_SELF % 32 & 1))
		;
	CHECK_EQ(interrupts, 0);
	f->gpr[R11] = new_r11;
}

static void interrupt_waits_for_sysret(void)
{
	bool enabled = loop_count % 3 != 0;

	setup(USUAL_MASK);
	action = interrupt_myself;
	new_r11 = 2 | (enabled ? FL_IF : 0);
	interrupts = 0;
	trap_set_handler(VEC_SELF, note_interrupt);
	call_user();
	sti();
	__asm__ volatile("nop");
	cli();
	trap_set_handler(VEC_SELF, NULL);
	CHECK_EQ(interrupts, 1);
	CHECK_EQ(interrupted_cs, enabled ? SEL_UCODE64 : SEL_CODE64);
	if (enabled)
		CHECK_EQ(interrupted_at, (u64)after);
	CHECK_EQ(x_out.flags, new_r11);
	check_registers();
}

/* Whatever the numbers mean to a host. */
UTEXT static u64 many_calls(u64 n)
{
	u64 sum = 0;

	for (u64 i = 0; i < n; i++) {
		u64 r = i;

		__asm__ volatile("syscall" : "+a"(r)::"rcx", "r11", "memory");
		sum += r;
	}
	return sum;
}

static void add_one(struct frame *f)
{
	f->gpr[RAX]++;
}

/* With the mask, interrupts come in ring 3; without, in the entry as well. */
static void interrupts_all_the_time(void)
{
	const u64 n = 10000;
	u64 before, irqs;

	irq_catch(VEC_SELF);
	irqs = irq_count[VEC_SELF];
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, 1u << 17 | VEC_SELF);
	apic_write(APIC_TMICT, 20000);
	setup(loop_count % 2 ? USUAL_MASK : USUAL_MASK & ~FL_IF);
	action = add_one;
	do {
		before = x_calls;
		CHECK_EQ(user_call(many_calls, n), n * (n + 1) / 2);
		CHECK_EQ(x_calls, before + n);
	} while (irq_count[VEC_SELF] < irqs + 10);
	apic_write(APIC_LVTT, 1u << 16);
	apic_write(APIC_TMICT, 0);
	sti();
	__asm__ volatile("nop");
	cli();
	trap_set_handler(VEC_SELF, NULL);
}

/* ---- where it returns to */

static u64 new_rcx;
static void replace_rcx(struct frame *f)
{
	f->gpr[RCX] = new_rcx;
}

static bool is_amd(void)
{
	u32 r[4];

	cpuid(0, 0, r);
	return r[1] == 0x68747541;
}

static u64 call_user_guarded(u64 arg)
{
	call_user();
	return 0;
}

static void returns_to_nowhere(void)
{
	static const u64 bad[] = {0x800000000000ul, 0x5e1b9c7d3a2f4685ul, 0xffff7ffffffffffful, 1ul << 63};

	setup(USUAL_MASK);
	action = replace_rcx;
	new_rcx = bad[loop_count % ARRAY_SIZE(bad)];
	trap_guarded(call_user_guarded, 0);
	CHECK_EQ(trap.vector, GP);
	CHECK_EQ(trap.error, 0);
	CHECK_EQ(trap.frame.cs, is_amd() ? SEL_UCODE64 : SEL_CODE64);
	if (is_amd())
		CHECK_EQ(trap.frame.rip, new_rcx);
}

static void returns_to_the_kernels_half(void)
{
	setup(USUAL_MASK);
	action = replace_rcx;
	new_rcx = 0xffff800000000000ul + (loop_count % 16) * 4;
	call_user();
	CHECK_EQ(trap.vector, PF);
	CHECK_EQ(trap.cr2, new_rcx);
	CHECK_EQ(trap.frame.cs, SEL_UCODE64);
}

/* syscall; mov $imm, %eax; ret */
static u8 *page[2];
static void make_page(u32 n, u32 imm)
{
	static const u8 code[] = {0x0f, 0x05, 0xb8};

	memcpy(page[n], code, sizeof(code));
	memcpy(page[n] + 3, &imm, 4);
	page[n][7] = 0xc3;
}

static void patch(struct frame *f)
{
	make_page(0, (u32)loop_count + 1);
}

static void unmap(struct frame *f)
{
	*paging_entry(paging_root(), CODE_VA, 1) = 0;
	invlpg((void *)CODE_VA);
}

static void map_other(struct frame *f)
{
	paging_map(CODE_VA, (u64)page[1], P | U);
}

static void supervise(struct frame *f)
{
	paging_map(CODE_VA, (u64)page[0], P);
}

static bool map_again(struct trap_frame *f)
{
	paging_map(CODE_VA, (u64)page[0], P | W | U);
	interrupted_at = f->rip;
	interrupts++;
	return true;
}

static void code_changes_meanwhile(void)
{
	static void (*const what[])(struct frame *) = {NULL, patch, unmap, map_other, supervise};
	u32 n = loop_count % ARRAY_SIZE(what);

	for (u32 i = 0; i < 2; i++)
		if (!page[i])
			page[i] = page_alloc();
	make_page(0, (u32)loop_count);
	make_page(1, (u32)loop_count + 2);
	paging_map(CODE_VA, (u64)page[0], P | W | U);
	setup(USUAL_MASK);
	action = what[n];
	interrupts = 0;
	trap_set_handler(PF, map_again);
	CHECK_EQ(user_call((u64(*)(u64))CODE_VA, 0), loop_count + (n == 1) + 2 * (n == 3));
	trap_set_handler(PF, NULL);
	CHECK_EQ(interrupts, n == 2 || n == 4);
	if (interrupts)
		CHECK_EQ(interrupted_at, CODE_VA + 2);
}

/* ---- modes */

UTEXT static u64 call_and_use_sse(u64 arg)
{
	__asm__ volatile("syscall" ::: "rax", "rcx", "r11", "memory");
	__asm__ volatile(TRY("movaps %xmm0, %xmm0"));
	return 1;
}

#define CR0_TS 8ul
#define CR4_OSFXSR (1ul << 9)
static void toggle_ts(struct frame *f)
{
	write_cr0(read_cr0() ^ CR0_TS);
}

static void toggle_sse(struct frame *f)
{
	write_cr4(read_cr4() ^ CR4_OSFXSR);
}

static void vector_units_change(void)
{
	bool ts = loop_count % 4 < 2;

	write_cr4(read_cr4() | CR4_OSFXSR);
	setup(USUAL_MASK);
	for (u32 i = 0; i < 4; i++) {
		action = i == 0 || i == 3 ? NULL : ts ? toggle_ts : toggle_sse;
		user_call(call_and_use_sse, 0);
		CHECK_EQ(trap.vector, i != 1 ? NO_TRAP : ts ? NM : UD);
	}
}

static void breakpoint_on_the_entry(void)
{
	u64 before = x_calls;

	setup(USUAL_MASK);
	call_user();
	write_dr0((u64)entry);
	write_dr7(0x402);
	stepped_at = 0;
	call_user();
	write_dr7(0x400);
	CHECK_EQ(trap.vector, DB);
	CHECK_EQ(trap.frame.rip, (u64)entry);
	CHECK_EQ(trap.frame.cs, SEL_CODE64);
	CHECK_EQ(x_calls, before + 1);
	call_user();
	CHECK_EQ(x_calls, before + 2);
}

/* Each is many ways into the kernel, and where ring 3 runs directly these are slow. */
#define SOME(fn) loop_check(#fn, fn, 200)

void guest_main(void)
{
	apic_enable();
	LOOP(flags_and_masks);
	SOME(flags_by_sysret);
	SOME(sysret_into_a_step);
	SOME(entry_and_selectors_change);
	SOME(disabled_now_and_then);
	SOME(disabled_meanwhile);
	SOME(interrupt_waits_for_sysret);
	FEW(interrupts_all_the_time);
	if (!on_qemu_tcg()) /* which faults elsewhere */
		SOME(returns_to_nowhere);
	SOME(returns_to_the_kernels_half);
	SOME(code_changes_meanwhile);
	SOME(vector_units_change);
	SOME(breakpoint_on_the_entry);
}
