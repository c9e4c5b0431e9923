/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT. Vendors differ and the announced vendor decides: AMD has SYSCALL outside 64-bit mode and no SYSENTER in
 * long mode, Intel the opposite; Intel's SYSRET checks RCX while still at CPL 0, AMD's faults on the first fetch at CPL 3.
 * Source: SDM vol. 2, and AMD APM vol. 3, the four instructions' pages.
 *
 * SYSRET gives SS its full attributes as Intel's does; AMD's keeps stale ones, which no working software relies upon.
 * Threading: the vCPU's thread.
 */
#include "x86/internal.h"

#define CODE_TYPE (TYPE_CODE | TYPE_RW | TYPE_ACCESSED)
#define DATA_TYPE (TYPE_RW | TYPE_ACCESSED)
#define SYSRET_FLAGS 0x3c7fd7ull /* all but RF, VM and reserved bits */

static void set_segments(struct x86_cpu *c, u32 cs, u32 ss, u32 dpl, bool code64)
{
	x86_seg_flat(&c->seg[SEG_CS], cs, CODE_TYPE, dpl, code64 ? SEGA_L : SEGA_DB);
	x86_seg_flat(&c->seg[SEG_SS], ss, DATA_TYPE, dpl, SEGA_DB);
	x86_notify_mode(c);
}

static bool syscall_long(struct x86_cpu *c, u64 next_rip)
{
	u32 cs = (u32)(c->msr.star >> 32) & 0xfffc;

	c->gpr[R_RCX] = next_rip;
	c->gpr[R_R11] = c->rflags & ~(u64)FL_RF;
	c->rip = x86_code64(c) ? c->msr.lstar : c->msr.cstar;
	c->rflags = (c->rflags & ~(c->msr.sfmask | FL_RF)) | FL_ONE;
	set_segments(c, cs, cs + 8, 0, true);
	return true;
}

static bool syscall_legacy(struct x86_cpu *c, u64 next_rip)
{
	u32 cs = (u32)(c->msr.star >> 32) & 0xfffc;

	c->gpr[R_RCX] = (u32)next_rip;
	c->rip = (u32)c->msr.star;
	c->rflags &= ~(u64)(FL_VM | FL_IF | FL_RF);
	set_segments(c, cs, cs + 8, 0, false);
	return true;
}

bool x86_syscall(struct x86_cpu *c, u64 next_rip)
{
	if (!(c->msr.efer & EFER_SCE) || !x86_protected(c))
		return x86_raise(c, VEC_UD);
	if (likely(x86_code64(c)))
		return syscall_long(c, next_rip);
	if (!x86_is_amd(c))
		return x86_raise(c, VEC_UD);
	return x86_long_mode(c) ? syscall_long(c, next_rip) : syscall_legacy(c, next_rip);
}

static bool sysret_legacy(struct x86_cpu *c)
{
	u32 base = (u32)(c->msr.star >> 48) & 0xffff;

	c->rip = (u32)c->gpr[R_RCX];
	c->rflags |= FL_IF;
	set_segments(c, base | 3, (base + 8) | 3, 3, false);
	return true;
}

bool x86_sysret(struct x86_cpu *c, u32 size)
{
	u32 base = (u32)(c->msr.star >> 48) & 0xffff;
	bool amd = x86_is_amd(c), to64 = size == 8;

	if (!(c->msr.efer & EFER_SCE) || !x86_protected(c) || (!amd && !x86_code64(c)))
		return x86_raise(c, VEC_UD);
	if (x86_cpl(c) != 0)
		return x86_raise_err(c, VEC_GP, 0);
	if (!x86_long_mode(c))
		return sysret_legacy(c);
	if (to64 && !amd && !x86_canonical(c->gpr[R_RCX]))
		return x86_raise_err(c, VEC_GP, 0);
	c->rip = to64 ? c->gpr[R_RCX] : (u32)c->gpr[R_RCX];
	c->rflags = (c->gpr[R_R11] & SYSRET_FLAGS) | FL_ONE;
	set_segments(c, (base + (to64 ? 16 : 0)) | 3, (base + 8) | 3, 3, to64);
	return true;
}

/* The conditions SYSENTER and SYSEXIT share. */
static bool sysenter_usable(struct x86_cpu *c)
{
	if (x86_long_mode(c) && x86_is_amd(c))
		return x86_raise(c, VEC_UD);
	return (x86_protected(c) && (c->msr.sysenter_cs & 0xfffc) != 0) || x86_raise_err(c, VEC_GP, 0);
}

bool x86_sysenter(struct x86_cpu *c, u64 next_rip)
{
	bool wide = x86_long_mode(c);
	u32 cs = (u32)c->msr.sysenter_cs & 0xfffc;

	if (!sysenter_usable(c))
		return false;
	c->rflags &= ~(u64)(FL_VM | FL_IF | FL_RF);
	c->gpr[R_RSP] = wide ? c->msr.sysenter_esp : (u32)c->msr.sysenter_esp;
	c->rip = wide ? c->msr.sysenter_eip : (u32)c->msr.sysenter_eip;
	set_segments(c, cs, cs + 8, 0, wide);
	return true;
}

bool x86_sysexit(struct x86_cpu *c, u32 size)
{
	u32 cs = (u32)c->msr.sysenter_cs & 0xfffc;
	u64 rip = c->gpr[R_RDX], rsp = c->gpr[R_RCX];
	bool to64 = size == 8;

	if (!sysenter_usable(c))
		return false;
	if (x86_cpl(c) != 0 || (to64 && (!x86_canonical(rip) || !x86_canonical(rsp))))
		return x86_raise_err(c, VEC_GP, 0);
	c->rip = to64 ? rip : (u32)rip;
	c->gpr[R_RSP] = to64 ? rsp : (u32)rsp;
	set_segments(c, (cs + (to64 ? 32 : 16)) | 3, (cs + (to64 ? 40 : 24)) | 3, 3, to64);
	return true;
}
