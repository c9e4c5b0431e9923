/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A port for test guests: writing v ends the VM with the exit status (v << 1) | 1. Four ports wide, so that any size of OUT gives its
 * value.
 *
 * Threading: no state.
 */
#include "hw/device.h"

#include <errno.h>
#include <stdlib.h>

#define PORT_WIDTH 4u
#define PORT_LAST (0x10000u - PORT_WIDTH)

struct exitport {
	struct device dev;
	struct bus_region port;
};

static u64 port_read(void *opaque, u64 off, u32 size)
{
	return 0; /* tells a guest that the port is there */
}

static void port_write(void *opaque, u64 off, u32 size, u64 value)
{
	struct exitport *p = opaque;

	if (off == 0)
		p->dev.env->request(p->dev.env->request_opaque, VM_REQ_EXIT_CODE, (u32)value);
}

static const struct bus_ops port_ops = {.read = port_read, .write = port_write, .min_size = 1, .max_size = 4};

static void exitport_reset(struct device *d)
{
	/* no state */
}

static void exitport_destroy(struct device *d)
{
	struct exitport *p = container_of(d, struct exitport, dev);

	bus_remove(d->env->pio, &p->port);
	free(p);
}

static const struct device_class exitport_class;

static int exitport_check(const struct opts *opts, struct err *e)
{
	if (!opts_has(opts, ""))
		return err_set(e, EINVAL, "--exit-port needs a port number, such as --exit-port 0xf4");
	if (opts_num(opts, "") > PORT_LAST)
		return err_set(e, EINVAL, "--exit-port: %llu is out of range: give a port from 0 to %#x",
			       (unsigned long long)opts_num(opts, ""), PORT_LAST);
	return 0;
}

static int exitport_create(struct device_env *env, const struct opts *opts, struct device **out, struct err *e)
{
	struct exitport *p;
	int ret = exitport_check(opts, e);

	if (ret)
		return ret;
	p = calloc(1, sizeof(*p));
	if (!p)
		return err_set(e, ENOMEM, "exit port: out of memory; free memory on the host");
	p->dev.cls = &exitport_class;
	p->dev.env = env;
	p->port = (struct bus_region){.base = opts_num(opts, ""), .len = PORT_WIDTH, .ops = &port_ops, .opaque = p, .name = "exit port"};
	ret = bus_add(env->pio, &p->port, e);
	if (ret) {
		err_prefix(e, "--exit-port");
		free(p);
		return ret;
	}
	*out = &p->dev;
	return 0;
}

static const struct opt_key exitport_keys[] = {
	{.name = "", .type = OPT_UINT, .help = "port number, such as 0xf4; it and the three after it must be free"},
	{.name = NULL},
};

static const struct device_class exitport_class = {
	.name = "exitport",
	.stage = STAGE_PCI, /* after every chip with fixed ports, so that it is this one that is refused */
	.option = "exit-port",
	.summary = "a guest's write of v to this port ends the VM with status (v << 1) | 1",
	.keys = exitport_keys,
	.version = 1,
	.check = exitport_check,
	.create = exitport_create,
	.reset = exitport_reset,
	.destroy = exitport_destroy,
};
DEVICE_REGISTER(exitport_class);
