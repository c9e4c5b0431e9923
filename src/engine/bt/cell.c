/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cells as processes: how one is made from a fork that drops all it inherited, how it is run and waited for, how it ends.
 */
#include "engine/bt/cell.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define RAM_FD 3
#define START_TRIES 8
#define PATIENCE_NS 200000000 /* how long to wait before looking whether the cell lives */
#define FP_MAGIC1 0x46505853u

enum { KICK = SIGUSR1 };
static const int caught[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, KICK};

/* All others stay blocked, for good: what this program does about them, a cell would do at an address of the guest's. */
u64 bt_cell_mask(void)
{
	u64 mask = ~0ull;
	for (size_t i = 0; i < ARRAY_SIZE(caught); i++)
		mask &= ~(1ull << (caught[i] - 1));
	return mask;
}

struct kernel_sigaction {
	u64 handler, flags, restorer, mask;
};

/* What the child needs, made before the fork. */
struct plan {
	u64 window;
	int ram, file; /* the window's */
	pid_t parent;
	struct sock_filter filter[CELL_FILTER];
	struct cell_shared *shared;
};

static u64 in_window(u64 window, const u8 *code)
{
	return window + (u64)(code - cell_code_begin);
}

static long futex(u32 *word, int op, u32 value, const struct timespec *timeout)
{
	return syscall(SYS_futex, word, op, value, timeout, NULL, 0);
}

/* ---- in the child
 *
 * A copy of a process with several threads: system calls only, and none that ThreadSanitizer knows of; it would judge what it saw in the parent. */

static bool keep_two_files(struct plan *p)
{
	long ram = syscall(SYS_fcntl, p->ram, F_DUPFD, 10);
	p->file = (int)syscall(SYS_fcntl, p->file, F_DUPFD, 10);
	return ram >= 0 && p->file >= 0 && syscall(SYS_dup2, ram, RAM_FD) == RAM_FD;
}

/* ThreadSanitizer keeps the addresses that its tables leave over, where windows lie (choose_window), and ends who gets them from mmap. */
#ifdef __SANITIZE_THREAD__
#define AT_WINDOW MAP_FIXED
#else
#define AT_WINDOW MAP_FIXED_NOREPLACE
#endif

static bool map_part(const struct plan *p, u64 offset, u64 size, int access)
{
	u64 at = p->window + offset;
	return (u64)syscall(SYS_mmap, at, size, access, MAP_SHARED | AT_WINDOW, p->file, offset) == at;
}

static bool map_window(struct plan *p)
{
	return map_part(p, 0, PAGE_SIZE, PROT_READ | PROT_EXEC) && map_part(p, PAGE_SIZE, CELL_WINDOW - PAGE_SIZE, PROT_READ | PROT_WRITE);
}

/* The kernel writes to none of this process's old memory any more. */
static bool detach(struct plan *p)
{
	syscall(SYS_set_robust_list, NULL, 24);
	syscall(SYS_set_tid_address, NULL);
	char *rseq = (char *)__builtin_thread_pointer() + __rseq_offset;
	for (u32 size = 32; __rseq_size && size <= 256; size += 32) /* the length it was registered with, which the library does not tell */
		if (syscall(SYS_rseq, rseq, size, RSEQ_FLAG_UNREGISTER, RSEQ_SIG) == 0)
			return true;
	return __rseq_size == 0;
}

static bool take_signals(struct plan *p)
{
	/* The guest's stack pointer may point into this one: SS_AUTODISARM, as on the vCPU's thread. */
	stack_t stack = {.ss_sp = (void *)(p->window + (1 + CELL_STATE_PAGES) * PAGE_SIZE),
			 .ss_size = CELL_STACK_PAGES * PAGE_SIZE,
			 .ss_flags = (int)(1u << 31)};
	struct kernel_sigaction act = {.handler = in_window(p->window, cell_code_signal),
				       .flags = SA_SIGINFO | SA_ONSTACK | 0x04000000 /* SA_RESTORER */,
				       .restorer = in_window(p->window, cell_code_return),
				       .mask = ~0ull};
	u64 mask = bt_cell_mask();
	if (syscall(SYS_sigaltstack, &stack, NULL) < 0)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(caught); i++)
		if (syscall(SYS_rt_sigaction, caught[i], &act, NULL, sizeof act.mask) < 0)
			return false;
	return syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof mask) == 0;
}

