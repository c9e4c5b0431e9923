/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is put into the local APIC of KVM comes out of it again, register by register, in either mode and with each kind of timer. Nothing is executed.
 * Threading: one thread.
 */
#include "kvm_machine.h"

#define ENABLED (1ull << 11)
#define X2APIC (1ull << 10)
#define BSP (1ull << 8)
#define AT 0xfee00000ull
#define ONE_SHOT 0u
#define PERIODIC (1u << 17)
#define DEADLINE (2u << 17)
#define MASKED (1u << 16)

static struct kvm_machine m;
static struct kvm_vcpu *v;
static struct engine_vcpu *ev;
static struct err e;

static int start(void **state)
{
	km_new(&m);
	v = km_vcpu(&m, 0);
	ev = (struct engine_vcpu *)v;
	return 0;
}

static int stop(void **state)
{
	engine_kvm.vcpu_destroy(ev);
	km_free(&m);
	return 0;
}

static void must(int r)
{
	if (r < 0)
		fail_msg("%s", e.msg);
}

static u32 any(u32 *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8 ^ *seed << 16;
}

/* Vectors from 32 on; what is in service, is level-triggered or requested, is each's own. */
static struct x86_apic random_apic(u32 seed, bool x2)
{
	struct x86_apic a = {.base = AT | ENABLED | BSP | (x2 ? X2APIC : 0), .svr = 0x1ff, .esr = any(&seed) & 0xef};

	a.tpr = any(&seed) & 0xff;
	a.ldr = x2 ? 0 : any(&seed) & 0xff000000;
	a.dfr = x2 || seed & 0x10000 ? ~0u : 0x0fffffff;
	a.icr = any(&seed) & 0xccfff;
	a.icr &= ~(1u << 12);
	a.icr_high = x2 ? any(&seed) : any(&seed) & 0xff000000;
	for (u32 i = 0; i < X86_APIC_LVTS; i++)
		a.lvt[i] = MASKED | (any(&seed) & 0xff);
	for (u32 i = 1; i < 8; i++) {
		a.irr[i] = any(&seed);
		a.isr[i] = any(&seed) & any(&seed);
		a.tmr[i] = any(&seed);
	}
	a.timer_divide = any(&seed) & 0xb;
	return a;
}

static struct x86_apic there_and_back(const struct x86_apic *a)
{
	struct x86_apic got;

	must(kvm_apic.put(ev, a, &e));
	assert_false(v->dirty);
	memset(&v->apic, 0xaa, sizeof(v->apic));
	memset(&got, 0xaa, sizeof(got));
	must(kvm_apic.get(ev, &got, &e));
	return got;
}

#define SAME(field)                                                                                                                        \
	do                                                                                                                                 \
		if (a->field != b->field)                                                                                                  \
			fail_msg("%s %u: " #field ": 0x%llx was put, 0x%llx is there", what, number, (unsigned long long)a->field,         \
				 (unsigned long long)b->field);                                                                            \
	while (0)

/* All but the time that is left. */
static void same(const struct x86_apic *a, const struct x86_apic *b, const char *what, u32 number)
{
	SAME(base);
	SAME(tpr);
	SAME(ldr);
	SAME(dfr);
	SAME(svr);
	SAME(esr);
	SAME(icr);
	SAME(icr_high);
	for (u32 i = 0; i < X86_APIC_LVTS; i++)
		SAME(lvt[i]);
	for (u32 i = 0; i < 8; i++) {
		SAME(irr[i]);
		SAME(isr[i]);
		SAME(tmr[i]);
	}
	SAME(timer_init);
	SAME(timer_divide);
	SAME(tsc_deadline);
}

static void try_registers(bool x2, const char *what)
{
	for (u32 i = 0; i < 64; i++) {
		struct x86_apic a = random_apic(i, x2), b = there_and_back(&a);

		same(&a, &b, what, i);
	}
}

static void test_xapic(void **state)
{
	try_registers(false, "xAPIC, seed");
}

static void test_x2apic(void **state)
{
	try_registers(true, "x2APIC, seed");
}

static void test_modes_follow_each_other(void **state)
{
	for (u32 i = 0; i < 16; i++) {
		struct x86_apic a = random_apic(i, i & 1), b = there_and_back(&a);

		same(&a, &b, "mode", i);
		a = (struct x86_apic){.base = AT | BSP, .dfr = ~0u, .svr = 0xff}; /* switched off: the only way back from x2APIC */
		for (u32 j = 0; j < X86_APIC_LVTS; j++)
			a.lvt[j] = MASKED;
		b = there_and_back(&a);
		assert_int_equal(b.base, a.base);
	}
}

/* A timer that runs goes on from where it was. */
static void try_running_timer(u32 mode)
{
	struct x86_apic a = random_apic(9, false), b;

	a.timer_divide = 0xb; /* by 1 */
	a.timer_init = 4000000000;
	a.timer_current = 3000000000;
	a.lvt[0] = MASKED | mode | 0x40;
	b = there_and_back(&a);
	same(&a, &b, "timer", mode);
	assert_true(b.timer_current <= a.timer_current);
	assert_true(b.timer_current > a.timer_current - 1000000000); /* a second */
}

static void test_timer_goes_on(void **state)
{
	try_running_timer(ONE_SHOT);
	try_running_timer(PERIODIC);
}

