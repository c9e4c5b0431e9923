/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The trace as a buffered stdio stream: its lock keeps lines whole, and what a vCPU pays for a line is formatting it.
 *
 * Threading: see trace.h.
 */
#include "base/trace.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUFFER_SIZE (64 * KiB)
#define NAME_MAX_LEN 16

enum category { EXITS, INTERRUPTS, FAULTS, MMIO, PIO, MSR, BLOCKS, CATEGORIES };

static const struct {
	const char *name, *help;
} categories[CATEGORIES] = {
	[EXITS] = {"exits", "each return of a vCPU from guest code to the machine's loop"},
	[INTERRUPTS] = {"interrupts", "interrupts as they are delivered, INT n too"},
	[FAULTS] = {"faults", "exceptions as they are delivered, with error code and address"},
	[MMIO] = {"mmio", "accesses to devices in memory, the local APIC's page among them"},
	[PIO] = {"pio", "accesses to ports"},
	[MSR] = {"msr", "RDMSR and WRMSR"},
	[BLOCKS] = {"blocks", "code as it is translated"},
};

/* A text uses as many of an event's three numbers as it needs, in order. */
static const struct {
	enum category category;
	const char *text;
} events[TRACE_EVENTS] = {
	[TRACE_EXIT] = {EXITS, "kicked"},
	[TRACE_EXIT_HALTED] = {EXITS, "halted"},
	[TRACE_EXIT_SHUTDOWN] = {EXITS, "shutdown"},
	[TRACE_EXIT_DEBUG] = {EXITS, "debug"},
	[TRACE_EXIT_ERROR] = {EXITS, "error"},
	[TRACE_INTERRUPT] = {INTERRUPTS, "vector 0x%llx"},
	[TRACE_NMI] = {INTERRUPTS, "nmi"},
	[TRACE_SOFT_INTERRUPT] = {INTERRUPTS, "int 0x%llx"},
	[TRACE_FAULT] = {FAULTS, "vector %llu"},
	[TRACE_FAULT_ERROR] = {FAULTS, "vector %llu error 0x%llx"},
	[TRACE_PAGE_FAULT] = {FAULTS, "vector 14 error 0x%llx address 0x%llx"},
	[TRACE_MMIO_READ] = {MMIO, "read 0x%llx size %llu value 0x%llx"},
	[TRACE_MMIO_WRITE] = {MMIO, "write 0x%llx size %llu value 0x%llx"},
	[TRACE_PIO_READ] = {PIO, "read 0x%llx size %llu value 0x%llx"},
	[TRACE_PIO_WRITE] = {PIO, "write 0x%llx size %llu value 0x%llx"},
	[TRACE_RDMSR] = {MSR, "read 0x%llx value 0x%llx"},
	[TRACE_WRMSR] = {MSR, "write 0x%llx value 0x%llx"},
	[TRACE_RDMSR_REFUSED] = {MSR, "read 0x%llx refused"},
	[TRACE_WRMSR_REFUSED] = {MSR, "write 0x%llx value 0x%llx refused"},
	[TRACE_BLOCK] = {BLOCKS, "physical 0x%llx bytes %llu"},
	[TRACE_BLOCK_HOST] = {BLOCKS, "host 0x%llx bytes %llu"},
};

struct trace {
	const struct vclock *clock;
	FILE *out;
	u32 wanted; /* bit per category */
};

/* ---- what is asked for ---- */

static int unknown_category(const char *name, struct err *e)
{
	const char *names[CATEGORIES + 2], *near;
	u32 n = 0;

	for (; n < CATEGORIES; n++)
		names[n] = categories[n].name;
	names[n++] = "all";
	names[n] = NULL;
	near = err_nearest(name, names);
	if (near)
		return err_set(e, EINVAL, "there is no category \"%s\"; did you mean \"%s\"?", name, near);
	return err_set(e, EINVAL, "there is no category \"%s\"; see: --trace help", name);
}

