/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest's driver in memory: a PCI bus with one virtio device, found through ECAM and driven through its BAR, with rings built in guest
 * RAM. The event loop runs on a thread of its own, as in a VM.
 */
#pragma once

#include "hw/pci.h"
#include "virtio/device.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>

#include <cmocka.h>

#define G_RAM (64 * MiB)
#define G_HEAP 0x100000u
#define G_WAIT_NS (10 * NS_PER_SEC)
#define G_MSI_DATA 0x40u
#define G_ISR 0x1000u
#define G_CONFIG 0x2000u
#define G_NOTIFY 0x3000u

struct guest_queue {
	u16 index, size;
	u64 desc, avail, used;
	u16 next_desc, seen;
	u16 told; /* the index the device was notified of last */
};

struct guest {
	struct guest_memory mem;
	struct device_env env;
	struct device *root, *dev;
	void *console;
	pthread_t loop_thread;
	u64 cfg; /* ECAM address of the function */
	u64 bar;
	u64 heap;
	u32 msis[16]; /* atomic: messages by data - G_MSI_DATA */
	u32 line;     /* atomic: the INTx level */
	bool event_idx;
	struct guest_queue q[8];
};

static inline void g_msi(void *opaque, u64 address, u32 data)
{
	struct guest *g = opaque;

	if (data >= G_MSI_DATA && data < G_MSI_DATA + 16)
		__atomic_add_fetch(&g->msis[data - G_MSI_DATA], 1, __ATOMIC_SEQ_CST);
}

static inline void g_line(void *opaque, u32 gsi, bool level)
{
	__atomic_store_n(&((struct guest *)opaque)->line, level, __ATOMIC_SEQ_CST);
}

static inline u32 g_msis(struct guest *g, u32 vector)
{
	return __atomic_load_n(&g->msis[vector], __ATOMIC_SEQ_CST);
}

static inline void g_publish(void *opaque, const char *name, void *object)
{
}

static inline void *g_lookup(void *opaque, const char *name)
{
	struct guest *g = opaque;

	return strcmp(name, "console") ? NULL : g->console;
}

static inline void g_request(void *opaque, enum vm_request req, u32 arg)
{
}

static inline void *g_loop(void *opaque)
{
	evloop_run(opaque);
	return NULL;
}

static inline u64 g_read(struct guest *g, u64 off, u32 size)
{
	return bus_read(g->env.mmio, g->bar + off, size);
}
static inline void g_write(struct guest *g, u64 off, u32 size, u64 v)
{
	bus_write(g->env.mmio, g->bar + off, size, v);
}
static inline u32 g_cfg_read(struct guest *g, u32 off, u32 size)
{
	return (u32)bus_read(g->env.mmio, g->cfg + off, size);
}
static inline void g_cfg_write(struct guest *g, u32 off, u32 size, u32 v)
{
	bus_write(g->env.mmio, g->cfg + off, size, v);
}

static inline const struct device_class *g_class(const char *name, enum device_stage stage)
{
	const struct device_class **all;
	u32 n = device_classes(&all);

	for (u32 i = 0; i < n; i++)
		if (all[i]->stage == stage && (!name || !strcmp(all[i]->name, name)))
			return all[i];
	fail_msg("no device class %s", name ? name : "of that stage");
	return NULL;
}

static inline u32 g_find_cap(struct guest *g, u8 id, u8 type)
{
	for (u32 at = g_cfg_read(g, PCI_CAPABILITY_LIST, 1); at; at = g_cfg_read(g, at + 1, 1))
		if (g_cfg_read(g, at, 1) == id && (id != PCI_CAP_ID_VNDR || g_cfg_read(g, at + 3, 1) == type))
			return at;
	return 0;
}

/* The BAR that a capability points at, below 4 GiB or above. */
static inline u64 g_bar(struct guest *g, u32 i)
{
	u32 low = g_cfg_read(g, PCI_BASE_ADDRESS_0 + 4 * i, 4);

	return (low & ~15u) | ((low & 6) == 4 ? (u64)g_cfg_read(g, PCI_BASE_ADDRESS_0 + 4 * i + 4, 4) << 32 : 0);
}

