/* SPDX-License-Identifier: Apache-2.0 */
/* Hand-picked sequences: what random ones reach too rarely. Each runs from a start state drawn from the seed, with pointers in fixed
 * registers. */
#pragma once

#include "gen.h"

u32 directed_count(void);
const char *directed_name(u32 i);
u8 directed_bits(u32 i);							      /* of the code: 32 or 64 */
bool directed_case(const struct gen_options *o, u32 i, u64 seed, struct cpu_case *c); /* false: does not decode or fit */
