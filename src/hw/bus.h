/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One bus type, instantiated for ports and for memory-mapped I/O. It finds the region, bounds the access and splits or widens it, so that
 * a device's handler sees only sizes it declared, naturally aligned, inside its region. Unclaimed reads give all ones.
 *
 * Threading: accesses from any vCPU thread; add, move and remove from any thread (a BAR write). A handler may be called from several
 * threads at once: each device has its own lock. A region is not called any more once bus_remove has returned, except from its own handler.
 */
#pragma once

#include "base/err.h"

struct bus_ops {
	u64 (*read)(void *opaque, u64 off, u32 size);
	void (*write)(void *opaque, u64 off, u32 size, u64 value);
	u32 min_size, max_size; /* 1, 2, 4 or 8; 0 means 1 and 4 */
};

/* A place where a write, whatever its size and value, only says that there is work: an eventfd that says the same. */
struct bus_bell {
	u64 off;
	int fd;
};

struct bus_region {
	u64 base, len;
	const struct bus_ops *ops;
	void *opaque;
	const char *name;
	const struct bus_bell *bells;
	u32 nbells;
	bool mapped;
};

struct bus;
int bus_new(struct bus **out, const char *name, u64 size /* 0x10000 or the physical address space */, struct err *e) must_check;
void bus_free(struct bus *b);

/* The region stays the caller's and must outlive its mapping. -EBUSY when it overlaps another. */
int bus_add(struct bus *b, struct bus_region *r, struct err *e) must_check;
void bus_remove(struct bus *b, struct bus_region *r); /* no-op when not mapped */

/* Whoever sees the guest's writes first, and rings the bells without asking the bus: told of each that is mapped, now and from now on, and of its end. Under
 * the bus's lock. NULL: nobody. */
void bus_tell_bells(struct bus *b, void (*tell)(void *opaque, u64 addr, int fd, bool on), void *opaque);

u64 bus_read(struct bus *b, u64 addr, u32 size);
void bus_write(struct bus *b, u64 addr, u32 size, u64 value);
