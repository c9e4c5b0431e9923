/* SPDX-License-Identifier: Apache-2.0 */
/* Tables behind isa.h and forms_allowed(). */
#include "isa.h"

enum { EAX, EBX, ECX, EDX };

/* Zydis instruction sets (a range of its enumeration) and the CPUID bit that announces them; leaf ~0: always there in 64-bit mode. Sets
 * that are in no row are not tested: no CPU that Guise runs on has them, or they are privileged through and through. */
struct isa_row {
	u16 first, last;
	u32 leaf;
	u8 sub, reg, bit;
	bool vl; /* 128- and 256-bit EVEX forms need AVX512VL too */
};

#define ALWAYS (~0u)
#define ROW(set, leaf, sub, reg, bit)                                                                                                      \
	{                                                                                                                                  \
		ZYDIS_ISA_SET_##set, ZYDIS_ISA_SET_##set, leaf, sub, reg, bit, false                                                       \
	}
#define ROWS(first, last, leaf, sub, reg, bit)                                                                                             \
	{                                                                                                                                  \
		ZYDIS_ISA_SET_##first, ZYDIS_ISA_SET_##last, leaf, sub, reg, bit, true                                                     \
	}

static const struct isa_row isa_rows[] = {
	ROW(I86, ALWAYS, 0, 0, 0),
	ROW(I186, ALWAYS, 0, 0, 0),
	ROW(I386, ALWAYS, 0, 0, 0),
	ROW(I486, ALWAYS, 0, 0, 0),
	ROW(I486REAL, ALWAYS, 0, 0, 0),
	ROW(I286REAL, ALWAYS, 0, 0, 0),
	ROW(I286PROTECTED, ALWAYS, 0, 0, 0),
	ROW(PENTIUMREAL, ALWAYS, 0, 0, 0),
	ROW(PPRO, ALWAYS, 0, 0, 0),
	ROW(LONGMODE, ALWAYS, 0, 0, 0),
	ROW(FAT_NOP, ALWAYS, 0, 0, 0),
	ROW(PREFETCH_NOP, ALWAYS, 0, 0, 0),
	ROW(PAUSE, ALWAYS, 0, 0, 0),
	ROW(FCMOV, 1, 0, EDX, 15),
	ROW(CMOV, 1, 0, EDX, 15),
	ROW(X87, 1, 0, EDX, 0),
	ROW(PENTIUMMMX, 1, 0, EDX, 23),
	ROW(SSE, 1, 0, EDX, 25),
	ROW(SSEMXCSR, 1, 0, EDX, 25),
	ROW(SSE_PREFETCH, 1, 0, EDX, 25),
	ROW(SSE2, 1, 0, EDX, 26),
	ROW(SSE2MMX, 1, 0, EDX, 26),
	ROW(CLFSH, 1, 0, EDX, 19),
	ROW(SSE3, 1, 0, ECX, 0),
	ROW(SSE3X87, 1, 0, ECX, 0),
	ROW(PCLMULQDQ, 1, 0, ECX, 1),
	ROW(SSSE3, 1, 0, ECX, 9),
	ROW(SSSE3MMX, 1, 0, ECX, 9),
	ROW(FMA, 1, 0, ECX, 12),
	ROW(CMPXCHG16B, 1, 0, ECX, 13),
	ROW(SSE4, 1, 0, ECX, 19),
	ROW(SSE42, 1, 0, ECX, 20),
	ROW(MOVBE, 1, 0, ECX, 22),
	ROW(POPCNT, 1, 0, ECX, 23),
	ROW(AES, 1, 0, ECX, 25),
	ROW(AVX, 1, 0, ECX, 28),
	ROW(AVXAES, 1, 0, ECX, 28),
	ROW(F16C, 1, 0, ECX, 29),
	ROW(RDWRFSGS, 7, 0, EBX, 0),
	ROW(BMI1, 7, 0, EBX, 3),
	ROW(AVX2, 7, 0, EBX, 5),
	ROW(AVX2GATHER, 7, 0, EBX, 5),
	ROW(BMI2, 7, 0, EBX, 8),
	ROW(ADOX_ADCX, 7, 0, EBX, 19),
	ROW(CLFLUSHOPT, 7, 0, EBX, 23),
	ROW(CLWB, 7, 0, EBX, 24),
	ROW(SHA, 7, 0, EBX, 29),
	ROW(GFNI, 7, 0, ECX, 8),
	ROW(AVX_GFNI, 7, 0, ECX, 8),
	ROW(VAES, 7, 0, ECX, 9),
	ROW(VPCLMULQDQ, 7, 0, ECX, 10),
	ROW(MOVDIR, 7, 0, ECX, 27),
	ROW(SERIALIZE, 7, 0, EDX, 14),
	ROW(AVX_VNNI, 7, 1, EAX, 4),
	ROW(LAHF, 0x80000001, 0, ECX, 0),
	ROW(LZCNT, 0x80000001, 0, ECX, 5),
	ROW(SSE4A, 0x80000001, 0, ECX, 6),
	ROW(AMD3DNOW, 0x80000001, 0, EDX, 31),
	ROW(XOP, 0x80000001, 0, ECX, 11),
	ROW(TBM, 0x80000001, 0, ECX, 21),
	ROW(FMA4, 0x80000001, 0, ECX, 16),
	ROW(CLZERO, 0x80000008, 0, EBX, 0),
	ROWS(AVX512F_128, AVX512F_512, 7, 0, EBX, 16),
	ROW(AVX512F_KOP, 7, 0, EBX, 16),
	ROW(AVX512F_SCALAR, 7, 0, EBX, 16),
	ROWS(AVX512DQ_128, AVX512DQ_512, 7, 0, EBX, 17),
	ROW(AVX512DQ_KOP, 7, 0, EBX, 17),
	ROW(AVX512DQ_SCALAR, 7, 0, EBX, 17),
	ROWS(AVX512_IFMA_128, AVX512_IFMA_512, 7, 0, EBX, 21),
	ROWS(AVX512CD_128, AVX512CD_512, 7, 0, EBX, 28),
	ROWS(AVX512BW_128, AVX512BW_512, 7, 0, EBX, 30),
	ROW(AVX512BW_KOP, 7, 0, EBX, 30),
	ROWS(AVX512_VBMI_128, AVX512_VBMI_512, 7, 0, ECX, 1),
	ROWS(AVX512_VBMI2_128, AVX512_VBMI2_512, 7, 0, ECX, 6),
	ROWS(AVX512_GFNI_128, AVX512_GFNI_512, 7, 0, ECX, 8),
	ROWS(AVX512_VAES_128, AVX512_VAES_512, 7, 0, ECX, 9),
	ROWS(AVX512_VPCLMULQDQ_128, AVX512_VPCLMULQDQ_512, 7, 0, ECX, 10),
	ROWS(AVX512_VNNI_128, AVX512_VNNI_512, 7, 0, ECX, 11),
	ROWS(AVX512_BITALG_128, AVX512_BITALG_512, 7, 0, ECX, 12),
	ROWS(AVX512_VPOPCNTDQ_128, AVX512_VPOPCNTDQ_512, 7, 0, ECX, 14),
	ROWS(AVX512_VP2INTERSECT_128, AVX512_VP2INTERSECT_512, 7, 0, EDX, 8),
	ROWS(AVX512_BF16_128, AVX512_BF16_512, 7, 1, EAX, 5),
};

