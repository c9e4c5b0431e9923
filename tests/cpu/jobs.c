/* SPDX-License-Identifier: Apache-2.0 */
/* See jobs.h. */
#include "jobs.h"
#include "checker.h"
#include "progress.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHUNK 1024u /* cases that a job takes at a time */

/* In memory that all processes share. */
struct job {
	struct checker_totals totals;
	_Atomic u64 at, end; /* numbers of the cases taken, not done */
	_Atomic bool began;  /* a process of this job got so far that directed cases are behind it */
	struct err err;
};

struct shared {
	struct checker_limits limits;
	_Atomic u64 next; /* number of the next case that no job took */
	struct job job[MAX_JOBS];
	struct form_count count[]; /* forms->n for each job */
};

struct jobs {
	const struct options *o;
	struct forms *forms;
	struct shared *shared;
	size_t size;
	pid_t pid[MAX_JOBS]; /* 0: done */
	struct timespec start;
};

/* ---- in a job's process ---- */

static bool take_chunk(struct jobs *j, struct job *job)
{
	u64 first = atomic_fetch_add(&j->shared->next, CHUNK), rest;

	if (first >= j->o->cases)
		return false;
	rest = j->o->cases - first;
	job->at = first;
	job->end = first + (rest < CHUNK ? rest : CHUNK);
	return true;
}

static void work(struct jobs *j, u32 index, struct checker *k)
{
	struct job *job = &j->shared->job[index];
	bool first = !index && !atomic_exchange(&job->began, true);

	if (j->o->replay) {
		if (first)
			checker_replay(k, j->o->seed);
		return;
	}
	if (first && j->o->only_class < 0 && j->o->ring)
		checker_directed(k);
	if (j->o->directed_only)
		return;
	while (!checker_enough(k) && (job->at < job->end || take_chunk(j, job)))
		job->at += checker_random(k, j->o->seed + job->at, job->end - job->at);
}

static int worker(struct jobs *j, u32 index)
{
	struct checker *k = aligned_alloc(64, (sizeof(*k) + 63) & ~63ul);
	struct job *job = &j->shared->job[index];
	int r;

	if (!k)
		return err_set(&job->err, ENOMEM, "no memory for a job");
	memset(k, 0, sizeof(*k));
	k->o = j->o;
	k->forms = j->forms;
	k->totals = &job->totals;
	k->limits = &j->shared->limits;
	r = checker_open(k, &job->err);
	if (!r)
		work(j, index, k);
	checker_close(k);
	free(k);
	return r;
}

/* A terminal's SIGINT goes to all of its processes; the one that waits for us tells us what to do. */
static void worker_process(struct jobs *j, u32 index)
{
	struct form_count *own = j->forms->count;
	sigset_t none;
	int r;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGINT, SIG_IGN);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	j->forms->count = j->shared->count + (size_t)index * j->forms->n;
	r = worker(j, index);
	fflush(stdout);
	j->forms->count = own;
	forms_free(j->forms);
	munmap(j->shared, j->size);
	exit(r ? 125 : 0);
}

/* ---- in the process that waits ---- */

static int start_job(struct jobs *j, u32 index, struct err *e)
{
	fflush(stdout);
	j->pid[index] = fork();
	if (!j->pid[index])
		worker_process(j, index);
	if (j->pid[index] > 0)
		return 0;
	j->pid[index] = 0;
	return err_sys(e, errno, "cannot start job %u", index);
}

static u32 job_of(const struct jobs *j, pid_t pid)
{
	u32 i = 0;

	while (i < j->o->jobs && j->pid[i] != pid)
		i++;
	return i;
}

static void show_crash(struct jobs *j, struct job *job, int status)
{
	u64 seed = atomic_load(&job->totals.seed);
	u32 engine = atomic_load(&job->totals.engine);

	printf("\nFAIL: engine %s died of signal %d under the case of seed %llu\n", j->o->subject[engine]->name, WTERMSIG(status),
	       (unsigned long long)seed);
	options_show_replay(j->o, j->o->subject[engine], seed);
	fflush(stdout);
	atomic_fetch_add(&j->shared->limits.failures, 1);
}

/* The case that killed the job's process is behind it; what follows is for another process. */
static int after_crash(struct jobs *j, u32 index, int status, struct err *e)
{
	struct job *job = &j->shared->job[index];

	if (!atomic_exchange(&job->totals.running, false))
		return err_set(e, EIO, "job %u died of signal %d outside of any case", index, WTERMSIG(status));
	show_crash(j, job, status);
	if (j->o->replay)
		return 0;
	if (job->at < job->end)
		job->at = job->totals.seed - j->o->seed + 1;
	return start_job(j, index, e);
}

