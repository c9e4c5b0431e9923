/* SPDX-License-Identifier: Apache-2.0 */
/* Enumeration of instruction forms. See forms.h. */
#include "forms.h"
#include "engine/bt/table.h"
#include "isa.h"

#include <stdlib.h>
#include <string.h>

#define PP_NONE 0
#define PP_66 1
#define PP_F3 2
#define PP_F2 3

static const char *const class_names[CLASS_NAMES] = {"general", "string", "bit",    "stack",  "branch", "x87",
						     "mmx",	"sse",	  "avx",    "fma",    "bmi",	"crypto",
						     "gather",	"avx512", "opmask", "system", "fields", "smc"};

const char *form_class_name(u32 cls)
{
	return cls < CLASS_NAMES ? class_names[cls] : "none";
}

int form_class_by_name(const char *name)
{
	for (int i = 0; i < CLASS_NAMES; i++)
		if (!strcmp(class_names[i], name))
			return i;
	return -1;
}

/* Without any, `prefixes` may be NULL. */
static void copy_prefixes(const struct form_fill *fill, u8 *out)
{
	if (fill->nprefixes)
		memcpy(out, fill->prefixes, fill->nprefixes);
}

static u32 encode_legacy(const struct form *fm, const struct form_fill *fill, u8 *out)
{
	static const u8 mandatory[] = {0, 0x66, 0xf3, 0xf2};
	u32 n = 0;
	u8 rex = (u8)(0x40 | fm->w << 3 | fill->r << 2 | fill->x << 1 | fill->b);

	copy_prefixes(fill, out);
	n += fill->nprefixes;
	if (fm->pp)
		out[n++] = mandatory[fm->pp];
	if (fill->rex || rex != 0x40)
		out[n++] = rex;
	if (fm->map)
		out[n++] = 0x0f;
	if (fm->map == 2)
		out[n++] = 0x38;
	if (fm->map == 3)
		out[n++] = 0x3a;
	out[n++] = fm->opcode;
	return n;
}

static u32 encode_vex(const struct form *fm, const struct form_fill *fill, u8 *out)
{
	u32 n = fill->nprefixes;
	u8 last = (u8)((~fill->vvvv & 15) << 3 | (fill->l & 1) << 2 | fm->pp);

	copy_prefixes(fill, out);
	if (fm->map == 1 && !fm->w && !fill->x && !fill->b && !fill->rex) {
		out[n++] = 0xc5;
		out[n++] = (u8)(!fill->r << 7 | last);
	} else {
		out[n++] = 0xc4;
		out[n++] = (u8)(!fill->r << 7 | !fill->x << 6 | !fill->b << 5 | fm->map);
		out[n++] = (u8)(fm->w << 7 | last);
	}
	out[n++] = fm->opcode;
	return n;
}

static u32 encode_evex(const struct form *fm, const struct form_fill *fill, u8 *out)
{
	u32 n = fill->nprefixes;

	copy_prefixes(fill, out);
	out[n++] = 0x62;
	out[n++] = (u8)(!fill->r << 7 | !fill->x << 6 | !fill->b << 5 | !fill->r2 << 4 | fm->map);
	out[n++] = (u8)(fm->w << 7 | (~fill->vvvv & 15) << 3 | 1 << 2 | fm->pp);
	out[n++] = (u8)(fill->z << 7 | fill->l << 5 | fill->bcst << 4 | !fill->v2 << 3 | fill->aaa);
	out[n++] = fm->opcode;
	return n;
}

u32 form_encode(const struct form *fm, const struct form_fill *fill, u8 *out)
{
	if (fm->encoding == ENC_LEGACY)
		return encode_legacy(fm, fill, out);
	return fm->encoding == ENC_VEX ? encode_vex(fm, fill, out) : encode_evex(fm, fill, out);
}

struct builder {
	struct forms *f;
	forms_has_fn has;
	forms_announced_fn announced;
	u32 room;
	bool failed;
};

/* What tells two encodings of one mnemonic apart. */
struct probe {
	bool valid;
	bool has_modrm, needs_mask, same_in_ring0, native, jumps;
	u16 mnemonic;
	u8 cls;
	u64 shape; /* digest of operand kinds and sizes */
};

static u64 operand_shape(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
	u64 h = in->operand_width;

	for (u32 i = 0; i < in->operand_count_visible; i++)
		h = (h * 1099511628211ull) ^ (u64)op[i].type ^ (u64)op[i].size << 8 ^ (u64)op[i].element_type << 24;
	return h;
}

