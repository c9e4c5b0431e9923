/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The modern virtio PCI transport. See pci.h. Registers are a table: offset, width, get, set; an access of another width or place reads
 * zero and writes nothing, as the specification asks the driver for natural widths only (virtio 1.1, 4.1.3.1).
 */
#include "virtio/pci.h"

#include "virtio/device.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>
#include <string.h>

#define VIRTIO_BAR 0
#define MSIX_BAR 2
#define BAR_SIZE 0x4000
#define REGION_SIZE 0x1000
#define COMMON_OFF 0x0000
#define ISR_OFF 0x1000
#define DEVICE_OFF 0x2000
#define NOTIFY_OFF 0x3000
#define NOTIFY_STEP 4

#define VIRTIO_VENDOR 0x1af4
#define VIRTIO_DEVICE_BASE 0x1040
#define VIRTIO_REVISION 1

#define ISR_QUEUE 1
#define ISR_CONFIG 2

static struct virtqueue *selected(struct virtio_device *vd)
{
	return vd->pci.queue_select < vd->nqueues ? &vd->queue[vd->pci.queue_select] : NULL;
}

/* The queue the driver may still configure: selected, there, and not enabled yet. */
static struct virtqueue *configurable(struct virtio_device *vd)
{
	struct virtqueue *q = selected(vd);

	return q && !q->enabled ? q : NULL;
}

/* A vector that does not exist reads back as "none": so the driver learns that it was refused (virtio 1.1, 4.1.5.1.2). */
static u16 checked_vector(const struct virtio_device *vd, u32 v)
{
	return v <= vd->nqueues ? (u16)v : VQ_NO_VECTOR;
}

static void set_half(u64 *field, u32 half, u32 v)
{
	u64 mask = 0xffffffffull << (32 * half);

	*field = (*field & ~mask) | (u64)v << (32 * half);
}

static u32 get_feature_select(struct virtio_device *vd)
{
	return vd->pci.feature_select;
}
static void set_feature_select(struct virtio_device *vd, u32 v)
{
	vd->pci.feature_select = v;
}
static u32 get_feature(struct virtio_device *vd)
{
	return vd->pci.feature_select < 2 ? (u32)(vd->offered >> (32 * vd->pci.feature_select)) : 0;
}
static u32 get_driver_feature_select(struct virtio_device *vd)
{
	return vd->pci.driver_feature_select;
}
static void set_driver_feature_select(struct virtio_device *vd, u32 v)
{
	vd->pci.driver_feature_select = v;
}
static u32 get_driver_feature(struct virtio_device *vd)
{
	return vd->pci.driver_feature_select < 2 ? (u32)(vd->accepted >> (32 * vd->pci.driver_feature_select)) : 0;
}
static void set_driver_feature(struct virtio_device *vd, u32 v)
{
	if (vd->pci.driver_feature_select < 2)
		virtio_set_accepted(vd, vd->pci.driver_feature_select, v);
}
static u32 get_config_vector(struct virtio_device *vd)
{
	return vd->pci.config_vector;
}
static void set_config_vector(struct virtio_device *vd, u32 v)
{
	vd->pci.config_vector = checked_vector(vd, v);
}
static u32 get_num_queues(struct virtio_device *vd)
{
	return vd->nqueues;
}
static u32 get_status(struct virtio_device *vd)
{
	return virtio_get_status(vd);
}
static u32 get_generation(struct virtio_device *vd)
{
	return vd->generation;
}
static u32 get_queue_select(struct virtio_device *vd)
{
	return vd->pci.queue_select;
}
static void set_queue_select(struct virtio_device *vd, u32 v)
{
	vd->pci.queue_select = (u16)v;
}

