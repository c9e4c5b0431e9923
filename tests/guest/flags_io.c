/* SPDX-License-Identifier: Apache-2.0 */
/* PUSHF and POPF at every IOPL, CLI and STI in ring 3, the I/O permission bitmap, what port accesses of each size do. */
#include "lib.h"

#define IF 0x200ul
#define IOPL3 0x3000ul
#define PORT 0x80 /* the POST port: writes go nowhere */

static void popf_in_ring0(void)
{
	u64 f;

	flags_set(IOPL3 | 0x8d7);
	f = flags_get();
	CHECK_EQ(f & 0x3000, 0x3000);
	CHECK_EQ(f & 0x8d5, 0x8d5);
	flags_set(2);
	CHECK_EQ(flags_get() & 0x3fd7, 2);
	flags_set(0x4002); /* NT */
	CHECK_EQ(flags_get() & 0x4000, 0x4000);
	flags_set(0x200002); /* ID */
	CHECK_EQ(flags_get() & 0x200000, 0x200000);
	flags_set(0x30002); /* RF and VM are not loaded */
	CHECK_EQ(flags_get() & 0x30000, 0);
	flags_set(2);
}

UTEXT static u64 user_popf(u64 v)
{
	__asm__ volatile("push %1; popfq; pushfq; pop %0; cld" : "=r"(v) : "r"(v) : "memory", "cc");
	return v;
}

static void popf_in_ring3(void)
{
	/* IOPL 0: neither IOPL nor IF change, silently */
	CHECK_EQ(user_call_flags(user_popf, IOPL3 | IF | 0x8d7, 0) & 0x3fd7, 0x8d7);
	CHECK_EQ(user_call_flags(user_popf, 2, IF) & 0x3fd7, IF | 2);
	/* IOPL 3: IF changes, IOPL does not */
	CHECK_EQ(user_call_flags(user_popf, 2, IF | IOPL3) & 0x3fd7, IOPL3 | 2);
	CHECK_EQ(user_call_flags(user_popf, IF | 2, IOPL3) & 0x3fd7, IOPL3 | IF | 2);
	CHECK_EQ(user_call_flags(user_popf, 0x40002, 0) & 0x40000, 0x40000); /* AC */
}

UTEXT static u64 user_cli_sti(u64 arg)
{
	u64 a, b;

	__asm__ volatile(TRY("cli") "pushfq; pop %0\n" TRY("sti") "pushfq; pop %1" : "=r"(a), "=r"(b)::"memory", "cc");
	return (a & IF) << 1 | (b & IF);
}

static void cli_sti_in_ring3(void)
{
	user_call_flags(user_cli_sti, 0, IF);
	TRIED(GP, 0);
	CHECK_EQ(trap.count, 2);
	CHECK_EQ(user_call_flags(user_cli_sti, 0, IF | IOPL3), IF);
	TRIED(NO_TRAP, 0);
}

UTEXT static u64 user_in(u64 port)
{
	u32 v = 0x1234;

	__asm__ volatile(TRY("inb %w1, %b0") : "+a"(v) : "d"(port));
	return v;
}

UTEXT static u64 user_in4(u64 port)
{
	u32 v = 0x1234;

	__asm__ volatile(TRY("inl %w1, %0") : "+a"(v) : "d"(port));
	return v;
}

static void permission_bitmap(void)
{
	memset(tss.bitmap, 0xff, sizeof(tss.bitmap));
	user_call(user_in, PORT);
	TRIED(GP, 0);
	tss.bitmap[PORT / 8] &= (u8) ~(1 << PORT % 8);
	user_call(user_in, PORT);
	TRIED(NO_TRAP, 0);
	user_call(user_in, PORT + 1);
	TRIED(GP, 0);
	user_call(user_in4, PORT); /* all four bytes must be allowed */
	TRIED(GP, 0);
	tss.bitmap[PORT / 8] = 0xf0;
	user_call(user_in4, PORT);
	TRIED(NO_TRAP, 0);
	user_call(user_in4, PORT + 1);
	TRIED(GP, 0);
	tss.bitmap[PORT / 8] = 0xff;
	user_call_flags(user_in4, PORT, IOPL3); /* IOPL needs no bitmap */
	TRIED(NO_TRAP, 0);
}

static void bitmap_beyond_the_tss(void)
{
	u16 iomap = tss.iomap;

	tss.iomap = sizeof(tss); /* beyond the limit: nothing is allowed */
	user_call(user_in, PORT);
	TRIED(GP, 0);
	tss.iomap = iomap;
	memset(tss.bitmap, 0, sizeof(tss.bitmap) - 1);
	user_call(user_in, PORT);
	TRIED(NO_TRAP, 0);
	/* The check reads two bytes: the last port's second byte is the terminating one, which says no. */
	tss.bitmap[8192] = 0xff;
	user_call(user_in4, 0xfffe);
	TRIED(GP, 0);
	memset(tss.bitmap, 0xff, sizeof(tss.bitmap));
}

static void sizes(void)
{
	u64 v = ~0ul;

	__asm__ volatile("inl %w1, %%eax" : "+a"(v) : "d"(PORT));
	CHECK_EQ(v >> 32, 0); /* a 32-bit destination clears the upper half */
	v = 0x1122334455667788;
	__asm__ volatile("inb %w1, %%al" : "+a"(v) : "d"(0x92));
	CHECK_EQ(v >> 8, 0x11223344556677);
	v = 0x1122334455667788;
	__asm__ volatile("inw %w1, %%ax" : "+a"(v) : "d"(0x80));
	CHECK_EQ(v >> 16, 0x112233445566);
}

static void string_io(void)
{
	static u8 buf[16];
	static u8 scratch[PAGE] PAGE_ALIGNED;
	u64 di = (u64)buf, cx = 8, si;

	memset(buf, 0x5a, sizeof(buf));
	__asm__ volatile("rep insb" : "+D"(di), "+c"(cx) : "d"(0x92) : "memory");
	CHECK_EQ(cx, 0);
	CHECK_EQ(di, (u64)buf + 8);
	CHECK_EQ(buf[8], 0x5a);
	CHECK_EQ(buf[0], inb(0x92));
	si = (u64)buf;
	cx = 3;
	__asm__ volatile("rep outsw" : "+S"(si), "+c"(cx) : "d"(PORT) : "memory");
	CHECK_EQ(si, (u64)buf + 6);
	/* a fault in the middle of INS: nothing of that element is done */
	paging_map(TEST_VA, (u64)scratch, P | W);
	paging_map(TEST_VA + PAGE, 0, 0);
	di = TEST_VA + PAGE - 2;
	cx = 4;
	trap_clear();
	__asm__ volatile(TRY("rep insb") : "+D"(di), "+c"(cx) : "d"(PORT) : "memory");
	TRIED(PF, PFE_W);
	CHECK_EQ(cx, 2);
	CHECK_EQ(di, TEST_VA + PAGE);
}

void guest_main(void)
{
	LOOP(popf_in_ring0);
	LOOP(popf_in_ring3);
	LOOP(cli_sti_in_ring3);
	LOOP(permission_bitmap);
	LOOP(bitmap_beyond_the_tss);
	LOOP(sizes);
	LOOP(string_io);
}
