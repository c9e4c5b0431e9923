/* SPDX-License-Identifier: Apache-2.0 */
/* Comparison of results. See judge.h; the table of undefined flags is in undefined.c. */
#include "judge.h"
#include "isa.h"
#include "undefined.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MAX_LINES 12u
#define R_CX 1
#define R_DI 7
#define VEC_DB 1u
#define VEC_BP 3u
#define VEC_OF 4u
#define VEC_UD 6u
#define VEC_GP 13u
#define VEC_PF 14u
#define VEC_AC 17u
#define PF_PRESENT 1u
#define PF_USER 4u
#define PF_FETCH 16u
#define X87_STATE_SIZE 160u
#define USER_END 0x7ffffffff000ull
#define VSYSCALL 0xffffffffff600000ull /* the one page that Linux itself has in every process, at a kernel address */

struct report {
	char *text;
	size_t size, used;
	u32 n;
};

static void differ(struct report *r, const char *fmt, ...) printf_like(2, 3);
static void differ(struct report *r, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (r->n++ >= MAX_LINES)
		return;
	va_start(ap, fmt);
	n = vsnprintf(r->text + r->used, r->size - r->used, fmt, ap);
	va_end(ap);
	if (n > 0 && r->used + (size_t)n < r->size)
		r->used += (size_t)n;
}

static void compare_u64(struct report *r, const char *name, u64 cpu, u64 engine)
{
	if (cpu != engine)
		differ(r, "  %-8s cpu %016llx  engine %016llx\n", name, (unsigned long long)cpu, (unsigned long long)engine);
}

static void compare_ending(struct report *r, const struct cpu_result *cpu, const struct cpu_result *engine, const struct judge_notes *notes)
{
	u32 mask = ~0u;

	if (notes->any_fault && cpu->rip == engine->rip && cpu->vector != engine->vector)
		return;

	compare_u64(r, "end", cpu->end, engine->end);
	compare_u64(r, "vector", cpu->vector, engine->vector);
	compare_u64(r, "rip", cpu->rip, engine->rip);
	/* For addresses beyond the user's Linux reports every fault as a protection violation. */
	if (cpu->vector == VEC_PF && cpu->cr2 >= USER_END)
		mask = ~PF_PRESENT;
	if (cpu->vector == VEC_PF && notes->ring0)
		mask &= ~PF_USER;
	compare_u64(r, "error", cpu->error & mask, engine->error & mask);
	if (cpu->vector == VEC_PF && engine->vector == VEC_PF && !notes->any_fault && !notes->any_fault_byte)
		compare_u64(r, "cr2", cpu->cr2, notes->short_cr2 ? (u32)engine->cr2 : engine->cr2);
}

static void compare_registers(struct report *r, const struct cpu_result *cpu, const struct cpu_result *engine,
			      const struct judge_notes *notes)
{
	u64 mask = notes->bits32 ? 0xffffffffull : ~0ull, undefined = notes->undefined;
	static const char *const names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					      "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

	for (u32 i = 0; i < (notes->bits32 ? 8u : 16u); i++)
		compare_u64(r, names[i], cpu->gpr[i] & mask, engine->gpr[i] & mask);
	compare_u64(r, "rflags", cpu->rflags & ~undefined, engine->rflags & ~undefined);
	compare_u64(r, "fs_base", cpu->fs_base, engine->fs_base);
	compare_u64(r, "gs_base", cpu->gs_base, engine->gs_base);
}

static void compare_bytes(struct report *r, const char *name, u64 origin, const u8 *cpu, const u8 *engine, u32 len)
{
	u64 a, b;

	if (!memcmp(cpu, engine, len))
		return;
	for (u32 i = 0; i + 8 <= len; i += 8) {
		memcpy(&a, cpu + i, 8);
		memcpy(&b, engine + i, 8);
		if (a != b)
			differ(r, "  %s %llx: cpu %016llx  engine %016llx\n", name, (unsigned long long)(origin + i), (unsigned long long)a,
			       (unsigned long long)b);
	}
}

/* Which of two exceptions comes first is open:
 * - for an access that is both misaligned and not allowed, of #AC and #PF;
 * - for bytes that are no instruction, at the end of the code, of #UD and the #PF of fetching the next one: no manual says how many bytes such
 *   an instruction has (EAh in 64-bit mode has six on Zen 4). */
static bool left_open(const struct cpu_result *cpu, const struct cpu_result *engine)
{
	u32 other = cpu->vector == VEC_PF ? engine->vector : cpu->vector;
	u64 cr2 = cpu->vector == VEC_PF ? cpu->cr2 : engine->cr2;

	if (cpu->end != END_FAULT || engine->end != END_FAULT || cpu->rip != engine->rip)
		return false;
	if (cpu->vector != VEC_PF && engine->vector != VEC_PF)
		return false;
	return other == VEC_AC || (other == VEC_UD && (cr2 == CASE_CODE + CASE_CODE_SIZE || cr2 == CASE_CODE_W + CASE_CODE_SIZE));
}

