/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Doorbells as eventfds. An engine with hardware behind it can take the guest's write without leaving the guest, where all that is to be done is work for
 * the event loop; so that is woken by the engine instead of the vCPU. A ring too many is harmless.
 *
 * Threading: main thread.
 */
#include "base/evloop.h"
#include "virtio/device.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void on_ring(void *opaque, u32 events)
{
	const struct virtio_bell *bell = opaque;
	eventfd_t rings;

	if (eventfd_read(bell->fd, &rings) == 0)
		virtio_doorbell(bell->vd, bell->queue);
}

static int hang(struct virtio_device *vd, u16 queue, u64 off, struct err *e)
{
	struct virtio_pci *p = &vd->pci;
	struct virtio_bell *bell = &p->bell[p->nbells];
	int r;

	*bell = (struct virtio_bell){vd, queue, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	if (bell->fd < 0)
		return err_sys(e, errno, "%s: eventfd of queue %u", vd->ops->name, queue);
	r = evloop_add_fd(vd->dev.env->loop, bell->fd, EPOLLIN, on_ring, bell, e);
	if (r < 0) {
		close(bell->fd);
		return r;
	}
	p->place[p->nbells++] = (struct bus_bell){off, bell->fd};
	return 0;
}

int virtio_bells_hang(struct virtio_device *vd, u32 off, u32 step, struct err *e)
{
	int r = 0;

	for (u32 i = 0; i < vd->nqueues && r == 0; i++)
		if (vd->ops->posts >> i & 1)
			r = hang(vd, (u16)i, off + i * step, e);
	return r;
}

void virtio_bells_take_down(struct virtio_device *vd)
{
	struct virtio_pci *p = &vd->pci;

	while (p->nbells) {
		int fd = p->bell[--p->nbells].fd;

		evloop_del_fd(vd->dev.env->loop, fd);
		close(fd);
	}
}
