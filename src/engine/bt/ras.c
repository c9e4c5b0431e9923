/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The return stack: while translated code runs, the host's stack pointer walks a small stack of its own. A translated call pushes the host address
 * behind itself there and a translated return pops it, so that the host's own predictor knows where returns go. What is popped is a guess: the code
 * there compares the address that the guest's return wants with its own and goes to the jump cache when they differ.
 *
 * Supervisor and user code have one each; entering the supervisor from user code starts with an empty one. Nothing but host code addresses is ever
 * kept there, and a flush of the code cache empties both. Deeper nesting than it holds runs into a guard page, and it starts over (signal.c).
 *
 * Threading: the vCPU's thread.
 */
#include "engine/bt/bt.h"

#include <errno.h>
#include <sys/mman.h>

#define GUARD PAGE_SIZE
#define WHOLE (2 * (GUARD + BT_RAS_SIZE))

bool bt_ras_init(struct bt_vcpu *v, struct err *e)
{
	u8 *p = mmap(NULL, WHOLE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED) {
		err_sys(e, errno, "return stack: cannot reserve %u KiB", (unsigned)(WHOLE >> 10));
		return false;
	}
	v->ras_memory = p;
	for (u32 user = 0; user < 2; user++) {
		p += GUARD;
		if (mprotect(p, BT_RAS_SIZE, PROT_READ | PROT_WRITE) < 0) {
			err_sys(e, errno, "return stack: cannot make it writable");
			return false;
		}
		p += BT_RAS_SIZE;
		u64 *top = (u64 *)p - 8;
		*top = (u64)(v->cache_rx + v->ras_bottom_off[user]);
		v->ras_top[user] = (u64)top;
	}
	bt_ras_empty(v);
	return true;
}

void bt_ras_fini(struct bt_vcpu *v)
{
	if (v->ras_memory)
		munmap(v->ras_memory, WHOLE);
}

void bt_ras_empty(struct bt_vcpu *v)
{
	v->ras = v->ras_top[v->ras_user];
	v->ras_saved = v->ras_top[1];
}
