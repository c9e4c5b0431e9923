/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keyboard controller at ports 0x60 and 0x64, with nothing plugged in: what is left of it are the ways to reset the machine and the A20
 * gate. FADT says that there is none, so systems with ACPI do not probe it; others find a controller that passes its self test and a
 * keyboard that does not answer.
 *
 * The A20 line is always on, as on current processors; the gate's bit is only remembered.
 *
 * Threading: one lock.
 */
#include "hw/device.h"
#include "hw/layout.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

enum { ST_OUTPUT_FULL = 0x01, ST_SYSTEM = 0x04, ST_COMMAND = 0x08, ST_UNLOCKED = 0x10, ST_AUX_DATA = 0x20, ST_TIMEOUT = 0x40 };
enum {
	CMD_READ_CONFIG = 0x20,
	CMD_WRITE_CONFIG = 0x60,
	CMD_AUX_DISABLE = 0xa7,
	CMD_AUX_ENABLE = 0xa8,
	CMD_AUX_TEST = 0xa9,
	CMD_SELF_TEST = 0xaa,
	CMD_KBD_TEST = 0xab,
	CMD_KBD_DISABLE = 0xad,
	CMD_KBD_ENABLE = 0xae,
	CMD_READ_INPUT = 0xc0,
	CMD_READ_OUTPUT = 0xd0,
	CMD_WRITE_OUTPUT = 0xd1,
	CMD_KBD_ECHO = 0xd2,
	CMD_AUX_ECHO = 0xd3,
	CMD_AUX_WRITE = 0xd4,
	CMD_A20_OFF = 0xdd,
	CMD_A20_ON = 0xdf,
	CMD_PULSE = 0xf0
};
enum { CFG_SYSTEM = 0x04, CFG_KBD_OFF = 0x10, CFG_AUX_OFF = 0x20 };
enum { OUT_NO_RESET = 0x01, OUT_A20 = 0x02 };

struct i8042 {
	struct device dev;
	pthread_mutex_t lock;
	struct bus_region data, command;
	u8 status, config, outport, output;
	u8 pending; /* the command that the next data byte belongs to, 0: none */
};

static void request_reset(struct i8042 *k)
{
	k->dev.env->request(k->dev.env->request_opaque, VM_REQ_RESET, 0);
}

static void reply(struct i8042 *k, u8 v, u8 flags)
{
	k->output = v;
	k->status = (u8)((k->status & ~(ST_AUX_DATA | ST_TIMEOUT)) | ST_OUTPUT_FULL | flags);
}

static void write_outport(struct i8042 *k, u8 v)
{
	k->outport = v | OUT_NO_RESET;
	if (!(v & OUT_NO_RESET))
		request_reset(k);
}

/* Commands f0-ff pull output lines low for 6 us where bits 0 to 3 are 0; bit 0 is the CPU's reset. */
static void pulse(struct i8042 *k, u8 cmd)
{
	if (!(cmd & 1))
		request_reset(k);
}

static void write_command(struct i8042 *k, u8 cmd)
{
	k->status |= ST_COMMAND;
	k->pending = 0;
	switch (cmd) {
	case CMD_READ_CONFIG:
		reply(k, k->config, 0);
		break;
	case CMD_WRITE_CONFIG:
	case CMD_WRITE_OUTPUT:
	case CMD_KBD_ECHO:
	case CMD_AUX_ECHO:
	case CMD_AUX_WRITE:
		k->pending = cmd;
		break;
	case CMD_AUX_DISABLE:
		k->config |= CFG_AUX_OFF;
		break;
	case CMD_AUX_ENABLE:
		k->config &= ~CFG_AUX_OFF;
		break;
	case CMD_AUX_TEST:
		reply(k, 0x02, 0); /* clock line stuck high: no mouse port */
		break;
	case CMD_SELF_TEST:
		k->status |= ST_SYSTEM;
		reply(k, 0x55, 0);
		break;
	case CMD_KBD_TEST:
		reply(k, 0x00, 0);
		break;
	case CMD_KBD_DISABLE:
		k->config |= CFG_KBD_OFF;
		break;
	case CMD_KBD_ENABLE:
		k->config &= ~CFG_KBD_OFF;
		break;
	case CMD_READ_INPUT:
		reply(k, 0x80, 0); /* not locked */
		break;
	case CMD_READ_OUTPUT:
		reply(k, k->outport, 0);
		break;
	case CMD_A20_OFF:
		k->outport &= ~OUT_A20;
		break;
	case CMD_A20_ON:
		k->outport |= OUT_A20;
		break;
	case CMD_PULSE ... 0xff:
		pulse(k, cmd);
		break;
	default: /* unknown commands are ignored */
		break;
	}
}

