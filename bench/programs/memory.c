/* SPDX-License-Identifier: Apache-2.0 */
/* Memory: large copies, small copies in the cache, and a chase of pointers through DRAM. */
#include "bench.h"

#include <string.h>

#define BIG (64u << 20)
#define LINE 64

/* A monitor that changes its ways when a program turns out to last does so in here. */
#define FIRST_ROUNDS 3

static void copy_big(const char *name, char *to, const char *from, uint64_t rounds)
{
	uint64_t begin = now_ns();

	for (uint64_t r = 0; r < rounds; r++) {
		memcpy(to, from, BIG);
		__asm__ volatile("" : : "r"(to) : "memory");
	}
	report(name, begin, rounds, (uint64_t)to[BIG / 3]);
}

int main(int argc, char **argv)
{
	char *from = malloc(BIG), *to = malloc(BIG);
	uint64_t rounds, begin, seed = 42, n = BIG / LINE;
	uint32_t *order;
	void **p;

	if (!from || !to)
		return 1;
	for (size_t i = 0; i < BIG; i++)
		from[i] = (char)(i * 31 + (i >> 12));
	memset(to, 1, BIG);

	copy_big("memcpy.cold", to, from, FIRST_ROUNDS);
	copy_big("memcpy", to, from, work(argc, argv, 15));
	must("memcpy", !memcmp(from, to, BIG));

	rounds = work(argc, argv, 1000);
	begin = now_ns();
	for (uint64_t r = 0; r < rounds; r++) {
		for (int i = 0; i < 4000; i++)
			memcpy(to + i, from + 64 * (i & 63), (size_t)(100 + (i & 255)));
		__asm__ volatile("" : : "r"(to) : "memory");
	}
	report("memcpy-small", begin, rounds, (uint64_t)to[1000]);
	must("memcpy-small", !memcmp(to + 3999, from + 64 * (3999 & 63), 100 + (3999 & 255)));

	/* One cycle through all lines, in random order (Sattolo). */
	order = malloc(n * sizeof(*order));
	if (!order)
		return 1;
	for (uint64_t i = 0; i < n; i++)
		order[i] = (uint32_t)i;
	for (uint64_t i = n - 1; i > 0; i--) {
		uint64_t j = next_random(&seed) % i;
		uint32_t t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	for (uint64_t i = 0; i < n; i++)
		*(void **)(from + (size_t)order[i] * LINE) = from + (size_t)order[(i + 1) % n] * LINE;
	rounds = 1;
	p = (void **)from;
	begin = now_ns();
	for (uint64_t r = 0; r < rounds * n; r++)
		p = *p;
	report("chase", begin, rounds * n, rounds * n);
	must("chase", (char *)p == from);
	return 0;
}
