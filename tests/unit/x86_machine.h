/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fake machine around one struct x86_cpu for the tests of src/x86: 4 MiB of RAM, one device page, counters of what the environment was
 * told. Address layout below. Threading: none.
 */
#pragma once

#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "x86/rules.h"

#define M_RAM (4 * MiB)
#define M_GDT 0x1000u
#define M_IDT 0x2000u
#define M_TSS 0x3000u
#define M_PML4 0x10000u
#define M_PDPT 0x11000u
#define M_PD 0x12000u
#define M_PT 0x13000u /* maps linear 0 to 2 MiB, page by page, onto itself */
#define M_STACK 0x20000u
#define M_DEVICE 0x10000000ull

#define P 1ull
#define W 2ull
#define U 4ull
#define A 0x20ull
#define D 0x40ull
#define PS 0x80ull
#define G 0x100ull
#define NX (1ull << 63)

/* Selectors, in the order that SYSCALL, SYSRET and SYSENTER want. */
enum {
	S_CODE64 = 0x10,
	S_DATA = 0x18,
	S_UCODE32 = 0x23,
	S_UDATA = 0x2b,
	S_UCODE64 = 0x33,
	S_CODE32 = 0x38,
	S_TSS = 0x40, /* and 0x48 */
	S_CODE16 = 0x50,
	S_GATE = 0x60, /* and 0x68 */
	S_LDT = 0x70,  /* and 0x78 */
	S_NOT_PRESENT = 0x80,
	S_CONFORMING = 0x88,
	S_READONLY = 0x90,
	S_EXECONLY = 0x98,
};

struct machine {
	struct x86_cpu c;
	struct x86_env env;
	struct x86_cpuid cpuid;
	u8 *ram;
	u64 rom_page; /* this page refuses stores */
	u64 tsc, cr8;
	u32 flush_all, flush_pcid, flush_page_pcid, flush_nonglobal, modes, will_write;
	u32 last_pcid;
	u64 device_value, device_addr;
	u32 device_size, device_accesses;
};

static inline u8 *m_ram(void *opaque, gpa_t gpa, bool write)
{
	struct machine *m = opaque;

	return gpa < M_RAM && !(write && PAGE_BASE(gpa) == m->rom_page) ? m->ram + gpa : NULL;
}

static inline void m_will_write(void *opaque, gpa_t gpa, u32 len)
{
	((struct machine *)opaque)->will_write++;
	assert_true(PAGE_OFFSET(gpa) + len <= PAGE_SIZE);
}

static inline u64 m_mmio_read(void *opaque, gpa_t gpa, u32 size)
{
	struct machine *m = opaque;

	m->device_accesses++;
	m->device_addr = gpa;
	m->device_size = size;
	assert_int_equal(gpa & (size - 1), 0);
	return gpa >= M_DEVICE && gpa < M_DEVICE + PAGE_SIZE ? m->device_value : ~0ull;
}

static inline void m_mmio_write(void *opaque, gpa_t gpa, u32 size, u64 value)
{
	struct machine *m = opaque;

	m->device_accesses++;
	m->device_addr = gpa;
	m->device_size = size;
	m->device_value = value;
	assert_int_equal(gpa & (size - 1), 0);
}

static inline bool m_msr_read(void *opaque, u32 msr, u64 *value)
{
	*value = msr;
	return msr != 0x8ff;
}
static inline bool m_msr_write(void *opaque, u32 msr, u64 value)
{
	return msr != 0x8ff;
}
static inline u64 m_cr8_read(void *opaque)
{
	return ((struct machine *)opaque)->cr8;
}
static inline void m_cr8_write(void *opaque, u64 v)
{
	((struct machine *)opaque)->cr8 = v;
}
static inline u64 m_tsc(void *opaque)
{
	struct machine *m = opaque;

	return m->tsc + m->c.tsc_offset;
}
static inline void m_flush_page_pcid(void *opaque, gva_t gva, u16 pcid)
{
	((struct machine *)opaque)->flush_page_pcid++;
	((struct machine *)opaque)->last_pcid = pcid;
}
static inline void m_flush_pcid(void *opaque, u16 pcid)
{
	((struct machine *)opaque)->flush_pcid++;
	((struct machine *)opaque)->last_pcid = pcid;
}
static inline void m_flush_nonglobal(void *opaque)
{
	((struct machine *)opaque)->flush_nonglobal++;
}
static inline void m_flush_all(void *opaque)
{
	((struct machine *)opaque)->flush_all++;
}
static inline void m_mode(void *opaque)
{
	((struct machine *)opaque)->modes++;
}

