/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network as a NIC sees it: Ethernet frames out and in, each with a virtio-net header that says what is left to do to it (checksum,
 * segmentation).
 *
 * Threading: everything here happens on the event loop's thread, open and close with the loop not running.
 */
#pragma once

#include "base/err.h"
#include "base/evloop.h"

#include <linux/virtio_net.h>
#include <sys/uio.h>

#define NET_HDR_SIZE sizeof(struct virtio_net_hdr_v1)
#define NET_MIN_FRAME 14u
#define NET_MAX_FRAME 65550u /* the largest IP packet and an Ethernet header with a VLAN tag, rounded up */

struct net_client {
	void *opaque;
	/* A frame for the guest. False: no room now; the back end keeps or drops it, and will be resumed. */
	bool (*receive)(void *opaque, const struct virtio_net_hdr_v1 *h, const u8 *frame, size_t len);
	void (*flush)(void *opaque); /* after a burst of `receive` */
};

struct net_backend;
struct net_backend_ops {
	const char *name;
	/* A frame from the guest, in pieces of guest memory that may change while they are read. Dropped when it cannot be sent. */
	void (*send)(struct net_backend *nb, const struct virtio_net_hdr_v1 *h, const struct iovec *iov, u32 n, size_t len);
	void (*resume)(struct net_backend *nb);				  /* the guest has room again */
	void (*set_features)(struct net_backend *nb, u64 guest_features); /* what the driver accepted */
	void (*close)(struct net_backend *nb);
};

struct net_backend {
	const struct net_backend_ops *ops;
	struct net_client client;
	u64 features; /* VIRTIO_NET_F_* bits it can serve */
	u32 mtu;      /* 0: not announced to the guest */
};

/* A port of the host that leads to one of the guest's. Addresses in network byte order; guest 0: the address DHCP gave. */
struct hostfwd {
	bool udp;
	u32 host_addr, guest_addr;
	u16 host_port, guest_port;
};

/* "tcp:8080:80", "udp:0.0.0.0:53:53", and the form that QEMU uses, "tcp:0.0.0.0:8080-:80". Without an address the port is opened on
 * 127.0.0.1 only. Errors: EINVAL with the form. */
int hostfwd_parse(struct hostfwd *f, const char *text, struct err *e) must_check;

#define NET_MAX_FORWARDS 16
/* Jumbo frames cost a NAT nothing and save it most of its work. libslirp scales no windows, so a window is 65535 bytes at most, and as a
 * sender it waits until the window holds a whole segment or half of the largest window seen. When segments are so large that two just do
 * not fit, a guest's window can stop at a little less than either, with nothing that would make the guest announce more: then each segment
 * waits for the persist timer, 5 s. With four in a window there is always one that fits, also when a guest keeps its window smaller. */
#define NET_USER_MTU 16384u

/* User-mode NAT: 10.0.2.0/24, gateway and host .2, DNS .3, guest .15. */
int net_user_open(struct net_backend **out, struct evloop *l, u32 mtu, const struct hostfwd *fwd, u32 nfwd, const struct net_client *client,
		  struct err *e) must_check;
/* Whether a host could have an interface of this name. Errors: EINVAL. */
int net_tap_check(const char *ifname, struct err *e) must_check;
/* An existing TAP interface of the host. */
int net_tap_open(struct net_backend **out, struct evloop *l, const char *ifname, u32 mtu, const struct net_client *client,
		 struct err *e) must_check;

/* Fill in the checksum that `h` leaves to us. False: its offsets lie outside the frame. */
bool net_finish_checksum(const struct virtio_net_hdr_v1 *h, u8 *frame, size_t len);
