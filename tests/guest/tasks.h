/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the guests about hardware task switches share: the tasks (in tasks_asm.S), their TSSs, one run, and the checks of a switch that went well.
 * A run begins in the main task, which does one thing; the worker is whom that leads to; the fault task is for exceptions through task gates.
 */
#pragma once

#include "lib.h"

#define TSS_MAIN 0x60
#define TSS_WORKER 0x68
#define TSS_FAULT 0x70
#define TSS_16 0x78
#define GATE 0x80
#define LDT 0x88
#define SPARE 0x90
#define DATA_16 0x58
#define BASED 0xa8
#define BEYOND 0x100
#define BUSY 2u
#define LOW_STACK 0x6e00u
#define CR0_TS 8u
#define DR6_BT 0x8000u
#define DR6_BS 0x4000u
enum { CF = 1, TF = 0x100, IF = 0x200, DF_FLAG = 0x400, NT = 0x4000, RF = 0x10000, VM = 0x20000, IOPL3 = 0x3000 };

struct tss32 {
	u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi;
	u32 es, cs, ss, ds, fs, gs, ldt; /* upper halves are reserved */
	u16 trap, iomap;
};
struct tss16 {
	u16 link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss, ds, ldt;
};
struct seen {
	u32 eax, ecx, edx, ebx, esp, ebp, esi, edi, eflags, es, cs, ss, ds, fs, gs, tr, ldtr, cr0, cr3, dr6, dr7;
	u32 main, worker, fault, small; /* access bytes of the TSSs' descriptors */
	u32 top;			/* of the stack */
};

void legacy_call(void *routine);
extern volatile u32 legacy_results[64], legacy_traps[4];
extern u8 legacy_trap_entries[], legacy_ring0_stack_top[];
extern u64 legacy_idt[256];
extern u32 legacy_tss[], legacy_mode_cr3, legacy_mode_cr4, legacy_page_directory[1024];
extern u64 legacy_pdpt[512], legacy_pae_directory[512];
extern volatile struct seen tasks_seen, tasks_back, tasks_fault;
extern u32 tasks_do, tasks_then, tasks_fix, tasks_runs, tasks_flags, tasks_dr7;
extern u8 tasks_main[], tasks_worker[], tasks_worker_second[], tasks_worker_16[], tasks_stack[], tasks_based[], tasks_monitor[];
extern u8 tasks_then_iret[], tasks_then_error[], tasks_then_eoi[], tasks_then_jump[], tasks_then_call[], tasks_then_main[];
extern u8 tasks_fault_entry[], tasks_nested_entry[], tasks_bad_stack[], tasks_bad_stack_ud[];
extern u8 tasks_call_twice[], tasks_irq[], tasks_nmi[], tasks_v86[], tasks_from_16[], tasks_from_16_end[], tasks_iret[], tasks_iret_end[];
#define DOES(name) extern u8 tasks_##name[], tasks_##name##_end[]
DOES(call);
DOES(jump);
DOES(call_gate);
DOES(jump_gate);
DOES(call_ldt);
DOES(call_tss_ldt);
DOES(int);
DOES(ud);
DOES(gp);
DOES(call_16);
DOES(call_3);
DOES(call_gate_3);
DOES(int_3);

#define AT(x) ((u32)(u64)(x))
#define MAIN ((volatile struct tss32 *)legacy_tss)
#define HIGH 0x40400000u /* maps 4 MiB (PAE: 2 MiB) from 400000h */

struct tasks_space {
	volatile struct tss32 worker, fault;
	volatile struct tss16 small;
	u64 ldt[4];
};
extern struct tasks_space space;
static volatile struct tss32 *const worker = &space.worker, *const fault_task = &space.fault;
extern u8 fault_stack[1024];

u64 gate(u64 to, u32 sel, u32 type_dpl);
u64 segment(u64 base, u64 limit, u64 attr);
void set_tss(u32 sel, u64 base, u64 limit, u32 attr);
void make_task(volatile struct tss32 *t, const void *entry, const void *stack);
void make_small(void);
void map_32(u32 *dir, u32 high);
void paging_on(u32 cr3, u32 cr4);
void paging_off(void);
u32 access(u32 sel); /* byte of a descriptor */

/* As everything is before a run; what is particular to one comes between this and run(). */
void begin(void);
void run(const u8 *what);
void trapped(u32 vector, u32 error); /* that ended the run, through an interrupt gate */

/* What the worker finds, whichever way led to it. */
void check_worker(bool nested);
/* What the main task left behind, at `eip`, and that it goes on with it. */
void check_main(const void *eip);
