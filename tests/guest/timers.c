/* SPDX-License-Identifier: Apache-2.0 */
/* The LAPIC timer in all its modes, the PIT through the IOAPIC (edge), masking, x2APIC MSRs, ICR in x2APIC mode, that time goes forward. */
#include "lib.h"

#define VEC 0x50
#define VEC_PIT 0x60
#define LIMIT 4000000000ul /* TSC ticks: over a second */
#define IOAPIC 0xfec00000ul
#define MSR_TSC_DEADLINE 0x6e0

static void irq_reset(u32 vector)
{
	irq_count[vector] = 0;
	irq_catch(vector);
}

/* The nth. What is late by a millisecond, as with QEMU's SVM, cannot be told from what was not to come. */
static bool none_comes(u32 n)
{
	return on_qemu_svm() || !wait_until(&irq_count[VEC], n, 3000000);
}

static void oneshot(void)
{
	irq_reset(VEC);
	apic_write(APIC_TDCR, 0xb); /* divide by 1 */
	apic_write(APIC_LVTT, VEC);
	apic_write(APIC_TMICT, 100000);
	CHECK(apic_read(APIC_TMCCT) <= 100000);
	CHECK(wait_until(&irq_count[VEC], 1, LIMIT));
	CHECK_EQ(apic_read(APIC_TMCCT), 0);
	CHECK(none_comes(2)); /* once */
}

static void masked(void)
{
	irq_reset(VEC);
	apic_write(APIC_LVTT, VEC | 1 << 16);
	apic_write(APIC_TMICT, 1000);
	CHECK(none_comes(1));
	apic_write(APIC_LVTT, VEC);
}

static void stopped(void)
{
	irq_reset(VEC);
	apic_write(APIC_LVTT, VEC);
	apic_write(APIC_TMICT, 1000000000);
	apic_write(APIC_TMICT, 0);
	CHECK_EQ(apic_read(APIC_TMCCT), 0);
	CHECK(none_comes(1));
}

static void periodic(void)
{
	irq_reset(VEC);
	apic_write(APIC_LVTT, VEC | 1 << 17);
	apic_write(APIC_TMICT, 200000);
	CHECK(wait_until(&irq_count[VEC], 10, 4 * LIMIT));
	apic_write(APIC_TMICT, 0);
	irq_reset(VEC);
	CHECK(none_comes(2)); /* one may have been on its way */
}

/* Timer ticks in a million TSC ticks. Anew where the host took time away between the two clocks. */
static u64 tick_rate(u32 divide)
{
	u64 before, start, end, ticks, after;

	apic_write(APIC_TDCR, divide);
	do {
		before = rdtsc();
		apic_write(APIC_TMICT, 0xffffffff);
		start = rdtsc();
		while ((end = rdtsc()) - start < 2000000)
			;
		ticks = 0xffffffff - apic_read(APIC_TMCCT);
		after = rdtsc();
		apic_write(APIC_TMICT, 0);
	} while (after - before > 2 * (end - start));
	return ticks * 1000000 / (end - start);
}

static void divider(void)
{
	u64 by1, by128;

	apic_write(APIC_LVTT, VEC | 1 << 16);
	by1 = tick_rate(0xb);
	by128 = tick_rate(0xa);
	CHECK(by1 > by128 * 32);
	CHECK(by1 < by128 * 512);
}

static void deadline(void)
{
	irq_reset(VEC);
	apic_write(APIC_LVTT, VEC | 2 << 17);
	wrmsr(MSR_TSC_DEADLINE, rdtsc() + 100000);
	CHECK(wait_until(&irq_count[VEC], 1, LIMIT));
	CHECK_EQ(rdmsr(MSR_TSC_DEADLINE), 0);
	/* in the past: at once */
	wrmsr(MSR_TSC_DEADLINE, 1);
	CHECK(wait_until(&irq_count[VEC], 2, LIMIT));
	/* disarmed */
	wrmsr(MSR_TSC_DEADLINE, rdtsc() + 1000000);
	wrmsr(MSR_TSC_DEADLINE, 0);
	CHECK(none_comes(3));
	/* the initial count is ignored in this mode */
	apic_write(APIC_TMICT, 1000);
	CHECK(none_comes(3));
	/* not before its time */
	for (u32 i = 0; i < 5; i++) {
		u64 when = rdtsc() + 300000;

		irq_reset(VEC);
		wrmsr(MSR_TSC_DEADLINE, when);
		CHECK(wait_until(&irq_count[VEC], 1, LIMIT));
		CHECK(rdtsc() >= when);
	}
	apic_write(APIC_LVTT, VEC);
}

#define MSR_TSC 0x10
#define MSR_TSC_ADJUST 0x3b
#define LEAP (1ul << 40) /* minutes */

