/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Local APICs: the register file (xAPIC page and x2APIC MSRs), IRR/ISR/PPR and acceptance. One device holds the LAPICs of all CPUs.
 * Source: SDM vol. 3 chapter 11 (APIC), 11.12 (x2APIC).
 *
 * LINT0 and LINT1 are connected to nothing: there is no 8259, and NMIs come as messages.
 */
#include "hw/lapic_internal.h"

#include "hw/layout.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VERSION (0x14u | (LVT_COUNT - 1) << 16 | 1u << 24 /* EOI broadcasts can be suppressed */)

/* What software may set in each LVT entry: vector, mask; delivery mode; polarity and trigger of pins; timer mode. */
static const u32 lvt_writable[LVT_COUNT] = {
	[LVT_TIMER] = 0xff | LVT_MASKED | 3u << LVT_MODE_SHIFT,
	[LVT_THERMAL] = 0x7ff | LVT_MASKED,
	[LVT_PERF] = 0x7ff | LVT_MASKED,
	[LVT_LINT0] = 0xa7ff | LVT_MASKED,
	[LVT_LINT1] = 0xa7ff | LVT_MASKED,
	[LVT_ERROR] = 0xff | LVT_MASKED,
};

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define STORE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELAXED)

static bool bit_get(const u32 *bits, u32 n)
{
	return bits[n / 32] >> (n % 32) & 1;
}
static void bit_set(u32 *bits, u32 n)
{
	bits[n / 32] |= 1u << (n % 32);
}
static void bit_clear(u32 *bits, u32 n)
{
	bits[n / 32] &= ~(1u << (n % 32));
}
static int highest(const u32 *bits)
{
	for (int i = 7; i >= 0; i--) {
		if (bits[i])
			return i * 32 + 31 - __builtin_clz(bits[i]);
	}
	return -1;
}

u32 lapic_ppr_locked(const struct lapic *l)
{
	int isr = highest(l->isr);
	u32 in_service = isr < 0 ? 0 : (u32)isr & 0xf0;

	return (l->tpr & 0xf0) >= in_service ? l->tpr : in_service;
}

void lapic_update_locked(struct lapic *l)
{
	int irr = highest(l->irr);
	bool pending = irr >= 0 && lapic_enabled(l) && ((u32)irr & 0xf0) > (lapic_ppr_locked(l) & 0xf0);

	atomic_store_explicit(&l->pending, pending, memory_order_release);
}

bool lapic_raise_locked(struct lapic *l, u8 vector, bool level)
{
	bit_set(l->irr, vector);
	(level ? bit_set : bit_clear)(l->tmr, vector);
	lapic_update_locked(l);
	return l->pending;
}

/* Note an error. The error LVT's interrupt comes when the first of them is noted (SDM 11.5.3). */
bool lapic_error_locked(struct lapic *l, u32 esr_bit)
{
	u32 lvt = l->lvt[LVT_ERROR];
	bool first = !l->esr_pending;

	l->esr_pending |= esr_bit;
	/* An illegal vector in the entry itself is recorded without another interrupt, or it would never end. */
	if (!first || lvt & LVT_MASKED || !(l->svr & SVR_ENABLE))
		return false;
	if ((lvt & 0xff) < 16) {
		l->esr_pending |= ESR_RECV_ILLEGAL;
		return false;
	}
	return lapic_raise_locked(l, (u8)lvt, false);
}

void lapic_kick(struct lapic *l)
{
	const struct lapic_vcpu_ops *ops = &l->set->vcpu;

	if (ops->irq)
		ops->irq(ops->opaque, l->cpu);
}

