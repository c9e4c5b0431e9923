/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contract between the machine and whatever executes guest instructions.
 *
 * An engine is a table of functions, chosen at run time. Guest memory, ports and MMIO reach the machine's buses through callbacks on the
 * vCPU's thread; `run` returns only for what the VM loop must decide.
 *
 * Threading: vcpu_create, vcpu_run, vcpu_destroy of one vCPU happen on that vCPU's thread. kick and inval_ram: any thread.
 * get/set_state: the vCPU's thread, or any thread while it is not running.
 */
#pragma once

#include "base/err.h"
#include "base/guest_memory.h"
#include "x86/apic.h"
#include "x86/rules.h"
#include "x86/state.h"

struct engine_vm;
struct engine_vcpu;

/* What the machine offers a vCPU. All are called on the vCPU's thread and may take locks of the devices behind them. */
struct engine_machine {
	void *opaque; /* per vCPU */
	u64 (*mmio_read)(void *opaque, gpa_t gpa, u32 size);
	void (*mmio_write)(void *opaque, gpa_t gpa, u32 size, u64 value);
	u32 (*pio_read)(void *opaque, u16 port, u32 size);
	void (*pio_write)(void *opaque, u16 port, u32 size, u32 value);
	bool (*msr_read)(void *opaque, u32 msr, u64 *value); /* APIC base, x2APIC, TSC deadline, KVM paravirtual */
	bool (*msr_write)(void *opaque, u32 msr, u64 value);
	u64 (*cr8_read)(void *opaque);
	void (*cr8_write)(void *opaque, u64 value);
	u64 (*tsc)(void *opaque);      /* as the guest reads it: tsc_offset is in it */
	u64 (*tsc_base)(void *opaque); /* guest TSC less the host's, without tsc_offset; changes only while no vCPU runs */
	u64 (*hypercall)(void *opaque, struct x86_cpu *c);
	/* The interrupt controller's line to this CPU: is there something to accept; accept it (returns the vector, or -1 if it is gone). */
	bool (*irq_pending)(void *opaque);
	int (*irq_accept)(void *opaque);
	/* A local APIC that the engine has ended a level-triggered interrupt: the I/O APIC is told. */
	void (*eoi)(void *opaque, u8 vector);
	/* What the engine and the rules tell the trace; NULL: nobody reads it. */
	void (*trace)(void *opaque, enum trace_event ev, u64 rip, u64 a, u64 b, u64 c);
};

enum exit_kind {
	EXIT_KICKED,   /* vcpu_kick, or a callback asked for it: look at the VM's requests and run again */
	EXIT_HALTED,   /* HLT with interrupts to wait for: run again when irq_pending, NMI or kick */
	EXIT_SHUTDOWN, /* triple fault */
	EXIT_DEBUG,    /* debugger's breakpoint or step */
	EXIT_ERROR,    /* the engine cannot go on; err says why */
};

/* What a debugger has armed for one vCPU. The guest cannot see it: neither its memory nor its debug registers hold any of it. */
enum engine_hit { HIT_NONE, HIT_STEP, HIT_BREAK, HIT_WATCH };
struct engine_debug {
	bool step;    /* leave after one instruction; interrupts wait meanwhile, unless the CPU is halted */
	bool changed; /* breaks or watch are others than before */
	u32 nbreaks;
	const gva_t *breaks; /* linear addresses of instructions to leave before; ascending */
	struct x86_watch watch;
	enum engine_hit hit; /* written by the engine when it returns EXIT_DEBUG; for HIT_WATCH watch.hit tells which */
};

struct engine_stats_item {
	const char *name;
	u64 value;
};

/* A piece of the process's memory, and whose it is: a literal that starts with "memory_". */
typedef void (*engine_memory_fn)(void *opaque, const char *owner, const void *at, u64 bytes);

/* Of an engine that has the local APICs itself. Its vCPUs wait for interrupts and for start-up IPIs inside of run, which never returns EXIT_HALTED. */
struct engine_apic_ops {
	/* put: what was said by sync_in takes effect now, and with `a` messages reach the APIC that it tells; NULL: they go on reaching the one that is there.
	 * vCPU's thread, or any while it is not running. */
	int (*get)(struct engine_vcpu *v, struct x86_apic *out, struct err *e);
	int (*put)(struct engine_vcpu *v, const struct x86_apic *a, struct err *e);

	/* Any thread. */
	void (*msi)(struct engine_vm *vm, const struct x86_msi *m);
	/* The level-triggered messages that the I/O APIC may send: of these it wants to know the end. Any thread. */
	void (*level_messages)(struct engine_vm *vm, const struct x86_msi *m, u32 n);
};

