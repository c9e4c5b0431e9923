/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One translation in progress. Private to tr_*.c and translate.c.
 * Threading: the vCPU's thread; lives on its stack.
 */
#pragma once

#include "engine/bt/bt.h"
#include "engine/bt/decode.h"
#include "engine/bt/emit.h"
#include "engine/bt/table.h"

#define FS(member) (t->fs + (i32)offsetof(struct bt_vcpu, member))
#define FS_GPR(n) (t->fs + (i32)(8 * (n)))

#define TR_STUBS 512
#define TR_SLOTS 512
#define TR_INSNS (BT_MAX_INSNS + 1) /* one more, in the shadow of STI */
#define TR_EXITS (BT_MAX_INSNS * 2 + BT_SHARED * 2 + 4)
#define TR_RELOCS (TR_STUBS + TR_EXITS + 6 * TR_INSNS)
#define TR_ALONE 0xff /* an access that shares no look-up */
#define TR_LINE 64

enum tr_stub_kind {
	STUB_EVENT,	/* r11d = site; jmp event */
	STUB_CAREFUL,	/* on in a block that shares no look-ups */
	STUB_MISALIGNED /* look whether the access straddles; back when not */
};

struct tr_stub {
	u8 kind;
	u8 event;
	u16 size;     /* of the access */
	u32 site;     /* passed in r11 */
	u32 back;     /* STUB_MISALIGNED: where to go on */
	u8 address;   /* host register with the address that r10 must hold for the event */
	i32 plus;     /* to be added to it */
	gva_t gva;    /* STUB_CAREFUL */
	u32 slot_rel; /* cache offset of the rel32 that reaches it */
};

/* An instruction of the block, and how its accesses find their deltas. */
struct tr_insn {
	const struct bt_insn *is;
	struct bt_row row; /* its own, or another one here */
	gva_t gva;
	u8 group[2]; /* by enum tr_use: which shared look-up serves it, or TR_ALONE */
	i64 at[2];   /* its address, relative to the root of that look-up */
};
enum tr_use { USE_OPERAND, USE_STACK };

/* Accesses that lie in one page, because their addresses are one value plus constants and a check says so. */
struct tr_group {
	u32 root;
	i64 low, high; /* the range of addresses, relative to the root */
	bool write;
	u32 uses, last; /* accesses, and the instruction with the last one */
	bool looked;	/* its look-up has been emitted */
	bool kept;	/* and its delta stored in bt_vcpu.shared */
};

/* Where an access goes: [base + rcx + disp], or [rcx + disp] when base is negative. */
struct tr_place {
	int base;
	i32 disp;
};

struct tr_exit {
	u32 rel32;
	gva_t gva;
	bool checked, careful; /* see bt_exit */
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
	bool stays;  /* not to be rebased */
	gva_t gva;   /* of the instruction */
	gva_t next;  /* of the next one */
	u32 site;    /* host offset where the instruction starts */
	bool end;    /* the block ends here */
	bool looked; /* a look-up has been emitted: each run of the block notices a kick */
	bool rsp_ok; /* the guest's rsp is known to be a multiple of 8 */
	bool poll_after_next;
	u8 delta, delta_in; /* the group whose delta rcx will hold behind this instruction, and holds now; TR_ALONE: none */
	u8 r11, r11_in;	    /* the same of host r11 and guest registers that live in memory; BT_NO_GPR: none */
	i32 rsp_due;	    /* the guest's rsp is G_RSP plus this */
	const u8 *page;	    /* the code's bytes: one page, or two */

	struct tr_insn *insn; /* the current one, with its parts at hand */
	const struct bt_insn *in;
	const struct bt_operand *op;
	const u8 *raw;

	u32 nstubs, nslots, npending;
	struct tr_stub stub[TR_STUBS];
	u32 slot[TR_SLOTS]; /* free slots: 5 bytes of room for a jump, within reach backwards */
	struct tr_pending pending[64];
	u32 nexits;
	struct tr_exit exit[TR_EXITS];
	u32 ninsns, ngroups;
	struct tr_group group[BT_SHARED];
	struct tr_insn list[TR_INSNS];
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
static inline int tr_gpr(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15)
		return (int)(r - ZYDIS_REGISTER_AX) & 15;
	if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_R15B)
		return (int)(r - ZYDIS_REGISTER_SPL) + R_RSP;
	if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BH)
		return (int)(r - ZYDIS_REGISTER_AL) & 3;
	return -1;
}
_Static_assert(ZYDIS_REGISTER_EAX == ZYDIS_REGISTER_AX + 16 && ZYDIS_REGISTER_RAX == ZYDIS_REGISTER_EAX + 16, "tr_gpr counts on it");

