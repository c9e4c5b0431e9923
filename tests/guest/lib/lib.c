/* SPDX-License-Identifier: Apache-2.0 */
/* Reporting, memory functions, start of the guest. See lib.h. */
#include "lib.h"
#include "private.h"

#define COM1 0x3f8

extern const u64 boot_info;
u64 loop_count;
const char *loop_name;

static void print_char(char c)
{
	for (u32 spins = 0; !(inb(COM1 + 5) & 0x20) && spins < 100000; spins++)
		;
	outb(COM1, (u8)c);
}

void print(const char *s)
{
	for (; *s; s++)
		print_char(*s);
}

void print_hex(u64 v)
{
	print("0x");
	for (int shift = 60; shift >= 0; shift -= 4)
		if (v >> shift || !shift)
			print_char("0123456789abcdef"[v >> shift & 15]);
}

static void print_decimal(u64 v)
{
	if (v >= 10)
		print_decimal(v / 10);
	print_char((char)('0' + v % 10));
}

_Noreturn void guest_exit(u32 value)
{
	outl(EXIT_PORT, value);
	for (;;)
		__asm__ volatile("cli; hlt");
}

_Noreturn void guest_skip(const char *why)
{
	print("SKIP: ");
	print(why);
	print("\n");
	guest_exit(EXIT_SKIP);
}

_Noreturn void check_failed(const char *file, int line, const char *what, u64 got, u64 want)
{
	print("FAIL ");
	print(file);
	print(":");
	print_decimal((u64)line);
	print(": ");
	print(what);
	print(": got ");
	print_hex(got);
	print(", want ");
	print_hex(want);
	if (loop_name) {
		print(" (in ");
		print(loop_name);
		print(", round ");
		print_decimal(loop_count);
		print(")");
	}
	print("\n  last trap: ");
	trap_print();
	guest_exit(EXIT_FAIL);
}

/* What follows `word` on the kernel command line; NULL: it is not there. */
static const char *option(const char *word, u64 length)
{
	const u32 *info = (const u32 *)boot_info;
	const char *s = boot_info && (info[0] & 4) ? (const char *)(u64)info[4] : "";

	while (*s && memcmp(s, word, length))
		s++;
	return *s ? s + length : NULL;
}

/* "loops=N": no check is repeated more often. For slow engines. */
static u32 loop_limit(void)
{
	const char *s = option("loops=", 6);
	u32 n = 0;

	for (; s && *s >= '0' && *s <= '9'; s++)
		n = n * 10 + (u32)(*s - '0');
	return n ? n : ~0u;
}

void loop_check(const char *name, void (*fn)(void), u32 times)
{
	u32 limit = loop_limit();

	if (times > limit)
		times = limit;
	loop_name = name;
	for (loop_count = 0; loop_count < times; loop_count++)
		fn();
	loop_name = NULL;
}

bool cpuid_bit(u32 leaf, u32 sub, u32 reg, u32 bit)
{
	u32 r[4];

	cpuid(leaf & 0x80000000, 0, r);
	if (r[0] < leaf)
		return false;
	cpuid(leaf, sub, r);
	return r[reg] >> bit & 1;
}

bool in_qemu(void)
{
	u32 r[4];

	if (!cpuid_bit(1, 0, 2, 31))
		return false;
	cpuid(0x40000000, 0, r);
	return r[1] == 0x54474354; /* "TCGT" */
}

/* What is beneath KVM only who starts the guest knows. */
bool on_qemu_svm(void)
{
	return option("cpu=tcg", 7) != NULL;
}

bool on_qemu_tcg(void)
{
	return in_qemu() || on_qemu_svm();
}

/* QEMU's SVM may let the interrupt in between STI and HLT, which would then wait for another. */
void halt_until_interrupt(void)
{
	if (on_qemu_svm())
		__asm__ volatile("sti; pause; cli" ::: "memory");
	else
		__asm__ volatile("sti; hlt; cli" ::: "memory");
}

bool on_kvm(void)
{
	return option("engine=kvm", 10) != NULL;
}

void *memset(void *d, int c, u64 n)
{
	void *at = d;

	__asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(c) : "memory");
	return d;
}

void *memcpy(void *d, const void *s, u64 n)
{
	void *at = d;

	__asm__ volatile("rep movsb" : "+D"(at), "+S"(s), "+c"(n)::"memory");
	return d;
}

int memcmp(const void *a, const void *b, u64 n)
{
	const u8 *x = a, *y = b;

	for (u64 i = 0; i < n; i++)
		if (x[i] != y[i])
			return x[i] - y[i];
	return 0;
}

/* What Linux switches on for its programs. Where an engine runs user code directly, it does so only then. */
static void enable_as_linux(void)
{
	bool xsave = cpuid_bit(1, 0, 2, 26);
	u64 fsgsbase = cpuid_bit(7, 0, 1, 0) ? 1ul << 16 : 0, umip = cpuid_bit(7, 0, 2, 2) ? 1ul << 11 : 0, osxsave = xsave ? 1ul << 18 : 0;
	u32 r[4];

	write_cr4(read_cr4() | fsgsbase | umip | osxsave);
	if (!xsave)
		return;
	cpuid(0xd, 0, r);
	__asm__ volatile("xsetbv" ::"c"(0), "a"(r[0]), "d"(r[3]));
}

void lib_main(void)
{
	outb(0x21, 0xff); /* firmware may have left the old interrupt controllers open */
	outb(0xa1, 0xff);
	desc_load();
	trap_init();
	paging_init();
	enable_as_linux();
	guest_main();
	print("PASS\n");
	guest_exit(EXIT_PASS);
}
