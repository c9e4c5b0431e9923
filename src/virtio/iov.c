/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Walks over vectors of memory pieces. See iov.h.
 */
#include "virtio/iov.h"

#include <string.h>

typedef void (*piece_fn)(void *piece, void *buf, size_t n);

static void piece_read(void *piece, void *buf, size_t n)
{
	memcpy(buf, piece, n);
}
static void piece_write(void *piece, void *buf, size_t n)
{
	memcpy(piece, buf, n);
}

static size_t iov_each(const struct iovec *iov, u32 n, size_t skip, u8 *buf, size_t len, piece_fn fn)
{
	size_t done = 0;

	for (u32 i = 0; i < n && done < len; i++) {
		size_t take;

		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		take = iov[i].iov_len - skip < len - done ? iov[i].iov_len - skip : len - done;
		fn((u8 *)iov[i].iov_base + skip, buf + done, take);
		done += take;
		skip = 0;
	}
	return done;
}

size_t iov_read(const struct iovec *iov, u32 n, size_t skip, void *buf, size_t len)
{
	return iov_each(iov, n, skip, buf, len, piece_read);
}

size_t iov_write(const struct iovec *iov, u32 n, size_t skip, const void *buf, size_t len)
{
	return iov_each(iov, n, skip, (u8 *)(uintptr_t)buf, len, piece_write);
}

u32 iov_slice(const struct iovec *iov, u32 n, size_t skip, size_t len, struct iovec *out)
{
	u32 used = 0;

	for (u32 i = 0; i < n && len; i++) {
		size_t take;

		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		take = iov[i].iov_len - skip < len ? iov[i].iov_len - skip : len;
		out[used++] = (struct iovec){(u8 *)iov[i].iov_base + skip, take};
		len -= take;
		skip = 0;
	}
	return used;
}
