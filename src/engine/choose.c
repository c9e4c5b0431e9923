/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which engine runs a VM, and the line that says why.
 *
 * Threading: any thread; no state.
 */
#include "engine/engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static bool is_built(const struct engine_ops *ops)
{
	return ops->vm_create != NULL;
}

static int choose_bt(const struct engine_ops **out, struct err *e)
{
	int r = engine_bt.probe(e);

	if (r < 0)
		return err_prefix(e, "engine bt cannot run here");
	*out = &engine_bt;
	return 0;
}

/* Not for every day: one way of running code alone. */
static const struct {
	const struct engine_ops *ops;
	const char *remark;
} others[] = {
	{&engine_translate, "user code is never executed directly"},
	{&engine_direct, "user code is executed directly even where that is slow; it is meant for tests"},
	{&engine_tiny, "its code cache is tiny; it is meant for tests"},
	{&engine_interp, "it is slow and meant for tests"},
};

static const struct engine_ops *other_engine(const char *name, char *why, size_t why_size)
{
	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		if (strcmp(name, others[i].ops->name) != 0)
			continue;
		snprintf(why, why_size, "engine %s: asked for with --engine; %s", name, others[i].remark);
		return others[i].ops;
	}
	return NULL;
}

static int choose_auto(const struct engine_ops **out, char *why, size_t why_size, struct err *e)
{
	struct err no_kvm = {0};
	bool works = engine_kvm.probe(&no_kvm) == 0;

	if (works && is_built(&engine_kvm)) {
		snprintf(why, why_size, "engine kvm: this CPU has hardware virtualization and /dev/kvm works");
		*out = &engine_kvm;
		return 0;
	}
	snprintf(why, why_size, "engine bt: %s", works ? "KVM works here, but this build has no KVM engine yet" : no_kvm.msg);
	return choose_bt(out, e);
}

static int choose_kvm(const struct engine_ops **out, char *why, size_t why_size, struct err *e)
{
	if (!is_built(&engine_kvm))
		return err_set(e, ENOSYS, "--engine kvm: this build has no KVM engine yet; use --engine bt or leave the option out");
	if (engine_kvm.probe(e) < 0)
		return err_prefix(e, "--engine kvm");
	snprintf(why, why_size, "engine kvm: asked for with --engine");
	*out = &engine_kvm;
	return 0;
}

int engine_choose(const char *name, const struct engine_ops **out, char *why, size_t why_size, struct err *e)
{
	static const char *const names[] = {"auto", "bt", "kvm", "translate", "direct", "tiny", "interp", NULL};
	const char *near;

	if (strcmp(name, "auto") == 0)
		return choose_auto(out, why, why_size, e);
	if (strcmp(name, "kvm") == 0)
		return choose_kvm(out, why, why_size, e);
	if (strcmp(name, "bt") == 0) {
		snprintf(why, why_size, "engine bt: asked for with --engine");
		return choose_bt(out, e);
	}
	if ((*out = other_engine(name, why, why_size)))
		return (*out)->probe(e);
	near = err_nearest(name, names);
	if (near)
		return err_set(e, EINVAL, "--engine %s is not possible; did you mean %s?", name, near);
	return err_set(e, EINVAL, "--engine %s is not possible; give auto, bt or kvm", name);
}
