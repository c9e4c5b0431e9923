/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzing the grammar of sub-options: the input is what a person writes after --disk. A failure has a message, a success can be asked. */
#include "base/opts.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const choices[] = {"on", "off", NULL};
static const struct opt_key keys[] = {
	{.name = "", .type = OPT_STRING},
	{.name = "readonly", .type = OPT_FLAG},
	{.name = "count", .type = OPT_UINT, .def = "3"},
	{.name = "size", .type = OPT_SIZE},
	{.name = "discard", .type = OPT_CHOICE, .choices = choices, .def = "on"},
	{.name = "hostfwd", .type = OPT_STRING, .many = true},
	{.name = NULL},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct opts o = {0};
	struct err e = {0};
	char *text = malloc(size + 1);
	u64 value;

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (opts_parse(&o, "--disk", keys, text, &e)) {
		if (!e.code || !e.msg[0])
			abort();
	} else {
		for (u32 i = 0; keys[i].name; i++) {
			(void)opts_str(&o, keys[i].name);
			(void)opts_num(&o, keys[i].name);
			(void)opts_nth(&o, keys[i].name, opts_has(&o, keys[i].name));
		}
		opts_free(&o);
	}
	(void)!parse_size(text, true, &value, &e);
	(void)!parse_uint(text, 1, 64, &value, &e);
	free(text);
	return 0;
}
