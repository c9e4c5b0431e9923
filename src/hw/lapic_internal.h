/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local APIC's state, shared by lapic.c (registers), lapic_ipi.c (messages) and lapic_timer.c.
 *
 * Threading: each LAPIC's registers are guarded by its lock; `pending` and `base` are also read without it. No function is called with
 * two LAPICs' locks held. Functions whose name ends in _locked want the lock held, and return whether lapic_kick must follow once it is
 * not.
 */
#pragma once

#include "hw/lapic.h"
#include "x86/apic_regs.h"

#include <pthread.h>
#include <stdatomic.h>

#define LAPIC_MAX_CPUS 64u

enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

#define LVT_MASKED (1u << 16)
#define LVT_MODE_SHIFT 17 /* timer: 0 one-shot, 1 periodic, 2 TSC deadline */
#define SVR_ENABLE (1u << 8)
#define SVR_NO_EOI_BROADCAST (1u << 12)

#define ESR_SEND_ILLEGAL (1u << 5)
#define ESR_RECV_ILLEGAL (1u << 6)
#define ESR_REGISTER (1u << 7)

enum delivery_mode { DM_FIXED, DM_LOWEST, DM_SMI, DM_RESERVED, DM_NMI, DM_INIT, DM_SIPI, DM_EXTINT };

struct lapic {
	_Alignas(64) pthread_mutex_t lock;
	atomic_bool pending; /* an interrupt can be accepted */
	_Atomic u64 base;    /* IA32_APIC_BASE */
	u32 cpu;	     /* also the APIC ID */
	u32 tpr, ldr, dfr, svr;
	u32 esr, esr_pending; /* as last latched by a write; errors since */
	u32 icr, icr_high;
	u32 lvt[LVT_COUNT];
	u32 irr[8], isr[8], tmr[8];

	u32 timer_init, timer_divide;
	u64 timer_due;	  /* virtual time of the next expiry, 0: stopped */
	u64 tsc_deadline; /* 0: none */
	struct evtimer timer;
	struct lapic_set *set;
};

struct lapic_set {
	struct device dev;
	u32 ncpus;
	struct lapic_vcpu_ops vcpu;
	void (*eoi)(void *opaque, u8 vector);
	void *eoi_opaque;
	struct lapic_elsewhere elsewhere;
	atomic_uint lowest_next; /* where the search for the lowest priority starts */
	struct lapic cpu[];
};

static inline bool lapic_enabled(const struct lapic *l)
{
	return (l->base & BASE_ENABLE) != 0;
}
static inline bool lapic_x2(const struct lapic *l)
{
	return (l->base & BASE_X2APIC) != 0;
}

/* lapic.c */
void lapic_update_locked(struct lapic *l); /* recompute `pending` */
bool lapic_raise_locked(struct lapic *l, u8 vector, bool level);
bool lapic_error_locked(struct lapic *l, u32 esr_bit);
u32 lapic_ppr_locked(const struct lapic *l);
void lapic_kick(struct lapic *l);
void lapic_reset_one(struct lapic *l, bool init); /* INIT keeps APIC_BASE */

/* lapic_ipi.c */
void lapic_send_icr(struct lapic *l, u64 icr); /* without the lock; dest in the upper half, in the mode's own width */
bool lapic_icr_illegal(u64 icr);

/* lapic_timer.c */
void lapic_timer_create(struct lapic *l);
void lapic_timer_stop_locked(struct lapic *l);
bool lapic_timer_rearm_locked(struct lapic *l); /* after a load or a change of the TSC */
bool lapic_timer_set_init_locked(struct lapic *l, u32 count);
void lapic_timer_set_divide_locked(struct lapic *l, u32 divide);
void lapic_timer_set_mode_locked(struct lapic *l, u32 old_lvt);
u32 lapic_timer_current_locked(const struct lapic *l);
bool lapic_timer_set_deadline_locked(struct lapic *l, u64 tsc);
void lapic_timer_set_current_locked(struct lapic *l, u32 ticks, u64 tsc_deadline); /* arms nothing */
bool lapic_timer_is_deadline(const struct lapic *l);
