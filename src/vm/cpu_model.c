/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPU models as a machine's configuration names them: found, checked against its memory and this host, and listed feature by feature.
 *
 * Threading: main thread.
 */
#include "vm/cpu_model.h"

#include "base/guest_memory.h"
#include "x86/cpuid_basis.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MODELS_MAX 16

static int unknown_model(const char *name, struct err *e)
{
	const char *names[MODELS_MAX + 1], *near;
	u32 n = 0;

	for (; x86_cpu_models[n].name && n < MODELS_MAX; n++)
		names[n] = x86_cpu_models[n].name;
	names[n] = NULL;
	near = err_nearest(name, names);
	if (near)
		return err_set(e, EINVAL, "there is no CPU model \"%s\"; did you mean \"%s\"?", name, near);
	return err_set(e, EINVAL, "there is no CPU model \"%s\"; host, max, x86-64-v2 and x86-64-v3 are", name);
}

static int find_model(const char *name, const struct x86_cpu_model **out, struct err *e)
{
	*out = x86_cpu_model_find(name);
	return *out ? 0 : unknown_model(name, e);
}

/* RAM beyond the hole lies a hole's size higher. */
static u64 end_of_ram(u64 size)
{
	return size <= GM_HOLE_START ? size : size + (GM_HOLE_END - GM_HOLE_START);
}

int vm_cpu_check(const char *model, u64 memory, struct err *e)
{
	const u64 room = 1ull << X86_LEVEL_PHYS_BITS;
	const struct x86_cpu_model *m;
	int r = find_model(model, &m, e);

	if (r < 0 || m->level == X86_LEVEL_HOST || end_of_ram(memory) <= room)
		return r;
	return err_set(e, ERANGE, "memory of %llu MiB is more than CPU model %s can address: at most %llu MiB, or --cpu host",
		       (unsigned long long)(memory / MiB), m->name, (unsigned long long)((room - (GM_HOLE_END - GM_HOLE_START)) / MiB));
}

static bool translates(const struct engine_ops *ops)
{
	return strcmp(ops->name, "kvm") != 0;
}

/* *host is the caller's to free. */
static int config_of(struct x86_cpuid_config *cfg, struct x86_cpuid_host **host, const struct x86_cpu_model *m,
		     const struct engine_ops *ops, struct err *e)
{
	int r = 0;

	*host = NULL;
	if (ops->host_cpu)
		r = ops->host_cpu(host, e);
	*cfg = (struct x86_cpuid_config){.ncpus = 1, .engine_bt = translates(ops), .model = m, .host = *host};
	return r;
}

static int build(struct x86_cpuid *p, const struct x86_cpuid_config *cfg, const struct engine_ops *ops, struct err *e)
{
	char list[VM_CPU_LACKS_MAX];

	if (x86_cpuid_lacks(cfg, list, sizeof(list)))
		return err_set(e, ENOTSUP, "CPU model %s is not possible on this host with engine %s, which lacks%s; take --cpu host",
			       cfg->model->name, ops->name, list);
	x86_cpuid_build(p, cfg);
	return 0;
}

int vm_cpu_build(struct x86_cpuid *p, const char *model, const struct engine_ops *ops, u32 ncpus, u64 tsc_hz, struct err *e)
{
	const struct x86_cpu_model *m;
	struct x86_cpuid_config cfg;
	struct x86_cpuid_host *host;
	int r = find_model(model, &m, e);

	if (r == 0)
		r = config_of(&cfg, &host, m, ops, e);
	if (r < 0)
		return r;
	cfg.ncpus = ncpus;
	cfg.tsc_hz = tsc_hz;
	r = build(p, &cfg, ops, e);
	free(host);
	return r;
}

u32 vm_cpu_lacks(const char *model, const struct engine_ops *engine, char *list, size_t size)
{
	struct x86_cpuid_config cfg;
	struct x86_cpuid_host *host;
	struct err e = {0};
	u32 n;

	if (config_of(&cfg, &host, x86_cpu_model_find(model), engine, &e) < 0)
		return 0; /* whoever asks for the list is told */
	n = x86_cpuid_lacks(&cfg, list, size);
	free(host);
	return n;
}

/* ---- lists ---- */

static const char *const why_hidden[] = {
	[X86_ANNOUNCED] = NULL,
	[X86_NOT_IMPLEMENTED] = "not implemented",
	[X86_NOT_IN_MODEL] = "not in this model",
	[X86_HOST_LACKS] = "the host lacks it",
	[X86_STATE_HIDDEN] = "needs registers that are not offered",
	[X86_OTHER_ENGINE] = "means nothing on this engine",
	[X86_OTHER_VENDOR] = "of another vendor's CPUs",
	[X86_ONE_CPU] = "only with several virtual CPUs",
};

int vm_cpu_features(const char *model, const struct engine_ops *engine, struct vm_cpu_feature **out, u32 *n, struct err *e)
{
	const struct x86_cpu_model *m;
	struct x86_cpuid_config cfg;
	struct x86_cpuid_host *host;
	struct x86_cpuid_basis b;
	int r = find_model(model, &m, e);

	if (r == 0)
		r = config_of(&cfg, &host, m, engine, e);
	if (r < 0)
		return r;
	*out = calloc(x86_feature_count, sizeof(**out));
	if (!*out) {
		free(host);
		return err_sys(e, ENOMEM, "list of CPU features");
	}
	x86_cpuid_survey(&b, &cfg);
	for (*n = 0; *n < x86_feature_count; ++*n) {
		const struct x86_feature *f = &x86_features[*n];

		(*out)[*n] = (struct vm_cpu_feature){f->name, why_hidden[x86_feature_judge(&b, f)]};
	}
	free(host);
	return 0;
}
