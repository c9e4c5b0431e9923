/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vCPU's thread: run guest code, sleep in HLT, take INIT and SIPI, stop at the gate.
 *
 * Threading: this thread alone touches the CPU's state while the gate is open. Others leave event bits and wake it.
 */
#include "hw/ioapic.h"
#include "hw/pvclock.h"
#include "vm/machine.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NEVER UINT64_MAX
#define REST_NS (2 * NS_PER_SEC)
#define BUSY_NS (NS_PER_SEC / 50)

/* ---- waking and sleeping ---- */

static void futex_wake(u32 *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* False: it took longer than `ns`; NEVER is as long as it takes. */
static bool futex_wait(u32 *word, u32 expected, u64 ns)
{
	const struct timespec limit = {(time_t)(ns / NS_PER_SEC), (long)(ns % NS_PER_SEC)};

	return syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, ns == NEVER ? NULL : &limit, NULL, 0) == 0 || errno != ETIMEDOUT;
}

/* End a sleep; false when the thread was not asleep. Pairs with sleep_until_event: the reason to wake is visible before `sleeping` is read.
 */
static bool end_sleep(struct vcpu *v)
{
	if (__atomic_exchange_n(&v->sleeping, 0, __ATOMIC_SEQ_CST) == 0)
		return false;
	futex_wake(&v->sleeping);
	return true;
}

void vcpu_wake(struct vcpu *v)
{
	if (!end_sleep(v) && v->engine)
		v->vm->ops->vcpu_kick(v->engine);
}

void vcpu_post(struct vcpu *v, u32 events)
{
	__atomic_or_fetch(&v->events, events, __ATOMIC_SEQ_CST);
	vcpu_wake(v);
}

/* A start-up IPI sent before the INIT is void. */
void vcpu_post_init(struct vcpu *v)
{
	__atomic_and_fetch(&v->events, ~(u32)EV_SIPI, __ATOMIC_SEQ_CST);
	vcpu_post(v, EV_INIT);
}

void vcpu_irq_hint(struct vcpu *v)
{
	if (!__atomic_load_n(&v->hinted_at, __ATOMIC_RELAXED))
		__atomic_store_n(&v->hinted_at, host_now_ns(), __ATOMIC_RELAXED);
	v->vm->ops->vcpu_irq(v->engine);
	end_sleep(v);
}

/* An interrupt that was on its way when the process was stopped must not be taken before the guest has been told of the pause. */
bool vcpu_stood_still(struct vcpu *v)
{
	u64 hinted = __atomic_exchange_n(&v->hinted_at, 0, __ATOMIC_RELAXED);

	if (likely(!hinted || host_now_ns() < hinted + STOOD_STILL_NS))
		return false;
	v->stood_still = true;
	v->vm->ops->vcpu_kick(v->engine);
	return true;
}

void vcpu_nmi(struct vcpu *v)
{
	v->vm->ops->vcpu_nmi(v->engine);
	__atomic_or_fetch(&v->events, EV_NMI, __ATOMIC_SEQ_CST);
	end_sleep(v);
}

static bool interrupts_on(const struct vcpu *v)
{
	return !v->state->wait_for_sipi && (v->state->rflags & FL_IF);
}

static bool has_reason_to_wake(const struct vcpu *v)
{
	if (__atomic_load_n(&v->events, __ATOMIC_SEQ_CST) || gate_is_closed(v->vm))
		return true;
	return interrupts_on(v) && lapic_irq_pending(v->vm->lapic, v->id);
}

/* ---- idling
 *
 * A CPU idles when it has run for less than 20 ms in the two seconds since it last had more to do, or in whatever time since then. Its engine is told
 * then, and again each time that it has idled twice as long. */

static void begin_rest(struct vcpu *v)
{
	u64 now = host_now_ns();

	v->rest.busy += now - v->rest.woken;
	if (v->rest.busy > BUSY_NS)
		v->rest = (struct rest){.since = now, .due = now + REST_NS};
}

static void end_rest(struct vcpu *v)
{
	v->rest.woken = host_now_ns();
}

/* How long it may sleep before the engine is told. */
static u64 rest_left(const struct vcpu *v)
{
	u64 now = host_now_ns();

	if (!v->vm->ops->vcpu_idle)
		return NEVER;
	return now < v->rest.due ? v->rest.due - now : 0;
}

static void tell_of_rest(struct vcpu *v)
{
	u64 now = host_now_ns();

	v->rest.due = now + (now - v->rest.since);
	v->vm->ops->vcpu_idle(v->engine);
}

static void sleep_while_asleep(struct vcpu *v)
{
	while (__atomic_load_n(&v->sleeping, __ATOMIC_SEQ_CST)) {
		u64 left = rest_left(v);

		if (left == 0 || !futex_wait(&v->sleeping, 1, left))
			tell_of_rest(v);
	}
}

