/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting devices together: every class of the registry in its order, once or once for each option given. What a device may see of the
 * machine is filled in here.
 *
 * Threading: main thread; request and lookup as device.h says.
 */
#include "base/log.h"
#include "vm/machine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void publish(void *opaque, const char *name, void *object)
{
	struct name_table *t = &((struct vm *)opaque)->names;

	if (t->n == NAMES_MAX) {
		log_msg(LOG_ERROR, "device registry: no room for \"%s\"", name);
		return;
	}
	t->entry[t->n].name = name;
	t->entry[t->n++].object = object;
}

void *assembly_lookup(const struct vm *vm, const char *name)
{
	for (u32 i = 0; i < vm->names.n; i++)
		if (strcmp(vm->names.entry[i].name, name) == 0)
			return vm->names.entry[i].object;
	return NULL;
}

static void *lookup(void *opaque, const char *name)
{
	return assembly_lookup(opaque, name);
}

static void request(void *opaque, enum vm_request req, u32 arg)
{
	static const enum pending pending[] = {
		[VM_REQ_RESET] = PEND_RESET, [VM_REQ_POWEROFF] = PEND_POWEROFF, [VM_REQ_EXIT_CODE] = PEND_EXIT_CODE};

	lifecycle_request(opaque, pending[req], arg);
}

void assembly_env(struct vm *vm)
{
	vm->last_device = &vm->devices;
	vm->env = (struct device_env){
		.mem = &vm->mem,
		.pio = vm->pio,
		.mmio = vm->mmio,
		.loop = vm->loop,
		.clock = &vm->clock,
		.irq = vm->irq,
		.ncpus = vm->ncpus,
		.tsc_hz = vm->tsc_hz,
		.vm_name = vm->name,
		.request = request,
		.request_opaque = vm,
		.publish = publish,
		.lookup = lookup,
		.registry_opaque = vm,
	};
	publish(vm, "console", vm->console);
}

static int create_one(struct vm *vm, const struct device_class *cls, const struct opts *opts, u32 number, struct err *e)
{
	struct device *d = NULL;
	int r = cls->create(&vm->env, opts, &d, e);

	if (r < 0 || !d) /* an option may mean "no device", such as --net none */
		return r;
	snprintf(d->id, sizeof(d->id), "%s%u", cls->name, number);
	d->next = NULL;
	*vm->last_device = d;
	vm->last_device = &d->next;
	return 0;
}

static int create_from_option(struct vm *vm, const struct device_class *cls, const char *text, u32 number, struct err *e)
{
	struct opts opts;
	char option[40];
	int r;

	snprintf(option, sizeof(option), "--%s", cls->option);
	r = opts_parse(&opts, option, cls->keys, text, e);
	if (r < 0)
		return r;
	r = create_one(vm, cls, &opts, number, e);
	opts_free(&opts);
	if (r < 0 && !strstr(e->msg, option))
		err_prefix(e, "%s", option);
	return r;
}

static int create_class(struct vm *vm, const struct device_class *cls, const struct vm_config *c, struct err *e)
{
	u32 number = 0;
	int r = 0;

	if (!cls->option)
		return create_one(vm, cls, NULL, 0, e);
	for (u32 i = 0; i < c->nopts && r == 0; i++)
		if (strcmp(c->opt[i].option, cls->option) == 0)
			r = create_from_option(vm, cls, c->opt[i].text, number++, e);
	return r;
}

static int check_options(const struct vm_config *c, struct err *e)
{
	for (u32 i = 0; i < c->nopts; i++)
		if (!device_class_by_option(c->opt[i].option))
			return err_set(e, EINVAL, "there is no device option --%s", c->opt[i].option);
	return 0;
}

int assembly_create_devices(struct vm *vm, const struct vm_config *c, struct err *e)
{
	const struct device_class **classes;
	u32 n = device_classes(&classes);
	int r = check_options(c, e);

	for (u32 i = 0; i < n && r == 0; i++)
		r = create_class(vm, classes[i], c, e);
	return r;
}

void assembly_reset_devices(struct vm *vm)
{
	for (struct device *d = vm->devices; d; d = d->next)
		d->cls->reset(d);
}

static struct device *reversed(struct device *list)
{
	struct device *out = NULL;

	while (list) {
		struct device *next = list->next;

		list->next = out;
		out = list;
		list = next;
	}
	return out;
}

void assembly_destroy_devices(struct vm *vm)
{
	struct device *d = reversed(vm->devices);

	while (d) {
		struct device *next = d->next;

		d->cls->destroy(d);
		d = next;
	}
	vm->devices = NULL;
}
