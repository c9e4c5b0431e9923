/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host signals raised by translated code: non-canonical addresses, misaligned vector operands, divide errors, unmasked floating-point exceptions.
 * Each is turned into "interpret this instruction", which raises the guest's exact exception. Pages that are merely absent never come here.
 *
 * The host's stack pointer may hold any guest value when a signal arrives, so handlers run on an alternate stack with SS_AUTODISARM: without it the
 * kernel would take a guest rsp that happens to point into that stack for "already on it". Every asynchronous signal is blocked on a vCPU's
 * thread.
 *
 * Threading: handlers are process-wide (there is no other kind) and look only at the calling thread's vCPU; others are passed on.
 */
#include "engine/bt/bt.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <ucontext.h>

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif
#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif

static const int caught[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
static struct sigaction previous[NSIG];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static const int gregs[16] = {
	[R_RAX] = REG_RAX, [R_RDX] = REG_RDX, [R_RBX] = REG_RBX, [R_RSP] = REG_R15, [R_RBP] = REG_RBP, [R_RSI] = REG_RSI,
	[R_RDI] = REG_RDI, [R_R8] = REG_R8,   [R_R9] = REG_R9,	 [R_R12] = REG_R12, [R_R13] = REG_R13, [R_RCX] = REG_R14,
	[R_R10] = -1,	   [R_R11] = -1,      [R_R14] = -1,	 [R_R15] = -1, /* in memory */
};

static bool in_block(struct bt_vcpu *v, const ucontext_t *uc, u32 *off)
{
	u64 at = (u64)uc->uc_mcontext.gregs[REG_RIP] - (u64)v->cache_rx;
	if (!v->cache_rx || at < v->cache_start || at >= bt_cache_size(v->vm))
		return false;
	*off = (u32)at;
	const struct bt_block *b = bt_block_at(v, *off);
	return b && *off >= b->entry;
}

/* Registers are as they were before the guest's instruction: sequences change nothing visible before their last access. */
static void take_over(struct bt_vcpu *v, ucontext_t *uc, u32 off)
{
	greg_t *g = uc->uc_mcontext.gregs;
	for (u32 i = 0; i < 16; i++)
		if (gregs[i] >= 0)
			v->cpu.gpr[i] = (u64)g[gregs[i]];
	v->cpu.rflags = (v->cpu.rflags & ~(u64)FL_ARITH) | ((u64)g[REG_EFL] & FL_ARITH);
	v->t2 = off;
	v->ras = (u64)g[REG_RSP];
	g[REG_RIP] = (greg_t)(u64)(v->cache_rx + v->ev_off[EV_SIGNAL]);
	g[REG_RSP] = (greg_t)v->host_rsp;
}

static void pass_on(int sig, siginfo_t *info, void *uc)
{
	const struct sigaction *p = &previous[sig];
	if (p->sa_flags & SA_SIGINFO) {
		p->sa_sigaction(sig, info, uc);
	} else if (p->sa_handler != SIG_DFL && p->sa_handler != SIG_IGN) {
		p->sa_handler(sig);
	} else {
		signal(sig, SIG_DFL); /* the faulting instruction runs again and ends the process */
	}
}

/* A program's address where nothing is mapped: no address of the guest's and no other fault of its making comes to that. */
static bool hit_nothing(int sig, const siginfo_t *info)
{
	return sig == SIGSEGV && (info->si_code == SEGV_MAPERR || info->si_code == SEGV_ACCERR) && (u64)info->si_addr >> 47 == 0;
}

/* The host has no page for the guest's RAM: nothing can be told to the guest, and registers may be in the middle of a string instruction. */
static bool host_has_none(int sig, const siginfo_t *info)
{
	return sig == SIGBUS && info->si_code == BUS_ADRERR;
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	int saved = errno;
	struct bt_vcpu *v = &bt_self;
	u32 off;
	if (v->vm && bt_ras_overflow(v, (u64)info->si_addr)) /* the call runs again */
		((ucontext_t *)context)->uc_mcontext.gregs[REG_RSP] = (greg_t)v->ras_top[v->ras_user];
	else if (v->vm && !host_has_none(sig, info) && in_block(v, context, &off)) {
		if (GM_BOUNDS_CHECKS && hit_nothing(sig, info))
			bt_outside_translated(v, v->cache_rx + off, (u64)info->si_addr, 1, "an access that nobody had checked");
		take_over(v, context, off);
	} else if (!v->vm || !v->interp || !interp_host_signal(v->interp, sig, context))
		pass_on(sig, info, context);
	errno = saved;
}

static void install(void)
{
	struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	sigemptyset(&sa.sa_mask);
	for (size_t i = 0; i < ARRAY_SIZE(caught); i++)
		sigaction(caught[i], &sa, &previous[caught[i]]);
}

void bt_signals_install(void)
{
	pthread_once(&once, install);
}

bool bt_thread_init(struct bt_vcpu *v)
{
	size_t size = getauxval(AT_MINSIGSTKSZ) + 64 * KiB;
	v->sigstack = aligned_alloc(PAGE_SIZE, (size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1));
	if (!v->sigstack)
		return false;
	stack_t ss = {.ss_sp = v->sigstack, .ss_size = size, .ss_flags = (int)SS_AUTODISARM};
	sigset_t all;
	sigfillset(&all);
	for (size_t i = 0; i < ARRAY_SIZE(caught); i++)
		sigdelset(&all, caught[i]);
	sigdelset(&all, SIGTRAP);
	sigdelset(&all, SIGABRT);
	pthread_sigmask(SIG_SETMASK, &all, &v->old_mask);
	return sigaltstack(&ss, &v->old_stack) == 0;
}

void bt_thread_fini(struct bt_vcpu *v)
{
	if (!v->sigstack)
		return;
	v->old_stack.ss_flags &= SS_DISABLE;
	sigaltstack(&v->old_stack, NULL);
	pthread_sigmask(SIG_SETMASK, &v->old_mask, NULL);
	free(v->sigstack);
	v->sigstack = NULL;
}
