/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Failure records and the nearest-word search behind every "did you mean".
 *
 * Threading: no shared state.
 */
#include "base/err.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static size_t format_at(struct err *e, size_t at, const char *fmt, va_list ap)
{
	size_t room = sizeof(e->msg) - at;
	int n = vsnprintf(e->msg + at, room, fmt, ap);

	if (n < 0)
		return at;
	return at + ((size_t)n < room ? (size_t)n : room - 1);
}

/* A failure without a number would look like success to the caller. */
static int code_of(int errnum)
{
	if (errnum == 0 || errnum == INT_MIN)
		return EIO;
	return errnum > 0 ? errnum : -errnum;
}

static int record(struct err *e, int errnum)
{
	e->code = code_of(errnum);
	return -e->code;
}

int(err_set)(struct err *e, int errnum, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	format_at(e, 0, fmt, ap);
	va_end(ap);
	return record(e, errnum);
}

/* Descriptors run out wherever they do, and the way out is the same everywhere. */
static const char *limit_of(int errnum)
{
	return errnum == EMFILE ? "; raise the limit with ulimit -n" : "";
}

int(err_sys)(struct err *e, int errnum, const char *fmt, ...)
{
	char reason[128];
	size_t at;
	va_list ap;

	va_start(ap, fmt);
	at = format_at(e, 0, fmt, ap);
	va_end(ap);
	snprintf(e->msg + at, sizeof(e->msg) - at, ": %s%s", strerror_r(errnum, reason, sizeof(reason)), limit_of(errnum));
	return record(e, errnum);
}

int(err_prefix)(struct err *e, const char *fmt, ...)
{
	char old[sizeof(e->msg)];
	size_t at;
	va_list ap;

	memcpy(old, e->msg, sizeof(old));
	va_start(ap, fmt);
	at = format_at(e, 0, fmt, ap);
	va_end(ap);
	snprintf(e->msg + at, sizeof(e->msg) - at, ": %s", old);
	return record(e, e->code);
}

#define WORD_MAX 40

static u32 min3(u32 a, u32 b, u32 c)
{
	u32 m = a < b ? a : b;

	return m < c ? m : c;
}

static bool same_letter(char a, char b)
{
	return tolower((unsigned char)a) == tolower((unsigned char)b);
}

/* Edit distance with neighbouring letters swapped as one edit. Both words are at most WORD_MAX long. */
static u32 edit_distance(const char *a, size_t la, const char *b, size_t lb)
{
	u32 row[3][WORD_MAX + 1];
	u32 *before = row[0], *last = row[1], *cur = row[2], *spare;

	for (size_t j = 0; j <= lb; j++)
		last[j] = (u32)j;
	for (size_t i = 1; i <= la; i++) {
		cur[0] = (u32)i;
		for (size_t j = 1; j <= lb; j++) {
			u32 cost = same_letter(a[i - 1], b[j - 1]) ? 0 : 1;

			cur[j] = min3(last[j] + 1, cur[j - 1] + 1, last[j - 1] + cost);
			if (i > 1 && j > 1 && same_letter(a[i - 1], b[j - 2]) && same_letter(a[i - 2], b[j - 1]) &&
			    before[j - 2] + 1 < cur[j])
				cur[j] = before[j - 2] + 1;
		}
		spare = before;
		before = last;
		last = cur;
		cur = spare;
	}
	return last[lb];
}

static u32 distance(const char *word, const char *candidate)
{
	size_t lw = strlen(word), lc = strlen(candidate);

	if (lw > WORD_MAX || lc > WORD_MAX)
		return UINT32_MAX;
	if (lw >= 3 && lw < lc && strncasecmp(word, candidate, lw) == 0)
		return 1; /* an abbreviation */
	return edit_distance(word, lw, candidate, lc);
}

const char *err_nearest(const char *word, const char *const *candidates)
{
	const char *best = NULL;
	u32 best_distance = ((u32)strlen(word) + 2) / 3 + 1; /* one more than what is near enough */

	for (; *candidates; candidates++) {
		u32 d = distance(word, *candidates);

		if (d < best_distance && d < strlen(*candidates)) {
			best_distance = d;
			best = *candidates;
		}
	}
	return best;
}
