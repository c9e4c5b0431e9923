/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu-oracle, the oracle's child process, started by native.c with its descriptors (native_child.h). Its life is one signal handler: the handler stores
 * what the case left behind, waits for work, puts the next case's state into the signal frame and returns into it.
 *
 * The case owns every register, FS base included, so the handler's entry restores what compiled code relies on (DF, AC clear; FS base). NT and
 * ID are cleared there, and set again as the frame has them, because sigreturn leaves them as it finds them.
 * Threading: single-threaded; all signals are blocked inside the handler.
 */
#include "native_child.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define ALT_STACK_SIZE (256u * 1024)
#define TICK_US 1000
#define CPU_NS_ALLOWED 1500000ull
#define FX_SW_RESERVED 464u
#define USER_CODE32 0x23ull /* Linux's selectors */
#define USER_CODE64 0x33ull
#define USER_DATA 0x2bull
#define VEC_DB 1
#define FL_TF 0x100u

/* A signal handler has no other way to find its data. One child process has one of these. */
static struct {
	struct native_shared *shared;
	u8 *code, *data;       /* writable views of the case's pages */
	u32 code_at, code_len; /* what the last case may have left in the code area */
	bool writable;	       /* it may change its code */
	u64 first_tick;	       /* the CPU time when the current case was first found running; 0: not yet */
	bool running;
	void *first_stack; /* what the kernel gave the process; NULL once it is gone */
	size_t first_stack_size;
} child;

#define FL_KEPT 0x204000u /* ID and NT */

u64 native_host_fs, native_case_fs, native_case_gs, native_case_flags;
void native_signal_entry(int sig, siginfo_t *si, void *uc);
void native_on_signal(int sig, siginfo_t *si, ucontext_t *uc);

__asm__(".text\n"
	".globl native_signal_entry\n"
	"native_signal_entry:\n"
	"	cld\n"
	"	pushfq\n"
	"	andl $~0x244000, (%rsp)\n"
	"	popfq\n"
	"	rdfsbase %rax\n"
	"	mov %rax, native_case_fs(%rip)\n"
	"	rdgsbase %rax\n"
	"	mov %rax, native_case_gs(%rip)\n"
	"	xor %eax, %eax\n" /* a case may have loaded selectors, in bytes that are not meant as instructions */
	"	mov %eax, %fs\n"
	"	mov %eax, %gs\n"
	"	mov native_host_fs(%rip), %rax\n"
	"	wrfsbase %rax\n"
	"	sub $8, %rsp\n"
	"	call native_on_signal\n"
	"	add $8, %rsp\n"
	"	mov native_case_fs(%rip), %rax\n"
	"	wrfsbase %rax\n"
	"	mov native_case_gs(%rip), %rax\n"
	"	wrgsbase %rax\n"
	"	mov native_case_flags(%rip), %rax\n"
	"	pushfq\n"
	"	or %rax, (%rsp)\n"
	"	popfq\n"
	"	ret\n");

static const u8 greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
			       REG_R8,	REG_R9,	 REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static void store_result(struct cpu_result *r, const ucontext_t *uc, int sig)
{
	const greg_t *g = uc->uc_mcontext.gregs;

	for (u32 i = 0; i < 16; i++)
		r->gpr[i] = (u64)g[greg_of[i]];
	r->rip = (u64)g[REG_RIP];
	r->rflags = (u64)g[REG_EFL];
	r->vector = (u32)g[REG_TRAPNO];
	r->error = (u32)g[REG_ERR];
	r->cr2 = (u64)g[REG_CR2];
	r->fs_base = native_case_fs;
	r->gs_base = native_case_gs;
	memcpy(r->xsave.bytes, uc->uc_mcontext.fpregs, CASE_XSAVE_SIZE);
	memcpy(r->data, child.data, CASE_DATA_ALL);
	r->code = child.writable ? case_digest(0, child.code, CASE_CODE_SIZE) : 0;
	r->note[0] = 0;
	r->end = sig == SIGALRM ? END_TIMEOUT : sig == SIGSYS ? END_UNSUPPORTED : END_FAULT;
}

static void load_xsave(const struct cpu_case *c, u8 *frame)
{
	struct _fpx_sw_bytes *sw = (struct _fpx_sw_bytes *)(void *)(frame + FX_SW_RESERVED);
	u32 size = sw->xstate_size < CASE_XSAVE_SIZE ? sw->xstate_size : CASE_XSAVE_SIZE;

	memcpy(frame, c->xsave.bytes, FX_SW_RESERVED);
	memcpy(frame + 512, c->xsave.bytes + 512, size - 512);
}

static bool is_prefix(u8 byte)
{
	static const u8 legacy[] = {0x66, 0x67, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0xf2, 0xf3};

	return (byte & 0xf0) == 0x40 || memchr(legacy, byte, sizeof(legacy));
}

