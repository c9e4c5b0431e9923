/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What stands for libFuzzer in ordinary builds: every file of a directory goes through the target once, so that what was found stays found. A
 * finding ends the program; the last name printed is its input.
 *   TARGET DIRECTORY
 * Threading: none.
 */
#include "base/types.h"

#include "input.h"

#include <dirent.h>
#include <stdio.h>

#define INPUT_MAX 65536u

#pragma weak LLVMFuzzerInitialize /* few targets have it */

static int is_input(const struct dirent *d)
{
	return d->d_name[0] != '.';
}

static bool replay(const char *directory, const char *name)
{
	static u8 data[INPUT_MAX];
	char path[4096];
	FILE *f;
	size_t n;

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", directory, name) >= sizeof(path) || !(f = fopen(path, "rb"))) {
		fprintf(stderr, "replay: cannot open %s in %s\n", name, directory);
		return false;
	}
	n = fread(data, 1, sizeof(data), f);
	fclose(f);
	fprintf(stderr, "%s, %zu bytes\n", name, n);
	(void)LLVMFuzzerTestOneInput(data, n);
	return true;
}

int main(int argc, char **argv)
{
	struct dirent **list;
	int n = argc == 2 ? scandir(argv[1], &list, is_input, alphasort) : -1;
	bool ok = n > 0;

	if (LLVMFuzzerInitialize)
		LLVMFuzzerInitialize(&argc, &argv);
	if (n <= 0)
		fprintf(stderr, "replay: there are no inputs in %s\n", argc == 2 ? argv[1] : "no directory");
	for (int i = 0; i < n; i++) {
		ok &= replay(argv[1], list[i]->d_name);
		free(list[i]);
	}
	if (n >= 0)
		free(list);
	return ok ? 0 : 1;
}