static bool probe_decode(struct builder *b, const struct form *fm, u8 aaa, u8 modrm, struct probe *p)
{
	const struct form_fill fill = {.aaa = aaa, .l = fm->l, .x = b->f->bits == 64 && fm->encoding != ENC_LEGACY && modrm < 0xc0};
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction in;
	u8 bytes[24] = {0};
	u32 n = form_encode(fm, &fill, bytes);

	bytes[n++] = modrm;
	bytes[n++] = 0x08 | 3; /* [rbx + rcx or r9 or a vector], used with rm = 4 */
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&b->f->decoder, bytes, 15, &in, op)))
		return false;
	if (!forms_allowed(&in, b->has)) {
		b->f->left_out[in.mnemonic] = !b->announced(&in) ? 0 : bt_native_needs(&in) == ~0u ? 1 : 2;
		return false;
	}
	/* AMD and Intel CPUs disagree on what 66h does to near branches; no compiler emits it. */
	if (fm->pp == PP_66 && isa_class(&in) == CLASS_BRANCH)
		return false;
	/* W=1 is ignored by Intel's CPUs and #UD on AMD's, where there is no 64-bit register to move. */
	if (b->f->bits == 32 && fm->w && (in.mnemonic == ZYDIS_MNEMONIC_VPEXTRD || in.mnemonic == ZYDIS_MNEMONIC_VPINSRD))
		return false;
	p->valid = true;
	p->needs_mask = aaa != 0;
	p->has_modrm = (in.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0;
	p->same_in_ring0 = isa_same_in_ring0(&in);
	p->native = bt_native_needs(&in) != ~0u;
	p->jumps = in.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE;
	p->mnemonic = (u16)in.mnemonic;
	p->cls = (u8)isa_class(&in);
	p->shape = operand_shape(&in, op);
	return true;
}

static struct probe probe_form(struct builder *b, const struct form *fm, u8 modrm)
{
	struct probe p = {0};

	if (!probe_decode(b, fm, 0, modrm, &p) && fm->encoding == ENC_EVEX)
		probe_decode(b, fm, 1, modrm, &p);
	return p;
}

static void builder_add(struct builder *b, const struct form *fm, const struct probe *p)
{
	struct forms *f = b->f;
	struct form *grown;

	if (f->n == b->room) {
		grown = realloc(f->form, (b->room + 4096) * sizeof(*grown));
		if (!grown) {
			b->failed = true;
			return;
		}
		f->form = grown;
		b->room += 4096;
	}
	f->form[f->n] = *fm;
	f->form[f->n].mnemonic = p->mnemonic;
	f->form[f->n].cls = p->cls;
	f->form[f->n].needs_mask = p->needs_mask;
	f->form[f->n].same_in_ring0 = p->same_in_ring0;
	f->form[f->n].native = p->native;
	f->form[f->n].jumps = p->jumps;
	f->form[f->n++].has_modrm = p->has_modrm;
}

/* One value for all n probes (invalid ones are ignored when there are few of them)? */
static bool probes_agree(const struct probe *p, u32 n, const struct probe **one)
{
	u32 invalid = 0;

	*one = NULL;
	for (u32 i = 0; i < n; i++) {
		if (!p[i].valid)
			invalid++;
		else if (!*one)
			*one = &p[i];
		else if (p[i].mnemonic != (*one)->mnemonic)
			return false;
	}
	return *one && invalid <= 2;
}

static void add_row(struct builder *b, struct form fm, const struct probe *p, bool in_rm)
{
	const struct probe *one;

	if (probes_agree(p, 8, &one)) {
		builder_add(b, &fm, one);
		return;
	}
	for (u8 i = 0; i < 8; i++) {
		if (!p[i].valid)
			continue;
		if (in_rm)
			fm.rm = i;
		else
			fm.reg = i;
		builder_add(b, &fm, &p[i]);
	}
}

static void add_memory(struct builder *b, struct form fm)
{
	struct probe p[8];

	fm.mem = true;
	for (u8 reg = 0; reg < 8; reg++)
		p[reg] = probe_form(b, &fm, (u8)(reg << 3 | 4));
	add_row(b, fm, p, false);
}

static void add_register(struct builder *b, struct form fm)
{
	struct probe p[8][8], row[8];
	const struct probe *one;
	bool same = true;

	for (u8 reg = 0; reg < 8; reg++) {
		for (u8 rm = 0; rm < 8; rm++)
			p[reg][rm] = probe_form(b, &fm, (u8)(0xc0 | reg << 3 | rm));
		same = same && probes_agree(p[reg], 8, &one);
		row[reg] = p[reg][3].valid ? p[reg][3] : p[reg][1];
	}
	if (same && probes_agree(row, 8, &one)) {
		builder_add(b, &fm, one);
		return;
	}
	for (u8 reg = 0; reg < 8; reg++) {
		fm.reg = reg;
		fm.rm = FORM_ANY;
		add_row(b, fm, p[reg], true);
	}
}

