/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Direct execution: user code that computes for long runs as it is, in a cell (cell.h); what calls the guest's kernel often stays translated, because a
 * way out of a cell costs some ten microseconds.
 *
 * direct_who.c decides who runs where; direct.c gives a cell its turn; direct_state.c carries the CPU's state over and back; direct_hooks.c is
 * what light code sees of it; direct_map.c keeps a cell's address space a subset of what the guest's page tables allow; direct_scan.c finds
 * instructions that would tell user code about the host; direct_compat.c makes selectors mean in a cell what they mean to the guest's 32-bit code.
 *
 * Threading: all of it belongs to its vCPU, as shadow tables do.
 */
#pragma once

#include "engine/bt/bt.h"
#include "engine/bt/cell.h"

#include <sched.h>
#include <ucontext.h>

#define DIRECT_PROCESSES 16 /* whose behaviour is remembered */
#define DIRECT_CELLS 4
#define DIRECT_FORGET 64
#define DIRECT_REGIONS 8192   /* of one cell; when there are more, all is unmapped */
#define DIRECT_MAPPINGS 30000 /* the same; vm.max_map_count is 65,530 */
#define DIRECT_WAITING 64     /* pages that wait for breakpoints */
#define DIRECT_PATIENCE 64
#define REGION_PAGES 512
#define REGION_HASH 256

enum { HOW_READ = 1, HOW_WRITE = 2, HOW_EXEC = 4 };

/* 2 MiB of a cell. */
struct direct_region {
	struct direct_region *next;
	u64 number; /* gva >> 21 */
	u32 npages;
	bool large; /* some came from a large page, and go together */
	u32 frame[REGION_PAGES];
	u8 how[REGION_PAGES]; /* HOW_ bits, 0 = not mapped */
};

/* What a cell has mapped. */
struct direct_map {
	struct bt_cell *cell;
	struct direct_region *hash[REGION_HASH];
	u32 nregions;
	u64 npages;
	u32 ncalls;  /* that mapped something, since all was unmapped */
	bool compat; /* what is executable was searched as 32-bit code */
	bool stale;  /* the guest has flushed: look at every page before the next use */
	bool again;  /* the last page that was missing had been mapped before */
	u32 nwatches;
	gva_t watch[CELL_WATCHES]; /* breakpoints, in pages that are or were executed */
	struct {
		gva_t page;
		u32 visits;
	} waiting[DIRECT_WAITING]; /* pages that were not executed for want of breakpoints, and how often since */
	u32 not_near;		   /* so often yet, do not hope that the code comes back to such a page soon */
	u32 nforget;
	gva_t forget[DIRECT_FORGET]; /* invalidated one by one */
	struct {
		u64 gva, len, offset;
		u8 how;
	} run; /* pages to be mapped with one call */
	struct {
		bool some;
		gva_t gva;
		u32 acc;
	} awaited; /* the access for which the guest's kernel has got a page fault */
};

/* A guest process, known by its page table. */
struct direct_process {
	u64 cr3;
	u64 stamp;
	bool on[2]; /* [1]: its 32-bit code */
	u32 good;   /* samples in a row that speak for direct execution */
	u32 steady; /* and those of them that found no new code */
	bool paid;  /* its cell has: one good sample will do */
	u64 sampled_at, crossings, blocks;
	u64 stack_entry; /* of its page table */
	u64 not_before;	 /* ns */
	u64 holdoff;	 /* ns */
	struct {
		u64 exits, runs;
		u64 wall_ns, wall_ticks; /* it ran, prepared to run, or waited for a CPU; ticks are those of the host's TSC */
		u64 guest_ticks;	 /* of these the guest's code had, ways in and out included */
		u64 cpu_at;		 /* its CPU time (ns) at the start */
	} trial;			 /* of the cell */
	struct direct_map *map;
	u16 pcid;
};

/* What the host's CPU makes of instructions that tell about it. */
struct direct_host {
	bool sysenter;	/* works in 64-bit and 32-bit code */
	bool syscall32; /* SYSCALL works in 32-bit code */
	u64 xcr0;
	u32 mxcsr_mask;
};