/* Instructions whose outcome depends on more than the case's state: the kernel's tables and selectors, time, randomness, the hypervisor; or
 * that leave user mode on purpose. Their tests are bare-metal guests. */
static const u16 excluded[] = {
	ZYDIS_MNEMONIC_CPUID,
	ZYDIS_MNEMONIC_RDTSC,
	ZYDIS_MNEMONIC_RDTSCP,
	ZYDIS_MNEMONIC_RDPMC,
	ZYDIS_MNEMONIC_SYSCALL,
	ZYDIS_MNEMONIC_SYSENTER,
	ZYDIS_MNEMONIC_SYSRET,
	ZYDIS_MNEMONIC_SYSEXIT,
	ZYDIS_MNEMONIC_SGDT,
	ZYDIS_MNEMONIC_SIDT,
	ZYDIS_MNEMONIC_SLDT,
	ZYDIS_MNEMONIC_STR,
	ZYDIS_MNEMONIC_SMSW,
	ZYDIS_MNEMONIC_LAR,
	ZYDIS_MNEMONIC_LSL,
	ZYDIS_MNEMONIC_VERR,
	ZYDIS_MNEMONIC_VERW,
	ZYDIS_MNEMONIC_LFS,
	ZYDIS_MNEMONIC_LGS,
	ZYDIS_MNEMONIC_LSS,
	ZYDIS_MNEMONIC_LDS,
	ZYDIS_MNEMONIC_LES,
	ZYDIS_MNEMONIC_IRET,
	ZYDIS_MNEMONIC_IRETD,
	ZYDIS_MNEMONIC_IRETQ,
	ZYDIS_MNEMONIC_INT,
	ZYDIS_MNEMONIC_XGETBV,
	/* they store the address of the last x87 instruction, which is not the case's when the engine runs x87 from its own code */
	ZYDIS_MNEMONIC_FNSAVE,
	ZYDIS_MNEMONIC_FNSTENV,
	ZYDIS_MNEMONIC_FXSAVE,
	ZYDIS_MNEMONIC_FXSAVE64,
	/* #UD or an exit to the hypervisor above us */
	ZYDIS_MNEMONIC_RSM,
	ZYDIS_MNEMONIC_INVD,
	ZYDIS_MNEMONIC_WBINVD,
	ZYDIS_MNEMONIC_MONITOR,
	ZYDIS_MNEMONIC_MWAIT,
	/* hypervisors below us report the wrong rip for it */
	ZYDIS_MNEMONIC_INT1,
};

