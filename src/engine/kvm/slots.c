/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory as KVM knows it: a memory slot for each of guest_memory's; and which of its pages were written.
 *
 * Threading: slots before the first vCPU; the log from one thread, while vCPUs run or not.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>

static int set_slot(struct kvm_vm *vm, u32 number, bool logs, struct err *e)
{
	const struct gm_slot *s = &vm->gm->slots[number];
	struct kvm_userspace_memory_region region = {
		.slot = number,
		.flags = s->readonly ? KVM_MEM_READONLY
			 : logs	     ? KVM_MEM_LOG_DIRTY_PAGES
				     : 0,
		.guest_phys_addr = s->gpa,
		.memory_size = s->size,
		.userspace_addr = (u64)s->hva,
	};
	int r = kvm_call(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);

	return r < 0 ? err_sys(e, -r, "KVM takes no memory slot of %llu KiB at 0x%llx", (unsigned long long)(s->size / KiB),
			       (unsigned long long)s->gpa)
		     : 0;
}

static int set_slots(struct kvm_vm *vm, bool log, struct err *e)
{
	int r = 0;

	for (u32 i = 0; i < vm->gm->nslots && r == 0; i++)
		r = set_slot(vm, i, log, e);
	return r;
}

int kvm_slots_create(struct kvm_vm *vm, struct err *e)
{
	return set_slots(vm, false, e);
}

int kvm_dirty_log(struct engine_vm *vm, bool on, struct err *e)
{
	return set_slots(kvm_vm_of(vm), on, e);
}

/* ---- what was written ---- */

static void set_bits(u64 *bits, u64 from, const u64 *found, u64 n)
{
	for (u64 i = 0; i < n; i++)
		if (found[i / 64] >> (i % 64) & 1)
			bits[(from + i) / 64] |= 1ull << ((from + i) % 64);
}

static int take_slot(struct kvm_vm *vm, u32 number, u64 *bits, u64 *found, struct err *e)
{
	const struct gm_slot *s = &vm->gm->slots[number];
	struct kvm_dirty_log log = {.slot = number, .dirty_bitmap = found};
	int r = kvm_call(vm->fd, KVM_GET_DIRTY_LOG, &log);

	if (r < 0)
		return err_sys(e, -r, "KVM does not tell which pages of memory slot %u were written", number);
	set_bits(bits, s->fd_offset / PAGE_SIZE, found, s->size / PAGE_SIZE);
	return 0;
}

int kvm_dirty_take(struct engine_vm *evm, u64 *bits, struct err *e)
{
	struct kvm_vm *vm = kvm_vm_of(evm);
	u64 *found = malloc((vm->gm->size / PAGE_SIZE + 63) / 64 * sizeof(*found));
	int r = found ? 0 : err_sys(e, ENOMEM, "bitmap of pages");

	for (u32 i = 0; i < vm->gm->nslots && r == 0; i++)
		if (!vm->gm->slots[i].readonly)
			r = take_slot(vm, i, bits, found, e);
	free(found);
	return r;
}
