/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of a console back end: output queue, input queue, the process's terminal.
 *
 * Threading: `out` has its own lock and is used from any thread; `in` belongs to the event loop's thread, apart from `wanted`.
 */
#pragma once

#include "char/char.h"

#include <pthread.h>

#define OUT_LIMIT MiB
#define IN_SIZE 4096u
#define MAX_READERS 4u

/* Bytes on their way to a descriptor that may be slow. */
struct out_queue {
	pthread_mutex_t lock;
	pthread_cond_t drained;
	struct evloop *loop;
	struct evtimer flush_timer;
	bool timer_armed;
	int fd; /* -1: everything is dropped */
	enum { OUT_NONBLOCK, OUT_SOCKET, OUT_POLL } how;
	bool fd_is_ours;
	bool pipe;     /* or a socket: in the loop's set for as long as it has a reader */
	bool broken;   /* the reader is gone or the disk is full */
	bool watching; /* the loop has been asked to tell when there is room */
	bool stalled;  /* a writer has waited in vain since the last progress */
	u8 *buf;
	size_t start, len, room;
	u64 dropped;
	u64 flushed_at;		    /* when a line was last shown */
	void (*gone)(void *opaque); /* the reader of a pipe or socket has gone; on the loop's thread, once; may be NULL */
	void *gone_opaque;
};

int out_open(struct out_queue *q, struct evloop *l, int fd, bool fd_is_ours, struct err *e) must_check;
void out_close(struct out_queue *q); /* tries to empty the queue for a bounded time */
void out_write(struct out_queue *q, const u8 *bytes, size_t n);

struct in_queue {
	int fd; /* -1: no input */
	bool fd_is_ours;
	bool watched;	   /* in the loop's set */
	bool always_ready; /* a regular file: epoll does not take it */
	bool escapes;	   /* a person types: Ctrl-a is ours */
	bool in_escape;	   /* Ctrl-a was the last byte */
	u8 buf[IN_SIZE];
	u32 start, len;
	bool wanted; /* a delivery is posted; atomic */
};

struct char_backend {
	struct evloop *loop;
	struct out_queue out;
	struct in_queue in;
	bool has_terminal; /* this back end holds the process's terminal */
	char_escape_fn esc;
	void *esc_opaque;
	pthread_mutex_t reader_lock;
	struct char_events reader[MAX_READERS]; /* the last one gets the input */
	u32 nreaders;
};

/* The device that gets input now; all zero when there is none. */
struct char_events current_reader(struct char_backend *c);

int in_open(struct char_backend *c, int fd, bool terminal, struct err *e) must_check;
void in_close(struct char_backend *c);
void in_deliver(struct char_backend *c); /* loop's thread */

/* A descriptor of our own on the same terminal or pipe, so that O_NONBLOCK does not change everyone else's; -1 when it is something
 * else or cannot be opened again. */
int reopen_nonblocking(int fd, int flags);

/* terminal.c: the one terminal of the process. */
enum terminal_state { TERMINAL_NONE, TERMINAL_BACKGROUND, TERMINAL_OURS };
/* Make the terminal on `fd` raw and watch it: `changed` is called on the loop's thread when its size may have changed. */
int terminal_take(int fd, struct evloop *l, void (*changed)(void *opaque), void *opaque, enum terminal_state *state,
		  struct err *e) must_check;
void terminal_give_back(void);
bool terminal_size(u16 *cols, u16 *rows);
