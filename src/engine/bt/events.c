/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where translated code calls C. Each handler gets the site (offset in the cache of the instruction's first host byte), brings cpu.rip up to
 * date, does its work and returns the host address to go on at, or NULL to leave to vcpu_run.
 *
 * Light code: guest vector state is still in the registers; bt_heavy() is called before anything that might touch it.
 * Threading: the vCPU's thread.
 */
#include "engine/bt/bt.h"
#include "engine/bt/table.h"

struct place {
	struct bt_block *b;
	const struct bt_insn_map *m;
	u64 epoch;
};

static struct place place_of(struct bt_vcpu *v, u32 site)
{
	struct place p;
	p.b = &v->blocks[v->t3];
	p.m = bt_insn_at(v, p.b, site);
	p.epoch = v->epoch;
	v->cpu.rip = p.b->gva + p.m->guest;
	return p;
}

static gva_t next_rip(const struct place *p)
{
	return p->b->gva + p->m[1].guest; /* an INSN_END follows the last */
}

static void *host(struct bt_vcpu *v, u32 off)
{
	return v->cache_rx + off;
}

/* In the middle of a block, where host r11 may have to hold a guest register. */
static void *middle(struct bt_vcpu *v, const struct bt_block *b, const struct bt_insn_map *m)
{
	if (m->r11 != BT_NO_GPR)
		v->r11 = v->cpu.gpr[m->r11];
	return host(v, b->checked + m->host);
}

static void *finish(struct bt_vcpu *v, void *to)
{
	if (to && v->fpu_saved && !BT_ALL_HEAVY)
		bt_light(v);
	return to;
}

/* Either word of a kick will do: the kicker may be between them. */
static bool kicked(struct bt_vcpu *v)
{
	return __atomic_load_n(&v->go, __ATOMIC_ACQUIRE) == 0 || __atomic_load_n(&v->k_page, __ATOMIC_ACQUIRE) == 0;
}

static bool watch_hit(const struct bt_vcpu *v)
{
	return unlikely(v->cpu.watch != NULL) && v->cpu.watch->met;
}

static bool must_leave(struct bt_vcpu *v)
{
	return kicked(v) || v->cpu.triple_fault || v->halted || v->failed || watch_hit(v);
}

/* ---- modes */

static u32 vector_mode(const struct x86_cpu *c)
{
	if (c->cr0 & (CR0_EM | CR0_TS))
		return 0;
	u32 mode = MODE_X87;
	if (!(c->cr4 & CR4_OSFXSR))
		return mode;
	mode |= MODE_SSE;
	if (!(c->cr4 & CR4_OSXSAVE) || (c->xcr0 & 6) != 6)
		return mode;
	mode |= MODE_AVX;
	return (c->xcr0 & 0xe6) == 0xe6 ? mode | MODE_AVX512 : mode;
}

static u32 mode_of(const struct x86_cpu *c)
{
	bool user = x86_cpl(c) == 3;
	bool middle = x86_cpl(c) == 1 || x86_cpl(c) == 2; /* system instructions in line know rings 0 and 3 */
	if (!x86_code64(c) || middle || (c->rflags & FL_TF) || (c->dr[7] & 0xff) || (user && (c->rflags & FL_AC) && (c->cr0 & CR0_AM)))
		return MODE_INTERP;
	return vector_mode(c) | (user ? MODE_USER : 0) | (c->rflags & FL_DF ? MODE_DF : 0);
}

/* The jump caches serve one mode each for user and supervisor code. When another one stays, they change over, and all code with them. */
static void adopt_mode(struct bt_vcpu *v, u32 mode)
{
	u32 u = mode & MODE_USER;
	if (v->jc_mode[u] == mode || (mode & (MODE_DF | MODE_INTERP))) {
		return;
	}
	if (v->jc_mode[u] != ~0u && ++v->mode_misses < 2000)
		return;
	v->mode_misses = 0;
	bt_heavy(v);
	v->jc_mode[u] = mode;
	bt_flush_code(v);
}

static void choose_return_stack(struct bt_vcpu *v)
{
	u32 user = v->mode & MODE_USER;
	if (user == v->ras_user)
		return;
	if (user) {
		v->crossings++;
		v->ras = v->ras_saved;
	} else {
		v->ras_saved = v->ras;
		v->ras = v->ras_top[0];
	}
	v->ras_user = user;
}

void bt_update_mode(struct bt_vcpu *v)
{
	v->mode = v->vm->translate && !bt_debug_steps(v) ? mode_of(&v->cpu) : (u32)MODE_INTERP;
	choose_return_stack(v);
	bt_shadow_views(v);
}

/* ---- finding code */

static bool fetch_frame(struct bt_vcpu *v, gva_t rip, u64 *gpfn)
{
	if (bt_itlb_find(v, rip, gpfn))
		return true;
	struct x86_xlat x;
	if (!x86_translate(&v->cpu, rip, x86_acc(&v->cpu, ACC_FETCH), &x))
		return false;
	*gpfn = x.gpa >> 12;
	if (*gpfn < v->vm->nframes && bt_itlb_can_hold(rip, *gpfn))
		bt_itlb_enter(v, rip, *gpfn);
	bt_shadow_note_fetch(v, rip, &x);
	return true;
}

static bool near_page_end(gva_t rip)
{
	return PAGE_OFFSET(rip) > PAGE_SIZE - 15;
}

/* The frame behind the one that holds rip; 0 when it cannot be fetched from (should that matter, the interpreter raises the fault). */
static u64 next_frame(struct bt_vcpu *v)
{
	u64 gpfn;
	if (fetch_frame(v, PAGE_BASE(v->cpu.rip) + PAGE_SIZE, &gpfn) && gpfn < v->vm->nframes && gpfn < 1u << 28)
		return gpfn;
	v->cpu.fault.pending = false;
	return 0;
}

/* The block for cpu.rip in the current mode; NULL: interpret, or a fault is pending. careful: MODE_CAREFUL or 0. */
static struct bt_block *block_here(struct bt_vcpu *v, u32 careful)
{
	u64 gpfn;
	if (!fetch_frame(v, v->cpu.rip, &gpfn))
		return NULL;
	if (gpfn >= v->vm->nframes || !bt_itlb_can_hold(v->cpu.rip, gpfn))
		return NULL;
	u64 gpfn2 = near_page_end(v->cpu.rip) ? next_frame(v) : 0;
	struct bt_block *b = bt_block_find(v, v->cpu.rip, gpfn, v->mode | careful);
	if (b && b->gpfn2 && b->gpfn2 != gpfn2) {
		bt_block_kill(v, (u32)(b - v->blocks)); /* the second page is mapped elsewhere now */
		b = NULL;
	}
	if (!b) {
		bt_heavy(v);
		b = bt_translate(v, v->cpu.rip, gpfn, gpfn2, v->mode | careful);
	}
	if (b)
		bt_itlb_know(v, b);
	return b;
}

static bool interrupt_waits(const struct bt_vcpu *v)
{
	if (v->cpu.nmi_pending && !v->cpu.nmi_blocked)
		return true;
	return __atomic_load_n(&v->irq_idle, __ATOMIC_ACQUIRE) == 0 && (v->cpu.rflags & FL_IF);
}

/* Translated code runs: no shadow of STI, MOV SS or RF outlasts one instruction. */
static void past_shadows(struct bt_vcpu *v)
{
	v->cpu.irq_shadow = v->cpu.debug_shadow = false;
	v->cpu.rflags &= ~(u64)FL_RF;
}

static void *dispatch_as(struct bt_vcpu *v, u32 careful, struct bt_block **out)
{
	v->st.dispatches++;
	*out = NULL;
	for (int i = 0; i < 3; i++) {
		bt_stores_done(v);
		if (must_leave(v))
			return NULL;
		bt_update_mode(v);
		if (v->mode & MODE_INTERP)
			return NULL;
		if (interrupt_waits(v) || v->cpu.irq_shadow || bt_direct_fits(v)) /* what stands in a shadow is interpreted */
			return NULL;
		if (bt_debug_at_break(v))
			return NULL;
		past_shadows(v);
		adopt_mode(v, v->mode);
		struct bt_block *b = block_here(v, careful);
		bt_stores_done(v); /* accessed bits */
		if (b && b->dead)
			continue;
		if (b) {
			*out = b;
			return host(v, b->entry);
		}
		if (!v->cpu.fault.pending) {
			v->interpret_next = true;
			return NULL;
		}
		x86_deliver_fault(&v->cpu);
	}
	return NULL;
}

static void *dispatch_to(struct bt_vcpu *v, struct bt_block **out)
{
	return dispatch_as(v, 0, out);
}

static void *dispatch_careful(struct bt_vcpu *v)
{
	struct bt_block *b;
	return finish(v, dispatch_as(v, MODE_CAREFUL, &b));
}

/* The jump cache knows most targets; their checked entries make sure of the mapping. */
static void *cached_target(struct bt_vcpu *v)
{
	u32 user = v->mode & MODE_USER;
	const struct bt_jc_entry *e = &v->jc[user][bt_jc_index(v->cpu.rip)];
	if (v->mode != v->jc_mode[user] || e->neg_gva != 0 - v->cpu.rip || !x86_canonical(v->cpu.rip))
		return NULL;
	return (void *)e->host;
}

static void remember_target(struct bt_vcpu *v, const struct bt_block *b)
{
	u32 user = b->mode & MODE_USER;
	if (v->jc_mode[user] != b->mode || bt_jc_index(b->gva) == 0)
		return;
	struct bt_jc_entry *e = &v->jc[user][bt_jc_index(b->gva)];
	e->neg_gva = 0 - b->gva;
	e->host = (u64)host(v, b->checked);
}

void *bt_dispatch(struct bt_vcpu *v)
{
	bt_stores_done(v);
	bt_update_mode(v);
	if (!must_leave(v) && !interrupt_waits(v) && !v->cpu.irq_shadow && !bt_direct_fits(v)) {
		void *h = cached_target(v);
		if (h) {
			past_shadows(v);
			return finish(v, h);
		}
	}
	struct bt_block *b;
	void *h = dispatch_to(v, &b);
	if (b)
		remember_target(v, b);
	return finish(v, h);
}

/* Does the block go on with look-ups that were made before, and are they gone? */
static bool lost_look_ups(const struct bt_vcpu *v, const struct place *p, const struct bt_insn_map *to)
{
	return (to->flags & INSN_SHARES) && (v->epoch != p->epoch || (to != p->m && (p->m->flags & INSN_FIRST)));
}

/* Go on behind the instruction, inside its block when nothing has changed. */
static void *resume(struct bt_vcpu *v, const struct place *p)
{
	const struct bt_block *b = p->b;
	bt_stores_done(v);
	if (b->dead || must_leave(v))
		return bt_dispatch(v);
	bt_update_mode(v);
	if (v->mode != (b->mode & ~(u32)MODE_CAREFUL) || v->cpu.rip != b->gva + p->m[1].guest || interrupt_waits(v))
		return bt_dispatch(v);
	if (lost_look_ups(v, p, &p->m[1]))
		return dispatch_careful(v);
	if (p->m[1].flags & (INSN_CLOSED | INSN_END))
		return bt_dispatch(v);
	past_shadows(v);
	return finish(v, middle(v, b, &p->m[1]));
}

static void *deliver(struct bt_vcpu *v)
{
	x86_deliver_fault(&v->cpu);
	return bt_dispatch(v);
}

/* ---- interpreting one instruction */

static bool interpret(struct bt_vcpu *v)
{
	bt_heavy(v);
	v->st.interp++;
	enum interp_result r = interp_step(v->interp, &v->cpu);
	bt_stores_done(v);
	switch (r) {
	case INTERP_OK:
		return true;
	case INTERP_HALT:
		v->halted = true;
		return false;
	case INTERP_FAULT:
		x86_deliver_fault(&v->cpu);
		return false;
	}
	return false;
}

void *bt_event_interp(struct bt_vcpu *v, u32 site)
{
	struct place p = place_of(v, site);
	if (!interpret(v))
		return bt_dispatch(v);
	return resume(v, &p);
}

/* The access crosses a page, or the stack pointer is odd: then nothing in the block may use its shortcuts. */
void *bt_event_straddle(struct bt_vcpu *v, u32 site)
{
	struct place p = place_of(v, site);
	v->st.straddles++;
	if ((v->cpu.gpr[R_RSP] & 7) == 0) {
		if (!interpret(v))
			return bt_dispatch(v);
		return resume(v, &p);
	}
	gva_t end = p.b->gva + p.b->bytes, last;
	do {
		last = v->cpu.rip;
		if (!interpret(v))
			break;
	} while (v->cpu.rip > last && v->cpu.rip < end && !must_leave(v) && !p.b->dead);
	return bt_dispatch(v);
}

void *bt_event_signal(struct bt_vcpu *v, u32 site)
{
	v->st.signals++;
	v->t3 = (u64)(bt_block_at(v, site) - v->blocks);
	place_of(v, site);
	interpret(v);
	return bt_dispatch(v); /* the block may have left work to the code between instructions */
}

/* ---- memory */

/* A store to a frame that holds code. Most often the page is no longer code, and all of it goes. Where code is written and executed in turns, stores
 * are looked at one by one; when many follow each other the frame has got another use. */
static bool drop_pays(struct bt_frame *f)
{
	if (__atomic_load_n(&f->kills, __ATOMIC_RELAXED) < BT_KILLS) {
		__atomic_add_fetch(&f->kills, 1, __ATOMIC_RELAXED);
		return true;
	}
	return __atomic_add_fetch(&f->stores, 1, __ATOMIC_RELAXED) % BT_STORES == 0;
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
	/* Not so when the frame is written often and executed in between: then store by store, and only what is hit is dropped. Nor when the
	 * entry lies outside RAM and cannot take the dirty bit: no page of the table would be entered. */
	if (write && !write_ok)
		return -1;
	bt_shadow_fill(v, gva, &x, page, write_ok);
	return 1;
}

static void *miss(struct bt_vcpu *v, u32 site, bool write)
{
	struct place p = place_of(v, site);
	if (kicked(v)) {
		v->cpu.irq_shadow = (p.m->flags & INSN_SHADOW) != 0;
		return bt_dispatch(v);
	}
	v->st.misses++;
	int r = x86_canonical(v->t1) ? bt_fill(v, v->t1, write) : -1; /* #GP or #SS: the interpreter knows which */
	if (r > 0 && lost_look_ups(v, &p, p.m))
		return dispatch_careful(v);
	if (r > 0)
		return p.b->dead ? bt_dispatch(v) : finish(v, middle(v, p.b, p.m));
	if (r == 0 && !(p.m->flags & INSN_EXACT_FAULT)) {
		v->st.misses_failed++;
		return deliver(v);
	}
	v->cpu.fault.pending = false;
	if (!interpret(v))
		return bt_dispatch(v);
	return resume(v, &p);
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
	const struct bt_exit *x = &v->exits[exit];
	u64 flushes = v->st.flushes;
	u32 mode = v->mode;
	gva_t to = x->gva;
	struct bt_block *from = bt_block_at(v, x->stub);
	gva_t from_gva = from->gva;
	v->cpu.rip = to;
	struct bt_block *b;
	void *h = dispatch_as(v, x->careful ? MODE_CAREFUL : 0, &b);
	if (b && b->gva == to && v->mode == mode && flushes == v->st.flushes && !from->dead && x->target == 0)
		bt_block_link(v, exit, b, x->checked || (from_gva ^ to) >> 12 != 0 || b->gpfn2);
	return finish(v, h);
}

/* What is left of an indirect call or return once its target is known. False: fault pending. */
static bool complete_jump(struct bt_vcpu *v, const struct place *p)
{
	struct x86_cpu *c = &v->cpu;
	if (p->m->flags & INSN_RET)
		c->gpr[R_RSP] += 8;
	if (p->m->flags & INSN_CALL) {
		if (!x86_write_val(c, c->gpr[R_RSP] - 8, 8, next_rip(p), x86_acc(c, ACC_WRITE)))
			return false;
		c->gpr[R_RSP] -= 8;
	}
	c->rip = v->target;
	return true;
}

void *bt_event_indirect(struct bt_vcpu *v, u32 site)
{
	v->st.indirect_misses++;
	struct place p = place_of(v, site);
	bool pushes = p.m->flags & INSN_CALL;
	if (!x86_canonical(v->target) || (pushes && !x86_canonical(v->cpu.gpr[R_RSP] - 8))) {
		interpret(v); /* raises the instruction's own fault */
		return bt_dispatch(v);
	}
	if (!complete_jump(v, &p))
		return deliver(v);
	struct bt_block *b;
	void *h = dispatch_to(v, &b);
	if (b)
		remember_target(v, b);
	return finish(v, h);
}

/* The return stack and the jump cache do not know where this return goes. */
void *bt_event_ret(struct bt_vcpu *v, u32 site)
{
	v->t3 = (u64)(bt_block_at(v, site) - v->blocks);
	place_of(v, site);
	v->st.indirect_misses++;
	if (!x86_canonical(v->t1)) {
		v->cpu.gpr[R_RSP] -= 8 + (v->t2 >> 32);
		interpret(v); /* faults at the return */
		return bt_dispatch(v);
	}
	v->cpu.rip = v->t1;
	struct bt_block *b;
	void *h = dispatch_to(v, &b);
	if (b)
		remember_target(v, b);
	return finish(v, h);
}

void *bt_event_goto(struct bt_vcpu *v, u32 unused)
{
	v->cpu.rip = v->target;
	return bt_dispatch(v);
}

/* A block was reached from elsewhere and its code page is not known to be mapped as it was. */
void *bt_event_itlb(struct bt_vcpu *v, u32 block)
{
	v->st.itlb_misses++;
	v->cpu.rip = v->blocks[block].gva;
	struct bt_block *b;
	return finish(v, dispatch_to(v, &b));
}

void *bt_event_poll(struct bt_vcpu *v, u32 site)
{
	place_of(v, site);
	/* Not back to the site: STI, CLI leaves an interrupt waiting that may not come, and the poll would find it again. */
	return bt_dispatch(v);
}

/* ---- system instructions */

static bool tsc_allowed(struct x86_cpu *c)
{
	if ((c->cr4 & CR4_TSD) && x86_cpl(c) != 0)
		return x86_raise_err(c, VEC_GP, 0);
	return true;
}

static bool light_tsc(struct bt_vcpu *v, bool aux)
{
	struct x86_cpu *c = &v->cpu;
	if (!tsc_allowed(c))
		return false;
	u64 t = bt_host_tsc() + v->tsc_offset + c->tsc_offset;
	c->gpr[R_RAX] = (u32)t;
	c->gpr[R_RDX] = t >> 32;
	if (aux)
		c->gpr[R_RCX] = (u32)c->msr.tsc_aux;
	return true;
}

static bool light_cpuid(struct bt_vcpu *v)
{
	struct x86_cpu *c = &v->cpu;
	u32 out[4];
	x86_cpuid(c, v->id, (u32)c->gpr[R_RAX], (u32)c->gpr[R_RCX], out);
	c->gpr[R_RAX] = out[0];
	c->gpr[R_RBX] = out[1];
	c->gpr[R_RCX] = out[2];
	c->gpr[R_RDX] = out[3];
	return true;
}

static bool light_rdmsr(struct x86_cpu *c)
{
	u64 val;
	if (!x86_rdmsr(c, (u32)c->gpr[R_RCX], &val))
		return false;
	c->gpr[R_RAX] = (u32)val;
	c->gpr[R_RDX] = val >> 32;
	return true;
}

static bool light_fsgsbase(struct x86_cpu *c, u32 op, u32 arg)
{
	if (!(c->cr4 & CR4_FSGSBASE))
		return x86_raise(c, VEC_UD);
	u64 *reg = &c->gpr[arg & 15];
	bool wide = arg & 16;
	u64 *base = &c->seg[op == LIGHT_RDFSBASE || op == LIGHT_WRFSBASE ? SEG_FS : SEG_GS].base;
	if (op == LIGHT_RDFSBASE || op == LIGHT_RDGSBASE) {
		*reg = wide ? *base : (u32)*base;
		return true;
	}
	u64 val = wide ? *reg : (u32)*reg;
	if (!x86_canonical(val))
		return x86_raise_err(c, VEC_GP, 0);
	*base = val;
	return true;
}

/* Returns false with a fault pending. rip is the instruction's on entry; *jumped tells that the operation set it. */
static bool light_op(struct bt_vcpu *v, u32 op, u32 arg, gva_t next, bool *jumped)
{
	struct x86_cpu *c = &v->cpu;
	*jumped = false;
	switch ((enum bt_light_op)op) {
	case LIGHT_SYSCALL:
		*jumped = true;
		return x86_syscall(c, next);
	case LIGHT_SYSRET:
		*jumped = true;
		return x86_sysret(c, arg);
	case LIGHT_IRET:
		*jumped = true;
		return x86_iret(c, arg);
	case LIGHT_SWAPGS:
		return true;
	case LIGHT_RDMSR:
		return light_rdmsr(c);
	case LIGHT_WRMSR:
		return x86_wrmsr(c, (u32)c->gpr[R_RCX], (u64)(u32)c->gpr[R_RDX] << 32 | (u32)c->gpr[R_RAX]);
	case LIGHT_CPUID:
		return light_cpuid(v);
	case LIGHT_RDTSC:
		return light_tsc(v, false);
	case LIGHT_RDTSCP:
		return light_tsc(v, true);
	case LIGHT_RDPID:
		c->gpr[arg & 15] = (u32)c->msr.tsc_aux;
		return true;
	case LIGHT_CLTS:
		return x86_write_cr(c, 0, c->cr0 & ~(u64)CR0_TS);
	case LIGHT_INVLPG:
		if (x86_canonical(v->target))
			bt_shadow_flush_page(v, v->target, -1);
		return true;
	case LIGHT_CLD:
		c->rflags &= ~(u64)FL_DF;
		return true;
	case LIGHT_STD:
		c->rflags |= FL_DF;
		return true;
	case LIGHT_RDFSBASE:
	case LIGHT_RDGSBASE:
	case LIGHT_WRFSBASE:
	case LIGHT_WRGSBASE:
		return light_fsgsbase(c, op, arg);
	case LIGHT_MOV_FROM_SEG:
		c->gpr[arg >> 4] = (arg & 8 ? c->gpr[arg >> 4] & ~(u64)0xffff : 0) | c->seg[arg & 7].sel;
		return true;
	case LIGHT_MOV_TO_SEG:
		return x86_load_seg(c, arg & 7, (u16)c->gpr[arg >> 4]);
	case LIGHT_MOV_FROM_CR:
		return x86_read_cr(c, arg & 15, &c->gpr[arg >> 4]);
	case LIGHT_MOV_TO_CR:
		return x86_write_cr(c, arg & 15, c->gpr[arg >> 4]);
	case LIGHT_PAUSE:
		bt_pause(v);
		return true;
	case LIGHT_STRING:
		break;
	}
	return true;
}

/* ---- MOVS and STOS, forward, page run by page run */

static u8 *reach(struct bt_vcpu *v, gva_t gva, bool write, int *why)
{
	const u64 *entry = &(v->mode & MODE_USER ? v->view[VIEW_USER][write] : v->super[write])[bt_entry_index(v->vm, gva)];
	*why = x86_canonical(gva) ? 1 : -1;
	if (*why > 0 && !bt_entry_address(gva, bt_entry_get(entry)))
		*why = bt_fill(v, gva, write);
	if (*why > 0 && !bt_entry_address(gva, bt_entry_get(entry)))
		*why = -1; /* entered for another view: never take an absent delta for an address */
	return *why > 0 ? bt_entry_address(gva, bt_entry_get(entry)) : NULL;
}

static u64 elements_in_page(gva_t gva, u32 size)
{
	return (PAGE_SIZE - PAGE_OFFSET(gva)) / size;
}

static void copy_run(u8 *to, const u8 *from, u64 n, u32 size)
{
	switch (size) {
	case 1:
		__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		break;
	case 2:
		__asm__ volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		break;
	case 4:
		__asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		break;
	default:
		__asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		break;
	}
}

static void fill_run(u8 *to, u64 value, u64 n, u32 size)
{
	switch (size) {
	case 1:
		__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
		break;
	case 2:
		__asm__ volatile("rep stosw" : "+D"(to), "+c"(n) : "a"(value) : "memory");
		break;
	case 4:
		__asm__ volatile("rep stosl" : "+D"(to), "+c"(n) : "a"(value) : "memory");
		break;
	default:
		__asm__ volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(value) : "memory");
		break;
	}
}

