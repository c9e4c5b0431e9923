/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The generator of cases. gen_case is a function of the seed, the set of forms and the options alone, so one number reproduces a case.
 *
 * gen.c: the shape of a case, branches and loops. gen_fields.c: another shape, many accesses around few registers. gen_smc.c: code that changes itself. gen_insn.c: one instruction
 * of a given form. gen_state.c: the start state.
 * Threading: none.
 */
#pragma once

#include "case.h"
#include "forms.h"
#include "prng.h"

/* Where memory operands go while it is set: around one base register, or the sum of two. */
struct gen_field {
	int base;  /* -1: rip */
	int index; /* -1: none */
	u32 scale; /* its logarithm */
	u64 low;
	u32 span;
};

struct gen {
	const struct forms *forms;
	forms_has_fn has;
	struct prng rnd;
	struct cpu_case *c;
	u32 known; /* general registers whose value is known when control falls through to here */
	u64 value[16];
	bool counter_used[4];
	bool far_target; /* the last memory operand could not be aimed */
	const struct gen_field *field;
	u32 bases; /* registers that instructions had better leave alone, while field is set */
};

struct gen_options {
	const struct forms *forms;
	forms_has_fn has;
	int only_class; /* -1: a mix */
	u32 max_insns;	/* 1-24 */
	u8 ring;	/* 3, or 0: without instructions that behave differently there */
};

void gen_case(const struct gen_options *o, u64 seed, struct cpu_case *c);

/* Internal to the generator. */
void gen_state(struct gen *g);
void gen_state_vectors(struct gen *g, bool small_lanes);
void gen_fields(struct gen *g, u32 want);
void gen_smc(struct gen *g);
bool gen_close_loop(struct gen *g, u32 back); /* from here to that instruction; false when there are enough */
void gen_special(struct gen *g);	      /* a loop, an indirect jump */
bool gen_insn(struct gen *g, u32 form_index); /* appends one instruction of the form (and what sets up its pointers) */
void gen_garbage(struct gen *g);	      /* appends bytes that do not decode */
void gen_emit(struct gen *g, const u8 *bytes, u32 len);
void gen_emit_branch(struct gen *g, const u8 *bytes, u32 len, u32 rel_len, u32 target);
void gen_mov_imm(struct gen *g, u32 reg, u64 value);
u64 gen_field_target(struct gen *g, u32 size);
u64 gen_target(struct gen *g); /* an address worth accessing */
static inline bool gen_full(const struct gen *g)
{
	return g->c->n >= CASE_MAX_INSN - 8;
}
