/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What other threads ask of a running vCPU: leave (kick), look for an interrupt, take an NMI; and what a device's
 * write to RAM does to translated code.
 * A request is an atomic word of its own; `go`, `jc_mask` and `k_page`, which translated code meets, bring the vCPU to look at it.
 *
 * Threading: bt_vcpu_kick, bt_vcpu_irq, bt_vcpu_nmi and bt_ram_written from any thread; bt_take_requests on the vCPU's.
 */
#include "engine/bt/bt.h"
#include "engine/bt/cell.h"

static struct bt_vcpu *vcpu(struct engine_vcpu *v)
{
	return (struct bt_vcpu *)v;
}

void bt_nudge(struct bt_vcpu *v)
{
	__atomic_store_n(&v->jc_mask[0], 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&v->jc_mask[1], 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&v->go, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&v->k_page, 0, __ATOMIC_SEQ_CST);
	pid_t cell = atomic_load(&v->in_cell);
	if (cell)
		bt_cell_interrupt(cell);
}

void bt_vcpu_kick(struct engine_vcpu *ev)
{
	atomic_store(&vcpu(ev)->kicked, 1);
	bt_nudge(vcpu(ev));
}

void bt_vcpu_irq(struct engine_vcpu *ev)
{
	__atomic_store_n(&vcpu(ev)->irq_idle, 0, __ATOMIC_SEQ_CST);
	bt_nudge(vcpu(ev));
}

void bt_vcpu_nmi(struct engine_vcpu *ev)
{
	atomic_store(&vcpu(ev)->nmi_req, 1);
	bt_nudge(vcpu(ev));
}

/* ---- RAM was written by a device
 *
 * Blocks made from it are gone when this returns, so before the guest can know. */

static bool range_has_code(const struct bt_vm *vm, gpa_t gpa, u64 len)
{
	for (u64 f = gpa >> 12; f <= (gpa + len - 1) >> 12 && f < vm->nframes; f++)
		if (bt_frame_has_code(vm, f << 12))
			return true;
	return false;
}

void bt_ram_written(struct engine_vm *engine_vm, gpa_t gpa, u64 len)
{
	struct bt_vm *vm = (struct bt_vm *)engine_vm;
	if (len == 0)
		return;
	/* The data before the look at its lines; the translator marks lines before it compares the data (world.c). */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!range_has_code(vm, gpa, len))
		return;
	for (gpa_t at = gpa, end = gpa + len; at < end;) {
		u64 n = PAGE_SIZE - PAGE_OFFSET(at);
		n = n < end - at ? n : end - at;
		bt_code_write(vm, at, (u32)n);
		at += n;
	}
}

/* ---- the vCPU's side */

/* Words first, requests after: a request set meanwhile clears the words again. */
void bt_take_requests(struct bt_vcpu *v)
{
	__atomic_store_n(&v->jc_mask[0], BT_JC_MASK, __ATOMIC_SEQ_CST);
	__atomic_store_n(&v->jc_mask[1], BT_JC_MASK, __ATOMIC_SEQ_CST);
	__atomic_store_n(&v->k_page, v->vm->page_mask, __ATOMIC_SEQ_CST);
	__atomic_store_n(&v->go, 1, __ATOMIC_SEQ_CST);
	bt_drop_asked(v);
	if (atomic_exchange(&v->nmi_req, 0))
		v->cpu.nmi_pending = true;
}
