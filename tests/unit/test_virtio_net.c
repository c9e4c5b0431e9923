/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-net over the user-mode NAT: DHCP, UDP and its checksums to a socket of the host, a forwarded port, wrong frames and buffers. */
#include "virtio_guest.h"

#include "net/net.h"

#include <arpa/inet.h>
#include <linux/virtio_net.h>
#include <netinet/if_ether.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define RX_BUFFERS 64
#define RX_SIZE 2048u
#define HDR 12u

static const u8 gateway_mac[6] = {0x52, 0x55, 10, 0, 2, 2};

struct world {
	struct guest g;
	struct guest_queue *rx, *tx;
	u64 rx_mem, tx_mem;
	u8 mac[6];
	u8 frame[70000];
	u32 len;
	int bell[2]; /* of rx and tx; 0: the driver writes to its doorbell */
};

static void give_buffer(struct world *w, u32 i)
{
	struct guest_buf buf = {w->rx_mem + (u64)i * RX_SIZE, RX_SIZE, true};

	gq_add(&w->g, w->rx, &buf, 1);
}

static void driver(struct world *w, u64 mask)
{
	g_negotiate(&w->g, mask);
	w->rx = g_queue(&w->g, 0, RX_BUFFERS);
	w->tx = g_queue(&w->g, 1, 64);
	g_queue(&w->g, 2, 16);
	g_driver_ok(&w->g);
	for (u32 i = 0; i < RX_BUFFERS; i++)
		give_buffer(w, i);
	gq_kick(&w->g, w->rx);
}

static int setup_with(void **state, const char *option)
{
	struct world *w = calloc(1, sizeof(*w));

	g_board(&w->g, 1);
	g_start(&w->g, "net", option);
	w->rx_mem = g_alloc(&w->g, RX_BUFFERS * RX_SIZE);
	w->tx_mem = g_alloc(&w->g, 128 * 1024);
	for (u32 i = 0; i < 6; i++)
		w->mac[i] = (u8)g_read(&w->g, G_CONFIG + i, 1);
	driver(w, ~0ull);
	*state = w;
	return 0;
}

static int setup(void **state)
{
	return setup_with(state, "user,mac=02:00:00:00:00:07");
}

static int teardown(void **state)
{
	struct world *w = *state;

	g_stop(&w->g);
	free(w);
	return 0;
}

/* A frame with its virtio header, from tx_mem; the header is the caller's. */
static void send_frame(struct world *w, const struct virtio_net_hdr_v1 *h, const void *frame, u32 len)
{
	struct guest_buf buf[] = {
		{w->tx_mem, HDR, false}, {w->tx_mem + HDR, len / 2, false}, {w->tx_mem + HDR + len / 2, len - len / 2, false}};

	memcpy(g_ptr(&w->g, w->tx_mem), h, HDR);
	memcpy(g_ptr(&w->g, w->tx_mem + HDR), frame, len);
	gq_add(&w->g, w->tx, buf, 3);
	if (w->bell[1])
		eventfd_write(w->bell[1], 1);
	else
		gq_kick(&w->g, w->tx);
	gq_wait(&w->g, w->tx);
}

/* The next frame, put together from its buffers, which go back to the device. */
static void next_frame(struct world *w)
{
	struct virtio_net_hdr_v1 h;
	u32 buffers = 1;

	w->len = 0;
	for (u32 i = 0; i < buffers; i++) {
		struct vring_used_elem e = gq_wait(&w->g, w->rx);
		const u8 *at = g_ptr(&w->g, gq_desc(&w->g, w->rx)[e.id].addr);
		u32 skip = i ? 0 : HDR;

		assert_true(e.len <= RX_SIZE && e.len >= skip);
		if (!i) {
			memcpy(&h, at, sizeof(h));
			buffers = h.num_buffers;
			assert_true(buffers >= 1);
		}
		memcpy(w->frame + w->len, at + skip, e.len - skip);
		w->len += e.len - skip;
	}
	for (u32 i = 0; i < buffers; i++)
		give_buffer(w, (u32)(w->rx->next_desc % RX_BUFFERS));
	gq_kick(&w->g, w->rx);
}

