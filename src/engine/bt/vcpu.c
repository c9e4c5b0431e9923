/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The software engine: creation, the run loop around translated code, and the engine contract.
 *
 * struct bt_vcpu is thread-local so that translated code reaches it through the thread pointer at a fixed distance: one vCPU a thread, created,
 * run and destroyed there. Requests from other threads are atomics plus two words that translated code polls (`go`, `jc_mask`).
 *
 * Threading: see engine.h.
 */
#include "engine/bt/bt.h"

#include "base/log.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

__thread struct bt_vcpu bt_self __attribute__((aligned(64)));

static struct bt_vcpu *vcpu(struct engine_vcpu *v) { return (struct bt_vcpu *)v; }

i32 bt_fs_offset(void) { return (i32)((char *)&bt_self - (char *)__builtin_thread_pointer()); }

/* ---- guest vector state */

void bt_heavy(struct bt_vcpu *v)
{
	if (v->fpu_saved)
		return;
	static const u32 mxcsr = 0x1f80;
	__asm__ volatile("xsave64 %0\n\tfninit\n\tldmxcsr %1"
			 : "+m"(v->cpu.fpu)
			 : "m"(mxcsr), "a"((u32)v->xsave_mask), "d"((u32)(v->xsave_mask >> 32))
			 : "memory");
	v->fpu_saved = true;
}

void bt_light(struct bt_vcpu *v)
{
	__asm__ volatile("xrstor64 %0" : : "m"(v->cpu.fpu), "a"((u32)v->xsave_mask), "d"((u32)(v->xsave_mask >> 32)) : "memory");
	v->fpu_saved = false;
}

static u64 host_xcr0(void)
{
	u32 lo, hi;
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (u64)hi << 32 | lo;
}

/* ---- the environment of src/x86 */

static u8 *env_ram(void *opaque, gpa_t gpa, bool write)
{
	const struct guest_memory *gm = ((struct bt_vcpu *)opaque)->vm->gm;
	for (u32 i = 0; i < gm->nslots; i++) {
		const struct gm_slot *s = &gm->slots[i];
		if (gpa - s->gpa < s->size)
			return write && s->readonly ? NULL : s->hva + (PAGE_BASE(gpa) - s->gpa);
	}
	return NULL;
}

static void env_will_write(void *opaque, gpa_t gpa, u32 len) { bt_code_write(opaque, gpa, len); }

static void in_guest(struct bt_vcpu *v, bool in)
{
	__atomic_store_n(&v->in_guest, in, __ATOMIC_SEQ_CST);
	if (!in && atomic_load(&v->ninval)) {
		pthread_mutex_lock(&v->inval_lock);
		pthread_cond_broadcast(&v->inval_done);
		pthread_mutex_unlock(&v->inval_lock);
	}
}

/* Around calls into the machine: vector state is saved, and whoever waits for this vCPU to leave translated code (bt_ram_written) need not wait,
 * so a device may hold its lock while it does. On the way back `go` tells what happened meanwhile. */
static bool step_out(struct bt_vcpu *v)
{
	bt_heavy(v);
	bool was_in = v->in_guest;
	if (was_in)
		in_guest(v, false);
	return was_in;
}

static void step_in(struct bt_vcpu *v, bool was_in)
{
	if (was_in)
		in_guest(v, true);
}

static u64 env_mmio_read(void *opaque, gpa_t gpa, u32 size)
{
	struct bt_vcpu *v = opaque;
	bool was_in = step_out(v);
	u64 r = v->machine.mmio_read(v->machine.opaque, gpa, size);
	step_in(v, was_in);
	return r;
}

static void env_mmio_write(void *opaque, gpa_t gpa, u32 size, u64 value)
{
	struct bt_vcpu *v = opaque;
	bool was_in = step_out(v);
	v->machine.mmio_write(v->machine.opaque, gpa, size, value);
	step_in(v, was_in);
}

