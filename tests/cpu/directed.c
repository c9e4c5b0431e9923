/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The list of directed cases, as machine code. Pointers at the start: rbx and rsi data+0x400, rdi data+0x1400, rbp data+0x2400, rsp
 * data+0x3000, r12 the last 3 bytes of the first page, r13 4 bytes before the read-only page, r14 unmapped, r15 the read-only page. rcx is
 * small. In 32-bit code only eax is fixed: unmapped.
 */
#include "directed.h"

#include <string.h>

struct directed {
	const char *name;
	const char *hex; /* instructions separated by spaces */
	u64 set;	 /* bits of RFLAGS, and CODE32 */
};

#define AC 0x40000u
#define DF 0x400u
#define CODE32 (1ull << 63)

static const struct directed cases[] = {
	{"flags live across a load", "4801c8 488b03 4811ca 9c 58", 0},
	{"flags live across a store", "4829c8 488903 0f92c2 0f90c6 9c 58", 0},
	{"flags live across push and pop", "4801c8 50 5a 9c 59", 0},
	{"flags live across a page-straddling load", "4801c8 498b0424 0f98c2 9c 59", 0},
	{"adc chain over memory", "480103 48115308 48114b10 4883531800 9c 58", 0},
	{"inc and dec keep CF", "f9 ff03 fe4b08 0f92c0 f8 48ff4310 0f92c1", 0},
	{"store straddling into the read-only page faults whole", "498945fd 4989450 0", 0},
	{"load straddling into nothing", "4d8b77fd 498b87fa0f0000 498b87fd0f0000", 0},
	{"store to the read-only page", "490107", 0},
	{"locked add across a page", "f049010424 9c 58", 0},
	{"cmpxchg hit and miss", "488b03 480fb10b 4883c001 480fb10b 9c 5a", 0},
	{"cmpxchg to read-only memory faults even on a miss", "4d0fb10f", 0},
	{"cmpxchg16b aligned", "480fc70b 9c 58", 0},
	{"cmpxchg16b misaligned is #GP", "480fc74b08", 0},
	{"xadd with itself", "480fc1c0 480fc103 480fc11b", 0},
	{"xchg with memory", "488703 868300010000 6687a300010000", 0},
	{"push rsp and pop rsp", "54 58 54 5c 54", 0},
	{"pop into memory through rsp", "8f0424 8f442408 66 8f0424", 0},
	{"push of memory through rsp", "ff3424 ff742408 66ff3424", 0},
	{"pushf and popf", "9c 5a 4881f2d50c0000 52 9d 9c 58", 0},
	{"popf can set AC: misaligned access then #AC", "9c 810c2400000400 9d 488b4301", 0},
	{"popf sets TF, and the popf stepped over clears it", "6802020000 9c 810c2400010000 9d 669d 90", 0},
	{"popf sets ID and NT", "9c 810c2400402000 9d 9c 58", 0},
	{"what a case before left in ID and NT is gone", "9c 58", 0},
	{"ldmxcsr with MM, which AMD's CPUs have", "c703801f0200 0fae13 0fae5b04", 0},
	{"AC set: aligned accesses pass", "488b03 8b4304 668b4302 8a4301", AC},
	{"AC set: misaligned store", "48894301", AC},
	{"AC set: movups is exempt, movdqu too", "0f104301 f30f6f4b03", AC},
	{"AC set: push on a misaligned stack", "48ffcc 50", AC},
	{"high bytes", "88e0 00fc 30c5 86e7 20ee fec4 c0e403 0fb6c4 0fbefc 8a23 8833", 0},
	{"REX makes spl sil", "4088e0 4000fc 4030c5 4088f0", 0},
	{"fifteen bytes, renamed", "448bb6ad000000 c461fc51be91fdffff 66f0f2f3488196f9fdffffffffffff 9c 58", 0},
	{"REX before another prefix is ignored", "486603c3 4f2e8b03", 0},
	{"segment overrides without effect", "2e8b03 368b03 3e8b03 268b03", 0},
	{"67h wraps at 4 GiB", "67488d43ff 678b03 67ff33", 0},
	{"rep movsb forward", "b910000000 f3a4", 0},
	{"rep movsb backward", "b910000000 f3a4", DF},
	{"rep movsq overlapping", "488d7e01 b914000000 f348a5", 0},
	{"rep movsq overlapping backward", "488d7ef9 b914000000 f348a5", DF},
	{"rep stosd into the read-only page stops with partial state", "498dbd00ffffff b900010000 f3ab", 0},
	{"rep movsb whose source ends", "498d b7f00f0000 b940000000 f3a4", 0},
	{"rep stos in all sizes", "f9 b905000000 f3aa b905000000 66f3ab b905000000 f3ab b905000000 f348ab 9c 58", 0},
	{"rep movs in all sizes", "f9 b905000000 f3a4 b905000000 66f3a5 b905000000 f3a5 b905000000 f348a5 9c 58", 0},
	{"rep stosb up to a page's end", "498d7c24f0 b913000000 f3aa", 0},
	{"rep stosb over a page's end", "498d7c24f0 b914000000 f3aa", 0},
	{"rep stosb of a page", "4881e700f0ffff b900100000 f3aa", 0},
	{"rep movsb from over a page's end", "498d7424f0 b914000000 f3a4", 0},
	{"rep movsb to over a page's end", "498d7c24f0 b914000000 f3a4", 0},
	{"rep movsb of a page", "4881e600f0ffff 4881e700f0ffff b900100000 f3a4", 0},
	{"rep stosq of elements whose bytes are 8", "48b90100000000000020 f348ab", 0},
	{"rep movsq of elements whose bytes are 8", "48b90100000000000020 f348a5", 0},
	{"rep stosb to no canonical address", "c60701 480fbaef3e 31c9 f3aa b904000000 f3aa", 0},
	{"rep movsb from no canonical address", "8a06 c60701 480fbaee3e 31c9 f3a4 b904000000 f3a4", 0},
	{"rep stosb beyond the last canonical address", "48bffdffffffff7f0000 b904000000 f3aa", 0},
	{"rep movsb over itself and an access beside it", "8b4304 488b4b08 b920000000 488d7e08 f3a4 8b5308 488b4310", 0},
	{"repe cmpsb", "b940000000 f3a6 9c 58", 0},
	{"repne scasw", "b940000000 66f2af 9c 58", 0},
	{"rep with count 0 touches nothing", "31c9 4c89f7 4c89f6 f3a4 f3aa f3a6", 0},
	{"rep with 32-bit count", "48b90500000001000000 67f3a4", 0},
	{"lods in all sizes", "ac 66ad ad 48ad f348ad", 0},
	{"string with fs source", "64a4 64ac 65a5", 0},
	{"xlat", "4831c0 b007 d7 64d7", 0},
	{"bt with far register offsets", "48c7c0c0fdffff 480fa303 480fab03 480fb303 480fbb03 9c 58", 0},
	{"bt 16-bit register offset is signed", "66b8f0ff 660fab03", 0},
	{"bt with immediate stays inside the operand", "480fba23ff 0fba2b25 66 0fba3bff", 0},
	{"locked bts", "f0480fab0b f00fba3307", 0},
	{"shifts by cl of 0", "31c9 48d3e0 d3fa 66d3eb d2cc 9c 58", 0},
	{"shifts by one", "48d1e0 d1fa 66d1eb d0cc d0d4 48d1df", 0},
	{"rcl and rcr by 9 on bytes", "c0d009 c0d809 9c 58", 0},
	{"rcl by 17 on words", "66c1d011 66c1d811 9c 58", 0},
	{"shld and shrd", "480fa4d005 480fadda 0fa403 1f 9c 58", 0},
	{"mul and imul", "48f7e1 48f7eb 480fafc3 486bc0f9 6669c10102 f6e1", 0},
	{"div fits", "31d2 48c7c1 07000000 48f7f1", 0},
	{"div by zero", "31c9 48f7f1", 0},
	{"div overflow", "31c0 48c7c2ffffffff 48c7c101000000 48f7f1", 0},
	{"idiv of the most negative", "48b80000000000000080 4899 48c7c1ffffffff 48f7f9", 0},
	{"idiv byte", "66b88000 b1ff f6f9", 0},
	{"div by memory", "31d2 48f733", 0},
	{"bswap", "480fc8 0fc9 410fcf", 0},
	{"movbe", "480f38f003 0f38f10b 66 0f38f013", 0},
	{"crc32", "f20f38f0c1 f2480f38f103 66f20f38f1c3", 0},
	{"popcnt lzcnt tzcnt of zero", "31c9 f3480fb8c1 9c f30fbdd1 9c f3480fbcc1 9c", 0},
	{"bsf of zero keeps the destination", "31c9 480fbcc1 0fbdd9", 0},
	{"pdep pext", "c4e2fbf5c1 c4e2faf5d3", 0},
	{"mulx with both outputs the same", "c4e2fbf6c1 c462fbf6cb", 0},
	{"adcx adox", "f9 66480f38f6c1 f3480f38f6d3 9c 58", 0},
	{"sahf lahf", "9e 9f 86c4 9e 9f", 0},
	{"cmov from memory faults though false", "39c0 490f4506", 0},
	{"setcc to memory", "39c8 0f9203 0f984301", 0},
	{"enter and leave", "c8100000 c9 c8080001 c9", 0},
	{"enter with nesting", "c8100005 c9", 0},
	{"call and ret", "e800000000 58 e800000000 4883c404", 0},
	{"ret with pop bytes", "488d0505000000 50 c21000", 0},
	{"jump to a non-canonical address", "48b80000000000800000 ffe0", 0},
	{"ret to a non-canonical address", "48b80000000000800000 50 c3", 0},
	{"call to data is a fetch fault", "ffd3", 0},
	{"call pushes before the fetch fault", "41ffd6", 0},
	{"jump through unmapped memory", "41ff26", 0},
	{"push to unmapped memory", "4c89f4 50", 0},
	{"push to a non-canonical stack is #SS", "48b80001000000800000 4889c4 50", 0},
	{"non-canonical load is #GP", "48b80000000000800000 488b00", 0},
	{"non-canonical load through rbp is #SS", "48bd0000000000800000 488b4500", 0},
	{"access across the canonical boundary", "48b8fcff ffffff7f0000 488b00", 0},
	{"access across the end of the address space", "48c7c0fcffffff 488b00", 0},
	{"int3", "90 cc", 0},
	{"ud2", "0f0b", 0},
	{"ud1 with a memory operand", "0fb903", 0},
	{"int n not allowed is #GP with the gate's index", "cd21", 0},
	{"hlt", "f4", 0},
	{"cli", "fa", 0},
	{"in and out", "e460", 0},
	{"out", "ee", 0},
	{"mov from cr0", "0f20c0", 0},
	{"mov from cr1", "0f20c8", 0},
	{"wrmsr", "0f30", 0},
	{"rdmsr", "0f32", 0},
	{"rdfsbase wrfsbase", "f3480faec0 f30faed1 f3480faec8 f3480faedb f3480faec2", 0},
	{"wrgsbase non-canonical", "48b80000000000800000 f3480faed8", 0},
	{"lock on a register is #UD", "f04801c0", 0},
	{"lock on mov is #UD", "f0488903", 0},
	{"16 bytes of prefixes are #GP", "66666666666666666666666666666603c3", 0},
	{"lea with a register is #UD", "488dc0", 0},
	{"movaps misaligned", "0f284301", 0},
	{"movaps misaligned on an unmapped page is #GP first", "410f284601", 0},
	{"movntdqa and movntps", "660f382a03 0f2b03 660fe70b", 0},
	{"maskmovdqu with mask zero at unmapped memory", "660fefc9 4c89f7 660ff7c1", 0},
	{"vmaskmov does not fault for masked lanes", "c5f1efc9 c4c2712c06 c4c2712e06", 0},
	{"page-straddling 512-bit load", "62d1fe486f0424 62d1fe487f442401", 0},
	{"masked 512-bit store that only touches good bytes", "62f1fd48efc0 b803000000 c4e1fb92c8 62d17e497f4500", 0},
	{"sse #XM divide by zero unmasked", "c7030 0100000 0fae13 0f5ec1", 0},
	{"ldmxcsr with reserved bits", "c703ffffffff 0fae13", 0},
	{"stmxcsr", "0fae1b 0fae5b04", 0},
	{"x87 stack overflow", "d9e8 d9e8 d9e8 d9e8 d9e8 d9e8 d9e8 d9e8 d9e8 dfe0", 0},
	{"x87 unmasked divide by zero is reported by the next instruction", "dbe3 c7034003 0000 d92b d9ee d9e8 def1 d9e8", 0},
	{"fwait reports #MF", "dbe3 c70340030000 d92b d9ee d9e8 def1 90 9b", 0},
	{"x87 unmasked, store to memory not done", "dbe3 c70300030000 d92b d9ee d9ee d8f1 db3b", 0},
	{"fcomi to flags", "dbe3 d9e8 d9ee dbf1 9c 58", 0},
	{"x87 loads and stores in all sizes", "dbe3 d903 dd4308 db6b10 df4320 db4324 df6b28 d95b40 dd5b48 db7b50", 0},
	{"fbld fbstp", "dbe3 d9eb df33 df23", 0},
	{"fild fistp rounding", "dbe3 d9eb df3b db5b08 dd4b10", 0},
	{"mmx and x87 share registers", "dbe3 d9e8 0f6f03 0ffec1 0f7f4308 dfe0 0f77", 0},
	{"vzeroupper keeps low halves", "c5fc1003 c5f877 c5fc114320", 0},
	{"sse keeps upper halves, avx clears them", "0f1003 c5f8100b c5fc114320 c5fc114b40", 0},
	{"gather", "c5f9efc0 c5f176c9 c4e2719004 83", 0},
	{"gather with a fault in the middle", "c5f176c9 c4c271900406", 0},
	{"opmask to flags", "c5f898c0 9c 58 c4e1f898c1 9c 5a", 0},
	{"clflush and prefetch of unmapped memory", "410f1806 410f180e 0fae3b", 0},
	{"clflush of unmapped memory faults", "410fae3e", 0},
	{"nop with a memory operand does not access it", "410f1f06 66410f1f8600010000", 0},
	{"endbr64 and rdsspq are nops", "f30f1efa f3480f1ec8", 0},
	{"pause lfence mfence sfence", "f390 0faee8 0faef0 0faef8", 0},
	{"vgf2p8affineqb reads what its mask leaves out", "c4e1f447c9 62d3f549ce0601", 0},
	{"vgf2p8affineinvqb too, zeroing", "c4e1f447c9 62d3f589cf0601", 0},
	{"vgf2p8affineqb with a broadcast", "c4e1f447c9 62d3f559ce0601", 0},
	{"vgf2p8affineqb from two pages", "c4e1f447c9 62d3f549ce8424e0ffffff01", 0},
	{"vgf2p8mulb with an empty mask", "c4e1f447c9 62d27549cf06", 0},
	{"maskmovdqu across the canonical boundary, all bytes", "660f76c9 48bff8ffffffff7f0000 660ff7c1", 0},
	{"maskmovdqu across the canonical boundary, no bytes", "660fefc9 48bff8ffffffff7f0000 660ff7c1", 0},
	{"maskmovdqu across the canonical boundary, in its first half", "660f76c9 48bffcffffffff7f0000 660ff7c1", 0},
	{"maskmovdqu across the canonical boundary, in its second half", "660f76c9 48bff4ffffffff7f0000 660ff7c1", 0},
	{"maskmovdqu across the canonical boundary, low bytes", "b8ffff0000 660f6ec8 48bff8ffffffff7f0000 660ff7c1", 0},
	{"maskmovdqu across the canonical boundary, high bytes", "660f76c9 660f73f908 48bff8ffffffff7f0000 660ff7c1", 0},
	{"maskmovdqu up to the canonical boundary", "660f76c9 48bff0ffffffff7f0000 660ff7c1", 0},
	{"maskmovdqu below the lowest high address", "660f76c9 48bff8ffffffff7fffff 660ff7c1", 0},
	{"maskmovdqu where the addresses wrap", "660f76c9 48bff8ffffffffffffff 660ff7c1", 0},
	{"maskmovdqu into the last page, misaligned", "660f76c9 48bff9efffffff7f0000 660ff7c1", 0},
	{"maskmovq across the canonical boundary", "0f76c9 48bffcffffffff7f0000 0ff7c1", 0},
	{"call through a register, across the canonical boundary", "48bc0100000000800000 4c8d1505000000 41ffd2 90", 0},
	{"call through memory, across the canonical boundary", "48bc0100000000800000 ff13", 0},
	{"call, across the canonical boundary", "48bc0300000000800000 e800000000", 0},
	{"push, across the canonical boundary", "48bc0700000000800000 50", 0},
	{"pop, across the canonical boundary", "48bcfdffffffff7f0000 58", 0},
	{"ret, across the canonical boundary", "48bcfdffffffff7f0000 c3", 0},
	{"store, across the canonical boundary", "48bbfdffffffff7f0000 488903", 0},
	{"vbroadcasti64x2, all of its mask, across the canonical boundary", "48bbf5ffffffff7f0000 b8ff000000 c5f892c8 62f2fdc95a33", 0},
	{"vbroadcasti64x2, the upper half, across the canonical boundary", "48bbf5ffffffff7f0000 b8aa000000 c5f892c8 62f2fdc95a33", 0},
	{"masked vmovdqu64 across the canonical boundary", "48bbf5ffffffff7f0000 b8ff000000 c5f892c8 62f1fe896f33", 0},
	{"masked vmovdqu64 to across the canonical boundary", "48bbf5ffffffff7f0000 b8ff000000 c5f892c8 62f1fe097f33", 0},
	{"vbroadcasti32x2, all of its mask, across the canonical boundary", "48bbf9ffffffff7f0000 b80f000000 c5f892c8 62f27dc95933", 0},
	{"vmaskmovpd across the canonical boundary", "48bbf5ffffffff7f0000 c5f176c9 c4e2712d03", 0},
	{"vmaskmovpd to across the canonical boundary", "48bbf5ffffffff7f0000 c5f176c9 c4e2712f03", 0},
	{"far return from unmapped memory", "4c89f4 48cb", 0},
	{"far return, selector in unmapped memory", "498da7fc0f0000 cb", 0},
	{"far return to another level, stack in unmapped memory", "498da7f80f0000 cb", 0},
	{"far return, popping up to unmapped memory", "498da7e00f0000 ca1000", 0},
	{"iretq from unmapped memory", "4c89f4 48cf", 0},
	{"iret of 32 bits from unmapped memory", "4c89f4 cf", 0},
	{"iret of 16 bits from unmapped memory", "4c89f4 66cf", 0},
	{"iretq, selector and flags in unmapped memory", "498da7f80f0000 48cf", 0},
	{"iretq, stack in unmapped memory", "498da7e80f0000 48cf", 0},
	{"iretq, flags across the end of memory", "498da7ec0f0000 48cf", 0},
	{"fs offset not canonical, nothing at the sum", "41b800100000 f3490faed0 49b80000000000 80ffff 64410398 91f0ffff", 0},
	{"gs offset not canonical, nothing at the sum", "41b800100000 f3490faed8 49b80000000000 80ffff 65418998 91f0ffff", 0},
	{"kmov with VEX.W moves 64 bits", "c4e1fb93cc c4e1fb92e1", CODE32},
	{"kmov with VEX.W from and to esp", "c4e1fb93e4 c4e1fb92ec c5fb93c5", CODE32},
	{"far return from unmapped memory, 32-bit code", "89c4 cb", CODE32},
	{"iret from unmapped memory, 32-bit code", "89c4 cf", CODE32},
};

