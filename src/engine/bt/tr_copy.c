/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copying an instruction: its bytes are emitted again with general registers renamed to where the guest's live and its memory operand replaced
 * by [r10 + rcx], address plus delta. Opcode, vector registers, masks and immediates stay as they are.
 *
 * Threading: the vCPU's thread.
 */
#include "engine/bt/tr.h"

enum mem_form { MEM_NONE, MEM_SUM /* [base+rcx+disp] */, MEM_R10, MEM_RCX };

struct plan {
	struct {
		int guest; /* -1: not a general register */
		bool written, loaded, high;
		u32 host;
		bool temp;
	} f[F_COUNT];
	const struct bt_operand *mem;
	enum mem_form form;
	struct tr_place place; /* MEM_SUM */
	bool high8;
	bool rcx_in, rcx_out; /* implicit rcx */
};

static void make_plan(const struct tr *t, struct plan *p)
{
	const struct bt_insn *in = t->in;
	*p = (struct plan){.rcx_in = in->rcx_in, .rcx_out = in->rcx_out, .mem = in->memory < BT_OPERANDS ? &t->op[in->memory] : NULL};
	for (u32 i = 0; i < F_COUNT; i++) {
		const struct bt_named *n = &in->field[i];
		p->f[i].guest = n->any ? n->guest : -1;
		p->f[i].written = n->written;
		p->f[i].loaded = n->loaded;
		p->f[i].high = n->high;
		p->high8 |= n->high;
	}
}

/* With AH-BH in play no REX prefix is possible: guest rcx must be in host rcx, the address in rcx alone. */
static bool assign_high8(struct plan *p)
{
	if (p->rcx_in)
		return false;
	for (u32 i = 0; i < F_COUNT; i++) {
		if (p->f[i].guest < 0)
			continue;
		if (p->f[i].guest == R_RCX) {
			if (p->mem)
				return false;
			p->f[i].temp = true;
			p->f[i].loaded = true;
		} else if (p->f[i].guest > R_RDI || p->f[i].guest == R_RSP) {
			return false;
		}
		p->f[i].host = (u32)p->f[i].guest;
	}
	if (p->mem)
		p->form = MEM_RCX;
	return true;
}

/* r11: the guest register that host r11 holds already. */
static bool assign(struct plan *p, u32 r11)
{
	if (p->high8)
		return assign_high8(p);
	u32 free[3], nfree = 0;
	u32 homed = 0;
	bool held = false;
	for (u32 i = 0; i < F_COUNT; i++) {
		homed += p->f[i].guest >= 0 && tr_host((u32)p->f[i].guest) < 0;
		held |= p->f[i].guest == (int)r11;
	}
	if (p->mem)
		p->form = p->rcx_in || homed > 1 ? MEM_R10 : MEM_SUM;
	if (!held)
		free[nfree++] = H_R11;
	if (!p->rcx_in && p->form != MEM_SUM)
		free[nfree++] = H_RCX;
	if (!p->mem)
		free[nfree++] = H_R10;
	u32 taken = 0;
	for (u32 i = 0; i < F_COUNT; i++) {
		int g = p->f[i].guest;
		if (g < 0)
			continue;
		int h = tr_host((u32)g);
		if (h >= 0) {
			p->f[i].host = (u32)h;
			continue;
		}
		/* the same register in two fields shares one temporary */
		u32 same = F_COUNT;
		for (u32 k = 0; k < i; k++)
			if (p->f[k].guest == g)
				same = k;
		if (same < F_COUNT) {
			p->f[i].host = p->f[same].host;
			p->f[same].written |= p->f[i].written;
			p->f[same].loaded |= p->f[i].loaded;
			continue;
		}
		if (g != (int)r11 && taken == nfree)
			return false;
		p->f[i].host = g == (int)r11 ? (u32)H_R11 : free[taken++];
		p->f[i].temp = true;
	}
	return true;
}

static void emit_modrm(struct tr *t, const struct plan *p, u32 reg)
{
	u32 r = (reg & 7) << 3;
	switch (p->form) {
	case MEM_SUM:
		tr_modrm(t, reg, p->place, t->in->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX);
		break;
	case MEM_R10:
		e8(&t->e, r | (H_R10 & 7));
		break;
	case MEM_RCX:
		e8(&t->e, r | H_RCX);
		break;
	case MEM_NONE: {
		u32 rm = p->f[F_RM].guest >= 0 ? p->f[F_RM].host : t->in->modrm.rm;
		e8(&t->e, 0xc0 | r | (rm & 7));
		break;
	}
	}
}

static void emit_immediates(struct tr *t)
{
	u64 bytes; /* and what lies behind, in the copied pages */
	if (t->in->immediates == 0)
		return;
	memcpy(&bytes, t->raw + t->in->length - t->in->immediates, sizeof bytes);
	e_bytes(&t->e, bytes, t->in->immediates);
}

static u32 rm_high(const struct plan *p, u32 raw_high)
{
	if (p->form == MEM_SUM)
		return p->place.base < 0 ? 0 : (u32)p->place.base & 8;
	if (p->form == MEM_R10)
		return 8;
	if (p->form == MEM_RCX)
		return 0;
	return p->f[F_RM].guest >= 0 ? p->f[F_RM].host & 8 : raw_high;
}

