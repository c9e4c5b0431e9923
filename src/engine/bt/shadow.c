/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shadow page tables: for each address space (PCID) and view, flat tables of "host address minus gva", one entry a page, filled lazily from the
 * guest's own tables and dropped when the guest invalidates. They behave as a large TLB does: an entry may stay until the guest says otherwise.
 *
 * A page of a table maps 2 MiB of guest addresses. One byte a region tells which tables are touched there, whether an entry came from a large page
 * (INVLPG must then drop the region) and whether one is not global; a list of touched regions makes dropping proportional to use.
 *
 * With very many vCPUs the tables are half as long, and each entry serves two pages whose addresses differ in bit 47 (and what it is extended
 * to): the last one entered. The other one's address plus that delta is no address of a host program, so the access raises a signal and is
 * interpreted. Guests have one half for themselves and give the other to users, and seldom use the same page number in both.
 *
 * Light code: general registers only, no libc. Threading: the vCPU's thread; bt_shadow_unwrite also by who has stopped the world.
 */
#include "engine/bt/bt.h"

#define KEPT_MAX 1024 /* pages of an address space's tables that keep their memory when they hold nothing, 4 MiB */
#define PAYS 16	      /* times as many pages go back as regions were in use: these will need theirs again */

static u64 region_of(const struct bt_vm *vm, gva_t gva)
{
	return (gva & vm->page_mask) >> BT_REGION_SHIFT;
}

static void clear_words(u64 *p, u64 n)
{
	__asm__ volatile("rep stosq" : "+D"(p), "+c"(n) : "a"(0ull) : "memory");
}

/* Of a guest's programs, each of which lies elsewhere; the upper half of the addresses is its kernel's, which stays where it is. */
static bool is_low(u64 region)
{
	return region < BT_REGIONS / 2;
}

static void clear_region(struct bt_aspace *as, u64 region)
{
	u32 meta = as->meta[region], tables = meta & META_TABLES, kept = meta >> META_KEPT_SHIFT;
	for (u32 t = 0; t < 6; t++)
		if (tables & (1u << t))
			clear_words(as->table[t >> 1][t & 1] + (region << 9), 512);
	if (is_low(region))
		as->kept += (u32)__builtin_popcount(tables & ~kept);
	as->meta[region] = (u16)((tables | kept) << META_KEPT_SHIFT);
}

static void clear_kitlb(struct bt_vcpu *v)
{
	bt_itlb_clear(v, &v->kitlb);
	v->kitlb_local = false;
}

static void clear_itlb(struct bt_vcpu *v, struct bt_aspace *as, bool global)
{
	bt_itlb_clear(v, &as->itlb);
	if (global || v->kitlb_local)
		clear_kitlb(v);
}

/* The first `regions`, which hold nothing. */
static void give_back(struct bt_vcpu *v, struct bt_aspace *as, u64 regions)
{
	bt_aspace_give_back(v->vm, as, regions);
	as->kept = 0;
	v->st.tables_given_back++;
}

static bool pays_to_give_back(const struct bt_aspace *as)
{
	return as->kept > KEPT_MAX + PAYS * as->nregions;
}

/* Drop every region, or those that hold an entry which is not global. What is empty would grow without end, so it goes back when that costs little
 * beside what was cleared since. */
static void clear_aspace(struct bt_vcpu *v, struct bt_aspace *as, bool global)
{
	u32 kept = 0;
	bool give = pays_to_give_back(as), lost = global;
	v->epoch++;
	for (u32 i = 0; i < as->nregions; i++) {
		u32 region = as->regions[i];
		bool keep = !global && !(as->meta[region] & META_NONGLOBAL);
		if (keep && !(give && is_low(region))) {
			as->regions[kept++] = region;
			continue;
		}
		lost |= keep;
		clear_region(as, region);
	}
	as->nregions = kept;
	if (kept == 0)
		as->nhuge = 0;
	if (give)
		give_back(v, as, BT_REGIONS / 2);
	clear_itlb(v, as, lost);
}

static void note_region(struct bt_vcpu *v, struct bt_aspace *as, gva_t gva, u8 bits)
{
	u64 region = region_of(v->vm, gva);
	if (!(as->meta[region] & META_USED)) {
		if (as->nregions == as->cap_regions)
			clear_aspace(v, as, true); /* the list is full: start over, as any TLB may */
		as->regions[as->nregions++] = (u32)region;
	}
	as->meta[region] = (u16)(as->meta[region] | bits);
}

static void set_entry(struct bt_vcpu *v, struct bt_aspace *as, enum bt_view view, bool write, gva_t gva, u64 delta, u8 bits)
{
	note_region(v, as, gva, (u8)(bits | 1u << (view * 2 + write)));
	bt_entry_put(&as->table[view][write][bt_entry_index(v->vm, gva)], delta);
}

