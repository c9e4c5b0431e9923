/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What other threads ask of a running vCPU: leave (kick), look for an interrupt, take an NMI, forget code whose bytes a device has written.
 * A request is an atomic word of its own; `go`, `jc_mask` and `k_page`, which translated code meets, bring the vCPU to look at it.
 *
 * Threading: bt_vcpu_kick, bt_vcpu_irq, bt_vcpu_nmi and bt_ram_written from any thread; bt_in_guest and bt_take_requests on the vCPU's.
 */
#include "engine/bt/bt.h"

static struct bt_vcpu *vcpu(struct engine_vcpu *v)
{
	return (struct bt_vcpu *)v;
}

static void nudge(struct bt_vcpu *v)
{
	__atomic_store_n(&v->jc_mask[0], 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&v->jc_mask[1], 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&v->go, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&v->k_page, 0, __ATOMIC_SEQ_CST);
}

void bt_vcpu_kick(struct engine_vcpu *ev)
{
	atomic_store(&vcpu(ev)->kicked, 1);
	nudge(vcpu(ev));
}

void bt_vcpu_irq(struct engine_vcpu *ev)
{
	__atomic_store_n(&vcpu(ev)->irq_idle, 0, __ATOMIC_SEQ_CST);
	nudge(vcpu(ev));
}

void bt_vcpu_nmi(struct engine_vcpu *ev)
{
	atomic_store(&vcpu(ev)->nmi_req, 1);
	nudge(vcpu(ev));
}

/* ---- RAM was written by a device
 *
 * Blocks made from it must be gone before the guest can know. The vCPU drops them itself, at its next poll or before it enters translated
 * code again; while it is not in translated code there is nothing to wait for. */

static void drop_code(struct bt_vcpu *v, gpa_t at, u64 len)
{
	for (gpa_t end = at + len; at < end;) {
		u64 n = PAGE_SIZE - PAGE_OFFSET(at);
		n = n < end - at ? n : end - at;
		bt_code_write(v, at, (u32)n);
		at += n;
	}
}

static bool range_has_code(const struct bt_vm *vm, gpa_t gpa, u64 len)
{
	for (u64 f = gpa >> 12; f <= (gpa + len - 1) >> 12 && f < vm->nframes; f++)
		if (bt_frame_has_code(vm, f << 12))
			return true;
	return false;
}

/* A full list becomes one entry for all of RAM: waiting for room would be waiting for a vCPU that may be halted until the caller's
 * interrupt. */
static void note_invalidation(struct bt_vcpu *v, gpa_t gpa, u64 len)
{
	u32 n = atomic_load(&v->ninval);
	if (n == BT_INVAL_MAX) {
		n = 0;
		gpa = 0;
		len = v->vm->nframes << PAGE_SHIFT;
	}
	v->inval[n] = (struct bt_inval){gpa, len};
	atomic_store(&v->ninval, n + 1);
}

static void have_dropped(struct bt_vcpu *v, gpa_t gpa, u64 len)
{
	pthread_mutex_lock(&v->inval_lock);
	note_invalidation(v, gpa, len);
	nudge(v);
	while (__atomic_load_n(&v->in_guest, __ATOMIC_SEQ_CST) && atomic_load(&v->ninval))
		pthread_cond_wait(&v->inval_done, &v->inval_lock);
	pthread_mutex_unlock(&v->inval_lock);
}

void bt_ram_written(struct engine_vm *engine_vm, gpa_t gpa, u64 len)
{
	struct bt_vm *vm = (struct bt_vm *)engine_vm;
	if (len == 0)
		return;
	/* The data before the look at its lines; the translator marks lines before it compares the data (bt_translate). */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!range_has_code(vm, gpa, len))
		return;
	pthread_mutex_lock(&vm->lock);
	for (u32 i = 0; i < vm->max_vcpus; i++) {
		struct bt_vcpu *v = vm->vcpus[i];
		if (v == &bt_self)
			drop_code(v, gpa, len);
		else if (v)
			have_dropped(v, gpa, len);
	}
	pthread_mutex_unlock(&vm->lock);
}

/* ---- the vCPU's side */

void bt_in_guest(struct bt_vcpu *v, bool in)
{
	__atomic_store_n(&v->in_guest, in, __ATOMIC_SEQ_CST);
	if (!in && atomic_load(&v->ninval)) {
		pthread_mutex_lock(&v->inval_lock);
		pthread_cond_broadcast(&v->inval_done);
		pthread_mutex_unlock(&v->inval_lock);
	}
}

static void do_invalidations(struct bt_vcpu *v)
{
	if (atomic_load(&v->ninval) == 0)
		return;
	pthread_mutex_lock(&v->inval_lock);
	for (u32 i = 0; i < atomic_load(&v->ninval); i++)
		drop_code(v, v->inval[i].gpa, v->inval[i].len);
	atomic_store(&v->ninval, 0);
	pthread_cond_broadcast(&v->inval_done);
	pthread_mutex_unlock(&v->inval_lock);
}

/* Words first, requests after: a request set meanwhile clears the words again. */
void bt_take_requests(struct bt_vcpu *v)
{
	__atomic_store_n(&v->jc_mask[0], BT_JC_MASK, __ATOMIC_SEQ_CST);
	__atomic_store_n(&v->jc_mask[1], BT_JC_MASK, __ATOMIC_SEQ_CST);
	__atomic_store_n(&v->k_page, BT_PAGE_MASK, __ATOMIC_SEQ_CST);
	__atomic_store_n(&v->go, 1, __ATOMIC_SEQ_CST);
	do_invalidations(v);
	if (atomic_exchange(&v->nmi_req, 0))
		v->cpu.nmi_pending = true;
}
