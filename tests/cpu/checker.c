/* SPDX-License-Identifier: Apache-2.0 */
/* One case at a time against each engine, and batches of cases through the real CPU. See checker.h. */
#include "checker.h"
#include "directed.h"
#include "gen.h"
#include "show.h"
#include "shrink.h"

#include <stdio.h>
#include <string.h>

#define REPAIRS 8u

/* ---- one case ---- */

static bool comparable(const struct cpu_result *r)
{
	return r->end == END_FAULT;
}

static const struct subject *subject(const struct checker *k)
{
	return k->o->subject[k->under_test];
}

/* What is open about a case is found out once, and only when something differs: single-stepping takes its time. */
static void judge_once(struct checker *k, const struct cpu_case *c, const struct cpu_result *cpu)
{
	if (k->judged)
		return;
	k->judged = true;
	native_run_traced(k->native, c, &k->trace);
	judge_trace(k->forms, subject(k)->has, c, cpu, &k->trace, &k->notes);
}

/* Compares the engine's result for c with the CPU's. Texts go to k->text. */
static bool result_fails(struct checker *k, const struct cpu_case *c, const struct cpu_result *cpu)
{
	const struct judge_notes plain = {.ring0 = !c->ring, .bits32 = c->bits == 32};

	if (!judge_compare(cpu, &k->result, &plain, k->text, sizeof(k->text)))
		return false;
	judge_once(k, c, cpu);
	return !k->notes.excused && judge_compare(cpu, &k->result, &k->notes, k->text, sizeof(k->text));
}

static void run_engine(struct checker *k, const struct cpu_case *c)
{
	atomic_store_explicit(&k->totals->seed, c->seed, memory_order_relaxed);
	atomic_store_explicit(&k->totals->engine, k->under_test, memory_order_relaxed);
	atomic_store_explicit(&k->totals->running, true, memory_order_relaxed);
	subject(k)->run(k->engine[k->under_test], c, k->o->repeat, &k->result);
	atomic_store_explicit(&k->totals->running, false, memory_order_relaxed);
}

static bool still_fails(void *opaque, const struct cpu_case *c)
{
	struct checker *k = opaque;
	const struct cpu_result *cpu = native_run_one(k->native, c);

	if (!comparable(cpu))
		return false;
	run_engine(k, c);
	k->judged = false;
	return result_fails(k, c, cpu);
}

static void report(struct checker *k, const struct cpu_case *failing, const char *name)
{
	struct cpu_case c = *failing;

	printf("\nFAIL %s: engine %s, seed %llu, %u instructions\n", name, subject(k)->name, (unsigned long long)c.seed, c.n);
	printf("%s", k->text);
	options_show_replay(k->o, subject(k), c.seed);
	if (!still_fails(k, &c)) {
		printf("  does not fail when run again\n");
		return;
	}
	printf("shrunk:\n");
	shrink_case(&c, still_fails, k);
	(void)still_fails(k, &c);
	show_case(k->forms, &c);
	show_result("cpu", native_run_one(k->native, &c));
	show_result(subject(k)->name, &k->result);
	printf("%s", k->text);
}

/* The real CPU does not say the same twice, and the second time agrees with the engine: the host's kernel came in between, and it does not keep
 * every flag (NT) of the program that it interrupts. */
static bool was_disturbed(struct checker *k, const struct cpu_case *c)
{
	k->judged = false;
	return !result_fails(k, c, native_run_one(k->native, c));
}

static void forget_judgement(struct checker *k)
{
	k->judged = false;
	k->notes.excused = false;
}

static void check_engine(struct checker *k, const struct cpu_case *c, const struct cpu_result *cpu, const char *name)
{
	run_engine(k, c);
	if (!result_fails(k, c, cpu))
		return;
	if (was_disturbed(k, c)) {
		k->totals->skipped++;
	} else {
		atomic_fetch_add(&k->limits->failures, 1);
		report(k, c, name);
		fflush(stdout);
	}
	forget_judgement(k);
}

static void count_coverage(struct checker *k, const struct cpu_case *c, const struct cpu_result *cpu)
{
	if (coverage_runs_straight(k->forms, c)) {
		coverage_count(k->forms, c, cpu->rip);
	} else if (coverage_has_news(k->forms, c)) {
		native_run_traced(k->native, c, &k->trace);
		coverage_count_traced(k->forms, c, &k->trace);
	}
}

