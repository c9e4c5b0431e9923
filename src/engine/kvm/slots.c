/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory as KVM knows it: a memory slot for each of guest_memory's.
 *
 * Threading: before the first vCPU.
 */
#include "engine/kvm/kvm.h"

static int create_slot(struct kvm_vm *vm, u32 number, const struct gm_slot *s, struct err *e)
{
	struct kvm_userspace_memory_region region = {
		.slot = number,
		.flags = s->readonly ? KVM_MEM_READONLY : 0,
		.guest_phys_addr = s->gpa,
		.memory_size = s->size,
		.userspace_addr = (u64)s->hva,
	};
	int r = kvm_call(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);

	return r < 0 ? err_sys(e, -r, "KVM takes no memory slot of %llu KiB at 0x%llx", (unsigned long long)(s->size / KiB),
			       (unsigned long long)s->gpa)
		     : 0;
}

int kvm_slots_create(struct kvm_vm *vm, struct err *e)
{
	int r = 0;

	for (u32 i = 0; i < vm->gm->nslots && r == 0; i++)
		r = create_slot(vm, i, &vm->gm->slots[i], e);
	return r;
}
