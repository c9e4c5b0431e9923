/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SYSCALL and SYSRET without C: from a block of user code straight to one of the supervisor's, and back.
 *
 * Each begins as the event for C does, with the flags saved and nothing else changed, and looks whether all is as usual: 64-bit code on both sides, the
 * same vector units, the target in the other side's jump cache, no interrupt to be let in, no flag that blocks depend upon, no cell. Otherwise it goes on as
 * that event. What is usual is read where it stands, so there is nothing to keep up to date, and a kick, which clears the jump caches' masks, is met by
 * the look-up. src/x86/syscall.c says what the instructions do; this is the same for the usual case.
 *
 * Host registers between the steps: eax = the guest's flags, rcx = scratch, r10 and r11 as the event wants them until the target is known, which then
 * waits in r11. Host flags are free.
 *
 * Threading: the vCPU's thread.
 */
#include "engine/bt/table.h"
#include "engine/bt/tramp.h"

/* What blocks or the shadow tables depend upon. */
#define ODD_FLAGS (FL_TF | FL_DF | FL_RF | FL_VM | FL_AC)
/* What SYSRET takes from r11; of these it leaves to C whatever is more than what programs have (syscall.c). */
#define SYSRET_FLAGS (FL_ARITH | FL_IF | FL_ID)
#define SYSRET_ODD (FL_TF | FL_DF | FL_IOPL | FL_NT | FL_AC | FL_VIF | FL_VIP)

#define CC_Z 4
#define CC_NZ 5

struct crossing {
	struct tramp *k;
	u32 refuse; /* the rest of the event for C */
};

/* ---- instructions */

enum { ALU_OR = 1, ALU_AND = 4, ALU_CMP = 7 };

static void alu_imm(struct emit *e, u32 op, u32 reg, u32 imm)
{
	e_bytes(e, 0xc081 | op << 11 | reg << 8, 2);
	e32(e, imm);
}

static void test_imm(struct emit *e, u32 reg, u32 imm)
{
	e_bytes(e, 0xc0f7 | reg << 8, 2);
	e32(e, imm);
}

/* test byte fs:[disp], imm */
static void test8_fs(struct emit *e, i32 disp, u32 imm)
{
	e_bytes(e, 0xf664, 2);
	e_abs(e, 0, disp);
	e8(e, imm);
}

/* cmp qword fs:[disp], 0 */
static void cmp0_fs(struct emit *e, i32 disp)
{
	e_bytes(e, 0x834864, 3);
	e_abs(e, ALU_CMP, disp);
	e8(e, 0);
}

static void store_imm32_fs(struct emit *e, i32 disp, u32 imm)
{
	e_bytes(e, 0xc764, 2);
	e_abs(e, 0, disp);
	e32(e, imm);
}

static void store_zero_fs(struct emit *e, i32 disp)
{
	e_bytes(e, 0xc74864, 3);
	e_abs(e, 0, disp);
	e32(e, 0);
}

static void load16_fs(struct emit *e, u32 reg, i32 disp)
{
	e_bytes(e, 0xb70f64, 3);
	e_abs(e, reg, disp);
}

static void store16_fs(struct emit *e, i32 disp, u32 reg)
{
	e_bytes(e, 0x896664, 3);
	e_abs(e, reg, disp);
}

static void inc_fs(struct emit *e, i32 disp)
{
	e_bytes(e, 0xff4864, 3);
	e_abs(e, 0, disp);
}

/* ---- what is usual */

static void refuse_if(const struct crossing *x, u32 cc)
{
	e_jcc(&x->k->e, cc, x->refuse);
}

static void refuse_flags(const struct crossing *x, u32 reg, u32 odd)
{
	test_imm(&x->k->e, reg, odd);
	refuse_if(x, CC_NZ);
}

static void refuse_disabled(const struct crossing *x)
{
	struct tramp *k = x->k;
	test8_fs(&k->e, TFS(cpu.msr.efer), EFER_SCE);
	refuse_if(x, CC_Z);
}

