/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where code is mapped. A *code page* is a gva page and the frame that it showed when something was translated from it; blocks know theirs by number.
 * For each address space, and for supervisor code of all of them, one byte a code page tells that the page is known to show that frame now:
 * arrivals from other pages test the byte before they enter a block. A small tagged table answers the same question the other way, for C: which
 * frame does this address show?
 *
 * Light code: general registers only, no libc. Threading: the vCPU's thread.
 */
#include "engine/bt/bt.h"

static u64 vpn_of(gva_t gva)
{
	return (gva >> 12) & ((1ull << BT_VPN_BITS) - 1);
}
static u32 tag_index(u64 vpn)
{
	return (u32)((vpn ^ (vpn >> 11)) & (BT_ITLB_SIZE - 1));
}
static u32 chain_of(u64 vpn)
{
	return (u32)(vpn & (BT_CPAGE_HASH - 1));
}
static u64 tag_of(u64 vpn, u64 gpfn)
{
	return vpn << 28 | gpfn;
}

static struct bt_itlb *itlb_now(struct bt_vcpu *v)
{
	return v->mode & MODE_USER ? v->itlb : &v->kitlb;
}

bool bt_itlb_can_hold(gva_t gva, u64 gpfn)
{
	return gpfn < 1u << 28 && tag_of(vpn_of(gva), gpfn) != 0;
}

bool bt_itlb_find(struct bt_vcpu *v, gva_t gva, u64 *gpfn)
{
	u64 vpn = vpn_of(gva), tag = itlb_now(v)->tag[tag_index(vpn)];
	if (tag >> 28 != vpn || !tag || !x86_canonical(gva))
		return false;
	*gpfn = tag & ((1u << 28) - 1);
	return true;
}

static void forget_vpn(struct bt_vcpu *v, struct bt_itlb *t, u64 vpn)
{
	for (u32 i = v->cpage_hash[chain_of(vpn)]; i; i = v->cpages[i].next)
		if (v->cpages[i].vpn == vpn)
			t->known[i] = 0;
}

void bt_itlb_enter(struct bt_vcpu *v, gva_t gva, u64 gpfn)
{
	struct bt_itlb *t = itlb_now(v);
	u64 vpn = vpn_of(gva);
	forget_vpn(v, t, vpn);
	t->tag[tag_index(vpn)] = tag_of(vpn, gpfn);
}

void bt_itlb_drop(struct bt_vcpu *v, struct bt_itlb *t, gva_t gva)
{
	u64 vpn = vpn_of(gva), *tag = &t->tag[tag_index(vpn)];
	if (*tag >> 28 == vpn)
		*tag = 0;
	forget_vpn(v, t, vpn);
}

static void clear_known(struct bt_vcpu *v, struct bt_itlb *t)
{
	if (t->nlist > ARRAY_SIZE(t->list))
		bt_zero(t->known, v->ncpages);
	for (u32 i = 0; i < t->nlist && i < ARRAY_SIZE(t->list); i++)
		t->known[t->list[i]] = 0;
	t->nlist = 0;
}

void bt_itlb_clear(struct bt_vcpu *v, struct bt_itlb *t)
{
	bt_zero(t->tag, sizeof t->tag);
	clear_known(v, t);
}

/* ---- code pages */

static u32 new_cpage(struct bt_vcpu *v)
{
	u32 i = v->free_cpage;
	if (!i)
		return v->ncpages++;
	v->free_cpage = v->cpages[i].next;
	v->nfree_cpages--;
	return i;
}

u32 bt_cpage(struct bt_vcpu *v, gva_t gva, u64 gpfn)
{
	u64 vpn = vpn_of(gva);
	u32 *chain = &v->cpage_hash[chain_of(vpn)];
	for (u32 i = *chain; i; i = v->cpages[i].next) {
		if (v->cpages[i].vpn == vpn && v->cpages[i].gpfn == gpfn) {
			v->cpages[i].blocks++;
			return i;
		}
	}
	u32 i = new_cpage(v);
	v->cpages[i] = (struct bt_cpage){.vpn = vpn, .gpfn = (u32)gpfn, .next = *chain, .blocks = 1};
	*chain = i;
	return i;
}

bool bt_cpage_is_known(const struct bt_vcpu *v, u32 cpage)
{
	for (u32 i = 0; i < v->vm->aspaces; i++)
		if (v->aspaces[i] && v->aspaces[i]->itlb.known[cpage])
			return true;
	return false;
}

/* Whoever gets the number next is known nowhere. */
void bt_cpage_put(struct bt_vcpu *v, u32 cpage)
{
	struct bt_cpage *p = &v->cpages[cpage];
	if (--p->blocks)
		return;
	for (u32 i = 0; i < v->vm->aspaces; i++)
		if (v->aspaces[i])
			v->aspaces[i]->itlb.known[cpage] = 0;
	v->kitlb.known[cpage] = 0;
	u32 *link = &v->cpage_hash[chain_of(p->vpn)];
	while (*link != cpage)
		link = &v->cpages[*link].next;
	*link = p->next;
	p->next = v->free_cpage;
	v->free_cpage = cpage;
	v->nfree_cpages++;
}

static void know(struct bt_itlb *t, u32 cpage)
{
	if (t->known[cpage])
		return;
	t->known[cpage] = 1;
	if (t->nlist < ARRAY_SIZE(t->list))
		t->list[t->nlist] = cpage;
	if (t->nlist <= ARRAY_SIZE(t->list))
		t->nlist++;
}

/* The block's pages are mapped as they were when it was translated. */
void bt_itlb_know(struct bt_vcpu *v, const struct bt_block *b)
{
	struct bt_itlb *t = itlb_now(v);
	know(t, b->cpage);
	if (b->gpfn2)
		know(t, b->cpage2);
}

/* All blocks are gone, and the numbers with them. */
void bt_cpages_reset(struct bt_vcpu *v)
{
	for (u32 i = 0; i < v->vm->aspaces; i++)
		if (v->aspaces[i])
			clear_known(v, &v->aspaces[i]->itlb);
	clear_known(v, &v->kitlb);
	bt_zero(v->cpage_hash, sizeof v->cpage_hash);
	v->ncpages = 1;
	v->free_cpage = v->nfree_cpages = 0;
}
