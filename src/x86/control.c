/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CR0, CR2, CR3, CR4, CR8, XCR0 and INVPCID: what may be written, what it switches on, which translations it makes stale.
 * Source: SDM vol. 3, 2.5 and 2.6, 4.1 (paging modes), 4.10.1 (PCID), 4.10.4 (invalidation), 9.8.5 (long mode activation); vol. 2, MOV CR.
 *
 * Translations are also dropped when CR0.WP, CR4.SMEP or CR4.SMAP change, although the manual asks for less: an engine may keep the rights
 * they decide inside its cached translations.
 * Threading: the vCPU's thread.
 */
#include "x86/internal.h"

#define CR0_DEFINED (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define CR3_NO_FLUSH (1ull << 63)
#define XCR0_X87 1ull
#define XCR0_SSE 2ull
#define XCR0_AVX 4ull
#define XCR0_AVX512 0xe0ull

static bool gp0(struct x86_cpu *c)
{
	return x86_raise_err(c, VEC_GP, 0);
}

/* PAE paging outside long mode: the PDPTEs are checked when it is entered or its CR3 changes. */
static bool pae_tables_ok(struct x86_cpu *c, u64 cr0, u64 cr4, u64 cr3)
{
	bool pae = cr0 & CR0_PG && cr4 & CR4_PAE && !(c->msr.efer & EFER_LME);

	return !pae || x86_pdptes_valid(c, cr3);
}

/* ---- CR0 ---- */

static bool enable_paging_ok(struct x86_cpu *c)
{
	if (!(c->msr.efer & EFER_LME))
		return true;
	return c->cr4 & CR4_PAE && !(c->seg[SEG_CS].attr & SEGA_L);
}

static bool disable_paging_ok(struct x86_cpu *c)
{
	return !(c->cr4 & CR4_PCIDE) && !x86_code64(c);
}

static bool cr0_ok(struct x86_cpu *c, u64 val)
{
	u64 changed = val ^ c->cr0;

	if (val >> 32 || (val & CR0_PG && !(val & CR0_PE)) || (val & CR0_NW && !(val & CR0_CD)))
		return false;
	if (changed & CR0_PG && !(val & CR0_PG ? enable_paging_ok(c) : disable_paging_ok(c)))
		return false;
	return !(changed & CR0_PG) || pae_tables_ok(c, val, c->cr4, c->cr3);
}

static bool write_cr0(struct x86_cpu *c, u64 val)
{
	u64 changed;

	if (!cr0_ok(c, val))
		return gp0(c);
	val = (val & CR0_DEFINED) | CR0_ET;
	changed = val ^ c->cr0;
	c->cr0 = val;
	if (changed & CR0_PG) {
		bool active = val & CR0_PG && c->msr.efer & EFER_LME;

		c->msr.efer = (c->msr.efer & ~(u64)EFER_LMA) | (active ? EFER_LMA : 0);
	}
	if (changed & (CR0_PG | CR0_WP))
		x86_flush_all(c);
	if (changed)
		x86_notify_mode(c);
	return true;
}

/* ---- CR3 ---- */

static bool cr3_ok(struct x86_cpu *c, u64 val)
{
	if (x86_long_mode(c))
		return !(val >> c->cpuid->phys_bits);
	return pae_tables_ok(c, c->cr0, c->cr4, val);
}

static bool write_cr3(struct x86_cpu *c, u64 val)
{
	bool keep = false;

	if (c->cr4 & CR4_PCIDE) {
		keep = (val & CR3_NO_FLUSH) != 0;
		val &= ~CR3_NO_FLUSH;
	}
	if (!cr3_ok(c, val))
		return gp0(c);
	c->cr3 = val;
	if (!keep)
		x86_flush_pcid(c, c->cr4 & CR4_PCIDE ? val & 0xfff : 0);
	x86_notify_mode(c);
	return true;
}

/* ---- CR4 ---- */

#define CR4_FLUSHES (CR4_PGE | CR4_PAE | CR4_PSE | CR4_SMEP | CR4_SMAP | CR4_PCIDE)

