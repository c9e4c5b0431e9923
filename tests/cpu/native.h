/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The real CPU as the oracle. A child process has the case's address space mapped and runs cases inside a signal handler's return: each
 * signal that ends a case hands over the whole state (registers and XSAVE image) and its return path loads the next case. The child is a
 * program of its own, cpu-oracle beside this one: where wild accesses go, nothing of the engine and of sanitizers may be mapped.
 *
 * A seccomp filter turns every system call made from the case's code into END_UNSUPPORTED. A case that kills the child costs that case
 * only.
 *
 * Threading: one thread uses a `struct native`.
 */
#pragma once

#include "base/err.h"
#include "case.h"

#define NATIVE_BATCH 64u
#define NATIVE_TRACE 16384u

struct native;

struct native_step {
	u64 rip, rflags;
	u64 gpr[16];
	u8 code[15], len; /* what is there, as far as the code area goes */
};

struct native_trace {
	u32 n;
	struct native_step step[NATIVE_TRACE]; /* state before each instruction, as single-stepping sees it */
};

/* Errors: ENOTSUP when the kernel does not allow FSGSBASE in user mode; no cpu-oracle beside the program; mmap, spawn failures. */
int native_new(struct native **out, struct err *e) must_check;
void native_free(struct native *nat);

/* The slots 0 to NATIVE_BATCH - 1, shared with the child, so that nothing is copied: put a case in, run it, read its result. */
struct cpu_case *native_case(struct native *nat, u32 slot);
struct cpu_result *native_result(struct native *nat, u32 slot);

/* Run the laid-out cases of the n slots listed. A round trip to the child costs more than running a case: give it many. */
void native_run(struct native *nat, const u8 *slots, u32 n);

/* Run one laid-out case that is in no slot. The result is good until the next call. */
const struct cpu_result *native_run_one(struct native *nat, const struct cpu_case *c);

/* Run one case single-stepped and say which instructions were executed. */
void native_run_traced(struct native *nat, const struct cpu_case *c, struct native_trace *trace);
