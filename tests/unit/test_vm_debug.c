/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine under a debugger, with three CPUs of a fake engine: "instructions" are one byte, each CPU runs round in a page of its own and
 * writes one byte of memory in every round. A thread of the test talks to the machine's socket.
 */
#include "fake_engine.h"
#include "gdb_client.h"

#include "base/clock.h"
#include "vm/vm.h"

#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

enum { CPUS = 3, ROUND = 64 };

#define CODE(cpu) (0x1000ull * ((cpu) + 1))
#define DATA(cpu) (0x5000ull + (cpu))

/* ---- the engine ---- */

static atomic_uint executed[CPUS], syncs[CPUS];

static enum exit_kind debug_exit(struct engine_vcpu *v, enum engine_hit hit)
{
	v->debug->hit = hit;
	return EXIT_DEBUG;
}

static bool at_break(const struct engine_vcpu *v)
{
	for (u32 i = 0; v->debug && i < v->debug->nbreaks; i++)
		if (v->debug->breaks[i] == v->cpu.rip)
			return true;
	return false;
}

static void execute(struct engine_vcpu *v)
{
	u64 at = v->cpu.rip - CODE(v->id);

	if (at == ROUND / 2)
		x86_data_breakpoint(&v->cpu, DATA(v->id), 1, true);
	v->cpu.rip = CODE(v->id) + (at + 1) % ROUND;
	executed[v->id]++;
	nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
}

static enum exit_kind fake_run(struct engine_vcpu *v, struct err *e)
{
	struct engine_debug *d = v->debug;

	for (;;) {
		if (atomic_exchange(&v->kicked, false))
			return EXIT_KICKED;
		if (d && d->watch.met)
			return debug_exit(v, HIT_WATCH);
		if (d && !d->step && at_break(v))
			return debug_exit(v, HIT_BREAK);
		execute(v);
		if (d && d->step)
			return debug_exit(v, d->watch.met ? HIT_WATCH : HIT_STEP);
	}
}

/* The first time, after the reset: all CPUs start, each in its page. */
static void place(struct engine_vcpu *v)
{
	syncs[v->id]++;
	if (v->placed)
		return;
	v->placed = true;
	v->cpu.wait_for_sipi = false;
	v->cpu.rip = CODE(v->id);
}

static void fake_debug(struct engine_vcpu *v, struct engine_debug *d)
{
	v->debug = d;
	v->cpu.watch = d && d->watch.n ? &d->watch : NULL;
}

static const struct engine_ops fake_engine = {FAKE_ENGINE, .vcpu_run = fake_run, .vcpu_sync_in = place, .vcpu_debug = fake_debug};

/* ---- the debugger ---- */

static char directory[] = "/tmp/guise-debug-XXXXXX", path[64], where[80];

/* A talk is on a thread of its own, where cmocka's assertions cannot end a test. */
static void check_text(const char *got, const char *wanted, int line)
{
	if (strcmp(got, wanted) == 0)
		return;
	fprintf(stderr, "%s:%d: \"%s\", should be \"%s\"\n", __FILE__, line, got, wanted);
	abort();
}

static void check(bool holds, const char *what, int line)
{
	if (holds)
		return;
	fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, line, what);
	abort();
}

#define CHECK_TEXT(got, wanted) check_text(got, wanted, __LINE__)
#define CHECK(condition) check(condition, #condition, __LINE__)
#define ASK(fd, packet, reply) CHECK_TEXT(ask(fd, packet), reply)

static int connect_to_vm(void)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = 20}, sizeof(struct timeval));
	CHECK(connect(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0);
	return fd;
}

static const char *answer(int fd)
{
	static _Thread_local char in[GDB_FRAME_MAX], out[2 * GDB_FRAME_MAX];
	u32 n = 0;
	char *hash;

	do {
		ssize_t got = recv(fd, in + n, 1, 0);

		if (got <= 0)
			return "closed";
		n++;
		in[n] = '\0';
		hash = strchr(in, '#');
	} while (!hash || in + n - hash < 3);
	client_decode(in, n, out);
	return out;
}

