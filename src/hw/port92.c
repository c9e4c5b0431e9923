/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System control port A (0x92): fast reset (bit 0, on its rising edge) and fast A20 (bit 1, remembered only: the A20 line is always on).
 *
 * Threading: one atomic byte.
 */
#include "hw/device.h"
#include "hw/layout.h"

#include <errno.h>
#include <stdlib.h>

enum { FAST_RESET = 0x01, FAST_A20 = 0x02 };

struct port92 {
	struct device dev;
	struct bus_region port;
	u8 value;
};

static u64 port_read(void *opaque, u64 off, u32 size)
{
	return __atomic_load_n(&((struct port92 *)opaque)->value, __ATOMIC_RELAXED);
}

static void port_write(void *opaque, u64 off, u32 size, u64 value)
{
	struct port92 *p = opaque;
	u8 old = __atomic_exchange_n(&p->value, value & (FAST_RESET | FAST_A20), __ATOMIC_RELAXED);

	if (value & ~(u64)old & FAST_RESET)
		p->dev.env->request(p->dev.env->request_opaque, VM_REQ_RESET, 0);
}

static const struct bus_ops port_ops = {.read = port_read, .write = port_write, .min_size = 1, .max_size = 1};

static void port92_reset(struct device *d)
{
	container_of(d, struct port92, dev)->value = FAST_A20;
}

static void port92_destroy(struct device *d)
{
	struct port92 *p = container_of(d, struct port92, dev);

	bus_remove(d->env->pio, &p->port);
	free(p);
}

static const struct device_class port92_class;

static int port92_create(struct device_env *env, const struct opts *opts, struct device **out, struct err *e)
{
	struct port92 *p = calloc(1, sizeof(*p));
	int ret;

	if (!p)
		return err_set(e, ENOMEM, "port 0x92: out of memory; free memory on the host");
	p->dev.cls = &port92_class;
	p->dev.env = env;
	p->port = (struct bus_region){.base = LAYOUT_PORT92, .len = 1, .ops = &port_ops, .opaque = p, .name = "port92"};
	port92_reset(&p->dev);
	ret = bus_add(env->pio, &p->port, e);
	if (ret) {
		free(p);
		return ret;
	}
	*out = &p->dev;
	return 0;
}

static const struct field port92_fields[] = {FIELD(struct port92, value, FIELD_U8)};

static const struct device_class port92_class = {
	.name = "port92",
	.stage = STAGE_CHIPSET,
	.summary = "system control port A",
	.version = 1,
	.create = port92_create,
	.reset = port92_reset,
	.destroy = port92_destroy,
	.fields = port92_fields,
	.nfields = ARRAY_SIZE(port92_fields),
};
DEVICE_REGISTER(port92_class);
