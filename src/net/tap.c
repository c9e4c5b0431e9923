/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A TAP interface of the host. The virtio-net header travels with each frame, so that checksums and segmentation are left to whoever does
 * them last, the host's kernel or its NIC.
 *
 * Threading: the event loop's thread.
 */
#include "base/log.h"
#include "net/net.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define TAP_BATCH 64 /* frames before the loop may see to others */
#define TAP_PIECES 300

struct tap_net {
	struct net_backend nb;
	struct evloop *loop;
	int fd;
	char name[IFNAMSIZ];
	bool paused; /* `in` holds a frame that the guest had no room for */
	size_t in_len;
	struct log_limit log;
	u8 in[NET_HDR_SIZE + NET_MAX_FRAME];
};

static struct tap_net *of(struct net_backend *nb)
{
	return container_of(nb, struct tap_net, nb);
}

static bool deliver(struct tap_net *tap)
{
	struct virtio_net_hdr_v1 h;

	if (tap->in_len < NET_HDR_SIZE + NET_MIN_FRAME)
		return true;
	memcpy(&h, tap->in, sizeof(h));
	return tap->nb.client.receive(tap->nb.client.opaque, &h, tap->in + NET_HDR_SIZE, tap->in_len - NET_HDR_SIZE);
}

static void pause_reading(struct tap_net *tap)
{
	tap->paused = true;
	evloop_mod_fd(tap->loop, tap->fd, 0);
}

static void lost(struct tap_net *tap, int errnum)
{
	log_msg(LOG_ERROR, "tap '%s': %s; the guest's network is cut off", tap->name, strerror(errnum));
	evloop_del_fd(tap->loop, tap->fd);
	tap->paused = true;
	tap->in_len = 0;
}

static void tap_readable(void *opaque, u32 events)
{
	struct tap_net *tap = opaque;
	ssize_t n = 0;

	for (u32 i = 0; i < TAP_BATCH && !tap->paused; i++) {
		n = read(tap->fd, tap->in, sizeof(tap->in));
		if (n < 0)
			break;
		tap->in_len = (size_t)n;
		if (!deliver(tap))
			pause_reading(tap);
	}
	if (n < 0 && errno != EAGAIN && errno != EINTR && errno != EIO)
		lost(tap, errno);
	tap->nb.client.flush(tap->nb.client.opaque);
}

static void tap_resume(struct net_backend *nb)
{
	struct tap_net *tap = of(nb);

	if (!tap->paused || !tap->in_len || !deliver(tap))
		return;
	tap->paused = false;
	evloop_mod_fd(tap->loop, tap->fd, EPOLLIN);
	tap->nb.client.flush(tap->nb.client.opaque);
}

/* The kernel checks the header against the frame. A full queue drops the frame, as a wire does. */
static void tap_send(struct net_backend *nb, const struct virtio_net_hdr_v1 *h, const struct iovec *iov, u32 n, size_t len)
{
	struct tap_net *tap = of(nb);
	struct iovec pieces[TAP_PIECES];

	if (n + 1 > TAP_PIECES)
		return;
	pieces[0] = (struct iovec){(void *)(uintptr_t)h, sizeof(*h)};
	memcpy(pieces + 1, iov, n * sizeof(*iov));
	if (writev(tap->fd, pieces, (int)n + 1) < 0 && errno != EAGAIN && errno != EINVAL)
		log_limited(&tap->log, LOG_WARN, "tap '%s': a frame of the guest was not sent: %s", tap->name, strerror(errno));
}

static const struct {
	u32 feature;
	unsigned int offload;
} offloads[] = {
	{VIRTIO_NET_F_GUEST_CSUM, TUN_F_CSUM},
	{VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4},
	{VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6},
	{VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN},
};

static void tap_set_features(struct net_backend *nb, u64 guest_features)
{
	struct tap_net *tap = of(nb);
	unsigned long bits = 0;

	for (u32 i = 0; i < ARRAY_SIZE(offloads); i++)
		if (guest_features & 1ull << offloads[i].feature)
			bits |= offloads[i].offload;
	if (ioctl(tap->fd, TUNSETOFFLOAD, bits) < 0)
		log_msg(LOG_WARN, "tap '%s': cannot set offloads: %s", tap->name, strerror(errno));
}

static void tap_close(struct net_backend *nb)
{
	struct tap_net *tap = of(nb);

	if (tap->fd >= 0) {
		evloop_del_fd(tap->loop, tap->fd);
		close(tap->fd);
	}
	free(tap);
}

