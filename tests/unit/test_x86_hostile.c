/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random descriptor tables, page tables, registers and selectors against every rule. Whatever a guest sets up: the call returns, RAM
 * accesses stay inside RAM, a refusal records a fault and leaves the registers as they were, a success leaves a consistent CPU.
 */
#include "x86_machine.h"

#define ROUNDS 60000u

static u64 seed = 0x9e3779b97f4a7c15ull;

static u64 rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static u32 below(u32 n)
{
	return (u32)(rnd() % n);
}

/* Values that sit on edges as often as anywhere. */
static u64 edgy(void)
{
	static const u64 edges[] = {0,	   1,	    0xffff,  0x10000,	0xffffffff, 0x7fffffffffff, 0x800000000000, 0xffff800000000000,
				    ~0ull, M_STACK, 0x30000, M_RAM - 4, M_DEVICE,   0x50ffc};

	return below(3) ? edges[below(ARRAY_SIZE(edges))] + below(3) - 1 : rnd();
}

static u16 selector(void)
{
	return (u16)(below(8) ? below(0xa0) : rnd());
}

static void scramble_tables(struct machine *m)
{
	static const u32 bases[] = {M_GDT, M_IDT, M_TSS};

	for (u32 i = below(12); i; i--) {
		u32 at = bases[below(3)] + (u32)below(0x100);

		m->ram[at] = (u8)rnd();
	}
	for (u32 i = below(3); i; i--)
		m->ram[M_PML4 + below(4) * 0x1000 + below(0x300)] ^= (u8)(1u << below(8));
}

static void scramble_cpu(struct machine *m)
{
	struct x86_cpu *c = &m->c;

	if (below(2))
		m_user64(m);
	else if (!below(3))
		m_cpl(m, S_UCODE32, S_UDATA, 3, SEGA_DB);
	for (u32 i = 0; i < 16; i++)
		c->gpr[i] = edgy();
	if (below(4))
		c->gpr[R_RSP] = M_STACK + below(64);
	c->rflags = (rnd() & (FL_ARITH | FL_IOPL | FL_NT | FL_AC | FL_IF | FL_TF | FL_DF)) | FL_ONE;
	if (!below(4))
		c->rflags &= ~(u64)FL_NT;
	c->cr4 |= rnd() & (CR4_SMEP | CR4_SMAP);
	c->msr.star = rnd();
	c->msr.lstar = 0x5000;
	c->msr.sysenter_cs = selector();
	if (!below(4))
		c->tr.limit = below(0x80);
	if (!below(4))
		c->gdt.limit = (u16)below(0x100);
	if (!below(4))
		c->idt.limit = (u16)rnd();
	m_vendor(m, below(2));
}

/* Tasks to switch to, so that scrambling them leads somewhere: two TSSs in scramble_tables' reach, gates in both tables, a back link. */
static void add_tasks(struct machine *m)
{
	static const u32 tss[] = {M_TSS + 0x70, M_TSS + 0x98};
	static const u32 fields[][2] = {{0x20, 0x5000},	  {0x24, FL_ONE}, {0x38, M_STACK}, {0x48, S_DATA},
					{0x4c, S_CODE32}, {0x50, S_DATA}, {0x54, S_DATA}};

	for (u32 i = 0; i < ARRAY_SIZE(tss); i++) {
		for (u32 k = 0; k < ARRAY_SIZE(fields); k++)
			memcpy(m->ram + tss[i] + fields[k][0], &fields[k][1], 4);
		m_desc(m, S_GATE + i * 8, 0x67 | (u64)tss[i] << 16 | (u64)0xe9 << 40);
	}
	m_desc(m, S_LDT, (u64)S_GATE << 16 | (u64)0xe5 << 40);
	for (u32 v = 0; v < 256; v++)
		m_gate32(m, v, v % 3 ? 0x5000 : 0, v % 3 ? S_CODE32 : S_GATE + v % 2 * 8, v % 3 ? 0xe : 5, 3);
	m->ram[M_TSS] = S_GATE;
}

/* The modes a run starts from; below long mode nothing of long mode may be left. */
static void start(struct machine *m, u32 mode)
{
	if (mode == 0) {
		m_long(m);
	} else {
		m_prot32(m);
		add_tasks(m);
		if (mode == 2) {
			m->c.cr0 &= ~(u64)CR0_PE;
			m->c.seg[SEG_CS].attr &= ~SEGA_L;
		}
	}
}

static const u32 sizes[] = {2, 4, 8};

