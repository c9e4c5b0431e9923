/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PCI Express root as a device: host bridge 0:0.0, config space through ports 0xcf8-0xcff and through ECAM, and the reset control
 * register 0xcf9, which lies among these ports. Published as "pci", and in env->pci.
 */
#include "hw/pci_internal.h"

#include "hw/layout.h"

#include <errno.h>
#include <stdlib.h>

#define ADDRESS_ENABLE 0x80000000u
#define RESET_CPU 0x04 /* on its rising edge */
#define RESET_BITS 0x0e

static u64 ecam_read(void *opaque, u64 off, u32 size)
{
	struct pci_bus *b = opaque;
	u32 v;

	pthread_mutex_lock(&b->lock);
	v = pci_config_read(b, (u32)(off >> 12), off & 0xfff, size);
	pthread_mutex_unlock(&b->lock);
	return v;
}

static void ecam_write(void *opaque, u64 off, u32 size, u64 value)
{
	struct pci_bus *b = opaque;

	pthread_mutex_lock(&b->lock);
	pci_config_write(b, (u32)(off >> 12), off & 0xfff, size, (u32)value);
	pthread_mutex_unlock(&b->lock);
}

/* Ports 0xcfc-0xcff: the register that CONFIG_ADDRESS names. */
static u32 data_read(struct pci_bus *b, u32 off, u32 size)
{
	if (!(b->address & ADDRESS_ENABLE))
		return ~0u;
	return pci_config_read(b, b->address >> 8 & 0xffff, (b->address & 0xfc) + (off & 3), size);
}

static void data_write(struct pci_bus *b, u32 off, u32 size, u32 value)
{
	if (b->address & ADDRESS_ENABLE)
		pci_config_write(b, b->address >> 8 & 0xffff, (b->address & 0xfc) + (off & 3), size, value);
}

static void reset_control_write(struct pci_bus *b, u8 v)
{
	bool reset = v & ~b->reset_control & RESET_CPU;

	b->reset_control = v & RESET_BITS;
	if (reset)
		b->dev.env->request(b->dev.env->request_opaque, VM_REQ_RESET, 0);
}

/* CONFIG_ADDRESS answers to 32-bit accesses only; narrower ones belong to what else lives there. */
static u64 ports_read(void *opaque, u64 off, u32 size)
{
	struct pci_bus *b = opaque;
	u32 v = ~0u;

	pthread_mutex_lock(&b->lock);
	if (off >= 4)
		v = data_read(b, (u32)off, size);
	else if (off == 0 && size == 4)
		v = b->address;
	else if (off == 1 && size == 1)
		v = b->reset_control;
	pthread_mutex_unlock(&b->lock);
	return v;
}

static void ports_write(void *opaque, u64 off, u32 size, u64 value)
{
	struct pci_bus *b = opaque;

	pthread_mutex_lock(&b->lock);
	if (off >= 4)
		data_write(b, (u32)off, size, (u32)value);
	else if (off == 0 && size == 4)
		b->address = (u32)value & ~0x7f000003u;
	else if (off == 1 && size == 1)
		reset_control_write(b, (u8)value);
	pthread_mutex_unlock(&b->lock);
}

static const struct bus_ops ecam_ops = {.read = ecam_read, .write = ecam_write, .min_size = 1, .max_size = 4};
static const struct bus_ops ports_ops = {.read = ports_read, .write = ports_write, .min_size = 1, .max_size = 4};

static void pci_host_reset(struct device *d)
{
	struct pci_bus *b = container_of(d, struct pci_bus, dev);

	pthread_mutex_lock(&b->lock);
	b->address = 0;
	b->reset_control = 0;
	for (u32 i = 0; i < PCI_SLOTS; i++) {
		if (b->slot[i].used)
			pci_func_reset_locked(&b->slot[i]);
	}
	pci_map_bars(b);
	pthread_mutex_unlock(&b->lock);
}

