/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The components of the vector state in c->fpu: where they lie, their initial state, single registers.
 * Source: SDM vol. 1, 13.2 to 13.6; the offsets are the host's, from CPUID leaf 0xd.
 * Threading: the vCPU's thread.
 */
#include "engine/bt/interp_fpu.h"

#include <cpuid.h>

static u64 read_xcr0(void)
{
	u32 lo, hi;

	__asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (u64)hi << 32 | lo;
}

void interp_layout_init(struct interp_layout *l)
{
	struct x86_xsave fx __attribute__((aligned(64)));
	u32 a, b, c, d;

	l->host_xcr0 = read_xcr0();
	l->off[0] = 0;
	l->off[1] = FX_XMM;
	l->size[0] = l->size[1] = 256;
	for (u32 n = 2; n < XF_COUNT; n++) {
		__cpuid_count(0xd, n, a, b, c, d);
		if (!(l->host_xcr0 >> n & 1) || b + a > X86_XSAVE_SIZE)
			continue;
		l->off[n] = b;
		l->size[n] = a;
		l->align64[n] = c & 2;
	}
	__asm__ volatile("fxsave %0" : "=m"(fx));
	memcpy(&l->mxcsr_mask, fx.bytes + FX_MXCSR_MASK, 4);
	if (!l->mxcsr_mask)
		l->mxcsr_mask = 0xffbf;
}

void interp_fpu_reset(const struct interp_layout *l, struct x86_cpu *c, u32 n)
{
	if (n > 0) {
		memset(c->fpu.bytes + l->off[n], 0, l->size[n]);
		return;
	}
	memset(c->fpu.bytes, 0, FX_MXCSR);
	memset(c->fpu.bytes + FX_ST, 0, 128);
	fx_set16(c, FX_FCW, FCW_INIT);
}

bool interp_all_zero(const u8 *p, u32 n)
{
	u64 any = 0, word;

	for (; n >= sizeof(word) && !any; n -= (u32)sizeof(word), p += sizeof(word)) {
		memcpy(&word, p, sizeof(word));
		any = word;
	}
	while (n-- && !any)
		any = *p++;
	return !any;
}

bool interp_fpu_in_use(const struct interp_layout *l, const struct x86_cpu *c, u32 n)
{
	const u8 *p = c->fpu.bytes;

	if (!(fx_get64(c, XS_HEADER) >> n & 1))
		return false;
	if (n > 0)
		return !interp_all_zero(p + l->off[n], l->size[n]);
	return fx_get16(c, FX_FCW) != FCW_INIT || !interp_all_zero(p + 2, FX_MXCSR - 2) || !interp_all_zero(p + FX_ST, 128);
}

void interp_fpu_own(const struct interp *in, struct x86_cpu *c, u64 mask)
{
	const struct interp_layout *l = &in->thunk->lay;
	u64 bv = fx_get64(c, XS_HEADER), missing = mask & ~bv;

	if (likely(!missing))
		return;
	for (u32 n = 0; n < XF_COUNT; n++)
		if (missing >> n & 1)
			interp_fpu_reset(l, c, n);
	fx_set64(c, XS_HEADER, bv | mask);
}

void interp_vec_read(const struct interp *in, const struct x86_cpu *c, u32 r, u32 bytes, void *buf)
{
	const struct interp_layout *l = &in->thunk->lay;
	u8 *out = buf;

	if (r >= 16) {
		memcpy(out, c->fpu.bytes + l->off[7] + 64 * (r - 16), bytes);
		return;
	}
	memcpy(out, c->fpu.bytes + FX_XMM + 16 * r, 16);
	if (bytes > 16)
		memcpy(out + 16, c->fpu.bytes + l->off[2] + 16 * r, 16);
	if (bytes > 32)
		memcpy(out + 32, c->fpu.bytes + l->off[6] + 32 * r, 32);
}

void interp_vec_write(const struct interp *in, struct x86_cpu *c, u32 r, u32 bytes, const void *buf)
{
	const struct interp_layout *l = &in->thunk->lay;
	u8 v[64] = {0};

	memcpy(v, buf, bytes);
	if (r >= 16) {
		memcpy(c->fpu.bytes + l->off[7] + 64 * (r - 16), v, 64);
		return;
	}
	memcpy(c->fpu.bytes + FX_XMM + 16 * r, v, 16);
	if (l->size[2])
		memcpy(c->fpu.bytes + l->off[2] + 16 * r, v + 16, 16);
	if (l->size[6])
		memcpy(c->fpu.bytes + l->off[6] + 32 * r, v + 32, 32);
}

u64 interp_mask_read(const struct interp *in, const struct x86_cpu *c, u32 k)
{
	return fx_get64(c, in->thunk->lay.off[5] + 8 * k);
}

void interp_mask_write(const struct interp *in, struct x86_cpu *c, u32 k, u64 v)
{
	fx_set64(c, in->thunk->lay.off[5] + 8 * k, v);
}
