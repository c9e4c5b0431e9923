/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Translating one block: decode up to the end of the page, a jump that always leaves, or the limit; emit; then the stubs behind it.
 *
 * Layout of a block in the cache:
 *   slots           room for jumps to stubs
 *   checked entry   makes sure that the code page is mapped as it was when this was translated (for arrivals from other pages)
 *   entry           the instructions
 *   stubs
 *
 * Heavy code (Zydis uses vector registers): guest vector state is saved before. Threading: the vCPU's thread.
 */
#include "engine/bt/tr.h"

#include <string.h>

#define WORTH_A_JUMP 3 /* instructions */
#define PIECE 128u     /* of a page, to be looked at: most blocks are shorter */

/* jrcxz to `unknown` when the code page is not known to be mapped as it was. */
static void emit_page_check(struct tr *t, u32 cpage, u32 unknown)
{
	struct emit *e = &t->e;
	if (t->user) {
		e_load_fs(e, H_RCX, FS(itlb));
		e_load8(e, H_RCX, H_RCX, (i32)(offsetof(struct bt_itlb, known) + cpage));
		tr_reloc(t, RELOC_CPAGE, e->pos - 4);
	} else {
		e_load8_fs(e, H_RCX, FS(kitlb.known) + (i32)cpage);
	}
	if (!e_fix8(e, e_jrcxz(e), unknown))
		e->full = true;
}

/* Slots and the way to C lie before it, within reach of the first jumps. */
static void emit_checked_entry(struct tr *t)
{
	struct bt_block *b = t->b;
	tr_island(t, false, 8);
	u32 unknown = t->e.pos;
	tr_to_event(t, EV_ITLB, t->bi);
	b->cpage = bt_cpage(t->v, b->gva, b->gpfn);
	b->checked = t->e.pos;
	emit_page_check(t, b->cpage, unknown);
	if (b->gpfn2) {
		b->cpage2 = bt_cpage(t->v, PAGE_BASE(b->gva) + PAGE_SIZE, b->gpfn2);
		emit_page_check(t, b->cpage2, unknown);
	}
	b->entry = t->e.pos;
}

void tr_set_insn(struct tr *t, u32 index)
{
	t->insn = &t->list[index];
	t->in = t->insn->is;
	t->op = t->in->op;
	t->gva = t->insn->gva;
	t->next = t->gva + (t->in->valid ? t->in->length : 1);
	t->raw = t->page + PAGE_OFFSET(t->b->gva) + (t->gva - t->b->gva);
}

/* Nothing behind it belongs to the block, whatever becomes of it. */
static bool ends_block(const struct tr_insn *i)
{
	switch ((enum bt_kind)i->row.kind) {
	case K_CALL:
	case K_RET:
	case K_JMP:
	case K_JRCXZ:
	case K_LOOP:
	case K_STOP:
		return true;
	case K_LIGHT:
		return i->row.arg == LIGHT_SYSCALL || i->row.arg == LIGHT_SYSRET || i->row.arg == LIGHT_IRET;
	default:
		return false;
	}
}

/* What depends on the machine. Whoever pauses waits for another vCPU, which the host may have to schedule first; some models do not know SERIALIZE. */
static void look_at_machine(const struct bt_vcpu *v, struct tr_insn *i)
{
	if (!i->is->valid)
		return;
	if (i->is->mnemonic == ZYDIS_MNEMONIC_PAUSE && i->row.kind == K_NOP && v->vm->max_vcpus > 1)
		i->row = (struct bt_row){K_LIGHT, LIGHT_PAUSE};
	if (i->is->mnemonic == ZYDIS_MNEMONIC_SERIALIZE && x86_cpuid_has(v->cpu.cpuid, 7, 0, 3, 14))
		i->row = (struct bt_row){K_FENCE, 0};
}

