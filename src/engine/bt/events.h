/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the rooms share in which translated code has called C: where it came from, and the ways back. dispatch.c finds and resumes code, events.c holds the
 * handlers, light.c and light_string.c carry single instructions out.
 *
 * Light code: guest vector state is still in the registers; bt_heavy() is called before anything that might touch it.
 * Threading: the vCPU's thread.
 */
#pragma once

#include "engine/bt/bt.h"

/* The instruction that called. */
struct bt_place {
	struct bt_block *b;
	const struct bt_insn_map *m;
	u64 epoch;
};

/* Also brings cpu.rip up to date. site: offset in the cache of the instruction's first host byte. */
struct bt_place bt_place_of(struct bt_vcpu *v, u32 site);

static inline gva_t bt_next_rip(const struct bt_place *p)
{
	return p->b->gva + p->m[1].guest; /* an INSN_END follows the last */
}

static inline void *bt_host(struct bt_vcpu *v, u32 off)
{
	return v->cache_rx + off;
}

/* ---- dispatch.c: each returns the host address to go on at, or NULL to leave to vcpu_run */
bool bt_kicked(const struct bt_vcpu *v);
bool bt_must_leave(const struct bt_vcpu *v);
void *bt_finish(struct bt_vcpu *v, void *to);					/* vector state is the guest's again */
void *bt_again(struct bt_vcpu *v, const struct bt_place *p);			/* the same instruction, which has what it wanted now */
void *bt_resume(struct bt_vcpu *v, const struct bt_place *p);			/* behind it, inside its block when nothing has changed */
void *bt_dispatch_block(struct bt_vcpu *v, u32 careful, struct bt_block **out); /* at cpu.rip; *out: the block, or NULL. Not finished yet */
void *bt_dispatch_known(struct bt_vcpu *v);					/* the same, and the jump cache remembers; finished */
void *bt_deliver(struct bt_vcpu *v);						/* the pending fault */
bool bt_interpret(struct bt_vcpu *v);						/* false: halted, or a fault has been delivered */

/* ---- mode.c */
/* Blocks of this mode are to be found through the jump caches from now on, once it has come up often enough. */
void bt_adopt_mode(struct bt_vcpu *v, u32 mode);

/* ---- light.c */
/* One enum bt_light_op. False: a fault is pending. rip is the instruction's on entry; *jumped tells that the operation set it. */
bool bt_light_op(struct bt_vcpu *v, u32 op, u32 arg, gva_t next, bool *jumped);

/* ---- light_string.c */
/* MOVS and STOS, forward. arg: size, 16: REP, 32: MOVS. */
void *bt_light_string(struct bt_vcpu *v, const struct bt_place *p, u32 arg);
