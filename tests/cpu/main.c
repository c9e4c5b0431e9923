/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu-fuzz: random and directed user-mode instruction sequences on the real CPU and on an engine of Guise, compared.
 *
 * Case number i of a run with seed N is the case of seed N + i, so `--seed N+i --cases 1` runs it alone. A failing case is shrunk and shown
 * with its bytes, its start state and the differences. With --coverage the instructions that the cases reached are counted; one that none
 * reached fails the run. Exit status: 0 no difference, 1 differences or gaps, 2 usage, 125 cannot run.
 */
#include "coverage.h"
#include "directed.h"
#include "gen.h"
#include "guest.h"
#include "judge.h"
#include "show.h"
#include "shrink.h"
#include "subject.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define REPAIRS 8u

struct options {
	const struct subject *subject;
	u64 seed, cases;
	int only_class;
	u32 max_insns, repeat, max_failures;
	u8 ring, bits;
	bool replay, coverage, each_form, directed_only;
};

struct run {
	struct options o;
	struct forms forms;
	struct native *native;
	void *subject;
	u64 done, excused, skipped, failures;
	struct native_trace trace;
	struct cpu_case batch[NATIVE_BATCH];
	struct cpu_result cpu[NATIVE_BATCH], engine;
	char text[4096];
};

static bool comparable(const struct cpu_result *r)
{
	return r->end == END_FAULT;
}

/* Compares the engine's result for c with the CPU's. Texts go to r->text. */
static bool case_fails(struct run *r, const struct cpu_case *c, const struct cpu_result *cpu)
{
	struct judge_notes notes = {.ring0 = !c->ring, .bits32 = c->bits == 32};

	if (!judge_compare(cpu, &r->engine, &notes, r->text, sizeof(r->text)))
		return false;
	native_run_traced(r->native, c, &r->trace);
	judge_trace(&r->forms, r->o.subject->has, c, cpu, &r->trace, &notes);
	if (notes.excused) {
		r->excused++;
		return false;
	}
	return judge_compare(cpu, &r->engine, &notes, r->text, sizeof(r->text)) != 0;
}

static bool still_fails(void *opaque, const struct cpu_case *c)
{
	struct run *r = opaque;
	struct cpu_result *cpu = &r->cpu[NATIVE_BATCH - 1];

	native_run(r->native, c, cpu, 1);
	if (!comparable(cpu))
		return false;
	r->o.subject->run(r->subject, c, r->o.repeat, &r->engine);
	return case_fails(r, c, cpu);
}

static void report(struct run *r, struct cpu_case *c, const char *name)
{
	printf("\nFAIL %s: seed %llu, %u instructions\n", name, (unsigned long long)c->seed, c->n);
	printf("%s", r->text);
	if (!still_fails(r, c)) {
		printf("  does not fail when run again\n");
		return;
	}
	printf("shrunk:\n");
	shrink_case(c, still_fails, r);
	(void)still_fails(r, c);
	show_case(&r->forms, c);
	show_result("cpu", &r->cpu[NATIVE_BATCH - 1]);
	show_result(r->o.subject->name, &r->engine);
	printf("%s", r->text);
	fflush(stdout);
}

static void count_coverage(struct run *r, const struct cpu_case *c, const struct cpu_result *cpu)
{
	if (coverage_runs_straight(&r->forms, c)) {
		coverage_count(&r->forms, c, cpu->rip);
	} else if (coverage_has_news(&r->forms, c)) {
		native_run_traced(r->native, c, &r->trace);
		coverage_count_traced(&r->forms, c, &r->trace);
	}
}

/* The real CPU does not say the same twice, and the second time agrees with the engine: the host's kernel came in between, and it does not keep
 * every flag (NT) of the program that it interrupts. */
static bool was_disturbed(struct run *r, struct cpu_case *c)
{
	native_run(r->native, c, &r->cpu[NATIVE_BATCH - 1], 1);
	return !case_fails(r, c, &r->cpu[NATIVE_BATCH - 1]);
}

static void check_one(struct run *r, struct cpu_case *c, const struct cpu_result *cpu, const char *name)
{
	struct cpu_case copy;

	r->done++;
	if (!comparable(cpu)) {
		r->skipped++;
		return;
	}
	if (r->o.coverage)
		count_coverage(r, c, cpu);
	r->o.subject->run(r->subject, c, r->o.repeat, &r->engine);
	if (!case_fails(r, c, cpu))
		return;
	if (was_disturbed(r, c)) {
		r->skipped++;
		return;
	}
	r->failures++;
	copy = *c;
	report(r, &copy, name);
}

