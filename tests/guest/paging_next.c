/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What changes the rules of paging counts for the very next instruction, in straight-line code: its data access, and its own fetch. By INVLPG, INVPCID,
 * MOV to CR3, CR0 and CR4, WRMSR of EFER, STAC, CLAC and POPF.
 */
#include "lib.h"

#define WP (1ul << 16)
#define EFER 0xc0000080
#define NXE (1ul << 11)
#define AC (1ul << 18)

static const u64 va = TEST_VA + 0x900000, code_va = TEST_VA + 0xa00000;
static u8 *page[2], *code[2];
static u64 here, other; /* address spaces */

static void refused(u64 error)
{
	TRIED(PF, error);
	CHECK_EQ(trap.cr2, va);
}

static u64 guarded(u64 (*fn)(u64), u64 arg)
{
	trap_clear();
	return trap_guarded(fn, arg);
}

/* ---- data ---- */

static void write_protect(void)
{
	u64 on = read_cr0() | WP, off = on & ~WP;

	paging_map(va, (u64)page[0], P);
	trap_clear();
	__asm__ volatile("mov %1, %%cr0; movb $1, (%0)\n\tmov %2, %%cr0\n\t" TRY("movb $2, (%0)")::"r"(va), "r"(off), "r"(on) : "memory");
	refused(PFE_P | PFE_W);
	CHECK_EQ(page[0][0], 1);
	trap_clear();
	__asm__ volatile("mov %1, %%cr0; lock incb (%0)\n\tmov %2, %%cr0\n\t" TRY("lock incb (%0)")::"r"(va), "r"(off), "r"(on) : "memory");
	refused(PFE_P | PFE_W);
	CHECK_EQ(page[0][0], 2);
}

static void smap_by_cr4(void)
{
	u64 off = read_cr4() & ~CR4_SMAP, on = off | CR4_SMAP;

	paging_map(va, (u64)page[0], P | W | U);
	trap_clear();
	__asm__ volatile("movb $1, (%0); mov %2, %%cr4\n\t" TRY("movb $2, (%0)") "mov %1, %%cr4; incb (%0)" ::"r"(va), "r"(off), "r"(on)
			 : "memory", "cc");
	refused(PFE_P | PFE_W);
	CHECK_EQ(page[0][0], 2);
}

static void smap_by_ac(void)
{
	write_cr4(read_cr4() | CR4_SMAP);
	paging_map(va, (u64)page[0], P | W | U);
	trap_clear();
	__asm__ volatile("stac; movb $1, (%0); clac\n\t" TRY("movb $1, (%0)")::"r"(va) : "memory", "cc");
	refused(PFE_P | PFE_W);
	trap_clear();
	__asm__ volatile("pushfq; push %1; popfq; movb $1, (%0); popfq\n\t" TRY("movb $1, (%0)")::"r"(va), "r"(AC | 2) : "memory", "cc");
	refused(PFE_P | PFE_W);
	write_cr4(read_cr4() & ~CR4_SMAP);
}

/* NX is a reserved bit while EFER.NXE is off (SDM vol. 3, 4.5.4). */
static void nxe(void)
{
	u64 efer = rdmsr(EFER);

	paging_map(va, (u64)page[0], P | W | NX);
	write_cr3(read_cr3());
	trap_clear();
	__asm__ volatile("incb (%0); and $~0x800, %%eax; wrmsr\n\tinvlpg (%0)\n\t" TRY(
				 "movb (%0), %%bl") "or $0x800, %%eax; wrmsr; invlpg (%0); incb (%0)" ::"r"(va),
			 "c"(EFER), "a"((u32)efer), "d"((u32)(efer >> 32))
			 : "rbx", "memory", "cc");
	refused((on_qemu_tcg() ? 0 : PFE_P) | PFE_RSVD);
}

static void other_space(void)
{
	paging_map(va, (u64)page[0], P | W);
	*paging_entry(other, va, 1) = (u64)page[1] | P | W;
	page[0][1] = page[1][1] = 0;
	for (u32 i = 0; i < 4; i++)
		__asm__ volatile("incb 1(%0); mov %1, %%cr3; addb $2, 1(%0); mov %2, %%cr3; incb 1(%0)" ::"r"(va), "r"(other), "r"(here)
				 : "memory", "cc");
	CHECK_EQ(page[0][1], 8);
	CHECK_EQ(page[1][1], 8);
}

static void by_invpcid(void)
{
	struct {
		u64 pcid, va;
	} one = {0, va};
	u64 *pte = paging_entry(here, va, 1), second = (u64)page[1] | P | W;

	page[0][2] = page[1][2] = 0;
	for (u64 type = 0; type < 4; type++) {
		paging_map(va, (u64)page[0], P | W);
		__asm__ volatile("incb 2(%0); mov %1, (%2); invpcid %3, %4; addb $2, 2(%0)" ::"r"(va), "r"(second), "r"(pte), "m"(one),
				 "r"(type)
				 : "memory", "cc");
	}
	CHECK_EQ(page[0][2], 4);
	CHECK_EQ(page[1][2], 8);
}

/* ---- the instruction's own fetch ---- */

typedef u64 (*function)(u64 a, u64 b);

static void put(u8 *at, const u8 *bytes, u64 n)
{
	memcpy(at, bytes, n);
}

