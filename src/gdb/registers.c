/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registers that a debugger sees, as one table of families.
 *
 * x87 and vector registers come out of the XSAVE image, whose components start where this machine's CPUID says. A component that is not in
 * XSTATE_BV has its initial values, whatever the image holds. Source: SDM vol. 1, 13.4 to 13.6.
 *
 * Contract and threading: registers.h.
 */
#include "gdb/registers.h"

#include <stdio.h>
#include <string.h>

#define XSTATE_BV 512
#define ST_OFFSET 32
#define XMM_OFFSET 160
#define MXCSR_OFFSET 24
#define MXCSR_MASK 0xffffu
#define FCW_INIT 0x37f

enum { XC_X87, XC_SSE, XC_AVX, XC_OPMASK = 5, XC_ZMM_HIGH, XC_ZMM16 };

enum { LEAF_FEATURES = 1, LEAF_FEATURES7 = 7, LEAF_XSAVE = 0xd };
#define F7_EBX_AVX512F 16
#define F1_ECX_AVX 28

struct access {
	struct x86_cpu *c;
	u64 *cr8;
	u32 index, bytes;
	u8 *value;
};

struct gdb_family {
	enum gdb_feature feature;
	const char *const *names; /* or */
	const char *format;	  /* of the number */
	u32 first, count, bytes;
	const char *type, *group;
	void (*get)(const struct access *a);
	bool (*set)(const struct access *a);
};

/* ---- general registers ---- */

static const u8 gpr_order[16] = {R_RAX, R_RBX, R_RCX, R_RDX, R_RSI, R_RDI, R_RBP, R_RSP,
				 R_R8,	R_R9,  R_R10, R_R11, R_R12, R_R13, R_R14, R_R15};
static const u8 seg_order[6] = {SEG_CS, SEG_SS, SEG_DS, SEG_ES, SEG_FS, SEG_GS};

#define FL_DEBUGGER (FL_ARITH | FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT | FL_RF | FL_AC | FL_VIF | FL_VIP | FL_ID)

static void put(const struct access *a, u64 v)
{
	memcpy(a->value, &v, a->bytes);
}

static u64 value_of(const struct access *a)
{
	u64 v = 0;

	memcpy(&v, a->value, a->bytes);
	return v;
}

static void get_gpr(const struct access *a)
{
	put(a, a->c->gpr[gpr_order[a->index]]);
}

static bool set_gpr(const struct access *a)
{
	a->c->gpr[gpr_order[a->index]] = value_of(a);
	return true;
}

static void get_rip(const struct access *a)
{
	put(a, a->c->rip);
}

static bool set_rip(const struct access *a)
{
	a->c->rip = value_of(a);
	return true;
}

static void get_flags(const struct access *a)
{
	put(a, a->c->rflags);
}

static bool set_flags(const struct access *a)
{
	a->c->rflags = (a->c->rflags & ~(u64)FL_DEBUGGER) | (value_of(a) & FL_DEBUGGER);
	return true;
}

static void get_selector(const struct access *a)
{
	put(a, a->c->seg[seg_order[a->index]].sel);
}

/* ---- segment bases, control registers ---- */

static u64 *base_of(const struct access *a)
{
	u64 *const base[] = {&a->c->seg[SEG_FS].base, &a->c->seg[SEG_GS].base};

	return base[a->index];
}

static bool set_canonical(u64 *to, u64 v)
{
	if (!x86_canonical(v))
		return false;
	*to = v;
	return true;
}

static void get_base(const struct access *a)
{
	put(a, *base_of(a));
}

static bool set_base(const struct access *a)
{
	return set_canonical(base_of(a), value_of(a));
}

static void get_kernel_gs(const struct access *a)
{
	put(a, a->c->msr.kernel_gs_base);
}

static bool set_kernel_gs(const struct access *a)
{
	return set_canonical(&a->c->msr.kernel_gs_base, value_of(a));
}

static void get_control(const struct access *a)
{
	const struct x86_cpu *c = a->c;
	const u64 v[] = {
		[GDB_CR0] = c->cr0, [GDB_CR2] = c->cr2,	 [GDB_CR3] = c->cr3,
		[GDB_CR4] = c->cr4, [GDB_CR8] = *a->cr8, [GDB_EFER] = c->msr.efer,
	};

	put(a, v[a->index]);
}

static bool set_control(const struct access *a)
{
	return gdb_control_set((enum gdb_control)a->index, a->c, a->cr8, value_of(a));
}

/* ---- the XSAVE image ---- */

static u32 component_offset(const struct access *a, u32 component)
{
	u32 out[4];

	if (component <= XC_SSE)
		return 0;
	x86_cpuid(a->c, 0, LEAF_XSAVE, component, out);
	return out[1];
}

static bool is_live(const struct access *a, u32 component)
{
	return a->c->fpu.bytes[XSTATE_BV] >> component & 1;
}

