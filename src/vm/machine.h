/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of a VM, shared by the files of this folder only. Devices see struct device_env, engines struct engine_machine.
 *
 * Threads: the main thread (vm_create, vm_run with the event loop, vm_destroy) and one thread per vCPU. vCPU threads run guest code
 * only between go and pause (gate.c); the main thread changes devices and CPU state only while all of them are parked.
 */
#pragma once

#include "base/clock.h"
#include "base/evloop.h"
#include "base/guest_memory.h"
#include "base/trace.h"
#include "boot/boot.h"
#include "hw/bus.h"
#include "hw/device.h"
#include "hw/irq.h"
#include "hw/lapic.h"
#include "vm/vm.h"

#include <pthread.h>

/* What one thread asks of a vCPU; handled at the top of its loop. */
enum vcpu_event {
	EV_INIT = 1 << 0,
	EV_SIPI = 1 << 1,
	EV_NMI = 1 << 2,    /* the engine has it; only to end a HLT */
	EV_UNHALT = 1 << 3, /* KVM_HC_KICK_CPU: go on behind the HLT, or the next one */
	EV_SYNC = 1 << 4,   /* the state was changed from outside */
	EV_APIC = 1 << 5,   /* so was its local APIC, which the engine has */
};

/* A CPU that has little to do: host times. */
struct rest {
	u64 since, woken;
	u64 busy; /* meanwhile */
	u64 due;  /* the engine is told */
};

struct vcpu {
	struct vm *vm;
	u32 id;
	pthread_t thread;
	struct engine_vcpu *engine;
	struct x86_cpu *state;
	u32 events;	/* enum vcpu_event bits; atomic */
	u32 sleeping;	/* futex word: 1 while the thread waits in HLT or for SIPI */
	u8 sipi_vector; /* valid with EV_SIPI */
	bool held;	/* a debugger lets only others run; changes while parked */
	bool debug_hit; /* the engine has left for the debugger, who has not been told; atomic */
	bool kicked;	/* EV_UNHALT came, and no HLT since */
	bool hopeless;	/* went to sleep in a way that only another CPU can end; the main thread reads it while parked */
	u64 hinted_at;	/* host time since when an interrupt is on its way, 0: none is; atomic */
	bool stood_still;
	struct rest rest;
	u64 tsc_offset;			/* the one that pvclock and the local APIC know of */
	void (*errand)(struct vcpu *v); /* for its thread while it is parked; under the gate's lock */
	struct x86_cpu *saved;		/* on the way from one engine to another */
	struct err errand_err;
	/* For --stats. */
	u64 exits[EXIT_ERROR + 1];
	u64 sleeps, ports, mmio, msrs, hypercalls;
};

/* Every vCPU is either behind the gate (parked) or in its loop. */
struct gate {
	pthread_mutex_t lock;
	pthread_cond_t all_parked, go;
	u32 closed; /* atomic: read without the lock at each turn */
	u32 parked;
	bool quit; /* threads end */
};

#define NAMES_MAX 32
struct name_table {
	u32 n;
	struct {
		const char *name;
		void *object;
	} entry[NAMES_MAX];
};

enum pending {
	PEND_NONE,
	PEND_RESET,
	PEND_TRIPLE_FAULT,
	PEND_POWEROFF,
	PEND_EXIT_CODE,
	PEND_HALTED,
	PEND_ERROR,
};

enum { ASK_POWER_BUTTON = 1, ASK_QUIT = 2 };

struct vm {
	char *name, *kernel, *initrd, *cmdline;
	u32 ncpus;
	bool no_reboot;
	u64 timeout_ns;
	char engine_line[256];

	struct guest_memory mem;
	struct evloop *loop;
	struct vclock clock;
	struct irq_router *irq;
	struct bus *pio, *mmio;
	struct char_backend *console;
	struct name_table names;
	struct device_env env;
	struct device *devices, **last_device;
	struct lapic_set *lapic;
	struct ioapic *ioapic;
	struct pvclock *pvclock;

	/* Who does not know that the vCPUs are parked and that no interrupt is on its way reads these under the lock. */
	pthread_rwlock_t engine_lock;
	const struct engine_ops *ops;
	struct engine_vm *engine;
	char *cpu_model;
	struct x86_cpuid cpuid;
	u64 tsc_hz;
	u64 tsc_zero;	/* host TSC at guest TSC 0: 0 at first; grows by each pause; atomic */
	u64 tsc_paused; /* host TSC when the clock stopped, 0 while it runs; atomic */

	struct vcpu *vcpus;
	u32 nthreads; /* vCPU threads that exist */
	struct gate gate;
	u32 hopeless; /* vCPUs asleep that way; atomic */
	struct evtimer relay_timer;
	bool relay;
	u64 handovers;
	struct evtimer standstill_timer;
	u64 standstill_used;	/* by the vCPUs, at the last look; ns */
	bool standstill_looked; /* since they worked last */

	/* What the guest asked for; the first request wins until it is carried out, but for PEND_HALTED, which may be a false alarm. */
	pthread_mutex_t request_lock;
	enum pending pending;
	u32 pending_arg;
	struct err engine_err;

	int ask_fd; /* eventfd behind the async-signal-safe requests */
	_Atomic u32 asked;
	struct evtimer timeout_timer;
	struct evtimer gone_timer; /* nobody reads the console any more */
	u64 timeout_due;	   /* virtual time */
	struct vm_result result;
	bool ended; /* result is final: no guest instruction runs any more once the gate has closed */
	u64 resets;
	struct trace *trace;	   /* NULL: off */
	struct debugger *debugger; /* NULL: none may connect */
};