static void note_huge(struct bt_aspace *as, gva_t gva)
{
	u32 giga = (u32)(gva >> 30);
	for (u32 i = 0; i < as->nhuge && i < 8; i++)
		if (as->huge[i] == giga)
			return;
	if (as->nhuge < 8)
		as->huge[as->nhuge] = giga;
	if (as->nhuge < 9)
		as->nhuge++;
}

static bool is_huge(const struct bt_aspace *as, gva_t gva)
{
	for (u32 i = 0; i < as->nhuge && i < 8; i++)
		if (as->huge[i] == (u32)(gva >> 30))
			return true;
	return as->nhuge > 8;
}

/* A code page was entered into the itlb: INVLPG of any address in the page it came from must find it. */
void bt_shadow_note_fetch(struct bt_vcpu *v, gva_t gva, const struct x86_xlat *x)
{
	u8 bits = (x->page_shift > 12 ? META_LARGE : 0) | (x->global ? 0 : META_NONGLOBAL);
	if (bits)
		note_region(v, v->as, gva, bits);
	if (x->page_shift == 30)
		note_huge(v->as, gva);
	if (!x->global && x86_cpl(&v->cpu) != 3)
		v->kitlb_local = true;
}

/* Remember through which page a frame is writable. */
static void note_writer(struct bt_vcpu *v, u64 gpfn, gva_t gva)
{
	struct bt_vframe *f = &v->frames[gpfn];
	u64 page = gva >> 12;
	for (u32 i = 0; i < f->writers && i < 2; i++)
		if (f->wpage[i] == page)
			return;
	if (f->writers < 2)
		f->wpage[f->writers] = page;
	if (f->writers < 3)
		f->writers++;
}

static enum bt_view view_now(const struct bt_vcpu *v)
{
	if (x86_cpl(&v->cpu) == 3)
		return VIEW_USER;
	return v->cpu.rflags & FL_AC ? VIEW_SUPER_AC : VIEW_SUPER;
}

/* Enter one page: readable, and writable when write_ok. hva_page is the host address of the page's first byte. */
void bt_shadow_fill(struct bt_vcpu *v, gva_t gva, const struct x86_xlat *x, u8 *hva_page, bool write_ok)
{
	u8 bits = (x->page_shift > 12 ? META_LARGE : 0) | (x->global ? 0 : META_NONGLOBAL);
	u64 delta = (u64)hva_page - (gva & ~(u64)4095);
	enum bt_view view = view_now(v);
	if (x->page_shift == 30)
		note_huge(v->as, gva);
	set_entry(v, v->as, view, false, gva, delta, bits);
	if (write_ok) {
		set_entry(v, v->as, view, true, gva, delta, bits);
		note_writer(v, x->gpa >> 12, gva);
	}
}

static void unwrite_page(const struct bt_vm *vm, struct bt_aspace *as, u64 page)
{
	u64 region = region_of(vm, page << PAGE_SHIFT), index = bt_entry_index(vm, page << PAGE_SHIFT);
	for (u32 view = 0; view < VIEW_COUNT; view++)
		if (as->meta[region] & (1u << (view * 2 + 1)))
			bt_entry_put(&as->table[view][1][index], 0);
}

static void unwrite_all(struct bt_aspace *as)
{
	for (u32 i = 0; i < as->nregions; i++) {
		u64 region = as->regions[i];
		for (u32 view = 0; view < VIEW_COUNT; view++)
			if (as->meta[region] & (1u << (view * 2 + 1)))
				clear_words(as->table[view][1] + (region << 9), 512);
	}
}

/* The frame holds code now: this vCPU may not write to it without being seen. */
void bt_shadow_unwrite(struct bt_vcpu *v, u64 gpfn)
{
	struct bt_vframe *f = &v->frames[gpfn];
	v->epoch++;
	if (f->in_cells)
		bt_direct_unwrite(v, gpfn);
	for (u32 a = 0; a < v->vm->aspaces; a++) {
		struct bt_aspace *as = v->aspaces[a];
		if (!as || !as->used)
			continue;
		if (f->writers > 2) {
			unwrite_all(as);
			continue;
		}
		for (u32 i = 0; i < f->writers; i++)
			unwrite_page(v->vm, as, f->wpage[i]);
	}
	f->writers = 0;
}

u8 *bt_shadow_cached(void *opaque, gva_t gva, u32 acc)
{
	const struct bt_vcpu *v = opaque;
	enum bt_view view = acc & ACC_USER ? VIEW_USER : (v->cpu.rflags & FL_AC) && !(acc & ACC_IMPLICIT) ? VIEW_SUPER_AC : VIEW_SUPER;
	if ((acc & ACC_FETCH) || !x86_canonical(gva))
		return NULL;
	u64 *entry = &v->view[view][(acc & ACC_WRITE) != 0][bt_entry_index(v->vm, gva)];
	u64 delta = bt_entry_get(entry);
	u8 *at = bt_entry_address(gva, delta);
	if (!at && delta)
		bt_entry_put(entry, 0); /* of the other half: the next look-up shall miss instead of raising a signal again */
	return at;
}