struct bt_direct {
	struct direct_host host;
	struct direct_process process[DIRECT_PROCESSES];
	struct direct_process *now; /* NULL: not known */
	u32 ncells;
	u64 stamp;
	bool refused;	 /* this host does not let us */
	bool no_watches; /* nor set breakpoints */
	bool int1_stays; /* the host's INT1 leaves rip where it is */
	bool no_compat;	 /* nor run 32-bit code */
	bool no_tls;	 /* nor give it segments of its own */
	bool pinned;
	u64 pinned_at; /* ns */
	int cpu;
	cpu_set_t allowed; /* where the vCPU's thread may run otherwise */
	bool tsc;	   /* pages with RDTSC may be or have been mapped: the guest's clock was the host's */
};

/* The guest's TSC is the host's. */
static inline bool direct_tsc(const struct bt_vcpu *v)
{
	return v->tsc_offset + v->cpu.tsc_offset == 0;
}

static inline u64 direct_table(const struct bt_vcpu *v)
{
	return v->cpu.cr3 & 0x000ffffffffff000ull;
}

/* What the page table's last entry for programs leads to, where their stacks are. The table of a process that has ended is another one's soon, and then
 * this differs. */
static inline u64 direct_stack_entry(struct bt_vcpu *v)
{
	const u8 *table = v->env.ram(v, direct_table(v), false);
	return table ? ((const u64 *)table)[255] & 0x000ffffffffff000ull : 0;
}

/* ---- direct_who.c */
u64 direct_now(void); /* ns */
u16 direct_pcid(const struct bt_vcpu *v);
struct direct_process *direct_this_process(struct bt_vcpu *v);
void direct_turn_on(struct bt_vcpu *v, struct direct_process *p, bool compat);
void direct_turn_off(struct bt_vcpu *v, struct direct_process *p, u64 ns); /* for so long at least */
u64 direct_holdoff(struct direct_process *p, u64 max);			   /* ns, longer each time */
void direct_give_up_map(struct bt_direct *d, struct direct_process *p);
/* Ways out that translated code would not have needed. After enough of them the cell is judged, which may turn it off. */
void direct_count_exits(struct bt_vcpu *v, struct direct_process *p, u64 n);

/* ---- direct_state.c */
ucontext_t *direct_frame(const struct bt_cell *c);
void direct_load(const struct bt_vcpu *v, struct bt_cell *c);
void direct_save(struct bt_vcpu *v, const struct bt_cell *c);

/* ---- direct_map.c */
struct direct_map *direct_map_new(struct bt_cell *c);
void direct_map_free(struct direct_map *m);
/* Map the page of gva, and neighbours, as far as guest page tables with their accessed and dirty bits allow. False: not this access. */
bool direct_map_page(struct bt_vcpu *v, struct direct_map *m, gva_t gva, u32 acc);
/* A failed call or too much to keep: unmap everything, to begin anew. True when that was necessary. */
bool direct_map_recover(struct direct_map *m);
/* The page was refused not long ago, and would be again. */
bool direct_map_refuses(struct direct_map *m, gva_t gva);
#define ANY_FRAME (~0ull)
void direct_map_unframe(struct direct_map *m, u64 gpfn, u8 how); /* take these rights to the frame away */
void direct_map_settle(struct bt_vcpu *v, struct direct_map *m); /* carry out what was noted meanwhile */

const u8 *direct_peek(struct bt_vcpu *v, gva_t gva); /* the bytes of a page that is mapped, accessed yet or not; else NULL */

/* ---- direct_compat.c */
/* Let the cell's thread-local segments be what stands in the guest's GDT. False: what they are is not known now. */
bool direct_compat_mirror(struct bt_vcpu *v, struct bt_cell *c);
/* After that: do all selectors stand for the same here and there? */
bool direct_compat_same(struct bt_vcpu *v, const struct bt_cell *c);

/* ---- direct_scan.c */
/* Where breakpoints would have to be, counted from the start of the page; negative: in the page before. */
struct direct_sites {
	u32 n; /* or TOO_MANY_SITES */
	i32 at[CELL_WATCHES];
};
#define TOO_MANY_SITES (CELL_WATCHES + 1)
/* FRAME_: may this page be executed? before, behind: the pages on both sides, NULL when they are not mapped. */
enum { SCAN_COMPAT = 1 /* as 32-bit code */, SCAN_TSC = 2 /* RDTSC needs no breakpoints */ };
u8 direct_scan(const struct direct_host *host, u32 how, const u8 *page, const u8 *before, const u8 *behind, struct direct_sites *sites);