static void pci_host_loaded(struct device *d)
{
	struct pci_bus *b = container_of(d, struct pci_bus, dev);

	pthread_mutex_lock(&b->lock);
	pci_map_bars(b);
	for (u32 i = 0; i < PCI_SLOTS; i++) {
		if (b->slot[i].used)
			pci_irq_update(&b->slot[i]);
	}
	pthread_mutex_unlock(&b->lock);
}

static void pci_host_destroy(struct device *d)
{
	struct pci_bus *b = container_of(d, struct pci_bus, dev);

	bus_remove(d->env->mmio, &b->ecam);
	bus_remove(d->env->pio, &b->ports);
	for (u32 i = 0; i < PCI_SLOTS; i++) {
		if (b->slot[i].used)
			pci_del(&b->slot[i]);
	}
	d->env->pci = NULL;
	pthread_mutex_destroy(&b->lock);
	free(b);
}

static int plug(struct pci_bus *b, struct err *e)
{
	static const struct pci_func_desc bridge = {.name = "host bridge", .vendor = 0x1b36, .device = 0x0008, .class_code = 6};
	struct pci_func *f;
	int ret = pci_add(b, &bridge, &f, e);

	if (!ret)
		ret = bus_add(b->dev.env->mmio, &b->ecam, e);
	if (!ret)
		ret = bus_add(b->dev.env->pio, &b->ports, e);
	return ret;
}

static const struct device_class pci_host_class;

static int pci_host_create(struct device_env *env, const struct opts *opts, struct device **out, struct err *e)
{
	struct pci_bus *b = calloc(1, sizeof(*b));
	int ret;

	if (!b)
		return err_set(e, ENOMEM, "pci root: out of memory; free memory on the host");
	b->dev.cls = &pci_host_class;
	b->dev.env = env;
	pthread_mutex_init(&b->lock, NULL);
	for (u32 i = 0; i < PCI_SLOTS; i++) {
		b->slot[i].bus = b;
		b->slot[i].slot = i;
	}
	b->ecam = (struct bus_region){.base = PCI_ECAM_BASE, .len = PCI_ECAM_SIZE, .ops = &ecam_ops, .opaque = b, .name = "pci ecam"};
	b->ports = (struct bus_region){.base = LAYOUT_PCI_CFG_PORT, .len = 8, .ops = &ports_ops, .opaque = b, .name = "pci config"};
	ret = plug(b, e);
	if (ret) {
		pci_host_destroy(&b->dev);
		return ret;
	}
	env->pci = b;
	env->publish(env->registry_opaque, "pci", b);
	*out = &b->dev;
	return 0;
}

static const struct field pci_host_fields[] = {
	FIELD(struct pci_bus, address, FIELD_U32),
	FIELD(struct pci_bus, reset_control, FIELD_U8),
	FIELD_EACH(struct pci_bus, slot, PCI_SLOTS, cfg, FIELD_BYTES, PCI_CFG_SIZE),
	FIELD_EACH(struct pci_bus, slot, PCI_SLOTS, intx, FIELD_BOOL, 1),
	FIELD_EACH(struct pci_bus, slot, PCI_SLOTS, table, FIELD_BYTES, PCI_MSIX_MAX *MSIX_ENTRY),
	FIELD_EACH(struct pci_bus, slot, PCI_SLOTS, pba, FIELD_BYTES, PCI_MSIX_MAX / 8),
};

static const struct device_class pci_host_class = {
	.name = "pci",
	.stage = STAGE_PCI_ROOT,
	.summary = "PCI Express root with host bridge",
	.version = 1,
	.create = pci_host_create,
	.reset = pci_host_reset,
	.destroy = pci_host_destroy,
	.loaded = pci_host_loaded,
	.fields = pci_host_fields,
	.nfields = ARRAY_SIZE(pci_host_fields),
};
DEVICE_REGISTER(pci_host_class);