static inline void m_poke(struct machine *m, gpa_t a, u64 v)
{
	memcpy(m->ram + a, &v, 8);
}
static inline u64 m_peek(const struct machine *m, gpa_t a)
{
	u64 v;

	memcpy(&v, m->ram + a, 8);
	return v;
}

static inline void m_desc(struct machine *m, u32 sel, u64 d)
{
	m_poke(m, M_GDT + (sel & 0xfff8), d);
}

/* A 64-bit interrupt gate. type 0xe or 0xf. */
static inline void m_gate(struct machine *m, u32 vec, u64 rip, u32 sel, u32 type, u32 dpl, u32 ist)
{
	u64 lo = (rip & 0xffff) | (u64)sel << 16 | (u64)ist << 32 | (u64)(type | dpl << 5 | 0x80) << 40 | (rip >> 16 & 0xffff) << 48;

	m_poke(m, M_IDT + vec * 16, lo);
	m_poke(m, M_IDT + vec * 16 + 8, rip >> 32);
}

static inline void m_gate32(struct machine *m, u32 vec, u32 rip, u32 sel, u32 type, u32 dpl)
{
	m_poke(m, M_IDT + vec * 8, (rip & 0xffff) | (u64)sel << 16 | (u64)(type | dpl << 5 | 0x80) << 40 | (u64)(rip >> 16) << 48);
}

static inline void m_vendor(struct machine *m, bool amd)
{
	m->cpuid.leaf[0].ebx = amd ? 0x68747541 : 0x756e6547;
}

static inline void m_new(struct machine *m)
{
	struct x86_cpuid_config cfg = {.ncpus = 2, .tsc_hz = 2600000000ull, .engine_bt = true};

	memset(m, 0, sizeof(*m));
	m->ram = calloc(1, M_RAM);
	assert_non_null(m->ram);
	m->rom_page = ~0ull;
	m->env = (struct x86_env){.opaque = m,
				  .ram = m_ram,
				  .ram_will_write = m_will_write,
				  .mmio_read = m_mmio_read,
				  .mmio_write = m_mmio_write,
				  .msr_read = m_msr_read,
				  .msr_write = m_msr_write,
				  .cr8_read = m_cr8_read,
				  .cr8_write = m_cr8_write,
				  .tsc = m_tsc,
				  .tlb_flush_page_pcid = m_flush_page_pcid,
				  .tlb_flush_pcid = m_flush_pcid,
				  .tlb_flush_nonglobal = m_flush_nonglobal,
				  .tlb_flush_all = m_flush_all,
				  .mode_changed = m_mode};
	x86_cpuid_build(&m->cpuid, &cfg);
	m->cpuid.phys_bits = 46;
	m->cpuid.gbpages = true;
	m->cpuid.cr4_reserved = ~(u64)(CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT |
				       CR4_UMIP | CR4_FSGSBASE | CR4_PCIDE | CR4_OSXSAVE | CR4_SMEP | CR4_SMAP);
	m->c.env = &m->env;
	m->c.cpuid = &m->cpuid;
	x86_reset(&m->c, true, false);
}

