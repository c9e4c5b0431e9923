/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzing the options of `guise run`: the input is a command line, its arguments separated by newlines. A failure has a message. */
#include "cli/run_options.h"

#include "net/net.h"

#include "input.h"

#define ARGS_MAX 64

static int split(char *text, char **argv)
{
	static char verb[] = "run";
	char *save = NULL;
	int argc = 0;

	argv[argc++] = verb;
	for (char *a = strtok_r(text, "\n", &save); a && argc < ARGS_MAX; a = strtok_r(NULL, "\n", &save))
		argv[argc++] = a;
	argv[argc] = NULL;
	return argc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), *argv[ARGS_MAX + 1];
	static struct run_options o;
	struct hostfwd forward;
	struct err e = {0};

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (hostfwd_parse(&forward, text, &e) < 0 && (!e.code || !e.msg[0]))
		abort();
	e = (struct err){0};
	if (run_options_parse(&o, split(text, argv), argv, &e) < 0 && (!e.code || !e.msg[0]))
		abort();
	free(text);
	return 0;
}
