/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions that do something else with an address than to access what lies there, or find it in another way.
 *
 * Threading: the vCPU's thread.
 */
#include "engine/bt/tr.h"

void tr_insn_lea(struct tr *t, u32 arg)
{
	if (t->in->operand_width == 16) {
		tr_interp(t, false);
		return;
	}
	u32 g = (u32)tr_gpr(t->op[0].reg.value);
	const struct bt_operand *m = &t->op[1];
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
void tr_insn_prefetch(struct tr *t, u32 arg)
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
	e_mem(e, t->in->modrm.reg, H_R10, H_RCX, 0, 0);
	e_fix8(e, absent, e->pos);
}

/* Bit tests with a register offset and memory: the word is chosen by the offset's upper bits. */
void tr_insn_bt(struct tr *t, u32 arg)
{
	struct emit *e = &t->e;
	u32 size = t->in->operand_width;
	bool reg_offset = t->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
	if (!tr_is_mem(&t->op[0]) || !reg_offset) {
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
	if (t->in->has_lock)
		e8(e, 0xf0);
	e_rex(e, size == 64, H_R11, H_RCX, H_R10);
	e8(e, 0x0f);
	e8(e, t->in->opcode);
	e_mem(e, H_R11, H_R10, H_RCX, 0, 0);
}
