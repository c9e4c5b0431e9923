/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio network device (virtio 1.1, 5.1): one pair of queues and a control queue, over a back end of src/net.
 *
 * Threading: doorbells only post work; both data queues are served on the event loop, where the back ends live, so a busy guest and the
 * NAT run on different host CPUs. The control queue is served on the notifying vCPU's thread. Lock order: TX before RX, because a NAT may
 * answer a frame while it is being sent.
 */
#include "base/opts.h"
#include "net/net.h"
#include "virtio/device.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RX 0
#define TX 1
#define CTRL 2
#define NET_QUEUES 3
#define NET_QUEUE_SIZE 256
#define NET_TX_BATCH 64
#define NET_RX_BUFFERS_MAX 128 /* of one frame; a sane driver needs 44 for the longest */
#define NET_MIN_MTU 68
#define NET_MAX_MTU 65520

struct virtio_net {
	struct virtio_device vd;
	struct net_backend *backend;
	struct virtio_net_config config;
	struct virtio_work tx_work, rx_work;
	struct log_limit log;
};

static struct virtio_net *of(struct virtio_device *vd)
{
	return container_of(vd, struct virtio_net, vd);
}

/* ---- guest to network ---- */

static const struct {
	u8 gso_type;
	u32 feature;
} segmentations[] = {
	{VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_F_HOST_TSO4},
	{VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_F_HOST_TSO6},
};

/* A segmentation that was negotiated, with what it needs: a size, and a checksum left to us (virtio 1.1, 5.1.6.2.1). */
static bool gso_ok(const struct virtio_net *net, const struct virtio_net_hdr_v1 *h)
{
	u8 type = h->gso_type & (u8)~VIRTIO_NET_HDR_GSO_ECN;

	if (h->gso_type == VIRTIO_NET_HDR_GSO_NONE)
		return true;
	if (type != h->gso_type && !virtio_has(&net->vd, VIRTIO_NET_F_HOST_ECN))
		return false;
	for (u32 i = 0; i < ARRAY_SIZE(segmentations); i++)
		if (segmentations[i].gso_type == type)
			return virtio_has(&net->vd, segmentations[i].feature) && h->gso_size && h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;
	return false;
}

/* A driver must not ask for what was not negotiated. Where the offsets of a checksum lie is checked by who computes it. */
static bool tx_header_ok(const struct virtio_net *net, const struct virtio_net_hdr_v1 *h)
{
	if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM && !virtio_has(&net->vd, VIRTIO_NET_F_CSUM))
		return false;
	return gso_ok(net, h);
}

static void tx_send(struct virtio_net *net, const struct vq_request *r)
{
	struct virtio_net_hdr_v1 h;
	struct iovec iov[VQ_IOV_MAX];
	size_t len;
	u32 n;

	if (iov_read(r->read, r->nread, 0, &h, sizeof(h)) != sizeof(h) || !tx_header_ok(net, &h))
		return;
	len = r->read_len - sizeof(h);
	if (len < NET_MIN_FRAME || len > NET_MAX_FRAME)
		return;
	n = iov_slice(r->read, r->nread, sizeof(h), len, iov);
	net->backend->ops->send(net->backend, &h, iov, n, len);
}

static void flush_queue(struct virtqueue *q)
{
	pthread_mutex_lock(&q->lock);
	vq_flush(q);
	pthread_mutex_unlock(&q->lock);
}

static void tx_serve(struct virtio_device *vd)
{
	struct virtio_net *net = of(vd);
	struct virtqueue *q = &vd->queue[TX];
	struct vq_request *r;
	bool more;

	pthread_mutex_lock(&q->lock);
	vq_notify_off(q);
	for (u32 n = 0; n < NET_TX_BATCH && (r = vq_pop(q)); n++) {
		tx_send(net, r);
		vq_push(r, 0);
	}
	more = vq_notify_on(q);
	vq_flush(q);
	pthread_mutex_unlock(&q->lock);
	flush_queue(&vd->queue[RX]);
	if (more)
		virtio_work_post(&net->tx_work);
}

/* ---- network to guest ---- */

/* Takes buffers for `total` bytes: one, or with MRG_RXBUF as many as it needs. Returns their number; 0: not enough now; -1: the driver's
 * buffers are too small for such a frame. Except on success none is taken. */
