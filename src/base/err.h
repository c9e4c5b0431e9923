/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one error idiom: a function that can fail returns 0 or a negative errno and, when it fails, has written into the
 * caller's `struct err` what failed, on which object, why and what to do next. Callers on the way up may put a prefix in front.
 *
 * Threading: a `struct err` belongs to one thread at a time.
 */
#pragma once

#include "base/types.h"

struct err {
	int code;	/* positive errno, 0 while nothing has failed */
	char msg[1024]; /* one line, no trailing newline */
};

/* Record a failure. `errnum` is a positive errno; the text is the whole message (the system's reason is not added). Returns -errnum. */
int err_set(struct err *e, int errnum, const char *fmt, ...) printf_like(3, 4);

/* As err_set, and appends ": " and strerror(errnum); to EMFILE also the way out. Returns -errnum. */
int err_sys(struct err *e, int errnum, const char *fmt, ...) printf_like(3, 4);

/* Put "prefix: " before the message already recorded. Returns -e->code. */
int err_prefix(struct err *e, const char *fmt, ...) printf_like(2, 3);

/* Compilers and analysers see that what these three return is an error, so that nobody goes on after it. */
static inline int err_negative(int r)
{
	if (r >= 0)
		__builtin_unreachable();
	return r;
}
#define err_set(...) err_negative(err_set(__VA_ARGS__))
#define err_sys(...) err_negative(err_sys(__VA_ARGS__))
#define err_prefix(...) err_negative(err_prefix(__VA_ARGS__))

/* The candidate nearest to `word` (edit distance, NULL when none is near enough): for "did you mean". `candidates` ends with NULL. */
const char *err_nearest(const char *word, const char *const *candidates);
