/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The architectural state of one x86-64 CPU, the same for every engine: what a snapshot saves and what the rules in this folder change.
 *
 * Contract: `struct x86_cpu` is complete whenever C code outside engine/bt's translated path sees it. rflags holds all flags.
 * Everything in src/x86 is compiled for general registers only and calls no libc function, because the translator calls it while guest
 * vector state is live in the host's registers.
 *
 * Threading: one vCPU's state belongs to the thread that runs it.
 */
#pragma once

#include "base/types.h"

enum { R_RAX, R_RCX, R_RDX, R_RBX, R_RSP, R_RBP, R_RSI, R_RDI, R_R8, R_R9, R_R10, R_R11, R_R12, R_R13, R_R14, R_R15 };
enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT };

/* RFLAGS */
#define FL_CF (1u << 0)
#define FL_ONE (1u << 1)
#define FL_PF (1u << 2)
#define FL_AF (1u << 4)
#define FL_ZF (1u << 6)
#define FL_SF (1u << 7)
#define FL_TF (1u << 8)
#define FL_IF (1u << 9)
#define FL_DF (1u << 10)
#define FL_OF (1u << 11)
#define FL_IOPL (3u << 12)
#define FL_IOPL_SHIFT 12
#define FL_NT (1u << 14)
#define FL_RF (1u << 16)
#define FL_VM (1u << 17)
#define FL_AC (1u << 18)
#define FL_VIF (1u << 19)
#define FL_VIP (1u << 20)
#define FL_ID (1u << 21)
#define FL_ARITH (FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF)

#define CR0_PE (1u << 0)
#define CR0_MP (1u << 1)
#define CR0_EM (1u << 2)
#define CR0_TS (1u << 3)
#define CR0_ET (1u << 4)
#define CR0_NE (1u << 5)
#define CR0_WP (1u << 16)
#define CR0_AM (1u << 18)
#define CR0_NW (1u << 29)
#define CR0_CD (1u << 30)
#define CR0_PG (1u << 31)

#define CR4_VME (1u << 0)
#define CR4_PVI (1u << 1)
#define CR4_TSD (1u << 2)
#define CR4_DE (1u << 3)
#define CR4_PSE (1u << 4)
#define CR4_PAE (1u << 5)
#define CR4_MCE (1u << 6)
#define CR4_PGE (1u << 7)
#define CR4_PCE (1u << 8)
#define CR4_OSFXSR (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_UMIP (1u << 11)
#define CR4_LA57 (1u << 12)
#define CR4_FSGSBASE (1u << 16)
#define CR4_PCIDE (1u << 17)
#define CR4_OSXSAVE (1u << 18)
#define CR4_SMEP (1u << 20)
#define CR4_SMAP (1u << 21)

#define EFER_SCE (1u << 0)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
#define EFER_NXE (1u << 11)
#define EFER_SVME (1u << 12)
#define EFER_FFXSR (1u << 14)

/* Debug status and control */
#define DR6_B(n) (1u << (n))
#define DR6_BD (1u << 13)
#define DR6_BS (1u << 14)
#define DR6_BT (1u << 15)
#define DR6_FIXED 0xffff0ff0u
#define DR7_FIXED 0x400u
#define DR7_ENABLED 0xffu /* any L or G bit */
#define DR7_GD (1u << 13)

enum x86_vector {
	VEC_DE = 0,
	VEC_DB = 1,
	VEC_NMI = 2,
	VEC_BP = 3,
	VEC_OF = 4,
	VEC_BR = 5,
	VEC_UD = 6,
	VEC_NM = 7,
	VEC_DF = 8,
	VEC_TS = 10,
	VEC_NP = 11,
	VEC_SS = 12,
	VEC_GP = 13,
	VEC_PF = 14,
	VEC_MF = 16,
	VEC_AC = 17,
	VEC_MC = 18,
	VEC_XM = 19,
};

/* attr: bits 0-3 type, 4 S, 5-6 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G (bytes 5 and 6 of a descriptor, limit nibble cleared). */
#define SEGA_TYPE 0x000fu
#define SEGA_S 0x0010u
#define SEGA_DPL_SHIFT 5
#define SEGA_DPL 0x0060u
#define SEGA_P 0x0080u
#define SEGA_AVL 0x1000u
#define SEGA_L 0x2000u
#define SEGA_DB 0x4000u
#define SEGA_G 0x8000u
#define SEGA_UNUSABLE 0x10000u /* null selector loaded */

struct x86_seg {
	u16 sel;
	u16 pad;
	u32 attr;
	u32 limit; /* in bytes, scaled */
	u32 pad2;
	u64 base;
};

struct x86_dtr {
	u64 base;
	u16 limit;
	u16 pad[3];
};

/* XSAVE image, standard (non-compacted) format as CPUID leaf 0xd describes it; large enough for AVX-512 and PKRU. */
#define X86_XSAVE_SIZE 2816
struct x86_xsave {
	u8 bytes[X86_XSAVE_SIZE];
} __attribute__((aligned(64)));

#define X86_MTRR_VAR 8

