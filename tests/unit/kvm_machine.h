/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM of the KVM engine with one vCPU, in a machine that nobody asks anything. It needs /dev/kvm, but no hardware behind it: what is looked at is what
 * the kernel keeps, nothing is executed. Where there is no KVM, or one that lacks something, tests are skipped and say why.
 * Threading: the vCPU is of the thread that makes it.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/kvm/kvm.h"

#include <fcntl.h>
#include <unistd.h>

#define KM_RAM (64 * MiB)
#define KM_TSC_BASE 0x123456789ull

struct kvm_machine {
	struct guest_memory gm;
	struct x86_cpuid cpuid;
	struct engine_vm *vm;
};

static inline u64 km_tsc_base(void *opaque)
{
	return KM_TSC_BASE;
}

/* True: it can be tried here. Otherwise the reason is told. */
static inline bool km_possible(void)
{
	struct err e = {.msg = "/dev/kvm cannot be opened"};
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = -1;
	bool good = fd >= 0 && kvm_check_caps(fd, &e) == 0;

	if (good) {
		snprintf(e.msg, sizeof(e.msg), "/dev/kvm makes no VM");
		vm = kvm_call(fd, KVM_CREATE_VM, NULL);
	}
	if (vm >= 0)
		close(vm);
	if (fd >= 0)
		close(fd);
	if (vm < 0)
		printf("skipped: %s\n", e.msg);
	return vm >= 0;
}

static inline void km_new(struct kvm_machine *m)
{
	const struct x86_cpuid_config config = {.ncpus = 2, .tsc_hz = 1000000000};
	struct err e;

	*m = (struct kvm_machine){0};
	x86_cpuid_build(&m->cpuid, &config);
	if (gm_create(&m->gm, KM_RAM, &e) < 0 || engine_kvm.vm_create(&m->vm, &m->gm, &m->cpuid, 2, &e) < 0)
		fail_msg("%s", e.msg);
}

static inline struct kvm_vcpu *km_vcpu(struct kvm_machine *m, u32 id)
{
	const struct engine_machine machine = {.tsc_base = km_tsc_base};
	struct engine_vcpu *v;
	struct err e;

	if (engine_kvm.vcpu_create(&v, m->vm, id, &machine, &e) < 0)
		fail_msg("%s", e.msg);
	return kvm_vcpu_of(v);
}

static inline void km_free(struct kvm_machine *m)
{
	engine_kvm.vm_destroy(m->vm);
	gm_destroy(&m->gm);
}
