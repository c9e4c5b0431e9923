/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest that runs a case: 64-bit mode, the case's pages mapped as user pages at the case's addresses, and behind every exception vector
 * a stub in supervisor pages that writes to a port and halts. The exception frame on the stack says how the case ended.
 *
 * Selectors are those of Linux user programs, so that reading a segment register gives what it gives natively.
 * Threading: one thread uses a `struct guest`.
 */
#pragma once

#include "base/guest_memory.h"
#include "case.h"
#include "x86/rules.h"

#include <Zydis/Zydis.h>

#define GUEST_RAM_SIZE (2 * MiB)
#define GUEST_DONE_PORT 0xf4u

struct guest {
	struct guest_memory gm;
	struct x86_cpuid cpuid;
	u8 data[CASE_DATA_ALL]; /* what the data pages are filled with; kept from one run of a case to the next */
	u32 code_at, code_len;	/* what the last case may have left in the code area */
	bool writable;		/* the case may change its code */
	bool code_in_place;	/* the case's code is already in guest RAM: do not write it again, so that translations stay */
	bool done;		/* a stub wrote to the port */
};

int guest_create(struct guest *g, struct err *e) must_check;
void guest_destroy(struct guest *g);
bool guest_has(u32 leaf, u32 sub, u32 reg, u32 bit);
bool guest_announces(const ZydisDecodedInstruction *in);

/* Put code, data and start state in place. c keeps its env and cpuid. */
void guest_load(struct guest *g, const struct cpu_case *cs, struct x86_cpu *c);

/* After the stub ran: take the result out of the state and the exception frame. */
void guest_result(struct guest *g, const struct x86_cpu *c, struct cpu_result *r);

/* The case ended at its end marker, which no store of its own has changed. */
bool guest_at_end_marker(const struct guest *g, const struct cpu_case *cs, const struct cpu_result *r);