struct x86_msrs {
	u64 efer, star, lstar, cstar, sfmask, kernel_gs_base;
	u64 sysenter_cs, sysenter_esp, sysenter_eip;
	u64 pat, tsc_aux, misc_enable, debugctl, spec_ctrl, xss;
	u64 apic_base;
	u64 mtrr_def, mtrr_fix[11], mtrr_base[X86_MTRR_VAR], mtrr_mask[X86_MTRR_VAR];
	u64 tsc_adjust;
	u64 mcg_status, mcg_ctl;
	u64 hwcr, syscfg; /* AMD */
	u64 kvm_wall_clock, kvm_system_time, kvm_async_pf, kvm_steal_time, kvm_poll_control;
};

/* A fault that an instruction raised and that has not been delivered yet. */
struct x86_fault {
	u8 vector;
	bool has_error;
	bool pending;
	u32 error;
	u64 cr2;     /* #PF only; written to CR2 at delivery */
	u64 dr6_set; /* #DB only; bits to set in DR6 */
};

/* Data that a debugger outside watches; the guest cannot see it. */
struct x86_watchpoint {
	gva_t gva;
	u64 len;
	bool reads, writes;
};
struct x86_watch {
	u32 n;
	const struct x86_watchpoint *point;
	bool met; /* an access has met one since this was false; the first is here: */
	struct x86_watchpoint hit;
};

struct x86_cpu {
	u64 gpr[16];
	u64 rip;
	u64 rflags;
	struct x86_seg seg[SEG_COUNT];
	struct x86_seg ldt, tr;
	struct x86_dtr gdt, idt;
	u64 cr0, cr2, cr3, cr4, xcr0;
	u64 dr[8]; /* 4 and 5 unused */
	struct x86_msrs msr;
	u64 tsc_offset;	 /* guest TSC = scaled virtual clock + offset; IA32_TSC_ADJUST is part of the offset already */
	u64 dr6_pending; /* DR6 bits of debug traps the current instruction has met so far: see x86_take_debug_trap */

	struct x86_fault fault; /* raised, not yet delivered */
	bool nmi_pending;
	bool nmi_blocked;
	bool irq_shadow;    /* STI or MOV SS/POP SS: no interrupt before the next instruction has run */
	bool debug_shadow;  /* MOV SS/POP SS: also no #DB */
	bool task_switched; /* during this instruction or event; whoever asks clears it first */
	bool halted;	    /* HLT executed, waiting for an event */
	bool wait_for_sipi;
	bool triple_fault;

	struct x86_xsave fpu; /* valid when the engine says so; in C outside engine/bt always */

	struct x86_env *env;	       /* how the rules reach memory and the machine; not state */
	const struct x86_cpuid *cpuid; /* what this CPU announces; not state */
	struct x86_watch *watch;       /* NULL: no debugger watches data; not state */
	bool traced;		       /* env->trace wants to know; set when it is created, not state */
	u32 apic_id;		       /* which CPU this is: CPUID's initial APIC id; set when it is created, not state */
};

static inline u32 x86_cpl(const struct x86_cpu *c)
{
	/* SS.DPL is the CPL in every mode that Guise offers; real mode is 0, virtual-8086 mode is 3. */
	return (c->seg[SEG_SS].attr & SEGA_DPL) >> SEGA_DPL_SHIFT;
}
static inline bool x86_long_mode(const struct x86_cpu *c)
{
	return (c->msr.efer & EFER_LMA) != 0;
}
static inline bool x86_code64(const struct x86_cpu *c)
{
	return x86_long_mode(c) && (c->seg[SEG_CS].attr & SEGA_L) != 0;
}
static inline bool x86_protected(const struct x86_cpu *c)
{
	return (c->cr0 & CR0_PE) != 0;
}
static inline bool x86_paging(const struct x86_cpu *c)
{
	return (c->cr0 & CR0_PG) != 0;
}
static inline bool x86_real_or_v86(const struct x86_cpu *c)
{
	return !(c->cr0 & CR0_PE) || (c->rflags & FL_VM) != 0;
}
/* Data accesses must be told to x86_data_breakpoint. */
static inline bool x86_watched(const struct x86_cpu *c)
{
	return (c->dr[7] & DR7_ENABLED) || c->watch;
}
static inline bool x86_canonical(gva_t a)
{
	return (u64)((i64)(a << 16) >> 16) == a;
}

/* Power-on or INIT state of a CPU (SDM vol. 3, table "IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT").
 * `bsp` sets the BSP bit in APIC_BASE; others wait for SIPI. env and cpuid are kept. With init_only, what INIT leaves alone is kept. */
void x86_reset(struct x86_cpu *c, bool bsp, bool init_only);

/* A start-up IPI reached a CPU that waits for one: run from vector << 12 in real mode. Ignored when it does not wait. */
void x86_sipi(struct x86_cpu *c, u8 vector);

/* Record a fault; the first one wins. `cr2` is of page faults only. */
void x86_record_fault(struct x86_cpu *c, enum x86_vector v, u32 error, gva_t cr2) __attribute__((cold));

/* Raise a fault: record it and return false, so that callers write `return x86_raise(...)`. Vectors that push an error code get 0 from
 * x86_raise. */
static inline bool x86_raise(struct x86_cpu *c, enum x86_vector v)
{
	x86_record_fault(c, v, 0, 0);
	return false;
}

static inline bool x86_raise_err(struct x86_cpu *c, enum x86_vector v, u32 error)
{
	x86_record_fault(c, v, error, 0);
	return false;
}

static inline bool x86_raise_pf(struct x86_cpu *c, gva_t addr, u32 error)
{
	x86_record_fault(c, VEC_PF, error, addr);
	return false;
}
