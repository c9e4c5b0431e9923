/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random code in ring 0 and ring 3 on random page tables, with registers that point where it hurts: page tables, its own code, devices, the edges of
 * memory and of the address space. Nothing is expected of it, and it may well destroy the guest; the VMM has to live. "seed=N" and "rounds=N" on
 * the command line say which code, and how much. tests/guest/chaos.py runs many and judges how they end.
 */
#include "pci.h"

#define WINDOW (TEST_VA + 0x40000000)
#define WINDOW_PAGES 64
#define CODE_PAGES 2
#define FRAMES 8
#define INSNS 40
#define RAM_END 0x8000000ul
#define VIRTIO_SLOTS 8

static u64 prng;
static u8 *frames[FRAMES], *code_frames[CODE_PAGES];
static u64 bar[VIRTIO_SLOTS];
static u32 nbars;

static u64 rnd(void)
{
	prng ^= prng << 13;
	prng ^= prng >> 7;
	prng ^= prng << 17;
	return prng * 0x2545f4914f6cdd1dul;
}

static u32 below(u32 n)
{
	return (u32)(rnd() >> 32) % n;
}

static bool one_in(u32 n)
{
	return below(n) == 0;
}

/* ---- values */

static u64 device_address(void)
{
	switch (below(4)) {
	case 0:
		return 0xfee00000 + below(0x100) * 4;
	case 1:
		return 0xfec00000 + below(16) * 4;
	case 2:
		return nbars ? bar[below(nbars)] + below(0x4000) : 0xe0000000;
	default:
		return 0xe0000000 + below(1 << 20); /* configuration space, or nothing */
	}
}

static u64 address(void)
{
	switch (below(9)) {
	case 0:
		return WINDOW + (rnd() % (WINDOW_PAGES * PAGE));
	case 1:
		return WINDOW + below(WINDOW_PAGES) * PAGE + PAGE - 8 + below(16);
	case 2:
		return (u64)frames[below(FRAMES)] + below(PAGE);
	case 3:
		return (u64)paging_entry(paging_root(), WINDOW + below(WINDOW_PAGES) * PAGE, 1 + below(3));
	case 4:
		return (u64)code_frames[below(CODE_PAGES)] + below(PAGE);
	case 5:
		return device_address();
	case 6:
		return RAM_END - 16 + below(32);
	case 7:
		return (u64)user_stack + below(sizeof(user_stack));
	default:
		return (below(2) ? 0x800000000000ul : 0xffff800000000000ul) - 16 + below(32);
	}
}

static u64 value(void)
{
	switch (below(4)) {
	case 0:
		return below(256);
	case 1:
		return rnd();
	case 2:
		return (1ul << below(64)) - 1 + below(3);
	default:
		return address();
	}
}

/* ---- code */

struct text {
	u8 *at, *end;
};

static void put(struct text *t, u64 bytes, u32 n)
{
	while (n-- && t->at < t->end) {
		*t->at++ = (u8)bytes;
		bytes >>= 8;
	}
}

/* ModRM and what may belong to it; when it does not, it is code, too. */
static void put_operand(struct text *t, int reg)
{
	put(t, (rnd() & 0xc7) | (reg < 0 ? rnd() & 0x38 : (u64)reg << 3), 1);
	if (one_in(2))
		put(t, rnd() & (one_in(2) ? 0xff : 0xffffffffff), 1 + below(5));
}

static void put_load(struct text *t)
{
	put(t, 0x48 | (rnd() & 1), 1);
	put(t, 0xb8 | (rnd() & 7), 1);
	put(t, value(), 8);
}

