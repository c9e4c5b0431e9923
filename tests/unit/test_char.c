/* SPDX-License-Identifier: Apache-2.0 */
/* Console back ends: files, pipes that stall, a pseudo-terminal with its escape keys. */
#include "base/clock.h"
#include "base/evloop.h"
#include "char/char.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cmocka.h>

/* A console on given stdin and stdout, with a device that takes `room` bytes. */
struct setup {
	struct evloop *l;
	struct char_backend *c;
	struct evtimer deadline;
	int saved_in, saved_out;
	char got[65536];
	size_t ngot, room, want;
	char escape;
	u16 cols, rows;
};

static void take_input(void *opaque, const u8 *bytes, size_t n)
{
	struct setup *s = opaque;

	assert_true(n <= s->room);
	memcpy(s->got + s->ngot, bytes, n);
	s->ngot += n;
	s->room -= n;
	if (s->ngot >= s->want)
		evloop_stop(s->l);
}

static size_t input_room(void *opaque)
{
	struct setup *s = opaque;

	return s->room;
}

static void on_resize(void *opaque, u16 cols, u16 rows)
{
	struct setup *s = opaque;

	s->cols = cols;
	s->rows = rows;
	evloop_stop(s->l);
}

static void on_escape(void *opaque, char key)
{
	struct setup *s = opaque;

	s->escape = key;
	evloop_stop(s->l);
}

static void stop(void *opaque)
{
	evloop_stop(opaque);
}

static void run(struct setup *s, u32 ms)
{
	timer_arm(&s->deadline, host_now_ns() + ms * 1000000ull);
	evloop_run(s->l);
	timer_disarm(&s->deadline);
}

static void open_console(struct setup *s, const char *spec, int in, int out)
{
	struct char_events ev = {s, take_input, input_room, on_resize};
	struct err e = {0};

	memset(s, 0, sizeof(*s));
	s->room = s->want = sizeof(s->got);
	s->saved_in = dup(0);
	s->saved_out = dup(1);
	if (in >= 0)
		dup2(in, 0);
	if (out >= 0) {
		fflush(stdout);
		dup2(out, 1);
	}
	assert_int_equal(evloop_new(&s->l, &e), 0);
	timer_init(&s->deadline, s->l, stop, s->l);
	if (char_open(&s->c, s->l, spec, on_escape, s, &e) < 0)
		fail_msg("%s", e.msg);
	char_set_reader(s->c, &ev);
}

static void close_console(struct setup *s)
{
	char_close(s->c);
	evloop_free(s->l);
	dup2(s->saved_in, 0);
	dup2(s->saved_out, 1);
	close(s->saved_in);
	close(s->saved_out);
}

static void put(struct setup *s, const char *text)
{
	char_write(s->c, (const u8 *)text, strlen(text));
}

static void writes_a_file(void **state)
{
	char path[] = "/tmp/guise-console-XXXXXX", spec[64], buf[64] = {0};
	int fd = mkstemp(path);
	struct setup s;

	snprintf(spec, sizeof(spec), "file=%s", path);
	open_console(&s, spec, -1, -1);
	put(&s, "line\n");
	assert_int_equal(read(fd, buf, sizeof(buf)), 5);
	put(&s, "rest");
	run(&s, 50);
	assert_int_equal(read(fd, buf, sizeof(buf)), 4);
	put(&s, "end");
	close_console(&s);
	assert_int_equal(read(fd, buf, sizeof(buf)), 3);
	close(fd);
	unlink(path);
}

static void refuses_specs(void **state)
{
	static const struct {
		const char *spec, *says;
	} bad[] = {{"stdi", "did you mean stdio"},
		   {"", "give stdio, file=PATH or null"},
		   {"file=", "needs a path"},
		   {"file=/nonexistent/x", "No such file"},
		   {"null,x", "null"},
		   {"file=/", "directory"}};
	struct evloop *l;
	struct char_backend *c;
	struct err e = {0};

	assert_int_equal(evloop_new(&l, &e), 0);
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_true(char_open(&c, l, bad[i].spec, NULL, NULL, &e) < 0);
		if (!strstr(e.msg, bad[i].says))
			fail_msg("\"%s\": \"%s\"", bad[i].spec, e.msg);
	}
	evloop_free(l);
}

