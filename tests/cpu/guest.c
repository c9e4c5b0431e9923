/* SPDX-License-Identifier: Apache-2.0 */
/* Page tables, descriptor tables and stubs of the guest that runs a case. See guest.h. */
#include "guest.h"

#include "engine/bt/interp_private.h"

#include <cpuid.h>
#include <stdio.h>
#include <string.h>

#define KERNEL_BASE                                                                                                                        \
	0xffffa5a500000000ull /* maps guest-physical 0 to 64 KiB, supervisor only; far from what a sign-extended displacement reaches */
#define KERNEL_PAGES 16u

/* Tables below the root exist twice: for ring 3 (entries of the case's pages with U/S set) and, at OTHER, for ring 0. */
#define OTHER 0x10000u
#define PML4 0x1000u
#define PDPT_LOW 0x2000u
#define PD_LOW 0x3000u
#define PT_CODE 0x4000u
#define PT_DATA 0x5000u
#define PDPT_HIGH 0x6000u
#define PD_HIGH 0x7000u
#define PT_HIGH 0x8000u
#define GDT 0x9000u
#define TSS 0x9800u
#define STUBS 0xa000u
#define STUB_SIZE 8u
#define STACK_TOP 0xd000u
#define IDT 0xd000u
#define CODE_PHYS 0x100000u
#define CODE_PHYS_PAGES 16u
#define DATA_PHYS 0x110000u

#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_AD 0x60ull
#define PTE_NX (1ull << 63)

#define SEL_KERNEL_CODE 0x10u
#define SEL_KERNEL_DATA 0x18u
#define SEL_USER_CODE32 0x23u
#define SEL_USER_DATA 0x2bu
#define SEL_USER_CODE 0x33u
#define SEL_TSS 0x40u

#define ATTR_CODE64 (0xbu | SEGA_S | SEGA_P | SEGA_L | SEGA_G)
#define ATTR_CODE32 (0xbu | SEGA_S | SEGA_P | SEGA_DB | SEGA_G)
#define ATTR_DATA (0x3u | SEGA_S | SEGA_P | SEGA_DB | SEGA_G)
#define ATTR_DPL3 SEGA_DPL
#define ATTR_TSS (0xbu | SEGA_P)

static void put64(struct guest *g, gpa_t at, u64 v)
{
	if (!gm_write(&g->gm, at, &v, 8))
		fprintf(stderr, "cpu-fuzz: guest-physical %llx is outside RAM\n", (unsigned long long)at);
}

/* No page's frame lies beside its neighbour's: what takes the one for the other goes wrong. */
static gpa_t code_frame(u32 page)
{
	return CODE_PHYS + (CODE_PHYS_PAGES - 1 - 2 * page) * 4096ull;
}

static gpa_t data_frame(u32 page)
{
	return DATA_PHYS + (7 * page + 3) % 11 * 4096ull;
}

static void map_range(struct guest *g, gpa_t table, u32 first, u32 pages, gpa_t phys, u64 flags)
{
	for (u32 i = 0; i < pages; i++)
		put64(g, table + 8 * (first + i), (phys + i * 4096ull) | flags | PTE_P | PTE_AD);
}

static u32 index_at(u64 va, u32 level)
{
	return (u32)(va >> (12 + 9 * (level - 1)) & 511);
}

/* The code area once more, at CASE_CODE_W. */
static void map_second_code(struct guest *g, gpa_t at, u64 flags)
{
	for (u32 i = 0; i < CASE_CODE_PAGES; i++)
		map_range(g, at + PT_CODE, index_at(CASE_CODE_W, 1) + i, 1, code_frame(i), flags);
}

