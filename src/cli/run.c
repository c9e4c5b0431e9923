/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `guise run`: one VM from the command line's options to its exit status.
 *
 * Threading: main thread.
 */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/run_options.h"
#include "cli/signals.h"

#include <sys/sysinfo.h>

#define STATS_MAX 128

static void warn_about_memory(u64 size)
{
	struct sysinfo si;

	if (sysinfo(&si) == 0 && size > ((u64)si.freeram + si.bufferram + si.totalswap) * si.mem_unit &&
	    size > (u64)si.totalram * si.mem_unit / 2)
		log_msg(LOG_WARN, "guest memory of %llu MiB is more than half of the host's %llu MiB; the host may run short",
			(unsigned long long)(size / MiB), (unsigned long long)((u64)si.totalram * si.mem_unit / MiB));
}

static void print_stats(struct vm *vm)
{
	struct engine_stats_item items[STATS_MAX];
	u32 n = vm_stats(vm, items, STATS_MAX);

	for (u32 i = 0; i < n; i++)
		fprintf(stderr, "%-32s %llu\n", items[i].name, (unsigned long long)items[i].value);
}

static int failed(const char *why, int status)
{
	log_msg(LOG_ERROR, "%s", why);
	return status;
}

static int quit_status(void)
{
	int sig = signals_ended_by();

	return sig ? STATUS_SIGNAL + sig : STATUS_OK;
}

static int status_of(const struct vm_result *r)
{
	switch (r->end) {
	case VM_END_POWEROFF:
	case VM_END_RESET:
		return STATUS_OK;
	case VM_END_TRIPLE_FAULT:
		return failed("the guest crashed: a triple fault reset it", STATUS_FAILED);
	case VM_END_HALTED:
		return failed("the guest halted every CPU with interrupts off; nothing can wake it", STATUS_FAILED);
	case VM_END_TIMEOUT:
		return failed("the time limit of --timeout ran out", STATUS_TIMEOUT);
	case VM_END_EXIT_PORT:
		return (int)((r->exit_value << 1 | 1) & 0xff);
	case VM_END_QUIT:
		return quit_status();
	case VM_END_ERROR:
		break;
	}
	return STATUS_INTERNAL;
}

static int run_vm(struct vm *vm, bool stats)
{
	struct vm_result result = {0};
	struct err e = {0};
	int r;

	signals_watch(vm);
	r = vm_run(vm, &result, &e);
	signals_watch(NULL);
	if (stats)
		print_stats(vm);
	vm_destroy(vm); /* the terminal is itself again before anything is said */
	if (r < 0)
		return failed(e.msg, STATUS_INTERNAL);
	return status_of(&result);
}

static int run_main(int argc, char **argv)
{
	struct run_options o;
	struct err e = {0};
	struct vm *vm;

	if (run_options_parse(&o, argc, argv, &e) < 0)
		return cli_usage(&e, "run");
	if (o.help_shown)
		return STATUS_OK;
	if (run_options_default_guest(&o, &e) < 0)
		return cli_fail(&e);
	signals_install();
	if (vm_create(&vm, &o.config, &e) < 0)
		return cli_fail(&e);
	warn_about_memory(o.config.memory);
	log_msg(LOG_INFO, "%s", vm_engine_line(vm));
	return run_vm(vm, o.stats);
}

const struct verb verb_run = {"run", "run a guest on this terminal", run_main, run_options_help};
