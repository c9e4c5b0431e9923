/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest RAM: one memfd, one mapping, one or two slots around the hole below 4 GiB.
 *
 * Threading: the slot table does not change after gm_create, so the accessors need no lock.
 */
#include "base/guest_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define GM_MIN_SIZE MiB

static void add_slot(struct guest_memory *gm, gpa_t gpa, u64 offset, u64 size)
{
	gm->slots[gm->nslots++] = (struct gm_slot){.gpa = gpa, .size = size, .hva = gm->map + offset, .fd_offset = offset};
}

static void lay_out(struct guest_memory *gm)
{
	u64 low = gm->size < GM_HOLE_START ? gm->size : GM_HOLE_START;

	add_slot(gm, 0, 0, low);
	if (gm->size > low)
		add_slot(gm, GM_HOLE_END, low, gm->size - low);
}

static int check_size(u64 size, struct err *e)
{
	if (size < GM_MIN_SIZE)
		return err_set(e, EINVAL, "guest memory of %llu bytes is too small: at least 1M is needed", (unsigned long long)size);
	if (size > GM_MAX_SIZE)
		return err_set(e, EINVAL, "guest memory of %llu GiB is too large: at most 16T is possible",
			       (unsigned long long)(size / GiB));
	if (PAGE_OFFSET(size))
		return err_set(e, EINVAL, "guest memory of %llu bytes is not a multiple of 4K", (unsigned long long)size);
	return 0;
}

/* What guests' CPUs and devices do to RAM at the same time is the guest's affair, and as it is on hardware. */
#ifdef __SANITIZE_THREAD__
void AnnotateBenignRaceSized(const char *file, int line, const volatile void *p, size_t size, const char *what);
static void races_are_the_guests(const struct guest_memory *gm)
{
	AnnotateBenignRaceSized(__FILE__, __LINE__, gm->map, gm->size, "guest memory");
}
#else
static void races_are_the_guests(const struct guest_memory *gm)
{
}
#endif

static int map_ram(struct guest_memory *gm, struct err *e)
{
	void *map;

	gm->fd = memfd_create("guise-ram", MFD_CLOEXEC);
	if (gm->fd < 0)
		return err_sys(e, errno, "cannot create a memfd for guest memory");
	if (ftruncate(gm->fd, (off_t)gm->size) < 0)
		return err_sys(e, errno,
			       "cannot size guest memory to %llu MiB; ask for less with --memory or raise the file size limit (ulimit -f)",
			       (unsigned long long)(gm->size / MiB));
	/* An inaccessible page on each side: an access that an engine sized wrongly faults instead of reaching what lies next to RAM. */
	map = mmap(NULL, gm->size + 2 * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map != MAP_FAILED)
		map = mmap((u8 *)map + PAGE_SIZE, gm->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, gm->fd, 0);
	if (map == MAP_FAILED)
		return err_sys(
			e, errno,
			"cannot map %llu MiB of guest memory; ask for less with --memory or raise the address space limit (ulimit -v)",
			(unsigned long long)(gm->size / MiB));
	gm->map = map;
	madvise(map, gm->size, MADV_DONTDUMP);
	races_are_the_guests(gm);
	return 0;
}

int gm_create(struct guest_memory *gm, u64 size, struct err *e)
{
	int r;

	*gm = (struct guest_memory){.fd = -1, .size = size};
	r = check_size(size, e);
	if (r == 0)
		r = map_ram(gm, e);
	if (r < 0) {
		gm_destroy(gm);
		return r;
	}
	lay_out(gm);
	return 0;
}

void gm_destroy(struct guest_memory *gm)
{
	if (gm->map)
		munmap(gm->map - PAGE_SIZE, gm->size + 2 * PAGE_SIZE);
	if (gm->fd >= 0)
		close(gm->fd);
	*gm = (struct guest_memory){.fd = -1};
}

static const struct gm_slot *find_slot(const struct guest_memory *gm, gpa_t gpa)
{
	for (u32 i = 0; i < gm->nslots; i++)
		if (gpa - gm->slots[i].gpa < gm->slots[i].size)
			return &gm->slots[i];
	return NULL;
}

/* Devices and loaders go on with the pointer and never look back. */
static u8 *checked(const struct guest_memory *gm, u8 *hva, u64 len)
{
	if (GM_BOUNDS_CHECKS && unlikely(!gm_holds(gm, hva, len))) {
		fprintf(stderr, "guise: internal error: %llu bytes at %p were handed out as guest RAM, which is %llu bytes at %p\n",
			(unsigned long long)len, (void *)hva, (unsigned long long)gm->size, (void *)gm->map);
		abort();
	}
	return hva;
}

