/* SPDX-License-Identifier: Apache-2.0 */
/* Local APICs: registers in both modes, priorities, IPIs and MSIs, the timer's three modes. */
#include "hw_machine.h"

#include "hw/lapic.h"

#include <pthread.h>
#include <sched.h>

enum {
	ID = 0x20,
	VERSION = 0x30,
	TPR = 0x80,
	PPR = 0xa0,
	EOI = 0xb0,
	LDR = 0xd0,
	DFR = 0xe0,
	SVR = 0xf0,
	ISR = 0x100,
	TMR = 0x180,
	IRR = 0x200,
	ESR = 0x280,
	ICR = 0x300,
	ICR_HIGH = 0x310,
	LVT_TIMER = 0x320,
	LVT_LINT0 = 0x350,
	LVT_ERROR = 0x370,
	TIMER_INIT = 0x380,
	TIMER_CURRENT = 0x390,
	TIMER_DIVIDE = 0x3e0
};

struct cpus {
	struct machine *m;
	struct lapic_set *s;
	u32 irqs[MACHINE_CPUS], nmis[MACHINE_CPUS], inits[MACHINE_CPUS], sipis[MACHINE_CPUS];
	u8 sipi_vector, eoi_vector;
	u32 eois;
	u64 tsc;
};

static void on_irq(void *opaque, u32 cpu)
{
	((struct cpus *)opaque)->irqs[cpu]++;
}
static void on_nmi(void *opaque, u32 cpu)
{
	((struct cpus *)opaque)->nmis[cpu]++;
}
static void on_init(void *opaque, u32 cpu)
{
	((struct cpus *)opaque)->inits[cpu]++;
}
static void on_sipi(void *opaque, u32 cpu, u8 vector)
{
	((struct cpus *)opaque)->sipis[cpu]++;
	((struct cpus *)opaque)->sipi_vector = vector;
}
static u64 on_tsc(void *opaque, u32 cpu)
{
	struct cpus *c = opaque;

	return c->tsc ? c->tsc : vclock_now(&c->m->clock) * 5 / 2;
}
static void on_eoi(void *opaque, u8 vector)
{
	((struct cpus *)opaque)->eois++;
	((struct cpus *)opaque)->eoi_vector = vector;
}

static u32 rd(struct cpus *c, u32 cpu, u32 off)
{
	return (u32)lapic_mmio_read(c->s, cpu, off, 4);
}
static void wr(struct cpus *c, u32 cpu, u32 off, u32 v)
{
	lapic_mmio_write(c->s, cpu, off, 4, v);
}
static bool rdmsr(struct cpus *c, u32 cpu, u32 msr, u64 *v)
{
	return lapic_msr_read(c->s, cpu, msr, v);
}
static bool wrmsr(struct cpus *c, u32 cpu, u32 msr, u64 v)
{
	return lapic_msr_write(c->s, cpu, msr, v);
}
static void x2apic_all(struct cpus *c)
{
	for (u32 i = 0; i < MACHINE_CPUS; i++)
		assert_true(wrmsr(c, i, 0x1b, 0xfee00c00));
}

static int setup(void **state)
{
	struct cpus *c = calloc(1, sizeof(*c));

	c->m = machine_new();
	machine_plug(c->m, "lapic", NULL);
	c->s = machine_lookup(c->m, "lapic");
	lapic_set_vcpu_ops(c->s, &(struct lapic_vcpu_ops){c, on_irq, on_nmi, on_init, on_sipi, on_tsc});
	lapic_set_eoi_handler(c->s, on_eoi, c);
	for (u32 i = 0; i < MACHINE_CPUS; i++)
		wr(c, i, SVR, 0x1ff);
	*state = c;
	return 0;
}

static int teardown(void **state)
{
	struct cpus *c = *state;

	machine_free(c->m);
	free(c);
	return 0;
}