static void say(int fd, const char *packet)
{
	char frame[256];
	u32 len = client_frame(frame, packet, (u32)strlen(packet));

	CHECK(send(fd, frame, len, MSG_NOSIGNAL) == len);
}

static const char *ask(int fd, const char *packet)
{
	say(fd, packet);
	return answer(fd);
}

static u64 rip_of(int fd, u32 cpu)
{
	char select[8];
	u8 bytes[8];
	u64 rip;

	snprintf(select, sizeof(select), "Hg%x", cpu + 1);
	ASK(fd, select, "OK");
	CHECK(gdb_hex_decode(bytes, ask(fd, "p10"), 8));
	memcpy(&rip, bytes, 8);
	return rip;
}

struct talk {
	struct vm *vm;
	void (*fn)(int fd);
};

static void *talk_thread(void *opaque)
{
	struct talk *t = opaque;
	int fd = connect_to_vm();

	t->fn(fd);
	say(fd, "k");
	CHECK_TEXT(answer(fd), "W01");
	close(fd);
	return NULL;
}

static void with_machine(void (*fn)(int fd), bool paused)
{
	struct memory_file kernel;
	struct vm_config c;
	struct vm_result r;
	struct err e = {0};
	struct talk t = {.fn = fn};
	pthread_t thread;

	kernel = smallest_kernel();
	vm_config_defaults(&c);
	c.kernel = kernel.path;
	c.memory = 16 * MiB;
	c.cpus = CPUS;
	c.console = "null";
	c.timeout_ns = 30 * NS_PER_SEC;
	c.gdb = where;
	c.paused = paused;
	for (u32 i = 0; i < CPUS; i++)
		executed[i] = 0;
	if (vm_create_with_engine(&t.vm, &c, &fake_engine, "fake engine", &e) < 0)
		fail_msg("%s", e.msg);
	pthread_create(&thread, NULL, talk_thread, &t);
	assert_int_equal(vm_run(t.vm, &r, &e), 0);
	pthread_join(thread, NULL);
	assert_int_equal(r.end, VM_END_QUIT);
	vm_destroy(t.vm);
	assert_int_equal(access(path, F_OK), -1);
}

/* ---- the tests ---- */

static void hold_and_step(int fd)
{
	ASK(fd, "?", "T05thread:1;");
	for (u32 i = 0; i < CPUS; i++)
		CHECK(executed[i] == 0);
	ASK(fd, "vCont;s:2", "T05thread:2;"); /* the first to see CPU 1's state, which is only placed as it starts */
	CHECK(rip_of(fd, 1) == CODE(1) + 1);
	CHECK(executed[0] + executed[2] == 0);
	for (u32 i = 0; i < 10; i++)
		ASK(fd, "vCont;s:3", "T05thread:3;");
	CHECK(rip_of(fd, 2) == CODE(2) + 10);
	CHECK(executed[0] == 0);
	ASK(fd, "Hc1", "OK");
	ASK(fd, "s", "T05thread:1;"); /* the others run meanwhile */
}

static void steps_one_cpu_and_holds_the_others(void **state)
{
	with_machine(hold_and_step, true);
}

