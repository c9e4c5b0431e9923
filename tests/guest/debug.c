/* SPDX-License-Identifier: Apache-2.0 */
/* Single stepping and hardware breakpoints: where #DB comes, what DR6 says, what the shadow of MOV SS hides. */
#include "lib.h"

#define TF 0x100ul
#define DR6_BS (1ul << 14)
#define DR6_BD (1ul << 13)
#define DR6_CLEAR 0xffff0ff0ul

static volatile u64 steps[64], nsteps, last_dr6;

static bool note_step(struct trap_frame *f)
{
	if (nsteps < ARRAY_SIZE(steps))
		steps[nsteps] = f->rip;
	nsteps++;
	last_dr6 = read_dr6();
	write_dr6(DR6_CLEAR);
	return true;
}

static void start(void)
{
	nsteps = 0;
	write_dr6(DR6_CLEAR);
	trap_set_handler(DB, note_step);
}

#define STEPPED(code) "pushfq; orq $0x100, (%%rsp); popfq\n\t" code "\n\tpushfq; andq $~0x100, (%%rsp); popfq\n\t"

extern const u8 st_a[], st_b[], st_c[], st_d[];
static void straight_line(void)
{
	start();
	__asm__ volatile(STEPPED("st_a: nop\nst_b: mov %%rax, %%rax\nst_c: nop\nst_d:")::: "memory", "cc");
	/* The instruction behind POPF is the first to be stepped; the last POPF is stepped too. */
	CHECK_EQ(nsteps, 6);
	CHECK_EQ(steps[0], (u64)st_b);
	CHECK_EQ(steps[1], (u64)st_c);
	CHECK_EQ(steps[2], (u64)st_d);
	CHECK_EQ(last_dr6 & DR6_BS, DR6_BS);
}

extern const u8 rep_a[], rep_b[];
static void through_rep(void)
{
	u8 from[8] = {1, 2, 3, 4, 5}, to[8] = {0};
	u64 cx = 5, si = (u64)from, di = (u64)to;

	start();
	__asm__ volatile(STEPPED("rep_a: rep movsb\nrep_b:") : "+c"(cx), "+S"(si), "+D"(di)::"memory", "cc");
	/* one trap an iteration, with rip on the instruction until the last */
	CHECK_EQ(nsteps, 5 + 3);
	CHECK_EQ(steps[0], (u64)rep_a);
	CHECK_EQ(steps[3], (u64)rep_a);
	CHECK_EQ(steps[4], (u64)rep_b);
	CHECK_EQ(memcmp(from, to, 8), 0);
}

extern const u8 jmp_a[], jmp_b[], jmp_c[];
static void through_branches(void)
{
	start();
	__asm__ volatile(STEPPED("jmp jmp_a\nnop\njmp_a: call 1f\njmp_b: jmp jmp_c\n1: ret\njmp_c:")::: "memory", "cc");
	CHECK_EQ(steps[0], (u64)jmp_a);
	CHECK_EQ(steps[2], (u64)jmp_b);
	CHECK_EQ(steps[3], (u64)jmp_c);
	CHECK_EQ(nsteps, 4 + 3);
}

static u16 data_selector = SEL_DATA;
extern const u8 ss_a[], ss_b[];
static void mov_ss_hides_one(void)
{
	start();
	__asm__ volatile(STEPPED("mov %0, %%ss\nss_a: nop\nss_b:")::"m"(data_selector) : "memory", "cc");
	CHECK_EQ(steps[0], (u64)ss_b);
	CHECK_EQ(nsteps, 1 + 3);
}

/* An exception's handler runs without TF; stepping goes on behind the instruction that was resumed. */
extern const u8 exc_a[], exc_b[];
static bool skip_ud(struct trap_frame *f)
{
	f->rip += 2;
	if (flags_get() & TF)
		nsteps += 100;
	return true;
}

static void handlers_run_without_tf(void)
{
	start();
	trap_set_handler(UD, skip_ud);
	__asm__ volatile(STEPPED("exc_a: ud2\nexc_b: nop\n")::: "memory", "cc");
	trap_set_handler(UD, NULL);
	CHECK(nsteps < 100);
	CHECK_EQ(steps[0], (u64)exc_b + 1);
}

extern const u8 int_b[];
static bool handled(struct trap_frame *f)
{
	return true;
}

static void through_int(void)
{
	start();
	trap_set_handler(0x62, handled);
	__asm__ volatile(STEPPED("int $0x62\nint_b: nop")::: "memory", "cc");
	/* INT clears TF; the IRET restores it without a trap on the IRET itself */
	CHECK_EQ(steps[0], (u64)int_b + 1);
}

/* From ring 3 through SYSCALL: with TF masked the kernel is not stepped; SYSRET brings it back. */
extern const u8 step_syscall_entry[], us_b[];
__asm__(".text\nstep_syscall_entry: sysretq\n");

UTEXT static u64 user_stepped(u64 arg)
{
	__asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq\n\t"
			 "syscall\nus_b: nop\n\t"
			 "pushfq; andq $~0x100, (%%rsp); popfq" ::
				 : "rcx", "r11", "memory", "cc");
	return 1;
}

static void through_syscall(void)
{
	wrmsr(0xc0000081, (u64)SEL_UCODE32 << 48 | (u64)SEL_CODE64 << 32);
	wrmsr(0xc0000082, (u64)step_syscall_entry);
	wrmsr(0xc0000084, 0x100);
	start();
	CHECK_EQ(user_call(user_stepped, 0), 1);
	for (u64 i = 0; i < nsteps; i++)
		CHECK(steps[i] != (u64)step_syscall_entry);
	CHECK(steps[0] == (u64)us_b || steps[0] == (u64)us_b + 1);
}

