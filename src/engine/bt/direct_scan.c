/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions that user code may execute and that would show it the host instead of the guest: CPUID, RDTSC, RDTSCP, RDPID, LAR, LSL, SGDT
 * and its kin; SYSENTER and 32-bit code's SYSCALL, where they do not fault; and INT with numbers from which the way back is not exact. A page that
 * holds one is executed only with breakpoints on all of them, if there are enough; RDTSC alone is no harm while the guest's clock is the host's.
 *
 * Their bytes also occur inside other instructions, so a find counts only when decoding leads to it: from at least half of sixteen addresses well
 * before it, or from all where the page before is not known, or from where padding ends. Decoding falls into step within a few instructions wherever
 * it starts. Code that jumps into the middle of its own instructions may escape, or that makes a far jump and goes on as the other kind of code in
 * pages that were searched as this kind; it learns things about the host then, but gains no access.
 */
#include "engine/bt/direct.h"

#include <Zydis/Zydis.h>
#include <string.h>

#define LEAD 80
#define STARTS 16
#define PADDING 8 /* bytes of zeroes, at least: no instruction has that many but for an immediate operand */

/* Bytes around a page: as much of its neighbours as decoding needs. */
struct text {
	u8 byte[LEAD + PAGE_SIZE + 16];
	u32 start, end; /* what is known of it */
	ZydisDecoder decoder;
};

/* 0F: what follows tells about the host's CPU, its descriptor tables or its clock. Where UMIP makes some of these fault, Linux answers in their stead. */
static u8 kind_of_0f(const struct direct_host *host, bool compat, const u8 *op, const u8 *start)
{
	u8 reg = op[2] >> 3 & 7;
	u32 back = op - start < 4 ? (u32)(op - start) : 4;
	bool found = false;
	switch (op[1]) {
	case 0x01: /* SGDT SIDT SMSW; RDPKRU WRPKRU, RDTSCP to RDPRU; the others fault or tell nothing new */
		if (op[2] < 0xc0 || reg == 4)
			found = reg < 2 || reg == 4;
		else
			found = op[2] == 0xee || op[2] == 0xef || (op[2] >= 0xf9 && op[2] <= 0xfd);
		break;
	case 0x05: /* SYSCALL: 64-bit code's comes back as it was, 32-bit code's without rip, ecx and ebp */
		found = compat && host->syscall32;
		break;
	case 0x34: /* SYSENTER */
		found = host->sysenter;
		break;
	case 0x00: /* SLDT STR VERR VERW */
		found = reg < 2 || reg == 4 || reg == 5;
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

/* CD: of the numbers that programs may call, what comes back does not tell where the instruction was, or has lost half of 64-bit code's rax. */
static u8 kind_of(const struct direct_host *host, bool compat, const u8 *op, const u8 *start)
{
	if (op[0] == 0x0f)
		return kind_of_0f(host, compat, op, start);
	return op[1] == VEC_BP || op[1] == VEC_OF || (op[1] == 0x80 && !compat) ? FRAME_SENSITIVE : FRAME_CLEAN;
}

/* The first opcode from p on that kind_of knows. */
static const u8 *next_opcode(const u8 *p, const u8 *end)
{
	while (p < end && *p != 0x0f && *p != 0xcd)
		p++;
	return p < end ? p : NULL;
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

/* Behind the padding between two sections an instruction begins for certain, and whatever decoding makes of the padding says nothing. */
static bool leads_from_padding(const struct text *t, u32 first, u32 at, u8 *known)
{
	u32 zeroes = 0, from = 0;
	for (u32 i = first; i < at; i++) {
		zeroes = t->byte[i] ? 0 : zeroes + 1;
		if (zeroes >= PADDING)
			from = i + 1;
	}
	return from && walk(t, from, at, known) == LEADS;
}

static bool is_instruction(const struct text *t, u32 at)
{
	u8 known[LEAD + 1] = {0};
	u32 first = at - t->start > LEAD ? at - LEAD : t->start, lead = 0, n = 0;
	if (leads_from_padding(t, first, at, known))
		return true;
	for (u32 from = first; n < STARTS && from <= at; from++, n++)
		lead += walk(t, from, at, known) == LEADS;
	return n < STARTS || at - t->start < LEAD ? lead == n : lead * 2 >= n;
}

static void gather(struct text *t, bool compat, const u8 *page, const u8 *before, const u8 *behind)
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
	ZydisDecoderInit(&t->decoder, compat ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LONG_64,
			 compat ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_64);
	ZydisDecoderEnableMode(&t->decoder, ZYDIS_DECODER_MODE_MINIMAL, ZYAN_TRUE);
}

static bool is_prefix(u8 b, bool compat)
{
	return ((b & 0xf0) == 0x40 && !compat) || memchr("\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3", b, 11);
}

/* A breakpoint belongs on an instruction's first byte; with what may be a prefix before it there could be two of them. */
static void add_site(struct direct_sites *s, bool compat, const u8 *op, const u8 *page)
{
	if (s->n < CELL_WATCHES && !is_prefix(op[-1], compat))
		s->at[s->n++] = (i32)(op - page);
	else
		s->n = TOO_MANY_SITES;
}

u8 direct_scan(const struct direct_host *host, u32 how, const u8 *page, const u8 *before, const u8 *behind, struct direct_sites *sites)
{
	bool compat = how & SCAN_COMPAT;
	struct text t;
	gather(&t, compat, page, before, behind);
	/* From the end of the page before: an instruction may begin there. */
	const u8 *p = t.byte + LEAD - (before ? 2 : 0), *end = t.byte + LEAD + PAGE_SIZE;
	u8 worst = FRAME_CLEAN;
	sites->n = 0;
	while ((worst != FRAME_SENSITIVE || sites->n != TOO_MANY_SITES) && (p = next_opcode(p, end))) {
		if (!behind && p + 2 >= end) /* when the page behind comes to be executed, it is looked at from here */
			break;
		u8 kind = kind_of(host, compat, p, t.byte + t.start);
		if (kind != FRAME_CLEAN && is_instruction(&t, (u32)(p - t.byte))) {
			worst = kind > worst ? kind : worst;
			if (kind != FRAME_TSC || !(how & SCAN_TSC))
				add_site(sites, compat, p, t.byte + LEAD);
		}
		p++;
	}
	return worst == FRAME_SENSITIVE && sites->n != TOO_MANY_SITES ? FRAME_WATCHED : worst;
}