static bool end_with_parent(struct plan *p)
{
	return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == p->parent;
}

static bool close_files(struct plan *p)
{
	return syscall(SYS_close_range, 0, RAM_FD - 1, 0) == 0 && syscall(SYS_close_range, RAM_FD + 1, ~0u, 0) == 0;
}

static bool give_up_rights(struct plan *p)
{
	const struct rlimit no_core = {0, 0};
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && setrlimit(RLIMIT_CORE, &no_core) == 0;
}

static const struct {
	bool (*take)(struct plan *p);
	const char *what; /* it cannot... */
} steps[] = {
	{end_with_parent, "be made to end with this one"},
	{keep_two_files, "take guest memory over"},
	{map_window, "map its own memory"},
	{detach, "leave the C library behind"},
	{close_files, "close its files"},
	{give_up_rights, "give up its rights"},
	{take_signals, "take its signals"},
};

__attribute__((noreturn)) static void become_cell(struct plan *p)
{
	u64 stack = p->window + (1 + CELL_STATE_PAGES) * PAGE_SIZE - 64, start = in_window(p->window, cell_code_start);
	u32 done = 0;
	while (done < ARRAY_SIZE(steps) && steps[done].take(p))
		done++;
	if (done == ARRAY_SIZE(steps))
		__asm__ volatile("movq %0, %%rsp\n\tjmp *%1" : : "r"(stack), "r"(start) : "memory");
	p->shared->code = done;
	p->shared->error = -errno;
	syscall(SYS_exit_group, 1);
	__builtin_unreachable();
}

/* ---- making one */

/* Once nothing but the window is left, the locks. The filter lies on the signal stack, which is not in use yet. It is not asked about the calls that
 * newer kernels have for their probes, uretprobe and uprobe: user dispatch is, which comes first. */
static void plan_first_calls(struct plan *p, u8 *stack, u64 secret)
{
	struct sock_fprog prog = {.len = (u16)bt_cell_filter(p->filter, p->window, secret)};
	u64 filter_at = p->window + (1 + CELL_STATE_PAGES) * PAGE_SIZE + sizeof prog, end = p->window + CELL_WINDOW;
	prog.filter = (struct sock_filter *)filter_at;
	memcpy(stack, &prog, sizeof prog);
	memcpy(stack + sizeof prog, p->filter, sizeof p->filter);
	p->shared->call[0] = (struct cell_call){SYS_munmap, {0, p->window}};
	p->shared->call[1] = (struct cell_call){SYS_munmap, {end, USER_END - end}};
	p->shared->call[2] = (struct cell_call){SYS_prctl, {PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, p->window, PAGE_SIZE}};
	p->shared->call[3] = (struct cell_call){SYS_seccomp, {SECCOMP_SET_MODE_FILTER, 0, filter_at - sizeof prog}};
	p->shared->ncalls = 4;
}

static bool map_here(struct bt_cell *c, int file)
{
	u8 *p = mmap(NULL, CELL_WINDOW - PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, PAGE_SIZE);
	if (p == MAP_FAILED)
		return false;
	c->shared = (struct cell_shared *)p;
	c->stack = p + CELL_STATE_PAGES * PAGE_SIZE;
	return true;
}

