/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzing a virtio device through its PCI function: the input is a program of a hostile driver, which writes registers, configuration space
 * and guest RAM, rings doorbells and lets the event loop turn. Built once a device: FUZZ_DEVICE names its class, FUZZ_QUEUES says how many queues.
 *
 * The program runs in a network namespace of its own, so that no frame of a fuzzer leaves the host.
 */
#include "../unit/virtio_guest.h"
#include "char/char.h"

#include "input.h"

#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define OPS_MAX 256
#define QUEUES FUZZ_QUEUES
#define RING_BASE 0x10000u
#define RING_STEP 0x4000u /* descriptors, then 0x1000 on the available ring, 0x2000 the used ring, 0x3000 an indirect table */
#define DATA 0x40000u

static char disk[64];

static void stop_loop(void *opaque)
{
	evloop_stop(opaque);
}

static void run_loop(struct guest *g)
{
	evloop_post(g->env.loop, stop_loop, g->env.loop);
	evloop_run(g->env.loop);
}

static u64 ring(u32 queue)
{
	return RING_BASE + queue * RING_STEP;
}

/* All that a driver does up to DRIVER_OK, with the features and queue sizes of the input. */
static void set_up(struct guest *g, struct input *in)
{
	u64 mask = take(in, 8);
	u8 sizes = (u8)take(in, 1);

	g_set_status(g, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	g_accept(g, (g_offered(g) & mask) | VIRTIO_BIT(VIRTIO_F_VERSION_1));
	g_set_status(g, VIRTIO_CONFIG_S_FEATURES_OK);
	for (u16 i = 0; i < QUEUES; i++) {
		g_write(g, VIRTIO_PCI_COMMON_Q_SELECT, 2, i);
		g_write(g, VIRTIO_PCI_COMMON_Q_SIZE, 2, 1u << (sizes & 7));
		g_write(g, VIRTIO_PCI_COMMON_Q_MSIX, 2, i);
		g_set_address(g, VIRTIO_PCI_COMMON_Q_DESCLO, ring(i));
		g_set_address(g, VIRTIO_PCI_COMMON_Q_AVAILLO, ring(i) + 0x1000);
		g_set_address(g, VIRTIO_PCI_COMMON_Q_USEDLO, ring(i) + 0x2000);
		g_write(g, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	}
	g_set_status(g, VIRTIO_CONFIG_S_DRIVER_OK);
}

static void put_descriptor(struct guest *g, struct input *in, u8 arg)
{
	struct vring_desc *d = g_ptr(g, ring(arg % QUEUES) + (arg & 4 ? 0x3000 : 0));
	u8 i = (u8)take(in, 1), flags = (u8)take(in, 1);
	u64 addr = flags & 0x80 ? take(in, 8) : flags & VRING_DESC_F_INDIRECT ? ring(arg % QUEUES) + 0x3000 : DATA + take(in, 1) * 512;

	d[i % 128] = (struct vring_desc){addr, (u32)take(in, flags & 0x40 ? 4 : 2), flags & 7, (u16)take(in, 1)};
}

static void offer(struct guest *g, struct input *in, u8 arg)
{
	struct vring_avail *a = g_ptr(g, ring(arg % QUEUES) + 0x1000);

	for (u32 n = 1 + (arg >> 2); n; n--) {
		a->ring[a->idx % 128] = (u16)take(in, 1);
		a->idx++;
	}
}

static void poke_ram(struct guest *g, struct input *in)
{
	u64 at = RING_BASE + take(in, 3) % 0x80000;

	take_bytes(in, g->mem.map + at, (u32)take(in, 1));
}

static void write_bar(struct guest *g, struct input *in, u8 arg)
{
	u32 size = access_size(arg, 8);
	u64 off = arg & 4 ? take(in, 2) & 0x3fff : arg & 8 ? G_CONFIG + (take(in, 1) & 0x3f) : take(in, 1) & 0x3f;

	g_write(g, off, size, take(in, size));
	(void)g_read(g, off, size);
}

static void write_config(struct guest *g, struct input *in, u8 arg)
{
	u32 size = access_size(arg, 4), off = (u32)take(in, 2) & (PCI_CFG_SIZE - 1);

	g_cfg_write(g, off, size, (u32)take(in, size));
	(void)g_cfg_read(g, off, size);
}

static void operate(struct guest *g, struct input *in)
{
	u8 op = (u8)take(in, 1), arg = op >> 4;

	switch (op & 15) {
	case 0:
		set_up(g, in);
		break;
	case 1 ... 4:
		put_descriptor(g, in, arg);
		break;
	case 5:
	case 6:
		offer(g, in, arg);
		break;
	case 7:
	case 8:
		poke_ram(g, in);
		break;
	case 9:
	case 10:
		g_write(g, G_NOTIFY + 4u * (arg & 7), 2, arg & 7);
		break;
	case 11:
		run_loop(g);
		break;
	case 12:
		write_bar(g, in, arg);
		break;
	case 13:
		write_config(g, in, arg);
		break;
	case 14:
		g_write(g, VIRTIO_PCI_COMMON_STATUS, 1, arg & 1 ? take(in, 1) : 0);
		break;
	case 15:
		if (arg == 15)
			g->dev->cls->reset(g->dev);
		break;
	}
}

/* The whole path a frame or a request may take: doorbells, the loop, I/O threads, the loop again. */
static void settle(struct guest *g)
{
	for (u32 i = 0; i < QUEUES; i++)
		g_write(g, G_NOTIFY + 4u * i, 2, i);
	for (u32 i = 0; i < 3; i++)
		run_loop(g);
}

static const char *device_option(void)
{
	if (strcmp(FUZZ_DEVICE, "blk") == 0)
		return disk;
	return strcmp(FUZZ_DEVICE, "vballoon") == 0 ? "stats=1" : "user";
}

/* The machine that virtio_guest.h makes, without its thread for the loop. */
static void build(struct guest *g)
{
	struct err e = {0};

	g_board(g, 2);
	if (strcmp(FUZZ_DEVICE, "vconsole") == 0) {
		struct char_backend *chr = NULL;

		if (char_open(&chr, g->env.loop, "null", NULL, NULL, &e) < 0)
			fail_msg("%s", e.msg);
		g->console = chr;
	}
	if (g_create(g, FUZZ_DEVICE, device_option(), &e) < 0)
		fail_msg("%s", e.msg);
	g_find_function(g);
	g_enable_msix(g);
}

/* Not g_stop: the console goes between the device and the loop. */
static void tear_down(struct guest *g)
{
	g->dev->cls->destroy(g->dev);
	char_close(g->console);
	g->dev = NULL;
	g_stop(g);
}

/* Nothing but a loopback is left, where the NAT's connections are refused. */
static void leave_network(void)
{
	struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int s;

	if (unshare(CLONE_NEWNET) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0) {
		if (strcmp(FUZZ_DEVICE, "net"))
			return;
		fprintf(stderr, "fuzz_virtio_net: this host grants no network namespace; run it as root\n");
		exit(77); /* for Meson: skipped */
	}
	s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (s < 0 || ioctl(s, SIOCSIFFLAGS, &lo) < 0)
		fprintf(stderr, "fuzz_virtio: no loopback: %s\n", strerror(errno));
	if (s >= 0)
		close(s);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	int fd = memfd_create("disk", 0);

	log_set_level(LOG_ERROR);
	leave_network();
	if (fd < 0 || ftruncate(fd, 1 * MiB) < 0)
		abort();
	snprintf(disk, sizeof(disk), "/proc/self/fd/%d,io=threads", fd);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = input_of(data, size);
	static struct guest g;

	build(&g);
	for (u32 n = 0; n < OPS_MAX && input_left(&in); n++)
		operate(&g, &in);
	settle(&g);
	tear_down(&g);
	return 0;
}
