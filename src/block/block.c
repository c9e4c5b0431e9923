/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The list of image formats. A format is named by the user, never probed: a guest that writes another format's header into its raw disk
 * must not decide how the host reads that file next time.
 */
#include "block/block.h"

#include <errno.h>
#include <string.h>

static const struct block_format *const formats[] = {&block_raw};

int block_open(struct block_image **out, const struct block_options *o, const struct block_client *client, struct err *e)
{
	for (u32 i = 0; i < ARRAY_SIZE(formats); i++)
		if (!strcmp(formats[i]->name, o->format))
			return formats[i]->open(out, o, client, e);
	return err_set(e, ENOTSUP, "disk '%s': image format '%s' is not supported; only raw is, convert the image with 'qemu-img convert -O raw'",
		       o->path, o->format);
}

void block_close(struct block_image *img)
{
	if (img)
		img->format->close(img);
}