static u32 env_pio_read(void *opaque, u16 port, u32 size)
{
	struct bt_vcpu *v = opaque;
	bool was_in = step_out(v);
	u32 r = v->machine.pio_read(v->machine.opaque, port, size);
	step_in(v, was_in);
	return r;
}

static void env_pio_write(void *opaque, u16 port, u32 size, u32 value)
{
	struct bt_vcpu *v = opaque;
	bool was_in = step_out(v);
	v->machine.pio_write(v->machine.opaque, port, size, value);
	step_in(v, was_in);
}

static bool env_msr_read(void *opaque, u32 msr, u64 *value)
{
	struct bt_vcpu *v = opaque;
	bool was_in = step_out(v);
	bool r = v->machine.msr_read(v->machine.opaque, msr, value);
	step_in(v, was_in);
	return r;
}

static bool env_msr_write(void *opaque, u32 msr, u64 value)
{
	struct bt_vcpu *v = opaque;
	bool was_in = step_out(v);
	bool r = v->machine.msr_write(v->machine.opaque, msr, value);
	step_in(v, was_in);
	return r;
}

static u64 env_cr8_read(void *opaque)
{
	struct bt_vcpu *v = opaque;
	bool was_in = step_out(v);
	u64 r = v->machine.cr8_read(v->machine.opaque);
	step_in(v, was_in);
	return r;
}

static void env_cr8_write(void *opaque, u64 value)
{
	struct bt_vcpu *v = opaque;
	bool was_in = step_out(v);
	v->machine.cr8_write(v->machine.opaque, value);
	step_in(v, was_in);
}

static u64 host_tsc(void)
{
	u32 lo, hi;
	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (u64)hi << 32 | lo;
}

static u64 env_tsc(void *opaque)
{
	struct bt_vcpu *v = opaque;
	return host_tsc() + v->tsc_offset + v->cpu.tsc_offset;
}

static u64 env_hypercall(void *opaque, struct x86_cpu *c)
{
	struct bt_vcpu *v = opaque;
	bool was_in = step_out(v);
	u64 r = v->machine.hypercall(v->machine.opaque, c);
	step_in(v, was_in);
	return r;
}

static void env_flush_page(void *opaque, gva_t gva) { bt_shadow_flush_page(opaque, gva, -1); }
static void env_flush_page_pcid(void *opaque, gva_t gva, u16 pcid) { bt_shadow_flush_page(opaque, gva, pcid); }
static void env_flush_pcid(void *opaque, u16 pcid) { bt_shadow_flush(opaque, pcid, false); }
static void env_flush_nonglobal(void *opaque) { bt_shadow_flush(opaque, -1, false); }
static void env_flush_all(void *opaque) { bt_shadow_flush(opaque, -1, true); }

/* Rights are checked when an entry is made, so whatever changes the rules drops the entries. */
static void env_mode_changed(void *opaque)
{
	struct bt_vcpu *v = opaque;
	u64 rules = (v->cpu.cr0 & (CR0_WP | CR0_PG)) | (v->cpu.cr4 & (CR4_SMEP | CR4_SMAP | CR4_PAE | CR4_PCIDE)) << 32 |
		    (u64)(v->cpu.msr.efer & EFER_NXE) << 24;
	if (rules != v->paging_rules) {
		v->paging_rules = rules;
		bt_shadow_flush(v, -1, true);
	}
	bt_shadow_switch(v);
	bt_update_mode(v);
}

static const struct x86_env env_template = {
	.ram = env_ram,
	.ram_will_write = env_will_write,
	.cached = bt_shadow_cached,
	.mmio_read = env_mmio_read,
	.mmio_write = env_mmio_write,
	.pio_read = env_pio_read,
	.pio_write = env_pio_write,
	.msr_read = env_msr_read,
	.msr_write = env_msr_write,
	.cr8_read = env_cr8_read,
	.cr8_write = env_cr8_write,
	.tsc = env_tsc,
	.hypercall = env_hypercall,
	.tlb_flush_page = env_flush_page,
	.tlb_flush_page_pcid = env_flush_page_pcid,
	.tlb_flush_pcid = env_flush_pcid,
	.tlb_flush_nonglobal = env_flush_nonglobal,
	.tlb_flush_all = env_flush_all,
	.mode_changed = env_mode_changed,
};

