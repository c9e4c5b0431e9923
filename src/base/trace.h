/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A record of what a guest does, for people: one line an event with virtual time, vCPU and rip. What is recorded, and how it reads, is one
 * table. Nobody pays for what is off: whoever has something to tell tests a pointer first.
 *
 * Threading: trace_write and trace_flush from any thread; a line is never mixed with another. The rest on one thread, before and after.
 */
#pragma once

#include "base/clock.h"
#include "base/err.h"

#include <stdio.h>

struct trace;

/* Comments name the arguments a, b, c. */
enum trace_event {
	TRACE_EXIT, /* one for each way in which an engine returns to the VM's loop, in the order of enum exit_kind */
	TRACE_EXIT_HALTED,
	TRACE_EXIT_SHUTDOWN,
	TRACE_EXIT_DEBUG,
	TRACE_EXIT_ERROR,
	TRACE_INTERRUPT,      /* vector; rip is where it interrupts */
	TRACE_NMI,	      /* - */
	TRACE_SOFT_INTERRUPT, /* vector; rip is the instruction behind */
	TRACE_FAULT,	      /* vector */
	TRACE_FAULT_ERROR,    /* vector, error code */
	TRACE_PAGE_FAULT,     /* error code, address */
	TRACE_MMIO_READ,      /* address, size, value */
	TRACE_MMIO_WRITE,
	TRACE_PIO_READ, /* port, size, value */
	TRACE_PIO_WRITE,
	TRACE_RDMSR, /* number, value */
	TRACE_WRMSR,
	TRACE_RDMSR_REFUSED, /* number */
	TRACE_WRMSR_REFUSED, /* number, value */
	TRACE_BLOCK,	     /* rip is its start; physical address, bytes of the guest */
	TRACE_BLOCK_HOST,    /* the same block: host address, bytes of the host */
	TRACE_EVENTS,
};

/* `text` is "CATEGORY,...[:FILE]"; without FILE lines go to standard error. Checks, and opens nothing. */
int trace_check(const char *text, struct err *e) must_check;
/* The file is made anew; *clock stays the caller's. Lines are buffered. */
int trace_open(struct trace **out, const char *text, const struct vclock *clock, struct err *e) must_check;
void trace_flush(struct trace *t);
void trace_close(struct trace *t); /* NULL is allowed; says so when lines were lost */

/* Drops what is in no category asked for. */
void trace_write(struct trace *t, enum trace_event ev, u32 cpu, u64 rip, u64 a, u64 b, u64 c);

void trace_help(FILE *out); /* the categories */