static u32 reg_number(const struct tr *t, const struct plan *p, u32 raw_high)
{
	return p->f[F_REG].guest >= 0 ? p->f[F_REG].host : raw_high | t->in->modrm.reg;
}

static bool is_kept(u32 prefix)
{
	return prefix == 0x66 || prefix == 0xf2 || prefix == 0xf3 || prefix == 0xf0;
}

/* Prefixes that do nothing are copied, too, and a copy has a REX, an index and a large displacement more. VEX and EVEX always have room. */
static bool has_room(const struct tr *t, const struct plan *p)
{
	const struct bt_insn *in = t->in;
	u32 n = 1 + 3 + 1 + (p->form == MEM_SUM ? 1 + 4 : 0); /* REX, 0f 38 and opcode, ModRM, SIB and displacement */
	for (u32 i = 0; i < in->prefixes; i++)
		n += is_kept(t->raw[i]);
	return n + in->immediates <= ZYDIS_MAX_INSTRUCTION_LENGTH;
}

static void emit_legacy(struct tr *t, const struct plan *p)
{
	const struct bt_insn *in = t->in;
	u32 rex = 0;
	for (u32 i = 0; i < in->prefixes; i++)
		if (is_kept(t->raw[i]))
			e8(&t->e, t->raw[i]);
	if (in->has_rex)
		rex = t->raw[in->prefix];
	u32 reg = reg_number(t, p, (rex & 4) << 1);
	u32 high = rm_high(p, (rex & 1) << 3);
	if (p->f[F_OPCODE].guest >= 0)
		high = p->f[F_OPCODE].host & 8;
	u32 out = 0x40 | (rex & 8) | (in->has_modrm ? (reg & 8) >> 1 : 0) | high >> 3;
	struct e_part part = {0};
	if (out != 0x40 || in->has_rex)
		part = e_then(part, out, 1);
	if (in->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		part = e_then(part, 0x0f, 1);
	if (in->opcode_map == ZYDIS_OPCODE_MAP_0F38)
		part = e_then(part, 0x38, 1);
	if (in->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
		part = e_then(part, 0x3a, 1);
	u32 opcode = in->opcode;
	if (p->f[F_OPCODE].guest >= 0)
		opcode = (opcode & ~7u) | (p->f[F_OPCODE].host & 7);
	e_put(&t->e, e_then(part, opcode, 1));
	if (in->has_modrm)
		emit_modrm(t, p, reg);
	emit_immediates(t);
}

static void emit_vex_copy(struct tr *t, const struct plan *p)
{
	const u8 *x = t->raw + t->in->prefix;
	u32 b1, b2;
	if (x[0] == 0xc5) {
		b1 = (x[1] & 0x80u) | 0x60 | 1;
		b2 = x[1] & 0x7fu;
	} else {
		b1 = x[1];
		b2 = x[2];
	}
	u32 reg = reg_number(t, p, b1 & 0x80 ? 0 : 8);
	u32 high = rm_high(p, b1 & 0x20 ? 0 : 8);
	b1 = (b1 & 0x1f) | (reg & 8 ? 0 : 0x80) | 0x40 | (high ? 0 : 0x20);
	if (p->f[F_VVVV].guest >= 0)
		b2 = (b2 & ~0x78u) | (~p->f[F_VVVV].host & 15) << 3;
	e8(&t->e, 0xc4);
	e8(&t->e, b1);
	e8(&t->e, b2);
	e8(&t->e, t->in->opcode);
	if (t->in->has_modrm)
		emit_modrm(t, p, reg);
	emit_immediates(t);
}

static void emit_evex_copy(struct tr *t, const struct plan *p)
{
	const u8 *x = t->raw + t->in->prefix;
	u32 p0 = x[1], p1 = x[2], p2 = x[3];
	if (p->form != MEM_NONE) {
		p0 |= 0x40; /* index below 8: rcx, or none */
		p0 = rm_high(p, 0) ? p0 & ~0x20u : p0 | 0x20;
	} else if (p->f[F_RM].guest >= 0) {
		p0 = (p0 & ~0x20u) | (p->f[F_RM].host & 8 ? 0 : 0x20);
	}
	u32 reg = t->in->modrm.reg;
	if (p->f[F_REG].guest >= 0) {
		reg = p->f[F_REG].host;
		p0 = (p0 & ~0x80u) | (reg & 8 ? 0 : 0x80) | 0x10;
	}
	if (p->f[F_VVVV].guest >= 0)
		p1 = (p1 & ~0x78u) | (~p->f[F_VVVV].host & 15) << 3;
	e8(&t->e, 0x62);
	e8(&t->e, p0);
	e8(&t->e, p1);
	e8(&t->e, p2);
	e8(&t->e, t->in->opcode);
	emit_modrm(t, p, reg);
	emit_immediates(t);
}

/* From here on a field's host number is what is encoded: AH-BH are 4-7. */
static void encode_high(struct plan *p)
{
	for (u32 i = 0; i < F_COUNT; i++)
		if (p->f[i].high)
			p->f[i].host += 4;
}

static void emit_encoded(struct tr *t, const struct plan *p)
{
	switch (t->in->encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_VEX:
		emit_vex_copy(t, p);
		break;
	case ZYDIS_INSTRUCTION_ENCODING_EVEX:
		emit_evex_copy(t, p);
		break;
	default:
		emit_legacy(t, p);
		break;
	}
}

static bool is_aligned_form(const struct bt_insn *in)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_MOVAPS:
	case ZYDIS_MNEMONIC_MOVAPD:
	case ZYDIS_MNEMONIC_MOVDQA:
	case ZYDIS_MNEMONIC_MOVNTPS:
	case ZYDIS_MNEMONIC_MOVNTPD:
	case ZYDIS_MNEMONIC_MOVNTDQ:
	case ZYDIS_MNEMONIC_MOVNTDQA:
	case ZYDIS_MNEMONIC_VMOVAPS:
	case ZYDIS_MNEMONIC_VMOVAPD:
	case ZYDIS_MNEMONIC_VMOVDQA:
	case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_VMOVNTPD:
	case ZYDIS_MNEMONIC_VMOVNTDQ:
	case ZYDIS_MNEMONIC_CMPXCHG16B:
		return true;
	default:
		return false;
	}
}

