/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu-fuzz: random and directed user-mode instruction sequences on the real CPU and on the engines of Guise, compared.
 *
 * Case number i of a run with seed N is the case of seed N + i, so `--seed N+i --replay` runs it alone. A failing case is shrunk and shown
 * with its bytes, its start state and the differences. With --coverage the instructions that the cases reached are counted; one that none
 * reached fails the run. Exit status: 0 no difference, 1 differences or gaps, 2 usage, 125 cannot run, 130 interrupted.
 */
#include "coverage.h"
#include "guest.h"
#include "jobs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define EXIT_CANNOT 125
#define EXIT_INTERRUPTED 130
#define OUTPUT_BUFFER (1u << 16) /* a report leaves in one piece, since several jobs write */

/* 1 when the run reached all that it could generate, or was not asked; 0 when it did not; -1 when the report cannot be written. */
static int covered(const struct options *o, const struct forms *f)
{
	const struct coverage_options co = {.only_class = o->only_class, .ring = o->ring, .each_form = o->each_form};
	FILE *to = o->report ? fopen(o->report, "w") : stdout;
	struct coverage_totals t;
	u32 missing;

	if (!to)
		return -1;
	t = coverage_show(to, f, &co);
	if (o->report && fclose(to))
		return -1;
	missing = o->each_form ? t.forms - t.forms_reached : t.instructions - t.instructions_reached;
	printf("cpu-fuzz: coverage: %u of %u instructions, %u of %u forms\n", t.instructions_reached, t.instructions, t.forms_reached,
	       t.forms);
	if (missing)
		printf("cpu-fuzz: %u %s not reached: more --cases, or the generator cannot make them\n", missing,
		       o->each_form ? "forms" : "instructions");
	return !missing;
}

static void introduce(const struct options *o, const struct forms *f)
{
	printf("cpu-fuzz: engine %s", o->subject[0]->name);
	for (u32 i = 1; i < o->nsubjects; i++)
		printf(", %s", o->subject[i]->name);
	printf(", seed %llu, %u forms of %u instructions\n", (unsigned long long)o->seed, f->n, f->ngroups);
}

static void show_sums(const struct jobs_outcome *out)
{
	printf("cpu-fuzz: %llu cases, %llu failed, %llu not comparable, %llu excused; %.1f s, %.0f cases a second\n",
	       (unsigned long long)out->done, (unsigned long long)out->failures, (unsigned long long)out->skipped,
	       (unsigned long long)out->excused, out->seconds, (double)out->done / out->seconds);
	if (out->interrupted)
		printf("cpu-fuzz: interrupted; --seed %llu goes on\n", (unsigned long long)out->next_seed);
}

static int conclude(const struct options *o, const struct forms *f, const struct jobs_outcome *out, struct err *e)
{
	int complete = o->coverage ? covered(o, f) : 1;

	show_sums(out);
	if (complete < 0)
		return err_sys(e, errno, "--report %s: cannot be written", o->report), EXIT_CANNOT;
	if (out->failures)
		return EXIT_FAILURE;
	if (out->interrupted)
		return EXIT_INTERRUPTED;
	return complete ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int run(const struct options *o, struct forms *f, struct err *e)
{
	struct jobs_outcome out = {0};
	int r;

	introduce(o, f);
	r = jobs_run(o, f, &out, e);
	return r ? EXIT_CANNOT : conclude(o, f, &out, e);
}

int main(int argc, char **argv)
{
	struct options o;
	struct forms forms;
	struct err e = {0};
	int status;

	setvbuf(stdout, NULL, _IOFBF, OUTPUT_BUFFER);
	if (!options_parse(argc, argv, &o)) {
		options_usage();
		return 2;
	}
	if (!forms_build(&forms, o.subject[0]->has, guest_announces, o.bits)) {
		fprintf(stderr, "cpu-fuzz: no memory for the table of instruction forms\n");
		return EXIT_CANNOT;
	}
	status = run(&o, &forms, &e);
	if (status == EXIT_CANNOT)
		fprintf(stderr, "cpu-fuzz: %s\n", e.msg);
	forms_free(&forms);
	return status;
}
