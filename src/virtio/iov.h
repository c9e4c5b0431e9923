/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vectors of memory pieces, as a request holds them: drivers may cut a message anywhere, so nobody may assume where a field lies.
 *
 * Threading: none; the vectors are the caller's. The memory is the guest's and may change while it is read: what is checked must be a copy.
 */
#pragma once

#include "base/types.h"

#include <sys/uio.h>

/* Copies between a buffer and `n` pieces, starting `skip` bytes in. Return the bytes copied, fewer than `len` when the pieces end. */
size_t iov_read(const struct iovec *iov, u32 n, size_t skip, void *buf, size_t len);
size_t iov_write(const struct iovec *iov, u32 n, size_t skip, const void *buf, size_t len);
/* The pieces of [skip, skip+len) as a new vector, which has room for `n`; returns their number. */
u32 iov_slice(const struct iovec *iov, u32 n, size_t skip, size_t len, struct iovec *out);
