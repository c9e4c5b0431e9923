/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every combination of P, R/W, U/S and NX in an entry with every combination in one entry above it, and combinations of all four, for pages of 4 KiB,
 * 2 MiB and 1 GiB; under each of CR0.WP, SMEP, SMAP and EFLAGS.AC; read, written and executed by ring 0 and ring 3; with accessed and dirty
 * bits set or clear before. A model of SDM vol. 3, 4.6.1 and 4.8 says what happens: the error code, and which bits are set afterwards. A
 * refused access may have set accessed bits, but never the dirty one.
 */
#include "lib.h"

#define RETURN_42 0xc30000002ab8ul /* mov $42, %eax; ret */
#define LARGE_FRAME 0x600000ul
#define RIGHTS (P | W | U | NX)

enum { READ, WRITE, FETCH, ACCESSES };

/* An address of its own top-level entry, mapped by a page of level `leaf`. */
struct path {
	u64 va, base[5];
	u64 *entry[5]; /* by level */
	u32 leaf;
	u64 *frame;
};
static struct path path[3];

static struct {
	bool wp, smep, smap, ac;
} now;

/* ---- the model ---- */

static u64 combined(const struct path *p)
{
	u64 all = P | W | U;

	for (u32 l = 4; l >= p->leaf; l--)
		all &= *p->entry[l] | NX;
	for (u32 l = 4; l >= p->leaf; l--)
		all |= *p->entry[l] & NX;
	return all;
}

static bool refused(u64 rights, u32 access, bool user)
{
	if (!(rights & P))
		return true;
	if (access == FETCH && rights & NX)
		return true;
	if (user)
		return !(rights & U) || (access == WRITE && !(rights & W));
	if (access == FETCH)
		return rights & U && now.smep;
	if (rights & U && now.smap && !now.ac)
		return true;
	return access == WRITE && !(rights & W) && now.wp;
}

static u64 error_code(u64 rights, u32 access, bool user)
{
	return (rights & P ? PFE_P : 0) | (access == WRITE ? PFE_W : 0) | (access == FETCH ? PFE_I : 0) | (user ? PFE_U : 0);
}

/* ---- accesses ---- */

UTEXT static u64 user_write(u64 at)
{
	__asm__ volatile(TRY("movb $0xb8, (%0)")::"r"(at) : "memory");
	return 0;
}

static u64 supervisor(u32 access, u64 at)
{
	u64 v = 0, ac = now.ac ? 1ul << 18 : 0;

	trap_clear();
	flags_set(2 | ac);
	if (access == READ)
		__asm__ volatile(TRY("mov (%1), %0") : "+r"(v) : "r"(at) : "memory");
	else if (access == WRITE)
		__asm__ volatile(TRY("movb $0xb8, (%0)")::"r"(at) : "memory");
	else
		v = trap_guarded(call_address, at);
	flags_set(2);
	return v;
}

static u64 perform(u32 access, bool user, u64 at)
{
	static u64 (*const by_user[])(u64) = {user_read, user_write, user_fetch};

	return user ? user_call_flags(by_user[access], at, 0x200 | (now.ac ? 1ul << 18 : 0)) : supervisor(access, at);
}

/* ---- one case ---- */

static void check_bits(const struct path *p, u32 access, bool ok, const u64 *before)
{
	for (u32 l = 4; l >= p->leaf; l--) {
		u64 got = *(volatile u64 *)p->entry[l], want = before[l];

		if (ok)
			want |= A | (l == p->leaf && access == WRITE ? D : 0);
		else
			want |= got & A;
		CHECK_EQ(got, want);
	}
}

static void one(const struct path *p, u32 access, bool user)
{
	u64 rights = combined(p), before[5], got;
	bool ok = !refused(rights, access, user);

	for (u32 l = 4; l >= p->leaf; l--)
		before[l] = *p->entry[l];
	got = perform(access, user, p->va);
	TRIED(ok ? NO_TRAP : PF, error_code(rights, access, user));
	if (!ok)
		CHECK_EQ(trap.cr2, p->va);
	else if (access == READ)
		CHECK_EQ(got, RETURN_42);
	else if (access == FETCH)
		CHECK_EQ(got, 42);
	if (access == WRITE) {
		CHECK_EQ(*p->frame, ok ? RETURN_42 : RETURN_42 ^ 0xff);
		*p->frame = RETURN_42;
	}
	check_bits(p, access, ok, before);
}