static void power_on_values(void **state)
{
	struct cpus *c = *state;
	u64 v;

	c->m->dev[0]->cls->reset(c->m->dev[0]);
	assert_int_equal(rd(c, 2, ID), 2 << 24);
	assert_int_equal(rd(c, 0, VERSION), 0x01050014);
	assert_int_equal(rd(c, 0, SVR), 0xff);
	assert_int_equal(rd(c, 0, DFR), 0xffffffff);
	assert_int_equal(rd(c, 0, LVT_TIMER), 0x10000);
	assert_int_equal(rd(c, 0, LVT_LINT0), 0x10000);
	assert_int_equal(rd(c, 0, TIMER_CURRENT), 0);
	assert_true(rdmsr(c, 0, 0x1b, &v) && v == 0xfee00900);
	assert_true(rdmsr(c, 1, 0x1b, &v) && v == 0xfee00800);
	assert_false(lapic_irq_pending(c->s, 0));
	assert_int_equal(lapic_irq_accept(c->s, 0), -1);
}

static void priorities(void **state)
{
	struct cpus *c = *state;

	lapic_msi(c->s, 0xfee00000, 0x51);
	lapic_msi(c->s, 0xfee00000, 0x42);
	assert_true(lapic_irq_pending(c->s, 0));
	assert_int_equal(c->irqs[0], 2);
	assert_int_equal(rd(c, 0, IRR + 0x20), 1 << 0x11 | 1 << 2);
	assert_int_equal(lapic_irq_accept(c->s, 0), 0x51);
	assert_int_equal(rd(c, 0, PPR), 0x50);
	assert_int_equal(rd(c, 0, ISR + 0x20), 1 << 0x11);
	assert_false(lapic_irq_pending(c->s, 0)); /* 0x42 is below */
	lapic_msi(c->s, 0xfee00000, 0x5f);
	assert_false(lapic_irq_pending(c->s, 0)); /* same class */
	lapic_msi(c->s, 0xfee00000, 0x60);
	assert_int_equal(lapic_irq_accept(c->s, 0), 0x60);
	wr(c, 0, EOI, 0);
	assert_int_equal(rd(c, 0, PPR), 0x50);
	wr(c, 0, EOI, 0);
	assert_int_equal(lapic_irq_accept(c->s, 0), 0x5f);
	wr(c, 0, EOI, 0);
	assert_int_equal(lapic_irq_accept(c->s, 0), 0x42);
	wr(c, 0, EOI, 0);
	wr(c, 0, EOI, 0); /* nothing in service: no effect */
	assert_int_equal(c->eois, 0);

	lapic_set_tpr(c->s, 0, 7);
	assert_int_equal(rd(c, 0, TPR), 0x70);
	assert_int_equal(lapic_get_tpr(c->s, 0), 7);
	lapic_msi(c->s, 0xfee00000, 0x7f);
	assert_false(lapic_irq_pending(c->s, 0));
	c->irqs[0] = 0;
	wr(c, 0, TPR, 0x6f);
	assert_int_equal(rd(c, 0, PPR), 0x6f);
	assert_true(lapic_irq_pending(c->s, 0));
	assert_int_equal(c->irqs[0], 1);
}

static void level_triggered_eoi(void **state)
{
	struct cpus *c = *state;

	lapic_msi(c->s, 0xfee00000, 0x51 | 0xc000);
	assert_int_equal(rd(c, 0, TMR + 0x20), 1 << 0x11);
	assert_int_equal(lapic_irq_accept(c->s, 0), 0x51);
	wr(c, 0, EOI, 0);
	assert_int_equal(c->eois, 1);
	assert_int_equal(c->eoi_vector, 0x51);
	/* The same vector as an edge clears TMR; suppression works for level. */
	lapic_msi(c->s, 0xfee00000, 0x51);
	assert_int_equal(rd(c, 0, TMR + 0x20), 0);
	lapic_irq_accept(c->s, 0);
	wr(c, 0, EOI, 0);
	assert_int_equal(c->eois, 1);
	wr(c, 0, SVR, 0x11ff);
	lapic_msi(c->s, 0xfee00000, 0x51 | 0xc000);
	lapic_irq_accept(c->s, 0);
	wr(c, 0, EOI, 0);
	assert_int_equal(c->eois, 1);
}

