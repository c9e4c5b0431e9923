/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's life cycle on a fake engine: each vCPU runs a script of the test instead of guest code, through the same callbacks that
 * real engines use.
 */
#include "fake_engine.h"

#include "base/clock.h"
#include "vm/vm.h"

#include <pthread.h>
#include <time.h>

/* ---- the engine ---- */

typedef enum exit_kind (*script_fn)(struct engine_vcpu *v);
static script_fn script;

static enum exit_kind fake_run(struct engine_vcpu *v, struct err *e)
{
	enum exit_kind kind;

	if (atomic_exchange(&v->kicked, false))
		return EXIT_KICKED;
	v->runs++;
	kind = script(v);
	if (kind == EXIT_ERROR)
		err_set(e, EIO, "the script failed");
	return kind;
}

static const struct engine_ops fake_engine = {FAKE_ENGINE, .vcpu_run = fake_run, .vcpu_sync_in = fake_sync};

/* ---- building blocks ---- */

static struct memory_file kernel;

static struct vm_config config(u32 cpus)
{
	struct vm_config c;

	vm_config_defaults(&c);
	c.kernel = kernel.path;
	c.memory = 16 * MiB;
	c.cpus = cpus;
	c.console = "null";
	c.timeout_ns = 20 * NS_PER_SEC; /* so that nothing hangs */
	return c;
}

static struct vm *create(const struct vm_config *c, script_fn fn)
{
	struct vm *vm;
	struct err e = {0};

	script = fn;
	if (vm_create_with_engine(&vm, c, &fake_engine, "fake engine", &e) < 0)
		fail_msg("%s", e.msg);
	return vm;
}

static struct vm_result run_config(const struct vm_config *c, script_fn fn)
{
	struct vm *vm = create(c, fn);
	struct vm_result r;
	struct err e = {0};
	int ret = vm_run(vm, &r, &e);

	assert_int_equal(ret < 0, r.end == VM_END_ERROR);
	vm_destroy(vm);
	assert_int_equal(fake_vcpus, 0);
	assert_int_equal(fake_vms, 0);
	return r;
}

static void add_exit_port(struct vm_config *c)
{
	c->opt[c->nopts].option = "exit-port";
	c->opt[c->nopts++].text = "0xf4";
}

static enum exit_kind exit_with(struct engine_vcpu *v, u32 value)
{
	v->m.pio_write(v->m.opaque, 0xf4, 4, value);
	return EXIT_KICKED;
}

