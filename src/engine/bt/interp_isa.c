/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which CPUID bit announces an instruction, and which unit runs it: one row for each of Zydis' instruction sets.
 * Source: SDM vol. 2 (CPUID feature flag column of each instruction), AMD APM vol. 3 appendix D.
 * Threading: none; constant data.
 */
#include "engine/bt/interp_private.h"

enum { EAX, EBX, ECX, EDX };

/* Sets without a row are not implemented at all. leaf 0: every CPU has it. `vl`: AVX512VL is needed as well. */
struct isa_row {
	u16 set;
	u8 reg, bit;
	bool vl, sub1;
	u32 leaf;
};

#define S(n) ZYDIS_ISA_SET_##n
#define ALWAYS(n)                                                                                                                          \
	{                                                                                                                                  \
		.set = S(n)                                                                                                                \
	}
#define BIT(n, l, r, b)                                                                                                                    \
	{                                                                                                                                  \
		.set = S(n), .leaf = l, .reg = r, .bit = b                                                                                 \
	}
#define BIT71(n, r, b)                                                                                                                     \
	{                                                                                                                                  \
		.set = S(n), .leaf = 7, .reg = r, .bit = b, .sub1 = true                                                                   \
	}
#define EVEX3(n, r, b)                                                                                                                     \
	{.set = S(n##_512), .leaf = 7, .reg = r, .bit = b}, {.set = S(n##_256), .leaf = 7, .reg = r, .bit = b, .vl = true},                \
	{                                                                                                                                  \
		.set = S(n##_128), .leaf = 7, .reg = r, .bit = b, .vl = true                                                               \
	}

static const struct isa_row isa_rows[] = {
	ALWAYS(AMD),
	ALWAYS(FAT_NOP),
	ALWAYS(I186),
	ALWAYS(I286PROTECTED),
	ALWAYS(I286REAL),
	ALWAYS(I386),
	ALWAYS(I486),
	ALWAYS(I486REAL),
	ALWAYS(I86),
	ALWAYS(LONGMODE),
	ALWAYS(PAUSE),
	ALWAYS(PENTIUMREAL),
	ALWAYS(PPRO),
	ALWAYS(PREFETCH_NOP),
	ALWAYS(RDPMC),
	BIT(LAHF, 0x80000001, ECX, 0),
	BIT(CMOV, 1, EDX, 15),
	BIT(FCMOV, 1, EDX, 15),
	BIT(X87, 1, EDX, 0),
	BIT(PENTIUMMMX, 1, EDX, 23),
	BIT(FXSAVE, 1, EDX, 24),
	BIT(FXSAVE64, 1, EDX, 24),
	BIT(SSE, 1, EDX, 25),
	BIT(SSEMXCSR, 1, EDX, 25),
	BIT(SSE_PREFETCH, 1, EDX, 25),
	BIT(SSE2, 1, EDX, 26),
	BIT(SSE2MMX, 1, EDX, 26),
	BIT(CLFSH, 1, EDX, 19),
	BIT(SSE3, 1, ECX, 0),
	BIT(SSE3X87, 1, ECX, 0),
	BIT(PCLMULQDQ, 1, ECX, 1),
	BIT(SSSE3, 1, ECX, 9),
	BIT(SSSE3MMX, 1, ECX, 9),
	BIT(FMA, 1, ECX, 12),
	BIT(CMPXCHG16B, 1, ECX, 13),
	BIT(SSE4, 1, ECX, 19),
	BIT(SSE42, 1, ECX, 20),
	BIT(MOVBE, 1, ECX, 22),
	BIT(POPCNT, 1, ECX, 23),
	BIT(AES, 1, ECX, 25),
	BIT(AVXAES, 1, ECX, 25),
	BIT(XSAVE, 1, ECX, 26),
	BIT(AVX, 1, ECX, 28),
	BIT(F16C, 1, ECX, 29),
	BIT(RDRAND, 1, ECX, 30),
	BIT(RDWRFSGS, 7, EBX, 0),
	BIT(BMI1, 7, EBX, 3),
	BIT(AVX2, 7, EBX, 5),
	BIT(AVX2GATHER, 7, EBX, 5),
	BIT(BMI2, 7, EBX, 8),
	BIT(INVPCID, 7, EBX, 10),
	BIT(RDSEED, 7, EBX, 18),
	BIT(ADOX_ADCX, 7, EBX, 19),
	BIT(SMAP, 7, EBX, 20),
	BIT(CLFLUSHOPT, 7, EBX, 23),
	BIT(CLWB, 7, EBX, 24),
	BIT(SHA, 7, EBX, 29),
	BIT(PREFETCHWT1, 7, ECX, 0),
	BIT(GFNI, 7, ECX, 8),
	BIT(AVX_GFNI, 7, ECX, 8),
	BIT(VAES, 7, ECX, 9),
	BIT(VPCLMULQDQ, 7, ECX, 10),
	BIT(RDPID, 7, ECX, 22),
	BIT(MOVDIR, 7, ECX, 27),
	BIT(SERIALIZE, 7, EDX, 14),
	BIT71(AVX_VNNI, EAX, 4),
	{.set = S(XSAVEOPT), .leaf = 0xd, .sub1 = true, .reg = EAX, .bit = 0},
	{.set = S(XSAVEC), .leaf = 0xd, .sub1 = true, .reg = EAX, .bit = 1},
	{.set = S(XSAVES), .leaf = 0xd, .sub1 = true, .reg = EAX, .bit = 3},
	BIT(LZCNT, 0x80000001, ECX, 5),
	BIT(SSE4A, 0x80000001, ECX, 6),
	BIT(AMD3DNOW, 0x80000001, EDX, 31),
	BIT(RDTSCP, 0x80000001, EDX, 27),
	BIT(CLZERO, 0x80000008, EBX, 0),
	EVEX3(AVX512F, EBX, 16),
	BIT(AVX512F_128N, 7, EBX, 16),
	BIT(AVX512F_SCALAR, 7, EBX, 16),
	BIT(AVX512F_KOP, 7, EBX, 16),
	EVEX3(AVX512DQ, EBX, 17),
	BIT(AVX512DQ_128N, 7, EBX, 17),
	BIT(AVX512DQ_SCALAR, 7, EBX, 17),
	BIT(AVX512DQ_KOP, 7, EBX, 17),
	EVEX3(AVX512_IFMA, EBX, 21),
	EVEX3(AVX512CD, EBX, 28),
	EVEX3(AVX512BW, EBX, 30),
	BIT(AVX512BW_128N, 7, EBX, 30),
	BIT(AVX512BW_KOP, 7, EBX, 30),
	EVEX3(AVX512_VBMI, ECX, 1),
	EVEX3(AVX512_VBMI2, ECX, 6),
	EVEX3(AVX512_GFNI, ECX, 8),
	EVEX3(AVX512_VAES, ECX, 9),
	EVEX3(AVX512_VPCLMULQDQ, ECX, 10),
	EVEX3(AVX512_VNNI, ECX, 11),
	EVEX3(AVX512_BITALG, ECX, 12),
	EVEX3(AVX512_VPOPCNTDQ, ECX, 14),
	EVEX3(AVX512_VP2INTERSECT, EDX, 8),
	EVEX3(AVX512_FP16, EDX, 23),
	BIT(AVX512_FP16_128N, 7, EDX, 23),
	BIT(AVX512_FP16_SCALAR, 7, EDX, 23),
	{.set = S(AVX512_BF16_512), .leaf = 7, .sub1 = true, .reg = EAX, .bit = 5},
	{.set = S(AVX512_BF16_256), .leaf = 7, .sub1 = true, .reg = EAX, .bit = 5, .vl = true},
	{.set = S(AVX512_BF16_128), .leaf = 7, .sub1 = true, .reg = EAX, .bit = 5, .vl = true},
};

static const struct isa_row *isa_row(u32 set)
{
	for (u32 k = 0; k < ARRAY_SIZE(isa_rows); k++)
		if (isa_rows[k].set == set)
			return &isa_rows[k];
	return NULL;
}

bool interp_isa_announced(const struct x86_cpuid *p, const ZydisDecodedInstruction *z)
{
	const struct isa_row *r = isa_row(z->meta.isa_set);

	/* The hypercall, PREFETCH and PREFETCHW are there whatever else of their sets is. */
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_VMCALL:
	case ZYDIS_MNEMONIC_VMMCALL:
	case ZYDIS_MNEMONIC_PREFETCH:
	case ZYDIS_MNEMONIC_PREFETCHW:
		return true;
	case ZYDIS_MNEMONIC_MOVDIR64B:
		return !p || x86_cpuid_has(p, 7, 0, ECX, 28);
	case ZYDIS_MNEMONIC_LAHF:
	case ZYDIS_MNEMONIC_SAHF:
		if (z->machine_mode != ZYDIS_MACHINE_MODE_LONG_64)
			return true;
		break;
	default:
		break;
	}
	if (!r)
		return false;
	if (!p || !r->leaf)
		return true;
	return x86_cpuid_has(p, r->leaf, r->sub1, r->reg, r->bit) && (!r->vl || x86_cpuid_has(p, 7, 0, EBX, 31));
}

static bool uses_class(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o, ZydisRegisterClass cl)
{
	for (u32 k = 0; k < z->operand_count; k++)
		if (o[k].type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(o[k].reg.value) == cl)
			return true;
	return false;
}

static enum interp_unit vex_unit(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o)
{
	switch (z->meta.isa_ext) {
	case ZYDIS_ISA_EXT_BMI1:
	case ZYDIS_ISA_EXT_BMI2:
		return UNIT_VEX_INT;
	case ZYDIS_ISA_EXT_AVX512VEX:
		return UNIT_AVX512;
	default:
		return uses_class(z, o, ZYDIS_REGCLASS_MASK) ? UNIT_AVX512 : UNIT_AVX;
	}
}

/* Legacy encodings: by the registers. Some instructions of the SSE sets touch no vector register at all. */
static enum interp_unit legacy_unit(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o)
{
	bool xmm = uses_class(z, o, ZYDIS_REGCLASS_XMM), mmx = uses_class(z, o, ZYDIS_REGCLASS_MMX);

	if (z->meta.isa_set == ZYDIS_ISA_SET_X87 || z->meta.isa_set == ZYDIS_ISA_SET_FCMOV || z->meta.isa_set == ZYDIS_ISA_SET_SSE3X87 ||
	    z->meta.category == ZYDIS_CATEGORY_X87_ALU)
		return UNIT_X87;
	if (z->mnemonic == ZYDIS_MNEMONIC_EMMS)
		return UNIT_MMX;
	if (z->meta.isa_set == ZYDIS_ISA_SET_SSEMXCSR)
		return UNIT_SSE;
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_CVTSS2SI: /* with a memory operand they name no vector register, but they use MXCSR */
	case ZYDIS_MNEMONIC_CVTTSS2SI:
	case ZYDIS_MNEMONIC_CVTSD2SI:
	case ZYDIS_MNEMONIC_CVTTSD2SI:
		return UNIT_SSE;
	case ZYDIS_MNEMONIC_CVTPS2PI:
	case ZYDIS_MNEMONIC_CVTTPS2PI:
	case ZYDIS_MNEMONIC_CVTPD2PI:
	case ZYDIS_MNEMONIC_CVTTPD2PI:
		return UNIT_SSE_MMX;
	default:
		break;
	}
	if (xmm)
		return mmx ? UNIT_SSE_MMX : UNIT_SSE;
	return mmx ? UNIT_MMX : UNIT_INT;
}

enum interp_unit interp_isa_unit(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o)
{
	switch (z->encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_VEX:
		return vex_unit(z, o);
	case ZYDIS_INSTRUCTION_ENCODING_EVEX:
		return UNIT_AVX512;
	default:
		return legacy_unit(z, o);
	}
}