static u16 checksum(const void *data, u32 len, u32 sum)
{
	const u8 *p = data;

	for (; len > 1; len -= 2, p += 2)
		sum += (u32)(p[0] << 8 | p[1]);
	if (len)
		sum += (u32)p[0] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (u16)sum;
}

struct udp_frame {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	u8 data[1400];
} __attribute__((packed));

static u32 make_udp(struct world *w, struct udp_frame *f, u32 src, u32 dst, u16 sport, u16 dport, const void *data, u32 len)
{
	memset(f, 0, sizeof(*f));
	memcpy(f->eth.h_dest, dst == INADDR_BROADCAST ? (const u8 *)"\xff\xff\xff\xff\xff\xff" : gateway_mac, 6);
	memcpy(f->eth.h_source, w->mac, 6);
	f->eth.h_proto = htons(ETH_P_IP);
	f->ip = (struct iphdr){.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP, .saddr = htonl(src), .daddr = htonl(dst)};
	f->ip.tot_len = htons((u16)(sizeof(f->ip) + sizeof(f->udp) + len));
	f->ip.check = htons((u16)~checksum(&f->ip, sizeof(f->ip), 0));
	f->udp = (struct udphdr){.source = htons(sport), .dest = htons(dport), .len = htons((u16)(sizeof(f->udp) + len))};
	memcpy(f->data, data, len);
	return (u32)(sizeof(*f) - sizeof(f->data) + len);
}

static const struct virtio_net_hdr_v1 plain;

/* If the frame received last asks who has 10.0.2.15: we. */
static void answer_arp(struct world *w)
{
	const struct ethhdr *eth = (const void *)w->frame;
	u8 reply[42];

	if (eth->h_proto != htons(ETH_P_ARP) || w->frame[21] != 1 || w->frame[41] != 15)
		return;
	memcpy(reply, w->frame, sizeof(reply));
	memcpy(reply, w->frame + 6, 6);
	memcpy(reply + 6, w->mac, 6);
	reply[21] = 2;
	memcpy(reply + 22, w->mac, 6);
	memcpy(reply + 28, w->frame + 38, 4);
	memcpy(reply + 32, w->frame + 22, 10);
	send_frame(w, &plain, reply, sizeof(reply));
}

/* Waits for a UDP frame to the given port; others are passed over. */
static const struct udp_frame *await_udp(struct world *w, u16 port)
{
	for (;;) {
		const struct udp_frame *f = (const void *)w->frame;

		next_frame(w);
		answer_arp(w);
		if (f->eth.h_proto == htons(ETH_P_IP) && f->ip.protocol == IPPROTO_UDP && f->udp.dest == htons(port))
			return f;
	}
}

static void dhcp_answers(void **state)
{
	static const u8 cookie_discover[] = {99, 130, 83, 99, 53, 1, 1, 255};
	struct world *w = *state;
	const struct udp_frame *f;
	struct udp_frame out;
	u8 bootp[300] = {1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78};
	u32 len;

	memcpy(bootp + 28, w->mac, 6);
	memcpy(bootp + 236, cookie_discover, sizeof(cookie_discover));
	len = make_udp(w, &out, 0, INADDR_BROADCAST, 68, 67, bootp, sizeof(bootp));
	send_frame(w, &plain, &out, len);
	f = await_udp(w, 68);
	assert_int_equal(f->data[0], 2);
	assert_memory_equal(f->data + 4, bootp + 4, 4);
	assert_memory_equal(f->data + 16, "\x0a\x00\x02\x0f", 4); /* 10.0.2.15 */
}

static void hear_of_bell(void *opaque, u64 addr, int fd, bool on)
{
	struct world *w = opaque;
	u64 queue = (addr - w->g.bar - G_NOTIFY) / 4;

	assert_true(queue < 2); /* the control queue answers at once */
	w->bell[queue] = on ? fd : 0;
}

/* Whoever takes the guest's write to a doorbell rings in its place. */
static void bells_ring_too(void **state)
{
	struct world *w = *state;

	bus_tell_bells(w->g.env.mmio, hear_of_bell, w);
	assert_true(w->bell[0] && w->bell[1]);
	dhcp_answers(state);
	bus_tell_bells(w->g.env.mmio, NULL, NULL);
}

