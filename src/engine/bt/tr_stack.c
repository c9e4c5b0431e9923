/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stack.
 *
 * Order inside each sequence: whatever may fault comes before the first change of guest-visible state.
 *
 * Threading: the vCPU's thread.
 */
#include "engine/bt/tr.h"

void tr_add_to_rsp(struct tr *t, i32 n)
{
	t->rsp_due += n;
	tr_settle_rsp(t);
}

/* Where the words' page is known, rsp follows when somebody asks for it. */
static void move_rsp(struct tr *t, i32 n)
{
	t->rsp_due += n;
	if (!tr_shared(t, USE_STACK))
		tr_settle_rsp(t);
}

static void store_top(struct tr *t, struct tr_place top, u32 reg)
{
	tr_store(t, top, reg);
	move_rsp(t, -8);
}

/* The word that a push will write. */
static struct tr_place prepare_push(struct tr *t)
{
	if (tr_shared(t, USE_STACK))
		return tr_share(t, USE_STACK, R_RSP, -8, true);
	tr_stack_check(t);
	tr_guard(t, 90);
	e_lea(&t->e, true, H_R10, G_RSP, H_RSP, 0, -8);
	tr_lookup(t, H_R10, true, 0, 8);
	return (struct tr_place){H_R10, 0};
}

struct tr_place tr_prepare_pop(struct tr *t)
{
	if (tr_shared(t, USE_STACK))
		return tr_share(t, USE_STACK, R_RSP, 0, false);
	tr_stack_check(t);
	tr_guard(t, 90);
	tr_lookup(t, G_RSP, false, 0, 8);
	return (struct tr_place){G_RSP, 0};
}

static void push_small(struct tr *t, i32 value)
{
	struct tr_place top = prepare_push(t);
	tr_check_place(t, top, 8, true);
	e_rex(&t->e, true, 0, 0, (u32)top.base);
	e8(&t->e, 0xc7);
	tr_modrm(t, 0, top, false);
	e32(&t->e, (u32)value);
	move_rsp(t, -8);
}

void tr_push_next(struct tr *t)
{
	if ((i64)t->next == (i32)t->next) {
		push_small(t, (i32)t->next);
		return;
	}
	struct tr_place top = prepare_push(t);
	tr_mov_gva(t, H_R11, t->next);
	store_top(t, top, H_R11);
}

void tr_insn_push(struct tr *t, u32 arg)
{
	const struct bt_operand *o = &t->op[0];
	if (t->in->operand_width != 64) {
		tr_interp(t, false);
	} else if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		push_small(t, (i32)o->imm.value); /* at most 32 bits, extended */
	} else if (tr_is_mem(o)) {
		e_store_fs(&t->e, FS(spare), tr_fetch64(t, o, H_R11));
		struct tr_place top = prepare_push(t);
		e_load_fs(&t->e, H_R11, FS(spare));
		store_top(t, top, H_R11);
	} else if (tr_gpr(o->reg.value) < 0) {
		tr_interp(t, false);
	} else {
		struct tr_place top = prepare_push(t);
		store_top(t, top, tr_read_guest(t, (u32)tr_gpr(o->reg.value), H_R11));
		t->r11 = t->r11_in;
	}
}

void tr_insn_pop(struct tr *t, u32 arg)
{
	const struct bt_operand *o = &t->op[0];
	int g = tr_is_mem(o) ? -1 : tr_gpr(o->reg.value);
	if (t->in->operand_width != 64 || g < 0) {
		tr_interp(t, false);
		return;
	}
	struct tr_place top = tr_prepare_pop(t);
	int h = tr_host((u32)g);
	tr_load(t, h >= 0 ? (u32)h : H_R11, top);
	if (h < 0)
		tr_write_guest(t, (u32)g, H_R11);
	if (g == R_RSP)
		t->rsp_ok = false;
	else
		move_rsp(t, 8);
	t->r11 = t->r11_in;
}

void tr_insn_leave(struct tr *t, u32 arg)
{
	if (tr_odd_width(t)) {
		tr_interp(t, false);
		return;
	}
	tr_guard(t, 110);
	struct tr_place frame = {H_RBP, 0};
	if (tr_shared(t, USE_STACK))
		frame = tr_share(t, USE_STACK, R_RBP, 0, false);
	else
		tr_lookup(t, H_RBP, false, 3, 8);
	tr_load(t, H_R11, frame);
	e_lea(&t->e, true, G_RSP, H_RBP, H_RSP, 0, 8);
	e_mov(&t->e, H_RBP, H_R11);
	t->rsp_ok = false;
}

void tr_insn_pushf(struct tr *t, u32 arg)
{
	struct emit *e = &t->e;
	if (tr_odd_width(t)) {
		tr_interp(t, false);
		return;
	}
	struct tr_place top = prepare_push(t);
	tr_guard(t, 80);
	tr_place_address(t, H_R10, top);
	tr_forget_delta(t);
	e_store_fs(e, FS(spare), H_RAX);
	static const u8 flags_to_regs[] = {
		0x0f, 0x90, 0xc0, /* seto al */
		0x9f,		  /* lahf */
		0x0f, 0xb6, 0xcc, /* movzx ecx, ah */
		0x0f, 0xb6, 0xc0, /* movzx eax, al */
	};
	for (u32 i = 0; i < sizeof flags_to_regs; i++)
		e8(e, flags_to_regs[i]);
	e_rorx(e, false, H_RAX, H_RAX, 32 - 11);
	e_load32_fs(e, H_R11, FS(cpu.rflags));
	e_pext_fs(e, false, H_R11, H_R11, FS(k_sysflags));
	e_pdep_fs(e, false, H_R11, H_R11, FS(k_sysflags));
	e_lea(e, true, H_R11, H_R11, H_RCX, 0, 0);
	e_lea(e, true, H_R11, H_R11, H_RAX, 0, 0);
	e_load_fs(e, H_RAX, FS(spare));
	tr_check(t, H_R10, H_RSP, 0, 8, true);
	e_store(e, true, H_R10, H_RSP, 0, 0, H_R11);
	tr_add_to_rsp(t, -8);
}