static void test_timer_that_stands(void **state)
{
	struct x86_apic a = random_apic(11, false), b;

	a.lvt[0] = MASKED | 0x40;
	b = there_and_back(&a);
	assert_int_equal(b.timer_current, 0);
	assert_int_equal(b.timer_init, 0);
}

static void test_deadline(void **state)
{
	for (u32 x2 = 0; x2 <= 1; x2++) {
		struct x86_apic a = random_apic(12 + x2, x2), b;

		a.lvt[0] = MASKED | DEADLINE | 0x40;
		a.tsc_deadline = 1ull << 62;
		b = there_and_back(&a);
		same(&a, &b, "deadline", x2);
		a.tsc_deadline = 0;
		b = there_and_back(&a);
		same(&a, &b, "no deadline", x2);
	}
}

/* A vCPU's state that is put without its APIC leaves it as it is; but for the low half of TPR, which no priority depends on: CR8 is put, too. */
static void test_registers_stay_when_others_are_put(void **state)
{
	struct x86_apic a = random_apic(3, false), b;

	a.tpr &= 0xf0;
	b = there_and_back(&a);
	must(kvm_put_state(v, &e));
	must(kvm_apic.get(ev, &b, &e));
	same(&a, &b, "once more", 0);
}

/* ---- messages ---- */

static bool requested(const struct x86_apic *a, u32 vector)
{
	return a->irr[vector / 32] >> vector % 32 & 1;
}

static void test_messages_arrive(void **state)
{
	struct x86_apic a = random_apic(1, false), b;

	memset(a.irr, 0, sizeof(a.irr));
	memset(a.tmr, 0, sizeof(a.tmr));
	there_and_back(&a);
	kvm_apic.msi(m.vm, &(struct x86_msi){.address = AT, .data = 0x51});
	kvm_apic.msi(m.vm, &(struct x86_msi){.address = AT, .data = 0xc062});	      /* level-triggered */
	kvm_apic.msi(m.vm, &(struct x86_msi){.address = AT | 0x7f000, .data = 0x73}); /* nobody's */
	must(kvm_apic.get(ev, &b, &e));
	assert_true(requested(&b, 0x51));
	assert_true(requested(&b, 0x62));
	assert_false(requested(&b, 0x73));
	assert_int_equal(b.tmr[0x51 / 32] >> 0x51 % 32 & 1, 0);
	assert_int_equal(b.tmr[0x62 / 32] >> 0x62 % 32 & 1, 1);
}

/* An interrupt that was accepted and has not reached its handler is not accepted yet: the kernel keeps it apart, we do not. */
static void test_accepted_is_given_back(void **state)
{
	struct x86_apic a = random_apic(2, false), b;
	struct kvm_vcpu_events k;

	memset(a.irr, 0, sizeof(a.irr));
	memset(a.isr, 0, sizeof(a.isr));
	a.isr[2] = 1u << 5;
	there_and_back(&a);
	assert_int_equal(kvm_call(v->fd, KVM_GET_VCPU_EVENTS, &k), 0);
	k.interrupt.injected = 1;
	k.interrupt.nr = 0x45;
	assert_int_equal(kvm_call(v->fd, KVM_SET_VCPU_EVENTS, &k), 0);
	must(kvm_apic.get(ev, &b, &e));
	assert_true(requested(&b, 0x45));
	assert_int_equal(b.isr[2], 0);
	must(kvm_apic.put(ev, &b, &e)); /* and does not come twice */
	assert_int_equal(kvm_call(v->fd, KVM_GET_VCPU_EVENTS, &k), 0);
	assert_int_equal(k.interrupt.injected, 0);
}

static void test_level_messages_are_told_once(void **state)
{
	struct kvm_vm *vm = kvm_vm_of(m.vm);
	struct x86_msi list[KVM_LEVEL_MESSAGES + 2] = {{.address = AT, .data = 0x8041}, {.address = AT, .data = 0x8042}};

	kvm_apic.level_messages(m.vm, list, 2);
	assert_int_equal(vm->nroutes, 2);
	assert_int_equal(vm->routes[1].data, 0x8042);
	list[1].data = 0x8043;
	kvm_apic.level_messages(m.vm, list, 2);
	assert_int_equal(vm->routes[1].data, 0x8043);
	kvm_apic.level_messages(m.vm, list, KVM_LEVEL_MESSAGES + 2); /* more than there can be */
	assert_int_equal(vm->nroutes, KVM_LEVEL_MESSAGES);
	kvm_apic.level_messages(m.vm, list, 0);
	assert_int_equal(vm->nroutes, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_xapic, start, stop),
		cmocka_unit_test_setup_teardown(test_x2apic, start, stop),
		cmocka_unit_test_setup_teardown(test_modes_follow_each_other, start, stop),
		cmocka_unit_test_setup_teardown(test_timer_goes_on, start, stop),
		cmocka_unit_test_setup_teardown(test_timer_that_stands, start, stop),
		cmocka_unit_test_setup_teardown(test_deadline, start, stop),
		cmocka_unit_test_setup_teardown(test_registers_stay_when_others_are_put, start, stop),
		cmocka_unit_test_setup_teardown(test_messages_arrive, start, stop),
		cmocka_unit_test_setup_teardown(test_accepted_is_given_back, start, stop),
		cmocka_unit_test_setup_teardown(test_level_messages_are_told_once, start, stop),
	};

	return km_possible() ? cmocka_run_group_tests(tests, NULL, NULL) : 77;
}
