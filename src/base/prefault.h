/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host memory before its first touch. A page that the host has yet to find costs whoever touches it some microseconds. Where something is about to
 * use memory piece after piece, a thread of its own, on another processor, finds the pages for it meanwhile.
 *
 * It is advice: nothing depends on it, requests may be dropped, and where there is no second processor or the host is too old nothing is done.
 *
 * Threading: prefault_ask from any thread; it takes a lock for a moment. The others from one thread.
 */
#pragma once

#include "base/types.h"

struct prefault;

/* NULL when it would not help here, or when there is no memory for it; the others take that as well. */
struct prefault *prefault_new(void);
void prefault_free(struct prefault *p);

/* The `bytes` at `at` will be touched soon: written to, or else read or executed. They must stay mapped until prefault_settle. */
void prefault_ask(struct prefault *p, const void *at, u64 bytes, bool write);

/* Drops what was asked for. When it returns nothing is under way. */
void prefault_settle(struct prefault *p);
