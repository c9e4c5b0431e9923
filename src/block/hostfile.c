/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening and locking image files. Open file description locks are used because they belong to this opening alone: neither a second VM in
 * the same process nor a library that opens and closes the same file can take them away.
 */
#include "block/hostfile.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_failed(const char *path, bool readonly, int errnum, struct err *e)
{
	switch (errnum) {
	case ENOENT:
		return err_set(e, errnum, "disk '%s': no such file; create one with 'truncate -s 10G %s'", path, path);
	case EISDIR:
		return err_set(e, errnum, "disk '%s': is a directory; name an image file or a block device", path);
	case EACCES:
	case EPERM:
	case EROFS:
		if (!readonly)
			return err_sys(e, errnum, "disk '%s': cannot open for writing (change its permissions, or add ',readonly')", path);
		break;
	}
	return err_sys(e, errnum, "disk '%s': cannot open", path);
}

static int lock_file(int fd, const char *path, bool readonly, struct err *e)
{
	struct flock lock = {.l_type = readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};

	if (!fcntl(fd, F_OFD_SETLK, &lock))
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return err_set(e, EBUSY,
			       "disk '%s': in use by another VM or program, which holds a lock on it; stop that one, "
			       "or give the disk to all of them with ',readonly'",
			       path);
	/* Some network file systems have no locks. Refusing them would be worse than trusting their user. */
	log_msg(LOG_WARN, "disk '%s': the file system has no locks; make sure that nobody else uses the image", path);
	return 0;
}

static int device_size(struct hostfile *f, const char *path, struct err *e)
{
	unsigned int block = 0;

	if (ioctl(f->fd, BLKGETSIZE64, &f->size) < 0)
		return err_sys(e, errno, "disk '%s': cannot tell the size of the block device", path);
	if (!ioctl(f->fd, BLKPBSZGET, &block) && block >= 512 && block <= 65536 && !(block & (block - 1)))
		f->physical_block = block;
	f->is_device = true;
	return 0;
}

static int measure(struct hostfile *f, const char *path, struct err *e)
{
	struct stat st;

	f->physical_block = 4096;
	if (fstat(f->fd, &st) < 0)
		return err_sys(e, errno, "disk '%s': cannot examine", path);
	if (S_ISBLK(st.st_mode))
		return device_size(f, path, e);
	if (S_ISDIR(st.st_mode))
		return open_failed(path, true, EISDIR, e);
	if (!S_ISREG(st.st_mode))
		return err_set(e, EINVAL, "disk '%s': is neither a file nor a block device; name one of these", path);
	f->size = (u64)st.st_size;
	return 0;
}

static int check_size(const struct hostfile *f, const char *path, struct err *e)
{
	if (!f->size)
		return err_set(e, EINVAL, "disk '%s': is empty; give it a size with 'truncate -s 10G %s'", path, path);
	if (f->size % 512)
		return err_set(
			e, EINVAL,
			"disk '%s': its size, %llu bytes, is not a multiple of 512; a raw image is: extend it with 'truncate -s %%512 %s'",
			path, (unsigned long long)f->size, path);
	return 0;
}

int hostfile_open(struct hostfile *f, const char *path, bool readonly, struct err *e)
{
	int r;

	f->direct_fd = -1;
	/* O_NONBLOCK: opening a FIFO by mistake must not hang; it means nothing for files and disks. */
	f->fd = open(path, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (f->fd < 0)
		return open_failed(path, readonly, errno, e);
	r = measure(f, path, e);
	if (!r)
		r = check_size(f, path, e);
	if (!r)
		r = lock_file(f->fd, path, readonly, e);
	if (r)
		hostfile_close(f);
	return r;
}

/* The smallest read that the file takes tells. 0: none. */
static u32 find_direct_align(int fd)
{
	static const u32 aligns[] = {512, 4096};
	_Alignas(4096) u8 buf[4096];

	for (u32 i = 0; i < ARRAY_SIZE(aligns); i++)
		if (pread(fd, buf, aligns[i], 0) > 0)
			return aligns[i];
	return 0;
}

int hostfile_open_direct(struct hostfile *f, const char *path, bool readonly, struct err *e)
{
	char self[32];

	/* By descriptor: `path` may be another file by now. */
	snprintf(self, sizeof(self), "/proc/self/fd/%d", f->fd);
	f->direct_fd = open(self, (readonly ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC | O_NOCTTY);
	if (f->direct_fd < 0 && errno != EINVAL)
		return err_sys(e, errno, "disk '%s': cannot open for direct I/O", path);
	f->direct_align = f->direct_fd < 0 ? 0 : find_direct_align(f->direct_fd);
	if (!f->direct_align)
		return err_set(e, ENOTSUP,
			       "disk '%s': cache=none needs direct I/O, which its file system does not have; use cache=writeback", path);
	/* Sectors would have to be written through the page cache, next to direct writes: the kernel calls such a collision an I/O error. */
	if (f->direct_align > 512 && !readonly)
		return err_set(e, ENOTSUP,
			       "disk '%s': cache=none needs direct I/O of 512 bytes, and the file system's unit is %u; use cache=writeback",
			       path, f->direct_align);
	return 0;
}

void hostfile_close(struct hostfile *f)
{
	if (f->direct_fd >= 0)
		close(f->direct_fd);
	f->direct_fd = -1;
	close(f->fd);
	f->fd = -1;
}
