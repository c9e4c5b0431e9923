/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kicks: a vCPU that is halted with interrupts off never leaves KVM_RUN by itself, so each end of a run is a kick's, and one that is lost is a run that
 * does not end. Nothing is executed. Threading: the vCPU has a thread, the test kicks from its own.
 */
#include "kvm_machine.h"

#include "base/clock.h"

#include <sched.h>
#include <stdlib.h>
#include <time.h>

#define ROUNDS 4000u
#define PATIENCE (5 * NS_PER_SEC)

struct subject {
	struct kvm_machine m;
	struct engine_vcpu *vcpu;
	pthread_t thread;
	u32 rounds;		  /* runs to be ended */
	u32 ready, ended, failed; /* atomic: it exists; runs that have ended, with anything else than a kick */
	u64 kicks_before;	  /* as often it is kicked by itself before its first run */
};

static u32 look(const u32 *at)
{
	return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

static void halt(struct engine_vcpu *v)
{
	struct x86_cpu *c = engine_kvm.vcpu_state(v);

	x86_reset(c, true, false);
	c->halted = true;
	c->rflags = FL_ONE;
	engine_kvm.vcpu_sync_in(v);
}

static void *life(void *opaque)
{
	struct subject *s = opaque;
	struct err e;

	s->vcpu = (struct engine_vcpu *)km_vcpu(&s->m, 0);
	halt(s->vcpu);
	for (u64 i = 0; i < s->kicks_before; i++)
		engine_kvm.vcpu_kick(s->vcpu);
	__atomic_store_n(&s->ready, 1, __ATOMIC_RELEASE);
	for (u32 i = 0; i < s->rounds; i++) {
		if (engine_kvm.vcpu_run(s->vcpu, &e) != EXIT_KICKED)
			__atomic_store_n(&s->failed, 1, __ATOMIC_RELEASE);
		__atomic_store_n(&s->ended, i + 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

static void begin(struct subject *s, u32 rounds, u64 kicks_before)
{
	*s = (struct subject){.rounds = rounds, .kicks_before = kicks_before};
	km_new(&s->m);
	assert_int_equal(pthread_create(&s->thread, NULL, life, s), 0);
	while (!look(&s->ready))
		sched_yield();
}

static void finish(struct subject *s)
{
	pthread_join(s->thread, NULL);
	assert_false(s->failed);
	engine_kvm.vcpu_destroy(s->vcpu);
	km_free(&s->m);
}

static void await(struct subject *s, u32 ended)
{
	u64 from = host_now_ns();

	while (look(&s->ended) < ended) {
		sched_yield();
		if (host_now_ns() - from > PATIENCE) {
			printf("run %u has not ended: a kick was lost\n", ended);
			_exit(1); /* its thread would never be joined */
		}
	}
}

static int compare(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

static void wait_ns(u64 ns)
{
	for (u64 from = host_now_ns(); host_now_ns() - from < ns;)
		;
}

/* Each comes a little later than the end of the run before: before the next has begun, on its way into the kernel, and there. */
static void test_none_is_lost(void **state)
{
	static u64 took[ROUNDS];
	struct subject s;

	begin(&s, ROUNDS, 0);
	for (u32 i = 0; i < ROUNDS; i++) {
		wait_ns(i * 37 % 60000);
		took[i] = host_now_ns();
		engine_kvm.vcpu_kick(s.vcpu);
		await(&s, i + 1);
		took[i] = host_now_ns() - took[i];
	}
	finish(&s);
	qsort(took, ROUNDS, sizeof(took[0]), compare);
	printf("kick to end of run: median %llu us, longest %llu us\n", (unsigned long long)took[ROUNDS / 2] / 1000,
	       (unsigned long long)took[ROUNDS - 1] / 1000);
}

/* As it sleeps for long. */
static void test_a_run_that_sleeps_is_ended(void **state)
{
	struct subject s;

	begin(&s, 5, 0);
	for (u32 i = 0; i < 5; i++) {
		nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
		assert_int_equal(look(&s.ended), i); /* nothing else ends it */
		engine_kvm.vcpu_kick(s.vcpu);
		await(&s, i + 1);
	}
	finish(&s);
}

/* Several kicks before a run end one run, at once. */
static void test_kicks_before_a_run_are_one(void **state)
{
	struct subject s;

	begin(&s, 2, 3);
	await(&s, 1);
	nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
	assert_int_equal(look(&s.ended), 1);
	engine_kvm.vcpu_kick(s.vcpu);
	await(&s, 2);
	finish(&s);
}

/* Whoever runs it again has its halt: a kick does not wake the guest's CPU. */
static void test_it_is_halted_still(void **state)
{
	struct subject s;
	struct err e;

	begin(&s, 1, 0);
	engine_kvm.vcpu_kick(s.vcpu);
	pthread_join(s.thread, NULL);
	assert_int_equal(engine_kvm.vcpu_sync_out(s.vcpu, &e), 0);
	assert_true(engine_kvm.vcpu_state(s.vcpu)->halted);
	assert_int_equal(engine_kvm.vcpu_state(s.vcpu)->rip, 0xfff0);
	engine_kvm.vcpu_destroy(s.vcpu);
	km_free(&s.m);
}

static void *storm(void *opaque)
{
	struct subject *s = opaque;

	while (look(&s->ended) < s->rounds)
		engine_kvm.vcpu_kick(s->vcpu);
	return NULL;
}

/* From two threads at once, as fast as they can; the runs go on all the same. */
static void test_storm(void **state)
{
	struct subject s;
	pthread_t other;

	begin(&s, ROUNDS, 0);
	pthread_create(&other, NULL, storm, &s);
	storm(&s);
	pthread_join(other, NULL);
	finish(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_none_is_lost),
		cmocka_unit_test(test_a_run_that_sleeps_is_ended),
		cmocka_unit_test(test_kicks_before_a_run_are_one),
		cmocka_unit_test(test_it_is_halted_still),
		cmocka_unit_test(test_storm),
	};

	return km_possible() ? cmocka_run_group_tests(tests, NULL, NULL) : 77;
}
