/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a cell has mapped. It behaves as a TLB does: a page is mapped only while the guest's tables allow the access and have its accessed bit set
 * (for writing: its dirty bit), and stays until the guest invalidates it. After a flush of everything the pages are compared with the tables instead of
 * dropped, because most will be as they were.
 *
 * No page is writable and executable at once, whatever the guest's tables say: a page that is executed counts as translated code (its lines are
 * marked), so that whoever writes to it is seen, and it is searched again before it is executed after that.
 */
#include "engine/bt/direct.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MAPPABLE_START 65536
#define AROUND 32 /* pages that are looked at when one is missing */

enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_A = 32, PTE_D = 64, PTE_PS = 128 };
#define PTE_NX (1ull << 63)
#define PTE_FRAME 0x000ffffffffff000ull

/* ---- the guest's tables, without touching them */

struct leaf {
	const u64 *table; /* of 4 KiB pages; NULL: a large page */
	u64 entry;	  /* the large page's */
	u64 gpa;	  /* of the large page */
	u32 shift;
	bool write, exec; /* as far as the levels above say */
};

static bool next_table(struct bt_vcpu *v, u64 entry, const u64 **table)
{
	*table = (const u64 *)v->env.ram(v, entry & PTE_FRAME, false);
	return *table != NULL;
}

#define USABLE (PTE_P | PTE_U | PTE_A) /* by user code, as it is */

/* Each entry on the way must have these bits. */
static bool find_leaf(struct bt_vcpu *v, gva_t gva, u64 need, struct leaf *l)
{
	const u64 *table;
	*l = (struct leaf){.write = true, .exec = true};
	if (!next_table(v, v->cpu.cr3, &table))
		return false;
	for (u32 shift = 39; shift > 12; shift -= 9) {
		u64 entry = __atomic_load_n(&table[gva >> shift & 511], __ATOMIC_RELAXED);
		if ((entry & need) != need)
			return false;
		l->write &= (entry & PTE_W) != 0;
		l->exec &= !(entry & PTE_NX);
		if (shift < 39 && (entry & PTE_PS)) {
			l->entry = entry;
			l->shift = shift;
			l->gpa = entry & PTE_FRAME & ~((1ull << shift) - 1);
			return true;
		}
		if (!next_table(v, entry, &table))
			return false;
	}
	l->table = table;
	l->shift = 12;
	return true;
}

static u64 entry_of(const struct leaf *l, gva_t gva)
{
	return l->table ? __atomic_load_n(&l->table[gva >> 12 & 511], __ATOMIC_RELAXED) : l->entry;
}

static gpa_t page_of(const struct leaf *l, gva_t gva, u64 entry)
{
	return l->table ? entry & PTE_FRAME : l->gpa + (gva & ((1ull << l->shift) - 1) & ~(u64)4095);
}

/* The frame of one page and what may be done there now. 0: nothing. */
static u8 rights(const struct leaf *l, gva_t gva, u64 *gpfn)
{
	u64 entry = entry_of(l, gva);
	if ((entry & USABLE) != USABLE)
		return 0;
	*gpfn = page_of(l, gva, entry) >> 12;
	return (u8)(HOW_READ | (l->write && (entry & PTE_W) && (entry & PTE_D) ? HOW_WRITE : 0) |
		    (l->exec && !(entry & PTE_NX) ? HOW_EXEC : 0));
}

/* ---- bookkeeping */

static u32 bucket(u64 number)
{
	return (u32)(number ^ number >> 9) & (REGION_HASH - 1);
}

static struct direct_region *find_region(const struct direct_map *m, u64 number)
{
	struct direct_region *r = m->hash[bucket(number)];
	while (r && r->number != number)
		r = r->next;
	return r;
}

static struct direct_region *take_region(struct direct_map *m, u64 number)
{
	struct direct_region *r = find_region(m, number);
	if (r || !(r = calloc(1, sizeof *r)))
		return r;
	r->number = number;
	r->next = m->hash[bucket(number)];
	m->hash[bucket(number)] = r;
	m->nregions++;
	return r;
}

