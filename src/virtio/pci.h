/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio over PCI, modern interface only (virtio 1.1, 4.1): one memory BAR with common configuration, ISR, device configuration and one
 * doorbell a queue; MSI-X in a BAR of its own; INTx; and the configuration access window in config space.
 *
 * Threading: registers from any vCPU thread, under the device's lock; doorbells without any lock.
 */
#pragma once

#include "hw/irq.h"
#include "hw/pci.h"

#include <pthread.h>

#define VIRTIO_MAX_QUEUES 8

struct virtio_device;
struct virtqueue;

/* Doorbells that may ring on the event loop, by an eventfd that an engine takes the guest's write for. */
struct virtio_bell {
	struct virtio_device *vd;
	u16 queue;
	int fd;
};

struct virtio_pci {
	struct pci_func *func;
	struct virtio_bell bell[VIRTIO_MAX_QUEUES];
	struct bus_bell place[VIRTIO_MAX_QUEUES]; /* of each in the BAR */
	u32 nbells;
	pthread_mutex_t irq_lock; /* isr and the INTx level change together */
	u8 window_cap;		  /* where the configuration access capability is */
	/* Saved. */
	u32 feature_select, driver_feature_select;
	u16 queue_select;
	u16 config_vector;
	u8 isr;
	u8 window_bar;
	u32 window_off, window_len;
};

/* bells.c: main thread */
int virtio_bells_hang(struct virtio_device *vd, u32 off, u32 step,
		      struct err *e) must_check; /* the first queue's doorbell is at `off` in the BAR */
void virtio_bells_take_down(struct virtio_device *vd);

int virtio_pci_plug(struct virtio_device *vd, struct err *e) must_check;
void virtio_pci_unplug(struct virtio_device *vd);
/* The registers that a device reset clears (virtio 1.1, 4.1.4.3). vd->lock held. */
void virtio_pci_reset(struct virtio_device *vd);
/* PCI-level power-on state: BARs, command register, MSI-X. */
void virtio_pci_power_on(struct virtio_device *vd);

/* Any thread, with or without a queue's lock. */
void virtio_pci_queue_irq(struct virtio_device *vd, const struct virtqueue *q);
void virtio_pci_config_irq(struct virtio_device *vd);
