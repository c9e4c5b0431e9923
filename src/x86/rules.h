/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The system architecture as functions on `struct x86_cpu`: interrupts and exceptions, far transfers, segment loads, control registers, MSRs,
 * CPUID. Both the interpreter and the translator's helpers call these; nothing here decodes instructions.
 *
 * All return true when done; false when a fault was recorded in c->fault (state is then as before the instruction, except where the manual
 * says otherwise, as it does of a task switch: when c->task_switched is set, the fault is the new task's). rip must already be what the
 * instruction's completion leaves behind only where stated.
 *
 * Threading: the vCPU's thread. General registers only, no libc.
 */
#pragma once

#include "x86/mmu.h"

enum x86_int_kind {
	INT_HARDWARE,  /* external interrupt or NMI */
	INT_EXCEPTION, /* fault, trap, abort */
	INT_SOFTWARE,  /* INT n, INT3, INTO: gate DPL is checked */
	INT_ICEBP,     /* INT1 */
};

/* Deliver vector through the IDT (64-bit, 32-bit, 16-bit and task gates, real-mode IVT, virtual-8086). c->rip is the rip to push. Nested
 * faults become #DF, then triple fault (c->triple_fault = true), inside. Clears c->halted. Always leaves a runnable or
 * triple-faulted CPU. */
void x86_interrupt(struct x86_cpu *c, u8 vector, enum x86_int_kind kind, bool has_error, u32 error);

/* INT n, INT3, INTO: as above, but a gate that refuses is an ordinary fault of the instruction: false, c->fault recorded, nothing
 * changed, c->rip still the instruction's own (unless tasks were switched). next_rip is what is pushed. */
bool x86_soft_interrupt(struct x86_cpu *c, u8 vector, u64 next_rip);

/* Deliver c->fault (which it clears). c->rip is the faulting instruction's (or the next one's for traps; caller's affair). Sets RF for faults. */
void x86_deliver_fault(struct x86_cpu *c);

/* Segment register load with all checks (MOV, POP, LDS...). Not for CS. */
bool x86_load_seg(struct x86_cpu *c, u32 seg, u16 sel);
bool x86_lldt(struct x86_cpu *c, u16 sel);
bool x86_ltr(struct x86_cpu *c, u16 sel);

/* Far transfers. size: operand size 2, 4, 8. next_rip: rip after the instruction. On success c->rip and c->seg[CS] are the target. Where they
 * switch tasks (c->task_switched), RF and TF are the new task's and this instruction does not touch them any more. */
bool x86_far_jump(struct x86_cpu *c, u16 sel, u64 off, u32 size, u64 next_rip);
bool x86_far_call(struct x86_cpu *c, u16 sel, u64 off, u32 size, u64 next_rip);
bool x86_far_ret(struct x86_cpu *c, u32 size, u16 pop_bytes);
bool x86_iret(struct x86_cpu *c, u32 size, u64 next_rip);
bool x86_syscall(struct x86_cpu *c, u64 next_rip);
bool x86_sysret(struct x86_cpu *c, u32 size);
bool x86_sysenter(struct x86_cpu *c, u64 next_rip);
bool x86_sysexit(struct x86_cpu *c, u32 size);

/* POPF/IRET rule: which bits of `val` may change at this CPL/IOPL/mode, size 2/4/8. */
bool x86_set_flags(struct x86_cpu *c, u64 val, u32 size);

/* Control and debug registers, XCR0, MSRs, with every check. */
bool x86_write_cr(struct x86_cpu *c, u32 n, u64 val); /* 0 2 3 4 8; CR3 bit 63 = no flush */
bool x86_read_cr(struct x86_cpu *c, u32 n, u64 *val);
bool x86_write_dr(struct x86_cpu *c, u32 n, u64 val);
bool x86_read_dr(struct x86_cpu *c, u32 n, u64 *val);
bool x86_xsetbv(struct x86_cpu *c, u32 n, u64 val);
bool x86_rdmsr(struct x86_cpu *c, u32 msr, u64 *val);
bool x86_wrmsr(struct x86_cpu *c, u32 msr, u64 val);
/* The same at CPL 0, for engines whose hardware has looked at the CPL; false: #GP is to be raised, none is recorded. */
bool x86_msr_read(struct x86_cpu *c, u32 msr, u64 *val);
bool x86_msr_write(struct x86_cpu *c, u32 msr, u64 val);
bool x86_invpcid(struct x86_cpu *c, u64 type, gva_t desc);

/* I/O permission for `size` bytes at port: IOPL or TSS bitmap. */
bool x86_io_allowed(struct x86_cpu *c, u16 port, u32 size);

/* What LAR, LSL, VERR, VERW ask: true = ZF set, *out valid. False with nothing pending: ZF clear. A page
 * fault on the descriptor table is recorded in c->fault, and then is the instruction's. */
bool x86_lar(struct x86_cpu *c, u16 sel, u32 *out);
bool x86_lsl(struct x86_cpu *c, u16 sel, u32 *out);
bool x86_verify(struct x86_cpu *c, u16 sel, bool write);

/* Linear address of seg:off with the segment's checks for `len` bytes (limit, rights, canonical). Raises #GP or #SS. */
bool x86_linear(struct x86_cpu *c, u32 seg, u64 off, u32 len, u32 acc, gva_t *out);

/* Debug registers. x86_data_breakpoint: note a data access, also for c->watch; a match of a debug register is reported as a #DB trap after the instruction by
 * x86_take_debug_trap, which returns true when c->fault now holds #DB. Code breakpoints: x86_code_breakpoint before execution. */
void x86_data_breakpoint(struct x86_cpu *c, gva_t gva, u32 len, bool write);
void x86_io_breakpoint(struct x86_cpu *c, u16 port, u32 size);
/* After an instruction: turn c->dr6_pending (breakpoints met; the caller adds DR6_BS when TF was set before the instruction) into a #DB
 * in c->fault. Keeps it for later while debug_shadow is set. */
bool x86_take_debug_trap(struct x86_cpu *c);
/* True: an enabled instruction breakpoint matches, RF is clear, and c->fault holds the #DB fault. */
bool x86_code_breakpoint(struct x86_cpu *c, gva_t rip_linear);

/* CPUID policy */
struct x86_cpuid_leaf {
	u32 leaf, sub;
	bool any_sub;
	u32 eax, ebx, ecx, edx;
};
#define X86_CPUID_MAX 64
struct x86_cpuid {
	u32 n;
	struct x86_cpuid_leaf leaf[X86_CPUID_MAX];
	/* digests of the leaves, for fast tests */
	u32 phys_bits;
	bool gbpages;
	u64 xcr0_supported;
	u64 cr4_reserved;
};
struct x86_cpu_model; /* x86/cpu_model.h */

/* The CPU to build on, for engines that cannot give all of the host's, and for tests: what it answers (zeros are not asked beyond its highest leaf), and its XCR0. */
struct x86_cpuid_host {
	void (*cpuid)(const struct x86_cpuid_host *h, u32 leaf, u32 sub, u32 r[4]);
	u64 xcr0;
};

struct x86_cpuid_config {
	u32 ncpus;
	u64 tsc_hz;
	bool engine_bt;			   /* hide what the translator does not handle */
	const struct x86_cpu_model *model; /* NULL: the host's */
	const struct x86_cpuid_host *host; /* NULL: the CPU that this runs on */
};
/* Part of what a serialising instruction is: no load behind it overtakes a store before it, which other CPUs rely on. SDM vol. 3, 9.3 */
static inline void x86_serialise(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* Build what vCPUs announce: host CPUID, masked to what Guise implements, the host has and the model takes, with topology, TSC frequency (0x15,
 * 0x16, 0x40000010), hypervisor bit and the KVM leaf. What the host lacks of a level is left out: x86_cpuid_lacks tells before. */
void x86_cpuid_build(struct x86_cpuid *p, const struct x86_cpuid_config *cfg);
/* The features of the configuration's level that this host cannot give it on this engine, as " name name" in `list`. Returns how many; models that
 * follow the host lack nothing. */
u32 x86_cpuid_lacks(const struct x86_cpuid_config *cfg, char *list, size_t size);
/* The value a CPU returns: dynamic bits (OSXSAVE, APIC id, xsave size) filled in from c. */
void x86_cpuid(const struct x86_cpu *c, u32 apic_id, u32 leaf, u32 sub, u32 out[4]);
bool x86_cpuid_has(const struct x86_cpuid *p, u32 leaf, u32 sub, u32 reg /* 0 eax 1 ebx 2 ecx 3 edx */, u32 bit);
