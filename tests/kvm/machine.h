/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM made with nothing but KVM's own interface, as small as smoke.c can do with: split interrupt controllers, one memory slot, an MSR that is
 * filtered, and vCPUs that are put into real mode or 64-bit mode. What fails here ends the program with a message: nothing could be tried.
 *
 * Threading: one thread.
 */
#pragma once

#include "base/types.h"

#include <linux/kvm.h>

struct vcpu {
	int fd;
	struct kvm_run *run;
};

/* `result`, unless it is negative: then the program ends and errno is told. */
int must(int result, const char *what);

int make_vm(int kvm);
struct vcpu make_vcpu(int kvm, int vm, u32 number);
void start_real(const struct vcpu *c);
void start_long(const struct vcpu *c, u64 rip);
