/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control flow, the stack, and the system instructions that are emitted in line or handed to C.
 *
 * Order inside each sequence: whatever may fault comes before the first change of guest-visible state.
 *
 * Threading: the vCPU's thread.
 */
#include "engine/bt/tr.h"

void tr_interp(struct tr *t, bool stop)
{
	tr_forget_delta(t);
	tr_settle_rsp(t);
	tr_to_event(t, EV_INTERP, t->site);
	if (stop)
		t->end = true;
	t->rsp_ok = false;
}

/* Before a jump backwards: a loop must notice a kick. Where the block has looked something up on the way here, it did. */
static void poll(struct tr *t)
{
	if (t->looked)
		return;
	tr_forget_delta(t);
	e_load_fs(&t->e, H_RCX, FS(go));
	tr_jrcxz(t, EV_POLL);
}

void tr_add_exit(struct tr *t, u32 rel32, gva_t gva, bool checked, bool careful)
{
	if (t->nexits == TR_EXITS)
		t->e.full = true;
	else
		t->exit[t->nexits++] = (struct tr_exit){.rel32 = rel32, .gva = gva, .checked = checked, .careful = careful};
}

void tr_exit_to(struct tr *t, int cc, gva_t gva)
{
	u32 rel32 = cc < 0 ? e_jmp(&t->e, t->e.pos) : e_jcc(&t->e, (u32)cc, t->e.pos);
	tr_add_exit(t, rel32, gva, false, false);
}

/* r11 = index of the jump cache's entry for the address in r10; anything but a hit leaves to C, which carries the whole instruction out. Nothing
 * visible has changed yet, so that a bad target faults at this instruction. False when there is no in-line look-up in this mode. */
static bool jump_cache(struct tr *t, u32 *after_event)
{
	struct emit *e = &t->e;
	u32 u = t->user;
	t->end = true;
	tr_forget_delta(t);
	tr_guard(t, 110);
	if (t->v->jc_mode[u] != t->mode) {
		e_store_fs(e, FS(target), H_R10);
		tr_to_event(t, EV_INDIRECT, t->site);
		return false;
	}
	e_pext_fs(e, true, H_RCX, H_R10, FS(jc_mask) + (i32)(8 * u));
	e_lea(e, false, H_R11, H_RCX, H_RCX, 0, 0);
	e_load_fs_index(e, H_RCX, H_R11, FS(jc) + (i32)(u * sizeof t->v->jc[0]));
	e_lea(e, true, H_RCX, H_RCX, H_R10, 0, 0);
	u32 hit = e_jrcxz(e);
	e_store_fs(e, FS(target), H_R10);
	if (after_event) { /* C does the guest's part of the call; the return stack must have its word all the same */
		e_mov_imm(e, H_RCX, t->bi);
		e_mov_imm(e, H_R11, t->site);
		e_call(e, t->v->ev_off[EV_INDIRECT]);
		*after_event = e_jmp(e, e->pos);
	} else {
		tr_to_event(t, EV_INDIRECT, t->site);
	}
	e_fix8(e, hit, e->pos);
	return true;
}

static i32 jump_cache_host(const struct tr *t)
{
	return FS(jc) + (i32)(t->user * sizeof t->v->jc[0]) + 8;
}

void tr_mark(struct tr *t, u8 flag)
{
	t->v->maps[t->v->nmaps - 1].flags |= flag;
}

/* ---- the return stack (ras.c). It serves the mode that the jump cache serves. */

bool tr_uses_ras(const struct tr *t)
{
	return t->v->jc_mode[t->user] == t->mode;
}

/* Behind a call: where the host comes back to. The guest's return may want another address, and much may have happened to this page meanwhile. */
static void landing(struct tr *t)
{
	struct emit *e = &t->e;
	e_mov_imm(e, H_RCX, 0 - t->next);
	e_lea(e, true, H_RCX, H_RCX, H_R10, 0, 0);
	u32 same = e_jrcxz(e);
	e_jmp(e, t->v->ras_miss_off[t->user]);
	e_fix8(e, same, e->pos);
	tr_add_exit(t, e_jmp(e, e->pos), t->next, true, false);
}

