/* SPDX-License-Identifier: Apache-2.0 */
/* Integer programs: a sieve, quicksort, a table-driven CRC, a binary tree, a byte-code interpreter, rotations and products in registers. */
#include "bench.h"

#include <string.h>

static void sieve(uint64_t rounds)
{
	enum { LIMIT = 2000000 };
	static unsigned char composite[LIMIT];
	uint64_t begin = now_ns();
	int primes = 0;

	for (uint64_t r = 0; r < rounds; r++) {
		memset(composite, 0, sizeof(composite));
		primes = 0;
		for (int i = 2; i < LIMIT; i++) {
			if (composite[i])
				continue;
			primes++;
			for (int j = 2 * i; j < LIMIT; j += i)
				composite[j] = 1;
		}
	}
	report("sieve", begin, rounds, (uint64_t)primes);
	must("sieve", primes == 148933);
}

static void sort(uint32_t *a, long n)
{
	while (n > 16) {
		uint32_t pivot = a[n / 2];
		long i = 0, j = n - 1;

		while (i <= j) {
			while (a[i] < pivot)
				i++;
			while (a[j] > pivot)
				j--;
			if (i <= j) {
				uint32_t t = a[i];

				a[i++] = a[j];
				a[j--] = t;
			}
		}
		sort(a, j + 1);
		a += i;
		n -= i;
	}
	for (long i = 1; i < n; i++) {
		uint32_t v = a[i];
		long j = i;

		for (; j > 0 && a[j - 1] > v; j--)
			a[j] = a[j - 1];
		a[j] = v;
	}
}

static void quicksort(uint64_t rounds)
{
	enum { N = 200000 };
	static uint32_t a[N];
	uint64_t begin = now_ns();

	for (uint64_t r = 0; r < rounds; r++) {
		uint64_t seed = 88172645463325252ull;

		for (int i = 0; i < N; i++)
			a[i] = (uint32_t)(next_random(&seed) >> 32);
		sort(a, N);
	}
	report("quicksort", begin, rounds, a[N / 2]);
	for (int i = 1; i < N; i++)
		must("quicksort", a[i - 1] <= a[i]);
}

static void crc(uint64_t rounds)
{
	static uint32_t table[256];
	static unsigned char data[1 << 20];
	uint64_t begin;
	uint32_t crc32 = 0;

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int k = 0; k < 8; k++)
			c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
		table[i] = c;
	}
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (unsigned char)(i * 7 + (i >> 8));
	memcpy(data, "123456789", 9);
	begin = now_ns();
	for (uint64_t r = 0; r < rounds; r++) {
		crc32 = ~0u;
		for (size_t i = 0; i < sizeof(data); i++)
			crc32 = table[(crc32 ^ data[i]) & 0xff] ^ (crc32 >> 8);
	}
	report("crc32", begin, rounds, crc32);
	crc32 = ~0u;
	for (size_t i = 0; i < 9; i++)
		crc32 = table[(crc32 ^ data[i]) & 0xff] ^ (crc32 >> 8);
	must("crc32", ~crc32 == 0xcbf43926u);
}

struct node {
	struct node *child[2];
	uint32_t key;
};

static void tree(uint64_t rounds)
{
	enum { N = 50000 };
	static struct node nodes[N];
	uint64_t begin = now_ns(), found = 0;

	for (uint64_t r = 0; r < rounds; r++) {
		struct node *root = NULL;
		uint64_t seed = 1234567;

		memset(nodes, 0, sizeof(nodes));
		for (int i = 0; i < N; i++) {
			struct node **p = &root;

			nodes[i].key = (uint32_t)(next_random(&seed) >> 32);
			while (*p)
				p = &(*p)->child[nodes[i].key > (*p)->key];
			*p = &nodes[i];
		}
		seed = 1234567;
		found = 0;
		for (int i = 0; i < N; i++) {
			uint32_t key = (uint32_t)(next_random(&seed) >> 32);
			const struct node *n = root;

			while (n && n->key != key)
				n = n->child[key > n->key];
			found += n != NULL;
		}
	}
	report("tree", begin, rounds, found);
	must("tree", found == N);
}

/* A stack machine that counts down from a number and sums: one indirect jump for each instruction. */
enum { PUSH, ADD, STORE, LOAD, DECREMENT, JUMP_IF, HALT };

static uint64_t interpret(const unsigned char *code, uint64_t *slot)
{
	static const void *const label[] = {&&push, &&add, &&store, &&load, &&decrement, &&jump_if, &&halt};
	uint64_t stack[16], *sp = stack;
	const unsigned char *pc = code;

#define NEXT goto *label[*pc++]
	NEXT;
push:
	*sp++ = *pc++;
	NEXT;
add:
	sp--;
	sp[-1] += *sp;
	NEXT;
store:
	slot[*pc++] = *--sp;
	NEXT;
load:
	*sp++ = slot[*pc++];
	NEXT;
decrement:
	slot[*pc++]--;
	NEXT;
jump_if:
	pc = slot[pc[0]] ? code + pc[1] : pc + 2;
	NEXT;
halt:
	return slot[1];
#undef NEXT
}

static void bytecode(uint64_t rounds)
{
	static const unsigned char code[] = {LOAD, 0, LOAD, 1, ADD, PUSH, 3, ADD, STORE, 1, DECREMENT, 0, JUMP_IF, 0, 0, HALT};
	uint64_t begin = now_ns(), sum = 0;

	for (uint64_t r = 0; r < rounds; r++) {
		uint64_t slot[2] = {100000, 0};

		sum = interpret(code, slot);
	}
	report("bytecode", begin, rounds, sum);
	must("bytecode", sum == 100000ull * 100001 / 2 + 300000);
}

static void mix(uint64_t rounds)
{
	uint64_t begin = now_ns(), a = 1, b = 2, c = 3, d = 4;

	for (uint64_t i = 0; i < rounds * 1000000; i++) {
		a += b ^ (c << 13 | c >> 51);
		d = (d ^ a) * 0x9e3779b97f4a7c15ull;
		b = (b << 7 | b >> 57) + d;
		c ^= a >> 3;
	}
	report("mix", begin, rounds, a ^ b ^ c ^ d);
}

int main(int argc, char **argv)
{
	sieve(work(argc, argv, 15));
	quicksort(work(argc, argv, 20));
	crc(work(argc, argv, 100));
	tree(work(argc, argv, 8));
	bytecode(work(argc, argv, 150));
	mix(work(argc, argv, 50));
	return 0;
}