struct direct_map *direct_map_new(struct bt_cell *c)
{
	struct direct_map *m = calloc(1, sizeof *m);
	if (m)
		m->cell = c;
	return m;
}

static void free_regions(struct direct_map *m)
{
	for (u32 i = 0; i < REGION_HASH; i++)
		while (m->hash[i]) {
			struct direct_region *r = m->hash[i];
			m->hash[i] = r->next;
			free(r);
		}
	m->nregions = 0;
	m->npages = 0;
}

void direct_map_free(struct direct_map *m)
{
	if (!m)
		return;
	free_regions(m);
	bt_cell_free(m->cell);
	free(m);
}

static int prot_of(u8 how)
{
	return PROT_READ | (how & HOW_WRITE ? PROT_WRITE : 0) | (how & HOW_EXEC ? PROT_EXEC : 0);
}

static void end_run(struct direct_map *m)
{
	m->ncalls += m->run.len != 0;
	if (m->run.len)
		bt_cell_map(m->cell, m->run.gva, m->run.len, m->run.offset, prot_of(m->run.how));
	m->run.len = 0;
}

static void set_page(struct direct_map *m, struct direct_region *r, gva_t gva, u64 gpfn, u64 offset, u8 how)
{
	u32 i = gva >> 12 & (REGION_PAGES - 1);
	if (r->how[i] == how && r->frame[i] == gpfn)
		return;
	if (!r->how[i]) {
		r->npages++;
		m->npages++;
	}
	r->how[i] = how;
	r->frame[i] = (u32)gpfn;
	bool joins = m->run.len && m->run.gva + m->run.len == gva && m->run.offset + m->run.len == offset && m->run.how == how;
	if (!joins) {
		end_run(m);
		m->run.gva = gva;
		m->run.offset = offset;
		m->run.how = how;
	}
	m->run.len += PAGE_SIZE;
}

/* [first, end) of a region is gone. */
static void drop_pages(struct direct_map *m, struct direct_region *r, u32 first, u32 end)
{
	u32 gone = 0;
	for (u32 i = first; i < end; i++) {
		gone += r->how[i] != 0;
		r->how[i] = 0;
	}
	if (!gone)
		return;
	r->npages -= gone;
	m->npages -= gone;
	bt_cell_unmap(m->cell, (r->number << 21) + first * PAGE_SIZE, (end - first) * PAGE_SIZE);
}

/* And all that came from the same large page. */
static void forget(struct direct_map *m, gva_t gva)
{
	struct direct_region *r = find_region(m, gva >> 21);
	u32 i = gva >> 12 & (REGION_PAGES - 1);
	if (!r || !r->npages)
		return;
	if (r->large)
		drop_pages(m, r, 0, REGION_PAGES);
	else if (r->how[i])
		drop_pages(m, r, i, i + 1);
}

bool direct_map_recover(struct direct_map *m)
{
	u64 end = m->cell->window + CELL_WINDOW;
	if (!m->cell->lost && m->ncalls < DIRECT_MAPPINGS && m->nregions < DIRECT_REGIONS)
		return false;
	free_regions(m);
	bt_cell_unmap(m->cell, 0, m->cell->window);
	bt_cell_unmap(m->cell, end, USER_END - end);
	m->ncalls = 0;
	m->cell->lost = false;
	return true;
}

void direct_map_unframe(struct direct_map *m, u64 gpfn, u8 how)
{
	for (u32 h = 0; h < REGION_HASH; h++)
		for (struct direct_region *r = m->hash[h]; r; r = r->next)
			for (u32 i = 0; r->npages && i < REGION_PAGES; i++)
				if ((gpfn == ANY_FRAME || r->frame[i] == gpfn) && (r->how[i] & how))
					drop_pages(m, r, i, i + 1);
}

/* ---- after a flush */