/* Take the instruction that faulted out of the case. False when there is none to take. */
static bool repair(struct cpu_case *c, const struct cpu_result *cpu)
{
	u64 off = cpu->rip - CASE_CODE - c->start;

	if (!comparable(cpu) || cpu->rip == case_end_rip(c))
		return false;
	for (u32 i = 0; i < c->n; i++)
		if (c->offset[i] == off)
			return case_remove(c, i, 1);
	return false;
}

/* Most random sequences fault early, which would leave their later instructions untested. Of two cases in three the real CPU's verdict is
 * used to throw faulting instructions out, a few times over. The outcome still depends on the seed alone. */
static void run_natively(struct run *r, u32 n, bool repairing)
{
	native_run(r->native, r->batch, r->cpu, n);
	for (u32 i = 0; i < n && repairing; i++)
		for (u32 round = 0; round < REPAIRS && prng_mix(r->batch[i].seed) % 3 && repair(&r->batch[i], &r->cpu[i]); round++)
			native_run(r->native, &r->batch[i], &r->cpu[i], 1);
}

static void run_batch(struct run *r, u32 n, const char *name)
{
	for (u32 i = 0; i < n && r->failures < r->o.max_failures; i++) {
		struct cpu_result cpu = r->cpu[i];

		check_one(r, &r->batch[i], &cpu, name);
	}
}

static void run_random(struct run *r)
{
	const struct gen_options go = {.forms = &r->forms,
				       .has = r->o.subject->has,
				       .only_class = r->o.only_class,
				       .max_insns = r->o.max_insns,
				       .ring = r->o.ring};
	u64 i = 0;

	while (i < r->o.cases && r->failures < r->o.max_failures) {
		u32 n = 0;

		/* the last slot is still_fails' own */
		for (; n < NATIVE_BATCH - 1 && i < r->o.cases; n++, i++)
			gen_case(&go, r->o.seed + i, &r->batch[n]);
		run_natively(r, n, true);
		run_batch(r, n, "random");
	}
}

static void run_directed(struct run *r)
{
	const struct gen_options go = {.forms = &r->forms, .has = r->o.subject->has, .ring = 3};

	for (u32 i = 0; i < directed_count() && r->failures < r->o.max_failures; i++) {
		if (directed_bits(i) != r->o.bits)
			continue;
		if (!directed_case(&go, i, r->o.seed, &r->batch[0])) {
			fprintf(stderr, "cpu-fuzz: directed case %u (%s) is not well-formed\n", i, directed_name(i));
			r->failures++;
			continue;
		}
		run_natively(r, 1, false);
		run_batch(r, 1, directed_name(i));
	}
}

static void replay(struct run *r)
{
	const struct gen_options go = {.forms = &r->forms,
				       .has = r->o.subject->has,
				       .only_class = r->o.only_class,
				       .max_insns = r->o.max_insns,
				       .ring = r->o.ring};

	gen_case(&go, r->o.seed, &r->batch[0]);
	run_natively(r, 1, true);
	show_case(&r->forms, &r->batch[0]);
	show_result("cpu", &r->cpu[0]);
	check_one(r, &r->batch[0], &r->cpu[0], "replay");
}

static int usage(void)
{
	fprintf(stderr, "usage: cpu-fuzz [--engine NAME] [--seed N] [--cases N] [--class NAME] [--max-insns N] [--repeat N]\n"
			"                [--ring 0|3] [--bits 32|64] [--max-failures N] [--replay] [--directed] "
			"[--coverage[=forms]]\n\nengines:\n");
	for (u32 i = 0; subjects[i]; i++)
		fprintf(stderr, "  %-8s %s\n", subjects[i]->name, subjects[i]->summary);
	fprintf(stderr, "classes:");
	for (u32 i = 0; i < CLASS_NAMES; i++)
		fprintf(stderr, " %s", form_class_name(i));
	fprintf(stderr, "\n");
	return 2;
}

static const struct subject *subject_by_name(const char *name)
{
	for (u32 i = 0; subjects[i]; i++)
		if (!strcmp(subjects[i]->name, name))
			return subjects[i];
	return NULL;
}