static u64 random_state = 88172645463325252ul;
static u64 random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static u64 rights_of(u32 n)
{
	return (n & 1 ? P : 0) | (n & 2 ? W : 0) | (n & 4 ? U : 0) | (n & 8 ? NX : 0);
}

/* `rights` has four bits a level. Every access finds other accessed and dirty bits. */
static void entries(const struct path *p, u32 rights)
{
	u64 bits = random();

	for (u32 l = 4; l >= p->leaf; l--, bits >>= 2)
		*p->entry[l] = p->base[l] | rights_of(rights >> 4 * (l - 1)) | (bits & 1 ? A : 0) | (l == p->leaf && bits & 2 ? D : 0);
	invlpg((void *)p->va);
}

static void all_accesses(const struct path *p, u32 rights)
{
	for (u32 n = 0; n < 2 * ACCESSES; n++) {
		entries(p, rights);
		if (n % ACCESSES == WRITE)
			*p->frame = RETURN_42 ^ 0xff;
		one(p, n % ACCESSES, n >= ACCESSES);
	}
}

/* ---- combinations ---- */

#define ALL_ALLOWED 0x7777u

static void pairs_of_levels(const struct path *p)
{
	for (u32 above = p->leaf + 1; above <= 4; above++)
		for (u32 n = 0; n < 256; n++) {
			u32 low = 4 * (p->leaf - 1), high = 4 * (above - 1);

			all_accesses(p, (ALL_ALLOWED & ~(15u << low | 15u << high)) | (n & 15) << low | (n >> 4) << high);
		}
}

/* Mostly present, or nearly all would fault for that. */
static void all_levels(const struct path *p)
{
	for (u32 n = 0; n < 200; n++)
		all_accesses(p, (u32)random() | 0x1111);
}

static void control(u32 n)
{
	u64 cr4 = read_cr4() & ~(CR4_SMEP | CR4_SMAP);

	now.wp = n & 1;
	now.ac = n & 2;
	now.smep = n & 4 && cpuid_bit(7, 0, 1, 7);
	now.smap = n & 8 && cpuid_bit(7, 0, 1, 20);
	write_cr0((read_cr0() & ~(1ul << 16)) | (now.wp ? 1ul << 16 : 0));
	write_cr4(cr4 | (now.smep ? CR4_SMEP : 0) | (now.smap ? CR4_SMAP : 0));
}

static u32 paths;

static void matrix(void)
{
	control((u32)loop_count);
	for (u32 i = 0; i < paths; i++) {
		pairs_of_levels(&path[i]);
		all_levels(&path[i]);
	}
	control(1);
}

static void prepare(struct path *p, u64 va, u32 leaf, u64 frame)
{
	p->va = va;
	p->leaf = leaf;
	p->frame = (u64 *)(leaf == 3 ? va & ((1ul << 30) - 1) : frame);
	*paging_entry(paging_root(), va, leaf) = frame | (leaf > 1 ? PS : 0) | P;
	for (u32 l = 4; l >= leaf; l--) {
		p->entry[l] = paging_entry(paging_root(), va, l);
		p->base[l] = *p->entry[l] & (ADDR_MASK | (l == leaf && leaf > 1 ? PS : 0));
	}
	*p->frame = RETURN_42;
}

void guest_main(void)
{
	prepare(&path[0], TEST_VA + 0x123000, 1, (u64)page_alloc());
	prepare(&path[1], 2 * TEST_VA, 2, LARGE_FRAME);
	paths = 2;
	if (cpuid_bit(0x80000001, 0, 3, 26))
		prepare(&path[paths++], 3 * TEST_VA + LARGE_FRAME + 0x200000, 3, 0);
	loop_check("matrix", matrix, 16);
}