static inline void m_tables(struct machine *m)
{
	static const struct {
		u32 sel;
		u64 d;
	} gdt[] = {
		{S_CODE64, 0x00af9b000000ffff},	  {S_DATA, 0x00cf93000000ffff},	       {S_UCODE32, 0x00cffb000000ffff},
		{S_UDATA, 0x00cff3000000ffff},	  {S_UCODE64, 0x00affb000000ffff},     {S_CODE32, 0x00cf9b000000ffff},
		{S_CODE16, 0x00009b000000ffff},	  {S_NOT_PRESENT, 0x00cf13000000ffff}, {S_CONFORMING, 0x00cf9f000000ffff},
		{S_READONLY, 0x00cff1000000ffff}, {S_EXECONLY, 0x00cff9000000ffff},
	};

	for (u32 i = 0; i < ARRAY_SIZE(gdt); i++)
		m_desc(m, gdt[i].sel, gdt[i].d);
	m_desc(m, S_TSS, 0x0000890000000067 | (u64)M_TSS << 16);
	m->c.gdt = (struct x86_dtr){.base = M_GDT, .limit = 0xff};
	m->c.idt = (struct x86_dtr){.base = M_IDT, .limit = 0xfff};
	m_poke(m, M_PML4, M_PDPT | P | W | U);
	m_poke(m, M_PDPT, M_PD | P | W | U);
	m_poke(m, M_PD, M_PT | P | W | U);
	for (u64 i = 0; i < 512; i++)
		m_poke(m, M_PT + i * 8, i << 12 | P | W);
}

static inline void m_cpl(struct machine *m, u32 cs, u32 ss, u32 dpl, u32 cs_extra)
{
	m->c.seg[SEG_CS] = (struct x86_seg){.sel = (u16)cs, .attr = 0x809b | dpl << 5 | cs_extra, .limit = ~0u};
	m->c.seg[SEG_SS] = (struct x86_seg){.sel = (u16)ss, .attr = 0xc093 | dpl << 5, .limit = ~0u};
}

static inline void m_kernel64(struct machine *m)
{
	m_cpl(m, S_CODE64, S_DATA, 0, SEGA_L);
}
static inline void m_user64(struct machine *m)
{
	m_cpl(m, S_UCODE64, S_UDATA, 3, SEGA_L);
}

/* Long mode at CPL 0, paging on, TSS loaded, RSP0 and IST1 set. */
static inline void m_long(struct machine *m)
{
	m_new(m);
	m_tables(m);
	m->c.cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_ET | CR0_NE;
	m->c.cr4 = CR4_PAE | CR4_PGE;
	m->c.cr3 = M_PML4;
	m->c.msr.efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	for (u32 i = 0; i < SEG_COUNT; i++)
		m->c.seg[i] = (struct x86_seg){.attr = SEGA_UNUSABLE};
	m_kernel64(m);
	m->c.gpr[R_RSP] = M_STACK;
	m->c.rip = 0x5000;
	assert_true(x86_ltr(&m->c, S_TSS));
	m_poke(m, M_TSS + 4, 0x30000);	  /* RSP0 */
	m_poke(m, M_TSS + 0x24, 0x38008); /* IST1, misaligned on purpose */
	m->will_write = m->modes = m->flush_all = 0;
}

/* 32-bit protected mode, flat, no paging. */
static inline void m_prot32(struct machine *m)
{
	m_new(m);
	m_tables(m);
	m->c.cr0 = CR0_PE | CR0_ET | CR0_NE;
	for (u32 i = 0; i < SEG_COUNT; i++)
		m->c.seg[i] = (struct x86_seg){.sel = S_DATA, .attr = 0xc093, .limit = ~0u};
	m_cpl(m, S_CODE32, S_DATA, 0, SEGA_DB);
	m->c.gpr[R_RSP] = M_STACK;
	m->c.rip = 0x5000;
	assert_true(x86_ltr(&m->c, S_TSS));
	m_poke(m, M_TSS + 4, 0x30000 | (u64)S_DATA << 32); /* ESP0, SS0 */
}

static inline void m_free(struct machine *m)
{
	free(m->ram);
}

#define assert_fault(m_, vec_, err_)                                                                                                       \
	do {                                                                                                                               \
		assert_true((m_)->c.fault.pending);                                                                                        \
		assert_int_equal((m_)->c.fault.vector, (vec_));                                                                            \
		assert_int_equal((m_)->c.fault.error, (err_));                                                                             \
		(m_)->c.fault.pending = false;                                                                                             \
	} while (0)
