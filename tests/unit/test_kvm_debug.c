/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Debugging on KVM: how what a debugger has armed is laid into debug registers, and a small real-mode guest that is stepped and stopped, by the
 * registers and without them. The first part needs no KVM, the second a CPU that executes guests. Threading: one thread.
 */
#include "kvm_machine.h"

#include <errno.h>

/* ---- the plan ---- */

static struct kvm_debug_plan plan_of(const struct engine_debug *d)
{
	struct kvm_debug_plan p;

	kvm_debug_plan(d, true, &p);
	return p;
}

static void test_nothing_is_armed(void **state)
{
	struct kvm_debug_plan p = plan_of(&(struct engine_debug){0});

	assert_false(p.steps);
	assert_false(p.looks);
	assert_int_equal(p.used, 0);
	assert_int_equal(p.dr7, 0);
}

static void test_breakpoints_fit_or_do_not(void **state)
{
	static const gva_t at[] = {0x1000, 0x1001, 0xffffffff81000000, 0xffffffff81000005, 0xffffffff82000000};
	struct kvm_debug_plan p = plan_of(&(struct engine_debug){.breaks = at, .nbreaks = 4});

	assert_false(p.steps || p.looks);
	assert_int_equal(p.used, 4);
	assert_memory_equal(p.address, at, 4 * sizeof(*at));
	assert_int_equal(p.dr7, DR7_FIXED | 0xaa);
	p = plan_of(&(struct engine_debug){.breaks = at, .nbreaks = 5});
	assert_true(p.steps && p.looks);
	assert_int_equal(p.used, 0);
	assert_int_equal(p.dr7, 0);
}

static void test_nothing_fits_where_registers_do_not_hold(void **state)
{
	static const gva_t at[] = {0x1000};
	struct kvm_debug_plan p;

	kvm_debug_plan(&(struct engine_debug){.breaks = at, .nbreaks = 1}, false, &p);
	assert_true(p.steps && p.looks);
	kvm_debug_plan(&(struct engine_debug){.step = true, .breaks = at, .nbreaks = 1}, false, &p);
	assert_true(p.steps && !p.looks);
	kvm_debug_plan(&(struct engine_debug){0}, false, &p);
	assert_false(p.steps || p.looks);
}

/* Going on from a breakpoint is a step first: it must not be met again. */
static void test_a_step_leaves_breakpoints_out(void **state)
{
	static const gva_t at[] = {0x1000, 0x1001, 0x1002, 0x1003, 0x1004};
	struct kvm_debug_plan p = plan_of(&(struct engine_debug){.step = true, .breaks = at, .nbreaks = 5});

	assert_true(p.steps && !p.looks);
	assert_int_equal(p.used, 0);
	p = plan_of(&(struct engine_debug){
		.step = true,
		.breaks = at,
		.nbreaks = 5,
		.watch = {.n = 1, .point = &(const struct x86_watchpoint){.gva = 0x2000, .len = 8, .writes = true}}});
	assert_true(p.steps && !p.looks);
	assert_int_equal(p.used, 1);
}

#define WATCHED(...)                                                                                                                       \
	(struct engine_debug)                                                                                                              \
	{                                                                                                                                  \
		.watch = {                                                                                                                 \
			.point = (const struct x86_watchpoint[]){__VA_ARGS__},                                                             \
			.n = sizeof((const struct x86_watchpoint[]){__VA_ARGS__}) / sizeof(struct x86_watchpoint)                          \
		}                                                                                                                          \
	}

static void check_register(const struct kvm_debug_plan *p, u32 n, u64 address, u64 type_and_length)
{
	assert_int_equal(p->address[n], address);
	assert_int_equal(p->dr7 >> (16 + 4 * n) & 0xf, type_and_length);
	assert_int_equal(p->dr7 >> 2 * n & 3, 2);
	assert_non_null(p->point[n]);
}

