/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is an engine's result the real CPU's? Differences that the manuals leave open are excused: flags that an executed instruction left
 * undefined, and cases that went through instructions that cannot be compared (a jump into the middle of an instruction can reach any).
 *
 * Threading: none.
 */
#pragma once

#include "native.h"
#include "forms.h"

/* What a single-stepped native run says about a case. */
struct judge_notes {
	u64 undefined;	     /* RFLAGS bits without a defined value at the end */
	bool bits32;	     /* the upper halves of registers and r8 to r15 are open */
	bool ring0;	     /* the engine's page faults are not the user's */
	bool excused;	     /* the whole case says nothing; why is the reason */
	bool any_fault;	     /* the last instruction faults on two operands: which fault comes first is open */
	bool any_fault_byte; /* the last instruction reads its operand piecemeal: which byte faults first is open */
	bool short_cr2; /* the last instruction masks elements of an operand at a 32-bit address: Zen 4 cuts the address in CR2, not the access's */
	bool mmx_fault; /* the last instruction faulted after the CPU had switched the x87 unit to MMX use */
	char why[160];
};

void judge_trace(const struct forms *forms, forms_has_fn has, const struct cpu_case *c, const struct cpu_result *cpu,
		 const struct native_trace *t, struct judge_notes *notes);

/* Describes the first differences, one a line; returns their number. */
u32 judge_compare(const struct cpu_result *cpu, const struct cpu_result *engine, const struct judge_notes *notes, char *text, size_t size);
