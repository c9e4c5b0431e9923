/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System instructions: interrupt flag, tables, control registers' short forms, MSRs, time, CPUID, system calls, hypercalls, caches, no-ops.
 * The rules themselves are x86/rules.h's.
 * Threading: the vCPU's thread.
 */
#include "engine/bt/interp_private.h"

static u32 iopl(const struct x86_cpu *c)
{
	return (c->rflags & FL_IOPL) >> FL_IOPL_SHIFT;
}

/* CLI and STI (VME and PVI are not announced). */
static bool may_change_if(struct x86_cpu *c)
{
	if (x86_protected(c) && iopl(c) < x86_cpl(c))
		return x86_raise_err(c, VEC_GP, 0);
	return true;
}

static bool op_cli(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	if (!may_change_if(c))
		return false;
	c->rflags &= ~(u64)FL_IF;
	return true;
}

static bool op_sti(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	if (!may_change_if(c))
		return false;
	if (!(c->rflags & FL_IF))
		c->irq_shadow = true;
	c->rflags |= FL_IF;
	return true;
}

/* CLAC (arg 0), STAC */
static bool op_stac(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	if (x86_cpl(c) != 0)
		return x86_raise(c, VEC_UD);
	c->rflags = i->row->arg ? c->rflags | FL_AC : c->rflags & ~(u64)FL_AC;
	return true;
}

static bool op_hlt(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	c->halted = true;
	return true;
}

static bool op_nop(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	return true;
}

static bool op_fence(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return true;
}

/* CLFLUSH and kin: caches are coherent, but the address is checked like a byte that is read. */
static bool op_clflush(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 acc = x86_acc(c, ACC_READ);
	struct x86_xlat x;
	gva_t lin;

	return interp_linear(c, i->ea.seg, interp_ea(in, c, i), 1, acc, &lin) && x86_translate(c, lin, acc, &x);
}

static bool op_clzero(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	static const u8 zero[64];

	return interp_store_buf(c, i->ea.seg, interp_reg(c, R_RAX, i->asize) & ~63ull, sizeof(zero), zero);
}

/* MOVDIR64B: 64 bytes from memory to the aligned ES:[reg]. */
static bool op_movdir64b(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 dst = interp_reg(c, i->op[0].reg, i->asize);
	u32 acc = x86_acc(c, ACC_WRITE);
	gva_t lin;
	u8 buf[64];

	if (!interp_load_buf(c, i->ea.seg, interp_ea(in, c, i), sizeof(buf), buf) || !interp_linear(c, SEG_ES, dst, sizeof(buf), acc, &lin))
		return false;
	if (lin & 63)
		return x86_raise_err(c, VEC_GP, 0);
	return x86_write(c, lin, buf, sizeof(buf), acc);
}

static bool op_invlpg(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 lin = interp_ea(in, c, i);

	if (!x86_code64(c))
		lin = (u32)(lin + c->seg[i->ea.seg].base);
	else if (i->ea.seg >= SEG_FS)
		lin += c->seg[i->ea.seg].base;
	in->tlb_gen++;
	/* A non-canonical address is not an error; there is nothing to forget. */
	if (x86_canonical(lin) && c->env->tlb_flush_page)
		c->env->tlb_flush_page(c->env->opaque, lin);
	return true;
}

static bool op_invpcid(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	gva_t desc;

	if (!interp_linear(c, i->ea.seg, interp_ea(in, c, i), 16, x86_acc(c, ACC_READ), &desc) ||
	    !x86_invpcid(c, interp_get_gpr(c, &i->op[0]), desc))
		return false;
	in->tlb_gen++;
	return true;
}

static struct x86_dtr *dtr(struct x86_cpu *c, const struct interp_insn *i)
{
	return i->row->arg ? &c->idt : &c->gdt;
}

/* LGDT, LIDT: a 16-bit operand size loads 24 bits of base. */
static bool op_lgdt(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	bool wide = x86_code64(c);
	u64 ea = interp_ea(in, c, i), limit, base;

	if (!interp_load(in, c, i->ea.seg, ea, 2, &limit) ||
	    !interp_load(in, c, i->ea.seg, (ea + 2) & interp_mask(i->asize * 8u), wide ? 8 : 4, &base))
		return false;
	if (!wide && i->osize == 2)
		base &= 0xffffff;
	if (wide && !x86_canonical(base))
		return x86_raise_err(c, VEC_GP, 0);
	dtr(c, i)->limit = (u16)limit;
	dtr(c, i)->base = base;
	return true;
}

static bool op_sgdt(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	const struct x86_dtr *t = dtr(c, i);
	u8 buf[10];

	memcpy(buf, &t->limit, 2);
	memcpy(buf + 2, &t->base, 8);
	return interp_store_buf(c, i->ea.seg, interp_ea(in, c, i), x86_code64(c) ? 10 : 6, buf);
}

