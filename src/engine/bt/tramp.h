/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The trampolines while they are made: host code that all blocks share, at the start of the code cache (cache.c).
 *
 * Threading: the vCPU's thread.
 */
#pragma once

#include "engine/bt/bt.h"
#include "engine/bt/emit.h"

struct tramp {
	struct emit e;
	i32 fs;
	u32 restore;
	u32 flags_saved[EV_COUNT]; /* the events' trampolines behind bt_tramp_save_flags */
};

#define TFS(member) (k->fs + (i32)offsetof(struct bt_vcpu, member))

/* Guest rax and all guest flags to memory, the block in rcx to t3. eax = the flags; ecx is lost. */
void bt_tramp_save_flags(struct tramp *k);
/* The arithmetic flags in eax into the host's; eax and ecx are lost. */
void bt_tramp_load_flags(struct tramp *k);

/* ---- crossing.c */
void bt_emit_crossings(struct bt_vcpu *v, struct tramp *k);
