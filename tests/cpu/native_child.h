/* SPDX-License-Identifier: Apache-2.0 */
/* What the oracle's parent and child (the program cpu-oracle) share. See native.h. */
#pragma once

#include "native.h"

#include <stdatomic.h>

/* Behind those of a batch: for a case that comes alone, and for one that is traced, whose result is of no use. */
enum { NATIVE_SLOT_ONE = NATIVE_BATCH, NATIVE_SLOT_TRACED, NATIVE_SLOTS };

struct native_slot {
	struct cpu_case c;
	struct cpu_result result;
};

struct native_shared {
	_Atomic u32 request, done; /* futex words: the child works while they differ */
	u32 n, next;		   /* cases of this batch, the one being run: indices into the queue of slots */
	u8 queue[NATIVE_BATCH];
	bool tracing;
	struct native_trace trace;
	struct native_slot slot[NATIVE_SLOTS];
};

/* The child is started with these descriptors: memfds of a struct native_shared, of the case's code and of its data. */
enum { NATIVE_FD_SHARED = 3, NATIVE_FD_CODE, NATIVE_FD_DATA, NATIVE_FDS_END };
