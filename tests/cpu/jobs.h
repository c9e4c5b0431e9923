/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A run, shared by processes: each takes the next thousand seeds when it is done with its own. The process that starts them waits, tells how
 * far they are, and starts another one for what is left when a case killed one, which is a failure of that case.
 *
 * Threading: jobs_run is called once, before there are threads.
 */
#pragma once

#include "options.h"

struct jobs_outcome {
	u64 done, failures, excused, skipped;
	u64 next_seed; /* of the first case that was not done */
	double seconds;
	bool interrupted; /* by SIGINT or SIGTERM */
};

/* Runs what o says. Coverage of all jobs is added to f->count. Errors: no memory, a job that could not begin or ended by itself. */
int jobs_run(const struct options *o, struct forms *f, struct jobs_outcome *out, struct err *e) must_check;
