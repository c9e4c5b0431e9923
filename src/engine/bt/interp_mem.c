/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the interpreter reaches guest memory: effective addresses, segments, alignment checks, and a small cache of host addresses in front
 * of x86_read_val and friends.
 *
 * An entry of that cache is only made for RAM pages, for one kind of access with one set of rights, when the walk allowed that access and
 * had set its accessed and dirty bits. It holds until the guest flushes any translation or changes the paging mode, as a TLB entry may.
 * What the walk refused is not remembered, so rights that were added count at once. A store through an entry still tells the engine,
 * because code may lie there. Accesses with data breakpoints armed, to MMIO or across pages take the slow way. Threading: the vCPU's
 * thread.
 */
#include "engine/bt/interp_private.h"
#include "x86/internal.h"

u64 interp_ea(const struct interp *in, const struct x86_cpu *c, const struct interp_insn *i)
{
	const struct interp_ea *m = &i->ea;
	u64 a = (u64)m->disp;

	if (m->base < 16)
		a += c->gpr[m->base];
	else if (m->base == IBASE_RIP)
		a += in->next_rip;
	if (m->index < 16 && !m->index_vec)
		a += c->gpr[m->index] * m->scale;
	return a & interp_mask(i->asize * 8u);
}

/* How data of `len` bytes must lie when alignment is checked, as AMD's CPUs do it: x87's ten bytes count as eight, vectors as sixteen. */
u32 interp_natural_alignment(u32 len)
{
	if (len & (len - 1))
		return len == 10 ? 8 : 1;
	return len < 16 ? len : 16;
}

bool interp_aligned(struct x86_cpu *c, gva_t lin, u32 align)
{
	if (likely(!(c->rflags & FL_AC) || !(c->cr0 & CR0_AM)) || x86_cpl(c) != 3 || !(lin & (align - 1)))
		return true;
	return x86_raise_err(c, VEC_AC, 0);
}

static bool canonical_range(u64 a, u32 len)
{
	return x86_canonical(a) && x86_canonical(a + len - 1);
}

bool interp_linear_any(struct x86_cpu *c, u32 seg, u64 off, u32 len, u32 acc, gva_t *lin)
{
	u64 a;

	if (!x86_code64(c))
		return x86_linear(c, seg, off, len, acc, lin);
	a = off + (seg >= SEG_FS ? c->seg[seg].base : 0);
	*lin = a;
	/* AMD's CPUs also look at the address before the base is added. */
	if (unlikely(seg >= SEG_FS && !canonical_range(off, len)) && x86_is_amd(c))
		return x86_raise_err(c, VEC_GP, 0);
	return likely(canonical_range(a, len)) || x86_linear(c, seg, off, len, acc, lin);
}

bool interp_linear(struct x86_cpu *c, u32 seg, u64 off, u32 len, u32 acc, gva_t *lin)
{
	return interp_linear_any(c, seg, off, len, acc, lin) && interp_aligned(c, *lin, interp_natural_alignment(len));
}

void interp_tlb_check(struct interp *in, const struct x86_cpu *c)
{
	if (!in->epoch)
		return;
	if (unlikely((in->seen_epoch ^ *in->epoch) | (in->seen_cr0 ^ c->cr0) | (in->seen_cr3 ^ c->cr3) | (in->seen_cr4 ^ c->cr4) |
		     (in->seen_efer ^ c->msr.efer))) {
		in->seen_epoch = *in->epoch;
		in->seen_cr0 = c->cr0;
		in->seen_cr3 = c->cr3;
		in->seen_cr4 = c->cr4;
		in->seen_efer = c->msr.efer;
		in->tlb_gen++;
	}
}

static const u32 tlb_acc[TLB_KINDS] = {ACC_READ, ACC_WRITE, ACC_FETCH};

/* The page and whose rights the access has: the CPL, and RFLAGS.AC for SMAP's sake. */
static u64 tlb_tag(const struct x86_cpu *c, gva_t lin)
{
	_Static_assert(FL_AC >> 16 == 4, "AC lies above the CPL in a tag");
	return PAGE_BASE(lin) | (c->rflags & FL_AC) >> 16 | x86_cpl(c);
}

static u8 *tlb_fill(struct interp *in, struct x86_cpu *c, gva_t lin, u64 tag, u32 kind, struct interp_tlb_entry *t)
{
	struct x86_xlat x;
	u8 *host;

	if (!x86_translate(c, lin, x86_acc(c, tlb_acc[kind]), &x)) {
		c->fault.pending = false; /* the slow way raises it again */
		return NULL;
	}
	host = c->env->ram(c->env->opaque, PAGE_BASE(x.gpa), kind == TLB_WRITE);
	if (!host)
		return NULL;
	*t = (struct interp_tlb_entry){.page = tag, .gen = in->tlb_gen, .host = host, .gpa = PAGE_BASE(x.gpa)};
	return host;
}

