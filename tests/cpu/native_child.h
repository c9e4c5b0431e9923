/* SPDX-License-Identifier: Apache-2.0 */
/* What the oracle's parent and child share. See native.h. */
#pragma once

#include "native.h"

#include <stdatomic.h>

struct native_slot {
	struct cpu_case c;
	struct cpu_result result;
};

struct native_shared {
	_Atomic u32 request, done; /* futex words: the child works while they differ */
	u32 n, next;		   /* cases of this batch, the one being run */
	bool tracing;
	struct native_trace trace;
	struct native_slot slot[NATIVE_BATCH];
};

_Noreturn void native_child(struct native_shared *shared, int code_fd, int data_fd);
