/* SPDX-License-Identifier: Apache-2.0 */
/*
 * User-mode networking by libslirp: the guest's TCP and UDP become sockets of this process. DHCP, DNS through the host's resolver, and
 * forwards of host ports.
 *
 * libslirp wants to be polled: before each wait of the event loop it is given what the last wait found, then asked what to watch next.
 * Frames that the guest has no room for wait in a bounded list; beyond it they are dropped, and TCP sends them again.
 *
 * Threading: the event loop's thread alone; libslirp has no locks.
 */
#include "base/clock.h"
#include "base/log.h"
#include "net/net.h"
#include "net/pollset.h"

#include <arpa/inet.h>
#include <errno.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define NS_PER_MS 1000000
#define BACKLOG_BYTES (4 * MiB)
#define USER_FEATURES                                                                                                                      \
	(1ull << VIRTIO_NET_F_CSUM | 1ull << VIRTIO_NET_F_GUEST_CSUM | 1ull << VIRTIO_NET_F_HOST_TSO4 | 1ull << VIRTIO_NET_F_HOST_TSO6)

struct frame {
	struct frame *next;
	size_t len;
	u8 bytes[];
};

struct user_timer {
	struct evtimer timer;
	SlirpTimerCb fn;
	void *opaque;
};

struct user_net {
	struct net_backend nb;
	struct evloop *loop;
	Slirp *slirp;
	struct pollset polls;
	struct frame *backlog, **backlog_tail;
	size_t backlog_bytes;
	struct log_limit guest_log;
	u8 out[NET_MAX_FRAME];
};

static struct user_net *of(struct net_backend *nb)
{
	return container_of(nb, struct user_net, nb);
}

/* ---- frames ---- */

/* libslirp made these frames: their checksums are right, the guest need not look. */
static bool give(struct user_net *un, const u8 *bytes, size_t len)
{
	const struct virtio_net_hdr_v1 h = {.flags = VIRTIO_NET_HDR_F_DATA_VALID};

	return un->nb.client.receive(un->nb.client.opaque, &h, bytes, len);
}

static void backlog_add(struct user_net *un, const void *bytes, size_t len)
{
	struct frame *f;

	if (un->backlog_bytes + len > BACKLOG_BYTES)
		return;
	f = malloc(sizeof(*f) + len);
	if (!f)
		return;
	f->next = NULL;
	f->len = len;
	memcpy(f->bytes, bytes, len);
	*un->backlog_tail = f;
	un->backlog_tail = &f->next;
	un->backlog_bytes += len;
}

static struct frame *backlog_drop_first(struct user_net *un)
{
	struct frame *f = un->backlog;

	un->backlog = f->next;
	un->backlog_bytes -= f->len;
	if (!un->backlog)
		un->backlog_tail = &un->backlog;
	free(f);
	return un->backlog;
}

static ssize_t cb_send_packet(const void *bytes, size_t len, void *opaque)
{
	struct user_net *un = opaque;

	if (un->backlog || !give(un, bytes, len))
		backlog_add(un, bytes, len);
	return (ssize_t)len;
}

static void user_resume(struct net_backend *nb)
{
	struct user_net *un = of(nb);
	struct frame *f = un->backlog;

	while (f && give(un, f->bytes, f->len))
		f = backlog_drop_first(un);
	un->nb.client.flush(un->nb.client.opaque);
}

static void user_send(struct net_backend *nb, const struct virtio_net_hdr_v1 *h, const struct iovec *iov, u32 n, size_t len)
{
	struct user_net *un = of(nb);
	size_t at = 0;

	/* Copied before it is parsed: the guest may still write to its buffers. */
	for (u32 i = 0; i < n && at + iov[i].iov_len <= sizeof(un->out); at += iov[i++].iov_len)
		memcpy(un->out + at, iov[i].iov_base, iov[i].iov_len);
	/* libslirp takes segments of any size: one that was to be cut (GSO) is handed over whole. */
	if (at != len || !net_finish_checksum(h, un->out, len))
		return;
	slirp_input(un->slirp, un->out, (int)len);
}

