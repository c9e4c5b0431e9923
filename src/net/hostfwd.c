/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading port forwards from the command line.
 */
#include "base/opts.h"
#include "net/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#define FIELDS_MAX 5

static int malformed(const char *text, struct err *e)
{
	return err_set(e, EINVAL,
		       "hostfwd '%s': write it as tcp:HOSTPORT:GUESTPORT or udp:HOSTADDRESS:HOSTPORT:GUESTPORT, for example tcp:8080:80",
		       text);
}

static int parse_port(const char *text, const char *field, u16 *port, struct err *e)
{
	u64 n;

	if (parse_uint(field, 1, 65535, &n, e))
		return err_set(e, EINVAL, "hostfwd '%s': '%s' is not a port; give a number from 1 to 65535", text, field);
	*port = (u16)n;
	return 0;
}

static int parse_addr(const char *text, const char *field, u32 *addr, struct err *e)
{
	struct in_addr in;

	if (!*field) {
		*addr = INADDR_ANY;
		return 0;
	}
	if (inet_pton(AF_INET, field, &in) != 1)
		return err_set(e, EINVAL, "hostfwd '%s': '%s' is not an IPv4 address; write it like 127.0.0.1", text, field);
	*addr = in.s_addr;
	return 0;
}

/* Splits at ':' (and at the '-' of the form that QEMU uses). Returns the number of fields, 0 when there are too many. */
static u32 split(char *copy, char *field[FIELDS_MAX])
{
	u32 n = 0;

	field[n++] = copy;
	for (char *p = copy; *p; p++) {
		if (*p != ':' && *p != '-')
			continue;
		if (n == FIELDS_MAX)
			return 0;
		*p = '\0';
		field[n++] = p + 1;
	}
	return n;
}

/* Which field is what, by their number: proto:port:port, proto:addr:port:port, proto:addr:port-addr:port. */
static const struct {
	i8 host_addr, host_port, guest_addr, guest_port;
} shapes[FIELDS_MAX + 1] = {[3] = {-1, 1, -1, 2}, [4] = {1, 2, -1, 3}, [5] = {1, 2, 3, 4}};

int hostfwd_parse(struct hostfwd *f, const char *text, struct err *e)
{
	char copy[128], *field[FIELDS_MAX];
	u32 n;
	int r;

	if (strlen(text) >= sizeof(copy))
		return malformed(text, e);
	memcpy(copy, text, strlen(text) + 1);
	n = split(copy, field);
	if (n < 3 || (strcmp(field[0], "tcp") != 0 && strcmp(field[0], "udp") != 0 && *field[0]))
		return malformed(text, e);
	*f = (struct hostfwd){.udp = !strcmp(field[0], "udp"), .host_addr = htonl(INADDR_LOOPBACK)};
	r = parse_port(text, field[shapes[n].host_port], &f->host_port, e);
	if (!r)
		r = parse_port(text, field[shapes[n].guest_port], &f->guest_port, e);
	if (!r && shapes[n].host_addr >= 0)
		r = parse_addr(text, field[shapes[n].host_addr], &f->host_addr, e);
	if (!r && shapes[n].guest_addr >= 0)
		r = parse_addr(text, field[shapes[n].guest_addr], &f->guest_addr, e);
	return r;
}