/* Past the end when it is not in the code area. */
static u64 code_offset(u64 rip)
{
	return rip - (rip < CASE_CODE_W ? CASE_CODE : CASE_CODE_W);
}

/* POPF would end the trace: set TF in the image that it is about to load. A traced run's results are not used. */
static void keep_tracing_over_popf(u64 rip, u64 rsp)
{
	u64 at = code_offset(rip), stack = rsp - CASE_DATA;

	while (at < CASE_CODE_SIZE && is_prefix(child.code[at]))
		at++;
	if (at < CASE_CODE_SIZE && child.code[at] == 0x9d && stack < CASE_DATA_ALL - 1)
		child.data[stack + 1] |= FL_TF >> 8;
}

/* As Linux starts programs. A case may have loaded others (LDS in bytes that are not meant as instructions). */
static void set_data_segments(u8 bits)
{
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"(bits == 32 ? (u32)USER_DATA : 0));
}

/* A store that goes astray changes the code of no other case. */
static void allow_writing(bool writable)
{
	if (child.writable != writable)
		mprotect((void *)CASE_CODE_W, CASE_CODE_SIZE, PROT_READ | PROT_EXEC | (writable ? PROT_WRITE : 0));
	child.writable = writable;
}

static void load_code(const struct cpu_case *c)
{
	allow_writing(c->writable);
	memset(child.code + child.code_at, 0xcc, child.code_len);
	memcpy(child.code + c->start, c->code, c->code_len);
	child.code_at = c->writable ? 0 : c->start;
	child.code_len = c->writable ? CASE_CODE_SIZE : c->code_len;
}

static void load_case(const struct cpu_case *c, ucontext_t *uc)
{
	greg_t *g = uc->uc_mcontext.gregs;

	load_code(c);
	case_fill_data(c, child.data);
	for (u32 i = 0; i < 16; i++)
		g[greg_of[i]] = (greg_t)c->gpr[i];
	g[REG_CSGSFS] = (greg_t)((c->bits == 64 ? USER_CODE64 : USER_CODE32) | USER_DATA << 48);
	g[REG_RIP] = (greg_t)case_start_rip(c);
	g[REG_EFL] = (greg_t)(c->rflags | (child.shared->tracing ? FL_TF : 0));
	native_case_fs = c->fs_base;
	native_case_gs = c->gs_base;
	set_data_segments(c->bits);
	load_xsave(c, (u8 *)uc->uc_mcontext.fpregs);
	if (child.shared->tracing)
		keep_tracing_over_popf(case_start_rip(c), c->gpr[4]);
}

static void wait_for_work(void)
{
	struct native_shared *s = child.shared;
	u32 request;

	while ((request = atomic_load(&s->request)) == atomic_load(&s->done))
		syscall(SYS_futex, &s->request, FUTEX_WAIT, request, NULL, NULL, 0);
}

