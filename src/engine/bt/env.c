/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What src/x86 and the interpreter ask of the engine (struct x86_env): guest RAM, the machine behind it, time, and to be told of flushes
 * and modes; and the guest's vector state on its way between the registers and memory.
 *
 * Light code: the rules call these while guest vector state is still in the registers; whatever leaves for the machine saves it first.
 * Threading: the vCPU's thread.
 */
#include "engine/bt/bt.h"

#include <sys/syscall.h>

/* ---- guest vector state */

BT_UNCHECKED void bt_heavy(struct bt_vcpu *v)
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

BT_UNCHECKED void bt_light(struct bt_vcpu *v)
{
	__asm__ volatile("xrstor64 %0" : : "m"(v->cpu.fpu), "a"((u32)v->xsave_mask), "d"((u32)(v->xsave_mask >> 32)) : "memory");
	v->fpu_saved = false;
}

/* ---- guest RAM */

static u8 *env_ram(void *opaque, gpa_t gpa, bool write)
{
	const struct guest_memory *gm = ((struct bt_vcpu *)opaque)->vm->gm;
	for (u32 i = 0; i < gm->nslots; i++) {
		const struct gm_slot *s = &gm->slots[i];
		if (gpa - s->gpa < s->size) {
			u8 *page = s->hva + (PAGE_BASE(gpa) - s->gpa);
			bt_check_ram(opaque, page, PAGE_SIZE, write);
			return write && s->readonly ? NULL : page;
		}
	}
	return NULL;
}

static void env_ram_touched(void *opaque, const u8 *host, u32 len, bool write)
{
	bt_check_ram(opaque, host, len, write);
}

static void env_will_write(void *opaque, gpa_t gpa, u32 len)
{
	bt_will_store(opaque, gpa, len);
}

static void env_exclusive(void *opaque, bool on)
{
	struct bt_vcpu *v = opaque;
	if (on)
		v->exclusive = bt_world_stop(v->vm);
	else
		bt_world_start(&v->exclusive);
}

/* ---- calls into the machine */

/* A visit to the machine. Vector state is saved, and whoever stops the world need not wait for this vCPU, so a device may hold its lock while
 * it does. On the way back, when the variable's scope ends, blocks may be dead and write entries gone. */
struct visit {
	struct bt_vcpu *v;
	const struct engine_machine *m;
	bool was_in;
};

static struct visit visit_machine(struct bt_vcpu *v)
{
	struct visit out = {v, &v->machine, v->running};
	bt_heavy(v);
	if (out.was_in)
		bt_leave(v);
	return out;
}

static void come_back(const struct visit *out)
{
	if (out->was_in)
		bt_enter(out->v);
}

#define VISIT __attribute__((cleanup(come_back))) struct visit

static u64 env_mmio_read(void *opaque, gpa_t gpa, u32 size)
{
	VISIT out = visit_machine(opaque);
	return out.m->mmio_read(out.m->opaque, gpa, size);
}

static void env_mmio_write(void *opaque, gpa_t gpa, u32 size, u64 value)
{
	VISIT out = visit_machine(opaque);
	out.m->mmio_write(out.m->opaque, gpa, size, value);
}

static u32 env_pio_read(void *opaque, u16 port, u32 size)
{
	VISIT out = visit_machine(opaque);
	return out.m->pio_read(out.m->opaque, port, size);
}

static void env_pio_write(void *opaque, u16 port, u32 size, u32 value)
{
	VISIT out = visit_machine(opaque);
	out.m->pio_write(out.m->opaque, port, size, value);
}

static bool env_msr_read(void *opaque, u32 msr, u64 *value)
{
	VISIT out = visit_machine(opaque);
	return out.m->msr_read(out.m->opaque, msr, value);
}

static bool env_msr_write(void *opaque, u32 msr, u64 value)
{
	VISIT out = visit_machine(opaque);
	return out.m->msr_write(out.m->opaque, msr, value);
}

static u64 env_cr8_read(void *opaque)
{
	VISIT out = visit_machine(opaque);
	return out.m->cr8_read(out.m->opaque);
}