static void test_watched_data_in_aligned_pieces(void **state)
{
	struct engine_debug d = WATCHED({.gva = 0x2000, .len = 8, .writes = true}, {.gva = 0x3003, .len = 1, .reads = true},
					{.gva = 0x4002, .len = 2, .reads = true, .writes = true},
					{.gva = 0x5004, .len = 4, .writes = true});
	struct kvm_debug_plan p = plan_of(&d);

	assert_false(p.steps || p.looks);
	assert_int_equal(p.used, 4);
	check_register(&p, 0, 0x2000, 1 | 2 << 2);
	check_register(&p, 1, 0x3003, 3);
	check_register(&p, 2, 0x4002, 3 | 1 << 2);
	check_register(&p, 3, 0x5004, 1 | 3 << 2);
	d = WATCHED({.gva = 0x1003, .len = 7, .writes = true}); /* 1, 4, 2 */
	p = plan_of(&d);
	assert_int_equal(p.used, 3);
	check_register(&p, 0, 0x1003, 1);
	check_register(&p, 1, 0x1004, 1 | 3 << 2);
	check_register(&p, 2, 0x1008, 1 | 1 << 2);
	d = WATCHED({.gva = 0x1000, .len = 40, .writes = true});
	p = plan_of(&d);
	assert_true(p.steps && p.looks);
	d.step = true;
	p = plan_of(&d);
	assert_true(p.steps && p.looks);
	d = WATCHED({.gva = 0x1000, .len = 8, .writes = true});
	d.step = true;
	p = plan_of(&d);
	assert_true(p.steps && !p.looks);
	assert_int_equal(p.used, 1);
}

/* ---- a guest ---- */

#define START 0x1000u
#define DATA 0x2000u
#define PORT 0x55u

static const u8 code[] = {
	0xb8, 0x01, 0x00, /* 1000 mov ax, 1 */
	0xbb, 0x00, 0x20, /* 1003 mov bx, 0x2000 */
	0x90,		  /* 1006 nop */
	0x88, 0x07,	  /* 1007 mov [bx], al */
	0x40,		  /* 1009 inc ax */
	0x88, 0x47, 0x04, /* 100a mov [bx+4], al */
	0xe6, PORT,	  /* 100d out 0x55, al */
	0x8a, 0x0f,	  /* 100f mov cl, [bx] */
	0xeb, 0xf4,	  /* 1011 jmp 1007 */
};
static const u8 handler[] = {0xfe, 0x06, 0x08, 0x20, 0xcf}; /* of #DB: inc byte [0x2008]; iret */
#define HANDLER 0x1100u
#define HANDLED 0x2008u

static struct kvm_machine m;
static struct kvm_vcpu *v;
static struct engine_vcpu *ev;
static struct engine_debug d;
static struct err e;
static u32 outs;
static bool registers_hold;

static void pio_write(void *opaque, u16 port, u32 size, u32 value)
{
	outs++;
}

static int start(void **state)
{
	const u16 vector[2] = {HANDLER, 0};

	if (engine_kvm.probe(&e) < 0) {
		printf("skipped: %s\n", e.msg);
		return 0;
	}
	km_new(&m);
	v = km_vcpu(&m, 0);
	v->machine.pio_write = pio_write;
	ev = (struct engine_vcpu *)v;
	registers_hold = kvm_vm_of(m.vm)->debug_registers;
	assert_true(gm_write(&m.gm, START, code, sizeof(code)));
	assert_true(gm_write(&m.gm, 4, vector, sizeof(vector)));
	assert_true(gm_write(&m.gm, HANDLER, handler, sizeof(handler)));
	v->cpu.seg[SEG_CS].sel = 0;
	v->cpu.seg[SEG_CS].base = 0;
	v->cpu.rip = START;
	v->cpu.gpr[R_RSP] = 0x8000;
	d = (struct engine_debug){0};
	outs = 0;
	return 0;
}

static int stop(void **state)
{
	if (!v)
		return 0;
	engine_kvm.vcpu_destroy(ev);
	km_free(&m);
	v = NULL;
	return 0;
}

static void need_a_guest(void)
{
	if (!v)
		skip();
}

static void run_to(enum engine_hit hit, u64 rip)
{
	enum exit_kind kind;

	engine_kvm.vcpu_debug(ev, &d);
	d.hit = HIT_NONE;
	d.watch.met = false;
	kind = engine_kvm.vcpu_run(ev, &e);
	if (kind != EXIT_DEBUG)
		fail_msg("run ended with %d: %s", (int)kind, kind == EXIT_ERROR ? e.msg : "");
	assert_int_equal(engine_kvm.vcpu_sync_out(ev, &e), 0);
	if (d.hit != hit || v->cpu.rip != rip)
		fail_msg("hit %d at 0x%llx instead of %d at 0x%llx", (int)d.hit, (unsigned long long)v->cpu.rip, (int)hit,
			 (unsigned long long)rip);
	assert_int_equal(v->cpu.rflags & (FL_TF | FL_RF), 0);
}

