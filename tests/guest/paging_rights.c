/* SPDX-License-Identifier: Apache-2.0 */
/* R/W, U/S, NX, CR0.WP, SMEP and SMAP with EFLAGS.AC: who may do what, and which error code says no. Permission changes count at once after
 * INVLPG. */
#include "lib.h"

static u64 *page; /* a frame, by its identity mapping */
static const u64 va = TEST_VA + 0x123000;

static void map(u64 flags)
{
	paging_map(va, (u64)page, flags);
}

static u64 try_read(u64 at)
{
	u64 v = 0;

	trap_clear();
	__asm__ volatile(TRY("mov (%1), %0") : "+r"(v) : "r"(at) : "memory");
	return v;
}

static void try_write(u64 at, u64 v)
{
	trap_clear();
	__asm__ volatile(TRY("mov %1, (%0)")::"r"(at), "r"(v) : "memory");
}

static u64 try_exec(u64 at)
{
	trap_clear();
	return trap_guarded(call_address, at);
}

UTEXT static u64 user_write(u64 at)
{
	__asm__ volatile(TRY("movq $0x77, (%0)")::"r"(at) : "memory");
	return 0;
}

static void denied(u64 error)
{
	TRIED(PF, error);
	CHECK_EQ(trap.cr2, va);
}

static void supervisor_rights(void)
{
	page[0] = 0x1111;
	map(0);
	try_read(va);
	denied(0);
	try_write(va, 5);
	denied(PFE_W);
	try_exec(va);
	denied(PFE_I);
	CHECK_EQ(trap.frame.rip, va);
	map(P);
	CHECK_EQ(try_read(va), 0x1111);
	TRIED(NO_TRAP, 0);
	try_write(va, 5);
	denied(PFE_P | PFE_W);
	CHECK_EQ(page[0], 0x1111);
	map(P | W);
	try_write(va, 0x2222);
	TRIED(NO_TRAP, 0);
	CHECK_EQ(page[0], 0x2222);
}

static void write_protect_bit(void)
{
	map(P);
	write_cr0(read_cr0() & ~(1ul << 16));
	try_write(va, 0x3333);
	TRIED(NO_TRAP, 0);
	CHECK_EQ(page[0], 0x3333);
	write_cr0(read_cr0() | 1ul << 16);
	try_write(va, 0x4444);
	denied(PFE_P | PFE_W);
	CHECK_EQ(page[0], 0x3333);
}

static void user_rights(void)
{
	page[0] = 0x5555;
	map(P | W);
	user_call(user_read, va);
	denied(PFE_P | PFE_U);
	user_call(user_write, va);
	denied(PFE_P | PFE_U | PFE_W);
	user_call(user_fetch, va);
	denied(PFE_P | PFE_U | PFE_I);
	map(P | U);
	CHECK_EQ(user_call(user_read, va), 0x5555);
	TRIED(NO_TRAP, 0);
	user_call(user_write, va);
	denied(PFE_P | PFE_U | PFE_W);
	map(0);
	user_call(user_read, va);
	denied(PFE_U);
	map(P | W | U);
	user_call(user_write, va);
	TRIED(NO_TRAP, 0);
	CHECK_EQ(page[0], 0x77);
	/* WP off concerns the supervisor only. */
	map(P | U);
	write_cr0(read_cr0() & ~(1ul << 16));
	user_call(user_write, va);
	write_cr0(read_cr0() | 1ul << 16);
	denied(PFE_P | PFE_U | PFE_W);
}

#define RETURN_42 0xc30000002ab8ul /* mov $42, %eax; ret */

static void no_execute(void)
{
	page[0] = RETURN_42;
	map(P | W);
	CHECK_EQ(try_exec(va), 42);
	TRIED(NO_TRAP, 0);
	map(P | W | NX);
	try_exec(va);
	denied(PFE_P | PFE_I);
	CHECK_EQ(try_read(va), RETURN_42);
	map(P | W | U);
	CHECK_EQ(user_call(user_fetch, va), 42);
	map(P | W | U | NX);
	user_call(user_fetch, va);
	denied(PFE_P | PFE_U | PFE_I);
	CHECK_EQ(user_call(user_read, va), RETURN_42);
}

