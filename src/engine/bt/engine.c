/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The software engine as the rest of the program sees it: whether it can run here, the VM that its vCPUs share, and the tables of engine.h: one
 * for each way of running user code, and the interpreter alone.
 *
 * Threading: see engine.h.
 */
#include "engine/bt/bt.h"
#include "engine/bt/cell.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

static int bt_probe(struct err *e)
{
	u32 a, b, c, d;
	__cpuid_count(7, 0, a, b, c, d);
	if (!(b & (1u << 8)) || !(b & (1u << 5)))
		return err_set(e, ENOTSUP, "engine bt: this CPU lacks BMI2 or AVX2 (x86-64-v3 is needed)");
	__cpuid(1, a, b, c, d);
	if (!(getauxval(AT_HWCAP2) & 2))
		return err_set(e, ENOTSUP,
			       "engine bt: the host kernel does not let programs set the gs base (FSGSBASE; Linux 5.9 or newer)");
	if (!(c & (1u << 27)))
		return err_set(e, ENOTSUP, "engine bt: the host kernel has not enabled XSAVE");
	return 0;
}

/* A cell is made and let go. */
static int direct_probe(struct err *e)
{
	int r = bt_probe(e), ram = r < 0 ? -1 : memfd_create("guise-probe", MFD_CLOEXEC);
	if (r < 0)
		return r;
	if (ram < 0)
		return err_sys(e, errno, "engine direct");
	struct bt_cell *c = bt_cell_new(ram, e);
	close(ram);
	if (!c)
		return -e->code;
	bt_cell_free(c);
	return 0;
}

/* ---- the VM */

static u64 frames_of(const struct guest_memory *gm)
{
	u64 end = 0;
	for (u32 i = 0; i < gm->nslots; i++)
		if (gm->slots[i].gpa + gm->slots[i].size > end)
			end = gm->slots[i].gpa + gm->slots[i].size;
	return end >> PAGE_SHIFT;
}

/* Host addresses are 47 bits wide, and the tables of one address space span six times what a guest can address, 3 TiB; with more vCPUs than
 * that leaves room for, half of it (shadow.c). */
#ifdef __SANITIZE_THREAD__
#define WHOLE_TABLES 0u
#else
#define WHOLE_TABLES 32u
#endif

static void lay_out_tables(struct bt_vm *vm)
{
	vm->page_mask = vm->max_vcpus > WHOLE_TABLES ? BT_PAGE_MASK >> 1 & ~(u64)(PAGE_SIZE - 1) : BT_PAGE_MASK;
	vm->aspaces = BT_ASPACES;
	while (vm->aspaces > 1 && vm->aspaces * vm->max_vcpus > WHOLE_TABLES)
		vm->aspaces /= 2;
}

static u64 pieces_of(const struct bt_vm *vm)
{
	return (vm->nframes << PAGE_SHIFT >> BT_PIECE_SHIFT) + 1;
}

static int vm_create(struct engine_vm **out, struct guest_memory *gm, const struct x86_cpuid *cpuid, u32 max_vcpus, bool translate,
		     enum bt_directly directly, u32 zone_size, struct err *e)
{
	if (max_vcpus > BT_MAX_VCPUS)
		return err_set(e, ENOTSUP,
			       "engine bt: %u vCPUs: at most %u, whose shadow tables fill the host's address space; use --cpus %u",
			       max_vcpus, BT_MAX_VCPUS, BT_MAX_VCPUS);
	struct bt_vm *vm = calloc(1, sizeof *vm);
	if (!vm)
		return err_sys(e, ENOMEM, "engine bt");
	vm->gm = gm;
	vm->cpuid = cpuid;
	vm->zone_size = zone_size;
	vm->translate = translate;
	vm->directly = directly;
	vm->max_vcpus = max_vcpus;
	lay_out_tables(vm);
	vm->nframes = frames_of(gm);
	vm->frames = bt_sparse(vm->nframes * sizeof *vm->frames, "page frames", e);
	vm->touched = vm->frames ? bt_sparse(pieces_of(vm), "pieces of RAM", e) : NULL;
	if (!vm->touched) {
		bt_sparse_free(vm->frames, vm->nframes * sizeof *vm->frames);
		free(vm);
		return -e->code;
	}
	pthread_mutex_init(&vm->lock, NULL);
	pthread_cond_init(&vm->quiet, NULL);
	pthread_cond_init(&vm->go, NULL);
	bt_signals_install();
	bt_self_unused();
	*out = (struct engine_vm *)vm;
	return 0;
}

