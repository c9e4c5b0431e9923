/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `guise doctor --cpu`: the features of a CPU model with the engine that `guise run` would take here, and why the others are hidden.
 *
 * Threading: main thread.
 */
#include "cli/cli.h"
#include "engine/engine.h"
#include "vm/vm.h"

#include <stdlib.h>
#include <unistd.h>

static void print_for_people(const struct vm_cpu_feature *f)
{
	printf("%-26s %-3s%s%s\n", f->name, f->hidden ? "-" : "ok", f->hidden ? " " : "", f->hidden ? f->hidden : "");
}

static void print_for_programs(const struct vm_cpu_feature *f)
{
	printf("%s\t%s\t%s\n", f->name, f->hidden ? "hidden" : "announced", f->hidden ? f->hidden : "");
}

/* Those that are announced come first. */
static u32 print_features(const struct vm_cpu_feature *f, u32 n, void (*print)(const struct vm_cpu_feature *f))
{
	u32 announced = 0;

	for (u32 i = 0; i < n; i++) {
		if (f[i].hidden)
			continue;
		print(&f[i]);
		announced++;
	}
	for (u32 i = 0; i < n; i++)
		if (f[i].hidden)
			print(&f[i]);
	return announced;
}

static int judge(const char *model, const struct engine_ops *engine)
{
	char missing[VM_CPU_LACKS_MAX];
	struct err e = {0};

	if (!vm_cpu_lacks(model, engine, missing, sizeof(missing)))
		return STATUS_OK;
	err_set(&e, 1, "this host lacks%s", missing);
	return cli_fail(&e);
}

int doctor_cpu(const char *model)
{
	bool people = isatty(STDOUT_FILENO);
	const struct engine_ops *engine;
	struct vm_cpu_feature *f;
	struct err e = {0};
	char why[256];
	u32 n, announced;

	if (vm_cpu_check(model, 0, &e) < 0)
		return cli_usage(&e, "doctor");
	if (engine_choose("auto", &engine, why, sizeof(why), &e) < 0 || vm_cpu_features(model, engine, &f, &n, &e) < 0)
		return cli_fail(&e);
	announced = print_features(f, n, people ? print_for_people : print_for_programs);
	if (people)
		printf("\nCPU model %s with engine %s announces %u features.\n", model ? model : "host", engine->name, announced);
	free(f);
	return judge(model, engine);
}
