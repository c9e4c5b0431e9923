/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzing the loaders: the input is a kernel file (bzImage, ELF, multiboot). Whatever it says, boot_load returns, and it either fails with a
 * message or leaves a CPU to run.
 */
#include "boot/boot.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct guest_memory memory;
static char path[64];
static int fd;

static void set_up(void)
{
	struct err e = {0};

	fd = memfd_create("kernel", MFD_CLOEXEC);
	if (fd < 0 || gm_create(&memory, 64 * MiB, &e))
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct boot_config cfg = {.kernel = path, .cmdline = "console=ttyS0", .acpi_rsdp = 0xe0000};
	static struct x86_cpu cpu;
	struct err e = {0};

	if (!memory.map)
		set_up();
	if (ftruncate(fd, 0) || pwrite(fd, data, size, 0) != (ssize_t)size)
		abort();
	if (boot_load(&cfg, &memory, &cpu, &e) && (!e.code || !e.msg[0]))
		abort();
	return 0;
}
