/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What translated code may consist of, whatever the guest's bytes are: unprivileged instructions that stay in the block or leave it for the
 * engine, and accesses to the engine's own structures or to guest memory through a delta from a shadow table.
 *
 * It reads the code from its first byte to its last, in that order, and follows what rcx, r10 and r11 hold. Where paths meet it believes the one
 * that falls through; that the address of an access and its delta belong together is for builds with bounds_checks to see.
 *
 * Threading: none.
 */
#pragma once

#include "engine/bt/bt.h"

/* The block's code begins at cache offset `first`. NULL when all is well; else what is wrong, with *at the cache offset of the instruction. */
const char *host_code_judge(const struct bt_vcpu *v, const struct bt_block *b, u32 first, u32 *at);