static void batch_done(void)
{
	struct native_shared *s = child.shared;

	atomic_store(&s->done, atomic_load(&s->request));
	syscall(SYS_futex, &s->done, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void note_code(struct native_step *step)
{
	u64 at = code_offset(step->rip), room = at < CASE_CODE_SIZE ? CASE_CODE_SIZE - at : 0;

	step->len = (u8)(room < sizeof(step->code) ? room : sizeof(step->code));
	memcpy(step->code, child.code + at, step->len);
}

/* Nothing has moved: INT1 where a hypervisor reports its own address, or a jump to itself. */
static bool stands_still(const struct native_step *step)
{
	return !memcmp(step, step - 1, offsetof(struct native_step, code));
}

/* A single step of a traced case: note where it is and go on, as long as there is room. */
static bool trace_step(const ucontext_t *uc)
{
	struct native_trace *t = &child.shared->trace;
	const greg_t *g = uc->uc_mcontext.gregs;
	struct native_step *step = &t->step[t->n];

	if (!child.shared->tracing || g[REG_TRAPNO] != VEC_DB || t->n == NATIVE_TRACE)
		return false;
	step->rip = (u64)g[REG_RIP];
	step->rflags = (u64)g[REG_EFL];
	for (u32 i = 0; i < 16; i++)
		step->gpr[i] = (u64)g[greg_of[i]];
	if (t->n && stands_still(step))
		return false;
	t->n++;
	note_code(step);
	keep_tracing_over_popf(step->rip, step->gpr[4]);
	return true;
}

/* Ticks are of real time, which comes in finer steps than a process's own; what counts is the CPU time since the case's first. */
static bool has_time(void)
{
	struct timespec t;
	u64 now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	now = (u64)t.tv_sec * 1000000000 + (u64)t.tv_nsec;
	if (!child.first_tick)
		child.first_tick = now;
	return now - child.first_tick < CPU_NS_ALLOWED;
}

static bool case_goes_on(int sig, const ucontext_t *uc)
{
	if (!child.running)
		return false;
	if (sig == SIGALRM) /* a trace ends when it is full */
		return child.shared->tracing || has_time();
	return sig == SIGTRAP && trace_step(uc);
}

/* Operands near the end of the user's addresses are among those that cases like best, and would hit it. */
static void give_up_first_stack(void)
{
	if (child.first_stack && munmap(child.first_stack, child.first_stack_size) < 0)
		_exit(3);
	child.first_stack = NULL;
}

static void next_case(int sig, ucontext_t *uc)
{
	struct native_shared *s = child.shared;

	give_up_first_stack();
	if (child.running)
		store_result(&s->slot[s->queue[s->next++]].result, uc, sig);
	child.running = false;
	while (s->next >= s->n) {
		batch_done();
		wait_for_work();
	}
	child.first_tick = 0;
	child.running = true;
	load_case(&s->slot[s->queue[s->next]].c, uc);
}

void native_on_signal(int sig, siginfo_t *si, ucontext_t *uc)
{
	if (!case_goes_on(sig, uc))
		next_case(sig, uc);
	native_case_flags = (u64)uc->uc_mcontext.gregs[REG_EFL] & FL_KEPT;
}

/* Present from the start, so that a refused access is reported as a violation of a present page, as in the guest. */
static void *must_map(u64 at, u64 size, int prot, int fd, u64 offset)
{
	void *p = mmap((void *)at, size, prot, MAP_SHARED | MAP_POPULATE | MAP_LOCKED | (at ? MAP_FIXED_NOREPLACE : 0), fd, (off_t)offset);

	if (p == MAP_FAILED || (at && (u64)p != at))
		_exit(3);
	return p;
}

static void map_pages(int code_fd, int data_fd)
{
	must_map(CASE_CODE, CASE_CODE_SIZE, PROT_READ | PROT_EXEC, code_fd, 0);
	must_map(CASE_CODE_W, CASE_CODE_SIZE, PROT_READ | PROT_EXEC, code_fd, 0);
	must_map(CASE_DATA, CASE_DATA_SIZE, PROT_READ | PROT_WRITE, data_fd, 0);
	must_map(CASE_ROM, CASE_ROM_SIZE, PROT_READ, data_fd, CASE_DATA_SIZE);
	child.code = must_map(0, CASE_CODE_SIZE, PROT_READ | PROT_WRITE, code_fd, 0);
	child.data = must_map(0, CASE_DATA_ALL, PROT_READ | PROT_WRITE, data_fd, 0);
	memset(child.code, 0xcc, CASE_CODE_SIZE);
}

static void install_handlers(void)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGALRM, SIGUSR1};
	struct sigaction sa = {.sa_sigaction = native_signal_entry, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	stack_t alt = {.ss_size = ALT_STACK_SIZE};

	alt.ss_sp = mmap(NULL, ALT_STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL); /* an engine blocks signals on the thread that forks us */
	if (alt.ss_sp == MAP_FAILED || sigaltstack(&alt, NULL) < 0)
		_exit(3);
	sigfillset(&sa.sa_mask);
	for (u32 i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &sa, NULL);
}

/* System calls made by the case's code trap; the handler's own are free. The instruction pointer is the one after SYSCALL. */
static void install_filter(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 4),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer)),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (u32)CASE_CODE, 0, 2),
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (u32)(CASE_CODE_W + CASE_CODE_SIZE), 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = ARRAY_SIZE(filter), .filter = filter};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0)
		_exit(3);
}

static void find_first_stack(void)
{
	unsigned long from, to;
	char line[256];
	FILE *f = fopen("/proc/self/maps", "re");

	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "[stack]") && sscanf(line, "%lx-%lx", &from, &to) == 2) {
			child.first_stack = (void *)from;
			child.first_stack_size = to - from;
		}
	if (!f || !child.first_stack)
		_exit(3);
	fclose(f);
}

static void start_ticking(void)
{
	struct itimerval t = {.it_interval = {.tv_usec = TICK_US}, .it_value = {.tv_usec = TICK_US}};

	setitimer(ITIMER_REAL, &t, NULL);
}

int main(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	child.shared = must_map(0, sizeof(*child.shared), PROT_READ | PROT_WRITE, NATIVE_FD_SHARED, 0);
	__asm__ volatile("rdfsbase %0" : "=r"(native_host_fs));
	map_pages(NATIVE_FD_CODE, NATIVE_FD_DATA);
	find_first_stack();
	install_handlers();
	install_filter();
	start_ticking();
	wait_for_work();
	raise(SIGUSR1);
	return 3;
}