static void test_steps(void **state)
{
	static const u16 then[] = {0x1003, 0x1006, 0x1007, 0x1009, 0x100a, 0x100d, 0x100f, 0x1011, 0x1007, 0x1009};

	need_a_guest();
	d.step = true;
	for (u32 i = 0; i < ARRAY_SIZE(then); i++)
		run_to(HIT_STEP, then[i]);
	assert_int_equal(outs, 1);
	assert_int_equal(v->cpu.gpr[R_RAX] & 0xffff, 2);
}

/* A state that was changed between steps is stepped from where it is now. */
static void test_steps_follow_the_debugger(void **state)
{
	need_a_guest();
	d.step = true;
	run_to(HIT_STEP, 0x1003);
	v->cpu.rip = 0x1009;
	v->cpu.gpr[R_RAX] = 41;
	engine_kvm.vcpu_sync_in(ev);
	run_to(HIT_STEP, 0x100a);
	assert_int_equal(v->cpu.gpr[R_RAX], 42);
}

/* From each it goes on with a step, as the debugger's server does. */
static void go_round(u32 n)
{
	static const gva_t at[] = {0x1007, 0x1009, 0x100a, 0x100f, 0x1011};
	static const u16 next[] = {0x1009, 0x100a, 0x100d, 0x1011, 0x1007};

	d.breaks = at;
	d.nbreaks = n;
	v->cpu.rip = START;
	engine_kvm.vcpu_sync_in(ev);
	for (u32 i = 0; i < 3 * n; i++) {
		run_to(HIT_BREAK, at[i % n]);
		run_to(HIT_BREAK, at[i % n]); /* where it stands: before it anything is executed */
		d.step = true;
		run_to(HIT_STEP, next[i % n]);
		d.step = false;
	}
}

static void test_breakpoints_by_registers(void **state)
{
	need_a_guest();
	if (!registers_hold) {
		printf("skipped: debug registers do not hold here\n");
		skip();
	}
	go_round(4);
}

static void test_breakpoints_by_steps(void **state)
{
	need_a_guest();
	kvm_vm_of(m.vm)->debug_registers = false;
	go_round(1);
	go_round(4);
}

static void test_more_breakpoints_than_registers(void **state)
{
	need_a_guest();
	go_round(5);
}

static void expect_watch(u64 rip, u64 gva)
{
	run_to(HIT_WATCH, rip);
	assert_true(d.watch.met);
	assert_int_equal(d.watch.hit.gva, gva);
}

/* Leaves behind the store. The second round's writes change what is there. */
static void watch_writes(void)
{
	d.watch.point =
		(const struct x86_watchpoint[]){{.gva = DATA, .len = 1, .writes = true}, {.gva = DATA + 4, .len = 2, .writes = true}};
	d.watch.n = 2;
	for (u32 i = 0; i < 3; i++) {
		expect_watch(0x1009, DATA);
		expect_watch(0x100d, DATA + 4);
	}
	assert_int_equal(outs, 2);
}

static void test_watched_writes_by_registers(void **state)
{
	need_a_guest();
	if (!registers_hold) {
		printf("skipped: debug registers do not hold here\n");
		skip();
	}
	watch_writes();
}

static void test_watched_writes_by_contents(void **state)
{
	need_a_guest();
	kvm_vm_of(m.vm)->debug_registers = false;
	watch_writes();
}

static void test_a_step_over_a_watched_store(void **state)
{
	need_a_guest();
	d.watch.point = &(const struct x86_watchpoint){.gva = DATA, .len = 100, .writes = true};
	d.watch.n = 1;
	d.step = true;
	run_to(HIT_STEP, 0x1003);
	run_to(HIT_STEP, 0x1006);
	run_to(HIT_STEP, 0x1007);
	expect_watch(0x1009, DATA);
	run_to(HIT_STEP, 0x100a);
}

/* A guest that steps itself: each of its traps reaches its handler, while the debugger steps as well in search of a breakpoint. */
static void test_the_guests_own_steps(void **state)
{
	static const gva_t at[] = {0x1007};
	u8 handled;

	need_a_guest();
	kvm_vm_of(m.vm)->debug_registers = false;
	v->cpu.rflags |= FL_TF;
	d.breaks = at;
	d.nbreaks = 1;
	run_to(HIT_BREAK, 0x1007);
	assert_true(gm_read(&m.gm, HANDLED, &handled, 1));
	assert_int_equal(handled, 2); /* the third is on its way */
}

