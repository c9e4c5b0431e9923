/* SPDX-License-Identifier: Apache-2.0 */
/* What goes through the kernel: a null system call, page faults, fork and exec, a pipe between two processes. */
#include "bench.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void syscalls(uint64_t n)
{
	uint64_t begin = now_ns();
	long parent = 0;

	for (uint64_t i = 0; i < n; i++)
		parent = syscall(SYS_getppid);
	report("getppid", begin, n, 0);
	must("getppid", parent == getppid());
}

static void faults(uint64_t rounds)
{
	enum { PAGES = 4096 };
	uint64_t begin = now_ns();

	for (uint64_t r = 0; r < rounds; r++) {
		char *m = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		must("pagefault", m != MAP_FAILED);
		/* Page by page, as in a kernel without huge pages. */
		madvise(m, PAGES * 4096, MADV_NOHUGEPAGE);
		for (int i = 0; i < PAGES; i++)
			m[i * 4096] = (char)i;
		must("pagefault", m[77 * 4096] == 77 && m[77 * 4096 + 1] == 0);
		munmap(m, PAGES * 4096);
	}
	report("pagefault", begin, rounds * PAGES, 0);
}

static void forks(const char *self, uint64_t n)
{
	uint64_t begin = now_ns();

	for (uint64_t i = 0; i < n; i++) {
		int status = 0;
		pid_t child = fork();

		if (child == 0) {
			execl(self, self, "child", (char *)NULL);
			_exit(127);
		}
		must("forkexec", child > 0 && waitpid(child, &status, 0) == child);
		must("forkexec", WIFEXITED(status) && WEXITSTATUS(status) == 42);
	}
	report("forkexec", begin, n, 0);
}

static void pingpong(uint64_t n)
{
	int to[2], from[2], status = 0;
	uint64_t begin;
	pid_t child;

	must("pipe", pipe(to) == 0 && pipe(from) == 0);
	child = fork();
	if (child == 0) {
		uint32_t v;

		close(to[1]);
		while (read(to[0], &v, sizeof(v)) == sizeof(v)) {
			v++;
			if (write(from[1], &v, sizeof(v)) != sizeof(v))
				_exit(1);
		}
		_exit(0);
	}
	close(to[0]);
	begin = now_ns();
	for (uint64_t i = 0; i < n; i++) {
		uint32_t v = (uint32_t)i;

		must("pipe", write(to[1], &v, sizeof(v)) == sizeof(v) && read(from[0], &v, sizeof(v)) == sizeof(v) && v == (uint32_t)i + 1);
	}
	report("pipe", begin, n, 0);
	close(to[1]);
	must("pipe", waitpid(child, &status, 0) == child && status == 0);
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "child"))
		return 42;
	syscalls(work(argc, argv, 1000000));
	faults(work(argc, argv, 8));
	forks(argv[0], work(argc, argv, 200));
	pingpong(work(argc, argv, 20000));
	return 0;
}