/* Which CPUs hold a vector in IRR? Takes it out again by INIT-free means: accept and EOI. */
static u32 receivers(struct cpus *c)
{
	u32 mask = 0;

	for (u32 i = 0; i < MACHINE_CPUS; i++) {
		while (lapic_irq_accept(c->s, i) >= 0) {
			mask |= 1u << i;
			lapic_mmio_write(c->s, i, EOI, 4, 0);
		}
	}
	return mask;
}

static u32 receivers_x2(struct cpus *c)
{
	u32 mask = 0;

	for (u32 i = 0; i < MACHINE_CPUS; i++) {
		while (lapic_irq_accept(c->s, i) >= 0) {
			mask |= 1u << i;
			assert_true(wrmsr(c, i, 0x80b, 0));
		}
	}
	return mask;
}

static void xapic_destinations(void **state)
{
	struct cpus *c = *state;

	lapic_msi(c->s, 0xfee02000, 0x41);
	assert_int_equal(receivers(c), 1 << 2);
	lapic_msi(c->s, 0xfee09000, 0x41); /* no such CPU */
	assert_int_equal(receivers(c), 0);
	lapic_msi(c->s, 0xfeeff000, 0x41);
	assert_int_equal(receivers(c), 0xf);
	lapic_msi(c->s, 0x1fee02000, 0x41); /* not the APIC's range */
	assert_int_equal(receivers(c), 0);

	for (u32 i = 0; i < MACHINE_CPUS; i++)
		wr(c, i, LDR, 1u << (24 + i));
	lapic_msi(c->s, 0xfee06004, 0x41); /* flat logical: CPUs 1 and 2 */
	assert_int_equal(receivers(c), 6);
	for (u32 i = 0; i < MACHINE_CPUS; i++) {
		wr(c, i, DFR, 0x0fffffff);
		wr(c, i, LDR, (i / 2) << 28 | 1u << (24 + i % 2));
	}
	lapic_msi(c->s, 0xfee13004, 0x41); /* cluster 1, both */
	assert_int_equal(receivers(c), 0xc);
	lapic_msi(c->s, 0xfee02004, 0x41); /* cluster 0, second */
	assert_int_equal(receivers(c), 2);

	/* IPIs: physical, self, all, all but self */
	wr(c, 1, ICR_HIGH, 3 << 24);
	wr(c, 1, ICR, 0x4041);
	assert_int_equal(receivers(c), 8);
	assert_int_equal(rd(c, 1, ICR), 0x4041);
	wr(c, 1, ICR, 0x44041);
	assert_int_equal(receivers(c), 2);
	wr(c, 1, ICR, 0x84041);
	assert_int_equal(receivers(c), 0xf);
	wr(c, 1, ICR, 0xc4041);
	assert_int_equal(receivers(c), 0xd);
}

static void lowest_priority(void **state)
{
	struct cpus *c = *state;
	u32 seen = 0;

	lapic_set_tpr(c->s, 0, 5);
	lapic_set_tpr(c->s, 1, 3);
	lapic_set_tpr(c->s, 2, 4);
	lapic_set_tpr(c->s, 3, 5);
	lapic_msi(c->s, 0xfeeff000, 0x161);
	assert_int_equal(receivers(c), 2);
	for (u32 i = 0; i < MACHINE_CPUS; i++)
		lapic_set_tpr(c->s, i, 0);
	for (u32 i = 0; i < MACHINE_CPUS; i++) {
		u32 mask;

		lapic_msi(c->s, 0xfeeff000, 0x161);
		mask = receivers(c);
		assert_int_equal(__builtin_popcount(mask), 1);
		seen |= mask;
	}
	assert_int_equal(seen, 0xf); /* taking turns */
	/* A software-disabled APIC is no candidate. */
	wr(c, 0, SVR, 0xff);
	wr(c, 1, SVR, 0xff);
	wr(c, 2, SVR, 0xff);
	lapic_msi(c->s, 0xfeeff000, 0x161);
	assert_int_equal(receivers(c), 8);
	wr(c, 3, SVR, 0xff);
	lapic_msi(c->s, 0xfeeff000, 0x161);
	assert_int_equal(receivers(c), 0);
}

