/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CPU's state, over into a cell's signal frame and back. What comes back is what guest code may have made of it.
 *
 * Threading: the vCPU's thread, while the cell waits.
 */
#include "engine/bt/direct.h"

#include <string.h>

#define FL_CELL (FL_ARITH | FL_DF | FL_ID) /* flags that come and go with user code */

static const int gregs[16] = {
	[R_RAX] = REG_RAX, [R_RCX] = REG_RCX, [R_RDX] = REG_RDX, [R_RBX] = REG_RBX, [R_RSP] = REG_RSP, [R_RBP] = REG_RBP,
	[R_RSI] = REG_RSI, [R_RDI] = REG_RDI, [R_R8] = REG_R8,	 [R_R9] = REG_R9,   [R_R10] = REG_R10, [R_R11] = REG_R11,
	[R_R12] = REG_R12, [R_R13] = REG_R13, [R_R14] = REG_R14, [R_R15] = REG_R15,
};

static const u8 data_segments[4] = {SEG_DS, SEG_ES, SEG_FS, SEG_GS};

ucontext_t *direct_frame(const struct bt_cell *c)
{
	return (ucontext_t *)(c->stack + c->frame);
}

static u32 fp_bytes(const struct bt_cell *c)
{
	return c->fp_size < X86_XSAVE_SIZE ? c->fp_size : X86_XSAVE_SIZE;
}

void direct_load(const struct bt_vcpu *v, struct bt_cell *c)
{
	const struct x86_cpu *cpu = &v->cpu;
	const u64 mask = bt_cell_mask();
	greg_t *g = direct_frame(c)->uc_mcontext.gregs;
	for (u32 i = 0; i < 16; i++)
		g[gregs[i]] = (greg_t)cpu->gpr[i];
	g[REG_RIP] = (greg_t)cpu->rip;
	g[REG_EFL] = (greg_t)((cpu->rflags & FL_CELL) | FL_IF | FL_ONE);
	g[REG_CSGSFS] = cpu->seg[SEG_CS].sel | (greg_t)cpu->seg[SEG_SS].sel << 48;
	memcpy(&direct_frame(c)->uc_sigmask, &mask, sizeof mask); /* the C library's is longer */
	for (u32 i = 0; i < 4; i++)
		c->shared->sel[i] = cpu->seg[data_segments[i]].sel;
	c->shared->fs_base = cpu->seg[SEG_FS].base;
	c->shared->gs_base = cpu->seg[SEG_GS].base;
	u8 *fp = c->stack + c->fp;
	memcpy(fp, cpu->fpu.bytes, FP_SOFTWARE);
	memcpy(fp + FP_HEADER, cpu->fpu.bytes + FP_HEADER, fp_bytes(c) - FP_HEADER);
}

/* XRSTOR refuses what is not as it should be, and the guest could have written it. */
static void save_vectors(struct bt_vcpu *v, const struct bt_cell *c)
{
	u8 *to = v->cpu.fpu.bytes;
	const u8 *fp = c->stack + c->fp;
	u64 bv;
	u32 mxcsr;
	memcpy(to, fp, FP_SOFTWARE);
	memset(to + FP_SOFTWARE, 0, FP_HEADER - FP_SOFTWARE);
	memcpy(&bv, fp + FP_HEADER, sizeof bv);
	memcpy(to + FP_STATE, fp + FP_STATE, fp_bytes(c) - FP_STATE);
	memset(to + FP_HEADER, 0, FP_STATE - FP_HEADER);
	bv &= v->xsave_mask;
	memcpy(to + FP_HEADER, &bv, sizeof bv);
	memcpy(&mxcsr, to + 24, sizeof mxcsr);
	mxcsr &= v->direct->host.mxcsr_mask;
	memcpy(to + 24, &mxcsr, sizeof mxcsr);
}

static void save_selector(struct x86_cpu *cpu, u32 seg, u16 sel)
{
	if (sel != cpu->seg[seg].sel && !x86_load_seg(cpu, seg, sel))
		cpu->fault.pending = false; /* the host has a descriptor there and the guest has not */
}

static void save_segments(struct bt_vcpu *v, const struct bt_cell *c)
{
	struct x86_cpu *cpu = &v->cpu;
	for (u32 i = 0; i < 4; i++)
		save_selector(cpu, data_segments[i], c->shared->sel[i]);
	save_selector(cpu, SEG_SS, (u16)(direct_frame(c)->uc_mcontext.gregs[REG_CSGSFS] >> 48));
	u64 fs = c->shared->fs_base, gs = c->shared->gs_base;
	if (x86_canonical(fs))
		cpu->seg[SEG_FS].base = fs;
	if (x86_canonical(gs))
		cpu->seg[SEG_GS].base = gs;
}

void direct_save(struct bt_vcpu *v, const struct bt_cell *c)
{
	struct x86_cpu *cpu = &v->cpu;
	const greg_t *g = direct_frame(c)->uc_mcontext.gregs;
	const u64 mine = FL_CELL | FL_TF | FL_NT | FL_AC;
	for (u32 i = 0; i < 16; i++)
		cpu->gpr[i] = (u64)g[gregs[i]];
	cpu->rip = (u64)g[REG_RIP];
	cpu->rflags = (cpu->rflags & ~(mine | FL_RF)) | ((u64)g[REG_EFL] & mine);
	save_vectors(v, c);
	save_segments(v, c);
	u16 cs = (u16)g[REG_CSGSFS];
	if (cs != cpu->seg[SEG_CS].sel && !x86_far_jump(cpu, cs, cpu->rip, 8, cpu->rip))
		x86_deliver_fault(cpu);
}