u32 directed_count(void)
{
	return ARRAY_SIZE(cases);
}
const char *directed_name(u32 i)
{
	return cases[i].name;
}
u8 directed_bits(u32 i)
{
	return cases[i].set & CODE32 ? 32 : 64;
}

static int nibble(char ch)
{
	if (ch >= '0' && ch <= '9')
		return ch - '0';
	return ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

static void fixed_registers(struct cpu_case *c)
{
	if (c->bits == 32) { /* eax is r14's deputy */
		c->gpr[0] = 0x30000000;
		return;
	}
	c->gpr[1] &= 0x3f;
	c->gpr[3] = c->gpr[6] = CASE_DATA + 0x400;
	c->gpr[7] = CASE_DATA + 0x1400;
	c->gpr[5] = CASE_DATA + 0x2400;
	c->gpr[4] = CASE_DATA + 0x3000;
	c->gpr[12] = CASE_DATA + 0x1000 - 3;
	c->gpr[13] = CASE_ROM - 4;
	c->gpr[14] = 0x30000000;
	c->gpr[15] = CASE_ROM;
	c->rflags &= ~(u64)(AC | DF);
}

bool directed_case(const struct gen_options *o, u32 i, u64 seed, struct cpu_case *c)
{
	struct gen g = {.forms = o->forms, .has = o->has, .c = c};
	const u32 mxcsr = 0x1f80;
	u8 bytes[128];
	u32 n = 0;
	int high = -1;

	memset(c, 0, sizeof(*c));
	c->seed = seed + i;
	c->ring = o->ring;
	c->bits = directed_bits(i);
	prng_seed(&g.rnd, seed + i);
	gen_state(&g);
	fixed_registers(c);
	c->rflags |= cases[i].set & ~CODE32;
	memcpy(c->xsave.bytes + 24, &mxcsr, 4);
	memset(c->xsave.bytes + 2, 0, 2);
	for (const char *h = cases[i].hex; *h; h++) {
		if (*h == ' ')
			continue;
		if (nibble(*h) < 0 || n == sizeof(bytes))
			return false;
		if (high < 0) {
			high = nibble(*h);
			continue;
		}
		bytes[n++] = (u8)(high << 4 | nibble(*h));
		high = -1;
	}
	for (u32 at = 0; at < n;) {
		u32 len = n - at < 15 ? n - at : 15;
		ZydisDecodedInstruction in;

		if (ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&o->forms->decoder, NULL, bytes + at, len, &in)))
			len = in.length;
		gen_emit(&g, bytes + at, len);
		at += len;
	}
	return high < 0 && case_layout(c);
}
