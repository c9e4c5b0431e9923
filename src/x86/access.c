/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads, stores, exchanges and instruction fetches by linear address, over the walk of mmu.c. RAM through host pointers, the rest through
 * the bus in naturally aligned pieces.
 * Threading: the vCPU's thread; RAM is shared with other vCPUs and devices, so values of natural size move in one host access.
 */
#include "x86/internal.h"

/* The part of an access that lies in one page. */
struct piece {
	u8 *host; /* NULL: not RAM */
	gpa_t gpa;
	u32 len;
};

#define MAX_PIECES 3
#define MAX_AT_ONCE 8192u

static void note_breakpoint(struct x86_cpu *c, gva_t gva, u32 len, u32 acc)
{
	if (unlikely(x86_watched(c)) && !(acc & ACC_IMPLICIT))
		x86_data_breakpoint(c, gva, len, acc & ACC_WRITE);
}

static inline u8 *cached(struct x86_cpu *c, gva_t gva, u32 acc)
{
	return c->env->cached ? c->env->cached(c->env->opaque, gva, acc) : NULL;
}

static bool locate(struct x86_cpu *c, gva_t gva, u32 len, u32 acc, struct piece *p)
{
	struct x86_env *env = c->env;
	struct x86_xlat x;
	u8 *page;

	if (!x86_translate(c, gva, acc, &x))
		return false;
	page = env->ram(env->opaque, PAGE_BASE(x.gpa), acc & ACC_WRITE);
	p->gpa = x.gpa;
	p->len = len;
	p->host = page ? page + PAGE_OFFSET(x.gpa) : NULL;
	return true;
}

/* The pieces of [gva, gva+len), lowest first, so that the first fault is the one the CPU reports. len <= MAX_AT_ONCE. */
static bool locate_all(struct x86_cpu *c, gva_t gva, u32 len, u32 acc, struct piece *p, u32 *n)
{
	for (*n = 0; len; ++*n) {
		u32 room = (u32)PAGE_SIZE - PAGE_OFFSET(gva);
		u32 part = len < room ? len : room;

		if (!locate(c, gva, part, acc, &p[*n]))
			return false;
		gva += part;
		len -= part;
	}
	return true;
}

/* The largest naturally aligned size that starts at gpa and fits in len. */
static u32 bus_step(gpa_t gpa, u32 len)
{
	u32 step = 8;

	while (step > len || gpa & (step - 1))
		step >>= 1;
	return step;
}

static void piece_read(struct x86_cpu *c, const struct piece *p, u8 *buf)
{
	if (p->host) {
		x86_touch(c, p->host, p->len, false);
		x86_copy(buf, p->host, p->len);
		return;
	}
	for (u32 i = 0, step; i < p->len; i += step) {
		step = bus_step(p->gpa + i, p->len - i);
		x86_store_host(buf + i, step, c->env->mmio_read(c->env->opaque, p->gpa + i, step));
	}
}

static void piece_write(struct x86_cpu *c, const struct piece *p, const u8 *buf)
{
	if (p->host) {
		if (c->env->ram_will_write)
			c->env->ram_will_write(c->env->opaque, p->gpa, p->len);
		x86_touch(c, p->host, p->len, true);
		x86_copy(p->host, buf, p->len);
		return;
	}
	for (u32 i = 0, step; i < p->len; i += step) {
		step = bus_step(p->gpa + i, p->len - i);
		c->env->mmio_write(c->env->opaque, p->gpa + i, step, x86_load_host(buf + i, step));
	}
}

static bool read_some(struct x86_cpu *c, gva_t gva, u8 *buf, u32 len, u32 acc)
{
	struct piece p[MAX_PIECES];
	u32 n;

	if (!locate_all(c, gva, len, acc, p, &n))
		return false;
	for (u32 i = 0; i < n; buf += p[i++].len)
		piece_read(c, &p[i], buf);
	return true;
}

static bool write_some(struct x86_cpu *c, gva_t gva, const u8 *buf, u32 len, u32 acc)
{
	struct piece p[MAX_PIECES];
	u32 n;

	if (!locate_all(c, gva, len, acc, p, &n))
		return false;
	for (u32 i = 0; i < n; buf += p[i++].len)
		piece_write(c, &p[i], buf);
	return true;
}

