/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Options of `guise run`. Own options are rows of a table; device options come from the registry, with their keys, checks and help.
 *
 * Threading: main thread.
 */
#include "cli/run_options.h"

#include "base/opts.h"
#include "base/trace.h"
#include "hw/device.h"

#include <errno.h>
#include <string.h>

#define NAMES_MAX 128
#define CHOICES_MAX 8
/* The kernel's tests of its own cryptography are a fifth of its boot or more; --append cryptomgr.notests=0 brings them back. */
#define DEFAULT_CMDLINE "console=ttyS0 quiet cryptomgr.notests"
#define DEFAULT_GDB "tcp:127.0.0.1:1234"
#define TIMEOUT_MAX_S 1000000000ull

/* ---- values ---- */

static int set_memory(struct run_options *o, const char *value, struct err *e)
{
	int r = parse_size(value, false, &o->config.memory, e);

	if (r == 0 && o->config.memory < MiB)
		return err_set(e, ERANGE, "%s is too small: a guest needs at least 1M", value);
	if (r == 0 && o->config.memory > GM_MAX_SIZE)
		return err_set(e, ERANGE, "%s is too large: a guest has at most 16T", value);
	if (r == 0 && PAGE_OFFSET(o->config.memory))
		return err_set(e, EINVAL, "%s is not a multiple of 4K", value);
	return r;
}

static int set_cpus(struct run_options *o, const char *value, struct err *e)
{
	u64 n;
	int r = parse_uint(value, 1, VM_MAX_CPUS, &n, e);

	o->config.cpus = r == 0 ? (u32)n : 0;
	return r;
}

/* Seconds, with up to nine decimals. */
static bool parse_seconds(const char *text, u64 *out)
{
	const char *dot = strchr(text, '.');
	size_t len = dot ? (size_t)(dot - text) : strlen(text);
	u64 s, ns = 0, unit = NS_PER_SEC;
	struct err ignored;
	char whole[32];

	if (len >= sizeof(whole))
		return false;
	memcpy(whole, text, len);
	whole[len] = '\0';
	if (parse_uint(whole, 0, TIMEOUT_MAX_S, &s, &ignored) < 0)
		return false;
	for (const char *d = dot ? dot + 1 : ""; *d; d++) {
		if (*d < '0' || *d > '9')
			return false;
		unit /= 10;
		ns += (u64)(*d - '0') * unit;
	}
	*out = s * NS_PER_SEC + ns;
	return true;
}

static int set_timeout(struct run_options *o, const char *value, struct err *e)
{
	if (!parse_seconds(value, &o->config.timeout_ns))
		return err_set(e, EINVAL, "\"%s\" is not a number of seconds up to %llu, such as 60 or 2.5", value, TIMEOUT_MAX_S);
	return o->config.timeout_ns ? 0 : err_set(e, ERANGE, "%s is no time: give more than 0 seconds, or leave the option out", value);
}

static int set_cpu(struct run_options *o, const char *value, struct err *e)
{
	o->config.cpu = value;
	return 0;
}

static int set_engine(struct run_options *o, const char *value, struct err *e)
{
	o->config.engine = value;
	return 0;
}

static int set_name(struct run_options *o, const char *value, struct err *e)
{
	if (!*value || strlen(value) > 64)
		return err_set(e, EINVAL, "a name has 1 to 64 characters");
	o->config.name = value;
	return 0;
}

static int set_kernel(struct run_options *o, const char *value, struct err *e)
{
	o->config.kernel = value;
	return *value ? 0 : err_set(e, EINVAL, "the file name is empty");
}

static int set_initrd(struct run_options *o, const char *value, struct err *e)
{
	o->config.initrd = value;
	return *value ? 0 : err_set(e, EINVAL, "the file name is empty");
}

static int set_append(struct run_options *o, const char *value, struct err *e)
{
	o->config.cmdline = value;
	return 0;
}

