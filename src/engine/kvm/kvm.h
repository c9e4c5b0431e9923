/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the KVM engine. The kernel has the vCPUs and their local APICs; I/O APIC, clock and every other device are the machine's. What a guest can
 * ask of a CPU besides executing instructions is answered by the rules of src/x86, as in the software engine, wherever the kernel lets us: it
 * passes on each MSR that is not in its own table (msr.c).
 *
 * Threading: as in engine.h. What is written by one thread and read by others says so.
 */
#pragma once

#include "engine/engine.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>

#define KVM_LEVEL_MESSAGES 24 /* inputs of the I/O APIC */

struct kvm_vcpu;

struct kvm_vm {
	int kvm, fd;
	struct guest_memory *gm;
	const struct x86_cpuid *cpuid;
	u32 run_size;	      /* of the page that each vCPU shares with the kernel */
	u32 xsave_size;	      /* of the kernel's image */
	bool debug_registers; /* a debugger's hold while a guest runs */
	pthread_mutex_t routes_lock;
	u32 nroutes;
	struct x86_msi routes[KVM_LEVEL_MESSAGES];
};

/* How the kernel and the CPU are to find what a debugger has armed. */
struct kvm_debug_plan {
	bool steps; /* one instruction at a time */
	bool looks; /* after each the engine looks for breakpoints and at watched memory, as they do not fit into registers */
	u32 used;   /* of these registers */
	u64 address[4], dr7;
	const struct x86_watchpoint *point[4]; /* NULL: an instruction */
};

/* Counted on the vCPU's thread. */
struct kvm_counters {
	u64 runs, io, mmio, rdmsr, wrmsr, eois, interrupted, debug;
};

struct kvm_vcpu {
	struct kvm_vm *vm;
	u32 id;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	struct engine_machine machine;
	struct x86_env env;
	struct x86_cpu cpu;
	struct x86_apic apic; /* to be put */

	bool stale;	 /* `cpu` is older than what the kernel has */
	bool dirty;	 /* `cpu` is to be put before the next run */
	bool apic_dirty; /* `apic` is */
	bool unfinished; /* the kernel waits for the next run to end an instruction */
	u64 tsc_shift;	 /* as told to the kernel: guest TSC less the host's */
	bool tsc_told;
	u32 kicked, nmis; /* atomic */
	struct engine_debug *debug;
	struct kvm_debug_plan plan;
	u32 armed;	  /* KVM_GUESTDBG_*, as told to the kernel */
	bool guest_steps; /* the guest has set TF itself; the kernel hides it while a debugger steps */
	u64 *sums;	  /* of what is watched, as it was before the step */
	u32 nsums;
	struct kvm_counters count;
};

static inline struct kvm_vm *kvm_vm_of(struct engine_vm *vm)
{
	return (struct kvm_vm *)vm;
}
static inline struct kvm_vcpu *kvm_vcpu_of(struct engine_vcpu *v)
{
	return (struct kvm_vcpu *)v;
}

/* An ioctl that goes on after a signal. Returns what it returns, or -errno. */
int kvm_call(int fd, unsigned long request, void *arg);

/* caps.c: what of the kernel's KVM is needed, by name. */
int kvm_check_caps(int kvm, struct err *e) must_check;
int kvm_judge_caps(int (*answer)(void *opaque, int cap), void *opaque, struct err *e) must_check; /* the same of any answers */

/* slots.c */
int kvm_slots_create(struct kvm_vm *vm, struct err *e) must_check;
int kvm_dirty_log(struct engine_vm *vm, bool on, struct err *e) must_check;
int kvm_dirty_take(struct engine_vm *vm, u64 *bits, struct err *e) must_check;

/* cpuid.c */
int kvm_supported_cpu(int kvm, struct x86_cpuid_host **out, struct err *e) must_check; /* free() */
int kvm_put_cpuid(struct kvm_vcpu *v, struct err *e) must_check;

/* msr.c */
int kvm_filter_msrs(struct kvm_vm *vm, struct err *e) must_check;
int kvm_get_msrs(struct kvm_vcpu *v, struct err *e) must_check;
int kvm_put_msrs(struct kvm_vcpu *v, struct err *e) must_check;
void kvm_exit_rdmsr(struct kvm_vcpu *v);
void kvm_exit_wrmsr(struct kvm_vcpu *v);

/* state.c */
int kvm_get_state(struct kvm_vcpu *v, struct err *e) must_check;
int kvm_put_state(struct kvm_vcpu *v, struct err *e) must_check;
int kvm_put_tsc(struct kvm_vcpu *v, struct err *e) must_check;

/* apic.c */
extern const struct engine_apic_ops kvm_apic;
int kvm_put_apic(struct kvm_vcpu *v, struct err *e) must_check;
int kvm_rearm_deadline(struct kvm_vcpu *v, struct err *e) must_check; /* the guest's TSC counts from somewhere else now */

/* exits.c: what a run ended with. Returns whether to run again; otherwise *kind says why not. */
bool kvm_exit(struct kvm_vcpu *v, enum exit_kind *kind, struct err *e);

/* debug.c */
void kvm_vcpu_debug(struct engine_vcpu *v, struct engine_debug *d);
int kvm_put_debug(struct kvm_vcpu *v, struct err *e) must_check;
bool kvm_debug_due(struct kvm_vcpu *v);					      /* before a run: it stands at a breakpoint */
bool kvm_exit_debug(struct kvm_vcpu *v, enum exit_kind *kind, struct err *e); /* as kvm_exit */

/* debug_plan.c */
void kvm_debug_plan(const struct engine_debug *d, bool registers, struct kvm_debug_plan *p);
bool kvm_debug_registers_hold(int kvm);

/* debug_watch.c: watched memory by its contents. */
bool kvm_read_linear(struct kvm_vcpu *v, gva_t gva, void *buf, u32 len); /* within a page */
int kvm_watch_start(struct kvm_vcpu *v);
bool kvm_watch_changed(struct kvm_vcpu *v, struct x86_watchpoint *which);

/* debug_syscall.c */
bool kvm_step_syscall(struct kvm_vcpu *v); /* true: there was one, and it is done */

/* vcpu.c */
int kvm_bring_up_to_date(struct kvm_vcpu *v, struct err *e) must_check; /* what was changed here goes to the kernel */
int kvm_vcpu_create(struct engine_vcpu **out, struct engine_vm *vm, u32 id, const struct engine_machine *m, struct err *e) must_check;
void kvm_vcpu_destroy(struct engine_vcpu *v);
enum exit_kind kvm_vcpu_run(struct engine_vcpu *v, struct err *e);
void kvm_vcpu_kick(struct engine_vcpu *v);
void kvm_vcpu_nmi(struct engine_vcpu *v);
void kvm_vcpu_irq(struct engine_vcpu *v);
struct x86_cpu *kvm_vcpu_state(struct engine_vcpu *v);
void kvm_vcpu_sync_in(struct engine_vcpu *v);
int kvm_vcpu_sync_out(struct engine_vcpu *v, struct err *e);