/* ---- shadow table memory */

static void *sparse(u64 bytes, struct err *e)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p != MAP_FAILED)
		return p;
	err_sys(e, errno,
		"shadow page tables: cannot reserve %llu GiB of address space (no memory is used yet); check `ulimit -v` and "
		"vm.overcommit_memory (2 forbids it)",
		(unsigned long long)(bytes >> 30));
	return NULL;
}

#define REGION_LIST 65536u

static bool aspace_alloc(struct bt_aspace *as, struct err *e)
{
	for (u32 t = 0; t < 6; t++)
		if (!(as->table[t >> 1][t & 1] = sparse(BT_TABLE_BYTES, e)))
			return false;
	as->meta = sparse(BT_REGIONS, e);
	as->regions = sparse(REGION_LIST * sizeof(u32), e);
	as->cap_regions = REGION_LIST;
	return as->meta && as->regions;
}

static void aspace_free(struct bt_aspace *as)
{
	for (u32 t = 0; t < 6; t++)
		if (as->table[t >> 1][t & 1])
			munmap(as->table[t >> 1][t & 1], BT_TABLE_BYTES);
	if (as->meta)
		munmap(as->meta, BT_REGIONS);
	if (as->regions)
		munmap(as->regions, REGION_LIST * sizeof(u32));
	free(as);
}

bool bt_aspace_init(struct bt_vcpu *v, struct err *e)
{
	for (u32 i = 0; i < BT_ASPACES; i++) {
		v->aspaces[i] = calloc(1, sizeof *v->aspaces[i]);
		if (!v->aspaces[i]) {
			err_sys(e, ENOMEM, "shadow page tables");
			return false;
		}
		if (!aspace_alloc(v->aspaces[i], e))
			return false;
	}
	return true;
}

void bt_aspace_fini(struct bt_vcpu *v)
{
	for (u32 i = 0; i < BT_ASPACES; i++)
		if (v->aspaces[i])
			aspace_free(v->aspaces[i]);
}

/* ---- probe, VM */

static int bt_probe(struct err *e)
{
	u32 a, b, c, d;
	__cpuid_count(7, 0, a, b, c, d);
	if (!(b & (1u << 8)) || !(b & (1u << 5)))
		return err_set(e, ENOTSUP, "engine bt: this CPU lacks BMI2 or AVX2 (x86-64-v3 is needed)");
	__cpuid(1, a, b, c, d);
	if (!(getauxval(AT_HWCAP2) & 2))
		return err_set(e, ENOTSUP, "engine bt: the host kernel does not let programs set the gs base (FSGSBASE; Linux 5.9 or newer)");
	if (!(c & (1u << 27)))
		return err_set(e, ENOTSUP, "engine bt: the host kernel has not enabled XSAVE");
	return 0;
}

static u64 frames_of(const struct guest_memory *gm)
{
	u64 end = 0;
	for (u32 i = 0; i < gm->nslots; i++)
		if (gm->slots[i].gpa + gm->slots[i].size > end)
			end = gm->slots[i].gpa + gm->slots[i].size;
	return end >> PAGE_SHIFT;
}

