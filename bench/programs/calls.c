/* SPDX-License-Identifier: Apache-2.0 */
/* Calls and returns: recursion, and calls through pointers whose targets change. */
#include "bench.h"

__attribute__((noinline)) static uint64_t fib(unsigned n)
{
	if (n < 2)
		return n;
	return fib(n - 1) + fib(n - 2);
}

#define STEP(name, expr)                                                                                                                   \
	__attribute__((noinline)) static uint64_t name(uint64_t v)                                                                         \
	{                                                                                                                                  \
		return expr;                                                                                                               \
	}
STEP(add1, v + 1)
STEP(add2, v + 2)
STEP(add3, v + 3)
STEP(add4, v + 4)
STEP(sub1, v - 1)
STEP(sub2, v - 2)
STEP(xor0, v ^ 0x5555)
STEP(xor1, v ^ 0x5555)

int main(int argc, char **argv)
{
	static uint64_t (*const volatile step[])(uint64_t) = {add1, add2, add3, add4, sub1, sub2, xor0, xor1};
	uint64_t rounds = work(argc, argv, 12), n = work(argc, argv, 2000000) * 8, begin, result = 0, v = 0;

	begin = now_ns();
	for (uint64_t r = 0; r < rounds; r++)
		result = fib(32);
	report("fib", begin, rounds, result);
	must("fib", result == 2178309);

	begin = now_ns();
	for (uint64_t i = 0; i < n; i++)
		v = step[i & 7](v);
	report("indirect", begin, n, v);
	/* A whole turn adds seven; the two exclusive-ors undo each other. */
	must("indirect", v == n / 8 * 7);
	return 0;
}
