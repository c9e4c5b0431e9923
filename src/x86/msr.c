/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Model-specific registers: one table row each. Rows say who has the register, where its value lives, which bits a write must leave alone
 * and what else a write does. Registers of the local APIC and KVM's paravirtual ones live outside and go to the environment; the MTRRs are
 * in mtrr.c. Everything else raises #GP.
 * Source: SDM vol. 4; AMD APM vol. 2, appendix A; AMD PPR for family 19h.
 *
 * Threading: the vCPU's thread.
 */
#include "x86/internal.h"

#define MSR_APIC_BASE 0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC_FIRST 0x800u
#define MSR_X2APIC_LAST 0x8ffu
#define MSR_KVM_FIRST 0x4b564d00u
#define MSR_KVM_LAST 0x4b564dffu
#define MSR_PLATFORM_INFO_MHZ_STEP 100000u /* kHz in one ratio step */

enum msr_vendor { ANY, AMD, INTEL };
enum msr_rule {
	STORED,	   /* reserved bits must be 0 */
	CANONICAL, /* must be a canonical address */
	FIXED,	   /* reads as `fixed`; writes are ignored */
	READ_ONLY, /* reads as `fixed`; writes raise #GP */
	CALLED,	   /* through the functions */
};

struct msr_row {
	u32 msr;
	enum msr_vendor vendor;
	enum msr_rule rule;
	u32 offset;   /* of the u64 in struct x86_cpu; 0: none */
	u64 reserved; /* STORED: a write that sets one of these raises #GP */
	u64 fixed;
	bool (*read)(struct x86_cpu *c, u64 *val);
	bool (*write)(struct x86_cpu *c, u64 val);
	/* Present only when this CPUID bit is announced (reg 0-3 = eax-edx); leaf 0: always. */
	u32 leaf;
	u8 reg, bit;
};

#define AT(member) offsetof(struct x86_cpu, member)

/* ---- registers with a will of their own ---- */

static bool efer_write(struct x86_cpu *c, u64 val)
{
	u64 old = c->msr.efer, settable = EFER_SCE;

	if (x86_cpuid_has(c->cpuid, 0x80000001, 0, 3, 20))
		settable |= EFER_NXE;
	if (x86_cpuid_has(c->cpuid, 0x80000001, 0, 3, 29))
		settable |= EFER_LME;
	if (x86_cpuid_has(c->cpuid, 0x80000001, 0, 3, 25))
		settable |= EFER_FFXSR;
	if (x86_cpuid_has(c->cpuid, 0x80000021, 0, 0, 8))
		settable |= 1u << 21; /* AutoIBRS */
	if (val & ~(settable | EFER_LMA) || ((val ^ old) & EFER_LME && x86_paging(c)))
		return false;
	c->msr.efer = (val & settable) | (old & EFER_LMA);
	if ((val ^ old) & EFER_NXE)
		x86_flush_all(c);
	if (c->msr.efer != old)
		x86_notify_mode(c);
	return true;
}

static bool tsc_read(struct x86_cpu *c, u64 *val)
{
	*val = c->env->tsc(c->env->opaque);
	return true;
}

/* TSC and TSC_ADJUST move together (SDM vol. 3, 17.17.3). */
static void tsc_shift(struct x86_cpu *c, u64 delta)
{
	c->tsc_offset += delta;
	c->msr.tsc_adjust += delta;
	x86_notify_mode(c);
}

static bool tsc_write(struct x86_cpu *c, u64 val)
{
	tsc_shift(c, val - c->env->tsc(c->env->opaque));
	return true;
}

static bool tsc_adjust_write(struct x86_cpu *c, u64 val)
{
	tsc_shift(c, val - c->msr.tsc_adjust);
	return true;
}

static bool pat_write(struct x86_cpu *c, u64 val)
{
	if (!x86_pat_valid(val))
		return false;
	c->msr.pat = val;
	return true;
}

/* AMD ignores the upper half, Intel refuses it. */
static bool tsc_aux_write(struct x86_cpu *c, u64 val)
{
	if (val >> 32 && !x86_is_amd(c))
		return false;
	c->msr.tsc_aux = (u32)val;
	return true;
}

static bool sfmask_write(struct x86_cpu *c, u64 val)
{
	c->msr.sfmask = (u32)val;
	return true;
}

static bool platform_info_read(struct x86_cpu *c, u64 *val)
{
	u32 out[4];

	x86_cpuid(c, 0, 0x40000010, 0, out);
	*val = (u64)((out[0] / MSR_PLATFORM_INFO_MHZ_STEP) & 0xff) << 8;
	return true;
}

#define PRED_CMD_IBPB 1u

/* A barrier has nothing to remember. */
static bool pred_cmd_write(struct x86_cpu *c, u64 val)
{
	return !(val & ~(u64)PRED_CMD_IBPB);
}

/* ---- the table ---- */