static int vm_create(struct engine_vm **out, struct guest_memory *gm, const struct x86_cpuid *cpuid, u32 max_vcpus, bool translate,
		     struct err *e)
{
	if (max_vcpus > 1)
		return err_set(e, ENOTSUP, "engine bt: %u vCPUs: this version runs one; use --cpus 1", max_vcpus);
	struct bt_vm *vm = calloc(1, sizeof *vm);
	if (!vm)
		return err_sys(e, ENOMEM, "engine bt");
	vm->gm = gm;
	vm->cpuid = cpuid;
	vm->translate = translate;
	vm->max_vcpus = max_vcpus;
	vm->nframes = frames_of(gm);
	vm->frames = sparse(vm->nframes * sizeof *vm->frames, e);
	if (!vm->frames) {
		free(vm);
		return -e->code;
	}
	pthread_mutex_init(&vm->lock, NULL);
	bt_signals_install();
	*out = (struct engine_vm *)vm;
	return 0;
}

static int bt_vm_create(struct engine_vm **out, struct guest_memory *gm, const struct x86_cpuid *cpuid, u32 max_vcpus, struct err *e)
{
	return vm_create(out, gm, cpuid, max_vcpus, true, e);
}

static int interp_vm_create(struct engine_vm **out, struct guest_memory *gm, const struct x86_cpuid *cpuid, u32 max_vcpus, struct err *e)
{
	return vm_create(out, gm, cpuid, max_vcpus, false, e);
}

static void bt_vm_destroy(struct engine_vm *engine_vm)
{
	struct bt_vm *vm = (struct bt_vm *)engine_vm;
	if (!vm)
		return;
	munmap(vm->frames, vm->nframes * sizeof *vm->frames);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}

/* ---- counters */

static const struct {
	const char *name;
	u32 offset;
} counters[] = {
#define C(field_) {#field_, offsetof(struct bt_stats, field_)}
	C(blocks), C(guest_bytes), C(host_bytes), C(flushes), C(smc), C(misses), C(misses_failed), C(interp), C(indirect_misses),
	C(itlb_misses), C(dispatches), C(light), C(irqs), C(aspace_evictions), C(straddles), C(signals), C(too_large),
#undef C
};

/* ---- vCPU */

static void set_constants(struct bt_vcpu *v)
{
	v->k_page = BT_PAGE_MASK;
	v->k_align[1] = 0xffffffff;
	v->k_align[2] = 0xffff;
	v->k_align[3] = 0xff;
	v->k_align[4] = 0xf;
	v->k_align[5] = 3;
	v->k_align[6] = 1;
	v->k_not_if = (u32)~FL_IF;
	v->k_not_ac = (u32)~FL_AC;
	v->k_not_df = (u32)~FL_DF;
	v->k_sysflags = (u32) ~(FL_ARITH | FL_ONE | FL_RF | FL_VM);
	v->k_fff = 0xfff;
	v->k_1000 = 0x1000;
	v->k_63 = 63;
	v->k_31 = 31;
	v->k_line[0] = (1ull << 63) - 1;
	v->k_line[1] = (1ull << 62) - 1;
	v->jc_mask[0] = v->jc_mask[1] = BT_JC_MASK;
	v->go = 1;
	v->irq_idle = 1;
	v->jc_mode[0] = v->jc_mode[1] = ~0u;
}

static void vcpu_release(struct bt_vcpu *v)
{
	bt_aspace_fini(v);
	bt_cache_fini(v);
	interp_free(v->interp);
	pthread_mutex_destroy(&v->inval_lock);
	pthread_cond_destroy(&v->inval_done);
	memset(v, 0, sizeof *v);
}