static int host_socket(int type, u16 *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(a);
	int fd = socket(AF_INET, type, 0);
	struct timeval limit = {10, 0};

	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	getsockname(fd, (struct sockaddr *)&a, &n);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	*port = ntohs(a.sin_port);
	return fd;
}

/* A datagram to 10.0.2.2 arrives at the host's loopback, its checksum left to the device; the answer comes back. */
static void udp_echo(void **state)
{
	struct world *w = *state;
	struct virtio_net_hdr_v1 h = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				      .csum_start = sizeof(struct ethhdr) + sizeof(struct iphdr),
				      .csum_offset = offsetof(struct udphdr, check)};
	struct sockaddr_in from;
	socklen_t n = sizeof(from);
	const struct udp_frame *f;
	struct udp_frame out;
	char text[1400], got[1500], big[15000];
	u16 port;
	int fd = host_socket(SOCK_DGRAM, &port);

	for (u32 size = 1; size < sizeof(text); size = size * 3 + 1) {
		u32 len, pseudo;

		memset(text, (int)size, size);
		len = make_udp(w, &out, 0x0a00020f, 0x0a000202, 4000, port, text, size);
		pseudo = IPPROTO_UDP + (u32)sizeof(out.udp) + size;
		out.udp.check = htons(checksum(&out.ip.saddr, 8, pseudo));
		send_frame(w, &h, &out, len);
		assert_int_equal(recvfrom(fd, got, sizeof(got), 0, (struct sockaddr *)&from, &n), size);
		assert_memory_equal(got, text, size);
		assert_int_equal(sendto(fd, "answer", 6, 0, (struct sockaddr *)&from, n), 6);
		f = await_udp(w, 4000);
		assert_memory_equal(f->data, "answer", 6);
	}
	/* A large answer spans several receive buffers. */
	memset(big, 'x', sizeof(big));
	assert_int_equal(sendto(fd, big, sizeof(big), 0, (struct sockaddr *)&from, n), sizeof(big));
	f = await_udp(w, 4000);
	assert_int_equal(w->len, sizeof(*f) - sizeof(f->data) + sizeof(big));
	assert_memory_equal(f->data, big, sizeof(f->data));
	close(fd);
}

/* No receive buffers: frames wait, and arrive when there are some again. */
static void receive_restarts(void **state)
{
	struct world *w = *state;
	struct sockaddr_in from;
	socklen_t n = sizeof(from);
	struct udp_frame out;
	u16 port, sent = 0;
	int fd = host_socket(SOCK_DGRAM, &port);
	char got[16], big[15000] = "";
	u32 len;

	len = make_udp(w, &out, 0x0a00020f, 0x0a000202, 4001, port, "hello", 5);
	send_frame(w, &plain, &out, len);
	assert_int_equal(recvfrom(fd, got, sizeof(got), 0, (struct sockaddr *)&from, &n), 5);
	sendto(fd, &sent, 2, 0, (struct sockaddr *)&from, n);
	await_udp(w, 4001);
	for (sent = 0; sent < 3 * RX_BUFFERS; sent++) {
		sendto(fd, &sent, 2, 0, (struct sockaddr *)&from, n);
		if (sent % 16 == 0)
			g_nap();
	}
	for (u16 i = 0; i < sent; i++)
		assert_int_equal(*(const u16 *)await_udp(w, 4001)->data, i);
	/* Frames that need more buffers than are left, but not more than none. */
	for (sent = 0; sent < 16; sent++) {
		memcpy(big, &sent, sizeof(sent));
		assert_int_equal(sendto(fd, big, sizeof(big), 0, (struct sockaddr *)&from, n), sizeof(big));
		g_nap();
	}
	for (u16 i = 0; i < sent; i++)
		assert_int_equal(*(const u16 *)await_udp(w, 4001)->data, i);
	close(fd);
}

