/* SPDX-License-Identifier: Apache-2.0 */
/* Reproducible random numbers (xorshift64* seeded through splitmix64). One seed gives one case on every machine. */
#pragma once

#include "base/types.h"

struct prng {
	u64 s;
};

static inline u64 prng_mix(u64 x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static inline void prng_seed(struct prng *p, u64 seed)
{
	p->s = prng_mix(seed);
	if (!p->s)
		p->s = 1;
}

static inline u64 prng_next(struct prng *p)
{
	p->s ^= p->s >> 12;
	p->s ^= p->s << 25;
	p->s ^= p->s >> 27;
	return p->s * 0x2545f4914f6cdd1dull;
}

static inline u32 prng_below(struct prng *p, u32 n)
{
	return (u32)(((prng_next(p) >> 32) * n) >> 32);
}
static inline bool prng_chance(struct prng *p, u32 percent)
{
	return prng_below(p, 100) < percent;
}
