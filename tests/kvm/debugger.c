/* SPDX-License-Identifier: Apache-2.0 */
/*
 * debugger SOCKET: a debugger that takes a paused machine (guise run --paused --gdb unix:SOCKET) through its first instructions: it steps, goes back,
 * and wants to be stopped by a breakpoint and by nothing before, the second time by more breakpoints than a CPU has registers for.
 *
 * Exit status: 0 passed, 1 failed.
 * Threading: one thread.
 */
#include "base/types.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define STEPS 8
#define RIP_AT (16 * 16) /* hexadecimal digits before it in what g answers */

static int machine;

static void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

static void fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	printf("FAILED  ");
	vprintf(fmt, ap);
	printf("\n");
	va_end(ap);
	exit(1);
}

static char next(void)
{
	char c;

	if (read(machine, &c, 1) != 1)
		fail("the machine has gone away");
	return c;
}

static void expand(char *out, size_t size)
{
	size_t n = 0;
	char c;

	while (next() != '$')
		;
	while ((c = next()) != '#' && n + 100 < size) {
		if (c != '*') {
			out[n++] = c;
			continue;
		}
		for (int repeats = next() - 29; repeats > 0; repeats--, n++)
			out[n] = out[n - 1];
	}
	out[n] = 0;
	next();
	next();
}

static const char *ask(const char *fmt, ...) printf_like(1, 2);

static const char *ask(const char *fmt, ...)
{
	static char answer[16384];
	char text[256], frame[300];
	u8 sum = 0;
	va_list ap;
	int n;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (const char *p = text; *p; p++)
		sum = (u8)(sum + (u8)*p);
	n = snprintf(frame, sizeof(frame), "$%s#%02x", text, sum);
	if (write(machine, frame, (size_t)n) != n)
		fail("the machine takes nothing more");
	expand(answer, sizeof(answer));
	if (write(machine, "+", 1) != 1)
		fail("the machine takes nothing more");
	return answer;
}

static void expect(const char *answer, const char *wanted, const char *what)
{
	if (strncmp(answer, wanted, strlen(wanted)) != 0)
		fail("%s: %s", what, answer);
}

static u64 rip(void)
{
	const char *registers = ask("g");
	u64 value = 0;

	if (strlen(registers) < RIP_AT + 16)
		fail("registers: %s", registers);
	for (int i = 7; i >= 0; i--) {
		const char byte[3] = {registers[RIP_AT + 2 * i], registers[RIP_AT + 2 * i + 1]};

		value = value << 8 | strtoul(byte, NULL, 16);
	}
	return value;
}

static void go_back(u64 to)
{
	expect(ask("P10=%016llx", (unsigned long long)__builtin_bswap64(to)), "OK", "setting rip");
}

static void breakpoint(char command, u64 at)
{
	expect(ask("%c0,%llx,1", command, (unsigned long long)at), "OK", "a breakpoint");
}

static void stop_at(const u64 *path, u32 nothers)
{
	go_back(path[0]);
	breakpoint('Z', path[STEPS]);
	for (u32 i = 0; i < nothers; i++)
		breakpoint('Z', 0x7000 + i);
	expect(ask("c"), "T05", "going on");
	if (rip() != path[STEPS])
		fail("stopped at 0x%llx, not at the breakpoint at 0x%llx", (unsigned long long)rip(), (unsigned long long)path[STEPS]);
	breakpoint('z', path[STEPS]);
	printf("ok      a breakpoint, with %u others\n", nothers);
}

static void take_through(void)
{
	u64 path[STEPS + 1];

	expect(ask("?"), "T05", "what has stopped it");
	path[0] = rip();
	for (u32 i = 1; i <= STEPS; i++) {
		expect(ask("s"), "T05", "a step");
		path[i] = rip();
		if (path[i] == path[i - 1])
			fail("a step did not move from 0x%llx", (unsigned long long)path[i]);
	}
	printf("ok      %u steps, from 0x%llx to 0x%llx\n", STEPS, (unsigned long long)path[0], (unsigned long long)path[STEPS]);
	stop_at(path, 0);
	stop_at(path, 6);
}

int main(int argc, char **argv)
{
	struct sockaddr_un where = {.sun_family = AF_UNIX};

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc != 2)
		fail("usage: debugger SOCKET");
	snprintf(where.sun_path, sizeof(where.sun_path), "%s", argv[1]);
	machine = socket(AF_UNIX, SOCK_STREAM, 0);
	for (u32 tries = 0; connect(machine, (struct sockaddr *)&where, sizeof(where)) < 0; tries++) {
		if (tries == 200)
			fail("nobody listens at %s", argv[1]);
		usleep(100000);
	}
	take_through();
	(void)!write(machine, "$k#6b", 5);
	printf("passed\n");
	return 0;
}
