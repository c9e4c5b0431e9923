/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses and shadow-table look-ups in translated code, none of which touch the flags.
 *
 * The only conditional jump that leaves flags alone is jrcxz, and it reaches 127 bytes; so every look-up jumps to a slot in an island nearby,
 * which jumps on to a stub behind the block. Islands leave spare slots for the look-ups that follow them.
 *
 * Threading: the vCPU's thread.
 */
#include "engine/bt/tr.h"

static u32 new_stub(struct tr *t, enum tr_stub_kind kind, enum bt_event ev, u32 arg)
{
	if (t->nstubs == TR_STUBS) {
		t->e.full = true;
		return 0;
	}
	t->stub[t->nstubs] = (struct tr_stub){.kind = (u8)kind, .event = (u8)ev, .site = arg, .address = H_R10};
	return t->nstubs++;
}

static void use_slot(struct tr *t, u32 slot, u32 stub)
{
	t->stub[stub].slot_rel = slot + 1;
}

/* The jrcxz just emitted (its rel8 is at rel8) goes to the stub: through a free slot behind us, or one yet to come. */
static void connect(struct tr *t, u32 rel8, u32 stub)
{
	while (t->nslots) {
		u32 slot = t->slot[t->nslots - 1];
		t->nslots--;
		if (!e_fix8(&t->e, rel8, slot))
			continue; /* out of reach; a newer one may not be */
		use_slot(t, slot, stub);
		return;
	}
	if (t->npending == ARRAY_SIZE(t->pending)) {
		t->e.full = true;
		return;
	}
	t->pending[t->npending++] = (struct tr_pending){rel8, stub};
}

static u32 emit_slot(struct tr *t)
{
	u32 at = t->e.pos;
	e_bytes(&t->e, 0xe9, 5);
	return at;
}

void tr_island(struct tr *t, bool skip, u32 spare)
{
	u32 over = skip ? e_jmp8(&t->e) : 0;
	for (u32 i = 0; i < t->npending; i++) {
		u32 slot = emit_slot(t);
		if (!e_fix8(&t->e, t->pending[i].rel8, slot))
			t->e.full = true; /* cannot happen: tr_guard keeps the distance */
		use_slot(t, slot, t->pending[i].stub);
	}
	t->npending = 0;
	t->nslots = 0;
	for (u32 i = 0; i < spare; i++)
		t->slot[t->nslots++] = emit_slot(t);
	if (skip)
		e_fix8(&t->e, over, t->e.pos);
	/* The last slot emitted stays in reach longest: hand out the oldest first. */
	for (u32 i = 0; i < t->nslots / 2; i++) {
		u32 x = t->slot[i];
		t->slot[i] = t->slot[t->nslots - 1 - i];
		t->slot[t->nslots - 1 - i] = x;
	}
}

void tr_guard(struct tr *t, u32 need)
{
	if (t->npending == 0)
		return;
	u32 last_slot = t->e.pos + need + 2 + 5 * (t->npending + 2);
	if (last_slot > t->pending[0].rel8 + 120)
		tr_island(t, true, 5);
}

void tr_jrcxz(struct tr *t, enum bt_event ev)
{
	u32 rel8 = e_jrcxz(&t->e);
	connect(t, rel8, new_stub(t, STUB_EVENT, ev, t->site));
}

void tr_reloc(struct tr *t, enum bt_reloc_kind kind, u32 at)
{
	u32 off = at - t->b->start;
	if (t->stays)
		return;
	if (off > 0xffff || t->b->nrelocs == TR_RELOCS) {
		t->stays = true;
		return;
	}
	t->v->relocs[t->v->used->relocs++] = (struct bt_reloc){.at = (u16)off, .kind = (u8)kind};
	t->b->nrelocs++;
}

static enum bt_reloc_kind reloc_of(enum bt_event ev)
{
	switch (ev) {
	case EV_EXIT:
		return RELOC_EVENT_EXIT;
	case EV_ITLB:
		return RELOC_EVENT_SELF;
	case EV_GOTO:
		return RELOC_EVENT_PLAIN;
	default:
		return RELOC_EVENT;
	}
}

void tr_mov_gva(struct tr *t, u32 reg, gva_t gva)
{
	e_mov_imm(&t->e, reg, gva);
	tr_reloc(t, RELOC_GVA, t->e.pos - 8);
}

void tr_to_event(struct tr *t, enum bt_event ev, u32 arg)
{
	tr_reloc(t, reloc_of(ev), t->e.pos);
	e_mov_imm(&t->e, H_RCX, t->bi);
	e_mov_imm(&t->e, H_R11, arg);
	e_jmp(&t->e, t->v->ev_off[ev]);
}

u32 tr_read_guest(struct tr *t, u32 guest, u32 temp)
{
	int h = tr_host(guest);
	if (h >= 0)
		return (u32)h;
	if (t->r11_in == guest)
		return H_R11;
	e_load_fs(&t->e, temp, FS_GPR(guest));
	if (temp == H_R11)
		t->r11_in = (u8)guest;
	return temp;
}

