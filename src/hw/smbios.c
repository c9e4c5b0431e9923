/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SMBIOS 3.0: entry point in the last 64 KiB below 1 MiB, types 0, 1, 3, 4, 16, 17, 19, 32 and 127. Written at creation and at each reset.
 * Source: DMTF DSP0134 3.0.
 *
 * Threading: main thread only.
 */
#include "hw/device.h"
#include "hw/layout.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PACKED __attribute__((packed))
#define TABLE_MAX 4096u
#define VENDOR "Guise"

struct entry_point {
	char anchor[5];
	u8 checksum, length, major, minor, docrev, revision, reserved;
	u32 max_size;
	u64 address;
} PACKED;

struct header {
	u8 type, length;
	u16 handle;
} PACKED;

/* String members hold the number of a string in the set that follows the structure; 0: none. */
struct type0 {
	struct header h;
	u8 vendor, version;
	u16 segment;
	u8 date, rom_size;
	u64 characteristics;
	u8 ext[2], major, minor, ec_major, ec_minor;
} PACKED;

struct type1 {
	struct header h;
	u8 manufacturer, product, version, serial, uuid[16], wakeup, sku, family;
} PACKED;

struct type3 {
	struct header h;
	u8 manufacturer, chassis, version, serial, asset, bootup, power, thermal, security;
	u32 oem;
	u8 height, cords, elements, element_size, sku;
} PACKED;

struct type4 {
	struct header h;
	u8 socket, kind, family, manufacturer;
	u64 id;
	u8 version, voltage;
	u16 external_clock, max_mhz, current_mhz;
	u8 status, upgrade;
	u16 l1, l2, l3;
	u8 serial, asset, part, cores, enabled, threads;
	u16 characteristics, family2, cores2, enabled2, threads2;
} PACKED;

struct type16 {
	struct header h;
	u8 location, use, ecc;
	u32 capacity_kib;
	u16 error_handle, devices;
	u64 ext_capacity;
} PACKED;

struct type17 {
	struct header h;
	u16 array, error_handle, total_width, data_width, size_mib;
	u8 form, set, locator, bank, kind;
	u16 detail, speed;
	u8 manufacturer, serial, asset, part, attributes;
	u32 ext_size_mib;
	u16 configured_speed, min_mv, max_mv, configured_mv;
} PACKED;

struct type19 {
	struct header h;
	u32 start_kib, end_kib;
	u16 array;
	u8 width;
	u64 ext_start, ext_end;
} PACKED;

struct type32 {
	struct header h;
	u8 reserved[6], status;
} PACKED;

_Static_assert(sizeof(struct entry_point) == 0x18, "entry point");
_Static_assert(sizeof(struct type0) == 0x18 && sizeof(struct type1) == 0x1b && sizeof(struct type3) == 0x16, "types 0, 1, 3");
_Static_assert(sizeof(struct type4) == 0x30 && sizeof(struct type16) == 0x17 && sizeof(struct type17) == 0x28, "types 4, 16, 17");
_Static_assert(sizeof(struct type19) == 0x1f && sizeof(struct type32) == 0x0b, "types 19, 32");

enum {
	H_BIOS,
	H_SYSTEM,
	H_CHASSIS = 0x300,
	H_CPU = 0x400,
	H_ARRAY = 0x1000,
	H_DIMM = 0x1100,
	H_RANGE = 0x1300,
	H_BOOT = 0x2000,
	H_END = 0x7f00
};
#define NO_HANDLE 0xfffeu /* no error information */

struct smbios {
	struct device dev;
	u8 table[TABLE_MAX];
	u32 len;
	bool full;
};

/* Append a structure and its strings; the list of strings ends with NULL. */
static void add(struct smbios *s, u8 type, u16 handle, void *structure, u8 size, const char *const *strings)
{
	struct header *h = structure;
	u32 need = size + 2u;

	for (u32 i = 0; strings[i]; i++)
		need += (u32)strlen(strings[i]) + 1;
	if (need > TABLE_MAX - s->len) {
		s->full = true;
		return;
	}
	*h = (struct header){type, size, handle};
	memcpy(s->table + s->len, structure, size);
	s->len += size;
	for (u32 i = 0; strings[i]; i++) {
		u32 n = (u32)strlen(strings[i]) + 1;

		memcpy(s->table + s->len, strings[i], n);
		s->len += n;
	}
	s->table[s->len++] = 0;
	if (!strings[0])
		s->table[s->len++] = 0; /* an empty set is two zeros */
}