/* Its length. */
static u32 decode_one(struct tr *t, struct tr_insn *i, gva_t gva, const u8 *bytes, u32 avail)
{
	struct bt_decoded d = bt_decode(t->v->decoder, bytes, avail);
	i->gva = gva;
	i->group[USE_OPERAND] = i->group[USE_STACK] = TR_ALONE;
	i->is = d.is;
	i->row = i->is->row;
	look_at_machine(t->v, i);
	return d.length;
}

void tr_copy_source(struct tr_source *s, u32 end)
{
	if (end > PAGE_SIZE)
		end = PAGE_SIZE;
	memcpy(s->copy + s->copied, s->page + s->copied, end - s->copied);
	s->copied = end;
}

/* From here on there is a block already, which is worth the jump. What stands in the shadow of STI, MOV SS or POP SS belongs to what stands before. */
static bool is_translated(const struct tr *t, gva_t gva)
{
	const struct bt_row *before = &t->list[t->ninsns - 1].row;
	if (before->kind == K_STI || before->kind == K_INTERP || before->kind == K_MOV_SEG)
		return false;
	const struct bt_block *b = bt_block_find(t->v, gva, t->b->gpfn, t->b->mode);
	return b && b->ninsns > WORTH_A_JUMP;
}

/* The instructions that the block may hold; it is an invalid one only when that is the first. */
static void decode_all(struct tr *t, struct tr_source *s)
{
	u32 off = PAGE_OFFSET(t->b->gva), end = (u32)PAGE_SIZE << (t->b->gpfn2 != 0);
	while (t->ninsns < TR_INSNS && off < PAGE_SIZE) {
		struct tr_insn *i = &t->list[t->ninsns];
		gva_t gva = t->b->gva + (off - PAGE_OFFSET(t->b->gva));
		if (t->ninsns && (bt_debug_breaks(t->v, gva) || is_translated(t, gva)))
			return;
		if (off + ZYDIS_MAX_INSTRUCTION_LENGTH > s->copied && s->copied < PAGE_SIZE)
			tr_copy_source(s, s->copied + PIECE);
		u32 length = decode_one(t, i, gva, s->copy + off, end - off);
		if (!i->is->valid && t->ninsns)
			return; /* it may run over the end of the page: then it makes a block of its own */
		t->ninsns++;
		if (!i->is->valid || t->b->gpfn2 || ends_block(i))
			return;
		off += length;
	}
}

/* Vector accesses know other faults than #PF: elements that a mask turns off must not fault, #GP for alignment and a pending #MF come first. AMD's CPUs
 * refuse an offset that is not canonical before FS's or GS's base is added. Only the interpreter knows. */
static bool has_own_faults(const struct tr *t)
{
	return t->in->needs || t->in->has_fs_gs || t->in->mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B;
}

static bool is_flow(const struct bt_row *row)
{
	return row->kind == K_CALL || row->kind == K_RET || row->kind == K_JMP || row->kind == K_JCC || row->kind == K_JRCXZ ||
	       row->kind == K_LOOP;
}

/* Behind STI and RET, with which functions end that enable interrupts, nothing of this block can look for one: where one waits, the interpreter returns. */
static void return_in_shadow(struct tr *t, struct bt_row row)
{
	tr_forget_delta(t);
	tr_settle_rsp(t);
	tr_guard(t, 40);
	e_load_fs(&t->e, H_RCX, FS(irq_idle));
	tr_jrcxz(t, EV_INTERP);
	tr_emit(t, row);
}

static void translate_insn(struct tr *t)
{
	struct bt_row row = t->insn->row;
	bool shadow = t->poll_after_next;
	t->poll_after_next = false;
	if (shadow && row.kind == K_RET)
		return_in_shadow(t, row);
	else if (shadow && (is_flow(&row) || row.kind == K_STI))
		tr_interp(t, true);
	else
		tr_emit(t, row);
}

static void add_map(struct tr *t, u32 host, u32 guest, u8 flags)
{
	struct bt_vcpu *v = t->v;
	v->maps[v->used->maps++] =
		(struct bt_insn_map){.host = (u16)(host - t->b->checked), .guest = (u16)guest, .flags = flags, .r11 = t->r11_in};
	t->b->ninsns++;
}

