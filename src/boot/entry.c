/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The boot CPU's state at a kernel's entry: flat protected mode without paging (PVH, multiboot, Linux 32-bit protocol) and long mode with
 * the first 4 GiB identity-mapped (Linux 64-bit protocol). Selectors are those the Linux protocol asks for; the others accept any.
 *
 * Threading: main thread, before the vCPU runs.
 */
#include "boot/loader.h"

#define SEL_CODE 0x10
#define SEL_DATA 0x18
#define SEL_TSS 0x20

#define ATTR_ACCESSED_CODE (SEGA_P | SEGA_S | 0xbu)
#define ATTR_ACCESSED_DATA (SEGA_P | SEGA_S | 0x3u)
#define ATTR_BUSY_TSS (SEGA_P | 0xbu)

#define TSS_LIMIT 0x67u

#define PT_PRESENT_WRITE 0x3ull
#define PT_LARGE 0x80ull
#define ENTRIES 512u
#define DIRECTORIES 4u /* of 1 GiB each */

/* Limit in bytes, as struct x86_seg has it; stored in pages when G is set. */
static u64 descriptor(const struct x86_seg *s)
{
	u64 limit = s->attr & SEGA_G ? s->limit >> 12 : s->limit;

	return (limit & 0xffff) | (s->base & 0xffffff) << 16 | (u64)(s->attr & 0xff) << 40 | (limit >> 16 & 0xf) << 48 |
	       (u64)(s->attr >> 12 & 0xf) << 52 | (s->base >> 24 & 0xff) << 56;
}

static void set_segments(struct x86_cpu *c, u32 code_bits)
{
	const struct x86_seg code = {.sel = SEL_CODE, .attr = ATTR_ACCESSED_CODE | SEGA_G | code_bits, .limit = UINT32_MAX};
	const struct x86_seg data = {.sel = SEL_DATA, .attr = ATTR_ACCESSED_DATA | SEGA_G | SEGA_DB, .limit = UINT32_MAX};

	for (u32 i = 0; i < SEG_COUNT; i++)
		c->seg[i] = i == SEG_CS ? code : data;
	c->tr = (struct x86_seg){.sel = SEL_TSS, .attr = ATTR_BUSY_TSS, .limit = TSS_LIMIT};
	c->ldt = (struct x86_seg){.attr = SEGA_UNUSABLE};
}

static int put_gdt(struct loader *ld)
{
	struct x86_cpu *c = ld->cpu;
	/* Five slots and one more: a TSS descriptor has 16 bytes in long mode. */
	u64 gdt[6] = {[SEL_CODE / 8] = descriptor(&c->seg[SEG_CS]),
		      [SEL_DATA / 8] = descriptor(&c->seg[SEG_DS]),
		      [SEL_TSS / 8] = descriptor(&c->tr)};
	gpa_t at;
	int r = layout_put_low(ld, gdt, sizeof(gdt), 16, "descriptor table", &at);

	if (r < 0)
		return r;
	c->gdt = (struct x86_dtr){.base = at, .limit = sizeof(gdt) - 1};
	c->idt = (struct x86_dtr){.base = 0, .limit = 0};
	return 0;
}

static int set_common(struct loader *ld, gpa_t rip, u32 code_bits)
{
	struct x86_cpu *c = ld->cpu;

	for (u32 i = 0; i < 16; i++)
		c->gpr[i] = 0;
	c->rip = rip;
	c->rflags = FL_ONE;
	c->cr0 = CR0_PE | CR0_ET;
	c->cr2 = c->cr3 = c->cr4 = 0;
	c->msr.efer = 0;
	set_segments(c, code_bits);
	return put_gdt(ld);
}

int entry_protected(struct loader *ld, gpa_t rip)
{
	return set_common(ld, rip, SEGA_DB);
}

/* One PML4, one page of directory pointers, four directories of 2 MiB pages. */
static int put_page_tables(struct loader *ld, gpa_t *root)
{
	u64 size = (2 + DIRECTORIES) * PAGE_SIZE;
	int r = layout_place_low(ld, size, PAGE_SIZE, "page tables", root);
	u64 *table;

	if (r < 0)
		return r;
	table = (u64 *)(void *)gm_ptr(ld->gm, *root, size);
	for (u32 i = 0; i < 2 * ENTRIES; i++)
		table[i] = 0;
	table[0] = (*root + PAGE_SIZE) | PT_PRESENT_WRITE;
	for (u32 i = 0; i < DIRECTORIES; i++)
		table[ENTRIES + i] = (*root + (2 + i) * PAGE_SIZE) | PT_PRESENT_WRITE;
	for (u64 i = 0; i < DIRECTORIES * ENTRIES; i++)
		table[2 * ENTRIES + i] = i << 21 | PT_LARGE | PT_PRESENT_WRITE;
	gm_written(ld->gm, *root, size);
	return 0;
}

int entry_long(struct loader *ld, gpa_t rip)
{
	struct x86_cpu *c = ld->cpu;
	gpa_t root;
	int r = set_common(ld, rip, SEGA_L);

	if (r == 0)
		r = put_page_tables(ld, &root);
	if (r)
		return r;
	c->cr3 = root;
	c->cr4 = CR4_PAE;
	c->cr0 |= CR0_PG;
	c->msr.efer = EFER_LME | EFER_LMA;
	return 0;
}
