/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local APIC timer. One-shot and periodic modes count a 1 GHz bus clock through the divider (SDM 3.11.5.4), TSC-deadline mode compares
 * with the guest's TSC. The announced frequency is in CPUID leaf 0x15 and 0x40000010.
 *
 * Threading: expiry runs on the event loop's thread and takes the LAPIC's lock like everyone else.
 */
#include "hw/lapic_internal.h"
#include "hw/vtime.h"

enum { MODE_ONE_SHOT, MODE_PERIODIC, MODE_DEADLINE };

static u32 timer_mode(const struct lapic *l)
{
	return l->lvt[LVT_TIMER] >> LVT_MODE_SHIFT & 3;
}

bool lapic_timer_is_deadline(const struct lapic *l)
{
	return timer_mode(l) == MODE_DEADLINE;
}

/* Bits 0, 1 and 3; 111 means 1, otherwise 2^(n+1). One bus clock is one nanosecond. */
static u32 divisor(u32 divide)
{
	u32 n = (divide & 3) | (divide & 8) >> 1;

	return n == 7 ? 1 : 2u << n;
}

static u64 now_ns(const struct lapic *l)
{
	return vclock_now(l->set->dev.env->clock);
}

static u64 guest_tsc(const struct lapic *l)
{
	const struct lapic_vcpu_ops *ops = &l->set->vcpu;

	if (ops->tsc)
		return ops->tsc(ops->opaque, l->cpu);
	return vtime_muldiv(now_ns(l), l->set->dev.env->tsc_hz, NS_PER_SEC);
}

static void arm(struct lapic *l, u64 due)
{
	l->timer_due = due ? due : 1;
	vtime_arm(&l->timer, l->set->dev.env->clock, l->timer_due);
}

void lapic_timer_stop_locked(struct lapic *l)
{
	l->timer_due = 0;
	l->tsc_deadline = 0;
	timer_disarm(&l->timer);
}

static bool fire(struct lapic *l)
{
	u32 lvt = l->lvt[LVT_TIMER];

	return !(lvt & LVT_MASKED) && lapic_raise_locked(l, (u8)lvt, false);
}

/* Fire when the TSC has reached the deadline, else come back when it will have. */
static bool deadline_check(struct lapic *l)
{
	u64 tsc = guest_tsc(l);

	if (tsc >= l->tsc_deadline) {
		lapic_timer_stop_locked(l);
		return fire(l);
	}
	arm(l, vtime_add(now_ns(l), vtime_muldiv(l->tsc_deadline - tsc, NS_PER_SEC, l->set->dev.env->tsc_hz) + 1));
	return false;
}

bool lapic_timer_set_deadline_locked(struct lapic *l, u64 tsc)
{
	lapic_timer_stop_locked(l);
	l->tsc_deadline = tsc;
	return tsc && deadline_check(l);
}

/* Next expiry of a periodic timer; expiries missed (the VM was paused, the host busy) are merged into one. */
static void periodic_next(struct lapic *l, u64 now)
{
	u64 period = (u64)l->timer_init * divisor(l->timer_divide);

	if (period < VTIME_MIN_PERIOD_NS)
		period = VTIME_MIN_PERIOD_NS;
	l->timer_due += period;
	if (l->timer_due <= now)
		l->timer_due = now + period - (now - l->timer_due) % period;
	arm(l, l->timer_due);
}

static bool expire_locked(struct lapic *l)
{
	u64 now = now_ns(l);

	if (l->tsc_deadline)
		return deadline_check(l);
	if (!l->timer_due)
		return false; /* stopped while the event was on its way */
	if (now < l->timer_due) {
		arm(l, l->timer_due);
		return false;
	}
	if (timer_mode(l) == MODE_PERIODIC && l->timer_init)
		periodic_next(l, now);
	else
		lapic_timer_stop_locked(l);
	return fire(l);
}

static void expired(void *opaque)
{
	struct lapic *l = opaque;
	bool kick;

	pthread_mutex_lock(&l->lock);
	kick = expire_locked(l);
	pthread_mutex_unlock(&l->lock);
	if (kick)
		lapic_kick(l);
}

void lapic_timer_create(struct lapic *l)
{
	timer_init(&l->timer, l->set->dev.env->loop, expired, l);
}

bool lapic_timer_rearm_locked(struct lapic *l)
{
	if (l->tsc_deadline)
		return deadline_check(l);
	if (l->timer_due)
		arm(l, l->timer_due);
	return false;
}

bool lapic_timer_set_init_locked(struct lapic *l, u32 count)
{
	if (lapic_timer_is_deadline(l))
		return false; /* SDM: writes are ignored in this mode */
	lapic_timer_stop_locked(l);
	l->timer_init = count;
	if (count)
		arm(l, now_ns(l) + (u64)count * divisor(l->timer_divide));
	return false;
}

static u64 ticks_left(const struct lapic *l)
{
	u64 now = now_ns(l);

	if (!l->timer_due || l->tsc_deadline || now >= l->timer_due)
		return 0;
	return (l->timer_due - now) / divisor(l->timer_divide);
}

u32 lapic_timer_current_locked(const struct lapic *l)
{
	u64 ticks = ticks_left(l);

	return ticks < l->timer_init ? (u32)ticks : l->timer_init;
}

void lapic_timer_set_current_locked(struct lapic *l, u32 ticks, u64 tsc_deadline)
{
	l->tsc_deadline = lapic_timer_is_deadline(l) ? tsc_deadline : 0;
	l->timer_due = !l->tsc_deadline && ticks ? now_ns(l) + (u64)ticks * divisor(l->timer_divide) : 0;
}

void lapic_timer_set_divide_locked(struct lapic *l, u32 divide)
{
	u64 ticks = ticks_left(l);

	l->timer_divide = divide & 0xb;
	if (l->timer_due && !l->tsc_deadline)
		arm(l, now_ns(l) + ticks * divisor(l->timer_divide));
}

/* Going to or from TSC-deadline mode disarms the timer (SDM 3.11.5.4.1). */
void lapic_timer_set_mode_locked(struct lapic *l, u32 old_lvt)
{
	u32 old = old_lvt >> LVT_MODE_SHIFT & 3, new = timer_mode(l);

	if (old == new || (old != MODE_DEADLINE && new != MODE_DEADLINE))
		return;
	lapic_timer_stop_locked(l);
	l->timer_init = 0;
}
