/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether what a debugger has armed fits into the four debug registers, and how. What does not is looked for step by step: all of it then, as one
 * instruction may meet either. SDM vol. 3, 18.2.
 *
 * Threading: any; no state.
 */
#include "engine/kvm/kvm.h"

#include <cpuid.h>
#include <string.h>

#define REGISTERS 4u
#define ON_EXECUTION 0u
#define ON_WRITE 1u
#define ON_ACCESS 3u

/* QEMU 7.2's SVM runs a guest with the DR7 of the host, so no breakpoint is ever met. */
static bool emulated(void)
{
	u32 a, signature[3];

	__cpuid(0x40000000, a, signature[0], signature[1], signature[2]);
	return memcmp(signature, "TCGTCGTCGTCG", sizeof(signature)) == 0;
}

bool kvm_debug_registers_hold(int kvm)
{
	return (kvm_call(kvm, KVM_CHECK_EXTENSION, (void *)KVM_CAP_SET_GUEST_DEBUG2) & KVM_GUESTDBG_USE_HW_BP) && !emulated();
}

/* DR7's two bits for a length of 1, 2, 4 or 8. */
static u64 length_code(u64 len)
{
	return len == 8 ? 2 : len - 1;
}

static bool use(struct kvm_debug_plan *p, gva_t gva, u64 len, u64 when, const struct x86_watchpoint *point)
{
	u32 n = p->used;

	if (n == REGISTERS)
		return false;
	p->address[n] = gva;
	p->point[n] = point;
	p->dr7 |= 2ull << 2 * n | (when | length_code(len) << 2) << (16 + 4 * n) | DR7_FIXED;
	p->used++;
	return true;
}

/* In aligned pieces. The CPU has no breakpoint for reads alone. */
static bool place_watch(struct kvm_debug_plan *p, const struct x86_watchpoint *w)
{
	u64 size;

	for (u64 at = 0; at < w->len; at += size) {
		for (size = 8; size > w->len - at || (w->gva + at) % size; size /= 2)
			;
		if (!use(p, w->gva + at, size, w->reads ? ON_ACCESS : ON_WRITE, w))
			return false;
	}
	return true;
}

/* A step ends where it ends, whatever is there. */
static bool place(const struct engine_debug *d, struct kvm_debug_plan *p)
{
	for (u32 i = 0; i < d->nbreaks && !d->step; i++)
		if (!use(p, d->breaks[i], 1, ON_EXECUTION, NULL))
			return false;
	for (u32 i = 0; i < d->watch.n; i++)
		if (!place_watch(p, &d->watch.point[i]))
			return false;
	return true;
}

static bool wants_nothing(const struct engine_debug *d)
{
	return (d->step || !d->nbreaks) && !d->watch.n;
}

void kvm_debug_plan(const struct engine_debug *d, bool registers, struct kvm_debug_plan *p)
{
	*p = (struct kvm_debug_plan){.steps = d->step};
	if (wants_nothing(d) || (registers && place(d, p)))
		return;
	*p = (struct kvm_debug_plan){.steps = true, .looks = true};
}
