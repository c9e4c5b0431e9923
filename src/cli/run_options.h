/* SPDX-License-Identifier: Apache-2.0 */
/* The options of `guise run` as one table, with the devices' own options from the registry. */
#pragma once

#include "cli/guest_files.h"
#include "vm/vm.h"

#include <stdio.h>

struct run_options {
	struct vm_config config;
	struct guest_files guest; /* storage for the default guest's paths */
	char cmdline[8192];	  /* likewise */
	bool stats;
	bool help_shown; /* `--disk help` and the like: nothing to run */
	u32 given;	 /* bit per row of the table */
};

/* Errors: -EINVAL and the like for usage. */
int run_options_parse(struct run_options *o, int argc, char **argv, struct err *e) must_check;
/* Fills in the default guest when no kernel is named. */
int run_options_default_guest(struct run_options *o, struct err *e) must_check;
void run_options_help(FILE *out);
