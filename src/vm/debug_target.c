/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stopped machine in a debugger's hands: its breakpoints and watchpoints, registers and memory, and what "monitor" does.
 *
 * Threading: main thread, every vCPU parked.
 */
#include "vm/debug.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define POINTS_MAX 65536u

/* ---- points ---- */

static u32 find_point(const struct debugger *d, enum gdb_point kind, gva_t gva, u64 len)
{
	u32 i = 0;

	while (i < d->npoints && !(d->points[i].kind == kind && d->points[i].gva == gva && d->points[i].len == len))
		i++;
	return i;
}

/* The three arrays grow together, while no engine looks at them: arm tells it where they are now. */
int debug_make_room(struct debugger *d)
{
	u32 cap = d->cap ? d->cap * 2 : 16;
	struct x86_watchpoint *watches = realloc(d->watches, cap * sizeof(*watches));
	gva_t *breaks = realloc(d->breaks, cap * sizeof(*breaks));
	struct point *points = realloc(d->points, cap * sizeof(*points));

	d->watches = watches ? watches : d->watches;
	d->breaks = breaks ? breaks : d->breaks;
	d->points = points ? points : d->points;
	if (!watches || !breaks || !points)
		return -ENOMEM;
	d->cap = cap;
	return 0;
}

static int insert(void *opaque, enum gdb_point kind, gva_t gva, u64 len)
{
	struct vm *vm = opaque;
	struct debugger *d = vm->debugger;

	if (find_point(d, kind, gva, len) < d->npoints)
		return 0;
	if (d->npoints == POINTS_MAX)
		return -ENOSPC;
	if (d->npoints == d->cap && debug_make_room(d) < 0)
		return -ENOMEM;
	d->points[d->npoints++] = (struct point){kind, gva, len};
	d->changed = true;
	return 0;
}

static int remove_point(void *opaque, enum gdb_point kind, gva_t gva, u64 len)
{
	struct vm *vm = opaque;
	struct debugger *d = vm->debugger;
	u32 i = find_point(d, kind, gva, len);

	if (i == d->npoints)
		return 0;
	d->points[i] = d->points[--d->npoints];
	d->changed = true;
	return 0;
}

/* ---- registers and memory ---- */

static struct x86_cpu *cpu_state(void *opaque, u32 cpu)
{
	struct vm *vm = opaque;

	return vm->vcpus[cpu].state;
}

static u64 cr8(void *opaque, u32 cpu)
{
	struct vm *vm = opaque;

	return lapic_get_tpr(vm->lapic, cpu);
}

static void set_cr8(void *opaque, u32 cpu, u64 value)
{
	struct vm *vm = opaque;

	lapic_set_tpr(vm->lapic, cpu, value);
}

static void changed(void *opaque, u32 cpu)
{
	struct vm *vm = opaque;

	__atomic_or_fetch(&vm->vcpus[cpu].events, EV_SYNC, __ATOMIC_SEQ_CST);
}

/* Whatever is mapped, a debugger may see and change, whoever's it is. Nothing is marked as accessed. */
static bool locate(struct vm *vm, u32 cpu, gva_t gva, gpa_t *gpa)
{
	struct x86_cpu *c = vm->vcpus[cpu].state;
	struct x86_xlat x;

	if (!x86_probe(c, gva, ACC_READ, &x) && !x86_probe(c, gva, ACC_READ | ACC_USER, &x))
		return false;
	*gpa = x.gpa;
	return true;
}

/* The part of [gva, gva+len) that lies in gva's page. */
static u32 part_in_page(gva_t gva, u32 len)
{
	u32 room = (u32)PAGE_SIZE - PAGE_OFFSET(gva);

	return len < room ? len : room;
}

static bool read_memory(void *opaque, u32 cpu, gva_t gva, void *buf, u32 len)
{
	struct vm *vm = opaque;
	u8 *to = buf;
	gpa_t gpa;

	for (u32 part; len; gva += part, to += part, len -= part) {
		part = part_in_page(gva, len);
		if (!locate(vm, cpu, gva, &gpa) || !gm_read(&vm->mem, gpa, to, part))
			return false;
	}
	return true;
}

static bool is_writable(struct vm *vm, u32 cpu, gva_t gva, u32 len)
{
	struct iovec iov[2];
	gpa_t gpa;

	for (u32 part; len; gva += part, len -= part) {
		part = part_in_page(gva, len);
		if (!locate(vm, cpu, gva, &gpa) || gm_iov(&vm->mem, gpa, part, true, iov, 2) < 0)
			return false;
	}
	return true;
}

/* gm_write tells the engine, which drops translations of what was there. */
static bool write_memory(void *opaque, u32 cpu, gva_t gva, const void *buf, u32 len)
{
	struct vm *vm = opaque;
	const u8 *from = buf;
	gpa_t gpa;

	if (!is_writable(vm, cpu, gva, len))
		return false;
	for (u32 part; len; gva += part, from += part, len -= part) {
		part = part_in_page(gva, len);
		if (!locate(vm, cpu, gva, &gpa) || !gm_write(&vm->mem, gpa, from, part))
			return false;
	}
	return true;
}

static bool read_physical(void *opaque, gpa_t gpa, void *buf, u32 len)
{
	struct vm *vm = opaque;

	return gm_read(&vm->mem, gpa, buf, len);
}

static bool write_physical(void *opaque, gpa_t gpa, const void *buf, u32 len)
{
	struct vm *vm = opaque;

	return gm_write(&vm->mem, gpa, buf, len);
}

/* ---- monitor ---- */

static void reset_machine(void *opaque)
{
	struct vm *vm = opaque;

	gate_close(vm);
	lifecycle_reset(vm);
}

static const char *mode_name(const struct x86_cpu *c)
{
	if (x86_code64(c))
		return "64-bit";
	if (x86_real_or_v86(c))
		return "16-bit";
	return c->seg[SEG_CS].attr & SEGA_DB ? "32-bit" : "16-bit protected";
}

static void info(void *opaque, char *text, size_t size)
{
	struct vm *vm = opaque;
	size_t at = (size_t)snprintf(text, size, "%s\nmemory %llu MiB, %u points set\n", vm->engine_line,
				     (unsigned long long)(vm->mem.size / MiB), vm->debugger->npoints);

	for (u32 i = 0; i < vm->ncpus && at < size; i++) {
		const struct x86_cpu *c = vm->vcpus[i].state;

		at += (size_t)snprintf(text + at, size - at, "CPU %u: %s, ring %u, rip %#llx, cr3 %#llx%s\n", i, mode_name(c), x86_cpl(c),
				       (unsigned long long)c->rip, (unsigned long long)c->cr3,
				       c->wait_for_sipi ? ", waits to be started"
				       : c->halted	? ", halted"
							: "");
	}
}

static void quit(void *opaque)
{
	lifecycle_ask(opaque, ASK_QUIT);
}

/* ---- the table ---- */

void debug_fill_target(struct vm *vm)
{
	vm->debugger->target = (struct gdb_target){
		.opaque = vm,
		.ncpus = vm->ncpus,
		.cpuid = &vm->cpuid,
		.cpu = cpu_state,
		.cr8 = cr8,
		.set_cr8 = set_cr8,
		.changed = changed,
		.read = read_memory,
		.write = write_memory,
		.read_physical = read_physical,
		.write_physical = write_physical,
		.insert = insert,
		.remove = remove_point,
		.stop = debug_stop,
		.resume = debug_resume,
		.detach = debug_detach,
		.reset = reset_machine,
		.quit = quit,
		.info = info,
	};
}
