/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzing a debugger's bytes, as they come from the socket: "\n" ends a packet's data, which gets its frame here, so that checksums are no
 * hurdle; input that begins with '!' is fed raw. */
#include "gdb_client.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct client *c;
static struct gdb_target target;

static void feed_packets(const char *data, size_t size)
{
	static char frame[GDB_PACKET_MAX + 8];

	while (size) {
		const char *end = memchr(data, '\n', size);
		size_t len = end ? (size_t)(end - data) : size;

		if (len <= GDB_PACKET_MAX)
			client_feed(c, frame, client_frame(frame, data, (u32)len));
		data += len + (end != NULL);
		size -= len + (end != NULL);
		if (c->session->running && size % 3 == 0)
			gdb_session_stopped(c->session, &(struct gdb_stop){.cpu = (u32)(size % CLIENT_CPUS), .signal = GDB_SIGTRAP});
		c->log[0] = '\0';
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!c)
		c = aligned_alloc(64, (sizeof(*c) + 63) & ~63ul);
	client_open(c, &target);
	if (size && data[0] == '!')
		client_feed(c, data + 1, (u32)size - 1);
	else
		feed_packets((const char *)data, size);
	client_close(c);
	return 0;
}
