/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages on stderr. A line is put together first and leaves in one write, so that lines of several threads do not mix.
 *
 * Threading: any thread. Level and line ending belong to the process, as stderr does.
 */
#include "base/log.h"

#include "base/clock.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define LINES_PER_WINDOW 5

static _Atomic int max_level = LOG_INFO;
static _Atomic bool raw_terminal;

void log_set_level(enum log_level max)
{
	max_level = (int)max;
}

void log_set_raw_terminal(bool raw)
{
	raw_terminal = raw;
}

static void write_line(char *line, size_t len)
{
	ssize_t done;

	while (len > 0 && (done = write(STDERR_FILENO, line, len)) > 0) {
		line += done;
		len -= (size_t)done;
	}
}

static void emit(enum log_level level, const char *fmt, va_list ap)
{
	static const char *const prefix[] = {"guise: ", "guise: warning: ", "guise: ", "guise: debug: "};
	const char *end = raw_terminal ? "\r\n" : "\n";
	char line[1280];
	int head = snprintf(line, sizeof(line), "%s", prefix[level]);
	int body = vsnprintf(line + head, sizeof(line) - (size_t)head - 2, fmt, ap);
	size_t len = (size_t)head;

	if (body > 0)
		len += (size_t)body < sizeof(line) - len - 2 ? (size_t)body : sizeof(line) - len - 3;
	len += (size_t)snprintf(line + len, sizeof(line) - len, "%s", end);
	write_line(line, len);
}

void log_msg(enum log_level level, const char *fmt, ...)
{
	va_list ap;

	if ((int)level > max_level)
		return;
	va_start(ap, fmt);
	emit(level, fmt, ap);
	va_end(ap);
}

/* A new window of one second begins: the first caller past its start opens it and learns how many lines the last one swallowed. */
static bool open_window(struct log_limit *l, u64 now, u32 *swallowed)
{
	u64 start = __atomic_load_n(&l->window_start_ns, __ATOMIC_RELAXED);

	if (start != 0 && now - start < NS_PER_SEC)
		return false;
	if (!__atomic_compare_exchange_n(&l->window_start_ns, &start, now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		return false;
	__atomic_store_n(&l->in_window, 0, __ATOMIC_RELAXED);
	*swallowed = __atomic_exchange_n(&l->suppressed, 0, __ATOMIC_RELAXED);
	return true;
}

void log_limited(struct log_limit *limit, enum log_level level, const char *fmt, ...)
{
	u32 swallowed = 0;
	va_list ap;

	if ((int)level > max_level)
		return;
	open_window(limit, host_now_ns(), &swallowed);
	if (__atomic_fetch_add(&limit->in_window, 1, __ATOMIC_RELAXED) >= LINES_PER_WINDOW) {
		__atomic_fetch_add(&limit->suppressed, 1, __ATOMIC_RELAXED);
		return;
	}
	if (swallowed)
		log_msg(level, "%u more messages like the next one were left out", swallowed);
	va_start(ap, fmt);
	emit(level, fmt, ap);
	va_end(ap);
}
