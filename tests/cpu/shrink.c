/* SPDX-License-Identifier: Apache-2.0 */
/* Greedy reduction. See shrink.h. */
#include "shrink.h"

#include <stdlib.h>
#include <string.h>

static bool try_case(struct cpu_case *c, const struct cpu_case *candidate, shrink_fails_fn fails, void *opaque)
{
	if (!fails(opaque, candidate))
		return false;
	*c = *candidate;
	return true;
}

static bool drop_insns(struct cpu_case *c, struct cpu_case *tmp, u32 count, shrink_fails_fn fails, void *opaque)
{
	bool progress = false;

	for (u32 i = 0; i + count <= c->n;) {
		*tmp = *c;
		if (case_remove(tmp, i, count) && try_case(c, tmp, fails, opaque))
			progress = true;
		else
			i++;
	}
	return progress;
}

static void plainer_registers(struct cpu_case *c, struct cpu_case *tmp, shrink_fails_fn fails, void *opaque)
{
	for (u32 i = 0; i < 16; i++) {
		*tmp = *c;
		tmp->gpr[i] = 0;
		if (c->gpr[i])
			(void)try_case(c, tmp, fails, opaque);
	}
	*tmp = *c;
	tmp->rflags = 0x202;
	(void)try_case(c, tmp, fails, opaque);
	*tmp = *c;
	tmp->fs_base = tmp->gs_base = 0;
	(void)try_case(c, tmp, fails, opaque);
	*tmp = *c;
	tmp->start = 0;
	if (!c->fall_off && case_layout(tmp))
		(void)try_case(c, tmp, fails, opaque);
}

/* Put vector components back to their initial configuration, and MXCSR to its default. */
static void plainer_vectors(struct cpu_case *c, struct cpu_case *tmp, shrink_fails_fn fails, void *opaque)
{
	const u32 mxcsr = 0x1f80;

	for (u32 bit = 0; bit < 8; bit++) {
		*tmp = *c;
		tmp->xsave.bytes[512] &= (u8) ~(1u << bit);
		if (bit == 0)
			memset(tmp->xsave.bytes, 0, 24);
		if (tmp->xsave.bytes[512] != c->xsave.bytes[512])
			(void)try_case(c, tmp, fails, opaque);
	}
	*tmp = *c;
	memcpy(tmp->xsave.bytes + 24, &mxcsr, 4);
	(void)try_case(c, tmp, fails, opaque);
}

void shrink_case(struct cpu_case *c, shrink_fails_fn fails, void *opaque)
{
	struct cpu_case *tmp = malloc(sizeof(*tmp));

	if (!tmp)
		return;
	for (u32 count = c->n / 2; count; count /= 2)
		while (drop_insns(c, tmp, count, fails, opaque))
			;
	plainer_registers(c, tmp, fails, opaque);
	plainer_vectors(c, tmp, fails, opaque);
	while (drop_insns(c, tmp, 1, fails, opaque))
		;
	free(tmp);
}
