/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MOVS and STOS, forward. With REP the host's own instruction does what lies in one page, or one page each: so a kernel clears and copies small
 * structures, hundreds of thousands of times a boot. What is longer, cannot be looked up or is no address goes to C (light_string.c) from the
 * beginning: nothing that the guest sees changes before all of it is known to succeed.
 *
 * Threading: the vCPU's thread.
 */
#include "engine/bt/tr.h"

struct string {
	u32 size_log; /* of an element, bytes */
	bool movs, rep;
};

static struct string string_of(const struct tr *t)
{
	u32 size = t->op[0].size / 8u;
	bool movs = t->in->mnemonic == ZYDIS_MNEMONIC_MOVSB || t->in->mnemonic == ZYDIS_MNEMONIC_MOVSW ||
		    t->in->mnemonic == ZYDIS_MNEMONIC_MOVSD || t->in->mnemonic == ZYDIS_MNEMONIC_MOVSQ;
	return (struct string){.size_log = (u32)__builtin_ctz(size), .movs = movs, .rep = t->in->has_rep};
}

static void string_in_c(struct tr *t, struct string s)
{
	tr_to_light(t, LIGHT_STRING, 1u << s.size_log | (u32)s.rep << 4 | (u32)s.movs << 5);
}

/* On in C unless rcx is 0. */
static void demand_zero(struct emit *e, u32 in_c)
{
	u32 zero = e_jrcxz(e);
	e_jmp(e, in_c);
	e_fix8(e, zero, e->pos);
}

/* to = the host's address; on in C where the page's is not known. */
static void look_up(struct tr *t, u32 address, u32 to, bool write, u32 in_c)
{
	struct emit *e = &t->e;
	e_pext_fs(e, true, H_RCX, address, FS(k_page));
	tr_load_delta(t, write);
	if (!e_fix8(e, e_jrcxz(e), in_c))
		e->full = true; /* cannot happen */
	e_lea(e, true, to, address, H_RCX, 0, 0);
}

/* Of an address that is not canonical, or in the other half of a small table's reach, something else than an address comes out. */
static void demand_address(struct tr *t, u32 host, u32 in_c)
{
	e_pext_fs(&t->e, true, H_RCX, host, FS(k_beyond));
	demand_zero(&t->e, in_c);
}

/* All elements from there on lie in the page, if their number is small. */
static void demand_page(struct tr *t, u32 host, u32 size_log, u32 in_c)
{
	struct emit *e = &t->e;
	e_pext_fs(e, true, H_RCX, host, FS(k_fff));
	e_lea(e, true, H_RCX, H_RCX, G_RCX, size_log, -1);
	e_pext_fs(e, true, H_RCX, H_RCX, FS(k_not_fff));
	demand_zero(e, in_c);
}

static void demand_small_number(struct tr *t, u32 in_c)
{
	e_pext_fs(&t->e, true, H_RCX, G_RCX, FS(k_not_fff));
	demand_zero(&t->e, in_c);
}

static void swap(struct emit *e, u32 a, u32 b)
{
	e_mov(e, H_RCX, a);
	e_mov(e, a, b);
	e_mov(e, b, H_RCX);
}

static void emit_rep(struct emit *e, struct string s)
{
	if (s.size_log == 1)
		e8(e, 0x66);
	e8(e, 0xf3);
	if (s.size_log == 3)
		e8(e, 0x48);
	e8(e, (s.movs ? 0xa4 : 0xaa) | (s.size_log != 0));
}

/* The register has the host's address from here on, and `host` the guest's. */
static void begin(struct tr *t, u32 address, u32 host, struct string s, bool write)
{
	tr_check(t, host, H_RSP, 0, 1u << s.size_log, write);
	swap(&t->e, address, host);
}

/* The guest's again, behind the last element. */
static void end(struct emit *e, u32 address, u32 guest, struct string s)
{
	e_lea(e, true, address, guest, G_RCX, s.size_log, 0);
}

static void natively(struct tr *t, struct string s)
{
	struct emit *e = &t->e;
	if (s.movs)
		begin(t, H_RSI, H_R10, s, false);
	begin(t, H_RDI, H_R11, s, true);
	e_mov(e, H_RCX, G_RCX);
	emit_rep(e, s);
	if (s.movs)
		end(e, H_RSI, H_R10, s);
	end(e, H_RDI, H_R11, s);
	e_mov(e, G_RCX, H_RCX);
}

static void demand_all(struct tr *t, struct string s, u32 in_c)
{
	if (s.movs)
		look_up(t, H_RSI, H_R10, false, in_c);
	look_up(t, H_RDI, H_R11, true, in_c);
	if (s.movs) {
		demand_address(t, H_R10, in_c);
		demand_page(t, H_R10, s.size_log, in_c);
	}
	demand_address(t, H_R11, in_c);
	demand_page(t, H_R11, s.size_log, in_c);
	demand_small_number(t, in_c);
}

static void repeated(struct tr *t, struct string s)
{
	struct emit *e = &t->e;
	tr_guard(t, 400); /* what waits for an island gets it now */
	tr_forget_r11(t);
	u32 over = e_jmp8(e), in_c = e->pos;
	string_in_c(t, s);
	e_fix8(e, over, e->pos);
	demand_all(t, s, in_c);
	natively(t, s);
}

static void string(struct tr *t)
{
	struct string s = string_of(t);
	if (t->in->has_fs_gs || t->in->address_width != 64 || (t->mode & MODE_DF))
		tr_interp(t, false);
	else if (s.rep)
		repeated(t, s);
	else
		string_in_c(t, s);
}

/* MOVSD is also the scalar SSE move: the row is the string's. */
void tr_insn_string(struct tr *t, u32 arg)
{
	if (t->in->is_string)
		string(t);
	else
		tr_insn_copy(t, arg);
}
