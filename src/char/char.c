/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Console back ends: what "stdio", "file=PATH" and "null" mean. The rest is output.c, input.c and terminal.c.
 *
 * Threading: open and close on the VM's main thread; close after the loop has ended.
 */
#include "base/log.h"
#include "char/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void on_terminal_changed(void *opaque)
{
	struct char_backend *c = opaque;
	struct char_events ev = current_reader(c);
	u16 cols, rows;

	if (ev.resize && terminal_size(&cols, &rows))
		ev.resize(ev.opaque, cols, rows);
}

static void on_reader_gone(void *opaque)
{
	struct char_backend *c = opaque;

	if (c->esc)
		c->esc(c->esc_opaque, CHAR_READER_GONE);
}

static int open_stdio(struct char_backend *c, const char *arg, struct err *e)
{
	enum terminal_state state;
	int r = out_open(&c->out, c->loop, STDOUT_FILENO, false, e);

	if (r == 0)
		r = terminal_take(STDIN_FILENO, c->loop, on_terminal_changed, c, &state, e);
	if (r)
		return r;
	c->has_terminal = state == TERMINAL_OURS;
	/* Reading a terminal from the background would stop the process; a closed stdin is no input. */
	if (state == TERMINAL_BACKGROUND || fcntl(STDIN_FILENO, F_GETFD) < 0)
		return 0;
	return in_open(c, STDIN_FILENO, c->has_terminal, e);
}

static int open_file(struct char_backend *c, const char *path, struct err *e)
{
	int fd;

	if (!*path)
		return err_set(e, EINVAL, "--console file= needs a path");
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
	if (fd < 0)
		return err_set(e, errno,
			       "--console file=%s: cannot be opened for writing: %m; name a file that this user can make and write", path);
	return out_open(&c->out, c->loop, fd, true, e);
}

static int open_null(struct char_backend *c, const char *arg, struct err *e)
{
	return out_open(&c->out, c->loop, -1, false, e);
}

static const struct kind {
	const char *name;
	bool takes_path;
	int (*open)(struct char_backend *c, const char *arg, struct err *e);
} kinds[] = {
	{"stdio", false, open_stdio},
	{"file=", true, open_file},
	{"null", false, open_null},
};

static int refuse_spec(const char *spec, struct err *e)
{
	static const char *const names[] = {"stdio", "file=PATH", "null", NULL};
	const char *near = err_nearest(spec, names);

	if (near)
		return err_set(e, EINVAL, "--console %s is not possible; did you mean %s?", spec, near);
	return err_set(e, EINVAL, "--console %s is not possible; give stdio, file=PATH or null", spec);
}

static int open_kind(struct char_backend *c, const char *spec, struct err *e)
{
	for (u32 i = 0; i < ARRAY_SIZE(kinds); i++) {
		size_t len = strlen(kinds[i].name);

		if (kinds[i].takes_path ? strncmp(spec, kinds[i].name, len) == 0 : strcmp(spec, kinds[i].name) == 0)
			return kinds[i].open(c, spec + len, e);
	}
	return refuse_spec(spec, e);
}

int char_open(struct char_backend **out, struct evloop *l, const char *spec, char_escape_fn esc, void *esc_opaque, struct err *e)
{
	struct char_backend *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return err_sys(e, ENOMEM, "console");
	c->loop = l;
	c->esc = esc;
	c->esc_opaque = esc_opaque;
	c->in.fd = c->out.fd = -1;
	pthread_mutex_init(&c->reader_lock, NULL);
	r = open_kind(c, spec, e);
	c->out.gone = on_reader_gone;
	c->out.gone_opaque = c;
	if (r < 0) {
		char_close(c);
		return r;
	}
	*out = c;
	return 0;
}

void char_close(struct char_backend *c)
{
	if (!c)
		return;
	in_close(c);
	out_close(&c->out);
	if (c->has_terminal)
		terminal_give_back();
	pthread_mutex_destroy(&c->reader_lock);
	free(c);
}

void char_write(struct char_backend *c, const u8 *bytes, size_t n)
{
	out_write(&c->out, bytes, n);
}

struct char_events current_reader(struct char_backend *c)
{
	struct char_events ev = {0};

	pthread_mutex_lock(&c->reader_lock);
	if (c->nreaders)
		ev = c->reader[c->nreaders - 1];
	pthread_mutex_unlock(&c->reader_lock);
	return ev;
}

/* Lock held. */
static void remove_reader(struct char_backend *c, const void *opaque)
{
	u32 kept = 0;

	for (u32 i = 0; i < c->nreaders; i++)
		if (c->reader[i].opaque != opaque)
			c->reader[kept++] = c->reader[i];
	c->nreaders = kept;
}

void char_set_reader(struct char_backend *c, const struct char_events *ev)
{
	pthread_mutex_lock(&c->reader_lock);
	remove_reader(c, ev->opaque);
	if (c->nreaders == MAX_READERS)
		remove_reader(c, c->reader[0].opaque);
	c->reader[c->nreaders++] = *ev;
	pthread_mutex_unlock(&c->reader_lock);
	char_can_input_changed(c);
}

void char_drop_reader(struct char_backend *c, const struct char_events *ev)
{
	pthread_mutex_lock(&c->reader_lock);
	remove_reader(c, ev->opaque);
	pthread_mutex_unlock(&c->reader_lock);
	char_can_input_changed(c);
}

bool char_get_size(struct char_backend *c, u16 *cols, u16 *rows)
{
	return c->has_terminal && terminal_size(cols, rows);
}
