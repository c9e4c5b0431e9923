/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A server of GDB's remote serial protocol for a machine of x86-64 CPUs. It knows the architecture's state, not the machine: what it may do
 * with one is the table of functions in struct gdb_target.
 *
 * One debugger at a time; a second connection is closed at once. The machine stops when a debugger connects, and goes on without
 * breakpoints when it leaves, in whatever way. A debugger is trusted with the guest and can do there what it likes; malformed packets
 * are answered with an error.
 *
 * Threading: everything on the event loop's thread, the target's functions included.
 */
#pragma once

#include "base/err.h"
#include "base/evloop.h"
#include "x86/rules.h"

enum gdb_action { GDB_HOLD, GDB_RUN, GDB_STEP }; /* HOLD: this CPU stays where it is while others run */

enum gdb_point { GDB_POINT_SOFT, GDB_POINT_HARD, GDB_POINT_WRITE, GDB_POINT_READ, GDB_POINT_ACCESS, GDB_POINTS }; /* as in Z0 to Z4 */

struct gdb_stop {
	u32 cpu;
	u8 signal; /* GDB's number */
	bool at_point;
	enum gdb_point point; /* with at_point */
	gva_t gva;	      /* of the watchpoint */
};

#define GDB_SIGINT 2
#define GDB_SIGTRAP 5

struct gdb_target {
	void *opaque;
	u32 ncpus;
	const struct x86_cpuid *cpuid;

	/* The machine is stopped whenever one of these is called. */
	struct x86_cpu *(*cpu)(void *opaque, u32 cpu);
	u64 (*cr8)(void *opaque, u32 cpu);
	void (*set_cr8)(void *opaque, u32 cpu, u64 value);
	void (*changed)(void *opaque, u32 cpu); /* registers were written, perhaps those that the CPU's mode follows from */
	/* By virtual address, as this CPU's page tables map it. Nothing moves unless all of it can. */
	bool (*read)(void *opaque, u32 cpu, gva_t gva, void *buf, u32 len);
	bool (*write)(void *opaque, u32 cpu, gva_t gva, const void *buf, u32 len);
	/* By physical address, RAM alone: a device is not touched, since reading one may change it. */
	bool (*read_physical)(void *opaque, gpa_t gpa, void *buf, u32 len);
	bool (*write_physical)(void *opaque, gpa_t gpa, const void *buf, u32 len);
	/* 0 or -errno. What is there already is there once; what is not there is removed without complaint. */
	int (*insert)(void *opaque, enum gdb_point point, gva_t gva, u64 len);
	int (*remove)(void *opaque, enum gdb_point point, gva_t gva, u64 len);
	void (*resume)(void *opaque, const u8 *actions); /* one enum gdb_action a CPU; gdb_server_stopped follows, perhaps at once */
	void (*reset)(void *opaque);			 /* stays stopped */
	void (*info)(void *opaque, char *text, size_t size);

	/* At any time. */
	void (*stop)(void *opaque);   /* when it returns, nothing runs, and nothing is reported */
	void (*detach)(void *opaque); /* no breakpoint is left, everything runs */
	void (*quit)(void *opaque);   /* end the machine, soon */
};

/* Can this be a value of gdb_server_new's `where`: "tcp:PORT", "tcp:ADDRESS:PORT", "unix:PATH"? */
int gdb_address_check(const char *where, struct err *e) must_check;

struct gdb_server;
int gdb_server_new(struct gdb_server **out, struct evloop *loop, const char *where, const struct gdb_target *target,
		   struct err *e) must_check;
void gdb_server_free(struct gdb_server *s); /* NULL is allowed; calls no function of the target */

/* The machine has stopped by itself after resume. */
void gdb_server_stopped(struct gdb_server *s, const struct gdb_stop *stop);
/* The machine has ended; the last thing that a debugger hears. */
void gdb_server_exited(struct gdb_server *s, u8 status);