static int bt_vcpu_create(struct engine_vcpu **out, struct engine_vm *engine_vm, u32 id, const struct engine_machine *m, struct err *e)
{
	struct bt_vm *vm = (struct bt_vm *)engine_vm;
	struct bt_vcpu *v = &bt_self;
	if (v->vm)
		return err_set(e, EBUSY, "engine bt: this thread already runs a vCPU; create each on a thread of its own");
	memset(v, 0, sizeof *v);
	pthread_mutex_init(&v->inval_lock, NULL);
	pthread_cond_init(&v->inval_done, NULL);
	v->vm = vm;
	v->id = id;
	v->machine = *m;
	v->env = env_template;
	v->env.opaque = v;
	v->cpu.env = &v->env;
	v->cpu.cpuid = vm->cpuid;
	v->cpu.apic_id = id;
	v->xsave_mask = host_xcr0() & 0xe7;
	v->fpu_saved = true;
	set_constants(v);
	if (interp_new(&v->interp, e) || !bt_aspace_init(v, e) || !bt_cache_init(v, e) || !bt_thread_init(v)) {
		bt_thread_fini(v);
		vcpu_release(v);
		return e->code ? -e->code : err_sys(e, ENOMEM, "engine bt: signal stack");
	}
	x86_reset(&v->cpu, id == 0, false);
	env_mode_changed(v);
	pthread_mutex_lock(&vm->lock);
	vm->vcpus[id] = v;
	pthread_mutex_unlock(&vm->lock);
	*out = (struct engine_vcpu *)v;
	return 0;
}

static void bt_vcpu_destroy(struct engine_vcpu *ev)
{
	struct bt_vcpu *v = vcpu(ev);
	if (!v)
		return;
	struct bt_vm *vm = v->vm;
	pthread_mutex_lock(&vm->lock);
	vm->vcpus[v->id] = NULL;
	pthread_mutex_unlock(&vm->lock);
	for (u32 i = 0; i < ARRAY_SIZE(counters); i++)
		vm->ended_stats[i] += *(u64 *)((char *)&v->st + counters[i].offset);
	bt_flush_code(v);
	bt_thread_fini(v);
	vcpu_release(v);
}

/* ---- requests from other threads */

static void nudge(struct bt_vcpu *v)
{
	__atomic_store_n(&v->jc_mask[0], 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&v->jc_mask[1], 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&v->go, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&v->k_page, 0, __ATOMIC_SEQ_CST);
}

static void bt_vcpu_kick(struct engine_vcpu *ev)
{
	atomic_store(&vcpu(ev)->kicked, 1);
	nudge(vcpu(ev));
}

static void bt_vcpu_irq(struct engine_vcpu *ev)
{
	__atomic_store_n(&vcpu(ev)->irq_idle, 0, __ATOMIC_SEQ_CST);
	nudge(vcpu(ev));
}

static void bt_vcpu_nmi(struct engine_vcpu *ev)
{
	atomic_store(&vcpu(ev)->nmi_req, 1);
	nudge(vcpu(ev));
}

/* A full list becomes one entry for all of RAM: waiting for room would be waiting for a vCPU that may be halted until the caller's interrupt. */
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

/* RAM was written by a device: blocks made from it must be gone before the guest can know. The vCPU does it itself, at its next poll or before it
 * enters translated code again; while it is not in translated code there is nothing to wait for. */
static void bt_ram_written(struct engine_vm *engine_vm, gpa_t gpa, u64 len)
{
	struct bt_vm *vm = (struct bt_vm *)engine_vm;
	if (len == 0)
		return;
	/* The data before the look at its lines; the translator marks lines before it compares the data (bt_translate). */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	bool code = false;
	for (u64 f = gpa >> 12; f <= (gpa + len - 1) >> 12 && f < vm->nframes; f++)
		code |= bt_frame_has_code(vm, f << 12);
	if (!code)
		return;
	pthread_mutex_lock(&vm->lock);
	for (u32 i = 0; i < vm->max_vcpus; i++) {
		struct bt_vcpu *v = vm->vcpus[i];
		if (!v)
			continue;
		if (v == &bt_self) {
			for (u64 at = gpa; at < gpa + len;) {
				u64 n = PAGE_SIZE - PAGE_OFFSET(at);
				n = n < gpa + len - at ? n : gpa + len - at;
				bt_code_write(v, at, (u32)n);
				at += n;
			}
			continue;
		}
		pthread_mutex_lock(&v->inval_lock);
		note_invalidation(v, gpa, len);
		nudge(v);
		while (__atomic_load_n(&v->in_guest, __ATOMIC_SEQ_CST) && atomic_load(&v->ninval))
			pthread_cond_wait(&v->inval_done, &v->inval_lock);
		pthread_mutex_unlock(&v->inval_lock);
	}
	pthread_mutex_unlock(&vm->lock);
}