static void check(struct checker *k, const struct cpu_case *c, const struct cpu_result *cpu, const char *name)
{
	k->totals->done++;
	if (!comparable(cpu)) {
		k->totals->skipped++;
		return;
	}
	if (k->o->coverage)
		count_coverage(k, c, cpu);
	forget_judgement(k);
	for (k->under_test = 0; k->under_test < k->o->nsubjects; k->under_test++)
		check_engine(k, c, cpu, name);
	k->under_test = 0;
	k->totals->excused += k->notes.excused;
}

/* ---- batches ---- */

static struct gen_options gen_options(const struct checker *k)
{
	return (struct gen_options){.forms = k->forms,
				    .has = k->o->subject[0]->has,
				    .only_class = k->o->only_class,
				    .max_insns = k->o->max_insns,
				    .ring = k->o->ring};
}

bool checker_enough(const struct checker *k)
{
	return atomic_load(&k->limits->stop) || atomic_load(&k->limits->failures) >= k->o->max_failures;
}

/* Take the instruction that faulted out of the case. False when there is none to take. */
static bool repair(struct cpu_case *c, const struct cpu_result *cpu)
{
	u64 off = cpu->rip - case_start_rip(c);

	if (!comparable(cpu) || cpu->rip == case_end_rip(c))
		return false;
	for (u32 i = 0; i < c->n; i++)
		if (c->offset[i] == off)
			return case_remove(c, i, 1);
	return false;
}

/* Most random sequences fault early, which would leave their later instructions untested. Of two cases in three the real CPU's verdict is
 * used to throw faulting instructions out, a few times over. The outcome still depends on the seed alone. */
static u32 repair_all(struct checker *k, u8 *slots, u32 n)
{
	u32 repaired = 0;

	for (u32 i = 0; i < n; i++) {
		struct cpu_case *c = native_case(k->native, slots[i]);

		if (prng_mix(c->seed) % 3 && repair(c, native_result(k->native, slots[i])))
			slots[repaired++] = slots[i];
	}
	return repaired;
}

static u32 run_batch(struct checker *k, u32 n)
{
	u8 slots[NATIVE_BATCH];
	u32 pending = n, i;

	for (i = 0; i < n; i++)
		slots[i] = (u8)i;
	native_run(k->native, slots, n);
	for (u32 round = 0; round < REPAIRS && (pending = repair_all(k, slots, pending)); round++)
		native_run(k->native, slots, pending);
	for (i = 0; i < n && !checker_enough(k); i++)
		check(k, native_case(k->native, i), native_result(k->native, i), "random");
	return i;
}

u64 checker_random(struct checker *k, u64 seed, u64 n)
{
	const struct gen_options go = gen_options(k);
	u64 i = 0;

	while (i < n && !checker_enough(k)) {
		u32 batch = 0;

		for (; batch < NATIVE_BATCH && i + batch < n; batch++)
			gen_case(&go, seed + i + batch, native_case(k->native, batch));
		i += run_batch(k, batch);
	}
	return i;
}

static void run_directed(struct checker *k, u32 i)
{
	struct gen_options go = gen_options(k);
	struct cpu_case *c = native_case(k->native, 0);

	go.ring = 3;
	if (!directed_case(&go, i, k->o->seed, c)) {
		printf("cpu-fuzz: directed case %u (%s) is not well-formed\n", i, directed_name(i));
		atomic_fetch_add(&k->limits->failures, 1);
		return;
	}
	native_run(k->native, &(u8){0}, 1);
	check(k, c, native_result(k->native, 0), directed_name(i));
}

void checker_directed(struct checker *k)
{
	for (u32 i = 0; i < directed_count() && !checker_enough(k); i++)
		if (directed_bits(i) == k->o->bits)
			run_directed(k, i);
}

void checker_replay(struct checker *k, u64 seed)
{
	const struct gen_options go = gen_options(k);
	struct cpu_case *c = native_case(k->native, 0);
	u8 slot = 0;

	gen_case(&go, seed, c);
	native_run(k->native, &slot, 1);
	for (u32 round = 0; round < REPAIRS && repair_all(k, &slot, 1); round++)
		native_run(k->native, &slot, 1);
	show_case(k->forms, c);
	show_result("cpu", native_result(k->native, 0));
	check(k, c, native_result(k->native, 0), "replay");
}

int checker_open(struct checker *k, struct err *e)
{
	int r = native_new(&k->native, e);

	for (u32 i = 0; i < k->o->nsubjects && !r; i++)
		r = k->o->subject[i]->open(&k->engine[i], e);
	return r;
}

void checker_close(struct checker *k)
{
	for (u32 i = 0; i < k->o->nsubjects; i++)
		if (k->engine[i])
			k->o->subject[i]->close(k->engine[i]);
	native_free(k->native);
}
