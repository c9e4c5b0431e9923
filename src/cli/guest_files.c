/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The default guest's kernel and initramfs.
 *
 * Threading: main thread.
 */
#include "cli/guest_files.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef GUISE_DATADIR
#define GUISE_DATADIR "/usr/local/share/guise"
#endif

static bool files_in(struct guest_files *g, const char *dir)
{
	int k = snprintf(g->kernel, sizeof(g->kernel), "%s/vmlinuz", dir);
	int i = snprintf(g->initrd, sizeof(g->initrd), "%s/initrd.img", dir);

	if (k >= (int)sizeof(g->kernel) || i >= (int)sizeof(g->initrd))
		return false;
	return access(g->kernel, F_OK) == 0 && access(g->initrd, F_OK) == 0;
}

static bool program_dir(char *dir, size_t size)
{
	ssize_t n = readlink("/proc/self/exe", dir, size - 1);
	char *slash;

	if (n <= 0)
		return false;
	dir[n] = '\0';
	slash = strrchr(dir, '/');
	if (!slash)
		return false;
	*slash = '\0';
	return true;
}

static bool beside_program(struct guest_files *g)
{
	static const char *const places[] = {"../guest/out", "../share/guise/guest"};
	char dir[PATH_MAX], path[PATH_MAX + 32];

	if (!program_dir(dir, sizeof(dir)))
		return false;
	for (u32 i = 0; i < ARRAY_SIZE(places); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, places[i]);
		if (files_in(g, path))
			return true;
	}
	return false;
}

int guest_files_find(struct guest_files *g, struct err *e)
{
	const char *dir = getenv("GUISE_GUEST_DIR");

	if (dir && *dir) {
		if (files_in(g, dir))
			return 0;
		return err_set(e, ENOENT,
			       "no default guest in %s, which GUISE_GUEST_DIR names (vmlinuz and initrd.img); make one with: make guest",
			       dir);
	}
	if (beside_program(g) || files_in(g, "guest/out") || files_in(g, GUISE_DATADIR "/guest"))
		return 0;
	return err_set(e, ENOENT,
		       "there is no default guest beside the program, in ./guest/out or in " GUISE_DATADIR
		       "/guest; make it with: make guest, or name a kernel with --kernel");
}
