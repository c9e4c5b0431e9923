/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The target description. Source: the GDB manual, appendix G; the features that GDB looks for are in G.5.6 "i386 Features".
 *
 * Threading: none.
 */
#include "gdb/session.h"

#include <stdio.h>
#include <stdlib.h>

static const char vec128[] = "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>\n"
			     "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>\n"
			     "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/>\n"
			     "<vector id=\"v8i16\" type=\"int16\" count=\"8\"/>\n"
			     "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/>\n"
			     "<vector id=\"v2i64\" type=\"int64\" count=\"2\"/>\n"
			     "<union id=\"vec128\">\n"
			     "<field name=\"v4_float\" type=\"v4f\"/>\n"
			     "<field name=\"v2_double\" type=\"v2d\"/>\n"
			     "<field name=\"v16_int8\" type=\"v16i8\"/>\n"
			     "<field name=\"v8_int16\" type=\"v8i16\"/>\n"
			     "<field name=\"v4_int32\" type=\"v4i32\"/>\n"
			     "<field name=\"v2_int64\" type=\"v2i64\"/>\n"
			     "<field name=\"uint128\" type=\"uint128\"/>\n"
			     "</union>\n";

static const char v2ui128[] = "<vector id=\"v2ui128\" type=\"uint128\" count=\"2\"/>\n";

struct flag {
	const char *name;
	u32 bit;
};
static const struct flag eflags[] = {{"CF", 0},	 {"", 1},    {"PF", 2},	  {"AF", 4},   {"ZF", 6},  {"SF", 7},
				     {"TF", 8},	 {"IF", 9},  {"DF", 10},  {"OF", 11},  {"NT", 14}, {"RF", 16},
				     {"VM", 17}, {"AC", 18}, {"VIF", 19}, {"VIP", 20}, {"ID", 21}};

static const char *const feature_names[GDB_FEATURES] = {
	[GDB_CORE] = "org.gnu.gdb.i386.core", [GDB_SSE] = "org.gnu.gdb.i386.sse",	[GDB_SEGMENTS] = "org.gnu.gdb.i386.segments",
	[GDB_AVX] = "org.gnu.gdb.i386.avx",   [GDB_AVX512] = "org.gnu.gdb.i386.avx512", [GDB_CONTROL] = "org.guise.i386.control"};

static void put_eflags(FILE *out)
{
	fprintf(out, "<flags id=\"i386_eflags\" size=\"4\">\n");
	for (u32 i = 0; i < ARRAY_SIZE(eflags); i++)
		fprintf(out, "<field name=\"%s\" start=\"%u\" end=\"%u\"/>\n", eflags[i].name, eflags[i].bit, eflags[i].bit);
	fprintf(out, "</flags>\n");
}

/* Types that a feature's registers have and GDB does not know by itself. */
static void put_types(FILE *out, enum gdb_feature f)
{
	if (f == GDB_CORE)
		put_eflags(out);
	if (f == GDB_SSE || f == GDB_AVX512)
		fputs(vec128, out);
	if (f == GDB_AVX512)
		fputs(v2ui128, out);
}

static void put_register(FILE *out, const struct gdb_reg *reg, u32 number)
{
	const char *group = gdb_reg_group(reg);
	char name[16];

	gdb_reg_name(reg, name, sizeof(name));
	fprintf(out, "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\" regnum=\"%u\"", name, reg->bytes * 8, gdb_reg_type(reg), number);
	if (group)
		fprintf(out, " group=\"%s\"", group);
	fprintf(out, "/>\n");
}

static void put_feature(FILE *out, const struct gdb_regs *regs, enum gdb_feature f)
{
	fprintf(out, "<feature name=\"%s\">\n", feature_names[f]);
	put_types(out, f);
	for (u32 i = 0; i < regs->n; i++)
		if (gdb_reg_feature(&regs->reg[i]) == f)
			put_register(out, &regs->reg[i], i);
	fprintf(out, "</feature>\n");
}

char *gdb_target_xml(const struct gdb_regs *regs)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		return NULL;
	fprintf(out, "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target>\n"
		     "<architecture>i386:x86-64</architecture>\n");
	for (u32 f = 0; f < GDB_FEATURES; f++)
		if (regs->has[f])
			put_feature(out, regs, (enum gdb_feature)f);
	fprintf(out, "</target>\n");
	if (fclose(out) == 0)
		return text;
	free(text);
	return NULL;
}