static void nmi_init_sipi(void **state)
{
	struct cpus *c = *state;

	wr(c, 0, LDR, 0x01000000);
	wr(c, 1, LVT_TIMER, 0x20000 | 0x50);
	wr(c, 0, ICR_HIGH, 1 << 24);
	wr(c, 0, ICR, 0x4400);
	assert_int_equal(c->nmis[1], 1);
	wr(c, 0, ICR, 0xc500); /* INIT, level assert */
	assert_int_equal(c->inits[1], 1);
	assert_int_equal(rd(c, 1, SVR), 0xff); /* INIT resets the LAPIC */
	assert_int_equal(rd(c, 1, LVT_TIMER), 0x10000);
	wr(c, 0, ICR, 0x8500); /* de-assert */
	assert_int_equal(c->inits[1], 1);
	wr(c, 0, ICR, 0x4699);
	assert_int_equal(c->sipis[1], 1);
	assert_int_equal(c->sipi_vector, 0x99);
	wr(c, 0, ICR, 0xc4500); /* all but self */
	assert_int_equal(c->inits[0], 0);
	assert_int_equal(c->inits[3], 1);
	/* Fixed interrupts do not reach them now, NMIs do. */
	lapic_msi(c->s, 0xfee01000, 0x41);
	lapic_msi(c->s, 0xfee01000, 0x441);
	assert_int_equal(receivers(c), 0);
	assert_int_equal(c->nmis[1], 2);
	lapic_msi(c->s, 0xfee01000, 0x641); /* SIPI is nothing for an MSI */
	lapic_msi(c->s, 0xfee01000, 0x241); /* SMI */
	lapic_msi(c->s, 0xfee01000, 0x741); /* ExtINT */
	assert_int_equal(c->sipis[1], 1);
}

static void errors(void **state)
{
	struct cpus *c = *state;

	wr(c, 0, LVT_ERROR, 0xfe);
	wr(c, 0, ICR, 0x4005); /* illegal vector */
	assert_int_equal(rd(c, 0, ESR), 0);
	wr(c, 0, ESR, 0);
	assert_int_equal(rd(c, 0, ESR), 0x20);
	assert_int_equal(lapic_irq_accept(c->s, 0), 0xfe);
	wr(c, 0, EOI, 0);
	wr(c, 0, ESR, 0);
	assert_int_equal(rd(c, 0, ESR), 0);
	lapic_msi(c->s, 0xfee00000, 0x0f);
	wr(c, 0, ESR, 0);
	assert_int_equal(rd(c, 0, ESR), 0x40);
	rd(c, 0, 0x3d0);
	wr(c, 0, 0x0, 1);
	wr(c, 0, ESR, 0);
	assert_int_equal(rd(c, 0, ESR), 0x80);
	/* An error entry with an illegal vector must not feed itself. */
	lapic_irq_accept(c->s, 0);
	wr(c, 0, EOI, 0);
	wr(c, 0, LVT_ERROR, 0x05);
	wr(c, 0, ICR, 0x4005);
	wr(c, 0, ESR, 0);
	assert_int_equal(rd(c, 0, ESR), 0x60);
	assert_false(lapic_irq_pending(c->s, 0));
}

static void odd_accesses(void **state)
{
	struct cpus *c = *state;

	assert_int_equal(lapic_mmio_read(c->s, 1, ID + 3, 1), 1);
	assert_int_equal(lapic_mmio_read(c->s, 1, ID + 4, 4), 0);
	assert_int_equal(lapic_mmio_read(c->s, 1, ID + 2, 4), 0);
	assert_true(lapic_mmio_read(c->s, 1, 0x1000, 4) == ~0ull);
	lapic_mmio_write(c->s, 1, TPR, 1, 0xff);
	lapic_mmio_write(c->s, 1, TPR + 4, 4, 0xff);
	lapic_mmio_write(c->s, 1, 0xffffffff, 4, 0xff);
	assert_int_equal(rd(c, 1, TPR), 0);
	lapic_mmio_write(c->s, 1, TPR, 8, 0xffffffff00000030);
	assert_int_equal(rd(c, 1, TPR), 0x30);
	for (u32 off = 0; off < 0x1000; off++) {
		for (u32 size = 1; size <= 8; size *= 2)
			lapic_mmio_read(c->s, 1, off, size);
	}
}

