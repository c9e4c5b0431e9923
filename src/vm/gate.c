/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gate between the main thread and the vCPUs. Closed, it lets no vCPU into guest code; the main thread then owns devices and CPU state.
 *
 * Threading: `closed` is written under the lock and read without it at each turn of a vCPU's loop. Closing comes before the wake-up, and a
 * vCPU that goes to sleep looks at `closed` after it has announced its sleep, so none is missed.
 */
#include "vm/machine.h"

void gate_init(struct gate *g)
{
	pthread_mutex_init(&g->lock, NULL);
	pthread_cond_init(&g->all_parked, NULL);
	pthread_cond_init(&g->go, NULL);
	g->closed = 1;
}

void gate_destroy(struct gate *g)
{
	pthread_cond_destroy(&g->go);
	pthread_cond_destroy(&g->all_parked);
	pthread_mutex_destroy(&g->lock);
}

void gate_ask(struct vm *vm)
{
	__atomic_store_n(&vm->gate.closed, 1, __ATOMIC_SEQ_CST);
	for (u32 i = 0; i < vm->nthreads; i++)
		vcpu_wake(&vm->vcpus[i]);
}

void gate_close(struct vm *vm)
{
	struct gate *g = &vm->gate;

	gate_ask(vm);
	pthread_mutex_lock(&g->lock);
	while (g->parked < vm->nthreads)
		pthread_cond_wait(&g->all_parked, &g->lock);
	pthread_mutex_unlock(&g->lock);
}

/* No vCPU runs before the state of all is where it belongs: one could send another an INIT that is then forgotten. */
void gate_open(struct vm *vm)
{
	struct gate *g = &vm->gate;

	if (vm->ops->apic)
		gate_errand(vm, vcpu_settle);
	pthread_mutex_lock(&g->lock);
	__atomic_store_n(&g->closed, 0, __ATOMIC_SEQ_CST);
	pthread_cond_broadcast(&g->go);
	pthread_mutex_unlock(&g->lock);
}

/* Under the lock, which the errand does without. */
static void run_errand(struct gate *g, struct vcpu *v)
{
	pthread_mutex_unlock(&g->lock);
	v->errand(v);
	pthread_mutex_lock(&g->lock);
	v->errand = NULL;
	pthread_cond_signal(&g->all_parked);
}

static bool errands_left(const struct vm *vm)
{
	for (u32 i = 0; i < vm->nthreads; i++)
		if (vm->vcpus[i].errand)
			return true;
	return false;
}

void gate_errand(struct vm *vm, void (*fn)(struct vcpu *v))
{
	struct gate *g = &vm->gate;

	pthread_mutex_lock(&g->lock);
	for (u32 i = 0; i < vm->nthreads; i++)
		vm->vcpus[i].errand = fn;
	pthread_cond_broadcast(&g->go);
	while (errands_left(vm))
		pthread_cond_wait(&g->all_parked, &g->lock);
	pthread_mutex_unlock(&g->lock);
}

bool gate_pass(struct vcpu *v)
{
	struct gate *g = &v->vm->gate;
	bool quit;

	pthread_mutex_lock(&g->lock);
	g->parked++;
	pthread_cond_signal(&g->all_parked);
	while (gate_is_closed(v->vm) && !g->quit) {
		if (v->errand)
			run_errand(g, v);
		else
			pthread_cond_wait(&g->go, &g->lock);
	}
	g->parked--;
	quit = g->quit;
	pthread_mutex_unlock(&g->lock);
	return !quit;
}
