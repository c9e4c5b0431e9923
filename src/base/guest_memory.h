/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest physical RAM, and the only way for a device or a loader to reach it: (gpa, length) accessors that check for wrap-around and for
 * ranges that leave RAM. RAM is one memfd, mapped once; below the MMIO hole it starts at gpa 0, the rest starts at 4 GiB.
 *
 * Whoever writes guest RAM from outside the vCPU goes through gm_write, or asks gm_iov for a writable range and calls gm_written
 * when the data is there: observers (the translator's code tracking, later the dirty log) depend on it.
 *
 * Threading: all functions from any thread. Observers are called on the writer's thread.
 */
#pragma once

#include "base/err.h"
#include "base/prefault.h"

#include <sys/uio.h>

#define GM_MAX_SLOTS 8

struct gm_slot {
	gpa_t gpa;
	u64 size; /* bytes, multiple of a page */
	u8 *hva;
	u64 fd_offset;
	bool readonly; /* the guest may not write (ROM) */
};

struct guest_memory {
	int fd;
	u8 *map; /* whole memfd */
	u64 size;
	u32 nslots;
	struct gm_slot slots[GM_MAX_SLOTS];
	void (*written)(void *opaque, gpa_t gpa, u64 len); /* the one observer, NULL when none */
	void *written_opaque;
	struct prefault *prefault; /* of RAM, and of what an engine keeps beside it; NULL: nobody asks the host ahead */
};

/* Set by meson's bounds_checks: what an engine or a device does to guest memory is compared with where that lies (engine/bt/bounds.c). */
#ifdef GUISE_BOUNDS_CHECKS
#define GM_BOUNDS_CHECKS true
#else
#define GM_BOUNDS_CHECKS false
#endif

#define GM_HOLE_START 0xc0000000ull /* RAM above this gpa moves to 4 GiB; ECAM, BARs, IOAPIC and LAPIC live in between */
#define GM_HOLE_END 0x100000000ull
#define GM_MAX_SIZE (16ull * 1024 * GiB)

/* `size` bytes of RAM, from 1 MiB to GM_MAX_SIZE, a multiple of 4 KiB. `merge` is reserved. Errors: EINVAL, ENOMEM with what to do. */
int gm_create(struct guest_memory *gm, u64 size, struct err *e) must_check;
void gm_destroy(struct guest_memory *gm);

/* Copy. False when any byte lies outside RAM (nothing is copied then). gm_write refuses ROM. */
bool gm_read(const struct guest_memory *gm, gpa_t gpa, void *buf, u64 len) must_check;
bool gm_write(struct guest_memory *gm, gpa_t gpa, const void *buf, u64 len) must_check;

/* The host address of [gpa, gpa+len) when it lies in one slot, else NULL. For loaders and rings whose range was checked once. */
u8 *gm_ptr(const struct guest_memory *gm, gpa_t gpa, u64 len) must_check;

/* As iovecs (at most `max`). Returns the number, or -1 when the range leaves RAM, wraps, or (for_write) touches ROM. */
int gm_iov(const struct guest_memory *gm, gpa_t gpa, u64 len, bool for_write, struct iovec *iov, int max) must_check;

/* [gpa, gpa+len) will be written to soon. What lies outside RAM is not meant. */
void gm_expect(const struct guest_memory *gm, gpa_t gpa, u64 len);

/* Data was put into RAM through a pointer or an iovec. */
void gm_written(struct guest_memory *gm, gpa_t gpa, u64 len);

/* The host may have the memory of all whole pages in [gpa, gpa+len) back: they read as zeroes and take memory again when they are touched. The rest
 * of the range stays as it is. -EINVAL when the range leaves RAM or touches ROM, or the host's own error; then it may be done in part. */
int gm_discard(struct guest_memory *gm, gpa_t gpa, u64 len, struct err *e) must_check;

/* How many bytes of RAM the host has given memory for. */
u64 gm_resident(const struct guest_memory *gm);

/* Do the `len` bytes at the host address lie in guest RAM? */
static inline bool gm_holds(const struct guest_memory *gm, const void *hva, u64 len)
{
	u64 off = (u64)hva - (u64)gm->map;

	return off <= gm->size && len <= gm->size - off;
}

/* The gpa of a host address inside RAM; ~0 when outside. */
gpa_t gm_gpa_of(const struct guest_memory *gm, const void *hva);
