/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a person types after "monitor" in GDB.
 *
 * Contract and threading: session.h.
 */
#include "gdb/session.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define WORD_MAX 256
#define TEXT_MAX 8000 /* two digits each must fit into one packet */

static void say(struct gdb_session *s, const char *text)
{
	gdb_put_hex(s, text, (u32)strlen(text));
}

static void info(struct gdb_session *s)
{
	char text[TEXT_MAX] = "";

	s->target->info(s->target->opaque, text, sizeof(text));
	say(s, text);
}

static void reset(struct gdb_session *s)
{
	s->target->reset(s->target->opaque);
	say(s, "the machine is reset, and still stopped; \"maintenance flush register-cache\" shows its registers\n");
}

static void quit(struct gdb_session *s)
{
	s->target->quit(s->target->opaque);
	say(s, "the machine ends\n");
}

static void help(struct gdb_session *s);

static const struct {
	const char *name, *text;
	void (*run)(struct gdb_session *s);
} words[] = {
	{"help", "show this", help},
	{"info", "the machine and where its CPUs are", info},
	{"reset", "reset the machine; it stays stopped", reset},
	{"quit", "end the machine", quit},
};

static void help(struct gdb_session *s)
{
	char line[128];

	for (u32 i = 0; i < ARRAY_SIZE(words); i++) {
		snprintf(line, sizeof(line), "monitor %-6s %s\n", words[i].name, words[i].text);
		say(s, line);
	}
}

static void unknown(struct gdb_session *s, const char *word)
{
	char line[WORD_MAX + 64];

	snprintf(line, sizeof(line), "there is no command \"%s\"; see: monitor help\n", word);
	say(s, line);
}

static char *trimmed(char *text)
{
	text += strspn(text, " \t\r\n");
	text[strcspn(text, " \t\r\n")] = '\0';
	return text;
}

void gdb_monitor(struct gdb_session *s, const char *args)
{
	char line[WORD_MAX], *word;
	size_t len = strlen(args) / 2;

	if (len >= sizeof(line) || !gdb_hex_decode((u8 *)line, args, (u32)len))
		return gdb_error(s, EINVAL);
	line[len] = '\0';
	word = trimmed(line);
	for (u32 i = 0; i < ARRAY_SIZE(words); i++)
		if (strcmp(word, words[i].name) == 0)
			return words[i].run(s);
	unknown(s, word);
}
