/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM from configuration to destruction. vm_create builds in one order, vm_destroy takes apart in the other and accepts a half-built VM,
 * so that every failing step has the same way out.
 *
 * Threading: main thread.
 */
#include "vm/vm.h"

#include "char/char.h"
#include "virtio/balloon.h"
#include "vm/cpu_model.h"
#include "vm/machine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

#define PIO_SIZE 0x10000ull

void vm_config_defaults(struct vm_config *c)
{
	*c = (struct vm_config){.memory = GiB, .cpus = 1, .cpu = "host", .engine = "auto", .console = "stdio"};
}

static int check_memory(u64 size, struct err *e)
{
	struct sysinfo si;
	u64 host;

	if (sysinfo(&si) < 0)
		return 0;
	host = ((u64)si.totalram + si.totalswap) * si.mem_unit;
	if (size > host)
		return err_set(e, ENOMEM, "guest memory of %llu MiB is more than the host has (%llu MiB); ask for less with --memory",
			       (unsigned long long)(size / MiB), (unsigned long long)(host / MiB));
	return 0;
}

static int check_config(const struct vm_config *c, struct err *e)
{
	int r;

	if (!c->kernel)
		return err_set(e, EINVAL, "no kernel is given");
	if (c->cpus < 1 || c->cpus > VM_MAX_CPUS)
		return err_set(e, EINVAL, "%u CPUs are not possible: give 1 to %u", c->cpus, VM_MAX_CPUS);
	if (c->paused && !c->gdb)
		return err_set(e, EINVAL, "a machine that starts paused needs a debugger's address: nothing else would start it");
	if (c->nopts > VM_MAX_OPTS)
		return err_set(e, E2BIG, "more than %u device options", VM_MAX_OPTS);
	r = vm_cpu_check(c->cpu, c->memory, e);
	return r < 0 ? r : check_memory(c->memory, e);
}

static bool copy_string(char **to, const char *from)
{
	*to = from ? strdup(from) : NULL;
	return *to || !from;
}

static int copy_config(struct vm *vm, const struct vm_config *c, struct err *e)
{
	if (!copy_string(&vm->name, c->name ? c->name : "guest") || !copy_string(&vm->kernel, c->kernel) ||
	    !copy_string(&vm->initrd, c->initrd) || !copy_string(&vm->cpu_model, c->cpu) ||
	    !copy_string(&vm->cmdline, c->cmdline ? c->cmdline : ""))
		return err_sys(e, ENOMEM, "VM");
	vm->ncpus = c->cpus;
	vm->no_reboot = c->no_reboot;
	vm->timeout_ns = c->timeout_ns;
	return 0;
}

static void on_ram_written(void *opaque, gpa_t gpa, u64 len)
{
	struct vm *vm = opaque;

	pthread_rwlock_rdlock(&vm->engine_lock);
	vm->ops->ram_written(vm->engine, gpa, len);
	pthread_rwlock_unlock(&vm->engine_lock);
}

static int create_basics(struct vm *vm, const struct vm_config *c, struct err *e)
{
	int r = gm_create(&vm->mem, c->memory, e);

	vm->mem.prefault = r == 0 ? prefault_new() : NULL;
	if (r == 0)
		r = evloop_new(&vm->loop, e);
	if (r == 0)
		r = lifecycle_watch(vm, e);
	if (r == 0)
		r = bus_new(&vm->pio, "port", PIO_SIZE, e);
	if (r == 0)
		r = bus_new(&vm->mmio, "memory", 1ull << vm->cpuid.phys_bits, e);
	if (r < 0)
		return r;
	vm->irq = irq_router_new();
	return vm->irq ? 0 : err_sys(e, ENOMEM, "interrupt router");
}

static int create_engine(struct vm *vm, struct err *e)
{
	int r = vm->ops->vm_create(&vm->engine, &vm->mem, &vm->cpuid, vm->ncpus, e);

	if (r < 0)
		return r;
	vm->mem.written_opaque = vm;
	vm->mem.written = on_ram_written;
	return 0;
}

