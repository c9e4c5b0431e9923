/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What runs in a cell besides the guest: the code at the start of its window, and the seccomp filter over it.
 *
 * The code is written in assembly because it is copied, runs where no library is, and must not be instrumented. It relies on nothing in memory that the
 * guest could have changed: the control words are written by the vCPU while the cell waits.
 */
#include "engine/bt/cell.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <ucontext.h>

#define STR_(x) #x
#define STR(x) STR_(x)

#define OFF_STATE 0
#define OFF_NCALLS 4
#define OFF_STAY 8
#define OFF_FRAME 16
#define OFF_FS 24
#define OFF_GS 32
#define OFF_SEL 40
#define OFF_ERROR 48
#define OFF_SIGNAL 12
#define OFF_ADDRESS 56
#define OFF_NUMBER 64
#define OFF_CODE 68
#define OFF_WENT 72
#define OFF_CAME 80
#define OFF_CALL 88
#define FRAME_FLAGS 176 /* in a struct ucontext */
#define CALL_SIZE 56
_Static_assert(offsetof(struct cell_shared, ncalls) == OFF_NCALLS && offsetof(struct cell_shared, stay) == OFF_STAY &&
		       offsetof(struct cell_shared, frame) == OFF_FRAME && offsetof(struct cell_shared, fs_base) == OFF_FS &&
		       offsetof(struct cell_shared, gs_base) == OFF_GS && offsetof(struct cell_shared, sel) == OFF_SEL &&
		       offsetof(struct cell_shared, signal) == OFF_SIGNAL && offsetof(struct cell_shared, call_address) == OFF_ADDRESS &&
		       offsetof(struct cell_shared, call_number) == OFF_NUMBER && offsetof(struct cell_shared, code) == OFF_CODE &&
		       offsetof(struct cell_shared, went) == OFF_WENT && offsetof(struct cell_shared, came) == OFF_CAME &&
		       offsetof(struct cell_shared, error) == OFF_ERROR && offsetof(struct cell_shared, call) == OFF_CALL &&
		       sizeof(struct cell_call) == CALL_SIZE,
	       "the assembly below knows the layout");

_Static_assert(offsetof(ucontext_t, uc_mcontext.gregs[REG_EFL]) == FRAME_FLAGS, "so does what loads flags");

/* clang-format off */
__asm__(".pushsection .rodata\n"
	".balign 64\n"
	"cell_code_begin:\n"

	/* The first that runs: the queued calls, then a signal to say so. */
	"cell_code_start:\n"
	"	leaq cell_code_begin+4096(%rip), %rbx\n"
	"	call 5f\n"
	"	ud2\n"

	/* A signal handler: (number, siginfo, ucontext). All registers are in the frame. */
	"cell_code_signal:\n"
	"	cld\n"
	"	pushfq\n" /* NT and ID are what user code left */
	"	andl $~0x204000, (%rsp)\n"
	"	popfq\n"
	"	leaq cell_code_begin+4096(%rip), %rbx\n"
	"	movq %rdx, " STR(OFF_FRAME) "(%rbx)\n"
	"	rdtsc\n"
	"	movl %eax, " STR(OFF_CAME) "(%rbx)\n"
	"	movl %edx, " STR(OFF_CAME) "+4(%rbx)\n"
	"	movl %edi, " STR(OFF_SIGNAL) "(%rbx)\n"
	"	movl 8(%rsi), %eax\n" /* siginfo's si_code */
	"	movl %eax, " STR(OFF_CODE) "(%rbx)\n"
	"	movq 16(%rsi), %rax\n" /* si_call_addr and si_syscall */
	"	movq %rax, " STR(OFF_ADDRESS) "(%rbx)\n"
	"	movl 24(%rsi), %eax\n"
	"	movl %eax, " STR(OFF_NUMBER) "(%rbx)\n"
	"	rdfsbase %rax\n"
	"	movq %rax, " STR(OFF_FS) "(%rbx)\n"
	"	rdgsbase %rax\n"
	"	movq %rax, " STR(OFF_GS) "(%rbx)\n"
	"	movw %ds, " STR(OFF_SEL) "(%rbx)\n"
	"	movw %es, " STR(OFF_SEL) "+2(%rbx)\n"
	"	movw %fs, " STR(OFF_SEL) "+4(%rbx)\n"
	"	movw %gs, " STR(OFF_SEL) "+6(%rbx)\n"
	"1:	movl $1, " STR(OFF_STATE) "(%rbx)\n" /* CELL_WAITS */
	"2:	movl $202, %eax\n" /* futex(state, FUTEX_WAKE, 1) */
	"	movq %rbx, %rdi\n"
	"	movl $1, %esi\n"
	"	movl $1, %edx\n"
	"	syscall\n"
	"3:	movl " STR(OFF_STATE) "(%rbx), %edx\n"
	"	testl %edx, %edx\n"
	"	je 4f\n"
	"	movl $202, %eax\n" /* futex(state, FUTEX_WAIT, what it is, for ever) */
	"	movq %rbx, %rdi\n"
	"	xorl %esi, %esi\n"
	"	xorl %r10d, %r10d\n"
	"	syscall\n"
	"	jmp 3b\n"
	"4:	call 5f\n"
	"	cmpl $0, " STR(OFF_STAY) "(%rbx)\n"
	"	jne 1b\n"
	"	movw " STR(OFF_SEL) "(%rbx), %ds\n"
	"	movw " STR(OFF_SEL) "+2(%rbx), %es\n"
	"	movw " STR(OFF_SEL) "+4(%rbx), %fs\n"
	"	movw " STR(OFF_SEL) "+6(%rbx), %gs\n"
	"	movq " STR(OFF_FS) "(%rbx), %rax\n"
	"	wrfsbase %rax\n"
	"	movq " STR(OFF_GS) "(%rbx), %rax\n"
	"	wrgsbase %rax\n"
	"	rdtsc\n"
	"	movl %eax, " STR(OFF_WENT) "(%rbx)\n"
	"	movl %edx, " STR(OFF_WENT) "+4(%rbx)\n"
	"	movq " STR(OFF_FRAME) "(%rbx), %rax\n" /* NT and ID, which sigreturn leaves as it finds them */
	"	movl " STR(FRAME_FLAGS) "(%rax), %eax\n"
	"	andl $0x204000, %eax\n"
	"	pushfq\n"
	"	orl %eax, (%rsp)\n"
	"	popfq\n"
	"	ret\n"

	/* The calls of the list; each is erased, for it holds the secret. */
	"5:	movl " STR(OFF_NCALLS) "(%rbx), %r12d\n"
	"	leaq " STR(OFF_CALL) "(%rbx), %r13\n"
	"6:	testl %r12d, %r12d\n"
	"	je 7f\n"
	"	movq (%r13), %rax\n"
	"	movq 8(%r13), %rdi\n"
	"	movq 16(%r13), %rsi\n"
	"	movq 24(%r13), %rdx\n"
	"	movq 32(%r13), %r10\n"
	"	movq 40(%r13), %r8\n"
	"	movq 48(%r13), %r9\n"
	"	syscall\n"
	"	movq $0, 32(%r13)\n"
	"	movq $0, 40(%r13)\n"
	"	movq $0, 48(%r13)\n"
	"	addq $" STR(CALL_SIZE) ", %r13\n"
	"	decl %r12d\n"
	"	cmpq $-4096, %rax\n"
	"	jbe 6b\n"
	"	movq %rax, " STR(OFF_ERROR) "(%rbx)\n"
	"	jmp 6b\n"
	"7:	ret\n"

	"cell_code_return:\n"
	"	movl $15, %eax\n" /* rt_sigreturn */
	"	syscall\n"
	"	ud2\n"
	"cell_code_end:\n"
	".globl cell_code_begin, cell_code_end, cell_code_start, cell_code_signal, cell_code_return\n"
	".popsection\n");
