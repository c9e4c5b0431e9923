/* SPDX-License-Identifier: Apache-2.0 */
/* Failure records, the nearest word, log limits and the virtual clock. */
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void records_message_and_code(void **state)
{
	struct err e = {0};

	assert_int_equal(err_set(&e, EINVAL, "bad %s", "thing"), -EINVAL);
	assert_int_equal(e.code, EINVAL);
	assert_string_equal(e.msg, "bad thing");
	assert_int_equal(err_prefix(&e, "disk %d", 3), -EINVAL);
	assert_string_equal(e.msg, "disk 3: bad thing");
	assert_int_equal(err_sys(&e, ENOENT, "cannot open %s", "x"), -ENOENT);
	assert_string_equal(e.msg, "cannot open x: No such file or directory");
}

static void a_failure_is_never_zero(void **state)
{
	struct err e = {0};

	assert_int_equal(err_set(&e, 0, "no reason was given"), -EIO);
	assert_int_equal(e.code, EIO);
	assert_int_equal(err_set(&e, -ENOENT, "a negative one"), -ENOENT);
	e = (struct err){0};
	assert_int_equal(err_prefix(&e, "nothing was recorded"), -EIO);
}

static void long_messages_are_cut(void **state)
{
	struct err e = {0};
	char big[3000];

	memset(big, 'a', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	err_sys(&e, ENOENT, "%s", big);
	assert_int_equal(strlen(e.msg), sizeof(e.msg) - 1);
	err_prefix(&e, "%s", big);
	assert_int_equal(strlen(e.msg), sizeof(e.msg) - 1);
}

static void nearest_word(void **state)
{
	static const char *const verbs[] = {"run", "doctor", "help", "version", NULL};
	static const char *const keys[] = {"readonly", "format", "cache", NULL};

	assert_string_equal(err_nearest("rnu", verbs), "run");
	assert_string_equal(err_nearest("docter", verbs), "doctor");
	assert_string_equal(err_nearest("HELP", verbs), "help");
	assert_string_equal(err_nearest("redonly", keys), "readonly");
	assert_string_equal(err_nearest("ver", verbs), "version");
	assert_null(err_nearest("xyzzy", verbs));
	assert_null(err_nearest("", verbs));
	assert_null(err_nearest("a-word-that-is-far-longer-than-any-candidate-could-be", verbs));
}

/* What the calls in `fn` wrote to stderr. */
static void captured(void (*fn)(void), char *buf, size_t size)
{
	int fds[2], saved = dup(STDERR_FILENO);
	ssize_t n;

	assert_int_equal(pipe(fds), 0);
	dup2(fds[1], STDERR_FILENO);
	close(fds[1]);
	fn();
	dup2(saved, STDERR_FILENO);
	close(saved);
	n = read(fds[0], buf, size - 1);
	buf[n > 0 ? n : 0] = '\0';
	close(fds[0]);
}

static void log_flood(void)
{
	struct log_limit limit = {0};

	for (int i = 0; i < 1000; i++)
		log_limited(&limit, LOG_WARN, "event %d", i);
	assert_int_equal(limit.suppressed, 995);
}

static void log_levels(void)
{
	log_msg(LOG_DEBUG, "hidden");
	log_msg(LOG_INFO, "shown %d", 1);
	log_set_raw_terminal(true);
	log_msg(LOG_ERROR, "raw");
	log_set_raw_terminal(false);
}

static void log_lines(void **state)
{
	char buf[4096];
	int lines = 0;

	captured(log_levels, buf, sizeof(buf));
	assert_string_equal(buf, "guise: shown 1\nguise: raw\r\n");
	captured(log_flood, buf, sizeof(buf));
	for (char *p = buf; *p; p++)
		lines += *p == '\n';
	assert_int_equal(lines, 5);
}

static void clock_stands_still_while_paused(void **state)
{
	struct vclock c;
	u64 before, after;

	vclock_init(&c);
	usleep(2000);
	before = vclock_now(&c);
	assert_true(before >= 2000000);
	vclock_pause(&c);
	vclock_pause(&c);
	before = vclock_now(&c);
	usleep(20000);
	assert_int_equal(vclock_now(&c), before);
	vclock_resume(&c);
	vclock_resume(&c);
	after = vclock_now(&c);
	assert_true(after >= before && after - before < 15000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(records_message_and_code),
		cmocka_unit_test(a_failure_is_never_zero),
		cmocka_unit_test(long_messages_are_cut),
		cmocka_unit_test(nearest_word),
		cmocka_unit_test(log_lines),
		cmocka_unit_test(clock_stands_still_while_paused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
