/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CPU models, and what is the same on every host for a model that is a level: its caches.
 *
 * The caches are those of a small CPU of the field. They are there because C libraries choose their copy loops by them: with none, glibc takes every
 * copy above 16 KiB past the caches.
 * Source: SDM vol. 2, CPUID; AMD APM vol. 3, appendix E.4.
 * Threading: constant.
 */
#include "x86/cpu_model.h"

#include <string.h>

#define STATE_SSE 0x3u
#define STATE_AVX 0x7u

/* `max` is another name for `host`: of what works on an engine and a host, nothing is held back. */
const struct x86_cpu_model x86_cpu_models[] = {
	{.name = "host", .level = X86_LEVEL_HOST, .xcr0 = ~0ull},
	{.name = "max", .level = X86_LEVEL_HOST, .xcr0 = ~0ull},
	{.name = "x86-64-v2", .level = X86_LEVEL_V2, .xcr0 = STATE_SSE, .brand = "Guise virtual CPU (x86-64-v2)"},
	{.name = "x86-64-v3", .level = X86_LEVEL_V3, .xcr0 = STATE_AVX, .brand = "Guise virtual CPU (x86-64-v3)"},
	{0},
};

const struct x86_cpu_model *x86_cpu_model_find(const char *name)
{
	const struct x86_cpu_model *m = x86_cpu_models;

	while (name && m->name && strcmp(m->name, name) != 0)
		m++;
	return m->name ? m : NULL;
}

/* ---- caches ---- */

const struct x86_level_cache x86_level_caches[] = {
	{1, 1, 8, 64},	   /* 32 KiB */
	{2, 1, 8, 64},	   /* 32 KiB */
	{3, 2, 8, 1024},   /* 512 KiB */
	{3, 3, 16, 16384}, /* 16 MiB */
};
const u32 x86_level_cache_count = ARRAY_SIZE(x86_level_caches);

#define L1(kib, ways) ((kib) << 24 | (ways) << 16 | 1u << 8 | 64u)
#define L2(kib, ways_code) ((kib) << 16 | (ways_code) << 12 | 1u << 8 | 64u)
#define L3(mib, ways_code) ((mib)*2u << 18 | (ways_code) << 12 | 1u << 8 | 64u)

const u32 x86_level_legacy_caches[2][4] = {
	{0, 0, L1(32u, 8u), L1(32u, 8u)}, {0, 0, L2(512u, 6u), L3(16u, 8u)}, /* 6: 8 ways, 8: 16 ways */
};