static void build_pages(struct guest *g, gpa_t at, u64 user)
{
	const u64 upper = PTE_P | PTE_W | PTE_U | 0x20;

	put64(g, at + PML4, (at + PDPT_LOW) | upper);
	put64(g, at + PML4 + 8 * index_at(KERNEL_BASE, 4), (at + PDPT_HIGH) | upper);
	put64(g, at + PDPT_LOW, (at + PD_LOW) | upper);
	put64(g, at + PDPT_HIGH + 8 * index_at(KERNEL_BASE, 3), (at + PD_HIGH) | upper);
	put64(g, at + PD_HIGH + 8 * index_at(KERNEL_BASE, 2), (at + PT_HIGH) | upper);
	put64(g, at + PD_LOW + 8 * index_at(CASE_CODE, 2), (at + PT_CODE) | upper);
	put64(g, at + PD_LOW + 8 * index_at(CASE_DATA, 2), (at + PT_DATA) | upper);
	map_range(g, at + PT_HIGH, 0, KERNEL_PAGES, 0, PTE_W);
	for (u32 i = 0; i < CASE_CODE_PAGES; i++)
		map_range(g, at + PT_CODE, i, 1, code_frame(i), user);
	map_second_code(g, at, user);
	for (u32 i = 0; i < CASE_DATA_PAGES + CASE_ROM_PAGES; i++)
		map_range(g, at + PT_DATA, i, 1, data_frame(i), user | PTE_NX | (i < CASE_DATA_PAGES ? PTE_W : 0));
}

static void build_gdt(struct guest *g)
{
	u64 tss = KERNEL_BASE + TSS;

	put64(g, GDT + SEL_KERNEL_CODE, 0x00af9b000000ffffull);
	put64(g, GDT + 0x18, 0x00cf93000000ffffull);
	put64(g, GDT + 0x20, 0x00cffb000000ffffull);
	put64(g, GDT + (SEL_USER_DATA & ~7u), 0x00cff3000000ffffull);
	put64(g, GDT + (SEL_USER_CODE & ~7u), 0x00affb000000ffffull);
	put64(g, GDT + SEL_TSS, 0x0000890000000067ull | (tss & 0xffffff) << 16 | (tss >> 24 & 0xff) << 56);
	put64(g, GDT + SEL_TSS + 8, tss >> 32);
	put64(g, TSS + 4, KERNEL_BASE + STACK_TOP);
	put64(g, TSS + 0x24, KERNEL_BASE + STACK_TOP); /* IST1: in ring 0 the case's stack may be anywhere */
	put64(g, TSS + 0x60, 0x0067000000000000ull);   /* I/O map beyond the limit: no port is allowed */
}

/* out %al, $port; hlt; jmp back to hlt */
static const u8 stub[STUB_SIZE] = {0xe6, GUEST_DONE_PORT, 0xf4, 0xeb, 0xfd, 0xcc, 0xcc, 0xcc};

static void build_idt(struct guest *g)
{
	for (u32 v = 0; v < 256; v++) {
		u64 at = KERNEL_BASE + STUBS + v * STUB_SIZE, dpl = v == VEC_BP || v == VEC_OF ? 3 : 0;

		put64(g, IDT + 16 * v, (at & 0xffff) | SEL_KERNEL_CODE << 16 | (0x8e01ull | dpl << 13) << 32 | (at >> 16 & 0xffff) << 48);
		put64(g, IDT + 16 * v + 8, at >> 32);
		if (!gm_write(&g->gm, STUBS + v * STUB_SIZE, stub, STUB_SIZE))
			return;
	}
}

/* What engines announce, but nothing that the CPU has not with which they are compared: SERIALIZE is announced everywhere. */
static void build_cpuid(struct x86_cpuid *p)
{
	const struct x86_cpuid_config config = {.ncpus = 1, .tsc_hz = 1000000000, .engine_bt = true};
	u32 eax, ebx, ecx, edx;

	x86_cpuid_build(p, &config);
	__cpuid_count(7, 0, eax, ebx, ecx, edx);
	for (u32 i = 0; i < p->n; i++)
		if (p->leaf[i].leaf == 7 && p->leaf[i].sub == 0)
			p->leaf[i].edx &= edx | ~(u32)bit_SERIALIZE;
}

int guest_create(struct guest *g, struct err *e)
{
	int r;

	memset(g, 0, sizeof(*g));
	r = gm_create(&g->gm, GUEST_RAM_SIZE, e);
	if (r)
		return r;
	build_cpuid(&g->cpuid);
	build_pages(g, 0, PTE_U);
	build_pages(g, OTHER, 0);
	build_gdt(g);
	build_idt(g);
	for (u32 i = 0; i < CASE_CODE_PAGES; i++)
		memset(gm_ptr(&g->gm, code_frame(i), 4096), 0xcc, 4096);
	return 0;
}

