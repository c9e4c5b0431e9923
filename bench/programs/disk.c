/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk, or the file behind it: 4 KiB random reads with 32 requests in flight, 1 MiB sequential reads and writes.
 *
 *     disk make FILE PERCENT                     fills FILE with what the other commands expect
 *     disk run FILE PERCENT SEED [buffered]      measures; what is written depends on SEED; `buffered` leaves O_DIRECT out
 *     disk verify FILE PERCENT SEED              judges every byte that a run wrote
 *
 * FILE has three regions: for random reads, for sequential reads, and for writes. Before each reading that is to find nothing in a cache the program
 * says so and waits for a line, or the end of its input: only the host can empty its cache. The last region is written twice: what is timed finds its
 * pages in the host's cache, where it goes through one, and ends when all of it is on the disk. Each page carries its number in its first and last
 * word, which is looked at while the time runs; all its bytes are compared in passes that are not timed.
 */
#define _GNU_SOURCE /* O_DIRECT */
#include "async.h"
#include "bench.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096u
#define BLOCK (1u << 20)
#define WORDS (PAGE / 8)
#define PAGES (BLOCK / PAGE)

struct regions {
	uint64_t random_blocks, read_blocks, write_blocks; /* in this order in the file */
};

static struct regions regions(char **argv)
{
	uint64_t percent = strtoull(argv[3], NULL, 10), random = 512 * percent / 100, read = 1024 * percent / 100;

	return (struct regions){random ? random : 1, read ? read : 1, read ? read : 1};
}

static uint64_t stamp(uint64_t page, uint64_t seed)
{
	return (page + 1 + (seed << 40)) * 0x9e3779b97f4a7c15ull;
}

static void *buffer(size_t size)
{
	void *p = NULL;

	must("disk-memory", !posix_memalign(&p, PAGE, size));
	return p;
}

/* The bytes between the stamps, which are the same in all blocks. */
static void fill(uint64_t *block)
{
	uint64_t state = 77;

	for (uint64_t i = 0; i < BLOCK / 8; i++)
		block[i] = next_random(&state);
}

static void put_stamps(uint64_t *block, uint64_t number, uint64_t seed)
{
	for (uint64_t p = 0; p < PAGES; p++)
		block[p * WORDS] = block[p * WORDS + WORDS - 1] = stamp(number * PAGES + p, seed);
}

static int right_page(const uint64_t *page, uint64_t number, uint64_t seed)
{
	return page[0] == stamp(number, seed) && page[WORDS - 1] == page[0];
}

static int open_file(const char *path, int flags)
{
	int fd = open(path, flags, 0644);

	if (fd < 0)
		perror(path);
	must("disk-open", fd >= 0);
	return fd;
}

static void read_block(int fd, void *to, uint64_t number)
{
	must("disk-read", pread(fd, to, BLOCK, (off_t)(number * BLOCK)) == BLOCK);
}

static void write_blocks(int fd, uint64_t first, uint64_t n, uint64_t seed)
{
	uint64_t *block = buffer(BLOCK);

	fill(block);
	for (uint64_t b = first; b < first + n; b++) {
		put_stamps(block, b, seed);
		must("disk-write", pwrite(fd, block, BLOCK, (off_t)(b * BLOCK)) == BLOCK);
	}
	must("disk-flush", !fsync(fd));
	free(block);
}

/* Every byte of every `step`th block. */
static void compare_blocks(int fd, uint64_t first, uint64_t n, uint64_t seed, uint64_t step)
{
	uint64_t *block = buffer(BLOCK), *right = buffer(BLOCK);

	fill(right);
	for (uint64_t b = first; b < first + n; b += step) {
		put_stamps(right, b, seed);
		read_block(fd, block, b);
		must("disk-verify", !memcmp(block, right, BLOCK));
	}
	free(block);
	free(right);
}

/*
 * What the host frees now is the memory that the reading fills: on a host that is itself a virtual machine, memory that was free for some seconds may
 * have been taken back, and costs ten times as much to fill.
 */
static void ask_for_empty_cache(void)
{
	int c;

	puts("disk: empty the cache");
	fflush(stdout);
	while ((c = getchar()) != '\n' && c != EOF)
		;
}