static int set_console(struct run_options *o, const char *value, struct err *e)
{
	o->config.console = value;
	return 0;
}

static int set_no_reboot(struct run_options *o, const char *value, struct err *e)
{
	o->config.no_reboot = true;
	return 0;
}

static int set_gdb(struct run_options *o, const char *value, struct err *e)
{
	o->config.gdb = value ? value : DEFAULT_GDB;
	return vm_gdb_check(o->config.gdb, e);
}

static int set_paused(struct run_options *o, const char *value, struct err *e)
{
	o->config.paused = true;
	return 0;
}

static int set_trace(struct run_options *o, const char *value, struct err *e)
{
	o->config.trace = value;
	o->help_shown = strcmp(value, "help") == 0;
	if (o->help_shown)
		trace_help(stdout);
	return o->help_shown ? 0 : trace_check(value, e);
}

static int set_stats(struct run_options *o, const char *value, struct err *e)
{
	o->stats = true;
	return 0;
}

/* The values that an option takes, where they can be listed. What follows '=' is free, but not empty. */
struct choice {
	const char *text, *help; /* text NULL: the end */
};

static const struct choice cpus[] = {
	{"host", "what the host's CPU has and the engine can do"},
	{"max", "the same: host holds nothing back"},
	{"x86-64-v2", "the same on every host and engine: the psABI's second level"},
	{"x86-64-v3", "likewise: its third, with AVX2"},
	{0},
};

static const struct choice engines[] = {
	{"auto", "kvm where hardware backs it, else bt"},
	{"bt", "binary translation"},
	{"kvm", "hardware virtualization"},
	{"translate", "bt, with all user code translated"},
	{"direct", "bt, with no user code translated: for tests"},
	{"tiny", "bt, with a tiny code cache: for tests"},
	{"interp", "interpretation: slow, for tests"},
	{"relay", "bt and kvm, or bt and translate, take turns: for tests"},
	{0},
};

static const struct choice consoles[] = {
	{"stdio", "this terminal, or standard input and output"},
	{"file=PATH", "output to a file, no input"},
	{"null", "neither output nor input"},
	{0},
};

static const struct option {
	const char *name, *value; /* value: how help calls it, in brackets when it may be left out; NULL: none */
	int (*set)(struct run_options *o, const char *value, struct err *e);
	const char *help;
	const struct choice *choices; /* NULL: any value that `set` takes */
} options[] = {
	{"kernel", "FILE", set_kernel, "bzImage, ELF with a PVH note, or multiboot; without it, the default guest", NULL},
	{"initrd", "FILE", set_initrd, "initramfs; for multiboot: \"FILE ARGS,FILE ARGS\"", NULL},
	{"append", "STR", set_append, "kernel command line, or what to add to the default guest's", NULL},
	{"memory", "SIZE", set_memory, "guest memory, such as 512M or 4G (default 1G)", NULL},
	{"cpus", "N", set_cpus, "virtual CPUs (default 1)", NULL},
	{"cpu", "MODEL", set_cpu, "host, max, x86-64-v2 or x86-64-v3 (default host; guise doctor --cpu lists)", cpus},
	{"engine", "NAME", set_engine, "auto, bt (binary translation) or kvm (default auto)", engines},
	{"name", "NAME", set_name, "what the guest is called (default guest)", NULL},
	{"console", "WHERE", set_console, "stdio, file=PATH or null (default stdio; Ctrl-a h for its keys)", consoles},
	{"no-reboot", NULL, set_no_reboot, "end when the guest resets, instead of starting it again", NULL},
	{"timeout", "SECONDS", set_timeout, "end after this time, with status 124", NULL},
	{"gdb", "[WHERE]", set_gdb, "let GDB connect: tcp:[ADDR:]PORT or unix:PATH (default " DEFAULT_GDB ")", NULL},
	{"paused", NULL, set_paused, "with --gdb: wait for the debugger before the first instruction", NULL},
	{"trace", "WHAT[:FILE]", set_trace, "record exits, interrupts, faults, mmio, pio, msr, blocks or all", NULL},
	{"stats", NULL, set_stats, "print counters on standard error at the end", NULL},
};

