/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPU models: what a machine's CPU is like. `host` and `max` follow the CPU that the machine runs on. The levels of the psABI have the same features
 * and the same identity, but for the vendor, on every host and every engine. Which features a level has stands in cpuid_features.c, row by row.
 * Threading: constant.
 */
#pragma once

#include "x86/cpuid_features.h"

struct x86_cpu_model {
	const char *name;
	enum x86_feature_level level; /* X86_LEVEL_HOST: it follows the host, and nothing below counts */
	u64 xcr0;		      /* what may be enabled at most */
	const char *brand;	      /* at most 47 characters */
};

extern const struct x86_cpu_model x86_cpu_models[]; /* ends with a NULL name; the first is the default */

/* NULL: there is none. A NULL name is the default. */
const struct x86_cpu_model *x86_cpu_model_find(const char *name);

/*
 * Family 15, model 107, stepping 1: no CPU with these features has it, and other hypervisors have given it to their neutral models for many years, under
 * both vendors, so guests know of no flaw and no quirk of it that would not be there.
 */
#define X86_LEVEL_SIGNATURE 0x00060fb1u
/* What the smallest address bus of a v3 CPU has (Haswell for desktops): 512 GiB. */
#define X86_LEVEL_PHYS_BITS 39u
/* Leaf 2: "see leaf 4". */
#define X86_LEVEL_LEAF2_EAX 0x0000ff01u

/* One row a cache, in the order of leaf 4. */
struct x86_level_cache {
	u8 type, level; /* 1 data, 2 instructions, 3 both */
	u32 ways, sets; /* lines have 64 bytes */
};
extern const struct x86_level_cache x86_level_caches[];
extern const u32 x86_level_cache_count;
/* Leaves 0x80000005 and 0x80000006 say the same once more. */
extern const u32 x86_level_legacy_caches[2][4];
