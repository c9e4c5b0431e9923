/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CPUID feature policy as data: one row a bit. A bit without a row is hidden.
 * Threading: constant.
 */
#pragma once

#include "base/types.h"

enum x86_feature_policy {
	HIDE,	  /* not implemented, or of no use to a guest */
	HOST,	  /* announced when the host has it: its instructions reach the host CPU */
	OURS,	  /* implemented by Guise's rules alone: the translator announces it whatever the host has; KVM follows the host */
	ALWAYS,	  /* implemented by the machine around any engine */
	ON_KVM,	  /* acts on the real CPU only: KVM passes it on, translated code could not keep its promise */
	ON_BT,	  /* true of translated code only */
	WHEN_SMP, /* with more than one vCPU */
};

enum x86_feature_vendor { X86_ANY_VENDOR, X86_AMD_ONLY, X86_INTEL_ONLY };

/* The lowest CPU model with a feature; levels above have it too. */
enum x86_feature_level {
	X86_LEVEL_HOST, /* no level has it: only models that follow the host */
	X86_LEVEL_V2,
	X86_LEVEL_V3,
};

struct x86_feature {
	u32 leaf;
	u8 sub, reg, bit;
	u8 policy;
	u8 needs; /* XCR0 bits without which it is hidden */
	u8 vendor, level;
	const char *name; /* as /proc/cpuinfo writes it, where it does */
};

extern const struct x86_feature x86_features[];
extern const u32 x86_feature_count;
