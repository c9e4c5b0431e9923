/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sub-option grammar and the number formats of the command line.
 *
 * Threading: none; no shared state.
 */
#include "base/opts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Digits in the base that the prefix tells; no sign, no blanks, nothing behind (unless `end`). errno is ERANGE when they are too many. */
static bool scan_number(const char *text, u64 *out, const char **end)
{
	int base = 10;
	char *stop;

	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
		base = 16;
		text += 2;
	}
	errno = 0;
	if (base == 10 ? !(*text >= '0' && *text <= '9') : !strchr("0123456789abcdefABCDEF", *text) || *text == '\0')
		return false;
	*out = strtoull(text, &stop, base);
	if (errno != 0)
		return false;
	if (end)
		*end = stop;
	return end || *stop == '\0';
}

int parse_uint(const char *text, u64 min, u64 max, u64 *out, struct err *e)
{
	u64 value;
	bool ok = scan_number(text, &value, NULL);

	if (!ok && min == 0 && max == UINT64_MAX)
		return err_set(e, EINVAL, "\"%s\" is not a whole number of 64 bits, such as 80 or 0x50", text);
	if (!ok)
		return err_set(e, EINVAL, "\"%s\" is not a whole number from %llu to %llu", text, (unsigned long long)min,
			       (unsigned long long)max);
	if (value < min || value > max)
		return err_set(e, ERANGE, "%s is out of range: give a number from %llu to %llu", text, (unsigned long long)min,
			       (unsigned long long)max);
	*out = value;
	return 0;
}

/* The power of two of a unit letter, -1 for none. Advances past the letter and a B or iB. */
static int scan_unit(const char **text)
{
	static const char letters[] = "KMGT";
	const char *t = *text, *at;
	int shift;

	if (*t == '\0')
		return -1;
	at = strchr(letters, *t >= 'a' && *t <= 'z' ? *t - 32 : *t);
	if (!at)
		return -1;
	shift = 10 * (int)(at - letters + 1);
	t++;
	if (t[0] == 'i' && t[1] == 'B')
		t += 2;
	else if (t[0] == 'B')
		t++;
	*text = t;
	return shift;
}

static int size_too_large(const char *text, struct err *e)
{
	return err_set(e, ERANGE, "the size %s is too large; give less than 16777216T", text);
}

int parse_size(const char *text, bool bare_ok, u64 *out, struct err *e)
{
	const char *rest;
	u64 value;
	int shift;
	bool ok = scan_number(text, &value, &rest);

	if (!ok && errno == ERANGE)
		return size_too_large(text, e);
	if (!ok)
		return err_set(e, EINVAL, "\"%s\" is not a size; write it like 512M, 2G or 64K", text);
	if (*rest == '\0' && bare_ok) {
		*out = value;
		return 0;
	}
	if (*rest == '\0')
		return err_set(e, EINVAL, "\"%s\" has no unit; write %sM for mebibytes or %sG for gibibytes", text, text, text);
	shift = scan_unit(&rest);
	if (shift < 0 || *rest != '\0')
		return err_set(e, EINVAL, "\"%s\" is not a size; the units are K, M, G and T", text);
	if (value > UINT64_MAX >> shift)
		return size_too_large(text, e);
	*out = value << shift;
	return 0;
}

static const struct opt_key *find_key(const struct opt_key *keys, const char *name)
{
	for (; keys->name; keys++)
		if (strcmp(keys->name, name) == 0)
			return keys;
	return NULL;
}

#define KEYS_MAX 32

static int unknown_key(const char *option, const struct opt_key *keys, const char *name, struct err *e)
{
	const char *names[KEYS_MAX + 1];
	const char *near;
	u32 n = 0;

	for (; keys->name && n < KEYS_MAX; keys++)
		if (keys->name[0])
			names[n++] = keys->name;
	names[n] = NULL;
	near = err_nearest(name, names);
	if (near)
		return err_set(e, EINVAL, "%s does not take \"%s\"; did you mean \"%s\"? See: %s help", option, name, near, option);
	return err_set(e, EINVAL, "%s does not take \"%s\"; see: %s help", option, name, option);
}

static int parse_flag(const char *text, u64 *out, struct err *e)
{
	if (!text || strcmp(text, "on") == 0)
		*out = 1;
	else if (strcmp(text, "off") == 0)
		*out = 0;
	else
		return err_set(e, EINVAL, "\"%s\" is neither on nor off", text);
	return 0;
}

static int parse_choice(const struct opt_key *key, const char *text, u64 *out, struct err *e)
{
	const char *near;
	size_t at;

	for (u32 i = 0; key->choices[i]; i++) {
		if (strcmp(key->choices[i], text) == 0) {
			*out = i;
			return 0;
		}
	}
	near = err_nearest(text, key->choices);
	if (near)
		return err_set(e, EINVAL, "\"%s\" is not possible; did you mean \"%s\"?", text, near);
	err_set(e, EINVAL, "\"%s\" is not possible; choose one of:", text);
	for (u32 i = 0; key->choices[i]; i++) {
		at = strlen(e->msg);
		snprintf(e->msg + at, sizeof(e->msg) - at, "%s %s", i ? "," : "", key->choices[i]);
	}
	return -EINVAL;
}

