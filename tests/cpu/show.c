/* SPDX-License-Identifier: Apache-2.0 */
/* See show.h. */
#include "show.h"

#include <stdio.h>
#include <string.h>

static void show_insn(const struct forms *forms, const ZydisFormatter *fmt, const struct cpu_case *c, u32 i)
{
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	const u8 *bytes = c->code + c->offset[i];
	u64 rip = case_start_rip(c) + c->offset[i];
	char text[128] = "(does not decode)", hex[64] = "";

	for (u32 k = 0; k < c->insn[i].len; k++)
		snprintf(hex + 2 * k, sizeof(hex) - 2 * k, "%02x", bytes[k]);
	if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&forms->decoder, bytes, c->insn[i].len, &in, op)))
		ZydisFormatterFormatInstruction(fmt, &in, op, in.operand_count_visible, text, sizeof(text), rip, NULL);
	printf("  %llx: %-30s %s\n", (unsigned long long)rip, hex, text);
}

void show_case(const struct forms *forms, const struct cpu_case *c)
{
	ZydisFormatter fmt;

	ZydisFormatterInit(&fmt, ZYDIS_FORMATTER_STYLE_INTEL);
	for (u32 i = 0; i < c->n; i++)
		show_insn(forms, &fmt, c, i);
	printf("  %s\n  start:", c->fall_off ? "(end of the code pages)" : "(end marker)");
	for (u32 i = 0; i < 16; i++)
		printf("%s r%u=%llx", i % 8 ? "" : "\n   ", i, (unsigned long long)c->gpr[i]);
	printf("\n    flags=%llx fs=%llx gs=%llx mxcsr=%x fcw=%x fsw=%x ftw=%x xstate_bv=%x\n", (unsigned long long)c->rflags,
	       (unsigned long long)c->fs_base, (unsigned long long)c->gs_base, *(const u32 *)(const void *)(c->xsave.bytes + 24),
	       *(const u16 *)(const void *)c->xsave.bytes, *(const u16 *)(const void *)(c->xsave.bytes + 2), c->xsave.bytes[4],
	       c->xsave.bytes[512]);
}

void show_result(const char *who, const struct cpu_result *r)
{
	static const char *const ends[] = {"fault", "timeout", "system call", "process died", "engine failed"};

	printf("  %-6s: %s, vector %u, error %x, rip %llx, cr2 %llx, flags %llx %s\n", who, ends[r->end], r->vector, r->error,
	       (unsigned long long)r->rip, (unsigned long long)r->cr2, (unsigned long long)r->rflags, r->note);
}
