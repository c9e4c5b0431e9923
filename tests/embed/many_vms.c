/* SPDX-License-Identifier: Apache-2.0 */
/*
 * many-vms: a program that embeds Guise through vm/vm.h and starts and stops machines, two at a time, each with a disk, a network and one or
 * two CPUs, some with a debugger's socket and a trace, some with their user code in processes of its own. They end in every way: by the guest,
 * from outside, before they ran, and by a failure to start. Afterwards memory, mappings, threads and descriptors are what they were after the
 * first ones, and no process and no socket is left.
 *
 *     many-vms COUNT GUEST...    bare-metal guests, which take turns, and write PASS to their exit port
 *
 * Exit status: 0 passed, 1 failed, 2 usage.
 */
#include "vm/vm.h"

#include <dirent.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define AT_A_TIME 2u
#define WARM_UP 20u
#define PASS 0x10u
#define DISK_SIZE (1 << 20)

#ifdef __SANITIZE_ADDRESS__
#define MEMORY_COUNTS false /* what is freed stays in quarantine; LeakSanitizer judges */
#else
#define MEMORY_COUNTS true
#endif

struct worker {
	pthread_t thread;
	char **guests;
	u32 nguests;
	char disk[64], gdb[80]; /* where a debugger may connect: "unix:PATH" */
	u32 first, count;
	bool failed;
};

/* ---- one machine ---- */

static struct vm_config config(const struct worker *w, u32 n)
{
	struct vm_config c;

	vm_config_defaults(&c);
	c.kernel = w->guests[n / 2 % w->nguests];
	c.memory = 32 * MiB;
	c.cpus = 1 + n % 2;
	c.engine = n % 3 ? "bt" : "direct";
	c.gdb = n % 4 ? NULL : w->gdb;
	c.trace = n % 5 ? NULL : "exits,faults:/dev/null";
	c.console = "null";
	c.timeout_ns = 200000000000ull; /* with a sanitizer, on a busy host */
	c.opt[0].option = "exit-port";
	c.opt[0].text = "0xf4";
	c.opt[1].option = "disk";
	c.opt[1].text = w->disk;
	c.opt[2].option = "net";
	c.opt[2].text = "user";
	c.nopts = 3;
	return c;
}

static bool fail(struct worker *w, u32 n, const char *what)
{
	fprintf(stderr, "many-vms: machine %u: %s\n", n, what);
	w->failed = true;
	return false;
}

static const char *end_name(enum vm_end end)
{
	static const char *const names[] = {
		[VM_END_POWEROFF] = "it powered off",	[VM_END_RESET] = "it reset",
		[VM_END_TRIPLE_FAULT] = "it crashed",	[VM_END_TIMEOUT] = "its time was over",
		[VM_END_EXIT_PORT] = "its test failed", [VM_END_QUIT] = "it was told to quit",
		[VM_END_HALTED] = "it halted for ever", [VM_END_ERROR] = "the engine gave up",
	};

	return names[end];
}

static bool runs_to_its_end(struct worker *w, u32 n, struct vm *vm, bool quit)
{
	struct vm_result r = {0};
	struct err e = {0};

	if (quit)
		vm_quit(vm);
	if (vm_run(vm, &r, &e) < 0)
		return fail(w, n, e.msg);
	if (r.end == VM_END_EXIT_PORT ? r.exit_value == PASS : quit && r.end == VM_END_QUIT)
		return true;
	return fail(w, n, end_name(r.end));
}

static bool cannot_start(struct worker *w, u32 n)
{
	struct vm_config c = config(w, n);
	struct err e = {0};
	struct vm *vm;

	c.kernel = w->disk; /* found out last, when everything else is there */
	if (vm_create(&vm, &c, &e) < 0)
		return true;
	vm_destroy(vm);
	return fail(w, n, "started from something that is no kernel");
}

static bool one(struct worker *w, u32 n)
{
	struct vm_config c = config(w, n);
	struct err e = {0};
	struct vm *vm;
	bool ok = true;

	if (n % 10 == 7)
		return cannot_start(w, n);
	if (vm_create(&vm, &c, &e) < 0)
		return fail(w, n, e.msg);
	if (n % 10 != 8) /* that one is not run */
		ok = runs_to_its_end(w, n, vm, n % 10 == 9);
	vm_destroy(vm);
	return ok;
}

/* ---- two at a time ---- */

static void *work(void *opaque)
{
	struct worker *w = opaque;

	for (u32 i = 0; i < w->count && one(w, w->first + i); i++)
		;
	return NULL;
}