static bool is_excluded(ZydisMnemonic m)
{
	for (u32 i = 0; i < ARRAY_SIZE(excluded); i++)
		if (excluded[i] == (u16)m)
			return true;
	return false;
}

static bool row_announced(const struct isa_row *r, const ZydisDecodedInstruction *in, forms_has_fn has)
{
	if (r->leaf == ALWAYS)
		return true;
	if (r->vl && in->avx.vector_length < 512 && in->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX && !has(7, 0, EBX, 31))
		return false;
	return has(r->leaf, r->sub, r->reg, r->bit);
}

/* A segment register as destination, or a far transfer, depends on descriptor tables. */
static bool touches_segments(const ZydisDecodedInstruction *in)
{
	if (in->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return true;
	if (in->mnemonic == ZYDIS_MNEMONIC_POP)
		return in->opcode_map == ZYDIS_OPCODE_MAP_0F || in->opcode == 0x07 || in->opcode == 0x17 || in->opcode == 0x1f;
	return in->mnemonic == ZYDIS_MNEMONIC_MOV && in->opcode == 0x8e && in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT;
}

/* 0F 0D with a register operand is #UD on AMD's CPUs and a no-operation on Intel's. */
static bool vendors_disagree(const ZydisDecodedInstruction *in)
{
	return in->opcode_map == ZYDIS_OPCODE_MAP_0F && in->opcode == 0x0d && in->raw.modrm.mod == 3;
}

bool forms_allowed(const ZydisDecodedInstruction *in, forms_has_fn has)
{
	if (is_excluded(in->mnemonic) || touches_segments(in) || vendors_disagree(in))
		return false;
	for (u32 i = 0; i < ARRAY_SIZE(isa_rows); i++)
		if (in->meta.isa_set >= isa_rows[i].first && in->meta.isa_set <= isa_rows[i].last)
			return row_announced(&isa_rows[i], in, has);
	return false;
}

struct class_row {
	u16 category;
	u8 cls;
};

static const struct class_row class_by_category[] = {
	{ZYDIS_CATEGORY_STRINGOP, CLASS_STRING},  {ZYDIS_CATEGORY_BITBYTE, CLASS_BIT},	     {ZYDIS_CATEGORY_SHIFT, CLASS_BIT},
	{ZYDIS_CATEGORY_ROTATE, CLASS_BIT},	  {ZYDIS_CATEGORY_LZCNT, CLASS_BIT},	     {ZYDIS_CATEGORY_PUSH, CLASS_STACK},
	{ZYDIS_CATEGORY_POP, CLASS_STACK},	  {ZYDIS_CATEGORY_CALL, CLASS_BRANCH},	     {ZYDIS_CATEGORY_RET, CLASS_BRANCH},
	{ZYDIS_CATEGORY_COND_BR, CLASS_BRANCH},	  {ZYDIS_CATEGORY_UNCOND_BR, CLASS_BRANCH},  {ZYDIS_CATEGORY_X87_ALU, CLASS_X87},
	{ZYDIS_CATEGORY_FCMOV, CLASS_X87},	  {ZYDIS_CATEGORY_MMX, CLASS_MMX},	     {ZYDIS_CATEGORY_BMI1, CLASS_BMI},
	{ZYDIS_CATEGORY_BMI2, CLASS_BMI},	  {ZYDIS_CATEGORY_AES, CLASS_CRYPTO},	     {ZYDIS_CATEGORY_SHA, CLASS_CRYPTO},
	{ZYDIS_CATEGORY_PCLMULQDQ, CLASS_CRYPTO}, {ZYDIS_CATEGORY_VAES, CLASS_CRYPTO},	     {ZYDIS_CATEGORY_VPCLMULQDQ, CLASS_CRYPTO},
	{ZYDIS_CATEGORY_GFNI, CLASS_CRYPTO},	  {ZYDIS_CATEGORY_AVX2GATHER, CLASS_GATHER}, {ZYDIS_CATEGORY_GATHER, CLASS_GATHER},
	{ZYDIS_CATEGORY_SCATTER, CLASS_GATHER},	  {ZYDIS_CATEGORY_KMASK, CLASS_OPMASK},	     {ZYDIS_CATEGORY_VFMA, CLASS_FMA},
	{ZYDIS_CATEGORY_SYSTEM, CLASS_SYSTEM},	  {ZYDIS_CATEGORY_IO, CLASS_SYSTEM},	     {ZYDIS_CATEGORY_IOSTRINGOP, CLASS_SYSTEM},
	{ZYDIS_CATEGORY_INTERRUPT, CLASS_SYSTEM}, {ZYDIS_CATEGORY_RDWRFSGS, CLASS_SYSTEM},
};

enum form_class isa_class(const ZydisDecodedInstruction *in)
{
	for (u32 i = 0; i < ARRAY_SIZE(class_by_category); i++)
		if (in->meta.category == class_by_category[i].category)
			return class_by_category[i].cls;
	if (in->meta.isa_ext == ZYDIS_ISA_EXT_MMX || in->meta.isa_set == ZYDIS_ISA_SET_SSE2MMX ||
	    in->meta.isa_set == ZYDIS_ISA_SET_SSSE3MMX)
		return CLASS_MMX;
	if (in->meta.isa_ext == ZYDIS_ISA_EXT_X87)
		return CLASS_X87;
	if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX)
		return CLASS_AVX512;
	if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		return in->meta.isa_ext == ZYDIS_ISA_EXT_AVX512VEX ? CLASS_OPMASK : CLASS_AVX;
	if (in->meta.isa_set >= ZYDIS_ISA_SET_SSE && in->meta.isa_set <= ZYDIS_ISA_SET_SSSE3MMX)
		return CLASS_SSE;
	return CLASS_GENERAL;
}

bool isa_same_in_ring0(const ZydisDecodedInstruction *in)
{
	static const u16 different[] = {ZYDIS_MNEMONIC_POPF, ZYDIS_MNEMONIC_POPFQ, ZYDIS_MNEMONIC_POPFD, ZYDIS_MNEMONIC_CLI,
					ZYDIS_MNEMONIC_STI};

	for (u32 i = 0; i < ARRAY_SIZE(different); i++)
		if (different[i] == (u16)in->mnemonic)
			return false;
	if (in->mnemonic == ZYDIS_MNEMONIC_MOV && in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && in->opcode == 0x8c)
		return false;
	return !(in->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) && isa_class(in) != CLASS_SYSTEM;
}
