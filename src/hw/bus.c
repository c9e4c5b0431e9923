/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bus: a sorted array of regions, looked up without a lock.
 *
 * Readers follow a sequence counter: they copy the entry they found, announce themselves in the entry's pin, and check that nothing changed
 * meanwhile. A remover changes the array first and then waits until nobody is announced, so either the reader sees the change or the
 * remover sees the reader. Pins belong to the bus, not to the region, so a late reader never touches freed memory. Waiting is per region:
 * two vCPUs that move two BARs from inside config-space handlers do not wait for each other.
 */
#include "hw/bus.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BUS_MAX_REGIONS 512u

struct entry {
	u64 base, len;
	const struct bus_ops *ops;
	void *opaque;
	struct bus_region *region;
	u32 pin;
};

/* One per mapped region, on its own cache line: two busy devices do not slow each other down. */
struct pin {
	_Alignas(64) atomic_uint in_flight;
	bool used;
};

struct bus {
	const char *name;
	u64 size;
	pthread_mutex_t lock; /* writers */
	void (*tell)(void *opaque, u64 addr, int fd, bool on);
	void *tell_opaque;
	atomic_uint seq; /* odd while the array changes */
	u32 n;
	struct entry entry[BUS_MAX_REGIONS];
	struct pin pin[BUS_MAX_REGIONS];
};

/* Handlers running on this thread, innermost first: what a removal from inside a handler must not wait for. Per thread, not per VM. */
struct frame {
	const struct pin *pin;
	const struct frame *outer;
};
static _Thread_local const struct frame *frames;

int bus_new(struct bus **out, const char *name, u64 size, struct err *e)
{
	struct bus *b = aligned_alloc(64, (sizeof(*b) + 63) & ~63ul);

	if (!b)
		return err_set(e, ENOMEM, "bus %s: out of memory; free memory on the host", name);
	memset(b, 0, sizeof(*b));
	b->name = name;
	b->size = size;
	pthread_mutex_init(&b->lock, NULL);
	*out = b;
	return 0;
}

void bus_free(struct bus *b)
{
	if (!b)
		return;
	for (u32 i = 0; i < b->n; i++)
		b->entry[i].region->mapped = false;
	pthread_mutex_destroy(&b->lock);
	free(b);
}

/* Entries are read while they may change; relaxed loads keep each word whole, the sequence counter rejects mixtures. */
#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define STORE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELAXED)

static void entry_copy(struct entry *to, const struct entry *from)
{
	STORE(to->base, LOAD(from->base));
	STORE(to->len, LOAD(from->len));
	STORE(to->ops, LOAD(from->ops));
	STORE(to->opaque, LOAD(from->opaque));
	STORE(to->region, LOAD(from->region));
	STORE(to->pin, LOAD(from->pin));
}

