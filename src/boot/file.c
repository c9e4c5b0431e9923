/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading kernels and initrds. pread into private buffers or straight into guest RAM; never mmap, because a file cut short under a mapping
 * is a SIGBUS.
 *
 * Threading: main thread.
 */
#include "boot/loader.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static int check_kind(struct boot_file *f, const char *role, struct err *e)
{
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		return err_sys(e, errno, "cannot look at the %s %s", role, f->path);
	if (S_ISDIR(st.st_mode))
		return err_set(e, EISDIR, "the %s %s is a directory; name a file", role, f->path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, EINVAL, "the %s %s is not a regular file; copy its content into one", role, f->path);
	if (st.st_size == 0)
		return err_set(e, EINVAL, "the %s %s is empty; build or copy it again", role, f->path);
	f->size = (u64)st.st_size;
	return 0;
}

static int open_failed(const char *path, const char *role, struct err *e)
{
	if (errno == EMFILE || errno == ENFILE)
		return err_sys(e, errno, "cannot open the %s %s", role, path);
	return err_set(e, errno, "cannot open the %s %s: %m; name a file that this user can read", role, path);
}

int file_open(struct boot_file *f, const char *path, const char *role, struct err *e)
{
	int r;

	/* O_NONBLOCK: opening a FIFO must not hang. */
	*f = (struct boot_file){.path = path, .fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
	if (f->fd < 0)
		return open_failed(path, role, e);
	r = check_kind(f, role, e);
	if (r < 0)
		file_close(f);
	return r;
}

void file_close(struct boot_file *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
}

int file_read(const struct boot_file *f, u64 off, void *buf, u64 len, const char *what, struct err *e)
{
	u8 *to = buf;
	u64 end;

	if (__builtin_add_overflow(off, len, &end) || end > f->size)
		return err_set(e, EINVAL,
			       "%s is cut short or damaged: the %s (offset %llu, %llu bytes) lies outside the file's %llu bytes; "
			       "build or copy it again",
			       f->path, what, (unsigned long long)off, (unsigned long long)len, (unsigned long long)f->size);
	while (len > 0) {
		ssize_t n = pread(f->fd, to, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(e, errno, "cannot read %s", f->path);
		if (n == 0)
			return err_set(e, EIO, "%s became shorter while it was read; try again when it is written", f->path);
		to += n;
		off += (u64)n;
		len -= (u64)n;
	}
	return 0;
}

int file_to_ram(const struct boot_file *f, u64 off, u64 len, struct guest_memory *gm, gpa_t gpa, const char *what, struct err *e)
{
	u8 *to = gm_ptr(gm, gpa, len);
	int r;

	if (!to)
		return err_set(e, EINVAL, "%s: the %s does not fit into guest memory at %#llx; give the guest more with --memory", f->path,
			       what, (unsigned long long)gpa);
	r = file_read(f, off, to, len, what, e);
	gm_written(gm, gpa, len);
	return r;
}