/* Deadlines are points of the TSC, wherever the guest sets it. */
static void deadline_follows_tsc(void)
{
	u64 before = rdtsc();

	irq_reset(VEC);
	apic_write(APIC_LVTT, VEC | 2 << 17);
	wrmsr(MSR_TSC_DEADLINE, rdtsc() + LEAP);
	CHECK(!wait_until(&irq_count[VEC], 1, 300000));
	wrmsr(MSR_TSC, rdtsc() + LEAP);
	CHECK(rdtsc() - before >= LEAP);
	CHECK(rdtsc() - before < LEAP + LEAP / 2);
	CHECK(wait_until(&irq_count[VEC], 1, LIMIT));
	/* ... and back: what was near is far away */
	wrmsr(MSR_TSC_DEADLINE, rdtsc() + 30000000);
	wrmsr(MSR_TSC_ADJUST, rdmsr(MSR_TSC_ADJUST) - LEAP);
	CHECK(rdtsc() - before < LEAP / 2);
	CHECK(!wait_until(&irq_count[VEC], 2, 60000000));
	wrmsr(MSR_TSC_DEADLINE, 0);
	apic_write(APIC_LVTT, VEC);
}

#define MSR_KVM_SYSTEM_TIME 0x4b564d01

static volatile struct {
	u32 version, pad0;
	u64 tsc_timestamp, system_time;
	u32 mul;
	signed char shift;
	u8 flags, pad[2];
} kvm_time __attribute__((aligned(32)));

static u64 kvm_clock(void)
{
	u64 ticks = rdtsc() - kvm_time.tsc_timestamp;

	ticks = kvm_time.shift < 0 ? ticks >> -kvm_time.shift : ticks << kvm_time.shift;
	return kvm_time.system_time + (u64)((unsigned __int128)ticks * kvm_time.mul >> 32);
}

/* The paravirtual clock goes on as if nothing had happened. */
static void kvm_clock_follows_tsc(void)
{
	u64 before;

	wrmsr(MSR_KVM_SYSTEM_TIME, (u64)&kvm_time | 1);
	before = kvm_clock();
	wrmsr(MSR_TSC, rdtsc() + LEAP);
	CHECK(kvm_clock() >= before);
	CHECK(kvm_clock() - before < 2000000000);
	CHECK_EQ(kvm_time.version & 1, 0);
	wrmsr(MSR_TSC_ADJUST, 0);
	CHECK(kvm_clock() >= before);
	CHECK(kvm_clock() - before < 2000000000);
	wrmsr(MSR_KVM_SYSTEM_TIME, 0);
}

static bool has_kvm_clock(void)
{
	u32 r[4];

	cpuid(0x40000000, 0, r);
	if (r[1] != 0x4b4d564b) /* "KVMK" */
		return false;
	cpuid(0x40000001, 0, r);
	return r[0] >> 3 & 1;
}

static u32 ioapic_read(u32 reg)
{
	*(volatile u32 *)IOAPIC = reg;
	return *(volatile u32 *)(IOAPIC + 0x10);
}

static void ioapic_write(u32 reg, u32 v)
{
	*(volatile u32 *)IOAPIC = reg;
	*(volatile u32 *)(IOAPIC + 0x10) = v;
}

static void ioapic_entry(u32 pin, u32 low, u32 high)
{
	ioapic_write(0x11 + 2 * pin, high);
	ioapic_write(0x10 + 2 * pin, low);
}

#define MASKED (1u << 16)
#define PIT_PIN 2 /* ISA interrupt 0 is wired to pin 2 */

static void pit_periodic(u16 count)
{
	outb(0x43, 0x34); /* channel 0, mode 2 */
	outb(0x40, (u8)count);
	outb(0x40, (u8)(count >> 8));
}

static void pit_through_ioapic(void)
{
	irq_reset(VEC_PIT);
	ioapic_entry(PIT_PIN, VEC_PIT, apic_read(APIC_ID) & 0xff000000);
	CHECK_EQ(ioapic_read(0x10 + 2 * PIT_PIN) & 0xff, VEC_PIT);
	pit_periodic(1193); /* a millisecond */
	CHECK(wait_until(&irq_count[VEC_PIT], 5, 4 * LIMIT));
	ioapic_entry(PIT_PIN, VEC_PIT | MASKED, 0);
	wait_until(&irq_count[VEC_PIT], ~0u, 2000000);
	irq_reset(VEC_PIT);
	CHECK(!wait_until(&irq_count[VEC_PIT], 1, 12000000));
}

/* Mode 0 raises the line once. It is set first, since what ran before may be periodic. */
static void pit_oneshot(void)
{
	outb(0x43, 0x30);
	irq_reset(VEC_PIT);
	ioapic_entry(PIT_PIN, VEC_PIT, apic_read(APIC_ID) & 0xff000000);
	outb(0x40, 0);
	outb(0x40, 4);
	CHECK(wait_until(&irq_count[VEC_PIT], 1, LIMIT));
	CHECK(!wait_until(&irq_count[VEC_PIT], 2, 12000000));
	ioapic_entry(PIT_PIN, MASKED, 0);
}