static const struct net_backend_ops tap_ops = {"tap", tap_send, tap_resume, tap_set_features, tap_close};

#define TUN_DEVICE "/dev/net/tun"

/* Looked at before the device is opened: with enough rights the kernel would make one, down, without address or bridge, and gone with the
 * VM. That is a typing error. */
static int check_exists(const struct tap_net *tap, struct err *e)
{
	if (if_nametoindex(tap->name))
		return 0;
	return err_set(e, ENODEV, "tap '%s': no such interface; as root: %sip tuntap add dev %s mode tap user $USER", tap->name,
		       access(TUN_DEVICE, F_OK) < 0 ? "modprobe tun (or give the container " TUN_DEVICE "), then " : "", tap->name);
}

static int open_device(struct tap_net *tap, struct err *e)
{
	tap->fd = open(TUN_DEVICE, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (tap->fd >= 0)
		return 0;
	if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
		return err_sys(e, errno, "tap '%s': this host has no " TUN_DEVICE " (modprobe tun, or give the container the device)",
			       tap->name);
	if (errno == EACCES || errno == EPERM)
		return err_sys(e, errno,
			       "tap '%s': cannot open " TUN_DEVICE " (as root: chmod 666 " TUN_DEVICE "; an interface has its owner)",
			       tap->name);
	return err_sys(e, errno, "tap '%s': cannot open " TUN_DEVICE, tap->name);
}

static int attach(struct tap_net *tap, struct err *e)
{
	struct ifreq req = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int hdr_size = NET_HDR_SIZE;

	memcpy(req.ifr_name, tap->name, IFNAMSIZ);
	if (ioctl(tap->fd, TUNSETIFF, &req) < 0) {
		if (errno == EPERM)
			return err_sys(e, EPERM, "tap '%s': not yours to use; as root: ip tuntap add dev %s mode tap user $USER", tap->name,
				       tap->name);
		if (errno == EBUSY)
			return err_sys(e, EBUSY, "tap '%s': in use by another program or VM", tap->name);
		return err_sys(e, errno, "tap '%s': cannot attach (is it a TAP interface?)", tap->name);
	}
	if (ioctl(tap->fd, TUNSETVNETHDRSZ, &hdr_size) < 0)
		return err_sys(e, errno, "tap '%s': the host's tun driver is too old", tap->name);
	return 0;
}

static void warn_if_down(const struct tap_net *tap)
{
	struct ifreq req = {0};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	memcpy(req.ifr_name, tap->name, IFNAMSIZ);
	if (!ioctl(fd, SIOCGIFFLAGS, &req) && !(req.ifr_flags & IFF_UP))
		log_msg(LOG_WARN, "tap '%s' is down; the guest has no network until: ip link set %s up", tap->name, tap->name);
	close(fd);
}

int net_tap_check(const char *ifname, struct err *e)
{
	if (!*ifname || strlen(ifname) >= IFNAMSIZ)
		return err_set(e, EINVAL, "tap '%s': an interface name has 1 to %d characters", ifname, IFNAMSIZ - 1);
	return 0;
}

int net_tap_open(struct net_backend **out, struct evloop *l, const char *ifname, u32 mtu, const struct net_client *client, struct err *e)
{
	struct tap_net *tap;
	int r = net_tap_check(ifname, e);

	if (r)
		return r;
	tap = calloc(1, sizeof(*tap));
	if (!tap)
		return err_set(e, ENOMEM, "tap '%s': out of memory", ifname);
	tap->nb = (struct net_backend){.ops = &tap_ops, .client = *client, .mtu = mtu};
	for (u32 f = 0; f < ARRAY_SIZE(offloads); f++)
		tap->nb.features |= 1ull << offloads[f].feature;
	tap->nb.features |= 1ull << VIRTIO_NET_F_CSUM | 1ull << VIRTIO_NET_F_HOST_TSO4 | 1ull << VIRTIO_NET_F_HOST_TSO6 |
			    1ull << VIRTIO_NET_F_HOST_ECN;
	tap->loop = l;
	tap->fd = -1;
	memcpy(tap->name, ifname, strlen(ifname) + 1);
	r = check_exists(tap, e);
	if (!r)
		r = open_device(tap, e);
	if (!r)
		r = attach(tap, e);
	if (!r)
		r = evloop_add_fd(l, tap->fd, EPOLLIN, tap_readable, tap, e);
	if (r) {
		if (tap->fd >= 0)
			close(tap->fd);
		free(tap);
		return r;
	}
	warn_if_down(tap);
	*out = &tap->nb;
	return 0;
}
