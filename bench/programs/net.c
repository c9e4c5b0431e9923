/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP, one stream at a time: the guest is the client in both directions, the server is on the host.
 *
 *     net serve                    listens on the loopback address, prints `port N`, serves one client after another
 *     net run ADDRESS PORT PERCENT
 *
 * What travels is the same MiB of random words over and over; the receiver compares a word in each 64 bytes with what belongs there, and the server
 * tells the client how many bytes were right.
 */
#include "bench.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECE (1u << 20)

enum direction { UP = 0x7570, DOWN = 0x646f776e };

struct request {
	uint64_t direction, bytes;
};

static char pattern[PIECE], received[PIECE];

static void make_pattern(void)
{
	uint64_t state = 5;

	for (size_t i = 0; i < PIECE; i += 8) {
		uint64_t word = next_random(&state);

		memcpy(pattern + i, &word, 8);
	}
}

static int send_all(int fd, const void *data, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = send(fd, (const char *)data + done, size - done, MSG_NOSIGNAL);

		if (n <= 0)
			return 0;
		done += (size_t)n;
	}
	return 1;
}

static int receive_all(int fd, void *data, size_t size)
{
	return recv(fd, data, size, MSG_WAITALL) == (ssize_t)size;
}

static int send_stream(int fd, uint64_t bytes)
{
	for (; bytes >= PIECE; bytes -= PIECE)
		if (!send_all(fd, pattern, PIECE))
			return 0;
	return 1;
}

/* How many bytes came and were right. What comes is taken as it comes, and judged piece by piece. */
static uint64_t receive_stream(int fd, uint64_t bytes)
{
	uint64_t right = 0;
	size_t have = 0;

	while (right < bytes) {
		ssize_t n = recv(fd, received + have, PIECE - have, 0);
		int wrong = 0;

		if (n <= 0)
			break;
		have += (size_t)n;
		if (have < PIECE)
			continue;
		for (size_t i = 0; i < PIECE; i += 64)
			wrong |= memcmp(received + i, pattern + i, 8) != 0;
		if (wrong)
			break;
		right += PIECE;
		have = 0;
	}
	return right;
}

static void serve_one(int fd)
{
	struct request r;

	while (receive_all(fd, &r, sizeof(r))) {
		if (r.direction == UP) {
			uint64_t right = receive_stream(fd, r.bytes);

			if (!send_all(fd, &right, sizeof(right)))
				return;
		} else if (r.direction != DOWN || !send_stream(fd, r.bytes)) {
			return;
		}
	}
}

static int serve(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t size = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM, 0), client;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&address, &size)) {
		perror("net serve");
		return 1;
	}
	printf("port %u\n", ntohs(address.sin_port));
	fflush(stdout);
	while ((client = accept(listener, NULL, NULL)) >= 0) {
		serve_one(client);
		close(client);
	}
	return 1;
}

static int run(char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[3]))};
	uint64_t pieces = work(2, argv + 3, 512), right = 0, begin;
	struct request up = {UP, pieces * PIECE}, down = {DOWN, pieces * PIECE};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	inet_pton(AF_INET, argv[2], &address.sin_addr);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		perror("net run");
		must("net-connect", 0);
	}
	begin = now_ns();
	must("net-up", send_all(fd, &up, sizeof(up)) && send_stream(fd, up.bytes) && receive_all(fd, &right, sizeof(right)));
	report("net-up", begin, pieces, right);
	must("net-up", right == up.bytes);

	begin = now_ns();
	must("net-down", send_all(fd, &down, sizeof(down)));
	right = receive_stream(fd, down.bytes);
	report("net-down", begin, pieces, right);
	must("net-down", right == down.bytes);
	return 0;
}

int main(int argc, char **argv)
{
	make_pattern();
	if (argc == 2 && !strcmp(argv[1], "serve"))
		return serve();
	if (argc == 5 && !strcmp(argv[1], "run"))
		return run(argv);
	return 2;
}
