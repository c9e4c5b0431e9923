/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `guise doctor`: what this host offers, what Guise will use of it, and why. Every row is tried, not guessed from version numbers. The exit
 * status is 0 when a guest can run; what is merely missing comfort does not change it.
 *
 * Threading: main thread.
 */
#include "cli/cli.h"
#include "cli/guest_files.h"
#include "engine/engine.h"
#include "vm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

enum verdict { GOOD, MISSING /* something optional */, BAD /* no guest can run */, INFO };

struct finding {
	enum verdict verdict;
	char text[512];
};

#define RESERVE_SIZE (16ull * 1024 * GiB)

static void found(struct finding *f, enum verdict v, const char *fmt, ...) printf_like(3, 4);

static void found(struct finding *f, enum verdict v, const char *fmt, ...)
{
	va_list ap;

	f->verdict = v;
	va_start(ap, fmt);
	vsnprintf(f->text, sizeof(f->text), fmt, ap);
	va_end(ap);
}

/* ---- the CPU ---- */

static void check_cpu(struct finding *f)
{
	char missing[VM_CPU_LACKS_MAX];

	if (vm_cpu_lacks("x86-64-v3", &engine_bt, missing, sizeof(missing)))
		found(f, BAD, "lacks%s; engine bt needs x86-64-v3 (Intel Haswell, AMD Zen or newer)", missing);
	else
		found(f, GOOD, "x86-64-v3");
}

static void check_memory(struct finding *f)
{
	struct sysinfo si;

	if (sysinfo(&si) < 0)
		found(f, INFO, "unknown");
	else
		found(f, INFO, "%llu MiB, and %llu MiB of swap; %ld CPUs", (unsigned long long)si.totalram * si.mem_unit / MiB,
		      (unsigned long long)si.totalswap * si.mem_unit / MiB, sysconf(_SC_NPROCESSORS_ONLN));
}

/* ---- engines ---- */

static void check_kvm(struct finding *f)
{
	struct err e = {0};

	if (engine_kvm.probe(&e) == 0)
		found(f, GOOD, "works here");
	else
		found(f, MISSING, "%s%s", e.msg,
		      e.code == ENODEV && access("/dev/kvm", F_OK) == 0 ? " (there is a /dev/kvm, but no hardware behind it)" : "");
}

static void check_bt(struct finding *f)
{
	struct err e = {0};

	if (engine_bt.probe(&e) == 0)
		found(f, GOOD, "works here");
	else
		found(f, BAD, "%s", e.msg);
}

static void check_direct(struct finding *f)
{
	struct err e = {0};

	if (engine_direct.probe(&e) == 0)
		found(f, GOOD, "programs that compute run on the CPU as they are");
	else
		found(f, MISSING, "%s", e.msg);
}

static void check_choice(struct finding *f)
{
	const struct engine_ops *ops;
	struct err e = {0};
	char why[256];

	if (engine_choose("auto", &ops, why, sizeof(why), &e) == 0)
		found(f, GOOD, "%s", why);
	else
		found(f, BAD, "none: %s", e.msg);
}

/* ---- memory ---- */

static int overcommit_policy(void)
{
	FILE *file = fopen("/proc/sys/vm/overcommit_memory", "re");
	int policy = -1;

	if (!file)
		return -1;
	if (fscanf(file, "%d", &policy) != 1)
		policy = -1;
	fclose(file);
	return policy;
}

static void check_address_space(struct finding *f)
{
	struct rlimit lim = {RLIM_INFINITY, RLIM_INFINITY};
	void *p = mmap(NULL, RESERVE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	getrlimit(RLIMIT_AS, &lim);
	if (p != MAP_FAILED) {
		munmap(p, RESERVE_SIZE);
		found(f, GOOD, "16 TiB can be reserved");
	} else if (lim.rlim_cur != RLIM_INFINITY) {
		found(f, BAD, "16 TiB cannot be reserved: RLIMIT_AS is %llu MiB; raise it with ulimit -v unlimited",
		      (unsigned long long)(lim.rlim_cur / MiB));
	} else if (overcommit_policy() == 2) {
		found(f, BAD, "16 TiB cannot be reserved: vm.overcommit_memory is 2; set it to 0 or 1 (sysctl vm.overcommit_memory=0)");
	} else {
		found(f, BAD, "16 TiB cannot be reserved: %s", strerror(errno));
	}
}

/* Guest memory and the code cache are memfds; the latter is mapped once to write and once to execute. */
static void check_memfd(struct finding *f)
{
	int fd = memfd_create("guise-doctor", MFD_CLOEXEC);
	void *p;

	if (fd < 0 || ftruncate(fd, PAGE_SIZE) < 0) {
		found(f, BAD, "cannot be created: %s", strerror(errno));
	} else {
		p = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
		if (p == MAP_FAILED)
			found(f, BAD, "cannot be mapped executable: %s; a security policy forbids it", strerror(errno));
		else
			found(f, GOOD, "can be created and mapped executable");
		if (p != MAP_FAILED)
			munmap(p, PAGE_SIZE);
	}
	if (fd >= 0)
		close(fd);
}

static void check_huge_pages(struct finding *f)
{
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "re");
	char line[128] = "", *start, *end;

	if (file && !fgets(line, sizeof(line), file))
		line[0] = '\0';
	if (file)
		fclose(file);
	start = strchr(line, '[');
	end = start ? strchr(start, ']') : NULL;
	if (!end) {
		found(f, MISSING, "not offered by this kernel");
		return;
	}
	*end = '\0';
	found(f, strcmp(start + 1, "never") == 0 ? MISSING : GOOD, "shared memory uses them: %s", start + 1);
}