/* Rounds of `count` machines; the threads end, so that what they keep for themselves is counted as gone. */
static bool run(struct worker *w, u32 first, u32 count)
{
	bool failed = false;

	for (u32 i = 0; i < AT_A_TIME; i++) {
		w[i].first = first + i * count / AT_A_TIME;
		w[i].count = first + (i + 1) * count / AT_A_TIME - w[i].first;
		if (pthread_create(&w[i].thread, NULL, work, &w[i]) != 0)
			return false;
	}
	for (u32 i = 0; i < AT_A_TIME; i++) {
		pthread_join(w[i].thread, NULL);
		failed |= w[i].failed;
	}
	return !failed;
}

/* ---- what a process has ---- */

enum { DESCRIPTORS, THREADS, PROCESSES, SOCKETS, MAPPINGS, RESIDENT, RESERVED, THINGS };
static const struct {
	const char *name;
	u64 slack; /* what the C library may keep or take more of: stacks, arenas */
} things[THINGS] = {{"descriptors", 0},
		    {"threads", 0},
		    {"processes", 0},
		    {"sockets", 0},
		    {"mappings", 16},
		    {"resident KiB", 4096},
		    {"reserved KiB", 2 * 64 * 1024}};

static u64 entries(const char *path)
{
	DIR *d = opendir(path);
	u64 n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

static u64 lines(const char *path)
{
	FILE *f = fopen(path, "r");
	u64 n = 0;
	int ch;

	while (f && (ch = getc(f)) != EOF)
		n += ch == '\n';
	if (f)
		fclose(f);
	return n;
}

/* Whether there is any, waited for or not. */
static bool has_children(void)
{
	siginfo_t si;

	return waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT) == 0;
}

static u64 sockets_left(const struct worker *w)
{
	u64 n = 0;

	for (u32 i = 0; i < AT_A_TIME; i++)
		n += access(w[i].gdb + strlen("unix:"), F_OK) == 0;
	return n;
}

static void measure(const struct worker *w, u64 now[THINGS])
{
	unsigned long reserved = 0, resident = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	malloc_trim(0);
	if (!f || fscanf(f, "%lu %lu", &reserved, &resident) != 2)
		perror("many-vms: /proc/self/statm");
	if (f)
		fclose(f);
	now[DESCRIPTORS] = entries("/proc/self/fd");
	now[THREADS] = entries("/proc/self/task");
	now[PROCESSES] = has_children();
	now[SOCKETS] = sockets_left(w);
	now[MAPPINGS] = lines("/proc/self/maps");
	now[RESIDENT] = resident * (PAGE_SIZE / KiB);
	now[RESERVED] = reserved * (PAGE_SIZE / KiB);
}

static bool same(const u64 before[THINGS], const u64 after[THINGS])
{
	bool ok = true;

	for (u32 i = 0; i < THINGS; i++) {
		bool grown = after[i] > before[i] + things[i].slack && (i <= SOCKETS || MEMORY_COUNTS);

		printf("%-12s %12llu %12llu%s\n", things[i].name, (unsigned long long)before[i], (unsigned long long)after[i],
		       grown ? "  grown" : "");
		ok &= !grown;
	}
	return ok;
}

/* ---- */

static bool make_disk(struct worker *w)
{
	int fd;

	strcpy(w->disk, "/tmp/many-vms-XXXXXX");
	fd = mkstemp(w->disk);
	snprintf(w->gdb, sizeof(w->gdb), "unix:%s.gdb", w->disk);
	return fd >= 0 && ftruncate(fd, DISK_SIZE) == 0 && close(fd) == 0;
}

int main(int argc, char **argv)
{
	struct worker w[AT_A_TIME] = {0};
	u64 before[THINGS], after[THINGS];
	u32 count = argc >= 3 ? (u32)strtoul(argv[1], NULL, 10) : 0;
	bool ok = true;

	if (!count) {
		fprintf(stderr, "usage: many-vms COUNT GUEST...\n");
		return 2;
	}
	for (u32 i = 0; i < AT_A_TIME; i++) {
		w[i].guests = argv + 2;
		w[i].nguests = (u32)argc - 2;
		ok &= make_disk(&w[i]);
	}
	if (!ok)
		perror("many-vms: disk");
	ok = ok && run(w, 0, WARM_UP);
	measure(w, before);
	ok = ok && run(w, WARM_UP, count);
	measure(w, after);
	for (u32 i = 0; i < AT_A_TIME; i++)
		unlink(w[i].disk);
	printf("many-vms: %u machines after %u\n", count, WARM_UP);
	return same(before, after) && ok ? 0 : 1;
}