static int parse_value(const struct opt_key *key, const char *text, u64 *out, struct err *e)
{
	*out = 0;
	if (key->type == OPT_FLAG)
		return parse_flag(text, out, e);
	if (!text || !*text)
		return err_set(e, EINVAL, "needs a value");
	switch (key->type) {
	case OPT_UINT:
		return parse_uint(text, 0, UINT64_MAX, out, e);
	case OPT_SIZE:
		return parse_size(text, true, out, e);
	case OPT_CHOICE:
		return parse_choice(key, text, out, e);
	default:
		return 0;
	}
}

static int add_value(struct opts *o, const char *option, const struct opt_key *key, const char *text, struct err *e)
{
	const char *dot = key->name[0] ? "," : "";
	u64 num;

	if (!key->many && opts_has(o, key->name))
		return err_set(e, EINVAL, "%s%s%s is given twice", option, dot, key->name);
	if (o->n == OPTS_MAX)
		return err_set(e, E2BIG, "%s has more than %u sub-options", option, OPTS_MAX);
	if (parse_value(key, text, &num, e) < 0)
		return err_prefix(e, "%s%s%s", option, dot, key->name);
	o->val[o->n].key = key;
	o->val[o->n].num = num;
	o->val[o->n].text = strdup(text ? text : "on");
	if (!o->val[o->n].text)
		return err_sys(e, ENOMEM, "%s", option);
	o->n++;
	return 0;
}

/* One piece between commas. The first piece is the unnamed value unless it starts with a known key and '='. */
static int add_piece(struct opts *o, const char *option, char *piece, bool first, struct err *e)
{
	char *eq = strchr(piece, '=');
	const struct opt_key *unnamed = first ? find_key(o->keys, "") : NULL;
	const struct opt_key *key;

	if (eq)
		*eq = '\0';
	key = piece[0] ? find_key(o->keys, piece) : NULL;
	if (unnamed && (!eq || !key)) {
		if (eq)
			*eq = '=';
		return add_value(o, option, unnamed, piece, e);
	}
	if (!piece[0])
		return err_set(e, EINVAL, "%s has an empty sub-option (a comma inside a value is written twice)", option);
	if (!key)
		return unknown_key(option, o->keys, piece, e);
	return add_value(o, option, key, eq ? eq + 1 : NULL, e);
}

/* Copies up to the next single comma, turning ",," into ",". Returns where to go on, NULL at the end. */
static const char *cut_piece(const char *text, char *piece)
{
	for (; *text; text++) {
		if (*text == ',' && text[1] != ',')
			break;
		if (*text == ',')
			text++;
		*piece++ = *text;
	}
	*piece = '\0';
	return *text ? text + 1 : NULL;
}

int opts_parse(struct opts *o, const char *option, const struct opt_key *keys, const char *text, struct err *e)
{
	char *piece = malloc(strlen(text) + 1);
	bool first = true;
	int r = 0;

	*o = (struct opts){.keys = keys};
	if (!piece)
		return err_sys(e, ENOMEM, "%s", option);
	if (!*text)
		text = NULL;
	for (; text && r == 0; first = false) {
		text = cut_piece(text, piece);
		r = add_piece(o, option, piece, first, e);
	}
	free(piece);
	if (r < 0)
		opts_free(o);
	return r;
}

void opts_free(struct opts *o)
{
	for (u32 i = 0; i < o->n; i++)
		free(o->val[i].text);
	o->n = 0;
}

/* The index of the nth value given for `key`, -1 when there is none. */
static int find_given(const struct opts *o, const char *key, u32 nth)
{
	for (u32 i = 0; i < o->n; i++)
		if (strcmp(o->val[i].key->name, key) == 0 && nth-- == 0)
			return (int)i;
	return -1;
}

const char *opts_str(const struct opts *o, const char *key)
{
	const struct opt_key *k;
	int at = find_given(o, key, 0);

	if (at >= 0)
		return o->val[at].text;
	k = find_key(o->keys, key);
	return k ? k->def : NULL;
}

u64 opts_num(const struct opts *o, const char *key)
{
	const struct opt_key *k;
	struct err ignored;
	u64 num;
	int at = find_given(o, key, 0);

	if (at >= 0)
		return o->val[at].num;
	k = find_key(o->keys, key);
	if (!k || !k->def || parse_value(k, k->def, &num, &ignored) < 0)
		return 0;
	return num;
}

bool opts_has(const struct opts *o, const char *key)
{
	return find_given(o, key, 0) >= 0;
}

const char *opts_nth(const struct opts *o, const char *key, u32 index)
{
	int at = find_given(o, key, index);

	return at >= 0 ? o->val[at].text : NULL;
}
