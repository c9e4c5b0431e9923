/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Internet checksum (RFC 1071) for frames whose sender left it open: virtio-net's NEEDS_CSUM.
 */
#include "net/net.h"

#include <string.h>

/* The sum in 32-bit words with deferred carries; byte order does not matter to a one's complement sum (RFC 1071, 2(B)). */
static u64 sum_words(const u8 *p, size_t len)
{
	u64 sum[4] = {0};
	u32 w[8];

	for (; len >= sizeof(w); p += sizeof(w), len -= sizeof(w)) {
		memcpy(w, p, sizeof(w));
		for (u32 i = 0; i < 4; i++)
			sum[i] += (u64)w[i] + w[i + 4];
	}
	memset(w, 0, sizeof(w));
	memcpy(w, p, len);
	for (u32 i = 0; i < 8; i++)
		sum[i % 4] += w[i];
	return sum[0] + sum[1] + sum[2] + sum[3];
}

static u16 fold(u64 sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (u16)sum;
}

bool net_finish_checksum(const struct virtio_net_hdr_v1 *h, u8 *frame, size_t len)
{
	size_t start = h->csum_start, at = start + h->csum_offset;
	u16 sum;

	if (!(h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM))
		return true;
	if (at + sizeof(sum) > len || start > at)
		return false;
	/* The field holds the sum of the pseudo header already. */
	sum = (u16)~fold(sum_words(frame + start, len - start));
	if (!sum)
		sum = 0xffff; /* zero means "none" in UDP, and is the same number in TCP */
	memcpy(frame + at, &sum, sizeof(sum));
	return true;
}
