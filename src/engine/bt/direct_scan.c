/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions that user code may execute and that would show it the host instead of the guest: CPUID, RDTSC, RDTSCP, RDPID, LAR and LSL,
 * without UMIP also SGDT and its kin, and where it does not fault SYSENTER. A page that holds one is never executed as it is; RDTSC alone is no
 * harm while the guest's clock is the host's.
 *
 * Their bytes also occur inside other instructions, so a find counts only when decoding leads to it: from at least half of sixteen addresses well
 * before it, or from all where the page before is not known. Decoding falls into step within a few instructions wherever it starts. Code that jumps into the middle of its own instructions may
 * escape; it learns things about the host then, but gains no access.
 */
#include "engine/bt/direct.h"

#include <Zydis/Zydis.h>
#include <string.h>

#define LEAD 80
#define STARTS 16

/* Bytes around a page: as much of its neighbours as decoding needs. */
struct text {
	u8 byte[LEAD + PAGE_SIZE + 16];
	u32 start, end; /* what is known of it */
	ZydisDecoder decoder;
};

/* FRAME_SENSITIVE or FRAME_TSC when these bytes are such an instruction, else FRAME_CLEAN. */
static u8 kind_of(const struct direct_host *host, const u8 *op, const u8 *start)
{
	u8 reg = op[2] >> 3 & 7;
	u32 back = op - start < 4 ? (u32)(op - start) : 4;
	bool found = false;
	switch (op[1]) {
	case 0x00: /* SLDT STR (LLDT LTR fault); VERR and VERW tell what any Linux tells */
		found = !host->umip && reg < 2;
		break;
	case 0x01: /* SGDT SIDT SMSW; RDPKRU WRPKRU, RDTSCP to RDPRU; the others fault or tell nothing new */
		if (op[2] < 0xc0 || reg == 4)
			found = !host->umip && (reg < 2 || reg == 4);
		else
			found = op[2] == 0xee || op[2] == 0xef || (op[2] >= 0xf9 && op[2] <= 0xfd);
		break;
	case 0x34: /* SYSENTER */
		found = host->sysenter;
		break;
	case 0x02: /* LAR */
	case 0x03: /* LSL */
	case 0xa2: /* CPUID */
		found = true;
		break;
	case 0xc7: /* RDPID */
		found = op[2] >= 0xf8 && memchr(op - back, 0xf3, back);
		break;
	case 0x31:
		return FRAME_TSC;
	}
	return found ? FRAME_SENSITIVE : FRAME_CLEAN;
}

enum { NOT_SEEN, LEADS, PASSES };

/* Does decoding from `from` come to an instruction whose opcode lies at `to`, or pass over it? What is learnt is kept for those who come by. */
static u8 walk(const struct text *t, u32 from, u32 to, u8 *known)
{
	ZydisDecodedInstruction in;
	ZydisDecoderContext ctx;
	u32 path[LEAD + 1], n = 0, at = from;
	u8 end = NOT_SEEN;
	while (end == NOT_SEEN) {
		if (at == to || at > to)
			end = at == to ? LEADS : PASSES;
		else if (known[to - at])
			end = known[to - at];
		else if (ZYAN_FAILED(ZydisDecoderDecodeInstruction(&t->decoder, &ctx, t->byte + at, t->end - at, &in)))
			end = PASSES;
		else {
			path[n++] = at;
			if (at + in.length > to)
				end = at + in.raw.prefix_count == to ? LEADS : PASSES;
			at += in.length;
		}
	}
	while (n)
		known[to - path[--n]] = end;
	return end;
}

static bool is_instruction(const struct text *t, u32 at)
{
	u8 known[LEAD + 1] = {0};
	u32 first = at - t->start > LEAD ? at - LEAD : t->start, lead = 0, n = 0;
	for (u32 from = first; n < STARTS && from <= at; from++, n++)
		lead += walk(t, from, at, known) == LEADS;
	return n < STARTS || at - t->start < LEAD ? lead == n : lead * 2 >= n;
}

static void gather(struct text *t, const u8 *page, const u8 *before, const u8 *behind)
{
	t->start = before ? 0 : LEAD;
	t->end = LEAD + PAGE_SIZE + (behind ? 16 : 0);
	if (before)
		memcpy(t->byte, before + PAGE_SIZE - LEAD, LEAD);
	memcpy(t->byte + LEAD, page, PAGE_SIZE);
	if (behind)
		memcpy(t->byte + LEAD + PAGE_SIZE, behind, 16);
	else
		memset(t->byte + LEAD + PAGE_SIZE, 0, 16);
	ZydisDecoderInit(&t->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderEnableMode(&t->decoder, ZYDIS_DECODER_MODE_MINIMAL, ZYAN_TRUE);
}

u8 direct_scan(const struct direct_host *host, const u8 *page, const u8 *before, const u8 *behind)
{
	struct text t;
	gather(&t, page, before, behind);
	/* From the end of the page before: an instruction may begin there. */
	const u8 *p = t.byte + LEAD - (before ? 2 : 0), *end = t.byte + LEAD + PAGE_SIZE;
	u8 worst = FRAME_CLEAN;
	while (worst != FRAME_SENSITIVE && (p = memchr(p, 0x0f, (size_t)(end - p)))) {
		if (!behind && p + 2 >= end) /* when the page behind comes to be executed, it is looked at from here */
			break;
		u8 kind = kind_of(host, p, t.byte + t.start);
		if (kind > worst && is_instruction(&t, (u32)(p - t.byte)))
			worst = kind;
		p++;
	}
	return worst;
}