static void sequential_read(const char *name, int fd, uint64_t first, uint64_t n)
{
	uint64_t *block = buffer(BLOCK), begin = now_ns();
	int right = 1;

	for (uint64_t b = first; b < first + n; b++) {
		read_block(fd, block, b);
		for (uint64_t p = 0; p < PAGES; p++)
			right &= right_page(block + p * WORDS, b * PAGES + p, 0);
	}
	report(name, begin, n, n);
	must(name, right);
	free(block);
}

static void sequential_write(const char *name, int fd, uint64_t first, uint64_t n, uint64_t seed)
{
	uint64_t begin = now_ns();

	write_blocks(fd, first, n, seed);
	report(name, begin, n, n);
}

/* Each page of the region once. The step is a prime larger than any region, so that it has no factor in common with the number of pages. */
static void random_read(const char *name, struct async *a, int fd, uint64_t first, uint64_t n)
{
	uint64_t pages = n * PAGES, next = 0, done = 0, sum = 0, expected = 0, begin, numbers[ASYNC_DEPTH];
	char *memory = buffer(ASYNC_DEPTH * PAGE);
	unsigned ready[ASYNC_DEPTH], n_ready = 0;

	while (n_ready < ASYNC_DEPTH)
		ready[n_ready] = n_ready, n_ready++;
	begin = now_ns();
	while (done < pages) {
		for (unsigned i = 0; i < n_ready && next < pages; i++, next++) {
			numbers[ready[i]] = first * PAGES + next * 2654435761u % pages;
			async_read(a, ready[i], fd, memory + ready[i] * PAGE, PAGE, numbers[ready[i]] * PAGE);
		}
		n_ready = async_wait(a, ready);
		must(name, n_ready > 0);
		for (unsigned i = 0; i < n_ready; i++) {
			must(name, right_page((uint64_t *)(memory + ready[i] * PAGE), numbers[ready[i]], 0));
			sum += numbers[ready[i]];
		}
		done += n_ready;
	}
	report(name, begin, pages, sum);
	for (uint64_t i = 0; i < pages; i++)
		expected += first * PAGES + i;
	must(name, sum == expected);
	free(memory);
}

static void run(char **argv, int buffered)
{
	struct regions r = regions(argv);
	uint64_t seed = strtoull(argv[4], NULL, 10), written = r.random_blocks + r.read_blocks;
	int flags = buffered ? 0 : O_DIRECT, fd = open_file(argv[2], O_RDWR | flags), random_fd;
	struct async *a = async_new();
	/* Through the page cache, Linux AIO would wait for each request at once. */
	int unbuffered = buffered && !async_is_uring(a);

	must("disk-async", a != NULL);
	printf("disk requests by %s\n", async_is_uring(a) ? "io_uring" : "Linux AIO");
	random_fd = unbuffered ? open_file(argv[2], O_RDONLY | O_DIRECT) : fd;
	ask_for_empty_cache();
	random_read("disk-random", a, random_fd, 0, r.random_blocks);
	ask_for_empty_cache();
	sequential_read("disk-read", fd, r.random_blocks, r.read_blocks);
	/*
	 * Once without looking at the clock: pages of a cache are new memory, and what a host that is itself a virtual machine waits for new memory,
	 * up to ten times the write, says nothing about disks.
	 */
	write_blocks(fd, written, r.write_blocks, 0);
	sequential_write("disk-write", fd, written, r.write_blocks, seed);
	/* What has just been read is now in the host's cache, if it is read through it: no disk hides what a request costs. */
	sequential_read("disk-read-cached", fd, r.random_blocks, r.read_blocks);
	if (!unbuffered)
		random_read("disk-random-cached", a, fd, r.random_blocks, r.random_blocks);
	compare_blocks(fd, 0, written, 0, 8);
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	if (!strcmp(argv[1], "make")) {
		struct regions r = regions(argv);

		write_blocks(open_file(argv[2], O_RDWR | O_CREAT | O_TRUNC), 0, r.random_blocks + r.read_blocks + r.write_blocks, 0);
	} else if (!strcmp(argv[1], "run") && argc > 4) {
		run(argv, argc > 5);
	} else if (!strcmp(argv[1], "verify") && argc > 4) {
		struct regions r = regions(argv);

		compare_blocks(open_file(argv[2], O_RDONLY), r.random_blocks + r.read_blocks, r.write_blocks, strtoull(argv[4], NULL, 10),
			       1);
	} else {
		return 2;
	}
	return 0;
}
