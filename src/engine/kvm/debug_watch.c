/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watched memory by its contents: a step that leaves others has written. Reads are not seen, nor writes of what was there already; writes by other
 * CPUs and devices look like this one's. A checksum of each piece is kept, as a piece may be of any length.
 *
 * Threading: the vCPU's thread, between runs.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>

#define CHUNK 256u

/* What is not mapped, or no RAM, does not change. */
bool kvm_read_linear(struct kvm_vcpu *v, gva_t gva, void *buf, u32 len)
{
	struct kvm_translation t = {.linear_address = gva};

	return kvm_call(v->fd, KVM_TRANSLATE, &t) == 0 && t.valid && gm_read(v->vm->gm, t.physical_address, buf, len);
}

static u64 checksum(struct kvm_vcpu *v, const struct x86_watchpoint *w)
{
	u64 sum = 0xcbf29ce484222325ull; /* FNV-1a */
	u8 bytes[CHUNK];
	u32 part;

	for (u64 at = 0; at < w->len; at += part) {
		gva_t gva = w->gva + at;

		part = CHUNK - (u32)(gva % CHUNK);
		if (part > w->len - at)
			part = (u32)(w->len - at);
		if (!kvm_read_linear(v, gva, bytes, part))
			continue;
		for (u32 i = 0; i < part; i++)
			sum = (sum ^ bytes[i]) * 0x100000001b3ull;
	}
	return sum;
}

int kvm_watch_start(struct kvm_vcpu *v)
{
	const struct x86_watch *w = &v->debug->watch;
	u64 *sums = realloc(v->sums, (w->n + 1) * sizeof(*sums));

	if (!sums)
		return -ENOMEM;
	v->sums = sums;
	v->nsums = w->n;
	for (u32 i = 0; i < w->n; i++)
		sums[i] = checksum(v, &w->point[i]);
	return 0;
}

/* The run ends with the first, and the next begins with new sums. */
bool kvm_watch_changed(struct kvm_vcpu *v, struct x86_watchpoint *which)
{
	const struct x86_watch *w = &v->debug->watch;

	for (u32 i = 0; i < v->nsums; i++)
		if (w->point[i].writes && checksum(v, &w->point[i]) != v->sums[i]) {
			*which = w->point[i];
			return true;
		}
	return false;
}