static void check_region(struct bt_vcpu *v, struct direct_map *m, struct direct_region *r)
{
	struct leaf l;
	u32 first = 0, gone = 0;
	bool some = find_leaf(v, r->number << 21, USABLE, &l);
	for (u32 i = 0; i <= REGION_PAGES; i++) {
		u64 gpfn = 0;
		bool bad = i < REGION_PAGES && r->how[i] &&
			   (!some || (r->how[i] & ~rights(&l, (r->number << 21) + i * PAGE_SIZE, &gpfn)) || gpfn != r->frame[i]);
		if (bad && !gone)
			first = i;
		if (bad)
			gone = i + 1;
		/* What is not mapped may lie in the hole; what is good ends it. */
		if (gone && (i == REGION_PAGES || (!bad && r->how[i]))) {
			drop_pages(m, r, first, gone);
			gone = 0;
		}
	}
}

static void check_all(struct bt_vcpu *v, struct direct_map *m)
{
	for (u32 h = 0; h < REGION_HASH; h++)
		for (struct direct_region *r = m->hash[h]; r; r = r->next)
			if (r->npages)
				check_region(v, m, r);
}

void direct_map_settle(struct bt_vcpu *v, struct direct_map *m)
{
	for (u32 i = 0; i < m->nforget && !m->stale; i++)
		forget(m, m->forget[i]);
	m->nforget = 0;
	if (m->stale)
		check_all(v, m);
	m->stale = false;
}

/* ---- mapping */

const u8 *direct_peek(struct bt_vcpu *v, gva_t gva)
{
	struct leaf l;
	if (!find_leaf(v, gva, PTE_P, &l))
		return NULL;
	u64 entry = entry_of(&l, gva);
	return entry & PTE_P ? v->env.ram(v, page_of(&l, gva, entry), false) : NULL;
}

static u8 search(struct bt_vcpu *v, bool compat, gva_t gva, u64 gpfn, struct direct_sites *sites)
{
	u32 how = (compat ? SCAN_COMPAT : 0) | (direct_tsc(v) ? SCAN_TSC : 0);
	return direct_scan(&v->direct->host, how, v->env.ram(v, gpfn << 12, false), direct_peek(v, gva - PAGE_SIZE),
			   direct_peek(v, gva + PAGE_SIZE), sites);
}

/* From now on stores to the frame are seen. */
static void prepare_execution(struct bt_vcpu *v, bool compat, gva_t gva, u64 gpfn)
{
	struct bt_vframe *f = &v->frames[gpfn];
	if (f->executed[compat])
		return;
	__atomic_store_n(&f->lines, ~0ull, __ATOMIC_RELAXED);
	__atomic_fetch_or(&v->vm->frames[gpfn].lines, ~0ull, __ATOMIC_SEQ_CST);
	bt_protect(v, gpfn);
	struct direct_sites sites;
	f->executed[compat] = search(v, compat, gva, gpfn, &sites);
	v->direct->tsc |= f->executed[compat] != FRAME_CLEAN;
}

static bool may_execute(const struct bt_vcpu *v, bool compat, u64 gpfn)
{
	u8 executed = v->frames[gpfn].executed[compat];
	return executed == FRAME_CLEAN || (executed == FRAME_TSC && direct_tsc(v));
}

/* ---- breakpoints */

static bool is_executed(const struct direct_map *m, gva_t gva)
{
	const struct direct_region *r = find_region(m, gva >> 21);
	return r && (r->how[gva >> 12 & (REGION_PAGES - 1)] & HOW_EXEC);
}

/* Of those that are set, the ones still needed: the instruction, three bytes long at most, may reach into the next page. */
static u32 keep_watches(const struct direct_map *m, gva_t *watch)
{
	u32 n = 0;
	for (u32 i = 0; i < m->nwatches; i++)
		if (is_executed(m, m->watch[i]) || is_executed(m, m->watch[i] + 2))
			watch[n++] = m->watch[i];
	return n;
}

