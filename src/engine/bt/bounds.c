/* SPDX-License-Identifier: Apache-2.0 */
/*
 * "Whatever the guest does, host memory outside its RAM is untouched", as builds with bounds_checks prove it for each of their runs. Nothing of
 * this is called in others.
 *
 * Checks. Translated code reaches guest memory by what a shadow table says; a wrong or a stale entry there would lead it into the program's own
 * memory without a fault. So each instruction that accesses guest memory, as it was emitted and with the registers that it will use, is preceded
 * by a call with its host address and size. C code on a vCPU calls bt_check_ram. An address that is not one of a program (bit 47 and above) may
 * pass: the tables rely on its fault (shadow.c). Prefetches touch nothing.
 *
 * What the checks do not see is a store that nobody knows for one. It mostly meets an address where nothing is mapped: in translated code that
 * is reported (signal.c) instead of handed to the interpreter, and the engine's tables and code cache have an inaccessible page on both sides
 * (aspace.c), as guest RAM has. Canaries stand where no page can: inside struct bt_vcpu, behind each part that translated code writes by
 * displacement or reads by index, and at its end. They are looked at whenever the world stops and whenever a run ends.
 *
 * Threading: the vCPU's thread; canaries also by who has stopped the world.
 */
#include "engine/bt/tr.h"

#include <stdio.h>
#include <stdlib.h>

#define CANARY 0x9d5a3c71e6f4b82full

/* ---- what is said at the end */

static _Noreturn void stop(const struct bt_vcpu *v, const char *what, u64 size, u64 address, const char *who)
{
	const struct guest_memory *gm = v->vm->gm;
	fprintf(stderr,
		"guise: internal error: vCPU %u, guest rip 0x%llx: %s of %llu bytes at host address 0x%llx, outside guest RAM "
		"(0x%llx bytes at %p); %s\n",
		v->id, (unsigned long long)v->cpu.rip, what, (unsigned long long)size, (unsigned long long)address,
		(unsigned long long)gm->size, (void *)gm->map, who);
	abort();
}

void bt_outside_c(const struct bt_vcpu *v, const u8 *host, u64 size, bool write)
{
	stop(v, write ? "store" : "load", size, (u64)host, "interpreted");
}

void bt_outside_translated(struct bt_vcpu *v, const u8 *code, u64 address, u64 size, const char *what)
{
	u32 off = (u32)(code - v->cache_rx);
	const struct bt_block *b = bt_block_at(v, off);
	char who[100] = "in no block";
	if (b) {
		v->cpu.rip = b->gva + bt_insn_at(v, b, off)->guest;
		snprintf(who, sizeof who, "translated: code 0x%x of the block for 0x%llx, mode 0x%x", off - b->checked,
			 (unsigned long long)b->gva, b->mode);
	}
	stop(v, what, size, address, who);
}

/* Called by the trampolines; `after` is where the check would have returned to. */
static _Noreturn void failed(struct bt_vcpu *v, u32 write, const u8 *after)
{
	bt_outside_translated(v, after - 1, v->bounds.address, v->bounds.size, write ? "store" : "load");
}

/* ---- the check: before the access, where it is emitted; the comparison, once for loads and once for stores */

void tr_bounds_check(struct tr *t, u32 base, u32 index, i32 disp, u32 size, bool write)
{
	tr_guard(t, 110); /* itself, and the access behind it */
	e_store_fs(&t->e, FS(bounds.rax), H_RAX);
	e_store_fs(&t->e, FS(bounds.rcx), H_RCX);
	e_lea(&t->e, true, H_RAX, base, index, 0, disp);
	e_mov_imm(&t->e, H_RCX, size);
	tr_reloc(t, RELOC_OUT, e_call(&t->e, t->v->bounds_off[write]));
}

#define AT(member) (fs + (i32)offsetof(struct bt_vcpu, member))

static void emit_bytes(struct emit *e, const u8 *p, u32 n)
{
	while (n--)
		e8(e, *p++);
}