static void add_to_rsp(struct tr *t, i32 n)
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

static struct tr_place prepare_pop(struct tr *t)
{
	if (tr_shared(t, USE_STACK))
		return tr_share(t, USE_STACK, R_RSP, 0, false);
	tr_stack_check(t);
	tr_guard(t, 90);
	tr_lookup(t, G_RSP, false, 0, 8);
	return (struct tr_place){G_RSP, 0};
}

static void push_constant(struct tr *t, u64 value)
{
	struct tr_place top = prepare_push(t);
	if ((i64)value == (i32)value) {
		tr_check_place(t, top, 8, true);
		e_rex(&t->e, true, 0, 0, (u32)top.base);
		e8(&t->e, 0xc7);
		tr_modrm(t, 0, top, false);
		e32(&t->e, (u32)value);
		move_rsp(t, -8);
		return;
	}
	e_mov_imm(&t->e, H_R11, value);
	store_top(t, top, H_R11);
}

static bool is_mem(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_MEMORY;
}

/* The 64-bit value of an operand into a host register; memory operands through a look-up. */
static u32 fetch64(struct tr *t, const ZydisDecodedOperand *o, u32 temp)
{
	if (!is_mem(o))
		return tr_read_guest(t, (u32)tr_gpr(o->reg.value), temp);
	tr_load(t, temp, tr_access(t, o, false, false));
	return temp;
}