static void copy_out(const struct access *a, u32 component, u32 offset)
{
	u32 at = component_offset(a, component) + offset;

	memset(a->value, 0, a->bytes);
	if (is_live(a, component) && at + a->bytes <= X86_XSAVE_SIZE)
		memcpy(a->value, a->c->fpu.bytes + at, a->bytes);
}

/* The registers of a component, all with their initial values. */
static void make_live(const struct access *a, u32 component)
{
	static const u16 sizes[] = {[XC_SSE] = 256, [XC_AVX] = 256, [XC_OPMASK] = 64, [XC_ZMM_HIGH] = 512, [XC_ZMM16] = 1024};
	u8 *image = a->c->fpu.bytes;
	u32 at = component == XC_SSE ? XMM_OFFSET : component_offset(a, component);

	if (is_live(a, component))
		return;
	image[XSTATE_BV] = (u8)(image[XSTATE_BV] | 1u << component);
	if (component == XC_X87) {
		memset(image, 0, MXCSR_OFFSET);
		memset(image + ST_OFFSET, 0, 128);
		image[0] = FCW_INIT & 0xff;
		image[1] = FCW_INIT >> 8;
	} else if (at + sizes[component] <= X86_XSAVE_SIZE) {
		memset(image + at, 0, sizes[component]);
	}
}

static bool copy_in(const struct access *a, u32 component, u32 offset)
{
	u32 at = component_offset(a, component) + offset;

	if (at + a->bytes > X86_XSAVE_SIZE)
		return false;
	make_live(a, component);
	memcpy(a->c->fpu.bytes + at, a->value, a->bytes);
	return true;
}

/* Registers that lie one behind the other in a component. */
#define VECTOR(name, component, offset, stride)                                                                                            \
	static void get_##name(const struct access *a)                                                                                     \
	{                                                                                                                                  \
		copy_out(a, component, (offset) + a->index * (stride));                                                                    \
	}                                                                                                                                  \
	static bool set_##name(const struct access *a)                                                                                     \
	{                                                                                                                                  \
		return copy_in(a, component, (offset) + a->index * (stride));                                                              \
	}

VECTOR(st, XC_X87, ST_OFFSET, 16)
VECTOR(xmm, XC_SSE, XMM_OFFSET, 16)
VECTOR(ymmh, XC_AVX, 0, 16)
VECTOR(k, XC_OPMASK, 0, 8)
VECTOR(xmm16, XC_ZMM16, 0, 64)
VECTOR(ymm16h, XC_ZMM16, 16, 64)
VECTOR(zmm16h, XC_ZMM16, 32, 64)
VECTOR(zmmh, XC_ZMM_HIGH, 0, 32)

/* MXCSR is there whatever XSTATE_BV says. */
static void get_mxcsr(const struct access *a)
{
	memcpy(a->value, a->c->fpu.bytes + MXCSR_OFFSET, 4);
}

static bool set_mxcsr(const struct access *a)
{
	u64 v = value_of(a);

	if (v & ~(u64)MXCSR_MASK)
		return false;
	memcpy(a->c->fpu.bytes + MXCSR_OFFSET, &v, 4);
	return true;
}

/* ---- x87's control registers ---- */

enum { X87_FCTRL, X87_FSTAT, X87_FTAG, X87_FISEG, X87_FIOFF, X87_FOSEG, X87_FOOFF, X87_FOP };
static const struct {
	u8 offset, bytes;
} x87_at[] = {[X87_FCTRL] = {0, 2}, [X87_FSTAT] = {2, 2},  [X87_FTAG] = {4, 1},	  [X87_FISEG] = {12, 2},
	      [X87_FIOFF] = {8, 4}, [X87_FOSEG] = {20, 2}, [X87_FOOFF] = {16, 4}, [X87_FOP] = {6, 2}};

static u64 x87_initial(u32 index)
{
	return index == X87_FCTRL ? FCW_INIT : index == X87_FTAG ? 0xffff : 0;
}

static void get_x87(const struct access *a)
{
	const u8 *image = a->c->fpu.bytes;
	u64 v = 0;

	if (!is_live(a, XC_X87))
		v = x87_initial(a->index);
	else if (a->index == X87_FTAG)
		v = gdb_x87_tags(image);
	else
		memcpy(&v, image + x87_at[a->index].offset, x87_at[a->index].bytes);
	put(a, v);
}

static bool set_x87(const struct access *a)
{
	u64 v = a->index == X87_FTAG ? gdb_x87_abridged_tags(value_of(a)) : value_of(a);

	make_live(a, XC_X87);
	memcpy(a->c->fpu.bytes + x87_at[a->index].offset, &v, x87_at[a->index].bytes);
	return true;
}

/* ---- the table ---- */

static const char *const gpr_names[] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
					"r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const selector_names[] = {"cs", "ss", "ds", "es", "fs", "gs"};