/* clang-format on */

/* ---- the filter */

struct filter {
	struct sock_filter *f;
	u32 n;
};

static void put(struct filter *p, u16 code, u32 k)
{
	p->f[p->n++] = (struct sock_filter){.code = code, .k = k};
}

static void load(struct filter *p, size_t offset)
{
	put(p, BPF_LD | BPF_W | BPF_ABS, (u32)offset);
}

/* Unless the loaded word is k, the verdict. */
static void demand(struct filter *p, u32 k, u32 verdict)
{
	p->f[p->n++] = (struct sock_filter){.code = BPF_JMP | BPF_JEQ | BPF_K, .jt = 1, .k = k};
	put(p, BPF_RET | BPF_K, verdict);
}

static size_t word(u32 arg, bool high)
{
	return offsetof(struct seccomp_data, args) + 8 * arg + (high ? 4 : 0);
}

static void demand_arg(struct filter *p, u32 arg, u64 value)
{
	load(p, word(arg, false));
	demand(p, (u32)value, SECCOMP_RET_KILL_PROCESS);
	load(p, word(arg, true));
	demand(p, (u32)(value >> 32), SECCOMP_RET_KILL_PROCESS);
}

/* Begin what holds for one system call; end_call patches the jump over it. */
static u32 begin_call(struct filter *p, u32 nr)
{
	load(p, offsetof(struct seccomp_data, nr));
	p->f[p->n] = (struct sock_filter){.code = BPF_JMP | BPF_JEQ | BPF_K, .k = nr};
	return p->n++;
}

static void end_call(struct filter *p, u32 at)
{
	put(p, BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	p->f[at].jf = (u8)(p->n - at - 1);
}

u32 bt_cell_filter(struct sock_filter *f, u64 window, u64 secret)
{
	struct filter p = {f, 0};
	u32 at;
	load(&p, offsetof(struct seccomp_data, arch));
	demand(&p, AUDIT_ARCH_X86_64, SECCOMP_RET_TRAP);
	load(&p, offsetof(struct seccomp_data, instruction_pointer) + 4);
	demand(&p, (u32)(window >> 32), SECCOMP_RET_TRAP);
	load(&p, offsetof(struct seccomp_data, instruction_pointer));
	put(&p, BPF_ALU | BPF_AND | BPF_K, 0xfffff000);
	demand(&p, (u32)window, SECCOMP_RET_TRAP);

	at = begin_call(&p, SYS_rt_sigreturn);
	end_call(&p, at);
	at = begin_call(&p, SYS_futex);
	demand_arg(&p, 0, window + PAGE_SIZE);
	end_call(&p, at);
	/* Linux looks at the lower halves of flags and descriptor only. */
	at = begin_call(&p, SYS_mmap);
	load(&p, word(3, true));
	demand(&p, (u32)secret, SECCOMP_RET_KILL_PROCESS);
	load(&p, word(4, true));
	demand(&p, (u32)(secret >> 32), SECCOMP_RET_KILL_PROCESS);
	end_call(&p, at);
	at = begin_call(&p, SYS_munmap);
	demand_arg(&p, 5, secret);
	end_call(&p, at);
	put(&p, BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	return p.n;
}