u8 *gm_ptr(const struct guest_memory *gm, gpa_t gpa, u64 len)
{
	const struct gm_slot *s = find_slot(gm, gpa);

	if (!s || len > s->size - (gpa - s->gpa))
		return NULL;
	return checked(gm, s->hva + (gpa - s->gpa), len);
}

int gm_iov(const struct guest_memory *gm, gpa_t gpa, u64 len, bool for_write, struct iovec *iov, int max)
{
	gpa_t end;
	int n = 0;

	if (__builtin_add_overflow(gpa, len, &end))
		return -1;
	while (len > 0) {
		const struct gm_slot *s = find_slot(gm, gpa);
		u64 part;

		if (!s || (for_write && s->readonly) || n == max)
			return -1;
		part = s->size - (gpa - s->gpa);
		if (part > len)
			part = len;
		iov[n++] = (struct iovec){.iov_base = checked(gm, s->hva + (gpa - s->gpa), part), .iov_len = part};
		gpa += part;
		len -= part;
	}
	return n;
}

bool gm_read(const struct guest_memory *gm, gpa_t gpa, void *buf, u64 len)
{
	struct iovec iov[GM_MAX_SLOTS];
	int n = gm_iov(gm, gpa, len, false, iov, GM_MAX_SLOTS);
	u8 *to = buf;

	for (int i = 0; i < n; i++) {
		memcpy(to, iov[i].iov_base, iov[i].iov_len);
		to += iov[i].iov_len;
	}
	return n >= 0;
}

bool gm_write(struct guest_memory *gm, gpa_t gpa, const void *buf, u64 len)
{
	struct iovec iov[GM_MAX_SLOTS];
	int n = gm_iov(gm, gpa, len, true, iov, GM_MAX_SLOTS);
	const u8 *from = buf;

	for (int i = 0; i < n; i++) {
		memcpy(iov[i].iov_base, from, iov[i].iov_len);
		from += iov[i].iov_len;
	}
	if (n < 0)
		return false;
	gm_written(gm, gpa, len);
	return true;
}

void gm_written(struct guest_memory *gm, gpa_t gpa, u64 len)
{
	if (gm->written && len > 0)
		gm->written(gm->written_opaque, gpa, len);
}

void gm_expect(const struct guest_memory *gm, gpa_t gpa, u64 len)
{
	const u8 *at = gm_ptr(gm, gpa, len);

	if (at)
		prefault_ask(gm->prefault, at, len, true);
}

/* A hole in the file: unlike madvise(MADV_DONTNEED), which drops one mapping of it, this frees the memory, for the mappings of all processes. RAM
 * outlives each pointer into it, and who touches the page meanwhile waits in the kernel. */
static int punch(struct guest_memory *gm, const struct iovec *iov, struct err *e)
{
	off_t at = (off_t)((u8 *)iov->iov_base - gm->map);

	if (fallocate(gm->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, (off_t)iov->iov_len) == 0)
		return 0;
	return err_sys(e, errno, "%zu bytes of guest memory cannot be given back to the host", iov->iov_len);
}

int gm_discard(struct guest_memory *gm, gpa_t gpa, u64 len, struct err *e)
{
	struct iovec iov[GM_MAX_SLOTS];
	gpa_t first, end;
	int n, r = 0;

	if (gm_iov(gm, gpa, len, true, iov, GM_MAX_SLOTS) < 0)
		return err_set(e, EINVAL, "%llu bytes at %#llx are not guest RAM", (unsigned long long)len, (unsigned long long)gpa);
	end = PAGE_BASE(gpa + len);
	first = len ? PAGE_BASE(gpa + PAGE_SIZE - 1) : end;
	if (first >= end)
		return 0;
	n = gm_iov(gm, first, end - first, true, iov, GM_MAX_SLOTS);
	for (int i = 0; i < n && r == 0; i++)
		r = punch(gm, &iov[i], e);
	gm_written(gm, first, end - first);
	return r;
}

u64 gm_resident(const struct guest_memory *gm)
{
	struct stat st;

	return fstat(gm->fd, &st) == 0 ? (u64)st.st_blocks * 512 : 0;
}

gpa_t gm_gpa_of(const struct guest_memory *gm, const void *hva)
{
	for (u32 i = 0; i < gm->nslots; i++) {
		u64 off = (u64)((uintptr_t)hva - (uintptr_t)gm->slots[i].hva);

		if (off < gm->slots[i].size)
			return gm->slots[i].gpa + off;
	}
	return ~0ull;
}