/* ---- choices ---- */

static bool choice_is(const struct choice *c, const char *value)
{
	const char *eq = strchr(c->text, '=');
	size_t fixed = eq ? (size_t)(eq + 1 - c->text) : 0;

	return eq ? strncmp(value, c->text, fixed) == 0 && value[fixed] : strcmp(value, c->text) == 0;
}

static int refuse_choice(const struct choice *choices, const char *value, struct err *e)
{
	const char *names[CHOICES_MAX + 1], *near;
	char list[128] = "";
	u32 n = 0;

	for (; choices[n].text && n < CHOICES_MAX; n++) {
		names[n] = choices[n].text;
		snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s", n ? ", " : "", names[n]);
	}
	names[n] = NULL;
	near = err_nearest(value, names);
	if (near)
		return err_set(e, EINVAL, "\"%s\" is not one of %s; did you mean \"%s\"?", value, list, near);
	return err_set(e, EINVAL, "\"%s\" is not one of %s", value, list);
}

static int check_choice(const struct choice *choices, const char *value, struct err *e)
{
	for (const struct choice *c = choices; c->text; c++)
		if (choice_is(c, value))
			return 0;
	return refuse_choice(choices, value, e);
}

static void print_option_choices(FILE *out, const struct option *opt)
{
	fprintf(out, "--%s: %s\n", opt->name, opt->help);
	for (const struct choice *c = opt->choices; c->text; c++)
		fprintf(out, "    %-10s %s\n", c->text, c->help);
}

/* ---- device options ---- */

static bool has_unnamed_value(const struct device_class *cls)
{
	for (const struct opt_key *k = cls->keys; k && k->name; k++)
		if (!k->name[0])
			return true;
	return false;
}

static void print_default(FILE *out, const struct opt_key *k)
{
	if (k->def)
		fprintf(out, " (default %s)", k->def);
}

static void print_choices(FILE *out, const struct opt_key *k)
{
	for (u32 i = 0; k->type == OPT_CHOICE && k->choices[i]; i++)
		fprintf(out, "%s%s", i ? "|" : "", k->choices[i]);
}

static void print_keys(FILE *out, const struct device_class *cls)
{
	static const char *const value_of[] = {
		[OPT_STRING] = "=TEXT", [OPT_FLAG] = "", [OPT_UINT] = "=NUMBER", [OPT_SIZE] = "=SIZE", [OPT_CHOICE] = "="};

	fprintf(out, "--%s: %s\n", cls->option, cls->summary);
	for (const struct opt_key *k = cls->keys; k && k->name; k++) {
		fprintf(out, "    %s%s", k->name[0] ? k->name : "first value", k->name[0] ? value_of[k->type] : " ");
		print_choices(out, k);
		fprintf(out, "\n        %s", k->help ? k->help : "");
		print_default(out, k);
		fprintf(out, "%s\n", k->many ? " (may be given several times)" : "");
	}
}

static bool is_given(const struct vm_config *c, const char *option)
{
	for (u32 i = 0; i < c->nopts; i++)
		if (strcmp(c->opt[i].option, option) == 0)
			return true;
	return false;
}

/* Checked here, before anything is built, so that a wrong key is a usage error. */
static int add_device(struct run_options *o, const struct device_class *cls, const char *text, struct err *e)
{
	struct vm_config *c = &o->config;
	struct opts parsed;
	char name[64];
	int r;

	if (strcmp(text, "help") == 0) {
		print_keys(stdout, cls);
		o->help_shown = true;
		return 0;
	}
	snprintf(name, sizeof(name), "--%s", cls->option);
	if (has_unnamed_value(cls) && !*text)
		return err_set(e, EINVAL, "%s needs a value; see: %s help", name, name);
	r = opts_parse(&parsed, name, cls->keys, text, e);
	if (r < 0)
		return r;
	r = cls->check ? cls->check(&parsed, e) : 0;
	opts_free(&parsed);
	if (r < 0)
		return r;
	if (cls->once && is_given(c, cls->option))
		return err_set(e, EINVAL, "%s is given twice", name);
	if (c->nopts == VM_MAX_OPTS)
		return err_set(e, E2BIG, "%s: more than %u device options", name, VM_MAX_OPTS);
	c->opt[c->nopts].option = cls->option;
	c->opt[c->nopts++].text = text;
	return 0;
}