static int rx_take(struct virtio_net *net, struct vq_request **r, u32 total)
{
	struct virtqueue *q = &net->vd.queue[RX];
	u32 max = virtio_has(&net->vd, VIRTIO_NET_F_MRG_RXBUF) ? NET_RX_BUFFERS_MAX : 1;
	u64 room = 0;
	u32 n = 0;
	bool fits;

	while (n < max && room < total && (r[n] = vq_pop(q)))
		room += r[n++]->write_len;
	fits = n && r[0]->write_len >= NET_HDR_SIZE;
	if (fits && room >= total)
		return (int)n;
	for (u32 i = n; i; i--)
		vq_unpop(r[i - 1]);
	return n == max || (n && !fits) ? -1 : 0;
}

static void rx_fill(struct vq_request **r, u32 n, struct virtio_net_hdr_v1 h, const u8 *frame, size_t len)
{
	size_t done;

	h.num_buffers = (u16)n;
	iov_write(r[0]->write, r[0]->nwrite, 0, &h, sizeof(h));
	done = iov_write(r[0]->write, r[0]->nwrite, sizeof(h), frame, len);
	vq_push(r[0], (u32)(sizeof(h) + done));
	for (u32 i = 1; i < n; i++) {
		size_t part = iov_write(r[i]->write, r[i]->nwrite, 0, frame + done, len - done);

		vq_push(r[i], (u32)part);
		done += part;
	}
}

/* Without the checksum feature the driver must see no flags (virtio 1.1, 5.1.6.4.1). */
static struct virtio_net_hdr_v1 header_for(const struct virtio_net *net, const struct virtio_net_hdr_v1 *h)
{
	return virtio_has(&net->vd, VIRTIO_NET_F_GUEST_CSUM) ? *h : (struct virtio_net_hdr_v1){0};
}

/* While the device does not run, frames go where they go on a cable that is not plugged in. */
static bool net_receive(void *opaque, const struct virtio_net_hdr_v1 *h, const u8 *frame, size_t len)
{
	struct virtio_net *net = opaque;
	struct virtqueue *q = &net->vd.queue[RX];
	struct vq_request *r[NET_RX_BUFFERS_MAX];
	u32 total = (u32)(NET_HDR_SIZE + len);
	u16 seen;
	int n = -1;

	if (len > NET_MAX_FRAME)
		return true;
	pthread_mutex_lock(&q->lock);
	if (virtio_running(&net->vd)) {
		do {
			seen = vq_ready(q);
			n = rx_take(net, r, total);
		} while (!n && vq_notify_beyond(q, seen));
	}
	if (n > 0)
		rx_fill(r, (u32)n, header_for(net, h), frame, len);
	pthread_mutex_unlock(&q->lock);
	return n != 0;
}

static void net_flush(void *opaque)
{
	struct virtio_net *net = opaque;

	flush_queue(&net->vd.queue[RX]);
}

static void rx_resume(struct virtio_device *vd)
{
	struct virtio_net *net = of(vd);
	struct virtqueue *q = &vd->queue[RX];

	pthread_mutex_lock(&q->lock);
	vq_notify_off(q);
	pthread_mutex_unlock(&q->lock);
	net->backend->ops->resume(net->backend);
}

/* ---- control ---- */

/* We filter nothing, so every filter the driver sets is met. The rest was not offered. */
static u8 ctrl_answer(const struct vq_request *r)
{
	struct virtio_net_ctrl_hdr h;

	if (iov_read(r->read, r->nread, 0, &h, sizeof(h)) != sizeof(h))
		return VIRTIO_NET_ERR;
	if (h.class == VIRTIO_NET_CTRL_RX && h.cmd <= VIRTIO_NET_CTRL_RX_NOBCAST)
		return VIRTIO_NET_OK;
	return h.class == VIRTIO_NET_CTRL_MAC && h.cmd == VIRTIO_NET_CTRL_MAC_TABLE_SET ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
}

static void ctrl_serve(struct virtio_device *vd)
{
	struct virtqueue *q = &vd->queue[CTRL];
	struct vq_request *r;

	pthread_mutex_lock(&q->lock);
	for (u32 n = 0; n < q->size && (r = vq_pop(q)); n++) {
		u8 ack = ctrl_answer(r);

		vq_push(r, r->write_len ? (u32)iov_write(r->write, r->nwrite, 0, &ack, 1) : 0);
	}
	vq_flush(q);
	vq_notify_on(q);
	pthread_mutex_unlock(&q->lock);
}

/* ---- device ---- */

static void net_notify(struct virtio_device *vd, u16 queue)
{
	struct virtio_net *net = of(vd);

	if (queue == CTRL)
		ctrl_serve(vd);
	else
		virtio_work_post(queue == TX ? &net->tx_work : &net->rx_work);
}

