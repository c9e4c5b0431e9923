/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is tested: something that runs a case in a guest, or the real CPU once more. One row a subject.
 *
 * Threading: one thread uses a subject.
 */
#pragma once

#include "base/err.h"
#include "forms.h"
#include "native.h"

struct subject {
	const char *name, *summary;
	int (*open)(void **out, struct err *e);
	void (*close)(void *s);
	/* Run one laid-out case as often as `repeat` says, from the same start state each time; the last result counts. */
	void (*run)(void *s, const struct cpu_case *c, u32 repeat, struct cpu_result *r);
	/* What the guest's CPUID announces; NULL: the host's. */
	bool (*has)(u32 leaf, u32 sub, u32 reg, u32 bit);
	bool in_all; /* for all kinds of cases */
};

extern const struct subject *const subjects[]; /* ends with NULL */
bool subject_host_has(u32 leaf, u32 sub, u32 reg, u32 bit);