static bool contains(const gva_t *watch, u32 n, gva_t at)
{
	while (n)
		if (watch[--n] == at)
			return true;
	return false;
}

static bool add_watches(gva_t *watch, u32 *n, gva_t page, const struct direct_sites *sites)
{
	for (u32 i = 0; i < sites->n; i++) {
		gva_t at = page + (u64)(i64)sites->at[i];
		if (contains(watch, *n, at))
			continue;
		if (*n == CELL_WATCHES)
			return false;
		watch[(*n)++] = at;
	}
	return true;
}

static bool set_watches(struct bt_vcpu *v, struct direct_map *m, const gva_t *watch, u32 n)
{
	if (!bt_cell_watch(m->cell, watch, n)) {
		v->direct->no_watches = true;
		direct_map_unframe(m, ANY_FRAME, HOW_EXEC);
		return false;
	}
	memcpy(m->watch, watch, n * sizeof *watch);
	m->nwatches = n;
	return true;
}

/* The pages that have them give way to one that has waited long enough. */
static void take_watches(struct direct_map *m)
{
	for (u32 i = 0; i < m->nwatches; i++)
		for (u32 reach = 0; reach <= 2; reach += 2) {
			gva_t gva = m->watch[i] + reach;
			struct direct_region *r = find_region(m, gva >> 21);
			u32 page = gva >> 12 & (REGION_PAGES - 1);
			if (r && (r->how[page] & HOW_EXEC))
				drop_pages(m, r, page, page + 1);
		}
}

/* The debug registers are set only when something is new. */
static bool grant_watches(struct bt_vcpu *v, struct direct_map *m, gva_t page, u64 gpfn, bool waited)
{
	gva_t watch[CELL_WATCHES];
	struct direct_sites sites;
	u32 n = keep_watches(m, watch), kept = n;
	search(v, m->compat, page, gpfn, &sites);
	if (sites.n == TOO_MANY_SITES)
		return false;
	if (add_watches(watch, &n, page, &sites))
		return n == kept || set_watches(v, m, watch, n);
	n = 0;
	if (!waited || !add_watches(watch, &n, page, &sites))
		return false;
	take_watches(m);
	return set_watches(v, m, watch, n);
}

static u32 waiting_place(gva_t page)
{
	return (page >> 12 ^ page >> 18) & (DIRECT_WAITING - 1);
}

bool direct_map_refuses(struct direct_map *m, gva_t gva)
{
	u32 i = waiting_place(PAGE_BASE(gva));
	if (m->waiting[i].page != PAGE_BASE(gva) || m->waiting[i].visits >= DIRECT_PATIENCE || is_executed(m, gva))
		return false;
	m->waiting[i].visits++;
	return true;
}

/* First come, first served, until another page has waited long enough: each visit to a page that is not executed costs as much as any way out, and
 * setting breakpoints several times that. */
static bool watch_page(struct bt_vcpu *v, struct direct_map *m, const struct leaf *l, gva_t page)
{
	u32 i = waiting_place(page);
	u64 gpfn;
	if (v->direct->no_watches || !(rights(l, page, &gpfn) & HOW_EXEC) || gpfn >= v->vm->nframes || may_execute(v, m->compat, gpfn) ||
	    direct_map_refuses(m, page))
		return false;
	u8 executed = v->frames[gpfn].executed[m->compat];
	bool waited = m->waiting[i].page == page;
	bool granted = (executed == FRAME_WATCHED || executed == FRAME_TSC) && grant_watches(v, m, page, gpfn, waited);
	m->waiting[i].page = granted ? 0 : page;
	m->waiting[i].visits = 0;
	return granted;
}

/* ---- what to map */

static u64 ram_offset(const struct bt_vcpu *v, u64 gpfn)
{
	const struct guest_memory *gm = v->vm->gm;
	for (u32 i = 0; i < gm->nslots; i++)
		if ((gpfn << 12) - gm->slots[i].gpa < gm->slots[i].size)
			return gm->slots[i].fd_offset + ((gpfn << 12) - gm->slots[i].gpa);
	return ~0ull;
}

