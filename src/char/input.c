/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Console input. Bytes are taken from the descriptor even while the guest does not read, because the escape keys must work with a guest
 * that hangs; what a person types into a full queue is lost, a pipe or file is left to wait.
 *
 * Threading: the event loop's thread; char_can_input_changed from any.
 */
#include "base/log.h"
#include "char/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define ESCAPE 0x01u /* Ctrl-a */

static const char help[] = "\r\n"
			   "Ctrl-a h  this help\r\n"
			   "Ctrl-a x  quit: end the guest at once\r\n"
			   "Ctrl-a p  press the guest's power button\r\n"
			   "Ctrl-a a  send Ctrl-a to the guest\r\n";

static void keep(struct in_queue *in, u8 byte)
{
	if (in->len < IN_SIZE)
		in->buf[(in->start + in->len++) % IN_SIZE] = byte;
}

static void escape_key(struct char_backend *c, u8 key)
{
	switch (key) {
	case 'a':
	case ESCAPE:
		keep(&c->in, ESCAPE);
		break;
	case 'h':
	case '?':
		char_write(c, (const u8 *)help, sizeof(help) - 1);
		break;
	case 'x':
	case 'p':
		if (c->esc)
			c->esc(c->esc_opaque, (char)key);
		break;
	default: /* not a command: nothing was meant for the guest either */
		break;
	}
}

static void take_byte(struct char_backend *c, u8 byte)
{
	if (c->in.in_escape) {
		c->in.in_escape = false;
		escape_key(c, byte);
	} else if (c->in.escapes && byte == ESCAPE) {
		c->in.in_escape = true;
	} else {
		keep(&c->in, byte);
	}
}

/* Hand over what the device has room for. */
void in_deliver(struct char_backend *c)
{
	struct in_queue *in = &c->in;

	while (in->len > 0) {
		u32 part = IN_SIZE - in->start < in->len ? IN_SIZE - in->start : in->len;
		struct char_events ev = current_reader(c);
		size_t room = ev.input && ev.can_input ? ev.can_input(ev.opaque) : 0;

		if (room == 0)
			break;
		if (part > room)
			part = (u32)room;
		ev.input(ev.opaque, in->buf + in->start, part);
		in->start = (in->start + part) % IN_SIZE;
		in->len -= part;
	}
}

static void stop_reading(struct char_backend *c)
{
	if (c->in.watched)
		evloop_del_fd(c->loop, c->in.fd);
	c->in.watched = false;
	if (c->in.fd_is_ours && c->in.fd >= 0)
		close(c->in.fd);
	c->in.fd = -1;
}

/* How much to read now: a person's keys always, other sources only what the queue takes. */
static size_t read_limit(const struct in_queue *in, size_t buf)
{
	size_t free_bytes = IN_SIZE - in->len;

	return in->escapes || free_bytes > buf ? buf : free_bytes;
}

static void watch_input(struct char_backend *c, bool on)
{
	if (c->in.watched)
		evloop_mod_fd(c->loop, c->in.fd, on ? EPOLLIN : 0);
}

static void read_bytes(struct char_backend *c)
{
	u8 buf[256];
	size_t limit = read_limit(&c->in, sizeof(buf));
	ssize_t n;

	if (limit == 0) {
		watch_input(c, false);
		return;
	}
	n = read(c->in.fd, buf, limit);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		stop_reading(c);
		return;
	}
	for (ssize_t i = 0; i < n; i++)
		take_byte(c, buf[i]);
}

/* epoll does not take a regular file: read on while the queue moves. */
static void pump_file(struct char_backend *c)
{
	while (c->in.always_ready && c->in.fd >= 0 && c->in.len < IN_SIZE) {
		read_bytes(c);
		in_deliver(c);
	}
}

static void on_readable(void *opaque, u32 events)
{
	struct char_backend *c = opaque;

	read_bytes(c);
	in_deliver(c);
}

static void deliver_posted(void *opaque)
{
	struct char_backend *c = opaque;

	__atomic_store_n(&c->in.wanted, false, __ATOMIC_RELEASE);
	in_deliver(c);
	if (c->in.fd >= 0 && c->in.len < IN_SIZE)
		watch_input(c, true);
	pump_file(c);
}

void char_can_input_changed(struct char_backend *c)
{
	if (!__atomic_exchange_n(&c->in.wanted, true, __ATOMIC_ACQ_REL))
		evloop_post(c->loop, deliver_posted, c);
}

int in_open(struct char_backend *c, int fd, bool terminal, struct err *e)
{
	int own = reopen_nonblocking(fd, O_RDONLY);
	int r;

	c->in.fd = own >= 0 ? own : fd;
	c->in.fd_is_ours = own >= 0;
	c->in.escapes = terminal;
	r = evloop_add_fd(c->loop, c->in.fd, EPOLLIN, on_readable, c, e);
	c->in.watched = r == 0;
	c->in.always_ready = r == -EPERM;
	if (c->in.always_ready)
		char_can_input_changed(c);
	return c->in.always_ready ? 0 : r;
}

void in_close(struct char_backend *c)
{
	stop_reading(c);
}