u32 judge_compare(const struct cpu_result *cpu, const struct cpu_result *engine, const struct judge_notes *notes, char *text, size_t size)
{
	struct report r = {.text = text, .size = size};
	u32 from = notes->mmx_fault ? X87_STATE_SIZE : 0;

	text[0] = 0;
	if (left_open(cpu, engine))
		return 0;
	compare_ending(&r, cpu, engine, notes);
	compare_registers(&r, cpu, engine, notes);
	compare_bytes(&r, "xsave+", from, cpu->xsave.bytes + from, engine->xsave.bytes + from, CASE_XSAVE_SIZE - from);
	compare_u64(&r, "code sum", cpu->code, engine->code);
	compare_bytes(&r, "memory", CASE_DATA, cpu->data, engine->data, CASE_DATA_ALL);
	if (engine->note[0] && r.n)
		differ(&r, "  engine says: %s\n", engine->note);
	return r.n;
}

/* What the CPU finds at an instruction's address: what the trace says, since code may change. */
struct site {
	u64 rip;
	const u64 *gpr; /* before it */
	const u8 *code;
	u32 len;
};

static struct site site_at_start(const struct cpu_case *c)
{
	return (struct site){.rip = case_start_rip(c), .gpr = c->gpr, .code = c->code, .len = c->code_len};
}

static struct site site_of_step(const struct native_step *s)
{
	return (struct site){.rip = s->rip, .gpr = s->gpr, .code = s->code, .len = s->len};
}

static bool decode_at(const struct forms *forms, const struct site *at, ZydisDecodedInstruction *in, ZydisDecodedOperand *op)
{
	return at->len && ZYAN_SUCCESS(ZydisDecoderDecodeFull(&forms->decoder, at->code, at->len, in, op));
}

/* Did the CPU get as far as the operands of what ended the case? #UD and #GP (more than 15 bytes) are about the bytes, as is a page fault of the
 * fetch. */
static bool ended_behind_decoding(const struct cpu_result *cpu)
{
	if (cpu->vector == VEC_PF)
		return !(cpu->error & PF_FETCH);
	return cpu->vector != VEC_UD && cpu->vector != VEC_GP;
}

/* The opcode behind 0Fh where LOCK (F0h) is among the prefixes, and the ModRM byte behind that. */
static const u8 *locked_0f(const struct site *at)
{
	for (u32 i = 0; i + 2 < at->len && i < 15; i++)
		if (at->code[i] == 0x0f)
			return memchr(at->code, 0xf0, i) ? at->code + i + 1 : NULL;
	return NULL;
}

/* What AMD's CPUs carry out with LOCK although the manuals refuse it: MOV to or from CR0 is one of CR8, which CPUID does not announce to guests
 * (80000001h ECX bit 4); VERW (0F 00 /5) is VERW. */
static bool is_locked_but_carried_out(const struct site *at)
{
	const u8 *op = locked_0f(at);

	return op && ((op[0] & 0xfd) == 0x20 || (op[0] == 0 && (op[1] >> 3 & 7) == 5));
}

/* VPERMQ and VPERMPD without the W that the manuals ask for: Zen 4 carries them out. */
static bool is_permute_without_w(const struct site *at)
{
	for (u32 i = 0; i + 3 < at->len && i < 15; i++)
		if (at->code[i] == 0xc4)
			return (at->code[i + 1] & 0x1f) == 3 && (at->code[i + 2] & 0x87) == 5 && at->code[i + 3] <= 1;
	return false;
}

static bool is_prefix(const struct forms *forms, u8 b)
{
	static const u8 legacy[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3};

	return memchr(legacy, b, sizeof(legacy)) || (forms->decoder.stack_width == ZYDIS_STACK_WIDTH_64 && (b & 0xf0) == 0x40);
}

/* An instruction with prefixes that it must not have (#UD) which make it longer than 15 bytes (#GP): no manual says which comes first. */
static bool is_too_long_besides(const struct forms *forms, const struct site *at)
{
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	u32 n = 0;

	if (at->len < ZYDIS_MAX_INSTRUCTION_LENGTH)
		return false;
	while (n < ZYDIS_MAX_INSTRUCTION_LENGTH && is_prefix(forms, at->code[n]))
		n++;
	return ZydisDecoderDecodeFull(&forms->decoder, at->code + n, ZYDIS_MAX_INSTRUCTION_LENGTH - n, &in, op) ==
	       ZYDIS_STATUS_NO_MORE_DATA;
}