void tr_write_guest(struct tr *t, u32 guest, u32 from)
{
	int h = tr_host(guest);
	if (h >= 0) {
		e_mov(&t->e, (u32)h, from);
		return;
	}
	e_store_fs(&t->e, FS_GPR(guest), from);
	if (from == H_R11)
		t->r11_in = (u8)guest;
	else if (t->r11_in == guest)
		tr_forget_r11(t);
}

static void add_segment_base(struct tr *t, const struct bt_operand *m)
{
	i32 disp;
	if (m->mem.segment == ZYDIS_REGISTER_FS)
		disp = FS(cpu.seg[SEG_FS].base);
	else if (m->mem.segment == ZYDIS_REGISTER_GS)
		disp = FS(cpu.seg[SEG_GS].base);
	else
		return;
	e_load_fs(&t->e, H_RCX, disp);
	e_lea(&t->e, true, T_ADDR, T_ADDR, H_RCX, 0, 0);
}

static u32 scale_log2(u32 scale)
{
	return scale == 8 ? 3 : scale == 4 ? 2 : scale == 2 ? 1 : 0;
}

/* Effective address into `dst` (64 or 32 bits wide as the address size says), without the segment. */
void tr_effective(struct tr *t, const struct bt_operand *m, u32 dst)
{
	struct emit *e = &t->e;
	bool wide = t->in->address_width == 64;
	if (m->mem.base == ZYDIS_REGISTER_RIP || m->mem.base == ZYDIS_REGISTER_EIP) {
		u64 a = t->next + (u64)m->mem.disp;
		t->stays |= !wide;
		if (wide)
			tr_mov_gva(t, dst, a);
		else
			e_mov_imm(e, dst, (u32)a);
		return;
	}
	int base = m->mem.base == ZYDIS_REGISTER_NONE ? -1 : tr_gpr(m->mem.base);
	i64 disp = m->mem.disp;
	int index = m->mem.index == ZYDIS_REGISTER_NONE ? -1 : tr_gpr(m->mem.index);
	u32 scale = scale_log2(m->mem.scale);
	if (base < 0 && index < 0) {
		e_mov_imm(e, dst, wide ? (u64)disp : (u32)disp);
		return;
	}
	u32 hb = base >= 0 ? tr_read_guest(t, (u32)base, T_ADDR) : 0;
	if (index >= 0 && tr_host((u32)index) < 0)
		tr_forget_delta(t);
	u32 hi = index >= 0 ? tr_read_guest(t, (u32)index, T_DELTA) : H_RSP;
	if (base < 0)
		e_lea_nobase(e, wide, dst, hi, scale, (i32)disp);
	else if (index < 0 && disp == 0 && wide)
		e_mov(e, dst, hb);
	else
		e_lea(e, wide, dst, hb, hi, scale, (i32)disp);
}

void tr_address(struct tr *t, const struct bt_operand *m)
{
	tr_effective(t, m, T_ADDR);
	add_segment_base(t, m);
}

static void align_test(struct tr *t, u32 check, u32 reg)
{
	e_rorx(&t->e, false, H_RCX, reg, 32 - (6 - check));
	e_shrx_fs(&t->e, H_RCX, FS(k_align) + (i32)(8 * check), H_RCX);
}

/* rcx = 0 when an access may straddle. Vector moves are made to be misaligned: for them only the last line of a page is suspect. */
static void straddle_test(struct tr *t, u32 check, u32 address)
{
	if (check < 4) {
		align_test(t, check, address);
		return;
	}
	e_rorx(&t->e, false, H_RCX, address, 6);
	e_shrx_fs(&t->e, H_RCX, FS(k_line), H_RCX);
}

void tr_load_delta(struct tr *t, bool write)
{
	struct emit *e = &t->e;
	if (t->user && !write) {
		e_load_gs_index(e, H_RCX, H_RCX); /* host gs: the user's table for reading */
	} else {
		tr_forget_r11(t);
		e_load_fs(e, T_BASE, t->user ? FS(view[VIEW_USER][1]) : write ? FS(super[1]) : FS(super[0]));
		e_load(e, true, H_RCX, T_BASE, H_RCX, 3, 0);
	}
}

void tr_jump_miss(struct tr *t, u32 address, i32 plus, bool write)
{
	u32 rel8 = e_jrcxz(&t->e);
	u32 stub = new_stub(t, STUB_EVENT, write ? EV_MISS_WRITE : EV_MISS_READ, t->site);
	t->stub[stub].address = (u8)address;
	t->stub[stub].plus = plus;
	connect(t, rel8, stub);
}

void tr_lookup(struct tr *t, u32 address, bool write, u32 check, u32 size)
{
	struct emit *e = &t->e;
	tr_guard(t, 80);
	tr_forget_delta(t);
	if (check) {
		straddle_test(t, check, address);
		u32 rel8 = e_jrcxz(e);
		u32 stub = new_stub(t, STUB_MISALIGNED, EV_STRADDLE, t->site);
		t->stub[stub].size = (u16)size;
		t->stub[stub].address = (u8)address;
		t->stub[stub].back = e->pos;
		connect(t, rel8, stub);
	}
	e_pext_fs(e, true, H_RCX, address, FS(k_page)); /* a kick makes the mask 0, and page 0 is never entered */
	t->looked = true;
	tr_load_delta(t, write);
	tr_jump_miss(t, address, 0, write);
}