void tr_mark(struct tr *t, u8 flag)
{
	t->v->maps[t->v->used->maps - 1].flags |= flag;
}

/* The block stops here without a jump. When an STI's shadow has just ended, C must look for interrupts before going on. */
static void leave_block(struct tr *t, bool poll_due)
{
	if (!poll_due) {
		tr_exit_to(t, -1, t->next);
		return;
	}
	tr_mov_gva(t, H_R10, t->next);
	e_store_fs(&t->e, FS(target), H_R10);
	tr_to_event(t, EV_GOTO, 0);
}

static u8 map_flags(const struct tr *t, u32 index)
{
	return (u8)((has_own_faults(t) ? INSN_EXACT_FAULT : 0) | (t->poll_after_next ? INSN_SHADOW : 0) |
		    (t->delta_in != TR_ALONE || t->rsp_due ? INSN_CLOSED : 0) | (tr_shares_behind(t, index) ? INSN_SHARES : 0));
}

static void translate_next(struct tr *t, u32 index, bool poll_first)
{
	tr_set_insn(t, index);
	tr_between(t, poll_first);
	t->site = t->e.pos;
	add_map(t, t->site, (u32)(t->gva - t->b->gva), map_flags(t, index));
	if (poll_first) {
		tr_guard(t, 40);
		e_load_fs(&t->e, H_RCX, FS(irq_idle));
		tr_jrcxz(t, EV_POLL);
	}
	translate_insn(t);
}

static void translate_all(struct tr *t)
{
	bool poll_here = false;
	for (u32 i = 0; i < t->ninsns && !t->end; i++) {
		bool full = t->b->ninsns >= BT_MAX_INSNS || t->nstubs > TR_STUBS - 32;
		if (full && !t->poll_after_next)
			break;
		if (!t->list[i].is->valid) {
			/* Not an instruction, or its end is not mapped: the interpreter fetches and decides. */
			tr_set_insn(t, i);
			t->delta_in = t->delta = TR_ALONE; /* nothing behind it will want one */
			t->site = t->e.pos;
			add_map(t, t->site, (u32)(t->gva - t->b->gva), 0);
			tr_interp(t, true);
			return;
		}
		bool shadow = t->poll_after_next;
		translate_next(t, i, poll_here);
		/* CLI in the shadow of STI: no interrupt gets in between, and none behind. */
		poll_here = shadow && t->in->mnemonic != ZYDIS_MNEMONIC_CLI;
	}
	if (t->end)
		return;
	tr_settle_rsp(t);
	leave_block(t, poll_here || (t->b->gpfn2 && t->poll_after_next));
}

static void emit_misaligned(struct tr *t, const struct tr_stub *s)
{
	struct emit *e = &t->e;
	e_pext_fs(e, false, H_RCX, s->address, FS(k_fff));
	e_lea(e, false, H_RCX, H_RCX, H_RSP, 0, s->size - 1);
	e_pext_fs(e, false, H_RCX, H_RCX, FS(k_1000));
	u32 inside = e_jrcxz(e);
	if (s->address != H_R10)
		e_mov(e, H_R10, s->address);
	tr_to_event(t, s->event, s->site);
	e_fix8(e, inside, e->pos);
	e_jmp(e, s->back);
}

static void emit_event(struct tr *t, const struct tr_stub *s)
{
	if (s->address != H_R10 || s->plus)
		e_lea(&t->e, true, H_R10, s->address, H_RSP, 0, s->plus);
	tr_to_event(t, s->event, s->site);
}

static void emit_stubs(struct tr *t)
{
	struct emit *e = &t->e;
	tr_island(t, false, 0);
	for (u32 i = 0; i < t->nstubs; i++) {
		const struct tr_stub *s = &t->stub[i];
		if (s->kind == STUB_CAREFUL) {
			tr_add_exit(t, s->slot_rel, s->gva, false, true);
			continue;
		}
		e_patch32(e, s->slot_rel, e->pos - (s->slot_rel + 4));
		if (s->kind == STUB_MISALIGNED)
			emit_misaligned(t, s);
		else
			emit_event(t, s);
	}
}

