/* SPDX-License-Identifier: Apache-2.0 */
/*
 * As many processors as there may be, by x2APIC: started, stopped and started again; interrupts to one, to a cluster, to all and to oneself; what INIT,
 * start-up IPI and NMI do to a processor that waits, halts or runs; progress of all where there are more of them than the host has; one time. SDM vol.
 * 3, 9.4.3 and 11.12.
 */
#include "smp.h"

#define VEC_COUNT 0x60
#define DEST_LOGICAL (1u << 11)
#define DEST_SELF (1u << 18)
#define DEST_ALL (2u << 18)
#define MSR_X2APIC_LDR 0x80d
#define MSR_X2APIC_SELF 0x83f

static u32 got[MAX_CPUS], got_nmi[MAX_CPUS];

static bool on_count(struct trap_frame *f)
{
	__atomic_add_fetch(&got[self()], 1, __ATOMIC_SEQ_CST);
	eoi();
	return true;
}

static bool on_nmi(struct trap_frame *f)
{
	__atomic_add_fetch(&got_nmi[self()], 1, __ATOMIC_SEQ_CST);
	return true;
}

/* ---- destinations ---- */

static u32 expected[MAX_CPUS];

/* Everyone but processor 0 waits in HLT until the job is over. */
static u32 over;
static void wait_in_hlt(void)
{
	while (!load32(&over))
		halt_until_interrupt();
}

static void arrived(u32 first, u32 last)
{
	sti();
	for (u32 c = first; c <= last; c++)
		wait_for(&got[c], ++expected[c]);
	cli();
}

static void end_job(void)
{
	store32(&over, 1);
	send(0, DEST_OTHERS | VEC_WAKE);
}

static void to_every_destination(u32 cpu)
{
	if (cpu) {
		CHECK_EQ(rdmsr(MSR_X2APIC_LDR), (cpu & ~15u) << 12 | 1u << (cpu & 15));
		wait_in_hlt();
		return;
	}
	for (u32 c = 1; c < ncpus; c++) {
		send(c, VEC_COUNT);
		arrived(c, c);
	}
	for (u32 cluster = 0; cluster < ncpus; cluster += 16) {
		u32 last = cluster + 15 < ncpus ? cluster + 15 : ncpus - 1;

		send(cluster << 12 | 0xffff, DEST_LOGICAL | VEC_COUNT);
		arrived(cluster, last);
		send(cluster << 12 | 1u << (last - cluster), DEST_LOGICAL | VEC_COUNT);
		arrived(last, last);
	}
	send(0, DEST_OTHERS | VEC_COUNT);
	arrived(1, ncpus - 1);
	send(0, DEST_ALL | VEC_COUNT);
	arrived(0, ncpus - 1);
	send(0xffffffff, VEC_COUNT); /* the broadcast address */
	arrived(0, ncpus - 1);
	send(0, DEST_SELF | VEC_COUNT);
	arrived(0, 0);
	wrmsr(MSR_X2APIC_SELF, VEC_COUNT);
	arrived(0, 0);
	for (u32 c = 0; c < ncpus; c++)
		CHECK_EQ(load32(&got[c]), expected[c]); /* and nobody else got one */
	end_job();
}

/* ---- INIT and start-up IPI to one that runs, halts, or waits ---- */

static u32 spinning, halted;

static void run_away(u32 cpu)
{
	for (;;) {
		__atomic_add_fetch(&spinning, 1, __ATOMIC_SEQ_CST);
		pause();
	}
}

/* Until an NMI has come; then for ever. */
static void halt(u32 cpu)
{
	store32(&halted, 1);
	while (!load32(&got_nmi[cpu]))
		__asm__ volatile("cli; hlt" ::: "memory");
	store32(&halted, 2);
	for (;;)
		__asm__ volatile("cli; hlt" ::: "memory");
}

static bool stands_still(void)
{
	u32 before;

	delay(3000000);
	before = load32(&spinning);
	delay(3000000);
	return load32(&spinning) == before;
}

static void start_again(u32 cpu)
{
	u32 times = load32(&started[cpu]);

	smp_sipi(cpu);
	wait_for(&started[cpu], times + 1);
	smp_sipi(cpu); /* the second one, which many systems send, is ignored */
	delay(2000000);
	CHECK_EQ(load32(&started[cpu]), times + 1);
}

static void stop_a_running_one(void)
{
	u32 last = ncpus - 1, times = load32(&started[last]), seen = load32(&spinning);

	smp_give(last, run_away);
	wait_for(&spinning, seen + 100);
	smp_sipi(last); /* ignored: it does not wait for one */
	seen = load32(&spinning);
	wait_for(&spinning, seen + 100);
	CHECK_EQ(load32(&started[last]), times);
	smp_init(last);
	CHECK(stands_still());
	smp_init(last); /* once more changes nothing */
	CHECK_EQ(load32(&started[last]), times);
	start_again(last);
}