/* Opcodes of the system, without (-2), with any (-1) or with one extension in ModRM; their bytes lie in order from the lowest. */
static const struct {
	u32 bytes;
	u8 n;
	signed char ext;
} system[] = {
	{0x220f, 2, -1},   {0x200f, 2, -1},	{0x230f, 2, -1},   {0x210f, 2, -1},	{0x010f, 2, 0},	   {0x010f, 2, 1},
	{0x010f, 2, 2},	   {0x010f, 2, 3},	{0x010f, 2, 4},	   {0x010f, 2, 6},	{0x010f, 2, 7},	   {0x000f, 2, -1},
	{0x8e, 1, -1},	   {0x8c, 1, -1},	{0xcf, 1, -2},	   {0xcf48, 2, -2},	{0xcb, 1, -2},	   {0xcb48, 2, -2},
	{0xff, 1, 5},	   {0xff, 1, 3},	{0x050f, 2, -2},   {0x070f, 2, -2},	{0x070f48, 3, -2}, {0x340f, 2, -2},
	{0x350f, 2, -2},   {0xcc, 1, -2},	{0xf1, 1, -2},	   {0xfa, 1, -2},	{0xfb, 1, -2},	   {0x9c, 1, -2},
	{0x9d, 1, -2},	   {0xd1010f, 3, -2},	{0xd0010f, 3, -2}, {0xae0f, 2, -1},	{0xae0f48, 3, -1}, {0xc70f, 2, -1},
	{0xc70f48, 3, -1}, {0x82380f66, 4, -1}, {0xf8010f, 3, -2}, {0x060f, 2, -2},	{0x090f, 2, -2},   {0xa20f, 2, -2},
	{0x310f, 2, -2},   {0xf9010f, 3, -2},	{0xae0ff3, 3, -1}, {0xae0f48f3, 4, -1}, {0xc70ff3, 3, -1}, {0xc8010f, 3, -2},
	{0xc9010f, 3, -2}, {0xca010f, 3, -2},	{0xcb010f, 3, -2}, {0xc1010f, 3, -2},	{0xd9010f, 3, -2}, {0x320f, 2, -2},
	{0x300f, 2, -2},   {0x330f, 2, -2},	{0xec, 1, -2},	   {0xed, 1, -2},	{0xee, 1, -2},	   {0xef, 1, -2},
	{0x6c, 1, -2},	   {0x6d, 1, -2},	{0x6e, 1, -2},	   {0x6f, 1, -2},	{0xc8, 1, -2},	   {0xc9, 1, -2},
	{0xff, 1, 2},	   {0xff, 1, 4},	{0xff, 1, 6},	   {0xc3, 1, -2},	{0xb40f, 2, -1},   {0x020f, 2, -1},
	{0x030f, 2, -1},   {0x8f, 1, 0},	{0xa10f, 2, -2},   {0xa00f, 2, -2},	{0xa4, 1, -2},	   {0xa5, 1, -2},
	{0xaa, 1, -2},	   {0xab48, 2, -2},	{0xa6, 1, -2},	   {0xae, 1, -2},	{0xad, 1, -2},	   {0xb10ff0, 3, -1},
	{0xc10ff0, 3, -1}, {0x1b0ff2, 3, -1},	{0xd7, 1, -2},	   {0x77c5, 2, -2},
};

static const u32 msrs[] = {0x10,       0x1b,	   0x3a,       0x3b,	   0xfe,       0x174,	   0x175,      0x176,
			   0x179,      0x1a0,	   0x277,      0x2ff,	   0x200,      0x6e0,	   0x802,      0x80b,
			   0x80f,      0x830,	   0x832,      0x838,	   0x83f,      0xda0,	   0xc0000080, 0xc0000081,
			   0xc0000082, 0xc0000083, 0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102, 0xc0000103, 0xc0010015,
			   0x4b564d00, 0x4b564d01, 0x4b564d02, 0x4b564d03, 0x4b564d04};

static void put_system(struct text *t)
{
	u32 i = below(ARRAY_SIZE(system));

	if ((system[i].bytes & 0xfdff) == 0x300f) { /* ecx = a register that is there */
		put(t, 0xb9, 1);
		put(t, one_in(8) ? rnd() : msrs[below(ARRAY_SIZE(msrs))], 4);
	}
	if (one_in(6))
		put(t, one_in(2) ? 0xf3 : 0xf2, 1);
	put(t, system[i].bytes, system[i].n);
	if (system[i].ext != -2)
		put_operand(t, system[i].ext);
}

