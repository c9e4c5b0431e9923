/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device timers in virtual time. A device keeps its deadline as a vclock value (that is what it saves) and arms an evtimer for it; the
 * callback compares the deadline with vclock_now() under the device's lock and arms again when the VM was paused in between.
 *
 * Threading: as the clock and timer functions.
 */
#pragma once

#include "base/clock.h"
#include "base/evloop.h"

/* No periodic source interrupts more often than this, whatever the guest programs: a host thread must not be flooded. */
#define VTIME_MIN_PERIOD_NS 20000ull
/* Farther deadlines are looked at again after this time, so that no sum below overflows. */
#define VTIME_FAR_NS (3600 * NS_PER_SEC)
#define VTIME_PAUSED_POLL_NS 5000000ull

/* How long to wait at most for something `wait` ns away. The clock may stand still: then look again now and then, not at once for ever. */
static inline u64 vtime_wait(const struct vclock *c, u64 wait)
{
	if (wait < VTIME_PAUSED_POLL_NS && __atomic_load_n(&c->paused, __ATOMIC_RELAXED))
		return VTIME_PAUSED_POLL_NS;
	return wait < VTIME_FAR_NS ? wait : VTIME_FAR_NS;
}

static inline void vtime_arm(struct evtimer *t, const struct vclock *c, u64 deadline)
{
	u64 now = vclock_now(c);

	timer_arm(t, host_now_ns() + vtime_wait(c, deadline > now ? deadline - now : 0));
}

/* a * b / c without overflow in between; saturates. c is not 0. */
static inline u64 vtime_muldiv(u64 a, u64 b, u64 c)
{
	unsigned __int128 r = (unsigned __int128)a * b / c;

	return r > ~0ull ? ~0ull : (u64)r;
}

static inline u64 vtime_add(u64 a, u64 b)
{
	u64 r;

	return __builtin_add_overflow(a, b, &r) ? ~0ull : r;
}