static inline bool in_one_page(gva_t gva, u32 len)
{
	return PAGE_OFFSET(gva) + (u64)len <= PAGE_SIZE;
}

bool x86_read(struct x86_cpu *c, gva_t gva, void *buf, u32 len, u32 acc)
{
	u8 *p, *out = buf;

	note_breakpoint(c, gva, len, acc);
	if (in_one_page(gva, len) && (p = cached(c, gva, acc))) {
		x86_touch(c, p, len, false);
		x86_copy(out, p, len);
		return true;
	}
	for (; len > MAX_AT_ONCE; gva += MAX_AT_ONCE, out += MAX_AT_ONCE, len -= MAX_AT_ONCE)
		if (!read_some(c, gva, out, MAX_AT_ONCE, acc))
			return false;
	return read_some(c, gva, out, len, acc);
}

bool x86_write(struct x86_cpu *c, gva_t gva, const void *buf, u32 len, u32 acc)
{
	const u8 *in = buf;
	u8 *p;

	acc |= ACC_WRITE;
	note_breakpoint(c, gva, len, acc);
	if (in_one_page(gva, len) && (p = cached(c, gva, acc))) {
		x86_touch(c, p, len, true);
		x86_copy(p, in, len);
		return true;
	}
	for (; len > MAX_AT_ONCE; gva += MAX_AT_ONCE, in += MAX_AT_ONCE, len -= MAX_AT_ONCE)
		if (!write_some(c, gva, in, MAX_AT_ONCE, acc))
			return false;
	return write_some(c, gva, in, len, acc);
}

static u64 value_from_bus(struct x86_cpu *c, const struct piece *p)
{
	u64 v = 0;

	piece_read(c, p, (u8 *)&v);
	return v;
}

bool x86_read_val(struct x86_cpu *c, gva_t gva, u32 size, u64 *val, u32 acc)
{
	struct piece p;
	u8 *host;

	if (unlikely(!in_one_page(gva, size))) {
		*val = 0;
		return x86_read(c, gva, val, size, acc);
	}
	note_breakpoint(c, gva, size, acc);
	host = cached(c, gva, acc);
	if (!host) {
		if (!locate(c, gva, size, acc, &p))
			return false;
		host = p.host;
	}
	if (likely(host != NULL))
		x86_touch(c, host, size, false);
	*val = likely(host != NULL) ? x86_load_host(host, size) : value_from_bus(c, &p);
	return true;
}

bool x86_write_val(struct x86_cpu *c, gva_t gva, u32 size, u64 val, u32 acc)
{
	struct piece p;
	u8 *host;

	acc |= ACC_WRITE;
	if (unlikely(!in_one_page(gva, size)))
		return x86_write(c, gva, &val, size, acc);
	note_breakpoint(c, gva, size, acc);
	host = cached(c, gva, acc);
	if (host) {
		x86_touch(c, host, size, true);
		x86_store_host(host, size, val);
		return true;
	}
	if (!locate(c, gva, size, acc, &p))
		return false;
	if (unlikely(!p.host)) {
		piece_write(c, &p, (const u8 *)&val);
		return true;
	}
	if (c->env->ram_will_write)
		c->env->ram_will_write(c->env->opaque, p.gpa, size);
	x86_touch(c, p.host, size, true);
	x86_store_host(p.host, size, val);
	return true;
}

/* By instruction rather than by __atomic: operands may be unaligned, which the CPU allows and the C language does not. */
static u64 host_cmpxchg(u8 *p, u32 size, u64 expect, u64 val)
{
	switch (size) {
	case 1:
		__asm__ volatile("lock cmpxchgb %b2, %1" : "+a"(expect), "+m"(*p) : "q"(val) : "memory", "cc");
		break;
	case 2:
		__asm__ volatile("lock cmpxchgw %w2, %1" : "+a"(expect), "+m"(*(u16_any *)p) : "r"(val) : "memory", "cc");
		break;
	case 4:
		__asm__ volatile("lock cmpxchgl %k2, %1" : "+a"(expect), "+m"(*(u32_any *)p) : "r"(val) : "memory", "cc");
		break;
	default:
		__asm__ volatile("lock cmpxchgq %2, %1" : "+a"(expect), "+m"(*(u64_any *)p) : "r"(val) : "memory", "cc");
		break;
	}
	return expect & x86_size_mask(size);
}