static void net_start(struct virtio_device *vd)
{
	struct virtio_net *net = of(vd);

	net->backend->ops->set_features(net->backend, vd->accepted);
}

/* The loop's thread holds a queue's lock while it uses requests; virtio_reset_done takes each lock, so none is in use after it. */
static void net_reset(struct virtio_device *vd)
{
	virtio_reset_done(vd);
}

static const struct virtio_ops net_ops = {
	.name = "virtio-net",
	.id = VIRTIO_ID_NET,
	.pci_class = 0x02, /* Ethernet controller */
	.pci_subclass = 0x00,
	.posts = 1 << RX | 1 << TX,
	.start = net_start,
	.notify = net_notify,
	.reset = net_reset,
};

/* ---- creation ---- */

static const struct opt_key net_keys[] = {
	{.name = "", .type = OPT_STRING, .help = "user: NAT in this process, needs no rights; none: no network card"},
	{.name = "tap", .type = OPT_STRING, .help = "name of a TAP interface of the host, instead of user"},
	{.name = "mac", .type = OPT_STRING, .help = "address of the card; made from the VM's name when not given"},
	{.name = "hostfwd",
	 .type = OPT_STRING,
	 .help = "tcp|udp:[HOSTADDR:]HOSTPORT:GUESTPORT, on 127.0.0.1 unless an address is given",
	 .many = true},
	{.name = "mtu", .type = OPT_UINT, .help = "largest packet, 68 to 65520 (user: 16384 when not given)"},
	{0},
};

