/* SPDX-License-Identifier: Apache-2.0 */
/* The real CPU once more: shows that the oracle agrees with itself, which is what every comparison rests on. */
#include "subject.h"

#include <cpuid.h>

static int native_open(void **out, struct err *e)
{
	struct native *nat;
	int r = native_new(&nat, e);

	if (!r)
		*out = nat;
	return r;
}

static void native_close(void *s)
{
	native_free(s);
}

static void native_subject_run(void *s, const struct cpu_case *c, u32 repeat, struct cpu_result *r)
{
	for (u32 i = 0; i < repeat; i++)
		*r = *native_run_one(s, c);
}

bool subject_host_has(u32 leaf, u32 sub, u32 reg, u32 bit)
{
	static struct {
		u32 leaf, sub, reg[4];
	} seen[32]; /* CPUID is slow under a hypervisor */
	static u32 n;
	u32 i;

	for (i = 0; i < n; i++)
		if (seen[i].leaf == leaf && seen[i].sub == sub)
			return seen[i].reg[reg] >> bit & 1;
	if (n == ARRAY_SIZE(seen))
		return false;
	seen[n].leaf = leaf;
	seen[n].sub = sub;
	__cpuid_count(leaf, sub, seen[n].reg[0], seen[n].reg[1], seen[n].reg[2], seen[n].reg[3]);
	return seen[n++].reg[reg] >> bit & 1;
}

const struct subject subject_native = {.name = "native",
				       .summary = "the real CPU, against itself",
				       .open = native_open,
				       .close = native_close,
				       .run = native_subject_run,
				       .has = subject_host_has};