static void soft_disable_masks(void **state)
{
	struct cpus *c = *state;

	wr(c, 0, LVT_LINT0, 0x700);
	assert_int_equal(rd(c, 0, LVT_LINT0), 0x700);
	wr(c, 0, SVR, 0xff);
	assert_int_equal(rd(c, 0, LVT_LINT0), 0x10700);
	wr(c, 0, LVT_LINT0, 0x700);
	assert_int_equal(rd(c, 0, LVT_LINT0), 0x10700);
	wr(c, 0, SVR, 0x1ff);
	wr(c, 0, LVT_LINT0, 0xffffffff);
	assert_int_equal(rd(c, 0, LVT_LINT0), 0x1a7ff);
}

static void base_transitions(void **state)
{
	struct cpus *c = *state;
	gpa_t page;
	u64 v;

	assert_true(lapic_page(c->s, 0, &page) && page == 0xfee00000);
	assert_false(wrmsr(c, 0, 0x1b, 0xfee00401)); /* reserved bit */
	assert_false(wrmsr(c, 0, 0x1b, 0xfee00400)); /* x2APIC without enable */
	assert_false(wrmsr(c, 0, 0x1b, 1ull << 60 | 0xfee00800));
	assert_true(wrmsr(c, 0, 0x1b, 0xfee00c00));
	assert_true(rdmsr(c, 0, 0x1b, &v) && v == 0xfee00d00); /* BSP stays */
	assert_false(lapic_page(c->s, 0, &page));
	assert_int_equal(rd(c, 0, ID), 0xffffffff);
	assert_false(wrmsr(c, 0, 0x1b, 0xfee00800)); /* not straight back */
	assert_true(wrmsr(c, 0, 0x1b, 0xfee00000));
	assert_false(wrmsr(c, 0, 0x1b, 0xfee00c00)); /* not straight on */
	assert_true(wrmsr(c, 0, 0x1b, 0xfed00800));
	assert_true(lapic_page(c->s, 0, &page) && page == 0xfed00000);
	assert_int_equal(rd(c, 0, SVR), 0xff); /* disabling has reset it */
}

static void x2apic_registers(void **state)
{
	struct cpus *c = *state;
	u64 v;

	assert_false(rdmsr(c, 1, 0x802, &v)); /* xAPIC mode */
	x2apic_all(c);
	assert_true(rdmsr(c, 3, 0x802, &v) && v == 3);
	assert_true(rdmsr(c, 3, 0x80d, &v) && v == 8);
	assert_true(rdmsr(c, 3, 0x803, &v) && v == 0x01050014);
	static const u32 absent[] = {0x800, 0x801, 0x804, 0x809, 0x80b, 0x80c, 0x80e, 0x829, 0x82f, 0x831, 0x83a, 0x83f, 0x840, 0x8ff};
	for (u32 i = 0; i < ARRAY_SIZE(absent); i++)
		assert_false(rdmsr(c, 3, absent[i], &v));
	static const u32 readonly[] = {0x802, 0x803, 0x80a, 0x80d, 0x810, 0x818, 0x820, 0x839, 0x83a, 0x800, 0x80e, 0x831};
	for (u32 i = 0; i < ARRAY_SIZE(readonly); i++)
		assert_false(wrmsr(c, 3, readonly[i], 0));
	assert_false(wrmsr(c, 3, 0x80b, 1));
	assert_false(wrmsr(c, 3, 0x828, 1));
	assert_false(wrmsr(c, 3, 0x808, 0x100));
	assert_false(wrmsr(c, 3, 0x80f, 0x2ff));
	assert_false(wrmsr(c, 3, 0x832, 1ull << 32));
	assert_false(wrmsr(c, 3, 0x830, 1u << 20 | 0x41));
	assert_false(wrmsr(c, 3, 0x83f, 0x100));
	assert_true(wrmsr(c, 3, 0x808, 0x30));
	assert_int_equal(lapic_get_tpr(c->s, 3), 3);
	assert_true(wrmsr(c, 3, 0x808, 0));

	assert_true(wrmsr(c, 0, 0x830, 2ull << 32 | 0x4041)); /* physical */
	assert_true(rdmsr(c, 0, 0x830, &v) && v == (2ull << 32 | 0x4041));
	assert_int_equal(receivers_x2(c), 4);
	assert_true(wrmsr(c, 0, 0x830, 0xaull << 32 | 0x4841)); /* logical, cluster 0, CPUs 1 and 3 */
	assert_int_equal(receivers_x2(c), 0xa);
	assert_true(wrmsr(c, 0, 0x830, 0x1000aull << 32 | 0x4841)); /* cluster 1 */
	assert_int_equal(receivers_x2(c), 0);
	assert_true(wrmsr(c, 0, 0x830, 0xffffffffull << 32 | 0x4041));
	assert_int_equal(receivers_x2(c), 0xf);
	assert_true(wrmsr(c, 0, 0x830, 0xffull << 32 | 0x4041)); /* no broadcast here */
	assert_int_equal(receivers_x2(c), 0);
	assert_true(wrmsr(c, 2, 0x83f, 0x41));
	assert_int_equal(receivers_x2(c), 4);
	lapic_msi(c->s, 0xfeeff000, 0x41); /* but it is one for an MSI */
	assert_int_equal(receivers_x2(c), 0xf);
	lapic_msi(c->s, 0xfee06004, 0x41); /* logical MSI */
	assert_int_equal(receivers_x2(c), 6);
}

