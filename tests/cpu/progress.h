/* SPDX-License-Identifier: Apache-2.0 */
/* How far a run is: on a terminal one line that changes each second, elsewhere a line each five minutes. On standard error. */
#pragma once

#include "jobs.h"

struct progress {
	u64 cases; /* wanted; 0: says nothing */
	bool terminal, shown;
	double last; /* when it was told last, in seconds of the run */
	u64 last_done;
};

struct progress progress_begin(u64 cases);
void progress_tell(struct progress *p, const struct jobs_outcome *now);
void progress_end(struct progress *p);
