/* SPDX-License-Identifier: Apache-2.0 */
/* Raw images on both I/O engines: bytes, ranges, discards, and every way that opening can fail. */
#include "block/block.h"
#include "block/io_inline.h"
#include "block/io_writeout.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define DISK (4 * MiB)

struct world {
	char path[64];
	const char *io;
	struct block_image *img;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	u32 done, kicked;
};

static void on_done(void *opaque, struct block_req **reqs, u32 n)
{
	struct world *w = opaque;

	pthread_mutex_lock(&w->lock);
	w->done += n;
	pthread_cond_broadcast(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

static void on_kick(void *opaque)
{
	struct world *w = opaque;

	pthread_mutex_lock(&w->lock);
	w->kicked++;
	pthread_cond_broadcast(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

static void await(struct world *w, u32 *counter, u32 n)
{
	pthread_mutex_lock(&w->lock);
	while (*counter < n)
		pthread_cond_wait(&w->cond, &w->lock);
	pthread_mutex_unlock(&w->lock);
}

static int open_as(struct world *w, struct block_options o, struct err *e)
{
	struct block_client client = {w, on_done, on_kick};

	if (!o.path)
		o.path = w->path;
	if (!o.format)
		o.format = "raw";
	o.io = w->io;
	o.depth = 64;
	return block_open(&w->img, &o, &client, e);
}

static int setup_at(void **state, const char *io, const char *template)
{
	struct world *w = calloc(1, sizeof(*w));
	struct err e = {0};
	int fd;

	strcpy(w->path, template);
	w->io = io;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->cond, NULL);
	fd = mkstemp(w->path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK), 0);
	close(fd);
	if (open_as(w, (struct block_options){.discard = true}, &e))
		fail_msg("%s", e.msg);
	*state = w;
	return 0;
}

static int setup_auto(void **state)
{
	return setup_at(state, "auto", "/tmp/guise-test-disk-XXXXXX");
}
static int setup_threads(void **state)
{
	return setup_at(state, "threads", "/tmp/guise-test-disk-XXXXXX");
}
/* A file system in memory: no disk to be direct with, and on many kernels no RWF_NOWAIT. */
static int setup_memory(void **state)
{
	return setup_at(state, "auto", "/dev/shm/guise-test-disk-XXXXXX");
}

static int teardown(void **state)
{
	struct world *w = *state;

	block_close(w->img);
	unlink(w->path);
	free(w);
	return 0;
}

static int run(struct world *w, struct block_req r)
{
	struct block_req *one = &r;
	u32 before = w->done;

	block_submit(w->img, &one, 1);
	await(w, &w->done, before + 1);
	return r.result;
}

static int transfer(struct world *w, enum block_op op, u64 off, void *buf, size_t len)
{
	struct iovec iov = {buf, len};

	return run(w, (struct block_req){.op = op, .off = off, .len = len, .iov = &iov, .niov = 1});
}

static void bytes_go_both_ways(void **state)
{
	struct world *w = *state;
	u8 out[4096], in[4096];
	int fd;

	for (u32 i = 0; i < sizeof(out); i++)
		out[i] = (u8)(i * 7);
	assert_int_equal(transfer(w, BLOCK_WRITE, DISK - sizeof(out), out, sizeof(out)), 0);
	assert_int_equal(run(w, (struct block_req){.op = BLOCK_FLUSH}), 0);
	fd = open(w->path, O_RDONLY);
	assert_int_equal(pread(fd, in, sizeof(in), DISK - sizeof(in)), sizeof(in));
	close(fd);
	assert_memory_equal(in, out, sizeof(in));
	memset(in, 0, sizeof(in));
	assert_int_equal(transfer(w, BLOCK_READ, DISK - sizeof(in), in, sizeof(in)), 0);
	assert_memory_equal(in, out, sizeof(in));
}

static void many_pieces_and_durable(void **state)
{
	struct world *w = *state;
	static u8 out[200][512], in[200][512];
	struct iovec iov[200];

	for (u32 i = 0; i < 200; i++) {
		memset(out[i], (int)i + 1, 512);
		iov[199 - i] = (struct iovec){out[i], 512};
	}
	assert_int_equal(
		run(w, (struct block_req){.op = BLOCK_WRITE, .durable = true, .off = 512, .len = sizeof(out), .iov = iov, .niov = 200}), 0);
	assert_int_equal(transfer(w, BLOCK_READ, 512, in, sizeof(in)), 0);
	for (u32 i = 0; i < 200; i++)
		assert_memory_equal(in[i], out[199 - i], 512);
}

static void large_transfers(void **state)
{
	struct world *w = *state;
	u8 *out = malloc(DISK), *in = calloc(1, DISK);

	for (u32 i = 0; i < DISK; i++)
		out[i] = (u8)(i ^ i >> 8 ^ i >> 16);
	assert_int_equal(transfer(w, BLOCK_WRITE, 0, out, DISK), 0);
	assert_int_equal(transfer(w, BLOCK_READ, 0, in, DISK), 0);
	assert_memory_equal(in, out, DISK);
	free(in);
	free(out);
}

static void many_at_once(void **state)
{
	struct world *w = *state;
	static u8 buf[64][512];
	struct iovec iov[64];
	struct block_req reqs[64], *list[64];

	for (u32 round = 0; round < 100; round++) {
		u32 before = w->done;

		for (u32 i = 0; i < 64; i++) {
			memset(buf[i], (int)(i + round), 512);
			iov[i] = (struct iovec){buf[i], 512};
			reqs[i] = (struct block_req){.off = 512ull * i, .len = 512, .iov = &iov[i], .niov = 1};
			reqs[i].op = round % 2 ? BLOCK_READ : BLOCK_WRITE;
			list[i] = &reqs[i];
		}
		block_submit(w->img, list, 64);
		await(w, &w->done, before + 64);
		for (u32 i = 0; i < 64; i++) {
			assert_int_equal(reqs[i].result, 0);
			assert_int_equal(buf[i][0], (u8)(i + (round & ~1u)));
		}
	}
}

/* Takes what is on the disk out of the page cache, so that the next read has to wait for it. */
static void forget_pages(struct world *w)
{
	int fd = open(w->path, O_RDONLY);

	assert_int_equal(fsync(fd), 0);
	assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	close(fd);
}

static void reopen_with_size(struct world *w, u64 size)
{
	struct err e = {0};

	block_close(w->img);
	assert_int_equal(truncate(w->path, (off_t)size), 0);
	if (open_as(w, (struct block_options){.discard = true}, &e))
		fail_msg("%s", e.msg);
}

static void number_words(u32 *words, u64 off, u64 len)
{
	for (u64 i = 0; i < len / 4; i++)
		words[i] = (u32)((off / 4 + i) * 2654435761u);
}

/* Long enough for advice, in requests of all sizes, odd places among them; and closed while advice may still be in flight. */
static void streams_keep_their_bytes(void **state)
{
	static const u32 sizes[] = {1 << 20, 1016 << 10, 8 << 10, 512, 256 << 10, 3 << 20, 1536, 128 << 10};
	u64 size = 40 * MiB;
	struct world *w = *state;
	u32 *out = malloc(4 * MiB), *in = malloc(4 * MiB);

	reopen_with_size(w, size);
	for (u32 round = 0; round < 3; round++) {
		if (round)
			forget_pages(w);
		for (u64 off = 0, i = 0, len; off < size; off += len, i++) {
			len = sizes[i % ARRAY_SIZE(sizes)] < size - off ? sizes[i % ARRAY_SIZE(sizes)] : size - off;
			number_words(out, off, len);
			if (!round)
				assert_int_equal(transfer(w, BLOCK_WRITE, off, out, len), 0);
			memset(in, 0, len);
			assert_int_equal(transfer(w, BLOCK_READ, off, in, len), 0);
			assert_memory_equal(in, out, len);
		}
		assert_int_equal(run(w, (struct block_req){.op = BLOCK_FLUSH}), 0);
	}
	free(in);
	free(out);
}

/* The first pages of a request are there, others are not: copied at once in part, and the rest follows. */
static void partly_cached(void **state)
{
	struct world *w = *state;
	u8 *buf = malloc(DISK);
	struct iovec iov[3] = {{buf, 1000}, {buf + 1000, 65536}, {buf + 66536, DISK - 66536 - 512}};

	number_words((u32 *)buf, 0, DISK);
	assert_int_equal(transfer(w, BLOCK_WRITE, 0, buf, DISK), 0);
	for (u32 at = 0; at < DISK; at += DISK / 8) {
		u32 *page = malloc(4096);

		forget_pages(w);
		assert_int_equal(transfer(w, BLOCK_READ, at, page, 4096), 0);
		memset(buf, 0, DISK);
		for (u32 i = 0; i < 3; i++)
			iov[i].iov_base = buf + (i > 0) * 1000 + (i > 1) * 65536;
		iov[0].iov_len = 1000, iov[1].iov_len = 65536, iov[2].iov_len = DISK / 2 - 66536;
		assert_int_equal(run(w, (struct block_req){.op = BLOCK_READ, .off = 512, .len = DISK / 2, .iov = iov, .niov = 3}), 0);
		for (u32 i = 0; i < DISK / 8; i++)
			assert_int_equal(((u32 *)buf)[i], (i + 128) * 2654435761u);
		free(page);
	}
	free(buf);
}

static u8 *pages(u64 len)
{
	void *p = NULL;

	assert_int_equal(posix_memalign(&p, 4096, len), 0);
	return p;
}

/* False where the file system has no direct I/O, which is then said. */
static bool reopen_direct(struct world *w)
{
	struct err e = {0};
	int r;

	block_close(w->img);
	r = open_as(w, (struct block_options){.direct = true, .discard = true}, &e);
	if (!r)
		return true;
	assert_int_equal(r, -ENOTSUP);
	assert_non_null(strstr(e.msg, "cache=none"));
	assert_non_null(strstr(e.msg, w->path));
	assert_int_equal(open_as(w, (struct block_options){0}, &e), 0);
	return false;
}

/* Writes and reads past the page cache and, because memory, place or length are odd, through it, on the same bytes in all combinations. */
static void direct_and_cached_agree(void **state)
{
	static const u32 lens[] = {4096, 512, 1536, 1 << 20, 300 << 10, 8192};
	static const u32 places[] = {0, 512, 4096, 65536 + 1024, 1 << 20};
	struct world *w = *state;
	u8 *out = pages(2 * MiB), *in = pages(2 * MiB);
	u32 n = 0;

	reopen_direct(w);
	for (u32 i = 0; i < ARRAY_SIZE(lens) * ARRAY_SIZE(places) * 4; i++, n++) {
		u64 off = places[i % ARRAY_SIZE(places)], len = lens[i / 4 % ARRAY_SIZE(lens)];
		u8 *from = out + (i & 1), *to = in + (i >> 1 & 1) * 4; /* odd ones must go through the cache */

		for (u64 k = 0; k < len; k++)
			from[k] = (u8)(k * 31 + n);
		assert_int_equal(transfer(w, BLOCK_WRITE, off, from, len), 0);
		for (u32 again = 0; again < 2; again++) {
			memset(to, 0, len);
			assert_int_equal(transfer(w, BLOCK_READ, off, to, len), 0);
			assert_memory_equal(to, from, len);
			to = in + 4 - (to - in);
		}
		assert_int_equal(run(w, (struct block_req){.op = BLOCK_FLUSH}), 0);
	}
	free(in);
	free(out);
}

/* What is read back on the host, where a hole was, after a discard, at the end, in many pieces. */
static void direct_everywhere(void **state)
{
	struct world *w = *state;
	u8 *out = pages(MiB), *in = pages(MiB);
	struct iovec iov[256];
	int fd = open(w->path, O_RDONLY);

	reopen_direct(w);
	memset(in, 1, MiB);
	assert_int_equal(transfer(w, BLOCK_READ, MiB, in, MiB), 0);
	for (u32 i = 0; i < MiB; i++)
		assert_int_equal(in[i], 0);
	number_words((u32 *)out, 0, MiB);
	for (u32 i = 0; i < 256; i++)
		iov[i] = (struct iovec){out + (255 - i) * 4096, 4096};
	assert_int_equal(
		run(w, (struct block_req){.op = BLOCK_WRITE, .durable = true, .off = DISK - MiB, .len = MiB, .iov = iov, .niov = 256}), 0);
	assert_int_equal(pread(fd, in, MiB, DISK - MiB), MiB);
	for (u32 i = 0; i < 256; i++)
		assert_memory_equal(in + i * 4096, out + (255 - i) * 4096, 4096);
	assert_int_equal(run(w, (struct block_req){.op = BLOCK_ZERO, .off = DISK - MiB, .len = 4096}), 0);
	assert_int_equal(transfer(w, BLOCK_READ, DISK - MiB, in, 8192), 0);
	assert_int_equal(in[4095], 0);
	assert_memory_equal(in + 4096, out + 254 * 4096, 4096);
	assert_int_equal(truncate(w->path, DISK / 2), 0);
	assert_int_equal(transfer(w, BLOCK_READ, DISK - MiB, in, 4096), -EIO);
	close(fd);
	free(in);
	free(out);
}

static bool is_zero(struct world *w, u64 off, u64 len)
{
	u8 *in = malloc(len);
	bool zero = true;

	memset(in, 1, len);
	assert_int_equal(transfer(w, BLOCK_READ, off, in, len), 0);
	for (u64 i = 0; i < len; i++)
		zero &= !in[i];
	free(in);
	return zero;
}

static void fill(struct world *w)
{
	u8 *out = malloc(DISK);

	memset(out, 0xaa, DISK);
	assert_int_equal(transfer(w, BLOCK_WRITE, 0, out, DISK), 0);
	free(out);
}

static void zeroes_are_exact(void **state)
{
	static const enum block_op ops[] = {BLOCK_ZERO, BLOCK_ZERO_KEEP};
	struct world *w = *state;

	for (u32 i = 0; i < ARRAY_SIZE(ops); i++) {
		fill(w);
		assert_int_equal(run(w, (struct block_req){.op = ops[i], .off = 512, .len = 300 * 512, .durable = i}), 0);
		assert_true(is_zero(w, 512, 300 * 512));
		assert_false(is_zero(w, 0, 512));
		assert_false(is_zero(w, 301 * 512, 512));
	}
}

static void discard_frees_space(void **state)
{
	struct world *w = *state;
	struct stat before, after;

	fill(w);
	assert_int_equal(run(w, (struct block_req){.op = BLOCK_FLUSH}), 0);
	assert_int_equal(stat(w->path, &before), 0);
	assert_int_equal(run(w, (struct block_req){.op = BLOCK_DISCARD, .off = 0, .len = DISK / 2}), 0);
	assert_int_equal(stat(w->path, &after), 0);
	assert_int_equal(after.st_size, DISK);
	assert_true(after.st_blocks <= before.st_blocks);
}

static void file_cut_short_is_an_error(void **state)
{
	struct world *w = *state;
	u8 buf[1024];

	assert_int_equal(truncate(w->path, DISK / 2), 0);
	assert_int_equal(transfer(w, BLOCK_READ, DISK - 1024, buf, 1024), -EIO);
	assert_int_equal(transfer(w, BLOCK_READ, DISK / 2 - 512, buf, 1024), -EIO);
	assert_int_equal(transfer(w, BLOCK_READ, 0, buf, 1024), 0);
}

static void full_host_is_an_error(void **state)
{
	struct world *w = *state;
	struct rlimit old, small = {DISK / 2, DISK / 2};
	u8 buf[1024] = {0};
	int r;

	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	small.rlim_max = old.rlim_max;
	setrlimit(RLIMIT_FSIZE, &small);
	r = transfer(w, BLOCK_WRITE, DISK - 1024, buf, 1024);
	setrlimit(RLIMIT_FSIZE, &old);
	assert_true(r < 0);
	assert_int_equal(transfer(w, BLOCK_WRITE, DISK - 1024, buf, 1024), 0);
}

static void empty_requests(void **state)
{
	struct world *w = *state;

	assert_int_equal(run(w, (struct block_req){.op = BLOCK_READ}), 0);
	assert_int_equal(run(w, (struct block_req){.op = BLOCK_ZERO}), 0);
}

static void kick_arrives(void **state)
{
	struct world *w = *state;

	for (u32 i = 1; i <= 100; i++) {
		block_kick(w->img);
		await(w, &w->kicked, i);
	}
}

static void expect_error(struct world *w, struct block_options o, int code, const char *part)
{
	struct block_image *keep = w->img;
	struct err e = {0};

	assert_int_equal(open_as(w, o, &e), -code);
	if (!strstr(e.msg, part))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, part);
	w->img = keep;
}

static void locks_exclude(void **state)
{
	struct world *w = *state;
	struct block_image *first = w->img;
	struct err e = {0};

	expect_error(w, (struct block_options){0}, EBUSY, "in use");
	expect_error(w, (struct block_options){.readonly = true}, EBUSY, "in use");
	block_close(first);
	assert_int_equal(open_as(w, (struct block_options){.readonly = true}, &e), 0);
	first = w->img;
	assert_int_equal(open_as(w, (struct block_options){.readonly = true}, &e), 0);
	block_close(first);
	expect_error(w, (struct block_options){0}, EBUSY, "readonly");
}

static void opening_fails_clearly(void **state)
{
	struct world *w = *state;
	char odd[80];
	int fd;

	expect_error(w, (struct block_options){.path = "/nonexistent/x.img"}, ENOENT, "/nonexistent/x.img");
	expect_error(w, (struct block_options){.path = "/tmp"}, EISDIR, "directory");
	expect_error(w, (struct block_options){.path = "/tmp", .readonly = true}, EISDIR, "directory");
	expect_error(w, (struct block_options){.path = "/dev/null"}, EINVAL, "neither");
	expect_error(w, (struct block_options){.format = "qcow2"}, ENOTSUP, "qcow2");
	snprintf(odd, sizeof(odd), "%s.odd", w->path);
	fd = open(odd, O_CREAT | O_RDWR, 0600);
	expect_error(w, (struct block_options){.path = odd}, EINVAL, "empty");
	assert_int_equal(ftruncate(fd, 1000), 0);
	expect_error(w, (struct block_options){.path = odd}, EINVAL, "multiple of 512");
	close(fd);
	unlink(odd);
	mkfifo(odd, 0600);
	expect_error(w, (struct block_options){.path = odd}, EINVAL, "neither");
	unlink(odd);
}

static void first_failed_flush_is_final(void **state)
{
	struct io_req r = {.op = IO_FLUSH};

	io_req_begin(&r);
	assert_true(io_req_step(&r, -EIO));
	assert_int_equal(r.result, -EIO);
}

/* The steps of one request, without any file. */
static void steps(void **state)
{
	u8 buf[100];
	struct iovec iov[] = {{buf, 10}, {buf + 10, 90}};
	struct io_req r = {.op = IO_READ, .len = 100, .iov = iov, .niov = 2};

	io_req_begin(&r);
	assert_false(io_req_step(&r, -EINTR));
	assert_false(io_req_step(&r, 5));
	assert_ptr_equal(r.iov->iov_base, buf + 5);
	assert_false(io_req_step(&r, 5));
	assert_int_equal(r.niov, 1);
	assert_int_equal(r.off, 10);
	assert_true(io_req_step(&r, 90));
	assert_int_equal(r.result, 0);

	r = (struct io_req){.op = IO_ZERO_UNMAP, .len = 100000, .durable = true};
	io_req_begin(&r);
	assert_false(io_req_step(&r, -EOPNOTSUPP));
	assert_int_equal(r.op, IO_ZERO);
	assert_false(io_req_step(&r, -EOPNOTSUPP));
	assert_int_equal(r.op, IO_ZERO_WRITE);
	assert_int_equal(r.iov->iov_len, 65536);
	assert_false(io_req_step(&r, 65536));
	assert_int_equal(r.iov->iov_len, 100000 - 65536);
	assert_false(io_req_step(&r, 100000 - 65536));
	assert_int_equal(r.op, IO_FLUSH);
	assert_true(io_req_step(&r, 0));
	assert_int_equal(r.result, 0);

	r = (struct io_req){.op = IO_DISCARD, .len = 512};
	io_req_begin(&r);
	assert_true(io_req_step(&r, -EOPNOTSUPP));
	assert_int_equal(r.result, 0);

	r = (struct io_req){.op = IO_WRITE, .len = 512, .iov = iov, .niov = 2};
	io_req_begin(&r);
	assert_true(io_req_step(&r, -ENOSPC));
	assert_int_equal(r.result, -ENOSPC);
}

static bool try_write(struct io_inline *il, int fd, bool durable, u64 *budget)
{
	static u8 buf[4096];
	struct iovec iov = {buf, sizeof(buf)};
	struct io_req r = {.op = IO_WRITE, .durable = durable, .fd = fd, .len = sizeof(buf), .iov = &iov, .niov = 1};

	memset(buf, 0x55, sizeof(buf));
	return io_inline_try(il, &r, budget) && !r.result;
}

static off_t size_of(int fd)
{
	return lseek(fd, 0, SEEK_END);
}

/* What the submitter does itself, and what it leaves alone without having touched it. */
static void inline_knows_its_limits(void **state)
{
	struct world *w = *state;
	struct io_inline il = {.no_nowait_write = true};
	u64 budget = 8192, little = 4095;
	int fd;

	assert_int_equal(truncate(w->path, 0), 0);
	fd = open(w->path, O_RDWR);
	assert_false(try_write(&il, fd, true, &budget));
	assert_false(try_write(&il, fd, false, &little));
	assert_false(try_write(&il, -1, false, &budget));
	il.resume_at = host_now_ns() + 3600 * 1000000000ull;
	assert_false(try_write(&il, fd, false, &budget));
	assert_int_equal(size_of(fd), 0);
	assert_int_equal(budget, 8192);
	il.resume_at = 0;
	assert_true(try_write(&il, fd, false, &budget));
	assert_int_equal(size_of(fd), 4096);
	assert_int_equal(budget, 4096);
	close(fd);
}

/* An engine that keeps advice until it is told to finish it. */
struct advised {
	struct io_engine eng;
	struct io_writeout writeout;
	struct io_req *in_flight;
	u32 n;
	u64 off, len;
	enum io_op op;
};

static void advised_submit(struct io_engine *eng, struct io_req **reqs, u32 n)
{
	struct advised *a = container_of(eng, struct advised, eng);

	assert_int_equal(n, 1);
	assert_null(a->in_flight);
	a->in_flight = reqs[0];
	a->n++;
	a->off = reqs[0]->off;
	a->len = reqs[0]->len;
	a->op = reqs[0]->op;
}

static const struct io_engine_ops advised_ops = {.name = "test", .submit = advised_submit};

static void advised_finish(struct advised *a)
{
	struct io_req other = {0};

	assert_false(io_writeout_owns(&a->writeout, &other));
	if (a->in_flight)
		assert_true(io_writeout_owns(&a->writeout, a->in_flight));
	a->in_flight = NULL;
}

static void streams_are_recognized(void **state)
{
	struct advised a = {.eng.ops = &advised_ops};

	io_writeout_init(&a.writeout, &a.eng, -1);
	for (u64 i = 0; i < 8; i++) { /* here and there */
		io_writeout_written(&a.writeout, (7 - i) * MiB, MiB);
		assert_int_equal(a.n, 0);
	}
	for (u64 i = 0; i < 7; i++) /* one is in flight from the fourth on */
		io_writeout_written(&a.writeout, 20 * MiB + i * MiB, MiB);
	assert_int_equal(a.n, 1);
	assert_int_equal(a.op, IO_WRITE_OUT);
	assert_int_equal(a.off, 20 * MiB);
	assert_int_equal(a.len, 4 * MiB);
	advised_finish(&a);
	io_writeout_written(&a.writeout, 27 * MiB, MiB);
	assert_int_equal(a.off, 24 * MiB);
	assert_int_equal(a.len, 4 * MiB);
	advised_finish(&a);
	io_writeout_written(&a.writeout, 40 * MiB, 3 * MiB); /* a gap: what stands before it is left to the kernel */
	io_writeout_written(&a.writeout, 43 * MiB, 3 * MiB);
	assert_int_equal(a.n, 3);
	assert_int_equal(a.off, 40 * MiB);
	assert_int_equal(a.len, 6 * MiB);
	advised_finish(&a);
	io_writeout_destroy(&a.writeout);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup_auto, teardown), cmocka_unit_test_setup_teardown(f, setup_threads, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(bytes_go_both_ways),
		T(many_pieces_and_durable),
		T(large_transfers),
		T(streams_keep_their_bytes),
		T(partly_cached),
		T(direct_and_cached_agree),
		T(direct_everywhere),
		cmocka_unit_test_setup_teardown(direct_and_cached_agree, setup_memory, teardown),
		cmocka_unit_test_setup_teardown(bytes_go_both_ways, setup_memory, teardown),
		cmocka_unit_test_setup_teardown(streams_keep_their_bytes, setup_memory, teardown),
		cmocka_unit_test_setup_teardown(partly_cached, setup_memory, teardown),
		T(inline_knows_its_limits),
		cmocka_unit_test(streams_are_recognized),
		T(many_at_once),
		T(zeroes_are_exact),
		T(discard_frees_space),
		T(file_cut_short_is_an_error),
		T(full_host_is_an_error),
		T(empty_requests),
		T(kick_arrives),
		T(locks_exclude),
		T(opening_fails_clearly),
		cmocka_unit_test(first_failed_flush_is_final),
		cmocka_unit_test(steps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
