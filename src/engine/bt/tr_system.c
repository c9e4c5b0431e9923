/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System flags, and instructions that C carries out without saving vector state.
 *
 * Threading: the vCPU's thread.
 */
#include "engine/bt/tr.h"

/* ---- flags */

/* Clear the bit that `mask` leaves out, then add `set`, in the system flags in memory. */
static void change_flag(struct tr *t, i32 mask, i32 set)
{
	struct emit *e = &t->e;
	tr_guard(t, 60);
	e_load32_fs(e, H_R11, FS(cpu.rflags));
	e_pext_fs(e, false, H_R11, H_R11, mask);
	e_pdep_fs(e, false, H_R11, H_R11, mask);
	if (set)
		e_lea(e, false, H_R11, H_R11, H_RSP, 0, set);
	e_store32_fs(e, FS(cpu.rflags), H_R11);
}

void tr_insn_cli(struct tr *t, u32 arg)
{
	if (t->user)
		tr_interp(t, true);
	else
		change_flag(t, FS(k_not_if), 0);
}

void tr_insn_sti(struct tr *t, u32 arg)
{
	/* The instruction behind STI runs before any interrupt; when it may reach into the next page, the interpreter's shadow takes care. */
	if (t->user || PAGE_OFFSET(t->next) == 0 || PAGE_OFFSET(t->next) > PAGE_SIZE - 15) {
		tr_interp(t, true);
		return;
	}
	change_flag(t, FS(k_not_if), FL_IF);
	t->poll_after_next = true;
}

static void change_ac(struct tr *t, bool set)
{
	if (t->user) {
		tr_interp(t, true);
		return;
	}
	change_flag(t, FS(k_not_ac), set ? FL_AC : 0);
	enum bt_view view = set ? VIEW_SUPER_AC : VIEW_SUPER;
	tr_guard(t, 40);
	for (u32 w = 0; w < 2; w++) {
		e_load_fs(&t->e, H_R11, FS(view) + (i32)(8 * (view * 2 + w)));
		e_store_fs(&t->e, FS(super) + (i32)(8 * w), H_R11);
	}
}

void tr_insn_clac(struct tr *t, u32 arg)
{
	change_ac(t, false);
}

void tr_insn_stac(struct tr *t, u32 arg)
{
	change_ac(t, true);
}

void tr_insn_fence(struct tr *t, u32 arg)
{
	tr_guard(t, 8);
	e_bytes(&t->e, 0xf0ae0f, 3); /* MFENCE */
}

/* ---- time */

static void add_to_rax(struct emit *e, i32 disp)
{
	e_load_fs(e, H_R10, disp);
	e_lea(e, true, H_RAX, H_RAX, H_R10, 0, 0);
}

/* RDTSC, and RDTSCP, which waits for the loads before it (light.c). The interpreter knows what to do about a user who may not. */
static void read_tsc(struct tr *t, bool aux)
{
	struct emit *e = &t->e;
	tr_guard(t, 110);
	if (t->user) {
		e_load_fs(e, H_R10, FS(cpu.cr4));
		e_pext_fs(e, false, H_RCX, H_R10, FS(k_tsd));
		e_lea(e, false, H_RCX, H_RCX, H_RSP, 0, -1);
		tr_jrcxz(t, EV_INTERP);
	}
	if (aux) {
		e_bytes(e, 0xe8ae0f, 3); /* lfence */
		e_load32_fs(e, G_RCX, FS(cpu.msr.tsc_aux));
	}
	e_bytes(e, 0x310f, 2); /* rdtsc */
	e_rorx(e, true, H_RDX, H_RDX, 32);
	e_lea(e, true, H_RAX, H_RAX, H_RDX, 0, 0);
	add_to_rax(e, FS(tsc_offset));
	add_to_rax(e, FS(cpu.tsc_offset));
	e_rorx(e, true, H_RDX, H_RAX, 32);
	e_mov32(e, H_RDX, H_RDX);
	e_mov32(e, H_RAX, H_RAX);
}

/* ---- C without saving vector state */

void tr_to_light(struct tr *t, enum bt_light_op op, u32 arg)
{
	e_mov_imm(&t->e, H_R10, (u32)op | arg << 8);
	tr_to_event(t, EV_LIGHT, t->site);
}

static void light(struct tr *t, enum bt_light_op op, u32 arg, bool ends)
{
	tr_to_light(t, op, arg);
	t->end |= ends;
	t->rsp_ok = false; /* rsp may be the destination */
}

