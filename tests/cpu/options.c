/* SPDX-License-Identifier: Apache-2.0 */
/* See options.h. */
#include "options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_INSNS 24u

void options_usage(void)
{
	fprintf(stderr, "usage: cpu-fuzz [--engine NAME,...|all] [--seed N|time] [--cases N] [--jobs N] [--class NAME] [--max-insns N]\n"
			"                [--repeat N] [--ring 0|3] [--bits 32|64] [--max-failures N] [--replay] [--directed]\n"
			"                [--coverage[=forms] [--report FILE]]\n\nengines (all: interp and bt):\n");
	for (u32 i = 0; subjects[i]; i++)
		fprintf(stderr, "  %-8s %s\n", subjects[i]->name, subjects[i]->summary);
	fprintf(stderr, "classes:");
	for (u32 i = 0; i < CLASS_NAMES; i++)
		fprintf(stderr, " %s", form_class_name(i));
	fprintf(stderr, "\n");
}

static bool add_subject(struct options *o, const struct subject *s)
{
	for (u32 i = 0; i < o->nsubjects; i++)
		if (o->subject[i] == s || o->subject[i]->has != s->has)
			return false; /* what the one announces is no case for the other */
	if (o->nsubjects == MAX_ENGINES)
		return false;
	o->subject[o->nsubjects++] = s;
	return true;
}

static bool add_by_name(struct options *o, const char *name)
{
	bool all = !strcmp(name, "all"), added = false;

	for (u32 i = 0; subjects[i]; i++) {
		if (all ? !subjects[i]->in_all : strcmp(subjects[i]->name, name) != 0)
			continue;
		if (!add_subject(o, subjects[i]))
			return false;
		added = true;
	}
	return added;
}

static bool pick_subjects(struct options *o, char *names)
{
	char *name, *rest = NULL;

	o->nsubjects = 0;
	for (name = strtok_r(names, ",", &rest); name; name = strtok_r(NULL, ",", &rest))
		if (!add_by_name(o, name))
			return false;
	return o->nsubjects;
}

static bool number(const char *text, u64 max, u64 *out)
{
	char *end;

	*out = strtoull(text, &end, 0);
	return end != text && !*end && *out <= max && *text != '-';
}

static bool number32(const char *text, u32 max, u32 *out)
{
	u64 v;
	bool ok = number(text, max, &v);

	*out = (u32)v;
	return ok;
}

static bool number8(const char *text, u8 *out)
{
	u64 v;
	bool ok = number(text, 255, &v);

	*out = (u8)v;
	return ok;
}

static bool parse_seed(const char *text, u64 *seed)
{
	if (strcmp(text, "time"))
		return number(text, ~0ull, seed);
	*seed = (u64)time(NULL) * 1000000;
	return true;
}

static bool parse_coverage(struct options *o, const char *how)
{
	o->coverage = true;
	o->each_form = how != NULL;
	return !how || !strcmp(how, "forms");
}

static bool take(struct options *o, int opt)
{
	switch (opt) {
	case 'e':
		return pick_subjects(o, optarg);
	case 's':
		return parse_seed(optarg, &o->seed);
	case 'n':
		return number(optarg, ~0ull, &o->cases);
	case 'j':
		return number32(optarg, MAX_JOBS, &o->jobs) && o->jobs;
	case 'c':
		o->only_class = form_class_by_name(optarg);
		return o->only_class >= 0;
	case 'm':
		return number32(optarg, MAX_INSNS, &o->max_insns) && o->max_insns;
	case 'r':
		return number32(optarg, ~0u, &o->repeat) && o->repeat;
	case 'f':
		return number32(optarg, ~0u, &o->max_failures);
	case 'g':
		return number8(optarg, &o->ring) && (!o->ring || o->ring == 3);
	case 'b':
		return number8(optarg, &o->bits) && (o->bits == 32 || o->bits == 64);
	case 'R':
		return o->replay = true;
	case 'd':
		return o->directed_only = true;
	case 'C':
		return parse_coverage(o, optarg);
	case 'o':
		o->report = optarg;
		return true;
	default:
		return false;
	}
}

bool options_parse(int argc, char **argv, struct options *o)
{
	static const struct option longopts[] = {
		{"engine", required_argument, NULL, 'e'},
		{"seed", required_argument, NULL, 's'},
		{"cases", required_argument, NULL, 'n'},
		{"jobs", required_argument, NULL, 'j'},
		{"class", required_argument, NULL, 'c'},
		{"max-insns", required_argument, NULL, 'm'},
		{"repeat", required_argument, NULL, 'r'},
		{"max-failures", required_argument, NULL, 'f'},
		{"ring", required_argument, NULL, 'g'},
		{"bits", required_argument, NULL, 'b'},
		{"replay", no_argument, NULL, 'R'},
		{"directed", no_argument, NULL, 'd'},
		{"coverage", optional_argument, NULL, 'C'},
		{"report", required_argument, NULL, 'o'},
		{NULL, 0, NULL, 0},
	};
	int opt;

	*o = (struct options){.subject = {subjects[0]},
			      .nsubjects = 1,
			      .seed = 1,
			      .cases = 10000,
			      .only_class = -1,
			      .max_insns = MAX_INSNS,
			      .repeat = 1,
			      .max_failures = 5,
			      .jobs = 1,
			      .ring = 3,
			      .bits = 64};
	while ((opt = getopt_long(argc, argv, "", longopts, NULL)) != -1)
		if (!take(o, opt))
			return false;
	if (o->bits == 32 && (o->only_class >= CLASS_COUNT || !o->ring))
		return false;
	if (o->only_class == CLASS_SMC && !o->ring) /* anything may come of it */
		return false;
	return optind == argc;
}

void options_show_replay(const struct options *o, const struct subject *subject, u64 seed)
{
	printf("  again: cpu-fuzz --engine %s", subject->name);
	if (o->bits != 64)
		printf(" --bits %u", o->bits);
	if (o->ring != 3)
		printf(" --ring %u", o->ring);
	if (o->only_class >= 0)
		printf(" --class %s", form_class_name((u32)o->only_class));
	if (o->max_insns != MAX_INSNS)
		printf(" --max-insns %u", o->max_insns);
	if (o->repeat != 1)
		printf(" --repeat %u", o->repeat);
	printf(" --seed %llu --replay\n", (unsigned long long)seed);
}
