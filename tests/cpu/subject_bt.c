/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The translator as a subject, through the engine contract; with and without direct execution of user code. A watchdog kicks the vCPU out of
 * endless loops.
 */
#include "engine/bt/bt.h"
#include "engine/engine.h"
#include "guest.h"
#include "subject.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WATCHDOG_US 20000
#define KICKS_ALLOWED 100u /* of real time, of which we may get little */

struct bt_subject {
	const struct engine_ops *ops;
	struct guest guest;
	struct engine_machine machine;
	struct engine_vm *vm;
	struct engine_vcpu *vcpu;
	pthread_t watchdog;
	bool has_watchdog;
	_Atomic bool running, stop;
};

static u64 machine_mmio_read(void *opaque, gpa_t gpa, u32 size)
{
	return ~0ull;
}
static void machine_mmio_write(void *opaque, gpa_t gpa, u32 size, u64 value)
{
}
static u32 machine_pio_read(void *opaque, u16 port, u32 size)
{
	return ~0u;
}

static void machine_pio_write(void *opaque, u16 port, u32 size, u32 value)
{
	struct bt_subject *s = opaque;

	if (port != GUEST_DONE_PORT)
		return;
	s->guest.done = true;
	s->ops->vcpu_kick(s->vcpu);
}

static bool machine_msr_read(void *opaque, u32 msr, u64 *value)
{
	return false;
}
static bool machine_msr_write(void *opaque, u32 msr, u64 value)
{
	return false;
}
static u64 machine_cr8_read(void *opaque)
{
	return 0;
}
static void machine_cr8_write(void *opaque, u64 value)
{
}
static u64 machine_tsc(void *opaque)
{
	return 0;
}
static u64 machine_hypercall(void *opaque, struct x86_cpu *c)
{
	return ~0ull;
}
static bool machine_irq_pending(void *opaque)
{
	return false;
}
static int machine_irq_accept(void *opaque)
{
	return -1;
}

static const struct engine_machine machine_template = {
	.mmio_read = machine_mmio_read,
	.mmio_write = machine_mmio_write,
	.pio_read = machine_pio_read,
	.pio_write = machine_pio_write,
	.msr_read = machine_msr_read,
	.msr_write = machine_msr_write,
	.cr8_read = machine_cr8_read,
	.cr8_write = machine_cr8_write,
	.tsc = machine_tsc,
	.hypercall = machine_hypercall,
	.irq_pending = machine_irq_pending,
	.irq_accept = machine_irq_accept,
};

static void *watch(void *opaque)
{
	struct bt_subject *s = opaque;

	while (!atomic_load(&s->stop)) {
		usleep(WATCHDOG_US);
		if (atomic_load(&s->running))
			s->ops->vcpu_kick(s->vcpu);
	}
	return NULL;
}

static void ram_written(void *opaque, gpa_t gpa, u64 len)
{
	struct bt_subject *s = opaque;

	s->ops->ram_written(s->vm, gpa, len);
}

static void bt_close(void *opaque)
{
	struct bt_subject *s = opaque;

	atomic_store(&s->stop, true);
	if (s->has_watchdog)
		pthread_join(s->watchdog, NULL);
	if (s->vcpu)
		s->ops->vcpu_destroy(s->vcpu);
	if (s->vm)
		s->ops->vm_destroy(s->vm);
	if (s->guest.gm.map)
		guest_destroy(&s->guest);
	free(s);
}

static int bt_start(struct bt_subject *s, struct err *e)
{
	int r = guest_create(&s->guest, e);

	if (!r)
		r = s->ops->probe(e);
	if (!r)
		r = s->ops->vm_create(&s->vm, &s->guest.gm, &s->guest.cpuid, 1, e);
	if (r)
		return r;
	s->guest.gm.written = ram_written;
	s->guest.gm.written_opaque = s;
	s->machine = machine_template;
	s->machine.opaque = s;
	r = s->ops->vcpu_create(&s->vcpu, s->vm, 0, &s->machine, e);
	if (r)
		return r;
	s->has_watchdog = !pthread_create(&s->watchdog, NULL, watch, s);
	return 0;
}

static int open_engine(void **out, const struct engine_ops *ops, struct err *e)
{
	struct bt_subject *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return err_set(e, ENOMEM, "no memory for the translator's guest");
	s->ops = ops;
	r = bt_start(s, e);
	if (r)
		bt_close(s);
	else
		*out = s;
	return r;
}

static int bt_open(void **out, struct err *e)
{
	return open_engine(out, &engine_translate, e);
}

static int tiny_open(void **out, struct err *e)
{
	return open_engine(out, &engine_tiny, e);
}

static int direct_open(void **out, struct err *e)
{
	return open_engine(out, &engine_direct, e);
}

static void failed(struct cpu_result *r, const char *what)
{
	r->end = END_ENGINE;
	snprintf(r->note, sizeof(r->note), "%.150s", what);
}

/* True when an exception stub was reached. */
static bool run_to_stub(struct bt_subject *s, struct cpu_result *r)
{
	struct err e = {0};

	for (u32 kicks = 0; kicks < KICKS_ALLOWED; kicks++) {
		switch (s->ops->vcpu_run(s->vcpu, &e)) {
		case EXIT_SHUTDOWN:
			failed(r, "triple fault");
			return false;
		case EXIT_ERROR:
			failed(r, e.msg);
			return false;
		default:
			if (s->guest.done)
				return true;
		}
	}
	r->end = END_TIMEOUT;
	return false;
}

/*
 * A signal on the host is how an instruction's exception shows; the interpreter repeats the instruction then. It would hide what else raises
 * signals: translated code that goes to a wrong address. Every run of the case ends with one exception at most.
 */
static void judge_signals(const struct guest *g, const struct cpu_case *c, u64 signals, u32 repeat, struct cpu_result *r)
{
	if (signals > (guest_at_end_marker(g, c, r) ? 0 : repeat))
		failed(r, "a host signal that no exception of the case explains");
}

static void bt_run(void *opaque, const struct cpu_case *c, u32 repeat, struct cpu_result *r)
{
	struct bt_subject *s = opaque;
	struct x86_cpu *cpu = s->ops->vcpu_state(s->vcpu);
	struct bt_vcpu *v = (struct bt_vcpu *)s->vcpu;
	u64 signals = v->st.signals;
	bool ok = true;

	s->guest.code_in_place = false;
	for (u32 i = 0; i < repeat && ok; i++) {
		guest_load(&s->guest, c, cpu);
		s->ops->vcpu_sync_in(s->vcpu);
		if (s->ops == &engine_direct)
			bt_direct_switch(v); /* as MOV to CR3 does */
		atomic_store(&s->running, true);
		ok = run_to_stub(s, r);
		atomic_store(&s->running, false);
		if (ok)
			guest_result(&s->guest, cpu, r);
	}
	if (ok)
		judge_signals(&s->guest, c, v->st.signals - signals, repeat, r);
}

const struct subject subject_bt = {
	.name = "bt", .summary = "the translator", .open = bt_open, .close = bt_close, .run = bt_run, .has = guest_has, .in_all = true};

const struct subject subject_tiny = {.name = "tiny",
				     .summary = "the translator with a tiny code cache",
				     .open = tiny_open,
				     .close = bt_close,
				     .run = bt_run,
				     .has = guest_has};

const struct subject subject_direct = {.name = "direct",
				       .summary = "the translator with user code executed directly, in a cell",
				       .open = direct_open,
				       .close = bt_close,
				       .run = bt_run,
				       .has = guest_has};
