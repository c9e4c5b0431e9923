/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page-table walk and every access by linear address that C code makes for a guest.
 * Source: SDM vol. 3 chapter 4, AMD APM vol. 2 chapter 5. 4-level, PAE and 32-bit paging; 4 KiB, 2/4 MiB and 1 GiB pages.
 *
 * Threading: the vCPU's thread. Page tables may change under the walk (other vCPUs, DMA): each entry is read once, accessed and dirty
 * bits are set by compare-and-exchange.
 */
#pragma once

#include "x86/env.h"
#include "x86/state.h"

enum x86_access {
	ACC_READ = 0,
	ACC_WRITE = 1,
	ACC_FETCH = 2,
	ACC_USER = 4,	 /* with CPL 3 rights */
	ACC_IMPLICIT = 8 /* supervisor access whatever the CPL (descriptor tables, TSS, IDT): SMAP applies regardless of AC */
};

/* The access bits for the current CPL. */
static inline u32 x86_acc(const struct x86_cpu *c, u32 acc)
{
	return acc | (x86_cpl(c) == 3 ? ACC_USER : 0);
}

struct x86_xlat {
	gpa_t gpa;	/* of the byte asked for */
	u32 page_shift; /* 12, 21, 22 or 30: size of the mapping; 12 without paging */
	bool writable;	/* for the mode and rights asked for: a store would succeed, apart from the dirty bit */
	bool user;	/* U/S is set at all levels */
	bool dirty;	/* the D bit is set (always true without paging) */
	bool global;
	bool nx;
};

/* Translate one address. On success sets A (and D for a write) as the CPU does and fills *x. On failure records #PF (or #GP for a
 * non-canonical address, #SS is the caller's affair) in c->fault and returns false. No alignment or page-crossing logic. */
bool x86_translate(struct x86_cpu *c, gva_t gva, u32 acc, struct x86_xlat *x);

/* The same without any side effect on guest memory or the CPU; false when not mapped. For debuggers and look-ahead. */
bool x86_probe(struct x86_cpu *c, gva_t gva, u32 acc, struct x86_xlat *x);

/* Copy guest <-> host by linear address. May cross pages; all pages are translated before the first byte moves, so a store is all or
 * nothing (len up to 8192; longer ones go piece by piece). MMIO is split into naturally sized pieces of at most 8 bytes. Data breakpoints (DR7) are noted
 * in c->dr6_pending, not for ACC_IMPLICIT. False: fault recorded. */
bool x86_read(struct x86_cpu *c, gva_t gva, void *buf, u32 len, u32 acc);
bool x86_write(struct x86_cpu *c, gva_t gva, const void *buf, u32 len, u32 acc);

/* 1-, 2-, 4-, 8-byte values. */
bool x86_read_val(struct x86_cpu *c, gva_t gva, u32 size, u64 *val, u32 acc);
bool x86_write_val(struct x86_cpu *c, gva_t gva, u32 size, u64 val, u32 acc);

/* A locked or read-modify-write access: *old is replaced by new only if memory still holds `expect` (size 1, 2, 4, 8). *done tells whether
 * the exchange took place. False: fault recorded. Crossing pages: the other vCPUs are stopped meanwhile (env.exclusive).
 * MMIO: done without atomicity against other vCPUs. */
bool x86_cmpxchg(struct x86_cpu *c, gva_t gva, u32 size, u64 expect, u64 newval, u64 *old, bool *done, u32 acc);
bool x86_cmpxchg16(struct x86_cpu *c, gva_t gva, const u64 expect[2], const u64 newval[2], u64 old[2], bool *done, u32 acc);

/* Up to 15 instruction bytes at linear address `gva`; *got is how many could be fetched before a fault. False when not even one. */
bool x86_fetch(struct x86_cpu *c, gva_t gva, u8 *buf, u32 want, u32 *got);