/* SLDT (arg 0), STR */
static bool op_sldt(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	return interp_put(in, c, i, 0, i->row->arg ? c->tr.sel : c->ldt.sel);
}

static bool op_lldt(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 sel;

	return interp_get(in, c, i, 0, &sel) && (i->row->arg ? x86_ltr(c, (u16)sel) : x86_lldt(c, (u16)sel));
}

static bool op_smsw(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	return interp_put(in, c, i, 0, c->cr0);
}

/* LMSW sets PE, MP, EM, TS; it cannot clear PE. */
static bool op_lmsw(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 v;

	if (!interp_get(in, c, i, 0, &v))
		return false;
	v = (c->cr0 & ~0xeull) | (v & 0xf);
	return x86_write_cr(c, 0, v);
}

static bool op_clts(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	return x86_write_cr(c, 0, c->cr0 & ~(u64)CR0_TS);
}

/* Into ZF, unless the descriptor's table is not there: that faults. */
static bool answer(struct x86_cpu *c, bool yes)
{
	if (c->fault.pending)
		return false;
	c->rflags = (c->rflags & ~(u64)FL_ZF) | (yes ? FL_ZF : 0);
	return true;
}

/* LAR (arg 0), LSL */
static bool op_lar(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 sel;
	u32 v;
	bool ok;

	if (!interp_get(in, c, i, 1, &sel))
		return false;
	ok = i->row->arg ? x86_lsl(c, (u16)sel, &v) : x86_lar(c, (u16)sel, &v);
	if (ok)
		interp_set_gpr(c, &i->op[0], v);
	return answer(c, ok);
}

/* VERR (arg 0), VERW */
static bool op_verr(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 sel;

	return interp_get(in, c, i, 0, &sel) && answer(c, x86_verify(c, (u16)sel, i->row->arg));
}

static bool op_arpl(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 d, s = interp_get_gpr(c, &i->op[1]);

	if (!interp_get(in, c, i, 0, &d))
		return false;
	if ((d & 3) >= (s & 3)) {
		c->rflags &= ~(u64)FL_ZF;
		return true;
	}
	if (!interp_put(in, c, i, 0, (d & ~3ull) | (s & 3)))
		return false;
	c->rflags |= FL_ZF;
	return true;
}

/* LDS, LES, LSS, LFS, LGS: arg is the segment. The register is written only when the segment is loaded. */
static bool op_lds(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 size = i->op[0].size;
	u64 ea = interp_ea(in, c, i), off, sel;

	if (!interp_load(in, c, i->ea.seg, ea, size, &off) ||
	    !interp_load(in, c, i->ea.seg, (ea + size) & interp_mask(i->asize * 8u), 2, &sel) || !x86_load_seg(c, i->row->arg, (u16)sel))
		return false;
	interp_set_gpr(c, &i->op[0], off);
	return true;
}

static void put_edx_eax(struct x86_cpu *c, u64 v)
{
	c->gpr[R_RAX] = (u32)v;
	c->gpr[R_RDX] = v >> 32;
}

static u64 edx_eax(const struct x86_cpu *c)
{
	return (u32)c->gpr[R_RAX] | c->gpr[R_RDX] << 32;
}

static bool op_rdmsr(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 v;

	if (!x86_rdmsr(c, (u32)c->gpr[R_RCX], &v))
		return false;
	put_edx_eax(c, v);
	return true;
}

static bool op_wrmsr(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	return x86_wrmsr(c, (u32)c->gpr[R_RCX], edx_eax(c));
}

static bool tsc_allowed(struct x86_cpu *c)
{
	if ((c->cr4 & CR4_TSD) && x86_cpl(c) != 0 && x86_protected(c))
		return x86_raise_err(c, VEC_GP, 0);
	return true;
}

/* RDTSC (arg 0), RDTSCP */
static bool op_rdtsc(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	if (!tsc_allowed(c))
		return false;
	if (i->row->arg) /* RDTSCP waits for the loads before it */
		__asm__ volatile("lfence" : : : "memory");
	put_edx_eax(c, c->env->tsc(c->env->opaque));
	if (i->row->arg)
		c->gpr[R_RCX] = (u32)c->msr.tsc_aux;
	return true;
}

static bool op_rdpid(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	interp_set_gpr(c, &i->op[0], (u32)c->msr.tsc_aux);
	return true;
}

/* No performance counter exists. */
static bool op_rdpmc(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	return x86_raise_err(c, VEC_GP, 0);
}

static bool op_cpuid(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 out[4];

	x86_cpuid(c, c->apic_id, (u32)c->gpr[R_RAX], (u32)c->gpr[R_RCX], out);
	c->gpr[R_RAX] = out[0];
	c->gpr[R_RBX] = out[1];
	c->gpr[R_RCX] = out[2];
	c->gpr[R_RDX] = out[3];
	return true;
}