static bool parse(int argc, char **argv, struct options *o)
{
	static const struct option longopts[] = {{"engine", required_argument, NULL, 'e'},
						 {"seed", required_argument, NULL, 's'},
						 {"cases", required_argument, NULL, 'n'},
						 {"class", required_argument, NULL, 'c'},
						 {"max-insns", required_argument, NULL, 'm'},
						 {"repeat", required_argument, NULL, 'r'},
						 {"max-failures", required_argument, NULL, 'f'},
						 {"replay", no_argument, NULL, 'R'},
						 {"ring", required_argument, NULL, 'g'},
						 {"bits", required_argument, NULL, 'b'},
						 {"directed", no_argument, NULL, 'd'},
						 {"coverage", optional_argument, NULL, 'C'},
						 {NULL, 0, NULL, 0}};
	int opt;

	*o = (struct options){.subject = subjects[0],
			      .seed = 1,
			      .cases = 10000,
			      .only_class = -1,
			      .max_insns = 24,
			      .repeat = 1,
			      .max_failures = 5,
			      .ring = 3,
			      .bits = 64};
	while ((opt = getopt_long(argc, argv, "", longopts, NULL)) != -1) {
		switch (opt) {
		case 'e':
			o->subject = subject_by_name(optarg);
			break;
		case 's':
			o->seed = !strcmp(optarg, "time") ? (u64)time(NULL) * 1000000 : strtoull(optarg, NULL, 0);
			break;
		case 'n':
			o->cases = strtoull(optarg, NULL, 0);
			break;
		case 'c':
			o->only_class = form_class_by_name(optarg);
			if (o->only_class < 0)
				return false;
			break;
		case 'm':
			o->max_insns = (u32)strtoul(optarg, NULL, 0);
			break;
		case 'r':
			o->repeat = (u32)strtoul(optarg, NULL, 0);
			break;
		case 'f':
			o->max_failures = (u32)strtoul(optarg, NULL, 0);
			break;
		case 'g':
			o->ring = (u8)strtoul(optarg, NULL, 0);
			break;
		case 'b':
			o->bits = (u8)strtoul(optarg, NULL, 0);
			break;
		case 'R':
			o->replay = true;
			break;
		case 'd':
			o->directed_only = true;
			break;
		case 'C':
			o->coverage = true;
			o->each_form = optarg != NULL;
			if (optarg && strcmp(optarg, "forms"))
				return false;
			break;
		default:
			return false;
		}
	}
	if (o->only_class == CLASS_FIELDS && o->bits == 32)
		return false;
	return o->subject && o->max_insns >= 1 && o->max_insns <= 24 && o->repeat >= 1 && optind == argc &&
	       (o->ring == 3 || (o->ring == 0 && o->bits == 64)) && (o->bits == 32 || o->bits == 64);
}

static int open_all(struct run *r, struct err *e)
{
	int rc = native_new(&r->native, e);

	if (rc)
		return rc;
	rc = r->o.subject->open(&r->subject, e);
	if (rc)
		return rc;
	return forms_build(&r->forms, r->o.subject->has, guest_announces, r->o.bits)
		       ? 0
		       : err_set(e, 12, "no memory for the table of instruction forms");
}

static void close_all(struct run *r)
{
	if (r->subject)
		r->o.subject->close(r->subject);
	native_free(r->native);
	forms_free(&r->forms);
}

/* True when the run reached all that it could generate, or was not asked. */
static bool covered(const struct run *r)
{
	const struct coverage_options o = {.only_class = r->o.only_class, .ring = r->o.ring, .each_form = r->o.each_form};
	u32 missing = r->o.coverage ? coverage_show(&r->forms, &o) : 0;

	if (missing)
		printf("cpu-fuzz: %u %s not reached: more --cases, or the generator cannot make them\n", missing,
		       o.each_form ? "forms" : "instructions");
	return !missing;
}

static void run_all(struct run *r)
{
	printf("cpu-fuzz: engine %s, seed %llu, %u forms of %u instructions\n", r->o.subject->name, (unsigned long long)r->o.seed,
	       r->forms.n, r->forms.ngroups);
	if (r->o.replay) {
		replay(r);
	} else {
		if (r->o.only_class < 0 && r->o.ring)
			run_directed(r);
		if (!r->o.directed_only)
			run_random(r);
	}
	printf("cpu-fuzz: %llu cases, %llu failed, %llu not comparable, %llu excused\n", (unsigned long long)r->done,
	       (unsigned long long)r->failures, (unsigned long long)r->skipped, (unsigned long long)r->excused);
}

int main(int argc, char **argv)
{
	struct run *r = aligned_alloc(64, (sizeof(*r) + 63) & ~63ul);
	struct err e = {0};
	int status;

	if (!r)
		return 125;
	memset(r, 0, sizeof(*r));
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!parse(argc, argv, &r->o)) {
		free(r);
		return usage();
	}
	if (open_all(r, &e)) {
		fprintf(stderr, "cpu-fuzz: %s\n", e.msg);
		status = 125;
	} else {
		run_all(r);
		status = covered(r) && !r->failures ? 0 : 1;
	}
	close_all(r);
	free(r);
	return status;
}