/* Rights of the levels are combined. */
static void upper_levels(void)
{
	u64 *pde = paging_entry(paging_root(), va, 2);

	page[0] = RETURN_42;
	map(P | W | U);
	*pde &= ~W;
	invlpg((void *)va);
	try_write(va, 1);
	denied(PFE_P | PFE_W);
	*pde = (*pde | W) & ~U;
	invlpg((void *)va);
	user_call(user_read, va);
	denied(PFE_P | PFE_U);
	CHECK_EQ(try_read(va), RETURN_42);
	*pde |= U | NX;
	invlpg((void *)va);
	try_exec(va);
	denied(PFE_P | PFE_I);
	*pde &= ~(P | NX);
	invlpg((void *)va);
	try_read(va);
	denied(0);
	*pde |= P;
	invlpg((void *)va);
	CHECK_EQ(try_exec(va), 42);
}

static void smep(void)
{
	page[0] = RETURN_42;
	map(P | W | U);
	CHECK_EQ(try_exec(va), 42);
	write_cr4(read_cr4() | CR4_SMEP);
	try_exec(va);
	denied(PFE_P | PFE_I);
	CHECK_EQ(try_read(va), RETURN_42);
	CHECK_EQ(user_call(user_fetch, va), 42);
	write_cr4(read_cr4() & ~CR4_SMEP);
	CHECK_EQ(try_exec(va), 42);
}

static void smap(void)
{
	page[0] = 0x6666;
	map(P | W | U);
	write_cr4(read_cr4() | CR4_SMAP);
	try_read(va);
	denied(PFE_P);
	try_write(va, 1);
	denied(PFE_P | PFE_W);
	__asm__ volatile("stac");
	CHECK_EQ(try_read(va), 0x6666);
	TRIED(NO_TRAP, 0);
	try_write(va, 0x6667);
	TRIED(NO_TRAP, 0);
	__asm__ volatile("clac");
	try_read(va);
	denied(PFE_P);
	flags_set(flags_get() | 1ul << 18);
	CHECK_EQ(try_read(va), 0x6667);
	TRIED(NO_TRAP, 0);
	flags_set(flags_get() & ~(1ul << 18));
	try_read(va);
	denied(PFE_P);
	CHECK_EQ(user_call(user_read, va), 0x6667);
	TRIED(NO_TRAP, 0);
	map(P | W); /* supervisor pages are not concerned */
	CHECK_EQ(try_read(va), 0x6667);
	write_cr4(read_cr4() & ~CR4_SMAP);
}

/* The instruction behind INVLPG already sees the change, in straight-line code. */
static void change_seen_at_next_instruction(void)
{
	u64 *pte = paging_entry(paging_root(), va, 1), ro = (u64)page | P, rw = (u64)page | P | W;

	map(P | W);
	trap_clear();
	__asm__ volatile("mov %%rax, (%1)\n\tmov %2, (%0)\n\tinvlpg (%1)\n\t" TRY(
				 "mov %%rax, (%1)") "mov %3, (%0)\n\tinvlpg (%1)\n\tmov %%rax, (%1)" ::"r"(pte),
			 "r"(va), "r"(ro), "r"(rw), "a"(0x99)
			 : "memory");
	denied(PFE_P | PFE_W);
	CHECK_EQ(page[0], 0x99);
}

void guest_main(void)
{
	page = page_alloc();
	paging_map(va, (u64)page, P);
	LOOP(supervisor_rights);
	LOOP(write_protect_bit);
	LOOP(user_rights);
	LOOP(no_execute);
	LOOP(upper_levels);
	if (cpuid_bit(7, 0, 1, 7))
		LOOP(smep);
	if (cpuid_bit(7, 0, 1, 20))
		LOOP(smap);
	LOOP(change_seen_at_next_instruction);
}