static void do_invalidations(struct bt_vcpu *v)
{
	if (atomic_load(&v->ninval) == 0)
		return;
	pthread_mutex_lock(&v->inval_lock);
	for (u32 i = 0; i < atomic_load(&v->ninval); i++) {
		gpa_t at = v->inval[i].gpa, end = at + v->inval[i].len;
		while (at < end) {
			u64 n = PAGE_SIZE - PAGE_OFFSET(at);
			n = n < end - at ? n : end - at;
			bt_code_write(v, at, (u32)n);
			at += n;
		}
	}
	atomic_store(&v->ninval, 0);
	pthread_cond_broadcast(&v->inval_done);
	pthread_mutex_unlock(&v->inval_lock);
}

/* ---- the run loop */

/* Take in what others asked for. Words first, requests after: a request set meanwhile clears the words again. */
static void look_around(struct bt_vcpu *v)
{
	__atomic_store_n(&v->jc_mask[0], BT_JC_MASK, __ATOMIC_SEQ_CST);
	__atomic_store_n(&v->jc_mask[1], BT_JC_MASK, __ATOMIC_SEQ_CST);
	__atomic_store_n(&v->k_page, BT_PAGE_MASK, __ATOMIC_SEQ_CST);
	__atomic_store_n(&v->go, 1, __ATOMIC_SEQ_CST);
	do_invalidations(v);
	if (atomic_exchange(&v->nmi_req, 0))
		v->cpu.nmi_pending = true;
}

static bool can_interrupt(const struct bt_vcpu *v) { return (v->cpu.rflags & FL_IF) && !v->cpu.irq_shadow; }

/* Deliver what may be delivered now. */
static void events(struct bt_vcpu *v)
{
	struct x86_cpu *c = &v->cpu;
	if (c->nmi_pending && !c->nmi_blocked && !c->irq_shadow) {
		c->nmi_pending = false;
		c->nmi_blocked = true;
		v->halted = false;
		x86_interrupt(c, VEC_NMI, INT_HARDWARE, false, 0);
		return;
	}
	if (__atomic_load_n(&v->irq_idle, __ATOMIC_SEQ_CST) || !can_interrupt(v))
		return;
	__atomic_store_n(&v->irq_idle, 1, __ATOMIC_SEQ_CST);
	if (!v->machine.irq_pending(v->machine.opaque))
		return;
	int vector = v->machine.irq_accept(v->machine.opaque);
	if (v->machine.irq_pending(v->machine.opaque))
		__atomic_store_n(&v->irq_idle, 0, __ATOMIC_SEQ_CST);
	if (vector < 0)
		return;
	v->halted = false;
	v->st.irqs++;
	x86_interrupt(c, (u8)vector, INT_HARDWARE, false, 0);
}

static void interpret_one(struct bt_vcpu *v)
{
	v->interpret_next = false;
	v->st.interp++;
	switch (interp_step(v->interp, &v->cpu)) {
	case INTERP_OK:
		break;
	case INTERP_HALT:
		v->halted = true;
		break;
	case INTERP_FAULT:
		x86_deliver_fault(&v->cpu);
		break;
	}
}

static void run_translated(struct bt_vcpu *v)
{
	in_guest(v, true);
	v->jump_to = (u64)bt_dispatch(v);
	if (v->jump_to) {
		((void (*)(void))(v->cache_rx + v->enter_off))();
		bt_heavy(v);
		in_guest(v, false);
		return;
	}
	bt_heavy(v);
	in_guest(v, false);
}

static void refresh_tsc(struct bt_vcpu *v)
{
	u64 now = host_tsc(), offset = v->machine.tsc(v->machine.opaque) - now;
	i64 drift = (i64)(offset - v->tsc_offset);
	if (drift > 100000 || drift < -100000) /* the clock was stopped meanwhile; smaller differences are call overhead */
		v->tsc_offset = offset;
}

