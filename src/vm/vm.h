/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine: configuration, assembly, life cycle. This is libguise's door: the command line and embedding programs use only this file.
 *
 * Threading: vm_create, vm_run and vm_destroy on one thread (the VM's main thread, which runs the event loop); the request functions from
 * any thread or signal-safe where said. Any number of VMs may live in one process.
 */
#pragma once

#include "base/err.h"
#include "base/types.h"
#include "engine/engine.h"

struct vm;

#define VM_MAX_CPUS 64
#define VM_MAX_OPTS 64

struct vm_config {
	const char *name;   /* NULL: "guest" */
	const char *kernel; /* NULL is not allowed here; the command line fills in the default guest */
	const char *initrd;
	const char *cmdline; /* NULL: "" */
	u64 memory;	     /* bytes */
	u32 cpus;
	const char *cpu;     /* model: "host", "max", "x86-64-v2", "x86-64-v3"; NULL: "host" */
	const char *engine;  /* "auto", "bt", "kvm" */
	const char *console; /* "stdio", "file=PATH", "null" */
	bool no_reboot;	     /* a guest's reset ends vm_run */
	u64 timeout_ns;	     /* 0: none */
	const char *gdb;     /* where a debugger may connect, as in vm_gdb_check; NULL: nowhere */
	bool paused;	     /* with gdb: no guest instruction runs before a debugger says so */
	const char *trace;   /* what to record, and where: "CATEGORY,...[:FILE]", as in trace_check; NULL: nothing */
	/* Device options as given: option name without dashes ("disk") and its text, "" when it has none. Copied, like all strings here. */
	u32 nopts;
	struct {
		const char *option, *text;
	} opt[VM_MAX_OPTS];
};

enum vm_end {
	VM_END_POWEROFF,
	VM_END_RESET,	     /* with no_reboot */
	VM_END_TRIPLE_FAULT, /* with no_reboot */
	VM_END_TIMEOUT,
	VM_END_EXIT_PORT,
	VM_END_QUIT,
	VM_END_HALTED, /* every CPU waits with interrupts off: nothing can wake the guest */
	VM_END_ERROR,
};

struct vm_result {
	enum vm_end end;
	u32 exit_value; /* VM_END_EXIT_PORT: what the guest wrote */
};

void vm_config_defaults(struct vm_config *c);

/* Is this a place for a debugger, "tcp:PORT", "tcp:ADDRESS:PORT" or "unix:PATH"? Opens nothing. */
int vm_gdb_check(const char *where, struct err *e) must_check;

/* Is there such a CPU model, and has it addresses enough for this memory? Asks nothing of the host. */
int vm_cpu_check(const char *model, u64 memory, struct err *e) must_check;

/* What this host misses for a model with this engine, as " name name" in `list`; returns how many features. */
#define VM_CPU_LACKS_MAX 256
u32 vm_cpu_lacks(const char *model, const struct engine_ops *engine, char *list, size_t size);

struct vm_cpu_feature {
	const char *name;   /* as Linux calls it; some have two */
	const char *hidden; /* why the model does not announce it with this engine on this host; NULL: it does */
};
/* Every feature that is known of, for a machine with one CPU. The caller frees *out. */
int vm_cpu_features(const char *model, const struct engine_ops *engine, struct vm_cpu_feature **out, u32 *n, struct err *e) must_check;

/* Everything up to the first guest instruction: RAM, devices, vCPUs, the kernel in RAM. On failure nothing is left behind. */
int vm_create(struct vm **out, const struct vm_config *c, struct err *e) must_check;

/* The same with an engine of the caller's choice; `why` becomes the engine line. For tests and embedders. */
struct engine_ops;
int vm_create_with_engine(struct vm **out, const struct vm_config *c, const struct engine_ops *engine, const char *why,
			  struct err *e) must_check;

/* Until the guest ends; once per VM. An engine that cannot go on gives VM_END_ERROR and a negative errno. */
int vm_run(struct vm *vm, struct vm_result *r, struct err *e) must_check;
void vm_destroy(struct vm *vm); /* NULL is allowed */

/* Any thread. How much memory the guest is asked to give up from now on, in all. -ENODEV when there is no balloon, -EINVAL when it is not a multiple of
 * 4 KiB or not less than the guest has. Whether the guest complies is its own decision. */
int vm_set_balloon(struct vm *vm, u64 bytes, struct err *e) must_check;
void vm_press_power_button(struct vm *vm);	 /* async-signal-safe */
void vm_quit(struct vm *vm);			 /* end now; async-signal-safe */
const char *vm_engine_line(const struct vm *vm); /* "engine bt: ..." one line: which engine and why */
/* Counters of the engine and the machine; after vm_run. Returns how many. */
u32 vm_stats(struct vm *vm, struct engine_stats_item *items, u32 max);