static void wrong_frames_are_dropped(void **state)
{
	struct world *w = *state;
	struct virtio_net_hdr_v1 bad_sum = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 0xffff, .csum_offset = 0xffff};
	struct virtio_net_hdr_v1 gso = {.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1};
	struct guest_buf runt = {w->tx_mem, 5, false}, huge = {w->tx_mem, 128 * 1024, false};
	u8 junk[1500];

	srand(3);
	for (u32 i = 0; i < 2000; i++) {
		for (u32 k = 0; k < sizeof(junk); k++)
			junk[k] = (u8)rand();
		junk[12] = 8;
		junk[13] = i % 3 ? 0 : 6;
		junk[14] = i % 5 ? 0x45 : junk[14];
		send_frame(w, i % 7 == 0 ? &bad_sum : i % 7 == 1 ? &gso : &plain, junk, 2 + (u32)rand() % 1498);
	}
	gq_add(&w->g, w->tx, &runt, 1);
	gq_add(&w->g, w->tx, &huge, 1);
	gq_kick(&w->g, w->tx);
	gq_wait(&w->g, w->tx);
	gq_wait(&w->g, w->tx);
	assert_false(g_status(&w->g) & VIRTIO_CONFIG_S_NEEDS_RESET);
	dhcp_answers(state);
}

/* ---- TCP ---- */

struct tcp_frame {
	struct ethhdr eth;
	struct iphdr ip;
	struct tcphdr tcp;
	u8 data[60000];
} __attribute__((packed));

struct connection {
	u16 port;
	u32 seq, ack;
	int fd; /* the host's end */
	struct tcp_frame out;
};

#define TCP_HEADERS (sizeof(struct tcp_frame) - sizeof(((struct tcp_frame *)0)->data))

/* A segment (`syn`: with the one option of 4 bytes as its data) whose checksum is left to the device; `gso` says into what it would have to be cut. */
static void send_segment(struct world *w, struct connection *c, bool syn, u32 len, u8 gso_type)
{
	u16 largest = (u16)(g_read(&w->g, G_CONFIG + offsetof(struct virtio_net_config, mtu), 2) - 40);
	u8 mss[4] = {TCPOPT_MAXSEG, TCPOLEN_MAXSEG, (u8)(largest >> 8), (u8)largest};
	struct tcp_frame *f = &c->out;
	struct virtio_net_hdr_v1 h = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				      .gso_type = gso_type,
				      .gso_size = gso_type ? 1000 : 0,
				      .hdr_len = gso_type ? TCP_HEADERS : 0,
				      .csum_start = sizeof(struct ethhdr) + sizeof(struct iphdr),
				      .csum_offset = offsetof(struct tcphdr, check)};

	make_udp(w, (struct udp_frame *)f, 0x0a00020f, 0x0a000202, 5000, c->port, "", 0);
	f->ip.protocol = IPPROTO_TCP;
	f->ip.tot_len = htons((u16)(TCP_HEADERS - sizeof(f->eth) + len));
	f->ip.check = 0;
	f->ip.check = htons((u16)~checksum(&f->ip, sizeof(f->ip), 0));
	f->tcp = (struct tcphdr){.source = htons(5000), .dest = htons(c->port), .seq = htonl(c->seq), .ack_seq = htonl(c->ack)};
	f->tcp.doff = syn ? 6 : 5;
	f->tcp.window = htons(65480);
	f->tcp.syn = syn;
	f->tcp.ack = !syn;
	f->tcp.check = htons(checksum(&f->ip.saddr, 8, IPPROTO_TCP + (u32)sizeof(f->tcp) + len));
	memset(f->data, 'd', len);
	if (syn)
		memcpy(f->data, mss, sizeof(mss));
	send_frame(w, &h, f, (u32)TCP_HEADERS + len);
	c->seq += syn ? 1 : len;
}

static u32 next_segment(struct world *w, struct connection *c)
{
	const struct tcp_frame *f = (const void *)w->frame;
	u32 len;

	do {
		next_frame(w);
		answer_arp(w);
	} while (f->eth.h_proto != htons(ETH_P_IP) || f->ip.protocol != IPPROTO_TCP || f->tcp.dest != htons(5000));
	len = ntohs(f->ip.tot_len) - (u32)sizeof(f->ip) - 4u * f->tcp.doff;
	if (f->tcp.syn || ntohl(f->tcp.seq) == c->ack)
		c->ack = ntohl(f->tcp.seq) + len + f->tcp.syn;
	return len;
}

