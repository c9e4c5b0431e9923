/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file or block device of the host that holds an image: opened with every way to fail named, and locked against a second user.
 */
#pragma once

#include "base/err.h"

struct hostfile {
	int fd;
	u64 size;
	u32 physical_block;
	bool is_device;
	int direct_fd;	  /* the same file opened for direct I/O, or -1 */
	u32 direct_align; /* which wants places, lengths and memory to be multiples of this */
};

/* `path` is locked for as long as it is open: shared when read-only, else exclusive. Errors: the message names path, reason and remedy. */
int hostfile_open(struct hostfile *f, const char *path, bool readonly, struct err *e) must_check;
/* Afterwards, for direct I/O too. -ENOTSUP where the file system has none, or none of single sectors that a guest may write. */
int hostfile_open_direct(struct hostfile *f, const char *path, bool readonly, struct err *e) must_check;
void hostfile_close(struct hostfile *f);
