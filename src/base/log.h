/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages for people, on stderr, one line each: "guise: text". Rate-limited where a guest can cause them.
 *
 * Threading: any thread. While the terminal is raw, lines end with CR LF.
 */
#pragma once

#include "base/types.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level max);
void log_set_raw_terminal(bool raw);
void log_msg(enum log_level level, const char *fmt, ...) printf_like(2, 3);

/* For events that a guest can cause: at most a few lines a second from each call site, the rest counted. */
struct log_limit {
	u64 window_start_ns;
	u32 in_window;
	u32 suppressed;
};
void log_limited(struct log_limit *limit, enum log_level level, const char *fmt, ...) printf_like(3, 4);
