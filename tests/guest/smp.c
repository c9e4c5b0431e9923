/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several processors: starting them (INIT, start-up IPI, real mode), interrupts between them, locked instructions, the order of loads and
 * stores, TLB shoot-down, code that one writes and others run, and one time for all.
 */
#include "smp.h"

#define VEC_COUNT 0x60
#define VEC_FLUSH 0x61

static void serialize(void)
{
	u32 r[4];

	cpuid(0, 0, r);
}

/* ---- locked instructions ---- */

#define ADDS 10000u
#define STRADDLES 200u
static u64 added, exchanged, swapped, under_lock;
static u32 lock;
static u8 straddling[2 * PAGE] PAGE_ALIGNED;

static void add_everywhere(u32 cpu)
{
	for (u32 i = 0; i < ADDS; i++) {
		u64 old = load(&swapped);

		__asm__ volatile("lock incq %0" : "+m"(added)::"cc");
		__atomic_fetch_add(&exchanged, 1, __ATOMIC_SEQ_CST);
		while (!__atomic_compare_exchange_n(&swapped, &old, old + 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			;
		while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
			pause();
		*(volatile u64 *)&under_lock += 1;
		store32(&lock, 0);
	}
	for (u32 i = 0; i < STRADDLES; i++)
		__asm__ volatile("lock addq $3, %0" : "+m"(*(u64 *)(straddling + PAGE - 3))::"cc");
}

static void locked_instructions(void)
{
	u64 v;

	on_all(add_everywhere);
	CHECK_EQ(added, (u64)ADDS * ncpus);
	CHECK_EQ(exchanged, (u64)ADDS * ncpus);
	CHECK_EQ(swapped, (u64)ADDS * ncpus);
	CHECK_EQ(under_lock, (u64)ADDS * ncpus);
	memcpy(&v, straddling + PAGE - 3, 8);
	CHECK_EQ(v, 3ul * STRADDLES * ncpus);
}

/* ---- the order of loads and stores ---- */

#define MESSAGES 100000u
#define CROSSINGS 2000u
static u64 data __attribute__((aligned(64))), flag __attribute__((aligned(64)));
static u64 x[2] __attribute__((aligned(64))), y[2] __attribute__((aligned(64))), saw[2];

/* Whoever sees the flag sees the data that was stored before it. */
static void pass_messages(u32 cpu)
{
	for (u64 i = 1; cpu == 0 && i <= MESSAGES; i++) {
		*(volatile u64 *)&data = i;
		__asm__ volatile("" ::: "memory");
		*(volatile u64 *)&flag = i;
	}
	for (u64 f = 0; cpu != 0 && f < MESSAGES;) {
		f = *(volatile u64 *)&flag;
		__asm__ volatile("" ::: "memory");
		CHECK(*(volatile u64 *)&data >= f);
	}
}

/* Each stores and then, behind a fence, looks at the other's: not both may have missed it. */
static void store_and_look(u32 cpu)
{
	for (u32 i = 0; i < CROSSINGS; i++) {
		if (cpu == 0) {
			x[0] = y[0] = 0;
		}
		meet();
		if (cpu < 2) {
			*(volatile u64 *)(cpu ? y : x) = 1;
			__asm__ volatile("mfence" ::: "memory");
			saw[cpu] = *(volatile u64 *)(cpu ? x : y);
		}
		meet();
		if (cpu == 0)
			CHECK(saw[0] || saw[1]);
	}
}

/* ---- time ---- */

#define READINGS 5000u
static u64 last_reading;

static void read_time(u32 cpu)
{
	for (u32 i = 0; i < READINGS; i++) {
		while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
			pause();
		u64 before = load(&last_reading), now;
		__asm__ volatile("lfence" ::: "memory");
		now = rdtsc();
		CHECK(now >= before);
		store(&last_reading, now);
		store32(&lock, 0);
	}
}

/* RDTSCP waits for the loads before it, so no time is before one that another processor wrote down, without a lock too. The exchange waits for the
 * line, and the load behind it. */
#define MARKS 300000u
static struct {
	u64 owner, time;
} mark PAGE_ALIGNED;

static u64 rdtscp(void)
{
	u32 lo, hi;

	__asm__ volatile("rdtscp" : "=a"(lo), "=d"(hi) : : "rcx", "memory");
	return (u64)hi << 32 | lo;
}

static void mark_time(u32 cpu)
{
	for (u32 i = 0; i < MARKS; i++) {
		u64 before, now;

		__atomic_exchange_n(&mark.owner, cpu, __ATOMIC_SEQ_CST);
		before = load(&mark.time);
		now = rdtscp();
		CHECK(now >= before);
		__atomic_exchange_n(&mark.time, now, __ATOMIC_SEQ_CST);
	}
}

/* ---- interrupts between processors ---- */

#define ROUNDS 100u
static u32 got_ipi[MAX_CPUS], got_nmi[MAX_CPUS];

static bool on_ipi(struct trap_frame *f)
{
	__atomic_add_fetch(&got_ipi[self()], 1, __ATOMIC_SEQ_CST);
	apic_write(APIC_EOI, 0);
	return true;
}

static bool on_nmi(struct trap_frame *f)
{
	__atomic_add_fetch(&got_nmi[self()], 1, __ATOMIC_SEQ_CST);
	return true;
}

/* Processor 0 wakes each from HLT, one by one and all at once, and then stops them with an NMI in the middle of computing. */
static void interrupt_others(u32 cpu)
{
	if (cpu) {
		while (load32(&got_ipi[cpu]) < 2 * ROUNDS)
			halt_until_interrupt();
		wait_for(&got_nmi[cpu], ROUNDS);
		return;
	}
	for (u32 i = 0; i < ROUNDS; i++) {
		for (u32 c = 1; c < ncpus; c++)
			send(c, VEC_COUNT);
		for (u32 c = 1; c < ncpus; c++)
			wait_for(&got_ipi[c], 2 * i + 1);
		send(0, DEST_OTHERS | VEC_COUNT);
		for (u32 c = 1; c < ncpus; c++)
			wait_for(&got_ipi[c], 2 * i + 2);
	}
	for (u32 i = 0; i < ROUNDS; i++) {
		send(0, DEST_OTHERS | MODE_NMI);
		for (u32 c = 1; c < ncpus; c++)
			wait_for(&got_nmi[c], i + 1);
	}
}

/* ---- TLB shoot-down ---- */

#define MAPPINGS 300u
static u8 numbered[64][PAGE] PAGE_ALIGNED;
static u32 mapped, flushed;
static volatile u64 *const window = (u64 *)(TEST_VA + 0x10000);

static bool on_flush(struct trap_frame *f)
{
	invlpg(window);
	__atomic_add_fetch(&flushed, 1, __ATOMIC_SEQ_CST);
	apic_write(APIC_EOI, 0);
	return true;
}

static void shoot_down(u64 entry)
{
	*paging_entry(paging_root(), (u64)window, 1) = entry;
	invlpg(window);
	store32(&flushed, 0);
	send(0, DEST_OTHERS | VEC_FLUSH);
	wait_for(&flushed, ncpus - 1);
}

static u64 numbered_page(u32 i)
{
	store((u64 *)numbered[i % 64], i);
	return (u64)numbered[i % 64];
}

static void map_and_look(u32 cpu)
{
	if (cpu == 0) {
		for (u32 i = 1; i <= MAPPINGS; i++) {
			shoot_down(numbered_page(i) | P | (i & 1 ? W : 0));
			store32(&mapped, i);
		}
		return;
	}
	sti();
	for (u32 i = 0; i < MAPPINGS;) {
		i = load32(&mapped);
		u64 number = *window;
		CHECK(number >= i && number <= load32(&mapped) + 1);
	}
	cli();
}

/* Gone, and the others told: an access faults. */
static void unmap_and_look(u32 cpu)
{
	if (cpu == 0) {
		shoot_down(0);
		store32(&mapped, 0);
		return;
	}
	sti();
	while (load32(&mapped))
		pause();
	cli();
	if (cpu == 1) {
		trap_clear();
		__asm__ volatile(TRY("movq $1, %0") : "=m"(*window));
		TRIED(PF, PFE_W);
	}
}

/* ---- code that another processor writes ---- */

#define VERSIONS 500u
static u8 *code;
static u32 version, ran[MAX_CPUS];
typedef u32 (*function)(void);

static void put_return(u8 *at, u32 value)
{
	u8 b[6] = {0xb8, (u8)value, (u8)(value >> 8), (u8)(value >> 16), (u8)(value >> 24), 0xc3};

	if (value % 3 == 0)
		__asm__ volatile("rep movsb" : "+D"(at), "+S"((const u8 *){b}), "+c"((u64){6})::"memory");
	else
		for (u32 i = 0; i < 6; i++)
			((volatile u8 *)at)[i] = b[i];
}

/* With the sequence of SDM vol. 3, 9.1.3: written, announced; the others serialize and run it. */
static void write_and_run(u32 cpu)
{
	for (u32 i = 1; i <= VERSIONS; i++) {
		if (cpu == i % party) {
			put_return(code, i);
			store32(&version, i);
		}
		wait_for(&version, i);
		serialize();
		CHECK_EQ(((function)code)(), i);
		store32(&ran[cpu], i);
		for (u32 c = 0; c < party; c++)
			wait_for(&ran[c], i);
	}
}

/* The writer never runs it: what it may write to, it may only until the other translates. */
static void write_for_another(u32 cpu)
{
	for (u32 i = 1; i <= VERSIONS; i++) {
		if (cpu == 0) {
			put_return(code, i);
			store32(&version, i);
			wait_for(&ran[1], i);
		} else {
			wait_for(&version, i);
			serialize();
			CHECK_EQ(((function)code)(), i);
			store32(&ran[1], i);
		}
	}
}

/* An aligned immediate changes while others run it: they see an old or a new one, never older than what was announced. */
static void write_while_run(u32 cpu)
{
	u32 *immediate = (u32 *)(code + 64);

	if (cpu == 0) {
		for (u32 i = 1; i <= VERSIONS; i++) {
			__atomic_store_n(immediate, i, __ATOMIC_SEQ_CST);
			store32(&version, i);
			for (u32 k = 0; k < 50; k++)
				pause();
		}
		return;
	}
	for (u32 i = 0; i < VERSIONS;) {
		i = load32(&version);
		serialize();
		u32 got = ((function)(code + 63))();
		CHECK((got >= i || on_qemu_tcg()) && got <= VERSIONS); /* QEMU goes on with what it has translated for a moment */
	}
}

/* Counters in the page of the code that counts: each store may hit a page that another has just translated from. */
static void count_beside_code(u32 cpu)
{
	u64 *counter = (u64 *)(code + 1024), *own = (u64 *)(code + 2048 + 8 * cpu);

	for (u32 i = 0; i < 500; i++) {
		CHECK_EQ(((function)code)(), 7);
		__asm__ volatile("lock incq %0" : "+m"(*counter)::"cc");
		*(volatile u64 *)own = i;
		CHECK_EQ(*(volatile u64 *)own, i);
	}
}

static void code_of_others(void)
{
	code = page_alloc();
	on_cpus(2, write_and_run);
	store32(&version, 0);
	store32(&ran[1], 0);
	code = page_alloc();
	on_cpus(2, write_for_another);
	store32(&version, 0);
	code[63] = 0xb8;
	code[64] = code[65] = code[66] = code[67] = 0;
	code[68] = 0xc3;
	on_all(write_while_run);
	put_return(code, 7);
	on_all(count_beside_code);
	CHECK_EQ(*(u64 *)(code + 1024), 500ul * ncpus);
}

/* ---- starting again ---- */

static void nothing(u32 cpu)
{
}

/* INIT ends whatever a processor is doing; the others go on. */
static void start_again(void)
{
	for (u32 c = 1; c < ncpus; c++)
		smp_start(c);
	on_all(nothing);
}

void guest_main(void)
{
	smp_prepare(false);
	trap_set_handler(VEC_COUNT, on_ipi);
	trap_set_handler(VEC_FLUSH, on_flush);
	trap_set_handler(NMI, on_nmi);
	paging_map((u64)window, numbered_page(0), P);
	for (u32 c = 1; c < ncpus; c++)
		smp_start(c);
	locked_instructions();
	on_cpus(2, pass_messages);
	on_cpus(2, store_and_look);
	on_all(read_time);
	on_cpus(2, mark_time);
	on_all(interrupt_others);
	on_all(map_and_look);
	on_all(unmap_and_look);
	code_of_others();
	start_again();
}