static int window_file(void)
{
	int fd = memfd_create("guise-cell", MFD_CLOEXEC);
	size_t n = (size_t)(cell_code_end - cell_code_begin);
	if (fd >= 0 && (ftruncate(fd, CELL_WINDOW) < 0 || pwrite(fd, cell_code_begin, n, 0) != (ssize_t)n)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* A place that neither this program, a sanitizer in it, nor, most likely, a guest's uses. */
static bool choose_window(struct bt_cell *c)
{
	u64 r[2];
	if (getrandom(r, sizeof r, 0) != sizeof r)
		return false;
	c->window = 0x340000000000ull + (r[0] % (0x200000000000ull >> 12) << 12);
	c->secret = r[1];
	return true;
}

/* Its end is kept for the message. */
static bool alive(struct bt_cell *c)
{
	return c->pid > 0 && waitpid(c->pid, &c->end, WNOHANG) == 0;
}

static bool wait_for_signal(struct bt_cell *c)
{
	const struct timespec patience = {.tv_nsec = PATIENCE_NS};
	while (__atomic_load_n(&c->shared->state, __ATOMIC_ACQUIRE) == CELL_RUNS) {
		if (futex(&c->shared->state, FUTEX_WAIT, CELL_RUNS, &patience) < 0 && errno == ETIMEDOUT && !alive(c)) {
			c->pid = 0;
			return false;
		}
	}
	c->lost |= c->shared->error != 0;
	return true;
}

/* Where every signal's frame lies. The guest has not run yet, so this may be believed. */
static bool learn_frame(struct bt_cell *c)
{
	u64 stack = c->window + (1 + CELL_STATE_PAGES) * PAGE_SIZE, frame = c->shared->frame - stack;
	if (frame > CELL_STACK_PAGES * PAGE_SIZE - sizeof(ucontext_t))
		return false;
	const ucontext_t *uc = (const ucontext_t *)(c->stack + frame);
	u64 fp = (u64)uc->uc_mcontext.fpregs - stack;
	if (fp > CELL_STACK_PAGES * PAGE_SIZE - 1024)
		return false;
	struct {
		u32 magic, extended;
		u64 features;
		u32 size;
	} sw;
	memcpy(&sw, c->stack + fp + FP_SOFTWARE, sizeof sw);
	c->frame = (u32)frame;
	c->fp = (u32)fp;
	c->fp_size = sw.size;
	return sw.magic == FP_MAGIC1 && sw.size > FP_HEADER && fp + sw.size <= CELL_STACK_PAGES * PAGE_SIZE;
}

/* This program's registers were the child's, and may have held the secret. All components in their initial state. */
static void forget_vectors(struct bt_cell *c)
{
	static const u32 mxcsr = 0x1f80;
	u8 *fp = c->stack + c->fp;
	memset(fp, 0, FP_SOFTWARE);
	memset(fp + FP_HEADER, 0, c->fp_size - FP_HEADER);
	memcpy(fp + 24, &mxcsr, sizeof mxcsr);
}

static void stop(struct bt_cell *c)
{
	if (c->pid > 0) {
		kill(c->pid, SIGKILL);
		waitpid(c->pid, NULL, 0);
	}
	c->pid = 0;
}

#define WITHOUT "engine bt then translates all code, which is slower"

/* What the child has left behind says how far it came. */
static int refuse(const struct bt_cell *c, bool ended, struct err *e)
{
	const struct cell_shared *s = c->shared;
	if (ended && s->code < ARRAY_SIZE(steps))
		return err_set(e, ENOTSUP, "a process that is to execute guest code directly cannot %s: %s; " WITHOUT, steps[s->code].what,
			       strerror((int)-s->error));
	if (s->error)
		return err_set(e, ENOTSUP,
			       "a process that is to execute guest code directly cannot lock up its system calls (user dispatch, seccomp): "
			       "%s; " WITHOUT,
			       strerror((int)-s->error));
	return err_set(e, ENOTSUP, "a process that is to execute guest code directly gets signals in a form unknown here; " WITHOUT);
}

static int start(struct bt_cell *c, int ram, int file, bool compat, struct err *e)
{
	struct plan p = {.ram = ram, .file = file, .parent = getpid(), .shared = c->shared};
	if (!choose_window(c))
		return err_sys(e, errno, "random numbers for direct execution");
	memset(c->shared, 0, sizeof *c->shared);
	c->broken = c->lost = false;
	p.window = c->window;
	plan_first_calls(&p, c->stack, c->secret);
	/* Not by fork, which runs what libraries have asked for; ThreadSanitizer starts a thread. */
	c->pid = (pid_t)syscall(SYS_fork);
	if (c->pid == 0)
		become_cell(&p);
	if (c->pid < 0)
		return err_set(e, errno, "a process that is to execute guest code directly cannot be started: %s; " WITHOUT,
			       strerror(errno));
	bool waits = wait_for_signal(c);
	if (!waits || c->lost || !learn_frame(c)) {
		stop(c);
		return refuse(c, !waits, e);
	}
	memset(c->stack, 0, sizeof(struct sock_fprog) + sizeof p.filter); /* the filter holds the secret */
	forget_vectors(c);
	if (compat && !bt_cell_try_compat(c)) {
		stop(c);
		return start(c, ram, file, false, e);
	}
	return 0;
}

/* The window's place is a guess: another one may be free. */
static int start_somewhere(struct bt_cell *c, int ram, struct err *e)
{
	int file = window_file();
	if (file < 0 || !map_here(c, file)) {
		int why = errno;
		if (file >= 0)
			close(file);
		return err_sys(e, why, "memory for direct execution");
	}
	int r = start(c, ram, file, true, e);
	for (u32 i = 1; r < 0 && i < START_TRIES; i++)
		r = start(c, ram, file, true, e);
	close(file);
	return r;
}

struct bt_cell *bt_cell_new(int ram, struct err *e)
{
	struct bt_cell *c = calloc(1, sizeof *c);
	if (!c) {
		err_sys(e, ENOMEM, "memory for direct execution");
		return NULL;
	}
	if (start_somewhere(c, ram, e) < 0) {
		bt_cell_free(c);
		return NULL;
	}
	c->cpu = -1;
	return c;
}

void bt_cell_free(struct bt_cell *c)
{
	if (!c)
		return;
	stop(c);
	if (c->shared)
		munmap(c->shared, CELL_WINDOW - PAGE_SIZE);
	free(c);
}

/* ---- running one */

static void hand_over(struct bt_cell *c, bool stay)
{
	memcpy(c->shared->call, c->queue, c->nqueue * sizeof c->queue[0]);
	c->shared->ncalls = c->nqueue;
	c->shared->stay = stay;
	c->shared->error = 0;
	c->nqueue = 0;
	__atomic_store_n(&c->shared->state, CELL_RUNS, __ATOMIC_SEQ_CST);
	futex(&c->shared->state, FUTEX_WAKE, 1, NULL);
}

static bool run(struct bt_cell *c, bool stay)
{
	if (c->broken)
		return false;
	hand_over(c, stay);
	u64 frame = c->window + (1 + CELL_STATE_PAGES) * PAGE_SIZE + c->frame;
	c->broken = !wait_for_signal(c) || c->shared->frame != frame;
	return !c->broken;
}

void bt_cell_end(const struct bt_cell *c, char *text, size_t size)
{
	if (c->pid > 0)
		snprintf(text, size, "its signals arrive elsewhere");
	else if (WIFSIGNALED(c->end))
		snprintf(text, size, "signal %d", WTERMSIG(c->end));
	else
		snprintf(text, size, "status %d", WEXITSTATUS(c->end));
}

bool bt_cell_run(struct bt_cell *c)
{
	return run(c, false);
}

u64 bt_cell_cpu_ns(const struct bt_cell *c)
{
	clockid_t clock;
	struct timespec t = {0};
	if (!clock_getcpuclockid(c->pid, &clock))
		clock_gettime(clock, &t);
	return (u64)t.tv_sec * 1000000000ull + (u64)t.tv_nsec;
}

void bt_cell_pin(struct bt_cell *c, int cpu)
{
	cpu_set_t one;
	if (c->cpu == cpu)
		return;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	sched_setaffinity(c->pid, sizeof one, &one);
	c->cpu = cpu;
}

void bt_cell_interrupt(pid_t pid)
{
	kill(pid, KICK);
}

static void queue(struct bt_cell *c, struct cell_call call)
{
	if (c->nqueue == CELL_CALLS)
		run(c, true);
	c->queue[c->nqueue++] = call;
}

void bt_cell_map(struct bt_cell *c, u64 at, u64 len, u64 offset, int prot)
{
	u64 flags = MAP_SHARED | MAP_FIXED | (len <= 64 * KiB ? MAP_POPULATE : 0);
	queue(c, (struct cell_call){
			 SYS_mmap, {at, len, (u64)prot, flags | (c->secret & 0xffffffff) << 32, RAM_FD | (c->secret >> 32) << 32, offset}});
}

void bt_cell_unmap(struct bt_cell *c, u64 at, u64 len)
{
	queue(c, (struct cell_call){SYS_munmap, {at, len, 0, 0, 0, c->secret}});
}
