/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM clock MSRs. Source: Linux Documentation/virt/kvm/x86/msr.rst and the structure's description there.
 */
#include "hw/pvclock.h"

#include "hw/vtime.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define MAX_CPUS 64u

#define MSR_WALL_CLOCK_OLD 0x11
#define MSR_SYSTEM_TIME_OLD 0x12
#define MSR_WALL_CLOCK 0x4b564d00
#define MSR_SYSTEM_TIME 0x4b564d01
#define SYSTEM_TIME_ENABLE 1u

#define FLAG_TSC_STABLE 1u    /* all vCPUs' structures give the same time */
#define FLAG_GUEST_STOPPED 2u /* the guest clears it when it has seen it */

/* system time = system_time + ((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul / 2^32 */
struct time_info {
	u32 version; /* odd while being written */
	u32 pad0;
	u64 tsc_timestamp;
	u64 system_time;
	u32 tsc_to_system_mul;
	i8 tsc_shift;
	u8 flags;
	u8 pad[2];
};
_Static_assert(sizeof(struct time_info) == 32, "as the guest knows it");

struct wall_clock {
	u32 version;
	u32 sec, nsec; /* UTC when the system time was 0 */
};

struct vcpu {
	u64 msr; /* SYSTEM_TIME as written */
	u64 tsc_offset;
	u32 version;
	bool stood_still; /* not published yet */
};

struct pvclock {
	struct device dev;
	pthread_mutex_t lock;
	u64 wall_msr;
	u32 wall_version;
	struct vcpu cpu[MAX_CPUS];
};

/* Factor and shift so that ((ticks << shift) * mul) >> 32 is nanoseconds, with as many bits of precision as fit. */
static void scale(u64 tsc_hz, u32 *mul, i8 *shift)
{
	u64 hz = tsc_hz;
	i8 s = 0;

	/* Bring hz into (1e9, 2e9], so that mul = 1e9 * 2^32 / hz lies in [2^31, 2^32). */
	while (hz > 2 * NS_PER_SEC) {
		hz >>= 1;
		s--;
	}
	while (hz && hz <= NS_PER_SEC) {
		hz <<= 1;
		s++;
	}
	*shift = s;
	/* From the unshifted frequency: the bits shifted out above would be an error that grows with time. */
	if (s < 0)
		*mul = (u32)(((unsigned __int128)NS_PER_SEC << (32 - s)) / tsc_hz);
	else
		*mul = hz ? (u32)((unsigned __int128)(NS_PER_SEC << 32 >> s) / tsc_hz) : 0;
}

static bool offsets_equal(const struct pvclock *p)
{
	for (u32 i = 1; i < p->dev.env->ncpus; i++) {
		if (p->cpu[i].tsc_offset != p->cpu[0].tsc_offset)
			return false;
	}
	return true;
}

/* Version protocol: odd, the data, even. Each is a separate store into guest RAM, and stores are seen in order on x86. A range outside RAM
 * is the guest's mistake; nothing is written then. */
static void publish(struct pvclock *p, u32 cpu)
{
	struct vcpu *v = &p->cpu[cpu];
	struct guest_memory *mem = p->dev.env->mem;
	gpa_t gpa = v->msr & ~(u64)SYSTEM_TIME_ENABLE;
	struct time_info t = {.tsc_timestamp = v->tsc_offset, .flags = offsets_equal(p) ? FLAG_TSC_STABLE : 0};
	bool ok;

	if (!(v->msr & SYSTEM_TIME_ENABLE))
		return;
	if (v->stood_still)
		t.flags |= FLAG_GUEST_STOPPED;
	v->stood_still = false;
	scale(p->dev.env->tsc_hz, &t.tsc_to_system_mul, &t.tsc_shift);
	v->version = (v->version | 1) + 2; /* odd */
	t.version = v->version;
	ok = gm_write(mem, gpa, &t.version, sizeof(t.version));
	ok = ok && gm_write(mem, gpa, &t, sizeof(t));
	v->version++;
	t.version = v->version;
	ok = ok && gm_write(mem, gpa, &t.version, sizeof(t.version));
	(void)ok;
}

static void publish_all(struct pvclock *p)
{
	for (u32 i = 0; i < p->dev.env->ncpus; i++)
		publish(p, i);
}

void pvclock_update(struct pvclock *p, u32 cpu, u64 tsc_offset)
{
	pthread_mutex_lock(&p->lock);
	if (p->cpu[cpu].tsc_offset != tsc_offset) {
		bool before = offsets_equal(p);

		p->cpu[cpu].tsc_offset = tsc_offset;
		if (before != offsets_equal(p))
			publish_all(p); /* the stable flag is everybody's */
		else
			publish(p, cpu);
	}
	pthread_mutex_unlock(&p->lock);
}

void pvclock_stood_still(struct pvclock *p)
{
	pthread_mutex_lock(&p->lock);
	for (u32 i = 0; i < p->dev.env->ncpus; i++)
		p->cpu[i].stood_still = true;
	publish_all(p);
	pthread_mutex_unlock(&p->lock);
}

