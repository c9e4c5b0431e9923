/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signal handlers. They belong to the process, hence the static state; only async-signal-safe calls are made.
 *
 * Threading: handlers run on any thread; the rest on the main thread.
 */
#include "cli/signals.h"

#include "base/types.h"
#include "char/char.h"
#include "vm/vm.h"

#include <signal.h>
#include <unistd.h>

static struct vm *_Atomic watched;
static _Atomic int requests, ended_by;

static void say(const char *text, size_t len)
{
	ssize_t ignored = write(STDERR_FILENO, text, len);

	(void)ignored;
}

static void on_request(int sig)
{
	static const char first[] = "\r\nguise: asked the guest to power off; a second signal ends it at once\r\n";
	struct vm *vm = watched;

	if (!vm)
		_exit(128 + sig);
	if (requests++ == 0) {
		vm_press_power_button(vm);
		say(first, sizeof(first) - 1);
		return;
	}
	ended_by = sig;
	vm_quit(vm);
}

/* The default action follows: a fault happens again on return, so that the core dump shows where; a signal that was sent is sent again. The
 * handler is removed by hand, because an engine's handler may stand in front of this one. */
static void on_crash(int sig, siginfo_t *info, void *context)
{
	char_restore_terminal();
	signal(sig, SIG_DFL);
	if (info->si_code <= 0)
		raise(sig);
}

void signals_install(void)
{
	static const int asking[] = {SIGTERM, SIGINT, SIGHUP};
	static const int crashing[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGQUIT, SIGSYS};
	struct sigaction request = {.sa_handler = on_request, .sa_flags = SA_RESTART | SA_ONSTACK};
	struct sigaction crash = {.sa_sigaction = on_crash, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};

	for (u32 i = 0; i < ARRAY_SIZE(asking); i++)
		sigaction(asking[i], &request, NULL);
	for (u32 i = 0; i < ARRAY_SIZE(crashing); i++)
		sigaction(crashing[i], &crash, NULL);
}

void signals_watch(struct vm *vm)
{
	watched = vm;
}

int signals_ended_by(void)
{
	return ended_by;
}