static const struct msr_row rows[] = {
	{.msr = 0x00000000, .rule = FIXED},					   /* P5_MC_ADDR */
	{.msr = 0x00000001, .rule = FIXED},					   /* P5_MC_TYPE */
	{.msr = 0x00000010, .rule = CALLED, .read = tsc_read, .write = tsc_write}, /* TIME_STAMP_COUNTER */
	{.msr = 0x00000017, .vendor = INTEL, .rule = READ_ONLY},		   /* PLATFORM_ID */
	{.msr = 0x0000002a, .vendor = INTEL, .rule = FIXED},			   /* EBL_CR_POWERON */
	{.msr = 0x0000003a, .vendor = INTEL, .rule = READ_ONLY, .fixed = 1},	   /* FEATURE_CONTROL: locked, all off */
	{.msr = 0x0000003b, .rule = CALLED, .offset = AT(msr.tsc_adjust), .write = tsc_adjust_write, .leaf = 7, .reg = 1, .bit = 1},
	{.msr = 0x00000048, .offset = AT(msr.spec_ctrl), .reserved = ~7ull, .leaf = 7, .reg = 3, .bit = 26}, /* SPEC_CTRL */
	{.msr = 0x00000049, .rule = CALLED, .write = pred_cmd_write, .leaf = 7, .reg = 3, .bit = 26},	     /* PRED_CMD */
	{.msr = 0x00000079, .rule = FIXED},						    /* BIOS_UPDT_TRIG: no update loaded */
	{.msr = 0x0000008b, .vendor = AMD, .rule = FIXED, .fixed = 0x01000065},		    /* PATCH_LEVEL */
	{.msr = 0x0000008b, .vendor = INTEL, .rule = FIXED, .fixed = 0x100000000ull},	    /* BIOS_SIGN_ID */
	{.msr = 0x000000ce, .vendor = INTEL, .rule = CALLED, .read = platform_info_read},   /* PLATFORM_INFO */
	{.msr = 0x0000010a, .rule = READ_ONLY, .fixed = 1, .leaf = 7, .reg = 3, .bit = 29}, /* ARCH_CAPABILITIES: RDCL_NO */
	{.msr = 0x00000140, .vendor = INTEL, .rule = STORED, .reserved = ~0ull},	    /* MISC_FEATURES_ENABLES: none */
	{.msr = 0x00000174, .offset = AT(msr.sysenter_cs)},
	{.msr = 0x00000175, .rule = CANONICAL, .offset = AT(msr.sysenter_esp)},
	{.msr = 0x00000176, .rule = CANONICAL, .offset = AT(msr.sysenter_eip)},
	{.msr = 0x00000179, .rule = READ_ONLY, .leaf = 1, .reg = 3, .bit = 14}, /* MCG_CAP: no banks, no MCG_CTL */
	{.msr = 0x0000017a, .offset = AT(msr.mcg_status), .reserved = ~7ull, .leaf = 1, .reg = 3, .bit = 14}, /* MCG_STATUS */
	{.msr = 0x00000199, .vendor = INTEL, .rule = FIXED},						      /* PERF_CTL */
	{.msr = 0x000001a0, .vendor = INTEL, .offset = AT(msr.misc_enable)},				      /* MISC_ENABLE */
	{.msr = 0x000001d9, .offset = AT(msr.debugctl), .reserved = ~3ull},				      /* DEBUGCTL: LBR, BTF */
	{.msr = 0x000001db, .rule = READ_ONLY},						  /* LASTBRANCHFROMIP: nothing recorded */
	{.msr = 0x000001dc, .rule = READ_ONLY},						  /* LASTBRANCHTOIP */
	{.msr = 0x000001dd, .rule = READ_ONLY},						  /* LASTINTFROMIP */
	{.msr = 0x000001de, .rule = READ_ONLY},						  /* LASTINTTOIP */
	{.msr = 0x00000277, .rule = CALLED, .offset = AT(msr.pat), .write = pat_write},	  /* PAT */
	{.msr = 0xc0000080, .rule = CALLED, .offset = AT(msr.efer), .write = efer_write}, /* EFER */
	{.msr = 0xc0000081, .offset = AT(msr.star)},
	{.msr = 0xc0000082, .rule = CANONICAL, .offset = AT(msr.lstar)},
	{.msr = 0xc0000083, .rule = CANONICAL, .offset = AT(msr.cstar)},
	{.msr = 0xc0000084, .rule = CALLED, .offset = AT(msr.sfmask), .write = sfmask_write},
	{.msr = 0xc0000100, .rule = CANONICAL, .offset = AT(seg[SEG_FS].base)},
	{.msr = 0xc0000101, .rule = CANONICAL, .offset = AT(seg[SEG_GS].base)},
	{.msr = 0xc0000102, .rule = CANONICAL, .offset = AT(msr.kernel_gs_base)},
	{.msr = 0xc0000103, .rule = CALLED, .offset = AT(msr.tsc_aux), .write = tsc_aux_write, .leaf = 0x80000001, .reg = 3, .bit = 27},
	{.msr = 0xc0010010, .vendor = AMD, .offset = AT(msr.syscfg), .reserved = ~0x7c0000ull}, /* SYSCFG: MTRR bits */
	{.msr = 0xc0010015, .vendor = AMD, .offset = AT(msr.hwcr), .reserved = ~0x1040148ull},	/* HWCR */
	{.msr = 0xc001001a, .vendor = AMD, .rule = FIXED},					/* TOP_MEM */
	{.msr = 0xc001001d, .vendor = AMD, .rule = FIXED},					/* TOP_MEM2 */
	{.msr = 0xc001001f, .vendor = AMD, .rule = FIXED},					/* NB_CFG */
	{.msr = 0xc0010020, .vendor = AMD, .rule = FIXED},					/* PATCH_LOADER: no update loaded */
	{.msr = 0xc0010055, .vendor = AMD, .rule = FIXED},					/* INT_PENDING */
	{.msr = 0xc0010058, .vendor = AMD, .rule = FIXED},					/* MMIO_CONF_BASE */
	{.msr = 0xc0010112, .vendor = AMD, .rule = FIXED},					/* TSEG_ADDR */
	{.msr = 0xc0010113, .vendor = AMD, .rule = FIXED},					/* TSEG_MASK */
	{.msr = 0xc0011022, .vendor = AMD, .rule = FIXED},					/* DC_CFG */
	{.msr = 0xc0011029, .vendor = AMD, .rule = FIXED, .fixed = 2},				/* DE_CFG: LFENCE serialises */
	{.msr = 0xc001102a, .vendor = AMD, .rule = FIXED},					/* BU_CFG2 */
};