static void meet_points(int fd)
{
	ASK(fd, "qSupported:swbreak+;hwbreak+", ask(fd, "qSupported:swbreak+;hwbreak+"));
	ASK(fd, "Z0,2010,1", "OK");
	ASK(fd, "Z0,2010,1", "OK");
	ASK(fd, "c", "T05thread:2;swbreak:;");
	CHECK(rip_of(fd, 1) == CODE(1) + 0x10);
	ASK(fd, "c", "T05thread:2;swbreak:;"); /* it was not stepped over */
	ASK(fd, "z0,2010,1", "OK");
	ASK(fd, "Z1,3020,1", "OK");
	ASK(fd, "c", "T05thread:3;hwbreak:;");
	ASK(fd, "z1,3020,1", "OK");
	ASK(fd, "Z2,5000,1", "OK");
	ASK(fd, "c", "T05thread:1;watch:5000;");
	CHECK(rip_of(fd, 0) == CODE(0) + ROUND / 2 + 1);
	ASK(fd, "Z2,5001,2", "OK");
	for (u32 i = 0; i < 8; i++) {
		const char *stop = ask(fd, "c");

		CHECK(strcmp(stop, "T05thread:1;watch:5000;") == 0 || strcmp(stop, "T05thread:2;watch:5001;") == 0 ||
		      strcmp(stop, "T05thread:3;watch:5001;") == 0);
	}
	ASK(fd, "z2,5000,1", "OK");
	ASK(fd, "z2,5001,2", "OK");
	ASK(fd, "Z3,5000,10", "OK"); /* nothing reads */
	say(fd, "c");
	nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
	CHECK(send(fd, "\x03", 1, MSG_NOSIGNAL) == 1);
	CHECK(strncmp(answer(fd), "T02", 3) == 0);
}

static void points_are_met(void **state)
{
	with_machine(meet_points, false);
}

static void use_memory(int fd)
{
	u32 before = fake_vm->ram_writes;

	ASK(fd, "M8ffe,4:01020304", "OK");
	CHECK(fake_vm->ram_writes > before);
	ASK(fd, "m8fff,2", "0203");
	ASK(fd, "m10000000,4", "E0e");
	ASK(fd, "Mfffffe,4:01020304", "E0e"); /* over the end of memory: nothing is written */
	ASK(fd, "mfffffe,4", "0000");
	ASK(fd, "P0=efcdab8967452301", "OK");
	ASK(fd, "p0", "efcdab8967452301");
	CHECK(strstr(ask(fd, "qRcmd,696e666f"), "66616b65")); /* info: "fake" */
	CHECK(strlen(ask(fd, "qRcmd,7265736574")) > 10);      /* reset */
	ASK(fd, "p0", "02b0ad2b00000000");		      /* what a multiboot kernel finds in EAX */
}

/* GDB's numbers of CR0 and those behind it */
static u32 number_of_cr0(int fd)
{
	const char *text = ask(fd, "qXfer:features:read:target.xml:0,3fff"), *at = strstr(text, "name=\"cr0\"");

	CHECK(at && (at = strstr(at, "regnum=\"")));
	return (u32)strtoul(at + 8, NULL, 10);
}

static void write_register(int fd, u32 number, u64 v, const char *reply)
{
	char packet[40];

	snprintf(packet, sizeof(packet), "P%x=%016llx", number, (unsigned long long)__builtin_bswap64(v));
	ASK(fd, packet, reply);
}

/* Virtual address 0 leads to where devices are, 4 MiB to RAM. */
static void use_physical_memory(int fd)
{
	enum { CR0, CR2, CR3, CR4, CR8 };
	u32 cr = number_of_cr0(fd), before;

	ASK(fd, "M9000,4:830000fe", "OK"); /* 4 MiB at FE000000 */
	ASK(fd, "M9004,4:83004000", "OK"); /* and at 400000 */
	ASK(fd, "M400ffe,3:010203", "OK");
	write_register(fd, cr + CR3, 0x9000, "OK");
	write_register(fd, cr + CR4, CR4_PSE, "OK");
	write_register(fd, cr + CR4, CR4_PSE | 1ull << 40, "E01");
	write_register(fd, cr + CR0, CR0_PE | CR0_PG, "OK");
	ASK(fd, "m400ffe,3", "010203");
	ASK(fd, "m0,4", "E0e");
	ASK(fd, "Qqemu.PhyMemMode:1", "OK");
	ASK(fd, "m9004,4", "83004000");
	ASK(fd, "mfe000000,4", "E0e");
	ASK(fd, "mfee00030,4", "E0e"); /* the local APIC */
	ASK(fd, "Mfee00080,4:20000000", "E0e");
	ASK(fd, "mfffffffffffff000,4", "E0e");
	ASK(fd, "mfffffe,2", "0000");
	ASK(fd, "Mfffffe,4:01020304", "E0e"); /* over the end of memory */
	before = fake_vm->ram_writes;
	ASK(fd, "M400ffe,3:040506", "OK");
	CHECK(fake_vm->ram_writes > before);
	ASK(fd, "Qqemu.PhyMemMode:0", "OK");
	ASK(fd, "m400ffe,3", "040506");
	write_register(fd, cr + CR8, 5, "OK");
	write_register(fd, cr + CR8, 16, "E01");
	before = syncs[0];
	ASK(fd, "vCont;s:1", "T05thread:1;");
	CHECK(syncs[0] > before);
}

