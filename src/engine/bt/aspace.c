/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of the shadow page tables. Each table spans all guest addresses, so it is reserved whole; the host commits what is touched.
 *
 * Threading: the vCPU's thread, at its creation and end.
 */
#include "engine/bt/bt.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

void *bt_sparse(u64 bytes, const char *what, struct err *e)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p != MAP_FAILED)
		return p;
	err_sys(e, errno,
		"%s: cannot reserve %llu MiB of address space (no memory is used yet); check `ulimit -v` and vm.overcommit_memory "
		"(2 forbids it)",
		what, (unsigned long long)(bytes >> 20));
	return NULL;
}

#define REGION_LIST 65536u

static const char tables[] = "shadow page tables";

static u64 table_bytes(const struct bt_vm *vm)
{
	return (bt_entry_index(vm, ~0ull) + 1) * sizeof(u64);
}

static bool aspace_alloc(const struct bt_vm *vm, struct bt_aspace *as, struct err *e)
{
	for (u32 t = 0; t < 6; t++)
		if (!(as->table[t >> 1][t & 1] = bt_sparse(table_bytes(vm), tables, e)))
			return false;
	as->meta = bt_sparse(BT_REGIONS, tables, e);
	as->regions = bt_sparse(REGION_LIST * sizeof(u32), tables, e);
	as->cap_regions = REGION_LIST;
	return as->meta && as->regions;
}

static void aspace_free(const struct bt_vm *vm, struct bt_aspace *as)
{
	for (u32 t = 0; t < 6; t++)
		if (as->table[t >> 1][t & 1])
			munmap(as->table[t >> 1][t & 1], table_bytes(vm));
	if (as->meta)
		munmap(as->meta, BT_REGIONS);
	if (as->regions)
		munmap(as->regions, REGION_LIST * sizeof(u32));
	free(as);
}

bool bt_aspace_init(struct bt_vcpu *v, struct err *e)
{
	v->frames = bt_sparse(v->vm->nframes * sizeof *v->frames, "page frames", e);
	if (!v->frames)
		return false;
	for (u32 i = 0; i < v->vm->aspaces; i++) {
		v->aspaces[i] = calloc(1, sizeof *v->aspaces[i]);
		if (!v->aspaces[i]) {
			err_sys(e, ENOMEM, tables);
			return false;
		}
		if (!aspace_alloc(v->vm, v->aspaces[i], e))
			return false;
	}
	return true;
}

void bt_aspace_fini(struct bt_vcpu *v)
{
	if (v->frames)
		munmap(v->frames, v->vm->nframes * sizeof *v->frames);
	for (u32 i = 0; i < v->vm->aspaces; i++)
		if (v->aspaces[i])
			aspace_free(v->vm, v->aspaces[i]);
}
