/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The code cache: shared memory mapped twice, writable here and executable there, never both. At its start lie the trampolines between C and
 * translated code; blocks follow (zones.c).
 *
 * Threading: the vCPU's thread.
 */
#include "engine/bt/bt.h"
#include "engine/bt/decode.h"
#include "engine/bt/tramp.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* guest, host: those that live in host registers */
static const u8 homes[][2] = {
	{R_RDX, H_RDX}, {R_RBX, H_RBX}, {R_RBP, H_RBP}, {R_RSI, H_RSI}, {R_RDI, H_RDI}, {R_R8, H_R8},
	{R_R9, H_R9},	{R_R12, H_R12}, {R_R13, H_R13}, {R_RCX, H_R14}, {R_RSP, H_R15},
};

static void emit_bytes(struct emit *e, const u8 *p, size_t n)
{
	while (n--)
		e8(e, *p++);
}

void bt_tramp_load_flags(struct tramp *k)
{
	static const u8 flags[] = {
		0x89, 0xc1,	  /* mov ecx, eax */
		0xc1, 0xe9, 0x0b, /* shr ecx, 11 */
		0x83, 0xe1, 0x01, /* and ecx, 1 */
		0x88, 0xc4,	  /* mov ah, al */
		0x88, 0xc8,	  /* mov al, cl */
		0x04, 0x7f,	  /* add al, 0x7f: overflow when al was 1 */
		0x9e,		  /* sahf */
	};
	emit_bytes(&k->e, flags, sizeof flags);
}

/* Guest registers and flags from memory into the host's, then jump to v->jump_to. */
static void emit_restore(struct tramp *k)
{
	k->restore = k->e.pos;
	e_load32_fs(&k->e, H_RAX, TFS(cpu.rflags));
	bt_tramp_load_flags(k);
	for (u32 i = 0; i < ARRAY_SIZE(homes); i++)
		e_load_fs(&k->e, homes[i][1], TFS(cpu.gpr) + 8 * homes[i][0]);
	e_load_fs(&k->e, H_RAX, TFS(cpu.gpr));
	e_load_fs(&k->e, H_R11, TFS(r11));
	e_load_fs(&k->e, H_RSP, TFS(ras));
	e_jmp_fs(&k->e, TFS(jump_to));
}

static void push_reg(struct emit *e, u32 r)
{
	e_rex(e, false, 0, 0, r);
	e8(e, 0x50 | (r & 7));
}

static void pop_reg(struct emit *e, u32 r)
{
	e_rex(e, false, 0, 0, r);
	e8(e, 0x58 | (r & 7));
}

static const u8 callee_saved[] = {H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15};

/* void enter(void): C to translated code at v->jump_to; returns when an event handler says so. */
static u32 emit_enter(struct tramp *k)
{
	u32 at = k->e.pos;
	for (u32 i = 0; i < ARRAY_SIZE(callee_saved); i++)
		push_reg(&k->e, callee_saved[i]);
	e_lea(&k->e, true, H_RSP, H_RSP, H_RSP, 0, -8);
	e_store_fs(&k->e, TFS(host_rsp), H_RSP);
	e_jmp(&k->e, k->restore);
	return at;
}

static u32 emit_leave(struct tramp *k)
{
	u32 at = k->e.pos;
	e_lea(&k->e, true, H_RSP, H_RSP, H_RSP, 0, 8);
	for (u32 i = ARRAY_SIZE(callee_saved); i-- > 0;)
		pop_reg(&k->e, callee_saved[i]);
	e8(&k->e, 0xc3);
	return at;
}

void bt_tramp_save_flags(struct tramp *k)
{
	static const u8 flags[] = {
		0x0f, 0x90, 0xc0, /* seto al */
		0x9f,		  /* lahf */
		0x0f, 0xb6, 0xcc, /* movzx ecx, ah */
		0x0f, 0xb6, 0xc0, /* movzx eax, al */
		0xc1, 0xe0, 0x0b, /* shl eax, 11 */
		0x09, 0xc8,	  /* or eax, ecx */
	};
	e_store_fs(&k->e, TFS(cpu.gpr), H_RAX);
	e_store_fs(&k->e, TFS(t3), H_RCX);
	emit_bytes(&k->e, flags, sizeof flags);
	e_load32_fs(&k->e, H_RCX, TFS(cpu.rflags));
	e8(&k->e, 0x81); /* and ecx, ~FL_ARITH */
	e8(&k->e, 0xe1);
	e32(&k->e, ~(u32)FL_ARITH);
	e8(&k->e, 0x09); /* or eax, ecx */
	e8(&k->e, 0xc8);
	e_store32_fs(&k->e, TFS(cpu.rflags), H_RAX);
}

