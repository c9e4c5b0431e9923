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
	const char *name;
	const struct engine_ops *ops;
	const char *remark;
} others[] = {
	{"translate", &engine_translate, "user code is never executed directly"},
	{"direct", &engine_direct, "user code is executed directly even where that is slow; it is meant for tests"},
	{"tiny", &engine_tiny, "its code cache is tiny; it is meant for tests"},
	{"interp", &engine_interp, "it is slow and meant for tests"},
};

static const struct engine_ops *other_engine(const char *name, char *why, size_t why_size)
{
	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		if (strcmp(name, others[i].name) != 0)
			continue;
		snprintf(why, why_size, "engine %s: asked for with --engine; %s", name, others[i].remark);
		return others[i].ops;
	}
	return NULL;
}

/* The machine decides who is next. */
static int choose_relay(const struct engine_ops **out, char *why, size_t why_size, struct err *e)
{
	struct err no_kvm = {0};

	*out = engine_kvm.probe(&no_kvm) == 0 ? &engine_kvm : &engine_bt;
	snprintf(why, why_size, "engine relay: asked for with --engine; engines take turns, %s first; it is meant for tests", (*out)->name);
	return engine_bt.probe(e);
}

static int choose_auto(const struct engine_ops **out, char *why, size_t why_size, struct err *e)
{
	struct err no_kvm = {0};

	if (engine_kvm.probe(&no_kvm) == 0) {
		snprintf(why, why_size, "engine kvm: this CPU has hardware virtualization and /dev/kvm works");
		*out = &engine_kvm;
		return 0;
	}
	snprintf(why, why_size, "engine bt: %s", no_kvm.msg);
	return choose_bt(out, e);
}

static int choose_kvm(const struct engine_ops **out, char *why, size_t why_size, struct err *e)
{
	if (engine_kvm.probe(e) < 0)
		return err_prefix(e, "--engine kvm");
	snprintf(why, why_size, "engine kvm: asked for with --engine");
	*out = &engine_kvm;
	return 0;
}

int engine_choose(const char *name, const struct engine_ops **out, char *why, size_t why_size, struct err *e)
{
	static const char *const names[] = {"auto", "bt", "kvm", "translate", "direct", "tiny", "interp", "relay", NULL};
	const char *near;

	if (strcmp(name, "auto") == 0)
		return choose_auto(out, why, why_size, e);
	if (strcmp(name, "relay") == 0)
		return choose_relay(out, why, why_size, e);
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
