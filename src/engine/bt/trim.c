/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a vCPU gives back when it idles: code, what is known of it, shadow tables, cells, decoded instructions. Most of it was made for what ran once, as
 * a boot does; what is used again comes back, for what it cost at first. So that this happens seldom, twice as much code must come together as went
 * the last time, but for the first time, which is the boot's.
 *
 * Threading: the vCPU's thread, outside run.
 */
#include "engine/bt/bt.h"
#include "engine/bt/decode.h"

#include <stdlib.h>
#include <sys/mman.h>

#define TRIM_LEAST (1u << 20) /* bytes of code */
#define KEPT_MAX 256	      /* empty pages of shadow tables */

static bool pays(const struct bt_vcpu *v)
{
	return bt_cache_used(v) > (v->trim_above ? v->trim_above : TRIM_LEAST);
}

/* ---- arrays with an entry for each frame of guest RAM */

struct sparse {
	u8 *base;
	u64 bytes;
	u32 size;				   /* of an entry */
	void (*rest)(struct bt_vcpu *v, u64 gpfn); /* forget what does not matter now */
};

/* No shadow table has an entry, no block is left, and no cell. */
static void rest_vframe(struct bt_vcpu *v, u64 gpfn)
{
	struct bt_vframe *f = &v->frames[gpfn];
	*f = (struct bt_vframe){0};
}

static void rest_frame(struct bt_vcpu *v, u64 gpfn)
{
	struct bt_frame *f = &v->vm->frames[gpfn];
	f->writers &= ~(1ull << v->id);
	f->lines = 0;
	for (u32 i = 0; i < v->vm->max_vcpus; i++)
		if (v->vm->vcpus[i])
			f->lines |= v->vm->vcpus[i]->frames[gpfn].lines;
}

static bool is_empty(const struct sparse *s, u64 entry)
{
	const u64 *word = (const u64 *)(s->base + entry * s->size);
	for (u32 i = 0; i < s->size / sizeof *word; i++)
		if (word[i])
			return false;
	return true;
}

/* Do none of the entries in this page, or partly in it, say anything? */
static bool is_idle(struct bt_vcpu *v, const struct sparse *s, u64 page)
{
	u64 first = page * PAGE_SIZE / s->size, last = (page * PAGE_SIZE + PAGE_SIZE - 1) / s->size, end = s->bytes / s->size;
	bool idle = true;
	for (u64 i = first; i <= last && i < end; i++) {
		if (!is_empty(s, i)) /* a store of zeroes would take memory */
			s->rest(v, i);
		idle &= is_empty(s, i);
	}
	return idle;
}

static void give_back_sparse(struct bt_vcpu *v, const struct sparse *s)
{
	u64 npages = (s->bytes + PAGE_SIZE - 1) / PAGE_SIZE;
	u8 *resident = calloc(npages, 1);
	if (resident && mincore(s->base, s->bytes, resident) == 0)
		for (u64 i = 0; i < npages; i++)
			if ((resident[i] & 1) && is_idle(v, s, i))
				madvise(s->base + i * PAGE_SIZE, PAGE_SIZE, MADV_DONTNEED);
	free(resident);
}

/* Others look at these words without a lock while they run. */
static void give_back_frames(struct bt_vcpu *v)
{
	const struct sparse mine = {(u8 *)v->frames, v->vm->nframes * sizeof *v->frames, sizeof *v->frames, rest_vframe},
			    everybodys = {(u8 *)v->vm->frames, v->vm->nframes * sizeof *v->vm->frames, sizeof *v->vm->frames, rest_frame};
	struct bt_world w = bt_world_stop(v->vm);
	give_back_sparse(v, &mine);
	give_back_sparse(v, &everybodys);
	bt_world_start(&w);
}

static void trim(struct bt_vcpu *v)
{
	bt_enter(v);
	if (v->st.trims++)
		v->trim_above = 2 * bt_cache_used(v);
	bt_flush_code(v);
	bt_cache_give_back(v);
	bt_shadow_give_back(v);
	bt_direct_give_back(v);
	give_back_frames(v);
	bt_leave(v);
}

static void forget_tables(struct bt_vcpu *v)
{
	bt_enter(v);
	bt_shadow_give_back(v);
	bt_leave(v);
}

void bt_vcpu_idle(struct engine_vcpu *ev)
{
	struct bt_vcpu *v = (struct bt_vcpu *)ev;
	if (pays(v))
		trim(v);
	else if (bt_shadow_kept(v) > KEPT_MAX)
		forget_tables(v);
	/* Soon made again, and nobody else's concern. */
	bt_decoder_forget(v->decoder);
	interp_forget(v->interp);
}