/* ---- devices ---- */

static void check_uring(struct finding *f)
{
	struct io_uring ring;
	int r = io_uring_queue_init(4, &ring, 0);

	if (r < 0) {
		found(f, MISSING, "%s; disks use threads instead", strerror(-r));
		return;
	}
	io_uring_queue_exit(&ring);
	found(f, GOOD, "works");
}

static void check_tun(struct finding *f)
{
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		found(f, MISSING, "%s; --net tap=NAME is not possible, --net user is", strerror(errno));
		return;
	}
	close(fd);
	found(f, GOOD, "can be opened");
}

static void check_guest(struct finding *f)
{
	struct guest_files g;
	struct err e = {0};

	if (guest_files_find(&g, &e) == 0)
		found(f, GOOD, "%s", g.kernel);
	else
		found(f, MISSING, "%s", e.msg);
}

static const struct check {
	const char *name;
	void (*look)(struct finding *f);
} checks[] = {
	{"CPU", check_cpu},
	{"host", check_memory},
	{"engine bt", check_bt},
	{"direct code", check_direct},
	{"engine kvm", check_kvm},
	{"engine used", check_choice},
	{"address space", check_address_space},
	{"memfd", check_memfd},
	{"huge pages", check_huge_pages},
	{"io_uring", check_uring},
	{"/dev/net/tun", check_tun},
	{"default guest", check_guest},
};

static int check_host(void)
{
	static const char *const mark[] = {[GOOD] = "ok", [MISSING] = "-", [BAD] = "NO", [INFO] = ""};
	bool bad = false;

	for (u32 i = 0; i < ARRAY_SIZE(checks); i++) {
		struct finding f = {INFO, ""};

		checks[i].look(&f);
		printf("%-14s %-3s %s\n", checks[i].name, mark[f.verdict], f.text);
		bad |= f.verdict == BAD;
	}
	printf("\n%s\n", bad ? "Guests cannot run here: see the rows marked NO." : "Guests can run here.");
	return bad ? STATUS_FAILED : STATUS_OK;
}

/* --cpu, --cpu MODEL, --cpu=MODEL */
static int doctor_main(int argc, char **argv)
{
	struct err e = {0};
	bool attached = argc > 1 && strncmp(argv[1], "--cpu=", 6) == 0;
	int stray = attached ? 2 : argc > 1 && strcmp(argv[1], "--cpu") == 0 ? 3 : 1;

	if (argc > stray) {
		err_set(&e, EINVAL, "doctor takes no \"%s\"", argv[stray]);
		return cli_usage(&e, "doctor");
	}
	if (stray == 1)
		return check_host();
	return doctor_cpu(attached ? argv[1] + 6 : argc > 2 ? argv[2] : NULL);
}

static void doctor_help(FILE *out)
{
	fprintf(out, "usage: guise doctor [--cpu [MODEL]]\n\n"
		     "Shows what this host offers and what Guise will use of it. Marks: ok, - (missing, but not needed), NO (needed).\n"
		     "Exit status: 0 guests can run here, 1 they cannot.\n\n"
		     "With --cpu: each feature of a CPU model (host unless another is named), and why those that are hidden are. On a "
		     "terminal a\n"
		     "table; elsewhere lines of name, \"announced\" or \"hidden\", and the reason, with tabs between. Exit status: 1 when "
		     "this host\n"
		     "lacks a feature of the model.\n");
}

const struct verb verb_doctor = {"doctor", "show what this host offers and what Guise will use", doctor_main, doctor_help};
