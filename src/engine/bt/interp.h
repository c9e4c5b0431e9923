/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The C interpreter: one guest instruction at a time, every mode (16, 32, 64 bit), every instruction that the announced CPUID allows. It
 * runs what the translator leaves alone, and it is the oracle for translated code, next to the real CPU.
 *
 * Integer and system instructions are C. x87, MMX, SSE, AVX and AVX-512 instructions run on the host's own unit: the instruction is
 * re-encoded with its memory operand replaced by a bounce buffer and its general registers loaded from the guest's, and executed with the
 * guest's vector state (c->fpu) loaded; host faults in it (#XM, #MF) become the guest's.
 *
 * Contract: c->fpu is in memory and complete when interp_step is called and when it returns. rip, registers and memory are as the CPU would
 * leave them; on a fault they are as before the instruction (REP: as before the failing iteration; POPA: with what was popped so far, where
 * the CPU shows it). Threading: one `struct interp` per
 * vCPU, on its thread.
 */
#pragma once

#include "engine/engine.h"

struct interp;

enum interp_result {
	INTERP_OK,    /* one instruction (or one or more REP iterations: rip then still points at it) is done */
	INTERP_FAULT, /* c->fault is set, rip is the faulting instruction's; deliver with x86_deliver_fault */
	INTERP_HALT,  /* HLT is done, rip is the next instruction's */
};

int interp_new(struct interp **out, struct err *e) must_check;
void interp_free(struct interp *in);
void interp_forget(struct interp *in); /* decoded instructions; the host has their memory back. Between steps */
void interp_memory(const struct interp *in, engine_memory_fn tell, void *opaque);

/* Traps (single step, data breakpoints, INT n, INT3) are delivered inside, so that rip is then the handler's. irq_shadow and debug_shadow
 * are maintained. Does not look at interrupts. */
enum interp_result interp_step(struct interp *in, struct x86_cpu *c);

/* Keep translations (host addresses of guest pages) from step to step for as long as *epoch stays the same, which makes the interpreter
 * several times faster. The caller changes *epoch, to a value it never had, in every tlb_* callback of c->env and whenever env->ram would
 * answer differently than before; a word and not a call, for those who may run next to nothing where they learn of it. Changes of CR0, CR3,
 * CR4, EFER and of the CPL are noticed without that. NULL, as at first: keep none. */
void interp_cache_translations(struct interp *in, const u64 *epoch);

/* Instructions that raised #UD because they are unknown or not announced, for --stats. */
u64 interp_unknown_count(const struct interp *in);

/* The vector unit's part, shared with the translator's out-of-line paths. Host signals inside are caught by interp_host_signal, which a
 * SIGFPE/SIGSEGV handler asks first: true when it was the interpreter's and *uc was redirected. */
bool interp_host_signal(struct interp *in, int sig, void *ucontext);