void guest_destroy(struct guest *g)
{
	gm_destroy(&g->gm);
}

static const struct x86_cpuid *policy(void)
{
	static struct x86_cpuid p;

	if (!p.n)
		build_cpuid(&p);
	return &p;
}

bool guest_has(u32 leaf, u32 sub, u32 reg, u32 bit)
{
	return x86_cpuid_has(policy(), leaf, sub, reg, bit);
}

bool guest_announces(const ZydisDecodedInstruction *in)
{
	return interp_isa_announced(policy(), in);
}

static void load_segments(struct x86_cpu *c, const struct cpu_case *cs)
{
	const struct x86_seg null_seg = {.attr = SEGA_UNUSABLE | SEGA_DPL};

	for (u32 i = 0; i < SEG_COUNT; i++)
		c->seg[i] = null_seg;
	if (cs->bits == 32) {
		c->seg[SEG_DS] = c->seg[SEG_ES] = (struct x86_seg){.sel = SEL_USER_DATA, .attr = ATTR_DATA | ATTR_DPL3, .limit = ~0u};
		c->seg[SEG_CS] = (struct x86_seg){.sel = SEL_USER_CODE32, .attr = ATTR_CODE32 | ATTR_DPL3, .limit = ~0u};
		c->seg[SEG_SS] = c->seg[SEG_DS];
	} else if (cs->ring) {
		c->seg[SEG_CS] = (struct x86_seg){.sel = SEL_USER_CODE, .attr = ATTR_CODE64 | ATTR_DPL3, .limit = ~0u};
		c->seg[SEG_SS] = (struct x86_seg){.sel = SEL_USER_DATA, .attr = ATTR_DATA | ATTR_DPL3, .limit = ~0u};
	} else {
		c->seg[SEG_CS] = (struct x86_seg){.sel = SEL_KERNEL_CODE, .attr = ATTR_CODE64, .limit = ~0u};
		c->seg[SEG_SS] = (struct x86_seg){.sel = SEL_KERNEL_DATA, .attr = ATTR_DATA, .limit = ~0u};
	}
	c->seg[SEG_FS].base = cs->fs_base;
	c->seg[SEG_GS].base = cs->gs_base;
	c->ldt = (struct x86_seg){.attr = SEGA_UNUSABLE};
	c->tr = (struct x86_seg){.sel = SEL_TSS, .attr = ATTR_TSS, .limit = 0x67, .base = KERNEL_BASE + TSS};
	c->gdt = (struct x86_dtr){.base = KERNEL_BASE + GDT, .limit = 0x4f};
	c->idt = (struct x86_dtr){.base = KERNEL_BASE + IDT, .limit = 0xfff};
}

static void load_control(struct guest *g, const struct cpu_case *cs, struct x86_cpu *c)
{
	c->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
	c->cr2 = 0;
	c->cr3 = cs->ring ? PML4 : OTHER + PML4;
	c->cr4 = CR4_PAE | CR4_PGE | CR4_DE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_FSGSBASE | CR4_OSXSAVE | CR4_UMIP;
	c->msr.efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	c->xcr0 = CASE_XFEATURES & g->cpuid.xcr0_supported;
	c->dr[6] = 0xffff0ff0;
	c->dr[7] = 0x400;
}

/* Bytes of the code area, page by page. */
static bool write_code(struct guest *g, u32 at, const u8 *bytes, u32 len)
{
	for (u32 n; len; at += n, bytes += n, len -= n) {
		n = 4096 - at % 4096 < len ? 4096 - at % 4096 : len;
		if (!gm_write(&g->gm, code_frame(at / 4096) + at % 4096, bytes, n))
			return false;
	}
	return true;
}

/* The code area holds INT3 where no code is. */
static bool load_code(struct guest *g, const struct cpu_case *cs)
{
	u8 breakpoints[CASE_CODE_SIZE];

	memset(breakpoints, 0xcc, sizeof(breakpoints));
	if (!write_code(g, g->code_at, breakpoints, g->code_len))
		return false;
	g->code_at = cs->writable ? 0 : cs->start;
	g->code_len = cs->writable ? CASE_CODE_SIZE : cs->code_len;
	return write_code(g, cs->start, cs->code, cs->code_len);
}