/* The jump caches' modes differ in nothing but the side that they are of. */
static void refuse_other_mode(const struct crossing *x)
{
	struct tramp *k = x->k;
	struct emit *e = &k->e;
	e_load32_fs(e, H_RCX, TFS(jc_mode[0]));
	alu_imm(e, ALU_OR, H_RCX, MODE_USER);
	e_op_fs(e, false, 0x3b, H_RCX, TFS(jc_mode[1])); /* cmp */
	refuse_if(x, CC_NZ);
}

static void refuse_interrupt(const struct crossing *x)
{
	struct tramp *k = x->k;
	cmp0_fs(&k->e, TFS(irq_idle));
	refuse_if(x, CC_Z);
}

static void refuse_cell(const struct crossing *x)
{
	struct tramp *k = x->k;
	test8_fs(&k->e, TFS(direct_on[0]), 0xff);
	refuse_if(x, CC_NZ);
}

/* An address of programs: a canonical one, whatever the vendor does about others. */
static void refuse_high_target(const struct crossing *x, u32 target)
{
	struct emit *e = &x->k->e;
	e_rorx(e, true, H_RCX, target, 47);
	test_imm(e, H_RCX, 0x1ffff);
	refuse_if(x, CC_NZ);
}

/* The address in rcx: r11 = its block's checked entry. eax is lost. */
static void find_target(const struct crossing *x, u32 user)
{
	struct tramp *k = x->k;
	struct emit *e = &k->e;
	i32 jc = TFS(jc) + (i32)(user * sizeof(struct bt_jc_entry[BT_JC_SIZE]));
	e_pext_fs(e, true, H_RAX, H_RCX, TFS(jc_mask) + (i32)(8 * user));
	e_lea(e, false, H_RAX, H_RAX, H_RAX, 0, 0);
	e_bytes(e, 0xc50c034864, 5); /* add rcx, fs:[rax * 8 + jc] */
	e32(e, (u32)jc);
	refuse_if(x, CC_NZ);
	e_load_fs_index(e, H_R11, H_RAX, jc + 8);
}

/* ---- what changes */

/* A flat segment; its selector is in cx. */
static void set_segment(struct tramp *k, i32 seg, u32 attr)
{
	struct emit *e = &k->e;
	store16_fs(e, seg + (i32)offsetof(struct x86_seg, sel), H_RCX);
	store_imm32_fs(e, seg + (i32)offsetof(struct x86_seg, attr), attr);
	store_imm32_fs(e, seg + (i32)offsetof(struct x86_seg, limit), ~0u);
	store_zero_fs(e, seg + (i32)offsetof(struct x86_seg, base));
}

static u32 flat_attr(u32 type, u32 dpl, u32 extra)
{
	return type | SEGA_S | dpl << SEGA_DPL_SHIFT | SEGA_P | SEGA_G | extra;
}

static void set_cs(struct tramp *k, u32 dpl)
{
	set_segment(k, TFS(cpu.seg[SEG_CS]), flat_attr(0xb, dpl, SEGA_L));
}

static void set_ss(struct tramp *k, u32 dpl)
{
	set_segment(k, TFS(cpu.seg[SEG_SS]), flat_attr(0x3, dpl, SEGA_DB));
}

static void change_side(struct tramp *k, u32 user)
{
	struct emit *e = &k->e;
	if (user) {
		inc_fs(e, TFS(crossings));
		e_load_fs(e, H_RSP, TFS(ras_saved));
	} else {
		e_store_fs(e, TFS(ras_saved), H_RSP);
		e_load_fs(e, H_RSP, TFS(ras_top[0]));
	}
	store_imm32_fs(e, TFS(ras_user), user);
	e_load32_fs(e, H_RCX, TFS(jc_mode) + (i32)(4 * user));
	e_store32_fs(e, TFS(mode), H_RCX);
}