/* XGETBV: 0 is XCR0; 1 (with XGETBV1) says which components are in use, for which XCR0 itself is a right answer. */
static bool op_xgetbv(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 n = (u32)c->gpr[R_RCX];

	if (!(c->cr4 & CR4_OSXSAVE))
		return x86_raise(c, VEC_UD);
	if (n > 1 || (n == 1 && !x86_cpuid_has(c->cpuid, 0xd, 1, 0, 2)))
		return x86_raise_err(c, VEC_GP, 0);
	put_edx_eax(c, c->xcr0);
	return true;
}

static bool op_xsetbv(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	if (!(c->cr4 & CR4_OSXSAVE))
		return x86_raise(c, VEC_UD);
	if (x86_cpl(c) != 0)
		return x86_raise_err(c, VEC_GP, 0);
	return x86_xsetbv(c, (u32)c->gpr[R_RCX], edx_eax(c));
}

static bool fsgsbase_allowed(struct x86_cpu *c)
{
	return (c->cr4 & CR4_FSGSBASE) || x86_raise(c, VEC_UD);
}

/* RDFSBASE, RDGSBASE: arg is the segment. */
static bool op_rdbase(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	if (!fsgsbase_allowed(c))
		return false;
	interp_set_gpr(c, &i->op[0], c->seg[i->row->arg].base);
	return true;
}

static bool op_wrbase(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 v = interp_get_gpr(c, &i->op[0]);

	if (!fsgsbase_allowed(c))
		return false;
	if (!x86_canonical(v))
		return x86_raise_err(c, VEC_GP, 0);
	c->seg[i->row->arg].base = v;
	return true;
}

static bool op_swapgs(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u64 v = c->seg[SEG_GS].base;

	c->seg[SEG_GS].base = c->msr.kernel_gs_base;
	c->msr.kernel_gs_base = v;
	return true;
}

static bool op_syscall(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	if (!(i->row->arg ? x86_sysenter(c, in->next_rip) : x86_syscall(c, in->next_rip)))
		return false;
	in->next_rip = c->rip;
	return true;
}

static bool op_sysret(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	u32 size = i->osize == 8 ? 8 : 4;

	if (!(i->row->arg ? x86_sysexit(c, size) : x86_sysret(c, size)))
		return false;
	in->next_rip = c->rip;
	return true;
}

/* VMCALL and VMMCALL mean the same here, whatever the vendor. */
static bool op_hypercall(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	c->gpr[R_RAX] = c->env->hypercall(c->env->opaque, c);
	return true;
}

static bool op_pause(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	if (c->env->pause)
		c->env->pause(c->env->opaque);
	return true;
}

static bool op_undefined(struct interp *in, struct x86_cpu *c, const struct interp_insn *i)
{
	return x86_raise(c, VEC_UD);
}