/* clang-format off */
#define STRINGS(...) ((const char *const[]){__VA_ARGS__ __VA_OPT__(,) NULL})
/* clang-format on */

static void add_bios(struct smbios *s)
{
	struct type0 t = {
		.vendor = 1,
		.version = 2,
		.segment = 0xe000,
		.date = 3,
		.rom_size = 1, /* 128 KiB */
		.characteristics = 1u << 3 /* not supported */,
		.ext = {0x01 /* ACPI */, 0x10 /* a virtual machine */},
		.major = 1,
		.ec_major = 0xff,
		.ec_minor = 0xff,
	};

	add(s, 0, H_BIOS, &t, sizeof(t), STRINGS(VENDOR, "1.0", "01/01/2026"));
}

/* The same name gives the same UUID, so that a guest keeps its identity from run to run. Version 8: vendor's own scheme (RFC 9562). */
static void uuid_from_name(u8 uuid[16], const char *name)
{
	u64 h[2] = {0xcbf29ce484222325ull, 0x84222325cbf29ce4ull};

	for (const char *p = name; *p; p++) {
		h[0] = (h[0] ^ (u8)*p) * 0x100000001b3ull;
		h[1] = (h[1] ^ (u8)*p ^ 0x5a) * 0x100000001b3ull;
	}
	memcpy(uuid, h, 16);
	/* The first three fields are little-endian in SMBIOS: the version is in byte 7. */
	uuid[7] = (u8)((uuid[7] & 0x0f) | 0x80);
	uuid[8] = (u8)((uuid[8] & 0x3f) | 0x80);
}

static void add_system(struct smbios *s)
{
	struct type1 t = {.manufacturer = 1, .product = 2, .version = 3, .wakeup = 6 /* power switch */, .family = 4};

	uuid_from_name(t.uuid, s->dev.env->vm_name ? s->dev.env->vm_name : "guest");
	add(s, 1, H_SYSTEM, &t, sizeof(t), STRINGS(VENDOR, "Virtual Machine", "1", "Virtual Machine"));
}

static void add_chassis(struct smbios *s)
{
	struct type3 t = {.manufacturer = 1, .chassis = 1 /* other */, .version = 2, .bootup = 3, .power = 3, .thermal = 3, .security = 3};

	add(s, 3, H_CHASSIS, &t, sizeof(t), STRINGS(VENDOR, "1"));
}

static void add_cpu(struct smbios *s)
{
	u16 n = (u16)s->dev.env->ncpus;
	u64 mhz = s->dev.env->tsc_hz / 1000000;
	struct type4 t = {
		.socket = 1,
		.kind = 3,   /* central processor */
		.family = 1, /* other */
		.manufacturer = 2,
		.current_mhz = (u16)(mhz < 0xffff ? mhz : 0xffff),
		.status = 0x41, /* populated, enabled */
		.upgrade = 1,
		.l1 = 0xffff,
		.l2 = 0xffff,
		.l3 = 0xffff,
		.cores = (u8)n,
		.enabled = (u8)n,
		.threads = (u8)n,
		.characteristics = 1u << 2, /* 64-bit capable */
		.cores2 = n,
		.enabled2 = n,
		.threads2 = n,
	};

	t.max_mhz = t.current_mhz;
	add(s, 4, H_CPU, &t, sizeof(t), STRINGS("CPU 0", VENDOR));
}

static void add_memory_array(struct smbios *s, u64 ram)
{
	struct type16 t = {.location = 3 /* system board */,
			   .use = 3 /* system memory */,
			   .ecc = 3 /* none */,
			   .error_handle = NO_HANDLE,
			   .devices = 1};

	t.capacity_kib = ram / KiB < 0x80000000 ? (u32)(ram / KiB) : 0x80000000;
	t.ext_capacity = t.capacity_kib == 0x80000000 ? ram : 0;
	add(s, 16, H_ARRAY, &t, sizeof(t), STRINGS());
}

