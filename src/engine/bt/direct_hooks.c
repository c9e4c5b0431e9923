/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where light code meets direct execution: may what stands at rip run in a cell, which process is it, what has the guest invalidated.
 *
 * Light code: general registers only, no libc; what is to be done about it is noted and done before the cell runs again.
 * Threading: the vCPU's thread.
 */
#include "engine/bt/direct.h"

static struct direct_process *find_process(struct bt_direct *d, u64 cr3)
{
	for (u32 i = 0; i < DIRECT_PROCESSES; i++)
		if (d->process[i].cr3 == cr3)
			return &d->process[i];
	return NULL;
}

void bt_direct_switch(struct bt_vcpu *v)
{
	struct bt_direct *d = v->direct;
	if (!d)
		return;
	d->now = find_process(d, direct_table(v));
	v->direct_on = !d->refused && (v->vm->directly == DIRECTLY_ALWAYS || (d->now && d->now->on));
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
	return MODE_USER | MODE_X87 | MODE_SSE | MODE_AVX | (v->xsave_mask & 0xe0 ? MODE_AVX512 : 0);
}

/* Nothing in the CPU's state makes this code behave otherwise here than on the host. */
bool bt_direct_may(const struct bt_vcpu *v)
{
	const struct x86_cpu *c = &v->cpu;
	if ((v->mode & ~(u32)MODE_DF) != whole_mode(v) || v->debug || c->watch || !(c->rflags & FL_IF))
		return false;
	if ((c->rflags & (FL_TF | FL_NT | FL_AC | FL_VM | FL_VIF | FL_VIP | FL_IOPL)) ||
	    (c->cr4 & (CR4_FSGSBASE | CR4_TSD)) != CR4_FSGSBASE || c->irq_shadow)
		return false;
	if (c->xcr0 != v->direct->host.xcr0)
		return false;
	const struct x86_seg *s = c->seg;
	return s[SEG_CS].sel == USER_CS && s[SEG_SS].sel == USER_SS && !(s[SEG_DS].sel | s[SEG_ES].sel | s[SEG_FS].sel | s[SEG_GS].sel);
}
