/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host side of a console: a byte pipe that the UART and the virtio console share. Back ends: the terminal (raw, Ctrl-a escapes),
 * a file, nothing.
 *
 * Threading: char_write from any thread, never blocks for long (output that a slow reader does not take is kept up to a limit, then the
 * writer waits a bounded time). Input callbacks run on the event loop's thread.
 */
#pragma once

#include "base/err.h"
#include "base/evloop.h"

struct char_backend;

struct char_events {
	void *opaque;
	void (*input)(void *opaque, const u8 *bytes, size_t n); /* at most what can_input allowed */
	size_t (*can_input)(void *opaque);
	void (*resize)(void *opaque, u16 cols, u16 rows); /* may be NULL */
};

/* What the escape keys ask for: Ctrl-a and then 'x' quit, 'p' power button. (Help and sending Ctrl-a are handled here.) And the news that
 * nobody reads a pipe or socket any more, once. On the event loop's thread. The machine supplies it; may be NULL. */
#define CHAR_READER_GONE '\0'
typedef void (*char_escape_fn)(void *opaque, char key);

/* `spec`: "stdio", "file=PATH", "null". */
int char_open(struct char_backend **out, struct evloop *l, const char *spec, char_escape_fn esc, void *esc_opaque,
	      struct err *e) must_check;
void char_close(struct char_backend *c); /* restores the terminal; NULL is allowed */
void char_write(struct char_backend *c, const u8 *bytes, size_t n);
/* The device that gets input; the last one wins. Copied. A device, known by its `opaque`, is a reader at most once. */
void char_set_reader(struct char_backend *c, const struct char_events *ev);
/* `ev` gets no more input; the reader before it does again. No-op when `ev` is not a reader. */
void char_drop_reader(struct char_backend *c, const struct char_events *ev);
void char_can_input_changed(struct char_backend *c); /* the device has room again; any thread */
bool char_get_size(struct char_backend *c, u16 *cols, u16 *rows);

/* Put the terminal back; async-signal-safe, for crash handlers. */
void char_restore_terminal(void);
