/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What --stats tells: the engine's counters, the machine's, its devices', and what memory is used for.
 *
 * Threading: main thread, after vm_run. vCPUs may still count: a value may be an event old.
 */
#include "vm/machine.h"

static const struct {
	const char *name;
	u32 offset;
} counters[] = {
	{"exits_kicked", offsetof(struct vcpu, exits[EXIT_KICKED])},
	{"exits_halted", offsetof(struct vcpu, exits[EXIT_HALTED])},
	{"exits_shutdown", offsetof(struct vcpu, exits[EXIT_SHUTDOWN])},
	{"exits_debug", offsetof(struct vcpu, exits[EXIT_DEBUG])},
	{"exits_error", offsetof(struct vcpu, exits[EXIT_ERROR])},
	{"vcpu_sleeps", offsetof(struct vcpu, sleeps)},
	{"port_accesses", offsetof(struct vcpu, ports)},
	{"mmio_accesses", offsetof(struct vcpu, mmio)},
	{"machine_msr_accesses", offsetof(struct vcpu, msrs)},
	{"hypercalls", offsetof(struct vcpu, hypercalls)},
};

static u64 of_all_vcpus(const struct vm *vm, u32 offset)
{
	u64 sum = 0;

	for (u32 i = 0; i < vm->ncpus; i++)
		sum += *(const u64 *)((const char *)&vm->vcpus[i] + offset);
	return sum;
}

static u32 vcpu_stats(const struct vm *vm, struct engine_stats_item *items, u32 max)
{
	u32 n = 0;

	for (; n < ARRAY_SIZE(counters) && n < max; n++)
		items[n] = (struct engine_stats_item){counters[n].name, of_all_vcpus(vm, counters[n].offset)};
	if (n < max)
		items[n++] = (struct engine_stats_item){"resets", vm->resets};
	if (n < max)
		items[n++] = (struct engine_stats_item){"handovers", vm->handovers};
	return n;
}

static u32 device_stats(const struct vm *vm, struct engine_stats_item *items, u32 max)
{
	u32 n = 0;

	for (const struct device *d = vm->devices; d; d = d->next)
		for (u32 i = 0; i < d->cls->ncounters && n < max; i++) {
			const u64 *at = (const u64 *)((const char *)d + d->cls->counters[i].offset);

			items[n++] = (struct engine_stats_item){d->cls->counters[i].name, __atomic_load_n(at, __ATOMIC_RELAXED)};
		}
	return n;
}

u32 vm_stats(struct vm *vm, struct engine_stats_item *items, u32 max)
{
	u32 n = vm->ops->stats ? vm->ops->stats(vm->engine, items, max) : 0;

	n += vcpu_stats(vm, items + n, max - n);
	n += device_stats(vm, items + n, max - n);
	return n + memory_stats(vm, items + n, max - n);
}
