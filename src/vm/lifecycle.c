/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM's life: run, reset, end. Requests come from devices, vCPUs, timers, signals and the keyboard; the main thread carries them out with
 * every vCPU behind the gate.
 *
 * Threading: lifecycle_request any thread, lifecycle_ask also from signal handlers, the rest on the main thread.
 */
#include "base/log.h"
#include "char/char.h"
#include "hw/acpi_pm.h"
#include "hw/layout.h"
#include "hw/pci.h"
#include "hw/pvclock.h"
#include "hw/vtime.h"
#include "vm/machine.h"

#include <errno.h>
#include <malloc.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define PRESS_AGAIN_NS (2 * NS_PER_SEC)

static void finish(struct vm *vm, enum vm_end end, u32 value)
{
	vm->result = (struct vm_result){end, value};
	vm->ended = true;
	evloop_stop(vm->loop);
}

/* ---- reset ---- */

int lifecycle_load_kernel(struct vm *vm, struct err *e)
{
	static const struct boot_range reserved[] = {{PCI_ECAM_BASE, PCI_ECAM_SIZE}};
	const struct boot_config cfg = {
		.kernel = vm->kernel,
		.initrd = vm->initrd,
		.cmdline = vm->cmdline,
		.acpi_rsdp = LAYOUT_RSDP,
		.reserved = reserved,
		.nreserved = ARRAY_SIZE(reserved),
	};

	int r = boot_load(&cfg, &vm->mem, vm->vcpus[0].state, e);

	malloc_trim(0); /* a packed kernel was there, in parts */
	return r;
}

static void reset_vcpus(struct vm *vm)
{
	for (u32 i = 0; i < vm->ncpus; i++) {
		x86_reset(vm->vcpus[i].state, i == 0, false);
		vm->vcpus[i].kicked = false;
		__atomic_store_n(&vm->vcpus[i].events, EV_SYNC | EV_APIC, __ATOMIC_SEQ_CST);
	}
}

void lifecycle_reset(struct vm *vm)
{
	vm->resets++;
	assembly_reset_devices(vm);
	reset_vcpus(vm);
	if (lifecycle_load_kernel(vm, &vm->engine_err) < 0) {
		err_prefix(&vm->engine_err, "cannot start the guest again after its reset");
		finish(vm, VM_END_ERROR, 0);
	}
}

static void reset_or_end(struct vm *vm, enum vm_end end)
{
	if (vm->no_reboot)
		finish(vm, end, 0);
	else
		lifecycle_reset(vm);
}

void lifecycle_fail(struct vm *vm, const struct err *e)
{
	vm->engine_err = *e;
	finish(vm, VM_END_ERROR, 0);
}

void lifecycle_halted(struct vm *vm)
{
	finish(vm, VM_END_HALTED, 0);
}

/* ---- what the guest asks for ---- */

/* The count of sleepers was taken in passing; now that all are parked, look again. */
static bool all_hopeless(const struct vm *vm)
{
	for (u32 i = 0; i < vm->ncpus; i++)
		if (!vm->vcpus[i].hopeless || __atomic_load_n(&vm->vcpus[i].events, __ATOMIC_ACQUIRE))
			return false;
	return true;
}

static enum pending take_pending(struct vm *vm, u32 *arg)
{
	enum pending what;

	pthread_mutex_lock(&vm->request_lock);
	what = vm->pending;
	*arg = vm->pending_arg;
	vm->pending = PEND_NONE;
	pthread_mutex_unlock(&vm->request_lock);
	return what;
}

static void carry_out(void *opaque)
{
	struct vm *vm = opaque;
	u32 arg;

	/* Parked first: whatever a vCPU still asks for on its way is known before the choice is made. */
	gate_close(vm);
	switch (take_pending(vm, &arg)) {
	case PEND_NONE:
		break;
	case PEND_RESET:
		reset_or_end(vm, VM_END_RESET);
		break;
	case PEND_TRIPLE_FAULT:
		reset_or_end(vm, VM_END_TRIPLE_FAULT);
		break;
	case PEND_POWEROFF:
		finish(vm, VM_END_POWEROFF, 0);
		break;
	case PEND_EXIT_CODE:
		finish(vm, VM_END_EXIT_PORT, arg);
		break;
	case PEND_HALTED:
		if (all_hopeless(vm))
			finish(vm, VM_END_HALTED, 0);
		break;
	case PEND_ERROR:
		finish(vm, VM_END_ERROR, 0);
		break;
	}
	if (!vm->ended && !debug_is_stopped(vm))
		gate_open(vm);
}

void lifecycle_request(struct vm *vm, enum pending what, u32 arg)
{
	bool first;

	pthread_mutex_lock(&vm->request_lock);
	first = vm->pending == PEND_NONE;
	if (first || vm->pending == PEND_HALTED) { /* who asks for anything is not halted for ever */
		vm->pending = what;
		vm->pending_arg = arg;
	}
	pthread_mutex_unlock(&vm->request_lock);
	if (!first)
		return;
	pthread_rwlock_rdlock(&vm->engine_lock);
	gate_ask(vm);
	pthread_rwlock_unlock(&vm->engine_lock);
	evloop_post(vm->loop, carry_out, vm);
}

