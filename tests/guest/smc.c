/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Self-modifying code, as on a CPU that snoops its own stores: the modified instruction counts from the next one executed on, whoever wrote
 * it and through whichever address.
 */
#include "lib.h"

static u8 *code, *other;
static const u64 va = TEST_VA + 0x400000;
typedef u64 (*function)(u64, u64);

static void put(u8 *at, const void *bytes, u32 n)
{
	for (u32 i = 0; i < n; i++)
		((volatile u8 *)at)[i] = ((const u8 *)bytes)[i];
}

static void put_return(u8 *at, u32 value)
{
	const u8 b[6] = {0xb8, (u8)value, (u8)(value >> 8), (u8)(value >> 16), (u8)(value >> 24), 0xc3};

	put(at, b, 6);
}

static void patched_between_calls(void)
{
	for (u32 i = 0; i < 20; i++) {
		put_return(code, i);
		CHECK_EQ(((function)code)(0, 0), i);
	}
}

static void immediate_patched_between_calls(void)
{
	put_return(code, 0);
	for (u32 i = 0; i < 20; i++) {
		*(volatile u32 *)(code + 1) = i * 0x01010101;
		CHECK_EQ(((function)code)(0, 0), i * 0x01010101);
	}
}

/* The store changes the immediate of the very next instruction. */
static void next_instruction(void)
{
	static const u8 body[] = {
		0x89, 0x3d, 1, 0, 0, 0, /* mov %edi, 1(%rip): the immediate below */
		0xb8, 0,    0, 0, 0,	/* mov $0, %eax */
		0xc3,
	};

	put(code, body, sizeof(body));
	for (u32 i = 1; i < 20; i++)
		CHECK_EQ(((function)code)(i * 77, 0), i * 77);
}

/* The store changes an instruction further on in the same straight run. */
static void same_block(void)
{
	static const u8 body[] = {
		0x89, 0x3d, 7,	  0,	0,    0,		      /* mov %edi, 7(%rip) */
		0x31, 0xc0, 0x90, 0x90, 0x90, 0x90, 0x05, 0, 0, 0, 0, /* xor %eax, %eax; nops; add $0, %eax */
		0xc3,
	};

	put(code, body, sizeof(body));
	for (u32 i = 1; i < 20; i++)
		CHECK_EQ(((function)code)(i * 99, 0), i * 99);
}

/* A loop whose body rewrites its own increment each time round. */
static void patch_in_a_loop(void)
{
	static const u8 body[] = {
		0x31, 0xc0,			    /* xor %eax, %eax */
		0x05, 1,    0,	  0,	0,	    /* 2: add $1, %eax */
		0xff, 0x05, 0xf6, 0xff, 0xff, 0xff, /* incl -10(%rip): that immediate */
		0xff, 0xcf,			    /* dec %edi */
		0x75, 0xf1,			    /* jnz 2b */
		0xc3,
	};

	put(code, body, sizeof(body));
	CHECK_EQ(((function)code)(50, 0), 50 * 51 / 2);
	put(code, body, sizeof(body));
	CHECK_EQ(((function)code)(3, 0), 6);
}

/* rep stosb over code that comes right behind it */
static void string_store_over_code(void)
{
	static const u8 body[] = {
		0x48, 0x8d, 0x3d, 10, 0, 0,    0,	   /* lea 10(%rip), %rdi */
		0xb0, 0x90,				   /* mov $0x90, %al */
		0xb9, 2,    0,	  0,  0, 0xf3, 0xaa, 0x90, /* mov $2, %ecx; rep stosb; nop */
		0x0f, 0x0b,				   /* ud2, becomes two nops */
		0xb8, 5,    0,	  0,  0, 0xc3,
	};

	put(code, body, sizeof(body));
	CHECK_EQ(((function)code)(0, 0), 5);
}

static void through_an_alias(void)
{
	paging_map(va, (u64)code, P);		 /* executed here */
	paging_map(va + PAGE, (u64)code, P | W); /* written here */
	for (u32 i = 0; i < 20; i++) {
		put_return((u8 *)(va + PAGE) + 0x80, i * 3);
		CHECK_EQ(((function)(va + 0x80))(0, 0), i * 3);
		CHECK_EQ(((function)(code + 0x80))(0, 0), i * 3);
	}
}

