/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of cpu-fuzz. See main.c. */
#pragma once

#include "subject.h"

#define MAX_ENGINES 4u
#define MAX_JOBS 64u

struct options {
	const struct subject *subject[MAX_ENGINES];
	u32 nsubjects;
	u64 seed, cases;
	int only_class;
	u32 max_insns, repeat, max_failures, jobs;
	u8 ring, bits;
	const char *report; /* file of the coverage; NULL: standard output */
	bool replay, coverage, each_form, directed_only;
};

bool options_parse(int argc, char **argv, struct options *o);
void options_usage(void);

/* The command that runs the case of one seed on one engine alone, but for what does not change it. */
void options_show_replay(const struct options *o, const struct subject *subject, u64 seed);