/* ---- what people ask for ---- */

static void press_power_button(struct vm *vm)
{
	struct acpi_pm *pm = assembly_lookup(vm, "power");

	if (pm)
		acpi_pm_press_power(pm);
}

static void on_asked(void *opaque, u32 events)
{
	struct vm *vm = opaque;
	u32 asked;
	u64 count;

	if (read(vm->ask_fd, &count, sizeof(count)) < 0)
		return;
	asked = vm->asked;
	vm->asked &= ~asked;
	if (asked & ASK_QUIT)
		finish(vm, VM_END_QUIT, 0);
	else if (asked & ASK_POWER_BUTTON)
		press_power_button(vm);
}

void lifecycle_ask(struct vm *vm, u32 what)
{
	int saved = errno;
	u64 one = 1;

	vm->asked |= what;
	if (write(vm->ask_fd, &one, sizeof(one)) < 0) {
		/* The counter is full: the loop is awake already. */
	}
	errno = saved;
}

/* A guest that is still starting does not see the button: press again until the machine ends. */
static void press_again(void *opaque)
{
	struct vm *vm = opaque;

	press_power_button(vm);
	timer_arm(&vm->gone_timer, host_now_ns() + PRESS_AGAIN_NS);
}

/* `guise run | head`: what would end another program by SIGPIPE ends a machine in good order. */
static void console_reader_gone(struct vm *vm)
{
	log_msg(LOG_WARN, "nobody reads the console any more: asking the guest to power off");
	press_again(vm);
}

void lifecycle_escape_key(void *opaque, char key)
{
	if (key == 'x')
		finish(opaque, VM_END_QUIT, 0);
	else if (key == 'p')
		press_power_button(opaque);
	else if (key == CHAR_READER_GONE)
		console_reader_gone(opaque);
}

void vm_press_power_button(struct vm *vm)
{
	lifecycle_ask(vm, ASK_POWER_BUTTON);
}

void vm_quit(struct vm *vm)
{
	lifecycle_ask(vm, ASK_QUIT);
}

/* ---- time limit ---- */

static void on_timeout(void *opaque)
{
	struct vm *vm = opaque;

	if (vclock_now(&vm->clock) >= vm->timeout_due)
		finish(vm, VM_END_TIMEOUT, 0);
	else
		vtime_arm(&vm->timeout_timer, &vm->clock, vm->timeout_due);
}

static void start_timeout(struct vm *vm)
{
	if (!vm->timeout_ns)
		return;
	vm->timeout_due = vtime_add(vclock_now(&vm->clock), vm->timeout_ns);
	vtime_arm(&vm->timeout_timer, &vm->clock, vm->timeout_due);
}

/* ---- running ---- */

/* A timer is that late: the process was stopped, or the host stood still. What happens to an interrupt that was on its way is vcpu.c's. */
static void stood_still(void *opaque)
{
	struct vm *vm = opaque;

	if (vm->pvclock)
		pvclock_stood_still(vm->pvclock);
}

int lifecycle_watch(struct vm *vm, struct err *e)
{
	evloop_watch_late(vm->loop, STOOD_STILL_NS, stood_still, vm);
	timer_init(&vm->timeout_timer, vm->loop, on_timeout, vm);
	timer_init(&vm->gone_timer, vm->loop, press_again, vm);
	vm->ask_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vm->ask_fd < 0)
		return err_sys(e, errno, "cannot create an event descriptor");
	return evloop_add_fd(vm->loop, vm->ask_fd, EPOLLIN, on_asked, vm, e);
}

void lifecycle_unwatch(struct vm *vm)
{
	if (vm->ask_fd >= 0)
		close(vm->ask_fd);
	vm->ask_fd = -1;
}

void lifecycle_start_clocks(struct vm *vm)
{
	vclock_resume(&vm->clock);
	tsc_resume(vm);
}

void lifecycle_stop_clocks(struct vm *vm)
{
	tsc_pause(vm);
	vclock_pause(&vm->clock);
}

int vm_run(struct vm *vm, struct vm_result *r, struct err *e)
{
	start_timeout(vm);
	standstill_watch(vm);
	relay_start(vm);
	if (!debug_is_stopped(vm)) {
		lifecycle_start_clocks(vm);
		gate_open(vm);
	}
	evloop_run(vm->loop);
	gate_close(vm);
	timer_disarm(&vm->timeout_timer);
	timer_disarm(&vm->gone_timer);
	relay_stop(vm);
	standstill_unwatch(vm);
	lifecycle_stop_clocks(vm);
	debug_ended(vm);
	*r = vm->result;
	if (r->end != VM_END_ERROR)
		return 0;
	*e = vm->engine_err;
	return -e->code;
}
