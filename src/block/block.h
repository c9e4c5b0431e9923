/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk image as a device sees it: so many bytes that can be read, written, flushed, discarded, whatever the file behind looks like.
 *
 * Threading: open and close on the main thread; submit from any thread. Completions come in batches on any thread, perhaps the submitter's
 * before block_submit returns: hold no lock across it that `done` takes.
 */
#pragma once

#include "block/io.h"

struct block_image;

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_ZERO /* may unmap */, BLOCK_ZERO_KEEP /* must not */ };

/* Alive from block_submit to done. The range must lie inside the image and the vector must cover it; both are the caller's to check. */
struct block_req {
	enum block_op op;
	bool durable;
	u64 off, len;
	struct iovec *iov; /* used up */
	u32 niov;
	int result; /* 0 or a negative errno */
	struct io_req io;
};

struct block_client {
	void *opaque;
	void (*done)(void *opaque, struct block_req **reqs, u32 n);
	void (*kicked)(void *opaque); /* after block_kick, on an I/O thread */
};

struct block_options {
	const char *path;
	const char *format; /* "raw"; an image's format is never guessed from its content */
	const char *io;	    /* "auto", "uring", "threads" */
	bool readonly;
	bool unsafe;  /* flush does nothing */
	bool direct;  /* past the host's page cache, except what is not aligned */
	bool discard; /* pass discards on to the host */
	u32 depth;    /* the most requests ever in flight */
};

struct block_format {
	const char *name;
	int (*open)(struct block_image **out, const struct block_options *o, const struct block_client *client, struct err *e);
	void (*submit)(struct block_image *img, struct block_req **reqs, u32 n);
	void (*kick)(struct block_image *img);
	void (*close)(struct block_image *img);
};

struct block_image {
	const struct block_format *format;
	u64 size;	    /* bytes, a multiple of 512 */
	u32 physical_block; /* what the host likes to write at once, a power of two from 512 */
	bool readonly;
};

/* The strings of `o` need not outlive the call. Errors name the file, the reason and the way out. */
/* Is there such an image format? -ENOTSUP with advice if not. */
int block_check_format(const char *path, const char *format, struct err *e) must_check;
int block_open(struct block_image **out, const struct block_options *o, const struct block_client *client, struct err *e) must_check;
void block_close(struct block_image *img); /* nothing may be in flight; NULL is allowed */

static inline void block_submit(struct block_image *img, struct block_req **reqs, u32 n)
{
	img->format->submit(img, reqs, n);
}
/* Have `kicked` called soon, elsewhere. */
static inline void block_kick(struct block_image *img)
{
	img->format->kick(img);
}

#define BLOCK_SECTOR 512u

extern const struct block_format block_raw;