static int parse_category(const char *text, size_t len, u32 *wanted, struct err *e)
{
	char name[NAME_MAX_LEN];

	snprintf(name, sizeof(name), "%.*s", (int)(len < sizeof(name) ? len : sizeof(name)), text);
	if (strcmp(name, "all") == 0) {
		*wanted |= (1u << CATEGORIES) - 1;
		return 0;
	}
	for (u32 i = 0; i < CATEGORIES; i++) {
		if (strcmp(name, categories[i].name) == 0) {
			*wanted |= 1u << i;
			return 0;
		}
	}
	return unknown_category(name, e);
}

/* *file is NULL for standard error. */
static int parse(const char *text, u32 *wanted, const char **file, struct err *e)
{
	const char *end = strchrnul(text, ':');
	int r = 0;

	*wanted = 0;
	*file = *end ? end + 1 : NULL;
	while (r == 0) {
		size_t len = strcspn(text, ",:");

		r = parse_category(text, len, wanted, e);
		if (text + len == end)
			break;
		text += len + 1;
	}
	if (r == 0 && *file && !**file)
		return err_set(e, EINVAL, "the file name behind ':' is empty");
	return r;
}

int trace_check(const char *text, struct err *e)
{
	const char *file;
	u32 wanted;

	return parse(text, &wanted, &file, e);
}

void trace_help(FILE *out)
{
	fprintf(out, "--trace CATEGORY,...[:FILE]: write a line for each event, to FILE or standard error\n");
	for (u32 i = 0; i < CATEGORIES; i++)
		fprintf(out, "    %-10s %s\n", categories[i].name, categories[i].help);
	fprintf(out, "    %-10s all of these\n", "all");
}

/* ---- the stream ---- */

static int open_stream(struct trace *t, const char *file, struct err *e)
{
	const char *name = file ? file : "standard error";
	int fd = file ? open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) : fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);

	t->out = fd < 0 ? NULL : fdopen(fd, "w");
	if (t->out && setvbuf(t->out, NULL, _IOFBF, BUFFER_SIZE) == 0)
		return 0;
	err_set(e, errno, "%s cannot be opened for writing: %m; name a file that this user can make and write", name);
	if (!t->out && fd >= 0)
		close(fd);
	return -e->code;
}

int trace_open(struct trace **out, const char *text, const struct vclock *clock, struct err *e)
{
	struct trace *t = calloc(1, sizeof(*t));
	const char *file;
	int r;

	if (!t)
		return err_sys(e, ENOMEM, "trace");
	t->clock = clock;
	r = parse(text, &t->wanted, &file, e);
	if (r == 0)
		r = open_stream(t, file, e);
	if (r == 0)
		*out = t;
	else
		trace_close(t);
	return r;
}

void trace_flush(struct trace *t)
{
	fflush(t->out);
}

void trace_close(struct trace *t)
{
	if (!t)
		return;
	if (t->out) {
		bool lost = fflush(t->out) != 0 || ferror(t->out);

		if (fclose(t->out) != 0 || lost)
			log_msg(LOG_WARN, "the trace is not complete: writing it failed; is there room on the disk?");
	}
	free(t);
}

void trace_write(struct trace *t, enum trace_event ev, u32 cpu, u64 rip, u64 a, u64 b, u64 c)
{
	enum category category = events[ev].category;
	u64 now;

	if (!(t->wanted & 1u << category))
		return;
	now = vclock_now(t->clock);
	flockfile(t->out);
	fprintf(t->out, "%llu.%09llu cpu%u %016llx %s ", (unsigned long long)(now / NS_PER_SEC), (unsigned long long)(now % NS_PER_SEC),
		cpu, (unsigned long long)rip, categories[category].name);
	fprintf(t->out, events[ev].text, (unsigned long long)a, (unsigned long long)b, (unsigned long long)c);
	fputc('\n', t->out);
	funlockfile(t->out);
}
