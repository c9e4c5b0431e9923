/* SPDX-License-Identifier: Apache-2.0 */
/* How late does a program wake up that wants to each millisecond, by absolute times? The mean, what 99 of 100 keep to, and the latest. */
#include "bench.h"

#include <errno.h>
#include <sys/mman.h>

#define INTERVAL_NS 1000000ull

static void tell(const char *name, uint64_t ns)
{
	printf("bench %s %llu 1 0\n", name, (unsigned long long)ns);
}

static int by_size(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static uint64_t late_by(uint64_t due)
{
	struct timespec t = {(time_t)(due / 1000000000), (long)(due % 1000000000)};
	uint64_t now;

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
	now = now_ns();
	must("timer", now >= due);
	return now - due;
}

int main(int argc, char **argv)
{
	uint64_t n = work(argc, argv, 5000), sum = 0, due;
	uint64_t *late = calloc(n, sizeof(*late));

	must("timer", late && mlockall(MCL_CURRENT | MCL_FUTURE) == 0);
	for (int i = 0; i < 50; i++)
		late_by(now_ns() + INTERVAL_NS);
	due = now_ns();
	for (uint64_t i = 0; i < n; i++) {
		due += INTERVAL_NS;
		late[i] = late_by(due);
		sum += late[i];
	}
	qsort(late, n, sizeof(*late), by_size);
	tell("timer-mean", sum / n);
	tell("timer-99", late[n * 99 / 100]);
	tell("timer-max", late[n - 1]);
	return 0;
}
