/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page-table walk: 4-level, PAE and 32-bit. One pass; accessed and dirty bits are set at the end, when the access is known to be allowed.
 * Source: SDM vol. 3, 4.3 to 4.7 and 4.8 (accessed and dirty), 4.6 (rights), AMD APM vol. 2, 5.3 to 5.6.
 *
 * PAE's four PDPTEs are read from memory at each walk, as AMD allows; MOV CR3 checks them.
 * Threading: the vCPU's thread; page tables change under us, so each entry is read once and updated by compare-and-exchange.
 */
#include "x86/internal.h"

#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_PS 0x80ull
#define PTE_G 0x100ull
#define PTE_NX (1ull << 63)
#define PTE_ADDR 0x000ffffffffff000ull

#define PFE_P 1u
#define PFE_W 2u
#define PFE_U 4u
#define PFE_RSVD 8u
#define PFE_I 16u

/* A walk loses against another CPU that changes an entry under it at most this often before it reports a spurious page fault. */
#define WALK_RETRIES 64

enum walk_end { WALK_OK, WALK_FAULT, WALK_RACE };

struct walk {
	struct x86_cpu *c;
	gva_t gva;
	u32 acc;
	bool probe; /* no side effects */
	u32 depth;  /* entries used */
	u32 entry_size;
	u32 error; /* P and RSVD of the page-fault error code */
	u64 entry[4];
	gpa_t where[4];
	u64 rights; /* AND of the entries: W and U count; A of all used */
	bool nx;
	u32 shift;
	gpa_t frame;
};

static inline u64 reserved_phys(const struct x86_cpu *c)
{
	return PTE_ADDR & ~0ull << c->cpuid->phys_bits;
}

static inline bool nx_on(const struct x86_cpu *c)
{
	return (c->msr.efer & EFER_NXE) != 0;
}

/* Reads one entry. False: a probe met a table outside RAM, which cannot be read without side effects. */
static inline bool read_entry(struct walk *w, gpa_t gpa, u64 *e)
{
	struct x86_env *env = w->c->env;
	u8 *page = env->ram(env->opaque, PAGE_BASE(gpa), false);

	if (likely(page != NULL)) {
		x86_touch(w->c, page + PAGE_OFFSET(gpa), w->entry_size, false);
		*e = x86_load_host(page + PAGE_OFFSET(gpa), w->entry_size);
	} else if (w->probe)
		return false;
	else
		*e = env->mmio_read(env->opaque, gpa, w->entry_size);
	w->entry[w->depth] = *e;
	w->where[w->depth++] = gpa;
	return true;
}

static inline enum walk_end not_present(struct walk *w)
{
	w->error = 0;
	return WALK_FAULT;
}

static inline enum walk_end reserved_set(struct walk *w)
{
	w->error = PFE_P | PFE_RSVD;
	return WALK_FAULT;
}

static inline enum walk_end leaf(struct walk *w, u64 e, u32 shift)
{
	w->shift = shift;
	w->frame = e & PTE_ADDR & ~0ull << shift;
	return WALK_OK;
}

/* Bits 13 to shift-1 of a large page's address are reserved; bit 12 is PAT. */
static inline u64 large_reserved(u32 shift)
{
	return ((1ull << shift) - 1) & ~0x1fffull;
}

/* The levels below `table`, whose entries are indexed by bits `shift` and up: all of 4-level paging, and PAE below its PDPTEs. */
static inline enum walk_end walk_long_levels(struct walk *w, gpa_t table, u32 shift)
{
	struct x86_cpu *c = w->c;
	u64 reserved = reserved_phys(c) | (nx_on(c) ? 0 : PTE_NX);
	u64 e;

	if (!x86_long_mode(c))
		reserved |= 0x7ffull << 52; /* PAE: 62:52 are reserved */
	for (;; shift -= 9) {
		if (!read_entry(w, table + (w->gva >> shift & 511) * 8, &e) || !(e & PTE_P))
			return not_present(w);
		w->rights &= e;
		w->nx |= (e & PTE_NX) != 0;
		if (e & reserved)
			return reserved_set(w);
		if (shift == 12)
			return leaf(w, e, 12);
		if (e & PTE_PS) {
			if (shift == 39 || e & large_reserved(shift) || (shift == 30 && !c->cpuid->gbpages))
				return reserved_set(w);
			return leaf(w, e, shift);
		}
		if (shift == 39 && e & PTE_G && x86_is_amd(c))
			return reserved_set(w);
		table = e & PTE_ADDR;
	}
}

