/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All forms of user-mode instructions that a machine announces, found by decoding every opcode of every map with Zydis. A form is a
 * mnemonic in one encoding (map, opcode, mandatory prefix, W, vector length, memory or register operand, opcode extension).
 *
 * Threading: none; built once, read only afterwards except for the counters.
 */
#pragma once

#include "base/types.h"

#include <Zydis/Zydis.h>

enum form_class {
	CLASS_GENERAL,
	CLASS_STRING,
	CLASS_BIT,
	CLASS_STACK,
	CLASS_BRANCH,
	CLASS_X87,
	CLASS_MMX,
	CLASS_SSE,
	CLASS_AVX,
	CLASS_FMA,
	CLASS_BMI,
	CLASS_CRYPTO,
	CLASS_GATHER,
	CLASS_AVX512,
	CLASS_OPMASK,
	CLASS_SYSTEM, /* deterministic at CPL 3: mostly #GP and #UD */
	CLASS_COUNT,
	CLASS_FIELDS = CLASS_COUNT, /* of no form: many accesses around few base registers, of all classes (gen_fields.c) */
	CLASS_SMC,		    /* of no form: general instructions and stores that change them (gen_smc.c) */
	CLASS_NAMES
};

enum form_encoding { ENC_LEGACY, ENC_VEX, ENC_EVEX };
#define FORM_ANY 0xffu

struct form {
	u8 encoding, map, opcode, pp, w, l;
	bool has_modrm, mem;
	u8 reg, rm; /* FORM_ANY: free */
	u8 cls;
	bool needs_mask; /* EVEX with k0 is invalid: gathers, scatters */
	bool same_in_ring0;
	bool native; /* the translator may copy it */
	u16 mnemonic;
	bool jumps;
};

struct form_count { /* coverage: cases that got to a form */
	u64 completed, faulted;
};

struct form_group { /* all forms of one mnemonic */
	u16 mnemonic;
	u32 first, n; /* in forms, which are sorted by class and mnemonic */
};

struct forms {
	struct form *form;
	struct form_count *count; /* one a form */
	u32 n;
	struct form_group *group;
	u32 ngroups;
	u32 class_first[CLASS_COUNT], class_n[CLASS_COUNT]; /* in group */
	ZydisDecoder decoder;
	u8 bits;
	u8 left_out[ZYDIS_MNEMONIC_MAX_VALUE + 1]; /* announced, and never part of a case: 1, or 2 when the translator may copy it */
};

/* Does the machine announce CPUID bit `bit` of register `reg` (0 eax ... 3 edx)? */
typedef bool (*forms_has_fn)(u32 leaf, u32 sub, u32 reg, u32 bit);

/* Does the guest's CPUID announce an instruction, whether or not cases may hold it? */
typedef bool (*forms_announced_fn)(const ZydisDecodedInstruction *in);

/* bits: 64, or 32 for compatibility mode. */
bool forms_build(struct forms *f, forms_has_fn has, forms_announced_fn announced, u8 bits);
void forms_free(struct forms *f);
const char *form_class_name(u32 cls);
int form_class_by_name(const char *name); /* -1: no such class */

/* May an instruction be part of a case: announced, and with a result that is the same on every machine of the same CPUID? */
bool forms_allowed(const ZydisDecodedInstruction *in, forms_has_fn has);

/* Write mandatory prefixes, escapes and opcode of a form up to and without ModRM; `prefixes` bytes go in front. vvvv, r, x, b, aaa etc. are
 * given complemented or not as `struct form_fill` says. Returns the length. */
struct form_fill {
	const u8 *prefixes;
	u32 nprefixes;
	bool rex;	    /* legacy: emit a REX even if it would be 0x40 */
	u8 r, x, b, r2, v2; /* extension bits, 1 = set */
	u8 vvvv;	    /* register number, 0-15 */
	u8 aaa, z, bcst;
	u8 l; /* vector length field */
};
u32 form_encode(const struct form *fm, const struct form_fill *fill, u8 *out);