/* A repeated store over its own bytes: the CPU looks at them again when it was interrupted, if at all. */
static bool stores_over_itself(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op, const struct site *at)
{
	u64 count = at->gpr[R_CX] < CASE_CODE_SIZE ? at->gpr[R_CX] : CASE_CODE_SIZE, away;

	if (in->meta.category != ZYDIS_CATEGORY_STRINGOP || op[0].type != ZYDIS_OPERAND_TYPE_MEMORY ||
	    !(op[0].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
		return false;
	away = op[0].size / 8 * (count + 1) + in->length;
	return at->gpr[R_DI] - (at->rip - away) <= 2 * away;
}

/* Behind a CALL or PUSH, Zen 4 broadcasts the stack pointer as it was before (seen with VPBROADCASTW ymm, esp). */
static bool stale_stack_pointer(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
	if (in->encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX)
		return false;
	for (u32 i = 0; i < in->operand_count_visible; i++)
		if (op[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, op[i].reg.value) == ZYDIS_REGISTER_RSP)
			return true;
	return false;
}

/* CPUs carry out some of what no manual has; the engines refuse it. Zen 4: VERW with LOCK, VAESDEC with EVEX.z and no mask, VPERMQ with VEX.W = 0. */
static bool judge_step(const struct forms *forms, forms_has_fn has, const struct cpu_case *c, const struct site *at,
		       struct judge_notes *notes)
{
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	u64 read;

	if (!decode_at(forms, at, &in, op)) {
		snprintf(notes->why, sizeof(notes->why), "executed at %llx what is no instruction", (unsigned long long)at->rip);
		return !at->len;
	}
	if (c->writable && stores_over_itself(&in, op, at)) {
		snprintf(notes->why, sizeof(notes->why), "%s at %llx stores over itself", ZydisMnemonicGetString(in.mnemonic),
			 (unsigned long long)at->rip);
		return false;
	}
	if (!forms_allowed(&in, has) || (!c->ring && !isa_same_in_ring0(&in))) {
		snprintf(notes->why, sizeof(notes->why), "executed %s at %llx", ZydisMnemonicGetString(in.mnemonic),
			 (unsigned long long)at->rip);
		return false;
	}
	read = in.cpu_flags ? in.cpu_flags->tested & notes->undefined : 0;
	if (read) {
		snprintf(notes->why, sizeof(notes->why), "%s at %llx reads undefined flags %llx", ZydisMnemonicGetString(in.mnemonic),
			 (unsigned long long)at->rip, (unsigned long long)read);
		return false;
	}
	if (stale_stack_pointer(&in, op)) {
		snprintf(notes->why, sizeof(notes->why), "%s at %llx reads rsp", ZydisMnemonicGetString(in.mnemonic),
			 (unsigned long long)at->rip);
		return false;
	}
	if (undefined_result(&in, op, at->gpr)) {
		snprintf(notes->why, sizeof(notes->why), "%s at %llx has an undefined result", ZydisMnemonicGetString(in.mnemonic),
			 (unsigned long long)at->rip);
		return false;
	}
	notes->undefined = undefined_flags_after(&in, op, at->gpr, notes->undefined);
	return true;
}

/* How many instructions the case completed: the one that faulted at the end has changed no flags, and where the case's own TF ended it
 * the traced run went on. */
static u32 completed_steps(const struct cpu_case *c, const struct cpu_result *cpu, const struct native_trace *t)
{
	u64 last = t->n ? t->step[t->n - 1].rip : case_start_rip(c);

	for (u32 i = 0; i < t->n && cpu->vector == VEC_DB; i++)
		if (t->step[i].rip == cpu->rip && !memcmp(t->step[i].gpr, cpu->gpr, sizeof(cpu->gpr)))
			return i + 1;
	return t->n + (last != cpu->rip);
}

static bool is_one_of(ZydisMnemonic m, const u16 *list, u32 n)
{
	for (u32 i = 0; i < n; i++)
		if (list[i] == (u16)m)
			return true;
	return false;
}

/* Zen 4 reads eight of them first, and finds out later that the others have no address. */
static bool has_ten_bytes(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
	for (u32 i = 0; i < in->operand_count; i++)
		if (op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && op[i].size == 80)
			return true;
	return false;
}

/* What is open about the instruction that ended the case with a fault. */
static void judge_last(const struct forms *forms, forms_has_fn has, const struct cpu_case *c, const struct cpu_result *cpu,
		       const struct site *at, struct judge_notes *notes)
{
	static const u16 two_reads[] = {ZYDIS_MNEMONIC_CMPSB, ZYDIS_MNEMONIC_CMPSW, ZYDIS_MNEMONIC_CMPSD, ZYDIS_MNEMONIC_CMPSQ};
	static const u16 piecemeal[] = {ZYDIS_MNEMONIC_FRSTOR, ZYDIS_MNEMONIC_FLDENV,	ZYDIS_MNEMONIC_FXRSTOR, ZYDIS_MNEMONIC_FXRSTOR64,
					ZYDIS_MNEMONIC_XRSTOR, ZYDIS_MNEMONIC_XRSTOR64, ZYDIS_MNEMONIC_XSAVE,	ZYDIS_MNEMONIC_XSAVE64};
	static const u16 masked[] = {ZYDIS_MNEMONIC_VPMASKMOVD, ZYDIS_MNEMONIC_VPMASKMOVQ, ZYDIS_MNEMONIC_VMASKMOVPS,
				     ZYDIS_MNEMONIC_VMASKMOVPD};
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];

	if (!decode_at(forms, at, &in, op)) {
		notes->excused = at->len && (ended_behind_decoding(cpu) || is_locked_but_carried_out(at) || is_permute_without_w(at) ||
					     is_too_long_besides(forms, at));
		return;
	}
	if (!forms_allowed(&in, has) || (c->writable && stores_over_itself(&in, op, at)) || (!c->ring && !isa_same_in_ring0(&in))) {
		notes->excused = true;
		snprintf(notes->why, sizeof(notes->why), "%s is no part of cases", ZydisMnemonicGetString(in.mnemonic));
	}
	notes->any_fault = is_one_of(in.mnemonic, two_reads, ARRAY_SIZE(two_reads));
	notes->any_fault_byte = is_one_of(in.mnemonic, piecemeal, ARRAY_SIZE(piecemeal));
	if (has_ten_bytes(&in, op) && cpu->vector == VEC_PF && cpu->cr2 >= USER_END && cpu->cr2 < 1ull << 47) {
		notes->excused = true;
		snprintf(notes->why, sizeof(notes->why), "the operand at %llx ends at no address", (unsigned long long)cpu->cr2);
	}
	notes->short_cr2 = in.address_width == 32 && c->bits == 64 && is_one_of(in.mnemonic, masked, ARRAY_SIZE(masked));
	notes->mmx_fault = in.meta.isa_ext == ZYDIS_ISA_EXT_MMX || in.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ;
}

static bool goes_elsewhere(const ZydisDecodedInstruction *in)
{
	switch (in->meta.category) {
	case ZYDIS_CATEGORY_COND_BR:
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_STRINGOP:
		return true;
	default:
		return false;
	}
}

/* A POPF from outside the data has cleared TF: what came behind it was not traced, until another one set it. */
static bool is_out_of_sight(const struct forms *forms, const struct site *at, u64 next)
{
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];

	return decode_at(forms, at, &in, op) && !goes_elsewhere(&in) && next != at->rip + in.length;
}

