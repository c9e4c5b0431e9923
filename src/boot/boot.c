/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loaders' door: looks at the kernel file's first bytes and hands it to the loader that knows it.
 *
 * Threading: main thread.
 */
#include "boot/loader.h"

#include <errno.h>
#include <string.h>

/* What people try instead of a kernel that can be booted. */
static const struct wrong_kind {
	const char *magic;
	u8 len;
	const char *is, *advice;
} wrong_kinds[] = {
	{"\x1f\x8b", 2, "compressed with gzip", "unpack it with gunzip"},
	{"\x28\xb5\x2f\xfd", 4, "compressed with zstd", "unpack it with unzstd"},
	{"\xfd"
	 "7zXZ\0",
	 6, "compressed with xz", "unpack it with unxz"},
	{"BZh", 3, "compressed with bzip2", "unpack it with bunzip2"},
	{"\x5d\x00\x00", 3, "compressed with lzma", "unpack it with unlzma"},
	{"\x04\x22\x4d\x18", 4, "compressed with lz4", "unpack it with unlz4"},
	{"\x02\x21\x4c\x18", 4, "compressed with lz4", "unpack it with unlz4"},
	{"\x89LZO", 4, "compressed with lzop", "unpack it with lzop -d"},
	{"070701", 6, "a cpio archive", "it may be an initrd: give it with --initrd"},
	{"MZ", 2, "an EFI program without a Linux boot header", "give a bzImage or an ELF kernel"},
};

static int refuse_unknown(struct loader *ld, const u8 *head, u64 len)
{
	for (u32 i = 0; i < ARRAY_SIZE(wrong_kinds); i++) {
		const struct wrong_kind *k = &wrong_kinds[i];

		if (len >= k->len && memcmp(head, k->magic, k->len) == 0)
			return err_set(ld->err, ENOEXEC, "the kernel %s is %s; %s", ld->kernel.path, k->is, k->advice);
	}
	return err_set(ld->err, ENOEXEC,
		       "the kernel %s is of no known kind: it has neither a Linux boot header (bzImage) nor a multiboot header, and it is "
		       "not ELF; give one that is",
		       ld->kernel.path);
}

static int load_elf(struct loader *ld)
{
	struct elf_image img;
	u64 entry = 0;
	bool found = false;
	int r = elf_open(ld, &img);

	if (r == 0)
		r = elf_pvh_entry(ld, &img, &found, &entry);
	if (r < 0)
		return r;
	if (!found)
		return err_set(ld->err, ENOEXEC,
			       "the kernel %s is ELF but has neither a PVH note nor a multiboot header; a Linux kernel needs CONFIG_PVH, "
			       "or give its bzImage",
			       ld->kernel.path);
	return pvh_load(ld, &img, entry);
}

static int load(struct loader *ld)
{
	u8 head[BOOT_HEAD];
	u64 len = ld->kernel.size < sizeof(head) ? ld->kernel.size : sizeof(head);
	u64 off;
	int r = file_read(&ld->kernel, 0, head, len, "beginning", ld->err);

	if (r < 0)
		return r;
	if (bzimage_recognise(head, len))
		return bzimage_load(ld);
	if (multiboot_recognise(head, len, &off))
		return multiboot_load(ld, head, len, off);
	if (elf_recognise(head, len))
		return load_elf(ld);
	return refuse_unknown(ld, head, len);
}

int boot_load(const struct boot_config *cfg, struct guest_memory *gm, struct x86_cpu *c, struct err *e)
{
	struct loader ld = {.cfg = cfg, .gm = gm, .cpu = c, .err = e};
	int r = file_open(&ld.kernel, cfg->kernel, "kernel", e);

	if (r < 0)
		return r;
	layout_init(&ld);
	r = load(&ld);
	file_close(&ld.kernel);
	return r;
}
