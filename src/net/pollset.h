/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For libraries that want poll(2): the set of descriptors they name anew before each wait, kept in step with the event loop by difference.
 *
 * Threading: the event loop's thread.
 */
#pragma once

#include "base/evloop.h"
#include "base/log.h"

struct pollset_watch;

struct pollset {
	struct evloop *loop;
	struct pollset_watch **by_fd; /* NULL where unknown */
	u32 nfds;
	struct pollset_watch **order; /* as named since pollset_begin */
	u32 nordered, order_room;
	struct log_limit log;
};

void pollset_init(struct pollset *p, struct evloop *l);
void pollset_free(struct pollset *p);

/* One round: begin, add each descriptor with EPOLL bits, sync; then the loop waits; then ask for what happened, by index. */
void pollset_begin(struct pollset *p);
int pollset_add(struct pollset *p, int fd, u32 events); /* the index, -1 when out of memory */
void pollset_sync(struct pollset *p);
u32 pollset_happened(const struct pollset *p, int index);

/* The descriptor is about to be closed, or its number was given to a new file. */
void pollset_forget(struct pollset *p, int fd);
