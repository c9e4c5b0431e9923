/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server's sockets: one connection, whose bytes go to the session and back.
 *
 * Nothing is read while a reply waits to be sent, so a debugger that does not listen cannot make replies pile up.
 *
 * Contract and threading: gdb.h.
 */
#include "base/log.h"
#include "gdb/listen.h"
#include "gdb/session.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define OUT_MAX (4 * GDB_FRAME_MAX) /* a frame, its copy when it was damaged, signs; more waits for no packet */

struct gdb_server {
	struct evloop *loop;
	const struct gdb_target *target;
	struct gdb_listener listener;
	struct gdb_session *session; /* NULL: nobody is connected */
	int fd;
	bool broken; /* the connection is to be closed */
	u32 in_len, in_at, out_len;
	u8 in[4096];
	char out[OUT_MAX];
};

/* ---- sending ---- */

/* What the socket takes now; the rest stays. */
static void flush(struct gdb_server *s)
{
	ssize_t n = send(s->fd, s->out, s->out_len, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0) {
		s->broken |= errno != EAGAIN && errno != EINTR;
		return;
	}
	s->out_len -= (u32)n;
	memmove(s->out, s->out + n, s->out_len);
}

static void on_send(void *opaque, const char *bytes, u32 len)
{
	struct gdb_server *s = opaque;

	if (len > OUT_MAX - s->out_len) {
		s->broken = true;
		return;
	}
	memcpy(s->out + s->out_len, bytes, len);
	s->out_len += len;
	flush(s);
}

/* ---- receiving ---- */

static void receive(struct gdb_server *s)
{
	ssize_t n = recv(s->fd, s->in, sizeof(s->in), MSG_DONTWAIT);

	s->in_at = 0;
	s->in_len = n > 0 ? (u32)n : 0;
	s->broken |= n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

static void digest(struct gdb_server *s)
{
	while (s->in_at < s->in_len && !s->out_len && !s->broken)
		s->in_at += gdb_session_feed(s->session, s->in + s->in_at, s->in_len - s->in_at);
}

static void disconnect(struct gdb_server *s)
{
	evloop_del_fd(s->loop, s->fd);
	close(s->fd);
	s->fd = -1;
	gdb_session_free(s->session);
	s->session = NULL;
}

static void settle(struct gdb_server *s)
{
	if (!s->broken) {
		evloop_mod_fd(s->loop, s->fd, s->out_len ? EPOLLOUT : EPOLLIN);
		return;
	}
	disconnect(s);
	log_msg(LOG_INFO, "the debugger has left; the guest goes on");
	s->target->detach(s->target->opaque);
}

static void on_connection(void *opaque, u32 events)
{
	struct gdb_server *s = opaque;

	if (s->out_len)
		flush(s);
	if (!s->out_len && s->in_at == s->in_len && !s->broken)
		receive(s);
	else if (s->out_len && events & (EPOLLERR | EPOLLHUP))
		s->broken = true;
	digest(s);
	settle(s);
}

/* ---- connecting ---- */

static void set_options(int fd)
{
	int on = 1;

	/* A debugger whose machine vanished must not keep the guest stopped for ever; of a Unix socket neither means anything. */
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static int welcome(struct gdb_server *s, int fd, struct err *e)
{
	int r = gdb_session_new(&s->session, s->target, on_send, s, e);

	if (r < 0)
		return r;
	s->fd = fd;
	s->broken = false;
	s->in_at = s->in_len = s->out_len = 0;
	set_options(fd);
	r = evloop_add_fd(s->loop, fd, EPOLLIN, on_connection, s, e);
	if (r == 0)
		return 0;
	gdb_session_free(s->session);
	s->session = NULL;
	return r;
}

static void on_listener(void *opaque, u32 events)
{
	struct gdb_server *s = opaque;
	struct err e = {0};
	int fd = accept4(s->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	if (s->session) {
		log_msg(LOG_WARN, "a second debugger was refused: one is connected");
		close(fd);
		return;
	}
	if (welcome(s, fd, &e) < 0) {
		log_msg(LOG_WARN, "a debugger was refused: %s", e.msg);
		close(fd);
		return;
	}
	s->target->stop(s->target->opaque);
	log_msg(LOG_INFO, "a debugger has connected; the guest is stopped");
}

/* ---- the server ---- */

int gdb_server_new(struct gdb_server **out, struct evloop *loop, const char *where, const struct gdb_target *target, struct err *e)
{
	struct gdb_server *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return err_sys(e, ENOMEM, "debugger");
	s->loop = loop;
	s->target = target;
	s->fd = -1;
	r = gdb_listen(&s->listener, where, e);
	if (r == 0)
		r = evloop_add_fd(loop, s->listener.fd, EPOLLIN, on_listener, s, e);
	if (r < 0) {
		gdb_unlisten(&s->listener);
		free(s);
		return r;
	}
	*out = s;
	return 0;
}

void gdb_server_free(struct gdb_server *s)
{
	if (!s)
		return;
	if (s->session)
		disconnect(s);
	evloop_del_fd(s->loop, s->listener.fd);
	gdb_unlisten(&s->listener);
	free(s);
}

void gdb_server_stopped(struct gdb_server *s, const struct gdb_stop *stop)
{
	if (!s->session)
		return;
	gdb_session_stopped(s->session, stop);
	/* A broken connection shows itself to the loop, which closes it. */
	evloop_mod_fd(s->loop, s->fd, s->out_len ? EPOLLOUT : EPOLLIN);
}

void gdb_server_exited(struct gdb_server *s, u8 status)
{
	if (s->session)
		gdb_session_exited(s->session, status);
}