/* The other guest registers. */
static void emit_save(struct tramp *k)
{
	for (u32 i = 0; i < ARRAY_SIZE(homes); i++)
		e_store_fs(&k->e, TFS(cpu.gpr) + 8 * homes[i][0], homes[i][1]);
	e_store_fs(&k->e, TFS(ras), H_RSP);
	e_store_fs(&k->e, TFS(t1), H_R10);
	e_store_fs(&k->e, TFS(t2), H_R11);
}

typedef void *(*handler_fn)(struct bt_vcpu *, u32);
static const handler_fn handlers[EV_COUNT] = {
	[EV_MISS_READ] = bt_event_miss_read, [EV_MISS_WRITE] = bt_event_miss_write,
	[EV_STRADDLE] = bt_event_straddle,   [EV_INTERP] = bt_event_interp,
	[EV_EXIT] = bt_event_exit,	     [EV_INDIRECT] = bt_event_indirect,
	[EV_ITLB] = bt_event_itlb,	     [EV_POLL] = bt_event_poll,
	[EV_LIGHT] = bt_event_light,	     [EV_SIGNAL] = bt_event_signal,
	[EV_GOTO] = bt_event_goto,	     [EV_RET] = bt_event_ret,
};

static BT_UNCHECKED void *run_heavy(struct bt_vcpu *v, u32 site, u32 ev)
{
	bt_heavy(v);
	void *to = handlers[ev](v, site);
	if (to)
		bt_light(v);
	return to;
}

static u32 emit_event(struct tramp *k, enum bt_event ev, u32 leave)
{
	u32 at = k->e.pos;
	if (ev != EV_SIGNAL) { /* the signal handler has saved them */
		bt_tramp_save_flags(k);
		k->flags_saved[ev] = k->e.pos;
		emit_save(k);
	}
	e_load_fs(&k->e, H_RSP, TFS(host_rsp));
	e_load_fs(&k->e, H_RDI, 0);
	e_lea(&k->e, true, H_RDI, H_RDI, H_RSP, 0, k->fs);
	e_load32_fs(&k->e, H_RSI, TFS(t2));
	if (BT_ALL_HEAVY)
		e_mov_imm(&k->e, H_RDX, ev);
	e_mov_imm(&k->e, H_RAX, BT_ALL_HEAVY ? (u64)run_heavy : (u64)handlers[ev]);
	e8(&k->e, 0xff); /* call rax */
	e8(&k->e, 0xd0);
	e_store_fs(&k->e, TFS(jump_to), H_RAX);
	e8(&k->e, 0x48); /* test rax, rax */
	e8(&k->e, 0x85);
	e8(&k->e, 0xc0);
	e_jcc(&k->e, 5, k->restore);
	e_jmp(&k->e, leave);
	return at;
}

/* Where a return goes that the return stack does not know: r10 = target, r11 = site. Empty: put the stack back to its last word first. */
static void emit_ras_miss(struct tramp *k, struct bt_vcpu *v, u32 user)
{
	struct emit *e = &k->e;
	i32 jc = TFS(jc) + (i32)(user * sizeof v->jc[0]);
	v->ras_bottom_off[user] = e->pos;
	e_load_fs(e, H_RSP, TFS(ras_top) + (i32)(8 * user));
	v->ras_miss_off[user] = e->pos;
	e_store_fs(e, TFS(spare), H_R11);
	e_pext_fs(e, true, H_RCX, H_R10, TFS(jc_mask) + (i32)(8 * user));
	e_lea(e, false, H_R11, H_RCX, H_RCX, 0, 0);
	e_load_fs_index(e, H_RCX, H_R11, jc);
	e_lea(e, true, H_RCX, H_RCX, H_R10, 0, 0);
	u32 hit = e_jrcxz(e);
	e_load_fs(e, H_R11, TFS(spare));
	e_jmp(e, v->ev_off[EV_RET]);
	e_fix8(e, hit, e->pos);
	e_jmp_fs_index(e, H_R11, jc + 8);
}

static void emit_trampolines(struct bt_vcpu *v)
{
	struct tramp tramp = {.e = {.base = v->cache_rw, .pos = 64, .limit = v->vm->zone_size}, .fs = bt_fs_offset()}, *k = &tramp;
	emit_restore(k);
	v->enter_off = emit_enter(k);
	v->leave_off = emit_leave(k);
	for (u32 ev = 0; ev < EV_COUNT; ev++)
		if (handlers[ev])
			v->ev_off[ev] = emit_event(k, ev, v->leave_off);
	bt_emit_crossings(v, k);
	v->jc_miss_off = k->e.pos;
	e_mov_imm(&k->e, H_R10, BT_JC_NOWHERE);
	e_store_fs(&k->e, TFS(target), H_R10);
	e_jmp(&k->e, v->ev_off[EV_GOTO]);
	for (u32 user = 0; user < 2; user++)
		emit_ras_miss(k, v, user);
	if (GM_BOUNDS_CHECKS)
		bt_bounds_emit(v, &k->e);
	v->cache_start = k->e.pos;
}