static void reset_locked(struct lapic *l)
{
	lapic_timer_stop_locked(l);
	/* These are read without the lock: by senders that look for a destination, by the CPU itself. */
	STORE(l->tpr, 0);
	STORE(l->ldr, 0);
	STORE(l->dfr, ~0u);
	STORE(l->icr_high, 0);
	l->esr = l->esr_pending = l->icr = 0;
	l->svr = 0xff;
	l->timer_init = l->timer_divide = 0;
	for (u32 i = 0; i < LVT_COUNT; i++)
		l->lvt[i] = LVT_MASKED;
	memset(l->irr, 0, sizeof(l->irr));
	memset(l->isr, 0, sizeof(l->isr));
	memset(l->tmr, 0, sizeof(l->tmr));
	lapic_update_locked(l);
}

static u64 base_at_power_on(const struct lapic *l)
{
	return LAYOUT_LAPIC_BASE | BASE_ENABLE | (l->cpu == 0 ? BASE_BSP : 0);
}

void lapic_reset_one(struct lapic *l, bool init)
{
	pthread_mutex_lock(&l->lock);
	if (!init)
		atomic_store_explicit(&l->base, base_at_power_on(l), memory_order_relaxed);
	reset_locked(l);
	pthread_mutex_unlock(&l->lock);
}

bool lapic_irq_pending(struct lapic_set *s, u32 cpu)
{
	return atomic_load_explicit(&s->cpu[cpu].pending, memory_order_acquire);
}

int lapic_irq_accept(struct lapic_set *s, u32 cpu)
{
	struct lapic *l = &s->cpu[cpu];
	int vector = -1;

	pthread_mutex_lock(&l->lock);
	if (l->pending) {
		vector = highest(l->irr);
		bit_clear(l->irr, (u32)vector);
		bit_set(l->isr, (u32)vector);
		lapic_update_locked(l);
	}
	pthread_mutex_unlock(&l->lock);
	return vector;
}

u64 lapic_get_tpr(struct lapic_set *s, u32 cpu)
{
	return LOAD(s->cpu[cpu].tpr) >> 4;
}

void lapic_set_tpr(struct lapic_set *s, u32 cpu, u64 cr8)
{
	struct lapic *l = &s->cpu[cpu];
	bool kick;

	pthread_mutex_lock(&l->lock);
	STORE(l->tpr, (u32)(cr8 & 15) << 4);
	lapic_update_locked(l);
	kick = l->pending;
	pthread_mutex_unlock(&l->lock);
	if (kick)
		lapic_kick(l);
}

void lapic_tsc_changed(struct lapic_set *s, u32 cpu)
{
	struct lapic *l = &s->cpu[cpu];
	bool kick;

	pthread_mutex_lock(&l->lock);
	kick = l->tsc_deadline && lapic_timer_rearm_locked(l);
	pthread_mutex_unlock(&l->lock);
	if (kick)
		lapic_kick(l);
}

/* Returns the vector whose end the IOAPIC must be told, or -1. */
static int eoi_locked(struct lapic *l)
{
	int vector = highest(l->isr);

	if (vector < 0)
		return -1;
	bit_clear(l->isr, (u32)vector);
	lapic_update_locked(l);
	return bit_get(l->tmr, (u32)vector) && !(l->svr & SVR_NO_EOI_BROADCAST) ? vector : -1;
}

static void write_eoi(struct lapic *l)
{
	bool kick;
	int vector;

	pthread_mutex_lock(&l->lock);
	vector = eoi_locked(l);
	kick = l->pending;
	pthread_mutex_unlock(&l->lock);
	if (vector >= 0 && l->set->eoi)
		l->set->eoi(l->set->eoi_opaque, (u8)vector);
	if (kick)
		lapic_kick(l);
}

/* Both paths to the ICR. An illegal vector is an error of the sender and goes nowhere. */
static void write_icr(struct lapic *l, u64 icr)
{
	bool kick = false, illegal = lapic_icr_illegal(icr);

	pthread_mutex_lock(&l->lock);
	l->icr = (u32)icr & 0xccfff; /* delivery status always reads as idle */
	if (lapic_x2(l))
		STORE(l->icr_high, (u32)(icr >> 32));
	if (illegal)
		kick = lapic_error_locked(l, ESR_SEND_ILLEGAL);
	pthread_mutex_unlock(&l->lock);
	if (kick)
		lapic_kick(l);
	if (!illegal)
		lapic_send_icr(l, icr);
}