static int bt_vm_create(struct engine_vm **out, struct guest_memory *gm, const struct x86_cpuid *cpuid, u32 max_vcpus, struct err *e)
{
	return vm_create(out, gm, cpuid, max_vcpus, true, DIRECTLY_IF_IT_PAYS, BT_ZONE_SIZE, e);
}

static int translate_vm_create(struct engine_vm **out, struct guest_memory *gm, const struct x86_cpuid *cpuid, u32 max_vcpus, struct err *e)
{
	return vm_create(out, gm, cpuid, max_vcpus, true, DIRECTLY_NEVER, BT_ZONE_SIZE, e);
}

static int direct_vm_create(struct engine_vm **out, struct guest_memory *gm, const struct x86_cpuid *cpuid, u32 max_vcpus, struct err *e)
{
	return vm_create(out, gm, cpuid, max_vcpus, true, DIRECTLY_ALWAYS, BT_ZONE_SIZE, e);
}

static int interp_vm_create(struct engine_vm **out, struct guest_memory *gm, const struct x86_cpuid *cpuid, u32 max_vcpus, struct err *e)
{
	return vm_create(out, gm, cpuid, max_vcpus, false, DIRECTLY_NEVER, BT_ZONE_SIZE, e);
}

static int tiny_vm_create(struct engine_vm **out, struct guest_memory *gm, const struct x86_cpuid *cpuid, u32 max_vcpus, struct err *e)
{
	return vm_create(out, gm, cpuid, max_vcpus, true, DIRECTLY_IF_IT_PAYS, BT_ZONE_SIZE_TINY, e);
}

static void bt_vm_destroy(struct engine_vm *engine_vm)
{
	struct bt_vm *vm = (struct bt_vm *)engine_vm;
	if (!vm)
		return;
	bt_sparse_free(vm->touched, pieces_of(vm));
	bt_sparse_free(vm->frames, vm->nframes * sizeof *vm->frames);
	pthread_cond_destroy(&vm->go);
	pthread_cond_destroy(&vm->quiet);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}

/* ---- the engines */

/* What they have in common; they differ in how a VM is created. */
#define BT_OPS                                                                                                                             \
	.vm_destroy = bt_vm_destroy, .vcpu_create = bt_vcpu_create, .vcpu_destroy = bt_vcpu_destroy, .vcpu_run = bt_vcpu_run,              \
	.vcpu_kick = bt_vcpu_kick, .vcpu_irq = bt_vcpu_irq, .vcpu_nmi = bt_vcpu_nmi, .vcpu_state = bt_vcpu_state,                          \
	.vcpu_sync_in = bt_vcpu_sync_in, .vcpu_sync_out = bt_vcpu_sync_out, .vcpu_idle = bt_vcpu_idle, .vcpu_debug = bt_vcpu_debug,        \
	.ram_written = bt_ram_written, .stats = bt_stats, .memory = bt_memory

const struct engine_ops engine_bt = {
	.name = "bt",
	.probe = bt_probe,
	.summary = "binary translation, needs no hardware virtualization",
	.vm_create = bt_vm_create,
	BT_OPS,
};

const struct engine_ops engine_translate = {
	.name = "translate",
	.probe = bt_probe,
	.summary = "binary translation alone: all user code is translated too",
	.vm_create = translate_vm_create,
	BT_OPS,
};

const struct engine_ops engine_direct = {
	.name = "direct",
	.probe = direct_probe,
	.summary = "binary translation, and user code never translated where it can run directly; for tests",
	.vm_create = direct_vm_create,
	BT_OPS,
};

/* Its code cache is full after some thousand blocks. */
const struct engine_ops engine_tiny = {
	.name = "tiny",
	.probe = bt_probe,
	.summary = "binary translation with a tiny code cache; for tests",
	.vm_create = tiny_vm_create,
	BT_OPS,
};

/* The interpreter alone: slow, and the second opinion when translated code is in doubt. */
const struct engine_ops engine_interp = {
	.name = "interp",
	.probe = bt_probe,
	.summary = "the interpreter alone, for tests",
	.vm_create = interp_vm_create,
	BT_OPS,
};
