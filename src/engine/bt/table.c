/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The translator's instruction table. See table.h. Threading: constant data.
 */
#include "engine/bt/table.h"

#include "engine/bt/bt.h"

#define M(name) [ZYDIS_MNEMONIC_##name]
static const struct bt_row rows[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
	M(NOP) = {K_NOP, 0},
	M(PAUSE) = {K_NOP, 0},
	M(ENDBR64) = {K_NOP, 0},
	M(ENDBR32) = {K_NOP, 0},
	M(PREFETCHNTA) = {K_PREFETCH, 0},
	M(PREFETCHT0) = {K_PREFETCH, 0},
	M(PREFETCHT1) = {K_PREFETCH, 0},
	M(PREFETCHT2) = {K_PREFETCH, 0},
	M(PREFETCHW) = {K_PREFETCH, 0},
	M(PREFETCH) = {K_PREFETCH, 0},
	M(LEA) = {K_LEA, 0},
	M(PUSH) = {K_PUSH, 0},
	M(POP) = {K_POP, 0},
	M(CALL) = {K_CALL, 0},
	M(RET) = {K_RET, 0},
	M(JMP) = {K_JMP, 0},
	M(LEAVE) = {K_LEAVE, 0},
	M(JB) = {K_JCC, 2},
	M(JBE) = {K_JCC, 6},
	M(JL) = {K_JCC, 12},
	M(JLE) = {K_JCC, 14},
	M(JNB) = {K_JCC, 3},
	M(JNBE) = {K_JCC, 7},
	M(JNL) = {K_JCC, 13},
	M(JNLE) = {K_JCC, 15},
	M(JNO) = {K_JCC, 1},
	M(JNP) = {K_JCC, 11},
	M(JNS) = {K_JCC, 9},
	M(JNZ) = {K_JCC, 5},
	M(JO) = {K_JCC, 0},
	M(JP) = {K_JCC, 10},
	M(JS) = {K_JCC, 8},
	M(JZ) = {K_JCC, 4},
	M(JRCXZ) = {K_JRCXZ, 0},
	M(LOOP) = {K_LOOP, 0},
	M(JECXZ) = {K_STOP, 0},
	M(LOOPE) = {K_STOP, 0},
	M(LOOPNE) = {K_STOP, 0},
	M(BT) = {K_BT, 0},
	M(BTS) = {K_BT, 0},
	M(BTR) = {K_BT, 0},
	M(BTC) = {K_BT, 0},
	M(PUSHFQ) = {K_PUSHF, 0},
	M(CLI) = {K_CLI, 0},
	M(STI) = {K_STI, 0},
	M(CLAC) = {K_CLAC, 0},
	M(STAC) = {K_STAC, 0},
	M(SYSCALL) = {K_LIGHT, LIGHT_SYSCALL},
	M(SYSRET) = {K_LIGHT, LIGHT_SYSRET},
	M(IRETQ) = {K_LIGHT, LIGHT_IRET},
	M(SWAPGS) = {K_LIGHT, LIGHT_SWAPGS},
	M(RDMSR) = {K_LIGHT, LIGHT_RDMSR},
	M(WRMSR) = {K_LIGHT, LIGHT_WRMSR},
	M(CPUID) = {K_LIGHT, LIGHT_CPUID},
	M(RDTSC) = {K_LIGHT, LIGHT_RDTSC},
	M(RDTSCP) = {K_LIGHT, LIGHT_RDTSCP},
	M(RDPID) = {K_LIGHT, LIGHT_RDPID},
	M(CLTS) = {K_LIGHT, LIGHT_CLTS},
	M(INVLPG) = {K_LIGHT, LIGHT_INVLPG},
	M(CLD) = {K_LIGHT, LIGHT_CLD},
	M(STD) = {K_LIGHT, LIGHT_STD},
	M(RDFSBASE) = {K_LIGHT, LIGHT_RDFSBASE},
	M(RDGSBASE) = {K_LIGHT, LIGHT_RDGSBASE},
	M(WRFSBASE) = {K_LIGHT, LIGHT_WRFSBASE},
	M(WRGSBASE) = {K_LIGHT, LIGHT_WRGSBASE},
	M(MOV) = {K_MOV_SEG, 0},
	M(MOVSB) = {K_STRING, 0},
	M(MOVSW) = {K_STRING, 0},
	M(MOVSD) = {K_STRING, 0},
	M(MOVSQ) = {K_STRING, 0},
	M(STOSB) = {K_STRING, 0},
	M(STOSW) = {K_STRING, 0},
	M(STOSD) = {K_STRING, 0},
	M(STOSQ) = {K_STRING, 0},
	/* never fall through, or change what follows */
	M(UD0) = {K_STOP, 0},
	M(UD1) = {K_STOP, 0},
	M(UD2) = {K_STOP, 0},
	M(INT) = {K_STOP, 0},
	M(INT1) = {K_STOP, 0},
	M(INT3) = {K_STOP, 0},
	M(IRET) = {K_STOP, 0},
	M(IRETD) = {K_STOP, 0},
	M(HLT) = {K_STOP, 0},
	M(INVPCID) = {K_STOP, 0}, /* the code page may be mapped elsewhere behind it */
	M(SYSENTER) = {K_STOP, 0},
	M(SYSEXIT) = {K_STOP, 0},
	/* sensitive, implicit memory operands, or state that must not show host addresses: never copied */
	M(POPF) = {K_STOP, 0},
	M(POPFD) = {K_STOP, 0},
	M(POPFQ) = {K_STOP, 0},
	M(PUSHF) = {K_INTERP, 0},
	M(XLAT) = {K_INTERP, 0},
	M(ENTER) = {K_INTERP, 0},
	M(MASKMOVDQU) = {K_INTERP, 0},
	M(MASKMOVQ) = {K_INTERP, 0},
	M(VMASKMOVDQU) = {K_INTERP, 0},
	M(FNSTENV) = {K_INTERP, 0},
	M(FNSAVE) = {K_INTERP, 0},
	M(FLDENV) = {K_INTERP, 0},
	M(FRSTOR) = {K_INTERP, 0},
	M(FXSAVE) = {K_INTERP, 0},
	M(FXSAVE64) = {K_INTERP, 0},
	M(FXRSTOR) = {K_INTERP, 0},
	M(FXRSTOR64) = {K_INTERP, 0},
	M(XGETBV) = {K_INTERP, 0},
};