#define CODE(name, body)                                                                                                                   \
	extern const u8 name[], name##_end[];                                                                                              \
	__asm__(".pushsection .rodata\n" #name ": " body "\n" #name "_end:\n.popsection\n")
#define PUT(at, name) put(at, name, (u64)(name##_end - name))

CODE(switch_space, "mov $1, %eax\n mov %rdi, %cr3\n add $0x10, %eax\n mov %rsi, %cr3\n add $0x100, %eax\n ret");
CODE(switch_space2, "mov $2, %eax\n mov %rdi, %cr3\n add $0x20, %eax\n mov %rsi, %cr3\n add $0x200, %eax\n ret");

/* MOV CR3 to a space where another frame lies under RIP: what follows is its. */
static void fetch_in_other_space(void)
{
	PUT(code[0], switch_space);
	PUT(code[1], switch_space2);
	paging_map(code_va, (u64)code[0], P);
	*paging_entry(other, code_va, 1) = (u64)code[1] | P;
	CHECK_EQ(((function)code_va)(other, here), 0x121);
	write_cr3(other);
	CHECK_EQ(((function)code_va)(here, other), 0x212);
	write_cr3(here);
}

CODE(remap, "mov $1, %eax\n mov %rdi, (%rsi)\n invlpg (%rdx)\n add $0x10, %eax\n ret");
CODE(remap2, "mov $2, %eax\n mov %rdi, (%rsi)\n invlpg (%rdx)\n add $0x20, %eax\n ret");

static u64 call3(u64 fn, u64 a, const void *b, u64 c)
{
	u64 r;

	__asm__ volatile("call *%1" : "=a"(r) : "r"(fn), "D"(a), "S"(b), "d"(c) : "memory", "cc");
	return r;
}

static void fetch_of_another_frame(void)
{
	u64 *pte = paging_entry(here, code_va, 1);

	PUT(code[0], remap);
	PUT(code[1], remap2);
	paging_map(code_va, (u64)code[0], P);
	CHECK_EQ(call3(code_va, (u64)code[1] | P, pte, code_va), 0x21);
	CHECK_EQ(call3(code_va, (u64)code[0] | P, pte, code_va), 0x12);
}

static u64 withdraw(u64 entry)
{
	return call3(code_va, entry, paging_entry(here, code_va, 1), code_va);
}

/* The page under RIP is unmapped, or loses the right to be executed: the next fetch faults, with the address of that instruction. */
static void fetch_refused(void)
{
	static const u64 length = 5 + 3 + 3; /* MOV, MOV, INVLPG */

	PUT(code[0], remap);
	paging_map(code_va, (u64)code[0], P);
	guarded(withdraw, 0);
	TRIED(PF, PFE_I);
	CHECK_EQ(trap.cr2, code_va + length);
	CHECK_EQ(trap.frame.rip, code_va + length);
	paging_map(code_va, (u64)code[0], P);
	guarded(withdraw, (u64)code[0] | P | NX);
	TRIED(PF, PFE_I | PFE_P);
	CHECK_EQ(trap.frame.rip, code_va + length);
}

CODE(set_cr4, "mov %rdi, %cr4\n ret");

static u64 set_smep(u64 cr4)
{
	return call3(code_va, cr4, NULL, 0);
}

static void fetch_under_smep(void)
{
	u64 off = read_cr4() & ~CR4_SMEP;

	PUT(code[0], set_cr4);
	paging_map(code_va, (u64)code[0], P | U);
	guarded(set_smep, off | CR4_SMEP);
	write_cr4(off);
	TRIED(PF, PFE_I | PFE_P);
	CHECK_EQ(trap.frame.rip, code_va + 3);
	guarded(set_smep, off);
	TRIED(NO_TRAP, 0);
}

/* An instruction whose second half lies in the next page: that page's rights count, and its address is the one that is told. */
static void fetch_across_pages(void)
{
	static const u8 load[] = {0xb8, 1, 2, 3, 4, 0xc3}; /* mov $0x04030201, %eax; ret */
	u64 at = code_va + PAGE - 3;

	put(code[0] + PAGE - 3, load, 3);
	put(code[1], load + 3, 3);
	paging_map(code_va, (u64)code[0], P);
	for (u32 i = 0; i < 3; i++) {
		paging_map(code_va + PAGE, (u64)code[1], P);
		CHECK_EQ(call3(at, 0, NULL, 0), 0x04030201);
		paging_map(code_va + PAGE, (u64)code[1], i & 1 ? P | NX : 0);
		guarded((u64(*)(u64))at, 0);
		TRIED(PF, PFE_I | (i & 1 ? PFE_P : 0));
		CHECK_EQ(trap.cr2, code_va + PAGE);
		CHECK_EQ(trap.frame.rip, at);
	}
	/* Another frame behind the page */
	put(code[0], load + 3, 3);
	code[0][0] = 0x55;
	paging_map(code_va + PAGE, (u64)code[0], P);
	CHECK_EQ(call3(at, 0, NULL, 0), 0x04550201);
}

void guest_main(void)
{
	for (u32 i = 0; i < 2; i++) {
		page[i] = page_alloc();
		code[i] = page_alloc();
	}
	paging_map(va, (u64)page[0], P);
	here = read_cr3();
	other = paging_clone();
	((u64 *)other)[va >> 39] = 0;
	*paging_entry(other, va, 1) = 0;
	LOOP(write_protect);
	if (cpuid_bit(7, 0, 1, 20)) {
		LOOP(smap_by_cr4);
		LOOP(smap_by_ac);
	}
	LOOP(nxe);
	LOOP(other_space);
	if (cpuid_bit(7, 0, 1, 10))
		LOOP(by_invpcid);
	LOOP(fetch_in_other_space);
	LOOP(fetch_of_another_frame);
	LOOP(fetch_refused);
	if (cpuid_bit(7, 0, 1, 7))
		LOOP(fetch_under_smep);
	LOOP(fetch_across_pages);
}