/* The flags in eax become the guest's. */
static void go(struct tramp *k)
{
	struct emit *e = &k->e;
	alu_imm(e, ALU_OR, H_RAX, FL_ONE);
	e_store32_fs(e, TFS(cpu.rflags), H_RAX);
	bt_tramp_load_flags(k);
	e_load_fs(e, H_RAX, TFS(cpu.gpr));
	e_bytes(e, 0xe3ff41, 3); /* jmp r11 */
}

/* ---- the two */

static struct crossing begin(struct tramp *k, enum bt_light_op op, u32 arg)
{
	struct crossing x = {k, k->e.pos};
	e_mov_imm(&k->e, H_R10, (u32)op | arg << 8);
	e_jmp(&k->e, k->flags_saved[EV_LIGHT]);
	return x;
}

static u32 emit_syscall(struct tramp *k)
{
	struct emit *e = &k->e;
	struct crossing x = begin(k, LIGHT_SYSCALL, 0);
	u32 at = e->pos;
	bt_tramp_save_flags(k);
	refuse_flags(&x, H_RAX, ODD_FLAGS);
	refuse_disabled(&x);
	refuse_other_mode(&x);
	e_load_fs(e, H_RCX, TFS(cpu.msr.lstar));
	find_target(&x, false);

	e_mov(e, H_R14, H_R10); /* the guest's rcx */
	e_load32_fs(e, H_RAX, TFS(cpu.rflags));
	e_store_fs(e, TFS(cpu.gpr[R_R11]), H_RAX);
	load16_fs(e, H_RCX, TFS(cpu.msr.star) + 4);
	alu_imm(e, ALU_AND, H_RCX, 0xfffc);
	set_cs(k, 0);
	e_lea(e, false, H_RCX, H_RCX, H_RSP, 0, 8);
	set_ss(k, 0);
	change_side(k, false);
	e_load32_fs(e, H_RCX, TFS(cpu.msr.sfmask));
	e_vex_rr(e, 2, VEX_NP, false, 0xf2, H_RAX, H_RCX, H_RAX); /* andn */
	go(k);
	return at;
}

static u32 emit_sysret(struct tramp *k)
{
	struct emit *e = &k->e;
	struct crossing x = begin(k, LIGHT_SYSRET, 8);
	u32 at = e->pos;
	bt_tramp_save_flags(k);
	refuse_flags(&x, H_RAX, ODD_FLAGS);
	e_load_fs(e, H_RCX, TFS(cpu.gpr[R_R11]));
	refuse_flags(&x, H_RCX, SYSRET_ODD);
	refuse_disabled(&x);
	refuse_cell(&x);
	refuse_interrupt(&x);
	refuse_other_mode(&x);
	refuse_high_target(&x, H_R14);
	e_mov(e, H_RCX, H_R14);
	find_target(&x, true);

	load16_fs(e, H_RCX, TFS(cpu.msr.star) + 6);
	e_lea(e, false, H_RCX, H_RCX, H_RSP, 0, 8);
	alu_imm(e, ALU_OR, H_RCX, 3);
	set_ss(k, 3);
	load16_fs(e, H_RCX, TFS(cpu.msr.star) + 6);
	e_lea(e, false, H_RCX, H_RCX, H_RSP, 0, 16);
	alu_imm(e, ALU_OR, H_RCX, 3);
	set_cs(k, 3);
	change_side(k, true);
	e_load32_fs(e, H_RAX, TFS(cpu.gpr[R_R11]));
	alu_imm(e, ALU_AND, H_RAX, SYSRET_FLAGS);
	go(k);
	return at;
}

void bt_emit_crossings(struct bt_vcpu *v, struct tramp *k)
{
	v->ev_off[EV_SYSCALL] = emit_syscall(k);
	v->ev_off[EV_SYSRET] = emit_sysret(k);
}