static void null_takes_everything(void **state)
{
	struct setup s;

	open_console(&s, "null", -1, -1);
	for (int i = 0; i < 100000; i++)
		put(&s, "anything\n");
	close_console(&s);
}

static void a_pipe_is_transparent(void **state)
{
	int in[2], out[2];
	struct setup s;
	char buf[16] = {0};

	assert_int_equal(pipe(in) | pipe(out), 0);
	open_console(&s, "stdio", in[0], out[1]);
	s.want = 4;
	assert_int_equal(write(in[1], "a\x01xb", 4), 4);
	run(&s, 2000);
	assert_int_equal(s.ngot, 4);
	assert_memory_equal(s.got, "a\x01xb", 4);
	assert_int_equal(s.escape, 0);
	put(&s, "out\n");
	assert_int_equal(read(out[0], buf, sizeof(buf)), 4);
	close(in[1]);
	run(&s, 20); /* end of input is not the end of the loop */
	put(&s, "more\n");
	assert_int_equal(read(out[0], buf, sizeof(buf)), 5);
	close_console(&s);
	assert_int_equal(fcntl(out[1], F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(fcntl(in[0], F_GETFL) & O_NONBLOCK, 0);
}

static void input_waits_for_the_device(void **state)
{
	int in[2];
	struct setup s;
	char big[20000];
	size_t sent = 0;

	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (char)(i * 31 >> 3);
	assert_int_equal(pipe(in), 0);
	open_console(&s, "stdio", in[0], -1);
	s.room = 0;
	sent = (size_t)write(in[1], big, sizeof(big));
	close(in[1]);
	run(&s, 30);
	assert_int_equal(s.ngot, 0);
	s.want = sent;
	for (int i = 0; i < 10000 && s.ngot < sent; i++) {
		s.room = 7;
		char_can_input_changed(s.c);
		run(&s, 1);
	}
	assert_int_equal(s.ngot, sent);
	assert_memory_equal(s.got, big, sent);
	close_console(&s);
}

static void the_last_reader_gets_the_input(void **state)
{
	int in[2];
	struct setup s, other = {.room = 100, .want = 100};
	struct char_events ev = {&other, take_input, input_room, NULL};

	assert_int_equal(pipe(in), 0);
	open_console(&s, "stdio", in[0], -1);
	other.l = s.l;
	char_set_reader(s.c, &ev);
	char_set_reader(s.c, &ev);
	assert_int_equal(write(in[1], "ab", 2), 2);
	run(&s, 20);
	char_drop_reader(s.c, &ev);
	char_drop_reader(s.c, &ev);
	assert_int_equal(write(in[1], "c", 1), 1);
	run(&s, 20);
	assert_int_equal(other.ngot, 2);
	assert_int_equal(s.ngot, 1);
	close_console(&s);
	close(in[1]);
}

static void reads_a_regular_file(void **state)
{
	char path[] = "/tmp/guise-input-XXXXXX";
	int fd = mkstemp(path);
	struct setup s;
	char big[10000];

	memset(big, 'q', sizeof(big));
	assert_int_equal(write(fd, big, sizeof(big)), sizeof(big));
	lseek(fd, 0, SEEK_SET);
	open_console(&s, "stdio", fd, -1);
	s.room = 6000;
	run(&s, 30);
	assert_int_equal(s.ngot, 6000);
	s.room = 6000;
	char_can_input_changed(s.c);
	run(&s, 30);
	assert_int_equal(s.ngot, sizeof(big));
	close_console(&s);
	close(fd);
	unlink(path);
}

static void a_stalled_reader_costs_bounded_time(void **state)
{
	static char block[65536];
	int out[2];
	struct setup s;
	u64 start;

	memset(block, 'x', sizeof(block));
	assert_int_equal(pipe(out), 0);
	open_console(&s, "stdio", -1, out[1]);
	start = host_now_ns();
	for (int i = 0; i < 200; i++)
		char_write(s.c, (u8 *)block, sizeof(block));
	assert_true(host_now_ns() - start < 5 * NS_PER_SEC);
	close(out[0]);
	close_console(&s);
}

static void a_reader_that_leaves_is_survived(void **state)
{
	int out[2];
	struct setup s;

	assert_int_equal(pipe(out), 0);
	open_console(&s, "stdio", -1, out[1]);
	close(out[0]);
	for (int i = 0; i < 1000; i++)
		put(&s, "line\n");
	run(&s, 10);
	close_console(&s);
}

/* Also while nothing is written, and once. */
static void a_reader_that_leaves_is_reported(void **state)
{
	int out[2];
	struct setup s;

	assert_int_equal(pipe(out), 0);
	open_console(&s, "stdio", -1, out[1]);
	s.escape = '?';
	put(&s, "line\n");
	run(&s, 20);
	assert_int_equal(s.escape, '?');
	close(out[0]);
	run(&s, 5000);
	assert_int_equal(s.escape, CHAR_READER_GONE);
	s.escape = '?';
	put(&s, "line\n");
	run(&s, 20);
	assert_int_equal(s.escape, '?');
	close_console(&s);
	close(out[1]);
}

/* In a child with the pseudo-terminal as its controlling one; the exit status is the verdict. */
static int on_a_terminal(int tty)
{
	struct setup *s = calloc(1, sizeof(*s));
	struct termios before, raw, after;
	u16 cols = 0, rows = 0;

	setsid();
	ioctl(tty, TIOCSCTTY, 0);
	tcgetattr(tty, &before);
	open_console(s, "stdio", tty, tty);
	tcgetattr(tty, &raw);
	if ((raw.c_lflag & (ICANON | ECHO | ISIG)) || (raw.c_oflag & OPOST))
		return 1;
	put(s, "ready\r\n");
	s->want = 4;
	run(s, 5000);
	if (s->ngot != 4 || memcmp(s->got, "k\x01\x03z", 4) != 0)
		return 2;
	s->room = 0; /* the guest hangs */
	run(s, 5000);
	if (s->escape != 'x')
		return 3;
	put(s, "size\r\n");
	run(s, 5000);
	if (s->cols != 91 || s->rows != 17 || !char_get_size(s->c, &cols, &rows) || cols != 91)
		return 4;
	close_console(s);
	tcgetattr(tty, &after);
	return before.c_lflag == after.c_lflag && before.c_oflag == after.c_oflag ? 0 : 5;
}

static void wait_for_text(int fd, const char *text)
{
	char buf[4096];
	size_t n = 0;

	while (n < sizeof(buf) - 1) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		if (poll(&p, 1, 5000) <= 0 || read(fd, buf + n, 1) != 1)
			fail_msg("no \"%s\" on the terminal", text);
		buf[++n] = '\0';
		if (strstr(buf, text))
			return;
	}
}

static void a_terminal_is_raw_and_has_escapes(void **state)
{
	struct winsize ws = {.ws_col = 91, .ws_row = 17};
	int master = posix_openpt(O_RDWR | O_NOCTTY), status;
	pid_t child;

	assert_int_equal(grantpt(master) | unlockpt(master), 0);
	fflush(stdout);
	child = fork();
	if (child == 0)
		_exit(on_a_terminal(open(ptsname(master), O_RDWR | O_NOCTTY)));
	wait_for_text(master, "ready");
	assert_int_equal(write(master,
			       "k\x01"
			       "a\x03z",
			       5),
			 5);
	usleep(50000);
	assert_int_equal(write(master, "\x01hjunk\x01x", 8), 8);
	wait_for_text(master, "power button");
	wait_for_text(master, "size");
	assert_int_equal(ioctl(master, TIOCSWINSZ, &ws), 0);
	waitpid(child, &status, 0);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	close(master);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(writes_a_file),
		cmocka_unit_test(refuses_specs),
		cmocka_unit_test(null_takes_everything),
		cmocka_unit_test(a_pipe_is_transparent),
		cmocka_unit_test(input_waits_for_the_device),
		cmocka_unit_test(the_last_reader_gets_the_input),
		cmocka_unit_test(reads_a_regular_file),
		cmocka_unit_test(a_stalled_reader_costs_bounded_time),
		cmocka_unit_test(a_reader_that_leaves_is_survived),
		cmocka_unit_test(a_reader_that_leaves_is_reported),
		cmocka_unit_test(a_terminal_is_raw_and_has_escapes),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
