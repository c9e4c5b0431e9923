/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where does speed fall off when something grows? Functions that are called in turn, until their translations fill any cache; pages of data; processes
 * that pass a token round. Every few calls there is a system call, so that an engine which runs long-running user code in another way does not.
 */
#include "bench.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void call_kernel(uint64_t i)
{
	if (i % 16 == 0)
		syscall(SYS_getppid);
}

/* ---- functions: each does OPERATIONS things of its own with an accumulator and a table */

enum { OPERATIONS = 48, TABLE = 256, FUNCTION_SIZE = 384 };

struct operation {
	uint32_t kind, value;
};

static struct operation next_operation(uint64_t *random)
{
	uint64_t r = next_random(random);

	return (struct operation){(uint32_t)(r >> 62), (uint32_t)(r >> 20) & 0x7fffffff};
}

static uint8_t *put(uint8_t *p, const char *code, size_t n, uint32_t value, size_t size)
{
	memcpy(p, code, n);
	memcpy(p + n, &value, size);
	return p + n + size;
}

/* uint64_t f(uint64_t accumulator, uint64_t *table) */
static void write_function(uint8_t *p, uint64_t random)
{
	p = put(p, "\x48\x89\xf8", 3, 0, 0); /* mov rax, rdi */
	for (int i = 0; i < OPERATIONS; i++) {
		struct operation o = next_operation(&random);

		switch (o.kind) {
		case 0:
			p = put(p, "\x48\x03\x86", 3, o.value % TABLE * 8, 4); /* add rax, [rsi + n] */
			break;
		case 1:
			p = put(p, "\x48\x35", 2, o.value, 4); /* xor rax, n */
			break;
		case 2:
			p = put(p, "\x48\xc1\xc0", 3, o.value % 63 + 1, 1); /* rol rax, n */
			break;
		case 3:
			p = put(p, "\x48\x89\x86", 3, o.value % TABLE * 8, 4); /* mov [rsi + n], rax */
			break;
		}
	}
	*p = 0xc3;
}

/* The same here. */
static uint64_t model(uint64_t random, uint64_t a, uint64_t *table)
{
	for (int i = 0; i < OPERATIONS; i++) {
		struct operation o = next_operation(&random);

		switch (o.kind) {
		case 0:
			a += table[o.value % TABLE];
			break;
		case 1:
			a ^= o.value;
			break;
		case 2:
			a = a << (o.value % 63 + 1) | a >> (63 - o.value % 63);
			break;
		case 3:
			table[o.value % TABLE] = a;
			break;
		}
	}
	return a;
}

static uint64_t seed(uint64_t i)
{
	return (i + 1) * 0x9e3779b97f4a7c15ull;
}

static uint64_t call_all(const uint8_t *code, uint64_t n, uint64_t a, uint64_t *table)
{
	for (uint64_t i = 0; i < n; i++) {
		uint64_t (*f)(uint64_t, uint64_t *) = (uint64_t(*)(uint64_t, uint64_t *))(uintptr_t)(code + i * FUNCTION_SIZE);

		a = f(a, table);
		call_kernel(i);
	}
	return a;
}

static uint64_t model_all(uint64_t n, uint64_t a, uint64_t *table)
{
	for (uint64_t i = 0; i < n; i++)
		a = model(seed(i), a, table);
	return a;
}