/* UTC at the moment when the virtual clock was 0. Computed now, so that pauses up to now are accounted for. */
static void write_wall_clock(struct pvclock *p, u64 value)
{
	struct guest_memory *mem = p->dev.env->mem;
	u64 start = host_realtime_ns() - vclock_now(p->dev.env->clock);
	struct wall_clock w = {.sec = (u32)(start / NS_PER_SEC), .nsec = (u32)(start % NS_PER_SEC)};
	bool ok;

	p->wall_msr = value;
	p->wall_version = (p->wall_version | 1) + 2;
	w.version = p->wall_version;
	ok = gm_write(mem, value, &w.version, sizeof(w.version));
	ok = ok && gm_write(mem, value, &w, sizeof(w));
	w.version = ++p->wall_version;
	ok = ok && gm_write(mem, value, &w.version, sizeof(w.version));
	(void)ok;
}

bool pvclock_msr_write(struct pvclock *p, u32 cpu, u32 msr, u64 value)
{
	bool known = true;

	pthread_mutex_lock(&p->lock);
	switch (msr) {
	case MSR_WALL_CLOCK_OLD:
	case MSR_WALL_CLOCK:
		write_wall_clock(p, value);
		break;
	case MSR_SYSTEM_TIME_OLD:
	case MSR_SYSTEM_TIME:
		p->cpu[cpu].msr = value;
		publish(p, cpu);
		break;
	default:
		known = false;
	}
	pthread_mutex_unlock(&p->lock);
	return known;
}

bool pvclock_msr_read(struct pvclock *p, u32 cpu, u32 msr, u64 *value)
{
	bool known = true;

	pthread_mutex_lock(&p->lock);
	switch (msr) {
	case MSR_WALL_CLOCK_OLD:
	case MSR_WALL_CLOCK:
		*value = p->wall_msr;
		break;
	case MSR_SYSTEM_TIME_OLD:
	case MSR_SYSTEM_TIME:
		*value = p->cpu[cpu].msr;
		break;
	default:
		known = false;
	}
	pthread_mutex_unlock(&p->lock);
	return known;
}

static void pvclock_reset(struct device *d)
{
	struct pvclock *p = container_of(d, struct pvclock, dev);

	pthread_mutex_lock(&p->lock);
	p->wall_msr = 0;
	p->wall_version = 0;
	for (u32 i = 0; i < MAX_CPUS; i++)
		p->cpu[i] = (struct vcpu){0};
	pthread_mutex_unlock(&p->lock);
}

/* The TSC may count at another rate here: tell the guest. */
static void pvclock_loaded(struct device *d)
{
	struct pvclock *p = container_of(d, struct pvclock, dev);

	pthread_mutex_lock(&p->lock);
	publish_all(p);
	pthread_mutex_unlock(&p->lock);
}

static void pvclock_destroy(struct device *d)
{
	struct pvclock *p = container_of(d, struct pvclock, dev);

	pthread_mutex_destroy(&p->lock);
	free(p);
}

static const struct device_class pvclock_class;

static int pvclock_create(struct device_env *env, const struct opts *opts, struct device **out, struct err *e)
{
	struct pvclock *p;

	if (!env->ncpus || env->ncpus > MAX_CPUS || !env->tsc_hz)
		return err_set(e, EINVAL, "paravirtual clock: %u CPUs with a TSC of %llu Hz; give 1 to %u CPUs", env->ncpus,
			       (unsigned long long)env->tsc_hz, MAX_CPUS);
	p = calloc(1, sizeof(*p));
	if (!p)
		return err_set(e, ENOMEM, "paravirtual clock: out of memory; free memory on the host");
	p->dev.cls = &pvclock_class;
	p->dev.env = env;
	pthread_mutex_init(&p->lock, NULL);
	env->publish(env->registry_opaque, "pvclock", p);
	*out = &p->dev;
	return 0;
}

static const struct field pvclock_fields[] = {
	FIELD(struct pvclock, wall_msr, FIELD_U64),
	FIELD(struct pvclock, wall_version, FIELD_U32),
	FIELD_EACH(struct pvclock, cpu, MAX_CPUS, msr, FIELD_U64, 1),
	FIELD_EACH(struct pvclock, cpu, MAX_CPUS, tsc_offset, FIELD_U64, 1),
	FIELD_EACH(struct pvclock, cpu, MAX_CPUS, version, FIELD_U32, 1),
};

static const struct device_class pvclock_class = {
	.name = "pvclock",
	.stage = STAGE_CHIPSET,
	.summary = "paravirtual clock (kvm-clock)",
	.version = 1,
	.create = pvclock_create,
	.reset = pvclock_reset,
	.destroy = pvclock_destroy,
	.loaded = pvclock_loaded,
	.fields = pvclock_fields,
	.nfields = ARRAY_SIZE(pvclock_fields),
};
DEVICE_REGISTER(pvclock_class);
