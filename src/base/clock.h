/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time. Host time is CLOCK_MONOTONIC in nanoseconds; a virtual clock is host time less the time a VM was paused, so that it
 * never runs backwards and stands still while the VM does. The guest's TSC is derived from the same virtual clock.
 *
 * Threading: reads from any thread; pause and resume from the VM's main thread.
 */
#pragma once

#include "base/types.h"

#define NS_PER_SEC 1000000000ull

u64 host_now_ns(void);	    /* CLOCK_MONOTONIC */
u64 host_realtime_ns(void); /* CLOCK_REALTIME */

struct vclock {
	u64 offset_ns; /* host_now - offset = virtual now, while running */
	u64 paused_at; /* virtual time of the pause, meaningful while paused */
	bool paused;
};

void vclock_init(struct vclock *c); /* starts at 0, running */
u64 vclock_now(const struct vclock *c);
void vclock_pause(struct vclock *c);
void vclock_resume(struct vclock *c);