static void flow_push(struct tr *t)
{
	const ZydisDecodedOperand *o = &t->op[0];
	if (t->in->operand_width != 64) {
		tr_interp(t, false);
	} else if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		push_constant(t, (u64)o->imm.value.s);
	} else if (is_mem(o)) {
		e_store_fs(&t->e, FS(spare), fetch64(t, o, H_R11));
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

static void flow_pop(struct tr *t)
{
	const ZydisDecodedOperand *o = &t->op[0];
	int g = is_mem(o) ? -1 : tr_gpr(o->reg.value);
	if (t->in->operand_width != 64 || g < 0) {
		tr_interp(t, false);
		return;
	}
	struct tr_place top = prepare_pop(t);
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

static gva_t direct_target(const struct tr *t)
{
	return t->next + (u64)t->op[0].imm.value.s;
}

static bool is_direct(const struct tr *t)
{
	return t->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}
static bool odd_width(const struct tr *t)
{
	return (t->in->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) != 0;
}

static void flow_call(struct tr *t)
{
	if (t->in->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || odd_width(t)) {
		tr_interp(t, true);
		return;
	}
	if (is_direct(t)) {
		push_constant(t, t->next); /* looks up its page, or the block did before: no poll */
		tr_settle_rsp(t);
		if (tr_uses_ras(t)) {
			tr_add_exit(t, e_call(&t->e, t->e.pos), direct_target(t), false, false);
			landing(t);
		} else {
			tr_exit_to(t, -1, direct_target(t));
		}
	} else {
		u32 h = fetch64(t, &t->op[0], H_R10);
		if (h != H_R10)
			e_mov(&t->e, H_R10, h);
		tr_mark(t, INSN_CALL);
		u32 after_event;
		if (!jump_cache(t, &after_event))
			return;
		e_load_fs_index(&t->e, H_RCX, H_R11, jump_cache_host(t));
		e_store_fs(&t->e, FS(target), H_RCX);
		push_constant(t, t->next);
		tr_settle_rsp(t);
		e_load_fs(&t->e, H_RCX, FS(target));
		e8(&t->e, 0xff); /* call rcx: measured faster than a call through memory */
		e8(&t->e, 0xd1);
		e_patch32(&t->e, after_event, t->e.pos - (after_event + 4));
		landing(t);
	}
	t->end = true;
}

static void flow_ret(struct tr *t)
{
	if (t->in->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || odd_width(t)) {
		tr_interp(t, true);
		return;
	}
	u32 extra = t->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? (u16)t->op[0].imm.value.u : 0;
	if (extra && !tr_uses_ras(t)) {
		tr_interp(t, true);
		return;
	}
	tr_load(t, H_R10, prepare_pop(t));
	if (!tr_uses_ras(t)) {
		tr_mark(t, INSN_RET);
		jump_cache(t, NULL);
		return;
	}
	add_to_rsp(t, 8 + (i32)extra);
	e_mov_imm(&t->e, H_R11, t->site | (u64)extra << 32);
	e8(&t->e, 0xc3);
	t->end = true;
}

static void flow_jmp(struct tr *t)
{
	if (t->in->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || odd_width(t)) {
		tr_interp(t, true);
	} else if (is_direct(t)) {
		if (direct_target(t) <= t->gva)
			poll(t);
		tr_exit_to(t, -1, direct_target(t));
	} else {
		u32 h = fetch64(t, &t->op[0], H_R10);
		if (h != H_R10)
			e_mov(&t->e, H_R10, h);
		if (jump_cache(t, NULL))
			e_jmp_fs_index(&t->e, H_R11, jump_cache_host(t));
	}
	t->end = true;
}

static void flow_jcc(struct tr *t, u32 cc)
{
	if (odd_width(t)) {
		tr_interp(t, true);
		return;
	}
	t->delta = t->delta_in;
	t->r11 = t->r11_in;
	if (direct_target(t) <= t->gva)
		poll(t);
	tr_exit_to(t, (int)cc, direct_target(t));
}

static void flow_jrcxz(struct tr *t, bool loop)
{
	struct emit *e = &t->e;
	if (odd_width(t) || t->in->address_width != 64) {
		tr_interp(t, true);
		return;
	}
	if (direct_target(t) <= t->gva)
		poll(t);
	if (loop)
		e_lea(e, true, G_RCX, G_RCX, H_RSP, 0, -1);
	e_mov(e, H_RCX, G_RCX);
	u32 zero = e_jrcxz(e);
	tr_exit_to(t, -1, loop ? direct_target(t) : t->next);
	e_fix8(e, zero, e->pos);
	tr_exit_to(t, -1, loop ? t->next : direct_target(t));
	t->end = true;
}

static void flow_leave(struct tr *t)
{
	if (odd_width(t)) {
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

static void flow_lea(struct tr *t)
{
	if (t->in->operand_width == 16) {
		tr_interp(t, false);
		return;
	}
	u32 g = (u32)tr_gpr(t->op[0].reg.value);
	const ZydisDecodedOperand *m = &t->op[1];
	tr_guard(t, 40);
	int h = tr_host(g);
	u32 dst = h >= 0 ? (u32)h : H_R11;
	t->delta = t->delta_in;
	tr_effective(t, m, dst);
	if (t->in->operand_width == 32)
		e_mov32(&t->e, dst, dst);
	if (h < 0)
		tr_write_guest(t, g, H_R11);
	t->r11 = t->r11_in;
	if (g == R_RSP)
		t->rsp_ok = false;
}

/* Never faults: nothing is prefetched from a page that no look-up knows. */
static void flow_prefetch(struct tr *t)
{
	struct emit *e = &t->e;
	tr_guard(t, 80);
	tr_forget_delta(t);
	tr_address(t, &t->op[0]);
	e_pext_fs(e, true, H_RCX, H_R10, FS(k_page));
	tr_load_delta(t, false);
	u32 absent = e_jrcxz(e);
	e_rex(e, false, 0, H_RCX, H_R10);
	e8(e, 0x0f);
	e8(e, t->in->opcode);
	e_mem(e, t->in->raw.modrm.reg, H_R10, H_RCX, 0, 0);
	e_fix8(e, absent, e->pos);
}

/* Bit tests with a register offset and memory: the word is chosen by the offset's upper bits. */
static void flow_bt(struct tr *t)
{
	struct emit *e = &t->e;
	u32 size = t->in->operand_width;
	bool reg_offset = t->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
	if (!is_mem(&t->op[0]) || !reg_offset) {
		if (!tr_copy(t))
			tr_interp(t, false);
		return;
	}
	if (size == 16 || t->in->address_width != 64) {
		tr_interp(t, false);
		return;
	}
	bool write = t->in->mnemonic != ZYDIS_MNEMONIC_BT;
	u32 g = (u32)tr_gpr(t->op[1].reg.value);
	tr_guard(t, 140);
	tr_address(t, &t->op[0]);
	u32 h = tr_read_guest(t, g, H_R11);
	e_mov_imm(e, H_RCX, size == 64 ? 6 : 5);
	e_sarx(e, size == 64, H_R11, h, H_RCX);
	if (size == 32) { /* movsxd r11, r11d */
		e8(e, 0x4d);
		e8(e, 0x63);
		e8(e, 0xdb);
	}
	tr_forget_r11(t);
	e_lea(e, true, H_R10, H_R10, H_R11, size == 64 ? 3 : 2, 0);
	tr_lookup(t, H_R10, write, size == 64 ? 3 : 2, size / 8);
	h = tr_read_guest(t, g, H_R11);
	e_pext_fs(e, true, H_R11, h, size == 64 ? FS(k_63) : FS(k_31));
	tr_check(t, H_R10, H_RCX, 0, size / 8, write);
	if (t->in->attributes & ZYDIS_ATTRIB_HAS_LOCK)
		e8(e, 0xf0);
	e_rex(e, size == 64, H_R11, H_RCX, H_R10);
	e8(e, 0x0f);
	e8(e, t->in->opcode);
	e_mem(e, H_R11, H_R10, H_RCX, 0, 0);
}

/* ---- flags */

static void flow_pushf(struct tr *t)
{
	struct emit *e = &t->e;
	if (odd_width(t)) {
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
	add_to_rsp(t, -8);
}

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

static void flow_sti(struct tr *t)
{
	/* The instruction behind STI runs before any interrupt; when it may reach into the next page, the interpreter's shadow takes care. */
	if (t->user || PAGE_OFFSET(t->next) == 0 || PAGE_OFFSET(t->next) > PAGE_SIZE - 15) {
		tr_interp(t, true);
		return;
	}
	change_flag(t, FS(k_not_if), FL_IF);
	t->poll_after_next = true;
}

static void flow_ac(struct tr *t, bool set)
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

/* ---- C without saving vector state */

static void light(struct tr *t, enum bt_light_op op, u32 arg, bool ends)
{
	e_mov_imm(&t->e, H_R10, (u32)op | arg << 8);
	tr_to_event(t, EV_LIGHT, t->site);
	t->end |= ends;
	t->rsp_ok = false; /* rsp may be the destination */
}

static bool light_for_users(enum bt_light_op op)
{
	return op == LIGHT_PAUSE || op == LIGHT_SYSCALL || op == LIGHT_CPUID || op == LIGHT_RDTSC || op == LIGHT_RDTSCP ||
	       op == LIGHT_RDPID || op == LIGHT_CLD || op == LIGHT_STD || (op >= LIGHT_RDFSBASE && op <= LIGHT_WRGSBASE);
}

static void flow_light(struct tr *t, enum bt_light_op op)
{
	if (t->user && !light_for_users(op)) {
		tr_interp(t, true);
		return;
	}
	switch (op) {
	case LIGHT_SYSCALL:
		light(t, op, 0, true);
		break;
	case LIGHT_SYSRET:
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

static bool reg_class(const ZydisDecodedOperand *o, ZydisRegisterClass c)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(o->reg.value) == c;
}

static void flow_mov(struct tr *t)
{
	const ZydisDecodedOperand *d = &t->op[0], *s = &t->op[1];
	if (reg_class(d, ZYDIS_REGCLASS_CONTROL) && !t->user && d->reg.value != ZYDIS_REGISTER_CR8) {
		light(t, LIGHT_MOV_TO_CR, (u32)(d->reg.value - ZYDIS_REGISTER_CR0) | (u32)tr_gpr(s->reg.value) << 4, false);
	} else if (reg_class(s, ZYDIS_REGCLASS_CONTROL) && !t->user && s->reg.value != ZYDIS_REGISTER_CR8) {
		light(t, LIGHT_MOV_FROM_CR, (u32)(s->reg.value - ZYDIS_REGISTER_CR0) | (u32)tr_gpr(d->reg.value) << 4, false);
	} else if (reg_class(s, ZYDIS_REGCLASS_SEGMENT) && !is_mem(d)) {
		light(t, LIGHT_MOV_FROM_SEG,
		      (u32)(s->reg.value - ZYDIS_REGISTER_ES) | (u32)(t->in->operand_width == 16) << 3 | (u32)tr_gpr(d->reg.value) << 4,
		      false);
	} else if (reg_class(d, ZYDIS_REGCLASS_SEGMENT) && !is_mem(s) && d->reg.value != ZYDIS_REGISTER_SS &&
		   d->reg.value != ZYDIS_REGISTER_CS) {
		light(t, LIGHT_MOV_TO_SEG, (u32)(d->reg.value - ZYDIS_REGISTER_ES) | (u32)tr_gpr(s->reg.value) << 4, false);
	} else if (!tr_copy(t)) {
		tr_interp(t, false);
	}
}

static void flow_string(struct tr *t)
{
	bool movs = t->in->mnemonic == ZYDIS_MNEMONIC_MOVSB || t->in->mnemonic == ZYDIS_MNEMONIC_MOVSW ||
		    t->in->mnemonic == ZYDIS_MNEMONIC_MOVSD || t->in->mnemonic == ZYDIS_MNEMONIC_MOVSQ;
	bool segment = (t->in->attributes & (ZYDIS_ATTRIB_HAS_SEGMENT_FS | ZYDIS_ATTRIB_HAS_SEGMENT_GS)) != 0;
	if (segment || t->in->address_width != 64 || (t->mode & MODE_DF)) {
		tr_interp(t, false);
		return;
	}
	u32 size = 0;
	for (u32 i = 0; i < t->in->operand_count; i++)
		if (is_mem(&t->op[i]))
			size = t->op[i].size / 8;
	bool rep = (t->in->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)) != 0;
	light(t, LIGHT_STRING, size | rep << 4 | movs << 5, false);
}

/* MOVSD is also the scalar SSE move: the row is the string's, the encoding tells. */
static bool is_string(const struct tr *t)
{
	return t->in->meta.category == ZYDIS_CATEGORY_STRINGOP;
}

void tr_flow(struct tr *t, struct bt_row row)
{
	switch ((enum bt_kind)row.kind) {
	case K_NOP:
		t->delta = t->delta_in;
		t->r11 = t->r11_in;
		break;
	case K_PREFETCH:
		flow_prefetch(t);
		break;
	case K_LEA:
		flow_lea(t);
		break;
	case K_PUSH:
		flow_push(t);
		break;
	case K_POP:
		flow_pop(t);
		break;
	case K_CALL:
		flow_call(t);
		break;
	case K_RET:
		flow_ret(t);
		break;
	case K_JMP:
		flow_jmp(t);
		break;
	case K_JCC:
		flow_jcc(t, row.arg);
		break;
	case K_JRCXZ:
		flow_jrcxz(t, false);
		break;
	case K_LOOP:
		flow_jrcxz(t, true);
		break;
	case K_LEAVE:
		flow_leave(t);
		break;
	case K_BT:
		flow_bt(t);
		break;
	case K_PUSHF:
		flow_pushf(t);
		break;
	case K_CLI:
		if (t->user)
			tr_interp(t, true);
		else
			change_flag(t, FS(k_not_if), 0);
		break;
	case K_STI:
		flow_sti(t);
		break;
	case K_CLAC:
	case K_STAC:
		flow_ac(t, row.kind == K_STAC);
		break;
	case K_LIGHT:
		flow_light(t, row.arg);
		break;
	case K_MOV_SEG:
		flow_mov(t);
		break;
	case K_STRING:
		if (is_string(t))
			flow_string(t);
		else if ((t->mode & bt_native_needs(t->in)) != bt_native_needs(t->in) || !tr_copy(t))
			tr_interp(t, false);
		break;
	case K_STOP:
		tr_interp(t, true);
		break;
	case K_INTERP:
	case K_AUTO:
		tr_interp(t, false);
		break;
	}
}