static void nap(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

/* A guest that runs without end. */
static enum exit_kind spin(struct engine_vcpu *v)
{
	while (!v->kicked)
		nap();
	return EXIT_KICKED;
}

/* ---- ends ---- */

static enum exit_kind write_exit_port(struct engine_vcpu *v)
{
	return exit_with(v, 42);
}

static void exit_port_ends_with_the_value(void **state)
{
	struct vm_config c = config(2);
	struct vm_result r;

	add_exit_port(&c);
	r = run_config(&c, write_exit_port);
	assert_int_equal(r.end, VM_END_EXIT_PORT);
	assert_int_equal(r.exit_value, 42);
}

static enum exit_kind power_off(struct engine_vcpu *v)
{
	v->m.pio_write(v->m.opaque, 0x604, 2, 5 << 10 | 1 << 13); /* PM1a control: S5 */
	return EXIT_KICKED;
}

static void acpi_powers_off(void **state)
{
	struct vm_config c = config(1);

	assert_int_equal(run_config(&c, power_off).end, VM_END_POWEROFF);
}

static enum exit_kind shutdown_exit(struct engine_vcpu *v)
{
	return EXIT_SHUTDOWN;
}

static enum exit_kind error_exit(struct engine_vcpu *v)
{
	return EXIT_ERROR;
}

static void other_ends(void **state)
{
	struct vm_config c = config(2);

	c.no_reboot = true;
	assert_int_equal(run_config(&c, shutdown_exit).end, VM_END_TRIPLE_FAULT);
	assert_int_equal(run_config(&c, error_exit).end, VM_END_ERROR);
	c.timeout_ns = 30000000;
	assert_int_equal(run_config(&c, spin).end, VM_END_TIMEOUT);
}

static void *quit_soon(void *vm)
{
	nap();
	vm_quit(vm);
	return NULL;
}

static void quits_from_another_thread(void **state)
{
	struct vm_config c = config(2);
	struct vm *vm = create(&c, spin);
	struct vm_result r;
	struct err e = {0};
	pthread_t t;

	pthread_create(&t, NULL, quit_soon, vm);
	assert_int_equal(vm_run(vm, &r, &e), 0);
	pthread_join(t, NULL);
	vm_destroy(vm);
	assert_int_equal(r.end, VM_END_QUIT);
}

static enum exit_kind halt_without_interrupts(struct engine_vcpu *v)
{
	v->cpu.rflags &= ~(u64)FL_IF;
	return EXIT_HALTED;
}

static void a_dead_guest_is_noticed(void **state)
{
	struct vm_config c = config(3); /* two of them wait for SIPI */

	assert_int_equal(run_config(&c, halt_without_interrupts).end, VM_END_HALTED);
}

/* ---- reset ---- */

static atomic_uint boots;

static enum exit_kind reset_twice(struct engine_vcpu *v)
{
	struct x86_cpu *c = &v->cpu;

	if (v->id != 0)
		return spin(v);
	if (c->gpr[R_RAX] != 0x2badb002 || c->rip != 0x100000 || !x86_protected(c))
		return EXIT_ERROR;
	if (++boots == 3)
		return exit_with(v, 1);
	c->gpr[R_RAX] = c->rip = 0;
	v->m.pio_write(v->m.opaque, 0x64, 1, 0xfe); /* i8042: pulse the reset line */
	v->m.pio_write(v->m.opaque, 0x604, 2, 5 << 10 | 1 << 13);
	return halt_without_interrupts(v);
}

static void reset_starts_over(void **state)
{
	struct vm_config c = config(2);

	add_exit_port(&c);
	boots = 0;
	assert_int_equal(run_config(&c, reset_twice).end, VM_END_EXIT_PORT);
	assert_int_equal(boots, 3);
	boots = 0;
	c.no_reboot = true;
	assert_int_equal(run_config(&c, reset_twice).end, VM_END_RESET);
	assert_int_equal(boots, 1);
}

static atomic_uint reset_rounds;

static enum exit_kind triple_fault_storm(struct engine_vcpu *v)
{
	return ++reset_rounds < 300 ? EXIT_SHUTDOWN : exit_with(v, 0);
}

static void a_reset_storm_is_survived(void **state)
{
	struct vm_config c = config(4);

	add_exit_port(&c);
	reset_rounds = 0;
	assert_int_equal(run_config(&c, triple_fault_storm).end, VM_END_EXIT_PORT);
}

/* ---- interrupts and other CPUs ---- */

#define LAPIC 0xfee00000ull
#define LAPIC_SVR 0xf0
#define LAPIC_ICR 0x300
#define LAPIC_ICR_HIGH 0x310
#define LAPIC_TIMER 0x320
#define LAPIC_TIMER_COUNT 0x380
#define LAPIC_DIVIDE 0x3e0

static void lapic_set(struct engine_vcpu *v, u32 reg, u32 value)
{
	v->m.mmio_write(v->m.opaque, LAPIC + reg, 4, value);
}

static enum exit_kind wait_for_timer(struct engine_vcpu *v)
{
	struct x86_cpu *c = &v->cpu;

	if (v->m.irq_pending(v->m.opaque))
		return exit_with(v, (u32)v->m.irq_accept(v->m.opaque));
	if (!(c->rflags & FL_IF)) {
		lapic_set(v, LAPIC_SVR, 0x1ff);
		lapic_set(v, LAPIC_DIVIDE, 0xb);
		lapic_set(v, LAPIC_TIMER, 0x55);
		lapic_set(v, LAPIC_TIMER_COUNT, 20000000);
		c->rflags |= FL_IF;
	}
	return EXIT_HALTED;
}

static void the_timer_ends_a_halt(void **state)
{
	struct vm_config c = config(1);
	struct vm_result r;

	add_exit_port(&c);
	r = run_config(&c, wait_for_timer);
	assert_int_equal(r.end, VM_END_EXIT_PORT);
	assert_int_equal(r.exit_value, 0x55);
}

static enum exit_kind start_others(struct engine_vcpu *v)
{
	struct x86_cpu *c = &v->cpu;

	if (c->halted)
		return EXIT_HALTED; /* woken in vain, by the second SIPI */
	if (v->id != 0) {
		if (c->seg[SEG_CS].base != 0x9a000 || c->seg[SEG_CS].sel != 0x9a00 || c->rip != 0 || x86_protected(c))
			return EXIT_ERROR;
		v->vm->count++;
		c->halted = true;
		return halt_without_interrupts(v);
	}
	if (v->runs == 1) {
		lapic_set(v, LAPIC_SVR, 0x1ff);
		lapic_set(v, LAPIC_ICR, 0xc4500); /* INIT to all others */
		lapic_set(v, LAPIC_ICR, 0xc469a); /* SIPI 0x9a, twice as the manual asks for */
		lapic_set(v, LAPIC_ICR, 0xc469a);
	}
	if (v->vm->count < 3) {
		nap();
		return EXIT_KICKED;
	}
	return exit_with(v, v->vm->count);
}

static void init_and_sipi_start_the_others(void **state)
{
	struct vm_config c = config(4);
	struct vm_result r;

	add_exit_port(&c);
	r = run_config(&c, start_others);
	assert_int_equal(r.end, VM_END_EXIT_PORT);
	assert_int_equal(r.exit_value, 3);
}

/* CPU 1 halts; CPU 0 kicks it by hypercall. */
static enum exit_kind kick_by_hypercall(struct engine_vcpu *v)
{
	struct x86_cpu *c = &v->cpu;

	if (v->id == 1 && v->vm->count++ > 0)
		return exit_with(v, 7);
	if (v->id == 1) {
		c->rflags |= FL_IF;
		c->halted = true;
		return EXIT_HALTED;
	}
	if (v->runs == 1) {
		lapic_set(v, LAPIC_SVR, 0x1ff);
		lapic_set(v, LAPIC_ICR, 0xc4500);
		lapic_set(v, LAPIC_ICR, 0xc469a);
	}
	if (v->vm->count == 0) {
		nap();
		return EXIT_KICKED;
	}
	c->gpr[R_RAX] = 5;
	c->gpr[R_RCX] = 99;
	if (v->m.hypercall(v->m.opaque, c) != (u64)-22)
		return EXIT_ERROR;
	c->gpr[R_RAX] = 12345;
	if (v->m.hypercall(v->m.opaque, c) != (u64)-1000)
		return EXIT_ERROR;
	c->gpr[R_RAX] = 5;
	c->gpr[R_RCX] = 1;
	if (v->m.hypercall(v->m.opaque, c) != 0)
		return EXIT_ERROR;
	nap();
	return EXIT_KICKED;
}

static void hypercalls(void **state)
{
	struct vm_config c = config(2);
	struct vm_result r;

	add_exit_port(&c);
	r = run_config(&c, kick_by_hypercall);
	assert_int_equal(r.end, VM_END_EXIT_PORT);
	assert_int_equal(r.exit_value, 7);
}

static atomic_uint kicks, waits;

static void start_all_others(struct engine_vcpu *v)
{
	lapic_set(v, LAPIC_SVR, 0x1ff);
	lapic_set(v, LAPIC_ICR, 0xc4500);
	lapic_set(v, LAPIC_ICR, 0xc469a);
}

/* Some seconds, should what the test waits for never come. */
static enum exit_kind wait_more(void)
{
	nap();
	return ++waits < 20000 ? EXIT_KICKED : EXIT_ERROR;
}

/* CPU 1 halts with interrupts off, after CPU 0 has kicked it: as a waiter for a spin lock that has just become free. */
static enum exit_kind kick_before_halt(struct engine_vcpu *v)
{
	struct x86_cpu *c = &v->cpu;

	if (v->id == 0 && v->runs == 1)
		start_all_others(v);
	if (v->id == 0 && v->vm->count == 1 && kicks == 0) {
		c->gpr[R_RAX] = 5;
		c->gpr[R_RCX] = 1;
		kicks = v->m.hypercall(v->m.opaque, c) == 0;
	}
	if (v->id == 0)
		return wait_more();
	v->vm->count = 1;
	if (kicks == 0)
		return wait_more();
	if (v->runs < 1000) { /* the kick is long over */
		v->runs = 1000;
		return EXIT_KICKED;
	}
	if (v->runs == 1001) {
		c->halted = true;
		return EXIT_HALTED;
	}
	return c->halted ? EXIT_ERROR : exit_with(v, 7);
}

static void a_kick_waits_for_the_halt(void **state)
{
	struct vm_config c = config(2);
	struct vm_result r;

	add_exit_port(&c);
	kicks = waits = 0;
	r = run_config(&c, kick_before_halt);
	assert_int_equal(r.end, VM_END_EXIT_PORT);
	assert_int_equal(r.exit_value, 7);
}

/* All CPUs are in HLT with interrupts off for a moment, but one was kicked and asks for the end, once. */
static enum exit_kind end_behind_a_false_alarm(struct engine_vcpu *v)
{
	struct x86_cpu *c = &v->cpu;

	if (v->id == 1) {
		if (v->vm->count == 0 || c->halted) {
			v->vm->count = 1;
			c->halted = true;
			return EXIT_HALTED;
		}
		return atomic_fetch_add(&kicks, 1) ? wait_more() : exit_with(v, 11);
	}
	if (v->runs == 1)
		start_all_others(v);
	if (v->vm->count == 0)
		return wait_more();
	if (!c->halted) {
		c->gpr[R_RAX] = 5;
		c->gpr[R_RCX] = 1;
		v->m.hypercall(v->m.opaque, c);
	}
	c->halted = true;
	return EXIT_HALTED;
}

static void a_false_alarm_hides_no_request(void **state)
{
	for (u32 i = 0; i < 200; i++) {
		struct vm_config c = config(2);
		struct vm_result r;

		add_exit_port(&c);
		kicks = waits = 0;
		r = run_config(&c, end_behind_a_false_alarm);
		assert_int_equal(r.end, VM_END_EXIT_PORT);
		assert_int_equal(r.exit_value, 11);
	}
}

static u64 send_ipi_call(struct engine_vcpu *v, u64 low, u64 high, u64 first, u64 icr)
{
	struct x86_cpu *c = &v->cpu;

	c->gpr[R_RAX] = 10;
	c->gpr[R_RBX] = low;
	c->gpr[R_RCX] = high;
	c->gpr[R_RDX] = first;
	c->gpr[R_RSI] = icr;
	return v->m.hypercall(v->m.opaque, c);
}

/* CPU 0 interrupts CPUs 1 and 3 of 4, who count. */
static enum exit_kind interrupt_two(struct engine_vcpu *v)
{
	struct x86_cpu *c = &v->cpu;

	if (v->id != 0) {
		lapic_set(v, LAPIC_SVR, 0x1ff);
		v->vm->count += !(c->rflags & FL_IF);
		c->rflags |= FL_IF;
		if (v->m.irq_pending(v->m.opaque))
			kicks += (u32)v->m.irq_accept(v->m.opaque) << (8 * v->id - 8);
		return EXIT_HALTED;
	}
	if (v->runs == 1)
		start_all_others(v);
	if (v->vm->count == 3) {
		v->vm->count++;
		if (send_ipi_call(v, 1, 0, 4, 0x51) != 0 || send_ipi_call(v, ~0ull, ~0ull, ~0ull, 0x51) != 0)
			return EXIT_ERROR; /* no such CPUs */
		if (send_ipi_call(v, 2, 0, 0, 0x851) != (u64)-22 || send_ipi_call(v, 2, 0, 0, 0x80051) != (u64)-22)
			return EXIT_ERROR; /* logical, shorthand */
		if (send_ipi_call(v, 0x15, ~0ull, 1, 0x52) != 2)
			return EXIT_ERROR;
	}
	return kicks == 0x520052 ? exit_with(v, 9) : wait_more();
}

static void one_call_interrupts_many(void **state)
{
	struct vm_config c = config(4);
	struct vm_result r;

	add_exit_port(&c);
	kicks = waits = 0;
	r = run_config(&c, interrupt_two);
	assert_int_equal(r.end, VM_END_EXIT_PORT);
	assert_int_equal(r.exit_value, 9);
}

/* ---- time ---- */

static enum exit_kind watch_tsc(struct engine_vcpu *v)
{
	u64 last = __builtin_ia32_rdtsc();

	for (int i = 0; i < 100000; i++) {
		u64 now = v->m.tsc(v->m.opaque);

		if (now < last)
			return EXIT_ERROR;
		last = now;
	}
	return exit_with(v, last > __builtin_ia32_rdtsc());
}

static void tsc_is_the_hosts_until_a_pause(void **state)
{
	struct vm_config c = config(1);
	struct vm_result r;

	add_exit_port(&c);
	r = run_config(&c, watch_tsc);
	assert_int_equal(r.end, VM_END_EXIT_PORT);
	assert_int_equal(r.exit_value, 0);
}

/* ---- creation ---- */

static void the_balloon_has_a_target(void **state)
{
	static const u64 bad[] = {16 * MiB, 16 * MiB + 4096, 4097, 100};
	struct engine_stats_item items[64];
	struct vm_config c = config(1);
	struct vm *vm = create(&c, spin);
	struct err e = {0};
	u32 n, found = 0;

	assert_int_equal(vm_set_balloon(vm, MiB, &e), -ENODEV);
	vm_destroy(vm);
	c.opt[c.nopts].option = "balloon";
	c.opt[c.nopts++].text = "on";
	vm = create(&c, spin);
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(vm_set_balloon(vm, bad[i], &e), -EINVAL);
	assert_int_equal(vm_set_balloon(vm, 16 * MiB - 4096, &e), 0);
	assert_int_equal(vm_set_balloon(vm, 0, &e), 0);
	n = vm_stats(vm, items, ARRAY_SIZE(items));
	for (u32 i = 0; i < n; i++)
		found += strcmp(items[i].name, "balloon_bytes_reported") == 0;
	assert_int_equal(found, 1);
	assert_int_equal(vm_stats(vm, items, n - 1), n - 1);
	vm_destroy(vm);
}

static void failures_unwind(void **state)
{
	static const struct {
		const char *says;
		u32 cpus, fail_vcpu;
		u64 memory;
		const char *kernel, *console, *option, *text;
	} bad[] = {
		{"no kernel", 1, ~0u, 16 * MiB, NULL, "null", NULL, NULL},
		{"0 CPUs", 0, ~0u, 16 * MiB, "k", "null", NULL, NULL},
		{"65 CPUs", 65, ~0u, 16 * MiB, "k", "null", NULL, NULL},
		{"too small", 1, ~0u, 4096, "k", "null", NULL, NULL},
		{"more than the host has", 1, ~0u, 15 * 1024 * GiB, "k", "null", NULL, NULL},
		{"--console", 1, ~0u, 16 * MiB, "k", "tape", NULL, NULL},
		{"no device option --floppy", 1, ~0u, 16 * MiB, "k", "null", "floppy", ""},
		{"exit port at 0x60 overlaps i8042", 1, ~0u, 16 * MiB, "k", "null", "exit-port", "0x60"},
		{"vCPU 0: no more vCPUs", 4, 0, 16 * MiB, "k", "null", NULL, NULL},
		{"vCPU 3: no more vCPUs", 4, 3, 16 * MiB, "k", "null", NULL, NULL},
		{"No such file", 2, ~0u, 16 * MiB, "/nonexistent/kernel", "null", NULL, NULL},
	};

	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		struct vm_config c = config(bad[i].cpus);
		struct vm *vm = NULL;
		struct err e = {0};

		c.memory = bad[i].memory;
		c.console = bad[i].console;
		if (!bad[i].kernel || bad[i].kernel[0] == '/')
			c.kernel = bad[i].kernel;
		if (bad[i].option) {
			c.opt[0].option = bad[i].option;
			c.opt[0].text = bad[i].text;
			c.nopts = 1;
		}
		fake_fails = bad[i].fail_vcpu;
		script = spin;
		assert_true(vm_create_with_engine(&vm, &c, &fake_engine, "", &e) < 0);
		if (!strstr(e.msg, bad[i].says))
			fail_msg("\"%s\" does not say \"%s\"", e.msg, bad[i].says);
		assert_null(vm);
		assert_int_equal(fake_vcpus, 0);
		assert_int_equal(fake_vms, 0);
	}
	fake_fails = ~0u;
}

