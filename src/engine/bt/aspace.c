/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of the shadow page tables. Each table spans all guest addresses, so it is reserved whole; the host commits what is touched.
 *
 * Giving back is light code: system calls only. Threading: the vCPU's thread.
 */
#include "engine/bt/bt.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* An inaccessible page on both sides: whoever leaves one mapping does not get into another. */
#define GUARD PAGE_SIZE

static u64 with_guards(u64 bytes)
{
	return PAGE_BASE(bytes + PAGE_SIZE - 1) + 2 * GUARD;
}

void *bt_sparse(u64 bytes, const char *what, struct err *e)
{
	u8 *p = mmap(NULL, with_guards(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p != MAP_FAILED) {
		madvise(p, with_guards(bytes), MADV_DONTFORK); /* cells need none of it */
		if (mprotect(p + GUARD, with_guards(bytes) - 2 * GUARD, PROT_READ | PROT_WRITE) == 0)
			return p + GUARD;
		munmap(p, with_guards(bytes));
	}
	err_sys(e, errno,
		"%s: cannot reserve %llu MiB of address space (no memory is used yet); check `ulimit -v` and vm.overcommit_memory "
		"(2 forbids it)",
		what, (unsigned long long)(bytes >> 20));
	return NULL;
}

void bt_sparse_free(void *p, u64 bytes)
{
	if (p)
		munmap((u8 *)p - GUARD, with_guards(bytes));
}

static const char tables[] = "shadow page tables", tables_owner[] = "memory_shadow_tables";

/* ThreadSanitizer leaves programs 1.5 TiB of addresses, and its mmap refuses others. Between its own tables it keeps 33 TiB from everybody,
 * which nobody uses. The functions that touch tables are not instrumented (BT_UNCHECKED). */
#ifdef __SANITIZE_THREAD__
#define SPARE_FIRST 0x340000000000ull
#define SPARE_END 0x550000000000ull

static void free_spare(void)
{
	syscall(SYS_munmap, SPARE_FIRST, SPARE_END - SPARE_FIRST);
}

static void *map_table(u64 bytes, struct err *e)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, free_spare);
	for (u64 at = SPARE_FIRST; at + bytes <= SPARE_END; at += bytes)
		if (syscall(SYS_mmap, at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE,
			    -1, 0l) == (long)at)
			return (void *)at;
	err_set(e, ENOMEM, "%s: no addresses are left beside ThreadSanitizer's; use fewer CPUs", tables);
	return NULL;
}

static void unmap_table(void *table, u64 bytes)
{
	syscall(SYS_munmap, table, bytes);
}
#else
static void *map_table(u64 bytes, struct err *e)
{
	return bt_sparse(bytes, tables, e);
}

static void unmap_table(void *table, u64 bytes)
{
	bt_sparse_free(table, bytes);
}
#endif

#define REGION_LIST 65536u

static u64 table_bytes(const struct bt_vm *vm)
{
	return (bt_entry_index(vm, ~0ull) + 1) * sizeof(u64);
}

static struct bt_aspace *aspace_new(const struct bt_vm *vm, struct err *e)
{
	struct bt_aspace *as = bt_sparse(sizeof *as, tables, e);
	for (u32 t = 0; as && t < 6; t++)
		if (!(as->table[t >> 1][t & 1] = map_table(table_bytes(vm), e)))
			return as;
	if (as && (as->meta = bt_sparse(BT_REGIONS * sizeof *as->meta, tables, e)) &&
	    (as->regions = bt_sparse(REGION_LIST * sizeof(u32), tables, e)))
		as->cap_regions = REGION_LIST;
	return as;
}

static void aspace_free(const struct bt_vm *vm, struct bt_aspace *as)
{
	for (u32 t = 0; t < 6; t++)
		if (as->table[t >> 1][t & 1])
			unmap_table(as->table[t >> 1][t & 1], table_bytes(vm));
	bt_sparse_free(as->meta, BT_REGIONS * sizeof *as->meta);
	bt_sparse_free(as->regions, REGION_LIST * sizeof(u32));
	bt_sparse_free(as, sizeof *as);
}

/* Mapped anew, so that the host's page tables go too: there may be one for each page of a table. Cells forked in between inherit nothing but zeroes. */
static void renew_table(u64 *table, u64 bytes)
{
	const long flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
	if (syscall(SYS_mmap, table, bytes, PROT_READ | PROT_WRITE, flags, -1, 0l) == (long)table)
		syscall(SYS_madvise, table, bytes, MADV_DONTFORK);
	else
		syscall(SYS_madvise, table, bytes, MADV_DONTNEED);
}

void bt_aspace_give_back(const struct bt_vm *vm, struct bt_aspace *as, u64 regions)
{
	u64 bytes = regions * PAGE_SIZE; /* one page of a table maps one region */
	for (u32 t = 0; t < 6; t++)
		renew_table(as->table[t >> 1][t & 1], bytes < table_bytes(vm) ? bytes : table_bytes(vm));
	syscall(SYS_madvise, as->meta, regions * sizeof *as->meta, MADV_DONTNEED);
}

void bt_aspace_memory(const struct bt_vcpu *v, engine_memory_fn tell, void *opaque)
{
	tell(opaque, "memory_frames", v->frames, v->vm->nframes * sizeof *v->frames);
	for (u32 i = 0; i < v->vm->aspaces; i++) {
		const struct bt_aspace *as = v->aspaces[i];
		for (u32 t = 0; t < 6; t++)
			tell(opaque, tables_owner, as->table[t >> 1][t & 1], table_bytes(v->vm));
		tell(opaque, tables_owner, as->meta, BT_REGIONS * sizeof *as->meta);
		tell(opaque, tables_owner, as->regions, REGION_LIST * sizeof(u32));
		tell(opaque, tables_owner, as, sizeof *as);
	}
}

bool bt_aspace_init(struct bt_vcpu *v, struct err *e)
{
	v->frames = bt_sparse(v->vm->nframes * sizeof *v->frames, "page frames", e);
	if (!v->frames)
		return false;
	for (u32 i = 0; i < v->vm->aspaces; i++) {
		v->aspaces[i] = aspace_new(v->vm, e);
		if (!v->aspaces[i] || !v->aspaces[i]->cap_regions)
			return false;
	}
	return true;
}

void bt_aspace_fini(struct bt_vcpu *v)
{
	bt_sparse_free(v->frames, v->vm->nframes * sizeof *v->frames);
	for (u32 i = 0; i < v->vm->aspaces; i++)
		if (v->aspaces[i])
			aspace_free(v->vm, v->aspaces[i]);
}