static u32 jcc8(struct emit *e, u32 cc)
{
	e8(e, 0x70 | cc);
	e8(e, 0);
	return e->pos - 1;
}

/* rax = address, rcx = size; both as bounds.rax and bounds.rcx tell afterwards */
static void emit_comparison(struct emit *e, i32 fs, bool write)
{
	static const u8 save_flags[] = {0x9f, 0x0f, 0x90, 0xc0};     /* lahf; seto al */
	static const u8 restore_flags[] = {0x04, 0x7f, 0x9e};	     /* add al, 0x7f; sahf */
	static const u8 above_programs[] = {0x48, 0xc1, 0xe8, 0x2f}; /* shr rax, 47 */
	static const u8 call_rax[] = {0xff, 0xd0};

	e_store_fs(e, AT(bounds.address), H_RAX);
	e_store_fs(e, AT(bounds.size), H_RCX);
	emit_bytes(e, save_flags, sizeof save_flags);
	e_store_fs(e, AT(bounds.flags), H_RAX);
	e_load_fs(e, H_RAX, AT(bounds.address));
	e_op_fs(e, true, 0x2b, H_RAX, AT(bounds.ram)); /* sub */
	u32 below = jcc8(e, 2);
	e_lea(e, true, H_RCX, H_RCX, H_RAX, 0, 0);
	e_op_fs(e, true, 0x3b, H_RCX, AT(bounds.ram_size)); /* cmp */
	u32 above = jcc8(e, 7);
	u32 fine = e->pos;
	e_load_fs(e, H_RAX, AT(bounds.flags));
	emit_bytes(e, restore_flags, sizeof restore_flags);
	e_load_fs(e, H_RAX, AT(bounds.rax));
	e_load_fs(e, H_RCX, AT(bounds.rcx));
	e8(e, 0xc3);
	e_fix8(e, below, e->pos);
	e_fix8(e, above, e->pos);
	e_load_fs(e, H_RAX, AT(bounds.address));
	emit_bytes(e, above_programs, sizeof above_programs);
	e_jcc(e, 5, fine);
	e_load_fs(e, H_RDI, 0);
	e_lea(e, true, H_RDI, H_RDI, H_RSP, 0, fs);
	e_mov_imm(e, H_RSI, write);
	e_load(e, true, H_RDX, H_RSP, H_RSP, 0, 0);
	e_load_fs(e, H_RSP, AT(host_rsp));
	e_mov_imm(e, H_RAX, (u64)failed);
	emit_bytes(e, call_rax, sizeof call_rax);
}

void bt_bounds_emit(struct bt_vcpu *v, struct emit *e)
{
	for (u32 write = 0; write < 2; write++) {
		v->bounds_off[write] = e->pos;
		emit_comparison(e, bt_fs_offset(), write);
	}
}

/* ---- canaries */

static const size_t canaries[] = {
	offsetof(struct bt_vcpu, behind_cpu),
	offsetof(struct bt_vcpu, behind_shared),
	offsetof(struct bt_vcpu, behind_tables),
	offsetof(struct bt_vcpu, last),
};

void bt_bounds_init(struct bt_vcpu *v)
{
	v->bounds.ram = (u64)v->vm->gm->map;
	v->bounds.ram_size = v->vm->gm->size;
	for (u32 i = 0; i < ARRAY_SIZE(canaries); i++) {
		struct bt_canary *c = (struct bt_canary *)((char *)v + canaries[i]);
		for (u64 *w = c->word; w < (u64 *)(c + 1); w++)
			*w = CANARY ^ (u64)w;
	}
}

void bt_canaries_check(const struct bt_vcpu *v)
{
	for (u32 i = 0; i < ARRAY_SIZE(canaries); i++) {
		const struct bt_canary *c = (const struct bt_canary *)((const char *)v + canaries[i]);
		for (const u64 *w = c->word; w < (const u64 *)(c + 1); w++)
			if (*w != (CANARY ^ (u64)w))
				stop(v, "a canary says that there was a store", sizeof *w, (u64)w, "by whom is not known");
	}
}
