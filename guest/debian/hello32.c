/* SPDX-License-Identifier: Apache-2.0 */
/* A 32-bit program for the Debian root disk: integers, x87, 64-bit arithmetic by halves, signals. Prints one line that the test knows. */
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static volatile sig_atomic_t caught;

static void on_fpe(int sig)
{
	caught = sig;
	printf("i386 ok sigfpe %d\n", (int)caught);
	exit(0);
}

int main(void)
{
	uint64_t product = 1;
	double sum = 0;
	volatile int hundred = 100, zero = 0;

	if (sizeof(void *) != 4)
		return 1;
	for (uint32_t i = 1; i <= 20; i++)
		product *= i;
	for (int i = 1; i <= 1000; i++)
		sum += sqrt((double)i);
	printf("i386 %llu %.6f\n", (unsigned long long)product, sum);
	fflush(stdout);
	signal(SIGFPE, on_fpe);
	return hundred / zero;
}
