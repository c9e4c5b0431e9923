/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The list of image formats. A format is named by the user, never probed: a guest that writes another format's header into its raw disk
 * must not decide how the host reads that file next time.
 */
#include "block/block.h"

#include <errno.h>
#include <string.h>

static const struct block_format *const formats[] = {&block_raw};

static const struct block_format *find_format(const char *name)
{
	for (u32 i = 0; i < ARRAY_SIZE(formats); i++)
		if (!strcmp(formats[i]->name, name))
			return formats[i];
	return NULL;
}

int block_check_format(const char *path, const char *format, struct err *e)
{
	if (find_format(format))
		return 0;
	return err_set(e, ENOTSUP,
		       "disk '%s': image format '%s' is not supported; only raw is, convert the image with 'qemu-img convert -O raw'", path,
		       format);
}

int block_open(struct block_image **out, const struct block_options *o, const struct block_client *client, struct err *e)
{
	int r = block_check_format(o->path, o->format, e);

	return r ? r : find_format(o->format)->open(out, o, client, e);
}

void block_close(struct block_image *img)
{
	if (img)
		img->format->close(img);
}