static void put_vector(struct text *t)
{
	if (one_in(2))
		put(t, 0xc4 | (rnd() & 0xffff00), 3);
	else
		put(t, 0x62 | (rnd() & 0xffffff00), 4);
	put(t, rnd(), 1);
	put_operand(t, -1);
}

static void put_any(struct text *t)
{
	static const u8 prefixes[] = {0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x64, 0x65, 0x2e};

	if (one_in(4))
		put(t, prefixes[below(sizeof(prefixes))], 1);
	if (one_in(2))
		put(t, 0x40 | (rnd() & 15), 1);
	if (one_in(3))
		put(t, 0x0f, 1);
	put(t, rnd(), 1);
	put_operand(t, -1);
}

static void write_code(struct text t)
{
	static void (*const kinds[])(struct text *) = {put_load, put_load, put_system, put_system, put_any, put_any, put_any, put_vector};

	for (u32 i = 0; i < INSNS; i++)
		kinds[below(ARRAY_SIZE(kinds))](&t);
	put(&t, 0x0b0f, 2);
}

/* ---- page tables */

static u64 some_frame(void)
{
	return one_in(6) ? (one_in(2) ? device_address() : rnd()) & ADDR_MASK & 0xffffffffffful : (u64)frames[below(FRAMES)];
}

static void change_mapping(void)
{
	u64 va = WINDOW + (1 + CODE_PAGES + below(WINDOW_PAGES - 1 - CODE_PAGES)) * PAGE;
	u64 flags = (rnd() & (P | W | U | PWT | PCD | A | D | G)) | (one_in(4) ? NX : 0) | (one_in(8) ? 0 : P);

	*paging_entry(paging_root(), va, 1) = some_frame() | flags;
	if (!one_in(4))
		invlpg((void *)va);
}

static void map_code(void)
{
	for (u32 i = 0; i < CODE_PAGES; i++)
		paging_map(WINDOW + i * PAGE, (u64)code_frames[i], P | W | U);
}

/* ---- running */

u64 chaos_regs[16];

/* All registers from regs, then the code; rsp stays a stack when bit 0 of the argument is clear. */
extern const u8 chaos_ring0[], chaos_ring3[];
__asm__(".text\n"
	".macro load_all\n"
	"	mov chaos_regs+8(%rip), %rcx\n	mov chaos_regs+16(%rip), %rdx\n	mov chaos_regs+24(%rip), %rbx\n	mov chaos_regs+40(%rip), "
	"%rbp\n"
	"	mov chaos_regs+48(%rip), %rsi\n	mov chaos_regs+56(%rip), %rdi\n	mov chaos_regs+64(%rip), %r8\n	mov chaos_regs+72(%rip), "
	"%r9\n"
	"	mov chaos_regs+80(%rip), %r10\n	mov chaos_regs+88(%rip), %r11\n	mov chaos_regs+96(%rip), %r12\n	mov chaos_regs+104(%rip), "
	"%r13\n"
	"	mov chaos_regs+112(%rip), %r14\n	mov chaos_regs+120(%rip), %r15\n"
	".endm\n"
	"chaos_ring0:\n"
	"	mov %rdi, %rax\n"
	"	test $1, %sil\n"
	"	jz 1f\n"
	"	mov chaos_regs+32(%rip), %rsp\n"
	"1:	push %rax\n" /* through a wild rsp this faults, which is as good an end as any */
	"	load_all\n"
	"	mov chaos_regs(%rip), %rax\n"
	"	ret\n"
	"chaos_ring3:\n"
	"	push $0x2b\n	push chaos_regs+32(%rip)\n	push $0x202\n	push $0x33\n	push %rdi\n"
	"	load_all\n"
	"	mov chaos_regs(%rip), %rax\n"
	"	iretq\n");

static u64 entry;