#define PDPTE_RESERVED 0x1e6ull /* 2:1 and 8:5 */

static enum walk_end walk_pae(struct walk *w)
{
	u64 e;

	if (!read_entry(w, (w->c->cr3 & 0xffffffe0) + (w->gva >> 30 & 3) * 8, &e) || !(e & PTE_P))
		return not_present(w);
	w->depth = 0; /* a PDPTE carries no rights and no accessed bit */
	if (e & (PDPTE_RESERVED | reserved_phys(w->c) | 0xfffull << 52))
		return reserved_set(w);
	return walk_long_levels(w, e & PTE_ADDR, 21);
}

static enum walk_end walk_32(struct walk *w)
{
	u64 e;

	w->entry_size = 4;
	if (!read_entry(w, (w->c->cr3 & 0xfffff000) + (w->gva >> 22 & 1023) * 4, &e) || !(e & PTE_P))
		return not_present(w);
	w->rights &= e;
	if (e & PTE_PS && w->c->cr4 & CR4_PSE) {
		u64 high = (e >> 13 & 0xff) << 32; /* PSE-36 */

		if (e & 1u << 21 || high & reserved_phys(w->c))
			return reserved_set(w);
		w->shift = 22;
		w->frame = (e & 0xffc00000) | high;
		return WALK_OK;
	}
	if (!read_entry(w, (e & 0xfffff000) + (w->gva >> 12 & 1023) * 4, &e) || !(e & PTE_P))
		return not_present(w);
	w->rights &= e;
	return leaf(w, e, 12);
}

static inline enum walk_end walk_tables(struct walk *w)
{
	struct x86_cpu *c = w->c;

	w->depth = 0;
	w->entry_size = 8;
	w->rights = ~0ull;
	w->nx = false;
	if (likely(x86_long_mode(c)))
		return walk_long_levels(w, c->cr3 & PTE_ADDR, 39);
	return c->cr4 & CR4_PAE ? walk_pae(w) : walk_32(w);
}

/* SDM vol. 3, 4.6.1. */
static inline bool allowed(const struct walk *w)
{
	const struct x86_cpu *c = w->c;
	bool user_page = (w->rights & PTE_U) != 0;

	if (w->acc & ACC_FETCH && w->nx)
		return false;
	if (w->acc & ACC_USER)
		return user_page && (!(w->acc & ACC_WRITE) || w->rights & PTE_W);
	if (w->acc & ACC_FETCH)
		return !user_page || !(c->cr4 & CR4_SMEP);
	if (user_page && c->cr4 & CR4_SMAP && (w->acc & ACC_IMPLICIT || !(c->rflags & FL_AC)))
		return false;
	return !(w->acc & ACC_WRITE) || w->rights & PTE_W || !(c->cr0 & CR0_WP);
}

static u32 fault_error(const struct walk *w)
{
	const struct x86_cpu *c = w->c;
	bool reports_fetch = c->cr4 & CR4_SMEP || (c->cr4 & CR4_PAE && nx_on(c));

	return w->error | (w->acc & ACC_WRITE ? PFE_W : 0) | (w->acc & ACC_USER ? PFE_U : 0) |
	       (w->acc & ACC_FETCH && reports_fetch ? PFE_I : 0);
}

