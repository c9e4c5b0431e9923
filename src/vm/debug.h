/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What debug.c, which runs and stops the machine for a debugger, and debug_target.c, which lets one look at it and change it, share.
 *
 * Threading: main thread.
 */
#pragma once

#include "gdb/gdb.h"
#include "vm/machine.h"

struct point {
	enum gdb_point kind;
	gva_t gva;
	u64 len;
};

struct debugger {
	struct gdb_target target;
	struct gdb_server *server;
	bool stopped; /* the gate stays closed */
	struct point *points;
	u32 npoints, cap;
	bool changed; /* points are others than the engine was told */
	gva_t *breaks;
	struct x86_watchpoint *watches;
	struct engine_debug *cpu; /* one for each */
};

/* debug.c */
void debug_stop(void *opaque);
void debug_resume(void *opaque, const u8 *actions);
void debug_detach(void *opaque);

/* debug_target.c */
void debug_fill_target(struct vm *vm);
int debug_make_room(struct debugger *d) must_check; /* for more points; -ENOMEM */
