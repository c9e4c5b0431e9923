/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why the kernel has left the guest, and what is to be done about it.
 *
 * Threading: the vCPU's thread. What the kernel wrote into the shared page is read there, no guest can write it.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- ports and memory-mapped registers ---- */

static u64 load(const u8 *at, u32 size)
{
	u64 value = 0;

	memcpy(&value, at, size);
	return value;
}

static void exit_io(struct kvm_vcpu *v)
{
	const struct engine_machine *m = &v->machine;
	struct kvm_run *k = v->run;
	u8 *data = (u8 *)k + k->io.data_offset;

	v->count.io++;
	for (u32 i = 0; i < k->io.count; i++, data += k->io.size) {
		u32 value;

		if (k->io.direction == KVM_EXIT_IO_OUT) {
			m->pio_write(m->opaque, k->io.port, k->io.size, (u32)load(data, k->io.size));
			continue;
		}
		value = m->pio_read(m->opaque, k->io.port, k->io.size);
		memcpy(data, &value, k->io.size);
	}
}

/* The kernel hands over accesses at any address, and what is left of one that crosses a page in any length. Devices see them as the software engine
 * makes them: naturally aligned. */
static u32 piece(u64 gpa, u32 left)
{
	u32 size = 8;

	while (size > left || gpa % size)
		size /= 2;
	return size;
}

static void exit_mmio(struct kvm_vcpu *v)
{
	const struct engine_machine *m = &v->machine;
	struct kvm_run *k = v->run;

	v->count.mmio++;
	for (u32 at = 0, size; at < k->mmio.len; at += size) {
		u64 gpa = k->mmio.phys_addr + at, value;

		size = piece(gpa, k->mmio.len - at);
		if (k->mmio.is_write) {
			m->mmio_write(m->opaque, gpa, size, load(k->mmio.data + at, size));
			continue;
		}
		value = m->mmio_read(m->opaque, gpa, size);
		memcpy(k->mmio.data + at, &value, size);
	}
}

static void exit_eoi(struct kvm_vcpu *v)
{
	v->count.eois++;
	v->machine.eoi(v->machine.opaque, v->run->eoi.vector);
}

/* ---- what cannot be gone on from ---- */

static const struct {
	u32 number;
	const char *name;
} suberrors[] = {
	{KVM_INTERNAL_ERROR_EMULATION, "it cannot emulate an instruction"},
	{KVM_INTERNAL_ERROR_SIMUL_EX, "two exceptions at the same time"},
	{KVM_INTERNAL_ERROR_DELIVERY_EV, "an event could not be delivered"},
	{KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, "the CPU left the guest for a reason that it does not know"},
};

static const char *suberror(u32 number)
{
	for (u32 i = 0; i < ARRAY_SIZE(suberrors); i++)
		if (suberrors[i].number == number)
			return suberrors[i].name;
	return "a reason without a name";
}

/* The instruction's bytes, where the kernel tells them. */
static void instruction(const struct kvm_run *k, char *text, size_t size)
{
	u32 n = k->emulation_failure.insn_size;
	size_t used = 0;

	text[0] = 0;
	if (k->internal.suberror != KVM_INTERNAL_ERROR_EMULATION || k->internal.ndata < 3 ||
	    !(k->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES))
		return;
	for (u32 i = 0; i < n && i < sizeof(k->emulation_failure.insn_bytes) && used + 4 < size; i++)
		used += (size_t)snprintf(text + used, size - used, " %02x", k->emulation_failure.insn_bytes[i]);
}

static u64 rip(struct kvm_vcpu *v)
{
	struct kvm_regs k = {0};

	(void)kvm_call(v->fd, KVM_GET_REGS, &k);
	return k.rip;
}

static void internal_error(struct kvm_vcpu *v, struct err *e)
{
	char bytes[64];

	instruction(v->run, bytes, sizeof(bytes));
	(void)err_set(e, EIO, "vCPU %u: KVM gives up at rip 0x%llx: %s (%u)%s%s", v->id, (unsigned long long)rip(v),
		      suberror(v->run->internal.suberror), v->run->internal.suberror, bytes[0] ? ":" : "", bytes);
}

static void entry_failed(struct kvm_vcpu *v, struct err *e)
{
	(void)err_set(e, EIO, "vCPU %u: the CPU refuses to enter the guest at rip 0x%llx (hardware reason 0x%llx)", v->id,
		      (unsigned long long)rip(v), (unsigned long long)v->run->fail_entry.hardware_entry_failure_reason);
}

/* What kernels other than Linux ask of Hyper-V's interfaces, which are not offered. */
static enum exit_kind system_event(struct kvm_vcpu *v, struct err *e)
{
	u32 type = v->run->system_event.type;

	if (type == KVM_SYSTEM_EVENT_SHUTDOWN || type == KVM_SYSTEM_EVENT_RESET)
		return EXIT_SHUTDOWN;
	(void)err_set(e, EIO, "vCPU %u: KVM reports system event %u%s", v->id, type,
		      type == KVM_SYSTEM_EVENT_CRASH ? ": the guest has crashed" : ", which is not expected");
	return EXIT_ERROR;
}

bool kvm_exit(struct kvm_vcpu *v, enum exit_kind *kind, struct err *e)
{
	*kind = EXIT_ERROR;
	switch (v->run->exit_reason) {
	case KVM_EXIT_IO:
		exit_io(v);
		v->unfinished = true;
		return true;
	case KVM_EXIT_MMIO:
		exit_mmio(v);
		v->unfinished = true;
		return true;
	case KVM_EXIT_X86_RDMSR:
		kvm_exit_rdmsr(v);
		v->unfinished = true;
		return true;
	case KVM_EXIT_X86_WRMSR:
		kvm_exit_wrmsr(v);
		v->unfinished = true;
		return true;
	case KVM_EXIT_IOAPIC_EOI:
		exit_eoi(v);
		return true;
	case KVM_EXIT_INTR:
	case KVM_EXIT_UNKNOWN: /* a signal came before anything was tried */
		return true;
	case KVM_EXIT_DEBUG:
		return kvm_exit_debug(v, kind, e);
	case KVM_EXIT_SHUTDOWN:
		*kind = EXIT_SHUTDOWN;
		return false;
	case KVM_EXIT_SYSTEM_EVENT:
		*kind = system_event(v, e);
		return false;
	case KVM_EXIT_INTERNAL_ERROR:
		internal_error(v, e);
		return false;
	case KVM_EXIT_FAIL_ENTRY:
		entry_failed(v, e);
		return false;
	default:
		(void)err_set(e, EIO, "vCPU %u: KVM leaves the guest at rip 0x%llx for reason %u, which is not expected", v->id,
			      (unsigned long long)rip(v), v->run->exit_reason);
		return false;
	}
}
