/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What --stats tells of the engine: a table of its counters, and where its memory lies.
 *
 * Threading: any thread. Counters are read while vCPUs count: a value may be an event old.
 */
#include "engine/bt/bt.h"
#include "engine/bt/table.h"

_Static_assert(LIGHT_COUNT == BT_LIGHT_OPS, "a counter for each");

#define AT(counter) offsetof(struct bt_stats, counter)

static const struct {
	const char *name;
	u32 offset;
} counters[] = {
	{"blocks", AT(blocks)},
	{"rebased", AT(rebased)},
	{"moved", AT(moved)},
	{"guest_bytes", AT(guest_bytes)},
	{"host_bytes", AT(host_bytes)},
	{"flushes", AT(flushes)},
	{"zones_dropped", AT(zones_dropped)},
	{"blocks_dropped", AT(blocks_dropped)},
	{"smc", AT(smc)},
	{"too_large", AT(too_large)},
	{"tlb_flushes", AT(tlb_flushes)},
	{"tlb_page_flushes", AT(tlb_page_flushes)},
	{"aspace_evictions", AT(aspace_evictions)},
	{"tables_given_back", AT(tables_given_back)},
	{"trims", AT(trims)},
	/* Calls of C by translated code */
	{"misses", AT(misses)},
	{"misses_failed", AT(misses_failed)},
	{"straddles", AT(straddles)},
	{"links", AT(links)},
	{"indirect_misses", AT(indirect_misses)},
	{"gotos", AT(gotos)},
	{"itlb_misses", AT(itlb_misses)},
	{"polls", AT(polls)},
	{"signals", AT(signals)},
	{"dispatches", AT(dispatches)},
	{"interp", AT(interp)},
	{"light", AT(light)},
	{"light_syscall", AT(light_ops[LIGHT_SYSCALL])},
	{"light_sysret", AT(light_ops[LIGHT_SYSRET])},
	{"light_iret", AT(light_ops[LIGHT_IRET])},
	{"light_swapgs", AT(light_ops[LIGHT_SWAPGS])},
	{"light_rdmsr", AT(light_ops[LIGHT_RDMSR])},
	{"light_wrmsr", AT(light_ops[LIGHT_WRMSR])},
	{"light_cpuid", AT(light_ops[LIGHT_CPUID])},
	{"light_rdtsc", AT(light_ops[LIGHT_RDTSC])},
	{"light_rdtscp", AT(light_ops[LIGHT_RDTSCP])},
	{"light_rdpid", AT(light_ops[LIGHT_RDPID])},
	{"light_clts", AT(light_ops[LIGHT_CLTS])},
	{"light_invlpg", AT(light_ops[LIGHT_INVLPG])},
	{"light_cld", AT(light_ops[LIGHT_CLD])},
	{"light_std", AT(light_ops[LIGHT_STD])},
	{"light_rdfsbase", AT(light_ops[LIGHT_RDFSBASE])},
	{"light_rdgsbase", AT(light_ops[LIGHT_RDGSBASE])},
	{"light_wrfsbase", AT(light_ops[LIGHT_WRFSBASE])},
	{"light_wrgsbase", AT(light_ops[LIGHT_WRGSBASE])},
	{"light_mov_from_seg", AT(light_ops[LIGHT_MOV_FROM_SEG])},
	{"light_mov_to_seg", AT(light_ops[LIGHT_MOV_TO_SEG])},
	{"light_mov_from_cr", AT(light_ops[LIGHT_MOV_FROM_CR])},
	{"light_mov_to_cr", AT(light_ops[LIGHT_MOV_TO_CR])},
	{"light_string", AT(light_ops[LIGHT_STRING])},
	{"light_pause", AT(light_ops[LIGHT_PAUSE])},
	/* Everything else */
	{"irqs", AT(irqs)},
	{"direct_runs", AT(direct_runs)},
};

static u64 counted(const struct bt_stats *st, u32 i)
{
	return *(const u64 *)((const char *)st + counters[i].offset);
}

void bt_stats_keep(const struct bt_vcpu *v)
{
	u64 *ended = (u64 *)&v->vm->ended_stats;
	const u64 *mine = (const u64 *)&v->st;
	for (u32 i = 0; i < sizeof v->st / sizeof *mine; i++)
		ended[i] += mine[i];
}

u32 bt_stats(struct engine_vm *engine_vm, struct engine_stats_item *items, u32 max)
{
	struct bt_vm *vm = (struct bt_vm *)engine_vm;
	u32 n = 0;
	pthread_mutex_lock(&vm->lock);
	for (; n < ARRAY_SIZE(counters) && n < max; n++) {
		items[n] = (struct engine_stats_item){counters[n].name, counted(&vm->ended_stats, n)};
		for (u32 i = 0; i < vm->max_vcpus; i++)
			if (vm->vcpus[i])
				items[n].value += counted(&vm->vcpus[i]->st, n);
	}
	pthread_mutex_unlock(&vm->lock);
	return n;
}

/* ---- memory */

void bt_memory(struct engine_vm *engine_vm, engine_memory_fn tell, void *opaque)
{
	struct bt_vm *vm = (struct bt_vm *)engine_vm;
	pthread_mutex_lock(&vm->lock);
	tell(opaque, "memory_frames", vm->frames, vm->nframes * sizeof *vm->frames);
	for (u32 i = 0; i < vm->max_vcpus; i++)
		if (vm->vcpus[i]) {
			bt_cache_memory(vm->vcpus[i], tell, opaque);
			bt_aspace_memory(vm->vcpus[i], tell, opaque);
			interp_memory(vm->vcpus[i]->interp, tell, opaque);
		}
	pthread_mutex_unlock(&vm->lock);
}
