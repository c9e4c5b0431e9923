/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which instructions a run has exercised: one counter a form, counted only where the real CPU got to.
 *
 * Threading: none.
 */
#pragma once

#include "forms.h"
#include "native.h"

#include <stdio.h>

struct coverage_options {
	int only_class; /* -1: all */
	u8 ring;
	bool each_form; /* every form of an instruction must have been reached, not just one */
};

/* Count the instructions that c reached before it ended at `rip`: those that it completed, and the one that faulted. The rip is enough when
 * no instruction of the case can jump; else a trace is needed, which takes its time and is worth it for forms never reached so far. So the
 * counters are lower bounds, and 0 is exact. */
bool coverage_runs_straight(const struct forms *f, const struct cpu_case *c);
bool coverage_has_news(const struct forms *f, const struct cpu_case *c);
void coverage_count(struct forms *f, const struct cpu_case *c, u64 rip);
void coverage_count_traced(struct forms *f, const struct cpu_case *c, const struct native_trace *trace);

/* Of what this kind of run can generate. */
struct coverage_totals {
	u32 instructions, forms, instructions_reached, forms_reached;
};

/* Write a line for each instruction, what the translator does with it, and what no case can hold. */
struct coverage_totals coverage_show(FILE *to, const struct forms *f, const struct coverage_options *o);
