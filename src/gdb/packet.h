/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Framing of the remote protocol: $data#checksum, acknowledgements, escapes, run lengths. Source: the GDB manual, appendix E.1.
 *
 * Threading: none; no I/O.
 */
#pragma once

#include "base/types.h"

#define GDB_PACKET_MAX 0x4000u /* bytes of data in one packet, both ways */
#define GDB_FRAME_MAX (2 * GDB_PACKET_MAX + 4)

enum gdb_event {
	GDB_NOTHING, /* more bytes are needed */
	GDB_PACKET,
	GDB_DAMAGED,  /* the checksum is wrong */
	GDB_TOO_LONG, /* a good packet that does not fit */
	GDB_INTERRUPT,
	GDB_ACK,
	GDB_NAK,
};

struct gdb_parser {
	enum { PARSE_OUTSIDE, PARSE_DATA, PARSE_SUM1, PARSE_SUM2 } state;
	u8 sum, sent_sum;
	bool escaped, too_long, bad_sum;
	u32 len;
	char data[GDB_PACKET_MAX + 1]; /* after GDB_PACKET: len bytes, escapes undone, and a NUL behind them */
};

/* One byte more. Bytes outside packets that mean nothing are skipped; '$' inside a packet starts it anew. */
enum gdb_event gdb_parse(struct gdb_parser *p, u8 byte);

/* The frame of a packet, at most GDB_FRAME_MAX bytes; len <= GDB_PACKET_MAX. Returns its length. */
u32 gdb_frame(char *frame, const char *data, u32 len);

/* Hexadecimal. */
int gdb_hex_digit(char c); /* -1: none */
/* 1 to 16 digits from *text on, which is moved behind them; false: there are none, or too many. */
bool gdb_take_hex(const char **text, u64 *value);
/* 2 * len digits make len bytes. */
bool gdb_hex_decode(u8 *out, const char *text, u32 len);