static inline bool tr_is_high8(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
}
static inline bool tr_is_gpr64(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15;
}

static inline bool tr_writes(const struct bt_operand *o)
{
	return (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
}

static inline bool tr_is_mem(const struct bt_operand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_MEMORY;
}
static inline bool tr_odd_width(const struct tr *t)
{
	return t->in->has_operandsize;
}

/* ---- translate.c */
/* The guest's bytes, which may change while they are looked at, and what was seen of them. */
struct tr_source {
	const u8 *page, *page2;
	u32 copied; /* up to this offset */
	u8 copy[2 * PAGE_SIZE];
};
void tr_copy_source(struct tr_source *s, u32 end);
/* A block where v->used says; it is not published. NULL: it cannot be laid out. Its code pages are counted in any case. */
struct bt_block *tr_translate(struct bt_vcpu *v, gva_t gva, u64 gpfn, u64 gpfn2, u32 mode, struct tr_source *s);

/* ---- tr_mem.c: addresses and look-ups */
void tr_guard(struct tr *t, u32 need); /* keep every waiting jrcxz within reach of an island */
void tr_island(struct tr *t, bool skip, u32 spare);
void tr_jrcxz(struct tr *t, enum bt_event ev); /* jrcxz to an event at this instruction */
void tr_to_event(struct tr *t, enum bt_event ev, u32 arg);
/* What was or will be emitted at this cache offset depends on where the block lies. */
void tr_reloc(struct tr *t, enum bt_reloc_kind kind, u32 at);
void tr_mov_gva(struct tr *t, u32 reg, gva_t gva);
u32 tr_read_guest(struct tr *t, u32 guest, u32 temp); /* the host register that holds it, loading into temp if need be */
void tr_write_guest(struct tr *t, u32 guest, u32 from);
void tr_effective(struct tr *t, const struct bt_operand *m, u32 dst); /* without the segment; clobbers rcx, r10 */
void tr_address(struct tr *t, const struct bt_operand *m);	      /* r10 = linear address; clobbers rcx */
/* rcx = delta for the page of the address. check: log2 of the alignment below which an access of `size` bytes may straddle, 0: none. */
void tr_lookup(struct tr *t, u32 address, bool write, u32 check, u32 size);
void tr_stack_check(struct tr *t); /* rsp is a multiple of 8, or the event takes over */
/* Address and look-up of a memory operand. */
struct tr_place tr_access(struct tr *t, const struct bt_operand *m, bool write, bool aligned);
void tr_modrm(struct tr *t, u32 reg, struct tr_place p, bool evex); /* ModRM, SIB and displacement */
void tr_load(struct tr *t, u32 reg, struct tr_place p);		    /* 64 bits */
void tr_store(struct tr *t, struct tr_place p, u32 reg);
void tr_place_address(struct tr *t, u32 dst, struct tr_place p);       /* dst = host address */
void tr_load_delta(struct tr *t, bool write);			       /* rcx = delta, or 0, of the page whose number is in rcx */
void tr_jump_miss(struct tr *t, u32 address, i32 plus, bool write);    /* jrcxz to a miss at address + plus */
void tr_jump_careful(struct tr *t);				       /* jrcxz to this instruction in a careful block */
bool tr_plain_base(const struct tr *t, const struct bt_operand *m);    /* the address is a base register, or rip, plus a constant */
bool tr_plain_address(const struct tr *t, const struct bt_operand *m); /* the same, or with an index register besides */
/* The 64-bit value of an operand into a host register; memory operands through a look-up. */
u32 tr_fetch64(struct tr *t, const struct bt_operand *o, u32 temp);

/* ---- bounds.c */
/* The instruction that comes next accesses guest memory at [base + index + disp] (index H_RSP: none). No register nor flag changes. */
void tr_bounds_check(struct tr *t, u32 base, u32 index, i32 disp, u32 size, bool write);
static inline void tr_check(struct tr *t, u32 base, u32 index, i32 disp, u32 size, bool write)
{
	if (GM_BOUNDS_CHECKS)
		tr_bounds_check(t, base, index, disp, size, write);
}
static inline void tr_check_place(struct tr *t, struct tr_place p, u32 size, bool write)
{
	tr_check(t, p.base < 0 ? (u32)H_RCX : (u32)p.base, p.base < 0 ? (u32)H_RSP : (u32)H_RCX, p.disp, size, write);
}

/* ---- translate.c */
void tr_mark(struct tr *t, u8 flag);	   /* the current instruction's map entry */
void tr_set_insn(struct tr *t, u32 index); /* the block's index-th instruction becomes the current one */

/* ---- tr_plan.c: which accesses share a look-up */
void tr_plan(struct tr *t);	       /* for the whole block, once its instructions are decoded */
bool tr_is_near64(const struct tr *t); /* a stack instruction of 64 bits */

/* ---- tr_group.c: shared look-ups */
bool tr_shared(const struct tr *t, enum tr_use use);
/* The delta of a shared access into rcx. base: guest register, or -1 for rip; disp: from it to the address. */
struct tr_place tr_share(struct tr *t, enum tr_use use, int base, i64 disp, bool write);
struct tr_place tr_share_operand(struct tr *t, const struct bt_operand *m,
				 bool write); /* the same for a memory operand, with or without index */
void tr_forget_delta(struct tr *t);	      /* rcx is about to be used otherwise: keep what it holds if that is wanted later */
void tr_between(struct tr *t, bool poll);     /* before an instruction, or the poll in front of it: what must be put straight */
void tr_settle_rsp(struct tr *t);
bool tr_shares_behind(const struct tr *t, u32 insn); /* will this instruction or a later one use a look-up made already? */

static inline void tr_forget_r11(struct tr *t)
{
	t->r11 = t->r11_in = BT_NO_GPR;
}

/* ---- tr_copy.c */
bool tr_copy(struct tr *t); /* false: cannot be copied, interpret */

/* ---- tr_rows.c */
void tr_emit(struct tr *t, struct bt_row row);
void tr_interp(struct tr *t, bool stop);
void tr_insn_copy(struct tr *t, u32 arg); /* if it may run natively */

/* ---- tr_flow.c: jumps, calls, returns, loops */
void tr_add_exit(struct tr *t, u32 rel32, gva_t gva, bool checked, bool careful);
void tr_exit_to(struct tr *t, int cc /* -1: always */, gva_t gva);
bool tr_uses_ras(const struct tr *t); /* do calls and returns of this block go by the return stack? */
void tr_insn_call(struct tr *t, u32 arg);
void tr_insn_ret(struct tr *t, u32 arg);
void tr_insn_jmp(struct tr *t, u32 arg);
void tr_insn_jcc(struct tr *t, u32 cc);
void tr_insn_jrcxz(struct tr *t, u32 arg);
void tr_insn_loop(struct tr *t, u32 arg);

/* ---- tr_stack.c */
void tr_push_next(struct tr *t);	      /* the address behind this instruction */
struct tr_place tr_prepare_pop(struct tr *t); /* where the word is; rsp has yet to move */
void tr_add_to_rsp(struct tr *t, i32 n);
void tr_insn_push(struct tr *t, u32 arg);
void tr_insn_pop(struct tr *t, u32 arg);
void tr_insn_leave(struct tr *t, u32 arg);
void tr_insn_pushf(struct tr *t, u32 arg);

/* ---- tr_address.c: LEA, PREFETCH, bit strings */
void tr_insn_lea(struct tr *t, u32 arg);
void tr_insn_prefetch(struct tr *t, u32 arg);
void tr_insn_bt(struct tr *t, u32 arg);

/* ---- tr_system.c: system flags, and C without saving vector state */
void tr_insn_cli(struct tr *t, u32 arg);
void tr_insn_sti(struct tr *t, u32 arg);
void tr_insn_clac(struct tr *t, u32 arg);
void tr_insn_stac(struct tr *t, u32 arg);
void tr_insn_fence(struct tr *t, u32 arg);
void tr_insn_light(struct tr *t, u32 op);
void tr_insn_mov_special(struct tr *t, u32 arg);
void tr_to_light(struct tr *t, enum bt_light_op op, u32 arg);

/* ---- tr_string.c */
void tr_insn_string(struct tr *t, u32 arg);