static enum exit_kind bt_vcpu_run(struct engine_vcpu *ev, struct err *e)
{
	struct bt_vcpu *v = vcpu(ev);
	refresh_tsc(v);
	__atomic_store_n(&v->irq_idle, 0, __ATOMIC_SEQ_CST); /* look once, whatever was missed while nothing ran */
	if (!v->cpu.halted)
		v->halted = false;
	env_mode_changed(v);
	for (;;) {
		look_around(v);
		if (atomic_exchange(&v->kicked, 0))
			return EXIT_KICKED;
		if (v->failed) {
			*e = v->err;
			return EXIT_ERROR;
		}
		if (v->cpu.triple_fault)
			return EXIT_SHUTDOWN;
		events(v);
		if (v->cpu.triple_fault)
			return EXIT_SHUTDOWN;
		v->cpu.halted = v->halted;
		if (v->halted)
			return EXIT_HALTED;
		bt_update_mode(v);
		if (v->mode & MODE_INTERP || v->cpu.irq_shadow)
			interpret_one(v);
		else {
			run_translated(v);
			if (v->interpret_next)
				interpret_one(v);
		}
	}
}

static struct x86_cpu *bt_vcpu_state(struct engine_vcpu *ev) { return &vcpu(ev)->cpu; }

static void bt_vcpu_sync_in(struct engine_vcpu *ev)
{
	struct bt_vcpu *v = vcpu(ev);
	v->halted = v->cpu.halted;
	bt_shadow_flush(v, -1, true); /* CR3 may be another one, which MOV CR3 would have flushed for */
	env_mode_changed(v);
}

static u32 bt_stats(struct engine_vm *engine_vm, struct engine_stats_item *items, u32 max)
{
	struct bt_vm *vm = (struct bt_vm *)engine_vm;
	u32 n = 0;
	for (; n < ARRAY_SIZE(counters) && n < max; n++) {
		items[n] = (struct engine_stats_item){counters[n].name, vm->ended_stats[n]};
		for (u32 i = 0; i < vm->max_vcpus; i++)
			if (vm->vcpus[i])
				items[n].value += *(u64 *)((char *)&vm->vcpus[i]->st + counters[n].offset);
	}
	return n;
}

const struct engine_ops engine_bt = {
	.name = "bt",
	.summary = "binary translation, needs no hardware virtualization",
	.probe = bt_probe,
	.vm_create = bt_vm_create,
	.vm_destroy = bt_vm_destroy,
	.vcpu_create = bt_vcpu_create,
	.vcpu_destroy = bt_vcpu_destroy,
	.vcpu_run = bt_vcpu_run,
	.vcpu_kick = bt_vcpu_kick,
	.vcpu_irq = bt_vcpu_irq,
	.vcpu_nmi = bt_vcpu_nmi,
	.vcpu_state = bt_vcpu_state,
	.vcpu_sync_in = bt_vcpu_sync_in,
	.ram_written = bt_ram_written,
	.stats = bt_stats,
};

/* The interpreter alone: slow, and the second opinion when translated code is in doubt. */
const struct engine_ops engine_interp = {
	.name = "interp",
	.summary = "the interpreter alone, for tests",
	.probe = bt_probe,
	.vm_create = interp_vm_create,
	.vm_destroy = bt_vm_destroy,
	.vcpu_create = bt_vcpu_create,
	.vcpu_destroy = bt_vcpu_destroy,
	.vcpu_run = bt_vcpu_run,
	.vcpu_kick = bt_vcpu_kick,
	.vcpu_irq = bt_vcpu_irq,
	.vcpu_nmi = bt_vcpu_nmi,
	.vcpu_state = bt_vcpu_state,
	.vcpu_sync_in = bt_vcpu_sync_in,
	.ram_written = bt_ram_written,
	.stats = bt_stats,
};
