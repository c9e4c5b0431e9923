/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine under a debugger: stopping, going on, and what its vCPUs meet.
 *
 * A stopped machine is one whose gate stays closed and whose clocks stand still: the guest does not notice, however long a person thinks.
 * A vCPU that met a breakpoint asks for the gate itself; the main thread then looks who met what. CPUs that a debugger holds while others
 * run sleep outside the engine.
 *
 * Threading: debug_hit on the vCPU's thread, the rest on the main thread.
 */
#include "vm/debug.h"

#include <errno.h>
#include <stdlib.h>

/* ---- stopping and going on ---- */

bool debug_is_stopped(const struct vm *vm)
{
	return vm->debugger && vm->debugger->stopped;
}

void debug_stop(void *opaque)
{
	struct vm *vm = opaque;

	gate_close(vm);
	lifecycle_stop_clocks(vm);
	if (vm->trace)
		trace_flush(vm->trace);
	vm->debugger->stopped = true;
}

static void go(struct vm *vm)
{
	vm->debugger->stopped = false;
	if (vm->ended)
		return;
	lifecycle_start_clocks(vm);
	gate_open(vm);
}

/* ---- what was met ---- */

void debug_hit(struct vcpu *v)
{
	__atomic_store_n(&v->debug_hit, true, __ATOMIC_RELEASE);
	gate_ask(v->vm);
	evloop_post(v->vm->loop, debug_look, v->vm);
}

static const struct point *breakpoint_at(const struct debugger *d, gva_t gva)
{
	const struct point *found = NULL;

	for (u32 i = 0; i < d->npoints; i++)
		if (d->points[i].kind <= GDB_POINT_HARD && d->points[i].gva == gva && (!found || d->points[i].kind < found->kind))
			found = &d->points[i];
	return found;
}

static enum gdb_point watch_kind(const struct x86_watchpoint *w)
{
	return w->reads ? w->writes ? GDB_POINT_ACCESS : GDB_POINT_READ : GDB_POINT_WRITE;
}

static struct gdb_stop describe(const struct vcpu *v)
{
	const struct debugger *d = v->vm->debugger;
	const struct engine_debug *e = &d->cpu[v->id];
	struct gdb_stop stop = {.cpu = v->id, .signal = GDB_SIGTRAP};
	const struct point *p;

	if (e->hit == HIT_WATCH) {
		stop.at_point = true;
		stop.point = watch_kind(&e->watch.hit);
		stop.gva = e->watch.hit.gva;
	} else if (e->hit == HIT_BREAK && (p = breakpoint_at(d, v->state->rip))) {
		stop.at_point = true;
		stop.point = p->kind;
	}
	return stop;
}

/* One is told at a time. A breakpoint or step that was not told is met again, a watched access would be lost: it stays for the next stop. */
static struct vcpu *first_hit(struct vm *vm)
{
	for (u32 i = 0; i < vm->ncpus; i++)
		if (!vm->vcpus[i].held && __atomic_load_n(&vm->vcpus[i].debug_hit, __ATOMIC_ACQUIRE))
			return &vm->vcpus[i];
	return NULL;
}

static void forget_hit(struct vcpu *v)
{
	struct engine_debug *e = &v->vm->debugger->cpu[v->id];

	v->debug_hit = false;
	e->hit = HIT_NONE;
	e->watch.met = false;
}

static void tell(struct vcpu *v)
{
	const struct gdb_stop why = describe(v);

	forget_hit(v);
	gdb_server_stopped(v->vm->debugger->server, &why);
}

void debug_look(void *opaque)
{
	struct vm *vm = opaque;
	struct vcpu *v;

	if (!vm->debugger || vm->debugger->stopped || vm->ended)
		return;
	gate_close(vm);
	v = first_hit(vm);
	if (!v) {
		gate_open(vm); /* the debugger has gone on, or away, meanwhile */
		return;
	}
	debug_stop(vm);
	tell(v);
}

/* ---- what the engine is told ---- */

static int compare(const void *a, const void *b)
{
	gva_t x = *(const gva_t *)a, y = *(const gva_t *)b;

	return x < y ? -1 : x > y;
}