struct bt_row bt_row_of(ZydisMnemonic m)
{
	return rows[m];
}

/* A row a line. */
/* clang-format off */
static const u32 needs_of_ext[ZYDIS_ISA_EXT_MAX_VALUE + 1] = {
	[ZYDIS_ISA_EXT_BASE] = 1u << 30,
	[ZYDIS_ISA_EXT_LONGMODE] = 1u << 30,
	[ZYDIS_ISA_EXT_MOVBE] = 1u << 30,
	[ZYDIS_ISA_EXT_BMI1] = 1u << 30,
	[ZYDIS_ISA_EXT_BMI2] = 1u << 30,
	[ZYDIS_ISA_EXT_LZCNT] = 1u << 30,
	[ZYDIS_ISA_EXT_ADOX_ADCX] = 1u << 30,
	[ZYDIS_ISA_EXT_RDRAND] = 1u << 30,
	[ZYDIS_ISA_EXT_RDSEED] = 1u << 30,
	[ZYDIS_ISA_EXT_X87] = MODE_X87,
	[ZYDIS_ISA_EXT_MMX] = MODE_X87,
	[ZYDIS_ISA_EXT_SSE] = MODE_SSE,
	[ZYDIS_ISA_EXT_SSE2] = MODE_SSE,
	[ZYDIS_ISA_EXT_SSE3] = MODE_SSE,
	[ZYDIS_ISA_EXT_SSSE3] = MODE_SSE,
	[ZYDIS_ISA_EXT_SSE4] = MODE_SSE,
	[ZYDIS_ISA_EXT_AES] = MODE_SSE,
	[ZYDIS_ISA_EXT_PCLMULQDQ] = MODE_SSE,
	[ZYDIS_ISA_EXT_SHA] = MODE_SSE,
	[ZYDIS_ISA_EXT_GFNI] = MODE_SSE,
	[ZYDIS_ISA_EXT_AVX] = MODE_AVX,
	[ZYDIS_ISA_EXT_AVXAES] = MODE_AVX,
	[ZYDIS_ISA_EXT_AVX2] = MODE_AVX,
	[ZYDIS_ISA_EXT_FMA] = MODE_AVX,
	[ZYDIS_ISA_EXT_F16C] = MODE_AVX,
	[ZYDIS_ISA_EXT_VAES] = MODE_AVX,
	[ZYDIS_ISA_EXT_VPCLMULQDQ] = MODE_AVX,
	[ZYDIS_ISA_EXT_AVX512EVEX] = MODE_AVX512,
	[ZYDIS_ISA_EXT_AVX512VEX] = MODE_AVX512,
};
/* clang-format on */

/* Of the base set, those categories that only compute and move. */
static bool base_may(ZydisInstructionCategory c)
{
	switch (c) {
	case ZYDIS_CATEGORY_BINARY:
	case ZYDIS_CATEGORY_BITBYTE:
	case ZYDIS_CATEGORY_CMOV:
	case ZYDIS_CATEGORY_CONVERT:
	case ZYDIS_CATEGORY_DATAXFER:
	case ZYDIS_CATEGORY_FLAGOP:
	case ZYDIS_CATEGORY_LOGICAL:
	case ZYDIS_CATEGORY_MISC:
	case ZYDIS_CATEGORY_NOP:
	case ZYDIS_CATEGORY_ROTATE:
	case ZYDIS_CATEGORY_SEMAPHORE:
	case ZYDIS_CATEGORY_SETCC:
	case ZYDIS_CATEGORY_SHIFT:
		return true;
	default:
		return false;
	}
}

/* Members of FLAGOP, MISC and SSE that do more than compute. Those with a row of their own never come here. */
static bool is_plain_misc(const ZydisDecodedInstruction *in)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_CLC:
	case ZYDIS_MNEMONIC_STC:
	case ZYDIS_MNEMONIC_CMC:
	case ZYDIS_MNEMONIC_LAHF:
	case ZYDIS_MNEMONIC_SAHF:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
	case ZYDIS_MNEMONIC_CRC32:
		return true;
	default:
		return in->meta.category != ZYDIS_CATEGORY_FLAGOP && in->meta.category != ZYDIS_CATEGORY_MISC;
	}
}

u32 bt_native_needs(const ZydisDecodedInstruction *in)
{
	u32 needs = needs_of_ext[in->meta.isa_ext];
	if (!needs)
		return ~0u;
	if ((in->meta.isa_ext == ZYDIS_ISA_EXT_BASE || in->meta.isa_ext == ZYDIS_ISA_EXT_LONGMODE) &&
	    !(base_may(in->meta.category) && is_plain_misc(in)))
		return ~0u;
	if (in->meta.isa_set == ZYDIS_ISA_SET_SSE_PREFETCH || in->meta.category == ZYDIS_CATEGORY_PREFETCH)
		return ~0u;
	if (needs == MODE_SSE && in->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		needs = in->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ? MODE_AVX512 : MODE_AVX;
	if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX)
		needs = MODE_AVX512;
	return needs & ~(1u << 30);
}
