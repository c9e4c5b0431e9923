/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzing the virtqueue walker: the input is set-up, then the rings as they lie in guest RAM, changed now and then while the device works.
 * Every iovec that comes out must lie inside RAM, and the pieces must add up.
 */
#include "virtio/queue.h"

#include "input.h"

#define RAM (1 * MiB)
#define MAX_SIZE 64
#define OPS_MAX 256

struct world {
	struct guest_memory gm;
	struct virtqueue q;
	struct vq_request *out[MAX_SIZE];
	u32 nout;
};

static void ignore_interrupt(void *opaque, struct virtqueue *q)
{
}

static void check_reason(void *opaque, struct virtqueue *q, const char *why)
{
	if (!why || !*why)
		abort();
}

/* Touches the first and last byte, for the sanitizer and the guard pages to object. */
static u32 check_pieces(const struct guest_memory *gm, const struct iovec *iov, u32 n, bool write)
{
	u32 sum = 0;

	for (u32 i = 0; i < n; i++) {
		volatile u8 *p = iov[i].iov_base;

		if (p < gm->map || iov[i].iov_len > gm->size || (u64)(p - gm->map) > gm->size - iov[i].iov_len)
			abort();
		sum += (u32)iov[i].iov_len;
		if (write && iov[i].iov_len)
			p[0] = p[iov[i].iov_len - 1] = 0x5a;
	}
	return sum;
}

static void check_request(const struct world *w, const struct vq_request *r)
{
	if (r->nread + r->nwrite > VQ_IOV_MAX || check_pieces(&w->gm, r->read, r->nread, false) != r->read_len ||
	    check_pieces(&w->gm, r->write, r->nwrite, true) != r->write_len)
		abort();
	for (u32 i = 0; i < w->nout; i++)
		if (w->out[i]->slot == r->slot)
			abort();
}

static void pop(struct world *w, bool give_back)
{
	struct vq_request *r = w->nout < MAX_SIZE ? vq_pop(&w->q) : NULL;

	if (!r)
		return;
	check_request(w, r);
	if (give_back)
		vq_unpop(r);
	else
		w->out[w->nout++] = r;
}

static void push(struct world *w, u32 which, u32 written, bool forget)
{
	struct vq_request *r;

	if (!w->nout)
		return;
	which %= w->nout;
	r = w->out[which];
	w->out[which] = w->out[--w->nout];
	if (forget)
		vq_forget(r);
	else
		vq_push(r, written < r->write_len ? written : r->write_len);
}

static void forget_all(struct world *w)
{
	while (w->nout)
		push(w, 0, 0, true);
}

static void reset(struct world *w)
{
	forget_all(w);
	vq_reset(&w->q);
}

/* As a snapshot would give them, with nothing in flight. */
static void load_indices(struct world *w, struct input *in)
{
	forget_all(w);
	w->q.last_avail = (u16)take(in, 2);
	w->q.used_idx = (u16)take(in, 2);
	(void)!vq_loaded(&w->q);
}

/* Rings at 16-bit addresses in units of 2 bytes, so that misaligned ones happen too; now and then anywhere. */
static gpa_t place(struct input *in, u8 how)
{
	return how & 0x80 ? take(in, 8) : take(in, 2) * 2;
}

static void enable(struct world *w, struct input *in)
{
	u8 how = (u8)take(in, 1);

	reset(w);
	w->q.desc_gpa = place(in, how);
	w->q.avail_gpa = place(in, how);
	w->q.used_gpa = place(in, how);
	w->q.size = (u16)(how & 8 ? take(in, 2) : 1u << (how & 7));
	(void)!vq_enable(&w->q, how & 0x10, how & 0x20);
}

static void poke(struct world *w, struct input *in)
{
	u64 at = take(in, 2) * 2;

	take_bytes(in, w->gm.map + at, (u32)take(in, 1));
}

static void operate(struct world *w, struct input *in)
{
	u8 op = (u8)take(in, 1), arg = op >> 4;

	switch (op & 15) {
	case 0:
		enable(w, in);
		break;
	case 1:
	case 2:
	case 3:
		poke(w, in);
		break;
	case 4:
	case 5:
		pop(w, false);
		break;
	case 6:
		pop(w, true);
		break;
	case 7:
	case 8:
		push(w, arg, (u32)take(in, 4), false);
		break;
	case 9:
		push(w, arg, 0, true);
		break;
	case 10:
		vq_flush(&w->q);
		break;
	case 11:
		vq_notify_off(&w->q);
		break;
	case 12:
		(void)vq_notify_on(&w->q);
		break;
	case 13:
		(void)vq_notify_beyond(&w->q, vq_ready(&w->q));
		break;
	case 14:
		load_indices(w, in);
		break;
	case 15:
		reset(w);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = input_of(data, size);
	struct world w = {0};
	struct vq_owner owner = {&w, ignore_interrupt, check_reason};
	struct err e = {0};

	if (gm_create(&w.gm, RAM, &e) < 0 || vq_init(&w.q, &w.gm, 0, MAX_SIZE, &owner, &e) < 0)
		abort();
	pthread_mutex_lock(&w.q.lock);
	for (u32 n = 0; n < OPS_MAX && input_left(&in); n++)
		operate(&w, &in);
	reset(&w);
	pthread_mutex_unlock(&w.q.lock);
	vq_destroy(&w.q);
	gm_destroy(&w.gm);
	return 0;
}