static void one_shot_count(void **state)
{
	struct cpus *c = *state;

	machine_time(c->m, NS_PER_SEC);
	wr(c, 0, TIMER_DIVIDE, 0x3); /* 16 */
	wr(c, 0, LVT_TIMER, 0x10050);
	wr(c, 0, TIMER_INIT, 1000000);
	assert_int_equal(rd(c, 0, TIMER_CURRENT), 1000000);
	machine_time(c->m, NS_PER_SEC + 1600);
	assert_int_equal(rd(c, 0, TIMER_CURRENT), 999900);
	wr(c, 0, TIMER_DIVIDE, 0xb); /* 1: the rest counts faster */
	machine_time(c->m, NS_PER_SEC + 1600 + 100);
	assert_int_equal(rd(c, 0, TIMER_CURRENT), 999800);
	machine_time(c->m, 2 * NS_PER_SEC);
	assert_int_equal(rd(c, 0, TIMER_CURRENT), 0);
	wr(c, 0, TIMER_INIT, 5);
	wr(c, 0, TIMER_INIT, 0);
	assert_int_equal(rd(c, 0, TIMER_CURRENT), 0);
}

static void one_shot_fires_once(void **state)
{
	struct cpus *c = *state;

	machine_run_clock(c->m);
	wr(c, 0, TIMER_DIVIDE, 0xb);
	wr(c, 0, LVT_TIMER, 0x50);
	wr(c, 0, TIMER_INIT, 2000000);
	machine_loop(c->m, 1000000);
	assert_int_equal(c->irqs[0], 0);
	machine_loop(c->m, 20000000);
	assert_int_equal(c->irqs[0], 1);
	assert_int_equal(lapic_irq_accept(c->s, 0), 0x50);
}

static void periodic_fires_and_is_clamped(void **state)
{
	struct cpus *c = *state;

	machine_run_clock(c->m);
	wr(c, 0, TIMER_DIVIDE, 0xb);
	wr(c, 0, LVT_TIMER, 0x20050);
	wr(c, 0, TIMER_INIT, 1); /* a nanosecond, as a hostile guest would have it */
	machine_loop(c->m, 20000000);
	assert_in_range(c->irqs[0], 1, 20000000 / 20000 + 2);
	wr(c, 0, TIMER_INIT, 0);
	c->irqs[0] = 0;
	machine_loop(c->m, 5000000);
	assert_int_equal(c->irqs[0], 0);
	wr(c, 0, TIMER_INIT, 5000000);
	machine_loop(c->m, 52000000);
	assert_in_range(c->irqs[0], 3, 11);
}

