/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel files made in memory, for the loaders' tests. Each includes this once; state is the test's own. */
#pragma once

#include "boot/boot.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define RAM_SIZE (64 * MiB)

struct memory_file {
	int fd;
	char path[64];
};

static inline struct memory_file file_with(const void *data, size_t size)
{
	struct memory_file f = {.fd = memfd_create("kernel", 0)};

	assert_true(f.fd >= 0);
	assert_int_equal(write(f.fd, data, size), size);
	snprintf(f.path, sizeof(f.path), "/proc/self/fd/%d", f.fd);
	return f;
}

/* The smallest multiboot image. */
static inline struct memory_file smallest_kernel(void)
{
	static const u32 words[8] = {0x1badb002, 0x10000, -(0x1badb002u + 0x10000u), 0x100000, 0x100000, 0, 0, 0x100000};

	return file_with(words, sizeof(words));
}

/* Load `data` as a kernel into fresh RAM. On success the caller destroys *gm. */
static inline int load_bytes(const void *data, size_t size, const char *initrd, const char *cmdline, struct guest_memory *gm,
			     struct x86_cpu *c, struct err *e)
{
	static const struct boot_range reserved[] = {{0xe0000000, 0x100000}};
	struct memory_file f = file_with(data, size);
	struct boot_config cfg = {
		.kernel = f.path, .initrd = initrd, .cmdline = cmdline, .acpi_rsdp = 0xe0000, .reserved = reserved, .nreserved = 1};
	int r;

	memset(c, 0, sizeof(*c));
	*e = (struct err){0};
	assert_int_equal(gm_create(gm, RAM_SIZE, e), 0);
	r = boot_load(&cfg, gm, c, e);
	if (r < 0)
		gm_destroy(gm);
	close(f.fd);
	return r;
}

/* Loading must fail with a message that holds `says`. */
static inline void refused(const void *data, size_t size, const char *cmdline, const char *says)
{
	struct guest_memory gm;
	struct x86_cpu c;
	struct err e;

	if (load_bytes(data, size, NULL, cmdline, &gm, &c, &e) == 0)
		fail_msg("loaded, but should say \"%s\"", says);
	if (!strstr(e.msg, says))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, says);
}

/* Whatever is done to the file, loading ends with success or with a message. */
static inline void load_either_way(const void *data, size_t size)
{
	struct guest_memory gm;
	struct x86_cpu c;
	struct err e;

	if (load_bytes(data, size, NULL, "", &gm, &c, &e) == 0)
		gm_destroy(&gm);
	else
		assert_true(e.msg[0] && e.code);
}

/* Every cut of the file at a 512-byte step, and a few thousand random pokes into its first `poke` bytes. */
static inline void cut_and_poke(const u8 *data, size_t size, size_t poke)
{
	static const u8 values[] = {0, 1, 0x7f, 0x80, 0xff};
	u8 *copy = malloc(size);

	for (size_t cut = 1; cut < size; cut += cut == 1 ? 511 : 512)
		load_either_way(data, cut);
	srand(7);
	for (int round = 0; round < 3000; round++) {
		memcpy(copy, data, size);
		for (int i = rand() % 4; i >= 0; i--) {
			size_t at = (size_t)rand() % poke;

			copy[at] = rand() & 1 ? (u8)rand() : values[rand() % 5];
			for (size_t n = (size_t)rand() % 4; n > 0 && at + n < size; n--)
				copy[at + n] = copy[at];
		}
		load_either_way(copy, size);
	}
	free(copy);
}

static inline const char *guest_string(const struct guest_memory *gm, gpa_t gpa)
{
	const char *s = (const char *)gm_ptr(gm, gpa, 1);

	assert_non_null(s);
	return s;
}