/* The same linear address, other frames. */
static void remapped(void)
{
	put_return(code, 111);
	put_return(other, 222);
	for (u32 i = 0; i < 4; i++) {
		paging_map(va, (u64)code, P);
		CHECK_EQ(((function)va)(0, 0), 111);
		paging_map(va, (u64)other, P);
		CHECK_EQ(((function)va)(0, 0), 222);
	}
}

/* One block calls another page that gets patched; both were linked before. */
static void callee_in_another_page(void)
{
	u8 call[] = {0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xd0, 0x83, 0xc0, 1, 0xc3}; /* mov $f, %rax; call *%rax; add $1, %eax; ret */
	u64 target = (u64)other;

	memcpy(call + 2, &target, 8);
	put(code, call, sizeof(call));
	for (u32 i = 0; i < 20; i++) {
		put_return(other, i);
		CHECK_EQ(((function)code)(0, 0), i + 1);
	}
}

static void jump_retargeted(void)
{
	put_return(code + 0x100, 1);
	put_return(code + 0x200, 2);
	for (u32 i = 0; i < 10; i++) {
		u8 jmp[5] = {0xe9};
		int rel = (i & 1 ? 0x200 : 0x100) - 5;

		memcpy(jmp + 1, &rel, 4);
		put(code, jmp, 5);
		CHECK_EQ(((function)code)(0, 0), i & 1 ? 2 : 1);
	}
}

/* Data in a page that also holds code is written all the time; the code stays right, and the data too. */
static void data_beside_code(void)
{
	volatile u64 *counter = (u64 *)(code + 0x800);

	put_return(code, 42);
	*counter = 0;
	for (u32 i = 0; i < 50; i++) {
		CHECK_EQ(((function)code)(0, 0), 42);
		(*counter)++;
	}
	CHECK_EQ(*counter, 50);
}

static void code_page_becomes_data(void)
{
	put_return(code, 7);
	CHECK_EQ(((function)code)(0, 0), 7);
	memset(code, 0x55, PAGE);
	for (u32 i = 0; i < PAGE; i += 61)
		CHECK_EQ(code[i], 0x55);
	put_return(code + 0x700, 9);
	CHECK_EQ(((function)(code + 0x700))(0, 0), 9);
}

/* A breakpoint written over the first byte of an instruction and taken away again, as kprobes do. */
static void breakpoint_in_and_out(void)
{
	put_return(code, 13);
	CHECK_EQ(((function)code)(0, 0), 13);
	code[0] = 0xcc;
	trap_clear();
	trap_guarded((u64(*)(u64))(u64)code, 0);
	CHECK_EQ(trap.vector, BP);
	CHECK_EQ(trap.frame.rip, (u64)code + 1);
	code[0] = 0xb8;
	CHECK_EQ(((function)code)(0, 0), 13);
}

/* Code in the page under rip is replaced by a store that crosses from the page before. */
static void straddling_store_over_code(void)
{
	paging_map(va, (u64)other, P | W);
	paging_map(va + PAGE, (u64)code, P | W);
	put_return(code, 0x44332211);
	CHECK_EQ(((function)(va + PAGE))(0, 0), 0x44332211);
	*(volatile u64 *)(va + PAGE - 4) = 0x332278b800000000; /* b8 78 22 33 */
	CHECK_EQ(((function)(va + PAGE))(0, 0), 0x44332278);
}

void guest_main(void)
{
	code = page_alloc();
	other = page_alloc();
	paging_map(va, (u64)code, P);
	LOOP(patched_between_calls);
	LOOP(immediate_patched_between_calls);
	LOOP(next_instruction);
	LOOP(same_block);
	LOOP(patch_in_a_loop);
	LOOP(string_store_over_code);
	LOOP(through_an_alias);
	LOOP(remapped);
	LOOP(callee_in_another_page);
	LOOP(jump_retargeted);
	LOOP(data_beside_code);
	LOOP(code_page_becomes_data);
	LOOP(breakpoint_in_and_out);
	LOOP(straddling_store_over_code);
}