static void write_lvt(struct lapic *l, enum lapic_lvt i, u32 v)
{
	u32 old = l->lvt[i];

	v &= lvt_writable[i];
	if (!(l->svr & SVR_ENABLE))
		v |= LVT_MASKED;
	l->lvt[i] = v;
	if (i == LVT_TIMER)
		lapic_timer_set_mode_locked(l, old);
}

static void write_svr(struct lapic *l, u32 v)
{
	l->svr = v & (0xff | SVR_ENABLE | SVR_NO_EOI_BROADCAST);
	if (!(v & SVR_ENABLE)) {
		for (u32 i = 0; i < LVT_COUNT; i++)
			l->lvt[i] |= LVT_MASKED;
	}
}

/* Registers that both modes write alike, and that reach nobody else. Returns whether the CPU must look. */
static bool write_local_locked(struct lapic *l, u32 reg, u32 v)
{
	switch (reg) {
	case REG_TPR:
		STORE(l->tpr, v & 0xff);
		break;
	case REG_SVR:
		write_svr(l, v);
		break;
	case REG_ESR:
		l->esr = l->esr_pending;
		l->esr_pending = 0;
		break;
	case REG_LVT ... REG_LVT + LVT_COUNT - 1:
		write_lvt(l, reg - REG_LVT, v);
		break;
	case REG_TIMER_INIT:
		lapic_timer_set_init_locked(l, v);
		break;
	case REG_TIMER_DIVIDE:
		lapic_timer_set_divide_locked(l, v);
		break;
	default:
		return lapic_error_locked(l, ESR_REGISTER);
	}
	lapic_update_locked(l);
	return l->pending;
}

static void write_local(struct lapic *l, u32 reg, u32 v)
{
	bool kick;

	pthread_mutex_lock(&l->lock);
	kick = write_local_locked(l, reg, v);
	pthread_mutex_unlock(&l->lock);
	if (kick)
		lapic_kick(l);
}

static void write_xapic(struct lapic *l, u32 reg, u32 v)
{
	switch (reg) {
	case REG_EOI:
		write_eoi(l);
		break;
	case REG_LDR:
		STORE(l->ldr, v & 0xff000000);
		break;
	case REG_DFR:
		STORE(l->dfr, v | 0x0fffffff);
		break;
	case REG_ICR:
		write_icr(l, (u64)(LOAD(l->icr_high) >> 24) << 32 | v);
		break;
	case REG_ICR_HIGH:
		STORE(l->icr_high, v & 0xff000000);
		break;
	case REG_ID: /* read-only, as on current processors */
		break;
	default:
		write_local(l, reg, v);
	}
}

static u32 ldr(const struct lapic *l)
{
	return lapic_x2(l) ? l->cpu >> 4 << 16 | 1u << (l->cpu & 15) : l->ldr;
}

/* False: no such register. */
static bool read_locked(struct lapic *l, u32 reg, u32 *v)
{
	switch (reg) {
	case REG_ID:
		*v = lapic_x2(l) ? l->cpu : l->cpu << 24;
		return true;
	case REG_VERSION:
		*v = VERSION;
		return true;
	case REG_TPR:
		*v = l->tpr;
		return true;
	case REG_PPR:
		*v = lapic_ppr_locked(l);
		return true;
	case REG_LDR:
		*v = ldr(l);
		return true;
	case REG_SVR:
		*v = l->svr;
		return true;
	case REG_ISR ... REG_ISR + 7:
		*v = l->isr[reg - REG_ISR];
		return true;
	case REG_TMR ... REG_TMR + 7:
		*v = l->tmr[reg - REG_TMR];
		return true;
	case REG_IRR ... REG_IRR + 7:
		*v = l->irr[reg - REG_IRR];
		return true;
	case REG_ESR:
		*v = l->esr;
		return true;
	case REG_ICR:
		*v = l->icr;
		return true;
	case REG_LVT ... REG_LVT + LVT_COUNT - 1:
		*v = l->lvt[reg - REG_LVT];
		return true;
	case REG_TIMER_INIT:
		*v = l->timer_init;
		return true;
	case REG_TIMER_CURRENT:
		*v = lapic_timer_current_locked(l);
		return true;
	case REG_TIMER_DIVIDE:
		*v = l->timer_divide;
		return true;
	default:
		return false;
	}
}