void tr_jump_careful(struct tr *t)
{
	u32 rel8 = e_jrcxz(&t->e);
	u32 stub = new_stub(t, STUB_CAREFUL, EV_EXIT, t->site);
	t->stub[stub].gva = t->gva;
	connect(t, rel8, stub);
}

void tr_stack_check(struct tr *t)
{
	if (t->rsp_ok)
		return;
	tr_guard(t, 40);
	tr_forget_delta(t);
	align_test(t, 3, G_RSP);
	tr_jrcxz(t, EV_STRADDLE); /* the handler interprets to the end of the block when rsp is odd */
	t->rsp_ok = true;
}

static u32 ceil_log2(u32 n)
{
	u32 l = 0;
	while ((1u << l) < n)
		l++;
	return l;
}

static bool plain_stack(const struct tr *t, const struct bt_operand *m, u32 size)
{
	return m->mem.base == ZYDIS_REGISTER_RSP && m->mem.index == ZYDIS_REGISTER_NONE && m->mem.segment != ZYDIS_REGISTER_FS &&
	       m->mem.segment != ZYDIS_REGISTER_GS && size <= 8 && (m->mem.disp & (i64)(size - 1)) == 0 && (size & (size - 1)) == 0 &&
	       t->in->address_width == 64;
}

bool tr_plain_address(const struct tr *t, const struct bt_operand *m)
{
	bool register_or_rip = m->mem.base == ZYDIS_REGISTER_RIP || tr_is_gpr64(m->mem.base);
	bool plain_index = m->mem.index == ZYDIS_REGISTER_NONE || tr_is_gpr64(m->mem.index);
	return t->in->address_width == 64 && plain_index && m->mem.segment != ZYDIS_REGISTER_FS && m->mem.segment != ZYDIS_REGISTER_GS &&
	       register_or_rip;
}

bool tr_plain_base(const struct tr *t, const struct bt_operand *m)
{
	return tr_plain_address(t, m) && m->mem.index == ZYDIS_REGISTER_NONE;
}

/* The host register of an operand that is nothing but a base register. */
static int bare_base(const struct tr *t, const struct bt_operand *m)
{
	bool bare = tr_plain_base(t, m) && m->mem.base != ZYDIS_REGISTER_RIP && m->mem.disp == 0;
	return bare ? tr_host((u32)tr_gpr(m->mem.base)) : -1;
}

/* An address next to rip is known: so is whether the access straddles. */
static bool inside_page(const struct tr *t, const struct bt_operand *m, u32 size)
{
	return m->mem.base == ZYDIS_REGISTER_RIP && tr_plain_base(t, m) && PAGE_OFFSET(t->next + (u64)m->mem.disp) + size <= PAGE_SIZE;
}

struct tr_place tr_access(struct tr *t, const struct bt_operand *m, bool write, bool aligned)
{
	u32 size = m->size / 8;
	if (tr_shared(t, USE_OPERAND))
		return tr_share_operand(t, m, write);
	u32 check = aligned || size <= 1 || inside_page(t, m, size) ? 0 : ceil_log2(size);
	if (check && plain_stack(t, m, size)) {
		tr_stack_check(t);
		check = 0;
	}
	tr_guard(t, 110);
	int base = bare_base(t, m);
	if (base < 0)
		tr_address(t, m);
	u32 address = base < 0 ? (u32)T_ADDR : (u32)base;
	tr_lookup(t, address, write, check, size);
	return (struct tr_place){(int)address, 0};
}

void tr_modrm(struct tr *t, u32 reg, struct tr_place p, bool evex)
{
	u32 base = p.base < 0 ? (u32)H_RCX : (u32)p.base, index = p.base < 0 ? (u32)H_RSP : (u32)H_RCX;
	if (evex && p.disp)
		e_mem32(&t->e, reg, base, index, p.disp);
	else
		e_mem(&t->e, reg, base, index, 0, p.disp);
}

static void op64(struct tr *t, u32 op, u32 reg, struct tr_place p)
{
	e_rex(&t->e, true, reg, 0, p.base < 0 ? 0 : (u32)p.base);
	e8(&t->e, op);
	tr_modrm(t, reg, p, false);
}

void tr_load(struct tr *t, u32 reg, struct tr_place p)
{
	tr_check_place(t, p, 8, false);
	op64(t, 0x8b, reg, p);
}
void tr_store(struct tr *t, struct tr_place p, u32 reg)
{
	tr_check_place(t, p, 8, true);
	op64(t, 0x89, reg, p);
}
void tr_place_address(struct tr *t, u32 dst, struct tr_place p)
{
	op64(t, 0x8d, dst, p);
}

u32 tr_fetch64(struct tr *t, const struct bt_operand *o, u32 temp)
{
	if (!tr_is_mem(o))
		return tr_read_guest(t, (u32)tr_gpr(o->reg.value), temp);
	tr_load(t, temp, tr_access(t, o, false, false));
	return temp;
}
