/* SPDX-License-Identifier: Apache-2.0 */
/* Jumps to where no code is: unmapped, non-canonical, MMIO, beyond RAM, into the middle of data. The CPU faults or runs what is there; the
 * VMM lives. */
#include "lib.h"

static u64 go(u64 at)
{
	__asm__ volatile("jmp *%0" ::"r"(at));
	return 0;
}

static void faults(u64 at, u64 vector, u64 error)
{
	trap_clear();
	trap_guarded(go, at);
	CHECK_EQ(trap.vector, vector);
	CHECK_EQ(trap.error, error);
}

static void unmapped(void)
{
	faults(TEST_VA + 0x5000, PF, PFE_I);
	CHECK_EQ(trap.cr2, TEST_VA + 0x5000);
	CHECK_EQ(trap.frame.rip, TEST_VA + 0x5000);
}

static void non_canonical(void)
{
	static const u64 wild[] = {0x800000000000ul, 0xffff7ffffffffffful, 0x1234567812345678ul, 1ul << 63};

	for (u32 i = 0; i < ARRAY_SIZE(wild); i++)
		faults(wild[i], GP, 0);
}

static void call_to_nowhere(void)
{
	trap_clear();
	trap_guarded(call_address, 0x800000000000ul);
	CHECK_EQ(trap.vector, GP);
	trap_clear();
	trap_guarded(call_address, TEST_VA + 0x9000);
	CHECK_EQ(trap.vector, PF);
	CHECK_EQ(trap.frame.rip, TEST_VA + 0x9000);
}

/* All zeros is add %al, (%rax). */
static void zeros(void)
{
	static u8 zero[64] PAGE_ALIGNED;
	u64 at = (u64)zero, ax = TEST_VA + 0x7000;

	trap_clear();
	__asm__ volatile("lea 1f(%%rip), %%rdx; mov %%rdx, %2; jmp *%1\n1:"
			 : "+a"(ax)
			 : "r"(at), "m"(*(u64 *)(zero + 32))
			 : "rdx", "memory");
}

static u64 zeros_guarded(u64 arg)
{
	zeros();
	return 0;
}

static void runs_into_zeros(void)
{
	trap_clear();
	trap_guarded(zeros_guarded, 0);
	CHECK_EQ(trap.vector, PF);
	CHECK_EQ(trap.cr2, TEST_VA + 0x7000);
}

/* Where neither RAM nor a device is, all ones are read, which is an invalid opcode. */
static void no_ram(void)
{
	static const u64 places[] = {0xd0000000ul, 0xfffff000ul, 0x40000000ul};

	for (u32 i = 0; i < ARRAY_SIZE(places); i++) {
		trap_clear();
		trap_guarded(go, places[i]);
		CHECK_EQ(trap.vector, UD);
		CHECK_EQ(trap.frame.rip, places[i]);
	}
}

void guest_main(void)
{
	LOOP(unmapped);
	LOOP(non_canonical);
	LOOP(call_to_nowhere);
	LOOP(runs_into_zeros);
	if (!on_qemu_tcg()) /* which ends itself when code is fetched from a device */
		LOOP(no_ram);
}