static void tcp_connect(struct world *w, struct connection *c)
{
	int listener = host_socket(SOCK_STREAM, &c->port);

	c->seq = 1000;
	assert_int_equal(listen(listener, 1), 0);
	send_segment(w, c, true, 4, VIRTIO_NET_HDR_GSO_NONE);
	c->fd = accept(listener, NULL, NULL);
	assert_true(c->fd >= 0);
	close(listener);
	next_segment(w, c);
	send_segment(w, c, false, 0, VIRTIO_NET_HDR_GSO_NONE);
}

/* With segments of nearly half a window, sender and guest can each wait for the other, until the persist timer fires. */
static void a_window_holds_four_segments(void **state)
{
	struct world *w = *state;
	struct connection *c = calloc(1, sizeof(*c));
	u32 got = 0, most = 0;

	tcp_connect(w, c);
	assert_int_equal(write(c->fd, w->frame, 60000), 60000);
	while (got < 60000) {
		u32 len = next_segment(w, c);

		got += len;
		most = len > most ? len : most;
		if (len)
			send_segment(w, c, false, 0, VIRTIO_NET_HDR_GSO_NONE);
	}
	assert_true(most > 0 && 4 * most <= 65480);
	close(c->fd);
	free(c);
}

static void the_same_with_a_larger_mtu(void **state)
{
	setup_with(state, "user,mtu=65520,mac=02:00:00:00:00:07");
	a_window_holds_four_segments(state);
	teardown(state);
}

static void expect_arrives(struct connection *c, u32 len)
{
	char *got = malloc(len);

	assert_int_equal(recv(c->fd, got, len, MSG_WAITALL), len);
	for (u32 i = 0; i < len; i++)
		assert_int_equal(got[i], 'd');
	free(got);
}

static void segmentation_is_left_to_the_nat(void **state)
{
	struct world *w = *state;
	struct connection *c = calloc(1, sizeof(*c));

	tcp_connect(w, c);
	send_segment(w, c, false, 50000, VIRTIO_NET_HDR_GSO_TCPV4);
	expect_arrives(c, 50000);
	/* What was not offered, or has no such meaning, is dropped as a whole: the data comes with the next attempt. */
	for (u32 type = VIRTIO_NET_HDR_GSO_TCPV4 + 1; type < 256; type++) {
		if (type == VIRTIO_NET_HDR_GSO_TCPV6)
			continue;
		send_segment(w, c, false, 1000, (u8)type);
		c->seq -= 1000;
	}
	assert_int_equal(recv(c->fd, &(char){0}, 1, MSG_DONTWAIT), -1);
	send_segment(w, c, false, 1000, VIRTIO_NET_HDR_GSO_TCPV4);
	expect_arrives(c, 1000);
	close(c->fd);
	free(c);
}

/* A driver that did not accept checksums and segmentation must not ask for them. */
static void offloads_need_negotiation(void **state)
{
	struct world *w = *state;
	struct virtio_net_hdr_v1 sum = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6};
	struct virtio_net_hdr_v1 gso = {.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1000, .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM};
	struct udp_frame out;
	char got[16] = "";
	u16 port;
	int fd = host_socket(SOCK_DGRAM, &port);
	u32 len;

	driver(w, ~(VIRTIO_BIT(VIRTIO_NET_F_CSUM) | VIRTIO_BIT(VIRTIO_NET_F_HOST_TSO4)));
	len = make_udp(w, &out, 0x0a00020f, 0x0a000202, 4000, port, "bad", 3);
	send_frame(w, &sum, &out, len);
	send_frame(w, &gso, &out, len);
	len = make_udp(w, &out, 0x0a00020f, 0x0a000202, 4000, port, "good", 4);
	send_frame(w, &plain, &out, len);
	assert_int_equal(recv(fd, got, sizeof(got), 0), 4);
	assert_string_equal(got, "good");
	close(fd);
}