struct engine_ops {
	const char *name; /* "bt", "kvm" */
	const char *summary;

	/* Can this engine run here, and how well? 0, or -errno with the reason in e. */
	int (*probe)(struct err *e);

	/* The CPU that this engine can give to vCPUs, where that is less than the host's; free it with free(). NULL: it is the host's. */
	int (*host_cpu)(struct x86_cpuid_host **out, struct err *e);

	int (*vm_create)(struct engine_vm **out, struct guest_memory *gm, const struct x86_cpuid *cpuid, u32 max_vcpus, struct err *e);
	void (*vm_destroy)(struct engine_vm *vm);

	int (*vcpu_create)(struct engine_vcpu **out, struct engine_vm *vm, u32 id, const struct engine_machine *m, struct err *e);
	void (*vcpu_destroy)(struct engine_vcpu *v); /* NULL is allowed */

	enum exit_kind (*vcpu_run)(struct engine_vcpu *v, struct err *e);
	void (*vcpu_kick)(struct engine_vcpu *v); /* run returns EXIT_KICKED soon, or at once when called before run */
	void (*vcpu_irq)(struct engine_vcpu *v);  /* irq_pending may have become true: look, without leaving run; async-safe, any thread */
	void (*vcpu_nmi)(struct engine_vcpu *v);  /* queue an NMI; any thread */

	/* The CPU has had next to nothing to do for long, or again as long: give memory back. vCPU's thread, outside run. NULL: nothing would come of it. */
	void (*vcpu_idle)(struct engine_vcpu *v);

	/* The whole state; the pointer stays valid for the vCPU's life and may be changed between runs. sync_in after changing it, but for
	 * `halted`, which a run may find cleared. sync_out before looking at or changing more of it than tsc_offset, and while traced rip; NULL: it is
	 * always whole. Each on the vCPU's thread, between runs. */
	struct x86_cpu *(*vcpu_state)(struct engine_vcpu *v);
	void (*vcpu_sync_in)(struct engine_vcpu *v);
	int (*vcpu_sync_out)(struct engine_vcpu *v, struct err *e);

	/* From the next run on, run returns EXIT_DEBUG where *d says; NULL: nowhere. *d stays the caller's and must live on; after a change to
	 * it call this again. While the vCPU is not running, any thread. NULL in engines that cannot. */
	void (*vcpu_debug)(struct engine_vcpu *v, struct engine_debug *d);

	/* RAM was written from outside the vCPUs (DMA, loader): forget translated code there before the guest can notice. Any thread.
	 * (guest_memory's observer.) */
	void (*ram_written)(struct engine_vm *vm, gpa_t gpa, u64 len);

	/* A write by a vCPU at `gpa`, of whatever size and value, adds one to the eventfd and is not seen by mmio_write, from now on or no more. What cannot
	 * be had stays as it is. Any thread. NULL: it would save nothing. */
	void (*doorbell)(struct engine_vm *vm, gpa_t gpa, int eventfd, bool on);

	/* Which pages of RAM vCPUs write is kept from now on, or no more; who else writes says so (guest_memory.h). NULL: not known. */
	int (*dirty_log)(struct engine_vm *vm, bool on, struct err *e);
	/* Sets the bits of those written since the last call, and perhaps of some that were only read; one for each page of RAM, in the order of
	 * guest_memory's file. vCPUs may run. */
	int (*dirty_take)(struct engine_vm *vm, u64 *bits, struct err *e);

	/* Counters for --stats: fills up to max items, returns the number. */
	u32 (*stats)(struct engine_vm *vm, struct engine_stats_item *items, u32 max);

	/* NULL: the local APICs are the machine's. */
	const struct engine_apic_ops *apic;

	/* Where the engine's memory lies: whole mappings, or pieces that are in use whole. NULL: it has little. */
	void (*memory)(struct engine_vm *vm, engine_memory_fn tell, void *opaque);
};

extern const struct engine_ops engine_bt;
/* For tests and doubt: bt without and with nothing but direct execution of user code, with a tiny code cache, and its interpreter alone. */
extern const struct engine_ops engine_translate, engine_direct, engine_tiny, engine_interp;
extern const struct engine_ops engine_kvm;

/* `name` is "auto", "bt" or "kvm". *why receives a line saying which engine and why (static or in buf). */
int engine_choose(const char *name, const struct engine_ops **out, char *why, size_t why_size, struct err *e) must_check;
