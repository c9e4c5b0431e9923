/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host clocks and the virtual clock.
 *
 * Threading: a reader takes `paused` first (acquire) and then the one field that belongs to it; pause and resume write that field
 * before they publish `paused` (release). vCPUs do not run while the clock is being paused, so no guest sees the edge.
 */
#include "base/clock.h"

#include <time.h>

static u64 read_clock(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (u64)ts.tv_sec * NS_PER_SEC + (u64)ts.tv_nsec;
}

u64 host_now_ns(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

u64 host_realtime_ns(void)
{
	return read_clock(CLOCK_REALTIME);
}

void vclock_init(struct vclock *c)
{
	*c = (struct vclock){.offset_ns = host_now_ns()};
}

u64 vclock_now(const struct vclock *c)
{
	if (__atomic_load_n(&c->paused, __ATOMIC_ACQUIRE))
		return __atomic_load_n(&c->paused_at, __ATOMIC_RELAXED);
	return host_now_ns() - __atomic_load_n(&c->offset_ns, __ATOMIC_RELAXED);
}

void vclock_pause(struct vclock *c)
{
	if (c->paused)
		return;
	__atomic_store_n(&c->paused_at, host_now_ns() - c->offset_ns, __ATOMIC_RELAXED);
	__atomic_store_n(&c->paused, true, __ATOMIC_RELEASE);
}

void vclock_resume(struct vclock *c)
{
	if (!c->paused)
		return;
	__atomic_store_n(&c->offset_ns, host_now_ns() - c->paused_at, __ATOMIC_RELAXED);
	__atomic_store_n(&c->paused, false, __ATOMIC_RELEASE);
}