static void add_dimm(struct smbios *s, u64 ram)
{
	struct type17 t = {
		.array = H_ARRAY,
		.error_handle = NO_HANDLE,
		.total_width = 0xffff,
		.data_width = 0xffff,
		.form = 9, /* DIMM */
		.locator = 1,
		.kind = 7,   /* RAM */
		.detail = 2, /* other */
		.manufacturer = 2,
	};
	u64 mib = ram / MiB;

	t.size_mib = mib < 0x7fff ? (u16)mib : 0x7fff;
	t.ext_size_mib = mib < 0x7fff ? 0 : (u32)mib;
	add(s, 17, H_DIMM, &t, sizeof(t), STRINGS("DIMM 0", VENDOR));
}

static void add_range(struct smbios *s, u32 i, const struct gm_slot *slot)
{
	struct type19 t = {.array = H_ARRAY, .width = 1};
	u64 end = slot->gpa + slot->size - 1;

	if (end / KiB < 0xffffffff) {
		t.start_kib = (u32)(slot->gpa / KiB);
		t.end_kib = (u32)(end / KiB);
	} else {
		t.start_kib = t.end_kib = 0xffffffff;
		t.ext_start = slot->gpa;
		t.ext_end = end;
	}
	add(s, 19, (u16)(H_RANGE + i), &t, sizeof(t), STRINGS());
}

static void build(struct smbios *s)
{
	const struct guest_memory *mem = s->dev.env->mem;
	struct type32 boot = {.status = 0};
	struct header end;

	s->len = 0;
	s->full = false;
	add_bios(s);
	add_system(s);
	add_chassis(s);
	add_cpu(s);
	add_memory_array(s, mem->size);
	add_dimm(s, mem->size);
	for (u32 i = 0; i < mem->nslots; i++) {
		if (!mem->slots[i].readonly)
			add_range(s, i, &mem->slots[i]);
	}
	add(s, 32, H_BOOT, &boot, sizeof(boot), STRINGS());
	add(s, 127, H_END, &end, sizeof(end), STRINGS());
}

static u8 checksum(const void *p, u32 n)
{
	const u8 *b = p;
	u8 sum = 0;

	while (n--)
		sum += *b++;
	return (u8)-sum;
}

static bool write_tables(struct smbios *s)
{
	struct guest_memory *mem = s->dev.env->mem;
	struct entry_point ep = {.length = sizeof(ep), .major = 3, .revision = 1, .address = LAYOUT_SMBIOS_BASE};

	build(s);
	memcpy(ep.anchor, "_SM3_", 5);
	ep.max_size = s->len;
	ep.checksum = checksum(&ep, sizeof(ep));
	return !s->full && gm_write(mem, LAYOUT_SMBIOS_BASE, s->table, s->len) && gm_write(mem, LAYOUT_SMBIOS_ENTRY, &ep, sizeof(ep));
}

static void smbios_reset(struct device *d)
{
	/* It went well at creation, and nothing that decides about it has changed. */
	if (!write_tables(container_of(d, struct smbios, dev)))
		return;
}

static void smbios_destroy(struct device *d)
{
	free(container_of(d, struct smbios, dev));
}

static const struct device_class smbios_class;

static int smbios_create(struct device_env *env, const struct opts *opts, struct device **out, struct err *e)
{
	struct smbios *s = calloc(1, sizeof(*s));

	if (!s)
		return err_set(e, ENOMEM, "SMBIOS tables: out of memory; free memory on the host");
	s->dev.cls = &smbios_class;
	s->dev.env = env;
	if (!write_tables(s)) {
		free(s);
		return err_set(e, ENOSPC, "SMBIOS tables do not fit below 1 MiB; give the guest at least 1 MiB of memory");
	}
	*out = &s->dev;
	return 0;
}

static const struct device_class smbios_class = {
	.name = "smbios",
	.stage = STAGE_FIRMWARE,
	.summary = "SMBIOS tables",
	.version = 1,
	.create = smbios_create,
	.reset = smbios_reset,
	.destroy = smbios_destroy,
};
DEVICE_REGISTER(smbios_class);
