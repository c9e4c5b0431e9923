/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See pollset.h.
 */
#include "net/pollset.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#define FIRST_ROOM 64

struct pollset_watch {
	int fd;
	u32 wanted, registered, happened; /* EPOLL bits */
};

void pollset_init(struct pollset *p, struct evloop *l)
{
	*p = (struct pollset){.loop = l};
}

void pollset_free(struct pollset *p)
{
	for (u32 i = 0; i < p->nfds; i++)
		pollset_forget(p, (int)i);
	free(p->by_fd);
	free(p->order);
	pollset_init(p, p->loop);
}

static void watch_ready(void *opaque, u32 events)
{
	struct pollset_watch *w = opaque;

	w->happened |= events;
}

static bool room_for_fd(struct pollset *p, u32 fd)
{
	u32 room = p->nfds ? p->nfds : FIRST_ROOM;
	struct pollset_watch **bigger;

	while (room <= fd)
		room *= 2;
	if (room == p->nfds)
		return true;
	bigger = realloc(p->by_fd, room * sizeof(struct pollset_watch *));
	if (!bigger)
		return false;
	memset(bigger + p->nfds, 0, (room - p->nfds) * sizeof(struct pollset_watch *));
	p->by_fd = bigger;
	p->nfds = room;
	return true;
}

static bool room_in_order(struct pollset *p)
{
	u32 room = p->order_room ? 2 * p->order_room : FIRST_ROOM;
	struct pollset_watch **bigger;

	if (p->nordered < p->order_room)
		return true;
	bigger = realloc(p->order, room * sizeof(struct pollset_watch *));
	if (!bigger)
		return false;
	p->order = bigger;
	p->order_room = room;
	return true;
}

static struct pollset_watch *watch_get(struct pollset *p, int fd)
{
	struct pollset_watch *w;

	if (fd < 0 || !room_for_fd(p, (u32)fd))
		return NULL;
	if (p->by_fd[fd])
		return p->by_fd[fd];
	w = calloc(1, sizeof(*w));
	if (w)
		w->fd = fd;
	p->by_fd[fd] = w;
	return w;
}

void pollset_begin(struct pollset *p)
{
	for (u32 i = 0; i < p->nfds; i++)
		if (p->by_fd[i])
			p->by_fd[i]->wanted = p->by_fd[i]->happened = 0;
	p->nordered = 0;
}

int pollset_add(struct pollset *p, int fd, u32 events)
{
	struct pollset_watch *w = watch_get(p, fd);

	if (!w || !room_in_order(p))
		return -1;
	w->wanted |= events;
	p->order[p->nordered] = w;
	return (int)p->nordered++;
}

/* Not wanted at all: taken out, or a peer that hung up would keep the loop awake. */
static void watch_sync(struct pollset *p, struct pollset_watch *w)
{
	struct err e;

	if (w->wanted == w->registered)
		return;
	if (!w->wanted) {
		evloop_del_fd(p->loop, w->fd);
	} else if (w->registered) {
		evloop_mod_fd(p->loop, w->fd, w->wanted);
	} else if (evloop_add_fd(p->loop, w->fd, w->wanted, watch_ready, w, &e)) {
		log_limited(&p->log, LOG_WARN, "user network: a connection stalls: %s", e.msg);
		return;
	}
	w->registered = w->wanted;
}

void pollset_sync(struct pollset *p)
{
	for (u32 i = 0; i < p->nfds; i++)
		if (p->by_fd[i])
			watch_sync(p, p->by_fd[i]);
}

u32 pollset_happened(const struct pollset *p, int index)
{
	if (index < 0 || (u32)index >= p->nordered || !p->order[index])
		return 0;
	return p->order[index]->happened;
}

void pollset_forget(struct pollset *p, int fd)
{
	struct pollset_watch *w = fd >= 0 && (u32)fd < p->nfds ? p->by_fd[fd] : NULL;

	if (!w)
		return;
	if (w->registered)
		evloop_del_fd(p->loop, fd);
	for (u32 i = 0; i < p->nordered; i++)
		if (p->order[i] == w)
			p->order[i] = NULL;
	p->by_fd[fd] = NULL;
	free(w);
}
