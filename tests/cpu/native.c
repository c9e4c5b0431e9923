/* SPDX-License-Identifier: Apache-2.0 */
/* The parent's half of the oracle: shared memory, the child's life, hand-shakes. See native.h and native_child.c. */
#include "native.h"
#include "native_child.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HWCAP2_FSGSBASE (1ul << 1)

struct native {
	struct native_shared *shared;
	int code_fd, data_fd;
	pid_t child;
};

static int memory_fd(const char *name, u64 size, struct err *e)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd < 0)
		return err_sys(e, errno, "cannot create the %s memory of the native oracle", name);
	if (ftruncate(fd, (off_t)size) < 0) {
		close(fd);
		return err_sys(e, errno, "cannot size the %s memory of the native oracle", name);
	}
	return fd;
}

static int child_start(struct native *nat, struct err *e)
{
	atomic_store(&nat->shared->done, atomic_load(&nat->shared->request));
	nat->child = fork();
	if (nat->child < 0)
		return err_sys(e, errno, "cannot start the native oracle");
	if (!nat->child)
		native_child(nat->shared, nat->code_fd, nat->data_fd);
	return 0;
}

static bool child_died(struct native *nat)
{
	if (nat->child <= 0)
		return true;
	if (waitpid(nat->child, NULL, WNOHANG) != nat->child)
		return false;
	nat->child = 0;
	return true;
}

/* True when the child finished the batch, false when it died. */
static bool wait_done(struct native *nat, u32 request)
{
	const struct timespec limit = {.tv_nsec = 50 * 1000 * 1000};
	u32 done;

	while ((done = atomic_load(&nat->shared->done)) != request) {
		syscall(SYS_futex, &nat->shared->done, FUTEX_WAIT, done, &limit, NULL, 0);
		if (atomic_load(&nat->shared->done) != request && child_died(nat))
			return false;
	}
	return true;
}

static bool run_slots(struct native *nat)
{
	u32 request = atomic_fetch_add(&nat->shared->request, 1) + 1;

	syscall(SYS_futex, &nat->shared->request, FUTEX_WAKE, 1, NULL, NULL, 0);
	return wait_done(nat, request);
}

/* The child died under case `next`: account for it and start another child for the rest. */
static bool skip_lost(struct native *nat)
{
	struct native_shared *s = nat->shared;
	struct err e;

	s->slot[s->next].result.end = END_LOST;
	s->next++;
	return child_start(nat, &e) == 0;
}

void native_run(struct native *nat, const struct cpu_case *cases, struct cpu_result *results, u32 n)
{
	struct native_shared *s = nat->shared;

	s->n = n;
	s->next = 0;
	s->tracing = false;
	for (u32 i = 0; i < n; i++) {
		s->slot[i].c = cases[i];
		s->slot[i].result.end = END_LOST;
	}
	while (s->next < n && !run_slots(nat))
		if (!skip_lost(nat))
			break;
	for (u32 i = 0; i < n; i++) {
		results[i] = s->slot[i].result;
		case_xsave_normalise(&results[i].xsave);
	}
}

void native_run_traced(struct native *nat, const struct cpu_case *c, struct native_trace *trace)
{
	struct native_shared *s = nat->shared;

	s->n = 1;
	s->next = 0;
	s->tracing = true;
	s->trace.n = 0;
	s->slot[0].c = *c;
	if (!run_slots(nat))
		skip_lost(nat);
	trace->n = s->trace.n;
	memcpy(trace->step, s->trace.step, trace->n * sizeof(trace->step[0]));
}

static int native_map(struct native *nat, struct err *e)
{
	nat->shared = mmap(NULL, sizeof(*nat->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (nat->shared == MAP_FAILED) {
		nat->shared = NULL;
		return err_sys(e, errno, "cannot map the native oracle's shared memory");
	}
	nat->code_fd = memory_fd("code", CASE_CODE_SIZE, e);
	if (nat->code_fd < 0)
		return nat->code_fd;
	nat->data_fd = memory_fd("data", CASE_DATA_ALL, e);
	return nat->data_fd < 0 ? nat->data_fd : 0;
}

int native_new(struct native **out, struct err *e)
{
	struct native *nat = calloc(1, sizeof(*nat));
	int r;

	if (!nat)
		return err_set(e, ENOMEM, "no memory for the native oracle");
	nat->code_fd = nat->data_fd = -1;
	if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE))
		r = err_set(e, ENOTSUP, "the kernel does not let programs set their FS base: the native oracle needs Linux 5.9 or later");
	else
		r = native_map(nat, e);
	if (!r)
		r = child_start(nat, e);
	if (r)
		native_free(nat);
	else
		*out = nat;
	return r;
}

void native_free(struct native *nat)
{
	if (!nat)
		return;
	if (nat->child > 0) {
		kill(nat->child, SIGKILL);
		waitpid(nat->child, NULL, 0);
	}
	if (nat->code_fd >= 0)
		close(nat->code_fd);
	if (nat->data_fd >= 0)
		close(nat->data_fd);
	if (nat->shared)
		munmap(nat->shared, sizeof(*nat->shared));
	free(nat);
}