static void user_set_features(struct net_backend *nb, u64 guest_features)
{
}

/* ---- descriptors ---- */

static const struct {
	int slirp;
	u32 epoll;
} poll_bits[] = {
	{SLIRP_POLL_IN, EPOLLIN},   {SLIRP_POLL_OUT, EPOLLOUT}, {SLIRP_POLL_PRI, EPOLLPRI},
	{SLIRP_POLL_ERR, EPOLLERR}, {SLIRP_POLL_HUP, EPOLLHUP},
};

static u32 to_epoll(int bits)
{
	u32 out = 0;

	for (u32 i = 0; i < ARRAY_SIZE(poll_bits); i++)
		out |= bits & poll_bits[i].slirp ? poll_bits[i].epoll : 0;
	return out;
}

static int to_slirp(u32 bits)
{
	int out = 0;

	for (u32 i = 0; i < ARRAY_SIZE(poll_bits); i++)
		out |= bits & poll_bits[i].epoll ? poll_bits[i].slirp : 0;
	return out;
}

static int cb_add_poll(int fd, int events, void *opaque)
{
	struct user_net *un = opaque;

	return pollset_add(&un->polls, fd, to_epoll(events));
}

static int cb_get_revents(int index, void *opaque)
{
	struct user_net *un = opaque;

	return to_slirp(pollset_happened(&un->polls, index));
}

static int user_prepare(void *opaque)
{
	struct user_net *un = opaque;
	u32 timeout = UINT32_MAX;

	slirp_pollfds_poll(un->slirp, 0, cb_get_revents, un);
	un->nb.client.flush(un->nb.client.opaque);
	pollset_begin(&un->polls);
	slirp_pollfds_fill(un->slirp, &timeout, cb_add_poll, un);
	pollset_sync(&un->polls);
	return timeout > INT32_MAX ? -1 : (int)timeout;
}

/* ---- the rest of what libslirp asks of its host ---- */

static void cb_guest_error(const char *msg, void *opaque)
{
	struct user_net *un = opaque;

	log_limited(&un->guest_log, LOG_DEBUG, "user network: %s", msg);
}

static int64_t cb_clock(void *opaque)
{
	return (int64_t)host_now_ns();
}

static void timer_fired(void *opaque)
{
	struct user_timer *t = opaque;

	t->fn(t->opaque);
}

static void *cb_timer_new(SlirpTimerCb fn, void *fn_opaque, void *opaque)
{
	struct user_net *un = opaque;
	struct user_timer *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->fn = fn;
	t->opaque = fn_opaque;
	timer_init(&t->timer, un->loop, timer_fired, t);
	return t;
}

static void cb_timer_free(void *timer, void *opaque)
{
	struct user_timer *t = timer;

	if (!t)
		return;
	timer_disarm(&t->timer);
	free(t);
}

static void cb_timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
	struct user_timer *t = timer;

	if (t)
		timer_arm(&t->timer, (u64)expire_ms * NS_PER_MS);
}

/* Registered: a number we still know belonged to a socket that is gone. Unregistered: it will be closed. */
static void cb_forget_fd(int fd, void *opaque)
{
	struct user_net *un = opaque;

	pollset_forget(&un->polls, fd);
}

/* libslirp runs inside the loop: what it wants is asked for before the next wait anyway. */
static void cb_notify(void *opaque)
{
}

static const SlirpCb callbacks = {
	.send_packet = cb_send_packet,
	.guest_error = cb_guest_error,
	.clock_get_ns = cb_clock,
	.timer_new = cb_timer_new,
	.timer_free = cb_timer_free,
	.timer_mod = cb_timer_mod,
	.register_poll_fd = cb_forget_fd,
	.unregister_poll_fd = cb_forget_fd,
	.notify = cb_notify,
};

