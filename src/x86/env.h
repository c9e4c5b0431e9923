/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the rules of src/x86 and the interpreter need from whoever runs them: physical memory, ports, the local APIC's MSRs, time, and to be
 * told when translations or modes change. An engine fills this in; src/x86 knows no engine.
 *
 * Threading: called on the vCPU's thread only.
 */
#pragma once

#include "base/trace.h"
#include "base/types.h"

struct x86_cpu;

struct x86_env {
	void *opaque;

	/* Host address of the RAM page frame that holds `gpa` (page-aligned result + offset is the caller's), NULL: not RAM (MMIO or hole).
	 * `write`: the caller will store to it; NULL for ROM then. */
	u8 *(*ram)(void *opaque, gpa_t gpa, bool write);

	/* RAM at [gpa, gpa+len), within one page, is about to be stored to by C code on this vCPU (also page-table A/D updates): lets the
	 * translator drop translated code there before the store. May be NULL. */
	void (*ram_will_write)(void *opaque, gpa_t gpa, u32 len);

	/* Between on and off no other vCPU executes: for locked accesses to RAM that the host cannot make in one piece. Not nested, and no other
	 * callback but ram_will_write comes in between. May be NULL: there is one vCPU. */
	void (*exclusive)(void *opaque, bool on);

	/* Optional short cut: the host address of byte `gva` when a translation for this access (enum x86_access bits) is cached, up to the
	 * end of its page, RAM only, stores allowed without further notice when ACC_WRITE is asked for. NULL: not known, walk. May be NULL. */
	u8 *(*cached)(void *opaque, gva_t gva, u32 acc);

	/* In builds with bounds_checks only: C code is about to load or store what the two above led to. May be NULL. */
	void (*ram_touched)(void *opaque, const u8 *host, u32 len, bool write);

	/* Accesses outside RAM; size 1, 2, 4 or 8, never crossing a page. Larger ones are split by the caller. */
	u64 (*mmio_read)(void *opaque, gpa_t gpa, u32 size);
	void (*mmio_write)(void *opaque, gpa_t gpa, u32 size, u64 value);

	/* Ports; size 1, 2 or 4. */
	u32 (*pio_read)(void *opaque, u16 port, u32 size);
	void (*pio_write)(void *opaque, u16 port, u32 size, u32 value);

	/* MSRs that live outside the CPU (APIC_BASE, x2APIC 0x800-0x8ff, TSC_DEADLINE, KVM paravirtual). False: #GP. */
	bool (*msr_read)(void *opaque, u32 msr, u64 *value);
	bool (*msr_write)(void *opaque, u32 msr, u64 value);

	/* CR8 = TPR of the local APIC. */
	u64 (*cr8_read)(void *opaque);
	void (*cr8_write)(void *opaque, u64 value);

	u64 (*tsc)(void *opaque); /* guest TSC now, tsc_offset (and so tsc_adjust) included */

	/* KVM hypercall: nr in rax, arguments in rbx, rcx, rdx, rsi; returns the value for rax. */
	u64 (*hypercall)(void *opaque, struct x86_cpu *c);

	void (*pause)(void *opaque); /* PAUSE: this CPU waits for another. May be NULL. */

	/* Something for the trace. Called only while struct x86_cpu says `traced`. */
	void (*trace)(void *opaque, enum trace_event ev, u64 rip, u64 a, u64 b, u64 c);

	/* Translations to be forgotten; any of these may be NULL. pcid_only: entries of this PCID that are not global; all: everything, global too. */
	void (*tlb_flush_page)(void *opaque, gva_t gva);		/* INVLPG: this PCID and global */
	void (*tlb_flush_page_pcid)(void *opaque, gva_t gva, u16 pcid); /* INVPCID type 0 */
	void (*tlb_flush_pcid)(void *opaque, u16 pcid);			/* non-global entries of one PCID */
	void (*tlb_flush_nonglobal)(void *opaque);			/* non-global entries of every PCID */
	void (*tlb_flush_all)(void *opaque);				/* everything */

	/* CR0, CR4, EFER, XCR0, CR3 (also its PCID), CPL, CS or SS attributes, DR7 changed: cached modes must be looked at again. Called after
	 * the change; also when tsc_offset changed. May be NULL. */
	void (*mode_changed)(void *opaque);
};