static void place_memory(struct tr *t, struct plan *p)
{
	p->place = tr_access(t, p->mem, tr_writes(p->mem), is_aligned_form(t->in));
	if (p->form == MEM_R10)
		tr_place_address(t, H_R10, p->place);
	else if (p->form == MEM_RCX) {
		tr_forget_delta(t);
		tr_place_address(t, H_RCX, p->place);
	}
}

static void load_homed(struct tr *t, u32 guest, u32 host)
{
	e_load_fs(&t->e, host, FS_GPR(guest));
	if (host == H_R11)
		t->r11_in = (u8)guest;
}

static void load_temps(struct tr *t, const struct plan *p)
{
	for (u32 i = 0; i < F_COUNT; i++) {
		if (!p->f[i].temp || !p->f[i].loaded)
			continue;
		if (p->f[i].guest == R_RCX)
			e_mov(&t->e, p->f[i].host, G_RCX);
		else if (p->f[i].host != H_R11 || t->r11_in != p->f[i].guest)
			load_homed(t, (u32)p->f[i].guest, p->f[i].host);
	}
	if (p->rcx_in)
		e_mov(&t->e, H_RCX, G_RCX);
}

static void store_temps(struct tr *t, const struct plan *p)
{
	for (u32 i = 0; i < F_COUNT; i++)
		if (p->f[i].temp && p->f[i].written)
			tr_write_guest(t, (u32)p->f[i].guest, p->f[i].host);
	if (p->rcx_out)
		e_mov(&t->e, G_RCX, H_RCX);
}

/* Instructions that change rsp in ways other than by whole words make its alignment unknown. */
static void track_rsp(struct tr *t, const struct plan *p)
{
	for (u32 i = 0; i < F_COUNT; i++) {
		if (p->f[i].guest != R_RSP || !p->f[i].written)
			continue;
		bool whole = (t->in->mnemonic == ZYDIS_MNEMONIC_ADD || t->in->mnemonic == ZYDIS_MNEMONIC_SUB) &&
			     t->in->operand_width == 64 && t->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && (t->op[1].imm.value & 7) == 0;
		if (!whole)
			t->rsp_ok = false;
	}
}

static bool takes_rcx(const struct plan *p)
{
	bool taken = p->rcx_in || p->form == MEM_RCX;
	for (u32 i = 0; i < F_COUNT; i++)
		taken |= p->f[i].temp && p->f[i].host == H_RCX;
	return taken;
}

/* What must be aligned faults by itself where it is not, and lies in one page where it is. */
static void check_memory(struct tr *t, const struct plan *p)
{
	u32 size = is_aligned_form(t->in) ? 1 : p->mem->size / 8u;
	if (p->form == MEM_SUM)
		tr_check_place(t, p->place, size, tr_writes(p->mem));
	else
		tr_check(t, p->form == MEM_R10 ? (u32)H_R10 : (u32)H_RCX, H_RSP, 0, size, tr_writes(p->mem));
}

bool tr_copy(struct tr *t)
{
	struct plan p;
	if (!t->in->copies)
		return false;
	make_plan(t, &p);
	if (!assign(&p, t->r11_in) || !has_room(t, &p))
		return false;
	tr_guard(t, 60);
	if (p.mem)
		place_memory(t, &p);
	else
		t->delta = t->delta_in;
	if (takes_rcx(&p))
		tr_forget_delta(t);
	load_temps(t, &p);
	struct plan encoded = p;
	encode_high(&encoded);
	if (p.mem)
		check_memory(t, &p);
	emit_encoded(t, &encoded);
	store_temps(t, &p);
	t->r11 = t->r11_in;
	track_rsp(t, &p);
	return true;
}