static void tiny_buffers_drop_frames(void **state)
{
	struct world *w = *state;
	struct guest_buf tiny = {w->rx_mem, 8, true};
	struct udp_frame out;
	u32 len;

	g_negotiate(&w->g, ~0ull);
	w->rx = g_queue(&w->g, 0, RX_BUFFERS);
	w->tx = g_queue(&w->g, 1, 64);
	g_driver_ok(&w->g);
	for (u32 i = 0; i < RX_BUFFERS; i++)
		gq_add(&w->g, w->rx, &tiny, 1);
	gq_kick(&w->g, w->rx);
	len = make_udp(w, &out, 0x0a00020f, 0x0a000202, 68, 67, "x", 1);
	send_frame(w, &plain, &out, len);
	assert_false(gq_done(&w->g, w->rx));
	driver(w, ~0ull);
	dhcp_answers(state);
}

static void control_queue_answers(void **state)
{
	static const struct {
		u8 class, cmd, ack;
	} cmds[] = {
		{VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, VIRTIO_NET_OK},
		{VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, VIRTIO_NET_OK},
		{VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, VIRTIO_NET_ERR},
		{VIRTIO_NET_CTRL_MQ, 0, VIRTIO_NET_ERR},
		{0xff, 0xff, VIRTIO_NET_ERR},
	};
	struct world *w = *state;
	struct guest_queue *q = &w->g.q[2];
	u8 *mem = g_ptr(&w->g, w->tx_mem);

	for (u32 i = 0; i < ARRAY_SIZE(cmds); i++) {
		struct guest_buf buf[] = {{w->tx_mem, 2, false}, {w->tx_mem + 2, 1, false}, {w->tx_mem + 64, 1, true}};

		mem[0] = cmds[i].class;
		mem[1] = cmds[i].cmd;
		mem[64] = 0xee;
		gq_add(&w->g, q, buf, 3);
		gq_kick(&w->g, q);
		gq_wait(&w->g, q);
		assert_int_equal(mem[64], cmds[i].ack);
	}
}

static void resets_under_traffic(void **state)
{
	struct world *w = *state;
	u64 heap = w->g.heap;
	struct udp_frame out;
	u32 len = make_udp(w, &out, 0x0a00020f, 0x0a000202, 4002, 9, "x", 1);

	for (u32 i = 0; i < 200; i++) {
		struct guest_buf buf = {w->tx_mem, HDR + len, false};

		memset(g_ptr(&w->g, w->tx_mem), 0, HDR);
		memcpy(g_ptr(&w->g, w->tx_mem + HDR), &out, len);
		for (u32 k = 0; k < 32; k++)
			gq_add(&w->g, w->tx, &buf, 1);
		gq_kick(&w->g, w->tx);
		w->g.heap = heap;
		driver(w, ~0ull);
	}
	dhcp_answers(state);
}

static void addresses(void **state)
{
	struct world *w = *state;

	assert_memory_equal(w->mac, "\x02\x00\x00\x00\x00\x07", 6);
	assert_int_equal(g_read(&w->g, G_CONFIG + 6, 2), VIRTIO_NET_S_LINK_UP);
	assert_int_equal(g_read(&w->g, G_CONFIG + offsetof(struct virtio_net_config, mtu), 2), NET_USER_MTU);
}

static void forwarded_port_is_open(void **state)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	char option[64];
	u16 port;
	int probe = host_socket(SOCK_STREAM, &port), fd;
	struct world *w;
	bool syn = false;

	close(probe);
	snprintf(option, sizeof(option), "user,hostfwd=tcp:%u:80", port);
	setup_with(state, option);
	w = *state;
	/* libslirp learns the guest's address from its frames. */
	dhcp_answers(state);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	a.sin_port = htons(port);
	assert_true(!connect(fd, (struct sockaddr *)&a, sizeof(a)) || errno == EINPROGRESS);
	for (u32 i = 0; i < 20 && !syn; i++) {
		const struct udp_frame *f = (const void *)w->frame;

		next_frame(w);
		answer_arp(w);
		syn = f->eth.h_proto == htons(ETH_P_IP) && f->ip.protocol == IPPROTO_TCP && f->udp.dest == htons(80);
	}
	assert_true(syn);
	close(fd);
	teardown(state);
}

static void expect_refused(const char *option, const char *says)
{
	struct err e = {0};
	struct guest g;

	g_board(&g, 1);
	if (!g_create(&g, "net", option, &e) || !strstr(e.msg, says))
		fail_msg("%s: \"%s\" does not say \"%s\"", option, e.msg, says);
	g.dev = NULL;
	g_stop(&g);
}

