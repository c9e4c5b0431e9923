/* SPDX-License-Identifier: Apache-2.0 */
/* Floating point: a matrix product that the compiler vectorizes, scalar double arithmetic, and the x87. */
#include "bench.h"

#include <math.h>

#define N 256

static double a[N][N], b[N][N], c[N][N];

static void matrix(uint64_t rounds)
{
	uint64_t begin;

	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++) {
			a[i][j] = i + j;
			b[i][j] = i - j;
		}
	begin = now_ns();
	for (uint64_t r = 0; r < rounds; r++)
		for (int i = 0; i < N; i++) {
			for (int j = 0; j < N; j++)
				c[i][j] = 0;
			for (int k = 0; k < N; k++)
				for (int j = 0; j < N; j++)
					c[i][j] += a[i][k] * b[k][j];
		}
	report("matrix", begin, rounds, (uint64_t)c[N / 2][N / 3]);
	/* sum over k of (i + k)(k - j), in closed form; exact in a double */
	for (int i = 0; i < N; i += 17)
		for (int j = 0; j < N; j += 13) {
			double s1 = (double)N * (N - 1) / 2, s2 = (double)(N - 1) * N * (2 * N - 1) / 6;

			must("matrix", c[i][j] == s2 + (i - j) * s1 - (double)N * i * j);
		}
}

static void mandelbrot(uint64_t rounds)
{
	uint64_t begin = now_ns();
	long inside = 0;

	for (uint64_t r = 0; r < rounds; r++) {
		inside = 0;
		for (int py = 0; py < 100; py++)
			for (int px = 0; px < 100; px++) {
				double x0 = px * 0.03 - 2.25, y0 = py * 0.025 - 1.25, x = 0, y = 0;
				int n = 0;

				for (; n < 200 && x * x + y * y <= 4; n++) {
					double t = x * x - y * y + x0;

					y = 2 * x * y + y0;
					x = t;
				}
				inside += n == 200;
			}
	}
	report("mandelbrot", begin, rounds, (uint64_t)inside);
	/* The set's area is 1.506; each pixel is 0.00075. */
	must("mandelbrot", inside > 1850 && inside < 2250);
}

static void x87(uint64_t rounds)
{
	uint64_t begin = now_ns();
	long double e = 0, sines = 0;

	for (uint64_t r = 0; r < rounds; r++) {
		sines = 0;
		for (int i = 0; i < 20000; i++) {
			long double term = 1;

			e = 1;
			for (int k = 1; k < 26; k++) {
				term /= k;
				e += term;
			}
			__asm__ volatile("" : "+t"(e));
			sines += sqrtl(e + i);
		}
	}
	report("x87", begin, rounds, (uint64_t)(sines * 1e9L));
	must("x87", fabsl(e - 2.718281828459045235360L) < 1e-17L && sines > 1885000 && sines < 1887000);
}

int main(int argc, char **argv)
{
	matrix(work(argc, argv, 20));
	mandelbrot(work(argc, argv, 30));
	x87(work(argc, argv, 60));
	return 0;
}