/* ---- life ---- */

/* Does the host reach the IPv6 Internet? Without it the guest is better off with IPv4 only than with timeouts. */
static bool host_has_ipv6(void)
{
	struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_port = htons(53)};
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool ok;

	if (fd < 0)
		return false;
	inet_pton(AF_INET6, "2001:4860:4860::8888", &to.sin6_addr);
	ok = !connect(fd, (struct sockaddr *)&to, sizeof(to)); /* looks up the route; sends nothing */
	close(fd);
	return ok;
}

static void user_config(SlirpConfig *c, u32 mtu)
{
	*c = (SlirpConfig){.version = 1,
			   .in_enabled = true,
			   .in6_enabled = host_has_ipv6(),
			   .vprefix_len = 64,
			   .vhostname = "guise",
			   .if_mtu = mtu,
			   .if_mru = mtu};
	inet_pton(AF_INET, "10.0.2.0", &c->vnetwork);
	inet_pton(AF_INET, "255.255.255.0", &c->vnetmask);
	inet_pton(AF_INET, "10.0.2.2", &c->vhost);
	inet_pton(AF_INET, "10.0.2.3", &c->vnameserver);
	inet_pton(AF_INET, "10.0.2.15", &c->vdhcp_start);
	inet_pton(AF_INET6, "fec0::", &c->vprefix_addr6);
	inet_pton(AF_INET6, "fec0::2", &c->vhost6);
	inet_pton(AF_INET6, "fec0::3", &c->vnameserver6);
}

static int add_forward(struct user_net *un, const struct hostfwd *f, struct err *e)
{
	struct in_addr host = {f->host_addr}, guest = {f->guest_addr};
	char name[INET_ADDRSTRLEN];

	if (slirp_add_hostfwd(un->slirp, f->udp, host, f->host_port, guest, f->guest_port) >= 0)
		return 0;
	inet_ntop(AF_INET, &host, name, sizeof(name));
	return err_sys(e, errno ? errno : EADDRINUSE,
		       "user network: cannot listen on %s port %u of host address %s; choose another with hostfwd", f->udp ? "UDP" : "TCP",
		       f->host_port, name);
}

static void user_close(struct net_backend *nb)
{
	struct user_net *un = of(nb);

	evloop_del_prepare(un->loop, un);
	slirp_cleanup(un->slirp);
	pollset_free(&un->polls);
	while (un->backlog)
		backlog_drop_first(un);
	free(un);
}

static const struct net_backend_ops user_ops = {"user", user_send, user_resume, user_set_features, user_close};

int net_user_open(struct net_backend **out, struct evloop *l, u32 mtu, const struct hostfwd *fwd, u32 nfwd, const struct net_client *client,
		  struct err *e)
{
	struct user_net *un = calloc(1, sizeof(*un));
	SlirpConfig config;

	if (!un)
		return err_set(e, ENOMEM, "user network: out of memory");
	un->nb = (struct net_backend){.ops = &user_ops, .client = *client, .features = USER_FEATURES, .mtu = mtu ? mtu : NET_USER_MTU};
	un->loop = l;
	pollset_init(&un->polls, l);
	un->backlog_tail = &un->backlog;
	user_config(&config, un->nb.mtu < NET_USER_MTU ? un->nb.mtu : NET_USER_MTU); /* a larger MTU is for the guest's datagrams */
	un->slirp = slirp_new(&config, &callbacks, un);
	if (!un->slirp) {
		free(un);
		return err_set(e, EIO, "user network: libslirp does not start");
	}
	evloop_add_prepare(l, user_prepare, un);
	for (u32 i = 0; i < nfwd; i++) {
		if (add_forward(un, &fwd[i], e)) {
			user_close(&un->nb);
			return -e->code;
		}
	}
	*out = &un->nb;
	return 0;
}