static void step_syscall(bool step, enum engine_hit hit)
{
	static const u8 syscall[] = {0x0f, 0x05};
	static const gva_t at[] = {0x3000};
	const struct x86_seg flat = {.sel = 0x33, .attr = SEGA_P | SEGA_S | SEGA_G | 0xb | SEGA_L | SEGA_DPL, .limit = ~0u};
	struct x86_cpu *c = &v->cpu;

	assert_true(gm_write(&m.gm, START, syscall, sizeof(syscall)));
	assert_true(gm_write(&m.gm, 0x10000, &(const u64){0x11007}, 8)); /* 4 KiB to 1 GiB as they are */
	assert_true(gm_write(&m.gm, 0x11000, &(const u64){0x87}, 8));
	c->cr3 = 0x10000;
	c->cr4 = CR4_PAE;
	c->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE;
	c->msr.efer = EFER_LME | EFER_LMA | EFER_SCE;
	c->seg[SEG_CS] = flat;
	c->seg[SEG_SS] = (struct x86_seg){.sel = 0x2b, .attr = SEGA_P | SEGA_S | SEGA_G | SEGA_DB | 3 | SEGA_DPL, .limit = ~0u};
	c->msr.lstar = 0x3000;
	c->msr.star = 0x0023001000000000ull;
	c->msr.sfmask = FL_TF | FL_IF;
	c->rip = START;
	c->rflags = FL_ONE | FL_IF | FL_CF;
	d.step = step;
	d.breaks = at;
	d.nbreaks = 1;
	kvm_vm_of(m.vm)->debug_registers = false;
	run_to(hit, 0x3000);
	assert_int_equal(c->gpr[R_RCX], START + 2);
	assert_int_equal(c->gpr[R_R11], FL_ONE | FL_IF | FL_CF); /* nothing of the debugger's */
	assert_int_equal(c->rflags, FL_ONE | FL_CF);
	assert_int_equal(x86_cpl(c), 0);
}

static void test_a_step_over_a_system_call(void **state)
{
	need_a_guest();
	step_syscall(true, HIT_STEP);
}

static void test_a_breakpoint_behind_a_system_call(void **state)
{
	need_a_guest();
	step_syscall(false, HIT_BREAK);
}

/* When a debugger has left, the guest runs as ever. */
static void test_nothing_stays(void **state)
{
	static const gva_t at[] = {0x1007};

	need_a_guest();
	d.breaks = at;
	d.nbreaks = 1;
	run_to(HIT_BREAK, 0x1007);
	engine_kvm.vcpu_debug(ev, NULL);
	engine_kvm.vcpu_kick(ev);
	assert_int_equal(engine_kvm.vcpu_run(ev, &e), EXIT_KICKED);
	assert_int_equal(v->armed, 0);
	assert_int_equal(engine_kvm.vcpu_sync_out(ev, &e), 0);
	assert_int_equal(v->cpu.rflags & FL_TF, 0);
	assert_int_equal(v->cpu.dr[0], 0);
	assert_int_equal(v->cpu.dr[7], DR7_FIXED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_is_armed),
		cmocka_unit_test(test_breakpoints_fit_or_do_not),
		cmocka_unit_test(test_nothing_fits_where_registers_do_not_hold),
		cmocka_unit_test(test_a_step_leaves_breakpoints_out),
		cmocka_unit_test(test_watched_data_in_aligned_pieces),
		cmocka_unit_test_setup_teardown(test_steps, start, stop),
		cmocka_unit_test_setup_teardown(test_steps_follow_the_debugger, start, stop),
		cmocka_unit_test_setup_teardown(test_breakpoints_by_registers, start, stop),
		cmocka_unit_test_setup_teardown(test_breakpoints_by_steps, start, stop),
		cmocka_unit_test_setup_teardown(test_more_breakpoints_than_registers, start, stop),
		cmocka_unit_test_setup_teardown(test_watched_writes_by_registers, start, stop),
		cmocka_unit_test_setup_teardown(test_watched_writes_by_contents, start, stop),
		cmocka_unit_test_setup_teardown(test_a_step_over_a_watched_store, start, stop),
		cmocka_unit_test_setup_teardown(test_the_guests_own_steps, start, stop),
		cmocka_unit_test_setup_teardown(test_a_step_over_a_system_call, start, stop),
		cmocka_unit_test_setup_teardown(test_a_breakpoint_behind_a_system_call, start, stop),
		cmocka_unit_test_setup_teardown(test_nothing_stays, start, stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