static inline void will_write(struct x86_cpu *c, gpa_t gpa, u32 size)
{
	if (c->env->ram_will_write)
		c->env->ram_will_write(c->env->opaque, gpa, size);
}

/* The engine's own translations, when it offers them. */
static u8 *engine_host(struct x86_cpu *c, gva_t lin, u32 kind)
{
	return c->env->cached ? c->env->cached(c->env->opaque, lin, x86_acc(c, tlb_acc[kind])) : NULL;
}

static u8 *find_host(struct interp *in, struct x86_cpu *c, gva_t lin, u32 size, u32 kind)
{
	struct interp_tlb_entry *t = &in->tlb[kind][(lin >> PAGE_SHIFT) & (TLB_SIZE - 1)];
	u64 tag = tlb_tag(c, lin);
	u8 *host = t->host;

	if (PAGE_OFFSET(lin) + size > PAGE_SIZE || (x86_watched(c) && kind != TLB_FETCH))
		return NULL;
	if (!in->epoch)
		return engine_host(c, lin, kind);
	if (t->page != tag || t->gen != in->tlb_gen) {
		if ((host = engine_host(c, lin, kind)))
			return host;
		host = tlb_fill(in, c, lin, tag, kind, t);
		if (!host)
			return NULL;
	}
	if (kind == TLB_WRITE)
		will_write(c, t->gpa + PAGE_OFFSET(lin), size);
	return host + PAGE_OFFSET(lin);
}

u8 *interp_host(struct interp *in, struct x86_cpu *c, gva_t lin, u32 size, u32 kind)
{
	u8 *host = find_host(in, c, lin, size, kind);

	if (host)
		x86_touch(c, host, size, kind == TLB_WRITE);
	return host;
}

/* Guest values lie at any address; the host's unit does not mind, the C language does. */
struct any16 {
	u16 v;
} __attribute__((packed, may_alias));
struct any32 {
	u32 v;
} __attribute__((packed, may_alias));
struct any64 {
	u64 v;
} __attribute__((packed, may_alias));

/* One access of the whole size, so that aligned values never tear. */
static inline u64 host_read(const u8 *p, u32 size)
{
	switch (size) {
	case 1:
		return *(const volatile u8 *)p;
	case 2:
		return ((const volatile struct any16 *)p)->v;
	case 4:
		return ((const volatile struct any32 *)p)->v;
	default:
		return ((const volatile struct any64 *)p)->v;
	}
}

static inline void host_write(u8 *p, u32 size, u64 v)
{
	switch (size) {
	case 1:
		*(volatile u8 *)p = (u8)v;
		break;
	case 2:
		((volatile struct any16 *)p)->v = (u16)v;
		break;
	case 4:
		((volatile struct any32 *)p)->v = (u32)v;
		break;
	default:
		((volatile struct any64 *)p)->v = v;
		break;
	}
}

static bool load_linear(struct interp *in, struct x86_cpu *c, gva_t lin, u32 size, u64 *v)
{
	const u8 *host = interp_host(in, c, lin, size, TLB_READ);

	if (!host)
		return x86_read_val(c, lin, size, v, x86_acc(c, ACC_READ));
	*v = host_read(host, size);
	return true;
}

static bool store_linear(struct interp *in, struct x86_cpu *c, gva_t lin, u32 size, u64 v)
{
	u8 *host = interp_host(in, c, lin, size, TLB_WRITE);

	if (!host)
		return x86_write_val(c, lin, size, v, x86_acc(c, ACC_WRITE));
	host_write(host, size, v);
	return true;
}

bool interp_load(struct interp *in, struct x86_cpu *c, u32 seg, u64 off, u32 size, u64 *v)
{
	gva_t lin;

	return interp_linear(c, seg, off, size, x86_acc(c, ACC_READ), &lin) && load_linear(in, c, lin, size, v);
}

bool interp_store(struct interp *in, struct x86_cpu *c, u32 seg, u64 off, u32 size, u64 v)
{
	gva_t lin;

	return interp_linear(c, seg, off, size, x86_acc(c, ACC_WRITE), &lin) && store_linear(in, c, lin, size, v);
}

bool interp_load_buf(struct x86_cpu *c, u32 seg, u64 off, u32 size, void *buf)
{
	gva_t lin;
	u32 acc = x86_acc(c, ACC_READ);

	return interp_linear(c, seg, off, size, acc, &lin) && x86_read(c, lin, buf, size, acc);
}

