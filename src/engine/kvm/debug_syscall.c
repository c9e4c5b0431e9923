/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A step over SYSCALL. The CPU would not stop behind it: kernels have TF cleared on their side, and the caller's TF, which is the debugger's, would
 * come to lie in R11. So the rules of src/x86 execute it. What they refuse is left to the CPU.
 *
 * Threading: the vCPU's thread, between runs.
 */
#include "engine/kvm/kvm.h"

#define SYSCALL_BYTES 2u

static bool at_syscall(struct kvm_vcpu *v)
{
	u8 bytes[SYSCALL_BYTES];
	struct kvm_regs r;

	if (kvm_call(v->fd, KVM_GET_REGS, &r) < 0 || PAGE_OFFSET(r.rip) + SYSCALL_BYTES > PAGE_SIZE)
		return false;
	return kvm_read_linear(v, r.rip, bytes, SYSCALL_BYTES) && bytes[0] == 0x0f && bytes[1] == 0x05;
}

bool kvm_step_syscall(struct kvm_vcpu *v)
{
	struct x86_cpu *c = &v->cpu;
	struct err ignored;

	if (!at_syscall(v) || kvm_get_state(v, &ignored) < 0)
		return false;
	if (!x86_code64(c) || c->fault.pending || !x86_syscall(c, c->rip + SYSCALL_BYTES)) {
		c->fault.pending = false;
		return false;
	}
	v->stale = false;
	return kvm_put_state(v, &ignored) == 0;
}