static bool call_one(struct x86_cpu *c, u32 which, u32 size)
{
	u64 v = 0, old = 0;
	u32 u;
	gva_t a;
	bool done;

	switch (which) {
	case 0:
		return x86_load_seg(c, (u32[]){SEG_ES, SEG_SS, SEG_DS, SEG_FS, SEG_GS}[below(5)], selector());
	case 1:
		return x86_lldt(c, selector());
	case 2:
		return x86_ltr(c, selector());
	case 3:
		return x86_far_jump(c, selector(), edgy(), size, c->rip + 7);
	case 4:
		return x86_far_call(c, selector(), edgy(), size, c->rip + 7);
	case 5:
		return x86_far_ret(c, size, (u16)rnd());
	case 6:
		return x86_iret(c, size, c->rip + 1);
	case 7:
		return x86_syscall(c, c->rip + 2);
	case 8:
		return x86_sysret(c, size == 8 ? 8 : 4);
	case 9:
		return x86_sysenter(c, c->rip + 2);
	case 10:
		return x86_sysexit(c, size == 8 ? 8 : 4);
	case 11:
		return x86_soft_interrupt(c, (u8)rnd(), c->rip + 2);
	case 12:
		return x86_set_flags(c, rnd(), size);
	case 13:
		return x86_write_cr(c, below(9), below(2) ? edgy() : (u64)1 << below(64));
	case 14:
		return x86_wrmsr(c, (u32[]){0xc0000080, 0x277, 0x2ff, 0x200, 0x201, 0x250, 0xc0000100, 0x10}[below(8)], edgy());
	case 15:
		return x86_rdmsr(c, (u32)rnd(), &v);
	case 16:
		return x86_write_dr(c, below(9), edgy());
	case 17:
		return x86_invpcid(c, below(5), edgy());
	case 18:
		return x86_io_allowed(c, (u16)rnd(), 1u << below(3));
	case 19:
		return x86_read_val(c, edgy(), size, &v, x86_acc(c, ACC_READ));
	case 20:
		return x86_write_val(c, edgy(), size, v, x86_acc(c, ACC_WRITE));
	case 21:
		return x86_cmpxchg(c, edgy(), size, v, v + 1, &old, &done, x86_acc(c, ACC_WRITE));
	case 22:
		return x86_linear(c, below(6), edgy() & (x86_code64(c) ? ~0ull : 0xffffffff), 1 + below(64), ACC_READ, &a);
	case 23:
		x86_lar(c, selector(), &u);
		return !c->fault.pending;
	case 24:
		x86_verify(c, selector(), below(2));
		return !c->fault.pending;
	default:
		return x86_xsetbv(c, below(2), edgy());
	}
}

#define CALLS 26u
#define CALL_SYSRET 8u

/* A RIP that AMD's SYSRET left for the next fetch to refuse may stay while other calls leave it alone. */
static void check_consistent(const struct machine *m, u32 which, u64 old_rip)
{
	const struct x86_cpu *c = &m->c;

	assert_true(c->rflags & FL_ONE);
	if (x86_protected(c) && !(c->rflags & FL_VM) && which >= 3 && which <= 11 && (c->seg[SEG_CS].sel & 3) != x86_cpl(c))
		fail_msg("call %u left CPL %u with CS %#x", which, x86_cpl(c), c->seg[SEG_CS].sel);
	if (c->rip == old_rip || which == CALL_SYSRET)
		return;
	if (x86_code64(c) && !x86_canonical(c->rip))
		fail_msg("call %u left rip %#lx", which, c->rip);
	if (!x86_code64(c) && c->rip >> 32)
		fail_msg("call %u left rip %#lx outside 64-bit code", which, c->rip);
}

static void check_unchanged(const struct x86_cpu *now, const struct x86_cpu *before, u32 which)
{
	if (memcmp(now->gpr, before->gpr, sizeof(now->gpr)) || now->rip != before->rip || now->rflags != before->rflags ||
	    memcmp(now->seg, before->seg, sizeof(now->seg)) || now->cr0 != before->cr0 || now->cr3 != before->cr3 ||
	    now->cr4 != before->cr4)
		fail_msg("call %u refused, but changed the CPU", which);
}

static void test_rules(void **state)
{
	static struct x86_cpu before;
	struct machine m;
	u32 switches = 0;

	for (u32 mode = 0; mode < 3; mode++) {
		start(&m, mode);
		for (u32 i = 0; i < ROUNDS; i++) {
			u32 which = below(CALLS);

			if (i % 64 == 0) {
				m_free(&m);
				start(&m, mode);
				scramble_tables(&m);
				scramble_cpu(&m);
			}
			m.c.task_switched = false;
			before = m.c;
			if (call_one(&m.c, which, sizes[below(mode ? 2 : 3)])) {
				assert_false(m.c.fault.pending);
				check_consistent(&m, which, before.rip);
				switches += m.c.task_switched;
			} else {
				if (!m.c.fault.pending)
					fail_msg("call %u refused without a fault", which);
				if (!m.c.task_switched)
					check_unchanged(&m.c, &before, which);
				switches += m.c.task_switched;
				if (below(2))
					x86_deliver_fault(&m.c);
				assert_true(!m.c.fault.pending || m.c.fault.vector < 32);
				if (m.c.triple_fault)
					i |= 63; /* start anew */
			}
			m.c.fault.pending = false;
		}
		m_free(&m);
	}
	assert_true(switches > 100);
}

static void test_interrupts_always_end(void **state)
{
	struct machine m;
	u32 shutdowns = 0;

	for (u32 i = 0; i < ROUNDS / 10; i++) {
		start(&m, below(3));
		scramble_tables(&m);
		scramble_cpu(&m);
		x86_interrupt(&m.c, (u8)rnd(), (enum x86_int_kind)below(4), below(2), (u32)rnd());
		assert_false(m.c.fault.pending);
		shutdowns += m.c.triple_fault;
		if (!m.c.triple_fault)
			check_consistent(&m, 6, 0x5000);
		m_free(&m);
	}
	assert_true(shutdowns > 0 && shutdowns < ROUNDS / 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rules),
		cmocka_unit_test(test_interrupts_always_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