static void refused_options(void **state)
{
	char option[64];
	u16 port;
	int fd = host_socket(SOCK_STREAM, &port);

	listen(fd, 1);
	snprintf(option, sizeof(option), "user,hostfwd=tcp:%u:80", port);
	expect_refused(option, "cannot listen");
	close(fd);
	expect_refused("user,hostfwd=tcp:80", "HOSTPORT");
	expect_refused("user,hostfwd=sctp:80:80", "HOSTPORT");
	expect_refused("user,hostfwd=tcp:0:80", "port");
	expect_refused("user,hostfwd=tcp:70000:80", "port");
	expect_refused("user,hostfwd=tcp:nohost:80:80", "IPv4");
	expect_refused("bridge", "user");
	expect_refused("user,tap=tap0", "exclude");
	expect_refused("user,mac=01:00:00:00:00:00", "multicast");
	expect_refused("user,mac=hello", "MAC");
	expect_refused("user,mtu=10", "mtu");
	expect_refused("tap=a-name-that-is-too-long", "name");
	expect_refused("tap=nosuchtap0", "ip tuntap add");
	expect_refused("tap=tap0,hostfwd=tcp:80:80", "hostfwd");
}

static void none_makes_no_device(void **state)
{
	struct err e = {0};
	struct guest g;

	g_board(&g, 1);
	assert_int_equal(g_create(&g, "net", "none", &e), 0);
	assert_null(g.dev);
	g_stop(&g);
}

static void forwards_parse(void **state)
{
	struct hostfwd f;
	struct err e;

	assert_int_equal(hostfwd_parse(&f, "tcp:8080:80", &e), 0);
	assert_false(f.udp);
	assert_int_equal(f.host_addr, htonl(INADDR_LOOPBACK));
	assert_int_equal(f.host_port, 8080);
	assert_int_equal(f.guest_port, 80);
	assert_int_equal(hostfwd_parse(&f, "udp:0.0.0.0:53:5353", &e), 0);
	assert_true(f.udp);
	assert_int_equal(f.host_addr, 0);
	assert_int_equal(hostfwd_parse(&f, "tcp::8080-:80", &e), 0);
	assert_int_equal(f.host_addr, 0);
	assert_int_equal(f.guest_port, 80);
	assert_int_equal(hostfwd_parse(&f, "tcp:127.0.0.1:22-10.0.2.16:2222", &e), 0);
	assert_int_equal(f.guest_addr, inet_addr("10.0.2.16"));
	assert_true(hostfwd_parse(&f, "tcp:1:2:3:4:5", &e) < 0);
	assert_true(hostfwd_parse(&f, "", &e) < 0);
}

static void checksums(void **state)
{
	u8 frame[4096];

	srand(2);
	for (u32 i = 0; i < 2000; i++) {
		u32 len = 20 + (u32)rand() % 4000, start = (u32)rand() % (len - 4), offset = (u32)rand() % (len - start - 1);
		struct virtio_net_hdr_v1 h = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = (u16)start, .csum_offset = (u16)offset};
		u16 want;

		for (u32 k = 0; k < len; k++)
			frame[k] = (u8)rand();
		want = (u16)~checksum(frame + start, len - start, 0);
		assert_true(net_finish_checksum(&h, frame, len));
		assert_int_equal(frame[start + offset] << 8 | frame[start + offset + 1], want ? want : 0xffff);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(addresses),
		T(dhcp_answers),
		T(bells_ring_too),
		T(a_window_holds_four_segments),
		cmocka_unit_test(the_same_with_a_larger_mtu),
		T(segmentation_is_left_to_the_nat),
		T(offloads_need_negotiation),
		T(udp_echo),
		T(receive_restarts),
		T(wrong_frames_are_dropped),
		T(tiny_buffers_drop_frames),
		T(control_queue_answers),
		T(resets_under_traffic),
		cmocka_unit_test(forwarded_port_is_open),
		cmocka_unit_test(refused_options),
		cmocka_unit_test(none_makes_no_device),
		cmocka_unit_test(forwards_parse),
		cmocka_unit_test(checksums),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