/* The first round, and the mean of the rounds behind it. */
static void functions(uint64_t n, uint64_t rounds)
{
	static uint64_t table[TABLE], expected_table[TABLE];
	char first[32], again[32];
	uint64_t a = 1, expected = 1;
	uint8_t *code = mmap(NULL, n * FUNCTION_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	snprintf(first, sizeof(first), "code-first-%lluk", (unsigned long long)n / 1024);
	snprintf(again, sizeof(again), "code-again-%lluk", (unsigned long long)n / 1024);
	must(first, code != MAP_FAILED);
	memset(table, 0, sizeof(table));
	memset(expected_table, 0, sizeof(expected_table));
	for (uint64_t i = 0; i < n; i++)
		write_function(code + i * FUNCTION_SIZE, seed(i));
	must(first, mprotect(code, n * FUNCTION_SIZE, PROT_READ | PROT_EXEC) == 0);
	for (uint64_t r = 0; r <= rounds; r++)
		expected = model_all(n, expected, expected_table);

	uint64_t begin = now_ns();
	a = call_all(code, n, a, table);
	report(first, begin, n, a);
	begin = now_ns();
	for (uint64_t r = 0; r < rounds; r++)
		a = call_all(code, n, a, table);
	report(again, begin, n * rounds, a);
	must(again, a == expected && !memcmp(table, expected_table, sizeof(table)));
	munmap(code, n * FUNCTION_SIZE);
}

/* ---- pages: a word of each, in an order without a pattern */

static void pages(uint64_t n, uint64_t touches)
{
	enum { WORDS = 512 };
	uint64_t *m = mmap(NULL, n * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t at = 0, sum = 0, begin;
	char name[32];

	snprintf(name, sizeof(name), "pages-%lluk", (unsigned long long)n / 1024);
	must(name, m != MAP_FAILED);
	for (uint64_t i = 0; i < n; i++)
		m[i * WORDS + i % WORDS] = i;
	begin = now_ns();
	for (uint64_t i = 0; i < touches; i++) {
		at = (at * 1664525 + 1013904223) % n; /* n is a power of two: each page once in n steps */
		sum += m[at * WORDS + at % WORDS];
		call_kernel(i);
	}
	report(name, begin, touches, sum);
	must(name, touches % n || sum == touches / n * (n * (n - 1) / 2));
	munmap(m, n * 4096);
}

/* ---- processes: a token goes round, and each looks at pages of its own */

enum { OWN_PAGES = 32, MOST_PROCESSES = 64 };

/* Takes the token from `in`, adds one to it and passes it to `out`, until it is taken away. */
static void pass_on(const char *name, int in, int out)
{
	static volatile uint64_t own[OWN_PAGES * 512];
	uint64_t token;

	while (read(in, &token, sizeof(token)) == sizeof(token)) {
		for (int i = 0; i < OWN_PAGES; i++)
			own[i * 512]++;
		must(name, own[0] == own[(OWN_PAGES - 1) * 512]);
		token++;
		if (write(out, &token, sizeof(token)) != sizeof(token))
			break;
	}
	_exit(0);
}

static void close_others(int (*pipes)[2], uint64_t n, int in, int out)
{
	for (uint64_t i = 0; i < n; i++)
		for (int end = 0; end < 2; end++)
			if (pipes[i][end] != in && pipes[i][end] != out)
				close(pipes[i][end]);
}

/* n - 1 children and this process. */
static void processes(uint64_t n, uint64_t rounds)
{
	int pipes[MOST_PROCESSES][2], status;
	uint64_t token = 0, begin;
	char name[32];

	snprintf(name, sizeof(name), "processes-%llu", (unsigned long long)n);
	for (uint64_t i = 0; i < n; i++)
		must(name, pipe(pipes[i]) == 0);
	for (uint64_t i = 1; i < n; i++) {
		pid_t child = fork();

		must(name, child >= 0);
		if (child == 0) {
			close_others(pipes, n, pipes[i][0], pipes[(i + 1) % n][1]);
			pass_on(name, pipes[i][0], pipes[(i + 1) % n][1]);
		}
	}
	close_others(pipes, n, pipes[0][0], pipes[1][1]);
	begin = now_ns();
	for (uint64_t r = 0; r < rounds; r++)
		must(name, write(pipes[1][1], &token, sizeof(token)) == sizeof(token) &&
				   read(pipes[0][0], &token, sizeof(token)) == sizeof(token));
	report(name, begin, rounds * n, token);
	must(name, token == rounds * (n - 1));
	close(pipes[1][1]);
	for (uint64_t i = 1; i < n; i++)
		must(name, wait(&status) > 0 && status == 0);
	close(pipes[0][0]);
}

int main(int argc, char **argv)
{
	static const uint64_t thousands[] = {1, 8, 32, 64, 72, 80, 96, 128}, counts[] = {2, 4, 8, 16, 32, 64};

	for (size_t i = 0; i < sizeof(thousands) / sizeof(thousands[0]); i++)
		functions(thousands[i] * 1024, work(argc, argv, 256 / thousands[i]));
	for (uint64_t n = 1024; n <= 65536; n *= 4)
		pages(n, 65536 * work(argc, argv, 32));
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
		processes(counts[i], work(argc, argv, 20000 / counts[i]));
	return 0;
}