static const char *const x87_names[] = {"fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"};
static const char *const base_names[] = {"fs_base", "gs_base"};
static const char *const control_names[] = {
	[GDB_CR0] = "cr0", [GDB_CR2] = "cr2", [GDB_CR3] = "cr3", [GDB_CR4] = "cr4", [GDB_CR8] = "cr8", [GDB_EFER] = "efer",
};

static const struct gdb_family families[] = {
	{GDB_CORE, gpr_names, NULL, 0, 16, 8, "int64", NULL, get_gpr, set_gpr},
	{GDB_CORE, NULL, "rip", 0, 1, 8, "code_ptr", NULL, get_rip, set_rip},
	{GDB_CORE, NULL, "eflags", 0, 1, 4, "i386_eflags", NULL, get_flags, set_flags},
	{GDB_CORE, selector_names, NULL, 0, 6, 4, "int32", NULL, get_selector, NULL},
	{GDB_CORE, NULL, "st%u", 0, 8, 10, "i387_ext", NULL, get_st, set_st},
	{GDB_CORE, x87_names, NULL, 0, 8, 4, "int", "float", get_x87, set_x87},
	{GDB_SSE, NULL, "xmm%u", 0, 16, 16, "vec128", NULL, get_xmm, set_xmm},
	{GDB_SSE, NULL, "mxcsr", 0, 1, 4, "int", "vector", get_mxcsr, set_mxcsr},
	{GDB_SEGMENTS, base_names, NULL, 0, 2, 8, "int64", NULL, get_base, set_base},
	{GDB_AVX, NULL, "ymm%uh", 0, 16, 16, "uint128", NULL, get_ymmh, set_ymmh},
	{GDB_AVX512, NULL, "xmm%u", 16, 16, 16, "vec128", NULL, get_xmm16, set_xmm16},
	{GDB_AVX512, NULL, "ymm%uh", 16, 16, 16, "uint128", NULL, get_ymm16h, set_ymm16h},
	{GDB_AVX512, NULL, "k%u", 0, 8, 8, "uint64", NULL, get_k, set_k},
	{GDB_AVX512, NULL, "zmm%uh", 0, 16, 32, "v2ui128", NULL, get_zmmh, set_zmmh},
	{GDB_AVX512, NULL, "zmm%uh", 16, 16, 32, "v2ui128", NULL, get_zmm16h, set_zmm16h},
	{GDB_CONTROL, NULL, "k_gs_base", 0, 1, 8, "int64", "system", get_kernel_gs, set_kernel_gs},
	{GDB_CONTROL, control_names, NULL, 0, 6, 8, "int64", "system", get_control, set_control},
};

void gdb_regs_init(struct gdb_regs *r, const struct x86_cpuid *cpuid)
{
	bool avx = x86_cpuid_has(cpuid, LEAF_FEATURES, 0, 2, F1_ECX_AVX);

	*r = (struct gdb_regs){0};
	r->has[GDB_CORE] = r->has[GDB_SSE] = r->has[GDB_SEGMENTS] = r->has[GDB_CONTROL] = true;
	r->has[GDB_AVX] = avx;
	r->has[GDB_AVX512] = avx && x86_cpuid_has(cpuid, LEAF_FEATURES7, 0, 1, F7_EBX_AVX512F);
	for (u32 f = 0; f < ARRAY_SIZE(families); f++)
		for (u32 i = 0; i < families[f].count && r->has[families[f].feature]; i++)
			r->reg[r->n++] = (struct gdb_reg){&families[f], i, families[f].bytes};
}

enum gdb_feature gdb_reg_feature(const struct gdb_reg *reg)
{
	return reg->family->feature;
}

void gdb_reg_name(const struct gdb_reg *reg, char *name, size_t size)
{
	const struct gdb_family *f = reg->family;
	const char *number = f->names ? NULL : strstr(f->format, "%u");

	if (f->names)
		snprintf(name, size, "%s", f->names[reg->index]);
	else if (number)
		snprintf(name, size, "%.*s%u%s", (int)(number - f->format), f->format, f->first + reg->index, number + 2);
	else
		snprintf(name, size, "%s", f->format);
}

const char *gdb_reg_type(const struct gdb_reg *reg)
{
	u32 gpr = reg->family->names == gpr_names ? gpr_order[reg->index] : R_RAX;
	bool pointer = gpr == R_RSP || gpr == R_RBP;

	return pointer ? "data_ptr" : reg->family->type;
}

const char *gdb_reg_group(const struct gdb_reg *reg)
{
	return reg->family->group;
}

void gdb_reg_get(const struct gdb_reg *reg, const struct x86_cpu *c, u64 cr8, u8 *value)
{
	const struct access a = {(struct x86_cpu *)c, &cr8, reg->index, reg->bytes, value}; /* get leaves *c alone */

	reg->family->get(&a);
}

bool gdb_reg_set(const struct gdb_reg *reg, struct x86_cpu *c, u64 *cr8, const u8 *value)
{
	const struct access a = {c, cr8, reg->index, reg->bytes, (u8 *)value}; /* set leaves *value alone */

	return reg->family->set && reg->family->set(&a);
}
