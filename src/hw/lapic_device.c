/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device around the LAPICs: creation, reset, saved state. Published as "lapic".
 */
#include "hw/lapic_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct device_class lapic_class;

static void lapic_reset(struct device *d)
{
	struct lapic_set *s = container_of(d, struct lapic_set, dev);

	for (u32 i = 0; i < s->ncpus; i++)
		lapic_reset_one(&s->cpu[i], false);
}

static void lapic_destroy(struct device *d)
{
	struct lapic_set *s = container_of(d, struct lapic_set, dev);

	for (u32 i = 0; i < s->ncpus; i++) {
		timer_disarm(&s->cpu[i].timer);
		pthread_mutex_destroy(&s->cpu[i].lock);
	}
	free(s);
}

static void lapic_loaded(struct device *d)
{
	struct lapic_set *s = container_of(d, struct lapic_set, dev);

	for (u32 i = 0; i < s->ncpus; i++) {
		struct lapic *l = &s->cpu[i];
		bool kick;

		pthread_mutex_lock(&l->lock);
		if (lapic_x2(l) && !lapic_enabled(l))
			l->base &= ~BASE_X2APIC; /* no such mode */
		lapic_timer_rearm_locked(l);
		lapic_update_locked(l);
		kick = l->pending;
		pthread_mutex_unlock(&l->lock);
		if (kick)
			lapic_kick(l);
	}
}

static int lapic_create(struct device_env *env, const struct opts *opts, struct device **out, struct err *e)
{
	/* All 64 places always: the field table has one shape for every number of CPUs. */
	size_t size = sizeof(struct lapic_set) + LAPIC_MAX_CPUS * sizeof(struct lapic);
	struct lapic_set *s;

	if (!env->ncpus || env->ncpus > LAPIC_MAX_CPUS)
		return err_set(e, EINVAL, "%u CPUs asked for; give 1 to %u", env->ncpus, LAPIC_MAX_CPUS);
	s = aligned_alloc(64, size);
	if (!s)
		return err_set(e, ENOMEM, "local APICs: out of memory; free memory on the host");
	memset(s, 0, size);
	s->dev.cls = &lapic_class;
	s->dev.env = env;
	s->ncpus = env->ncpus;
	for (u32 i = 0; i < s->ncpus; i++) {
		s->cpu[i].cpu = i;
		s->cpu[i].set = s;
		pthread_mutex_init(&s->cpu[i].lock, NULL);
		lapic_timer_create(&s->cpu[i]);
	}
	lapic_reset(&s->dev);
	env->publish(env->registry_opaque, "lapic", s);
	*out = &s->dev;
	return 0;
}

#define EACH(member_, type_, count_) FIELD_EACH(struct lapic_set, cpu, LAPIC_MAX_CPUS, member_, type_, count_)

static const struct field lapic_fields[] = {
	EACH(base, FIELD_U64, 1),	  EACH(tpr, FIELD_U32, 1),	   EACH(ldr, FIELD_U32, 1),	     EACH(dfr, FIELD_U32, 1),
	EACH(svr, FIELD_U32, 1),	  EACH(esr, FIELD_U32, 1),	   EACH(esr_pending, FIELD_U32, 1),  EACH(icr, FIELD_U32, 1),
	EACH(icr_high, FIELD_U32, 1),	  EACH(lvt, FIELD_U32, LVT_COUNT), EACH(irr, FIELD_U32, 8),	     EACH(isr, FIELD_U32, 8),
	EACH(tmr, FIELD_U32, 8),	  EACH(timer_init, FIELD_U32, 1),  EACH(timer_divide, FIELD_U32, 1), EACH(timer_due, FIELD_U64, 1),
	EACH(tsc_deadline, FIELD_U64, 1),
};

static const struct device_class lapic_class = {
	.name = "lapic",
	.stage = STAGE_LAPIC,
	.summary = "local APICs of all CPUs",
	.version = 1,
	.create = lapic_create,
	.reset = lapic_reset,
	.destroy = lapic_destroy,
	.loaded = lapic_loaded,
	.fields = lapic_fields,
	.nfields = ARRAY_SIZE(lapic_fields),
};
DEVICE_REGISTER(lapic_class);