/* One page run. 1: done; 0: fault pending; -1: the interpreter must do the next element. */
static int string_run(struct bt_vcpu *v, u64 left, u32 size, bool movs, u64 *done)
{
	struct x86_cpu *c = &v->cpu;
	gva_t to = c->gpr[R_RDI], from = c->gpr[R_RSI];
	int why;
	u64 n = elements_in_page(to, size);
	if (movs && elements_in_page(from, size) < n)
		n = elements_in_page(from, size);
	if (n == 0)
		return -1;
	if (n > left)
		n = left;
	u8 *src = movs ? reach(v, from, false, &why) : NULL;
	if (movs && !src)
		return why;
	u8 *dst = reach(v, to, true, &why);
	if (!dst)
		return why;
	if (movs)
		copy_run(dst, src, n, size);
	else
		fill_run(dst, c->gpr[R_RAX], n, size);
	c->gpr[R_RDI] += n * size;
	if (movs)
		c->gpr[R_RSI] += n * size;
	*done = n;
	return 1;
}

static void *light_string(struct bt_vcpu *v, const struct place *p, u32 arg)
{
	struct x86_cpu *c = &v->cpu;
	u32 size = arg & 15;
	bool rep = arg & 16, movs = arg & 32;
	gva_t next = next_rip(p);
	for (;;) {
		u64 left = rep ? c->gpr[R_RCX] : 1, done = 0;
		if (left == 0)
			break;
		int r = string_run(v, left, size, movs, &done);
		if (r == 0)
			return deliver(v);
		if (r < 0) {
			c->fault.pending = false;
			if (!interpret(v))
				return bt_dispatch(v);
			if (c->rip == next)
				return resume(v, p);
			if (must_leave(v))
				return bt_dispatch(v);
			continue; /* REP: more to do; code may have been written */
		}
		if (rep)
			c->gpr[R_RCX] -= done;
		if (!rep)
			break;
		if (must_leave(v) && c->gpr[R_RCX])
			return bt_dispatch(v); /* interrupted between iterations, rip at the instruction */
	}
	c->rip = next;
	return resume(v, p);
}

void *bt_event_light(struct bt_vcpu *v, u32 site)
{
	u32 op = v->t1 & 0xff, arg = (u32)(v->t1 >> 8) & 0xffffff;
	struct place p = place_of(v, site);
	v->st.light++;
	if (op == LIGHT_STRING)
		return light_string(v, &p, arg);
	gva_t next = next_rip(&p);
	struct bt_aspace *as = v->as;
	bool jumped;
	if (!light_op(v, op, arg, next, &jumped))
		return deliver(v);
	if (jumped)
		return bt_dispatch(v);
	v->cpu.rip = next;
	if (as != v->as || op == LIGHT_MOV_TO_CR || op == LIGHT_INVLPG || op == LIGHT_WRMSR)
		return bt_dispatch(v); /* the code page itself may be mapped otherwise now */
	return resume(v, &p);
}