static inline void g_find_function(struct guest *g)
{
	for (u32 slot = 0; slot < 32; slot++) {
		g->cfg = PCI_ECAM_BASE + slot * 8ull * PCI_CFG_SIZE;
		if (g_cfg_read(g, PCI_VENDOR_ID, 2) == 0x1af4)
			break;
	}
	assert_int_equal(g_cfg_read(g, PCI_VENDOR_ID, 2), 0x1af4);
	g_cfg_write(g, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	g->bar = g_bar(g, g_cfg_read(g, g_find_cap(g, PCI_CAP_ID_VNDR, VIRTIO_PCI_CAP_COMMON_CFG) + 4, 1));
	assert_true(g->bar != 0);
}

/* Vector v sends a message with data G_MSI_DATA + v. */
static inline void g_enable_msix(struct guest *g)
{
	u32 cap = g_find_cap(g, PCI_CAP_ID_MSIX, 0), where = g_cfg_read(g, cap + PCI_MSIX_TABLE, 4);
	u64 table = g_bar(g, where & 7) + (where & ~7u);
	u32 n = (g_cfg_read(g, cap + PCI_MSIX_FLAGS, 2) & PCI_MSIX_FLAGS_QSIZE) + 1;

	for (u32 i = 0; i < n; i++) {
		bus_write(g->env.mmio, table + 16 * i, 4, 0xfee00000);
		bus_write(g->env.mmio, table + 16 * i + 4, 4, 0);
		bus_write(g->env.mmio, table + 16 * i + 8, 4, G_MSI_DATA + i);
		bus_write(g->env.mmio, table + 16 * i + 12, 4, 0);
	}
	g_cfg_write(g, cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
}

static inline void g_board(struct guest *g, u32 ncpus)
{
	struct irq_sink sink = {g, g_line, g_msi};
	struct err e = {0};

	memset(g, 0, sizeof(*g));
	if (gm_create(&g->mem, G_RAM, &e) || evloop_new(&g->env.loop, &e) || bus_new(&g->env.pio, "ports", 0x10000, &e) ||
	    bus_new(&g->env.mmio, "memory", 1ull << 40, &e))
		fail_msg("%s", e.msg);
	g->env.mem = &g->mem;
	g->env.clock = calloc(1, sizeof(*g->env.clock));
	vclock_init(g->env.clock);
	g->env.irq = irq_router_new();
	irq_router_set_sink(g->env.irq, &sink);
	g->env.ncpus = ncpus;
	g->env.tsc_hz = NS_PER_SEC;
	g->env.vm_name = "test";
	g->env.request = g_request;
	g->env.publish = g_publish;
	g->env.lookup = g_lookup;
	g->env.request_opaque = g->env.registry_opaque = g;
	g->heap = G_HEAP;
	if (g_class(NULL, STAGE_PCI_ROOT)->create(&g->env, NULL, &g->root, &e))
		fail_msg("%s", e.msg);
}

/* Create the device; on failure the message is in *e. */
static inline int g_create(struct guest *g, const char *name, const char *option, struct err *e)
{
	const struct device_class *cls = g_class(name, STAGE_PCI);
	struct opts o = {0};
	int r = cls->keys ? opts_parse(&o, name, cls->keys, option, e) : 0;

	if (!r)
		r = cls->create(&g->env, cls->keys ? &o : NULL, &g->dev, e);
	if (cls->keys)
		opts_free(&o);
	return r;
}

static inline void g_power_up(struct guest *g)
{
	g_find_function(g);
	g_enable_msix(g);
	assert_int_equal(pthread_create(&g->loop_thread, NULL, g_loop, g->env.loop), 0);
}

static inline void g_start(struct guest *g, const char *name, const char *option)
{
	struct err e = {0};

	if (g_create(g, name, option, &e))
		fail_msg("%s", e.msg);
	g_power_up(g);
}

static inline void g_stop(struct guest *g)
{
	if (g->loop_thread) {
		evloop_stop(g->env.loop);
		pthread_join(g->loop_thread, NULL);
	}
	if (g->dev)
		g->dev->cls->destroy(g->dev);
	g->root->cls->destroy(g->root);
	evloop_free(g->env.loop);
	bus_free(g->env.pio);
	bus_free(g->env.mmio);
	irq_router_free(g->env.irq);
	gm_destroy(&g->mem);
	free(g->env.clock);
}

static inline u8 g_status(struct guest *g)
{
	return (u8)g_read(g, VIRTIO_PCI_COMMON_STATUS, 1);
}
static inline void g_set_status(struct guest *g, u8 bits)
{
	g_write(g, VIRTIO_PCI_COMMON_STATUS, 1, g_status(g) | bits);
}

static inline void g_nap(void)
{
	struct timespec t = {0, 200000};

	nanosleep(&t, NULL);
}

/* Reset and wait as the specification tells drivers to. */
static inline void g_reset(struct guest *g)
{
	u64 end = host_now_ns() + G_WAIT_NS;

	g_write(g, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	while (g_status(g)) {
		if (host_now_ns() > end)
			fail_msg("the reset does not end");
		g_nap();
	}
}

static inline u64 g_offered(struct guest *g)
{
	u64 f;

	g_write(g, VIRTIO_PCI_COMMON_DFSELECT, 4, 0);
	f = g_read(g, VIRTIO_PCI_COMMON_DF, 4);
	g_write(g, VIRTIO_PCI_COMMON_DFSELECT, 4, 1);
	return f | g_read(g, VIRTIO_PCI_COMMON_DF, 4) << 32;
}

static inline void g_accept(struct guest *g, u64 f)
{
	g_write(g, VIRTIO_PCI_COMMON_GFSELECT, 4, 0);
	g_write(g, VIRTIO_PCI_COMMON_GF, 4, (u32)f);
	g_write(g, VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
	g_write(g, VIRTIO_PCI_COMMON_GF, 4, f >> 32);
}

/* Up to FEATURES_OK, taking `mask` of what is offered. */
static inline void g_negotiate(struct guest *g, u64 mask)
{
	g_reset(g);
	g_set_status(g, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	g_set_status(g, VIRTIO_CONFIG_S_DRIVER);
	g_accept(g, (g_offered(g) & mask) | VIRTIO_BIT(VIRTIO_F_VERSION_1));
	g->event_idx = mask & VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX);
	g_set_status(g, VIRTIO_CONFIG_S_FEATURES_OK);
	assert_true(g_status(g) & VIRTIO_CONFIG_S_FEATURES_OK);
}

static inline u64 g_alloc(struct guest *g, u64 size)
{
	u64 at = g->heap;

	g->heap = (g->heap + size + 4095) & ~4095ull;
	assert_true(g->heap <= G_RAM);
	memset(g->mem.map + at, 0, size);
	return at;
}
static inline void *g_ptr(struct guest *g, u64 gpa)
{
	return g->mem.map + gpa;
}

static inline void g_set_address(struct guest *g, u32 reg, u64 gpa)
{
	g_write(g, reg, 4, (u32)gpa);
	g_write(g, reg + 4, 4, gpa >> 32);
}

static inline struct guest_queue *g_queue(struct guest *g, u16 index, u16 size)
{
	struct guest_queue *q = &g->q[index];

	*q = (struct guest_queue){index, size, g_alloc(g, 16ull * size), g_alloc(g, 6 + 2ull * size), g_alloc(g, 6 + 8ull * size), 0, 0, 0};
	g_write(g, VIRTIO_PCI_COMMON_Q_SELECT, 2, index);
	g_write(g, VIRTIO_PCI_COMMON_Q_SIZE, 2, size);
	g_write(g, VIRTIO_PCI_COMMON_Q_MSIX, 2, index + 1u);
	assert_int_equal(g_read(g, VIRTIO_PCI_COMMON_Q_MSIX, 2), index + 1u);
	g_set_address(g, VIRTIO_PCI_COMMON_Q_DESCLO, q->desc);
	g_set_address(g, VIRTIO_PCI_COMMON_Q_AVAILLO, q->avail);
	g_set_address(g, VIRTIO_PCI_COMMON_Q_USEDLO, q->used);
	g_write(g, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	return q;
}

static inline void g_driver_ok(struct guest *g)
{
	g_write(g, VIRTIO_PCI_COMMON_MSIX, 2, 0);
	g_set_status(g, VIRTIO_CONFIG_S_DRIVER_OK);
	assert_true(g_status(g) & VIRTIO_CONFIG_S_DRIVER_OK);
}

static inline struct vring_desc *gq_desc(struct guest *g, struct guest_queue *q)
{
	return g_ptr(g, q->desc);
}
static inline struct vring_avail *gq_avail(struct guest *g, struct guest_queue *q)
{
	return g_ptr(g, q->avail);
}
static inline struct vring_used *gq_used(struct guest *g, struct guest_queue *q)
{
	return g_ptr(g, q->used);
}

struct guest_buf {
	u64 gpa;
	u32 len;
	bool write;
};

/* Describe a chain and put it on the ring; returns its head. */
static inline u16 gq_add(struct guest *g, struct guest_queue *q, const struct guest_buf *buf, u32 n)
{
	struct vring_avail *avail = gq_avail(g, q);
	u16 head = (u16)(q->next_desc % q->size);

	for (u32 i = 0; i < n; i++) {
		struct vring_desc *d = &gq_desc(g, q)[q->next_desc++ % q->size];
		bool last = i + 1 == n;

		*d = (struct vring_desc){buf[i].gpa, buf[i].len,
					 (u16)((buf[i].write ? VRING_DESC_F_WRITE : 0) | (last ? 0 : VRING_DESC_F_NEXT)),
					 (u16)(last ? 0 : q->next_desc % q->size)};
	}
	avail->ring[avail->idx % q->size] = head;
	__atomic_store_n(&avail->idx, (u16)(avail->idx + 1), __ATOMIC_RELEASE);
	return head;
}

static inline void gq_force_kick(struct guest *g, struct guest_queue *q)
{
	g_write(g, G_NOTIFY + 4u * q->index, 2, q->index);
}

/* Ring the doorbell if the device wants it, as drivers do (virtio 1.1, 2.6.10). */
static inline void gq_kick(struct guest *g, struct guest_queue *q)
{
	u16 now = gq_avail(g, q)->idx, old = q->told, event;

	q->told = now;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	event = __atomic_load_n((u16 *)&gq_used(g, q)->ring[q->size], __ATOMIC_RELAXED);
	if (g->event_idx ? (u16)(now - event - 1) < (u16)(now - old) : !(gq_used(g, q)->flags & VRING_USED_F_NO_NOTIFY))
		gq_force_kick(g, q);
}

static inline bool gq_done(struct guest *g, struct guest_queue *q)
{
	return __atomic_load_n(&gq_used(g, q)->idx, __ATOMIC_ACQUIRE) != q->seen;
}

/* The next used entry, waiting for it. */
static inline struct vring_used_elem gq_wait(struct guest *g, struct guest_queue *q)
{
	u64 end = host_now_ns() + G_WAIT_NS;

	while (!gq_done(g, q)) {
		if (host_now_ns() > end)
			fail_msg("queue %u: no answer (status 0x%x)", q->index, g_status(g));
		g_nap();
	}
	return gq_used(g, q)->ring[q->seen++ % q->size];
}

static inline void g_wait_status(struct guest *g, u8 bit)
{
	u64 end = host_now_ns() + G_WAIT_NS;

	while (!(g_status(g) & bit)) {
		if (host_now_ns() > end)
			fail_msg("status 0x%x never shows 0x%x", g_status(g), bit);
		g_nap();
	}
}