static void emit_exits(struct tr *t)
{
	struct bt_vcpu *v = t->v;
	t->b->first_exit = v->used->exits;
	t->b->nexits = t->nexits;
	for (u32 i = 0; i < t->nexits; i++, v->used->exits++) {
		u32 rel = t->exit[i].rel32, at = t->e.pos;
		e_patch32(&t->e, rel, at - (rel + 4));
		v->exits[v->used->exits] = (struct bt_exit){
			.patch = rel, .stub = at, .gva = t->exit[i].gva, .checked = t->exit[i].checked, .careful = t->exit[i].careful};
		tr_to_event(t, EV_EXIT, v->used->exits);
	}
}

struct bt_block *tr_translate(struct bt_vcpu *v, gva_t gva, u64 gpfn, u64 gpfn2, u32 mode, struct tr_source *s)
{
	u32 bi = v->used->blocks;
	struct bt_block *b = &v->blocks[bi];
	*b = (struct bt_block){.gva = gva,
			       .gpfn = gpfn,
			       .gpfn2 = gpfn2,
			       .mode = mode,
			       .start = (v->used->code + 31) & ~31u,
			       .map = v->used->maps,
			       .relocs = v->used->relocs};
	struct tr t;
	memset(&t, 0, offsetof(struct tr, stub));
	t.npending = t.nexits = 0;
	t.v = v;
	t.e = (struct emit){.base = v->cache_rw, .pos = b->start, .limit = bt_zone_end(v->vm, b->start)};
	t.fs = bt_fs_offset();
	t.b = b;
	t.bi = bi;
	t.mode = mode & ~(u32)MODE_CAREFUL;
	t.delta = t.delta_in = TR_ALONE;
	tr_forget_r11(&t);
	t.user = (mode & MODE_USER) != 0;
	t.stays = gpfn2 || !bt_rebases(gva, mode);
	t.page = s->copy;
	t.ninsns = t.ngroups = 0;
	decode_all(&t, s);
	if (!(mode & MODE_CAREFUL) && !gpfn2)
		tr_plan(&t);
	t.next = t.gva = gva;
	emit_checked_entry(&t);
	translate_all(&t);
	b->bytes = (u16)(t.next - gva);
	add_map(&t, t.e.pos, b->bytes, INSN_END);
	emit_stubs(&t);
	emit_exits(&t);
	if (t.e.full || t.e.pos - b->checked > 0xffff) {
		v->st.too_large++;
		return NULL;
	}
	if (t.stays) {
		v->used->relocs = b->relocs;
		b->nrelocs = 0;
	}
	b->end = t.e.pos;
	v->used->code = t.e.pos;
	v->used->blocks++;
	v->st.blocks++;
	v->st.guest_bytes += b->bytes;
	v->st.host_bytes += b->end - b->checked;
	return b;
}

/* Does the instruction at gva, near the end of its page, go on in the next? */
static bool crosses(const u8 *page, u32 off)
{
	ZydisDecoder d;
	ZydisDecodedInstruction in;
	if (PAGE_SIZE - off >= 15)
		return false;
	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	return ZydisDecoderDecodeInstruction(&d, NULL, page + off, PAGE_SIZE - off, &in) == ZYDIS_STATUS_NO_MORE_DATA;
}

static bool same_bytes(const struct tr_source *s, u32 start, u32 end)
{
	u32 end1 = end < PAGE_SIZE ? end : (u32)PAGE_SIZE;
	return memcmp(s->copy + start, s->page + start, end1 - start) == 0 &&
	       (end <= PAGE_SIZE || memcmp(s->copy + PAGE_SIZE, s->page2, end - PAGE_SIZE) == 0);
}

/* The lines of the block in its frame and in the next. */
struct span {
	u64 gpfn[2], lines[2];
};

