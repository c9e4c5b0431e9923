/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What selectors mean to 32-bit code in a cell: exactly what they mean to the guest's, whether they are in a register already or are loaded there.
 *
 * Linux has the same GDT as a host and as a guest. The entries that are the same for all programs must be the host's; the three of the thread's own
 * are copied to the cell each time they differ. What the copies cannot express is absent there: loading it faults and is interpreted. The guest's
 * tables cannot change while its user code runs, and are looked at each time before it does.
 *
 * Threading: the vCPU's thread, while the cell waits.
 */
#include "engine/bt/direct.h"

#include <string.h>

#define DESC_AVL (1ull << 52)
#define DESC_PAGES (1ull << 55)
#define DESC_WRITABLE (1ull << 41)
#define DESC_LIMIT 0x000f00000000ffffull
#define DESC_BASE 0xff0000ffffff0000ull

static const struct {
	u16 sel;
	u64 desc;
} common[] = {
	{HOST_CS32, 0x00cffb000000ffffull},
	{HOST_DS, 0x00cff3000000ffffull},
	{HOST_CS, 0x00affb000000ffffull},
};

/* An entry of the guest's GDT; 0, which no selector can be loaded with, where there is none. */
static u64 descriptor(struct bt_vcpu *v, u32 sel)
{
	const struct x86_dtr *gdt = &v->cpu.gdt;
	gva_t at = gdt->base + (sel & ~7u);
	const u8 *page = (sel | 7) <= gdt->limit ? direct_peek(v, at) : NULL;
	u64 d = 0;
	if (page && at % PAGE_SIZE <= PAGE_SIZE - sizeof d)
		memcpy(&d, page + at % PAGE_SIZE, sizeof d);
	return d;
}

/* Data that grows upwards, 32 bits wide, for ring 3, loaded before. */
static struct cell_tls as_tls(u64 d)
{
	if ((d & ~(DESC_BASE | DESC_LIMIT | DESC_AVL | DESC_PAGES | DESC_WRITABLE)) != 0x0040f10000000000ull)
		return (struct cell_tls){0};
	return (struct cell_tls){.present = true,
				 .writable = d & DESC_WRITABLE,
				 .pages = d & DESC_PAGES,
				 .base = (u32)((d >> 16 & 0xffffff) | (d >> 32 & 0xff000000)),
				 .limit = (u32)((d & 0xffff) | (d >> 32 & 0xf0000))};
}

static bool same(const struct cell_tls *a, const struct cell_tls *b)
{
	return a->present == b->present && a->writable == b->writable && a->pages == b->pages && a->base == b->base && a->limit == b->limit;
}

bool direct_compat_mirror(struct bt_vcpu *v, struct bt_cell *c)
{
	for (u32 n = 0; n < CELL_TLS && !v->direct->no_tls; n++) {
		struct cell_tls want = as_tls(descriptor(v, CELL_TLS_SELECTOR + 8 * n));
		if (same(&want, &c->tls[n]) || bt_cell_set_tls(c, n, &want))
			continue;
		v->direct->no_tls = true;
	}
	return !v->direct->no_tls || !(c->tls[0].present || c->tls[1].present || c->tls[2].present);
}

/* What the register holds may have been loaded before the table changed. */
static bool in_table(const struct x86_seg *s, const struct bt_cell *c)
{
	u32 n = ((u32)s->sel - CELL_TLS_SELECTOR) / 8;
	if (s->sel < CELL_TLS_SELECTOR || n >= CELL_TLS)
		return true;
	const struct cell_tls *t = &c->tls[n];
	u32 attr = 1 | SEGA_S | SEGA_DPL | SEGA_P | SEGA_DB | (t->writable ? 2 : 0) | (t->pages ? SEGA_G : 0);
	return t->present && (s->attr & ~SEGA_AVL) == attr && s->limit == (t->pages ? t->limit << 12 | 0xfff : t->limit);
}

bool direct_compat_same(struct bt_vcpu *v, const struct bt_cell *c)
{
	for (u32 i = 0; i < ARRAY_SIZE(common); i++)
		if ((descriptor(v, common[i].sel) & ~DESC_AVL) != common[i].desc)
			return false;
	return in_table(&v->cpu.seg[SEG_FS], c) && in_table(&v->cpu.seg[SEG_GS], c);
}
