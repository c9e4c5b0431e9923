/* SPDX-License-Identifier: Apache-2.0 */
/* See coverage.h. */
#include "coverage.h"

#include "engine/bt/table.h"

/* ---- counting ---- */

static bool reached(const struct forms *f, u32 form)
{
	return f->count[form].completed || f->count[form].faulted;
}

static u32 insn_at(const struct cpu_case *c, u64 rip)
{
	u64 off = rip - case_start_rip(c);

	for (u32 i = 0; i < c->n; i++)
		if (c->offset[i] == off)
			return i;
	return c->n;
}

/* Once a case, however often a loop comes by. Code that may have been changed does not count. */
static void count(struct forms *f, const struct cpu_case *c, u64 rip, u64 *seen, bool completed)
{
	u32 i = insn_at(c, rip);
	struct form_count *n;

	if (c->writable || i == c->n || c->insn[i].form >= f->n || (*seen >> i & 1))
		return;
	*seen |= 1ull << i;
	n = &f->count[c->insn[i].form];
	if (completed)
		n->completed++;
	else
		n->faulted++;
}

static bool may_jump(const struct forms *f, const struct cpu_case *c, u32 i)
{
	ZydisDecodedInstruction in;

	if (c->insn[i].form < f->n)
		return f->form[c->insn[i].form].jumps;
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&f->decoder, NULL, c->code + c->offset[i], c->insn[i].len, &in)))
		return true;
	return in.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE;
}

bool coverage_runs_straight(const struct forms *f, const struct cpu_case *c)
{
	for (u32 i = 0; i < c->n; i++)
		if (may_jump(f, c, i))
			return false;
	return true;
}

bool coverage_has_news(const struct forms *f, const struct cpu_case *c)
{
	for (u32 i = 0; i < c->n && !c->writable; i++)
		if (c->insn[i].form < f->n && !reached(f, c->insn[i].form))
			return true;
	return false;
}

void coverage_count(struct forms *f, const struct cpu_case *c, u64 rip)
{
	u32 end = insn_at(c, rip);
	u64 seen = 0;

	for (u32 i = 0; i < end; i++)
		count(f, c, case_start_rip(c) + c->offset[i], &seen, true);
	count(f, c, rip, &seen, false);
}

void coverage_count_traced(struct forms *f, const struct cpu_case *c, const struct native_trace *trace)
{
	u64 rip = case_start_rip(c), seen = 0;

	for (u32 k = 0; k < trace->n; k++) {
		count(f, c, rip, &seen, true);
		rip = trace->step[k].rip;
	}
	count(f, c, rip, &seen, false);
}

/* ---- the report ---- */

/* What the translator's table says about an instruction; `native`: without a row it would be copied. */
static const char *translation(u32 mnemonic, bool native)
{
	static const char *const names[] = {
		[K_INTERP] = "interpreted", [K_STOP] = "ends a block", [K_NOP] = "dropped",
		[K_PREFETCH] = "looked up", [K_LIGHT] = "light",       [K_STRING] = "light",
	};
	u8 kind = bt_row_of((ZydisMnemonic)mnemonic).kind;

	if (kind == K_AUTO)
		return native ? "copied" : "interpreted";
	return kind < ARRAY_SIZE(names) && names[kind] ? names[kind] : "in line";
}

static bool can_generate(const struct form *fm, const struct coverage_options *o)
{
	if (o->only_class >= 0 && fm->cls != o->only_class)
		return false;
	return o->ring || fm->same_in_ring0;
}

static void show_form(FILE *to, const struct form *fm, const struct form_count *n)
{
	static const char *const encodings[] = {"legacy", "VEX", "EVEX"};
	static const char *const prefixes[] = {"", " 66", " F3", " F2"};

	fprintf(to, "      %s%s map %u opcode %02x W%u L%u %s", encodings[fm->encoding], prefixes[fm->pp], fm->map, fm->opcode, fm->w,
		fm->l,
		!fm->has_modrm ? "no ModRM"
		: fm->mem      ? "memory"
			       : "register");
	if (fm->reg != FORM_ANY)
		fprintf(to, " /%u", fm->reg);
	fprintf(to, ": completed %llu, faulted %llu\n", (unsigned long long)n->completed, (unsigned long long)n->faulted);
}

static void show_group(FILE *to, const struct forms *f, const struct form_group *g, const struct coverage_options *o,
		       struct coverage_totals *t)
{
	u64 completed = 0, faulted = 0;
	u32 possible = 0, seen = 0;
	bool native = false;

	for (u32 k = g->first; k < g->first + g->n; k++) {
		completed += f->count[k].completed;
		faulted += f->count[k].faulted;
		native = native || f->form[k].native;
		possible += can_generate(&f->form[k], o);
		seen += reached(f, k);
	}
	if (!possible)
		return;
	fprintf(to, "  %-8s %-20s forms %u/%u completed %llu faulted %llu  %s%s\n", form_class_name(f->form[g->first].cls),
		ZydisMnemonicGetString(g->mnemonic), seen, possible, (unsigned long long)completed, (unsigned long long)faulted,
		translation(g->mnemonic, native), seen ? "" : "  NOT REACHED");
	for (u32 k = g->first; k < g->first + g->n; k++)
		if (o->each_form || (!reached(f, k) && can_generate(&f->form[k], o)))
			show_form(to, &f->form[k], &f->count[k]);
	t->instructions++;
	t->instructions_reached += seen != 0;
	t->forms += possible;
	t->forms_reached += seen;
}

static void show_left_out(FILE *to, const struct forms *f)
{
	u32 n = 0;

	fprintf(to, "announced, but not part of cases (tests/guest has them):");
	for (u32 m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++)
		if (f->left_out[m])
			fprintf(to, "%s%s (%s)", n++ % 6 ? ", " : "\n  ", ZydisMnemonicGetString((ZydisMnemonic)m),
				translation(m, f->left_out[m] == 2));
	fprintf(to, "\n");
}

struct coverage_totals coverage_show(FILE *to, const struct forms *f, const struct coverage_options *o)
{
	struct coverage_totals t = {0};

	for (u32 i = 0; i < f->ngroups; i++)
		show_group(to, f, &f->group[i], o, &t);
	show_left_out(to, f);
	return t;
}