static void sleep_until_event(struct vcpu *v)
{
	bool hopeless = !interrupts_on(v) && !ioapic_may_send_nmi(v->vm->ioapic);

	v->sleeps++;
	v->hopeless = hopeless;
	__atomic_store_n(&v->sleeping, 1, __ATOMIC_SEQ_CST);
	if (hopeless && __atomic_add_fetch(&v->vm->hopeless, 1, __ATOMIC_SEQ_CST) == v->vm->ncpus)
		lifecycle_request(v->vm, PEND_HALTED, 0);
	if (has_reason_to_wake(v))
		__atomic_store_n(&v->sleeping, 0, __ATOMIC_SEQ_CST);
	begin_rest(v);
	sleep_while_asleep(v);
	end_rest(v);
	if (hopeless)
		__atomic_sub_fetch(&v->vm->hopeless, 1, __ATOMIC_SEQ_CST);
}

/* Until the gate closes or somebody leaves an event. */
static void sleep_held(struct vcpu *v)
{
	__atomic_store_n(&v->sleeping, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&v->events, __ATOMIC_SEQ_CST) || gate_is_closed(v->vm))
		__atomic_store_n(&v->sleeping, 0, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&v->sleeping, __ATOMIC_SEQ_CST))
		futex_wait(&v->sleeping, 1, NEVER);
}

/* ---- events ---- */

static void on_error(struct vcpu *v, const struct err *e)
{
	struct vm *vm = v->vm;

	pthread_mutex_lock(&vm->request_lock);
	if (!vm->engine_err.code)
		vm->engine_err = *e;
	pthread_mutex_unlock(&vm->request_lock);
	lifecycle_request(vm, PEND_ERROR, 0);
}

/* All of the state is to be looked at. */
static void look(struct vcpu *v)
{
	struct err e = {0};

	if (v->vm->ops->vcpu_sync_out && v->vm->ops->vcpu_sync_out(v->engine, &e) < 0)
		on_error(v, &e);
}

static void start_at_vector(struct x86_cpu *c, u8 vector)
{
	c->seg[SEG_CS].sel = (u16)(vector << 8);
	c->seg[SEG_CS].base = (u64)vector << 12;
	c->rip = 0;
	c->wait_for_sipi = false;
}

static void handle_events(struct vcpu *v)
{
	u32 events = __atomic_exchange_n(&v->events, 0, __ATOMIC_SEQ_CST);
	struct x86_cpu *c = v->state;

	v->hopeless = false;
	if (events & EV_INIT)
		look(v);
	if (events & EV_UNHALT)
		v->kicked = true;
	if (events & EV_INIT) {
		v->kicked = false;
		x86_reset(c, v->id == 0, true);
	}
	if (events & EV_SIPI && c->wait_for_sipi)
		start_at_vector(c, __atomic_load_n(&v->sipi_vector, __ATOMIC_RELAXED));
	if (events & (EV_INIT | EV_SIPI | EV_SYNC))
		v->vm->ops->vcpu_sync_in(v->engine);
}

void vcpu_settle(struct vcpu *v)
{
	u32 changed = __atomic_fetch_and(&v->events, ~(u32)(EV_SYNC | EV_APIC), __ATOMIC_SEQ_CST) & (EV_SYNC | EV_APIC);
	struct err e = {0};
	bool ok = true;

	if (changed)
		v->vm->ops->vcpu_sync_in(v->engine);
	if (changed & EV_APIC)
		ok = apic_give(v, &e);
	else if (changed)
		ok = v->vm->ops->apic->put(v->engine, NULL, &e) == 0;
	if (!ok)
		on_error(v, &e);
}

/* A kick that comes between the guest's last look and its HLT must not be lost, so it waits for the HLT. */
static void end_halt_when_kicked(struct vcpu *v)
{
	if (!v->kicked || !v->state->halted)
		return;
	v->kicked = false;
	v->state->halted = false;
}

/* ---- the loop ---- */

/* A guest that waits has time to let its last lines be read. */
static void trace_exit(struct vcpu *v, enum exit_kind kind)
{
	_Static_assert(TRACE_EXIT_ERROR - TRACE_EXIT == EXIT_ERROR, "an event for each kind");
	trace_write(v->vm->trace, TRACE_EXIT + kind, v->id, v->state->rip, 0, 0, 0);
	if (kind == EXIT_HALTED)
		trace_flush(v->vm->trace);
}

static void run_guest(struct vcpu *v)
{
	struct err e = {0};
	enum exit_kind kind;

	v->hopeless = false;
	kind = v->vm->ops->vcpu_run(v->engine, &e);
	v->exits[kind]++;
	if (unlikely(v->vm->trace != NULL))
		trace_exit(v, kind);
	switch (kind) {
	case EXIT_KICKED:
		break;
	case EXIT_DEBUG:
		debug_hit(v);
		break;
	case EXIT_HALTED:
		if (!v->kicked)
			sleep_until_event(v);
		break;
	case EXIT_SHUTDOWN:
		lifecycle_request(v->vm, PEND_TRIPLE_FAULT, 0);
		break;
	case EXIT_ERROR:
		on_error(v, &e);
		break;
	}
}

