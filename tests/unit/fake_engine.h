/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What engines that only tests know have in common: VMs and vCPUs that are made and counted, vCPUs that note what is asked of them. What runs
 * is the test's. Included once by each test; the tests of a file run one after the other, so what is global here is the running test's.
 */
#pragma once

#include "boot_files.h"

#include "engine/engine.h"

#include <stdatomic.h>

struct engine_vm {
	struct guest_memory *gm;
	const struct x86_cpuid *cpuid;
	struct x86_env env;
	atomic_uint ram_writes, count; /* the second is the test's */
	atomic_uint made;	       /* numbers of vCPUs, one bit each: none twice, as the kernel has it */
};

struct engine_vcpu {
	struct x86_cpu cpu;
	struct engine_vm *vm;
	u32 id;
	struct engine_machine m;
	struct engine_debug *debug;
	bool placed; /* the test's */
	atomic_bool kicked;
	atomic_uint irqs, nmis, runs, syncs;
};

static atomic_uint fake_vms, fake_vcpus; /* that live */
static struct engine_vm *fake_vm;	 /* the last that was made */
static u32 fake_fails = ~0u;		 /* the vCPU that cannot be made */

static inline u8 *fake_ram(void *opaque, gpa_t gpa, bool write)
{
	return gm_ptr(((struct engine_vm *)opaque)->gm, gpa, PAGE_SIZE);
}

static inline int fake_vm_create(struct engine_vm **out, struct guest_memory *gm, const struct x86_cpuid *cpuid, u32 max_vcpus,
				 struct err *e)
{
	struct engine_vm *vm = calloc(1, sizeof(*vm));

	vm->gm = gm;
	vm->cpuid = cpuid;
	vm->env = (struct x86_env){.opaque = vm, .ram = fake_ram};
	fake_vms++;
	*out = fake_vm = vm;
	return 0;
}

static inline void fake_vm_destroy(struct engine_vm *vm)
{
	fake_vms--;
	free(vm);
}

static inline int fake_vcpu_create(struct engine_vcpu **out, struct engine_vm *vm, u32 id, const struct engine_machine *m, struct err *e)
{
	struct engine_vcpu *v;

	if (id == fake_fails)
		return err_set(e, ENOMEM, "no more vCPUs");
	if (atomic_fetch_or(&vm->made, 1u << id) & 1u << id)
		return err_set(e, EEXIST, "vCPU %u exists", id);
	v = aligned_alloc(64, (sizeof(*v) + 63) & ~63ul);
	memset(v, 0, sizeof(*v));
	v->cpu.cpuid = vm->cpuid;
	v->cpu.env = &vm->env;
	v->vm = vm;
	v->id = id;
	v->m = *m;
	fake_vcpus++;
	*out = v;
	return 0;
}

static inline void fake_vcpu_destroy(struct engine_vcpu *v)
{
	fake_vcpus -= v != NULL;
	free(v);
}

static inline struct x86_cpu *fake_state(struct engine_vcpu *v)
{
	return &v->cpu;
}

static inline void fake_kick(struct engine_vcpu *v)
{
	v->kicked = true;
}

static inline void fake_irq(struct engine_vcpu *v)
{
	v->irqs++;
}

static inline void fake_nmi(struct engine_vcpu *v)
{
	v->nmis++;
}

static inline void fake_sync(struct engine_vcpu *v)
{
	v->syncs++;
}

static inline void fake_ram_written(struct engine_vm *vm, gpa_t gpa, u64 len)
{
	vm->ram_writes++;
}

/* The beginning of an engine's table; vcpu_run and vcpu_sync_in follow. */
#define FAKE_ENGINE                                                                                                                        \
	.name = "fake", .vm_create = fake_vm_create, .vm_destroy = fake_vm_destroy, .vcpu_create = fake_vcpu_create,                       \
	.vcpu_destroy = fake_vcpu_destroy, .vcpu_kick = fake_kick, .vcpu_irq = fake_irq, .vcpu_nmi = fake_nmi, .vcpu_state = fake_state,   \
	.ram_written = fake_ram_written
