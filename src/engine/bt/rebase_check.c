/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The proof of rebase.c, in builds with bounds_checks and in tests: a block that was made from another is translated anew, in its own place, and
 * compared. A difference ends the process.
 *
 * Heavy code. Threading: the vCPU's thread.
 */
#include "engine/bt/tr.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool same_exits(const struct bt_exit *a, const struct bt_exit *b, u32 n)
{
	for (u32 i = 0; i < n; i++)
		if (a[i].patch != b[i].patch || a[i].stub != b[i].stub || a[i].gva != b[i].gva || a[i].checked != b[i].checked ||
		    a[i].careful != b[i].careful)
			return false;
	return true;
}

/* What else is translated around it may make the other one shorter or longer. */
static bool differ(const struct bt_vcpu *v, const struct bt_block *a, const u8 *code, const struct bt_exit *exits, const struct bt_block *b)
{
	if (!b || a->bytes != b->bytes)
		return false;
	return a->checked != b->checked || a->entry != b->entry || a->end != b->end || a->nexits != b->nexits || a->cpage != b->cpage ||
	       memcmp(code, v->cache_rw + b->start, b->end - b->start) || !same_exits(exits, v->exits + b->first_exit, b->nexits);
}

struct rebased {
	u8 code[BT_CACHE_RESERVE];
	struct bt_exit exits[TR_EXITS];
	struct tr_source s;
};

/* In its own place, where what stood there, and behind it, is put back. Its zone may be full by now: map and list go where new ones do. */
static bool rebased_wrong(struct bt_vcpu *v, struct bt_block *copy, struct rebased *r)
{
	const struct bt_block b = *copy;
	struct bt_used *used = v->used, here = *used;
	struct bt_stats st = v->st;
	u32 left = bt_zone_end(v->vm, b.start) - b.start, saved = left < sizeof r->code ? left : (u32)sizeof r->code;
	memcpy(r->code, v->cache_rw + b.start, saved);
	memcpy(r->exits, v->exits + b.first_exit, sizeof r->exits);
	r->s.page = v->env.ram(v, b.gpfn << PAGE_SHIFT, false);
	r->s.copied = PAGE_OFFSET(b.gva);
	tr_copy_source(&r->s, PAGE_SIZE);
	here.code = b.start;
	here.blocks = (u32)(copy - v->blocks);
	here.exits = b.first_exit;
	v->used = &here;
	bool wrong = differ(v, &b, r->code, r->exits, tr_translate(v, b.gva, b.gpfn, 0, b.mode, &r->s));
	v->used = used;
	bt_cpage_put(v, copy->cpage);
	memcpy(v->cache_rw + b.start, r->code, saved);
	memcpy(v->exits + b.first_exit, r->exits, sizeof r->exits);
	*copy = b;
	v->st = st;
	return wrong;
}

void bt_rebase_check(struct bt_vcpu *v, struct bt_block *copy)
{
	struct rebased *r = malloc(sizeof *r);
	if (r && rebased_wrong(v, copy, r)) {
		fprintf(stderr, "guise: internal error: vCPU %u: the block for 0x%llx was not rebased right\n", v->id,
			(unsigned long long)copy->gva);
		abort();
	}
	free(r);
}
