/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads and writes of every width at random ports and device addresses, aligned or not, string I/O with large counts. Nothing is expected
 * of the devices; the machine must live. Left out: what legitimately ends or resets it, and interrupt commands that would stop this CPU.
 */
#include "lib.h"

static u64 state = 88172645463325252ul;

static u64 rnd(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

struct range {
	u32 first, last;
};

/* port 92, keyboard controller, PM1 and reset registers, this test's exit port */
static const struct range forbidden[] = {{0x60, 0x64}, {0x92, 0x92}, {0xf4, 0xf7}, {0x600, 0x60b}, {0xcf9, 0xcf9}};

static bool port_allowed(u32 port, u32 size)
{
	for (u32 i = 0; i < ARRAY_SIZE(forbidden); i++)
		if (port <= forbidden[i].last && port + size > forbidden[i].first)
			return false;
	return port + size <= 0x10000;
}

static u32 random_port(void)
{
	static const u16 known[] = {0x20, 0x21,	 0x40,	0x43,  0x61,  0x70,  0x71,  0x80,  0xa0,
				    0xa1, 0x3f8, 0x3fd, 0x4d0, 0x620, 0xcf8, 0xcfc, 0xcfe, 0xc000};

	return rnd() & 1 ? known[rnd() % ARRAY_SIZE(known)] + rnd() % 4 : rnd() % 0x10000;
}

static void serial_again(void)
{
	outb(0x3f8 + 3, 3);
	outb(0x3f8 + 1, 0);
	outb(0x3f8 + 4, 0);
}

static void ports(void)
{
	for (u32 i = 0; i < 100; i++) {
		u32 port = random_port(), v = (u32)rnd();

		if (!port_allowed(port, 4))
			continue;
		switch (rnd() % 6) {
		case 0:
			outb((u16)port, (u8)v);
			break;
		case 1:
			outw((u16)port, (u16)v);
			break;
		case 2:
			outl((u16)port, v);
			break;
		case 3:
			(void)inb((u16)port);
			break;
		case 4:
			(void)inw((u16)port);
			break;
		default:
			(void)inl((u16)port);
		}
	}
}

/* The local APIC's command registers could send this CPU INIT. */
static bool address_allowed(u64 at, u64 size)
{
	u64 page = at & ~0xffful;

	return page != 0xfee00000 || (at & 0xfff) + size <= 0x300 || (at & 0xfff) >= 0x320;
}

static u64 random_address(void)
{
	static const u64 known[] = {0xfec00000, 0xfee00000, 0xe0000000, 0xe0008000, 0xc0000000, 0xc0001000, 0xc0004000, 0xffff0000};

	if (rnd() & 3)
		return known[rnd() % ARRAY_SIZE(known)] + rnd() % 0x1000;
	return 0xc0000000 + rnd() % 0x3fffff00;
}

static void device_memory(void)
{
	for (u32 i = 0; i < 100; i++) {
		u64 at = random_address(), v = rnd(), sum = 0;

		if (!address_allowed(at, 64))
			continue;
		switch (rnd() % 14) {
		case 0:
			*(volatile u8 *)at = (u8)v;
			break;
		case 1:
			*(volatile u16 *)at = (u16)v;
			break;
		case 2:
			*(volatile u32 *)at = (u32)v;
			break;
		case 3:
			*(volatile u64 *)at = v;
			break;
		case 4:
			sum += *(volatile u8 *)at;
			break;
		case 5:
			sum += *(volatile u16 *)at;
			break;
		case 6:
			sum += *(volatile u32 *)at;
			break;
		case 7:
			sum += *(volatile u64 *)at;
			break;
		case 8:
			__asm__ volatile("lock xaddl %k0, (%1)" : "+r"(v) : "r"(at) : "memory", "cc");
			break;
		case 9:
			__asm__ volatile("movups (%0), %%xmm0; movups %%xmm0, (%0)" ::"r"(at) : "memory");
			break;
		case 10:
			__asm__ volatile("btsl %k1, (%0)" ::"r"(at), "r"(v & 31) : "memory", "cc");
			break;
		case 11: {
			u64 di = at & ~0xffful, cx = 32;

			if (address_allowed(di, 0x400))
				__asm__ volatile("rep stosq" : "+D"(di), "+c"(cx) : "a"(v) : "memory");
			break;
		}
		case 12:
			__asm__ volatile("cmpxchg %b2, (%1)" : "+a"(v) : "r"(at), "r"(sum) : "memory", "cc");
			break;
		default:
			__asm__ volatile("fldl (%0); fstpl (%0)" ::"r"(at) : "memory");
		}
	}
}

static void string_io(void)
{
	static u8 buf[65536];
	u64 cx = 16384, p = (u64)buf, from;

	__asm__ volatile("rep outsl" : "+S"(p), "+c"(cx) : "d"(0x80) : "memory");
	cx = 65536;
	p = (u64)buf;
	__asm__ volatile("rep insb" : "+D"(p), "+c"(cx) : "d"(0x71) : "memory");
	/* memory-mapped source and destination */
	p = (u64)buf;
	cx = 64;
	from = 0xfec00000;
	__asm__ volatile("rep movsl" : "+D"(p), "+c"(cx), "+S"(from)::"memory");
}

static bool swallow(struct trap_frame *f)
{
	return true;
}

void guest_main(void)
{
	if (in_qemu())
		guest_skip("this asks nothing of QEMU");
	for (u32 v = 32; v < 256; v++)
		trap_set_handler(v, swallow);
	trap_set_handler(NMI, swallow);
	LOOP(ports);
	serial_again();
	LOOP(device_memory);
	loop_check("string_io", string_io, 5);
	serial_again();
}