/* Devices come before vCPUs, since a vCPU's reset asks its local APIC; the kernel comes last, because it needs the boot CPU's state. */
static int create_machine(struct vm *vm, const struct vm_config *c, struct err *e)
{
	int r;

	assembly_env(vm);
	r = assembly_create_devices(vm, c, e);
	if (r < 0)
		return r;
	vm->lapic = assembly_lookup(vm, "lapic");
	vm->ioapic = assembly_lookup(vm, "ioapic");
	vm->pvclock = assembly_lookup(vm, "pvclock");
	if (!vm->lapic || !vm->ioapic || !vm->pvclock)
		return err_set(e, ENODEV, "this build lacks the local APIC, the I/O APIC or the paravirtual clock");
	r = vcpu_start_all(vm, e);
	if (r < 0)
		return r;
	vcpu_lapic_ops(vm);
	apic_elsewhere(vm);
	doorbells_elsewhere(vm);
	r = debug_create(vm, c->gdb, c->paused, e);
	return r < 0 ? r : lifecycle_load_kernel(vm, e);
}

static int create(struct vm *vm, const struct vm_config *c, struct err *e)
{
	int r = copy_config(vm, c, e);

	if (r < 0)
		return r;
	vclock_init(&vm->clock);
	vclock_pause(&vm->clock);
	tsc_start_paused(vm);
	if (c->trace) {
		r = trace_open(&vm->trace, c->trace, &vm->clock, e);
		if (r < 0)
			return err_prefix(e, "--trace");
	}
	vm->tsc_hz = tsc_host_hz();
	r = vm_cpu_build(&vm->cpuid, c->cpu, vm->ops, vm->ncpus, vm->tsc_hz, e);
	if (r == 0)
		r = create_basics(vm, c, e);
	if (r == 0)
		r = char_open(&vm->console, vm->loop, c->console, lifecycle_escape_key, vm, e);
	if (r == 0)
		r = create_engine(vm, e);
	return r < 0 ? r : create_machine(vm, c, e);
}

int vm_create_with_engine(struct vm **out, const struct vm_config *c, const struct engine_ops *engine, const char *why, struct err *e)
{
	struct vm *vm;
	int r = check_config(c, e);

	if (r < 0)
		return r;
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return err_sys(e, ENOMEM, "VM");
	vm->ops = engine;
	vm->mem.fd = vm->ask_fd = -1;
	snprintf(vm->engine_line, sizeof(vm->engine_line), "%s", why);
	pthread_mutex_init(&vm->request_lock, NULL);
	pthread_rwlock_init(&vm->engine_lock, NULL);
	vm->relay = c->engine && strcmp(c->engine, "relay") == 0;
	gate_init(&vm->gate);
	r = create(vm, c, e);
	if (r < 0) {
		vm_destroy(vm);
		return r;
	}
	*out = vm;
	return 0;
}

int vm_create(struct vm **out, const struct vm_config *c, struct err *e)
{
	const struct engine_ops *engine;
	char why[256];
	int r = engine_choose(c->engine, &engine, why, sizeof(why), e);

	return r < 0 ? r : vm_create_with_engine(out, c, engine, why, e);
}

void vm_destroy(struct vm *vm)
{
	if (!vm)
		return;
	/* Devices go while parked vCPUs still exist: an I/O worker may be about to interrupt one. */
	gate_close(vm);
	debug_disconnect(vm);
	assembly_destroy_devices(vm);
	vcpu_stop_all(vm);
	debug_destroy(vm);
	vm->mem.written = NULL;
	if (vm->engine)
		vm->ops->vm_destroy(vm->engine);
	char_close(vm->console);
	irq_router_free(vm->irq);
	bus_free(vm->mmio);
	bus_free(vm->pio);
	lifecycle_unwatch(vm);
	evloop_free(vm->loop);
	prefault_free(vm->mem.prefault);
	gm_destroy(&vm->mem);
	trace_close(vm->trace);
	gate_destroy(&vm->gate);
	pthread_rwlock_destroy(&vm->engine_lock);
	pthread_mutex_destroy(&vm->request_lock);
	free(vm->name);
	free(vm->kernel);
	free(vm->initrd);
	free(vm->cmdline);
	free(vm->cpu_model);
	free(vm);
}

const char *vm_engine_line(const struct vm *vm)
{
	return vm->engine_line;
}

int vm_set_balloon(struct vm *vm, u64 bytes, struct err *e)
{
	struct virtio_balloon *balloon = assembly_lookup(vm, "balloon");

	if (!balloon)
		return err_set(e, ENODEV, "the machine has no balloon");
	if (bytes >= vm->mem.size || PAGE_OFFSET(bytes))
		return err_set(e, EINVAL, "a balloon of %llu bytes: give a multiple of 4096 below the guest's %llu",
			       (unsigned long long)bytes, (unsigned long long)vm->mem.size);
	balloon_set_target(balloon, bytes);
	return 0;
}
