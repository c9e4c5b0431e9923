/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's time-stamp counter: the host's, standing still while the VM is paused. Each vCPU adds its own tsc_offset (what the guest
 * wrote).
 *
 * Threading: tsc_guest from any thread; pause and resume on the main thread with all vCPUs parked.
 */
#include "vm/machine.h"

#include <cpuid.h>
#include <unistd.h>
#include <x86intrin.h>

#define NEVER_RAN 1u /* in tsc_paused */
#define LEAF_FREQUENCY 0x15u
#define LEAF_HYPERVISOR 0x40000000u
#define LEAF_HYPERVISOR_FREQUENCY 0x40000010u
#define MEASURE_NS 2000000ull /* readings are good to about 20 ns, the result to about 10 ppm */

static u64 hz_from_cpuid(void)
{
	u32 a, b, c, d;

	__cpuid(1, a, b, c, d);
	if (c >> 31) {
		__cpuid(LEAF_HYPERVISOR, a, b, c, d);
		if (a >= LEAF_HYPERVISOR_FREQUENCY && a < LEAF_HYPERVISOR + 0x100) {
			__cpuid(LEAF_HYPERVISOR_FREQUENCY, a, b, c, d);
			if (a)
				return a * 1000ull;
		}
	}
	if (!__get_cpuid_count(LEAF_FREQUENCY, 0, &a, &b, &c, &d) || !a || !b || !c)
		return 0;
	return (u64)c * b / a;
}

/* A pair of clock readings with as little as possible in between: the best of a few tries. */
static void read_both(u64 *tsc, u64 *ns)
{
	u64 best = UINT64_MAX;

	*tsc = *ns = 0;
	for (int i = 0; i < 5; i++) {
		u64 before = __rdtsc(), now = host_now_ns(), after = __rdtsc();

		if (after - before >= best)
			continue;
		best = after - before;
		*tsc = before + (after - before) / 2;
		*ns = now;
	}
}

/* A perf event's page also knows the frequency, but opening the first one of a host takes longer than this. */
static u64 hz_measured(void)
{
	u64 tsc0, ns0, tsc1, ns1;

	read_both(&tsc0, &ns0);
	usleep(MEASURE_NS / 1000);
	read_both(&tsc1, &ns1);
	return (u64)((unsigned __int128)(tsc1 - tsc0) * NS_PER_SEC / (ns1 - ns0));
}

u64 tsc_host_hz(void)
{
	u64 hz = hz_from_cpuid();

	return hz ? hz : hz_measured();
}

static u64 base_now(const struct vm *vm)
{
	u64 paused = __atomic_load_n(&vm->tsc_paused, __ATOMIC_ACQUIRE);

	return (paused ? paused : __rdtsc()) - __atomic_load_n(&vm->tsc_zero, __ATOMIC_RELAXED);
}

u64 tsc_guest(const struct vm *vm, const struct x86_cpu *c)
{
	return base_now(vm) + __atomic_load_n(&c->tsc_offset, __ATOMIC_RELAXED);
}

/* Until it is paused for the first time the guest's TSC is the host's, so that an engine may let user code read it. */
void tsc_start_paused(struct vm *vm)
{
	vm->tsc_paused = NEVER_RAN;
	vm->tsc_zero = 0;
}

void tsc_pause(struct vm *vm)
{
	if (!vm->tsc_paused)
		__atomic_store_n(&vm->tsc_paused, __rdtsc(), __ATOMIC_RELEASE);
}

void tsc_resume(struct vm *vm)
{
	if (!vm->tsc_paused)
		return;
	if (vm->tsc_paused != NEVER_RAN)
		__atomic_store_n(&vm->tsc_zero, vm->tsc_zero + (__rdtsc() - vm->tsc_paused), __ATOMIC_RELAXED);
	__atomic_store_n(&vm->tsc_paused, 0, __ATOMIC_RELEASE);
}