static void write_data(struct i8042 *k, u8 v)
{
	u8 cmd = k->pending;

	k->status &= ~ST_COMMAND;
	k->pending = 0;
	switch (cmd) {
	case CMD_WRITE_CONFIG:
		k->config = v;
		k->status = (u8)((k->status & ~ST_SYSTEM) | (v & CFG_SYSTEM));
		break;
	case CMD_WRITE_OUTPUT:
		write_outport(k, v);
		break;
	case CMD_KBD_ECHO:
		reply(k, v, 0);
		break;
	case CMD_AUX_ECHO:
		reply(k, v, ST_AUX_DATA);
		break;
	case CMD_AUX_WRITE:
		reply(k, 0xfe, ST_AUX_DATA | ST_TIMEOUT);
		break;
	default: /* to the keyboard, which is not there: the controller reports a time-out */
		reply(k, 0xfe, ST_TIMEOUT);
	}
}

static u64 data_read(void *opaque, u64 off, u32 size)
{
	struct i8042 *k = opaque;
	u8 v;

	pthread_mutex_lock(&k->lock);
	v = k->output;
	k->status &= ~(ST_OUTPUT_FULL | ST_AUX_DATA | ST_TIMEOUT);
	pthread_mutex_unlock(&k->lock);
	return v;
}

static void data_write(void *opaque, u64 off, u32 size, u64 value)
{
	struct i8042 *k = opaque;

	pthread_mutex_lock(&k->lock);
	write_data(k, (u8)value);
	pthread_mutex_unlock(&k->lock);
}

static u64 command_read(void *opaque, u64 off, u32 size)
{
	struct i8042 *k = opaque;
	u8 v;

	pthread_mutex_lock(&k->lock);
	v = k->status;
	pthread_mutex_unlock(&k->lock);
	return v;
}

static void command_write(void *opaque, u64 off, u32 size, u64 value)
{
	struct i8042 *k = opaque;

	pthread_mutex_lock(&k->lock);
	write_command(k, (u8)value);
	pthread_mutex_unlock(&k->lock);
}

static const struct bus_ops data_ops = {.read = data_read, .write = data_write, .min_size = 1, .max_size = 1};
static const struct bus_ops command_ops = {.read = command_read, .write = command_write, .min_size = 1, .max_size = 1};

static void i8042_reset(struct device *d)
{
	struct i8042 *k = container_of(d, struct i8042, dev);

	pthread_mutex_lock(&k->lock);
	k->status = ST_UNLOCKED;
	k->config = CFG_KBD_OFF | CFG_AUX_OFF;
	k->outport = OUT_NO_RESET | OUT_A20;
	k->output = k->pending = 0;
	pthread_mutex_unlock(&k->lock);
}

static void i8042_destroy(struct device *d)
{
	struct i8042 *k = container_of(d, struct i8042, dev);

	bus_remove(d->env->pio, &k->data);
	bus_remove(d->env->pio, &k->command);
	pthread_mutex_destroy(&k->lock);
	free(k);
}

static const struct device_class i8042_class;

static int i8042_create(struct device_env *env, const struct opts *opts, struct device **out, struct err *e)
{
	struct i8042 *k = calloc(1, sizeof(*k));
	int ret;

	if (!k)
		return err_set(e, ENOMEM, "i8042: out of memory; free memory on the host");
	k->dev.cls = &i8042_class;
	k->dev.env = env;
	k->data = (struct bus_region){.base = LAYOUT_I8042_DATA, .len = 1, .ops = &data_ops, .opaque = k, .name = "i8042 data"};
	k->command = (struct bus_region){.base = LAYOUT_I8042_CMD, .len = 1, .ops = &command_ops, .opaque = k, .name = "i8042 command"};
	pthread_mutex_init(&k->lock, NULL);
	i8042_reset(&k->dev);
	ret = bus_add(env->pio, &k->data, e);
	if (!ret)
		ret = bus_add(env->pio, &k->command, e);
	if (ret) {
		i8042_destroy(&k->dev);
		return ret;
	}
	*out = &k->dev;
	return 0;
}

static const struct field i8042_fields[] = {
	FIELD(struct i8042, status, FIELD_U8), FIELD(struct i8042, config, FIELD_U8),  FIELD(struct i8042, outport, FIELD_U8),
	FIELD(struct i8042, output, FIELD_U8), FIELD(struct i8042, pending, FIELD_U8),
};

static const struct device_class i8042_class = {
	.name = "i8042",
	.stage = STAGE_CHIPSET,
	.summary = "keyboard controller's reset and A20 gate",
	.version = 1,
	.create = i8042_create,
	.reset = i8042_reset,
	.destroy = i8042_destroy,
	.fields = i8042_fields,
	.nfields = ARRAY_SIZE(i8042_fields),
};
DEVICE_REGISTER(i8042_class);
