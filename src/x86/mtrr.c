/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory type range registers and PAT: stored and checked as the CPU checks them; guest RAM is write-back whatever they say.
 * Source: SDM vol. 3, 12.11 and 12.12.
 * Threading: the vCPU's thread.
 */
#include "x86/internal.h"

#define MTRR_CAP 0xfeu
#define MTRR_VAR_FIRST 0x200u
#define MTRR_VAR_LAST (MTRR_VAR_FIRST + 2 * X86_MTRR_VAR - 1)
#define MTRR_DEF_TYPE 0x2ffu

static const u16 fixed_msrs[11] = {0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f};

static u64 *fixed_slot(struct x86_cpu *c, u32 msr)
{
	for (u32 i = 0; i < ARRAY_SIZE(fixed_msrs); i++)
		if (fixed_msrs[i] == msr)
			return &c->msr.mtrr_fix[i];
	return NULL;
}

static u64 *variable_slot(struct x86_cpu *c, u32 msr)
{
	u32 i = (msr - MTRR_VAR_FIRST) / 2;

	return msr & 1 ? &c->msr.mtrr_mask[i] : &c->msr.mtrr_base[i];
}

/* UC, WC, WT, WP, WB. */
static bool mtrr_type_ok(u64 type)
{
	return type < 7 && 0x73u >> type & 1;
}

static bool each_byte_ok(u64 val, bool (*ok)(u64))
{
	for (u32 i = 0; i < 8; i++)
		if (!ok(val >> (i * 8) & 0xff))
			return false;
	return true;
}

/* UC, WC, WT, WP, WB, UC-. */
static bool pat_type_ok(u64 type)
{
	return type < 8 && 0xf3u >> type & 1;
}

bool x86_pat_valid(u64 val)
{
	return each_byte_ok(val, pat_type_ok);
}

static bool variable_ok(const struct x86_cpu *c, u32 msr, u64 val)
{
	if (val >> c->cpuid->phys_bits)
		return false;
	if (msr & 1)
		return !(val & 0x7ff);
	return !(val & 0xf00) && mtrr_type_ok(val & 0xff);
}

bool x86_mtrr_read(struct x86_cpu *c, u32 msr, u64 *val)
{
	u64 *slot = fixed_slot(c, msr);

	if (msr == MTRR_CAP)
		*val = X86_MTRR_VAR | 1u << 8 | 1u << 10; /* fixed ranges, write combining */
	else if (msr == MTRR_DEF_TYPE)
		*val = c->msr.mtrr_def;
	else if (msr >= MTRR_VAR_FIRST && msr <= MTRR_VAR_LAST)
		*val = *variable_slot(c, msr);
	else if (slot)
		*val = *slot;
	else
		return false;
	return true;
}

bool x86_mtrr_write(struct x86_cpu *c, u32 msr, u64 val)
{
	u64 *slot = fixed_slot(c, msr);
	bool ok;

	if (msr == MTRR_DEF_TYPE) {
		slot = &c->msr.mtrr_def;
		ok = !(val & ~0xcffull) && mtrr_type_ok(val & 0xff);
	} else if (msr >= MTRR_VAR_FIRST && msr <= MTRR_VAR_LAST) {
		slot = variable_slot(c, msr);
		ok = variable_ok(c, msr, val);
	} else {
		ok = slot && each_byte_ok(val, mtrr_type_ok);
	}
	if (ok)
		*slot = val;
	return ok;
}
