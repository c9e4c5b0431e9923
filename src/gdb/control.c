/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a debugger writes into control registers and EFER, by the rules of the instructions that write them.
 *
 * The rules work on a copy of the CPU whose environment is guest RAM, where the PDPTEs of PAE paging lie, and nothing else: what they tell an
 * engine, to drop translations and to look at the mode anew, is for the vCPU's thread. The engine does all that when it hears that registers
 * were written (gdb.h, changed).
 *
 * Contract and threading: registers.h.
 */
#include "gdb/registers.h"

#define MSR_EFER 0xc0000080u

static u64 nothing_there(void *opaque, gpa_t gpa, u32 size)
{
	return ~0ull;
}

static bool write_in_ring0(enum gdb_control which, struct x86_cpu *c, u64 v)
{
	static const u8 number[] = {[GDB_CR0] = 0, [GDB_CR2] = 2, [GDB_CR3] = 3, [GDB_CR4] = 4};

	c->seg[SEG_SS].attr &= ~SEGA_DPL;
	return which == GDB_EFER ? x86_wrmsr(c, MSR_EFER, v) : x86_write_cr(c, number[which], v);
}

/* What ring 0 would not meet, because it is ring 0: real mode, which has no other ring; and WRMSR ignores LMA, which a person may mean. */
static bool means_what_it_does(enum gdb_control which, const struct x86_cpu *c, u64 v)
{
	if (which == GDB_CR0 && !(v & CR0_PE) && x86_protected(c))
		return x86_cpl(c) == 0;
	return which != GDB_EFER || !((v ^ c->msr.efer) & EFER_LMA);
}

bool gdb_control_set(enum gdb_control which, struct x86_cpu *c, u64 *cr8, u64 v)
{
	struct x86_env ram_only = {.opaque = c->env->opaque, .ram = c->env->ram, .mmio_read = nothing_there};
	struct x86_cpu copy = *c;

	if (which == GDB_CR8) {
		if (v > 15)
			return false;
		*cr8 = v;
		return true;
	}
	copy.env = &ram_only;
	copy.traced = false;
	if (!means_what_it_does(which, c, v) || !write_in_ring0(which, &copy, v))
		return false;
	c->cr0 = copy.cr0;
	c->cr2 = copy.cr2;
	c->cr3 = copy.cr3;
	c->cr4 = copy.cr4;
	c->msr.efer = copy.msr.efer;
	return true;
}