/* The trace ends elsewhere than the case: TF was cleared in it, or the case has looked at TF. INT3 and INTO leave rip behind them. */
static bool is_lost(const struct forms *forms, const struct cpu_result *cpu, const struct site *last)
{
	return (cpu->vector != VEC_BP && cpu->vector != VEC_OF) || is_out_of_sight(forms, last, cpu->rip);
}

static void lose(struct judge_notes *notes, u64 rip)
{
	notes->excused = true;
	snprintf(notes->why, sizeof(notes->why), "could not be traced beyond %llx", (unsigned long long)rip);
}

void judge_trace(const struct forms *forms, forms_has_fn has, const struct cpu_case *c, const struct cpu_result *cpu,
		 const struct native_trace *t, struct judge_notes *notes)
{
	u32 steps = completed_steps(c, cpu, t);
	struct site last = t->n ? site_of_step(&t->step[t->n - 1]) : site_at_start(c), at;

	memset(notes, 0, sizeof(*notes));
	if (PAGE_BASE(cpu->rip) == VSYSCALL) {
		notes->excused = true;
		snprintf(notes->why, sizeof(notes->why), "went to the host's vsyscall page");
		return;
	}
	notes->ring0 = !c->ring;
	notes->bits32 = c->bits == 32;
	if (last.rip == cpu->rip)
		judge_last(forms, has, c, cpu, &last, notes);
	if (t->n == NATIVE_TRACE || (steps > t->n && is_lost(forms, cpu, &last)))
		lose(notes, last.rip);
	for (u32 i = 0; i < steps && !notes->excused; i++) {
		at = i ? site_of_step(&t->step[i - 1]) : site_at_start(c);
		notes->excused = !judge_step(forms, has, c, &at, notes);
		if (!notes->excused && i < t->n && is_out_of_sight(forms, &at, t->step[i].rip))
			lose(notes, at.rip);
	}
}
