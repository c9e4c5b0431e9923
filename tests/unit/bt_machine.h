/* SPDX-License-Identifier: Apache-2.0 */
/* A vCPU of the translating engine in a machine that nobody asks anything: RAM, and neither interrupts nor time. Threading: the one that makes it. */
#pragma once

#include "engine/bt/bt.h"

struct bt_machine {
	struct guest_memory gm;
	struct x86_cpuid cpuid;
	struct engine_machine machine;
	struct engine_vm *vm;
	struct engine_vcpu *vcpu;
};

static inline bool bt_machine_no_irq(void *opaque)
{
	return false;
}
static inline u64 bt_machine_no_tsc(void *opaque)
{
	return 0;
}

/* 0, or what could not be made is told. */
static inline int bt_machine_make_on(struct bt_machine *m, const struct engine_ops *engine, u64 ram, u32 max_vcpus, struct err *e)
{
	const struct x86_cpuid_config config = {.ncpus = max_vcpus, .tsc_hz = 1000000000, .engine_bt = true};
	int r;

	*m = (struct bt_machine){.machine = {.irq_pending = bt_machine_no_irq, .tsc = bt_machine_no_tsc}};
	x86_cpuid_build(&m->cpuid, &config);
	r = gm_create(&m->gm, ram, e);
	if (r == 0)
		r = engine->vm_create(&m->vm, &m->gm, &m->cpuid, max_vcpus, e);
	return r < 0 ? r : engine->vcpu_create(&m->vcpu, m->vm, 0, &m->machine, e);
}

static inline int bt_machine_make(struct bt_machine *m, u64 ram, u32 max_vcpus, struct err *e)
{
	return bt_machine_make_on(m, &engine_translate, ram, max_vcpus, e);
}
