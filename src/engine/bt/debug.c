/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a debugger has armed: breakpoints, watchpoints, single step.
 *
 * None of it lies where the guest could find it. Blocks end before an instruction with a breakpoint, and none begins there: control reaches
 * it through bt_dispatch only, which leaves. Pages with watched bytes are absent from the shadow tables, as MMIO is: accesses to them are
 * interpreted, and the rules compare them byte by byte. Single steps are the interpreter's. Code and pages without any of this run as ever.
 * Patching INT3 into guest memory was refused: the guest checks, copies and changes its text, and several address spaces share it.
 *
 * Light code: general registers only, no libc. Threading: bt_vcpu_debug from any thread while the vCPU does not run, the rest on its thread.
 */
#include "engine/bt/bt.h"

/* The first breakpoint at or behind gva. */
static u32 lower_bound(const struct engine_debug *d, gva_t gva)
{
	u32 lo = 0, hi = d->nbreaks;
	while (lo < hi) {
		u32 mid = lo + (hi - lo) / 2;
		if (d->breaks[mid] < gva)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static bool breaks_within(const struct engine_debug *d, gva_t gva, u64 len)
{
	u32 i = lower_bound(d, gva);
	return i < d->nbreaks && d->breaks[i] - gva < len;
}

bool bt_debug_breaks(const struct bt_vcpu *v, gva_t gva)
{
	return unlikely(v->debug != NULL) && breaks_within(v->debug, gva, 1);
}

bool bt_debug_at_break(const struct bt_vcpu *v)
{
	const struct x86_cpu *c = &v->cpu;
	if (likely(v->debug == NULL))
		return false;
	return bt_debug_breaks(v, x86_code64(c) ? c->rip : (u32)(c->seg[SEG_CS].base + c->rip));
}

/* A page whose reads are watched is hidden whole, because what lets translated code write lets it read. */
bool bt_debug_hides_page(const struct bt_vcpu *v, gva_t gva, bool write)
{
	const struct x86_watch *w = v->cpu.watch;
	gva_t page = PAGE_BASE(gva);
	if (likely(w == NULL))
		return false;
	for (u32 i = 0; i < w->n; i++) {
		const struct x86_watchpoint *p = &w->point[i];
		if ((p->reads || write) && (page - p->gva < p->len || p->gva - page < PAGE_SIZE))
			return true;
	}
	return false;
}

void bt_vcpu_debug(struct engine_vcpu *ev, struct engine_debug *d)
{
	struct bt_vcpu *v = (struct bt_vcpu *)ev;
	v->debug = d;
	v->stepped = false;
	v->cpu.watch = d && d->watch.n ? &d->watch : NULL;
	v->debug_changed |= d && d->changed;
}

/* Only blocks over a new breakpoint go: the others end before one or know none. Returns to the dead ones are forgotten. */
static void drop_blocks(struct bt_vcpu *v)
{
	for (u32 i = bt_block_next(v, 0); i; i = bt_block_next(v, i)) {
		const struct bt_block *b = &v->blocks[i];
		if (!b->dead && breaks_within(v->debug, b->gva, b->bytes))
			bt_block_kill(v, i);
	}
	bt_ras_empty(v);
}

void bt_debug_apply(struct bt_vcpu *v)
{
	if (!v->debug_changed)
		return;
	v->debug_changed = false;
	if (!v->debug)
		return;
	if (v->debug->nbreaks)
		drop_blocks(v);
	if (v->debug->watch.n)
		bt_shadow_flush(v, -1, true);
}

static enum engine_hit what_is_due(const struct bt_vcpu *v)
{
	const struct engine_debug *d = v->debug;
	if (d->watch.met)
		return HIT_WATCH;
	if (d->step)
		return v->stepped ? HIT_STEP : HIT_NONE;
	return !v->halted && bt_debug_at_break(v) ? HIT_BREAK : HIT_NONE;
}

bool bt_debug_due(struct bt_vcpu *v)
{
	v->debug->hit = what_is_due(v);
	v->stepped = false;
	return v->debug->hit != HIT_NONE;
}
