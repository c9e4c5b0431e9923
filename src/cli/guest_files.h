/* SPDX-License-Identifier: Apache-2.0 */
/* Where the default guest is. */
#pragma once

#include "base/err.h"

#include <limits.h>

struct guest_files {
	char kernel[PATH_MAX], initrd[PATH_MAX];
};

/* Looks in $GUISE_GUEST_DIR alone when it is set; else beside the program (a build tree, then an installation) and in the data directory.
 */
int guest_files_find(struct guest_files *g, struct err *e) must_check;