static bool all_ram(const struct piece *p, u32 n)
{
	for (u32 i = 0; i < n; i++)
		if (!p[i].host)
			return false;
	return true;
}

static void exclusive(struct x86_cpu *c, bool on)
{
	if (c->env->exclusive)
		c->env->exclusive(c->env->opaque, on);
}

static bool cmpxchg_in_pieces(struct x86_cpu *c, struct piece *p, u32 n, u32 size, u64 expect, u64 newval, u64 *old)
{
	u8 *bytes = (u8 *)old;

	*old = 0;
	for (u32 i = 0; i < n; bytes += p[i++].len)
		piece_read(c, &p[i], bytes);
	/* The CPU writes back even when the comparison fails; on a device that is visible, on RAM it is not. */
	u64 out = *old == (expect & x86_size_mask(size)) ? newval : *old;
	bytes = (u8 *)&out;
	for (u32 i = 0; i < n; bytes += p[i++].len)
		piece_write(c, &p[i], bytes);
	return true;
}

bool x86_cmpxchg(struct x86_cpu *c, gva_t gva, u32 size, u64 expect, u64 newval, u64 *old, bool *done, u32 acc)
{
	struct piece p[MAX_PIECES];
	u32 n;

	acc |= ACC_WRITE;
	note_breakpoint(c, gva, size, acc);
	if (!locate_all(c, gva, size, acc, p, &n))
		return false;
	if (n == 1 && p[0].host) {
		if (c->env->ram_will_write)
			c->env->ram_will_write(c->env->opaque, p[0].gpa, size);
		x86_touch(c, p[0].host, size, true);
		*old = host_cmpxchg(p[0].host, size, expect, newval);
	} else {
		bool ram = all_ram(p, n); /* a device's callback would wait for vCPUs that are stopped */

		if (ram)
			exclusive(c, true);
		cmpxchg_in_pieces(c, p, n, size, expect, newval, old);
		if (ram)
			exclusive(c, false);
	}
	*done = *old == (expect & x86_size_mask(size));
	return true;
}

static bool host_cmpxchg16(u8 *p, const u64 expect[2], const u64 newval[2], u64 old[2])
{
	bool done;

	old[0] = expect[0];
	old[1] = expect[1];
	__asm__ volatile("lock cmpxchg16b (%[p])"
			 : "+a"(old[0]), "+d"(old[1]), "=@ccz"(done)
			 : "b"(newval[0]), "c"(newval[1]), [p] "r"(p)
			 : "memory");
	return done;
}

bool x86_cmpxchg16(struct x86_cpu *c, gva_t gva, const u64 expect[2], const u64 newval[2], u64 old[2], bool *done, u32 acc)
{
	struct piece p;

	if (gva & 15)
		return x86_raise_err(c, VEC_GP, 0);
	acc |= ACC_WRITE;
	note_breakpoint(c, gva, 16, acc);
	if (!locate(c, gva, 16, acc, &p))
		return false;
	if (p.host) {
		if (c->env->ram_will_write)
			c->env->ram_will_write(c->env->opaque, p.gpa, 16);
		x86_touch(c, p.host, 16, true);
		*done = host_cmpxchg16(p.host, expect, newval, old);
		return true;
	}
	piece_read(c, &p, (u8 *)old);
	*done = old[0] == expect[0] && old[1] == expect[1];
	piece_write(c, &p, (const u8 *)(*done ? newval : old));
	return true;
}

bool x86_fetch(struct x86_cpu *c, gva_t gva, u8 *buf, u32 want, u32 *got)
{
	u32 acc = x86_acc(c, ACC_FETCH);
	struct piece p;

	for (*got = 0; *got < want; *got += p.len) {
		u32 room = (u32)PAGE_SIZE - PAGE_OFFSET(gva + *got);
		u32 part = want - *got < room ? want - *got : room;

		if (!locate(c, gva + *got, part, acc, &p)) {
			if (*got == 0)
				return false;
			c->fault.pending = false; /* the bytes may not be needed; whoever needs them asks again and gets the fault */
			return true;
		}
		piece_read(c, &p, buf + *got);
	}
	return true;
}
