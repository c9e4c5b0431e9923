/* SPDX-License-Identifier: Apache-2.0 */
/* Into ring 3 and back. See lib.h. */
#include "lib.h"

u8 user_stack[8192] UDATA;

/* Where a user function returns to. */
__asm__(".pushsection .utext, \"ax\"\n"
	".globl user_return\n"
	"user_return:\n"
	"	int $0x80\n"
	".popsection\n");
extern const u8 user_return[];

u64 user_call_flags(u64 (*fn)(u64), u64 arg, u64 rflags)
{
	u64 *sp = (u64 *)(user_stack + sizeof(user_stack)) - 2;
	struct user_context u = {.rip = (u64)fn, .cs = SEL_UCODE64, .rflags = rflags | 2, .rsp = (u64)sp, .ss = SEL_UDATA, .arg = arg};

	flags_set(flags_get() | 1ul << 18); /* AC: SMAP may be on */
	*sp = (u64)user_return;
	flags_set(flags_get() & ~(1ul << 18));
	trap_clear();
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"(0));
	u64 r = user_enter(&u);
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"(SEL_DATA));
	return r;
}

u64 user_call(u64 (*fn)(u64), u64 arg)
{
	return user_call_flags(fn, arg, 1ul << 9);
}

UTEXT u64 user_read(u64 at)
{
	u64 v = 0;

	__asm__ volatile(TRY("mov (%1), %0") : "+r"(v) : "r"(at));
	return v;
}

UTEXT u64 user_fetch(u64 at)
{
	return ((u64(*)(void))at)();
}