/* ---- address spaces */

static u16 current_pcid(const struct bt_vcpu *v)
{
	return v->cpu.cr4 & CR4_PCIDE ? v->cpu.cr3 & 0xfff : 0;
}

static struct bt_aspace *find_aspace(struct bt_vcpu *v, u16 pcid)
{
	for (u32 i = 0; i < v->vm->aspaces; i++)
		if (v->aspaces[i]->used && v->aspaces[i]->pcid == pcid)
			return v->aspaces[i];
	return NULL;
}

/* A free one, else the one that was left longest ago. There is always at least one. */
static struct bt_aspace *free_or_oldest(struct bt_vcpu *v)
{
	struct bt_aspace *best = v->aspaces[0];

	for (u32 i = 1; i < v->vm->aspaces && best->used; i++)
		if (!v->aspaces[i]->used || v->aspaces[i]->stamp < best->stamp)
			best = v->aspaces[i];
	return best;
}

static struct bt_aspace *take_aspace(struct bt_vcpu *v, u16 pcid)
{
	struct bt_aspace *as = free_or_oldest(v);

	if (as->used)
		v->st.aspace_evictions++;
	clear_aspace(v, as, true);
	as->used = true;
	as->pcid = pcid;
	return as;
}

void bt_shadow_views(struct bt_vcpu *v)
{
	enum bt_view view = v->cpu.rflags & FL_AC ? VIEW_SUPER_AC : VIEW_SUPER;
	for (u32 w = 0; w < 2; w++)
		v->super[w] = v->as->table[view][w];
}

void bt_shadow_switch(struct bt_vcpu *v)
{
	u16 pcid = current_pcid(v);
	if (!v->as || !v->as->used || v->as->pcid != pcid) {
		struct bt_aspace *as = find_aspace(v, pcid);
		v->as = as ? as : take_aspace(v, pcid);
	}
	if (v->kitlb_local)
		clear_kitlb(v);
	v->as->stamp = ++v->stamp;
	for (u32 view = 0; view < VIEW_COUNT; view++)
		for (u32 w = 0; w < 2; w++)
			v->view[view][w] = v->as->table[view][w];
	v->itlb = &v->as->itlb;
	__asm__ volatile("wrgsbase %0" : : "r"(v->as->table[VIEW_USER][0]));
	bt_shadow_views(v);
	bt_direct_switch(v);
}

/* ---- invalidation */

static void flush_page_in(struct bt_vcpu *v, struct bt_aspace *as, gva_t gva)
{
	u64 region = region_of(v->vm, gva);
	u32 meta = as->meta[region];
	if (is_huge(as, gva)) {
		clear_aspace(v, as, true);
		return;
	}
	if (meta & META_LARGE) {
		for (u32 t = 0; t < 6; t++)
			if (meta & (1u << t))
				clear_words(as->table[t >> 1][t & 1] + (region << 9), 512);
		clear_itlb(v, as, true);
		return;
	}
	for (u32 t = 0; t < 6; t++)
		if (meta & (1u << t))
			bt_entry_put(&as->table[t >> 1][t & 1][bt_entry_index(v->vm, gva)], 0);
	bt_itlb_drop(v, &as->itlb, gva);
	bt_itlb_drop(v, &v->kitlb, gva);
}

void bt_shadow_flush_page(struct bt_vcpu *v, gva_t gva, int pcid)
{
	v->epoch++;
	v->st.tlb_page_flushes++;
	bt_direct_flush_page(v, gva, pcid);
	/* A global entry may have been filled in under any PCID, so INVLPG looks everywhere; more is dropped than need be, which is allowed. */
	for (u32 i = 0; i < v->vm->aspaces; i++) {
		struct bt_aspace *as = v->aspaces[i];
		if (as->used && (pcid < 0 || as->pcid == pcid))
			flush_page_in(v, as, gva);
	}
}

void bt_shadow_flush(struct bt_vcpu *v, int pcid, bool global)
{
	v->epoch++;
	v->st.tlb_flushes++;
	bt_direct_flush(v, pcid);
	for (u32 i = 0; i < v->vm->aspaces; i++) {
		struct bt_aspace *as = v->aspaces[i];
		if (as->used && (pcid < 0 || as->pcid == pcid))
			clear_aspace(v, as, global);
	}
}

void bt_shadow_give_back(struct bt_vcpu *v)
{
	for (u32 i = 0; i < v->vm->aspaces; i++) {
		clear_aspace(v, v->aspaces[i], true);
		give_back(v, v->aspaces[i], BT_REGIONS);
	}
}

u32 bt_shadow_kept(const struct bt_vcpu *v)
{
	u32 kept = 0;
	for (u32 i = 0; i < v->vm->aspaces; i++)
		kept += v->aspaces[i]->kept;
	return kept;
}