/* assembly.c */
void assembly_env(struct vm *vm);
int assembly_create_devices(struct vm *vm, const struct vm_config *c, struct err *e) must_check;
void assembly_reset_devices(struct vm *vm);
void assembly_destroy_devices(struct vm *vm);
void *assembly_lookup(const struct vm *vm, const char *name); /* published object or NULL */

/* gate.c */
void gate_init(struct gate *g);
void gate_destroy(struct gate *g);
void gate_ask(struct vm *vm);	/* any thread: close the gate, do not wait */
void gate_close(struct vm *vm); /* main thread: until every vCPU is parked */
void gate_open(struct vm *vm);
bool gate_pass(struct vcpu *v);				     /* vCPU thread: waits while closed; false: end the thread */
void gate_errand(struct vm *vm, void (*fn)(struct vcpu *v)); /* main thread, gate closed: each vCPU's thread does this, then it returns */
static inline bool gate_is_closed(const struct vm *vm)
{
	return __atomic_load_n(&vm->gate.closed, __ATOMIC_ACQUIRE);
}

/* vcpu.c */
int vcpu_start_all(struct vm *vm, struct err *e) must_check; /* threads exist and are parked afterwards */
void vcpu_stop_all(struct vm *vm);
void vcpu_wake(struct vcpu *v);		    /* out of HLT or out of guest code, to look at events and the gate */
void vcpu_post(struct vcpu *v, u32 events); /* any thread */
void vcpu_post_init(struct vcpu *v);
void vcpu_nmi(struct vcpu *v);
void vcpu_irq_hint(struct vcpu *v);    /* its local APIC may have something */
void vcpu_settle(struct vcpu *v);      /* its thread, parked: an engine that has the local APICs gets what was changed from outside */
bool vcpu_stood_still(struct vcpu *v); /* vCPU thread, before it takes an interrupt. True: not now, leave the engine first */

/* vcpu_machine.c: the callbacks that an engine gets */
void vcpu_machine_fill(struct vcpu *v, struct engine_machine *m);
void vcpu_lapic_ops(struct vm *vm);

/* apic.c: engines that have the local APICs */
void apic_elsewhere(struct vm *vm);			  /* hw/lapic sends to the engine from now on; nothing when the engine has none */
bool apic_give(struct vcpu *v, struct err *e) must_check; /* hw/lapic's registers to the engine; false: it cannot */
bool apic_take(struct vcpu *v, struct err *e) must_check; /* and the way back */

/* doorbells.c */
void doorbells_elsewhere(struct vm *vm); /* as apic_elsewhere, of memory-mapped doorbells */

/* handover.c. Main thread; the gate is as it was when it returns. On failure the VM goes on with the engine that it has, or ends with the error where
 * that is not possible either. */
int handover(struct vm *vm, const struct engine_ops *to, struct err *e) must_check;

/* relay.c: engines take turns; for tests */
void relay_start(struct vm *vm);
void relay_stop(struct vm *vm);

/* standstill.c: vCPUs that halt for good inside of their engine */
void standstill_watch(struct vm *vm);
void standstill_unwatch(struct vm *vm);

/* hypercall.c */
u64 hypercall(struct vcpu *v, struct x86_cpu *c);

/* tsc.c */
u64 tsc_host_hz(void); /* from CPUID or, where it does not tell, by measuring for 2 ms */
u64 tsc_guest(const struct vm *vm, const struct x86_cpu *c);
void tsc_start_paused(struct vm *vm);
void tsc_pause(struct vm *vm);
void tsc_resume(struct vm *vm);

/* memory.c */
/* What the process's memory is used for, as --stats tells it; at most `max` items. */
u32 memory_stats(const struct vm *vm, struct engine_stats_item *items, u32 max);

/* debug.c */
int debug_create(struct vm *vm, const char *where, bool paused, struct err *e) must_check; /* where NULL: nothing is made */
void debug_disconnect(struct vm *vm);
void debug_destroy(struct vm *vm);	    /* no vCPU exists any more */
bool debug_is_stopped(const struct vm *vm); /* then the gate stays closed */
void debug_hit(struct vcpu *v);		    /* vCPU thread: EXIT_DEBUG */
void debug_look(void *opaque);		    /* posted: a vCPU has hit something */
void debug_ended(struct vm *vm);

/* A kernel's watchdogs wait some twenty seconds. */
#define STOOD_STILL_NS (4 * NS_PER_SEC)

/* lifecycle.c */
void lifecycle_start_clocks(struct vm *vm);
void lifecycle_stop_clocks(struct vm *vm);
void lifecycle_reset(struct vm *vm);				   /* with all vCPUs parked */
void lifecycle_request(struct vm *vm, enum pending what, u32 arg); /* any thread; stops the vCPUs soon */
int lifecycle_load_kernel(struct vm *vm, struct err *e) must_check;
int lifecycle_watch(struct vm *vm, struct err *e) must_check;
void lifecycle_unwatch(struct vm *vm);
void lifecycle_ask(struct vm *vm, u32 what);		 /* async-signal-safe */
void lifecycle_fail(struct vm *vm, const struct err *e); /* main thread: the VM cannot go on */
void lifecycle_halted(struct vm *vm);			 /* main thread, all parked: no vCPU will ever run again */
void lifecycle_escape_key(void *opaque, char key);
