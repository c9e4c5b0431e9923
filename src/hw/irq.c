/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupt router: counts the drivers of each GSI and passes on changes and messages. The sink is called with the router's lock held,
 * so that it sees the changes of a line in their order; it must not call back into the router.
 */
#include "hw/irq.h"

#include <pthread.h>
#include <stdlib.h>

struct irq_router {
	pthread_mutex_t lock;
	struct irq_sink sink;
	u32 drivers[IRQ_GSIS];
};

struct irq_router *irq_router_new(void)
{
	struct irq_router *r = calloc(1, sizeof(*r));

	if (r)
		pthread_mutex_init(&r->lock, NULL);
	return r;
}

void irq_router_free(struct irq_router *r)
{
	if (!r)
		return;
	pthread_mutex_destroy(&r->lock);
	free(r);
}

void irq_router_set_sink(struct irq_router *r, const struct irq_sink *sink)
{
	pthread_mutex_lock(&r->lock);
	r->sink = sink ? *sink : (struct irq_sink){0};
	pthread_mutex_unlock(&r->lock);
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
	pthread_mutex_lock(&r->lock);
	if (line_change(r, l, level) && r->sink.set_line)
		r->sink.set_line(r->sink.opaque, l->gsi, level);
	pthread_mutex_unlock(&r->lock);
}

void irq_msi(struct irq_router *r, u64 address, u32 data)
{
	struct irq_sink sink;

	/* Messages need no order among themselves; the lock is only for the sink's words. */
	pthread_mutex_lock(&r->lock);
	sink = r->sink;
	pthread_mutex_unlock(&r->lock);
	if (sink.msi)
		sink.msi(sink.opaque, address, data);
}