static u64 watched[4];
static volatile u64 hits, hit_dr6, hit_rip;

static bool note_hit(struct trap_frame *f)
{
	hits++;
	hit_dr6 = read_dr6();
	hit_rip = f->rip;
	write_dr6(DR6_CLEAR);
	if (!(read_dr7() >> 16 & 3))
		f->rflags |= 1ul << 16; /* RF: let a code breakpoint's instruction run */
	return true;
}

/* n: register; type: 0 execute, 1 write, 3 read or write; length 1, 2, 4, 8 */
static void watch(u64 address, u64 type, u64 length)
{
	static const u8 code[9] = {[1] = 0, [2] = 1, [4] = 3, [8] = 2};

	hits = 0;
	trap_set_handler(DB, note_hit);
	write_dr6(DR6_CLEAR);
	write_dr0(address);
	write_dr7(0x402 | type << 16 | (u64)code[length] << 18);
}

static void unwatch(void)
{
	write_dr7(0x400);
}

extern const u8 bp_here[];
static void code_breakpoint(void)
{
	watch((u64)bp_here, 0, 1);
	__asm__ volatile("nop; nop\nbp_here: nop; nop");
	unwatch();
	CHECK_EQ(hits, 1);
	CHECK_EQ(hit_rip, (u64)bp_here);
	CHECK_EQ(hit_dr6 & 0xf, 1);
	__asm__ volatile("" ::: "memory");
}

extern const u8 wp_after[];
static void write_watchpoint(void)
{
	watch((u64)&watched[1], 1, 8);
	__asm__ volatile("movq $1, %0\nwp_after: nop" : "=m"(watched[1]));
	CHECK_EQ(hits, 1);
	CHECK_EQ(hit_rip, (u64)wp_after); /* a trap: behind the store */
	CHECK_EQ(hit_dr6 & 0xf, 1);
	(void)*(volatile u64 *)&watched[1];
	CHECK_EQ(hits, 1); /* reads do not count */
	*(volatile u64 *)&watched[0] = 1;
	*(volatile u64 *)&watched[2] = 1;
	CHECK_EQ(hits, 1);
	*(volatile u8 *)((u8 *)&watched[1] + 7) = 1;
	CHECK_EQ(hits, 2);
	*(volatile u32 *)((u8 *)&watched[1] - 2) = 1; /* overlaps */
	CHECK_EQ(hits, 3);
	unwatch();
	*(volatile u64 *)&watched[1] = 1;
	CHECK_EQ(hits, 3);
}

static void read_write_watchpoint(void)
{
	watch((u64)&watched[2], 3, 4);
	(void)*(volatile u32 *)&watched[2];
	CHECK_EQ(hits, 1);
	*(volatile u32 *)&watched[2] = 5;
	CHECK_EQ(hits, 2);
	__asm__ volatile("lock incl %0" : "+m"(watched[2]));
	CHECK_EQ(hits, 3);
	(void)*(volatile u8 *)((u8 *)&watched[2] + 4);
	CHECK_EQ(hits, 3);
	unwatch();
}

static void watchpoint_in_rep(void)
{
	u64 di = (u64)watched, cx = 4;

	watch((u64)&watched[2], 1, 8);
	__asm__ volatile("rep stosq" : "+D"(di), "+c"(cx) : "a"(0) : "memory");
	unwatch();
	CHECK_EQ(hits, 1);
	CHECK_EQ(cx, 0);
}

static void general_detect(void)
{
	trap_set_handler(DB, NULL);
	write_dr7(0x2400); /* GD */
	trap_clear();
	__asm__ volatile(TRY("mov %%db7, %%rax")::: "rax");
	CHECK_EQ(trap.vector, DB);
	CHECK_EQ(trap.dr6 & DR6_BD, DR6_BD);
	CHECK_EQ(read_dr7() & 0x2000, 0); /* cleared on entry to the handler */
	write_dr7(0x400);
	write_dr6(DR6_CLEAR);
}

static void dr4_is_dr6(void)
{
	u64 v;

	trap_set_handler(DB, NULL);
	write_cr4(read_cr4() & ~CR4_DE);
	__asm__ volatile(".byte 0x0f, 0x21, 0xe0" : "=a"(v)); /* mov dr4, rax */
	CHECK_EQ(v, read_dr6());
	write_cr4(read_cr4() | CR4_DE);
	trap_clear();
	__asm__ volatile(TRY(".byte 0x0f, 0x21, 0xe0")::: "rax");
	TRIED(UD, 0);
	write_cr4(read_cr4() & ~CR4_DE);
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%db7")::"r"(1ul << 32));
	TRIED(GP, 0);
}

void guest_main(void)
{
	LOOP(straight_line);
	LOOP(through_rep);
	LOOP(through_branches);
	LOOP(mov_ss_hides_one);
	LOOP(handlers_run_without_tf);
	LOOP(through_int);
	LOOP(through_syscall);
	LOOP(code_breakpoint);
	LOOP(write_watchpoint);
	LOOP(read_write_watchpoint);
	LOOP(watchpoint_in_rep);
	if (!on_qemu_tcg()) /* which has no general detect */
		LOOP(general_detect);
	LOOP(dr4_is_dr6);
}
