/* SPDX-License-Identifier: Apache-2.0 */
/* The options of `guise run`: values, refusals with their advice, the default guest's files. */
#include "cli/run_options.h"
#include "x86/cpu_model.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define MAX_ARGS 30

/* Parses "run" and the words of `line`; an argument with blanks cannot be given this way. */
static int parse(struct run_options *o, const char *line, struct err *e)
{
	static char copy[1024], verb[] = "run", empty[] = "";
	char *argv[MAX_ARGS + 2] = {verb}, *save = NULL;
	int argc = 1;

	snprintf(copy, sizeof(copy), "%s", line);
	for (char *w = strtok_r(copy, " ", &save); w && argc <= MAX_ARGS; w = strtok_r(NULL, " ", &save))
		argv[argc++] = strcmp(w, "''") == 0 ? empty : w;
	*e = (struct err){0};
	return run_options_parse(o, argc, argv, e);
}

static void takes_every_option(void **state)
{
	struct run_options o;
	struct err e;
	int r = parse(&o,
		      "--kernel=k --initrd i --append a=b --memory 512M --cpus 0x4 --cpu x86-64-v3 --engine bt --name box --console file=c "
		      "--no-reboot --timeout 1.5 --trace exits,msr:f --stats",
		      &e);

	if (r < 0)
		fail_msg("%s", e.msg);
	assert_string_equal(o.config.kernel, "k");
	assert_string_equal(o.config.initrd, "i");
	assert_string_equal(o.config.cmdline, "a=b");
	assert_int_equal(o.config.memory, 512 * MiB);
	assert_int_equal(o.config.cpus, 4);
	assert_string_equal(o.config.cpu, "x86-64-v3");
	assert_string_equal(o.config.engine, "bt");
	assert_string_equal(o.config.name, "box");
	assert_string_equal(o.config.console, "file=c");
	assert_string_equal(o.config.trace, "exits,msr:f");
	assert_true(o.config.no_reboot && o.stats);
	assert_int_equal(o.config.timeout_ns, 1500000000);
}

static void defaults(void **state)
{
	struct run_options o;
	struct err e;

	assert_int_equal(parse(&o, "", &e), 0);
	assert_int_equal(o.config.memory, GiB);
	assert_int_equal(o.config.cpus, 1);
	assert_string_equal(o.config.cpu, "host");
	assert_string_equal(o.config.engine, "auto");
	assert_string_equal(o.config.console, "stdio");
	assert_int_equal(o.config.timeout_ns, 0);
	assert_null(o.config.kernel);
	assert_int_equal(o.config.nopts, 1);
	assert_string_equal(o.config.opt[0].option, "net");
	assert_string_equal(o.config.opt[0].text, "user");
}

static void gdb_may_be_given_without_a_place(void **state)
{
	struct run_options o;
	struct err e;

	assert_int_equal(parse(&o, "--paused --gdb", &e), 0);
	assert_string_equal(o.config.gdb, "tcp:127.0.0.1:1234");
	assert_true(o.config.paused);
	assert_int_equal(parse(&o, "--gdb --stats", &e), 0);
	assert_string_equal(o.config.gdb, "tcp:127.0.0.1:1234");
	assert_int_equal(parse(&o, "--gdb unix:x", &e), 0);
	assert_string_equal(o.config.gdb, "unix:x");
	assert_int_equal(parse(&o, "--gdb=tcp:[::1]:99", &e), 0);
	assert_int_equal(parse(&o, "", &e), 0);
	assert_null(o.config.gdb);
}

static void device_options_come_from_the_registry(void **state)
{
	struct run_options o;
	struct err e;

	assert_int_equal(parse(&o, "--disk a,readonly --disk=b --exit-port 0xf4 --net none --balloon target=1M", &e), 0);
	assert_int_equal(o.config.nopts, 5);
	assert_string_equal(o.config.opt[0].option, "disk");
	assert_string_equal(o.config.opt[0].text, "a,readonly");
	assert_string_equal(o.config.opt[1].text, "b");
	assert_string_equal(o.config.opt[2].option, "exit-port");
	assert_string_equal(o.config.opt[3].text, "none");
	assert_string_equal(o.config.opt[4].text, "target=1M");
}

