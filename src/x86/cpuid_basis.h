/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the CPUID policy is built on: the host's CPU, and the verdict on each feature. Between cpuid_basis.c, cpuid_build.c and who lists features.
 * Threading: any; host CPUID must not change while it runs.
 */
#pragma once

#include "x86/cpu_model.h"
#include "x86/rules.h"

struct x86_cpuid_basis {
	const struct x86_cpuid_config *cfg;
	const struct x86_cpu_model *model;
	bool amd;
	u32 basic, extended; /* the host's highest leaves */
	u64 xcr0;	     /* what the guest may enable */
	/* The leaf looked at last: where this is itself a virtual machine, each CPUID is a way out of it. */
	struct {
		bool valid;
		u32 leaf, sub, r[4];
	} last;
};

enum x86_feature_verdict {
	X86_ANNOUNCED,
	X86_NOT_IMPLEMENTED,
	X86_NOT_IN_MODEL,
	X86_HOST_LACKS,
	X86_STATE_HIDDEN, /* the host has it, but not all registers that it needs are offered */
	X86_OTHER_ENGINE,
	X86_OTHER_VENDOR,
	X86_ONE_CPU,
};

void x86_cpuid_survey(struct x86_cpuid_basis *b, const struct x86_cpuid_config *cfg);
/* Zeros beyond what the host has. */
void x86_host_leaf(struct x86_cpuid_basis *b, u32 leaf, u32 sub, u32 r[4]);
/* End of the XSAVE area with these components, in the standard format. */
u32 x86_host_xsave_area(struct x86_cpuid_basis *b, u64 mask);
enum x86_feature_verdict x86_feature_judge(struct x86_cpuid_basis *b, const struct x86_feature *f);