static bool exchange_entry(u8 *p, u32 size, u64 expect, u64 val)
{
	if (size == 8)
		return __atomic_compare_exchange_n((u64 *)p, &expect, val, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	u32 expect32 = (u32)expect;
	return __atomic_compare_exchange_n((u32 *)p, &expect32, (u32)val, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* False: the entry is no longer what the walk saw. Tables in ROM or MMIO stay as they are. */
static bool set_bits(struct walk *w, u32 i, u64 bits)
{
	struct x86_env *env = w->c->env;
	u8 *page;

	if ((w->entry[i] & bits) == bits)
		return true;
	page = env->ram(env->opaque, PAGE_BASE(w->where[i]), true);
	if (!page)
		return true;
	if (env->ram_will_write)
		env->ram_will_write(env->opaque, w->where[i], w->entry_size);
	x86_touch(w->c, page + PAGE_OFFSET(w->where[i]), w->entry_size, true);
	if (!exchange_entry(page + PAGE_OFFSET(w->where[i]), w->entry_size, w->entry[i], w->entry[i] | bits))
		return false;
	w->entry[i] |= bits;
	return true;
}

static bool set_accessed_dirty(struct walk *w)
{
	u32 last = w->depth - 1;

	if (!(w->rights & PTE_A))
		for (u32 i = 0; i < last; i++)
			if (!set_bits(w, i, PTE_A))
				return false;
	return set_bits(w, last, w->acc & ACC_WRITE ? PTE_A | PTE_D : PTE_A);
}

static enum walk_end walk_once(struct walk *w)
{
	enum walk_end end = walk_tables(w);

	if (end != WALK_OK)
		return end;
	if (!allowed(w)) {
		w->error = PFE_P;
		return WALK_FAULT;
	}
	return w->probe || set_accessed_dirty(w) ? WALK_OK : WALK_RACE;
}

static void fill(const struct walk *w, struct x86_xlat *x)
{
	const struct x86_cpu *c = w->c;
	u64 e = w->entry[w->depth - 1];

	x->gpa = w->frame | (w->gva & ((1ull << w->shift) - 1));
	x->page_shift = w->shift;
	x->writable = w->rights & PTE_W || (!(w->acc & ACC_USER) && !(c->cr0 & CR0_WP));
	x->user = (w->rights & PTE_U) != 0;
	x->dirty = (e & PTE_D) != 0;
	x->global = (e & PTE_G) && (c->cr4 & CR4_PGE);
	x->nx = w->nx;
}

static void fill_unpaged(gva_t gva, struct x86_xlat *x)
{
	x->gpa = gva;
	x->page_shift = 12;
	x->writable = x->user = x->dirty = true;
	x->global = x->nx = false;
}

/* Field by field: an initialiser would clear the arrays too, which costs as much as the walk. */
static inline void start(struct walk *w, struct x86_cpu *c, gva_t gva, u32 acc, bool probe)
{
	w->c = c;
	w->gva = gva;
	w->acc = acc;
	w->probe = probe;
	w->depth = 0;
	w->entry_size = 8;
}

bool x86_translate(struct x86_cpu *c, gva_t gva, u32 acc, struct x86_xlat *x)
{
	struct walk w;
	enum walk_end end = WALK_RACE;

	if (x86_long_mode(c)) {
		if (unlikely(!x86_canonical(gva)))
			return x86_raise_err(c, VEC_GP, 0);
	} else {
		gva = (u32)gva;
	}
	if (!x86_paging(c)) {
		fill_unpaged(gva, x);
		return true;
	}
	start(&w, c, gva, acc, false);
	for (u32 i = 0; end == WALK_RACE && i < WALK_RETRIES; i++)
		end = walk_once(&w);
	if (end != WALK_OK)
		return x86_raise_pf(c, gva, fault_error(&w));
	fill(&w, x);
	return true;
}

bool x86_probe(struct x86_cpu *c, gva_t gva, u32 acc, struct x86_xlat *x)
{
	struct walk w;

	if (!x86_long_mode(c))
		gva = (u32)gva;
	else if (!x86_canonical(gva))
		return false;
	if (!x86_paging(c)) {
		fill_unpaged(gva, x);
		return true;
	}
	start(&w, c, gva, acc, true);
	if (walk_once(&w) != WALK_OK)
		return false;
	fill(&w, x);
	return true;
}

/* MOV CR3, CR0 and CR4 in PAE mode refuse PDPTEs with reserved bits (SDM vol. 3, 4.4.1). */
bool x86_pdptes_valid(struct x86_cpu *c, u64 cr3)
{
	struct walk w;
	u64 e;

	start(&w, c, 0, ACC_READ | ACC_IMPLICIT, false);
	for (u32 i = 0; i < 4; i++) {
		w.depth = 0;
		if (read_entry(&w, (cr3 & 0xffffffe0) + i * 8, &e) && e & PTE_P && e & (PDPTE_RESERVED | reserved_phys(c) | 0xfffull << 52))
			return false;
	}
	return true;
}
