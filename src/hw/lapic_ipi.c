/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupt messages: who is meant (SDM 3.11.6.2) and what it does to them. IPIs, MSIs and the IOAPIC all come through here.
 *
 * Threading: any thread; no lock is held across CPUs. Destination registers are read without the target's lock, as on the bus.
 */
#include "hw/lapic_internal.h"

struct message {
	u32 dest;
	u8 vector;
	enum delivery_mode mode;
	bool logical, level;
	bool broadcast;
};

#define ICR_LOGICAL (1u << 11)
#define ICR_ASSERT (1u << 14)
#define ICR_LEVEL (1u << 15)
enum { SHORT_NONE, SHORT_SELF, SHORT_ALL, SHORT_OTHERS };

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)

/* xAPIC logical ID: flat model, all bits are CPUs; cluster model, upper nibble is equal and a lower bit matches. */
static bool logical_xapic(const struct lapic *l, u32 dest)
{
	u32 id = LOAD(l->ldr) >> 24;

	if (LOAD(l->dfr) >> 28 == 0xf)
		return (id & dest) != 0;
	return id >> 4 == (dest & 0xff) >> 4 && (id & dest & 0xf) != 0;
}

static u32 x2apic_ldr(u32 id)
{
	return id >> 4 << 16 | 1u << (id & 15);
}

static bool logical_x2apic(const struct lapic *l, u32 dest)
{
	u32 id = x2apic_ldr(l->cpu);

	return id >> 16 == dest >> 16 && (id & dest & 0xffff) != 0;
}

static bool is_target(const struct lapic *l, const struct message *m)
{
	if (!lapic_enabled(l))
		return false;
	if (m->broadcast)
		return true;
	if (!m->logical)
		return l->cpu == m->dest;
	return lapic_x2(l) ? logical_x2apic(l, m->dest) : logical_xapic(l, m->dest);
}

static void deliver_fixed(struct lapic *l, const struct message *m)
{
	bool kick = false;

	pthread_mutex_lock(&l->lock);
	if (!(l->svr & SVR_ENABLE))
		; /* software-disabled: only NMI, INIT and SIPI get through (SDM 3.11.4.7.2) */
	else if (m->vector < 16)
		kick = lapic_error_locked(l, ESR_RECV_ILLEGAL);
	else
		kick = lapic_raise_locked(l, m->vector, m->level);
	pthread_mutex_unlock(&l->lock);
	if (kick)
		lapic_kick(l);
}

static void deliver(struct lapic *l, const struct message *m)
{
	const struct lapic_vcpu_ops *ops = &l->set->vcpu;

	switch (m->mode) {
	case DM_FIXED:
	case DM_LOWEST:
		deliver_fixed(l, m);
		break;
	case DM_NMI:
		if (ops->nmi)
			ops->nmi(ops->opaque, l->cpu);
		break;
	case DM_INIT:
		lapic_reset_one(l, true);
		if (ops->init)
			ops->init(ops->opaque, l->cpu);
		break;
	case DM_SIPI:
		if (ops->sipi)
			ops->sipi(ops->opaque, l->cpu, m->vector);
		break;
	case DM_SMI:	/* no SMM in this machine */
	case DM_EXTINT: /* no 8259 either */
	case DM_RESERVED:
		break;
	}
}

static u32 priority(struct lapic *l)
{
	u32 ppr;

	pthread_mutex_lock(&l->lock);
	ppr = l->svr & SVR_ENABLE ? lapic_ppr_locked(l) : ~0u;
	pthread_mutex_unlock(&l->lock);
	return ppr;
}

/* One of the targets: the lowest processor priority, taking turns among equals. */
static void deliver_lowest(struct lapic_set *s, const struct message *m)
{
	u32 start = atomic_fetch_add_explicit(&s->lowest_next, 1, memory_order_relaxed);
	struct lapic *best = NULL;
	u32 best_ppr = ~0u;

	for (u32 i = 0; i < s->ncpus; i++) {
		struct lapic *l = &s->cpu[(start + i) % s->ncpus];
		u32 ppr;

		if (!is_target(l, m))
			continue;
		ppr = priority(l);
		if (ppr < best_ppr) {
			best = l;
			best_ppr = ppr;
		}
	}
	if (best)
		deliver(best, m);
}

static void send(struct lapic_set *s, const struct message *m, const struct lapic *except)
{
	if (m->mode == DM_LOWEST) {
		deliver_lowest(s, m);
		return;
	}
	if (!m->logical && !m->broadcast) {
		if (m->dest < s->ncpus && is_target(&s->cpu[m->dest], m))
			deliver(&s->cpu[m->dest], m);
		return;
	}
	for (u32 i = 0; i < s->ncpus; i++) {
		if (&s->cpu[i] != except && is_target(&s->cpu[i], m))
			deliver(&s->cpu[i], m);
	}
}

/* Vectors below 16 cannot be sent as fixed or lowest-priority interrupts. */
bool lapic_icr_illegal(u64 icr)
{
	u32 mode = (u32)icr >> 8 & 7;

	return (mode == DM_FIXED || mode == DM_LOWEST) && (icr & 0xff) < 16;
}

/* With "all but self" the sender is left out; "all" includes it, also for INIT, as the guest asked for. */
void lapic_send_icr(struct lapic *l, u64 icr)
{
	u32 low = (u32)icr, shorthand = low >> 18 & 3;
	bool wide = lapic_x2(l);
	struct message m = {
		.dest = (u32)(icr >> 32),
		.vector = (u8)low,
		.mode = low >> 8 & 7,
		.logical = (low & ICR_LOGICAL) != 0,
	};

	if (m.mode == DM_INIT && (low & ICR_LEVEL) && !(low & ICR_ASSERT))
		return; /* INIT level de-assert: nothing but arbitration IDs, which do not exist any more */
	if (shorthand == SHORT_SELF) {
		if (m.mode == DM_FIXED)
			deliver(l, &m);
		return;
	}
	m.broadcast = shorthand != SHORT_NONE || m.dest == (wide ? ~0u : 0xff);
	send(l->set, &m, shorthand == SHORT_OTHERS ? l : NULL);
}

bool lapic_send_to(struct lapic_set *s, u32 cpu, u32 icr)
{
	const struct message m = {.dest = cpu, .vector = (u8)icr, .mode = icr >> 8 & 7};

	if (!is_target(&s->cpu[cpu], &m))
		return false;
	deliver(&s->cpu[cpu], &m);
	return true;
}

void lapic_msi(struct lapic_set *s, u64 address, u32 data)
{
	struct message m = {
		.dest = (u32)(address >> 12) & 0xff,
		.vector = (u8)data,
		.mode = data >> 8 & 7,
		.logical = (address & 4) != 0,
		.level = (data & ICR_LEVEL) != 0,
	};

	if (s->elsewhere.msi) {
		s->elsewhere.msi(s->elsewhere.opaque, address, data);
		return;
	}
	if (address >> 20 != 0xfee)
		return; /* a write to RAM or to a device in disguise: no such DMA here */
	if (m.mode == DM_SIPI)
		return; /* reserved for MSIs */
	m.broadcast = m.dest == 0xff;
	send(s, &m, NULL);
}
