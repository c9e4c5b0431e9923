/* SPDX-License-Identifier: Apache-2.0 */
/* Starting processors and giving them work. See smp.h. */
#include "smp.h"

#define MSR_APIC_BASE 0x1b
#define MSR_X2APIC_ID 0x802
#define MSR_X2APIC_EOI 0x80b
#define MSR_X2APIC_SPIV 0x80f
#define MSR_X2APIC_ICR 0x830

extern const u8 smp_trampoline[], smp_trampoline_end[], smp_values[];
u8 smp_stacks[MAX_CPUS + 1][16384] __attribute__((aligned(16)));
void smp_started(u32 cpu);

u32 ncpus, party, started[MAX_CPUS];
static bool by_x2apic;
static job_fn job;
static u32 job_number[MAX_CPUS], jobs_done;

/* ---- the local APIC ---- */

static void enable(void)
{
	if (!by_x2apic) {
		apic_enable();
		return;
	}
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0xc00);
	wrmsr(MSR_X2APIC_SPIV, 0x1ff);
}

void send(u32 dest, u32 icr)
{
	if (by_x2apic) {
		wrmsr(MSR_X2APIC_ICR, (u64)dest << 32 | icr);
		return;
	}
	apic_write(APIC_ICR2, dest << 24);
	apic_write(APIC_ICR, icr);
}

void eoi(void)
{
	if (by_x2apic)
		wrmsr(MSR_X2APIC_EOI, 0);
	else
		apic_write(APIC_EOI, 0);
}

u32 self(void)
{
	return by_x2apic ? (u32)rdmsr(MSR_X2APIC_ID) : apic_read(APIC_ID) >> 24;
}

static bool on_wake(struct trap_frame *f)
{
	eoi();
	return true;
}

/* ---- starting ---- */

static void put_trampoline(void)
{
	const u32 values[4] = {(u32)read_cr4(), (u32)read_cr3(), (u32)rdmsr(0xc0000080) & ~0x400u, (u32)read_cr0()};

	memcpy((void *)(u64)TRAMPOLINE, smp_trampoline, (u64)(smp_trampoline_end - smp_trampoline));
	memcpy((u8 *)(u64)TRAMPOLINE + (smp_values - smp_trampoline), values, sizeof(values));
}

void smp_prepare(bool x2apic)
{
	u32 r[4];

	cpuid(1, 0, r);
	ncpus = r[1] >> 16 & 0xff;
	if (ncpus < 2 || ncpus > MAX_CPUS)
		guest_skip("needs 2 to 64 processors");
	if (x2apic && !cpuid_bit(1, 0, 2, 21))
		guest_skip("needs x2APIC");
	by_x2apic = x2apic;
	enable();
	put_trampoline();
	trap_set_handler(VEC_WAKE, on_wake);
}

void smp_init(u32 cpu)
{
	send(cpu, MODE_INIT | ASSERT);
	delay(2000000);
}

void smp_sipi(u32 cpu)
{
	send(cpu, MODE_STARTUP | TRAMPOLINE >> 12);
}

void smp_start(u32 cpu)
{
	u32 before = load32(&started[cpu]);

	smp_init(cpu);
	smp_sipi(cpu);
	wait_for(&started[cpu], before + 1);
}

void smp_started(u32 cpu)
{
	const struct dtr gdtr = {sizeof(gdt) - 1, (u64)gdt}, idtr = {sizeof(idt) - 1, (u64)idt};
	u32 number = load32(&job_number[cpu]);

	__asm__ volatile("lgdt %0" ::"m"(gdtr));
	__asm__ volatile("lidt %0" ::"m"(idtr));
	enable();
	CHECK_EQ(self(), cpu);
	__atomic_add_fetch(&started[cpu], 1, __ATOMIC_SEQ_CST);
	for (;;) {
		while (load32(&job_number[cpu]) == number)
			halt_until_interrupt();
		number++;
		job(cpu);
		__atomic_add_fetch(&jobs_done, 1, __ATOMIC_SEQ_CST);
	}
}

/* ---- work ---- */

void smp_give(u32 cpu, job_fn fn)
{
	__atomic_store_n(&job, fn, __ATOMIC_RELEASE);
	__atomic_add_fetch(&job_number[cpu], 1, __ATOMIC_SEQ_CST);
	send(cpu, VEC_WAKE);
}

void on_cpus(u32 n, job_fn fn)
{
	party = n;
	store32(&jobs_done, 0);
	for (u32 c = 1; c < n; c++)
		smp_give(c, fn);
	fn(0);
	wait_for(&jobs_done, n - 1);
}

void on_all(job_fn fn)
{
	on_cpus(ncpus, fn);
}

void meet(void)
{
	static u32 arrived, turn;
	u32 mine = load32(&turn);

	if (__atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST) == party) {
		store32(&arrived, 0);
		store32(&turn, mine + 1);
	} else {
		while (load32(&turn) == mine)
			pause();
	}
}
