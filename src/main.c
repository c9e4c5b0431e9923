/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program's entry: process-wide circumstances, then the verb.
 *
 * Threading: main thread.
 */
#include "base/log.h"
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#ifndef GUISE_VERSION
#define GUISE_VERSION "unknown"
#endif

/* Started with standard input, output or error closed, the next file opened would be taken for them. */
static bool reserve_standard_fds(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd < 0)
		return false;
	close(fd);
	return true;
}

/* A reader that leaves and a file that grows too large are errors of one write, not the end of every VM. */
static void ignore_write_signals(void)
{
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
}

static bool is_one_of(const char *arg, const char *a, const char *b)
{
	return strcmp(arg, a) == 0 || strcmp(arg, b) == 0;
}

static int dispatch(int argc, char **argv)
{
	const struct verb *v;

	if (argc < 2) {
		log_msg(LOG_ERROR, "no verb is given; see: guise --help");
		cli_help(stderr);
		return STATUS_USAGE;
	}
	if (is_one_of(argv[1], "--help", "-h")) {
		cli_help(stdout);
		return STATUS_OK;
	}
	if (is_one_of(argv[1], "--version", "-V")) {
		printf("guise %s\n", GUISE_VERSION);
		return STATUS_OK;
	}
	v = cli_find_verb(argv[1]);
	if (!v)
		return cli_unknown_verb(argv[1]);
	if (argc > 2 && is_one_of(argv[2], "--help", "-h")) {
		v->help(stdout);
		return STATUS_OK;
	}
	return v->run(argc - 1, argv + 1);
}

/* What was printed must have reached the disk or the pipe, or the status is wrong. */
static int flush_stdout(int status)
{
	if (fflush(stdout) == 0 || status != STATUS_OK)
		return status;
	log_msg(LOG_ERROR, "cannot write to standard output: %s", strerror(errno));
	return STATUS_FAILED;
}

int main(int argc, char **argv)
{
	if (!reserve_standard_fds()) {
		log_msg(LOG_ERROR, "cannot open /dev/null: %s", strerror(errno));
		return STATUS_FAILED;
	}
	ignore_write_signals();
	return flush_stdout(dispatch(argc, argv));
}