static int parse_mac(const char *text, u8 mac[6], struct err *e)
{
	char end;

	if (sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%c", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5], &end) != 6)
		return err_set(e, EINVAL, "--net: '%s' is not a MAC address; write it like 02:00:00:00:00:01", text);
	if (mac[0] & 1)
		return err_set(e, EINVAL, "--net: MAC address '%s' is a multicast address; make its first byte even", text);
	return 0;
}

static u64 hash_text(u64 hash, const char *text)
{
	/* FNV-1a: only has to spread names. */
	for (; *text; text++)
		hash = (hash ^ (u8)*text) * 0x100000001b3ull;
	return hash;
}

/* The same VM on the same network gets the same address at every start; another name or TAP gets another. */
static void make_mac(const struct device_env *env, const char *network, u8 mac[6])
{
	u64 hash = hash_text(hash_text(0xcbf29ce484222325ull, env->vm_name ? env->vm_name : ""), network);

	mac[0] = 0x02; /* locally administered */
	for (u32 i = 1; i < 6; i++)
		mac[i] = (u8)(hash >> (8 * i));
}

static int parse_forwards(const struct opts *opts, struct hostfwd *fwd, u32 *n, struct err *e)
{
	const char *text;

	for (*n = 0; (text = opts_nth(opts, "hostfwd", *n)); ++*n) {
		if (*n == NET_MAX_FORWARDS)
			return err_set(e, E2BIG, "--net: more than %d hostfwd", NET_MAX_FORWARDS);
		if (hostfwd_parse(&fwd[*n], text, e))
			return err_prefix(e, "--net");
	}
	return 0;
}

static bool is_none(const struct opts *opts)
{
	const char *kind = opts_str(opts, "");

	return kind && !strcmp(kind, "none");
}

static int check_kind(const struct opts *opts, struct err *e)
{
	const char *tap = opts_str(opts, "tap"), *kind = opts_str(opts, "");

	if (is_none(opts))
		return opts->n == 1 ? 0 : err_set(e, EINVAL, "--net: none is no card, and takes nothing else");
	if (kind && *kind && (tap || strcmp(kind, "user") != 0))
		return err_set(e, EINVAL, "--net: '%s'%s; choose one of user, tap=NAME and none", kind,
			       tap ? " and tap= exclude each other" : " is unknown");
	if (tap && opts_has(opts, "hostfwd"))
		return err_set(e, EINVAL, "--net: hostfwd is for user networking; with tap=%s the host's own network leads to the guest",
			       tap);
	return 0;
}

static int net_check(const struct opts *opts, struct err *e)
{
	const char *mac = opts_str(opts, "mac"), *tap = opts_str(opts, "tap");
	struct hostfwd fwd[NET_MAX_FORWARDS];
	u8 bytes[6];
	u32 n;
	int r = check_kind(opts, e);

	if (r)
		return r;
	if (opts_has(opts, "mtu") && (opts_num(opts, "mtu") < NET_MIN_MTU || opts_num(opts, "mtu") > NET_MAX_MTU))
		return err_set(e, EINVAL, "--net: mtu must be from %d to %d", NET_MIN_MTU, NET_MAX_MTU);
	if (tap && net_tap_check(tap, e))
		return err_prefix(e, "--net");
	if (mac && parse_mac(mac, bytes, e))
		return -e->code;
	return parse_forwards(opts, fwd, &n, e);
}

static int open_backend(struct virtio_net *net, struct device_env *env, const struct opts *opts, struct err *e)
{
	struct net_client client = {net, net_receive, net_flush};
	const char *tap = opts_str(opts, "tap");
	struct hostfwd fwd[NET_MAX_FORWARDS];
	u32 nfwd, mtu = (u32)opts_num(opts, "mtu");

	if (parse_forwards(opts, fwd, &nfwd, e))
		return -e->code;
	if (!tap)
		return net_user_open(&net->backend, env->loop, mtu, fwd, nfwd, &client, e);
	return net_tap_open(&net->backend, env->loop, tap, mtu, &client, e);
}

static int fill_config(struct virtio_net *net, struct device_env *env, const struct opts *opts, struct err *e)
{
	const char *mac = opts_str(opts, "mac"), *tap = opts_str(opts, "tap");

	net->config.status = VIRTIO_NET_S_LINK_UP;
	net->config.max_virtqueue_pairs = 1;
	net->config.mtu = (u16)net->backend->mtu;
	if (mac)
		return parse_mac(mac, net->config.mac, e);
	make_mac(env, tap ? tap : "user", net->config.mac);
	return 0;
}

static u64 features(const struct virtio_net *net)
{
	u64 f = net->backend->features | VIRTIO_BIT(VIRTIO_NET_F_MAC) | VIRTIO_BIT(VIRTIO_NET_F_STATUS) |
		VIRTIO_BIT(VIRTIO_NET_F_MRG_RXBUF) | VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_BIT(VIRTIO_NET_F_CTRL_RX);

	return net->backend->mtu ? f | VIRTIO_BIT(VIRTIO_NET_F_MTU) : f;
}

static const struct device_class net_class;

static void net_free(struct virtio_net *net)
{
	if (net->backend)
		net->backend->ops->close(net->backend);
	free(net);
}

static int net_assemble(struct virtio_net *net, struct device_env *env, const struct opts *opts, struct err *e)
{
	struct virtio_setup setup = {.ops = &net_ops,
				     .cls = &net_class,
				     .nqueues = NET_QUEUES,
				     .queue_size = NET_QUEUE_SIZE,
				     .config = &net->config,
				     .config_len = sizeof(net->config)};
	int r = open_backend(net, env, opts, e);

	if (!r)
		r = fill_config(net, env, opts, e);
	if (r)
		return r;
	setup.features = features(net);
	return virtio_init(&net->vd, env, &setup, e);
}

/* "none" makes no device: *out stays NULL. */
static int net_create(struct device_env *env, const struct opts *opts, struct device **out, struct err *e)
{
	struct virtio_net *net;
	int r = net_check(opts, e);

	*out = NULL;
	if (r || is_none(opts))
		return r;
	net = calloc(1, sizeof(*net));
	if (!net)
		return err_set(e, ENOMEM, "virtio-net: out of memory");
	virtio_work_init(&net->tx_work, &net->vd, tx_serve);
	virtio_work_init(&net->rx_work, &net->vd, rx_resume);
	r = net_assemble(net, env, opts, e);
	if (r) {
		net_free(net);
		return r;
	}
	*out = &net->vd.dev;
	return 0;
}

static void net_destroy(struct device *d)
{
	struct virtio_net *net = container_of(d, struct virtio_net, vd.dev);

	virtio_class_reset(d);
	net->backend->ops->close(net->backend);
	net->backend = NULL;
	virtio_fini(&net->vd);
	net_free(net);
}

static const struct field net_fields[] = {
	VIRTIO_FIELDS(struct virtio_net),
	FIELD_ARRAY(struct virtio_net, config.mac, FIELD_BYTES, 6),
};

static const struct device_class net_class = {
	.name = "net",
	.stage = STAGE_PCI,
	.option = "net",
	.summary = "a network card",
	.keys = net_keys,
	.version = 1,
	.check = net_check,
	.create = net_create,
	.reset = virtio_class_reset,
	.destroy = net_destroy,
	.loaded = virtio_class_loaded,
	.fields = net_fields,
	.nfields = ARRAY_SIZE(net_fields),
};
DEVICE_REGISTER(net_class);