static u32 read_xapic_locked(struct lapic *l, u32 reg, bool *kick)
{
	u32 v = 0;

	if (reg == REG_DFR)
		v = l->dfr;
	else if (reg == REG_ICR_HIGH)
		v = l->icr_high;
	else if (reg != REG_APR && reg != REG_EOI && !read_locked(l, reg, &v))
		*kick = lapic_error_locked(l, ESR_REGISTER);
	return v;
}

bool lapic_page(struct lapic_set *s, u32 cpu, gpa_t *gpa)
{
	u64 base = s->cpu[cpu].base;

	*gpa = base & 0xffffffffff000ull;
	return (base & (BASE_ENABLE | BASE_X2APIC)) == BASE_ENABLE;
}

/* Registers are 32 bits wide, 16 bytes apart; narrower reads give their bytes, what lies between reads as 0. */
u64 lapic_mmio_read(struct lapic_set *s, u32 cpu, u32 off, u32 size)
{
	struct lapic *l = &s->cpu[cpu];
	bool kick = false;
	gpa_t page;
	u32 v;

	if (!lapic_page(s, cpu, &page) || off >= LAYOUT_LAPIC_SIZE)
		return ~0ull;
	if ((off & 15) + size > 4 && (off & 15))
		return 0;
	pthread_mutex_lock(&l->lock);
	v = read_xapic_locked(l, off >> 4, &kick);
	pthread_mutex_unlock(&l->lock);
	if (kick)
		lapic_kick(l);
	return v >> (8 * (off & 3));
}

void lapic_mmio_write(struct lapic_set *s, u32 cpu, u32 off, u32 size, u64 value)
{
	gpa_t page;

	/* SDM 11.4.1: anything but an aligned 32-bit write is undefined; here it has no effect. 64 bits cover a register and padding. */
	if (!lapic_page(s, cpu, &page) || off >= LAYOUT_LAPIC_SIZE || (off & 15) || size < 4)
		return;
	write_xapic(&s->cpu[cpu], off >> 4, (u32)value);
}

/* IA32_APIC_BASE: which changes of mode are allowed (SDM figure 11-27). */
static bool base_change_ok(u64 before, u64 after)
{
	u64 from = before & (BASE_ENABLE | BASE_X2APIC), to = after & (BASE_ENABLE | BASE_X2APIC);

	if (after & (0xffull | 1ull << 9 | ~((1ull << 52) - 1)))
		return false;
	if (to == BASE_X2APIC)
		return false;
	if (from == (BASE_ENABLE | BASE_X2APIC) && to == BASE_ENABLE)
		return false;
	return !(from == 0 && to == (BASE_ENABLE | BASE_X2APIC));
}

static bool write_base(struct lapic *l, u64 v)
{
	bool ok;

	pthread_mutex_lock(&l->lock);
	ok = base_change_ok(l->base, v);
	if (ok) {
		bool disabled = lapic_enabled(l) && !(v & BASE_ENABLE);

		l->base = (v & ~BASE_BSP) | (l->base & BASE_BSP);
		if (disabled)
			reset_locked(l);
		lapic_update_locked(l);
	}
	pthread_mutex_unlock(&l->lock);
	return ok;
}

#define MSR_APIC_BASE 0x1b
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC 0x800