static void load_memory(struct guest *g, const struct cpu_case *cs)
{
	case_fill_data(cs, g->data);
	for (u32 i = 0; i < CASE_DATA_ALL / 4096; i++)
		if (!gm_write(&g->gm, data_frame(i), g->data + i * 4096, 4096))
			return;
	if (g->writable != cs->writable) /* who loads a case drops what is kept of the tables */
		map_second_code(g, 0, PTE_U | (cs->writable ? PTE_W : 0));
	g->writable = cs->writable;
	if (!g->code_in_place || cs->writable)
		g->code_in_place = load_code(g, cs);
}

void guest_load(struct guest *g, const struct cpu_case *cs, struct x86_cpu *c)
{
	x86_reset(c, true, false);
	load_memory(g, cs);
	load_segments(c, cs);
	load_control(g, cs, c);
	memcpy(c->gpr, cs->gpr, sizeof(c->gpr));
	c->rip = case_start_rip(cs);
	c->rflags = cs->rflags;
	memset(&c->fpu, 0, sizeof(c->fpu));
	memcpy(c->fpu.bytes, cs->xsave.bytes, CASE_XSAVE_SIZE);
	g->done = false;
}

static bool has_error_code(u32 vector)
{
	const u32 with_error = 1u << VEC_DF | 0x1fu << VEC_TS | 1u << VEC_AC | 1u << 21;

	return vector < 32 && (with_error >> vector & 1);
}

static bool read_frame(struct guest *g, const struct x86_cpu *c, struct cpu_result *r)
{
	u64 frame[6] = {0}, *at = frame + 1;
	bool error = has_error_code(r->vector);
	u32 len = error ? 48 : 40;

	if (c->gpr[R_RSP] - KERNEL_BASE + len > STACK_TOP)
		return false;
	if (!gm_read(&g->gm, c->gpr[R_RSP] - KERNEL_BASE, error ? frame : at, len))
		return false;
	r->error = (u32)frame[0];
	r->rip = at[0];
	r->rflags = at[2];
	r->gpr[R_RSP] = at[3];
	return true;
}

void guest_result(struct guest *g, const struct x86_cpu *c, struct cpu_result *r)
{
	u64 stub_at = c->rip - KERNEL_BASE - STUBS;

	memset(r, 0, offsetof(struct cpu_result, xsave));
	r->note[0] = 0;
	r->code = 0;
	r->end = END_FAULT;
	memcpy(r->gpr, c->gpr, sizeof(r->gpr));
	memcpy(r->xsave.bytes, c->fpu.bytes, CASE_XSAVE_SIZE);
	case_xsave_normalise(&r->xsave);
	r->cr2 = c->cr2;
	r->fs_base = c->seg[SEG_FS].base;
	r->gs_base = c->seg[SEG_GS].base;
	r->vector = (u32)(stub_at / STUB_SIZE);
	if (stub_at >= 256 * STUB_SIZE || !read_frame(g, c, r)) {
		r->end = END_ENGINE;
		r->rip = c->rip;
		snprintf(r->note, sizeof(r->note), "stopped at rip %llx, not in an exception stub", (unsigned long long)c->rip);
	}
	for (u32 i = 0; i < CASE_CODE_PAGES && g->writable; i++)
		r->code = case_digest(r->code, gm_ptr(&g->gm, code_frame(i), 4096), 4096);
	for (u32 i = 0; i < CASE_DATA_ALL / 4096; i++)
		if (!gm_read(&g->gm, data_frame(i), r->data + i * 4096, 4096))
			r->end = END_ENGINE;
}

bool guest_at_end_marker(const struct guest *g, const struct cpu_case *cs, const struct cpu_result *r)
{
	u32 at = cs->start + cs->offset[cs->n];
	u8 byte;

	if (r->rip != case_end_rip(cs) || cs->fall_off)
		return r->rip == case_end_rip(cs);
	return gm_read(&g->gm, code_frame(at / 4096) + at % 4096, &byte, 1) && byte == cs->code[cs->offset[cs->n]];
}
