/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MOVS and STOS, forward, page run by page run: the host's own string instructions between the places where rights or mappings may change.
 *
 * Light code. Threading: the vCPU's thread.
 */
#include "engine/bt/events.h"

static u8 *reach(struct bt_vcpu *v, gva_t gva, bool write, int *why)
{
	const u64 *entry = &(v->mode & MODE_USER ? v->view[VIEW_USER][write] : v->super[write])[bt_entry_index(v->vm, gva)];
	*why = x86_canonical(gva) ? 1 : -1;
	if (*why > 0 && !bt_entry_address(gva, bt_entry_get(entry)))
		*why = bt_fill(v, gva, write);
	if (*why > 0 && !bt_entry_address(gva, bt_entry_get(entry)))
		*why = -1; /* entered for another view: never take an absent delta for an address */
	return *why > 0 ? bt_entry_address(gva, bt_entry_get(entry)) : NULL;
}

static u64 elements_in_page(gva_t gva, u32 size)
{
	return (PAGE_SIZE - PAGE_OFFSET(gva)) / size;
}

static void copy_run(u8 *to, const u8 *from, u64 n, u32 size)
{
	switch (size) {
	case 1:
		__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		break;
	case 2:
		__asm__ volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		break;
	case 4:
		__asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		break;
	default:
		__asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		break;
	}
}

static void fill_run(u8 *to, u64 value, u64 n, u32 size)
{
	switch (size) {
	case 1:
		__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
		break;
	case 2:
		__asm__ volatile("rep stosw" : "+D"(to), "+c"(n) : "a"(value) : "memory");
		break;
	case 4:
		__asm__ volatile("rep stosl" : "+D"(to), "+c"(n) : "a"(value) : "memory");
		break;
	default:
		__asm__ volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(value) : "memory");
		break;
	}
}

/* One page run. 1: done; 0: fault pending; -1: the interpreter must do the next element. */
static int string_run(struct bt_vcpu *v, u64 left, u32 size, bool movs, u64 *done)
{
	struct x86_cpu *c = &v->cpu;
	gva_t to = c->gpr[R_RDI], from = c->gpr[R_RSI];
	int why;
	u64 n = elements_in_page(to, size);
	if (movs && elements_in_page(from, size) < n)
		n = elements_in_page(from, size);
	if (n == 0)
		return -1;
	if (n > left)
		n = left;
	u8 *src = movs ? reach(v, from, false, &why) : NULL;
	if (movs && !src)
		return why;
	u8 *dst = reach(v, to, true, &why);
	if (!dst)
		return why;
	if (movs)
		bt_check_ram(v, src, n * size, false);
	bt_check_ram(v, dst, n * size, true);
	if (movs)
		copy_run(dst, src, n, size);
	else
		fill_run(dst, c->gpr[R_RAX], n, size);
	c->gpr[R_RDI] += n * size;
	if (movs)
		c->gpr[R_RSI] += n * size;
	*done = n;
	return 1;
}

void *bt_light_string(struct bt_vcpu *v, const struct bt_place *p, u32 arg)
{
	struct x86_cpu *c = &v->cpu;
	u32 size = arg & 15;
	bool rep = arg & 16, movs = arg & 32;
	gva_t next = bt_next_rip(p);
	for (;;) {
		u64 left = rep ? c->gpr[R_RCX] : 1, done = 0;
		if (left == 0)
			break;
		int r = string_run(v, left, size, movs, &done);
		if (r == 0)
			return bt_deliver(v);
		if (r < 0) {
			c->fault.pending = false;
			if (!bt_interpret(v))
				return bt_dispatch(v);
			if (c->rip == next)
				return bt_resume(v, p);
			if (bt_must_leave(v))
				return bt_dispatch(v);
			continue; /* REP: more to do; code may have been written */
		}
		if (rep)
			c->gpr[R_RCX] -= done;
		if (!rep)
			break;
		if (bt_must_leave(v) && c->gpr[R_RCX])
			return bt_dispatch(v); /* interrupted between iterations, rip at the instruction */
	}
	c->rip = next;
	return bt_resume(v, p);
}