static void destroys_without_running(void **state)
{
	struct vm_config c = config(8);

	vm_destroy(create(&c, spin));
	vm_destroy(NULL);
	assert_int_equal(fake_vcpus, 0);
}

/* ---- several in one process ---- */

static enum exit_kind run_a_while(struct engine_vcpu *v)
{
	if (v->runs > 100)
		return exit_with(v, 0);
	nap();
	return EXIT_KICKED;
}

static void *run_one(void *opaque)
{
	struct vm *vm = opaque;
	struct vm_result r = {0};
	struct err e = {0};

	if (vm_run(vm, &r, &e) < 0 || r.end != VM_END_EXIT_PORT)
		return (void *)1;
	return NULL;
}

static void several_in_one_process(void **state)
{
	enum { COUNT = 4 };
	struct vm *vms[COUNT];
	pthread_t t[COUNT];
	void *bad;

	for (u32 i = 0; i < COUNT; i++) {
		struct vm_config c = config(1);

		add_exit_port(&c);
		vms[i] = create(&c, run_a_while);
	}
	for (u32 i = 0; i < COUNT; i++)
		pthread_create(&t[i], NULL, run_one, vms[i]);
	for (u32 i = 0; i < COUNT; i++) {
		pthread_join(t[i], &bad);
		assert_null(bad);
		vm_destroy(vms[i]);
	}
	assert_int_equal(fake_vms, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exit_port_ends_with_the_value),
		cmocka_unit_test(acpi_powers_off),
		cmocka_unit_test(other_ends),
		cmocka_unit_test(quits_from_another_thread),
		cmocka_unit_test(a_dead_guest_is_noticed),
		cmocka_unit_test(reset_starts_over),
		cmocka_unit_test(a_reset_storm_is_survived),
		cmocka_unit_test(the_timer_ends_a_halt),
		cmocka_unit_test(init_and_sipi_start_the_others),
		cmocka_unit_test(hypercalls),
		cmocka_unit_test(a_kick_waits_for_the_halt),
		cmocka_unit_test(one_call_interrupts_many),
		cmocka_unit_test(a_false_alarm_hides_no_request),
		cmocka_unit_test(tsc_is_the_hosts_until_a_pause),
		cmocka_unit_test(the_balloon_has_a_target),
		cmocka_unit_test(failures_unwind),
		cmocka_unit_test(destroys_without_running),
		cmocka_unit_test(several_in_one_process),
	};

	kernel = smallest_kernel();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
