/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process's controlling terminal: raw while a console has it, cooked again whatever happens. A process has one terminal and one set of
 * signal handlers, so this is the one piece of state here that belongs to the process and not to a VM.
 *
 * Threading: take and give back on a main thread, one VM at a time; char_restore_terminal and the handlers are async-signal-safe.
 */
#include "base/log.h"
#include "char/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

static const int watched_signals[] = {SIGWINCH, SIGCONT, SIGTSTP};

static struct {
	bool taken; /* atomic */
	_Atomic bool raw;
	int fd;
	int event_fd; /* the handlers write here */
	struct termios cooked, raw_mode;
	struct sigaction old[ARRAY_SIZE(watched_signals)];
	struct evloop *loop;
	void (*changed)(void *opaque);
	void *opaque;
} term = {.fd = -1, .event_fd = -1};

/* A terminal that is not the controlling one (ENOTTY) has no job control: nobody else is in its foreground. */
static bool in_foreground(int fd)
{
	pid_t group = tcgetpgrp(fd);
	return group == getpgrp() || (group < 0 && errno == ENOTTY);
}

/* From the background, tcsetattr would stop the process (SIGTTOU); blocked, it just works. */
static void set_mode(const struct termios *mode)
{
	sigset_t ttou, old;

	sigemptyset(&ttou);
	sigaddset(&ttou, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &ttou, &old);
	tcsetattr(term.fd, TCSADRAIN, mode);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void char_restore_terminal(void)
{
	int saved = errno;

	if (term.raw) {
		term.raw = false;
		set_mode(&term.cooked);
	}
	errno = saved;
}

static void make_raw(void)
{
	set_mode(&term.raw_mode);
	term.raw = true;
}

static void on_signal(int sig)
{
	int saved = errno;
	u64 one = 1;

	if (sig == SIGTSTP) {
		char_restore_terminal();
		raise(SIGSTOP);
	} else if (write(term.event_fd, &one, sizeof(one)) < 0) {
		/* The counter is full: the loop is awake already. */
	}
	errno = saved;
}

/* The window changed, or the process was stopped and the shell put its own mode back. */
static void on_event(void *opaque, u32 events)
{
	u64 count;

	if (read(term.event_fd, &count, sizeof(count)) < 0)
		return;
	if (in_foreground(term.fd))
		make_raw();
	term.changed(term.opaque);
}

static void install_handlers(void)
{
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_ONSTACK};

	for (u32 i = 0; i < ARRAY_SIZE(watched_signals); i++)
		sigaction(watched_signals[i], &sa, &term.old[i]);
}

static void remove_handlers(void)
{
	for (u32 i = 0; i < ARRAY_SIZE(watched_signals); i++)
		sigaction(watched_signals[i], &term.old[i], NULL);
}

static int start(int fd, struct evloop *l, struct err *e)
{
	int r;

	if (tcgetattr(fd, &term.cooked) < 0)
		return err_sys(e, errno, "cannot read the terminal's mode");
	term.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (term.event_fd < 0)
		return err_sys(e, errno, "cannot watch the terminal");
	r = evloop_add_fd(l, term.event_fd, EPOLLIN, on_event, NULL, e);
	if (r < 0) {
		close(term.event_fd);
		return r;
	}
	term.fd = fd;
	term.loop = l;
	term.raw_mode = term.cooked;
	cfmakeraw(&term.raw_mode);
	install_handlers();
	make_raw();
	log_set_raw_terminal(isatty(STDERR_FILENO));
	return 0;
}

int terminal_take(int fd, struct evloop *l, void (*changed)(void *opaque), void *opaque, enum terminal_state *state, struct err *e)
{
	int r;

	*state = TERMINAL_NONE;
	if (!isatty(fd))
		return 0;
	*state = TERMINAL_BACKGROUND;
	if (!in_foreground(fd))
		return 0;
	if (__atomic_exchange_n(&term.taken, true, __ATOMIC_ACQ_REL))
		return err_set(e, EBUSY, "the terminal is in use by another VM of this process; give this one --console file=PATH or null");
	term.changed = changed;
	term.opaque = opaque;
	r = start(fd, l, e);
	if (r < 0)
		__atomic_store_n(&term.taken, false, __ATOMIC_RELEASE);
	else
		*state = TERMINAL_OURS;
	return r;
}

void terminal_give_back(void)
{
	remove_handlers();
	char_restore_terminal();
	log_set_raw_terminal(false);
	evloop_del_fd(term.loop, term.event_fd);
	close(term.event_fd);
	term.event_fd = term.fd = -1;
	__atomic_store_n(&term.taken, false, __ATOMIC_RELEASE);
}

bool terminal_size(u16 *cols, u16 *rows)
{
	struct winsize ws;

	if (term.fd < 0 || ioctl(term.fd, TIOCGWINSZ, &ws) < 0 || ws.ws_col == 0 || ws.ws_row == 0)
		return false;
	*cols = ws.ws_col;
	*rows = ws.ws_row;
	return true;
}