static u64 read_deadline(struct lapic *l)
{
	u64 v;

	pthread_mutex_lock(&l->lock);
	v = l->tsc_deadline;
	pthread_mutex_unlock(&l->lock);
	return v;
}

static void write_deadline(struct lapic *l, u64 v)
{
	bool kick = false;

	pthread_mutex_lock(&l->lock);
	if (lapic_timer_is_deadline(l))
		kick = lapic_timer_set_deadline_locked(l, v);
	pthread_mutex_unlock(&l->lock);
	if (kick)
		lapic_kick(l);
}

static bool x2apic_read(struct lapic *l, u32 reg, u64 *value)
{
	bool ok;
	u32 v;

	if (!lapic_x2(l))
		return false;
	pthread_mutex_lock(&l->lock);
	ok = read_locked(l, reg, &v);
	if (ok)
		*value = reg == REG_ICR ? (u64)l->icr_high << 32 | v : v;
	pthread_mutex_unlock(&l->lock);
	return ok;
}

/* Bits that must be zero in a write to an x2APIC register; all ones: not writable. */
static u64 x2apic_reserved(u32 reg)
{
	switch (reg) {
	case REG_TPR:
	case REG_SELF_IPI:
		return ~0xffull;
	case REG_EOI:
	case REG_ESR:
		return ~0ull; /* zero only */
	case REG_SVR:
		return ~(u64)(0xff | SVR_ENABLE | SVR_NO_EOI_BROADCAST);
	case REG_ICR:
		return 0xfff32000ull;
	case REG_LVT ... REG_LVT + LVT_COUNT - 1:
		return ~(u64)(lvt_writable[reg - REG_LVT] | 0x5000 /* status bits, read-only */);
	case REG_TIMER_INIT:
		return ~0xffffffffull;
	case REG_TIMER_DIVIDE:
		return ~0xbull;
	default:
		return ~0ull;
	}
}

static bool x2apic_writable(u32 reg)
{
	return x2apic_reserved(reg) != ~0ull || reg == REG_EOI || reg == REG_ESR;
}

static bool x2apic_write(struct lapic *l, u32 reg, u64 v)
{
	if (!lapic_x2(l) || !x2apic_writable(reg) || v & x2apic_reserved(reg))
		return false;
	if (reg == REG_EOI)
		write_eoi(l);
	else if (reg == REG_ICR)
		write_icr(l, v);
	else if (reg == REG_SELF_IPI)
		write_icr(l, v | 1u << 18);
	else
		write_local(l, reg, (u32)v);
	return true;
}

bool lapic_msr_read(struct lapic_set *s, u32 cpu, u32 msr, u64 *value)
{
	struct lapic *l = &s->cpu[cpu];

	if (msr == MSR_APIC_BASE)
		*value = l->base;
	else if (msr == MSR_TSC_DEADLINE)
		*value = read_deadline(l);
	else
		return msr >= MSR_X2APIC && msr < MSR_X2APIC + 0x40 && x2apic_read(l, msr - MSR_X2APIC, value);
	return true;
}

bool lapic_msr_write(struct lapic_set *s, u32 cpu, u32 msr, u64 value)
{
	struct lapic *l = &s->cpu[cpu];

	if (msr == MSR_APIC_BASE)
		return write_base(l, value);
	if (msr != MSR_TSC_DEADLINE)
		return msr >= MSR_X2APIC && msr < MSR_X2APIC + 0x40 && x2apic_write(l, msr - MSR_X2APIC, value);
	write_deadline(l, value);
	return true;
}

void lapic_set_vcpu_ops(struct lapic_set *s, const struct lapic_vcpu_ops *ops)
{
	s->vcpu = *ops;
}

void lapic_set_eoi_handler(struct lapic_set *s, void (*fn)(void *opaque, u8 vector), void *opaque)
{
	s->eoi = fn;
	s->eoi_opaque = opaque;
}