static int job_ended(struct jobs *j, u32 index, int status, struct err *e)
{
	j->pid[index] = 0;
	if (WIFSIGNALED(status))
		return after_crash(j, index, status, e);
	if (!WEXITSTATUS(status))
		return 0;
	if (!j->shared->job[index].err.code)
		return err_set(e, EIO, "job %u ended with status %d", index, WEXITSTATUS(status));
	*e = j->shared->job[index].err;
	return -e->code;
}

static int reap(struct jobs *j, struct err *e)
{
	int status, r = 0;
	pid_t pid;
	u32 index;

	while (!r && (pid = waitpid(-1, &status, WNOHANG)) > 0) {
		index = job_of(j, pid);
		if (index < j->o->jobs)
			r = job_ended(j, index, status, e);
	}
	return r;
}

static u32 alive(const struct jobs *j)
{
	u32 n = 0;

	for (u32 i = 0; i < j->o->jobs; i++)
		n += j->pid[i] > 0;
	return n;
}

static double seconds_since(const struct timespec *start)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

static void add_totals(const struct jobs *j, struct jobs_outcome *out)
{
	out->done = out->excused = out->skipped = 0;
	for (u32 i = 0; i < j->o->jobs; i++) {
		out->done += j->shared->job[i].totals.done;
		out->excused += j->shared->job[i].totals.excused;
		out->skipped += j->shared->job[i].totals.skipped;
	}
	out->failures = j->shared->limits.failures;
	out->seconds = seconds_since(&j->start);
}

static void add_coverage(const struct jobs *j)
{
	for (u32 i = 0; i < j->o->jobs * j->forms->n; i++) {
		j->forms->count[i % j->forms->n].completed += j->shared->count[i].completed;
		j->forms->count[i % j->forms->n].faulted += j->shared->count[i].faulted;
	}
}

/* The number of the first case that nobody did. */
static u64 first_undone(const struct jobs *j)
{
	u64 first = j->shared->next < j->o->cases ? j->shared->next : j->o->cases;

	for (u32 i = 0; i < j->o->jobs; i++) {
		const struct job *job = &j->shared->job[i];

		if (job->at < job->end && job->at < first)
			first = job->at;
	}
	return first;
}

static void kill_all(struct jobs *j)
{
	for (u32 i = 0; i < j->o->jobs; i++)
		if (j->pid[i] > 0) {
			kill(j->pid[i], SIGKILL);
			waitpid(j->pid[i], NULL, 0);
			j->pid[i] = 0;
		}
}

static void waited_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGCHLD);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGTERM);
}

/* The first time asks the jobs to finish their batch, the second time does not ask. */
static void interrupt(struct jobs *j, struct jobs_outcome *out)
{
	if (out->interrupted)
		kill_all(j);
	j->shared->limits.stop = true;
	out->interrupted = true;
}

/* Until the last job ended. */
static int wait_all(struct jobs *j, struct jobs_outcome *out, struct err *e)
{
	const struct timespec second = {.tv_sec = 1};
	struct progress progress = progress_begin(j->o->replay || j->o->directed_only ? 0 : j->o->cases);
	sigset_t set;
	int r = 0, sig;

	waited_signals(&set);
	while (!r && alive(j)) {
		sig = sigtimedwait(&set, NULL, &second);
		if (sig == SIGINT || sig == SIGTERM)
			interrupt(j, out);
		r = reap(j, e);
		add_totals(j, out);
		progress_tell(&progress, out);
	}
	progress_end(&progress);
	return r;
}

static int allocate(struct jobs *j, struct err *e)
{
	void *p;

	j->size = sizeof(*j->shared) + sizeof(struct form_count) * j->forms->n * j->o->jobs;
	p = mmap(NULL, j->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return err_sys(e, errno, "cannot map what the jobs share");
	j->shared = p;
	return 0;
}

int jobs_run(const struct options *o, struct forms *f, struct jobs_outcome *out, struct err *e)
{
	struct jobs j = {.o = o, .forms = f};
	sigset_t set, before;
	int r = allocate(&j, e);

	if (r)
		return r;
	clock_gettime(CLOCK_MONOTONIC, &j.start);
	waited_signals(&set);
	sigprocmask(SIG_BLOCK, &set, &before);
	for (u32 i = 0; i < o->jobs && !r; i++)
		r = start_job(&j, i, e);
	if (!r)
		r = wait_all(&j, out, e);
	kill_all(&j);
	sigprocmask(SIG_SETMASK, &before, NULL);
	add_totals(&j, out);
	add_coverage(&j);
	out->next_seed = o->seed + first_undone(&j);
	munmap(j.shared, j.size);
	return r;
}