static void env_cr8_write(void *opaque, u64 value)
{
	VISIT out = visit_machine(opaque);
	out.m->cr8_write(out.m->opaque, value);
}

static u64 env_hypercall(void *opaque, struct x86_cpu *c)
{
	VISIT out = visit_machine(opaque);
	return out.m->hypercall(out.m->opaque, c);
}

/* By instruction: the C library might touch vector state on the way to its function. */
static void yield(void)
{
	long r = SYS_sched_yield;
	__asm__ volatile("syscall" : "+a"(r) : : "rcx", "r11", "memory");
}

void bt_pause(struct bt_vcpu *v)
{
	if (v->vm->max_vcpus > 1 && ++v->pauses % BT_PAUSES == 0)
		yield();
}

static void env_pause(void *opaque)
{
	bt_pause(opaque);
}

static void env_trace(void *opaque, enum trace_event ev, u64 rip, u64 a, u64 b, u64 c)
{
	struct bt_vcpu *v = opaque;
	bt_heavy(v);
	v->machine.trace(v->machine.opaque, ev, rip, a, b, c);
}

static u64 env_tsc(void *opaque)
{
	const struct bt_vcpu *v = opaque;
	return bt_host_tsc() + v->tsc_offset + v->cpu.tsc_offset;
}

/* ---- flushes and modes */

static void env_flush_page(void *opaque, gva_t gva)
{
	bt_shadow_flush_page(opaque, gva, -1);
}
static void env_flush_page_pcid(void *opaque, gva_t gva, u16 pcid)
{
	bt_shadow_flush_page(opaque, gva, pcid);
}
static void env_flush_pcid(void *opaque, u16 pcid)
{
	bt_shadow_flush(opaque, pcid, false);
}
static void env_flush_nonglobal(void *opaque)
{
	bt_shadow_flush(opaque, -1, false);
}
static void env_flush_all(void *opaque)
{
	struct bt_vcpu *v = opaque;
	bool outside = !v->running; /* a reset between two runs */
	if (outside)
		bt_enter(v);
	bt_shadow_flush(v, -1, true);
	if (outside)
		bt_leave(v);
}

static u64 paging_rules(const struct x86_cpu *c)
{
	return (c->cr0 & (CR0_WP | CR0_PG)) | (c->cr4 & (CR4_SMEP | CR4_SMAP | CR4_PAE | CR4_PCIDE)) << 32 |
	       (u64)(c->msr.efer & EFER_NXE) << 24;
}

/* The guest wrote its TSC: what the machine derives from it follows before the next instruction, while the VM loop has the vCPU. */
static void notice_tsc(struct bt_vcpu *v)
{
	if (v->cpu.tsc_offset == v->guest_tsc_offset)
		return;
	v->guest_tsc_offset = v->cpu.tsc_offset;
	bt_vcpu_kick((struct engine_vcpu *)v);
}

/* Rights are checked when an entry is made, so whatever changes the rules drops the entries. */
void bt_mode_changed(struct bt_vcpu *v)
{
	notice_tsc(v);
	u64 rules = paging_rules(&v->cpu);
	if (rules != v->paging_rules) {
		v->paging_rules = rules;
		bt_shadow_flush(v, -1, true);
	}
	bt_shadow_switch(v);
	bt_update_mode(v);
}

static void env_mode_changed(void *opaque)
{
	bt_mode_changed(opaque);
}

const struct x86_env bt_env = {
	.ram = env_ram,
	.ram_will_write = env_will_write,
	.ram_touched = env_ram_touched,
	.exclusive = env_exclusive,
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
	.pause = env_pause,
	.trace = env_trace,
	.tlb_flush_page = env_flush_page,
	.tlb_flush_page_pcid = env_flush_page_pcid,
	.tlb_flush_pcid = env_flush_pcid,
	.tlb_flush_nonglobal = env_flush_nonglobal,
	.tlb_flush_all = env_flush_all,
	.mode_changed = env_mode_changed,
};
