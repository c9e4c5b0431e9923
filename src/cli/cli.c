/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of verbs and what is common to them: dispatch, help, version, messages.
 *
 * Threading: main thread.
 */
#include "cli/cli.h"

#include "base/log.h"

#include <errno.h>
#include <string.h>

static const struct verb *const verbs[] = {&verb_run, &verb_doctor, &verb_help, NULL};

#define VERBS_MAX 32

const struct verb *const *cli_verbs(void)
{
	return verbs;
}

const struct verb *cli_find_verb(const char *name)
{
	for (u32 i = 0; verbs[i]; i++)
		if (strcmp(verbs[i]->name, name) == 0)
			return verbs[i];
	return NULL;
}

int cli_unknown_verb(const char *name)
{
	const char *names[VERBS_MAX + 1], *near;
	u32 n = 0;

	for (; verbs[n] && n < VERBS_MAX; n++)
		names[n] = verbs[n]->name;
	names[n] = NULL;
	near = err_nearest(name, names);
	if (near)
		log_msg(LOG_ERROR, "there is no verb \"%s\"; did you mean \"guise %s\"?", name, near);
	else
		log_msg(LOG_ERROR, "there is no verb \"%s\"; see: guise --help", name);
	return STATUS_USAGE;
}

int cli_fail(const struct err *e)
{
	log_msg(LOG_ERROR, "%s", e->msg);
	return STATUS_FAILED;
}

int cli_usage(const struct err *e, const char *verb)
{
	if (strcasestr(e->msg, "see: ")) {
		log_msg(LOG_ERROR, "%s", e->msg); /* names a nearer help */
		return STATUS_USAGE;
	}
	log_msg(LOG_ERROR, "%s (see: guise help %s)", e->msg, verb);
	return STATUS_USAGE;
}

void cli_help(FILE *out)
{
	fprintf(out, "usage: guise VERB [OPTION...]\n\n"
		     "Guise runs unmodified x86-64 operating systems, also where there is no hardware virtualization.\n\n"
		     "verbs:\n");
	for (u32 i = 0; verbs[i]; i++)
		fprintf(out, "  %-10s %s\n", verbs[i]->name, verbs[i]->summary);
	fprintf(out, "\n  guise help VERB    what a verb takes\n"
		     "  guise --version    the program's version\n");
}

static int help_main(int argc, char **argv)
{
	const struct verb *v;

	if (argc < 2) {
		cli_help(stdout);
		return STATUS_OK;
	}
	if (argc > 2) {
		log_msg(LOG_ERROR, "help takes one verb; see: guise --help");
		return STATUS_USAGE;
	}
	v = cli_find_verb(argv[1]);
	if (!v)
		return cli_unknown_verb(argv[1]);
	v->help(stdout);
	return STATUS_OK;
}

static void help_help(FILE *out)
{
	fprintf(out, "usage: guise help [VERB]\n\nShows what a verb takes.\n");
}

const struct verb verb_help = {"help", "show help", help_main, help_help};