/* ---- parsing ---- */

static int find_option(const char *name)
{
	for (u32 i = 0; i < ARRAY_SIZE(options); i++)
		if (strcmp(options[i].name, name) == 0)
			return (int)i;
	return -1;
}

static int unknown_option(const char *name, struct err *e)
{
	const struct device_class **classes;
	const char *names[NAMES_MAX + 1], *near;
	u32 n = 0, nclasses = device_classes(&classes);

	for (u32 i = 0; i < ARRAY_SIZE(options); i++)
		names[n++] = options[i].name;
	for (u32 i = 0; i < nclasses && n < NAMES_MAX; i++)
		if (classes[i]->option)
			names[n++] = classes[i]->option;
	names[n] = NULL;
	near = err_nearest(name, names);
	if (near)
		return err_set(e, EINVAL, "there is no option --%s; did you mean --%s?", name, near);
	return err_set(e, EINVAL, "there is no option --%s", name);
}

struct args {
	int argc, at;
	char **argv;
	char name[64];	      /* of the option at hand, without dashes */
	const char *attached; /* what followed '=' */
};

static int split_option(struct args *a, struct err *e)
{
	const char *arg = a->argv[a->at], *eq;
	size_t len;

	if (strncmp(arg, "--", 2) != 0 && arg[0] == '-' && arg[1])
		return err_set(e, EINVAL, "there is no option %s; options are written with two dashes", arg);
	if (strncmp(arg, "--", 2) != 0 || !arg[2])
		return err_set(e, EINVAL, "\"%s\" is not an option; run takes options only, such as --kernel %s", arg, arg);
	eq = strchr(arg, '=');
	len = eq ? (size_t)(eq - arg - 2) : strlen(arg + 2);
	if (len >= sizeof(a->name))
		return err_set(e, EINVAL, "there is no option %.60s...", arg);
	memcpy(a->name, arg + 2, len);
	a->name[len] = '\0';
	a->attached = eq ? eq + 1 : NULL;
	return 0;
}

/* The option's value: behind '=', or the next argument unless that is an option. */
static const char *take_value(struct args *a)
{
	if (a->attached)
		return a->attached;
	if (a->at + 1 < a->argc && strncmp(a->argv[a->at + 1], "--", 2) != 0)
		return a->argv[++a->at];
	return NULL;
}

static int parse_own(struct run_options *o, struct args *a, u32 row, struct err *e)
{
	const struct option *opt = &options[row];
	const char *value = opt->value ? take_value(a) : NULL;

	if (o->given & 1u << row)
		return err_set(e, EINVAL, "--%s is given twice", a->name);
	o->given |= 1u << row;
	if (opt->value && !value && opt->value[0] != '[')
		return err_set(e, EINVAL, "--%s needs a value: --%s %s", a->name, a->name, opt->value);
	if (!opt->value && a->attached)
		return err_set(e, EINVAL, "--%s takes no value", a->name);
	if (opt->choices && value && strcmp(value, "help") == 0) {
		print_option_choices(stdout, opt);
		o->help_shown = true;
		return 0;
	}
	if (opt->choices && value && check_choice(opt->choices, value, e) < 0)
		return err_prefix(e, "--%s", a->name);
	if (opt->set(o, value, e) < 0)
		return err_prefix(e, "--%s", a->name);
	return 0;
}