/* What to map a page as, of what the guest allows. */
static u8 choose(struct bt_vcpu *v, const struct direct_map *m, u8 have, u8 allowed, u64 gpfn, u32 acc, bool watched)
{
	u8 how = HOW_READ;
	if (acc & ACC_FETCH)
		return (allowed & HOW_EXEC) && (may_execute(v, m->compat, gpfn) || watched) ? HOW_READ | HOW_EXEC : have;
	if ((allowed & HOW_WRITE) && ((acc & ACC_WRITE) || !(allowed & HOW_EXEC)) && bt_may_write(v, gpfn)) {
		v->frames[gpfn].in_cells = true;
		how |= HOW_WRITE;
	} else if (have & HOW_EXEC)
		how |= HOW_EXEC;
	return how;
}

/* Before any of them is mapped: others may stop the world meanwhile and take rights away. */
static void prepare_one(struct bt_vcpu *v, bool compat, const struct leaf *l, gva_t gva)
{
	u64 gpfn;
	if ((rights(l, gva, &gpfn) & HOW_EXEC) && gpfn < v->vm->nframes && v->env.ram(v, gpfn << 12, false))
		prepare_execution(v, compat, gva, gpfn);
}

/* Linux maps nothing below vm.mmap_min_addr for most users, nor above what a program gets. */
static bool is_mappable(const struct direct_map *m, gva_t gva)
{
	return gva >= MAPPABLE_START && gva < USER_END && gva - m->cell->window >= CELL_WINDOW;
}

static void map_one(struct bt_vcpu *v, struct direct_map *m, struct direct_region *r, const struct leaf *l, gva_t gva, u32 acc,
		    bool watched)
{
	u64 gpfn;
	u8 allowed = rights(l, gva, &gpfn), have = r->how[gva >> 12 & (REGION_PAGES - 1)];
	if (!allowed || gpfn >= v->vm->nframes || !is_mappable(m, gva))
		return;
	if (have && r->frame[gva >> 12 & (REGION_PAGES - 1)] != gpfn)
		have = 0;
	u64 offset = ram_offset(v, gpfn);
	bool writable = offset != ~0ull && v->env.ram(v, gpfn << 12, true);
	u8 how = offset == ~0ull ? 0 : choose(v, m, have, writable ? allowed : allowed & (u8)~HOW_WRITE, gpfn, acc, watched);
	if (how)
		set_page(m, r, gva, gpfn, offset, how);
}

bool direct_map_page(struct bt_vcpu *v, struct direct_map *m, gva_t gva, u32 acc)
{
	struct leaf l;
	struct direct_region *r;
	u32 here = gva >> 12 & (REGION_PAGES - 1), wanted = acc & ACC_WRITE ? HOW_WRITE : acc & ACC_FETCH ? HOW_EXEC : HOW_READ;
	if (gva >= USER_END || !find_leaf(v, gva, USABLE, &l) || !(r = take_region(m, gva >> 21)))
		return false;
	u64 gpfn;
	m->again = rights(&l, gva, &gpfn) && r->frame[here] == gpfn;
	bool all = l.shift > 12 && !(acc & ACC_FETCH);
	u32 first = all ? 0 : here & ~(AROUND - 1u), end = all ? REGION_PAGES : first + AROUND;
	r->large |= l.shift > 12;
	for (u32 i = first; (acc & ACC_FETCH) && i < end; i++)
		prepare_one(v, m->compat, &l, (r->number << 21) + i * PAGE_SIZE);
	bool watched = (acc & ACC_FETCH) && watch_page(v, m, &l, PAGE_BASE(gva));
	for (u32 i = first; i < end; i++)
		map_one(v, m, r, &l, (r->number << 21) + i * PAGE_SIZE, acc, watched && i == here);
	end_run(m);
	return (r->how[here] & wanted) != 0;
}
