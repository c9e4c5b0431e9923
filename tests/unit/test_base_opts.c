/* SPDX-License-Identifier: Apache-2.0 */
/* The sub-option grammar and the number formats. */
#include "base/opts.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const char *const formats[] = {"raw", "qcow2", NULL};
static const struct opt_key disk_keys[] = {
	{.name = "", .type = OPT_STRING, .help = "file"},
	{.name = "readonly", .type = OPT_FLAG},
	{.name = "format", .type = OPT_CHOICE, .def = "raw", .choices = formats},
	{.name = "cache", .type = OPT_SIZE, .def = "4M"},
	{.name = "queues", .type = OPT_UINT, .def = "1"},
	{.name = "tag", .type = OPT_STRING, .many = true},
	{0},
};

static void parses_every_type(void **state)
{
	struct opts o;
	struct err e = {0};

	assert_int_equal(opts_parse(&o, "--disk", disk_keys, "a=b,,c,readonly,format=qcow2,cache=1G,queues=0x10,tag=x,tag=y", &e), 0);
	assert_string_equal(opts_str(&o, ""), "a=b,c");
	assert_int_equal(opts_num(&o, "readonly"), 1);
	assert_int_equal(opts_num(&o, "format"), 1);
	assert_string_equal(opts_str(&o, "format"), "qcow2");
	assert_int_equal(opts_num(&o, "cache"), GiB);
	assert_int_equal(opts_num(&o, "queues"), 16);
	assert_string_equal(opts_nth(&o, "tag", 0), "x");
	assert_string_equal(opts_nth(&o, "tag", 1), "y");
	assert_null(opts_nth(&o, "tag", 2));
	opts_free(&o);
}

static void defaults_apply(void **state)
{
	struct opts o;
	struct err e = {0};

	assert_int_equal(opts_parse(&o, "--disk", disk_keys, "f,readonly=off", &e), 0);
	assert_int_equal(opts_num(&o, "cache"), 4 * MiB);
	assert_int_equal(opts_num(&o, "queues"), 1);
	assert_string_equal(opts_str(&o, "format"), "raw");
	assert_false(opts_has(&o, "format"));
	assert_true(opts_has(&o, "readonly"));
	assert_int_equal(opts_num(&o, "readonly"), 0);
	opts_free(&o);
	assert_int_equal(opts_parse(&o, "--disk", disk_keys, "", &e), 0);
	assert_null(opts_str(&o, ""));
	opts_free(&o);
}

static void first_piece_with_a_known_key_is_that_key(void **state)
{
	struct opts o;
	struct err e = {0};

	assert_int_equal(opts_parse(&o, "--disk", disk_keys, "tag=x", &e), 0);
	assert_false(opts_has(&o, ""));
	assert_string_equal(opts_str(&o, "tag"), "x");
	opts_free(&o);
}

static void refuses(void **state)
{
	static const struct {
		const char *text, *message;
	} bad[] = {
		{"f,redonly", "did you mean \"readonly\"?"},
		{"f,zzzz=1", "--disk does not take \"zzzz\""},
		{"f,", "empty"},
		{"f,=x", "empty"},
		{"f,readonly,readonly", "given twice"},
		{"f,readonly=maybe", "neither on nor off"},
		{"f,format=qcow", "did you mean \"qcow2\""},
		{"f,format=pdf9", "choose one of: raw, qcow2"},
		{"f,queues=-1", "not a whole number"},
		{"f,queues=", "needs a value"},
		{"f,queues", "needs a value"},
		{"f,cache=1X", "units are K, M, G and T"},
		{"f,tag=1,tag=2,tag=3,tag=4,tag=5,tag=6,tag=7,tag=8,tag=9,tag=a,tag=b,tag=c,tag=d,tag=e,tag=f,tag=g", "more than 16"},
	};
	struct opts o;

	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err e = {0};

		assert_true(opts_parse(&o, "--disk", disk_keys, bad[i].text, &e) < 0);
		if (!strstr(e.msg, bad[i].message))
			fail_msg("%s: \"%s\" does not say \"%s\"", bad[i].text, e.msg, bad[i].message);
		assert_int_equal(o.n, 0);
	}
}

static void sizes(void **state)
{
	static const struct {
		const char *text;
		u64 value;
	} good[] = {{"64K", 64 * KiB}, {"512M", 512 * MiB}, {"1g", GiB},	{"2T", 2048 * GiB},
		    {"1GiB", GiB},     {"1GB", GiB},	    {"0x10M", 16 * MiB}};
	static const char *const bad[] = {
		"",    "M",  "-1G", "1.5G", " 1G", "1G ", "1GG", "1Gi", "nan", "inf", "1e3M", "16777216T", "99999999999999999999M",
		"+1G", "0x", "0xG"};
	struct err e = {0};
	u64 v;

	for (u32 i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(parse_size(good[i].text, false, &v, &e), 0);
		assert_int_equal(v, good[i].value);
	}
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++)
		if (parse_size(bad[i], true, &v, &e) == 0)
			fail_msg("\"%s\" was taken as a size", bad[i]);
	assert_true(parse_size("512", false, &v, &e) < 0);
	assert_int_equal(parse_size("512", true, &v, &e), 0);
	assert_int_equal(v, 512);
}

static void numbers(void **state)
{
	struct err e = {0};
	u64 v;

	assert_int_equal(parse_uint("0xf4", 0, 0xffff, &v, &e), 0);
	assert_int_equal(v, 0xf4);
	assert_int_equal(parse_uint("18446744073709551615", 0, UINT64_MAX, &v, &e), 0);
	assert_int_equal(parse_uint("0", 1, 64, &v, &e), -ERANGE);
	assert_int_equal(parse_uint("65", 1, 64, &v, &e), -ERANGE);
	assert_int_equal(parse_uint("18446744073709551616", 0, UINT64_MAX, &v, &e), -EINVAL);
	assert_int_equal(parse_uint("-1", 0, 64, &v, &e), -EINVAL);
	assert_int_equal(parse_uint("1x", 0, 64, &v, &e), -EINVAL);
	assert_int_equal(parse_uint("", 0, 64, &v, &e), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parses_every_type),
		cmocka_unit_test(defaults_apply),
		cmocka_unit_test(first_piece_with_a_known_key_is_that_key),
		cmocka_unit_test(refuses),
		cmocka_unit_test(sizes),
		cmocka_unit_test(numbers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
