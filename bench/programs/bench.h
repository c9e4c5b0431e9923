/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every benchmark program shares: the clock, the line that bench/run.py reads, and the end when a result is wrong.
 *
 * A program takes one argument, the amount of work in percent, and prints for each of its parts:
 *     bench NAME NANOSECONDS OPERATIONS RESULT
 * Every part checks what it computed; a wrong result prints `wrong NAME` and ends the program with status 1. RESULT depends on the amount of
 * work only: bench/run.py refuses a run in which native, Guise and QEMU differ.
 */
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static inline uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The amount of work: `full` scaled by the percentage on the command line, at least 1. */
static inline uint64_t work(int argc, char **argv, uint64_t full)
{
	uint64_t percent = argc > 1 ? strtoull(argv[1], NULL, 10) : 100;
	uint64_t n = full * percent / 100;

	return n ? n : 1;
}

static inline void report(const char *name, uint64_t begin_ns, uint64_t operations, uint64_t result)
{
	uint64_t ns = now_ns() - begin_ns;

	printf("bench %s %llu %llu %llu\n", name, (unsigned long long)ns, (unsigned long long)operations, (unsigned long long)result);
	fflush(stdout);
}

static inline void must(const char *name, int right)
{
	if (right)
		return;
	printf("wrong %s\n", name);
	exit(1);
}

/* xorshift64*: the same numbers everywhere. */
static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dull;
}
