/* SPDX-License-Identifier: Apache-2.0 */
/* The trace: what may be asked for, what is recorded, how a line reads, what is said about a full disk. */
#include "base/trace.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const struct vclock at_1_5 = {.paused = true, .paused_at = 1500000007};

static void checks_what_is_asked_for(void **state)
{
	static const char *const good[] = {"exits", "mmio,pio,msr", "all", "faults,all,interrupts:x:y", "blocks:/tmp/a,b"};
	static const struct {
		const char *text, *message;
	} bad[] = {
		{"mmoi", "there is no category \"mmoi\"; did you mean \"mmio\"?"},
		{"exits,:f", "there is no category \"\"; see: --trace help"},
		{"", "there is no category \"\"; see: --trace help"},
		{":f", "there is no category \"\"; see: --trace help"},
		{"exitsxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "there is no category \"exitsxxxxxxxxxx\"; see: --trace help"},
		{"exits:", "the file name behind ':' is empty"},
	};

	for (u32 i = 0; i < ARRAY_SIZE(good); i++) {
		struct err e = {0};

		if (trace_check(good[i], &e) < 0)
			fail_msg("%s: %s", good[i], e.msg);
	}
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err e = {0};

		assert_int_equal(trace_check(bad[i].text, &e), -EINVAL);
		assert_string_equal(e.msg, bad[i].message);
	}
}

static struct trace *open_in(char *path, const char *categories)
{
	struct trace *t = NULL;
	struct err e = {0};
	char text[128];

	strcpy(path, "/tmp/trace-XXXXXX");
	close(mkstemp(path));
	snprintf(text, sizeof(text), "%s:%s", categories, path);
	if (trace_open(&t, text, &at_1_5, &e) < 0)
		fail_msg("%s", e.msg);
	return t;
}

static void assert_content(const char *path, const char *wanted)
{
	char got[4096];
	FILE *f = fopen(path, "r");

	assert_non_null(f);
	got[fread(got, 1, sizeof(got) - 1, f)] = '\0';
	fclose(f);
	assert_string_equal(got, wanted);
}

static void records_what_is_asked_for(void **state)
{
	char path[64];
	struct trace *t = open_in(path, "mmio,faults");

	trace_write(t, TRACE_MMIO_WRITE, 1, 0xffffffff81000000, 0xfee000b0, 4, 0);
	trace_write(t, TRACE_PIO_READ, 0, 0, 0x60, 1, 0);
	trace_write(t, TRACE_EXIT, 0, 0, 0, 0, 0);
	trace_write(t, TRACE_PAGE_FAULT, 0, 0x1000, 6, 0x7fffffffffff, 0);
	assert_content(path, ""); /* not yet */
	trace_flush(t);
	assert_content(path, "1.500000007 cpu1 ffffffff81000000 mmio write 0xfee000b0 size 4 value 0x0\n"
			     "1.500000007 cpu0 0000000000001000 faults vector 14 error 0x6 address 0x7fffffffffff\n");
	trace_close(t);
	unlink(path);
}

/* Each event has a text, and a category of its own or of its neighbours'. */
static void every_event_reads_well(void **state)
{
	char path[64], line[256];
	struct trace *t = open_in(path, "all");
	u32 lines = 0, words;
	FILE *f;

	for (u32 ev = 0; ev < TRACE_EVENTS; ev++)
		trace_write(t, (enum trace_event)ev, 3, 1, 2, 3, 4);
	trace_close(t);
	f = fopen(path, "r");
	assert_non_null(f);
	for (; fgets(line, sizeof(line), f); lines++) {
		words = 0;
		for (char *save, *w = strtok_r(line, " \n", &save); w; w = strtok_r(NULL, " \n", &save))
			words++;
		assert_true(words >= 5);
	}
	assert_int_equal(lines, TRACE_EVENTS);
	fclose(f);
	unlink(path);
}

static void says_why_it_cannot_be_written(void **state)
{
	struct trace *t;
	struct err e = {0};

	assert_int_equal(trace_open(&t, "all:/nowhere/at/all", &at_1_5, &e), -ENOENT);
	assert_string_equal(e.msg, "/nowhere/at/all cannot be opened for writing: No such file or directory; "
				   "name a file that this user can make and write");
}

static void survives_a_full_disk(void **state)
{
	struct trace *t;
	struct err e = {0};

	assert_int_equal(trace_open(&t, "all:/dev/full", &at_1_5, &e), 0);
	for (u32 i = 0; i < 10000; i++)
		trace_write(t, TRACE_NMI, 0, i, 0, 0, 0);
	trace_close(t); /* warns */
	trace_close(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(checks_what_is_asked_for), cmocka_unit_test(records_what_is_asked_for),
		cmocka_unit_test(every_event_reads_well),   cmocka_unit_test(says_why_it_cannot_be_written),
		cmocka_unit_test(survives_a_full_disk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