static void refuses_with_advice(void **state)
{
	static const struct {
		const char *line, *says;
	} bad[] = {
		{"--memroy 1G", "did you mean --memory?"},
		{"--dsk x", "did you mean --disk?"},
		{"--xyzzy", "there is no option --xyzzy"},
		{"-m 1G", "two dashes"},
		{"vmlinuz", "--kernel vmlinuz"},
		{"--", "not an option"},
		{"--kernel", "--kernel needs a value"},
		{"--kernel --initrd", "--kernel needs a value"},
		{"--kernel ''", "empty"},
		{"--stats=yes", "takes no value"},
		{"--cpus 1 --cpus 2", "given twice"},
		{"--cpus 0", "--cpus: 0 is out of range: give a number from 1 to 64"},
		{"--cpus 65", "--cpus"},
		{"--cpus -1", "--cpus"},
		{"--memory 1024", "write 1024M"},
		{"--memory 0M", "too small"},
		{"--memory 1025K", "multiple of 4K"},
		{"--memory nan", "--memory"},
		{"--cpu x86-64-v1", "did you mean \"x86-64-v2\"?"},
		{"--cpu ''", "host, max, x86-64-v2, x86-64-v3"},
		{"--cpu", "--cpu needs a value"},
		{"--cpu x86-64-v3 --memory 512G", "at most 523264 MiB"},
		{"--memory 523265M --cpu x86-64-v2", "--memory"},
		{"--engine btt", "did you mean \"bt\"?"},
		{"--engine ''", "auto, bt, kvm, translate, direct, tiny, interp"},
		{"--console televisoin", "stdio, file=PATH, null"},
		{"--console file=", "file=PATH"},
		{"--console nul", "did you mean \"null\"?"},
		{"--net usr", "user, tap=NAME and none"},
		{"--net none,mtu=1400", "none"},
		{"--balloon on --balloon on", "given twice"},
		{"--balloon of", "did you mean"},
		{"--balloon off,target=1M", "takes nothing else"},
		{"--balloon target=1K", "not a multiple of 4K"},
		{"--net user,mac=03:00:00:00:00:01", "multicast"},
		{"--net user,hostfwd=80", "HOSTPORT"},
		{"--net tap=x,hostfwd=tcp:1:2", "user networking"},
		{"--disk x,format=qcow2", "only raw"},
		{"--exit-port 65533", "0xfffc"},
		{"--memory help", "write it like 512M"},
		{"--cpus help", "from 1 to 64"},
		{"--timeout help", "number"},
		{"--timeout 0", "--timeout"},
		{"--timeout 0.0000000001", "--timeout"},
		{"--timeout 1e9", "--timeout"},
		{"--timeout 1.5.5", "--timeout"},
		{"--timeout .5", "--timeout"},
		{"--timeout 99999999999999999999", "--timeout"},
		{"--name ''", "--name"},
		{"--disk", "--disk needs a value"},
		{"--disk ''", "--disk needs a value"},
		{"--disk x,readnoly", "did you mean \"readonly\"?"},
		{"--gdb 1234", "tcp:PORT"},
		{"--gdb tcp:0", "1 to 65535"},
		{"--gdb tcp:localhost:1", "write it in numbers"},
		{"--gdb unix:", "--gdb"},
		{"--paused", "--paused needs --gdb"},
		{"--initrd x", "--initrd needs --kernel"},
	};
	struct run_options o;
	struct err e;

	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		if (parse(&o, bad[i].line, &e) == 0)
			fail_msg("\"%s\" was accepted", bad[i].line);
		if (!strstr(e.msg, bad[i].says))
			fail_msg("\"%s\": \"%s\" does not say \"%s\"", bad[i].line, e.msg, bad[i].says);
	}
}

/* The command line's list of CPU models and the machine's are the same. */
static void every_cpu_model_can_be_asked_for(void **state)
{
	struct run_options o;
	struct err e;
	char line[64];

	for (const struct x86_cpu_model *m = x86_cpu_models; m->name; m++) {
		snprintf(line, sizeof(line), "--cpu %s", m->name);
		assert_int_equal(parse(&o, line, &e), 0);
	}
	assert_int_equal(parse(&o, "--cpu x86-64-v2 --memory 523264M", &e), 0); /* all that fits below 2^39 */
	assert_int_equal(parse(&o, "--cpu max --memory 600G", &e), 0);		/* the host decides */
}

static void too_many_devices(void **state)
{
	enum { COUNT = VM_MAX_OPTS + 1 };
	char verb[] = "run", option[] = "--disk", value[] = "x";
	char *argv[2 * COUNT + 1] = {verb};
	struct run_options o;
	struct err e = {0};

	for (int i = 0; i < COUNT; i++) {
		argv[2 * i + 1] = option;
		argv[2 * i + 2] = value;
	}
	assert_int_equal(run_options_parse(&o, 2 * COUNT + 1, argv, &e), -E2BIG);
}

static void touch(const char *dir, const char *name)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fclose(f);
}

static void finds_the_default_guest(void **state)
{
	char dir[] = "/tmp/guise-guest-XXXXXX", command[64];
	struct run_options o;
	struct err e;

	assert_non_null(mkdtemp(dir));
	setenv("GUISE_GUEST_DIR", dir, 1);
	assert_int_equal(parse(&o, "", &e), 0);
	assert_int_equal(run_options_default_guest(&o, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "make guest"));
	touch(dir, "vmlinuz");
	assert_int_equal(run_options_default_guest(&o, &e), -ENOENT);
	touch(dir, "initrd.img");
	assert_int_equal(run_options_default_guest(&o, &e), 0);
	assert_true(strncmp(o.config.kernel, dir, strlen(dir)) == 0);
	assert_non_null(strstr(o.config.cmdline, "console=ttyS0"));

	assert_int_equal(parse(&o, "--append my=word", &e), 0);
	assert_int_equal(run_options_default_guest(&o, &e), 0);
	assert_non_null(strstr(o.config.cmdline, " my=word"));

	assert_int_equal(parse(&o, "--kernel mine --append my=word", &e), 0);
	assert_int_equal(run_options_default_guest(&o, &e), 0);
	assert_string_equal(o.config.cmdline, "my=word");
	snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(system(command), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(takes_every_option),
		cmocka_unit_test(defaults),
		cmocka_unit_test(gdb_may_be_given_without_a_place),
		cmocka_unit_test(device_options_come_from_the_registry),
		cmocka_unit_test(refuses_with_advice),
		cmocka_unit_test(every_cpu_model_can_be_asked_for),
		cmocka_unit_test(too_many_devices),
		cmocka_unit_test(finds_the_default_guest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
