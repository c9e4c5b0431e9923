/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where light code meets direct execution: may what stands at rip run in a cell, which process is it, what has the guest invalidated.
 *
 * Light code: general registers only, no libc; what is to be done about it is noted and done before the cell runs again.
 * Threading: the vCPU's thread.
 */
#include "engine/bt/direct.h"

#define TYPE_DATA 3u  /* writable, accessed */
#define TYPE_CODE 11u /* readable, accessed */

static struct direct_process *find_process(struct bt_direct *d, u64 cr3)
{
	for (u32 i = 0; i < DIRECT_PROCESSES; i++)
		if (d->process[i].cr3 == cr3)
			return &d->process[i];
	return NULL;
}

/* Of whoever had this page table before nothing holds for its new owner but the cell, which is emptied. */
static void meet_anew(struct direct_process *p, u64 stack_entry)
{
	if (p->map)
		p->map->stale = true;
	*p = (struct direct_process){.cr3 = p->cr3, .pcid = p->pcid, .map = p->map, .stamp = p->stamp, .stack_entry = stack_entry};
}

static void look_who_it_is(struct bt_vcpu *v, struct direct_process *p)
{
	u64 stack_entry = direct_stack_entry(v);
	if (p->stack_entry != stack_entry)
		meet_anew(p, stack_entry);
}

void bt_direct_switch(struct bt_vcpu *v)
{
	struct bt_direct *d = v->direct;
	if (!d)
		return;
	d->now = find_process(d, direct_table(v));
	if (d->now)
		look_who_it_is(v, d->now);
	for (u32 compat = 0; compat < 2; compat++)
		v->direct_on[compat] = !d->refused && (v->vm->directly == DIRECTLY_ALWAYS || (d->now && d->now->on[compat]));
}

static void note_page(struct direct_map *m, gva_t gva)
{
	if (m->nforget < DIRECT_FORGET)
		m->forget[m->nforget++] = gva;
	else
		m->stale = true;
}

void bt_direct_flush(struct bt_vcpu *v, int pcid)
{
	for (u32 i = 0; v->direct && i < DIRECT_PROCESSES; i++) {
		struct direct_process *p = &v->direct->process[i];
		if (p->map && (pcid < 0 || p->pcid == pcid))
			p->map->stale = true;
	}
}

void bt_direct_flush_page(struct bt_vcpu *v, gva_t gva, int pcid)
{
	for (u32 i = 0; v->direct && i < DIRECT_PROCESSES; i++) {
		struct direct_process *p = &v->direct->process[i];
		if (p->map && (pcid < 0 || p->pcid == pcid))
			note_page(p->map, gva);
	}
}

static u32 whole_mode(const struct bt_vcpu *v)
{
	return MODE_X87 | MODE_SSE | MODE_AVX | (v->xsave_mask & 0xe0 ? MODE_AVX512 : 0);
}

/* All 4 GiB, as the host's own segments are. */
static bool is_flat(const struct x86_seg *s, u16 sel, u32 attr)
{
	return s->sel == sel && (s->attr & ~SEGA_AVL) == (attr | SEGA_S | SEGA_DPL | SEGA_P | SEGA_DB | SEGA_G) && s->limit == ~0u;
}

/* DS and ES: nothing, or everything. */
static bool is_common(const struct x86_seg *s)
{
	return s->sel == 0 || (is_flat(s, HOST_DS, TYPE_DATA) && s->base == 0);
}

/* FS and GS: the base is the CPU's own matter, and what a selector of the thread's stands for direct_compat.c looks up. */
static bool is_threads(const struct x86_seg *s)
{
	u32 n = (u32)s->sel - CELL_TLS_SELECTOR;
	return s->sel == 0 || (s->base <= ~0u && (is_flat(s, HOST_DS, TYPE_DATA) || (n % 8 == 0 && n / 8 < CELL_TLS)));
}

static bool compat_segments(const struct bt_vcpu *v)
{
	const struct x86_seg *s = v->cpu.seg;
	return !v->direct->no_compat && is_flat(&s[SEG_CS], HOST_CS32, TYPE_CODE) && s[SEG_CS].base == 0 && v->cpu.rip <= ~0u &&
	       is_flat(&s[SEG_SS], HOST_DS, TYPE_DATA) && s[SEG_SS].base == 0 && is_common(&s[SEG_DS]) && is_common(&s[SEG_ES]) &&
	       is_threads(&s[SEG_FS]) && is_threads(&s[SEG_GS]);
}

static bool long_segments(const struct x86_seg *s)
{
	return s[SEG_CS].sel == HOST_CS && s[SEG_SS].sel == HOST_DS && !(s[SEG_DS].sel | s[SEG_ES].sel | s[SEG_FS].sel | s[SEG_GS].sel);
}

/* Nothing in the CPU's state makes this code behave otherwise here than on the host. */
bool bt_direct_may(const struct bt_vcpu *v)
{
	const struct x86_cpu *c = &v->cpu;
	if ((v->mode & ~(u32)(MODE_DF | MODE_USER | MODE_COMPAT | MODE_INTERP)) != whole_mode(v) || v->debug || c->watch ||
	    !(c->rflags & FL_IF))
		return false;
	if ((c->rflags & (FL_TF | FL_NT | FL_AC | FL_VM | FL_VIF | FL_VIP | FL_IOPL)) ||
	    (c->cr4 & (CR4_FSGSBASE | CR4_TSD)) != CR4_FSGSBASE || c->irq_shadow)
		return false;
	if (c->xcr0 != v->direct->host.xcr0)
		return false;
	return v->mode & MODE_COMPAT ? compat_segments(v) : v->mode & MODE_USER && long_segments(c->seg);
}
