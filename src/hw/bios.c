/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What kernels expect a PC's firmware to have left below 1 MiB: the interrupt vectors of real mode and the BIOS data area. There are no
 * BIOS services: each answers "not supported" (carry, ah 0x86), so that a kernel which asks on its way up, as Xen's trampoline does,
 * carries on with what its loader told it. Written at creation and at each reset.
 * Source: IBM PS/2 and PC BIOS Interface Technical Reference.
 *
 * Threading: main thread only.
 */
#include "hw/device.h"
#include "hw/layout.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VECTORS 256u
#define BDA 0x400u
#define EBDA LAYOUT_FW_BASE
#define SEGMENT 0xf000u

#define EQUIPMENT_FPU 0x0002u
#define EQUIPMENT_ONE_SERIAL 0x0200u

struct bda {
	u16 serial[4], parallel[3];
	u16 ebda; /* segment */
	u16 equipment;
	u8 test;
	u16 memory_kib; /* below the EBDA */
} __attribute__((packed));

_Static_assert(offsetof(struct bda, ebda) == 0x0e && offsetof(struct bda, memory_kib) == 0x13, "BIOS data area");

/* 16-bit code at SEGMENT:start; each begins at a multiple of 16 from LAYOUT_BIOS_CODE on. */
enum routine { IGNORE, REFUSE, EQUIPMENT, MEMORY, ROUTINES };
#define ROUTINE_SIZE 16u

static const u8 code[ROUTINES][ROUTINE_SIZE] = {
	[IGNORE] = {0xcf}, /* iret */
	[REFUSE] =
		{
			0x55,			/* push bp */
			0x89, 0xe5,		/* mov bp, sp */
			0x80, 0x4e, 0x06, 0x01, /* or byte [bp + 6], 1: the caller's carry */
			0x5d,			/* pop bp */
			0xb4, 0x86,		/* mov ah, 0x86 */
			0xcf,			/* iret */
		},
	[EQUIPMENT] =
		{
			0x1e,		  /* push ds */
			0x31, 0xc0,	  /* xor ax, ax */
			0x8e, 0xd8,	  /* mov ds, ax */
			0xa1, 0x10, 0x04, /* mov ax, [0x410] */
			0x1f,		  /* pop ds */
			0xcf,		  /* iret */
		},
	[MEMORY] =
		{
			0x1e,		  /* push ds */
			0x31, 0xc0,	  /* xor ax, ax */
			0x8e, 0xd8,	  /* mov ds, ax */
			0xa1, 0x13, 0x04, /* mov ax, [0x413] */
			0x1f,		  /* pop ds */
			0xcf,		  /* iret */
		},
};

/* Exceptions and hardware interrupts come back, services refuse. */
static enum routine routine_of(u32 vector)
{
	switch (vector) {
	case 0x11:
		return EQUIPMENT;
	case 0x12:
		return MEMORY;
	case 0x10:
	case 0x13 ... 0x1a:
		return REFUSE;
	default:
		return IGNORE;
	}
}

static bool write_vectors(struct guest_memory *mem)
{
	u32 vector[VECTORS];

	for (u32 i = 0; i < VECTORS; i++)
		vector[i] = SEGMENT << 16 | (u32)(LAYOUT_BIOS_CODE - (SEGMENT << 4) + routine_of(i) * ROUTINE_SIZE);
	return gm_write(mem, 0, vector, sizeof(vector)) && gm_write(mem, LAYOUT_BIOS_CODE, code, sizeof(code));
}

static bool write_data_area(struct guest_memory *mem)
{
	const struct bda bda = {
		.serial = {LAYOUT_UART_PORT},
		.ebda = (u16)(EBDA >> 4),
		.equipment = EQUIPMENT_FPU | EQUIPMENT_ONE_SERIAL,
		.memory_kib = (u16)(EBDA / KiB),
	};
	const u8 ebda_kib = 1;

	return gm_write(mem, BDA, &bda, sizeof(bda)) && gm_write(mem, EBDA, &ebda_kib, sizeof(ebda_kib));
}

static bool write_all(struct guest_memory *mem)
{
	return write_vectors(mem) && write_data_area(mem);
}

static void bios_reset(struct device *d)
{
	write_all(d->env->mem); /* as at creation, when it went well: memory has not become less */
}

static void bios_destroy(struct device *d)
{
	free(d);
}

static const struct device_class bios_class;

static int bios_create(struct device_env *env, const struct opts *opts, struct device **out, struct err *e)
{
	struct device *d = calloc(1, sizeof(*d));

	if (!d)
		return err_set(e, ENOMEM, "BIOS data area: out of memory; free memory on the host");
	d->cls = &bios_class;
	d->env = env;
	if (!write_all(env->mem)) {
		free(d);
		return err_set(e, ENOSPC, "the BIOS data area does not fit; give the guest at least 1 MiB of memory");
	}
	*out = d;
	return 0;
}

static const struct device_class bios_class = {
	.name = "bios",
	.stage = STAGE_FIRMWARE,
	.summary = "BIOS data area and real-mode vectors",
	.version = 1,
	.create = bios_create,
	.reset = bios_reset,
	.destroy = bios_destroy,
};
DEVICE_REGISTER(bios_class);
