/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One vCPU: the page that it shares with the kernel, its run loop, what other threads may ask of it.
 *
 * A kick is a word, the shared page's immediate_exit and a signal, in this order: the first tells the loop why, the second ends a run that has not
 * begun, the third one that has. The loop clears the second before it looks at the first. The signal's handler does nothing; it is process-wide,
 * there is no other kind.
 *
 * Threading: the vCPU's thread; kick, irq and nmi from any.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define KICK_SIGNAL SIGRTMIN

int kvm_call(int fd, unsigned long request, void *arg)
{
	int r;

	do
		r = ioctl(fd, request, arg);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

/* ---- asking ---- */

static void on_kick(int signal)
{
	(void)signal;
}

static pthread_once_t handler_once = PTHREAD_ONCE_INIT;

static void install_handler(void)
{
	struct sigaction sa = {.sa_handler = on_kick};

	sigaction(KICK_SIGNAL, &sa, NULL);
}

/* Asked already: whoever did has sent the signal or is about to. It is one of those that queue up, each would be waited for. */
static void ask(struct kvm_vcpu *v, u32 *word)
{
	if (__atomic_exchange_n(word, 1, __ATOMIC_SEQ_CST))
		return;
	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_kill(v->thread, KICK_SIGNAL);
}

void kvm_vcpu_kick(struct engine_vcpu *ev)
{
	struct kvm_vcpu *v = kvm_vcpu_of(ev);

	ask(v, &v->kicked);
}

void kvm_vcpu_nmi(struct engine_vcpu *ev)
{
	struct kvm_vcpu *v = kvm_vcpu_of(ev);

	ask(v, &v->nmis);
}

/* The kernel's local APIC wakes its vCPU itself. */
void kvm_vcpu_irq(struct engine_vcpu *v)
{
	(void)v;
}

/* ---- state ---- */

struct x86_cpu *kvm_vcpu_state(struct engine_vcpu *v)
{
	return &kvm_vcpu_of(v)->cpu;
}

void kvm_vcpu_sync_in(struct engine_vcpu *ev)
{
	struct kvm_vcpu *v = kvm_vcpu_of(ev);

	v->dirty = true;
	v->stale = false;
}

int kvm_vcpu_sync_out(struct engine_vcpu *ev, struct err *e)
{
	struct kvm_vcpu *v = kvm_vcpu_of(ev);
	int r = 0;

	if (v->stale)
		r = kvm_get_state(v, e);
	v->stale = false;
	return r;
}

int kvm_bring_up_to_date(struct kvm_vcpu *v, struct err *e)
{
	int r = v->dirty ? kvm_put_state(v, e) : kvm_put_tsc(v, e);

	if (r == 0)
		v->dirty = v->apic_dirty = false;
	return r == 0 ? kvm_put_debug(v, e) : r;
}

/* ---- the run loop ---- */

static void take_nmis(struct kvm_vcpu *v)
{
	if (__atomic_exchange_n(&v->nmis, 0, __ATOMIC_SEQ_CST))
		(void)kvm_call(v->fd, KVM_NMI, NULL);
}

/* False: error. A signal, and a vCPU that waited for its start-up IPI and got it, are none. */
static bool enter(struct kvm_vcpu *v, struct err *e)
{
	int r = ioctl(v->fd, KVM_RUN, NULL);

	v->count.runs++;
	v->stale = true;
	v->unfinished = false;
	if (r >= 0)
		return true;
	v->count.interrupted++;
	v->run->exit_reason = KVM_EXIT_INTR;
	if (errno == EINTR || errno == EAGAIN)
		return true;
	(void)err_sys(e, errno, "vCPU %u: KVM cannot run it", v->id);
	return false;
}

/* Ends an instruction whose access has been answered, without beginning another. There may be a second access in it. */
static enum exit_kind leave(struct kvm_vcpu *v, enum exit_kind kind, struct err *e)
{
	enum exit_kind other;
	bool ok = true;

	while (v->unfinished && ok) {
		__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		if (!enter(v, e))
			return EXIT_ERROR;
		ok = kvm_exit(v, &other, e);
	}
	__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	return ok ? kind : other;
}

enum exit_kind kvm_vcpu_run(struct engine_vcpu *ev, struct err *e)
{
	struct kvm_vcpu *v = kvm_vcpu_of(ev);
	enum exit_kind kind = EXIT_KICKED;

	if (kvm_bring_up_to_date(v, e) < 0)
		return EXIT_ERROR;
	if (kvm_debug_due(v))
		return EXIT_DEBUG;
	for (;;) {
		__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		if (__atomic_exchange_n(&v->kicked, 0, __ATOMIC_SEQ_CST))
			return leave(v, EXIT_KICKED, e);
		take_nmis(v);
		if (!enter(v, e))
			return EXIT_ERROR;
		if (v->cpu.traced)
			v->cpu.rip = v->run->s.regs.regs.rip;
		if (!kvm_exit(v, &kind, e))
			return kind;
	}
}

/* ---- creation and end ---- */

static u64 tsc(void *opaque)
{
	const struct kvm_vcpu *v = opaque;

	return v->machine.tsc(v->machine.opaque);
}

static bool msr_read(void *opaque, u32 msr, u64 *value)
{
	const struct kvm_vcpu *v = opaque;

	return v->machine.msr_read(v->machine.opaque, msr, value);
}

static bool msr_write(void *opaque, u32 msr, u64 value)
{
	const struct kvm_vcpu *v = opaque;

	return v->machine.msr_write(v->machine.opaque, msr, value);
}

static void on_trace(void *opaque, enum trace_event ev, u64 rip, u64 a, u64 b, u64 c)
{
	const struct kvm_vcpu *v = opaque;

	v->machine.trace(v->machine.opaque, ev, rip, a, b, c);
}

static void fill_cpu(struct kvm_vcpu *v)
{
	v->env = (struct x86_env){.opaque = v, .msr_read = msr_read, .msr_write = msr_write, .tsc = tsc, .trace = on_trace};
	v->cpu.env = &v->env;
	v->cpu.cpuid = v->vm->cpuid;
	v->cpu.apic_id = v->id;
	v->cpu.traced = v->machine.trace != NULL;
	x86_reset(&v->cpu, v->id == 0, false);
}

static int open_vcpu(struct kvm_vcpu *v, struct err *e)
{
	int fd = kvm_call(v->vm->fd, KVM_CREATE_VCPU, (void *)(u64)v->id);
	void *run;

	if (fd < 0)
		return err_sys(e, -fd, "KVM cannot create vCPU %u", v->id);
	v->fd = fd;
	run = mmap(NULL, v->vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (run == MAP_FAILED)
		return err_sys(e, errno, "vCPU %u: cannot map what it shares with KVM", v->id);
	v->run = run;
	v->run->kvm_valid_regs = v->cpu.traced ? KVM_SYNC_X86_REGS : 0;
	return kvm_put_cpuid(v, e);
}

static void close_vcpu(struct kvm_vcpu *v)
{
	if (v->run)
		munmap(v->run, v->vm->run_size);
	if (v->fd >= 0)
		close(v->fd);
	free(v->sums);
	free(v);
}

static void unblock_kicks(void)
{
	sigset_t set;

	pthread_once(&handler_once, install_handler);
	sigemptyset(&set);
	sigaddset(&set, KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

int kvm_vcpu_create(struct engine_vcpu **out, struct engine_vm *vm, u32 id, const struct engine_machine *m, struct err *e)
{
	struct kvm_vcpu *v = aligned_alloc(64, (sizeof(*v) + 63) & ~63ull);
	int r;

	if (!v)
		return err_sys(e, ENOMEM, "vCPU %u", id);
	memset(v, 0, sizeof(*v));
	v->vm = kvm_vm_of(vm);
	v->id = id;
	v->fd = -1;
	v->thread = pthread_self();
	v->machine = *m;
	fill_cpu(v);
	unblock_kicks();
	r = open_vcpu(v, e);
	if (r < 0) {
		close_vcpu(v);
		return r;
	}
	v->dirty = true;
	*out = (struct engine_vcpu *)v;
	return 0;
}

void kvm_vcpu_destroy(struct engine_vcpu *v)
{
	if (v)
		close_vcpu(kvm_vcpu_of(v));
}
