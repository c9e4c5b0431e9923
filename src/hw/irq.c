/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupt router: counts the drivers of each GSI and passes on changes and messages. The sink is called with the router's lock held: of lines
 * alone, so that it sees their changes in order; of messages together with others, which need none. It must not call back into the router.
 */
#include "hw/irq.h"

#include <pthread.h>
#include <stdlib.h>

struct irq_router {
	pthread_rwlock_t lock;
	struct irq_sink sink;
	u32 drivers[IRQ_GSIS];
};

struct irq_router *irq_router_new(void)
{
	struct irq_router *r = calloc(1, sizeof(*r));

	if (r)
		pthread_rwlock_init(&r->lock, NULL);
	return r;
}

void irq_router_free(struct irq_router *r)
{
	if (!r)
		return;
	pthread_rwlock_destroy(&r->lock);
	free(r);
}

void irq_router_set_sink(struct irq_router *r, const struct irq_sink *sink)
{
	pthread_rwlock_wrlock(&r->lock);
	r->sink = sink ? *sink : (struct irq_sink){0};
	pthread_rwlock_unlock(&r->lock);
}

void irq_line_init(struct irq_line *l, struct irq_router *r, u32 gsi)
{
	*l = (struct irq_line){.router = r, .gsi = gsi};
}

/* Returns whether the OR of all drivers changed. */
static bool line_change(struct irq_router *r, struct irq_line *l, bool level)
{
	u32 *drivers = &r->drivers[l->gsi];

	if (l->level == level)
		return false;
	l->level = level;
	*drivers += level ? 1 : -1u;
	return *drivers == (level ? 1 : 0);
}

void irq_set(struct irq_line *l, bool level)
{
	struct irq_router *r = l->router;

	if (!r || l->gsi >= IRQ_GSIS)
		return;
	pthread_rwlock_wrlock(&r->lock);
	if (line_change(r, l, level) && r->sink.set_line)
		r->sink.set_line(r->sink.opaque, l->gsi, level);
	pthread_rwlock_unlock(&r->lock);
}

void irq_msi(struct irq_router *r, u64 address, u32 data)
{
	pthread_rwlock_rdlock(&r->lock);
	if (r->sink.msi)
		r->sink.msi(r->sink.opaque, address, data);
	pthread_rwlock_unlock(&r->lock);
}

void irq_hold(struct irq_router *r)
{
	pthread_rwlock_wrlock(&r->lock);
}

void irq_release(struct irq_router *r)
{
	pthread_rwlock_unlock(&r->lock);
}
