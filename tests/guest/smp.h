/* SPDX-License-Identifier: Apache-2.0 */
/* Several processors, for the guests that are about them: starting them, giving them work, waiting, interrupts by xAPIC or x2APIC. */
#pragma once

#include "lib.h"

#define MAX_CPUS 64
#define VEC_WAKE 0x62

#define DEST_OTHERS (3u << 18)
#define MODE_NMI (4u << 8)
#define MODE_INIT (5u << 8)
#define MODE_STARTUP (6u << 8)
#define ASSERT (1u << 14)
#define TRAMPOLINE 0x8000u

typedef void (*job_fn)(u32 cpu);
extern u32 ncpus, party;      /* all; those that take part in the job */
extern u32 started[MAX_CPUS]; /* how often each was */

void smp_prepare(bool x2apic); /* ends the guest when there is one processor, or no x2APIC */
void smp_init(u32 cpu);	       /* INIT, and a while */
void smp_sipi(u32 cpu);
void smp_start(u32 cpu); /* both, and until it is there */
void on_cpus(u32 n,
	     job_fn fn); /* the first n; the others sleep, so that a host with fewer can keep those that wait for each other running */
void on_all(job_fn fn);
void smp_give(u32 cpu, job_fn fn); /* to one, and nobody waits for its end */
void meet(void);		   /* those of the party, as often as they like */

void send(u32 dest, u32 icr);
void eoi(void);
u32 self(void);

static inline u64 load(const u64 *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
static inline u32 load32(const u32 *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
static inline void store(u64 *p, u64 v)
{
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
}
static inline void store32(u32 *p, u32 v)
{
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
}
static inline void pause(void)
{
	__asm__ volatile("pause");
}
static inline void wait_for(const u32 *p, u32 at_least)
{
	while (load32(p) < at_least)
		pause();
}
static inline void delay(u64 ticks)
{
	for (u64 t = rdtsc(); rdtsc() - t < ticks;)
		pause();
}
