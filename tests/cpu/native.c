/* SPDX-License-Identifier: Apache-2.0 */
/* The parent's half of the oracle: shared memory, the child's life, hand-shakes. See native.h and native_child.c, the program cpu-oracle. */
#include "native.h"
#include "native_child.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
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
	int fd[NATIVE_FDS_END]; /* at the index that the child knows them by; -1: none */
	pid_t child;
};

static const struct {
	const char *name;
	u64 size;
} memories[NATIVE_FDS_END] = {
	[NATIVE_FD_SHARED] = {"shared", sizeof(struct native_shared)},
	[NATIVE_FD_CODE] = {"code", CASE_CODE_SIZE},
	[NATIVE_FD_DATA] = {"data", CASE_DATA_ALL},
};

/* A descriptor outside the range that the child's own take. */
static int memory_fd(const char *name, u64 size, struct err *e)
{
	int low = memfd_create(name, MFD_CLOEXEC);
	int fd = low < 0 ? -1 : fcntl(low, F_DUPFD_CLOEXEC, NATIVE_FDS_END);

	if (fd < 0)
		err_sys(e, errno, "cannot create the %s memory of the native oracle", name);
	if (low >= 0)
		close(low);
	if (fd >= 0 && ftruncate(fd, (off_t)size) < 0) {
		err_sys(e, errno, "cannot size the %s memory of the native oracle", name);
		close(fd);
		fd = -1;
	}
	return fd < 0 ? -e->code : fd;
}

static bool oracle_path(char *path, size_t size)
{
	static const char name[] = "cpu-oracle";
	ssize_t n = readlink("/proc/self/exe", path, size);

	while (n > 0 && path[n - 1] != '/')
		n--;
	if (n <= 0 || (size_t)n + sizeof(name) > size)
		return false;
	memcpy(path + n, name, sizeof(name));
	return true;
}

static int spawn(struct native *nat, const char *path)
{
	char *argv[] = {(char *)path, NULL};
	posix_spawn_file_actions_t actions;
	int r = posix_spawn_file_actions_init(&actions);

	if (r)
		return r;
	for (int fd = NATIVE_FD_SHARED; fd < NATIVE_FDS_END && !r; fd++)
		r = posix_spawn_file_actions_adddup2(&actions, nat->fd[fd], fd);
	if (!r)
		r = posix_spawn(&nat->child, path, &actions, NULL, argv, NULL);
	posix_spawn_file_actions_destroy(&actions);
	return r;
}

static int child_start(struct native *nat, struct err *e)
{
	char path[PATH_MAX];
	int r;

	atomic_store(&nat->shared->done, atomic_load(&nat->shared->request));
	if (!oracle_path(path, sizeof(path)))
		return err_set(e, ENOENT, "cannot tell where the native oracle's program is");
	r = spawn(nat, path);
	return r ? err_sys(e, r, "cannot start the native oracle, %s", path) : 0;
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

	s->slot[s->queue[s->next]].result.end = END_LOST;
	s->next++;
	return child_start(nat, &e) == 0;
}

struct cpu_case *native_case(struct native *nat, u32 slot)
{
	return &nat->shared->slot[slot].c;
}

struct cpu_result *native_result(struct native *nat, u32 slot)
{
	return &nat->shared->slot[slot].result;
}

void native_run(struct native *nat, const u8 *slots, u32 n)
{
	struct native_shared *s = nat->shared;

	s->n = n;
	s->next = 0;
	s->tracing = false;
	memcpy(s->queue, slots, n);
	for (u32 i = 0; i < n; i++)
		s->slot[slots[i]].result.end = END_LOST;
	while (s->next < n && !run_slots(nat))
		if (!skip_lost(nat))
			break;
	for (u32 i = 0; i < n; i++)
		case_xsave_normalise(&s->slot[slots[i]].result.xsave);
}

const struct cpu_result *native_run_one(struct native *nat, const struct cpu_case *c)
{
	const u8 slot = NATIVE_SLOT_ONE;

	nat->shared->slot[slot].c = *c;
	native_run(nat, &slot, 1);
	return &nat->shared->slot[slot].result;
}

void native_run_traced(struct native *nat, const struct cpu_case *c, struct native_trace *trace)
{
	struct native_shared *s = nat->shared;

	s->n = 1;
	s->next = 0;
	s->queue[0] = NATIVE_SLOT_TRACED;
	s->tracing = true;
	s->trace.n = 0;
	s->slot[NATIVE_SLOT_TRACED].c = *c;
	if (!run_slots(nat))
		skip_lost(nat);
	trace->n = s->trace.n;
	memcpy(trace->step, s->trace.step, trace->n * sizeof(trace->step[0]));
}

static int native_map(struct native *nat, struct err *e)
{
	void *p;

	for (int fd = NATIVE_FD_SHARED; fd < NATIVE_FDS_END; fd++) {
		nat->fd[fd] = memory_fd(memories[fd].name, memories[fd].size, e);
		if (nat->fd[fd] < 0)
			return nat->fd[fd];
	}
	p = mmap(NULL, sizeof(*nat->shared), PROT_READ | PROT_WRITE, MAP_SHARED, nat->fd[NATIVE_FD_SHARED], 0);
	if (p == MAP_FAILED)
		return err_sys(e, errno, "cannot map the native oracle's shared memory");
	nat->shared = p;
	return 0;
}

int native_new(struct native **out, struct err *e)
{
	struct native *nat = calloc(1, sizeof(*nat));
	int r;

	if (!nat)
		return err_set(e, ENOMEM, "no memory for the native oracle");
	for (int fd = 0; fd < NATIVE_FDS_END; fd++)
		nat->fd[fd] = -1;
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
	for (int fd = 0; fd < NATIVE_FDS_END; fd++)
		if (nat->fd[fd] >= 0)
			close(nat->fd[fd]);
	if (nat->shared)
		munmap(nat->shared, sizeof(*nat->shared));
	free(nat);
}