static int parse_one(struct run_options *o, struct args *a, struct err *e)
{
	const struct device_class *cls;
	const char *value;
	int r = split_option(a, e), row;

	if (r < 0)
		return r;
	row = find_option(a->name);
	if (row >= 0)
		return parse_own(o, a, (u32)row, e);
	cls = device_class_by_option(a->name);
	if (!cls)
		return unknown_option(a->name, e);
	value = take_value(a);
	if (!value && has_unnamed_value(cls))
		return err_set(e, EINVAL, "--%s needs a value; see: --%s help", a->name, a->name);
	return add_device(o, cls, value ? value : "", e);
}

/* A machine has a network card unless --net none says otherwise. */
static void default_network(struct vm_config *c)
{
	if (is_given(c, "net") || c->nopts == VM_MAX_OPTS)
		return;
	c->opt[c->nopts].option = "net";
	c->opt[c->nopts++].text = "user";
}

int run_options_parse(struct run_options *o, int argc, char **argv, struct err *e)
{
	struct args a = {.argc = argc, .argv = argv};
	int r = 0;

	*o = (struct run_options){0};
	vm_config_defaults(&o->config);
	for (a.at = 1; a.at < argc && r == 0 && !o->help_shown; a.at++)
		r = parse_one(o, &a, e);
	if (r == 0 && o->config.initrd && !o->config.kernel)
		return err_set(e, EINVAL, "--initrd needs --kernel; the default guest has its own");
	if (r == 0 && o->config.paused && !o->config.gdb && !o->help_shown)
		return err_set(e, EINVAL, "--paused needs --gdb: only a debugger can start the guest then");
	if (r == 0 && vm_cpu_check(o->config.cpu, o->config.memory, e) < 0)
		return err_prefix(e, "--memory");
	if (r == 0 && !o->help_shown)
		default_network(&o->config);
	return r;
}

int run_options_default_guest(struct run_options *o, struct err *e)
{
	const char *more = o->config.cmdline ? o->config.cmdline : "";
	int r;

	if (o->config.kernel)
		return 0;
	r = guest_files_find(&o->guest, e);
	if (r < 0)
		return r;
	if (snprintf(o->cmdline, sizeof(o->cmdline), DEFAULT_CMDLINE "%s%s", *more ? " " : "", more) >= (int)sizeof(o->cmdline))
		return err_set(e, E2BIG, "--append: %zu characters are too many for a kernel's command line; shorten it", strlen(more));
	o->config.kernel = o->guest.kernel;
	o->config.initrd = o->guest.initrd;
	o->config.cmdline = o->cmdline;
	return 0;
}

void run_options_help(FILE *out)
{
	const struct device_class **classes;
	u32 n = device_classes(&classes);
	char left[64];

	fprintf(out, "usage: guise run [OPTION...]\n\nRuns a guest on this terminal until it powers off.\n\n");
	for (u32 i = 0; i < ARRAY_SIZE(options); i++) {
		snprintf(left, sizeof(left), "--%s %s", options[i].name, options[i].value ? options[i].value : "");
		fprintf(out, "  %-20s %s\n", left, options[i].help);
	}
	fprintf(out, "\ndevices (--OPTION help tells what each takes; so do --cpu help, --engine help and --console help):\n");
	for (u32 i = 0; i < n; i++)
		if (classes[i]->option)
			fprintf(out, "  --%-18s %s\n", classes[i]->option, classes[i]->summary);
	fprintf(out,
		"\nexit status:\n"
		"  0             the guest powered off, or reset with --no-reboot, or Ctrl-a x ended it\n"
		"  1             the machine could not be made: a file or this host refused; or the guest crashed, or halted for ever\n"
		"  2             wrong usage: an option, a key or a value that is possible nowhere; nothing was opened\n"
		"  124           --timeout ran out\n"
		"  125           Guise itself could not go on with a guest that ran\n"
		"  (v << 1) | 1  the guest wrote v to the --exit-port\n"
		"  128 + n       ended by signal n\n");
}