/* With IF clear no interrupt wakes it, an NMI does; then INIT ends it. */
static void stop_a_halted_one(void)
{
	u32 last = ncpus - 1, count = load32(&got[last]);

	store32(&halted, 0);
	store32(&got_nmi[last], 0);
	smp_give(last, halt);
	wait_for(&halted, 1);
	send(last, VEC_COUNT);
	delay(3000000);
	CHECK_EQ(load32(&got[last]), count);
	CHECK_EQ(load32(&halted), 1);
	send(last, MODE_NMI | ASSERT);
	wait_for(&halted, 2);
	CHECK_EQ(load32(&got_nmi[last]), 1);
	smp_init(last);
	start_again(last); /* INIT took the waiting interrupt with it */
	delay(3000000);
	CHECK_EQ(load32(&got[last]), count);
}

/* ---- progress: a lock that is handed on in the order of arrival, and everyone waits by PAUSE ---- */

static u32 ticket, serving, turns_done;

static void take_turns(u32 cpu)
{
	u32 turns = 2000 / ncpus;

	for (u32 i = 0; i < turns; i++) {
		u32 mine = __atomic_fetch_add(&ticket, 1, __ATOMIC_SEQ_CST);

		while (load32(&serving) != mine)
			pause();
		(*(volatile u32 *)&turns_done)++;
		store32(&serving, mine + 1);
	}
}

/* ---- one time ---- */

static u64 latest;

/* Handed from one to the next, so that each reading is later than the one before. */
static void read_time(u32 cpu)
{
	for (u32 i = 0; i < 5; i++) {
		u32 mine = __atomic_fetch_add(&ticket, 1, __ATOMIC_SEQ_CST);

		while (load32(&serving) != mine)
			pause();
		__asm__ volatile("lfence" ::: "memory");
		u64 now = rdtsc();
		CHECK(now >= latest);
		CHECK(!latest || now - latest < 1ul << 40);
		latest = now;
		store32(&serving, mine + 1);
	}
}

/* ---- KVM's hypercalls, where they are announced ---- */

#define HC_KICK 5
#define HC_SEND_IPI 10

static bool kvm_feature(u32 bit)
{
	u32 r[4];

	cpuid(0x40000000, 0, r);
	if (r[1] != 0x4b4d564b) /* "KVMK" */
		return false;
	cpuid(0x40000001, 0, r);
	return r[0] >> bit & 1;
}

static u64 hypercall(u64 nr, u64 a, u64 b, u64 c, u64 d)
{
	u64 r;

	__asm__ volatile("vmmcall" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
	return r;
}

static u32 kicks, awake[MAX_CPUS];

/* A kick ends HLT though IF is clear; it does not get lost when it comes before. */
static void wait_for_kicks(u32 cpu)
{
	for (u32 i = 1; i <= 20; i++) {
		if (cpu) {
			while (load32(&kicks) < i)
				__asm__ volatile("cli; hlt" ::: "memory");
			__atomic_add_fetch(&awake[cpu], 1, __ATOMIC_SEQ_CST);
		} else {
			store32(&kicks, i);
			for (u32 c = 1; c < ncpus; c++)
				hypercall(HC_KICK, 0, c, 0, 0);
			for (u32 c = 1; c < ncpus; c++)
				wait_for(&awake[c], i);
		}
	}
}

static void send_to_many(u32 cpu)
{
	u64 others = (ncpus < 64 ? (1ul << ncpus) - 1 : ~0ul) & ~1ul;

	if (cpu) {
		wait_in_hlt();
		return;
	}
	CHECK_EQ(hypercall(HC_SEND_IPI, others, 0, 0, VEC_COUNT), ncpus - 1);
	arrived(1, ncpus - 1);
	end_job();
}

static void one_round(void)
{
	store32(&over, 0);
	on_all(to_every_destination);
	stop_a_running_one();
	stop_a_halted_one();
	store32(&turns_done, 0);
	on_all(take_turns);
	CHECK_EQ(turns_done, 2000 / ncpus * ncpus);
	on_all(read_time);
	if (kvm_feature(7)) {
		store32(&kicks, 0);
		memset(awake, 0, sizeof(awake));
		on_all(wait_for_kicks);
	}
	if (kvm_feature(11)) {
		store32(&over, 0);
		on_all(send_to_many);
	}
}

void guest_main(void)
{
	smp_prepare(true);
	trap_set_handler(VEC_COUNT, on_count);
	trap_set_handler(NMI, on_nmi);
	for (u32 c = 1; c < ncpus; c++)
		smp_start(c);
	FEW(one_round);
	for (u32 c = 1; c < ncpus; c++)
		smp_start(c);
	FEW(one_round);
}
