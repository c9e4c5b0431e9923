/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One translation in progress. Private to tr_*.c and translate.c.
 * Threading: the vCPU's thread; lives on its stack.
 */
#pragma once

#include "engine/bt/bt.h"
#include "engine/bt/emit.h"
#include "engine/bt/table.h"

#define FS(member) (t->fs + (i32)offsetof(struct bt_vcpu, member))
#define FS_GPR(n) (t->fs + (i32)(8 * (n)))

#define TR_STUBS 512
#define TR_SLOTS 512

enum tr_stub_kind {
	STUB_EVENT,	/* r11d = site; jmp event */
	STUB_RUN,   /* a run (tr_run.c) one by one */
	STUB_MISALIGNED /* look whether the access straddles; back when not */
};

struct tr_stub {
	u8 kind;
	u8 event;
	u16 size;     /* of the access */
	u32 site;     /* passed in r11 */
	u32 back;     /* STUB_MISALIGNED: where to go on */
	u8 address; /* host register with the address that r10 must hold for the event */
	i8 below;   /* to be added to it */
	u16 insns;  /* STUB_RUN */
	gva_t gva;
	u32 slot_rel; /* cache offset of the rel32 that reaches it */
};

struct tr_pending {
	u32 rel8; /* of the jrcxz */
	u32 stub;
};

struct tr {
	struct bt_vcpu *v;
	struct emit e;
	i32 fs;
	struct bt_block *b;
	u32 bi; /* block index */
	u32 mode;
	bool user;
	gva_t gva;  /* of the instruction */
	gva_t next; /* of the next one */
	u32 site;   /* host offset where the instruction starts */
	bool end;   /* the block ends here */
	bool looked; /* a look-up has been emitted: each run of the block notices a kick */
	bool rsp_ok; /* the guest's rsp is known to be a multiple of 8 */
	bool poll_after_next;
	bool one_by_one; /* behind the block: no runs */
	u32 run_left;	 /* instructions left in the current run; rcx is its delta */
	u32 run_stub;
	const u8 *page; /* the code's bytes: one page, or two */

	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	const u8 *raw;

	u32 nstubs, nslots, npending;
	struct tr_stub stub[TR_STUBS];
	u32 slot[TR_SLOTS]; /* free slots: 5 bytes of room for a jump, within reach backwards */
	struct tr_pending pending[64];
	u32 nexits;
	struct {
		u32 rel32;
		gva_t gva;
		bool checked;
	} exit[BT_MAX_INSNS * 2 + 4];
};

enum { T_ADDR = H_R10, T_BASE = H_R11, T_DELTA = H_RCX, G_RSP = H_R15, G_RCX = H_R14 /* where guest rsp and rcx live */ };

/* Host register of a guest register, or -1 when it lives in memory. */
static inline int tr_host(u32 guest)
{
	switch (guest) {
	case R_RCX:
		return G_RCX;
	case R_RSP:
		return G_RSP;
	case R_R10:
	case R_R11:
	case R_R14:
	case R_R15:
		return -1;
	default:
		return (int)guest;
	}
}

/* Guest register number of a Zydis general register; -1 for anything else. High byte registers give their full register. */
int tr_gpr(ZydisRegister r);
bool tr_is_high8(ZydisRegister r);

/* ---- tr_mem.c: addresses and look-ups */
void tr_guard(struct tr *t, u32 need); /* keep every waiting jrcxz within reach of an island */
void tr_island(struct tr *t, bool skip, u32 spare);
void tr_jrcxz(struct tr *t, enum bt_event ev); /* jrcxz to an event at this instruction */
void tr_to_event(struct tr *t, enum bt_event ev, u32 arg);
u32 tr_read_guest(struct tr *t, u32 guest, u32 temp); /* the host register that holds it, loading into temp if need be */
void tr_write_guest(struct tr *t, u32 guest, u32 from);
void tr_effective(struct tr *t, const ZydisDecodedOperand *m, u32 dst); /* without the segment; clobbers rcx, r10 */
void tr_address(struct tr *t, const ZydisDecodedOperand *m); /* r10 = linear address; clobbers rcx, r11 */
/* rcx = delta for the page of the address. check: log2 of the alignment below which an access of `size` bytes may straddle, 0: none. */
void tr_lookup(struct tr *t, u32 address, bool write, u32 check, u32 size);
void tr_stack_check(struct tr *t); /* rsp is a multiple of 8, or the event takes over */
/* Address and look-up of a memory operand; returns the host register that holds the address. */
u32 tr_access(struct tr *t, const ZydisDecodedOperand *m, bool write, bool aligned);

u32 tr_run_jump(struct tr *t, u32 insns); /* jrcxz to the run's instructions one by one; returns the stub */
void tr_run_lookup(struct tr *t, u32 low, bool push);

/* ---- tr_run.c */
void tr_run_begin(struct tr *t); /* before an instruction: does a run begin here? */
void tr_run_next(struct tr *t);	 /* behind each instruction */

/* ---- tr_copy.c */
bool tr_copy(struct tr *t); /* false: cannot be copied, interpret */

/* ---- tr_flow.c */
void tr_exit_to(struct tr *t, int cc /* -1: always */, gva_t gva);
void tr_flow(struct tr *t, struct bt_row row);
void tr_interp(struct tr *t, bool stop);