static u64 in_ring0(u64 wild)
{
	((void (*)(u64, u64))(u64)chaos_ring0)(entry, wild);
	return 0;
}

static u64 in_ring3(u64 unused)
{
	(void)unused;
	((void (*)(u64))(u64)chaos_ring3)(entry);
	return 0;
}

/* Whatever stack pointer and whatever rights the code has: every way out is a good one. */
static void take_all_ways_out(void)
{
	for (u32 v = 0; v < 256; v++) {
		idt[v].ist = 1;
		idt[v].type = one_in(2) ? 0xee : 0x8e;
	}
}

static struct {
	u64 cr0, cr3, cr4, efer;
	u32 xcr0, xcr0_high;
} sane;

static void remember_sanity(void)
{
	sane.cr0 = read_cr0();
	sane.cr3 = read_cr3();
	sane.cr4 = read_cr4();
	sane.efer = rdmsr(0xc0000080);
	if (sane.cr4 & CR4_OSXSAVE)
		__asm__ volatile("xgetbv" : "=a"(sane.xcr0), "=d"(sane.xcr0_high) : "c"(0));
}

static void restore_sanity(void)
{
	cli();
	write_cr3(sane.cr3);
	write_cr0(sane.cr0);
	write_cr4(sane.cr4);
	write_cr8(0);
	wrmsr(0xc0000080, sane.efer);
	write_dr7(0x400);
	if (sane.cr4 & CR4_OSXSAVE)
		__asm__ volatile("xsetbv" ::"c"(0), "a"(sane.xcr0), "d"(sane.xcr0_high));
	desc_load();
	__asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss; fninit; lldt %w1" ::"r"(SEL_DATA), "r"(0));
}

static void round(void)
{
	struct text t = {code_frames[0] + below(PAGE), code_frames[0] + PAGE};
	bool ring3 = one_in(2);

	for (u32 i = below(6); i; i--)
		change_mapping();
	if (one_in(3))
		map_code();
	for (u32 i = 0; i < 16; i++)
		chaos_regs[i] = value();
	entry = WINDOW + (u64)(t.at - code_frames[0]);
	write_code(t);
	if (one_in(4)) /* on into the next page */
		write_code((struct text){code_frames[1], code_frames[1] + PAGE});
	take_all_ways_out();
	write_cr4(sane.cr4 ^ (one_in(4) ? rnd() & (CR4_SMEP | CR4_SMAP | CR4_PGE | CR4_DE | CR4_TSD | CR4_UMIP | CR4_FSGSBASE) : 0));
	trap_guarded(ring3 ? in_ring3 : in_ring0, rnd());
	restore_sanity();
}

static u64 number(const char *name, u64 otherwise)
{
	extern const u64 boot_info;
	const u32 *info = (const u32 *)boot_info;
	const char *s = boot_info && (info[0] & 4) ? (const char *)(u64)info[4] : "";
	u64 n = 0, length = 0;

	while (name[length])
		length++;
	while (*s && memcmp(s, name, length))
		s++;
	if (!*s)
		return otherwise;
	for (s += length; *s >= '0' && *s <= '9'; s++)
		n = n * 10 + (u64)(*s - '0');
	return n;
}

static void find_devices(void)
{
	struct virtio v;

	for (u32 dev = 0; dev < 32 && nbars < VIRTIO_SLOTS; dev++)
		if (virtio_find(dev, &v))
			bar[nbars++] = (u64)v.common;
}

void guest_main(void)
{
	u64 rounds = number("rounds=", 300);

	prng = number("seed=", 1) * 0x9e3779b97f4a7c15ul + 88172645463325252ul;
	for (u32 i = 0; i < FRAMES; i++)
		frames[i] = page_alloc();
	for (u32 i = 0; i < CODE_PAGES; i++)
		code_frames[i] = page_alloc();
	find_devices();
	map_code();
	remember_sanity();
	for (loop_count = 0; loop_count < rounds; loop_count++)
		round();
}
