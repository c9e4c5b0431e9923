/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where debuggers connect: addresses and listening sockets.
 *
 * Threading: none.
 */
#pragma once

#include "base/err.h"

struct gdb_listener {
	int fd;		/* -1: none */
	char path[108]; /* of a Unix socket, to be removed; "" otherwise */
};

int gdb_listen(struct gdb_listener *l, const char *where, struct err *e) must_check;
void gdb_unlisten(struct gdb_listener *l);