static void deadline_mode(void **state)
{
	struct cpus *c = *state;
	u64 v;

	machine_run_clock(c->m);
	assert_true(wrmsr(c, 0, 0x6e0, 12345)); /* ignored: another mode */
	assert_true(rdmsr(c, 0, 0x6e0, &v) && v == 0);
	wr(c, 0, LVT_TIMER, 0x40050);
	wr(c, 0, TIMER_INIT, 1000); /* ignored in this mode */
	assert_int_equal(rd(c, 0, TIMER_INIT), 0);
	c->tsc = 1000000;
	assert_true(wrmsr(c, 0, 0x6e0, 1000000)); /* reached already: fires at once */
	assert_int_equal(c->irqs[0], 1);
	assert_true(rdmsr(c, 0, 0x6e0, &v) && v == 0);
	assert_int_equal(lapic_irq_accept(c->s, 0), 0x50);
	wr(c, 0, EOI, 0);

	c->tsc = 0;
	assert_true(wrmsr(c, 0, 0x6e0, on_tsc(c, 0) + 5000000)); /* 2 ms */
	assert_true(rdmsr(c, 0, 0x6e0, &v) && v != 0);
	machine_loop(c->m, 30000000);
	assert_int_equal(c->irqs[0], 2);
	assert_true(rdmsr(c, 0, 0x6e0, &v) && v == 0);
	lapic_irq_accept(c->s, 0);
	wr(c, 0, EOI, 0);

	assert_true(wrmsr(c, 0, 0x6e0, ~0ull)); /* in centuries */
	machine_loop(c->m, 2000000);
	assert_int_equal(c->irqs[0], 2);
	c->tsc = ~0ull; /* the guest moved its TSC */
	lapic_tsc_changed(c->s, 0);
	assert_int_equal(c->irqs[0], 3);
	c->tsc = 0;
	assert_true(wrmsr(c, 0, 0x6e0, ~0ull));
	wr(c, 0, LVT_TIMER, 0x50); /* leaving the mode disarms */
	assert_true(rdmsr(c, 0, 0x6e0, &v) && v == 0);
}

static void masked_timer_is_silent(void **state)
{
	struct cpus *c = *state;

	machine_run_clock(c->m);
	wr(c, 0, TIMER_DIVIDE, 0xb);
	wr(c, 0, LVT_TIMER, 0x10050);
	wr(c, 0, TIMER_INIT, 1000);
	machine_loop(c->m, 3000000);
	assert_int_equal(c->irqs[0], 0);
	assert_false(lapic_irq_pending(c->s, 0));
}

struct player {
	struct cpus *c;
	u32 me, other, done;
};
#define ROUNDS 20000

/* Wait for the ball without taking the lock, as a vCPU does between blocks; then play it back. A lost interrupt would hang. */
static void *play(void *opaque)
{
	struct player *p = opaque;
	u64 until = host_now_ns() + 30 * NS_PER_SEC;

	while (p->done < ROUNDS && host_now_ns() < until) {
		if (!lapic_irq_pending(p->c->s, p->me)) {
			sched_yield();
			continue;
		}
		if (lapic_irq_accept(p->c->s, p->me) != 0x80)
			break;
		wr(p->c, p->me, EOI, 0);
		wr(p->c, p->me, ICR_HIGH, p->other << 24);
		wr(p->c, p->me, ICR, 0x4080);
		p->done++;
	}
	return NULL;
}

static void interrupts_are_not_lost(void **state)
{
	struct cpus *c = *state;
	struct player a = {c, 0, 1, 0}, b = {c, 1, 0, 0};
	pthread_t t;

	lapic_set_vcpu_ops(c->s, &(struct lapic_vcpu_ops){0});
	lapic_msi(c->s, 0xfee00000, 0x80);
	pthread_create(&t, NULL, play, &b);
	play(&a);
	pthread_join(t, NULL);
	assert_int_equal(a.done, ROUNDS);
	assert_int_equal(b.done, ROUNDS);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(power_on_values),
		T(priorities),
		T(level_triggered_eoi),
		T(xapic_destinations),
		T(lowest_priority),
		T(nmi_init_sipi),
		T(errors),
		T(odd_accesses),
		T(soft_disable_masks),
		T(base_transitions),
		T(x2apic_registers),
		T(one_shot_count),
		T(one_shot_fires_once),
		T(periodic_fires_and_is_clamped),
		T(deadline_mode),
		T(masked_timer_is_silent),
		T(interrupts_are_not_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
