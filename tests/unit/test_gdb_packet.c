/* SPDX-License-Identifier: Apache-2.0 */
/* Framing of the remote protocol: escapes, run lengths, checksums, damage. */
#include "gdb_client.h"

static enum gdb_event feed(struct gdb_parser *p, const char *bytes, size_t len)
{
	enum gdb_event last = GDB_NOTHING;

	for (size_t i = 0; i < len; i++) {
		assert_int_equal(last, GDB_NOTHING);
		last = gdb_parse(p, (u8)bytes[i]);
	}
	return last;
}

#define FEED(p, text) feed(p, text, sizeof(text) - 1)

static void packets_are_taken(void **state)
{
	static struct gdb_parser p;

	assert_int_equal(FEED(&p, "$g#67"), GDB_PACKET);
	assert_string_equal(p.data, "g");
	assert_int_equal(FEED(&p, "$#00"), GDB_PACKET);
	assert_int_equal(p.len, 0);
	assert_int_equal(FEED(&p, "junk \xff$OK#9A"), GDB_PACKET);
	assert_string_equal(p.data, "OK");
}

static void signs_and_interrupts(void **state)
{
	static struct gdb_parser p;

	assert_int_equal(FEED(&p, "+"), GDB_ACK);
	assert_int_equal(FEED(&p, "-"), GDB_NAK);
	assert_int_equal(FEED(&p, "\x03"), GDB_INTERRUPT);
	assert_int_equal(FEED(&p, "$+\x03-#5b"), GDB_PACKET);
	assert_int_equal(p.len, 3);
}

static void damage_is_seen(void **state)
{
	static struct gdb_parser p;

	assert_int_equal(FEED(&p, "$g#68"), GDB_DAMAGED);
	assert_int_equal(FEED(&p, "$g#6x"), GDB_DAMAGED);
	assert_int_equal(FEED(&p, "$g##6"), GDB_DAMAGED);
	assert_int_equal(FEED(&p, "$}#7d"), GDB_DAMAGED); /* an escape of nothing */
	assert_int_equal(FEED(&p, "$half$g#67"), GDB_PACKET);
	assert_string_equal(p.data, "g");
}

static void escapes_are_undone(void **state)
{
	static struct gdb_parser p;

	assert_int_equal(FEED(&p, "$a}\x03}\x04}]b#9e"), GDB_PACKET);
	assert_int_equal(p.len, 5);
	assert_memory_equal(p.data, "a#$}b", 5);
}

static void long_packets_end_well(void **state)
{
	static struct gdb_parser p;
	static char frame[GDB_PACKET_MAX + 16], data[GDB_PACKET_MAX + 1];
	u32 len;

	memset(data, 'm', sizeof(data));
	len = client_frame(frame, data, GDB_PACKET_MAX);
	assert_int_equal(feed(&p, frame, len), GDB_PACKET);
	assert_int_equal(p.len, GDB_PACKET_MAX);
	len = client_frame(frame, data, GDB_PACKET_MAX + 1);
	assert_int_equal(feed(&p, frame, len), GDB_TOO_LONG);
	assert_int_equal(FEED(&p, "$g#67"), GDB_PACKET);
}

static void check_round_trip(const char *data, u32 len)
{
	static char frame[GDB_FRAME_MAX], back[GDB_FRAME_MAX];
	u32 n = gdb_frame(frame, data, len);

	assert_true(n <= GDB_FRAME_MAX);
	assert_int_equal(client_decode(frame, n, back), len);
	assert_memory_equal(back, data, len);
}

static void frames_come_back(void **state)
{
	static char data[GDB_PACKET_MAX];

	check_round_trip("", 0);
	check_round_trip("OK", 2);
	check_round_trip("#$}*", 4);
	for (u32 run = 1; run < 300; run++) {
		memset(data, '0', run);
		data[run] = 'x';
		check_round_trip(data, run + 1);
		memset(data, '*', run);
		check_round_trip(data, run);
	}
	for (u32 i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * 7 >> 3);
	check_round_trip(data, sizeof(data));
	memset(data, '}', sizeof(data));
	check_round_trip(data, sizeof(data));
}

static void runs_are_short(void **state)
{
	char frame[GDB_FRAME_MAX];
	u32 n = gdb_frame(frame, "0000000000000000", 16);

	assert_int_equal(n, 7);
	assert_memory_equal(frame, "$0*,#86", 7);
}

static void hexadecimal(void **state)
{
	const char *text = "12aF,";
	u8 bytes[2];
	u64 v;

	assert_true(gdb_take_hex(&text, &v));
	assert_int_equal(v, 0x12af);
	assert_int_equal(*text, ',');
	assert_false(gdb_take_hex(&text, &v));
	text = "ffffffffffffffff";
	assert_true(gdb_take_hex(&text, &v));
	text = "0ffffffffffffffff";
	assert_false(gdb_take_hex(&text, &v));
	assert_true(gdb_hex_decode(bytes, "00fF", 2));
	assert_int_equal(bytes[1], 0xff);
	assert_false(gdb_hex_decode(bytes, "00f", 2));
	assert_false(gdb_hex_decode(bytes, "", 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(packets_are_taken),  cmocka_unit_test(signs_and_interrupts),  cmocka_unit_test(damage_is_seen),
		cmocka_unit_test(escapes_are_undone), cmocka_unit_test(long_packets_end_well), cmocka_unit_test(frames_come_back),
		cmocka_unit_test(runs_are_short),     cmocka_unit_test(hexadecimal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