static bool vendor_has(const struct x86_cpu *c, enum msr_vendor v)
{
	return v == ANY || (v == AMD) == x86_is_amd(c);
}

static bool announced(const struct x86_cpu *c, const struct msr_row *r)
{
	return vendor_has(c, r->vendor) && (!r->leaf || x86_cpuid_has(c->cpuid, r->leaf, 0, r->reg, r->bit));
}

/* The rows are sorted; at most two share a number. */
static const struct msr_row *find_row(const struct x86_cpu *c, u32 msr)
{
	u32 low = 0, high = ARRAY_SIZE(rows);

	while (low < high) {
		u32 mid = (low + high) / 2;

		if (rows[mid].msr < msr)
			low = mid + 1;
		else
			high = mid;
	}
	for (; low < ARRAY_SIZE(rows) && rows[low].msr == msr; low++)
		if (announced(c, &rows[low]))
			return &rows[low];
	return NULL;
}

static bool lives_outside(u32 msr)
{
	return (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST) || msr == MSR_TSC_DEADLINE || msr == MSR_APIC_BASE ||
	       (msr >= MSR_KVM_FIRST && msr <= MSR_KVM_LAST);
}

static u64 *stored_at(struct x86_cpu *c, const struct msr_row *r)
{
	return (u64 *)((u8 *)c + r->offset);
}

static bool row_read(struct x86_cpu *c, const struct msr_row *r, u64 *val)
{
	if (r->read)
		return r->read(c, val);
	if (r->rule == CALLED && !r->offset)
		return false; /* write only */
	*val = r->offset ? *stored_at(c, r) : r->fixed;
	return true;
}

static bool row_write(struct x86_cpu *c, const struct msr_row *r, u64 val)
{
	switch (r->rule) {
	case CALLED:
		return r->write && r->write(c, val);
	case FIXED:
		return true;
	case READ_ONLY:
		return false;
	case CANONICAL:
		if (!x86_canonical(val))
			return false;
		break;
	case STORED:
		if (val & r->reserved)
			return false;
		break;
	}
	if (r->offset)
		*stored_at(c, r) = val;
	return true;
}

bool x86_msr_read(struct x86_cpu *c, u32 msr, u64 *val)
{
	const struct msr_row *r;

	if (lives_outside(msr))
		return c->env->msr_read(c->env->opaque, msr, val);
	r = find_row(c, msr);
	return r ? row_read(c, r, val) : x86_mtrr_read(c, msr, val);
}

bool x86_msr_write(struct x86_cpu *c, u32 msr, u64 val)
{
	const struct msr_row *r;

	if (lives_outside(msr))
		return c->env->msr_write(c->env->opaque, msr, val);
	r = find_row(c, msr);
	return r ? row_write(c, r, val) : x86_mtrr_write(c, msr, val);
}

bool x86_rdmsr(struct x86_cpu *c, u32 msr, u64 *val)
{
	bool ok = x86_cpl(c) == 0 && x86_msr_read(c, msr, val);

	if (unlikely(c->traced))
		c->env->trace(c->env->opaque, ok ? TRACE_RDMSR : TRACE_RDMSR_REFUSED, c->rip, msr, ok ? *val : 0, 0);
	return ok || x86_raise_err(c, VEC_GP, 0);
}

bool x86_wrmsr(struct x86_cpu *c, u32 msr, u64 val)
{
	bool ok;

	x86_serialise(); /* of x2APIC registers and the TSC deadline it is not asked for: no harm */
	ok = x86_cpl(c) == 0 && x86_msr_write(c, msr, val);
	if (unlikely(c->traced))
		c->env->trace(c->env->opaque, ok ? TRACE_WRMSR : TRACE_WRMSR_REFUSED, c->rip, msr, val, 0);
	return ok || x86_raise_err(c, VEC_GP, 0);
}