/* A queue that is not there has size 0 (virtio 1.1, 4.1.4.3.1). */
static u32 get_queue_size(struct virtio_device *vd)
{
	struct virtqueue *q = selected(vd);

	return q ? q->size : 0;
}
static void set_queue_size(struct virtio_device *vd, u32 v)
{
	struct virtqueue *q = configurable(vd);

	if (q)
		q->size = (u16)v;
}
static u32 get_queue_vector(struct virtio_device *vd)
{
	struct virtqueue *q = selected(vd);

	return q ? q->vector : VQ_NO_VECTOR;
}
static void set_queue_vector(struct virtio_device *vd, u32 v)
{
	struct virtqueue *q = selected(vd);

	if (q)
		__atomic_store_n(&q->vector, checked_vector(vd, v), __ATOMIC_RELAXED);
}
static u32 get_queue_enable(struct virtio_device *vd)
{
	struct virtqueue *q = selected(vd);

	return q && q->enabled;
}
static void set_queue_enable(struct virtio_device *vd, u32 v)
{
	struct virtqueue *q = selected(vd);

	if (q && v == 1)
		virtio_enable_queue(vd, q);
}
static u32 get_notify_off(struct virtio_device *vd)
{
	return vd->pci.queue_select;
}

/* The three ring addresses, each in two halves. */
#define RING_ADDRESS(name_, half_)                                                                                                         \
	static u32 get_##name_##half_(struct virtio_device *vd)                                                                            \
	{                                                                                                                                  \
		struct virtqueue *q = selected(vd);                                                                                        \
		return q ? (u32)(q->name_##_gpa >> (32 * half_)) : 0;                                                                      \
	}                                                                                                                                  \
	static void set_##name_##half_(struct virtio_device *vd, u32 v)                                                                    \
	{                                                                                                                                  \
		struct virtqueue *q = configurable(vd);                                                                                    \
		if (q)                                                                                                                     \
			set_half(&q->name_##_gpa, half_, v);                                                                               \
	}
RING_ADDRESS(desc, 0)
RING_ADDRESS(desc, 1)
RING_ADDRESS(avail, 0)
RING_ADDRESS(avail, 1)
RING_ADDRESS(used, 0)
RING_ADDRESS(used, 1)

struct common_reg {
	u8 off, size;
	u32 (*get)(struct virtio_device *vd);
	void (*set)(struct virtio_device *vd, u32 v); /* NULL: read-only */
};

/* virtio 1.1, 4.1.4.3. The status is not here: writing it may call out of the lock. */
static const struct common_reg common_regs[] = {
	{VIRTIO_PCI_COMMON_DFSELECT, 4, get_feature_select, set_feature_select},
	{VIRTIO_PCI_COMMON_DF, 4, get_feature, NULL},
	{VIRTIO_PCI_COMMON_GFSELECT, 4, get_driver_feature_select, set_driver_feature_select},
	{VIRTIO_PCI_COMMON_GF, 4, get_driver_feature, set_driver_feature},
	{VIRTIO_PCI_COMMON_MSIX, 2, get_config_vector, set_config_vector},
	{VIRTIO_PCI_COMMON_NUMQ, 2, get_num_queues, NULL},
	{VIRTIO_PCI_COMMON_STATUS, 1, get_status, NULL},
	{VIRTIO_PCI_COMMON_CFGGENERATION, 1, get_generation, NULL},
	{VIRTIO_PCI_COMMON_Q_SELECT, 2, get_queue_select, set_queue_select},
	{VIRTIO_PCI_COMMON_Q_SIZE, 2, get_queue_size, set_queue_size},
	{VIRTIO_PCI_COMMON_Q_MSIX, 2, get_queue_vector, set_queue_vector},
	{VIRTIO_PCI_COMMON_Q_ENABLE, 2, get_queue_enable, set_queue_enable},
	{VIRTIO_PCI_COMMON_Q_NOFF, 2, get_notify_off, NULL},
	{VIRTIO_PCI_COMMON_Q_DESCLO, 4, get_desc0, set_desc0},
	{VIRTIO_PCI_COMMON_Q_DESCHI, 4, get_desc1, set_desc1},
	{VIRTIO_PCI_COMMON_Q_AVAILLO, 4, get_avail0, set_avail0},
	{VIRTIO_PCI_COMMON_Q_AVAILHI, 4, get_avail1, set_avail1},
	{VIRTIO_PCI_COMMON_Q_USEDLO, 4, get_used0, set_used0},
	{VIRTIO_PCI_COMMON_Q_USEDHI, 4, get_used1, set_used1},
};

static const struct common_reg *common_find(u32 off, u32 size)
{
	for (u32 i = 0; i < ARRAY_SIZE(common_regs); i++)
		if (common_regs[i].off == off && common_regs[i].size == size)
			return &common_regs[i];
	return NULL;
}

static u64 common_read(struct virtio_device *vd, u32 off, u32 size)
{
	const struct common_reg *reg = common_find(off, size);
	u32 v;

	if (!reg)
		return 0;
	pthread_mutex_lock(&vd->lock);
	v = reg->get(vd);
	pthread_mutex_unlock(&vd->lock);
	return v;
}

static void common_write(struct virtio_device *vd, u32 off, u32 size, u32 value)
{
	const struct common_reg *reg = common_find(off, size);

	if (off == VIRTIO_PCI_COMMON_STATUS && size == 1)
		virtio_set_status(vd, (u8)value);
	if (!reg || !reg->set)
		return;
	pthread_mutex_lock(&vd->lock);
	if (!vd->resetting)
		reg->set(vd, value);
	pthread_mutex_unlock(&vd->lock);
}

/* Reading the ISR acknowledges: the line falls with the bits, under one lock so that a new interrupt cannot slip in between. */
static u64 isr_read(struct virtio_device *vd, u32 off, u32 size)
{
	u8 isr;

	if (off)
		return 0;
	pthread_mutex_lock(&vd->pci.irq_lock);
	isr = vd->pci.isr;
	vd->pci.isr = 0;
	pci_intx(vd->pci.func, false);
	pthread_mutex_unlock(&vd->pci.irq_lock);
	return isr;
}

static void isr_write(struct virtio_device *vd, u32 off, u32 size, u32 value)
{
}

static u64 device_read(struct virtio_device *vd, u32 off, u32 size)
{
	u32 v = 0;

	if (off >= vd->config_len || size > vd->config_len - off)
		return 0;
	pthread_mutex_lock(&vd->lock);
	memcpy(&v, vd->config + off, size);
	pthread_mutex_unlock(&vd->lock);
	return v;
}

static void device_write(struct virtio_device *vd, u32 off, u32 size, u32 value)
{
	u8 old[4];

	if (!vd->ops->config_written || off >= vd->config_len || size > vd->config_len - off)
		return;
	pthread_mutex_lock(&vd->lock);
	memcpy(old, vd->config + off, size);
	memcpy(vd->config + off, &value, size);
	vd->ops->config_written(vd, off, size, old);
	pthread_mutex_unlock(&vd->lock);
}

static u64 notify_read(struct virtio_device *vd, u32 off, u32 size)
{
	return 0;
}

static void notify_write(struct virtio_device *vd, u32 off, u32 size, u32 value)
{
	if (off % NOTIFY_STEP == 0)
		virtio_doorbell(vd, off / NOTIFY_STEP);
}

static const struct bar_region {
	u64 (*read)(struct virtio_device *vd, u32 off, u32 size);
	void (*write)(struct virtio_device *vd, u32 off, u32 size, u32 value);
} bar_regions[BAR_SIZE / REGION_SIZE] = {
	[COMMON_OFF / REGION_SIZE] = {common_read, common_write},
	[ISR_OFF / REGION_SIZE] = {isr_read, isr_write},
	[DEVICE_OFF / REGION_SIZE] = {device_read, device_write},
	[NOTIFY_OFF / REGION_SIZE] = {notify_read, notify_write},
};

static u64 bar_read(void *opaque, u64 off, u32 size)
{
	return bar_regions[off / REGION_SIZE % ARRAY_SIZE(bar_regions)].read(opaque, off % REGION_SIZE, size);
}

static void bar_write(void *opaque, u64 off, u32 size, u64 value)
{
	bar_regions[off / REGION_SIZE % ARRAY_SIZE(bar_regions)].write(opaque, off % REGION_SIZE, size, (u32)value);
}

static const struct bus_ops bar_ops = {bar_read, bar_write, 1, 4};

/* The window of the configuration access capability: BAR, offset and length are checked when the data register is used. */
static bool window_valid(const struct virtio_pci *p)
{
	return p->window_bar == VIRTIO_BAR && (p->window_len == 1 || p->window_len == 2 || p->window_len == 4) &&
	       p->window_off % p->window_len == 0 && p->window_off < BAR_SIZE;
}

#define WINDOW_SIZE sizeof(struct virtio_pci_cfg_cap)
#define WINDOW_DATA offsetof(struct virtio_pci_cfg_cap, pci_cfg_data)

/* Config space below the window's first writable field is plain; from there on it is ours. */
static bool in_window(const struct virtio_pci *p, u32 off, u32 size)
{
	u32 start = p->window_cap + (u32)offsetof(struct virtio_pci_cfg_cap, cap.bar);

	return p->window_cap && off >= start && off + size <= p->window_cap + WINDOW_SIZE;
}

static void window_fill(const struct virtio_device *vd, struct virtio_pci_cfg_cap *cap)
{
	*cap = (struct virtio_pci_cfg_cap){.cap = {.cfg_type = VIRTIO_PCI_CAP_PCI_CFG,
						   .bar = vd->pci.window_bar,
						   .offset = vd->pci.window_off,
						   .length = vd->pci.window_len}};
}

static bool window_read(void *opaque, u32 off, u32 size, u32 *value)
{
	struct virtio_device *vd = opaque;
	struct virtio_pci *p = &vd->pci;
	struct virtio_pci_cfg_cap cap;
	u32 data;

	if (!in_window(p, off, size))
		return false;
	off -= p->window_cap;
	window_fill(vd, &cap);
	if (off == WINDOW_DATA && window_valid(p)) {
		data = (u32)bar_read(vd, p->window_off, p->window_len);
		memcpy(cap.pci_cfg_data, &data, sizeof(data));
	}
	*value = 0;
	memcpy(value, (u8 *)&cap + off, size);
	return true;
}

static bool window_write(void *opaque, u32 off, u32 size, u32 value)
{
	struct virtio_device *vd = opaque;
	struct virtio_pci *p = &vd->pci;
	struct virtio_pci_cfg_cap cap;

	if (!in_window(p, off, size))
		return false;
	off -= p->window_cap;
	if (off == WINDOW_DATA) {
		if (window_valid(p))
			bar_write(vd, p->window_off, p->window_len, value);
		return true;
	}
	window_fill(vd, &cap);
	memcpy((u8 *)&cap + off, &value, size);
	p->window_bar = cap.cap.bar;
	p->window_off = cap.cap.offset;
	p->window_len = cap.cap.length;
	return true;
}

/* Appends one vendor capability of `len` bytes, of which the first two belong to the bus. */
static u8 add_cap(struct virtio_device *vd, u8 type, u32 off, u32 length, u32 extra, u8 len)
{
	struct {
		struct virtio_pci_cap cap;
		u32 extra;
	} c = {.cap = {.cap_len = len, .cfg_type = type, .bar = VIRTIO_BAR, .offset = off, .length = length}, .extra = extra};

	return pci_add_cap(vd->pci.func, PCI_CAP_ID_VNDR, (u8 *)&c + 2, (u8)(len - 2));
}

static int add_caps(struct virtio_device *vd, struct err *e)
{
	u8 plain = sizeof(struct virtio_pci_cap), with_data = sizeof(struct virtio_pci_notify_cap);
	u32 config_len = vd->config_len ? vd->config_len : 4;

	vd->pci.window_cap = add_cap(vd, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 0, with_data);
	if (vd->pci.window_cap && add_cap(vd, VIRTIO_PCI_CAP_COMMON_CFG, COMMON_OFF, sizeof(struct virtio_pci_common_cfg), 0, plain) &&
	    add_cap(vd, VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY_OFF, vd->nqueues * NOTIFY_STEP, NOTIFY_STEP, with_data) &&
	    add_cap(vd, VIRTIO_PCI_CAP_ISR_CFG, ISR_OFF, 1, 0, plain) &&
	    add_cap(vd, VIRTIO_PCI_CAP_DEVICE_CFG, DEVICE_OFF, config_len, 0, plain))
		return 0;
	return err_set(e, ENOSPC, "%s: no room for its PCI capabilities", vd->ops->name);
}

int virtio_pci_plug(struct virtio_device *vd, struct err *e)
{
	const struct virtio_ops *ops = vd->ops;
	struct pci_func_desc d = {
		.name = ops->name,
		.vendor = VIRTIO_VENDOR,
		.device = (u16)(VIRTIO_DEVICE_BASE + ops->id),
		.subsys_vendor = VIRTIO_VENDOR,
		.subsys_id = (u16)(VIRTIO_DEVICE_BASE + ops->id),
		.class_code = ops->pci_class,
		.subclass = ops->pci_subclass,
		.revision = VIRTIO_REVISION,
		.bar = {[VIRTIO_BAR] = {.size = BAR_SIZE, .ops = &bar_ops, .opaque = vd, .bells = vd->pci.place}},
		.intx = true,
		.msix_vectors = vd->nqueues + 1,
		.msix_bar = MSIX_BAR,
		.opaque = vd,
		.cfg_read = window_read,
		.cfg_write = window_write,
	};
	int r;

	pthread_mutex_init(&vd->pci.irq_lock, NULL);
	vd->pci.config_vector = VQ_NO_VECTOR;
	r = virtio_bells_hang(vd, NOTIFY_OFF, NOTIFY_STEP, e);
	d.bar[VIRTIO_BAR].nbells = vd->pci.nbells;
	if (!r)
		r = pci_add(vd->dev.env->pci, &d, &vd->pci.func, e);
	if (!r)
		r = add_caps(vd, e);
	if (r)
		virtio_pci_unplug(vd);
	return r;
}

void virtio_pci_unplug(struct virtio_device *vd)
{
	if (vd->pci.func)
		pci_del(vd->pci.func);
	vd->pci.func = NULL;
	virtio_bells_take_down(vd);
	pthread_mutex_destroy(&vd->pci.irq_lock);
}

void virtio_pci_reset(struct virtio_device *vd)
{
	vd->pci.feature_select = vd->pci.driver_feature_select = 0;
	vd->pci.queue_select = 0;
	vd->pci.config_vector = VQ_NO_VECTOR;
	isr_read(vd, 0, 1);
}

void virtio_pci_power_on(struct virtio_device *vd)
{
	vd->pci.window_bar = 0;
	vd->pci.window_off = vd->pci.window_len = 0;
	pci_func_reset(vd->pci.func);
}

static void raise_irq(struct virtio_device *vd, u16 vector, u8 isr_bit)
{
	struct virtio_pci *p = &vd->pci;

	if (pci_msix_enabled(p->func)) {
		if (vector != VQ_NO_VECTOR)
			pci_msix_notify(p->func, vector);
		return;
	}
	pthread_mutex_lock(&p->irq_lock);
	p->isr |= isr_bit;
	pci_intx(p->func, true);
	pthread_mutex_unlock(&p->irq_lock);
}

void virtio_pci_queue_irq(struct virtio_device *vd, const struct virtqueue *q)
{
	raise_irq(vd, __atomic_load_n(&q->vector, __ATOMIC_RELAXED), ISR_QUEUE);
}

void virtio_pci_config_irq(struct virtio_device *vd)
{
	raise_irq(vd, __atomic_load_n(&vd->pci.config_vector, __ATOMIC_RELAXED), ISR_QUEUE | ISR_CONFIG);
}