/* The guest wrote its TSC, or a reset did: what was derived from it is told. */
static void follow_tsc_offset(struct vcpu *v)
{
	u64 offset = v->state->tsc_offset;

	if (offset == v->tsc_offset)
		return;
	v->tsc_offset = offset;
	pvclock_update(v->vm->pvclock, v->id, offset);
	lapic_tsc_changed(v->vm->lapic, v->id);
}

static void tell_standstill(struct vcpu *v)
{
	if (likely(!v->stood_still))
		return;
	v->stood_still = false;
	pvclock_stood_still(v->vm->pvclock);
}

/* Whoever has closed the gate may want to look. */
static bool park(struct vcpu *v)
{
	look(v);
	return gate_pass(v);
}

static bool waits_here(const struct vcpu *v)
{
	return v->state->wait_for_sipi && !v->vm->ops->apic;
}

static void vcpu_loop(struct vcpu *v)
{
	for (;;) {
		if (gate_is_closed(v->vm) && !park(v))
			return;
		if (__atomic_load_n(&v->events, __ATOMIC_ACQUIRE))
			handle_events(v);
		end_halt_when_kicked(v);
		follow_tsc_offset(v);
		tell_standstill(v);
		if (v->held)
			sleep_held(v);
		else if (waits_here(v))
			sleep_until_event(v);
		else
			run_guest(v);
	}
}

/* ---- starting and stopping the threads ---- */

struct start {
	struct vcpu *v;
	struct err err;
	bool done;
	pthread_mutex_t lock;
	pthread_cond_t cond;
};

static void report_start(struct start *s)
{
	pthread_mutex_lock(&s->lock);
	s->done = true;
	pthread_cond_signal(&s->cond);
	pthread_mutex_unlock(&s->lock);
}

static void *vcpu_thread(void *opaque)
{
	struct start *s = opaque;
	struct vcpu *v = s->v;
	struct vm *vm = v->vm;
	struct engine_machine m;
	char name[16];
	int r;

	snprintf(name, sizeof(name), "vcpu%u", v->id);
	pthread_setname_np(pthread_self(), name);
	vcpu_machine_fill(v, &m);
	r = vm->ops->vcpu_create(&v->engine, vm->engine, v->id, &m, &s->err);
	if (r == 0) {
		v->state = vm->ops->vcpu_state(v->engine);
		x86_reset(v->state, v->id == 0, false);
		v->events = EV_SYNC | EV_APIC;
	}
	report_start(s); /* s is gone afterwards */
	if (r < 0)
		return NULL;
	vcpu_loop(v);
	vm->ops->vcpu_destroy(v->engine);
	return NULL;
}

/* Signals meant for the process are for the main thread. */
static void block_signals(sigset_t *old)
{
	static const int theirs[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGTSTP, SIGCONT, SIGCHLD, SIGPIPE, SIGALRM};
	sigset_t set;

	sigemptyset(&set);
	for (u32 i = 0; i < ARRAY_SIZE(theirs); i++)
		sigaddset(&set, theirs[i]);
	pthread_sigmask(SIG_BLOCK, &set, old);
}

static int start_one(struct vm *vm, u32 id, struct err *e)
{
	struct vcpu *v = &vm->vcpus[id];
	struct start s = {.v = v, .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
	sigset_t old;
	int r;

	*v = (struct vcpu){.vm = vm, .id = id};
	block_signals(&old);
	r = pthread_create(&v->thread, NULL, vcpu_thread, &s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r != 0)
		return err_sys(e, r, "cannot start the thread of vCPU %u", id);
	pthread_mutex_lock(&s.lock);
	while (!s.done)
		pthread_cond_wait(&s.cond, &s.lock);
	pthread_mutex_unlock(&s.lock);
	if (s.err.code) {
		pthread_join(v->thread, NULL);
		*e = s.err;
		return err_prefix(e, "vCPU %u", id);
	}
	vm->nthreads++;
	return 0;
}

int vcpu_start_all(struct vm *vm, struct err *e)
{
	int r = 0;

	vm->vcpus = calloc(vm->ncpus, sizeof(*vm->vcpus));
	if (!vm->vcpus)
		return err_sys(e, ENOMEM, "vCPUs");
	for (u32 i = 0; i < vm->ncpus && r == 0; i++)
		r = start_one(vm, i, e);
	if (r == 0)
		gate_close(vm);
	return r;
}

void vcpu_stop_all(struct vm *vm)
{
	gate_close(vm);
	pthread_mutex_lock(&vm->gate.lock);
	vm->gate.quit = true;
	pthread_cond_broadcast(&vm->gate.go);
	pthread_mutex_unlock(&vm->gate.lock);
	for (u32 i = 0; i < vm->nthreads; i++) {
		pthread_join(vm->vcpus[i].thread, NULL);
		free(vm->vcpus[i].saved);
	}
	vm->nthreads = 0;
	free(vm->vcpus);
	vm->vcpus = NULL;
}