static u32 list_breaks(struct debugger *d)
{
	u32 n = 0;

	for (u32 i = 0; i < d->npoints; i++)
		if (d->points[i].kind <= GDB_POINT_HARD)
			d->breaks[n++] = d->points[i].gva;
	qsort(d->breaks, n, sizeof(*d->breaks), compare);
	return n;
}

static u32 list_watches(struct debugger *d)
{
	u32 n = 0;

	for (u32 i = 0; i < d->npoints; i++) {
		const struct point *p = &d->points[i];

		if (p->kind > GDB_POINT_HARD)
			d->watches[n++] = (struct x86_watchpoint){p->gva, p->len, p->kind != GDB_POINT_WRITE, p->kind != GDB_POINT_READ};
	}
	return n;
}

static void arm(struct vm *vm, const u8 *actions)
{
	struct debugger *d = vm->debugger;
	u32 nbreaks = list_breaks(d), nwatches = list_watches(d);

	for (u32 i = 0; i < vm->ncpus; i++) {
		struct engine_debug *e = &d->cpu[i];

		e->step = actions[i] == GDB_STEP;
		e->changed = d->changed;
		e->breaks = d->breaks;
		e->nbreaks = nbreaks;
		e->watch.point = d->watches;
		e->watch.n = nwatches;
		vm->ops->vcpu_debug(vm->vcpus[i].engine, e);
		vm->vcpus[i].held = actions[i] == GDB_HOLD;
	}
	d->changed = false;
}

void debug_resume(void *opaque, const u8 *actions)
{
	struct vm *vm = opaque;
	struct debugger *d = vm->debugger;
	struct vcpu *waiting = NULL;

	for (u32 i = 0; i < vm->ncpus; i++) {
		struct vcpu *v = &vm->vcpus[i];

		if (!v->debug_hit || d->cpu[i].hit != HIT_WATCH)
			forget_hit(v);
		else if (actions[i] != GDB_HOLD)
			waiting = v;
	}
	if (waiting) {
		tell(waiting);
		return;
	}
	arm(vm, actions);
	go(vm);
}

void debug_detach(void *opaque)
{
	struct vm *vm = opaque;
	struct debugger *d = vm->debugger;

	gate_close(vm);
	d->npoints = 0;
	d->changed = true;
	for (u32 i = 0; i < vm->ncpus; i++) {
		vm->ops->vcpu_debug(vm->vcpus[i].engine, NULL);
		vm->vcpus[i].held = false;
		forget_hit(&vm->vcpus[i]);
	}
	go(vm);
}

/* ---- creation and end ---- */

int vm_gdb_check(const char *where, struct err *e)
{
	return gdb_address_check(where, e);
}

int debug_create(struct vm *vm, const char *where, bool paused, struct err *e)
{
	struct debugger *d;

	if (!where)
		return 0;
	if (!vm->ops->vcpu_debug)
		return err_set(e, ENOTSUP, "engine %s cannot be debugged; use --engine bt", vm->ops->name);
	d = calloc(1, sizeof(*d));
	if (!d)
		return err_sys(e, ENOMEM, "debugger");
	vm->debugger = d;
	d->stopped = paused;
	d->cpu = calloc(vm->ncpus, sizeof(*d->cpu));
	if (!d->cpu || debug_make_room(d) < 0)
		return err_sys(e, ENOMEM, "debugger");
	debug_fill_target(vm);
	return gdb_server_new(&d->server, vm->loop, where, &d->target, e);
}

void debug_ended(struct vm *vm)
{
	if (vm->debugger)
		gdb_server_exited(vm->debugger->server, vm->result.end == VM_END_POWEROFF || vm->result.end == VM_END_RESET ? 0 : 1);
}

void debug_disconnect(struct vm *vm)
{
	if (!vm->debugger)
		return;
	gdb_server_free(vm->debugger->server);
	vm->debugger->server = NULL;
}

void debug_destroy(struct vm *vm)
{
	struct debugger *d = vm->debugger;

	if (!d)
		return;
	free(d->points);
	free(d->breaks);
	free(d->watches);
	free(d->cpu);
	free(d);
	vm->debugger = NULL;
}