static void physical_memory_and_control_registers(void **state)
{
	with_machine(use_physical_memory, true);
}

static void memory_and_registers(void **state)
{
	with_machine(use_memory, true);
}

static void come_and_go(int fd)
{
	u32 before;
	int other = connect_to_vm(), second;

	ASK(fd, "Z0,1010,1", "OK");
	CHECK_TEXT(answer(other), "closed");
	close(other);
	ASK(fd, "D", "OK");
	before = executed[0];
	while (executed[0] - before < 3 * ROUND) /* the breakpoint is gone */
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	second = connect_to_vm();
	CHECK_TEXT(answer(second), "closed"); /* detached, but not gone */
	close(second);
	CHECK(send(fd, "\x03", 1, MSG_NOSIGNAL) == 1);
	CHECK(strncmp(answer(fd), "T02", 3) == 0);
}

static void debuggers_come_and_go(void **state)
{
	with_machine(come_and_go, false);
}

static void needs_an_engine_that_can(void **state)
{
	struct engine_ops cannot = fake_engine;
	struct vm_config c;
	struct vm *vm;
	struct err e = {0};

	cannot.vcpu_debug = NULL;
	vm_config_defaults(&c);
	c.kernel = "/nonexistent";
	c.memory = 16 * MiB;
	c.console = "null";
	c.gdb = where;
	assert_true(vm_create_with_engine(&vm, &c, &cannot, "fake engine", &e) < 0);
	assert_true(strstr(e.msg, "cannot be debugged"));
	c.gdb = NULL;
	c.paused = true;
	assert_true(vm_create_with_engine(&vm, &c, &cannot, "fake engine", &e) < 0);
}

static void addresses(void **state)
{
	static const char *const good[] = {"tcp:1234", "tcp:0.0.0.0:1", "tcp:[::1]:65535", "tcp:::1:99", "unix:x"};
	static const char *const bad[] = {"",		"tcp:", "tcp:0", "tcp:65536", "tcp:localhost:1", "tcp::1",
					  "tcp:1.2.3:", "1234", "unix:", "udp:1",     "tcp:-1",		 "tcp:1.2.3.4.5:6"};
	struct err e;

	for (u32 i = 0; i < ARRAY_SIZE(good); i++)
		assert_int_equal(vm_gdb_check(good[i], &e), 0);
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++)
		assert_true(vm_gdb_check(bad[i], &e) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(steps_one_cpu_and_holds_the_others),
		cmocka_unit_test(points_are_met),
		cmocka_unit_test(memory_and_registers),
		cmocka_unit_test(physical_memory_and_control_registers),
		cmocka_unit_test(debuggers_come_and_go),
		cmocka_unit_test(needs_an_engine_that_can),
		cmocka_unit_test(addresses),
	};
	int failed;

	if (!mkdtemp(directory))
		return 1;
	snprintf(path, sizeof(path), "%s/gdb", directory);
	snprintf(where, sizeof(where), "unix:%s", path);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(directory);
	return failed;
}