static void add_opcode(struct builder *b, struct form fm)
{
	struct probe p = probe_form(b, &fm, 0x04);

	fm.reg = fm.rm = FORM_ANY;
	if (p.valid && !p.has_modrm) {
		builder_add(b, &fm, &p);
		return;
	}
	add_memory(b, fm);
	add_register(b, fm);
}

static bool is_prefix_or_escape(const struct forms *f, u32 map, u32 op)
{
	static const u8 bytes[] = {0x0f, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0xc4, 0xc5, 0x62};

	if (map == 1)
		return op == 0x38 || op == 0x3a || op == 0x0f;
	return map == 0 && ((f->bits == 64 && (op & 0xf0) == 0x40) || memchr(bytes, (int)op, sizeof(bytes)));
}

/* A prefix or W that changes nothing is no form of its own; the generator adds superfluous prefixes anyway. */
static bool same_as_plainer(struct builder *b, const struct form *fm)
{
	static const u8 modrms[] = {0x04, 0xc3, 0xd9, 0xe5, 0x34, 0x0c};
	struct form plain = *fm;
	struct probe p, q;

	if (!fm->pp && !fm->w)
		return false;
	if (fm->w)
		plain.w = 0;
	else
		plain.pp = 0;
	for (u32 i = 0; i < ARRAY_SIZE(modrms); i++) {
		p = probe_form(b, fm, modrms[i]);
		q = probe_form(b, &plain, modrms[i]);
		if (p.valid != q.valid || p.mnemonic != q.mnemonic || p.shape != q.shape)
			return false;
	}
	return true;
}

static void enumerate(struct builder *b, u8 encoding, u8 first_map, u8 last_map, u8 lengths)
{
	struct form fm = {.encoding = encoding};

	for (u32 i = 0; i < (last_map - first_map + 1u) * 256 * 4 * 2 * lengths; i++) {
		fm.l = (u8)(i % lengths);
		fm.w = (u8)(i / lengths % 2);
		fm.pp = (u8)(i / lengths / 2 % 4);
		fm.opcode = (u8)(i / lengths / 8 % 256);
		fm.map = (u8)(first_map + i / lengths / 8 / 256);
		if (b->f->bits == 32 && encoding == ENC_LEGACY && fm.w)
			continue;
		if (encoding == ENC_LEGACY && (is_prefix_or_escape(b->f, fm.map, fm.opcode) || same_as_plainer(b, &fm)))
			continue;
		add_opcode(b, fm);
	}
}

static int compare_forms(const void *a, const void *b)
{
	const struct form *x = a, *y = b;

	if (x->cls != y->cls)
		return x->cls < y->cls ? -1 : 1;
	if (x->mnemonic != y->mnemonic)
		return x->mnemonic < y->mnemonic ? -1 : 1;
	return memcmp(x, y, offsetof(struct form, cls));
}

static void group_forms(struct forms *f)
{
	struct form_group *g = NULL;

	for (u32 i = 0; i < f->n; i++) {
		const struct form *fm = &f->form[i];

		if (!g || g->mnemonic != fm->mnemonic || f->form[i - 1].cls != fm->cls) {
			g = &f->group[f->ngroups++];
			*g = (struct form_group){.mnemonic = fm->mnemonic, .first = i};
			if (!f->class_n[fm->cls]++)
				f->class_first[fm->cls] = f->ngroups - 1;
		}
		g->n++;
		f->left_out[fm->mnemonic] = 0;
	}
}

bool forms_build(struct forms *f, forms_has_fn has, forms_announced_fn announced, u8 bits)
{
	struct builder b = {.f = f, .has = has, .announced = announced};

	memset(f, 0, sizeof(*f));
	f->bits = bits;
	if (bits == 64)
		ZydisDecoderInit(&f->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	else
		ZydisDecoderInit(&f->decoder, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
	enumerate(&b, ENC_LEGACY, 0, 3, 1);
	enumerate(&b, ENC_VEX, 1, 3, 2);
	enumerate(&b, ENC_EVEX, 1, 3, 3);
	f->group = calloc(f->n + 1, sizeof(*f->group));
	f->count = calloc(f->n + 1, sizeof(*f->count));
	if (b.failed || !f->group || !f->count) {
		forms_free(f);
		return false;
	}
	qsort(f->form, f->n, sizeof(*f->form), compare_forms);
	group_forms(f);
	return true;
}

void forms_free(struct forms *f)
{
	free(f->form);
	free(f->group);
	free(f->count);
	memset(f, 0, sizeof(*f));
}
