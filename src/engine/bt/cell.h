/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cell: a process of its own in which the user code of one guest process runs on the CPU as it is, without translation. Its address space holds
 * nothing but pages of guest RAM, each at its guest address, and the *window*: a few pages at a random address with the code that takes signals
 * (cell_code.c), the words shared with the translator's process, and the signal stack. Whatever user code does that it cannot do alone raises a
 * signal there, and the vCPU's thread, which waits meanwhile, looks at the registers in the signal frame.
 *
 * Isolation. A system call from anywhere but the window's code is trapped by user dispatch, and by seccomp. From there, memory can be mapped only with a secret that is in
 * the cell while its own code runs and never while the guest's does; there is one thread, so never both. All that is read from the window is the
 * guest's word: registers, which may hold anything, and nothing else is believed.
 *
 * Threading: a cell belongs to its vCPU's thread; bt_cell_interrupt from any.
 */
#pragma once

#include "base/err.h"
#include "base/types.h"

#include <sys/types.h>

#define USER_END 0x7ffffffff000ull /* of what Linux gives a program */
#define CELL_CALLS 200
#define CELL_STATE_PAGES 3
#define CELL_STACK_PAGES 8
#define CELL_WINDOW ((1 + CELL_STATE_PAGES + CELL_STACK_PAGES) * PAGE_SIZE)

/* Of the vector state in a signal frame. */
#define FP_SOFTWARE 464 /* from here to the header the legacy area belongs to the kernel */
#define FP_HEADER 512
#define FP_STATE 576

enum { CELL_RUNS, CELL_WAITS };

struct cell_call {
	u64 nr, arg[6];
};

/* The window's second page and on. Offsets are known to cell_code.c. */
struct cell_shared {
	u32 state; /* a futex: CELL_RUNS is written by the vCPU, CELL_WAITS by the cell */
	u32 ncalls;
	u32 stay; /* wait again after the calls */
	u32 signal;
	u64 frame; /* the struct ucontext, as an address in the cell */
	u64 fs_base, gs_base;
	u16 sel[4];	  /* ds, es, fs, gs: as the signal found them, and as the guest's code gets them */
	i64 error;	  /* of the call that failed */
	u64 call_address; /* SIGSYS: behind the instruction, or that of a vsyscall */
	u32 call_number;
	u32 code;	/* the signal's si_code */
	u64 went, came; /* host TSC when the guest's code got the CPU and when a signal took it away */
	struct cell_call call[CELL_CALLS];
};
_Static_assert(sizeof(struct cell_shared) <= CELL_STATE_PAGES * PAGE_SIZE, "the shared words fit");

/* A segment of data. */
#define CELL_TLS 3	       /* a host's programs have as many segments of their own, */
#define CELL_TLS_SELECTOR 0x63 /* the first of which has this selector, the others follow in steps of 8 */
struct cell_tls {
	bool present, writable, pages;
	u32 base, limit; /* the limit in pages or bytes, 20 bits */
};

struct bt_cell {
	pid_t pid;
	u64 window; /* where, in the cell */
	u64 secret;
	struct cell_shared *shared;
	u8 *stack;
	u32 frame, fp, fp_size; /* offsets into the stack: ucontext and vector state of every signal */
	struct cell_call queue[CELL_CALLS];
	u32 nqueue;
	bool lost; /* a call has failed: what is mapped is not known */
	bool broken;
	bool compat; /* 32-bit code runs here too */
	struct cell_tls tls[CELL_TLS];
	int end; /* as wait tells it */
	int cpu; /* where it may run */
};

/* NULL: e says why cells are not to be had here. ram: the descriptor of guest RAM. */
struct bt_cell *bt_cell_new(int ram, struct err *e);
void bt_cell_free(struct bt_cell *c);

/* To be carried out before the cell runs again. prot: PROT_ bits; offset into guest RAM. */
void bt_cell_map(struct bt_cell *c, u64 at, u64 len, u64 offset, int prot);
void bt_cell_unmap(struct bt_cell *c, u64 at, u64 len);

/* Run until the next signal. False: the cell is broken, what ran there is lost. */
bool bt_cell_run(struct bt_cell *c);
void bt_cell_interrupt(pid_t pid);
u64 bt_cell_mask(void);						    /* of signals, while the guest's code runs */
void bt_cell_end(const struct bt_cell *c, char *text, size_t size); /* what became of a broken cell, in words */
void bt_cell_pin(struct bt_cell *c, int cpu);
u64 bt_cell_cpu_ns(const struct bt_cell *c); /* CPU time it has used so far */

/* ---- cell_compat.c: 32-bit code */
#define HOST_CS 0x33 /* the selectors that Linux gives its programs: 64-bit code, 32-bit code, data */
#define HOST_CS32 0x23
#define HOST_DS 0x2b
/* Set compat: does this host run 32-bit code? False: trying has broken the cell. */
bool bt_cell_try_compat(struct bt_cell *c);
/* From now on selector CELL_TLS_SELECTOR + 8 * n stands for this segment. False: not to be had here, nothing has changed. */
bool bt_cell_set_tls(struct bt_cell *c, u32 n, const struct cell_tls *tls);

/* ---- cell_watch.c */
/* Stop the cell, which waits, as a debugger does; act; let go of it. */
bool bt_cell_stopped(struct bt_cell *c, bool (*act)(pid_t pid, const void *with), const void *with);
#define CELL_WATCHES 4
/* Instructions at these addresses, at most CELL_WATCHES, and at no others raise SIGTRAP with TRAP_HWBKPT instead of being executed. False: not to be
 * had here; which of them do is not known then. */
bool bt_cell_watch(struct bt_cell *c, const u64 *at, u32 n);

/* ---- cell_code.c */
extern const u8 cell_code_begin[], cell_code_end[], cell_code_start[], cell_code_signal[], cell_code_return[];
/* Fill in a seccomp filter; returns its length, at most CELL_FILTER. */
struct sock_filter;
#define CELL_FILTER 64
u32 bt_cell_filter(struct sock_filter *f, u64 window, u64 secret);
