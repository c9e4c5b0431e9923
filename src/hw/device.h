/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a device is: one file, one registration. The class names the option that creates it, its keys and help text, how to create, reset
 * and destroy it, and the table of fields that is its whole saved state. The machine iterates over the registry; there is no other list.
 *
 * A device sees a `struct device_env` and nothing else of the machine.
 *
 * Threading: create, reset, destroy on the main thread with no vCPU running.
 */
#pragma once

#include "base/clock.h"
#include "base/err.h"
#include "base/evloop.h"
#include "base/guest_memory.h"
#include "base/opts.h"
#include "hw/bus.h"
#include "hw/irq.h"

/* Order of creation; inside one stage, by name. A failure destroys what was created, in reverse. */
enum device_stage {
	STAGE_LAPIC,
	STAGE_IRQCHIP, /* IOAPIC: finds the LAPICs */
	STAGE_CHIPSET, /* PIT, RTC, i8042, power management */
	STAGE_SERIAL,
	STAGE_PCI_ROOT,
	STAGE_PCI,     /* virtio and other PCI functions */
	STAGE_FIRMWARE /* ACPI and SMBIOS tables: describe all of the above */
};

enum vm_request { VM_REQ_RESET, VM_REQ_POWEROFF, VM_REQ_EXIT_CODE };

struct pci_bus;
struct char_backend;

struct device_env {
	struct guest_memory *mem;
	struct bus *pio, *mmio;
	struct evloop *loop;
	struct vclock *clock;
	struct irq_router *irq;
	struct pci_bus *pci; /* set by the PCI root when it is created */
	u32 ncpus;
	u64 tsc_hz;
	const char *vm_name;
	/* The guest asked for something; carried out by the VM loop soon after. Any thread. */
	void (*request)(void *opaque, enum vm_request req, u32 arg);
	void *request_opaque;
	/* Chips that others must find (the IOAPIC for EOI, power button, console back end), by name. */
	void (*publish)(void *opaque, const char *name, void *object);
	void *(*lookup)(void *opaque, const char *name);
	void *registry_opaque;
};

enum field_type { FIELD_U8, FIELD_U16, FIELD_U32, FIELD_U64, FIELD_BOOL, FIELD_BYTES };
struct field {
	const char *name;
	u32 offset;
	enum field_type type;
	u32 count; /* elements (FIELD_BYTES: bytes) */
	u32 since; /* class version that introduced it */
	/* A field of every element of an array of structs: so many elements, so many bytes apart. 0, 0: a single field. */
	u32 repeat, stride;
};
/* clang-format 14 takes the braces for a block. */
/* clang-format off */
#define FIELD(struct_, member_, type_) {#member_, offsetof(struct_, member_), type_, 1, 1, 0, 0}
#define FIELD_ARRAY(struct_, member_, type_, count_) {#member_, offsetof(struct_, member_), type_, count_, 1, 0, 0}
#define FIELD_EACH(struct_, array_, n_, member_, type_, count_)                                                           \
	{#array_ "." #member_, offsetof(struct_, array_[0].member_), type_, count_, 1, n_, sizeof(((struct_ *)0)->array_[0])}
/* clang-format on */

/* What a device counts for --stats: a u64, which may grow on any thread while it is read. No part of the saved state. */
struct counter {
	const char *name; /* of its own in the whole machine */
	u32 offset;
};

struct device {
	const struct device_class *cls;
	struct device_env *env;
	struct device *next;
	char id[32]; /* "blk0": class name and number */
};

struct device_class {
	const char *name; /* "blk" */
	enum device_stage stage;
	const char *option;  /* "disk": one device for each --disk; NULL: always present once */
	bool once;	     /* with option: one at most */
	const char *summary; /* help */
	const struct opt_key *keys;
	u32 version;
	/* Are these values possible on any host? Asked before anything is built, so that a wrong one is a usage error; may be NULL. */
	int (*check)(const struct opts *opts, struct err *e);
	/* Allocates the object whose first member is `struct device` and plugs it into the buses. opts is NULL for built-in devices. */
	int (*create)(struct device_env *env, const struct opts *opts, struct device **out, struct err *e);
	void (*reset)(struct device *d);   /* power-on state */
	void (*destroy)(struct device *d); /* unplugs and frees */
	void (*loaded)(struct device *d);  /* after fields were loaded: re-arm timers, re-validate; may be NULL */
	const struct field *fields;
	u32 nfields;
	const struct counter *counters;
	u32 ncounters;
};

/* Put the class into the registry (a linker section of pointers; the library is linked whole). */
#define DEVICE_REGISTER(cls_)                                                                                                              \
	static const struct device_class *const device_entry_##cls_ __attribute__((used, section("guise_devices"))) = &(cls_)

/* All classes, sorted by stage and name. Returns the number. */
u32 device_classes(const struct device_class ***out);
const struct device_class *device_class_by_option(const char *option);
