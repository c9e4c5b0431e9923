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

static int choose_interp(const struct engine_ops **out, struct err *e)
{
	*out = &engine_interp;
	return engine_interp.probe(e);
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
	static const char *const names[] = {"auto", "bt", "kvm", "interp", NULL};
	const char *near;

	if (strcmp(name, "auto") == 0)
		return choose_auto(out, why, why_size, e);
	if (strcmp(name, "kvm") == 0)
		return choose_kvm(out, why, why_size, e);
	if (strcmp(name, "bt") == 0) {
		snprintf(why, why_size, "engine bt: asked for with --engine");
		return choose_bt(out, e);
	}
	if (strcmp(name, "interp") == 0) {
		snprintf(why, why_size, "engine interp: asked for with --engine; it is slow and meant for tests");
		return choose_interp(out, e);
	}
	near = err_nearest(name, names);
	if (near)
		return err_set(e, EINVAL, "--engine %s is not possible; did you mean %s?", name, near);
	return err_set(e, EINVAL, "--engine %s is not possible; give auto, bt or kvm", name);
}