/* Each view is in a reservation of its own for the sake of the pages around it. Anonymous memory, whose second view mremap makes: perf looks for
 * symbols of code in files, memfds too, nowhere but there; for other memory it asks /tmp/perf-PID.map (tools/perf-map.py). */
static bool map_views(struct bt_vcpu *v, struct err *e)
{
	u32 size = bt_cache_size(v->vm);
	v->cache_rw = bt_sparse(size, "code cache", e);
	v->cache_rx = v->cache_rw ? bt_sparse(size, "code cache", e) : NULL;
	if (!v->cache_rx)
		return false;
	if (mmap(v->cache_rw, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
		err_sys(e, errno, "code cache: cannot create %u MiB of shared memory", size >> 20);
		return false;
	}
	if (mremap(v->cache_rw, 0, size, MREMAP_MAYMOVE | MREMAP_FIXED, v->cache_rx) == MAP_FAILED ||
	    mprotect(v->cache_rx, size, PROT_READ | PROT_EXEC) < 0) {
		err_sys(e, errno,
			"code cache: cannot map memory executable; this host forbids generated code (noexec, SELinux execmem or "
			"MemoryDenyWriteExecute?)");
		return false;
	}
	return true;
}

/* What is known of blocks. */
static const struct {
	u32 at;
	u64 bytes;
} arrays[] = {
	{offsetof(struct bt_vcpu, blocks), sizeof(struct bt_block) * BT_MAX_BLOCKS},
	{offsetof(struct bt_vcpu, hash), sizeof(u32) * BT_HASH_SIZE},
	{offsetof(struct bt_vcpu, exits), sizeof(struct bt_exit) * BT_ZONE_EXITS *BT_ZONES},
	{offsetof(struct bt_vcpu, maps), sizeof(struct bt_insn_map) * BT_ZONE_MAPS *BT_ZONES},
	{offsetof(struct bt_vcpu, cpages), sizeof(struct bt_cpage) * BT_CPAGES},
	{offsetof(struct bt_vcpu, relocs), sizeof(struct bt_reloc) * BT_ZONE_RELOCS *BT_ZONES},
	{offsetof(struct bt_vcpu, origin), sizeof(u32) * BT_ORIGINS},
};

static void **array(const struct bt_vcpu *v, u32 i)
{
	return (void **)((char *)v + arrays[i].at);
}

static const char tables[] = "the code cache's tables";

bool bt_cache_init(struct bt_vcpu *v, struct err *e)
{
	if (!map_views(v, e))
		return false;
	for (u32 i = 0; i < ARRAY_SIZE(arrays); i++)
		if (!(*array(v, i) = bt_sparse(arrays[i].bytes, tables, e)))
			return false;
	v->decoder = bt_decoder_new(e);
	if (!v->decoder)
		return false;
	v->ncpages = 1;
	v->hash_mask = BT_HASH_FIRST - 1;
	emit_trampolines(v);
	bt_zones_init(v);
	bt_ahead_forget(v);
	bt_jc_clear(v);
	return bt_ras_init(v, e);
}

void bt_cache_fini(struct bt_vcpu *v)
{
	bt_ras_fini(v);
	bt_decoder_free(v->decoder);
	prefault_settle(v->vm->gm->prefault);
	bt_sparse_free(v->cache_rw, bt_cache_size(v->vm));
	bt_sparse_free(v->cache_rx, bt_cache_size(v->vm));
	for (u32 i = 0; i < ARRAY_SIZE(arrays); i++)
		bt_sparse_free(*array(v, i), arrays[i].bytes);
}

void bt_cache_memory(const struct bt_vcpu *v, engine_memory_fn tell, void *opaque)
{
	tell(opaque, "memory_code_cache", v->cache_rw, bt_cache_size(v->vm));
	tell(opaque, "memory_code_cache", v->cache_rx, bt_cache_size(v->vm));
	for (u32 i = 0; i < ARRAY_SIZE(arrays); i++)
		tell(opaque, "memory_blocks", *array(v, i), arrays[i].bytes);
	tell(opaque, "memory_jump_caches", v->jc, sizeof v->jc);
	bt_decoder_memory(v->decoder, tell, opaque);
}

/* The memory behind code that is gone. */
void bt_cache_give_back(struct bt_vcpu *v)
{
	u32 kept = (v->used->code + (u32)PAGE_SIZE - 1) & ~(u32)(PAGE_SIZE - 1);
	bt_ahead_forget(v);
	prefault_settle(v->vm->gm->prefault);
	madvise(v->cache_rw + kept, bt_cache_size(v->vm) - kept, MADV_REMOVE);
	for (u32 i = 0; i < ARRAY_SIZE(arrays); i++)
		madvise(*array(v, i), arrays[i].bytes, MADV_DONTNEED);
}
