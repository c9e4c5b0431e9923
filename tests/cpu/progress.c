/* SPDX-License-Identifier: Apache-2.0 */
/* See progress.h. */
#include "progress.h"

#include <stdio.h>
#include <unistd.h>

#define TERMINAL_SECONDS 1.0
#define LOG_SECONDS 300.0

struct progress progress_begin(u64 cases)
{
	return (struct progress){.cases = cases, .terminal = isatty(STDERR_FILENO)};
}

void progress_tell(struct progress *p, const struct jobs_outcome *now)
{
	double passed = now->seconds - p->last, rate;

	if (!p->cases || passed < (p->terminal ? TERMINAL_SECONDS : LOG_SECONDS))
		return;
	rate = (double)(now->done - p->last_done) / passed;
	fprintf(stderr, "%scpu-fuzz: %llu of %llu cases, %.0f a second, %llu failed, %.0f minutes left%s", p->terminal ? "\r" : "",
		(unsigned long long)now->done, (unsigned long long)p->cases, rate, (unsigned long long)now->failures,
		rate > 0 && p->cases > now->done ? (double)(p->cases - now->done) / rate / 60 : 0, p->terminal ? "\033[K" : "\n");
	p->last = now->seconds;
	p->last_done = now->done;
	p->shown = true;
}

void progress_end(struct progress *p)
{
	if (p->terminal && p->shown)
		fprintf(stderr, "\r\033[K");
}
