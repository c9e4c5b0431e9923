/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One grammar for sub-options everywhere: "value,key=val,flag". A table of keys describes what an option takes; it drives parsing, the
 * errors (with the nearest key), and help (`--disk help`).
 *
 * Threading: none; before the VM runs.
 */
#pragma once

#include "base/err.h"

enum opt_type { OPT_STRING, OPT_FLAG, OPT_UINT, OPT_SIZE /* K M G T, binary */, OPT_CHOICE };

struct opt_key {
	const char *name; /* "" for the unnamed first value */
	enum opt_type type;
	const char *help;
	const char *def;	    /* shown in help and used when the key is absent; NULL: none */
	const char *const *choices; /* OPT_CHOICE, ends with NULL */
	bool many;		    /* may be given several times */
};

#define OPTS_MAX 16
struct opts {
	const struct opt_key *keys; /* ends with a NULL name */
	u32 n;
	struct {
		const struct opt_key *key;
		char *text; /* owned */
		u64 num;
	} val[OPTS_MAX];
};

/* `option` is for messages ("--disk"). A comma is written ",,". Errors: EINVAL with the nearest key. */
int opts_parse(struct opts *o, const char *option, const struct opt_key *keys, const char *text, struct err *e) must_check;
void opts_free(struct opts *o);
const char *opts_str(const struct opts *o, const char *key);		/* default or NULL when absent */
u64 opts_num(const struct opts *o, const char *key);			/* default or 0 */
bool opts_has(const struct opts *o, const char *key);			/* given by the user */
const char *opts_nth(const struct opts *o, const char *key, u32 index); /* for keys with `many` */

/* "1G", "512M", "64K", "1T", with or without a trailing B/iB; a bare number is refused unless `bare_ok`. */
int parse_size(const char *text, bool bare_ok, u64 *out, struct err *e) must_check;
int parse_uint(const char *text, u64 min, u64 max, u64 *out, struct err *e) must_check;
