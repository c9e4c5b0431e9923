/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line: verbs, options as tables, help, exit statuses. Uses the library only through vm/vm.h, the device registry and engine.h.
 *
 * Contract: results on stdout, messages on stderr. A verb returns the process's exit status.
 * Threading: main thread.
 */
#pragma once

#include "base/err.h"

#include <stdio.h>

enum status {
	STATUS_OK = 0,
	STATUS_FAILED = 1, /* a file or the host refused before the guest ran; or the guest itself failed */
	STATUS_USAGE = 2,  /* the command line is possible nowhere; nothing was opened */
	STATUS_TIMEOUT = 124,
	STATUS_INTERNAL = 125, /* the guest ran, and we could not go on */
	STATUS_SIGNAL = 128,   /* plus the signal's number */
};

struct verb {
	const char *name, *summary;
	int (*run)(int argc, char **argv); /* argv[0] is the verb */
	void (*help)(FILE *out);
};

extern const struct verb verb_run, verb_doctor, verb_help;
const struct verb *const *cli_verbs(void); /* ends with NULL */
const struct verb *cli_find_verb(const char *name);
int cli_unknown_verb(const char *name); /* message; returns STATUS_USAGE */
void cli_help(FILE *out);

/* "guise: message", and for usage errors where help is. Return the status. */
int cli_fail(const struct err *e);
int cli_usage(const struct err *e, const char *verb);

/* The features of a CPU model, NULL: the default one's, on standard output. Returns the status. */
int doctor_cpu(const char *model);
