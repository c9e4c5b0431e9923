/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Local APICs that somebody else has, an engine with hardware's help. Messages go there. The device here keeps its place: it is what a reset sets to power-on
 * values, what is saved and loaded, and in the form of struct x86_apic it is carried from one place to the other.
 */
#include "hw/lapic_internal.h"
#include "hw/vtime.h"

#include <string.h>

void lapic_set_elsewhere(struct lapic_set *s, const struct lapic_elsewhere *there)
{
	s->elsewhere = there ? *there : (struct lapic_elsewhere){0};
}

void lapic_level_messages(struct lapic_set *s, const struct x86_msi *m, u32 n)
{
	if (s->elsewhere.level_messages)
		s->elsewhere.level_messages(s->elsewhere.opaque, m, n);
}

static void get_locked(struct lapic *l, struct x86_apic *a)
{
	*a = (struct x86_apic){
		.base = l->base,
		.tpr = l->tpr,
		.ldr = l->ldr,
		.dfr = l->dfr,
		.svr = l->svr,
		.esr = l->esr,
		.icr = l->icr,
		.icr_high = l->icr_high,
		.timer_init = l->timer_init,
		.timer_divide = l->timer_divide,
		.timer_current = lapic_timer_current_locked(l),
		.tsc_deadline = l->tsc_deadline,
	};
	memcpy(a->lvt, l->lvt, sizeof(a->lvt));
	memcpy(a->irr, l->irr, sizeof(a->irr));
	memcpy(a->isr, l->isr, sizeof(a->isr));
	memcpy(a->tmr, l->tmr, sizeof(a->tmr));
}

void lapic_take(struct lapic_set *s, u32 cpu, struct x86_apic *out)
{
	struct lapic *l = &s->cpu[cpu];

	pthread_mutex_lock(&l->lock);
	get_locked(l, out);
	timer_disarm(&l->timer);
	pthread_mutex_unlock(&l->lock);
}

static void put_locked(struct lapic *l, const struct x86_apic *a)
{
	lapic_timer_stop_locked(l);
	l->base = a->base;
	l->tpr = a->tpr;
	l->ldr = a->ldr;
	l->dfr = a->dfr;
	l->svr = a->svr;
	l->esr = a->esr;
	l->esr_pending = 0;
	l->icr = a->icr;
	l->icr_high = a->icr_high;
	memcpy(l->lvt, a->lvt, sizeof(a->lvt));
	memcpy(l->irr, a->irr, sizeof(a->irr));
	memcpy(l->isr, a->isr, sizeof(a->isr));
	memcpy(l->tmr, a->tmr, sizeof(a->tmr));
	l->timer_init = a->timer_init;
	l->timer_divide = a->timer_divide;
	lapic_timer_set_current_locked(l, a->timer_current, a->tsc_deadline);
	lapic_update_locked(l);
}

void lapic_put(struct lapic_set *s, u32 cpu, const struct x86_apic *a)
{
	struct lapic *l = &s->cpu[cpu];

	pthread_mutex_lock(&l->lock);
	put_locked(l, a);
	pthread_mutex_unlock(&l->lock);
}

void lapic_here(struct lapic_set *s, u32 cpu)
{
	struct lapic *l = &s->cpu[cpu];
	bool kick;

	pthread_mutex_lock(&l->lock);
	kick = lapic_timer_rearm_locked(l) || l->pending;
	pthread_mutex_unlock(&l->lock);
	if (kick)
		lapic_kick(l);
}
