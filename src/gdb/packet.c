/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Framing of the remote protocol. Contract and threading: packet.h.
 */
#include "gdb/packet.h"

#include <string.h>

#define ESCAPE '}'
#define ESCAPE_XOR 0x20
#define RUN_MIN 3  /* repeats, besides the byte itself */
#define RUN_MAX 97 /* 97 + 29 = '~', the last printable character */
#define RUN_BIAS 29

static const char digits[] = "0123456789abcdef";

int gdb_hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool gdb_take_hex(const char **text, u64 *value)
{
	u32 n = 0;

	for (*value = 0; gdb_hex_digit(**text) >= 0; ++*text, n++)
		*value = *value << 4 | (u64)gdb_hex_digit(**text);
	return n >= 1 && n <= 16;
}

bool gdb_hex_decode(u8 *out, const char *text, u32 len)
{
	for (u32 i = 0; i < len; i++) {
		int high = gdb_hex_digit(text[2 * i]), low = high < 0 ? -1 : gdb_hex_digit(text[2 * i + 1]);

		if (low < 0)
			return false;
		out[i] = (u8)(high << 4 | low);
	}
	return true;
}

/* ---- receiving ---- */

static void begin(struct gdb_parser *p)
{
	p->state = PARSE_DATA;
	p->sum = 0;
	p->escaped = p->too_long = p->bad_sum = false;
	p->len = 0;
}

static enum gdb_event parse_outside(struct gdb_parser *p, u8 byte)
{
	switch (byte) {
	case '$':
		begin(p);
		return GDB_NOTHING;
	case 3:
		return GDB_INTERRUPT;
	case '+':
		return GDB_ACK;
	case '-':
		return GDB_NAK;
	default:
		return GDB_NOTHING;
	}
}

static void add_data(struct gdb_parser *p, u8 byte)
{
	p->sum = (u8)(p->sum + byte);
	if (byte == ESCAPE && !p->escaped) {
		p->escaped = true;
		return;
	}
	if (p->len == GDB_PACKET_MAX)
		p->too_long = true;
	else
		p->data[p->len++] = (char)(p->escaped ? byte ^ ESCAPE_XOR : byte);
	p->escaped = false;
}

static void parse_data(struct gdb_parser *p, u8 byte)
{
	if (byte == '$')
		begin(p);
	else if (byte == '#')
		p->state = PARSE_SUM1;
	else
		add_data(p, byte);
}

static void add_sum_digit(struct gdb_parser *p, u8 byte)
{
	int digit = gdb_hex_digit((char)byte);

	p->bad_sum |= digit < 0;
	p->sent_sum = (u8)(p->sent_sum << 4 | (digit & 15));
}

static enum gdb_event end(struct gdb_parser *p)
{
	p->state = PARSE_OUTSIDE;
	p->data[p->len] = '\0';
	if (p->bad_sum || p->escaped || p->sent_sum != p->sum)
		return GDB_DAMAGED;
	return p->too_long ? GDB_TOO_LONG : GDB_PACKET;
}

enum gdb_event gdb_parse(struct gdb_parser *p, u8 byte)
{
	switch (p->state) {
	case PARSE_OUTSIDE:
		return parse_outside(p, byte);
	case PARSE_DATA:
		parse_data(p, byte);
		return GDB_NOTHING;
	case PARSE_SUM1:
		add_sum_digit(p, byte);
		p->state = PARSE_SUM2;
		return GDB_NOTHING;
	case PARSE_SUM2:
		add_sum_digit(p, byte);
		return end(p);
	}
	return GDB_NOTHING;
}

/* ---- sending ---- */

static bool needs_escape(char c)
{
	return c == '#' || c == '$' || c == '*' || c == ESCAPE;
}

static u32 run_of(const char *data, u32 len)
{
	u32 n = 1;

	while (n < len && n <= RUN_MAX && data[n] == data[0])
		n++;
	return n - 1;
}

/* How many repeats can be written: counts that would read as the end or the start of a packet are not used. */
static u32 writable_run(u32 repeats)
{
	while (repeats + RUN_BIAS == '#' || repeats + RUN_BIAS == '$')
		repeats--;
	return repeats >= RUN_MIN ? repeats : 0;
}

static char *put_data(char *to, const char *data, u32 len)
{
	for (u32 i = 0; i < len; i++) {
		u32 run = needs_escape(data[i]) ? 0 : writable_run(run_of(data + i, len - i));

		if (needs_escape(data[i])) {
			*to++ = ESCAPE;
			*to++ = (char)(data[i] ^ ESCAPE_XOR);
			continue;
		}
		*to++ = data[i];
		if (run) {
			*to++ = '*';
			*to++ = (char)(run + RUN_BIAS);
			i += run;
		}
	}
	return to;
}

u32 gdb_frame(char *frame, const char *data, u32 len)
{
	char *end_of_data = put_data(frame + 1, data, len);
	u8 sum = 0;

	frame[0] = '$';
	for (const char *c = frame + 1; c < end_of_data; c++)
		sum = (u8)(sum + (u8)*c);
	*end_of_data++ = '#';
	*end_of_data++ = digits[sum >> 4];
	*end_of_data++ = digits[sum & 15];
	return (u32)(end_of_data - frame);
}
