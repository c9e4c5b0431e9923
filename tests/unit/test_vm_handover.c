/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A running machine goes from one fake engine to another: it gets there with its state, or stays where it was, or ends with a message.
 */
#include "fake_engine.h"

#include "vm/machine.h"

#include <errno.h>
#include <time.h>

enum { CPUS = 2, MARK = 100 };

/* ---- the engines ---- */

static struct vm *machine;
static u32 unwelcome; /* the vCPU that the other engine cannot make */
static u32 lost;      /* the vCPU that no engine can make from then on */
static int went;
static struct err why;

static enum exit_kind spin(struct engine_vcpu *v, struct err *e)
{
	v->vm->count++;
	while (!atomic_exchange(&v->kicked, false))
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
	return EXIT_KICKED;
}

static int vcpu_create_there(struct engine_vcpu **out, struct engine_vm *vm, u32 id, const struct engine_machine *m, struct err *e)
{
	if (id == unwelcome)
		return err_set(e, ENOSPC, "no room for vCPU %u", id);
	return fake_vcpu_create(out, vm, id, m, e);
}

static const struct engine_ops here = {FAKE_ENGINE, .vcpu_run = spin, .vcpu_sync_in = fake_sync};
static const struct engine_ops there = {
	.name = "there",
	.vm_create = fake_vm_create,
	.vm_destroy = fake_vm_destroy,
	.vcpu_create = vcpu_create_there,
	.vcpu_destroy = fake_vcpu_destroy,
	.vcpu_run = spin,
	.vcpu_kick = fake_kick,
	.vcpu_irq = fake_irq,
	.vcpu_nmi = fake_nmi,
	.vcpu_state = fake_state,
	.vcpu_sync_in = fake_sync,
	.ram_written = fake_ram_written,
};

/* ---- the machine ---- */

static struct evtimer timer;

static void end_when_it_runs(void *opaque)
{
	if (fake_vm->count > 0) /* in the VM that was made last */
		vm_quit(machine);
	else
		timer_arm(&timer, host_now_ns() + NS_PER_SEC / 1000);
}

/* On the main thread. The first CPU runs or is about to, the second waits to be started; neither script nor engine touches this register. */
static void go(void *opaque)
{
	for (u32 i = 0; i < CPUS; i++)
		machine->vcpus[i].state->gpr[R_R15] = MARK + i;
	fake_fails = lost;
	went = handover(machine, &there, &why);
	timer_init(&timer, machine->loop, end_when_it_runs, NULL);
	timer_arm(&timer, host_now_ns());
}

static struct vm_result run(u32 refuses, u32 loses)
{
	struct memory_file kernel = smallest_kernel();
	struct vm_config c;
	struct vm_result r;
	struct err e = {0};

	unwelcome = refuses;
	lost = loses;
	why = (struct err){0};
	vm_config_defaults(&c);
	c.kernel = kernel.path;
	c.memory = 16 * MiB;
	c.cpus = CPUS;
	c.console = "null";
	c.timeout_ns = 20 * NS_PER_SEC;
	assert_int_equal(vm_create_with_engine(&machine, &c, &here, "fake engine", &e), 0);
	timer_init(&timer, machine->loop, go, NULL);
	timer_arm(&timer, host_now_ns());
	if (vm_run(machine, &r, &e) < 0)
		assert_int_equal(r.end, VM_END_ERROR);
	close(kernel.fd);
	return r;
}

static void state_is_whole(void)
{
	for (u32 i = 0; i < CPUS; i++)
		assert_int_equal(machine->vcpus[i].state->gpr[R_R15], MARK + i);
	assert_int_equal(fake_vms, 1);
	assert_int_equal(fake_vcpus, CPUS);
}

static void nothing_is_left(void)
{
	timer_disarm(&timer);
	vm_destroy(machine);
	fake_fails = ~0u;
	assert_int_equal(fake_vcpus, 0);
	assert_int_equal(fake_vms, 0);
}

/* ---- tests ---- */

static void it_goes_there(void **state)
{
	assert_int_equal(run(~0u, ~0u).end, VM_END_QUIT);
	assert_int_equal(went, 0);
	assert_ptr_equal(machine->ops, &there);
	state_is_whole();
	nothing_is_left();
}

static void it_stays(void **state)
{
	assert_int_equal(run(1, ~0u).end, VM_END_QUIT);
	assert_int_equal(went, -ENOSPC);
	assert_string_equal(why.msg, "the machine stays with engine fake: no room for vCPU 1");
	assert_ptr_equal(machine->ops, &here);
	state_is_whole();
	nothing_is_left();
}

static void it_can_do_neither(void **state)
{
	assert_int_equal(run(0, 1).end, VM_END_ERROR);
	assert_int_equal(went, -ENOSPC);
	nothing_is_left();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_goes_there),
		cmocka_unit_test(it_stays),
		cmocka_unit_test(it_can_do_neither),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