static bool cr4_ok(struct x86_cpu *c, u64 val)
{
	u64 changed = val ^ c->cr4;

	if (val & c->cpuid->cr4_reserved)
		return false;
	if (x86_long_mode(c) && !(val & CR4_PAE))
		return false;
	if (changed & val & CR4_PCIDE && (!x86_long_mode(c) || c->cr3 & 0xfff))
		return false;
	return !(changed & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP)) || pae_tables_ok(c, c->cr0, val, c->cr3);
}

static bool write_cr4(struct x86_cpu *c, u64 val)
{
	u64 changed = val ^ c->cr4;

	if (!cr4_ok(c, val))
		return gp0(c);
	c->cr4 = val;
	if (changed & CR4_FLUSHES)
		x86_flush_all(c);
	if (changed)
		x86_notify_mode(c);
	return true;
}

/* ---- all of them ---- */

static bool write_cr8(struct x86_cpu *c, u64 val)
{
	if (val > 15)
		return gp0(c);
	c->env->cr8_write(c->env->opaque, val);
	return true;
}

bool x86_write_cr(struct x86_cpu *c, u32 n, u64 val)
{
	if (x86_cpl(c) != 0)
		return gp0(c);
	if (n != 8)
		x86_serialise();
	switch (n) {
	case 0:
		return write_cr0(c, val);
	case 2:
		c->cr2 = val;
		return true;
	case 3:
		return write_cr3(c, val);
	case 4:
		return write_cr4(c, val);
	case 8:
		return write_cr8(c, val);
	default:
		return x86_raise(c, VEC_UD);
	}
}

bool x86_read_cr(struct x86_cpu *c, u32 n, u64 *val)
{
	if (x86_cpl(c) != 0)
		return gp0(c);
	switch (n) {
	case 0:
		*val = c->cr0;
		return true;
	case 2:
		*val = c->cr2;
		return true;
	case 3:
		*val = c->cr3;
		return true;
	case 4:
		*val = c->cr4;
		return true;
	case 8:
		*val = c->env->cr8_read(c->env->opaque);
		return true;
	default:
		return x86_raise(c, VEC_UD);
	}
}

static bool xcr0_ok(const struct x86_cpu *c, u64 val)
{
	if (!(val & XCR0_X87) || val & ~c->cpuid->xcr0_supported)
		return false;
	if (val & XCR0_AVX && !(val & XCR0_SSE))
		return false;
	return !(val & XCR0_AVX512) || ((val & XCR0_AVX512) == XCR0_AVX512 && val & XCR0_AVX);
}

bool x86_xsetbv(struct x86_cpu *c, u32 n, u64 val)
{
	if (!(c->cr4 & CR4_OSXSAVE))
		return x86_raise(c, VEC_UD);
	if (x86_cpl(c) != 0 || n != 0 || !xcr0_ok(c, val))
		return gp0(c);
	c->xcr0 = val;
	x86_notify_mode(c);
	return true;
}

enum invpcid_type { INVPCID_ADDRESS, INVPCID_CONTEXT, INVPCID_ALL, INVPCID_ALL_NONGLOBAL };

static void invpcid(struct x86_cpu *c, u64 type, u16 pcid, gva_t addr)
{
	struct x86_env *env = c->env;

	if (type == INVPCID_ADDRESS && env->tlb_flush_page_pcid)
		env->tlb_flush_page_pcid(env->opaque, addr, pcid);
	else if (type == INVPCID_CONTEXT)
		x86_flush_pcid(c, pcid);
	else if (type == INVPCID_ALL)
		x86_flush_all(c);
	else if (type == INVPCID_ALL_NONGLOBAL && env->tlb_flush_nonglobal)
		env->tlb_flush_nonglobal(env->opaque);
}

bool x86_invpcid(struct x86_cpu *c, u64 type, gva_t desc)
{
	u64 d[2];

	if (x86_cpl(c) != 0 || type > INVPCID_ALL_NONGLOBAL)
		return gp0(c);
	x86_serialise(); /* Intel's list lacks it, but has INVLPG and MOV CR3, in whose place it is used */
	if (!x86_read(c, desc, d, 16, x86_acc(c, ACC_READ)))
		return false;
	if (d[0] >> 12 || (type <= INVPCID_CONTEXT && d[0] && !(c->cr4 & CR4_PCIDE)) || (type == INVPCID_ADDRESS && !x86_canonical(d[1])))
		return gp0(c);
	invpcid(c, type, (u16)d[0], d[1]);
	return true;
}
