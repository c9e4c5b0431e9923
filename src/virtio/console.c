/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio console (virtio 1.1, 5.3): one port, console size, emergency write. It shares the host's console with the UART: output of both
 * goes there; input comes here once the guest has both written to this console and given it receive buffers, and goes back to the UART
 * when the device is reset.
 *
 * Threading: output is written on the notifying vCPU's thread, and the guest may be told of that later, on the event loop; everything about input
 * happens on the event loop.
 */
#include "char/char.h"
#include "virtio/device.h"

#include <errno.h>
#include <linux/virtio_console.h>
#include <stdlib.h>
#include <string.h>

#define RX 0
#define TX 1
#define CONSOLE_QUEUE_SIZE 128
#define CONSOLE_TX_BATCH 32
#define CONSOLE_TX_MAX (1u << 20) /* bytes of one request that are written; no terminal needs more at once */
#define CONSOLE_RX_MAX 4096
#define TX_QUIET_NS 100000

struct virtio_console {
	struct virtio_device vd;
	struct char_backend *chr;
	struct char_events events;
	struct virtio_console_config config;
	struct virtio_work tx_work, rx_work;
	struct log_limit tx_log;
	bool wrote;   /* atomic: since the last reset */
	bool reading; /* event loop only */

	/* Under the output queue's lock. */
	struct evtimer tx_quiet;
	bool tx_untold; /* the timer runs */
	u16 tx_seen;	/* how much had been written when it was armed */
};

static struct virtio_console *of(struct virtio_device *vd)
{
	return container_of(vd, struct virtio_console, vd);
}

static bool wrote(const struct virtio_console *con)
{
	return __atomic_load_n(&con->wrote, __ATOMIC_SEQ_CST);
}

/* ---- output ---- */

static void tx_write(struct virtio_console *con, const struct vq_request *r)
{
	size_t left = r->read_len < CONSOLE_TX_MAX ? r->read_len : CONSOLE_TX_MAX;

	if (left < r->read_len)
		log_limited(&con->tx_log, LOG_WARN, "virtio-console: the guest wrote %u bytes at once; only the first %zu are shown",
			    r->read_len, left);
	for (u32 i = 0; i < r->nread && left; i++) {
		size_t n = r->read[i].iov_len < left ? r->read[i].iov_len : left;

		char_write(con->chr, r->read[i].iov_base, n);
		left -= n;
	}
}

/* Linux waits for each of its writes by looking at the queue and asks for an interrupt as well. Interrupts that find nothing left to do are counted: at
 * 100,000 of them it switches the line off ("nobody cared"). So it is told only when it has not looked by itself, and has written nothing more, for a
 * while. Without EVENT_IDX it does not say that it has looked. */
static void tx_tell(struct virtio_console *con)
{
	struct virtqueue *q = &con->vd.queue[TX];

	if (!vq_show(q) || !q->event_idx) {
		vq_tell(q);
	} else if (!con->tx_untold) {
		con->tx_untold = true;
		con->tx_seen = q->used_idx;
		timer_arm(&con->tx_quiet, host_now_ns() + TX_QUIET_NS);
	}
}

static void tx_is_quiet(void *opaque)
{
	struct virtio_console *con = opaque;
	struct virtqueue *q = &con->vd.queue[TX];

	pthread_mutex_lock(&q->lock);
	con->tx_untold = false;
	if (con->tx_seen == q->used_idx)
		vq_tell(q);
	else
		tx_tell(con);
	pthread_mutex_unlock(&q->lock);
}

static bool tx_serve(struct virtio_console *con)
{
	struct virtqueue *q = &con->vd.queue[TX];
	struct vq_request *r;
	bool more;

	pthread_mutex_lock(&q->lock);
	for (u32 n = 0; n < CONSOLE_TX_BATCH && (r = vq_pop(q)); n++) {
		/* Only data counts: Linux notifies this queue once at start without any. */
		if (r->read_len)
			__atomic_store_n(&con->wrote, true, __ATOMIC_SEQ_CST);
		tx_write(con, r);
		vq_push(r, 0);
	}
	tx_tell(con);
	more = vq_notify_on(q);
	pthread_mutex_unlock(&q->lock);
	return more;
}

static void tx_again(struct virtio_device *vd)
{
	if (tx_serve(of(vd)))
		virtio_work_post(&of(vd)->tx_work);
}

/* ---- input ---- */

static size_t console_can_input(void *opaque)
{
	struct virtio_console *con = opaque;
	struct virtqueue *q = &con->vd.queue[RX];
	struct vq_request *r;
	size_t room = 0;

	pthread_mutex_lock(&q->lock);
	if (virtio_running(&con->vd) && (vq_ready(q) || vq_notify_on(q)) && (r = vq_pop(q))) {
		room = r->write_len < CONSOLE_RX_MAX ? r->write_len : CONSOLE_RX_MAX;
		vq_unpop(r);
	}
	pthread_mutex_unlock(&q->lock);
	return room;
}

static void console_input(void *opaque, const u8 *bytes, size_t n)
{
	struct virtio_console *con = opaque;
	struct virtqueue *q = &con->vd.queue[RX];
	struct vq_request *r;

	pthread_mutex_lock(&q->lock);
	while (n && virtio_running(&con->vd) && (r = vq_pop(q))) {
		size_t done = iov_write(r->write, r->nwrite, 0, bytes, n);

		vq_push(r, (u32)done);
		bytes += done;
		n -= done;
	}
	vq_flush(q);
	pthread_mutex_unlock(&q->lock);
}