/* Index of the first entry that ends after addr; n when there is none. */
static u32 bus_find(const struct bus *b, u64 addr)
{
	u32 lo = 0, hi = LOAD(b->n);

	while (lo < hi) {
		u32 mid = (lo + hi) / 2;
		u64 base = LOAD(b->entry[mid].base);

		if (addr < base || addr - base < LOAD(b->entry[mid].len))
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

static void change_begin(struct bus *b)
{
	atomic_fetch_add(&b->seq, 1);
}

static void change_end(struct bus *b)
{
	atomic_fetch_add(&b->seq, 1);
}

static u32 pin_get(struct bus *b)
{
	for (u32 i = 0; i < BUS_MAX_REGIONS; i++) {
		if (!b->pin[i].used) {
			b->pin[i].used = true;
			return i;
		}
	}
	return BUS_MAX_REGIONS; /* not reached: as many pins as entries */
}

static void tell_bells(const struct bus *b, const struct bus_region *r, bool on)
{
	for (u32 i = 0; i < r->nbells && b->tell; i++)
		b->tell(b->tell_opaque, r->base + r->bells[i].off, r->bells[i].fd, on);
}

void bus_tell_bells(struct bus *b, void (*tell)(void *opaque, u64 addr, int fd, bool on), void *opaque)
{
	pthread_mutex_lock(&b->lock);
	b->tell = tell;
	b->tell_opaque = opaque;
	for (u32 i = 0; i < b->n; i++)
		tell_bells(b, b->entry[i].region, true);
	pthread_mutex_unlock(&b->lock);
}

static void insert(struct bus *b, u32 at, struct bus_region *r)
{
	struct entry new = {r->base, r->len, r->ops, r->opaque, r, pin_get(b)};

	change_begin(b);
	for (u32 i = b->n; i > at; i--)
		entry_copy(&b->entry[i], &b->entry[i - 1]);
	entry_copy(&b->entry[at], &new);
	STORE(b->n, b->n + 1);
	change_end(b);
	r->mapped = true;
	tell_bells(b, r, true);
}

static int region_check(const struct bus *b, const struct bus_region *r, struct err *e)
{
	u64 end;

	if (!r->len || __builtin_add_overflow(r->base, r->len - 1, &end) || end >= b->size)
		return err_set(e, EINVAL, "bus %s: region %s at 0x%llx, length 0x%llx does not fit; choose an address below 0x%llx",
			       b->name, r->name, (unsigned long long)r->base, (unsigned long long)r->len, (unsigned long long)b->size);
	if (r->ops->min_size > 1 && r->len % r->ops->min_size)
		return err_set(e, EINVAL, "bus %s: length 0x%llx of region %s is no multiple of its access size %u", b->name,
			       (unsigned long long)r->len, r->name, r->ops->min_size);
	return 0;
}

int bus_add(struct bus *b, struct bus_region *r, struct err *e)
{
	int ret = region_check(b, r, e);
	u32 at;

	if (ret)
		return ret;
	pthread_mutex_lock(&b->lock);
	at = bus_find(b, r->base);
	if (r->mapped)
		ret = err_set(e, EBUSY, "bus %s: region %s is already mapped", b->name, r->name);
	else if (at < b->n && b->entry[at].base <= r->base + (r->len - 1))
		ret = err_set(e, EBUSY, "bus %s: region %s at 0x%llx overlaps %s; choose another address", b->name, r->name,
			      (unsigned long long)r->base, b->entry[at].region->name);
	else if (b->n == BUS_MAX_REGIONS)
		ret = err_set(e, ENOSPC, "bus %s: no room for region %s; use fewer devices", b->name, r->name);
	else
		insert(b, at, r);
	pthread_mutex_unlock(&b->lock);
	return ret;
}

static u32 own_frames(const struct pin *p)
{
	u32 n = 0;

	for (const struct frame *f = frames; f; f = f->outer)
		n += f->pin == p;
	return n;
}

/* Handlers are short; the sleep is for one that waits for its back end. */
static void pin_drain(struct pin *p)
{
	u32 own = own_frames(p);

	for (u32 spins = 0; atomic_load(&p->in_flight) > own; spins++) {
		if (spins < 100)
			sched_yield();
		else
			nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
	}
}

void bus_remove(struct bus *b, struct bus_region *r)
{
	u32 at, pin;

	pthread_mutex_lock(&b->lock);
	if (!r->mapped) {
		pthread_mutex_unlock(&b->lock);
		return;
	}
	at = bus_find(b, r->base);
	pin = b->entry[at].pin;
	change_begin(b);
	for (u32 i = at; i + 1 < b->n; i++)
		entry_copy(&b->entry[i], &b->entry[i + 1]);
	STORE(b->n, b->n - 1);
	change_end(b);
	r->mapped = false;
	tell_bells(b, r, false);
	pthread_mutex_unlock(&b->lock);

	/* Without the lock: a running handler may itself add or remove regions. The pin stays taken until nobody holds it. */
	pin_drain(&b->pin[pin]);
	pthread_mutex_lock(&b->lock);
	b->pin[pin].used = false;
	pthread_mutex_unlock(&b->lock);
}

/* Copy the first entry that ends after addr into *out and pin it when addr lies inside. Returns its pin, NULL when addr is unclaimed:
 * out->base is then where the next region starts (~0: none). */
static struct pin *bus_enter(struct bus *b, u64 addr, struct entry *out)
{
	for (;;) {
		u32 seq = atomic_load(&b->seq);
		struct pin *pin = NULL;
		u32 at;

		if (seq & 1) {
			__builtin_ia32_pause();
			continue;
		}
		*out = (struct entry){.base = ~0ull};
		at = bus_find(b, addr);
		if (at < LOAD(b->n))
			entry_copy(out, &b->entry[at]);
		if (addr >= out->base && addr - out->base < out->len && out->pin < BUS_MAX_REGIONS) {
			pin = &b->pin[out->pin];
			atomic_fetch_add(&pin->in_flight, 1); /* pairs with change_end + pin_drain: full barriers on both sides */
		}
		if (atomic_load(&b->seq) == seq)
			return pin;
		if (pin)
			atomic_fetch_sub(&pin->in_flight, 1);
	}
}

static u64 size_mask(u32 size)
{
	return size >= 8 ? ~0ull : (1ull << (8 * size)) - 1;
}

/* The largest naturally aligned piece of at most `left` bytes that starts at off, and that the handler takes. */
static u32 piece_size(const struct entry *r, u64 off, u32 left)
{
	u32 max = r->ops->max_size ? r->ops->max_size : 4;
	u32 size = 8;

	while (size > 1 && (size > max || size > left || off % size || r->len - off < size))
		size /= 2;
	return size;
}

static u32 min_size(const struct entry *r)
{
	return r->ops->min_size ? r->ops->min_size : 1;
}

/* One piece. Narrower than the handler takes: the aligned unit around it is read, and the bytes wanted are cut out. */
static u64 piece_read(const struct entry *r, u64 off, u32 size)
{
	u32 min = min_size(r);
	u64 unit = off & ~(u64)(min - 1);

	if (!r->ops->read)
		return ~0ull;
	if (size >= min)
		return r->ops->read(r->opaque, off, size);
	return r->ops->read(r->opaque, unit, min) >> (8 * (off - unit));
}

/* The bus has no byte enables and reading has side effects, so the other lanes of a widened write are zero. */
static void piece_write(const struct entry *r, u64 off, u32 size, u64 value)
{
	u32 min = min_size(r);
	u64 unit = off & ~(u64)(min - 1);

	value &= size_mask(size);
	if (!r->ops->write)
		return;
	if (size >= min)
		r->ops->write(r->opaque, off, size, value);
	else
		r->ops->write(r->opaque, unit, min, value << (8 * (off - unit)));
}

/* Run one piece of an access at addr: *value is read from or written. Returns the bytes dealt with, at most `left`. */
static u32 bus_piece(struct bus *b, u64 addr, u32 left, bool write, u64 *value)
{
	struct entry r;
	struct pin *pin = bus_enter(b, addr, &r);
	struct frame frame = {pin, frames};
	u32 size;

	if (!pin) {
		*value = ~0ull;
		return r.base > addr && r.base - addr < left ? (u32)(r.base - addr) : left;
	}
	frames = &frame;
	size = piece_size(&r, addr - r.base, left);
	if (write)
		piece_write(&r, addr - r.base, size, *value);
	else
		*value = piece_read(&r, addr - r.base, size);
	frames = frame.outer;
	atomic_fetch_sub(&pin->in_flight, 1);
	return size;
}

u64 bus_read(struct bus *b, u64 addr, u32 size)
{
	u64 value = 0;

	for (u32 done = 0; done < size;) {
		u64 part = 0;
		u32 n = bus_piece(b, addr + done, size - done, false, &part);

		value |= (part & size_mask(n)) << (8 * done);
		done += n;
	}
	return value;
}

void bus_write(struct bus *b, u64 addr, u32 size, u64 value)
{
	for (u32 done = 0; done < size;) {
		u64 part = value >> (8 * done);

		done += bus_piece(b, addr + done, size - done, true, &part);
	}
}
