/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cases through the real CPU and the engines, compared; what differs is shrunk and shown.
 *
 * A random case is that of a seed alone: neither its neighbours in a batch nor the jobs that share a run change it.
 *
 * Threading: one thread uses a `struct checker`. Its totals may be read by others.
 */
#pragma once

#include "coverage.h"
#include "judge.h"
#include "options.h"

#include <stdatomic.h>

/* What a checker tells while it works. It is the only one that writes. */
struct checker_totals {
	_Atomic u64 done, excused, skipped;
	_Atomic u64 seed;     /* of the case that an engine runs now */
	_Atomic u32 engine;   /* which: an index */
	_Atomic bool running; /* an engine runs one */
};

/* What all checkers of a run heed. */
struct checker_limits {
	_Atomic u32 failures; /* so far: they stop at o->max_failures */
	_Atomic bool stop;
};

struct checker {
	const struct options *o;
	struct forms *forms;
	struct checker_totals *totals;
	struct checker_limits *limits;
	struct native *native;
	void *engine[MAX_ENGINES];

	/* the case that is being checked */
	bool judged;
	struct judge_notes notes;
	struct native_trace trace;
	struct cpu_result result;
	u32 under_test; /* index of an engine */
	char text[4096];
};

/* o, forms, totals and limits are set by the caller and stay theirs. Errors: what the oracle and the engines report. */
int checker_open(struct checker *k, struct err *e) must_check;
void checker_close(struct checker *k);

bool checker_enough(const struct checker *k);		/* told to stop, or there are as many failures as were asked for */
u64 checker_random(struct checker *k, u64 seed, u64 n); /* n seeds, from that on; returns how many before it was to stop */
void checker_directed(struct checker *k);
void checker_replay(struct checker *k, u64 seed);