static bool rx_has_buffers(struct virtio_console *con)
{
	struct virtqueue *q = &con->vd.queue[RX];
	bool ready;

	pthread_mutex_lock(&q->lock);
	ready = vq_ready(q) != 0;
	pthread_mutex_unlock(&q->lock);
	return ready;
}

static void take_size(struct virtio_console *con)
{
	u16 cols, rows;

	if (!char_get_size(con->chr, &cols, &rows))
		return;
	pthread_mutex_lock(&con->vd.lock);
	con->config.cols = cols;
	con->config.rows = rows;
	pthread_mutex_unlock(&con->vd.lock);
	virtio_config_changed(&con->vd);
}

static void console_resize(void *opaque, u16 cols, u16 rows)
{
	take_size(opaque);
}

/* The guest added receive buffers, or wrote for the first time. */
static void rx_changed(struct virtio_device *vd)
{
	struct virtio_console *con = of(vd);

	if (con->reading) {
		char_can_input_changed(con->chr);
	} else if (wrote(con) && rx_has_buffers(con)) {
		con->reading = true;
		char_set_reader(con->chr, &con->events);
		take_size(con);
	}
}

static void release_reader(void *opaque)
{
	struct virtio_console *con = opaque;

	if (con->reading && !wrote(con)) {
		con->reading = false;
		char_drop_reader(con->chr, &con->events);
	}
}

/* ---- device ---- */

static void console_notify(struct virtio_device *vd, u16 queue)
{
	struct virtio_console *con = of(vd);

	if (queue == TX) {
		bool before = wrote(con);

		tx_again(vd);
		if (before || !wrote(con))
			return;
	}
	virtio_work_post(&con->rx_work);
}

/* The emergency write register is the only writable one (virtio 1.1, 5.3.4). */
static void console_config_written(struct virtio_device *vd, u32 off, u32 len, const u8 *old)
{
	struct virtio_console *con = of(vd);
	u8 byte = vd->config[off];

	memcpy(vd->config + off, old, len);
	if (off == offsetof(struct virtio_console_config, emerg_wr))
		char_write(con->chr, &byte, 1);
}

static void console_reset(struct virtio_device *vd)
{
	struct virtio_console *con = of(vd);

	__atomic_store_n(&con->wrote, false, __ATOMIC_SEQ_CST);
	evloop_post(vd->dev.env->loop, release_reader, con);
	virtio_reset_done(vd);
}

static const struct virtio_ops console_ops = {
	.name = "virtio-console",
	.id = VIRTIO_ID_CONSOLE,
	.pci_class = 0x07, /* communication controller, other */
	.pci_subclass = 0x80,
	.notify = console_notify,
	.config_written = console_config_written,
	.reset = console_reset,
};

static const struct device_class console_class;

static int console_create(struct device_env *env, const struct opts *opts, struct device **out, struct err *e)
{
	struct char_backend *chr = env->lookup(env->registry_opaque, "console");
	struct virtio_console *con = calloc(1, sizeof(*con));
	struct virtio_setup setup = {.ops = &console_ops,
				     .cls = &console_class,
				     .features = VIRTIO_BIT(VIRTIO_CONSOLE_F_SIZE) | VIRTIO_BIT(VIRTIO_CONSOLE_F_EMERG_WRITE),
				     .nqueues = 2,
				     .queue_size = CONSOLE_QUEUE_SIZE};
	u16 cols = 0, rows = 0;
	int r;

	if (!con || !chr) {
		free(con);
		return err_set(e, chr ? ENOMEM : ENODEV, "virtio-console: %s", chr ? "out of memory" : "the machine has no console");
	}
	con->chr = chr;
	con->events = (struct char_events){con, console_input, console_can_input, console_resize};
	timer_init(&con->tx_quiet, env->loop, tx_is_quiet, con);
	virtio_work_init(&con->tx_work, &con->vd, tx_again);
	virtio_work_init(&con->rx_work, &con->vd, rx_changed);
	if (char_get_size(con->chr, &cols, &rows)) {
		con->config.cols = cols;
		con->config.rows = rows;
	}
	setup.config = &con->config;
	setup.config_len = sizeof(con->config);
	r = virtio_init(&con->vd, env, &setup, e);
	if (r) {
		free(con);
		return r;
	}
	*out = &con->vd.dev;
	return 0;
}

static void console_destroy(struct device *d)
{
	struct virtio_console *con = container_of(d, struct virtio_console, vd.dev);

	timer_disarm(&con->tx_quiet);
	virtio_fini(&con->vd);
	char_drop_reader(con->chr, &con->events);
	free(con);
}

static const struct field console_fields[] = {
	VIRTIO_FIELDS(struct virtio_console),
	FIELD(struct virtio_console, wrote, FIELD_BOOL),
};

static const struct device_class console_class = {
	.name = "vconsole",
	.stage = STAGE_PCI,
	.summary = "virtio console, hvc0 in Linux",
	.version = 1,
	.create = console_create,
	.reset = virtio_class_reset,
	.destroy = console_destroy,
	.loaded = virtio_class_loaded,
	.fields = console_fields,
	.nfields = ARRAY_SIZE(console_fields),
};
DEVICE_REGISTER(console_class);