/* From a block that the jump caches serve, these look for their target there. */
static void crossing(struct tr *t, enum bt_light_op op, u32 arg)
{
	if (!tr_uses_ras(t)) {
		light(t, op, arg, true);
		return;
	}
	if (op == LIGHT_SYSCALL)
		tr_mov_gva(t, H_R10, t->next);
	else
		e_mov_imm(&t->e, H_R10, (u32)op | arg << 8);
	tr_to_event(t, op == LIGHT_SYSCALL ? EV_SYSCALL : EV_SYSRET, t->site);
	t->end = true;
}

static bool light_for_users(enum bt_light_op op)
{
	return op == LIGHT_PAUSE || op == LIGHT_SYSCALL || op == LIGHT_CPUID || op == LIGHT_RDTSC || op == LIGHT_RDTSCP ||
	       op == LIGHT_RDPID || op == LIGHT_CLD || op == LIGHT_STD || (op >= LIGHT_RDFSBASE && op <= LIGHT_WRGSBASE);
}

void tr_insn_light(struct tr *t, u32 op)
{
	if (t->user && !light_for_users(op)) {
		tr_interp(t, true);
		return;
	}
	switch (op) {
	case LIGHT_SYSCALL:
		crossing(t, op, 0);
		break;
	case LIGHT_SYSRET:
		if (t->in->operand_width == 64)
			crossing(t, op, 8);
		else
			light(t, op, t->in->operand_width / 8, true);
		break;
	case LIGHT_IRET:
		light(t, op, t->in->operand_width / 8, true);
		break;
	case LIGHT_CLD:
	case LIGHT_STD:
		if (((t->mode & MODE_DF) != 0) != (op == LIGHT_STD))
			light(t, op, 0, true);
		break;
	case LIGHT_RDFSBASE:
	case LIGHT_RDGSBASE:
	case LIGHT_WRFSBASE:
	case LIGHT_WRGSBASE:
	case LIGHT_RDPID:
		light(t, op, (u32)tr_gpr(t->op[0].reg.value) | (t->in->operand_width == 64) << 4, false);
		break;
	case LIGHT_RDTSC:
	case LIGHT_RDTSCP:
		read_tsc(t, op == LIGHT_RDTSCP);
		break;
	case LIGHT_SWAPGS:
		e_load_fs(&t->e, H_R10, FS(cpu.seg[SEG_GS].base));
		e_load_fs(&t->e, H_R11, FS(cpu.msr.kernel_gs_base));
		e_store_fs(&t->e, FS(cpu.seg[SEG_GS].base), H_R11);
		e_store_fs(&t->e, FS(cpu.msr.kernel_gs_base), H_R10);
		break;
	case LIGHT_INVLPG:
		tr_guard(t, 60);
		tr_address(t, &t->op[0]);
		e_store_fs(&t->e, FS(target), H_R10);
		light(t, op, 0, false);
		break;
	default:
		light(t, op, 0, false);
		break;
	}
}

static bool is_control(const struct bt_operand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->reg.value >= ZYDIS_REGISTER_CR0 && o->reg.value <= ZYDIS_REGISTER_CR15;
}

static bool is_segment(const struct bt_operand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->reg.value >= ZYDIS_REGISTER_ES && o->reg.value <= ZYDIS_REGISTER_GS;
}

static void mov_special(struct tr *t)
{
	const struct bt_operand *d = &t->op[0], *s = &t->op[1];
	if (is_control(d) && !t->user && d->reg.value != ZYDIS_REGISTER_CR8) {
		light(t, LIGHT_MOV_TO_CR, (u32)(d->reg.value - ZYDIS_REGISTER_CR0) | (u32)tr_gpr(s->reg.value) << 4, false);
	} else if (is_control(s) && !t->user && s->reg.value != ZYDIS_REGISTER_CR8) {
		light(t, LIGHT_MOV_FROM_CR, (u32)(s->reg.value - ZYDIS_REGISTER_CR0) | (u32)tr_gpr(d->reg.value) << 4, false);
	} else if (is_segment(s) && !tr_is_mem(d)) {
		light(t, LIGHT_MOV_FROM_SEG,
		      (u32)(s->reg.value - ZYDIS_REGISTER_ES) | (u32)(t->in->operand_width == 16) << 3 | (u32)tr_gpr(d->reg.value) << 4,
		      false);
	} else if (is_segment(d) && !tr_is_mem(s) && d->reg.value != ZYDIS_REGISTER_SS && d->reg.value != ZYDIS_REGISTER_CS) {
		light(t, LIGHT_MOV_TO_SEG, (u32)(d->reg.value - ZYDIS_REGISTER_ES) | (u32)tr_gpr(s->reg.value) << 4, false);
	} else {
		tr_interp(t, false);
	}
}

void tr_insn_mov_special(struct tr *t, u32 arg)
{
	if (t->in->special)
		mov_special(t);
	else if (!tr_copy(t))
		tr_interp(t, false);
}
