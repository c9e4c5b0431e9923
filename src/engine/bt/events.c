/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where translated code calls C. Each handler gets the site (offset in the cache of the instruction's first host byte), brings cpu.rip up to
 * date, does its work and returns the host address to go on at, or NULL to leave to vcpu_run.
 *
 * Light code: guest vector state is still in the registers; bt_heavy() is called before anything that might touch it.
 * Threading: the vCPU's thread.
 */
#include "engine/bt/events.h"
#include "engine/bt/table.h"

/* ---- interpreting one instruction */

void *bt_event_interp(struct bt_vcpu *v, u32 site)
{
	struct bt_place p = bt_place_of(v, site);
	if (!bt_interpret(v))
		return bt_dispatch(v);
	return bt_resume(v, &p);
}

/* The access crosses a page, or the stack pointer is odd: then nothing in the block may use its shortcuts. */
void *bt_event_straddle(struct bt_vcpu *v, u32 site)
{
	struct bt_place p = bt_place_of(v, site);
	v->st.straddles++;
	if ((v->cpu.gpr[R_RSP] & 7) == 0) {
		if (!bt_interpret(v))
			return bt_dispatch(v);
		return bt_resume(v, &p);
	}
	gva_t end = p.b->gva + p.b->bytes, last;
	do {
		last = v->cpu.rip;
		if (!bt_interpret(v))
			break;
	} while (v->cpu.rip > last && v->cpu.rip < end && !bt_must_leave(v) && !p.b->dead);
	return bt_dispatch(v);
}

void *bt_event_signal(struct bt_vcpu *v, u32 site)
{
	v->st.signals++;
	v->t3 = (u64)(bt_block_at(v, site) - v->blocks);
	bt_place_of(v, site);
	bt_interpret(v);
	return bt_dispatch(v); /* the block may have left work to the code between instructions */
}

/* ---- memory */

/* A store to a frame that holds code. Stores are looked at one by one, and only blocks that they hit go; when many follow each other the frame has got
 * another use, and all of it goes. */
static bool drop_pays(struct bt_frame *f)
{
	return __atomic_add_fetch(&f->stores, 1, __ATOMIC_RELAXED) % BT_STORES == 0;
}

static void note_piece(struct bt_vcpu *v, u64 piece)
{
	u8 *touched = &v->vm->touched[piece], n = __atomic_load_n(touched, __ATOMIC_RELAXED);
	if (likely(n >= BT_PIECE_IN_USE))
		return;
	__atomic_store_n(touched, (u8)(n + 1), __ATOMIC_RELAXED); /* two vCPUs may count as one */
	if (n + 1 == BT_PIECE_IN_USE) {
		bt_heavy(v);
		bt_ahead_piece(v->vm, piece);
	}
}

int bt_fill(struct bt_vcpu *v, gva_t gva, bool write)
{
	struct x86_xlat x;
	if (!x86_translate(&v->cpu, gva, x86_acc(&v->cpu, write ? ACC_WRITE : ACC_READ), &x))
		return 0;
	if (bt_entry_index(v->vm, gva) == 0)
		return -1; /* entry 0 stays absent: where look-ups go after a kick */
	if (bt_debug_hides_page(v, gva, write))
		return -1;
	u8 *page = v->env.ram(v, x.gpa & ~(u64)4095, write);
	if (!page || x.gpa >> 12 >= v->vm->nframes)
		return -1;
	bt_stores_done(v); /* accessed and dirty bits */
	if (write && bt_frame_has_code(v->vm, x.gpa) && drop_pays(&v->vm->frames[x.gpa >> 12]))
		bt_code_drop(v, x.gpa >> 12, ~0ull);
	bool write_ok = x.writable && x.dirty && !bt_debug_hides_page(v, gva, true) && (write || v->env.ram(v, x.gpa & ~(u64)4095, true)) &&
			bt_may_write(v, x.gpa >> 12);
	/* Not so while stores are looked at one by one, nor when the guest's own entry lies outside RAM and cannot take the dirty bit: no page of the
	 * table would be entered. */
	if (write && !write_ok)
		return -1;
	bt_shadow_fill(v, gva, &x, page, write_ok);
	note_piece(v, x.gpa >> BT_PIECE_SHIFT);
	return 1;
}

static void *miss(struct bt_vcpu *v, u32 site, bool write)
{
	struct bt_place p = bt_place_of(v, site);
	if (bt_kicked(v)) {
		v->cpu.irq_shadow = (p.m->flags & INSN_SHADOW) != 0;
		return bt_dispatch(v);
	}
	v->st.misses++;
	int r = x86_canonical(v->t1) ? bt_fill(v, v->t1, write) : -1; /* #GP or #SS: the interpreter knows which */
	if (r > 0)
		return bt_again(v, &p);
	if (r == 0 && !(p.m->flags & INSN_EXACT_FAULT)) {
		v->st.misses_failed++;
		return bt_deliver(v);
	}
	v->cpu.fault.pending = false;
	if (!bt_interpret(v))
		return bt_dispatch(v);
	return bt_resume(v, &p);
}

void *bt_event_miss_read(struct bt_vcpu *v, u32 site)
{
	return miss(v, site, false);
}
void *bt_event_miss_write(struct bt_vcpu *v, u32 site)
{
	return miss(v, site, true);
}

/* ---- jumps */

void *bt_event_exit(struct bt_vcpu *v, u32 exit)
{
	v->st.links++;
	const struct bt_exit *x = &v->exits[exit];
	u64 drops = v->st.zones_dropped; /* with which numbers get another meaning */
	u32 mode = v->mode;
	gva_t to = x->gva;
	const struct bt_block *from = &v->blocks[v->t3];
	gva_t from_gva = from->gva;
	v->cpu.rip = to;
	struct bt_block *b;
	void *h = bt_dispatch_block(v, x->careful ? MODE_CAREFUL : 0, &b);
	if (b && b->gva == to && x->gva == to && v->mode == mode && drops == v->st.zones_dropped && !from->dead && x->target == 0)
		bt_block_link(v, exit, b, x->checked || (from_gva ^ to) >> 12 != 0 || b->gpfn2);
	return bt_finish(v, h);
}

/* What is left of an indirect call or return once its target is known. False: fault pending. */
static bool complete_jump(struct bt_vcpu *v, const struct bt_place *p)
{
	struct x86_cpu *c = &v->cpu;
	if (p->m->flags & INSN_RET)
		c->gpr[R_RSP] += 8;
	if (p->m->flags & INSN_CALL) {
		if (!x86_write_val(c, c->gpr[R_RSP] - 8, 8, bt_next_rip(p), x86_acc(c, ACC_WRITE)))
			return false;
		c->gpr[R_RSP] -= 8;
	}
	c->rip = v->target;
	return true;
}

/* All eight bytes below the stack pointer: a misaligned one may lie across the end of the canonical addresses. */
static bool may_push(const struct bt_vcpu *v)
{
	u64 rsp = v->cpu.gpr[R_RSP];
	return x86_canonical(rsp - 8) && x86_canonical(rsp - 1);
}

void *bt_event_indirect(struct bt_vcpu *v, u32 site)
{
	v->st.indirect_misses++;
	struct bt_place p = bt_place_of(v, site);
	if (!x86_canonical(v->target) || ((p.m->flags & INSN_CALL) && !may_push(v))) {
		bt_interpret(v); /* raises the instruction's own fault */
		return bt_dispatch(v);
	}
	if (!complete_jump(v, &p))
		return bt_deliver(v);
	return bt_dispatch_known(v);
}

/* The return stack and the jump cache do not know where this return goes. */
void *bt_event_ret(struct bt_vcpu *v, u32 site)
{
	v->t3 = (u64)(bt_block_at(v, site) - v->blocks);
	bt_place_of(v, site);
	v->st.indirect_misses++;
	if (!x86_canonical(v->t1)) {
		v->cpu.gpr[R_RSP] -= 8 + (v->t2 >> 32);
		bt_interpret(v); /* faults at the return */
		return bt_dispatch(v);
	}
	v->cpu.rip = v->t1;
	return bt_dispatch_known(v);
}

void *bt_event_goto(struct bt_vcpu *v, u32 unused)
{
	v->st.gotos++;
	v->cpu.rip = v->target;
	return bt_dispatch(v);
}

/* A block was reached from elsewhere and its code page is not known to be mapped as it was. */
void *bt_event_itlb(struct bt_vcpu *v, u32 block)
{
	v->st.itlb_misses++;
	v->cpu.rip = v->blocks[block].gva;
	struct bt_block *b;
	return bt_finish(v, bt_dispatch_block(v, 0, &b));
}

void *bt_event_poll(struct bt_vcpu *v, u32 site)
{
	v->st.polls++;
	bt_place_of(v, site);
	/* Not back to the site: STI, CLI leaves an interrupt waiting that may not come, and the poll would find it again. */
	return bt_dispatch(v);
}

/* ---- instructions carried out in C */

void *bt_event_light(struct bt_vcpu *v, u32 site)
{
	u32 op = v->t1 & 0xff, arg = (u32)(v->t1 >> 8) & 0xffffff;
	struct bt_place p = bt_place_of(v, site);
	v->st.light++;
	v->st.light_ops[op]++;
	if (op == LIGHT_STRING)
		return bt_light_string(v, &p, arg);
	gva_t next = bt_next_rip(&p);
	struct bt_aspace *as = v->as;
	bool jumped;
	if (!bt_light_op(v, op, arg, next, &jumped))
		return bt_deliver(v);
	if (jumped)
		return bt_dispatch(v);
	v->cpu.rip = next;
	if (as != v->as || op == LIGHT_MOV_TO_CR || op == LIGHT_INVLPG || op == LIGHT_WRMSR)
		return bt_dispatch(v); /* the code page itself may be mapped otherwise now */
	return bt_resume(v, &p);
}