#define M(n) ZYDIS_MNEMONIC_##n
static const struct interp_row rows[] = {
	{.mnemonic = M(CLI), .run = op_cli},
	{.mnemonic = M(STI), .run = op_sti},
	{.mnemonic = M(CLAC), .run = op_stac, .arg = 0},
	{.mnemonic = M(STAC), .run = op_stac, .arg = 1},
	{.mnemonic = M(HLT), .run = op_hlt, .attrs = ROW_PRIV},
	{.mnemonic = M(NOP), .run = op_nop},
	{.mnemonic = M(PAUSE), .run = op_pause},
	{.mnemonic = M(ENDBR32), .run = op_nop},
	{.mnemonic = M(ENDBR64), .run = op_nop},
	{.mnemonic = M(PREFETCH), .run = op_nop},
	{.mnemonic = M(PREFETCHNTA), .run = op_nop},
	{.mnemonic = M(PREFETCHT0), .run = op_nop},
	{.mnemonic = M(PREFETCHT1), .run = op_nop},
	{.mnemonic = M(PREFETCHT2), .run = op_nop},
	{.mnemonic = M(PREFETCHW), .run = op_nop},
	{.mnemonic = M(PREFETCHWT1), .run = op_nop},
	{.mnemonic = M(CLDEMOTE), .run = op_nop},
	{.mnemonic = M(LFENCE), .run = op_fence},
	{.mnemonic = M(SFENCE), .run = op_fence},
	{.mnemonic = M(MFENCE), .run = op_fence},
	{.mnemonic = M(SERIALIZE), .run = op_fence},
	{.mnemonic = M(CLFLUSH), .run = op_clflush},
	{.mnemonic = M(CLFLUSHOPT), .run = op_clflush},
	{.mnemonic = M(CLWB), .run = op_clflush},
	{.mnemonic = M(CLZERO), .run = op_clzero},
	{.mnemonic = M(MOVDIR64B), .run = op_movdir64b},
	{.mnemonic = M(INVD), .run = op_nop, .attrs = ROW_PRIV},
	{.mnemonic = M(WBINVD), .run = op_nop, .attrs = ROW_PRIV},
	{.mnemonic = M(INVLPG), .run = op_invlpg, .attrs = ROW_PRIV},
	{.mnemonic = M(INVPCID), .run = op_invpcid, .attrs = ROW_PRIV},
	{.mnemonic = M(LGDT), .run = op_lgdt, .arg = 0, .attrs = ROW_PRIV},
	{.mnemonic = M(LIDT), .run = op_lgdt, .arg = 1, .attrs = ROW_PRIV},
	{.mnemonic = M(SGDT), .run = op_sgdt, .arg = 0, .attrs = ROW_UMIP},
	{.mnemonic = M(SIDT), .run = op_sgdt, .arg = 1, .attrs = ROW_UMIP},
	{.mnemonic = M(SLDT), .run = op_sldt, .arg = 0, .attrs = ROW_UMIP | ROW_PROT},
	{.mnemonic = M(STR), .run = op_sldt, .arg = 1, .attrs = ROW_UMIP | ROW_PROT},
	{.mnemonic = M(SMSW), .run = op_smsw, .attrs = ROW_UMIP},
	{.mnemonic = M(LLDT), .run = op_lldt, .arg = 0, .attrs = ROW_PRIV | ROW_PROT},
	{.mnemonic = M(LTR), .run = op_lldt, .arg = 1, .attrs = ROW_PRIV | ROW_PROT},
	{.mnemonic = M(LMSW), .run = op_lmsw, .attrs = ROW_PRIV},
	{.mnemonic = M(CLTS), .run = op_clts, .attrs = ROW_PRIV},
	{.mnemonic = M(LAR), .run = op_lar, .arg = 0, .attrs = ROW_PROT},
	{.mnemonic = M(LSL), .run = op_lar, .arg = 1, .attrs = ROW_PROT},
	{.mnemonic = M(VERR), .run = op_verr, .arg = 0, .attrs = ROW_PROT},
	{.mnemonic = M(VERW), .run = op_verr, .arg = 1, .attrs = ROW_PROT},
	{.mnemonic = M(ARPL), .run = op_arpl, .attrs = ROW_PROT},
	{.mnemonic = M(LES), .run = op_lds, .arg = SEG_ES},
	{.mnemonic = M(LDS), .run = op_lds, .arg = SEG_DS},
	{.mnemonic = M(LSS), .run = op_lds, .arg = SEG_SS},
	{.mnemonic = M(LFS), .run = op_lds, .arg = SEG_FS},
	{.mnemonic = M(LGS), .run = op_lds, .arg = SEG_GS},
	{.mnemonic = M(RDMSR), .run = op_rdmsr, .attrs = ROW_PRIV},
	{.mnemonic = M(WRMSR), .run = op_wrmsr, .attrs = ROW_PRIV},
	{.mnemonic = M(RDTSC), .run = op_rdtsc, .arg = 0},
	{.mnemonic = M(RDTSCP), .run = op_rdtsc, .arg = 1},
	{.mnemonic = M(RDPID), .run = op_rdpid},
	{.mnemonic = M(RDPMC), .run = op_rdpmc},
	{.mnemonic = M(CPUID), .run = op_cpuid},
	{.mnemonic = M(XGETBV), .run = op_xgetbv},
	{.mnemonic = M(XSETBV), .run = op_xsetbv},
	{.mnemonic = M(RDFSBASE), .run = op_rdbase, .arg = SEG_FS},
	{.mnemonic = M(RDGSBASE), .run = op_rdbase, .arg = SEG_GS},
	{.mnemonic = M(WRFSBASE), .run = op_wrbase, .arg = SEG_FS},
	{.mnemonic = M(WRGSBASE), .run = op_wrbase, .arg = SEG_GS},
	{.mnemonic = M(SWAPGS), .run = op_swapgs, .attrs = ROW_PRIV},
	{.mnemonic = M(SYSCALL), .run = op_syscall, .arg = 0, .attrs = ROW_TF_AFTER},
	{.mnemonic = M(SYSENTER), .run = op_syscall, .arg = 1},
	{.mnemonic = M(SYSRET), .run = op_sysret, .arg = 0, .attrs = ROW_TF_AFTER},
	{.mnemonic = M(SYSEXIT), .run = op_sysret, .arg = 1},
	{.mnemonic = M(VMCALL), .run = op_hypercall},
	{.mnemonic = M(VMMCALL), .run = op_hypercall},
	{.mnemonic = M(UD0), .run = op_undefined},
	{.mnemonic = M(UD1), .run = op_undefined},
	{.mnemonic = M(UD2), .run = op_undefined},
};

const struct interp_rows interp_rows_system = {rows, ARRAY_SIZE(rows)};