static struct span span_of(const struct bt_block *b, u32 start, u32 end)
{
	struct span s = {.gpfn = {b->gpfn, b->gpfn2}};
	if (end > start)
		s.lines[0] = bt_lines(start, end < PAGE_SIZE ? end : (u32)PAGE_SIZE);
	if (b->gpfn2)
		s.lines[1] = bt_lines(0, end - (u32)PAGE_SIZE);
	return s;
}

static void mark_lines(struct bt_vcpu *v, const struct span *s)
{
	for (u32 i = 0; i < 2; i++) {
		if (!s->lines[i])
			continue;
		u64 *mine = &v->frames[s->gpfn[i]].lines;
		__atomic_store_n(mine, *mine | s->lines[i], __ATOMIC_RELAXED); /* the exchange behind it is the barrier */
		__atomic_fetch_or(&v->vm->frames[s->gpfn[i]].lines, s->lines[i], __ATOMIC_SEQ_CST);
	}
	for (u32 i = 0; i < 2; i++)
		if (s->lines[i])
			bt_protect(v, s->gpfn[i]);
}

/* Others may have had the world meanwhile and dropped the code there, marks included. */
static bool still_marked(const struct bt_vcpu *v, const struct span *s)
{
	return (v->frames[s->gpfn[0]].lines & s->lines[0]) == s->lines[0] && (v->frames[s->gpfn[1]].lines & s->lines[1]) == s->lines[1];
}

void bt_trace_block(struct bt_vcpu *v, const struct bt_block *b)
{
	v->env.trace(v, TRACE_BLOCK, b->gva, b->gpfn << PAGE_SHIFT | PAGE_OFFSET(b->gva), b->bytes, 0);
	v->env.trace(v, TRACE_BLOCK_HOST, b->gva, (u64)v->cache_rx + b->checked, b->end - b->checked, 0);
}

/* What the last attempt has taken. */
static void take_back(struct bt_vcpu *v, const struct bt_used *before)
{
	const struct bt_block *b = &v->blocks[before->blocks];
	bt_cpage_put(v, b->cpage);
	if (b->gpfn2)
		bt_cpage_put(v, b->cpage2);
	*v->used = *before;
}

/* Translate the code at gva, which lies in frame gpfn. NULL: this one instruction must be interpreted. */
struct bt_block *bt_translate(struct bt_vcpu *v, gva_t gva, u64 gpfn, u64 gpfn2, u32 mode)
{
	bt_cache_make_room(v);
	bt_blocks_make_room(v);
	struct tr_source s;
	s.page = v->env.ram(v, gpfn << 12, false);
	s.page2 = NULL;
	u32 start = PAGE_OFFSET(gva);
	if (!s.page)
		return NULL;
	if (gpfn2 && crosses(s.page, start))
		s.page2 = v->env.ram(v, gpfn2 << 12, false);
	if (!s.page2)
		gpfn2 = 0;
	const struct bt_used before = *v->used;
	/* Bytes may change by DMA or another vCPU until their lines are marked: compare after marking, and start over when they did. */
	for (int tries = 0; tries < 4; tries++) {
		s.copied = start;
		tr_copy_source(&s, start + PIECE);
		if (s.page2)
			memcpy(s.copy + PAGE_SIZE, s.page2, 16);
		struct bt_block *b = tr_translate(v, gva, gpfn, gpfn2, mode, &s);
		if (!b) {
			take_back(v, &before);
			break;
		}
		u32 end = start + b->bytes;
		if (!gpfn2 && end > PAGE_SIZE)
			end = PAGE_SIZE;
		struct span span = span_of(b, start, end);
		mark_lines(v, &span);
		if (still_marked(v, &span) && same_bytes(&s, start, end)) {
			bt_block_publish(v, (u32)(b - v->blocks));
			bt_rebase_remember(v, (u32)(b - v->blocks));
			if (unlikely(v->used->code > v->ahead_at))
				bt_ahead_code(v);
			if (unlikely(v->cpu.traced))
				bt_trace_block(v, b);
			return b;
		}
		take_back(v, &before);
	}
	return NULL;
}
