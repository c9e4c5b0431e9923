/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where debuggers connect. Addresses are numeric: a debugger's port is no place for surprises of name resolution.
 *
 * Contract and threading: listen.h.
 */
#include "gdb/listen.h"

#include "base/opts.h"
#include "gdb/gdb.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LOOPBACK "127.0.0.1"

struct address {
	const char *path; /* or */
	char host[64];
	char port[8];
};

static int parse_port(struct address *a, const char *text, const char *where, struct err *e)
{
	struct err ignored;
	u64 port;

	if (parse_uint(text, 1, 65535, &port, &ignored) < 0)
		return err_set(e, EINVAL, "\"%s\": \"%s\" is not a port from 1 to 65535", where, text);
	snprintf(a->port, sizeof(a->port), "%u", (u32)port);
	return 0;
}

/* An address with colons stands in brackets. */
static int parse_tcp(struct address *a, const char *text, const char *where, struct err *e)
{
	const char *port = strrchr(text, ':');
	size_t len = port ? (size_t)(port - text) : 0;

	snprintf(a->host, sizeof(a->host), LOOPBACK);
	if (!port)
		return parse_port(a, text, where, e);
	if (text[0] == '[' && len >= 2 && text[len - 1] == ']') {
		text++;
		len -= 2;
	}
	if (len == 0 || len >= sizeof(a->host))
		return err_set(e, EINVAL, "\"%s\": the address is missing or too long; give it as numbers, or only the port", where);
	memcpy(a->host, text, len);
	a->host[len] = '\0';
	return parse_port(a, port + 1, where, e);
}

static int parse(struct address *a, const char *where, struct err *e)
{
	*a = (struct address){0};
	if (strncmp(where, "tcp:", 4) == 0)
		return parse_tcp(a, where + 4, where, e);
	if (strncmp(where, "unix:", 5) != 0)
		return err_set(e, EINVAL, "\"%s\" is not a place for a debugger: give tcp:PORT, tcp:ADDRESS:PORT or unix:PATH", where);
	a->path = where + 5;
	if (!*a->path || strlen(a->path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return err_set(e, EINVAL, "\"%s\": the path has 1 to %zu characters", where,
			       sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
	return 0;
}

static int resolve(const struct address *a, struct addrinfo **out, const char *where, struct err *e)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};

	if (getaddrinfo(a->host, a->port, &hints, out) != 0)
		return err_set(e, EINVAL, "\"%s\": \"%s\" is not an IP address; write it in numbers", where, a->host);
	return 0;
}

int gdb_address_check(const char *where, struct err *e)
{
	struct addrinfo *found;
	struct address a;
	int r = parse(&a, where, e);

	if (r < 0 || a.path)
		return r;
	r = resolve(&a, &found, where, e);
	if (r == 0)
		freeaddrinfo(found);
	return r;
}

/* ---- sockets ---- */

static int fail(struct gdb_listener *l, const char *where, struct err *e)
{
	int r = err_sys(e, errno, "debugger: cannot listen on %s; choose another place with --gdb", where);

	gdb_unlisten(l);
	return r;
}

static int listen_tcp(struct gdb_listener *l, const struct addrinfo *ai, const char *where, struct err *e)
{
	int on = 1;

	l->fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0 || setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 || bind(l->fd, ai->ai_addr, ai->ai_addrlen) < 0 ||
	    listen(l->fd, 4) < 0)
		return fail(l, where, e);
	return 0;
}

/* The socket of a process that ended without removing it: nobody answers there. */
static bool is_abandoned(const struct sockaddr_un *sun)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool refused = fd >= 0 && connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) < 0 && errno == ECONNREFUSED;

	if (fd >= 0)
		close(fd);
	return refused;
}

static bool bind_path(int fd, const struct sockaddr_un *sun)
{
	struct stat st;

	if (bind(fd, (const struct sockaddr *)sun, sizeof(*sun)) == 0)
		return true;
	if (errno != EADDRINUSE || stat(sun->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode) || !is_abandoned(sun)) {
		errno = EADDRINUSE;
		return false;
	}
	unlink(sun->sun_path);
	return bind(fd, (const struct sockaddr *)sun, sizeof(*sun)) == 0;
}

/* Who may connect owns the guest: only the user. Nobody can connect before listen. */
static int listen_unix(struct gdb_listener *l, const char *path, const char *where, struct err *e)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	memcpy(sun.sun_path, path, strlen(path) + 1);
	l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0 || !bind_path(l->fd, &sun))
		return fail(l, where, e);
	memcpy(l->path, sun.sun_path, sizeof(l->path));
	if (chmod(path, 0600) < 0 || listen(l->fd, 4) < 0)
		return fail(l, where, e);
	return 0;
}

int gdb_listen(struct gdb_listener *l, const char *where, struct err *e)
{
	struct addrinfo *found;
	struct address a;
	int r = parse(&a, where, e);

	*l = (struct gdb_listener){.fd = -1};
	if (r < 0)
		return r;
	if (a.path)
		return listen_unix(l, a.path, where, e);
	r = resolve(&a, &found, where, e);
	if (r < 0)
		return r;
	r = listen_tcp(l, found, where, e);
	freeaddrinfo(found);
	return r;
}

void gdb_unlisten(struct gdb_listener *l)
{
	if (l->fd >= 0)
		close(l->fd);
	if (l->path[0])
		unlink(l->path);
	*l = (struct gdb_listener){.fd = -1};
}