bool interp_store_buf(struct x86_cpu *c, u32 seg, u64 off, u32 size, const void *buf)
{
	gva_t lin;
	u32 acc = x86_acc(c, ACC_WRITE);

	return interp_linear(c, seg, off, size, acc, &lin) && x86_write(c, lin, buf, size, acc);
}

bool interp_probe_write(struct x86_cpu *c, gva_t lin, u32 size)
{
	struct x86_xlat x;
	u32 acc = x86_acc(c, ACC_WRITE);

	if (!x86_translate(c, lin, acc, &x))
		return false;
	return PAGE_OFFSET(lin) + size <= PAGE_SIZE || x86_translate(c, PAGE_BASE(lin + size - 1), acc, &x);
}

#define HOST_CMPXCHG(suffix, type, val)                                                                                                    \
	__asm__ volatile("lock cmpxchg" suffix " %3, %1" : "+a"(old), "+m"(*(type *)p), "=@ccz"(ok) : "q"(val) : "memory")

static bool host_cmpxchg(u8 *p, u32 size, u64 *expect, u64 v)
{
	u64 old = *expect;
	bool ok;

	switch (size) {
	case 1:
		HOST_CMPXCHG("b", u8, (u8)v);
		break;
	case 2:
		HOST_CMPXCHG("w", struct any16, (u16)v);
		break;
	case 4:
		HOST_CMPXCHG("l", struct any32, (u32)v);
		break;
	default:
		HOST_CMPXCHG("q", struct any64, v);
		break;
	}
	*expect = old & interp_mask(size * 8);
	return ok;
}

static void modify_host(u8 *host, u32 size, struct interp_alu *x, interp_alu_fn *f, bool locked)
{
	u64 flags = x->flags, old = host_read(host, size);

	do {
		u64 r;

		x->a = old;
		x->flags = flags;
		r = f(x);
		if (!locked) {
			host_write(host, size, r);
			return;
		}
		if (host_cmpxchg(host, size, &old, r))
			return;
	} while (true);
}

static bool modify_slow(struct x86_cpu *c, gva_t lin, u32 size, struct interp_alu *x, interp_alu_fn *f, bool locked)
{
	u64 flags = x->flags, old, r;
	bool done = false;

	if (!interp_probe_write(c, lin, size) || !x86_read_val(c, lin, size, &old, x86_acc(c, ACC_READ)))
		return false;
	do {
		x->a = old;
		x->flags = flags;
		r = f(x);
		if (!locked)
			return x86_write_val(c, lin, size, r, x86_acc(c, ACC_WRITE));
		if (!x86_cmpxchg(c, lin, size, x->a, r, &old, &done, x86_acc(c, ACC_WRITE)))
			return false;
	} while (!done);
	return true;
}

bool interp_modify_at(struct interp *in, struct x86_cpu *c, u32 seg, u64 off, u32 size, struct interp_alu *x, interp_alu_fn *f, bool locked)
{
	gva_t lin;
	u8 *host;

	x->bits = size * 8;
	x->flags = c->rflags;
	if (!interp_linear(c, seg, off, size, x86_acc(c, ACC_WRITE), &lin))
		return false;
	host = interp_host(in, c, lin, size, TLB_WRITE);
	if (host)
		modify_host(host, size, x, f, locked);
	else if (!modify_slow(c, lin, size, x, f, locked))
		return false;
	c->rflags = x->flags;
	return true;
}

bool interp_modify(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, struct interp_alu *x, interp_alu_fn *f, bool locked)
{
	const struct interp_opnd *o = &i->op[0];

	if (o->kind != IOP_GPR)
		return interp_modify_at(in, c, i->ea.seg, interp_ea(in, c, i), o->size, x, f, locked || i->lock);
	x->bits = o->size * 8u;
	x->flags = c->rflags;
	x->a = interp_get_gpr(c, o);
	interp_set_gpr(c, o, f(x));
	c->rflags = x->flags;
	return true;
}

bool interp_get(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, u32 k, u64 *v)
{
	const struct interp_opnd *o = &i->op[k];

	switch (o->kind) {
	case IOP_GPR:
		*v = interp_get_gpr(c, o);
		return true;
	case IOP_IMM:
		*v = o->imm;
		return true;
	case IOP_SEG:
		*v = c->seg[o->reg].sel;
		return true;
	default:
		return interp_load(in, c, i->ea.seg, interp_ea(in, c, i), o->size, v);
	}
}

bool interp_put(struct interp *in, struct x86_cpu *c, const struct interp_insn *i, u32 k, u64 v)
{
	const struct interp_opnd *o = &i->op[k];

	if (o->kind == IOP_GPR) {
		interp_set_gpr(c, o, v);
		return true;
	}
	return interp_store(in, c, i->ea.seg, interp_ea(in, c, i), o->size, v);
}