static void ioapic_registers(void)
{
	u32 pins = (ioapic_read(1) >> 16 & 0xff) + 1;

	CHECK(pins >= 24);
	for (u32 i = 0; i < pins; i++) {
		ioapic_entry(i, MASKED | 0x1a0 | i, 0x05000000);
		CHECK_EQ(ioapic_read(0x10 + 2 * i) & 0x100ff, MASKED | 0xa0 | i);
		CHECK_EQ(ioapic_read(0x11 + 2 * i) & 0xff000000, 0x05000000);
		ioapic_entry(i, MASKED, 0);
	}
	ioapic_write(0x7f, 5); /* no such register */
	(void)ioapic_read(0x7f);
}

static void tsc_goes_forward(void)
{
	u64 last = rdtsc(), now;

	for (u32 i = 0; i < 100; i++) {
		now = rdtsc();
		CHECK(now >= last);
		last = now;
	}
}

static void x2apic(void)
{
	u64 base = rdmsr(0x1b), id = apic_read(APIC_ID) >> 24;

	wrmsr(0x1b, base | 0xc00);
	CHECK_EQ(rdmsr(0x802), id);
	CHECK_EQ(rdmsr(0x803) & 0xff, 0x14);			   /* version */
	CHECK_EQ(rdmsr(0x80d), 1u << (id & 15) | (id >> 4) << 16); /* LDR follows from the id */
	irq_count[VEC] = 0;
	trap_set_handler(VEC, NULL);
	wrmsr(0x83f, 0); /* harmless: vector 0 is below 16, an error is recorded */
	wrmsr(0x828, 0);
	wrmsr(0x80b, 0);
	if (!on_kvm()) { /* which takes any value */
		trap_clear();
		__asm__ volatile(TRY("wrmsr")::"c"(0x80b), "a"(1), "d"(0)); /* EOI takes 0 only */
		TRIED(GP, 0);
	}
	trap_clear();
	__asm__ volatile(TRY("wrmsr")::"c"(0x802), "a"(1), "d"(0)); /* read-only */
	TRIED(GP, 0);
	trap_clear();
	__asm__ volatile(TRY("rdmsr")::"c"(0x80e) : "rax", "rdx"); /* DFR does not exist in this mode */
	TRIED(GP, 0);
	trap_clear();
	__asm__ volatile(TRY("wrmsr")::"c"(0x1b), "a"((u32)base), "d"((u32)(base >> 32))); /* x2APIC to xAPIC directly */
	TRIED(GP, 0);
	wrmsr(0x1b, base & ~0xc00ul);
	wrmsr(0x1b, base);
	apic_write(APIC_SPIV, 0x1ff);
}

static bool count_x2(struct trap_frame *f)
{
	irq_count[f->vector]++;
	wrmsr(0x80b, 0);
	return true;
}

static void x2apic_self_ipi(void)
{
	u64 base = rdmsr(0x1b);

	wrmsr(0x1b, base | 0xc00);
	wrmsr(0x80f, 0x1ff);
	irq_count[VEC] = 0;
	trap_set_handler(VEC, count_x2);
	wrmsr(0x83f, VEC);
	CHECK(wait_until(&irq_count[VEC], 1, LIMIT));
	wrmsr(0x830, rdmsr(0x802) << 32 | VEC);
	CHECK(wait_until(&irq_count[VEC], 2, LIMIT));
	wrmsr(0x830, 1u << 18 | VEC);
	CHECK(wait_until(&irq_count[VEC], 3, LIMIT));
	wrmsr(0x1b, base & ~0xc00ul);
	wrmsr(0x1b, base);
	apic_write(APIC_SPIV, 0x1ff);
}

void guest_main(void)
{
	apic_enable();
	loop_check("oneshot", oneshot, 20);
	FEW(masked);
	FEW(stopped);
	loop_check("periodic", periodic, 10);
	FEW(divider);
	if (cpuid_bit(1, 0, 2, 24))
		loop_check("deadline", deadline, 10);
	/* QEMU's TCG has a TSC that cannot be written */
	if (cpuid_bit(1, 0, 2, 24) && cpuid_bit(7, 0, 1, 1) && !in_qemu())
		FEW(deadline_follows_tsc);
	if (has_kvm_clock() && cpuid_bit(7, 0, 1, 1) && !in_qemu())
		loop_check("kvm_clock_follows_tsc", kvm_clock_follows_tsc, 50);
	LOOP(ioapic_registers);
	FEW(pit_through_ioapic);
	FEW(pit_oneshot);
	LOOP(tsc_goes_forward);
	if (cpuid_bit(1, 0, 2, 21)) {
		LOOP(x2apic);
		LOOP(x2apic_self_ipi);
	}
}
